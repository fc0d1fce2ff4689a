package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
)

// ErasureStage is how far an erasure is.
type ErasureStage string

// The stages, each of which includes those before it.
const (
	Recorded  ErasureStage = "recorded"  // it is in the ledger
	Effective ErasureStage = "effective" // the newest snapshot of every store honours it
	Purged    ErasureStage = "purged"    // every stored snapshot does: rewritten, or the old ones expired; and no store is known to keep deleted files of theirs, or objects that no snapshot names
	Verified  ErasureStage = "verified"  // a key holder's full scan found nothing
	Closed    ErasureStage = "closed"    // it is over: the sealed request is deleted
)

// erasureTerm is how long the law gives, from the day a request came in: a month, and no month is shorter than this but one.
const erasureTerm = 30 * 24 * time.Hour

// ErasuresConfig is what a look at the erasures needs.
type ErasuresConfig struct {
	Repositories []*Repository
	Unreachable  []StoreResult             // stores that could not be opened: nothing is claimed for them
	Copy         store.Store               // this machine's copy of the ledger; may be nil
	Readers      *archive.Identities       // open manifests and sealed requests: the operator's, or a key holder's
	Expect       *archive.LedgerHead       // a head that somebody noted down; may be nil
	Verified     func(sequence int64) bool // whether a proof of a full scan holds for every stored snapshot; nil: there is none
	Retention    Retention
	Now          func() time.Time
}

// Erasures says how every request stands. All of it is derived from what is stored.
type Erasures struct {
	Ledger   *archive.LedgerHead `json:"ledger"` // null where there is no record
	Requests []Erasure           `json:"requests"`
	Stores   []StoreResult       `json:"stores"`
	Notes    []string            `json:"notes"` // what limits what is said
}

// Erasure is one request. It holds no key. Of a closed one nothing is known but its place in the ledger.
type Erasure struct {
	Sequence int64        `json:"sequence"`
	Ref      string       `json:"ref,omitempty"`
	Subject  string       `json:"subject_type,omitempty"`
	Received string       `json:"received,omitempty"` // a day
	Recorded string       `json:"recorded,omitempty"` // a time
	Deadline string       `json:"deadline,omitempty"` // a day: 30 days after it was received
	Stage    ErasureStage `json:"state"`
	Overdue  bool         `json:"overdue"`           // the deadline is over, and a stored snapshot still holds the person, or may: in a store that can't be asked
	Unclean  int          `json:"unclean_snapshots"` // stored snapshots that do not honour it, in all stores together
	Hidden   int          `json:"hidden_files"`      // deleted files that stores still keep and that may hold the person: old versions in a bucket
	Unnamed  int          `json:"unnamed_objects"`   // objects that no snapshot names and that may hold the person, as interrupted runs leave them; counted where nothing else is left
	Unfit    bool         `json:"unfit"`             // the newest snapshot could take nobody out for it: its key is no value of the key column
	Waits    []string     `json:"open_because"`      // why it can't be closed, as far as what is stored tells; empty where it can, or is
	GoneBy   string       `json:"gone_by,omitempty"` // the day on which retention alone will have taken the last of them; left out where that can't be told
}

// Failed returns the stores for which nothing can be claimed.
func (r *Erasures) Failed() []StoreResult { return failedOf(r.Stores) }

// Integrity returns the error of a store whose ledger or manifests do not hold, or nil.
func (r *Erasures) Integrity() error { return integrityOf(r.Stores) }

// storedSnapshot is what is known of one snapshot's erasures.
type storedSnapshot struct {
	id        string
	honour    int64 // the last record it honours; 0 for none
	newer     int   // snapshots of the store that are newer
	leaving   bool  // it is not listed any more, and its objects are about to go
	started   time.Time
	successor bool   // a purge wrote it
	rules     string // the digest of those by which it honours what it honours
	met       []archive.Met
	unfit     []int64 // requests that could be about nobody there, although it honours them
}

// keeper is one store during a look.
type keeper struct {
	r         *Repository
	ledger    *ledgerPlace
	snapshots []storedSnapshot // newest first; of those on their way out, too
	heads     []*archive.LedgerHead
	named     map[objectID]struct{} // the objects that snapshots name
	unnamed   []time.Time           // when objects were put that none names; sorted
	swept     int64                 // a purge has left no deleted file that may hold the person of a request up to this record
	hidden    []time.Time           // when files were put that are deleted, and that the store keeps all the same; sorted
	unseen    error                 // why those are not known
	err       error
}

// ListErasures derives how every request stands. The error is that of the ledger as a whole; what is wrong with a store
// stands in the report.
func ListErasures(ctx context.Context, c ErasuresConfig) (report *Erasures, err error) {
	look, err := c.look(ctx)
	if err != nil {
		return nil, err
	}
	return look.report, nil
}

