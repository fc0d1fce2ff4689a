package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"filippo.io/age"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rogpeppe/go-internal/testscript"

	"lethe/pipeline/archive"
	"lethe/pipeline/pgtemp"
	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/store/s3/s3test"
)

func TestMain(m *testing.M) {
	testscript.Main(withServer{m}, map[string]func(){
		"lethe": main,
	})
}

// withServer stops the shared PostgreSQL server after the tests.
type withServer struct{ m *testing.M }

func (w withServer) Run() int { return pgtest.Run(w.m) }

// TestScripts runs every script of testdata/script: one behaviour of the command line each, against a real PostgreSQL.
// Scripts have these commands beside testscript's own:
//
//	newdb VAR [OPTIONS…]   creates an empty database, puts its name into $VAR; OPTIONS are words of CREATE DATABASE
//	dbname VAR             puts an unused database name into $VAR; dropped at the end if it came to be
//	sql DB FILE            runs a file with psql, all or nothing; its output is stdout
//	identity FILE VAR [hybrid]  makes an age identity, puts its public key into $VAR
//	setup                  newdb DB, sql from schema.sql, identity key.txt, lethe.yml and rules.yml if they are
//	                       missing, lethe init: what most scripts begin with
//	server VAR [tcp]       starts a PostgreSQL of the script's own; $VAR is its URL of database postgres. With tcp the
//	                       script's programs reach it over TCP, and $PASSWORD is what it wants
//	stopserver             stops it at once
//	flip FILE OFFSET       changes one byte; a negative offset counts from the end
//	truncate FILE BYTES    cuts bytes off its end
//	pick VAR GLOB [N]      puts the Nth file that matches (from 0, in name order; -1 the last) into $VAR
//	biggest VAR GLOB       puts the largest file that matches into $VAR
//	until DB SQL           asks the server until SQL answers t
//	role VAR               puts an unused role name into $VAR; dropped at the end if it came to be
//	pgbouncer VAR DB       starts a pgbouncer in transaction mode before the server; $VAR is the URL of DB through it
//	noleaks FILE           no word of FILE is in the stdout or stderr of the last program
//	snapshots STORE N      the store has exactly N committed snapshots
//	code N PROGRAM ARGS…   runs a program, which must end with exit code N; stdout and stderr are its
//	resign FILE            gives a manifest of store/ a new signature by operator.key
//	s3server VAR           starts an S3 server of the script's own, with a bucket: $VAR is the URL of a store in it, and
//	                       AWS_* are set; $VAR_FILES is the folder in which the store's files lie
//	nodb NAME              there is no such database, and no leftover of a restore
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			s := pgtest.Server(t)
			for _, v := range os.Environ() { // nothing of the caller's database settings may reach a script
				if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "LETHE_") {
					env.Setenv(name, "")
				}
			}
			env.Setenv("HOME", env.WorkDir)
			format1, err := filepath.Abs("testdata/format1")
			if err != nil {
				return err
			}
			env.Setenv("FORMAT1", format1)
			bin := filepath.Join(env.WorkDir, ".bin")
			if err := errors.Join(os.Mkdir(bin, 0o755), os.WriteFile(filepath.Join(bin, "traced"), []byte(traced), 0o755)); err != nil {
				return err
			}
			env.Setenv("PATH", bin+":"+filepath.Dir(s.Tool("psql"))+":"+os.Getenv("PATH")+":"+env.Getenv("PATH"))
			for name, value := range address(s) {
				env.Setenv(name, value)
			}
			env.Setenv("PGUSER", "postgres")
			env.Setenv("PGDATABASE", "postgres")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"newdb":  func(ts *testscript.TestScript, neg bool, args []string) { newDatabase(t, ts, args[0], args[1:]...) },
			"dbname": func(ts *testscript.TestScript, neg bool, args []string) { databaseName(t, ts, args[0]) },
			"sql":    func(ts *testscript.TestScript, neg bool, args []string) { runSQL(t, ts, args[0], args[1]) },
			"identity": func(ts *testscript.TestScript, neg bool, args []string) {
				newIdentity(ts, args[0], args[1], len(args) > 2)
			},
			"setup":      func(ts *testscript.TestScript, neg bool, args []string) { setup(t, ts) },
			"server":     func(ts *testscript.TestScript, neg bool, args []string) { ownServer(ts, args[0], args[1:]...) },
			"stopserver": func(ts *testscript.TestScript, neg bool, args []string) { stopServer(ts) },
			"flip":       func(ts *testscript.TestScript, neg bool, args []string) { flip(ts, args[0], args[1]) },
			"truncate":   func(ts *testscript.TestScript, neg bool, args []string) { truncate(ts, args[0], args[1]) },
			"pick":       pick,
			"biggest":    biggest,
			"snapshots":  snapshots,
			"until":      until,
			"role":       func(ts *testscript.TestScript, neg bool, args []string) { roleName(t, ts, args[0]) },
			"pgbouncer":  func(ts *testscript.TestScript, neg bool, args []string) { startPooler(t, ts, args[0], args[1]) },
			"noleaks":    noLeaks,
			"code":       exitsWith,
			"resign":     func(ts *testscript.TestScript, neg bool, args []string) { resign(ts, args[0]) },
			"s3server":   func(ts *testscript.TestScript, neg bool, args []string) { startS3(t, ts, args[0]) },
			"nodb":       func(ts *testscript.TestScript, neg bool, args []string) { noDatabase(t, ts, args[0]) },
		},
	})
}

