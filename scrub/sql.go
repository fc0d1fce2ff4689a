package scrub

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"lethe/scrub/catalog"
	"lethe/scrub/copytext"
)

// keysPerStatement and bytesPerStatement bound one statement. The keys travel as one array literal, which costs the
// server's parser one token however many there are; each statement may cost it a reading of the whole table, where no
// index serves the reference.
const (
	keysPerStatement  = 50_000
	bytesPerStatement = 1 << 20
)

// sqlReader brings rows from a live server, by the indexes on the reference's columns where there are any.
type sqlReader struct {
	querier Querier
	catalog *catalog.Catalog
	chunk   int // keys per statement
}

func (r *sqlReader) read(ctx context.Context, rel *relation, questions []question, fn func(row [][]byte, question, key int) error) error {
	var pass []*question // those that one reading of the table has to answer
	for i := range questions {
		q := &questions[i]
		if q.all {
			if err := r.query(ctx, r.whole(rel, []*question{q}), len(rel.columns), -1, 0, fn); err != nil {
				return err
			}
			if !q.byServer() {
				continue // these are the rows of every key
			}
		}
		byServer := -1
		if q.byServer() {
			byServer = i
		}
		for from, to := 0, 0; from < len(q.keys); from = to {
			to = r.chunkEnd(q.keys, from)
			sql, how := r.join(rel, q, q.keys[from:to])
			if how == cannotJoin {
				if byServer >= 0 {
					return fmt.Errorf("the reference %s compares in a way that only the server knows and that can't be asked; "+
						"try: declare it between columns of one type", catalog.QuoteList(columnNames(q.columns)))
				}
				pass = append(pass, q)
				break
			}
			if how == nothingToAsk {
				continue
			}
			if err := r.query(ctx, sql, len(rel.columns), byServer, from, fn); err != nil {
				return err
			}
		}
	}
	if len(pass) == 0 {
		return nil
	}
	return r.query(ctx, r.whole(rel, pass), len(rel.columns), -1, 0, fn)
}

// chunkEnd says where the keys of one statement end that begins with the key at from.
func (r *sqlReader) chunkEnd(keys []reached, from int) int {
	end, size := from, 0
	for end < len(keys) && end-from < r.chunk && size < bytesPerStatement {
		for _, text := range keys[end].texts {
			size += len(text)
		}
		end++
	}
	return end
}

// whole selects all rows that can lead anywhere by the columns of one of the questions. Its first column is the ordinal
// of no key.
func (r *sqlReader) whole(rel *relation, questions []*question) string {
	var b strings.Builder
	b.WriteString("SELECT 0")
	for _, c := range rel.columns {
		b.WriteString(", c." + catalog.Quote(c))
	}
	b.WriteString(" FROM ONLY " + rel.table.Name.SQL() + " AS c")
	for n, q := range questions {
		if n == 0 {
			b.WriteString(" WHERE ")
		} else {
			b.WriteString(" OR ")
		}
		for i, c := range q.columns {
			if i > 0 {
				b.WriteString(" AND ")
			}
			b.WriteString("c." + catalog.Quote(c.Name) + " IS NOT NULL")
		}
		if q.edge != nil {
			b.WriteString(r.conditions(q.edge))
		}
	}
	return b.String()
}

type joinResult int

const (
	joins        joinResult = iota
	nothingToAsk            // none of the keys can be a value of the columns
	cannotJoin              // the server's = is not the comparison that counts: rows have to be compared one by one
)

