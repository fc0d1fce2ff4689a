// Package rules reads the YAML rules file into a checked rule set.
//
// It promises that every mistake which can be seen without a schema is reported, all at once, with file, line, column
// and what to write instead. What only a schema can tell is checked by package scrub, which reports through the same
// Errors type.
package rules

import (
	"fmt"
	"reflect"
	"time"
)

// Pos is a place in the rules file, 1-based.
type Pos struct{ Line, Col int }

// Name is a table's name as written in the rules; Schema is "public" where it was left out.
type Name struct{ Schema, Name string }

// File is a rules file, parsed.
type File struct {
	Path       string // for messages
	Text       []byte // as read; manifests carry it
	Version    int
	Dataset    string
	Subjects   []Subject
	References []Reference
	Always     []Always
	Erase      []Erase
	Requests   []Request
	Drift      string     // pass, warn or fail; "" means warn
	Categories []Category // documentation only
	ChecksHold []Vouch    // CHECK constraints whose author vouches that the rules' values satisfy them
}

// Subject is an entry of subjects: a kind of person and the table that holds them.
type Subject struct {
	Type   string // the word before the colon in user:42
	Table  Name
	Key    string   // the column a request's key is compared with
	Lookup []string // columns by which a person may be found
	Pos    Pos
}

// Reference is an entry of references: what the schema does not say.
type Reference struct {
	Table   Name
	Columns []string
	Targets []Target // more than one where `when` decides
	Pos     Pos
}

// Target is where a declared reference leads.
type Target struct {
	Table   Name
	Columns []string
	When    []Equal // all must hold, compared as text; empty: always
	Path    string  // JSON path inside the column, "" where the column itself is the key
	Pos     Pos
}

// Equal is one condition of a polymorphic reference.
type Equal struct {
	Column, Value string
}

// Always is one rule of always: for every row, whoever it belongs to.
type Always struct {
	// Schema, Table and Column are names, or globs where Glob is set. Column is "" for a rule on the whole table
	// (no_rows). A glob's Schema is "*" where the pattern has only a column (`*.last_ip` is any schema, any table).
	// In a glob every part is a pattern: * is any run of characters, ? is one, \ takes the next one as it is.
	Schema, Table, Column string
	Glob                  bool
	Strategy              Strategy
	Pos                   Pos
}

// Erase says what erasing a person does to one table.
type Erase struct {
	Table   Name
	Subject bool      // delete: true, on a subject's own table
	Delete  []Columns // references by which a reached row is deleted
	Keep    []Columns // references by which a reached row is kept and redacted
	Clear   []Columns // references that are cut
	Leave   []Columns // references by which no row is reached: row and reference stay as they are
	Redact  []ColumnStrategy
	Reason  string // why kept rows are kept
	Pos     Pos
}

// Category gives one column a key of the Fides taxonomy.
type Category struct {
	Table    Name
	Column   string
	Category string // user.contact.email
	Pos      Pos
}

// Columns names a reference by its columns, one or several.
type Columns struct {
	Names []string
	Pos   Pos
}

// ColumnStrategy is a strategy for one column.
type ColumnStrategy struct {
	Column   string
	Strategy Strategy
	Pos      Pos
}

// Vouch names one CHECK constraint, as TABLE.CONSTRAINT, or a domain's as DOMAIN.CONSTRAINT.
type Vouch struct {
	Name       Name
	Constraint string
	Pos        Pos
}

// Strategy is what to do with a value. Name says which of the argument fields counts.
type Strategy struct {
	Name string // clear, value, unique_email, hmac, mask, regex, json, ip_prefix, date_trunc, no_rows
	Pos  Pos

	Value    string // value: the text of the new value
	EvenNull bool   // value: {is: X, even_null: true} replaces NULL too

	Length int // hmac: hex digits, 0 means as many as fit, at most 64

	KeepFirst, KeepLast int    // mask: characters left as they are
	With                string // mask: the character put for the others, default "*"

	Match, Replace string // regex: RE2 and its replacement ($1 …)

	Remove []string  // json: paths to take out
	Set    []JSONSet // json: paths to overwrite, in order, where they exist

	V4, V6 int // ip_prefix: bits kept

	Unit string // date_trunc: year, quarter, month, week, day, hour, minute
}

// Equal says whether two strategies do the same to every value, wherever they stand in the file.
func (s Strategy) Equal(o Strategy) bool {
	s.Pos, o.Pos = Pos{}, Pos{}
	return reflect.DeepEqual(s, o)
}

// JSONSet is one path of a json strategy that gets a new value.
type JSONSet struct {
	Path  string
	Value string // JSON text
}

// Request is an erasure request that stands in the rules file.
type Request struct {
	Subject  string // type, as in user:42
	Key      string // what stands after the colon, as written
	Ref      string
	Received time.Time // zero where not given; a date, UTC
	Pos      Pos
}

// Error is one mistake in a rules file.
type Error struct {
	File string
	Pos
	Msg   string // what is wrong
	Hint  string // what to do about it, or ""
	Paste string // YAML lines to paste, or ""
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Col, e.Msg)
	if e.Line == 0 {
		s = fmt.Sprintf("%s: %s", e.File, e.Msg)
	}
	if e.Hint != "" {
		s += "\n  try: " + e.Hint
	}
	if e.Paste != "" {
		s += "\n  paste:\n" + e.Paste
	}
	return s
}

// Errors is every mistake found, in the order of the file.
type Errors []*Error

func (es Errors) Error() string {
	s := ""
	for i, e := range es {
		if i > 0 {
			s += "\n"
		}
		s += e.Error()
	}
	return s
}
