package pipeline_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/store"
	"lethe/pipeline/store/storetest"
)

func (h *history) status(keys string, maxAge time.Duration) (*pipeline.StoreStatus, error) {
	h.t.Helper()
	c := pipeline.StatusConfig{MaxAge: maxAge, Retention: weekly, Now: h.clock}
	trust := archive.NewTrust()
	if keys != "" {
		trust, c.Trusts = archive.NewTrust(h.operator.Public()), true
	}
	if keys == "identity" {
		c.Readers = h.operator.Identities()
	}
	r, err := pipeline.OpenRepository(context.Background(), h.faulty, trust)
	if err != nil {
		h.t.Fatal(err)
	}
	c.Repository = r
	return pipeline.Status(context.Background(), c)
}

func TestStatusAge(t *testing.T) {
	h := newHistory(t, oneTable)
	for _, keys := range []string{"", "trust", "identity"} {
		if s, err := h.status(keys, time.Hour); err != nil || !s.Stale || s.Reason != "no snapshot" || s.Newest != "" {
			t.Errorf("an empty store: %+v, %v", s, err)
		}
	}
	began := h.now
	id := h.snapshotOf("a", "bb", "ccc")
	for _, c := range []struct {
		later time.Duration
		stale bool
		age   int64
	}{
		{0, false, 0}, {6*time.Hour + 30*time.Minute, false, 23400}, {6*time.Hour + 30*time.Minute + time.Second, true, 23401}, {400 * day, true, 400 * 86400},
		{-59 * time.Minute, false, 0},    // clocks differ a little
		{-61 * time.Minute, true, 0},     // or too much to tell
		{-10000 * day, true, 0},          // a name that would stay young for ever
		{-time.Hour - day/2, true, 0},    //
		{6 * time.Hour, false, 6 * 3600}, // and back
	} {
		h.now = began.Add(c.later)
		for keys, verified := range map[string]string{"": "listing", "trust": "signature", "identity": "manifest"} {
			s, err := h.status(keys, 6*time.Hour+30*time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if s.Stale != c.stale || s.Age != c.age || s.Newest != id || !s.Started.Equal(began) || s.Snapshots != 1 || s.Verified != verified ||
				s.MaxAge != 23400 || len(s.Problems) > 0 || (s.Reason == "ok") == c.stale {
				t.Errorf("%s later, with %q: %+v", c.later, keys, s)
			}
			if (s.Bytes > 6) != (keys == "identity") {
				t.Errorf("with %q it has %d bytes", keys, s.Bytes)
			}
		}
	}
}

// TestStatusAlarms plays two weeks in which backups stop after one, and come back a day later: the alarm begins with the
// first look after max_age and ends with the next snapshot.
func TestStatusAlarms(t *testing.T) {
	h := newHistory(t, oneTable)
	start := h.now
	const maxAge = 6*time.Hour + 30*time.Minute
	missing := func(at time.Time) bool { d := at.Sub(start); return d > 7*day && d < 8*day }
	last := start
	alarms := 0
	for ; h.now.Before(start.Add(14 * day)); h.now = h.now.Add(30 * time.Minute) {
		if h.now.Sub(start)%(6*time.Hour) == 0 && !missing(h.now) {
			h.snapshotOf("always")
			last = h.now
			h.expire(weekly)
		}
		s, err := h.status("", maxAge)
		if err != nil {
			t.Fatal(err)
		}
		if want := h.now.Sub(last) > maxAge; s.Stale != want {
			t.Fatalf("%s after the last one: %+v", h.now.Sub(last), s)
		}
		if s.Stale {
			alarms++
		}
	}
	if alarms != 34 { // half-hourly looks from 6:30 (exclusive) to 24:00 (exclusive)
		t.Errorf("%d alarms", alarms)
	}
}

// TestStatusBelieves: with keys a store can't make old look young, or take snapshots away unseen.
func TestStatusBelieves(t *testing.T) {
	start := twoWeeks(t)
	list := manifests(t, start.store)
	newest, _ := archive.SnapshotOf(list[len(list)-1])
	before, _ := archive.SnapshotOf(list[len(list)-2])
	fake := strings.Replace(newest, newest[:8], "20261116", 1)
	for _, c := range []struct {
		name    string
		spoil   func(h *history)
		newest  string // as the key knows it
		problem string // "" for none
	}{
		{"all is well", func(*history) {}, newest, ""},
		{"a file that only looks like a manifest", func(h *history) {
			for _, n := range []string{archive.ManifestName(fake), archive.ManifestName(fake) + archive.SignatureSuffix} {
				if err := h.store.Put(context.Background(), n, []byte("x")); err != nil {
					h.t.Fatal(err)
				}
			}
		}, newest, fake},
		{"an old manifest under a new name", func(h *history) {
			for _, s := range []string{"", archive.SignatureSuffix} {
				if err := h.store.Put(context.Background(), archive.ManifestName(fake)+s, h.read(archive.ManifestName(newest)+s)); err != nil {
					h.t.Fatal(err)
				}
			}
		}, newest, fake},
		{"the newest is damaged", func(h *history) {
			h.faulty.Add(storetest.Rule{On: storetest.Get, Name: archive.ManifestName(newest), Fault: storetest.FlipByte(-1)})
		}, before, newest},
		{"one is hidden that retention keeps", func(h *history) {
			h.faulty.Add(storetest.Rule{On: storetest.List, Name: archive.ManifestName(before), Fault: storetest.Hide()})
		}, newest, before},
		{"one is hidden that would go", func(h *history) {
			h.faulty.Add(storetest.Rule{On: storetest.List, Name: list[0], Fault: storetest.Hide()})
		}, newest, ""},
		{"one was swapped", func(h *history) {
			h.faulty.Add(storetest.Rule{On: storetest.Get, Name: list[1], Fault: storetest.Replace(h.read(list[0]))})
		}, newest, strings.TrimSuffix(strings.TrimPrefix(list[1], archive.SnapshotsPrefix), ".age")},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := start.copyOf(t)
			c.spoil(h)
			s, err := h.status("identity", 30*day)
			if err != nil {
				t.Fatal(err)
			}
			if s.Newest != c.newest {
				t.Errorf("newest %s, not %s", s.Newest, c.newest)
			}
			if c.problem == "" && len(s.Problems) > 0 || c.problem != "" && (len(s.Problems) != 1 || s.Problems[0].Snapshot != c.problem) {
				t.Errorf("problems %+v, not with %q", s.Problems, c.problem)
			}
		})
	}
	// Half an expiry is no betrayal.
	h := start.copyOf(t)
	h.faulty.Add(storetest.Rule{On: storetest.Delete, Name: "objects/", Fault: storetest.Fail(errKilled)})
	if _, err := pipeline.Expire(context.Background(), h.config(pipeline.Retention{KeepMin: 2})); err == nil {
		t.Fatal("it was not killed")
	}
	if s, err := h.status("identity", 30*day); err != nil || len(s.Problems) > 0 || s.Snapshots != 2 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestStatusStoreFails(t *testing.T) {
	h := newHistory(t, oneTable)
	h.snapshotOf("a")
	for _, rule := range []storetest.Rule{
		{On: storetest.List, Name: "snapshots/", Fault: storetest.Fail(errBroken)},
		{On: storetest.Get, Name: "snapshots/*.age", Fault: storetest.BreakAt(10, errBroken)},
		{On: storetest.Get, Name: "snapshots/*.minisig", Fault: storetest.Fail(store.ErrReadOnly)},
	} {
		h.faulty.Heal()
		h.faulty.Add(rule)
		if s, err := h.status("identity", day); err == nil {
			t.Errorf("%s %s: %+v", rule.On, rule.Name, s)
		}
	}
}
