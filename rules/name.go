package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxName is the length of a PostgreSQL identifier in bytes (NAMEDATALEN - 1 of every stock build).
const maxName = 63

// String prints the name as a rules file writes it: a part in quotes only where it needs them, `public.` left out.
func (n Name) String() string {
	if n.Schema == "" || n.Schema == "public" {
		return quotePart(n.Name)
	}
	return quotePart(n.Schema) + "." + quotePart(n.Name)
}

// String prints the columns as a verb writes them: `user_id`, or `(org_id, user_id)`.
func (c Columns) String() string { return columnList(c.Names) }

// String prints the pattern or name as a key of `always` writes it.
func (a *Always) String() string {
	parts := []string{a.Schema, a.Table, a.Column}
	if a.Column == "" {
		parts = parts[:2]
	}
	switch {
	case a.Glob && a.Schema == "*" && a.Table == "*":
		parts = parts[1:] // a lone * for the table already means any schema
	case a.Schema == "public" && !(a.Glob && a.Table == "*"):
		parts = parts[1:]
	}
	written := make([]string, len(parts))
	for i, part := range parts {
		if a.Glob {
			written[i] = quotePattern(part)
		} else {
			written[i] = quotePart(part)
		}
	}
	return strings.Join(written, ".")
}

// ParseName reads TABLE or SCHEMA.TABLE. A part without quotes is taken exactly as written: unlike SQL, no letter is
// folded to lower case. A part that holds anything but letters, digits, _ and $ stands in double quotes, a quote in it
// doubled. Schema is "public" where it is left out.
func ParseName(s string) (Name, error) {
	parts, err := splitName(s, false)
	if err != nil {
		return Name{}, err
	}
	if len(parts) > 2 || parts[len(parts)-1].list != nil {
		return Name{}, &nameError{quoteText(s) + " is not a table's name", "write TABLE or SCHEMA.TABLE"}
	}
	return tableOf(parts), nil
}

// ParseColumn reads TABLE.COLUMN or SCHEMA.TABLE.COLUMN; the rules for the parts are those of ParseName.
func ParseColumn(s string) (Name, string, error) {
	table, columns, err := parseReference(s)
	if err != nil {
		return Name{}, "", err
	}
	if len(columns) != 1 {
		return Name{}, "", &nameError{quoteText(s) + " names several columns where one is expected", "write TABLE.COLUMN"}
	}
	return table, columns[0], nil
}

// parseReference reads TABLE.COLUMN, SCHEMA.TABLE.COLUMN, TABLE.(COLUMN, COLUMN) or SCHEMA.TABLE.(COLUMN, COLUMN).
func parseReference(s string) (Name, []string, error) {
	parts, err := splitName(s, false)
	if err != nil {
		return Name{}, nil, err
	}
	if len(parts) < 2 || len(parts) > 3 {
		return Name{}, nil, &nameError{quoteText(s) + " is not a column's name", "write TABLE.COLUMN or SCHEMA.TABLE.COLUMN"}
	}
	last := parts[len(parts)-1]
	columns := last.list
	if columns == nil {
		columns = []string{last.text}
	}
	return tableOf(parts[:len(parts)-1]), columns, nil
}

// parseColumns reads COLUMN or (COLUMN, COLUMN).
func parseColumns(s string) ([]string, error) {
	parts, err := splitName(s, false)
	if err != nil {
		return nil, err
	}
	if len(parts) != 1 {
		return nil, &nameError{quoteText(s) + " is not a column's name",
			"name the column alone, without its table; several as \"(org_id, user_id)\""}
	}
	if parts[0].list != nil {
		return parts[0].list, nil
	}
	return []string{parts[0].text}, nil
}

// parseColumn reads COLUMN.
func parseColumn(s string) (string, error) {
	columns, err := parseColumns(s)
	if err != nil {
		return "", err
	}
	if len(columns) != 1 {
		return "", &nameError{quoteText(s) + " names several columns where one is expected", "write one column"}
	}
	return columns[0], nil
}

