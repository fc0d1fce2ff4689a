package pipeline

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"

	"lethe/scrub/copytext"
)

// shortestLookup is how many bytes a value has at least that is searched for everywhere: shorter ones are found in all
// kinds of things.
const shortestLookup = 3

// lookups searches texts for values, such as a person's address, in every form in which a database's text may hold them:
// as they are, escaped in a row, inside JSON in a row, in a literal of SQL, and as the hexadecimal digits of bytes.
// Letters of ASCII are found in either case, except inside bytes of a row.
type lookups struct {
	values []lookup
	most   int // bytes of the longest value
}

// lookup is one value: no form is a part of another.
type lookup struct {
	plain []byte   // in lower case
	forms [][]byte // in lower case, plain among them
}

// newLookups prepares the search for values in texts of an encoding, as PostgreSQL spells it. No error shows a value.
func newLookups(values []string, encoding string) (*lookups, error) {
	l := &lookups{}
	for i, v := range values {
		v = strings.TrimSpace(v)
		switch {
		case len(v) < shortestLookup:
			return nil, configuration(fmt.Errorf("value %d to search for is shorter than %d bytes, and would be found everywhere", i+1, shortestLookup))
		case !utf8.ValidString(v) || strings.ContainsRune(v, 0):
			return nil, configuration(fmt.Errorf("value %d to search for is no text in UTF-8", i+1))
		}
		in, err := inEncoding(v, encoding)
		if err != nil {
			return nil, configuration(fmt.Errorf("value %d to search for: %w", i+1, err))
		}
		l.values = append(l.values, newLookup(v, in))
		l.most = max(l.most, len(in))
	}
	return l, nil
}

// inEncoding writes a value in an encoding of the server's. A character that the encoding does not have stands in no text
// of it, unless escaped inside JSON.
func inEncoding(v, encoding string) (string, error) {
	ascii := !strings.ContainsFunc(v, func(r rune) bool { return r > unicode.MaxASCII })
	if ascii || encoding == "UTF8" || encoding == "SQL_ASCII" {
		return v, nil
	}
	table, ok := map[string]*charmap.Charmap{
		"LATIN1": charmap.ISO8859_1, "LATIN2": charmap.ISO8859_2, "LATIN3": charmap.ISO8859_3, "LATIN4": charmap.ISO8859_4, "LATIN5": charmap.ISO8859_9,
		"LATIN6": charmap.ISO8859_10, "LATIN7": charmap.ISO8859_13, "LATIN8": charmap.ISO8859_14, "LATIN9": charmap.ISO8859_15, "LATIN10": charmap.ISO8859_16,
		"ISO_8859_5": charmap.ISO8859_5, "ISO_8859_6": charmap.ISO8859_6, "ISO_8859_7": charmap.ISO8859_7, "ISO_8859_8": charmap.ISO8859_8,
		"KOI8R": charmap.KOI8R, "KOI8U": charmap.KOI8U, "WIN866": charmap.CodePage866, "WIN874": charmap.Windows874,
		"WIN1250": charmap.Windows1250, "WIN1251": charmap.Windows1251, "WIN1252": charmap.Windows1252, "WIN1253": charmap.Windows1253, "WIN1254": charmap.Windows1254,
		"WIN1255": charmap.Windows1255, "WIN1256": charmap.Windows1256, "WIN1257": charmap.Windows1257, "WIN1258": charmap.Windows1258,
	}[encoding]
	if !ok {
		return "", fmt.Errorf("it is not all ASCII, and how %s writes it is not known here", encoding)
	}
	if in, err := table.NewEncoder().String(v); err == nil {
		return in, nil
	}
	return v, nil
}

