package mask

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func mustPath(s string) Path {
	p, err := ParsePath(s)
	if err != nil {
		panic(err)
	}
	return p
}

func paths(texts ...string) (ps []Path) {
	for _, s := range texts {
		ps = append(ps, mustPath(s))
	}
	return ps
}

func TestParsePath(t *testing.T) {
	for _, c := range []struct{ in, sql string }{
		{`$`, `lax $`},
		{`$.a.b`, `lax $."a"."b"`},
		{`$.a[0]`, `lax $."a"[0]`},
		{`$.a[*].b`, `lax $."a"[*]."b"`},
		{`$['odd key']`, `lax $."odd key"`},
		{`$["it's \"x\" \\"]`, `lax $."it's \"x\" \\"`},
		{`$['it\'s']`, `lax $."it's"`},
		{`$."odd key".x`, `lax $."odd key"."x"`},
		{`$.*`, `lax $.*`},
		{`$.åäö_1`, `lax $."åäö_1"`},
	} {
		p, err := ParsePath(c.in)
		if err != nil || p.SQL() != c.sql || p.String() != c.in {
			t.Errorf("%s: %s, %s (error %v)", c.in, p.SQL(), p, err)
		}
	}
	for _, in := range []string{``, `a`, `.a`, `$a`, `$.`, `$..a`, `$.a-b`, `$.a b`, `$[`, `$[]`, `$[-1]`, `$[1`, `$['a]`, `$['a'`, `$["a\n"]`, `$[99999999999]`, `lax $.a`, `$.a[last]`} {
		if p, err := ParsePath(in); err == nil {
			t.Errorf("%q is taken for %s", in, p.SQL())
		}
	}
}

