package rules

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// content is a file without what Marshal does not keep.
func content(f *File) *File {
	g := *f
	g.Path, g.Text = "", nil
	return withoutPos(reflect.ValueOf(g)).Addr().Interface().(*File)
}

// withoutPos copies a value with every Pos in it set to zero, and empty slices to nil.
func withoutPos(v reflect.Value) reflect.Value {
	out := reflect.New(v.Type()).Elem()
	switch {
	case v.Type() == reflect.TypeFor[Pos]():
	case v.Type() == reflect.TypeFor[time.Time]():
		out.Set(v)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			out.Field(i).Set(withoutPos(v.Field(i)))
		}
	case v.Kind() == reflect.Slice && v.Len() > 0:
		out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		for i := range v.Len() {
			out.Index(i).Set(withoutPos(v.Index(i)))
		}
	case v.Kind() != reflect.Slice:
		out.Set(v)
	}
	return out
}

func TestMarshal(t *testing.T) {
	f, err := Parse("rules.yml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	want := `version: 1
dataset: slipmat
subjects:
  user: {table: users, key: id, lookup: [email, username]}
references:
  audit_log.actor: users.id
  likes.target_id: [{to: users.id, when: {kind: User}}, {to: posts.id, when: {kind: Post, live: "true"}}]
  jobs.args: {to: users.id, path: $.user_id}
  "notes.(org_id, user_id)": "app.members.(org, id)"
always:
  users.reset_token: clear
  "*.last_ip": ip_prefix
  sessions: no_rows
  "analytics.*": no_rows
  "log_*.m?": mask
erase:
  users: {clear: invited_by, redact: {email: unique_email, full_name: {value: Deleted user}, birthday: clear, prefs: {json: {remove: [$.email, $.ips]}}}}
  messages: {delete: sender_id, clear: recipient_id}
  attachments: {delete: message_id}
  memberships: {delete: user_id, clear: added_by, leave: [granted_by, "(org_id, team_id)"]}
  notes: {delete: "(org_id, user_id)"}
  payments: {keep: user_id, redact: {card_holder: clear, iban: clear}, reason: "Accounting Act, six years"}
  audit_log: {delete: actor}
  '"Odd Schema"."Tab ""x"""': {delete: '"User Id"'}
requests:
  - {subject: "user:3f2c9a70-1:x", ref: GDPR-2026-014, received: 2026-11-20}
  - {subject: "user:42", ref: GDPR-2026-015}
drift: warn
categories:
  users.email: user.contact.email
checks_hold:
  - users.users_email_check
  - app.email.email_check
`
	if got := string(f.Marshal()); got != want {
		t.Errorf("got\n%s", got)
	}
}

// Whatever rules there are, they read back from their YAML.
func TestMarshalRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := anyFile(t)
		text := f.Marshal()
		got, err := Parse("r.yml", text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if !reflect.DeepEqual(content(got), content(f)) {
			t.Fatalf("got  %+v\nwant %+v\n%s", content(got), content(f), text)
		}
		if again := got.Marshal(); string(again) != string(text) {
			t.Fatalf("written differently the second time:\n%s\n%s", text, again)
		}
	})
}

func anyText(t *rapid.T, label string) string {
	return rapid.OneOf(
		rapid.SampledFrom([]string{"", "null", "~", "true", "No", "42", "-", "- a", "a: b", "#", " x ", "\n", "\t", "'", `"`, `\`, "*x", "&x", "!x", "%", "@", "`",
			"{}", "[", "a,b", "é", "\u0085", "\u2028", "\ufeff", "\U000e0001", "\x7f", "\x01", "---", "...", "2026-11-20", ".inf", "0x1f", "<<", "? x", "$1"}),
		rapid.String(),
	).Filter(func(s string) bool { return !strings.ContainsRune(s, 0) && strings.ToValidUTF8(s, "") == s }).Draw(t, label)
}

func anyStrategy(t *rapid.T, names ...string) Strategy {
	s := Strategy{Name: rapid.SampledFrom(names).Draw(t, "strategy")}
	switch s.Name {
	case "value":
		s.Value, s.EvenNull = anyText(t, "value"), rapid.Bool().Draw(t, "even_null")
	case "hmac":
		s.Length = rapid.IntRange(0, maxHMAC).Draw(t, "length")
	case "mask":
		s.KeepFirst, s.KeepLast = rapid.IntRange(0, 4).Draw(t, "first"), rapid.IntRange(0, 4).Draw(t, "last")
		s.With = rapid.SampledFrom([]string{"*", "x", "•", "0", "#", "\"", " ", "~"}).Draw(t, "with")
	case "regex":
		s.Match = rapid.SampledFrom([]string{`(a)(b)`, `^(.)(.*)$`, `[^@]+(x|)(y|)`, "(\n)(#)"}).Draw(t, "match")
		s.Replace = rapid.SampledFrom([]string{"", "$1", "${2}x", "$$", "a: b", "$$5"}).Draw(t, "replace")
	case "json":
		path := rapid.SampledFrom([]string{"$.a", "$.a[0]", "$['odd \"key\"']", "$.*", "$.é", "$['" + strings.Repeat("\u0085", 600) + "']"})
		s.Remove = rapid.SliceOfN(path, 0, 3).Draw(t, "remove")
		for _, p := range rapid.SliceOfNDistinct(path, 0, 3, rapid.ID).Draw(t, "set") {
			s.Set = append(s.Set, JSONSet{p, anyJSON(t, 2)})
		}
		if len(s.Remove)+len(s.Set) == 0 {
			s.Remove = []string{"$.x"}
		}
	case "ip_prefix":
		s.V4, s.V6 = rapid.IntRange(0, 32).Draw(t, "v4"), rapid.IntRange(0, 128).Draw(t, "v6")
	case "date_trunc":
		s.Unit = rapid.SampledFrom(dateUnits()).Draw(t, "unit")
	}
	return s
}

func anyJSON(t *rapid.T, depth int) string {
	kind := rapid.IntRange(0, 3).Draw(t, "json")
	if depth == 0 {
		kind %= 2
	}
	switch kind {
	case 0:
		return rapid.SampledFrom([]string{"null", "true", "false", "0", "-1.50", "1e6", "12345678901234567890"}).Draw(t, "literal")
	case 1:
		return jsonString(anyText(t, "string"))
	case 2:
		items := make([]string, rapid.IntRange(0, 3).Draw(t, "items"))
		for i := range items {
			items[i] = anyJSON(t, depth-1)
		}
		return "[" + strings.Join(items, ",") + "]"
	}
	var members []string
	for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b: c", "é", "", `"`, "\u0085", "null", strings.Repeat("\u2028", 100)}), 0, 3, rapid.ID).Draw(t, "keys") {
		members = append(members, jsonString(k)+":"+anyJSON(t, depth-1))
	}
	return "{" + strings.Join(members, ",") + "}"
}

