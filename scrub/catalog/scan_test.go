package catalog

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// scanAll reads a script through windows that grow by step bytes, as the reader of a file does.
func scanAll(t testing.TB, script string, step int) (statements []Statement, tail string, err error) {
	t.Helper()
	var s Scanner
	window, rest := "", script
	for calls := 0; ; calls++ {
		if calls > 10*len(script)+10 {
			t.Fatal("it does not come to an end")
		}
		st, n, err := s.Next(window, rest == "")
		switch {
		case err != nil:
			return statements, "", err
		case n > 0:
			if st.Text == "" || !strings.HasSuffix(window[:n], st.Text) {
				t.Fatalf("%q is not what the window moves over: %q", st.Text, window[:n])
			}
			statements = append(statements, st)
			window = window[n:]
			if st.CopyFrom {
				window += rest
				end := strings.Index(window, "\n\\.\n")
				if end < 0 {
					return statements, "", errors.New("COPY does not end")
				}
				s.Skip(strings.Count(window[:end+4], "\n"))
				statements[len(statements)-1].CopyData = window[1 : end+1]
				window, rest = "", window[end+4:]
			}
		case rest == "":
			return statements, window, nil
		default:
			n := min(step, len(rest))
			window, rest = window+rest[:n], rest[n:]
		}
	}
}

// TestScannerCutsWhereSplitCuts puts together scripts of everything that makes statements hard to tell apart, and
// reads them in windows of any size.
func TestScannerCutsWhereSplitCuts(t *testing.T) {
	pieces := []string{
		"SELECT 1;\n", "SET x = 'a;b''c';\n", `INSERT INTO "a;b""c" VALUES (E'it\'s; ', U&'\0041;');` + "\n", "-- Name: t; Type: TABLE; Schema: public; Owner: me\n",
		"/* a ; /* nested ; */ */", "CREATE FUNCTION f() AS $$ a; b $$;\n", "CREATE FUNCTION f() AS $tag$ a; $$ b; $tag$ LANGUAGE sql;\n",
		"CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; SELECT CASE WHEN a THEN 1 END; END;\n", "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);\n",
		"COPY public.t (a) FROM stdin;\n1\n;'\"$$\n\\.\n", "COPY public.t FROM stdin;\n\\.\n", "\n\n", ";", "SELECT E'a'\n  'b;c' ;", "SELECT $1;", "SELECT a$b$c;",
	}
	rapid.Check(t, func(rt *rapid.T) {
		script := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 12).Draw(rt, "pieces"), "")
		want, err := Split(script)
		if err != nil {
			rt.Fatal(err)
		}
		got, tail, err := scanAll(t, script, rapid.IntRange(1, 200).Draw(rt, "step"))
		if err != nil {
			rt.Fatalf("%v\n%s", err, script)
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("got  %+v\nwant %+v", got, want)
		}
		if st, err := Split(tail); err != nil || len(st) > 0 {
			rt.Fatalf("statements were left over: %q", tail)
		}
	})
}

func TestScannerErrors(t *testing.T) {
	for name, c := range map[string]struct {
		script, want string
		line         int
	}{
		"no semicolon":         {"SELECT 1;\nSELECT 2", "does not end", 2},
		"an open string":       {"SELECT 1;\n\nSELECT 'a;", "never ends", 3},
		"an open parenthesis":  {"SELECT (1;\n", "does not end", 1},
		"NUL":                  {"SELECT 1;\n\x00" + strings.Repeat(" ", 100), "NUL", 2},
		"a command in between": {"SELECT 1\n\\gexec\n;" + strings.Repeat(" ", 100), "meta-command", 2},
		"old strings":          {"SET standard_conforming_strings = off;\nSELECT 'a\\b';\nSELECT 2;\n", "backslash", 2},
	} {
		t.Run(name, func(t *testing.T) {
			for step := 1; step < 30; step++ {
				_, _, err := scanAll(t, c.script, step)
				var split *SplitError
				if !errors.As(err, &split) || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("step %d: error %v, want %q", step, err, c.want)
				}
				if name == "old strings" && split.Line != c.line {
					t.Errorf("step %d: line %d, want %d", step, split.Line, c.line)
				}
			}
		})
	}
}

func TestScannerHandsOutMetaCommands(t *testing.T) {
	const script = "\ufeff-- x\n\\restrict abc\n\nSELECT 1;\n\\connect \"my db\"\nSET a = 1;\n\\unrestrict abc"
	for step := 1; step < 40; step++ {
		st, _, err := scanAll(t, script, step)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range st {
			got = append(got, s.Text)
		}
		if want := []string{`\restrict abc`, "SELECT 1;", `\connect "my db"`, "SET a = 1;", `\unrestrict abc`}; !slices.Equal(got, want) {
			t.Fatalf("step %d: %q", step, got)
		}
		if st[2].Line != 5 {
			t.Fatalf("step %d: line %d", step, st[2].Line)
		}
	}
}

