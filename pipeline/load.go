package pipeline

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"lethe/pipeline/archive"
	"lethe/pipeline/target"
	"lethe/scrub/catalog"
	"lethe/scrub/copytext"
)

const (
	// piecesAhead is how many pieces of a table are fetched and opened ahead of the one that is loaded, so that neither the
	// way to a bucket nor decompression keeps the server waiting.
	piecesAhead = 4
	// leastShare is how much text of a table is worth a session of its own.
	leastShare = 64 << 20
	// keepOpener is the longest text whose memory waits for the next piece.
	keepOpener = 2 * archive.AvgPiece
)

// everyRow stands among what tasks need for the rows of all tables: who loads some shares it, and who may read any has it
// alone, or comes after one who had.
var everyRow = catalog.Name{}

// loads returns the tasks that load all tables. One session loads a table, in the order it was read in, so that it comes
// back as it was: what lay together lies together, and the next backup finds the pieces that it knows. Only a table with
// more than a worker's share of everything is dealt out to several, piece by piece.
//
// Tables whose CHECK or generated columns call user functions come last, one by one, in their order: such a function may
// read the others.
func (r *restore) loads(db *target.Database) []task {
	var together, last []task
	for _, p := range r.m.Parts {
		if p.Kind != archive.Table || !r.wants(p) || len(p.Objects) == 0 {
			continue
		}
		name := partName(p)
		l := &loading{r: r, part: p, header: copytext.Header(name.SQL(), p.Columns)}
		t := task{tables: []catalog.Name{everyRow, name}, size: r.sizes[name], do: func(ctx context.Context) error { return l.copy(ctx, db) }}
		sessions := max(1, (t.size+r.share()-1)/r.share())
		if about := r.cat.Tables[name]; about != nil { // else an extension's own, which may have rows already
			for up := about.Parent; up != nil; up = up.Parent { // rows of a partition are held against what defines it
				t.tables = append(t.tables, up.Name)
			}
			t.alone = about.CallsFunctions
			l.frozen = about.Kind == catalog.Ordinary && len(p.Objects) > 1 && (sessions == 1 || t.alone)
		}
		if t.alone {
			last = append(last, t)
			continue
		}
		t.size /= sessions
		for range sessions {
			together = append(together, t)
		}
	}
	return append(together, last...)
}

// loading is the rows of one table on their way: pieces are fetched, verified, decrypted, decompressed, and rid of who is
// erased, several at a time, and one COPY, or several, take them in their order.
type loading struct {
	r      *restore
	part   archive.Part
	header string // of its pieces
	frozen bool   // the table is empty, one COPY alone fills it, and there is enough to be worth it

	begin  sync.Once
	ctx    context.Context // of opening
	end    context.CancelCauseFunc
	opened chan *openedPiece
	work   sync.WaitGroup
}

// openedPiece is a piece that is open once ready is closed.
type openedPiece struct {
	object archive.Object
	memory int64 // what it takes of restore.memory, until it is loaded
	opener *pieceOpener
	rows   []byte
	n      int64 // how many rows
	err    error
	ready  chan struct{}
}

// pieceOpener opens pieces, one after another, in the same memory.
type pieceOpener struct {
	opener   *archive.Opener
	rewriter *rewriter
	data     []byte // of the object, as it came
}

// copy loads pieces in one COPY until none is left.
func (l *loading) copy(ctx context.Context, db *target.Database) (err error) {
	l.begin.Do(func() { l.open(ctx) })
	rows := &copyRows{l: l}
	n, err := db.CopyIn(ctx, partName(l.part), strings.TrimSuffix(l.header, "\n"), rows, l.frozen)
	if err = rows.close(err); err == nil && n != rows.n {
		err = integrity(fmt.Errorf("the server took %d rows of %d", n, rows.n))
	}
	if err != nil {
		l.end(err)
	}
	l.work.Wait()
	if err != nil {
		return fmt.Errorf("table %s: %w", l.part.Name, err)
	}
	return nil
}

// open begins to open the pieces, in the background. What it opens ahead is bounded by number, and by memory; a piece
// that would take more than all of that, as one huge row does, is opened when no other piece is in memory.
func (l *loading) open(ctx context.Context) {
	l.ctx, l.end = context.WithCancelCause(ctx)
	l.opened = make(chan *openedPiece, piecesAhead-1)
	l.work.Go(func() {
		defer close(l.opened)
		for _, o := range l.part.Objects {
			p := &openedPiece{object: o, memory: min(l.r.needs(o), l.r.mostMemory), ready: make(chan struct{})}
			if l.r.memory.Acquire(l.ctx, p.memory) != nil {
				return
			}
			l.work.Go(func() {
				defer close(p.ready)
				if p.err = l.openPiece(l.ctx, p); p.err != nil {
					l.end(p.err)
				}
			})
			select {
			case l.opened <- p:
			case <-l.ctx.Done():
				return
			}
		}
	})
}

