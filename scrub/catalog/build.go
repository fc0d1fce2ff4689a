package catalog

import (
	"slices"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

// BuildStep is a statement that builds an index, a key or a foreign key.
type BuildStep struct {
	Tables    []Name // that it works on, with the partitions below them unless it says ONLY
	Exclusive bool   // it must have those to itself, while indexes of one table can be built together
	Calls     bool   // an expression or a condition in it may call a function that is not in pg_catalog, and reads who knows what
}

// Build reads a statement that builds an index, a key or a foreign key, so that a restore can run several at once. ok is
// false for every other statement, and for one that the parser can't read: those keep their place.
func (c *Catalog) Build(st Statement) (b BuildStep, ok bool) {
	w := leadingWords(st.Text, 3)
	index := len(w) > 1 && w[0] == "create" && (w[1] == "index" || w[1] == "unique")
	if !index && !(len(w) > 1 && w[0] == "alter" && w[1] == "table") {
		return BuildStep{}, false
	}
	tree, err := pg_query.Parse(st.Text)
	if err != nil || len(tree.Stmts) != 1 {
		return BuildStep{}, false
	}
	on := func(r *pg_query.RangeVar) {
		if r.GetSchemaname() == "" {
			ok = false // not from pg_dump: what it means depends on a search path
		}
		name := Name{r.GetSchemaname(), r.GetRelname()}
		if slices.Contains(b.Tables, name) {
			return
		}
		if r.GetInh() {
			b.Tables = append(b.Tables, c.Family(name)...)
		} else {
			b.Tables = append(b.Tables, name)
		}
	}
	ok = true
	node := tree.Stmts[0].Stmt
	if s := node.GetIndexStmt(); s != nil {
		on(s.Relation)
		b.Calls = c.calls(append(s.IndexParams, s.WhereClause))
		return b, ok
	}
	s := node.GetAlterTableStmt()
	if s == nil || len(s.Cmds) != 1 {
		return BuildStep{}, false
	}
	cmd := s.Cmds[0].GetAlterTableCmd()
	con := cmd.GetDef().GetConstraint()
	if cmd.GetSubtype() != pg_query.AlterTableType_AT_AddConstraint || con == nil {
		return BuildStep{}, false
	}
	b.Exclusive = true
	on(s.Relation)
	switch con.Contype {
	case pg_query.ConstrType_CONSTR_PRIMARY, pg_query.ConstrType_CONSTR_UNIQUE:
	case pg_query.ConstrType_CONSTR_EXCLUSION:
		b.Calls = c.calls(append(con.Exclusions, con.WhereClause))
	case pg_query.ConstrType_CONSTR_FOREIGN:
		on(con.Pktable)
	default:
		return BuildStep{}, false
	}
	return b, ok
}

// calls looks into what an index or an exclusion constraint computes from each row. pg_dump qualifies every name that is
// not of pg_catalog.
func (c *Catalog) calls(nodes []*pg_query.Node) (found bool) {
	foreign := func(names []*pg_query.Node) {
		s := stringsOf(names)
		found = found || len(s) > 1 && s[0] != "pg_catalog"
	}
	for _, n := range nodes {
		walk(n, func(m any) {
			switch x := m.(type) {
			case *pg_query.FuncCall:
				found = found || c.castFunctions // a cast that is implied does not show
				foreign(x.Funcname)
			case *pg_query.A_Expr:
				found = found || c.castFunctions
				foreign(x.Name)
			case *pg_query.TypeCast: // to a domain, say, whose CHECK calls one
				foreign(x.TypeName.GetNames())
			}
		})
	}
	return found
}
