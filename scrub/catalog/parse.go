package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	pg_query "github.com/pganalyze/pg_query_go/v5"
)

// ParseError is a statement of the DDL that could not be read or followed.
type ParseError struct {
	Part int    // 0-based index of the text it stands in, as given to Parse
	Line int    // 1-based line in that text
	Text string // the statement, shortened
	Err  error
	Hint string // what to try
}

func (e *ParseError) Error() string {
	s := fmt.Sprintf("read the schema, line %d: %v", e.Line, e.Err)
	if e.Text != "" {
		s += "\n  in: " + e.Text
	}
	if e.Hint != "" {
		s += "\n  try: " + e.Hint
	}
	return s
}

func (e *ParseError) Unwrap() error { return e.Err }

// hinted is an error that knows what to try.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// Parse reads DDL: the pre-data and post-data texts of one pg_dump in order, a whole dump of a schema (rows of COPY
// are skipped), or a schema written by hand. Each text starts with the search path public, as a new session does.
//
// What Parse can't follow it refuses with a *ParseError, so that no table, column or key is missed: syntax that the
// parser does not know, DO blocks and CREATE TABLE AS, whose outcome only a server knows.
func Parse(ddl ...string) (*Catalog, error) {
	b := newBuilder()
	for part, text := range ddl {
		stmts, err := Split(text)
		if err != nil {
			var split *SplitError
			if errors.As(err, &split) {
				return nil, &ParseError{Part: part, Line: split.Line, Err: split.Err,
					Hint: "write the schema with pg_dump --schema-only"}
			}
			return nil, err
		}
		b.part, b.path = part, []string{"public"}
		for i, st := range stmts {
			if st.CopyFrom {
				continue
			}
			if err := b.statement(st); err != nil {
				pe := &ParseError{Part: part, Line: st.Line, Text: shorten(stmts[i].Text, 200), Err: err}
				var h hinted
				if errors.As(err, &h) {
					pe.Hint = h.hint
				}
				return nil, pe
			}
		}
		b.pathUsed = b.pathUsed || len(b.path) > 0
	}
	return b.finish()
}

// builder executes DDL on a catalog, statement by statement, as a server would.
type builder struct {
	cat  *Catalog
	path []string // the search path without pg_catalog

	part, line int               // of the statement being executed
	others     map[Name]bool     // relations without rows of their own: views, sequences, indexes
	indexes    map[Name]indexRef // unique indexes, for USING INDEX, DROP and RENAME
	children   map[*Table][]*Table
	generated  map[*Column]*pg_query.Node
	noInherit  map[*Check]bool
	roles      map[string]bool

	functions map[string]bool // names of functions and operators that the DDL defines, without schema
	pathUsed  bool            // a text ended with a search path: unqualified names may mean the user's own
	pending   []pendingKey    // foreign keys whose target's columns are the target's primary key
}

type indexRef struct {
	table *Table
	key   *Key
}

type pendingKey struct {
	fk         *ForeignKey
	table      *Table
	line, part int
}

func newBuilder() *builder {
	return &builder{
		cat:       &Catalog{Tables: map[Name]*Table{}, Types: map[Name]*Type{}, Collations: map[Name]bool{}},
		others:    map[Name]bool{},
		indexes:   map[Name]indexRef{},
		children:  map[*Table][]*Table{},
		generated: map[*Column]*pg_query.Node{},
		noInherit: map[*Check]bool{},
		roles:     map[string]bool{},
		functions: map[string]bool{},
	}
}

// statement parses one statement and executes what it defines.
func (b *builder) statement(st Statement) error {
	b.line = st.Line
	nodes, err := parseStatement(st.Text)
	if err != nil {
		if harmless(st.Text) {
			return nil
		}
		return hinted{fmt.Errorf("this statement can't be read: %w", err),
			"Lethe reads the syntax of PostgreSQL 16 and refuses what might define a table, column, key, type or domain; " +
				"report the statement, or change it"}
	}
	for _, n := range nodes {
		rolesOf(n, b.roles)
		if err := b.apply(n); err != nil {
			return err
		}
	}
	return nil
}

