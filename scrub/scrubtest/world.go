// Package scrubtest draws random cases for tests of erasing, and holds the model that erasing is compared with: random
// schemas with random rows, rules and requests, and an erasure so slow and obvious that it can be seen to be right. The
// model shares nothing with the code under test: it has its own tables, compares its own values, and goes round over all
// rows until nothing changes.
package scrubtest

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"sort"
	"strings"

	"pgregory.net/rapid"

	"lethe/scrub/catalog"
)

// World is one random case.
type World struct {
	Tables   []*Table
	Refs     []*Ref
	Requests []Request

	adopted []adopted
}

// adopted is a key that counts as erased although no row has it: another snapshot knows whose it was.
type adopted struct {
	table *Table
	id    string
	label int
}

// Table is a table of a world, with its rows.
type Table struct {
	Name    string
	cols    []*Column
	key     []string // columns of the primary key
	alt     bool     // has a unique column alt
	layout  string   // plain, list, nested, hash
	Subject string   // subject type, "" for none
	gone    bool     // delete: true
	NoRows  bool
	always  string // rule of column p1: "", clear, value
	redact  string // rule of column p0: "", clear, value
	Rows    []*Row
}

// Column is one of its columns.
type Column struct {
	name, typ string
	notNull   bool
	def       *string // DEFAULT
}

// Row is one of its rows, and what Erase makes of it.
type Row struct {
	Values map[string]*string // as the server prints them
	Owned  bool
	Dead   bool // it goes
	Label  int  // lowest request that owns it
}

// Ref is a reference, a foreign key's or a declared one.
type Ref struct {
	name             string
	From, to         *Table
	fromPart, toPart string // one partition that has the foreign key, or is referenced
	cols, toCols     []string
	fk               bool
	action           string
	setCols          []string // of ON DELETE SET NULL (…)
	full             bool
	kindCol, kind    string // polymorphic
	path             string // JSON path
	Verb             string // "" where nothing leads to it; delete, keep, clear, leave
	ruled            bool   // the verb stands in the rules
}

// Request is one person to erase.
type Request struct{ Subject, Key string }

// pools hold the possible keys of each type: few, so that rows meet.
var pools = map[string][]string{
	"int4":        {"1", "2", "3", "4", "5", "6", "7", "8", "-9", "100"},
	"int8":        {"1", "2", "3", "4", "5", "6", "7", "8", "-9", "90000000000"},
	"numeric":     {"1", "1.5", "2", "2.25", "10", "1000000000000000000000", "-0.5"},
	"uuid":        {"00000000-0000-0000-0000-0000000000a1", "00000000-0000-0000-0000-0000000000b2", "00000000-0000-0000-0000-0000000000c3", "00000000-0000-0000-0000-0000000000d4", "00000000-0000-0000-0000-0000000000e5", "00000000-0000-0000-0000-0000000000f6"},
	"text":        {"a", "A", "", "it's", `back\slash`, "tab\there", "line\nend", "é", `"quoted"`, "{1,2}"},
	"varchar(20)": {"a", "A", "b ", "it's", `\N`, "NULL", "7", "07", "é"},
	"char(6)":     {"a", "b", "ab", "'", " x", "A"},
}

func isNumber(typ string) bool { return typ == "int4" || typ == "int8" || typ == "numeric" }

// printed is a value as a column of that type prints it.
func printed(typ, v string) string {
	if n, ok := strings.CutPrefix(typ, "char("); ok {
		var width int
		fmt.Sscanf(n, "%d", &width)
		return v + strings.Repeat(" ", width-len(v))
	}
	return v
}

// same compares a value with a key of type typ, as people would.
func same(typ, value, key string) bool {
	switch {
	case isNumber(typ):
		a, ok1 := new(big.Rat).SetString(value)
		b, ok2 := new(big.Rat).SetString(key)
		return ok1 && ok2 && a.Cmp(b) == 0
	case typ == "uuid":
		return strings.EqualFold(value, key)
	case strings.HasPrefix(typ, "char("):
		return strings.TrimRight(value, " ") == strings.TrimRight(key, " ")
	}
	return value == key
}

func (t *Table) col(name string) *Column {
	for _, c := range t.cols {
		if c.name == name {
			return c
		}
	}
	return nil
}

// In says whether a row lies In a partition; every row lies In "".
func (t *Table) In(r *Row, part string) bool {
	switch part {
	case "":
		return true
	case t.Name + "_a":
		return *r.Values["part"] == "a"
	}
	return *r.Values["part"] != "a"
}

// --- drawing a world

// chance is true once in so many times.
func chance(t *rapid.T, label string, in int) bool {
	return rapid.SampledFrom([]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}[:in]).Draw(t, label) == in-1
}

// Draw draws a world without verbs; Decide gives it some.
func Draw(t *rapid.T) *World {
	w := &World{}
	for i := range rapid.SampledFrom([]int{2, 3, 4, 5, 6, 7}).Draw(t, "tables") {
		w.Tables = append(w.Tables, drawTable(t, i))
	}
	for _, from := range w.Tables {
		for k := range rapid.SampledFrom([]int{0, 1, 2, 2, 3}).Draw(t, "references") {
			w.drawReference(t, from, k)
		}
	}
	if len(w.Refs) == 0 {
		w.drawReference(t, w.Tables[1], 0)
	}
	w.drawRows(t)
	for _, s := range w.Tables {
		if s.Subject == "" {
			continue
		}
		for range rapid.SampledFrom([]int{0, 1, 2, 3}).Draw(t, "requests") {
			key := rapid.SampledFrom(pools[s.col("id").typ]).Draw(t, "request")
			if len(s.Rows) > 0 && !chance(t, "any key", 3) {
				key = *rapid.SampledFrom(s.Rows).Draw(t, "person").Values["id"]
			}
			w.Requests = append(w.Requests, Request{s.Subject, key})
		}
	}
	return w
}

