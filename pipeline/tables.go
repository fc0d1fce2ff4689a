package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"lethe/pipeline/archive"
	"lethe/pipeline/source"
	"lethe/scrub"
	"lethe/scrub/catalog"
	"lethe/scrub/copytext"
)

// tables streams every table: the server's COPY rows, scrubbed one by one, cut into pieces, handed to the sealers. The
// biggest ranges start first, so that no worker is left with one at the end.
func (b *backup) tables(ctx context.Context) error {
	type work struct {
		rel   source.Relation
		part  *part
		rng   int
		bytes int64
	}
	var queue []work
	var total int64
	for _, rel := range restoreOrder(b.snap.Relations, b.snap.Catalog) {
		p := &part{Part: archive.Part{Kind: archive.Table, Name: rel.Name.String(), Schema: rel.Name.Schema, Table: rel.Name.Name, Columns: rel.Columns}}
		b.parts = append(b.parts, p)
		if t := b.plan.Tables[rel.Name]; t != nil && t.NoRows {
			continue
		}
		p.pieces, p.filters = make([][]*piece, len(rel.Ranges)), make([][]*piece, len(rel.Ranges))
		for i := range rel.Ranges {
			queue = append(queue, work{rel, p, i, rel.Bytes / int64(len(rel.Ranges))})
		}
		total += rel.Bytes
	}
	slices.SortStableFunc(queue, func(a, c work) int { return int(min(max(c.bytes-a.bytes, -1), 1)) })
	b.writer.expect(total)

	defer useProcessors(b.c.Processors)()
	return each(ctx, queue, b.c.Workers, func() (func(context.Context, work) error, error) {
		ids, err := b.c.pieces()
		return func(ctx context.Context, w work) error {
			if err := b.table(ctx, w.rel, w.part, w.rng, ids); err != nil {
				return ofTable(w.rel.Name, err)
			}
			return nil
		}, err
	})
}

// ofTable says which table an error is about, where it does not say so itself.
func ofTable(table catalog.Name, err error) error {
	var e *source.Error
	if errors.As(err, &e) && e.Table != "" {
		return err
	}
	return fmt.Errorf("table %s: %w", table, err)
}

// restoreOrder puts tables whose constraints or generated columns call user functions last: such a function may read
// the others.
func restoreOrder(relations []source.Relation, cat *catalog.Catalog) []source.Relation {
	calls := func(r source.Relation) int {
		if t := cat.Tables[r.Name]; t != nil && t.CallsFunctions {
			return 1
		}
		return 0
	}
	ordered := slices.Clone(relations)
	slices.SortStableFunc(ordered, func(a, b source.Relation) int { return calls(a) - calls(b) })
	return ordered
}

// table streams one range of one table.
func (b *backup) table(ctx context.Context, rel source.Relation, p *part, rng int, ids *archive.Pieces) error {
	scrubber := &scrub.Scrubber{} // passes everything: an extension's own table is not in the schema
	if !rel.Extension {
		var err error
		if scrubber, err = b.plan.Scrubber(rel.Name, rel.Columns, b.keys, b.erased); err != nil {
			return err
		}
	}
	indexer, err := b.plan.Indexer(rel.Name, rel.Columns, b.writer.seed)
	if err != nil {
		return err
	}
	if len(b.ledger.requests) > 0 {
		scrubber.Met = map[uint32]int64{}
	}
	s := &tableStream{
		scrubber: scrubber,
		indexer:  indexer,
		cutter:   archive.NewCutter(b.writer.pieces),
		ids:      ids,
		writer:   b.writer,
		part:     p,
		rng:      rng,
		header:   copytext.Header(rel.Name.SQL(), rel.Columns),
		last:     rng == len(rel.Ranges)-1,
	}
	if indexer != nil {
		s.filter = newFiltering(b.plan.References(rel.Name), p, rng)
	}
	s.watch = newObjectWatch(objectColumns(&rel, b.snap.Catalog))
	s.begin()
	n, err := b.snap.Copy(ctx, &rel, rel.Ranges[rng], s)
	if err != nil {
		return err
	}
	if n != s.read {
		return fmt.Errorf("the server says it sent %d rows, %d arrived", n, s.read)
	}
	if err := s.finish(); err != nil {
		return err
	}
	if s.filter != nil {
		if err := b.writer.do(job{filter: s.filter, nth: len(p.pieces[rng])}); err != nil {
			return err
		}
	}
	if s.watch != nil {
		b.lost.add(s.watch.gone, s.watch.kept)
	}
	b.met.add(scrubber.Met)
	counts := scrubber.Counts
	atomic.AddInt64(&p.Rows, s.stored)
	atomic.AddInt64(&p.Dropped, counts.Dropped)
	atomic.AddInt64(&p.Redacted, counts.Redacted)
	atomic.AddInt64(&p.Cleared, counts.Cleared)
	return nil
}

// tableStream is the way of a row: in comes the server's line, out goes a piece of rewritten lines. It is used by one
// goroutine.
type tableStream struct {
	scrubber *scrub.Scrubber
	cutter   *archive.Cutter
	ids      *archive.Pieces
	writer   *writer
	indexer  *scrub.Indexer // collects keys for filter; nil where no reference leaves the table
	filter   *filtering
	watch    *objectWatch // nil where no column holds large objects
	part     *part
	rng      int
	header   string
	last     bool // these rows are the table's last

	held   []job  // the pieces before the one under construction that may turn out to be the table's tail
	piece  []byte // the text under construction: header and rows
	named  int    // bytes of it that ids has
	rows   int64  // in it
	read   int64  // rows that came
	stored int64  // rows that went
}

