package pipeline_test

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

	"lethe/pipeline"
	"lethe/pipeline/pgtemp"
	"lethe/pipeline/pgtemp/pgtest"
)

// The measure of fidelity: a database that went through Lethe is what one that went through pg_dump | psql is, as
// pg_dump shows them: the DDL line by line, the rows of each table as a multiset, sequences and large objects too.

// session is what pg_dump runs under here, whatever the database's own settings, so that only content can differ.
const session = "PGOPTIONS=-c bytea_output=hex -c TimeZone=UTC -c lc_monetary=C -c standard_conforming_strings=on"

// pgDump runs pg_dump on a database, in the database's encoding.
func pgDump(t testing.TB, url string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(pgtest.Server(t).Tool("pg_dump"), append(args, "-d", url)...)
	cmd.Env = append(os.Environ(), session)
	var remarks bytes.Buffer // of circular foreign keys, say
	cmd.Stderr = &remarks
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("pg_dump: %v\n%s", err, remarks.String())
	}
	return out
}

// ddl is a database's DDL, line by line, without pg_dump's random lines.
func ddl(t testing.TB, url string, args ...string) []string {
	lines := strings.Split(string(pgDump(t, url, append(args, "--schema-only")...)), "\n")
	return slices.DeleteFunc(lines, func(l string) bool {
		return strings.HasPrefix(l, `\restrict `) || strings.HasPrefix(l, `\unrestrict `)
	})
}

// content is a database's rows by COPY statement, sorted; under "" stands what is no row: sequences and large objects.
func content(t testing.TB, url string) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	table := ""
	for _, l := range strings.Split(string(pgDump(t, url, "--data-only", "--blobs")), "\n") {
		switch {
		case table == "" && strings.HasPrefix(l, "COPY ") && strings.HasSuffix(l, " FROM stdin;"):
			table = l
			all[table] = nil
		case table != "" && l == `\.`:
			table = ""
		case table == "" && (strings.HasPrefix(l, `\restrict `) || strings.HasPrefix(l, `\unrestrict `) || strings.HasPrefix(l, "--")):
		default:
			all[table] = append(all[table], l)
		}
	}
	for _, rows := range all {
		slices.Sort(rows)
	}
	return all
}

// same compares two databases.
func same(t *testing.T, what, want, got string, args ...string) {
	t.Helper()
	a, b := ddl(t, want, args...), ddl(t, got, args...)
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			t.Errorf("%s: DDL differs at line %d of %d and %d:\nwant %.500q\ngot  %.500q", what, i+1, len(a), len(b), a[min(i, len(a)):min(i+3, len(a))], b[min(i, len(b)):min(i+3, len(b))])
			break
		}
	}
	rows, restored := content(t, want), content(t, got)
	for table := range rows {
		if _, ok := restored[table]; !ok {
			t.Errorf("%s: no %s", what, table)
		} else if !slices.Equal(rows[table], restored[table]) {
			t.Errorf("%s: %s: %d rows, want %d, or other ones:\nwant %.300q\ngot  %.300q", what, table, len(restored[table]), len(rows[table]), rows[table], restored[table])
		}
	}
	for table := range restored {
		if _, ok := rows[table]; !ok {
			t.Errorf("%s: %s is new", what, table)
		}
	}
}

