package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

func itoa(i int) string { return strconv.Itoa(i) }

// createTable follows CREATE TABLE and CREATE FOREIGN TABLE.
func (b *builder) createTable(s *pg_query.CreateStmt, kind TableKind) error {
	t := &Table{Name: b.newRelation(s.Relation), Kind: kind, Unlogged: s.Relation.GetRelpersistence() == "u", DefinedAtLine: b.line}
	if s.Relation.GetRelpersistence() == "t" {
		return hinted{fmt.Errorf("table %s is temporary: it is no part of a schema", t.Name), "leave the statement out"}
	}
	if b.cat.Tables[t.Name] != nil {
		if s.IfNotExists {
			return nil
		}
		return fmt.Errorf("table %s is defined twice", t.Name)
	}
	if s.Partspec != nil {
		t.Kind = Partitioned
	}

	if s.OfTypename != nil {
		typ, err := b.typ(s.OfTypename.Names)
		if err != nil {
			return err
		}
		for _, f := range typ.Fields {
			c := *f
			t.Columns = append(t.Columns, &c)
		}
	}
	var parents []*Table
	for _, r := range s.InhRelations {
		p, err := b.table(r.GetRangeVar())
		if err != nil {
			return err
		}
		if slices.Contains(parents, p) {
			return fmt.Errorf("table %s inherits from %s twice", t.Name, p.Name)
		}
		parents = append(parents, p)
		b.inheritColumns(p, t, s.Partbound != nil)
	}

	var later []pendingConstraint
	for _, n := range s.TableElts {
		switch {
		case n.GetColumnDef() != nil:
			cs, err := b.addColumn(t, n.GetColumnDef())
			if err != nil {
				return err
			}
			later = append(later, cs...)
		case n.GetTableLikeClause() != nil:
			if err := b.like(t, n.GetTableLikeClause()); err != nil {
				return err
			}
		case n.GetConstraint() != nil:
			later = append(later, pendingConstraint{"", n.GetConstraint()})
		default:
			return fmt.Errorf("table %s has an element that is not understood", t.Name)
		}
	}
	if s.Partspec != nil {
		for _, n := range s.Partspec.PartParams {
			e := n.GetPartitionElem()
			cols := columnsOf(t, e.GetExpr())
			if e.GetName() != "" {
				cols = []string{e.GetName()}
			}
			for _, c := range cols {
				if t.Column(c) == nil {
					return fmt.Errorf("the partition key of %s names column %s, which it does not have", t.Name, QuoteIfNeeded(c))
				}
				if !slices.Contains(t.PartitionKey, c) {
					t.PartitionKey = append(t.PartitionKey, c)
				}
			}
		}
	}
	b.cat.Tables[t.Name] = t
	b.cat.Order = append(b.cat.Order, t)
	// As a server does: checks, then keys, then references, which may mean the table's own primary key.
	for _, pass := range []func(pg_query.ConstrType) bool{isCheck, isKey, isReference} {
		for _, c := range later {
			if pass(c.def.Contype) {
				if err := b.addConstraint(t, c.def, c.column); err != nil {
					return err
				}
			}
		}
	}
	for _, p := range parents {
		b.link(p, t, s.Partbound != nil)
	}
	return nil
}

// pendingConstraint is a constraint of CREATE TABLE that waits until all columns are known.
type pendingConstraint struct {
	column string // the column it stands at, or ""
	def    *pg_query.Constraint
}

func isCheck(c pg_query.ConstrType) bool     { return !isKey(c) && !isReference(c) }
func isReference(c pg_query.ConstrType) bool { return c == pg_query.ConstrType_CONSTR_FOREIGN }
func isKey(c pg_query.ConstrType) bool {
	return c == pg_query.ConstrType_CONSTR_PRIMARY || c == pg_query.ConstrType_CONSTR_UNIQUE ||
		c == pg_query.ConstrType_CONSTR_EXCLUSION
}

