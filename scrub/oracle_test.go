package scrub

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lethe/pipeline/pgtemp/pgtest"
	"lethe/rules"
	"lethe/scrub/catalog"
	"lethe/scrub/scrubtest"
)

// compilePlan reads rules and schema as a backup does.
func compilePlan(t testing.TB, rulesText, ddl string) *Plan {
	t.Helper()
	cat, err := catalog.Parse(ddl)
	if err != nil {
		t.Fatal(err)
	}
	file, err := rules.Parse("rules.yml", []byte(rulesText))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Compile(file, cat)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// oracleSchema is a site as they are: people, what they write under each other's writing, money that the law keeps,
// links that the schema does not know.
const oracleSchema = `
CREATE TYPE public.subject_kind AS ENUM ('User', 'Post', 'Comment');
CREATE DOMAIN public.email AS text CHECK (VALUE LIKE '%@%');
CREATE TABLE public.users (
	id integer PRIMARY KEY,
	email public.email NOT NULL UNIQUE,
	full_name text,
	birthday date,
	prefs jsonb,
	invited_by integer REFERENCES public.users ON DELETE SET NULL
);
CREATE TABLE public.orgs (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL, owner_id integer REFERENCES public.users);
CREATE TABLE public.memberships (
	org_id uuid REFERENCES public.orgs,
	user_id integer REFERENCES public.users,
	added_by integer REFERENCES public.users,
	role text,
	PRIMARY KEY (org_id, user_id)
);
CREATE TABLE public.notes (
	id bigint PRIMARY KEY,
	org_id uuid,
	user_id integer,
	body text,
	FOREIGN KEY (org_id, user_id) REFERENCES public.memberships (org_id, user_id)
);
CREATE TABLE public.posts (id bigint PRIMARY KEY, author_id integer NOT NULL REFERENCES public.users ON DELETE CASCADE, title text, body text);
CREATE TABLE public.comments (
	id bigint PRIMARY KEY,
	post_id bigint NOT NULL REFERENCES public.posts ON DELETE CASCADE,
	parent_id bigint REFERENCES public.comments ON DELETE CASCADE,
	author_id integer REFERENCES public.users,
	body text
);
CREATE TABLE public.likes (id bigint PRIMARY KEY, user_id integer NOT NULL REFERENCES public.users, kind public.subject_kind NOT NULL, target_id bigint NOT NULL);
CREATE TABLE public.messages (
	id bigint NOT NULL,
	sent date NOT NULL,
	sender_id integer REFERENCES public.users,
	recipient_id integer REFERENCES public.users,
	body text,
	PRIMARY KEY (id, sent)
) PARTITION BY RANGE (sent);
CREATE TABLE public.messages_2025 PARTITION OF public.messages FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE public.messages_2026 PARTITION OF public.messages FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY HASH (id);
CREATE TABLE public.messages_2026_0 PARTITION OF public.messages_2026 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE public.messages_2026_1 PARTITION OF public.messages_2026 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE public.attachments (
	id uuid PRIMARY KEY,
	message_id bigint NOT NULL,
	message_sent date NOT NULL,
	file_name text,
	FOREIGN KEY (message_id, message_sent) REFERENCES public.messages
);
CREATE TABLE public.payments (
	id bigint PRIMARY KEY,
	user_id integer NOT NULL REFERENCES public.users,
	amount numeric(10,2) NOT NULL,
	card_holder text,
	iban text
);
CREATE TABLE public.refunds (id bigint PRIMARY KEY, payment_id bigint NOT NULL REFERENCES public.payments, approved_by integer REFERENCES public.users, why text);
CREATE TABLE public.audit_log (id bigint PRIMARY KEY, actor text, at timestamptz NOT NULL, detail jsonb);
CREATE TABLE public.jobs (id bigint PRIMARY KEY, args jsonb);
CREATE TABLE public.sessions (id bigint PRIMARY KEY, user_id integer, last_ip inet);
CREATE TABLE public."Odd ""Table""" ("User Id" integer REFERENCES public.users ON DELETE CASCADE, "tab	" text);
`

const oracleRows = `
INSERT INTO public.users SELECT n, 'user' || n || '@example.org', CASE WHEN n % 7 > 0 THEN E'Person\t' || n || E' \\N' END,
	date '1970-01-01' + n * 37, jsonb_build_object('email', 'user' || n || '@example.org', 'theme', 'dark'), NULLIF(n / 3, 0)
	FROM generate_series(1, 200) n;
INSERT INTO public.orgs SELECT md5('org' || n)::uuid, 'Org ' || n, CASE WHEN n % 4 > 0 THEN n * 3 END FROM generate_series(1, 20) n;
INSERT INTO public.memberships SELECT md5('org' || (n % 20 + 1))::uuid, n, NULLIF((n * 7) % 150, 0), 'member' FROM generate_series(1, 200) n;
INSERT INTO public.notes SELECT n, CASE WHEN n % 9 > 0 THEN md5('org' || ((n % 200 + 1) % 20 + 1))::uuid END, n % 200 + 1, 'note ' || n FROM generate_series(1, 500) n;
INSERT INTO public.posts SELECT n, n % 200 + 1, 'Post ' || n, repeat('words ', n % 10) FROM generate_series(1, 600) n;
INSERT INTO public.comments SELECT n, n % 600 + 1, CASE WHEN n > 10 AND n % 3 > 0 THEN n / 2 END, NULLIF(n * 11 % 201, 0), 'comment ' || n FROM generate_series(1, 2000) n;
INSERT INTO public.likes SELECT n, n * 13 % 200 + 1, (ARRAY['User', 'Post', 'Comment'])[n % 3 + 1]::public.subject_kind, n * 17 % 250 + 1 FROM generate_series(1, 1500) n;
INSERT INTO public.messages SELECT n, date '2025-06-01' + n % 500, NULLIF(n * 3 % 201, 0), NULLIF(n * 5 % 201, 0), E'hello\\\n' || n FROM generate_series(1, 1000) n;
INSERT INTO public.attachments SELECT md5('file' || n)::uuid, n, date '2025-06-01' + n % 500, 'file' || n FROM generate_series(1, 1000, 3) n;
INSERT INTO public.payments SELECT n, n % 200 + 1, n * 1.25, 'Person ' || (n % 200 + 1), 'DE' || n FROM generate_series(1, 400) n;
INSERT INTO public.refunds SELECT n, n, NULLIF(n * 3 % 201, 0), 'broken' FROM generate_series(1, 400, 5) n;
INSERT INTO public.audit_log SELECT n, CASE n % 4 WHEN 0 THEN 'system' WHEN 1 THEN '00' || n % 220 ELSE (n % 220)::text END, timestamptz '2026-01-01 00:00:00Z' + n * interval '1 hour',
	jsonb_build_object('seen_by', jsonb_build_array(n % 200, (n * 3 % 200)::text, 'nobody')) FROM generate_series(1, 900) n;
INSERT INTO public.jobs SELECT n, CASE n % 3 WHEN 0 THEN jsonb_build_object('user_id', n % 210) WHEN 1 THEN jsonb_build_object('user_id', (n % 210)::text) END FROM generate_series(1, 300) n;
INSERT INTO public.sessions SELECT n, n % 200 + 1, ('10.0.0.' || n % 250)::inet FROM generate_series(1, 300) n;
INSERT INTO public."Odd ""Table""" SELECT NULLIF(n % 201, 0), 'x' FROM generate_series(1, 300) n;
`

const oracleRules = `
version: 1
dataset: site
subjects:
  user: {table: users, key: id, lookup: [email]}
references:
  audit_log.actor: users.id
  audit_log.detail: {to: users.id, path: "$.seen_by[*]"}
  jobs.args: {to: users.id, path: $.user_id}
  likes.target_id: [{to: users.id, when: {kind: User}}, {to: posts.id, when: {kind: Post}}, {to: comments.id, when: {kind: Comment}}]
always:
  sessions: no_rows
erase:
  users: {redact: {full_name: {value: Deleted user}, birthday: clear, prefs: {json: {remove: [$.email]}}}, clear: invited_by}
  orgs: {clear: owner_id}
  memberships: {delete: [user_id], clear: [added_by]}
  notes: {delete: ["(org_id, user_id)"]}
  comments: {delete: author_id}
  likes: {delete: [user_id, target_id]}
  messages: {delete: sender_id, clear: recipient_id}
  attachments: {delete: ["(message_id, message_sent)"]}
  payments: {keep: user_id, redact: {card_holder: clear, iban: clear}, reason: "Accounting Act, six years"}
  refunds: {keep: payment_id, clear: approved_by, redact: {why: clear}, reason: the same}
  audit_log: {delete: actor, clear: detail}
  jobs: {delete: args}
`

// oracleErase does by hand what the rules say, to users 7, 42 and 199, and to 215 who is gone already. It is SQL that an
// administrator would write, and uses nothing of Lethe's.
const oracleErase = `
CREATE TEMP TABLE gone AS SELECT unnest(ARRAY[7, 42, 199, 215]) AS id;

-- Posts and, under them, comments with all answers; then each person's own comments with all answers.
CREATE TEMP TABLE gone_posts AS SELECT id FROM public.posts WHERE author_id IN (SELECT id FROM gone);
CREATE TEMP TABLE gone_comments AS
	WITH RECURSIVE c AS (
		SELECT id FROM public.comments WHERE post_id IN (SELECT id FROM gone_posts) OR author_id IN (SELECT id FROM gone)
		UNION SELECT a.id FROM public.comments a JOIN c ON a.parent_id = c.id)
	SELECT id FROM c;
DELETE FROM public.likes WHERE user_id IN (SELECT id FROM gone)
	OR kind = 'User' AND target_id IN (SELECT id FROM gone)
	OR kind = 'Post' AND target_id IN (SELECT id FROM gone_posts)
	OR kind = 'Comment' AND target_id IN (SELECT id FROM gone_comments);
DELETE FROM public.comments WHERE id IN (SELECT id FROM gone_comments);
DELETE FROM public.posts WHERE id IN (SELECT id FROM gone_posts);

DELETE FROM public.notes WHERE (org_id, user_id) IN (SELECT org_id, user_id FROM public.memberships WHERE user_id IN (SELECT id FROM gone));
DELETE FROM public.memberships WHERE user_id IN (SELECT id FROM gone);
UPDATE public.memberships SET added_by = NULL WHERE added_by IN (SELECT id FROM gone);
UPDATE public.orgs SET owner_id = NULL WHERE owner_id IN (SELECT id FROM gone);

DELETE FROM public.attachments WHERE (message_id, message_sent) IN (SELECT id, sent FROM public.messages WHERE sender_id IN (SELECT id FROM gone));
DELETE FROM public.messages WHERE sender_id IN (SELECT id FROM gone);
UPDATE public.messages SET recipient_id = NULL WHERE recipient_id IN (SELECT id FROM gone);

UPDATE public.refunds SET why = NULL WHERE payment_id IN (SELECT id FROM public.payments WHERE user_id IN (SELECT id FROM gone));
UPDATE public.refunds SET approved_by = NULL WHERE approved_by IN (SELECT id FROM gone);
UPDATE public.payments SET card_holder = NULL, iban = NULL WHERE user_id IN (SELECT id FROM gone);

DELETE FROM public.audit_log WHERE actor ~ '^[0-9]+$' AND actor::int IN (SELECT id FROM gone);
UPDATE public.audit_log SET detail = jsonb_set(detail, '{seen_by}',
		(SELECT jsonb_agg(CASE WHEN e #>> '{}' IN (SELECT id::text FROM gone) THEN 'null'::jsonb ELSE e END ORDER BY n)
			FROM jsonb_array_elements(detail -> 'seen_by') WITH ORDINALITY AS x(e, n)))
	WHERE EXISTS (SELECT FROM jsonb_array_elements(detail -> 'seen_by') e WHERE e #>> '{}' IN (SELECT id::text FROM gone));
DELETE FROM public.jobs WHERE args ->> 'user_id' IN (SELECT id::text FROM gone);
DELETE FROM public.sessions;
DELETE FROM public."Odd ""Table""" WHERE "User Id" IN (SELECT id FROM gone);

UPDATE public.users SET invited_by = NULL WHERE invited_by IN (SELECT id FROM gone);
UPDATE public.users SET full_name = CASE WHEN full_name IS NOT NULL THEN 'Deleted user' END, birthday = NULL, prefs = prefs - 'email'
	WHERE id IN (SELECT id FROM gone);
`

// contents are the rows of each root table, sorted.
func contents(t testing.TB, s *server, cat *catalog.Catalog) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, table := range cat.Order {
		if table.Parent == nil {
			lines := s.rows(t, "SELECT * FROM "+table.Name.SQL())
			sort.Strings(lines)
			if len(lines) == 1 && lines[0] == "" {
				lines = nil
			}
			all[table.Name.String()] = lines
		}
	}
	return all
}

