package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lethe/cmd/internal/lethetest"
	"lethe/pipeline/pgtemp"
)

func TestMain(m *testing.M) { os.Exit(lethetest.Run(m)) }

// TestBench is the whole way at a size at which the figures mean nothing: that every figure is there, that both sides ran
// as often, and (inside) that every restored row is right.
func TestBench(t *testing.T) {
	out := t.TempDir()
	lock := filepath.Join(out, "lock")
	o := options{lethe: lethetest.Binary, size: 0.01, pairs: 1, out: filepath.Join(out, "results"), json: filepath.Join(out, "report.json"), locks: []string{lock}, log: t.Output()}
	if err := o.check("", nil); err != nil {
		t.Fatal(err)
	}
	b := newBench(o)
	b.pg = nil // nothing is measured here that fsync would matter to
	if err := b.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(b.server.Dir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the server's folder is still there: %v", err)
	}
	var printed strings.Builder
	if err := b.write(&printed); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(o.json)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Datasets) != 2 || r.Datasets[0].Text != r.Datasets[1].Text || r.Datasets[0].Rows != populationOf(0.01).rows() {
		t.Errorf("the two layouts are not the same rows: %+v %+v", *r.Datasets[0], *r.Datasets[1])
	}
	var titles, figures []string
	for _, res := range r.Results {
		titles = append(titles, res.Title+" "+res.Layout)
		for _, f := range res.Figures {
			figures = append(figures, f.Name)
			if !(f.Min > 0 && f.Min <= f.Median && f.Median <= f.Max) {
				t.Errorf("%s: %v to %v, median %v", f.Name, f.Min, f.Max, f.Median)
			}
		}
		for _, s := range res.Sides {
			if len(s.Runs) != o.pairs {
				t.Errorf("%s: %s ran %d times", res.Title, s.Name, len(s.Runs))
			}
			for _, run := range s.Runs {
				restores, purges := strings.HasPrefix(res.Title, "Restore"), strings.HasPrefix(res.Title, "Purge")
				if run.Wall <= 0 || run.CPU <= 0 || (run.ServerCPU <= 0 && !purges) || run.Memory < 1<<20 || (run.Bytes <= 0) != restores {
					t.Errorf("%s: %s took %+v", res.Title, s.Name, run)
				}
			}
		}
		for _, share := range res.Changed {
			if share < 0.007 || share > 0.015 {
				t.Errorf("%s: %v of the rows changed", res.Title, share)
			}
		}
	}
	if want := []string{"First backup clustered", "First backup scattered", "Next backup, after 1 % of the rows changed clustered", "Next backup, after 1 % of the rows changed scattered",
		"Restore, with an erasure to replay clustered", "Restore, with an erasure to replay scattered", "Purge of a person with about 20 rows from 8 snapshots clustered", "Purge of a person with about 20 rows from 8 snapshots scattered"}; !slices.Equal(titles, want) {
		t.Errorf("results are %q", titles)
	}
	if want := []string{"first backup, wall", "stored size", "memory of the first backup", "first backup, wall", "stored size", "memory of the first backup", "next backup, wall", "next backup, uploaded against the first",
		"next backup, wall", "next backup, uploaded against the first", "restore, wall", "memory of the restore", "restore, wall", "memory of the restore",
		"purge, bytes fetched and stored against all that is stored", "of these, fetched", "in tables with filters, all of which might hold anybody without", "filters, against the pieces of a snapshot", "rows of the person, in the snapshot that has most",
		"purge, bytes fetched and stored against all that is stored", "of these, fetched", "in tables with filters, all of which might hold anybody without", "filters, against the pieces of a snapshot", "rows of the person, in the snapshot that has most"}; !slices.Equal(figures, want) {
		t.Errorf("figures are %q", figures)
	}
	for _, res := range r.Results {
		if strings.HasPrefix(res.Title, "Restore") && len(res.Compared) != len(tables) {
			t.Errorf("restored rows were compared in %q", res.Compared)
		}
	}
	text, err := os.ReadFile(filepath.Join(o.out, "report.txt"))
	if err != nil || string(text) != printed.String() {
		t.Errorf("report.txt is not what was printed (%v)", err)
	}
	for _, want := range []string{"PostgreSQL " + r.Machine.PostgreSQL, "pg_dump | zstd -3 -T1 | age", "≤ 0.80 ×", "row by row, in 16 tables"} {
		if !strings.Contains(printed.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, &printed)
		}
	}
}

