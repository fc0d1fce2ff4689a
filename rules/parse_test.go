package rules

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

// whole is a rules file with everything in it.
const whole = `version: 1
dataset: slipmat
subjects:
  user: {table: users, key: id, lookup: [email, username]}   # a request says user:<id>
references:
  audit_log.actor: users.id
  likes.target_id: [{to: users.id, when: {kind: User}}, {to: posts.id, when: {kind: Post, live: true}}]
  jobs.args: {to: users.id, path: $.user_id}
  "notes.(org_id, user_id)": "app.members.(org, id)"
always:
  users.reset_token: clear
  "*.last_ip": {ip_prefix: {v4: 16, v6: 48}}
  sessions: no_rows
  "analytics.*.*": no_rows
  "log_*.m?": mask
erase:
  users:       {redact: {email: unique_email, full_name: {value: Deleted user}, birthday: clear, prefs: {json: {remove: [$.email, $.ips]}}},
                clear: invited_by}
  messages:    {delete: sender_id, clear: recipient_id}
  attachments: {delete: message_id}
  memberships: {delete: [user_id], clear: [added_by], leave: [granted_by, "(org_id, team_id)"]}
  notes:       {delete: ["(org_id, user_id)"]}
  payments:    {keep: user_id, redact: {card_holder: clear, iban: clear}, reason: "Accounting Act, six years"}
  audit_log:   {delete: actor}
  '"Odd Schema"."Tab ""x"""': {delete: '"User Id"'}
requests:
  - {subject: "user:3f2c9a70-1:x", ref: GDPR-2026-014, received: 2026-11-20}
  - {subject: user:42, ref: GDPR-2026-015}
  - {subject: "user:42", ref: GDPR-2026-015}
drift: warn
categories: {users.email: user.contact.email}
checks_hold: [users.users_email_check, "app.email.email_check"]
`