// join selects the rows whose columns equal one of the keys, each with its key's ordinal (from 1) in front. Columns
// whose comparison can't be left to the server are not compared at all, unless the server's answer must be exact: the
// result is then a superset.
func (r *sqlReader) join(rel *relation, q *question, keys []reached) (sql string, how joinResult) {
	if q.edge != nil && q.edge.Path != "" {
		return "", cannotJoin
	}
	var compared []int
	comparisons := make([]comparison, len(q.columns))
	for i := range q.columns {
		var ok bool
		if comparisons[i], ok = r.comparison(q.columns[i], q.to[i], q.family[i]); ok {
			compared = append(compared, i)
		} else if q.byServer() {
			return "", cannotJoin
		}
	}
	if len(compared) == 0 {
		return "", cannotJoin
	}

	arrays := make([][]byte, len(compared))
	ordinals := []byte{'{'}
	texts := make([]string, len(compared))
	for n, key := range keys {
		possible := true
		for j, i := range compared {
			texts[j] = key.texts[i]
			if comparisons[i].integers {
				var ok bool
				texts[j], ok = int64Text(key.texts[i])
				possible = possible && ok
			}
		}
		if !possible {
			continue
		}
		for j := range compared {
			arrays[j] = appendElement(arrays[j], texts[j])
		}
		if len(ordinals) > 1 {
			ordinals = append(ordinals, ',')
		}
		ordinals = strconv.AppendInt(ordinals, int64(n+1), 10)
	}
	if len(ordinals) == 1 {
		return "", nothingToAsk
	}

	var b strings.Builder
	b.WriteString("SELECT k.o")
	for _, c := range rel.columns {
		b.WriteString(", c." + catalog.Quote(c))
	}
	b.WriteString(" FROM ROWS FROM (pg_catalog.unnest('" + string(ordinals) + "}'::pg_catalog.int4[])")
	names := "o"
	for j := range compared {
		b.WriteString(", pg_catalog.unnest(" + catalog.Literal(string(arrays[j])+"}") + "::pg_catalog.text[])")
		names += ", k" + strconv.Itoa(j)
	}
	b.WriteString(") AS k(" + names + ") JOIN ONLY " + rel.table.Name.SQL() + " AS c ON ")
	for j, i := range compared {
		if j > 0 {
			b.WriteString(" AND ")
		}
		b.WriteString(comparisons[i].sql("c."+catalog.Quote(q.columns[i].Name), "k.k"+strconv.Itoa(j)))
	}
	if q.edge != nil {
		b.WriteString(r.conditions(q.edge))
	}
	return b.String(), joins
}

// conditions are those of a polymorphic reference that the server can check; the matcher checks them all again.
func (r *sqlReader) conditions(e *Edge) string {
	s := ""
	for _, w := range e.When {
		column := e.From.Column(w.Column)
		if base, _, _ := r.catalog.Base(column.Type); isText(base) {
			s += " AND c." + catalog.Quote(w.Column) + "::pg_catalog.text OPERATOR(pg_catalog.=) " + catalog.Literal(w.Value)
		}
	}
	return s
}

// comparison is how SQL compares a column with a key's text.
type comparison struct {
	cast      string // the type that the key's text is cast to
	operator  string // the schema of =
	collation string // COLLATE clause, or ""
	integers  bool   // the key's text must be an integer of 64 bits first
}

func (c comparison) sql(column, key string) string {
	return column + " OPERATOR(" + c.operator + ".=) CAST(" + key + " AS " + c.cast + ")" + c.collation
}

// comparison says how SQL compares a column with keys of another, in a way that an index on the column can serve. It is
// false where = between the two types may not be what the family means.
func (r *sqlReader) comparison(from, to *catalog.Column, f Family) (comparison, bool) {
	fromType, _, _ := r.catalog.Base(from.Type)
	toType, _, _ := r.catalog.Base(to.Type)
	builtin := func(name string) comparison {
		return comparison{cast: "pg_catalog." + catalog.Quote(name), operator: "pg_catalog"}
	}
	integer := isType(fromType, "int2") || isType(fromType, "int4") || isType(fromType, "int8")
	switch f {
	case Integer, Numeric:
		c := builtin("int8") // every index on integers serves it
		c.integers = true
		if integer {
			return c, true
		}
		return builtin("numeric"), isType(fromType, "numeric")
	case UUID:
		return builtin("uuid"), isType(fromType, "uuid") && isType(toType, "uuid")
	case PaddedText:
		return builtin("bpchar"), isType(fromType, "bpchar")
	case Text:
		return builtin("text"), isText(fromType)
	case Exact:
		c, known := r.ownType(toType)
		return c, known && fromType.Name == toType.Name && fromType.Array == toType.Array
	}
	c, _ := r.ownType(toType)
	c.collation = r.collate(from, to)
	return c, true
}

