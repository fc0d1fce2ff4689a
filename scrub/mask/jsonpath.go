package mask

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Path leads to values inside a JSON text. It is a subset of PostgreSQL's SQL/JSON path language, with the same meaning
// in its lax mode: a member step on an array is taken on each of its elements (one level), an array step on anything
// else takes that for an array of one. What is not there is not an error. The zero Path is the whole value.
type Path struct {
	text  string
	steps []step
}

type stepKind byte

const (
	memberStep     stepKind = iota // .name
	anyMemberStep                  // .*
	elementStep                    // [0]
	anyElementStep                 // [*]
)

type step struct {
	kind  stepKind
	name  string
	index int
}

// ParsePath reads a path: $ for the whole value, then .name, ."odd name" or ['odd name'] for a member, .* for all
// members, [0] for an element, [*] for all elements. Names match case and all; inside quotes \' \" and \\ stand for the
// character.
func ParsePath(text string) (Path, error) {
	p := Path{text: text}
	s, ok := strings.CutPrefix(text, "$")
	if !ok {
		return Path{}, fmt.Errorf("JSON path %q does not begin with $, the whole value", text)
	}
	for s != "" {
		var st step
		var err error
		if st, s, err = cutStep(s); err != nil {
			return Path{}, fmt.Errorf("JSON path %q: %w", text, err)
		}
		p.steps = append(p.steps, st)
	}
	if len(p.steps) > 1000 {
		return Path{}, fmt.Errorf("JSON path has %d steps; 1000 are the most", len(p.steps))
	}
	return p, nil
}

func cutStep(s string) (st step, rest string, err error) {
	switch {
	case strings.HasPrefix(s, "[*]"):
		return step{kind: anyElementStep}, s[3:], nil
	case strings.HasPrefix(s, ".*"):
		return step{kind: anyMemberStep}, s[2:], nil
	case strings.HasPrefix(s, ".."):
		return st, s, errors.New("there is no search at every depth (..): name each step")
	case strings.HasPrefix(s, "['"), strings.HasPrefix(s, `["`):
		name, rest, err := cutQuoted(s[1:])
		if err != nil {
			return st, s, err
		}
		rest, ok := strings.CutPrefix(rest, "]")
		if !ok {
			return st, s, errors.New("a ] is missing after the quoted name")
		}
		return step{kind: memberStep, name: name}, rest, nil
	case strings.HasPrefix(s, `."`):
		name, rest, err := cutQuoted(s[1:])
		return step{kind: memberStep, name: name}, rest, err
	case s[0] == '[':
		number, rest, ok := strings.Cut(s[1:], "]")
		n, err := strconv.ParseUint(number, 10, 31)
		if !ok || err != nil {
			return st, s, errors.New("[ takes an element's number from 0, a * or a quoted name, and then ]")
		}
		return step{kind: elementStep, index: int(n)}, rest, nil
	case s[0] == '.':
		end := strings.IndexFunc(s[1:], func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) }) + 1
		if end == 0 {
			end = len(s)
		}
		if end == 1 {
			return st, s, errors.New("a name is missing after the dot")
		}
		return step{kind: memberStep, name: s[1:end]}, s[end:], nil
	}
	r, _ := utf8.DecodeRuneInString(s)
	return st, s, fmt.Errorf("a step begins with a dot or a [, not %q; a name with other characters than letters, digits and _ is written ['name']", r)
}

// cutQuoted reads a name in the quotes that s begins with.
func cutQuoted(s string) (name, rest string, err error) {
	quote := s[0]
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == quote:
			return b.String(), s[i+1:], nil
		case s[i] == '\\' && i+1 < len(s) && strings.IndexByte(`'"\`, s[i+1]) >= 0:
			i++
			b.WriteByte(s[i])
		case s[i] == '\\':
			return "", s, errors.New(`a backslash in a quoted name stands before ', " or \ only`)
		default:
			b.WriteByte(s[i])
		}
	}
	return "", s, errors.New("the closing quote of a name is missing")
}

// String is the path as it was written.
func (p Path) String() string {
	if p.text == "" {
		return "$"
	}
	return p.text
}

