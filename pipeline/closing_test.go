package pipeline_test

import (
	"bytes"
	"context"
	"errors"
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

// closing is a run that closes what is over, by the history's clock.
func (h *history) closing(stores ...store.Store) pipeline.CloseConfig {
	h.t.Helper()
	c := pipeline.CloseConfig{BackupConfig: h.site.config(stores...)}
	c.Now = h.clock
	c.Confirm = func(context.Context, []pipeline.Erasure) error { return nil }
	return c
}

// closes runs it, and tells which requests were closed and why the others are not.
func (h *history) closes(c pipeline.CloseConfig) (closed []string, left map[string]string) {
	h.t.Helper()
	report, err := pipeline.CloseErasures(context.Background(), c)
	if err != nil {
		h.t.Fatal(err)
	}
	left = map[string]string{}
	for _, e := range report.Closed {
		closed = append(closed, e.Ref)
	}
	for _, e := range report.Left {
		left[e.Ref] = strings.Join(e.Waits, "; ")
	}
	return closed, left
}

// A request is closed when no copy is left and the source has been without the person for a week, and no sooner. Whom it
// was about is gone from everywhere then, and its place in the ledger stays.
func TestCloseErasures(t *testing.T) {
	pgtest.NoLeaks(t)
	h := newHistory(t, club)
	h.rules, h.site.state = clubRules, filepath.Join(t.TempDir(), "state")
	old := h.backupNow()
	saved := [][]byte{h.read(archive.ManifestName(old)), h.read(archive.ManifestName(old) + archive.SignatureSuffix)}

	h.now = h.now.Add(time.Hour)
	record := pipeline.RequestConfig{BackupConfig: h.site.config(h.store), Requests: []pipeline.NewRequest{
		{Subject: "user", Key: "4321", Ref: "R-1"}, {Subject: "user", Key: "8", Ref: "R-2"}, {Subject: "user", Key: "4321", Ref: "R-3"}, {Subject: "user", Key: "77777", Ref: "R-4"}}}
	record.Now = h.clock
	if _, err := pipeline.Record(context.Background(), record); err != nil {
		t.Fatal(err)
	}
	for day := range 9 {
		h.now = firstRun.Add(time.Duration(day+1) * 24 * time.Hour)
		id := h.backupNow()
		want := []archive.Met{{Sequence: 1, Rows: 6}, {Sequence: 2, Rows: 6}, {Sequence: 3, Rows: 6}}
		if day > 0 {
			want = want[1:2]
		}
		if m := h.manifestIn(h.store, id); !slices.Equal(m.Met, want) {
			t.Errorf("day %d: met %v, want %v", day, m.Met, want)
		}
		if day == 0 { // the application deletes one of them
			h.sql("DELETE FROM payments WHERE payer = 4321; DELETE FROM posts WHERE author = 4321; DELETE FROM users WHERE id = 4321")
		}
		dry := h.closing(h.store)
		dry.DryRun = true
		closed, left := h.closes(dry)
		switch {
		case len(closed) > 0 && day < 8:
			t.Errorf("day %d: %q could be closed", day, closed)
		case !strings.Contains(left["R-2"], "has met the person"):
			t.Errorf("day %d: R-2 waits since %s", day, left["R-2"])
		case !strings.Contains(left["R-1"], "1 stored snapshots do not honour it") && day < 8:
			t.Errorf("day %d: R-1 waits since %s", day, left["R-1"])
		case strings.Contains(left["R-1"], "recorded less than 7 days ago") != (day < 7):
			t.Errorf("day %d: R-1 waits since %s", day, left["R-1"])
		}
		if day == 7 { // the old snapshot expires
			h.remove(archive.ManifestName(old), archive.ManifestName(old)+archive.SignatureSuffix)
		}
	}

	// Not while somebody asks for it, and not where a store does not answer.
	c := h.closing(h.store)
	h.rules = clubRules + "requests: [{subject: \"user:77777\", ref: R-77}, {subject: \"user:1\", ref: R-3}]\n"
	named := h.closing(h.store)
	named.DryRun = true
	h.rules = clubRules
	if closed, left := h.closes(named); !slices.Equal(closed, []string{"R-1"}) || !strings.Contains(left["R-3"], "requests: of the rules file") || !strings.Contains(left["R-4"], "requests: of the rules file") {
		t.Errorf("closed %q, left %q", closed, left)
	}
	h.sql("INSERT INTO deleted VALUES (4321, '2026-11-02')")
	inbox := h.closing(h.store)
	inbox.DryRun, inbox.Inbox = true, "SELECT 'user', id, 'DEL-' || id, at FROM public.deleted"
	if closed, left := h.closes(inbox); !slices.Equal(closed, []string{"R-4"}) || !strings.Contains(left["R-1"], "the inbox still names it") || !strings.Contains(left["R-3"], "the inbox still names it") {
		t.Errorf("closed %q, left %q", closed, left)
	}
	inbox.Inbox = "SELECT 'user', id, 'nobody@example.org', at FROM public.deleted"
	if _, err := pipeline.CloseErasures(context.Background(), inbox); err == nil || !strings.Contains(err.Error(), "row 1: ") {
		t.Errorf("an inbox that can't be read: %v", err)
	}
	away := h.closing(h.store)
	away.Unreachable = []pipeline.StoreResult{{Store: "s3://x", Error: "it does not answer"}}
	if _, err := pipeline.CloseErasures(context.Background(), away); err == nil || !strings.Contains(err.Error(), "it does not answer") {
		t.Errorf("a store that does not answer: %v", err)
	}
	no := errors.New("no")
	refused := h.closing(h.store)
	refused.Confirm = func(context.Context, []pipeline.Erasure) error { return no }
	if _, err := pipeline.CloseErasures(context.Background(), refused); !errors.Is(err, no) {
		t.Error(err)
	}
	files := ledgerFiles(t, h.store)
	if len(files) != 12 {
		t.Fatalf("%d files in the ledger before", len(files))
	}

	// One that was named, and then all that are over.
	c.Refs = []string{"R-4"}
	h.killedPut(archive.LedgerPrefix, time.Now().Add(-time.Hour))
	if closed, left := h.closes(c); !slices.Equal(closed, []string{"R-4"}) || len(left) > 0 {
		t.Fatalf("closed %q, left %q", closed, left)
	}
	if left := h.unfinished(); len(left) > 0 {
		t.Errorf("of what a killed run had not finished there is still %q", left)
	}
	if _, err := pipeline.CloseErasures(context.Background(), c); !errors.Is(err, pipeline.ErrConfig) {
		t.Errorf("closed twice: %v", err)
	}
	c.Refs = nil
	asked := 0
	c.Confirm = func(_ context.Context, list []pipeline.Erasure) error { asked = len(list); return nil }
	if closed, left := h.closes(c); !slices.Equal(closed, []string{"R-1", "R-3"}) || len(left) != 1 || asked != 2 {
		t.Fatalf("closed %q, left %q, asked for %d", closed, left, asked)
	}
	files = ledgerFiles(t, h.store)
	sameFiles(t, "this machine", ledgerFiles(t, h.own()), files)
	sealed := 0
	for name := range files {
		if sequence, _, ok := archive.SealedOf(name); ok {
			sealed++
			if sequence != 2 {
				t.Errorf("%s is there", name)
			}
		}
	}
	l := h.ledger(h.store)
	if sealed != 1 || len(l.Records) != 7 || !slices.Equal(refsOf(l), []string{"R-2"}) || !l.Records[0].Closed || l.Records[6].Closes != 3 {
		t.Errorf("%d sealed requests, %d records", sealed, len(l.Records))
	}

	// Backups go on, and leave out who is still to be left out.
	h.now = h.now.Add(time.Hour)
	h.backupNow()
	if closed, _ := h.closes(c); len(closed) > 0 {
		t.Errorf("closed again: %q", closed)
	}
	// A bucket that failed then may keep the request: the next run has it forget.
	bucket := &keeping{Store: h.store}
	if closed, _ := h.closes(h.closing(bucket)); len(closed) > 0 || !slices.Contains(bucket.deleted, archive.LedgerPrefix) {
		t.Errorf("closed again: %q; forgot %q", closed, bucket.deleted)
	}

	// A snapshot from before that turns up has them: a restore says so loudly, and the list does.
	h.write(archive.ManifestName(old), saved[0])
	h.write(archive.ManifestName(old)+archive.SignatureSuffix, saved[1])
	var said []string
	var out bytes.Buffer
	back := h.restoring()
	back.Snapshot, back.Output = old, &out
	back.Warn = func(msg string) { said = append(said, msg) }
	report := restore(t, back)
	if len(report.Omitted) != 3 || !strings.Contains(report.Omitted[0], "request 1 is closed, and the snapshot is from before it") || !slices.Equal(said, report.Omitted) ||
		!slices.Equal(report.Replayed, []string{"R-2"}) || !strings.Contains(out.String(), "user4321@") || strings.Contains(out.String(), "user8@") {
		t.Errorf("omitted %q, said %q, replayed %q", report.Omitted, said, report.Replayed)
	}
	list, err := pipeline.ListErasures(context.Background(), pipeline.ErasuresConfig{Repositories: []*pipeline.Repository{h.open()}, Readers: h.holder, Now: h.clock})
	if err != nil || list.Requests[0].Stage != pipeline.Closed || list.Requests[0].Unclean != 1 || len(list.Notes) != 3 || !strings.Contains(list.Notes[0], "request 1 is closed") {
		t.Errorf("%+v, %v", list, err)
	}
}

// A request that was a mistake ends although the person is there, and they are in the next snapshot again; but not while
// it would be recorded anew.
func TestCloseMistaken(t *testing.T) {
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	if _, err := s.record([]pipeline.NewRequest{order(7, "R-1"), order(8, "R-2")}, s.store); err != nil {
		t.Fatal(err)
	}
	people := func() (n [2]int) {
		t.Helper()
		rows := s.rowsIn(s.store, s.backup())
		return [2]int{grepped(rows, "post by 7.")["posts"], grepped(rows, "post by 8.")["posts"]}
	}
	if n := people(); n != [2]int{0, 0} {
		t.Fatalf("honoured: %v", n)
	}
	run := func(mistaken bool, refs ...string) (*pipeline.CloseReport, error) {
		c := pipeline.CloseConfig{BackupConfig: s.config(s.store), Refs: refs, Mistaken: mistaken, Confirm: func(context.Context, []pipeline.Erasure) error { return nil }}
		return pipeline.CloseErasures(context.Background(), c)
	}
	if report, err := run(false, "R-1"); err != nil || len(report.Closed) > 0 {
		t.Errorf("no mistake: %+v, %v", report, err)
	}
	if _, err := run(true); !errors.Is(err, pipeline.ErrConfig) {
		t.Errorf("all were mistakes: %v", err)
	}
	s.rules = twoTablesRules // which asks for R-1
	if report, err := run(true, "R-1"); err != nil || len(report.Closed) > 0 || !strings.Contains(report.Left[0].Waits[0], "rules file still names it") {
		t.Errorf("still named: %+v, %v", report, err)
	}
	s.rules = withoutRequests(twoTablesRules)
	if report, err := run(true, "R-1"); err != nil || len(report.Closed) != 1 || len(report.Left) > 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if n := people(); n != [2]int{1, 0} {
		t.Errorf("afterwards: %v", n)
	}
}

// Who is in a JSON text beside somebody else, or in a row that goes for another's sake, is met like everybody.
func TestBackupCountsWhomItMeets(t *testing.T) {
	s := newSite(t, `CREATE TABLE users (id int PRIMARY KEY, name text);
		CREATE TABLE jobs (id int PRIMARY KEY, args jsonb);
		CREATE TABLE messages (id int PRIMARY KEY, sender int REFERENCES users ON DELETE SET NULL, recipient int REFERENCES users ON DELETE CASCADE);
		CREATE TABLE sessions (id int PRIMARY KEY, user_id int REFERENCES users ON DELETE CASCADE);
		INSERT INTO users SELECT i, 'name' FROM generate_series(1, 9) i;
		INSERT INTO jobs VALUES (1, '{"users": [1, 2, 3]}'), (2, '{"users": [9]}'), (3, '{"users": [2, 2]}');
		INSERT INTO messages VALUES (1, 1, 2), (2, 2, 1), (3, 9, 3), (4, 4, NULL), (5, NULL, NULL);
		INSERT INTO sessions VALUES (1, 5)`)
	s.rules = plainRules + `subjects: {user: {table: users, key: id}}
references: {jobs.args: {to: users.id, path: "$.users[*]"}}
always: {sessions: no_rows}
erase:
  users: {delete: true}
  jobs: {clear: args}
`
	var orders []pipeline.NewRequest
	for key := range 7 {
		orders = append(orders, order(key, "R-"+string(rune('0'+key))))
	}
	if _, err := s.record(orders[1:], s.store); err != nil {
		t.Fatal(err)
	}
	m := s.manifestIn(s.store, s.backup())
	want := []archive.Met{{Sequence: 1, Rows: 4}, {Sequence: 2, Rows: 5}, {Sequence: 3, Rows: 3}, {Sequence: 4, Rows: 2}, {Sequence: 5, Rows: 1}, {Sequence: 6, Rows: 1}}
	if !slices.Equal(m.Met, want) {
		t.Errorf("met %v, want %v", m.Met, want)
	}
}
