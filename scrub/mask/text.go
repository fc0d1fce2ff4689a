package mask

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// Clear is the strategy clear: NULL, whatever the value.
func Clear() Func {
	return func(dst, _ []byte) ([]byte, bool, error) { return dst, true, nil }
}

// Value is the strategy value: the same text for every value. Its length in characters is that of text.
func Value(text string) Func {
	return func(dst, _ []byte) ([]byte, bool, error) { return append(dst, text...), false, nil }
}

// A unique_email is "u", hex digits of a keyed hash, and a domain that can't exist (RFC 2606).
const (
	emailDomain    = "@erased.invalid"
	emailDigits    = 32 // 128 bits
	emailMinDigits = 20 // 80 bits: a collision among a billion addresses is less likely than 1 in 10^6
)

// UniqueEmailLen is the length in characters of what UniqueEmail makes for a column of maxLen characters (0: no
// limit), or an error where the column is too short to hold 80 bits of hash.
func UniqueEmailLen(maxLen int) (int, error) {
	const around = len("u") + len(emailDomain)
	if maxLen == 0 {
		return around + emailDigits, nil
	}
	if maxLen < around+emailMinDigits {
		return 0, fmt.Errorf("unique_email needs %d characters to stay unique, and the column has %d", around+emailMinDigits, maxLen)
	}
	return min(maxLen, around+emailDigits), nil
}

// UniqueEmail is the strategy unique_email: an address at a domain that can't exist, different for different values and
// equal for equal ones. maxLen is the column's length in characters, 0 for no limit. With fold, values that differ only
// in case are equal, as they are in a citext column: letters are mapped one by one as Unicode's simple lower case does,
// as the server's lower() does in the usual locales (in the C locale the server folds ASCII alone).
func UniqueEmail(key Key, maxLen int, fold bool) (Func, error) {
	n, err := UniqueEmailLen(maxLen)
	if err != nil {
		return nil, err
	}
	digits := n - len("u") - len(emailDomain)
	sum := newSummer(key.Derive("unique_email"))
	var folded []byte
	return func(dst, value []byte) ([]byte, bool, error) {
		if fold {
			folded = appendLower(folded[:0], value)
			value = folded
		}
		dst = append(dst, 'u')
		dst = appendHex(dst, sum(value), digits)
		return append(dst, emailDomain...), false, nil
	}, nil
}

// IsUniqueEmail says whether a value is one that UniqueEmail makes, under whatever key.
func IsUniqueEmail(value []byte) bool {
	digits, ok := bytes.CutSuffix(value, []byte(emailDomain))
	if !ok || len(digits) < 1+emailMinDigits || len(digits) > 1+emailDigits || digits[0] != 'u' {
		return false
	}
	return !slices.ContainsFunc(digits[1:], func(b byte) bool { return !(b >= '0' && b <= '9' || b >= 'a' && b <= 'f') })
}

// appendLower appends s in lower case, letter by letter. Bytes that are no UTF-8 stay.
func appendLower(dst, s []byte) []byte {
	for len(s) > 0 {
		r, n := utf8.DecodeRune(s)
		if r == utf8.RuneError && n == 1 {
			dst = append(dst, s[0])
		} else {
			dst = utf8.AppendRune(dst, unicode.ToLower(r))
		}
		s = s[n:]
	}
	return dst
}

// newSummer returns HMAC-SHA256 under key. The sum is valid until the next call.
func newSummer(key Key) func(value []byte) []byte {
	mac := hmac.New(sha256.New, key[:])
	scratch := make([]byte, 0, sha256.Size)
	return func(value []byte) []byte {
		mac.Reset()
		mac.Write(value)
		return mac.Sum(scratch)
	}
}

// appendHex appends the first digits hex digits of sum.
func appendHex(dst, sum []byte, digits int) []byte {
	n := len(dst)
	dst = hex.AppendEncode(dst, sum[:(digits+1)/2])
	return dst[:n+digits]
}

// HMACForm says how a keyed hash is printed. There is no integer form: the values of an int4 or int8 would collide.
type HMACForm int

// The forms of HMAC.
const (
	HexText HMACForm = iota // hex digits, lower case
	UUID                    // a UUID of version 8 (RFC 9562), 122 bits of hash
)

// HMACLen is the length in characters of what HMAC makes with the same arguments.
func HMACLen(form HMACForm, length int) int {
	switch {
	case form == UUID:
		return 36
	case length == 0:
		return 2 * sha256.Size
	}
	return length
}

