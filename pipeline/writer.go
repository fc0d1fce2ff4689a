package pipeline

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
	"lethe/scrub"
)

// writer seals pieces and puts them into every store that does not hold them yet, several at a time. Memory is bounded:
// it lends a fixed number of buffers for text, and puts share a fixed number of bytes, so readers wait when sealing or
// uploading is the slower side.
type writer struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	pieces archive.SecretKey
	seed   uint64 // of the keys in filters
	stores []*openStore
	dryRun bool
	warn   func(string)

	jobs    chan job
	buffers *pool
	long    chan struct{} // held while a row longer than a piece is in memory, by its reader and then its sealer
	sealers sync.WaitGroup

	puts    chan put
	sending *semaphore.Weighted // bytes of objects on their way
	most    int64               // of them, together: a larger one goes alone
	spare   chan []byte         // memory of objects that are stored
	putters sync.WaitGroup

	mu sync.Mutex // guards openStore.err

	keys     atomic.Int64 // bytes of keys that filters may be made of
	mostKeys int64        // beyond which they are condensed, whether the filter will be needed or not

	progress func(Progress)
	text     atomic.Int64
	rows     atomic.Int64
	uploaded atomic.Int64
	reused   atomic.Int64
	total    atomic.Int64
}

// piece is one text of the snapshot, as the manifest will name it.
type piece struct {
	id   archive.PieceID
	rows int64
	in   []placed // by store; nowhere in a store that has failed
}

// size is how large the piece's object is, in whatever store holds it.
func (p *piece) size() (size int64) {
	for _, at := range p.in {
		size = max(size, at.size)
	}
	return size
}

// job is one piece on its way into an object. One without into says that a filtering's range has ended.
type job struct {
	id   archive.PieceID
	text []byte // nil where every store holds the piece
	rows int64
	into *piece
	long bool // it holds the writer's long

	filter *filtering // nil where the table needs none
	nth    int        // piece of filter's range
	keys   []scrub.PieceKeys
}

// put is one object on its way into the stores that lack it.
type put struct {
	data []byte
	at   placed
	into *piece
}

// pool lends a fixed number of buffers. What came back last is lent first: of a run that needs few at a time the others are
// never made.
type pool struct {
	room  int           // in each buffer
	there chan struct{} // one for each that is not lent
	mu    sync.Mutex
	list  [][]byte // those; nil where it is to be made
}

func newPool(n, room int) *pool {
	p := &pool{room: room, there: make(chan struct{}, n), list: make([][]byte, 0, n)}
	for range n {
		p.give(nil)
	}
	return p
}

// take waits for an empty buffer. When ctx has ended it gives none, which is nil.
func (p *pool) take(ctx context.Context) []byte {
	select {
	case <-p.there:
	case <-ctx.Done():
		return nil
	}
	p.mu.Lock()
	last := len(p.list) - 1
	b := p.list[last]
	p.list = p.list[:last]
	p.mu.Unlock()
	if b == nil {
		b = make([]byte, 0, p.room)
	}
	return b[:0]
}

// give takes a buffer back, and lets go of its memory where it is another by now: a piece has outgrown it.
func (p *pool) give(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case len(p.list) == cap(p.list): // it was none of them
		return
	case cap(b) != p.room:
		p.list = slices.Insert(p.list, 0, nil)
	default:
		p.list = append(p.list, b)
	}
	p.there <- struct{}{} // has room for as many as list
}

// sealer is what one sealing goroutine works with.
type sealer struct {
	*archive.Sealer
	pieces  *archive.Pieces
	filters archive.FilterBuilder
}

const (
	// keepBuffer is the largest buffer that is kept for the next text or object.
	keepBuffer = 2 * archive.AvgPiece
	// putters is how many objects are on their way at once: enough that neither the way to a bucket nor a disk's fsync
	// keeps the sealers waiting.
	putters = 8
	// DefaultMemory is how many bytes a run keeps to where nothing else is said.
	DefaultMemory = 256 << 20
)

