package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// What a strategy takes where its arguments are left out, and the most it takes.
const (
	defaultWith = "*"
	defaultV4   = 16
	defaultV6   = 48
	maxHMAC     = 64
	maxKeep     = 1 << 20
	maxJSONKey  = 300 // in bytes: YAML reads a key only up to 1024 characters, with all its escapes
)

func strategyNames() []string {
	return []string{"clear", "value", "unique_email", "hmac", "mask", "regex", "json", "ip_prefix", "date_trunc", "no_rows"}
}

// strategyArguments returns the keys of a strategy's map; nil where it takes none, or none by name.
func strategyArguments(name string) []string {
	switch name {
	case "value":
		return []string{"is", "even_null"}
	case "hmac":
		return []string{"length"}
	case "mask":
		return []string{"keep_first", "keep_last", "with"}
	case "regex":
		return []string{"match", "replace"}
	case "json":
		return []string{"remove", "set"}
	case "ip_prefix":
		return []string{"v4", "v6"}
	}
	return nil
}

func dateUnits() []string {
	return []string{"year", "quarter", "month", "week", "day", "hour", "minute"}
}

// strategyExample shows how a strategy is written; the arguments are needed where it has no bare form.
func strategyExample(name string) (example string, needsArguments bool) {
	switch name {
	case "value":
		return "{value: Deleted user}", true
	case "hmac":
		return "hmac or {hmac: {length: 16}}", false
	case "mask":
		return "mask or {mask: {keep_first: 1, keep_last: 2}}", false
	case "regex":
		return "{regex: {match: '[0-9]', replace: '0'}}", true
	case "json":
		return "{json: {remove: [$.email]}}", true
	case "ip_prefix":
		return "ip_prefix or {ip_prefix: {v4: 16, v6: 48}}", false
	case "date_trunc":
		return "{date_trunc: month}", true
	}
	return name, false
}

// strategy reads a word or a one-key map.
func (r *reader) strategy(n *yaml.Node) (Strategy, bool) {
	s := Strategy{Pos: at(n)}
	const shape = "write a word, as clear, or a map of one key, as {date_trunc: month}"
	switch {
	case n.Kind == yaml.ScalarNode && !isNull(n):
		name, ok := r.word(n, "strategy", strategyNames())
		if !ok {
			return s, false
		}
		example, needs := strategyExample(name)
		if needs {
			r.wrong(n, "write "+example, "strategy `%s` lacks its argument", name)
			return s, false
		}
		s.Name = name
		r.defaults(&s)
		return s, true
	case n.Kind == yaml.MappingNode:
		list, _ := r.entries(n, shape)
		if len(list) != 1 || len(n.Content) != 2 {
			if len(list) == len(n.Content)/2 {
				r.wrong(n, shape+"; a column has one strategy", "a strategy is a map of one key, and this one has %d", len(list))
			}
			return s, false
		}
		name, ok := r.word(list[0].key, "strategy", strategyNames())
		if !ok {
			return s, false
		}
		s.Name = name
		r.defaults(&s)
		return s, r.arguments(&s, list[0].value)
	}
	r.wrong(n, shape, "expected a strategy here, found %s", kindOf(n))
	return s, false
}

func (r *reader) defaults(s *Strategy) {
	switch s.Name {
	case "mask":
		s.With = defaultWith
	case "ip_prefix":
		s.V4, s.V6 = defaultV4, defaultV6
	}
}

