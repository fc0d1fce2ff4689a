package scrub

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"lethe/rules"
	"lethe/scrub/catalog"
)

// Compile checks a rules file against a catalog and binds it to the catalog's tables. The error is rules.Errors: every
// mistake at once, in the order of the file, with the lines to paste where a decision is missing.
func Compile(f *rules.File, cat *catalog.Catalog) (*Plan, error) {
	return newCompiler(f, cat).compile()
}

func newCompiler(f *rules.File, cat *catalog.Catalog) *compiler {
	return &compiler{
		file: f,
		cat:  cat,
		plan: &Plan{
			Catalog:  cat,
			Rules:    f,
			Subjects: map[string]*Subject{},
			Tables:   map[catalog.Name]*TablePlan{},
		},
		subjects:  map[*catalog.Table]*Subject{},
		entries:   map[*catalog.Table]*entry{},
		noRows:    map[*catalog.Table]*rules.Always{},
		always:    map[columnOf]*rules.Always{},
		carried:   map[columnOf]bool{},
		shared:    map[columnOf]sharedKey{},
		touched:   map[*catalog.Table]bool{},
		deletable: map[*catalog.Table]bool{},
		kept:      map[*catalog.Table]bool{},
		verbs:     map[*reference]*Edge{},
		suggested: map[*reference]bool{},
		goes:      map[*catalog.Table]bool{},
	}
}

func (c *compiler) compile() (*Plan, error) {
	c.readSubjects()
	c.readAlways()
	c.readReferences()
	c.readErase()
	c.readVouches()
	c.readCategories()
	c.follow()
	errs := c.errs
	c.carryKeys()
	if c.stored {
		c.errs = errs // what always does is done; here it only says in which domain redact writes
	} else {
		c.checkAlways()
	}
	c.checkErase()
	c.checkRequests()
	if len(c.errs) > 0 {
		slices.SortStableFunc(c.errs, func(a, b *rules.Error) int {
			if (a.Line == 0) != (b.Line == 0) {
				return cmp.Compare(b.Line, a.Line) // errors without a place come last
			}
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
		})
		c.shortenHints()
		return nil, c.errs
	}
	c.plan.Stored = c.stored
	c.assemble()
	return c.plan, nil
}

// compiler holds what Compile knows so far. Tables in its maps are roots, never partitions.
type compiler struct {
	file   *rules.File
	cat    *catalog.Catalog
	stored bool // for rows that always has been applied to; see CompileStored
	plan   *Plan
	errs   rules.Errors

	subjects map[*catalog.Table]*Subject
	entries  map[*catalog.Table]*entry
	noRows   map[*catalog.Table]*rules.Always
	always   map[columnOf]*rules.Always // the rule of each column that has one, also by carrying
	carried  map[columnOf]bool          // where the rule stands at the other end of a reference
	shared   map[columnOf]sharedKey     // of columns that are rewritten alike
	refs     []*reference

	// What follow finds out.
	touched   map[*catalog.Table]bool // a subject's, or rows of it can be deleted or owned
	deletable map[*catalog.Table]bool // rows of it can be deleted
	kept      map[*catalog.Table]bool // rows of it can be owned and stay
	verbs     map[*reference]*Edge
	suggested map[*reference]bool     // nobody decided: the verb is what the error will propose
	goes      map[*catalog.Table]bool // a subject's, undecided, and with nothing in it to redact: the error will propose delete: true
}

// sharedKey is what the columns of one key have in common when `always` rewrites them.
type sharedKey struct {
	domain string // see Rewrite.Domain
	maxLen int    // of the shortest column
}

// columnOf is a column of a root table.
type columnOf struct {
	table  *catalog.Table
	column string
}

func (c columnOf) String() string {
	return c.table.Name.String() + "." + catalog.QuoteIfNeeded(c.column)
}

// reference is a foreign key of the schema or an entry of references.
type reference struct {
	from, to           *catalog.Table // as in Edge
	columns, toColumns []string
	fk                 *catalog.ForeignKey // nil where the rules declare it
	when               []rules.Equal
	path               string
	pos                rules.Pos // of the declaration
	family             []Family
}

func (r *reference) origin() string {
	if r.fk != nil {
		return r.fk.Name
	}
	return "references"
}

// String says what leads where, for people.
func (r *reference) String() string {
	return fmt.Sprintf("%s (to %s)", rules.Columns{Names: r.columns}, r.to.Name)
}

// entry is an entry of erase with its table.
type entry struct {
	*rules.Erase
	table *catalog.Table
	uses  []*verbUse
}

// verbUse is one verb of an entry; found and live say what became of it.
type verbUse struct {
	verb    Verb
	columns rules.Columns
	found   bool // some reference has these columns
	live    bool // some reference with these columns leads to a touched table
}

func (c *compiler) fail(pos rules.Pos, hint, format string, args ...any) {
	c.failPaste(pos, hint, "", format, args...)
}

func (c *compiler) failPaste(pos rules.Pos, hint, paste, format string, args ...any) {
	c.errs = append(c.errs, &rules.Error{
		File: c.file.Path, Pos: pos, Msg: fmt.Sprintf(format, args...), Hint: hint, Paste: paste,
	})
}

func (c *compiler) warn(pos rules.Pos, format string, args ...any) {
	where := ""
	if pos.Line > 0 {
		where = fmt.Sprintf("%s:%d:%d: ", c.file.Path, pos.Line, pos.Col)
	}
	c.plan.Warnings = append(c.plan.Warnings, where+fmt.Sprintf(format, args...))
}

// table finds the table that a rule names, or reports why it can't be named.
func (c *compiler) table(name rules.Name, pos rules.Pos) *catalog.Table {
	t := c.cat.Tables[catalog.Name(name)]
	switch {
	case t == nil:
		err := &NoTableError{catalog.Name(name), nearTable(c.cat, catalog.Name(name))}
		c.fail(pos, err.Hint(), "%s", err)
		return nil
	case t.Parent != nil:
		c.fail(pos, "name "+t.Root().Name.String(), "%s is a partition of %s: the rules of a partitioned table cover all its partitions",
			t.Name, t.Root().Name)
		return nil
	case t.Kind == catalog.Foreign:
		c.fail(pos, "take it out: no snapshot holds its rows", "%s is a foreign table: its rows live on another server", t.Name)
		return nil
	}
	return t
}

