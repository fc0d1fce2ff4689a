package pipeline_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/store"
	"lethe/pipeline/store/storetest"
)

const userRules = plainRules + "subjects: {user: {table: users, key: id, lookup: [email]}}\nerase: {users: {delete: true}}\n"

// newLedgerSite is a site whose database is out of reach, so that requests are recorded unchecked: the ledger needs none.
func newLedgerSite(t testing.TB) *site {
	t.Helper()
	s := siteOf(t, "postgres:///nothing?host=/nonexistent")
	s.rules, s.state = userRules, filepath.Join(t.TempDir(), "state")
	return s
}

// order is a request for one user.
func order(key int, ref string) pipeline.NewRequest {
	return pipeline.NewRequest{Subject: "user", Key: fmt.Sprint(key), Ref: ref, Received: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)}
}

// record records requests in stores.
func (s *site) record(orders []pipeline.NewRequest, stores ...store.Store) (*pipeline.RequestReport, error) {
	s.t.Helper()
	c := pipeline.RequestConfig{BackupConfig: s.config(stores...), Requests: orders}
	report, err := pipeline.Record(context.Background(), c)
	s.hearError(err)
	return report, err
}

func (s *site) mustRecord(ref string, stores ...store.Store) *pipeline.RequestReport {
	s.t.Helper()
	report, err := s.record([]pipeline.NewRequest{order(len(ref)*1000, ref)}, stores...)
	if err != nil {
		s.t.Fatal(err)
	}
	return report
}

// ledgerFiles are the files of a ledger, by name.
func ledgerFiles(t testing.TB, in store.Store) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, name := range names(t, in, archive.LedgerPrefix) {
		data, err := store.ReadAll(context.Background(), in, name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(data)
	}
	return files
}

// own opens this machine's copy.
func (s *site) own() store.Store {
	s.t.Helper()
	d, err := s.copyOf(s.open().ID)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { d.Close() })
	return d
}

func (s *site) openLedger(in store.Store, expect *archive.LedgerHead) (*pipeline.Ledger, error) {
	s.t.Helper()
	return pipeline.OpenLedger(context.Background(), s.openAt(in), s.holder, expect)
}