// arguments reads what stands after the strategy's name. Every mistake in it is reported.
func (r *reader) arguments(s *Strategy, n *yaml.Node) bool {
	before := len(r.errs)
	example, _ := strategyExample(s.Name)
	hint := "write " + example
	switch s.Name {
	case "clear", "unique_email", "no_rows":
		r.wrong(n, hint, "strategy `%s` takes no argument", s.Name)
		return false
	case "date_trunc":
		s.Unit, _ = r.word(n, "unit of date_trunc", dateUnits())
		return len(r.errs) == before && n.Kind != yaml.AliasNode
	case "value":
		if n.Kind == yaml.ScalarNode {
			s.Value, _ = r.value(n)
			return len(r.errs) == before
		}
	}
	args, ok := r.fields(n, "strategy `"+s.Name+"`", hint, false, strategyArguments(s.Name))
	if !ok {
		return false
	}
	need := func(key string) *yaml.Node {
		arg := args[key]
		if arg == nil {
			r.wrong(n, hint, "strategy `%s` lacks `%s`", s.Name, key)
		}
		return arg
	}
	switch s.Name {
	case "value":
		if arg := need("is"); arg != nil {
			s.Value, _ = r.value(arg)
		}
		if arg := args["even_null"]; arg != nil {
			s.EvenNull, _ = r.boolean(arg, "even_null")
		}
	case "hmac":
		if arg := args["length"]; arg != nil {
			s.Length, _ = r.integer(arg, "length", 1, maxHMAC)
		}
	case "mask":
		if arg := args["keep_first"]; arg != nil {
			s.KeepFirst, _ = r.integer(arg, "keep_first", 0, maxKeep)
		}
		if arg := args["keep_last"]; arg != nil {
			s.KeepLast, _ = r.integer(arg, "keep_last", 0, maxKeep)
		}
		if arg := args["with"]; arg != nil {
			s.With = r.character(arg)
		}
	case "ip_prefix":
		if arg := args["v4"]; arg != nil {
			s.V4, _ = r.integer(arg, "v4", 0, 32)
		}
		if arg := args["v6"]; arg != nil {
			s.V6, _ = r.integer(arg, "v6", 0, 128)
		}
	case "regex":
		r.regex(s, need("match"), need("replace"))
	case "json":
		if len(args) == 0 && len(r.errs) == before {
			r.wrong(n, hint, "strategy `json` has nothing to do")
		}
		r.json(s, args["remove"], args["set"])
	}
	return len(r.errs) == before
}

// value reads the text that is written over a column.
func (r *reader) value(n *yaml.Node) (string, bool) {
	if isNull(n) {
		r.wrong(n, "use clear to write NULL; an empty text is \"\"", "strategy `value` has no value")
		return "", false
	}
	s, ok := r.text(n, "a text, a number, or true or false")
	if ok && strings.ContainsRune(s, 0) {
		r.wrong(n, "take it out", "a NUL character can't be stored by PostgreSQL")
		return "", false
	}
	return s, ok
}

// character reads the one that mask puts for others.
func (r *reader) character(n *yaml.Node) string {
	s, ok := r.text(n, "one character")
	if !ok {
		return ""
	}
	if c, _ := utf8.DecodeRuneInString(s); utf8.RuneCountInString(s) != 1 || !unicode.IsPrint(c) || unicode.IsMark(c) {
		r.wrong(n, `write one visible character, as with: "*"`, "`with` is not exactly one character")
	}
	return s
}

func (r *reader) regex(s *Strategy, match, replace *yaml.Node) {
	if match == nil || replace == nil {
		return
	}
	var re *regexp.Regexp
	if text, ok := r.text(match, "a regular expression"); ok {
		var err error
		re, err = regexp.Compile(text)
		if err != nil {
			why := err.Error()
			var se *syntax.Error
			if errors.As(err, &se) {
				why = se.Code.String() + " in " + quoteText(se.Expr)
			}
			r.wrong(match, "the syntax is RE2's: no look-around, no back-references; single quotes keep backslashes",
				"invalid regular expression: %s", why)
		}
		s.Match = text
	}
	if isNull(replace) {
		r.wrong(replace, `to replace by nothing write ""`, "strategy `regex` has no replacement")
		return
	}
	text, ok := r.value(replace)
	if !ok {
		return
	}
	s.Replace = text
	if re == nil {
		return
	}
	named, ok := groups(text)
	if !ok {
		r.wrong(replace, "write $$", "a dollar sign of the replacement stands for nothing")
	}
	for _, group := range named {
		n, err := strconv.Atoi(group)
		known := err == nil && n <= re.NumSubexp() && group == strconv.Itoa(n) || err != nil && re.SubexpIndex(group) >= 0
		if !known {
			r.wrong(replace, "$1 is the first group, ${1}x is that and an x, $$ is a dollar",
				"the replacement names group %s, and the expression has %s", quoteText(group), countGroups(re))
		}
	}
}

func countGroups(re *regexp.Regexp) string {
	switch n := re.NumSubexp(); n {
	case 0:
		return "no groups"
	case 1:
		return "one group"
	default:
		return fmt.Sprintf("%d groups", n)
	}
}

