package source

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"lethe/pipeline/sqlstate"
	"lethe/scrub/catalog"
)

// lockBatch is how many tables one LOCK TABLE names.
const lockBatch = 500

// listed is what the server's catalog says about one table.
type listed struct {
	oid           uint32
	name          catalog.Name
	kind          string // r, p
	unlogged      bool
	extension     bool   // a configuration table of an extension
	condition     string // of such a table
	readable      bool
	hidden        bool // row-level security would hide rows
	heap          bool
	fingerprint   string // everything above and the file's number: differs after TRUNCATE, rewrite, rename …
	columns       []string
	references    []uint32 // of an extension's table: the tables its foreign keys name
	bytes, blocks int64    // filled in under the view
}

// listTables lists every table that pg_dump would lock or dump the rows of: its own tables, plain and partitioned, but
// not those that belong to an extension, unless the extension registered them as configuration.
func listTables(ctx context.Context, conn *pgconn.PgConn) (map[uint32]*listed, error) {
	r, err := rows(ctx, conn, `
SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence = 'u', x.extcondition IS NOT NULL, x.extcondition,
       pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
       c.relkind = 'r' AND pg_catalog.row_security_active(c.oid), c.relam = 2,
       c.relfilenode, c.relnatts, c.relispartition, c.relhassubclass
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN (
	SELECT u.oid, max(coalesce(u.condition, '')) AS extcondition
	FROM pg_catalog.pg_extension e, unnest(e.extconfig, e.extcondition) AS u(oid, condition)
	GROUP BY u.oid
) x ON x.oid = c.oid
WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND (x.oid IS NOT NULL
       OR n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                          WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.objsubid = 0
                            AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'))
ORDER BY c.oid`)
	if err != nil {
		return nil, &Error{Op: "list the tables", Err: err}
	}
	out := make(map[uint32]*listed, len(r))
	for _, f := range r {
		oid, err := parseOID(f[0])
		if err != nil {
			return nil, &Error{Op: "list the tables", Err: err}
		}
		out[oid] = &listed{oid: oid, name: catalog.Name{Schema: f[1], Name: f[2]}, kind: f[3], unlogged: f[4] == "t", extension: f[5] == "t", condition: f[6],
			readable: f[7] == "t", hidden: f[8] == "t", heap: f[9] == "t", fingerprint: strings.Join(f, "\x00")}
	}
	return out, nil
}

func parseOID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("the server printed %q for an oid", s)
	}
	return uint32(n), nil
}

// changed names a table that two lists do not agree about.
func changed(before, after map[uint32]*listed) (name catalog.Name, differs bool) {
	for _, oid := range slices.Sorted(maps.Keys(after)) {
		if b := before[oid]; b == nil || b.fingerprint != after[oid].fingerprint {
			return after[oid].name, true
		}
	}
	for _, oid := range slices.Sorted(maps.Keys(before)) {
		if after[oid] == nil {
			return before[oid].name, true
		}
	}
	return catalog.Name{}, false
}

// visible makes sure that the role can read every row of every table.
func visible(tables map[uint32]*listed, user string) error {
	var hidden, unreadable []string
	for _, oid := range slices.Sorted(maps.Keys(tables)) {
		t := tables[oid]
		if !t.readable {
			unreadable = append(unreadable, t.name.String())
		} else if t.hidden {
			hidden = append(hidden, t.name.String())
		}
	}
	if len(unreadable) > 0 {
		return unprivileged(few(unreadable), user)
	}
	if len(hidden) > 0 {
		role := catalog.QuoteIfNeeded(user)
		return &Error{Op: "read", Table: few(hidden), Err: fmt.Errorf("row-level security would hide rows from role %s", role),
			Help: "ALTER ROLE " + role + " BYPASSRLS"}
	}
	return nil
}

// unprivileged says which privileges a role lacks to read something.
func unprivileged(what, user string) error {
	role := catalog.QuoteIfNeeded(user)
	return &Error{Op: "read", Table: what, Err: fmt.Errorf("role %s has no SELECT privilege on it, or no USAGE on its schema", role),
		Help: "GRANT pg_read_all_data TO " + role + "; before PostgreSQL 14, GRANT SELECT on each table and sequence and USAGE on their schemas"}
}

