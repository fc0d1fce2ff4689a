package rules

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
	"pgregory.net/rapid"
)

// checker judges YAML by the part of JSON Schema that JSONSchema uses. A keyword that it does not know is an error, so
// that the schema can't say more than is tested.
type checker struct{ defs map[string]any }

func newChecker(t testing.TB) (*checker, map[string]any) {
	t.Helper()
	var root map[string]any
	if err := json.Unmarshal(JSONSchema(), &root); err != nil {
		t.Fatal(err)
	}
	return &checker{root["$defs"].(map[string]any)}, root
}

func (c *checker) valid(schema map[string]any, v any) error {
	for keyword, arg := range schema {
		if err := c.keyword(schema, keyword, arg, v); err != nil {
			return fmt.Errorf("%s: %w", keyword, err)
		}
	}
	return nil
}

func (c *checker) keyword(schema map[string]any, keyword string, arg, v any) error {
	object, isObject := v.(map[string]any)
	list, isList := v.([]any)
	text, isText := v.(string)
	number, isNumber := v.(float64)
	no := fmt.Errorf("%v is not valid", v)
	ok := true
	switch keyword {
	case "$schema", "$defs", "title", "description", "format":
	case "$ref":
		return c.valid(c.defs[strings.TrimPrefix(arg.(string), "#/$defs/")].(map[string]any), v)
	case "type":
		types, several := arg.([]any)
		if !several {
			types = []any{arg}
		}
		ok = slices.ContainsFunc(types, func(name any) bool {
			switch name {
			case "object":
				return isObject
			case "array":
				return isList
			case "string":
				return isText
			case "number":
				return isNumber
			case "integer":
				return isNumber && number == math.Trunc(number)
			case "boolean":
				_, is := v.(bool)
				return is
			case "null":
				return v == nil
			}
			return false
		})
	case "enum":
		ok = slices.ContainsFunc(arg.([]any), func(one any) bool { return reflect.DeepEqual(one, v) })
	case "const":
		ok = reflect.DeepEqual(arg, v)
	case "anyOf":
		ok = slices.ContainsFunc(arg.([]any), func(one any) bool { return c.valid(one.(map[string]any), v) == nil })
	case "pattern":
		ok = !isText || regexp.MustCompile(arg.(string)).MatchString(text)
	case "minimum":
		ok = !isNumber || number >= arg.(float64)
	case "maximum":
		ok = !isNumber || number <= arg.(float64)
	case "minItems":
		ok = !isList || float64(len(list)) >= arg.(float64)
	case "minProperties":
		ok = !isObject || float64(len(object)) >= arg.(float64)
	case "maxProperties":
		ok = !isObject || float64(len(object)) <= arg.(float64)
	case "required":
		for _, key := range arg.([]any) {
			_, has := object[key.(string)]
			ok = ok && (!isObject || has)
		}
	case "propertyNames":
		for key := range object {
			if err := c.valid(arg.(map[string]any), key); err != nil {
				return err
			}
		}
	case "items":
		for _, item := range list {
			if err := c.valid(arg.(map[string]any), item); err != nil {
				return err
			}
		}
	case "properties":
		for key, sub := range arg.(map[string]any) {
			if value, has := object[key]; has {
				if err := c.valid(sub.(map[string]any), value); err != nil {
					return fmt.Errorf("%s: %w", key, err)
				}
			}
		}
	case "additionalProperties":
		known, _ := schema["properties"].(map[string]any)
		for key, value := range object {
			if _, has := known[key]; has {
				continue
			}
			if sub, is := arg.(map[string]any); !is {
				return fmt.Errorf("unknown key %s", key)
			} else if err := c.valid(sub, value); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
	default:
		return fmt.Errorf("the checker does not know this keyword")
	}
	if !ok {
		return no
	}
	return nil
}

// editor reads YAML as an editor does before it applies a JSON Schema: JSON's types, dates as texts.
func editor(n *yaml.Node) any {
	switch n.Kind {
	case yaml.DocumentNode:
		return editor(n.Content[0])
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i < len(n.Content); i += 2 {
			m[n.Content[i].Value] = editor(n.Content[i+1])
		}
		return m
	case yaml.SequenceNode:
		l := []any{}
		for _, c := range n.Content {
			l = append(l, editor(c))
		}
		return l
	}
	var v any
	if n.Tag != "!!timestamp" && n.Decode(&v) == nil {
		switch v := v.(type) {
		case int:
			return float64(v)
		case float64, bool, nil:
			return v
		}
	}
	return n.Value
}

func judged(t testing.TB, c *checker, root map[string]any, text string) error {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return c.valid(root, editor(&doc))
}

func TestSchemaAndParserAgree(t *testing.T) {
	c, root := newChecker(t)
	const head = "version: 1\ndataset: d\nsubjects: {user: {table: users, key: id}}\n"
	good := []string{
		whole, "version: 1\ndataset: d\n", "version: 1\ndataset: 1\nalways:\nerase:\nrequests:\nsubjects:\nreferences:\ncategories:\nchecks_hold:\n",
		head + "always: {a.b: clear, a.c: {value: 1}, a.d: {value: {is: true, even_null: true}}, a.e: hmac, a.f: {hmac: {}}, a.g: {mask: {with: 0}}}",
		head + "always: {a.b: {json: {remove: $.a, set: {$.b: [1, {c: null}]}}}, a.c: {ip_prefix: {v4: 24}}, a.d: {date_trunc: day}, s: no_rows}",
		head + "erase: {users: {delete: true}, posts: {delete: [a, b], clear: c, reason: x}, p: {keep: a, redact: {b: {value: ''}}}, q: {clear: [x]}, s: {leave: x}, t: {leave: [x, y], keep: z}}",
		head + "requests: [{subject: 'user:1', ref: R, received: 2026-01-02}, {subject: 'user:x y', ref: 1}]",
		head + "references: {a.b: users.id, a.c: [users.id], a.d: {to: users.id, when: {x: 1, y: true}, path: $.a}}",
	}
	for _, text := range good {
		if _, err := Parse("r.yml", []byte(text)); err != nil {
			t.Errorf("the parser refuses what is good: %v\n%s", err, text)
		}
		if err := judged(t, c, root, text); err != nil {
			t.Errorf("the schema refuses what is good: %v\n%s", err, text)
		}
	}
	bad := []string{"[]", "dataset: d", "version: 1", "version: 2\ndataset: d", "version: '1'\ndataset: d", "version: 1\ndataset: D", "version: 1\ndataset: [d]"}
	for _, section := range []string{
		"unknown: 1", "drift: wran", "drift: [warn]",
		"always: []", "always: {a.b: claer}", "always: {a.b: value}", "always: {a.b: regex}", "always: {a.b: json}", "always: {a.b: date_trunc}", "always: {a.b: [clear]}",
		"always: {a.b: {}}", "always: {a.b: }", "always: {a.b: {clear: 1}}", "always: {a.b: {hmac: {}, mask: {}}}", "always: {a.b: {value: }}", "always: {a.b: {value: [x]}}",
		"always: {a.b: {value: {even_null: true}}}", "always: {a.b: {value: {is: 1, even_null: 1}}}", "always: {a.b: {hmac: 8}}", "always: {a.b: {hmac: {length: 0}}}",
		"always: {a.b: {hmac: {length: 65}}}", "always: {a.b: {hmac: {length: x}}}", "always: {a.b: {mask: {keep: 1}}}", "always: {a.b: {mask: {keep_last: -1}}}",
		"always: {a.b: {mask: {with: [x]}}}", "always: {a.b: {regex: {match: a}}}", "always: {a.b: {regex: {match: a, replace: }}}", "always: {a.b: {json: {}}}",
		"always: {a.b: {json: {remove: []}}}", "always: {a.b: {json: {remove: [[$.a]]}}}", "always: {a.b: {json: {set: {}}}}", "always: {a.b: {json: {set: [$.a]}}}",
		"always: {a.b: {ip_prefix: {v4: 33}}}", "always: {a.b: {ip_prefix: {v6: 129}}}", "always: {a.b: {ip_prefix: {v5: 1}}}", "always: {a.b: {date_trunc: months}}",
		"always: {a.b: {no_rows: true}}", "always: {a.b: {unique_email: x}}",
		"erase: []", "erase: {a: {}}", "erase: {a: {reason: x}}", "erase: {a: delete}", "erase: {a: {delete: false}}", "erase: {a: {delete: []}}", "erase: {a: {delete: {b: c}}}",
		"erase: {a: {keep: true}}", "erase: {a: {clear: true}}", "erase: {a: {leave: true}}", "erase: {a: {leave: []}}", "erase: {a: {keep: b, redact: {}}}", "erase: {a: {keep: b, redact: [c]}}", "erase: {a: {keep: b, redact: {c: hmac}}}",
		"erase: {a: {keep: b, redact: {c: {hmac: {length: 8}}}}}", "erase: {a: {keep: b, redact: {c: no_rows}}}", "erase: {a: {delete: b, reason: [x]}}", "erase: {a: {remove: b}}",
		"requests: {}", "requests: [x]", "requests: [{ref: R}]", "requests: [{subject: 'user:1'}]", "requests: [{subject: user, ref: R}]", "requests: [{subject: 'user:1', ref: 'a@b'}]",
		"requests: [{subject: 'user:1', ref: R, name: x}]", "requests: [{subject: 'user:1', ref: R, received: [x]}]",
		"references: []", "references: {a.b: }", "references: {a.b: []}", "references: {a.b: {when: {c: 1}}}", "references: {a.b: {to: u.i, when: {}}}",
		"references: {a.b: {to: u.i, when: {c: [1]}}}", "references: {a.b: {to: u.i, where: {c: 1}}}", "references: {a.b: {to: u.i, path: [x]}}", "references: {a.b: [[u.i]]}",
		"categories: []", "categories: {a.b: [x]}", "categories: {a.b: 'x y'}", "checks_hold: {}", "checks_hold: [[a.b]]",
	} {
		bad = append(bad, head+section)
	}
	for _, subjects := range []string{"[]", "{User: {table: a, key: b}}", "{u: {key: b}}", "{u: {table: b}}", "{u: b}", "{u: {table: a, key: b, lookup: []}}", "{u: {table: a, key: b, find: c}}", "{u: {table: [a], key: b}}"} {
		bad = append(bad, "version: 1\ndataset: d\nsubjects: "+subjects)
	}
	for _, text := range bad {
		if _, err := Parse("r.yml", []byte(text)); err == nil {
			t.Errorf("the parser accepts what is bad:\n%s", text)
		}
		if err := judged(t, c, root, text); err == nil {
			t.Errorf("the schema accepts what is bad:\n%s", text)
		}
	}
}

// What the parser accepts, the schema accepts: no editor marks good rules as bad.
func TestSchemaAcceptsAllRules(t *testing.T) {
	c, root := newChecker(t)
	rapid.Check(t, func(rt *rapid.T) {
		text := string(anyFile(rt).Marshal())
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
			rt.Fatal(err)
		}
		if err := c.valid(root, editor(&doc)); err != nil {
			rt.Fatalf("%v\n%s", err, text)
		}
	})
}

