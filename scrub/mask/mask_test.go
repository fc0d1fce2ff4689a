package mask

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

var testKey = Key{1, 2, 3, 250}

// must returns a constructor's Func, or panics in the test.
func must(f Func, err error) Func {
	if err != nil {
		panic(err)
	}
	return f
}

// apply runs f on value behind a prefix of dst that has to stay.
func apply(t testing.TB, f Func, value string) string {
	t.Helper()
	out, null, err := f([]byte("kept:"), []byte(value))
	if err != nil {
		t.Fatalf("%q: %v", value, err)
	}
	rest, ok := strings.CutPrefix(string(out), "kept:")
	if !ok {
		t.Fatalf("%q: dst is overwritten: %q", value, out)
	}
	if null {
		if rest != "" {
			t.Fatalf("%q: NULL, and yet %q", value, rest)
		}
		return "<NULL>"
	}
	return rest
}

// refuses checks that f gives an error which does not quote the value, and leaves dst.
func refuses(t testing.TB, f Func, value string) {
	t.Helper()
	out, null, err := f([]byte("kept:"), []byte(value))
	if err == nil {
		t.Fatalf("%q passes as %q (NULL: %v)", value, out, null)
	}
	if string(out) != "kept:" {
		t.Fatalf("%q: an error changed dst to %q", value, out)
	}
	if len(value) > 3 && strings.Contains(err.Error(), value) {
		t.Fatalf("the error quotes the value: %v", err)
	}
}

func TestFuncs(t *testing.T) {
	pattern := func(first, last int, with rune) Func { return must(Pattern(first, last, with)) }
	regex := func(match, replace string) Func { return must(Regex(match, replace)) }
	for _, c := range []struct {
		name, in, want string
		f              Func
	}{
		{"clear", "x", "<NULL>", Clear()},
		{"value", "x", "Deleted user", Value("Deleted user")},
		{"value empty", "x", "", Value("")},
		{"mask all", "secret", "******", pattern(0, 0, '*')},
		{"mask empty", "", "", pattern(2, 2, '*')},
		{"mask first and last", "4111111111111234", "41**********1234", pattern(2, 4, '*')},
		{"mask too short a value", "abcd", "****", pattern(2, 2, '*')},
		{"mask just long enough", "abcde", "ab*de", pattern(2, 2, '*')},
		{"mask first only", "abc", "a**", pattern(1, 0, '*')},
		{"mask last only", "abc", "**c", pattern(0, 1, '*')},
		{"mask counts characters", "Åsa Öst", "Å•••••t", pattern(1, 1, '•')},
		{"mask bytes that are no UTF-8", "\xc5\xff\xfe\xe4", "\xc5**\xe4", pattern(1, 1, '*')},
		{"mask huge numbers", "abc", "***", pattern(1<<62, 1<<62, '*')},
		{"regex", "0700-123456", "0000-000000", regex(`\d`, "0")},
		{"regex without a match", "none", "none", regex(`\d`, "0")},
		{"regex group", "anna@example.org", "x@example.org", regex(`^[^@]+(@.*)$`, "x$1")},
		{"regex named group", "ab", "b-a", regex(`(?P<p>a)(?P<q>b)`, "${q}-$p")},
		{"regex dollar", "a", "$1", regex(`a`, "$$1")},
		{"regex empty match", "ab", "-a-b-", regex(``, "-")},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 {
				if got := apply(t, c.f, c.in); got != c.want {
					t.Fatalf("got %q, want %q", got, c.want)
				}
			}
		})
	}
}