// column finds a column that a rule names, or reports that it is not there.
func (c *compiler) column(t *catalog.Table, name string, pos rules.Pos) *catalog.Column {
	col := t.Column(name)
	if col == nil {
		var names []string
		for _, col := range t.Columns {
			names = append(names, col.Name)
		}
		hint := "its columns are " + strings.Join(names, ", ")
		if near := closest(name, names); near != "" {
			hint = "did you mean " + near + "?"
		}
		c.fail(pos, hint, "table %s has no column %s", t.Name, catalog.QuoteIfNeeded(name))
	}
	return col
}

// columns finds several; the result is false where one of them is missing.
func (c *compiler) columns(t *catalog.Table, names []string, pos rules.Pos) bool {
	ok := true
	for _, name := range names {
		ok = c.column(t, name, pos) != nil && ok
	}
	return ok
}

func (c *compiler) readSubjects() {
	for _, s := range c.file.Subjects {
		t := c.table(s.Table, s.Pos)
		if t == nil {
			continue
		}
		subject := &Subject{Type: s.Type, Table: t, Key: s.Key, Lookup: s.Lookup}
		if other := c.subjects[t]; other != nil {
			c.fail(s.Pos, "keep one of the two, with every lookup column in it",
				"the subjects %s and %s are both in %s", other.Type, s.Type, t.Name)
			continue
		}
		c.subjects[t] = subject // even where its key can't be used, so that no error follows from another
		ok := c.columns(t, s.Lookup, s.Pos)
		for _, name := range s.Lookup {
			if col := t.Column(name); col != nil && col.Generated != "" {
				c.fail(s.Pos, "name the columns it is made of: "+col.Generated, "the lookup column %s.%s is a generated column: snapshots do not hold it",
					t.Name, catalog.QuoteIfNeeded(name))
			}
		}
		key := c.column(t, s.Key, s.Pos)
		if key == nil || !ok {
			continue
		}
		if !uniqueByItself(t, s.Key) {
			c.fail(s.Pos, "name a column with a primary key or UNIQUE of its own",
				"%s is not unique in %s: a request could mean several people", catalog.QuoteIfNeeded(s.Key), t.Name)
			continue
		}
		if rule, ok := c.file.NoRows(t.Name.Schema, t.Name.Name); ok {
			c.fail(rule.Pos, "take it out, or rule its columns", "%s holds the %s rows that requests are about: no_rows would leave nobody", t.Name, s.Type)
			continue
		}
		if key.Generated != "" {
			c.fail(s.Pos, "name a column that is stored", "%s.%s is a generated column: snapshots do not hold it",
				t.Name, catalog.QuoteIfNeeded(s.Key))
			continue
		}
		subject.Family, _ = c.keyFamily(key, key, false)
		c.plan.Subjects[s.Type] = subject
	}
}

// uniqueByItself says whether no two rows of t share a value of column (NULLs aside).
func uniqueByItself(t *catalog.Table, column string) bool {
	return slices.ContainsFunc(t.Keys, func(k *catalog.Key) bool {
		return !k.Exclusion && !k.Expressions && k.Predicate == nil && len(k.Columns) == 1 && k.Columns[0] == column
	})
}

// uniqueTogether says whether no two rows of t share a value of these columns (NULLs aside).
func uniqueTogether(t *catalog.Table, columns []string) bool {
	return slices.ContainsFunc(t.Keys, func(k *catalog.Key) bool {
		return !k.Exclusion && !k.Expressions && k.Predicate == nil && subset(k.Columns, columns)
	})
}

// readReferences lists the references of the schema and of the rules.
func (c *compiler) readReferences() {
	for _, t := range c.cat.Order {
		for _, fk := range t.References {
			if t.Parent != nil && slices.ContainsFunc(t.Parent.References, func(up *catalog.ForeignKey) bool { return sameReference(up, fk) }) {
				continue // the root's own, seen there
			}
			to := c.cat.Tables[fk.To]
			if to == nil { // no rule can name it, so none of its rows goes; but the columns must go on leading there
				to = &catalog.Table{Name: fk.To}
				c.warn(rules.Pos{}, "foreign key %s of %s leads to %s, which the schema does not define: it is taken for a table of an extension, whose rows nothing erases",
					catalog.QuoteIfNeeded(fk.Name), t.Name, fk.To)
			}
			r := &reference{from: t, to: to, columns: fk.Columns, toColumns: fk.ToColumns, fk: fk}
			for i := range r.columns {
				from, target := t.Column(r.columns[i]), to.Column(r.toColumns[i])
				if from == nil || target == nil {
					r.family = append(r.family, Server)
					continue
				}
				family, _ := c.keyFamily(from, target, false)
				r.family = append(r.family, family)
			}
			c.refs = append(c.refs, r)
		}
	}
	for _, declared := range c.file.References {
		from := c.table(declared.Table, declared.Pos)
		if from == nil || !c.columns(from, declared.Columns, declared.Pos) {
			continue
		}
		for _, target := range declared.Targets {
			c.declare(from, declared, target)
		}
	}
}

func sameReference(a, b *catalog.ForeignKey) bool {
	return a.Name == b.Name && a.To == b.To && slices.Equal(a.Columns, b.Columns) && slices.Equal(a.ToColumns, b.ToColumns)
}

