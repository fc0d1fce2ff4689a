package pipeline_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/store"
)

// dumpFile writes a dump file of a database.
func dumpFile(t testing.TB, url string, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dump.sql")
	if err := os.WriteFile(path, pgDump(t, url, args...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// backupDump takes a snapshot of a dump file into a store, with nothing but the file to read.
func (s *site) backupDump(path string, into store.Store) (*pipeline.BackupReport, error) {
	s.t.Helper()
	c := s.config(into)
	c.Source.URL = "postgres:///nothing?host=/nonexistent"
	c.Dump = path
	report, err := pipeline.Backup(context.Background(), c)
	s.hearError(err)
	return report, err
}

// manifestIn reads the manifest of a snapshot in a store.
func (s *site) manifestIn(in store.Store, id string) *archive.Manifest {
	s.t.Helper()
	m, err := s.openAt(in).Manifest(context.Background(), id, s.holder)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// A schema of everything odd makes the round trip through a dump file as it makes it from a server.
func TestRoundTripOfDumpFile(t *testing.T) {
	server := pgtest.Server(t)
	ctx := context.Background()
	for _, r := range []string{"odd_owner", "odd_reader", `"Odd ""Röle"""`} {
		t.Cleanup(func() {
			if err := server.Exec(ctx, "postgres", "DROP ROLE IF EXISTS "+r); err != nil {
				t.Error(err)
			}
		})
		if err := server.Exec(ctx, "postgres", "CREATE ROLE "+r); err != nil {
			t.Fatal(err)
		}
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

	for name, args := range map[string][]string{"plain": nil, "create": {"--create"}} {
		t.Run(name, func(t *testing.T) {
			s := siteOf(t, server.URL(db))
			if _, err := s.backupDump(dumpFile(t, server.URL(db), args...), s.store); err != nil {
				t.Fatal(err)
			}
			into := newName(t, server, db)
			c := s.restoring()
			c.To = server.URL(into)
			restore(t, c)
			same(t, "restored", server.URL(plain), server.URL(into))
			if name == "create" {
				sameProperties(t, server, db, server, into)
			}
		})
	}
}

const peopleAndPosts = `
CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE, name text, photo oid);
CREATE TABLE posts (id int PRIMARY KEY, user_id int REFERENCES users, answers int REFERENCES posts ON DELETE CASCADE, body text);
CREATE TABLE likes (post int REFERENCES posts ON DELETE CASCADE, user_id int REFERENCES users ON DELETE SET NULL) PARTITION BY HASH (post);
CREATE TABLE likes_0 PARTITION OF likes FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE likes_1 PARTITION OF likes FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE sessions (token text);
INSERT INTO users SELECT i, 'user' || i || '@example.org', 'User ' || i, 5000 + i FROM generate_series(1, 300) i;
INSERT INTO posts SELECT i, i % 300 + 1, NULLIF(i / 3, 0), repeat(md5(i::text), 100) || E'\t\\.\n' FROM generate_series(1, 4000) i;
INSERT INTO likes SELECT i % 4000 + 1, i % 300 + 1 FROM generate_series(1, 9000) i;
INSERT INTO sessions VALUES ('secret');
SELECT lo_from_bytea(5000 + i, convert_to('photo ' || i, 'UTF8')) FROM generate_series(1, 300) i;`

const peopleRules = `
version: 1
dataset: slipmat
drift: pass
subjects: {user: {table: users, key: id}}
always:
  sessions: no_rows
  users.name: {value: somebody}
erase:
  users: {redact: {email: unique_email, photo: clear}}
  posts: {delete: user_id}
requests:
  - {subject: "user:7", ref: R-1}
  - {subject: "user:0299", ref: R-2}
  - {subject: "user:777", ref: R-3}
`

// A server and its dump file give the same pieces, piece by piece, and the same effects: so a snapshot of one costs
// nothing beside a snapshot of the other, and erasing is the same.
func TestDumpFileGivesTheSamePieces(t *testing.T) {
	s := newSite(t, peopleAndPosts)
	s.rules, s.state = peopleRules, t.TempDir() // one ledger, so that what erasing writes is the same
	live, err := s.tryBackup(s.store)
	if err != nil {
		t.Fatal(err)
	}
	want := s.manifestIn(s.store, live.Snapshot)
	for name, args := range map[string][]string{"COPY": nil, "INSERT": {"--inserts"}} {
		t.Run(name, func(t *testing.T) {
			into := s.newStore(filepath.Join(t.TempDir(), "store"))
			report, err := s.backupDump(dumpFile(t, s.url, args...), into)
			if err != nil {
				t.Fatal(err)
			}
			if report.Dropped != live.Dropped || report.Redacted != live.Redacted || report.Cleared != live.Cleared || report.Rows != live.Rows ||
				report.Dropped == 0 || report.Redacted != 2 || report.Cleared == 0 || !slices.Equal(report.Missing, []string{"R-3"}) {
				t.Errorf("report %+v\nwant %+v", report, live)
			}
			got := s.manifestIn(into, report.Snapshot)
			tables := 0
			for _, p := range want.Parts {
				i := slices.IndexFunc(got.Parts, func(q archive.Part) bool { return q.Name == p.Name && q.Kind == p.Kind })
				if i < 0 {
					t.Fatalf("no part %s %s", p.Kind, p.Name)
				}
				if p.Kind != archive.Table && p.Kind != archive.LargeObjects {
					continue
				}
				q := got.Parts[i]
				if q.Rows != p.Rows || q.Dropped != p.Dropped || q.Redacted != p.Redacted || q.Cleared != p.Cleared || !slices.Equal(q.Columns, p.Columns) {
					t.Errorf("%s: %+v\nwant %+v", p.Name, q, p)
				}
				if !slices.Equal(pieceIDs(q), pieceIDs(p)) {
					t.Errorf("%s: other pieces: %q, want %q", p.Name, pieceIDs(q), pieceIDs(p))
				}
				tables++
			}
			if tables != 6 || got.Schema != want.Schema {
				t.Errorf("%d parts compared; schema %s, want %s", tables, got.Schema, want.Schema)
			}
		})
	}
}

func pieceIDs(p archive.Part) (ids []string) {
	for _, o := range p.Objects {
		ids = append(ids, o.Piece)
	}
	return ids
}

// What only a server could tell stops a backup of a dump file, and leaves nothing behind.
func TestDumpFileNeedsAServer(t *testing.T) {
	s := newSite(t, `CREATE TABLE users (id int PRIMARY KEY, nick text COLLATE "C", born date, span interval UNIQUE);
		CREATE TABLE a (span interval REFERENCES users (span) ON DELETE CASCADE)`)
	path := dumpFile(t, s.url)
	for name, c := range map[string]struct{ rules, want string }{
		"a key that only it compares": {"subjects: {user: {table: users, key: id}}\nerase: {users: {delete: true}}\nrequests: [{subject: \"user:1\", ref: R-1}]\n", "only a server can compare"},
		"nobody is erased":            {"subjects: {user: {table: users, key: id}}\nerase: {users: {delete: true}}\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s.rules = plainRules + c.rules
			into := s.newStore(filepath.Join(t.TempDir(), "store"))
			_, err := s.backupDump(path, into)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "back up from the server") {
				t.Errorf("error %v", err)
			}
			nothingListed(t, into)
		})
	}
}

// A dump file that is cut off, or written to meanwhile, makes no snapshot.
func TestDumpFileThatIsNotWhole(t *testing.T) {
	s := newSite(t, severalPieces)
	path := dumpFile(t, s.url)
	if err := os.Truncate(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := s.backupDump(path, s.store); err == nil || !strings.Contains(err.Error(), "the file ends inside it") {
		t.Errorf("cut off: %v", err)
	}
	nothingListed(t, s.store)

	path = dumpFile(t, s.url)
	c := s.config(s.store)
	c.Dump = path
	c.Progress = func(pipeline.Progress) {
		if err := os.Chtimes(path, time.Time{}, time.Unix(1, 0)); err != nil {
			t.Error(err)
		}
	}
	if _, err := pipeline.Backup(context.Background(), c); err == nil || !strings.Contains(err.Error(), "changed while it was read") {
		t.Errorf("changed: %v", err)
	}
	nothingListed(t, s.store)
}

// What was restored and is backed up again is the same rows: of the server, of its dump file, and of the snapshot.
func TestSnapshotOfARestore(t *testing.T) {
	s := newSite(t, peopleAndPosts)
	s.rules = strings.Replace(peopleRules, "users: {redact: {email: unique_email, photo: clear}}", "users: {delete: true}", 1)
	rows := func(c pipeline.RestoreConfig) []string {
		t.Helper()
		var out strings.Builder
		c.Output = &out
		restore(t, c)
		lines := slices.DeleteFunc(strings.Split(out.String(), "\n"), func(l string) bool { return !strings.Contains(l, "\t") }) // all rows have more than one column
		slices.Sort(lines)
		return lines
	}
	s.backup()
	live := rows(s.restoring())
	if !slices.ContainsFunc(live, func(l string) bool { return strings.Contains(l, "user8@example.org") }) ||
		slices.ContainsFunc(live, func(l string) bool { return strings.Contains(l, "user7@example.org") }) {
		t.Fatal("the snapshot is not what this test is about")
	}
	c := s.restoring()
	c.To = pgtest.Server(t).URL(newName(t, pgtest.Server(t), pgtest.DBName(t)))
	restore(t, c)

	again := s.config(s.store)
	again.Source.URL = c.To
	if _, err := pipeline.Backup(context.Background(), again); err != nil {
		t.Fatal(err)
	}
	if got := rows(s.restoring()); !slices.Equal(got, live) {
		t.Errorf("the snapshot of the restored database has %d rows, that of the first %d, and they differ", len(got), len(live))
	}
	s.store = s.newStore(filepath.Join(t.TempDir(), "store"))
	if _, err := s.backupDump(dumpFile(t, s.url), s.store); err != nil {
		t.Fatal(err)
	}
	c = s.restoring()
	c.Repository = s.openAt(s.store)
	if got := rows(c); !slices.Equal(got, live) {
		t.Errorf("the snapshot of the dump file has %d rows, that of the server %d, and they differ", len(got), len(live))
	}
}
