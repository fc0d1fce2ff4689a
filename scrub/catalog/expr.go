package catalog

import (
	"slices"
	"strings"
	"unicode/utf8"

	pg_query "github.com/pganalyze/pg_query_go/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// ColumnsOf returns the columns that an expression mentions, each once, in the order met. A reference to the whole row
// (`t.*`) is returned as "*"; a bare reference to the table's name looks like a column of that name.
func ColumnsOf(node *pg_query.Node) []string {
	var cols []string
	walk(node, func(m any) {
		ref, ok := m.(*pg_query.ColumnRef)
		if !ok || len(ref.Fields) == 0 {
			return
		}
		name := "*"
		if last := ref.Fields[len(ref.Fields)-1]; last.GetString_() != nil {
			name = last.GetString_().GetSval()
		}
		if !slices.Contains(cols, name) {
			cols = append(cols, name)
		}
	})
	return cols
}

// columnsOf returns the columns of t that an expression mentions; a reference to the whole row mentions all.
func columnsOf(t *Table, node *pg_query.Node) []string {
	cols := ColumnsOf(node)
	for _, name := range cols {
		if name == "*" || name == t.Name.Name && t.Column(name) == nil {
			all := make([]string, len(t.Columns))
			for i, c := range t.Columns {
				all[i] = c.Name
			}
			return all
		}
	}
	return cols
}

// exprText prints an expression as SQL.
func exprText(n *pg_query.Node) string {
	if n == nil {
		return ""
	}
	text, err := pg_query.Deparse(&pg_query.ParseResult{Version: 160001, Stmts: []*pg_query.RawStmt{{
		Stmt: &pg_query.Node{Node: &pg_query.Node_SelectStmt{SelectStmt: &pg_query.SelectStmt{
			TargetList:  []*pg_query.Node{{Node: &pg_query.Node_ResTarget{ResTarget: &pg_query.ResTarget{Val: n}}}},
			LimitOption: pg_query.LimitOption_LIMIT_OPTION_DEFAULT,
			Op:          pg_query.SetOperation_SETOP_NONE,
		}}},
	}}})
	if err != nil { // the text is for people; what decides is the parsed expression
		return "(an expression that can't be printed)"
	}
	return strings.TrimPrefix(text, "SELECT ")
}

// walk calls visit for every message of a parsed tree, parents first.
func walk(n *pg_query.Node, visit func(any)) {
	if n != nil {
		walkMessage(n.ProtoReflect(), visit)
	}
}

func walkMessage(m protoreflect.Message, visit func(any)) {
	visit(m.Interface())
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Message() == nil {
			return true
		}
		if !f.IsList() {
			walkMessage(v.Message(), visit)
			return true
		}
		for i, l := 0, v.List(); i < l.Len(); i++ {
			walkMessage(l.Get(i).Message(), visit)
		}
		return true
	})
}

// stringsOf returns the texts of String nodes; other nodes are left out.
func stringsOf(nodes []*pg_query.Node) []string {
	var ss []string
	for _, n := range nodes {
		if s := n.GetString_(); s != nil {
			ss = append(ss, s.Sval)
		}
	}
	return ss
}

// objectName builds the name that PostgreSQL gives a constraint or an index without one (makeObjectName in
// src/backend/commands/indexcmds.c): NAME1_NAME2_LABEL, the names clipped so that the whole has at most 63 bytes.
func objectName(name1, name2, label string) string {
	overhead := len(label) + 1
	if name2 != "" {
		overhead++
	}
	n1, n2 := len(name1), len(name2)
	for n1+n2 > 63-overhead {
		if n1 > n2 {
			n1--
		} else {
			n2--
		}
	}
	clip := func(s string, n int) string {
		for n < len(s) && n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		return s[:n]
	}
	s := clip(name1, n1)
	if name2 != "" {
		s += "_" + clip(name2, n2)
	}
	return s + "_" + label
}

// unusedName appends the first number that makes name unused.
func unusedName(name string, used func(string) bool) string {
	candidate := name
	for i := 1; used(candidate); i++ {
		candidate = name + itoa(i)
	}
	return candidate
}

// cloneNode copies a parsed expression.
func cloneNode(n *pg_query.Node) *pg_query.Node {
	if n == nil {
		return nil
	}
	return proto.Clone(n).(*pg_query.Node)
}
