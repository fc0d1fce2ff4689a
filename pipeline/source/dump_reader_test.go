package source

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// Whatever the pieces in which a file arrives, rows and end marks are found where they are.
func TestCopyLinesInPieces(t *testing.T) {
	const before, rows, after = "COPY public.a (id) FROM stdin;", "\n1\n\\\\.\n2 \\\\.\n\n", "\\.\n\nSELECT 1;\n"
	script := before + rows + after
	for name, pieces := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader, "with its end": iotest.DataErrReader,
	} {
		// The window holds the statement and a part of what follows, the rest comes later.
		for first := len(before); first <= len(script); first++ {
			r := &statementReader{src: pieces(strings.NewReader(script[first:])), window: script[:first]}
			if st, _, err := r.next(); err != nil || !st.CopyFrom {
				t.Fatalf("%s, %d: %+v, %v", name, first, st, err)
			}
			spans, err := r.copyLines(context.Background())
			want := span{from: int64(len(before)) + 1, to: int64(len(before + rows)), rows: 4, line: 2}
			if err != nil || len(spans) != 1 || spans[0] != want {
				t.Fatalf("%s, %d: %+v, %v, want %+v", name, first, spans, err, want)
			}
			st, _, err := r.next()
			if err != nil || st.Text != "SELECT 1;" || st.Line != 8 || r.at != int64(len(script))-1 {
				t.Fatalf("%s, %d: %+v at %d, %v", name, first, st, r.at, err)
			}
		}
		for end := len(before); end < len(before+rows)+2; end++ {
			r := &statementReader{src: pieces(strings.NewReader(script[:end]))}
			if _, _, err := r.next(); err != nil {
				t.Fatal(err)
			}
			if spans, err := r.copyLines(context.Background()); !errors.Is(err, errCutOff) {
				t.Fatalf("%s, cut off after %d: %+v, %v", name, end, spans, err)
			}
		}
		var out bytes.Buffer
		if err := copiedRows(context.Background(), pieces(strings.NewReader("a\n\nb\tc\n")), lineWriter{t, &out}); err != nil || out.String() != "a\n\nb\tc\n" {
			t.Errorf("%s: %q, %v", name, out.String(), err)
		}
		if err := copiedRows(context.Background(), pieces(strings.NewReader("a\nb")), lineWriter{t, &out}); err == nil {
			t.Errorf("%s: a row without an end", name)
		}
	}
}

// lineWriter wants whole rows.
type lineWriter struct {
	t  *testing.T
	to io.Writer
}

func (w lineWriter) Write(p []byte) (int, error) {
	if len(p) == 0 || p[len(p)-1] != '\n' {
		w.t.Errorf("a write that is no whole rows: %q", p)
	}
	return w.to.Write(p)
}
