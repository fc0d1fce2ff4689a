package scrub

import (
	"cmp"
	"fmt"
	"slices"

	"lethe/rules"
	"lethe/scrub/catalog"
	"lethe/scrub/mask"
)

// readAlways finds the rule of every column and table. A name that matches nothing is an error: a rule that does nothing
// in silence protects nobody.
func (c *compiler) readAlways() {
	for i := range c.file.Always {
		rule := &c.file.Always[i]
		if rule.Glob {
			if !c.stored && !c.matchesAny(rule) {
				c.fail(rule.Pos, "check the pattern, or take the rule out", "%s matches nothing in the schema", rule)
			}
			continue
		}
		t := c.table(rules.Name{Schema: rule.Schema, Name: rule.Table}, rule.Pos)
		if t != nil && rule.Column != "" {
			c.column(t, rule.Column, rule.Pos)
		}
	}
	for _, t := range c.cat.Order {
		if t.Parent != nil || t.Kind == catalog.Foreign {
			continue
		}
		if rule, ok := c.file.NoRows(t.Name.Schema, t.Name.Name); ok {
			c.noRows[t] = rule
		}
		for _, col := range t.Columns {
			first, second, ok := c.file.Ambiguous(t.Name.Schema, t.Name.Name, col.Name)
			if ok {
				c.fail(second.Pos, "name the column exactly", "%s and %s both match %s and do different things to it", first, second, columnOf{t, col.Name})
			}
			if rule, ok := c.file.AlwaysFor(t.Name.Schema, t.Name.Name, col.Name); ok && c.noRows[t] == nil {
				c.always[columnOf{t, col.Name}] = rule
			}
		}
	}
}

func (c *compiler) matchesAny(rule *rules.Always) bool {
	for _, t := range c.cat.Order {
		if t.Parent != nil || t.Kind == catalog.Foreign {
			continue
		}
		if rule.Column == "" && rule.Matches(t.Name.Schema, t.Name.Name, "") {
			return true
		}
		for _, col := range t.Columns {
			if rule.Column != "" && rule.Matches(t.Name.Schema, t.Name.Name, col.Name) {
				return true
			}
		}
	}
	return false
}

// carryKeys gives every column of a key and of the references to it the rule that stands at one of them, so that both
// ends are rewritten alike. Only strategies that keep different values different can be carried. A referencing column
// with clear of its own stays out: NULL references nothing.
func (c *compiler) carryKeys() {
	for _, group := range c.keyGroups() {
		var first *rules.Always
		var at columnOf
		for _, member := range group {
			rule := c.always[member]
			if rule == nil || c.clearsOnlyLink(member, rule) {
				continue
			}
			switch {
			case rule.Strategy.Name != "hmac" && rule.Strategy.Name != "unique_email":
				if rule.Strategy.Name == "json" && c.onlyPaths(member) {
					continue
				}
				c.failKey(member, rule)
			case first == nil:
				first, at = rule, member
			case !rule.Strategy.Equal(first.Strategy):
				c.fail(rule.Pos, fmt.Sprintf("write the rule of %s (line %d) here too, or leave one out: Lethe carries it across", at, first.Pos.Line),
					"%s and %s are the same key and have different rules", at, member)
			}
		}
		if first != nil {
			c.carry(group, first, at)
		}
	}
}

func (c *compiler) failKey(member columnOf, rule *rules.Always) {
	if in := c.referencesTo(member); len(in) > 0 {
		c.fail(rule.Pos, "use hmac or unique_email, which keep keys apart and are carried to the references",
			"%s can't rewrite %s: %s references it through %s", rule.Strategy.Name, member, in[0].from.Name, rules.Columns{Names: in[0].columns})
		return
	}
	out := c.referencesFrom(member)
	c.fail(rule.Pos, "use clear, which cuts it, or hmac or unique_email, which are carried to the key",
		"%s can't rewrite %s: it is the reference %s", rule.Strategy.Name, member, out[0])
}

// clearsOnlyLink says whether a rule clears a column that others do not reference.
func (c *compiler) clearsOnlyLink(member columnOf, rule *rules.Always) bool {
	return rule.Strategy.Name == "clear" && len(c.referencesTo(member)) == 0
}

// onlyPaths says whether a column is part of references inside its JSON only.
func (c *compiler) onlyPaths(member columnOf) bool {
	return len(c.referencesTo(member)) == 0 &&
		!slices.ContainsFunc(c.referencesFrom(member), func(r *reference) bool { return r.path == "" })
}