// needs is how much memory a piece takes: as it came, decrypted, decompressed, and without who is erased.
func (r *restore) needs(o archive.Object) int64 {
	if r.replay == nil {
		return 2*o.Size + o.Text
	}
	return 2 * (o.Size + o.Text)
}

// openPiece makes rows of a piece: fetch, verify, decrypt, decompress, count, and take out who is erased.
func (l *loading) openPiece(ctx context.Context, p *openedPiece) error {
	p.opener, _ = l.r.openers.Get().(*pieceOpener)
	if p.opener == nil {
		opener, err := archive.NewOpener(l.r.c.Identities)
		if err != nil {
			return err
		}
		p.opener = &pieceOpener{opener: opener, rewriter: newRewriter()}
	}
	data, err := l.r.c.Repository.objectInto(ctx, p.object, p.opener.data)
	if err != nil {
		return err
	}
	p.opener.data = data
	text, err := p.opener.opener.Open(data, p.object)
	if err != nil {
		return err
	}
	rows, err := rowsOf(text, l.header, p.object)
	if err != nil {
		return err
	}
	left, gone, err := l.r.replay.rows(p.opener.rewriter, p.object, rows)
	p.rows, p.n = left, p.object.Rows-gone
	return err
}

// rowsOf is where the text of a table's piece becomes rows for COPY. It makes sure that the text is what the manifest
// says: rows of this table, and as many.
func rowsOf(text []byte, header string, o archive.Object) (rows []byte, err error) {
	rows, err = copytext.Body(text, header)
	if err != nil {
		return nil, integrity(fmt.Errorf("object %s: %w", o.Object, err))
	}
	if n := int64(bytes.Count(rows, []byte{'\n'})); n != o.Rows {
		return nil, integrity(fmt.Errorf("object %s holds %d rows, its manifest says %d", o.Object, n, o.Rows))
	}
	return rows, nil
}

// loaded gives back what a piece took.
func (l *loading) loaded(p *openedPiece) {
	p.rows = nil
	if p.object.Text <= keepOpener {
		l.r.openers.Put(p.opener)
	}
	l.r.memory.Release(p.memory)
	l.r.progress(p)
}

// copyRows is the rows that one COPY reads: those of one piece after another.
type copyRows struct {
	l *loading

	mu    sync.Mutex // held by Read, which may go on for a moment when CopyIn has lost its connection and returned
	piece *openedPiece
	left  []byte // of its rows
	n     int64  // rows up to its last
	ends  []pieceEnd
	err   error // why nothing is left to read; io.EOF after the last piece
}

// pieceEnd says which row of a COPY is the last of an object.
type pieceEnd struct {
	object string
	row    int64
}

// errAbandoned is all that the server is told about a COPY that can't go on: it may write that into its log.
var errAbandoned = errors.New("the restore has failed")

// Read implements io.Reader.
func (c *copyRows) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.left) == 0 && c.err == nil {
		c.err = c.next()
	}
	switch c.err {
	case nil:
	case io.EOF:
		return 0, io.EOF
	default:
		return 0, errAbandoned
	}
	n := copy(b, c.left)
	c.left = c.left[n:]
	return n, nil
}

// next goes on to the next piece.
func (c *copyRows) next() error {
	if c.piece != nil {
		c.l.loaded(c.piece)
		c.piece = nil
	}
	p, ok := <-c.l.opened
	if c.l.ctx.Err() != nil { // opening has ended, for here or in another COPY of the table something failed
		return context.Cause(c.l.ctx)
	}
	if !ok {
		return io.EOF
	}
	if <-p.ready; p.err != nil {
		return p.err
	}
	c.piece, c.left, c.n = p, p.rows, c.n+p.n
	c.ends = append(c.ends, pieceEnd{p.object.Object, c.n})
	return nil
}

// close ends reading. It takes what CopyIn returned, and says why the COPY failed: what could not be read, or else which
// object the server refused.
func (c *copyRows) close(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	failed := c.err
	c.left, c.err = nil, errAbandoned // should Read be called once more
	if failed != nil && failed != io.EOF {
		return failed
	}
	var refused *target.RowError
	if errors.As(err, &refused) {
		i, _ := slices.BinarySearchFunc(c.ends, refused.Row, func(e pieceEnd, row int64) int { return cmp.Compare(e.row, row) })
		if i < len(c.ends) {
			return fmt.Errorf("load object %s: %w", c.ends[i].object, err)
		}
	}
	return err
}