func drawTable(t *rapid.T, i int) *Table {
	tab := &Table{Name: fmt.Sprintf("t%d", i), layout: "plain"}
	if i == 0 || i == 1 && chance(t, "second subject", 3) {
		tab.Subject = fmt.Sprintf("person%d", i)
	}
	tab.layout = rapid.SampledFrom([]string{"plain", "plain", "plain", "hash", "list", "nested"}).Draw(t, "layout")
	if tab.Subject != "" && tab.layout != "plain" {
		tab.layout = "hash"
	}
	types := []string{"int4", "int8", "uuid", "text", "varchar(20)", "numeric", "char(6)"}
	tab.cols = append(tab.cols, &Column{"id", rapid.SampledFrom(types).Draw(t, "key type"), true, nil})
	tab.key = []string{"id"}
	switch {
	case tab.layout == "list" || tab.layout == "nested":
		tab.cols = append(tab.cols, &Column{"part", "text", true, nil})
		tab.key = append(tab.key, "part")
	case tab.Subject == "" && chance(t, "composite", 4):
		tab.cols = append(tab.cols, &Column{"org", "int4", true, nil})
		tab.key = []string{"org", "id"}
	}
	if tab.layout == "plain" && chance(t, "alt", 3) {
		tab.alt = true
		tab.cols = append(tab.cols, &Column{"alt", "int4", false, nil})
	}
	tab.cols = append(tab.cols, &Column{"p0", "text", false, nil}, &Column{"p1", "text", false, nil})
	tab.always = rapid.SampledFrom([]string{"", "", "clear", "value"}).Draw(t, "always")
	tab.NoRows = tab.Subject == "" && chance(t, "no_rows", 10)
	return tab
}

// drawReference adds one reference of from, with its columns; a polymorphic one is two.
func (w *World) drawReference(t *rapid.T, from *Table, k int) {
	to := rapid.SampledFrom(w.Tables).Draw(t, "to")
	prefix := fmt.Sprintf("r%d", k)
	switch kind := rapid.SampledFrom([]string{"fk", "fk", "fk", "fk", "fk", "declared", "poly", "path"}).Draw(t, "kind"); kind {
	case "fk":
		if w.drawSharedColumn(t, from, to, prefix) {
			return
		}
		ref := &Ref{name: fmt.Sprintf("%s_%s_fk", from.Name, prefix), From: from, to: to, toCols: to.key, fk: true}
		if to.alt && chance(t, "to alt", 2) {
			ref.toCols = []string{"alt"}
		}
		if to != from && (to.layout == "list" || to.layout == "nested") { // PostgreSQL 15 refuses a key from a table to its own partition
			ref.toPart = rapid.SampledFrom([]string{"", "", to.Name + "_a", to.Name + "_b"}).Draw(t, "to partition")
		}
		if from.layout == "list" || from.layout == "nested" {
			ref.fromPart = rapid.SampledFrom([]string{"", "", from.Name + "_b"}).Draw(t, "from partition")
		}
		for i, c := range ref.toCols {
			typ := to.col(c).typ
			switch {
			case typ == "int4" && chance(t, "wider", 3):
				typ = "int8"
			case typ == "text" && chance(t, "varchar", 3):
				typ = "varchar(20)"
			case typ == "char(6)" && chance(t, "wider char", 3):
				typ = "char(9)"
			}
			name := fmt.Sprintf("%s%c", prefix, 'a'+i)
			from.cols = append(from.cols, &Column{name, typ, chance(t, "not null", 5), nil})
			ref.cols = append(ref.cols, name)
		}
		ref.action = rapid.SampledFrom([]string{"NO ACTION", "NO ACTION", "RESTRICT", "CASCADE", "CASCADE", "SET NULL", "SET NULL", "SET DEFAULT"}).Draw(t, "action")
		if len(ref.cols) > 1 {
			ref.full = chance(t, "match full", 4)
			if ref.action == "SET NULL" && chance(t, "set columns", 2) {
				ref.setCols = ref.cols[:1]
			}
		}
		w.Refs = append(w.Refs, ref)
	case "declared", "poly", "path":
		if len(to.key) != 1 {
			return
		}
		col := &Column{prefix + "a", to.col("id").typ, false, nil}
		ref := &Ref{From: from, to: to, cols: []string{col.name}, toCols: to.key}
		if (isNumber(col.typ) || col.typ == "uuid") && chance(t, "as text", 2) {
			col.typ = "text"
		}
		switch kind {
		case "poly":
			other := rapid.SampledFrom(w.Tables).Draw(t, "other")
			if len(other.key) != 1 || other == to || other.col("id").typ == "char(6)" || to.col("id").typ == "char(6)" {
				return
			}
			col.typ = "text"
			ref.kindCol, ref.kind = prefix+"k", to.Name
			from.cols = append(from.cols, &Column{prefix + "k", "text", false, nil})
			second := *ref
			second.to, second.toCols, second.kind = other, other.key, other.Name
			w.Refs = append(w.Refs, &second)
		case "path":
			if typ := to.col("id").typ; typ == "numeric" || typ == "char(6)" {
				return
			}
			col.typ = "jsonb"
			ref.path = rapid.SampledFrom([]string{"$.u", "$.l[*]"}).Draw(t, "path")
		}
		from.cols = append(from.cols, col)
		w.Refs = append(w.Refs, ref)
	}
}

