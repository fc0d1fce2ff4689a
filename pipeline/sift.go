package pipeline

import (
	"context"
	"slices"
	"sync"

	"lethe/pipeline/archive"
	"lethe/scrub"
	"lethe/scrub/catalog"
)

// storedFilter is an object that says which keys some pieces may hold.
type storedFilter struct {
	object archive.Object
	repos  []*Repository
	of     []worldTable
}

// addFilter notes a filter that some snapshot has.
func (s *stored) addFilter(snap *oneSnapshot, table catalog.Name, o archive.Object) error {
	id, err := idOf(o.Object)
	if err != nil {
		return err
	}
	f := s.filters[id]
	if f == nil {
		f = &storedFilter{object: o}
		s.filters[id] = f
	}
	if !slices.Contains(f.repos, snap.repo) {
		f.repos = append(f.repos, snap.repo)
	}
	if at := (worldTable{snap.world, table}); !slices.Contains(f.of, at) {
		f.of = append(f.of, at)
		snap.world.filters[table] = append(snap.world.filters[table], f)
	}
	return nil
}

// readFilter fetches and reads a filter.
func (s *stored) readFilter(ctx context.Context, opener *archive.Opener, f *storedFilter) (*archive.Filter, error) {
	data, err := s.fetch(ctx, f.object, f.repos)
	if err != nil {
		return nil, err
	}
	text, err := opener.Open(data, f.object)
	if err != nil {
		return nil, err
	}
	return archive.ParseFilter(text)
}

// siftQuestion is a question as filters take it.
type siftQuestion struct {
	ref  archive.FilterReference
	keys []archive.FilterKey
}

// sift takes the pieces out of those that are wanted of which filters say that they answer no question. A piece that no
// filter covers, for all that is asked, stays; so do the pieces of a filter that can't be read.
func (s *stored) sift(ctx context.Context, wanted wantedPieces) error {
	if s.unfiltered {
		return nil
	}
	type work struct {
		worldTable
		filter *storedFilter
	}
	var list []work
	questions := map[worldTable][]siftQuestion{}
	for at, asked := range wanted.asked {
		questions[at] = s.siftQuestions(asked)
		for _, f := range at.world.filters[at.table] {
			list = append(list, work{at, f})
		}
	}
	var mu sync.Mutex
	out := map[*storedUse]bool{}
	err := each(ctx, list, s.workers, func() (func(context.Context, work) error, error) {
		opener, err := archive.NewOpener(s.identities)
		return func(ctx context.Context, w work) error {
			f, err := s.readFilter(ctx, opener, w.filter)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				s.unread.Add(1)
				return nil
			}
			for _, piece := range f.Pieces() {
				uses := w.world.byPiece[piece]
				if len(uses) == 0 {
					continue
				}
				no := rulesOut(f, piece, questions[w.worldTable])
				mu.Lock()
				for _, u := range uses {
					u.filter = w.filter
					out[u] = out[u] || no && u.table == w.table
				}
				mu.Unlock()
			}
			return nil
		}, err
	})
	for p, uses := range wanted.uses {
		wanted.uses[p] = slices.DeleteFunc(uses, func(u *storedUse) bool { return out[u] && wanted.asked[worldTable{u.world, u.table}] != nil })
	}
	return err
}

func (s *stored) siftQuestions(asked []scrub.Question) (list []siftQuestion) {
	for i := range asked {
		ref := asked[i].Reference()
		q := siftQuestion{ref: filterReference(ref)}
		for _, key := range asked[i].Keys {
			q.keys = append(q.keys, archive.FilterKey(ref.Key(s.seed, key)))
		}
		list = append(list, q)
	}
	return list
}

// rulesOut says whether a filter is certain that a piece answers none of the questions.
func rulesOut(f *archive.Filter, piece string, questions []siftQuestion) bool {
	for _, q := range questions {
		ref, ok := f.Reference(q.ref)
		if !ok {
			return false
		}
		for _, key := range q.keys {
			if maybe, _ := f.Maybe(piece, ref, key); maybe {
				return false
			}
		}
	}
	return true
}