// addColumn adds the column, or merges it into the inherited one of the same name, and returns its constraints that
// have to wait.
func (b *builder) addColumn(t *Table, d *pg_query.ColumnDef) ([]pendingConstraint, error) {
	c := t.Column(d.Colname)
	if c == nil {
		if d.TypeName == nil {
			return nil, fmt.Errorf("table %s has no column %s", t.Name, QuoteIfNeeded(d.Colname))
		}
		c = &Column{Name: d.Colname}
		t.Columns = append(t.Columns, c)
	}
	if d.TypeName != nil {
		if name, ok := serialType(d.TypeName); ok {
			c.Type = TypeRef{Name: Name{"pg_catalog", name}}
			c.NotNull = true
			seq := Name{t.Name.Schema, objectName(t.Name.Name, c.Name, "seq")}
			b.others[seq] = true
			c.Default = "nextval(" + Literal(QuoteIfNeeded(seq.Schema)+"."+QuoteIfNeeded(seq.Name)) + "::regclass)"
		} else {
			c.Type = b.typeRef(d.TypeName)
		}
		c.Collation = b.collation(d.CollClause)
	}
	c.NotNull = c.NotNull || d.IsNotNull
	var later []pendingConstraint
	for _, n := range d.Constraints {
		k := n.GetConstraint()
		switch k.GetContype() {
		case pg_query.ConstrType_CONSTR_NOTNULL:
			c.NotNull = true
		case pg_query.ConstrType_CONSTR_DEFAULT:
			c.Default = defaultText(k.RawExpr)
			c.Generated = ""
			delete(b.generated, c)
		case pg_query.ConstrType_CONSTR_IDENTITY:
			c.Identity, c.NotNull = true, true
		case pg_query.ConstrType_CONSTR_GENERATED:
			c.Generated, c.Default = exprText(k.RawExpr), ""
			b.generated[c] = k.RawExpr
		case pg_query.ConstrType_CONSTR_CHECK, pg_query.ConstrType_CONSTR_PRIMARY, pg_query.ConstrType_CONSTR_UNIQUE,
			pg_query.ConstrType_CONSTR_EXCLUSION, pg_query.ConstrType_CONSTR_FOREIGN:
			later = append(later, pendingConstraint{c.Name, k})
		}
	}
	return later, nil
}

// defaultText prints a DEFAULT; NULL is none.
func defaultText(n *pg_query.Node) string {
	if n.GetAConst().GetIsnull() {
		return ""
	}
	return exprText(n)
}

// like copies what LIKE copies: columns and NOT NULL always, the rest where it is INCLUDED.
func (b *builder) like(t *Table, l *pg_query.TableLikeClause) error {
	from, err := b.table(l.Relation)
	if err != nil {
		return err
	}
	const ( // TableLikeOption in src/include/nodes/parsenodes.h
		constraints = 1 << 2
		defaults    = 1 << 3
		generated   = 1 << 4
		identity    = 1 << 5
		indexes     = 1 << 6
	)
	for _, f := range from.Columns {
		if t.Column(f.Name) != nil {
			return fmt.Errorf("table %s has column %s twice", t.Name, QuoteIfNeeded(f.Name))
		}
		c := *f
		if l.Options&defaults == 0 {
			c.Default = ""
		}
		if l.Options&identity == 0 {
			c.Identity = false
		}
		if l.Options&generated == 0 {
			c.Generated = ""
		} else if g := b.generated[f]; g != nil {
			b.generated[&c] = cloneNode(g)
		}
		t.Columns = append(t.Columns, &c)
	}
	if l.Options&constraints != 0 {
		for _, c := range from.Checks {
			t.Checks = append(t.Checks, &Check{Name: c.Name, Text: c.Text, Expr: cloneNode(c.Expr), Columns: slices.Clone(c.Columns)})
		}
	}
	if l.Options&indexes != 0 {
		for _, k := range from.Keys {
			c := *k
			c.Columns, c.ExpressionColumns = slices.Clone(k.Columns), slices.Clone(k.ExpressionColumns)
			c.inherited = false
			c.Predicate, c.PredicateColumns = cloneNode(k.Predicate), slices.Clone(k.PredicateColumns)
			c.Name = b.keyName(t, &c)
			b.addKey(t, &c)
		}
	}
	return nil
}

