package pipeline

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"

	"lethe/pipeline/store/dir"
)

func TestPool(t *testing.T) {
	ctx := t.Context()
	ended, cancel := context.WithCancel(ctx)
	cancel()
	p := newPool(3, 100)
	same := func(a, b []byte) bool { return &a[:1][0] == &b[:1][0] }
	first := p.take(ctx)
	if len(first) != 0 || cap(first) != 100 {
		t.Fatalf("%d bytes with room for %d", len(first), cap(first))
	}
	for range 5 { // one at a time: always the same one
		p.give(append(first, "text"...))
		if again := p.take(ctx); len(again) != 0 || !same(again, first) {
			t.Fatal("another buffer than the one that came back")
		}
	}
	second := p.take(ctx)
	p.give(first)
	p.give(make([]byte, 101)) // second has grown: it is let go
	if got := p.take(ctx); !same(got, first) {
		t.Error("a buffer that is to be made was lent before one that is there")
	}
	if got := p.take(ctx); cap(got) != 100 || same(got, second) {
		t.Errorf("a grown buffer was kept, with room for %d", cap(got))
	}
	p.take(ctx)
	if got := p.take(ended); got != nil {
		t.Error("four of three buffers were lent")
	}
	lent := make(chan []byte)
	go func() { lent <- p.take(ctx) }()
	p.give(first)
	if got := <-lent; !same(got, first) {
		t.Error("who waits did not get what came back")
	}
}

func TestProcessorsFor(t *testing.T) {
	for _, tt := range []struct {
		used           float64
		now, all, want int
	}{
		{0.65, 1, 2, 1}, // a next snapshot beside a server on two
		{0.95, 1, 2, 2}, // packing
		{1.3, 2, 2, 2},
		{0.8, 2, 2, 1}, // what that many were busy with may have been each other
		{1, 1, 1, 1},
		{2, 2, 2, 2},
		{2.7, 3, 8, 4},
		{0, 4, 8, 3},
	} {
		if got := processorsFor(tt.used, tt.now, tt.all); got != tt.want {
			t.Errorf("%v of %d used, of %d: %d, want %d", tt.used, tt.now, tt.all, got, tt.want)
		}
	}
}

// TestUseProcessors: whatever happens meanwhile, in the end there are as many as before; and work gets them.
func TestUseProcessors(t *testing.T) {
	all := runtime.GOMAXPROCS(0)
	told := make(chan int, 1000)
	stop := useProcessors(func(n int) { told <- n })
	if n := <-told; n != 1 {
		t.Errorf("it began with %d", n)
	}
	if all > 1 {
		busy, end := context.WithCancel(t.Context())
		var work sync.WaitGroup
		for range all {
			work.Go(func() {
				for busy.Err() == nil {
				}
			})
		}
		if n := <-told; n != 2 {
			t.Errorf("with more to do than one does it told %d", n)
		}
		end()
		work.Wait()
	}
	stop()
	last := 0
	for len(told) > 0 {
		last = <-told
	}
	if last != all {
		t.Errorf("it ended with %d, not %d", last, all)
	}
	useProcessors(nil)()
}

// TestSealAfterAFailure: who reads on hears of it with the next piece, whether that is stored already or not.
func TestSealAfterAFailure(t *testing.T) {
	must := mustOf(t)
	c := keysOf(t)
	at, err := dir.Open(t.TempDir())
	must(err)
	s := &openStore{s: at, has: newInventory()}
	w, err := newWriter(t.Context(), c, []*openStore{s})
	must(err)
	defer w.Abandon()
	ids, err := c.pieces()
	must(err)
	piece := func() job {
		text := append(w.Buffer(), "text"...)
		return job{id: ids.ID(text), text: text, into: &piece{}}
	}
	s.has.expect(piece().id, placed{objectID{1}, 1, 4})
	for range 100 { // more than there are buffers: each comes back
		must(w.Seal(piece()))
	}
	failure := errors.New("the disk is full")
	w.cancel(failure)
	if err := w.Seal(piece()); !errors.Is(err, failure) {
		t.Errorf("after a failure it says %v", err)
	}
}
