package pipeline

import (
	"context"
	"errors"
	"fmt"
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
	renewed map[*openStore]time.Time

	requests  []scrub.Request // to be honoured by this run
	sequences []int64         // of their records; 0 in a dry run for those that are new
	recorded  []string        // references that were new in this run
	unfit     []string        // references of those whose key can be nobody's
	nobodys   []int64         // the records of those that are in the ledger
	inbox     *InboxReport    // nil where there is no inbox
}

// syncLedger reads the operator's copy and the ledger of every store, decides which chain is the one, and brings the
// others to it: a store that lags behind gets the records it lacks, byte for byte; the operator takes over a continuation
// that trusted signers wrote elsewhere. A store whose ledger is damaged, forked or cut off is left out of the run, with
// the reason in its err. Nothing is written in a dry run. The caller holds the stores' leases. lost is a record whose
// sealed request may be gone, or 0.
func (c BackupConfig) syncLedger(ctx context.Context, stores []*openStore, lost int64) (*ledgerRun, error) {
	l := &ledgerRun{c: c, stores: stores, renewed: map[*openStore]time.Time{}}
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
	if err := l.findRequests(lost); err != nil {
		return nil, err
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
	l.ledger = own
	for _, s := range longer {
		if len(s.ledger.Records) > len(l.ledger.Records) {
			l.ledger = s.ledger.Ledger
		}
	}
	// Who is right, when two stores disagree about what this machine does not know, a person must find out.
	for i, a := range longer {
		for _, b := range longer[i+1:] {
			if n := a.ledger.forksFrom(&b.ledger.Ledger); n > 0 {
				fork(a, n, b.s.String())
				fork(b, n, a.s.String())
				l.ledger = own
			}
		}
	}
	l.ledger.Records = slices.Clone(l.ledger.Records)
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

// findRequests takes each open request from where it can be read. One that is nowhere can't be honoured.
func (l *ledgerRun) findRequests(except int64) error {
	places := l.places()
	markClosed(l.ledger.Records)
	var lost []string
	unreadable := false
	for i := range l.ledger.Records {
		e := &l.ledger.Records[i]
		if e.Kind != archive.RequestRecord || e.Closed || e.Request != nil {
			continue
		}
		for _, p := range places {
			if i < len(p.Records) && p.Records[i].Request != nil {
				e.Request = p.Records[i].Request
			}
			unreadable = unreadable || len(p.files.sealed[e.Sequence]) > 0
		}
		if e.Request == nil && e.Sequence != except {
			lost = append(lost, fmt.Sprint(e.Sequence))
		}
	}
	switch {
	case len(lost) == 0:
		return nil
	case unreadable:
		return fail(fmt.Errorf("this operator key can't open the sealed request of record %s: %w", strings.Join(lost, ", "), archive.ErrNoIdentity),
			"lethe init --identity key.txt --signer signer.key, on the key holder's machine, seals them for this operator", "read the ledger")
	}
	return fail(integrity(fmt.Errorf("the sealed request of record %s is nowhere, and no record closes it: whom it is about is not known", strings.Join(lost, ", "))),
		"put ledger/ back from a copy of a store; or, where you know whom it was about, lethe erasure request SUBJECT --ref REF --instead-of "+lost[0], "read the ledger")
}

// markClosed notes which requests a later record closes, and forgets what they said. The chain was checked.
func markClosed(records []LedgerEntry) {
	for i := range records {
		if e := &records[i]; e.Kind == archive.ClosedRecord {
			records[e.Closes-1].Closed, records[e.Closes-1].Request = true, nil
		}
	}
}

// mend brings a place to the run's ledger: first the records it lacks, each sealed request before its record; then
// requests sealed for the readers of today; at last it takes away what was sealed for others, or is closed. Killed
// anywhere, it goes on the next time.
func (l *ledgerRun) mend(ctx context.Context, p *ledgerPlace) error {
	for i := len(p.Records); i < len(l.ledger.Records); i++ {
		if err := l.copyRecord(ctx, p, i); err != nil {
			return err
		}
	}
	for i := range l.ledger.Records {
		e := &l.ledger.Records[i]
		if e.Request != nil && !slices.Contains(p.files.sealed[e.Sequence], l.readers) {
			if err := l.putSealed(ctx, p, e); err != nil {
				return err
			}
		}
	}
	for n, all := range p.files.sealed {
		if n > int64(len(l.ledger.Records)) {
			continue // left by a run that was killed before its record
		}
		open := l.ledger.Records[n-1].Request != nil
		for _, readers := range slices.Clone(all) {
			if open && readers == l.readers {
				continue
			}
			if err := p.r.Store.Delete(ctx, archive.SealedName(n, readers)); err != nil {
				return err
			}
			p.files.sealed[n] = slices.DeleteFunc(p.files.sealed[n], func(r string) bool { return r == readers })
		}
	}
	return nil
}

// copyRecord writes one record that a place lacks, as it stands where it is.
func (l *ledgerRun) copyRecord(ctx context.Context, to *ledgerPlace, i int) error {
	e := &l.ledger.Records[i]
	name := archive.RecordName(e.Sequence)
	places := l.places()
	at := slices.IndexFunc(places, func(p *ledgerPlace) bool { return i < len(p.Records) })
	if at < 0 {
		return fmt.Errorf("%s is nowhere any more", name)
	}
	from := places[at].r
	data, err := store.ReadAll(ctx, from.Store, name, archive.MaxRecordFile)
	if err != nil {
		return err
	}
	sig, err := store.ReadAll(ctx, from.Store, name+archive.SignatureSuffix, maxSmall)
	if err != nil {
		return err
	}
	if archive.Digest(data) != e.Digest {
		return integrity(fmt.Errorf("%s in %s changed while it was read", name, from.Store))
	}
	return l.putRecord(ctx, to, e, data, sig)
}

// putRecord writes one record into a place that holds all before it: the sealed request first, then the signature, then
// the record, which counts.
func (l *ledgerRun) putRecord(ctx context.Context, to *ledgerPlace, e *LedgerEntry, data, sig []byte) error {
	if e.Request != nil {
		if err := l.putSealed(ctx, to, e); err != nil {
			return err
		}
	}
	name := archive.RecordName(e.Sequence)
	if err := to.r.putAnew(ctx, name+archive.SignatureSuffix, sig); err != nil {
		return err
	}
	if err := to.r.putSure(ctx, name, data); err != nil {
		return err
	}
	to.files.signatures[e.Sequence] = struct{}{}
	to.Records = append(to.Records, *e)
	return nil
}

// putSealed writes a request sealed for the readers of today.
func (l *ledgerRun) putSealed(ctx context.Context, to *ledgerPlace, e *LedgerEntry) error {
	data, err := l.sealedFile(ctx, e)
	if err != nil {
		return err
	}
	if err := to.r.putAnew(ctx, archive.SealedName(e.Sequence, l.readers), data); err != nil {
		return err
	}
	to.files.sealed[e.Sequence] = append(to.files.sealed[e.Sequence], l.readers)
	return nil
}

// sealedFile returns a sealed request as it stands somewhere, so that all places hold the same bytes; where nobody has it
// for the readers of today it is sealed anew.
func (l *ledgerRun) sealedFile(ctx context.Context, e *LedgerEntry) ([]byte, error) {
	if l.sealed != nil {
		return l.sealed, nil
	}
	name := archive.SealedName(e.Sequence, l.readers)
	for _, p := range l.places() {
		if !slices.Contains(p.files.sealed[e.Sequence], l.readers) {
			continue
		}
		data, err := store.ReadAll(ctx, p.r.Store, name, archive.MaxSealedFile)
		if err != nil {
			return nil, err
		}
		if _, err := archive.OpenRequest(l.id, name, data, &e.LedgerRecord, l.c.readers()); err == nil {
			return data, nil
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

// append records a request, or the closing of one, signed by the operator: in this machine's copy first, so that no
// later run can write another record in its place, and then in every store. A store where it fails is left out, and
// gets the record at a later run.
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
	if l.own != nil {
		if err := l.putRecord(ctx, l.own, &e, data, sig); err != nil {
			return ownCopy(err, l.own)
		}
	}
	l.ledger.Records = append(l.ledger.Records, e)
	if err := l.eachStore(ctx, func(s *openStore) error {
		if err := l.renew(ctx, s); err != nil {
			return err
		}
		return fail(l.putRecord(ctx, s.ledger, &e, data, sig), "", "write record %d of the ledger in %s", e.Sequence, s.s)
	}); err != nil {
		return err
	}
	if record.Kind == archive.ClosedRecord {
		markClosed(l.ledger.Records)
	}
	return nil
}

// renew makes sure that the lease is ours. One that was renewed a moment ago runs on for minutes, and is not asked again:
// thousands of requests may come in one run.
func (l *ledgerRun) renew(ctx context.Context, s *openStore) error {
	now := l.c.Now()
	if since := now.Sub(l.renewed[s]); since >= 0 && since < leaseTerm/10 {
		return nil
	}
	if err := s.lease.Renew(ctx); err != nil {
		return err
	}
	l.renewed[s] = now
	return nil
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

// close ends a request: from now on it is honoured no more, and its sealed request is deleted everywhere.
func (l *ledgerRun) close(ctx context.Context, sequence int64) error {
	record := l.ledger.Head().Next(archive.ClosedRecord)
	record.Closes = sequence
	if err := l.append(ctx, record, nil); err != nil {
		return err
	}
	if l.own != nil {
		if err := l.mend(ctx, l.own); err != nil {
			return ownCopy(err, l.own)
		}
	}
	return l.eachStore(ctx, func(s *openStore) error { return l.mend(ctx, s.ledger) })
}
