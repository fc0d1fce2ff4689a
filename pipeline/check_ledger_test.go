package pipeline_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lethe/pipeline"
	"lethe/pipeline/archive"
)

// A check names whatever does not hold of the ledger and of what purges and verifications have signed, all at once, and
// nothing where all is well.
func TestCheckLedger(t *testing.T) {
	ctx := context.Background()
	start := purgeHistory(t)
	signer := signed(t)
	start.backup()
	purge(t, start.purging(signer))
	proof := verify(t, start.verifying(signer, start.store))
	if proof.Proof == "" {
		t.Fatal(proof)
	}
	account := names(t, start.store, archive.AccountsPrefix)[0]
	stranger := signed(t)
	look := func(h *history) *pipeline.CheckReport {
		t.Helper()
		r, err := pipeline.Check(ctx, pipeline.CheckConfig{Repository: h.open(h.operator.Public(), signer.Public()), Readers: h.operator.Identities(), Workers: 2})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	whole := look(start)
	if l := whole.Ledger; len(whole.Problems) > 0 || l == nil || l.Head.Sequence != 3 || l.Records != 3 || l.Requests != 3 || l.Accounts < 2 || l.Proofs != 1 {
		t.Fatalf("%+v, %+v", whole, l)
	}
	newest, _ := archive.SnapshotOf(manifests(t, start.store)[3])
	sealed := func(h *history, n int) string {
		for _, name := range names(t, h.store, archive.LedgerPrefix) {
			if sequence, _, ok := archive.SealedOf(name); ok && sequence == int64(n) {
				return name
			}
		}
		t.Fatalf("request %d is not sealed", n)
		return ""
	}
	sign := func(h *history, key *archive.SigningKey, purpose archive.Purpose, name string, data []byte) {
		sig, err := archive.Sign(key, purpose, h.open().ID, name, data)
		if err != nil {
			t.Fatal(err)
		}
		h.write(name, data)
		h.write(name+archive.SignatureSuffix, sig)
	}
	flip := func(h *history, name string) {
		data := h.read(name)
		data[len(data)/2] ^= 1
		h.write(name, data)
	}
	second := archive.RecordName(2)
	for what, c := range map[string]struct {
		damage func(h *history)
		says   []string // each problem begins with one of these
	}{
		"a record is missing":          {func(h *history) { h.remove(second) }, []string{second + " is missing, and there are later ones"}},
		"a record was changed":         {func(h *history) { flip(h, second) }, []string{second + " the signature by key"}},
		"a signature is missing":       {func(h *history) { h.remove(second + archive.SignatureSuffix) }, []string{second + " it has no signature"}},
		"a stranger has signed":        {func(h *history) { sign(h, stranger, archive.PurposeLedger, second, h.read(second)) }, []string{second + " signed by key"}},
		"a sealed request is missing":  {func(h *history) { h.remove(sealed(h, 1)) }, []string{archive.RecordName(1) + " its sealed request is missing"}},
		"a sealed request was changed": {func(h *history) { flip(h, sealed(h, 1)) }, []string{archive.RecordName(1) + " its sealed request: "}},
		"one is another's":             {func(h *history) { h.write(sealed(h, 1), h.read(sealed(h, 2))) }, []string{archive.RecordName(1) + " its sealed request: not the request that its chain record commits to"}},
		"the last records are cut off": {func(h *history) {
			h.remove(second, archive.RecordName(3))
		}, []string{"snapshot " + newest + " knows record 3 of the ledger, and 1 is the last here", "snapshot ", account, "purges/", proof.Proof + " knows record 3"}},
		"a signer's own record in another's place": {func(h *history) {
			r := (&archive.LedgerHead{Sequence: 1, Digest: archive.Digest(h.read(archive.RecordName(1)))}).Next(archive.ClosedRecord)
			r.Closes = 1
			data, err := r.Encode()
			if err != nil {
				t.Fatal(err)
			}
			sign(h, h.operator.Signing, archive.PurposeLedger, second, data)
		}, []string{archive.RecordName(3) + " does not follow the record before it", proof.Proof + " is about a request 2 that the ledger does not hold"}},
		"an account was changed":      {func(h *history) { flip(h, account) }, []string{account + " the signature by key"}},
		"an account of a stranger's":  {func(h *history) { sign(h, stranger, archive.PurposePurge, account, h.read(account)) }, []string{account + " signed by key"}},
		"a proof without a signature": {func(h *history) { h.remove(proof.Proof + archive.SignatureSuffix) }, []string{proof.Proof + " it has no signature"}},
		"two things at once": {func(h *history) { h.remove(second); flip(h, proof.Proof) },
			[]string{second + " is missing", proof.Proof + " the signature by key"}},
	} {
		h := start.copyOf(t)
		c.damage(h)
		var got []string
		for _, p := range look(h).Problems {
			got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s", strings.TrimSpace(p.File+strings.Repeat("snapshot ", min(1, len(p.Snapshot)))+p.Snapshot), p.Problem)))
		}
		for _, line := range got {
			if !slices.ContainsFunc(c.says, func(want string) bool { return strings.HasPrefix(line, want) }) {
				t.Errorf("%s: it also says %q", what, line)
			}
		}
		for _, want := range c.says {
			if !slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, want) }) {
				t.Errorf("%s: it says %q, and not %q", what, got, want)
			}
		}
	}
}

// Two places that hold the same ledger agree; one that lags is no problem, a fork is.
func TestCompareLedgers(t *testing.T) {
	ctx := context.Background()
	s := newLedgerSite(t)
	second := s.newStore(filepath.Join(t.TempDir(), "second"))
	s.mustRecord("R-1", s.store, second)
	s.mustRecord("R-22", s.store)
	look := func() (reports []*pipeline.CheckReport) {
		t.Helper()
		for _, r := range []*pipeline.Repository{s.open(), s.openAt(second)} {
			report, err := pipeline.Check(ctx, pipeline.CheckConfig{Repository: r, Readers: s.operator.Identities(), Workers: 2})
			if err != nil {
				t.Fatal(err)
			}
			reports = append(reports, report)
		}
		kept, err := pipeline.CheckCopy(ctx, s.open(), s.own(), s.operator.Identities())
		if err != nil {
			t.Fatal(err)
		}
		reports = append(reports, kept)
		pipeline.CompareLedgers(reports)
		return reports
	}
	for i, r := range look() {
		if lacks := []int{0, 1, 0}[i]; len(r.Problems) > 0 || r.Ledger.Lacks != lacks {
			t.Errorf("%s: %+v, lacks %d", r.Store, r.Problems, r.Ledger.Lacks)
		}
	}
	s.state = filepath.Join(t.TempDir(), "elsewhere") // a machine that knows nothing, and reaches only the second store
	s.mustRecord("R-333", second)
	reports := look()
	forks := 0
	for _, r := range reports {
		for _, p := range r.Problems {
			if p.File == archive.RecordName(2) && strings.Contains(p.Problem, "the ledger has forked") {
				forks++
			}
		}
	}
	if forks != 2 { // of the second store and of the new copy, against the first
		t.Errorf("%d forks are told of in %+v", forks, reports)
	}
}