// erasuresLook is what a look at the erasures has seen.
type erasuresLook struct {
	report  *Erasures
	ledger  *Ledger
	keepers []*keeper
}

func (c *ErasuresConfig) look(ctx context.Context) (*erasuresLook, error) {
	report := &Erasures{Requests: []Erasure{}, Stores: []StoreResult{}, Notes: []string{}}
	var keepers []*keeper
	for _, r := range c.Repositories {
		if first := c.Repositories[0]; r.ID != first.ID {
			return nil, otherRepository(r, first)
		}
		k := &keeper{r: r, named: map[objectID]struct{}{}}
		if k.ledger, k.err = r.readLedger(ctx, c.Readers, nil); k.err == nil {
			k.err = k.read(ctx, c.Readers, report)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		keepers = append(keepers, k)
	}
	ledger, err := c.unite(ctx, keepers, report)
	if err != nil {
		return nil, err
	}
	sound := 0
	for _, k := range keepers {
		result := StoreResult{Store: k.r.Store.String(), err: k.err}
		if k.err != nil {
			result.Error = k.err.Error()
		} else {
			sound++
		}
		report.Stores = append(report.Stores, result)
	}
	if sound == 0 {
		return nil, keepers[0].err
	}
	report.Stores = append(report.Stores, c.Unreachable...)
	report.Ledger = ledger.Head()
	unknown := len(c.Unreachable) + len(keepers) - sound
	derive := func() (list []Erasure, claimed bool) {
		list = []Erasure{}
		for i := range ledger.Records {
			if e := &ledger.Records[i]; e.Kind == archive.RequestRecord {
				q := c.derive(e, keepers, unknown)
				list = append(list, q)
				claimed = claimed || q.Stage == Purged || q.Stage == Verified
			}
		}
		return list, claimed
	}
	var claimed bool
	if report.Requests, claimed = derive(); claimed { // then what no snapshot names counts, too
		for _, k := range keepers {
			if err := k.readUnnamed(ctx); err != nil {
				return nil, err
			}
		}
		report.Requests, claimed = derive()
	}
	for _, q := range report.Requests {
		if q.Stage == Closed && q.Unclean > 0 {
			report.Notes = append(report.Notes, fmt.Sprintf("request %d is closed, and %d snapshots from before it are stored: whom it was about is not known any more, so they are back; unless it was a mistake, delete them", q.Sequence, q.Unclean))
		}
	}
	for _, k := range keepers {
		if n := k.byOtherRules(); k.err == nil && n > 0 && claimed {
			report.Notes = append(report.Notes, fmt.Sprintf("%d of %d snapshots in %s have erased by other rules than the newest: where today's reach further, they may hold what counts as purged here; the next purge looks at them again", n, len(k.snapshots), k.r.Store))
		}
		if k.err == nil && k.unseen != nil {
			report.Notes = append(report.Notes, fmt.Sprintf("whether %s keeps deleted files is not known: %v", k.r.Store, k.unseen))
		}
	}
	return &erasuresLook{report, ledger, keepers}, nil
}

// read looks at every manifest of a store.
func (k *keeper) read(ctx context.Context, ids *archive.Identities, report *Erasures) error {
	list, err := k.r.Snapshots(ctx)
	if err != nil {
		return err
	}
	moved, err := k.r.expiring(ctx)
	if err != nil {
		return err
	}
	look := func(file, id string, newer int, leaving bool) error {
		m, _, err := k.r.manifestUnder(ctx, file, id, ids)
		s := storedSnapshot{id: id, newer: newer, leaving: leaving}
		switch {
		case errors.Is(err, archive.ErrNoIdentity):
			report.Notes = append(report.Notes, fmt.Sprintf("the manifest of %s in %s is for other readers, so it counts as one that honours nothing", id, k.r.Store))
		case isNotFound(err): // it expired a moment ago
			return nil
		case err != nil:
			return err
		default:
			s.started, s.successor, s.rules, s.met, s.unfit = m.Started, len(m.Supersedes) > 0, m.Rules.ErasedBy(), m.Met, m.Unfit
			if s.honour = sequenceOf(m.Ledger); m.Ledger != nil {
				k.heads = append(k.heads, m.Ledger)
			}
			if err := noteNamed(k.named, m); err != nil {
				return err
			}
		}
		k.snapshots = append(k.snapshots, s)
		return nil
	}
	for i := len(list) - 1; i >= 0; i-- {
		if err := look(archive.ManifestName(list[i].ID), list[i].ID, len(list)-1-i, false); err != nil {
			return err
		}
	}
	for _, id := range moved {
		if slices.ContainsFunc(list, func(l Listed) bool { return l.ID == id }) {
			continue
		}
		if err := look(expiredName(id), id, len(list), true); err != nil {
			return err
		}
	}
	return k.readHidden(ctx, ids)
}

// byOtherRules counts the snapshots that honour requests by other rules than the newest has.
func (k *keeper) byOtherRules() (n int) {
	for _, s := range k.snapshots {
		if s.honour > 0 && !s.leaving && s.rules != k.snapshots[0].rules {
			n++
		}
	}
	return n
}

// readHidden finds what the store keeps of deleted files, where it is one that may keep them.
func (k *keeper) readHidden(ctx context.Context, ids *archive.Identities) error {
	versioned, ok := k.r.Store.(store.Versioned)
	if !ok {
		return nil
	}
	accounts, err := k.r.accounts(ctx, ids)
	if err != nil {
		return err
	}
	for _, a := range accounts {
		if a.Swept != nil && a.Swept.All() {
			k.swept = max(k.swept, a.Swept.Honoured)
		}
	}
	if !slices.ContainsFunc(k.ledger.Records, func(e LedgerEntry) bool { return k.concerned(&e) }) {
		return nil
	}
	for _, prefix := range []string{archive.ObjectsPrefix, archive.SnapshotsPrefix, expiredPrefix} {
		k.unseen = versioned.Old(ctx, prefix, func(put time.Time) { k.hidden = append(k.hidden, put) })
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if k.unseen != nil {
			return nil
		}
	}
	slices.SortFunc(k.hidden, time.Time.Compare)
	return nil
}

// readUnnamed finds the objects that no snapshot names.
func (k *keeper) readUnnamed(ctx context.Context) error {
	if k.err != nil {
		return nil
	}
	objects, err := k.r.unnamed(ctx, k.named)
	if err != nil {
		return fail(err, "", "look for objects in %s that no snapshot names", k.r.Store)
	}
	for _, i := range objects {
		k.unnamed = append(k.unnamed, i.Modified)
	}
	slices.SortFunc(k.unnamed, time.Time.Compare)
	return nil
}

// noteNamed notes the objects that a manifest names, filters included.
func noteNamed(named map[objectID]struct{}, m *archive.Manifest) error {
	for i := range m.Parts {
		for _, objects := range [][]archive.Object{m.Parts[i].Objects, m.Parts[i].Filters} {
			for _, o := range objects {
				id, err := idOf(o.Object)
				if err != nil {
					return err
				}
				named[id] = struct{}{}
			}
		}
	}
	return nil
}

// unnamed lists the objects that are none of these.
func (r *Repository) unnamed(ctx context.Context, named map[objectID]struct{}) (list map[objectID]store.Info, err error) {
	list = map[objectID]store.Info{}
	err = r.Store.List(ctx, archive.ObjectsPrefix, func(i store.Info) error {
		object, ok := archive.ObjectOf(i.Name)
		if !ok {
			return nil
		}
		id, err := idOf(object)
		if _, in := named[id]; err == nil && !in {
			list[id] = i
		}
		return err
	})
	return list, err
}

// concerned says whether deleted files that the store keeps may hold the person of a request, for all that purges say.
func (k *keeper) concerned(e *LedgerEntry) bool {
	return e.Kind == archive.RequestRecord && !e.Closed && e.Sequence > k.swept
}

// hiding counts the files that the store keeps although they are deleted and that may hold the person of a request: those
// that were put before a backup can have honoured it, by a clock that may be a day off.
func (k *keeper) hiding(e *LedgerEntry) (n int) {
	if !k.concerned(e) || e.Request == nil {
		return 0
	}
	return putBefore(k.hidden, e)
}

// stray counts the objects that no snapshot names and that may hold the person of a request.
func (k *keeper) stray(e *LedgerEntry) int {
	if e.Request == nil {
		return 0
	}
	return putBefore(k.unnamed, e)
}

// putBefore counts the times at which no backup can have honoured a request yet, by a clock that may be a day off.
func putBefore(put []time.Time, e *LedgerEntry) int {
	n, _ := slices.BinarySearchFunc(put, e.Request.Recorded.Add(storeLimit), time.Time.Compare)
	return n
}

// unite finds the longest ledger of all places. One that differs from it, or that is shorter than a snapshot beside it
// knows, is its store's error.
func (c *ErasuresConfig) unite(ctx context.Context, keepers []*keeper, report *Erasures) (*Ledger, error) {
	places := []*ledgerPlace{}
	if c.Copy != nil && len(c.Repositories) > 0 {
		of := c.Repositories[0]
		own, err := (&Repository{Store: c.Copy, ID: of.ID, trust: of.trust}).readLedger(ctx, c.Readers, nil)
		if err != nil {
			return nil, err
		}
		places = append(places, own)
	}
	for _, k := range keepers {
		if k.err != nil {
			continue
		}
		for _, p := range places {
			if n := p.forksFrom(&k.ledger.Ledger); n > 0 {
				k.err = fail(integrity(fmt.Errorf("its record %d is another one than that of %s: the ledger has forked", n, p.r.Store)),
					"lethe help ledger tells what to do", "compare the ledgers in %s and elsewhere", k.r.Store)
			}
		}
		for _, head := range k.heads {
			if err := k.ledger.Holds(head); err != nil && k.err == nil {
				k.err = fail(err, "lethe help ledger tells what to do", "compare the ledger in %s with what its snapshots know", k.r.Store)
			}
		}
		if k.err == nil {
			places = append(places, k.ledger)
		}
	}
	ledger := longest(places)
	if err := ledger.Holds(c.Expect); err != nil {
		return nil, fail(err, "lethe help ledger tells what to do", "compare the ledger with the head that was expected, %s", c.Expect)
	}
	for _, k := range keepers {
		if n := len(ledger.Records) - len(ledgerOf(k).Records); k.err == nil && n > 0 {
			report.Notes = append(report.Notes, fmt.Sprintf("the ledger in %s lacks the last %d of %d records; the next backup brings them", k.r.Store, n, len(ledger.Records)))
		}
	}
	return ledger, nil
}

// longest is the longest ledger of several places, with the requests that any of them could read; one without records
// where there is none.
func longest(places []*ledgerPlace) *Ledger {
	ledger := &Ledger{}
	for _, p := range places {
		if len(p.Records) > len(ledger.Records) {
			ledger = &p.Ledger
		}
	}
	for i := range ledger.Records {
		e := &ledger.Records[i]
		for _, p := range places {
			if i < len(p.Records) && e.Request == nil && !e.Closed {
				e.Request = p.Records[i].Request
			}
		}
	}
	return ledger
}

func ledgerOf(k *keeper) *Ledger {
	if k.ledger == nil {
		return &Ledger{}
	}
	return &k.ledger.Ledger
}

// deadlineOf is the last day on which a request is in time.
func deadlineOf(r *archive.LedgerRequest) time.Time { return r.Received.Add(erasureTerm) }

// late reports whether the deadline of a request is over.
func (c *ErasuresConfig) late(r *archive.LedgerRequest) bool {
	return !c.Now().Before(deadlineOf(r).Add(24 * time.Hour))
}

// derive says how one request stands. unknown is the number of stores for which nothing can be claimed.
func (c *ErasuresConfig) derive(e *LedgerEntry, keepers []*keeper, unknown int) Erasure {
	out := Erasure{Sequence: e.Sequence, Stage: Recorded, Waits: []string{}}
	effective := unknown == 0
	gone := c.Now() // what should have gone before goes with the next expire
	told := c.Retention.KeepWithin > 0
	for _, k := range keepers {
		if k.err != nil {
			continue
		}
		out.Hidden += k.hiding(e)
		out.Unnamed += k.stray(e)
		told = told && len(k.hidden)+len(k.unnamed) == 0 && k.unseen == nil // where deleted files are kept, retention alone does not do it
		out.Unfit = out.Unfit || len(k.snapshots) > 0 && slices.Contains(k.snapshots[0].unfit, e.Sequence)
		for _, s := range k.snapshots {
			if s.honour >= e.Sequence {
				continue
			}
			out.Unclean++
			effective = effective && s.newer > 0
			if t := archive.SnapshotTime(s.id).Add(c.Retention.KeepWithin); t.After(gone) && !s.leaving {
				gone = t
			}
			told = told && (s.leaving || s.newer >= c.Retention.KeepMin)
		}
	}
	switch clean := unknown == 0 && out.Unclean+out.Hidden+out.Unnamed == 0; {
	case e.Closed:
		out.Stage = Closed
		return out
	case out.Unfit: // there is nobody whom it could have been honoured for
	case clean && c.Verified != nil && c.Verified(e.Sequence):
		out.Stage = Verified
	case clean:
		out.Stage = Purged
	case effective:
		out.Stage = Effective
		if told {
			out.GoneBy = gone.UTC().Format(time.DateOnly)
		}
	}
	if r := e.Request; r != nil {
		deadline := deadlineOf(r)
		out.Ref, out.Subject, out.Received, out.Recorded = r.Ref, r.Subject, r.Received.Format(time.DateOnly), r.Recorded.Format(time.RFC3339)
		out.Deadline = deadline.Format(time.DateOnly)
		out.Overdue = (out.Stage == Recorded || out.Stage == Effective) && c.late(r)
	}
	out.Waits = append(out.Waits, c.waits(e, &out, keepers, unknown)...)
	return out
}
