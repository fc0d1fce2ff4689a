package source_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"lethe/pipeline/pgtemp"
	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/source"
)

// refused opens a snapshot that must not open, and returns the error and its hint.
func refused(t testing.TB, conf source.Config) (message, hint string) {
	t.Helper()
	conf.LockTimeout = short
	s, err := source.Open(context.Background(), conf)
	if err == nil {
		s.Close()
		t.Fatal("it opened")
	}
	if h, ok := err.(interface{ Hint() string }); ok {
		hint = h.Hint()
	}
	return err.Error(), hint
}

func wants(t testing.TB, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s is %q; it should say %q", what, text, p)
		}
	}
}

// program writes a shell script that stands in for pg_dump.
func program(t testing.TB, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pg_dump")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

const saysVersion = `[ "$1" = --version ] && { echo 'pg_dump (PostgreSQL) 99.1 (Test)'; exit 0; }` + "\n"

func TestPgDumpThatDoesNotServe(t *testing.T) {
	db := pgtest.DBName(t)
	sql(t, db, "CREATE TABLE a ()")
	url := pgtest.Server(t).URL(db)
	for _, c := range []struct {
		name, path string
		says       []string
		hint       string
	}{
		{"too old", program(t, "echo 'pg_dump (PostgreSQL) 12.1'"), []string{"pg_dump 12.1 is older than the server "}, "install postgresql-client-"},
		{"missing", filepath.Join(t.TempDir(), "pg_dump"), []string{"look for pg_dump", "no such file"}, "database.pg_dump"},
		{"not pg_dump", program(t, "echo hello"), []string{"does not say its version"}, "database.pg_dump"},
		{"fails", program(t, saysVersion+"echo CREATE; echo 'pg_dump: error: no such thing' >&2; exit 1"), []string{"pg_dump p", "exit status 1", "no such thing"}, ""},
		{"prints what is no DDL", program(t, saysVersion+"echo 'CREATE TABEL x;'"), []string{"99.1", "CREATE TABEL"}, ""},
		{"leaves a table out", program(t, saysVersion+"exit 0"), []string{"a: the server has this table, but the DDL does not create it"}, ""},
		{"invents a table", program(t, saysVersion+"echo 'CREATE TABLE public.a (); CREATE TABLE public.b ();' | head -c $([ $2 = --section=pre-data ] && echo 1000 || echo 0)"), []string{"b: the DDL creates this table"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			message, hint := refused(t, source.Config{URL: url, PgDump: c.path})
			wants(t, "the error", message, c.says...)
			wants(t, "the hint", hint, c.hint)
		})
	}
	t.Run("waits for a lock", func(t *testing.T) {
		runs := filepath.Join(t.TempDir(), "runs")
		path := program(t, saysVersion+"echo x >> "+runs+"; echo 'pg_dump: error: Query was: LOCK TABLE public.a IN ACCESS SHARE MODE' >&2; exit 1")
		message, _ := refused(t, source.Config{URL: url, PgDump: path, Attempts: 2})
		wants(t, "the error", message, "tried 2 times")
		if n, err := os.ReadFile(runs); err != nil || len(n) < 4 {
			t.Errorf("runs = %q, %v", n, err)
		}
	})
}

func TestPasswordIsOnNoCommandLine(t *testing.T) {
	server, err := pgtemp.Start(context.Background(), pgtemp.Options{TCP: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	real := server.Tool("pg_dump")
	log := filepath.Join(t.TempDir(), "args")
	s := open(t, source.Config{URL: server.TCPURL("postgres") + "&target_session_attrs=any", LockTimeout: short,
		PgDump: program(t, fmt.Sprintf("printf '%%s\\n' \"$@\" >> %s\nexec %s \"$@\"", log, real))})
	if !s.Info.Local {
		t.Error("loopback is local")
	}
	args, err := os.ReadFile(log)
	if err != nil || !strings.Contains(string(args), "--section=pre-data") {
		t.Fatal(string(args), err)
	}
	config, err := pgconn.ParseConfig(server.TCPURL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(args), config.Password) || strings.Contains(string(args), "127.0.0.1") {
		t.Errorf("the connection on a command line: %s", args)
	}

	// A wrong password: no retry, and neither password is in the error.
	message, _ := refused(t, source.Config{URL: strings.Replace(server.TCPURL("postgres"), config.Password, "wr0ng-pass", 1)})
	wants(t, "the error", message, "password authentication failed")
	if strings.Contains(message, "wr0ng-pass") {
		t.Error("a password in an error")
	}

	// Of several hosts the one that answers is the one for all.
	several := strings.Replace(server.TCPURL("postgres"), "@127.0.0.1:", "@127.0.0.1:1,127.0.0.1:", 1)
	open(t, source.Config{URL: several, LockTimeout: short})
}

func TestNoServer(t *testing.T) {
	message, hint := refused(t, source.Config{URL: "postgres:///x?host=" + t.TempDir()})
	wants(t, "the error", message, "connect to PostgreSQL")
	wants(t, "the hint", hint, "check that the server runs")
	message, _ = refused(t, source.Config{URL: "postgres://u:secret@h:port/x"})
	if strings.Contains(message, "secret") {
		t.Errorf("a password in the error: %s", message)
	}
}

func TestRowsThatTheRoleCannotSee(t *testing.T) {
	dropRoles(t, "weak")
	db := pgtest.DBName(t)
	sql(t, db, `CREATE ROLE weak LOGIN; CREATE TABLE plain (i int); CREATE TABLE secret (i int); GRANT SELECT ON plain TO weak;
		CREATE SCHEMA s; CREATE TABLE s.t (); GRANT SELECT ON s.t TO weak`)
	weak := source.Config{URL: pgtest.Server(t).URLAs("weak", db)}
	message, hint := refused(t, weak)
	wants(t, "the error", message, "secret", "s.t", "no SELECT privilege")
	wants(t, "the hint", hint, "GRANT pg_read_all_data TO weak")

	sql(t, db, `GRANT SELECT ON secret TO weak; GRANT USAGE ON SCHEMA s TO weak; ALTER TABLE secret ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON secret USING (i > 0)`)
	message, hint = refused(t, weak)
	wants(t, "the error", message, "secret", "row-level security")
	wants(t, "the hint", hint, "ALTER ROLE weak BYPASSRLS")

	sql(t, db, `ALTER ROLE weak BYPASSRLS; CREATE SEQUENCE q; SELECT lo_create(5)`)
	message, hint = refused(t, weak)
	wants(t, "the error", message, "read sequence q: role weak has no SELECT privilege")
	wants(t, "the hint", hint, "GRANT pg_read_all_data TO weak")

	sql(t, db, `GRANT SELECT ON q TO weak`)
	weak.LockTimeout = short
	s := open(t, weak)
	los, err := s.LargeObjects(context.Background())
	if err != nil || len(los) != 1 {
		t.Fatal(los, err)
	}
	if err := s.LargeObject(context.Background(), &los[0], func([]byte) error { return nil }); err == nil || !strings.Contains(err.Error(), "read large object 5: role weak may not read it") {
		t.Errorf("%v", err)
	}
	sql(t, db, `DROP OWNED BY weak`)
}

// What docs/operations.md tells: LOGIN, CONNECT, pg_read_all_data, SELECT on large objects, and BYPASSRLS only where
// tables have row-level security.
func TestLeastRole(t *testing.T) {
	dropRoles(t, "least", "owner_of_all")
	db := pgtest.DBName(t)
	sql(t, db, fmt.Sprintf(`CREATE ROLE owner_of_all; CREATE ROLE least LOGIN; REVOKE ALL ON DATABASE %[1]s FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC;
		CREATE SCHEMA hidden AUTHORIZATION owner_of_all; SET ROLE owner_of_all;
		CREATE TABLE hidden.t (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v text); INSERT INTO hidden.t (v) VALUES ('x');
		CREATE FUNCTION hidden.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE VIEW hidden.v AS SELECT * FROM hidden.t; CREATE MATERIALIZED VIEW hidden.m AS SELECT * FROM hidden.t;
		RESET ROLE; SELECT lo_from_bytea(9, 'x'); ALTER LARGE OBJECT 9 OWNER TO owner_of_all; COMMENT ON DATABASE %[1]s IS 'c'; CREATE PUBLICATION p FOR ALL TABLES;
		GRANT CONNECT ON DATABASE %[1]s TO least; GRANT pg_read_all_data TO least; GRANT SELECT ON LARGE OBJECT 9 TO least`, db))
	into := pgtest.DBName(t)
	s := open(t, source.Config{URL: pgtest.Server(t).URLAs("least", db), LockTimeout: short})
	if _, err := pgtest.Server(t).Psql(context.Background(), into, strings.NewReader(script(t, s))); err != nil {
		t.Fatal(err)
	}
	sameDatabase(t, db, into)
	if s.Info.LSN == "" || s.Info.Comment != "c" {
		t.Errorf("info = %+v", s.Info)
	}
	s.Close()
	for _, d := range []string{db, into} {
		sql(t, d, "DROP OWNED BY least; DROP OWNED BY owner_of_all CASCADE")
	}
}

func TestMoreTablesThanLocks(t *testing.T) {
	server, err := pgtemp.Start(context.Background(), pgtemp.Options{Settings: map[string]string{"max_connections": "10", "max_locks_per_transaction": "10", "autovacuum": "off", "max_worker_processes": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	if err := server.Exec(context.Background(), "postgres", "DO $$ BEGIN FOR i IN 1..1500 LOOP EXECUTE 'CREATE TABLE t' || i || ' ()'; COMMIT; END LOOP; END $$"); err != nil {
		t.Fatal(err)
	}
	message, hint := refused(t, source.Config{URL: server.URL("postgres")})
	wants(t, "the error", message, "lock 1500 tables", "out of shared memory")
	wants(t, "the hint", hint, "max_locks_per_transaction")
}

// as runs a program under the account that owns the server's folder, in a folder of its own, and ends it with the test.
func as(t testing.TB, server *pgtemp.Server, dir, path string, args ...string) *exec.Cmd {
	t.Helper()
	info, err := os.Stat(server.Dir())
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
		if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	return cmd
}

// folder is a folder that another account can reach too, with a path short enough for a socket.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lethe-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// running starts a program, waits until a server answers at url, and ends the program with the test.
func running(t testing.TB, cmd *exec.Cmd, url string) {
	t.Helper()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	t.Cleanup(func() { cmd.Process.Signal(syscall.SIGQUIT); <-exited })
	for {
		conn, err := pgconn.Connect(context.Background(), url)
		if err == nil {
			conn.Close(context.Background())
			return
		}
		select {
		case <-exited:
			t.Fatalf("%s: %s", cmd.Path, out.String())
		default:
		}
	}
}

func TestPooler(t *testing.T) {
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		path = "/usr/sbin/pgbouncer" // not on everybody's PATH
	}
	db := pgtest.DBName(t)
	server := pgtest.Server(t)
	dir := folder(t)
	conf := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "[databases]\n* = host=%s port=5432 user=postgres\n[pgbouncer]\nunix_socket_dir = %s\nlisten_port = 6432\nlisten_addr =\nauth_type = any\npool_mode = transaction\nignore_startup_parameters = extra_float_digits\n", server.Dir(), dir), 0o644); err != nil {
		t.Fatal(err)
	}
	url := "postgres:///" + db + "?port=6432&user=postgres&host=" + dir
	running(t, as(t, server, dir, path, conf), url)
	message, hint := refused(t, source.Config{URL: url})
	wants(t, "the error", message, "a connection pooler answers on "+dir+" port 6432")
	wants(t, "the hint", hint, "connect to PostgreSQL itself")
}

func TestStandby(t *testing.T) {
	primary, err := pgtemp.Start(context.Background(), pgtemp.Options{Settings: map[string]string{"wal_level": "replica", "max_wal_senders": "4"}})
	if err != nil {
		t.Fatal(err)
	}
	defer primary.Stop()
	if err := primary.Exec(context.Background(), "postgres", `CREATE TABLE a (i int); INSERT INTO a VALUES (1); CREATE UNLOGGED TABLE u (i int); INSERT INTO u VALUES (1); CREATE SEQUENCE q; CREATE UNLOGGED SEQUENCE uq; SELECT lo_from_bytea(9, 'x')`); err != nil {
		t.Fatal(err)
	}
	dir := folder(t)
	data := filepath.Join(dir, "data")
	base := as(t, primary, dir, primary.Tool("pg_basebackup"), "-D", data, "-R", "-X", "stream", "-c", "fast", "-d", primary.URL("postgres"))
	if out, err := base.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	url := "postgres:///postgres?user=postgres&host=" + dir
	running(t, as(t, primary, dir, primary.Tool("postgres"), "-D", data, "-c", "unix_socket_directories="+dir), url)
	s := open(t, source.Config{URL: url, LockTimeout: short})
	if len(s.Relations) != 1 || text(t, s, &s.Relations[0]) != "1\n" || s.Info.LSN == "" {
		t.Errorf("relations %v, info %+v", s.Relations, s.Info)
	}
	if got, err := s.Sequences(context.Background()); err != nil || got != "SELECT pg_catalog.setval('\"public\".\"q\"', 1, false);\n" {
		t.Errorf("sequences = %q, %v", got, err)
	}
	s.Close() // before the server goes
}

// TestBrokenAddressIsNotShown: a password with something special in it is the usual reason why an address can't be read.
func TestBrokenAddressIsNotShown(t *testing.T) {
	for _, address := range []string{
		"postgres://lethe:first@s3cret:5432:33/x@db.example/slipmat", "postgres://lethe:s3cret%zz@db.example/slipmat", "postgres://lethe:s3cret@db.example:port/slipmat",
		"postgres://lethe:s3cret more@db.example/slipmat", "host=db.example password=first s3cret", "host=db.example password='s3cret dbname=slipmat",
		"host=db.example port=x password=s3cret", "postgres://lethe:s3cret@db.example/slipmat?sslmode=never",
	} {
		_, err := source.Open(context.Background(), source.Config{URL: address})
		if err == nil || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "db.example") {
			t.Errorf("%s: %v", address, err)
		}
	}
}
