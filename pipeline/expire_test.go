package pipeline_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/store"
	"lethe/pipeline/store/dir"
	"lethe/pipeline/store/storetest"
)

const day = 24 * time.Hour

var (
	// weekly is what init writes.
	weekly   = pipeline.Retention{KeepWithin: 7 * day, KeepMin: 1}
	firstRun = time.Date(2026, 11, 1, 0, 17, 0, 0, time.UTC)
)

func ids(t testing.TB, times ...time.Time) (list []string) {
	t.Helper()
	for i, at := range times {
		id, err := archive.NewSnapshotID(at, bytes.NewReader([]byte{0, byte(i >> 8), byte(i)}))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, id)
	}
	return list
}

func TestDecide(t *testing.T) {
	now := firstRun.Add(30 * day)
	var times []time.Time
	for _, age := range []time.Duration{10 * day, 7 * day, 7*day - time.Second, time.Hour} {
		times = append(times, now.Add(-age))
	}
	for _, c := range []struct {
		name   string
		policy pipeline.Retention
		n      int // of the four above, the oldest first
		want   string
	}{
		{"within", pipeline.Retention{KeepWithin: 7 * day}, 4, "remove: not younger than 7d|remove: not younger than 7d|keep: younger than 7d|keep: the newest"},
		{"min", pipeline.Retention{KeepMin: 2}, 4, "remove: not one of the newest 2|remove: not one of the newest 2|keep: one of the newest 2|keep: the newest"},
		{"both", pipeline.Retention{KeepWithin: 2 * time.Hour, KeepMin: 3}, 4,
			"remove: not younger than 2h, not one of the newest 3|keep: one of the newest 3|keep: one of the newest 3|keep: the newest"},
		{"one that is old", pipeline.Retention{KeepWithin: time.Minute}, 1, "keep: the newest"},
		{"newest alone", pipeline.Retention{KeepMin: 1}, 2, "remove: not the newest|keep: the newest"},
		{"none", weekly, 0, ""},
		{"more than there are", pipeline.Retention{KeepMin: 100}, 2, "keep: one of the newest 100|keep: the newest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, v := range c.policy.Decide(ids(t, times[:c.n]...), now) {
				word := "remove"
				if v.Keep {
					word = "keep"
				}
				got = append(got, word+": "+v.Reason)
			}
			if got := strings.Join(got, "|"); got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestDecideProperties: what the policy promises, for any snapshots, in any order, at any time.
func TestDecideProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		now := firstRun.Add(time.Duration(rapid.IntRange(-3600, 40*86400).Draw(rt, "now")) * time.Second)
		var times []time.Time
		for _, s := range rapid.SliceOfN(rapid.IntRange(0, 30*86400), 0, 40).Draw(rt, "times") {
			times = append(times, firstRun.Add(time.Duration(s)*time.Second))
		}
		policy := pipeline.Retention{KeepWithin: time.Duration(rapid.IntRange(0, 20*86400).Draw(rt, "within")) * time.Second, KeepMin: rapid.IntRange(0, 50).Draw(rt, "min")}
		given := rapid.Permutation(ids(t, times...)).Draw(rt, "order")
		verdicts := policy.Decide(given, now)
		if len(verdicts) != len(given) {
			rt.Fatalf("%d verdicts on %d snapshots", len(verdicts), len(given))
		}
		kept, keeping := map[string]bool{}, false
		for i, v := range verdicts {
			if !slices.Contains(given, v.Snapshot) || v.Reason == "" || i > 0 && verdicts[i-1].Snapshot >= v.Snapshot {
				rt.Fatalf("verdict %+v", v)
			}
			if keeping && !v.Keep {
				rt.Fatalf("%s goes and an older one stays", v.Snapshot)
			}
			if keeping = v.Keep; keeping {
				kept[v.Snapshot] = true
			}
			within := policy.KeepWithin > 0 && now.Sub(v.Started) < policy.KeepWithin
			newest := len(verdicts) - i // 1 for the newest
			if want := within || newest <= policy.KeepMin || newest == 1; v.Keep != want {
				rt.Fatalf("%+v, age %s, number %d from the newest, policy %+v", v, now.Sub(v.Started), newest, policy)
			}
		}
		// Expiring twice is expiring once, and what is gone makes nothing else go later at the same time.
		for _, v := range policy.Decide(slices.Collect(maps.Keys(kept)), now) {
			if !v.Keep {
				rt.Fatalf("%s stays at first and goes then", v.Snapshot)
			}
		}
	})
}

