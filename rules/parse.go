package rules

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// version is the version of the rules file that this package reads.
const version = 1

func fileKeys() []string {
	return []string{"version", "dataset", "subjects", "references", "always", "erase", "requests", "drift", "categories", "checks_hold"}
}
func subjectKeys() []string { return []string{"table", "key", "lookup"} }
func targetKeys() []string  { return []string{"to", "when", "path"} }
func eraseKeys() []string   { return []string{"delete", "keep", "clear", "leave", "redact", "reason"} }
func requestKeys() []string { return []string{"subject", "ref", "received"} }
func driftWords() []string  { return []string{"pass", "warn", "fail"} }

// Forms of the words that a rules file makes up; the JSON Schema carries them too.
const (
	datasetForm  = `^[a-z0-9][a-z0-9_-]{0,62}$`
	typeForm     = `^[a-z][a-z0-9_]*$`
	refForm      = `^[A-Za-z0-9][A-Za-z0-9._:/#+-]{0,127}$`
	categoryForm = `^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`
)

func matches(form, s string) bool { return regexp.MustCompile(form).MatchString(s) }

// Parse reads a rules file. Path is for messages only. The error is of type Errors and holds every mistake of the file,
// in its order; none of them quotes the key of a subject.
func Parse(path string, text []byte) (*File, error) {
	r := &reader{path: path}
	f := &File{Path: path, Text: text}
	if root := r.document(text); root != nil {
		r.file(f, root)
	}
	if len(r.errs) > 0 {
		slices.SortStableFunc(r.errs, func(a, b *Error) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
		})
		return nil, r.errs
	}
	return f, nil
}

func (r *reader) file(f *File, root *yaml.Node) {
	keys, ok := r.fields(root, "the rules file", "begin with `version: 1` and `dataset: NAME`", false, fileKeys())
	if !ok {
		return
	}
	r.version(f, root, keys["version"])
	r.dataset(f, root, keys["dataset"])
	section := func(key string, read func(*File, *yaml.Node)) {
		if n := keys[key]; n != nil && !isNull(n) { // a key with nothing after it is a section with nothing in it
			read(f, n)
		}
	}
	section("subjects", r.subjects)
	section("references", r.references)
	section("always", r.always)
	section("erase", r.erase)
	section("requests", r.requests)
	section("categories", r.categories)
	section("checks_hold", r.checksHold)
	if n := keys["drift"]; n != nil {
		f.Drift, _ = r.word(n, "word for drift", driftWords())
	}
}

func (r *reader) version(f *File, root, n *yaml.Node) {
	switch {
	case n == nil:
		r.wrong(root, "write `version: 1`", "the rules file has no `version`")
	case n.Kind != yaml.ScalarNode || n.Tag != "!!int" && n.Tag != "!!float":
		r.wrong(n, "write `version: 1`", "expected a number for version, found %s", kindOf(n))
	case n.Value != "1":
		r.wrong(n, "use the lethe that the file was written for, or write `version: 1`",
			"rules version %s is not known to this lethe, which reads version %d", quoteText(n.Value), version)
	default:
		f.Version = version
	}
}

func (r *reader) dataset(f *File, root, n *yaml.Node) {
	const hint = "write `dataset: NAME`: 1 to 63 of a-z, 0-9, _ and -, a letter or digit first"
	if n == nil {
		r.wrong(root, hint, "the rules file has no `dataset`")
		return
	}
	if n.Kind != yaml.ScalarNode || isNull(n) {
		r.wrong(n, hint, "expected a name for dataset, found %s", kindOf(n))
		return
	}
	if !matches(datasetForm, n.Value) {
		r.wrong(n, hint, "dataset %s is not a name of that form", quoteText(n.Value))
		return
	}
	f.Dataset = n.Value
}

