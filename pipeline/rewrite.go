package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"lethe/pipeline/source"
	"lethe/scrub"
	"lethe/scrub/catalog"
	"lethe/scrub/copytext"
)

// rewriter finds out what each snapshot is to have in place of a piece's rows. It belongs to one worker.
type rewriter struct {
	verify bool // the rows should have been rewritten before
	tables map[storedTable]*tableRewriter
}

// tableRewriter is for the rows of one table in the snapshots of one world.
type tableRewriter struct {
	verify  bool
	world   *storedWorld
	table   catalog.Name
	columns []string
	near    *scrub.Scrubber   // says which rows are worth a look
	exact   []*scrub.Scrubber // by snapshot, made when first needed
}

// variant is what becomes of a piece in some of the snapshots that have it.
type variant struct {
	in      []int  // their numbers
	rows    []byte // the piece's
	hits    []hit  // those of its rows that erasing reaches in some snapshot, whether in these or in others
	out     []byte
	ends    []int // where in out the rows end that stand in place of the hits
	dropped int64
	same    bool // nothing changes
}

// hit is a row that erasing reaches in some snapshot, by its place in the piece.
type hit struct{ from, to int }

func newRewriter() *rewriter { return &rewriter{tables: map[storedTable]*tableRewriter{}} }

func (r *rewriter) of(u *storedUse) (*tableRewriter, error) {
	at := storedTable{u.world, u.piece.header}
	if r.tables[at] == nil {
		near, err := u.world.plan.Scrubber(u.table, u.columns, u.world.search.Keys(), u.world.search.Union())
		if err != nil {
			return nil, err
		}
		r.tables[at] = &tableRewriter{verify: r.verify, world: u.world, table: u.table, columns: u.columns, near: near, exact: make([]*scrub.Scrubber, len(u.world.snapshots))}
	}
	return r.tables[at], nil
}

func (t *tableRewriter) in(snapshot int) (_ *scrub.Scrubber, err error) {
	if t.exact[snapshot] == nil {
		if t.exact[snapshot], err = t.world.plan.Scrubber(t.table, t.columns, t.world.search.Keys(), t.world.search.Erased(snapshot)); err != nil {
			return nil, err
		}
		t.exact[snapshot].Verify = t.verify
	}
	return t.exact[snapshot], nil
}

// hits lists the rows that erasing reaches in some snapshot.
func (t *tableRewriter) hits(rows []byte) (hits []hit, err error) {
	for at := 0; at < len(rows); {
		row, _ := copytext.NextRow(rows[at:])
		reached, err := t.near.Reached(row)
		if err != nil {
			return nil, err
		}
		if reached {
			hits = append(hits, hit{at, at + len(row)})
		}
		at += len(row)
	}
	return hits, nil
}

// rewritten is what happened to one row in one snapshot.
type rewritten struct {
	snapshot int
	action   scrub.Action
	cause    scrub.Cause
	before   []byte
	after    []byte // empty where it was dropped
}

// variants decides about a piece's rows in each snapshot that has it, and joins those that come out alike: there is always
// one. Each row that changes is shown to tell, unless that is nil.
func (r *rewriter) variants(u *storedUse, rows []byte, tell func(rewritten)) (list []*variant, err error) {
	t, err := r.of(u)
	if err != nil {
		return nil, err
	}
	hits, err := t.hits(rows)
	if err != nil {
		return nil, err
	}
	if len(hits) == 0 {
		return []*variant{{in: u.in, rows: rows, same: true}}, nil
	}
	for _, n := range u.in {
		scrubber, err := t.in(n)
		if err != nil {
			return nil, err
		}
		v := &variant{in: []int{n}, rows: rows, hits: hits, same: true}
		for _, h := range hits {
			start := len(v.out)
			row := rows[h.from:h.to]
			out, action, err := scrubber.Append(v.out, row)
			if err != nil {
				return nil, err
			}
			v.out, v.ends = out, append(v.ends, len(out))
			if action == scrub.Passed {
				continue
			}
			v.same = false
			if action == scrub.Dropped {
				v.dropped++
			}
			if tell != nil {
				tell(rewritten{n, action, scrubber.Cause, row, out[start:]})
			}
		}
		i := slices.IndexFunc(list, func(o *variant) bool { return slices.Equal(o.ends, v.ends) && bytes.Equal(o.out, v.out) })
		if i < 0 {
			list = append(list, v)
		} else {
			list[i].in = append(list[i].in, n)
		}
	}
	return list, nil
}

