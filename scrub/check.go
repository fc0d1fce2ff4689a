package scrub

import (
	"fmt"
	"slices"
	"strings"

	"lethe/rules"
	"lethe/scrub/catalog"
	"lethe/scrub/mask"
)

// effect is what a rule does to the values of a column, as constraints see it.
type effect int

const (
	toNull    effect = iota
	injective        // different values stay different; NULL stays NULL
	toConst          // one text for all; NULL stays NULL unless the rule says otherwise
	rewritten        // anything; NULL stays NULL
)

// change is a column under a rule.
type change struct {
	at       columnOf
	effect   effect
	value    string // toConst
	evenNull bool   // toConst
}

// uniqueBits is how many bits of keyed hash keep a column unique for certain: a collision among a billion values is
// then less likely than one in 10^20.
const uniqueBits = 128

func (c *compiler) changeOf(at columnOf, col *catalog.Column, s rules.Strategy) change {
	ch := change{at: at, effect: rewritten}
	switch s.Name {
	case "clear":
		ch.effect = toNull
	case "value":
		ch.effect, ch.value, ch.evenNull = toConst, s.Value, s.EvenNull
	case "unique_email":
		ch.effect = injective
	case "hmac":
		if cl := c.classOf(col); !cl.array && (cl.kind == "uuid" || mask.HMACLen(mask.HexText, c.hmacLength(cl, s))*4 >= uniqueBits) {
			ch.effect = injective
		}
	}
	return ch
}

// hmacLength is the number of digits that fit a column, where the rule leaves it open.
func (c *compiler) hmacLength(cl class, s rules.Strategy) int {
	if s.Length == 0 && cl.length > 0 && cl.length < mask.HMACLen(mask.HexText, 0) {
		return cl.length
	}
	return s.Length
}

// problemsOf is everything that stands against a strategy on a column, apart from references and keys to it.
func (c *compiler) problemsOf(at columnOf, col *catalog.Column, s rules.Strategy) (problems []problem, probe string) {
	if col.Generated != "" {
		return []problem{{"it is generated from other columns, and no snapshot holds it", "rule its source columns: " + col.Generated}}, ""
	}
	if col.Identity && s.Name != "hmac" && s.Name != "clear" {
		return []problem{{"it is an identity column", "leave it, it is a number that the database made"}}, ""
	}
	p, probe := c.strategyProblem(col, s)
	if p != nil {
		return []problem{*p}, ""
	}
	return c.constraintProblems(c.changeOf(at, col, s)), probe
}

// constraintProblems is which constraints of a table, its partitions and its types a change may break. Constraints that
// checks_hold vouches for are left out.
func (c *compiler) constraintProblems(ch change) (problems []problem) {
	seen := map[string]bool{}
	add := func(msg, hint string) {
		if !seen[msg] {
			seen[msg] = true
			problems = append(problems, problem{msg, hint})
		}
	}
	for _, t := range family(ch.at.table) {
		if slices.Contains(t.PartitionKey, ch.at.column) {
			add("it is part of the partition key: rows would have to move to other partitions", "leave the column, or no_rows for the whole table")
		}
		if col := t.Column(ch.at.column); ch.effect == toNull && t != ch.at.table && col != nil && c.notNull(col) {
			add("it is NOT NULL in the partition "+t.Name.String(), "use value, or another strategy of its type")
		}
		for _, key := range t.Keys {
			if p := c.keyProblem(t, key, ch); p != nil && !c.vouched(t.Name, key.Name) {
				add(p.msg, p.hint)
			}
		}
		for _, check := range t.Checks {
			if slices.Contains(check.Columns, ch.at.column) && !c.vouched(t.Name, check.Name) {
				if p := c.checkProblem(t, check, ch); p != nil {
					add(p.msg, p.hint)
				}
			}
		}
		for _, p := range c.generatedProblems(t, ch) {
			add(p.msg, p.hint)
		}
	}
	if col := ch.at.table.Column(ch.at.column); col != nil {
		for _, p := range c.domainProblems(col, ch) {
			add(p.msg, p.hint)
		}
	}
	return problems
}

// family is a table with all its partitions, at every level.
func family(t *catalog.Table) []*catalog.Table {
	all := []*catalog.Table{t}
	for _, p := range t.Partitions {
		all = append(all, family(p)...)
	}
	return all
}

