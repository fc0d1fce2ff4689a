package scrub

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lethe/pipeline/pgtemp/pgtest"
	"lethe/rules"
	"lethe/scrub/catalog"
	"lethe/scrub/copytext"
	"lethe/scrub/mask"
	"lethe/scrub/scrubtest"
)

// backedUp is what a backup does to the rows of one root table because of requests.
type backedUp struct{ deleted, others, owned, cleared, changed int64 }

// effects streams every row through the scrubber of a backup that has the requests, and through one that has none: what
// differs is what the requests do.
func effects(s *server, p *Plan, reqs []Request) (map[catalog.Name]backedUp, error) {
	ctx := context.Background()
	nobody, err := p.Resolve(ctx, s, nil)
	if err != nil {
		return nil, err
	}
	erased, err := p.Resolve(ctx, s, reqs)
	if err != nil {
		return nil, err
	}
	keys := Keys{Erase: make([]mask.Key, len(reqs))}
	all := map[catalog.Name]backedUp{}
	for _, t := range p.Catalog.Order {
		if t.Kind != catalog.Ordinary {
			continue
		}
		var columns []string
		for _, c := range t.Columns {
			if c.Generated == "" {
				columns = append(columns, c.Name)
			}
		}
		without, err1 := p.Scrubber(t.Name, columns, keys, nobody)
		with, err2 := p.Scrubber(t.Name, columns, keys, erased)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("%v, %v", err1, err2)
		}
		var rows bytes.Buffer
		if err := s.CopyQuery(ctx, "SELECT "+catalog.QuoteList(columns)+" FROM ONLY "+t.Name.SQL(), &rows); err != nil {
			return nil, err
		}
		sum := all[t.Root().Name]
		for text := rows.Bytes(); len(text) > 0; {
			var row []byte
			row, text = copytext.NextRow(text)
			before, goes, err1 := without.Append(nil, row)
			after, action, err2 := with.Append(nil, row)
			if err1 != nil || err2 != nil {
				return nil, fmt.Errorf("%v, %v", err1, err2)
			}
			switch {
			case goes == Dropped || with.Cause.Request == NoRequest:
			case action == Dropped:
				sum.deleted++
				if with.Cause.Others {
					sum.others++
				}
			case action == Redacted:
				sum.owned++
				if !bytes.Equal(before, after) {
					sum.changed++
				}
			case action == Cleared:
				sum.cleared++
			}
		}
		all[t.Root().Name] = sum
	}
	return all, nil
}

// compareFootprint checks that what Footprint counts is what a backup does.
func compareFootprint(s *server, p *Plan, reqs []Request) (rows int64, err error) {
	list, err := p.Footprint(context.Background(), s, reqs)
	if err != nil {
		return 0, err
	}
	want, err := effects(s, p, reqs)
	if err != nil {
		return 0, err
	}
	sums := map[catalog.Name]backedUp{}
	for _, tables := range list {
		for _, t := range tables {
			sum := sums[t.Table]
			sum.deleted += t.Deleted
			sum.others += t.Others
			sum.owned += t.Redacted + t.Kept
			sum.cleared += t.Cleared
			sum.changed += t.Redacted
			sums[t.Table] = sum
			n := t.Deleted + t.Redacted + t.Kept + t.Cleared
			rows += n
			if n == 0 || len(t.Ways) == 0 {
				return 0, fmt.Errorf("%s: %+v", t.Table, t)
			}
			for _, w := range t.Ways {
				if w.Rows < 1 || w.Rows > n {
					return 0, fmt.Errorf("%s: %+v", t.Table, w)
				}
			}
		}
	}
	for _, table := range p.Catalog.Order {
		got, want := sums[table.Name], want[table.Name]
		// A row that is rewritten may stay what it was: its values were NULL.
		if got.changed < want.changed {
			return 0, fmt.Errorf("%s: %d rows rewritten, and a backup rewrites %d", table.Name, got.changed, want.changed)
		}
		got.changed, want.changed = 0, 0
		if got != want {
			return 0, fmt.Errorf("%s: %+v, and a backup does %+v", table.Name, got, want)
		}
	}
	return rows, nil
}

