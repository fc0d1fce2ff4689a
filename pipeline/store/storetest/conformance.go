// Package storetest holds the conformance suite that every store passes, and Faulty, a store that fails on purpose.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"lethe/pipeline/store"
)

// Opener opens the same place each time it is called, with a store of its own.
type Opener func() (store.Store, error)

// Run holds a store to its contract. fresh is called once for each case, and returns the opener of a new, empty place;
// it removes the place with t.Cleanup.
func Run(t *testing.T, fresh func(t *testing.T) Opener) {
	t.Helper()
	for _, c := range []struct {
		name string
		run  func(*testing.T, Opener)
	}{
		{"round trip", roundTrip},
		{"empty place", emptyPlace},
		{"never overwrites", neverOverwrites},
		{"one of many wins", oneOfManyWins},
		{"put same", putSame},
		{"many at once", manyAtOnce},
		{"whole or not at all", wholeOrNotAtAll},
		{"list in order", listInOrder},
		{"list stops", listStops},
		{"list while deleting", listWhileDeleting},
		{"delete", deleting},
		{"cancelled", cancelled},
		{"names refused", namesRefused},
		{"longest names", longestNames},
		{"reopened", reopened},
		{"read all", readAll},
		{"errors", errorsSayWhat},
		{"abort unfinished", abortUnfinished},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, fresh(t)) })
	}
}