// drawSharedColumn adds, sometimes, a foreign key on columns that have a purpose already: the table's own primary key, or
// those of another foreign key.
func (w *World) drawSharedColumn(t *rapid.T, from, to *Table, prefix string) bool {
	if from == to || len(to.key) != 1 || !chance(t, "shared columns", 3) {
		return false
	}
	ref := &Ref{name: fmt.Sprintf("%s_%s_fk", from.Name, prefix), From: from, to: to, toCols: to.key, fk: true}
	ref.action = rapid.SampledFrom([]string{"NO ACTION", "CASCADE", "SET NULL"}).Draw(t, "action")
	typ := to.col("id").typ
	if len(from.key) == 1 && from.col("id").typ == typ && chance(t, "own key", 2) {
		ref.cols = from.key
		if ref.action == "SET NULL" {
			ref.action = "CASCADE"
		}
		w.Refs = append(w.Refs, ref)
		return true
	}
	for _, other := range w.Refs {
		if other.fk && other.From == from && len(other.cols) == 1 && from.col(other.cols[0]).typ == typ && other.fromPart == "" && other.cols[0] != "id" {
			ref.cols = other.cols
			from.col(ref.cols[0]).notNull = false
			w.Refs = append(w.Refs, ref)
			return true
		}
	}
	return false
}

// has says whether a foreign key's target holds a row with this row's key.
func (ref *Ref) has(r *Row) bool {
	return slices.ContainsFunc(ref.to.Rows, func(target *Row) bool {
		to := target.Values[ref.toCols[0]]
		return to != nil && same(ref.to.col(ref.toCols[0]).typ, *r.Values[ref.cols[0]], *to)
	})
}

func (w *World) drawRows(t *rapid.T) {
	for _, tab := range w.Tables {
		seen := map[string]bool{}
		for range rapid.SampledFrom([]int{0, 2, 4, 6, 8, 10}).Draw(t, "rows") {
			r := &Row{Values: map[string]*string{}}
			id := ""
			for _, c := range tab.cols {
				switch {
				case c.name == "part":
					r.Values[c.name] = ptr(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "part"))
					id += "|" + *r.Values[c.name]
				case c.name == "id" || c.name == "org":
					r.Values[c.name] = ptr(printed(c.typ, rapid.SampledFrom(pools[c.typ]).Draw(t, c.name)))
					id += "|" + *r.Values[c.name]
				case c.name == "alt":
					v := rapid.SampledFrom(append([]string{""}, pools[c.typ]...)).Draw(t, "alt")
					if v != "" && !seen["alt"+v] {
						r.Values[c.name] = ptr(v)
					}
					seen["alt"+v] = true
				case c.name == "p0" || c.name == "p1":
					r.Values[c.name] = drawNull(t, []string{"x", "secret\ttext", `\N`, "", "multi\nline"})
				}
			}
			if !seen[id] {
				seen[id] = true
				tab.Rows = append(tab.Rows, r)
			}
		}
	}
	for changed := true; changed; { // rows whose own key has to be another table's
		changed = false
		for _, ref := range w.Refs {
			if ref.fk && ref.cols[0] == "id" {
				n := len(ref.From.Rows)
				ref.From.Rows = slices.DeleteFunc(ref.From.Rows, func(r *Row) bool { return !ref.has(r) })
				changed = changed || len(ref.From.Rows) < n
			}
		}
	}
	drawn := map[string]bool{}
	for _, ref := range w.Refs {
		id := ref.From.Name + " " + ref.cols[0]
		switch {
		case ref.cols[0] == "id":
		case ref.fk && drawn[id]:
			for _, r := range ref.From.Rows {
				if r.Values[ref.cols[0]] != nil && !ref.has(r) {
					r.Values[ref.cols[0]] = nil
				}
			}
		default:
			w.drawLinks(t, ref)
		}
		drawn[id] = true
	}
	for _, ref := range w.Refs {
		w.drawDefault(t, ref)
	}
}

// drawDefault gives the column of an ON DELETE SET DEFAULT key a default that leads to a row, sometimes.
func (w *World) drawDefault(t *rapid.T, ref *Ref) {
	col := ref.From.col(ref.cols[0])
	shared := 0
	for _, other := range w.Refs {
		if other.From == ref.From && slices.Equal(other.cols, ref.cols) {
			shared++
		}
	}
	if ref.action != "SET DEFAULT" || len(ref.cols) > 1 || shared > 1 || len(ref.to.Rows) == 0 || strings.HasPrefix(col.typ, "char(") || chance(t, "no default", 3) {
		return
	}
	col.def = rapid.SampledFrom(ref.to.Rows).Draw(t, "default").Values[ref.toCols[0]]
}

// DefaultGoes says whether a default leads to a row that is erased: then Lethe refuses to go on, as PostgreSQL does.
func (w *World) DefaultGoes() bool {
	return slices.ContainsFunc(w.Refs, func(ref *Ref) bool {
		def := ref.From.col(ref.cols[0]).def
		return def != nil && ref.Verb == "clear" && !ref.ruled && w.leads(ref, []string{*def}) >= 0
	})
}

