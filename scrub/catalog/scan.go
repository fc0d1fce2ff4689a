package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Scanner finds the statements of a script that is too large to be held, such as a dump file with its rows: its caller
// holds a window of the text and moves it on. It cuts where Split cuts, with two differences: the lines of COPY … FROM
// stdin are the caller's to read, and psql's meta-commands are statements of their own, with a Text that begins with a
// backslash and has no semicolon, for the caller to judge. The zero Scanner is at the beginning of a script.
type Scanner struct {
	line            int // lines before the window
	header          Header
	backslashQuotes bool
	begun           bool
}

// Next returns the first statement of the window, and how many bytes the window is to move on; what stands before the
// statement's Text, window[:n-len(Text)], is comments and white space. last says that the script ends with the window.
//
// Where the window does not hold a whole statement n is 0: call again with a longer one. When n is 0 and last is true,
// the rest of the script is comments and white space. A script that ends inside a statement is an error, also where only
// the semicolon is missing. Errors are of type *SplitError.
func (s *Scanner) Next(window string, last bool) (st Statement, n int, err error) {
	split := splitter{lex: lexer{text: window, backslashQuotes: s.backslashQuotes}, header: s.header, lineNum: s.line + 1, scanning: true}
	if !s.begun && strings.HasPrefix(window, "\ufeff") {
		split.lex.pos = len("\ufeff")
	}
	st, err = split.next()
	switch {
	case err != nil && (last || isCertain(err)):
		return Statement{}, 0, &SplitError{Line: split.line(split.lex.pos), Err: err}
	case err != nil || st.Text == "":
		return Statement{}, 0, nil
	}
	n = split.lex.pos
	if st.Text[0] == '\\' && n == len(window) && !last {
		return Statement{}, 0, nil // the line may go on
	}
	s.begun = true
	s.header = split.header
	s.backslashQuotes = split.lex.backslashQuotes
	s.line += strings.Count(window[:n], "\n")
	return st, n, nil
}

// Line is the 1-based line that the window begins in.
func (s *Scanner) Line() int { return s.line + 1 }

// Skip says that the window has moved over lines that were none of Next's: those of COPY.
func (s *Scanner) Skip(lines int) { s.line += lines }

// certain is an error that no longer text takes away.
type certain struct{ error }

func isCertain(err error) bool {
	var c certain
	return errors.As(err, &c)
}

// CopyTarget reads `COPY table [(columns)] FROM stdin;` as pg_dump writes it: the table with its schema, and no options.
// columns is empty where the statement names none.
func CopyTarget(statement string) (table Name, columns []string, err error) {
	nodes, err := parseStatement(statement)
	if err != nil {
		return Name{}, nil, err
	}
	if len(nodes) != 1 || nodes[0].GetCopyStmt() == nil {
		return Name{}, nil, errors.New("this is not one COPY statement")
	}
	c := nodes[0].GetCopyStmt()
	if c.Relation == nil || !c.IsFrom || c.IsProgram || c.Filename != "" || len(c.Options) > 0 || c.WhereClause != nil {
		return Name{}, nil, errors.New("only COPY … FROM stdin in PostgreSQL's text format, without options, is read here")
	}
	if c.Relation.Schemaname == "" {
		return Name{}, nil, fmt.Errorf("COPY %s does not say the table's schema, as pg_dump does", QuoteIfNeeded(c.Relation.Relname))
	}
	columns = stringsOf(c.Attlist)
	return Name{c.Relation.Schemaname, c.Relation.Relname}, columns, nil
}

// Words returns up to n unquoted words that a statement begins with, in lower case: what kind of statement it is.
func Words(statement string, n int) []string { return slices.Clip(leadingWords(statement, n)) }