func (c *compiler) declare(from *catalog.Table, declared rules.Reference, target rules.Target) {
	pos := target.Pos
	if pos.Line == 0 {
		pos = declared.Pos
	}
	to := c.table(target.Table, pos)
	if to == nil || !c.columns(to, target.Columns, pos) {
		return
	}
	if len(declared.Columns) != len(target.Columns) {
		c.fail(pos, "write as many columns on both sides", "%d columns of %s can't lead to %d columns of %s",
			len(declared.Columns), from.Name, len(target.Columns), to.Name)
		return
	}
	for _, equal := range target.When {
		col := c.column(from, equal.Column, pos)
		if col == nil {
			return
		}
		cl := c.classOf(col)
		if !c.oneSpelling(col, cl) {
			c.fail(pos, "compare a column of text, char(n), varchar, an enum, boolean, integers, numeric or uuid",
				"the condition on %s can't be relied on: values of type %s may be equal and print differently", columnOf{from, col.Name}, cl.name)
			return
		}
		if _, err := judgeValue(cl, equal.Value); err != nil {
			c.fail(pos, "write a value that the column holds", "the condition on %s can never hold: the value %v", columnOf{from, col.Name}, err)
			return
		}
		if col.Generated != "" {
			c.fail(pos, "compare a stored column", "%s.%s is a generated column: snapshots do not hold it", from.Name, catalog.QuoteIfNeeded(col.Name))
			return
		}
	}
	if len(target.When) == 0 && target.Path == "" && slices.ContainsFunc(c.refs, func(r *reference) bool {
		return r.fk != nil && r.from == from && r.to == to && samePairs(r.columns, r.toColumns, declared.Columns, target.Columns)
	}) {
		c.warn(pos, "the schema declares this reference already")
		return
	}
	r := &reference{from: from, to: to, columns: declared.Columns, toColumns: target.Columns, when: target.When, path: target.Path, pos: pos}
	for i := range r.columns {
		col, key := from.Column(r.columns[i]), to.Column(r.toColumns[i])
		if col.Generated != "" || key.Generated != "" {
			c.fail(pos, "name the columns it is made of, or an application's own column",
				"a reference can't be followed over a generated column: snapshots do not hold it")
			return
		}
		if r.path != "" && (len(r.columns) != 1 || !c.classOf(col).holdsJSON()) {
			c.fail(pos, "name one json, jsonb or text column", "%s has no JSON to follow the path %s in", columnOf{from, col.Name}, r.path)
			return
		}
		family, err := c.keyFamily(col, key, r.path != "")
		if err != nil {
			c.fail(pos, "declare a reference between columns of comparable types", "%s can't lead to %s: %v",
				columnOf{from, col.Name}, columnOf{to, key.Name}, err)
			return
		}
		r.family = append(r.family, family)
	}
	if !uniqueTogether(to, r.toColumns) {
		c.warn(pos, "%s leads to %s of %s, which is not unique: rows that lead to somebody else with the same value are taken for this person's too",
			rules.Columns{Names: r.columns}, rules.Columns{Names: r.toColumns}, to.Name)
	}
	c.refs = append(c.refs, r)
}

// oneSpelling says whether a condition can compare values of a column: what is equal prints alike, or conditionFamily
// knows its spellings.
func (c *compiler) oneSpelling(col *catalog.Column, cl class) bool {
	if cl.array || c.serverCollation(col) {
		return false
	}
	switch cl.kind {
	case "text", "varchar", "bpchar", "name", "char", "enum", "bool", "int2", "int4", "int8", "oid", "numeric", "uuid":
		return true
	}
	return false
}

// samePairs says whether two references pair the same columns, in whatever order.
func samePairs(from1, to1, from2, to2 []string) bool {
	if len(from1) != len(from2) || len(to1) != len(from1) || len(to2) != len(from1) {
		return false
	}
	for i := range from1 {
		j := slices.Index(from2, from1[i])
		if j < 0 || to2[j] != to1[i] {
			return false
		}
	}
	return true
}

func (c *compiler) readErase() {
	for i := range c.file.Erase {
		e := &c.file.Erase[i]
		t := c.table(e.Table, e.Pos)
		if t == nil {
			continue
		}
		if c.entries[t] != nil {
			c.fail(e.Pos, "join the two entries", "table %s has two entries in erase", t.Name)
			continue
		}
		in := &entry{Erase: e, table: t}
		for _, group := range []struct {
			verb Verb
			list []rules.Columns
		}{{Delete, e.Delete}, {Keep, e.Keep}, {Clear, e.Clear}, {Leave, e.Leave}} {
			for _, columns := range group.list {
				if !c.columns(t, columns.Names, columns.Pos) {
					continue
				}
				if other := in.use(columns.Names); other != nil {
					c.fail(columns.Pos, "keep one of the two", "%s of %s has two verbs, %s and %s", columns, t.Name, other.verb, group.verb)
					continue
				}
				in.uses = append(in.uses, &verbUse{verb: group.verb, columns: columns})
			}
		}
		c.entries[t] = in
	}
}

// readCategories checks that the columns named there exist: a slip would leave one undocumented.
func (c *compiler) readCategories() {
	for _, category := range c.file.Categories {
		if t := c.table(category.Table, category.Pos); t != nil {
			c.column(t, category.Column, category.Pos)
		}
	}
}

// use returns the verb given to exactly these columns, in whatever order.
func (e *entry) use(columns []string) *verbUse {
	if e == nil {
		return nil
	}
	for _, u := range e.uses {
		if sameSet(u.columns.Names, columns) {
			return u
		}
	}
	return nil
}

// cutOfPart returns a clear of some columns of a composite reference: NULL in one of them already unlinks the row.
func (e *entry) cutOfPart(columns []string) *verbUse {
	if e == nil {
		return nil
	}
	for _, u := range e.uses {
		if u.verb == Clear && len(u.columns.Names) < len(columns) && subset(u.columns.Names, columns) {
			return u
		}
	}
	return nil
}

func subset(part, all []string) bool {
	return !slices.ContainsFunc(part, func(s string) bool { return !slices.Contains(all, s) })
}

func sameSet(a, b []string) bool { return len(a) == len(b) && subset(a, b) && subset(b, a) }

// String is the verb as the rules write it.
func (v Verb) String() string {
	switch v {
	case Leave:
		return "leave"
	case Clear:
		return "clear"
	case SetDefault:
		return "set default"
	case Keep:
		return "keep"
	}
	return "delete"
}

