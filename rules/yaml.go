package rules

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// maxFile is the largest rules file that is read, in bytes.
const maxFile = 4 << 20

const (
	aliasMsg  = "aliases (*name) are not used in a rules file"
	aliasHint = "quote a text that begins with *; write a repeated rule out"
)

// reader collects the mistakes of one file.
type reader struct {
	path  string
	errs  Errors
	vague bool // subjects holds mistakes, so what others say about subjects' tables can't be judged
}

func (r *reader) report(pos Pos, hint, format string, args ...any) {
	r.errs = append(r.errs, &Error{File: r.path, Pos: pos, Msg: fmt.Sprintf(format, args...), Hint: hint})
}

// wrong reports a mistake at a node. An alias has been reported by the time anybody looks at it.
func (r *reader) wrong(n *yaml.Node, hint, format string, args ...any) {
	if n.Kind != yaml.AliasNode {
		r.report(at(n), hint, format, args...)
	}
}

// badName reports a name that does not parse.
func (r *reader) badName(n *yaml.Node, err error) {
	msg, hint := nameHint(err)
	r.wrong(n, hint, "%s", msg)
}

func at(n *yaml.Node) Pos { return Pos{Line: n.Line, Col: n.Column} }

// document reads the one YAML document of a rules file; nil after an error that leaves nothing to go on with.
func (r *reader) document(text []byte) *yaml.Node {
	if len(text) > maxFile {
		r.report(Pos{}, "a rules file is written by people; is this one?",
			"the file has %d bytes, and at most %d are read", len(text), maxFile)
		return nil
	}
	if !r.characters(text) {
		return nil
	}
	doc, second, err := decode(text)
	if err != nil {
		r.syntax(text, err)
		return nil
	}
	if second != nil {
		r.report(at(second), "take out the --- line, or make two files", "a second YAML document begins here, and a rules file is one")
		return nil
	}
	if doc == nil || len(doc.Content) == 0 {
		r.report(Pos{Line: 1, Col: 1}, "write at least `version: 1` and `dataset: NAME`", "the file is empty")
		return nil
	}
	r.plain(doc.Content[0])
	return doc.Content[0]
}

// characters reports the first byte that can't be part of a YAML file.
func (r *reader) characters(text []byte) bool {
	pos := Pos{Line: 1, Col: 1}
	for i := 0; i < len(text); {
		c, size := utf8.DecodeRune(text[i:])
		switch {
		case c == utf8.RuneError && size == 1:
			r.report(pos, "save the file as UTF-8", "the file is not valid UTF-8 here")
			return false
		case c < ' ' && c != '\t' && c != '\n' && c != '\r', c >= 0x7f && c < 0xa0 && c != 0x85, c == 0xfffe, c == 0xffff:
			r.report(pos, `take it out; in double quotes it can be written as \x.. or \u....`,
				"a control character (U+%04X) can't stand in YAML", c)
			return false
		}
		if c == '\n' {
			pos = Pos{Line: pos.Line + 1, Col: 1}
		} else if i > 0 || c != 0xfeff { // a byte order mark has no column
			pos.Col++
		}
		i += size
	}
	return true
}