// byRoot joins what is left of partitions, sorted.
func byRoot(left map[*catalog.Table][]string) map[string][]string {
	all := map[string][]string{}
	for leaf, lines := range left {
		root := leaf.Root().Name.String()
		all[root] = append(all[root], lines...)
	}
	for _, lines := range all {
		sort.Strings(lines)
	}
	return all
}

func TestErasureEqualsHandWrittenSQL(t *testing.T) {
	s, copied := connect(t, pgtest.DB(t)), connect(t, pgtest.DB(t))
	s.exec(t, oracleSchema+oracleRows)
	copied.exec(t, oracleSchema+oracleRows)
	p := compilePlan(t, oracleRules, oracleSchema)
	var reqs []Request
	for i, key := range []string{"42", "0199", "7", "215"} {
		reqs = append(reqs, Request{Subject: "user", Key: key, Ref: fmt.Sprintf("R-%d", i)})
	}
	e, err := p.Resolve(context.Background(), s, reqs)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(e.Missing, []int{3}) {
		t.Errorf("missing %v, want the fourth", e.Missing)
	}
	left, err := scrubbed(s, p, e, len(reqs))
	if err != nil {
		t.Fatal(err)
	}
	before := contents(t, s, p.Catalog)
	copied.exec(t, oracleErase)
	got, want := byRoot(left), contents(t, copied, p.Catalog)
	for table, lines := range want {
		if !slices.Equal(got[table], lines) {
			t.Errorf("%s: %d rows, the hand-written SQL leaves %d; first difference: %s", table, len(got[table]), len(lines), firstDifference(got[table], lines))
		}
		if slices.Equal(before[table], lines) {
			t.Errorf("%s: the hand-written SQL changes nothing, so this proves nothing", table)
		}
	}
}

