package catalog_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"lethe/pipeline/pgtemp/pgtest"
	"lethe/scrub/catalog"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// execute sends the statements one by one over one connection.
func execute(t *testing.T, url string, stmts []catalog.Statement) {
	t.Helper()
	conn := connect(t, url)
	for _, s := range stmts {
		if _, err := conn.Exec(context.Background(), s.Text).ReadAll(); err != nil {
			t.Fatalf("line %d: %v\n%s", s.Line, err, s.Text)
		}
	}
}

func connect(t *testing.T, url string) *pgconn.PgConn {
	t.Helper()
	conn, err := pgconn.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func dump(t *testing.T, url string, args ...string) string {
	t.Helper()
	cmd := exec.Command(pgtest.Server(t).Tool("pg_dump"), append(args, "-d", url)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func split(t *testing.T, sql string) []catalog.Statement {
	t.Helper()
	stmts, err := catalog.Split(sql)
	if err != nil {
		t.Fatal(err)
	}
	return stmts
}

func parse(t *testing.T, ddl ...string) *catalog.Catalog {
	t.Helper()
	c, err := catalog.Parse(ddl...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// withoutRestrict leaves out the lines that carry pg_dump's random token.
func withoutRestrict(dump string) string {
	var keep []string
	for _, l := range strings.Split(dump, "\n") {
		if !strings.HasPrefix(l, `\restrict`) && !strings.HasPrefix(l, `\unrestrict`) {
			keep = append(keep, l)
		}
	}
	return strings.Join(keep, "\n")
}

// TestAgainstServer loads a hard schema into a server and compares what the server says of it with what Parse reads,
// in the schema as written, in its dump by sections, and in its dump as a whole.
func TestAgainstServer(t *testing.T) {
	hand, err := os.ReadFile("testdata/hard.sql")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // roles belong to the server, and outlive the databases
		if err := pgtest.Server(t).Exec(context.Background(), "postgres", `DROP ROLE IF EXISTS reader, "Odd Role"`); err != nil {
			t.Error(err)
		}
	})
	url := pgtest.DB(t)
	execute(t, url, split(t, string(hand)))
	pre, post := dump(t, url, "--section=pre-data"), dump(t, url, "--section=post-data")
	whole := dump(t, url)

	// What psql does with a dump is what its statements do, one by one.
	byPsql, byStatements := pgtest.DBName(t), pgtest.DB(t)
	server := pgtest.Server(t)
	if _, err := server.Psql(t.Context(), byPsql, strings.NewReader(whole), "-v", "ON_ERROR_STOP=1"); err != nil {
		t.Fatal(err)
	}
	execute(t, byStatements, split(t, dump(t, url, "--schema-only")))
	a := strings.Split(withoutRestrict(dump(t, server.URL(byPsql), "--schema-only")), "\n")
	b := strings.Split(withoutRestrict(dump(t, byStatements, "--schema-only")), "\n")
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			t.Fatalf("psql and the statements one by one make different databases, from line %d:\n%q\n%q", i+1, a[i:min(i+5, len(a))], b[i:min(i+5, len(b))])
		}
	}

	// Restored, inheritance children have their columns in another order: parents' first.
	sections := parse(t, pre, post)
	sameFacts(t, "as written", ofCatalog(parse(t, string(hand))), ofServer(t, url))
	sameFacts(t, "sections", ofCatalog(sections), ofServer(t, byStatements))
	sameFacts(t, "whole dump", ofCatalog(parse(t, whole)), ofServer(t, byStatements))
	if a, b := sections.Fingerprint(), parse(t, whole).Fingerprint(); a != b {
		t.Errorf("fingerprints of sections and whole differ: %s %s", a, b)
	}
	if want := []string{"Odd Role", "postgres", "reader"}; !slices.Equal(sections.Roles, want) {
		t.Errorf("roles %q, want %q", sections.Roles, want)
	}
}

func sameFacts(t *testing.T, what string, got, want []string) {
	t.Helper()
	if len(want) == 0 {
		t.Fatal("the server says nothing")
	}
	for _, l := range want {
		if !slices.Contains(got, l) {
			t.Errorf("%s: missing  %s", what, l)
		}
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			t.Errorf("%s: too much %s", what, l)
		}
	}
}