// The counts are those of a backup with the same requests, on random schemas, for all requests and for each alone.
func TestFootprintEqualsBackup(t *testing.T) {
	s := connect(t, pgtest.DB(t))
	s.exec(t, "SET client_min_messages = warning")
	var cases, counted int64
	rapid.Check(t, func(rt *rapid.T) {
		w := scrubtest.Draw(rt)
		tables, constraints := w.DDL()
		cat, err := catalog.Parse(tables + constraints)
		if err != nil {
			rt.Fatal(err)
		}
		var plan *Plan
		var text string
		for n := range 9 {
			text = w.Decide(rt, n == 8)
			file, err := rules.Parse("rules.yml", []byte(text))
			if err != nil {
				rt.Fatal(err)
			}
			if plan, err = Compile(file, cat); err == nil {
				break
			}
		}
		describe := func() string {
			return fmt.Sprintf("%s%s%s\n%s\nrequests %v", tables, w.Inserts(), constraints, text, w.Requests)
		}
		s.exec(t, "DROP SCHEMA public CASCADE; CREATE SCHEMA public;\n"+tables+w.Inserts()+constraints)
		var reqs []Request
		for _, q := range w.Requests {
			reqs = append(reqs, Request{Subject: q.Subject, Key: q.Key})
		}
		lists := [][]Request{reqs}
		for i := range reqs {
			lists = append(lists, reqs[i:i+1])
		}
		for _, list := range lists {
			rows, err := compareFootprint(s, plan, list)
			if err != nil && strings.Contains(err.Error(), "itself erased") {
				return // a default leads to an erased row: a backup stops
			}
			if err != nil {
				rt.Fatalf("requests %v: %v\n%s", list, err, describe())
			}
			counted += rows
		}
		cases++
	})
	t.Logf("%d cases, %d rows counted", cases, counted)
	if counted == 0 {
		t.Error("nothing was counted")
	}
}

// On the site of the hand-written SQL: the counts are that SQL's, and the ways are the schema's.
func TestFootprintEqualsHandWrittenSQL(t *testing.T) {
	s, copied := connect(t, pgtest.DB(t)), connect(t, pgtest.DB(t))
	s.exec(t, oracleSchema+oracleRows)
	copied.exec(t, oracleSchema+oracleRows+oracleErase)
	p := compilePlan(t, oracleRules, oracleSchema)
	var reqs []Request
	for _, key := range []string{"42", "7", "0199", "215"} {
		reqs = append(reqs, Request{Subject: "user", Key: key})
	}
	if _, err := compareFootprint(s, p, reqs); err != nil {
		t.Error(err)
	}
	list, err := p.Footprint(context.Background(), s, reqs)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Footprint{}
	for _, tables := range list {
		for _, f := range tables {
			sum := got[f.Table.String()]
			sum.Deleted += f.Deleted
			sum.Redacted += f.Redacted + f.Cleared
			got[f.Table.String()] = sum
		}
	}
	before, after := contents(t, s, p.Catalog), contents(t, copied, p.Catalog)
	for table, lines := range after {
		if table == "sessions" { // no_rows: nobody's request
			if f, ok := got[table]; ok {
				t.Errorf("sessions: %+v", f)
			}
			continue
		}
		changed := int64(0)
		for _, line := range lines {
			if !slices.Contains(before[table], line) {
				changed++
			}
		}
		if f := got[table]; f.Deleted != int64(len(before[table])-len(lines)) || f.Redacted != changed {
			t.Errorf("%s: %d deleted, %d changed; the SQL deletes %d, changes %d", table, f.Deleted, f.Redacted, len(before[table])-len(lines), changed)
		}
	}
	var ways []string
	for _, f := range list[0] {
		for _, w := range f.Ways {
			ways = append(ways, fmt.Sprintf("%s: %s (%s)", f.Table, w.Path, w.Verb))
		}
		if f.Table.Name == "payments" && f.Reason != "Accounting Act, six years" {
			t.Errorf("%+v", f)
		}
	}
	want := []string{
		"users: users (keep)",
		"users: users.invited_by → users (clear)",
		"orgs: orgs.owner_id → users (clear)",
		"memberships: memberships.user_id → users (delete)",
		"memberships: memberships.added_by → users (clear)",
		"notes: notes.(org_id, user_id) → memberships.user_id → users (delete)",
		"posts: posts.author_id → users (delete)",
		"comments: comments.post_id → posts.author_id → users (delete)",
		"comments: comments.parent_id → comments.author_id → users (delete)",
		"comments: comments.author_id → users (delete)",
		"likes: likes.user_id → users (delete)",
		"likes: likes.target_id where kind = 'User' → users (delete)",
		"likes: likes.target_id where kind = 'Post' → posts.author_id → users (delete)",
		"likes: likes.target_id where kind = 'Comment' → comments.author_id → users (delete)",
		"messages: messages.sender_id → users (delete)",
		"messages: messages.recipient_id → users (clear)",
		"attachments: attachments.(message_id, message_sent) → messages.sender_id → users (delete)",
		"payments: payments.user_id → users (keep)",
		"refunds: refunds.payment_id → payments.user_id → users (keep)",
		"refunds: refunds.approved_by → users (clear)",
		"audit_log: audit_log.actor → users (delete)",
		"audit_log: audit_log.detail at $.seen_by[*] → users (clear)",
		"jobs: jobs.args at $.user_id → users (delete)",
		`"Odd ""Table""": "Odd ""Table"""."User Id" → users (delete)`,
	}
	if !slices.Equal(ways, want) {
		t.Errorf("ways:\n%s\nwant:\n%s", strings.Join(ways, "\n"), strings.Join(want, "\n"))
	}
}

