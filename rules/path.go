package rules

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// pathStep is one step of a JSON path.
type pathStep struct {
	key   string // member name, where index is -1 and all is not set
	index int    // 0-based element, or -1
	all   bool   // .* or [*]
}

// maxSteps bounds a path; the deepest JSON that people write by hand has some ten levels.
const maxSteps = 1000

// parsePath reads a JSON path: `$` followed by any of `.name`, `."any name"`, `['any name']`, `[0]`, `.*` and `[*]`, at
// least one. A name after a dot holds letters, digits and _; in a quoted name \' \" and \\ stand for the character. Every
// path that it reads is one that package mask reads, with the same meaning.
func parsePath(path string) ([]pathStep, error) {
	if !strings.HasPrefix(path, "$") {
		return nil, fmt.Errorf("JSON path %s does not begin with $", quoteText(path))
	}
	var steps []pathStep
	for rest := path[1:]; rest != ""; {
		step, after, err := cutStep(rest)
		if err != nil {
			return nil, fmt.Errorf("JSON path %s: %w", quoteText(path), err)
		}
		steps = append(steps, step)
		rest = after
	}
	if len(steps) == 0 {
		return nil, fmt.Errorf("JSON path %s is the whole value", quoteText(path))
	}
	if len(steps) > maxSteps {
		return nil, fmt.Errorf("a JSON path has %d steps, and %d are the most", len(steps), maxSteps)
	}
	return steps, nil
}

func cutStep(rest string) (pathStep, string, error) {
	switch {
	case strings.HasPrefix(rest, ".*"):
		return pathStep{index: -1, all: true}, rest[2:], nil
	case strings.HasPrefix(rest, "[*]"):
		return pathStep{index: -1, all: true}, rest[3:], nil
	case strings.HasPrefix(rest, ".."):
		return pathStep{}, "", fmt.Errorf("`..` (search at any depth) is not supported, write each level out")
	case strings.HasPrefix(rest, `."`):
		key, after, err := cutQuoted(rest[1:])
		return pathStep{key: key, index: -1}, after, err
	case rest[0] == '.':
		end := strings.IndexFunc(rest[1:], func(c rune) bool { return c != '_' && !unicode.IsLetter(c) && !unicode.IsDigit(c) })
		if end < 0 {
			end = len(rest) - 1
		}
		if end == 0 {
			return pathStep{}, "", fmt.Errorf("a name is missing after a dot, an odd one is written ['odd name']")
		}
		return pathStep{key: rest[1 : 1+end], index: -1}, rest[1+end:], nil
	case strings.HasPrefix(rest, "['"), strings.HasPrefix(rest, `["`):
		key, after, err := cutQuoted(rest[1:])
		if err == nil && !strings.HasPrefix(after, "]") {
			err = fmt.Errorf("] is missing after a quoted name")
		}
		if err != nil {
			return pathStep{}, "", err
		}
		return pathStep{key: key, index: -1}, after[1:], nil
	case rest[0] == '[':
		end := strings.IndexByte(rest, ']')
		if end < 0 {
			return pathStep{}, "", fmt.Errorf("[ is not closed")
		}
		digits := rest[1:end]
		n, err := strconv.ParseUint(digits, 10, 31)
		if err != nil || (len(digits) > 1 && digits[0] == '0') {
			return pathStep{}, "", fmt.Errorf("in brackets stands an index from 0, * or a quoted name")
		}
		return pathStep{index: int(n)}, rest[end+1:], nil
	}
	return pathStep{}, "", fmt.Errorf("a step begins with . or [, and a name with other characters than letters, digits and _ is written ['name']")
}

// cutQuoted reads the quoted name that rest begins with.
func cutQuoted(rest string) (key, after string, err error) {
	quote := rest[0]
	var b strings.Builder
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == quote:
			return b.String(), rest[i+1:], nil
		case c == '\\' && i+1 < len(rest) && strings.IndexByte(`'"\`, rest[i+1]) >= 0:
			i++
			b.WriteByte(rest[i])
		case c == '\\':
			return "", "", fmt.Errorf(`a quoted name knows the escapes \' \" and \\ only`)
		default:
			b.WriteByte(c)
		}
	}
	return "", "", fmt.Errorf("a quoted name is not closed")
}