// DefaultLost says whether a default leads to a row that is not there (any more): then Lethe takes no snapshot.
func (w *World) DefaultLost() bool {
	return slices.ContainsFunc(w.Refs, func(ref *Ref) bool {
		def := ref.From.col(ref.cols[0]).def
		return def != nil && ref.action == "SET DEFAULT" && len(ref.cols) == 1 && ref.Verb == "clear" && !ref.ruled &&
			!slices.ContainsFunc(ref.to.Rows, func(r *Row) bool {
				id := r.Values[ref.toCols[0]]
				return id != nil && *id == *def && ref.to.In(r, ref.toPart)
			})
	})
}

// drawLinks fills the columns of one reference.
func (w *World) drawLinks(t *rapid.T, ref *Ref) {
	var targets []*Row
	for _, r := range ref.to.Rows {
		if ref.to.In(r, ref.toPart) && r.Values[ref.toCols[0]] != nil {
			targets = append(targets, r)
		}
	}
	for i, c := range ref.cols {
		col := ref.From.col(c)
		if ref.fk && len(targets) == 0 {
			col.notNull = false
		}
		if i > 0 && ref.full {
			col.notNull = ref.From.col(ref.cols[0]).notNull
		}
	}
	idType := ref.to.col(ref.toCols[0]).typ
	for _, r := range ref.From.Rows {
		null := chance(t, "null", 5)
		switch {
		case ref.fk && !ref.From.In(r, ref.fromPart) && rapid.Bool().Draw(t, "outside"):
			// No constraint here: another key may stand in it, as text of the column's type.
			for i, c := range ref.cols {
				typ := ref.to.col(ref.toCols[i]).typ
				r.Values[c] = ptr(printed(ref.From.col(c).typ, rapid.SampledFrom(pools[typ]).Draw(t, "free")))
			}
		case ref.fk:
			if len(targets) == 0 {
				continue
			}
			target := rapid.SampledFrom(targets).Draw(t, "target")
			part := rapid.IntRange(0, len(ref.cols)*3).Draw(t, "part null") // index of a column left NULL
			for i, c := range ref.cols {
				col := ref.From.col(c)
				if !col.notNull && (null || part == i && !ref.full) {
					continue
				}
				v := *target.Values[ref.toCols[i]]
				if strings.HasPrefix(col.typ, "char(") {
					v = printed(col.typ, strings.TrimRight(v, " "))
				}
				if col.typ == "numeric" && rapid.Bool().Draw(t, "zeros") {
					if !strings.Contains(v, ".") {
						v += "."
					}
					v += "00"
				}
				r.Values[c] = ptr(v)
			}
			if ref.full {
				for _, c := range ref.cols {
					if r.Values[c] == nil {
						for _, c := range ref.cols {
							r.Values[c] = nil
						}
						break
					}
				}
			}
		case ref.kindCol != "" && r.Values[ref.kindCol] != nil:
			// drawn by the other half
		case null:
		default:
			v := rapid.SampledFrom(pools[idType]).Draw(t, "declared")
			col := ref.From.col(ref.cols[0])
			if col.typ == "text" && rapid.Bool().Draw(t, "odd spelling") {
				switch {
				case idType == "int4" || idType == "int8":
					v = strings.Replace("0"+v, "0-", "-0", 1)
				case idType == "uuid":
					v = strings.ToUpper(v)
				}
			}
			if ref.path != "" {
				v = drawDocument(t, ref, idType)
			}
			r.Values[ref.cols[0]] = ptr(printed(col.typ, v))
			if ref.kindCol != "" {
				r.Values[ref.kindCol] = drawNull(t, []string{ref.kind, ref.kind, "Other"})
				if r.Values[ref.kindCol] == nil {
					r.Values[ref.kindCol] = ptr("other")
				}
			}
		}
	}
}

// drawDocument is a JSON text as jsonb prints it.
func drawDocument(t *rapid.T, ref *Ref, idType string) string {
	n := 1
	if ref.path == "$.l[*]" {
		n = rapid.IntRange(0, 3).Draw(t, "elements")
	}
	var tokens []string
	for range n {
		tokens = append(tokens, token(rapid.SampledFrom(pools[idType]).Draw(t, "element"), isNumber(idType) && rapid.Bool().Draw(t, "number")))
	}
	return document(ref, tokens)
}