// keyProblem is how a change breaks one unique or exclusion constraint, or nil.
func (c *compiler) keyProblem(t *catalog.Table, key *catalog.Key, ch change) *problem {
	name := catalog.QuoteIfNeeded(key.Name)
	member := slices.Contains(key.Columns, ch.at.column)
	switch {
	case key.Predicate != nil && slices.Contains(key.PredicateColumns, ch.at.column) && c.canEnter(key, ch):
		return &problem{fmt.Sprintf("the partial index %s decides by it which rows must be unique: rows may enter the index", name),
			"take another strategy, or vouch for it: checks_hold: [" + yamlText(vouchName(t.Name, key.Name)) + "]"}
	case slices.Contains(key.ExpressionColumns, ch.at.column):
		if !key.Exclusion && c.expressionsHold(key, ch) {
			return nil
		}
		return &problem{fmt.Sprintf("the expression index %s must stay unique", name),
			"vouch for it if its expression stays unique: checks_hold: [" + yamlText(vouchName(t.Name, key.Name)) + "]"}
	case !member:
		return nil
	case ch.effect == toNull && key.NullsNotDistinct:
		return &problem{fmt.Sprintf("%s is UNIQUE NULLS NOT DISTINCT: only one row may be NULL", name), "use unique_email, or hmac under always"}
	case ch.effect == toNull:
		return nil // NULLs are distinct in unique keys, and conflict in no exclusion constraint
	case key.Exclusion:
		return &problem{fmt.Sprintf("the EXCLUDE constraint %s compares it", name), "use clear, which conflicts with nothing"}
	case ch.effect == injective:
		return nil
	}
	kind := "UNIQUE"
	if key.Primary {
		kind = "the primary key"
	}
	return &problem{fmt.Sprintf("it would not stay unique: %s is %s", name, kind),
		"use unique_email, clear where NULL is allowed, or under always hmac of at least 32 digits"}
}

func vouchName(t catalog.Name, constraint string) string {
	return rules.Name(t).String() + "." + catalog.QuoteIfNeeded(constraint)
}

// cutProblems is what stands against writing NULL into columns of a reference.
func (c *compiler) cutProblems(r *reference, cut []string) (problems []problem) {
	t := r.from.Root()
	for _, name := range cut {
		col := t.Column(name)
		at := columnOf{t, name}
		if col == nil {
			continue
		}
		if col.Generated != "" {
			problems = append(problems, problem{at.String() + " is a generated column", "use delete, keep or leave"})
			continue
		}
		ch := change{at: at, effect: toNull}
		if r.path != "" { // null is written inside the JSON
			ch.effect = rewritten
		} else if c.notNull(col) {
			problems = append(problems, problem{at.String() + " is NOT NULL", "use delete, keep or leave"})
			continue
		}
		for _, p := range c.constraintProblems(ch) {
			problems = append(problems, cutProblem(cut, at, p, "use delete, keep or leave"))
		}
		if in := c.referencesTo(at); len(in) > 0 {
			problems = append(problems, problem{fmt.Sprintf("%s is referenced by %s", at, in[0].from.Name), "use delete, keep or leave"})
		}
	}
	if r.path != "" {
		return problems
	}
	return append(problems, c.matchFull(t, cut)...)
}

// cutProblem is a constraint's problem with one of the columns that a verb cuts: the verb is what to change, unless one
// can vouch for the constraint.
func cutProblem(cut []string, at columnOf, p problem, help string) problem {
	if len(cut) > 1 {
		p.msg = "of " + at.String() + ": " + p.msg
	}
	if !strings.Contains(p.hint, "checks_hold") {
		p.hint = help
	}
	return p
}

// matchFull finds MATCH FULL keys of which only a part would become NULL.
func (c *compiler) matchFull(t *catalog.Table, cut []string) (problems []problem) {
	for _, r := range c.refs {
		if r.fk != nil && r.fk.Match == catalog.MatchFull && len(r.columns) > 1 && r.from.Root() == t &&
			overlap(r.columns, cut) && !subset(r.columns, cut) {
			problems = append(problems, problem{
				fmt.Sprintf("%s is MATCH FULL: all of %s are NULL together or none", catalog.QuoteIfNeeded(r.fk.Name), strings.Join(r.columns, ", ")),
				"clear all of them"})
		}
	}
	return problems
}

