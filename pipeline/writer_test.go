package pipeline

import (
	"context"
	"slices"
	"testing"
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

// TestProcessors: beside a server, readers have few processors, sealers get theirs while they work, and in the end all are
// there again.
func TestProcessors(t *testing.T) {
	for _, tt := range []struct {
		name         string
		all, workers int
		want         []int
	}{
		{"two processors", 2, 2, []int{1, 2, 1, 2}},
		{"one", 1, 2, nil},
		{"four", 4, 2, []int{2, 3, 4, 3, 2, 4}},
		{"one reader", 8, 1, []int{1, 2, 3, 2, 1, 8}},
		{"many readers", 16, 16, []int{6, 7, 8, 7, 6, 16}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []int
			p := processors{}
			p.begin(tt.all, tt.workers, func(n int) { got = append(got, n) })
			for _, n := range []int{1, 1, -1, -1} {
				p.seal(n)
			}
			p.end()
			p.seal(1) // nothing is shared any more
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	(&processors{}).begin(2, 2, nil)
}
