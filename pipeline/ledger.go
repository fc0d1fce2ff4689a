package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"unique"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
	"lethe/scrub"
)

// Ledger is the chain of erasure requests as one place holds it: every record verified, each linked to the one before.
type Ledger struct {
	Records []LedgerEntry // by sequence: the first is record 1
}

// LedgerEntry is one verified record.
type LedgerEntry struct {
	archive.LedgerRecord
	Digest  string                 // of the record's file
	Signer  archive.PublicKey      // whose signature it bears; none where a later record alone vouches for it
	Closed  bool                   // a request that a later record closes
	Request *archive.LedgerRequest // what a request that is not closed says; nil for all others
}

// Head names the last record; nil where there is none.
func (l *Ledger) Head() *archive.LedgerHead {
	if len(l.Records) == 0 {
		return nil
	}
	last := &l.Records[len(l.Records)-1]
	return &archive.LedgerHead{Sequence: last.Sequence, Digest: last.Digest}
}

// Open returns the requests that are to be honoured, in the order of the ledger.
func (l *Ledger) Open() (open []*archive.LedgerRequest) {
	for i := range l.Records {
		if r := l.Records[i].Request; r != nil {
			open = append(open, r)
		}
	}
	return open
}

// After returns the requests to be honoured that a snapshot which honours head does not carry yet; nil is a snapshot from
// before the first record.
func (l *Ledger) After(head *archive.LedgerHead) (open []*archive.LedgerRequest) {
	for _, r := range l.Open() {
		if head == nil || r.Sequence > head.Sequence {
			open = append(open, r)
		}
	}
	return open
}

// ToErase returns requests as scrub takes them.
func ToErase(requests []*archive.LedgerRequest) []scrub.Request {
	list := make([]scrub.Request, len(requests))
	for i, r := range requests {
		list[i] = scrub.Request{Subject: r.Subject, Key: r.Key, Ref: r.Ref, Salt: r.Salt.Bytes()}
	}
	return list
}

// Holds makes sure that a head which somebody vouches for is part of the ledger. nil always is. The digest may be a part
// of one.
func (l *Ledger) Holds(head *archive.LedgerHead) error {
	switch {
	case head == nil:
	case head.Sequence > int64(len(l.Records)):
		return integrity(fmt.Errorf("the ledger ends with record %d, and there was a record %d", len(l.Records), head.Sequence))
	case !strings.HasPrefix(l.Records[head.Sequence-1].Digest, head.Digest):
		return integrity(fmt.Errorf("record %d is not the one that was there before", head.Sequence))
	}
	return nil
}

// OpenLedger reads a store's ledger whole, for somebody who keeps no copy: every signature, link and sealed request is
// checked, and that nothing was cut off which the newest snapshot of the store honours, or which expect (may be nil)
// names. ids open sealed requests and manifests. Snapshots that can't be read or believed can't vouch for it: they are
// passed over.
func OpenLedger(ctx context.Context, r *Repository, ids *archive.Identities, expect *archive.LedgerHead) (*Ledger, error) {
	l, _, err := r.openLedger(ctx, ids, expect)
	return l, err
}

// openLedger is OpenLedger. passed is why snapshots were passed over.
func (r *Repository) openLedger(ctx context.Context, ids *archive.Identities, expect *archive.LedgerHead) (l *Ledger, passed []error, err error) {
	place, err := r.readLedger(ctx, ids, nil)
	if err != nil {
		return nil, nil, err
	}
	op := fmt.Sprintf("read the ledger in %s", r.Store)
	if err := place.whole(); err != nil {
		return nil, nil, fail(err, "another store may hold it; lethe erasure list on the operator's machine brings it back from its own copy", "%s", op)
	}
	if err := place.Holds(expect); err != nil {
		return nil, nil, fail(err, "this store has lost records, or shows old ones: take the ledger of another store", "%s", op)
	}
	m, passed, err := r.newest(ctx, ids)
	if err != nil || m == nil {
		return &place.Ledger, passed, err
	}
	if err := place.Holds(m.Ledger); err != nil {
		return nil, nil, fail(err, "this store has lost records, or shows old ones: take the ledger of another store", "%s, which snapshot %s knows", op, m.ID)
	}
	return &place.Ledger, passed, nil
}

