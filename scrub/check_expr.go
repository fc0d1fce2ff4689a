package scrub

import (
	"fmt"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v5"

	"lethe/rules"
	"lethe/scrub/catalog"
)

// onlyNullTests says whether an expression asks nothing of a column but whether it is NULL.
func onlyNullTests(n *pg_query.Node, column string) bool {
	ok := true
	var look func(n *pg_query.Node)
	look = func(n *pg_query.Node) {
		switch x := n.GetNode().(type) {
		case *pg_query.Node_BoolExpr:
			for _, arg := range x.BoolExpr.Args {
				look(arg)
			}
		case *pg_query.Node_NullTest:
			if x.NullTest.Arg.GetColumnRef() == nil {
				look(x.NullTest.Arg)
			}
		default:
			columns := catalog.ColumnsOf(n)
			ok = ok && !slices.Contains(columns, column) && !slices.Contains(columns, "*")
		}
	}
	look(n)
	return ok
}

// canFail says whether a condition that held may be false after a change. column is the name by which the condition
// knows the changed value.
func (c *compiler) canFail(condition *pg_query.Node, column string, ch change) bool {
	if ch.effect != toNull && !ch.evenNull && onlyNullTests(condition, column) {
		return false
	}
	known := map[string]catalog.Abstract{}
	for _, col := range ch.at.table.Columns {
		if c.notNull(col) {
			known[col.Name] = catalog.NotNull()
		}
	}
	switch ch.effect {
	case toNull:
		known[column] = catalog.Null()
	case toConst:
		known[column] = catalog.NotNull()
		if col := ch.at.table.Column(ch.at.column); col != nil && !c.serverCollation(col) {
			known[column] = c.cat.Constant(ch.value, col.Type)
		}
	default:
		known[column] = catalog.NotNull() // what was NULL stays NULL, and the condition held for that
	}
	return c.cat.CanFail(&catalog.Check{Expr: condition}, known)
}

// checkProblem is how a change breaks a CHECK constraint of a table, or nil.
func (c *compiler) checkProblem(t *catalog.Table, check *catalog.Check, ch change) *problem {
	if !c.canFail(check.Expr, ch.at.column, ch) {
		return nil
	}
	return &problem{fmt.Sprintf("the constraint %s may not hold any more: CHECK (%s)", catalog.QuoteIfNeeded(check.Name), check.Text),
		"take another strategy, or vouch for it: checks_hold: [" + yamlText(vouchName(t.Name, check.Name)) + "]"}
}

// domainProblems is which constraints of a column's domains a change may break.
func (c *compiler) domainProblems(col *catalog.Column, ch change) (problems []problem) {
	element := false
	for t := col.Type; ; {
		element = element || t.Array
		d := c.cat.Types[t.Name]
		if d == nil || d.Kind != catalog.Domain {
			return problems
		}
		for _, check := range d.Checks {
			if c.vouched(d.Name, check.Name) {
				continue
			}
			breaks := ch.effect != toNull // the elements of an array: a NULL array has none
			if !element {
				breaks = c.canFail(check.Expr, "value", ch)
			}
			if breaks {
				problems = append(problems, problem{
					fmt.Sprintf("the constraint %s of domain %s may not hold any more: CHECK (%s)", catalog.QuoteIfNeeded(check.Name), d.Name, check.Text),
					"take another strategy, or vouch for it: checks_hold: [" + yamlText(vouchName(d.Name, check.Name)) + "]"})
			}
		}
		t = d.Base
	}
}

// canEnter says whether a change may bring a row into a partial index that it was not in.
func (c *compiler) canEnter(key *catalog.Key, ch change) bool {
	if ch.effect != toNull && !ch.evenNull && onlyNullTests(key.Predicate, ch.at.column) {
		return false
	}
	outside := &pg_query.Node{Node: &pg_query.Node_BoolExpr{BoolExpr: &pg_query.BoolExpr{
		Boolop: pg_query.BoolExprType_NOT_EXPR, Args: []*pg_query.Node{key.Predicate},
	}}}
	return c.canFail(outside, ch.at.column, ch)
}

