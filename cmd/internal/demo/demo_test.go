package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"lethe/cmd/internal/lethetest"
)

func TestMain(m *testing.M) { os.Exit(lethetest.Run(m)) }

// failures runs the demo and returns the claims that did not hold. The server must be gone afterwards.
func failures(t *testing.T, d *demo) (claims []string, output string, err error) {
	t.Helper()
	return failuresUntil(t, d, "")
}

// failuresUntil presses Ctrl-C, so to speak, when a text is printed.
func failuresUntil(t *testing.T, d *demo, text string) (claims []string, output string, err error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out bytes.Buffer
	d.out = writerFunc(func(p []byte) (int, error) {
		if text != "" && bytes.Contains(p, []byte(text)) {
			cancel()
		}
		return out.Write(p)
	})
	err = d.run(ctx)
	select {
	case <-d.server.Exited():
	default:
		t.Error("the server still runs")
	}
	if _, statErr := os.Stat(d.server.Dir()); !errors.Is(statErr, fs.ErrNotExist) {
		t.Errorf("the server's folder is still there: %v", statErr)
	}
	for line := range strings.Lines(out.String()) {
		if claim, ok := strings.CutPrefix(strings.TrimSpace(line), "FAIL  "); ok {
			claims = append(claims, claim)
		}
	}
	if len(claims) != d.failed {
		t.Errorf("%d claims are printed as failed, %d are counted", len(claims), d.failed)
	}
	return claims, out.String(), err
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// expect runs a demo in which the claims with these beginnings, and no others, must fail.
func expect(t *testing.T, d *demo, beginnings ...string) {
	t.Helper()
	claims, output, err := failures(t, d)
	if !errors.Is(err, errFailed) {
		t.Errorf("the demo returned %v, want errFailed", err)
	}
	same := slices.EqualFunc(claims, beginnings, strings.HasPrefix)
	if !same {
		t.Errorf("failed claims:\n  %s\nwant:\n  %s\n%s", strings.Join(claims, "\n  "), strings.Join(beginnings, "\n  "), output)
	}
}

func TestDemo(t *testing.T) {
	d := newDemo(nil, lethetest.Binary, true)
	_, output, err := failuresUntil(t, d, "until you press Ctrl-C")
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if n := strings.Count("\n"+output, "\nok    "); n != d.checks || n < 23 {
		t.Errorf("%d lines begin with ok, %d checks were made", n, d.checks)
	}
	for _, want := range []string{"  $ lethe init ", "  $ lethe rules check\n", "  $ lethe backup -v\n", "  $ lethe list\n", "  $ lethe restore latest ",
		"All 23 checks hold.",
		"export PGHOST=" + d.server.Dir(), "Stopped and removed."} {
		if !strings.Contains(output, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	for line := range strings.Lines(output) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width && !strings.Contains(line, "export") {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
}

// A search that finds nothing must be able to find something: nobody is erased here.
func TestNobodyErased(t *testing.T) {
	d := newDemo(nil, lethetest.Binary, false)
	d.stays = true
	expect(t, d,
		"none of it is in the",
		"those of the restored database do not",
		"what the law keeps is kept",
		"every row equals the one that SQL by hand leaves",
		"so does every large object")
}

// What is restored is altered before it is looked at, and something readable is put into the store.
func TestAltered(t *testing.T) {
	d := newDemo(nil, lethetest.Binary, false)
	d.meddle = func(ctx context.Context, d *demo, before string) error {
		if before != "prove" {
			return nil
		}
		if err := os.WriteFile(filepath.Join(d.dir, "store", "note.txt"), []byte("zq-canary"), 0o600); err != nil {
			return err
		}
		return d.server.Exec(ctx, restored, `
			UPDATE comments SET body = body || '.' WHERE id = (SELECT min(id) FROM comments);
			SELECT lo_unlink(min(oid)) FROM pg_largeobject_metadata;
			SELECT setval('tracks_id_seq', 481);
			DROP INDEX comments_author_id_idx`)
	}
	expect(t, d,
		"every row equals the one that SQL by hand leaves",
		"so does every large object",
		"so does every sequence",
		"pg_dump prints the same schema",
		"none of the",
		"the purged snapshot restores, row for row")
}

// The key holder's identity lies beside the operator's keys here, and lethe sees no damage: a script in its place says
// that all is well.
func TestReadableAndBlind(t *testing.T) {
	blind := filepath.Join(t.TempDir(), "lethe")
	script := "#!/bin/sh\ncase \"$*\" in *damaged*) exit 0;; esac\nexec '" + lethetest.Binary + "' \"$@\"\n"
	if err := os.WriteFile(blind, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	d := newDemo(nil, blind, false)
	d.meddle = func(_ context.Context, d *demo, before string) error {
		if before != "prove" {
			return nil
		}
		identity, err := os.ReadFile(filepath.Join(d.dir, "keyholder", "key.txt"))
		if err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(d.dir, "operator.key"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString("# " + string(identity))
		return errors.Join(err, f.Close())
	}
	expect(t, d,
		"lethe restore refuses that key",
		"and no database came of it",
		"age opens none of",
		"lethe check names the object",
		"so does lethe restore")
}

// The purge says that all is done, and did nothing.
func TestPurgeThatDoesNothing(t *testing.T) {
	idle := filepath.Join(t.TempDir(), "lethe")
	script := "#!/bin/sh\ncase \"$*\" in *'purge --yes'*|*'erasure verify'*) exit 0;; esac\nexec '" + lethetest.Binary + "' \"$@\"\n"
	if err := os.WriteFile(idle, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	expect(t, newDemo(nil, idle, false), "decrypted by age alone, none of the store's")
}

// Ctrl-C in the middle: the context ends, and so does everything else.
func TestInterrupted(t *testing.T) {
	_, output, err := failuresUntil(t, newDemo(nil, lethetest.Binary, false), "$ lethe backup")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the demo returned %v, want context.Canceled", err)
	}
	if strings.Contains(output, "lethe restore") {
		t.Error("the demo went on after the interrupt")
	}
}

// Who reads the output goes away: the demo ends rather than talk to nobody.
func TestNobodyListens(t *testing.T) {
	d := newDemo(writerFunc(func([]byte) (int, error) { return 0, errors.New("closed") }), lethetest.Binary, false)
	if err := d.run(t.Context()); err == nil || !strings.Contains(err.Error(), "print: closed") {
		t.Errorf("the demo returned %v, want that it can't print", err)
	}
}

func TestCommandThatFails(t *testing.T) {
	d := newDemo(nil, lethetest.Binary, false)
	d.rules = strings.Replace(rulesYAML, "  orgs:           {clear: created_by}\n", "", 1)
	_, output, err := failures(t, d)
	if err == nil || !strings.Contains(err.Error(), "lethe rules check ended with exit code 2") {
		t.Errorf("with a reference that nobody decided the demo returned %v\n%s", err, output)
	}
}

func TestQuoted(t *testing.T) {
	for _, c := range []struct {
		argv []string
		want string
	}{
		{[]string{"lethe", "list"}, "lethe list"},
		{[]string{"psql", "-c", "SELECT 'a'"}, `psql -c 'SELECT '\''a'\'''`},
		{[]string{"x", "", "a=b/c:d,e@f-g_h.i"}, "x '' a=b/c:d,e@f-g_h.i"},
	} {
		if got := quoted(c.argv); got != c.want {
			t.Errorf("quoted(%q) = %s, want %s", c.argv, got, c.want)
		}
	}
}

func TestFold(t *testing.T) {
	for _, c := range []struct {
		name, line string
		want       []string
	}{
		{"short", "abc", []string{"    abc"}},
		{"empty", "", []string{"    "}},
		{"exactly", "123456 890123456", []string{"    123456 890123456"}},
		{"between words", "one two three four five", []string{"    one two three", "      four five"}},
		{"a long word", "a 01234567890123456789 b", []string{"    a", "      01234567890123456789", "      b"}},
		{"only a long word", "01234567890123456789", []string{"    01234567890123456789"}},
		{"indented", "  one two three four", []string{"      one two three", "      four"}},
		{"wide letters", "éééé éééé éééé éééé", []string{"    éééé éééé éééé", "      éééé"}},
	} {
		if got := fold(c.line, 20); !slices.Equal(got, c.want) {
			t.Errorf("%s: fold is %q, want %q", c.name, got, c.want)
		}
	}
}