// traced runs a program so that a script can signal it and see its exit code:
//
//	exec traced run lethe backup &run&
//	exec sh -c 'kill -INT $(cat run.pid)'
//	wait run
//	stderr 'exit 130'
const traced = `#!/bin/sh
sh -c 'echo $$ >"$0.pid"; exec "$@"' "$@"
echo "exit $?" >&2
`

// exitsWith is the command code.
func exitsWith(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N PROGRAM ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	switch err := ts.Exec(args[1], args[2:]...); {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%s: %v", args[1], err)
	}
	if got != want {
		ts.Fatalf("%s ended with exit code %d, not %d", args[1], got, want)
	}
}

// address is where a server answers, as libpq's variables.
func address(s *pgtemp.Server) map[string]string {
	c, err := pgconn.ParseConfig(s.URL("postgres"))
	if err != nil {
		panic(err) // pgtemp's own URL
	}
	return map[string]string{"PGHOST": c.Host, "PGPORT": strconv.Itoa(int(c.Port))}
}

var names struct {
	sync.Mutex
	n int
}

func databaseName(t *testing.T, ts *testscript.TestScript, variable string) string {
	names.Lock()
	names.n++
	name := fmt.Sprintf("script_%d", names.n)
	names.Unlock()
	ts.Setenv(variable, name)
	ts.Defer(func() {
		if err := pgtest.Server(t).DropDatabase(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	return name
}

func newDatabase(t *testing.T, ts *testscript.TestScript, variable string, options ...string) {
	ts.Check(pgtest.Server(t).CreateDatabase(context.Background(), databaseName(t, ts, variable), options...))
}

func runSQL(t *testing.T, ts *testscript.TestScript, db, file string) {
	ts.Check(ts.Exec(pgtest.Server(t).Tool("psql"), "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-1", "-d", db, "-f", ts.MkAbs(file)))
}

func newIdentity(ts *testscript.TestScript, file, variable string, hybrid bool) {
	if hybrid {
		id, err := age.GenerateHybridIdentity()
		ts.Check(err)
		ts.Check(archive.WriteSecretFile(ts.MkAbs(file), id.String()+"\n"))
		ts.Setenv(variable, id.Recipient().String())
		return
	}
	id, err := age.GenerateX25519Identity()
	ts.Check(err)
	ts.Check(archive.WriteSecretFile(ts.MkAbs(file), id.String()+"\n"))
	ts.Setenv(variable, id.Recipient().String())
}

// setup is the beginning that most scripts share. It leaves $DB, $RECIPIENT, key.txt, lethe.yml, rules.yml and a
// repository in store/.
func setup(t *testing.T, ts *testscript.TestScript) {
	newDatabase(t, ts, "DB")
	if _, err := os.Stat(ts.MkAbs("schema.sql")); err == nil {
		runSQL(t, ts, ts.Getenv("DB"), "schema.sql")
	}
	newIdentity(ts, "key.txt", "RECIPIENT", false)
	write := func(name, text string) {
		if _, err := os.Stat(ts.MkAbs(name)); os.IsNotExist(err) {
			ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o644))
		}
	}
	write("lethe.yml", fmt.Sprintf("database: {url: \"postgres:///%s\"}\nrules: rules.yml\nrecipients: [%s]\noperator_key: operator.key\nstores: [{url: store}]\n",
		ts.Getenv("DB"), ts.Getenv("RECIPIENT")))
	write("rules.yml", "version: 1\ndataset: test\n")
	ts.Check(ts.Exec("lethe", "init", "-q"))
}

var own struct {
	sync.Mutex
	servers map[string]*pgtemp.Server // by script
}

func ownServer(ts *testscript.TestScript, variable string, how ...string) {
	tcp := slices.Equal(how, []string{"tcp"})
	s, err := pgtemp.Start(context.Background(), pgtemp.Options{TCP: tcp})
	ts.Check(err)
	own.Lock()
	defer own.Unlock()
	if own.servers == nil {
		own.servers = map[string]*pgtemp.Server{}
	}
	own.servers[ts.Name()] = s
	ts.Setenv(variable, s.URL("postgres"))
	for name, value := range address(s) {
		ts.Setenv(name, value)
	}
	if tcp {
		c, err := pgconn.ParseConfig(s.TCPURL("postgres"))
		ts.Check(err)
		ts.Setenv("PGHOST", c.Host)
		ts.Setenv("PGPORT", strconv.Itoa(int(c.Port)))
		ts.Setenv("PASSWORD", c.Password)
	}
	ts.Defer(func() { _ = s.Stop() }) // the script may have stopped it
}

func stopServer(ts *testscript.TestScript) {
	own.Lock()
	s := own.servers[ts.Name()]
	own.Unlock()
	if s == nil {
		ts.Fatalf("stopserver without server")
	}
	ts.Check(s.Stop())
}

func flip(ts *testscript.TestScript, file, offset string) {
	path := ts.MkAbs(file)
	data, err := os.ReadFile(path)
	ts.Check(err)
	at, err := strconv.Atoi(offset)
	ts.Check(err)
	if at < 0 {
		at += len(data)
	}
	if at < 0 || at >= len(data) {
		ts.Fatalf("%s has %d bytes, none at %s", file, len(data), offset)
	}
	data[at] ^= 1
	replace(ts, path, data)
}

func truncate(ts *testscript.TestScript, file, bytes string) {
	path := ts.MkAbs(file)
	data, err := os.ReadFile(path)
	ts.Check(err)
	n, err := strconv.Atoi(bytes)
	ts.Check(err)
	replace(ts, path, data[:len(data)-n])
}

func replace(ts *testscript.TestScript, path string, data []byte) {
	ts.Check(os.Remove(path))
	ts.Check(os.WriteFile(path, data, 0o600))
}

// resign is what only the holder of the operator's key can do.
func resign(ts *testscript.TestScript, file string) {
	op, err := archive.ReadOperatorKey(ts.MkAbs("operator.key"))
	ts.Check(err)
	text, err := os.ReadFile(ts.MkAbs("store/" + archive.RepositoryName))
	ts.Check(err)
	repository, err := archive.ParseRepository(text)
	ts.Check(err)
	data, err := os.ReadFile(ts.MkAbs(file))
	ts.Check(err)
	sig, err := archive.Sign(op.Signing, archive.PurposeManifest, repository.Repository, archive.SnapshotsPrefix+filepath.Base(file), data)
	ts.Check(err)
	replace(ts, ts.MkAbs(file)+archive.SignatureSuffix, sig)
}

func matches(ts *testscript.TestScript, pattern string) []string {
	found, err := filepath.Glob(ts.MkAbs(pattern))
	ts.Check(err)
	if len(found) == 0 {
		ts.Fatalf("nothing matches %s", pattern)
	}
	return found
}

func pick(ts *testscript.TestScript, neg bool, args []string) {
	found := matches(ts, args[1])
	n := 0
	if len(args) > 2 {
		var err error
		n, err = strconv.Atoi(args[2])
		ts.Check(err)
	}
	if n < 0 {
		n += len(found)
	}
	if n < 0 || n >= len(found) {
		ts.Fatalf("%d files match %s", len(found), args[1])
	}
	ts.Setenv(args[0], found[n])
}

func biggest(ts *testscript.TestScript, neg bool, args []string) {
	var best string
	var most int64 = -1
	for _, f := range matches(ts, args[1]) {
		info, err := os.Stat(f)
		ts.Check(err)
		if info.Size() > most {
			best, most = f, info.Size()
		}
	}
	ts.Setenv(args[0], best)
}

func snapshots(ts *testscript.TestScript, neg bool, args []string) {
	found, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "snapshots", "*.age"))
	ts.Check(err)
	if want, err := strconv.Atoi(args[1]); err != nil || want != len(found) {
		ts.Fatalf("%s has %d snapshots, not %s: %v", args[0], len(found), args[1], found)
	}
}

