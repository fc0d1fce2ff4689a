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
)

const club = `CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE NOT NULL, name text);
CREATE TABLE posts (id int PRIMARY KEY, author int NOT NULL, body text);
CREATE TABLE payments (id int PRIMARY KEY, payer int NOT NULL REFERENCES users, holder text);
CREATE TABLE deleted (id int, at timestamptz);
INSERT INTO users SELECT i, 'user' || i || '@example.org', 'Name ' || i FROM generate_series(1, 5000) i;
INSERT INTO posts SELECT i, i % 5000 + 1, 'body ' || i FROM generate_series(1, 20000) i;
INSERT INTO payments SELECT i, i, 'Holder ' || i FROM generate_series(1, 5000) i;`

const clubRules = `version: 1
dataset: slipmat
drift: pass
subjects: {user: {table: users, key: id, lookup: [email, name]}}
references: {posts.author: users.id}
erase:
  users: {redact: {email: unique_email, name: {value: Deleted user}}}
  posts: {delete: author}
  payments: {keep: payer, redact: {holder: clear}, reason: law}
`

func newClub(t testing.TB) *site {
	s := newSite(t, club)
	s.rules, s.state = clubRules, filepath.Join(t.TempDir(), "state")
	return s
}

// take takes a snapshot into stores.
func (s *site) take(stores ...store.Store) (*pipeline.BackupReport, error) {
	s.t.Helper()
	report, err := pipeline.Backup(context.Background(), s.config(stores...))
	s.hearError(err)
	return report, err
}

func (s *site) mustTake(stores ...store.Store) *pipeline.BackupReport {
	s.t.Helper()
	report, err := s.take(stores...)
	if err != nil {
		s.t.Fatal(err)
	}
	return report
}

// asked runs a query on a restored snapshot.
func (s *site) asked(in store.Store, snapshot, sql string) string {
	s.t.Helper()
	server := pgtest.Server(s.t)
	name := newName(s.t, server, strings.ToLower(strings.ReplaceAll(snapshot, "-", "_")))
	if err := s.restoreInto(s.openAt(in), snapshot, name); err != nil {
		s.t.Fatal(err)
	}
	value, err := server.Value(context.Background(), name, sql)
	if err != nil {
		s.t.Fatal(err)
	}
	drop(s.t, server, name)
	return value
}

// A recorded request is honoured by every backup from then on, whether the application has deleted the person or not,
// and what it redacts stays the same from snapshot to snapshot.
func TestBackupHonoursTheLedger(t *testing.T) {
	pgtest.NoLeaks(t)
	s := newClub(t)
	second := s.newStore(filepath.Join(t.TempDir(), "second"))
	first := s.mustTake(s.store, second)
	if first.Ledger != nil || s.manifestIn(s.store, first.Snapshot).Ledger != nil {
		t.Errorf("a head without a ledger: %s", first.Ledger)
	}
	requested, err := s.record([]pipeline.NewRequest{order(7, "R-7"), order(77777, "R-77777"), {Subject: "user", Key: " 0008", Ref: "R-8"}}, s.store)
	if err != nil {
		t.Fatal(err)
	}
	if present := []bool{*requested.Requests[0].Present, *requested.Requests[1].Present, *requested.Requests[2].Present}; !slices.Equal(present, []bool{true, false, true}) {
		t.Errorf("present: %v", present)
	}
	if again, err := s.record([]pipeline.NewRequest{order(8, "R-8")}, s.store); err != nil || again.Requests[0].New {
		t.Errorf("another spelling of the key: %+v, %v", again, err)
	}
	one := s.mustTake(s.store, second)
	if *one.Ledger != *requested.Ledger || one.Erasures != 3 || !slices.Equal(one.Missing, []string{"R-77777"}) || len(one.Recorded) > 0 {
		t.Errorf("%+v", one)
	}
	const show = `SELECT string_agg(concat_ws('|', u.id, u.email, u.name, p.holder, (SELECT count(*) FROM posts WHERE author = u.id)), ' ' ORDER BY u.id)
		FROM users u JOIN payments p ON p.payer = u.id WHERE u.id IN (6, 7)`
	for _, in := range []store.Store{s.store, second} {
		m := s.manifestIn(in, one.Snapshot)
		if *m.Ledger != *requested.Ledger || m.Erasure != 3 {
			t.Errorf("%s: head %s, %d erasures", in, m.Ledger, m.Erasure)
		}
		if got := s.asked(in, one.Snapshot, show); !strings.HasPrefix(got, "6|user6@example.org|Name 6|Holder 6|4 7|") || !strings.HasSuffix(got, "invalid|Deleted user|0") {
			t.Errorf("%s: %s", in, got)
		}
	}
	// Nothing changes: the same pieces, so the address that took the place of theirs is the same.
	two := s.mustTake(s.store, second)
	if two.Uploaded != 0 || two.Reused != two.Pieces {
		t.Errorf("%d of %d pieces are the same", two.Reused, two.Pieces)
	}
	// The application deletes them, but forgets what no foreign key leads to.
	s.sql("DELETE FROM payments WHERE payer = 8; DELETE FROM users WHERE id = 8")
	three := s.mustTake(s.store, second)
	if got := s.asked(s.store, three.Snapshot, "SELECT count(*) FROM posts WHERE author IN (7, 8)"); got != "0" {
		t.Errorf("%s posts of people who are gone", got)
	}
	if !slices.Equal(three.Missing, []string{"R-77777", "R-8"}) {
		t.Errorf("missing: %v", three.Missing)
	}
}

