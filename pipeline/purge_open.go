package pipeline

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
)

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
		if first := p.stores[0].repo; repo.ID != first.ID {
			return otherRepository(repo, first)
		}
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
	requests, err := p.selected()
	if err != nil {
		return err
	}
	today, err := todaysRules(newest, p.c.Rules, requests)
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
			if p.c.Signer != nil && signer == p.c.Signer.Public() && len(m.Resealed) == 0 {
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
	p.newest, p.report.Ledger = newest, p.ledger.Head()
	p.newest.Parts = nil
	p.report.Plan = &PurgePlan{Rules: newest.ID, Requests: []PlannedErasure{}, Tables: []TableErasure{}, Beyond: []string{}, Recipients: []string{}, Remarks: []string{}}
	return nil
}

// remember notes the objects of a manifest that this key holder has signed, so that a text which was sealed by a run that
// was interrupted is not sealed again. What it says of them is looked into before it counts.
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