func (r *reader) subjects(f *File, n *yaml.Node) {
	const hint = "write TYPE: {table: TABLE, key: COLUMN}, as user: {table: users, key: id, lookup: [email]}"
	before := len(r.errs)
	defer func() { r.vague = len(r.errs) > before }()
	list, _ := r.entries(n, hint)
	first, tables := map[string]Pos{}, map[Name]Subject{}
	for _, e := range list {
		s := Subject{Type: e.key.Value, Pos: at(e.key)}
		if !matches(typeForm, s.Type) {
			r.wrong(e.key, "a type is a word of a-z, 0-9 and _, a letter first: user", "subject type %s is not of that form", quoteText(s.Type))
		} else if pos, twice := first[s.Type]; twice {
			r.wrong(e.key, "join the two", "subject type `%s` stands twice, first on line %d", s.Type, pos.Line)
		}
		first[s.Type] = s.Pos
		keys, ok := r.fields(e.value, "a subject", hint, false, subjectKeys())
		if !ok {
			f.Subjects = append(f.Subjects, s) // requests may name it all the same
			continue
		}
		if t := r.needed(e.key, keys, "table", "subject", hint); t != nil {
			s.Table, ok = r.name(t)
			if other, twice := tables[s.Table]; ok && twice {
				r.wrong(t, "one table holds one type of subject; use lookup for a second key",
					"subjects `%s` and `%s` name the same table, %s", other.Type, s.Type, s.Table)
			} else if ok {
				tables[s.Table] = s
			}
		}
		if k := r.needed(e.key, keys, "key", "subject", hint); k != nil {
			s.Key, _ = r.column(k)
		}
		if l := keys["lookup"]; l != nil {
			for _, item := range r.several(l, "a column") {
				c, ok := r.column(item)
				if ok && slices.Contains(s.Lookup, c) {
					r.wrong(item, "name each column once", "lookup names the column %s twice", quoteText(c))
				}
				s.Lookup = append(s.Lookup, c)
			}
		}
		f.Subjects = append(f.Subjects, s)
	}
}

// needed returns a field that must be there.
func (r *reader) needed(owner *yaml.Node, keys map[string]*yaml.Node, key, what, hint string) *yaml.Node {
	n := keys[key]
	if n == nil {
		r.wrong(owner, hint, "the %s has no `%s`", what, key)
	}
	return n
}

func (r *reader) name(n *yaml.Node) (Name, bool) {
	s, ok := r.text(n, "a table's name")
	if !ok {
		return Name{}, false
	}
	name, err := ParseName(s)
	if err != nil {
		r.badName(n, err)
		return Name{}, false
	}
	return name, true
}

func (r *reader) column(n *yaml.Node) (string, bool) {
	s, ok := r.text(n, "a column's name")
	if !ok {
		return "", false
	}
	c, err := parseColumn(s)
	if err != nil {
		r.badName(n, err)
		return "", false
	}
	return c, true
}

func (r *reader) references(f *File, n *yaml.Node) {
	const hint = "write TABLE.COLUMN: TABLE.COLUMN, as audit_log.actor: users.id"
	list, _ := r.entries(n, hint)
	first := map[string]Pos{}
	for _, e := range list {
		ref := Reference{Pos: at(e.key)}
		var err error
		ref.Table, ref.Columns, err = parseReference(e.key.Value)
		if err != nil {
			r.badName(e.key, err)
		} else {
			same := referenceString(ref.Table, slices.Sorted(slices.Values(ref.Columns)))
			if pos, twice := first[same]; twice {
				r.wrong(e.key, "give one key a list: [{to: …}, {to: …}]", "the reference %s stands twice, first on line %d",
					quoteText(referenceString(ref.Table, ref.Columns)), pos.Line)
			}
			first[same] = ref.Pos
		}
		for _, item := range r.several(e.value, "where it leads") {
			if t, ok := r.target(item, ref.Columns); ok {
				ref.Targets = append(ref.Targets, t)
			}
		}
		r.distinct(ref)
		f.References = append(f.References, ref)
	}
}

