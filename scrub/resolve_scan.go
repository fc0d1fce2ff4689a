package scrub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"lethe/rules"
	"lethe/scrub/catalog"
	"lethe/scrub/copytext"
)

// RowSource brings stored rows where no server answers: those of a dump file.
type RowSource interface {
	// Columns returns the columns that the rows of a table hold, in the order of their fields.
	Columns(table catalog.Name) ([]string, error)
	// CopyTable writes all rows of a table to w as COPY text, whole rows at a time, as they were before any scrubbing.
	CopyTable(ctx context.Context, table catalog.Name, w io.Writer) error
	// Encoding is that of the rows, as PostgreSQL spells it.
	Encoding() string
}

// ResolveScan is Resolve without a server: it follows the references by passes over the rows of the tables that matter,
// one for each round in which new keys lead to them, and returns what Resolve would. Where only a server can compare the
// keys of a reference, or knows how it prints a request's key, and somebody is to be erased, it is an error: of type
// rules.Errors, with everything that stands in the way.
func (p *Plan) ResolveScan(ctx context.Context, rows RowSource, reqs []Request) (*Erased, error) {
	keys, err := canonicalRequests(p, reqs)
	if err != nil {
		return nil, err
	}
	if err := p.comparable(rows.Encoding(), reqs, keys, "back up from the server"); err != nil {
		return nil, err
	}
	c, err := newClosure(p, reqs, keys)
	if err != nil {
		return nil, err
	}
	return c.run(ctx, scanReader{rows})
}

// ProbeOffline stands in for Probe where there is no server to ask: whatever it would have to be asked is an error of
// type rules.Errors.
func (p *Plan) ProbeOffline() error {
	var errs rules.Errors
	for _, probe := range p.Probes {
		hint := "back up from the server"
		if probe.Hint != "" {
			hint = probe.Hint + "; or back up from the server"
		}
		errs = append(errs, &rules.Error{File: p.Rules.Path, Pos: probe.Pos, Hint: hint,
			Msg: "without a server it can't be ruled out that this rule fails: " + probe.Msg})
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}

// comparable refuses what only a server can compare, as far as the requests come to it. hint says what to do instead.
func (p *Plan) comparable(encoding string, reqs []Request, keys []string, hint string) error {
	if len(reqs) == 0 {
		return nil
	}
	var errs rules.Errors
	for _, e := range p.Edges {
		if byServer(e) {
			errs = append(errs, &rules.Error{File: p.Rules.Path, Pos: e.Pos,
				Msg: fmt.Sprintf("only a server can compare the reference %s of %s with %s, so nobody can be erased from these rows",
					rules.Columns{Names: e.Columns}, e.From.Name, e.To.Name),
				Hint: hint})
		}
	}
	for i, r := range reqs {
		s := p.Subjects[r.Subject]
		column := s.Table.Column(s.Key)
		why := ""
		switch base, _, _ := p.Catalog.Base(column.Type); {
		case !isASCII(keys[i]) && encoding != "UTF8":
			why = "the rows come in " + encoding + ", and the key is not ASCII"
		case s.Family == Server:
			why = "only a server can compare values of type " + base.Name.String()
		case s.Family == Exact && !p.spelledOneWay(base):
			why = "only a server knows how it prints a value of type " + base.Name.String()
		default:
			continue
		}
		errs = append(errs, &rules.Error{File: p.Rules.Path, Hint: hint,
			Msg: fmt.Sprintf("erasure request %s can't be looked for in %s.%s: %s", r.name(i), s.Table.Name, catalog.QuoteIfNeeded(s.Key), why)})
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}

// spelledOneWay says that a value of the type has no other spelling than the one that the server prints.
func (p *Plan) spelledOneWay(t catalog.TypeRef) bool {
	if t.Array {
		return false
	}
	defined := p.Catalog.Types[t.Name]
	return isText(t) || defined != nil && defined.Kind == catalog.Enum
}

// scanReader reads all rows of a relation, whatever is asked: the closure looks at each of them for all its references.
type scanReader struct{ rows RowSource }

func (r scanReader) read(ctx context.Context, rel *relation, _ []question, fn func(row [][]byte, question, key int) error) error {
	columns, err := r.rows.Columns(rel.table.Name)
	if err != nil {
		return err
	}
	w, err := newScanWriter(rel, columns, fn)
	if err != nil {
		return err
	}
	return r.rows.CopyTable(ctx, rel.table.Name, w)
}

// scanWriter decodes some columns of each row. It is given whole rows.
type scanWriter struct {
	at     []int // for each value that is wanted: its field
	upTo   int   // fields that have to be split off
	fields int   // in every row
	fn     func(row [][]byte, question, key int) error

	split [][]byte
	row   [][]byte
	text  []byte
}

// newScanWriter takes rows that hold these columns, and gives fn those that a relation reads.
func newScanWriter(rel *relation, columns []string, fn func(row [][]byte, question, key int) error) (*scanWriter, error) {
	w := &scanWriter{fields: len(columns), row: make([][]byte, len(rel.columns)), fn: fn}
	for _, name := range rel.columns {
		i := slices.Index(columns, name)
		if i < 0 {
			return nil, fmt.Errorf("the rows do not hold column %s", catalog.QuoteIfNeeded(name))
		}
		w.at = append(w.at, i)
		w.upTo = max(w.upTo, i+1)
	}
	return w, nil
}

func (w *scanWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n') + 1
		if end == 0 {
			return 0, errors.New("a row without an end")
		}
		if err := w.line(rest[:end]); err != nil {
			return 0, err
		}
		rest = rest[end:]
	}
	return len(p), nil
}

func (w *scanWriter) line(line []byte) error {
	w.split, _ = copytext.SplitN(line, w.upTo, w.split[:0])
	if len(w.split) < w.upTo {
		return fmt.Errorf("a row has %d fields where its table has %d columns", len(w.split), w.fields)
	}
	// Decoding never makes a field longer, and no column is wanted twice, so the text buffer does not move under the
	// values in it.
	w.text = slices.Grow(w.text[:0], len(line))
	for i, at := range w.at {
		field := w.split[at]
		if copytext.IsNull(field) {
			w.row[i] = nil
			continue
		}
		start := len(w.text)
		var err error
		if w.text, err = copytext.Decode(w.text, field); err != nil {
			return err
		}
		w.row[i] = w.text[start:len(w.text):len(w.text)]
	}
	return w.fn(w.row, -1, -1)
}
