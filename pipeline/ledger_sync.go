package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
	"lethe/scrub"
)

// ledgerRun is the ledger during one run that writes: the operator's copy and the stores', brought to one head.
type ledgerRun struct {
	c       BackupConfig
	stores  []*openStore
	own     *ledgerPlace // the operator's copy; nil where nothing is remembered
	ledger  Ledger       // what all of them hold in the end
	id      string       // of the repository
	readers string       // for whom requests are sealed now
	sealed  []byte       // the request that is being recorded

	requests  []scrub.Request // to be honoured by this run
	sequences []int64         // of their records; 0 in a dry run for those that are new
	recorded  []string        // references that were new in this run
	unfit     []string        // references of those whose key can be nobody's
	nobodys   []int64         // the records of those that are in the ledger
	lost      []int64         // the records of open requests that are nowhere
	inbox     *InboxReport    // nil where there is no inbox
}

// syncLedger reads the operator's copy and the ledger of every store, decides which chain is the one, and brings the
// others to it: a store that lags behind gets the records it lacks, byte for byte; the operator takes over a continuation
// that trusted signers wrote elsewhere. A store whose ledger is damaged, forked or cut off is left out of the run, with
// the reason in its err. Nothing is written in a dry run. The caller holds the stores' leases. tolerant says that sealed
// requests may be gone: then they are in lost.
func (c BackupConfig) syncLedger(ctx context.Context, stores []*openStore, tolerant bool) (*ledgerRun, error) {
	l := &ledgerRun{c: c, stores: stores}
	if err := l.oneRepository(); err != nil {
		return nil, err
	}
	var err error
	if l.readers, err = archive.SealedReaders(c.Recipients, c.Operator); err != nil {
		return nil, err
	}
	if err := l.readOwn(ctx); err != nil {
		return nil, err
	}
	if err := l.readStores(ctx); err != nil {
		return nil, err
	}
	if err := l.decide(); err != nil {
		return nil, err
	}
	if err := l.findRequests(ctx, tolerant); err != nil {
		return nil, err
	}
	for _, p := range l.places() {
		l.share(p, len(p.Records))
	}
	if c.DryRun {
		return l, nil
	}
	if l.own != nil {
		if err := l.mend(ctx, l.own); err != nil {
			return nil, ownCopy(err, l.own)
		}
	}
	return l, l.eachStore(ctx, func(s *openStore) error {
		behind := len(l.ledger.Records) - len(s.ledger.Records)
		if err := l.mend(ctx, s.ledger); err != nil {
			return fail(err, "", "bring the ledger in %s up to date", s.s)
		}
		if behind > 0 && len(s.ledger.Records) > behind {
			c.warn(fmt.Sprintf("the ledger in %s lacked the last %d of %d records, and has them now", s.s, behind, len(l.ledger.Records)))
		}
		return nil
	})
}

func ownCopy(err error, own *ledgerPlace) error {
	return fail(err, "move that directory away, once you know what happened to it: it is made anew from the stores",
		"keep this machine's copy of the ledger, %s", own.r.Store)
}

// oneRepository leaves out stores that hold another repository than the first: records are signed for one.
func (l *ledgerRun) oneRepository() error {
	for _, s := range l.stores {
		switch {
		case s.err != nil:
		case l.id == "":
			l.id = s.repo.ID
		case s.repo.ID != l.id:
			s.err = fail(configuration(fmt.Errorf("it holds repository %s, and the stores before it hold %s", s.repo.ID, l.id)),
				"all stores of one lethe.yml hold one repository: begin this one anew in an empty place, with lethe init", "open %s", s.s)
		}
	}
	if l.id == "" {
		return noStore(l.stores)
	}
	return nil
}

// readOwn reads the operator's copy of the ledger.
func (l *ledgerRun) readOwn(ctx context.Context) error {
	if l.c.Copy == nil {
		return nil
	}
	kept, err := l.c.Copy(l.id)
	if err != nil {
		return fail(err, "state: in lethe.yml names another directory", "open this machine's copy of the ledger")
	}
	if kept == nil {
		return nil
	}
	own := &Repository{Store: kept, ID: l.id, trust: archive.NewTrust(append([]archive.PublicKey{l.c.Operator.Public()}, l.c.Trust...)...)}
	if l.own, err = own.readLedger(ctx, l.c.readers(), nil); err != nil {
		return errors.Join(ownCopy(err, &ledgerPlace{r: own}), kept.Close())
	}
	return nil
}