// follow decides every reference that leads to a touched table, until no table is newly touched. A reference that
// nobody decided gets the verb that the error will propose, so that one run of check names everything that is missing.
func (c *compiler) follow() {
	for t, s := range c.subjects {
		c.touched[t] = true
		e := c.entries[t]
		s.Delete = e != nil && e.Subject
		c.goes[t] = (e == nil || !e.Subject && len(e.Redact) == 0) && len(c.proposeRedact(t)) == 0
		if s.Delete || c.goes[t] {
			c.deletable[t] = true
		} else {
			c.kept[t] = true
		}
	}
	for t := range c.noRows {
		if !c.stored {
			c.touched[t], c.deletable[t] = true, true // its rows count as deleted parents
		}
	}
	for changed := true; changed; {
		changed = c.followDecided()
		if !changed {
			changed = c.followUndecided()
		}
	}
	for _, r := range c.refs {
		switch edge := c.verbs[r]; {
		case edge == nil:
		case edge.Verb == Leave:
			c.plan.Left = append(c.plan.Left, edge)
		default:
			edge.ID = len(c.plan.Edges)
			c.plan.Edges = append(c.plan.Edges, edge)
		}
	}
	c.reportUndecided()
	c.reportUses()
}

// open says whether r leads to a touched table and has no verb yet. Rows of a table that is kept without rows need none,
// and neither does a link to such a table that always cuts.
func (c *compiler) open(r *reference) bool {
	if c.verbs[r] != nil || !c.touched[r.to.Root()] {
		return false
	}
	from := r.from.Root()
	switch {
	case c.entries[from].use(r.columns) != nil:
		return true
	case c.stored:
		return r.fk != nil || c.noRows[from] != nil || c.noRows[r.to.Root()] == nil
	}
	return c.noRows[from] == nil && !(c.noRows[r.to.Root()] != nil && (r.fk == nil || c.alwaysCut(r)))
}

// alwaysCut says whether always writes NULL into a reference, so that it leads nowhere.
func (c *compiler) alwaysCut(r *reference) bool {
	return slices.ContainsFunc(r.columns, func(name string) bool { return c.alwaysClears(r.from, name) })
}

func (c *compiler) alwaysClears(t *catalog.Table, column string) bool {
	rule := c.always[columnOf{t.Root(), column}]
	return rule != nil && rule.Strategy.Name == "clear"
}

func (c *compiler) followDecided() (changed bool) {
	for _, r := range c.refs {
		if !c.open(r) {
			continue
		}
		e := c.entries[r.from.Root()]
		bySchema := r.fk != nil && r.fk.OnDelete != catalog.NoAction && r.fk.OnDelete != catalog.Restrict
		if use := e.use(r.columns); use != nil {
			c.decide(r, use.verb, use.columns.Pos, r.columns)
			changed = true
		} else if rule := c.noRows[r.from.Root()]; rule != nil { // stored before the rules said so
			c.decide(r, Delete, rule.Pos, nil)
			changed = true
		} else if use := e.cutOfPart(r.columns); use != nil && !bySchema {
			c.decide(r, Clear, use.columns.Pos, use.columns.Names)
			changed = true
		} else if bySchema {
			c.decideBySchema(r)
			changed = true
		} else if c.stored && c.alwaysCut(r) {
			cut := slices.DeleteFunc(slices.Clone(r.columns), func(name string) bool { return !c.alwaysClears(r.from, name) })
			c.decide(r, Clear, rules.Pos{}, cut)
			changed = true
		}
	}
	return changed
}

// decide gives r a verb and touches what that reaches.
func (c *compiler) decide(r *reference, verb Verb, pos rules.Pos, cut []string) *Edge {
	edge := &Edge{
		From: r.from, Columns: r.columns, To: r.to, ToColumns: r.toColumns, Verb: verb,
		When: r.when, Path: r.path, Family: r.family, Origin: r.origin(), Pos: pos,
	}
	from := r.from.Root()
	switch verb {
	case Clear, SetDefault:
		edge.Cut = cut
	case Keep:
		c.touched[from], c.kept[from] = true, true
	case Delete:
		c.touched[from], c.deletable[from] = true, true
	}
	c.verbs[r] = edge
	return edge
}

func (c *compiler) decideBySchema(r *reference) {
	cut := r.columns
	if len(r.fk.OnDeleteColumns) > 0 {
		cut = r.fk.OnDeleteColumns
	}
	switch r.fk.OnDelete {
	case catalog.Cascade:
		c.decide(r, Delete, rules.Pos{}, nil)
	case catalog.SetNull:
		c.decide(r, Clear, rules.Pos{}, cut)
	case catalog.SetDefault:
		c.decideDefault(r, cut)
	}
}

// decideDefault follows ON DELETE SET DEFAULT: where a default is NULL the link is cut, else the row that the defaults
// name must be there, which only a live server can tell.
func (c *compiler) decideDefault(r *reference, cut []string) {
	t := r.from.Root()
	edge := c.decide(r, SetDefault, rules.Pos{}, cut)
	linked := len(cut) == len(r.columns)
	var where []string
	for _, name := range cut {
		col := t.Column(name)
		value, known := constantDefault(col.Default)
		if !known {
			c.fail(c.place(edge), verbHint, "ON DELETE SET DEFAULT of %s: the default of %s is no constant: %s",
				t.Name, catalog.QuoteIfNeeded(name), col.Default)
			edge.Verb, edge.CutTo = Clear, nil
			return
		}
		if value != nil { // the server casts a default when it writes one; Lethe writes the text
			known, err := judgeValue(c.classOf(col), *value)
			if err != nil {
				c.fail(c.place(edge), verbHint, "ON DELETE SET DEFAULT of %s: the default of %s %v", t.Name, catalog.QuoteIfNeeded(name), err)
				edge.Verb, edge.CutTo = Clear, nil
				return
			}
			if !known {
				c.plan.Probes = append(c.plan.Probes, Probe{
					SQL:  castProbe(col.Type, *value),
					Pos:  c.place(edge),
					Msg:  fmt.Sprintf("ON DELETE SET DEFAULT of %s: the default of %s is no value of type %s", t.Name, catalog.QuoteIfNeeded(name), typeName(col.Type)),
					Hint: verbHint,
				})
			}
		}
		edge.CutTo = append(edge.CutTo, value)
		if value == nil {
			linked = false
			continue
		}
		if j := slices.Index(r.columns, name); j >= 0 {
			where = append(where, catalog.Quote(r.toColumns[j])+" = "+col.Default)
		}
	}
	if !slices.ContainsFunc(edge.CutTo, func(v *string) bool { return v != nil }) {
		edge.Verb, edge.CutTo = Clear, nil
		return
	}
	if len(cut) != len(r.columns) && !slices.Contains(edge.CutTo, nil) {
		c.fail(c.place(edge), verbHint,
			"ON DELETE SET DEFAULT of %s sets a part of %s: whether such a row is there differs from row to row", t.Name, r)
	}
	if linked {
		if c.noRows[r.to.Root()] != nil && !c.stored {
			c.fail(c.place(edge), "give the reference a verb, or keep the rows of "+r.to.Root().Name.String(),
				"ON DELETE SET DEFAULT of %s leads to %s, of which no rows are kept", t.Name, r.to.Root().Name)
		}
		c.plan.Probes = append(c.plan.Probes, Probe{
			SQL:  "SELECT EXISTS (SELECT FROM " + r.to.Name.SQL() + " WHERE " + strings.Join(where, " AND ") + ")",
			Pos:  c.place(edge),
			Msg:  fmt.Sprintf("ON DELETE SET DEFAULT of %s: the row of %s that the default names is not there", t.Name, r.to.Name),
			Hint: verbHint,
		})
	}
}

