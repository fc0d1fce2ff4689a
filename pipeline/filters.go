package pipeline

import (
	"sync"

	"lethe/pipeline/archive"
	"lethe/scrub"
)

// filtering makes the filters of one block range of one table while its pieces are sealed, in whatever order that
// happens. Where a filter ends is up to the pieces, in theirs.
type filtering struct {
	refs []archive.FilterReference
	part *part
	rng  int

	mu     sync.Mutex
	early  map[int]filterPart // sealed, and before them comes one that is not
	next   int                // the piece whose turn it is
	last   int                // how many pieces the range has, once that is known; else -1
	group  []archive.FilterPiece
	stored int64 // bytes of the group's pieces
}

type filterPart struct {
	archive.FilterPiece
	stored int64
}

// filterGroup is what one filter covers.
type filterGroup struct {
	pieces []archive.FilterPiece
	into   *piece
}

func newFiltering(refs []scrub.Reference, p *part, rng int) *filtering {
	f := &filtering{part: p, rng: rng, early: map[int]filterPart{}, last: -1}
	for _, r := range refs {
		f.refs = append(f.refs, filterReference(r))
	}
	return f
}

// filterReference is a reference as filters write it.
func filterReference(r scrub.Reference) archive.FilterReference {
	out := archive.FilterReference{Columns: r.Columns, Path: r.Path}
	for _, f := range r.Families {
		out.Families = append(out.Families, f.String())
	}
	return out
}

// sealed takes the range's nth piece, whose object has so many bytes, and returns what has become complete by it.
func (f *filtering) sealed(nth int, p archive.FilterPiece, stored int64) []filterGroup {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.early[nth] = filterPart{p, stored}
	return f.advance()
}

// end says how many pieces the range has.
func (f *filtering) end(pieces int) []filterGroup {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = pieces
	return f.advance()
}

func (f *filtering) advance() (complete []filterGroup) {
	for {
		p, ok := f.early[f.next]
		if !ok {
			break
		}
		delete(f.early, f.next)
		f.next++
		f.group = append(f.group, p.FilterPiece)
		f.stored += p.stored
		if archive.FilterEnds(p.Piece, len(f.group)) {
			complete = f.complete(complete)
		}
	}
	if f.next == f.last && len(f.group) > 0 {
		complete = f.complete(complete)
	}
	return complete
}

// complete ends the group. Where it is too small to be worth a filter, it gets none.
func (f *filtering) complete(list []filterGroup) []filterGroup {
	g := filterGroup{pieces: f.group}
	if f.stored >= archive.FilterLeast {
		g.into = &piece{}
		f.part.filters[f.rng] = append(f.part.filters[f.rng], g.into)
	}
	f.group, f.stored = nil, 0
	return append(list, g)
}

// filterPiece is what a filter will know of a piece. A piece that is new makes its filter new, so its keys are condensed
// at once; for the others it may well turn out that the filter is stored already, so that waits while there is room.
func (w *writer) filterPiece(s *sealer, id archive.PieceID, keys []scrub.PieceKeys, stored int64, anew bool) archive.FilterPiece {
	p := archive.FilterPiece{Piece: id, Budget: archive.FilterBudget(stored), Keys: make([]archive.FilterKeys, len(keys))}
	for i, k := range keys {
		p.Keys[i] = archive.FilterKeys(k)
	}
	full := func() bool { return w.keys.Load()+int64(p.Held()) > w.mostKeys }
	if !anew && full() {
		s.filters.Distinct(&p)
	}
	if anew || full() {
		s.filters.Condense(&p)
	}
	w.keys.Add(int64(p.Held()))
	return p
}

// sealFilters stores the filters of groups that have become complete, unless every store holds them already.
func (w *writer) sealFilters(s *sealer, f *filtering, groups []filterGroup) error {
	for _, g := range groups {
		for i := range g.pieces {
			w.keys.Add(-int64(g.pieces[i].Held()))
		}
		if g.into == nil {
			continue
		}
		ids := make([]archive.PieceID, len(g.pieces))
		for i := range g.pieces {
			ids[i] = g.pieces[i].Piece
		}
		var err error
		if g.into.id, err = archive.FilterID(s.pieces, f.refs, ids); err != nil {
			return err
		}
		g.into.in = make([]placed, len(w.stores))
		if !w.missing(g.into) {
			continue
		}
		text, err := s.filters.Build(f.refs, g.pieces)
		if err != nil {
			return err
		}
		if _, err := w.sealAnew(s, job{text: text, into: g.into}); err != nil {
			return err
		}
	}
	return nil
}