func noDatabase(t *testing.T, ts *testscript.TestScript, name string) {
	rows, err := pgtest.Server(t).Query(context.Background(), "postgres", fmt.Sprintf(
		`SELECT datname FROM pg_database d WHERE datname = '%[1]s' OR
		 (starts_with(datname, 'lethe_restoring_') AND shobj_description(oid, 'pg_database') LIKE '%% as %[1]s')`, name))
	ts.Check(err)
	if len(rows) > 0 {
		ts.Fatalf("database %s is there", rows[0][0])
	}
}

// until asks on one connection, again and again for as long as the test may run.
func until(ts *testscript.TestScript, neg bool, args []string) {
	ctx := context.Background()
	conn, err := pgconn.Connect(ctx, fmt.Sprintf("host=%s port=%s user=postgres dbname=%s", ts.Getenv("PGHOST"), ts.Getenv("PGPORT"), args[0]))
	ts.Check(err)
	defer conn.Close(ctx)
	for {
		results, err := conn.Exec(ctx, args[1]).ReadAll()
		ts.Check(err)
		if rows := results[0].Rows; len(rows) == 1 && string(rows[0][0]) == "t" {
			return
		}
	}
}

func roleName(t *testing.T, ts *testscript.TestScript, variable string) {
	names.Lock()
	names.n++
	name := fmt.Sprintf("script_role_%d", names.n)
	names.Unlock()
	ts.Setenv(variable, name)
	ts.Defer(func() { // databases that were made after it are gone by now, and its privileges in them
		if err := pgtest.Server(t).Exec(context.Background(), "postgres", "DROP ROLE IF EXISTS "+name); err != nil {
			t.Error(err)
		}
	})
}

