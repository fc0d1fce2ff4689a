package rules

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Marshal writes the rules as YAML in one canonical form. Parse reads it back to an equal File, but for Path, Text and
// positions; comments are not kept. The file must be one that Parse accepts.
func (f *File) Marshal() []byte {
	var w writer
	w.line(0, "version", fmt.Sprint(f.Version))
	w.line(0, "dataset", scalar(f.Dataset))
	if len(f.Subjects) > 0 {
		w.open("subjects")
		for _, s := range f.Subjects {
			pairs := []string{pair("table", scalar(s.Table.String())), pair("key", scalar(quotePart(s.Key)))}
			if len(s.Lookup) > 0 {
				pairs = append(pairs, pair("lookup", flowList(s.Lookup, quotePart)))
			}
			w.line(1, scalar(s.Type), flowMap(pairs))
		}
	}
	if len(f.References) > 0 {
		w.open("references")
		for _, r := range f.References {
			value := "[" + strings.Join(mapped(r.Targets, flowTarget), ", ") + "]"
			if len(r.Targets) == 1 {
				value = flowTarget(r.Targets[0])
			}
			w.line(1, scalar(referenceString(r.Table, r.Columns)), value)
		}
	}
	if len(f.Always) > 0 {
		w.open("always")
		for i := range f.Always {
			w.line(1, scalar(f.Always[i].String()), flowStrategy(f.Always[i].Strategy))
		}
	}
	if len(f.Erase) > 0 {
		w.open("erase")
		for _, e := range f.Erase {
			w.line(1, scalar(e.Table.String()), flowErase(e))
		}
	}
	if len(f.Requests) > 0 {
		w.open("requests")
		for _, q := range f.Requests {
			pairs := []string{pair("subject", scalar(q.Subject+":"+q.Key)), pair("ref", scalar(q.Ref))}
			if !q.Received.IsZero() {
				pairs = append(pairs, pair("received", q.Received.Format(time.DateOnly)))
			}
			w.text.WriteString("  - " + flowMap(pairs) + "\n")
		}
	}
	if f.Drift != "" {
		w.line(0, "drift", f.Drift)
	}
	if len(f.Categories) > 0 {
		w.open("categories")
		for _, c := range f.Categories {
			w.line(1, scalar(referenceString(c.Table, []string{c.Column})), scalar(c.Category))
		}
	}
	if len(f.ChecksHold) > 0 {
		w.open("checks_hold")
		for _, v := range f.ChecksHold {
			w.text.WriteString("  - " + scalar(referenceString(v.Name, []string{v.Constraint})) + "\n")
		}
	}
	return []byte(w.text.String())
}

type writer struct{ text strings.Builder }

func (w *writer) open(section string) { w.text.WriteString(section + ":\n") }

func (w *writer) line(depth int, key, value string) {
	indent := strings.Repeat("  ", depth)
	if len(key) > maxKey {
		w.text.WriteString(indent + "? " + key + "\n" + indent + ": " + value + "\n")
		return
	}
	w.text.WriteString(indent + key + ": " + value + "\n")
}

// maxKey is the longest key that stands before a colon without more ado: YAML looks for the colon 1024 characters far.
const maxKey = 1000

// pair is one entry of a flow map; the key and the value are rendered already.
func pair(key, value string) string {
	if len(key) > maxKey {
		return "? " + key + " : " + value
	}
	return key + ": " + value
}

func flowMap(pairs []string) string { return "{" + strings.Join(pairs, ", ") + "}" }

func flowList(items []string, print func(string) string) string {
	return "[" + strings.Join(mapped(items, func(s string) string { return scalar(print(s)) }), ", ") + "]"
}

func mapped[T any](items []T, print func(T) string) []string {
	out := make([]string, len(items))
	for i, item := range items {
		out[i] = print(item)
	}
	return out
}

func flowTarget(t Target) string {
	to := scalar(referenceString(t.Table, t.Columns))
	if len(t.When) == 0 && t.Path == "" {
		return to
	}
	pairs := []string{pair("to", to)}
	if len(t.When) > 0 {
		pairs = append(pairs, pair("when", flowMap(mapped(t.When, func(q Equal) string {
			return pair(scalar(quotePart(q.Column)), scalar(q.Value))
		}))))
	}
	if t.Path != "" {
		pairs = append(pairs, pair("path", scalar(t.Path)))
	}
	return flowMap(pairs)
}