func TestHMACIsHMACSHA256(t *testing.T) {
	got := apply(t, must(HMAC(testKey, HexText, 0)), "anna")
	if want := "b68f3652a2133670610dacd3600d15366015cca10db4c226afa2a0e7719a55a6"; got != want { // as Python's hmac module says
		t.Fatalf("got %s, want %s", got, want)
	}
	for n := 1; n <= 64; n++ {
		if short := apply(t, must(HMAC(testKey, HexText, n)), "anna"); short != got[:n] {
			t.Fatalf("%d digits: %q, want %q", n, short, got[:n])
		}
	}
	if other := apply(t, must(HMAC(testKey.Derive("users.email"), HexText, 0)), "anna"); other == got {
		t.Fatal("another domain gives the same hash")
	}
	uuid := apply(t, must(HMAC(testKey, UUID, 0)), "anna")
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(uuid) {
		t.Fatalf("not a UUID of version 8: %q", uuid)
	}
}

func TestKeyDoesNotPrint(t *testing.T) {
	key := Key{0xab, 0xcd}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		if s := fmt.Sprintf(verb, key); s != "**redacted**" {
			t.Errorf("%s prints %q", verb, s)
		}
		if s := fmt.Sprintf(verb, struct{ K Key }{key}); strings.Contains(s, "171") || strings.Contains(s, "ab") {
			t.Errorf("%s prints the key inside a struct: %q", verb, s)
		}
	}
}

func TestKeyIsNotLogged(t *testing.T) {
	var b bytes.Buffer
	slog.New(slog.NewJSONHandler(&b, nil)).Info("made", "key", Key{0xab})
	slog.New(slog.NewTextHandler(&b, nil)).Info("made", "key", Key{0xab})
	if strings.Contains(b.String(), "171") || strings.Count(b.String(), "**redacted**") != 2 {
		t.Errorf("logged: %s", b.String())
	}
}

func TestUniqueEmail(t *testing.T) {
	for _, c := range []struct{ max, want int }{{0, 48}, {36, 36}, {37, 37}, {48, 48}, {255, 48}} {
		f := must(UniqueEmail(testKey, c.max, false))
		n, err := UniqueEmailLen(c.max)
		got := apply(t, f, "anna@example.org")
		if err != nil || n != c.want || len(got) != c.want || !regexp.MustCompile(`^u[0-9a-f]+@erased\.invalid$`).MatchString(got) {
			t.Errorf("for %d characters: %q (%d announced, error %v)", c.max, got, n, err)
		}
	}
	if _, err := UniqueEmail(testKey, 35, false); err == nil {
		t.Error("a column of 35 characters is taken")
	}
	exact, folded := must(UniqueEmail(testKey, 0, false)), must(UniqueEmail(testKey, 0, true))
	if apply(t, exact, "Anna@x.se") == apply(t, exact, "anna@x.se") {
		t.Error("case does not count")
	}
	if apply(t, folded, "ANNÄ@x.se") != apply(t, folded, "annä@X.SE") || apply(t, folded, "a\xff") == apply(t, folded, "a\xfe") {
		t.Error("folding takes other values for equal than a citext column")
	}
}

func TestConstructorsRefuse(t *testing.T) {
	for name, err := range map[string]error{
		"negative":        second(Pattern(-1, 0, '*')),
		"no character":    second(Pattern(0, 0, 0)),
		"surrogate":       second(Pattern(0, 0, 0xD800)),
		"digits":          second(HMAC(testKey, HexText, 65)),
		"negative digits": second(HMAC(testKey, HexText, -1)),
		"form":            second(HMAC(testKey, 7, 0)),
		"expression":      second(Regex("(", "")),
		"no such group":   second(Regex("(a)", "$2")),
		"group and text":  second(Regex("(a)", "$1x")),
		"leading zero":    second(Regex("(a)", "$01")),
		"other letters":   second(Regex("(?P<a>a)", "$aé")),
		"open brace":      second(Regex("(a)", "${1")),
		"dollar":          second(Regex("(a)", "5 $ each")),
		"v4":              second(IPPrefix(33, 0, IPText)),
		"v6":              second(IPPrefix(0, 129, IPText)),
		"ip form":         second(IPPrefix(0, 0, 9)),
		"unit":            second(DateTrunc("decade", Date)),
		"date form":       second(DateTrunc("day", 9)),
		"no paths":        second(JSON(nil, nil)),
		"bad JSON":        second(JSON(nil, []JSONSet{{mustPath("$.a"), "{"}})),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func second(_ Func, err error) error { return err }

// Whatever the value, the characters that are not kept are gone, and the length stays.
func TestPatternShowsNoMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first, last := rapid.IntRange(0, 5).Draw(t, "first"), rapid.IntRange(0, 5).Draw(t, "last")
		value := rapid.StringOfN(rapid.RuneFrom([]rune("abåäö€😀")), 0, 12, -1).Draw(t, "value")
		f := must(Pattern(first, last, '*'))
		out, _, err := f(nil, []byte(value))
		if err != nil {
			t.Fatal(err)
		}
		in, got := []rune(value), []rune(string(out))
		if len(in) != len(got) {
			t.Fatalf("%q became %q", value, out)
		}
		for i, r := range got {
			kept := (i < first || i >= len(in)-last) && first+last < len(in)
			if kept && r != in[i] || !kept && r != '*' {
				t.Fatalf("%q became %q", value, out)
			}
		}
	})
}

