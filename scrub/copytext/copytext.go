// Package copytext reads and writes rows in PostgreSQL's COPY text format, exactly: what it decodes and encodes again
// is the same bytes, for every value the server can send.
//
// A row here is one line of COPY text with its final newline. Fields are separated by tabs; a field of exactly `\N` is
// NULL; everything else is escaped as the server does it. The server escapes tab, newline, carriage return and
// backslash inside values, so a raw 0x09 is always a separator and a raw 0x0A always ends the row: splitting needs no
// look at the escapes. The source of all of this is CopyAttributeOutText and CopyReadAttributesText in PostgreSQL's
// src/backend/commands/copyto.c and copyfromparse.c.
//
// # Encodings
//
// Bytes from 0x80 on pass untouched, whatever the encoding: UTF-8, LATIN1, SQL_ASCII and every other encoding that
// PostgreSQL allows on the server keep ASCII bytes out of their multibyte characters. The encodings that don't (SJIS,
// BIG5, GBK, UHC, GB18030, JOHAB, SHIFT_JIS_2004, where a second byte may be 0x5C) are client-only, and Lethe's
// sessions never set one of them as client_encoding: this package would misread them.
//
// # Piece of a table
//
// A piece's text is Header, rows, Terminator: SQL that psql runs as it stands. Body takes it apart again.
package copytext

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Null is the field that stands for NULL. No value encodes to it.
const Null = `\N`

// Terminator is the line after the last row of a piece. No row equals it: the server escapes every backslash.
const Terminator = "\\.\n"

// ErrDangling is the error for a field which ends in the middle of an escape.
var ErrDangling = errors.New("the COPY field ends with a lone backslash")

// ErrNull is the error of decoding NULL: it has no text, and taking it for the letter N would be a lie.
var ErrNull = errors.New(`the COPY field is NULL, which has no text to decode`)

// Split appends the raw (still escaped) fields of row to fields and returns it. The fields are parts of row, not
// copies. The final newline may be missing; it belongs to no field. A table without columns has empty rows, which
// Split can't tell from one empty field: ValidRow can.
func Split(row []byte, fields [][]byte) [][]byte {
	row = trimNewline(row)
	for {
		i := bytes.IndexByte(row, '\t')
		if i < 0 {
			return append(fields, row)
		}
		fields = append(fields, row[:i:i])
		row = row[i+1:]
	}
}

// SplitN is Split for the first n fields only. The rest of the row begins with the delimiter after the n-th field and
// ends with the newline, so that fields joined by tabs, and then rest, are the row again. A row of fewer than n fields
// gives as many as it has, and rest is the newline alone. n below 1 gives no fields and the whole row as rest.
func SplitN(row []byte, n int, fields [][]byte) (_ [][]byte, rest []byte) {
	if n < 1 {
		return fields, row
	}
	line := trimNewline(row)
	end := 0
	for start := 0; ; start = end + 1 {
		i := bytes.IndexByte(line[start:], '\t')
		if i < 0 {
			return append(fields, line[start:]), row[len(line):]
		}
		end = start + i
		fields = append(fields, line[start:end:end])
		if n--; n == 0 {
			return fields, row[end:]
		}
	}
}

// IsNull says whether a raw field is NULL.
func IsNull(field []byte) bool {
	return len(field) == 2 && field[0] == '\\' && field[1] == 'N'
}

// AppendNull appends the NULL field.
func AppendNull(dst []byte) []byte { return append(dst, Null...) }

// Decode appends the value of a raw field to dst. It understands every escape that COPY FROM does: \b \f \n \r \t \v,
// one to three octal digits, \x with one or two hex digits, and a backslash before any other character, which stands
// for that character. The errors are ErrDangling and ErrNull; dst is then returned as it was.
func Decode(dst, field []byte) ([]byte, error) {
	i := bytes.IndexByte(field, '\\')
	if i < 0 {
		return append(dst, field...), nil
	}
	if IsNull(field) {
		return dst, ErrNull
	}
	out := dst
	for ; i >= 0; i = bytes.IndexByte(field, '\\') {
		out = append(out, field[:i]...)
		field = field[i+1:]
		if len(field) == 0 {
			return dst, ErrDangling
		}
		c, used := unescape(field)
		out = append(out, c)
		field = field[used:]
	}
	return append(out, field...), nil
}

