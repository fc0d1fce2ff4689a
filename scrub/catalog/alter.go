package catalog

import (
	"errors"
	"fmt"
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

// dropColumn takes a column out of t, with everything that depends on it.
func (b *builder) dropColumn(t *Table, column string, recurse bool) {
	drop := func(d *Table) {
		d.Columns = slices.DeleteFunc(d.Columns, func(c *Column) bool { return c.Name == column })
		d.Checks = slices.DeleteFunc(d.Checks, func(c *Check) bool { return slices.Contains(c.Columns, column) })
		d.References = slices.DeleteFunc(d.References, func(f *ForeignKey) bool { return slices.Contains(f.Columns, column) })
		d.Keys = slices.DeleteFunc(d.Keys, func(k *Key) bool {
			gone := slices.Contains(k.Columns, column) || slices.Contains(k.ExpressionColumns, column) ||
				slices.Contains(k.PredicateColumns, column)
			if gone {
				delete(b.indexes, Name{d.Name.Schema, k.Name})
			}
			return gone
		})
		b.dropReferencesTo(func(f *ForeignKey) bool { return f.To == d.Name && slices.Contains(f.ToColumns, column) })
	}
	if recurse {
		b.descend(t, true, drop)
	} else {
		drop(t)
	}
}

func (b *builder) dropReferencesTo(match func(*ForeignKey) bool) {
	for _, t := range b.cat.Order {
		t.References = slices.DeleteFunc(t.References, match)
	}
}

// dropConstraint takes a constraint out of t and of what inherited it.
func (b *builder) dropConstraint(t *Table, name string) {
	var check *Check
	for _, c := range t.Checks {
		if c.Name == name {
			check = c
		}
	}
	var fk *ForeignKey
	for _, f := range t.References {
		if f.Name == name {
			fk = f
		}
	}
	b.descend(t, true, func(d *Table) {
		d.Checks = slices.DeleteFunc(d.Checks, func(c *Check) bool { return c == check })
		d.References = slices.DeleteFunc(d.References, func(f *ForeignKey) bool { return f == fk })
	})
	for _, k := range t.Keys {
		if k.Name == name {
			b.dropKey(t, k)
			return
		}
	}
}

// dropKey takes a key out of t and of its partitions.
func (b *builder) dropKey(t *Table, k *Key) {
	b.descend(t, false, func(d *Table) {
		d.Keys = slices.DeleteFunc(d.Keys, func(o *Key) bool {
			if o != k && !(d != t && o.equal(k)) {
				return false
			}
			delete(b.indexes, Name{d.Name.Schema, o.Name})
			return true
		})
	})
}

// drop follows DROP. What is not there is no error: pg_dump --clean drops before it creates.
func (b *builder) drop(s *pg_query.DropStmt) error {
	for _, o := range s.Objects {
		names := stringsOf(o.GetList().GetItems())
		if tn := o.GetTypeName(); tn != nil {
			names = stringsOf(tn.Names)
		}
		if str := o.GetString_(); str != nil {
			names = []string{str.Sval}
		}
		if len(names) == 0 {
			continue
		}
		switch s.RemoveType {
		case pg_query.ObjectType_OBJECT_TABLE, pg_query.ObjectType_OBJECT_FOREIGN_TABLE:
			b.dropTable(b.relation(rangeVar(names)))
		case pg_query.ObjectType_OBJECT_VIEW, pg_query.ObjectType_OBJECT_MATVIEW, pg_query.ObjectType_OBJECT_SEQUENCE:
			delete(b.others, b.relation(rangeVar(names)))
		case pg_query.ObjectType_OBJECT_INDEX:
			b.dropIndex(names)
		case pg_query.ObjectType_OBJECT_TYPE, pg_query.ObjectType_OBJECT_DOMAIN:
			name := b.qualify(names)
			if len(names) == 1 {
				name = b.findType(names[0])
			}
			if err := b.dropType(name); err != nil {
				return err
			}
		case pg_query.ObjectType_OBJECT_EXTENSION:
			b.cat.Extensions = slices.DeleteFunc(b.cat.Extensions, func(e string) bool { return e == names[0] })
		case pg_query.ObjectType_OBJECT_SCHEMA:
			for _, t := range slices.Clone(b.cat.Order) {
				if t.Name.Schema == names[0] {
					b.dropTable(t.Name)
				}
			}
			for name := range b.cat.Types {
				if name.Schema == names[0] {
					if err := b.dropType(name); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

func rangeVar(names []string) *pg_query.RangeVar {
	r := &pg_query.RangeVar{Relname: names[len(names)-1]}
	if len(names) > 1 {
		r.Schemaname = names[len(names)-2]
	}
	return r
}

func (b *builder) dropIndex(names []string) {
	if len(names) > 1 {
		if ref, ok := b.indexes[b.qualify(names)]; ok {
			b.dropKey(ref.table, ref.key)
		}
		return
	}
	for _, s := range b.path {
		if ref, ok := b.indexes[Name{s, names[0]}]; ok {
			b.dropKey(ref.table, ref.key)
			return
		}
	}
}

// dropTable takes a table out, with its partitions, children and the references to it.
func (b *builder) dropTable(name Name) {
	t := b.cat.Tables[name]
	if t == nil {
		return
	}
	for _, d := range slices.Concat(t.Partitions, b.children[t]) {
		b.dropTable(d.Name)
	}
	if t.Parent != nil {
		t.Parent.Partitions = slices.DeleteFunc(t.Parent.Partitions, func(d *Table) bool { return d == t })
	}
	for _, p := range t.Inherits {
		b.children[p] = slices.DeleteFunc(b.children[p], func(d *Table) bool { return d == t })
	}
	for _, k := range t.Keys {
		delete(b.indexes, Name{t.Name.Schema, k.Name})
	}
	delete(b.cat.Tables, name)
	b.cat.Order = slices.DeleteFunc(b.cat.Order, func(d *Table) bool { return d == t })
	b.dropReferencesTo(func(f *ForeignKey) bool { return f.To == name })
}

// dropType takes a type out. One that columns still use would take these columns with it.
func (b *builder) dropType(name Name) error {
	for _, t := range b.cat.Order {
		for _, c := range t.Columns {
			if c.Type.Name == name {
				return hinted{fmt.Errorf("type %s is dropped while column %s of %s has it", name, QuoteIfNeeded(c.Name), t.Name),
					"write the schema with pg_dump --schema-only"}
			}
		}
	}
	delete(b.cat.Types, name)
	return nil
}

// rename follows ALTER … RENAME.
func (b *builder) rename(s *pg_query.RenameStmt) error {
	switch s.RenameType {
	case pg_query.ObjectType_OBJECT_TABLE, pg_query.ObjectType_OBJECT_FOREIGN_TABLE,
		pg_query.ObjectType_OBJECT_VIEW, pg_query.ObjectType_OBJECT_MATVIEW, pg_query.ObjectType_OBJECT_SEQUENCE:
		name := b.relation(s.Relation)
		to := Name{name.Schema, s.Newname}
		if b.others[name] {
			delete(b.others, name)
			b.others[to] = true
			return nil
		}
		if b.cat.Tables[name] == nil {
			if s.MissingOk || s.RenameType != pg_query.ObjectType_OBJECT_TABLE && s.RenameType != pg_query.ObjectType_OBJECT_FOREIGN_TABLE {
				return nil
			}
			return fmt.Errorf("there is no table %s before this statement", name)
		}
		return b.moveTable(name, to)
	case pg_query.ObjectType_OBJECT_COLUMN:
		name := b.relation(s.Relation)
		t := b.cat.Tables[name]
		if t == nil {
			if b.others[name] || s.MissingOk {
				return nil
			}
			return fmt.Errorf("there is no table %s before this statement", name)
		}
		return b.renameColumn(t, s.Subname, s.Newname)
	case pg_query.ObjectType_OBJECT_TABCONSTRAINT:
		t, err := b.table(s.Relation)
		if err != nil {
			return err
		}
		for _, c := range t.Checks {
			if c.Name == s.Subname {
				c.Name = s.Newname
			}
		}
		for _, f := range t.References {
			if f.Name == s.Subname {
				f.Name = s.Newname
			}
		}
		b.renameKey(Name{t.Name.Schema, s.Subname}, s.Newname)
	case pg_query.ObjectType_OBJECT_INDEX:
		name := b.relation(s.Relation)
		if s.Relation.GetSchemaname() == "" {
			for _, schema := range b.path {
				if _, ok := b.indexes[Name{schema, s.Relation.GetRelname()}]; ok {
					name.Schema = schema
					break
				}
			}
		}
		b.renameKey(name, s.Newname)
	case pg_query.ObjectType_OBJECT_DOMCONSTRAINT:
		t, err := b.typ(s.Object.GetList().GetItems())
		if err != nil {
			return err
		}
		for _, c := range t.Checks {
			if c.Name == s.Subname {
				c.Name = s.Newname
			}
		}
	case pg_query.ObjectType_OBJECT_TYPE, pg_query.ObjectType_OBJECT_DOMAIN:
		t, err := b.typ(s.Object.GetList().GetItems())
		if err != nil {
			return err
		}
		b.moveType(t, Name{t.Name.Schema, s.Newname})
	case pg_query.ObjectType_OBJECT_ATTRIBUTE:
		t := b.cat.Types[b.findRelationType(s.Relation)]
		if t == nil {
			return fmt.Errorf("there is no type %s before this statement", b.relation(s.Relation))
		}
		for _, f := range t.Fields {
			if f.Name == s.Subname {
				f.Name = s.Newname
			}
		}
	case pg_query.ObjectType_OBJECT_SCHEMA, pg_query.ObjectType_OBJECT_COLLATION:
		return hinted{errors.New("renaming a schema or a collation is not followed"), "write the schema with pg_dump --schema-only"}
	case pg_query.ObjectType_OBJECT_FUNCTION, pg_query.ObjectType_OBJECT_ROUTINE, pg_query.ObjectType_OBJECT_OPERATOR:
		b.functions[s.Newname] = true
	}
	return nil
}

func (b *builder) renameKey(name Name, to string) {
	ref, ok := b.indexes[name]
	if !ok {
		return
	}
	delete(b.indexes, name)
	ref.key.Name = to
	b.indexes[Name{name.Schema, to}] = ref
}

// moveTable gives a table another name or schema.
func (b *builder) moveTable(from, to Name) error {
	if b.cat.Tables[to] != nil {
		return fmt.Errorf("table %s is defined twice", to)
	}
	t := b.cat.Tables[from]
	delete(b.cat.Tables, from)
	for _, k := range t.Keys {
		delete(b.indexes, Name{from.Schema, k.Name})
		b.indexes[Name{to.Schema, k.Name}] = indexRef{t, k}
	}
	t.Name = to
	b.cat.Tables[to] = t
	for _, o := range b.cat.Order {
		for _, f := range o.References {
			if f.To == from {
				f.To = to
			}
		}
	}
	return nil
}

// moveType gives a type another name or schema, wherever it is used.
func (b *builder) moveType(t *Type, to Name) {
	from := t.Name
	delete(b.cat.Types, from)
	t.Name = to
	b.cat.Types[to] = t
	use := func(r *TypeRef) {
		if r.Name == from {
			r.Name = to
		}
	}
	for _, o := range b.cat.Types {
		use(&o.Base)
		for _, f := range o.Fields {
			use(&f.Type)
		}
	}
	for _, o := range b.cat.Order {
		for _, c := range o.Columns {
			use(&c.Type)
		}
	}
}

// renameColumn renames a column of t and of its descendants, wherever it is mentioned.
func (b *builder) renameColumn(t *Table, from, to string) error {
	if t.Column(from) == nil {
		return fmt.Errorf("table %s has no column %s", t.Name, QuoteIfNeeded(from))
	}
	if t.Column(to) != nil {
		return fmt.Errorf("table %s has column %s twice", t.Name, QuoteIfNeeded(to))
	}
	names := func(list []string) {
		for i := range list {
			if list[i] == from {
				list[i] = to
			}
		}
	}
	expr := func(n *pg_query.Node) {
		walk(n, func(m any) {
			if ref, ok := m.(*pg_query.ColumnRef); ok && len(ref.Fields) > 0 {
				if s := ref.Fields[len(ref.Fields)-1].GetString_(); s != nil && s.Sval == from {
					s.Sval = to
				}
			}
		})
	}
	renamed := map[Name]bool{}
	b.descend(t, true, func(d *Table) {
		renamed[d.Name] = true
		for _, c := range d.Columns {
			if c.Name == from {
				c.Name = to
			}
			if g := b.generated[c]; g != nil {
				expr(g)
				c.Generated = exprText(g)
			}
		}
		names(d.PartitionKey)
		for _, k := range d.Keys {
			names(k.Columns)
			names(k.PredicateColumns)
			names(k.ExpressionColumns)
			expr(k.Predicate)
		}
		for _, c := range d.Checks {
			expr(c.Expr)
			c.Text = exprText(c.Expr)
			names(c.Columns)
		}
		for _, f := range d.References {
			names(f.Columns)
			names(f.OnDeleteColumns)
		}
	})
	for _, o := range b.cat.Order {
		for _, f := range o.References {
			if renamed[f.To] {
				names(f.ToColumns)
			}
		}
	}
	return nil
}

// setSchema follows ALTER … SET SCHEMA.
func (b *builder) setSchema(s *pg_query.AlterObjectSchemaStmt) error {
	switch s.ObjectType {
	case pg_query.ObjectType_OBJECT_TABLE, pg_query.ObjectType_OBJECT_FOREIGN_TABLE, pg_query.ObjectType_OBJECT_VIEW,
		pg_query.ObjectType_OBJECT_MATVIEW, pg_query.ObjectType_OBJECT_SEQUENCE:
		name := b.relation(s.Relation)
		if b.cat.Tables[name] != nil {
			return b.moveTable(name, Name{s.Newschema, name.Name})
		}
		if b.others[name] {
			delete(b.others, name)
			b.others[Name{s.Newschema, name.Name}] = true
		}
	case pg_query.ObjectType_OBJECT_TYPE, pg_query.ObjectType_OBJECT_DOMAIN:
		t, err := b.typ(s.Object.GetList().GetItems())
		if err != nil {
			return err
		}
		b.moveType(t, Name{s.Newschema, t.Name.Name})
	case pg_query.ObjectType_OBJECT_EXTENSION, pg_query.ObjectType_OBJECT_COLLATION:
		return hinted{errors.New("moving an extension or a collation to another schema is not followed"),
			"write the schema with pg_dump --schema-only"}
	}
	return nil
}