// ownType compares in a type of any kind. known is false where the type belongs to an extension, whose = is then taken
// from the type's own schema: search_path is empty, and without a schema the server would silently compare as text.
func (r *sqlReader) ownType(t catalog.TypeRef) (c comparison, known bool) {
	c = comparison{cast: t.Name.SQL(), operator: "pg_catalog"}
	if t.Array {
		c.cast += "[]"
	}
	defined := r.catalog.Types[t.Name]
	known = t.Name.Schema == "pg_catalog" || t.Array || defined != nil && defined.Kind != catalog.BaseType
	if !known {
		c.operator = catalog.Quote(t.Name.Schema)
	}
	return c, known
}

// collate is the collation that a foreign key compares by, the referenced column's, where it has to be said.
func (r *sqlReader) collate(from, to *catalog.Column) string {
	if name := r.collation(to); name.Name != "" {
		return " COLLATE " + name.SQL()
	}
	if r.collation(from).Name != "" {
		return ` COLLATE pg_catalog."default"`
	}
	return ""
}

// collation is a column's own, or its domain's; zero where it is the database's.
func (r *sqlReader) collation(c *catalog.Column) catalog.Name {
	if c.Collation.Name != "" {
		return c.Collation
	}
	for t, i := c.Type, 0; i < 64 && !t.Array; i++ {
		d := r.catalog.Types[t.Name]
		if d == nil || d.Kind != catalog.Domain {
			break
		}
		if d.Collation.Name != "" {
			return d.Collation
		}
		t = d.Base
	}
	return catalog.Name{}
}

func isText(t catalog.TypeRef) bool {
	return isType(t, "text") || isType(t, "varchar")
}

func columnNames(columns []*catalog.Column) []string {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
	}
	return names
}

// int64Text writes a number, in any spelling, as PostgreSQL reads bigint; false where it is none.
func int64Text(text string) (string, bool) {
	canonical, ok := AppendKey(nil, Integer, []byte(text))
	if !ok {
		return "", false
	}
	digits, exponent, _ := strings.Cut(string(canonical[4:]), "e")
	zeros, _ := strconv.Atoi(exponent)
	if zeros > 19 {
		return "", false
	}
	n, ok := new(big.Int).SetString(digits+strings.Repeat("0", zeros), 10)
	if !ok || !n.IsInt64() {
		return "", false
	}
	return n.String(), true
}

// appendElement appends one element to an array literal that begins with it.
func appendElement(dst []byte, text string) []byte {
	if len(dst) == 0 {
		dst = append(dst, '{')
	} else {
		dst = append(dst, ',')
	}
	dst = append(dst, '"')
	for i := 0; i < len(text); i++ {
		if text[i] == '"' || text[i] == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, text[i])
	}
	return append(dst, '"')
}

// canonicalize rewrites the keys of one subject's requests as the server prints them: for types whose values have
// spellings that only the server knows, and for keys beyond ASCII, since requests come in UTF-8 and rows in the server's
// own encoding.
func (r *sqlReader) canonicalize(ctx context.Context, s *Subject, reqs []Request, keys []string) error {
	for i := range reqs {
		if reqs[i].Subject != s.Type {
			continue
		}
		canonical, err := r.canonical(ctx, s, keys[i])
		if err != nil {
			return fmt.Errorf("erasure request %s: reading its key as a value of %s.%s: %w",
				reqs[i].name(i), s.Table.Name, catalog.QuoteIfNeeded(s.Key), err)
		}
		keys[i] = canonical
	}
	return nil
}

// canonical is canonicalize for one key.
func (r *sqlReader) canonical(ctx context.Context, s *Subject, key string) (canonical string, err error) {
	base, _, _ := r.catalog.Base(s.Table.Column(s.Key).Type)
	c, _ := r.ownType(base)
	spellings := (s.Family == Exact || s.Family == Server) && !isText(base)
	if !spellings && isASCII(key) {
		return key, nil
	}
	text := catalog.Literal(key) + "::pg_catalog.text"
	if !isASCII(key) {
		text = fromUTF8(`'\x` + hex.EncodeToString([]byte(key)) + "'::pg_catalog.bytea")
	}
	err = r.query(ctx, "SELECT 1, CAST("+text+" AS "+c.cast+")", 1, -1, 0, func(row [][]byte, _, _ int) error {
		canonical = string(row[0])
		return nil
	})
	return canonical, err
}

