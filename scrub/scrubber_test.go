package scrub

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"lethe/scrub/catalog"
	"lethe/scrub/mask"
)

func public(name string) catalog.Name { return catalog.Name{Schema: "public", Name: name} }

// marked marks keys as erased, as Resolve would: each mark is `TABLE.COLUMN=KEY:REQUEST` for every reference of that
// column, or `TYPE:KEY:REQUEST` for a subject's own row.
func marked(t testing.TB, p *Plan, marks ...string) *Erased {
	t.Helper()
	e := newErased(p)
	for _, mark := range marks {
		var request uint32
		i := strings.LastIndex(mark, ":")
		if _, err := fmt.Sscan(mark[i+1:], &request); err != nil {
			t.Fatal(err)
		}
		mark = mark[:i]
		if what, key, ok := strings.Cut(mark, "="); ok {
			found := false
			for _, edge := range p.Edges {
				if edge.From.Name.Name+"."+strings.Join(edge.Columns, ",") == what {
					var text []byte
					for j, part := range strings.Split(key, ",") {
						text, _ = AppendKey(text, edge.Family[j], []byte(part))
					}
					e.targets[e.byEdge[edge.ID]].keys.add(e.hash.sum(text), request)
					found = true
				}
			}
			if !found {
				t.Fatalf("no reference %s", what)
			}
			continue
		}
		kind, key, _ := strings.Cut(mark, ":")
		text, _ := AppendKey(nil, p.Subjects[kind].Family, []byte(key))
		e.subjects[kind].add(e.hash.sum(text), request)
	}
	return e
}

func columnsOf(t *catalog.Table) (columns []string) {
	for _, c := range t.Columns {
		if c.Generated == "" {
			columns = append(columns, c.Name)
		}
	}
	return columns
}

