package scrub

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"lethe/scrub/catalog"
)

// AppendKey appends one column's part of a key to dst: the value's canonical bytes in family f, behind their length,
// so that the parts of a composite key joined one after another can't be mistaken for another tuple. text is the
// value as the server prints it, decoded from COPY. Two values of one family get the same bytes exactly where the
// server's = holds between them; of a Server family, where they print alike.
//
// It reports false, and dst as it was, where text is no value of the family: such a value equals no key. It does not
// allocate beyond growing dst.
func AppendKey(dst []byte, f Family, text []byte) ([]byte, bool) {
	start := len(dst)
	out := append(dst, 0, 0, 0, 0)
	ok := true
	switch f {
	case Integer:
		out, ok = appendNumber(out, text, true)
	case Numeric:
		out, ok = appendNumber(out, text, false)
	case UUID:
		out, ok = appendUUID(out, text)
	case PaddedText:
		out = append(out, bytes.TrimRight(text, " ")...)
	default:
		out = append(out, text...)
	}
	if !ok {
		return dst, false
	}
	binary.BigEndian.PutUint32(out[start:], uint32(len(out)-start-4))
	return out, true
}

// appendNumber appends a number as its sign, its significant digits without zeros at either end, `e` and its exponent:
// 42, 42.0 and 4.2e1 are all 42e0, and 4200 is 42e2. An integer is the same bytes as the numeric of its value; with
// whole set, anything but an integer is refused.
func appendNumber(dst, text []byte, whole bool) ([]byte, bool) {
	if out, ok := appendPlain(dst, text); ok {
		return out, true
	}
	text = trimSpace(text)
	negative := false
	if len(text) > 0 && (text[0] == '-' || text[0] == '+') {
		negative = text[0] == '-'
		text = text[1:]
	}
	if len(text) == 0 {
		return dst, false
	}
	if c := text[0]; c != '.' && (c < '0' || c > '9') {
		return appendSpecial(dst, text, negative, whole)
	}

	i := 0
	for i < len(text) && isDigit(text[i]) {
		i++
	}
	integral := text[:i]
	var fraction []byte
	if i < len(text) && text[i] == '.' {
		from := i + 1
		for i = from; i < len(text) && isDigit(text[i]); i++ {
		}
		fraction = text[from:i]
	}
	if len(integral)+len(fraction) == 0 {
		return dst, false
	}
	exponent := 0
	if i < len(text) {
		if text[i] != 'e' && text[i] != 'E' {
			return dst, false
		}
		var ok bool
		if exponent, ok = parseExponent(text[i+1:]); !ok {
			return dst, false
		}
	}

	integral = bytes.TrimLeft(integral, "0")
	if len(fraction) > 0 {
		fraction = bytes.TrimRight(fraction, "0")
	}
	exponent -= len(fraction)
	if len(integral) == 0 {
		fraction = bytes.TrimLeft(fraction, "0")
	}
	if len(fraction) == 0 {
		trimmed := bytes.TrimRight(integral, "0")
		exponent += len(integral) - len(trimmed)
		integral = trimmed
	}
	if len(integral)+len(fraction) == 0 {
		return append(dst, '0'), true // -0 and 0e9 too
	}
	if whole && exponent < 0 || exponent > maxExponent || exponent < -maxExponent {
		return dst, false
	}
	if negative {
		dst = append(dst, '-')
	}
	dst = append(dst, integral...)
	dst = append(dst, fraction...)
	dst = append(dst, 'e')
	return strconv.AppendInt(dst, int64(exponent), 10), true
}

// appendPlain does what appendNumber does for nearly all keys: digits alone, no zero in front. It is false for others.
func appendPlain(dst, text []byte) ([]byte, bool) {
	if len(text) == 0 || len(text) > 100 || text[0] == '0' {
		return dst, false
	}
	significant := 0 // digits up to the last that is not zero
	for i, c := range text {
		if !isDigit(c) {
			return dst, false
		}
		if c != '0' {
			significant = i + 1
		}
	}
	dst = append(dst, text[:significant]...)
	dst = append(dst, 'e')
	return strconv.AppendInt(dst, int64(len(text)-significant), 10), true
}

// appendSpecial appends numeric's values that are no numbers.
func appendSpecial(dst, text []byte, negative, whole bool) ([]byte, bool) {
	switch {
	case whole:
		return dst, false
	case equalFold(text, "nan"):
		return append(dst, "nan"...), true
	case equalFold(text, "inf"), equalFold(text, "infinity"):
		if negative {
			dst = append(dst, '-')
		}
		return append(dst, "inf"...), true
	}
	return dst, false
}

// maxExponent is far beyond what PostgreSQL's numeric can hold: 131 072 digits before the point, 16 383 after it.
const maxExponent = 1_000_000

