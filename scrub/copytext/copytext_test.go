package copytext

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		name, field, want string
		err               error
	}{
		{"empty", ``, "", nil},
		{"plain", `héllo`, "héllo", nil},
		{"letters", `\b\f\n\r\t\v`, "\b\f\n\r\t\v", nil},
		{"backslash", `c:\\New`, `c:\New`, nil},
		{"other characters stand for themselves", `\c\"\N\.x`, `c"N.x`, nil},
		{"octal one digit", `\1`, "\x01", nil},
		{"octal two digits", `\12x`, "\nx", nil},
		{"octal three digits", `\1019`, "A9", nil},
		{"octal stops at eight", `\18`, "\x018", nil},
		{"octal overflow keeps the low byte", `\777`, "\xff", nil},
		{"hex one digit", `\xaz`, "\nz", nil},
		{"hex two digits", `\x41B`, "AB", nil},
		{"hex upper case", `\x4Fx`, "Ox", nil},
		{"hex without digits is x", `\xg`, "xg", nil},
		{"hex at the end is x", `\x`, "x", nil},
		{"high bytes pass", "\xff\xfe\\\\", "\xff\xfe\\", nil},
		{"the text N", `N`, "N", nil},
		{"the text backslash N", `\\N`, `\N`, nil},
		{"NULL", `\N`, "", ErrNull},
		{"dangling", `abc\`, "", ErrDangling},
		{"dangling after a backslash", `\\\`, "", ErrDangling},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Decode([]byte("kept:"), []byte(c.field))
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if string(got) != "kept:"+c.want {
				t.Fatalf("got %q, want %q", got, "kept:"+c.want)
			}
		})
	}
}

func TestEncodeEachByte(t *testing.T) {
	named := map[byte]string{'\b': `\b`, '\f': `\f`, '\n': `\n`, '\r': `\r`, '\t': `\t`, '\v': `\v`, '\\': `\\`}
	for c := 0; c < 256; c++ {
		want := named[byte(c)]
		if want == "" {
			want = string([]byte{byte(c)})
		}
		// At every place of a word of eight, and around its edges.
		for pad := range 18 {
			p := strings.Repeat("x", pad)
			value := p + string([]byte{byte(c)}) + p
			if got := Encode(nil, []byte(value)); string(got) != p+want+p {
				t.Fatalf("byte %#02x after %d: got %q", c, pad, got)
			}
		}
	}
}

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		row    string
		fields []string
	}{
		{"\n", []string{""}},
		{"", []string{""}},
		{"a\n", []string{"a"}},
		{"a", []string{"a"}},
		{"a\tb\n", []string{"a", "b"}},
		{"\t\t\n", []string{"", "", ""}},
		{"\\N\t\\t\\n\t\\\\\n", []string{`\N`, `\t\n`, `\\`}},
	} {
		var want [][]byte
		for _, f := range c.fields {
			want = append(want, []byte(f))
		}
		if got := Split([]byte(c.row), nil); !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("Split(%q) = %q", c.row, got)
		}
		for n := -1; n < len(want)+2; n++ {
			got, rest := SplitN([]byte(c.row), n, nil)
			if w := want[:min(max(n, 0), len(want))]; !slices.EqualFunc(got, w, bytes.Equal) {
				t.Errorf("SplitN(%q, %d) = %q, want %q", c.row, n, got, w)
			}
			if again := string(bytes.Join(got, []byte("\t"))) + string(rest); again != c.row {
				t.Errorf("SplitN(%q, %d) joined again is %q", c.row, n, again)
			}
		}
	}
}

func TestSplitFieldsDoNotOverlap(t *testing.T) {
	row := []byte("a\tb\tc\n")
	for _, f := range Split(row, nil) {
		_ = append(f, "XXXX"...)
	}
	fields, rest := SplitN(row, 2, nil)
	for _, f := range fields {
		_ = append(f, "XXXX"...)
	}
	if string(row) != "a\tb\tc\n" || string(rest) != "\tc\n" {
		t.Fatalf("appending to a field changed the row: %q %q", row, rest)
	}
}

func TestValidRow(t *testing.T) {
	for _, c := range []struct {
		name, row string
		n         int
		msg       string // part of the error, "" for none
	}{
		{"no columns", "\n", 0, ""},
		{"no columns, yet a value", "x\n", 0, "1 fields"},
		{"no columns, yet a tab", "\t\n", 0, "2 fields"},
		{"one empty", "\n", 1, ""},
		{"two", "a\tb\n", 2, ""},
		{"too few", "secret\n", 2, "1 fields where its header names 2 columns"},
		{"too many", "secret\tb\tc\n", 2, "3 fields where its header names 2 columns"},
		{"no newline", "secret\tb", 2, "newline"},
		{"empty", "", 1, "newline"},
		{"two rows", "secret\nb\n", 1, "newline"},
		{"raw carriage return", "secret\r\n", 1, "carriage return"},
		{"end mark", "\\.\n", 1, "end-of-data"},
		{"end mark in mid-line", "secret\\.\n", 1, "end-of-data"},
		{"end mark after an escaped backslash", "\\\\\\.\n", 1, "end-of-data"},
		{"end mark after a value with a dot", "\\\\.\\.\n", 1, "end-of-data"},
		{"escaped backslash and a dot", "\\\\.\n", 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := ValidRow([]byte(c.row), c.n)
			if c.msg == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.msg) {
				t.Fatalf("error %v, want one with %q", err, c.msg)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Fatalf("the error quotes the row: %v", err)
			}
		})
	}
}

// A row of 100 MB goes through every function.
func TestLongRow(t *testing.T) {
	value := bytes.Repeat([]byte("0123456789abcde\\"), 100<<20/16)
	row := append(Encode([]byte("1\t"), value), "\t2\n"...)
	if err := ValidRow(row, 3); err != nil {
		t.Fatal(err)
	}
	fields := Split(row, nil)
	got, err := Decode(nil, fields[1])
	if err != nil || !bytes.Equal(got, value) {
		t.Fatalf("100 MB did not come back (%d bytes, error %v)", len(got), err)
	}
}

func TestNextRow(t *testing.T) {
	text := []byte("a\n\nb")
	var rows []string
	row, rest := NextRow(text)
	for ; row != nil; row, rest = NextRow(rest) {
		rows = append(rows, string(row))
	}
	if !slices.Equal(rows, []string{"a\n", "\n"}) || string(rest) != "b" {
		t.Fatalf("rows %q, rest %q", rows, rest)
	}
}

func TestHeaderAndBody(t *testing.T) {
	if got := Header(`"public"."empty"`, nil); got != "COPY \"public\".\"empty\" FROM stdin;\n" {
		t.Fatalf("without columns: %q", got)
	}
	header := Header(`"s"."t"`, []string{"a", `odd "b"`})
	if header != "COPY \"s\".\"t\" (\"a\", \"odd \"\"b\"\"\") FROM stdin;\n" {
		t.Fatalf("header %q", header)
	}
	for _, c := range []struct {
		name, piece, rows string
		ok                bool
	}{
		{"rows", header + "1\t2\n" + Terminator, "1\t2\n", true},
		{"no rows", header + Terminator, "", true},
		{"empty", "", "", false},
		{"other header", Header(`"s"."u"`, []string{"a"}) + Terminator, "", false},
		{"cut in the header", header[:10], "", false},
		{"cut in a row", header + "1\t2", "", false},
		{"cut after a row", header + "1\t2\n", "", false},
		{"cut in the terminator", header + "1\t2\n\\.", "", false},
		{"terminator inside a line", header + "1\t2\\.\n", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			rows, err := Body([]byte(c.piece), header)
			if (err == nil) != c.ok || string(rows) != c.rows {
				t.Fatalf("rows %q, error %v", rows, err)
			}
		})
	}
}

func TestHotPathAllocatesNothing(t *testing.T) {
	row := []byte("42\tanna@example.org\t\\N\tc:\\\\New\\tfolder\t2026-11-22\n")
	fields := make([][]byte, 0, 8)
	buf := make([]byte, 0, 128)
	for name, f := range map[string]func(){
		"Split":  func() { fields = Split(row, fields[:0]) },
		"SplitN": func() { fields, _ = SplitN(row, 2, fields[:0]) },
		"Decode": func() { buf, _ = Decode(buf[:0], row[24:40]) },
		"Encode": func() { buf = Encode(buf[:0], row) },
		"Valid":  func() { _ = ValidRow(row, 5) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

// values are what a server can hold: any bytes but NUL.
func values() *rapid.Generator[[]byte] {
	b := rapid.OneOf(rapid.ByteRange(1, 255), rapid.SampledFrom([]byte("\\\\\\\b\f\n\r\t\v.Nx01")))
	return rapid.SliceOfN(b, 0, 40)
}

func TestRowsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type cell struct {
			null  bool
			value []byte
		}
		cells := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) cell {
			return cell{rapid.Bool().Draw(t, "null"), values().Draw(t, "value")}
		}), 1, 12).Draw(t, "row")
		var row []byte
		for i, c := range cells {
			if i > 0 {
				row = append(row, '\t')
			}
			if c.null {
				row = AppendNull(row)
			} else {
				row = Encode(row, c.value)
			}
		}
		row = append(row, '\n')
		if err := ValidRow(row, len(cells)); err != nil {
			t.Fatal(err)
		}
		// (An empty line is a row of one empty field and of none.)
		if ValidRow(row, len(cells)+1) == nil || len(row) > 1 && ValidRow(row, len(cells)-1) == nil {
			t.Fatal("a wrong number of columns passes")
		}
		fields := Split(row, nil)
		for i, f := range fields {
			if IsNull(f) != cells[i].null {
				t.Fatalf("field %d: NULL is %v", i, IsNull(f))
			}
			if cells[i].null {
				continue
			}
			if got, err := Decode(nil, f); err != nil || !bytes.Equal(got, cells[i].value) {
				t.Fatalf("field %d: %q, error %v, want %q", i, got, err, cells[i].value)
			}
		}
		n := rapid.IntRange(0, len(cells)+1).Draw(t, "n")
		first, rest := SplitN(row, n, nil)
		if !slices.EqualFunc(first, fields[:min(n, len(fields))], bytes.Equal) {
			t.Fatalf("the first %d fields differ from Split's", n)
		}
		if again := append(bytes.Join(first, []byte{'\t'}), rest...); !bytes.Equal(again, row) {
			t.Fatalf("joined again: %q, want %q", again, row)
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	for _, s := range []string{"", "N", `\N`, `\.`, "a\tb\nc\rd", `c:\New`, "\x00\x01\x1f\x7f\xff", "12345678\\"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		enc := Encode(nil, value)
		if bytes.ContainsAny(enc, "\t\n\r") || IsNull(enc) || hasEndMark(enc) {
			t.Fatalf("Encode(%q) = %q is no plain field", value, enc)
		}
		if got, err := Decode(nil, enc); err != nil || !bytes.Equal(got, value) {
			t.Fatalf("%q came back as %q (error %v)", value, got, err)
		}
	})
}

// canonical says whether the server could have printed the field.
func canonical(field []byte) bool {
	for i := 0; i < len(field); i++ {
		switch {
		case field[i] == '\\':
			i++
			if i == len(field) || !strings.ContainsRune(`bfnrtv\`, rune(field[i])) {
				return false
			}
		case escapeLetter(field[i]) != 0:
			return false
		}
	}
	return true
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"", `\N`, `\`, `\\`, `\x`, `\x4`, `\x41`, `\7`, `\777`, `\.`, "a\\\tb", `\b\f\n\r\t\v\\`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, field []byte) {
		value, err := Decode([]byte("kept"), field)
		if err != nil {
			if string(value) != "kept" {
				t.Fatalf("an error changed dst: %q", value)
			}
			if canonical(field) {
				t.Fatalf("the server's own %q is refused: %v", field, err)
			}
			return
		}
		if enc := Encode(nil, value[4:]); canonical(field) && !bytes.Equal(enc, field) {
			t.Fatalf("%q decodes to %q, which encodes to %q", field, value[4:], enc)
		}
	})
}

var benchRow = []byte("48213\t3f9a1c2e-7d0b-4c7e-9d55-0a6f2f3f7b11\tanna.larsson@example.org\tAnna Larsson\t" +
	"2026-11-22 18:00:00.123456+00\tt\t\\N\tHello there,\\nthis is a message of a usual length; see c:\\\\temp.\t17\t0\n")

func BenchmarkSplit(b *testing.B) {
	fields := make([][]byte, 0, 16)
	b.SetBytes(int64(len(benchRow)))
	b.ReportAllocs()
	for b.Loop() {
		fields = Split(benchRow, fields[:0])
	}
}

func BenchmarkSplitN(b *testing.B) {
	fields := make([][]byte, 0, 16)
	b.ReportAllocs()
	for b.Loop() {
		fields, _ = SplitN(benchRow, 3, fields[:0])
	}
}

func BenchmarkDecode(b *testing.B) {
	for name, field := range map[string][]byte{"plain": benchRow[:40], "escaped": []byte(`a\nb\\c\td usual text with some escapes\n`)} {
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, 0, 256)
			b.SetBytes(int64(len(field)))
			b.ReportAllocs()
			for b.Loop() {
				buf, _ = Decode(buf[:0], field)
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	long := bytes.Repeat([]byte("plain text without escapes "), 40)
	for name, value := range map[string][]byte{"short": long[:20], "long": long, "escaped": []byte("a\nb\\c\td usual text with some escapes\n")} {
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, 0, 2048)
			b.SetBytes(int64(len(value)))
			b.ReportAllocs()
			for b.Loop() {
				buf = Encode(buf[:0], value)
			}
		})
	}
}

func BenchmarkValidRow(b *testing.B) {
	b.SetBytes(int64(len(benchRow)))
	b.ReportAllocs()
	for b.Loop() {
		_ = ValidRow(benchRow, 10)
	}
}
