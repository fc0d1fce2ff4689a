package catalog

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

func mustParse(t *testing.T, ddl ...string) *Catalog {
	t.Helper()
	c, err := Parse(ddl...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestNewerSyntax reads what newer versions of pg_dump write and the grammar does not know.
func TestNewerSyntax(t *testing.T) {
	c := mustParse(t, `SELECT pg_catalog.set_config('search_path', '', false);
		CREATE TABLE public.t (id bigint NOT NULL, a text,
			b text GENERATED ALWAYS AS (lower(a)) /* ; */,
			c text GENERATED ALWAYS AS ((a || ')'::text)) VIRTUAL NOT NULL,
			d text GENERATED ALWAYS AS (upper(a)) STORED);
		ALTER TABLE public.t ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
			SEQUENCE NAME public.t_id_seq UNLOGGED START WITH 1 CACHE 1);
		CREATE SEQUENCE public.s NEW SYNTAX;
		CREATE FUNCTION public.f() RETURNS int NEW SYNTAX;
		GRANT NEW SYNTAX FOR ALL;`)
	tab := c.Tables[Name{"public", "t"}]
	if !tab.Column("id").Identity {
		t.Error("id is no identity")
	}
	for _, name := range []string{"b", "c", "d"} {
		if tab.Column(name).Generated == "" {
			t.Errorf("%s is not generated", name)
		}
	}
	if !tab.Column("c").NotNull || tab.CallsFunctions {
		t.Errorf("c %+v, calls functions %v", *tab.Column("c"), tab.CallsFunctions)
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct {
		name, ddl string
		line      int
		says      string
	}{
		{"new syntax of a table", "SELECT 1;\nCREATE TABLE t (a int NEW SYNTAX);", 2, "can't be read"},
		{"new syntax of a type", "CREATE TYPE t NEW SYNTAX;", 1, "can't be read"},
		{"new syntax of a domain", "ALTER DOMAIN d NEW SYNTAX;", 1, "can't be read"},
		{"new syntax of a unique index", "CREATE UNIQUE INDEX i ON t (a) NEW SYNTAX;", 1, "can't be read"},
		{"new syntax of a foreign table", "CREATE FOREIGN TABLE t (a int) NEW SYNTAX;", 1, "can't be read"},
		{"new syntax of a schema", "CREATE SCHEMA s NEW SYNTAX;", 1, "can't be read"},
		{"new statement", "MAKE TABLE t (a int);", 1, "can't be read"},
		{"create table as", "CREATE TABLE t AS SELECT 1 AS a;", 1, "CREATE TABLE … AS"},
		{"select into", "SELECT 1 AS a INTO t;", 1, "SELECT … INTO"},
		{"do", "DO $$ BEGIN CREATE TABLE t (); END $$;", 1, "DO block"},
		{"function that may define a table", "SELECT public.create_hypertable('t');", 1, "create_hypertable"},
		{"temporary table", "CREATE TEMP TABLE t (a int);", 1, "temporary"},
		{"unknown table", "ALTER TABLE t ADD COLUMN a int;", 1, "no table t"},
		{"unknown column in a key", "CREATE TABLE t (a int, PRIMARY KEY (b));", 1, "column b"},
		{"reference to an unknown table", "CREATE TABLE t (\na int REFERENCES u);", 1, "references u"},
		{"reference without a primary key", "CREATE TABLE u (a int); CREATE TABLE t (a int REFERENCES u);", 1, "no primary key"},
		{"reference of another length", "CREATE TABLE u (a int, b int, PRIMARY KEY (a, b)); CREATE TABLE t (a int REFERENCES u);", 1, "references 2"},
		{"table twice", "CREATE TABLE t (a int);\nCREATE TABLE t (b int);", 2, "twice"},
		{"partition of its own child", "CREATE TABLE p (a int); CREATE TABLE c () INHERITS (p);\nALTER TABLE c ATTACH PARTITION p DEFAULT;", 2, "stands under it"},
		{"child of its own child", "CREATE TABLE p (a int); CREATE TABLE c () INHERITS (p);\nALTER TABLE p INHERIT c;", 2, "inherits from it"},
		{"unfinished", "CREATE TABLE t (a int", 1, "does not end"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(tt.ddl)
			var pe *ParseError
			if !errors.As(err, &pe) {
				t.Fatalf("got %v", err)
			}
			if pe.Line != tt.line || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %q, want line %d and %q", err, tt.line, tt.says)
			}
		})
	}
}

func TestCallsFunctions(t *testing.T) {
	const dump = `SELECT pg_catalog.set_config('search_path', '', false);
		CREATE FUNCTION public.lower(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
		CREATE EXTENSION citext WITH SCHEMA public;
		CREATE TYPE public.mood AS ENUM ('a');
		CREATE DOMAIN public.fine AS text CHECK (public.lower(VALUE) = VALUE);
		CREATE DOMAIN public.finer AS public.fine;
		CREATE TYPE public.pair AS (a public.finer, b int);
		CREATE TABLE public.t (x text, `
	tests := []struct {
		ddl  string
		want bool
	}{
		{dump + "CHECK (lower(x) = x));", false},
		{dump + "CHECK (public.lower(x) = x));", true},
		{dump + "CHECK (x OPERATOR(pg_catalog.=) 'a'));", false},
		{dump + "CHECK (x OPERATOR(public.=) 'a'));", true},
		{dump + "y text GENERATED ALWAYS AS (public.lower(x)) STORED);", true},
		{dump + "y text DEFAULT public.lower('x'));", false},
		{dump + "y public.mood CHECK (y = 'a'::public.mood));", false},
		{dump + "y public.citext CHECK (y <> ''::public.citext));", true},
		{dump + "y public.finer);", true},
		{dump + "y public.pair[]);", true},
		{"CREATE FUNCTION ok(text) RETURNS bool LANGUAGE sql AS ''; CREATE TABLE t (x text CHECK (ok(x)));", true},
		{"CREATE EXTENSION unaccent; CREATE TABLE t (x text CHECK (unaccent(x) = x));", true},
		{"CREATE TABLE t (x text CHECK (length(x) < 3));", false},
	}
	for _, tt := range tests {
		c := mustParse(t, tt.ddl)
		if got := c.Tables[Name{"public", "t"}].CallsFunctions; got != tt.want {
			t.Errorf("%s: calls functions is %v, want %v", strings.TrimPrefix(tt.ddl, dump), got, tt.want)
		}
	}
}

func TestTypesAndCollations(t *testing.T) {
	c := mustParse(t, `CREATE SCHEMA ext; SET search_path = app, public;
		CREATE COLLATION ci (provider = icu, locale = 'und', deterministic = false);
		CREATE COLLATION plain (provider = icu, locale = 'und');
		CREATE TYPE r AS RANGE (subtype = float8);
		CREATE DOMAIN code AS varchar(5);
		CREATE TABLE t (a int, b _text, c char, d "char", e citext, f ext.geometry(Point, 4326), g code, h timestamptz(3),
			i numeric(10, 0), j interval, k text COLLATE ci, l r, m integer[][], n app.code);`)
	tab := c.Tables[Name{"app", "t"}]
	want := map[string]string{"a": `"pg_catalog"."int4"([])false`, "b": `"pg_catalog"."text"([])true`, "c": `"pg_catalog"."bpchar"([1])false`,
		"d": `"pg_catalog"."char"([])false`, "e": `"app"."citext"([])false`, "f": `"ext"."geometry"([]point,4326)false`, "g": `"app"."code"([])false`,
		"h": `"pg_catalog"."timestamptz"([3])false`, "i": `"pg_catalog"."numeric"([10 0])false`, "j": `"pg_catalog"."interval"([])false`,
		"k": `"pg_catalog"."text"([])false`, "l": `"app"."r"([])false`, "m": `"pg_catalog"."int4"([])true`, "n": `"app"."code"([])false`}
	for _, col := range tab.Columns {
		if got := col.Type.describe(); got != want[col.Name] {
			t.Errorf("%s: %s, want %s", col.Name, got, want[col.Name])
		}
	}
	if !c.Collations[tab.Column("k").Collation] || c.Collations[Name{"app", "plain"}] {
		t.Errorf("collations %v", c.Collations)
	}
	if base, _, _ := c.Base(tab.Column("g").Type); base.Name.Name != "varchar" || !slices.Equal(base.Mods, []int{5}) {
		t.Errorf("base %+v", base)
	}
	if c.Types[Name{"app", "r_multirange"}] == nil {
		t.Error("no multirange")
	}
}

func TestDropAndRename(t *testing.T) {
	c := mustParse(t, `DROP TABLE IF EXISTS gone; ALTER TABLE ONLY public.x DROP CONSTRAINT y;
		CREATE TABLE a (id int PRIMARY KEY, b int UNIQUE, c int CHECK (c > 0), d int);
		CREATE TABLE r (a int REFERENCES a, b int REFERENCES a (b));
		ALTER TABLE a RENAME id TO key; ALTER TABLE a RENAME TO aa;
		ALTER TABLE aa DROP COLUMN b CASCADE, DROP COLUMN c;
		ALTER TABLE aa ADD CONSTRAINT one UNIQUE (d); ALTER TABLE aa DROP CONSTRAINT one;
		CREATE UNIQUE INDEX two ON aa (d); DROP INDEX two;
		CREATE TABLE gone (a int REFERENCES aa); DROP TABLE gone;`)
	aa, r := c.Tables[Name{"public", "aa"}], c.Tables[Name{"public", "r"}]
	if len(c.Order) != 2 || len(aa.Columns) != 2 || len(aa.Keys) != 1 || len(aa.Checks) != 0 {
		t.Errorf("got %+v", *aa)
	}
	if len(r.References) != 1 || r.References[0].To != aa.Name || !slices.Equal(r.References[0].ToColumns, []string{"key"}) {
		t.Errorf("got %+v", *r.References[0])
	}
}

func TestFilter(t *testing.T) {
	const dump = `ALTER TABLE public.t OWNER TO bob;
ALTER AGGREGATE public.a(int, text) OWNER TO "Odd ; Role";
ALTER SCHEMA public OWNER TO pg_database_owner;
ALTER TABLE public.t ADD COLUMN a int, OWNER TO bob;
ALTER TABLE public.t ADD COLUMN owner int;
CREATE SCHEMA s AUTHORIZATION carol;
CREATE SCHEMA AUTHORIZATION carol;
SET SESSION AUTHORIZATION 'dan';
GRANT SELECT ON TABLE public.t TO erin, PUBLIC GRANTED BY frank;
REVOKE ALL ON SCHEMA public FROM gil;
ALTER DEFAULT PRIVILEGES FOR ROLE hal GRANT SELECT ON TABLES TO ivy;
CREATE POLICY p ON public.t TO jan USING (true);
CREATE USER MAPPING FOR kim SERVER s;
CREATE TABLE public.owner ("owner" int);
RESET SESSION AUTHORIZATION;`
	stmts, err := Split(dump)
	if err != nil {
		t.Fatal(err)
	}
	var noOwner []string
	for _, s := range stmts {
		text, keep, err := Filter{NoOwner: true}.Apply(s)
		if err != nil {
			t.Fatal(err)
		}
		if keep {
			noOwner = append(noOwner, text)
		}
	}
	want := []string{"ALTER TABLE public.t ADD COLUMN a int;", "ALTER TABLE public.t ADD COLUMN owner int;", "CREATE SCHEMA s;", "CREATE SCHEMA carol;"}
	for _, i := range []int{8, 9, 10, 11, 12, 13} {
		want = append(want, stmts[i].Text)
	}
	if !slices.Equal(noOwner, want) {
		t.Errorf("without owners:\n%q\nwant\n%q", noOwner, want)
	}
	tests := []struct {
		filter Filter
		want   string
	}{
		{Filter{}, "Odd ; Role bob carol dan erin frank gil hal ivy jan kim pg_database_owner"},
		{Filter{NoOwner: true}, "erin frank gil hal ivy jan kim"},
		{Filter{NoACL: true}, "Odd ; Role bob carol dan jan kim pg_database_owner"},
		{Filter{NoOwner: true, NoACL: true}, "jan kim"},
	}
	for _, tt := range tests {
		got, err := RolesOf(stmts, tt.filter)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%+v: roles %q, want %q", tt.filter, got, tt.want)
		}
	}
}