// parseAlways reads a key of `always`, of which wholeTable says whether its strategy is for tables (no_rows) or for
// columns. Strategy and Pos of the result are not set.
func parseAlways(s string, wholeTable bool) (Always, error) {
	parts, err := splitName(s, true)
	if err != nil {
		return Always{}, err
	}
	if last := parts[len(parts)-1]; last.list != nil {
		return Always{}, &nameError{quoteText(s) + " names several columns", "write one rule for each column"}
	}
	var table, column *part
	switch {
	case wholeTable && len(parts) == 3:
		if parts[2].text != "*" || parts[2].quoted {
			return Always{}, &nameError{quoteText(s) + " names columns, and no_rows is for whole tables",
				"write TABLE: no_rows or \"SCHEMA.*.*\": no_rows; clear empties a column"}
		}
		parts = parts[:2]
		table = &parts[1]
	case wholeTable && len(parts) < 3:
		table = &parts[len(parts)-1]
	case !wholeTable && (len(parts) == 2 || len(parts) == 3):
		table, column = &parts[len(parts)-2], &parts[len(parts)-1]
	case !wholeTable && len(parts) == 1:
		return Always{}, &nameError{quoteText(s) + " names a table, and this strategy is for columns", "write TABLE.COLUMN"}
	default:
		return Always{}, &nameError{quoteText(s) + " has too many parts", "write TABLE.COLUMN or SCHEMA.TABLE.COLUMN"}
	}
	schema := part{text: "public"}
	if table != &parts[0] {
		schema = parts[0]
	} else if table.text == "*" && !table.quoted {
		schema = *table // *.last_ip is any schema, any table
	}
	a := Always{Schema: schema.text, Table: table.text}
	if column != nil {
		a.Column = column.text
	}
	a.Glob = schema.wild() || table.wild() || (column != nil && column.wild())
	if a.Glob {
		a.Schema, a.Table = schema.pattern(), table.pattern()
		if column != nil {
			a.Column = column.pattern()
		}
	}
	return a, nil
}

// part is one dot-separated part of a name.
type part struct {
	text   string // without its quotes
	quoted bool
	list   []string // the columns of a parenthesised last part
}

func (p part) wild() bool { return !p.quoted && strings.ContainsAny(p.text, "*?") }

// pattern returns the part as a glob: in a quoted part * and ? are themselves, so they are escaped.
func (p part) pattern() string {
	if !p.quoted {
		return p.text
	}
	return escapePattern(p.text)
}

func tableOf(parts []part) Name {
	if len(parts) == 1 {
		return Name{Schema: "public", Name: parts[0].text}
	}
	return Name{Schema: parts[0].text, Name: parts[1].text}
}

// nameError is a malformed name and how to write it.
type nameError struct{ msg, hint string }

func (e *nameError) Error() string { return e.msg + ": " + e.hint }

func nameHint(err error) (msg, hint string) {
	var ne *nameError
	if errors.As(err, &ne) {
		return ne.msg, ne.hint
	}
	return err.Error(), ""
}

// splitName splits a dotted name into its parts. A parenthesised list of columns may be the last part.
func splitName(s string, glob bool) ([]part, error) {
	if !utf8.ValidString(s) {
		return nil, &nameError{"a name is not valid UTF-8", "save the file as UTF-8"}
	}
	if s == "" {
		return nil, &nameError{"a name is empty", "write the name of a table or column"}
	}
	var parts []part
	rest := s
	for {
		if strings.HasPrefix(rest, "(") {
			list, err := splitList(s, rest)
			if err != nil {
				return nil, err
			}
			return append(parts, part{list: list}), nil
		}
		p, after, err := cutPart(s, rest, glob)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
		if after == "" {
			return parts, nil
		}
		if after[0] != '.' {
			return nil, unexpected(s, after)
		}
		rest = after[1:]
	}
}

// splitList reads "(a, b)" up to the end of the name.
func splitList(s, rest string) ([]string, error) {
	var names []string
	rest = rest[1:]
	for {
		p, after, err := cutPart(s, strings.TrimLeft(rest, " "), false)
		if err != nil {
			return nil, err
		}
		if slices.Contains(names, p.text) {
			return nil, &nameError{quoteText(s) + " names the column " + quoteText(p.text) + " twice", "name each column once"}
		}
		names = append(names, p.text)
		after = strings.TrimLeft(after, " ")
		switch {
		case after == ")":
			return names, nil
		case strings.HasPrefix(after, ","):
			rest = after[1:]
		case after == "":
			return nil, &nameError{quoteText(s) + " lacks its closing parenthesis", "write \"(org_id, user_id)\""}
		default:
			return nil, unexpected(s, strings.TrimPrefix(after, ")"))
		}
	}
}