// addConstraint adds a constraint to t and to all that must have it too. column is the column it stands at, if any.
func (b *builder) addConstraint(t *Table, c *pg_query.Constraint, column string) error {
	switch {
	case c.Contype == pg_query.ConstrType_CONSTR_CHECK:
		k := &Check{Name: c.Conname, Text: exprText(c.RawExpr), Expr: c.RawExpr, Columns: columnsOf(t, c.RawExpr)}
		if k.Name == "" {
			name2 := ""
			if len(k.Columns) == 1 {
				name2 = k.Columns[0]
			}
			k.Name = unusedName(objectName(t.Name.Name, name2, "check"), t.hasConstraint)
		}
		if err := haveColumns(t, k.Columns, "check "+k.Name); err != nil {
			return err
		}
		b.addCheck(t, k, !c.IsNoInherit)
	case isKey(c.Contype):
		return b.addKeyConstraint(t, c, column)
	case c.Contype == pg_query.ConstrType_CONSTR_FOREIGN:
		return b.addReference(t, c, column)
	case c.Contype == pg_query.ConstrType_CONSTR_NOTNULL:
		cols := stringsOf(c.Keys)
		if err := haveColumns(t, cols, "NOT NULL"); err != nil {
			return err
		}
		for _, name := range cols {
			b.descend(t, true, func(d *Table) { d.setNotNull(name) })
		}
	case c.Contype == pg_query.ConstrType_CONSTR_ATTR_DEFERRABLE, c.Contype == pg_query.ConstrType_CONSTR_ATTR_NOT_DEFERRABLE,
		c.Contype == pg_query.ConstrType_CONSTR_ATTR_DEFERRED, c.Contype == pg_query.ConstrType_CONSTR_ATTR_IMMEDIATE:
	default:
		return fmt.Errorf("table %s has a constraint that is not understood", t.Name)
	}
	return nil
}

func haveColumns(t *Table, cols []string, what string) error {
	for _, c := range cols {
		if t.Column(c) == nil && !isSystemColumn(c) {
			return fmt.Errorf("%s of %s names column %s, which it does not have", what, t.Name, QuoteIfNeeded(c))
		}
	}
	return nil
}

func isSystemColumn(c string) bool {
	return c == "tableoid" || c == "ctid" || c == "xmin" || c == "xmax" || c == "cmin" || c == "cmax"
}

func (t *Table) setNotNull(column string) {
	if c := t.Column(column); c != nil {
		c.NotNull = true
	}
}

func (t *Table) hasConstraint(name string) bool {
	return slices.ContainsFunc(t.Checks, func(c *Check) bool { return c.Name == name }) ||
		slices.ContainsFunc(t.Keys, func(k *Key) bool { return k.Name == name }) ||
		slices.ContainsFunc(t.References, func(f *ForeignKey) bool { return f.Name == name })
}

// addCheck adds a check to t, and to its descendants unless it is NO INHERIT.
func (b *builder) addCheck(t *Table, k *Check, inherit bool) {
	add := func(d *Table) {
		if !slices.ContainsFunc(d.Checks, func(c *Check) bool { return c.Name == k.Name }) {
			d.Checks = append(d.Checks, k)
		}
	}
	if inherit {
		b.descend(t, true, add)
	} else {
		b.noInherit[k] = true
		add(t)
	}
}

func (b *builder) addKeyConstraint(t *Table, c *pg_query.Constraint, column string) error {
	k := &Key{Name: c.Conname, Primary: c.Contype == pg_query.ConstrType_CONSTR_PRIMARY,
		Exclusion: c.Contype == pg_query.ConstrType_CONSTR_EXCLUSION, NullsNotDistinct: c.NullsNotDistinct}
	if c.Indexname != "" { // USING INDEX: the index becomes the constraint's, and takes its name
		ref, ok := b.indexes[Name{t.Name.Schema, c.Indexname}]
		if !ok || ref.table != t {
			return fmt.Errorf("table %s has no unique index %s before this statement", t.Name, QuoteIfNeeded(c.Indexname))
		}
		delete(b.indexes, Name{t.Name.Schema, c.Indexname})
		if c.Conname != "" {
			ref.key.Name = c.Conname
		}
		b.indexes[Name{t.Name.Schema, ref.key.Name}] = ref
		ref.key.Primary = k.Primary
		if k.Primary {
			for _, col := range ref.key.Columns {
				b.descend(t, false, func(d *Table) { d.setNotNull(col) })
			}
		}
		return nil
	}
	k.Columns = stringsOf(c.Keys)
	if len(k.Columns) == 0 && column != "" && !k.Exclusion {
		k.Columns = []string{column}
	}
	if k.Exclusion {
		var elems []*pg_query.Node
		for _, e := range c.Exclusions {
			if items := e.GetList().GetItems(); len(items) > 0 {
				elems = append(elems, items[0])
			}
		}
		k.members(t, elems, c.WhereClause)
	}
	if err := haveColumns(t, slices.Concat(k.Columns, k.ExpressionColumns, k.PredicateColumns), "a key"); err != nil {
		return err
	}
	if k.Name == "" {
		k.Name = b.keyName(t, k, stringsOf(c.Including)...)
	}
	b.addKey(t, k)
	return nil
}

