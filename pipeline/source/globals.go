package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"lethe/pipeline/sqlstate"
	"lethe/scrub/catalog"
)

// describe fills in what the manifest says about the database.
func (s *Snapshot) describe(ctx context.Context) error {
	const op = "read the database's properties"
	provider, locale := "'c'", "''"
	switch {
	case s.at.version >= 170000:
		provider, locale = "d.datlocprovider", "coalesce(d.datlocale, '')"
	case s.at.version >= 150000:
		provider, locale = "d.datlocprovider", "coalesce(d.daticulocale, '')"
	}
	r, err := s.query(ctx, op, `SELECT d.datname, d.datcollate, d.datctype, `+provider+`, `+locale+`,
		coalesce(pg_catalog.shobj_description(d.oid, 'pg_database'), ''), pg_catalog.pg_is_in_recovery(),
		pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE'),
		pg_catalog.has_function_privilege('pg_catalog.pg_control_checkpoint()', 'EXECUTE')
		FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()`)
	if err != nil {
		return err
	}
	if len(r) != 1 {
		return &Error{Op: op, Err: errors.New("the database does not find itself in pg_database")}
	}
	f := r[0]
	s.Info.Database, s.Info.Collate, s.Info.CType, s.Info.LocaleProvider, s.Info.ICULocale, s.Info.Comment = f[0], f[1], f[2], f[3], f[4], f[5]
	s.standby = f[6] == "t"

	lsn := "pg_catalog.pg_current_wal_lsn()"
	if s.standby {
		lsn = "pg_catalog.pg_last_wal_replay_lsn()"
	}
	for _, q := range []struct {
		into *string
		ask  string
		may  bool
	}{
		{&s.Info.SystemID, "SELECT system_identifier FROM pg_catalog.pg_control_system()", f[7] == "t"},
		{&s.Info.Timeline, "SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()", f[8] == "t"},
		{&s.Info.LSN, "SELECT " + lsn, true},
	} {
		if !q.may {
			continue
		}
		r, err := s.query(ctx, op, q.ask)
		if sqlstate.Of(err) == sqlstate.InsufficientPrivilege || strings.HasPrefix(sqlstate.Of(err), "0A") {
			continue // managed services refuse some of these: the manifest does without
		}
		if err != nil {
			return err
		}
		*q.into = r[0][0]
	}

	r, err = s.query(ctx, op, `SELECT coalesce(a.rolname, ''), c.setting
		FROM pg_catalog.pg_db_role_setting s
		JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase AND d.datname = pg_catalog.current_database()
		LEFT JOIN pg_catalog.pg_roles a ON a.oid = s.setrole
		CROSS JOIN unnest(s.setconfig) WITH ORDINALITY AS c(setting, position)
		WHERE s.setrole = 0 OR a.oid IS NOT NULL
		ORDER BY 1, c.position`)
	if err != nil {
		return err
	}
	for _, f := range r {
		name, value, _ := strings.Cut(f[1], "=")
		s.Info.Settings = append(s.Info.Settings, Setting{Role: f[0], Name: name, Value: value})
	}
	return nil
}

// Role is a role that the database uses, without its password, its connection limit and its expiry.
type Role struct {
	Name       string
	Attributes []string // as CREATE ROLE spells them, only those that differ from its defaults: LOGIN, SUPERUSER, NOINHERIT …
	MemberOf   []string // among the roles asked for
}

// Roles returns what makes the named roles and the memberships among them, as SQL text in which each statement is on a
// line of its own and does nothing where the role or membership exists already. PUBLIC and PostgreSQL's own pg_* roles
// are left out, and so are memberships in roles that were not asked for.
func (s *Snapshot) Roles(ctx context.Context, names []string) (sql string, roles []Role, err error) {
	const op = "read the roles"
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "" || n == "public" || strings.HasPrefix(n, "pg_") })
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 {
		return "", nil, nil
	}
	list := make([]string, len(names))
	for i, n := range names {
		list[i] = catalog.Literal(n)
	}
	in := "(" + strings.Join(list, ", ") + ")"

	r, err := s.query(ctx, op, `SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls
		FROM pg_catalog.pg_roles WHERE rolname IN `+in+` ORDER BY rolname COLLATE "C"`)
	if err != nil {
		return "", nil, err
	}
	at := map[string]int{}
	var text strings.Builder
	for _, f := range r {
		role := Role{Name: f[0]}
		for i, a := range []struct{ differs, word string }{{"t", "SUPERUSER"}, {"f", "NOINHERIT"}, {"t", "CREATEROLE"}, {"t", "CREATEDB"}, {"t", "LOGIN"}, {"t", "REPLICATION"}, {"t", "BYPASSRLS"}} {
			if f[i+1] == a.differs {
				role.Attributes = append(role.Attributes, a.word)
			}
		}
		at[role.Name] = len(roles)
		roles = append(roles, role)
		create := "CREATE ROLE " + catalog.Quote(role.Name)
		if len(role.Attributes) > 0 {
			create += " WITH " + strings.Join(role.Attributes, " ")
		}
		text.WriteString(unless("SELECT FROM pg_catalog.pg_roles WHERE rolname = "+catalog.Literal(role.Name), create))
	}
	for _, n := range names {
		if _, ok := at[n]; !ok {
			return "", nil, &Error{Op: op, Err: fmt.Errorf("the server has no role %s, which the schema names", catalog.QuoteIfNeeded(n))}
		}
	}

	options := "u.rolinherit, true"
	if s.at.version >= 160000 { // several grantors may have granted the same; the options add up
		options = "bool_or(m.inherit_option), bool_or(m.set_option)"
	}
	r, err = s.query(ctx, op, `SELECT p.rolname, u.rolname, bool_or(m.admin_option), u.rolinherit, `+options+`
		FROM pg_catalog.pg_auth_members m
		JOIN pg_catalog.pg_roles p ON p.oid = m.roleid
		JOIN pg_catalog.pg_roles u ON u.oid = m.member
		WHERE p.rolname IN `+in+` AND u.rolname IN `+in+`
		GROUP BY p.rolname, u.rolname, u.rolinherit ORDER BY p.rolname COLLATE "C", u.rolname COLLATE "C"`)
	if err != nil {
		return "", nil, err
	}
	for _, f := range r {
		parent, member := f[0], f[1]
		i := at[member]
		roles[i].MemberOf = append(roles[i].MemberOf, parent)
		var with []string
		if f[2] == "t" {
			with = append(with, "ADMIN OPTION")
		}
		grant := "GRANT " + catalog.Quote(parent) + " TO " + catalog.Quote(member)
		if f[4] != f[3] || f[5] != "t" {
			// Only PostgreSQL 16 and later can say that, and only there can it be so.
			with = []string{"ADMIN " + onOff(f[2]), "INHERIT " + onOff(f[4]), "SET " + onOff(f[5])}
		}
		if len(with) > 0 {
			grant += " WITH " + strings.Join(with, ", ")
		}
		text.WriteString(unless("SELECT FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles p ON p.oid = m.roleid JOIN pg_catalog.pg_roles u ON u.oid = m.member WHERE p.rolname = "+
			catalog.Literal(parent)+" AND u.rolname = "+catalog.Literal(member), grant))
	}
	return text.String(), roles, nil
}