func TestFuncsAreDeterministic(t *testing.T) {
	funcs := map[string]func() Func{
		"email":  func() Func { return must(UniqueEmail(testKey, 0, true)) },
		"hmac":   func() Func { return must(HMAC(testKey, HexText, 12)) },
		"uuid":   func() Func { return must(HMAC(testKey, UUID, 0)) },
		"mask":   func() Func { return must(Pattern(1, 2, 'x')) },
		"regex":  func() Func { return must(Regex("[a-f]+", "<$0>")) },
		"ip":     func() Func { return must(IPPrefix(16, 48, IPText)) },
		"array":  func() Func { return MapArray(',', must(HMAC(testKey, HexText, 8))) },
		"date":   func() Func { return must(DateTrunc("week", Date)) },
		"remove": func() Func { return must(JSON([]Path{mustPath("$.a")}, nil)) },
	}
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"10.1.2.3", `{"a,b",NULL}`, "2024-02-29", `{"a":1}`})).Draw(t, "value")
		other := rapid.String().Draw(t, "other")
		for name, newFunc := range funcs {
			f := newFunc()
			a, nullA, errA := f(nil, []byte(value))
			_, _, _ = f(nil, []byte(other))
			b, nullB, errB := f(nil, []byte(value))
			c, nullC, errC := newFunc()(nil, []byte(value))
			if !bytes.Equal(a, b) || !bytes.Equal(a, c) || nullA != nullB || nullA != nullC || (errA == nil) != (errB == nil) || (errA == nil) != (errC == nil) {
				t.Fatalf("%s of %q differs from call to call", name, value)
			}
			if name == "email" || name == "hmac" || name == "uuid" {
				if d, _, _ := f(nil, []byte(other)); bytes.Equal(a, d) && !strings.EqualFold(value, other) {
					t.Fatalf("%s is the same for %q and %q", name, value, other)
				}
			}
		}
	})
}

