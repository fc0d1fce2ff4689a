package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"lethe/scrub/catalog"
)

const (
	maxStatement = maxDDL   // bytes of one statement; rows of COPY have no bound
	windowStep   = 1 << 20  // bytes that a window grows by at least
	spanBytes    = 64 << 20 // longer blocks of rows are read by several workers
)

// statementReader walks over SQL text in bounded memory.
type statementReader struct {
	src    io.Reader
	scan   catalog.Scanner
	window string // read, and not yet handed out
	at     int64  // position of the window in the source, from where the reader began
	last   bool   // the source ends with the window
	chunk  []byte // scratch of fill
	lines  []byte // scratch of copyLines
}

// next returns the next statement and the comments and white space before it; io.EOF at the end, with what follows the
// last statement.
func (r *statementReader) next() (st catalog.Statement, gap string, err error) {
	for {
		st, n, err := r.scan.Next(r.window, r.last)
		if err != nil {
			return st, "", err
		}
		if n > 0 {
			gap, r.window = r.window[:n-len(st.Text)], r.window[n:]
			r.at += int64(n)
			return st, gap, nil
		}
		if r.last {
			return st, r.window, io.EOF
		}
		if err := r.fill(); err != nil {
			return st, "", err
		}
	}
}

// fill makes the window longer, by as much as it is long.
func (r *statementReader) fill() error {
	if len(r.window) > maxStatement {
		return &catalog.SplitError{Line: r.scan.Line(), Err: fmt.Errorf("a statement is longer than %d MiB", maxStatement>>20)}
	}
	want := max(len(r.window), windowStep)
	if cap(r.chunk) < want {
		r.chunk = make([]byte, want)
	}
	n, err := io.ReadFull(r.src, r.chunk[:want])
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		r.last, err = true, nil
	}
	r.window += string(r.chunk[:n])
	return err
}

var copyEnd = []byte("\n\\.\n")