// HMAC is the strategy hmac: HMAC-SHA256 of the value's bytes under key. HexText prints the first length digits, 1 to
// 64, and 0 means 64; each digit is four bits against collision. UUID ignores length. This is a pseudonym, not an
// erasure: whoever holds the key can confirm a guess.
func HMAC(key Key, form HMACForm, length int) (Func, error) {
	sum := newSummer(key)
	switch form {
	case UUID:
		return func(dst, value []byte) ([]byte, bool, error) {
			return appendUUID(dst, [16]byte(sum(value))), false, nil
		}, nil
	case HexText:
		if length < 0 || length > 2*sha256.Size {
			return nil, fmt.Errorf("hmac prints 1 to %d digits, not %d", 2*sha256.Size, length)
		}
		digits := HMACLen(form, length)
		return func(dst, value []byte) ([]byte, bool, error) {
			return appendHex(dst, sum(value), digits), false, nil
		}, nil
	}
	return nil, fmt.Errorf("hmac has no form %d", form)
}

func appendUUID(dst []byte, u [16]byte) []byte {
	u[6] = u[6]&0x0f | 0x80 // version 8
	u[8] = u[8]&0x3f | 0x80 // variant 10
	for _, part := range [][2]int{{0, 4}, {4, 6}, {6, 8}, {8, 10}, {10, 16}} {
		if part[0] > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, u[part[0]:part[1]])
	}
	return dst
}

// Pattern is the strategy mask: every character becomes with, except the first keepFirst and the last keepLast. A value
// of keepFirst+keepLast characters or fewer would show everything, so all of it is masked. The number of characters
// stays, and so is known. A byte that is no UTF-8 counts as one character.
func Pattern(keepFirst, keepLast int, with rune) (Func, error) {
	if keepFirst < 0 || keepLast < 0 {
		return nil, fmt.Errorf("mask can't keep %d and %d characters: the numbers must not be negative", keepFirst, keepLast)
	}
	if !utf8.ValidRune(with) || with == 0 {
		return nil, errors.New("mask needs one character to put for the others")
	}
	return func(dst, value []byte) ([]byte, bool, error) {
		n := utf8.RuneCount(value)
		first, last := keepFirst, n-keepLast
		if keepFirst >= n || keepLast >= n-keepFirst {
			first, last = 0, n
		}
		for i := 0; len(value) > 0; i++ {
			_, size := utf8.DecodeRune(value)
			if i < first || i >= last {
				dst = append(dst, value[:size]...)
			} else {
				dst = utf8.AppendRune(dst, with)
			}
			value = value[size:]
		}
		return dst, false, nil
	}, nil
}

// Regex is the strategy regex: every match of the RE2 expression is replaced, as sed's s/…/…/g does, with $1, ${1} and
// ${name} for groups and $$ for a dollar sign. A value, or a part of one, that does not match stays as it is: the
// expression alone decides what goes, so this fits normalising (`\d` to 0) better than erasing.
func Regex(match, replace string) (Func, error) {
	re, err := regexp.Compile(match)
	if err != nil {
		return nil, fmt.Errorf("regex %q: %w", match, err)
	}
	if err := checkTemplate(re, replace); err != nil {
		return nil, fmt.Errorf("regex: replacement %q: %w", replace, err)
	}
	template := []byte(replace)
	return func(dst, value []byte) ([]byte, bool, error) {
		end := 0
		for _, m := range re.FindAllSubmatchIndex(value, -1) {
			dst = append(dst, value[end:m[0]]...)
			dst = re.Expand(dst, template, value, m)
			end = m[1]
		}
		return append(dst, value[end:]...), false, nil
	}, nil
}

// checkTemplate refuses names of groups that do not exist, which package regexp replaces by nothing without a word
// ($1x means the group "1x", not group 1 and an x), and a dollar sign that stands for nothing.
func checkTemplate(re *regexp.Regexp, template string) error {
	refs := regexp.MustCompile(`\$(\$|\{[\pL\p{Nd}_]+\}|[\pL\p{Nd}_]+|)`)
	for _, m := range refs.FindAllStringSubmatch(template, -1) {
		name := m[1]
		if name == "" {
			return errors.New("a dollar sign is written $$")
		}
		if name == "$" {
			continue
		}
		if name[0] == '{' {
			name = name[1 : len(name)-1]
		}
		if n, err := strconv.Atoi(name); err == nil && n <= re.NumSubexp() && strconv.Itoa(n) == name {
			continue
		}
		if slices.Contains(re.SubexpNames(), name) {
			continue
		}
		return fmt.Errorf("the expression has no group %q; ${1}x is group 1 followed by an x", name)
	}
	return nil
}
