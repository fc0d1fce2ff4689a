package scrub

import (
	"fmt"
	"slices"

	"lethe/rules"
	"lethe/scrub/catalog"
)

// CompileStored is Compile for rows as snapshots store them: `always` was applied when they were stored, and is not
// applied again. What it says still decides where nothing else does: the rows of a table that is now kept without rows go
// wherever a reference of theirs reaches, and a reference that always clears is cut.
//
// It takes rules that name more than the schema has, such as those that RulesForStored makes for a schema older than
// they are: a verb for no reference is no error.
func CompileStored(f *rules.File, cat *catalog.Catalog) (*Plan, error) {
	c := newCompiler(f, cat)
	c.stored = true
	return c.compile()
}

// RulesForStored returns the rules by which people are erased from rows that were stored under another schema, that of
// then, and other rules, own. today are the rules that count now, and now is the schema that they were made for.
//
// Today's rules decide about every table, column and reference that today's schema has. What is gone since is beyond
// them, and there the rules decide under which the rows were stored. A foreign key that came later counts for the same
// columns before. It is an error where neither says who a subject is.
func RulesForStored(today *rules.File, now *catalog.Catalog, own *rules.File, then *catalog.Catalog) (*rules.File, error) {
	m := &ruleMerge{today: today, now: now, own: own, then: then, file: OnlySchema(today, then)}
	if now == then || now.Fingerprint() == then.Fingerprint() {
		return m.file, nil
	}
	if err := m.subjects(); err != nil {
		return nil, err
	}
	m.references()
	m.laterKeys()
	m.erase()
	for _, v := range own.ChecksHold {
		if vouchable(then, v) && !slices.ContainsFunc(m.file.ChecksHold, func(o rules.Vouch) bool { return o.Name == v.Name && o.Constraint == v.Constraint }) {
			m.file.ChecksHold = append(m.file.ChecksHold, v)
		}
	}
	return m.file, nil
}

// OnlySchema returns a rules file without everything that names what a schema does not have, and without requests.
func OnlySchema(f *rules.File, cat *catalog.Catalog) *rules.File {
	out := &rules.File{Path: f.Path, Text: f.Text, Version: f.Version, Dataset: f.Dataset, Drift: f.Drift}
	for _, s := range f.Subjects {
		if has(cat, s.Table, s.Key) {
			s.Lookup = slices.DeleteFunc(slices.Clone(s.Lookup), func(name string) bool { return !has(cat, s.Table, name) })
			out.Subjects = append(out.Subjects, s)
		}
	}
	for _, r := range f.References {
		r.Targets = slices.DeleteFunc(slices.Clone(r.Targets), func(t rules.Target) bool { return !hasReference(cat, r, t) })
		if len(r.Targets) > 0 {
			out.References = append(out.References, r)
		}
	}
	for _, a := range f.Always {
		if a.Glob || has(cat, rules.Name{Schema: a.Schema, Name: a.Table}, named(a.Column)...) {
			out.Always = append(out.Always, a)
		}
	}
	for _, e := range f.Erase {
		if !has(cat, e.Table) {
			continue
		}
		for _, verb := range verbsOf(&e) {
			*verb = slices.DeleteFunc(slices.Clone(*verb), func(c rules.Columns) bool { return !has(cat, e.Table, c.Names...) })
		}
		e.Redact = slices.DeleteFunc(slices.Clone(e.Redact), func(r rules.ColumnStrategy) bool { return !has(cat, e.Table, r.Column) })
		out.Erase = append(out.Erase, e)
	}
	for _, v := range f.ChecksHold {
		if vouchable(cat, v) {
			out.ChecksHold = append(out.ChecksHold, v)
		}
	}
	return out
}

// has says whether rules can name a table of the schema and columns of it.
func has(cat *catalog.Catalog, table rules.Name, columns ...string) bool {
	t := cat.Tables[catalog.Name(table)]
	return t != nil && t.Parent == nil && t.Kind != catalog.Foreign &&
		!slices.ContainsFunc(columns, func(name string) bool { return t.Column(name) == nil })
}