func open(t *testing.T, o Opener) store.Store {
	t.Helper()
	s, err := o()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// content is n bytes that are different for each seed and don't compress.
func content(seed uint64, n int) []byte {
	data := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return data
}

func put(t *testing.T, s store.Store, name string, data []byte) {
	t.Helper()
	if err := s.Put(t.Context(), name, data); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s store.Store, name string) []byte {
	t.Helper()
	r, err := s.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return data
}

func list(t *testing.T, s store.Store, prefix string) []string {
	t.Helper()
	names := []string{}
	err := s.List(t.Context(), prefix, func(i store.Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func mustHold(t *testing.T, s store.Store, name string, want []byte) {
	t.Helper()
	if got := get(t, s, name); !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes came back, not the %d that were put", name, len(got), len(want))
	}
}

func mustList(t *testing.T, s store.Store, prefix string, want ...string) {
	t.Helper()
	if got := list(t, s, prefix); !slices.Equal(got, want) {
		t.Errorf("list %q:\n got %q\nwant %q", prefix, got, want)
	}
}

func mustBe(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error is %v; want one that is: %v", err, want)
	}
}

func roundTrip(t *testing.T, o Opener) {
	s := open(t, o)
	for i, n := range []int{0, 1, 511, 512, 513, 4096, 1<<20 - 1, 1 << 20, 1<<20 + 1, 17 << 20} {
		name := fmt.Sprintf("objects/%02d/%d", i%3, n)
		data := content(uint64(i), n)
		kept := slices.Clone(data)
		put(t, s, name, data)
		if !bytes.Equal(data, kept) {
			t.Errorf("put of %d bytes changed the caller's bytes", n)
		}
		mustHold(t, s, name, kept)
		info, err := s.Stat(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Name != name || info.Size != int64(n) || info.Modified.IsZero() {
			t.Errorf("stat %s = %+v", name, info)
		}
		err = s.List(t.Context(), fmt.Sprintf("objects/%02d/", i%3), func(listed store.Info) error {
			if listed.Name == name && (listed.Size != info.Size || !listed.Modified.Equal(info.Modified)) {
				t.Errorf("list says %+v, stat %+v", listed, info)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, "nothing", nil)
	mustHold(t, s, "nothing", nil)

	// A reader behaves as io.Reader says, in odd portions too.
	data := content(99, 10_000)
	put(t, s, "portions", data)
	r, err := s.Get(t.Context(), "portions")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := iotest.TestReader(r, data); err != nil {
		t.Error(err)
	}
}

func emptyPlace(t *testing.T, o Opener) {
	s := open(t, o)
	_, err := s.Get(t.Context(), "snapshots/none")
	mustBe(t, err, store.ErrNotFound)
	_, err = s.Stat(t.Context(), "snapshots/none")
	mustBe(t, err, store.ErrNotFound)
	_, err = s.Stat(t.Context(), "none")
	mustBe(t, err, store.ErrNotFound)
	if err := s.Delete(t.Context(), "snapshots/none"); err != nil {
		t.Errorf("delete of what is not there: %v", err)
	}
	mustList(t, s, "")
	mustList(t, s, "snapshots/")
}

func neverOverwrites(t *testing.T, o Opener) {
	s := open(t, o)
	first := content(1, 1000)
	put(t, s, "a/b", first)
	before, err := s.Stat(t.Context(), "a/b")
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{first, content(2, 1000), content(3, 100), nil} {
		mustBe(t, s.Put(t.Context(), "a/b", data), store.ErrExists)
		mustHold(t, s, "a/b", first)
	}
	after, err := s.Stat(t.Context(), "a/b")
	if err != nil || after.Size != before.Size || !after.Modified.Equal(before.Modified) {
		t.Errorf("after refused puts: %+v, %v; before: %+v", after, err, before)
	}
	mustList(t, s, "", "a/b")
	// An empty file is a file.
	put(t, s, "empty", nil)
	mustBe(t, s.Put(t.Context(), "empty", first), store.ErrExists)
}

// oneOfManyWins races two stores on one place, as two machines would.
func oneOfManyWins(t *testing.T, o Opener) {
	stores := []store.Store{open(t, o), open(t, o)}
	const racers = 16
	for round := range 12 {
		name := fmt.Sprintf("locks/%d/lease", round)
		errs := make([]error, racers)
		var start, done sync.WaitGroup
		start.Add(1)
		for i := range racers {
			done.Go(func() {
				data := content(uint64(i), 64<<10)
				start.Wait()
				errs[i] = stores[i%2].Put(t.Context(), name, data)
			})
		}
		start.Done()
		done.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner < 0:
				winner = i
			case err == nil:
				t.Errorf("round %d: both %d and %d were told that they won", round, winner, i)
			case !errors.Is(err, store.ErrExists):
				t.Errorf("round %d: %v", round, err)
			}
		}
		if winner < 0 {
			t.Fatalf("round %d: nobody won", round)
		}
		mustHold(t, stores[0], name, content(uint64(winner), 64<<10))
		mustList(t, stores[1], fmt.Sprintf("locks/%d/", round), name)
	}
}

func putSame(t *testing.T, o Opener) {
	s := open(t, o)
	data := content(1, 5000)
	for range 2 {
		if err := store.PutSame(t.Context(), s, "ledger/1", data); err != nil {
			t.Fatal(err)
		}
	}
	for _, other := range [][]byte{content(2, 5000), data[:4999], append(slices.Clone(data), 0), nil} {
		mustBe(t, store.PutSame(t.Context(), s, "ledger/1", other), store.ErrExists)
	}
	mustHold(t, s, "ledger/1", data)
}

func manyAtOnce(t *testing.T, o Opener) {
	s := open(t, o)
	const writers, each = 8, 12
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				name := fmt.Sprintf("objects/%02d/%02d", i, w)
				data := content(uint64(w*each+i), 3000*i)
				if err := s.Put(t.Context(), name, data); err != nil {
					t.Error(err)
					return
				}
				got, err := store.ReadAll(t.Context(), s, name, 1<<20)
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s is not what was put a moment ago (%v)", name, err)
				}
				if i%3 == 2 {
					if err := s.Delete(t.Context(), name); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	var want []string
	for i := range each {
		for w := range writers {
			if i%3 != 2 {
				want = append(want, fmt.Sprintf("objects/%02d/%02d", i, w))
			}
		}
	}
	mustList(t, s, "objects/", want...)
}

// wholeOrNotAtAll reads and lists a name for as long as it is being put.
func wholeOrNotAtAll(t *testing.T, o Opener) {
	writer, reader := open(t, o), open(t, o)
	for round := range 5 {
		name := fmt.Sprintf("snapshots/%d", round)
		data := content(uint64(round), 8<<20)
		finished := make(chan error, 1)
		go func() { finished <- writer.Put(t.Context(), name, data) }()
		for putting := true; putting; {
			select {
			case err := <-finished:
				if err != nil {
					t.Fatal(err)
				}
				putting = false // and one look more, which must find it
			default:
			}
			err := reader.List(t.Context(), "", func(i store.Info) error {
				if !strings.HasPrefix(i.Name, "snapshots/") || i.Size != int64(len(data)) {
					return fmt.Errorf("half a file is listed: %+v", i)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			got, err := store.ReadAll(t.Context(), reader, name, 1<<30)
			if errors.Is(err, store.ErrNotFound) && putting {
				continue
			}
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("half a file is read: %d bytes of %d, %v", len(got), len(data), err)
			}
		}
	}
}

func listInOrder(t *testing.T, o Opener) {
	s := open(t, o)
	// Byte order of whole names, which is not the order of a walk: "-" and "." come before "/".
	want := []string{"A", "Z/z", "a-b/1", "a.b", "a/1", "a/1.x", "a/10", "a/2", "a0", "aa/b/c/d", "aa/b/c0", "b", "snapshots/1", "snapshots0/1"}
	for _, i := range rand.Perm(len(want)) {
		put(t, s, want[i], []byte(want[i]))
	}
	if !slices.IsSorted(want) {
		t.Fatal("the case itself is not in order")
	}
	mustList(t, s, "", want...)
	mustList(t, s, "a/", "a/1", "a/1.x", "a/10", "a/2")
	mustList(t, s, "aa/", "aa/b/c/d", "aa/b/c0")
	mustList(t, s, "aa/b/c/", "aa/b/c/d")
	mustList(t, s, "snapshots/", "snapshots/1")
	mustList(t, s, "missing/")
	mustList(t, s, "b/")   // a file, not a folder
	mustList(t, s, "b/c/") // below a file

	many := make([]string, 1024) // more than the 1000 of a page of S3's listing
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := w; i < len(many); i += 16 {
				many[i] = fmt.Sprintf("many/%05d", i)
				if err := s.Put(t.Context(), many[i], nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	mustList(t, s, "many/", many...)
}

func listStops(t *testing.T, o Opener) {
	s := open(t, o)
	for i := range 10 {
		put(t, s, fmt.Sprintf("a/%d/x", i), nil)
	}
	enough := errors.New("enough")
	calls := 0
	err := s.List(t.Context(), "", func(store.Info) error {
		if calls++; calls == 3 {
			return enough
		}
		return nil
	})
	if err != enough || calls != 3 {
		t.Errorf("list returned %v after %d calls; want fn's own error after 3", err, calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = s.List(ctx, "", func(store.Info) error { cancel(); return nil })
	mustBe(t, err, context.Canceled)
}

func listWhileDeleting(t *testing.T, o Opener) {
	s := open(t, o)
	for i := range 30 {
		put(t, s, fmt.Sprintf("a/%d/%02d", i%3, i), nil)
	}
	err := s.List(t.Context(), "a/", func(i store.Info) error { return s.Delete(t.Context(), i.Name) })
	if err != nil {
		t.Fatal(err)
	}
	mustList(t, s, "")
}

func deleting(t *testing.T, o Opener) {
	s := open(t, o)
	data := content(1, 100_000)
	put(t, s, "objects/ab/1", data)
	put(t, s, "objects/ab/2", data)
	put(t, s, "objects/ab/2.minisig", data)
	for range 2 {
		if err := s.Delete(t.Context(), "objects/ab/2"); err != nil {
			t.Fatal(err)
		}
		mustList(t, s, "", "objects/ab/1", "objects/ab/2.minisig")
	}
	_, err := s.Get(t.Context(), "objects/ab/2")
	mustBe(t, err, store.ErrNotFound)
	_, err = s.Stat(t.Context(), "objects/ab/2")
	mustBe(t, err, store.ErrNotFound)
	// A folder is no file, whether it holds something or not.
	for _, name := range []string{"objects", "objects/ab"} {
		if err := s.Delete(t.Context(), name); err != nil {
			t.Errorf("delete of a folder's name: %v", err)
		}
		_, err := s.Get(t.Context(), name)
		mustBe(t, err, store.ErrNotFound)
		_, err = s.Stat(t.Context(), name)
		mustBe(t, err, store.ErrNotFound)
	}
	mustHold(t, s, "objects/ab/1", data)
	// The name is free again.
	put(t, s, "objects/ab/2", data[:10])
	mustHold(t, s, "objects/ab/2", data[:10])
	for _, name := range list(t, s, "") {
		if err := s.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	mustList(t, s, "")
	put(t, s, "objects/ab/1", nil)
}

func cancelled(t *testing.T, o Opener) {
	s := open(t, o)
	data := content(1, 4<<20)
	put(t, s, "there", data)

	reading, stop := context.WithCancel(t.Context())
	r, err := s.Get(reading, "there")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	stop()
	if n, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled reader gave %d bytes more and %v", n, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	mustBe(t, s.Put(ctx, "new", data), context.Canceled)
	_, err = s.Get(ctx, "there")
	mustBe(t, err, context.Canceled)
	_, err = s.Stat(ctx, "there")
	mustBe(t, err, context.Canceled)
	mustBe(t, s.Delete(ctx, "there"), context.Canceled)
	mustBe(t, s.List(ctx, "", func(store.Info) error { return nil }), context.Canceled)
	mustList(t, s, "", "there")

	// Cancelled in the middle of it: there whole or not at all, and Put may be called again.
	for i := range 8 {
		ctx, cancel := context.WithCancel(t.Context())
		name := fmt.Sprintf("mid/%d", i)
		finished := make(chan error, 1)
		go func() { finished <- s.Put(ctx, name, data) }()
		cancel()
		if err := <-finished; err != nil {
			mustBe(t, err, context.Canceled)
		}
		if err := store.PutSame(t.Context(), s, name, data); err != nil {
			t.Fatal(err)
		}
		mustHold(t, s, name, data)
	}
}

// BadNames are names that every store refuses.
func BadNames() []string {
	return []string{"", "/", ".", "..", "/a", "a/", "a//b", "./a", "a/.", "a/..", "../a", "a/../b", "a/../../b", ".a", "a/.b", ".tmp/x",
		`a\b`, `..\a`, "a b", "a\x00b", "a\nb", "ä", "a:b", "~", "a*", "%2e%2e/a", "a?b", "a#b", "-\xff",
		strings.Repeat("x", 201), strings.Repeat("x/", 256) + "x"}
}

func namesRefused(t *testing.T, o Opener) {
	s := open(t, o)
	for _, name := range BadNames() {
		mustBe(t, s.Put(t.Context(), name, nil), store.ErrName)
		_, err := s.Get(t.Context(), name)
		mustBe(t, err, store.ErrName)
		_, err = s.Stat(t.Context(), name)
		mustBe(t, err, store.ErrName)
		mustBe(t, s.Delete(t.Context(), name), store.ErrName)
		if name != "" {
			mustBe(t, s.List(t.Context(), name+"/", func(store.Info) error { return nil }), store.ErrName)
		}
	}
	mustBe(t, s.List(t.Context(), "snap", func(store.Info) error { return nil }), store.ErrName)
	mustList(t, s, "")
}

func longestNames(t *testing.T, o Opener) {
	s := open(t, o)
	part := strings.Repeat("x", 200)
	for _, name := range []string{part, "a/" + part + "/" + part + "/" + strings.Repeat("y", 512-404), "A-Za-z0-9._-/a..b/-", strings.Repeat("d/", 200) + "e"} {
		put(t, s, name, []byte(name))
		mustHold(t, s, name, []byte(name))
		if err := s.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	mustList(t, s, "")
}

func reopened(t *testing.T, o Opener) {
	s, err := o()
	if err != nil {
		t.Fatal(err)
	}
	data := content(1, 70_000)
	put(t, s, "snapshots/1", data)
	put(t, s, "snapshots/2", data)
	if err := s.Delete(t.Context(), "snapshots/2"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, o)
	mustList(t, again, "", "snapshots/1")
	mustHold(t, again, "snapshots/1", data)
	mustBe(t, again.Put(t.Context(), "snapshots/1", nil), store.ErrExists)
}

func readAll(t *testing.T, o Opener) {
	s := open(t, o)
	data := content(1, 1000)
	put(t, s, "a", data)
	for _, limit := range []int64{1000, 1001, 1 << 40} {
		if got, err := store.ReadAll(t.Context(), s, "a", limit); err != nil || !bytes.Equal(got, data) {
			t.Errorf("limit %d: %d bytes, %v", limit, len(got), err)
		}
	}
	for _, limit := range []int64{0, 1, 999} {
		_, err := store.ReadAll(t.Context(), s, "a", limit)
		mustBe(t, err, store.ErrTooLarge)
	}
	put(t, s, "empty", nil)
	if got, err := store.ReadAll(t.Context(), s, "empty", 0); err != nil || len(got) != 0 {
		t.Errorf("an empty file: %d bytes, %v", len(got), err)
	}
	_, err := store.ReadAll(t.Context(), s, "none", 10)
	mustBe(t, err, store.ErrNotFound)
}

func errorsSayWhat(t *testing.T, o Opener) {
	s := open(t, o)
	put(t, s, "a/b", nil)
	_, getErr := s.Get(t.Context(), "a/c")
	_, statErr := s.Stat(t.Context(), "a/c")
	for op, err := range map[string]error{"put": s.Put(t.Context(), "a/b", nil), "get": getErr, "stat": statErr} {
		var e *store.Error
		if !errors.As(err, &e) {
			t.Errorf("%s: %T is not a *store.Error", op, err)
			continue
		}
		if e.Op != op || e.Store != s.String() || !strings.HasPrefix(e.Name, "a/") {
			t.Errorf("%s: %+v", op, e)
		}
		for _, part := range []string{op, e.Name, s.String()} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not name %q", err, part)
			}
		}
	}
}

// abortUnfinished holds a store that is a store.Unfinished to that contract: whatever is taken for unfinished, files that are
// there stay, and a Put has put its file or nothing.
func abortUnfinished(t *testing.T, o Opener) {
	writer, ok := open(t, o).(store.Unfinished)
	if !ok {
		t.Skip("killed writers leave nothing in this store")
	}
	other := open(t, o).(store.Unfinished)
	mustAbort := func(before time.Time) (gone int) {
		t.Helper()
		gone, err := other.AbortUnfinished(t.Context(), before)
		if err != nil {
			t.Error(err)
		}
		return gone
	}
	later := time.Now().Add(24 * time.Hour)
	if n := mustAbort(later); n != 0 {
		t.Errorf("%d unfinished files in an empty place", n)
	}
	data := content(1, 1<<20)
	put(t, writer, "there", data)
	if n := mustAbort(later); n != 0 {
		t.Errorf("%d unfinished files after a put that has ended", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := other.AbortUnfinished(ctx, later)
	mustBe(t, err, context.Canceled)

	for i := range 20 {
		name := fmt.Sprintf("mid/%02d", i)
		finished := make(chan error, 1)
		go func() { finished <- writer.Put(t.Context(), name, data) }()
		for putErr, putting := error(nil), true; putting; {
			select {
			case putErr = <-finished:
				putting = false
				if _, err := other.Stat(t.Context(), name); (putErr == nil) != (err == nil) || err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Errorf("put says %v, and stat %v", putErr, err)
				}
			default:
				mustAbort(later)
			}
		}
		if err := store.PutSame(t.Context(), writer, name, data); err != nil {
			t.Error(err)
		}
		mustHold(t, other, name, data)
	}
	mustHold(t, other, "there", data)
	// By the store's clock: a file's own time is one of those.
	info, err := other.Stat(t.Context(), "there")
	if err != nil {
		t.Fatal(err)
	}
	if n := mustAbort(info.Modified); n != 0 {
		t.Errorf("%d unfinished files before anything was put", n)
	}
}