// referencesTo lists the references that lead to a column. References among partitions count for their roots.
func (c *compiler) referencesTo(at columnOf) (in []*reference) {
	for _, r := range c.refs {
		if r.to.Root() == at.table && slices.Contains(r.toColumns, at.column) {
			in = append(in, r)
		}
	}
	return in
}

// referencesFrom lists the references that a column is part of.
func (c *compiler) referencesFrom(at columnOf) (out []*reference) {
	for _, r := range c.refs {
		if r.from.Root() == at.table && slices.Contains(r.columns, at.column) {
			out = append(out, r)
		}
	}
	return out
}

// checkErase checks the verbs and the redact rules, once it is known what erasing reaches.
func (c *compiler) checkErase() {
	for _, r := range c.refs {
		if edge := c.verbs[r]; edge != nil && !c.suggested[r] {
			c.checkEdge(r, edge)
		}
	}
	var pos rules.Pos
	var bare []string // tables kept without a reason
	for i := range c.file.Erase {
		e := c.entries[c.cat.Tables[catalog.Name(c.file.Erase[i].Table)]]
		if e != nil && e.Erase == &c.file.Erase[i] {
			c.checkRedact(e)
			if len(e.Keep) > 0 && e.Reason == "" {
				if len(bare) == 0 {
					pos = e.Pos
				}
				bare = append(bare, e.table.Name.String())
			}
		}
	}
	if len(bare) > 0 {
		c.warn(pos, "rows are kept without a reason, so the certificate will have none to show: %s", strings.Join(bare, ", "))
	}
}

// place is where a verb's error belongs: its rule, else the entry of its table, else the subjects.
func (c *compiler) place(edge *Edge) rules.Pos {
	if edge.Pos.Line > 0 {
		return edge.Pos
	}
	if e := c.entries[edge.From.Root()]; e != nil {
		return e.Pos
	}
	if rule := c.noRows[edge.To.Root()]; rule != nil {
		return rule.Pos
	}
	if len(c.file.Subjects) > 0 {
		return c.file.Subjects[0].Pos
	}
	return rules.Pos{}
}

func (c *compiler) checkEdge(r *reference, edge *Edge) {
	t, pos := r.from.Root(), c.place(edge)
	if edge.Verb == Leave {
		if to := r.to.Root(); c.deletable[to] {
			c.fail(pos, "delete or clear here, or let the rows of "+to.Name.String()+" stay",
				"rows of %s are left as they are though the row of %s that they lead to through %s can go", t.Name, to.Name, rules.Columns{Names: r.columns})
		}
		return
	}
	for _, end := range []struct {
		table   *catalog.Table
		columns []string
	}{{r.from, r.columns}, {r.to, r.toColumns}} {
		for _, name := range end.columns {
			if col := end.table.Column(name); col != nil && col.Generated != "" {
				c.fail(pos, "erasing needs the columns it is made of: let the foreign key use them, or keep the table out with no_rows",
					"the reference %s of %s is on the generated column %s, which no snapshot holds", r, t.Name, catalog.QuoteIfNeeded(name))
				return
			}
		}
	}
	switch edge.Verb {
	case Keep:
		if c.deletable[r.to.Root()] {
			c.fail(pos, "delete or clear here, or let the rows of "+r.to.Root().Name.String()+" stay",
				"rows of %s are kept though the row of %s that they lead to through %s can go", t.Name, r.to.Root().Name, rules.Columns{Names: r.columns})
		}
	case Clear, SetDefault:
		c.checkCut(r, edge, pos)
	}
}