// members fills in a key's members from index elements.
func (k *Key) members(t *Table, elems []*pg_query.Node, where *pg_query.Node) {
	for _, n := range elems {
		e := n.GetIndexElem()
		if e.GetName() != "" {
			k.Columns = append(k.Columns, e.GetName())
			continue
		}
		k.Expressions = true
		for _, c := range columnsOf(t, e.GetExpr()) {
			if !slices.Contains(k.ExpressionColumns, c) {
				k.ExpressionColumns = append(k.ExpressionColumns, c)
			}
		}
		k.exprs = append(k.exprs, exprText(e.GetExpr()))
	}
	k.Predicate, k.PredicateColumns = where, nil
	if where != nil {
		k.PredicateColumns = columnsOf(t, where)
	}
}

// keyName is the name that a server gives a key constraint without one.
func (b *builder) keyName(t *Table, k *Key, including ...string) string {
	base, members := "", joinNames(append(k.memberNames(), including...))
	switch {
	case k.Primary:
		base = objectName(t.Name.Name, "", "pkey")
	case k.Exclusion:
		base = objectName(t.Name.Name, members, "excl")
	default:
		base = objectName(t.Name.Name, members, "key")
	}
	return unusedName(base, func(n string) bool {
		full := Name{t.Name.Schema, n}
		_, index := b.indexes[full]
		return index || b.others[full] || b.cat.Tables[full] != nil
	})
}

func (k *Key) memberNames() []string {
	names := slices.Clone(k.Columns)
	for range k.exprs {
		names = append(names, "expr")
	}
	return names
}

// joinNames joins names as ChooseIndexNameAddition does.
func joinNames(names []string) string {
	s := ""
	for i, n := range names {
		if i > 0 {
			s += "_"
		}
		s += n
		if len(s) >= 63 {
			break
		}
	}
	return s
}

// addKey adds a key to t and, as a server does, to partitions that have no equal one.
func (b *builder) addKey(t *Table, k *Key) {
	for _, o := range t.Keys {
		if o.inherited && !k.inherited && o.equal(k) { // pg_dump writes a partition's keys after its parent's
			delete(b.indexes, Name{t.Name.Schema, o.Name})
			o.Name, o.inherited = k.Name, false
			b.indexes[Name{t.Name.Schema, o.Name}] = indexRef{t, o}
			return
		}
	}
	t.Keys = append(t.Keys, k)
	b.indexes[Name{t.Name.Schema, k.Name}] = indexRef{t, k}
	if k.Primary {
		for _, c := range k.Columns {
			t.setNotNull(c)
		}
	}
	for _, p := range t.Partitions {
		b.inheritKey(k, p)
	}
}

// inheritKey gives a partition the key of its parent.
func (b *builder) inheritKey(k *Key, p *Table) {
	if k.Primary {
		for _, c := range k.Columns {
			p.setNotNull(c)
		}
	}
	for _, own := range p.Keys {
		if own.equal(k) {
			return
		}
	}
	c := *k
	c.inherited = true
	c.Name = b.keyName(p, k)
	b.addKey(p, &c)
}

// equal says whether two keys constrain the same.
func (k *Key) equal(o *Key) bool {
	return k.Primary == o.Primary && k.Exclusion == o.Exclusion && k.NullsNotDistinct == o.NullsNotDistinct &&
		slices.Equal(k.Columns, o.Columns) && slices.Equal(k.exprs, o.exprs) && exprText(k.Predicate) == exprText(o.Predicate)
}