// cutPart takes one identifier off the front of rest; s is the whole name, for messages.
func cutPart(s, rest string, glob bool) (part, string, error) {
	var p part
	if strings.HasPrefix(rest, `"`) {
		p.quoted = true
		var text strings.Builder
		i := 1
		for {
			j := strings.IndexByte(rest[i:], '"')
			if j < 0 {
				return part{}, "", &nameError{quoteText(s) + " lacks a closing double quote",
					`in YAML, put single quotes around the double ones: '"Odd Schema"."Tab"'`}
			}
			text.WriteString(rest[i : i+j])
			i += j + 1
			if !strings.HasPrefix(rest[i:], `"`) {
				break
			}
			text.WriteByte('"')
			i++
		}
		p.text, rest = text.String(), rest[i:]
	} else {
		end := strings.IndexFunc(rest, func(r rune) bool { return !plainRune(r) && !(glob && (r == '*' || r == '?')) })
		if end < 0 {
			end = len(rest)
		}
		p.text, rest = rest[:end], rest[end:]
		if p.text == "" && rest != "" && rest[0] != '.' {
			return part{}, "", unexpected(s, rest)
		}
	}
	switch {
	case p.text == "":
		return part{}, "", &nameError{quoteText(s) + " has an empty part", "write TABLE, TABLE.COLUMN or SCHEMA.TABLE.COLUMN"}
	case len(p.text) > maxName:
		return part{}, "", &nameError{fmt.Sprintf("%s has a part of %d bytes, and a PostgreSQL name has at most %d",
			quoteText(s), len(p.text), maxName), "write the name as the database stores it, cut off by the server"}
	case strings.ContainsRune(p.text, 0):
		return part{}, "", &nameError{quoteText(s) + " holds a NUL character", "PostgreSQL names have none"}
	}
	return p, rest, nil
}

// unexpected is the error for the character at the start of rest, which no unquoted name can hold.
func unexpected(s, rest string) error {
	r, _ := utf8.DecodeRuneInString(rest)
	what := fmt.Sprintf("%q", r)
	switch r {
	case utf8.RuneError:
		return &nameError{quoteText(s) + " is not a name", "write TABLE, TABLE.COLUMN or SCHEMA.TABLE.COLUMN"}
	case '*', '?':
		return &nameError{quoteText(s) + " is a pattern, and patterns stand only in `always`", "write the name out"}
	case ' ':
		what = "a space"
	}
	return &nameError{fmt.Sprintf("%s has %s outside double quotes", quoteText(s), what),
		`put the part that needs it in double quotes, and single quotes around: '"Odd Name".id'`}
}

// plainRune says whether r may stand in a name without quotes.
func plainRune(r rune) bool {
	return r == '_' || r == '$' || r < utf8.RuneSelf && (r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z') ||
		r >= utf8.RuneSelf && r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r))
}

// quotePart prints one part of a name, in double quotes where it needs them.
func quotePart(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plainRune(r) }) < 0 {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}

// quotePattern prints one part of a glob: bare where it is a pattern, in double quotes where it is a name that needs them.
func quotePattern(s string) string {
	if literal, ok := literalPattern(s); ok {
		return quotePart(literal)
	}
	return s
}

func columnList(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = quotePart(name)
	}
	if len(quoted) == 1 {
		return quoted[0]
	}
	return "(" + strings.Join(quoted, ", ") + ")"
}

// referenceString prints TABLE.COLUMN or TABLE.(COLUMN, COLUMN).
func referenceString(table Name, columns []string) string {
	return table.String() + "." + columnList(columns)
}

// quoteText prints text of the file in a message: short, on one line.
func quoteText(s string) string {
	const most = 80
	if len(s) > most {
		cut := most
		for !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	for _, r := range s {
		if !unicode.IsPrint(r) || r == '\\' || r == '`' {
			return fmt.Sprintf("%q", s)
		}
	}
	return "`" + s + "`"
}
