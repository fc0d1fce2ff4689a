package pipeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
)

// CheckedLedger says what a check has read of the erasures.
type CheckedLedger struct {
	Head     *archive.LedgerHead `json:"head"`          // the last record; null where there is none that can be read
	Records  int                 `json:"records"`       // that are there
	Requests int                 `json:"open_requests"` // that no record closes
	Lacks    int                 `json:"lacks"`         // records that another place has and this one has not yet
	Accounts int                 `json:"accounts"`      // of purges
	Proofs   int                 `json:"proofs"`        // of verifications

	digests map[int64]string
}

// knownHead is a head of the ledger that a signed file vouches for.
type knownHead struct {
	by   Problem // which file, without what is wrong
	head archive.LedgerHead
}

// CheckCopy checks this machine's copy of a repository's ledger, as Check does for a store's.
func CheckCopy(ctx context.Context, of *Repository, kept store.Store, readers *archive.Identities) (*CheckReport, error) {
	r := &CheckReport{Store: kept.String(), Problems: []Problem{}}
	c := &CheckConfig{Repository: &Repository{Store: kept, ID: of.ID, trust: of.trust}, Readers: readers}
	err := c.ledger(ctx, r, nil)
	return r, fail(err, "", "check %s", r.Store)
}

// CompareLedgers adds to reports where the ledgers of several places differ: a fork is a problem, a shorter one is brought
// up to date by the next run.
func CompareLedgers(reports []*CheckReport) {
	var longest *CheckReport
	for _, r := range reports {
		if r.Ledger != nil && (longest == nil || r.Ledger.Records > longest.Ledger.Records) {
			longest = r
		}
	}
	for _, r := range reports {
		if r.Ledger == nil || r == longest {
			continue
		}
		r.Ledger.Lacks = longest.Ledger.Records - r.Ledger.Records
		forks := int64(0)
		for n, digest := range r.Ledger.digests {
			if other, ok := longest.Ledger.digests[n]; ok && other != digest && (forks == 0 || n < forks) {
				forks = n
			}
		}
		if forks > 0 {
			r.Problems = append(r.Problems, Problem{File: archive.RecordName(forks),
				Problem: fmt.Sprintf("is another record than that in %s: one of the two was changed, or the ledger has forked there", longest.Store)})
		}
	}
}

// ledger checks the chain, what is sealed beside it, and all that names a record of it. It goes on after each problem.
func (c *CheckConfig) ledger(ctx context.Context, r *CheckReport, heads []knownHead) error {
	files, err := c.Repository.listLedger(ctx)
	if err != nil {
		return err
	}
	p := &ledgerPlace{r: c.Repository, untrusted: map[int64]error{}, files: files}
	last := files.last
	r.Ledger = &CheckedLedger{Records: len(files.records), digests: map[int64]string{}}
	p.Records = make([]LedgerEntry, last)
	bad := func(name, problem string) { r.Problems = append(r.Problems, Problem{File: name, Problem: problem}) }
	there := func(n int64) bool { _, ok := files.records[n]; return ok }
	for n := int64(1); n <= last; n++ {
		to := n
		for to < last && !there(to) && !there(to+1) {
			to++
		}
		switch {
		case there(n):
		case to > n:
			bad(archive.RecordName(n), fmt.Sprintf("is missing with all up to record %d, and there are later ones", to))
			n = to
		default:
			bad(archive.RecordName(n), "is missing, and there are later ones")
		}
	}
	if err := c.records(ctx, p, bad); err != nil {
		return err
	}
	p.verifyChain(func(e *LedgerEntry, err error) {
		name := archive.RecordName(e.Sequence)
		bad(name, strings.TrimPrefix(reason(err), name+" ")) // the report has it beside
	})
	for i := range p.Records {
		if e := &p.Records[i]; e.Digest != "" {
			r.Ledger.digests[e.Sequence] = e.Digest
			r.Ledger.Head = &archive.LedgerHead{Sequence: e.Sequence, Digest: e.Digest}
		}
	}
	if err := c.sealed(ctx, p, r, bad); err != nil {
		return err
	}
	more, err := c.accountsAndProofs(ctx, p, r, bad)
	if err != nil {
		return err
	}
	for _, h := range append(heads, more...) {
		problem := h.by
		switch e := entryOf(p.Records, h.head.Sequence); {
		case h.head.Sequence > last:
			problem.Problem = fmt.Sprintf("knows record %d of the ledger, and %d is the last here: later ones were cut off, or an old ledger was put back", h.head.Sequence, last)
		case e != nil && e.Digest != "" && e.Digest != h.head.Digest:
			problem.Problem = fmt.Sprintf("knows another record %d of the ledger than the one that is here", h.head.Sequence)
		default: // a record that can't be read was told of
			continue
		}
		r.Problems = append(r.Problems, problem)
	}
	return nil
}