func anyTable(t *rapid.T) Name { return Name{anyName(t, "schema"), anyName(t, "table")} }

func anyColumns(t *rapid.T, n int) []string {
	return rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) string { return anyName(t, "column") }), n, n, rapid.ID).Draw(t, "columns")
}

// anyFile draws rules that hold every promise of Parse's result.
func anyFile(t *rapid.T) *File {
	f := &File{Version: 1, Dataset: rapid.StringMatching(`[a-z0-9][a-z0-9_-]{0,9}`).Draw(t, "dataset"),
		Drift: rapid.SampledFrom([]string{"", "pass", "warn", "fail"}).Draw(t, "drift")}
	upTo := func(n int, what string) int { return rapid.IntRange(0, n).Draw(t, what) }
	subjectTables := map[Name]bool{}
	for i := range upTo(2, "subjects") {
		s := Subject{Type: fmt.Sprintf("t%d", i), Table: anyTable(t), Key: anyName(t, "key"), Lookup: anyColumns(t, upTo(2, "lookup"))}
		if !subjectTables[s.Table] {
			subjectTables[s.Table] = true
			f.Subjects = append(f.Subjects, s)
		}
	}
	seen := map[string]bool{}
	fresh := func(key string) bool {
		was := seen[key]
		seen[key] = true
		return !was
	}
	for range upTo(3, "references") {
		n := 1 + upTo(2, "more columns")
		r := Reference{Table: anyTable(t), Columns: anyColumns(t, n)}
		several := upTo(2, "more targets")
		for i := range 1 + several {
			target := Target{Table: anyTable(t), Columns: anyColumns(t, n)}
			if several > 0 || rapid.Bool().Draw(t, "when") {
				target.When = []Equal{{anyName(t, "when"), fmt.Sprint(i, anyText(t, "is"))}}
			}
			if n == 1 && rapid.Bool().Draw(t, "path") {
				target.Path = "$.a['b c'][0]"
			}
			r.Targets = append(r.Targets, target)
		}
		if fresh("r" + r.Table.String() + fmt.Sprint(len(f.References))) {
			f.References = append(f.References, r)
		}
	}
	for range upTo(4, "always") {
		a := Always{Schema: anyName(t, "schema"), Table: anyName(t, "table")}
		column, table := anyName(t, "column"), rapid.Bool().Draw(t, "whole table")
		if a.Glob = rapid.Bool().Draw(t, "glob"); a.Glob {
			a.Schema = rapid.SampledFrom([]string{"*", "public", escapePattern(a.Schema)}).Draw(t, "schema pattern")
			a.Table = rapid.SampledFrom([]string{"*", "log_?", escapePattern(a.Table)}).Draw(t, "table pattern")
			column = rapid.SampledFrom([]string{"*", "*_ip", escapePattern(column)}).Draw(t, "column pattern")
		}
		if a.Strategy = anyStrategy(t, strategyNames()[:9]...); table {
			a.Strategy, column = Strategy{Name: "no_rows"}, ""
		}
		a.Column = column
		if a.Glob && !strings.ContainsAny(strings.NewReplacer(`\*`, "", `\?`, "").Replace(strings.ReplaceAll(a.Schema+a.Table+a.Column, `\\`, "")), "*?") {
			continue // no wildcard in it
		}
		if fresh("a" + a.Schema + "\x00" + a.Table + "\x00" + a.Column) {
			f.Always = append(f.Always, a)
		}
	}
	for i := 0; i < len(f.Always); { // a rule on a column of a table without rows is a mistake
		a := f.Always[i]
		if _, dead := f.NoRows(a.Schema, a.Table); dead && !a.Glob && a.Column != "" {
			f.Always = append(f.Always[:i], f.Always[i+1:]...)
			continue
		}
		i++
	}
	for range upTo(3, "erase") {
		e := Erase{Table: anyTable(t), Reason: anyText(t, "reason")}
		if len(f.Subjects) > 0 && rapid.Bool().Draw(t, "own table") {
			e.Table = f.Subjects[0].Table
			e.Subject = rapid.Bool().Draw(t, "delete: true")
		}
		names := anyColumns(t, 8)
		verb := func() (list []Columns) {
			for range upTo(1, "references") {
				n := rapid.IntRange(1, 2).Draw(t, "columns")
				list, names = append(list, Columns{Names: names[:n]}), names[n:]
			}
			return list
		}
		e.Delete, e.Keep, e.Clear, e.Leave = verb(), verb(), verb(), verb()
		if !e.Subject && (len(e.Keep) > 0 || subjectTables[e.Table]) {
			for _, c := range anyColumns(t, upTo(3, "redact")) {
				e.Redact = append(e.Redact, ColumnStrategy{Column: c, Strategy: anyStrategy(t, "clear", "value", "unique_email", "mask", "regex", "json", "ip_prefix", "date_trunc")})
			}
		}
		if (e.Subject || len(e.Delete)+len(e.Keep)+len(e.Clear)+len(e.Leave)+len(e.Redact) > 0) && fresh("e"+e.Table.String()) {
			f.Erase = append(f.Erase, e)
		}
	}
	for i := range upTo(3, "requests") {
		if len(f.Subjects) == 0 {
			break
		}
		q := Request{Subject: f.Subjects[0].Type, Key: "k" + anyText(t, "key"), Ref: fmt.Sprintf("R-%d", i)}
		if rapid.Bool().Draw(t, "received") {
			q.Received = time.Date(2020+i, 2, 3, 0, 0, 0, 0, time.UTC)
		}
		f.Requests = append(f.Requests, q)
	}
	for range upTo(2, "categories") {
		if c := (Category{Table: anyTable(t), Column: anyName(t, "column"), Category: "user.contact"}); fresh("c" + referenceString(c.Table, []string{c.Column})) {
			f.Categories = append(f.Categories, c)
		}
	}
	for range upTo(2, "checks") {
		if v := (Vouch{Name: anyTable(t), Constraint: anyName(t, "constraint")}); fresh("v" + referenceString(v.Name, []string{v.Constraint})) {
			f.ChecksHold = append(f.ChecksHold, v)
		}
	}
	return f
}

