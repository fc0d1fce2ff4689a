package pipeline

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
	"lethe/rules"
)

// PurgeConfig is what a purge needs.
type PurgeConfig struct {
	Repositories []*Repository
	Unreachable  []StoreResult // stores that could not be opened
	Identities   *archive.Identities
	Signer       *archive.SigningKey // signs what is written

	Only   []string            // refs of the requests to purge; nil means all that are open
	Expect *archive.LedgerHead // a head of the ledger that somebody noted down; may be nil

	Rules   *rules.File // for snapshots that today's rules can't decide about, or nil
	DryRun  bool        // look and say, write nothing, take no lease
	Workers int
	Tool    string // Lethe's version
	Now     func() time.Time

	// Confirm is asked before anything is written, and what it returns ends the purge unless it is nil. It is not asked
	// where nothing is to be written.
	Confirm  func(context.Context, *PurgePlan) error
	Progress func(Progress) // may be nil
	Warn     func(string)   // may be nil
}

// PurgePlan is what a purge changes. Rows are counted in the snapshot that has most of them.
type PurgePlan struct {
	Requests   []PlannedErasure `json:"requests"`
	Tables     []TableErasure   `json:"tables"`
	Rows       int64            `json:"rows"`      // deleted, redacted and cleared in all tables, of Tables
	Snapshots  int              `json:"snapshots"` // that the stores hold
	Rewritten  int              `json:"rewritten"` // snapshots of which rows or large objects change
	Objects    int64            `json:"large_objects"`
	Beyond     []string         `json:"beyond"`     // why so much at once needs a second look; empty where it does not
	Recipients []string         `json:"recipients"` // who will be able to read what is written anew, besides the identities given
	Rules      string           `json:"rules"`      // the snapshot whose rules decide
	Remarks    []string         `json:"remarks"`
}

// PlannedErasure is what one request takes.
type PlannedErasure struct {
	Ref     string         `json:"ref"`
	Subject string         `json:"subject"` // type
	Key     string         `json:"-"`       // for the key holder's eyes
	Found   bool           `json:"found"`   // the person's own row is in some snapshot
	Tables  []TableErasure `json:"tables"`
}

// TableErasure is what erasing does to one table, in the snapshot that has most such rows.
type TableErasure struct {
	Table     string `json:"table"`
	Rows      int64  `json:"rows"` // that the table has there
	Snapshots int    `json:"snapshots"`
	rowCounts
}

// PurgeReport says what a purge did, or after a dry run would do.
type PurgeReport struct {
	DryRun  bool                `json:"dry_run"`
	Plan    *PurgePlan          `json:"plan"`
	Ledger  *archive.LedgerHead `json:"ledger"` // the last record of the longest ledger; null where there is none
	Stores  []StorePurge        `json:"stores"`
	Fetched int64               `json:"fetched_bytes"` // of objects
	Stored  int64               `json:"stored_bytes"`  // of objects, in one store
}

// StorePurge is what a purge did in one store.
type StorePurge struct {
	Store      string      `json:"store"`
	Error      string      `json:"error,omitempty"`
	Successors []Successor `json:"successors"`
	Clean      int         `json:"clean"`   // snapshots that needed none
	Deleted    int         `json:"deleted"` // objects that no snapshot names any more
	Bytes      int64       `json:"deleted_bytes"`

	Unfinished int `json:"unfinished"` // files that killed runs had not put yet, and that went

	Versions int          `json:"versions"`          // old versions that went, in a store that keeps what was deleted
	Kept     []store.Kept `json:"kept"`              // deleted files that the store must keep for now
	Unknown  string       `json:"unknown,omitempty"` // why it is not known whether the store keeps deleted files
}

// Left says whether the store may still hold what was erased.
func (s *StorePurge) Left() bool { return s.Error != "" || s.Unknown != "" || len(s.Kept) > 0 }

// Successor is a snapshot that took another's place.
type Successor struct {
	Old string `json:"old"`
	New string `json:"new"`
}