func entryOf(records []LedgerEntry, sequence int64) *LedgerEntry {
	if sequence < 1 || sequence > int64(len(records)) {
		return nil
	}
	return &records[sequence-1]
}

// records reads every record that is there, each for itself.
func (c *CheckConfig) records(ctx context.Context, p *ledgerPlace, bad func(name, problem string)) error {
	var list []int
	for i := range p.Records {
		p.Records[i].Sequence = int64(i) + 1
		if _, ok := p.files.records[int64(i)+1]; ok {
			list = append(list, i)
		}
	}
	problems := map[int]string{}
	var mu sync.Mutex
	err := severalAtOnce(ctx, list, func(ctx context.Context, i int) error {
		err := p.record(ctx, i)
		if err == nil || ctx.Err() != nil || !errors.Is(err, ErrIntegrity) && !errors.Is(err, archive.ErrVersion) {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		problems[i] = reason(err)
		return nil
	})
	if err != nil {
		return err
	}
	for _, i := range list {
		if problems[i] != "" {
			bad(archive.RecordName(int64(i)+1), problems[i])
		}
	}
	return nil
}

// sealed opens what is sealed of every request that nothing closes.
func (c *CheckConfig) sealed(ctx context.Context, p *ledgerPlace, r *CheckReport, bad func(name, problem string)) error {
	for i := range p.Records {
		e := &p.Records[i]
		if e.Digest == "" || e.Kind != archive.RequestRecord || e.Closed {
			continue
		}
		r.Ledger.Requests++
		name := archive.RecordName(e.Sequence)
		if len(p.files.sealed.of(e.Sequence)) == 0 {
			bad(name, "its sealed request is missing, and no record closes it: whom it is about is not known")
			continue
		}
		err := p.open(ctx, i, c.Readers)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrIntegrity), errors.Is(err, archive.ErrVersion):
			bad(name, "its sealed request: "+reason(err))
		case err != nil:
			return err
		case e.Request == nil:
			bad(name, "its sealed request is for other readers")
		}
	}
	return nil
}

// accountsAndProofs reads what purges and verifications have left, and returns the heads that they know.
func (c *CheckConfig) accountsAndProofs(ctx context.Context, p *ledgerPlace, r *CheckReport, bad func(name, problem string)) (heads []knownHead, err error) {
	var files []string
	for _, prefix := range []string{archive.AccountsPrefix, archive.ProofsPrefix} {
		err := c.Repository.Store.List(ctx, prefix, func(i store.Info) error { files = append(files, i.Name); return nil })
		if err != nil {
			return nil, err
		}
	}
	for _, name := range files {
		var head *archive.LedgerHead
		_, isAccount := archive.AccountOf(name)
		_, isProof := archive.ProofOf(name)
		switch {
		case isAccount:
			r.Ledger.Accounts++
			head, err = c.accountHead(ctx, name)
		case isProof:
			r.Ledger.Proofs++
			head, err = c.proofHead(ctx, p, name, bad)
		default:
			continue
		}
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case isNotFound(err): // another run took it away
		case errors.Is(err, ErrIntegrity), errors.Is(err, archive.ErrVersion), errors.Is(err, archive.ErrNoIdentity):
			bad(name, reason(err))
		case err != nil:
			return nil, err
		case head != nil:
			heads = append(heads, knownHead{Problem{File: name}, *head})
		}
	}
	return heads, nil
}

func (c *CheckConfig) accountHead(ctx context.Context, name string) (*archive.LedgerHead, error) {
	data, _, err := c.Repository.readSigned(ctx, archive.PurposePurge, name, archive.MaxAccountFile)
	if err != nil {
		return nil, err
	}
	a, err := archive.ReadAccount(c.Repository.ID, name, data, c.Readers)
	if err != nil {
		return nil, err
	}
	return a.Ledger, nil
}

func (c *CheckConfig) proofHead(ctx context.Context, p *ledgerPlace, name string, bad func(name, problem string)) (*archive.LedgerHead, error) {
	data, _, err := c.Repository.readSigned(ctx, archive.PurposeProof, name, archive.MaxProofFile)
	if err != nil {
		return nil, err
	}
	proof, err := archive.ReadProof(c.Repository.ID, name, data)
	if err != nil {
		return nil, err
	}
	for _, q := range proof.Requests {
		if e := entryOf(p.Records, q.Sequence); e != nil && e.Digest != "" && (e.Kind != archive.RequestRecord || e.Request != nil && e.Request.Ref != q.Ref) {
			bad(name, fmt.Sprintf("is about a request %d that the ledger does not hold", q.Sequence))
		}
	}
	return proof.Ledger, nil
}
