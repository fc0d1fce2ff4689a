package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"lethe/rules"
	"lethe/scrub"
	"lethe/scrub/catalog"
)

// rulesSkeleton is a rules file that is valid as it is, and whose comments are suggestions: prose after "# ", and
// YAML after a bare "#", so that taking the # off a block, or off all of them, gives rules that work. Each was tried on
// the schema.
func rulesSkeleton(dataset string, cat *catalog.Catalog) string {
	s := suggestRules(cat)
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\ndataset: %s\n", dataset)
	b.WriteString(`
# The two lines above are rules by themselves: they back everything up as it is. What follows are suggestions drawn from
# the schema, for somebody who knows it to read, correct and switch on, by taking the # off the lines of a block.
# lethe rules check tells what a block still lacks, and lethe backup --dry-run -v what it does to each table.

# Rewritten for everybody, whoever it belongs to, in every snapshot:
#
`)
	if len(s.always) == 0 {
		b.WriteString("#always:\n#  users.reset_token: clear      # an example: no column here has a name that tells\n")
	} else {
		comment(&b, append([]string{"always:"}, s.always...))
	}
	b.WriteString("\n# Who the people are, so that one of them can be erased:\n#\n")
	if len(s.subjects) == 0 {
		b.WriteString("#subjects:\n#  user: {table: users, key: id, lookup: [email]}      # an example: no table here looks like one of people\n")
		return b.String()
	}
	comment(&b, append([]string{"subjects:"}, s.subjects...))
	if len(s.references) > 0 {
		b.WriteString("\n# Columns that seem to lead to them, though the schema does not say so:\n#\n")
		comment(&b, append([]string{"references:"}, s.references...))
	}
	b.WriteString(`
# What erasing one of them does, table by table. Nothing is owned by silence: each reference that the schema leaves open
# needs a word: delete (the row goes), keep (it is theirs and stays; redact says what is taken out of it), clear (it is
# somebody else's: only the link goes) or leave (it is somebody else's, and stays as it is). `)
	if len(s.erase) == 0 {
		b.WriteString("lethe rules check prints the lines that are missing.\n")
		return b.String()
	}
	b.WriteString("What stands below\n# deletes no more than the schema's own ON DELETE CASCADE, and keeps the row for the first column that leads to a person:\n# look at every line, say delete where rows are theirs alone, and add to redact the columns that it lacks.\n#\n")
	comment(&b, append([]string{"erase:"}, s.erase...))
	fmt.Fprintf(&b, `
# Whom to erase; ref is your own reference, and holds no name:
#
#requests:
#  - {subject: "%s:KEY", ref: GDPR-1, received: 2026-01-31}
`, s.subject)
	return b.String()
}

func comment(b *strings.Builder, lines []string) {
	for _, l := range lines {
		b.WriteString("#" + l + "\n")
	}
}

// suggestion holds lines of YAML, each an entry of its section.
type suggestion struct {
	subject                             string
	always, subjects, references, erase []string
}