// verbHint is for references that can't do what the schema says.
const verbHint = "give the reference a verb: delete, keep, clear or leave"

// constantDefault reads a DEFAULT expression: nil is NULL. A cast of a constant is taken as the constant, as pg_dump
// prints it.
func constantDefault(sql string) (value *string, known bool) {
	if sql == "" {
		return nil, true
	}
	n := parseExpression(sql)
	for n.GetTypeCast() != nil {
		n = n.GetTypeCast().Arg
	}
	text := ""
	if x := n.GetAExpr(); x != nil && x.Lexpr == nil && len(x.Name) == 1 && x.Name[0].GetString_().GetSval() == "-" {
		text, n = "-", x.Rexpr
	}
	constant := n.GetAConst()
	switch {
	case constant == nil:
		return nil, false
	case constant.Isnull:
		return nil, true
	case constant.GetSval() != nil:
		text += constant.GetSval().Sval
	case constant.GetIval() != nil:
		text += strconv.Itoa(int(constant.GetIval().Ival))
	case constant.GetFval() != nil:
		text += constant.GetFval().Fval
	case constant.GetBoolval() != nil:
		text = strconv.FormatBool(constant.GetBoolval().Boolval)[:1]
	default:
		return nil, false
	}
	return &text, true
}

// followUndecided proposes verbs where nobody decided: cut what leads to people, or to what goes, and can be cut; of the
// rest keep what may be the row's owner and leave the others (see proposeStay); delete what can't stay.
func (c *compiler) followUndecided() (changed bool) {
	refs := slices.Clone(c.refs)
	slices.SortStableFunc(refs, func(a, b *reference) int {
		return cmp.Or(cmp.Compare(len(a.columns), len(b.columns)), cmp.Compare(firstColumn(a), firstColumn(b)))
	})
	for _, r := range refs { // cutting a single column may cut a composite reference too
		switch edge := c.verbs[r]; {
		case c.open(r):
			verb, cut := Clear, c.cutOf(r)
			if c.goesBySchema(r) {
				verb, cut = Delete, nil
			} else if !c.deletable[r.to.Root()] && (cut == nil || c.subjects[r.to.Root()] == nil && !c.isCut(r) && !c.keyRedacted(r)) {
				verb, cut = c.proposeStay(r), nil
			} else if cut == nil {
				verb = Delete
			}
			c.suggested[r] = true
			c.decide(r, verb, rules.Pos{}, cut)
			return true // the explicit verbs and the schema go first again
		case edge != nil && c.suggested[r] && (edge.Verb == Keep || edge.Verb == Leave) && c.deletable[r.to.Root()]:
			verb, cut := Delete, []string(nil) // what looked safe turned out to lose its parent
			delete(c.verbs, r)
			if edge.Verb == Leave { // nothing was followed from a row left, so it may still be cut
				if cut = c.cutOf(r); cut != nil {
					verb = Clear
				}
			}
			c.decide(r, verb, rules.Pos{}, cut)
			changed = true
		}
	}
	return changed
}

// goesBySchema says whether another foreign key on the same columns deletes the row: a verb names them both.
func (c *compiler) goesBySchema(r *reference) bool {
	return slices.ContainsFunc(c.refs, func(other *reference) bool {
		edge := c.verbs[other]
		return edge != nil && edge.Verb == Delete && !c.suggested[other] && other.from.Root() == r.from.Root() && sameSet(other.columns, r.columns)
	})
}

// isCut says whether a verb on other columns cuts a reference already.
func (c *compiler) isCut(r *reference) bool {
	return slices.ContainsFunc(c.refs, func(other *reference) bool {
		edge := c.verbs[other]
		return other != r && edge != nil && other.from.Root() == r.from.Root() && overlap(edge.Cut, r.columns)
	})
}

// keyRedacted says whether the rules redact the key that a reference leads to, so that it has to be cut.
func (c *compiler) keyRedacted(r *reference) bool {
	e := c.entries[r.to.Root()]
	return e != nil && slices.ContainsFunc(e.Redact, func(redact rules.ColumnStrategy) bool { return slices.Contains(r.toColumns, redact.Column) })
}

// proposeStay chooses between keep and leave for a reference whose parent stays and which leads to no person, or can't
// be cut. A link to a row that stays tells nothing of whose it was, once that is nobody's, so it is not cut.
//
// Both mistakes cost something. A row kept that is somebody else's is redacted with the person's, and what hangs on it is
// cut or asked for; a row left that is theirs keeps what it says about them. So every row gets one owner and no row
// more than one: the first column that leads to a person, as people are wont to write the owner before the moderator,
// the granter and the recipient; or, in a table that names no people, the reference by which it is nearest to them. Who wrote
// a comment owns it, not who owns the post. A person's own row is owned by that person and by nobody who made, invited
// or blocked them. The choice shows in the line to paste, and nothing but keep can be followed by redact, so that who
// pastes without looking changes no row at all.
func (c *compiler) proposeStay(r *reference) Verb {
	from := r.from.Root()
	if c.subjects[from] != nil {
		return Leave
	}
	for _, other := range c.refs {
		if other.from.Root() != from || sameSet(other.columns, r.columns) {
			continue
		}
		edge := c.verbs[other]
		switch {
		case edge != nil && edge.Verb == Leave && !c.suggested[other]: // somebody has decided that it names no owner
		case c.subjects[other.to.Root()] != nil && c.subjects[r.to.Root()] == nil:
			return Leave
		case edge != nil && (edge.Verb == Keep || edge.Verb == Delete):
			return Leave
		}
	}
	return Keep
}