func onOff(v string) string {
	if v == "t" {
		return "TRUE"
	}
	return "FALSE"
}

// unless is a statement that does nothing where the query finds a row.
func unless(query, statement string) string {
	body := " BEGIN IF NOT EXISTS (" + query + ") THEN " + statement + "; END IF; END "
	tag := "$lethe$"
	for i := 0; strings.Contains(body, tag); i++ {
		tag = fmt.Sprintf("$lethe%d$", i)
	}
	return "DO " + tag + body + tag + ";\n"
}

// listSequences lists the sequences that pg_dump would set, quoted, and makes sure that the role may read them:
// pg_dump does so too, even where it prints no values.
func (s *Snapshot) listSequences(ctx context.Context, conn *pgconn.PgConn) error {
	const op = "list the sequences"
	r, err := rows(ctx, conn, `
SELECT n.nspname, c.relname, pg_catalog.has_sequence_privilege(c.oid, 'SELECT') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
       c.relpersistence = 'u' AND pg_catalog.pg_is_in_recovery()
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND c.relpersistence <> 't'
  AND (EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE c.oid = ANY (e.extconfig))
       OR n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                          WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.objsubid = 0
                            AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'))
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"`)
	if err != nil {
		return &Error{Op: op, Err: err}
	}
	var unreadable []string
	for _, f := range r {
		name := catalog.Name{Schema: f[0], Name: f[1]}
		switch {
		case f[2] != "t":
			unreadable = append(unreadable, name.String())
		case f[3] == "t":
			s.conf.Log("an unlogged sequence can't be read on a standby; it is left as new", "sequence", name.String())
		default:
			s.sequences = append(s.sequences, name.SQL())
		}
	}
	if len(unreadable) > 0 {
		return unprivileged("sequence "+few(unreadable), s.at.config.User)
	}
	return nil
}

// Sequences returns the SQL text that sets every sequence as the view shows it, a statement on each line: those of
// columns and free ones, and those that an extension registered as its configuration.
func (s *Snapshot) Sequences(ctx context.Context) (string, error) {
	const op = "read the sequences"
	var text strings.Builder
	for batch := range slices.Chunk(s.sequences, 200) {
		var q strings.Builder
		for i, name := range batch {
			if i > 0 {
				q.WriteString("\nUNION ALL ")
			}
			fmt.Fprintf(&q, "SELECT %d, last_value, is_called FROM %s", i, name)
		}
		var r [][]string
		err := s.onWorker(ctx, op, "", func(ctx context.Context, conn *pgconn.PgConn) error {
			var err error
			r, err = rows(ctx, conn, q.String())
			if sqlstate.Of(err) == sqlstate.UndefinedTable {
				return &Error{Op: op, Err: fmt.Errorf("a sequence was dropped meanwhile: %w", err), Retry: true, Help: "back up again when the schema change is done"}
			}
			return err
		})
		if err != nil {
			return "", err
		}
		if len(r) != len(batch) {
			return "", &Error{Op: op, Err: fmt.Errorf("%d sequences gave %d values", len(batch), len(r))}
		}
		for i, f := range r {
			if f[0] != fmt.Sprint(i) {
				return "", &Error{Op: op, Err: errors.New("the server answered in another order")}
			}
			fmt.Fprintf(&text, "SELECT pg_catalog.setval(%s, %s, %s);\n", catalog.Literal(batch[i]), f[1], map[bool]string{true: "true", false: "false"}[f[2] == "t"])
		}
	}
	return text.String(), nil
}