func token(v string, number bool) string {
	if number {
		return v
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\t", `\t`, "\n", `\n`).Replace(v) + `"`
}

func document(ref *Ref, tokens []string) string {
	if ref.path == "$.u" {
		return `{"u": ` + tokens[0] + `, "x": 1}`
	}
	return `{"l": [` + strings.Join(tokens, ", ") + `], "x": 1}`
}

// tokensOf takes a document apart again. No pool's value holds the separator.
func tokensOf(ref *Ref, doc string) []string {
	if ref.path == "$.u" {
		return []string{strings.TrimSuffix(strings.TrimPrefix(doc, `{"u": `), `, "x": 1}`)}
	}
	list := strings.TrimSuffix(strings.TrimPrefix(doc, `{"l": [`), `], "x": 1}`)
	if list == "" {
		return nil
	}
	return strings.Split(list, ", ")
}

func untoken(tok string) string {
	if !strings.HasPrefix(tok, `"`) {
		return tok
	}
	tok = tok[1 : len(tok)-1]
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\t`, "\t", `\n`, "\n").Replace(tok)
}

func ptr(s string) *string { return &s }

func drawNull(t *rapid.T, of []string) *string {
	if chance(t, "null", 4) {
		return nil
	}
	return ptr(rapid.SampledFrom(of).Draw(t, "value"))
}

// --- verbs and rules

// Decide gives verbs to the references that erasing comes to, as the rules will say them, and returns the rules. With
// careful unset it draws any verb; then Compile may refuse the result. With careful set every reference deletes.
func (w *World) Decide(t *rapid.T, careful bool) string {
	touched := map[*Table]bool{}
	for _, tab := range w.Tables {
		touched[tab] = tab.Subject != "" || tab.NoRows
		tab.redact, tab.gone = "", false
		if tab.Subject != "" {
			tab.gone = rapid.Bool().Draw(t, "gone")
		}
	}
	for _, ref := range w.Refs {
		ref.Verb, ref.ruled = "", false
	}
	rule := map[string]string{} // by columns, since that is how rules name references; "" leaves them to the schema
	for _, ref := range w.Refs {
		if _, drawn := rule[ref.columns()]; !drawn {
			rule[ref.columns()] = w.drawVerb(t, ref, careful)
		}
	}
	for changed := true; changed; {
		changed = false
		for _, ref := range w.Refs {
			verb := rule[ref.columns()]
			switch {
			case ref.Verb != "" || !touched[ref.to] || ref.From.NoRows:
				continue
			case verb != "":
				ref.Verb, ref.ruled = verb, true
			case ref.fk:
				ref.Verb = ref.bySchema()
			default:
				continue // a link into a table without rows needs no verb
			}
			if ref.Verb != "clear" && ref.Verb != "leave" {
				touched[ref.From] = true
			}
			changed = true
		}
	}

	var b strings.Builder
	b.WriteString("version: 1\ndataset: d\nsubjects:\n")
	for _, tab := range w.Tables {
		if tab.Subject != "" {
			fmt.Fprintf(&b, "  %s: {table: %s, key: id}\n", tab.Subject, tab.Name)
		}
	}
	b.WriteString(w.References())
	always := ""
	for _, tab := range w.Tables {
		switch {
		case tab.NoRows:
			always += fmt.Sprintf("  %s: no_rows\n", tab.Name)
		case tab.always == "clear":
			always += fmt.Sprintf("  %s.p1: clear\n", tab.Name)
		case tab.always == "value":
			always += fmt.Sprintf("  %s.p1: {value: everybody}\n", tab.Name)
		}
	}
	if always != "" {
		b.WriteString("always:\n" + always)
	}
	b.WriteString("erase:\n")
	for _, tab := range w.Tables {
		verbs := map[string][]string{}
		if tab.gone {
			verbs["delete"] = []string{"true"}
		}
		kept := tab.Subject != "" && !tab.gone
		for _, ref := range w.Refs {
			if ref.From != tab || ref.Verb == "" {
				continue
			}
			kept = kept || ref.Verb == "keep"
			cols := `"` + ref.cols[0] + `"`
			if len(ref.cols) > 1 {
				cols = `"(` + strings.Join(ref.cols, ", ") + `)"`
			}
			if ref.ruled && !slices.Contains(verbs[ref.Verb], cols) {
				verbs[ref.Verb] = append(verbs[ref.Verb], cols)
			}
		}
		var parts []string
		for _, verb := range []string{"delete", "keep", "clear", "leave"} {
			if len(verbs[verb]) > 0 {
				list := "[" + strings.Join(verbs[verb], ", ") + "]"
				parts = append(parts, verb+": "+list)
			}
		}
		if kept && !tab.gone {
			tab.redact = rapid.SampledFrom([]string{"clear", "value"}).Draw(t, "redact")
			parts = append(parts, "redact: {p0: "+map[string]string{"clear": "clear", "value": "{value: nobody}"}[tab.redact]+"}")
		}
		if len(verbs["keep"]) > 0 {
			parts = append(parts, "reason: the law")
		}
		if len(parts) > 0 {
			fmt.Fprintf(&b, "  %s: {%s}\n", tab.Name, strings.Join(parts, ", "))
		}
	}
	return b.String()
}

// columns names the reference's columns.
func (ref *Ref) columns() string { return ref.From.Name + " " + strings.Join(ref.cols, ",") }

// bySchema is the verb that a foreign key's action means.
func (ref *Ref) bySchema() string {
	return map[string]string{"CASCADE": "delete", "SET NULL": "clear", "SET DEFAULT": "clear"}[ref.action]
}

// drawVerb draws the verb that the rules give to ref's columns, or "" where they may leave it to the schema.
func (w *World) drawVerb(t *rapid.T, ref *Ref, careful bool) string {
	choices := []string{"delete", "delete", "clear", "clear", "keep", "leave"}
	nullable := !slices.ContainsFunc(ref.cols, func(c string) bool { return ref.From.col(c).notNull })
	if !nullable {
		choices = []string{"delete", "keep", "leave"}
	}
	free := true
	for _, other := range w.Refs {
		if other.columns() != ref.columns() {
			continue
		}
		verb := other.bySchema()
		possible := verb == "delete" || verb == "clear" && (nullable || other.From.col(other.cols[0]).def != nil)
		free = free && (other.fk && possible || !other.fk && other.to.NoRows)
	}
	switch {
	case careful:
		return "delete"
	case free && rapid.Bool().Draw(t, "by schema"):
		return ""
	}
	return rapid.SampledFrom(choices).Draw(t, "verb")
}

// References is the declared references, as rules write them.
func (w *World) References() string {
	byColumn := map[string][]string{}
	var order []string
	for _, ref := range w.Refs {
		if ref.fk {
			continue
		}
		target := "to: " + ref.to.Name + ".id"
		if ref.path != "" {
			target += ", path: '" + ref.path + "'"
		}
		if ref.kindCol != "" {
			target += fmt.Sprintf(", when: {%s: %s}", ref.kindCol, ref.kind)
		}
		id := ref.From.Name + "." + ref.cols[0]
		if byColumn[id] == nil {
			order = append(order, id)
		}
		byColumn[id] = append(byColumn[id], "{"+target+"}")
	}
	if len(order) == 0 {
		return ""
	}
	s := "references:\n"
	for _, id := range order {
		s += fmt.Sprintf("  %s: [%s]\n", id, strings.Join(byColumn[id], ", "))
	}
	return s
}

// --- SQL

// DDL is the world's schema, in two parts: its foreign keys come after the rows.
func (w *World) DDL() (tables, constraints string) {
	var b, c strings.Builder
	for _, t := range w.Tables {
		fmt.Fprintf(&b, "CREATE TABLE public.%s (", t.Name)
		for _, col := range t.cols {
			fmt.Fprintf(&b, "%s %s", col.name, col.typ)
			if col.def != nil {
				b.WriteString(" DEFAULT " + catalog.Literal(*col.def))
			}
			if col.notNull {
				b.WriteString(" NOT NULL")
			}
			if col.name == "alt" {
				b.WriteString(" UNIQUE")
			}
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "PRIMARY KEY (%s))", strings.Join(t.key, ", "))
		switch t.layout {
		case "hash":
			fmt.Fprintf(&b, " PARTITION BY HASH (id);\n")
			for i := range 2 {
				fmt.Fprintf(&b, "CREATE TABLE public.%s_h%d PARTITION OF public.%s FOR VALUES WITH (MODULUS 2, REMAINDER %d);\n", t.Name, i, t.Name, i)
			}
		case "list", "nested":
			fmt.Fprintf(&b, " PARTITION BY LIST (part);\nCREATE TABLE public.%s_a PARTITION OF public.%s FOR VALUES IN ('a')", t.Name, t.Name)
			if t.layout == "nested" {
				fmt.Fprintf(&b, " PARTITION BY HASH (id);\n")
				for i := range 2 {
					fmt.Fprintf(&b, "CREATE TABLE public.%s_a%d PARTITION OF public.%s_a FOR VALUES WITH (MODULUS 2, REMAINDER %d);\n", t.Name, i, t.Name, i)
				}
			} else {
				b.WriteString(";\n")
			}
			fmt.Fprintf(&b, "CREATE TABLE public.%s_b PARTITION OF public.%s DEFAULT;\n", t.Name, t.Name)
		default:
			b.WriteString(";\n")
		}
	}
	for _, ref := range w.Refs {
		if !ref.fk {
			continue
		}
		from, to := ref.From.Name, ref.to.Name
		if ref.fromPart != "" {
			from = ref.fromPart
		}
		if ref.toPart != "" {
			to = ref.toPart
		}
		fmt.Fprintf(&c, "ALTER TABLE public.%s ADD CONSTRAINT %s FOREIGN KEY (%s) REFERENCES public.%s (%s)",
			from, ref.name, strings.Join(ref.cols, ", "), to, strings.Join(ref.toCols, ", "))
		if ref.full {
			c.WriteString(" MATCH FULL")
		}
		c.WriteString(" ON DELETE " + ref.action)
		if ref.setCols != nil {
			c.WriteString(" (" + strings.Join(ref.setCols, ", ") + ")")
		}
		c.WriteString(";\n")
	}
	return b.String(), c.String()
}

// Inserts is the statements that make its rows.
func (w *World) Inserts() string {
	var b strings.Builder
	for _, t := range w.Tables {
		if len(t.Rows) == 0 {
			continue
		}
		fmt.Fprintf(&b, "INSERT INTO public.%s VALUES ", t.Name)
		for i, r := range t.Rows {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString("(")
			for j, c := range t.cols {
				if j > 0 {
					b.WriteString(", ")
				}
				if v := r.Values[c.name]; v == nil {
					b.WriteString("NULL")
				} else {
					b.WriteString("'" + strings.ReplaceAll(*v, "'", "''") + "'")
				}
			}
			b.WriteString(")")
		}
		b.WriteString(";\n")
	}
	return b.String()
}

// --- the model

// Reaches returns the lowest request by which a reference leads from a row to something erased, or -1; a table without
// rows Reaches everything, as request len(w.reqs).
func (w *World) Reaches(ref *Ref, r *Row) int {
	if ref.Verb == "" || !ref.From.In(r, ref.fromPart) {
		return -1
	}
	if ref.kindCol != "" && (r.Values[ref.kindCol] == nil || *r.Values[ref.kindCol] != ref.kind) {
		return -1
	}
	for _, c := range ref.cols {
		if r.Values[c] == nil {
			return -1
		}
	}
	if ref.path == "" {
		var values []string
		for _, c := range ref.cols {
			values = append(values, *r.Values[c])
		}
		return w.leads(ref, values)
	}
	best := -1
	for _, tok := range tokensOf(ref, *r.Values[ref.cols[0]]) {
		if n := w.leads(ref, []string{untoken(tok)}); n >= 0 && (best < 0 || n < best) {
			best = n
		}
	}
	return best
}

func (w *World) leads(ref *Ref, values []string) int {
	best := -1
	lower := func(n int) {
		if best < 0 || n < best {
			best = n
		}
	}
	if ref.to.NoRows {
		lower(len(w.Requests))
	}
	if len(ref.toCols) == 1 && ref.toCols[0] == "id" && ref.to.Subject != "" {
		for i, q := range w.Requests {
			if q.Subject == ref.to.Subject && same(ref.to.col("id").typ, values[0], q.Key) {
				lower(i)
			}
		}
	}
	for _, a := range w.adopted {
		if !ref.fk && ref.to == a.table && same(ref.to.col("id").typ, values[0], a.id) {
			lower(a.label)
		}
	}
	for _, target := range ref.to.Rows {
		if !target.Owned || !ref.to.In(target, ref.toPart) {
			continue
		}
		equal := true
		for i, c := range ref.toCols {
			equal = equal && target.Values[c] != nil && same(ref.to.col(c).typ, values[i], *target.Values[c])
		}
		if equal {
			lower(target.Label)
		}
	}
	return best
}

// Erase runs the model to its fixed point and returns what each table then holds, as sorted COPY text lines.
func (w *World) Erase() map[string][]string {
	for _, t := range w.Tables {
		for _, r := range t.Rows {
			r.Owned, r.Dead, r.Label = false, t.NoRows, len(w.Requests)
			for i, q := range w.Requests {
				if t.Subject == q.Subject && same(t.col("id").typ, *r.Values["id"], q.Key) {
					r.Owned, r.Label = true, min(r.Label, i)
					r.Dead = r.Dead || t.gone
				}
			}
		}
	}
	for changed := true; changed; {
		changed = false
		for _, ref := range w.Refs {
			if ref.Verb != "delete" && ref.Verb != "keep" || ref.From.NoRows {
				continue
			}
			for _, r := range ref.From.Rows {
				n := w.Reaches(ref, r)
				if n < 0 {
					continue
				}
				dead := r.Dead || ref.Verb == "delete"
				if !r.Owned || dead != r.Dead || n < r.Label {
					r.Owned, r.Dead, r.Label = true, dead, min(n, r.Label)
					changed = true
				}
			}
		}
	}

	result := map[string][]string{}
	for _, t := range w.Tables {
		lines := []string{}
		for _, r := range t.Rows {
			if !r.Dead {
				lines = append(lines, w.rewritten(t, r))
			}
		}
		sort.Strings(lines)
		result[t.Name] = lines
	}
	return result
}

// rewritten is what stays of a row that stays.
func (w *World) rewritten(t *Table, r *Row) string {
	vals := map[string]*string{}
	for k, v := range r.Values {
		vals[k] = v
	}
	for _, ref := range w.Refs {
		if ref.From != t || ref.Verb != "clear" || w.Reaches(ref, r) < 0 {
			continue
		}
		switch {
		case ref.path != "":
			var tokens []string
			for _, tok := range tokensOf(ref, *vals[ref.cols[0]]) {
				if w.leads(ref, []string{untoken(tok)}) >= 0 {
					tok = "null"
				}
				tokens = append(tokens, tok)
			}
			vals[ref.cols[0]] = ptr(document(ref, tokens))
		case ref.setCols != nil && !ref.ruled:
			for _, c := range ref.setCols {
				vals[c] = nil
			}
		default:
			for _, c := range ref.cols {
				vals[c] = nil
				if !ref.ruled {
					vals[c] = t.col(c).def
				}
			}
		}
	}
	rewrite := func(column, how, value string) {
		switch {
		case how == "clear":
			vals[column] = nil
		case how == "value" && vals[column] != nil:
			vals[column] = ptr(value)
		}
	}
	rewrite("p1", t.always, "everybody")
	if r.Owned {
		rewrite("p0", t.redact, "nobody")
	}
	var fields []string
	for _, c := range t.cols {
		if v := vals[c.name]; v == nil {
			fields = append(fields, `\N`)
		} else {
			fields = append(fields, strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`).Replace(*v))
		}
	}
	return strings.Join(fields, "\t")
}