func TestFingerprint(t *testing.T) {
	base := "CREATE TABLE a (id int PRIMARY KEY, x text CHECK (x <> '')); CREATE TABLE b (a int REFERENCES a);"
	same := []string{
		"CREATE TABLE b (a int); CREATE TABLE a (x text, id int); DROP TABLE a; CREATE TABLE a (id int NOT NULL DEFAULT 3, x text);" +
			"ALTER TABLE a ADD CONSTRAINT n PRIMARY KEY (id), ADD CONSTRAINT m CHECK (x <> ''); ALTER TABLE b ADD FOREIGN KEY (a) REFERENCES a (id);",
	}
	other := []string{
		strings.Replace(base, "int PRIMARY", "bigint PRIMARY", 1),
		strings.NewReplacer("PRIMARY KEY", "UNIQUE NOT NULL", "REFERENCES a", "REFERENCES a (id)").Replace(base),
		strings.Replace(base, "CHECK (x <> '')", "", 1),
		strings.Replace(base, "REFERENCES a)", "REFERENCES a ON DELETE CASCADE)", 1),
		base + "CREATE TYPE e AS ENUM ('a');",
		base + "CREATE UNIQUE INDEX ON b (a);",
	}
	want := mustParse(t, base).Fingerprint()
	if len(want) != 64 {
		t.Errorf("fingerprint %q", want)
	}
	for _, ddl := range same {
		if mustParse(t, ddl).Fingerprint() != want {
			t.Errorf("differs: %s", ddl)
		}
	}
	for _, ddl := range other {
		if mustParse(t, ddl).Fingerprint() == want {
			t.Errorf("does not differ: %s", ddl)
		}
	}
}

// FuzzParse looks for panics: Parse reads what anybody wrote.
func FuzzParse(f *testing.F) {
	hard, err := os.ReadFile("testdata/hard.sql")
	if err != nil {
		f.Fatal(err)
	}
	stmts, err := Split(string(hard))
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range stmts {
		f.Add("CREATE TYPE address AS (zip text, street text); CREATE TABLE users (id int PRIMARY KEY, name text);", s.Text)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		c, err := Parse(a, b)
		if err != nil {
			return
		}
		c.Fingerprint()
		for _, tab := range c.Order {
			for _, k := range tab.Checks {
				for _, col := range k.Columns {
					c.CanFail(k, map[string]Abstract{col: Null()})
					c.CanFail(k, map[string]Abstract{col: c.Constant("1", tab.Columns[0].Type)})
				}
			}
		}
	})
}