func TestParseWhole(t *testing.T) {
	f, err := Parse("rules.yml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	users := Name{"public", "users"}
	want := &File{
		Path: "rules.yml", Text: []byte(whole), Version: 1, Dataset: "slipmat", Drift: "warn",
		Subjects: []Subject{{Type: "user", Table: users, Key: "id", Lookup: []string{"email", "username"}, Pos: Pos{4, 3}}},
		References: []Reference{
			{Name{"public", "audit_log"}, []string{"actor"}, []Target{{Table: users, Columns: []string{"id"}, Pos: Pos{6, 20}}}, Pos{6, 3}},
			{Name{"public", "likes"}, []string{"target_id"}, []Target{
				{Table: users, Columns: []string{"id"}, When: []Equal{{"kind", "User"}}, Pos: Pos{7, 21}},
				{Table: Name{"public", "posts"}, Columns: []string{"id"}, When: []Equal{{"kind", "Post"}, {"live", "true"}}, Pos: Pos{7, 57}},
			}, Pos{7, 3}},
			{Name{"public", "jobs"}, []string{"args"}, []Target{{Table: users, Columns: []string{"id"}, Path: "$.user_id", Pos: Pos{8, 14}}}, Pos{8, 3}},
			{Name{"public", "notes"}, []string{"org_id", "user_id"}, []Target{{Table: Name{"app", "members"}, Columns: []string{"org", "id"}, Pos: Pos{9, 30}}}, Pos{9, 3}},
		},
		Always: []Always{
			{Schema: "public", Table: "users", Column: "reset_token", Strategy: Strategy{Name: "clear", Pos: Pos{11, 22}}, Pos: Pos{11, 3}},
			{Schema: "*", Table: "*", Column: "last_ip", Glob: true, Strategy: Strategy{Name: "ip_prefix", V4: 16, V6: 48, Pos: Pos{12, 16}}, Pos: Pos{12, 3}},
			{Schema: "public", Table: "sessions", Strategy: Strategy{Name: "no_rows", Pos: Pos{13, 13}}, Pos: Pos{13, 3}},
			{Schema: "analytics", Table: "*", Glob: true, Strategy: Strategy{Name: "no_rows", Pos: Pos{14, 20}}, Pos: Pos{14, 3}},
			{Schema: "public", Table: "log_*", Column: "m?", Glob: true, Strategy: Strategy{Name: "mask", With: "*", Pos: Pos{15, 15}}, Pos: Pos{15, 3}},
		},
		Erase: []Erase{
			{Table: users, Clear: []Columns{{[]string{"invited_by"}, Pos{18, 24}}}, Pos: Pos{17, 3}, Redact: []ColumnStrategy{
				{"email", Strategy{Name: "unique_email", Pos: Pos{17, 33}}, Pos{17, 26}},
				{"full_name", Strategy{Name: "value", Value: "Deleted user", Pos: Pos{17, 58}}, Pos{17, 47}},
				{"birthday", Strategy{Name: "clear", Pos: Pos{17, 91}}, Pos{17, 81}},
				{"prefs", Strategy{Name: "json", Remove: []string{"$.email", "$.ips"}, Pos: Pos{17, 105}}, Pos{17, 98}},
			}},
			{Table: Name{"public", "messages"}, Delete: []Columns{{[]string{"sender_id"}, Pos{19, 25}}}, Clear: []Columns{{[]string{"recipient_id"}, Pos{19, 43}}}, Pos: Pos{19, 3}},
			{Table: Name{"public", "attachments"}, Delete: []Columns{{[]string{"message_id"}, Pos{20, 25}}}, Pos: Pos{20, 3}},
			{Table: Name{"public", "memberships"}, Delete: []Columns{{[]string{"user_id"}, Pos{21, 26}}}, Clear: []Columns{{[]string{"added_by"}, Pos{21, 44}}},
				Leave: []Columns{{[]string{"granted_by"}, Pos{21, 63}}, {[]string{"org_id", "team_id"}, Pos{21, 75}}}, Pos: Pos{21, 3}},
			{Table: Name{"public", "notes"}, Delete: []Columns{{[]string{"org_id", "user_id"}, Pos{22, 26}}}, Pos: Pos{22, 3}},
			{Table: Name{"public", "payments"}, Keep: []Columns{{[]string{"user_id"}, Pos{23, 23}}}, Reason: "Accounting Act, six years", Pos: Pos{23, 3}, Redact: []ColumnStrategy{
				{"card_holder", Strategy{Name: "clear", Pos: Pos{23, 54}}, Pos{23, 41}},
				{"iban", Strategy{Name: "clear", Pos: Pos{23, 67}}, Pos{23, 61}},
			}},
			{Table: Name{"public", "audit_log"}, Delete: []Columns{{[]string{"actor"}, Pos{24, 25}}}, Pos: Pos{24, 3}},
			{Table: Name{"Odd Schema", `Tab "x"`}, Delete: []Columns{{[]string{"User Id"}, Pos{25, 40}}}, Pos: Pos{25, 3}},
		},
		Requests: []Request{
			{Subject: "user", Key: "3f2c9a70-1:x", Ref: "GDPR-2026-014", Received: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC), Pos: Pos{27, 5}},
			{Subject: "user", Key: "42", Ref: "GDPR-2026-015", Pos: Pos{28, 5}},
		},
		Categories: []Category{{users, "email", "user.contact.email", Pos{31, 14}}},
		ChecksHold: []Vouch{{users, "users_email_check", Pos{32, 15}}, {Name{"app", "email"}, "email_check", Pos{32, 40}}},
	}
	if !reflect.DeepEqual(f, want) {
		g, w := reflect.ValueOf(*f), reflect.ValueOf(*want)
		for i := range g.NumField() {
			if name := g.Type().Field(i).Name; name != "Text" && !reflect.DeepEqual(g.Field(i).Interface(), w.Field(i).Interface()) {
				t.Errorf("%s:\n got %+v\nwant %+v", name, g.Field(i), w.Field(i))
			}
		}
	}
}

