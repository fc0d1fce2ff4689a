package scrub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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

// heldRows are rows of a database as a dump file holds them, from the last to the first where backwards is set: then
// what leads to a row often stands behind it.
type heldRows struct {
	columns   map[catalog.Name][]string
	rows      map[catalog.Name][]string
	encoding  string
	backwards bool
	passes    int
}

func hold(t testing.TB, s *server, cat *catalog.Catalog) *heldRows {
	t.Helper()
	h := &heldRows{columns: map[catalog.Name][]string{}, rows: map[catalog.Name][]string{}, encoding: "UTF8"}
	for _, table := range cat.Order {
		if table.Kind != catalog.Ordinary {
			continue
		}
		var columns []string
		for _, c := range slices.Backward(table.Columns) { // the order of a dump need not be the catalog's
			columns = append(columns, c.Name)
		}
		var out bytes.Buffer
		if err := s.CopyQuery(context.Background(), "SELECT "+catalog.QuoteList(columns)+" FROM ONLY "+table.Name.SQL(), &out); err != nil {
			t.Fatal(err)
		}
		h.columns[table.Name] = columns
		h.rows[table.Name] = slices.Collect(strings.Lines(out.String()))
	}
	return h
}

func (h *heldRows) Columns(name catalog.Name) ([]string, error) { return h.columns[name], nil }
func (h *heldRows) Encoding() string                            { return h.encoding }

func (h *heldRows) CopyTable(_ context.Context, name catalog.Name, w io.Writer) error {
	h.passes++
	rows := slices.Clone(h.rows[name])
	if h.backwards {
		slices.Reverse(rows)
	}
	for pair := range slices.Chunk(rows, 2) {
		if _, err := io.WriteString(w, strings.Join(pair, "")); err != nil {
			return err
		}
	}
	return nil
}

// TestScansEqualTheModel draws worlds as TestErasureEqualsModel does, and follows their references by passes over rows.
func TestScansEqualTheModel(t *testing.T) {
	from := connect(t, pgtest.DB(t))
	from.exec(t, "SET client_min_messages = warning")
	erased := 0
	rapid.Check(t, func(rt *rapid.T) {
		w := scrubtest.Draw(rt)
		tables, constraints := w.DDL()
		cat, err := catalog.Parse(tables + constraints)
		if err != nil {
			rt.Fatal(err)
		}
		var plan *Plan
		var text string
		const attempts = 8
		for n := range attempts + 1 {
			text = w.Decide(rt, n == attempts)
			file, err := rules.Parse("rules.yml", []byte(text))
			if err != nil {
				rt.Fatalf("%v\n%s", err, text)
			}
			if plan, err = Compile(file, cat); err == nil {
				break
			} else if n == attempts {
				rt.Fatal(err)
			}
		}
		describe := func() string {
			return fmt.Sprintf("%s%s%s\n%s\nrequests %v", tables, w.Inserts(), constraints, text, w.Requests)
		}
		from.exec(t, "DROP SCHEMA public CASCADE; CREATE SCHEMA public;\n"+tables+w.Inserts()+constraints)
		var reqs []Request
		for _, q := range w.Requests {
			reqs = append(reqs, Request{Subject: q.Subject, Key: q.Key})
		}
		held := hold(t, from, cat)
		held.backwards = rapid.Bool().Draw(rt, "backwards")
		e, err := plan.ResolveScan(context.Background(), held, reqs)
		if err != nil {
			rt.Fatalf("%v\n%s", err, describe())
		}
		want := w.Erase()
		left, err := scrubbed(from, plan, e, len(reqs))
		if err != nil && strings.Contains(err.Error(), "itself erased") && w.DefaultGoes() {
			return
		}
		if err != nil {
			rt.Fatalf("%v\n%s", err, describe())
		}
		got := map[string][]string{}
		for leaf, lines := range left {
			got[leaf.Root().Name.Name] = append(got[leaf.Root().Name.Name], lines...)
		}
		for _, tab := range w.Tables {
			sort.Strings(got[tab.Name])
			if !slices.Equal(got[tab.Name], want[tab.Name]) {
				rt.Fatalf("table %s\n got %q\nwant %q\n%s", tab.Name, got[tab.Name], want[tab.Name], describe())
			}
			erased += len(tab.Rows) - len(want[tab.Name])
		}
		if err := compareSets(w, plan, e); err != nil {
			rt.Fatalf("%v\n%s", err, describe())
		}
		for i, q := range w.Requests {
			if slices.Contains(e.Missing, i) == w.Exists(q) {
				rt.Fatalf("request %d: missing %v\n%s", i, e.Missing, describe())
			}
		}
	})
	if erased == 0 {
		t.Error("the cases drawn erase nothing")
	}
}

