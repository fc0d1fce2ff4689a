package source

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"lethe/scrub/catalog"
	"lethe/scrub/copytext"
)

// Copy writes the rows of one range of a table to w as COPY text, as Snapshot.Copy does, and returns how many the first
// pass counted. Rows that are not well-formed are an error.
func (d *Dump) Copy(ctx context.Context, rel *Relation, rng Range, w io.Writer) (n int64, err error) {
	spans := d.spans[rel.Name]
	if rng.From < 0 || rng.To > int64(len(spans)) || rng.From > rng.To {
		return 0, &Error{Op: "read the dump's rows of", Table: rel.Name.String(), Err: errors.New("no such range")}
	}
	for _, s := range spans[rng.From:rng.To] {
		if err := d.rows(ctx, rel, s, w); err != nil {
			if alive := d.Alive(); alive != nil {
				return 0, alive // which explains it
			}
			return 0, err
		}
		n += s.rows
	}
	return n, nil
}

// CopyTable writes all rows of a table, in the order of the file, and returns the columns that they hold.
func (d *Dump) CopyTable(ctx context.Context, name catalog.Name, w io.Writer) error {
	rel, err := d.relation(name)
	if err != nil {
		return err
	}
	_, err = d.Copy(ctx, rel, Range{0, int64(len(d.spans[name]))}, w)
	return err
}

// Columns returns the columns that a table's rows hold, in order.
func (d *Dump) Columns(name catalog.Name) ([]string, error) {
	rel, err := d.relation(name)
	if err != nil {
		return nil, err
	}
	return rel.Columns, nil
}

// Encoding is that of the rows.
func (d *Dump) Encoding() string { return d.Info.ClientEncoding }

func (d *Dump) relation(name catalog.Name) (*Relation, error) {
	i := slices.IndexFunc(d.Relations, func(r Relation) bool { return r.Name == name })
	if i < 0 {
		return nil, &Error{Op: "read the dump's rows of", Table: name.String(), Err: errors.New("the dump has no such table")}
	}
	return &d.Relations[i], nil
}

// rowCheck passes well-formed rows on, and counts them.
type rowCheck struct {
	to      io.Writer
	columns int
	utf8    bool
	money   []int // columns whose text depends on a locale
	fields  [][]byte
	rows    int64
}

func (d *Dump) newRowCheck(rel *Relation, w io.Writer) *rowCheck {
	c := &rowCheck{to: w, columns: len(rel.Columns), utf8: d.Info.ClientEncoding == "UTF8"}
	for i, name := range rel.Columns {
		t := d.Catalog.Tables[rel.Name]
		if t == nil || t.Column(name) == nil {
			continue
		}
		if base, _, _ := d.Catalog.Base(t.Column(name).Type); !base.Array && base.Name == (catalog.Name{Schema: "pg_catalog", Name: "money"}) {
			c.money = append(c.money, i)
		}
	}
	return c
}

var errMoney = errors.New("an amount of money is not written as in the locale C, so it would be misread")

// moneyInC is an amount as the locales C and en_US print it. The part after the point must have two digits: in C that is
// what 12.34 means.
var moneyInC = regexp.MustCompile(`^-?\$[0-9]{1,3}(?:,?[0-9]{3})*\.[0-9]{2}$`)

// Write takes whole rows.
func (c *rowCheck) Write(p []byte) (int, error) {
	if c.utf8 && !utf8.Valid(p) {
		return 0, errNotUTF8
	}
	for rest := p; len(rest) > 0; {
		var row []byte
		if row, rest = copytext.NextRow(rest); row == nil {
			return 0, errors.New("a row without an end")
		}
		if err := copytext.ValidRow(row, c.columns); err != nil {
			return 0, err
		}
		for _, i := range c.money {
			c.fields = copytext.Split(row, c.fields[:0])
			if f := c.fields[i]; !copytext.IsNull(f) && !moneyInC.Match(f) {
				return 0, errMoney
			}
		}
		c.rows++
	}
	return c.to.Write(p)
}