// apply executes one parsed statement. Kinds that are not listed define nothing that a catalog holds.
func (b *builder) apply(n *pg_query.Node) error {
	switch {
	case n.GetVariableSetStmt() != nil:
		b.set(n.GetVariableSetStmt())
	case n.GetSelectStmt() != nil:
		return b.selectStmt(n)
	case n.GetCreateSchemaStmt() != nil:
		return b.createSchema(n.GetCreateSchemaStmt())
	case n.GetCreateStmt() != nil:
		return b.createTable(n.GetCreateStmt(), Ordinary)
	case n.GetCreateForeignTableStmt() != nil:
		return b.createTable(n.GetCreateForeignTableStmt().BaseStmt, Foreign)
	case n.GetAlterTableStmt() != nil:
		return b.alterTable(n.GetAlterTableStmt())
	case n.GetIndexStmt() != nil:
		return b.createIndex(n.GetIndexStmt())
	case n.GetViewStmt() != nil:
		return b.other(n.GetViewStmt().View)
	case n.GetCreateSeqStmt() != nil:
		return b.other(n.GetCreateSeqStmt().Sequence)
	case n.GetCreateTableAsStmt() != nil:
		s := n.GetCreateTableAsStmt()
		if s.Objtype != pg_query.ObjectType_OBJECT_MATVIEW {
			return hinted{errors.New("only a server knows the columns that CREATE TABLE … AS makes"),
				"write the schema with pg_dump --schema-only, or the table with its columns"}
		}
		return b.other(s.Into.Rel)
	case n.GetDoStmt() != nil:
		return hinted{errors.New("only a server knows what a DO block defines"), "write the schema with pg_dump --schema-only"}
	case n.GetCreateEnumStmt() != nil:
		s := n.GetCreateEnumStmt()
		_, err := b.addType(&Type{Name: b.newName(s.TypeName), Kind: Enum, Labels: stringsOf(s.Vals)})
		return err
	case n.GetAlterEnumStmt() != nil:
		return b.alterEnum(n.GetAlterEnumStmt())
	case n.GetCreateDomainStmt() != nil:
		return b.createDomain(n.GetCreateDomainStmt())
	case n.GetAlterDomainStmt() != nil:
		return b.alterDomain(n.GetAlterDomainStmt())
	case n.GetCompositeTypeStmt() != nil:
		return b.createComposite(n.GetCompositeTypeStmt())
	case n.GetCreateRangeStmt() != nil:
		return b.createRange(n.GetCreateRangeStmt())
	case n.GetDefineStmt() != nil:
		return b.define(n.GetDefineStmt())
	case n.GetCreateExtensionStmt() != nil:
		if name := n.GetCreateExtensionStmt().Extname; !slices.Contains(b.cat.Extensions, name) {
			b.cat.Extensions = append(b.cat.Extensions, name)
		}
	case n.GetCreateFunctionStmt() != nil:
		if names := stringsOf(n.GetCreateFunctionStmt().Funcname); len(names) > 0 {
			b.functions[names[len(names)-1]] = true
		}
	case n.GetCreateCastStmt() != nil:
		b.cat.castFunctions = b.cat.castFunctions || n.GetCreateCastStmt().Func != nil
	case n.GetRuleStmt() != nil:
		b.rule(n.GetRuleStmt())
	case n.GetRenameStmt() != nil:
		return b.rename(n.GetRenameStmt())
	case n.GetAlterObjectSchemaStmt() != nil:
		return b.setSchema(n.GetAlterObjectSchemaStmt())
	case n.GetDropStmt() != nil:
		return b.drop(n.GetDropStmt())
	}
	return nil
}

// set follows SET search_path.
func (b *builder) set(s *pg_query.VariableSetStmt) {
	if s.Name != "search_path" {
		return
	}
	if s.Kind != pg_query.VariableSetKind_VAR_SET_VALUE {
		b.path = []string{"public"}
		return
	}
	var path []string
	for _, a := range s.Args {
		path = append(path, a.GetAConst().GetSval().GetSval())
	}
	b.setPath(path)
}

func (b *builder) setPath(path []string) {
	b.path = nil
	for _, p := range path {
		if p != "" && p != "pg_catalog" && p != "$user" {
			b.path = append(b.path, p)
		}
	}
}

// selectStmt follows set_config('search_path', …) and refuses calls of functions that might define tables, as some
// extensions have them.
func (b *builder) selectStmt(n *pg_query.Node) error {
	if n.GetSelectStmt().IntoClause != nil {
		return hinted{errors.New("only a server knows the columns that SELECT … INTO makes"), "write the schema with pg_dump --schema-only"}
	}
	var err error
	walk(n, func(m any) {
		call, ok := m.(*pg_query.FuncCall)
		if !ok {
			return
		}
		names := stringsOf(call.Funcname)
		name := names[len(names)-1]
		if len(names) > 1 && names[0] != "pg_catalog" || len(names) == 1 && b.functions[name] {
			err = hinted{fmt.Errorf("only a server knows what calling %s does", strings.Join(names, ".")),
				"write the schema with pg_dump --schema-only"}
		}
		if name == "set_config" && len(call.Args) >= 2 && constText(call.Args[0]) == "search_path" {
			var path []string
			for _, p := range strings.Split(constText(call.Args[1]), ",") {
				path = append(path, strings.Trim(strings.TrimSpace(p), `"`))
			}
			b.setPath(path)
		}
	})
	return err
}