func newWriter(ctx context.Context, c BackupConfig, stores []*openStore) (*writer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	sealers := max(runtime.GOMAXPROCS(0), 2)
	if c.Memory <= 0 {
		c.Memory = DefaultMemory
	}
	// For each reader one buffer being filled, one waiting, and the two that a table's tail may take; one in each sealer.
	buffers := 4*max(c.Workers, 1) + sealers + 1
	// Growing would copy a piece, and touch new memory: of four times the average, one in a thousand has to. What is not touched
	// takes none, but counts where garbage is collected by how much there is.
	room := int(min(max(c.Memory/3/int64(buffers), archive.AvgPiece*3/2), 4*archive.AvgPiece))
	w := &writer{ctx: ctx, cancel: cancel, pieces: c.Operator.PieceID, seed: archive.FilterSeed(c.Operator.PieceID), stores: stores, dryRun: c.DryRun, warn: c.warn,
		jobs: make(chan job), buffers: newPool(buffers, room), long: make(chan struct{}, 1),
		puts: make(chan put), sending: semaphore.NewWeighted(c.Memory / 8), most: c.Memory / 8, mostKeys: c.Memory / 32, spare: make(chan []byte, putters+sealers), progress: c.Progress}
	for range putters {
		w.putters.Go(w.putAll)
	}
	for range sealers {
		s, err := newSealer(c)
		if err != nil {
			w.Abandon()
			return nil, err
		}
		w.sealers.Go(func() { w.sealAll(s) })
	}
	return w, nil
}

func newSealer(c BackupConfig) (*sealer, error) {
	seal, err := archive.NewSealer(c.Recipients)
	if err != nil {
		return nil, err
	}
	pieces, err := c.pieces()
	return &sealer{Sealer: seal, pieces: pieces}, err
}

// pieces returns a namer of the run's pieces. Each worker needs its own.
func (c BackupConfig) pieces() (*archive.Pieces, error) {
	return archive.NewPieces(c.Operator.PieceID, c.Recipients)
}

// Buffer lends an empty buffer with room for most pieces. It waits for one to come back; after a failure it gives none, and
// Seal fails.
func (w *writer) Buffer() []byte { return w.buffers.take(w.ctx) }

func (w *writer) recycle(b []byte) { w.buffers.give(b) }

// Seal takes a piece, whose text is a buffer from Buffer, and has its object stored; its into is whole after Wait. After a
// failure it returns the reason. A text that every store holds already comes back to the buffers at once: its reader fills it
// again, which of most runs is nearly all there is to do, and touches little memory. A long piece is between Long and its
// end.
func (w *writer) Seal(j job) error {
	if w.ctx.Err() != nil {
		w.release(&j)
		return context.Cause(w.ctx)
	}
	p := j.into
	p.id, p.rows, p.in = j.id, j.rows, make([]placed, len(w.stores))
	if !w.missing(p) {
		w.reused.Add(1)
		w.done(j)
		w.release(&j)
		if j.filter == nil {
			return nil
		}
	}
	return w.do(j)
}

// release lets go of a piece's text.
func (w *writer) release(j *job) {
	switch {
	case j.long: // its memory is no buffer
		w.drop()
	case j.text != nil:
		w.recycle(j.text)
	}
	j.text, j.long = nil, false
}

// done counts a piece that is stored, or on its way.
func (w *writer) done(j job) {
	w.text.Add(int64(len(j.text)))
	w.rows.Add(j.rows)
	w.report("copying rows")
}

// do hands a job to a sealer.
func (w *writer) do(j job) error {
	select {
	case w.jobs <- j:
		return nil
	case <-w.ctx.Done():
		w.release(&j)
		return context.Cause(w.ctx)
	}
}