// openLedgers reads the ledger of a store as OpenLedger does, and those of others that hold the same repository: a request
// may have been recorded while a store was away. The longest is returned; one that differs from it ends it. An other one
// that can't be read is told in doubts.
func openLedgers(ctx context.Context, r *Repository, others []*Repository, ids *archive.Identities, expect *archive.LedgerHead) (l *Ledger, doubts []string, err error) {
	l, passed, err := r.openLedger(ctx, ids, nil)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range passed {
		doubts = append(doubts, fmt.Sprintf("a newer snapshot can't be read, so what it knows of the ledger and of today's rules does not count: %v", p))
	}
	for _, other := range others {
		if other.ID != r.ID {
			return nil, nil, otherRepository(other, r)
		}
		more, err := OpenLedger(ctx, other, ids, nil)
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		if err != nil {
			doubts = append(doubts, fmt.Sprintf("the ledger in %s can't be read, so whether it knows of later requests is not known: %v", other.Store, err))
			continue
		}
		if n := l.forksFrom(more); n > 0 {
			return nil, nil, fail(integrity(fmt.Errorf("record %d is another one in %s: the ledger has forked", n, other.Store)), "lethe help ledger tells what to do", "read the ledger in %s", r.Store)
		}
		if len(more.Records) > len(l.Records) {
			l = more
		}
	}
	return l, doubts, fail(l.Holds(expect), "the stores have lost records, or show old ones: take the ledger of another store", "read the ledger in %s", r.Store)
}

// otherRepository is the error of a store that holds another repository than the first.
func otherRepository(r, first *Repository) error {
	return fail(configuration(fmt.Errorf("it holds repository %s, and %s holds %s", r.ID, first.Store, first.ID)),
		"name the stores of one repository; each has keys, rules and a ledger of its own", "open %s", r.Store)
}

// ledgerPlace is one place that keeps a ledger: a store, or the operator's own copy.
type ledgerPlace struct {
	Ledger
	r         *Repository
	lease     *held // the run's, in a store that is written; else nil
	files     ledgerFiles
	untrusted map[int64]error // by sequence: records whose signer is not trusted
	mu        sync.Mutex      // for untrusted
}

// stands makes sure, without asking the store, that the lease has not been lost.
func (p *ledgerPlace) stands() error {
	if p.lease == nil {
		return nil
	}
	return p.lease.stands()
}

// ledgerFiles is what a place lists.
type ledgerFiles struct {
	records map[int64]struct{} // by sequence
	last    int64              // the highest sequence of a record; 0 where there is none
	sealed  sealedFiles
}

// sealedFiles are the sealed requests that a place lists: by readers, the sequences. There are few readers at a time, and
// may be a hundred thousand requests.
type sealedFiles map[string]map[int64]struct{}

func (f sealedFiles) add(sequence int64, readers string) {
	if f[readers] == nil {
		f[strings.Clone(readers)] = map[int64]struct{}{} // readers is a part of a file's name
	}
	f[readers][sequence] = struct{}{}
}

func (f sealedFiles) has(sequence int64, readers string) bool {
	_, ok := f[readers][sequence]
	return ok
}

// requests is how many are sealed, for whomever.
func (f sealedFiles) requests() int {
	all := map[int64]struct{}{}
	for _, sequences := range f {
		maps.Copy(all, sequences)
	}
	return len(all)
}

// of returns for whom a request is sealed.
func (f sealedFiles) of(sequence int64) (readers []string) {
	for r := range f {
		if f.has(sequence, r) {
			readers = append(readers, r)
		}
	}
	slices.Sort(readers)
	return readers
}

// listLedger lists the ledger's files.
func (r *Repository) listLedger(ctx context.Context) (ledgerFiles, error) {
	f := ledgerFiles{records: map[int64]struct{}{}, sealed: sealedFiles{}}
	err := r.Store.List(ctx, archive.LedgerPrefix, func(i store.Info) error {
		if n, ok := archive.RecordOf(i.Name); ok {
			f.records[n] = struct{}{}
			f.last = max(f.last, n)
		} else if n, readers, ok := archive.SealedOf(i.Name); ok {
			f.sealed.add(n, readers)
		}
		return nil
	})
	return f, err
}

// gap is the first record that is missing although there are later ones, or 0.
func (f *ledgerFiles) gap() int64 {
	for n := int64(1); n <= f.last; n++ {
		if _, ok := f.records[n]; !ok {
			return n
		}
	}
	return 0
}