// unescape reads what follows a backslash: at least one byte.
func unescape(s []byte) (c byte, used int) {
	switch c = s[0]; c {
	case 'b':
		return '\b', 1
	case 'f':
		return '\f', 1
	case 'n':
		return '\n', 1
	case 'r':
		return '\r', 1
	case 't':
		return '\t', 1
	case 'v':
		return '\v', 1
	case '0', '1', '2', '3', '4', '5', '6', '7':
		v := c - '0'
		used = 1
		for used < 3 && used < len(s) && s[used] >= '0' && s[used] <= '7' {
			v = v<<3 | (s[used] - '0') // the ninth bit is lost, as in the server
			used++
		}
		return v, used
	case 'x':
		var v byte
		used = 1
		for used < 3 && used < len(s) {
			h, ok := hexDigit(s[used])
			if !ok {
				break
			}
			v = v<<4 | h
			used++
		}
		if used == 1 {
			return 'x', 1
		}
		return v, used
	}
	return c, 1
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// Encode appends value to dst as the server prints it: \b \f \n \r \t \v and backslash are escaped by letter, all
// other bytes, control characters too, stay as they are. The output is never `\N`.
func Encode(dst, value []byte) []byte {
	for {
		i := plain(value)
		dst = append(dst, value[:i]...)
		if i == len(value) {
			return dst
		}
		dst = append(dst, '\\', escapeLetter(value[i]))
		value = value[i+1:]
	}
}

// escapeLetter is the character after the backslash for c, or 0 where c is printed as it is.
func escapeLetter(c byte) byte {
	switch c {
	case '\b':
		return 'b'
	case '\f':
		return 'f'
	case '\n':
		return 'n'
	case '\r':
		return 'r'
	case '\t':
		return 't'
	case '\v':
		return 'v'
	case '\\':
		return '\\'
	}
	return 0
}

// plain is the number of bytes at the start of s that are printed as they are.
func plain(s []byte) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
	)
	i := 0
	for i < len(s) {
		// Eight bytes at a time as long as none is a control character or a backslash.
		for i+8 <= len(s) {
			w := binary.LittleEndian.Uint64(s[i:])
			b := w ^ ones*'\\'
			if ((w-ones*0x20)&^w|(b-ones)&^b)&highs != 0 {
				break
			}
			i += 8
		}
		// Then one by one, over the eight that held one or to the end.
		for end := min(i+8, len(s)); i < end; i++ {
			if escapeLetter(s[i]) != 0 {
				return i
			}
		}
	}
	return len(s)
}

// ValidRow checks that row is one well-formed row of n fields: it ends with its only newline, holds no raw carriage
// return and no end-of-data mark, and has exactly n fields (n = 0: nothing but the newline). Rows of a server's COPY
// always pass; rows out of a file that somebody edited may not. The error names counts, never content.
func ValidRow(row []byte, n int) error {
	if len(row) == 0 || bytes.IndexByte(row, '\n') != len(row)-1 {
		return errors.New("a COPY row does not end with its only newline")
	}
	if bytes.IndexByte(row, '\r') >= 0 {
		return errors.New("a COPY row holds a raw carriage return: its file may have been converted to Windows line ends")
	}
	if hasEndMark(row) {
		return errors.New(`a COPY row holds the end-of-data mark \., which ends the table`)
	}
	if n == 0 && len(row) == 1 {
		return nil
	}
	if got := bytes.Count(row, []byte{'\t'}) + 1; got != n {
		return fmt.Errorf("a COPY row has %d fields where its header names %d columns", got, n)
	}
	return nil
}

// hasEndMark says whether row holds an unescaped `\.`: to COPY FROM that ends the data even in mid-line.
func hasEndMark(row []byte) bool {
	for {
		i := bytes.Index(row, []byte(`\.`))
		if i < 0 {
			return false
		}
		first := i
		for first > 0 && row[first-1] == '\\' {
			first--
		}
		if (i-first)%2 == 0 {
			return true
		}
		row = row[i+2:]
	}
}

// NextRow cuts the first row, with its newline, off text. Where text has no newline row is nil and rest is text: more
// has to be read first.
func NextRow(text []byte) (row, rest []byte) {
	i := bytes.IndexByte(text, '\n') + 1
	if i == 0 {
		return nil, text
	}
	return text[:i:i], text[i:]
}

// Header is the statement before the rows of a piece, with its newline. table is the relation's name as SQL, schema
// and name quoted; columns are plain names, in the order of the fields. A table without columns gets no list, since
// `COPY t ()` is a syntax error. (A name may hold a newline: the header is then more than one line.)
func Header(table string, columns []string) string {
	var b strings.Builder
	b.WriteString("COPY ")
	b.WriteString(table)
	for i, c := range columns {
		if i == 0 {
			b.WriteString(" (")
		} else {
			b.WriteString(", ")
		}
		b.WriteString(`"` + strings.ReplaceAll(c, `"`, `""`) + `"`)
	}
	if len(columns) > 0 {
		b.WriteString(")")
	}
	b.WriteString(" FROM stdin;\n")
	return b.String()
}

// Body checks that a piece begins with exactly header and ends with the Terminator on a line of its own, and returns
// the rows between. The rows themselves are not looked at.
func Body(piece []byte, header string) (rows []byte, err error) {
	if len(piece) < len(header) || string(piece[:len(header)]) != header {
		return nil, errors.New("the piece does not begin with the COPY statement of its table and columns")
	}
	rows, ok := bytes.CutSuffix(piece[len(header):], []byte(Terminator))
	if !ok || len(rows) > 0 && rows[len(rows)-1] != '\n' {
		return nil, errors.New(`the piece does not end with the line \. after its last row: it is cut short`)
	}
	return rows, nil
}

func trimNewline(row []byte) []byte {
	if n := len(row); n > 0 && row[n-1] == '\n' {
		return row[: n-1 : n-1]
	}
	return row
}
