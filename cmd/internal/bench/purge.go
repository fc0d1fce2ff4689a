package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"
)

// purged is what lethe erasure purge prints as JSON, as far as it is read here.
type purged struct {
	Plan struct {
		Rows      int64 `json:"rows"`
		Snapshots int   `json:"snapshots"`
	} `json:"plan"`
	Fetched int64 `json:"fetched_bytes"`
	Stored  int64 `json:"stored_bytes"`
}

// purge takes people with about twenty rows out of a few days' snapshots, one after another.
func (b *bench) purge(ctx context.Context) error {
	for _, layout := range []string{clustered, scattered} {
		d, err := b.dataset(ctx, layout)
		if err != nil {
			return err
		}
		s, err := b.setup(ctx, d, "purge", d.people(erasedUsually))
		if err != nil {
			return err
		}
		r := b.result(fmt.Sprintf("Purge of a person with about 20 rows from %d snapshots", purgedSnapshots), layout)
		if err := s.history(ctx, 0, purgedSnapshots, b.plan.share); err != nil {
			return err
		}
		people, err := s.withRows(ctx, purgedRows, b.o.pairs)
		if err != nil {
			return err
		}
		var filters filterCost
		var cost, fetched, all, rows []float64
		for k := range people {
			p, side, err := s.purging(ctx, fmt.Sprintf("P-%d", k), people[k:k+1])
			if err != nil {
				return err
			}
			whole, err := sizeOf(s.store())
			if err != nil {
				return err
			}
			if filters, err = s.filters(ctx); err != nil {
				return err
			}
			if err := b.rounds(ctx, r, 1, nil, side); err != nil {
				return err
			}
			cost = append(cost, float64(p.Fetched+p.Stored)/float64(whole)*100)
			fetched = append(fetched, float64(p.Fetched)/float64(whole)*100)
			all = append(all, float64(filters.pieces)/float64(whole)*100)
			rows = append(rows, float64(p.Plan.Rows))
		}
		r.merge()
		atMost := 10.0
		if layout == scattered {
			atMost = 20
		}
		r.figure("purge, bytes fetched and stored against all that is stored", "%", cost, atMost)
		r.figure("of these, fetched", "%", fetched, 0)
		r.figure("in tables with filters, all of which might hold anybody without", "%", all, 0)
		r.figure("filters, against the pieces of a snapshot", "%", []float64{filters.share}, 0)
		r.figure("rows of the person, in the snapshot that has most", "rows", rows, 0)
		if err := s.remove(); err != nil {
			return err
		}
	}
	return nil
}

const (
	purgedSnapshots = 8
	purgedRows      = 20
)

// history takes snapshots, with changes before each but the very first. There are some already.
func (s *setup) history(ctx context.Context, already, snapshots int, share float64) error {
	for k := already; k < snapshots; k++ {
		if k > 0 {
			if _, err := s.d.change(ctx, share); err != nil {
				return err
			}
		}
		if err := s.lethe(ctx, nil, "backup", "--quiet"); err != nil {
			return err
		}
	}
	return nil
}

// filterCost is what filters take, and what they spare.
type filterCost struct {
	share  float64 // bytes of the newest snapshot's filters, against its tables' pieces, in percent
	pieces int64   // bytes of all pieces that snapshots name of tables that have filters: without them each might hold anybody
}

// filters sums up what the manifests of a store say.
func (s *setup) filters(ctx context.Context) (c filterCost, err error) {
	manifests, err := filepath.Glob(filepath.Join(s.store(), "snapshots", "*.age"))
	if err != nil || len(manifests) == 0 {
		return c, fmt.Errorf("look for manifests in %s: %w", s.store(), cmp.Or(err, fs.ErrNotExist))
	}
	slices.Sort(manifests)
	spared := objects{}
	for _, manifest := range manifests {
		parts, err := s.tables(ctx, manifest)
		if err != nil {
			return c, err
		}
		pieces, filters := objects{}, objects{}
		for _, p := range parts {
			pieces.add(p.Objects)
			filters.add(p.Filters)
			if len(p.Filters) > 0 {
				spared.add(p.Objects)
			}
		}
		c.share = float64(filters.size()) / float64(pieces.size()) * 100 // the newest stays
	}
	c.pieces = spared.size()
	return c, nil
}

// object is one that a manifest names.
type object struct {
	Object string
	Size   int64
}

// objects are different ones.
type objects map[object]struct{}

func (o objects) add(list []object) {
	for _, one := range list {
		o[one] = struct{}{}
	}
}

func (o objects) size() (n int64) {
	for one := range o {
		n += one.Size
	}
	return n
}

// tablePart is what a manifest names of a table.
type tablePart struct {
	Kind             string
	Objects, Filters []object
}

// tables reads a manifest with the plain tools, and returns its tables' parts.
func (s *setup) tables(ctx context.Context, manifest string) ([]tablePart, error) {
	var text bytes.Buffer
	if _, err := s.b.execute(ctx, command{stdout: &text, pipe: [][]string{{s.b.tools["age"], "-d", "-i", s.b.path("key.txt"), manifest}, {s.b.tools["zstd"], "-dc"}}}); err != nil {
		return nil, err
	}
	var m struct{ Parts []tablePart }
	if err := json.Unmarshal(text.Bytes(), &m); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(m.Parts, func(p tablePart) bool { return p.Kind != "table" }), nil
}