func TestPeriod(t *testing.T) {
	for want, d := range map[string]time.Duration{"7d": 7 * day, "6h30m": 6*time.Hour + 30*time.Minute, "1d2h": 26 * time.Hour, "45m": 45 * time.Minute, "1m30s": 90 * time.Second,
		"10h": 10 * time.Hour, "20s": 20 * time.Second, "0s": 0} {
		if got := pipeline.Period(d); got != want {
			t.Errorf("%v is written %s, not %s", d, got, want)
		}
	}
}

// clocked is a store whose own clock is the test's.
type clocked struct {
	store.Store
	now func() time.Time
	mu  sync.Mutex
	put map[string]time.Time
}

func (c *clocked) Put(ctx context.Context, name string, data []byte) error {
	c.mu.Lock()
	c.put[name] = c.now()
	c.mu.Unlock()
	return c.Store.Put(ctx, name, data)
}

func (c *clocked) dated(i store.Info) store.Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.put[i.Name]; ok {
		i.Modified = at
	}
	return i
}

func (c *clocked) Stat(ctx context.Context, name string) (store.Info, error) {
	i, err := c.Store.Stat(ctx, name)
	return c.dated(i), err
}

func (c *clocked) List(ctx context.Context, prefix string, fn func(store.Info) error) error {
	return c.Store.List(ctx, prefix, func(i store.Info) error { return fn(c.dated(i)) })
}

// AbortUnfinished hands on a time of the test's clock as what it is by the clock of the store beneath.
func (c *clocked) AbortUnfinished(ctx context.Context, before time.Time) (int, error) {
	if beneath, ok := c.Store.(store.Unfinished); ok {
		return beneath.AbortUnfinished(ctx, time.Now().Add(before.Sub(c.now())))
	}
	return 0, nil
}

// history is a site whose time a test sets.
type history struct {
	*site
	now      time.Time
	faulty   *storetest.Faulty // what flows see; site.store is beneath
	template *archive.Manifest
}

func newHistory(t *testing.T, sql string) *history {
	t.Helper()
	h := &history{site: newSite(t, sql), now: firstRun}
	h.faulty = h.over(h.store)
	return h
}

func (h *history) clock() time.Time { return h.now }

func (h *history) over(s store.Store) *storetest.Faulty {
	return storetest.NewFaulty(&clocked{Store: s, now: h.clock, put: map[string]time.Time{}})
}

// date gives a manifest the time that it is, and stores it beside those that are listed.
func (h *history) date(m *archive.Manifest) string {
	h.t.Helper()
	ctx := context.Background()
	r := h.open()
	id, err := archive.NewSnapshotID(h.now, bytes.NewReader([]byte{1, 2, 3}))
	if err != nil {
		h.t.Fatal(err)
	}
	m.ID, m.Started, m.Finished, m.Alive = id, h.now, h.now, nil
	for _, name := range manifests(h.t, h.store) {
		other, _ := archive.SnapshotOf(name)
		m.Alive = append(m.Alive, archive.SnapshotRef{ID: other, Digest: archive.Digest(h.read(name))})
	}
	data, _, err := archive.WriteManifest(m, h.to, h.operator)
	if err != nil {
		h.t.Fatal(err)
	}
	name := archive.ManifestName(id)
	sig, err := archive.Sign(h.operator.Signing, archive.PurposeManifest, r.ID, name, data)
	if err != nil {
		h.t.Fatal(err)
	}
	if err := errors.Join(h.faulty.Put(ctx, name+archive.SignatureSuffix, sig), h.faulty.Put(ctx, name, data)); err != nil {
		h.t.Fatal(err)
	}
	return id
}

// backupNow takes a real snapshot, and gives it the time that it is: a server has no clock that a test could set.
func (h *history) backupNow() string {
	h.t.Helper()
	id := h.backup()
	m := h.manifest(h.open(), id, h.operator.Identities())
	name := archive.ManifestName(id)
	if err := errors.Join(h.store.Delete(context.Background(), name), h.store.Delete(context.Background(), name+archive.SignatureSuffix)); err != nil {
		h.t.Fatal(err)
	}
	return h.date(m)
}

