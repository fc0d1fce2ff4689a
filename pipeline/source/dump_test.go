package source_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/source"
	"lethe/scrub/catalog"
)

// pgDump writes a dump file of a database.
func pgDump(t testing.TB, db string, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dump.sql")
	cmd := exec.Command(pgtest.Server(t).Tool("pg_dump"), append(args, "--file="+path, "-d", pgtest.Server(t).URL(db))...)
	cmd.Env = append(os.Environ(), "PGOPTIONS=-c bytea_output=hex -c TimeZone=UTC -c lc_monetary=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func openDump(t testing.TB, path string) *source.Dump {
	t.Helper()
	d, err := source.OpenDump(context.Background(), source.DumpConfig{Path: path, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// dumpTable returns the rows of one table.
func dumpTable(t testing.TB, d *source.Dump, rel *source.Relation) string {
	t.Helper()
	var out bytes.Buffer
	var sum int64
	for _, r := range rel.Ranges {
		n, err := d.Copy(context.Background(), rel, r, &out)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	if lines := int64(strings.Count(out.String(), "\n")); lines != sum {
		t.Fatalf("%s: %d lines, and Copy says %d rows", rel.Name, lines, sum)
	}
	return out.String()
}

// dumpScript is everything that was read from a dump file, as text for psql.
func dumpScript(t testing.TB, d *source.Dump) string {
	t.Helper()
	ctx := context.Background()
	los, err := d.LargeObjects(ctx)
	if err != nil {
		t.Fatal(err)
	}
	names := slices.Clone(d.Catalog.Roles)
	for i := range los {
		names = append(names, los[i].Roles()...)
	}
	var out strings.Builder
	globals, _, err := d.Roles(ctx, names)
	if err != nil {
		t.Fatal(err)
	}
	out.WriteString(globals + d.PreData)
	for i := range d.Relations {
		rel := &d.Relations[i]
		columns := ""
		if len(rel.Columns) > 0 {
			columns = "(" + catalog.QuoteList(rel.Columns) + ") "
		}
		fmt.Fprintf(&out, "COPY %s %sFROM stdin;\n%s\\.\n", rel.Name.SQL(), columns, dumpTable(t, d, rel))
	}
	sequences, err := d.Sequences(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out.WriteString(sequences)
	for i := range los {
		if err := d.LargeObject(ctx, &los[i], func(p []byte) error {
			if !bytes.HasSuffix(p, []byte(";\n")) {
				t.Errorf("a statement without its end: %.80q", p)
			}
			out.Write(p)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	out.WriteString("\\connect\n" + d.PostData) // in a session of its own, as restores run it
	return out.String()
}

const oddObjects = `
SELECT lo_from_bytea(4711, '\x00ff0a5c27'); SELECT lo_create(4712); SELECT lo_create(4713);
DO $$ DECLARE fd int := lo_open(4713, 131072); BEGIN
	PERFORM lowrite(fd, decode(repeat('ab', 300000), 'hex')); PERFORM lo_lseek64(fd, 3000000, 0); PERFORM lowrite(fd, '\x01'); PERFORM lo_close(fd); END $$;
COMMENT ON LARGE OBJECT 4711 IS E'it''s\na \\ picture'; ALTER LARGE OBJECT 4712 OWNER TO odd_owner;
GRANT SELECT ON LARGE OBJECT 4712 TO "Odd ""Reader""" WITH GRANT OPTION; GRANT UPDATE ON LARGE OBJECT 4711 TO PUBLIC;
SET ROLE "Odd ""Reader"""; GRANT SELECT ON LARGE OBJECT 4712 TO PUBLIC; RESET ROLE;
CREATE FUNCTION crlf() RETURNS text LANGUAGE sql AS E'SELECT ''a;\r\nCOPY x FROM stdin;\n\\.\n''::text';
CREATE TABLE bits (b bit(3), v varbit, t bool, n numeric, f float8, g int GENERATED ALWAYS AS (1) STORED, d date); CREATE INDEX ON bits (n);
INSERT INTO bits VALUES (B'101', B'0', true, 'NaN', '-Infinity', DEFAULT, 'infinity'), (NULL, '', false, -1.50, 1e-20, DEFAULT, '2026-01-02');
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN RETURN NEW; END $f$; CREATE TRIGGER touch BEFORE INSERT ON bits FOR EACH ROW EXECUTE FUNCTION touch();
`

func TestDumpFilesComeBack(t *testing.T) {
	dropRoles(t, "odd_owner", `Odd "Reader"`)
	db := pgtest.DBName(t)
	sql(t, db, strings.ReplaceAll(oddTables+oddObjects, "CURRENT_DB", db))
	live := open(t, source.Config{URL: pgtest.Server(t).URL(db)})
	for name, args := range map[string][]string{
		"plain":         nil,
		"create":        {"--create"},
		"inserts":       {"--inserts"},
		"named inserts": {"--column-inserts", "--rows-per-insert=2", "--on-conflict-do-nothing"},
		"sessions":      {"--use-set-session-authorization"},
		"no quoting":    {"--quote-all-identifiers", "--disable-dollar-quoting", "--verbose"},
	} {
		t.Run(name, func(t *testing.T) {
			d := openDump(t, pgDump(t, db, append(args, "--encoding=UTF8")...))
			into := pgtest.DBName(t)
			sql(t, into, "GRANT CREATE ON DATABASE "+into+" TO odd_owner") // to make a schema under its own name
			if _, err := pgtest.Server(t).Psql(context.Background(), into, strings.NewReader(dumpScript(t, d))); err != nil {
				t.Fatal(err)
			}
			sameDatabase(t, db, into)
			if got, want := d.Catalog.Fingerprint(), live.Catalog.Fingerprint(); got != want {
				t.Errorf("the schema's fingerprint is %s, the server's %s", got, want)
			}
			for i := range live.Relations {
				want := &live.Relations[i]
				got := d.Relations[i]
				if got.Name != want.Name || !slices.Equal(got.Columns, want.Columns) {
					t.Fatalf("relation %d is %s %q, on the server %s %q", i, got.Name, got.Columns, want.Name, want.Columns)
				}
				if a, b := dumpTable(t, d, &got), text(t, live, want); a != b {
					t.Errorf("%s: %q, on the server %q", got.Name, a, b)
				}
			}
			if d.Info.ServerVersion != live.Info.ServerVersion || d.Info.PgDumpVersion != live.Info.PgDumpVersion || d.Info.Encoding != "UTF8" || d.Info.ClientEncoding != "UTF8" {
				t.Errorf("info = %+v", d.Info)
			}
			for line := range strings.Lines(live.PostData) { // which a session of its own runs
				if (strings.HasPrefix(line, "SET ") || strings.Contains(line, "set_config")) && !strings.Contains(d.PostData, line) {
					t.Errorf("post-data lacks %s", line)
				}
			}
			if name == "create" {
				a, b := d.Info, live.Info
				b.SystemID, b.Timeline, b.LSN, b.Local, b.Started = "", "", "", false, a.Started
				if fmt.Sprintf("%+v", a) != fmt.Sprintf("%+v", b) {
					t.Errorf("info of the database\n got %+v\nwant %+v", a, b)
				}
			}
			if len(d.Remarks) > 0 {
				t.Errorf("remarks: %q", d.Remarks)
			}
			if err := d.Alive(); err != nil {
				t.Error(err)
			}
		})
	}
}

// smallDump is a dump file of everything that can be cut in the middle.
func smallDump(t testing.TB) string {
	db := pgtest.DBName(t)
	sql(t, db, `CREATE TABLE a (id int PRIMARY KEY, t text); INSERT INTO a VALUES (1, E'x\\.\ny'), (2, NULL);
		CREATE TABLE b (id serial, a int REFERENCES a); INSERT INTO b (a) VALUES (1);
		CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'; SELECT lo_from_bytea(99, decode(repeat('ab', 40000), 'hex'))`)
	text, err := os.ReadFile(pgDump(t, db))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func openText(t testing.TB, text string) (*source.Dump, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dump.sql")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := source.OpenDump(context.Background(), source.DumpConfig{Path: path})
	if err == nil {
		t.Cleanup(d.Close)
	}
	return d, err
}

// A dump that is cut off anywhere must not look whole.
func TestDumpFilesCutOffAreRefused(t *testing.T) {
	whole := smallDump(t)
	end := strings.Index(whole, "-- PostgreSQL database dump complete\n") + len("-- PostgreSQL database dump complete\n")
	path := filepath.Join(t.TempDir(), "dump.sql")
	for n := 0; n <= len(whole); n++ {
		if n%23 > 0 && n < len(whole)-300 && (n == 0 || whole[n-1] != '\n') || n > 20000 && n < len(whole)-3000 && n%997 > 0 { // inside the large object
			continue
		}
		if err := os.WriteFile(path, []byte(whole[:n]), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := source.OpenDump(context.Background(), source.DumpConfig{Path: path})
		if err == nil {
			d.Close()
		}
		if err == nil && n < end || err != nil && n == len(whole) {
			t.Fatalf("cut after %d of %d bytes, behind %q: error %v", n, len(whole), tail(whole[:n]), err)
		}
		var e *source.Error
		if err != nil && (!errors.As(err, &e) || e.Help == "" || !strings.Contains(err.Error(), path)) {
			t.Fatalf("cut after %d bytes: the error lacks the file or what to try: %v", n, err)
		}
	}
}

func tail(s string) string { return s[max(0, len(s)-60):] }

func TestDumpFilesThatAreRefused(t *testing.T) {
	whole := smallDump(t)
	replace := func(old, with string) string {
		if !strings.Contains(whole, old) {
			t.Fatalf("the dump has no %q", old)
		}
		return strings.Replace(whole, old, with, 1)
	}
	const copyA = "COPY public.a (id, t) FROM stdin;\n"
	for name, c := range map[string]struct{ text, want, help string }{
		"empty":              {"", "does not begin as", "pg_dump"},
		"gzip":               {"\x1f\x8b\x08...", "compressed with gzip", "gzip -dc"},
		"zstd":               {"\x28\xb5\x2f\xfd...", "compressed with zstd", "zstd -d"},
		"custom format":      {"PGDMP\x01\x0e", "custom format", "pg_restore -f"},
		"tar format":         {"toc.dat\x00\x00", "tar format", "pg_restore -f"},
		"encrypted":          {"age-encryption.org/v1\n", "encrypted", "age -d"},
		"UTF-16":             {"\xff\xfe-\x00-\x00", "UTF-16", "--file"},
		"CRLF":               {strings.ReplaceAll(whole, "\n", "\r\n"), "carriage return", "binary"},
		"CRLF in rows":       {replace("2\t\\N\n", "2\t\\N\r\n"), "carriage return", "binary"},
		"pg_dumpall":         {"--\n-- PostgreSQL database cluster dump\n--\n", "whole server", "pg_dump"},
		"two dumps":          {whole + whole, "behind the end", "one dump at a time"},
		"rows behind":        {strings.Replace(whole, "-- PostgreSQL database dump complete", copyA+"\\.\n-- PostgreSQL database dump complete", 1), "behind indexes", "as pg_dump wrote it"},
		"another database":   {replace("SET row_security = off;", "SET row_security = off;\n\\connect other\n"), "another database", "by itself"},
		"include":            {replace("SET row_security = off;", "SET row_security = off;\n\\i other.sql\n"), "meta-command", "as pg_dump wrote it"},
		"clean":              {replace("CREATE TABLE public.a", "DROP TABLE IF EXISTS public.a;\nCREATE TABLE public.a"), "drops things", "--clean"},
		"unknown table":      {replace(copyA, "COPY public.other (id, t) FROM stdin;\n"), "does not create", "one run"},
		"unknown column":     {replace(copyA, "COPY public.a (id, x) FROM stdin;\n"), "does not name the table's columns", ""},
		"a column less":      {replace(copyA, "COPY public.a (id) FROM stdin;\n"), "does not name the table's columns", ""},
		"a column twice":     {replace(copyA, "COPY public.a (id, id) FROM stdin;\n"), "does not name the table's columns", ""},
		"other columns":      {replace(copyA, copyA+"\\.\nCOPY public.a (t, id) FROM stdin;\n"), "different kinds", ""},
		"csv":                {replace(copyA, "COPY public.a (id, t) FROM stdin WITH (FORMAT csv);\n"), "without options", ""},
		"UPDATE":             {replace(copyA, "UPDATE public.a SET t = '';\n"+copyA), "does not write", ""},
		"SELECT":             {replace(copyA, "SELECT pg_catalog.pg_sleep(1);\n"+copyA), "does not write", ""},
		"INSERT from query":  {replace(copyA, "INSERT INTO public.b SELECT 1, 2;\n"+copyA), "only literals", ""},
		"inserted and not":   {replace(copyA, "INSERT INTO public.a VALUES (3, 'z');\n"+copyA), "different kinds", ""},
		"no version":         {replace("-- Dumped from", "-- Dumped for"), "which version", ""},
		"no encoding":        {replace("SET client_encoding", "SET application_name"), "client_encoding", ""},
		"an odd encoding":    {replace("SET client_encoding = 'UTF8'", "SET client_encoding = 'SJIS'"), "SJIS", "UTF8"},
		"names not UTF-8":    {replace("FUNCTION public.f()", "FUNCTION public.\"f\xe9\"()"), "not UTF-8", "UTF8"},
		"NUL":                {replace("2\t\\N\n", "2\t\x00\n"), "NUL", ""},
		"an object too much": {replace("lo_open('99'", "lo_open('98'"), "98, which is not created", "one run"},
		"an object reopened": {replace("SELECT pg_catalog.lo_close(0);", ""), "does not end", ""},
		"behind stdin;":      {replace(copyA, "COPY public.a (id, t) FROM stdin; SELECT 1;\n"), "behind COPY", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := openText(t, c.text)
			var e *source.Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || !strings.Contains(e.Help, c.help) {
				t.Fatalf("error %v (help %q), want %q (%q)", err, e.Hint(), c.want, c.help)
			}
			if strings.Contains(err.Error(), `x\\.\ny`) {
				t.Errorf("a row in the error: %v", err)
			}
		})
	}
	if _, err := source.OpenDump(context.Background(), source.DumpConfig{Path: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "directory") {
		t.Errorf("a directory: %v", err)
	}
	for _, path := range []string{"-", os.DevNull} {
		if _, err := source.OpenDump(context.Background(), source.DumpConfig{Path: path}); err == nil || !strings.Contains(err.Error(), "more than once") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// Rows that somebody edited are looked at when they are read.
func TestDumpRowsThatAreRefused(t *testing.T) {
	whole := smallDump(t)
	for name, c := range map[string]struct{ row, want string }{
		"a field less":   {"2\n", "1 fields"},
		"a field more":   {"2\t\\N\t3\n", "3 fields"},
		"an end mark":    {"2\tx\\.\n", "end-of-data mark"},
		"no UTF-8":       {"2\t\xff\n", "not UTF-8"},
		"nothing at all": {"\n", "1 fields"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := openText(t, strings.Replace(whole, "2\t\\N\n", c.row, 1))
			if err != nil {
				t.Fatal(err)
			}
			err = d.CopyTable(context.Background(), catalog.Name{Schema: "public", Name: "a"}, &bytes.Buffer{})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), " a:") {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestDumpFilesThatChangeAreNoticed(t *testing.T) {
	whole := smallDump(t)
	for name, change := range map[string]func(path string) error{
		"longer":   func(path string) error { return os.WriteFile(path, []byte(whole+"\n"), 0o600) },
		"touched":  func(path string) error { return os.Chtimes(path, time.Time{}, time.Unix(1, 0)) },
		"replaced": func(path string) error { return errors.Join(os.Remove(path), os.WriteFile(path, []byte(whole), 0o600)) },
		"gone":     os.Remove,
		"shorter":  func(path string) error { return os.Truncate(path, 3000) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "dump.sql")
			if err := os.WriteFile(path, []byte(whole), 0o600); err != nil {
				t.Fatal(err)
			}
			d := openDump(t, path)
			if err := d.Alive(); err != nil {
				t.Fatal(err)
			}
			if err := change(path); err != nil {
				t.Fatal(err)
			}
			if err := d.Alive(); err == nil || source.Retryable(err) {
				t.Errorf("not noticed: %v", err)
			}
		})
	}
}

// A table's rows may stand in several blocks, and a block larger than a span is read in several.
func TestDumpBlocksAndSpans(t *testing.T) {
	whole := smallDump(t)
	const copyA = "COPY public.a (id, t) FROM stdin;\n"
	row := strings.Repeat("x", 1000)
	var rows strings.Builder
	n := 0
	for ; rows.Len() < 150<<20; n++ {
		fmt.Fprintf(&rows, "%d\t%s\n", n, row)
	}
	long := "7\t" + strings.Repeat("é", 3<<20) + "\n"
	rows.WriteString(long)
	d, err := openText(t, strings.Replace(whole, copyA, copyA+"\\.\n"+copyA+rows.String()+"\\.\n"+copyA, 1))
	if err != nil {
		t.Fatal(err)
	}
	rel := d.Relations[0]
	if rel.Name.Name != "a" || len(rel.Ranges) < 5 {
		t.Fatalf("%+v", rel)
	}
	want := rows.String() + "1\tx\\\\.\\ny\n2\t\\N\n"
	if got := dumpTable(t, d, &rel); got != want {
		t.Errorf("%d bytes, want %d", len(got), len(want))
	}
	if rel.Bytes != int64(len(want)) {
		t.Errorf("Bytes = %d, want %d", rel.Bytes, len(want))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := d.Copy(ctx, &rel, rel.Ranges[1], &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func FuzzDump(f *testing.F) {
	const head, end = "--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version 15.18\n-- Dumped by pg_dump version 15.18\n\nSET client_encoding = 'UTF8';\n",
		"\n--\n-- PostgreSQL database dump complete\n--\n"
	for _, s := range []string{"", "CREATE TABLE public.a (id int);\nCOPY public.a (id) FROM stdin;\n1\n\\.\n", "CREATE TABLE public.a (id int);\nINSERT INTO public.a VALUES (1);\n",
		"SELECT pg_catalog.lo_create('7');\nSELECT pg_catalog.lo_open('7', 131072);\nSELECT pg_catalog.lowrite(0, '\\x00ff');\nSELECT pg_catalog.lo_close(0);\n",
		"SELECT pg_catalog.setval('public.s', 3, true);\n", "CREATE DATABASE d WITH ENCODING = 'UTF8' LOCALE = 'C';\n\\connect d\nALTER DATABASE d SET search_path TO 'a', E'b\\\\';\n",
		"COMMENT ON LARGE OBJECT 7 IS 'x';", "SET SESSION AUTHORIZATION a;\n", "\\restrict a\n", "COPY public.a FROM stdin;\n\\."} {
		f.Add(s)
	}
	path := filepath.Join(f.TempDir(), "dump.sql")
	f.Fuzz(func(t *testing.T, s string) {
		if err := os.WriteFile(path, []byte(head+s+end), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx := context.Background()
		d, err := source.OpenDump(ctx, source.DumpConfig{Path: path})
		if err != nil {
			return
		}
		defer d.Close()
		for i := range d.Relations {
			_ = d.CopyTable(ctx, d.Relations[i].Name, &bytes.Buffer{}) // an error is fine, a panic is not
		}
		los, _ := d.LargeObjects(ctx)
		for i := range los {
			_ = d.LargeObject(ctx, &los[i], func([]byte) error { return nil })
		}
	})
}

// What pg_dump's options leave out or change is taken as it is, remarked on, or refused.
func TestDumpFilesOfOtherOptions(t *testing.T) {
	db := pgtest.DBName(t)
	sql(t, db, `CREATE EXTENSION hstore; CREATE TABLE conf (id int); INSERT INTO conf VALUES (7); ALTER EXTENSION hstore ADD TABLE conf;
		UPDATE pg_extension SET extconfig = ARRAY['conf'::regclass::oid], extcondition = ARRAY[''] WHERE extname = 'hstore';
		CREATE TABLE part (k int) PARTITION BY LIST (k); CREATE TABLE part_1 PARTITION OF part DEFAULT; INSERT INTO part VALUES (1);
		CREATE TABLE big (m money, t text); INSERT INTO big VALUES (-1234.5, 'é'), (NULL, ''); CREATE VIEW v AS SELECT * FROM big; GRANT SELECT ON big TO PUBLIC;
		SELECT lo_create(77)`)
	reads := func(t *testing.T, d *source.Dump, table, want string) {
		t.Helper()
		var out bytes.Buffer
		if err := d.CopyTable(context.Background(), catalog.Name{Schema: "public", Name: table}, &out); err != nil || out.String() != want {
			t.Errorf("%s: %q, %v, want %q", table, out.String(), err, want)
		}
	}
	t.Run("as usual", func(t *testing.T) {
		d := openDump(t, pgDump(t, db))
		reads(t, d, "conf", "7\n")
		reads(t, d, "part_1", "1\n")
		reads(t, d, "big", "-$1,234.50\té\n\\N\t\n")
		if last := d.Relations[len(d.Relations)-1]; last.Name.Name != "conf" || !last.Extension {
			t.Errorf("%+v", last)
		}
		if len(d.Remarks) != 1 || !strings.Contains(d.Remarks[0], "conf") {
			t.Errorf("remarks %q", d.Remarks)
		}
	})
	t.Run("--exclude-table-data", func(t *testing.T) {
		d := openDump(t, pgDump(t, db, "--exclude-table-data=big", "--no-owner", "--no-acl"))
		reads(t, d, "big", "")
		if len(d.Remarks) != 2 || !strings.Contains(strings.Join(d.Remarks, ";"), "no rows, and no place for them, of big") {
			t.Errorf("remarks %q", d.Remarks)
		}
		los, err := d.LargeObjects(context.Background())
		if err != nil || len(los) != 1 {
			t.Fatal(los, err)
		}
		var text bytes.Buffer
		if err := d.LargeObject(context.Background(), &los[0], func(p []byte) error { text.Write(p); return nil }); err != nil || text.String() != "SELECT pg_catalog.lo_create('77');\n" {
			t.Errorf("%q, %v", text.String(), err)
		}
	})
	t.Run("--encoding=LATIN1", func(t *testing.T) {
		d := openDump(t, pgDump(t, db, "--encoding=LATIN1"))
		reads(t, d, "big", "-$1,234.50\t\xe9\n\\N\t\n")
		if d.Info.ClientEncoding != "LATIN1" || d.Encoding() != "LATIN1" {
			t.Errorf("info %+v", d.Info)
		}
	})
	t.Run("money of another locale", func(t *testing.T) {
		text, err := os.ReadFile(pgDump(t, db))
		if err != nil {
			t.Fatal(err)
		}
		d, err := openText(t, strings.Replace(string(text), "-$1,234.50", "-1.234,50 €", 1))
		if err != nil {
			t.Fatal(err)
		}
		err = d.CopyTable(context.Background(), catalog.Name{Schema: "public", Name: "big"}, &bytes.Buffer{})
		var e *source.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), "money") || !strings.Contains(e.Help, "lc_monetary") || strings.Contains(err.Error(), "234") {
			t.Errorf("error %v", err)
		}
	})
	for option, want := range map[string]string{"--load-via-partition-root": "without --load-via-partition-root", "--clean": "without --clean", "--data-only": "in one run"} {
		t.Run(option, func(t *testing.T) {
			_, err := source.OpenDump(context.Background(), source.DumpConfig{Path: pgDump(t, db, option)})
			var e *source.Error
			if !errors.As(err, &e) || !strings.Contains(e.Help, want) {
				t.Errorf("error %v", err)
			}
		})
	}
	t.Run("--schema-only", func(t *testing.T) {
		d := openDump(t, pgDump(t, db, "--schema-only"))
		if len(d.Remarks) != 1 || len(d.Relations) != 2 || d.PostData != "" || d.Catalog.Fingerprint() != openDump(t, pgDump(t, db)).Catalog.Fingerprint() {
			t.Errorf("%q, %+v", d.Remarks, d.Relations)
		}
	})
}

// BenchmarkDump reads a dump file of 100 MB: once to find everything, once for its rows.
func BenchmarkDump(b *testing.B) {
	path := filepath.Join(b.TempDir(), "dump.sql")
	var text bytes.Buffer
	text.WriteString("--\n-- PostgreSQL database dump\n--\n\n-- Dumped from database version 15.18\n-- Dumped by pg_dump version 15.18\n\nSET client_encoding = 'UTF8';\n" +
		"CREATE TABLE public.a (id int, t text);\nCOPY public.a (id, t) FROM stdin;\n")
	for i := 0; text.Len() < 100<<20; i++ {
		fmt.Fprintf(&text, "%d\tsome text of about a hundred bytes, as comments and posts have it, with a \\t escape now and then %d\n", i, i)
	}
	text.WriteString("\\.\n\n--\n-- PostgreSQL database dump complete\n--\n")
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		b.Fatal(err)
	}
	b.Run("open", func(b *testing.B) {
		b.SetBytes(int64(text.Len()))
		b.ReportAllocs()
		for b.Loop() {
			openDump(b, path)
		}
	})
	b.Run("rows", func(b *testing.B) {
		d := openDump(b, path)
		b.SetBytes(int64(text.Len()))
		b.ReportAllocs()
		for b.Loop() {
			if err := d.CopyTable(context.Background(), catalog.Name{Schema: "public", Name: "a"}, discard{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
