package mask

import (
	"bytes"
	"errors"
)

// maxDimensions is the server's MAXDIM.
const maxDimensions = 6

// MapArray applies f to each element of an array that is not NULL. It reads the text that array_out prints and
// prints it alike: dimensions and lower bounds ([0:1]={…}) stay, elements are quoted where array_out would quote them,
// and an element that f makes NULL becomes NULL. delim is the element type's delimiter: a comma for all built-in types
// but box, which has a semicolon. An array stays an array: it is never NULL as a whole.
func MapArray(delim byte, f Func) Func {
	errForm := errors.New("the value is not an array as the server prints it")
	var element, result []byte
	return func(dst, value []byte) ([]byte, bool, error) {
		out := dst
		s := value
		if len(s) > 0 && s[0] == '[' {
			i := bytes.IndexByte(s, '=')
			if i < 0 || !isBounds(s[:i]) {
				return dst, false, errForm
			}
			out = append(out, s[:i+1]...)
			s = s[i+1:]
		}
		if string(s) == "{}" {
			return append(out, s...), false, nil
		}
		depth := 0
		wantValue := true // an element or an opening brace comes next
		for len(s) > 0 {
			switch c := s[0]; {
			case c == '{' && wantValue && depth < maxDimensions:
				depth++
				out = append(out, c)
				s = s[1:]
			case c == '}' && !wantValue && depth > 0:
				depth--
				out = append(out, c)
				s = s[1:]
				if depth == 0 && len(s) > 0 {
					return dst, false, errForm
				}
			case c == delim && !wantValue && depth > 0:
				wantValue = true
				out = append(out, c)
				s = s[1:]
			case wantValue && depth > 0:
				var null, ok bool
				if element, s, null, ok = cutElement(element[:0], s, delim); !ok {
					return dst, false, errForm
				}
				wantValue = false
				if !null {
					var err error
					if result, null, err = f(result[:0], element); err != nil {
						return dst, false, err
					}
				}
				if null {
					out = append(out, "NULL"...)
				} else {
					out = appendElement(out, result, delim)
				}
			default:
				return dst, false, errForm
			}
		}
		if depth != 0 || wantValue {
			return dst, false, errForm
		}
		return out, false, nil
	}
}

// isBounds says whether s is [lower:upper], once per dimension.
func isBounds(s []byte) bool {
	for n := 0; n < maxDimensions && len(s) > 0; n++ {
		end := bytes.IndexByte(s, ']')
		if s[0] != '[' || end < 0 {
			return false
		}
		lower, upper, ok := bytes.Cut(s[1:end], []byte{':'})
		if !ok || !isInteger(lower) || !isInteger(upper) {
			return false
		}
		s = s[end+1:]
	}
	return len(s) == 0
}

func isInteger(s []byte) bool {
	s = bytes.TrimPrefix(s, []byte{'-'})
	_, rest, ok := digits(s, 1, 10)
	return ok && len(rest) == 0
}

// cutElement appends the next element's value to dst. rest begins with what follows the element.
func cutElement(dst, s []byte, delim byte) (value, rest []byte, null, ok bool) {
	if s[0] != '"' {
		i := 0
		for i < len(s) && s[i] != delim && s[i] != '}' {
			if needsQuotes(s[i], delim) {
				return dst, s, false, false
			}
			i++
		}
		if i == 0 {
			return dst, s, false, false
		}
		return append(dst, s[:i]...), s[i:], isNullWord(s[:i]), true
	}
	for s = s[1:]; ; {
		i := bytes.IndexAny(s, `"\`)
		if i < 0 {
			return dst, s, false, false
		}
		dst = append(dst, s[:i]...)
		if s[i] == '"' {
			return dst, s[i+1:], false, true
		}
		if i+1 == len(s) {
			return dst, s, false, false
		}
		dst = append(dst, s[i+1])
		s = s[i+2:]
	}
}

// appendElement prints an element as array_out does.
func appendElement(dst, value []byte, delim byte) []byte {
	quote := len(value) == 0 || isNullWord(value)
	for i := 0; i < len(value) && !quote; i++ {
		quote = needsQuotes(value[i], delim)
	}
	if !quote {
		return append(dst, value...)
	}
	dst = append(dst, '"')
	for _, c := range value {
		if c == '"' || c == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, c)
	}
	return append(dst, '"')
}

// needsQuotes is array_out's test of one character.
func needsQuotes(c, delim byte) bool {
	switch c {
	case '"', '\\', '{', '}', ' ', '\t', '\n', '\r', '\v', '\f':
		return true
	}
	return c == delim
}

func isNullWord(s []byte) bool {
	return len(s) == 4 && s[0]|0x20 == 'n' && s[1]|0x20 == 'u' && s[2]|0x20 == 'l' && s[3]|0x20 == 'l'
}
