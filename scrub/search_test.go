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

// storedSnapshots are rows as snapshots without any erasure store them.
type storedSnapshots struct {
	columns map[catalog.Name][]string
	rows    []map[catalog.Name][]string // by snapshot
	pieces  map[catalog.Name][]*storedPiece
}

// storedPiece is rows that the same snapshots have.
type storedPiece struct {
	in   []int
	rows []string
}

// cut puts the rows that several snapshots share into common pieces of a few rows.
func (s *storedSnapshots) cut() {
	s.pieces = map[catalog.Name][]*storedPiece{}
	for table := range s.columns {
		in := map[string][]int{}
		var order []string
		for n, rows := range s.rows {
			for _, row := range rows[table] {
				if in[row] == nil {
					order = append(order, row)
				}
				in[row] = append(in[row], n)
			}
		}
		for _, row := range order {
			list := s.pieces[table]
			if n := len(list); n > 0 && slices.Equal(list[n-1].in, in[row]) && len(list[n-1].rows) < 3 {
				list[n-1].rows = append(list[n-1].rows, row)
				continue
			}
			s.pieces[table] = append(list, &storedPiece{in[row], []string{row}})
		}
	}
}

// may says whether a piece holds an answer to a question, as a filter does that never says maybe in vain.
func (s *storedSnapshots) may(table catalog.Name, piece *storedPiece, questions []Question) bool {
	for _, q := range questions {
		columns, family := []string(nil), []Family(nil)
		switch {
		case q.Edge == nil:
			columns, family = []string{q.Subject.Key}, []Family{q.Subject.Family}
		case q.Edge.Path != "":
			return true
		default:
			columns, family = q.Edge.Columns, q.Edge.Family
		}
		for _, row := range piece.rows {
			fields := copytext.Split([]byte(row), nil)
			var key []byte
			ok := true
			for i, name := range columns {
				field := fields[slices.Index(s.columns[table], name)]
				if ok = ok && !copytext.IsNull(field); !ok {
					break
				}
				text, err := copytext.Decode(nil, field)
				if err != nil {
					panic(err)
				}
				key, ok = AppendKey(key, family[i], text)
			}
			if ok && slices.ContainsFunc(q.Keys, func(k []byte) bool { return bytes.Equal(k, key) }) {
				return true
			}
		}
	}
	return false
}

// follow is a search to its end. Of each table it reads the pieces that may hold an answer.
func (s *storedSnapshots) follow(search *Search, strays bool) error {
	for {
		if err := s.rounds(search); err != nil || !strays || !search.Strays() {
			return err
		}
		for _, home := range []bool{false, true} {
			tables := search.StrayTables()
			if home {
				tables = search.HomeTables()
			}
			for _, table := range tables {
				reader, err := search.StrayReader(table, s.columns[table], home)
				if err != nil {
					return err
				}
				for _, piece := range s.pieces[table] {
					read := slices.ContainsFunc(piece.in, func(n int) bool { return search.StrayAsks(n, table) }) && s.may(table, piece, search.StrayQuestions(table))
					if home {
						read = slices.ContainsFunc(piece.in, func(n int) bool { return search.HomeAsks(n, table) })
					}
					if read {
						if err := reader.Rows([]byte(strings.Join(piece.rows, "")), piece.in); err != nil {
							return err
						}
					}
				}
			}
		}
		if !search.Adopt() {
			return nil
		}
	}
}

