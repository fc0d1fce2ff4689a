package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
)

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
	known  bool // from a manifest: whether it is still there, and is what that says, is to be seen
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
	purge  *purge
	of     map[*storedWorld]*worldSealer
	opener *archive.Opener // of the key holder's, made when it is needed
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
	return s.sealAs(ctx, own, own.pieces.ID(text), func() ([]byte, error) { return text, nil }, true, repos)
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

// sealAs is seal for a text with this id, which is made when it is needed. exact says that the id is that text's own; that of
// a filter is of the pieces that it covers, and what filters say is believed until somebody verifies.
func (s *sealers) sealAs(ctx context.Context, own *worldSealer, id archive.PieceID, text func() ([]byte, error), exact bool, repos []*Repository) (archive.Object, error) {
	s.purge.mu.Lock()
	piece := s.purge.sealed[id]
	if piece == nil {
		piece = &sealedPiece{}
		s.purge.sealed[id] = piece
	}
	s.purge.mu.Unlock()
	piece.mu.Lock()
	defer piece.mu.Unlock()
	if piece.known {
		if err := s.look(ctx, piece, text, exact); err != nil {
			return archive.Object{}, err
		}
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
// some store has lost is sealed anew, under another name. And so is what holds another text: a manifest that a key holder
// has signed has taken over from the operator's what it says of pieces that did not change, and whoever stole the
// operator's key could have it say that an object which holds the person is the one without.
func (s *sealers) look(ctx context.Context, piece *sealedPiece, text func() ([]byte, error), exact bool) error {
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
	if !exact {
		return nil
	}
	plain, err := text()
	if err != nil {
		return err
	}
	if s.opener == nil {
		if s.opener, err = archive.NewOpener(s.purge.c.Identities); err != nil {
			return err
		}
	}
	data, err := piece.in[0].Object(ctx, piece.object)
	if err != nil {
		return err
	}
	s.purge.stored.fetched.Add(int64(len(data)))
	if held, err := s.opener.Open(data, piece.object); err != nil || !bytes.Equal(held, plain) {
		piece.in = nil
	}
	return nil
}

// objectsLeft is the large objects of a snapshot that lost some.
type objectsLeft struct {
	objects []archive.Object
	gone    int64
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
