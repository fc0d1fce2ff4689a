package rules

import (
	"strings"
	"unicode/utf8"
)

// AlwaysFor returns the rule of `always` for one column, and whether there is one. Rules on whole tables are not
// looked at. An exact name beats every glob; among globs the one with more literal characters (schema, table and column
// together) wins, and among equals the first of the file. Where equals disagree, Ambiguous reports it.
func (f *File) AlwaysFor(schema, table, column string) (rule *Always, ok bool) {
	rule, _ = f.best(schema, table, column)
	return rule, rule != nil
}

// NoRows returns the rule that keeps the rows of a table out of every snapshot, and whether there is one. The order
// among rules is that of AlwaysFor.
func (f *File) NoRows(schema, table string) (rule *Always, ok bool) {
	rule, _ = f.best(schema, table, "")
	return rule, rule != nil
}

// Ambiguous returns two globs of equal rank that match one column and do different things to it, and whether there
// are such. Column is not empty: there is but one strategy for whole tables.
func (f *File) Ambiguous(schema, table, column string) (first, second *Always, ok bool) {
	first, second = f.best(schema, table, column)
	return first, second, second != nil
}

// best returns the winner, and the first rule of its rank that has another strategy.
func (f *File) best(schema, table, column string) (winner, rival *Always) {
	rank := -1
	for i := range f.Always {
		a := &f.Always[i]
		if (a.Column == "") != (column == "") || !a.Matches(schema, table, column) {
			continue
		}
		switch r := a.rank(); {
		case r > rank:
			winner, rival, rank = a, nil, r
		case r == rank && rival == nil && !a.Strategy.Equal(winner.Strategy):
			rival = a
		}
	}
	return winner, rival
}

// exactRank is above every glob's: three parts hold at most 3*maxName literal characters.
const exactRank = 1 << 20

// rank orders rules that match the same column: exact names first, then globs by their literal characters.
func (a *Always) rank() int {
	if !a.Glob {
		return exactRank
	}
	n := 0
	for _, pattern := range []string{a.Schema, a.Table, a.Column} {
		for i := 0; i < len(pattern); {
			_, literal, size := patternRune(pattern[i:])
			if literal {
				n++
			}
			i += size
		}
	}
	return n
}

// Matches says whether the rule's name or pattern covers a column, or a whole table where column is "".
func (a *Always) Matches(schema, table, column string) bool {
	if !a.Glob {
		return a.Schema == schema && a.Table == table && a.Column == column
	}
	return match(a.Schema, schema) && match(a.Table, table) && match(a.Column, column)
}

// match says whether the whole of name fits the pattern: * is any run of characters, ? is one, \ takes the next as is.
func match(pattern, name string) bool {
	star, retry := "", "" // the pattern after the last *, and the name from which to try it next
	seen := false
	for name != "" {
		if pattern != "" {
			r, literal, size := patternRune(pattern)
			c, width := utf8.DecodeRuneInString(name)
			switch {
			case !literal && r == '*':
				star, retry, seen = pattern[size:], name, true
				pattern = star
				continue
			case !literal || r == c:
				pattern, name = pattern[size:], name[width:]
				continue
			}
		}
		if !seen {
			return false
		}
		_, width := utf8.DecodeRuneInString(retry)
		retry = retry[width:]
		pattern, name = star, retry
	}
	return strings.Trim(pattern, "*") == ""
}

// patternRune returns the first rune of a pattern, whether it stands for itself, and its length with its escape.
func patternRune(pattern string) (r rune, literal bool, size int) {
	r, size = utf8.DecodeRuneInString(pattern)
	if r == '\\' && size < len(pattern) {
		var width int
		r, width = utf8.DecodeRuneInString(pattern[size:])
		return r, true, size + width
	}
	return r, r != '*' && r != '?', size
}

func escapePattern(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`).Replace(s)
}

// literalPattern returns the one name that a pattern without wildcards matches.
func literalPattern(pattern string) (string, bool) {
	var name strings.Builder
	for i := 0; i < len(pattern); {
		r, literal, size := patternRune(pattern[i:])
		if !literal {
			return "", false
		}
		name.WriteRune(r)
		i += size
	}
	return name.String(), true
}
