package scrub

import (
	"bytes"
	"slices"

	"lethe/scrub/catalog"
	"lethe/scrub/copytext"
)

// DefaultRow is the row that a reference leads to where ON DELETE SET DEFAULT has cut it: the one that the default names.
// A live server is asked whether it is there, see Probe; of rows that are stored, whoever has them must look.
type DefaultRow struct {
	Edge *Edge
	key  []byte // as AppendKey writes it
}

// DefaultRows lists the rows to which references of a table's rows may be cut.
func (p *Plan) DefaultRows(table catalog.Name) (list []DefaultRow) {
	t := p.Catalog.Tables[table]
	for _, e := range p.Edges {
		if key := e.defaultKey(); key != nil && t != nil && partOf(t, e.From) {
			list = append(list, DefaultRow{e, key})
		}
	}
	return list
}

// defaultKey is the key of the row that an edge is cut to, nil where there is none: a default that is NULL leads nowhere.
func (e *Edge) defaultKey() (key []byte) {
	if e.Verb != SetDefault || len(e.Cut) != len(e.Columns) || slices.Contains(e.CutTo, nil) {
		return nil
	}
	for i, name := range e.Columns {
		var ok bool
		if key, ok = AppendKey(key, e.Family[i], []byte(*e.CutTo[slices.Index(e.Cut, name)])); !ok {
			return nil
		}
	}
	return key
}

// In says whether a table, or the one that it is a partition of, is where the row must be.
func (d DefaultRow) In(t *catalog.Table) bool { return t != nil && partOf(t, d.Edge.To) }

// Referring finds the rows of the reference's table, with these columns, that lead to the row.
func (d DefaultRow) Referring(columns []string) *RowFinder {
	return d.finder(columns, d.Edge.Columns)
}

// Referred finds the row itself, in its own table with these columns.
func (d DefaultRow) Referred(columns []string) *RowFinder {
	return d.finder(columns, d.Edge.ToColumns)
}

func (d DefaultRow) finder(columns, names []string) *RowFinder {
	f := &RowFinder{family: d.Edge.Family, want: d.key}
	for _, name := range names {
		f.at = append(f.at, slices.Index(columns, name))
	}
	return f
}

// RowFinder finds rows by the values of some columns. It is used by one goroutine.
type RowFinder struct {
	at     []int
	family []Family
	want   []byte

	fields    [][]byte
	text, key []byte
}

// Is says whether a row, as COPY text, is one of those.
func (f *RowFinder) Is(row []byte) bool {
	f.fields, _ = copytext.SplitN(row, slices.Max(f.at)+1, f.fields[:0])
	f.key = f.key[:0]
	for i, at := range f.at {
		if at < 0 || at >= len(f.fields) || copytext.IsNull(f.fields[at]) {
			return false
		}
		var err error
		if f.text, err = copytext.Decode(f.text[:0], f.fields[at]); err != nil {
			return false
		}
		var ok bool
		if f.key, ok = AppendKey(f.key, f.family[i], f.text); !ok {
			return false
		}
	}
	return bytes.Equal(f.key, f.want)
}
