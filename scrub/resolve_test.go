package scrub

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"lethe/pipeline/pgtemp/pgtest"
	"lethe/rules"
	"lethe/scrub/catalog"
)

// server is a connection that answers as backups ask: rows of a SELECT as COPY text, in their session settings.
type server struct {
	conn  *pgconn.PgConn
	asked []string // every statement, for tests that look at them
}

func connect(t testing.TB, url string) *server {
	t.Helper()
	ctx := context.Background()
	conn, err := pgconn.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(ctx) })
	s := &server{conn: conn}
	s.exec(t, `SET search_path = ''; SET DateStyle = ISO; SET IntervalStyle = postgres; SET extra_float_digits = 3;
		SET bytea_output = hex; SET TimeZone = UTC; SET jit = off; SET max_parallel_workers_per_gather = 0; SET synchronize_seqscans = off`)
	return s
}

func (s *server) exec(t testing.TB, sql string) {
	t.Helper()
	if _, err := s.conn.Exec(context.Background(), sql).ReadAll(); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
}

func (s *server) CopyQuery(ctx context.Context, sql string, w io.Writer) error {
	s.asked = append(s.asked, sql)
	_, err := s.conn.CopyTo(ctx, w, "COPY ("+sql+") TO STDOUT")
	return err
}

// rows returns the COPY text lines of a SELECT.
func (s *server) rows(t testing.TB, sql string) []string {
	t.Helper()
	var b bytes.Buffer
	if err := s.CopyQuery(context.Background(), sql, &b); err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

// handTable builds a catalog's table; each column is "name type" with a built-in type, or "name schema.type".
func handTable(c *catalog.Catalog, name string, columns ...string) *catalog.Table {
	t := &catalog.Table{Name: catalog.Name{Schema: "public", Name: name}}
	for _, col := range columns {
		n, typ, _ := strings.Cut(col, " ")
		schema, short, ok := strings.Cut(typ, ".")
		if !ok {
			schema, short = "pg_catalog", typ
		}
		t.Columns = append(t.Columns, &catalog.Column{Name: n, Type: catalog.TypeRef{Name: catalog.Name{Schema: schema, Name: short}}})
	}
	c.Tables[t.Name] = t
	c.Order = append(c.Order, t)
	return t
}

func handCatalog() *catalog.Catalog {
	return &catalog.Catalog{Tables: map[catalog.Name]*catalog.Table{}, Types: map[catalog.Name]*catalog.Type{}}
}

func handPlan(c *catalog.Catalog, subjects []*Subject, edges ...*Edge) *Plan {
	p := &Plan{Catalog: c, Subjects: map[string]*Subject{}, Tables: map[catalog.Name]*TablePlan{}}
	for _, s := range subjects {
		p.Subjects[s.Type] = s
	}
	for i, e := range edges {
		e.ID = i
		p.Edges = append(p.Edges, e)
	}
	return p
}

func edge(from *catalog.Table, columns string, to *catalog.Table, toColumns string, verb Verb, family ...Family) *Edge {
	return &Edge{From: from, Columns: strings.Fields(columns), To: to, ToColumns: strings.Fields(toColumns), Verb: verb, Family: family}
}

// hits lists, for one table, the rows that an edge reaches as "first column=request".
func hits(t *testing.T, s *server, p *Plan, e *Erased, edge *Edge) []string {
	t.Helper()
	var found []string
	names := []string{edge.From.Columns[0].Name}
	index := func(column string) int {
		if i := slices.Index(names, column); i >= 0 {
			return i
		}
		names = append(names, column)
		return len(names) - 1
	}
	m, err := newMatcher(p.Catalog, edge, index)
	if err != nil {
		t.Fatal(err)
	}
	w := &rowWriter{columns: len(names), row: make([][]byte, len(names))}
	w.fn = func(row [][]byte) error {
		r, ok, err := m.hit(e, row)
		if ok {
			found = append(found, fmt.Sprintf("%s=%d", row[0], r))
		}
		return err
	}
	if err := s.CopyQuery(context.Background(), "SELECT "+catalog.QuoteList(names)+" FROM ONLY "+edge.From.Name.SQL()+" ORDER BY 1", w); err != nil {
		t.Fatal(err)
	}
	return found
}

func TestResolveFollowsReferences(t *testing.T) {
	s := connect(t, pgtest.DB(t))
	s.exec(t, `
		CREATE TABLE public.users (id int, nick text, boss int);
		CREATE TABLE public.posts (id uuid, author int, editor bigint);
		CREATE TABLE public.comments (id int, post uuid, parent int, by int);
		CREATE TABLE public.likes (id int, kind text, target varchar);
		CREATE TABLE public.jobs (id int, args jsonb);
		CREATE TABLE public.runs (id int, job int);
		INSERT INTO public.jobs VALUES (1, '{"users": [{"id": 9}, {"id": 3}]}'), (2, '{"users": [{"id": "1"}]}'), (3, '{"users": [{"id": 2}]}'), (4, NULL);
		INSERT INTO public.runs VALUES (1, 1), (2, 2), (3, 3);
		INSERT INTO public.users VALUES (1, 'a', NULL), (2, 'b', 1), (3, 'c', 2), (4, 'd', 4), (5, 'e', 3);
		INSERT INTO public.posts VALUES
			('aaaaaaaa-0000-0000-0000-000000000001', 1, 2), ('aaaaaaaa-0000-0000-0000-000000000002', 2, 1),
			('aaaaaaaa-0000-0000-0000-000000000003', 3, NULL), ('aaaaaaaa-0000-0000-0000-000000000004', NULL, 9);
		INSERT INTO public.comments VALUES
			(1, 'aaaaaaaa-0000-0000-0000-000000000001', NULL, 5), (2, NULL, 1, 5), (3, NULL, 2, 4), (4, NULL, NULL, 9),
			(5, NULL, 6, NULL), (6, NULL, 5, 3), (7, NULL, NULL, NULL);
		INSERT INTO public.likes VALUES
			(1, 'Comment', '3'), (2, 'Comment', '03'), (3, 'Post', 'AAAAAAAA-0000-0000-0000-000000000001'), (4, 'User', '3'), (5, NULL, '3')`)
	c := handCatalog()
	users := handTable(c, "users", "id int4", "nick text", "boss int4")
	posts := handTable(c, "posts", "id uuid", "author int4", "editor int8")
	comments := handTable(c, "comments", "id int4", "post uuid", "parent int4", "by int4")
	likes := handTable(c, "likes", "id int4", "kind text", "target varchar")
	jobs := handTable(c, "jobs", "id int4", "args jsonb")
	runs := handTable(c, "runs", "id int4", "job int4")
	byPath := edge(jobs, "args", users, "id", Delete, Integer)
	byPath.Path = "$.users[*].id"
	toComment := edge(likes, "target", comments, "id", Delete, Integer)
	toComment.When = []rules.Equal{{Column: "kind", Value: "Comment"}}
	toPost := edge(likes, "target", posts, "id", Delete, UUID)
	toPost.When = []rules.Equal{{Column: "kind", Value: "Post"}}
	p := handPlan(c, []*Subject{{Type: "user", Table: users, Key: "id"}},
		edge(posts, "author", users, "id", Delete, Integer),
		edge(posts, "editor", users, "id", Clear, Integer),
		edge(comments, "post", posts, "id", Delete, UUID),
		edge(comments, "parent", comments, "id", Delete, Integer),
		edge(comments, "by", users, "id", Keep, Integer),
		edge(users, "boss", users, "id", Clear, Integer),
		toComment, toPost, byPath, edge(runs, "job", jobs, "id", Clear, Integer))

	e, err := p.Resolve(context.Background(), s, []Request{{Subject: "user", Key: "3"}, {Subject: "user", Key: "01"}, {Subject: "user", Key: "9"}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]string{
		{"aaaaaaaa-0000-0000-0000-000000000001=1", "aaaaaaaa-0000-0000-0000-000000000003=0"},
		{"aaaaaaaa-0000-0000-0000-000000000002=1", "aaaaaaaa-0000-0000-0000-000000000004=2"},
		{"1=1"},
		{"2=1", "3=1", "5=0", "6=0"},
		{"4=2", "6=0"},
		{"2=1", "5=0"},
		{"1=1", "2=1"},
		{"3=1"},
		{"1=0", "2=1"},
		{"1=0", "2=1"},
	} {
		if got := hits(t, s, p, e, p.Edges[i]); !slices.Equal(got, want) {
			t.Errorf("edge %d from %s: %v, want %v", i, p.Edges[i].From.Name, got, want)
		}
	}
	if !slices.Equal(e.Missing, []int{2}) {
		t.Errorf("missing %v, want [2]", e.Missing)
	}
}

// A long chain is reached by a late request first and by an early one only at its end: labels travel again.
func TestResolveLowestRequestWins(t *testing.T) {
	s := connect(t, pgtest.DB(t))
	s.exec(t, `CREATE TABLE public.users (id int);
		CREATE TABLE public.nodes (id int, owner int, up int);
		INSERT INTO public.users SELECT generate_series(1, 3);
		INSERT INTO public.nodes SELECT n, CASE n WHEN 1 THEN 3 WHEN 40 THEN 1 WHEN 20 THEN 2 END, CASE WHEN n > 1 THEN n - 1 ELSE 40 END
			FROM generate_series(1, 40) n`)
	c := handCatalog()
	users := handTable(c, "users", "id int4")
	nodes := handTable(c, "nodes", "id int4", "owner int4", "up int4")
	p := handPlan(c, []*Subject{{Type: "user", Table: users, Key: "id"}},
		edge(nodes, "owner", users, "id", Delete, Integer), edge(nodes, "up", nodes, "id", Delete, Integer))
	e, err := p.Resolve(context.Background(), s, []Request{{Subject: "user", Key: "1"}, {Subject: "user", Key: "2"}, {Subject: "user", Key: "3"}})
	if err != nil {
		t.Fatal(err)
	}
	got := hits(t, s, p, e, p.Edges[1])
	if len(got) != 40 {
		t.Errorf("%d nodes, want all 40", len(got))
	}
	for _, h := range got {
		if !strings.HasSuffix(h, "=0") {
			t.Errorf("node %s is not labelled with the lowest request", h)
		}
	}
}

// Equality that only the server knows: citext in a schema that is not on the search path, a collation without case,
// interval; and numbers and padded text that print differently.
func TestResolveServerFamilies(t *testing.T) {
	s := connect(t, pgtest.DB(t))
	s.exec(t, `CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext;
		CREATE COLLATION public.nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
		CREATE TABLE public.users (id int, nick ext.citext, mail text COLLATE public.nocase, span interval, amount numeric, code char(6));
		CREATE TABLE public.a (id int, nick ext.citext);
		CREATE TABLE public.b (id int, mail text COLLATE public.nocase);
		CREATE TABLE public.c (id int, span interval);
		CREATE TABLE public.d (id int, amount numeric, code char(9));
		CREATE TABLE public.e (id int, a_nick ext.citext, a_id int);
		INSERT INTO public.users VALUES (1, 'Ada', 'Ada@x', '1 day', 42.0, 'ab'), (2, 'Bob', 'Bob@x', '2 days', 7, 'cd');
		INSERT INTO public.a VALUES (1, 'ADA'), (2, 'ada'), (3, 'bob'), (4, NULL);
		INSERT INTO public.b VALUES (1, 'ADA@X'), (2, 'ada@x'), (3, 'bob@x');
		INSERT INTO public.c VALUES (1, '24 hours'), (2, '1 day'), (3, '48 hours');
		INSERT INTO public.d VALUES (1, 42, 'ab'), (2, 42.00, 'ab   '), (3, 42, 'cd'), (4, 7, 'ab');
		INSERT INTO public.e VALUES (1, 'aDA', 2), (2, 'ADA', 3), (3, 'BOB', 3)`)
	c := handCatalog()
	users := handTable(c, "users", "id int4", "nick ext.citext", "mail text", "span interval", "amount numeric", "code bpchar")
	users.Columns[2].Collation = catalog.Name{Schema: "public", Name: "nocase"}
	ta := handTable(c, "a", "id int4", "nick ext.citext")
	tb := handTable(c, "b", "id int4", "mail text")
	tb.Columns[1].Collation = users.Columns[2].Collation
	tc := handTable(c, "c", "id int4", "span interval")
	td := handTable(c, "d", "id int4", "amount numeric", "code bpchar")
	te := handTable(c, "e", "id int4", "a_nick ext.citext", "a_id int4")
	p := handPlan(c, []*Subject{{Type: "user", Table: users, Key: "nick", Family: Server}},
		edge(ta, "nick", users, "nick", Delete, Server),
		edge(tb, "mail", users, "mail", Delete, Server),
		edge(tc, "span", users, "span", Clear, Server),
		edge(td, "amount code", users, "amount code", Delete, Numeric, PaddedText),
		edge(te, "a_nick a_id", ta, "nick id", Delete, Server, Integer))
	e, err := p.Resolve(context.Background(), s, []Request{{Subject: "user", Key: "aDa"}, {Subject: "user", Key: "bOB"}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]string{
		{"1=0", "2=0", "3=1"}, {"1=0", "2=0", "3=1"}, {"1=0", "2=0", "3=1"}, {"1=0", "2=0"}, {"1=0", "3=1"},
	} {
		if got := hits(t, s, p, e, p.Edges[i]); !slices.Equal(got, want) {
			t.Errorf("edge %d from %s: %v, want %v", i, p.Edges[i].From.Name, got, want)
		}
	}
	if len(e.Missing) != 0 {
		t.Errorf("missing %v", e.Missing)
	}

	// The person is gone: the request's own spelling still finds what is left.
	s.exec(t, `DELETE FROM public.users`)
	e, err = p.Resolve(context.Background(), s, []Request{{Subject: "user", Key: "aDa"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := hits(t, s, p, e, p.Edges[0]); !slices.Equal(got, []string{"1=0", "2=0"}) || !slices.Equal(e.Missing, []int{0}) {
		t.Errorf("gone person: %v, missing %v", got, e.Missing)
	}
}

func TestResolvePartitionsAndChunks(t *testing.T) {
	s := connect(t, pgtest.DB(t))
	s.exec(t, `
		CREATE TABLE public.users (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
		CREATE TABLE public.users_eu PARTITION OF public.users FOR VALUES IN ('eu') PARTITION BY HASH (id);
		CREATE TABLE public.users_eu0 PARTITION OF public.users_eu FOR VALUES WITH (MODULUS 2, REMAINDER 0);
		CREATE TABLE public.users_eu1 PARTITION OF public.users_eu FOR VALUES WITH (MODULUS 2, REMAINDER 1);
		CREATE TABLE public.users_us PARTITION OF public.users FOR VALUES IN ('us');
		CREATE TABLE public.posts (id bigint PRIMARY KEY, author int, region text, FOREIGN KEY (author, region) REFERENCES public.users);
		CREATE TABLE public.pins (id int, post bigint, user_eu int, region text);
		INSERT INTO public.users SELECT n, CASE WHEN n % 3 = 0 THEN 'us' ELSE 'eu' END FROM generate_series(1, 300) n;
		INSERT INTO public.posts SELECT n, (n - 1) % 300 + 1, CASE WHEN ((n - 1) % 300 + 1) % 3 = 0 THEN 'us' ELSE 'eu' END FROM generate_series(1, 3000) n;
		INSERT INTO public.pins SELECT n, n, n, 'eu' FROM generate_series(1, 3000) n`)
	c := handCatalog()
	cols := []string{"id int4", "region text"}
	users := handTable(c, "users", cols...)
	eu := handTable(c, "users_eu", cols...)
	eu0 := handTable(c, "users_eu0", cols...)
	eu1 := handTable(c, "users_eu1", cols...)
	us := handTable(c, "users_us", cols...)
	users.Kind, eu.Kind = catalog.Partitioned, catalog.Partitioned
	eu.Parent, us.Parent, eu0.Parent, eu1.Parent = users, users, eu, eu
	posts := handTable(c, "posts", "id int8", "author int4", "region text")
	pins := handTable(c, "pins", "id int4", "post int8", "user_eu int4", "region text")
	p := handPlan(c, []*Subject{{Type: "user", Table: users, Key: "id"}},
		edge(posts, "author region", users, "id region", Delete, Integer, Text),
		edge(pins, "post", posts, "id", Delete, Integer),
		edge(pins, "user_eu region", eu, "id region", Delete, Integer, Text))
	var reqs []Request
	for n := 1; n <= 300; n += 2 {
		reqs = append(reqs, Request{Subject: "user", Key: fmt.Sprint(n)})
	}
	keys, err := canonicalRequests(p, reqs)
	if err != nil {
		t.Fatal(err)
	}
	for _, chunk := range []int{keysPerStatement, 7} {
		cl, err := newClosure(p, reqs, keys)
		if err != nil {
			t.Fatal(err)
		}
		e, err := cl.run(context.Background(), &sqlReader{querier: s, catalog: c, chunk: chunk})
		if err != nil {
			t.Fatal(err)
		}
		if len(e.Missing) != 0 {
			t.Errorf("missing %v", e.Missing)
		}
		if got := hits(t, s, p, e, p.Edges[1]); len(got) != 1500 {
			t.Errorf("%d pins of posts, want 1500", len(got))
		}
		if got := hits(t, s, p, e, p.Edges[2]); len(got) != 100 { // odd, at most 300, not divisible by 3
			t.Errorf("%d pins of the partition's rows, want 100", len(got))
		}
	}
}

func TestResolveUsesIndexes(t *testing.T) {
	s := connect(t, pgtest.DB(t))
	s.exec(t, `CREATE TABLE public.users (id int PRIMARY KEY);
		CREATE TABLE public.posts (id uuid PRIMARY KEY, author bigint, slug varchar(40));
		CREATE TABLE public.comments (id int, post uuid);
		CREATE TABLE public.links (slug varchar(40));
		INSERT INTO public.users SELECT generate_series(1, 20000);
		INSERT INTO public.posts SELECT gen_random_uuid(), n % 20000, 'slug' || n FROM generate_series(1, 60000) n;
		INSERT INTO public.comments SELECT 1, id FROM public.posts; INSERT INTO public.links SELECT slug FROM public.posts;
		CREATE INDEX ON public.posts (author); CREATE INDEX ON public.comments (post); CREATE INDEX ON public.links (slug);
		ANALYZE`)
	c := handCatalog()
	users := handTable(c, "users", "id int4")
	posts := handTable(c, "posts", "id uuid", "author int8", "slug varchar")
	comments := handTable(c, "comments", "id int4", "post uuid")
	links := handTable(c, "links", "slug varchar")
	p := handPlan(c, []*Subject{{Type: "user", Table: users, Key: "id"}},
		edge(posts, "author", users, "id", Delete, Integer),
		edge(comments, "post", posts, "id", Delete, UUID), edge(comments, "id", comments, "id", Delete, Integer),
		edge(links, "slug", posts, "slug", Delete, Text), edge(links, "slug", links, "slug", Clear, Text))
	s.asked = nil
	if _, err := p.Resolve(context.Background(), s, []Request{{Subject: "user", Key: "77"}, {Subject: "user", Key: "99"}}); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, sql := range slices.Clone(s.asked) {
		if strings.Contains(sql, `JOIN ONLY "public"."comments" AS c ON c."id"`) {
			continue // has no index
		}
		seen++
		conn := s.conn.Exec(context.Background(), "EXPLAIN "+sql)
		results, err := conn.ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		plan := ""
		for _, row := range results[0].Rows {
			plan += string(row[0]) + "\n"
		}
		if !strings.Contains(plan, "Index") || strings.Contains(plan, "Seq Scan") {
			t.Errorf("no index serves\n%s\n%s", sql, plan)
		}
	}
	if seen < 4 {
		t.Errorf("only %d statements: %v", seen, s.asked)
	}
}

// Keys of tables kept without rows all count as deleted, whoever asks.
func TestResolveNoRows(t *testing.T) {
	s := connect(t, pgtest.DB(t))
	s.exec(t, `CREATE TABLE public.users (id int); CREATE TABLE public.sessions (id int, by int);
		CREATE TABLE public.visits (id int, session int); CREATE TABLE public.clicks (id int, visit int);
		INSERT INTO public.users VALUES (1); INSERT INTO public.sessions VALUES (1, 1), (2, 2);
		INSERT INTO public.visits VALUES (1, 1), (2, 2), (3, NULL); INSERT INTO public.clicks VALUES (1, 1), (2, 2), (3, 3)`)
	c := handCatalog()
	users := handTable(c, "users", "id int4")
	sessions := handTable(c, "sessions", "id int4", "by int4")
	visits := handTable(c, "visits", "id int4", "session int4")
	clicks := handTable(c, "clicks", "id int4", "visit int4")
	p := handPlan(c, []*Subject{{Type: "user", Table: users, Key: "id"}},
		edge(visits, "session", sessions, "id", Delete, Integer), edge(clicks, "visit", visits, "id", Clear, Integer))
	p.Tables[sessions.Name] = &TablePlan{Table: sessions, NoRows: true}
	e, err := p.Resolve(context.Background(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	none := fmt.Sprint(NoRequest)
	if got := hits(t, s, p, e, p.Edges[1]); !slices.Equal(got, []string{"1=" + none, "2=" + none}) {
		t.Errorf("clicks %v", got)
	}
	if e.Empty() {
		t.Error("Empty, though rows go")
	}
}

func TestResolveErrorsHoldNoKeys(t *testing.T) {
	s := connect(t, pgtest.DB(t))
	s.exec(t, `CREATE TABLE public.users (id int); CREATE TABLE public.birthdays (born date)`)
	c := handCatalog()
	users, birthdays := handTable(c, "users", "id int4"), handTable(c, "birthdays", "born date") // one subject to a table, as Compile wants it
	gone := handTable(c, "gone", "id int4")
	p := handPlan(c, []*Subject{
		{Type: "user", Table: users, Key: "id"}, {Type: "birthday", Table: birthdays, Key: "born", Family: Exact}, {Type: "gone", Table: gone, Key: "id"},
	})
	for _, test := range []struct{ subject, key, want string }{
		{"user", "secretname", "request 1 (R-1) for a user: the key is not a whole number"},
		{"nobody", "secretname", `the rules have no subject "nobody"`},
		{"birthday", "secretname", "SQLSTATE 22007"},
		{"birthday", "secret\x00name", "NUL"},
		{"gone", "4711", "SQLSTATE 42P01"},
	} {
		_, err := p.Resolve(context.Background(), s, []Request{{Subject: test.subject, Key: test.key, Ref: "R-1"}})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", test.subject, err, test.want)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "4711")) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
	// A date has more than one spelling; the server's counts.
	s.exec(t, `INSERT INTO public.birthdays VALUES ('2020-02-03')`)
	e, err := p.Resolve(context.Background(), s, []Request{{Subject: "birthday", Key: "3 Feb 2020"}})
	if err != nil || len(e.Missing) != 0 {
		t.Errorf("missing %v, %v", e.Missing, err)
	}
}

// Requests are UTF-8; the rows of a database in another encoding are not. Its bytes pass untouched.
func TestResolveOtherEncodings(t *testing.T) {
	for _, encoding := range []string{"UTF8", "LATIN1", "SQL_ASCII"} {
		s := connect(t, pgtest.DB(t, "TEMPLATE template0", "ENCODING '"+encoding+"'", "LOCALE 'C'"))
		ada := "Ad\u00e4 'x' \\"
		stored := ada
		if encoding == "LATIN1" {
			stored = "Ad\xe4 'x' \\"
		}
		s.exec(t, "SET client_encoding = "+encoding+`;
			CREATE TABLE public.users (nick text); CREATE TABLE public.posts (id text, author varchar(40)); CREATE TABLE public.comments (id int, post text);
			INSERT INTO public.users VALUES (`+catalog.Literal(stored)+`); INSERT INTO public.posts VALUES ('`+stored[:4]+`', `+catalog.Literal(stored)+`), ('b', 'Bob');
			INSERT INTO public.comments VALUES (1, '`+stored[:4]+`'), (2, 'b')`)
		c := handCatalog()
		users := handTable(c, "users", "nick text")
		posts := handTable(c, "posts", "id text", "author varchar")
		comments := handTable(c, "comments", "id int4", "post text")
		p := handPlan(c, []*Subject{{Type: "user", Table: users, Key: "nick", Family: Text}},
			edge(posts, "author", users, "nick", Delete, Text), edge(comments, "post", posts, "id", Delete, Text))
		e, err := p.Resolve(context.Background(), s, []Request{{Subject: "user", Key: ada}})
		if err != nil {
			t.Fatal(err)
		}
		if got := hits(t, s, p, e, p.Edges[1]); !slices.Equal(got, []string{"1=0"}) || len(e.Missing) != 0 {
			t.Errorf("%s: %v, missing %v", encoding, got, e.Missing)
		}
	}
}

// Keys are equal exactly where the server says =.
func TestAppendKeyAgreesWithServer(t *testing.T) {
	s := connect(t, pgtest.DB(t))
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	for _, test := range []struct {
		typ    string
		family Family
		value  func() string
	}{
		{"bigint", Integer, func() string {
			return pick("", "+", "-") + pick("", "0", "00") + fmt.Sprint(random.IntN(40)) + pick("", "0", "00")
		}},
		{"numeric", Numeric, func() string {
			return pick("", "-", "+") + fmt.Sprint(random.IntN(3)) + pick("", ".", ".0", ".5", ".50", ".500") + pick("", "", "e1", "e-1", "E+2", "e0")
		}},
		{"numeric", Numeric, func() string { return pick("NaN", "Infinity", "-Infinity", "nan", "inf", "0", "-0", "0.0", "1") }},
		{"uuid", UUID, func() string {
			h := strings.Repeat("a0", 15) + pick("01", "1A", "1a", "02")
			h = pick(h, strings.ToUpper(h))
			return pick(h, "{"+h+"}", h[:8]+"-"+h[8:12]+"-"+h[12:16]+"-"+h[16:20]+"-"+h[20:])
		}},
		{"char(8)", PaddedText, func() string { return pick("", " ") + pick("a", "b", "ab", "A", "") + pick("", " ", "  ") }},
		{"text", Text, func() string {
			return pick("", " ") + pick("a", "b", "ab", "A", "é", `\`, `"`, "'") + pick("", " ", "\t")
		}},
	} {
		var as, bs, wants []string
		var la, ra []byte
		for range 400 {
			a, b := test.value(), test.value()
			as, bs = append(as, a), append(bs, b)
			la, ra = appendElement(la, a), appendElement(ra, b)
		}
		cast := test.typ
		sql := "SELECT a::" + cast + " = b::" + cast + " FROM unnest(" + catalog.Literal(string(la)+"}") + "::text[], " +
			catalog.Literal(string(ra)+"}") + "::text[]) WITH ORDINALITY AS k(a, b, o) ORDER BY o"
		wants = s.rows(t, sql)
		same := 0
		for i := range as {
			// Both as typed: what the server prints is one of these spellings.
			ka, ok1 := AppendKey(nil, test.family, []byte(as[i]))
			kb, ok2 := AppendKey(nil, test.family, []byte(bs[i]))
			if !ok1 || !ok2 {
				t.Fatalf("%s: %q or %q is refused", test.typ, as[i], bs[i])
			}
			if equal := bytes.Equal(ka, kb); equal != (wants[i] == "t") {
				t.Errorf("%s: %q and %q: keys equal %v, the server says %s", test.typ, as[i], bs[i], equal, wants[i])
			} else if equal {
				same++
			}
		}
		if same == 0 || same == len(as) {
			t.Errorf("%s: the values drawn are all equal or all different", test.typ)
		}
	}
}