// expressionsHold says whether a key over expressions stays unique for certain: a cleared column makes every expression
// that mentions it NULL, and NULLs are distinct; what keeps values apart does so too in lower case, in upper case and
// trimmed, since it writes digits and lower-case ASCII letters.
func (c *compiler) expressionsHold(key *catalog.Key, ch change) bool {
	for _, text := range key.ExpressionText() {
		n := parseExpression(text)
		if n == nil {
			return false
		}
		if columns := catalog.ColumnsOf(n); !slices.Contains(columns, ch.at.column) && !slices.Contains(columns, "*") {
			continue
		}
		switch ch.effect {
		case toNull:
			isNull := &pg_query.Node{Node: &pg_query.Node_NullTest{NullTest: &pg_query.NullTest{Arg: n, Nulltesttype: pg_query.NullTestType_IS_NULL}}}
			if key.NullsNotDistinct || c.canFail(isNull, ch.at.column, ch) {
				return false
			}
		case injective:
			if !foldsOnly(n, ch.at.column) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// foldsOnly says whether an expression is a column whose case is folded or whose blanks are trimmed, and no more.
func foldsOnly(n *pg_query.Node, column string) bool {
	switch x := n.GetNode().(type) {
	case *pg_query.Node_TypeCast:
		names := x.TypeCast.TypeName.GetNames()
		return len(names) > 0 && names[len(names)-1].GetString_().GetSval() == "text" && foldsOnly(x.TypeCast.Arg, column)
	case *pg_query.Node_ColumnRef:
		return len(x.ColumnRef.Fields) == 1 && x.ColumnRef.Fields[0].GetString_().GetSval() == column
	case *pg_query.Node_FuncCall:
		names := x.FuncCall.Funcname
		if len(x.FuncCall.Args) != 1 || len(names) == 2 && names[0].GetString_().GetSval() != "pg_catalog" || len(names) > 2 {
			return false
		}
		switch names[len(names)-1].GetString_().GetSval() {
		case "lower", "upper", "btrim", "ltrim", "rtrim":
			return foldsOnly(x.FuncCall.Args[0], column)
		}
	}
	return false
}

// parseExpression reads an expression as SQL text; nil where it can't be read.
func parseExpression(sql string) *pg_query.Node {
	tree, err := pg_query.Parse("SELECT " + sql)
	if err != nil || len(tree.Stmts) != 1 || len(tree.Stmts[0].Stmt.GetSelectStmt().GetTargetList()) != 1 {
		return nil
	}
	return tree.Stmts[0].Stmt.GetSelectStmt().TargetList[0].GetResTarget().GetVal()
}

// generatedProblems is what a change of a source column does to the generated columns made of it: their values change
// too, so they may hold no constraint that the change could break.
func (c *compiler) generatedProblems(t *catalog.Table, ch change) (problems []problem) {
	for _, col := range t.Columns {
		if col.Generated == "" || !c.mentions(col.Generated, ch.at.column) {
			continue
		}
		name := catalog.QuoteIfNeeded(col.Name)
		var unique, checked []string
		add := func(what string) {
			problems = append(problems, problem{fmt.Sprintf("the generated column %s is made of it, and %s", name, what), "take the rule out"})
		}
		if c.notNull(col) && ch.effect == toNull {
			add("is NOT NULL")
		}
		for _, key := range t.Keys {
			if slices.Contains(key.Columns, col.Name) || slices.Contains(key.PredicateColumns, col.Name) || slices.Contains(key.ExpressionColumns, col.Name) {
				if !c.vouched(t.Name, key.Name) {
					unique = append(unique, vouchName(t.Name, key.Name))
				}
			}
		}
		for _, check := range t.Checks {
			if slices.Contains(check.Columns, col.Name) && !c.vouched(t.Name, check.Name) {
				checked = append(checked, vouchName(t.Name, check.Name))
			}
		}
		if len(unique) > 0 {
			add("must stay unique: vouch for that in checks_hold if it does: " + strings.Join(unique, ", "))
		}
		if len(checked) > 0 {
			add("is under a CHECK constraint: vouch for that in checks_hold if it holds: " + strings.Join(checked, ", "))
		}
		at := columnOf{t.Root(), col.Name}
		if len(c.referencesFrom(at))+len(c.referencesTo(at)) > 0 {
			add("is part of a reference")
		}
	}
	return problems
}

// mentions says whether an expression as SQL text mentions a column.
func (c *compiler) mentions(sql, column string) bool {
	n := parseExpression(sql)
	if n == nil {
		return true // what can't be read may mention it
	}
	columns := catalog.ColumnsOf(n)
	return slices.Contains(columns, column) || slices.Contains(columns, "*")
}

// readVouches checks that every entry of checks_hold names a constraint that there is.
func (c *compiler) readVouches() {
	for _, v := range c.file.ChecksHold {
		name := catalog.Name(v.Name)
		var known []string
		if t := c.cat.Tables[name]; t != nil {
			for _, check := range t.Checks {
				known = append(known, check.Name)
			}
			for _, key := range t.Keys {
				known = append(known, key.Name)
			}
		} else if d := c.cat.Types[name]; d != nil && d.Kind == catalog.Domain {
			for _, check := range d.Checks {
				known = append(known, check.Name)
			}
		} else {
			c.fail(v.Pos, "write TABLE.CONSTRAINT or DOMAIN.CONSTRAINT", "checks_hold names %s, which is no table and no domain of the schema", name)
			continue
		}
		if !slices.Contains(known, v.Constraint) {
			hint := name.String() + " has no constraints"
			if len(known) > 0 {
				hint = "its constraints are " + strings.Join(known, ", ")
			}
			c.fail(v.Pos, hint, "%s has no constraint %s", name, catalog.QuoteIfNeeded(v.Constraint))
		}
	}
}

// vouched says whether the rules' author vouches for a constraint. One of a partition may be vouched for at its root.
func (c *compiler) vouched(table catalog.Name, constraint string) bool {
	names := []catalog.Name{table}
	for t := c.cat.Tables[table]; t != nil && t.Parent != nil; t = t.Parent {
		names = append(names, t.Parent.Name)
	}
	return slices.ContainsFunc(c.file.ChecksHold, func(v rules.Vouch) bool {
		return v.Constraint == constraint && slices.Contains(names, catalog.Name(v.Name))
	})
}