func (c *compiler) checkCut(r *reference, edge *Edge, pos rules.Pos) {
	t := r.from.Root()
	what := "clear"
	var problems []problem
	switch {
	case edge.Verb == Clear && edge.Pos.Line == 0:
		what, problems = "ON DELETE "+deleteAction(r), c.cutProblems(r, edge.Cut)
	case edge.Verb == Clear:
		problems = c.cutProblems(r, edge.Cut)
	default:
		what, problems = "ON DELETE SET DEFAULT", c.defaultProblems(edge)
	}
	for _, p := range problems {
		c.fail(pos, p.hint, "%s can't cut %s of %s: %s", what, rules.Columns{Names: edge.Cut}, t.Name, p.msg)
	}
	if e := c.entries[t]; e != nil {
		for _, redact := range e.Redact {
			same := redact.Strategy.Name == "clear" && edge.Verb == Clear && r.path == "" // NULL, in their own row and in those that lead to it
			if slices.Contains(edge.Cut, redact.Column) && !same {
				c.fail(redact.Pos, "keep one of the two", "%s is both redacted and cut", columnOf{t, redact.Column})
			}
		}
	}
	for _, other := range c.refs {
		o := c.verbs[other]
		if o == nil || o.Verb != Keep && o.Verb != Leave || other.from.Root() != t || !overlap(other.columns, edge.Cut) || other == r {
			continue
		}
		c.fail(pos, "give both references the same verb", "%s of %s is cut, and is part of %s, which is %s",
			rules.Columns{Names: edge.Cut}, t.Name, other, map[Verb]string{Keep: "kept", Leave: "left as it is"}[o.Verb])
	}
}

// deleteAction is the ON DELETE that has a reference cut.
func deleteAction(r *reference) string {
	if r.fk != nil && r.fk.OnDelete == catalog.SetDefault {
		return "SET DEFAULT"
	}
	return "SET NULL"
}

// defaultProblems is what stands against ON DELETE SET DEFAULT; decideDefault has worked the values out.
func (c *compiler) defaultProblems(edge *Edge) (problems []problem) {
	t := edge.From.Root()
	var nulls []string
	for i, name := range edge.Cut {
		at := columnOf{t, name}
		ch := change{at: at, effect: toNull}
		if edge.CutTo[i] == nil {
			nulls = append(nulls, name)
		}
		if edge.CutTo[i] != nil {
			ch = change{at: at, effect: toConst, value: *edge.CutTo[i], evenNull: true}
		} else if c.notNull(t.Column(name)) {
			problems = append(problems, problem{at.String() + " is NOT NULL and has no default", "give the reference a verb"})
		}
		for _, p := range c.constraintProblems(ch) {
			problems = append(problems, cutProblem(edge.Cut, at, p, "give the reference a verb"))
		}
		if len(c.referencesTo(at)) > 0 {
			problems = append(problems, problem{at.String() + " is referenced by others", "give the reference a verb"})
		}
	}
	return append(problems, c.matchFull(t, nulls)...)
}

// checkRedact checks the redact rules of one table.
func (c *compiler) checkRedact(e *entry) {
	t := e.table
	if len(e.Redact) == 0 {
		return
	}
	if !c.kept[t] && !e.Subject && !c.stored {
		c.fail(e.Redact[0].Pos, "keep a reference of it, or take redact out", "redact on %s does nothing: no row of it is ever kept for an erased person", t.Name)
		return
	}
	for _, redact := range e.Redact {
		col := c.column(t, redact.Column, redact.Pos)
		if col == nil {
			continue
		}
		at := columnOf{t, redact.Column}
		problems := c.redactProblems(at, col, redact.Strategy)
		for _, p := range problems {
			c.fail(redact.Pos, p.hint, "%s can't redact %s: %s", redact.Strategy.Name, at, p.msg)
		}
		if len(problems) == 0 {
			_, probe := c.strategyProblem(col, redact.Strategy)
			c.probe(probe, redact.Pos, at, redact.Strategy)
		}
	}
}

// checkRequests finds requests whose key can't be one, as far as that needs no server. The key itself stays unsaid.
func (c *compiler) checkRequests() {
	for i, r := range c.file.Requests {
		s := c.plan.Subjects[r.Subject]
		if s == nil {
			continue
		}
		if _, err := CanonicalKey(c.cat, s.Table.Column(s.Key), s.Family, r.Key); err != nil {
			c.fail(r.Pos, "write what "+columnOf{s.Table, s.Key}.String()+" holds for this person", "request %s for a %s: %v",
				Request{Ref: r.Ref}.name(i), s.Type, err)
		}
	}
}

func (c *compiler) probe(sql string, pos rules.Pos, at columnOf, s rules.Strategy) {
	if sql != "" {
		c.plan.Probes = append(c.plan.Probes, Probe{SQL: sql, Pos: pos,
			Msg:  fmt.Sprintf("%s for %s writes no value of its type", s.Name, at),
			Hint: "write a value that a column of type " + typeName(at.table.Column(at.column).Type) + " can hold"})
	}
}

