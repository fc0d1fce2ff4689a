package catalog

import (
	"errors"
	"fmt"
	"strings"
)

// tokenKind says what a token of SQL text is, as far as finding the ends of statements needs.
type tokenKind byte

const (
	tokenEnd       tokenKind = iota // the text is over
	tokenWord                       // an unquoted identifier or keyword
	tokenQuoted                     // "…" or U&"…"
	tokenString                     // '…' in any of its spellings, or $tag$…$tag$
	tokenNumber                     // digits and what clings to them; also $1
	tokenComment                    // -- or /* */
	tokenBackslash                  // the start of a psql meta-command
	tokenByte                       // any other single byte
)

// token is a piece of the text: text[start:end].
type token struct {
	kind       tokenKind
	start, end int
}

// lexer cuts SQL text into tokens by the rules of psql's scanner (src/fe_utils/psqlscan.l).
type lexer struct {
	text string
	pos  int
	// backslashQuotes is set where standard_conforming_strings is off. A plain string that holds a backslash is then
	// an error: its meaning would depend on a setting that none of our sessions share.
	backslashQuotes bool
}

var errBackslashString error = certain{errors.New("a plain string holds a backslash while standard_conforming_strings is off")}

func isSpace(c byte) bool {
	return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f' || c == '\v'
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isWordStart(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

func isWordPart(c byte) bool { return isWordStart(c) || isDigit(c) || c == '$' }

// next returns the token after the whitespace at the lexer's position.
func (l *lexer) next() (token, error) {
	s := l.text
	for l.pos < len(s) && isSpace(s[l.pos]) {
		l.pos++
	}
	start := l.pos
	if start == len(s) {
		return token{tokenEnd, start, start}, nil
	}
	tok := func(kind tokenKind, end int) (token, error) {
		l.pos = end
		return token{kind, start, end}, nil
	}
	switch c := s[start]; {
	case strings.HasPrefix(s[start:], "--"):
		return tok(tokenComment, lineEnd(s, start))
	case strings.HasPrefix(s[start:], "/*"):
		end, ok := blockCommentEnd(s, start)
		if !ok {
			return token{}, errors.New("a /* comment never ends")
		}
		return tok(tokenComment, end)
	case c == '\'':
		return l.str(start, start, l.backslashQuotes)
	case c == '"':
		return l.quoted(start, start)
	case c == '$':
		return l.dollar(start)
	case isWordStart(c):
		end := start + 1
		switch {
		case end < len(s) && s[end] == '\'' && (c == 'e' || c == 'E'):
			return l.escapeString(start)
		case end < len(s) && s[end] == '\'' && strings.IndexByte("bBxXnN", c) >= 0:
			return l.str(start, end, l.backslashQuotes && (c == 'n' || c == 'N'))
		case (c == 'u' || c == 'U') && strings.HasPrefix(s[end:], "&'"):
			return l.str(start, end+1, l.backslashQuotes)
		case (c == 'u' || c == 'U') && strings.HasPrefix(s[end:], `&"`):
			return l.quoted(start, end+1)
		}
		for end < len(s) && isWordPart(s[end]) {
			end++
		}
		return tok(tokenWord, end)
	case isDigit(c):
		end := start + 1
		for end < len(s) && (isWordPart(s[end]) && s[end] != '$') {
			end++
		}
		return tok(tokenNumber, end)
	case c == '\\':
		return tok(tokenBackslash, start+1)
	case c == 0:
		return token{}, certain{errors.New("a NUL byte, which SQL text can't hold")}
	default:
		return tok(tokenByte, start+1)
	}
}

// str scans a string without backslash escapes, whose quote opens at open.
func (l *lexer) str(start, open int, refuseBackslash bool) (token, error) {
	end, ok := quoteEnd(l.text, open)
	if !ok {
		return token{}, errors.New("a quoted string never ends")
	}
	if refuseBackslash && strings.IndexByte(l.text[open:end], '\\') >= 0 {
		return token{}, errBackslashString
	}
	l.pos = end
	return token{tokenString, start, end}, nil
}

// quoted scans a quoted identifier, whose quote opens at open.
func (l *lexer) quoted(start, open int) (token, error) {
	end, ok := quoteEnd(l.text, open)
	if !ok {
		return token{}, errors.New("a quoted identifier never ends")
	}
	l.pos = end
	return token{tokenQuoted, start, end}, nil
}

// escapeString scans E'…', start being the E, with its continuations: 'a' and 'b' with a newline between them are one
// string, and the second half has escapes too.
func (l *lexer) escapeString(start int) (token, error) {
	s := l.text
	i := start + 2
	for i < len(s) {
		switch s[i] {
		case '\\':
			i += 2
		case '\'':
			if i+1 < len(s) && s[i+1] == '\'' {
				i += 2
				continue
			}
			open, ok := continuation(s, i+1)
			if !ok {
				l.pos = i + 1
				return token{tokenString, start, i + 1}, nil
			}
			i = open + 1
		default:
			i++
		}
	}
	return token{}, errors.New("a quoted string never ends")
}

// continuation says where the quote of a continued string opens, if the string that ended before pos is continued.
func continuation(s string, pos int) (open int, ok bool) {
	newline := false
	for pos < len(s) {
		switch {
		case s[pos] == '\'':
			return pos, newline
		case s[pos] == '\n' || s[pos] == '\r':
			newline = true
			pos++
		case isSpace(s[pos]):
			pos++
		case strings.HasPrefix(s[pos:], "--"):
			pos = lineEnd(s, pos)
		default:
			return 0, false
		}
	}
	return 0, false
}

// dollar scans what begins with a dollar sign: a dollar-quoted string, a parameter, or the sign alone.
func (l *lexer) dollar(start int) (token, error) {
	s := l.text
	end := start + 1
	if end < len(s) && isDigit(s[end]) {
		for end < len(s) && isDigit(s[end]) {
			end++
		}
		l.pos = end
		return token{tokenNumber, start, end}, nil
	}
	for end < len(s) && s[end] != '$' && isWordPart(s[end]) {
		end++
	}
	if end == len(s) || s[end] != '$' {
		l.pos = start + 1
		return token{tokenByte, start, start + 1}, nil
	}
	tag := s[start : end+1]
	n := strings.Index(s[end+1:], tag)
	if n < 0 {
		return token{}, fmt.Errorf("a string quoted with %s never ends", shorten(tag, 40))
	}
	l.pos = end + 1 + n + len(tag)
	return token{tokenString, start, l.pos}, nil
}

// quoteEnd returns the position after the quote that closes the one at open; doubled quotes stand for one.
func quoteEnd(s string, open int) (int, bool) {
	q := s[open]
	for i := open + 1; ; {
		n := strings.IndexByte(s[i:], q)
		if n < 0 {
			return 0, false
		}
		i += n + 1
		if i == len(s) || s[i] != q {
			return i, true
		}
		i++
	}
}

// blockCommentEnd returns the position after the comment that starts at start; comments nest.
func blockCommentEnd(s string, start int) (int, bool) {
	depth := 1
	for i := start + 2; i+1 < len(s); {
		switch {
		case s[i] == '*' && s[i+1] == '/':
			i += 2
			if depth--; depth == 0 {
				return i, true
			}
		case s[i] == '/' && s[i+1] == '*':
			depth++
			i += 2
		default:
			i++
		}
	}
	return 0, false
}

// lineEnd returns the position of the line break at or after pos, or the end of the text.
func lineEnd(s string, pos int) int {
	if n := strings.IndexAny(s[pos:], "\n\r"); n >= 0 {
		return pos + n
	}
	return len(s)
}

// shorten cuts s to about n bytes for a message, on one line.
func shorten(s string, n int) string {
	if len(s) > 4*n {
		s = s[:4*n]
	}
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + " …"
}
