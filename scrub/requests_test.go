package scrub

import (
	"context"
	"slices"
	"strings"
	"testing"

	"lethe/pipeline/pgtemp/pgtest"
)

const severalSubjects = `
CREATE DOMAIN public.even AS integer CHECK (VALUE % 2 = 0);
CREATE TYPE public.size AS ENUM ('small', 'large');
CREATE TABLE public.users (id bigint PRIMARY KEY, email text, handle character varying(20), code character(8), born date, lucky integer);
CREATE TABLE public.teams (id uuid PRIMARY KEY) PARTITION BY HASH (id);
CREATE TABLE public.teams_0 PARTITION OF public.teams FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE public.teams_1 PARTITION OF public.teams FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE public.days (id date PRIMARY KEY);
CREATE TABLE public.evens (id public.even PRIMARY KEY);
CREATE TABLE public.shirts (id public.size PRIMARY KEY);
CREATE TABLE public.amounts (id numeric PRIMARY KEY);
`

const severalSubjectRules = `subjects:
  user: {table: users, key: id, lookup: [email, handle, code, born, lucky]}
  team: {table: teams, key: id}
  day: {table: days, key: id}
  even: {table: evens, key: id}
  shirt: {table: shirts, key: id}
  amount: {table: amounts, key: id}
erase:
  users: {delete: true}
  teams: {delete: true}
  days: {delete: true}
  evens: {delete: true}
  shirts: {delete: true}
  amounts: {delete: true}
`

func TestCanonicalAndPresent(t *testing.T) {
	url := pgtest.DB(t)
	s := connect(t, url)
	s.exec(t, severalSubjects+`
		INSERT INTO public.users (id) VALUES (42); INSERT INTO public.teams VALUES ('3f2c9a70-0000-4000-8000-000000000001'), ('3f2c9a70-0000-4000-8000-000000000002');
		INSERT INTO public.days VALUES ('2026-11-20'); INSERT INTO public.evens VALUES (2); INSERT INTO public.shirts VALUES ('large'); INSERT INTO public.amounts VALUES (4.20)`)
	p := mustCompile(t, severalSubjects, severalSubjectRules)
	for _, c := range []struct {
		request   string
		canonical string // "": it can be nobody's
		present   bool
	}{
		{"user:0042", "42", true},
		{"user:43", "43", false},
		{"user:x", "", false},
		{"user:99999999999999999999", "", false},
		{"team:{3F2C9A70-0000-4000-8000-000000000001}", "3f2c9a70-0000-4000-8000-000000000001", true},
		{"team:3f2c9a70-0000-4000-8000-000000000002", "3f2c9a70-0000-4000-8000-000000000002", true},
		{"team:3f2c9a70-0000-4000-8000-000000000003", "3f2c9a70-0000-4000-8000-000000000003", false},
		{"day:20 November 2026", "2026-11-20", true},
		{"day:2026-02-30", "", false},
		{"even:2", "2", true},
		{"even:3", "3", false},
		{"shirt:large", "large", true},
		{"shirt:huge", "", false},
		{"amount:4.2", "4.2", true},
		{"nobody:1", "", false},
	} {
		kind, key, _ := strings.Cut(c.request, ":")
		reqs := []Request{{Subject: kind, Key: key, Ref: "R-1"}}
		keys, unfit, err := p.Canonical(context.Background(), s, reqs)
		if err != nil {
			t.Fatalf("%s: %v", c.request, err)
		}
		if c.canonical == "" {
			if unfit[0] == nil || strings.Contains(unfit[0].Error(), key) && len(key) > 1 {
				t.Errorf("%s: %v", c.request, unfit[0])
			}
			continue
		}
		if unfit[0] != nil || keys[0] != c.canonical {
			t.Errorf("%s is %q, %v, want %q", c.request, keys[0], unfit[0], c.canonical)
		}
		present, err := p.Present(context.Background(), s, reqs)
		if err != nil || present[0] != c.present {
			t.Errorf("%s: %v, %v", c.request, present, err)
		}
		if again, _, err := p.Canonical(context.Background(), s, []Request{{Subject: kind, Key: keys[0], Ref: "R-1"}}); err != nil || again[0] != keys[0] {
			t.Errorf("%s: the canonical key %q became %q, %v", c.request, keys[0], again[0], err)
		}
	}
	// Without a server: what needs none is done all the same.
	keys, unfit, err := p.Canonical(context.Background(), nil, []Request{{Subject: "user", Key: "007"}, {Subject: "user", Key: "x"}, {Subject: "day", Key: "20 November 2026"}})
	if err != nil || keys[0] != "7" || unfit[1] == nil || keys[2] != "20 November 2026" || unfit[2] != nil {
		t.Error(keys, unfit, err)
	}
	// The server itself is gone: that says nothing of the keys.
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := p.Canonical(ended, s, []Request{{Subject: "day", Key: "2026-11-20"}}); err == nil {
		t.Error("no error")
	}
}

func TestLookup(t *testing.T) {
	url := pgtest.DB(t)
	s := connect(t, url)
	s.exec(t, severalSubjects+`INSERT INTO public.users VALUES
		(1, 'ann@example.com', 'ann', 'A1', '2000-01-02', 7), (2, 'Ann@example.com', 'ännchen', 'A2', '2000-01-02', 8), (3, 'it''s; DROP', 'x', 'A3', NULL, 7)`)
	p := mustCompile(t, severalSubjects, severalSubjectRules)
	var asked []string
	ask := func(ctx context.Context, sql, param string) (rows [][]string, err error) {
		asked = append(asked, sql+param)
		r := s.conn.ExecParams(ctx, sql, [][]byte{[]byte(param)}, nil, nil, nil).Read()
		for _, row := range r.Rows {
			rows = append(rows, []string{string(row[0])})
		}
		return rows, r.Err
	}
	for _, c := range []struct {
		column, value string
		keys          []string
	}{
		{"email", "ann@example.com", []string{"1"}},
		{"email", "nobody@example.com", nil},
		{"email", "it's; DROP", []string{"3"}},
		{"handle", "ännchen", []string{"2"}},
		{"code", "A2", []string{"2"}},
		{"born", "2 January 2000", []string{"1", "2"}},
		{"lucky", "007", []string{"1", "3"}},
	} {
		keys, err := p.Lookup(context.Background(), ask, "user", c.column, c.value)
		slices.Sort(keys)
		if err != nil || !slices.Equal(keys, c.keys) {
			t.Errorf("%s = %q: %v, %v, want %v", c.column, c.value, keys, err, c.keys)
		}
		if strings.Contains(asked[len(asked)-1], c.value) {
			t.Errorf("the statement holds the value: %s", asked[len(asked)-1])
		}
	}
	_, err := p.Lookup(context.Background(), ask, "user", "born", "SECRETVALUE")
	if err == nil || strings.Contains(err.Error(), "SECRETVALUE") {
		t.Error(err)
	}
	for _, c := range [][2]string{{"user", "name"}, {"user", "id"}, {"nobody", "email"}} {
		if _, err := p.Lookup(context.Background(), ask, c[0], c[1], "x"); err == nil {
			t.Errorf("%v: no error", c)
		}
	}
}