// listed is every mistake in text, one `line:col: message | hint` each.
func listed(t *testing.T, text string) string {
	t.Helper()
	_, err := Parse("r.yml", []byte(text))
	if err == nil {
		return ""
	}
	var es Errors
	if !errors.As(err, &es) {
		t.Fatalf("the error is a %T", err)
	}
	var lines []string
	for _, e := range es {
		lines = append(lines, fmt.Sprintf("%d:%d: %s | %s", e.Line, e.Col, e.Msg, e.Hint))
	}
	return strings.Join(lines, "\n")
}

func TestMistakes(t *testing.T) {
	golden, err := os.ReadFile("testdata/mistakes.txt")
	if err != nil {
		t.Fatal(err)
	}
	cases := strings.Split(string(golden), "\n=== ")[1:]
	for _, c := range cases {
		name, rest, _ := strings.Cut(c, "\n")
		text, want, ok := strings.Cut(rest, "--- errors\n")
		if !ok {
			t.Fatalf("case %q has no errors", name)
		}
		t.Run(name, func(t *testing.T) {
			got := listed(t, text)
			if got != strings.TrimSuffix(want, "\n") {
				t.Errorf("%s\ngot:\n%s\nwant:\n%s", text, got, want)
			}
			if strings.Contains(text, "SECRET") && strings.Contains(got, "SECRET") {
				t.Errorf("an error quotes the key of a subject:\n%s", got)
			}
		})
	}
}