// Close lets go of the operator's copy.
func (l *ledgerRun) Close() {
	if l != nil && l.own != nil {
		_ = l.own.r.Store.Close() // everything that counts was flushed by Put
	}
}

// eachStore does something with each store that still takes part. One where it fails is left out; when none is left it
// is an error.
func (l *ledgerRun) eachStore(ctx context.Context, do func(s *openStore) error) error {
	left := 0
	for _, s := range l.stores {
		if s.err != nil {
			continue
		}
		if s.err = do(s); s.err == nil {
			left++
		} else if ctx.Err() != nil {
			return s.err
		}
	}
	if left == 0 {
		return noStore(l.stores)
	}
	return nil
}

func (l *ledgerRun) readStores(ctx context.Context) error {
	return l.eachStore(ctx, func(s *openStore) (err error) {
		var known *Ledger
		if l.own != nil {
			known = &l.own.Ledger
		}
		if s.ledger, err = s.repo.readLedger(ctx, l.c.readers(), known); err != nil {
			return err
		}
		s.ledger.lease = s.lease
		return fail(s.ledger.Holds(s.head), "lethe help ledger tells what to do",
			"compare the ledger in %s with what its newest snapshot knows", s.s)
	})
}

// decide finds the chain: the operator's, or the longest continuation of it. What differs from it is left out.
func (l *ledgerRun) decide() error {
	var own Ledger
	if l.own != nil {
		own = l.own.Ledger
	}
	forked := map[*openStore]bool{}
	fork := func(s *openStore, n int64, from string) {
		forked[s] = true
		s.err = fail(integrity(fmt.Errorf("its record %d is another one than that of %s: the ledger has forked", n, from)),
			"lethe help ledger tells what to do", "compare the ledgers in %s and elsewhere", s.s)
	}
	var longer []*openStore
	for _, s := range l.stores {
		if s.err != nil {
			continue
		}
		if n := s.ledger.forksFrom(&own); n > 0 {
			fork(s, n, "this machine's copy, "+l.own.r.Store.String())
		} else if len(s.ledger.Records) > len(own.Records) {
			longer = append(longer, s)
		}
	}
	// Who is right, when two stores disagree about what this machine does not know, a person must find out.
	for i, a := range longer {
		for _, b := range longer[i+1:] {
			if n := a.ledger.forksFrom(&b.ledger.Ledger); n > 0 {
				fork(a, n, b.s.String())
				fork(b, n, a.s.String())
			}
		}
	}
	l.ledger = own
	for _, s := range longer {
		if s.err == nil && len(s.ledger.Records) > len(l.ledger.Records) {
			l.ledger = s.ledger.Ledger
		}
	}
	if !slices.ContainsFunc(l.stores, func(s *openStore) bool { return s.err == nil }) {
		return noStore(l.stores)
	}
	// A snapshot of a store that was left out may know of records that nothing here has: new ones would fork from them.
	for _, s := range l.stores {
		if err := l.ledger.Holds(s.head); err != nil && !forked[s] {
			return fail(errors.Join(err, s.err), "lethe help ledger tells what to do", "compare every ledger with what the newest snapshot in %s knows", s.s)
		}
	}
	return nil
}

// findRequests takes each open request from where it can be read. One that is nowhere can't be honoured, and ends the run
// unless it is tolerated: by one that has another take its place, and by a takeover, without which none could.
func (l *ledgerRun) findRequests(ctx context.Context, tolerant bool) error {
	places := l.places()
	markClosed(l.ledger.Records)
	var unreadable []int64
	for i := range l.ledger.Records {
		e := &l.ledger.Records[i]
		if e.Kind != archive.RequestRecord || e.Closed || e.Request != nil {
			continue
		}
		for _, p := range places {
			if i < len(p.Records) && p.Records[i].Request != nil {
				e.Request = p.Records[i].Request
			}
		}
		if e.Request != nil {
			continue
		}
		foreign, err := l.openAnywhere(ctx, e)
		switch {
		case err != nil:
			return err
		case e.Request != nil:
		case foreign:
			unreadable = append(unreadable, e.Sequence)
		default:
			l.lost = append(l.lost, e.Sequence)
		}
	}
	switch {
	case len(unreadable) > 0:
		return fail(fmt.Errorf("this operator key can't open the sealed request of record %s: %w", sequencesText(unreadable), archive.ErrNoIdentity),
			"lethe init --identity key.txt --signer signer.key, on the key holder's machine, seals them for this operator", "read the ledger")
	case len(l.lost) == 0 || tolerant:
		return nil
	}
	return lostRequests("read the ledger", l.lost)
}