func named(column string) []string {
	if column == "" {
		return nil
	}
	return []string{column}
}

// hasReference says whether a schema has everything that a declared reference names.
func hasReference(cat *catalog.Catalog, r rules.Reference, t rules.Target) bool {
	return has(cat, r.Table, r.Columns...) && has(cat, t.Table, t.Columns...) &&
		!slices.ContainsFunc(t.When, func(q rules.Equal) bool { return !has(cat, r.Table, q.Column) })
}

func verbsOf(e *rules.Erase) []*[]rules.Columns {
	return []*[]rules.Columns{&e.Delete, &e.Keep, &e.Clear, &e.Leave}
}

func vouchable(cat *catalog.Catalog, v rules.Vouch) bool {
	if t := cat.Tables[catalog.Name(v.Name)]; t != nil {
		return slices.ContainsFunc(t.Checks, func(c *catalog.Check) bool { return c.Name == v.Constraint }) ||
			slices.ContainsFunc(t.Keys, func(k *catalog.Key) bool { return k.Name == v.Constraint })
	}
	d := cat.Types[catalog.Name(v.Name)]
	return d != nil && d.Kind == catalog.Domain && slices.ContainsFunc(d.Checks, func(c *catalog.Check) bool { return c.Name == v.Constraint })
}

// ruleMerge is one run of RulesForStored.
type ruleMerge struct {
	today, own *rules.File
	now, then  *catalog.Catalog
	file       *rules.File // the result
}

func (m *ruleMerge) subjects() error {
	for _, s := range m.today.Subjects {
		has := func(o rules.Subject) bool { return o.Type == s.Type }
		if slices.ContainsFunc(m.file.Subjects, has) {
			continue
		}
		i := slices.IndexFunc(m.own.Subjects, has)
		if i < 0 {
			return fmt.Errorf("nothing says who %s is: it has no %s with a column %s, as today's rules would have it, and its own rules know no such subject",
				withArticle(s.Type), catalog.Name(s.Table), catalog.QuoteIfNeeded(s.Key))
		}
		m.file.Subjects = append(m.file.Subjects, m.own.Subjects[i])
	}
	return nil
}

// references adds the declared references of which a part is gone since.
func (m *ruleMerge) references() {
	for _, r := range m.own.References {
		for _, t := range r.Targets {
			if !hasReference(m.now, r, t) {
				m.declare(r.Table, r.Columns, t, r.Pos)
			}
		}
	}
}

func (m *ruleMerge) declare(table rules.Name, columns []string, t rules.Target, pos rules.Pos) {
	for i := range m.file.References {
		r := &m.file.References[i]
		if r.Table == table && slices.Equal(r.Columns, columns) {
			r.Targets = append(slices.Clone(r.Targets), t)
			return
		}
	}
	m.file.References = append(m.file.References, rules.Reference{Table: table, Columns: columns, Targets: []rules.Target{t}, Pos: pos})
}

// laterKeys declares the foreign keys of today's schema between columns that were there without one.
func (m *ruleMerge) laterKeys() {
	for _, t := range m.now.Order {
		for _, fk := range t.References {
			from, to := rules.Name(t.Name), rules.Name(fk.To)
			if t.Parent != nil || !has(m.then, from, fk.Columns...) || !has(m.then, to, fk.ToColumns...) || m.linked(m.then, t.Name, fk) {
				continue
			}
			target := rules.Target{Table: to, Columns: fk.ToColumns}
			declared := slices.ContainsFunc(m.file.References, func(r rules.Reference) bool {
				return r.Table == from && slices.ContainsFunc(r.Targets, func(o rules.Target) bool {
					return o.Table == to && len(o.When) == 0 && o.Path == "" && samePairs(r.Columns, o.Columns, fk.Columns, fk.ToColumns)
				})
			})
			if declared {
				continue
			}
			m.declare(from, fk.Columns, target, rules.Pos{})
			columns := rules.Columns{Names: fk.Columns}
			if e := m.entry(from); verbFor(e, fk.Columns) == nil {
				switch fk.OnDelete { // as the schema has it now
				case catalog.Cascade:
					e.Delete = append(slices.Clone(e.Delete), columns)
				case catalog.SetNull, catalog.SetDefault:
					e.Clear = append(slices.Clone(e.Clear), columns)
				}
			}
		}
	}
}