// suggestRules draws up rules from what tables and columns are called, and keeps those that work on the schema.
func suggestRules(cat *catalog.Catalog) (s suggestion) {
	for _, t := range cat.Order {
		if t.Parent == nil && t.Kind != catalog.Foreign {
			s.always = append(s.always, suggestAlways(cat, t)...)
		}
	}
	people, key := likelySubject(cat)
	if people == nil {
		return s
	}
	s.subject = singular(people.Name.Name)
	if !plainWord.MatchString(s.subject) {
		s.subject = "user"
	}
	lookup := ""
	if columns := lookupColumns(people); len(columns) > 0 {
		lookup = ", lookup: [" + strings.Join(columns, ", ") + "]"
	}
	s.subjects = []string{fmt.Sprintf("  %s: {table: %s, key: %s%s}", s.subject, yamlText(people.Name.String()), yamlText(catalog.QuoteIfNeeded(key)), lookup)}
	s.references = suggestReferences(cat, people, key)

	// The compiler itself proposes the verbs that are missing.
	erase := append(slices.Clone(s.subjects), s.referenceSection()...)
	var missing rules.Errors
	if err := tryRules(cat, append(append([]string{"subjects:"}, erase...), "erase:")); errors.As(err, &missing) {
		for _, m := range missing {
			if m.Paste != "" {
				s.erase = append(s.erase, strings.Split(strings.TrimRight(m.Paste, "\n"), "\n")...)
			}
		}
	}
	whole := append(append([]string{"subjects:"}, erase...), append([]string{"erase:"}, s.erase...)...)
	if tryRules(cat, whole) != nil {
		s.erase = nil // somebody has to think first: check says what about
		return s
	}
	// A rule of always may stand against erasing, as no_rows on a table that is referenced.
	s.always = slices.DeleteFunc(s.always, func(line string) bool {
		return tryRules(cat, append(append([]string{"always:"}, line), whole...)) != nil
	})
	if len(s.always) > 0 && tryRules(cat, append(append([]string{"always:"}, s.always...), whole...)) != nil {
		s.always = nil
	}
	return s
}

func (s *suggestion) referenceSection() []string {
	if len(s.references) == 0 {
		return nil
	}
	return append([]string{"references:"}, s.references...)
}

// tryRules checks sections of a rules file against the schema.
func tryRules(cat *catalog.Catalog, lines []string) error {
	f, err := rules.Parse("suggestion", []byte("version: 1\ndataset: suggestion\n"+strings.Join(lines, "\n")+"\n"))
	if err == nil {
		_, err = scrub.Compile(f, cat)
	}
	return err
}

var plainWord = regexp.MustCompile(`^[a-z][a-z_]*$`)

// personal tells columns that often hold personal data or secrets which a backup can do without, and what is often done
// about them for everybody: the first that the column can take.
var personal = []struct {
	name       *regexp.Regexp
	strategies []string
}{
	{regexp.MustCompile(`(^|_)(token|token_hash|secret|otp|totp|nonce|api_key|private_key)$`), []string{"clear", "{value: none}", "hmac"}},
	{regexp.MustCompile(`(^|_)(password|password_hash|password_digest|pass_crypt|pass_salt|passwd|encrypted_password)$`), []string{"clear", "{value: none}"}},
	{regexp.MustCompile(`(^|_)(ip|ip_address|ip_addr|remote_addr)$`), []string{"ip_prefix", "clear"}},
	{regexp.MustCompile(`(^|_)user_agent$`), []string{"clear", "{value: none}"}},
}

var passing = regexp.MustCompile(`(^|_)(sessions?|caches?|cache_entries)$`)

func suggestAlways(cat *catalog.Catalog, t *catalog.Table) (lines []string) {
	if passing.MatchString(snake(t.Name.Name)) {
		line := "  " + yamlText((&rules.Always{Schema: t.Name.Schema, Table: t.Name.Name, Strategy: rules.Strategy{Name: "no_rows"}}).String()) + ": no_rows"
		if tryRules(cat, []string{"always:", line}) == nil {
			return []string{line}
		}
	}
	for _, c := range t.Columns {
		if !holdsText(cat, c) {
			continue
		}
		for _, p := range personal {
			if !p.name.MatchString(snake(c.Name)) {
				continue
			}
			for _, strategy := range p.strategies {
				line := "  " + yamlText((&rules.Always{Schema: t.Name.Schema, Table: t.Name.Name, Column: c.Name}).String()) + ": " + strategy
				if tryRules(cat, []string{"always:", line}) == nil {
					lines = append(lines, line)
					break
				}
			}
			break
		}
	}
	return lines
}

// holdsText says whether a column can hold a secret or an address, rather than a count of them.
func holdsText(cat *catalog.Catalog, c *catalog.Column) bool {
	base, _, _ := cat.Base(c.Type)
	switch base.Name.Name {
	case "bool", "int2", "int4", "int8", "numeric", "float4", "float8", "date", "timestamp", "timestamptz", "interval":
		return false
	}
	return true
}

