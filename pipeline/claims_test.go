package pipeline_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/store"
)

// standing is how the requests stand, as a key holder who trusts these signers finds it.
func (s *site) standing(signer *archive.SigningKey, stores ...store.Store) *pipeline.Erasures {
	s.t.Helper()
	c := pipeline.ErasuresConfig{Repositories: s.purging(signer, stores...).Repositories, Readers: s.holder, Now: time.Now}
	var err error
	if c.Verified, err = pipeline.Proven(context.Background(), c.Repositories, c.Readers); err != nil {
		s.t.Fatal(err)
	}
	list, err := pipeline.ListErasures(context.Background(), c)
	if err != nil {
		s.t.Fatal(err)
	}
	return list
}

// forget takes a snapshot's manifest away and leaves its objects, as a run that is killed before its commit does.
func (s *site) forget(snapshot string) {
	s.remove(archive.ManifestName(snapshot), archive.ManifestName(snapshot)+archive.SignatureSuffix)
}

// Objects that no snapshot names may hold the person: while they are there nobody is purged, nothing is proven, and no
// certificate says so.
func TestUnnamedObjectsAreNotPassedOver(t *testing.T) {
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	left := s.backup()
	s.recordAll(twoTablesRules, s.store)
	signer := signed(t)
	s.backup()
	s.forget(left)

	if e := s.standing(signer, s.store).Requests[0]; e.Stage != pipeline.Effective || e.Unclean != 0 || e.Unnamed == 0 || !slices.ContainsFunc(e.Waits, func(why string) bool { return strings.Contains(why, "no snapshot names") }) {
		t.Errorf("%+v", e)
	}
	if report := verify(t, s.verifying(signer, s.store)); len(report.Findings) > 0 || report.Unnamed == 0 || report.Proof != "" {
		t.Errorf("verified: %+v", report)
	}
	cert := s.certified(signer, "R-1")
	if cert.State != string(pipeline.Effective) || len(cert.Unfinished) == 0 || cert.Stores[0].Unnamed == 0 {
		t.Errorf("certified: %+v", cert)
	}

	purge(t, s.purging(signer, s.store))
	if report := verify(t, s.verifying(signer, s.store)); report.Unnamed > 0 || report.Proof == "" {
		t.Errorf("verified after the purge: %+v", report)
	}
	if e := s.standing(signer, s.store).Requests[0]; e.Stage != pipeline.Verified || e.Unnamed > 0 {
		t.Errorf("after the purge: %+v", e)
	}
}

// certified is a key holder's certificate of a request.
func (s *site) certified(signer *archive.SigningKey, ref string) *archive.Certificate {
	s.t.Helper()
	c := pipeline.CertificateConfig{Ref: ref, Issuer: signer.Public(), Tool: "test"}
	c.Repositories, c.Readers, c.Now = s.purging(signer, s.store).Repositories, s.holder, time.Now
	var err error
	if c.Verified, err = pipeline.Proven(context.Background(), c.Repositories, c.Readers); err != nil {
		s.t.Fatal(err)
	}
	cert, err := pipeline.Certify(context.Background(), c)
	if err != nil {
		s.t.Fatal(err)
	}
	return cert
}

