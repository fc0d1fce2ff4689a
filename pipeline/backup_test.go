package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/source"
	"lethe/pipeline/store"
	"lethe/pipeline/store/storetest"
	"lethe/rules"
)

// severalPieces is a table of more than five pieces, which zstd can't make much smaller, and a small one. It is little more
// than the tail of a table, which is cut finer.
const severalPieces = `CREATE TABLE big (id int PRIMARY KEY, noise text NOT NULL);
INSERT INTO big SELECT i, (SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 200) j) FROM generate_series(1, 350) i;
CREATE TABLE small (id int PRIMARY KEY); INSERT INTO small VALUES (1), (2);`

// config is a backup of the site into stores.
func (s *site) config(stores ...store.Store) pipeline.BackupConfig {
	s.t.Helper()
	f, err := rules.Parse("rules.yml", []byte(s.rules))
	if err != nil {
		s.t.Fatal(err)
	}
	c := pipeline.BackupConfig{Source: source.Config{URL: s.url, Workers: 2, LockTimeout: time.Second}, Rules: f, Recipients: s.to,
		Operator: s.operator, Stores: stores, Workers: 2, Tool: "test", Now: time.Now, Warn: func(msg string) { s.heard.say(msg) }}
	if s.state != "" {
		c.Copy = s.copyOf
	}
	return c
}

