package storetest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"

	"lethe/pipeline/store"
	"lethe/pipeline/store/dir"
	"lethe/pipeline/store/storetest"
)

func faulty(t *testing.T, rules ...storetest.Rule) *storetest.Faulty {
	t.Helper()
	s, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := storetest.NewFaulty(s, rules...)
	t.Cleanup(func() { f.Close() })
	return f
}

// Without rules a Faulty is an honest store.
func TestFaultyWithoutRulesConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Opener {
		place := t.TempDir()
		return func() (store.Store, error) {
			s, err := dir.Open(place)
			if err != nil {
				return nil, err
			}
			return storetest.NewFaulty(s), nil
		}
	})
}

func TestFaults(t *testing.T) {
	boom := errors.New("boom")
	data := []byte("0123456789")
	ctx := t.Context()
	names := func(s store.Store) []string {
		var names []string
		if err := s.List(ctx, "", func(i store.Info) error { names = append(names, i.Name); return nil }); err != nil {
			t.Error(err)
		}
		return names
	}
	read := func(s store.Store, name string) string {
		got, err := store.ReadAll(ctx, s, name, 100)
		if err != nil {
			return "error: " + err.Error()
		}
		return string(got)
	}

	for what, c := range map[string]struct {
		fault storetest.Fault
		want  string
	}{
		"flip":               {storetest.FlipByte(0), "1123456789"},
		"flip from the end":  {storetest.FlipByte(-1), "0123456788"},
		"flip past the end":  {storetest.FlipByte(10), "0123456789"},
		"truncate":           {storetest.Truncate(3), "012"},
		"truncate to zero":   {storetest.Truncate(0), ""},
		"truncate by":        {storetest.Truncate(-1), "012345678"},
		"replace":            {storetest.Replace([]byte("x")), "x"},
		"a wish that is nil": {storetest.Fault{}, "0123456789"},
	} {
		f := faulty(t, storetest.Rule{On: storetest.Get, Name: "objects/", Fault: c.fault})
		for _, name := range []string{"objects/ab/1", "snapshots/1"} {
			if err := f.Put(ctx, name, bytes.Clone(data)); err != nil {
				t.Fatal(err)
			}
		}
		if got := read(f, "objects/ab/1"); got != c.want {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
		if got := read(f, "snapshots/1"); got != string(data) {
			t.Errorf("%s: befell another file: %q", what, got)
		}
		f.Heal()
		if got := read(f, "objects/ab/1"); got != string(data) {
			t.Errorf("%s: after healing: %q", what, got)
		}
	}

	t.Run("the nth put", func(t *testing.T) {
		f := faulty(t, storetest.Rule{On: storetest.Put, Name: "objects/*/*", Nth: 2, Fault: storetest.DiskFull()})
		for i, wantErr := range []bool{false, true, false} {
			err := f.Put(ctx, fmt.Sprintf("objects/ab/%d", i), data)
			if wantErr != (errors.Is(err, syscall.ENOSPC) && errors.Is(err, store.ErrNoSpace)) || wantErr == (err == nil) {
				t.Errorf("put %d: %v", i, err)
			}
		}
		if got := names(f); !slices.Equal(got, []string{"objects/ab/0", "objects/ab/2"}) {
			t.Errorf("there are %q", got)
		}
		if got := f.Calls(storetest.Put, "objects/*/[01]"); !slices.Equal(got, []string{"objects/ab/0", "objects/ab/1"}) {
			t.Errorf("calls %q", got)
		}
	})
	t.Run("the answer is lost", func(t *testing.T) {
		f := faulty(t, storetest.Rule{On: storetest.Put, Nth: 1, Fault: storetest.FailAfter(boom)})
		if err := f.Put(ctx, "a", data); !errors.Is(err, boom) {
			t.Errorf("put: %v", err)
		}
		if got := read(f, "a"); got != string(data) {
			t.Errorf("the file that was put: %q", got)
		}
		if err := store.PutSame(ctx, f, "a", data); err != nil {
			t.Errorf("put again: %v", err)
		}
	})
	t.Run("the reader breaks", func(t *testing.T) {
		for _, n := range []int64{0, 4, 10} {
			f := faulty(t, storetest.Rule{On: storetest.Get, Fault: storetest.BreakAt(n, boom)})
			if err := f.Put(ctx, "a", data); err != nil {
				t.Fatal(err)
			}
			got, err := store.ReadAll(ctx, f, "a", 100)
			if !errors.Is(err, boom) || got != nil {
				t.Errorf("broken at %d: %q, %v", n, got, err)
			}
		}
	})
	t.Run("lost and hidden", func(t *testing.T) {
		f := faulty(t, storetest.Rule{Name: "lost", Fault: storetest.Lose()}, storetest.Rule{On: storetest.List, Name: "hidden", Fault: storetest.Hide()})
		for _, name := range []string{"hidden", "lost", "there"} {
			if err := f.Put(ctx, name, data); err != nil {
				t.Fatal(err)
			}
		}
		if got := names(f); !slices.Equal(got, []string{"there"}) {
			t.Errorf("list shows %q", got)
		}
		if got := read(f, "hidden"); got != string(data) {
			t.Errorf("a file that only List hides: %q", got)
		}
		if _, err := f.Get(ctx, "lost"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("get of a lost file: %v", err)
		}
		if _, err := f.Stat(ctx, "lost"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("stat of a lost file: %v", err)
		}
	})
	t.Run("stalled", func(t *testing.T) {
		reached := make(chan string)
		f := faulty(t, storetest.Rule{On: storetest.Put, Fault: storetest.Stall(reached)})
		ctx, cancel := context.WithCancel(ctx)
		finished := make(chan error)
		go func() { finished <- f.Put(ctx, "a", data) }()
		if name := <-reached; name != "a" {
			t.Errorf("stalled at %q", name)
		}
		cancel()
		if err := <-finished; !errors.Is(err, context.Canceled) {
			t.Errorf("a stalled put ended with %v", err)
		}
		if got := names(f); got != nil {
			t.Errorf("a stalled put left %q", got)
		}
	})
	t.Run("something else happens just then", func(t *testing.T) {
		f := faulty(t)
		f.Add(storetest.Rule{On: storetest.Get, Name: "a", Nth: 1, Fault: storetest.Call(func(name string) error { return f.Delete(ctx, name) })})
		if err := f.Put(ctx, "a", data); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Get(ctx, "a"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("get of what was deleted under it: %v", err)
		}
	})
}