func sameFiles(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s: %v\nwant %v, or the same names with other content", what, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

// refsOf are the references of open requests, in order.
func refsOf(l *pipeline.Ledger) (refs []string) {
	for _, r := range l.Open() {
		refs = append(refs, r.Ref)
	}
	return refs
}

// A request is one record in every store and on this machine, however often it is made; a key holder reads it.
func TestRecord(t *testing.T) {
	pgtest.NoLeaks(t)
	s := newLedgerSite(t)
	second := s.newStore(filepath.Join(t.TempDir(), "second"))
	report, err := s.record([]pipeline.NewRequest{order(42, "R-1"), order(43, "R-2"), order(42, "R-1"), order(42, "R-3")}, s.store, second)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(report.Requests); n != 4 || report.Requests[2].Sequence != 1 || report.Requests[3].Sequence != 3 || report.Requests[3].Also != "R-1" ||
		report.Ledger.Sequence != 3 || len(report.Failed()) > 0 || report.Requests[0].Present != nil {
		t.Errorf("%+v", report)
	}
	again, err := s.record([]pipeline.NewRequest{order(43, "R-2"), order(42, "R-1")}, s.store, second)
	if err != nil || again.Requests[0].New || again.Requests[0].Sequence != 2 || again.Requests[1].New || *again.Ledger != *report.Ledger {
		t.Errorf("made twice: %+v, %v", again, err)
	}
	files := ledgerFiles(t, s.store)
	if len(files) != 9 {
		t.Errorf("files %v", slices.Sorted(maps.Keys(files)))
	}
	sameFiles(t, "the second store", ledgerFiles(t, second), files)
	sameFiles(t, "this machine", ledgerFiles(t, s.own()), files)
	ledger, err := s.openLedger(second, report.Ledger)
	if err != nil || !slices.Equal(refsOf(ledger), []string{"R-1", "R-2", "R-3"}) {
		t.Fatalf("%v, %v", ledger, err)
	}
	r := ledger.Open()[1]
	if r.Subject != "user" || r.Key != "43" || r.Received.Format(time.DateOnly) != "2026-11-20" || r.Signer != s.operator.Public() ||
		r.Rules != archive.Digest([]byte(userRules)) || time.Since(r.Recorded).Abs() > time.Hour {
		t.Errorf("%v: %s %s %s %s", r, r.Subject, r.Key, r.Received, r.Recorded)
	}
	if after := ledger.After(&archive.LedgerHead{Sequence: 2}); len(after) != 1 || after[0].Ref != "R-3" {
		t.Errorf("after record 2: %v", after)
	}
	for _, text := range []string{"42", "43", "R-1", "user"} {
		for name, data := range files {
			if strings.HasSuffix(name, ".json") && strings.Contains(data, `"`+text+`"`) {
				t.Errorf("%s tells %s", name, text)
			}
		}
	}
	info, err := os.Stat(filepath.Join(s.state, s.open().ID, archive.RecordName(1)))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if l := names(t, s.store, "locks/"); len(l) > 0 {
		t.Errorf("leases stay: %v", l)
	}
}

func TestRecordRefuses(t *testing.T) {
	pgtest.NoLeaks(t)
	s := newLedgerSite(t)
	if _, err := s.record([]pipeline.NewRequest{order(42, "R-1")}, s.store); err != nil {
		t.Fatal(err)
	}
	files := ledgerFiles(t, s.store)
	for name, c := range map[string]struct {
		orders []pipeline.NewRequest
		says   string
	}{
		"a reference of another subject":           {[]pipeline.NewRequest{order(5555555555555, "R-2"), order(5555555555556, "R-1")}, "request R-1: its reference stands for another subject already, in record 1"},
		"one reference for two":                    {[]pipeline.NewRequest{order(5555555555555, "R-2"), order(5555555555556, "R-2")}, "request R-2: its reference stands for another subject, too"},
		"a type that the rules don't have":         {[]pipeline.NewRequest{{Subject: "admin", Key: "5555555555555", Ref: "R-2"}}, "no such type of subject"},
		"an address as reference":                  {[]pipeline.NewRequest{{Subject: "user", Key: "5555555555555", Ref: "ann@example.com"}}, "the reference is not"},
		"a day that is yet to come":                {[]pipeline.NewRequest{{Subject: "user", Key: "5555555555555", Ref: "R-2", Received: time.Now().AddDate(0, 0, 3)}}, "yet to come"},
		"an empty key":                             {[]pipeline.NewRequest{{Subject: "user", Ref: "R-2"}}, "the key is empty"},
		"a key of more than a kilobyte":            {[]pipeline.NewRequest{{Subject: "user", Key: strings.Repeat("5", 1025), Ref: "R-2"}}, "longer than 1024 bytes"},
		"the same reference and key, another type": {[]pipeline.NewRequest{{Subject: "admin", Key: "42", Ref: "R-1"}}, "no such type of subject"},
	} {
		_, err := s.record(c.orders, s.store)
		if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "555555555555") || strings.Contains(err.Error(), "ann@") {
			t.Errorf("%s: %v", name, err)
		}
		sameFiles(t, name, ledgerFiles(t, s.store), files)
	}
}

// edit is a change that somebody makes in a ledger's files.
type edit func(r *rand.Rand, root, stranger string, files []string) (what string)