// snapshotOf stores a snapshot that names objects of these contents, beside those of a real one's DDL.
func (h *history) snapshotOf(contents ...string) string {
	h.t.Helper()
	if h.template == nil {
		h.template = h.manifest(h.open(), h.backup(), h.operator.Identities())
		h.remove(manifests(h.t, h.store)...)
	}
	m := *h.template
	m.Parts = slices.Clone(m.Parts)
	for i := range m.Parts {
		if m.Parts[i].Kind != archive.Table {
			continue
		}
		m.Parts[i].Rows, m.Parts[i].Objects, m.Parts[i].Filters = 0, nil, nil
		for n, c := range contents {
			o := archive.Object{Object: archive.Digest([]byte(c)), Size: int64(len(c)), Text: 1, Piece: archive.Digest([]byte("piece " + c))}
			if err := h.faulty.Put(context.Background(), archive.ObjectName(o.Object), []byte(c)); err != nil && !errors.Is(err, store.ErrExists) {
				h.t.Fatal(err)
			}
			if n%3 == 2 { // filters are objects too
				m.Parts[i].Filters = append(m.Parts[i].Filters, o)
			} else {
				m.Parts[i].Objects = append(m.Parts[i].Objects, o)
			}
		}
	}
	return h.date(&m)
}

func (h *history) remove(names ...string) {
	h.t.Helper()
	for _, n := range names {
		if err := errors.Join(h.store.Delete(context.Background(), n), h.store.Delete(context.Background(), n+archive.SignatureSuffix)); err != nil {
			h.t.Fatal(err)
		}
	}
}

func (h *history) holds(content string) bool {
	_, err := h.store.Stat(context.Background(), archive.ObjectName(archive.Digest([]byte(content))))
	return err == nil
}

func (h *history) config(policy pipeline.Retention, stores ...store.Store) pipeline.ExpireConfig {
	h.t.Helper()
	c := pipeline.ExpireConfig{Readers: h.operator.Identities(), Retention: policy, Workers: 4, Now: h.clock, Warn: func(msg string) { h.heard.say(msg) }}
	if len(stores) == 0 {
		stores = []store.Store{h.faulty}
	}
	for _, s := range stores {
		r, err := pipeline.OpenRepository(context.Background(), s, archive.NewTrust(h.operator.Public()))
		if err != nil {
			h.t.Fatal(err)
		}
		c.Repositories = append(c.Repositories, r)
	}
	return c
}

func (h *history) expire(policy pipeline.Retention) *pipeline.ExpireReport {
	h.t.Helper()
	report, err := pipeline.Expire(context.Background(), h.config(policy))
	if err != nil {
		h.t.Fatal(err)
	}
	return report
}

// whole makes sure that every listed snapshot has all it names.
func (h *history) whole(what string) {
	h.t.Helper()
	if check := h.check(h.open(), 1); len(check.Problems) > 0 {
		h.t.Errorf("%s: %v", what, check.Problems)
	}
}

// TestEverySixHours plays three days of backups, each followed by expire: two days' eight stay, and the oldest of them
// restores.
func TestEverySixHours(t *testing.T) {
	h := newHistory(t, `CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (0)`)
	at, err := url.Parse(h.url)
	if err != nil {
		t.Fatal(err)
	}
	db := strings.TrimPrefix(at.Path, "/")
	const runs, kept = 11, 8
	twoDays := pipeline.Retention{KeepWithin: 2 * day, KeepMin: 1}
	for n := 1; n <= runs; n++ {
		h.now = firstRun.Add(time.Duration(n) * 6 * time.Hour)
		if err := pgtest.Server(t).Exec(context.Background(), db, fmt.Sprintf("INSERT INTO t VALUES (%d)", n)); err != nil {
			t.Fatal(err)
		}
		h.backupNow()
		h.now = h.now.Add(3 * time.Minute) // a run takes its time
		report := h.expire(twoDays)
		if got, want := len(manifests(t, h.store)), min(n, kept); got != want {
			t.Fatalf("after %d runs %d snapshots are there, not %d: %+v", n, got, want, report.Stores[0].Snapshots)
		}
	}
	check := h.check(h.open(), 1)
	if len(check.Problems) > 0 || check.Unnamed != 0 || check.Snapshots != kept {
		t.Errorf("%+v", check)
	}
	if left := append(names(t, h.store, "expired/"), names(t, h.store, "locks/")...); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	oldest, _ := archive.SnapshotOf(manifests(t, h.store)[0])
	into := pgtest.DBName(t)
	if err := h.restoreInto(h.open(), oldest, into); err != nil {
		t.Fatal(err)
	}
	if rows, err := pgtest.Server(t).Value(context.Background(), into, "SELECT count(*) FROM t"); err != nil || rows != fmt.Sprint(runs-kept+2) {
		t.Errorf("the oldest that is left has %s rows: %v", rows, err)
	}

	// The backups stop. The newest one outlives everything.
	h.now = h.now.Add(1000 * day)
	h.expire(twoDays)
	if left := manifests(t, h.store); len(left) != 1 {
		t.Errorf("%v", left)
	}
	h.whole("the last one")
}

