package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
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
	DryRun  bool         `json:"dry_run"`
	Plan    *PurgePlan   `json:"plan"`
	Stores  []StorePurge `json:"stores"`
	Fetched int64        `json:"fetched_bytes"` // of objects
	Stored  int64        `json:"stored_bytes"`  // of objects, in one store
}

// StorePurge is what a purge did in one store.
type StorePurge struct {
	Store      string      `json:"store"`
	Error      string      `json:"error,omitempty"`
	Successors []Successor `json:"successors"`
	Clean      int         `json:"clean"`   // snapshots that needed none
	Deleted    int         `json:"deleted"` // objects that no snapshot names any more
	Bytes      int64       `json:"deleted_bytes"`

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

// objectsLeft is the large objects of a snapshot that lost some.
type objectsLeft struct {
	objects []archive.Object
	gone    int64
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

// successor is what takes a piece's place in one snapshot. The zero successor is the piece itself.
type successor struct {
	gone   bool
	object archive.Object
	filter archive.FilterPiece // what a filter will know of it, where the piece had one
	refs   []archive.FilterReference
}

// sealedPiece is a text that this key holder has sealed, in this run or an earlier one, or that is being sealed.
type sealedPiece struct {
	mu     sync.Mutex
	object archive.Object // named by "" until it is sealed
	in     []*Repository
	known  bool // from a manifest: whether it is still there is to be seen
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

// open takes the leases and reads every manifest. Nothing goes on where one can't be read or believed: a snapshot that
// is left out would keep the people in it.
func (p *purge) open(ctx context.Context) error {
	var newest *archive.Manifest
	for _, repo := range p.c.Repositories {
		own := *repo
		if p.c.Signer != nil { // what an earlier run of this key holder's wrote is believed
			own.trust = repo.trust.With(p.c.Signer.Public())
		}
		s := &purgeStore{repo: &own, out: StorePurge{Store: repo.Store.String(), Successors: []Successor{}, Kept: []store.Kept{}}}
		p.stores = append(p.stores, s)
		var err error
		if !p.c.DryRun {
			if s.lease, err = acquire(ctx, repo.Store, "purge", p.c.Now); err != nil {
				return err
			}
		}
		if p.keys, err = s.repo.keys(ctx, p.c.Identities); err != nil {
			return err
		}
		if s.ledger, err = OpenLedger(ctx, s.repo, p.c.Identities, p.c.Expect); err != nil {
			return err
		}
		if p.ledger == nil || len(s.ledger.Records) > len(p.ledger.Records) {
			p.ledger = s.ledger
		}
		last, err := s.look(ctx, p.c.Identities)
		if err != nil {
			return err
		}
		if last != nil && (newest == nil || last.ID > newest.ID) {
			newest = last
		}
	}
	if newest == nil {
		return fail(configuration(errors.New("there is no snapshot")), "lethe list shows what the stores hold", "")
	}
	for _, s := range p.stores {
		if err := p.ledger.Holds(s.ledger.Head()); err != nil {
			return fail(err, "lethe help ledger tells what to do", "compare the ledger in %s with the others", s.repo.Store)
		}
	}
	return p.takeIn(ctx, newest)
}

// look reads the manifests of a store for the first time, and returns the newest.
func (s *purgeStore) look(ctx context.Context, ids *archive.Identities) (newest *archive.Manifest, err error) {
	list, err := s.repo.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	s.listed = idsOf(list)
	digests := map[string]string{}
	for _, id := range s.listed {
		m, digest, err := s.repo.manifest(ctx, id, ids)
		if err != nil {
			return nil, err
		}
		newest, digests[id] = m, digest
	}
	by, err := s.repo.superseded(ctx, s.listed, ids)
	if err != nil {
		return nil, err
	}
	s.superseded = slices.Sorted(maps.Keys(by))
	if newest != nil {
		if problems := (Retention{}).betrayals(newest, digests, nil, time.Time{}); len(problems) > 0 {
			return nil, problems[0].asError()
		}
		for _, ref := range newest.Alive {
			if _, listed := digests[ref.ID]; !listed {
				if err := s.repo.reallyGone(ctx, ref.ID); err != nil {
					return nil, err
				}
			}
		}
	}
	return newest, nil
}

// takeIn reads the manifests again, one at a time, for what stored keeps of them.
func (p *purge) takeIn(ctx context.Context, newest *archive.Manifest) error {
	today, err := parseStoredRules(newest)
	if err != nil {
		return fail(err, "", "read today's rules")
	}
	requests, err := p.selected()
	if err != nil {
		return err
	}
	p.stored = newStored(p.c.Identities, p.keys, today, nil, requests, p.c.Workers)
	p.stored.fallback, p.stored.progress = p.c.Rules, p.c.Progress
	for _, s := range p.stores {
		if slices.Contains(s.listed, newest.ID) {
			if p.stored.now, err = p.stored.schema(ctx, s.repo, newest.Parts); err != nil {
				return fail(err, "", "read the schema of %s", newest.ID)
			}
			break
		}
	}
	for _, s := range p.stores {
		for _, id := range s.listed {
			if slices.Contains(s.superseded, id) {
				continue
			}
			m, digest, signer, err := s.repo.manifestBy(ctx, id, p.c.Identities)
			if err != nil {
				return err
			}
			if p.c.Signer != nil && signer == p.c.Signer.Public() {
				if err := p.remember(s.repo, m); err != nil {
					return err
				}
			}
			if err := s.ledger.Holds(m.Ledger); err != nil {
				return fail(err, "lethe help ledger tells what to do", "compare the ledger in %s with what snapshot %s knows", s.repo.Store, id)
			}
			snap, err := p.stored.add(ctx, s.repo, m, digest)
			if err != nil {
				return err
			}
			snap.ledger = s.ledger
			s.snapshots = append(s.snapshots, snap)
		}
	}
	p.newest = newest
	p.newest.Parts = nil
	p.report.Plan = &PurgePlan{Rules: newest.ID, Requests: []PlannedErasure{}, Tables: []TableErasure{}, Beyond: []string{}, Recipients: []string{}, Remarks: []string{}}
	return nil
}

// remember notes the objects of a manifest that this key holder has signed, so that a text which was sealed by a run that
// was interrupted is not sealed again. A manifest of the operator's is not believed that much: whoever stole the
// operator's key could have it say that an object holds another text.
func (p *purge) remember(repo *Repository, m *archive.Manifest) error {
	for i := range m.Parts {
		for _, o := range slices.Concat(m.Parts[i].Objects, m.Parts[i].Filters) {
			id, err := archive.ParsePieceID(o.Piece)
			if err != nil {
				return err
			}
			piece := p.sealed[id]
			if piece == nil {
				o.Range = 0
				piece = &sealedPiece{object: o, known: true}
				p.sealed[id] = piece
			}
			if piece.object.Object == o.Object && !slices.Contains(piece.in, repo) {
				piece.in = append(piece.in, repo)
			}
		}
	}
	return nil
}

// selected is the requests that this run is about.
func (p *purge) selected() ([]erasure, error) {
	open := p.ledger.Open()
	if p.c.Only == nil {
		return erasures(open), nil
	}
	var list []*archive.LedgerRequest
	for _, ref := range p.c.Only {
		if !slices.ContainsFunc(open, func(r *archive.LedgerRequest) bool { return r.Ref == ref }) {
			return nil, fail(configuration(errors.New("the ledger holds no such open request")), "lethe erasure list shows them", "purge %s", ref)
		}
	}
	for _, r := range open {
		if slices.Contains(p.c.Only, r.Ref) {
			list = append(list, r)
		}
	}
	return erasures(list), nil
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

// seal stores every object that takes another's place.
func (p *purge) seal(ctx context.Context) error {
	p.places, p.los = map[*storedUse][]successor{}, map[*oneSnapshot]objectsLeft{}
	wanted := newWanted()
	for u := range p.changes.uses {
		wanted.uses[u.piece] = append(wanted.uses[u.piece], u)
		p.places[u] = make([]successor, len(u.in))
	}
	err := p.stored.read(ctx, p.stored.only(wanted), "writing successors", func() (func(*storedPiece, []byte) error, error) {
		r, sealers := newRewriter(), p.newSealers()
		filters, err := p.newFilterMakers()
		if err != nil {
			return nil, err
		}
		var text []byte
		return func(piece *storedPiece, rows []byte) error {
			for _, u := range wanted.uses[piece] {
				list, err := r.variants(u, rows, nil)
				if err != nil {
					return err
				}
				for _, v := range list {
					if v.same {
						continue
					}
					next := successor{gone: true}
					if made := v.pieceText(text, piece.header); made != nil {
						text = made
						object, err := sealers.seal(ctx, u.world, text, u.reposOf(v.in))
						if err != nil {
							return err
						}
						object.Rows = piece.object.Rows - v.dropped
						next = successor{object: object}
						if err := filters.of(ctx, u, text, &next); err != nil {
							return err
						}
					}
					for _, n := range v.in {
						p.places[u][slices.Index(u.in, n)] = next
					}
				}
				if cap(text) > keepBuffer {
					text = nil
				}
			}
			return nil
		}, nil
	})
	if err != nil {
		return err
	}
	return p.sealLargeObjects(ctx)
}

// leaveOut remembers why a store gets no successors. It is false where none is left that does.
func (p *purge) leaveOut(repo *Repository, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	left := 0
	for _, s := range p.stores {
		if s.repo == repo && s.err == nil {
			s.err = err
		}
		if s.err == nil {
			left++
		}
	}
	return left > 0
}

// leftOut is why a store gets no successors, or nil.
func (p *purge) leftOut(repo *Repository) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.stores {
		if s.repo == repo {
			return s.err
		}
	}
	return nil
}

// reposOf lists the repositories that hold some of the snapshots.
func (u *storedUse) reposOf(snapshots []int) (repos []*Repository) {
	for _, n := range snapshots {
		if r := u.world.snapshots[n].repo; !slices.Contains(repos, r) {
			repos = append(repos, r)
		}
	}
	return repos
}

// sealers seal what one worker makes, for the recipients that each snapshot names.
type sealers struct {
	purge *purge
	of    map[*storedWorld]*worldSealer
}

type worldSealer struct {
	sealer *archive.Sealer
	pieces *archive.Pieces
}

func (p *purge) newSealers() *sealers {
	return &sealers{purge: p, of: map[*storedWorld]*worldSealer{}}
}

// seal makes an object of a text and stores it in these repositories. A text that comes again is sealed once.
func (s *sealers) seal(ctx context.Context, w *storedWorld, text []byte, repos []*Repository) (archive.Object, error) {
	own, err := s.in(w)
	if err != nil {
		return archive.Object{}, err
	}
	return s.sealAs(ctx, own, own.pieces.ID(text), func() ([]byte, error) { return text, nil }, repos)
}

// in returns what seals for the snapshots of a world.
func (s *sealers) in(w *storedWorld) (*worldSealer, error) {
	if own := s.of[w]; own != nil {
		return own, nil
	}
	recipients, err := archive.ParseRecipients(w.snapshots[0].manifest.Recipients, "")
	if err != nil {
		return nil, err
	}
	own := &worldSealer{}
	if own.sealer, err = archive.NewSealer(recipients); err != nil {
		return nil, err
	}
	if own.pieces, err = archive.NewPieces(s.purge.keys.PieceID, recipients); err != nil {
		return nil, err
	}
	s.of[w] = own
	return own, nil
}

// sealAs is seal for a text with this id, which is made when it is needed.
func (s *sealers) sealAs(ctx context.Context, own *worldSealer, id archive.PieceID, text func() ([]byte, error), repos []*Repository) (archive.Object, error) {
	s.purge.mu.Lock()
	piece := s.purge.sealed[id]
	if piece == nil {
		piece = &sealedPiece{}
		s.purge.sealed[id] = piece
	}
	s.purge.mu.Unlock()
	piece.mu.Lock()
	defer piece.mu.Unlock()
	if err := piece.look(ctx); err != nil {
		return archive.Object{}, err
	}
	var data []byte
	for _, repo := range repos {
		if slices.Contains(piece.in, repo) || s.purge.leftOut(repo) != nil {
			continue
		}
		switch {
		case data != nil:
		case len(piece.in) == 0:
			plain, err := text()
			if err != nil {
				return archive.Object{}, err
			}
			sealed, err := own.sealer.Seal(nil, plain)
			if err != nil {
				return archive.Object{}, err
			}
			data, piece.object = sealed.Data, sealed.Ref(0, id, 0)
			s.purge.mu.Lock()
			s.purge.report.Stored += sealed.Size
			s.purge.mu.Unlock()
		default:
			var err error
			if data, err = piece.in[0].Object(ctx, piece.object); err == nil {
				err = archive.CheckObject(data, piece.object)
			}
			if err != nil {
				return archive.Object{}, err
			}
		}
		if err := repo.Store.Put(ctx, archive.ObjectName(piece.object.Object), data); err != nil && !errors.Is(err, store.ErrExists) {
			if ctx.Err() != nil || !s.purge.leaveOut(repo, err) {
				return archive.Object{}, err
			}
			continue
		}
		piece.in = append(piece.in, repo)
	}
	return piece.object, nil
}

// look makes sure that what a manifest names is there: a snapshot that is whole must not get a successor that is not. What
// some store has lost is sealed anew, under another name.
func (piece *sealedPiece) look(ctx context.Context) error {
	if !piece.known {
		return nil
	}
	piece.known = false
	for _, repo := range piece.in {
		info, err := repo.Store.Stat(ctx, archive.ObjectName(piece.object.Object))
		switch {
		case isNotFound(err), err == nil && info.Size != piece.object.Size:
			piece.in = nil
			return nil
		case err != nil:
			return fmt.Errorf("look whether object %s is still there: %w", piece.object.Object, err)
		}
	}
	return nil
}

// sealLargeObjects writes the large objects anew of each snapshot that loses some.
func (p *purge) sealLargeObjects(ctx context.Context) error {
	opener, err := archive.NewOpener(p.c.Identities)
	if err != nil {
		return err
	}
	sealers := p.newSealers()
	for snap, lost := range p.changes.lost {
		filter := objectFilter{lost: lost}
		for _, part := range snap.manifest.Parts {
			if part.Kind != archive.LargeObjects {
				continue
			}
			objects := []archive.Object{}
			for _, o := range part.Objects {
				data, err := snap.repo.Object(ctx, o)
				if err != nil {
					return err
				}
				p.stored.fetched.Add(int64(len(data)))
				text, err := opener.Open(data, o)
				if err != nil {
					return err
				}
				left, err := filter.apply(text)
				if err != nil {
					return fmt.Errorf("read the large objects in %s: %w", o.Object, err)
				}
				switch {
				case len(left) == 0 && len(text) > 0:
				case bytes.Equal(left, text):
					objects = append(objects, o)
				default:
					next, err := sealers.seal(ctx, snap.world, left, []*Repository{snap.repo})
					if err != nil {
						return err
					}
					objects = append(objects, next)
				}
			}
			p.los[snap] = objectsLeft{objects, filter.gone}
		}
	}
	return nil
}

// succeed gives each snapshot its successor, store by store, and deletes what no snapshot names any more. A store that
// fails does not keep the others from being served.
func (p *purge) succeed(ctx context.Context) error {
	var errs []error
	for _, s := range p.stores {
		err := p.succeedIn(ctx, s)
		if err != nil {
			err = fail(err, "run lethe erasure purge again: it ends what this run has begun; every listed snapshot is whole", "purge %s", s.repo.Store)
			s.out.Error = err.Error()
			errs = append(errs, err)
		}
		p.report.Stores = append(p.report.Stores, s.out)
		if ctx.Err() != nil {
			return err
		}
	}
	for _, u := range p.c.Unreachable {
		p.report.Stores = append(p.report.Stores, StorePurge{Store: u.Store, Error: u.Error, Successors: []Successor{}, Kept: []store.Kept{}})
	}
	p.report.Fetched = p.stored.fetched.Load()
	for _, sentinel := range []error{ErrIntegrity, ErrLocked} {
		for _, err := range errs {
			if errors.Is(err, sentinel) {
				return err
			}
		}
	}
	return errors.Join(errs...)
}

func (p *purge) succeedIn(ctx context.Context, s *purgeStore) error {
	if s.err != nil {
		return s.err
	}
	for _, id := range s.superseded {
		if err := s.repo.retire(ctx, id, s.lease); err != nil {
			return err
		}
	}
	if err := p.begin(ctx, s); err != nil {
		return err
	}
	left := slices.DeleteFunc(slices.Clone(s.listed), func(id string) bool { return slices.Contains(s.superseded, id) })
	for _, snap := range s.snapshots { // the oldest first, so that the newest knows all the others
		if !p.dirty(snap) {
			s.out.Clean++
			continue
		}
		id, err := archive.SuccessorID(snap.id, func(id string) bool { return slices.Contains(left, id) })
		if err != nil {
			return err
		}
		if err := p.succeedOne(ctx, s, snap, id); err != nil {
			return err
		}
		left[slices.Index(left, snap.id)] = id
		s.out.Successors = append(s.out.Successors, Successor{Old: snap.id, New: id})
	}
	if err := p.sweep(ctx, s, left); err != nil {
		return err
	}
	return p.end(ctx, s)
}

// succeedOne writes the manifest of a snapshot's successor, and takes the snapshot from the list.
func (p *purge) succeedOne(ctx context.Context, s *purgeStore, snap *oneSnapshot, id string) error {
	m, digest, err := s.repo.manifest(ctx, snap.id, p.c.Identities)
	if err != nil {
		return err
	}
	if digest != snap.digest {
		return integrity(fmt.Errorf("the manifest of %s is not the one that was read before", snap.id))
	}
	if err := p.rewrite(ctx, snap, m); err != nil {
		return err
	}
	alive, err := s.repo.alive(ctx, func(msg string) { p.warn("%s", msg) })
	if err != nil {
		return err
	}
	m.Supersedes = append([]archive.SnapshotRef{{ID: snap.id, Digest: snap.digest}}, m.Supersedes...)
	m.Alive = slices.DeleteFunc(alive, func(ref archive.SnapshotRef) bool {
		return slices.ContainsFunc(m.Replaces(), func(old archive.SnapshotRef) bool { return old.ID == ref.ID })
	})
	m.ID, m.Ledger, m.Rules.Erased = id, p.head(snap), p.erasedBy(snap)
	m.Erasure = int64(max(int(m.Erasure), p.stored.honoured(m.Ledger)))
	data, _, err := archive.RewriteManifest(m)
	if err != nil {
		return err
	}
	if err := s.repo.commit(ctx, s.lease, p.c.Signer, id, data); err != nil {
		return err
	}
	return s.repo.retire(ctx, snap.id, s.lease)
}

// rewrite puts the successors of pieces into a manifest.
func (p *purge) rewrite(ctx context.Context, snap *oneSnapshot, m *archive.Manifest) error {
	effects := map[string]rowCounts{}
	for key, counts := range p.changes.effects {
		if key.snapshot == snap {
			sum := effects[key.table.String()]
			sum.join(*counts)
			effects[key.table.String()] = sum
		}
	}
	for i := range m.Parts {
		part := &m.Parts[i]
		switch part.Kind {
		case archive.Table:
			if err := p.rewriteTable(ctx, snap, part, effects[partName(*part).String()]); err != nil {
				return fmt.Errorf("table %s: %w", part.Name, err)
			}
		case archive.LargeObjects:
			if left, ok := p.los[snap]; ok {
				part.Objects = left.objects
				part.Dropped += left.gone
			}
		}
	}
	return nil
}

func (p *purge) rewriteTable(ctx context.Context, snap *oneSnapshot, part *archive.Part, counts rowCounts) error {
	if counts.rows() == 0 {
		return nil
	}
	objects := []archive.Object{}
	rows := int64(0)
	filters := refiltering{purge: p, snap: snap, old: part.Filters}
	for _, o := range part.Objects {
		id, err := idOf(o.Object)
		if err != nil {
			return err
		}
		piece := p.stored.byObject[id]
		if piece == nil {
			return integrity(fmt.Errorf("object %s was not in the manifest that was read before", o.Object))
		}
		u := piece.uses[slices.IndexFunc(piece.uses, func(u *storedUse) bool { return u.world == snap.world })]
		next := successor{}
		if places := p.places[u]; places != nil {
			next = places[slices.Index(u.in, snap.number)]
		}
		if next.object.Object != "" {
			next.object.Range = o.Range
			o = next.object
		}
		filters.add(o, u, next)
		if !next.gone {
			objects = append(objects, o)
			rows += o.Rows
		}
	}
	var err error
	if part.Filters, err = filters.end(ctx); err != nil {
		return err
	}
	part.Objects = objects
	part.Dropped += part.Rows - rows
	part.Redacted += counts.Redacted
	part.Cleared += counts.Cleared
	part.Rows = rows
	return nil
}

// sweep deletes the objects that no snapshot names, whatever left them: what a successor has replaced, what an interrupted
// run put, what expired. All of it may hold people that have to go, and the lease keeps out whoever may still need it.
func (p *purge) sweep(ctx context.Context, s *purgeStore, left []string) error {
	named, err := s.named(ctx, left, p.c.Identities)
	if err != nil {
		return err
	}
	unnamed := map[objectID]int64{}
	err = s.repo.Store.List(ctx, archive.ObjectsPrefix, func(i store.Info) error {
		object, ok := archive.ObjectOf(i.Name)
		if !ok {
			return nil
		}
		id, err := idOf(object)
		if _, in := named[id]; err == nil && !in {
			unnamed[id] = i.Size
		}
		return err
	})
	if err != nil {
		return err
	}
	notes, err := s.notes(ctx, left)
	if err != nil {
		return err
	}
	if err := s.nothingNew(ctx, left); err != nil { // with the old manifests gone, and before the first object goes
		return err
	}
	err = deleteObjects(ctx, s.repo, s.lease, p.c.Workers, unnamed, func(_ objectID, size int64) {
		s.out.Deleted++
		s.out.Bytes += size
		if p.c.Progress != nil {
			p.c.Progress(Progress{Stage: "deleting objects", Bytes: s.out.Bytes})
		}
	})
	if err != nil {
		return err
	}
	for _, name := range notes {
		if err := s.repo.Store.Delete(ctx, name); err != nil {
			return err
		}
	}
	return s.sweepVersions(ctx)
}

// sweepVersions takes away for good what the store keeps of deleted files, also of those that went long ago.
func (s *purgeStore) sweepVersions(ctx context.Context) error {
	versioned, ok := s.repo.Store.(store.Versioned)
	if !ok {
		return nil
	}
	for _, prefix := range []string{archive.ObjectsPrefix, archive.SnapshotsPrefix, expiredPrefix} {
		if err := s.lease.stands(); err != nil {
			return err
		}
		gone, kept, err := versioned.DeleteOld(ctx, prefix)
		s.out.Versions += gone
		s.out.Kept = append(s.out.Kept, kept...)
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			s.out.Unknown = err.Error()
		}
	}
	return nil
}

// named is the objects that the listed snapshots name.
func (s *purgeStore) named(ctx context.Context, listed []string, ids *archive.Identities) (map[objectID]struct{}, error) {
	e := &expiry{named: map[objectID]struct{}{}}
	for _, id := range listed {
		m, _, err := s.repo.manifest(ctx, id, ids)
		if err == nil {
			err = e.take(m, true)
		}
		if err != nil {
			return nil, fail(err, "", "see which objects are still needed")
		}
	}
	return e.named, nil
}

// nothingNew makes sure that the store lists just these snapshots.
func (s *purgeStore) nothingNew(ctx context.Context, left []string) error {
	list, err := s.repo.Snapshots(ctx)
	if err != nil {
		return err
	}
	now := idsOf(list)
	slices.Sort(left)
	if !slices.Equal(now, left) {
		return &Error{Op: "delete objects", Err: &kind{fmt.Errorf("the store lists %d snapshots, and there should be %d: something writes here without a lease, or what was deleted is still listed",
			len(now), len(left)), ErrLocked}, Help: "run it again; no object was deleted"}
	}
	return nil
}

// notes lists the files in expired/, and the signatures of the manifests that they are of, in the order in which they go:
// a signature last, since what is there without its manifest is known as a stray.
func (s *purgeStore) notes(ctx context.Context, listed []string) (names []string, err error) {
	files := map[string]bool{}
	err = s.repo.Store.List(ctx, expiredPrefix, func(i store.Info) error { files[strings.TrimPrefix(i.Name, expiredPrefix)] = true; return nil })
	if err != nil {
		return nil, fmt.Errorf("list what earlier runs left: %w", err)
	}
	for file := range files {
		id := strings.TrimSuffix(strings.TrimSuffix(file, archive.SignatureSuffix), ".age")
		if !archive.ValidSnapshotID(id) {
			continue
		}
		if !slices.Contains(listed, id) {
			// A list that leaves out a snapshot which is there must not cost it its objects.
			if err := s.repo.reallyGone(ctx, id); err != nil {
				return nil, err
			}
			names = append(names, archive.ManifestName(id)+archive.SignatureSuffix)
		}
		names = append(names, expiredName(id), expiredName(id)+archive.SignatureSuffix)
	}
	slices.SortFunc(names, func(a, b string) int {
		aSig, bSig := strings.HasSuffix(a, archive.SignatureSuffix), strings.HasSuffix(b, archive.SignatureSuffix)
		if aSig != bSig {
			if aSig {
				return 1
			}
			return -1
		}
		return strings.Compare(a, b)
	})
	return slices.Compact(names), nil
}