// newLookup makes the forms of a value, which is v in UTF-8 and in in the encoding of the texts.
func newLookup(v, in string) lookup {
	one := lookup{plain: lowerASCII(nil, []byte(in))}
	add := func(form []byte) {
		form = lowerASCII(nil, form)
		for _, known := range one.forms {
			if bytes.Contains(form, known) {
				return // where this one is, that one is found
			}
		}
		one.forms = append(one.forms, form)
	}
	add([]byte(in))
	add(copytext.Encode(nil, []byte(in)))
	for _, style := range []jsonStyle{{}, {ascii: true}, {html: true}, {slash: true}, {ascii: true, html: true}, {ascii: true, slash: true}} {
		text := v
		if !style.ascii {
			text = in
		}
		form := style.inside(text)
		add(form)
		add(copytext.Encode(nil, form))
	}
	add([]byte(strings.ReplaceAll(in, "'", "''")))
	add([]byte(strings.NewReplacer(`\`, `\\`, `'`, `''`, "\n", `\n`, "\r", `\r`).Replace(in)))
	for _, spelled := range []string{in, string(one.plain), strings.ToUpper(v), v} {
		add(hex.AppendEncode(nil, []byte(spelled)))
	}
	return one
}

// jsonStyle is how a program writes a string inside JSON: what it escapes besides what it must.
type jsonStyle struct {
	ascii bool // everything that is not ASCII, as Python does
	html  bool // < > &, as Go does
	slash bool // as PHP does
}

// inside is a string's JSON without the quotes around it. Bytes that are no UTF-8 stay.
func (s jsonStyle) inside(v string) (out []byte) {
	for len(v) > 0 {
		r, n := utf8.DecodeRuneInString(v)
		c := v[0]
		switch {
		case c == '"' || c == '\\' || c == '/' && s.slash:
			out = append(out, '\\', c)
		case c == '\n':
			out = append(out, `\n`...)
		case c == '\r':
			out = append(out, `\r`...)
		case c == '\t':
			out = append(out, `\t`...)
		case c < ' ', s.html && (c == '<' || c == '>' || c == '&'):
			out = fmt.Appendf(out, `\u%04x`, c)
		case r > 0xffff && s.ascii:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		case r > unicode.MaxASCII && s.ascii && n > 1:
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			out = append(out, v[:n]...)
		}
		v = v[n:]
	}
	return out
}

func lowerASCII(dst, s []byte) []byte {
	for _, b := range s {
		if b >= 'A' && b <= 'Z' {
			b += 'a' - 'A'
		}
		dst = append(dst, b)
	}
	return dst
}

// searcher is the scratch of one worker.
type searcher struct {
	*lookups
	text []byte
}

// search calls found for each place in a text where a value stands, in some form: with the value's index.
func (s *searcher) search(text []byte, found func(value, at int)) {
	if len(s.values) == 0 {
		return
	}
	s.text = lowerASCII(s.text[:0], text)
	for i := range s.values {
		for _, form := range s.values[i].forms {
			for at := 0; ; at++ {
				n := bytes.Index(s.text[at:], form)
				if n < 0 {
					break
				}
				at += n
				found(i, at)
			}
		}
	}
	if cap(s.text) > keepBuffer {
		s.text = nil
	}
}

// searchBytes is search for bytes that are what they are, such as a large object's.
func (s *searcher) searchBytes(data []byte, found func(value int)) {
	s.text = lowerASCII(s.text[:0], data)
	for i := range s.values {
		if bytes.Contains(s.text, s.values[i].plain) {
			found(i)
		}
	}
}

// chunk is a run of a large object's bytes, or an end of one.
type chunk struct {
	oid  uint32
	from int64
	data []byte
}

var (
	putBegins = []byte("SELECT pg_catalog.lo_put('")
	putEnds   = []byte("');")
)

// chunks reads the statements that fill large objects. Other lines are passed over.
func chunks(text []byte, fn func(chunk) error) error {
	for line := range bytes.Lines(text) {
		line = bytes.TrimRight(line, "\n")
		rest, ok := bytes.CutPrefix(line, putBegins)
		if !ok {
			continue
		}
		oid, rest, ok1 := bytes.Cut(rest, []byte("', "))
		from, rest, ok2 := bytes.Cut(rest, []byte(`, '\x`))
		digits, ok3 := bytes.CutSuffix(rest, putEnds)
		n, err1 := strconv.ParseUint(string(oid), 10, 32)
		at, err2 := strconv.ParseInt(string(from), 10, 64)
		data := make([]byte, hex.DecodedLen(len(digits)))
		_, err3 := hex.Decode(data, digits)
		if !ok1 || !ok2 || !ok3 || errors.Join(err1, err2, err3) != nil {
			return errors.New("a statement that fills a large object has another form than the others")
		}
		if err := fn(chunk{uint32(n), at, data}); err != nil {
			return err
		}
	}
	return nil
}
