package source_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/source"
	"lethe/scrub/catalog"
)

// script is everything a snapshot holds, as text for psql.
func script(t testing.TB, s *source.Snapshot) string {
	t.Helper()
	ctx := context.Background()
	var out strings.Builder
	globals, _, err := s.Roles(ctx, s.Catalog.Roles)
	if err != nil {
		t.Fatal(err)
	}
	out.WriteString(globals + s.PreData)
	for i := range s.Relations {
		rel := &s.Relations[i]
		columns := ""
		if len(rel.Columns) > 0 {
			columns = "(" + catalog.QuoteList(rel.Columns) + ") "
		}
		fmt.Fprintf(&out, "COPY %s %sFROM stdin;\n%s\\.\n", rel.Name.SQL(), columns, text(t, s, rel))
	}
	sequences, err := s.Sequences(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out.WriteString(sequences)
	los, err := s.LargeObjects(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range los {
		if err := s.LargeObject(ctx, &los[i], func(p []byte) error {
			if !bytes.HasSuffix(p, []byte(";\n")) {
				t.Errorf("a statement without its end: %.80q", p)
			}
			out.Write(p)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	out.WriteString(s.PostData)
	return out.String()
}

// dump is what pg_dump prints of a database, without the lines that differ from run to run, in sorted order where asked:
// rows may lie in another order after a restore.
func dump(t testing.TB, db string, args ...string) []string {
	t.Helper()
	encoding, err := pgtest.Server(t).Value(context.Background(), db, "SHOW server_encoding")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(pgtest.Server(t).Tool("pg_dump"), append(args, "--encoding="+encoding, "-d", pgtest.Server(t).URL(db))...)
	cmd.Env = append(os.Environ(), "PGOPTIONS=-c bytea_output=hex -c TimeZone=UTC") // the database's own settings show in pg_dump's rows
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(out), "\n")
	return slices.DeleteFunc(lines, func(l string) bool {
		return strings.HasPrefix(l, `\restrict`) || strings.HasPrefix(l, `\unrestrict`)
	})
}

// sameDatabase compares two databases as pg_dump shows them: DDL line by line, data as a multiset of lines.
func sameDatabase(t testing.TB, want, got string) {
	t.Helper()
	for _, args := range [][]string{{"--schema-only", "--blobs"}, {"--data-only", "--blobs"}} {
		a, b := dump(t, want, args...), dump(t, got, args...)
		if args[0] == "--data-only" {
			slices.Sort(a)
			slices.Sort(b)
		}
		for i := range max(len(a), len(b)) {
			if i >= len(a) || i >= len(b) || a[i] != b[i] {
				t.Fatalf("pg_dump %s differs at line %d:\nwant %.300q\ngot  %.300q", args[0], i+1, at(a, i), at(b, i))
			}
		}
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(end)"
}

// roundTrip restores a snapshot with psql into a database made with the same options, and compares.
func roundTrip(t testing.TB, db string, conf source.Config, options ...string) *source.Snapshot {
	t.Helper()
	conf.URL = pgtest.Server(t).URL(db)
	conf.LockTimeout = short
	s := open(t, conf)
	into := pgtest.DBName(t, options...)
	if _, err := pgtest.Server(t).Psql(context.Background(), into, strings.NewReader(script(t, s))); err != nil {
		t.Fatal(err)
	}
	sameDatabase(t, db, into)
	return s
}

const oddTables = `
CREATE ROLE odd_owner; CREATE ROLE "Odd ""Reader""" LOGIN NOINHERIT; GRANT odd_owner TO "Odd ""Reader""" WITH ADMIN OPTION;
CREATE SCHEMA "Odd Schema" AUTHORIZATION odd_owner;
CREATE TABLE "Odd Schema"."Tab ""x""" ("User Id" int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "löd" text, "a,b" int[]);
ALTER TABLE "Odd Schema"."Tab ""x""" OWNER TO odd_owner;
GRANT SELECT ON "Odd Schema"."Tab ""x""" TO "Odd ""Reader""";
INSERT INTO "Odd Schema"."Tab ""x""" ("löd", "a,b") VALUES (E'tab\t nl\n cr\r bs\\ \\N \\. é', '{1,NULL}'), (NULL, '{}'), ('', NULL), (E'\\.', NULL), ('N', NULL);

CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
CREATE TABLE only_generated (a int GENERATED ALWAYS AS (1 + 1) STORED); INSERT INTO only_generated DEFAULT VALUES;
CREATE TABLE generated (a int, gone text, b int GENERATED ALWAYS AS (a * 2) STORED, c text); ALTER TABLE generated DROP COLUMN gone;
INSERT INTO generated VALUES (1, DEFAULT, 'x'), (2, DEFAULT, NULL);

CREATE TABLE parent (id serial, v text); CREATE TABLE child (extra date) INHERITS (parent);
INSERT INTO parent (v) VALUES ('p'); INSERT INTO child (v, extra) VALUES ('c', '0044-03-15 BC');

CREATE TABLE part (k int, at timestamptz, v money) PARTITION BY RANGE (k);
CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (0) TO (10) PARTITION BY LIST (k);
CREATE TABLE part_low_1 PARTITION OF part_low FOR VALUES IN (1, 2);
CREATE TABLE part_rest (v money, at timestamptz, k int); ALTER TABLE part ATTACH PARTITION part_rest DEFAULT;
INSERT INTO part VALUES (1, '2026-01-02 03:04:05.678+02', 12.34), (50, 'infinity', -1);

CREATE UNLOGGED TABLE unlogged (f float8, r real, b bytea, i interval, x xml); INSERT INTO unlogged VALUES (0.1::float8 + 0.2, 1e-30, '\x00ff0a5c', '1 mon -2 days 03:04:05', '<a/><b/>');
CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM part;
CREATE SEQUENCE fresh START 7; CREATE SEQUENCE called MINVALUE -9223372036854775808 START -5 INCREMENT -1; SELECT nextval('called');
CREATE SEQUENCE "Odd Schema"."Seq 'q""""'"; SELECT setval('"Odd Schema"."Seq ''q""""''"', 41);
COMMENT ON DATABASE CURRENT_DB IS 'it''s ours'; ALTER DATABASE CURRENT_DB SET statement_timeout = '90s';
ALTER DATABASE CURRENT_DB SET DateStyle = 'German'; ALTER DATABASE CURRENT_DB SET bytea_output = 'escape'; ALTER DATABASE CURRENT_DB SET IntervalStyle = 'iso_8601';
ALTER DATABASE CURRENT_DB SET extra_float_digits = -5; ALTER DATABASE CURRENT_DB SET TimeZone = 'Asia/Tokyo'; ALTER DATABASE CURRENT_DB SET client_encoding = 'LATIN1';
ALTER ROLE odd_owner IN DATABASE CURRENT_DB SET search_path = '"$user"', public;
`

// dropRoles lets go of the roles of a test: they belong to the server, not to a database.
func dropRoles(t testing.TB, names ...string) {
	t.Cleanup(func() {
		for _, n := range names {
			sql(t, "postgres", "DROP ROLE IF EXISTS "+catalog.Quote(n))
		}
	})
}

func TestOddTablesComeBack(t *testing.T) {
	dropRoles(t, "odd_owner", `Odd "Reader"`)
	db := pgtest.DBName(t)
	sql(t, db, strings.ReplaceAll(oddTables, "CURRENT_DB", db))
	s := roundTrip(t, db, source.Config{Workers: 3})

	if got := text(t, s, relation(t, s, "public", "nothing")); got != "\n\n" {
		t.Errorf("a table without columns: %q", got)
	}
	if got := text(t, s, relation(t, s, "public", "parent")); got != "1\tp\n" {
		t.Errorf("a parent holds its own rows only: %q", got)
	}
	if got := relation(t, s, "public", "part_rest").Columns; !slices.Equal(got, []string{"v", "at", "k"}) {
		t.Errorf("a partition has its own order of columns: %q", got)
	}
	if got := text(t, s, relation(t, s, "public", "unlogged")); got != `0.30000000000000004	1e-30	\\x00ff0a5c	1 mon -2 days +03:04:05	<a/><b/>`+"\n" {
		t.Errorf("the database's own settings show: %q", got)
	}
	for _, r := range s.Relations {
		if r.Name.Name == "part" || r.Name.Name == "part_low" || r.Name.Name == "mv" {
			t.Errorf("%s has no rows of its own", r.Name)
		}
	}
	if head, _, _ := strings.Cut(s.PreData, "set_config"); !strings.Contains(head, "\nSET lc_monetary = 'C';\n") {
		t.Errorf("a restoring session may read money differently:\n%s", head)
	}
	if s.Info.Comment != "it's ours" || s.Info.Database != db || !s.Info.Local || s.Info.Encoding != "UTF8" || s.Info.LocaleProvider != "c" || s.Info.SystemID == "" || s.Info.LSN == "" {
		t.Errorf("info = %+v", s.Info)
	}
	if !slices.Contains(s.Info.Settings, source.Setting{Name: "TimeZone", Value: "Asia/Tokyo"}) ||
		!slices.Contains(s.Info.Settings, source.Setting{Role: "odd_owner", Name: "search_path", Value: `"""$user""", public`}) {
		t.Errorf("settings = %q", s.Info.Settings)
	}
	globals, roles, err := s.Roles(context.Background(), append(s.Catalog.Roles, "public", "pg_monitor", "odd_owner"))
	if err != nil || strings.Contains(globals, "pg_monitor") {
		t.Fatal(globals, err)
	}
	reader := slices.IndexFunc(roles, func(r source.Role) bool { return r.Name == `Odd "Reader"` })
	if reader < 0 || !slices.Equal(roles[reader].Attributes, []string{"NOINHERIT", "LOGIN"}) || !slices.Equal(roles[reader].MemberOf, []string{"odd_owner"}) {
		t.Errorf("roles = %+v", roles)
	}
	if _, _, err := s.Roles(context.Background(), []string{"nobody here"}); err == nil || !strings.Contains(err.Error(), `"nobody here"`) {
		t.Errorf("a role that is not there: %v", err)
	}
}

// The globals make roles where they are missing, and touch nothing where they are not.
func TestGlobalsMakeMissingRoles(t *testing.T) {
	dropRoles(t, "child$lethe$", "granted")
	db := pgtest.DBName(t)
	sql(t, db, `CREATE ROLE granted CREATEDB; CREATE ROLE "child$lethe$" LOGIN PASSWORD 'secret'; GRANT granted TO "child$lethe$" WITH ADMIN OPTION`)
	s := open(t, source.Config{URL: pgtest.Server(t).URL(db)})
	globals, before, err := s.Roles(context.Background(), []string{"child$lethe$", "granted"})
	if err != nil {
		t.Fatal(err)
	}
	sql(t, db, `DROP ROLE granted, "child$lethe$"`)
	sql(t, db, globals)
	sql(t, db, globals) // twice is harmless
	_, after, err := s.Roles(context.Background(), []string{"child$lethe$", "granted"})
	if err != nil || fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("before %v, after %v, %v", before, after, err)
	}
	if got, err := pgtest.Server(t).Value(context.Background(), db, `SELECT admin_option FROM pg_auth_members WHERE member = '"child$lethe$"'::regrole`); err != nil || got != "t" {
		t.Errorf("admin option = %q, %v", got, err)
	}
	if strings.Contains(globals, "secret") || strings.Contains(globals, "SCRAM") {
		t.Error("a password in the globals")
	}
}

func TestExtensionConfigurationTables(t *testing.T) {
	db := pgtest.DBName(t)
	sql(t, db, `CREATE EXTENSION hstore; CREATE EXTENSION citext;
		CREATE TABLE conf (id int PRIMARY KEY, builtin bool); INSERT INTO conf VALUES (1, true), (2, false);
		CREATE TABLE a_child (id int REFERENCES conf); INSERT INTO a_child VALUES (2);
		CREATE TABLE member (x int); INSERT INTO member VALUES (1);
		CREATE SEQUENCE conf_seq START 5; CREATE SEQUENCE member_seq;
		CREATE TABLE own (h hstore); INSERT INTO own VALUES ('a=>1');
		ALTER EXTENSION hstore ADD TABLE a_child; ALTER EXTENSION hstore ADD TABLE conf; ALTER EXTENSION hstore ADD TABLE member;
		ALTER EXTENSION hstore ADD SEQUENCE conf_seq; ALTER EXTENSION hstore ADD SEQUENCE member_seq;
		UPDATE pg_extension SET extconfig = ARRAY['a_child'::regclass::oid, 'conf'::regclass::oid, 'conf_seq'::regclass::oid],
			extcondition = ARRAY['', 'WHERE NOT builtin', ''] WHERE extname = 'hstore'`)
	s := open(t, source.Config{URL: pgtest.Server(t).URL(db)})
	var names []string
	for _, r := range s.Relations {
		names = append(names, r.Name.Name)
	}
	if want := []string{"own", "conf", "a_child"}; !slices.Equal(names, want) { // the referenced one first
		t.Fatalf("relations %q, want %q", names, want)
	}
	conf := relation(t, s, "public", "conf")
	if got := text(t, s, conf); got != "2\tf\n" || !conf.Extension {
		t.Errorf("rows of the condition = %q", got)
	}
	if sequences, err := s.Sequences(context.Background()); err != nil || sequences != "SELECT pg_catalog.setval('\"public\".\"conf_seq\"', 5, false);\n" {
		t.Errorf("sequences = %q, %v", sequences, err)
	}
}

func TestLargeTablesAreReadInRanges(t *testing.T) {
	db := pgtest.DBName(t)
	sql(t, db, `CREATE TABLE big AS SELECT i, repeat('x', 100) AS t FROM generate_series(1, 20000) i; CREATE TABLE kid (z int) INHERITS (big); INSERT INTO kid VALUES (0, 'k', 1);
		CREATE TABLE wide (); INSERT INTO wide SELECT FROM generate_series(1, 20000)`)
	s := roundTrip(t, db, source.Config{Workers: 8, RangeBlocks: 32})
	for _, name := range []string{"big", "wide"} {
		rel := relation(t, s, "public", name)
		if len(rel.Ranges) < 3 || rel.Ranges[0].From != -1 || rel.Ranges[len(rel.Ranges)-1].To != -1 {
			t.Fatalf("ranges of %s = %v", name, rel.Ranges)
		}
		for i := 1; i < len(rel.Ranges); i++ {
			if rel.Ranges[i].From != rel.Ranges[i-1].To {
				t.Fatalf("ranges leave a gap: %v", rel.Ranges)
			}
		}
	}
	if rel := relation(t, s, "public", "kid"); len(rel.Ranges) != 1 {
		t.Errorf("a small table in ranges: %v", rel.Ranges)
	}
	// What one worker may do alone is not cut: a plain COPY costs the server less.
	s = roundTrip(t, db, source.Config{Workers: 1, RangeBlocks: 32})
	if big, wide := relation(t, s, "public", "big"), relation(t, s, "public", "wide"); len(big.Ranges) < 3 || len(wide.Ranges) != 1 {
		t.Errorf("with one worker, ranges of big = %v, of wide = %v", big.Ranges, wide.Ranges)
	}
}

func TestLargeObjectsComeBack(t *testing.T) {
	dropRoles(t, "lo_owner", "lo_reader", "lo_grantor")
	db := pgtest.DBName(t)
	sql(t, db, `CREATE ROLE lo_owner; CREATE ROLE lo_reader; CREATE ROLE lo_grantor;
		SELECT lo_create(1001), lo_create(1002), lo_from_bytea(1003, decode(repeat('00ff0a5c27', 200000), 'hex')), lo_create(1004), lo_create(4000000000), lo_create(1006), lo_create(1007);
		SELECT lo_put(1002, 3000000, '\x010203'), lo_put(4000000000, 0, '\x27'), lo_put(1004, 0, decode(repeat('00', 262144 * 2), 'hex')), lo_put(1006, 0, decode(repeat('00', 262144), 'hex'));
		ALTER LARGE OBJECT 1003 OWNER TO lo_owner; GRANT SELECT ON LARGE OBJECT 1003 TO PUBLIC; GRANT ALL ON LARGE OBJECT 1003 TO lo_grantor WITH GRANT OPTION;
		REVOKE UPDATE ON LARGE OBJECT 1004 FROM postgres; GRANT UPDATE ON LARGE OBJECT 1004 TO lo_reader;
		REVOKE ALL ON LARGE OBJECT 1007 FROM postgres;
		COMMENT ON LARGE OBJECT 1002 IS E'two\nlines, it''s';`)
	sql(t, db, `SET ROLE lo_grantor; GRANT SELECT ON LARGE OBJECT 1003 TO lo_reader`)
	s := roundTrip(t, db, source.Config{})
	los, err := s.LargeObjects(context.Background())
	if err != nil || len(los) != 7 {
		t.Fatal(los, err)
	}
	if got := los[2].Roles(); !slices.Equal(got, []string{"lo_grantor", "lo_owner", "lo_reader"}) {
		t.Errorf("roles = %q", got)
	}
	if strings.Contains(s.PreData+s.PostData, "lo_create") {
		t.Error("pg_dump's DDL makes large objects too")
	}
	longest := 0
	if err := s.LargeObject(context.Background(), &los[2], func(p []byte) error { longest = max(longest, len(p)); return nil }); err != nil || longest > 600<<10 {
		t.Errorf("longest statement %d bytes, %v", longest, err)
	}
}

func TestOtherEncodings(t *testing.T) {
	const every = `CREATE TABLE b (i int, c text); INSERT INTO b SELECT i, chr(i) FROM generate_series(1, 255) i WHERE i NOT BETWEEN 128 AND 159`
	for _, c := range []struct{ name, encoding, setup, client string }{
		{"LATIN1", "LATIN1", every, "LATIN1"},
		{"LATIN1 with names that are not ASCII", "LATIN1", every + `; DO $$ BEGIN EXECUTE format('CREATE TABLE %I (%I text)', 'Stra' || chr(223) || 'e', chr(233)); EXECUTE format('INSERT INTO %I VALUES (chr(252))', 'Stra' || chr(223) || 'e'); END $$`, "UTF8"},
		{"SQL_ASCII", "SQL_ASCII", `CREATE TABLE b (i int, c text); INSERT INTO b SELECT i, convert_from(decode(lpad(to_hex(i), 2, '0'), 'hex'), 'SQL_ASCII') FROM generate_series(1, 255) i`, "SQL_ASCII"},
	} {
		t.Run(c.name, func(t *testing.T) {
			options := []string{"TEMPLATE template0", "ENCODING '" + c.encoding + "'", "LOCALE 'C'"}
			db := pgtest.DBName(t, options...)
			sql(t, db, c.setup)
			s := roundTrip(t, db, source.Config{}, options...)
			if s.Info.Encoding != c.encoding || s.Info.ClientEncoding != c.client {
				t.Errorf("info = %+v", s.Info)
			}
			if c.client == c.encoding && !strings.Contains(text(t, s, relation(t, s, "public", "b")), "252\t\xfc\n") {
				t.Error("bytes were changed")
			}
		})
	}
	t.Run("SQL_ASCII with names that are not UTF-8", func(t *testing.T) {
		db := pgtest.DBName(t, "TEMPLATE template0", "ENCODING 'SQL_ASCII'", "LOCALE 'C'")
		sql(t, db, `DO $$ BEGIN EXECUTE format('CREATE TABLE %I ()', convert_from('\xe9', 'SQL_ASCII')); END $$`)
		if _, err := source.Open(context.Background(), source.Config{URL: pgtest.Server(t).URL(db)}); err == nil || !strings.Contains(err.Error(), "not UTF-8") {
			t.Errorf("%v", err)
		}
	})
}

// pg_dump prints casts by name; here the first needs the second, and the second has a comment that must come along.
func TestCastsThatNeedEachOther(t *testing.T) {
	db := pgtest.DBName(t)
	sql(t, db, `CREATE TYPE label; CREATE FUNCTION label_in(cstring) RETURNS label LANGUAGE internal IMMUTABLE STRICT AS 'textin';
		CREATE FUNCTION label_out(label) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
		CREATE TYPE label (input = label_in, output = label_out, like = text);
		CREATE FUNCTION say(int) RETURNS text LANGUAGE sql AS $$ SELECT 'no. ' || $1 $$;
		CREATE FUNCTION say(date) RETURNS text LANGUAGE sql AS $$ SELECT 'day ' || $1 $$;
		CREATE CAST (text AS label) WITHOUT FUNCTION AS IMPLICIT; COMMENT ON CAST (text AS label) IS E'the other\n\n--\nneeds it';
		CREATE CAST (int AS label) WITH FUNCTION say(int); CREATE CAST (date AS label) WITH FUNCTION say(date); COMMENT ON CAST (int AS label) IS 'said';
		CREATE TABLE t (l label); INSERT INTO t VALUES (5::label)`)
	s := roundTrip(t, db, source.Config{})
	if text(t, s, relation(t, s, "public", "t")) != "no. 5\n" {
		t.Error("rows changed")
	}
	casts := s.PreData[strings.Index(s.PreData, "CREATE CAST"):]
	if !strings.HasPrefix(casts, "CREATE CAST (text AS public.label) WITHOUT") || strings.Count(casts, "CREATE CAST") != 3 {
		t.Errorf("%s", casts)
	}
}