const oneTable = `CREATE TABLE t (id int PRIMARY KEY)`

// TestExpireSharedObjects: only what no snapshot that stays names is deleted; what nothing names is left alone, unless
// left-overs are to go and it is a day old.
func TestExpireSharedObjects(t *testing.T) {
	h := newHistory(t, oneTable)
	ctx := context.Background()
	h.snapshotOf("always", "old a", "old filter", "both")
	h.now = h.now.Add(day)
	h.snapshotOf("always", "both", "old b", "kept object that was a filter")
	h.now = h.now.Add(8 * day)
	h.snapshotOf("always", "new", "kept object that was a filter")
	for _, c := range []string{"of an interrupted run", "of one just now"} {
		if err := h.faulty.Put(ctx, archive.ObjectName(archive.Digest([]byte(c))), []byte(c)); err != nil {
			t.Fatal(err)
		}
		h.now = h.now.Add(20 * time.Hour)
	}

	before := names(t, h.store, "")
	c := h.config(weekly)
	c.DryRun = true
	dry, err := pipeline.Expire(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if after := names(t, h.store, ""); !slices.Equal(before, after) || len(h.faulty.Calls(storetest.Put, "locks/")) > 0 {
		t.Errorf("a dry run changed the store: %v", after)
	}
	wet := h.expire(weekly)
	d, w := dry.Stores[0], wet.Stores[0]
	if !slices.Equal(d.Snapshots, w.Snapshots) || d.Removed != w.Removed || d.Objects != w.Objects || d.Bytes != w.Bytes || w.Removed != 2 {
		t.Errorf("a dry run said %+v\nand then it was %+v", d, w)
	}
	for content, want := range map[string]bool{"always": true, "new": true, "kept object that was a filter": true, "of an interrupted run": true, "of one just now": true,
		"old a": false, "old b": false, "both": false, "old filter": false} {
		if h.holds(content) != want {
			t.Errorf("object %q is there: %v", content, !want)
		}
	}
	if w.Objects != 4 || w.Bytes != int64(len("old aold bbothold filter")) {
		t.Errorf("%+v", w)
	}
	h.whole("shared objects")

	h.killedPut(archive.ObjectsPrefix, time.Now().Add(-time.Minute))
	if h.expire(weekly); len(h.unfinished()) != 1 {
		t.Errorf("of what was not finished there is %q", h.unfinished())
	}
	c.DryRun, c.Leftovers = false, true
	report, err := pipeline.Expire(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if got := report.Stores[0]; got.Unfinished != 1 || len(h.unfinished()) != 0 || got.Leftovers != 1 || got.Objects != 1 || h.holds("of an interrupted run") || !h.holds("of one just now") {
		t.Errorf("%+v", got)
	}
	h.whole("left-overs")
}

// twoWeeks is a store with something to expire and objects that cross the border.
func twoWeeks(t *testing.T) *history {
	t.Helper()
	h := newHistory(t, oneTable)
	for i := range 6 {
		h.snapshotOf("always", fmt.Sprint("own ", i), fmt.Sprint("pair ", i/2), fmt.Sprint("mixed ", (i+1)/2))
		h.now = h.now.Add(2*day + 12*time.Hour)
	}
	return h
}

// copyOf is the same repository in another directory.
func (h *history) copyOf(t *testing.T) *history {
	t.Helper()
	c := *h
	path := filepath.Join(t.TempDir(), "store")
	if err := os.CopyFS(path, os.DirFS(h.path)); err != nil {
		t.Fatal(err)
	}
	d, err := dir.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	c.site = h.elsewhere(t, d, path)
	c.faulty = c.over(d)
	return &c
}

// elsewhere is the site with another store that holds its repository.
func (s *site) elsewhere(t *testing.T, in store.Store, path string) *site {
	return &site{t: t, url: s.url, operator: s.operator, public: s.public, private: s.private, to: s.to, holder: s.holder, rules: s.rules, path: path, store: in}
}

var errKilled = errors.New("killed")

// killAt makes every call from the nth on fail: what a killed process leaves is what it had done by then.
func (h *history) killAt(n int) {
	var mu sync.Mutex
	calls := 0
	h.faulty.Add(storetest.Rule{Fault: storetest.Call(func(string) error {
		mu.Lock()
		defer mu.Unlock()
		if calls++; calls >= n {
			return errKilled
		}
		return nil
	})})
}

// TestExpireKilled kills a run before each of its calls of the store, and again the run after that. Every listed snapshot
// is whole all the time, and the run that is let alone ends where an uninterrupted one does.
func TestExpireKilled(t *testing.T) {
	start := twoWeeks(t)
	full := start.copyOf(t)
	calls := 0
	var mu sync.Mutex
	full.faulty.Add(storetest.Rule{Fault: storetest.Call(func(string) error { mu.Lock(); calls++; mu.Unlock(); return nil })})
	full.expire(weekly)
	want := names(t, full.store, "")
	if len(manifests(t, full.store)) == len(manifests(t, start.store)) || calls < 30 {
		t.Fatalf("nothing expires, in %d calls", calls)
	}
	full.whole("uninterrupted")
	rounds, draw := storetest.Rounds(t, 8)
	for round := range rounds {
		h := start.copyOf(t)
		var kills []int
		for range 1 + draw.IntN(3) {
			kills = append(kills, 1+draw.IntN(calls+5))
			c := h.config(weekly)
			h.killAt(kills[len(kills)-1])
			c.Workers = 1 + draw.IntN(4)
			if _, err := pipeline.Expire(context.Background(), c); err != nil && !errors.Is(err, errKilled) {
				t.Fatalf("round %d: %v", round, err)
			}
			h.faulty.Heal()
			if check := h.check(h.open(), 1); len(check.Problems) > 0 {
				t.Fatalf("round %d: after kills at %v: %v", round, kills, check.Problems)
			}
			h.now = h.now.Add(11 * time.Minute) // the lease of the killed one runs out
		}
		h.expire(weekly)
		if got := names(t, h.store, ""); !slices.Equal(got, want) {
			t.Fatalf("round %d: after kills at %v the store holds\n%v\nnot\n%v", round, kills, got, want)
		}
	}
}

// TestExpireAnswersLost: each call does its work, and its answer is lost.
func TestExpireAnswersLost(t *testing.T) {
	start := twoWeeks(t)
	full := start.copyOf(t)
	full.expire(weekly)
	want := names(t, full.store, "")
	for _, rule := range []storetest.Rule{
		{On: storetest.Put, Name: "locks/", Nth: 1}, {On: storetest.Put, Name: "locks/", Nth: 2},
		{On: storetest.Put, Name: "expired/*.minisig", Nth: 1}, {On: storetest.Put, Name: "expired/*.age", Nth: 2},
		{On: storetest.Delete, Name: "snapshots/*.age", Nth: 1}, {On: storetest.Delete, Name: "snapshots/*.minisig", Nth: 2},
		{On: storetest.Delete, Name: "objects/", Nth: 1}, {On: storetest.Delete, Name: "expired/*.age", Nth: 1}, {On: storetest.Delete, Name: "expired/*.minisig", Nth: 1},
	} {
		t.Run(fmt.Sprintf("%s %s %d", rule.On, strings.ReplaceAll(rule.Name, "/", " "), rule.Nth), func(t *testing.T) {
			h := start.copyOf(t)
			rule.Fault = storetest.FailAfter(errBroken)
			h.faulty.Add(rule)
			if _, err := pipeline.Expire(context.Background(), h.config(weekly)); !errors.Is(err, errBroken) {
				t.Errorf("error %v", err)
			}
			h.whole("answer lost")
			h.faulty.Heal()
			h.now = h.now.Add(11 * time.Minute)
			h.expire(weekly)
			if got := names(t, h.store, ""); !slices.Equal(got, want) {
				t.Errorf("the store holds\n%v\nnot\n%v", got, want)
			}
		})
	}
}

// TestExpireResumedUnderAnotherPolicy: a run was killed before a snapshot left the list, and then retention was loosened.
func TestExpireResumedUnderAnotherPolicy(t *testing.T) {
	h := twoWeeks(t)
	listed := manifests(t, h.store)
	h.faulty.Add(storetest.Rule{On: storetest.Delete, Name: "snapshots/", Fault: storetest.Fail(errKilled)})
	if _, err := pipeline.Expire(context.Background(), h.config(weekly)); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	h.faulty.Heal()
	if len(names(t, h.store, "expired/")) == 0 {
		t.Fatal("it was not killed in the middle")
	}
	h.expire(pipeline.Retention{KeepMin: 100})
	if got := manifests(t, h.store); !slices.Equal(got, listed) {
		t.Errorf("%v is left of %v", got, listed)
	}
	if left := names(t, h.store, "expired/"); len(left) > 0 {
		t.Errorf("%v", left)
	}
	h.whole("kept after all")
}

// TestExpireListLeavesOut: an interrupted run has copied a snapshot to expired/, retention was loosened, and now the list
// leaves the snapshot out. It is there, so its objects stay.
func TestExpireListLeavesOut(t *testing.T) {
	h := twoWeeks(t)
	listed := manifests(t, h.store)
	h.faulty.Add(storetest.Rule{On: storetest.Delete, Name: "snapshots/", Fault: storetest.Fail(errKilled)})
	if _, err := pipeline.Expire(context.Background(), h.config(weekly)); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	h.faulty.Heal()
	h.faulty.Add(storetest.Rule{On: storetest.List, Name: listed[0], Fault: storetest.Hide()})
	if _, err := pipeline.Expire(context.Background(), h.config(pipeline.Retention{KeepMin: 100})); !errors.Is(err, pipeline.ErrIntegrity) {
		t.Errorf("error %v", err)
	}
	if got := manifests(t, h.store); !slices.Equal(got, listed) {
		t.Errorf("%v is left of %v", got, listed)
	}
	h.whole("a list that left one out")
}

// TestExpireRefuses: what can't be read or believed, or a clock that is wrong, costs no file.
func TestExpireRefuses(t *testing.T) {
	start := twoWeeks(t)
	list := manifests(t, start.store)
	first, last := list[0], list[len(list)-1]
	for _, c := range []struct {
		name   string
		spoil  func(h *history, c *pipeline.ExpireConfig)
		want   error
		saying string
	}{
		{"no policy", func(h *history, c *pipeline.ExpireConfig) { c.Retention = pipeline.Retention{} }, pipeline.ErrConfig, "nothing says what to keep"},
		{"one that goes is damaged", func(h *history, _ *pipeline.ExpireConfig) {
			h.faulty.Add(storetest.Rule{On: storetest.Get, Name: first, Fault: storetest.FlipByte(-40)})
		}, pipeline.ErrIntegrity, ""},
		{"one that stays is damaged", func(h *history, _ *pipeline.ExpireConfig) {
			h.faulty.Add(storetest.Rule{On: storetest.Get, Name: last, Fault: storetest.FlipByte(-40)})
		}, pipeline.ErrIntegrity, ""},
		{"one is cut short", func(h *history, _ *pipeline.ExpireConfig) {
			h.faulty.Add(storetest.Rule{On: storetest.Get, Name: last, Fault: storetest.Truncate(-1)})
		}, pipeline.ErrIntegrity, ""},
		{"a signature is gone", func(h *history, _ *pipeline.ExpireConfig) {
			h.faulty.Add(storetest.Rule{On: storetest.Get, Name: last + archive.SignatureSuffix, Fault: storetest.Lose()})
		}, pipeline.ErrIntegrity, "no signature"},
		{"the signer is not trusted", func(h *history, c *pipeline.ExpireConfig) {
			other, err := archive.GenerateSigner()
			if err != nil {
				h.t.Fatal(err)
			}
			r, err := pipeline.OpenRepository(context.Background(), h.faulty, archive.NewTrust(other.Public()))
			if err != nil {
				h.t.Fatal(err)
			}
			c.Repositories = []*pipeline.Repository{r}
		}, pipeline.ErrIntegrity, ""},
		{"one was swapped for another of the operator's", func(h *history, _ *pipeline.ExpireConfig) {
			now := h.now
			began := archive.SnapshotTime(strings.TrimSuffix(strings.TrimPrefix(first, archive.SnapshotsPrefix), ".age"))
			h.remove(first)
			h.now = began
			m := *h.template
			h.date(&m)
			h.now = now
		}, pipeline.ErrIntegrity, "swapped"},
		{"one that would stay is hidden", func(h *history, _ *pipeline.ExpireConfig) {
			h.faulty.Add(storetest.Rule{On: storetest.List, Name: list[len(list)-2], Fault: storetest.Hide()})
		}, pipeline.ErrIntegrity, "hides it"},
		{"a snapshot of the future", func(h *history, _ *pipeline.ExpireConfig) { h.now = h.now.Add(-3*day - 2*time.Hour) }, nil, "lies in the future"},
		{"our clock is ahead of the store's", func(h *history, c *pipeline.ExpireConfig) {
			c.Now = func() time.Time { return h.now.Add(100 * day) }
		}, nil, "no age can be believed"},
		{"what an interrupted run left is damaged", func(h *history, _ *pipeline.ExpireConfig) {
			id := strings.Replace(strings.TrimPrefix(first, archive.SnapshotsPrefix), "2026", "2025", 1)
			for _, n := range []string{id, id + archive.SignatureSuffix} {
				if err := h.store.Put(context.Background(), "expired/"+n, h.read(first)[:40]); err != nil {
					h.t.Fatal(err)
				}
			}
		}, pipeline.ErrIntegrity, "expired/"},
		{"the list ends early", func(h *history, _ *pipeline.ExpireConfig) {
			h.faulty.Add(storetest.Rule{On: storetest.List, Name: "snapshots/", Fault: storetest.Fail(errBroken)})
		}, errBroken, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := start.copyOf(t)
			config := h.config(weekly)
			c.spoil(h, &config)
			before := names(t, h.store, "")
			_, err := pipeline.Expire(context.Background(), config)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.saying) {
				t.Errorf("error %v", err)
			}
			if after := names(t, h.store, ""); !slices.Equal(before, after) {
				t.Errorf("before\n%v\nafter\n%v", before, after)
			}
			if deleted := h.faulty.Calls(storetest.Delete, "objects/"); len(deleted) > 0 {
				t.Errorf("it tried to delete %v", deleted)
			}
		})
	}
}

