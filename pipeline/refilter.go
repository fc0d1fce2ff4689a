package pipeline

import (
	"context"

	"lethe/pipeline/archive"
	"lethe/scrub"
	"lethe/scrub/copytext"
)

// filterMakers make what filters will know of pieces that are written anew. They belong to one worker.
type filterMakers struct {
	purge   *purge
	opener  *archive.Opener
	builder archive.FilterBuilder
	last    *storedFilter // read last: pieces come in the order in which filters cover them
	refs    []archive.FilterReference
	indexes map[string]filterIndex // by the table's header
}

// filterIndex collects keys for the references of some filters.
type filterIndex struct {
	refs  []archive.FilterReference
	index *scrub.Indexer // nil where the rows have no such keys
}

func (p *purge) newFilterMakers() (*filterMakers, error) {
	opener, err := archive.NewOpener(p.c.Identities)
	return &filterMakers{purge: p, opener: opener, indexes: map[string]filterIndex{}}, err
}

// of fills in what a filter will know of next, whose text is given: for the references of the filter that covers the piece
// whose place it takes.
func (m *filterMakers) of(ctx context.Context, u *storedUse, text []byte, next *successor) (err error) {
	if u.filter == nil {
		return nil
	}
	if m.last != u.filter {
		f, err := m.purge.stored.readFilter(ctx, m.opener, u.filter)
		if err != nil {
			return err
		}
		m.last, m.refs = u.filter, f.References()
	}
	at := m.indexes[u.piece.header]
	if !archive.SameReferences(at.refs, m.refs) {
		at = filterIndex{refs: m.refs}
		if at.index, err = scrub.NewIndexer(u.table, scrubReferences(m.refs), u.columns, m.purge.stored.seed); err != nil {
			return err
		}
		m.indexes[u.piece.header] = at
	}
	if at.index == nil {
		return nil
	}
	rows, err := copytext.Body(text, u.piece.header)
	if err != nil {
		return err
	}
	for len(rows) > 0 {
		var row []byte
		row, rows = copytext.NextRow(rows)
		at.index.Add(row)
	}
	keys := at.index.Take()
	f := archive.FilterPiece{Budget: archive.FilterBudget(next.object.Size), Keys: make([]archive.FilterKeys, len(keys))}
	if f.Piece, err = archive.ParsePieceID(next.object.Piece); err != nil {
		return err
	}
	for i, k := range keys {
		f.Keys[i] = archive.FilterKeys(k)
	}
	m.builder.Condense(&f)
	next.filter, next.refs = f, at.refs
	return nil
}

// scrubReferences are references of a filter as scrub takes them; none where one is of no family.
func scrubReferences(refs []archive.FilterReference) (list []scrub.Reference) {
	for _, r := range refs {
		out := scrub.Reference{Columns: r.Columns, Path: r.Path}
		for _, name := range r.Families {
			f, ok := scrub.ParseFamily(name)
			if !ok {
				return nil
			}
			out.Families = append(out.Families, f)
		}
		list = append(list, out)
	}
	return list
}

// refiltering makes the filters of a table's part whose pieces have changed: as a backup of these very pieces would have
// made them. What covers no changed piece stays. A filter of pieces that are gone goes: it knows something of their keys.
type refiltering struct {
	purge  *purge
	snap   *oneSnapshot
	old    []archive.Object
	ranges []*refilteredRange
}

// refilteredRange is the pieces of one block range, in their order.
type refilteredRange struct {
	number  int
	pieces  []refiltered
	changed bool
}

type refiltered struct {
	object archive.Object
	use    *storedUse // of the piece that was there before
	next   successor
}

// add takes the next piece of the part, or where one was.
func (r *refiltering) add(o archive.Object, u *storedUse, next successor) {
	if n := len(r.ranges); n == 0 || r.ranges[n-1].number != o.Range {
		r.ranges = append(r.ranges, &refilteredRange{number: o.Range})
	}
	last := r.ranges[len(r.ranges)-1]
	last.changed = last.changed || next.gone || next.object.Object != ""
	if !next.gone {
		last.pieces = append(last.pieces, refiltered{o, u, next})
	}
}

