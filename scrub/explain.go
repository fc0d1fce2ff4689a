package scrub

import (
	"fmt"
	"slices"
	"strings"

	"lethe/scrub/catalog"
)

// Explanation is what rules and schema do to the rows of one table, for people. Nothing in it comes from a row.
type Explanation struct {
	Table      string       `json:"table"`
	Partition  string       `json:"partition,omitempty"` // the one that was asked about: the rules of its root cover it
	Foreign    bool         `json:"foreign,omitempty"`   // its rows live on another server, and in no snapshot
	NoRows     string       `json:"no_rows,omitempty"`   // where the rule stands by which no rows are kept
	Always     []ColumnRule `json:"always"`              // what is done to every row
	Erasures   []Erasure    `json:"erasures"`            // by type of subject, those that come here
	Everybody  []Link       `json:"everybody"`           // references to tables of which no rows are kept: they count without any request
	References []Link       `json:"references"`          // what hangs on its rows
}

// ColumnRule is a strategy for a column.
type ColumnRule struct {
	Column   string `json:"column"`
	Strategy string `json:"strategy"` // as the rules write it
	Rule     string `json:"rule"`     // rules.yml:12
}

// Erasure is what erasing a person of one type does to a table.
type Erasure struct {
	Subject string       `json:"subject_type"`
	Own     string       `json:"own_row,omitempty"` // delete or keep: this is the table of these people
	OwnRule string       `json:"own_rule,omitempty"`
	Links   []Link       `json:"links"`            // by which rows are reached
	Redact  []ColumnRule `json:"redact"`           // in rows that stay as the person's
	Reason  string       `json:"reason,omitempty"` // why rows stay as the person's
}

// Link is a reference, with what it does to the row that it leads from.
type Link struct {
	Path string `json:"path"` // comments.post_id → posts.author → users
	Verb string `json:"verb"` // delete, keep, clear, set default or leave
	Does string `json:"does"` // the same in words
	Rule string `json:"rule"` // rules.yml:12, or the schema's foreign key
}

// Explain says what happens to the rows of a table.
func (p *Plan) Explain(name catalog.Name) (*Explanation, error) {
	t := p.Catalog.Tables[name]
	if t == nil {
		return nil, &NoTableError{name, nearTable(p.Catalog, name)}
	}
	root := t.Root()
	x := &Explanation{Table: root.Name.String(), Foreign: t.Kind == catalog.Foreign, Always: []ColumnRule{}, Erasures: []Erasure{}, Everybody: []Link{}, References: []Link{}}
	if t != root {
		x.Partition = t.Name.String()
	}
	if rule, ok := p.Rules.NoRows(root.Name.Schema, root.Name.Name); ok {
		x.NoRows = p.at(rule.Pos.Line)
		return x, nil // nothing else happens to rows that are not there
	}
	tp := p.Tables[root.Name]
	if tp != nil {
		x.Always = p.columnRules(tp.Always)
	}
	for _, e := range p.Edges {
		if e.From.Root() == root && p.keepsNone(e.To.Root()) {
			x.Everybody = append(x.Everybody, p.link(e, e.start()+" → "+e.To.Root().Name.String()))
		}
	}
	for _, s := range p.Rules.Subjects { // in the order of the file
		if erasure := p.explainErasure(p.Subjects[s.Type], root); erasure != nil {
			x.Erasures = append(x.Erasures, *erasure)
		}
	}
	for _, e := range p.all() {
		if e.To.Root() == root {
			x.References = append(x.References, p.link(e, e.start()))
		}
	}
	return x, nil
}

// explainErasure is nil where erasing the subject never comes to a table.
func (p *Plan) explainErasure(s *Subject, root *catalog.Table) *Erasure {
	x := &Erasure{Subject: s.Type, Links: []Link{}, Redact: []ColumnRule{}}
	keeps := false
	if s.Table == root {
		x.Own, keeps = s.verb().String(), !s.Delete
		x.OwnRule = p.eraseRule(root)
	}
	way := p.ways(s, func(*Edge) bool { return true })
	for _, e := range p.all() {
		if e.From.Root() != root {
			continue
		}
		if path, ok := way(e); ok {
			x.Links = append(x.Links, p.link(e, path))
			keeps = keeps || e.Verb == Keep
		}
	}
	if x.Own == "" && len(x.Links) == 0 {
		return nil
	}
	if tp := p.Tables[root.Name]; keeps && tp != nil {
		x.Redact, x.Reason = p.columnRules(tp.Redact), tp.Reason
	}
	return x
}

// all are the references that somebody has decided about: those that are followed, and those that are left alone.
func (p *Plan) all() []*Edge { return append(slices.Clone(p.Edges), p.Left...) }

func (p *Plan) link(e *Edge, path string) Link {
	rule := p.at(e.Pos.Line)
	if e.Pos.Line == 0 {
		rule = "foreign key " + catalog.QuoteIfNeeded(e.Origin)
		for _, fk := range e.From.References {
			if fk.Name == e.Origin {
				rule += map[catalog.Action]string{catalog.Cascade: " ON DELETE CASCADE", catalog.SetNull: " ON DELETE SET NULL", catalog.SetDefault: " ON DELETE SET DEFAULT"}[fk.OnDelete]
			}
		}
	}
	return Link{Path: path, Verb: e.Verb.String(), Does: e.does(), Rule: rule}
}

func (p *Plan) columnRules(list []Rewrite) []ColumnRule {
	rules := []ColumnRule{}
	for _, r := range list {
		rules = append(rules, ColumnRule{catalog.QuoteIfNeeded(r.Column), r.Strategy.String(), p.at(r.Strategy.Pos.Line)})
	}
	return rules
}

// at names a line of the rules.
func (p *Plan) at(line int) string { return fmt.Sprintf("%s:%d", p.Rules.Path, line) }

// eraseRule is where a table's entry of erase stands.
func (p *Plan) eraseRule(t *catalog.Table) string {
	for _, e := range p.Rules.Erase {
		if catalog.Name(e.Table) == t.Name {
			return p.at(e.Pos.Line)
		}
	}
	return ""
}

// NoTableError is a name that no table of the schema has.
type NoTableError struct {
	Name catalog.Name
	hint string
}

func (e *NoTableError) Error() string { return "the schema has no table " + e.Name.String() }

// Hint says what may have been meant.
func (e *NoTableError) Hint() string { return e.hint }

// nearTable is a hint at the table that a name is probably a slip for.
func nearTable(cat *catalog.Catalog, name catalog.Name) string {
	var names, elsewhere []string
	for _, t := range cat.Order {
		names = append(names, t.Name.String())
		if t.Name.Name == name.Name {
			elsewhere = append(elsewhere, t.Name.String())
		}
	}
	if near := closest(name.String(), names); near != "" {
		return "did you mean " + near + "?"
	}
	if len(elsewhere) > 0 {
		return "did you mean " + strings.Join(elsewhere, " or ") + "?"
	}
	return "check the spelling; views hold no rows of their own, name the tables under them"
}
