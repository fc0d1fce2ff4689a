// Command bench measures Lethe against the tools that people use today, side by side in one run, on a throwaway
// PostgreSQL server filled with made-up people. `make bench` runs it; docs/performance.md says what the figures mean.
//
// It drives whole processes as a user would: the real lethe, and the distribution's pg_dump, pg_restore, psql, zstd and
// age. What it says of bytes it finds out by looking into folders, and it counts a restore only when every row is there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

func main() { os.Exit(run()) }

// run is main with its defers: the server is stopped and its folder removed on every way out.
func run() int {
	o := options{log: os.Stderr}
	var names string
	flag.StringVar(&o.lethe, "lethe", "bin/lethe", "the lethe `BINARY` to measure")
	flag.Float64Var(&o.size, "size", 1, "`GB` of COPY text to generate")
	flag.IntVar(&o.pairs, "pairs", 5, "how often each side runs")
	flag.StringVar(&names, "scenarios", "", "comma-separated `NAMES`, or all (default: "+scenarioNames(true)+"; there are: "+scenarioNames(false)+")")
	flag.StringVar(&o.out, "out", "bench", "`FOLDER` for the results")
	flag.StringVar(&o.json, "json", "", "write the results as JSON to this `FILE` too")
	flag.StringVar(&o.dir, "dir", "", "`FOLDER` on the disk to measure on (default: the system's temporary folder)")
	flag.Func("lock", "hold an exclusive lock (flock) on this `FILE` during each timed run, where a machine does other work too; may be repeated",
		func(path string) error { o.locks = append(o.locks, path); return nil })
	flag.Parse()

	// A reader of our output that goes away (SIGPIPE) and a closed terminal (SIGHUP) end the run like Ctrl-C does.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	err := o.check(names, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	b := newBench(o)
	err = b.run(ctx)
	if b.report.worth() {
		err = errors.Join(err, b.write(os.Stdout))
	}
	switch {
	case ctx.Err() != nil && err != nil:
		fmt.Fprintln(os.Stderr, "bench: interrupted; the server is stopped and its files are gone")
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

// options are what the command line says.
type options struct {
	lethe          string
	size           float64
	pairs          int
	scenarios      []scenario
	out, json, dir string
	locks          []string
	log            io.Writer // says what is being done
}

func (o *options) check(names string, rest []string) (err error) {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unknown argument %q", rest[0])
	case !(o.size >= 0.001 && o.size <= 100):
		return fmt.Errorf("-size %v is not between 0.001 and 100 GB", o.size)
	case o.pairs < 1 || o.pairs > 1000:
		return fmt.Errorf("-pairs %d is not between 1 and 1000", o.pairs)
	case runtime.GOOS != "linux":
		return errors.New("bench reads processor time and memory as Linux gives them, and runs nowhere else")
	}
	if o.scenarios, err = selectScenarios(names); err != nil {
		return err
	}
	o.lethe, err = filepath.Abs(o.lethe)
	return err
}

func selectScenarios(names string) (list []scenario, err error) {
	if names == "" {
		names = scenarioNames(true)
	}
	if names == "all" {
		names = scenarioNames(false)
	}
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no scenario %q; there are %s", name, scenarioNames(false))
		}
		list = append(list, scenarios[i])
	}
	return list, nil
}

func scenarioNames(usual bool) string {
	var names []string
	for _, s := range scenarios {
		if s.usual || !usual {
			names = append(names, s.name)
		}
	}
	return strings.Join(names, ",")
}