// What a backup puts while verify looks can't be told from what an interrupted one has left: verify says so, and waits for
// nobody.
func TestVerifyBesideABackup(t *testing.T) {
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	left := s.backup()
	s.recordAll(twoTablesRules, s.store)
	s.backup()
	s.forget(left)
	if err := s.store.Put(context.Background(), "locks/backup-0123456789abcdef.json", []byte(`{"owner":"elsewhere","pid":1,"purpose":"backup","expires":"2999-01-01T00:00:00Z"}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := pipeline.Verify(context.Background(), s.verifying(signed(t), s.store)); !errors.Is(err, pipeline.ErrLocked) {
		t.Errorf("verified: %v", err)
	}
}

// A request that was recorded while a store was away is known by another store: restores and verifying of the one that
// lags take it into account.
func TestTheLongestLedgerCounts(t *testing.T) {
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	other := s.newStore(filepath.Join(t.TempDir(), "other"))
	s.mustTake(s.store, other)
	s.recordAll(twoTablesRules, other) // s.store is unplugged
	signer := signed(t)

	c := s.restoring()
	c.Others = []*pipeline.Repository{s.openAt(other)}
	var text strings.Builder
	c.Output = &text
	report := restore(t, c)
	if !slices.Equal(report.Replayed, []string{"R-1"}) || strings.Contains(text.String(), "name 7\n") || report.Ledger == nil || report.Ledger.Sequence != 1 {
		t.Errorf("%+v", report)
	}
	v := s.verifying(signer, s.store)
	v.Others = c.Others
	if found := verify(t, v); len(found.Findings) == 0 || found.Proof != "" || found.Ledger == nil {
		t.Errorf("verified: %+v", found)
	}

	// Where the other one can't be read, that is said.
	name := archive.RecordName(1)
	if err := errors.Join(other.Delete(context.Background(), name), other.Put(context.Background(), name, []byte("x"))); err != nil {
		t.Fatal(err)
	}
	if report := restore(t, c); len(report.Replayed) > 0 || len(report.Omitted) != 1 || !strings.Contains(report.Omitted[0], "whether it knows of later requests is not known") {
		t.Errorf("%+v", report)
	}
}

// Two repositories are two sets of keys, rules and people: nothing that goes over several stores mixes them.
func TestStoresOfTwoRepositories(t *testing.T) {
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	s.backup()
	s.recordAll(twoTablesRules, s.store)
	foreign := s.newRepository(filepath.Join(t.TempDir(), "foreign"), "")
	if _, err := s.tryBackup(foreign); err != nil {
		t.Fatal(err)
	}
	before := append(names(t, s.store, ""), names(t, foreign, "")...)
	signer := signed(t)
	both := s.purging(signer, s.store, foreign)
	v := s.verifying(signer, s.store)
	v.Others = both.Repositories[1:]
	c := s.restoring()
	c.Others, c.Output = both.Repositories[1:], &strings.Builder{}
	for what, run := range map[string]func() error{
		"purge":   func() error { _, err := pipeline.Purge(context.Background(), both); return err },
		"verify":  func() error { _, err := pipeline.Verify(context.Background(), v); return err },
		"restore": func() error { _, err := pipeline.Restore(context.Background(), c); return err },
		"list": func() error {
			_, err := pipeline.ListErasures(context.Background(), pipeline.ErasuresConfig{Repositories: both.Repositories, Readers: s.holder, Now: time.Now})
			return err
		},
	} {
		if err := run(); !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "it holds repository") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if after := append(names(t, s.store, ""), names(t, foreign, "")...); !slices.Equal(before, after) {
		t.Errorf("files are\n%q, and were\n%q", after, before)
	}
}

// The newest snapshot's rules decide. Where they do not know what a request is about, nothing is purged, proven or
// restored as if nobody had been found; rules that do can be given.
func TestRulesWithoutTheSubject(t *testing.T) {
	s := newSite(t, twoTables)
	s.rules = "version: 1\ndataset: slipmat\ndrift: pass\n"
	s.backup()
	s.rules = withoutRequests(twoTablesRules)
	s.recordAll(twoTablesRules, s.store)
	signer := signed(t)
	before := names(t, s.store, "")
	c := s.restoring()
	c.Output = &strings.Builder{}
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), `no subject of type "user"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := pipeline.Purge(context.Background(), s.purging(signer, s.store))
	refused("purge", err)
	_, err = pipeline.Verify(context.Background(), s.verifying(signer, s.store))
	refused("verify", err)
	_, err = pipeline.Restore(context.Background(), c)
	refused("restore", err)
	if after := slices.DeleteFunc(names(t, s.store, ""), func(name string) bool { return strings.HasPrefix(name, "locks/") }); !slices.Equal(before, after) {
		t.Errorf("files are\n%q, and were\n%q", after, before)
	}

	var text strings.Builder
	c.Output, c.Rules = &text, s.config(s.store).Rules
	if report := restore(t, c); !slices.Equal(report.Replayed, []string{"R-1"}) || strings.Contains(text.String(), "\tname 7\n") || !strings.Contains(text.String(), "\tname 8\n") {
		t.Errorf("restored under other rules: %+v", report)
	}
	p := s.purging(signer, s.store)
	p.Rules = c.Rules
	if report := purge(t, p); report.Plan.Rows == 0 || len(report.Stores[0].Successors) != 1 {
		t.Errorf("purged under other rules: %+v", report)
	}
}

// What was proven by other rules than today's is not proven, and a purge says that today's decide.
func TestProofsGoWithTheRules(t *testing.T) {
	s := newSite(t, twoTables+"CREATE TABLE notes (id int PRIMARY KEY, about int, text text); INSERT INTO notes VALUES (1, 7, 'on 7')")
	s.rules = withoutRequests(twoTablesRules)
	s.backup()
	s.recordAll(twoTablesRules, s.store)
	signer := signed(t)
	if report := purge(t, s.purging(signer, s.store)); slices.ContainsFunc(report.Plan.Remarks, func(r string) bool { return strings.Contains(r, "the rules have changed") }) {
		t.Errorf("%q", report.Plan.Remarks)
	}
	verify(t, s.verifying(signer, s.store))
	if e := s.standing(signer, s.store).Requests[0]; e.Stage != pipeline.Verified {
		t.Errorf("before the rules changed: %+v", e)
	}
	s.rules = strings.Replace(s.rules, "erase:\n", "references: {notes.about: users.id}\nerase:\n  notes: {delete: about}\n", 1)
	c := s.config(s.store)
	c.Trust = append(c.Trust, signer.Public())
	if _, err := pipeline.Backup(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	if e := s.standing(signer, s.store).Requests[0]; e.Stage != pipeline.Purged {
		t.Errorf("after the rules changed: %+v", e)
	}
	if cert := s.certified(signer, "R-1"); len(cert.Unfinished) == 0 || !slices.ContainsFunc(cert.Unknown, func(u string) bool { return strings.Contains(u, "by other rules than today's") }) {
		t.Errorf("certified: %+v", cert)
	}
	if report := verify(t, s.verifying(signer, s.store)); len(report.Findings) == 0 {
		t.Error("the older snapshot's note was not found")
	}
	report := purge(t, s.purging(signer, s.store))
	if !slices.ContainsFunc(report.Plan.Remarks, func(r string) bool {
		return strings.Contains(r, "the rules have changed since a request was recorded (R-1)")
	}) {
		t.Errorf("%q", report.Plan.Remarks)
	}
	verify(t, s.verifying(signer, s.store))
	if e := s.standing(signer, s.store).Requests[0]; e.Stage != pipeline.Verified {
		t.Errorf("verified again: %+v", e)
	}
}

// A manifest that is damaged costs the snapshots beside it nothing: they are restored, with what they do not honour
// replayed, and what can't be known is said.
func TestRestoreBesideADamagedManifest(t *testing.T) {
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	old := s.backup()
	s.recordAll(twoTablesRules, s.store)
	newest := s.backup()
	name := archive.ManifestName(newest)
	data := s.read(name)
	data[len(data)/2] ^= 1
	s.write(name, data)
	c := s.restoring()
	var text strings.Builder
	c.Snapshot, c.Output = old, &text
	report := restore(t, c)
	if !slices.Equal(report.Replayed, []string{"R-1"}) || len(report.Omitted) != 1 || !strings.Contains(report.Omitted[0], newest) || strings.Contains(text.String(), "\tname 7\n") {
		t.Errorf("%+v", report)
	}
	s.mustNotRestore(s.open(), newest, archive.ErrIntegrity)
}

// A request whose key only the server knows to be nobody's was honoured by nobody, and no list says otherwise; it can be
// closed all the same.
func TestUnfitRequestIsNotPurged(t *testing.T) {
	s := newSite(t, "CREATE TABLE days (day date PRIMARY KEY); INSERT INTO days VALUES ('2026-01-01')")
	s.rules = "version: 1\ndataset: slipmat\ndrift: pass\nsubjects: {day: {table: days, key: day}}\nerase: {days: {delete: true}}\n"
	c := pipeline.RequestConfig{BackupConfig: s.config(s.store), Requests: []pipeline.NewRequest{{Subject: "day", Key: "2026-02-30", Ref: "BAD-1"}, {Subject: "day", Key: "2026-01-01", Ref: "R-2"}}}
	c.Source.URL = "postgres:///nothing?host=/nonexistent" // the database is away
	if _, err := pipeline.Record(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	s.backup()
	signer := signed(t)
	list := s.standing(signer, s.store).Requests
	if len(list) != 2 || list[0].Stage != pipeline.Recorded || !list[0].Unfit || list[1].Stage != pipeline.Purged || list[1].Unfit {
		t.Errorf("%+v", list)
	}
	if cert := s.certified(signer, "BAD-1"); cert.State != string(pipeline.Recorded) || len(cert.Unfinished) == 0 {
		t.Errorf("%+v", cert)
	}
}

// What a manifest says beside its objects is searched for values, too.
func TestVerifySearchesManifests(t *testing.T) {
	s := newSite(t, twoTables)
	s.sql("DO $$ BEGIN EXECUTE format('COMMENT ON DATABASE %I IS ''call Ann <ann@example.org> & co''', current_database()); END $$")
	s.backup()
	c := s.verifying(signed(t), s.store)
	c.Lookups = []string{"Ann <ann@example.org> & co"}
	report := verify(t, c)
	if lines := said(report.Findings); len(lines) != 1 || !strings.HasPrefix(lines[0], "1 manifest  holds a value") || report.Proof != "" {
		t.Errorf("%q, proof %q", lines, report.Proof)
	}
	c.Lookups = []string{"bob@example.org"}
	if report := verify(t, c); len(report.Findings) > 0 || report.Proof == "" {
		t.Errorf("%+v", report)
	}
}

// A manifest that says of an object that it holds a text which it does not is not taken at its word, whoever has signed
// it: what takes a piece's place is that piece without the people.
func TestPurgeLooksIntoWhatItUsesAgain(t *testing.T) {
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	other := s.newStore(filepath.Join(t.TempDir(), "other"))
	id := s.mustTake(s.store, other).Snapshot
	s.recordAll(twoTablesRules, s.store, other)
	signer := signed(t)
	was := table(t, s.manifest(s.open(), id, s.holder), "users").Objects[0]
	whole := s.read(archive.ObjectName(was.Object))
	next := purge(t, s.purging(signer, s.store)).Stores[0].Successors[0].New

	// In the store that is purged, somebody has the successor name the old object.
	r := s.open(s.operator.Public(), signer.Public())
	m := s.manifest(r, next, s.holder)
	lie := &table(t, m, "users").Objects[0]
	if lie.Object == was.Object {
		t.Fatal("the users' piece did not change")
	}
	lie.Object, lie.Size, lie.Text = was.Object, was.Size, was.Text
	data, _, err := archive.RewriteManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	s.sign(signer, r.ID, next, data)
	s.write(archive.ObjectName(was.Object), whole)

	report := purge(t, s.purging(signer, s.store, other))
	for _, done := range report.Stores {
		if done.Store == other.String() {
			if found := grepped(s.rowsIn(other, done.Successors[0].New, signer.Public()), "name 7"); len(found) > 0 {
				t.Errorf("the other store's successor holds the person: %v", found)
			}
		}
	}
}

// ON DELETE SET DEFAULT leads to the row that the default names. Where an old snapshot does not have that row, purging it
// would leave it unrestorable: nothing is written, and the rules are to decide.
func TestPurgeLooksForTheRowOfADefault(t *testing.T) {
	s := newSite(t, `CREATE TABLE users (id int PRIMARY KEY, name text);
		CREATE TABLE files (id int PRIMARY KEY, owner int DEFAULT 99 REFERENCES users ON DELETE SET DEFAULT);
		INSERT INTO users VALUES (1, 'one'), (2, 'two'); INSERT INTO files VALUES (1, 1), (2, 2);`)
	const text = "version: 1\ndataset: slipmat\ndrift: pass\nsubjects: {user: {table: users, key: id}}\nerase:\n  users: {delete: true}\n"
	s.rules = text + "  files: {clear: owner}\n"
	old := s.backup()
	s.sql("INSERT INTO users VALUES (99, 'nobody')")
	s.rules = text
	s.recordAll(text+"requests:\n  - {subject: \"user:1\", ref: R-1}\n", s.store)
	s.backup()
	signer := signed(t)
	before := names(t, s.store, "objects/")
	if _, err := pipeline.Purge(context.Background(), s.purging(signer, s.store)); !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "SET DEFAULT of files would lead to a row of users") || !strings.Contains(err.Error(), old) {
		t.Fatalf("purged: %v", err)
	}
	if after := names(t, s.store, "objects/"); !slices.Equal(before, after) {
		t.Errorf("objects are\n%q, and were\n%q", after, before)
	}
	c := s.restoring()
	c.Snapshot, c.Output = old, &strings.Builder{}
	if _, err := pipeline.Restore(context.Background(), c); !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "SET DEFAULT") {
		t.Errorf("restored: %v", err)
	}

	// The rules decide, and then it goes; and where the row is there, the schema's word does.
	s.rules = text + "  files: {clear: owner}\n"
	s.backup()
	next := purge(t, s.purging(signer, s.store)).Stores[0].Successors[0].New
	if rows := s.rowsIn(s.store, next, signer.Public()); len(grepped(rows, "1\t\\N")) != 1 || len(grepped(rows, "\tone\n")) > 0 {
		t.Errorf("%q", rows)
	}
}

func TestPurgeSetsADefault(t *testing.T) {
	s := newSite(t, `CREATE TABLE users (id int PRIMARY KEY, name text);
		CREATE TABLE files (id int PRIMARY KEY, owner bigint DEFAULT 99 REFERENCES users ON DELETE SET DEFAULT);
		INSERT INTO users VALUES (1, 'one'), (2, 'two'), (99, 'nobody'); INSERT INTO files VALUES (1, 1), (2, 2);`)
	s.rules = "version: 1\ndataset: slipmat\ndrift: pass\nsubjects: {user: {table: users, key: id}}\nerase:\n  users: {delete: true}\n"
	s.backup()
	s.recordAll(s.rules+"requests:\n  - {subject: \"user:1\", ref: R-1}\n", s.store)
	signer := signed(t)
	next := purge(t, s.purging(signer, s.store)).Stores[0].Successors[0].New
	if rows := s.rowsIn(s.store, next, signer.Public()); len(grepped(rows, "1\t99\n")) != 1 {
		t.Errorf("%q", rows)
	}
}