func TestBytesThatAreNotYAML(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"not UTF-8", "version: 1\ndataset: d\n# caf\xe9\n", "3:6: the file is not valid UTF-8 here | save the file as UTF-8"},
		{"UTF-16", "\xff\xfev\x00", "1:1: the file is not valid UTF-8 here | save the file as UTF-8"},
		{"NUL", "version: 1\ndatas\x00et: d\n", "2:6: a control character (U+0000) can't stand in YAML | take it out; in double quotes it can be written as \\x.. or \\u...."},
		{"empty", "", "1:1: the file is empty | write at least `version: 1` and `dataset: NAME`"},
		{"too large", "version: 1\ndataset: d\n#" + strings.Repeat("x", 4<<20), "0:0: the file has 4194327 bytes, and at most 4194304 are read | a rules file is written by people; is this one?"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := listed(t, c.text); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// A file of a few hundred bytes that would expand to 10^9 nodes must be refused without expanding it.
func TestBillionLaughs(t *testing.T) {
	text := "version: 1\ndataset: d\nalways:\n  a0: &a0 [x]\n"
	for i := 1; i < 10; i++ {
		text += fmt.Sprintf("  a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	if got := listed(t, text); !strings.Contains(got, "aliases (*name) are not used in a rules file") {
		t.Errorf("got %s", got)
	}
}

func TestSmallestFile(t *testing.T) {
	for _, text := range []string{
		"version: 1\ndataset: d\n",
		"\xef\xbb\xbfversion: 1\r\ndataset: d\r\n",
		"{dataset: d, version: 1}",
		"---\nversion: 1\ndataset: d\nalways:\nerase:\nrequests:\nsubjects:\n", // sections with nothing in them
	} {
		f, err := Parse("r.yml", []byte(text))
		if err != nil || f.Dataset != "d" || f.Version != 1 {
			t.Errorf("%q: %v, %v", text, f, err)
		}
	}
}

func TestErrorText(t *testing.T) {
	_, err := Parse("etc/rules.yml", []byte("version: 1\ndataset: d\nalways:\n  users.email: claer\n  users: clear\n"))
	want := "etc/rules.yml:4:16: unknown strategy `claer`, did you mean `clear`?\n" +
		"  try: one of clear, value, unique_email, hmac, mask, regex, json, ip_prefix, date_trunc, no_rows\n" +
		"etc/rules.yml:5:3: `users` names a table, and this strategy is for columns\n" +
		"  try: write TABLE.COLUMN"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestStrategyArguments(t *testing.T) {
	for text, want := range map[string]Strategy{
		"clear":                              {Name: "clear"},
		"unique_email":                       {Name: "unique_email"},
		"{value: 42}":                        {Name: "value", Value: "42"},
		"{value: 1_0}":                       {Name: "value", Value: "1_0"},
		"{value: TRUE}":                      {Name: "value", Value: "TRUE"},
		"{value: 2020-01-01}":                {Name: "value", Value: "2020-01-01"},
		`{value: ""}`:                        {Name: "value"},
		`{value: "null"}`:                    {Name: "value", Value: "null"},
		"{value: {is: x}}":                   {Name: "value", Value: "x"},
		"{value: {is: 1, even_null: true}}":  {Name: "value", Value: "1", EvenNull: true},
		"{value: {is: 1, even_null: false}}": {Name: "value", Value: "1"},
		"hmac":                               {Name: "hmac"},
		"{hmac: {length: 16}}":               {Name: "hmac", Length: 16},
		"mask":                               {Name: "mask", With: "*"},
		`{mask: {keep_first: 1, keep_last: 2, with: "•"}}`: {Name: "mask", KeepFirst: 1, KeepLast: 2, With: "•"},
		"{mask: {with: 0}}":    {Name: "mask", With: "0"},
		"ip_prefix":            {Name: "ip_prefix", V4: 16, V6: 48},
		"{ip_prefix: {v4: 0}}": {Name: "ip_prefix", V4: 0, V6: 48},
		"{date_trunc: week}":   {Name: "date_trunc", Unit: "week"},
		`{regex: {match: '\d(?P<x>.)', replace: '${x}$1$$'}}`: {Name: "regex", Match: `\d(?P<x>.)`, Replace: "${x}$1$$"},
		`{json: {remove: $.a}}`:                               {Name: "json", Remove: []string{"$.a"}},
		`{json: {remove: ["$.a[*].b_c", "$['odd key']", $.*], set: {$.z: 1, $.a: null, "$[0]": {k: [1.50, TRUE, "<é>", 2020-01-01]}}}}`: {Name: "json",
			Remove: []string{"$.a[*].b_c", "$['odd key']", "$.*"},
			Set:    []JSONSet{{"$.z", "1"}, {"$.a", "null"}, {"$[0]", `{"k":[1.50,true,"<é>","2020-01-01"]}`}}},
	} {
		f, err := Parse("r.yml", []byte("version: 1\ndataset: d\nalways: {a.b: "+text+"}"))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := f.Always[0].Strategy; !got.Equal(want) {
			t.Errorf("%s: got %+v, want %+v", text, got, want)
		}
	}
}

func TestEraseTrueAndReferences(t *testing.T) {
	f, err := Parse("r.yml", []byte(`{version: 1, dataset: d, subjects: {u: {table: users, key: id}}, erase: {users: {delete: [true, boss, '"true"'], clear: "(a, b)"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	e := f.Erase[0]
	if !e.Subject || len(e.Delete) != 2 || e.Delete[0].String() != "boss" || e.Delete[1].String() != "true" || e.Clear[0].String() != "(a, b)" {
		t.Errorf("got %+v", e)
	}
}

// Every YAML block of the reference parses: a whole file as it is, a part of one below a head.
func TestReferenceExamples(t *testing.T) {
	doc, err := os.ReadFile("../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(doc), "```yaml\n")[1:]
	for _, block := range blocks {
		text, _, _ := strings.Cut(block, "```")
		switch first, _, _ := strings.Cut(text, "\n"); {
		case strings.HasPrefix(first, "version:"):
		case strings.HasPrefix(first, "  users."):
			text = "version: 1\ndataset: d\nalways:\n" + text
		case strings.HasPrefix(first, "  '"):
			text = "version: 1\ndataset: d\nerase:\n" + text
		case strings.HasPrefix(first, "requests:"):
			text = "version: 1\ndataset: d\nsubjects: {user: {table: users, key: id}}\n" + text
		default:
			text = "version: 1\ndataset: d\n" + text
		}
		if _, err := Parse("docs/rules.md", []byte(text)); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	}
	if len(blocks) < 8 {
		t.Errorf("only %d examples", len(blocks))
	}
	for _, word := range append(append(fileKeys(), strategyNames()...), eraseKeys()...) {
		if !strings.Contains(string(doc), "`"+word) && !strings.Contains(string(doc), "{"+word+":") {
			t.Errorf("the reference does not tell of %s", word)
		}
	}
}