// linked says whether a schema has a foreign key.
func (m *ruleMerge) linked(cat *catalog.Catalog, table catalog.Name, fk *catalog.ForeignKey) bool {
	t := cat.Tables[table]
	return t != nil && slices.ContainsFunc(t.References, func(o *catalog.ForeignKey) bool {
		return o.To == fk.To && samePairs(o.Columns, o.ToColumns, fk.Columns, fk.ToColumns)
	})
}

// entry is the result's entry of erase for a table, made where there is none.
func (m *ruleMerge) entry(table rules.Name) *rules.Erase {
	for i := range m.file.Erase {
		if m.file.Erase[i].Table == table {
			return &m.file.Erase[i]
		}
	}
	m.file.Erase = append(m.file.Erase, rules.Erase{Table: table})
	return &m.file.Erase[len(m.file.Erase)-1]
}

// verbFor returns the verb that an entry gives to these columns, or nil.
func verbFor(e *rules.Erase, columns []string) *[]rules.Columns {
	for _, verb := range verbsOf(e) {
		if slices.ContainsFunc(*verb, func(c rules.Columns) bool { return sameSet(c.Names, columns) }) {
			return verb
		}
	}
	return nil
}

// erase adds the verbs of references, and the redact rules of columns, that are gone since.
func (m *ruleMerge) erase() {
	for i := range m.own.Erase {
		own := &m.own.Erase[i]
		if !has(m.then, own.Table) {
			continue
		}
		e := m.entry(own.Table)
		if !has(m.now, own.Table) {
			*e = *own
			continue
		}
		if e.Reason == "" {
			e.Reason = own.Reason
		}
		into := verbsOf(e)
		for v, verb := range verbsOf(own) {
			for _, columns := range *verb {
				if verbFor(e, columns.Names) == nil && m.undecided(own.Table, columns.Names) {
					*into[v] = append(slices.Clone(*into[v]), columns)
				}
			}
		}
		for _, r := range own.Redact {
			there := func(o rules.ColumnStrategy) bool { return o.Column == r.Column }
			if !e.Subject && !has(m.now, own.Table, r.Column) && !slices.ContainsFunc(e.Redact, there) {
				e.Redact = append(slices.Clone(e.Redact), r)
			}
		}
	}
	m.file.Erase = slices.DeleteFunc(m.file.Erase, func(e rules.Erase) bool {
		return !e.Subject && len(e.Redact) == 0 && !slices.ContainsFunc(verbsOf(&e), func(v *[]rules.Columns) bool { return len(*v) > 0 })
	})
}

// undecided says whether today's rules, and the schema of then, leave it open what happens to a reference from these
// columns.
func (m *ruleMerge) undecided(table rules.Name, columns []string) bool {
	today := has(m.now, table, columns...) && (slices.ContainsFunc(m.now.Tables[catalog.Name(table)].References, func(fk *catalog.ForeignKey) bool { return sameSet(fk.Columns, columns) }) ||
		slices.ContainsFunc(m.today.References, func(r rules.Reference) bool { return r.Table == table && sameSet(r.Columns, columns) }))
	if !today {
		return true
	}
	return slices.ContainsFunc(m.then.Tables[catalog.Name(table)].References, func(fk *catalog.ForeignKey) bool {
		return sameSet(fk.Columns, columns) && (fk.OnDelete == catalog.NoAction || fk.OnDelete == catalog.Restrict)
	})
}