// rows reads one span of a table's rows.
func (d *Dump) rows(ctx context.Context, rel *Relation, s span, w io.Writer) (err error) {
	r, done, err := d.reader(ctx, s)
	if err != nil {
		return err
	}
	defer done()
	check := d.newRowCheck(rel, w)
	if s.inserts {
		err = d.insertedRows(ctx, rel, s, r, check)
	} else {
		err = copiedRows(ctx, r, check)
	}
	if err == nil && check.rows != s.rows {
		err = fmt.Errorf("%d rows where the first pass counted %d", check.rows, s.rows)
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	help := ""
	switch {
	case errors.Is(err, errNotUTF8):
		help = "look for the row in the database with convert_from(convert_to(column, 'UTF8'), 'UTF8'), which fails on it, and correct it"
	case errors.Is(err, errMoney):
		help = "dump with PGOPTIONS='-c lc_monetary=C' pg_dump …"
	}
	return &Error{Op: fmt.Sprintf("read the dump's rows (line %d and following) of", s.line), Table: rel.Name.String(), Err: err, Help: help}
}

// copiedRows hands on the lines of COPY, whole rows at a time.
func copiedRows(ctx context.Context, r io.Reader, w io.Writer) error {
	buf := make([]byte, 0, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if end := bytes.LastIndexByte(buf[len(buf)-n:], '\n') + 1; end > 0 {
			end += len(buf) - n
			if _, err := w.Write(buf[:end]); err != nil {
				return err
			}
			buf = buf[:copy(buf, buf[end:])]
		}
		switch {
		case err == io.EOF && len(buf) > 0:
			return errors.New("a row without an end")
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if len(buf) == cap(buf) { // a row longer than that
			buf = slices.Grow(buf, cap(buf))
		}
	}
}

// insertedRows writes the rows of INSERT statements as COPY would.
func (d *Dump) insertedRows(ctx context.Context, rel *Relation, s span, r io.Reader, w io.Writer) error {
	statements := &statementReader{src: r}
	statements.scan.Skip(s.line - 1)
	var rows []byte
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		st, _, err := statements.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		in, err := catalog.ParseInsert(st.Text)
		if err != nil {
			return fmt.Errorf("line %d: %w", st.Line, err)
		}
		columns, err := in.Check(d.Catalog.Tables[rel.Name])
		if err != nil {
			return fmt.Errorf("line %d: %w", st.Line, err)
		}
		if !slices.Equal(columns, rel.Columns) {
			return fmt.Errorf("line %d: other columns than in the statements before", st.Line)
		}
		rows = rows[:0]
		for _, row := range in.Rows {
			n := 0
			for _, v := range row {
				if v.Default {
					continue
				}
				if n++; n > 1 {
					rows = append(rows, '\t')
				}
				if v.Null {
					rows = copytext.AppendNull(rows)
				} else {
					rows = copytext.Encode(rows, []byte(v.Text))
				}
			}
			rows = append(rows, '\n')
		}
		if _, err := w.Write(rows); err != nil {
			return err
		}
	}
}

const writePrefix, writeSuffix = `SELECT pg_catalog.lowrite(0, '\x`, `');`

// isWrite says whether a statement writes the next bytes of the large object that is open.
func isWrite(statement string) bool {
	return strings.HasPrefix(statement, writePrefix) && strings.HasSuffix(statement, writeSuffix) && len(statement) >= len(writePrefix)+len(writeSuffix)
}

// LargeObject hands each statement that makes the large object to statement, as Snapshot.LargeObject does and in the
// same pieces of 256 KiB, however the file cuts them.
func (d *Dump) LargeObject(ctx context.Context, lo *LargeObject, statement func([]byte) error) error {
	var text []byte
	for _, line := range lo.definition() {
		text = append(append(text[:0], line...), '\n')
		if err := statement(text); err != nil {
			return err
		}
	}
	s, ok := d.contents[lo.OID]
	if !ok {
		return nil
	}
	r, done, err := d.reader(ctx, s)
	if err != nil {
		return err
	}
	defer done()
	fail := func(err error) error {
		return &Error{Op: fmt.Sprintf("read large object %d from the dump (line %d and following)", lo.OID, s.line), Err: err}
	}
	var (
		statements = &statementReader{src: r}
		chunk      = make([]byte, 0, loChunk)
		from       int64
	)
	flush := func() error {
		text = appendPut(text[:0], lo.OID, from, chunk)
		return statement(text)
	}
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		st, _, err := statements.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fail(err)
		}
		if !isWrite(st.Text) {
			return fail(errors.New("something other than its content stands there"))
		}
		data, err := hex.DecodeString(st.Text[len(writePrefix) : len(st.Text)-len(writeSuffix)])
		if err != nil {
			return fail(errors.New("its content is not in hexadecimal digits"))
		}
		for len(data) > 0 {
			if len(chunk) == loChunk { // and more follows: a hole need not be written
				if !zero(chunk) {
					if err := flush(); err != nil {
						return err
					}
				}
				from += loChunk
				chunk = chunk[:0]
			}
			n := min(len(data), loChunk-len(chunk))
			chunk, data = append(chunk, data[:n]...), data[n:]
		}
	}
	if len(chunk) == 0 {
		return nil
	}
	return flush()
}