func (b *builder) addReference(t *Table, c *pg_query.Constraint, column string) error {
	fk := &ForeignKey{
		Name:            c.Conname,
		Columns:         stringsOf(c.FkAttrs),
		To:              b.relation(c.Pktable),
		ToColumns:       stringsOf(c.PkAttrs),
		OnDelete:        actionOf(c.FkDelAction),
		OnDeleteColumns: stringsOf(c.FkDelSetCols),
		OnUpdate:        actionOf(c.FkUpdAction),
		Match:           MatchSimple,
		NotValid:        c.SkipValidation && !c.InitiallyValid,
	}
	if c.FkMatchtype == "f" {
		fk.Match = MatchFull
	}
	if len(fk.Columns) == 0 && column != "" {
		fk.Columns = []string{column}
	}
	if err := haveColumns(t, fk.Columns, "a foreign key"); err != nil {
		return err
	}
	if fk.Name == "" {
		fk.Name = unusedName(objectName(t.Name.Name, joinNames(fk.Columns), "fkey"), t.hasConstraint)
	}
	b.pending = append(b.pending, pendingKey{fk: fk, table: t, line: b.line, part: b.part})
	if to := b.cat.Tables[fk.To]; to != nil && len(fk.ToColumns) == 0 {
		fk.ToColumns = slices.Clone(to.primaryKey())
	}
	b.inheritReference(fk, t)
	return nil
}

func actionOf(a string) Action {
	if a == "" {
		return NoAction
	}
	return Action(a[0])
}

// inheritReference gives t and its partitions a foreign key, unless they have an equal one.
func (b *builder) inheritReference(fk *ForeignKey, t *Table) {
	for _, own := range t.References {
		if own == fk || own.To == fk.To && slices.Equal(own.Columns, fk.Columns) && slices.Equal(own.ToColumns, fk.ToColumns) &&
			own.OnDelete == fk.OnDelete && own.OnUpdate == fk.OnUpdate && own.Match == fk.Match && t.Parent != nil &&
			slices.Contains(t.Parent.References, fk) {
			return
		}
	}
	t.References = append(t.References, fk)
	for _, p := range t.Partitions {
		b.inheritReference(fk, p)
	}
}

// descend calls f once for t and for everything under it: partitions, and inheritance children where children is set.
func (b *builder) descend(t *Table, children bool, f func(*Table)) {
	if len(t.Partitions) == 0 && len(b.children[t]) == 0 {
		f(t)
		return
	}
	family := []*Table{t}
	seen := map[*Table]bool{t: true} // a child may have several parents in one family
	add := func(list []*Table) {
		for _, c := range list {
			if !seen[c] {
				seen[c] = true
				family = append(family, c)
			}
		}
	}
	for i := 0; i < len(family); i++ {
		add(family[i].Partitions)
		if children {
			add(b.children[family[i]])
		}
	}
	for _, d := range family {
		f(d)
	}
}

// under says whether d is t or stands under it.
func (b *builder) under(d, t *Table) bool {
	found := false
	b.descend(t, true, func(o *Table) { found = found || o == d })
	return found
}

// inheritColumns gives a new child the columns of its parent, merging those that it has already.
func (b *builder) inheritColumns(p, t *Table, partition bool) {
	for _, f := range p.Columns {
		c := t.Column(f.Name)
		if c != nil {
			c.NotNull = c.NotNull || f.NotNull
			continue
		}
		c = &Column{}
		*c = *f
		c.Identity = f.Identity && partition
		if g := b.generated[f]; g != nil {
			b.generated[c] = g
		}
		t.Columns = append(t.Columns, c)
	}
}

// link makes t a child or a partition of p, and hands down what p's constraints demand.
func (b *builder) link(p, t *Table, partition bool) {
	if partition {
		t.Parent = p
		p.Partitions = append(p.Partitions, t)
	} else {
		t.Inherits = append(t.Inherits, p)
		b.children[p] = append(b.children[p], t)
	}
	for _, c := range p.Columns {
		if c.NotNull {
			b.descend(t, true, func(d *Table) { d.setNotNull(c.Name) })
		}
	}
	for _, k := range p.Checks {
		if !b.noInherit[k] {
			b.addCheck(t, k, true)
		}
	}
	if partition {
		for _, k := range p.Keys {
			b.inheritKey(k, t)
		}
		for _, fk := range p.References {
			b.inheritReference(fk, t)
		}
	}
}