// appendRows appends the piece's rows as a variant has them.
func (v *variant) appendRows(dst []byte) []byte {
	at, start := 0, 0
	for i, h := range v.hits {
		dst = append(dst, v.rows[at:h.from]...)
		dst = append(dst, v.out[start:v.ends[i]]...)
		at, start = h.to, v.ends[i]
	}
	return append(dst, v.rows[at:]...)
}

// pieceText makes an object's text of a piece's rows as a variant has them, in dst's memory where that suffices; nil where
// no row is left.
func (v *variant) pieceText(dst []byte, header string) []byte {
	dst = v.appendRows(append(dst[:0], header...))
	if len(dst) == len(header) {
		return nil
	}
	return append(dst, copytext.Terminator...)
}

// rowCounts is what erasing does to rows.
type rowCounts struct {
	Deleted  int64 `json:"deleted"`
	Redacted int64 `json:"redacted"`
	Cleared  int64 `json:"cleared"`
	Others   int64 `json:"others"` // of Deleted, rows that also belong to somebody who is not erased
}

func (c *rowCounts) add(action scrub.Action, cause scrub.Cause) {
	switch action {
	case scrub.Dropped:
		c.Deleted++
		if cause.Others {
			c.Others++
		}
	case scrub.Redacted:
		c.Redacted++
	case scrub.Cleared:
		c.Cleared++
	}
}

func (c *rowCounts) join(o rowCounts) {
	c.Deleted += o.Deleted
	c.Redacted += o.Redacted
	c.Cleared += o.Cleared
	c.Others += o.Others
}

// rows is how many rows are touched.
func (c rowCounts) rows() int64 { return c.Deleted + c.Redacted + c.Cleared }

// effectKey says whose rows are counted.
type effectKey struct {
	snapshot *oneSnapshot
	table    catalog.Name
	request  uint32 // index of the request
}

// changes is what erasing changes in the snapshots.
type changes struct {
	mu      sync.Mutex
	uses    map[*storedUse]bool // that change in some snapshot
	effects map[effectKey]*rowCounts
	lost    map[*oneSnapshot]map[uint32]struct{} // large objects that go

	defaulted map[defaultIn]scrub.DefaultRow // the rows that some reference was cut to
}

// defaultIn is a reference that ON DELETE SET DEFAULT has cut in a snapshot.
type defaultIn struct {
	snapshot *oneSnapshot
	edge     *scrub.Edge
}

// changes finds what erasing changes, once the references have been followed. It writes nothing.
func (s *stored) changes(ctx context.Context) (*changes, error) {
	c := &changes{uses: map[*storedUse]bool{}, effects: map[effectKey]*rowCounts{}, lost: map[*oneSnapshot]map[uint32]struct{}{}, defaulted: map[defaultIn]scrub.DefaultRow{}}
	wanted := newWanted()
	for _, w := range s.worlds {
		for table := range w.tables {
			wanted.add(w, table, w.search.Affecting(table), func(n int) bool { return !w.search.Erased(n).Empty() })
		}
	}
	if err := s.sift(ctx, wanted); err != nil {
		return nil, err
	}
	gone := lostNumbers{}
	err := s.read(ctx, s.only(wanted), "finding their rows", func() (func(*storedPiece, []byte) error, error) {
		r := newRewriter()
		return func(p *storedPiece, rows []byte) error {
			for _, u := range wanted.uses[p] {
				if _, err := r.variants(u, rows, c.counter(u, gone)); err != nil {
					return err
				}
			}
			return nil
		}, nil
	})
	if err != nil {
		return nil, err
	}
	if err := s.defaultsAreThere(ctx, c.defaulted); err != nil {
		return nil, err
	}
	return c, s.loseObjects(ctx, c, gone)
}

// defaultsAreThere makes sure that each row which a reference was cut to is there: else the snapshot could not be restored
// any more. It reads the tables that must have them, unless no reference was cut so.
func (s *stored) defaultsAreThere(ctx context.Context, missing map[defaultIn]scrub.DefaultRow) error {
	if len(missing) == 0 {
		return nil
	}
	wanted := newWanted()
	for _, w := range s.worlds {
		for table := range w.tables {
			wanted.all(w, table, func(n int) bool {
				for at, row := range missing {
					if at.snapshot == w.snapshots[n] && row.In(w.catalog.Tables[table]) {
						return true
					}
				}
				return false
			})
		}
	}
	var mu sync.Mutex
	err := s.readVariants(ctx, wanted, "finding the rows of defaults", func(u *storedUse, list []*variant) {
		mu.Lock()
		left := maps.Clone(missing)
		mu.Unlock()
		for at, row := range left {
			here := func(v *variant) bool {
				return slices.Contains(v.in, at.snapshot.number) && v.has(row.Referred(u.columns))
			}
			if at.snapshot.world == u.world && row.In(u.world.catalog.Tables[u.table]) && slices.ContainsFunc(list, here) {
				mu.Lock()
				delete(missing, at)
				mu.Unlock()
			}
		}
	})
	if err != nil { // then what was not read is not known to be missing
		return err
	}
	for at, row := range missing {
		return fail(configuration(fmt.Errorf("ON DELETE SET DEFAULT of %s would lead to a row of %s that snapshot %s does not have", row.Edge.From.Name, row.Edge.To.Name, at.snapshot.id)),
			"give the reference a verb in the rules, and take a backup: the newest snapshot's rules decide", "erase from stored rows")
	}
	return nil
}

