package pipeline_test

import (
	"context"
	"errors"
	"fmt"
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
	"lethe/pipeline/store/storetest"
)

// manyPieces is severalPieces and a dozen small tables: how many pieces one large table makes is up to the keys.
const manyPieces = severalPieces + `
DO $$ BEGIN FOR n IN 1..12 LOOP
  EXECUTE format('CREATE TABLE part%s AS SELECT i AS id, md5(i::text) AS noise FROM generate_series(%s, %s) i', n, n * 100, n * 100 + 20);
END LOOP; END $$`

// changeParts changes every one of the small tables.
const changeParts = `DO $$ BEGIN FOR n IN 1..12 LOOP EXECUTE format('UPDATE part%s SET noise = reverse(noise)', n); END LOOP; END $$`

// sends runs a backup into stores and returns its report and the objects that were put into the first of them.
func (s *site) sends(c pipeline.BackupConfig, faults ...storetest.Rule) (*pipeline.BackupReport, []string, error) {
	s.t.Helper()
	watched := storetest.NewFaulty(c.Stores[0], faults...)
	c.Stores = append([]store.Store{watched}, c.Stores[1:]...)
	report, err := pipeline.Backup(context.Background(), c)
	return report, watched.Calls(storetest.Put, "objects/"), err
}

// restores makes sure that a snapshot restores to this content.
func (s *site) restores(r *pipeline.Repository, id, want string) {
	s.t.Helper()
	db := pgtest.DBName(s.t)
	if err := s.restoreInto(r, id, db); err != nil {
		s.t.Fatal(err)
	}
	if got := s.contentOf(db); got != want {
		s.t.Errorf("%s restored as %s, not %s", id, got, want)
	}
}

// content is a digest of the table that the tests change.
func (s *site) content() string { return s.contentOf(s.database()) }

