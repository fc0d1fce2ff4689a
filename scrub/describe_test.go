package scrub

import (
	"slices"
	"strings"
	"testing"

	"lethe/scrub/catalog"
)

func TestDescribe(t *testing.T) {
	p := mustCompile(t, erasing, erasingRules)
	var b strings.Builder
	p.Describe(&b)
	const want = `users
  the row of an erased user: stays, as nobody
  an erased person's row that stays: email: unique_email
  an erased person's row that stays: name: value
  an erased person's row that stays: age: value
posts
  every row: note: mask
  an erased person's row that stays: card: clear
  an erased person's row that stays: note: value
  kept because: law
  reached through user_id to users: the row goes (line 13)
  reached through editor_id to users: NULL in editor_id (line 13)
  reached through payer_id to users: the row stays, and is theirs (line 13)
likes
  reached through target to users where kind = 'User': the row goes (line 14)
jobs
  reached through args to users: null at $.user_id (line 15)
cars
  reached through user_id to users: the default in user_id (the schema: cars_user_id_fkey)
spots
  reached through user_id to users: the row goes (the schema: s)
seats
  reached through (org, user_id) to spots: NULL in org, user_id (line 16)
gone
  every row: left out, structure only
`
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
}

// What is left alone is told too, and counts as named.
func TestDescribeLeft(t *testing.T) {
	p := mustCompile(t, users+`CREATE TABLE public.roles (id int PRIMARY KEY, note text, granter bigint NOT NULL REFERENCES public.users(id));
		CREATE TABLE public.ev (at date, who bigint REFERENCES public.users(id)) PARTITION BY RANGE (at);
		CREATE TABLE public.ev_1 PARTITION OF public.ev DEFAULT;`,
		subject+"erase:\n  users: {redact: {email: clear}}\n  roles: {leave: granter}\n  ev: {leave: who}\n")
	var b strings.Builder
	p.Describe(&b)
	const want = `users
  the row of an erased user: stays, as nobody
  an erased person's row that stays: email: clear
roles
  not reached through granter to users: left as it is (line 7)
ev
  not reached through who to users: left as it is (line 8)
`
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
	if len(p.Edges) != 0 || len(p.Left) != 2 {
		t.Errorf("%d edges to follow, %d left", len(p.Edges), len(p.Left))
	}
	previous := map[catalog.Name][]string{public("users"): columnsOf(p.Catalog.Tables[public("users")]), public("roles"): {"id"}}
	if got, want := p.Drift(previous), []string{"column roles.note is new, and no rule names it"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDrift(t *testing.T) {
	p := mustCompile(t, erasing+`CREATE TABLE public.fresh (a text); CREATE TABLE public.ev (id int, x text) PARTITION BY RANGE (id);
		CREATE TABLE public.ev_1 (id int, x text); ALTER TABLE ONLY public.ev ATTACH PARTITION public.ev_1 FOR VALUES FROM (0) TO (9);`, erasingRules)
	previous := map[catalog.Name][]string{}
	for _, table := range p.Catalog.Order {
		if table.Kind == catalog.Ordinary && table.Name.Name != "fresh" {
			previous[table.Name] = columnsOf(table)
		}
	}
	if got, want := p.Drift(previous), []string{"table fresh is new, and no rule names it"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	previous[public("fresh")] = []string{"a"}
	previous[public("users")] = []string{"id", "deleted_at"}              // the others are redacted
	previous[public("posts")] = []string{"id", "user_id", "card", "note"} // body is named by nothing
	previous[public("ev_1")] = []string{"id"}                             // x is new in ev
	delete(previous, public("gone"))                                      // new, and ruled
	want := []string{"column posts.body is new, and no rule names it", "column ev.x is new, and no rule names it"}
	if got := p.Drift(previous); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestServerEdges(t *testing.T) {
	p := mustCompile(t, users+"CREATE EXTENSION citext WITH SCHEMA public; CREATE TABLE public.c (k public.citext PRIMARY KEY, uid bigint REFERENCES public.users(id) ON DELETE CASCADE); CREATE TABLE public.d (k public.citext REFERENCES public.c(k) ON DELETE CASCADE);",
		subject+"erase:\n  users: {redact: {email: unique_email}}\n")
	if got, want := p.ServerEdges(), []string{"k of d (to c)"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLargeObjectColumns(t *testing.T) {
	p := mustCompile(t, users+"CREATE TABLE public.files (uid bigint REFERENCES public.users(id) ON DELETE CASCADE, data oid); CREATE TABLE public.pics (uid bigint NOT NULL REFERENCES public.users(id), data oid, thumb oid);",
		subject+"erase:\n  users: {redact: {email: unique_email}}\n  pics: {keep: uid, redact: {data: clear}, reason: law}\n")
	if got := p.Tables[public("files")].LargeObjectColumns; !slices.Equal(got, []string{"data"}) {
		t.Errorf("files: %q", got)
	}
	if got := p.Tables[public("pics")].LargeObjectColumns; !slices.Equal(got, []string{"data"}) {
		t.Errorf("pics: %q", got)
	}
}
