package pipeline_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"lethe/pipeline"
	"lethe/pipeline/store"
	"lethe/rules"
	"lethe/scrub"
	"lethe/scrub/catalog"
	"lethe/scrub/mask"
)

// memory is a store that is gone with the test. It is for many small files: nothing waits for a disk.
type memory struct {
	mu    sync.Mutex
	files map[string][]byte
}

func (m *memory) Put(_ context.Context, name string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.files[name]; ok {
		return &store.Error{Op: "put", Store: m.String(), Name: name, Err: store.ErrExists}
	}
	m.files[name] = bytes.Clone(data)
	return nil
}

func (m *memory) Get(_ context.Context, name string) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.files[name]
	if !ok {
		return nil, &store.Error{Op: "get", Store: m.String(), Name: name, Err: store.ErrNotFound}
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (m *memory) Stat(_ context.Context, name string) (store.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.files[name]
	if !ok {
		return store.Info{}, &store.Error{Op: "stat", Store: m.String(), Name: name, Err: store.ErrNotFound}
	}
	return store.Info{Name: name, Size: int64(len(data))}, nil
}

func (m *memory) List(_ context.Context, prefix string, fn func(store.Info) error) error {
	m.mu.Lock()
	var list []store.Info
	for name, data := range m.files {
		if strings.HasPrefix(name, prefix) {
			list = append(list, store.Info{Name: name, Size: int64(len(data))})
		}
	}
	m.mu.Unlock()
	slices.SortFunc(list, func(a, b store.Info) int { return strings.Compare(a.Name, b.Name) })
	for _, i := range list {
		if err := fn(i); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) Delete(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, name)
	return nil
}

func (m *memory) String() string { return "memory:" }

func (m *memory) Close() error { return nil }

// heap is how many bytes are alive.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what the first one has only let go of
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// A ledger of a hundred thousand requests is to fit into the memory of a run: what is kept of each is bounded, and what it
// takes to look for each in snapshots.
func TestManyRequestsTakeLittleMemory(t *testing.T) {
	ctx := context.Background()
	s := newLedgerSite(t)
	s.state = ""
	in := &memory{files: map[string][]byte{}}
	if _, _, err := pipeline.InitRepository(ctx, in, "", s.operator, s.to); err != nil {
		t.Fatal(err)
	}
	const many = 1000
	var orders []pipeline.NewRequest
	for i := range many {
		orders = append(orders, order(i, fmt.Sprintf("R-%d", i)))
	}
	if _, err := s.record(orders, in); err != nil {
		t.Fatal(err)
	}
	f, err := rules.Parse("rules.yml", []byte(s.rules))
	if err != nil {
		t.Fatal(err)
	}
	cat, err := catalog.Parse("CREATE TABLE public.users (id integer NOT NULL, email text);\n", "ALTER TABLE ONLY public.users ADD CONSTRAINT users_pkey PRIMARY KEY (id);\n")
	if err != nil {
		t.Fatal(err)
	}
	plan, err := scrub.CompileStored(f, cat)
	if err != nil {
		t.Fatal(err)
	}
	r := s.openAt(in)

	before := heap()
	ledger, err := pipeline.OpenLedger(ctx, r, s.holder, nil)
	if err != nil {
		t.Fatal(err)
	}
	opened := heap()
	search, err := plan.NewSearch("UTF8", pipeline.ToErase(ledger.Open()), nil, mask.Key{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := search.Add(0); err != nil {
		t.Fatal(err)
	}
	for search.Round() { // nobody is found
	}
	searched := heap()
	if n := len(ledger.Open()); n != many {
		t.Fatalf("%d requests", n)
	}
	kept, looking := (opened-before)/many, (searched-opened)/many
	t.Logf("of each request %d bytes are kept, and %d to look for them", kept, looking)
	if kept > 650 || looking > 550 { // some 550 and 460
		t.Errorf("of each request %d bytes are kept, and %d to look for them", kept, looking)
	}
	runtime.KeepAlive(search) // and what else was alive at first
	runtime.KeepAlive(orders)
	runtime.KeepAlive(in)
}
