package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// report is everything that a run found out; it is what -json writes.
type report struct {
	Started  time.Time    `json:"started"`
	Seconds  float64      `json:"seconds"`
	Machine  machine      `json:"machine"`
	Size     float64      `json:"size_gb"`
	Pairs    int          `json:"pairs"`
	Ended    string       `json:"ended,omitempty"` // the scenario in which the run ended early
	Datasets []*dataset   `json:"datasets"`
	Results  []*result    `json:"results"`
	Growth   []growth     `json:"growth,omitempty"`
	Purges   []purgePoint `json:"purges,omitempty"`
}

// machine is what was measured, and on what.
type machine struct {
	Lethe      string            `json:"lethe"`
	PostgreSQL string            `json:"postgresql"`
	Settings   map[string]string `json:"settings"` // of the server
	CPU        string            `json:"cpu"`
	Cores      int               `json:"cores"`
	Memory     int64             `json:"memory_bytes"`
	Kernel     string            `json:"kernel"`
}

// result is what one scenario found on one dataset.
type result struct {
	Title    string       `json:"title"`
	Layout   string       `json:"layout"`
	Sides    []sideResult `json:"sides"`
	Changed  []float64    `json:"changed,omitempty"`  // share of the rows that changed before each round
	Compared []string     `json:"compared,omitempty"` // tables whose restored rows were found equal
	Figures  []figure     `json:"figures"`
}

type sideResult struct {
	Name    string  `json:"name"`
	Command string  `json:"command"`
	Runs    []taken `json:"runs"`
}

// figure is one number of design §10: the median of the rounds, and their spread.
type figure struct {
	Name   string  `json:"name"`
	Unit   string  `json:"unit"`
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Target float64 `json:"target,omitempty"` // at most; 0 where nothing is promised
	Met    bool    `json:"met"`
}

func (b *bench) result(title, layout string) *result {
	r := &result{Title: title, Layout: layout}
	b.report.Results = append(b.report.Results, r)
	return r
}

// end closes the report, early where a scenario is named, without the results that have no figures yet.
func (r *report) end(early string) {
	r.Seconds, r.Ended = time.Since(r.Started).Seconds(), early
	r.Results = slices.DeleteFunc(r.Results, func(res *result) bool { return len(res.Figures) == 0 })
}

// worth says whether there is something to tell.
func (r *report) worth() bool { return len(r.Results)+len(r.Growth)+len(r.Purges) > 0 }

// What a figure is about.
func wall(t taken) float64   { return t.Wall }
func stored(t taken) float64 { return float64(t.Bytes) }
func memory(t taken) float64 { return float64(t.Memory) }

// ratio compares side a with side b, round by round.
func (r *result) ratio(name string, of func(taken) float64, a, b int, target float64) {
	var list []float64
	for k := range r.Sides[a].Runs {
		list = append(list, of(r.Sides[a].Runs[k])/of(r.Sides[b].Runs[k]))
	}
	r.figure(name, "×", list, target)
}

// against compares each round of a side with one number.
func (r *result) against(name string, of func(taken) float64, side int, whole, target float64) {
	var list []float64
	for _, t := range r.Sides[side].Runs {
		list = append(list, of(t)/whole*100)
	}
	r.figure(name, "%", list, target*100)
}

// memory compares the most memory of a side with what is promised whatever the size.
func (r *result) memory(name string, side, longestRow int) {
	var list []float64
	for _, t := range r.Sides[side].Runs {
		list = append(list, memory(t)/(1<<20))
	}
	r.figure(name, "MiB", list, 256+4*float64(longestRow)/(1<<20))
}

func (r *result) figure(name, unit string, list []float64, target float64) {
	f := figure{Name: name, Unit: unit, Median: median(list), Min: slices.Min(list), Max: slices.Max(list), Target: target}
	f.Met = target == 0 || f.Median <= target
	if unit == "MiB" { // a limit, not a typical value
		f.Met = f.Max <= target
	}
	r.Figures = append(r.Figures, f)
}

func median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	n := len(list)
	return (list[(n-1)/2] + list[n/2]) / 2
}

func values(runs []taken, of func(taken) float64) (list []float64) {
	for _, t := range runs {
		list = append(list, of(t))
	}
	return list
}

// lastRound is a line for who waits.
func (r *result) lastRound(from int) string {
	var parts []string
	for _, s := range r.Sides[from:] {
		parts = append(parts, fmt.Sprintf(" %s %.1f s", s.Name, s.Runs[len(s.Runs)-1].Wall))
	}
	return strings.Join(parts, ",")
}

// machine describes what is measured, and on what.
func (b *bench) machine(ctx context.Context) (m machine, err error) {
	m = machine{Settings: b.pg, Cores: runtime.NumCPU()}
	out, err := exec.CommandContext(ctx, b.tools["lethe"], "version").Output()
	if err != nil {
		return m, fmt.Errorf("run %s version: %w\n  try: make build", b.tools["lethe"], err)
	}
	m.Lethe, _, _ = strings.Cut(strings.TrimSpace(string(out)), "\n")
	if m.PostgreSQL, err = b.server.Value(ctx, "postgres", "SHOW server_version"); err != nil {
		return m, err
	}
	m.CPU = lineOf("/proc/cpuinfo", "model name")
	kb, _ := strconv.ParseInt(strings.TrimSuffix(lineOf("/proc/meminfo", "MemTotal"), " kB"), 10, 64)
	m.Memory = kb << 10
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	m.Kernel = strings.TrimSpace(string(kernel))
	return m, err
}