var edits = []edit{
	func(r *rand.Rand, root, _ string, files []string) string { // a byte
		name := files[r.IntN(len(files))]
		data := mustRead(filepath.Join(root, name))
		at := r.IntN(len(data))
		data[at] ^= byte(1 << r.IntN(8))
		return fmt.Sprintf("byte %d of %s changed: %v", at, name, replaceFile(filepath.Join(root, name), data))
	},
	func(r *rand.Rand, root, _ string, files []string) string { // cut
		name := files[r.IntN(len(files))]
		data := mustRead(filepath.Join(root, name))
		n := r.IntN(len(data))
		return fmt.Sprintf("%s cut to %d bytes: %v", name, n, replaceFile(filepath.Join(root, name), data[:n]))
	},
	func(r *rand.Rand, root, _ string, files []string) string { // deleted
		name := files[r.IntN(len(files))]
		return fmt.Sprintf("%s deleted: %v", name, os.Remove(filepath.Join(root, name)))
	},
	func(r *rand.Rand, root, _ string, files []string) string { // everything of one record deleted
		n := fmt.Sprintf("%08d", 1+r.IntN(len(files)/3))
		for _, name := range files {
			if strings.HasPrefix(filepath.Base(name), n) {
				_ = os.Remove(filepath.Join(root, name))
			}
		}
		return "record " + n + " deleted"
	},
	func(r *rand.Rand, root, _ string, files []string) string { // cut off from some record on
		from := fmt.Sprintf("%08d", 1+r.IntN(len(files)/3))
		for _, name := range files {
			if filepath.Base(name)[:8] >= from {
				_ = os.Remove(filepath.Join(root, name))
			}
		}
		return "everything from record " + from + " on deleted"
	},
	func(r *rand.Rand, root, _ string, files []string) string { // two files of one kind exchanged
		name := files[r.IntN(len(files))]
		var others []string
		for _, o := range files {
			if o != name && filepath.Ext(o) == filepath.Ext(name) {
				others = append(others, o)
			}
		}
		other := others[r.IntN(len(others))]
		a, b := mustRead(filepath.Join(root, name)), mustRead(filepath.Join(root, other))
		return fmt.Sprintf("%s and %s exchanged: %v", name, other, errors.Join(replaceFile(filepath.Join(root, name), b), replaceFile(filepath.Join(root, other), a)))
	},
	func(r *rand.Rand, root, _ string, files []string) string { // two records exchanged, with all that belongs to them
		last := len(files) / 3
		a := 1 + r.IntN(last)
		b := 1 + (a+r.IntN(last-1))%last
		for _, name := range files {
			one := fmt.Sprintf("%08d", a)
			if strings.HasPrefix(filepath.Base(name), one) {
				other := strings.Replace(name, one, fmt.Sprintf("%08d", b), 1)
				if slices.Contains(files, other) {
					x, y := mustRead(filepath.Join(root, name)), mustRead(filepath.Join(root, other))
					_, _ = replaceFile(filepath.Join(root, name), y), replaceFile(filepath.Join(root, other), x)
				}
			}
		}
		return fmt.Sprintf("records %d and %d exchanged", a, b)
	},
	func(r *rand.Rand, root, stranger string, files []string) string { // one of another repository's in its place
		name := files[r.IntN(len(files))]
		foreign, err := filepath.Glob(filepath.Join(stranger, "ledger", "*"+filepath.Ext(name)))
		if err != nil || len(foreign) == 0 {
			panic("the other repository has no such file")
		}
		return fmt.Sprintf("%s taken from another repository: %v", name, replaceFile(filepath.Join(root, name), mustRead(foreign[r.IntN(len(foreign))])))
	},
	func(r *rand.Rand, root, stranger string, files []string) string { // a whole record of another repository's
		n := fmt.Sprintf("%08d", 1+r.IntN(5))
		for _, name := range files {
			if strings.HasPrefix(filepath.Base(name), n) {
				foreign, _ := filepath.Glob(filepath.Join(stranger, "ledger", n+"*"+strings.TrimPrefix(filepath.Base(name), n)[9*boolInt(strings.HasSuffix(name, ".age")):]))
				if len(foreign) > 0 {
					_ = replaceFile(filepath.Join(root, name), mustRead(foreign[0]))
				}
			}
		}
		return "record " + n + " taken from another repository"
	},
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func mustRead(path string) []byte {
	data, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	return data
}

func replaceFile(path string, data []byte) error {
	return errors.Join(os.Remove(path), os.WriteFile(path, data, 0o600))
}

// TestLedgerEditsAreNoticed: whatever is changed, deleted, exchanged or brought in, a reader who knows the head notices,
// or reads the very same requests (what was changed said nothing, such as a signature's untrusted comment).
func TestLedgerEditsAreNoticed(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s, other := newLedgerSite(t), newLedgerSite(t)
	for i := range 7 {
		for _, at := range []*site{s, other} {
			if _, err := at.record([]pipeline.NewRequest{order(100+i, fmt.Sprintf("R-%d", i))}, at.store); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.closeLost(2)
	want, err := s.openLedger(s.store, nil)
	if err != nil {
		t.Fatal(err)
	}
	if l := len(want.Records); l != 9 || len(want.Open()) != 7 || !want.Records[1].Closed {
		t.Fatalf("%d records, open %v", l, refsOf(want))
	}
	good := ledgerFiles(t, s.store)
	var files []string
	for name := range good {
		files = append(files, name)
	}
	slices.Sort(files)
	noticed := 0
	for range 250 {
		what := edits[r.IntN(len(edits))](r, s.path, other.path, files)
		got, err := s.openLedger(s.store, want.Head())
		switch {
		case err != nil:
			noticed++
			if !errors.Is(err, pipeline.ErrIntegrity) && !errors.Is(err, archive.ErrNoIdentity) && !errors.Is(err, archive.ErrVersion) || !strings.Contains(err.Error(), s.store.String()) {
				t.Errorf("%s: %v", what, err)
			}
		case !sameLedger(got, want):
			t.Errorf("%s: not noticed: %v", what, refsOf(got))
		}
		for name, data := range good {
			if err := os.WriteFile(filepath.Join(s.path, name), []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if noticed < 180 {
		t.Errorf("only %d of 250 edits were noticed", noticed)
	}
}

// lose deletes the sealed request of a record everywhere.
func (s *site) lose(sequence int64) {
	s.t.Helper()
	for _, in := range []string{s.path, filepath.Join(s.state, s.open().ID)} {
		found, err := filepath.Glob(filepath.Join(in, "ledger", fmt.Sprintf("%08d-*.age", sequence)))
		if err != nil || len(found) != 1 || os.Remove(found[0]) != nil {
			s.t.Fatal(found, err)
		}
	}
}

// closeLost loses the sealed request of a record everywhere, and has another one take its place.
func (s *site) closeLost(sequence int64) {
	s.t.Helper()
	s.lose(sequence)
	c := pipeline.RequestConfig{BackupConfig: s.config(s.store), Requests: []pipeline.NewRequest{order(900, "R-900")}, InsteadOf: sequence}
	if _, err := pipeline.Record(context.Background(), c); err != nil {
		s.t.Fatal(err)
	}
}

func sameLedger(a, b *pipeline.Ledger) bool {
	same := slices.EqualFunc(a.Records, b.Records, func(x, y pipeline.LedgerEntry) bool {
		x.Request, y.Request = nil, nil
		return reflect.DeepEqual(x, y)
	})
	return same && slices.EqualFunc(a.Open(), b.Open(), func(x, y *archive.LedgerRequest) bool {
		return x.Sequence == y.Sequence && x.Ref == y.Ref && x.Subject == y.Subject && x.Key == y.Key && x.Salt.Equal(y.Salt)
	})
}

// A record that a stranger signed, or one that the operator signed for another purpose, is none.
func TestLedgerSignedByStranger(t *testing.T) {
	s := newLedgerSite(t)
	s.mustRecord("R-1", s.store)
	stranger, err := archive.GenerateSigner()
	if err != nil {
		t.Fatal(err)
	}
	head := &archive.LedgerHead{Sequence: 1, Digest: archive.Digest(mustRead(filepath.Join(s.path, archive.RecordName(1))))}
	record := head.Next(archive.ClosedRecord)
	record.Closes = 1
	data, err := record.Encode()
	if err != nil {
		t.Fatal(err)
	}
	name := archive.RecordName(2)
	for what, c := range map[string]struct {
		key     *archive.SigningKey
		purpose archive.Purpose
		kind    error
	}{
		"a stranger's":    {stranger, archive.PurposeLedger, archive.ErrUntrustedSigner},
		"another purpose": {s.operator.Signing, archive.PurposeManifest, archive.ErrOtherFile},
	} {
		sig, err := archive.Sign(c.key, c.purpose, s.open().ID, name, data)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(filepath.Join(s.path, name), data, 0o600), os.WriteFile(filepath.Join(s.path, name+archive.SignatureSuffix), sig, 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.openLedger(s.store, nil); !errors.Is(err, c.kind) || !errors.Is(err, pipeline.ErrIntegrity) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := s.record([]pipeline.NewRequest{order(1, "R-2")}, s.store); !errors.Is(err, c.kind) {
			t.Errorf("%s: record: %v", what, err)
		}
	}
}

// TestLedgerStores: what becomes of two stores, one of which is not as it should be.
func TestLedgerStores(t *testing.T) {
	type place struct {
		s      *site
		second store.Store
		path   string // of second
	}
	remove := func(t *testing.T, path string, patterns ...string) {
		for _, p := range patterns {
			found, err := filepath.Glob(filepath.Join(path, "ledger", p))
			if err != nil || len(found) == 0 {
				t.Fatalf("%s: %v, %v", p, found, err)
			}
			for _, f := range found {
				if err := os.Remove(f); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	lastOnes := []string{"00000003*", "00000002*"}
	forget := func(t *testing.T, p *place) {
		if err := os.RemoveAll(p.s.state); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name    string
		change  func(t *testing.T, p *place)
		leftOut string // what is said of the second store, "" where it takes part
		nobody  bool   // no store can be served
		warns   string
	}{
		{name: "all is well", change: func(*testing.T, *place) {}},
		{name: "a lagging store", change: func(t *testing.T, p *place) { remove(t, p.path, lastOnes...) }, warns: "lacked the last 2 of 3 records"},
		{name: "a new store", change: func(t *testing.T, p *place) { remove(t, p.path, "*") }},
		{name: "this machine's copy is lost", change: forget},
		{name: "the copy is lost and a store lags", change: func(t *testing.T, p *place) { forget(t, p); remove(t, p.path, lastOnes...) }, warns: "lacked the last 2 of 3 records"},
		{name: "the copy lags", change: func(t *testing.T, p *place) { remove(t, filepath.Join(p.s.state, p.s.open().ID), lastOnes...) }},
		{name: "a sealed request is missing in one store", change: func(t *testing.T, p *place) { remove(t, p.path, "00000001-*.age") }},
		{name: "sealed requests are missing on this machine", change: func(t *testing.T, p *place) { remove(t, filepath.Join(p.s.state, p.s.open().ID), "*.age") }},
		{name: "each lacks another sealed request", change: func(t *testing.T, p *place) {
			forget(t, p)
			remove(t, p.path, "00000001-*.age")
			remove(t, p.s.path, "00000002-*.age")
		}},
		{name: "a gap", change: func(t *testing.T, p *place) { remove(t, p.path, "00000002.json") }, leftOut: "record 2 is missing (ledger/00000002.json), and there are later ones"},
		{name: "a signature is missing", change: func(t *testing.T, p *place) { remove(t, p.path, "00000003.json.minisig") }, leftOut: "ledger/00000003.json: it has no signature"},
		{name: "a changed record", change: func(t *testing.T, p *place) {
			path := filepath.Join(p.path, archive.RecordName(2))
			data := mustRead(path)
			if err := replaceFile(path, bytes.Replace(data, []byte(`"sequence":2`), []byte(`"sequence":3`), 1)); err != nil {
				t.Fatal(err)
			}
		}, leftOut: "ledger/00000002.json: the signature"},
		{name: "an edited sealed request", change: func(t *testing.T, p *place) {
			found, _ := filepath.Glob(filepath.Join(p.path, "ledger", "00000002-*.age"))
			other, _ := filepath.Glob(filepath.Join(p.path, "ledger", "00000003-*.age"))
			if err := replaceFile(found[0], mustRead(other[0])); err != nil {
				t.Fatal(err)
			}
		}, leftOut: "not the request that its chain record commits to"},
		{name: "two records exchanged", change: func(t *testing.T, p *place) {
			for _, suffix := range []string{"", archive.SignatureSuffix} {
				a, b := filepath.Join(p.path, archive.RecordName(1)+suffix), filepath.Join(p.path, archive.RecordName(2)+suffix)
				x, y := mustRead(a), mustRead(b)
				if err := errors.Join(replaceFile(a, y), replaceFile(b, x)); err != nil {
					t.Fatal(err)
				}
			}
		}, leftOut: "its signature belongs to another file"},
		{name: "a fork from this machine's copy", change: func(t *testing.T, p *place) {
			remove(t, p.path, lastOnes...)
			state := p.s.state
			p.s.state = filepath.Join(t.TempDir(), "elsewhere")
			p.s.mustRecord("R-forked", p.second)
			p.s.state = state
		}, leftOut: "its record 2 is another one than that of this machine's copy"},
		{name: "two stores that forked from each other", change: func(t *testing.T, p *place) {
			remove(t, p.path, lastOnes...)
			p.s.state = filepath.Join(t.TempDir(), "elsewhere")
			p.s.mustRecord("R-forked", p.second)
			p.s.state = filepath.Join(t.TempDir(), "a third machine")
		}, leftOut: "the ledger has forked", nobody: true},
		{name: "this machine's copy is damaged", change: func(t *testing.T, p *place) {
			remove(t, filepath.Join(p.s.state, p.s.open().ID), "00000002.json")
		}, leftOut: "keep this machine's copy of the ledger", nobody: true},
		{name: "a sealed request is nowhere", change: func(t *testing.T, p *place) {
			for _, path := range []string{p.path, p.s.path, filepath.Join(p.s.state, p.s.open().ID)} {
				remove(t, path, "00000002-*.age")
			}
		}, leftOut: "the sealed request of record 2 is nowhere, and no record closes it", nobody: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			pgtest.NoLeaks(t)
			s := newLedgerSite(t)
			path := filepath.Join(t.TempDir(), "second")
			p := &place{s: s, path: path, second: s.newStore(path)}
			for _, ref := range []string{"R-1", "R-2", "R-3"} {
				s.mustRecord(ref, s.store, p.second)
			}
			before := ledgerFiles(t, s.store)
			c.change(t, p)
			damaged := ledgerFiles(t, p.second)
			report, err := s.record([]pipeline.NewRequest{order(4, "R-4")}, s.store, p.second)
			if c.nobody {
				if !errors.Is(err, pipeline.ErrIntegrity) || !strings.Contains(err.Error(), c.leftOut) {
					t.Errorf("%v", err)
				}
				sameFiles(t, "the second store", ledgerFiles(t, p.second), damaged)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			after := ledgerFiles(t, s.store)
			for name, data := range before {
				if after[name] != data {
					t.Errorf("%s is not what it was", name)
				}
			}
			sameFiles(t, "this machine", ledgerFiles(t, s.own()), after)
			if c.leftOut == "" {
				sameFiles(t, "the second store", ledgerFiles(t, p.second), after)
				if len(report.Failed()) > 0 || !strings.Contains(s.heard.String(), c.warns) || c.warns == "" && strings.Contains(s.heard.String(), "lacked") {
					t.Errorf("%+v\n%s", report.Stores, s.heard.String())
				}
			} else {
				failed := report.Failed()
				if len(failed) != 1 || failed[0].Store != p.second.String() || !strings.Contains(failed[0].Error, c.leftOut) || !errors.Is(report.Integrity(), pipeline.ErrIntegrity) {
					t.Errorf("%+v", report.Stores)
				}
				sameFiles(t, "the second store", ledgerFiles(t, p.second), damaged)
				// lethe help ledger: what is damaged goes, and what is missing is copied as it is.
				for name := range damaged {
					if err := os.Remove(filepath.Join(p.path, name)); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.CopyFS(filepath.Join(p.path, "ledger"), os.DirFS(filepath.Join(s.state, s.open().ID, "ledger"))); err != nil {
					t.Fatal(err)
				}
				if report, err = s.record([]pipeline.NewRequest{order(5, "R-5")}, s.store, p.second); err != nil || len(report.Failed()) > 0 {
					t.Fatalf("after mending: %+v, %v", report, err)
				}
				sameFiles(t, "the second store, mended", ledgerFiles(t, p.second), ledgerFiles(t, s.store))
			}
			for _, in := range []store.Store{s.store, p.second} {
				if l, err := s.openLedger(in, report.Ledger); err != nil || !slices.Equal(refsOf(l)[:4], []string{"R-1", "R-2", "R-3", "R-4"}) {
					t.Errorf("%s: %v", in, err)
				}
			}
		})
	}
}

// TestForkedBesideAThird: two stores have forked from each other, and a third, which this machine does not know either,
// holds what came before. Its requests count, and it takes the next.
func TestForkedBesideAThird(t *testing.T) {
	s := newLedgerSite(t)
	second, third := s.newStore(filepath.Join(t.TempDir(), "second")), s.newStore(filepath.Join(t.TempDir(), "third"))
	s.mustRecord("R-1", s.store, second, third)
	s.mustRecord("R-2", s.store, second, third)
	for _, ref := range []string{"R-3", "R-4", "R-5"} {
		s.mustRecord(ref, s.store)
	}
	s.state = filepath.Join(t.TempDir(), "elsewhere")
	s.mustRecord("R-forked", second)
	s.state = filepath.Join(t.TempDir(), "a third machine")
	report, err := s.record([]pipeline.NewRequest{order(6, "R-6")}, s.store, second, third)
	if err != nil {
		t.Fatal(err)
	}
	if failed := report.Failed(); len(failed) != 2 || !strings.Contains(failed[0].Error, "the ledger has forked") || !strings.Contains(failed[1].Error, "the ledger has forked") {
		t.Errorf("%+v", report.Stores)
	}
	if n := report.Requests[0].Sequence; n != 3 {
		t.Errorf("the next request is record %d", n)
	}
	sameFiles(t, "this machine", ledgerFiles(t, s.own()), ledgerFiles(t, third))
}

// TestRecordInterrupted: killed or refused at any file, in either store or on this machine, requests are recorded once when
// they are made again, and everywhere.
func TestRecordInterrupted(t *testing.T) {
	orders := []pipeline.NewRequest{order(2, "R-2"), order(3, "R-3"), order(4, "R-4")}
	for _, where := range []string{"first", "second", "own"} {
		for _, name := range []string{"ledger/*.age", "ledger/*.minisig", "ledger/*.json"} {
			for how, fault := range map[string]storetest.Fault{"refused": storetest.Fail(errBroken), "answer lost": storetest.FailAfter(errBroken), "killed": {}} {
				t.Run(where+" "+filepath.Ext(name)+" "+how, func(t *testing.T) {
					pgtest.NoLeaks(t)
					s := newLedgerSite(t)
					second := s.newStore(filepath.Join(t.TempDir(), "second"))
					s.mustRecord("R-1", s.store, second)
					ctx, cancel := context.WithCancel(context.Background())
					defer cancel()
					if how == "killed" {
						fault = storetest.Call(func(string) error { cancel(); return ctx.Err() })
					}
					rule := storetest.Rule{On: storetest.Put, Name: name, Nth: 2, Fault: fault}
					stores := map[string]store.Store{"first": s.store, "second": second}
					if where != "own" {
						stores[where] = storetest.NewFaulty(stores[where], rule)
					}
					c := pipeline.RequestConfig{BackupConfig: s.config(stores["first"], stores["second"]), Requests: orders}
					if where == "own" {
						c.Copy = func(id string) (store.Store, error) {
							d, err := s.copyOf(id)
							return storetest.NewFaulty(d, rule), err
						}
					}
					report, err := pipeline.Record(ctx, c)
					lostAnswer := how == "answer lost" // it is there, and that is found out
					switch {
					case how == "killed" || where == "own" && !lostAnswer:
						if err == nil {
							t.Error("no error")
						}
					case where != "own" && !lostAnswer:
						if err != nil || len(report.Failed()) != 1 {
							t.Errorf("%+v, %v", report, err)
						}
					}
					again, err := s.record(orders, s.store, second)
					if err != nil || len(again.Failed()) > 0 || again.Ledger.Sequence != 4 {
						t.Fatalf("%+v, %v", again, err)
					}
					files := ledgerFiles(t, s.store)
					if len(files) != 12 {
						t.Errorf("files %v", slices.Sorted(maps.Keys(files)))
					}
					sameFiles(t, "the second store", ledgerFiles(t, second), files)
					sameFiles(t, "this machine", ledgerFiles(t, s.own()), files)
				})
			}
		}
	}
}

// A run that has lost its lease writes no record more: another one may have written by now.
func TestRecordWithoutALease(t *testing.T) {
	for _, where := range []string{"store", "own"} {
		t.Run(where, func(t *testing.T) {
			s := newLedgerSite(t)
			var mu sync.Mutex
			now := time.Now()
			late := storetest.Rule{On: storetest.Put, Name: "ledger/*.json", Nth: 2, Fault: storetest.Call(func(string) error {
				mu.Lock()
				now = now.Add(time.Hour) // the machine was asleep
				mu.Unlock()
				return nil
			})}
			in := s.store
			if where == "store" {
				in = storetest.NewFaulty(in, late)
			}
			c := pipeline.RequestConfig{BackupConfig: s.config(in), Requests: []pipeline.NewRequest{order(2, "R-2"), order(3, "R-3"), order(4, "R-4")}}
			c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
			if where == "own" {
				c.Copy = func(id string) (store.Store, error) {
					d, err := s.copyOf(id)
					return storetest.NewFaulty(d, late), err
				}
			}
			if _, err := pipeline.Record(context.Background(), c); !errors.Is(err, pipeline.ErrLocked) {
				t.Errorf("%v", err)
			}
			records := func(in store.Store) (n int) {
				for name := range ledgerFiles(t, in) {
					if _, ok := archive.RecordOf(name); ok {
						n++
					}
				}
				return n
			}
			wantOwn, wantStore := 3, 2
			if where == "own" {
				wantOwn, wantStore = 2, 0
			}
			if own, there := records(s.own()), records(s.store); own != wantOwn || there != wantStore {
				t.Errorf("%d records on this machine and %d in the store, not %d and %d", own, there, wantOwn, wantStore)
			}
		})
	}
}

// A store that lacks many records gets them in order, several files at a time, and holds the same in the end, also where
// it fails in the middle.
func TestStoreLagsByMany(t *testing.T) {
	s := newLedgerSite(t)
	ctx := context.Background()
	in := func() *memory {
		m := &memory{files: map[string][]byte{}}
		if _, _, err := pipeline.InitRepository(ctx, m, s.open().ID, s.operator, s.to); err != nil {
			t.Fatal(err)
		}
		return m
	}
	const many = 150
	var orders []pipeline.NewRequest
	for i := range many {
		orders = append(orders, order(i, fmt.Sprintf("R-%03d", i)))
	}
	first, second := in(), in()
	if _, err := s.record(orders, first); err != nil {
		t.Fatal(err)
	}
	want := ledgerFiles(t, first)
	if len(want) != 3*many {
		t.Fatalf("%d files", len(want))
	}
	for _, name := range []string{"ledger/*.json", "ledger/*.age"} {
		faulty := storetest.NewFaulty(second, storetest.Rule{On: storetest.Put, Name: name, Nth: 40, Fault: storetest.Fail(errBroken)})
		report, err := s.record(orders[:1], first, faulty)
		if err != nil || len(report.Failed()) != 1 {
			t.Fatalf("%+v, %v", report, err)
		}
		if l, err := s.openLedger(second, nil); err != nil || len(l.Records) != 39 {
			t.Errorf("what is there is no ledger of 39 records: %v, %v", l, err)
		}
	}
	if report, err := s.record(orders[:1], first, second); err != nil || len(report.Failed()) > 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	sameFiles(t, "the store that lagged", ledgerFiles(t, second), want)
	sameFiles(t, "this machine", ledgerFiles(t, s.own()), want)
}

// A change of recipients seals open requests anew, for today's readers alone.
func TestLedgerIsSealedForTodaysReaders(t *testing.T) {
	s := newLedgerSite(t)
	s.mustRecord("R-1", s.store)
	before := ledgerFiles(t, s.store)
	former := s.holder
	next := newLedgerSite(t)
	s.to, s.holder = next.to, next.holder
	s.mustRecord("R-02", s.store)
	ledger, err := s.openLedger(s.store, nil)
	if err != nil || !slices.Equal(refsOf(ledger), []string{"R-1", "R-02"}) {
		t.Errorf("the new key holder: %v", err)
	}
	s.holder = former
	if _, err := s.openLedger(s.store, nil); !errors.Is(err, archive.ErrNoIdentity) {
		t.Errorf("the former key holder: %v", err)
	}
	after := ledgerFiles(t, s.store)
	if len(after) != 6 || after[archive.RecordName(1)] != before[archive.RecordName(1)] {
		t.Errorf("files %v", slices.Sorted(maps.Keys(after)))
	}
	sameFiles(t, "this machine", ledgerFiles(t, s.own()), after)
}

// A request whose sealed record is nowhere is replaced by one that says the same again, and only such a one.
func TestInsteadOf(t *testing.T) {
	pgtest.NoLeaks(t)
	s := newLedgerSite(t)
	s.mustRecord("R-1", s.store)
	s.mustRecord("R-02", s.store)
	instead := func(sequence int64, orders ...pipeline.NewRequest) error {
		_, err := pipeline.Record(context.Background(), pipeline.RequestConfig{BackupConfig: s.config(s.store), Requests: orders, InsteadOf: sequence})
		return err
	}
	for _, sequence := range []int64{1, 3, 99} {
		if err := instead(sequence, order(7, "R-7")); !errors.Is(err, pipeline.ErrConfig) {
			t.Errorf("instead of %d: %v", sequence, err)
		}
	}
	s.closeLost(1)
	ledger, err := s.openLedger(s.store, nil)
	if err != nil || !slices.Equal(refsOf(ledger), []string{"R-02", "R-900"}) || !ledger.Records[0].Closed || len(ledger.Records) != 4 {
		t.Fatalf("%+v, %v", ledger, err)
	}
	if err := instead(1, order(7, "R-7")); !errors.Is(err, pipeline.ErrConfig) {
		t.Errorf("a closed one: %v", err)
	}
	// The same reference may be used again for whom it was about.
	if _, err := s.record([]pipeline.NewRequest{order(3000, "R-1")}, s.store); err != nil {
		t.Error(err)
	}
	// Where several are lost, they are replaced one after the other.
	s.lose(2)
	s.lose(3)
	if _, err := s.record([]pipeline.NewRequest{order(3001, "R-X")}, s.store); !errors.Is(err, pipeline.ErrIntegrity) || !strings.Contains(err.Error(), "of record 2, 3 is nowhere") {
		t.Errorf("two are lost: %v", err)
	}
	for _, sequence := range []int64{2, 3} {
		if err := instead(sequence, order(int(sequence), fmt.Sprint("again-", sequence))); err != nil {
			t.Errorf("instead of %d: %v", sequence, err)
		}
	}
	s.mustRecord("R-X", s.store)
}

// A store of another repository, such as one that was set up by itself, does not take part.
func TestStoreOfAnotherRepository(t *testing.T) {
	s := newLedgerSite(t)
	other := s.newRepository(filepath.Join(t.TempDir(), "other"), "")
	report := s.mustRecord("R-1", s.store, other)
	failed := report.Failed()
	if len(failed) != 1 || failed[0].Store != other.String() || !strings.Contains(failed[0].Error, "it holds repository") || report.Integrity() != nil {
		t.Errorf("%+v", report.Stores)
	}
	if files := ledgerFiles(t, other); len(files) > 0 {
		t.Errorf("it got %v", slices.Sorted(maps.Keys(files)))
	}
}