// GoOn lets time pass: some rows go, and others lead elsewhere. The schema stays, and every foreign key holds.
func (w *World) GoOn(t *rapid.T) {
	for _, tab := range w.Tables {
		tab.Rows = slices.DeleteFunc(slices.Clone(tab.Rows), func(*Row) bool { return chance(t, "row goes", 6) })
		for i, r := range tab.Rows {
			later := *r
			later.Values = maps.Clone(r.Values)
			tab.Rows[i] = &later
		}
	}
	for _, ref := range w.Refs {
		shared := 0
		for _, other := range w.Refs {
			if other.From == ref.From && slices.ContainsFunc(other.cols, func(c string) bool { return slices.Contains(ref.cols, c) }) {
				shared++
			}
		}
		if !ref.fk || len(ref.cols) > 1 || ref.cols[0] == "id" || shared > 1 || len(ref.to.Rows) == 0 {
			continue
		}
		col := ref.From.col(ref.cols[0])
		for _, r := range ref.From.Rows {
			if v := rapid.SampledFrom(ref.to.Rows).Draw(t, "other target").Values[ref.toCols[0]]; v != nil && chance(t, "leads elsewhere", 5) {
				if strings.HasPrefix(col.typ, "char(") {
					v = ptr(printed(col.typ, strings.TrimRight(*v, " ")))
				}
				r.Values[col.name] = v
			}
		}
	}
	for changed := true; changed; {
		changed = false
		for _, ref := range w.Refs {
			if !ref.fk {
				continue
			}
			free := !slices.ContainsFunc(ref.cols, func(c string) bool { return ref.From.col(c).notNull })
			n := len(ref.From.Rows)
			ref.From.Rows = slices.DeleteFunc(ref.From.Rows, func(r *Row) bool {
				if !ref.dangles(r) {
					return false
				}
				for _, c := range ref.cols {
					if free {
						r.Values[c], changed = nil, true
					}
				}
				return !free
			})
			changed = changed || len(ref.From.Rows) < n
		}
	}
}