// firstColumn is where the columns of a reference begin in its table.
func firstColumn(r *reference) int {
	first := len(r.from.Columns)
	for i, col := range r.from.Columns {
		if slices.Contains(r.columns, col.Name) {
			first = min(first, i)
		}
	}
	return first
}

// cutOf returns the columns by which `clear` would cut a reference and pass every check: all of them, or those of a
// composite one that can be NULL; nil where there are none.
func (c *compiler) cutOf(r *reference) []string {
	from := r.from.Root()
	for _, other := range c.refs {
		if edge := c.verbs[other]; edge != nil && edge.Verb == Clear && other.from.Root() == from && r.path == "" && other.path == "" &&
			len(edge.Cut) < len(r.columns) && subset(edge.Cut, r.columns) && c.canCut(r, edge.Cut) {
			return edge.Cut // cut already, by the clear of another reference
		}
	}
	if c.canCut(r, r.columns) {
		return r.columns
	}
	var part []string
	for _, name := range r.columns {
		if col := r.from.Column(name); col != nil && !c.notNull(col) {
			part = append(part, name)
		}
	}
	alone := func(other *reference) bool { // has a verb of its own, under the name that the part would need
		edge := c.verbs[other]
		return edge != nil && edge.Verb != Clear && other.from.Root() == from && sameSet(other.columns, part)
	}
	if len(part) == 0 || len(part) == len(r.columns) || slices.ContainsFunc(c.refs, alone) || !c.canCut(r, part) {
		return nil
	}
	return part
}