// openAnywhere opens what is sealed of a request in any place, also where it was not looked at or stands before its record.
// foreign says that something is there, sealed for others.
func (l *ledgerRun) openAnywhere(ctx context.Context, e *LedgerEntry) (foreign bool, err error) {
	for _, p := range l.places() {
		for _, readers := range p.files.sealed.of(e.Sequence) {
			request, data, err := p.r.openSealed(ctx, e, readers, l.c.readers())
			switch {
			case err == nil:
				e.Request = request
				return false, nil
			case data == nil && !isNotFound(err) && !errors.Is(err, store.ErrTooLarge):
				return foreign, err
			case errors.Is(err, archive.ErrNoIdentity):
				foreign = true
			}
		}
	}
	return foreign, nil
}

func sequencesText(sequences []int64) string {
	list := make([]string, len(sequences))
	for i, n := range sequences {
		list[i] = fmt.Sprint(n)
	}
	return strings.Join(list, ", ")
}

// lostRequests is the error of open requests that nobody can read any more.
func lostRequests(op string, sequences []int64) error {
	return fail(integrity(fmt.Errorf("the sealed request of record %s is nowhere, and no record closes it: whom it is about is not known", sequencesText(sequences))),
		fmt.Sprintf("put ledger/ back from a copy of a store; or, where you know whom it was about, lethe erasure request SUBJECT --ref REF --instead-of %d", sequences[0]), "%s", op)
}

// markClosed notes which requests a later record closes, and forgets what they said. The chain was checked.
func markClosed(records []LedgerEntry) {
	for i := range records {
		if e := &records[i]; e.Kind == archive.ClosedRecord {
			records[e.Closes-1].Closed, records[e.Closes-1].Request = true, nil
		}
	}
}

// mend brings a place to the run's ledger: first the records it lacks; then requests sealed for the readers of today; at
// last it takes away what was sealed for others, or is closed. Killed anywhere, it goes on the next time.
func (l *ledgerRun) mend(ctx context.Context, p *ledgerPlace) error {
	const together = 64 // requests that may be there without their records when a run is killed
	for from := len(p.Records); from < len(l.ledger.Records); from = len(p.Records) {
		if err := l.copyRecords(ctx, p, from, min(from+together, len(l.ledger.Records))); err != nil {
			return err
		}
	}
	var anew []*LedgerEntry
	for i := range l.ledger.Records {
		if e := &l.ledger.Records[i]; e.Request != nil && !p.files.sealed.has(e.Sequence, l.readers) {
			anew = append(anew, e)
		}
	}
	if err := severalAtOnce(ctx, anew, func(ctx context.Context, e *LedgerEntry) error { return l.putSealed(ctx, p, e) }); err != nil {
		return err
	}
	for _, e := range anew {
		p.files.sealed.add(e.Sequence, l.readers)
	}
	var old []string
	for readers, sequences := range p.files.sealed {
		maps.DeleteFunc(sequences, func(n int64, _ struct{}) bool {
			if n > int64(len(l.ledger.Records)) {
				return false // left by a run that was killed before its record
			}
			if readers == l.readers && l.ledger.Records[n-1].Request != nil {
				return false
			}
			old = append(old, archive.SealedName(n, readers))
			return true
		})
	}
	return severalAtOnce(ctx, old, func(ctx context.Context, name string) error {
		if err := p.stands(); err != nil {
			return err
		}
		return p.r.Store.Delete(ctx, name)
	})
}