// dangles says whether a row's foreign key leads to no row.
func (ref *Ref) dangles(r *Row) bool {
	if !ref.From.In(r, ref.fromPart) || slices.ContainsFunc(ref.cols, func(c string) bool { return r.Values[c] == nil }) {
		return false
	}
	return !slices.ContainsFunc(ref.to.Rows, func(target *Row) bool {
		for i, c := range ref.toCols {
			if v := target.Values[c]; v == nil || !same(ref.to.col(c).typ, *r.Values[ref.cols[i]], *v) {
				return false
			}
		}
		return ref.to.In(target, ref.toPart)
	})
}

// Exists says whether a request's person has a row.
func (w *World) Exists(q Request) bool {
	for _, t := range w.Tables {
		for _, r := range t.Rows {
			if t.Subject == q.Subject && same(t.col("id").typ, *r.Values["id"], q.Key) {
				return true
			}
		}
	}
	return false
}

// LeaveToSchema makes every reference a foreign key that cascades or sets NULL, and returns rules that leave all to
// the schema. Keys that PostgreSQL would write NULL into where it must not are made to cascade.
func (w *World) LeaveToSchema() string {
	w.Refs = slices.DeleteFunc(w.Refs, func(r *Ref) bool { return !r.fk })
	for _, ref := range w.Refs {
		switch ref.action {
		case "NO ACTION", "RESTRICT":
			ref.action = "CASCADE"
		}
		if ref.setCols != nil {
			ref.full = false
		}
		for _, c := range ref.cols {
			if ref.From.col(c).notNull {
				ref.action, ref.setCols = "CASCADE", nil
			}
		}
	}
	// Where one column belongs to two foreign keys, PostgreSQL's outcome depends on which of its triggers runs first.
	for _, a := range w.Refs {
		for _, b := range w.Refs {
			if a != b && a.From == b.From && slices.Equal(a.cols, b.cols) {
				a.action, b.action = "CASCADE", "CASCADE"
			}
		}
	}
	text := "version: 1\ndataset: d\nsubjects:\n"
	erase := "erase:\n"
	for _, t := range w.Tables {
		t.NoRows, t.always = false, ""
		for _, c := range t.cols {
			c.def = nil // a default that leads to an erased row makes PostgreSQL refuse the DELETE
		}
		if t.Subject != "" {
			text += fmt.Sprintf("  %s: {table: %s, key: id}\n", t.Subject, t.Name)
			erase += fmt.Sprintf("  %s: {delete: true}\n", t.Name)
		}
	}
	return text + erase
}