func constText(n *pg_query.Node) string { return n.GetAConst().GetSval().GetSval() }

func (b *builder) createSchema(s *pg_query.CreateSchemaStmt) error {
	if len(s.SchemaElts) == 0 {
		return nil
	}
	name := s.Schemaname
	if name == "" {
		name = s.Authrole.GetRolename()
	}
	defer func(p []string) { b.path = p }(b.path)
	b.path = append([]string{name}, b.path...)
	for _, e := range s.SchemaElts {
		if err := b.apply(e); err != nil {
			return err
		}
	}
	return nil
}

// other notes a relation that is not a table, so that ALTER TABLE on it is understood.
func (b *builder) other(r *pg_query.RangeVar) error {
	b.others[b.newRelation(r)] = true
	return nil
}

// rule follows the way in which old versions of pg_dump write views that depend on each other: a table that becomes a
// view by a rule.
func (b *builder) rule(s *pg_query.RuleStmt) {
	if s.Rulename != "_RETURN" {
		return
	}
	if name := b.relation(s.Relation); b.cat.Tables[name] != nil {
		b.dropTable(name)
		b.others[name] = true
	}
}

// newRelation is the name of a relation that the statement creates.
func (b *builder) newRelation(r *pg_query.RangeVar) Name {
	return b.qualify([]string{r.GetSchemaname(), r.GetRelname()})
}

// newName is the name of a type (or so) that the statement creates.
func (b *builder) newName(names []*pg_query.Node) Name { return b.qualify(stringsOf(names)) }

func (b *builder) qualify(names []string) Name {
	if len(names) == 0 {
		return Name{}
	}
	name := names[len(names)-1]
	if len(names) > 1 && names[len(names)-2] != "" {
		return Name{names[len(names)-2], name}
	}
	if len(b.path) > 0 {
		return Name{b.path[0], name}
	}
	return Name{"public", name}
}

// relation finds the relation that a statement means.
func (b *builder) relation(r *pg_query.RangeVar) Name {
	if r.GetSchemaname() != "" {
		return Name{r.GetSchemaname(), r.GetRelname()}
	}
	for _, s := range b.path {
		n := Name{s, r.GetRelname()}
		if b.cat.Tables[n] != nil || b.others[n] {
			return n
		}
	}
	return b.newRelation(r)
}

// table finds a table, or says that there is none.
func (b *builder) table(r *pg_query.RangeVar) (*Table, error) {
	name := b.relation(r)
	if t := b.cat.Tables[name]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("there is no table %s before this statement", name)
}

// finish resolves what had to wait for the end.
func (b *builder) finish() (*Catalog, error) {
	for _, p := range b.pending {
		if b.cat.Tables[p.table.Name] != p.table || !slices.Contains(p.table.References, p.fk) {
			continue // dropped since
		}
		to := b.cat.Tables[p.fk.To]
		if to == nil && len(b.cat.Extensions) > 0 && len(p.fk.ToColumns) > 0 {
			continue // pg_dump leaves the tables of extensions out, and not the references to them
		}
		if to == nil {
			return nil, &ParseError{Part: p.part, Line: p.line, Err: fmt.Errorf("%s references %s, which the schema does not define",
				p.table.Name, p.fk.To), Hint: "give the whole schema"}
		}
		if len(p.fk.ToColumns) == 0 {
			if p.fk.ToColumns = to.primaryKey(); p.fk.ToColumns == nil {
				return nil, &ParseError{Part: p.part, Line: p.line, Err: fmt.Errorf("%s references %s, which has no primary key",
					p.table.Name, p.fk.To), Hint: "name the columns that are referenced"}
			}
		}
		if len(p.fk.Columns) != len(p.fk.ToColumns) {
			return nil, &ParseError{Part: p.part, Line: p.line, Err: fmt.Errorf("foreign key %s of %s has %d columns but references %d",
				p.fk.Name, p.table.Name, len(p.fk.Columns), len(p.fk.ToColumns))}
		}
	}
	b.markFunctionCalls()
	for r := range b.roles {
		b.cat.Roles = append(b.cat.Roles, r)
	}
	slices.Sort(b.cat.Roles)
	return b.cat, nil
}

