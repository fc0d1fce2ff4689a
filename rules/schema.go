package rules

import "encoding/json"

// JSONSchema returns a JSON Schema (draft 2020-12) of the rules file, for editors. It knows every key and shape; what
// it can't say (names that repeat, patterns that do not compile, a request for a type that is not declared) Parse says.
func JSONSchema() []byte {
	type m = map[string]any
	text := m{"type": "string"}
	scalar := m{"type": []string{"string", "number", "boolean"}}
	ref := func(name string) m { return m{"$ref": "#/$defs/" + name} }
	about := func(s m, description string) m {
		with := m{"description": description}
		for k, v := range s {
			with[k] = v
		}
		return with
	}
	object := func(properties m, required ...string) m {
		o := m{"type": "object", "properties": properties, "additionalProperties": false}
		if len(required) > 0 {
			o["required"] = required
		}
		return o
	}
	mapOf := func(values m) m { return m{"type": "object", "additionalProperties": values} }
	section := func(s m) m { // a key with nothing after it is an empty section
		return m{"anyOf": []m{s, {"type": "null"}}}
	}
	oneOrMore := func(item m) m {
		return m{"anyOf": []m{item, {"type": "array", "items": item, "minItems": 1}}}
	}
	integer := func(low, high int) m { return m{"type": "integer", "minimum": low, "maximum": high} }

	arguments := m{
		"value": m{"anyOf": []m{scalar, object(m{
			"is":        about(scalar, "the text of the new value"),
			"even_null": about(m{"type": "boolean"}, "replace NULL too"),
		}, "is")}},
		"hmac": object(m{"length": about(integer(1, maxHMAC), "hex digits; as many as fit where left out")}),
		"mask": object(m{
			"keep_first": about(integer(0, maxKeep), "characters left as they are at the start"),
			"keep_last":  about(integer(0, maxKeep), "characters left as they are at the end"),
			"with":       about(m{"type": []string{"string", "integer"}}, "the one character put for each other one, * where left out"),
		}),
		"regex": object(m{
			"match":   about(scalar, "RE2 expression"),
			"replace": about(scalar, "replacement; ${1} is the first group"),
		}, "match", "replace"),
		"json": m{
			"type": "object", "additionalProperties": false, "minProperties": 1,
			"properties": m{
				"remove": about(oneOrMore(text), "JSON paths to take out, as $.email or $.list[*].name"),
				"set":    about(m{"type": "object", "minProperties": 1}, "JSON paths to overwrite where they exist"),
			},
		},
		"ip_prefix": object(m{
			"v4": about(integer(0, 32), "bits kept of an IPv4 address"),
			"v6": about(integer(0, 128), "bits kept of an IPv6 address"),
		}),
		"date_trunc": m{"enum": dateUnits()},
	}
	// strategies are all but those left out, as a word or as a map of one key.
	strategies := func(without ...string) m {
		words, maps := []string{}, m{}
		left := map[string]bool{}
		for _, name := range without {
			left[name] = true
		}
		for _, name := range strategyNames() {
			if left[name] {
				continue
			}
			if _, needs := strategyExample(name); !needs {
				words = append(words, name)
			}
			if args, ok := arguments[name]; ok {
				maps[name] = args
			}
		}
		one := object(maps)
		one["minProperties"], one["maxProperties"] = 1, 1
		return m{"anyOf": []m{{"enum": words}, one}}
	}

	reference := about(text, "a reference, named by its column, or by its columns as (org_id, user_id)")
	schema := object(m{
		"version": about(m{"type": "integer", "const": version}, "the version of this format"),
		"dataset": about(m{"type": []string{"string", "integer"}, "pattern": datasetForm}, "the database's name in backups"),
		"subjects": about(section(m{
			"type": "object", "propertyNames": m{"pattern": typeForm}, "additionalProperties": object(m{
				"table":  about(text, "the table that holds these people"),
				"key":    about(text, "the column that a request's key is compared with"),
				"lookup": about(oneOrMore(text), "columns by which a person may be found"),
			}, "table", "key"),
		}), "the kinds of people: TYPE: {table, key}"),
		"references": about(section(mapOf(oneOrMore(ref("target")))), "references that the schema does not declare: TABLE.COLUMN: TABLE.COLUMN"),
		"always":     about(section(mapOf(ref("strategy"))), "what is done to every row: TABLE.COLUMN: STRATEGY"),
		"erase":      about(section(mapOf(ref("erase"))), "what erasing a person does, table by table"),
		"requests":   about(section(m{"type": "array", "items": ref("request")}), "people to erase"),
		"drift": about(m{"enum": driftWords()},
			"what to do about tables and columns new since the last snapshot that no rule names"),
		"categories":  about(section(mapOf(m{"type": []string{"string", "number"}, "pattern": categoryForm})), "Fides data categories: TABLE.COLUMN: user.contact.email"),
		"checks_hold": about(section(m{"type": "array", "items": text}), "CHECK constraints that rewritten values are vouched to satisfy: TABLE.CONSTRAINT"),
	}, "version", "dataset")
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"] = "Lethe rules file, version 1"
	schema["$defs"] = m{
		"strategy": strategies(),
		"redact":   strategies("hmac", "no_rows"),
		"target": m{"anyOf": []m{text, object(m{
			"to":   about(text, "TABLE.COLUMN"),
			"when": about(m{"type": "object", "minProperties": 1, "additionalProperties": scalar}, "columns of the same row and the values they must have"),
			"path": about(text, "the JSON path of the key inside the column"),
		}, "to")}},
		"erase": m{
			"type": "object", "additionalProperties": false,
			"properties": m{
				"delete": about(oneOrMore(m{"anyOf": []m{{"const": true}, reference}}),
					"true on a subject's own table; else references: a row reached through one is deleted"),
				"keep":   about(oneOrMore(reference), "references: a row reached through one stays, and its redact columns are rewritten"),
				"clear":  about(oneOrMore(reference), "references that become NULL"),
				"leave":  about(oneOrMore(reference), "references by which no row is reached: it is somebody else's, and stays as it is"),
				"redact": about(m{"type": "object", "minProperties": 1, "additionalProperties": ref("redact")}, "COLUMN: STRATEGY for rows that stay"),
				"reason": about(scalar, "why rows are kept"),
			},
			"anyOf": []m{{"required": []string{"delete"}}, {"required": []string{"keep"}}, {"required": []string{"clear"}}, {"required": []string{"leave"}}, {"required": []string{"redact"}}},
		},
		"request": object(m{
			"subject":  about(m{"type": "string", "pattern": "^[a-z][a-z0-9_]*:[^\\x00]"}, "TYPE:KEY"),
			"ref":      about(m{"type": []string{"string", "number"}, "pattern": refForm}, "your reference, without names or addresses"),
			"received": about(m{"type": "string", "format": "date"}, "the day the request came in"),
		}, "subject", "ref"),
	}
	out, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return nil // maps of strings, numbers and booleans always encode
	}
	return append(out, '\n')
}