// decode reads the first document, and the root of a second where there is one.
func decode(text []byte) (doc, second *yaml.Node, err error) {
	// The YAML package panics on its own mistakes; a rules file must not take the program down with it.
	defer func() {
		if e := recover(); e != nil {
			doc, second, err = nil, nil, fmt.Errorf("yaml: the YAML reader gave up on this text")
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var first, next yaml.Node
	switch err := dec.Decode(&first); err {
	case nil:
	case io.EOF:
		return nil, nil, nil
	default:
		return nil, nil, err
	}
	switch err := dec.Decode(&next); err {
	case nil:
		return &first, &next, nil
	case io.EOF:
		return &first, nil, nil
	default:
		return nil, nil, err
	}
}

// syntax reports what the YAML package could not read. It names at most a line, and often that of the construct in
// which the mistake is, so the line is looked for: the first one with which the text fails like this.
func (r *reader) syntax(text []byte, err error) {
	lines := bytes.SplitAfter(text, []byte("\n"))
	good, bad, size := 0, len(lines), make([]int, len(lines)+1)
	for i, line := range lines {
		size[i+1] = size[i] + len(line)
	}
	for bad-good > 1 {
		mid := (good + bad) / 2
		if _, _, e := decode(text[:size[mid]]); e != nil && e.Error() == err.Error() {
			bad = mid
		} else {
			good = mid
		}
	}
	line := strings.TrimRight(string(lines[bad-1]), "\r\n")
	indent := len(line) - len(strings.TrimLeft(line, " \t"))
	pos := Pos{Line: bad, Col: indent + 1}
	if tab := strings.IndexByte(line[:indent], '\t'); tab >= 0 {
		r.report(Pos{Line: bad, Col: tab + 1}, "indent with spaces", "a tab in the indentation, which YAML does not allow")
		return
	}
	// Messages of the YAML package are fixed sentences, but for the two that quote an anchor or a handle.
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(msg, "line "); ok {
		if _, after, ok := strings.Cut(rest, ": "); ok {
			msg = after
		}
	}
	hint := ""
	switch {
	case strings.HasPrefix(msg, "unknown anchor"), strings.Contains(msg, "contains itself"):
		msg, hint = aliasMsg, aliasHint
	case strings.Contains(msg, "expected alphabetic or numeric character"):
		msg, hint = "a text that begins with * or & without quotes", `quote patterns: "*.last_ip"`
	case strings.Contains(msg, "<document start>"):
		msg, hint = "text after the end of the YAML document", "take out the ... line; a rules file is one document"
	case strings.Contains(msg, "mapping values are not allowed"):
		hint = "quote a text that holds a colon and a space; check the indentation"
	case strings.Contains(msg, "cannot start any token"):
		hint = "quote a text that begins with @, ` or %"
	case strings.Contains(msg, "did not find expected key"), strings.Contains(msg, "could not find expected ':'"):
		hint = "check the indentation and the colon after each key"
	case strings.Contains(msg, "',' or"):
		hint = "check commas and closing brackets; quote a text that holds brackets, braces or a comma"
	case strings.Contains(msg, "unexpected end of stream"):
		hint = "close the quotes"
	}
	r.report(pos, hint, "this does not read as YAML: %s", msg)
}

// plain reports what a rules file does without: anchors, aliases, merge keys and tags. An alias could make a small
// file mean a huge one, and all four make rules harder to read for the people who answer for them.
func (r *reader) plain(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		r.report(at(n), aliasHint, aliasMsg)
		return
	case n.Anchor != "":
		r.report(at(n), "quote a text that begins with &; write a repeated rule out", "anchors (&name) are not used in a rules file")
	case n.Style&yaml.TaggedStyle != 0:
		r.report(at(n), "quote a text that begins with !", "tags (!name) are not used in a rules file")
	}
	for _, c := range n.Content {
		r.plain(c)
	}
}

// entry is one key of a map and its value.
type entry struct{ key, value *yaml.Node }

// entries returns the pairs of a map in file order. Keys are single words or texts.
func (r *reader) entries(n *yaml.Node, hint string) ([]entry, bool) {
	if n.Kind != yaml.MappingNode {
		r.wrong(n, hint, "expected a map here, found %s", kindOf(n))
		return nil, false
	}
	var list []entry
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case key.Kind == yaml.ScalarNode && key.Tag == "!!merge":
			r.wrong(key, "write a repeated rule out", "merge keys (<<) are not used in a rules file")
			continue
		case key.Kind != yaml.ScalarNode:
			r.wrong(key, "quote a text that begins with [, {, * or ?", "expected a key here, found %s", kindOf(key))
			continue
		case isNull(key):
			r.wrong(key, "a name that YAML takes for null is written in quotes", "expected a key here, found nothing")
			continue
		}
		list = append(list, entry{key, n.Content[i+1]})
	}
	return list, true
}

