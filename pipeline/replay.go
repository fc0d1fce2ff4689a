package pipeline

import (
	"context"
	"fmt"

	"lethe/pipeline/archive"
	"lethe/scrub/copytext"
)

// replay takes people out of a snapshot while it is restored, whom requests are about that came after it. It always
// follows references through the whole snapshot, whatever part of it is restored.
type replay struct {
	requests []erasure // that the snapshot does not honour
	stored   *stored
	snap     *oneSnapshot
	changes  *changes
}

// newReplay finds what the requests change that a snapshot does not honour, by the rules of the repository's newest
// snapshot. It is nil where there are none.
func newReplay(ctx context.Context, repo *Repository, m *archive.Manifest, digest string, requests []erasure, c *RestoreConfig) (*replay, error) {
	r := &replay{requests: requests}
	if len(r.requests) == 0 {
		return nil, nil
	}
	keys, err := repo.keys(ctx, c.Identities)
	if err != nil {
		return nil, err
	}
	newest, _, err := repo.newest(ctx, c.Identities)
	if err != nil {
		return nil, err
	}
	if newest == nil {
		newest = m
	}
	today, err := todaysRules(newest, c.Rules, requests)
	if err != nil {
		return nil, err
	}
	r.stored = newStored(c.Identities, keys, today, nil, r.requests, c.Workers)
	defer r.stored.close()
	r.stored.fallback, r.stored.progress, r.stored.everybody = c.Rules, c.Progress, true // of those that are new to it
	if r.stored.now, err = r.stored.schema(ctx, repo, newest.Parts); err != nil {
		return nil, err
	}
	if r.snap, err = r.stored.add(ctx, repo, m, digest); err != nil {
		return nil, err
	}
	if err := r.stored.follow(ctx); err != nil {
		return nil, err
	}
	r.changes, err = r.stored.changes(ctx)
	return r, err
}

// rows returns what is left of an object's rows, and how many have gone.
func (r *replay) rows(w *rewriter, o archive.Object, rows []byte) (left []byte, dropped int64, err error) {
	if r == nil {
		return rows, 0, nil
	}
	id, err := idOf(o.Object)
	if err != nil {
		return nil, 0, err
	}
	piece := r.stored.byObject[id]
	if piece == nil || !r.changes.uses[piece.uses[0]] {
		return rows, 0, nil
	}
	list, err := w.variants(piece.uses[0], rows, nil) // there is one world
	if err != nil {
		return nil, 0, err
	}
	return list[0].appendRows(nil), list[0].dropped, nil // and one snapshot
}

// text is rows for an object's whole text; nil where no row is left.
func (r *replay) text(w *rewriter, o archive.Object, text []byte, header string) ([]byte, int64, error) {
	if r == nil {
		return text, 0, nil
	}
	rows, err := copytext.Body(text, header)
	if err != nil {
		return nil, 0, integrity(fmt.Errorf("object %s: %w", o.Object, err))
	}
	left, dropped, err := r.rows(w, o, rows)
	switch {
	case err != nil || len(left) == 0:
		return nil, dropped, err
	case dropped == 0 && len(left) == len(rows) && &left[0] == &rows[0]:
		return text, 0, nil
	}
	return append(append([]byte(header), left...), copytext.Terminator...), dropped, nil
}

// largeObjects returns what takes the large objects out that go.
func (r *replay) largeObjects() *objectFilter {
	if r == nil || r.changes.lost[r.snap] == nil {
		return nil
	}
	return &objectFilter{lost: r.changes.lost[r.snap]}
}

// effects is what the replay changes, table by table.
func (r *replay) effects() []TableErasure {
	if r == nil {
		return []TableErasure{}
	}
	return r.changes.tables(func(effectKey) bool { return true })
}
