package pipeline_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/store"
	"lethe/pipeline/store/storetest"
	"lethe/rules"
)

// signed is a key holder's signing key.
func signed(t testing.TB) *archive.SigningKey {
	t.Helper()
	key, err := archive.GenerateSigner()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// recordAll puts the requests of a rules text into the ledger of stores.
func (s *site) recordAll(text string, stores ...store.Store) {
	s.t.Helper()
	f, err := rules.Parse("rules.yml", []byte(text))
	if err != nil {
		s.t.Fatal(err)
	}
	var orders []pipeline.NewRequest
	for _, r := range f.Requests {
		orders = append(orders, pipeline.NewRequest{Subject: r.Subject, Key: r.Key, Ref: r.Ref, Received: r.Received})
	}
	if len(orders) == 0 {
		return
	}
	report, err := s.record(orders, stores...)
	if err != nil {
		s.t.Fatal(err)
	}
	if failed := report.Failed(); len(failed) > 0 {
		s.t.Fatal(failed)
	}
}

// ledger is the ledger of a store, as a key holder reads it.
func (s *site) ledger(in store.Store) *pipeline.Ledger {
	s.t.Helper()
	l, err := pipeline.OpenLedger(context.Background(), s.openAt(in), s.holder, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

// withoutRequests is a rules text without its requests, which stand last.
func withoutRequests(text string) string {
	text, _, _ = strings.Cut(text, "\nrequests:")
	return text + "\n"
}

// purging is a purge of what a store holds, with nothing of the operator's.
func (s *site) purging(signer *archive.SigningKey, stores ...store.Store) pipeline.PurgeConfig {
	s.t.Helper()
	c := pipeline.PurgeConfig{Identities: s.holder, Signer: signer, Workers: 2, Now: time.Now,
		Confirm: func(context.Context, *pipeline.PurgePlan) error { return nil }, Warn: func(msg string) { s.heard.say(msg) }}
	for _, in := range stores {
		r, err := pipeline.OpenRepository(context.Background(), in, archive.NewTrust(s.operator.Public(), signer.Public()))
		if err != nil {
			s.t.Fatal(err)
		}
		c.Repositories = append(c.Repositories, r)
	}
	return c
}

func purge(t testing.TB, c pipeline.PurgeConfig) *pipeline.PurgeReport {
	t.Helper()
	report, err := pipeline.Purge(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// rowsIn is what a snapshot restores to, by COPY statement and sorted; under "" stands everything else, in order.
func (s *site) rowsIn(in store.Store, snapshot string, signer ...archive.PublicKey) map[string][]string {
	s.t.Helper()
	rows, _ := s.restored(in, snapshot, false, signer...)
	return rows
}

// replayed is rowsIn of a restore that replays the ledger.
func (s *site) replayed(in store.Store, snapshot string, signer ...archive.PublicKey) (map[string][]string, *pipeline.RestoreReport) {
	s.t.Helper()
	return s.restored(in, snapshot, true, signer...)
}

func (s *site) restored(in store.Store, snapshot string, replay bool, signer ...archive.PublicKey) (map[string][]string, *pipeline.RestoreReport) {
	s.t.Helper()
	r, err := pipeline.OpenRepository(context.Background(), in, archive.NewTrust(append(signer, s.operator.Public())...))
	if err != nil {
		s.t.Fatal(err)
	}
	var out bytes.Buffer
	report, err := pipeline.Restore(context.Background(), pipeline.RestoreConfig{Repository: r, Snapshot: snapshot, Identities: s.holder, Output: &out,
		WithoutLedger: !replay, CreateRoles: true, Workers: 2, Now: time.Now})
	if err != nil {
		s.t.Fatal(err)
	}
	all := map[string][]string{}
	table := ""
	for line := range strings.Lines(out.String()) {
		switch {
		case table == "" && strings.HasPrefix(line, "COPY "):
			table = line
		case table != "" && line == "\\.\n":
			table = ""
		default:
			all[table] = append(all[table], line)
		}
	}
	for name := range all {
		if name != "" {
			slices.Sort(all[name])
		}
	}
	return all, report
}

func sameRows(t testing.TB, what string, want, got map[string][]string) {
	t.Helper()
	for name := range maps.Keys(got) {
		if want[name] == nil {
			t.Errorf("%s: %q has %d lines, and should have none", what, name, len(got[name]))
		}
	}
	for name, lines := range want {
		if !slices.Equal(lines, got[name]) {
			a, b := apart(got[name], lines)
			t.Errorf("%s: %q: %d lines, want %d, or other ones:\n got %.600q\nwant %.600q", what, name, len(got[name]), len(lines), a, b)
		}
	}
}

// apart is two lists without what they begin and end with alike.
func apart(a, b []string) ([]string, []string) {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return a, b
}

// What is purged from a snapshot is what a backup with the same requests never stores.
func TestPurgeIsBackupWithRequests(t *testing.T) {
	s := newSite(t, peopleAndPosts)
	s.rules = withoutRequests(peopleRules)
	old := s.backup()
	s.recordAll(peopleRules, s.store)
	signer := signed(t)
	want := s.backup()
	before := s.manifest(s.open(), old, s.holder)
	report := purge(t, s.purging(signer, s.store))
	if len(report.Stores[0].Successors) != 1 {
		t.Fatalf("%+v", report)
	}
	next := report.Stores[0].Successors[0].New
	sameRows(t, "purged", s.rowsIn(s.store, want), s.rowsIn(s.store, next, signer.Public()))

	m := s.manifest(s.open(s.operator.Public(), signer.Public()), next, s.holder)
	if len(m.Supersedes) != 1 || m.Supersedes[0].ID != old || m.Ledger == nil || *m.Ledger != *s.ledger(s.store).Head() || !m.Started.Equal(before.Started) || m.Erasure != 3 {
		t.Errorf("supersedes %v, ledger %v, started %v, %d erasures", m.Supersedes, m.Ledger, m.Started, m.Erasure)
	}
	for _, p := range m.Parts {
		was := before.Parts[slices.IndexFunc(before.Parts, func(q archive.Part) bool { return q.Kind == p.Kind && q.Name == p.Name })]
		same := func(o archive.Object) bool { return slices.Contains(was.Objects, o) }
		if n := len(slices.DeleteFunc(slices.Clone(p.Objects), same)); p.Kind == archive.Table && p.Dropped+p.Redacted+p.Cleared == 0 && n > 0 {
			t.Errorf("%s: nothing of it changes, and %d objects are new", p.Name, n)
		}
		if p.Kind == archive.Table && p.Rows+p.Dropped != was.Rows+was.Dropped {
			t.Errorf("%s: %d rows and %d dropped, from %d and %d", p.Name, p.Rows, p.Dropped, was.Rows, was.Dropped)
		}
	}
	if len(report.Stores[0].Successors) != 1 || report.Stores[0].Clean != 1 {
		t.Errorf("%+v", report.Stores[0])
	}
	if check := s.check(s.open(s.operator.Public(), signer.Public()), 1); len(check.Problems) > 0 || check.Unnamed > 0 {
		t.Errorf("%+v", check)
	}

	files := names(t, s.store, "")
	again := purge(t, s.purging(signer, s.store))
	if len(again.Stores[0].Successors) > 0 || again.Plan.Rows > 0 || !slices.Equal(names(t, s.store, ""), files) {
		t.Errorf("purged again: %+v", again)
	}
}

// grepped is the rows of a snapshot that hold a text, by table.
func grepped(rows map[string][]string, text string) map[string]int {
	found := map[string]int{}
	for header, lines := range rows {
		for _, line := range lines {
			if strings.Contains(line, text) {
				name := header
				if header != "" {
					name = strings.Split(header, `"`)[3]
				}
				found[name]++
			}
		}
	}
	return found
}

const twoTables = `CREATE TABLE users (id int PRIMARY KEY, name text);
CREATE TABLE posts (id int PRIMARY KEY, user_id int REFERENCES users ON DELETE CASCADE, body text);
CREATE TABLE comments (id int PRIMARY KEY, post_id int NOT NULL REFERENCES posts ON DELETE CASCADE, body text);
INSERT INTO users SELECT i, 'name ' || i FROM generate_series(1, 20) i;
INSERT INTO posts SELECT i, i, 'post by ' || i || '.' FROM generate_series(1, 20) i;
INSERT INTO comments SELECT i, i, 'comment on ' || i || '.' FROM generate_series(1, 20) i;`

const twoTablesRules = `
version: 1
dataset: slipmat
drift: pass
subjects: {user: {table: users, key: id}}
erase:
  users: {redact: {name: {value: nobody}}}
requests:
  - {subject: "user:7", ref: R-1}
`

// Each snapshot is judged by its own rows: a post that has another author by now stays where it has, with the comments on
// it, although the comments' piece is the same as where they go.
func TestPurgeJudgesEachSnapshotByItself(t *testing.T) {
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	s.backup()
	s.sql("UPDATE posts SET user_id = 8 WHERE id = 7")
	s.backup()
	s.recordAll(twoTablesRules, s.store)
	signer := signed(t)
	report := purge(t, s.purging(signer, s.store))
	var got []int
	for _, next := range report.Stores[0].Successors {
		rows := s.rowsIn(s.store, next.New, signer.Public())
		got = append(got, grepped(rows, "post by 7.")["posts"], grepped(rows, "comment on 7.")["comments"], grepped(rows, "name 7")["users"])
	}
	if want := []int{0, 0, 0, 1, 1, 0}; !slices.Equal(got, want) {
		t.Errorf("posts, comments and names in each snapshot: %v, want %v", got, want)
	}
	if report.Plan.Rows != 3 || len(report.Plan.Tables) != 3 || report.Plan.Rewritten != 2 {
		t.Errorf("%+v", report.Plan)
	}
}

// A schema that has changed between snapshots: tables and columns that are new, renamed or gone, keys that came and went.
func TestPurgeOfOtherSchemas(t *testing.T) {
	s := newSite(t, twoTables+`
		CREATE TABLE old_notes (id int PRIMARY KEY, about int REFERENCES users, text text); INSERT INTO old_notes SELECT i, i, 'note about ' || i || '.' FROM generate_series(1, 20) i;
		CREATE TABLE visits (id int PRIMARY KEY, visitor int, page text); INSERT INTO visits SELECT i, i, 'page of ' || i || '.' FROM generate_series(1, 20) i;
		CREATE TABLE sessions (id int PRIMARY KEY, user_id int NOT NULL REFERENCES users, token text); INSERT INTO sessions SELECT i, i, 'token of ' || i || '.' FROM generate_series(1, 20) i;
		ALTER TABLE users ADD full_name text; UPDATE users SET full_name = 'full name ' || id || '.'`)
	s.rules = `
version: 1
dataset: slipmat
drift: pass
subjects: {user: {table: users, key: id}}
erase:
  users: {redact: {name: {value: nobody}, full_name: {value: nobody}}}
  old_notes: {delete: about}
  sessions: {delete: user_id}
`
	s.backup()
	s.sql(`DROP TABLE old_notes; ALTER TABLE users RENAME full_name TO known_as; ALTER TABLE visits ADD FOREIGN KEY (visitor) REFERENCES users ON DELETE CASCADE;
		CREATE TABLE stories (id int PRIMARY KEY, author int REFERENCES users, text text); INSERT INTO stories SELECT i, i, 'story of ' || i || '.' FROM generate_series(1, 20) i`)
	today := `
version: 1
dataset: slipmat
drift: pass
subjects: {user: {table: users, key: id}}
always:
  sessions: no_rows
erase:
  users: {redact: {name: {value: nobody}, known_as: {value: nobody}}}
  stories: {delete: author}
requests:
  - {subject: "user:7", ref: R-1}
`
	s.rules = withoutRequests(today)
	s.backup()
	s.recordAll(today, s.store)
	signer := signed(t)
	report := purge(t, s.purging(signer, s.store))
	for i, next := range report.Stores[0].Successors {
		rows := s.rowsIn(s.store, next.New, signer.Public())
		for _, text := range []string{"post by 7.", "comment on 7.", "note about 7.", "page of 7.", "token of 7.", "full name 7.", "story of 7.", "name 7\t"} {
			if found := grepped(rows, text); len(found) > 0 {
				t.Errorf("snapshot %d: %q is in %v", i, text, found)
			}
			other := strings.Replace(text, "7", "8", 1)
			wanted := 1
			if i == 0 && text == "story of 7." || i == 1 && (text == "note about 7." || text == "token of 7.") {
				wanted = 0
			}
			if found := grepped(rows, other); len(found) != wanted {
				t.Errorf("snapshot %d: %q is in %v", i, other, found)
			}
		}
		m := s.manifest(s.open(s.operator.Public(), signer.Public()), next.New, s.holder)
		if by := archive.Digest([]byte(s.rules)); m.Rules.ErasedBy() != by || (m.Rules.Erased == "") != (i == 1) {
			t.Errorf("snapshot %d: erased by %s, today's rules are %s", i, m.Rules.Erased, by)
		}
	}
	if again := purge(t, s.purging(signer, s.store)); again.Plan.Rows > 0 || len(again.Stores[0].Successors) > 0 {
		t.Errorf("purged again: %+v", again.Plan)
	}
}

// Rules that were changed after a purge decide anew about everybody, also in snapshots that had honoured the request.
func TestPurgeByRulesThatChanged(t *testing.T) {
	s := newSite(t, twoTables+"ALTER TABLE users ADD motto text; UPDATE users SET motto = 'motto ' || id || '.'")
	s.rules = withoutRequests(twoTablesRules)
	s.backup()
	s.recordAll(twoTablesRules, s.store)
	signer := signed(t)
	first := purge(t, s.purging(signer, s.store)).Stores[0].Successors[0].New
	if n := len(grepped(s.rowsIn(s.store, first, signer.Public()), "motto 7.")); n != 1 {
		t.Fatalf("the motto, which no rule names, is in %d tables", n)
	}
	notes := func() string {
		t.Helper()
		list, err := pipeline.ListErasures(context.Background(), pipeline.ErasuresConfig{Repositories: s.purging(signer, s.store).Repositories, Readers: s.holder, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		if stage := list.Requests[0].Stage; stage != pipeline.Purged {
			t.Errorf("the request is %s", stage)
		}
		return strings.Join(list.Notes, "\n")
	}
	if said := notes(); said != "" {
		t.Errorf("the list says %q", said)
	}
	s.rules = strings.Replace(s.rules, "{value: nobody}", "{value: nobody}, motto: clear", 1)
	s.backup()
	if said := notes(); !strings.HasPrefix(said, "1 of 2 snapshots in ") || !strings.Contains(said, "by other rules than the newest") {
		t.Errorf("the list says %q of a snapshot that other rules were for", said)
	}
	report := purge(t, s.purging(signer, s.store))
	if said := notes(); said != "" {
		t.Errorf("after the next purge the list says %q", said)
	}
	if len(report.Stores[0].Successors) != 1 || report.Stores[0].Clean != 1 {
		t.Fatalf("%+v", report.Stores[0])
	}
	for _, name := range manifests(t, s.store) {
		id, _ := archive.SnapshotOf(name)
		if found := grepped(s.rowsIn(s.store, id, signer.Public()), "motto 7."); len(found) > 0 {
			t.Errorf("%s: the motto is in %v", id, found)
		}
	}
	// What was redacted already is not touched again.
	if report.Plan.Rows != 1 {
		t.Errorf("%+v", report.Plan.Tables)
	}
}

// Where today's rules leave it open what happens in an older snapshot, nothing is purged, and the error says which
// snapshot and what is open; a rules file for such snapshots decides.
func TestPurgeUndecided(t *testing.T) {
	s := newSite(t, twoTables+`CREATE TABLE notes (id int PRIMARY KEY, about int REFERENCES users); INSERT INTO notes SELECT i, i FROM generate_series(1, 20) i`)
	s.rules = plainRules // which know nobody to erase
	old := s.backup()
	s.sql("DROP TABLE notes")
	s.rules = withoutRequests(twoTablesRules)
	s.backup()
	s.recordAll(twoTablesRules, s.store)
	signer := signed(t)
	before := names(t, s.store, "")
	c := s.purging(signer, s.store)
	_, err := pipeline.Purge(context.Background(), c)
	if !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), old) || !strings.Contains(err.Error(), "nobody has decided what erasing does to notes through about") {
		t.Errorf("error %v", err)
	}
	if after := names(t, s.store, ""); !slices.Equal(before, after) {
		t.Errorf("it wrote: %v", after)
	}
	if c.Rules, err = rules.Parse("old.yml", []byte(strings.Replace(withoutRequests(twoTablesRules), "erase:", "erase:\n  notes: {clear: about}", 1))); err != nil {
		t.Fatal(err)
	}
	report := purge(t, c)
	rows := s.rowsIn(s.store, report.Stores[0].Successors[0].New, signer.Public())
	if n := grepped(rows, "7\t\\N\n")["notes"]; n != 1 {
		t.Errorf("%d notes are cut", n)
	}
}

// Keys that the snapshot's own rules have rewritten are looked for as they are stored.
func TestPurgeOfRewrittenKeys(t *testing.T) {
	s := newSite(t, `CREATE TABLE users (id uuid PRIMARY KEY, name text);
		CREATE TABLE posts (id int PRIMARY KEY, user_id uuid REFERENCES users ON DELETE CASCADE, body text);
		INSERT INTO users SELECT ('00000000-0000-0000-0000-0000000000' || i)::uuid, 'name ' || i FROM generate_series(10, 30) i;
		INSERT INTO posts SELECT i, ('00000000-0000-0000-0000-0000000000' || i)::uuid, 'post by ' || i || '.' FROM generate_series(10, 30) i`)
	text := `
version: 1
dataset: slipmat
drift: pass
subjects: {user: {table: users, key: id}}
erase:
  users: {redact: {name: {value: nobody}}}
requests:
  - {subject: "user:00000000-0000-0000-0000-000000000017", ref: R-1}
`
	s.rules = strings.Replace(withoutRequests(text), "erase:", "always: {users.id: hmac}\nerase:", 1)
	s.backup()
	s.rules = withoutRequests(text) // and of one kind beside the other
	s.backup()
	s.recordAll(text, s.store)
	signer := signed(t)
	report := purge(t, s.purging(signer, s.store))
	if len(report.Stores[0].Successors) != 2 || !report.Plan.Requests[0].Found {
		t.Fatalf("%+v", report.Plan)
	}
	for _, next := range report.Stores[0].Successors {
		rows := s.rowsIn(s.store, next.New, signer.Public())
		if found := grepped(rows, "17."); len(found) > 0 || len(grepped(rows, "name 17")) > 0 {
			t.Errorf("%s: %v", next.New, found)
		}
		if n := grepped(rows, "post by ")["posts"]; n != 20 {
			t.Errorf("%s: %d posts are left", next.New, n)
		}
	}
}

// A dry run looks and says. Nothing is written without a yes, and nothing where a run holds the store.
func TestPurgeAsks(t *testing.T) {
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	s.backup()
	s.recordAll(twoTablesRules, s.store)
	signer := signed(t)
	before := names(t, s.store, "")
	unchanged := func(what string) {
		t.Helper()
		if after := names(t, s.store, ""); !slices.Equal(before, after) {
			t.Errorf("%s: it wrote %v", what, after)
		}
	}
	c := s.purging(signer, s.store)
	c.DryRun, c.Signer = true, nil
	c.Confirm = func(context.Context, *pipeline.PurgePlan) error { t.Error("it asked"); return nil }
	faulty := storetest.NewFaulty(s.store)
	var err error
	if c.Repositories[0], err = pipeline.OpenRepository(context.Background(), faulty, archive.NewTrust(s.operator.Public())); err != nil {
		t.Fatal(err)
	}
	report := purge(t, c)
	unchanged("dry run")
	if puts := faulty.Calls(storetest.Put, ""); len(puts) > 0 {
		t.Errorf("a dry run put %v", puts)
	}
	plan := report.Plan
	text, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	if want := `"tables":[{"table":"comments","rows":20,"snapshots":1,"deleted":1,"redacted":0,"cleared":0,"others":0},{"table":"posts","rows":20,"snapshots":1,"deleted":1,"redacted":0,"cleared":0,"others":0},{"table":"users","rows":20,"snapshots":1,"deleted":0,"redacted":1,"cleared":0,"others":0}],"rows":3,"snapshots":1,"rewritten":1`; !strings.Contains(string(text), want) {
		t.Errorf("%s\nholds not\n%s", text, want)
	}
	if strings.Contains(string(text), `"7"`) {
		t.Errorf("the plan names the person: %s", text)
	}
	if want := []string{"5 % of the people in users", "5 % of the rows of comments", "5 % of the rows of posts", "5 % of the rows of users"}; !slices.Equal(plan.Beyond, want) {
		t.Errorf("%q is beyond what erasing takes", plan.Beyond)
	}

	c = s.purging(signer, s.store)
	no := errors.New("no")
	c.Confirm = func(context.Context, *pipeline.PurgePlan) error { return no }
	if _, err := pipeline.Purge(context.Background(), c); !errors.Is(err, no) {
		t.Errorf("error %v", err)
	}
	unchanged("no")

	var during, backup error
	c.Confirm = func(context.Context, *pipeline.PurgePlan) error {
		_, during = pipeline.Purge(context.Background(), s.purging(signer, s.store))
		_, backup = pipeline.Backup(context.Background(), s.config(s.store))
		return no
	}
	if _, err := pipeline.Purge(context.Background(), c); !errors.Is(err, no) {
		t.Errorf("error %v", err)
	}
	if !errors.Is(during, pipeline.ErrLocked) || !errors.Is(backup, pipeline.ErrLocked) {
		t.Errorf("while a purge runs: a purge: %v; a backup: %v", during, backup)
	}
	unchanged("locked")
}

// What a snapshot has lost the owner of is found by what another one knows: a picture, by a reference that no foreign key
// holds, of a post that is gone by then. A post that has another owner by then keeps its picture.
func TestPurgeUnitesKeys(t *testing.T) {
	s := newSite(t, twoTables+`CREATE TABLE pictures (id int PRIMARY KEY, kind text, record int, data text);
		INSERT INTO pictures SELECT i, 'post', i, 'picture of post ' || i || '.' FROM generate_series(1, 20) i; INSERT INTO pictures SELECT 100 + i, 'user', i, 'picture of user ' || i || '.' FROM generate_series(1, 20) i;
		INSERT INTO posts VALUES (107, 7, 'second post by 7.'); INSERT INTO pictures VALUES (107107, 'post', 107, 'second picture of 7.')`)
	text := strings.Replace(twoTablesRules, "erase:", "references:\n  pictures.record: [{to: posts.id, when: {kind: post}}, {to: users.id, when: {kind: user}}]\nerase:\n  pictures: {delete: record}", 1)
	s.rules = withoutRequests(text)
	s.backup()
	s.sql("DELETE FROM posts WHERE id = 7; UPDATE posts SET user_id = 8 WHERE id = 107")
	s.backup()
	s.sql("ALTER TABLE posts ADD later int") // another schema
	s.backup()
	s.recordAll(text, s.store)
	signer := signed(t)
	report := purge(t, s.purging(signer, s.store))
	for i, next := range report.Stores[0].Successors {
		rows := s.rowsIn(s.store, next.New, signer.Public())
		second := 1
		if i == 0 {
			second = 0
		}
		if found := grepped(rows, "picture of post 7."); len(found) > 0 {
			t.Errorf("snapshot %d: the picture of a post that is gone is in %v", i, found)
		}
		if n := grepped(rows, "second picture of 7.")["pictures"]; n != second {
			t.Errorf("snapshot %d: the picture of the post that has gone to somebody else is there %d times", i, n)
		}
		if n := grepped(rows, "picture of ")["pictures"]; n != 38+second {
			t.Errorf("snapshot %d: %d pictures are left", i, n)
		}
	}
	if again := purge(t, s.purging(signer, s.store)); again.Plan.Rows > 0 {
		t.Errorf("purged again: %+v", again.Plan)
	}
}

// A backup can't know whose the picture of a post is that is gone from the database; while another snapshot does, the key
// holder is told that the database has it still.
func TestPurgeTellsWhatTheDatabaseHasLeft(t *testing.T) {
	s := newSite(t, twoTables+`CREATE TABLE pictures (id int PRIMARY KEY, post int, data text);
		INSERT INTO pictures SELECT i, i, 'picture of post ' || i || '.' FROM generate_series(1, 20) i;`)
	text := strings.Replace(twoTablesRules, "erase:", "references:\n  pictures.post: posts.id\nerase:\n  pictures: {delete: post}", 1)
	s.rules = withoutRequests(text)
	s.backup()
	s.recordAll(text, s.store)
	s.backup()
	signer := signed(t)
	c := s.purging(signer, s.store)
	c.DryRun = true
	if report := purge(t, c); len(report.Plan.Remarks) > 0 {
		t.Errorf("%q, and the second snapshot has nothing", report.Plan.Remarks)
	}
	s.sql("DELETE FROM posts WHERE id = 7")
	s.backup()
	report := purge(t, s.purging(signer, s.store))
	if report.Plan.Rewritten != 2 || len(report.Plan.Remarks) != 1 || !strings.Contains(report.Plan.Remarks[0], "has rows of theirs in pictures, as only other snapshots can tell") {
		t.Errorf("%d snapshots change, and what is said is %q", report.Plan.Rewritten, report.Plan.Remarks)
	}
}

// A snapshot says who can read it, and for them a purge would seal what it writes anew. Whoever wrote the snapshot may
// have named somebody of their own, so all but the key holder's own are named before anything is written.
func TestPurgeNamesRecipients(t *testing.T) {
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	own := s.to
	if s.to, err = archive.ParseRecipients([]string{s.public, stranger.Recipient().String()}, ""); err != nil {
		t.Fatal(err)
	}
	s.backup()
	s.to = own
	s.recordAll(twoTablesRules, s.store)
	s.backup()
	c := s.purging(signed(t), s.store)
	no := errors.New("no")
	c.Confirm = func(_ context.Context, p *pipeline.PurgePlan) error {
		if !slices.Equal(p.Recipients, []string{stranger.Recipient().String()}) {
			t.Errorf("recipients %v", p.Recipients)
		}
		return no
	}
	if _, err := pipeline.Purge(context.Background(), c); !errors.Is(err, no) {
		t.Errorf("error %v", err)
	}
}

// A purge begins only where every manifest can be read and believed, and the ledger is whole; nothing is written before.
func TestPurgeRefusesWhatItCantBelieve(t *testing.T) {
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	first := s.backup()
	s.recordAll(twoTablesRules, s.store)
	s.backup()
	signer := signed(t)
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := archive.ParseIdentities("other.txt", []byte(other.String()+"\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	before := names(t, s.store, "")
	for what, harm := range map[string]func(faulty *storetest.Faulty, c *pipeline.PurgeConfig){
		"a manifest is damaged": func(f *storetest.Faulty, _ *pipeline.PurgeConfig) {
			f.Add(storetest.Rule{On: storetest.Get, Name: archive.ManifestName(first), Fault: storetest.FlipByte(-20)})
		},
		"a manifest has no signature": func(f *storetest.Faulty, _ *pipeline.PurgeConfig) {
			f.Add(storetest.Rule{Name: archive.ManifestName(first) + archive.SignatureSuffix, Fault: storetest.Lose()})
		},
		"a snapshot is not listed": func(f *storetest.Faulty, _ *pipeline.PurgeConfig) {
			f.Add(storetest.Rule{On: storetest.List, Name: archive.ManifestName(first), Fault: storetest.Hide()})
		},
		"a record of the ledger is gone": func(f *storetest.Faulty, _ *pipeline.PurgeConfig) {
			f.Add(storetest.Rule{Name: archive.RecordName(1), Fault: storetest.Lose()})
		},
		"an object is missing": func(f *storetest.Faulty, _ *pipeline.PurgeConfig) {
			m := s.manifest(s.open(), first, s.holder)
			f.Add(storetest.Rule{On: storetest.Get, Name: archive.ObjectName(table(t, m, "users").Objects[0].Object), Fault: storetest.Lose()})
		},
		"an object is another one": func(f *storetest.Faulty, _ *pipeline.PurgeConfig) {
			m := s.manifest(s.open(), first, s.holder)
			f.Add(storetest.Rule{On: storetest.Get, Name: archive.ObjectName(table(t, m, "users").Objects[0].Object),
				Fault: storetest.Replace(s.read(archive.ObjectName(table(t, m, "posts").Objects[0].Object)))})
		},
		"the identity is nobody's here": func(_ *storetest.Faulty, c *pipeline.PurgeConfig) { c.Identities = stranger },
		"nobody trusts the operator": func(f *storetest.Faulty, c *pipeline.PurgeConfig) {
			c.Repositories[0], err = pipeline.OpenRepository(context.Background(), f, archive.NewTrust(signer.Public()))
			if err != nil {
				t.Fatal(err)
			}
		},
		"a request that is not there": func(_ *storetest.Faulty, c *pipeline.PurgeConfig) { c.Only = []string{"R-1", "R-9"} },
		"a ledger that should be longer": func(_ *storetest.Faulty, c *pipeline.PurgeConfig) {
			c.Expect = &archive.LedgerHead{Sequence: 9, Digest: archive.Digest(nil)}
		},
	} {
		t.Run(what, func(t *testing.T) {
			faulty := storetest.NewFaulty(s.store)
			c := s.purging(signer, faulty)
			c.Confirm = func(context.Context, *pipeline.PurgePlan) error { t.Error("it asked"); return nil }
			harm(faulty, &c)
			if _, err := pipeline.Purge(context.Background(), c); !errors.Is(err, pipeline.ErrIntegrity) && !errors.Is(err, archive.ErrNoIdentity) && !errors.Is(err, pipeline.ErrConfig) {
				t.Errorf("error %v", err)
			}
			if after := names(t, s.store, ""); !slices.Equal(before, after) {
				t.Errorf("it wrote or left %v", after)
			}
		})
	}
}

// keeping is a store that goes on keeping what was deleted, and that does not let everybody look.
type keeping struct {
	store.Store
	old     error
	deleted []string // prefixes
}

func (k *keeping) DeleteOld(_ context.Context, prefix string) (int, []store.Kept, error) {
	k.deleted = append(k.deleted, prefix)
	return 0, nil, nil
}

func (k *keeping) Old(context.Context, string, func(time.Time)) error { return k.old }

// Where the operator may not see whether a store keeps deleted files, a purge that finds none there says so, also where
// it has nothing to do: else no request could ever be closed.
func TestPurgeTellsThatNothingIsKept(t *testing.T) {
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	signer := signed(t)
	in := &keeping{Store: s.store, old: errBroken}
	for n, ref := range []string{"R-1", "R-2"} {
		if _, err := s.record([]pipeline.NewRequest{order(7+n, ref)}, s.store); err != nil {
			t.Fatal(err)
		}
		s.backup()
		if n == 1 { // the snapshot from before R-2
			s.remove(manifests(t, s.store)[0], manifests(t, s.store)[0]+archive.SignatureSuffix)
			purge(t, s.purging(signer, s.store)) // sweeps what it alone named
		}
		for range 2 {
			if report := purge(t, s.purging(signer, in)); len(report.Stores[0].Successors) > 0 {
				t.Fatalf("%+v", report)
			}
		}
		list, err := pipeline.ListErasures(context.Background(), pipeline.ErasuresConfig{Repositories: s.purging(signer, in).Repositories, Readers: s.operator.Identities(), Retention: weekly, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		if waits := strings.Join(list.Requests[n].Waits, "; "); strings.Contains(waits, "is not known") {
			t.Errorf("%s waits: %s", ref, waits)
		}
		if told := names(t, s.store, archive.AccountsPrefix); len(told) > 2*(2*n+1) {
			t.Errorf("%v", told)
		}
	}
}

// What an interrupted run has sealed is used again where it is still there, and sealed anew where the store has lost it: the
// damage to one snapshot must not pass on to the next.
func TestPurgeLooksWhetherItIsStillThere(t *testing.T) {
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	s.backup()
	s.sql("UPDATE users SET name = name || '!' WHERE id = 1")
	s.backup()
	s.recordAll(twoTablesRules, s.store)
	signer := signed(t)
	faulty := storetest.NewFaulty(s.store, storetest.Rule{On: storetest.Put, Name: "snapshots/*.age", Nth: 2, Fault: storetest.Fail(errBroken)})
	report, err := pipeline.Purge(context.Background(), s.purging(signer, faulty))
	if !errors.Is(err, errBroken) || len(report.Stores[0].Successors) != 1 {
		t.Fatalf("error %v, %+v", err, report)
	}
	r := s.open(signer.Public())
	first := s.manifest(r, report.Stores[0].Successors[0].New, s.holder)
	lost, kept := table(t, first, "comments").Objects[0].Object, table(t, first, "posts").Objects[0].Object
	s.remove(archive.ObjectName(lost))
	second := purge(t, s.purging(signer, s.store)).Stores[0].Successors[0].New
	m := s.manifest(r, second, s.holder)
	if got := table(t, m, "posts").Objects[0].Object; got != kept {
		t.Errorf("posts are in %s, and %s was there", got, kept)
	}
	if got := table(t, m, "comments").Objects[0].Object; got == lost {
		t.Errorf("comments are in %s, which is gone", got)
	}
	if rows := s.rowsIn(s.store, second, signer.Public()); grepped(rows, "comment on 8.")["comments"] != 1 || grepped(rows, "comment on 7.")["comments"] != 0 {
		t.Error("other people's comments are not all there, or the person's are")
	}
}

// killedPut leaves in the store's directory what a process does that was killed, at a time of the file system's clock, when it
// had written a file and not yet given it its name: a copy of the last file that is there below prefix.
func (s *site) killedPut(prefix string, at time.Time) (name string) {
	s.t.Helper()
	there := names(s.t, s.store, prefix)
	name = s.file(".tmp/" + rand.Text())
	if err := errors.Join(os.WriteFile(name, s.read(there[len(there)-1]), 0o600), os.Chtimes(name, at, at)); err != nil {
		s.t.Fatal(err)
	}
	return name
}

// unfinished is the files that have no names yet.
func (s *site) unfinished() []string {
	s.t.Helper()
	found, err := filepath.Glob(s.file(".tmp/*"))
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

// What killed runs had written and not put yet goes with a purge, as if nobody could find it otherwise: no list shows it. What
// is newer than the purge's lease may be somebody's who is just writing, and goes with the next purge, which has nothing else
// to do.
func TestPurgeTakesWhatWasNotFinished(t *testing.T) {
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	s.backup()
	s.recordAll(twoTablesRules, s.store)
	signer := signed(t)
	s.killedPut(archive.ObjectsPrefix, time.Now().Add(-23*time.Hour))
	s.killedPut(archive.ObjectsPrefix, time.Now().Add(-time.Minute))
	c := s.purging(signer, s.store)
	c.DryRun = true
	if report := purge(t, c); len(s.unfinished()) != 2 {
		t.Errorf("a dry run left %q of them: %+v", s.unfinished(), report)
	}

	newer := ""
	c = s.purging(signer, storetest.NewFaulty(s.store))
	c.Confirm = func(context.Context, *pipeline.PurgePlan) error {
		newer = s.killedPut(archive.ObjectsPrefix, time.Now())
		return nil
	}
	report := purge(t, c)
	if left := s.unfinished(); report.Stores[0].Unfinished != 2 || newer == "" || !slices.Equal(left, []string{newer}) {
		t.Errorf("there is %q, and %s is newer than the lease: %+v", left, newer, report.Stores[0])
	}
	report = purge(t, s.purging(signer, s.store))
	if left := s.unfinished(); report.Stores[0].Unfinished != 1 || len(report.Stores[0].Successors) > 0 || len(left) > 0 {
		t.Errorf("there is %q: %+v", left, report.Stores[0])
	}

	// A store that fails here is not done.
	s.killedPut(archive.ObjectsPrefix, time.Now().Add(-time.Minute))
	faulty := storetest.NewFaulty(s.store, storetest.Rule{On: storetest.AbortUnfinished, Fault: storetest.Fail(errBroken)})
	if _, err := pipeline.Purge(context.Background(), s.purging(signer, faulty)); !errors.Is(err, errBroken) || len(s.unfinished()) != 1 {
		t.Errorf("error %v, and %q", err, s.unfinished())
	}
}

// Several stores are purged together: what they share is read once, and one that fails does not keep the others from it.
func TestPurgeOfSeveralStores(t *testing.T) {
	s := newSite(t, fewPeople)
	s.rules = withoutRequests(fewPeopleRules)
	second := s.newStore(t.TempDir() + "/second")
	for range 2 {
		if _, err := pipeline.Backup(context.Background(), s.config(s.store, second)); err != nil {
			t.Fatal(err)
		}
		s.sql("UPDATE users SET name = name || '!' WHERE id = 1")
	}
	s.recordAll(fewPeopleRules, s.store, second)
	signer := signed(t)
	alone := s.purging(signer, s.store)
	alone.DryRun = true
	once := purge(t, alone).Fetched
	faulty := storetest.NewFaulty(second, storetest.Rule{On: storetest.Put, Name: "snapshots/*.age", Nth: 2, Fault: storetest.Fail(errBroken)})
	c := s.purging(signer, faulty, s.store)
	asked := 0
	c.Confirm = func(context.Context, *pipeline.PurgePlan) error { asked++; return nil }
	report, err := pipeline.Purge(context.Background(), c)
	if !errors.Is(err, errBroken) || report == nil || report.Stores[0].Error == "" || report.Stores[1].Error != "" || len(report.Stores[1].Successors) != 2 || asked != 1 {
		t.Fatalf("error %v, %+v, asked %d times", err, report, asked)
	}
	if report.Fetched > once+once/2 {
		t.Errorf("fetched %d bytes for two stores, %d for one", report.Fetched, once)
	}
	report = purge(t, s.purging(signer, second, s.store))
	if len(report.Stores[0].Successors) != 1 || report.Stores[1].Clean != 2 {
		t.Errorf("%+v", report.Stores)
	}
	for i, name := range manifests(t, s.store) {
		id, _ := archive.SnapshotOf(name)
		other, _ := archive.SnapshotOf(manifests(t, second)[i])
		if id != other {
			t.Errorf("one snapshot is %s in one store, and %s in the other", id, other)
		}
		sameRows(t, "in both stores", s.rowsIn(s.store, id, signer.Public()), s.rowsIn(second, other, signer.Public()))
	}
	for _, in := range []store.Store{s.store, second} {
		r, err := pipeline.OpenRepository(context.Background(), in, archive.NewTrust(s.operator.Public(), signer.Public()))
		if err != nil {
			t.Fatal(err)
		}
		if check := s.check(r, 1); len(check.Problems) > 0 || check.Unnamed > 0 {
			t.Errorf("%+v", check)
		}
	}
}