// The rules file's requests are in the ledger from the next run on, once.
func TestRequestsOfTheRulesAreRecorded(t *testing.T) {
	s := newClub(t)
	s.rules = clubRules + "requests: [{subject: \"user:7\", ref: R-7, received: 2026-11-20}, {subject: \"user:8\", ref: R-8}]\n"
	dry := s.config(s.store)
	dry.DryRun = true
	report, err := pipeline.Backup(context.Background(), dry)
	if err != nil || report.Erasures != 2 || !slices.Equal(report.Recorded, []string{"R-7", "R-8"}) || report.Redacted != 4 {
		t.Fatalf("%+v, %v", report, err)
	}
	if files := ledgerFiles(t, s.store); len(files) > 0 {
		t.Errorf("a dry run wrote %v", files)
	}
	one := s.mustTake(s.store)
	if !slices.Equal(one.Recorded, []string{"R-7", "R-8"}) || one.Ledger.Sequence != 2 || one.Redacted != report.Redacted || one.Dropped != report.Dropped {
		t.Errorf("%+v", one)
	}
	if two := s.mustTake(s.store); len(two.Recorded) > 0 || *two.Ledger != *one.Ledger || two.Uploaded != 0 {
		t.Errorf("%+v", two)
	}
	// Out of the file, they are honoured all the same.
	s.rules = clubRules
	if three := s.mustTake(s.store); three.Erasures != 2 || three.Redacted != one.Redacted {
		t.Errorf("%+v", three)
	}
	// Another day in the file changes nothing, and is said. Another subject is refused.
	s.rules = clubRules + "requests: [{subject: \"user:7\", ref: R-7, received: 2026-10-01}]\n"
	s.mustTake(s.store)
	if !strings.Contains(s.heard.String(), "request R-7 is in the ledger as received on 2026-11-20, and stays so") {
		t.Error(s.heard.String())
	}
	s.rules = clubRules + "requests: [{subject: \"user:9\", ref: R-7}]\n"
	if _, err := s.take(s.store); !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "rules.yml:10: request R-7: its reference stands for another subject already, in record 1") {
		t.Error(err)
	}
}

