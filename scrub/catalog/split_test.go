package catalog

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func texts(stmts []Statement) []string {
	var out []string
	for _, s := range stmts {
		out = append(out, s.Text)
	}
	return out
}

func TestSplit(t *testing.T) {
	tests := []struct {
		name, sql string
		want      []string
	}{
		{"nothing", " \n-- only a comment\n/* and /* nested */ one */;;", nil},
		{"two", "SELECT 1; SELECT 2;", []string{"SELECT 1;", "SELECT 2;"}},
		{"no semicolon at the end", "SELECT 1; SELECT 2 -- x", []string{"SELECT 1;", "SELECT 2 -- x\n;"}},
		{"quotes", `SELECT ';''\'; SELECT ";"";" ;`, []string{`SELECT ';''\';`, `SELECT ";"";" ;`}},
		{"escape string", `SELECT E'\';'';' ; SELECT e'\\';`, []string{`SELECT E'\';'';' ;`, `SELECT e'\\';`}},
		{"escape string continued", "SELECT E'a' -- c\n '\\';' ; SELECT 2;", []string{"SELECT E'a' -- c\n '\\';' ;", "SELECT 2;"}},
		{"escape string not continued", "SELECT E'a' ';\\';", []string{"SELECT E'a' ';\\';"}},
		{"word that ends in e", `SELECT name'\';`, []string{`SELECT name'\';`}},
		{"unicode strings", `SELECT U&'\0061;', U&";"";";`, []string{`SELECT U&'\0061;', U&";"";";`}},
		{"bit strings", `SELECT B'1;', x'F;', N';';`, []string{`SELECT B'1;', x'F;', N';';`}},
		{"dollar quotes", "SELECT $$;$a$;$$, $a$ ; $$ ; $a$; SELECT $é1$;$é1$;", []string{"SELECT $$;$a$;$$, $a$ ; $$ ; $a$;", "SELECT $é1$;$é1$;"}},
		{"parameters and dollars in names", "SELECT $1, a$b$ ; SELECT c$b$;", []string{"SELECT $1, a$b$ ;", "SELECT c$b$;"}},
		{"comments inside", "SELECT 1 /* ; /* ; */ ; */ -- ;\n; SELECT 2;", []string{"SELECT 1 /* ; /* ; */ ; */ -- ;\n;", "SELECT 2;"}},
		{"operators before comments", "SELECT 1 */* ; */2; SELECT 1+--;\n2;", []string{"SELECT 1 */* ; */2;", "SELECT 1+--;\n2;"}},
		{"rule", "CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM a; DELETE FROM b;); SELECT 1;",
			[]string{"CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM a; DELETE FROM b;);", "SELECT 1;"}},
		{"atomic body", "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 ELSE 2 END; SELECT 2; END; SELECT 3;",
			[]string{"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 ELSE 2 END; SELECT 2; END;", "SELECT 3;"}},
		{"atomic body, or replace", "create or replace procedure p() begin atomic select 1; end; commit;",
			[]string{"create or replace procedure p() begin atomic select 1; end;", "commit;"}},
		{"begin of a transaction", "BEGIN; SELECT 1; END;", []string{"BEGIN;", "SELECT 1;", "END;"}},
		{"restrict", "\\restrict abc\nSELECT 1;\n\\unrestrict abc\n", []string{"SELECT 1;"}},
		{"byte order mark", "\ufeffSELECT 1;", []string{"SELECT 1;"}},
		{"closing parenthesis too many", "SELECT 1); SELECT 2;", []string{"SELECT 1);", "SELECT 2;"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Split(tt.sql)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(texts(got), tt.want) {
				t.Errorf("got  %q\nwant %q", texts(got), tt.want)
			}
		})
	}
}