// target reads where a reference from the given columns leads; columns is nil where they could not be read.
func (r *reader) target(n *yaml.Node, columns []string) (Target, bool) {
	const hint = "write TABLE.COLUMN or {to: TABLE.COLUMN, when: {COLUMN: VALUE}, path: $.KEY}"
	t := Target{Pos: at(n)}
	to := n
	if n.Kind == yaml.MappingNode {
		keys, _ := r.fields(n, "a reference", hint, false, targetKeys())
		if w := keys["when"]; w != nil {
			t.When = r.when(w)
		}
		if p := keys["path"]; p != nil {
			var ok bool
			if t.Path, ok = r.jsonPath(p); ok && len(columns) > 1 {
				r.wrong(p, "a path reads one column", "`path` can't be used with a reference of %d columns", len(columns))
			}
		}
		if to = r.needed(n, keys, "to", "reference", hint); to == nil {
			return t, false
		}
	}
	if to.Kind != yaml.ScalarNode || isNull(to) {
		r.wrong(to, hint, "expected a reference's target here, found %s", kindOf(to))
		return t, false
	}
	var err error
	t.Table, t.Columns, err = parseReference(to.Value)
	if err != nil {
		r.badName(to, err)
		return t, false
	}
	if columns != nil && len(columns) != len(t.Columns) {
		r.wrong(to, "name as many columns on both sides, in the same order", "the reference has %s and its target %s",
			count(len(columns), "column"), count(len(t.Columns), "column"))
		return t, false
	}
	return t, true
}

func (r *reader) when(n *yaml.Node) []Equal {
	list, ok := r.entries(n, "write when: {COLUMN: VALUE}, as when: {kind: User}")
	if ok && len(n.Content) == 0 {
		r.wrong(n, "write when: {COLUMN: VALUE}, or leave it out", "`when` has no condition")
	}
	var all []Equal
	for _, e := range list {
		column, err := parseColumn(e.key.Value)
		if err != nil {
			r.badName(e.key, err)
			continue
		}
		if slices.ContainsFunc(all, func(q Equal) bool { return q.Column == column }) {
			r.wrong(e.key, "a reference with two values is two entries of its list", "`when` names the column %s twice", quoteText(column))
			continue
		}
		if value, ok := r.text(e.value, "a value to compare with"); ok {
			all = append(all, Equal{column, value})
		}
	}
	return all
}

// distinct reports targets of one reference that can't be told apart: two that read the same key need a `when` each,
// or a row would lead to two people.
func (r *reader) distinct(ref Reference) {
	for i, t := range ref.Targets {
		others := slices.ContainsFunc(ref.Targets, func(o Target) bool { return o.Pos != t.Pos && o.Path == t.Path })
		if others && len(t.When) == 0 {
			r.report(t.Pos, "write {to: TABLE.COLUMN, when: {COLUMN: VALUE}} for each",
				"one of several targets of a reference has no `when`, so every row would lead there")
		}
		for _, o := range ref.Targets[:i] {
			if o.Path == t.Path && len(t.When) > 0 && sameConditions(o.When, t.When) {
				r.report(t.Pos, "leave one out", "two targets of a reference have the same `when`, the first on line %d", o.Pos.Line)
				break
			}
		}
	}
}

func sameConditions(a, b []Equal) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(q Equal) bool { return !slices.Contains(b, q) })
}

func (r *reader) always(f *File, n *yaml.Node) {
	const hint = "write TABLE.COLUMN: STRATEGY, as users.reset_token: clear"
	list, _ := r.entries(n, hint)
	type key struct{ schema, table, column string }
	first := map[key]Pos{}
	for _, e := range list {
		s, ok := r.strategy(e.value)
		if !ok {
			// Without its strategy a two-part name could be a table or a column; only what is neither is reported.
			if _, err := splitName(e.key.Value, true); err != nil {
				r.badName(e.key, err)
			}
			continue
		}
		a, err := parseAlways(e.key.Value, s.Name == "no_rows")
		if err != nil {
			r.badName(e.key, err)
			continue
		}
		a.Strategy, a.Pos = s, at(e.key)
		k := key{a.Schema, a.Table, a.Column}
		if pos, twice := first[k]; twice {
			r.wrong(e.key, "one rule for each name", "%s has a rule already, on line %d", quoteText(a.String()), pos.Line)
			continue
		}
		first[k] = a.Pos
		f.Always = append(f.Always, a)
	}
	for _, a := range f.Always {
		if a.Glob || a.Column == "" {
			continue
		}
		if empty, ok := f.NoRows(a.Schema, a.Table); ok {
			r.report(a.Pos, "take one of the two out", "this rule does nothing: line %d keeps all rows of %s out",
				empty.Pos.Line, quoteText(Name{a.Schema, a.Table}.String()))
		}
	}
}