// A ledger that was put back to an earlier state does not bring anybody back.
func TestOldLedgerPutBack(t *testing.T) {
	pgtest.NoLeaks(t)
	s := newClub(t)
	path := filepath.Join(t.TempDir(), "second")
	second := s.newStore(path)
	if _, err := s.record([]pipeline.NewRequest{order(7, "R-7")}, s.store, second); err != nil {
		t.Fatal(err)
	}
	early := ledgerFiles(t, second)
	if _, err := s.record([]pipeline.NewRequest{order(8, "R-8")}, s.store, second); err != nil {
		t.Fatal(err)
	}
	taken := s.mustTake(s.store, second)
	for name := range ledgerFiles(t, second) {
		if early[name] == "" {
			if err := os.Remove(filepath.Join(path, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	const says = "the ledger ends with record 1, and there was a record 2"
	report := s.mustTake(s.store, second)
	if failed := report.Failed(); len(failed) != 1 || failed[0].Store != second.String() || !strings.Contains(failed[0].Error, says) || !errors.Is(report.Integrity(), pipeline.ErrIntegrity) {
		t.Errorf("%+v", report.Stores)
	}
	if *report.Ledger != *taken.Ledger || report.Erasures != 2 {
		t.Errorf("the other store: %+v", report)
	}
	if _, err := s.openLedger(second, nil); !errors.Is(err, pipeline.ErrIntegrity) || !strings.Contains(err.Error(), says) {
		t.Errorf("a key holder: %v", err)
	}
	// By itself it takes no snapshot at all; and where this machine's copy is lost, too, none that would forget the
	// request is taken beside it.
	if _, err := s.take(second); !errors.Is(err, pipeline.ErrIntegrity) {
		t.Errorf("alone: %v", err)
	}
	s.state = filepath.Join(t.TempDir(), "elsewhere")
	third := s.newStore(filepath.Join(t.TempDir(), "third"))
	if _, err := s.take(second, third); !errors.Is(err, pipeline.ErrIntegrity) || len(manifests(t, third)) > 0 {
		t.Errorf("with a new store: %v", err)
	}
	// Who noted the head down needs no snapshot to notice.
	for name := range ledgerFiles(t, s.store) {
		if early[name] == "" {
			if err := os.Remove(filepath.Join(s.path, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, m := range manifests(t, s.store) {
		if err := os.Remove(filepath.Join(s.path, m)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.openLedger(s.store, nil); err != nil {
		t.Errorf("nothing to compare with: %v", err)
	}
	expected, err := archive.ParseLedgerHead(taken.Ledger.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.openLedger(s.store, expected); !errors.Is(err, pipeline.ErrIntegrity) {
		t.Errorf("expected %s: %v", expected, err)
	}
}

// A request whose key fits the schema no more reaches nobody, and stops no backup; one whose type is gone does.
func TestRequestsOfAnotherSchema(t *testing.T) {
	s := newClub(t)
	if _, err := s.record([]pipeline.NewRequest{order(7, "R-7"), order(4000, "R-4000")}, s.store); err != nil {
		t.Fatal(err)
	}
	s.sql("ALTER TABLE payments DROP CONSTRAINT payments_payer_fkey; ALTER TABLE payments ALTER payer TYPE smallint; ALTER TABLE posts ALTER author TYPE smallint; " +
		"DELETE FROM users WHERE id > 3000; ALTER TABLE users ALTER id TYPE uuid USING md5(id::text)::uuid")
	s.rules = strings.ReplaceAll(strings.ReplaceAll(clubRules, "references: {posts.author: users.id}\n", ""), "  posts: {delete: author}\n  payments: {keep: payer, redact: {holder: clear}, reason: law}\n", "")
	report := s.mustTake(s.store)
	if report.Erasures != 0 || report.Ledger.Sequence != 2 || !strings.Contains(s.heard.String(), "2 erasure requests reach nobody under this schema") {
		t.Errorf("%+v\n%s", report, s.heard.String())
	}
	s.rules = strings.Replace(s.rules, "{user: {", "{member: {", 1)
	if _, err := s.take(s.store); !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), `requests to erase a subject of type "user"`) {
		t.Error(err)
	}
}

func TestLookupRequests(t *testing.T) {
	pgtest.NoLeaks(t)
	s := newClub(t)
	s.sql("UPDATE users SET name = 'TWINNAME' WHERE id IN (10, 11)")
	ask := func(l pipeline.Lookup) (*pipeline.RequestReport, error) {
		report, err := pipeline.Record(context.Background(), pipeline.RequestConfig{BackupConfig: s.config(s.store), Lookup: &l})
		s.hearError(err)
		return report, err
	}
	report, err := ask(pipeline.Lookup{Subject: "user", Column: "email", Value: "user42@example.org", Ref: "R-42"})
	if err != nil || !report.Requests[0].New || !*report.Requests[0].Present {
		t.Fatalf("%+v, %v", report, err)
	}
	if again, err := s.record([]pipeline.NewRequest{order(42, "R-42")}, s.store); err != nil || again.Requests[0].New {
		t.Errorf("by key: %+v, %v", again, err)
	}
	for _, c := range []struct {
		l    pipeline.Lookup
		says string
	}{
		{pipeline.Lookup{Subject: "user", Column: "email", Value: "nobody42@example.org", Ref: "R-1"}, "no user has this email"},
		{pipeline.Lookup{Subject: "user", Column: "name", Value: "TWINNAME", Ref: "R-1"}, "several rows have this name"},
		{pipeline.Lookup{Subject: "user", Column: "id", Value: "42", Ref: "R-1"}, "is not looked up by a column of that name"},
		{pipeline.Lookup{Subject: "admin", Column: "email", Value: "x", Ref: "R-1"}, `no subject "admin"`},
	} {
		if _, err := ask(c.l); !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.says, err)
		}
	}
	for _, value := range []string{"42@example.org", "TWINNAME"} {
		if strings.Contains(s.heard.String(), value) {
			t.Errorf("%s was said", value)
		}
	}
	s.url = "postgres:///nothing?host=/nonexistent"
	if _, err := ask(pipeline.Lookup{Subject: "user", Column: "email", Value: "user42@example.org", Ref: "R-42"}); err == nil {
		t.Error("found without a database")
	}
}

func TestInbox(t *testing.T) {
	pgtest.NoLeaks(t)
	s := newClub(t)
	inbox := "SELECT 'user', id, 'DEL-' || id, at FROM public.deleted"
	take := func(query string) *pipeline.BackupReport {
		t.Helper()
		c := s.config(s.store)
		c.Inbox = query
		report, err := pipeline.Backup(context.Background(), c)
		s.hearError(err)
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	confirm := func(n int) (*pipeline.RequestReport, error) {
		c := pipeline.RequestConfig{BackupConfig: s.config(s.store), ReadInbox: true, Confirm: n}
		c.Inbox = inbox
		report, err := pipeline.Record(context.Background(), c)
		s.hearError(err)
		return report, err
	}
	if r := take(inbox); r.Inbox.Rows != 0 || r.Inbox.Degraded() {
		t.Errorf("empty: %+v", r.Inbox)
	}
	s.sql("INSERT INTO deleted SELECT i, '2026-11-20 23:30:00+00' FROM generate_series(1, 9) i; INSERT INTO deleted VALUES (9, NULL), (NULL, now())")
	r := take(inbox + " ; ")
	if r.Inbox.Rows != 11 || r.Inbox.New != 9 || r.Erasures != 9 || !slices.Equal(r.Inbox.Problems, []string{"row 11: the key is NULL"}) {
		t.Errorf("%+v, %d", r.Inbox, r.Erasures)
	}
	ledger, err := s.openLedger(s.store, nil)
	if err != nil || ledger.Open()[0].Ref != "DEL-1" || ledger.Open()[0].Received.Format(time.DateOnly) != "2026-11-20" {
		t.Errorf("%v, %v", refsOf(ledger), err)
	}
	s.sql("DELETE FROM deleted WHERE id IS NULL")
	if r := take(inbox); r.Inbox.New != 0 || r.Erasures != 9 || r.Inbox.Degraded() {
		t.Errorf("again: %+v", r.Inbox)
	}
	// Forged requests for more people than are believed at once change nothing, until a person has confirmed that very number.
	s.sql("INSERT INTO deleted SELECT i, now() FROM generate_series(4001, 4025) i")
	if r := take(inbox); r.Inbox.Refused != 25 || r.Inbox.New != 0 || r.Erasures != 9 || r.Ledger.Sequence != 9 {
		t.Errorf("forged: %+v, %d", r.Inbox, r.Erasures)
	}
	if _, err := confirm(0); !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "the inbox holds 25 new requests, and no more than 10 are believed") {
		t.Error(err)
	}
	if _, err := confirm(26); !errors.Is(err, pipeline.ErrConfig) {
		t.Error(err)
	}
	if report, err := confirm(25); err != nil || report.Inbox.New != 25 || report.Ledger.Sequence != 34 {
		t.Errorf("confirmed: %+v, %v", report, err)
	}
	if r := take(inbox); r.Erasures != 34 || r.Inbox.Degraded() {
		t.Errorf("afterwards: %+v", r.Inbox)
	}
	// What is wrong with an inbox stops no backup, and is told without a value.
	s.sql("INSERT INTO deleted VALUES (4999, 'infinity'), (99999, '2999-01-01')")
	for name, c := range map[string]struct{ query, says string }{
		"a table that is not there":      {"SELECT 'user', id, 'X', at FROM deleted", "after SET search_path"},
		"three columns":                  {"SELECT 'user', id, 'X' FROM public.deleted", "3 columns"},
		"no query":                       {"DELETE FROM public.users", "SQLSTATE 42601"},
		"it fails on a value":            {"SELECT 'user', ('SECRETVALUE')::int, 'X', now()", "SQLSTATE 22P02"},
		"a type that is not there":       {"SELECT 'SECRETVALUE', id, 'X-' || id, now() FROM public.deleted LIMIT 1", "row 1: the rules have no such type of subject"},
		"columns in the wrong places":    {"SELECT 'user', 'SECRETVALUE', 'X-' || id, now() FROM public.deleted LIMIT 1", "row 1: the key is not a whole number"},
		"an address as reference":        {"SELECT 'user', 1, 'SECRETVALUE@example.org', now()", "row 1: the reference is not"},
		"days that are none":             {inbox, "is no date"},
		"a day that is yet to come":      {inbox, "the day it was received is yet to come"},
		"a reference of somebody else's": {"SELECT 'user', 4998, 'DEL-1', now()", "row 1: its reference stands for another subject already, in record 1"},
	} {
		r := take(c.query)
		if says := fmt.Sprint(r.Inbox.Problems); !r.Inbox.Degraded() || !strings.Contains(s.heard.String()+says, c.says) || r.Inbox.New != 0 || r.Erasures != 34 {
			t.Errorf("%s: %+v", name, r.Inbox)
		}
		if text := fmt.Sprint(r.Inbox.Problems); strings.Contains(text, "SECRETVALUE") {
			t.Errorf("%s: %s", name, text)
		}
	}
}

// The stages of an erasure follow from what is stored, and from nothing else.
func TestListErasures(t *testing.T) {
	pgtest.NoLeaks(t)
	s := newClub(t)
	path := filepath.Join(t.TempDir(), "second")
	second := s.newStore(path)
	now := time.Now()
	list := func(c pipeline.ErasuresConfig, stores ...store.Store) *pipeline.Erasures {
		t.Helper()
		for _, in := range stores {
			c.Repositories = append(c.Repositories, s.openAt(in))
		}
		c.Now = func() time.Time { return now }
		c.Retention = pipeline.Retention{KeepWithin: 7 * 24 * time.Hour, KeepMin: 1}
		if c.Readers == nil {
			c.Readers = s.holder
		}
		report, err := pipeline.ListErasures(context.Background(), c)
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	both := func() pipeline.Erasure {
		t.Helper()
		return list(pipeline.ErasuresConfig{}, s.store, second).Requests[0]
	}

	s.mustTake(s.store, second)
	if r := list(pipeline.ErasuresConfig{}, s.store, second); len(r.Requests) != 0 || r.Ledger != nil {
		t.Errorf("%+v", r)
	}
	if _, err := s.record([]pipeline.NewRequest{order(7, "R-7")}, s.store, second); err != nil {
		t.Fatal(err)
	}
	if e := both(); e.Stage != pipeline.Recorded || e.Unclean != 2 || e.Ref != "R-7" || e.Subject != "user" || e.Received != "2026-11-20" || e.Deadline != "2026-12-20" || e.GoneBy != "" {
		t.Errorf("%+v", e)
	}
	unclean := s.mustTake(s.store).Started // not into the second
	if e := both(); e.Stage != pipeline.Recorded || e.Unclean != 2 {
		t.Errorf("one store lags: %+v", e)
	}
	clean := s.mustTake(s.store, second)
	e := both()
	if want := unclean.AddDate(0, 0, 7).Format(time.DateOnly); e.Stage != pipeline.Effective || e.Unclean != 2 || e.GoneBy != want {
		t.Errorf("%+v, want gone by %s", e, want)
	}
	for _, day := range []struct {
		at      string
		overdue bool
	}{{"2026-12-20T23:59:59Z", false}, {"2026-12-21T00:00:00Z", true}} {
		now, _ = time.Parse(time.RFC3339, day.at)
		if e := both(); e.Overdue != day.overdue {
			t.Errorf("%s: %+v", day.at, e)
		}
	}
	for _, in := range []store.Store{s.store, second} {
		for _, m := range manifests(t, in) {
			if m != archive.ManifestName(clean.Snapshot) {
				if err := errors.Join(in.Delete(context.Background(), m), in.Delete(context.Background(), m+archive.SignatureSuffix)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if e := both(); in == s.store && e.Stage != pipeline.Effective {
			t.Errorf("one store is clean: %+v", e)
		}
	}
	if e := both(); e.Stage != pipeline.Effective || e.Unclean != 0 || e.Unnamed == 0 || !e.Overdue {
		t.Errorf("with objects that no snapshot names: %+v", e)
	}
	for _, in := range []store.Store{s.store, second} {
		named := objectsOf(s.manifestIn(in, clean.Snapshot))
		for _, name := range names(t, in, archive.ObjectsPrefix) {
			if object, _ := archive.ObjectOf(name); !slices.Contains(named, object) {
				if err := in.Delete(context.Background(), name); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if e := both(); e.Stage != pipeline.Purged || e.Unclean+e.Unnamed != 0 || e.Overdue || e.GoneBy != "" {
		t.Errorf("%+v", e)
	}
	if e := list(pipeline.ErasuresConfig{Verified: func(n int64) bool { return n == 1 }}, s.store, second).Requests[0]; e.Stage != pipeline.Verified {
		t.Errorf("%+v", e)
	}
	// Nothing is claimed beyond what can be asked.
	if r := list(pipeline.ErasuresConfig{Unreachable: []pipeline.StoreResult{{Store: "s3://x", Error: "gone"}}}, s.store); r.Requests[0].Stage != pipeline.Recorded || len(r.Failed()) != 1 {
		t.Errorf("%+v", r)
	}
	// A record that only this machine has yet is listed, and a store that lags is named.
	if err := os.RemoveAll(filepath.Join(path, "ledger")); err != nil {
		t.Fatal(err)
	}
	r := list(pipeline.ErasuresConfig{Copy: s.own(), Readers: s.operator.Identities()}, s.store)
	if len(r.Requests) != 1 || r.Requests[0].Stage != pipeline.Purged {
		t.Errorf("%+v", r)
	}
	r = list(pipeline.ErasuresConfig{}, s.store, second)
	if !errors.Is(r.Integrity(), pipeline.ErrIntegrity) || r.Requests[0].Stage != pipeline.Recorded {
		t.Errorf("a ledger that its snapshots know: %+v", r)
	}
	// A closed one is its place in the ledger.
	s.closeLost(1)
	if r := list(pipeline.ErasuresConfig{}, s.store); r.Requests[0].Stage != pipeline.Closed || r.Requests[0].Ref != "" || r.Requests[1].Ref != "R-900" || r.Ledger.Sequence != 3 {
		t.Errorf("%+v", r)
	}
	bad := &archive.LedgerHead{Sequence: 9, Digest: "0123abcd"}
	if _, err := pipeline.ListErasures(context.Background(), pipeline.ErasuresConfig{Repositories: []*pipeline.Repository{s.open()}, Readers: s.holder, Expect: bad, Now: time.Now}); !errors.Is(err, pipeline.ErrIntegrity) {
		t.Error(err)
	}
}