// createIndex follows CREATE UNIQUE INDEX; other indexes constrain nothing.
func (b *builder) createIndex(s *pg_query.IndexStmt) error {
	name := s.Idxname
	if !s.Unique {
		if name != "" {
			b.others[Name{b.relation(s.Relation).Schema, name}] = true
		}
		return nil
	}
	rel := b.relation(s.Relation)
	t := b.cat.Tables[rel]
	if t == nil {
		if b.others[rel] { // of a materialized view
			return nil
		}
		return fmt.Errorf("there is no table %s before this statement", rel)
	}
	k := &Key{Name: name, NullsNotDistinct: s.NullsNotDistinct}
	if name != "" && s.IfNotExists {
		if _, ok := b.indexes[Name{t.Name.Schema, name}]; ok {
			return nil
		}
	}
	k.members(t, s.IndexParams, s.WhereClause)
	if err := haveColumns(t, slices.Concat(k.Columns, k.ExpressionColumns, k.PredicateColumns), "a unique index"); err != nil {
		return err
	}
	if k.Name == "" {
		members := k.memberNames()
		for _, n := range s.IndexIncludingParams {
			members = append(members, n.GetIndexElem().GetName())
		}
		k.Name = unusedName(objectName(t.Name.Name, joinNames(members), "idx"), func(n string) bool {
			_, ok := b.indexes[Name{t.Name.Schema, n}]
			return ok || b.others[Name{t.Name.Schema, n}]
		})
	}
	b.addKey(t, k)
	return nil
}

// alterTable follows ALTER TABLE, and the commands of the same shape on foreign tables and composite types.
func (b *builder) alterTable(s *pg_query.AlterTableStmt) error {
	if s.Objtype == pg_query.ObjectType_OBJECT_TYPE {
		return b.alterComposite(s)
	}
	name := b.relation(s.Relation)
	t := b.cat.Tables[name]
	if t == nil {
		if b.others[name] || s.MissingOk || !definesAnything(s) {
			return nil
		}
		return fmt.Errorf("there is no table %s before this statement", name)
	}
	for _, n := range s.Cmds {
		if err := b.alterTableCmd(t, n.GetAlterTableCmd(), s.Relation.GetInh()); err != nil {
			return err
		}
	}
	return nil
}

// definesAnything says whether an ALTER of a relation that is not known could matter. (pg_dump --clean drops
// constraints before anything is created.)
func definesAnything(s *pg_query.AlterTableStmt) bool {
	switch s.Objtype {
	case pg_query.ObjectType_OBJECT_TABLE, pg_query.ObjectType_OBJECT_FOREIGN_TABLE:
	default:
		return false
	}
	for _, n := range s.Cmds {
		switch n.GetAlterTableCmd().GetSubtype() {
		case pg_query.AlterTableType_AT_ChangeOwner, pg_query.AlterTableType_AT_DropConstraint,
			pg_query.AlterTableType_AT_DropColumn, pg_query.AlterTableType_AT_DetachPartition:
		default:
			return true
		}
	}
	return false
}