// withRows picks n people such that erasing one of them takes about so many rows, those of others that go with them
// counted in, as Lethe's own preview says of the database as it is now. Of many people only the first are so near.
func (s *setup) withRows(ctx context.Context, rows, n int) ([]string, error) {
	ids, err := s.d.withRows(ctx, rows*3/4, max(n, previewed))
	if err != nil {
		return nil, err
	}
	if len(ids) < n {
		return nil, fmt.Errorf("%d people are there to be purged, not %d", len(ids), n)
	}
	tried := ids[:min(len(ids), previewed)]
	var out bytes.Buffer
	c := s.command("erasure", "request", "--dry-run", "--json", "-")
	c.stdin, c.stdout = requestLines("T", tried), &out
	if _, err := s.b.execute(ctx, c); err != nil {
		return nil, err
	}
	var preview struct {
		Requests []struct {
			Tables []struct{ Deleted, Redacted, Cleared int }
		}
	}
	if err := json.Unmarshal(out.Bytes(), &preview); err != nil {
		return nil, err
	}
	far := map[string]int{}
	for k, r := range preview.Requests {
		takes := 0
		for _, t := range r.Tables {
			takes += t.Deleted + t.Redacted + t.Cleared
		}
		far[tried[k]] = max(takes-rows, rows-takes)
	}
	slices.SortStableFunc(tried, func(a, b string) int { return far[a] - far[b] })
	return ids[:n], nil
}

// previewed is how many people are tried for one of whom there are so many rows.
const previewed = 50

// withRows picks up to n people of whom there are about so many rows, those of others that go with them left out.
func (d *dataset) withRows(ctx context.Context, rows, n int) (ids []string, err error) {
	found, err := d.server.Query(ctx, d.db, fmt.Sprintf(`
		SELECT u FROM (SELECT id AS u FROM users UNION ALL SELECT author_id FROM documents UNION ALL SELECT author_id FROM comments UNION ALL SELECT sender_id FROM messages
			UNION ALL SELECT recipient_id FROM messages UNION ALL SELECT user_id FROM likes UNION ALL SELECT follower_id FROM follows UNION ALL SELECT followed_id FROM follows
			UNION ALL SELECT user_id FROM sessions UNION ALL SELECT user_id FROM events UNION ALL SELECT user_id FROM notifications UNION ALL SELECT user_id FROM memberships
			UNION ALL SELECT user_id FROM customers UNION ALL SELECT actor FROM audit_log) r
		WHERE u IN (SELECT id FROM users) GROUP BY u ORDER BY abs(count(*) - %d), md5(u::text) LIMIT %d`, rows, n))
	if err != nil {
		return nil, err
	}
	for _, row := range found {
		ids = append(ids, row[0])
	}
	return ids, nil
}

// purging records requests for people and returns a round that purges them. What it says of itself is in the result,
// once the round is over.
func (s *setup) purging(ctx context.Context, ref string, people []string) (*purged, side, error) {
	if err := s.request(ctx, ref, people); err != nil {
		return nil, side{}, err
	}
	var plan purged
	if err := s.lethe(ctx, &plan, "erasure", "purge", "-n", "--identity", s.b.path("key.txt")); err != nil {
		return nil, side{}, err
	}
	got := &purged{}
	var out bytes.Buffer
	return got, side{name: "lethe erasure purge",
		command: func() command {
			c := s.command("erasure", "purge", "--json", "--yes", "--confirm-rows", strconv.FormatInt(plan.Plan.Rows, 10), "--identity", s.b.path("key.txt"), "--signer", s.b.path("signer.key"))
			c.stdout = &out
			return c
		},
		after: func(_ context.Context, t *taken) error {
			err := json.Unmarshal(out.Bytes(), got)
			t.Bytes = got.Fetched + got.Stored
			return err
		}}, nil
}

// merge makes one side of several with one name.
func (r *result) merge() {
	for _, s := range r.Sides[1:] {
		r.Sides[0].Runs = append(r.Sides[0].Runs, s.Runs...)
	}
	r.Sides = r.Sides[:1]
}

// purgePoint is one point of the figure of purges.
type purgePoint struct {
	Layout    string `json:"layout"`
	People    int    `json:"people"`
	Rows      int64  `json:"rows"` // of theirs, in the snapshot that has most
	Snapshots int    `json:"snapshots"`
	Whole     int64  `json:"stored_before_bytes"`
	Fetched   int64  `json:"fetched_bytes"`
	Stored    int64  `json:"stored_bytes"`
	Run       taken  `json:"run"`
}