func (r *reader) erase(f *File, n *yaml.Node) {
	list, _ := r.entries(n, "write TABLE: {delete: COLUMN}, as messages: {delete: sender_id}")
	first := map[Name]Pos{}
	for _, e := range list {
		name, err := ParseName(e.key.Value)
		if err != nil {
			r.badName(e.key, err)
		} else if pos, twice := first[name]; twice {
			r.wrong(e.key, "join the two", "table %s stands twice in erase, first on line %d", quoteText(name.String()), pos.Line)
		} else {
			first[name] = at(e.key)
		}
		before := len(r.errs)
		entry, ok := r.eraseEntry(e.value)
		if !ok {
			continue
		}
		entry.Table, entry.Pos = name, at(e.key)
		if err == nil && len(r.errs) == before && !r.vague {
			r.eraseSense(f, entry, e.key)
		}
		f.Erase = append(f.Erase, entry)
	}
}

func (r *reader) eraseEntry(n *yaml.Node) (Erase, bool) {
	const hint = "write one or more of delete, keep, clear, leave (each with references) and redact, as {delete: user_id}"
	var entry Erase
	keys, ok := r.fields(n, "an erase entry", hint, false, eraseKeys())
	if !ok {
		return entry, false
	}
	seen := map[string]verbAt{}
	if v := keys["delete"]; v != nil {
		for _, item := range r.several(v, "a reference") {
			if !isBool(item) {
				entry.Delete = r.reference(entry.Delete, item, "delete", seen)
			} else if yes, _ := r.boolean(item, "delete"); !yes {
				r.wrong(item, "leave `delete` out; a column of that name stands in quotes", "`delete: false` says nothing")
			} else {
				entry.Subject = true
			}
		}
	}
	if v := keys["keep"]; v != nil {
		for _, item := range r.several(v, "a reference") {
			entry.Keep = r.reference(entry.Keep, item, "keep", seen)
		}
	}
	if v := keys["clear"]; v != nil {
		for _, item := range r.several(v, "a reference") {
			entry.Clear = r.reference(entry.Clear, item, "clear", seen)
		}
	}
	if v := keys["leave"]; v != nil {
		for _, item := range r.several(v, "a reference") {
			entry.Leave = r.reference(entry.Leave, item, "leave", seen)
		}
	}
	if v := keys["redact"]; v != nil {
		entry.Redact = r.redact(v)
	}
	if v := keys["reason"]; v != nil {
		entry.Reason, _ = r.text(v, "a text")
	}
	if keys["delete"] == nil && keys["keep"] == nil && keys["clear"] == nil && keys["leave"] == nil && keys["redact"] == nil && len(n.Content) <= 2*len(keys) {
		r.wrong(n, hint, "this erase entry says nothing about what happens to a row")
		return entry, false
	}
	return entry, true
}

// verbAt is where a reference got its verb.
type verbAt struct {
	verb string
	pos  Pos
}

// reference reads one reference of a verb and appends it to list.
func (r *reader) reference(list []Columns, n *yaml.Node, verb string, seen map[string]verbAt) []Columns {
	if isBool(n) {
		r.wrong(n, "name a reference by its columns; a column of that name stands in quotes",
			"expected a reference for %s, found true or false", verb)
		return list
	}
	s, ok := r.text(n, "a reference, named by its columns,")
	if !ok {
		return list
	}
	names, err := parseColumns(s)
	if err != nil {
		r.badName(n, err)
		return list
	}
	c := Columns{Names: names, Pos: at(n)}
	same := columnList(slices.Sorted(slices.Values(names)))
	if other, twice := seen[same]; twice {
		if other.verb == verb {
			r.wrong(n, "name each reference once", "the reference %s stands twice under %s", quoteText(c.String()), verb)
		} else {
			r.wrong(n, "decide for one of the two", "the reference %s stands under both %s (line %d) and %s",
				quoteText(c.String()), other.verb, other.pos.Line, verb)
		}
		return list
	}
	seen[same] = verbAt{verb, c.Pos}
	return append(list, c)
}