func TestHotFuncsAllocateNothing(t *testing.T) {
	for name, c := range map[string]struct {
		f     Func
		value string
	}{
		"clear":       {Clear(), "x"},
		"value":       {Value("x"), "y"},
		"hmac":        {must(HMAC(testKey, HexText, 0)), "anna"},
		"uuid":        {must(HMAC(testKey, UUID, 0)), "anna"},
		"email":       {must(UniqueEmail(testKey, 0, false)), "anna@example.org"},
		"email fold":  {must(UniqueEmail(testKey, 0, true)), "ANNA@example.org"},
		"mask":        {must(Pattern(1, 1, '*')), "anna"},
		"ip v4":       {must(IPPrefix(16, 48, IPText)), "10.1.2.3"},
		"ip v6":       {must(IPPrefix(16, 48, IPInet)), "2001:db8:1:2:3:4:5:6/64"},
		"ip junk":     {must(IPPrefix(16, 48, IPText)), "unknown"},
		"date":        {must(DateTrunc("week", Date)), "2024-02-29"},
		"timestamptz": {must(DateTrunc("hour", TimestampTZ)), "2024-02-29 12:34:56.789+00"},
		"array":       {MapArray(',', must(HMAC(testKey, HexText, 9))), `{a,"b c",NULL}`},
		"json":        {must(JSON([]Path{mustPath("$.a.b")}, []JSONSet{{mustPath("$.c"), "1"}})), `{"a": {"b": 1}, "c": [1, 2]}`},
	} {
		buf := make([]byte, 0, 256)
		value := []byte(c.value)
		if n := testing.AllocsPerRun(100, func() {
			if _, _, err := c.f(buf[:0], value); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func TestIPPrefix(t *testing.T) {
	for _, c := range []struct {
		form     IPForm
		v4, v6   int
		in, want string
	}{
		{IPInet, 16, 48, "10.1.2.3", "10.1.0.0"},
		{IPInet, 16, 48, "10.1.2.3/24", "10.1.0.0"},
		{IPInet, 32, 128, "10.1.2.3/24", "10.1.2.3"},
		{IPInet, 0, 0, "255.255.255.255", "0.0.0.0"},
		{IPInet, 20, 48, "10.1.255.3", "10.1.240.0"},
		{IPInet, 16, 48, "2001:db8:1:2:3:4:5:6", "2001:db8:1::"},
		{IPInet, 16, 0, "2001:db8:1:2:3:4:5:6", "::"},
		{IPInet, 16, 48, "::ffff:10.1.2.3", "::ffff:10.1.0.0"},
		{IPInet, 16, 128, "::1.2.3.4", "::1.2.3.4"},
		{IPCIDR, 16, 48, "10.1.2.0/24", "10.1.0.0/24"},
		{IPCIDR, 16, 48, "10.0.0.0/8", "10.0.0.0/8"},
		{IPCIDR, 16, 48, "10.1.2.3/32", "10.1.0.0/32"},
		{IPCIDR, 16, 48, "2001:db8:1:2::/64", "2001:db8:1::/64"},
		{IPText, 16, 48, " 10.1.2.3\n", "10.1.0.0"},
		{IPText, 16, 48, "10.1.2.3:8080", "10.1.0.0"},
		{IPText, 16, 48, "10.1.2.3/24", "10.1.0.0"},
		{IPText, 16, 48, "[2001:DB8:1:2::9]:443", "2001:db8:1::"},
		{IPText, 16, 48, "fe80::1%eth0", "fe80::"},
		{IPText, 16, 48, "::FFFF:a01:203", "::ffff:10.1.0.0"},
		{IPText, 16, 48, "10.1.2.3, 10.4.5.6", NoIP},
		{IPText, 16, 48, "10.1.2", NoIP},
		{IPText, 16, 48, "010.1.2.3", NoIP},
		{IPText, 16, 48, "10.1.2.3/33", NoIP},
		{IPText, 16, 48, "anna", NoIP},
		{IPText, 16, 48, "", NoIP},
	} {
		if got := apply(t, must(IPPrefix(c.v4, c.v6, c.form)), c.in); got != c.want {
			t.Errorf("form %d, %q to %d and %d bits: %q, want %q", c.form, c.in, c.v4, c.v6, got, c.want)
		}
	}
	for _, in := range []string{"", "anna", "10.1.2.3/33", "10.1.2.3/", "::1/129", "1::2::3", "12345::", "1:2:3:4:5:6:7", ":1::", "1::2:", "1:2:3:4:5:6:7:8::"} {
		refuses(t, must(IPPrefix(16, 48, IPInet)), in)
	}
}

// Two addresses that agree in the bits kept give one result.
func TestIPPrefixHidesTheRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "a"))
		b := [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "b"))
		keep := rapid.IntRange(0, 128).Draw(t, "keep")
		for i := range 128 {
			if i < keep {
				bit := byte(0x80 >> (i % 8))
				b[i/8] = b[i/8]&^bit | a[i/8]&bit
			}
		}
		f := must(IPPrefix(min(keep, 32), keep, IPText))
		x, _, _ := f(nil, []byte(netip.AddrFrom16(a).String()))
		y, _, _ := f(nil, []byte(netip.AddrFrom16(b).String()))
		if keep > 96 && (netip.AddrFrom16(a).Is4In6() || netip.AddrFrom16(b).Is4In6()) {
			return
		}
		if !bytes.Equal(x, y) {
			t.Fatalf("%q and %q agree in %d bits", x, y, keep)
		}
		x, _, _ = f(nil, []byte(netip.AddrFrom4([4]byte(a[:])).String()))
		y, _, _ = f(nil, []byte(netip.AddrFrom4([4]byte(b[:])).String()))
		if !bytes.Equal(x, y) {
			t.Fatalf("%q and %q agree in %d bits", x, y, keep)
		}
	})
}

