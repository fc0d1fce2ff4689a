package catalog

import (
	"errors"
	"fmt"
	"strings"
)

// Insert is an INSERT statement of pg_dump --inserts.
type Insert struct {
	Table   Name
	Columns []string // empty where the statement names none
	Rows    [][]InsertValue
}

// InsertValue is one value of an INSERT, with the text that the server prints for it.
type InsertValue struct {
	Text          string
	Null, Default bool // then there is no text
}

// ParseInsert reads an INSERT as pg_dump writes it with --inserts, --column-inserts, --rows-per-insert and
// --on-conflict-do-nothing: literals only, each as the server prints it. Any other INSERT is an error. No error holds a
// value.
func ParseInsert(statement string) (*Insert, error) {
	p := &insertParser{lex: lexer{text: statement}}
	in := &Insert{}
	p.next()
	p.words("insert", "into")
	in.Table.Schema = p.name()
	p.bytes(".")
	in.Table.Name = p.name()
	if p.is("(") {
		p.next()
		in.Columns = append(in.Columns, p.name())
		for p.is(",") {
			p.next()
			in.Columns = append(in.Columns, p.name())
		}
		p.bytes(")")
	}
	if p.is("overriding") {
		p.words("overriding", "system", "value")
	}
	if p.is("default") {
		p.words("default", "values")
		in.Rows = append(in.Rows, nil)
	} else {
		p.words("values")
		in.Rows = append(in.Rows, p.row())
		for p.is(",") && p.err == nil {
			p.next()
			in.Rows = append(in.Rows, p.row())
		}
	}
	if p.is("on") {
		p.words("on", "conflict", "do", "nothing")
	}
	p.bytes(";")
	if p.tok.kind != tokenEnd {
		p.fail()
	}
	if p.err != nil {
		return nil, p.err
	}
	return in, nil
}

// insertParser walks over the tokens of one statement. Its first error stays.
type insertParser struct {
	lex lexer
	tok token
	err error
}

var errForeignInsert = errors.New("this INSERT is not one that pg_dump writes: only literals are read here")

func (p *insertParser) next() {
	for p.err == nil {
		if p.tok, p.err = p.lex.next(); p.tok.kind != tokenComment {
			return
		}
	}
}

func (p *insertParser) text() string { return p.lex.text[p.tok.start:p.tok.end] }

func (p *insertParser) fail() {
	if p.err == nil {
		p.err = errForeignInsert
	}
}

// is says whether the token is a word, in any case, or a byte.
func (p *insertParser) is(w string) bool {
	return p.err == nil && (p.tok.kind == tokenWord || p.tok.kind == tokenByte) && strings.EqualFold(p.text(), w)
}

func (p *insertParser) words(list ...string) {
	for _, w := range list {
		if !p.is(w) {
			p.fail()
			return
		}
		p.next()
	}
}

func (p *insertParser) bytes(b string) { p.words(b) }

func (p *insertParser) name() string {
	var n string
	switch text := p.text(); {
	case p.err != nil:
		return ""
	case p.tok.kind == tokenWord:
		n = strings.ToLower(text)
	case p.tok.kind == tokenQuoted && text[0] == '"':
		n = strings.ReplaceAll(text[1:len(text)-1], `""`, `"`)
	default:
		p.fail()
		return ""
	}
	p.next()
	return n
}

// row reads a parenthesised list of values.
func (p *insertParser) row() (row []InsertValue) {
	p.bytes("(")
	for p.err == nil {
		row = append(row, p.value())
		if p.is(")") {
			p.next()
			return row
		}
		p.bytes(",")
	}
	return nil
}

func (p *insertParser) value() (v InsertValue) {
	text := p.text()
	switch {
	case p.err != nil:
		return v
	case p.is("null"):
		v.Null = true
	case p.is("default"):
		v.Default = true
	case p.is("true"):
		v.Text = "t"
	case p.is("false"):
		v.Text = "f"
	case p.tok.kind == tokenString && text[0] == '\'':
		v.Text = strings.ReplaceAll(text[1:len(text)-1], "''", "'")
	case p.tok.kind == tokenString && (text[0] == 'B' || text[0] == 'b'):
		v.Text = text[2 : len(text)-1]
	default:
		return p.number()
	}
	p.next()
	return v
}

// number reads what pg_dump leaves unquoted: digits, signs, points and exponents, which may be several tokens.
func (p *insertParser) number() (v InsertValue) {
	start := p.tok.start
	for p.err == nil && !p.is(",") && !p.is(")") {
		if p.tok.kind == tokenEnd {
			p.fail()
		}
		p.next()
	}
	if p.err != nil {
		return v
	}
	v.Text = p.lex.text[start:p.tok.start]
	if v.Text == "" || strings.Trim(v.Text, "0123456789+-eE.") != "" {
		p.fail()
	}
	return v
}

// Check makes sure that the statement fits a table, and returns the columns that its rows hold, generated ones left out.
func (in *Insert) Check(t *Table) (columns []string, err error) {
	named := in.Columns
	if named == nil && !(len(in.Rows) == 1 && in.Rows[0] == nil) {
		for _, c := range t.Columns {
			named = append(named, c.Name)
		}
	}
	for _, name := range named {
		c := t.Column(name)
		if c == nil {
			return nil, fmt.Errorf("the table has no column %s", QuoteIfNeeded(name))
		}
		if c.Generated == "" {
			columns = append(columns, name)
		}
	}
	for _, row := range in.Rows {
		if len(row) != len(named) {
			return nil, fmt.Errorf("a row of %d values where the table or the statement has %d columns", len(row), len(named))
		}
		for i, v := range row {
			if v.Default != (t.Column(named[i]).Generated != "") {
				return nil, fmt.Errorf("column %s: DEFAULT is read where a column is generated, and only there", QuoteIfNeeded(named[i]))
			}
		}
	}
	return columns, nil
}