// redactProblems is what stands against a redact rule.
func (c *compiler) redactProblems(at columnOf, col *catalog.Column, s rules.Strategy) (problems []problem) {
	if s.Name == "hmac" {
		return []problem{{"hmac is a pseudonym, not an erasure: whoever holds the key can confirm a guess", "use clear, value or unique_email"}}
	}
	if subject := c.subjects[at.table]; subject != nil && subject.Key == at.column {
		return []problem{{"it is the key by which a " + subject.Type + " is known, and what references lead to", "leave it: it says nothing once the row does"}}
	}
	for _, r := range c.referencesTo(at) {
		if edge := c.verbs[r]; edge == nil || edge.Verb == Keep || edge.Verb == Leave {
			problems = append(problems, problem{fmt.Sprintf("%s references it through %s", r.from.Name, rules.Columns{Names: r.columns}),
				"delete or clear that reference, or leave the column"})
		}
	}
	var cleared []string
	if e := c.entries[at.table]; e != nil {
		for _, other := range e.Redact {
			if other.Strategy.Name == "clear" {
				cleared = append(cleared, other.Column)
			}
		}
	}
	for _, r := range c.referencesFrom(at) {
		edge := c.verbs[r]
		switch {
		case edge != nil && edge.Verb == Keep && r.path == "":
			problems = append(problems, problem{fmt.Sprintf("it is part of the reference %s, which is kept", r), "use the verb clear for the reference"})
		case s.Name != "clear" && !(r.path != "" && s.Name == "json"):
			problems = append(problems, problem{fmt.Sprintf("it is part of the reference %s: only clear leaves that valid", r), "use clear"})
		}
	}
	if s.Name == "clear" {
		problems = append(problems, c.matchFull(at.table, append(cleared, at.column))...)
	}
	more, _ := c.problemsOf(at, col, s)
	return append(problems, more...)
}

// proposeRedact is redact rules for a subject's own table that pass every check, to paste: for text, and for what else
// tells of a person. Numbers, times, booleans and enums mostly don't; staysOf names them.
func (c *compiler) proposeRedact(t *catalog.Table) (lines []string) {
	for _, col := range t.Columns {
		if text, ok := c.redactFor(t, col); ok {
			lines = append(lines, yamlText(rules.Columns{Names: []string{col.Name}}.String())+": "+text)
		}
	}
	return lines
}

// staysOf names, for a hint, the columns of a subject's table that the proposed redact does not touch.
func (c *compiler) staysOf(t *catalog.Table) string {
	subject := c.subjects[t]
	var names []string
	for _, col := range t.Columns {
		if _, ok := c.redactFor(t, col); !ok && col.Name != subject.Key && col.Generated == "" && !c.hasVerb(columnOf{t, col.Name}) {
			names = append(names, catalog.QuoteIfNeeded(col.Name))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "; these columns would stay as they are: " + strings.Join(names, ", ")
}

// hasVerb says whether a column is part of a reference about which verbs decide.
func (c *compiler) hasVerb(at columnOf) bool {
	return slices.ContainsFunc(c.referencesFrom(at), func(r *reference) bool { return c.subjects[r.to.Root()] != nil || c.verbs[r] != nil })
}

// redactFor is the strategy that proposeRedact gives one column.
func (c *compiler) redactFor(t *catalog.Table, col *catalog.Column) (text string, ok bool) {
	cl, at := c.classOf(col), columnOf{t, col.Name}
	if col.Name == c.subjects[t].Key || c.hasVerb(at) {
		return "", false
	}
	candidates := []rules.Strategy{{Name: "clear"}}
	switch cl.kind {
	case "bool", "int2", "int4", "int8", "oid", "lo", "numeric", "money", "uuid", "enum", "timestamp", "timestamptz", "time", "timetz", "interval":
		return "", false
	}
	if cl.textual() {
		candidates = []rules.Strategy{{Name: "clear"}, {Name: "value", Value: "erased"}, {Name: "unique_email"}}
		if strings.Contains(strings.ToLower(col.Name), "mail") {
			candidates = []rules.Strategy{{Name: "unique_email"}, {Name: "clear"}}
		}
	}
	for _, s := range candidates {
		if cl.array && s.Name == "value" || len(c.redactProblems(at, col, s)) > 0 {
			continue
		}
		if s.Name == "value" {
			return "{value: " + s.Value + "}", true
		}
		return s.Name, true
	}
	return "", false
}