// psql runs a script to its end, or fails the test.
func psql(t testing.TB, url string, script []byte) {
	t.Helper()
	cmd := exec.Command(pgtest.Server(t).Tool("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url)
	cmd.Stdin = bytes.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("psql: %v\n%.2000s", err, out)
	}
}

// newName names a database that a restore makes, and drops it afterwards.
func newName(t testing.TB, s *pgtemp.Server, name string) string {
	t.Helper()
	name = "restored_" + name
	t.Cleanup(func() { drop(t, s, name) })
	return name
}

// drop drops a database; what could forbid it (its settings, a subscription) goes first.
func drop(t testing.TB, s *pgtemp.Server, name string) {
	t.Helper()
	ctx := context.Background()
	if there, err := s.Value(ctx, "postgres", "SELECT count(*) FROM pg_database WHERE datname = '"+name+"'"); err != nil || there == "0" {
		return
	}
	run := func(db, sql string) {
		if err := s.Exec(ctx, db, sql); err != nil {
			t.Error(err)
		}
	}
	run("postgres", "ALTER DATABASE "+name+" RESET ALL")
	subscriptions, err := s.Query(ctx, name, "SELECT quote_ident(subname) FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())")
	if err != nil {
		t.Error(err)
	}
	for _, r := range subscriptions {
		run(name, "ALTER SUBSCRIPTION "+r[0]+" SET (slot_name = NONE); DROP SUBSCRIPTION "+r[0])
	}
	if err := s.DropDatabase(ctx, name); err != nil {
		t.Error(err)
	}
}

func testdata(t testing.TB, name, db string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(text, []byte(":DB"), []byte(db))
}

// restoring is the configuration of a restore by the key holder, of the newest snapshot.
func (s *site) restoring() pipeline.RestoreConfig {
	return pipeline.RestoreConfig{Repository: s.open(), Snapshot: "latest", Identities: s.holder, Workers: 3, Now: time.Now}
}

func restore(t testing.TB, c pipeline.RestoreConfig) *pipeline.RestoreReport {
	t.Helper()
	report, err := pipeline.Restore(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestRoundTrip(t *testing.T) {
	server := pgtest.Server(t)
	ctx := context.Background()
	roles := []string{"odd_owner", "odd_reader", `"Odd ""Röle"""`}
	for _, r := range roles {
		t.Cleanup(func() {
			if err := server.Exec(ctx, "postgres", "DROP ROLE IF EXISTS "+r); err != nil {
				t.Error(err)
			}
		})
		if err := server.Exec(ctx, "postgres", "CREATE ROLE "+r); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Exec(ctx, "postgres", `ALTER ROLE odd_reader LOGIN NOINHERIT PASSWORD 'secret'; GRANT odd_owner TO odd_reader WITH ADMIN OPTION`); err != nil {
		t.Fatal(err)
	}
	psql(t, server.URL("postgres"), []byte(`SET allow_in_place_tablespaces = on; CREATE TABLESPACE "odd Space" LOCATION '';`))
	t.Cleanup(func() { psql(t, server.URL("postgres"), []byte(`DROP TABLESPACE "odd Space"`)) })
	db := pgtest.DBName(t, "TEMPLATE template0")
	psql(t, server.URL(db), testdata(t, "odd.sql", db))
	t.Cleanup(func() { drop(t, server, db) })
	psql(t, server.URL(db), testdata(t, "odd_superuser.sql", db))

	plain := pgtest.DBName(t, "TEMPLATE template0")
	t.Cleanup(func() { drop(t, server, plain) })
	psql(t, server.URL(plain), pgDump(t, server.URL(db)))

	s := siteOf(t, server.URL(db))
	s.ranges = 8
	s.backup()

	t.Run("into a new database", func(t *testing.T) {
		name := newName(t, server, db)
		c := s.restoring()
		c.To = server.URL(name)
		if report := restore(t, c); len(report.LeftOut) > 0 {
			t.Errorf("left out %q", report.LeftOut)
		}
		same(t, "restored", server.URL(plain), server.URL(name))
		sameProperties(t, server, db, server, name)
	})
	t.Run("into an empty database", func(t *testing.T) {
		name := pgtest.DBName(t, "TEMPLATE template0")
		t.Cleanup(func() { drop(t, server, name) })
		c := s.restoring()
		c.To = server.URL(name)
		restore(t, c)
		same(t, "restored in place", server.URL(plain), server.URL(name))
	})
	t.Run("as SQL text", func(t *testing.T) {
		name := pgtest.DBName(t, "TEMPLATE template0")
		t.Cleanup(func() { drop(t, server, name) })
		var text bytes.Buffer
		c := s.restoring()
		c.Output = &text
		restore(t, c)
		psql(t, server.URL(name), text.Bytes())
		same(t, "restored as text", server.URL(plain), server.URL(name))
	})
	t.Run("on a server without roles and tablespace", func(t *testing.T) {
		other, err := pgtemp.Start(ctx, pgtemp.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := other.Stop(); err != nil {
				t.Error(err)
			}
		})
		c := s.restoring()
		c.To = other.URL("afresh")
		if _, err := pipeline.Restore(ctx, c); err == nil || !strings.Contains(err.Error(), "odd_owner") {
			t.Errorf("missing roles: %v", err)
		}
		c.CreateRoles = true
		if left := restore(t, c).LeftOut; len(left) != 1 || !strings.Contains(left[0], `"odd Space"`) {
			t.Errorf("left out %q", left)
		}
		same(t, "restored elsewhere", server.URL(plain), other.URL("afresh"), "--no-tablespaces")
		sameProperties(t, server, db, other, "afresh")
		const attributes = `SELECT rolname, rolcanlogin, rolinherit, rolpassword IS NULL, (SELECT string_agg(roleid::regrole || ':' || admin_option, ',') FROM pg_auth_members WHERE member = a.oid)
			FROM pg_authid a WHERE rolname ~* '^odd' ORDER BY 1`
		got, err := other.Query(ctx, "afresh", attributes)
		if want := `[[Odd "Röle" f t t ] [odd_owner f t t ] [odd_reader t f t odd_owner:true]]`; err != nil || fmt.Sprint(got) != want {
			t.Errorf("roles %v, %v, want %s", got, err, want)
		}
	})
}

// sameProperties compares what belongs to a database and pg_dump leaves to pg_dumpall.
func sameProperties(t *testing.T, a *pgtemp.Server, one string, b *pgtemp.Server, two string) {
	t.Helper()
	const properties = `SELECT pg_encoding_to_char(encoding), datcollate, datctype, datlocprovider, daticulocale, shobj_description(d.oid, 'pg_database'),
		(SELECT string_agg(coalesce(r.rolname, '') || ' ' || c, E'\n' ORDER BY r.rolname, c) FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = setrole, unnest(setconfig) c WHERE setdatabase = d.oid)
		FROM pg_database d WHERE datname = '%s'`
	want, err := a.Query(context.Background(), "postgres", fmt.Sprintf(properties, one))
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.Query(context.Background(), "postgres", fmt.Sprintf(properties, two))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(want[0], got[0]) {
		t.Errorf("properties of the database:\nwant %q\ngot  %q", want, got)
	}
}

// Who restores need not be a superuser, nor have the source's roles.
func TestRoundTripWithoutOwners(t *testing.T) {
	server := pgtest.Server(t)
	const role = "odd plain"
	if err := server.Exec(context.Background(), "postgres", `CREATE ROLE "odd plain" CREATEDB LOGIN; CREATE ROLE odd_left_behind`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Exec(context.Background(), "postgres", `DROP ROLE "odd plain", odd_left_behind`); err != nil {
			t.Error(err)
		}
	})
	db := pgtest.DBName(t, "TEMPLATE template0")
	psql(t, server.URL(db), testdata(t, "odd.sql", db))
	psql(t, server.URL(db), []byte(`ALTER TABLE many OWNER TO odd_left_behind; GRANT SELECT (k) ON known TO odd_left_behind; SELECT lo_from_bytea(7, 'seven'); ALTER LARGE OBJECT 7 OWNER TO odd_left_behind;
		ALTER DEFAULT PRIVILEGES FOR ROLE odd_left_behind GRANT SELECT ON TABLES TO PUBLIC;`))
	options := []string{"--no-owner", "--no-privileges"}
	plain := pgtest.DBName(t, "TEMPLATE template0", `OWNER "odd plain"`)
	psql(t, server.URLAs(role, plain), pgDump(t, server.URL(db), options...))

	s := siteOf(t, server.URL(db))
	s.backup()
	name := newName(t, server, db)
	c := s.restoring()
	c.To, c.NoOwner, c.NoACL = server.URLAs(role, name), true, true
	restore(t, c)
	same(t, "without owners", server.URL(plain), server.URL(name))

	name = pgtest.DBName(t, "TEMPLATE template0", `OWNER "odd plain"`)
	var text bytes.Buffer
	c.To, c.Output = "", &text
	restore(t, c)
	psql(t, server.URLAs(role, name), text.Bytes())
	same(t, "without owners, as text", server.URL(plain), server.URL(name))
}

func TestRoundTripOfEncodings(t *testing.T) {
	server := pgtest.Server(t)
	for _, c := range []struct {
		name, setup string
		options     []string
	}{
		{"empty", "", []string{"ENCODING 'UTF8'", "LOCALE 'C.UTF-8'"}},
		{"ICU", `CREATE TABLE t (v text PRIMARY KEY); INSERT INTO t VALUES ('ä'), ('z'), ('A')`, []string{"ENCODING 'UTF8'", "LOCALE 'C.UTF-8'", "LOCALE_PROVIDER icu", "ICU_LOCALE 'de-AT'"}},
		{"LATIN1", `CREATE TABLE b (i int, c text); INSERT INTO b SELECT i, chr(i) FROM generate_series(1, 255) i WHERE i NOT BETWEEN 128 AND 159;
			DO $$ BEGIN EXECUTE format('CREATE TABLE %I (%I text DEFAULT %L)', 'Stra' || chr(223) || 'e', chr(233), chr(228)); EXECUTE format('INSERT INTO %I VALUES (chr(252))', 'Stra' || chr(223) || 'e'); END $$`,
			[]string{"ENCODING 'LATIN1'", "LOCALE 'C'"}},
		{"SQL_ASCII", `CREATE TABLE b (i int, c text, g text GENERATED ALWAYS AS (c || 'x') STORED); INSERT INTO b SELECT i, convert_from(decode(lpad(to_hex(i), 2, '0'), 'hex'), 'SQL_ASCII') FROM generate_series(1, 255) i;
			INSERT INTO b VALUES (0, convert_from('\xc3a9c3ffe9275c', 'SQL_ASCII'))`, []string{"ENCODING 'SQL_ASCII'", "LOCALE 'C'"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			options := append([]string{"TEMPLATE template0"}, c.options...)
			db, plain, byText := pgtest.DBName(t, options...), pgtest.DBName(t, options...), pgtest.DBName(t, options...)
			if err := server.Exec(context.Background(), db, c.setup); err != nil {
				t.Fatal(err)
			}
			psql(t, server.URL(plain), pgDump(t, server.URL(db)))
			s := siteOf(t, server.URL(db))
			s.backup()
			name := newName(t, server, db)
			conf := s.restoring()
			conf.To = server.URL(name)
			restore(t, conf)
			same(t, "restored", server.URL(plain), server.URL(name))
			sameProperties(t, server, db, server, name)
			var text bytes.Buffer
			conf.To, conf.Output = "", &text
			restore(t, conf)
			psql(t, server.URL(byText), text.Bytes())
			same(t, "restored as text", server.URL(plain), server.URL(byText))
		})
	}
}

// recipe is the README's way to restore without Lethe.
func recipe(t testing.TB) string {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join("..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(readme), "\nset -euo pipefail\n")
	block, _, end := strings.Cut(block, "\n```")
	if !found || !end {
		t.Fatal("README.md has no fenced block that starts with set -euo pipefail")
	}
	return "set -euo pipefail\n" + block + "\n"
}

// The recipe, as the README has it: run in the repository, with the private key in the file key, the manifest in SNAP.age, and
// an empty database newdb; only that database's name differs here.
func TestByHandRecipe(t *testing.T) {
	server := pgtest.Server(t)
	port, err := server.Value(context.Background(), "postgres", "SHOW port")
	if err != nil {
		t.Fatal(err)
	}
	db := pgtest.DBName(t, "TEMPLATE template0")
	psql(t, server.URL(db), testdata(t, "odd.sql", db))
	psql(t, server.URL(db), []byte(`SELECT lo_from_bytea(7, 'seven')`))
	plain := pgtest.DBName(t, "TEMPLATE template0")
	psql(t, server.URL(plain), pgDump(t, server.URL(db)))
	s := siteOf(t, server.URL(db))
	id := s.backup()
	m := s.manifest(s.open(), id, s.holder)
	many := table(t, m, "many").Objects[0]
	object := filepath.Join("objects", many.Object[:2], many.Object)

	// run runs the recipe, changed by edit, in a copy of the repository that harm has been at.
	run := func(t *testing.T, edit func(string) string, harm func(t *testing.T, dir string)) (into string, output string, err error) {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "repository")
		if err := os.CopyFS(dir, os.DirFS(s.path)); err != nil {
			t.Fatal(err)
		}
		manifest, err := os.ReadFile(filepath.Join(dir, "snapshots", id+".age"))
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{"SNAP.age": manifest, "key": []byte(s.private + "\n")} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		harm(t, dir)
		into = pgtest.DBName(t, "TEMPLATE template0")
		text := recipe(t)
		if strings.Count(text, " newdb") != 1 {
			t.Fatal("the recipe names newdb other than once")
		}
		cmd := exec.Command("bash", "-c", edit(strings.Replace(text, " newdb", " "+into, 1)))
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(server.Tool("psql"))+":"+os.Getenv("PATH"), "PGHOST="+server.Dir(), "PGPORT="+port, "PGUSER=postgres")
		out, err := cmd.CombinedOutput()
		return into, string(out), err
	}
	asItIs := func(s string) string { return s }
	nothing := func(*testing.T, string) {}
	missing := func(t *testing.T, dir string) {
		if err := os.Remove(filepath.Join(dir, object)); err != nil {
			t.Fatal(err)
		}
	}
	flipped := func(t *testing.T, dir string) {
		path := filepath.Join(dir, object)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)-100] ^= 1
		if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("whole", func(t *testing.T) {
		into, out, err := run(t, asItIs, nothing)
		if err != nil {
			t.Fatalf("%v\n%.2000s", err, out)
		}
		same(t, "by hand", server.URL(plain), server.URL(into))
	})
	for name, harm := range map[string]func(*testing.T, string){"object missing": missing, "byte flipped": flipped} {
		t.Run(name, func(t *testing.T) {
			into, out, err := run(t, asItIs, harm)
			if err == nil {
				t.Errorf("the recipe went through:\n%.2000s", out)
			}
			if n, err := server.Value(context.Background(), into, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"); err != nil || n != "0" {
				t.Errorf("psql began: %s relations, %v", n, err)
			}
			// Should an object go bad after the digests were checked, psql stops there.
			into, out, err = run(t, func(s string) string { return strings.Replace(s, " && sha256sum -c --quiet sums", "", 1) }, harm)
			if err == nil {
				t.Errorf("without digests, the recipe went through:\n%.2000s", out)
			}
			keys, err := server.Value(context.Background(), into, "SELECT count(*) FILTER (WHERE contype = 'f') FROM pg_constraint WHERE connamespace = 'public'::regnamespace")
			if err != nil || keys != "0" {
				t.Errorf("psql went on: %s foreign keys, %v", keys, err)
			}
		})
	}
}