func firstDifference(got, want []string) string {
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			return fmt.Sprintf("missing %q", want[i])
		case i >= len(want):
			return fmt.Sprintf("left over %q", got[i])
		case got[i] != want[i]:
			return fmt.Sprintf("%q, want %q", got[i], want[i])
		}
	}
	return "none"
}

// TestErasureEqualsPostgreSQL takes random schemas that decide everything themselves: then deleting the people in
// PostgreSQL must leave what Lethe leaves.
func TestErasureEqualsPostgreSQL(t *testing.T) {
	from := connect(t, pgtest.DB(t))
	from.exec(t, "SET client_min_messages = warning")
	erased, cut := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		w := scrubtest.Draw(rt)
		text := w.LeaveToSchema()
		tables, constraints := w.DDL()
		describe := func() string {
			return fmt.Sprintf("%s%s%s\n%s\nrequests %v", tables, w.Inserts(), constraints, text, w.Requests)
		}
		cat, err := catalog.Parse(tables + constraints)
		if err != nil {
			rt.Fatalf("%v\n%s", err, describe())
		}
		file, err := rules.Parse("rules.yml", []byte(text))
		if err != nil {
			rt.Fatalf("%v\n%s", err, describe())
		}
		plan, err := Compile(file, cat)
		if err != nil {
			rt.Fatalf("%v\n%s", err, describe())
		}
		from.exec(t, "DROP SCHEMA public CASCADE; CREATE SCHEMA public;\n"+tables+w.Inserts()+constraints)
		before := contents(t, from, cat)
		var reqs []Request
		deletes := ""
		for _, q := range w.Requests {
			reqs = append(reqs, Request{Subject: q.Subject, Key: q.Key})
			deletes += fmt.Sprintf("DELETE FROM public.%s WHERE id = %s;\n", strings.Replace(q.Subject, "person", "t", 1), catalog.Literal(q.Key))
		}
		e, err := plan.Resolve(context.Background(), from, reqs)
		if err != nil {
			rt.Fatalf("%v\n%s", err, describe())
		}
		left, err := scrubbed(from, plan, e, len(reqs))
		if err != nil {
			rt.Fatalf("%v\n%s", err, describe())
		}
		from.exec(t, deletes)
		got, want := byRoot(left), contents(t, from, cat)
		for table, lines := range want {
			if !slices.Equal(got[table], lines) {
				rt.Fatalf("table %s\n got %q\nwant %q\n%s", table, got[table], lines, describe())
			}
			erased += len(before[table]) - len(lines)
			for _, line := range lines {
				if !slices.Contains(before[table], line) {
					cut++
				}
			}
		}
	})
	t.Logf("%d rows erased, %d cut", erased, cut)
	if erased == 0 || cut == 0 {
		t.Error("the cases drawn erase or cut nothing")
	}
}

