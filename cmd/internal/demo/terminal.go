package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// How the demo talks: a heading for each step, notes flush left, commands as a shell would show them, what they print
// indented, and each check on a line that begins with ok or FAIL. Never two empty lines in a row.

const width = 100 // of what others print: longer lines are folded between words

// say prints one line.
func (d *demo) say(format string, args ...any) {
	line := strings.TrimRight(fmt.Sprintf(format, args...), " \n")
	if line == "" && d.gap {
		return
	}
	d.gap = line == ""
	if _, err := fmt.Fprintln(d.out, line); err != nil && d.outErr == nil {
		d.outErr = fmt.Errorf("print: %w", err)
	}
}

func (d *demo) heading(format string, args ...any) {
	d.say("")
	d.say(format, args...)
	d.say("")
}

func (d *demo) shell(format string, args ...any) { d.say("  $ "+format, args...) }

// fold breaks a line between words where it is too long for a width of columns, and indents it.
func fold(line string, width int) []string {
	var lines []string
	indent, rest := "    ", []rune(line)
	for len(indent)+len(rest) > width {
		start := slices.IndexFunc(rest, func(r rune) bool { return r != ' ' })
		at := -1
		for i, r := range rest {
			if r == ' ' && i > start && (at < 0 || i <= width-len(indent)) {
				at = i // the last space that fits, or the first where none does
			}
		}
		if at < 0 {
			break
		}
		lines = append(lines, indent+string(rest[:at]))
		indent, rest = "      ", rest[at+1:]
	}
	return append(lines, indent+string(rest))
}

// check prints one line and counts. The detail is for when it does not hold.
func (d *demo) check(holds bool, claim string, detail ...string) {
	d.checks++
	if holds {
		d.say("ok    %s", claim)
		return
	}
	d.failed++
	d.say("FAIL  %s", claim)
	for _, line := range detail {
		d.say("      %s", line)
	}
}

// command shows a command, runs it and shows what it prints. Anything but exit 0 is an error.
func (d *demo) command(ctx context.Context, argv ...string) error {
	code, _, err := d.attempt(ctx, argv...)
	if err == nil && code != 0 {
		err = fmt.Errorf("%s ended with exit code %d", quoted(argv), code)
	}
	return err
}

// attempt shows a command, runs it, shows what it prints, and returns its exit code and its output. An error means
// that it could not be run, or that ctx ended.
func (d *demo) attempt(ctx context.Context, argv ...string) (code int, output string, err error) {
	d.shell("%s", quoted(argv))
	path, err := d.find(argv[0])
	if err != nil {
		return 0, "", err
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Dir, cmd.Env = d.dir, d.env
	cmd.Stdout, cmd.Stderr = &out, &out
	// A process group of its own keeps a terminal's Ctrl-C from it: it gets one interrupt, from us, and stops cleanly.
	// A child that does not is killed after the delay.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	err = cmd.Run()
	for line := range strings.Lines(out.String()) {
		for _, part := range fold(strings.TrimRight(line, "\n"), width) {
			d.say("%s", part)
		}
	}
	if out.Len() > 0 {
		d.say("")
	}
	if argv[0] == "lethe" {
		d.printed.Write(out.Bytes())
	}
	if d.outErr != nil {
		return 0, "", d.outErr
	}
	if ctx.Err() != nil {
		return 0, "", context.Cause(ctx)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		err = nil
	}
	if err != nil {
		return 0, "", fmt.Errorf("run %s: %w", quoted(argv), err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), nil
}

// find is the shell's search in PATH: lethe is the one given, PostgreSQL's programs are those of the server.
func (d *demo) find(name string) (string, error) {
	if name == "lethe" {
		return d.lethe, nil
	}
	if path := d.server.Tool(name); isProgram(path) {
		return path, nil
	}
	return exec.LookPath(name)
}

func isProgram(path string) bool {
	_, err := exec.LookPath(path)
	return err == nil
}

// quoted is a command line as a shell takes it.
func quoted(argv []string) string {
	words := make([]string, len(argv))
	for i, w := range argv {
		if w == "" || strings.ContainsAny(w, " \t\n'\"\\$`*?[]{}()<>|&;#~!") {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		words[i] = w
	}
	return strings.Join(words, " ")
}