// Write takes whole rows.
func (s *tableStream) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := bytes.IndexByte(rest, '\n') + 1
		if n == 0 {
			return 0, fmt.Errorf("the server sent a row without an end")
		}
		if err := s.row(rest[:n]); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

func (s *tableStream) row(row []byte) error {
	s.read++
	if len(row) > archive.MaxPiece {
		return s.longRow(row)
	}
	start := len(s.piece)
	if cap(s.piece)-start < 2*len(row) {
		s.piece = slices.Grow(s.piece, max(2*len(row), cap(s.piece)))
	}
	piece, action, err := s.scrubber.Append(s.piece, row)
	if err != nil {
		return err
	}
	s.piece = piece
	if s.watch != nil {
		s.watch.row(row, s.piece[start:])
	}
	if action == scrub.Dropped {
		return nil
	}
	s.stored++
	return s.place(start)
}

// place finds out where pieces end near a row that has just been appended to the text under construction, at start.
func (s *tableStream) place(start int) error {
	before, after := s.cutter.Cut(s.piece[start:], start-len(s.header))
	if before {
		tail := s.piece[start:]
		s.piece = s.piece[:start:start] // cut appends: it must not write over tail
		if err := s.cut(); err != nil {
			return err
		}
		s.begin()
		start = len(s.piece)
		s.piece = append(s.piece, tail...)
	}
	if s.indexer != nil {
		s.indexer.Add(s.piece[start:])
	}
	s.rows++
	if after {
		if err := s.cut(); err != nil {
			return err
		}
		s.begin()
	} else if len(s.piece)-s.named >= nameStep {
		s.ids.Add(s.piece[s.named:])
		s.named = len(s.piece)
	}
	return nil
}

// nameStep is how many bytes of rows go into a piece's id at a time: few enough that they are in the processor's nearest
// memory still.
const nameStep = 32 << 10

// longRow handles a row that came longer than a piece may be. It is a piece of its own, in memory that is made once at
// its size; one such row at a time, whatever the number of workers.
func (s *tableStream) longRow(row []byte) error {
	if err := s.end(); err != nil {
		return err
	}
	if err := s.release(0, 0); err != nil {
		return err
	}
	s.begin()
	if err := s.writer.Long(); err != nil {
		return err
	}
	text := append(make([]byte, 0, len(s.header)+len(row)+len(row)/64+len(copytext.Terminator)), s.header...)
	text, action, err := s.scrubber.Append(text, row)
	if err != nil || action == scrub.Dropped {
		s.writer.drop()
		text = text[:len(s.header)]
	}
	if err != nil {
		return err
	}
	if s.watch != nil {
		s.watch.row(row, text[len(s.header):])
	}
	if action == scrub.Dropped {
		return nil
	}
	s.stored++
	if s.indexer != nil {
		s.indexer.Add(text[len(s.header):])
	}
	return s.seal(s.whole(text, 1, true))
}

func (s *tableStream) begin() {
	s.piece = append(s.writer.Buffer(), s.header...)
	s.rows = 0
	s.nameAnew()
}

func (s *tableStream) nameAnew() {
	s.named = 0
	s.ids.Begin()
}

func (s *tableStream) end() error {
	if s.rows == 0 {
		s.writer.recycle(s.piece)
		return nil
	}
	return s.cut()
}

// whole makes a piece of a text that has ended.
func (s *tableStream) whole(text []byte, rows int64, long bool) job {
	text = append(text, copytext.Terminator...)
	s.ids.Add(text[s.named:])
	j := job{id: s.ids.End(), text: text, rows: rows, long: long, filter: s.filter}
	s.nameAnew()
	if s.indexer != nil {
		j.keys = s.indexer.Take()
	}
	return j
}

// seal hands a piece on; its memory is the writer's from then on.
func (s *tableStream) seal(j job) error {
	j.nth, j.into = len(s.part.pieces[s.rng]), s.part.slot(s.rng)
	return s.writer.Seal(j)
}

// cut ends the piece under construction.
func (s *tableStream) cut() error {
	piece := s.whole(s.piece, s.rows, false)
	if !s.last {
		return s.seal(piece)
	}
	s.held = append(s.held, piece)
	return s.release(archive.Tail, 0)
}

// release seals the held pieces that so many bytes of rows follow, of which some are in the text under construction.
func (s *tableStream) release(follow, under int) error {
	size := func(j job) int { return len(j.text) - len(s.header) - len(copytext.Terminator) }
	for _, j := range s.held {
		under += size(j)
	}
	for len(s.held) > 0 {
		first := s.held[0]
		if under -= size(first); under < follow {
			break
		}
		s.held = slices.Delete(s.held, 0, 1)
		if err := s.seal(first); err != nil {
			return err
		}
	}
	return nil
}

// finish ends the rows. The table's tail is cut anew: it is in memory still.
func (s *tableStream) finish() error {
	if !s.last {
		return s.end()
	}
	if err := s.release(archive.Tail, len(s.piece)-len(s.header)); err != nil {
		return err
	}
	tail := make([][]byte, 0, len(s.held)+1)
	for _, j := range s.held {
		tail = append(tail, bytes.TrimSuffix(j.text, []byte(copytext.Terminator)))
	}
	tail = append(tail, s.piece)
	s.cutter, s.last, s.held = s.cutter.Finer(), false, nil
	if s.indexer != nil {
		s.indexer.Reset()
	}
	s.begin()
	for _, text := range tail {
		for rows := text[len(s.header):]; len(rows) > 0; {
			n := bytes.IndexByte(rows, '\n') + 1
			start := len(s.piece)
			s.piece = append(s.piece, rows[:n]...)
			if err := s.place(start); err != nil {
				return err
			}
			rows = rows[n:]
		}
		s.writer.recycle(text)
	}
	return s.end()
}
