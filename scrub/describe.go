package scrub

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"lethe/rules"
	"lethe/scrub/catalog"
)

// Describe writes what happens to the rows of each table, and why, for people.
func (p *Plan) Describe(w io.Writer) {
	var b strings.Builder
	for _, t := range p.Catalog.Order {
		tp := p.Tables[t.Name]
		var edges []*Edge
		if tp != nil {
			edges = slices.Clone(tp.Out)
		}
		for _, e := range p.Left {
			if within(t, e.From) {
				edges = append(edges, e)
			}
		}
		if t.Parent != nil { // the others stand with its root
			edges = slices.DeleteFunc(edges, func(e *Edge) bool { return e.From != t })
		}
		if len(edges) == 0 && (tp == nil || t.Parent != nil) {
			continue
		}
		fmt.Fprintf(&b, "%s\n", t.Name)
		if tp != nil && t.Parent == nil {
			tp.describeRoot(&b)
		}
		for _, e := range edges {
			e.describe(&b)
		}
	}
	fmt.Fprint(w, b.String())
}

func (tp *TablePlan) describeRoot(b *strings.Builder) {
	if tp.NoRows {
		fmt.Fprint(b, "  every row: left out, structure only\n")
	}
	for _, r := range tp.Always {
		fmt.Fprintf(b, "  every row: %s: %s\n", catalog.QuoteIfNeeded(r.Column), r.Strategy.Name)
	}
	if s := tp.Subject; s != nil && s.Delete {
		fmt.Fprintf(b, "  the row of an erased %s: goes\n", s.Type)
	} else if s != nil {
		fmt.Fprintf(b, "  the row of an erased %s: stays, as nobody\n", s.Type)
	}
	for _, r := range tp.Redact {
		fmt.Fprintf(b, "  an erased person's row that stays: %s: %s\n", catalog.QuoteIfNeeded(r.Column), r.Strategy.Name)
	}
	if tp.Reason != "" {
		fmt.Fprintf(b, "  kept because: %s\n", tp.Reason)
	}
}

func (e *Edge) describe(b *strings.Builder) {
	why := "the schema: " + e.Origin
	if e.Pos.Line > 0 {
		why = fmt.Sprintf("line %d", e.Pos.Line)
	}
	if e.Verb == Leave {
		fmt.Fprintf(b, "  not reached through %s to %s%s: left as it is (%s)\n",
			rules.Columns{Names: e.Columns}, e.To.Name, conditionsOf(e.When), why)
		return
	}
	fmt.Fprintf(b, "  reached through %s to %s%s: %s (%s)\n", rules.Columns{Names: e.Columns}, e.To.Name, conditionsOf(e.When), e.does(), why)
}

// does says what a reference does to the row that it leads from, where it leads to something erased.
func (e *Edge) does() string {
	switch e.Verb {
	case Leave:
		return "left as it is"
	case Clear:
		if e.Path != "" {
			return "null at " + e.Path
		}
		return "NULL in " + strings.Join(quoteAll(e.Cut), ", ")
	case SetDefault:
		return "the default in " + strings.Join(quoteAll(e.Cut), ", ")
	case Keep:
		return "the row stays, and is theirs"
	}
	return "the row goes"
}

func conditionsOf(when []rules.Equal) string {
	var parts []string
	for _, q := range when {
		parts = append(parts, catalog.QuoteIfNeeded(q.Column)+" = "+catalog.Literal(q.Value))
	}
	if len(parts) == 0 {
		return ""
	}
	return " where " + strings.Join(parts, " and ")
}

func quoteAll(names []string) []string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = catalog.QuoteIfNeeded(n)
	}
	return quoted
}

// Drift lists, for people, the tables and columns that are new since a previous snapshot and that no rule names. The map
// holds that snapshot's columns by table. A table is named by any rule on it, a column by a rule on it or on its whole
// table (no_rows), or by being part of a reference with a verb.
func (p *Plan) Drift(previous map[catalog.Name][]string) []string {
	var drift []string
	for _, t := range p.Catalog.Order {
		if t.Parent != nil || t.Kind == catalog.Foreign {
			continue
		}
		before, known := previous[t.Name]
		if !known {
			for _, part := range family(t) { // a manifest may list the partitions in place of a root without rows
				if columns, ok := previous[part.Name]; ok {
					before, known = columns, true
				}
			}
		}
		tp := p.Tables[t.Name]
		left := func(column string) bool { // "" is any
			return slices.ContainsFunc(p.Left, func(e *Edge) bool {
				return e.From.Root() == t && (column == "" || slices.Contains(e.Columns, column)) || e.To.Root() == t && slices.Contains(e.ToColumns, column)
			})
		}
		if !known && tp == nil && !left("") {
			drift = append(drift, "table "+t.Name.String()+" is new, and no rule names it")
			continue
		}
		for _, col := range t.Columns {
			if !slices.Contains(before, col.Name) && known && col.Generated == "" && !tp.names(col.Name) && !left(col.Name) {
				drift = append(drift, "column "+columnOf{t, col.Name}.String()+" is new, and no rule names it")
			}
		}
	}
	return drift
}

// names says whether a rule speaks of a column.
func (tp *TablePlan) names(column string) bool {
	if tp == nil {
		return false
	}
	if tp.NoRows || tp.Subject != nil && (tp.Subject.Key == column || slices.Contains(tp.Subject.Lookup, column)) {
		return true
	}
	rewrites := func(r Rewrite) bool { return r.Column == column }
	return slices.ContainsFunc(tp.Always, rewrites) || slices.ContainsFunc(tp.Redact, rewrites) ||
		slices.ContainsFunc(tp.Out, func(e *Edge) bool { return slices.Contains(e.Columns, column) }) ||
		slices.ContainsFunc(tp.In, func(e *Edge) bool { return slices.Contains(e.ToColumns, column) })
}

// ServerEdges lists the references whose keys only a live server can compare: a dump file or a stored snapshot can't
// follow them, and its flow refuses them by these names.
func (p *Plan) ServerEdges() []string {
	var names []string
	for _, e := range p.Edges {
		if byServer(e) {
			names = append(names, fmt.Sprintf("%s of %s (to %s)", rules.Columns{Names: e.Columns}, e.From.Name, e.To.Name))
		}
	}
	for _, s := range p.Subjects {
		if s.Family == Server {
			names = append(names, fmt.Sprintf("the key %s of %s", catalog.QuoteIfNeeded(s.Key), s.Table.Name))
		}
	}
	slices.Sort(names)
	return names
}
