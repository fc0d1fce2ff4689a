package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
	"lethe/pipeline/store/dir"
	"lethe/rules"
)

// listing lists so many objects that are not there: a large store for whoever only looks.
type listing struct {
	store.Store
	objects int
}

func (s listing) List(ctx context.Context, prefix string, fn func(store.Info) error) error {
	if prefix != archive.ObjectsPrefix {
		return s.Store.List(ctx, prefix, fn)
	}
	for i := range uint64(s.objects) {
		if err := fn(store.Info{Name: archive.ObjectName(numbered("object", i).String()), Size: 600_000}); err != nil {
			return err
		}
	}
	return nil
}

// numbered is a digest like those of pieces and objects.
func numbered(what string, i uint64) objectID {
	return sha256.Sum256(binary.BigEndian.AppendUint64([]byte(what), i))
}

// keysOf is a configuration with an operator and a key holder of its own.
func keysOf(t *testing.T) BackupConfig {
	t.Helper()
	must := mustOf(t)
	op, err := archive.GenerateOperator()
	must(err)
	holder, err := age.GenerateX25519Identity()
	must(err)
	to, err := archive.ParseRecipients([]string{holder.Recipient().String()}, "")
	must(err)
	return BackupConfig{Recipients: to, Operator: op, Now: time.Now}
}

// mustOf returns what ends the test on an error.
func mustOf(t *testing.T) func(error) {
	return func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
}

// heap is how many bytes are alive.
func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// heapPeak runs do, and returns how much memory objects were found to take at most meanwhile.
func heapPeak(do func()) (peak uint64) {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	var sampler sync.WaitGroup
	done := make(chan struct{})
	sampler.Go(func() {
		for every := time.NewTicker(2 * time.Millisecond); ; {
			select {
			case <-done:
				every.Stop()
				return
			case <-every.C:
				metrics.Read(sample)
				peak = max(peak, sample[0].Value.Uint64())
			}
		}
	})
	func() {
		defer close(done)
		do()
	}()
	sampler.Wait()
	return peak
}

// TestLargestManifest: a run over half a terabyte that changes nothing reads the manifest of 250 000 objects, keeps in mind
// what the store holds, and writes the next such manifest, in the memory that a run has. `make test` takes a tenth, which
// has to fit into a tenth and what coders take in any case; `make soak` all of it.
func TestLargestManifest(t *testing.T) {
	objects, limit := 25_000, uint64(DefaultMemory-32<<20) // as the program sets it
	if os.Getenv("LETHE_KILLS") != "" {
		objects = 250_000
	} else {
		limit = heap() + limit/10 + 8<<20
	}
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(int64(limit)))
	ctx := context.Background()
	must := mustOf(t)
	c := keysOf(t)
	files, err := dir.Create(t.TempDir())
	must(err)
	defer files.Close()
	in := listing{files, objects}
	_, _, err = InitRepository(ctx, in, "", c.Operator, c.Recipients)
	must(err)
	text := "version: 1\ndataset: d\n"
	f, err := rules.Parse("rules.yml", []byte(text))
	must(err)
	c.Rules, c.Stores = f, []store.Store{in}

	take := func(reuses bool) {
		stores, release, err := openForWriting(ctx, c, "backup")
		must(err)
		defer release()
		must(c.survey(ctx, stores))
		const ranges = 100
		table := &part{Part: archive.Part{Kind: archive.Table, Name: "public.t", Schema: "public", Table: "t", Columns: []string{"id"}}, pieces: make([][]*piece, ranges)}
		for i := range uint64(objects) {
			p := table.slot(int(i) * ranges / objects)
			p.id, p.rows, p.in = archive.PieceID(numbered("piece", i)), 10_000, []placed{{numbered("object", i), 600_000, archive.AvgPiece}}
			table.Rows += p.rows
			at, ok := stores[0].has.reuse(p.id)
			if ok != reuses || ok && at != p.in[0] {
				t.Fatalf("piece %d is at %v, %v", i, at, ok)
			}
		}
		run := &backup{c: c, stores: stores, ledger: &ledgerRun{}, parts: []*part{{Part: archive.Part{Kind: archive.Globals}}, {Part: archive.Part{Kind: archive.PreData}}, table,
			{Part: archive.Part{Kind: archive.Sequences}}, {Part: archive.Part{Kind: archive.LargeObjects}}, {Part: archive.Part{Kind: archive.PostData}}},
			manifest: &archive.Manifest{Dataset: "d", Started: time.Now(), Tool: "test", ServerVersion: "15.18", PgDumpVersion: "15.18",
				Source: archive.Source{SystemID: "7300000000000000001", Timeline: "1", LSN: "0/1A2B3C4", Name: "d"}, Rules: archive.Rules{Text: text}, Schema: strings.Repeat("b", 64),
				Database: archive.Database{Encoding: "UTF8", LocaleProvider: "c", Collate: "C", CType: "C"}, ClientEncoding: "UTF8"}}
		must(run.commit(ctx))
	}
	take(false)
	peak := heapPeak(func() { take(true) })
	t.Logf("%d objects: at most %d MiB of %d", objects, peak>>20, limit>>20)
	if peak > limit {
		t.Errorf("%d bytes are in use at once, of %d", peak, limit)
	}
}

// TestRunHoldsItsLedgerOnce: the copy of this machine and two stores have the same ledger, and a run holds it once, also
// after it has recorded more.
func TestRunHoldsItsLedgerOnce(t *testing.T) {
	ctx := context.Background()
	must := mustOf(t)
	c := keysOf(t)
	var err error
	c.Rules, err = rules.Parse("rules.yml", []byte("version: 1\ndataset: d\nsubjects: {user: {table: users, key: id}}\nerase: {users: {delete: true}}\n"))
	must(err)
	id, state := "", t.TempDir()
	for range 2 {
		files, err := dir.Create(t.TempDir())
		must(err)
		defer files.Close()
		r, _, err := InitRepository(ctx, files, id, c.Operator, c.Recipients)
		must(err)
		id = r.ID
		c.Stores = append(c.Stores, files)
	}
	c.Source.URL = "postgres:///nothing?host=/nonexistent"
	c.Copy = func(string) (store.Store, error) { return dir.Create(state) }
	orders := func(from, n int) (list []NewRequest) {
		for i := range n {
			list = append(list, NewRequest{Subject: "user", Key: fmt.Sprint(from + i), Ref: fmt.Sprintf("R-%d", from+i)})
		}
		return list
	}
	const many = 100
	_, err = Record(ctx, RequestConfig{BackupConfig: c, Requests: orders(0, many)})
	must(err)

	before := heap()
	l, release, err := c.openLedgers(ctx, false)
	must(err)
	defer release()
	read := heap()
	list, err := l.judge(ctx, nil, nil, orders(many, many))
	must(err)
	_, err = l.take(ctx, list)
	must(err)
	recorded := heap()
	t.Logf("%d bytes of each request that was read, %d of each that was recorded", (read-before)/many, (recorded-read)/many)
	if n := (read - before) / many; n > 850 { // some 680, and 1070 where each place has its own
		t.Errorf("%d bytes are held of each request", n)
	}
	if n := (recorded - read) / many; n > 1080 { // some 900, and 1230 where each place has its own
		t.Errorf("%d bytes are held of each request that was recorded", n)
	}
	if len(l.ledger.Records) != 2*many {
		t.Errorf("%d records", len(l.ledger.Records))
	}
}