// Rows is what the tables of a world hold at some time.
type Rows [][]*Row

// Take returns the rows that the tables hold. Put brings them back.
func (w *World) Take() (rows Rows) {
	for _, t := range w.Tables {
		list := []*Row{}
		for _, r := range t.Rows {
			list = append(list, &Row{Values: maps.Clone(r.Values)})
		}
		rows = append(rows, list)
	}
	return rows
}

// Put has the tables hold rows that Take gave.
func (w *World) Put(rows Rows) {
	for i, t := range w.Tables {
		t.Rows = rows[i]
	}
}

// EraseTogether is Erase for several snapshots that know of one another, of rows as a backup without requests stores
// them: where a row leads, by a declared reference, to a key that no row of its snapshot has, and another snapshot has
// erased a row with that key, it is reached too.
func (w *World) EraseTogether(snapshots []Rows) (left []map[string][]string) {
	stored := make([]map[*Row]bool, len(snapshots))
	requests := w.Requests
	w.Requests = nil
	for n, rows := range snapshots {
		stored[n] = map[*Row]bool{}
		w.Put(rows)
		w.Erase()
		for _, t := range w.Tables {
			for _, r := range t.Rows {
				stored[n][r] = !r.Dead
			}
		}
	}
	w.Requests = requests
	known := make([][]adopted, len(snapshots))
	defer func() { w.adopted = nil }()
	for changed := true; changed; {
		changed, left = false, nil
		var erased []adopted
		for n, rows := range snapshots {
			w.Put(rows)
			w.adopted = known[n]
			left = append(left, w.Erase())
			for _, t := range w.Tables {
				for _, r := range t.Rows {
					if r.Owned && stored[n][r] {
						erased = append(erased, adopted{t, *r.Values["id"], r.Label})
					}
				}
			}
		}
		for n, rows := range snapshots {
			w.Put(rows)
			for _, a := range erased {
				equal := func(v string) bool { return same(a.table.col("id").typ, v, a.id) }
				there := slices.ContainsFunc(a.table.Rows, func(r *Row) bool { return stored[n][r] && equal(*r.Values["id"]) })
				if !there && !slices.ContainsFunc(known[n], func(k adopted) bool { return k.table == a.table && equal(k.id) && k.label <= a.label }) {
					known[n] = append(known[n], a)
					changed = true
				}
			}
		}
	}
	return left
}