// fromUTF8 is text whatever the server's encoding, of bytes that are UTF-8.
func fromUTF8(bytes string) string { return "pg_catalog.convert_from(" + bytes + ", 'UTF8')" }

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// query runs a SELECT of an ordinal and then columns values, and hands on each row decoded. first is the index of the
// key that the ordinal 1 means.
func (r *sqlReader) query(ctx context.Context, sql string, columns, question, first int, fn func(row [][]byte, question, key int) error) error {
	w := &rowWriter{columns: columns + 1, row: make([][]byte, columns+1)}
	w.fn = func(row [][]byte) error {
		ordinal, err := strconv.Atoi(string(row[0]))
		if err != nil || question >= 0 && ordinal < 1 {
			return errors.New("the server's answer does not begin with the ordinal that was asked for")
		}
		return fn(row[1:], question, first+ordinal-1)
	}
	err := r.querier.CopyQuery(ctx, sql, w)
	if err == nil {
		err = w.end()
	}
	return withoutValues(err)
}

// rowWriter cuts COPY text into rows and decodes them.
type rowWriter struct {
	columns int
	fn      func(row [][]byte) error
	partial []byte
	fields  [][]byte
	row     [][]byte
	text    []byte
	err     error
}

func (w *rowWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	rest := p
	for len(rest) > 0 {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			w.partial = append(w.partial, rest...)
			break
		}
		line := rest[:i+1]
		rest = rest[i+1:]
		if len(w.partial) > 0 {
			w.partial = append(w.partial, line...)
			line = w.partial
		}
		if w.err = w.line(line); w.err != nil {
			return 0, w.err
		}
		w.partial = w.partial[:0]
	}
	return len(p), nil
}

func (w *rowWriter) line(line []byte) error {
	w.fields = copytext.Split(line, w.fields[:0])
	if len(w.fields) != w.columns {
		return fmt.Errorf("the server sent a row of %d columns where %d were asked for", len(w.fields), w.columns)
	}
	// Decoding never makes a field longer, so the text buffer does not move under the values in it.
	w.text = slices.Grow(w.text[:0], len(line))
	for i, field := range w.fields {
		if copytext.IsNull(field) {
			w.row[i] = nil
			continue
		}
		start := len(w.text)
		var err error
		if w.text, err = copytext.Decode(w.text, field); err != nil {
			return err
		}
		w.row[i] = w.text[start:len(w.text):len(w.text)]
	}
	return w.fn(w.row)
}

func (w *rowWriter) end() error {
	if w.err == nil && len(w.partial) > 0 {
		return errors.New("the server's answer ends in the middle of a row")
	}
	return w.err
}

// serverError is an error of the server without the words that may quote a value.
type serverError struct {
	state string
	err   error
}

func (e *serverError) Error() string {
	return "the server refused the question with SQLSTATE " + e.state + " (its message may quote a value, and is left out)"
}

func (e *serverError) Unwrap() error { return e.err }

// refusesValue says whether a type refused a text as no value of its own: a data exception, a constraint of a domain's, or
// what types of extensions raise in their place.
func (e *serverError) refusesValue() bool {
	return strings.HasPrefix(e.state, "22") || strings.HasPrefix(e.state, "23") || e.state == "42601" || e.state == "P0001"
}

// withoutValues hides the text of server errors except of those classes that never quote values: connection, transaction
// state, authorization, resources, intervention, system.
func withoutValues(err error) error {
	var server interface{ SQLState() string }
	if err == nil || !errors.As(err, &server) {
		return err
	}
	state := server.SQLState()
	if len(state) == 5 && slices.Contains([]string{"08", "25", "28", "40", "53", "55", "57", "58"}, state[:2]) || state == "42501" {
		return err
	}
	return &serverError{state, err}
}