func (b *builder) alterTableCmd(t *Table, cmd *pg_query.AlterTableCmd, recurse bool) error {
	column := func() (*Column, error) {
		if c := t.Column(cmd.Name); c != nil {
			return c, nil
		}
		return nil, fmt.Errorf("table %s has no column %s", t.Name, QuoteIfNeeded(cmd.Name))
	}
	// each calls f for the column here and, unless ONLY was said, in all descendants.
	each := func(f func(*Table, *Column)) error {
		c, err := column()
		if err != nil {
			return err
		}
		if !recurse {
			f(t, c)
			return nil
		}
		b.descend(t, true, func(d *Table) {
			if c := d.Column(cmd.Name); c != nil {
				f(d, c)
			}
		})
		return nil
	}
	switch cmd.Subtype {
	case pg_query.AlterTableType_AT_AddColumn:
		return b.alterAddColumn(t, cmd)
	case pg_query.AlterTableType_AT_DropColumn:
		if t.Column(cmd.Name) == nil {
			if cmd.MissingOk {
				return nil
			}
			_, err := column()
			return err
		}
		b.dropColumn(t, cmd.Name, recurse)
	case pg_query.AlterTableType_AT_ColumnDefault:
		return each(func(_ *Table, c *Column) { c.Default = defaultText(cmd.Def) })
	case pg_query.AlterTableType_AT_SetNotNull:
		return each(func(_ *Table, c *Column) { c.NotNull = true })
	case pg_query.AlterTableType_AT_DropNotNull:
		return each(func(_ *Table, c *Column) { c.NotNull = false })
	case pg_query.AlterTableType_AT_DropExpression:
		return each(func(_ *Table, c *Column) { c.Generated = ""; delete(b.generated, c) })
	case pg_query.AlterTableType_AT_AddIdentity:
		c, err := column()
		if err != nil {
			return err
		}
		c.Identity, c.NotNull = true, true
		b.descend(t, false, func(d *Table) { d.setNotNull(c.Name) })
	case pg_query.AlterTableType_AT_DropIdentity:
		c, err := column()
		if err != nil {
			return err
		}
		c.Identity = false
	case pg_query.AlterTableType_AT_AlterColumnType:
		d := cmd.Def.GetColumnDef()
		typ, coll := b.typeRef(d.GetTypeName()), b.collation(d.GetCollClause())
		return each(func(_ *Table, c *Column) { c.Type, c.Collation = typ, coll })
	case pg_query.AlterTableType_AT_AddConstraint, pg_query.AlterTableType_AT_AddIndexConstraint:
		return b.addConstraint(t, cmd.Def.GetConstraint(), "")
	case pg_query.AlterTableType_AT_DropConstraint:
		b.dropConstraint(t, cmd.Name)
	case pg_query.AlterTableType_AT_ValidateConstraint:
		for _, fk := range t.References {
			if fk.Name == cmd.Name {
				fk.NotValid = false
			}
		}
	case pg_query.AlterTableType_AT_AttachPartition:
		p, err := b.table(cmd.Def.GetPartitionCmd().GetName())
		if err != nil {
			if b.others[b.relation(cmd.Def.GetPartitionCmd().GetName())] { // ALTER INDEX … ATTACH
				return nil
			}
			return err
		}
		if p.Parent != nil {
			return fmt.Errorf("table %s is a partition already", p.Name)
		}
		if b.under(t, p) {
			return fmt.Errorf("table %s can't be a partition of %s, which stands under it", p.Name, t.Name)
		}
		b.link(t, p, true)
	case pg_query.AlterTableType_AT_DetachPartition, pg_query.AlterTableType_AT_DetachPartitionFinalize:
		p, err := b.table(cmd.Def.GetPartitionCmd().GetName())
		if err != nil {
			return err
		}
		if p.Parent != t {
			return fmt.Errorf("table %s is no partition of %s", p.Name, t.Name)
		}
		p.Parent = nil
		t.Partitions = slices.DeleteFunc(t.Partitions, func(d *Table) bool { return d == p })
	case pg_query.AlterTableType_AT_AddInherit:
		p, err := b.table(cmd.Def.GetRangeVar())
		if err != nil {
			return err
		}
		if b.under(p, t) {
			return fmt.Errorf("table %s can't inherit from %s, which inherits from it", t.Name, p.Name)
		}
		b.link(p, t, false)
	case pg_query.AlterTableType_AT_DropInherit:
		p, err := b.table(cmd.Def.GetRangeVar())
		if err != nil {
			return err
		}
		t.Inherits = slices.DeleteFunc(t.Inherits, func(d *Table) bool { return d == p })
		b.children[p] = slices.DeleteFunc(b.children[p], func(d *Table) bool { return d == t })
	case pg_query.AlterTableType_AT_SetLogged:
		t.Unlogged = false
	case pg_query.AlterTableType_AT_SetUnLogged:
		t.Unlogged = true
	case pg_query.AlterTableType_AT_AddOf, pg_query.AlterTableType_AT_DropOf,
		pg_query.AlterTableType_AT_SetStatistics, pg_query.AlterTableType_AT_SetOptions, pg_query.AlterTableType_AT_ResetOptions,
		pg_query.AlterTableType_AT_SetStorage, pg_query.AlterTableType_AT_SetCompression,
		pg_query.AlterTableType_AT_AlterConstraint, pg_query.AlterTableType_AT_AlterColumnGenericOptions,
		pg_query.AlterTableType_AT_ChangeOwner, pg_query.AlterTableType_AT_ClusterOn, pg_query.AlterTableType_AT_DropCluster,
		pg_query.AlterTableType_AT_DropOids, pg_query.AlterTableType_AT_SetAccessMethod, pg_query.AlterTableType_AT_SetTableSpace,
		pg_query.AlterTableType_AT_SetRelOptions, pg_query.AlterTableType_AT_ResetRelOptions, pg_query.AlterTableType_AT_ReplaceRelOptions,
		pg_query.AlterTableType_AT_EnableTrig, pg_query.AlterTableType_AT_EnableAlwaysTrig, pg_query.AlterTableType_AT_EnableReplicaTrig,
		pg_query.AlterTableType_AT_DisableTrig, pg_query.AlterTableType_AT_EnableTrigAll, pg_query.AlterTableType_AT_DisableTrigAll,
		pg_query.AlterTableType_AT_EnableTrigUser, pg_query.AlterTableType_AT_DisableTrigUser,
		pg_query.AlterTableType_AT_EnableRule, pg_query.AlterTableType_AT_EnableAlwaysRule, pg_query.AlterTableType_AT_EnableReplicaRule,
		pg_query.AlterTableType_AT_DisableRule, pg_query.AlterTableType_AT_ReplicaIdentity,
		pg_query.AlterTableType_AT_EnableRowSecurity, pg_query.AlterTableType_AT_DisableRowSecurity,
		pg_query.AlterTableType_AT_ForceRowSecurity, pg_query.AlterTableType_AT_NoForceRowSecurity,
		pg_query.AlterTableType_AT_GenericOptions, pg_query.AlterTableType_AT_SetIdentity:
		// nothing that a catalog holds
	default:
		return fmt.Errorf("table %s is altered in a way that is not understood (%s)", t.Name, cmd.Subtype)
	}
	return nil
}

