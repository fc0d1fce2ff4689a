package catalog

import (
	pg_query "github.com/pganalyze/pg_query_go/v5"
)

// markFunctionCalls sets CallsFunctions of every table.
//
// pg_dump qualifies every function and operator that is not of pg_catalog. In a schema written by hand, where names
// resolve by a search path, an unqualified name is taken for a user's where the DDL defines one of that name, or where
// an extension, whose functions are not known, might.
func (b *builder) markFunctionCalls() {
	c := &callFinder{b: b, types: map[Name]bool{}}
	for _, e := range b.cat.Extensions {
		c.extension = c.extension || e != "plpgsql"
	}
	for _, t := range b.cat.Order {
		for _, k := range t.Checks {
			t.CallsFunctions = t.CallsFunctions || c.expr(k.Expr)
		}
		for _, col := range t.Columns {
			if g := b.generated[col]; g != nil {
				t.CallsFunctions = t.CallsFunctions || c.expr(g)
			}
			t.CallsFunctions = t.CallsFunctions || c.typ(col.Type.Name)
		}
	}
}

// callFinder looks for calls of users' functions, remembering what it learnt about types.
type callFinder struct {
	b         *builder
	extension bool          // an extension is installed whose functions are not known
	types     map[Name]bool // types whose checks call functions
}

func (c *callFinder) expr(n *pg_query.Node) bool {
	found := c.b.cat.castFunctions // a cast that is implied does not show
	walk(n, func(m any) {
		switch x := m.(type) {
		case *pg_query.FuncCall:
			found = found || c.users(stringsOf(x.Funcname), true)
		case *pg_query.A_Expr:
			found = found || c.users(stringsOf(x.Name), false)
		case *pg_query.TypeCast:
			ref := c.b.typeRef(x.TypeName)
			known := ref.Name.Schema == "pg_catalog"
			if t := c.b.cat.Types[ref.Name]; t != nil {
				known = t.Kind != BaseType
			}
			found = found || !known || c.typ(ref.Name)
		}
	})
	return found
}

// users says whether a function or an operator may be a user's.
func (c *callFinder) users(names []string, function bool) bool {
	if len(names) > 1 {
		return names[0] != "pg_catalog"
	}
	if len(names) == 0 || !c.b.pathUsed {
		return false
	}
	return c.b.functions[names[0]] || function && c.extension
}

// typ says whether values of a type are checked by a function: a domain's CHECK, also inside composites and ranges.
func (c *callFinder) typ(name Name) bool {
	if known, ok := c.types[name]; ok {
		return known
	}
	t := c.b.cat.Types[name]
	if t == nil {
		return false
	}
	c.types[name] = false // a type that contains itself adds nothing
	found := t.Base.Name != (Name{}) && c.typ(t.Base.Name)
	for _, k := range t.Checks {
		found = found || c.expr(k.Expr)
	}
	for _, f := range t.Fields {
		found = found || c.typ(f.Type.Name)
	}
	c.types[name] = found
	return found
}