// TestExpireAndBackupExclude: neither starts while the other is at work.
func TestExpireAndBackupExclude(t *testing.T) {
	pgtest.NoLeaks(t)
	h := twoWeeks(t)
	h.now = time.Now() // a backup's lease runs by the clock of this machine
	var during error
	h.faulty.Add(storetest.Rule{On: storetest.Delete, Name: "objects/", Nth: 1, Fault: storetest.Call(func(string) error {
		_, during = pipeline.Backup(context.Background(), h.site.config(h.store))
		return nil
	})})
	h.expire(weekly)
	if !errors.Is(during, pipeline.ErrLocked) || !strings.Contains(during.Error(), "an expire run holds it") {
		t.Errorf("a backup while expire runs: %v", during)
	}
	if n := len(h.faulty.Calls(storetest.Delete, "objects/")); n == 0 {
		t.Fatal("nothing expired")
	}

	during = nil
	var report *pipeline.ExpireReport
	faulty := storetest.NewFaulty(h.store, storetest.Rule{On: storetest.Put, Name: "objects/", Nth: 1, Fault: storetest.Call(func(string) error {
		report, during = pipeline.Expire(context.Background(), h.config(weekly, h.store))
		return nil
	})})
	full := h.site.config(faulty)
	full.Full = true // else there would be nothing to put
	if _, err := pipeline.Backup(context.Background(), full); err != nil {
		t.Error(err)
	}
	if !errors.Is(during, pipeline.ErrLocked) || report == nil || report.Stores[0].Removed > 0 {
		t.Errorf("expire while a backup runs: %v, %+v", during, report)
	}
	h.whole("after both")
}