// end returns the part's filters.
func (r *refiltering) end(ctx context.Context) (filters []archive.Object, err error) {
	for _, rng := range r.ranges {
		if rng.changed {
			more, err := r.refilter(ctx, rng)
			if err != nil {
				return nil, err
			}
			filters = append(filters, more...)
			continue
		}
		for _, o := range r.old {
			if o.Range == rng.number {
				filters = append(filters, o)
			}
		}
	}
	return filters, nil
}

// refilter makes the filters of a range.
func (r *refiltering) refilter(ctx context.Context, rng *refilteredRange) (filters []archive.Object, err error) {
	read := filterReader{stored: r.purge.stored, read: map[*storedFilter]*archive.Filter{}}
	if read.opener, err = archive.NewOpener(r.purge.c.Identities); err != nil {
		return nil, err
	}
	refs, err := read.references(ctx, rng)
	if err != nil || refs == nil {
		return nil, err
	}
	byID := map[string]archive.Object{}
	for _, o := range r.old {
		byID[o.Piece] = o
	}
	sealers := r.purge.newSealers()
	own, err := sealers.in(r.snap.world)
	if err != nil {
		return nil, err
	}
	var builder archive.FilterBuilder
	var group []refiltered
	var ids []archive.PieceID
	var size int64
	for i, p := range rng.pieces {
		piece, err := archive.ParsePieceID(p.object.Piece)
		if err != nil {
			return nil, err
		}
		group, ids = append(group, p), append(ids, piece)
		size += p.object.Size
		if !archive.FilterEnds(piece, len(group)) && i < len(rng.pieces)-1 {
			continue
		}
		if size >= archive.FilterLeast {
			id, err := archive.FilterID(own.pieces, refs, ids)
			if err != nil {
				return nil, err
			}
			o, there := byID[id.String()]
			if !there {
				text := func() ([]byte, error) {
					covered, err := read.covered(ctx, refs, group, ids)
					if err != nil {
						return nil, err
					}
					return builder.Build(refs, covered)
				}
				if o, err = sealers.sealAs(ctx, own, id, text, false, []*Repository{r.snap.repo}); err != nil {
					return nil, err
				}
			}
			o.Rows, o.Range = 0, rng.number
			filters = append(filters, o)
		}
		group, ids, size = nil, nil, 0
	}
	return filters, nil
}

// filterReader reads filters that were there before, each once.
type filterReader struct {
	stored *stored
	opener *archive.Opener
	read   map[*storedFilter]*archive.Filter
}

func (r *filterReader) of(ctx context.Context, f *storedFilter) (*archive.Filter, error) {
	if r.read[f] == nil {
		filter, err := r.stored.readFilter(ctx, r.opener, f)
		if err != nil {
			return nil, err
		}
		r.read[f] = filter
	}
	return r.read[f], nil
}

// references are those of the filters that the range has had; nil where it had none.
func (r *filterReader) references(ctx context.Context, rng *refilteredRange) ([]archive.FilterReference, error) {
	for _, p := range rng.pieces {
		if p.next.refs != nil {
			return p.next.refs, nil
		}
	}
	for _, p := range rng.pieces {
		if p.use.filter != nil {
			f, err := r.of(ctx, p.use.filter)
			if err != nil {
				return nil, err
			}
			return f.References(), nil
		}
	}
	return nil, nil
}

// covered is what a filter of these references knows of its pieces: nothing of one that had no such filter.
func (r *filterReader) covered(ctx context.Context, refs []archive.FilterReference, group []refiltered, ids []archive.PieceID) ([]archive.FilterPiece, error) {
	list := make([]archive.FilterPiece, len(group))
	for i, p := range group {
		list[i] = archive.FilterPiece{Piece: ids[i], Keys: make([]archive.FilterKeys, len(refs))}
		if p.next.refs != nil && archive.SameReferences(p.next.refs, refs) {
			list[i] = p.next.filter
			continue
		}
		if p.next.object.Object != "" || p.use.filter == nil {
			continue
		}
		f, err := r.of(ctx, p.use.filter)
		if err != nil {
			return nil, err
		}
		if known, ok := f.Piece(p.object.Piece); ok && archive.SameReferences(f.References(), refs) {
			list[i] = known
		}
	}
	return list, nil
}