// groups lists what $name and ${name} of a replacement refer to, by the rules of regexp.Expand: the longest run of
// letters, digits and underscores. ok is false where a dollar sign is neither of these nor $$.
func groups(replace string) (names []string, ok bool) {
	for {
		_, after, found := strings.Cut(replace, "$")
		if !found {
			return names, true
		}
		if rest, is := strings.CutPrefix(after, "$"); is {
			replace = rest
			continue
		}
		body, braced := strings.CutPrefix(after, "{")
		end := strings.IndexFunc(body, func(c rune) bool { return c != '_' && !unicode.IsLetter(c) && !unicode.IsDigit(c) })
		if end < 0 {
			end = len(body)
		}
		if end == 0 || braced && !strings.HasPrefix(body[end:], "}") {
			return names, false
		}
		names, replace = append(names, body[:end]), body[end:]
	}
}

func (r *reader) json(s *Strategy, remove, set *yaml.Node) {
	if remove != nil {
		for _, item := range r.several(remove, "a path") {
			if path, ok := r.jsonPath(item); ok {
				s.Remove = append(s.Remove, path)
			}
		}
	}
	if set == nil {
		return
	}
	list, ok := r.entries(set, "write {json: {set: {$.name: Deleted}}}")
	if ok && len(set.Content) == 0 {
		r.wrong(set, "name a path, or leave the key out", "the map is empty")
	}
	first := map[string]Pos{}
	for _, e := range list {
		path, ok := r.jsonPath(e.key)
		if !ok {
			continue
		}
		steps, _ := parsePath(path)
		same := fmt.Sprint(steps)
		if pos, twice := first[same]; twice {
			r.wrong(e.key, "join the two", "path %s is set twice, first on line %d", quoteText(path), pos.Line)
			continue
		}
		first[same] = at(e.key)
		if value, ok := r.jsonValue(e.value); ok {
			s.Set = append(s.Set, JSONSet{Path: path, Value: value})
		}
	}
}

func (r *reader) jsonPath(n *yaml.Node) (string, bool) {
	path, ok := r.text(n, "a JSON path")
	if !ok {
		return "", false
	}
	if _, err := parsePath(path); err != nil {
		r.wrong(n, "write $.name, $.list[0], $.list[*].name, $['odd name'] or $.*, in quotes where it holds brackets", "%v", err)
		return "", false
	}
	return path, true
}

// jsonValue turns a YAML value into JSON text.
func (r *reader) jsonValue(n *yaml.Node) (string, bool) {
	switch n.Kind {
	case yaml.ScalarNode:
		switch n.Tag {
		case "!!null":
			return "null", true
		case "!!bool":
			return strings.ToLower(n.Value), true
		case "!!int", "!!float":
			if !json.Valid([]byte(n.Value)) {
				r.wrong(n, "write it in decimal, or in quotes to make it a text", "this number has no JSON form")
				return "", false
			}
			return n.Value, true
		}
		return jsonString(n.Value), true
	case yaml.SequenceNode:
		items := make([]string, 0, len(n.Content))
		for _, c := range n.Content {
			item, ok := r.jsonValue(c)
			if !ok {
				return "", false
			}
			items = append(items, item)
		}
		return "[" + strings.Join(items, ",") + "]", true
	case yaml.MappingNode:
		list, _ := r.entries(n, "")
		if len(list) != len(n.Content)/2 {
			return "", false
		}
		seen := map[string]bool{}
		items := make([]string, 0, len(list))
		for _, e := range list {
			if seen[e.key.Value] {
				r.wrong(e.key, "join the two", "a key stands twice in a JSON object")
				return "", false
			}
			if len(e.key.Value) > maxJSONKey {
				r.wrong(e.key, "set a path inside it instead", "a key of a JSON object has more than %d bytes", maxJSONKey)
				return "", false
			}
			seen[e.key.Value] = true
			item, ok := r.jsonValue(e.value)
			if !ok {
				return "", false
			}
			items = append(items, jsonString(e.key.Value)+":"+item)
		}
		return "{" + strings.Join(items, ",") + "}", true
	}
	return "", false
}

// jsonString is s as a JSON string, with no more escapes than JSON asks for.
func jsonString(s string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return `""` // a Go string always encodes
	}
	return strings.TrimSuffix(b.String(), "\n")
}