// likelySubject guesses the table of people: the one with an e-mail column that most references lead to.
func likelySubject(cat *catalog.Catalog) (best *catalog.Table, key string) {
	in := map[catalog.Name]int{}
	for _, t := range cat.Order {
		for _, fk := range t.References {
			if t.Parent == nil {
				in[fk.To]++
			}
		}
	}
	most := -1
	for _, t := range cat.Order {
		email := slices.ContainsFunc(t.Columns, func(c *catalog.Column) bool { return strings.Contains(snake(c.Name), "email") })
		if !email || t.Parent != nil || t.Kind == catalog.Foreign || in[t.Name] <= most {
			continue
		}
		for _, k := range t.Keys {
			if k.Primary && len(k.Columns) == 1 {
				best, key, most = t, k.Columns[0], in[t.Name]
			}
		}
	}
	return best, key
}

var lookup = regexp.MustCompile(`^(email|e_mail|email_address|username|user_name|login|nickname|handle|phone|phone_number)$`)

func lookupColumns(t *catalog.Table) (names []string) {
	for _, c := range t.Columns {
		if lookup.MatchString(snake(c.Name)) && c.Generated == "" {
			names = append(names, yamlText(catalog.QuoteIfNeeded(c.Name)))
		}
	}
	return names
}

// suggestReferences finds columns named after the people, of the type of their key, that no foreign key holds.
func suggestReferences(cat *catalog.Catalog, people *catalog.Table, key string) (lines []string) {
	one := regexp.QuoteMeta(singular(snake(people.Name.Name)))
	named := regexp.MustCompile(`^((` + one + `|user|author|owner|sender|recipient|actor|creator)_(id|uuid)|(created|updated|deleted|invited|approved)_by(_id)?)$`)
	tables := map[string]*catalog.Table{} // by the word for one row
	for _, t := range cat.Order {
		tables[singular(snake(t.Name.Name))] = t
	}
	for _, t := range cat.Order {
		if t.Parent != nil || t.Kind == catalog.Foreign {
			continue
		}
		for _, c := range t.Columns {
			other := strings.TrimSuffix(strings.TrimSuffix(snake(c.Name), "_id"), "_uuid")
			if c.Generated != "" || !named.MatchString(snake(c.Name)) || c.Type.Name != people.Column(key).Type.Name ||
				held(t, c.Name) || tables[other] != nil && tables[other] != people || t == people && c.Name == key {
				continue
			}
			line := fmt.Sprintf("  %s: %s", yamlText((&rules.Always{Schema: t.Name.Schema, Table: t.Name.Name, Column: c.Name}).String()),
				yamlText((&rules.Always{Schema: people.Name.Schema, Table: people.Name.Name, Column: key}).String()))
			if tryRules(cat, []string{"references:", line}) == nil {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// held says whether a foreign key holds a column, on the table or on all its partitions.
func held(t *catalog.Table, column string) bool {
	if slices.ContainsFunc(t.References, func(fk *catalog.ForeignKey) bool { return slices.Contains(fk.Columns, column) }) {
		return true
	}
	return len(t.Partitions) > 0 && !slices.ContainsFunc(t.Partitions, func(p *catalog.Table) bool { return !held(p, column) })
}

// singular is good enough for a word that people can change.
func singular(plural string) string {
	switch {
	case plural == "people":
		return "person"
	case strings.HasSuffix(plural, "ies"):
		return strings.TrimSuffix(plural, "ies") + "y"
	case strings.HasSuffix(plural, "ss"):
		return plural
	}
	return strings.TrimSuffix(plural, "s")
}

// snake writes resetToken as reset_token, so that one list of names serves for all habits.
func snake(name string) string {
	var b strings.Builder
	small := false
	for _, r := range name {
		if unicode.IsUpper(r) && small {
			b.WriteByte('_')
		}
		small = unicode.IsLower(r) || unicode.IsDigit(r)
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