// few joins the first names and counts the rest.
func few(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// lockTables locks all tables in ACCESS SHARE. LOCK TABLE takes no snapshot, so that the one exported afterwards sees
// everything committed before the locks were granted.
func lockTables(ctx context.Context, conn *pgconn.PgConn, tables map[uint32]*listed) error {
	const op = "lock the tables"
	for batch := range slices.Chunk(slices.Sorted(maps.Keys(tables)), lockBatch) {
		names := make([]string, len(batch))
		for i, oid := range batch {
			names[i] = "ONLY " + tables[oid].name.SQL()
		}
		_, err := rows(ctx, conn, "LOCK TABLE "+strings.Join(names, ", ")+" IN ACCESS SHARE MODE")
		switch {
		case err == nil:
		case locked(err), sqlstate.Of(err) == sqlstate.UndefinedTable, sqlstate.Of(err) == sqlstate.InvalidSchemaName:
			return &Error{Op: op, Retry: true, Err: err, Help: "a schema change is under way; try again when it is done"}
		case sqlstate.Of(err) == sqlstate.OutOfMemory:
			return &Error{Op: fmt.Sprintf("lock %d tables", len(tables)), Err: err,
				Help: fmt.Sprintf("raise max_locks_per_transaction in postgresql.conf (for %d tables, to 256 or more) and restart the server", len(tables))}
		default:
			return &Error{Op: op, Err: err}
		}
	}
	return nil
}

// obstacle says who holds or awaits an exclusive lock on one of the tables, or "" when nobody does (any more).
func obstacle(ctx context.Context, conn *pgconn.PgConn, tables map[uint32]*listed) (table, who string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := rows(ctx, conn, `
SELECT l.relation, l.pid, l.granted, coalesce(a.application_name, '')
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
ORDER BY l.granted DESC, l.pid`)
	if err != nil {
		return "", "" // it only serves the message
	}
	for _, f := range r {
		oid, err := parseOID(f[0])
		if err != nil || tables[oid] == nil {
			continue
		}
		does := "waits for"
		if f[2] == "t" {
			does = "holds"
		}
		who = fmt.Sprintf("pid %s %s an exclusive lock on it", f[1], does)
		if f[3] != "" {
			who = fmt.Sprintf("pid %s (application %s) %s an exclusive lock on it", f[1], f[3], does)
		}
		return tables[oid].name.String(), who
	}
	return "", ""
}

// guard lets go of the view as soon as somebody has waited half a lock timeout for a table that we hold: behind an
// ALTER TABLE that waits for us, the application waits too. It returns when ctx ends.
func guard(ctx context.Context, conn *pgconn.PgConn, tables map[uint32]*listed, timeout time.Duration, letGo func(error)) {
	period := max(20*time.Millisecond, timeout/4)
	type waiter struct{ pid, oid string }
	since := map[waiter]time.Time{}
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		began := time.Now()
		r, err := rows(ctx, conn, `
SELECT l.pid, l.relation, coalesce(a.application_name, '')
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE NOT l.granted AND l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())`)
		if err != nil {
			letGo(&Error{Op: "watch the locks", Err: err})
			return
		}
		now := time.Now()
		seen := map[waiter]time.Time{}
		for _, f := range r {
			oid, err := parseOID(f[1])
			if err != nil || tables[oid] == nil {
				continue
			}
			w := waiter{f[0], f[1]}
			seen[w] = now
			if first, ok := since[w]; ok {
				seen[w] = first
			}
			if now.Sub(seen[w]) >= timeout/2 {
				letGo(&Error{Op: "hold", Table: tables[oid].name.String(), Retry: true,
					Err:  fmt.Errorf("pid %s (application %s) waits for an exclusive lock on it, and the application behind that", f[0], f[2]),
					Help: "back up again when the schema change is done; Lethe let go of its locks so as not to hold it up"})
				return
			}
		}
		since = seen
		// A server with very many locks takes a while to list them: never spend more than a twentieth of the time on it.
		ticker.Reset(max(period, 20*now.Sub(began)))
	}
}