func TestCopyTarget(t *testing.T) {
	name, columns, err := CopyTarget(`COPY "Odd"."Tab ""x""" (id, "a,b") FROM stdin;`)
	if err != nil || name != (Name{"Odd", `Tab "x"`}) || !slices.Equal(columns, []string{"id", "a,b"}) {
		t.Errorf("%v %q %v", name, columns, err)
	}
	if name, columns, err = CopyTarget("COPY public.nothing  FROM stdin;"); err != nil || name.Name != "nothing" || len(columns) != 0 {
		t.Errorf("%v %q %v", name, columns, err)
	}
	for _, bad := range []string{"COPY t FROM stdin;", "COPY public.t FROM stdin WITH (FORMAT csv);", "COPY public.t TO stdout;", "COPY public.t FROM '/etc/passwd';",
		"COPY public.t FROM PROGRAM 'id';", "COPY (SELECT 1) TO stdout;", "COPY public.t FROM stdin WHERE a > 1;", "COPY public.t FROM stdin CSV;", "SELECT 1;", "COPY"} {
		if _, _, err := CopyTarget(bad); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

func TestParseInsert(t *testing.T) {
	in, err := ParseInsert("INSERT INTO public.\"T x\" (a, \"B\", c, d, e, f, g) OVERRIDING SYSTEM VALUE VALUES\n" +
		"\t(1, 'it''s \\ ; )', NULL, true, B'101', -1.5e-20, DEFAULT),\n\t(+2, '', null, FALSE, b'', 3, DEFAULT) ON CONFLICT DO NOTHING;")
	if err != nil {
		t.Fatal(err)
	}
	if in.Table != (Name{"public", "T x"}) || !slices.Equal(in.Columns, []string{"a", "B", "c", "d", "e", "f", "g"}) {
		t.Errorf("%+v", in)
	}
	want := [][]InsertValue{
		{{Text: "1"}, {Text: `it's \ ; )`}, {Null: true}, {Text: "t"}, {Text: "101"}, {Text: "-1.5e-20"}, {Default: true}},
		{{Text: "+2"}, {}, {Null: true}, {Text: "f"}, {}, {Text: "3"}, {Default: true}},
	}
	for i := range want {
		if i >= len(in.Rows) || !slices.Equal(in.Rows[i], want[i]) {
			t.Errorf("row %d: %+v, want %+v", i, in.Rows, want[i])
		}
	}
	if in, err = ParseInsert("INSERT INTO public.nothing DEFAULT VALUES;"); err != nil || len(in.Rows) != 1 || len(in.Rows[0]) != 0 {
		t.Errorf("%+v, %v", in, err)
	}
	for _, bad := range []string{"", ";", "INSERT INTO t VALUES (1);", "INSERT INTO public.t SELECT 1;", "INSERT INTO public.t VALUES (now());", "INSERT INTO public.t VALUES (1 + 1);",
		"INSERT INTO public.t VALUES ('a'::text);", "INSERT INTO public.t VALUES (E'a');", "INSERT INTO public.t VALUES (1) RETURNING a;", "INSERT INTO public.t VALUES (1), ;",
		"INSERT INTO public.t VALUES ();", "INSERT INTO public.t VALUES (1", "INSERT INTO public.t VALUES (1 2);", "INSERT INTO public.t VALUES ($$a$$);", "INSERT INTO public.t VALUES ('a' 'b');",
		"INSERT INTO public.t VALUES (1) ON CONFLICT DO UPDATE SET a = 1;", "INSERT INTO public.t VALUES (1);SELECT 1;", "INSERT INTO public.t VALUES (x);", "INSERT INTO public.t VALUES (U&'a');"} {
		if in, err := ParseInsert(bad); err == nil {
			t.Errorf("%s: %+v", bad, in)
		}
	}
}

func FuzzParseInsert(f *testing.F) {
	f.Add("INSERT INTO public.t (a) VALUES (1, 'x', NULL), (B'1', true, DEFAULT) ON CONFLICT DO NOTHING;")
	f.Add("INSERT INTO a.b DEFAULT VALUES;")
	f.Fuzz(func(t *testing.T, s string) {
		if in, err := ParseInsert(s); err == nil && len(in.Rows) == 0 {
			t.Errorf("no rows: %q", s)
		}
	})
}
