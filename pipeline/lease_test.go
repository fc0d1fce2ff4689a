package pipeline

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"lethe/pipeline/store"
	"lethe/pipeline/store/dir"
	"lethe/pipeline/store/storetest"
)

// leaseStore is a store for leases, and a clock that a test sets.
func leaseStore(t *testing.T, rules ...storetest.Rule) (*storetest.Faulty, *time.Time, func() time.Time) {
	t.Helper()
	d, err := dir.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	clock := time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)
	now := func() time.Time { return clock }
	return storetest.NewFaulty(&dated{d, now, map[string]time.Time{}}, rules...), &clock, now
}

// dated is a store with a clock of its own; nil: it gives no times.
type dated struct {
	store.Store
	now func() time.Time
	put map[string]time.Time
}

func (s *dated) Put(ctx context.Context, name string, data []byte) error {
	if s.now != nil {
		s.put[name] = s.now()
	}
	return s.Store.Put(ctx, name, data)
}

func (s *dated) List(ctx context.Context, prefix string, fn func(store.Info) error) error {
	return s.Store.List(ctx, prefix, func(i store.Info) error { i.Modified = s.put[i.Name]; return fn(i) })
}

func mustAcquire(t *testing.T, s store.Store, now func() time.Time) *held {
	t.Helper()
	h, err := acquire(context.Background(), s, "backup", now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Release(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return h
}

func leases(t *testing.T, s store.Store) (names []string) {
	t.Helper()
	err := s.List(context.Background(), locksPrefix, func(i store.Info) error { names = append(names, i.Name); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestLeaseExcludes(t *testing.T) {
	s, _, now := leaseStore(t)
	h := mustAcquire(t, s, now)
	if _, err := acquire(context.Background(), s, "backup", now); !errors.Is(err, ErrLocked) {
		t.Errorf("a second lease: %v", err)
	}
	if err := h.Renew(context.Background()); err != nil {
		t.Errorf("a run that was refused cost the other one its lease: %v", err)
	}
	if n := len(leases(t, s)); n != 1 {
		t.Errorf("%d leases are there after a renewal", n)
	}
}

// TestLostLeaseStaysLost: a machine sleeps for longer than its lease runs, another run takes over, and the machine
// wakes up. Its first renewal must not make its lease live again.
func TestLostLeaseStaysLost(t *testing.T) {
	for _, skewed := range []bool{false, true} { // it slept, or the other's clock is ahead of its own
		t.Run("skewed="+strconv.FormatBool(skewed), func(t *testing.T) {
			s, clock, now := leaseStore(t)
			sleeper := mustAcquire(t, s, now)
			*clock = clock.Add(leaseTerm + time.Minute)
			other := mustAcquire(t, s, now)
			if skewed {
				*clock = clock.Add(-leaseTerm)
			}
			for range 2 {
				if err := sleeper.Renew(context.Background()); !errors.Is(err, ErrLocked) {
					t.Errorf("a lost lease was renewed: %v", err)
				}
			}
			if err := other.Renew(context.Background()); err != nil {
				t.Error(err)
			}
			if names := leases(t, s); len(names) != 1 || names[0] != other.names[0] {
				t.Errorf("leases %v, not %v", names, other.names)
			}
		})
	}
}

// TestLeaseAcrossClocks: another machine's clock is ahead by more than a lease runs. It must not take a run that is at
// work for dead: an expire would go on deleting objects that the other's backup counts on.
func TestLeaseAcrossClocks(t *testing.T) {
	s, clock, now := leaseStore(t)
	h := mustAcquire(t, s, now)
	ahead := func() time.Time { return clock.Add(3 * time.Hour) }
	for range 3 {
		*clock = clock.Add(leaseTerm - time.Minute)
		if _, err := acquire(context.Background(), s, "backup", ahead); !errors.Is(err, ErrLocked) {
			t.Fatalf("the other machine: %v", err)
		}
		if err := h.Renew(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	*clock = clock.Add(leaseTerm + time.Second) // killed: it is renewed no more
	mustAcquire(t, s, ahead)
}

// TestRenewalAgainstTakeover: another run, whose clock is ahead at a store that gives no times, finds the lease dead; the first one renews it just
// then; and the other goes on to delete the file that it has read. One of the two must give way.
func TestRenewalAgainstTakeover(t *testing.T) {
	d, clock, now := leaseStore(t)
	s := storetest.NewFaulty(&dated{Store: d})
	first := mustAcquire(t, s, now)
	*clock = clock.Add(leaseTerm * 6 / 10)
	var renewed error
	s.Add(storetest.Rule{On: storetest.Delete, Name: first.names[0], Nth: 1, Fault: storetest.Call(func(string) error {
		renewed = first.Renew(context.Background())
		return nil
	})})
	other, err := acquire(context.Background(), s, "expire", func() time.Time { return clock.Add(leaseTerm / 2) })
	if err == nil {
		_ = other.Release(context.Background())
	}
	if renewed != nil || !errors.Is(err, ErrLocked) {
		t.Errorf("the first run's renewal: %v; the other's lease: %v", renewed, err)
	}
	if err := first.Renew(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestLeaseLeavesNothingBehind(t *testing.T) {
	lost := errors.New("the answer was lost")
	put := storetest.Rule{On: storetest.Put, Name: locksPrefix, Nth: 1, Fault: storetest.FailAfter(lost)}
	t.Run("taking", func(t *testing.T) {
		s, _, now := leaseStore(t, put)
		if _, err := acquire(context.Background(), s, "backup", now); !errors.Is(err, lost) {
			t.Fatal(err)
		}
		if names := leases(t, s); len(names) != 0 {
			t.Errorf("%v is left, and locks everybody out until it runs out", names)
		}
	})
	t.Run("renewing", func(t *testing.T) {
		s, _, now := leaseStore(t)
		h := mustAcquire(t, s, now)
		s.Add(put)
		if err := h.Renew(context.Background()); !errors.Is(err, lost) || errors.Is(err, ErrLocked) {
			t.Errorf("a store that fails: %v", err)
		}
		if err := h.Renew(context.Background()); err != nil { // the lease still runs
			t.Error(err)
		}
		if names := leases(t, s); len(names) != 1 {
			t.Errorf("leases after a renewal: %v", names)
		}
	})
}

// TestUnfinishedUnderALease: what was there before the lease goes, as long as the lease stands and it is known since when.
func TestUnfinishedUnderALease(t *testing.T) {
	place := t.TempDir()
	d, err := dir.Open(place)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	left := filepath.Join(place, ".tmp", "left")
	h := mustAcquire(t, d, time.Now)
	old := time.Now().Add(-time.Minute)
	if err := errors.Join(os.WriteFile(left, nil, 0o600), os.Chtimes(left, old, old)); err != nil {
		t.Fatal(err)
	}
	since := h.since
	h.since = time.Time{}
	if gone, err := h.abortUnfinished(t.Context()); err == nil || gone != 0 {
		t.Errorf("the store did not list the lease, and %d have gone, %v", gone, err)
	}
	h.since, h.lost = since, ErrLocked
	if gone, err := h.abortUnfinished(t.Context()); !errors.Is(err, ErrLocked) || gone != 0 {
		t.Errorf("the lease was lost, and %d have gone, %v", gone, err)
	}
	h.lost = nil
	if gone, err := h.abortUnfinished(t.Context()); err != nil || gone != 1 {
		t.Errorf("%d have gone, %v", gone, err)
	}
}
