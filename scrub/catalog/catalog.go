// Package catalog reads PostgreSQL DDL, as pg_dump prints it, into tables, columns, types, keys, references and
// partitions.
//
// It promises to fail closed: a statement that the parser can't read passes only where it cannot define a table, a
// column or a key; otherwise Parse returns an error with the statement's text and position. Nothing here talks to a
// server: a live database and a dump file are read through the same text.
package catalog

import (
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

// Name is a schema-qualified SQL name, unquoted, exactly as the server stores it.
type Name struct{ Schema, Name string }

// String prints the name for people: quoted only where SQL needs it, `public.` left out.
func (n Name) String() string {
	if n.Schema == "" || n.Schema == "public" {
		return QuoteIfNeeded(n.Name)
	}
	return QuoteIfNeeded(n.Schema) + "." + QuoteIfNeeded(n.Name)
}

// SQL prints the name for a statement: schema-qualified, both parts always quoted.
func (n Name) SQL() string { return Quote(n.Schema) + "." + Quote(n.Name) }

// Quote returns s as a quoted SQL identifier.
func Quote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// QuoteList returns the quoted identifiers joined by ", ".
func QuoteList(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = Quote(n)
	}
	return strings.Join(q, ", ")
}

// QuoteIfNeeded quotes s unless it is a plain lower-case identifier.
func QuoteIfNeeded(s string) string {
	if s == "" || (s[0] >= '0' && s[0] <= '9') || s[0] == '$' {
		return Quote(s)
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c == '_' || c == '$' || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
			return Quote(s)
		}
	}
	return s
}

// Literal returns s as a standard SQL string literal (standard_conforming_strings is on in every session of ours).
func Literal(s string) string { return `'` + strings.ReplaceAll(s, `'`, `''`) + `'` }

// Catalog is what the DDL of one database defines.
type Catalog struct {
	Tables     map[Name]*Table // relations that can hold rows or route them; views are not here
	Order      []*Table        // the same, in DDL order
	Types      map[Name]*Type  // enums, domains, composites, ranges, multiranges and base types defined in the DDL
	Extensions []string        // names, in DDL order
	Roles      []string        // every role the DDL names (owners, grantees, policies …), sorted
	Collations map[Name]bool   // collations the DDL defines; true: nondeterministic, so equal text may differ in bytes

	castFunctions bool // the DDL defines a cast that calls a function
}

// TableKind says what a relation is.
type TableKind int

// The kinds of relation a catalog holds.
const (
	Ordinary TableKind = iota
	Partitioned
	Foreign
)

// Table is one relation. Partitions are tables of their own with Parent set.
type Table struct {
	Name       Name
	Kind       TableKind
	Unlogged   bool
	Columns    []*Column
	Parent     *Table   // the partitioned table this one is attached to, or nil
	Partitions []*Table // attached partitions, in DDL order
	Inherits   []*Table // plain inheritance parents (never partition parents)

	PartitionKey   []string // columns in the partition key, also those inside its expressions
	Keys           []*Key
	References     []*ForeignKey // its own foreign keys, plus those copied from its partition ancestors
	Checks         []*Check      // its own and its domains' are apart: see Type.Checks
	CallsFunctions bool          // a CHECK, DEFAULT of a generated column or domain CHECK calls a function that is not in pg_catalog
	DefinedAtLine  int           // 1-based line in the DDL it was parsed from
}

// Root is the topmost partitioned ancestor, or the table itself.
func (t *Table) Root() *Table {
	for t.Parent != nil {
		t = t.Parent
	}
	return t
}

// Family returns a table and the partitions below it, whose rows and indexes are its own. A name that is not in the
// catalog stands alone.
func (c *Catalog) Family(name Name) []Name {
	names := []Name{name}
	if t := c.Tables[name]; t != nil {
		for _, p := range t.Partitions {
			names = append(names, c.Family(p.Name)...)
		}
	}
	return names
}

