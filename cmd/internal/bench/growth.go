package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"text/tabwriter"
)

// plan is how far the long scenarios go.
type plan struct {
	snapshots  int       // one every six hours
	share      float64   // of the rows that changes in six hours
	sizes      []float64 // times -size
	erased     []int
	workers    []int
	footprints []int // people purged together
	histories  []int // snapshots that one person is purged from
	tables     int   // of a database of very many
	long       int   // bytes of a very long row
}

// usualPlan is a week in which one percent of the rows changes in a day, and growth over a factor of forty.
func usualPlan() plan {
	return plan{snapshots: 28, share: 0.0025, sizes: []float64{0.1, 1, 4}, erased: []int{0, erasedUsually, 1000, 100_000}, footprints: []int{1, 10, 100, 1000}, histories: []int{1, 4, 12, 28}, workers: []int{1, 2},
		tables: 10_000, long: 100 << 20}
}

// snapshots takes a week's snapshots and adds up what they take together.
func (b *bench) snapshots(ctx context.Context) error {
	for _, layout := range []string{clustered, scattered} {
		d, err := b.dataset(ctx, layout)
		if err != nil {
			return err
		}
		s, err := b.setup(ctx, d, "snapshots", d.people(erasedUsually))
		if err != nil {
			return err
		}
		r := b.result(fmt.Sprintf("%d snapshots, six hours apart", b.plan.snapshots), layout)
		first, later := s.backup(false), s.backup(false)
		first.name, later.name = "the first", "each of the others"
		if err := b.rounds(ctx, r, 1, nil, first); err != nil {
			return err
		}
		change := func(ctx context.Context) error {
			share, err := d.change(ctx, b.plan.share)
			r.Changed = append(r.Changed, share)
			return err
		}
		if err := b.rounds(ctx, r, b.plan.snapshots-1, change, later); err != nil {
			return err
		}
		if err := b.rounds(ctx, r, 1, nil, b.dumpPiped(d)); err != nil {
			return err
		}
		total := 0.0
		for _, side := range r.Sides[:2] {
			for _, t := range side.Runs {
				total += stored(t)
			}
		}
		n := b.plan.snapshots
		r.figure(fmt.Sprintf("%d snapshots stored, against one", n), "×", []float64{total / stored(r.Sides[0].Runs[0])}, 0)
		r.figure(fmt.Sprintf("%d snapshots stored, against as many dumps", n), "%", []float64{total / stored(r.Sides[2].Runs[0]) / float64(n) * 100}, 0)
		if err := s.remove(); err != nil {
			return err
		}
	}
	return nil
}

// growth is one point of the figure of growth.
type growth struct {
	What    string  `json:"what"` // backup, restore, or the other tool
	Size    float64 `json:"size_gb"`
	Text    int64   `json:"text_bytes"`
	Erased  int     `json:"erased"`
	Workers int     `json:"workers"` // 0 of another tool
	Runs    []taken `json:"runs"`
}

// peak is the most memory that a run took, in MiB.
func (p growth) peak() float64 { return slices.Max(values(p.Runs, memory)) / (1 << 20) }

// The other tools of the figure.
const (
	otherBackup  = "pg_dump | zstd -3 -T1 | age"
	otherRestore = "pg_restore -j2"
)

// growth measures how time and memory grow with the database, with the people erased, and with workers.
func (b *bench) growth(ctx context.Context) error {
	for _, times := range b.plan.sizes {
		if err := b.growthAt(ctx, math.Round(times*b.o.size*1e6)/1e6); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) growthAt(ctx context.Context, size float64) error {
	d, err := b.generate(ctx, "growing", clustered, size)
	if err != nil {
		return err
	}
	r := &result{Title: fmt.Sprintf("Growth, %g GB", size)}
	var points []growth
	var sides []side
	byWorkers := map[int]*setup{} // those that are restored from
	var setups []*setup
	erased := []int{erasedUsually}
	if size == b.o.size { // the others need no more than a line over the sizes
		erased = b.plan.erased
	}
	for _, people := range erased {
		s, err := b.setup(ctx, d, fmt.Sprintf("growth_%d", people), d.people(people))
		if err != nil {
			return err
		}
		setups = append(setups, s)
		for _, workers := range b.plan.workers {
			with, err := s.with(workers)
			if err != nil {
				return err
			}
			if people == erasedUsually {
				byWorkers[workers] = with
			}
			side := with.backup(true)
			side.name = fmt.Sprintf("%d workers, %d erased", workers, people)
			points = append(points, growth{What: "backup", Size: size, Text: d.Text, Erased: people, Workers: workers})
			sides = append(sides, side)
		}
	}
	points, sides = append(points, growth{What: otherBackup, Size: size, Text: d.Text}), append(sides, b.dumpPiped(d))
	if err := b.rounds(ctx, r, min(b.o.pairs, 3), nil, sides...); err != nil {
		return err
	}

	// Restores, of what the last round left in the stores, with an erasure to replay.
	if err := byWorkers[b.plan.workers[0]].request(ctx, "LATE", []string{user(0).String()}); err != nil {
		return err
	}
	custom := b.path("custom")
	if _, err := b.execute(ctx, command{pipe: [][]string{{b.tools["pg_dump"], "-Fc", "-Z1", "-d", d.db, "-f", custom}}}); err != nil {
		return err
	}
	sides = nil
	for _, workers := range b.plan.workers {
		points = append(points, growth{What: "restore", Size: size, Text: d.Text, Erased: erasedUsually, Workers: workers})
		sides = append(sides, b.restoreLethe(byWorkers[workers], "restored"))
	}
	points = append(points, growth{What: otherRestore, Size: size, Text: d.Text})
	sides = append(sides, b.restoreInto(otherRestore, "restored", b.tools["pg_restore"], "-j2", "-d", "restored", custom))
	if err := b.rounds(ctx, r, 1, nil, sides...); err != nil {
		return err
	}
	for i := range points {
		points[i].Runs = r.Sides[i].Runs
	}
	b.report.Growth = append(b.report.Growth, points...)
	for _, s := range setups {
		if err := s.remove(); err != nil {
			return err
		}
	}
	for _, db := range []string{"restored", d.db} {
		if err := b.server.DropDatabase(ctx, db); err != nil {
			return err
		}
	}
	return os.Remove(custom)
}

func growthText(out io.Writer, points []growth) error {
	fmt.Fprint(out, "\nGrowth (medians, and the most memory)\n\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "  \tGB\terased\tworkers\twall s\tCPU s\tserver CPU s\tpeak MiB\tbytes MB\t\n")
	for _, p := range points {
		erased, workers := fmt.Sprint(p.Erased), fmt.Sprint(p.Workers)
		if p.Workers == 0 {
			erased, workers = "–", "–"
		}
		of := func(f func(taken) float64) float64 { return median(values(p.Runs, f)) }
		fmt.Fprintf(w, "  %s\t%g\t%s\t%s\t%.2f\t%.2f\t%.2f\t%.0f\t%s\t\n", p.What, p.Size, erased, workers, of(wall),
			of(func(t taken) float64 { return t.CPU }), of(func(t taken) float64 { return t.ServerCPU }), p.peak(), orDash(of(stored)/1e6, "%.1f"))
	}
	return w.Flush()
}
