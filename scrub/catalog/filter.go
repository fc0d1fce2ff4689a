package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

// Filter says which statements a restore leaves out, as pg_restore's --no-owner and --no-acl do.
type Filter struct {
	NoOwner bool // ALTER … OWNER TO, SET SESSION AUTHORIZATION, and the AUTHORIZATION of CREATE SCHEMA
	NoACL   bool // GRANT, REVOKE, ALTER DEFAULT PRIVILEGES
}

// Apply returns the text to execute for a statement, which is the statement's own unless a part of it has to go; keep
// is false where nothing of it is to be executed.
func (f Filter) Apply(st Statement) (text string, keep bool, err error) {
	if f == (Filter{}) {
		return st.Text, true, nil
	}
	w := leadingWords(st.Text, 4)
	is := func(words ...string) bool { return len(w) >= len(words) && slices.Equal(w[:len(words)], words) }
	if f.NoACL && (is("grant") || is("revoke") || is("alter", "default", "privileges")) {
		return "", false, nil
	}
	if !f.NoOwner {
		return st.Text, true, nil
	}
	switch {
	case is("set", "session", "authorization"), is("reset", "session", "authorization"),
		is("set", "local", "session", "authorization"):
		return "", false, nil
	case is("alter") && !is("alter", "default"):
		return withoutOwner(st.Text)
	case is("create", "schema"):
		return withoutAuthorization(st.Text)
	}
	return st.Text, true, nil
}

// withoutOwner leaves out ALTER … OWNER TO.
func withoutOwner(text string) (string, bool, error) {
	lex := lexer{text: text}
	depth, commas := 0, 0
	var last [4]string // the last words: OWNER TO name ;
	for {
		t, err := lex.next()
		if err != nil {
			return "", false, fmt.Errorf("leave out the owner in %q: %w", shorten(text, 100), err)
		}
		if t.kind == tokenEnd {
			break
		}
		if t.kind == tokenComment {
			continue
		}
		word := text[t.start:t.end]
		switch {
		case word == "(":
			depth++
		case word == ")":
			depth--
		case word == "," && depth == 0:
			commas++
		}
		if t.kind == tokenWord {
			word = strings.ToLower(word)
		}
		copy(last[:], last[1:])
		last[3] = word
	}
	if last[0] == "owner" && last[1] == "to" && last[3] == ";" && commas == 0 {
		return "", false, nil
	}
	if commas == 0 || !strings.Contains(strings.ToLower(text), "owner") {
		return text, true, nil
	}
	// Several commands in one ALTER TABLE: the owner's goes.
	nodes, err := parseStatement(text)
	if err != nil || len(nodes) != 1 || nodes[0].GetAlterTableStmt() == nil {
		return text, true, nil // of another kind: OWNER TO stands alone in those
	}
	alter := nodes[0].GetAlterTableStmt()
	n := len(alter.Cmds)
	alter.Cmds = slices.DeleteFunc(alter.Cmds, func(c *pg_query.Node) bool {
		return c.GetAlterTableCmd().GetSubtype() == pg_query.AlterTableType_AT_ChangeOwner
	})
	switch len(alter.Cmds) {
	case n:
		return text, true, nil
	case 0:
		return "", false, nil
	}
	return deparse(nodes[0], text)
}

// withoutAuthorization leaves out the owner of a new schema, but not the name that it may give the schema.
func withoutAuthorization(text string) (string, bool, error) {
	nodes, err := parseStatement(text)
	if err != nil || len(nodes) != 1 {
		return "", false, fmt.Errorf("leave out the owner in %q: %w", shorten(text, 100), err)
	}
	s := nodes[0].GetCreateSchemaStmt()
	if s.GetAuthrole() == nil {
		return text, true, nil
	}
	if s.Schemaname == "" {
		if s.Authrole.Rolename == "" {
			return "", false, fmt.Errorf("leave out the owner in %q: %w", shorten(text, 100), errors.New("the schema has no other name"))
		}
		s.Schemaname = s.Authrole.Rolename
	}
	s.Authrole = nil
	return deparse(nodes[0], text)
}

func deparse(n *pg_query.Node, text string) (string, bool, error) {
	out, err := pg_query.Deparse(&pg_query.ParseResult{Stmts: []*pg_query.RawStmt{{Stmt: n}}})
	if err != nil {
		return "", false, fmt.Errorf("leave out the owner in %q: %w", shorten(text, 100), err)
	}
	return out + ";", true, nil
}

// RolesOf returns the roles that the statements need once the filter has been applied, sorted: owners, grantors and
// grantees, roles of policies, of default privileges and of user mappings. PUBLIC and CURRENT_USER are none. Roles in
// a statement that the parser can't read are not found.
func RolesOf(statements []Statement, f Filter) ([]string, error) {
	roles := map[string]bool{}
	for _, st := range statements {
		if st.CopyFrom || !mayNameRoles(leadingWords(st.Text, 3)) {
			continue
		}
		text, keep, err := f.Apply(st)
		if err != nil {
			return nil, err
		}
		if !keep {
			continue
		}
		nodes, err := parseStatement(text)
		if err != nil {
			continue
		}
		for _, n := range nodes {
			rolesOf(n, roles)
		}
	}
	names := make([]string, 0, len(roles))
	for r := range roles {
		names = append(names, r)
	}
	slices.Sort(names)
	return names, nil
}

// mayNameRoles spares the parser the statements, by far the most, that can't name a role.
func mayNameRoles(w []string) bool {
	if len(w) == 0 {
		return false
	}
	switch w[0] {
	case "alter", "grant", "revoke", "set", "drop", "reassign", "comment", "security":
		return true
	case "create":
		if len(w) > 1 {
			switch w[1] {
			case "schema", "policy", "user", "role", "group", "database", "tablespace":
				return true
			}
		}
	}
	return false
}

// leadingWords returns up to n unquoted words that a statement begins with, in lower case.
func leadingWords(text string, n int) []string {
	lex := lexer{text: text}
	var w []string
	for len(w) < n {
		t, err := lex.next()
		if err != nil {
			break
		}
		if t.kind == tokenComment {
			continue
		}
		if t.kind != tokenWord {
			break
		}
		w = append(w, strings.ToLower(text[t.start:t.end]))
	}
	return w
}

// rolesOf adds the roles that a parsed statement names.
func rolesOf(n *pg_query.Node, roles map[string]bool) {
	switch {
	case n.GetCreateStmt() != nil, n.GetIndexStmt() != nil, n.GetSelectStmt() != nil, n.GetViewStmt() != nil,
		n.GetCommentStmt() != nil, n.GetCreateFunctionStmt() != nil:
		return // frequent, large, and without roles
	}
	walk(n, func(m any) {
		switch x := m.(type) {
		case *pg_query.RoleSpec:
			if x.Roletype == pg_query.RoleSpecType_ROLESPEC_CSTRING {
				roles[x.Rolename] = true
			}
		case *pg_query.GrantRoleStmt:
			for _, g := range x.GrantedRoles {
				roles[g.GetAccessPriv().GetPrivName()] = true
			}
		case *pg_query.VariableSetStmt:
			if (x.Name == "session_authorization" || x.Name == "role") && len(x.Args) == 1 {
				if name := constText(x.Args[0]); name != "" {
					roles[name] = true
				}
			}
		}
	})
	delete(roles, "")
	delete(roles, "public")
}