// TestExpireLosesItsLease: who took the lease away may use any object from then on.
func TestExpireLosesItsLease(t *testing.T) {
	h := twoWeeks(t)
	h.faulty.Add(storetest.Rule{On: storetest.Delete, Name: "objects/", Nth: 1, Fault: storetest.Call(func(string) error {
		h.now = h.now.Add(time.Hour) // the machine slept
		return nil
	})})
	c := h.config(weekly)
	c.Workers = 1
	if _, err := pipeline.Expire(context.Background(), c); !errors.Is(err, pipeline.ErrLocked) {
		t.Errorf("error %v", err)
	}
	if tried := h.faulty.Calls(storetest.Delete, "objects/"); len(tried) != 1 {
		t.Errorf("it went on to delete %v", tried)
	}
}

// TestExpireStopsBeforeItsLeaseEnds: a deletion that is tried again and again must not outlast the lease.
func TestExpireStopsBeforeItsLeaseEnds(t *testing.T) {
	h := twoWeeks(t)
	h.faulty.Add(storetest.Rule{On: storetest.Delete, Name: "objects/", Nth: 1, Fault: storetest.Call(func(string) error {
		h.now = h.now.Add(6 * time.Minute) // of ten
		return nil
	})})
	c := h.config(weekly)
	c.Workers = 1
	if _, err := pipeline.Expire(context.Background(), c); !errors.Is(err, pipeline.ErrLocked) {
		t.Errorf("error %v", err)
	}
	if tried := h.faulty.Calls(storetest.Delete, "objects/"); len(tried) != 1 {
		t.Errorf("it went on to delete %v", tried)
	}
	h.faulty.Heal()
	h.expire(weekly)
	h.whole("ended")
}