// purges measures how the cost of a purge grows with the snapshots, and with the people purged together.
func (b *bench) purges(ctx context.Context) error {
	for _, layout := range []string{clustered, scattered} {
		d, err := b.dataset(ctx, layout)
		if err != nil {
			return err
		}
		s, err := b.setup(ctx, d, "purges", nil)
		if err != nil {
			return err
		}
		people, err := s.withRows(ctx, purgedRows, b.plan.footprints[len(b.plan.footprints)-1])
		if err != nil {
			return err
		}
		there := 0
		at := func(n int) error {
			p := purgePoint{Layout: layout, People: n, Snapshots: there}
			got, side, err := s.purging(ctx, "P", people[:n])
			if err != nil {
				return err
			}
			if p.Whole, err = sizeOf(s.store()); err != nil {
				return err
			}
			r := &result{Title: fmt.Sprintf("Purge of %d people from %d snapshots", n, there)}
			if err := b.rounds(ctx, r, 1, nil, side); err != nil {
				return err
			}
			p.Rows, p.Fetched, p.Stored, p.Run = got.Plan.Rows, got.Fetched, got.Stored, r.Sides[0].Runs[0]
			b.report.Purges = append(b.report.Purges, p)
			return s.bring("history")
		}
		for _, snapshots := range b.plan.histories {
			if err := s.history(ctx, there, snapshots, b.plan.share); err != nil {
				return err
			}
			there = snapshots
			if err := s.keep("history"); err != nil {
				return err
			}
			counts := b.plan.footprints[:1]
			if snapshots == b.plan.histories[len(b.plan.histories)-1] {
				counts = b.plan.footprints
			}
			for _, n := range counts {
				if err := at(n); err != nil {
					return err
				}
			}
			if err := s.forget("history"); err != nil {
				return err
			}
		}
		if err := s.remove(); err != nil {
			return err
		}
	}
	return nil
}

func purgesText(out io.Writer, points []purgePoint) error {
	fmt.Fprint(out, "\nPurges\n\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "  \tpeople\trows\tsnapshots\twall s\tCPU s\tpeak MiB\tfetched MB\tstored MB\tof all stored\t\n")
	for _, p := range points {
		fmt.Fprintf(w, "  %s\t%d\t%d\t%d\t%.2f\t%.2f\t%.0f\t%.1f\t%.1f\t%.1f %%\t\n", p.Layout, p.People, p.Rows, p.Snapshots, p.Run.Wall, p.Run.CPU,
			memory(p.Run)/(1<<20), float64(p.Fetched)/1e6, float64(p.Stored)/1e6, p.share())
	}
	return w.Flush()
}

// share is what was fetched and stored, of all that was stored, in percent.
func (p purgePoint) share() float64 { return float64(p.Fetched+p.Stored) / float64(p.Whole) * 100 }

// purgesSVG draws the cost of purges.
func (r *report) purgesSVG() string {
	var one, most int // the people and the snapshots of the lines
	for _, p := range r.Purges {
		if one == 0 || p.People < one {
			one = p.People
		}
		most = max(most, p.Snapshots)
	}
	lines := func(of func(purgePoint) float64, x func(purgePoint) (float64, bool)) (list []line) {
		for _, l := range []line{{name: clustered, color: blue}, {name: scattered, color: orange}} {
			for _, p := range r.Purges {
				if at, ok := x(p); ok && p.Layout == l.name {
					l.points = append(l.points, [2]float64{at, of(p)})
				}
			}
			list = append(list, l)
		}
		return list
	}
	var footprints []int
	for _, p := range r.Purges {
		if p.Snapshots == most && p.Layout == r.Purges[0].Layout {
			footprints = append(footprints, p.People)
		}
	}
	var ticks []tick
	position := func(people int) float64 {
		for i, n := range footprints {
			if n == people {
				return float64(i) / float64(max(len(footprints)-1, 1))
			}
		}
		return 0
	}
	for _, n := range footprints {
		ticks = append(ticks, tick{position(n), thousands(n)})
	}
	bySnapshots := func(p purgePoint) (float64, bool) { return float64(p.Snapshots) / float64(most), p.People == one }
	byPeople := func(p purgePoint) (float64, bool) { return position(p.People), p.Snapshots == most }
	var snapshots []tick
	for _, v := range nice(float64(most), 4) {
		if v <= float64(most) {
			snapshots = append(snapshots, tick{v / float64(most), fmt.Sprintf("%g", v)})
		}
	}
	seconds := func(p purgePoint) float64 { return p.Run.Wall }
	people := "people purged at once, of about 20 rows each"
	return r.figures([]panel{
		{title: "Purge of one person, time", x: "snapshots stored", y: "seconds", ticks: snapshots, lines: lines(seconds, bySnapshots)},
		{title: "Purge of one person, bytes read and written", x: "snapshots stored", y: "% of all stored", ticks: snapshots, lines: lines(purgePoint.share, bySnapshots)},
		{title: fmt.Sprintf("Purge from %d snapshots, time", most), x: people, y: "seconds", ticks: ticks, lines: lines(seconds, byPeople)},
		{title: fmt.Sprintf("Purge from %d snapshots, bytes read and written", most), x: people, y: "% of all stored", ticks: ticks, lines: lines(purgePoint.share, byPeople)},
	})
}