// SQL is the path for PostgreSQL's jsonb_path_query and its like, in lax mode.
func (p Path) SQL() string {
	var b strings.Builder
	b.WriteString("lax $")
	for _, st := range p.steps {
		switch st.kind {
		case memberStep:
			b.WriteString(".\"")
			for _, r := range st.name {
				switch {
				case r == '"' || r == '\\':
					b.WriteString(`\` + string(r))
				case r < 0x20 || r == 0x7f:
					fmt.Fprintf(&b, `\u%04x`, r)
				default:
					b.WriteRune(r)
				}
			}
			b.WriteString("\"")
		case anyMemberStep:
			b.WriteString(".*")
		case elementStep:
			fmt.Fprintf(&b, "[%d]", st.index)
		case anyElementStep:
			b.WriteString("[*]")
		}
	}
	return b.String()
}

// Finder looks a path up in many JSON texts. It keeps scratch memory, so each worker needs its own.
type Finder struct {
	walker jsonWalker
	text   []byte
	yield  func([]byte) bool                   // what Values was given
	visit  func(int, []byte) (verdict, []byte) // gives yield a value; made once, so that Values does not allocate
}

// Finder returns a new Finder of p.
func (p Path) Finder() *Finder {
	f := &Finder{walker: jsonWalker{paths: []Path{p}}}
	f.visit = func(_ int, node []byte) (verdict, []byte) {
		if text, ok := f.scalar(node); ok && !f.yield(text) {
			return stopWalk, nil
		}
		return keepNode, nil
	}
	return f
}

// Values calls fn with each scalar at the path, as canonical text: a string's content without quotes and escapes, a
// number in plain decimal digits without exponent and needless zeros (42, 42.0 and 4.2e1 are all 42, and -0 is 0), true
// or false. Null, objects and arrays yield nothing, and neither does a number too long for the server's numeric. text
// is valid during the call only; fn returns false to stop. Of equal keys in one object each counts (jsonb has only the
// last). Text that is not JSON is an error that does not quote it.
func (f *Finder) Values(json []byte, fn func(text []byte) bool) error {
	f.yield, f.walker.visit = fn, f.visit
	return f.walker.walk(json)
}

// ClearWhere appends json with null in place of each scalar at the path for whose canonical text, as Values yields it,
// match says true. All else stays byte for byte. On an error dst is returned as it was.
func (f *Finder) ClearWhere(dst, json []byte, match func(text []byte) bool) ([]byte, error) {
	f.walker.visit = func(_ int, node []byte) (verdict, []byte) {
		if text, ok := f.scalar(node); ok && match(text) {
			return replaceNode, jsonNull
		}
		return keepNode, nil
	}
	if err := f.walker.walk(json); err != nil {
		return dst, err
	}
	return f.walker.apply(dst, json), nil
}

// Values is Finder().Values, for one text.
func (p Path) Values(json []byte, fn func(text []byte) bool) error {
	return p.Finder().Values(json, fn)
}

// Find appends the text of every value at the path, scalar or not, as it stands in json, inner ones first.
func (p Path) Find(dst [][]byte, json []byte) ([][]byte, error) {
	w := jsonWalker{paths: []Path{p}, visit: func(_ int, node []byte) (verdict, []byte) {
		dst = append(dst, node)
		return keepNode, nil
	}}
	n := len(dst)
	if err := w.walk(json); err != nil {
		return slices.Delete(dst, n, len(dst)), err
	}
	return dst, nil
}

func (f *Finder) scalar(node []byte) (text []byte, ok bool) {
	switch node[0] {
	case '{', '[', 'n':
		return nil, false
	case 't', 'f':
		return node, true
	case '"':
		f.text = appendUnescaped(f.text[:0], node[1:len(node)-1])
		return f.text, true
	}
	f.text, ok = appendCanonicalNumber(f.text[:0], node)
	return f.text, ok
}

// maxNumberDigits is more than the server's numeric can hold: 131072 digits before the point and 16383 after it.
const maxNumberDigits = 150_000

// appendCanonicalNumber appends a JSON number in plain decimal. ok is false where that would be too long.
func appendCanonicalNumber(dst, number []byte) (_ []byte, ok bool) {
	start := len(dst)
	negative := number[0] == '-'
	if negative {
		dst = append(dst, '-')
		number = number[1:]
	}
	mantissa := len(dst)
	fraction := 0 // digits after the point
	exponent := 0
	point := false
scan:
	for i, c := range number {
		switch {
		case c == '.':
			point = true
		case c == 'e' || c == 'E':
			var err error
			if exponent, err = strconv.Atoi(string(number[i+1:])); err != nil {
				exponent = 1 << 40 // out of range; one below zero is as impossible as one above
			}
			break scan
		default:
			if point {
				fraction++
			}
			if c != '0' || len(dst) > mantissa {
				dst = append(dst, c)
			}
		}
	}
	if len(dst) == mantissa {
		return append(dst[:start], '0'), true
	}
	for dst[len(dst)-1] == '0' {
		dst = dst[:len(dst)-1]
		fraction--
	}
	digits := len(dst) - mantissa
	scale := fraction - exponent
	if max(digits, digits-scale, scale) > maxNumberDigits {
		return dst[:start], false
	}
	for ; scale < 0; scale++ {
		dst = append(dst, '0')
	}
	if scale == 0 {
		return dst, true
	}
	if zeros := scale + 1 - digits; zeros > 0 { // in front: 0.05
		dst = slices.Grow(dst, zeros)[:len(dst)+zeros]
		copy(dst[mantissa+zeros:], dst[mantissa:])
		for i := range zeros {
			dst[mantissa+i] = '0'
		}
		digits += zeros
	}
	return slices.Insert(dst, mantissa+digits-scale, '.'), true
}

// appendUnescaped appends the content of a JSON string that the walker has found well formed. A lone half of a
// surrogate pair becomes U+FFFD.
func appendUnescaped(dst, s []byte) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			dst = append(dst, s[i])
			continue
		}
		i++
		switch c := s[i]; c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r := hex4(s[i+1:])
			i += 4
			if r >= 0xD800 && r < 0xDC00 && len(s) > i+6 && s[i+1] == '\\' && s[i+2] == 'u' {
				if low := hex4(s[i+3:]); low >= 0xDC00 && low < 0xE000 {
					r = (r-0xD800)<<10 | (low - 0xDC00) + 0x10000
					i += 6
				}
			}
			dst = utf8.AppendRune(dst, r)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

func hex4(s []byte) (r rune) {
	for _, c := range s[:4] {
		r = r<<4 | rune(hexValue(c))
	}
	return r
}
