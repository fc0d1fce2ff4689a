package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
)

// placed is where a piece is kept in one store: the object, its size, and the bytes of text in it. The zero placed is
// nowhere.
type placed struct {
	object objectID
	size   int64
	text   int64
}

// pieceKey is the first half of a piece id: 128 bits of a keyed hash tell the pieces of all snapshots apart, and the
// sets of them are large.
type pieceKey [16]byte

func keyOf(id archive.PieceID) pieceKey { return pieceKey(id[:16]) }

// inventory is what one store already holds of the pieces that a run may come to: those that the newest committed
// manifest pairs with objects, those that an interrupted run put, and those of this run. An object is relied upon only
// while the store lists it with the size that it was put with.
type inventory struct {
	mu     sync.Mutex
	pieces map[pieceKey]holding
}

type holding struct {
	placed
	reused bool // this run's snapshot will name it, and has not put it
}

func newInventory() *inventory { return &inventory{pieces: map[pieceKey]holding{}} }

// reuse returns where the store keeps a piece, and remembers that the snapshot will rely on it.
func (v *inventory) reuse(id archive.PieceID) (placed, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	h, ok := v.pieces[keyOf(id)]
	if ok && !h.reused {
		h.reused = true
		v.pieces[keyOf(id)] = h
	}
	return h.placed, ok
}

// add notes a piece that this run has put.
func (v *inventory) add(id archive.PieceID, at placed) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pieces[keyOf(id)] = holding{placed: at}
}

// expect notes a piece that the store should hold.
func (v *inventory) expect(id archive.PieceID, at placed) { v.pieces[keyOf(id)] = holding{placed: at} }

// expectAll notes the pieces that a manifest names.
func (v *inventory) expectAll(m *archive.Manifest) error {
	for i := range m.Parts {
		for _, objects := range [][]archive.Object{m.Parts[i].Objects, m.Parts[i].Filters} {
			for _, o := range objects {
				object, err := idOf(o.Object)
				if err != nil {
					return err
				}
				piece, err := archive.ParsePieceID(o.Piece)
				if err != nil {
					return err
				}
				v.expect(piece, placed{object, o.Size, o.Text})
			}
		}
	}
	return nil
}

// there returns the objects that the store lists, of those in want, with the sizes that they should have.
func there(ctx context.Context, s store.Store, want map[objectID]int64) (map[objectID]struct{}, error) {
	found := make(map[objectID]struct{}, len(want))
	if len(want) == 0 {
		return found, nil
	}
	err := s.List(ctx, archive.ObjectsPrefix, func(i store.Info) error {
		name, ok := archive.ObjectOf(i.Name)
		if !ok {
			return nil
		}
		id, err := idOf(name)
		if err != nil {
			return err
		}
		if size, wanted := want[id]; wanted && size == i.Size {
			found[id] = struct{}{}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up the objects to be used again: %w", err)
	}
	return found, nil
}

// keepWhatIsThere drops the pieces whose objects the store does not list, or with another size: they are sent anew.
func (v *inventory) keepWhatIsThere(ctx context.Context, s store.Store) error {
	want := make(map[objectID]int64, len(v.pieces))
	for _, h := range v.pieces {
		want[h.object] = h.size
	}
	found, err := there(ctx, s, want)
	if err != nil {
		return err
	}
	for key, h := range v.pieces {
		if _, ok := found[h.object]; !ok {
			delete(v.pieces, key)
		}
	}
	return nil
}

// errVanished: an object that the run relied upon is not there any more. Another attempt sends its piece.
var errVanished = errors.New("an object that was to be used again has vanished or changed its size meanwhile")

// lookAgain makes sure, right before the commit, that every object which the snapshot relies on without having put it
// is still there.
func (v *inventory) lookAgain(ctx context.Context, s store.Store) error {
	want := map[objectID]int64{}
	for _, h := range v.pieces {
		if h.reused {
			want[h.object] = h.size
		}
	}
	found, err := there(ctx, s, want)
	if err != nil {
		return err
	}
	if gone := len(want) - len(found); gone > 0 {
		return &Error{Op: fmt.Sprintf("look up %d objects to be used again in %s", len(want), s), Err: fmt.Errorf("%w (%d of them)", errVanished, gone),
			Help: "something else deletes files there (a lifecycle rule, another program): it must leave objects/ alone"}
	}
	return nil
}

// survey finds out, store by store, what the newest snapshot looks like and which pieces are there already. What the
// store's state makes impossible is refused; a manifest that can't be read costs the reuse, not the backup.
func (c BackupConfig) survey(ctx context.Context, stores []*openStore) error {
	left := 0
	for _, s := range stores {
		if errors.Is(s.err, errVanished) {
			s.err = nil // this attempt looks for itself
		}
		if s.err != nil {
			continue
		}
		err := c.surveyOne(ctx, s)
		switch {
		case errors.Is(err, ErrConfig) || ctx.Err() != nil && err != nil:
			return err
		case err != nil:
			s.err = err
		default:
			left++
		}
	}
	if left == 0 {
		return noStore(stores)
	}
	return nil
}

func (c BackupConfig) surveyOne(ctx context.Context, s *openStore) error {
	s.journal.close() // an earlier attempt's
	s.newest, s.head, s.has = nil, nil, newInventory()
	list, err := s.repo.Snapshots(ctx)
	if err != nil {
		return err
	}
	if len(list) > 0 {
		m, err := s.repo.Manifest(ctx, list[len(list)-1].ID, c.Operator.Identities())
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil: // a damaged or foreign newest manifest must not stop new snapshots from being taken
			c.warn(fmt.Sprintf("can't compare with the newest snapshot: %v; so everything is sent again", err))
		case m.Dataset != c.Rules.Dataset: // "latest" would mean now one, now the other
			return fail(configuration(fmt.Errorf("%s holds snapshots of dataset %s", s.s, m.Dataset)),
				"give each dataset a directory of its own, and lethe init there", "")
		default:
			s.newest, s.head = tablesOf(m), m.Ledger
			if c.Full {
				break
			}
			if err := s.has.expectAll(m); err != nil {
				return err
			}
		}
	}
	if s.journal, err = openJournal(c.State, s.repo.ID, s.s.String(), c.Operator.PieceID); err != nil {
		c.warn(fmt.Sprintf("what this run sends will be sent again if it is interrupted: %v", err))
	}
	if !c.Full {
		s.journal.each(s.has.expect)
	}
	if err := s.has.keepWhatIsThere(ctx, s.s); err != nil {
		return err
	}
	return nil
}
