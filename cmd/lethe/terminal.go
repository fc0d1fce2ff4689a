package main

// How Lethe talks to people, all in this file:
//
//   - stdout carries what was asked for, and with --json one JSON document and nothing else.
//   - stderr carries messages: what was done (unless -q), warnings (always), errors (always), progress (on a terminal).
//   - An error is one line "lethe: what was being done: why it failed", then "  try: …" where there is something to try.
//   - No secret and no personal value in any of them.
//   - What stores, databases and requests say is text here, and no command to the terminal: see visible.
//   - Sizes are in powers of 1024 (MiB), durations rounded to what a person cares about.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/term"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
)

// terminal is where a command's words go.
type terminal struct {
	out, err io.Writer
	json     bool
	quiet    bool
	verbose  bool

	mu       sync.Mutex
	progress bool   // stderr is a terminal and progress is wanted
	line     string // the progress line that stands there now
	drawn    time.Time
}

func newTerminal(out, err io.Writer) *terminal {
	t := &terminal{out: out, err: err}
	if f, ok := err.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		t.progress = true
	}
	return t
}

// Print writes what was asked for to stdout.
func (t *terminal) Print(format string, args ...any) error {
	_, err := io.WriteString(t.out, visible(fmt.Sprintf(format, args...)))
	return err
}

// JSON writes the one JSON document of --json.
func (t *terminal) JSON(v any) error {
	enc := json.NewEncoder(t.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// Say tells what was done; -q silences it.
func (t *terminal) Say(format string, args ...any) {
	if !t.quiet {
		t.write(format+"\n", args...)
	}
}

// Detail tells more; only with -v.
func (t *terminal) Detail(format string, args ...any) {
	if t.verbose {
		t.write(format+"\n", args...)
	}
}

// Warn is never silent.
func (t *terminal) Warn(format string, args ...any) { t.write("lethe: warning: "+format+"\n", args...) }

// Fail prints an error and its hint.
func (t *terminal) Fail(err error) {
	t.write("lethe: %s\n", err)
	if h := hint(err); h != "" && !strings.Contains(err.Error(), "  try: ") {
		t.write("  try: %s\n", h)
	}
}

// hint is what to try: what the outermost error that knows something says, else what usually helps against its cause.
func hint(err error) string {
	if h := ownHint(err); h != "" {
		return h
	}
	var connect *pgconn.ConnectError
	switch {
	case errors.Is(err, store.ErrNoSpace):
		return "free space in the store or move it to a larger disk; the snapshots that are there still restore"
	case errors.Is(err, store.ErrReadOnly):
		return "is it mounted read-only, or does its directory belong to another user?"
	case errors.Is(err, archive.ErrIntegrity):
		return "lethe check --identity FILE to list everything that is damaged; another store may hold a good copy"
	case errors.Is(err, archive.ErrPassphrase):
		return "run it again with the passphrase that the file was encrypted with; age -d FILE tells whether it is the one"
	case errors.As(err, &connect):
		return "does psql connect with the same URL or PG* variables, as the same user of this machine?"
	}
	return ""
}

// ownHint returns the first hint that is not empty, from the outermost error inwards.
func ownHint(err error) string {
	if h, ok := err.(interface{ Hint() string }); ok && h.Hint() != "" {
		return h.Hint()
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			return ownHint(inner)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			if h := ownHint(inner); h != "" {
				return h
			}
		}
	}
	return ""
}

// Progress draws one line on a terminal, at most ten times a second; an empty line takes it away.
func (t *terminal) Progress(format string, args ...any) {
	if !t.progress || t.quiet || t.json {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	line := visible(fmt.Sprintf(format, args...))
	if line != "" && time.Since(t.drawn) < 100*time.Millisecond {
		return
	}
	t.drawn = time.Now()
	fmt.Fprintf(t.err, "\r\x1b[K%s", line)
	t.line = line
}

func (t *terminal) write(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.line != "" {
		fmt.Fprint(t.err, "\r\x1b[K")
		t.line = ""
	}
	_, _ = io.WriteString(t.err, visible(fmt.Sprintf(format, args...))) // nowhere to say that it fails
}

// visible writes out what a terminal would obey or hide: a name, a key or a store's answer that moves the cursor must not
// take away what stands above it. Lines and tabs stay.
func visible(text string) string {
	odd := func(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) }
	if utf8.ValidString(text) && !strings.ContainsFunc(text, odd) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case odd(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteString(text[:n])
		}
		text = text[n:]
	}
	return b.String()
}

// visibleWord is visible for what has to stay on one line.
func visibleWord(word string) string {
	if quoted := strconv.Quote(word); strings.Trim(quoted, `"`) != word {
		return quoted
	}
	return word
}

// Ask reads a secret from the terminal, without echo. The terminal is asked even where stdin is a pipe.
func (t *terminal) Ask(ctx context.Context, prompt string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", errors.New("there is no terminal to ask on")
	}
	defer tty.Close() //nolint:errcheck // nothing is buffered
	fd := int(tty.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("ask on the terminal: %w", err)
	}
	if _, err := fmt.Fprintf(tty, "%s: ", prompt); err != nil {
		return "", fmt.Errorf("ask on the terminal: %w", err)
	}
	type answer struct {
		text []byte
		err  error
	}
	given := make(chan answer, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		given <- answer{text, err}
	}()
	defer fmt.Fprintln(tty) //nolint:errcheck // the line end that was not echoed
	select {
	case a := <-given:
		if a.err != nil {
			return "", fmt.Errorf("ask on the terminal: %w", a.err)
		}
		return string(a.text), nil
	case <-ctx.Done(): // the read can't be taken back; the echo must be
		return "", errors.Join(ctx.Err(), term.Restore(fd, before))
	}
}

func bytesText(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
}

func durationText(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

func count(n int64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	if strings.HasSuffix(one, "y") {
		one = strings.TrimSuffix(one, "y") + "ie"
	}
	return group(n) + " " + one + "s"
}

// group prints 62000 as 62 000: easy to read, and the same in every locale.
func group(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

// Question asks on the terminal, with echo, even where stdin is a pipe.
func (t *terminal) Question(ctx context.Context, prompt string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", errors.New("there is no terminal to ask on")
	}
	defer tty.Close() //nolint:errcheck // nothing is buffered
	if _, err := fmt.Fprintf(tty, "%s: ", prompt); err != nil {
		return "", fmt.Errorf("ask on the terminal: %w", err)
	}
	type answer struct {
		text string
		err  error
	}
	given := make(chan answer, 1)
	go func() {
		text, err := bufio.NewReader(tty).ReadString('\n')
		given <- answer{text, err}
	}()
	select {
	case a := <-given:
		if a.err != nil {
			return "", fmt.Errorf("ask on the terminal: %w", a.err)
		}
		return strings.TrimRight(a.text, "\r\n"), nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