// serverSchema references people by values whose equality is not equality of text: the server has to compare them.
const serverSchema = `
CREATE SCHEMA ext;
CREATE EXTENSION citext WITH SCHEMA ext;
CREATE COLLATION public.nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE DOMAIN public.handle AS text COLLATE public.nocase;
CREATE TABLE public.users (
	id integer PRIMARY KEY,
	nick ext.citext UNIQUE, mail text COLLATE public.nocase UNIQUE, handle public.handle UNIQUE, span interval UNIQUE,
	half double precision UNIQUE, born timestamp UNIQUE, tags integer[] UNIQUE, code text UNIQUE, net inet UNIQUE,
	UNIQUE (nick, id)
);
CREATE TABLE public.a (id integer, nick ext.citext REFERENCES public.users (nick) ON DELETE CASCADE);
CREATE TABLE public.b (id integer, mail text COLLATE public.nocase REFERENCES public.users (mail) ON DELETE CASCADE);
CREATE TABLE public.c (id integer, handle public.handle REFERENCES public.users (handle) ON DELETE SET NULL);
CREATE TABLE public.d (id integer, span interval REFERENCES public.users (span) ON DELETE CASCADE);
CREATE TABLE public.e (id integer, half real REFERENCES public.users (half) ON DELETE CASCADE);
CREATE TABLE public.f (id integer, born date REFERENCES public.users (born) ON DELETE CASCADE);
CREATE TABLE public.g (id integer, tags integer[] REFERENCES public.users (tags) ON DELETE SET NULL);
CREATE TABLE public.h (id integer, code char(8) REFERENCES public.users (code) ON DELETE CASCADE);
CREATE TABLE public.i (id integer PRIMARY KEY, nick ext.citext, user_id integer, UNIQUE (nick, user_id),
	FOREIGN KEY (nick, user_id) REFERENCES public.users (nick, id) ON DELETE CASCADE);
CREATE TABLE public.j (id integer, nick ext.citext, user_id integer,
	FOREIGN KEY (nick, user_id) REFERENCES public.i (nick, user_id) ON DELETE CASCADE);
CREATE TABLE public.k (id integer, net cidr REFERENCES public.users (net) ON DELETE CASCADE);
`