func (r *reader) redact(n *yaml.Node) []ColumnStrategy {
	const hint = "write {COLUMN: STRATEGY}, as {email: unique_email, birthday: clear}"
	list, ok := r.entries(n, hint)
	if ok && len(n.Content) == 0 {
		r.wrong(n, hint+", or leave it out", "`redact` names no column")
	}
	var all []ColumnStrategy
	first := map[string]Pos{}
	for _, e := range list {
		column, err := parseColumn(e.key.Value)
		if err != nil {
			r.badName(e.key, err)
		} else if pos, twice := first[column]; twice {
			r.wrong(e.key, "one strategy for each column", "the column %s stands twice in redact, first on line %d", quoteText(column), pos.Line)
		} else {
			first[column] = at(e.key)
		}
		s, ok := r.strategy(e.value)
		if !ok {
			continue
		}
		switch s.Name {
		case "no_rows":
			r.wrong(e.value, "use `delete` to take rows out; clear empties a column", "no_rows is for whole tables in `always`, not for columns")
		case "hmac":
			r.wrong(e.value, "use unique_email, clear or {value: X}; hmac is for `always`",
				"pseudonymising offered as erasure: who holds the key can find the person again by hmac")
		}
		all = append(all, ColumnStrategy{Column: column, Strategy: s, Pos: at(e.key)})
	}
	return all
}

// eraseSense reports an entry that can't mean anything, given who the subjects are.
func (r *reader) eraseSense(f *File, entry Erase, key *yaml.Node) {
	subject := slices.ContainsFunc(f.Subjects, func(s Subject) bool { return s.Table == entry.Table })
	switch {
	case entry.Subject && !subject:
		r.wrong(key, "name the reference by which rows are deleted, as {delete: user_id}",
			"`delete: true` is for a subject's own table, and no subject names %s", quoteText(entry.Table.String()))
	case entry.Subject && len(entry.Redact) > 0:
		r.wrong(key, "keep one of the two", "`delete: true` and `redact` contradict each other: the subject's row can't go and stay")
	case !subject && len(entry.Redact) > 0 && len(entry.Keep) == 0:
		r.wrong(key, "name the reference whose rows stay: {keep: user_id, redact: {…}}",
			"`redact` has no row to work on: %s has no `keep`", quoteText(entry.Table.String()))
	}
}

func (r *reader) requests(f *File, n *yaml.Node) {
	const hint = `write a list of {subject: "TYPE:KEY", ref: REFERENCE, received: YYYY-MM-DD}`
	if n.Kind != yaml.SequenceNode {
		r.wrong(n, hint, "expected a list here, found %s", kindOf(n))
		return
	}
	byRef := map[string]Request{}
	isRef := regexp.MustCompile(refForm) // once: there may be very many
	for i, item := range n.Content {
		q := Request{Pos: at(item)}
		who := fmt.Sprintf("request %d", i+1)
		keys, ok := r.fields(item, "a request", hint, true, requestKeys())
		if !ok {
			continue
		}
		before := len(r.errs)
		if v := keys["ref"]; v == nil {
			r.wrong(item, "every request has a reference of your own, as ref: GDPR-2026-014", "%s has no `ref`", who)
		} else if s, ok := r.text(v, "a reference"); ok {
			if !isRef.MatchString(s) {
				r.wrong(v, "1 to 128 letters, digits and . _ : / # + -, a letter or digit first; no names, no addresses",
					"%s has a `ref` that is not of that form", who)
			} else {
				q.Ref = s
				who += " (" + s + ")"
			}
		}
		if v := keys["subject"]; v == nil {
			r.wrong(item, hint, "%s has no `subject`", who)
		} else {
			q.Subject, q.Key = r.subject(f, v, who)
		}
		if v := keys["received"]; v != nil {
			q.Received = r.date(v, who)
		}
		if len(r.errs) > before {
			continue
		}
		if other, twice := byRef[q.Ref]; twice {
			switch {
			case other.Subject != q.Subject || other.Key != q.Key:
				r.wrong(item, "give each subject a reference of its own", "%s has the reference of another subject, on line %d", who, other.Pos.Line)
			case !other.Received.Equal(q.Received):
				r.wrong(item, "leave one of the two out", "%s stands on line %d too, received on another date", who, other.Pos.Line)
			}
			continue // the same request twice is one
		}
		byRef[q.Ref] = q
		f.Requests = append(f.Requests, q)
	}
}