// Every key of the parser is in the schema, and none more.
func TestSchemaKeys(t *testing.T) {
	c, root := newChecker(t)
	keys := func(path ...string) []string {
		at := root
		for _, step := range path {
			next, ok := at[step]
			if list, is := next.([]any); is { // of an anyOf, the part that is an object with keys
				for _, one := range list {
					if m := one.(map[string]any); m["type"] == "object" {
						next, ok = m, true
					}
				}
			}
			if !ok {
				t.Fatalf("the schema has no %s in %v", step, path)
			}
			at = next.(map[string]any)
		}
		return slices.Sorted(maps.Keys(at["properties"].(map[string]any)))
	}
	same := func(what string, got, want []string) {
		t.Helper()
		if want = slices.Sorted(slices.Values(want)); !slices.Equal(got, want) {
			t.Errorf("%s: the schema has %v, the parser %v", what, got, want)
		}
	}
	same("file", keys(), fileKeys())
	same("subject", keys("properties", "subjects", "anyOf", "additionalProperties"), subjectKeys())
	same("target", keys("$defs", "target", "anyOf"), targetKeys())
	same("erase", keys("$defs", "erase"), eraseKeys())
	same("request", keys("$defs", "request"), requestKeys())

	words := []string{}
	for _, one := range c.defs["strategy"].(map[string]any)["anyOf"].([]any) {
		m := one.(map[string]any)
		if enum, is := m["enum"].([]any); is {
			for _, word := range enum {
				words = append(words, word.(string))
			}
			continue
		}
		for name := range m["properties"].(map[string]any) {
			if args := strategyArguments(name); args != nil {
				path := []string{"$defs", "strategy", "anyOf", "properties", name}
				if name == "value" {
					path = append(path, "anyOf")
				}
				same(name, keys(path...), args)
			}
			if !slices.Contains(words, name) {
				words = append(words, name)
			}
		}
	}
	slices.Sort(words)
	same("strategies", slices.Compact(words), strategyNames())
}

// The golden mistakes that are of shape, not of meaning, are seen by the schema too.
func TestSchemaOnMistakes(t *testing.T) {
	golden, err := os.ReadFile("testdata/mistakes.txt")
	if err != nil {
		t.Fatal(err)
	}
	c, root := newChecker(t)
	seen := 0
	for _, one := range strings.Split(string(golden), "\n=== ")[1:] {
		name, rest, _ := strings.Cut(one, "\n")
		text, errs, _ := strings.Cut(rest, "--- errors\n")
		shape := strings.Contains(errs, "unknown key") || strings.Contains(errs, "expected a map") || strings.Contains(errs, "expected a list")
		if !shape || !utf8.ValidString(text) {
			continue
		}
		seen++
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
			continue
		}
		if c.valid(root, editor(&doc)) == nil {
			t.Errorf("%s: the schema accepts\n%s", name, text)
		}
	}
	if seen < 5 {
		t.Errorf("only %d cases", seen)
	}
}
