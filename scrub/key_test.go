package scrub

import (
	"bytes"
	"strings"
	"testing"

	"lethe/scrub/catalog"
)

func TestAppendKeyEqual(t *testing.T) {
	equal := []struct {
		family Family
		values []string // all equal to each other, none equal to a value of another line of the family
	}{
		{Integer, []string{"42", "+42", "0042", " 42 ", "42.0", "4.2e1"}},
		{Integer, []string{"0", "-0", "000", "+0", "0.0"}},
		{Integer, []string{"-42", "-042"}},
		{Integer, []string{"4200", "04200"}},
		{Integer, []string{"420"}},
		{Numeric, []string{"42", "42.0", "42.000", "4.2e1", "4.2E+1", "420e-1", "+042", ".42e2"}},
		{Numeric, []string{"0", "-0", "0.000", "0e5", ".0", "0."}},
		{Numeric, []string{"0.05", "5e-2", ".050"}},
		{Numeric, []string{"1.05"}},
		{Numeric, []string{"10.5"}},
		{Numeric, []string{"105"}},
		{Numeric, []string{"1000000000000000000000000000000", "1e30"}},
		{Numeric, []string{"-1e30"}},
		{Numeric, []string{"NaN", "nan"}},
		{Numeric, []string{"Infinity", "inf", "+Infinity"}},
		{Numeric, []string{"-Infinity", "-inf"}},
		{UUID, []string{
			"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
			"{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "a0eebc999c0b4ef8bb6d6bb9bd380a11",
			"a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11", "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
		}},
		{UUID, []string{"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12"}},
		{PaddedText, []string{"ab", "ab  "}},
		{PaddedText, []string{" ab"}},
		{Text, []string{"ab"}},
		{Text, []string{"ab "}},
		{Text, []string{"AB"}},
		{Exact, []string{"t"}},
	}
	seen := map[Family]map[string]int{}
	for i, e := range equal {
		if seen[e.family] == nil {
			seen[e.family] = map[string]int{}
		}
		for _, v := range e.values {
			key, ok := AppendKey(nil, e.family, []byte(v))
			if !ok {
				t.Errorf("family %d refuses %q", e.family, v)
				continue
			}
			if j, known := seen[e.family][string(key)]; known && j != i {
				t.Errorf("family %d: %q has the key of %q", e.family, v, equal[j].values[0])
			}
			seen[e.family][string(key)] = i
		}
	}
	n := map[Family]int{}
	for _, e := range equal {
		n[e.family]++
	}
	for f, keys := range seen {
		if len(keys) != n[f] {
			t.Errorf("family %d: %d keys for %d values", f, len(keys), n[f])
		}
	}
}

func TestAppendKeyRefuses(t *testing.T) {
	for f, values := range map[Family][]string{
		Integer: {"", "-", "+", "a", "1a", "0x2A", "1_000", "1.5", "5e-1", "NaN", "Infinity", "--1", "1 2", "1e", "1e9999999"},
		Numeric: {"", ".", "-", "e5", "1e", "1e+", "1.2.3", "1f", "nano", "infinit", "1e99999999999999999999"},
		UUID: {"", "a0eebc99", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a111",
			"g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "-a0eebc999c0b4ef8bb6d6bb9bd380a11",
			"a0eebc999c0b4ef8bb6d6bb9bd380a11-", "a-0eebc999c0b4ef8bb6d6bb9bd380a11", "a0eebc99--9c0b4ef8bb6d6bb9bd380a11"},
	} {
		for _, v := range values {
			if out, ok := AppendKey([]byte("x"), f, []byte(v)); ok || string(out) != "x" {
				t.Errorf("family %d takes %q for %q", f, v, out)
			}
		}
	}
}

func TestTuplesDoNotCollide(t *testing.T) {
	tuple := func(parts ...string) string {
		var key []byte
		for _, p := range parts {
			key, _ = AppendKey(key, Text, []byte(p))
		}
		return string(key)
	}
	if tuple("a", "bc") == tuple("ab", "c") || tuple("", "a") == tuple("a", "") || tuple("a") == tuple("a", "") {
		t.Error("different tuples have one key")
	}
}

func TestAppendKeyAllocatesNothing(t *testing.T) {
	buf := make([]byte, 0, 256)
	for f, v := range map[Family]string{
		Integer: "0042", Numeric: "42.50", UUID: "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", PaddedText: "ab  ", Text: "ab",
	} {
		text := []byte(v)
		if n := testing.AllocsPerRun(100, func() { AppendKey(buf, f, text) }); n != 0 {
			t.Errorf("family %d allocates %v times", f, n)
		}
	}
}

func TestCanonicalKey(t *testing.T) {
	pg := func(name string) catalog.TypeRef {
		return catalog.TypeRef{Name: catalog.Name{Schema: "pg_catalog", Name: name}}
	}
	c := &catalog.Catalog{Types: map[catalog.Name]*catalog.Type{
		{Schema: "public", Name: "uid"}: {Kind: catalog.Domain, Base: pg("int4")},
	}}
	for _, test := range []struct {
		typ       catalog.TypeRef
		family    Family
		key, want string // want "" is an error
	}{
		{pg("int4"), Integer, "0042", "42"},
		{pg("int4"), Integer, "+42", "42"},
		{pg("int4"), Integer, "-0", "0"},
		{pg("int4"), Integer, "2147483648", ""},
		{pg("int2"), Integer, "40000", ""},
		{pg("int8"), Integer, "2147483648", "2147483648"},
		{pg("int8"), Integer, "9223372036854775808", ""},
		{pg("int4"), Integer, "42.0", ""},
		{pg("int4"), Integer, "ada@example.org", ""},
		{catalog.TypeRef{Name: catalog.Name{Schema: "public", Name: "uid"}}, Integer, "007", "7"},
		{catalog.TypeRef{Name: catalog.Name{Schema: "public", Name: "uid"}}, Integer, "seven", ""},
		{pg("uuid"), UUID, "{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
		{pg("uuid"), UUID, "42", ""},
		{pg("numeric"), Numeric, " 42.0", "42.0"},
		{pg("numeric"), Numeric, "many", ""},
		{pg("text"), Text, "Ada ", "Ada "},
		{pg("text"), Text, "A\x00da", ""},
	} {
		got, err := CanonicalKey(c, &catalog.Column{Name: "id", Type: test.typ}, test.family, test.key)
		if (err == nil) != (test.want != "") || got != test.want {
			t.Errorf("%s %q: got %q, %v", test.typ.Name, test.key, got, err)
		}
		if err != nil && test.key != "42" && strings.Contains(err.Error(), test.key) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
}

func FuzzAppendKey(f *testing.F) {
	for _, s := range []string{"42", "-0", "1e5", "00.100", "NaN", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "ab ", ""} {
		f.Add(uint8(0), s)
		f.Add(uint8(1), s)
		f.Add(uint8(4), s)
	}
	f.Fuzz(func(t *testing.T, family uint8, s string) {
		fam := Family(family % uint8(Server+1))
		out, ok := AppendKey([]byte("before"), fam, []byte(s))
		if !bytes.HasPrefix(out, []byte("before")) {
			t.Fatal("what was there before is gone")
		}
		if !ok {
			if string(out) != "before" {
				t.Fatal("a refused value left bytes behind")
			}
			return
		}
		// A number's canonical text is a number again, and the same one.
		if fam == Integer || fam == Numeric {
			again, ok := AppendKey(nil, fam, out[len("before")+4:])
			if !ok || !bytes.Equal(again, out[len("before"):]) {
				t.Fatalf("the canonical form %q is not stable", out)
			}
		}
	})
}