// copyLines walks over the lines behind a COPY statement, up to the mark that ends them, and returns where they stand.
func (r *statementReader) copyLines(ctx context.Context) (spans []span, err error) {
	for !strings.Contains(r.window, "\n") && !r.last {
		if err := r.fill(); err != nil {
			return nil, err
		}
	}
	n := strings.IndexByte(r.window, '\n')
	if n < 0 {
		return nil, errCutOff
	}
	if rest := r.window[:n]; strings.TrimSpace(rest) != "" {
		return nil, errors.New("something stands behind COPY … FROM stdin on its line")
	} else if strings.Contains(rest, "\r") {
		return nil, errCRLF
	}
	// The text from here on begins with the newline before the first row, so that every row, and the end mark too,
	// stands between two newlines.
	at := r.at + int64(n) // of text[0]
	begin := r.window[n:]
	rest := ""
	if end := strings.Index(begin, string(copyEnd)); end >= 0 { // a small block: copy no more than that
		begin, rest = begin[:end+len(copyEnd)], begin[end+len(copyEnd):]
	} else if cap(r.lines) < 2*windowStep {
		r.lines = make([]byte, 0, 2*windowStep)
	}
	text := append(r.lines[:0], begin...)
	defer func() { r.lines = text[:0] }()
	rows := int64(-1) // newlines from the span's beginning on: the first one is none of a row
	lines := 0
	s := span{from: at + 1, line: r.scan.Line() + 1}
	for {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		end := bytes.Index(text, copyEnd)
		done := end + 1 // how much of text is sure to be rows
		if end < 0 {
			done = max(len(text)-len(copyEnd)+1, 0)
		}
		part := text[:done]
		if bytes.IndexByte(part, '\r') >= 0 {
			return nil, errCRLF
		}
		if bytes.IndexByte(part, 0) >= 0 {
			return nil, errors.New("a row holds a NUL byte, which PostgreSQL's text can't")
		}
		newlines := bytes.Count(part, []byte{'\n'})
		rows += int64(newlines)
		lines += newlines
		if last := bytes.LastIndexByte(part, '\n'); end < 0 && last >= 0 && at+int64(last)-s.from >= spanBytes {
			s.to, s.rows = at+int64(last)+1, rows
			spans = append(spans, s)
			s, rows = span{from: s.to, line: s.line + int(rows)}, 0
		}
		if end >= 0 {
			s.to, s.rows = at+int64(done), rows
			spans = append(spans, s)
			done += len(copyEnd) - 1
			if rest == "" {
				rest = string(text[done:])
			}
			r.window, r.at = rest, at+int64(done)
			r.scan.Skip(lines + 1)
			return spans, nil
		}
		text = text[:copy(text, text[done:])]
		at += int64(done)
		if r.last {
			return nil, errCutOff
		}
		n, err := r.src.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		if err == io.EOF {
			r.last, err = true, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

var errCutOff = errors.New("the file ends inside it")

// dumpIndex is the first pass over a dump file: it takes the DDL and everything small out of it, and notes where rows
// and large objects stand.
type dumpIndex struct {
	statementReader
	d  *Dump
	op string

	stage     dumpStage
	pre, post strings.Builder
	settings  []sessionSetting // in force
	author    string           // the SET SESSION AUTHORIZATION in force, or ""
	database  bool             // the file creates the database: pg_dump --create
	ddl       bool             // something but settings was kept
	complete  bool             // pg_dump's closing comment was seen

	tables  map[catalog.Name]*dumpTable
	order   []catalog.Name
	created map[uint32]int // large objects: index in Dump.objects
	opened  uint32         // large object whose content stands here, or 0
	content span
}

// dumpStage is how far a dump is; they follow one another.
type dumpStage int

const (
	preData dumpStage = iota
	data
	postData
)

type sessionSetting struct{ name, statement string }

// dumpTable is what the file holds of one table's rows.
type dumpTable struct {
	columns []string // as the statements name them, or none
	inserts bool
	spans   []span
	line    int
}

func newDumpIndex(d *Dump, op string) *dumpIndex {
	return &dumpIndex{
		statementReader: statementReader{src: io.NewSectionReader(d.file, 0, d.stat.Size())},
		d:               d,
		op:              op,
		tables:          map[catalog.Name]*dumpTable{},
		created:         map[uint32]int{},
	}
}

// refuse is an error at a line of the file.
func (x *dumpIndex) refuse(line int, err error, help string) error {
	return &Error{Op: x.op, Err: fmt.Errorf("line %d: %w", line, err), Help: help}
}

const (
	helpCutOff  = "the dump was cut off while it was written or copied: take it again, and look at pg_dump's exit code"
	helpForeign = "give the file as pg_dump wrote it"
	helpClean   = "dump without --clean"
	trailer     = "\n-- PostgreSQL database dump complete\n"
)

var errDrops = errors.New("the file drops things before it makes them")

func (x *dumpIndex) run(ctx context.Context) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		st, gap, err := x.next()
		if !x.complete && strings.Contains("\n"+gap, trailer) {
			x.complete = true
		}
		if err == io.EOF {
			x.relinquish()
			x.keepText(gap)
			break
		}
		if err != nil {
			var split *catalog.SplitError
			if errors.As(err, &split) {
				return x.refuse(split.Line, split.Err, helpCutOff)
			}
			return err
		}
		if x.complete && !strings.HasPrefix(st.Text, `\unrestrict`) {
			return x.refuse(st.Line, errors.New("the file goes on behind the end of its dump"), "back up one dump at a time")
		}
		if err := x.statement(ctx, st, gap); err != nil {
			return err
		}
		if x.pre.Len() > maxDDL || x.post.Len() > maxDDL || len(x.d.sequences) > maxDDL {
			return &Error{Op: x.op, Err: fmt.Errorf("the DDL is longer than %d MiB", maxDDL>>20)}
		}
	}
	if !x.complete {
		return &Error{Op: x.op, Err: errors.New(`it lacks the line that pg_dump ends with, "-- PostgreSQL database dump complete"`), Help: helpCutOff}
	}
	if x.opened != 0 {
		return x.refuse(x.content.line, fmt.Errorf("the content of large object %d does not end", x.opened), helpForeign)
	}
	x.d.PreData, x.d.PostData = withLocale(x.pre.String()), withLocale(x.post.String())
	i := &x.d.Info
	if i.ServerVersion == "" || i.PgDumpVersion == "" {
		return &Error{Op: x.op, Err: errors.New("it does not say which version of pg_dump wrote it"), Help: helpForeign}
	}
	if i.ClientEncoding == "" {
		return &Error{Op: x.op, Err: errors.New("it does not set client_encoding"), Help: helpForeign}
	}
	if i.Encoding == "" {
		i.Encoding = i.ClientEncoding
	}
	return x.encoding()
}

// encoding refuses what could be misread.
func (x *dumpIndex) encoding() error {
	e := x.d.Info.ClientEncoding
	switch e {
	case "SJIS", "BIG5", "GBK", "UHC", "GB18030", "JOHAB", "SHIFT_JIS_2004":
		return &Error{Op: x.op, Err: fmt.Errorf("its encoding, %s, has bytes that look like ASCII inside other characters", e), Help: "dump with pg_dump --encoding=UTF8"}
	}
	for _, text := range []string{x.d.PreData, x.d.PostData, string(x.d.sequences)} {
		if !utf8.ValidString(text) {
			return &Error{Op: x.op, Err: fmt.Errorf("names or comments in it are not UTF-8, but %s", e), Help: "dump with pg_dump --encoding=UTF8"}
		}
	}
	return nil
}

// keepText keeps comments where they stand.
func (x *dumpIndex) keepText(s string) {
	if x.stage == preData {
		x.pre.WriteString(s)
	} else if x.stage == postData {
		x.post.WriteString(s)
	}
}

// keep keeps a statement of the DDL, with the comments before it. The first one behind the rows begins post-data: it is
// run by a session of its own, which needs the settings in force.
func (x *dumpIndex) keep(st catalog.Statement, gap string) {
	if x.stage == data {
		x.stage = postData
		for _, s := range x.settings {
			x.post.WriteString(s.statement + "\n")
		}
		if x.author != "" {
			x.post.WriteString(x.author + "\n")
		}
	}
	x.ddl = true
	x.keepText(gap)
	x.keepText(st.Text)
}

// carry notes that statements with rows have begun.
func (x *dumpIndex) carry(st catalog.Statement) error {
	if x.stage == postData {
		return x.refuse(st.Line, errors.New("rows stand behind indexes and constraints, where pg_dump puts none"), "back up one dump at a time, as pg_dump wrote it")
	}
	if x.stage == preData {
		x.relinquish()
	}
	x.stage = data
	return nil
}

// relinquish ends a part of the DDL as its session's own user, who runs what follows.
func (x *dumpIndex) relinquish() {
	if x.author != "" {
		x.keepText("\nRESET SESSION AUTHORIZATION;\n")
	}
}

var (
	numbered    = `'?([0-9]{1,10})'?`
	loCreate    = regexp.MustCompile(`^SELECT (?:pg_catalog\.)?lo_create\(` + numbered + `\);$`)
	loOpen      = regexp.MustCompile(`^SELECT (?:pg_catalog\.)?lo_open\(` + numbered + `, 131072\);$`)
	loClose     = regexp.MustCompile(`^SELECT (?:pg_catalog\.)?lo_close\(0\);$`)
	loOwner     = regexp.MustCompile(`^ALTER LARGE OBJECT ([0-9]{1,10}) OWNER TO `)
	loGrant     = regexp.MustCompile(`^(?:GRANT|REVOKE) [A-Z, ]+ ON LARGE OBJECT ([0-9]{1,10}) (?:TO|FROM) `)
	loComment   = regexp.MustCompile(`^COMMENT ON LARGE OBJECT ([0-9]{1,10}) IS `)
	loLabel     = regexp.MustCompile(`^SECURITY LABEL FOR \S+ ON LARGE OBJECT ([0-9]{1,10}) IS `)
	setval      = regexp.MustCompile(`^SELECT pg_catalog\.setval\('(?:[^']|'')*', -?[0-9]+, (?:true|false)\);$`)
	searchPath  = regexp.MustCompile(`^SELECT pg_catalog\.set_config\('search_path', '[^']*', false\);$`)
	onDatabase  = regexp.MustCompile(`^(?:(?:GRANT|REVOKE) [A-Z, ]+|SECURITY LABEL FOR \S+) ON DATABASE `)
	fromVersion = regexp.MustCompile(`(?m)^-- Dumped from database version (\S+)`)
	byVersion   = regexp.MustCompile(`(?m)^-- Dumped by pg_dump version (\S+)`)
)

// statement sorts one statement into what the snapshot is made of. What pg_dump would not write is refused.
func (x *dumpIndex) statement(ctx context.Context, st catalog.Statement, gap string) error {
	i := &x.d.Info
	if i.PgDumpVersion == "" {
		if m := fromVersion.FindStringSubmatch(gap); m != nil {
			i.ServerVersion = m[1]
		}
		if m := byVersion.FindStringSubmatch(gap); m != nil {
			i.PgDumpVersion = m[1]
		}
	}
	if st.CopyFrom {
		return x.copyBlock(ctx, st)
	}
	if st.Text[0] == '\\' {
		return x.meta(st, gap)
	}
	w := append(catalog.Words(st.Text, 4), "", "", "", "")
	if x.opened != 0 && w[0] != "select" {
		return x.refuse(st.Line, fmt.Errorf("the content of large object %d does not end", x.opened), helpForeign)
	}
	switch w[0] {
	case "insert":
		return x.insert(st)
	case "select":
		return x.query(st, gap)
	case "set", "reset":
		x.set(st, gap)
		return nil
	case "begin", "commit":
		return nil // around large objects
	case "drop":
		return x.refuse(st.Line, errDrops, helpClean)
	case "create", "alter", "comment", "grant", "revoke", "security", "refresh":
		if done, err := x.largeObject(st); done || err != nil {
			return err
		}
		if done, err := x.databaseProperty(st, w); done || err != nil {
			return err
		}
		x.keep(st, gap)
		return nil
	case "update":
		if x.database && strings.HasPrefix(st.Text, "UPDATE pg_catalog.pg_database SET datistemplate = ") {
			return nil
		}
	}
	return x.refuse(st.Line, errors.New("a statement that pg_dump does not write: only DDL, COPY and INSERT are read here"), helpForeign)
}

// meta handles psql's meta-commands: those that pg_dump writes.
func (x *dumpIndex) meta(st catalog.Statement, gap string) error {
	word, _, _ := strings.Cut(st.Text, " ")
	switch {
	case word == `\restrict`, word == `\unrestrict`:
		x.keepText(strings.TrimSuffix(gap, "\n")) // the empty line before it goes too
		return nil
	case word == `\connect` && x.database && !x.ddl && x.stage == preData:
		return nil // of --create
	case word == `\connect`:
		return x.refuse(st.Line, errors.New("the file connects to another database"), "dump each database by itself, with pg_dump")
	}
	return x.refuse(st.Line, errors.New("a psql meta-command that pg_dump does not write"), helpForeign)
}

// set follows the session's settings.
func (x *dumpIndex) set(st catalog.Statement, gap string) {
	w := append(catalog.Words(st.Text, 3), "", "", "")
	switch {
	case w[1] == "session" && w[2] == "authorization":
		if x.author = strings.Clone(st.Text); w[0] == "reset" || strings.HasSuffix(st.Text, " DEFAULT;") {
			x.author = ""
		}
	case w[1] == "transaction_timeout": // servers before 17 don't know it
		x.keepText(gap)
		return
	case w[0] == "set":
		if w[1] == "client_encoding" {
			if v, _, ok := literal(afterEquals(st.Text)); ok {
				x.d.Info.ClientEncoding = v
			}
		}
		x.settled(w[1], st.Text)
	}
	if x.stage != data {
		x.keepText(gap)
		x.keepText(st.Text)
	}
}

func (x *dumpIndex) settled(name, statement string) {
	x.settings = slices.DeleteFunc(x.settings, func(s sessionSetting) bool { return s.name == name })
	x.settings = append(x.settings, sessionSetting{name, strings.Clone(statement)}) // what is kept must not keep the window
}

func afterEquals(s string) string {
	_, v, _ := strings.Cut(s, "=")
	return strings.TrimSpace(v)
}

// query sorts the SELECTs that pg_dump writes.
func (x *dumpIndex) query(st catalog.Statement, gap string) error {
	if searchPath.MatchString(st.Text) {
		x.settled("search_path", st.Text)
		if x.stage != data {
			x.keepText(gap)
			x.keepText(st.Text)
		}
		return nil
	}
	if setval.MatchString(st.Text) {
		if err := x.carry(st); err != nil {
			return err
		}
		x.d.sequences = append(append(x.d.sequences, st.Text...), '\n')
		return nil
	}
	if m := loCreate.FindStringSubmatch(st.Text); m != nil {
		oid, err := parseOID(m[1])
		if err != nil {
			return x.refuse(st.Line, errors.New("the number of a large object is too large"), helpForeign)
		}
		if _, twice := x.created[oid]; twice {
			return x.refuse(st.Line, fmt.Errorf("large object %d is created twice", oid), helpForeign)
		}
		x.created[oid] = len(x.d.objects)
		x.d.objects = append(x.d.objects, LargeObject{OID: oid})
		x.define(oid, fmt.Sprintf("SELECT pg_catalog.lo_create('%d');", oid))
		return nil
	}
	switch m := loOpen.FindStringSubmatch(st.Text); {
	case m != nil && x.opened == 0:
		if err := x.carry(st); err != nil {
			return err
		}
		oid, err := parseOID(m[1])
		if _, twice := x.d.contents[oid]; err != nil || oid == 0 || twice {
			return x.refuse(st.Line, errors.New("the content of a large object stands twice, or has no number"), helpForeign)
		}
		x.opened, x.content = oid, span{from: x.at, line: st.Line}
		return nil
	case x.opened != 0 && isWrite(st.Text):
		return nil
	case x.opened != 0 && loClose.MatchString(st.Text):
		x.content.to = x.at - int64(len(st.Text))
		x.d.contents[x.opened] = x.content
		x.opened = 0
		return nil
	}
	if strings.Contains(st.Text, "lo_unlink(") {
		return x.refuse(st.Line, errDrops, helpClean)
	}
	return x.refuse(st.Line, errors.New("a SELECT that pg_dump does not write"), helpForeign)
}

// define adds a statement to a large object's definition, under the session's authorization.
func (x *dumpIndex) define(oid uint32, text string) {
	if x.author != "" {
		text = x.author + " " + text + " RESET SESSION AUTHORIZATION;"
	}
	text = strings.Clone(text)
	lo := &x.d.objects[x.created[oid]]
	lo.dumped = append(lo.dumped, text)
}

// largeObject takes the statements that say whose a large object is, and what may be done with it.
func (x *dumpIndex) largeObject(st catalog.Statement) (bool, error) {
	if !strings.Contains(st.Text, " LARGE OBJECT ") {
		return false, nil
	}
	text := strings.ReplaceAll(st.Text, "\n", " ") // newlines are in a comment's or a label's literal only
	for _, r := range []*regexp.Regexp{loOwner, loGrant, loComment, loLabel} {
		m := r.FindStringSubmatch(text)
		if m == nil {
			continue
		}
		oid, err := parseOID(m[1])
		if _, ok := x.created[oid]; err != nil || !ok {
			return true, x.refuse(st.Line, errors.New("a large object that the file does not create"), "dump schema and large objects in one run of pg_dump")
		}
		if r == loOwner {
			owner, rest, ok := identifier(text[len(m[0]):])
			if !ok || rest != ";" {
				return true, x.refuse(st.Line, errors.New("an owner that is no name"), helpForeign)
			}
			text = m[0] + catalog.Quote(owner) + ";" // as from a server, so that the pieces are the same
		}
		if r == loComment || r == loLabel {
			value, rest, ok := literal(st.Text[len(m[0]):])
			if !ok || rest != ";" {
				return true, x.refuse(st.Line, errors.New("a comment that is no literal"), helpForeign)
			}
			text = m[0] + oneLine(value) + ";"
		}
		x.define(oid, text)
		roles, err := catalog.RolesOf([]catalog.Statement{{Text: text}, {Text: x.author}}, catalog.Filter{})
		if err != nil {
			return true, err
		}
		lo := &x.d.objects[x.created[oid]]
		lo.roles = append(lo.roles, roles...)
		return true, nil
	}
	return false, nil
}

// copyBlock notes where a table's rows stand.
func (x *dumpIndex) copyBlock(ctx context.Context, st catalog.Statement) error {
	if err := x.carry(st); err != nil {
		return err
	}
	name, columns, err := catalog.CopyTarget(st.Text)
	if err != nil {
		return x.refuse(st.Line, err, helpForeign)
	}
	t, err := x.table(name, columns, st, false)
	if err != nil {
		return err
	}
	spans, err := x.copyLines(ctx)
	if err != nil {
		help := helpForeign
		switch {
		case ctx.Err() != nil:
			return err
		case errors.Is(err, errCutOff):
			help = helpCutOff
		case errors.Is(err, errCRLF):
			help = helpCRLF
		}
		return x.refuse(st.Line, fmt.Errorf("the COPY of %s: %w", name, err), help)
	}
	t.spans = append(t.spans, spans...)
	return nil
}

// insert notes where a table's rows stand. Statements of one table, one behind the other, are one span.
func (x *dumpIndex) insert(st catalog.Statement) error {
	if err := x.carry(st); err != nil {
		return err
	}
	in, err := catalog.ParseInsert(st.Text)
	if err != nil {
		return x.refuse(st.Line, err, helpForeign)
	}
	t, err := x.table(in.Table, in.Columns, st, true)
	if err != nil {
		return err
	}
	start := x.at - int64(len(st.Text))
	if n := len(t.spans); n > 0 && start-t.spans[n-1].to <= 2 && start-t.spans[n-1].from < spanBytes {
		t.spans[n-1].to = x.at
		t.spans[n-1].rows += int64(len(in.Rows))
		return nil
	}
	t.spans = append(t.spans, span{from: start, to: x.at, rows: int64(len(in.Rows)), inserts: true, line: st.Line})
	return nil
}

// table finds or makes the note of a table's rows. All its statements must name the same columns.
func (x *dumpIndex) table(name catalog.Name, columns []string, st catalog.Statement, inserts bool) (*dumpTable, error) {
	t := x.tables[name]
	if t == nil {
		name = catalog.Name{Schema: strings.Clone(name.Schema), Name: strings.Clone(name.Name)}
		t = &dumpTable{inserts: inserts, line: st.Line}
		for _, c := range columns {
			t.columns = append(t.columns, strings.Clone(c))
		}
		x.tables[name] = t
		x.order = append(x.order, name)
	}
	if t.inserts != inserts || !slices.Equal(t.columns, columns) {
		return nil, x.refuse(st.Line, fmt.Errorf("the rows of %s stand in statements of different kinds or columns", name), helpForeign)
	}
	return t, nil
}

// columnsOf returns the columns that the rows hold: all of the table's but generated ones.
func (t *dumpTable) columnsOf(table *catalog.Table) (columns []string, err error) {
	for _, c := range table.Columns {
		if c.Generated == "" {
			columns = append(columns, c.Name)
		}
	}
	if len(t.columns) == 0 {
		return columns, nil
	}
	named := t.columns
	if t.inserts { // which name generated columns too, with DEFAULT
		named = slices.DeleteFunc(slices.Clone(named), func(n string) bool { c := table.Column(n); return c != nil && c.Generated != "" })
	}
	if a, b := slices.Sorted(slices.Values(named)), slices.Sorted(slices.Values(columns)); !slices.Equal(a, b) {
		return nil, errors.New("the statement does not name the table's columns, each once")
	}
	return named, nil
}

// databaseProperty takes what pg_dump --create says of the database itself.
func (x *dumpIndex) databaseProperty(st catalog.Statement, w []string) (bool, error) {
	i := &x.d.Info
	foreign := func() (bool, error) {
		return true, x.refuse(st.Line, errors.New("a property of the database that can't be read"), helpForeign)
	}
	after := func(prefix string) (rest string) { // the text behind the prefix and a name
		name, rest, ok := identifier(strings.TrimPrefix(st.Text, prefix))
		if ok && i.Database == "" && w[1] != "role" {
			i.Database = name
		}
		return rest
	}
	switch {
	case w[0] == "create" && w[1] == "database":
		x.database = true
		return true, x.createDatabase(st, after("CREATE DATABASE "))
	case w[0] == "alter" && w[1] == "database":
		if v, ok := strings.CutPrefix(after("ALTER DATABASE "), " SET "); ok {
			if s, ok := alterSet(v); ok {
				i.Settings = append(i.Settings, s)
				return true, nil
			}
			return foreign()
		}
		return true, nil // owner, limits
	case w[0] == "alter" && w[1] == "role":
		role, rest, ok := identifier(strings.TrimPrefix(st.Text, "ALTER ROLE "))
		if !ok {
			return foreign()
		}
		if rest, ok = strings.CutPrefix(rest, " IN DATABASE "); ok {
			if _, rest, ok = identifier(rest); ok {
				if v, isSet := strings.CutPrefix(rest, " SET "); isSet {
					if s, ok := alterSet(v); ok {
						s.Role = role
						i.Settings = append(i.Settings, s)
						return true, nil
					}
				}
			}
		}
		return foreign()
	case w[0] == "comment" && w[1] == "on" && w[2] == "database":
		v, ok := strings.CutPrefix(after("COMMENT ON DATABASE "), " IS ")
		if ok {
			i.Comment, _, ok = literal(v)
		}
		if !ok {
			return foreign()
		}
		return true, nil
	case onDatabase.MatchString(st.Text):
		return true, nil
	}
	return false, nil
}

// createDatabase reads the options of CREATE DATABASE.
func (x *dumpIndex) createDatabase(st catalog.Statement, options string) error {
	i := &x.d.Info
	options = strings.TrimSuffix(strings.TrimPrefix(options, " WITH "), ";")
	for rest := strings.TrimSpace(options); rest != ""; rest = strings.TrimSpace(rest) {
		name, after, ok := strings.Cut(rest, " = ")
		if !ok {
			return x.refuse(st.Line, errors.New("an option of CREATE DATABASE that can't be read"), helpForeign)
		}
		var value string
		if value, rest, ok = literal(after); !ok {
			if value, rest, ok = identifier(after); !ok {
				return x.refuse(st.Line, errors.New("an option of CREATE DATABASE that can't be read"), helpForeign)
			}
		}
		switch name {
		case "ENCODING":
			i.Encoding = value
		case "LOCALE_PROVIDER":
			i.LocaleProvider = map[string]string{"libc": "c", "icu": "i", "builtin": "b"}[value]
		case "LOCALE":
			i.Collate, i.CType = value, value
		case "LC_COLLATE":
			i.Collate = value
		case "LC_CTYPE":
			i.CType = value
		case "ICU_LOCALE", "BUILTIN_LOCALE":
			i.ICULocale = value
		}
	}
	return nil
}

// alterSet reads `name TO value[, value…];`, and returns the value as pg_db_role_setting stores it.
func alterSet(s string) (Setting, bool) {
	name, rest, ok := identifier(s)
	for ok && strings.HasPrefix(rest, ".") { // an extension's own
		var second string
		second, rest, ok = identifier(rest[1:])
		name += "." + second
	}
	if rest, ok = strings.CutPrefix(rest, " TO "); !ok {
		return Setting{}, false
	}
	var values []string
	for {
		var v string
		if v, rest, ok = literal(rest); !ok {
			return Setting{}, false
		}
		values = append(values, v)
		if rest == ";" {
			break
		}
		if rest, ok = strings.CutPrefix(rest, ", "); !ok {
			return Setting{}, false
		}
	}
	switch name {
	case "search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries", "shared_preload_libraries", "unix_socket_directories":
		for i, v := range values {
			values[i] = catalog.QuoteIfNeeded(v)
		}
		return Setting{Name: name, Value: strings.Join(values, ", ")}, true
	}
	return Setting{Name: name, Value: values[0]}, len(values) == 1
}

// identifier reads a name at the beginning of s.
func identifier(s string) (name, rest string, ok bool) {
	if strings.HasPrefix(s, `"`) {
		for i := 1; i < len(s); i++ {
			if s[i] != '"' {
				continue
			}
			if i+1 < len(s) && s[i+1] == '"' {
				i++
				continue
			}
			return strings.ReplaceAll(s[1:i], `""`, `"`), s[i+1:], i > 1
		}
		return "", s, false
	}
	i := strings.IndexAny(s, " ;.,=")
	if i <= 0 {
		return "", s, false
	}
	return strings.ToLower(s[:i]), s[i:], true
}

// literal reads a string literal at the beginning of s, '…' or E'…' with the escapes that pg_dump writes.
func literal(s string) (value, rest string, ok bool) {
	escapes := strings.HasPrefix(s, "E'")
	if escapes {
		s = s[1:]
	}
	if !strings.HasPrefix(s, "'") {
		return "", s, false
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && escapes:
			if i++; i == len(s) || s[i] != '\\' {
				return "", s, false
			}
			b.WriteByte('\\')
		case c == '\'' && i+1 < len(s) && s[i+1] == '\'':
			b.WriteByte('\'')
			i++
		case c == '\'':
			return b.String(), s[i+1:], true
		default:
			b.WriteByte(c)
		}
	}
	return "", s, false
}