func TestSplitHeaderAndLine(t *testing.T) {
	got, err := Split("SET a = 1;\n\n--\n-- Name: a; Type: b; Type: TABLE; Schema: public; Owner: bob; Tablespace: fast\n--\n\nCREATE TABLE a ();\n" +
		"-- Name: s; Type: SCHEMA; Schema: -; Owner: -\nCREATE SCHEMA s;\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 {
		t.Fatalf("got %q", texts(got))
	}
	if want := (Header{Name: "a; Type: b", Type: "TABLE", Schema: "public", Owner: "bob"}); got[1].Header != want {
		t.Errorf("header %+v, want %+v", got[1].Header, want)
	}
	if want := (Header{Name: "s", Type: "SCHEMA"}); got[2].Header != want {
		t.Errorf("header %+v, want %+v", got[2].Header, want)
	}
	if got[0].Line != 1 || got[1].Line != 7 || got[2].Line != 9 {
		t.Errorf("lines %d %d %d", got[0].Line, got[1].Line, got[2].Line)
	}
}

func TestSplitCopy(t *testing.T) {
	got, err := Split("COPY public.\"a;b\" (x) FROM stdin;\nit's; $$\n\\\\.\n\\.\n\nCOPY t FROM STDIN WITH (FORMAT csv);\n\\.\nCOPY t TO stdout;\nCOPY t FROM 'stdin';\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 4 {
		t.Fatalf("got %q", texts(got))
	}
	if !got[0].CopyFrom || got[0].CopyData != "it's; $$\n\\\\.\n" {
		t.Errorf("data %q", got[0].CopyData)
	}
	if !got[1].CopyFrom || got[1].CopyData != "" || got[2].CopyFrom || got[3].CopyFrom {
		t.Errorf("got %+v", got[1:])
	}
}

func TestSplitErrors(t *testing.T) {
	tests := []struct {
		name, sql string
		line      int
		says      string
	}{
		{"meta-command", "SELECT 1;\n\\connect other\n", 2, `\connect`},
		{"meta-command in a statement", "SELECT 1\n\\gexec\n", 2, `\gexec`},
		{"restrict in a statement", "SELECT 1\n\\restrict x\n;", 2, `\restrict`},
		{"string", "SELECT\n'abc;", 2, "never ends"},
		{"identifier", "SELECT \"abc;", 1, "never ends"},
		{"dollar quote", "SELECT $a$ $b$;", 1, "never ends"},
		{"comment", "SELECT /* /* */;", 1, "never ends"},
		{"parenthesis", "SELECT (1;", 1, "does not end"},
		{"atomic body", "CREATE FUNCTION f() BEGIN ATOMIC SELECT 1;", 1, "does not end"},
		{"copy cut off", "COPY t FROM stdin;\na\n", 1, "does not end"},
		{"copy without data", "COPY t FROM stdin;", 1, "without data"},
		{"NUL", "SELECT 1;\x00DROP TABLE t;", 1, "NUL"},
		{"backslash strings", "SET standard_conforming_strings = off;\nSELECT 'a\\';';", 2, "standard_conforming_strings"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Split(tt.sql)
			var se *SplitError
			if !errors.As(err, &se) {
				t.Fatalf("got %v", err)
			}
			if se.Line != tt.line || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %q, want line %d and %q", err, tt.line, tt.says)
			}
		})
	}
}

// FuzzSplit looks for panics, and holds that statements are cut out of the text in order, and that splitting a
// statement again gives the statement.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{"SELECT 1; -- c\nSELECT $$;$$;", "E'\\'';\n\\restrict a\n", "COPY t FROM stdin;\na\n\\.\n",
		"CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE WHEN a THEN b END; END;", "/*/**/*/a(;);U&\"x\";", "-- Name: a; Type: b; Schema: c; Owner: d\nx;"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		stmts, err := Split(sql)
		if err != nil {
			return
		}
		rest := sql
		for i, s := range stmts {
			text := s.Text
			if i == len(stmts)-1 {
				text = strings.TrimSuffix(text, "\n;")
			}
			n := strings.Index(rest, text)
			if n < 0 {
				t.Fatalf("statement %q is not in what is left: %q", text, rest)
			}
			rest = rest[n+len(text):]
			if s.CopyFrom || strings.Contains(sql, "standard_conforming_strings") {
				continue
			}
			again, err := Split(s.Text)
			if err != nil || len(again) != 1 || again[0].Text != s.Text {
				t.Fatalf("%q splits into %q, %v", s.Text, texts(again), err)
			}
		}
	})
}