// Long waits until no other row longer than a piece is in memory. Either Seal, with a long piece, or drop ends it.
func (w *writer) Long() error {
	select {
	case w.long <- struct{}{}:
		return nil
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
}

// drop ends Long without a piece.
func (w *writer) drop() { <-w.long }

func (w *writer) sealAll(s *sealer) {
	for {
		select {
		case j, ok := <-w.jobs:
			if !ok {
				return
			}
			err := w.seal(s, j)
			w.release(&j)
			if err != nil {
				w.cancel(err)
				return
			}
		case <-w.ctx.Done():
			return
		}
	}
}

// seal is what happens to one piece: unless every store holds it already, compress, encrypt, put; and then its filter.
func (w *writer) seal(s *sealer, j job) error {
	if j.into == nil {
		return w.sealFilters(s, j.filter, j.filter.end(j.nth))
	}
	anew, size := j.text != nil, j.into.size()
	if anew {
		var err error
		if size, err = w.sealAnew(s, j); err != nil {
			return err
		}
		w.done(j)
	}
	if j.filter == nil {
		return nil
	}
	return w.sealFilters(s, j.filter, j.filter.sealed(j.nth, w.filterPiece(s, j.id, j.keys, size, anew), size))
}

// missing fills in where the stores hold a piece already, and reports whether one of them does not.
func (w *writer) missing(p *piece) (missing bool) {
	for i, s := range w.stores {
		if w.failed(s) != nil {
			continue
		}
		at, ok := s.has.reuse(p.id)
		p.in[i] = at
		missing = missing || !ok
	}
	return missing
}

// sealAnew makes the object of a piece, hands it on to be put, and returns its size.
func (w *writer) sealAnew(s *sealer, j job) (size int64, err error) {
	var dst []byte
	select {
	case dst = <-w.spare:
	default:
	}
	sealed, err := s.Seal(dst, j.text)
	if err != nil {
		return 0, err
	}
	object, err := idOf(sealed.Object)
	if err != nil {
		return 0, err
	}
	o := put{data: sealed.Data, at: placed{object, sealed.Size, sealed.Text}, into: j.into}
	if err := w.sending.Acquire(w.ctx, w.share(o)); err != nil {
		return 0, context.Cause(w.ctx)
	}
	if j.long { // the object stays in memory until it is stored, so no other such row may come before that
		defer w.sending.Release(w.share(o))
		return sealed.Size, w.put(o)
	}
	select {
	case w.puts <- o:
		return sealed.Size, nil
	case <-w.ctx.Done():
		return 0, context.Cause(w.ctx)
	}
}

// share is what an object takes of the bytes that may be on their way.
func (w *writer) share(o put) int64 { return min(o.at.size, w.most) }

func (w *writer) putAll() {
	for {
		select {
		case o, ok := <-w.puts:
			if !ok {
				return
			}
			if err := w.put(o); err != nil {
				w.cancel(err)
				return
			}
			w.sending.Release(w.share(o))
			if cap(o.data) <= keepBuffer {
				select {
				case w.spare <- o.data:
				default:
				}
			}
		case <-w.ctx.Done():
			return
		}
	}
}

// put stores an object wherever its piece is missing. A store that fails is left out from then on; when none is left it
// is an error.
func (w *writer) put(o put) error {
	left := 0
	for i, s := range w.stores {
		if w.failed(s) != nil {
			continue
		}
		if o.into.in[i] != (placed{}) {
			left++
			continue
		}
		if err := w.putInto(s, o); err != nil {
			if w.ctx.Err() != nil {
				return context.Cause(w.ctx)
			}
			w.mu.Lock()
			s.err = err // names the object and the store
			w.mu.Unlock()
			continue
		}
		o.into.in[i] = o.at
		left++
	}
	if left == 0 {
		w.mu.Lock()
		defer w.mu.Unlock()
		return noStore(w.stores)
	}
	return nil
}

func (w *writer) putInto(s *openStore, o put) error {
	if w.dryRun {
		return nil
	}
	err := s.s.Put(w.ctx, archive.ObjectName(o.at.object.String()), o.data)
	if err != nil && !errors.Is(err, store.ErrExists) { // the name is the digest of the content
		return err
	}
	w.uploaded.Add(o.at.size)
	s.has.add(o.into.id, o.at)
	if err := s.journal.add(o.into.id, o.at); err != nil {
		w.warn(fmt.Sprintf("if this run is interrupted, the next one sends again what it has sent: %v", err))
	}
	return nil
}

func (w *writer) failed(s *openStore) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return s.err
}

// Wait returns when every piece is stored, or with the first error.
func (w *writer) Wait() error {
	close(w.jobs)
	w.sealers.Wait()
	close(w.puts)
	w.putters.Wait()
	if err := context.Cause(w.ctx); err != nil {
		return err
	}
	w.cancel(nil)
	w.buffers, w.spare = nil, nil // the manifest of a large database needs the room
	return nil
}

// Abandon stops everything, whatever is under way; after Wait it does nothing.
func (w *writer) Abandon() {
	w.cancel(nil)
	w.sealers.Wait()
	w.putters.Wait()
}

func (w *writer) expect(bytes int64) { w.total.Store(bytes) }

func (w *writer) report(stage string) {
	if w.progress != nil {
		w.progress(Progress{Stage: stage, Bytes: w.text.Load(), Total: w.total.Load(), Rows: w.rows.Load(), Uploaded: w.uploaded.Load()})
	}
}