func TestJSONRemove(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
		paths          []string
	}{
		{"first", `{"a": 1, "b": 2}`, `{"b": 2}`, []string{"$.a"}},
		{"last", `{"a": 1, "b": 2}`, `{"a": 1}`, []string{"$.b"}},
		{"middle", `{"a": 1, "b": 2, "c": 3}`, `{"a": 1, "c": 3}`, []string{"$.b"}},
		{"the first two", `{"a": 1, "b": 2, "c": 3}`, `{"c": 3}`, []string{"$.b", "$.a"}},
		{"first and last", `{"a": 1, "b": 2, "c": 3}`, `{"b": 2}`, []string{"$.c", "$.a"}},
		{"all", `{ "a": 1, "b": {"a": 2} }`, `{  }`, []string{"$.*"}},
		{"absent", `{"a" :1 , "b": 0.10,"n":1e400}`, `{"a" :1 , "b": 0.10,"n":1e400}`, []string{"$.x", "$.a.b", "$[1]"}},
		{"equal keys", `{"a":1,"b":2,"a":3}`, `{"b":2}`, []string{"$.a"}},
		{"escaped key", `{"\u0065mail":1,"b":2}`, `{"b":2}`, []string{"$.email"}},
		{"key of a pair of surrogates", `{"\ud83d\ude00":1}`, `{}`, []string{`$["😀"]`}},
		{"key and case", `{"A":1}`, `{"A":1}`, []string{"$.a"}},
		{"nested", `{"a":{"b":1,"c":[1,{"d":5}]}}`, `{"a":{"b":1,"c":[1,{}]}}`, []string{"$.a.c[1].d"}},
		{"elements", `{"a":[{"b":1,"c":2},{"b":3}]}`, `{"a":[{"c":2},{}]}`, []string{"$.a[*].b"}},
		{"all elements", `[1,2, 3]`, `[]`, []string{"$[*]"}},
		{"an element", `[1,2, 3]`, `[1, 3]`, []string{"$[1]"}},
		{"elements of the text as it came", `[1,2,3]`, `[3]`, []string{"$[0]", "$[1]"}},
		{"inside and around", `{"a":{"b":1,"c":1},"d":2}`, `{"d":2}`, []string{"$.a.b", "$.a"}},
		{"around and inside", `{"a":{"b":1,"c":1},"d":2}`, `{"d":2}`, []string{"$.a", "$.a.c"}},
		{"lax: member of elements", `{"a":[{"b":1},{"c":2},[{"b":3}]]}`, `{"a":[{},{"c":2},[{"b":3}]]}`, []string{"$.a.b"}},
		{"lax: element of no array", `{"a":{"b":1},"c":2}`, `{"c":2}`, []string{"$.a[0]"}},
		{"whole", `{"a":1}`, `null`, []string{"$"}},
		{"whole scalar", ` "a" `, ` null `, []string{"$[*]"}},
		{"scalar", `5`, `5`, []string{"$.a"}},
		{"odd keys", `{"odd key":1,"":2,"*":3}`, `{"":2}`, []string{"$['odd key']", "$['*']"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := apply(t, must(JSON(paths(c.paths...), nil)), c.in); got != c.want {
				t.Fatalf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestJSONSet(t *testing.T) {
	for _, c := range []struct {
		name, in, want string
		remove         []string
		set            [][2]string
	}{
		{"set", `{"a": 1, "b" : 2}`, `{"a": 1, "b" : "x"}`, nil, [][2]string{{"$.b", `"x"`}}},
		{"absent is not added", `{"a": 1}`, `{"a": 1}`, nil, [][2]string{{"$.b", `"x"`}}},
		{"null is there", `{"a": null}`, `{"a": 0}`, nil, [][2]string{{"$.a", `0`}}},
		{"whole", `{"a": 1}`, `{}`, nil, [][2]string{{"$", ` {} `}}},
		{"in order", `{"a": 1}`, `{"a": {"b":2}}`, nil, [][2]string{{"$.a", `{"b":1}`}, {"$.a.b", `2`}}},
		{"after removing", `[1,2,3]`, `[9,3]`, []string{"$[0]"}, [][2]string{{"$[0]", `9`}}},
		{"everywhere", `[{"a":1},{"a":[2]},{}]`, `[{"a":0},{"a":0},{}]`, nil, [][2]string{{"$[*].a", `0`}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var set []JSONSet
			for _, s := range c.set {
				set = append(set, JSONSet{mustPath(s[0]), s[1]})
			}
			if got := apply(t, must(JSON(paths(c.remove...), set)), c.in); got != c.want {
				t.Fatalf("got %s, want %s", got, c.want)
			}
		})
	}
}

var badJSON = []string{``, ` `, `{`, `}`, `[1`, `[1,]`, `[,1]`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{a:1}`, `{"a":1]`, `[1}`, `tru`, `truee`, `nul`, `01`, `-`, `+1`,
	`1.`, `.5`, `1e`, `1e+`, `0x1`, `"a`, `"\x"`, `"\u12g4"`, `"\u12`, `"\`, "\"\n\"", "\"\x01\"", "\"\x1f\"", `1 2`, `[1]]`, `{"a":1}{`, `NaN`, `'a'`, `[secret]`}

func TestJSONRefuses(t *testing.T) {
	f := must(JSON(paths("$.a"), nil))
	for _, in := range badJSON {
		refuses(t, f, in)
	}
	refuses(t, f, strings.Repeat("[", maxJSONDepth+1)+strings.Repeat("]", maxJSONDepth+1))
	deep := strings.Repeat(`{"b":[`, maxJSONDepth/2) + strings.Repeat(`]}`, maxJSONDepth/2)
	if apply(t, f, deep) != deep {
		t.Fatal("deep nesting changes the text")
	}
}

func TestPathValues(t *testing.T) {
	for _, c := range []struct {
		path, in string
		want     []string
	}{
		{"$.id", `{"id":42}`, []string{"42"}},
		{"$.id", `{"id":"42"}`, []string{"42"}},
		{"$.id", `{"id":"a\"\\\/\b\f\n\r\t\u00e5\ud83d\ude00\ud83d"}`, []string{"a\"\\/\b\f\n\r\tå😀\uFFFD"}},
		{"$.id", `{"id":null}`, nil},
		{"$.id", `{"id":{"id":1}}`, nil},
		{"$.id", `{"id":[1,2]}`, nil},
		{"$.id[*]", `{"id":[1,"2",null,[3],{"a":4},true,false]}`, []string{"1", "2", "true", "false"}},
		{"$.id", `[{"id":1},{"id":2},3]`, []string{"1", "2"}},
		{"$", `7`, []string{"7"}},
		{"$.*", `{"a":1,"b":[2]}`, []string{"1"}},
		{"$.id", `{"id":1,"id":2}`, []string{"1", "2"}},
		{"$[*]", `[42.0, 4.2e1, 420E-1, 42, 0.042e+3, -42, -0, 0.0, 0e99999999999, 100, 1e3, 1.50, 0.05, 5e-3, -1.25e1, 10.0e-1, 123.456e1]`,
			[]string{"42", "42", "42", "42", "42", "-42", "0", "0", "0", "100", "1000", "1.5", "0.05", "0.005", "-12.5", "1", "1234.56"}},
		{"$[*]", `[9007199254740993, 123456789012345678901234567890, 1e9999999999, 1e-9999999999, 1e999999999999999999999, 1e-999999999999999999999]`,
			[]string{"9007199254740993", "123456789012345678901234567890"}},
	} {
		var got []string
		if err := mustPath(c.path).Values([]byte(c.in), func(text []byte) bool {
			got = append(got, string(text))
			return true
		}); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s of %s: %q, want %q (error %v)", c.path, c.in, got, c.want, err)
		}
	}
	if err := mustPath("$").Values([]byte("-125e-100000"), func(text []byte) bool {
		if want := "-0." + strings.Repeat("0", 99_997) + "125"; string(text) != want {
			t.Errorf("a long fraction: %d characters, want %d", len(text), len(want))
		}
		return true
	}); err != nil {
		t.Error(err)
	}
	n := 0
	if err := mustPath("$[*]").Values([]byte(`[1,2,3]`), func([]byte) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Errorf("after false came %d calls (error %v)", n, err)
	}
	for _, in := range badJSON {
		if err := mustPath("$.a").Values([]byte(in), func([]byte) bool { return true }); err == nil {
			t.Errorf("%q is read", in)
		}
	}
}

func TestClearWhere(t *testing.T) {
	f := mustPath("$.ids[*]").Finder()
	is42 := func(text []byte) bool { return string(text) == "42" }
	for range 2 {
		got, err := f.ClearWhere([]byte("kept:"), []byte(`{"ids": [42, 43, "42", 4.2e1, null], "n": 42}`), is42)
		if err != nil || string(got) != `kept:{"ids": [null, 43, null, null, null], "n": 42}` {
			t.Fatalf("%s (error %v)", got, err)
		}
	}
	if got, err := f.ClearWhere([]byte("kept:"), []byte(`{`), is42); err == nil || string(got) != "kept:" {
		t.Fatalf("%s (error %v)", got, err)
	}
}

func TestFind(t *testing.T) {
	got, err := mustPath("$.a[*]").Find(nil, []byte(`{"a": [1, {"b": 2}, "x"]}`))
	if err != nil || len(got) != 3 || string(got[1]) != `{"b": 2}` {
		t.Fatalf("%q (error %v)", got, err)
	}
	if got, err := mustPath("$.a[*]").Find(nil, []byte(`{"a": [1, `)); err == nil || len(got) != 0 {
		t.Fatalf("%q from what is not JSON", got)
	}
}

// A slow and obvious model: remove paths from the parsed value, and compare with the rewritten text, parsed.
func TestJSONAgainstModel(t *testing.T) {
	names := []string{"a", "b", "c"}
	var build func(depth int) *rapid.Generator[any]
	build = func(depth int) *rapid.Generator[any] {
		return rapid.Custom(func(t *rapid.T) any {
			kind := rapid.IntRange(0, 5).Draw(t, "kind")
			if depth == 0 {
				kind %= 3
			}
			switch kind {
			case 0:
				return float64(rapid.IntRange(-3, 300).Draw(t, "n"))
			case 1:
				return rapid.SampledFrom([]any{nil, true, "x\"\\", ""}).Draw(t, "scalar")
			case 2:
				return "s"
			case 3:
				return rapid.SliceOfN(build(depth-1), 0, 4).Draw(t, "array")
			}
			return rapid.MapOfN(rapid.SampledFrom(names), build(depth-1), 0, 3).Draw(t, "object")
		})
	}
	value := build(5)
	rapid.Check(t, func(t *rapid.T) {
		v := value.Draw(t, "value")
		text := "$"
		for range rapid.IntRange(1, 4).Draw(t, "steps") {
			text += rapid.SampledFrom([]string{".a", ".b", ".*", "[*]", "[0]", "[1]"}).Draw(t, "step")
		}
		p := mustPath(text)
		in, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "indent") {
			if in, err = json.MarshalIndent(v, " ", "\t"); err != nil {
				t.Fatal(err)
			}
		}
		out, null, err := must(JSON([]Path{p}, nil))(nil, in)
		if err != nil || null {
			t.Fatal(err)
		}
		var got any
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%s of %s leaves %s: %v", text, in, out, err)
		}
		want, removed := modelRemove(v, p.steps, false)
		if removed {
			want = nil
		}
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(want)
		if string(a) != string(b) {
			t.Fatalf("%s of %s leaves %s, want %s", text, in, a, b)
		}
	})
}

// modelRemove removes what steps lead to from v; gone says that it is v itself.
func modelRemove(v any, steps []step, flat bool) (_ any, gone bool) {
	if len(steps) == 0 {
		return nil, true
	}
	st := steps[0]
	switch v := v.(type) {
	case map[string]any:
		if st.kind == memberStep || st.kind == anyMemberStep {
			out := map[string]any{}
			for k, x := range v {
				if st.kind == memberStep && st.name != k {
					out[k] = x
				} else if y, gone := modelRemove(x, steps[1:], false); !gone {
					out[k] = y
				}
			}
			return out, false
		}
	case []any:
		out := []any{}
		for i, x := range v {
			y, gone := x, false
			switch {
			case st.kind == anyElementStep || st.kind == elementStep && st.index == i:
				y, gone = modelRemove(x, steps[1:], false)
			case (st.kind == memberStep || st.kind == anyMemberStep) && !flat:
				if _, nested := x.([]any); !nested {
					y, gone = modelRemove(x, steps, true)
				}
			}
			if !gone {
				out = append(out, y)
			}
		}
		return out, false
	}
	if st.kind == anyElementStep || st.kind == elementStep && st.index == 0 {
		return modelRemove(v, steps[1:], false)
	}
	return v, false
}

func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a":1,"b":[{"a":2},3]}`, `{"a":{"b":[[]]}}`, `[1,2,[3]]`, `"x"`, `{"\u0061":1,"a":2}`, `[{"a":[{"b":1}]}]`} {
		f.Add([]byte(s), "$.a")
		f.Add([]byte(s), "$.b[*].a")
		f.Add([]byte(s), "$.*[*]")
	}
	f.Fuzz(func(t *testing.T, text []byte, pathText string) {
		p, err := ParsePath(pathText)
		if err != nil {
			p = mustPath("$.a[*].b")
		}
		valid := json.Valid(text)
		removed, null, err := must(JSON([]Path{p}, nil))(nil, text)
		if (err == nil) != valid && len(text) < 10_000 { // encoding/json has a depth limit of its own
			t.Fatalf("%q is valid: %v, but the error is %v", text, valid, err)
		}
		if err != nil {
			return
		}
		if null || !json.Valid(removed) {
			t.Fatalf("%s of %q leaves %q", p, text, removed)
		}
		numbered := slices.ContainsFunc(p.steps, func(s step) bool { return s.kind == elementStep })
		if err := p.Values(removed, func([]byte) bool {
			if !numbered { // another element takes the number of the one removed
				t.Fatalf("%s is still in %q", p, removed)
			}
			return true
		}); err != nil {
			t.Fatal(err)
		}
		set, _, err := must(JSON(nil, []JSONSet{{p, `{"x":1}`}}))(nil, text)
		if err != nil || !json.Valid(set) {
			t.Fatalf("setting %s in %q gives %q (error %v)", p, text, set, err)
		}
	})
}
