// Command demo shows on a throwaway PostgreSQL server what Lethe is for, and proves it: a sample database of a few
// hundred people is backed up with rules and one person to erase, restored, and compared. `make demo` runs it.
//
// It runs the real lethe as a child, and prints each command so that a newcomer can retype it. What it claims at the
// end it finds out without Lethe's code: by SQL, by reading files, and by the age library.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	lethe := flag.String("lethe", "bin/lethe", "the lethe `BINARY` to show")
	keep := flag.Bool("keep", false, "keep server and files until Ctrl-C")
	flag.Parse()
	os.Exit(run(*lethe, *keep))
}

// run is main with its defers: the server is stopped and its folder removed on every way out.
func run(lethe string, keep bool) int {
	// A reader of our output that goes away (SIGPIPE) and a closed terminal (SIGHUP) end the demo like Ctrl-C does.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	lethe, err := filepath.Abs(lethe)
	if err == nil {
		err = newDemo(os.Stdout, lethe, keep).run(ctx)
	}
	switch {
	case errors.Is(err, errFailed): // it was printed, check by check
		return 1
	case ctx.Err() != nil && err != nil:
		fmt.Fprintln(os.Stderr, "demo: interrupted; the server is stopped and its files are gone")
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	return 0
}
