package rules

import (
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseName(t *testing.T) {
	for in, want := range map[string]Name{
		"users":                       {"public", "users"},
		"public.users":                {"public", "users"},
		"Users":                       {"public", "Users"}, // no folding
		"app.users":                   {"app", "users"},
		"größe":                       {"public", "größe"},
		"2fa":                         {"public", "2fa"},
		`"Odd Schema"."Tab ""x"""`:    {"Odd Schema", `Tab "x"`},
		`"a.b".c`:                     {"a.b", "c"},
		`"*"`:                         {"public", "*"},
		`"(a)"`:                       {"public", "(a)"},
		strings.Repeat("é", 31) + "x": {"public", strings.Repeat("é", 31) + "x"},
	} {
		got, err := ParseName(in)
		if err != nil || got != want {
			t.Errorf("%s: got %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", ".", "a.", ".a", "a..b", "a.b.c", "a b", " a", "a*", `"a`, `a"b"`, `"a"b`, `""`, "a.(b, c)", "(a)", "a-b",
		"a\x00", "\xff", `"` + "\x00" + `"`, strings.Repeat("é", 32), "a;b"} {
		if got, err := ParseName(in); err == nil {
			t.Errorf("%q reads as %v", in, got)
		}
	}
}

func TestParseColumn(t *testing.T) {
	table, column, err := ParseColumn(`app."T x".Col`)
	if err != nil || table != (Name{"app", "T x"}) || column != "Col" {
		t.Errorf("got %v %v %v", table, column, err)
	}
	for _, in := range []string{"a", "a.b.c.d", "a.(b, c)", "a.(b, b)", "a.(b", "a.(b)c", "a.()", "a.(b,)", "a.b*"} {
		if table, column, err := ParseColumn(in); err == nil {
			t.Errorf("%q reads as %v %v", in, table, column)
		}
	}
}

func TestParseReference(t *testing.T) {
	for in, want := range map[string][]string{
		"n.a":                    {"a"},
		"n.(a)":                  {"a"},
		"n.(a,b)":                {"a", "b"},
		`public.n.( a , "B, )")`: {"a", "B, )"},
	} {
		if table, columns, err := parseReference(in); err != nil || table != (Name{"public", "n"}) || !reflect.DeepEqual(columns, want) {
			t.Errorf("%s: got %v %v %v", in, table, columns, err)
		}
	}
}

// Whatever a table or column is called, what String prints reads back as it.
func TestNameRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := Name{anyName(t, "schema"), anyName(t, "table")}
		if got, err := ParseName(n.String()); err != nil || got != n {
			t.Fatalf("%q prints as %s and reads as %q, %v", n, n, got, err)
		}
		columns := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) string { return anyName(t, "column") }), 1, 4, rapid.ID).Draw(t, "columns")
		s := referenceString(n, columns)
		if table, got, err := parseReference(s); err != nil || table != n || !reflect.DeepEqual(got, columns) {
			t.Fatalf("%q %q prints as %s and reads as %q %q, %v", n, columns, s, table, got, err)
		}
	})
}

// anyName draws a PostgreSQL name: often plain, sometimes a word of YAML's, sometimes anything.
func anyName(t *rapid.T, label string) string {
	return rapid.OneOf(
		rapid.StringMatching(`[a-z_][a-z0-9_]{0,8}`),
		rapid.SampledFrom([]string{"true", "null", "Users", "no", "*", "a.b", `"`, "User Id", "public", "1", "2026-01-01", "<<", "~", "it's", "a: b", "#x", "\\", `\*`}),
		rapid.StringN(1, 8, maxName),
	).Filter(func(s string) bool {
		return s != "" && len(s) <= maxName && !strings.ContainsRune(s, 0) && strings.ToValidUTF8(s, "") == s
	}).Draw(t, label)
}

func TestAlwaysOrder(t *testing.T) {
	if _, err := Parse("r.yml", []byte(ordered+"  \"*.*.ip\": hmac\n")); err == nil {
		t.Error("*.ip and *.*.ip are the same rule")
	}
	f, err := Parse("r.yml", []byte(ordered))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		schema, table, column string
		line                  int // of the rule that wins; 0: none
	}{
		{"public", "users", "ip", 7},
		{"app", "users", "ip", 8},
		{"app", "orders", "ip", 9}, // app.*.* has three letters, *.ip two
		{"app", "orders", "x", 9},
		{"public", "orders", "ip", 4},
		{"other", "orders", "ip", 4},
		{"public", "log_a", "ip", 5},
		{"other", "log_a", "ip", 4}, // public is left out of log_*.ip, so it is no other schema
		{"public", "log_", "ix", 6},
		{"public", "log_a", "ixx", 0},
		{"public", "we*ird", "ip", 10},
		{"public", "weXird", "x", 0},
	} {
		line := 0
		if rule, ok := f.AlwaysFor(c.schema, c.table, c.column); ok {
			line = rule.Pos.Line
		}
		if line != c.line {
			t.Errorf("%s.%s.%s: rule of line %d, want %d", c.schema, c.table, c.column, line, c.line)
		}
		if a, b, ok := f.Ambiguous(c.schema, c.table, c.column); ok {
			t.Errorf("%s.%s.%s: %s and %s", c.schema, c.table, c.column, a, b)
		}
	}
	for _, c := range []struct {
		schema, table string
		line          int
	}{
		{"analytics", "events", 11}, {"public", "tmp1", 12}, {"public", "tmp12", 0}, {"app", "tmp1", 0},
		{"any", "sessions", 13}, {"audit", "log", 14}, {"public", "audit", 0}, {"public", "log", 0},
	} {
		line := 0
		if rule, ok := f.NoRows(c.schema, c.table); ok {
			line = rule.Pos.Line
		}
		if line != c.line {
			t.Errorf("%s.%s: no_rows of line %d, want %d", c.schema, c.table, line, c.line)
		}
	}
}

