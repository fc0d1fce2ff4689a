package catalog

import (
	"fmt"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

// builtinTypes are the types of pg_catalog that may stand in a table (PostgreSQL 13 to 18), so that unqualified names
// in a schema written by hand resolve as a server resolves them: pg_catalog first.
const builtinTypes = ` aclitem bit bool box bpchar bytea char cid cidr circle cstring date datemultirange daterange ` +
	`float4 float8 gtsvector inet int2 int2vector int4 int4multirange int4range int8 int8multirange int8range interval json jsonb ` +
	`jsonpath line lseg macaddr macaddr8 money name numeric nummultirange numrange oid oid8 oidvector path pg_lsn ` +
	`pg_snapshot point polygon record refcursor regclass regcollation regconfig regdictionary regnamespace regoper ` +
	`regoperator regproc regprocedure regrole regtype text tid time timestamp timestamptz timetz tsmultirange tsquery ` +
	`tsrange tstzmultirange tstzrange tsvector txid_snapshot uuid varbit varchar xid xid8 xml `

func isBuiltinType(name string) bool {
	return !strings.ContainsRune(name, ' ') && strings.Contains(builtinTypes, " "+name+" ")
}

// typeRef reads a type's name as a column uses it. serial types come back as the integers they are.
func (b *builder) typeRef(t *pg_query.TypeName) TypeRef {
	names := stringsOf(t.GetNames())
	if len(names) == 0 {
		return TypeRef{}
	}
	ref := TypeRef{Array: len(t.ArrayBounds) > 0}
	for _, m := range t.Typmods {
		c := m.GetAConst()
		if c == nil || c.GetIval() == nil && c.GetVal() != nil {
			ref.Mods, ref.Words = nil, modifierText(t.Typmods)
			break
		}
		ref.Mods = append(ref.Mods, int(c.GetIval().GetIval()))
	}
	if len(names) > 1 {
		ref.Name = Name{names[len(names)-2], names[len(names)-1]}
	} else {
		ref.Name = b.findType(names[0])
	}
	if elem, ok := strings.CutPrefix(ref.Name.Name, "_"); ok && ref.Name.Schema == "pg_catalog" && isBuiltinType(elem) {
		ref.Name.Name, ref.Array = elem, true
	}
	return ref
}

// findType resolves an unqualified type name.
func (b *builder) findType(name string) Name {
	if isBuiltinType(name) || strings.HasPrefix(name, "_") && isBuiltinType(name[1:]) {
		return Name{"pg_catalog", name}
	}
	for _, s := range b.path {
		n := Name{s, name}
		if b.cat.Types[n] != nil || b.cat.Tables[n] != nil {
			return n
		}
	}
	if len(b.path) == 0 { // pg_dump qualifies all but the server's own
		return Name{"pg_catalog", name}
	}
	return Name{b.path[0], name} // of an extension
}

// modifierText prints type modifiers that are not all numbers.
func modifierText(mods []*pg_query.Node) string {
	var parts []string
	for _, m := range mods {
		switch {
		case m.GetColumnRef() != nil:
			parts = append(parts, strings.Join(stringsOf(m.GetColumnRef().Fields), "."))
		case m.GetAConst().GetSval() != nil:
			parts = append(parts, Literal(constText(m)))
		case m.GetAConst().GetFval() != nil:
			parts = append(parts, m.GetAConst().GetFval().Fval)
		case m.GetAConst().GetIval() != nil:
			parts = append(parts, fmt.Sprint(m.GetAConst().GetIval().Ival))
		default: // an Integer 0 is an A_Const without a value
			parts = append(parts, "0")
		}
	}
	return strings.Join(parts, ",")
}

// serialType says which integer a serial type is.
func serialType(t *pg_query.TypeName) (string, bool) {
	names := stringsOf(t.GetNames())
	if len(names) != 1 || len(t.ArrayBounds) > 0 {
		return "", false
	}
	switch names[0] {
	case "smallserial", "serial2":
		return "int2", true
	case "serial", "serial4":
		return "int4", true
	case "bigserial", "serial8":
		return "int8", true
	}
	return "", false
}

func (b *builder) addType(t *Type) (*Type, error) {
	if old := b.cat.Types[t.Name]; old != nil && old.Kind != BaseType {
		return nil, fmt.Errorf("type %s is defined twice", t.Name)
	}
	b.cat.Types[t.Name] = t
	return t, nil
}

// typ finds a type that the DDL defined.
func (b *builder) typ(names []*pg_query.Node) (*Type, error) {
	ss := stringsOf(names)
	name := b.qualify(ss)
	if len(ss) == 1 {
		name = b.findType(ss[0])
	}
	if t := b.cat.Types[name]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("there is no type %s before this statement", name)
}

func (b *builder) alterEnum(s *pg_query.AlterEnumStmt) error {
	t, err := b.typ(s.TypeName)
	if err != nil {
		return err
	}
	at := func(label string) (int, error) {
		if i := slices.Index(t.Labels, label); i >= 0 {
			return i, nil
		}
		return 0, fmt.Errorf("type %s has no label %q", t.Name, label)
	}
	switch {
	case s.OldVal != "":
		i, err := at(s.OldVal)
		if err != nil {
			return err
		}
		t.Labels[i] = s.NewVal
	case slices.Contains(t.Labels, s.NewVal) && s.SkipIfNewValExists:
	case s.NewValNeighbor != "":
		i, err := at(s.NewValNeighbor)
		if err != nil {
			return err
		}
		if s.NewValIsAfter {
			i++
		}
		t.Labels = slices.Insert(t.Labels, i, s.NewVal)
	default:
		t.Labels = append(t.Labels, s.NewVal)
	}
	return nil
}

func (b *builder) createDomain(s *pg_query.CreateDomainStmt) error {
	t, err := b.addType(&Type{Name: b.newName(s.Domainname), Kind: Domain, Base: b.typeRef(s.TypeName),
		Collation: b.collation(s.CollClause)})
	if err != nil {
		return err
	}
	for _, c := range s.Constraints {
		if err := b.domainConstraint(t, c.GetConstraint()); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) domainConstraint(t *Type, c *pg_query.Constraint) error {
	switch c.GetContype() {
	case pg_query.ConstrType_CONSTR_NOTNULL:
		t.NotNull = true
	case pg_query.ConstrType_CONSTR_NULL:
		t.NotNull = false
	case pg_query.ConstrType_CONSTR_CHECK:
		name := c.Conname
		if name == "" {
			name = unusedName(objectName(t.Name.Name, "", "check"), func(n string) bool {
				return slices.ContainsFunc(t.Checks, func(k *Check) bool { return k.Name == n })
			})
		}
		t.Checks = append(t.Checks, &Check{Name: name, Text: exprText(c.RawExpr), Expr: c.RawExpr})
	}
	return nil
}

func (b *builder) alterDomain(s *pg_query.AlterDomainStmt) error {
	t, err := b.typ(s.TypeName)
	if err != nil {
		return err
	}
	switch s.Subtype { // src/include/nodes/parsenodes.h: AlterDomainStmt
	case "C":
		return b.domainConstraint(t, s.Def.GetConstraint())
	case "X":
		t.Checks = slices.DeleteFunc(t.Checks, func(c *Check) bool { return c.Name == s.Name })
	case "N":
		t.NotNull = false
	case "O":
		t.NotNull = true
	}
	return nil
}

func (b *builder) createComposite(s *pg_query.CompositeTypeStmt) error {
	t := &Type{Name: b.newRelation(s.Typevar), Kind: Composite}
	for _, n := range s.Coldeflist {
		d := n.GetColumnDef()
		t.Fields = append(t.Fields, &Column{Name: d.Colname, Type: b.typeRef(d.TypeName), Collation: b.collation(d.CollClause)})
	}
	_, err := b.addType(t)
	return err
}

func (b *builder) createRange(s *pg_query.CreateRangeStmt) error {
	t := &Type{Name: b.newName(s.TypeName), Kind: Range}
	multi := Name{t.Name.Schema, strings.Replace(t.Name.Name, "range", "multirange", 1)}
	if multi == t.Name {
		multi.Name += "_multirange"
	}
	for _, p := range s.Params {
		d := p.GetDefElem()
		switch d.GetDefname() {
		case "subtype":
			t.Base = b.typeRef(d.Arg.GetTypeName())
		case "multirange_type_name":
			if names := d.Arg.GetTypeName().GetNames(); len(names) > 0 {
				multi = b.newName(names)
			}
		}
	}
	if _, err := b.addType(t); err != nil {
		return err
	}
	_, err := b.addType(&Type{Name: multi, Kind: Range, Base: t.Base})
	return err
}

// define follows CREATE TYPE of base types, CREATE COLLATION, and what calls functions.
func (b *builder) define(s *pg_query.DefineStmt) error {
	names := stringsOf(s.Defnames)
	switch s.Kind {
	case pg_query.ObjectType_OBJECT_TYPE:
		if name := b.newName(s.Defnames); b.cat.Types[name] == nil {
			b.cat.Types[name] = &Type{Name: name, Kind: BaseType}
		}
	case pg_query.ObjectType_OBJECT_COLLATION:
		name := b.newName(s.Defnames)
		b.cat.Collations[name] = false
		for _, n := range s.Definition {
			d := n.GetDefElem()
			switch d.GetDefname() {
			case "from":
				b.cat.Collations[name] = b.cat.Collations[b.findCollation(stringsOf(d.Arg.GetList().GetItems()))]
			case "deterministic":
				b.cat.Collations[name] = isFalse(d.Arg)
			}
		}
	case pg_query.ObjectType_OBJECT_OPERATOR, pg_query.ObjectType_OBJECT_AGGREGATE:
		b.functions[names[len(names)-1]] = true
	}
	return nil
}

// isFalse reads the boolean value of an option, which the grammar gives as a word, a string, a number or a type name.
func isFalse(n *pg_query.Node) bool {
	if n == nil {
		return false
	}
	v := n.GetString_().GetSval()
	if names := stringsOf(n.GetTypeName().GetNames()); len(names) > 0 {
		v = names[len(names)-1]
	}
	switch {
	case n.GetBoolean() != nil:
		return !n.GetBoolean().Boolval
	case n.GetInteger() != nil:
		return n.GetInteger().Ival == 0
	}
	switch strings.ToLower(v) {
	case "false", "off", "0":
		return true
	}
	return false
}

func (b *builder) collation(c *pg_query.CollateClause) Name {
	if c == nil {
		return Name{}
	}
	return b.findCollation(stringsOf(c.Collname))
}

func (b *builder) findCollation(names []string) Name {
	if len(names) != 1 {
		return b.qualify(names)
	}
	for _, s := range b.path {
		if n := (Name{s, names[0]}); slices.Contains([]string{"default", "C", "POSIX"}, names[0]) {
			break
		} else if _, ok := b.cat.Collations[n]; ok {
			return n
		}
	}
	return Name{"pg_catalog", names[0]}
}
