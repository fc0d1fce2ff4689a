package catalog

import (
	"errors"
	"fmt"
	"strings"
)

// Statement is one SQL statement of a script.
type Statement struct {
	Text   string // from its first token to its semicolon, which is always there; comments before it are left out
	Line   int    // 1-based line of the first token in the script
	Header Header // the last TOC comment of pg_dump before the statement

	// CopyFrom is set for COPY … FROM stdin. CopyData then holds its lines, the ending `\.` line left out. It shares
	// memory with the script.
	CopyFrom bool
	CopyData string
}

// Header is what pg_dump says above a statement: `-- Name: X; Type: T; Schema: S; Owner: O`. It is a comment: good for
// progress and for order, never a proof. Absent parts are empty; pg_dump prints them as "-".
type Header struct{ Name, Type, Schema, Owner string }

// SplitError is a place in a script where statements can't be told apart.
type SplitError struct {
	Line int // 1-based
	Err  error
}

func (e *SplitError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

func (e *SplitError) Unwrap() error { return e.Err }

// Split cuts a script into its statements where psql would, so that executing the texts one by one does what psql does
// with the script: it knows quotes, dollar quotes, nested comments, parentheses (CREATE RULE … DO (a; b)) and the
// BEGIN ATOMIC bodies of SQL functions. Lines that pg_dump writes for psql alone (\restrict, \unrestrict) are left
// out; any other meta-command is an error, as is a text that ends inside a statement. Time is linear in len(sql).
func Split(sql string) ([]Statement, error) {
	s := newSplitter(sql)
	var all []Statement
	for {
		st, err := s.next()
		if err != nil {
			return nil, &SplitError{Line: s.line(s.lex.pos), Err: err}
		}
		if st.Text == "" {
			return all, nil
		}
		all = append(all, st)
	}
}

// splitter walks over a script. It holds no state between statements but its position, the last header and one
// setting, so that a reader of whole dump files can be built on it.
type splitter struct {
	lex     lexer
	header  Header
	lineAt  int // position up to which lines are counted
	lineNum int // line of that position

	scanning bool // for a Scanner: COPY's lines are left alone, and meta-commands are statements
}

func newSplitter(sql string) *splitter {
	s := &splitter{lex: lexer{text: sql}, lineNum: 1}
	if strings.HasPrefix(sql, "\ufeff") { // psql skips a byte order mark
		s.lex.pos = len("\ufeff")
	}
	return s
}

// line returns the line of a position that is not before any asked for earlier.
func (s *splitter) line(pos int) int {
	s.lineNum += strings.Count(s.lex.text[s.lineAt:pos], "\n")
	s.lineAt = pos
	return s.lineNum
}

// next returns the next statement; its Text is empty at the end of the script.
func (s *splitter) next() (Statement, error) {
	var (
		st     Statement
		start  = -1
		depth  int
		blocks = blockCounter{}
		copies = copyDetector{}
	)
	for {
		tok, err := s.lex.next()
		if err != nil {
			return Statement{}, err
		}
		text := s.lex.text[tok.start:tok.end]
		switch tok.kind {
		case tokenEnd:
			if start < 0 {
				return Statement{}, nil
			}
			if s.scanning {
				return Statement{}, fmt.Errorf("the statement of line %d does not end", st.Line)
			}
			if depth > 0 || blocks.depth > 0 {
				return Statement{}, fmt.Errorf("the statement of line %d does not end: an open parenthesis or BEGIN", st.Line)
			}
			st.Text = s.lex.text[start:] + "\n;" // on its own line: the text may end in a comment
			if copies.fromStdin {
				return Statement{}, fmt.Errorf("the COPY of line %d has no data", st.Line)
			}
			return st, nil
		case tokenComment:
			if h, ok := parseHeader(text); ok && start < 0 {
				s.header = h
			}
			continue
		case tokenBackslash:
			if s.scanning && start < 0 {
				s.lex.pos = lineEnd(s.lex.text, tok.start)
				return Statement{Text: s.lex.text[tok.start:s.lex.pos], Line: s.line(tok.start), Header: s.header}, nil
			}
			if err := s.metaCommand(tok, start >= 0); err != nil {
				return Statement{}, err
			}
			continue
		}
		if text == ";" && depth == 0 && blocks.depth == 0 {
			if start < 0 { // an empty statement
				continue
			}
			st.Text = s.lex.text[start:tok.end]
			if copies.fromStdin {
				st.CopyFrom = true
				if !s.scanning {
					if st.CopyData, err = s.copyData(); err != nil {
						return Statement{}, err
					}
				}
			}
			if on, ok := standardStrings(st.Text); ok {
				s.lex.backslashQuotes = !on
			}
			return st, nil
		}
		if start < 0 {
			start = tok.start
			st.Line = s.line(start)
			st.Header = s.header
		}
		switch {
		case text == "(":
			depth++
		case text == ")" && depth > 0:
			depth--
		case tok.kind == tokenWord:
			if depth == 0 {
				blocks.word(text)
			} else {
				blocks.count++
			}
		}
		if depth == 0 {
			copies.token(tok.kind, text)
		}
	}
}

// metaCommand skips the line of a meta-command that means nothing to a server, and refuses every other.
func (s *splitter) metaCommand(tok token, inStatement bool) error {
	end := lineEnd(s.lex.text, tok.start)
	line := s.lex.text[tok.start:end]
	word, _, _ := strings.Cut(line, " ")
	if !inStatement && (word == `\restrict` || word == `\unrestrict`) {
		s.lex.pos = end
		return nil
	}
	return certain{fmt.Errorf("psql's meta-command %s: only SQL is read here", shorten(word, 20))}
}

// copyData takes the lines after COPY … FROM stdin; up to the one that ends them.
func (s *splitter) copyData() (string, error) {
	text := s.lex.text
	n := strings.IndexByte(text[s.lex.pos:], '\n')
	if n < 0 {
		return "", errors.New("COPY … FROM stdin without data")
	}
	if rest := text[s.lex.pos : s.lex.pos+n]; strings.TrimSpace(rest) != "" {
		return "", errors.New("COPY … FROM stdin with more statements on its line")
	}
	start := s.lex.pos + n + 1
	for pos := start; pos < len(text); {
		end := len(text)
		if n := strings.IndexByte(text[pos:], '\n'); n >= 0 {
			end = pos + n
		}
		if line := text[pos:end]; line == `\.` || line == "\\.\r" {
			s.lex.pos = end
			return text[start:pos], nil
		}
		pos = end + 1
	}
	return "", errors.New(`the data of COPY … FROM stdin does not end with \. on a line of its own`)
}

// blockCounter counts BEGIN … END (and CASE … END inside) in CREATE [OR REPLACE] FUNCTION or PROCEDURE, as psql does.
type blockCounter struct {
	first [4]byte // first letters of those of the statement's first words that matter
	count int     // words so far
	depth int
}

func (b *blockCounter) word(w string) {
	if len(w) > 9 {
		b.count++
		return
	}
	w = strings.ToLower(w)
	switch w {
	case "create", "function", "procedure", "or", "replace":
		if b.count < len(b.first) {
			b.first[b.count] = w[0]
		}
	}
	b.count++
	f := b.first
	if f[0] != 'c' || !(f[1] == 'f' || f[1] == 'p' || f[1] == 'o' && f[2] == 'r' && (f[3] == 'f' || f[3] == 'p')) {
		return
	}
	switch w {
	case "begin":
		b.depth++
	case "case":
		if b.depth > 0 {
			b.depth++
		}
	case "end":
		if b.depth > 0 {
			b.depth--
		}
	}
}

// copyDetector recognises COPY … FROM stdin by its tokens outside parentheses.
type copyDetector struct {
	started, isCopy, from, fromStdin bool
}

func (c *copyDetector) token(kind tokenKind, text string) {
	if !c.started {
		c.started = true
		c.isCopy = kind == tokenWord && strings.EqualFold(text, "copy")
		return
	}
	if !c.isCopy {
		return
	}
	if c.from && kind == tokenWord && strings.EqualFold(text, "stdin") {
		c.fromStdin = true
	}
	c.from = kind == tokenWord && strings.EqualFold(text, "from")
}

// standardStrings says what a SET standard_conforming_strings sets.
func standardStrings(stmt string) (on, ok bool) {
	if len(stmt) > 100 || len(stmt) < 4 || !strings.EqualFold(stmt[:3], "set") {
		return false, false
	}
	f := strings.Fields(strings.NewReplacer("=", " ", ";", " ", "'", " ").Replace(strings.ToLower(stmt)))
	for i, w := range f {
		if w == "standard_conforming_strings" && i+1 < len(f) {
			switch v := f[len(f)-1]; v {
			case "off", "false", "0", "no":
				return false, true
			default:
				return true, true
			}
		}
	}
	return false, false
}

// parseHeader reads a TOC comment of pg_dump. The name may hold anything, so it is cut at the last separators.
func parseHeader(comment string) (Header, bool) {
	rest, ok := strings.CutPrefix(comment, "-- Name: ")
	if !ok {
		if rest, ok = strings.CutPrefix(comment, "-- Data for Name: "); !ok {
			return Header{}, false
		}
	}
	i := strings.LastIndex(rest, "; Type: ")
	if i < 0 {
		return Header{}, false
	}
	h := Header{Name: rest[:i]}
	h.Type, rest, _ = strings.Cut(rest[i+len("; Type: "):], "; Schema: ")
	h.Schema, rest, _ = strings.Cut(rest, "; Owner: ")
	h.Owner, _, _ = strings.Cut(rest, "; Tablespace: ")
	h.Owner = strings.TrimSpace(h.Owner)
	if h.Schema == "-" {
		h.Schema = ""
	}
	if h.Owner == "-" {
		h.Owner = ""
	}
	return h, true
}