// fields reads a map whose keys are known. Unknown keys and keys that stand twice are reported. Where the map may
// hold personal values no key is quoted.
func (r *reader) fields(n *yaml.Node, what, hint string, private bool, known []string) (map[string]*yaml.Node, bool) {
	list, ok := r.entries(n, hint)
	if !ok {
		return nil, false
	}
	found, first := map[string]*yaml.Node{}, map[string]Pos{}
	for _, e := range list {
		name := e.key.Value
		if !slices.Contains(known, name) {
			msg := "unknown key in " + what
			if !private && isWord(name) {
				msg = fmt.Sprintf("unknown key %s in %s", quoteText(name), what)
			}
			if guess := nearest(name, known); guess != "" {
				msg += ", did you mean `" + guess + "`?"
			}
			r.wrong(e.key, "known here: "+strings.Join(known, ", "), "%s", msg)
			continue
		}
		if pos, twice := first[name]; twice {
			r.wrong(e.key, "join the two", "key `%s` stands twice in %s, first on line %d", name, what, pos.Line)
			continue
		}
		found[name], first[name] = e.value, at(e.key)
	}
	return found, true
}

// isWord says whether s looks like a key of this file's own and not like somebody's data.
func isWord(s string) bool {
	if len(s) > 32 {
		return false
	}
	for i, c := range []byte(s) {
		if !(c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || i > 0 && (c == '-' || c >= '0' && c <= '9')) {
			return false
		}
	}
	return s != ""
}

// text reads a scalar as it is written: 1, true and "1" are the texts 1, true and 1.
func (r *reader) text(n *yaml.Node, what string) (string, bool) {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		r.wrong(n, "", "expected %s here, found %s", what, kindOf(n))
		return "", false
	}
	return n.Value, true
}

// word reads one of the words known, which are the values of what.
func (r *reader) word(n *yaml.Node, what string, known []string) (string, bool) {
	s, ok := r.text(n, "one of "+strings.Join(known, ", "))
	if !ok {
		return "", false
	}
	if !slices.Contains(known, s) {
		msg := fmt.Sprintf("unknown %s %s", what, quoteText(s))
		if guess := nearest(s, known); guess != "" {
			msg += ", did you mean `" + guess + "`?"
		}
		r.wrong(n, "one of "+strings.Join(known, ", "), "%s", msg)
		return "", false
	}
	return s, true
}

// integer reads a decimal number from low to high.
func (r *reader) integer(n *yaml.Node, what string, low, high int) (int, bool) {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" && n.Tag != "!!float" {
		r.wrong(n, "", "expected a number for %s, found %s", what, kindOf(n))
		return 0, false
	}
	i, err := strconv.Atoi(n.Value)
	if err != nil || i < low || i > high {
		r.wrong(n, "", "%s is a whole number from %d to %d", what, low, high)
		return 0, false
	}
	return i, true
}

// boolean reads true or false.
func (r *reader) boolean(n *yaml.Node, what string) (value, ok bool) {
	if !isBool(n) {
		r.wrong(n, "", "expected true or false for %s, found %s", what, kindOf(n))
		return false, false
	}
	return strings.EqualFold(n.Value, "true"), true
}

// several returns the items of a list, or the one value that stands in place of a list.
func (r *reader) several(n *yaml.Node, what string) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		return []*yaml.Node{n}
	}
	if len(n.Content) == 0 {
		r.wrong(n, "name "+what+", or leave the key out", "the list is empty")
	}
	return n.Content
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }
func isBool(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!bool" }

// kindOf names what a node is, without its content.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		switch n.Tag {
		case "!!null":
			return "nothing"
		case "!!bool":
			return "true or false"
		case "!!int", "!!float":
			return "a number"
		case "!!timestamp":
			return "a date"
		}
		return "text"
	}
	return "an alias"
}