// copyRecords writes records that a place lacks, as they stand where they are: first, in any order, what does not count
// without them, and then one after the other the records.
func (l *ledgerRun) copyRecords(ctx context.Context, to *ledgerPlace, from, end int) error {
	records := l.ledger.Records[from:end]
	texts, indexes := make([][]byte, len(records)), make([]int, len(records))
	for i := range indexes {
		indexes[i] = i
	}
	err := severalAtOnce(ctx, indexes, func(ctx context.Context, i int) error {
		data, sig, err := l.readRecord(ctx, from+i)
		if err != nil {
			return err
		}
		texts[i] = data
		return l.putFirst(ctx, to, &records[i], sig)
	})
	for i := range records {
		if err == nil {
			err = l.putRecord(ctx, to, &records[i], texts[i])
		}
	}
	return err
}

// readRecord returns a record and its signature as they stand somewhere.
func (l *ledgerRun) readRecord(ctx context.Context, i int) (data, sig []byte, err error) {
	e := &l.ledger.Records[i]
	name := archive.RecordName(e.Sequence)
	places := l.places()
	at := slices.IndexFunc(places, func(p *ledgerPlace) bool { return i < len(p.Records) })
	if at < 0 {
		return nil, nil, fmt.Errorf("%s is nowhere any more", name)
	}
	from := places[at].r
	if data, err = store.ReadAll(ctx, from.Store, name, archive.MaxRecordFile); err != nil {
		return nil, nil, err
	}
	if sig, err = store.ReadAll(ctx, from.Store, name+archive.SignatureSuffix, maxSmall); err != nil {
		return nil, nil, err
	}
	if archive.Digest(data) != e.Digest {
		return nil, nil, integrity(fmt.Errorf("%s in %s changed while it was read", name, from.Store))
	}
	return data, sig, nil
}

// putFirst writes what has to be there before a record: the sealed request, and the record's signature.
func (l *ledgerRun) putFirst(ctx context.Context, to *ledgerPlace, e *LedgerEntry, sig []byte) error {
	if e.Request != nil {
		if err := l.putSealed(ctx, to, e); err != nil {
			return err
		}
	}
	if err := to.stands(); err != nil { // whoever has the lease by now may have written the same one
		return err
	}
	return to.r.putAnew(ctx, archive.RecordName(e.Sequence)+archive.SignatureSuffix, sig)
}

// putRecord writes a record of the run's ledger, which counts from then on, into a place that holds all before it and what
// comes first.
func (l *ledgerRun) putRecord(ctx context.Context, to *ledgerPlace, e *LedgerEntry, data []byte) error {
	if err := to.stands(); err != nil {
		return err
	}
	if err := to.r.putSure(ctx, archive.RecordName(e.Sequence), data); err != nil {
		return err
	}
	if e.Request != nil {
		to.files.sealed.add(e.Sequence, l.readers)
	}
	l.share(to, len(to.Records)+1)
	return nil
}

// putSealed writes a request sealed for the readers of today.
func (l *ledgerRun) putSealed(ctx context.Context, to *ledgerPlace, e *LedgerEntry) error {
	data, err := l.sealedFile(ctx, e)
	if err == nil {
		err = to.stands()
	}
	if err != nil {
		return err
	}
	return to.r.putAnew(ctx, archive.SealedName(e.Sequence, l.readers), data)
}

// sealedFile returns a sealed request as it stands somewhere, so that all places hold the same bytes; where nobody has it
// for the readers of today it is sealed anew.
func (l *ledgerRun) sealedFile(ctx context.Context, e *LedgerEntry) ([]byte, error) {
	if l.sealed != nil {
		return l.sealed, nil
	}
	for _, p := range l.places() {
		if !p.files.sealed.has(e.Sequence, l.readers) {
			continue
		}
		switch _, data, err := p.r.openSealed(ctx, e, l.readers, l.c.readers()); {
		case err == nil:
			return data, nil
		case data == nil:
			return nil, err
		}
	}
	data, _, err := archive.SealRequest(e.Request, l.c.Recipients, l.c.Operator)
	return data, err
}

// places are this machine's copy and the stores that take part.
func (l *ledgerRun) places() (places []*ledgerPlace) {
	if l.own != nil {
		places = append(places, l.own)
	}
	for _, s := range l.stores {
		if s.err == nil {
			places = append(places, s.ledger)
		}
	}
	return places
}