func (s *storedSnapshots) rounds(search *Search) error {
	for search.Round() {
		for _, table := range search.Tables() {
			questions := search.Questions(table)
			reader, err := search.Reader(table, s.columns[table])
			if err != nil {
				return err
			}
			for _, piece := range s.pieces[table] {
				asking := slices.ContainsFunc(piece.in, func(n int) bool { return search.Asks(n, table) })
				if asking && s.may(table, piece, questions) {
					if err := reader.Rows([]byte(strings.Join(piece.rows, "")), piece.in); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// purged is what each snapshot holds afterwards.
func (s *storedSnapshots) purged(p *Plan, search *Search) ([]map[catalog.Name][]string, error) {
	left := make([]map[catalog.Name][]string, len(s.rows))
	for n := range left {
		left[n] = map[catalog.Name][]string{}
	}
	for table, columns := range s.columns {
		near, err := p.Scrubber(table, columns, search.Keys(), search.Union())
		if err != nil {
			return nil, err
		}
		exact := make([]*Scrubber, len(s.rows))
		for n := range exact {
			if exact[n], err = p.Scrubber(table, columns, search.Keys(), search.Erased(n)); err != nil {
				return nil, err
			}
		}
		for _, piece := range s.pieces[table] {
			read := s.may(table, piece, search.Affecting(table))
			for _, row := range piece.rows {
				reached, err := near.Reached([]byte(row))
				if err != nil {
					return nil, err
				}
				for _, n := range piece.in {
					line, action, err := exact[n].Append(nil, []byte(row))
					if err != nil {
						return nil, err
					}
					if changed := string(line) != row; changed != (action != Passed) {
						return nil, fmt.Errorf("row %q became %q by action %d", row, line, action)
					} else if changed && !(read && reached) {
						return nil, fmt.Errorf("row %q of %s is changed, and nothing would have read it", row, table)
					}
					if len(line) > 0 {
						left[n][table] = append(left[n][table], string(line))
					}
				}
			}
		}
	}
	return left, nil
}

// TestSearchEqualsModel draws worlds, and several snapshots of each with rows of their own, some of which they share. What
// is purged from the rows that a backup without requests stores is what the model erases from the original rows, in each
// snapshot by itself; and purging once more changes nothing.
func TestSearchEqualsModel(t *testing.T) {
	from := connect(t, pgtest.DB(t))
	from.exec(t, "SET client_min_messages = warning")
	var cases, erased, shared, stopped, adopted int
	rapid.Check(t, func(rt *rapid.T) {
		w := scrubtest.Draw(rt)
		reqs := w.Requests
		count := rapid.IntRange(1, 3).Draw(rt, "snapshots")
		together := rapid.Bool().Draw(rt, "together")
		var rows []scrubtest.Rows
		var plan, stored *Plan
		var text, tables, constraints string
		held := &storedSnapshots{columns: map[catalog.Name][]string{}}
		var want []map[string][]string
		for n := range count {
			if n > 0 {
				w.GoOn(rt)
			}
			tables, constraints = w.DDL()
			cat, err := catalog.Parse(tables + constraints)
			if err != nil {
				rt.Fatal(err)
			}
			if n == 0 {
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
				if stored, err = CompileStored(plan.Rules, cat); err != nil {
					rt.Fatalf("%v\n%s%s\n%s", err, tables, constraints, text)
				}
			}
			from.exec(t, "DROP SCHEMA public CASCADE; CREATE SCHEMA public;\n"+tables+w.Inserts()+constraints)
			nobody, err := plan.Resolve(context.Background(), from, nil)
			if err != nil {
				rt.Fatal(err)
			}
			left, err := scrubbed(from, plan, nobody, 0)
			if err != nil && strings.Contains(err.Error(), "itself erased") {
				stopped++
				return
			}
			if err != nil {
				rt.Fatal(err)
			}
			kept := map[catalog.Name][]string{}
			for leaf, lines := range left {
				held.columns[leaf.Name] = nil
				for _, c := range leaf.Columns {
					held.columns[leaf.Name] = append(held.columns[leaf.Name], c.Name)
				}
				for _, line := range lines {
					kept[leaf.Name] = append(kept[leaf.Name], line+"\n")
				}
			}
			held.rows = append(held.rows, kept)
			rows = append(rows, w.Take())
			w.Requests = reqs
			want = append(want, w.Erase())
			w.Requests = nil
		}
		w.Requests = reqs
		if together {
			alone := want
			want = w.EraseTogether(rows)
			for n := range want {
				for table := range want[n] {
					adopted += len(alone[n][table]) - len(want[n][table])
				}
			}
		}
		describe := func() string {
			return fmt.Sprintf("%s%s\n%s\nrequests %v\nstored %q", tables, constraints, text, w.Requests, held.rows)
		}
		held.cut()
		var list []Request
		for _, q := range reqs {
			list = append(list, Request{Subject: q.Subject, Key: q.Key})
		}
		for pass := range 2 {
			search, err := stored.NewSearch("UTF8", list, nil, mask.Key{})
			if err != nil {
				rt.Fatalf("%v\n%s", err, describe())
			}
			for range count {
				if _, err := search.Add(0); err != nil {
					rt.Fatal(err)
				}
			}
			if err := held.follow(search, together); err != nil {
				rt.Fatalf("%v\n%s", err, describe())
			}
			left, err := held.purged(stored, search)
			if err != nil && strings.Contains(err.Error(), "itself erased") {
				stopped++
				return
			}
			if err != nil {
				rt.Fatalf("%v\n%s", err, describe())
			}
			for n := range count {
				got := map[string][]string{}
				for leaf, lines := range left[n] {
					root := stored.Catalog.Tables[leaf].Root().Name.Name
					for _, line := range lines {
						got[root] = append(got[root], strings.TrimSuffix(line, "\n"))
					}
				}
				for _, tab := range w.Tables {
					sort.Strings(got[tab.Name])
					if !slices.Equal(got[tab.Name], want[n][tab.Name]) {
						rt.Fatalf("pass %d, snapshot %d, table %s\n got %q\nwant %q\n%s", pass, n, tab.Name, got[tab.Name], want[n][tab.Name], describe())
					}
				}
				for table, lines := range held.rows[n] {
					erased += len(lines) - len(left[n][table])
				}
			}
			for _, pieces := range held.pieces {
				for _, p := range pieces {
					if len(p.in) > 1 {
						shared++
					}
				}
			}
			held.rows = left
			held.cut()
		}
		cases++
	})
	if erased == 0 || shared == 0 {
		t.Errorf("%d cases: %d rows erased, %d pieces shared", cases, erased, shared)
	}
	t.Logf("%d cases, %d stopped at a default, %d rows erased, %d of them as strays, %d pieces shared", cases, stopped, erased, adopted, shared)
}
