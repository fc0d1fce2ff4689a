package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/store"
	"lethe/pipeline/store/storetest"
)

// takeover is what a key holder has while a repository is taken over.
type takeover struct {
	*site
	signer *archive.SigningKey
	next   *archive.OperatorKey // made by the first run that comes so far; nil before
}

func (s *takeover) config(stores ...store.Store) pipeline.AdoptConfig {
	c := pipeline.AdoptConfig{Stores: stores, Trust: []archive.PublicKey{s.operator.Public()}, Identities: s.holder, Signer: s.signer, Now: time.Now,
		Warn: func(msg string) { s.heard.say(msg) }}
	if s.next != nil {
		c.Trust = append(c.Trust, s.next.Public())
	}
	c.Operator = func(keys *archive.RepositoryKeys) (*archive.OperatorKey, error) {
		if s.next == nil {
			made, err := archive.GenerateOperator()
			if err != nil {
				return nil, err
			}
			s.next = made.Adopt(keys)
		}
		return s.next, nil
	}
	return c
}

func adopt(t testing.TB, c pipeline.AdoptConfig) *pipeline.AdoptReport {
	t.Helper()
	report, err := pipeline.Adopt(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	if failed := report.Failed(); len(failed) > 0 {
		t.Fatal(failed)
	}
	if err := report.Integrity(); err != nil {
		t.Fatal(err)
	}
	return report
}

// moved is the site with the new operator, on a machine that remembers nothing, and whom it believes.
func (s *takeover) moved() (*site, []archive.PublicKey) {
	s.t.Helper()
	m := &site{t: s.t, url: s.url, operator: s.next, public: s.public, private: s.private, to: s.to, holder: s.holder, rules: s.rules,
		state: filepath.Join(s.t.TempDir(), "state"), path: s.path, store: s.store}
	return m, []archive.PublicKey{s.next.Public(), s.signer.Public()}
}

// backs takes a snapshot with the new operator's key, believing the key holder.
func (s *takeover) backs(m *site, stores ...store.Store) (*pipeline.BackupReport, error) {
	c := m.config(stores...)
	c.Trust = []archive.PublicKey{s.signer.Public()}
	return pipeline.Backup(context.Background(), c)
}

// piecesBut are the objects of each part but some.
func piecesBut(m *archive.Manifest, but ...string) (list []string) {
	for _, p := range m.Parts {
		if slices.Contains(but, p.Name) {
			continue
		}
		for _, o := range slices.Concat(p.Objects, p.Filters) {
			list = append(list, p.Name+" "+o.Object)
		}
	}
	return list
}

// The operator's machine is lost. A key holder takes the repository over, and nothing is lost with it: what is stored is
// used again, requests recorded before are honoured, new ones are recorded, and nobody has to trust the lost key.
func TestAdopt(t *testing.T) {
	ctx := context.Background()
	s := &takeover{site: newClub(t), signer: signed(t)}
	second, _ := versionsOf(t, keepsVersions(t)) // and one that keeps what is deleted
	if _, _, err := pipeline.InitRepository(ctx, second, s.open().ID, s.operator, s.to); err != nil {
		t.Fatal(err)
	}
	first := s.mustTake(s.store, second)
	if _, err := s.record([]pipeline.NewRequest{order(42, "R-1")}, s.store, second); err != nil {
		t.Fatal(err)
	}
	s.mustTake(s.store, second)
	purge(t, s.purging(s.signer, s.store, second))
	for _, in := range []store.Store{s.store, second} {
		if report := verify(t, s.verifying(s.signer, in)); len(report.Findings) > 0 {
			t.Fatal(report.Findings)
		}
	}
	if _, err := s.record([]pipeline.NewRequest{order(7, "R-2")}, s.store, second); err != nil {
		t.Fatal(err)
	}
	before := s.ledger(s.store)
	old := s.manifest(s.open(s.operator.Public(), s.signer.Public()), lastOf(t, s.store), s.holder)
	rows := s.rowsIn(s.store, "latest", s.signer.Public())

	report := adopt(t, s.config(s.store, second))
	if !report.Changed || report.Stores[0].Resealed != 2 || report.Stores[1].Resealed != 2 || report.Erasures != 2 || report.Rules != s.rules || report.Dataset != "slipmat" ||
		report.Ledger.Sequence != 3 || report.Operator != s.next.Public().String() {
		t.Errorf("%+v", report)
	}
	again := adopt(t, s.config(s.store, second))
	if again.Changed || again.Stores[0].Resealed != 0 || *again.Ledger != *report.Ledger {
		t.Errorf("a second time: %+v", again)
	}

	// From here on the lost operator's line is trusted by nobody.
	m, trust := s.moved()
	r := m.open(trust...)
	if check := m.check(r, 1); len(check.Problems) > 0 || check.Snapshots != 2 || check.Unnamed != 0 {
		t.Errorf("%+v", check)
	}
	for _, in := range []store.Store{s.store, second} {
		repo, err := pipeline.OpenRepository(ctx, in, archive.NewTrust(trust...))
		if err != nil {
			t.Fatal(err)
		}
		ledger, err := pipeline.OpenLedger(ctx, repo, s.next.Identities(), report.Ledger)
		if err != nil || !slices.Equal(refsOf(ledger), []string{"R-1", "R-2"}) || ledger.Records[2].Kind != archive.AdoptedRecord {
			t.Fatalf("%+v, %v", ledger, err)
		}
		for i, e := range before.Records {
			if ledger.Records[i].Digest != e.Digest {
				t.Errorf("record %d has changed", i+1)
			}
		}
	}
	sameRows(t, "the newest snapshot after the takeover", rows, m.rowsIn(s.store, "latest", s.signer.Public()))
	standing := func() map[string]pipeline.Erasure {
		t.Helper()
		repos := []*pipeline.Repository{m.open(trust...)}
		proven, err := pipeline.Proven(ctx, repos, s.next.Identities())
		if err != nil {
			t.Fatal(err)
		}
		list, err := pipeline.ListErasures(ctx, pipeline.ErasuresConfig{Repositories: repos, Readers: s.next.Identities(), Verified: proven, Now: time.Now})
		if err != nil || len(list.Failed()) > 0 {
			t.Fatal(err, list)
		}
		by := map[string]pipeline.Erasure{}
		for _, e := range list.Requests {
			by[e.Ref] = e
		}
		return by
	}
	if by := standing(); by["R-1"].Stage != pipeline.Verified || by["R-2"].Stage != pipeline.Recorded {
		t.Errorf("%+v", by)
	}
	cert := pipeline.CertificateConfig{Ref: "R-1", Issuer: s.next.Public(), Tool: "test"}
	cert.Repositories, cert.Readers, cert.Now = []*pipeline.Repository{r}, s.next.Identities(), time.Now
	certified, err := pipeline.Certify(ctx, cert)
	if err != nil || len(certified.Stores[0].Rewritten) != 1 || certified.Stores[0].Rewritten[0].Old != first.Snapshot || certified.Request.RecordedBy != s.operator.Public().String() {
		t.Errorf("%+v, %v", certified, err)
	}

	// The next backup sends what has changed, and honours what was recorded before.
	m.sql("UPDATE payments SET holder = 'changed' WHERE id = 9")
	took, err := s.backs(m, s.store, second)
	if err != nil || len(took.Failed()) > 0 || took.Erasures != 2 {
		t.Fatalf("%+v, %v", took, err)
	}
	now := m.manifest(r, took.Snapshot, s.next.Identities())
	if *now.Ledger != *report.Ledger {
		t.Errorf("honours %v", now.Ledger)
	}
	known := piecesBut(old)
	for _, o := range piecesBut(now, "payments", "users", "posts") {
		if !slices.Contains(known, o) {
			t.Errorf("%s was sent again", o)
		}
	}
	if took.Reused == 0 {
		t.Error("nothing was used again")
	}
	for table, lines := range m.rowsIn(s.store, took.Snapshot, s.signer.Public()) {
		for _, line := range lines {
			if fields := strings.Split(line, "\t"); strings.Contains(table, "posts") && len(fields) == 3 && (fields[1] == "42" || fields[1] == "7") {
				t.Errorf("a post of somebody who was erased is in the next snapshot")
			}
		}
	}
	same, err := s.backs(m, s.store, second)
	if err != nil || same.Reused != same.Pieces {
		t.Errorf("nothing has changed, and of %d pieces %d were used again: %v", same.Pieces, same.Reused, err)
	}

	// A new request, a purge, verifying.
	record := pipeline.RequestConfig{BackupConfig: m.config(s.store, second), Requests: []pipeline.NewRequest{order(43, "R-3")}}
	record.Trust = []archive.PublicKey{s.signer.Public()}
	if got, err := pipeline.Record(ctx, record); err != nil || got.Requests[0].Sequence != 4 || len(got.Failed()) > 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	purge(t, m.purging(s.signer, s.store, second))
	for _, in := range []store.Store{s.store, second} {
		if report := verify(t, m.verifying(s.signer, in)); len(report.Findings) > 0 {
			t.Error(report.Findings)
		}
	}
	for ref, e := range standing() {
		if e.Stage != pipeline.Verified {
			t.Errorf("%s is %s", ref, e.Stage)
		}
	}
	if check := m.check(m.open(trust...), 1); len(check.Problems) > 0 {
		t.Error(check.Problems)
	}
	status, err := pipeline.Status(ctx, pipeline.StatusConfig{Repository: m.open(trust...), Trusts: true, Readers: s.next.Identities(), MaxAge: time.Hour, Retention: weekly, Now: time.Now})
	if err != nil || status.Stale || len(status.Problems) > 0 || status.Verified != pipeline.ByManifest {
		t.Errorf("%+v, %v", status, err)
	}
}

func lastOf(t testing.TB, in store.Store) string {
	t.Helper()
	list := manifests(t, in)
	id, _ := archive.SnapshotOf(list[len(list)-1])
	return id
}

// Whatever moment a takeover is killed in, everything listed is whole, and the next run ends it.
func TestAdoptKilled(t *testing.T) {
	start := purgeHistory(t)
	signer := signed(t)
	purge(t, start.purging(signer))
	start.rules = withoutRequests(fewPeopleRules)
	start.backup()
	run := func(h *history, s *takeover) pipeline.AdoptConfig {
		c := s.config(h.faulty)
		c.Now = h.clock
		return c
	}
	full := start.copyOf(t)
	var mu sync.Mutex
	calls := 0
	full.faulty.Add(storetest.Rule{Fault: storetest.Call(func(string) error { mu.Lock(); calls++; mu.Unlock(); return nil })})
	whole := adopt(t, run(full, &takeover{site: full.site, signer: signer}))
	accounts := func(in store.Store) (n int) { // a signature whose file is gone counts for nothing
		for _, name := range names(t, in, archive.AccountsPrefix) {
			if !strings.HasSuffix(name, archive.SignatureSuffix) {
				n++
			}
		}
		return n
	}
	step, at := 7, 1+rand.IntN(7)
	if os.Getenv("LETHE_KILLS") != "" {
		step, at = 1, 1
	}
	t.Logf("%d calls; killed before call %d and every %dth after it", calls, at, step)
	for n := at; n <= calls; n += step {
		h := start.copyOf(t)
		s := &takeover{site: h.site, signer: signer}
		h.killAt(n)
		if _, err := pipeline.Adopt(context.Background(), run(h, s)); err == nil && n < calls-40 { // a store that fails near the end stands in the report
			t.Logf("killed at call %d: it ended all the same", n)
		}
		h.faulty.Heal()
		trust := []archive.PublicKey{h.operator.Public(), signer.Public()}
		readers := h.holder
		check, err := pipeline.Check(context.Background(), pipeline.CheckConfig{Repository: h.open(trust...), Readers: readers, ReadData: 1, Workers: 2})
		if err != nil || len(check.Problems) > 0 {
			t.Fatalf("killed at call %d of %d: %v, %v", n, calls, check, err)
		}
		if got := h.times(); !slices.Equal(got, start.times()) {
			t.Fatalf("killed at call %d of %d: of the snapshots %v there are %v", n, calls, start.times(), got)
		}
		h.now = h.now.Add(11 * time.Minute) // the lease of the killed one runs out
		report := adopt(t, run(h, s))
		if *report.Ledger != *whole.Ledger || report.Erasures != whole.Erasures {
			t.Fatalf("killed at call %d of %d: ledger %v, not %v", n, calls, report.Ledger, whole.Ledger)
		}
		m, trust := s.moved()
		check = m.check(m.open(trust...), 1)
		if len(check.Problems) > 0 || check.Snapshots != len(start.times()) || check.Unnamed != 0 {
			t.Fatalf("killed at call %d of %d: %+v", n, calls, check)
		}
		if left := slices.Concat(names(t, h.store, "locks/"), names(t, h.store, "expired/")); len(left) > 0 {
			t.Fatalf("killed at call %d of %d: left %v", n, calls, left)
		}
		if a, b := accounts(h.store), accounts(start.store); a != b {
			t.Fatalf("killed at call %d of %d: %d accounts, not %d", n, calls, a, b)
		}
		if adopt(t, run(h, s)).Changed {
			t.Fatalf("killed at call %d of %d: the run after the last one had something to do", n, calls)
		}
	}
}

// A store that could not be reached is left as it is, and takes part when the takeover is run again; a ledger that lags is
// brought up to date.
func TestAdoptStoresApart(t *testing.T) {
	s := &takeover{site: newLedgerSite(t), signer: signed(t)}
	second := s.newStore(filepath.Join(t.TempDir(), "second"))
	third := s.newStore(filepath.Join(t.TempDir(), "third"))
	s.mustRecord("R-1", s.store, second, third)
	s.mustRecord("R-22", s.store, third) // second lags
	c := s.config(s.store, second)
	c.Recipients = s.to
	report := adopt(t, c)
	if report.Ledger.Sequence != 3 {
		t.Errorf("%+v", report)
	}
	sameFiles(t, "the store that lagged", ledgerFiles(t, second), ledgerFiles(t, s.store))
	m, trust := s.moved()
	request := pipeline.RequestConfig{BackupConfig: m.config(s.store, second, third), Requests: []pipeline.NewRequest{order(333, "R-333")}}
	request.Trust = trust[1:]
	recorded, err := pipeline.Record(context.Background(), request)
	if err != nil || len(recorded.Failed()) != 1 || recorded.Failed()[0].Store != third.String() || !errors.Is(recorded.Integrity(), archive.ErrUntrustedSigner) {
		t.Fatalf("%+v, %v", recorded, err)
	}
	c = s.config(s.store, second, third)
	c.Recipients = s.to
	if report := adopt(t, c); report.Ledger.Sequence != 4 || !report.Changed {
		t.Errorf("%+v", report)
	}
	sameFiles(t, "the store that was away", ledgerFiles(t, third), ledgerFiles(t, s.store))
	if recorded, err := pipeline.Record(context.Background(), request); err != nil || len(recorded.Failed()) > 0 {
		t.Errorf("%+v, %v", recorded, err)
	}
}

// A sealed request that is lost with the operator's machine keeps nobody from taking over. Nor is it forgotten: whoever
// knows whom it was about has to say so before the next backup.
func TestAdoptWithoutARequest(t *testing.T) {
	s := &takeover{site: newLedgerSite(t), signer: signed(t)}
	second := s.newStore(filepath.Join(t.TempDir(), "second"))
	s.mustRecord("R-1", s.store)
	s.mustRecord("R-02", s.store, second)
	s.lose(1) // in the first store, and on this machine
	lost, err := filepath.Glob(filepath.Join(s.path, "ledger", "00000002-*.age"))
	if err != nil || len(lost) != 1 || os.Remove(lost[0]) != nil {
		t.Fatal(lost, err)
	}
	for name := range ledgerFiles(t, second) { // that of 2 is there
		if strings.HasPrefix(name, "ledger/00000001-") && second.Delete(context.Background(), name) != nil {
			t.Fatal(name)
		}
	}
	c := s.config(s.store, second)
	c.Recipients = s.to // there is no snapshot that says so
	report, err := pipeline.Adopt(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := report.Integrity(); !slices.Equal(report.Lost, []int64{1}) || !report.Changed || !errors.Is(err, pipeline.ErrIntegrity) || !strings.Contains(err.Error(), "record 1 is nowhere") {
		t.Errorf("%+v, %v", report, err)
	}
	m, _ := s.moved()
	record := func(instead int64) error {
		c := m.config(s.store, second)
		c.Trust = []archive.PublicKey{s.signer.Public()}
		_, err := pipeline.Record(context.Background(), pipeline.RequestConfig{BackupConfig: c, Requests: []pipeline.NewRequest{order(900, "R-900")}, InsteadOf: instead})
		return err
	}
	if err := record(0); !errors.Is(err, pipeline.ErrIntegrity) || !strings.Contains(err.Error(), "of record 1 is nowhere") {
		t.Errorf("a run that does not know whom to leave out: %v", err)
	}
	if err := record(1); err != nil {
		t.Fatal(err)
	}
	c = s.config(s.store, second)
	c.Recipients = s.to
	if report := adopt(t, c); len(report.Lost) > 0 || report.Changed {
		t.Errorf("%+v", report)
	}
}

// What is refused leaves every store as it was, and makes no operator key.
func TestAdoptRefuses(t *testing.T) {
	s := &takeover{site: newSite(t, severalPieces), signer: signed(t)}
	s.state = filepath.Join(t.TempDir(), "state")
	s.backup()
	stranger, err := archive.GenerateOperator()
	if err != nil {
		t.Fatal(err)
	}
	other := siteOf(t, "postgres:///nothing?host=/nonexistent")
	files := names(t, s.store, "")
	for name, c := range map[string]struct {
		change func(*pipeline.AdoptConfig)
		kind   error
		says   string
	}{
		"an identity that opens nothing":    {func(c *pipeline.AdoptConfig) { c.Identities = other.holder }, archive.ErrNoIdentity, "read the repository's keys"},
		"a lost operator that nobody named": {func(c *pipeline.AdoptConfig) { c.Trust = nil }, archive.ErrUntrustedSigner, "which is not trusted"},
		"another operator in its place":     {func(c *pipeline.AdoptConfig) { c.Trust = []archive.PublicKey{stranger.Public()} }, archive.ErrUntrustedSigner, "which is not trusted"},
		"recipients without the key holder": {func(c *pipeline.AdoptConfig) { c.Recipients = other.to }, pipeline.ErrConfig, "none of the recipients is the identity's own"},
		"an operator key of another repository": {func(c *pipeline.AdoptConfig) {
			c.Operator = func(*archive.RepositoryKeys) (*archive.OperatorKey, error) { return stranger, nil }
		}, pipeline.ErrConfig, "that of another repository"},
		"stores of two repositories":           {func(c *pipeline.AdoptConfig) { c.Stores = []store.Store{other.store}; c.Trust = nil }, archive.ErrUntrustedSigner, "which is not trusted"},
		"a head that the ledger does not hold": {func(c *pipeline.AdoptConfig) { c.Expect = &archive.LedgerHead{Sequence: 5} }, archive.ErrIntegrity, "there was a record 5"},
	} {
		config := s.config(s.store)
		c.change(&config)
		_, err := pipeline.Adopt(context.Background(), config)
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if now := names(t, s.store, ""); !slices.Equal(now, files) {
			t.Errorf("%s: files %v, were %v", name, now, files)
		}
	}
	unclear := s.config(s.store)
	two, err := archive.ParseRecipients([]string{s.public, other.public}, "")
	if err != nil {
		t.Fatal(err)
	}
	s.to = two
	s.backup() // for two: who reads the next ones has to be said
	s.next = nil
	if _, err := pipeline.Adopt(context.Background(), unclear); !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "not all recipients") || s.next != nil {
		t.Errorf("%v", err)
	}
}

// Whoever finds the lost operator's key after a takeover can neither undo it nor be believed.
func TestStolenOperatorKeyAfterTakeover(t *testing.T) {
	ctx := context.Background()
	s := &takeover{site: newClub(t), signer: signed(t)}
	s.mustTake(s.store)
	if _, err := s.record([]pipeline.NewRequest{order(42, "R-1")}, s.store); err != nil {
		t.Fatal(err)
	}
	adopt(t, s.config(s.store))
	m, trust := s.moved()
	took, err := s.backs(m, s.store)
	if err != nil {
		t.Fatal(err)
	}
	r := m.open(trust...)
	thief := s.operator

	// It opens nothing that is there now.
	if _, err := r.Manifest(ctx, took.Snapshot, thief.Identities()); !errors.Is(err, archive.ErrNoIdentity) {
		t.Errorf("the manifest: %v", err)
	}
	if _, err := pipeline.OpenLedger(ctx, r, thief.Identities(), nil); !errors.Is(err, archive.ErrNoIdentity) {
		t.Errorf("the ledger: %v", err)
	}

	// A newer key file, a newer snapshot, a newer record.
	data, err := archive.WriteKeys(r.ID, thief, s.to)
	if err != nil {
		t.Fatal(err)
	}
	put := func(purpose archive.Purpose, name string, data []byte) {
		t.Helper()
		sig, err := archive.Sign(thief.Signing, purpose, r.ID, name, data)
		if err != nil {
			t.Fatal(err)
		}
		s.write(name, data)
		s.write(name+archive.SignatureSuffix, sig)
	}
	put(archive.PurposeKeys, archive.KeysNameOf(3), data)
	if next, err := s.backs(m, s.store); err != nil || len(next.Failed()) > 0 {
		t.Errorf("with a key file of the thief's: %+v, %v", next, err)
	}
	if problems := m.check(r, 0).Problems; len(problems) != 1 || !strings.Contains(problems[0].Problem, "keys/0003.age") {
		t.Errorf("check: %v", problems)
	}
	s.remove(archive.KeysNameOf(3), archive.KeysNameOf(3)+archive.SignatureSuffix)

	forged := m.manifest(r, took.Snapshot, s.holder)
	forged.ID = time.Now().UTC().Add(time.Minute).Format("20060102T150405Z") + "-000001"
	if data, _, err = archive.WriteManifest(forged, s.to, thief); err != nil {
		t.Fatal(err)
	}
	put(archive.PurposeManifest, archive.ManifestName(forged.ID), data)
	status, err := pipeline.Status(ctx, pipeline.StatusConfig{Repository: r, Trusts: true, Readers: s.next.Identities(), MaxAge: time.Hour, Now: time.Now})
	if err != nil || len(status.Problems) != 1 || status.Newest == forged.ID {
		t.Errorf("%+v, %v", status, err)
	}
	s.mustNotRestore(r, "latest", archive.ErrUntrustedSigner)
	s.remove(archive.ManifestName(forged.ID), archive.ManifestName(forged.ID)+archive.SignatureSuffix)

	ledger, err := pipeline.OpenLedger(ctx, r, s.holder, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []archive.RecordKind{archive.AdoptedRecord, archive.ClosedRecord} {
		record := ledger.Head().Next(kind)
		if kind == archive.ClosedRecord {
			record.Closes = 1
		}
		if data, err = record.Encode(); err != nil {
			t.Fatal(err)
		}
		put(archive.PurposeLedger, archive.RecordName(record.Sequence), data)
		if _, err := pipeline.OpenLedger(ctx, r, s.holder, nil); !errors.Is(err, archive.ErrUntrustedSigner) {
			t.Errorf("a record %s of the thief's: %v", kind, err)
		}
		if _, err := s.backs(m, s.store); !errors.Is(err, archive.ErrUntrustedSigner) {
			t.Errorf("a record %s of the thief's, and a backup: %v", kind, err)
		}
		s.remove(archive.RecordName(record.Sequence), archive.RecordName(record.Sequence)+archive.SignatureSuffix)
	}

	// A changed record of before the takeover.
	s.write(archive.RecordName(1), []byte(strings.Replace(string(s.read(archive.RecordName(1))), `"commitment":"`, `"commitment":"0`, 1)))
	if _, err := pipeline.OpenLedger(ctx, r, s.holder, nil); !errors.Is(err, archive.ErrIntegrity) {
		t.Errorf("a changed record: %v", err)
	}
}

// The way to read the ledger without Lethe, as docs/format.md has it, before and after a takeover.
func TestLedgerByHand(t *testing.T) {
	s := &takeover{site: newLedgerSite(t), signer: signed(t)}
	text, err := os.ReadFile(filepath.Join("..", "docs", "format.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, script, found := strings.Cut(string(text), "\n```bash\n")
	script, _, end := strings.Cut(script, "\n```\n")
	if !found || !end || !strings.Contains(script, "ledger/") {
		t.Fatal("docs/format.md has no fenced block of bash that reads the ledger")
	}
	run := func(trust ...archive.PublicKey) (string, error) {
		t.Helper()
		s.write("key", []byte(s.private+"\n"))
		defer s.remove("key")
		var lines []string
		for _, k := range trust {
			lines = append(lines, k.String())
		}
		cmd := exec.Command("bash", "-c", script)
		cmd.Dir, cmd.Env = s.path, append(os.Environ(), "trust="+strings.Join(lines, " "))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	reads := func(want string, trust ...archive.PublicKey) {
		t.Helper()
		if out, err := run(trust...); err != nil || out != want {
			t.Errorf("%v: it says\n%s\nnot\n%s", err, out, want)
		}
	}
	refuses := func(says string, trust ...archive.PublicKey) {
		t.Helper()
		if out, err := run(trust...); err == nil || !strings.Contains(out, says) {
			t.Errorf("%v: it says\n%s\nand not %q", err, out, says)
		}
	}
	if _, err := s.record([]pipeline.NewRequest{order(42, "R-1"), order(43, "R-2"), order(44, "R-3")}, s.store); err != nil {
		t.Fatal(err)
	}
	s.closeLost(2) // by 4, and 5 stands for it
	head := func() string {
		t.Helper()
		list := names(t, s.store, archive.LedgerPrefix)
		last := ""
		for _, name := range list {
			if _, ok := archive.RecordOf(name); ok {
				last = name
			}
		}
		n, _ := archive.RecordOf(last)
		return fmt.Sprintf("head %d:%s\n", n, archive.Digest(s.read(last)))
	}
	ledger := s.ledger(s.store)
	open := ""
	for _, r := range ledger.Open() {
		open += fmt.Sprintf("%d\t%s\t%s\t%s\t%s\n", r.Sequence, r.Ref, r.Subject, r.Key, r.Received.Format(time.DateOnly))
	}
	if strings.Count(open, "\n") != 3 {
		t.Fatal(open)
	}
	reads(head()+open, s.operator.Public())
	refuses("is signed by nobody who is trusted", s.signer.Public())

	c := s.config(s.store)
	c.Recipients = s.to
	adopt(t, c)
	_, trust := s.moved()
	reads(head()+open, trust...)
	refuses("is signed by nobody who is trusted", s.operator.Public())

	for what, harm := range map[string]func(){
		"record 2 is missing":            func() { s.remove(archive.RecordName(2)) },
		"does not follow the one before": func() { s.write(archive.RecordName(1), append(s.read(archive.RecordName(1)), ' ')) },
		"the sealed request of record 1 can't be read": func() {
			found, err := filepath.Glob(s.file(archive.LedgerPrefix + "00000001-*.age"))
			if err != nil || len(found) != 1 || os.Remove(found[0]) != nil {
				t.Fatal(found, err)
			}
		},
	} {
		before := t.TempDir()
		if err := os.CopyFS(before, os.DirFS(s.path)); err != nil {
			t.Fatal(err)
		}
		harm()
		refuses(what, trust...)
		if err := errors.Join(os.RemoveAll(s.path), os.CopyFS(s.path, os.DirFS(before))); err != nil {
			t.Fatal(err)
		}
	}
}
