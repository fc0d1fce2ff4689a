package source

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// recorder keeps each Write apart.
type recorder struct{ writes []string }

func (r *recorder) Write(p []byte) (int, error) {
	r.writes = append(r.writes, string(p))
	return len(p), nil
}

func TestRowsArriveWholeHoweverTheyAreSent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sent := strings.Join(rapid.SliceOf(rapid.StringMatching(`[a-c\t]{0,5}\n`)).Draw(t, "rows"), "")
		var got recorder
		w := rowWriter{to: &got}
		for rest := sent; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			if _, err := w.Write([]byte(rest[:n])); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if strings.Join(got.writes, "") != sent || len(w.rest) > 0 {
			t.Fatalf("sent %q, got %q and %q is left", sent, got.writes, w.rest)
		}
		for _, p := range got.writes {
			if !strings.HasSuffix(p, "\n") {
				t.Fatalf("%q is not whole rows", p)
			}
		}
	})
}

func TestWholeRowsAreNeitherCopiedNorAllocated(t *testing.T) {
	row := []byte("1\tx\n")
	w := rowWriter{to: &same{want: &row[0]}}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := w.Write(row); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Fatalf("%v allocations for a row", n)
	}
}

type same struct{ want *byte }

func (s *same) Write(p []byte) (int, error) {
	if &p[0] != s.want {
		return 0, errors.New("the row was copied")
	}
	return len(p), nil
}

func TestSessionLinesAreTakenOut(t *testing.T) {
	const plain = "--\n-- PostgreSQL database dump\n--\n\n-- Dumped from\n\nSET lock_timeout = 0;\n" +
		"SELECT pg_catalog.set_config('search_path', '', false);\nCREATE FUNCTION f AS $$\n\\unrestrict other\nSET transaction_timeout = 0;\n\\restrict x\n$$;\n\n--\n-- complete\n--\n\n"
	newer := strings.Replace(plain, "-- Dumped", "\\restrict abC1\n\n-- Dumped", 1)
	newer = strings.Replace(newer, "SET lock_timeout = 0;\n", "SET lock_timeout = 0;\nSET transaction_timeout = 0;\n", 1)
	newer += "\\unrestrict abC1\n\n"
	for name, in := range map[string]string{"without them": plain, "with them": newer} {
		if got := withoutSessionLines(in); got != plain {
			t.Errorf("%s: got\n%s", name, got)
		}
	}
}

func TestVersionsCompareByNumber(t *testing.T) {
	for _, c := range []struct{ a, b string }{{"15.18", "15.9"}, {"17.0", "16.10"}, {"17.0", "17beta1"}, {"17beta2", "16.4"}, {"18", "17.9"}} {
		if !newer(c.a, c.b) || newer(c.b, c.a) {
			t.Errorf("%s should be newer than %s", c.a, c.b)
		}
	}
	if newer("15.1", "15.1") {
		t.Error("a version is not newer than itself")
	}
}

func TestParametersMergeAsLibpqDoes(t *testing.T) {
	file := t.TempDir() + "/services"
	write(t, file, "[prod]\nsslmode=verify-full\nhost=db.example\noptions=-c geqo=off\n")
	t.Setenv("PGSERVICEFILE", file)
	t.Setenv("PGSSLMODE", "allow")
	for _, c := range []struct{ dsn, key, want string }{
		{"", "sslmode", "allow"},
		{"postgres:///x?sslmode=require", "sslmode", "require"},
		{"postgresql://h1:1,h2:2/x?sslrootcert=%2Fa%20b+c", "sslrootcert", "/a b+c"},
		{"postgres://h/x?ssl=true", "sslmode", "require"},
		{"postgres:///x?service=prod", "sslmode", "verify-full"},
		{"service=prod sslmode = disable", "sslmode", "disable"},
		{"service=prod", "options", "-c geqo=off"},
		{`host=h options='-c search_path=it\'s\\' user=u`, "options", `-c search_path=it's\`},
		{`sslkey=a\ b user=u`, "sslkey", "a b"},
	} {
		got, err := parameters(c.dsn)
		if err != nil || got[c.key] != c.want {
			t.Errorf("%s: %s = %q, %v; want %q", c.dsn, c.key, got[c.key], err, c.want)
		}
	}
}

func TestLimitedOutput(t *testing.T) {
	strict := &limited{max: 4}
	if _, err := strict.Write([]byte("12345")); err == nil || !strict.full {
		t.Error("more than the limit was taken")
	}
	var kept bytes.Buffer
	lax := &limited{max: 4, drop: true}
	for range 3 {
		if n, err := lax.Write([]byte("abc")); n != 3 || err != nil {
			t.Error(n, err)
		}
	}
	kept.WriteString(lax.String())
	if kept.String() != "abca" {
		t.Errorf("kept %q", kept.String())
	}
}

func TestOneLineLiterals(t *testing.T) {
	if got := oneLine("a\nb'c\\\r"); got != `E'a\nb''c\\\r'` {
		t.Error(got)
	}
	if got := oneLine(`it's\n`); got != `'it''s\n'` {
		t.Error(got)
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