// lineOf is the value of the first "name: value" of a file of /proc, or "".
func lineOf(path, name string) string {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// write writes the results into the folder, as JSON where that is wished, and as text to w too.
func (b *bench) write(w io.Writer) error {
	if err := os.MkdirAll(b.o.out, 0o755); err != nil {
		return err
	}
	var text strings.Builder
	if err := b.report.text(&text); err != nil {
		return err
	}
	files := map[string][]byte{filepath.Join(b.o.out, "report.txt"): []byte(text.String())}
	if len(b.report.Growth) > 0 {
		files[filepath.Join(b.o.out, "growth.svg")] = []byte(b.report.svg())
	}
	if len(b.report.Purges) > 0 {
		files[filepath.Join(b.o.out, "purges.svg")] = []byte(b.report.purgesSVG())
	}
	if b.o.json != "" {
		data, err := json.MarshalIndent(b.report, "", "  ")
		if err != nil {
			return err
		}
		files[b.o.json] = append(data, '\n')
	}
	for name, data := range files {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// text prints the results as tables.
func (r *report) text(out io.Writer) error {
	w := bufio.NewWriter(out)
	fmt.Fprintf(w, "%s, PostgreSQL %s, %d cores (%s), %s of memory, Linux %s, %s\n", r.Machine.Lethe, r.Machine.PostgreSQL, r.Machine.Cores, r.Machine.CPU,
		gigabytes(r.Machine.Memory), r.Machine.Kernel, r.Started.Format(time.DateOnly))
	if r.Ended != "" {
		fmt.Fprintf(w, "INCOMPLETE: the run ended in the scenario %s; here is what it had found out by then.\n", r.Ended)
	}
	for _, d := range r.Datasets {
		fmt.Fprintf(w, "%g GB, %s: %d rows in %d tables, %s as COPY text, the longest row %.0f KB\n", d.Size, d.Layout, d.Rows, len(tables), megabytes(d.Text), float64(d.Longest)/1e3)
	}
	for _, res := range r.Results {
		if err := res.text(w); err != nil {
			return err
		}
	}
	if len(r.Growth) > 0 {
		if err := growthText(w, r.Growth); err != nil {
			return err
		}
	}
	if len(r.Purges) > 0 {
		if err := purgesText(w, r.Purges); err != nil {
			return err
		}
	}
	var err error
	if len(r.Results) > 0 {
		err = r.summary(w)
	}
	fmt.Fprintf(w, "\nIt took %s.\n", (time.Duration(r.Seconds) * time.Second).String())
	return errors.Join(err, w.Flush())
}

func (r *result) text(out io.Writer) error {
	fmt.Fprintf(out, "\n%s", r.Title)
	if r.Layout != "" {
		fmt.Fprintf(out, ", %s", r.Layout)
	}
	if len(r.Changed) > 0 {
		fmt.Fprintf(out, " (%.2f %% of the rows)", median(r.Changed)*100)
	}
	fmt.Fprint(out, "\n\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "  \twall s\tmin–max\tCPU s\tserver CPU s\tpeak MiB\tbytes MB\t\n")
	for _, s := range r.Sides {
		seconds := values(s.Runs, wall)
		fmt.Fprintf(w, "  %s\t%.2f\t%.2f–%.2f\t%.2f\t%.2f\t%.0f\t%s\t\n", s.Name, median(seconds), slices.Min(seconds), slices.Max(seconds),
			median(values(s.Runs, func(t taken) float64 { return t.CPU })), median(values(s.Runs, func(t taken) float64 { return t.ServerCPU })),
			slices.Max(values(s.Runs, memory))/(1<<20), orDash(median(values(s.Runs, stored))/1e6, "%.1f"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(r.Compared) > 0 {
		fmt.Fprintf(out, "\n  What came back equals what SQL by hand makes of the other's restore, row by row, in %d tables.\n", len(r.Compared))
	}
	return nil
}

func orDash(v float64, format string) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf(format, v)
}

// summary prints the figures beside what is promised.
func (r *report) summary(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "\n  \tmedian\tmin–max\tmust be\t\t\n")
	for _, res := range r.Results {
		for _, f := range res.Figures {
			name := f.Name
			if res.Layout == scattered {
				name += " (scattered)"
			}
			must, met := "–", ""
			if f.Target > 0 {
				must, met = "≤ "+f.number(f.Target), "met"
				if !f.Met {
					met = "NOT MET"
				}
			}
			fmt.Fprintf(w, "  %s\t%s\t%s–%s\t%s\t%s\t\n", name, f.number(f.Median), f.number(f.Min), f.number(f.Max), must, met)
		}
	}
	return w.Flush()
}

// number writes a value of the figure.
func (f figure) number(v float64) string {
	switch f.Unit {
	case "MiB":
		return fmt.Sprintf("%.0f MiB", v)
	case "%":
		return fmt.Sprintf("%.1f %%", v)
	}
	if f.Unit == "rows" {
		return fmt.Sprintf("%.0f rows", v)
	}
	return fmt.Sprintf("%.2f %s", v, f.Unit)
}

func megabytes(n int64) string { return fmt.Sprintf("%.0f MB", float64(n)/1e6) }
func gigabytes(n int64) string { return fmt.Sprintf("%.0f GB", float64(n)/1e9) }