func scrubberOf(t testing.TB, p *Plan, table string, e *Erased) *Scrubber {
	t.Helper()
	keys := Keys{Strategy: mask.Key{1}, Erase: []mask.Key{{2}, {3}}}
	s, err := p.Scrubber(public(table), columnsOf(p.Catalog.Tables[public(table)]), keys, e)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func scrubRow(t testing.TB, s *Scrubber, row string) (string, Action) {
	t.Helper()
	out, action, err := s.Append([]byte("before|"), []byte(row+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	text, ok := strings.CutPrefix(string(out), "before|")
	if !ok {
		t.Fatalf("what stood in dst is gone: %q", out)
	}
	if action == Dropped {
		if text != "" {
			t.Fatalf("a dropped row left %q", text)
		}
		return "", action
	}
	line, ok := strings.CutSuffix(text, "\n")
	if !ok {
		t.Fatalf("no newline: %q", text)
	}
	return line, action
}

const erasing = users + `
CREATE TABLE public.posts (id bigint PRIMARY KEY, user_id bigint REFERENCES public.users(id), editor_id bigint REFERENCES public.users(id), payer_id bigint REFERENCES public.users(id),
	body text, card text, note text);
CREATE TABLE public.likes (kind text, target text, n integer);
CREATE TABLE public.jobs (args jsonb);
CREATE TABLE public.cars (plate text, user_id bigint DEFAULT 7 REFERENCES public.users(id) ON DELETE SET DEFAULT);
CREATE TABLE public.spots (org integer, user_id bigint, PRIMARY KEY (org, user_id));
CREATE TABLE public.seats (no integer, org integer, user_id bigint, FOREIGN KEY (org, user_id) REFERENCES public.spots(org, user_id));
ALTER TABLE ONLY public.spots ADD CONSTRAINT s FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
CREATE TABLE public.gone (a text);
`

const erasingRules = subject + `references:
  likes.target: {to: users.id, when: {kind: User}}
  jobs.args: {to: users.id, path: $.user_id}
always:
  posts.note: {mask: {keep_first: 1}}
  gone: no_rows
erase:
  users: {redact: {email: unique_email, name: {value: Nobody}, age: {value: {is: '0', even_null: true}}}}
  posts: {delete: user_id, clear: editor_id, keep: payer_id, redact: {card: clear, note: {value: erased}}, reason: law}
  likes: {delete: target}
  jobs: {clear: args}
  seats: {clear: '(org, user_id)'}
`

func TestScrubberVerdicts(t *testing.T) {
	p := mustCompile(t, erasing, erasingRules)
	e := marked(t, p, "user:42:0", "user:43:1", "posts.user_id=42:0", "posts.user_id=43:1", "seats.org,user_id=1,42:0")
	for _, c := range []struct {
		table, row, want string
		action           Action
	}{
		{"posts", `1	5	\N	\N	a\tb\x41	4111	hello`, `1	5	\N	\N	a\tb\x41	4111	h****`, Rewritten},
		{"posts", `1	5	\N	\N	a\tb\x41	4111	\N`, `1	5	\N	\N	a\tb\x41	4111	\N`, Passed},
		{"posts", `1	42	\N	\N	x	4111	hello`, "", Dropped},
		{"posts", `1	0042	\N	\N	x	4111	hello`, "", Dropped},
		{"posts", `1	5	42	\N	x	4111	\N`, `1	5	\N	\N	x	4111	\N`, Cleared},
		{"posts", `1	5	6	43	x	4111	hello`, `1	5	6	43	x	\N	e*****`, Redacted},
		{"posts", `1	5	42	43	x	4111	\N`, `1	5	\N	43	x	\N	\N`, Redacted},
		{"posts", `1	42	42	43	x	4111	\N`, "", Dropped},
		{"likes", `User	42	1`, "", Dropped},
		{"likes", `Post	42	1`, `Post	42	1`, Passed},
		{"likes", `\N	42	1`, `\N	42	1`, Passed},
		{"likes", `User	x42	1`, `User	x42	1`, Passed},
		{"jobs", `{"user_id": 42, "x": [1]}`, `{"user_id": null, "x": [1]}`, Cleared},
		{"jobs", `{"user_id": "42", "x": "a\\\\b"}`, `{"user_id": null, "x": "a\\\\b"}`, Cleared},
		{"jobs", `{"user_id": 5}`, `{"user_id": 5}`, Passed},
		{"jobs", `\N`, `\N`, Passed},
		{"cars", `AB	43`, `AB	7`, Cleared},
		{"cars", `AB	5`, `AB	5`, Passed},
		{"seats", `9	1	42`, `9	\N	\N`, Cleared},
		{"seats", `9	2	42`, `9	2	42`, Passed},
		{"seats", `9	\N	42`, `9	\N	42`, Passed},
		{"spots", `1	42`, "", Dropped},
		{"gone", `x`, "", Dropped},
	} {
		t.Run(c.table+" "+c.row, func(t *testing.T) {
			got, action := scrubRow(t, scrubberOf(t, p, c.table, e), c.row)
			if got != c.want || action != c.action {
				t.Errorf("got %q (%d), want %q (%d)", got, action, c.want, c.action)
			}
		})
	}
}

func TestScrubberRedactsTheSubject(t *testing.T) {
	p := mustCompile(t, erasing, erasingRules)
	s := scrubberOf(t, p, "users", marked(t, p, "user:42:0", "user:43:1"))
	one, action := scrubRow(t, s, `42	a@b.example	Ada	\N	\N`)
	two, _ := scrubRow(t, s, `43	a@b.example	Ada	7	\N`)
	again, _ := scrubRow(t, s, `42	a@b.example	Ada	\N	\N`)
	if action != Redacted || strings.Contains(one, "a@b") || strings.Contains(one, "Ada") || !strings.HasPrefix(one, "42\tu") || !strings.HasSuffix(one, "\tNobody\t0\t\\N") {
		t.Errorf("redacted to %q", one)
	}
	if one != again {
		t.Errorf("the same row becomes %q and %q", one, again)
	}
	if strings.Split(one, "\t")[1] == strings.Split(two, "\t")[1] {
		t.Errorf("two requests write the same address for one value: it links the people")
	}
	if got, action := scrubRow(t, s, `44	a@b.example	Ada	\N	\N`); action != Passed || got != `44	a@b.example	Ada	\N	\N` {
		t.Errorf("somebody else's row became %q", got)
	}
	if want := (Counts{Rows: 4, Redacted: 3}); s.Counts != want {
		t.Errorf("counts %+v, want %+v", s.Counts, want)
	}
}

func TestScrubberCountsOthers(t *testing.T) {
	p := mustCompile(t, erasing, strings.Replace(erasingRules, "{delete: user_id, clear: editor_id, keep: payer_id, redact: {card: clear, note: {value: erased}}, reason: law}",
		"{delete: [user_id, editor_id, payer_id]}", 1))
	s := scrubberOf(t, p, "posts", marked(t, p, "posts.user_id=42:0", "posts.user_id=43:1"))
	for _, row := range []string{
		`1	42	\N	\N	x	\N	\N`, // theirs alone
		`2	42	43	42	x	\N	\N`, // erased people's
		`3	42	5	\N	x	\N	\N`,  // somebody else's too
		`4	5	6	\N	x	\N	\N`,   // stays
	} {
		scrubRow(t, s, row)
	}
	if want := (Counts{Rows: 4, Dropped: 3, OthersDropped: 1}); s.Counts != want {
		t.Errorf("counts %+v, want %+v", s.Counts, want)
	}
}

func TestScrubberStrategies(t *testing.T) {
	ddl := `CREATE EXTENSION citext WITH SCHEMA public;
		CREATE DOMAIN public.short AS character varying(6);
		CREATE TABLE public.t (txt text, c character(12), arr text[], ci public.citext, u uuid, j jsonb, ip inet, net cidr, d date, ts timestamptz, r public.short, v text, w text, k character varying(24));`
	p := mustCompile(t, ddl, `always:
  t.txt: {mask: {keep_first: 1, keep_last: 1, with: x}}
  t.c: {mask: {keep_last: 2}}
  t.arr: {mask: {keep_first: 1}}
  t.ci: unique_email
  t.u: hmac
  t.j: {json: {remove: [$.ip], set: {$.name: x}}}
  t.ip: {ip_prefix: {v4: 16, v6: 48}}
  t.net: {ip_prefix: {v4: 8, v6: 32}}
  t.d: {date_trunc: year}
  t.ts: {date_trunc: month}
  t.r: {regex: {match: '[0-9]', replace: '##'}}
  t.v: {value: "a\tb"}
  t.w: {value: {is: w, even_null: true}}
  t.k: hmac
`)
	s := scrubberOf(t, p, "t", nil)
	row := "h\\tllo\tabcdef      \t{ab,NULL,\"c d\"}\tA@b\t3f2c9a70-0000-4000-8000-000000000001\t{\"ip\": 1, \"name\": \"n\"}\t10.1.2.3/24\t10.1.0.0/16\t2020-05-06\t2020-05-06 07:08:09+00\ta1b2\tzzz\t\\N\tkey"
	got, action := scrubRow(t, s, row)
	fields := strings.Split(got, "\t")
	for i, want := range []string{"hxxxo", "****ef", "{a*,NULL,c**}", "", "", `{"name": "x"}`, "10.1.0.0", "10.0.0.0/16", "2020-01-01", "2020-05-01 00:00:00+00", "a##b##", `a\tb`, "w", ""} {
		if want != "" && fields[i] != want {
			t.Errorf("column %d became %q, want %q", i, fields[i], want)
		}
	}
	if action != Rewritten || !strings.HasSuffix(fields[3], "@erased.invalid") || len(fields[4]) != 36 || len(fields[13]) != 24 {
		t.Errorf("got %q (%d)", got, action)
	}
	folded, _ := scrubRow(t, s, strings.Replace(row, "A@b", "a@B", 1))
	if strings.Split(folded, "\t")[3] != fields[3] {
		t.Error("citext values that are equal became different addresses")
	}
	nulls := strings.TrimSuffix(strings.Repeat("\\N\t", 14), "\t")
	if got, _ := scrubRow(t, s, nulls); got != strings.Replace(nulls, `\N	\N`, `\N	\N`, 1)[:36]+"w\t\\N" {
		t.Errorf("NULLs became %q", got)
	}

	_, _, err := s.Append(nil, []byte(strings.Replace(row, "a1b2", "1234", 1)+"\n"))
	if err == nil || !strings.Contains(err.Error(), "scrubbing row 4: column r: the new value is longer than the 6 characters") || strings.Contains(err.Error(), "1234") {
		t.Errorf("a value that grows too long: %v", err)
	}
	_, _, err = s.Append(nil, []byte(strings.Replace(row, `"name"`, `name`, 1)+"\n"))
	if err == nil || !strings.Contains(err.Error(), "scrubbing row 5: column j: ") || strings.Contains(err.Error(), `ip`) {
		t.Errorf("broken JSON: %v", err)
	}
	if out, _, err := s.Append([]byte("x"), []byte("a\tb\n")); err == nil || string(out) != "x" {
		t.Errorf("a short row: %q, %v", out, err)
	}
}

func TestCarriedKeysAreEqual(t *testing.T) {
	p := mustCompile(t, `
		CREATE TABLE public.a (code character varying(40) PRIMARY KEY);
		CREATE TABLE public.b (x text, a_code text REFERENCES public.a(code), own text);
		CREATE TABLE public.c (b_code text REFERENCES public.a(code));
		ALTER TABLE ONLY public.a ADD COLUMN up text;
		ALTER TABLE ONLY public.a ADD CONSTRAINT up FOREIGN KEY (up) REFERENCES public.a(code);`,
		"always:\n  a.code: hmac\n  b.own: hmac\n  c.b_code: clear\n")
	a, _ := scrubRow(t, scrubberOf(t, p, "a", nil), "k1\tk1")
	b, _ := scrubRow(t, scrubberOf(t, p, "b", nil), "k1\tk1\tk1")
	c, _ := scrubRow(t, scrubberOf(t, p, "c", nil), "k1")
	fields := strings.Split(b, "\t")
	if key := strings.Split(a, "\t"); key[0] != key[1] || key[0] != fields[1] || len(key[0]) != 40 {
		t.Errorf("key %q, reference %q", key, fields[1])
	}
	if fields[0] != "k1" || strings.HasPrefix(fields[2], fields[1]) || c != `\N` {
		t.Errorf("others became %q, %q", b, c)
	}
}

func TestScrubberPartitions(t *testing.T) {
	p := mustCompile(t, users+`
		CREATE TABLE public.ev (id bigint NOT NULL, uid bigint, other bigint, x text) PARTITION BY RANGE (id);
		CREATE TABLE public.ev_1 (x text, other bigint, uid bigint, id bigint NOT NULL);
		CREATE TABLE public.ev_2 (id bigint NOT NULL, uid bigint, other bigint, x text);
		ALTER TABLE ONLY public.ev ATTACH PARTITION public.ev_1 FOR VALUES FROM (0) TO (100);
		ALTER TABLE ONLY public.ev ATTACH PARTITION public.ev_2 FOR VALUES FROM (100) TO (200);
		ALTER TABLE public.ev ADD CONSTRAINT ev_u FOREIGN KEY (uid) REFERENCES public.users(id) ON DELETE CASCADE;
		ALTER TABLE ONLY public.ev_1 ADD CONSTRAINT own FOREIGN KEY (other) REFERENCES public.users(id) ON DELETE SET NULL;`,
		subject+"always:\n  ev.x: {value: v}\nerase:\n  users: {redact: {email: unique_email}}\n")
	if len(p.Edges) != 2 {
		t.Fatalf("%d edges, want the root's and the partition's own", len(p.Edges))
	}
	e := marked(t, p, "ev.uid=42:0")
	for _, c := range []struct{ table, row, want string }{
		{"ev_1", "a\t5\t42\t1", ""},
		{"ev_1", "a\t42\t5\t1", "v\t\\N\t5\t1"},
		{"ev_2", "1\t42\t5\ta", ""},
		{"ev_2", "1\t5\t42\ta", "1\t5\t42\tv"},
	} {
		if got, _ := scrubRow(t, scrubberOf(t, p, c.table, e), c.row); got != c.want {
			t.Errorf("%s %q became %q, want %q", c.table, c.row, got, c.want)
		}
	}
}

func TestScrubberPassThrough(t *testing.T) {
	p := mustCompile(t, erasing+"CREATE TABLE public.alone (a text);", erasingRules)
	for table, want := range map[string]bool{"alone": true, "users": true, "likes": true, "posts": false, "gone": false} {
		if got := scrubberOf(t, p, table, newErased(p)).PassThrough(); got != want {
			t.Errorf("%s passes through: %v", table, got)
		}
	}
	if _, err := p.Scrubber(public("nowhere"), nil, Keys{}, nil); err == nil {
		t.Error("a table that the schema does not define was scrubbed")
	}
	if _, err := p.Scrubber(public("posts"), []string{"id"}, Keys{}, nil); err == nil || !strings.Contains(err.Error(), "column note") {
		t.Errorf("a missing column: %v", err)
	}
}

func TestScrubberAfterNoRows(t *testing.T) {
	p := mustCompile(t, `CREATE TABLE public.a (id int PRIMARY KEY);
		CREATE TABLE public.b (a int REFERENCES public.a(id) ON DELETE CASCADE);
		CREATE TABLE public.c (a int REFERENCES public.a(id) ON DELETE SET NULL);`, "always:\n  a: no_rows\n")
	if got, _ := scrubRow(t, scrubberOf(t, p, "b", newErased(p)), "1"); got != "" {
		t.Errorf("b became %q", got)
	}
	if got, _ := scrubRow(t, scrubberOf(t, p, "c", newErased(p)), "1"); got != `\N` {
		t.Errorf("c became %q", got)
	}
	if got, _ := scrubRow(t, scrubberOf(t, p, "b", newErased(p)), `\N`); got != `\N` {
		t.Errorf("b became %q", got)
	}
	if _, err := p.Scrubber(public("b"), []string{"a"}, Keys{}, nil); err == nil {
		t.Error("rows that lead nowhere passed, since nothing was resolved")
	}
}

func TestScrubberDefaultThatIsErased(t *testing.T) {
	p := mustCompile(t, users+`CREATE TABLE public.cars (user_id bigint DEFAULT 7 REFERENCES public.users(id) ON DELETE SET DEFAULT);`,
		subject+"erase:\n  users: {delete: true}\n")
	_, err := p.Scrubber(public("cars"), []string{"user_id"}, Keys{Erase: make([]mask.Key, 1)}, marked(t, p, "cars.user_id=7:0"))
	if err == nil || !strings.Contains(err.Error(), "that is itself erased") {
		t.Errorf("got %v", err)
	}
}

// hotRow is a row and the Scrubber that it goes through: each kind of work that is done to very many rows.
type hotRow struct {
	name string
	s    *Scrubber
	row  string
}

func hotRows(t testing.TB) []hotRow {
	t.Helper()
	p := mustCompile(t, erasing, erasingRules)
	e := marked(t, p, "posts.user_id=42:0")
	const text = "Hello there,\\nthis is a text of a usual length; see c:\\\\temp."
	always := func(strategy string) *Scrubber {
		return scrubberOf(t, mustCompile(t, `CREATE TABLE public.t (id bigint, a text, b text);`, "always:\n  t.a: "+strategy+"\n"), "t", nil)
	}
	return []hotRow{
		{"untouched", scrubberOf(t, p, "likes", nil), "User\t42\t7\n"},
		{"references", scrubberOf(t, p, "posts", e), "1\t5\t6\t7\t" + text + "\tx\t\\N\n"},
		{"cut", scrubberOf(t, p, "posts", e), "1\t5\t42\t7\t" + text + "\tx\t\\N\n"},
		{"redact", scrubberOf(t, p, "posts", e), "1\t5\t6\t42\t" + text + "\tx\ty\n"},
		{"drop", scrubberOf(t, p, "posts", e), "1\t42\t6\t42\t" + text + "\tx\ty\n"},
		{"clear", always("clear"), "1\tanna@example.org\t" + text + "\n"},
		{"value", always("{value: v}"), "1\tanna@example.org\t" + text + "\n"},
		{"hmac", always("hmac"), "1\tanna@example.org\t" + text + "\n"},
		{"ip_prefix", always("ip_prefix"), "1\t192.168.17.4\t" + text + "\n"},
	}
}

func TestScrubberAllocatesNothing(t *testing.T) {
	for _, c := range hotRows(t) {
		dst, row := make([]byte, 0, 4096), []byte(c.row)
		if n := testing.AllocsPerRun(100, func() {
			if _, _, err := c.s.Append(dst, row); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations per row", c.name, n)
		}
	}
}

func BenchmarkScrubber(b *testing.B) {
	for _, c := range hotRows(b) {
		b.Run(c.name, func(b *testing.B) {
			dst, row := make([]byte, 0, 4096), []byte(c.row)
			b.SetBytes(int64(len(row)))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := c.s.Append(dst, row); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// hotIndexer collects keys of a usual table: a reference, one with a condition, and one inside jsonb.
func hotIndexer(t testing.TB) (x *Indexer, row []byte) {
	t.Helper()
	refs := []Reference{{Columns: []string{"user_id"}, Families: []Family{Integer}}, {Columns: []string{"owner"}, Families: []Family{UUID}}, {Columns: []string{"args"}, Path: "$.user_id", Families: []Family{Integer}}}
	x, err := NewIndexer(catalog.Name{Schema: "public", Name: "t"}, refs, []string{"user_id", "owner", "args", "text"}, 7)
	if err != nil {
		t.Fatal(err)
	}
	return x, []byte("42\t0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0\t{\"user_id\": 42, \"why\": \"a word or two\"}\tHello there\n")
}

func TestIndexerAllocatesNothing(t *testing.T) {
	x, row := hotIndexer(t)
	if n := testing.AllocsPerRun(100, func() { x.Add(row) }); n != 0 {
		t.Errorf("%v allocations per row", n)
	}
	for i, k := range x.Take() {
		if !k.Known || len(k.Hashes) != 1 {
			t.Errorf("reference %d: %+v", i, k)
		}
	}
}

// TestIndexerKeepsNotTooMany: a piece of very many keys costs bounded memory, and loses none where they are the same again
// and again.
func TestIndexerKeepsNotTooMany(t *testing.T) {
	refs := []Reference{{Columns: []string{"id"}, Families: []Family{Integer}}, {Columns: []string{"kind"}, Families: []Family{Integer}}}
	x, err := NewIndexer(catalog.Name{Schema: "public", Name: "t"}, refs, []string{"id", "kind"}, 7)
	if err != nil {
		t.Fatal(err)
	}
	var row []byte
	for i := range 5 * maxHashes {
		row = fmt.Appendf(row[:0], "%d\t%d\n", i, i*i%1009)
		x.Add(row)
	}
	keys := x.Take()
	if k := keys[0]; !k.Known || !k.Many || len(k.Hashes) > 0 || !k.Integers || k.MaxInteger != 5*maxHashes-1 {
		t.Errorf("of too many keys it says %+v", k)
	}
	slices.Sort(keys[1].Hashes)
	if k := keys[1]; !k.Known || k.Many || len(k.Hashes) > 2*maxHashes || len(slices.Compact(k.Hashes)) != 505 { // the squares modulo a prime
		t.Errorf("of few keys in many rows it says Known %v, Many %v, and has %d hashes", k.Known, k.Many, len(k.Hashes))
	}
	x.Add([]byte("1\t1\n"))
	if k := x.Take()[0]; k.Many || len(k.Hashes) != 1 {
		t.Errorf("the next piece begins with %d hashes, Many %v", len(k.Hashes), k.Many)
	}
}

func BenchmarkIndexer(b *testing.B) {
	x, row := hotIndexer(b)
	b.SetBytes(int64(len(row)))
	b.ReportAllocs()
	for b.Loop() {
		x.Add(row)
	}
}

func TestEraseKeys(t *testing.T) {
	p := mustCompile(t, erasing, erasingRules)
	reqs := []Request{{Subject: "user", Key: "42", Ref: "R1"}, {Subject: "user", Key: "0042", Ref: "R1"}, {Subject: "user", Key: "42", Ref: "R2"}}
	keys, err := p.Keys(mask.Key{1}, reqs)
	if err != nil {
		t.Fatal(err)
	}
	if keys.Erase[0] != keys.Erase[1] || keys.Erase[0] == keys.Erase[2] || slices.Contains(keys.Erase, keys.Strategy) {
		t.Error("the key of a request without a record depends on its subject and reference, and on nothing else")
	}
	for i := range reqs {
		reqs[i].Salt = mask.Key{7}
	}
	reqs[2].Salt = mask.Key{8}
	one, err1 := p.Keys(mask.Key{1}, reqs)
	reqs[0].Key, reqs[0].Ref = "no number, which the schema of another day may have had", "R3"
	two, err2 := p.Keys(mask.Key{2}, reqs)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if !slices.Equal(one.Erase, two.Erase) || one.Erase[0] != one.Erase[1] || one.Erase[0] == one.Erase[2] || one.Erase[0] == (mask.Key{7}) {
		t.Error("the key of a recorded request depends on its record's salt, and on nothing else")
	}
}

// TestLowestRequestWrites: which of several people's requests rewrites a row must not depend on the order of columns.
func TestLowestRequestWrites(t *testing.T) {
	ddl := users + "CREATE TABLE public.m (a bigint REFERENCES public.users(id), b bigint REFERENCES public.users(id), mail text);"
	p := mustCompile(t, ddl, subject+"erase:\n  users: {redact: {email: unique_email}}\n  m: {keep: [a, b], redact: {mail: unique_email}, reason: law}\n")
	s := scrubberOf(t, p, "m", marked(t, p, "m.a=42:0", "m.a=43:1"))
	var mails []string
	for _, row := range []string{"42\t\\N\tx", "42\t43\tx", "43\t42\tx", "43\t43\tx"} {
		got, _ := scrubRow(t, s, row)
		mails = append(mails, strings.Split(got, "\t")[2])
	}
	if mails[0] != mails[1] || mails[0] != mails[2] || mails[0] == mails[3] {
		t.Errorf("addresses %q", mails)
	}
}

// TestCutBeatsDefault: a column that one reference cuts and another sets to its default becomes NULL, in either order.
func TestCutBeatsDefault(t *testing.T) {
	for _, keys := range []string{
		"a bigint DEFAULT 7 REFERENCES public.users(id) ON DELETE SET DEFAULT REFERENCES public.users(id) ON DELETE SET NULL",
		"a bigint DEFAULT 7 REFERENCES public.users(id) ON DELETE SET NULL REFERENCES public.users(id) ON DELETE SET DEFAULT",
	} {
		p := mustCompile(t, users+"CREATE TABLE public.m ("+keys+");", subject+"erase:\n  users: {redact: {email: unique_email}}\n")
		if got, _ := scrubRow(t, scrubberOf(t, p, "m", marked(t, p, "m.a=42:0")), "42"); len(p.Edges) != 2 || got != `\N` {
			t.Errorf("%d references make it %q", len(p.Edges), got)
		}
	}
}

// TestKeyDomainIsTheKeys: the rule may stand at either end, and a new reference changes no value.
func TestKeyDomainIsTheKeys(t *testing.T) {
	const ddl = "CREATE TABLE public.z (code text PRIMARY KEY); CREATE TABLE public.b (code text REFERENCES public.z(code));"
	var got []string
	for _, c := range []struct{ ddl, rule string }{
		{ddl, "z.code: hmac"}, {ddl, "b.code: hmac"}, {ddl + "CREATE TABLE public.a (code text REFERENCES public.z(code));", "z.code: hmac"},
		{"CREATE TABLE public.z (code text PRIMARY KEY);", "z.code: hmac"},
	} {
		key, _ := scrubRow(t, scrubberOf(t, mustCompile(t, c.ddl, "always:\n  "+c.rule+"\n"), "z", nil), "k")
		got = append(got, key)
	}
	if len(slices.Compact(slices.Clone(got))) != 1 {
		t.Errorf("the key became %q", got)
	}
}