// canCut says whether NULL in these columns of a reference would pass every check.
func (c *compiler) canCut(r *reference, columns []string) bool {
	from := r.from.Root()
	if e := c.entries[from]; e != nil {
		for _, redact := range e.Redact {
			if slices.Contains(columns, redact.Column) && (redact.Strategy.Name != "clear" || r.path != "") {
				return false
			}
		}
	}
	for other, edge := range c.verbs {
		if (edge.Verb == Keep || edge.Verb == Leave) && other.from.Root() == from && overlap(other.columns, columns) {
			return false
		}
	}
	return len(c.cutProblems(r, columns)) == 0
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// reportUndecided prints one error per table with the lines to paste.
func (c *compiler) reportUndecided() {
	for _, s := range c.file.Subjects {
		t := c.cat.Tables[catalog.Name(s.Table)]
		if subject := c.subjects[t]; subject == nil || subject.Type != s.Type {
			continue
		}
		e := c.entries[t]
		switch {
		case e == nil || (!e.Subject && len(e.Redact) == 0):
			c.reportSubject(s, t, e)
		case e.Subject && len(e.Redact) > 0:
			c.fail(e.Pos, "keep one of the two", "%s says both delete: true and redact: the row of an erased %s can't go and stay", t.Name, s.Type)
		}
	}
	byTable := map[*catalog.Table][]*reference{}
	for _, r := range c.refs {
		if c.suggested[r] {
			byTable[r.from.Root()] = append(byTable[r.from.Root()], r)
		}
	}
	for _, t := range c.cat.Order {
		toNoRows := func(r *reference) bool {
			return c.noRows[r.to.Root()] != nil && c.entries[t] == nil && r.from.Root() != r.to.Root()
		}
		for _, r := range byTable[t] {
			if toNoRows(r) {
				c.reportNoRows(t, r)
			}
		}
		if refs := slices.DeleteFunc(byTable[t], toNoRows); len(refs) > 0 {
			c.reportTable(t, refs)
		}
	}
}

// reportNoRows says what references a table of which no rows are kept.
func (c *compiler) reportNoRows(t *catalog.Table, r *reference) {
	rule := c.noRows[r.to.Root()]
	paste := fmt.Sprintf("  %s: no_rows", yamlText(rules.Name(t.Name).String()))
	if edge := c.verbs[r]; edge.Verb == Clear && r.path == "" {
		var lines []string
		for _, name := range edge.Cut {
			lines = append(lines, "  "+yamlText((&rules.Always{Schema: t.Name.Schema, Table: t.Name.Name, Column: name}).String())+": clear")
		}
		paste = strings.Join(lines, "\n")
	}
	c.failPaste(rule.Pos, "under always, clear the reference where it can be NULL, or keep no rows of "+t.Name.String()+" either; or give it a verb under erase",
		paste, "no rows of %s are kept, and %s references it through %s", r.to.Root().Name, t.Name, rules.Columns{Names: r.columns})
}

// reportTable prints the verbs that the references of one table lack.
func (c *compiler) reportTable(t *catalog.Table, refs []*reference) {
	e := c.entries[t]
	if e == nil && c.subjects[t] != nil {
		return // said with the subject's own line
	}
	verbs, names := c.proposal(t, refs)
	hint, pos := c.choices(refs), rules.Pos{}
	if len(c.file.Subjects) > 0 {
		pos = c.file.Subjects[0].Pos
	}
	paste := fmt.Sprintf("  %s: {%s}", yamlText(rules.Name(t.Name).String()), strings.Join(verbs, ", "))
	if e != nil {
		pos = e.Pos
		paste = fmt.Sprintf("    # in the entry of %s\n    %s", rules.Name(t.Name), strings.Join(verbs, "\n    "))
	}
	c.failPaste(pos, hint, paste, "nobody has decided what erasing does to %s through %s", t.Name, strings.Join(names, ", "))
}

// decideHint says what the verbs mean, where they have to be chosen the first time; decideAgain is for the other times.
const (
	decideHint = "decide for each reference, under erase: delete (the row goes), keep (it is theirs, and stays; redact empties it), " +
		"clear (it is somebody else's, and gets NULL in the reference) or leave (it is somebody else's, and stays as it is)"
	decideAgain = "decide for each reference, as above: delete, keep, clear or leave"
)

// shortenHints explains the verbs in the first error that wants them, and no more in the others: a real schema has forty.
func (c *compiler) shortenHints() {
	said := false
	for _, e := range c.errs {
		if rest, ok := strings.CutPrefix(e.Hint, decideHint); ok {
			if said {
				e.Hint = decideAgain + rest
			}
			said = true
		}
	}
}

// choices says, for somebody who has to choose, what the verbs mean.
func (c *compiler) choices(refs []*reference) string {
	var hints []string
	if slices.ContainsFunc(refs, func(r *reference) bool { return c.strongest(refs, r.columns) != Delete }) {
		hints = append(hints, decideHint)
	}
	if warning := c.onlyDelete(refs); warning != "" {
		hints = append(hints, warning)
	}
	return strings.Join(hints, "; ")
}

// onlyDelete warns where the proposal deletes.
func (c *compiler) onlyDelete(refs []*reference) string {
	for _, r := range refs {
		if c.strongest(refs, r.columns) != Delete {
			continue
		}
		to := r.to.Root()
		way := "let the rows of " + to.Name.String() + " stay"
		if s := c.subjects[to]; s != nil {
			way = "redact the " + s.Type + " instead of delete: true"
		}
		return fmt.Sprintf("only delete works through %s, which can't become NULL and leads to a row that goes: rows of other people may go with it; %s to spare them",
			rules.Columns{Names: r.columns}, way)
	}
	return ""
}

// proposal returns `verb: columns` for each verb that the references of a table are proposed, joined with what its
// entry says already, and the references for people.
func (c *compiler) proposal(t *catalog.Table, refs []*reference) (verbs, names []string) {
	for _, r := range refs {
		if name := r.String(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	e := c.entries[t]
	gone := c.goes[t] || e != nil && e.Subject
	for _, verb := range []Verb{Delete, Keep, Clear, Leave} {
		var list []string
		add := func(columns []string) {
			text := yamlText(rules.Columns{Names: columns}.String())
			if !slices.Contains(list, text) {
				list = append(list, text)
			}
		}
		if verb == Delete && gone {
			list = append(list, "true") // delete: true and the references share a key
		}
		if e != nil {
			for _, u := range e.uses {
				if u.verb == verb {
					add(u.columns.Names)
				}
			}
		}
		before := len(list)
		for _, r := range refs {
			if c.strongest(refs, r.columns) != verb {
				continue
			}
			if cut := c.verbs[r].Cut; verb == Clear && cut != nil {
				add(cut)
			} else {
				add(r.columns)
			}
		}
		switch {
		case len(list) == before:
		case len(list) == 1:
			verbs = append(verbs, fmt.Sprintf("%s: %s", verb, list[0]))
		default:
			verbs = append(verbs, fmt.Sprintf("%s: [%s]", verb, strings.Join(list, ", ")))
		}
	}
	return verbs, names
}

// strongest is the verb proposed to all references with the same columns, since one line names them together.
func (c *compiler) strongest(refs []*reference, columns []string) Verb {
	verb := Leave
	for _, r := range refs {
		if sameSet(r.columns, columns) {
			verb = max(verb, c.verbs[r].Verb)
		}
	}
	return verb
}

// reportSubject prints the choice for a subject's own table.
func (c *compiler) reportSubject(s rules.Subject, t *catalog.Table, e *entry) {
	var refs []*reference
	for _, r := range c.refs {
		if c.suggested[r] && r.from.Root() == t {
			refs = append(refs, r)
		}
	}
	hint, goes := "redact (the row stays, as nobody) or delete: true (the row goes)", c.goes[t]
	redact := "redact: {" + strings.Join(c.proposeRedact(t), ", ") + "}"
	if !goes {
		hint += c.staysOf(t)
	}
	verbs, names := c.proposal(t, refs)
	deletes := len(verbs) > 0 && strings.HasPrefix(verbs[0], Delete.String()+":") // holds the true already
	if e != nil {
		paste := fmt.Sprintf("    # in the entry of %s, or delete: true\n    %s", rules.Name(t.Name), redact)
		if goes {
			paste = fmt.Sprintf("    # in the entry of %s\n    delete: true", rules.Name(t.Name))
		}
		if goes && deletes {
			paste = "" // the line of its references says it
		}
		c.failPaste(e.Pos, "add one of the two: "+hint, paste, "nobody has decided whether the row of an erased %s goes or stays as nobody", s.Type)
		return
	}
	if !goes {
		verbs = append([]string{redact}, verbs...)
	} else if !deletes {
		verbs = append([]string{"delete: true"}, verbs...)
	}
	if warning := c.onlyDelete(refs); warning != "" {
		hint += "; " + warning
	}
	text := ""
	if len(names) > 0 {
		text = ", nor what happens through " + strings.Join(names, ", ")
	}
	c.failPaste(s.Pos, "decide under erase: "+hint,
		fmt.Sprintf("  %s: {%s}", yamlText(rules.Name(t.Name).String()), strings.Join(verbs, ", ")),
		"nobody has decided what erasing %s does to %s%s", withArticle(s.Type), t.Name, text)
}

// withArticle puts a or an before a word, by how it probably sounds: an author, a user, an uncle.
func withArticle(word string) string {
	vowel := func(i int) bool { return i < len(word) && strings.IndexByte("aeiou", word[i]) >= 0 }
	switch {
	case !vowel(0), word[0] == 'u' && vowel(2), strings.HasPrefix(word, "eu"), strings.HasPrefix(word, "one"):
		return "a " + word
	}
	return "an " + word
}

// reportUses names the verbs that hold no reference, or one that erasing never comes to.
func (c *compiler) reportUses() {
	if c.stored {
		return // the rules name references that this schema does not have yet, or leads nowhere yet
	}
	for _, r := range c.refs {
		e := c.entries[r.from.Root()]
		for _, u := range []*verbUse{e.use(r.columns), e.cutOfPart(r.columns)} {
			if u != nil {
				u.found = true
				u.live = u.live || c.touched[r.to.Root()]
			}
		}
	}
	for i := range c.file.Erase {
		e := c.entries[c.cat.Tables[catalog.Name(c.file.Erase[i].Table)]]
		if e == nil || e.Erase != &c.file.Erase[i] {
			continue
		}
		for _, u := range e.uses {
			switch {
			case !u.found:
				c.fail(u.columns.Pos, c.referencesOf(e.table), "%s of %s is no reference: neither the schema nor references says where it leads",
					u.columns, e.table.Name)
			case !u.live:
				c.fail(u.columns.Pos, "take the verb out", "nothing is erased where %s of %s leads", u.columns, e.table.Name)
			}
		}
		if e.Subject && c.subjects[e.table] == nil {
			c.fail(e.Pos, "name the reference by which its rows go: delete: COLUMN", "%s is no subject's table: delete: true has nobody to delete", e.table.Name)
		} else if len(e.uses) == 0 && len(e.Redact) == 0 && !e.Subject && c.subjects[e.table] == nil && !c.touched[e.table] {
			c.fail(e.Pos, "take the entry out", "erasing never reaches %s", e.table.Name)
		}
	}
}

// referencesOf is a hint with the references that a table has.
func (c *compiler) referencesOf(t *catalog.Table) string {
	var names []string
	for _, r := range c.refs {
		if r.from.Root() == t {
			names = append(names, rules.Columns{Names: r.columns}.String())
		}
	}
	if len(names) == 0 {
		return "declare it under references: " + rules.Name(t.Name).String() + ".COLUMN: TABLE.COLUMN"
	}
	slices.Sort(names)
	return "its references are " + strings.Join(slices.Compact(names), ", ") + "; others are declared under references"
}

// assemble makes the table plans. A partition's plan is its root's, with its own edges beside.
func (c *compiler) assemble() {
	planned := map[*catalog.Table]*TablePlan{}
	root := func(t *catalog.Table) *TablePlan {
		t = t.Root()
		if planned[t] == nil {
			planned[t] = &TablePlan{Table: t}
		}
		return planned[t]
	}
	for t := range c.noRows {
		root(t).NoRows = !c.stored
	}
	for t, s := range c.subjects {
		root(t).Subject = s
	}
	for _, t := range c.cat.Order {
		for _, col := range t.Columns {
			at := columnOf{t, col.Name}
			if rule := c.always[at]; rule != nil && !c.stored {
				root(t).Always = append(root(t).Always, c.rewrite(at, rule.Strategy))
			}
		}
		if e := c.entries[t]; e != nil {
			p := root(t)
			p.Reason = e.Reason
			for _, r := range e.Redact {
				p.Redact = append(p.Redact, c.rewrite(columnOf{t, r.Column}, r.Strategy))
			}
		}
	}
	for _, edge := range c.plan.Edges {
		root(edge.From)
		root(edge.To)
	}
	for _, t := range c.cat.Order {
		p := planned[t.Root()]
		if p == nil {
			continue
		}
		own := *p
		own.Table = t
		for _, edge := range c.plan.Edges {
			if within(t, edge.From) {
				own.Out = append(own.Out, edge)
			}
			if within(t, edge.To) {
				own.In = append(own.In, edge)
			}
		}
		own.LargeObjectColumns = c.largeObjects(&own)
		c.plan.Tables[t.Name] = &own
	}
}

// within says whether every row of t is a row of whole: the same table, or a partitioned one above it.
func within(t, whole *catalog.Table) bool {
	for ; t != nil; t = t.Parent {
		if t == whole {
			return true
		}
	}
	return false
}

func (c *compiler) rewrite(at columnOf, s rules.Strategy) Rewrite {
	cl := c.classOf(at.table.Column(at.column))
	r := Rewrite{Column: at.column, Strategy: s, Domain: domainOf(at), MaxLen: cl.length}
	if shared, ok := c.shared[at]; ok {
		r.Domain, r.MaxLen = shared.domain, shared.maxLen
	}
	if s.Name == "hmac" {
		r.Strategy.Length = c.hmacLength(cl, s)
	}
	return r
}

// domainOf names a column without ambiguity, whatever its name holds.
func domainOf(at columnOf) string { return at.table.Name.SQL() + "." + catalog.Quote(at.column) }

// largeObjects lists the columns that may hold the number of a large object, in a table that erasing or always can
// take such a number from.
func (c *compiler) largeObjects(p *TablePlan) (columns []string) {
	loses := p.NoRows || (p.Subject != nil && p.Subject.Delete)
	changed := map[string]bool{}
	for _, edge := range p.Out {
		loses = loses || edge.Verb == Delete
		for _, column := range edge.Cut {
			changed[column] = true
		}
	}
	for _, list := range [][]Rewrite{p.Always, p.Redact} {
		for _, r := range list {
			changed[r.Column] = true
		}
	}
	for _, col := range p.Table.Columns {
		if (loses || changed[col.Name]) && c.holdsLargeObject(col) {
			columns = append(columns, col.Name)
		}
	}
	return columns
}

// yamlText writes a scalar that stands in a flow mapping.
func yamlText(s string) string {
	plain := s != "" && (s[0] == '_' || s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z')
	for i := 0; plain && i < len(s); i++ {
		b := s[i]
		plain = b == '_' || b == '.' || b == '$' || b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
	}
	switch strings.ToLower(s) {
	case "true", "false", "yes", "no", "on", "off", "y", "n", "null":
		plain = false
	}
	if plain {
		return s
	}
	if strings.ContainsAny(s, `"\`) || !strings.ContainsAny(s, `'`) && strings.Contains(s, `"`) {
		return `'` + strings.ReplaceAll(s, `'`, `''`) + `'`
	}
	return `"` + s + `"`
}

// closest returns the candidate that word is probably a slip for, or "".
func closest(word string, candidates []string) string {
	if len(word) > 128 {
		return ""
	}
	best, least := "", max(2, len(word)/3)+1
	for _, candidate := range candidates {
		d := editDistance(strings.ToLower(word), strings.ToLower(candidate))
		if d < least && 2*d <= max(len(candidate), 2) {
			best, least = candidate, d
		}
	}
	return best
}

// editDistance is Levenshtein's, in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