// primaryKey returns the columns of the primary key, or nil.
func (t *Table) primaryKey() []string {
	for _, k := range t.Keys {
		if k.Primary {
			return k.Columns
		}
	}
	return nil
}

// parseStatement parses one statement. Where the grammar (PostgreSQL 16's) does not know newer syntax whose meaning
// for a catalog is known, it parses an equal statement of older syntax instead.
func parseStatement(text string) ([]*pg_query.Node, error) {
	tree, err := pg_query.Parse(text)
	if err != nil {
		older, changed := olderSyntax(text)
		if !changed {
			return nil, err
		}
		if tree, err = pg_query.Parse(older); err != nil {
			return nil, err
		}
	}
	nodes := make([]*pg_query.Node, len(tree.Stmts))
	for i, s := range tree.Stmts {
		nodes[i] = s.Stmt
	}
	return nodes, nil
}

// olderSyntax rewrites what newer versions of pg_dump write:
//   - SEQUENCE NAME x UNLOGGED (or LOGGED) among the options of an identity column: the word goes;
//   - GENERATED ALWAYS AS (expression), virtual since PostgreSQL 18: STORED is put behind it.
func olderSyntax(text string) (string, bool) {
	var words []token // all tokens but comments
	lex := lexer{text: text}
	for {
		t, err := lex.next()
		if err != nil {
			return "", false
		}
		if t.kind == tokenEnd {
			break
		}
		if t.kind != tokenComment {
			words = append(words, t)
		}
	}
	is := func(i int, w string) bool {
		return i >= 0 && i < len(words) && (words[i].kind == tokenWord || words[i].kind == tokenByte) &&
			strings.EqualFold(text[words[i].start:words[i].end], w)
	}
	if !is(0, "alter") && !is(0, "create") {
		return "", false
	}
	var out strings.Builder
	done := 0
	replace := func(start, end int, with string) {
		out.WriteString(text[done:start])
		out.WriteString(with)
		done = end
	}
	for i := 0; i < len(words); i++ {
		switch {
		case (is(i, "unlogged") || is(i, "logged")) && sequenceNameBefore(words, is, i):
			replace(words[i].start, words[i].end, "")
		case is(i, "generated") && is(i+1, "always") && is(i+2, "as") && is(i+3, "("):
			j, depth := i+4, 1
			for ; j < len(words) && depth > 0; j++ {
				if is(j, "(") {
					depth++
				} else if is(j, ")") {
					depth--
				}
			}
			switch {
			case depth > 0 || is(j, "stored") || is(j, "identity"):
			case is(j, "virtual"):
				replace(words[j].start, words[j].end, "STORED")
			default:
				replace(words[j-1].end, words[j-1].end, " STORED")
			}
			i = j - 1
		}
	}
	if done == 0 {
		return "", false
	}
	out.WriteString(text[done:])
	return out.String(), true
}

// sequenceNameBefore says whether SEQUENCE NAME followed by a name stands right before words[i].
func sequenceNameBefore(words []token, is func(int, string) bool, i int) bool {
	for j := i - 1; j >= i-5; j-- {
		if is(j, "sequence") && is(j+1, "name") {
			return true
		}
	}
	return false
}

// harmless says whether a statement that can't be parsed is of a kind that can't define a table, a column, a key, a
// type or a domain, whatever follows its first words.
func harmless(text string) bool {
	w := leadingWords(text, 5)
	if len(w) == 0 {
		return false
	}
	switch w[0] {
	case "comment", "grant", "revoke", "set", "reset", "security", "analyze", "vacuum", "refresh", "notify", "listen", "lock":
		return true
	case "create", "alter", "drop":
	default:
		return false
	}
	w = w[1:]
	if len(w) > 1 && w[0] == "or" && w[1] == "replace" {
		w = w[2:]
	}
	if len(w) == 0 {
		return false
	}
	switch w[0] {
	case "trusted", "procedural", "language", "function", "procedure", "routine", "aggregate", "operator", "view", "trigger",
		"constraint", "rule", "policy", "publication", "subscription", "statistics", "sequence", "cast", "server",
		"transform", "conversion", "access", "materialized", "role", "user", "group", "event", "index", "database",
		"tablespace", "system", "large", "default", "property":
		return true
	case "foreign":
		return len(w) > 1 && w[1] == "data"
	case "text":
		return len(w) > 1 && w[1] == "search"
	}
	return false
}