// TestGrowthAndSnapshots runs what takes long otherwise.
func TestGrowthAndSnapshots(t *testing.T) {
	o := options{lethe: lethetest.Binary, size: 0.001, pairs: 1, out: t.TempDir(), log: t.Output()}
	if err := o.check("snapshots,purges,growth,limits", nil); err != nil {
		t.Fatal(err)
	}
	b := newBench(o)
	b.pg = nil
	b.plan = plan{snapshots: 2, share: 0.01, sizes: []float64{1, 2}, erased: []int{10, 100}, workers: []int{1, 2},
		footprints: []int{1, 4}, histories: []int{1, 2}, tables: 60, long: 2 << 20}
	if err := b.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.write(io.Discard); err != nil {
		t.Fatal(err)
	}
	if n := len(b.report.Results); n != 4 {
		t.Fatalf("%d results", n)
	}
	for _, r := range b.report.Results[:2] {
		if n := len(r.Sides[0].Runs) + len(r.Sides[1].Runs); n != b.plan.snapshots {
			t.Errorf("%s: %d snapshots", r.Layout, n)
		}
		if f := r.Figures[0]; !(f.Median >= 1 && f.Median <= 1.2*float64(b.plan.snapshots)) {
			t.Errorf("%s: %s is %v", r.Layout, f.Name, f.Median)
		}
	}
	for i, title := range []string{"60 tables of one row", "6 rows of 2 MiB"} {
		r := b.report.Results[2+i]
		if r.Title != title || len(r.Sides) != 3 || len(r.Figures) != 2 || !r.Figures[0].Met || !r.Figures[1].Met {
			t.Errorf("limits found %+v", r)
		}
	}
	points := map[string]int{}
	for _, p := range b.report.Growth {
		points[p.What]++
		if len(p.Runs) == 0 {
			t.Errorf("%+v", p)
		}
	}
	want := map[string]int{"backup": 2*2 + 2, "restore": 2 * 2, otherBackup: 2, otherRestore: 2}
	if fmt.Sprint(points) != fmt.Sprint(want) {
		t.Errorf("points are %v, want %v", points, want)
	}
	if n := len(b.report.Purges); n != 2*3 {
		t.Errorf("%d purges", n)
	}
	for _, p := range b.report.Purges {
		if p.Rows < int64(p.People) || p.Fetched <= 0 || p.Stored <= 0 || p.Whole <= 0 {
			t.Errorf("%+v", p)
		}
	}
	for _, name := range []string{"growth.svg", "purges.svg"} {
		svg, err := os.ReadFile(filepath.Join(o.out, name))
		if err != nil {
			t.Fatal(err)
		}
		for dec := xml.NewDecoder(bytes.NewReader(svg)); ; {
			if _, err := dec.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if bytes.Contains(svg, []byte("NaN")) || bytes.Contains(svg, []byte("Inf")) {
			t.Errorf("%s holds what is no number", name)
		}
	}
}

// TestEndsEarly: what was found out before a run ended early is written, and what was not is left out.
func TestEndsEarly(t *testing.T) {
	out := t.TempDir()
	b := newBench(options{lethe: lethetest.Binary, size: 0.001, pairs: 1, out: out, log: t.Output()})
	b.pg = nil
	b.o.scenarios = []scenario{{name: "whole", run: func(b *bench, _ context.Context) error {
		r := b.result("The whole one", clustered)
		r.Sides = []sideResult{{Name: "side", Runs: []taken{{Wall: 1, CPU: 1, Memory: 1 << 20, Bytes: 1}}}}
		r.figure("a figure", "×", []float64{1}, 2)
		return nil
	}}, {name: "broken", run: func(b *bench, _ context.Context) error {
		b.result("The broken one", clustered).Sides = []sideResult{{Name: "side"}}
		b.report.Purges = []purgePoint{{Layout: clustered, People: 1, Rows: 1, Snapshots: 1, Whole: 100, Fetched: 1, Stored: 1, Run: taken{Wall: 1}}}
		return errors.New("it broke")
	}}}
	if err := b.run(t.Context()); err == nil || !strings.Contains(err.Error(), "scenario broken: it broke") {
		t.Errorf("run: %v", err)
	}
	if !b.report.worth() {
		t.Error("nothing is worth telling")
	}
	var printed strings.Builder
	if err := b.write(&printed); err != nil {
		t.Fatal(err)
	}
	if text := printed.String(); !strings.Contains(text, "INCOMPLETE: the run ended in the scenario broken") || !strings.Contains(text, "The whole one") || strings.Contains(text, "The broken one") {
		t.Errorf("the report is\n%s", text)
	}
	svg, err := os.ReadFile(filepath.Join(out, "purges.svg"))
	if err != nil || bytes.Contains(svg, []byte("NaN")) || bytes.Contains(svg, []byte("Inf")) {
		t.Errorf("purges.svg: %v\n%s", err, svg)
	}
}

// TestCompareNotices alters one value of one row, and takes one row away.
func TestCompareNotices(t *testing.T) {
	ctx := t.Context()
	b := newBench(options{})
	var err error
	if b.server, err = pgtemp.Start(ctx, pgtemp.Options{}); err != nil {
		t.Fatal(err)
	}
	defer b.server.Stop()
	if _, err := generate(ctx, b.server, b.words, "model", clustered, 0.001); err != nil {
		t.Fatal(err)
	}
	for name, sql := range map[string]string{
		"nothing":                   "",
		"a value":                   "UPDATE comments SET body = body || '.' WHERE id = 7",
		"a row less":                "DELETE FROM likes WHERE id = 7",
		"an erased person's row":    "UPDATE users SET full_name = 'Somebody' WHERE id = (SELECT min(id::text)::uuid FROM users)",
		"an address in full":        "UPDATE users SET last_ip = '10.1.2.3' WHERE last_ip IS NOT NULL",
		"a reference that was cut":  "UPDATE events SET user_id = (SELECT user_id FROM events WHERE user_id IS NOT NULL LIMIT 1) WHERE id = (SELECT min(id) FROM events WHERE user_id IS NULL)",
		"a phone number, no digest": "UPDATE users SET phone = '+46 70 1234567' WHERE phone IS NOT NULL",
	} {
		t.Run(name, func(t *testing.T) {
			for _, db := range []string{"a", "b"} {
				if err := errors.Join(b.server.DropDatabase(ctx, db), b.server.CreateDatabase(ctx, db, "TEMPLATE model")); err != nil {
					t.Fatal(err)
				}
			}
			// What the rules would have done to every row, in a database in which nobody is erased.
			if err := b.server.Exec(ctx, "a", `UPDATE users SET reset_token = NULL, password_hash = '!', phone = CASE WHEN phone IS NOT NULL THEN repeat('0', 64) END,
				last_ip = `+compared["users.last_ip"]+`; UPDATE sessions SET ip = `+compared["sessions.ip"]+";"+sql); err != nil {
				t.Fatal(err)
			}
			if _, err := b.compare(ctx, "a", "b", nil); (err == nil) != (sql == "") {
				t.Errorf("compare: %v", err)
			}
		})
	}
}

// TestRowsAreTheSame: whenever and in whatever order a row is made, and whatever was made before, it is the same; and
// the data is the same in every run, so that figures of different days can be compared.
func TestRowsAreTheSame(t *testing.T) {
	v := newVocabulary()
	base := populationOf(0.01)
	sum := fnv.New64a()
	for table, n := range base {
		inOrder, mixed := newMaker(v, base, false), newMaker(v, base, false)
		rows := make(map[int]string, n)
		for i := range n {
			rows[i] = string(inOrder.make(table, i))
			io.WriteString(sum, rows[i])
		}
		seen := 0
		for next := shuffled(n); ; seen++ {
			i, ok := next()
			if !ok {
				break
			}
			if got := string(mixed.make(table, i)); got != rows[i] {
				t.Fatalf("%s: row %d is %q, and %q in another order", tables[table].name, i, got, rows[i])
			}
			delete(rows, i)
		}
		if seen != n || len(rows) != 0 {
			t.Errorf("%s: %d of %d rows in another order, %d missing", tables[table].name, seen, n, len(rows))
		}
	}
	const want = 0xe3ca30c66f3b69df
	if got := sum.Sum64(); got != want {
		t.Errorf("the rows sum to %#x, not %#x: figures of other days can't be compared any more", got, uint64(want))
	}
}

// TestChangesLieWhereTheyShould: of the clustered dataset late rows change, of the scattered one any.
func TestChangesLieWhereTheyShould(t *testing.T) {
	ctx := t.Context()
	s, err := pgtemp.Start(ctx, pgtemp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	for _, layout := range []string{clustered, scattered} {
		d, err := generate(ctx, s, newVocabulary(), layout, layout, 0.01)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Exec(ctx, layout, "CREATE TABLE before AS SELECT id, body FROM comments"); err != nil {
			t.Fatal(err)
		}
		if _, err := d.change(ctx, 0.05); err != nil {
			t.Fatal(err)
		}
		early, err := s.Value(ctx, layout, "SELECT count(*) FROM comments c JOIN before b USING (id) WHERE b.body <> c.body AND id < 2000")
		if err != nil {
			t.Fatal(err)
		}
		if (early == "0") != (layout == clustered) {
			t.Errorf("%s: %s of the first 2000 comments changed", layout, early)
		}
	}
}

func TestOptionsThatDoNotServe(t *testing.T) {
	for name, o := range map[string]options{"no size": {pairs: 1}, "no pairs": {size: 1}, "too much": {size: 1000, pairs: 1}} {
		if err := o.check("", nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	ok := options{size: 1, pairs: 1}
	if err := ok.check("first,nxt", nil); err == nil || !strings.Contains(err.Error(), "first,next,restore,purge,snapshots,purges,growth,limits") {
		t.Errorf("an unknown scenario: %v; want those that there are", err)
	}
	if err := ok.check("all", nil); err != nil || len(ok.scenarios) != len(scenarios) {
		t.Errorf("all scenarios: %d, %v", len(ok.scenarios), err)
	}
}

// A pipe fails when any of its programs does, and says which and why.
func TestPipes(t *testing.T) {
	b := newBench(options{log: io.Discard})
	b.dir, b.env = t.TempDir(), os.Environ()
	file := filepath.Join(b.dir, "out")
	run := func(pipe ...[]string) error {
		_, err := b.execute(context.Background(), command{pipe: pipe, file: file})
		return err
	}
	if err := run([]string{"echo", "one two"}, []string{"tr", " ", "\n"}, []string{"wc", "-l"}); err != nil {
		t.Error(err)
	}
	if out, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(out)) != "2" {
		t.Errorf("the pipe wrote %q, %v", out, err)
	}
	for name, pipe := range map[string][][]string{
		"first":   {{"sh", "-c", "echo broken >&2; exit 3"}, {"cat"}, {"cat"}},
		"middle":  {{"echo"}, {"sh", "-c", "echo broken >&2; exit 3"}, {"cat"}},
		"last":    {{"echo"}, {"cat"}, {"sh", "-c", "echo broken >&2; exit 3"}},
		"missing": {{"cat", "/dev/zero"}, {"/nonexistent/broken"}},
	} {
		if err := run(pipe...); err == nil || !strings.Contains(err.Error(), "broken") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNiceTicks(t *testing.T) {
	for most, want := range map[float64]string{0.4: "[0 0.1 0.2 0.3 0.4]", 7.4: "[0 2 4 6 8]", 256: "[0 100 200 300]", 0: "[0 0.5 1]", 33: "[0 10 20 30 40]"} {
		if got := fmt.Sprint(nice(most, 4)); got != want {
			t.Errorf("nice(%v) = %s, want %s", most, got, want)
		}
	}
}

// A lock that somebody else holds is waited for, and Ctrl-C ends the waiting.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	b := newBench(options{locks: []string{path}})
	unlock, err := b.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error)
	go func() {
		_, err := b.lock(ctx)
		waiting <- err
	}()
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("the second lock: %v, want it cancelled", err)
	}
	unlock()
	if unlock, err = b.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	unlock()
}
