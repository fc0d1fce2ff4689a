package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"

	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/store/s3/s3test"
	"lethe/pipeline/store/storetest"
)

// workplace is a folder in which the lethe command is run as a process of its own.
type workplace struct {
	t   *testing.T
	dir string
	env []string
}

func (w *workplace) command(args ...string) *exec.Cmd {
	cmd := exec.Command("lethe", args...)
	cmd.Dir, cmd.Env = w.dir, w.env
	return cmd
}

// run runs lethe, which must end well, and returns its stdout.
func (w *workplace) run(args ...string) string {
	w.t.Helper()
	cmd := w.command(args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("lethe %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func (w *workplace) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// gate stands between lethe and an S3 server, and stops a file on its way, so that a run can be killed just then.
type gate struct {
	server  *httptest.Server
	forward http.Handler

	mu    sync.Mutex
	shut  bool           // nothing new comes through
	stop  *stop          // nil where nothing is to be stopped
	under sync.WaitGroup // requests that came through
}

// stop is where a file is stopped.
type stop struct {
	at     int  // which file of the run, counted from 1; leases are none
	stored bool // it is there by then, and the answer does not come
	there  chan struct{}
	killed chan struct{}
}

func startGate(t *testing.T, endpoint string) *gate {
	t.Helper()
	target, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableCompression: true}
	g := &gate{forward: &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host }, // the signature covers the name
		Transport:    transport,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}}
	g.server = httptest.NewServer(g)
	t.Cleanup(func() { g.server.Close(); transport.CloseIdleConnections() })
	return g
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	if g.shut {
		g.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	g.under.Add(1)
	defer g.under.Done()
	var here *stop
	if g.stop != nil && r.Method == http.MethodPut && !strings.Contains(r.URL.Path, "/locks/") {
		if g.stop.at--; g.stop.at == 0 {
			here, g.stop = g.stop, nil
		}
	}
	g.mu.Unlock()
	r = r.WithContext(context.WithoutCancel(r.Context())) // what has been sent arrives, also when who sent it is gone
	if here == nil {
		g.forward.ServeHTTP(w, r)
		return
	}
	if here.stored {
		g.forward.ServeHTTP(httptest.NewRecorder(), r)
	}
	close(here.there)
	<-here.killed
	panic(http.ErrAbortHandler)
}

// set opens the gate, and says what it stops.
func (g *gate) set(s *stop) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut, g.stop = false, s
}

// settle closes the gate, and returns when the server has done with all that came through.
func (g *gate) settle() {
	g.mu.Lock()
	g.shut = true
	g.mu.Unlock()
	g.under.Wait()
}

// TestKilledUploads kills backups to an S3 server while one of their files is on its way, a random one. The next run finishes
// and sends at most what was on its way again, and the newest snapshot that is listed always restores.
func TestKilledUploads(t *testing.T) {
	n, random := storetest.Rounds(t, 6)
	ctx := context.Background()
	pg := pgtest.Server(t)
	db := pgtest.DBName(t)
	// Each table is one piece, less than any piece of its own could be cut from, and hard to compress.
	const tables = 30
	sql := ""
	for i := range tables {
		sql += fmt.Sprintf("CREATE TABLE t%d AS SELECT g AS id, (SELECT string_agg(md5(random()::text || j || g), '') FROM generate_series(1, 1000) j) AS noise FROM generate_series(1, 3) g;\n", i)
	}
	if err := pg.Exec(ctx, db, sql); err != nil {
		t.Fatal(err)
	}
	server, err := s3test.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	bucket, err := server.Bucket(ctx)
	if err != nil {
		t.Fatal(err)
	}
	way := startGate(t, server.Endpoint)
	objects := func() int {
		found, err := filepath.Glob(filepath.Join(server.Folder(bucket), "lethe", "objects", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}

	w := &workplace{t: t, dir: t.TempDir(), env: append(os.Environ(), "HOME="+t.TempDir())}
	for name, value := range server.Environment() {
		w.env = append(w.env, name+"="+value)
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	w.write("key.txt", identity.String()+"\n")
	w.run("init", "-q", "--database", pg.URL(db), "--recipient", identity.Recipient().String(), "--store", strings.Replace(server.URL(bucket, "lethe"), server.Endpoint, way.server.URL, 1))
	w.run("backup", "-q")

	again, killed := 0, 0
	for round := range n {
		change := ""
		for i := range tables {
			change += fmt.Sprintf("UPDATE t%d SET noise = reverse(noise) || %d;\n", i, round)
		}
		if err := pg.Exec(ctx, db, change); err != nil {
			t.Fatal(err)
		}
		before := objects()
		last := tables
		if round > 0 { // the first is killed among objects; later ones may have come to the manifest and its signature
			last += 2
		}
		s := &stop{at: 1 + random.IntN(last), stored: random.IntN(2) == 0, there: make(chan struct{}), killed: make(chan struct{})}
		what := fmt.Sprintf("round %d: killed at file %d, stored = %v", round, s.at, s.stored)
		nap := time.Duration(random.IntN(30_000)) * time.Microsecond // in which others go on
		way.set(s)
		run := w.command("backup", "-q")
		if err := run.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- run.Wait() }()
		select {
		case err := <-ended:
			t.Fatalf("%s: it ended before: %v", what, err)
		case <-s.there:
		}
		time.AfterFunc(nap, func() { _ = run.Process.Kill() })
		<-ended
		close(s.killed)
		way.settle()
		way.set(nil)
		if status, ok := run.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
			killed++
		}
		stored := objects() - before

		w.run("restore", "latest", "-q", "--identity", "key.txt", "--output", "-")
		var report struct {
			Pieces int `json:"pieces"`
			Reused int `json:"reused_pieces"`
		}
		if err := json.Unmarshal([]byte(w.run("backup", "-q", "--json")), &report); err != nil {
			t.Fatal(err)
		}
		// Of what the killed run had stored, at most the eight objects that were on their way are not known to be there.
		if resent := report.Pieces - report.Reused + stored - tables; resent < 0 || resent > 8 {
			t.Errorf("%s: %d of %d objects were stored, the next run sent %d", what, stored, tables, report.Pieces-report.Reused)
		} else {
			again += resent
		}
		w.run("check", "-q")
	}
	t.Logf("%d runs, %d of them killed on the way; %d objects sent twice", n, killed, again)
	if n == 0 || killed < n {
		t.Errorf("of %d runs %d were killed", n, killed)
	}
	fresh := pgtest.DBName(t)
	if err := pg.DropDatabase(ctx, fresh); err != nil {
		t.Fatal(err)
	}
	w.run("restore", "latest", "-q", "--identity", "key.txt", "--to", pg.URL(fresh))
	const digest = "SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t7 t"
	want, err1 := pg.Value(ctx, db, digest)
	got, err2 := pg.Value(ctx, fresh, digest)
	if err1 != nil || err2 != nil || got != want {
		t.Errorf("restored %s, not %s (%v, %v)", got, want, err1, err2)
	}
}