// Purge takes people out of stored snapshots. For each snapshot it writes the objects that change and a manifest that
// names them, and takes the old manifest away; at last the objects go that no manifest names. It holds the lease of every
// store all the time. Killed anywhere, it leaves every listed snapshot whole, and the next run ends in the same state.
//
// A snapshot of which nothing changes gets a new manifest too, which says up to which record of the ledger it is clean.
//
// The error is what ended the run, or of a store that failed; the report says what was done all the same, unless it is nil.
func Purge(ctx context.Context, c PurgeConfig) (report *PurgeReport, err error) {
	defer func() { err = fail(err, "", "purge") }()
	p := &purge{c: c, report: &PurgeReport{DryRun: c.DryRun, Stores: []StorePurge{}}, sealed: map[archive.PieceID]*sealedPiece{}}
	defer p.release(ctx)
	defer func() { p.stored.close() }()
	if err := p.open(ctx); err != nil { // leases, manifests, today's rules
		return nil, err
	}
	if err := p.stored.follow(ctx); err != nil { // everything that leads to the people to erase
		return nil, err
	}
	if p.changes, err = p.stored.changes(ctx); err != nil { // and what of it changes in each snapshot
		return nil, err
	}
	p.plan()
	p.report.Fetched = p.stored.fetched.Load()
	if c.DryRun {
		return p.report, nil
	}
	if p.anything() {
		if err := c.Confirm(ctx, p.report.Plan); err != nil {
			return nil, err
		}
	}
	if err = p.seal(ctx); err == nil { // every object that takes another's place is stored
		err = p.succeed(ctx) // manifests; then what they no longer name goes
	}
	if ctx.Err() != nil && err != nil {
		return nil, fail(&kind{err, ErrLeftBehind}, "run lethe erasure purge again: it ends what this run has begun; every listed snapshot is whole", "interrupted")
	}
	return p.report, err
}

// purge is one run of Purge.
type purge struct {
	c       PurgeConfig
	report  *PurgeReport
	stores  []*purgeStore
	keys    *archive.RepositoryKeys
	ledger  *Ledger           // the longest of all stores'
	newest  *archive.Manifest // whose rules decide; without its parts
	stored  *stored
	changes *changes

	mu     sync.Mutex
	sealed map[archive.PieceID]*sealedPiece
	places map[*storedUse][]successor // by place in storedUse.in
	los    map[*oneSnapshot]objectsLeft
}

// purgeStore is one store during a purge.
type purgeStore struct {
	repo       *Repository
	lease      *held
	ledger     *Ledger
	listed     []string
	superseded []string // snapshots whose successor is listed too: an interrupted run left them
	snapshots  []*oneSnapshot
	out        StorePurge
	err        error // why it is left out from then on
}

func (p *purge) warn(format string, args ...any) {
	if p.c.Warn != nil {
		p.c.Warn(fmt.Sprintf(format, args...))
	}
}

func (p *purge) release(ctx context.Context) {
	for _, s := range p.stores {
		if s.lease == nil {
			continue
		}
		if err := s.lease.Release(ctx); err != nil {
			p.warn("the lease in %s stays until it runs out: %v", s.repo.Store, err)
		}
	}
}

// head is the last record that a snapshot's successor honours, of those that its store has: as far as none is left out
// that the snapshot does not honour yet.
func (p *purge) head(snap *oneSnapshot) *archive.LedgerHead {
	head := snap.manifest.Ledger
	for i := range snap.ledger.Records {
		r := &snap.ledger.Records[i]
		if head != nil && r.Sequence <= head.Sequence {
			continue
		}
		if r.Kind == archive.RequestRecord && !slices.ContainsFunc(p.stored.requests, func(q erasure) bool { return q.sequence == r.Sequence }) {
			break // another request, or one that is closed: who it was about is not known any more
		}
		head = &archive.LedgerHead{Sequence: r.Sequence, Digest: r.Digest}
	}
	return head
}

// erasedBy is the digest of the rules that a snapshot's successor is clean by. Where only some requests are purged, those
// honoured before were so by other rules.
func (p *purge) erasedBy(snap *oneSnapshot) string {
	today := archive.Digest(p.stored.today.Text)
	switch {
	case p.c.Only != nil:
		return snap.manifest.Rules.Erased
	case snap.manifest.Rules.Digest == today:
		return ""
	}
	return today
}

// dirty says whether a snapshot gets a successor.
func (p *purge) dirty(snap *oneSnapshot) bool {
	head := snap.manifest.Ledger
	if now := p.head(snap); now != nil && (head == nil || now.Sequence > head.Sequence) {
		return true
	}
	return p.erasedBy(snap) != snap.manifest.Rules.Erased || p.changed(snap)
}

// changed says whether rows or large objects of a snapshot change.
func (p *purge) changed(snap *oneSnapshot) bool {
	if p.changes.lost[snap] != nil {
		return true
	}
	for key := range p.changes.effects {
		if key.snapshot == snap {
			return true
		}
	}
	return false
}

// anything says whether something is to be written or deleted.
func (p *purge) anything() bool {
	return slices.ContainsFunc(p.stores, func(s *purgeStore) bool {
		return len(s.superseded) > 0 || slices.ContainsFunc(s.snapshots, p.dirty)
	})
}
