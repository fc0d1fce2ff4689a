package source_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"lethe/pipeline/pgtemp"
	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/source"
)

// connect opens a connection of the application's own.
func connect(t testing.TB, url string) *pgconn.PgConn {
	t.Helper()
	conn, err := pgconn.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// run runs SQL on a connection.
func run(t testing.TB, conn *pgconn.PgConn, text string) {
	t.Helper()
	if _, err := conn.Exec(context.Background(), text).ReadAll(); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// until asks the server again and again for as long as the test may run.
func until(t testing.TB, db, query string) {
	t.Helper()
	for {
		got, err := pgtest.Server(t).Value(context.Background(), db, query)
		if err != nil {
			t.Fatal(err)
		}
		if got == "t" {
			return
		}
	}
}

// gate is a writer that stops at the first row until the test lets it go on.
type gate struct {
	first   sync.Once
	started chan struct{} // closed at the first row
	open    chan struct{} // rows pass once it is closed
}

func newGate() *gate { return &gate{started: make(chan struct{}), open: make(chan struct{})} }

func (g *gate) Write(p []byte) (int, error) {
	g.first.Do(func() { close(g.started) })
	<-g.open
	return len(p), nil
}

// manyRows are more than the buffers between server and test hold.
const manyRows = `CREATE TABLE big AS SELECT i, repeat('x', 1000) AS t FROM generate_series(1, 50000) i`

func TestOneMoment(t *testing.T) {
	db := pgtest.DBName(t)
	sql(t, db, `CREATE TABLE a (i int); INSERT INTO a VALUES (1); CREATE SEQUENCE q; SELECT lo_from_bytea(77, 'old')`)
	s := open(t, source.Config{URL: pgtest.Server(t).URL(db), Workers: 2, LockTimeout: short})
	sql(t, db, `INSERT INTO a VALUES (2); SELECT lo_put(77, 0, 'new'); SELECT lo_create(78); CREATE TABLE later (i int)`)
	if got := text(t, s, relation(t, s, "public", "a")); got != "1\n" {
		t.Errorf("rows = %q", got)
	}
	var out bytes.Buffer
	if n, err := s.CopyQuery(context.Background(), "SELECT count(*), 'x' FROM public.a -- comment", &out); err != nil || n != 1 || out.String() != "1\tx\n" {
		t.Errorf("query = %q, %d, %v", out.String(), n, err)
	}
	los, err := s.LargeObjects(context.Background())
	if err != nil || len(los) != 1 {
		t.Fatal(los, err)
	}
	out.Reset()
	if err := s.LargeObject(context.Background(), &los[0], func(p []byte) error { out.Write(p); return nil }); err != nil || !strings.Contains(out.String(), `\x6f6c64`) {
		t.Errorf("large object = %q, %v", out.String(), err)
	}
	for query, want := range map[string]bool{"SELECT true": true, "SELECT EXISTS (SELECT FROM public.a WHERE i = 2)": false} {
		if got, err := s.Bool(context.Background(), query); err != nil || got != want {
			t.Errorf("%s: %v, %v", query, got, err)
		}
	}
	for _, query := range []string{"SELECT NULL::bool", "SELECT true WHERE false", "SELECT 1"} {
		if _, err := s.Bool(context.Background(), query); err == nil {
			t.Errorf("%s is no answer", query)
		}
	}
	if _, err := s.CopyQuery(context.Background(), "SELECT 'somebody@example.org'::int", io.Discard); err == nil || strings.Contains(err.Error(), "somebody") {
		t.Errorf("a value in the error: %v", err)
	}
	if got := text(t, s, relation(t, s, "public", "a")); got != "1\n" { // a failed query costs nothing
		t.Errorf("rows = %q", got)
	}
}

func TestChangesMeanwhileStartOver(t *testing.T) {
	for _, c := range []struct{ step, change, want string }{
		{"listed", "TRUNCATE a; INSERT INTO a VALUES (9)", "9\n"},
		{"listed", "ALTER TABLE a ALTER i TYPE bigint; INSERT INTO a VALUES (2)", "1\n2\n"},
		{"listed", "ALTER TABLE a RENAME TO b; CREATE TABLE a (i int); INSERT INTO a VALUES (5)", "5\n"},
		{"listed", "DROP TABLE a; CREATE TABLE a (i int)", ""},
		{"locked", "CREATE TABLE new (i int)", "1\n"},
	} {
		t.Run(c.change, func(t *testing.T) {
			db := pgtest.DBName(t)
			sql(t, db, "CREATE TABLE a (i int); INSERT INTO a VALUES (1)")
			attempts := 0
			conf := source.Config{URL: pgtest.Server(t).URL(db), LockTimeout: 50 * time.Millisecond}
			source.Meanwhile(&conf, func(attempt int, at string) {
				attempts = attempt
				if attempt == 1 && at == c.step {
					sql(t, db, c.change)
				}
			})
			s := open(t, conf)
			if attempts != 2 {
				t.Errorf("%d attempts", attempts)
			}
			if got := text(t, s, relation(t, s, "public", "a")); got != c.want {
				t.Errorf("rows = %q, want %q", got, c.want)
			}
		})
	}
	t.Run("never quiet", func(t *testing.T) {
		db := pgtest.DBName(t)
		sql(t, db, "CREATE TABLE a (i int)")
		conf := source.Config{URL: pgtest.Server(t).URL(db), LockTimeout: 10 * time.Millisecond, Attempts: 2}
		source.Meanwhile(&conf, func(_ int, at string) {
			if at == "listed" {
				sql(t, db, "TRUNCATE a")
			}
		})
		_, err := source.Open(context.Background(), conf)
		if err == nil || !strings.Contains(err.Error(), "open a consistent view a: the table changed") || !source.Retryable(err) {
			t.Errorf("%v", err)
		}
	})
}

// An ALTER TABLE waits for a long reader, our lock waits for the ALTER: we let go, and say who it was.
func TestAlterTableBehindALongReader(t *testing.T) {
	db := pgtest.DBName(t)
	url := pgtest.Server(t).URL(db)
	sql(t, db, "CREATE TABLE busy (i int)")
	reader, alter := connect(t, url), connect(t, url+"&application_name=migration")
	run(t, reader, "BEGIN; SELECT FROM busy")
	altered := make(chan error, 1)
	go func() {
		_, err := alter.Exec(context.Background(), "ALTER TABLE busy ADD c int").ReadAll()
		altered <- err
	}()
	until(t, db, "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted")
	_, err := source.Open(context.Background(), source.Config{URL: url, LockTimeout: 50 * time.Millisecond, Attempts: 2})
	if err == nil || !source.Retryable(err) || !strings.Contains(err.Error(), "busy: pid "+pidOf(alter)+" (application migration) waits for") {
		t.Errorf("%v", err)
	}
	run(t, reader, "COMMIT")
	if err := <-altered; err != nil {
		t.Error(err)
	}
}

func pidOf(conn *pgconn.PgConn) string { return strconv.FormatUint(uint64(conn.PID()), 10) }

// The application queues behind an ALTER TABLE that waits for our lock: the lock is let go, while the view is being
// opened and when it stands, and the application goes on, though nobody closed the snapshot.
func TestApplicationDoesNotQueueBehindUs(t *testing.T) {
	application := func(t *testing.T, db, url string) {
		alter, app := connect(t, url), connect(t, url)
		altered := make(chan error, 1)
		go func() {
			_, err := alter.Exec(context.Background(), "ALTER TABLE busy ADD c int").ReadAll()
			altered <- err
		}()
		until(t, db, "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'")
		run(t, app, "SELECT FROM busy")
		if err := <-altered; err != nil {
			t.Error(err)
		}
	}
	t.Run("while opening", func(t *testing.T) {
		db := pgtest.DBName(t)
		url := pgtest.Server(t).URL(db)
		sql(t, db, "CREATE TABLE busy (i int)")
		conf := source.Config{URL: url, LockTimeout: 200 * time.Millisecond}
		attempts := 0
		source.Meanwhile(&conf, func(attempt int, at string) {
			attempts = attempt
			if attempt == 1 && at == "exported" {
				application(t, db, url) // returns only because the guard lets go
			}
		})
		s := open(t, conf)
		if attempts != 2 || len(relation(t, s, "public", "busy").Columns) != 2 {
			t.Errorf("%d attempts, columns %q", attempts, s.Relations[0].Columns)
		}
	})
	t.Run("while copying", func(t *testing.T) {
		db := pgtest.DBName(t)
		url := pgtest.Server(t).URL(db)
		sql(t, db, "CREATE TABLE busy (i int); "+manyRows)
		s := open(t, source.Config{URL: url, LockTimeout: 200 * time.Millisecond})
		g := newGate()
		copied := make(chan error, 1)
		go func() {
			_, err := s.Copy(context.Background(), relation(t, s, "public", "big"), source.Range{From: -1, To: -1}, g)
			copied <- err
		}()
		<-g.started
		application(t, db, url)
		close(g.open)
		for name, err := range map[string]error{"Copy": <-copied, "Alive": s.Alive()} {
			if err == nil || !source.Retryable(err) || !strings.Contains(err.Error(), "busy: pid") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("worker meets a schema change", func(t *testing.T) {
		db := pgtest.DBName(t)
		url := pgtest.Server(t).URL(db)
		sql(t, db, "CREATE TABLE busy (i int)")
		s := open(t, source.Config{URL: url, LockTimeout: time.Hour}) // the guard would let go in half an hour
		alter, app := connect(t, url), connect(t, url)
		altered, read := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := alter.Exec(context.Background(), "ALTER TABLE busy ADD c int").ReadAll()
			altered <- err
		}()
		until(t, db, "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'")
		go func() {
			_, err := app.Exec(context.Background(), "SELECT FROM busy").ReadAll()
			read <- err
		}()
		copied := make(chan error, 1)
		go func() {
			_, err := s.Copy(context.Background(), relation(t, s, "public", "busy"), source.Range{From: -1, To: -1}, io.Discard)
			copied <- err
		}()
		// The worker asks without queueing, and goes on when the ALTER has given up, which it does after the worker has asked.
		asked := false
		for waiting := true; waiting; {
			queued, err := pgtest.Server(t).Value(context.Background(), db, "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND application_name = 'lethe'")
			if err != nil || queued != "0" {
				t.Errorf("%s of our sessions queue, %v", queued, err)
			}
			if !asked {
				got, err := pgtest.Server(t).Value(context.Background(), db, "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'lethe' AND (query LIKE '%NOWAIT' OR query LIKE 'ROLLBACK TO %')")
				if err != nil {
					t.Fatal(err)
				}
				if asked = got == "t"; asked {
					sql(t, db, "SELECT pg_cancel_backend("+pidOf(alter)+")")
				}
			}
			select {
			case err := <-altered:
				waiting = false
				if err == nil {
					t.Error("the ALTER got its lock")
				}
			default:
			}
		}
		if err := <-copied; err != nil {
			t.Error(err)
		}
		if err := <-read; err != nil {
			t.Error(err)
		}
	})
}

func TestExporterTerminated(t *testing.T) {
	db := pgtest.DBName(t)
	url := pgtest.Server(t).URL(db)
	sql(t, db, manyRows)
	s := open(t, source.Config{URL: url, LockTimeout: short})
	g := newGate()
	copied := make(chan error, 1)
	go func() {
		_, err := s.Copy(context.Background(), relation(t, s, "public", "big"), source.Range{From: -1, To: -1}, g)
		copied <- err
	}()
	<-g.started
	if err := s.Alive(); err != nil {
		t.Fatal(err)
	}
	// Of our two sessions that lock the table it is the one that is not copying.
	sql(t, db, `SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a JOIN pg_locks l USING (pid)
		WHERE a.application_name = 'lethe' AND l.relation = 'big'::regclass AND a.query NOT LIKE 'COPY %'`)
	<-s.Done()
	close(g.open)
	for name, err := range map[string]error{"Copy": <-copied, "Alive": s.Alive()} {
		if err == nil || !strings.Contains(err.Error(), "the connection that exported it was lost") || !strings.Contains(err.Error(), "terminating connection") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.CopyQuery(context.Background(), "SELECT 1", io.Discard); err == nil {
		t.Error("a query after the view was gone")
	}
}

func TestServerGoneInMidCopy(t *testing.T) {
	server, err := pgtemp.Start(context.Background(), pgtemp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	if err := server.Exec(context.Background(), "postgres", manyRows); err != nil {
		t.Fatal(err)
	}
	s := open(t, source.Config{URL: server.URL("postgres"), LockTimeout: short})
	g := newGate()
	copied := make(chan error, 1)
	go func() {
		_, err := s.Copy(context.Background(), relation(t, s, "public", "big"), source.Range{From: -1, To: -1}, g)
		copied <- err
	}()
	<-g.started
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	close(g.open)
	if err := <-copied; err == nil {
		t.Error("a copy without a server")
	}
	s.Close()
}

// errFull is what a store says whose disk is full.
var errFull = errors.New("no space left")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestCancelReachesTheServer(t *testing.T) {
	db := pgtest.DBName(t)
	sql(t, db, manyRows)
	s := open(t, source.Config{URL: pgtest.Server(t).URL(db), LockTimeout: short})
	big := relation(t, s, "public", "big")

	ctx, cancel := context.WithCancelCause(context.Background())
	asked := make(chan error, 1)
	go func() {
		_, err := s.CopyQuery(ctx, "SELECT pg_sleep(3600)", io.Discard)
		asked <- err
	}()
	until(t, db, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'COPY%' AND state = 'active'")
	cancel(errFull)
	if err := <-asked; !errors.Is(err, errFull) {
		t.Errorf("the reason is lost: %v", err)
	}
	until(t, db, "SELECT count(*) = 0 FROM pg_stat_activity WHERE query LIKE 'COPY%' AND state = 'active'")

	if _, err := s.Copy(context.Background(), big, big.Ranges[0], full{}); !errors.Is(err, errFull) {
		t.Errorf("the writer's own error is lost: %v", err)
	}
	if n, err := s.Copy(context.Background(), big, big.Ranges[0], io.Discard); n != 50000 || err != nil {
		t.Errorf("after that: %d rows, %v", n, err)
	}
}

func TestNothingIsLeftRunning(t *testing.T) {
	pgtest.NoLeaks(t)
	db := pgtest.DBName(t)
	sql(t, db, manyRows)
	s, err := source.Open(context.Background(), source.Config{URL: pgtest.Server(t).URL(db), Workers: 2, LockTimeout: short})
	if err != nil {
		t.Fatal(err)
	}
	big := relation(t, s, "public", "big")
	if _, err := s.Copy(context.Background(), big, big.Ranges[0], full{}); err == nil {
		t.Error("no error")
	}
	if _, err := s.Copy(context.Background(), big, big.Ranges[0], io.Discard); err != nil {
		t.Error(err)
	}
	s.Close()
	s.Close()
	if _, err := s.Copy(context.Background(), big, big.Ranges[0], io.Discard); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after Close: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	conf := source.Config{URL: pgtest.Server(t).URL(db), LockTimeout: short}
	source.Meanwhile(&conf, func(_ int, at string) {
		if at == "exported" {
			cancel()
		}
	})
	if _, err := source.Open(ctx, conf); !errors.Is(err, context.Canceled) {
		t.Errorf("Open after cancel: %v", err)
	}
	until(t, db, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'lethe'")
}