// FuzzParse: no text makes the parser panic; an error is a list that says where; what reads once reads again from its
// own rendering, to the same rules; the JSON Schema accepts it.
func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	golden, err := os.ReadFile("testdata/mistakes.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range strings.Split(string(golden), "\n=== ")[1:] {
		_, text, _ := strings.Cut(c, "\n")
		text, _, _ = strings.Cut(text, "--- errors\n")
		f.Add([]byte(text))
	}
	f.Add([]byte("version: 1\ndataset: d\nalways: {? \"a.b\" : {json: {set: {$.a: {b: [1, ~, {c: \"\\u2028\"}]}}}}}"))
	f.Add([]byte("version: 1\ndataset: d\nalways:\n  ? |-\n    a.b\n  : {value: >-\n      folded\n      text\n    }\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		first, err := Parse("r.yml", text)
		if err != nil {
			es, ok := err.(Errors)
			if !ok || len(es) == 0 || first != nil {
				t.Fatalf("got %v, %#v", first, err)
			}
			for i, e := range es {
				if e.Msg == "" || e.Line == 0 || e.Col == 0 {
					t.Errorf("an error without its place: %+v", e)
				}
				if i > 0 && (e.Line < es[i-1].Line || e.Line == es[i-1].Line && e.Col < es[i-1].Col) {
					t.Errorf("errors out of order: %v", es)
				}
			}
			return
		}
		rendered := first.Marshal()
		again, err := Parse("r.yml", rendered)
		if err != nil {
			t.Fatalf("%v\n%s", err, rendered)
		}
		if !reflect.DeepEqual(content(first), content(again)) {
			t.Fatalf("reads back differently:\n%s\n%+v\n%+v", rendered, content(first), content(again))
		}
	})
}