// database is the name of the database that is backed up.
func (s *site) database() string {
	s.t.Helper()
	at, err := url.Parse(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimPrefix(at.Path, "/")
}

// names lists a store's files below a prefix.
func names(t testing.TB, in store.Store, prefix string) (list []string) {
	t.Helper()
	if err := in.List(context.Background(), prefix, func(i store.Info) error { list = append(list, i.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	return list
}

func manifests(t testing.TB, in store.Store) (list []string) {
	t.Helper()
	for _, n := range names(t, in, archive.SnapshotsPrefix) {
		if _, ok := archive.SnapshotOf(n); ok {
			list = append(list, n)
		}
	}
	return list
}

// nothingListed makes sure that a store lists no snapshot and holds no lease.
func nothingListed(t *testing.T, in store.Store) {
	t.Helper()
	if m := manifests(t, in); len(m) > 0 {
		t.Errorf("a failed backup left %v", m)
	}
	if l := names(t, in, "locks/"); len(l) > 0 {
		t.Errorf("a failed backup left %v", l)
	}
}

var errBroken = errors.New("the store broke")

func TestBackupStoreFails(t *testing.T) {
	s := newSite(t, severalPieces)
	for _, c := range []struct {
		name string
		rule storetest.Rule
	}{
		{"first object", storetest.Rule{On: storetest.Put, Name: "objects/", Nth: 1, Fault: storetest.Fail(errBroken)}},
		{"fourth object", storetest.Rule{On: storetest.Put, Name: "objects/", Nth: 4, Fault: storetest.Fail(errBroken)}},
		{"every object", storetest.Rule{On: storetest.Put, Name: "objects/", Fault: storetest.Fail(errBroken)}},
		{"the answer to an object", storetest.Rule{On: storetest.Put, Name: "objects/", Nth: 2, Fault: storetest.FailAfter(errBroken)}},
		{"signature", storetest.Rule{On: storetest.Put, Name: "snapshots/*.minisig", Fault: storetest.Fail(errBroken)}},
		{"the answer to the signature", storetest.Rule{On: storetest.Put, Name: "snapshots/*.minisig", Fault: storetest.FailAfter(errBroken)}},
		{"manifest", storetest.Rule{On: storetest.Put, Name: "snapshots/*.age", Fault: storetest.Fail(errBroken)}},
		{"listing of snapshots", storetest.Rule{On: storetest.List, Name: "snapshots/", Fault: storetest.Fail(errBroken)}},
		{"lease", storetest.Rule{On: storetest.Put, Name: "locks/", Nth: 1, Fault: storetest.FailAfter(errBroken)}},
		{"lease before the commit", storetest.Rule{On: storetest.Stat, Name: "locks/", Nth: 1, Fault: storetest.Fail(errBroken)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pgtest.NoLeaks(t)
			faulty := storetest.NewFaulty(s.store, c.rule)
			report, err := pipeline.Backup(context.Background(), s.config(faulty))
			if !errors.Is(err, errBroken) || errors.Is(err, pipeline.ErrLocked) || report != nil {
				t.Errorf("report %v, error %v", report, err)
			}
			nothingListed(t, s.store)
		})
	}
	// What all of them left is in nobody's way.
	id := s.backup()
	if err := s.restoreInto(s.open(), id, pgtest.DBName(t)); err != nil {
		t.Error(err)
	}
}

// TestBackupAnswerToCommitLost: the manifest is there, only the answer was lost. The run must not say that there is no
// snapshot.
func TestBackupAnswerToCommitLost(t *testing.T) {
	pgtest.NoLeaks(t)
	s := newSite(t, severalPieces)
	faulty := storetest.NewFaulty(s.store, storetest.Rule{On: storetest.Put, Name: "snapshots/*.age", Nth: 1, Fault: storetest.FailAfter(errBroken)})
	report, err := pipeline.Backup(context.Background(), s.config(faulty))
	if err != nil {
		t.Fatalf("%v, but the store lists %v", err, manifests(t, s.store))
	}
	if err := s.restoreInto(s.open(), report.Snapshot, pgtest.DBName(t)); err != nil {
		t.Error(err)
	}
}

func TestBackupInterrupted(t *testing.T) {
	s := newSite(t, severalPieces)
	for _, at := range []storetest.Rule{
		{On: storetest.Put, Name: "objects/", Nth: 1},
		{On: storetest.Put, Name: "objects/", Nth: 4},
		{On: storetest.Put, Name: "objects/"},
		{On: storetest.Put, Name: "snapshots/*.minisig"},
		{On: storetest.Put, Name: "snapshots/*.age"},
		{On: storetest.Get, Name: "keys/0001.age"},
	} {
		t.Run(fmt.Sprintf("%s %s %d", at.On, at.Name, at.Nth), func(t *testing.T) {
			pgtest.NoLeaks(t)
			reached := make(chan string)
			at.Fault = storetest.Stall(reached)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var watching sync.WaitGroup
			watching.Go(func() { <-reached; cancel() })
			_, err := pipeline.Backup(ctx, s.config(storetest.NewFaulty(s.store, at)))
			watching.Wait()
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			nothingListed(t, s.store)
		})
	}
}

// TestBackupOneStoreFails: the other one gets the whole snapshot, and the report says which did not.
func TestBackupOneStoreFails(t *testing.T) {
	s := newSite(t, severalPieces)
	for _, rule := range []storetest.Rule{
		{On: storetest.Put, Name: "objects/", Nth: 3, Fault: storetest.DiskFull()},
		{On: storetest.Put, Name: "snapshots/*.age", Fault: storetest.DiskFull()},
		{On: storetest.Get, Name: archive.RepositoryName, Fault: storetest.Lose()},
	} {
		t.Run(rule.Name, func(t *testing.T) {
			pgtest.NoLeaks(t)
			bad := s.newStore(t.TempDir())
			report, err := pipeline.Backup(context.Background(), s.config(storetest.NewFaulty(bad, rule), s.store))
			if err != nil {
				t.Fatal(err)
			}
			if failed := report.Failed(); len(failed) != 1 || failed[0].Store != bad.String() || failed[0].Error == "" {
				t.Errorf("failed stores: %v", failed)
			}
			nothingListed(t, bad)
			if check := s.check(s.open(), 1); len(check.Problems) > 0 {
				t.Errorf("the good store: %v", check.Problems)
			}
			if err := s.restoreInto(s.open(), report.Snapshot, pgtest.DBName(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBackupLosesItsLease: somebody took the run for dead and cleared its lease away. It must not commit.
func TestBackupLosesItsLease(t *testing.T) {
	pgtest.NoLeaks(t)
	s := newSite(t, severalPieces)
	faulty := storetest.NewFaulty(s.store, storetest.Rule{On: storetest.Put, Name: "objects/", Nth: 3, Fault: storetest.Call(func(string) error {
		for _, l := range names(t, s.store, "locks/") {
			if err := s.store.Delete(context.Background(), l); err != nil {
				return err
			}
		}
		return nil
	})})
	if _, err := pipeline.Backup(context.Background(), s.config(faulty)); !errors.Is(err, pipeline.ErrLocked) {
		t.Errorf("error %v, not that it is locked", err)
	}
	nothingListed(t, s.store)
	if tried := faulty.Calls(storetest.Put, "snapshots/"); len(tried) > 0 {
		t.Errorf("a writer without a lease wrote %v", tried)
	}
}

// TestBackupLosesItsLeaseAtTheCommit: the machine sleeps between the renewal and the commit. Who took the lease meanwhile
// may have deleted objects that the manifest names.
func TestBackupLosesItsLeaseAtTheCommit(t *testing.T) {
	for _, stuck := range []bool{false, true} { // the manifest can't be deleted
		pgtest.NoLeaks(t)
		s := newSite(t, severalPieces)
		faulty := storetest.NewFaulty(s.store, storetest.Rule{On: storetest.Put, Name: "snapshots/*.age", Nth: 1, Fault: storetest.Call(func(string) error {
			for _, l := range names(t, s.store, "locks/") {
				if err := s.store.Delete(context.Background(), l); err != nil {
					return err
				}
			}
			return nil
		})})
		if stuck {
			faulty.Add(storetest.Rule{On: storetest.Delete, Name: "snapshots/", Fault: storetest.Fail(errBroken)})
		}
		_, err := pipeline.Backup(context.Background(), s.config(faulty))
		if !errors.Is(err, pipeline.ErrLocked) || errors.Is(err, errBroken) != stuck {
			t.Errorf("error %v", err)
		}
		if !stuck {
			nothingListed(t, s.store)
		}
	}
}

func TestBackupWhileAnotherRuns(t *testing.T) {
	pgtest.NoLeaks(t)
	s := newSite(t, severalPieces)
	var second error
	faulty := storetest.NewFaulty(s.store, storetest.Rule{On: storetest.Put, Name: "objects/", Nth: 2, Fault: storetest.Call(func(string) error {
		_, second = pipeline.Backup(context.Background(), s.config(s.store))
		return nil
	})})
	if _, err := pipeline.Backup(context.Background(), s.config(faulty)); err != nil {
		t.Errorf("the first run: %v", err)
	}
	if !errors.Is(second, pipeline.ErrLocked) {
		t.Errorf("the second run: %v", second)
	}
	if m := manifests(t, s.store); len(m) != 1 {
		t.Errorf("snapshots: %v", m)
	}
}

// TestBackupStartsOver: a schema change waits for our locks in the middle of the rows. The run lets go of its view, the
// change gets through, and the next attempt is a snapshot of what is there then.
func TestBackupStartsOver(t *testing.T) {
	pgtest.NoLeaks(t)
	s := newSite(t, severalPieces)
	db := s.database()
	faulty := storetest.NewFaulty(s.store, storetest.Rule{On: storetest.Put, Name: "objects/", Nth: 3, Fault: storetest.Call(func(string) error {
		return pgtest.Server(t).Exec(context.Background(), db, "ALTER TABLE small ADD COLUMN later int DEFAULT 7")
	})})
	report, err := pipeline.Backup(context.Background(), s.config(faulty))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(s.heard.String(), "starting over (attempt 2 of 3)") {
		t.Errorf("it did not say that it started over: %s", s.heard.String())
	}
	small := table(t, s.manifest(s.open(), report.Snapshot, s.holder), "small")
	if len(small.Columns) != 2 || small.Rows != 2 {
		t.Errorf("columns %v, %d rows", small.Columns, small.Rows)
	}
	if big := table(t, s.manifest(s.open(), report.Snapshot, s.holder), "big"); big.Rows != 350 {
		t.Errorf("%d rows", big.Rows)
	}
}

// TestBackupWritesManifestLast: every object that a manifest names is stored before the signature, and that before the
// manifest.
func TestBackupWritesManifestLast(t *testing.T) {
	s := newSite(t, severalPieces)
	faulty := storetest.NewFaulty(s.store)
	report, err := pipeline.Backup(context.Background(), s.config(faulty))
	if err != nil {
		t.Fatal(err)
	}
	puts := faulty.Calls(storetest.Put, "")
	name := archive.ManifestName(report.Snapshot)
	if last := puts[len(puts)-2:]; last[0] != name+archive.SignatureSuffix || last[1] != name {
		t.Errorf("the last files written are %v", last)
	}
	stored := map[string]bool{}
	for _, p := range puts {
		stored[p] = true
	}
	for _, p := range s.manifest(s.open(), report.Snapshot, s.holder).Parts {
		for _, o := range p.Objects {
			if !stored[archive.ObjectName(o.Object)] {
				t.Errorf("%s: object %s was never written", p.Name, o.Object)
			}
		}
	}
}

// TestBackupBesideDamagedManifest: an old manifest that can't be read any more, or that never seems to end, must not
// keep new snapshots from being taken.
func TestBackupBesideDamagedManifest(t *testing.T) {
	s := newSite(t, severalPieces)
	old := s.backup()
	faulty := storetest.NewFaulty(s.store, storetest.Rule{On: storetest.Get, Name: archive.ManifestName(old), Fault: storetest.BreakAt(100, errBroken)})
	report, err := pipeline.Backup(context.Background(), s.config(faulty))
	if err != nil {
		t.Fatal(err)
	}
	if m := s.manifest(s.open(), report.Snapshot, s.holder); len(m.Alive) != 0 {
		t.Errorf("it vouches for %v", m.Alive)
	}
	if !strings.Contains(s.heard.String(), old) {
		t.Errorf("nobody is told: %s", s.heard.String())
	}
}

// named makes sure that each piece of a snapshot's tables has the id of the text that its object holds, and returns how many.
func (s *site) named(id string) (n int) {
	s.t.Helper()
	ids, err := archive.NewPieces(s.operator.PieceID, s.to)
	if err != nil {
		s.t.Fatal(err)
	}
	opener, err := archive.NewOpener(s.holder)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range s.manifest(s.open(), id, s.holder).Parts {
		for i, o := range p.Objects {
			text, err := opener.Open(s.read(archive.ObjectName(o.Object)), o)
			if err != nil {
				s.t.Fatal(err)
			}
			if is := ids.ID(text).String(); is != o.Piece {
				s.t.Errorf("piece %d of %s, %d bytes, is called %s, and is %s", i+1, p.Name, len(text), o.Piece, is)
			}
			n++
		}
	}
	return n
}

// TestLongRows: rows longer than a piece come back among short ones, and one that would make a piece too long.
func TestLongRows(t *testing.T) {
	s := newSite(t, `CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
		INSERT INTO t SELECT i, CASE WHEN i % 4 = 2 THEN repeat('long ' || i || E'\n\\', 2500000) ELSE 'short' END FROM generate_series(1, 9) i;
		INSERT INTO t SELECT 10, repeat('x', 16777216 - 5)`)
	id := s.backup()
	if n := s.named(id); n < 5 {
		t.Errorf("it is %d pieces", n)
	}
	into := pgtest.DBName(t)
	if err := s.restoreInto(s.open(), id, into); err != nil {
		t.Fatal(err)
	}
	got, err := pgtest.Server(t).Query(context.Background(), into, `SELECT count(*) FROM t WHERE v = CASE WHEN id % 4 = 2 THEN repeat('long ' || id || E'\n\\', 2500000) ELSE 'short' END OR id = 10 AND length(v) = 16777216 - 5`)
	if err != nil || got[0][0] != "10" {
		t.Errorf("%v rows are as they were: %v", got, err)
	}
}