// append records a request, or the closing of one, signed by the operator: in this machine's copy, so that no later run can
// write another record in its place. From there spread brings it to the stores. Where this machine keeps no copy, it is
// written to them here.
func (l *ledgerRun) append(ctx context.Context, record *archive.LedgerRecord, request *archive.LedgerRequest) error {
	data, err := record.Encode()
	if err != nil {
		return err
	}
	sig, err := archive.Sign(l.c.signing(), archive.PurposeLedger, l.id, archive.RecordName(record.Sequence), data)
	if err != nil {
		return err
	}
	e := LedgerEntry{LedgerRecord: *record, Digest: archive.Digest(data), Signer: l.c.signing().Public(), Request: request}
	l.ledger.Records = append(l.ledger.Records, e)
	write := func(to *ledgerPlace) error {
		if err := l.putFirst(ctx, to, &e, sig); err != nil {
			return err
		}
		return l.putRecord(ctx, to, &e, data)
	}
	if l.own != nil {
		// A run that has lost every lease must not make the copy fork from what others write.
		if err = l.eachStore(ctx, func(s *openStore) error { return s.lease.stands() }); err == nil {
			err = ownCopy(write(l.own), l.own)
		}
	} else {
		err = l.eachStore(ctx, func(s *openStore) error {
			if s.lease.standsFor(leaseTerm*9/10) != nil { // thousands of requests may come, and a moment ago it was renewed
				if err := s.lease.Renew(ctx); err != nil {
					return err
				}
			}
			return fail(write(s.ledger), "", "write record %d of the ledger in %s", e.Sequence, s.s)
		})
	}
	if err != nil {
		l.ledger.Records = l.ledger.Records[:e.Sequence-1] // it may stand in some place, and counts from the next run on
		return err
	}
	if record.Kind == archive.ClosedRecord {
		markClosed(l.ledger.Records)
	}
	return nil
}

// share lets a place that holds the first n records of the run's ledger hold them in the same memory: there may be a hundred
// thousand.
func (l *ledgerRun) share(p *ledgerPlace, n int) { p.Records = l.ledger.Records[:n:n] }

// spread brings what was recorded to every store. One where that fails is left out, and gets it at a later run.
func (l *ledgerRun) spread(ctx context.Context) error {
	return l.eachStore(ctx, func(s *openStore) error {
		if err := s.lease.Renew(ctx); err != nil {
			return err
		}
		return fail(l.mend(ctx, s.ledger), "", "write the ledger in %s", s.s)
	})
}

// record appends a request that the ledger does not hold yet.
func (l *ledgerRun) record(ctx context.Context, subject, key, ref string, received time.Time, rulesDigest string) (*archive.LedgerRequest, error) {
	request, err := archive.NewLedgerRequest()
	if err != nil {
		return nil, err
	}
	record := l.ledger.Head().Next(archive.RequestRecord)
	now := l.c.Now().UTC()
	if received.IsZero() {
		received = now.Truncate(24 * time.Hour)
	}
	request.Repository, request.Sequence = l.id, record.Sequence
	request.Subject, request.Key, request.Ref = subject, key, ref
	request.Received, request.Recorded = received, now.Truncate(time.Second)
	request.Rules, request.Signer = rulesDigest, l.c.Operator.Public()
	if l.sealed, record.Commitment, err = archive.SealRequest(request, l.c.Recipients, l.c.Operator); err != nil {
		return nil, err
	}
	defer func() { l.sealed = nil }()
	return request, l.append(ctx, record, request)
}

// close ends requests: from now on they are honoured no more, and what was sealed of them is deleted everywhere.
func (l *ledgerRun) close(ctx context.Context, sequences ...int64) error {
	for _, n := range sequences {
		record := l.ledger.Head().Next(archive.ClosedRecord)
		record.Closes = n
		if err := l.append(ctx, record, nil); err != nil {
			return err
		}
	}
	if l.own != nil {
		if err := l.mend(ctx, l.own); err != nil {
			return ownCopy(err, l.own)
		}
	}
	return l.spread(ctx)
}