// startPooler runs pgbouncer under the account of the server, since it refuses to be root.
func startPooler(t *testing.T, ts *testscript.TestScript, variable, db string) {
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		path = "/usr/sbin/pgbouncer" // not on everybody's PATH
	}
	server := pgtest.Server(t)
	info, err := os.Stat(server.Dir())
	ts.Check(err)
	owner := info.Sys().(*syscall.Stat_t)
	dir, err := os.MkdirTemp("", "lethe-pooler") // short enough for a socket
	ts.Check(err)
	ts.Defer(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	conf := filepath.Join(dir, "pgbouncer.ini")
	ts.Check(os.WriteFile(conf, fmt.Appendf(nil, "[databases]\n* = host=%s port=%s user=postgres\n[pgbouncer]\nunix_socket_dir = %s\n"+
		"listen_port = 6432\nlisten_addr =\nauth_type = any\npool_mode = transaction\nignore_startup_parameters = extra_float_digits\n",
		server.Dir(), address(server)["PGPORT"], dir), 0o644))
	cmd := exec.Command(path, conf)
	cmd.Dir = dir
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
		ts.Check(os.Chown(dir, int(owner.Uid), int(owner.Gid)))
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	ts.Check(cmd.Start())
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is stopped by a signal
		close(exited)
	}()
	ts.Defer(func() { _ = cmd.Process.Signal(syscall.SIGQUIT); <-exited })
	url := "postgres:///" + db + "?port=6432&user=postgres&host=" + dir
	for {
		conn, err := pgconn.Connect(context.Background(), url)
		if err == nil {
			_ = conn.Close(context.Background())
			break
		}
		select {
		case <-exited:
			ts.Fatalf("pgbouncer: %s", out.String())
		default:
		}
	}
	ts.Setenv(variable, url)
}

func startS3(t *testing.T, ts *testscript.TestScript, variable string) {
	ctx := context.Background()
	s, err := s3test.Start(ctx)
	ts.Check(err)
	ts.Defer(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	bucket, err := s.Bucket(ctx)
	ts.Check(err)
	for name, value := range s.Environment() {
		ts.Setenv(name, value)
	}
	ts.Setenv(variable, s.URL(bucket, "backup/lethe"))
	ts.Setenv(variable+"_FILES", filepath.Join(s.Folder(bucket), "backup", "lethe"))
}

func noLeaks(ts *testscript.TestScript, neg bool, args []string) {
	said := ts.ReadFile("stdout") + ts.ReadFile("stderr")
	for _, secret := range strings.Fields(ts.ReadFile(args[0])) {
		if strings.Contains(said, secret) {
			ts.Fatalf("%s was printed", secret)
		}
	}
}