// TestExpireInterrupted: Ctrl-C in the middle says that there is something to end.
func TestExpireInterrupted(t *testing.T) {
	pgtest.NoLeaks(t)
	h := twoWeeks(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	h.faulty.Add(storetest.Rule{On: storetest.Delete, Name: "objects/", Nth: 2, Fault: storetest.Call(func(string) error { cancel(); return ctx.Err() })})
	if _, err := pipeline.Expire(ctx, h.config(weekly)); !errors.Is(err, context.Canceled) || !errors.Is(err, pipeline.ErrLeftBehind) {
		t.Errorf("error %v", err)
	}
	h.whole("interrupted")
	if left := names(t, h.store, "locks/"); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	h.faulty.Heal()
	if report := h.expire(weekly); report.Stores[0].Resumed == 0 || len(names(t, h.store, "expired/")) > 0 {
		t.Errorf("%+v", report)
	}
	h.whole("ended")
}

// TestExpireStaleList: a store that goes on listing what was deleted loses no object to it.
func TestExpireStaleList(t *testing.T) {
	h := twoWeeks(t)
	h.faulty.Add(storetest.Rule{On: storetest.Delete, Name: "snapshots/*.age", Nth: 1, Fault: storetest.Call(func(name string) error {
		data := h.read(name)
		h.faulty.Add(storetest.Rule{On: storetest.Delete, Name: name + archive.SignatureSuffix, Nth: 1, Fault: storetest.Call(func(string) error {
			return h.store.Put(context.Background(), name, data) // it is back
		})})
		return nil
	})})
	if _, err := pipeline.Expire(context.Background(), h.config(weekly)); err == nil || !strings.Contains(err.Error(), "still listed") {
		t.Errorf("error %v", err)
	}
	if tried := h.faulty.Calls(storetest.Delete, "objects/"); len(tried) > 0 {
		t.Errorf("it deleted %v", tried)
	}
}

// TestExpireSnapshotFromElsewhere: a copy into the store, which takes no lease, brings a snapshot while expire runs.
func TestExpireSnapshotFromElsewhere(t *testing.T) {
	h := twoWeeks(t)
	h.faulty.Add(storetest.Rule{On: storetest.Delete, Name: "snapshots/*.minisig", Nth: 1, Fault: storetest.Call(func(string) error {
		now := h.now
		h.now = now.Add(-time.Minute)
		h.snapshotOf("always", "own 0") // of an object that is about to go
		h.now = now
		return nil
	})})
	if _, err := pipeline.Expire(context.Background(), h.config(weekly)); !errors.Is(err, pipeline.ErrLocked) {
		t.Errorf("error %v", err)
	}
	h.whole("with a snapshot from elsewhere")
	h.expire(weekly)
	h.whole("the run after")
	if !h.holds("own 0") || h.holds("own 1") {
		t.Error("what the new snapshot names is gone, or what none names is not")
	}
}

// TestExpireSeveralStores: one that fails or is damaged costs the others nothing.
func TestExpireSeveralStores(t *testing.T) {
	start := twoWeeks(t)
	for _, c := range []struct {
		name  string
		fault storetest.Rule
		want  error
	}{
		{"one is damaged", storetest.Rule{On: storetest.Get, Name: "snapshots/*.age", Nth: 2, Fault: storetest.FlipByte(5)}, pipeline.ErrIntegrity},
		{"one fails", storetest.Rule{On: storetest.List, Name: "snapshots/", Fault: storetest.Fail(errBroken)}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad, good := start.copyOf(t), start.copyOf(t)
			bad.faulty.Add(c.fault)
			before := len(manifests(t, bad.store))
			config := start.config(weekly, bad.faulty, good.faulty)
			config.Unreachable = []pipeline.StoreResult{{Store: "file:///gone", Error: "it is not there"}}
			report, err := pipeline.Expire(context.Background(), config)
			if !errors.Is(err, c.want) {
				t.Errorf("error %v", err)
			}
			if report.Failed() != 2 || report.Stores[0].Error == "" || report.Stores[1].Error != "" || report.Stores[1].Removed == 0 {
				t.Errorf("%+v", report)
			}
			if len(manifests(t, bad.store)) != before || len(manifests(t, good.store)) != before-report.Stores[1].Removed {
				t.Error("not what the report says")
			}
		})
	}
}
