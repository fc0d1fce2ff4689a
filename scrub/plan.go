// Package scrub compiles rules against a catalog into a plan, follows the references from erased people to everything
// that is theirs, and rewrites or drops rows in a stream.
//
// It promises that a rule which can't work is an error when the plan is compiled, never a surprise at restore; that
// nothing is owned by silence: every reference to a row that erasing touches carries a verb or Compile fails; and that
// a row no rule names passes through byte for byte.
//
// The way through the package: Compile makes a Plan out of rules and catalog; Plan.Resolve follows the references of
// the requested people through the original rows and returns what is Erased; Plan.Scrubber makes the rewriter of one
// table, used by one worker.
package scrub

import (
	"lethe/rules"
	"lethe/scrub/catalog"
	"lethe/scrub/mask"
)

// Plan is a rule set compiled against a catalog. It is immutable and may be shared by goroutines.
type Plan struct {
	Catalog  *catalog.Catalog
	Rules    *rules.File
	Subjects map[string]*Subject         // by type
	Tables   map[catalog.Name]*TablePlan // tables that some rule or reference touches; partitions have entries of their own
	Edges    []*Edge                     // every reference that the closure follows, by ID
	Left     []*Edge                     // references that the rules leave alone: decided, and never followed
	Stored   bool                        // for rows as snapshots store them, see CompileStored
	Probes   []Probe                     // what only a live server can confirm, see Probe
	Warnings []string                    // for people, without personal values
}

// Subject is a kind of person.
type Subject struct {
	Type   string
	Table  *catalog.Table // a root, never a partition
	Key    string
	Family Family // how Key compares with a request's key
	Lookup []string
	Delete bool // the person's own row goes; otherwise it stays and is redacted
}

// Verb is what reaching a row through a reference does to it.
type Verb int

// Verbs, weakest first: where several reach one row the strongest decides whether it stays.
const (
	Leave      Verb = iota // nothing: the row is not reached through the reference, and both stay as they are
	Clear                  // NULL in the reference's columns; the row is not owned by that
	SetDefault             // the columns' defaults in the reference's columns (ON DELETE SET DEFAULT); not owned
	Keep                   // the reference stays, the row is owned and its Redact columns are rewritten
	Delete                 // the row goes; it is deleted and owned
)

// Edge is one reference, from the columns of a table to the columns of another, with its verb.
type Edge struct {
	ID        int            // index in Plan.Edges; of no meaning in Plan.Left
	From      *catalog.Table // a root, or the partition that has a foreign key of its own
	Columns   []string       // in From; one column where Path is set
	To        *catalog.Table // a root, or the partition that the foreign key names
	ToColumns []string
	Verb      Verb
	Cut       []string      // Clear, SetDefault: the columns rewritten (ON DELETE SET NULL (a) names a part of Columns)
	CutTo     []*string     // SetDefault: what is written into each of Cut, as text; nil is NULL
	When      []rules.Equal // polymorphic: all must hold, as text
	Path      string        // JSON path in Columns[0], "" where the column itself is the key
	Family    []Family      // how each column pair compares
	Origin    string        // for messages: the foreign key's name or "references"
	Pos       rules.Pos     // of the rule that gave the verb; zero where the schema did
}

// Family says how two key texts compare.
type Family int

// Families of key types (design §6): within one, equality of keys is equality of canonical text.
const (
	Integer Family = iota
	Numeric
	Text
	PaddedText // char(n): trailing spaces do not count
	UUID
	Exact  // other types whose equality is equality of output text: boolean, date, timestamp, bytea, enum, inet …
	Server // only the server can compare: nondeterministic collations, citext, float, interval …
)

// String is the family as filters name it.
func (f Family) String() string {
	switch f {
	case Integer:
		return "integer"
	case Numeric:
		return "numeric"
	case Text:
		return "text"
	case PaddedText:
		return "padded text"
	case UUID:
		return "uuid"
	case Exact:
		return "exact"
	}
	return "server"
}

// ParseFamily reads what String gives; false where it is no family that texts alone compare in.
func ParseFamily(s string) (Family, bool) {
	for f := range Server {
		if f.String() == s {
			return f, true
		}
	}
	return Server, false
}

// TablePlan is what happens to the rows of one relation. For a partition it is its root's plan, plus its own edges.
type TablePlan struct {
	Table  *catalog.Table
	NoRows bool // structure only
	Always []Rewrite
	// What erasing does. Subject is set on a subject's own table (and its partitions).
	Subject *Subject
	Redact  []Rewrite // for rows that stay and are owned, or are the erased subject's own
	Out     []*Edge   // references that leave this relation
	In      []*Edge   // references that lead to it, so that its owned rows' key values must be known
	Reason  string    // why kept rows are kept
	// LargeObjectColumns hold numbers of large objects (type oid or lo) that rules take from rows, or with them: a large
	// object that no row names any more goes too.
	LargeObjectColumns []string
}

// Rewrite is a strategy bound to a column.
type Rewrite struct {
	Column   string
	Strategy rules.Strategy
	// Domain separates the keyed strategies of different columns. A key column and every column that references it
	// share one, so that `always` rewrites both ends alike.
	Domain string
	MaxLen int // characters that fit, of all columns that share Domain the least; 0 is no limit
}

// Probe is a question that only a live server can answer, asked before a backup and by a live `rules check`.
type Probe struct {
	SQL  string // a SELECT of one boolean: true means all is well
	Pos  rules.Pos
	Msg  string // the error when it is not
	Hint string
}

// Request is one person to erase, in the order of the ledger.
type Request struct {
	Subject string // type
	Key     string // as the request says it; Resolve canonicalises
	Ref     string
	Salt    mask.Key // of the request's ledger record; zero where it has none (yet)
}