// ofServer describes a database, one line for each fact that a catalog holds.
func ofServer(t *testing.T, url string) []string {
	t.Helper()
	const tables = `pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND c.relkind IN ('r', 'p', 'f')
		AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast'`
	const columns = `(SELECT string_agg(a.attname, ',' ORDER BY k.n) FROM unnest(%s) WITH ORDINALITY k(attnum, n) JOIN pg_attribute a ON a.attrelid = %s AND a.attnum = k.attnum)`
	queries := []string{
		`SELECT 'table ' || nspname || '.' || relname || ' ' || relkind::text || ' ' || (relpersistence = 'u') FROM ` + tables,
		`SELECT 'column ' || n.nspname || '.' || relname || '.' || attname || ' #' || row_number() OVER (PARTITION BY c.oid ORDER BY attnum) || ' ' ||
			tn.nspname || '.' || CASE WHEN t.typcategory = 'A' AND t.typtype = 'b' THEN (SELECT e.typname FROM pg_type e WHERE e.oid = t.typelem) || '[]' ELSE t.typname END ||
			' ' || attnotnull || ' ' || (attgenerated <> '') || ' ' || (attidentity <> '') || ' ' || (atthasdef OR attidentity <> '')
			FROM ` + tables + ` JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped
			JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace tn ON tn.oid = t.typnamespace`,
		`SELECT 'key ' || n.nspname || '.' || c.relname || ' ' || ic.relname || ' ' || indisprimary || ' ' || indisexclusion || ' ' || indnullsnotdistinct || ' ' ||
			coalesce(` + fmt.Sprintf(columns, "(i.indkey::int2[])[0:indnkeyatts-1]", "c.oid") + `, '') || ' ' || (indpred IS NOT NULL) || ' ' || (indexprs IS NOT NULL)
			FROM ` + tables + ` JOIN pg_index i ON i.indrelid = c.oid AND (indisunique OR indisexclusion) JOIN pg_class ic ON ic.oid = indexrelid`,
		`SELECT 'check ' || nspname || '.' || relname || ' ' || conname || ' ' ||
			(SELECT coalesce(string_agg(attname, ',' ORDER BY attname COLLATE "C"), '') FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (conkey))
			FROM ` + tables + ` JOIN pg_constraint k ON conrelid = c.oid AND contype = 'c'`,
		`SELECT 'reference ' || n.nspname || '.' || c.relname || ' ' || ` + fmt.Sprintf(columns, "conkey", "conrelid") + ` || ' ' || tn.nspname || '.' || tc.relname || ' ' || ` +
			fmt.Sprintf(columns, "confkey", "confrelid") + ` || ' ' || confdeltype::text || confupdtype::text || confmatchtype::text || ' ' || convalidated || ' ' ||
			coalesce(` + fmt.Sprintf(columns, "confdelsetcols", "conrelid") + `, '')
			FROM ` + tables + ` JOIN pg_constraint k ON conrelid = c.oid AND contype = 'f' JOIN pg_class tc ON tc.oid = confrelid JOIN pg_namespace tn ON tn.oid = tc.relnamespace`,
		`SELECT 'under ' || n.nspname || '.' || c.relname || ' ' || pn.nspname || '.' || pc.relname || ' ' || c.relispartition
			FROM ` + tables + ` JOIN pg_inherits ON inhrelid = c.oid JOIN pg_class pc ON pc.oid = inhparent JOIN pg_namespace pn ON pn.oid = pc.relnamespace`,
		`SELECT 'enum ' || typname || ' ' || string_agg(enumlabel, ',' ORDER BY enumsortorder) FROM pg_enum JOIN pg_type t ON t.oid = enumtypid GROUP BY typname`,
		`SELECT 'domain ' || t.typname || ' ' || b.typname || ' ' || t.typnotnull || ' ' ||
			(SELECT coalesce(string_agg(conname, ',' ORDER BY conname COLLATE "C"), '') FROM pg_constraint WHERE contypid = t.oid)
			FROM pg_type t JOIN pg_type b ON b.oid = t.typbasetype JOIN pg_namespace n ON n.oid = t.typnamespace AND nspname = 'public'
			WHERE t.typtype = 'd' AND b.typcategory <> 'A'`,
	}
	conn := connect(t, url)
	var lines []string
	for _, q := range queries {
		lines = append(lines, mustExec(t, conn, q)...)
	}
	return lines
}

func mustExec(t *testing.T, conn *pgconn.PgConn, q string) []string {
	t.Helper()
	results, err := conn.Exec(context.Background(), q).ReadAll()
	if err != nil {
		t.Fatalf("%v\n%s", err, q)
	}
	var lines []string
	for _, r := range results[0].Rows {
		lines = append(lines, string(r[0]))
	}
	return lines
}

// ofCatalog describes a catalog as ofServer describes a database.
func ofCatalog(c *catalog.Catalog) []string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	full := func(n catalog.Name) string { return n.Schema + "." + n.Name }
	list := func(ss []string) string { return strings.Join(ss, ",") }
	sorted := func(ss []string) []string { return slices.Sorted(slices.Values(ss)) }
	for _, t := range c.Order {
		add("table %s %c %t", full(t.Name), "rpf"[t.Kind], t.Unlogged)
		for i, col := range t.Columns {
			typ := full(col.Type.Name)
			if col.Type.Array {
				typ += "[]"
			}
			add("column %s.%s #%d %s %t %t %t %t", full(t.Name), col.Name, i+1, typ, col.NotNull,
				col.Generated != "", col.Identity, col.Default != "" || col.Generated != "" || col.Identity)
		}
		for _, k := range t.Keys {
			add("key %s %s %t %t %t %s %t %t", full(t.Name), k.Name, k.Primary, k.Exclusion, k.NullsNotDistinct, list(k.Columns),
				k.Predicate != nil, k.Expressions)
		}
		for _, k := range t.Checks {
			add("check %s %s %s", full(t.Name), k.Name, list(sorted(k.Columns)))
		}
		for _, f := range t.References {
			add("reference %s %s %s %s %c%c%c %t %s", full(t.Name), list(f.Columns), full(f.To), list(f.ToColumns), f.OnDelete, f.OnUpdate,
				f.Match, !f.NotValid, list(f.OnDeleteColumns))
		}
		if t.Parent != nil {
			add("under %s %s true", full(t.Name), full(t.Parent.Name))
		}
		for _, p := range t.Inherits {
			add("under %s %s false", full(t.Name), full(p.Name))
		}
	}
	for _, t := range c.Types {
		switch t.Kind {
		case catalog.Enum:
			add("enum %s %s", t.Name.Name, list(t.Labels))
		case catalog.Domain:
			if t.Base.Array {
				continue
			}
			var names []string
			for _, k := range t.Checks {
				names = append(names, k.Name)
			}
			add("domain %s %s %t %s", t.Name.Name, t.Base.Name.Name, t.NotNull, list(sorted(names)))
		}
	}
	return lines
}