const serverRows = `
INSERT INTO public.users SELECT n, 'Nick' || n, 'Mail' || n || '@x', 'Ha"ndle''' || n, n * interval '1 day', n / 2.0, timestamp '2000-01-01' + n * interval '1 day',
	ARRAY[n, NULL, n * 2], 'c\' || n, ('10.0.' || n || '.0/24')::inet FROM generate_series(1, 40) n;
INSERT INTO public.a SELECT n, upper('nick' || n % 40 + 1) FROM generate_series(1, 100) n;
INSERT INTO public.b SELECT n, upper('mail' || n % 40 + 1 || '@x') FROM generate_series(1, 100) n;
INSERT INTO public.c SELECT n, upper('ha"ndle''' || n % 40 + 1) FROM generate_series(1, 100) n;
INSERT INTO public.d SELECT n, (n % 40 + 1) * interval '24 hours' FROM generate_series(1, 100) n;
INSERT INTO public.e SELECT n, (n % 40 + 1) / 2.0 FROM generate_series(1, 100) n;
INSERT INTO public.f SELECT n, date '2000-01-01' + n % 40 + 1 FROM generate_series(1, 100) n;
INSERT INTO public.g SELECT n, ARRAY[n % 40 + 1, NULL, (n % 40 + 1) * 2] FROM generate_series(1, 100) n;
INSERT INTO public.h SELECT n, 'c\' || n % 40 + 1 FROM generate_series(1, 100) n;
INSERT INTO public.i SELECT n, upper('nick' || n), n FROM generate_series(1, 40) n;
INSERT INTO public.j SELECT n, 'nICK' || n % 40 + 1, n % 40 + 1 FROM generate_series(1, 100) n;
INSERT INTO public.k SELECT n, ('10.0.' || n % 40 + 1 || '.0/24')::cidr FROM generate_series(1, 100) n;
`