// readVariants reads pieces, several at a time, and shows do what becomes of each for those who want it.
func (s *stored) readVariants(ctx context.Context, wanted wantedPieces, stage string, do func(u *storedUse, list []*variant)) error {
	return s.read(ctx, s.only(wanted), stage, func() (func(*storedPiece, []byte) error, error) {
		r := newRewriter()
		return func(p *storedPiece, rows []byte) error {
			for _, u := range wanted.uses[p] {
				list, err := r.variants(u, rows, nil)
				if err != nil {
					return err
				}
				do(u, list)
			}
			return nil
		}, nil
	})
}

// has says whether a row is among those that a variant leaves.
func (v *variant) has(row *scrub.RowFinder) bool {
	for left := v.appendRows(nil); len(left) > 0; {
		var next []byte
		if next, left = copytext.NextRow(left); row.Is(next) {
			return true
		}
	}
	return false
}

// counter counts what happens to the rows of one piece.
func (c *changes) counter(u *storedUse, gone lostNumbers) func(rewritten) {
	watch := newObjectWatch(objectColumns(&source.Relation{Name: u.table, Columns: u.columns}, u.world.catalog))
	defaults := u.world.plan.DefaultRows(u.table)
	refer := make([]*scrub.RowFinder, len(defaults))
	for i := range defaults {
		refer[i] = defaults[i].Referring(u.columns)
	}
	return func(r rewritten) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.uses[u] = true
		snap := u.world.snapshots[r.snapshot]
		for i, d := range defaults {
			if r.action != scrub.Dropped && refer[i].Is(r.after) && !refer[i].Is(r.before) {
				c.defaulted[defaultIn{snap, d.Edge}] = d
			}
		}
		key := effectKey{snap, u.table, r.cause.Request}
		if c.effects[key] == nil {
			c.effects[key] = &rowCounts{}
		}
		c.effects[key].add(r.action, r.cause)
		if watch != nil {
			gone.add(snap, watch.numbers(r.before, nil), watch.numbers(r.after, nil))
		}
	}
}

// lostNumbers is which numbers of large objects rows have lost, by snapshot.
type lostNumbers map[*oneSnapshot]map[uint32]struct{}

func (l lostNumbers) add(snap *oneSnapshot, before, after []uint32) {
	for _, n := range before {
		if !slices.Contains(after, n) {
			if l[snap] == nil {
				l[snap] = map[uint32]struct{}{}
			}
			l[snap][n] = struct{}{}
		}
	}
}

// loseObjects finds which large objects go: those that a row has lost and no row that stays has. It reads every row that
// may have one, unless no row has lost any.
func (s *stored) loseObjects(ctx context.Context, c *changes, gone lostNumbers) error {
	if len(gone) == 0 {
		return nil
	}
	wanted := newWanted()
	for _, w := range s.worlds {
		for table, uses := range w.tables {
			if len(objectColumns(&source.Relation{Name: table, Columns: uses[0].columns}, w.catalog)) > 0 {
				wanted.all(w, table, func(n int) bool { return gone[w.snapshots[n]] != nil })
			}
		}
	}
	var mu sync.Mutex
	err := s.readVariants(ctx, wanted, "finding large objects", func(u *storedUse, list []*variant) {
		watch := newObjectWatch(objectColumns(&source.Relation{Name: u.table, Columns: u.columns}, u.world.catalog))
		for _, v := range list {
			var kept []uint32
			for left := v.appendRows(nil); len(left) > 0; {
				var row []byte
				row, left = copytext.NextRow(left)
				kept = watch.numbers(row, kept)
			}
			mu.Lock()
			for _, snapshot := range v.in {
				for _, n := range kept {
					delete(gone[u.world.snapshots[snapshot]], n)
				}
			}
			mu.Unlock()
		}
	})
	for snap, numbers := range gone {
		if len(numbers) > 0 {
			c.lost[snap] = numbers
		}
	}
	return err
}
