package source

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"lethe/pipeline/sqlstate"
	"lethe/scrub/catalog"
)

// LargeObject is a large object without its content.
type LargeObject struct {
	OID     uint32
	Owner   string
	Comment string // "" where there is none
	Grants  []Grant
	Default bool // nobody ever granted or revoked anything: Grants is empty then and means nothing

	dumped []string // of a dump file: the statements that make it, which say all of the above
	roles  []string // of a dump file: the roles that they name
}

// Grant is one entry of a large object's access control list.
type Grant struct {
	Grantee, Grantor string   // Grantee "" is PUBLIC
	Privileges       []string // SELECT, UPDATE
	GrantOption      bool     // of all of Privileges
}

// Roles returns every role that the statements of this large object name.
func (lo *LargeObject) Roles() []string {
	names := append([]string{lo.Owner}, lo.roles...)
	for _, g := range lo.Grants {
		names = append(names, g.Grantor)
		if g.Grantee != "" {
			names = append(names, g.Grantee)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// LargeObjects lists all large objects by oid.
func (s *Snapshot) LargeObjects(ctx context.Context) ([]LargeObject, error) {
	const op = "list the large objects"
	// An owner that is gone prints as its number; such a database can't be restored by anybody, so it is an error below.
	r, err := s.query(ctx, op, `SELECT m.oid, coalesce(o.rolname, ''), coalesce(pg_catalog.obj_description(m.oid, 'pg_largeobject'), ''), m.lomacl IS NULL
		FROM pg_catalog.pg_largeobject_metadata m LEFT JOIN pg_catalog.pg_roles o ON o.oid = m.lomowner ORDER BY m.oid`)
	if err != nil {
		return nil, err
	}
	out := make([]LargeObject, len(r))
	at := make(map[uint32]*LargeObject, len(r))
	for i, f := range r {
		oid, err := parseOID(f[0])
		if err != nil {
			return nil, &Error{Op: op, Err: err}
		}
		if f[1] == "" {
			return nil, &Error{Op: op, Err: fmt.Errorf("the owner of large object %d does not exist", oid), Help: fmt.Sprintf("ALTER LARGE OBJECT %d OWNER TO a role that does", oid)}
		}
		out[i] = LargeObject{OID: oid, Owner: f[1], Comment: f[2], Default: f[3] == "t"}
		at[oid] = &out[i]
	}
	r, err = s.query(ctx, op, `SELECT m.oid, a.grantee = 0, coalesce(e.rolname, ''), coalesce(r.rolname, ''), a.is_grantable, a.privilege_type
		FROM pg_catalog.pg_largeobject_metadata m
		CROSS JOIN LATERAL pg_catalog.aclexplode(m.lomacl) WITH ORDINALITY AS a(grantor, grantee, privilege_type, is_grantable, position)
		LEFT JOIN pg_catalog.pg_roles e ON e.oid = a.grantee
		LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantor
		ORDER BY m.oid, a.position`)
	if err != nil {
		return nil, err
	}
	for _, f := range r {
		oid, err := parseOID(f[0])
		if err != nil {
			return nil, &Error{Op: op, Err: err}
		}
		lo := at[oid]
		if (f[1] != "t" && f[2] == "") || f[3] == "" {
			return nil, &Error{Op: op, Err: fmt.Errorf("the privileges of large object %d name a role that does not exist", oid), Help: fmt.Sprintf("REVOKE ALL ON LARGE OBJECT %d FROM that role, by its number", oid)}
		}
		g := Grant{Grantee: f[2], Grantor: f[3], GrantOption: f[4] == "t", Privileges: []string{f[5]}}
		if n := len(lo.Grants); n > 0 {
			last := &lo.Grants[n-1]
			if last.Grantee == g.Grantee && last.Grantor == g.Grantor && last.GrantOption == g.GrantOption {
				last.Privileges = append(last.Privileges, f[5])
				continue
			}
		}
		lo.Grants = append(lo.Grants, g)
	}
	return out, nil
}

// loChunk is how many bytes one lo_put carries.
const loChunk = 256 << 10

// LargeObject hands each statement that makes the large object to statement, in order, with its newline; the bytes are
// valid only during the call. It holds a chunk of 256 KiB and its text in memory, whatever the object's size. Zeros
// inside it that fill a chunk are not written: a hole reads as zeros. Like a writer given to Copy, statement must not
// call methods of the snapshot.
func (s *Snapshot) LargeObject(ctx context.Context, lo *LargeObject, statement func([]byte) error) error {
	var text []byte
	for _, line := range lo.definition() {
		text = append(append(text[:0], line...), '\n')
		if err := statement(text); err != nil {
			return err
		}
	}
	op := fmt.Sprintf("read large object %d", lo.OID)
	return s.onWorker(ctx, op, "", func(ctx context.Context, conn *pgconn.PgConn) error {
		for from := int64(0); ; from += loChunk {
			data, err := loGet(ctx, conn, lo.OID, from)
			if sqlstate.Of(err) == sqlstate.InsufficientPrivilege {
				role := catalog.QuoteIfNeeded(s.at.config.User)
				return &Error{Op: op, Err: fmt.Errorf("role %s may not read it", role),
					Help: fmt.Sprintf("GRANT SELECT ON LARGE OBJECT %d TO %s (pg_read_all_data does not cover large objects), or back up as their owner", lo.OID, role)}
			}
			if err != nil {
				return err
			}
			end := len(data) < loChunk
			if len(data) == 0 {
				return nil
			}
			if !end && zero(data) {
				// Only what follows tells whether this is a hole or the object's last chunk.
				next, err := loGet(ctx, conn, lo.OID, from+loChunk)
				if err != nil {
					return err
				}
				if len(next) > 0 {
					continue
				}
			}
			text = appendPut(text[:0], lo.OID, from, data)
			if err := statement(text); err != nil {
				return err
			}
			if end {
				return nil
			}
		}
	})
}

// appendPut appends the statement that writes one chunk.
func appendPut(dst []byte, oid uint32, from int64, chunk []byte) []byte {
	dst = append(dst, "SELECT pg_catalog.lo_put('"...)
	dst = strconv.AppendUint(dst, uint64(oid), 10)
	dst = append(dst, "', "...)
	dst = strconv.AppendInt(dst, from, 10)
	dst = append(dst, `, '\x`...)
	dst = hex.AppendEncode(dst, chunk)
	return append(dst, "');\n"...)
}

// loGet reads one chunk, under the view's snapshot.
func loGet(ctx context.Context, conn *pgconn.PgConn, oid uint32, from int64) ([]byte, error) {
	result := conn.ExecParams(ctx, "SELECT pg_catalog.lo_get($1::pg_catalog.oid, $2::pg_catalog.int8, $3::pg_catalog.int4)",
		[][]byte{strconv.AppendUint(nil, uint64(oid), 10), strconv.AppendInt(nil, from, 10), strconv.AppendInt(nil, loChunk, 10)}, nil, nil, []int16{1}).Read()
	if result.Err != nil {
		return nil, result.Err
	}
	if len(result.Rows) != 1 {
		return nil, errors.New("lo_get did not answer with one value")
	}
	return result.Rows[0][0], nil
}

func zero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// definition makes the object, its owner, its privileges and its comment, with the effect that pg_dump's statements have.
func (lo *LargeObject) definition() []string {
	if lo.dumped != nil {
		return lo.dumped
	}
	object := "LARGE OBJECT " + strconv.FormatUint(uint64(lo.OID), 10)
	out := []string{
		fmt.Sprintf("SELECT pg_catalog.lo_create('%d');", lo.OID),
		"ALTER " + object + " OWNER TO " + catalog.Quote(lo.Owner) + ";",
	}
	if !lo.Default {
		owned := func(g Grant) bool { return g.Grantee == lo.Owner && g.Grantor == lo.Owner }
		full := slices.ContainsFunc(lo.Grants, func(g Grant) bool { return owned(g) && !g.GrantOption && len(g.Privileges) == 2 })
		if !full {
			out = append(out, "REVOKE ALL ON "+object+" FROM "+catalog.Quote(lo.Owner)+";")
		}
		for _, g := range lo.Grants {
			if full && owned(g) && !g.GrantOption {
				continue // what an owner has anyway
			}
			to, option := "PUBLIC", ""
			if g.Grantee != "" {
				to = catalog.Quote(g.Grantee)
			}
			if g.GrantOption {
				option = " WITH GRANT OPTION"
			}
			grant := "GRANT " + strings.Join(g.Privileges, ", ") + " ON " + object + " TO " + to + option + ";"
			if g.Grantor != lo.Owner {
				// On one line, so that text cut at line ends never leaves a session under another name.
				grant = "SET SESSION AUTHORIZATION " + catalog.Quote(g.Grantor) + "; " + grant + " RESET SESSION AUTHORIZATION;"
			}
			out = append(out, grant)
		}
	}
	if lo.Comment != "" {
		out = append(out, "COMMENT ON "+object+" IS "+oneLine(lo.Comment)+";")
	}
	return out
}

// oneLine is a string literal without line ends, since text may be cut at those.
func oneLine(s string) string {
	if !strings.ContainsAny(s, "\r\n") {
		return catalog.Literal(s)
	}
	return "E'" + strings.NewReplacer(`\`, `\\`, `'`, `''`, "\n", `\n`, "\r", `\r`).Replace(s) + "'"
}