func TestErasureEqualsPostgreSQLWhereOnlyItCompares(t *testing.T) {
	s := connect(t, pgtest.DB(t))
	s.exec(t, serverSchema+serverRows)
	p := compilePlan(t, "version: 1\ndataset: d\nsubjects:\n  user: {table: users, key: id}\nerase:\n  users: {delete: true}\n", serverSchema)
	var reqs []Request
	for _, key := range []string{"3", "17", "39"} {
		reqs = append(reqs, Request{Subject: "user", Key: key})
	}
	e, err := p.Resolve(context.Background(), s, reqs)
	if err != nil {
		t.Fatal(err)
	}
	left, err := scrubbed(s, p, e, len(reqs))
	if err != nil {
		t.Fatal(err)
	}
	before := contents(t, s, p.Catalog)
	s.exec(t, "DELETE FROM public.users WHERE id IN (3, 17, 39)")
	got, want := byRoot(left), contents(t, s, p.Catalog)
	for table, lines := range want {
		if !slices.Equal(got[table], lines) {
			t.Errorf("%s: %d rows, PostgreSQL leaves %d; first difference: %s", table, len(got[table]), len(lines), firstDifference(got[table], lines))
		}
		if slices.Equal(before[table], lines) {
			t.Errorf("%s: nothing is erased here, so this proves nothing", table)
		}
	}
	if len(want) != 12 {
		t.Errorf("%d tables", len(want))
	}
}
