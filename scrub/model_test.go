package scrub

import (
	"bytes"
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
	"lethe/scrub/copytext"
	"lethe/scrub/mask"
	"lethe/scrub/scrubtest"
)

// This file holds the promise of erasing against a model: see package scrubtest.

// scrubbed streams every relation that holds rows through its Scrubber, and returns the lines that come out.
func scrubbed(s *server, p *Plan, e *Erased, requests int) (map[*catalog.Table][]string, error) {
	keys := Keys{Erase: make([]mask.Key, requests)}
	left := map[*catalog.Table][]string{}
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
		scrubber, err := p.Scrubber(t.Name, columns, keys, e)
		if err != nil {
			return nil, err
		}
		var rows, out bytes.Buffer
		if err := s.CopyQuery(context.Background(), "SELECT "+catalog.QuoteList(columns)+" FROM ONLY "+t.Name.SQL(), &rows); err != nil {
			return nil, err
		}
		for text := rows.Bytes(); len(text) > 0; {
			var row []byte
			row, text = copytext.NextRow(text)
			line, _, err := scrubber.Append(nil, row)
			if err != nil {
				return nil, err
			}
			out.Write(line)
		}
		left[t] = []string{}
		for line := range strings.Lines(out.String()) {
			left[t] = append(left[t], strings.TrimSuffix(line, "\n"))
		}
	}
	return left, nil
}

// --- the property

// TestErasureEqualsModel draws worlds, erases in them by Compile, Resolve and Scrubber, and compares every row with the
// model's; then it loads what is left into an empty schema and adds every constraint. More cases: -rapid.checks.
func TestErasureEqualsModel(t *testing.T) {
	from, to := connect(t, pgtest.DB(t)), connect(t, pgtest.DB(t))
	for _, s := range []*server{from, to} {
		s.exec(t, "SET client_min_messages = warning")
	}
	var cases, erased, cut, refused, stopped, alone int
	rapid.Check(t, func(rt *rapid.T) {
		w := scrubtest.Draw(rt)
		tables, constraints := w.DDL()
		cat, err := catalog.Parse(tables + constraints)
		if err != nil {
			rt.Fatalf("%v\n%s", err, tables+constraints)
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
			}
			refused++
			if n == attempts {
				rt.Fatalf("deleting everywhere is refused: %v\n%s\n%s", err, tables+constraints, text)
			}
		}
		describe := func() string {
			return fmt.Sprintf("%s%s%s\n%s\nrequests %v", tables, w.Inserts(), constraints, text, w.Requests)
		}
		const reset = "DROP SCHEMA public CASCADE; CREATE SCHEMA public;\n"
		if _, err := from.conn.Exec(context.Background(), reset+tables+w.Inserts()+constraints).ReadAll(); err != nil {
			rt.Fatalf("%v\n%s", err, describe())
		}
		var reqs []Request
		for _, q := range w.Requests {
			reqs = append(reqs, Request{Subject: q.Subject, Key: q.Key})
		}
		e, err := plan.Resolve(context.Background(), from, reqs)
		if err != nil {
			rt.Fatalf("%v\n%s", err, describe())
		}
		want := w.Erase()
		left, err := scrubbed(from, plan, e, len(reqs))
		if err != nil && strings.Contains(err.Error(), "itself erased") && w.DefaultGoes() {
			stopped++
			return
		}
		if err != nil {
			rt.Fatalf("%v\n%s", err, describe())
		}
		got := map[string][]string{}
		for leaf, lines := range left {
			root := leaf.Root().Name.Name
			got[root] = append(got[root], lines...)
		}
		for _, tab := range w.Tables {
			sort.Strings(got[tab.Name])
			if !slices.Equal(got[tab.Name], want[tab.Name]) {
				rt.Fatalf("table %s\n got %q\nwant %q\n%s", tab.Name, got[tab.Name], want[tab.Name], describe())
			}
			erased += len(tab.Rows) - len(want[tab.Name])
			for _, r := range tab.Rows {
				if r.Owned && !r.Dead {
					cut++
				}
			}
		}
		if err := compareSets(w, plan, e); err != nil {
			rt.Fatalf("%v\n%s", err, describe())
		}
		for i, q := range w.Requests {
			if slices.Contains(e.Missing, i) == w.Exists(q) {
				rt.Fatalf("request %d: missing %v\n%s", i, e.Missing, describe())
			}
		}

		if _, err := to.conn.Exec(context.Background(), reset+tables).ReadAll(); err != nil {
			rt.Fatal(err)
		}
		for leaf, lines := range left {
			if len(lines) == 0 {
				continue
			}
			_, err := to.conn.CopyFrom(context.Background(), strings.NewReader(strings.Join(lines, "\n")+"\n"), "COPY "+leaf.Name.SQL()+" FROM STDIN")
			if err != nil {
				rt.Fatalf("loading %s: %v\n%s", leaf.Name, err, describe())
			}
		}
		if _, err := to.conn.Exec(context.Background(), constraints).ReadAll(); err != nil {
			rt.Fatalf("what is left breaks a constraint: %v\n%s", err, describe())
		}
		for _, ref := range w.Refs {
			for _, r := range ref.From.Rows {
				if ref.Verb == "leave" && w.Reaches(ref, r) >= 0 && !r.Owned {
					alone++
				}
			}
		}
		cases++
	})
	t.Logf("%d cases, %d sets of rules refused on the way, %d stopped at a default, %d rows erased, %d rows kept and redacted, %d links left alone",
		cases, refused, stopped, erased, cut, alone)
}

// compareSets checks that each row's key for each reference is known exactly where the model owns the row, and by the
// model's request.
func compareSets(w *scrubtest.World, p *Plan, e *Erased) error {
	for _, edge := range p.Edges {
		for _, t := range w.Tables {
			if edge.To.Root().Name.Name != t.Name || t.NoRows {
				continue
			}
			part := ""
			if edge.To.Parent != nil {
				part = edge.To.Name.Name
			}
			for _, r := range t.Rows {
				if !t.In(r, part) {
					continue
				}
				var key []byte
				null := false
				for i, c := range edge.ToColumns {
					if r.Values[c] == nil {
						null = true
						break
					}
					key, _ = AppendKey(key, edge.Family[i], []byte(*r.Values[c]))
				}
				if null {
					continue
				}
				want := uint32(r.Label)
				if r.Label == len(w.Requests) {
					want = NoRequest
				}
				if got, hit := e.Hit(edge.ID, key); hit != r.Owned || hit && got != want {
					return fmt.Errorf("%s of %s: a row of %s is hit %v by request %d; the model says %v by %d",
						edge.Columns, edge.From.Name, t.Name, hit, got, r.Owned, want)
				}
			}
		}
	}
	return nil
}