const ordered = `version: 1
dataset: d
always:
  "*.ip": clear
  "log_*.ip": ip_prefix
  "log_*.i?": mask
  users.ip: {value: exact}
  app.users.ip: {value: app}
  "app.*.*": unique_email
  '"we*ird".*': mask
  "analytics.*.*": no_rows
  "tmp?": no_rows
  "*.sessions": no_rows
  "audit.log": no_rows
`

func TestAmbiguous(t *testing.T) {
	f, err := Parse("r.yml", []byte(`version: 1
dataset: d
always:
  "a*.xy": clear
  "*b.xy": clear
  "a?.xy": mask
  "*.y": hmac
`))
	if err != nil {
		t.Fatal(err)
	}
	first, second, ok := f.Ambiguous("public", "ab", "xy")
	if !ok || first.Pos.Line != 4 || second.Pos.Line != 6 {
		t.Errorf("got %v %v %v, want lines 4 and 6", first, second, ok)
	}
	if first, second, ok := f.Ambiguous("public", "acb", "xy"); ok { // both clear
		t.Errorf("%v and %v agree", first, second)
	}
	if rule, ok := f.AlwaysFor("public", "ab", "xy"); !ok || rule.Pos.Line != 4 {
		t.Errorf("the first of the file wins until somebody decides: got %v", rule)
	}
}

// match is compared with the plainest matcher there is.
func TestMatch(t *testing.T) {
	var slow func(pattern, name []rune) bool
	slow = func(p, n []rune) bool {
		switch {
		case len(p) == 0:
			return len(n) == 0
		case p[0] == '*':
			return slow(p[1:], n) || len(n) > 0 && slow(p, n[1:])
		case p[0] == '\\' && len(p) > 1:
			return len(n) > 0 && p[1] == n[0] && slow(p[2:], n[1:])
		default:
			return len(n) > 0 && (p[0] == '?' || p[0] == n[0]) && slow(p[1:], n[1:])
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`([ab*?é]|\\[*?\\a]){0,8}`).Draw(t, "pattern")
		name := rapid.StringMatching(`[ab*?é\\]{0,8}`).Draw(t, "name")
		if got, want := match(pattern, name), slow([]rune(pattern), []rune(name)); got != want {
			t.Fatalf("match(%q, %q) is %v", pattern, name, got)
		}
	})
	// Time must not grow with the number of ways to match.
	if match(strings.Repeat("a*", 30)+"b", strings.Repeat("a", 60)) {
		t.Error("matches without its last letter")
	}
}

func TestPath(t *testing.T) {
	key := func(k string) pathStep { return pathStep{key: k, index: -1} }
	all := pathStep{index: -1, all: true}
	for in, want := range map[string][]pathStep{
		"$.a":                   {key("a")},
		`$."b-c".a`:             {key("b-c"), key("a")},
		"$.a[0].b":              {key("a"), {index: 0}, key("b")},
		"$[12]":                 {{index: 12}},
		"$[*]":                  {all},
		"$.*":                   {all},
		"$.a[*].b":              {key("a"), all, key("b")},
		"$['odd key']":          {key("odd key")},
		`$["it's"]['\'\"\\'].é`: {key("it's"), key(`'"\`), key("é")},
		"$['']":                 {key("")},
		"$.1":                   {key("1")},
	} {
		if got, err := parsePath(in); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "$", "a", "$a", "$.", "$..a", "$.a.", "$[", "$[]", "$[-1]", "$[01]", "$[1:2]", "$['a", "$['a'", `$['\n']`, "$[?(@.a)]",
		"$.a b", "$ .a", "$[99999999999]", "$.a[0", "$[0]x", "$.a-b", `$."a`, "$" + strings.Repeat(".a", 1001)} {
		if got, err := parsePath(in); err == nil {
			t.Errorf("%q reads as %+v", in, got)
		}
	}
}

func TestNearest(t *testing.T) {
	for word, want := range map[string]string{
		"claer": "clear", "Clear": "clear", "ip-prefix": "ip_prefix", "ipprefix": "ip_prefix", "no_row": "no_rows", "delete": "", "hash": "", "x": "",
		"uniqe_email": "unique_email", "jsno": "json", strings.Repeat("clear", 1000): "",
	} {
		if got := nearest(word, strategyNames()); got != want {
			t.Errorf("%.20s: did you mean %q, want %q", word, got, want)
		}
	}
}