func FuzzParseIP(f *testing.F) {
	for _, s := range []string{"", "1.2.3.4", "::", "::1", "1::", "1:2:3:4:5:6:7:8", "1::8:1.2.3.4", "::ffff:1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "1.2.3.4:1", "12345::", "::1::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, err := netip.ParseAddr(s)
		if err == nil && want.Zone() != "" {
			return
		}
		got, ok := parseIP([]byte(s))
		if ok != (err == nil) || ok && got != want {
			t.Fatalf("%q is %v (%v), netip says %v (%v)", s, got, ok, want, err)
		}
	})
}

func TestDateTruncRefuses(t *testing.T) {
	for _, c := range []struct {
		form DateForm
		in   string
	}{
		{Date, ""}, {Date, "2024-2-29"}, {Date, "2023-02-29"}, {Date, "2024-13-01"}, {Date, "2024-00-01"}, {Date, "0000-01-01"},
		{Date, "29/02/2024"}, {Date, "2024-02-29 12:00:00"}, {Date, "2024-02-29 AD"}, {Date, "12345678-01-01"},
		{Timestamp, "2024-02-29"}, {Timestamp, "2024-02-29 24:00:00"}, {Timestamp, "2024-02-29 12:00:00+00"}, {Timestamp, "2024-02-29 12:00:00."},
		{TimestampTZ, "2024-02-29 12:00:00"}, {TimestampTZ, "2024-02-29 12:00:00 UTC"}, {TimestampTZ, "2024-02-29 12:00:00+0"}, {TimestampTZ, "2024-02-29 12:00:00+01:60"},
	} {
		refuses(t, must(DateTrunc("day", c.form)), c.in)
	}
}