// Where only the server compares, it counts, too.
func TestFootprintWhereOnlyTheServerCompares(t *testing.T) {
	s := connect(t, pgtest.DB(t))
	s.exec(t, serverSchema+serverRows)
	p := compilePlan(t, "version: 1\ndataset: d\nsubjects:\n  user: {table: users, key: id}\nerase:\n  users: {delete: true}\n", serverSchema)
	if rows, err := compareFootprint(s, p, []Request{{Subject: "user", Key: "3"}, {Subject: "user", Key: "17"}}); err != nil || rows < 40 {
		t.Errorf("%d rows, %v", rows, err)
	}
}

// counting counts the rows that a server sends.
type counting struct {
	*server
	rows int
}

func (c *counting) CopyQuery(ctx context.Context, sql string, w io.Writer) error {
	return c.server.CopyQuery(ctx, sql, writerFunc(func(b []byte) (int, error) {
		c.rows += bytes.Count(b, []byte("\n"))
		return w.Write(b)
	}))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// The cost is that of the person's rows: nothing else is sent, however much there is.
func TestFootprintAsksForItsRowsAlone(t *testing.T) {
	s := connect(t, pgtest.DB(t))
	schema := `CREATE TABLE public.users (id int PRIMARY KEY, name text);
		CREATE TABLE public.posts (id int PRIMARY KEY, author int NOT NULL REFERENCES public.users ON DELETE CASCADE);
		CREATE TABLE public.comments (id int PRIMARY KEY, post int NOT NULL REFERENCES public.posts ON DELETE CASCADE, author int REFERENCES public.users ON DELETE SET NULL);`
	s.exec(t, schema+`
		INSERT INTO public.users SELECT n, 'name' FROM generate_series(1, 1000) n;
		INSERT INTO public.posts SELECT n, n % 1000 + 1 FROM generate_series(1, 3000) n;
		INSERT INTO public.comments SELECT n, n % 3000 + 1, n % 1000 + 1 FROM generate_series(1, 9000) n`)
	p := compilePlan(t, "version: 1\ndataset: d\nsubjects: {user: {table: users, key: id}}\nerase: {users: {delete: true}}\n", schema)
	c := &counting{server: s}
	list, err := p.Footprint(context.Background(), c, []Request{{Subject: "user", Key: "7"}})
	if err != nil {
		t.Fatal(err)
	}
	rows := int64(0)
	for _, f := range list[0] {
		rows += f.Deleted + f.Cleared
	}
	if rows == 0 || c.rows > 3*int(rows) {
		t.Errorf("%d rows were sent for %d that are reached", c.rows, rows)
	}
}

// Two people reach one row: it counts for the first of those who do the strongest to it.
func TestFootprintOfSeveralPeople(t *testing.T) {
	s := connect(t, pgtest.DB(t))
	schema := `CREATE TABLE public.users (id int PRIMARY KEY, name text);
		CREATE TABLE public.letters (id int PRIMARY KEY, sender int REFERENCES public.users, recipient int REFERENCES public.users, cc int REFERENCES public.users, forwarder int REFERENCES public.users);`
	s.exec(t, schema+`INSERT INTO public.users SELECT n FROM generate_series(1, 4) n;
		INSERT INTO public.letters VALUES (1, 2, 1, 3, NULL), (2, 3, 4, NULL, NULL), (3, 4, 3, NULL, NULL), (4, NULL, 1, NULL, 2)`)
	p := compilePlan(t, "version: 1\ndataset: d\nsubjects: {user: {table: users, key: id}}\nerase: {users: {redact: {name: clear}}, letters: {delete: sender, keep: cc, clear: [recipient, forwarder]}}\n", schema)
	list, err := p.Footprint(context.Background(), s, []Request{{Subject: "user", Key: "1"}, {Subject: "user", Key: "2"}, {Subject: "user", Key: "3"}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"users +0 ~1 -0 =0 [users 1], letters +0 ~0 -1 =0 [letters.recipient → users 1]",
		"users +0 ~1 -0 =0 [users 1], letters +1 ~0 -0 =0 [letters.sender → users 1]",
		"users +0 ~1 -0 =0 [users 1], letters +1 ~0 -1 =0 [letters.sender → users 1 letters.recipient → users 1]",
	} {
		var got []string
		for _, f := range list[i] {
			text := fmt.Sprintf("%s +%d ~%d -%d =%d ", f.Table, f.Deleted, f.Redacted, f.Cleared, f.Kept)
			if f.Others > 0 {
				text += fmt.Sprintf("(%d of others) ", f.Others)
			}
			var ways []string
			for _, w := range f.Ways {
				ways = append(ways, fmt.Sprintf("%s %d", w.Path, w.Rows))
			}
			got = append(got, text+fmt.Sprint(ways))
		}
		if all := strings.Join(got, ", "); all != want {
			t.Errorf("request %d: %s\nwant %s", i+1, all, want)
		}
	}
}