const (
	ledgerFilesAtOnce = 16   // that are read or written
	ledgerNewest      = 1000 // records that are read at every look, the newest; and as many of the older ones, in turn
)

// readLedger reads what a place holds. Where known is not nil its records are believed to be there as they are, but for
// the newest thousand and a thousand others, picked anew each time, which are read: a ledger of a hundred thousand records
// costs no more at every run than one of two thousand. A sealed request that is missing, or that ids can't open, leaves
// its Request nil: whole tells. ids may be nil.
func (r *Repository) readLedger(ctx context.Context, ids *archive.Identities, known *Ledger) (p *ledgerPlace, err error) {
	defer func() {
		err = fail(err, "lethe help ledger tells what to do", "read the ledger in %s", r.Store)
	}()
	p = &ledgerPlace{r: r, untrusted: map[int64]error{}}
	if p.files, err = r.listLedger(ctx); err != nil {
		return nil, err
	}
	if n := p.files.gap(); n > 0 {
		return nil, integrity(fmt.Errorf("record %d is missing (%s), and there are later ones", n, archive.RecordName(n)))
	}
	p.Records, p.files.records = make([]LedgerEntry, p.files.last), nil // all of them are there
	var list []int
	look := looksAt(len(p.Records), known)
	for i := range p.Records {
		if look(i) {
			list = append(list, i)
		} else {
			p.Records[i] = known.Records[i]
			p.Records[i].Closed = false // found out below
		}
	}
	if err := severalAtOnce(ctx, list, p.record); err != nil {
		return nil, err
	}
	if err := p.chain(); err != nil {
		return nil, err
	}
	for i := range p.Records {
		if e := &p.Records[i]; e.Kind != archive.RequestRecord || e.Closed || len(p.files.sealed.of(e.Sequence)) == 0 {
			e.Request = nil
		}
	}
	if err := severalAtOnce(ctx, list, func(ctx context.Context, i int) error { return p.open(ctx, i, ids) }); err != nil {
		return nil, err
	}
	p.intern()
	return p, nil
}

// intern makes texts that nearly all records have in common one text: there may be a hundred thousand records.
func (p *ledgerPlace) intern() {
	for i := range p.Records {
		e := &p.Records[i]
		e.Format, e.Kind, e.Signer = interned(e.Format), interned(e.Kind), interned(e.Signer)
		if i > 0 {
			e.Previous = p.Records[i-1].Digest // as chain has checked
		}
		if r := e.Request; r != nil {
			r.Repository, r.Subject, r.Rules, r.Signer = interned(r.Repository), interned(r.Subject), interned(r.Rules), interned(r.Signer)
		}
	}
}

// interned returns an equal value that others have in common.
func interned[T comparable](v T) T { return unique.Make(v).Value() }

// looksAt picks the records to be read, by index.
func looksAt(n int, known *Ledger) func(i int) bool {
	older := n - ledgerNewest
	if known == nil || older <= ledgerNewest {
		return func(int) bool { return true }
	}
	from := rand.IntN(older)
	return func(i int) bool {
		return i >= len(known.Records) || i >= older || (i-from+older)%older < ledgerNewest
	}
}

// severalAtOnce does something for each item of a list, for several files of a ledger at a time.
func severalAtOnce[T any](ctx context.Context, list []T, do func(context.Context, T) error) error {
	return each(ctx, list, ledgerFilesAtOnce, func() (func(context.Context, T) error, error) { return do, nil })
}

// record reads and verifies one chain record, for itself.
func (p *ledgerPlace) record(ctx context.Context, i int) error {
	name := archive.RecordName(int64(i) + 1)
	data, signer, err := p.r.readSigned(ctx, archive.PurposeLedger, name, archive.MaxRecordFile)
	if errors.Is(err, store.ErrTooLarge) || isNotFound(err) {
		return integrity(err)
	}
	if errors.Is(err, archive.ErrUntrustedSigner) { // chain looks whether a later record vouches for it
		p.mu.Lock()
		p.untrusted[int64(i)+1] = err
		p.mu.Unlock()
		err = nil
	}
	if err != nil {
		return err
	}
	record, err := archive.ReadRecord(name, data)
	if err != nil {
		return err
	}
	p.Records[i] = LedgerEntry{LedgerRecord: *record, Digest: archive.Digest(data), Signer: signer}
	return nil
}