func TestMapArray(t *testing.T) {
	upper := func(dst, value []byte) ([]byte, bool, error) {
		if string(value) == "gone" {
			return dst, true, nil
		}
		return append(dst, bytes.ToUpper(value)...), false, nil
	}
	for _, c := range []struct {
		delim    byte
		in, want string
	}{
		{',', `{}`, `{}`},
		{',', `{a,b}`, `{A,B}`},
		{',', `{NULL,"null",gone}`, `{NULL,"NULL",NULL}`},
		{',', `{"a b","c\"d","e\\f","g,h","{i}",""}`, `{"A B","C\"D","E\\F","G,H","{I}",""}`},
		{',', `{{a,b},{c,d}}`, `{{A,B},{C,D}}`},
		{',', `[0:1]={a,b}`, `[0:1]={A,B}`},
		{',', `[-5:-4][2:3]={{a,b},{c,d}}`, `[-5:-4][2:3]={{A,B},{C,D}}`},
		{';', `{(1,1),(0,0);(2,2),(1,1)}`, `{(1,1),(0,0);(2,2),(1,1)}`},
		{',', `{"a;b",å}`, `{A;B,Å}`},
	} {
		if got := apply(t, MapArray(c.delim, upper), c.in); got != c.want {
			t.Errorf("%q became %q, want %q", c.in, got, c.want)
		}
	}
	for _, in := range []string{"", "a", "{", "}", "{a", "{a}}", "{a},{b}", "{,}", "{a,}", `{"a}`, `{"a"b}`, `{a b}`, `{"a\`, "[0:1]", "[0:]={a}", "[a:b]={a}", "{{{{{{{a}}}}}}}"} {
		refuses(t, MapArray(',', upper), in)
	}
	failing := func(dst, _ []byte) ([]byte, bool, error) { return dst, false, fmt.Errorf("no") }
	refuses(t, MapArray(',', failing), "{secret}")
}

func FuzzMapArray(f *testing.F) {
	for _, s := range []string{`{}`, `{a,NULL,"x\"y"}`, `[0:1]={{a},{b}}`, `{{{`, `{"`} {
		f.Add(s)
	}
	same := func(dst, value []byte) ([]byte, bool, error) { return append(dst, value...), false, nil }
	f.Fuzz(func(t *testing.T, s string) {
		array := MapArray(',', same)
		once, _, err := array(nil, []byte(s))
		if err != nil {
			return
		}
		if twice, _, err := array(nil, once); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%q becomes %q and then %q (error %v)", s, once, twice, err)
		}
	})
}

func FuzzDateTrunc(f *testing.F) {
	for _, s := range []string{"2024-02-29", "0001-01-01 00:00:00+00 BC", "294276-12-31 23:59:59.999999", "infinity", "2024-02-29 12:34:56+05:53:28"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for unit := range map[string]bool{"year": true, "quarter": true, "month": true, "week": true, "day": true, "hour": true, "minute": true} {
			for form := Date; form <= TimestampTZ; form++ {
				trunc := must(DateTrunc(unit, form))
				once, _, err := trunc(nil, []byte(s))
				if err != nil {
					continue
				}
				if twice, _, err := trunc(nil, once); err != nil || !bytes.Equal(once, twice) {
					t.Fatalf("%s of %q is %q, of which it is %q (error %v)", unit, s, once, twice, err)
				}
			}
		}
	})
}

func FuzzPattern(f *testing.F) {
	f.Add([]byte("anna"), 1, 1)
	f.Add([]byte("\xff\xc3"), 0, 1)
	f.Fuzz(func(t *testing.T, value []byte, first, last int) {
		mask, err := Pattern(first, last, '*')
		if err != nil {
			return
		}
		out, _, err := mask(nil, value)
		if err != nil || utf8.RuneCount(out) > utf8.RuneCount(value) {
			t.Fatalf("%q became %q (error %v)", value, out, err)
		}
	})
}

func BenchmarkFuncs(b *testing.B) {
	for _, c := range []struct {
		name, value string
		f           Func
	}{
		{"clear", "x", Clear()},
		{"hmac", "anna@example.org", must(HMAC(testKey, HexText, 0))},
		{"unique_email", "anna@example.org", must(UniqueEmail(testKey, 0, false))},
		{"mask", "4111111111111234", must(Pattern(2, 4, '*'))},
		{"regex", "0700-123456", must(Regex(`\d`, "0"))},
		{"ip_prefix", "192.168.17.4", must(IPPrefix(16, 48, IPText))},
		{"date_trunc", "2024-02-29 12:34:56.789+00", must(DateTrunc("month", TimestampTZ))},
		{"array", `{a,"b c",NULL}`, MapArray(',', Value("x"))},
		{"json", `{"email": "anna@example.org", "theme": "dark", "ips": ["10.1.2.3"], "n": 17}`, must(JSON([]Path{mustPath("$.email"), mustPath("$.ips")}, nil))},
	} {
		b.Run(c.name, func(b *testing.B) {
			buf := make([]byte, 0, 256)
			value := []byte(c.value)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := c.f(buf[:0], value); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
