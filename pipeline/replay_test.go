package pipeline_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/store/storetest"
	"lethe/scrub/catalog"
)

// What a restore replays is what a backup with the requests would have left out: as SQL text, in a database, and in one
// table alone.
func TestRestoreReplays(t *testing.T) {
	s := newSite(t, fewPeople)
	s.rules = withoutRequests(fewPeopleRules)
	old := s.backup()
	s.recordAll(fewPeopleRules, s.store)
	want, err := s.tryBackup(s.store)
	if err != nil {
		t.Fatal(err)
	}
	s.sql("DELETE FROM posts WHERE id = 1")
	s.backup() // a later one, whose rules count

	rows, report := s.replayed(s.store, old)
	expected := s.rowsIn(s.store, want.Snapshot)
	sameRows(t, "as text", expected, rows)
	if !slices.Equal(report.Replayed, []string{"R-1", "R-2", "R-3"}) || len(report.Erased) != 3 || report.Rows != want.Rows {
		t.Errorf("%+v", report)
	}

	c := s.restoring()
	c.Snapshot = old
	c.To = pgtest.Server(t).URL(newName(t, pgtest.Server(t), s.database()))
	into := restore(t, c)
	if into.Rows != want.Rows || len(into.Replayed) != 3 {
		t.Errorf("%+v", into)
	}
	plain := pgtest.DBName(t)
	if err := s.restoreInto(s.openAt(s.store), want.Snapshot, plain); err != nil {
		t.Fatal(err)
	}
	same(t, "into a database", pgtest.Server(t).URL(plain), c.To)

	var text strings.Builder
	c = s.restoring()
	c.Snapshot, c.Output, c.Tables = old, &text, []catalog.Name{{Schema: "public", Name: "comments"}}
	restore(t, c)
	if strings.Contains(text.String(), `COPY "public"."posts"`) {
		t.Error("of one table alone: posts are there")
	}
	if n := strings.Count(text.String(), "\tcomment "); n != len(expected[`COPY "public"."comments" ("id", "post_id", "user_id", "body") FROM stdin;`+"\n"]) {
		t.Errorf("of one table alone: %d rows", n)
	}
}

// A restore of a snapshot that honours all there is reads nothing more than it did.
func TestRestoreWithNothingToReplay(t *testing.T) {
	s := newSite(t, fewPeople)
	s.rules = withoutRequests(fewPeopleRules)
	s.backup()
	s.recordAll(fewPeopleRules, s.store)
	signer := signed(t)
	next := purge(t, s.purging(signer, s.store)).Stores[0].Successors[0].New
	faulty := storetest.NewFaulty(s.store)
	if _, report := s.replayed(faulty, next, signer.Public()); len(report.Replayed)+len(report.Erased)+len(report.Omitted) > 0 {
		t.Errorf("%+v", report)
	}
	read := map[string]int{}
	for _, name := range faulty.Calls(storetest.Get, archive.ObjectsPrefix) {
		read[name]++
	}
	for name, n := range read {
		if n > 1 {
			t.Errorf("%s is read %d times", name, n)
		}
	}
	objects := objectsOf(s.manifest(s.open(signer.Public()), next, s.holder))
	if len(read) == 0 || len(read) > len(objects) {
		t.Errorf("%d objects are read of %d", len(read), len(objects))
	}
}

// Where it can't be told what a replay would take, nothing is restored.
func TestRestoreThatCantReplay(t *testing.T) {
	s := newSite(t, twoTables+`CREATE TABLE notes (id int PRIMARY KEY, about int REFERENCES users)`)
	s.rules = plainRules
	old := s.backup()
	s.sql("DROP TABLE notes")
	s.rules = withoutRequests(twoTablesRules)
	s.recordAll(twoTablesRules, s.store)
	s.backup()
	c := s.restoring()
	c.Snapshot = old
	c.To = pgtest.Server(t).URL(newName(t, pgtest.Server(t), s.database()))
	if _, err := pipeline.Restore(context.Background(), c); !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "notes") || !strings.Contains(err.Error(), old) {
		t.Errorf("error %v", err)
	}
	if rows, err := pgtest.Server(t).Query(context.Background(), "postgres", "SELECT datname FROM pg_database WHERE datname LIKE 'restored_%"+s.database()+"%'"); err != nil || len(rows) > 0 {
		t.Errorf("%v is there, %v", rows, err)
	}
}

// Where it can't be told who was erased since, nothing is restored: a ledger that is gone, cut short, or changed. The loud
// way on says what it does, and so does leaving out records that are false.
func TestRestoreRefusesWithoutLedger(t *testing.T) {
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	old := s.backup()
	s.recordAll(twoTablesRules+"  - {subject: \"user:8\", ref: R-2}\n", s.store)
	s.backup()
	ledger := names(t, s.store, archive.LedgerPrefix)
	for what, harm := range map[string]func(){
		"gone": func() { s.remove(ledger...) },
		"cut short": func() {
			s.remove(slices.DeleteFunc(slices.Clone(ledger), func(name string) bool { return !strings.Contains(name, "00000002") })...)
		},
		"a record changed": func() {
			name := archive.RecordName(1)
			s.write(name, bytes.Replace(s.read(name), []byte("commitment\":\""), []byte("commitment\":\"0"), 1))
		},
		"a request lost": func() {
			s.remove(slices.DeleteFunc(slices.Clone(ledger), func(name string) bool { return !strings.HasSuffix(name, ".age") })...)
		},
	} {
		t.Run(what, func(t *testing.T) {
			saved := map[string][]byte{}
			for _, name := range ledger {
				saved[name] = s.read(name)
			}
			defer func() {
				for name, data := range saved {
					s.write(name, data)
				}
			}()
			harm()
			for _, snapshot := range []string{old, "latest"} {
				var out bytes.Buffer
				c := s.restoring()
				c.Snapshot, c.Output = snapshot, &out
				if _, err := pipeline.Restore(context.Background(), c); err == nil || out.Len() > 0 {
					t.Errorf("%s: error %v, %d bytes written", snapshot, err, out.Len())
				} else if hint := hintOf(err); !strings.Contains(hint, "--without-ledger") && !strings.Contains(err.Error(), "ledger") {
					t.Errorf("%s: %v; try: %s", snapshot, err, hint)
				}
			}
			rows, report := s.restored(s.store, old, false)
			if len(report.Omitted) != 1 || !strings.Contains(report.Omitted[0], "everybody is back") || grepped(rows, "name 7")["users"] != 1 {
				t.Errorf("without a ledger: %q", report.Omitted)
			}
		})
	}
	c := s.restoring()
	var out strings.Builder
	c.Snapshot, c.Output, c.Until = old, &out, 1
	var said []string
	c.Warn = func(msg string) { said = append(said, msg) }
	report := restore(t, c)
	if !slices.Equal(report.Replayed, []string{"R-1"}) || len(report.Omitted) != 1 || !strings.Contains(report.Omitted[0], "request 2 (R-2)") || !slices.Equal(said, report.Omitted) {
		t.Errorf("replayed %q, omitted %q, said %q", report.Replayed, report.Omitted, said)
	}
	if strings.Contains(out.String(), "name 7\n") || !strings.Contains(out.String(), "name 8\n") {
		t.Error("not up to record 1")
	}
}

// hintOf is the outermost hint of an error.
func hintOf(err error) string {
	for ; err != nil; err = errors.Unwrap(err) {
		if h, ok := err.(interface{ Hint() string }); ok && h.Hint() != "" {
			return h.Hint()
		}
	}
	return ""
}