// carry binds one rule to all columns of a group.
func (c *compiler) carry(group []columnOf, rule *rules.Always, at columnOf) {
	s := rule.Strategy
	for _, r := range c.refs {
		if !slices.ContainsFunc(group, func(m columnOf) bool { return touches(r, m) }) {
			continue
		}
		if len(r.when) > 0 || r.path != "" {
			c.fail(rule.Pos, "leave the key as it is, or clear the column", "%s can't rewrite %s: %s of %s holds that key only in some rows or inside JSON",
				s.Name, at, rules.Columns{Names: r.columns}, r.from.Root().Name)
			return
		}
		if c.cat.Tables[r.to.Name] == nil {
			c.fail(rule.Pos, "leave the key as it is", "%s can't rewrite %s: its values must go on leading to %s, which the schema does not define",
				s.Name, at, r.to.Name)
			return
		}
		if slices.ContainsFunc(r.family, func(f Family) bool { return f == Server }) {
			c.fail(rule.Pos, "leave the key as it is", "%s can't rewrite %s: equal keys of %s may differ in bytes (%s)",
				s.Name, at, r, typeName(r.from.Column(r.columns[0]).Type))
			return
		}
	}
	uuids, shortest := 0, 0
	var members []columnOf
	for _, member := range group {
		if own := c.always[member]; own != nil && c.clearsOnlyLink(member, own) || c.noRows[member.table] != nil {
			continue
		}
		members = append(members, member)
		cl := c.classOf(member.table.Column(member.column))
		if cl.kind == "uuid" {
			uuids++
		}
		if cl.length > 0 && (shortest == 0 || cl.length < shortest) {
			shortest = cl.length
		}
	}
	if uuids > 0 && uuids < len(members) {
		c.fail(rule.Pos, "leave the key as it is", "%s can't rewrite %s: some columns of that key are of type uuid and others are text", s.Name, at)
		return
	}
	if s.Name == "hmac" && s.Length == 0 && shortest > 0 {
		s.Length = min(shortest, mask.HMACLen(mask.HexText, 0))
	}
	domain := c.keyDomain(members)
	for _, member := range members {
		c.carried[member] = c.always[member] == nil
		bound := *rule
		if own := c.always[member]; own != nil {
			bound = *own
		}
		bound.Strategy = s
		c.always[member] = &bound
		c.shared[member] = sharedKey{domain, shortest}
	}
}

func touches(r *reference, m columnOf) bool {
	return r.from.Root() == m.table && slices.Contains(r.columns, m.column) || r.to.Root() == m.table && slices.Contains(r.toColumns, m.column)
}

// keyDomain names the domain of a key after the column at its root, one that references nothing itself, so that a new
// reference to it changes no value.
func (c *compiler) keyDomain(members []columnOf) string {
	best := slices.MinFunc(members, func(a, b columnOf) int {
		return cmp.Or(cmp.Compare(len(c.referencesFrom(a)), len(c.referencesFrom(b))), cmp.Compare(domainOf(a), domainOf(b)))
	})
	return domainOf(best)
}

// keyGroups lists the columns that hold the same keys: those that references pair, and through them others.
func (c *compiler) keyGroups() [][]columnOf {
	leader := map[columnOf]columnOf{}
	var find func(columnOf) columnOf
	find = func(m columnOf) columnOf {
		up, ok := leader[m]
		if !ok || up == m {
			leader[m] = m
			return m
		}
		top := find(up)
		leader[m] = top
		return top
	}
	for _, r := range c.refs {
		for i := range r.columns {
			from, to := columnOf{r.from.Root(), r.columns[i]}, columnOf{r.to.Root(), r.toColumns[i]}
			leader[find(from)] = find(to)
		}
	}
	groups := map[columnOf][]columnOf{}
	var order []columnOf
	for _, t := range c.cat.Order {
		for _, col := range t.Columns {
			m := columnOf{t, col.Name}
			if _, ok := leader[m]; !ok {
				continue
			}
			top := find(m)
			if groups[top] == nil {
				order = append(order, top)
			}
			groups[top] = append(groups[top], m)
		}
	}
	var list [][]columnOf
	for _, top := range order {
		list = append(list, groups[top])
	}
	return list
}

// checkAlways checks the rule of every column.
func (c *compiler) checkAlways() {
	for _, t := range c.cat.Order {
		inherited := c.subjects[t] != nil || c.entries[t] != nil
		for _, col := range t.Columns {
			at := columnOf{t, col.Name}
			rule := c.always[at]
			if rule == nil {
				continue
			}
			inherited = true
			problems, probe := c.problemsOf(at, col, rule.Strategy)
			for _, r := range c.refs {
				if r.from.Root() == t && slices.ContainsFunc(r.when, func(q rules.Equal) bool { return q.Column == col.Name }) {
					problems = append(problems, problem{fmt.Sprintf("it decides where the reference %s leads", r), "leave the column as it is"})
					break
				}
			}
			if rule.Strategy.Name == "clear" {
				problems = append(problems, c.matchFull(t, c.alwaysCleared(t))...)
			}
			text := ""
			if c.carried[at] {
				text = fmt.Sprintf(" (the rule of line %d, carried to the other end of a reference)", rule.Pos.Line)
			} else if rule.Glob {
				text = fmt.Sprintf(", which %s matches", rule)
			}
			for _, p := range problems {
				c.fail(rule.Pos, p.hint, "%s can't rewrite %s%s: %s", rule.Strategy.Name, at, text, p.msg)
			}
			if len(problems) == 0 {
				c.probe(probe, rule.Pos, at, rule.Strategy)
			}
		}
		if inherited {
			for _, child := range c.cat.Order {
				if slices.Contains(child.Inherits, t) && child.Parent == nil {
					c.warn(rules.Pos{}, "%s inherits from %s, but its rows are its own: the rules of %s do not cover them", child.Name, t.Name, t.Name)
				}
			}
		}
	}
}

func (c *compiler) alwaysCleared(t *catalog.Table) (columns []string) {
	for _, col := range t.Columns {
		if rule := c.always[columnOf{t, col.Name}]; rule != nil && rule.Strategy.Name == "clear" {
			columns = append(columns, col.Name)
		}
	}
	return columns
}