// Column returns the named column, or nil.
func (t *Table) Column(name string) *Column {
	for _, c := range t.Columns {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Column is one column of a table, in the table's own order; dropped columns do not exist here.
type Column struct {
	Name      string
	Type      TypeRef
	NotNull   bool   // NOT NULL, PRIMARY KEY member, or identity; NOT NULL of a domain counts too
	Default   string // the DEFAULT expression as SQL text, "" where there is none
	Generated string // the GENERATED … STORED (or VIRTUAL) expression as SQL text, "" where it is not generated
	Identity  bool
	Collation Name // explicit COLLATE, zero where none
}

// TypeRef names a type as a column uses it.
type TypeRef struct {
	Name  Name   // canonical: built-in types are pg_catalog.int4, .varchar, .bpchar, .timestamptz …
	Mods  []int  // type modifiers as written: varchar(50) has [50], numeric(10,2) has [10 2]; empty where not all are numbers
	Words string // the modifiers as SQL text where not all are numbers, as in geometry(Point,4326)
	Array bool   // any number of dimensions
}

// TypeKind says how a type of the DDL was defined.
type TypeKind int

// The kinds of defined type.
const (
	Enum TypeKind = iota
	Domain
	Composite
	Range
	BaseType
)

// Type is a type that the DDL defines.
type Type struct {
	Name      Name
	Kind      TypeKind
	Labels    []string  // Enum
	Base      TypeRef   // Domain: the type under it (one level); Range: its subtype
	NotNull   bool      // Domain
	Checks    []*Check  // Domain
	Collation Name      // Domain
	Fields    []*Column // Composite
}

// Base follows domains down to the type under them. Checks of every domain on the way are in checks; notNull says
// whether any of them is NOT NULL. A modifier set on an inner domain survives where the outer sets none.
func (c *Catalog) Base(t TypeRef) (base TypeRef, checks []*Check, notNull bool) {
	base = t
	for i := 0; i < 64; i++ { // a cycle can't be written in SQL; the bound is for hostile input
		d := c.Types[base.Name]
		if d == nil || d.Kind != Domain || base.Array {
			return base, checks, notNull
		}
		checks = append(checks, d.Checks...)
		notNull = notNull || d.NotNull
		base = d.Base
	}
	return base, checks, notNull
}

// Key is a primary key, a UNIQUE constraint, a unique index or an exclusion constraint.
type Key struct {
	Name              string
	Columns           []string // plain columns among its members, in order
	Primary           bool
	Exclusion         bool
	NullsNotDistinct  bool
	Predicate         *pg_query.Node // WHERE of a partial one
	PredicateColumns  []string       // columns that the predicate mentions
	Expressions       bool           // at least one member is an expression
	ExpressionColumns []string       // columns inside those expressions

	exprs     []string // the expressions as SQL
	inherited bool     // made for a partition because its parent has it; gives way to the partition's own
}

// ExpressionText returns the members that are expressions, as SQL.
func (k *Key) ExpressionText() []string { return slices.Clone(k.exprs) }

// Action is what a foreign key does when the row it references goes.
type Action byte

// Referential actions, as pg_query and pg_constraint spell them.
const (
	NoAction   Action = 'a'
	Restrict   Action = 'r'
	Cascade    Action = 'c'
	SetNull    Action = 'n'
	SetDefault Action = 'd'
)

// Match is a foreign key's MATCH type.
type Match byte

// MATCH types.
const (
	MatchSimple Match = 's'
	MatchFull   Match = 'f'
)

// ForeignKey is a reference that the schema declares.
type ForeignKey struct {
	Name            string
	Columns         []string
	To              Name // may be in no Catalog where it belongs to an extension
	ToColumns       []string
	OnDelete        Action
	OnDeleteColumns []string // SET NULL (a, b): the columns named; empty means all
	OnUpdate        Action
	Match           Match
	NotValid        bool
}

// Check is a CHECK constraint of a table or a domain.
type Check struct {
	Name    string
	Text    string         // the expression as SQL
	Expr    *pg_query.Node // the same, parsed
	Columns []string       // columns it mentions; for a domain, none (it says VALUE)
}