// chain makes sure that each record follows the one before and is believed, and finds out which requests are closed.
func (p *ledgerPlace) chain() (err error) {
	p.verifyChain(func(_ *LedgerEntry, problem error) {
		if err == nil {
			err = problem
		}
	})
	return err
}

// verifyChain shows bad what does not hold in the chain, from its beginning, and then the records that nobody is to be
// believed for: a record is signed by somebody who is trusted, or stands before an adopted one that is, whose signer has
// read the chain up to there. It marks the requests that are closed. A record without a digest is missing or could not be
// read: what that does to others is not told again.
func (p *ledgerPlace) verifyChain(bad func(*LedgerEntry, error)) {
	broken := func(e *LedgerEntry, format string, args ...any) {
		bad(e, integrity(fmt.Errorf("%s %s", archive.RecordName(e.Sequence), fmt.Sprintf(format, args...))))
	}
	previous, known := archive.NoDigest, true
	for i := range p.Records {
		e := &p.Records[i]
		if e.Digest == "" {
			known = false
			continue
		}
		if known && e.Previous != previous {
			broken(e, "does not follow the record before it: one of them was changed or exchanged")
		}
		previous, known = e.Digest, true
		if e.Kind != archive.ClosedRecord {
			continue
		}
		switch closes := &p.Records[e.Closes-1]; { // before it, as ReadRecord has checked
		case closes.Digest == "":
		case closes.Kind != archive.RequestRecord || closes.Closed:
			broken(e, "closes record %d, which is no open request", e.Closes)
		default:
			closes.Closed = true
		}
	}
	nobody, vouched := archive.PublicKey{}, false
	for i := len(p.Records) - 1; i >= 0; i-- {
		switch e := &p.Records[i]; {
		case e.Digest == "":
			vouched = false // what is before it is not what the adopted record was about, for all that can be told
		case e.Signer == nobody && vouched:
		case e.Signer == nobody && p.untrusted[e.Sequence] != nil:
			bad(e, p.untrusted[e.Sequence])
		case e.Signer == nobody:
			broken(e, "is signed by nobody who is trusted")
		case e.Kind == archive.AdoptedRecord:
			vouched = true
		}
	}
}

// open reads the sealed request of a record that needs one. Of several, sealed for different readers, one that ids open
// is enough.
func (p *ledgerPlace) open(ctx context.Context, i int, ids *archive.Identities) error {
	e := &p.Records[i]
	if ids == nil || e.Kind != archive.RequestRecord || e.Closed {
		return nil
	}
	for _, readers := range p.files.sealed.of(e.Sequence) {
		request, _, err := p.r.openSealed(ctx, e, readers, ids)
		if errors.Is(err, archive.ErrNoIdentity) || isNotFound(err) { // sealed anew for others a moment ago
			continue
		}
		if err != nil {
			return err
		}
		e.Request = request
		return nil
	}
	return nil
}

// openSealed opens what is sealed of a record's request for some readers, and returns the file too.
func (r *Repository) openSealed(ctx context.Context, e *LedgerEntry, readers string, ids *archive.Identities) (request *archive.LedgerRequest, data []byte, err error) {
	name := archive.SealedName(e.Sequence, readers)
	data, err = store.ReadAll(ctx, r.Store, name, archive.MaxSealedFile)
	if errors.Is(err, store.ErrTooLarge) {
		err = integrity(err)
	}
	if err != nil {
		return nil, nil, err
	}
	request, err = archive.OpenRequest(r.ID, name, data, &e.LedgerRecord, ids)
	return request, data, err
}

// whole makes sure that every request which nothing closes can be read.
func (p *ledgerPlace) whole() error {
	for i := range p.Records {
		e := &p.Records[i]
		if e.Kind != archive.RequestRecord || e.Closed || e.Request != nil {
			continue
		}
		if len(p.files.sealed.of(e.Sequence)) > 0 {
			return fmt.Errorf("the sealed request of record %d is for other readers: %w", e.Sequence, archive.ErrNoIdentity)
		}
		return integrity(fmt.Errorf("the sealed request of record %d is missing, and no record closes it", e.Sequence))
	}
	return nil
}

// forksFrom returns the first record in which two ledgers differ, and 0 where one continues the other.
func (l *Ledger) forksFrom(other *Ledger) int64 {
	for i := range min(len(l.Records), len(other.Records)) {
		if l.Records[i].Digest != other.Records[i].Digest {
			return int64(i) + 1
		}
	}
	return 0
}