// parseExponent reads what follows the e of a number.
func parseExponent(text []byte) (int, bool) {
	negative := false
	if len(text) > 0 && (text[0] == '-' || text[0] == '+') {
		negative = text[0] == '-'
		text = text[1:]
	}
	if len(text) == 0 {
		return 0, false
	}
	n := 0
	for _, c := range text {
		if !isDigit(c) || n > 10*maxExponent {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	if negative {
		n = -n
	}
	return n, true
}

// appendUUID appends the sixteen bytes of a UUID in any spelling that PostgreSQL reads: upper or lower case, in braces
// or not, with a hyphen or none after every four digits.
func appendUUID(dst, text []byte) ([]byte, bool) {
	if out, ok := appendPlainUUID(dst, text); ok {
		return out, true
	}
	if len(text) > 1 && text[0] == '{' && text[len(text)-1] == '}' {
		text = text[1 : len(text)-1]
	}
	out := dst
	for i := 0; i < 16; i++ {
		if i > 0 && i%2 == 0 && len(text) > 0 && text[0] == '-' {
			text = text[1:]
		}
		if len(text) < 2 {
			return dst, false
		}
		high, ok1 := hexDigit(text[0])
		low, ok2 := hexDigit(text[1])
		if !ok1 || !ok2 {
			return dst, false
		}
		out = append(out, high<<4|low)
		text = text[2:]
	}
	if len(text) != 0 {
		return dst, false
	}
	return out, true
}

// appendPlainUUID does what appendUUID does for UUIDs as the server prints them. It is false for others.
func appendPlainUUID(dst, text []byte) ([]byte, bool) {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return dst, false
	}
	var digits [32]byte
	copy(digits[:8], text)
	copy(digits[8:12], text[9:])
	copy(digits[12:16], text[14:])
	copy(digits[16:20], text[19:])
	copy(digits[20:], text[24:])
	var id [16]byte
	if _, err := hex.Decode(id[:], digits[:]); err != nil {
		return dst, false
	}
	return append(dst, id[:]...), true
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case isDigit(c):
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// trimSpace cuts the white space that PostgreSQL allows around a number.
func trimSpace(s []byte) []byte { return bytes.Trim(s, " \t\n\v\f\r") }

// equalFold compares with a lower-case ASCII word.
func equalFold(text []byte, word string) bool {
	if len(text) != len(word) {
		return false
	}
	for i, c := range text {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != word[i] {
			return false
		}
	}
	return true
}

// CanonicalKey returns a request's key as the server prints a value of the column that it is compared with: `0042` is
// 42 for an integer, a UUID is in lower case with its hyphens. The error says why the key can be no value of that
// type, and never shows the key. c follows domains to the type under them.
func CanonicalKey(c *catalog.Catalog, column *catalog.Column, f Family, key string) (string, error) {
	base, _, _ := c.Base(column.Type)
	if bytes.IndexByte([]byte(key), 0) >= 0 {
		return "", errors.New("the key holds a NUL character, which no PostgreSQL text can")
	}
	if base.Array {
		return key, nil
	}
	if base.Name.Schema == "pg_catalog" {
		bits := 0
		switch base.Name.Name {
		case "int2":
			bits = 16
		case "int4":
			bits = 32
		case "int8":
			bits = 64
		case "uuid":
			return canonicalUUID(key)
		}
		if bits > 0 {
			return canonicalInteger(key, bits)
		}
	}
	switch f {
	case Numeric:
		text := string(trimSpace([]byte(key)))
		if _, ok := AppendKey(nil, Numeric, []byte(text)); !ok {
			return "", fmt.Errorf("the key is not a number, and column %s is of type %s", catalog.QuoteIfNeeded(column.Name), base.Name)
		}
		return text, nil
	case Integer, UUID: // the column itself holds text: its own spelling decides nothing
		if _, ok := AppendKey(nil, f, []byte(key)); !ok {
			return "", fmt.Errorf("the key does not have the form of column %s's values", catalog.QuoteIfNeeded(column.Name))
		}
	}
	return key, nil
}

func canonicalInteger(key string, bits int) (string, error) {
	n, err := strconv.ParseInt(string(trimSpace([]byte(key))), 10, bits)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return "", fmt.Errorf("the key is too large for the key column's integers of %d bits", bits)
	case err != nil:
		return "", errors.New("the key is not a whole number, and the key column holds integers")
	}
	return strconv.FormatInt(n, 10), nil
}

func canonicalUUID(key string) (string, error) {
	b, ok := appendUUID(make([]byte, 0, 16), trimSpace([]byte(key)))
	if !ok {
		return "", errors.New("the key is not a UUID, and the key column holds UUIDs")
	}
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], nil
}
