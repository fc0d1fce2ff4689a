package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
)

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