func flowErase(e Erase) string {
	var pairs []string
	verb := func(key string, references []Columns, subject bool) {
		items := mapped(references, func(c Columns) string { return scalar(c.String()) })
		if subject {
			items = append([]string{"true"}, items...)
		}
		switch len(items) {
		case 0:
		case 1:
			pairs = append(pairs, pair(key, items[0]))
		default:
			pairs = append(pairs, pair(key, "["+strings.Join(items, ", ")+"]"))
		}
	}
	verb("delete", e.Delete, e.Subject)
	verb("keep", e.Keep, false)
	verb("clear", e.Clear, false)
	verb("leave", e.Leave, false)
	if len(e.Redact) > 0 {
		pairs = append(pairs, pair("redact", flowMap(mapped(e.Redact, func(c ColumnStrategy) string {
			return pair(scalar(quotePart(c.Column)), flowStrategy(c.Strategy))
		}))))
	}
	if e.Reason != "" {
		pairs = append(pairs, pair("reason", scalar(e.Reason)))
	}
	return flowMap(pairs)
}

// String prints the strategy as the rules write it, on one line.
func (s Strategy) String() string { return flowStrategy(s) }

// flowStrategy prints a strategy, its bare form where that says the same.
func flowStrategy(s Strategy) string {
	var args []string
	number := func(key string, n, bare int) {
		if n != bare {
			args = append(args, pair(key, fmt.Sprint(n)))
		}
	}
	switch s.Name {
	case "value":
		if !s.EvenNull {
			return flowMap([]string{pair("value", scalar(s.Value))})
		}
		args = []string{pair("is", scalar(s.Value)), pair("even_null", "true")}
	case "date_trunc":
		return flowMap([]string{pair("date_trunc", s.Unit)})
	case "hmac":
		number("length", s.Length, 0)
	case "mask":
		number("keep_first", s.KeepFirst, 0)
		number("keep_last", s.KeepLast, 0)
		if s.With != defaultWith {
			args = append(args, pair("with", scalar(s.With)))
		}
	case "ip_prefix":
		number("v4", s.V4, defaultV4)
		number("v6", s.V6, defaultV6)
	case "regex":
		args = []string{pair("match", scalar(s.Match)), pair("replace", scalar(s.Replace))}
	case "json":
		if len(s.Remove) > 0 {
			args = append(args, pair("remove", flowList(s.Remove, func(path string) string { return path })))
		}
		if len(s.Set) > 0 {
			args = append(args, pair("set", flowMap(mapped(s.Set, func(set JSONSet) string {
				return pair(scalar(set.Path), flowJSON(set.Value))
			}))))
		}
	}
	if len(args) == 0 {
		return s.Name
	}
	return flowMap([]string{pair(s.Name, flowMap(args))})
}

// flowJSON prints JSON text as YAML. YAML's flow style reads JSON as it is, but for characters that JSON lets stand.
func flowJSON(text string) string {
	var b strings.Builder
	for _, c := range text {
		if c < ' ' || unicode.IsPrint(c) || c > 0xffff {
			b.WriteRune(c)
		} else {
			fmt.Fprintf(&b, `\u%04x`, c)
		}
	}
	// JSON needs no space after a colon; YAML does, outside of strings, where the key is not in quotes or to be sure.
	return spaced(b.String())
}

// spaced puts a space after each colon and comma that stands outside a JSON string.
func spaced(text string) string {
	var b strings.Builder
	quoted := false
	for i := 0; i < len(text); i++ {
		c := text[i]
		b.WriteByte(c)
		switch {
		case quoted && c == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ':' || c == ','):
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// scalar prints a text as a YAML scalar that is read back as exactly that text.
func scalar(s string) string {
	if isPlain(s) {
		return s
	}
	printable := strings.IndexFunc(s, func(c rune) bool { return !unicode.IsPrint(c) }) < 0
	if printable && strings.ContainsAny(s, `"\`) {
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(c):
			b.WriteRune(c)
		case c <= 0xff:
			fmt.Fprintf(&b, `\x%02x`, c)
		case c <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			fmt.Fprintf(&b, `\U%08x`, c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// isPlain says whether a text needs no quotes: a word, or words joined by dots and spaces, that YAML takes for a text.
func isPlain(s string) bool {
	for i, c := range []byte(s) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c == '$'
		inner := i > 0 && (c >= '0' && c <= '9' || c == '.' || c == '-' || c == ' ' && i < len(s)-1)
		if !letter && !inner {
			return false
		}
	}
	return s != "" && len(s) <= maxKey &&
		!slices.Contains([]string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}, strings.ToLower(s))
}