func (s *site) contentOf(db string) string {
	s.t.Helper()
	got, err := pgtest.Server(s.t).Value(context.Background(), db, "SELECT count(*) || ' ' || md5(string_agg(b::text, ',' ORDER BY id)) FROM big b")
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

func (s *site) sql(text string) {
	s.t.Helper()
	if err := pgtest.Server(s.t).Exec(context.Background(), s.database(), text); err != nil {
		s.t.Fatal(err)
	}
}

// objectsOf returns the objects that a snapshot names, each once.
func objectsOf(m *archive.Manifest) (list []string) {
	for _, p := range m.Parts {
		for _, o := range slices.Concat(p.Objects, p.Filters) {
			list = append(list, o.Object)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// TestUnchangedPiecesAreNotSentAgain: what one row's change costs is its neighbourhood, and every snapshot is whole by
// itself.
func TestUnchangedPiecesAreNotSentAgain(t *testing.T) {
	s := newSite(t, manyPieces)
	before := s.content()
	first, sent, err := s.sends(s.config(s.store))
	if err != nil {
		t.Fatal(err)
	}
	if first.Reused != 0 || int64(len(sent)) != first.Pieces || first.Uploaded < first.Bytes/2 {
		t.Errorf("the first sent %d objects: %+v", len(sent), first)
	}
	again, sent, err := s.sends(s.config(s.store))
	if err != nil {
		t.Fatal(err)
	}
	if len(sent) != 0 || again.Uploaded != 0 || again.Reused != again.Pieces || again.Bytes != first.Bytes {
		t.Errorf("nothing changed, and %v was sent: %+v", sent, again)
	}
	s.sql("UPDATE big SET noise = noise || 'x' WHERE id = 200")
	changed, sent, err := s.sends(s.config(s.store))
	if err != nil {
		t.Fatal(err)
	}
	if len(sent) == 0 || len(sent) > 8 || changed.Uploaded >= first.Uploaded || changed.Reused != changed.Pieces-int64(len(sent)) {
		t.Errorf("one row changed, and %d objects were sent: %+v", len(sent), changed)
	}
	full := s.config(s.store)
	full.Full = true
	if report, sent, err := s.sends(full); err != nil || int64(len(sent)) != report.Pieces || report.Reused != 0 {
		t.Errorf("--full sent %d: %+v, %v", len(sent), report, err)
	}

	r := s.open()
	s.restores(r, first.Snapshot, before)
	s.restores(r, changed.Snapshot, s.content())
	if report := s.check(r, 1); len(report.Problems) > 0 {
		t.Errorf("check: %+v", report)
	}
}

// TestTailIsCutFiner: what is new at the end of a table costs little, wherever else its pieces are long.
func TestTailIsCutFiner(t *testing.T) {
	const rows = `INSERT INTO big SELECT i, (SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 32) j) FROM generate_series(%d, %d) i`
	s := newSite(t, `CREATE TABLE big (id int PRIMARY KEY, noise text NOT NULL)`)
	pieces := func(report *pipeline.BackupReport) (list []archive.Object) {
		for _, p := range s.manifest(s.open(), report.Snapshot, s.holder).Parts {
			if p.Kind == archive.Table {
				list = p.Objects
			}
		}
		return list
	}
	for _, upTo := range []int{300, 1_500, 12_000} { // less than a tail, a little more than one piece, many
		s.sql("TRUNCATE big; " + fmt.Sprintf(rows, 1, upTo))
		report, _, err := s.sends(s.config(s.store))
		if err != nil {
			t.Fatal(err)
		}
		list := pieces(report)
		tail := slices.IndexFunc(list, func(p archive.Object) bool { return p.Text < archive.MinPiece })
		var text, inTail int64
		for i, p := range list {
			text += p.Text
			if i >= tail {
				inTail += p.Text
			}
		}
		n := int64(len(list) - tail)
		if inTail < min(text, archive.Tail) || inTail > archive.Tail+2*archive.AvgPiece || n < inTail/(archive.AvgPiece/4) {
			t.Errorf("%d rows are %d pieces, %d bytes; the tail is %d pieces, %d bytes", upTo, len(list), text, n, inTail)
		}
		before := s.content()
		s.sql(fmt.Sprintf(rows, upTo+1, upTo+20))
		grown, sent, err := s.sends(s.config(s.store))
		if err != nil {
			t.Fatal(err)
		}
		known := map[string]bool{}
		for _, p := range list {
			known[p.Piece] = true
		}
		var fresh int64
		for _, p := range pieces(grown) {
			if !known[p.Piece] {
				fresh += p.Text
			}
		}
		if len(sent) == 0 || fresh > archive.AvgPiece/4 {
			t.Errorf("%d rows: 20 more are %d new objects, %d bytes of text", upTo, len(sent), fresh)
		}
		if n := s.named(grown.Snapshot); n < len(list) {
			t.Errorf("%d pieces of %d have names", n, len(list))
		}
		s.restores(s.open(), report.Snapshot, before)
		s.restores(s.open(), grown.Snapshot, s.content())
	}
}

// TestMissingAndDamagedObjectsAreSentAnew: what is not there, or not as long as it was, is not relied upon.
func TestMissingAndDamagedObjectsAreSentAnew(t *testing.T) {
	s := newSite(t, manyPieces)
	id := s.backup()
	objects := objectsOf(s.manifest(s.open(), id, s.holder))
	s.remove(archive.ObjectName(objects[1]))
	short := archive.ObjectName(objects[3])
	s.write(short, s.read(short)[:100])
	report, sent, err := s.sends(s.config(s.store))
	if err != nil {
		t.Fatal(err)
	}
	if len(sent) != 2 {
		t.Errorf("one object was missing and one cut short, and %d were sent", len(sent))
	}
	s.restores(s.open(), report.Snapshot, s.content())
}

// TestObjectsThatVanishMeanwhile: between the first look and the commit something deletes an object. The run starts over
// and sends it; where it goes on like that, nothing is committed.
func TestObjectsThatVanishMeanwhile(t *testing.T) {
	s := newSite(t, manyPieces)
	id := s.backup()
	objects := objectsOf(s.manifest(s.open(), id, s.holder))
	vanish := func(n int) storetest.Fault {
		return storetest.Call(func(string) error {
			return s.store.Delete(context.Background(), archive.ObjectName(objects[n]))
		})
	}
	report, sent, err := s.sends(s.config(s.store), storetest.Rule{On: storetest.List, Name: "objects/", Nth: 2, Fault: vanish(0)})
	if err != nil {
		t.Fatal(err)
	}
	if len(sent) != 1 || !strings.Contains(s.heard.String(), "starting over (attempt 2 of 3)") {
		t.Errorf("%d objects were sent; heard %s", len(sent), s.heard.String())
	}
	s.restores(s.open(), report.Snapshot, s.content())

	objects = objectsOf(s.manifest(s.open(), report.Snapshot, s.holder))
	listed := manifests(t, s.store)
	_, _, err = s.sends(s.config(s.store), storetest.Rule{On: storetest.List, Name: "objects/", Nth: 2, Fault: vanish(1)},
		storetest.Rule{On: storetest.List, Name: "objects/", Nth: 4, Fault: vanish(2)}, storetest.Rule{On: storetest.List, Name: "objects/", Nth: 6, Fault: vanish(3)})
	if err == nil || !strings.Contains(err.Error(), "has vanished or changed its size meanwhile (1 of them)") {
		t.Errorf("objects vanish in every attempt: %v", err)
	}
	if now := manifests(t, s.store); !slices.Equal(now, listed) {
		t.Errorf("committed: %v", now)
	}
}

// TestStoresCatchUp: a store that is new, or that missed a run, gets what it lacks; the others get nothing again. Each of
// them restores without the other.
func TestStoresCatchUp(t *testing.T) {
	s := newSite(t, manyPieces)
	s.backup()
	second := s.newStore(filepath.Join(t.TempDir(), "second"))
	report, sent, err := s.sends(s.config(s.store, second))
	if err != nil {
		t.Fatal(err)
	}
	if len(sent) != 0 || int64(len(names(t, second, "objects/"))) != report.Pieces {
		t.Errorf("the old store was sent %d objects, the new one holds %d of %d", len(sent), len(names(t, second, "objects/")), report.Pieces)
	}
	// The second store breaks, and a row changes; then it is back.
	s.sql("UPDATE big SET noise = noise || 'x' WHERE id = 200")
	broken := storetest.NewFaulty(second, storetest.Rule{On: storetest.Put, Name: "objects/", Fault: storetest.Fail(errBroken)})
	if report, _, err := s.sends(s.config(s.store, broken)); err != nil || len(report.Failed()) != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
	report, sent, err = s.sends(s.config(s.store, second))
	if err != nil || len(report.Failed()) != 0 || len(sent) != 0 {
		t.Errorf("%d objects sent to the store that had everything; %+v, %v", len(sent), report, err)
	}
	for _, in := range []store.Store{s.store, second} {
		r, err := pipeline.OpenRepository(context.Background(), in, archive.NewTrust(s.operator.Public()))
		if err != nil {
			t.Fatal(err)
		}
		s.restores(r, report.Snapshot, s.content())
	}
}

// TestChangedRecipientsEncryptEverythingAnew: a piece for other people is another piece.
func TestChangedRecipientsEncryptEverythingAnew(t *testing.T) {
	s := newSite(t, manyPieces)
	s.backup()
	other := newSite(t, "CREATE TABLE t (i int)")
	c := s.config(s.store)
	var err error
	if c.Recipients, err = archive.ParseRecipients([]string{s.public, other.public}, ""); err != nil {
		t.Fatal(err)
	}
	report, sent, err := s.sends(c)
	if err != nil || int64(len(sent)) != report.Pieces {
		t.Fatalf("%d objects sent of %+v, %v", len(sent), report, err)
	}
	s.holder = other.holder
	s.restores(s.open(), report.Snapshot, s.content())
}

// TestInterruptedRunsGoOn: the next run sends what the interrupted one had not sent, and no more; and a journal that was
// damaged costs uploads, never a wrong snapshot.
func TestInterruptedRunsGoOn(t *testing.T) {
	s := newSite(t, manyPieces)
	state := t.TempDir()
	c := s.config(s.store)
	c.State = state
	journal := func() string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(state, "*", "journal", "*"))
		if err != nil || len(found) > 1 {
			t.Fatal(found, err)
		}
		if len(found) == 0 {
			return ""
		}
		return found[0]
	}
	breaks := storetest.Rule{On: storetest.Put, Name: "objects/", Nth: 5, Fault: storetest.Call(func(string) error {
		for len(names(t, s.store, "objects/")) < 4 { // the four before it are on their way at the same time
			time.Sleep(time.Millisecond)
		}
		return errBroken
	})}
	if _, _, err := s.sends(c, breaks); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	stored := len(names(t, s.store, "objects/"))
	if stored < 4 || journal() == "" {
		t.Fatalf("%d objects stored, journal %q", stored, journal())
	}
	report, sent, err := s.sends(c)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(sent)+stored) != report.Pieces || report.Reused != int64(stored) || journal() != "" {
		t.Errorf("%d were stored, %d sent: %+v; journal %q", stored, len(sent), report, journal())
	}
	s.restores(s.open(), report.Snapshot, s.content())

	// Much changes, the run fails at the very end, and its journal is damaged: one record torn off, one flipped, one
	// with the object of another.
	s.sql(changeParts)
	atTheEnd := storetest.Rule{On: storetest.Put, Name: "snapshots/*.age", Nth: 1, Fault: storetest.Fail(errBroken)}
	_, sent, err = s.sends(c, atTheEnd)
	if !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	const record = 88
	text, err := os.ReadFile(journal())
	if err != nil || len(text) != len(sent)*record || len(sent) < 5 {
		t.Fatalf("a journal of %d bytes for %d objects, %v", len(text), len(sent), err)
	}
	text[10] ^= 1                                                              // the first record's piece
	copy(text[record+32:record+64], text[2*record+32:2*record+64])             // the second's object
	if err := os.WriteFile(journal(), text[:len(text)-7], 0o600); err != nil { // the last's end
		t.Fatal(err)
	}
	// The next run fails there, too: what it appends must be readable in spite of the torn end.
	if _, sent, err = s.sends(c, atTheEnd); !errors.Is(err, errBroken) || len(sent) != 3 {
		t.Fatalf("three records were damaged, and %d objects sent again: %v", len(sent), err)
	}
	report, sent, err = s.sends(c)
	if err != nil || len(sent) != 0 || report.Reused != report.Pieces {
		t.Errorf("%d sent by the last run: %+v, %v", len(sent), report, err)
	}
	s.restores(s.open(), report.Snapshot, s.content())
}

// TestDamagedNewestManifest: it costs the reuse, not the backup.
func TestDamagedNewestManifest(t *testing.T) {
	s := newSite(t, manyPieces)
	id := s.backup()
	name := archive.ManifestName(id)
	s.write(name, append(s.read(name), 'x'))
	report, sent, err := s.sends(s.config(s.store))
	if err != nil || int64(len(sent)) != report.Pieces || !strings.Contains(s.heard.String(), "so everything is sent again") {
		t.Errorf("%d sent, %+v, %v; heard %s", len(sent), report, err, s.heard.String())
	}
}