// subject reads TYPE:KEY without ever quoting it.
func (r *reader) subject(f *File, n *yaml.Node, who string) (kind, key string) {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		r.wrong(n, `write subject: "TYPE:KEY", in quotes`, "%s: expected a subject, found %s", who, kindOf(n))
		return "", ""
	}
	kind, key, ok := strings.Cut(n.Value, ":")
	var known []string
	for _, s := range f.Subjects {
		known = append(known, s.Type)
	}
	switch {
	case !ok || key == "" || strings.ContainsRune(n.Value, 0):
		r.wrong(n, `write subject: "TYPE:KEY"`, "%s: the subject is not of the form TYPE:KEY", who)
	case len(known) == 0 && r.vague: // what is declared can't be read
	case len(known) == 0:
		r.wrong(n, "declare it: subjects: {user: {table: users, key: id}}", "%s is for a type of subject that is not declared; none is", who)
	case !slices.Contains(known, kind):
		msg := who + " is for a type of subject that is not declared"
		if guess := nearest(kind, known); guess != "" {
			msg += ", did you mean `" + guess + "`?"
		}
		r.wrong(n, "declared: "+strings.Join(known, ", "), "%s", msg)
	}
	return kind, key
}

func (r *reader) date(n *yaml.Node, who string) time.Time {
	if n.Kind == yaml.ScalarNode {
		if t, err := time.Parse(time.DateOnly, n.Value); err == nil && t.Year() >= 1970 {
			return t
		}
	}
	r.wrong(n, "write the day the request came in, as received: 2026-11-20", "%s: `received` is not a date", who)
	return time.Time{}
}

func (r *reader) categories(f *File, n *yaml.Node) {
	const hint = "write TABLE.COLUMN: CATEGORY, as users.email: user.contact.email"
	list, _ := r.entries(n, hint)
	type key struct {
		table  Name
		column string
	}
	first := map[key]Pos{}
	for _, e := range list {
		c := Category{Pos: at(e.key)}
		var err error
		c.Table, c.Column, err = ParseColumn(e.key.Value)
		if err != nil {
			r.badName(e.key, err)
		} else {
			k := key{c.Table, c.Column}
			if pos, twice := first[k]; twice {
				r.wrong(e.key, "one category for each column", "the column %s has a category already, on line %d",
					quoteText(referenceString(c.Table, []string{c.Column})), pos.Line)
			}
			first[k] = c.Pos
		}
		s, ok := r.text(e.value, "a category")
		if ok && !matches(categoryForm, s) {
			r.wrong(e.value, "words of letters, digits, _ and -, joined by dots: user.contact.email", "the category is not of that form")
		}
		c.Category = s
		f.Categories = append(f.Categories, c)
	}
}

func (r *reader) checksHold(f *File, n *yaml.Node) {
	const hint = "write a list of TABLE.CONSTRAINT, as [users.users_email_check]"
	if n.Kind != yaml.SequenceNode {
		r.wrong(n, hint, "expected a list here, found %s", kindOf(n))
		return
	}
	for _, item := range n.Content {
		s, ok := r.text(item, "TABLE.CONSTRAINT")
		if !ok {
			continue
		}
		table, constraint, err := ParseColumn(s)
		if err != nil {
			msg, _ := nameHint(err)
			r.wrong(item, hint, "%s", strings.Replace(msg, "a column's name", "a constraint's name", 1))
			continue
		}
		v := Vouch{Name: table, Constraint: constraint, Pos: at(item)}
		for _, o := range f.ChecksHold {
			if o.Name == v.Name && o.Constraint == v.Constraint {
				r.wrong(item, "name each constraint once", "the constraint stands on line %d already", o.Pos.Line)
			}
		}
		f.ChecksHold = append(f.ChecksHold, v)
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
