package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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

// TestKilledUploads kills backups to an S3 server at random moments. The next run finishes and sends at most what was on
// its way again, and the newest snapshot that is listed always restores.
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
	w.run("init", "-q", "--database", pg.URL(db), "--recipient", identity.Recipient().String(), "--store", server.URL(bucket, "lethe"))
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
		run := w.command("backup", "-q")
		if err := run.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- run.Wait() }()
		upTo, nap := random.IntN(tables+3), time.Duration(random.IntN(30_000))*time.Microsecond
		for whole := false; !whole && objects()-before < upTo; {
			select {
			case err := <-ended: // it was done before
				ended <- err
				whole = true
			case <-time.After(time.Millisecond):
			}
		}
		select {
		case err := <-ended:
			ended <- err
		case <-time.After(nap):
			if err := run.Process.Kill(); err == nil {
				killed++
			}
		}
		<-ended
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
			t.Errorf("round %d: killed after %d of %d objects were stored, the next run sent %d", round, stored, tables, report.Pieces-report.Reused)
		} else {
			again += resent
		}
		w.run("check", "-q")
	}
	t.Logf("%d runs, %d of them killed on the way; %d objects sent twice", n, killed, again)
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