// The same site, people and hand-written SQL as with a server.
func TestScansEqualHandWrittenSQL(t *testing.T) {
	s := connect(t, pgtest.DB(t))
	s.exec(t, oracleSchema+oracleRows)
	p := compilePlan(t, oracleRules, oracleSchema)
	var reqs []Request
	for i, key := range []string{"42", "0199", "7", "215"} {
		reqs = append(reqs, Request{Subject: "user", Key: key, Ref: fmt.Sprintf("R-%d", i)})
	}
	held := hold(t, s, p.Catalog)
	e, err := p.ResolveScan(context.Background(), held, reqs)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(e.Missing, []int{3}) {
		t.Errorf("missing %v, want the fourth", e.Missing)
	}
	if held.passes > 30 {
		t.Errorf("%d passes over tables", held.passes)
	}
	left, err := scrubbed(s, p, e, len(reqs))
	if err != nil {
		t.Fatal(err)
	}
	s.exec(t, oracleErase)
	got, want := byRoot(left), contents(t, s, p.Catalog)
	for table, lines := range want {
		if !slices.Equal(got[table], lines) {
			t.Errorf("%s: %d rows, the hand-written SQL leaves %d; first difference: %s", table, len(got[table]), len(lines), firstDifference(got[table], lines))
		}
	}
}

// What only a server can compare is refused as soon as somebody is to be erased, and only then.
func TestScansRefuseWhatOnlyAServerCompares(t *testing.T) {
	ctx := context.Background()
	const subject = "version: 1\ndataset: d\nsubjects:\n  user: {table: users, key: id}\nerase:\n  users: {delete: true}\n"
	for name, c := range map[string]struct{ schema, key, encoding, want string }{
		"reference": {serverSchema, "3", "UTF8", "the reference nick of a with users"},
		"date":      {"CREATE TABLE public.users (id date PRIMARY KEY);", "2026-01-02", "UTF8", "how it prints a value of type pg_catalog.date"},
		"encoding":  {"CREATE TABLE public.users (id text PRIMARY KEY);", "é", "LATIN1", "the rows come in LATIN1"},
		"enum":      {"CREATE TYPE public.e AS ENUM ('a'); CREATE TABLE public.users (id public.e PRIMARY KEY);", "a", "UTF8", ""},
		"text":      {"CREATE TABLE public.users (id text PRIMARY KEY);", "é", "UTF8", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := compilePlan(t, subject, c.schema)
			held := &heldRows{columns: map[catalog.Name][]string{}, encoding: c.encoding}
			for _, table := range p.Catalog.Order {
				for _, col := range table.Columns {
					held.columns[table.Name] = append(held.columns[table.Name], col.Name)
				}
			}
			if _, err := p.ResolveScan(ctx, held, nil); err != nil {
				t.Errorf("nobody is erased: %v", err)
			}
			_, err := p.ResolveScan(ctx, held, []Request{{Subject: "user", Key: c.key, Ref: "R-1"}})
			var errs rules.Errors
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
			} else if !errors.As(err, &errs) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "back up from the server") {
				t.Errorf("error %v, want %q", err, c.want)
			} else if strings.Contains(err.Error(), c.key) && name != "reference" {
				t.Errorf("the error shows the key: %v", err)
			}
		})
	}
}

func TestProbeOffline(t *testing.T) {
	p := &Plan{Rules: &rules.File{Path: "rules.yml"}}
	if err := p.ProbeOffline(); err != nil {
		t.Error(err)
	}
	p.Probes = []Probe{{SQL: "SELECT true", Pos: rules.Pos{Line: 3, Col: 5}, Msg: "it may not fit", Hint: "write another"}}
	if err := p.ProbeOffline(); err == nil || !strings.HasPrefix(err.Error(), "rules.yml:3:5: ") || !strings.Contains(err.Error(), "try: write another; or back up from the server") {
		t.Errorf("error %v", err)
	}
}