func (b *builder) alterAddColumn(t *Table, cmd *pg_query.AlterTableCmd) error {
	d := cmd.Def.GetColumnDef()
	if t.Column(d.GetColname()) != nil {
		if cmd.MissingOk {
			return nil
		}
		return fmt.Errorf("table %s has column %s twice", t.Name, QuoteIfNeeded(d.GetColname()))
	}
	later, err := b.addColumn(t, d)
	if err != nil {
		return err
	}
	c := t.Column(d.Colname)
	for _, child := range slices.Concat(t.Partitions, b.children[t]) {
		b.descend(child, true, func(o *Table) {
			if o.Column(c.Name) == nil {
				n := *c
				n.Identity = false
				if g := b.generated[c]; g != nil {
					b.generated[&n] = g
				}
				o.Columns = append(o.Columns, &n)
			}
		})
	}
	for _, k := range later {
		if err := b.addConstraint(t, k.def, k.column); err != nil {
			return err
		}
	}
	return nil
}

// alterComposite follows ALTER TYPE … ADD, DROP and ALTER ATTRIBUTE.
func (b *builder) alterComposite(s *pg_query.AlterTableStmt) error {
	t := b.cat.Types[b.findRelationType(s.Relation)]
	if t == nil {
		if !slices.ContainsFunc(s.Cmds, func(n *pg_query.Node) bool {
			return n.GetAlterTableCmd().GetSubtype() != pg_query.AlterTableType_AT_ChangeOwner
		}) {
			return nil
		}
		return fmt.Errorf("there is no type %s before this statement", b.relation(s.Relation))
	}
	for _, n := range s.Cmds {
		cmd := n.GetAlterTableCmd()
		d := cmd.GetDef().GetColumnDef()
		switch cmd.GetSubtype() {
		case pg_query.AlterTableType_AT_AddColumn:
			t.Fields = append(t.Fields, &Column{Name: d.GetColname(), Type: b.typeRef(d.GetTypeName()), Collation: b.collation(d.GetCollClause())})
		case pg_query.AlterTableType_AT_DropColumn:
			t.Fields = slices.DeleteFunc(t.Fields, func(c *Column) bool { return c.Name == cmd.Name })
		case pg_query.AlterTableType_AT_AlterColumnType:
			for _, f := range t.Fields {
				if f.Name == cmd.Name {
					f.Type, f.Collation = b.typeRef(d.GetTypeName()), b.collation(d.GetCollClause())
				}
			}
		case pg_query.AlterTableType_AT_ChangeOwner:
		default:
			return errors.New("this ALTER TYPE is not understood")
		}
	}
	return nil
}

func (b *builder) findRelationType(r *pg_query.RangeVar) Name {
	if r.GetSchemaname() != "" {
		return Name{r.GetSchemaname(), r.GetRelname()}
	}
	return b.findType(r.GetRelname())
}
