package scrub

import (
	"fmt"
	"slices"

	"lethe/scrub/catalog"
)

// A stray is a row whose declared reference leads to a row that is not there: no foreign key has seen to it that it went
// along. In one snapshot it leads nowhere; but another snapshot may still have the row it led to, and know whose it was.
//
// So keys are united over the snapshots, as far as that can't take what is somebody else's: a key that belongs to a person
// in one snapshot counts in another where rows lead to it and no row has it. Where a row has it, that snapshot's own rows
// say whose it is, and have been heard.
type strays struct {
	foreign []map[digest]reached           // by target: keys that other searches know
	asked   []map[int]map[digest]reached   // by snapshot and target: keys that are looked for
	met     []map[int]map[digest]reached   // of those, the ones that a row leads to
	checked []map[int]map[digest]struct{}  // keys that have been looked for before
	readers map[catalog.Name][]strayColumn // by table: how its rows lead to such keys
}

// strayColumn is a declared reference of a table.
type strayColumn struct {
	edge   *Edge
	target int
}

// Learn takes over the keys that another search has found, in snapshots of another schema or under other rules, as far as
// both hold them as they are.
func (s *Search) Learn(from *Search) {
	for i, t := range s.union.targets {
		if s.rewritten(t) {
			continue
		}
		for j, other := range from.union.targets {
			order := pairing(t, other)
			if order == nil || from.rewritten(other) {
				continue
			}
			for _, key := range from.reach[j] {
				next := reached{make([]string, len(order)), key.request, key.found}
				for n, at := range order {
					next.texts[n] = key.texts[at]
				}
				if d, ok := s.digestOf(t, next); ok {
					if s.strays.foreign == nil {
						s.strays.foreign = make([]map[digest]reached, len(s.union.targets))
					}
					if s.strays.foreign[i] == nil {
						s.strays.foreign[i] = map[digest]reached{}
					}
					s.strays.foreign[i][d] = next
				}
			}
		}
	}
}

// pairing is where the columns of one target stand in another, nil where they are not of the same columns.
func pairing(t, other *target) (order []int) {
	if t.to.Name != other.to.Name || !sameSet(t.columns, other.columns) {
		return nil
	}
	for _, column := range t.columns {
		order = append(order, slices.Index(other.columns, column))
	}
	return order
}

// rewritten says whether the rules that the rows were stored under have rewritten a target's columns.
func (s *Search) rewritten(t *target) bool {
	if s.made == nil {
		return false
	}
	tp := s.made.Tables[t.to.Root().Name]
	return tp != nil && slices.ContainsFunc(tp.Always, func(r Rewrite) bool { return slices.Contains(t.columns, r.Column) })
}

func (s *Search) digestOf(t *target, key reached) (digest, bool) {
	var text []byte
	ok := true
	for i := range key.texts {
		if text, ok = AppendKey(text, t.family[i], []byte(key.texts[i])); !ok {
			return digest{}, false
		}
	}
	return s.union.hash.sum(text), true
}

// Strays begins to look for strays, once the last round is over. It is false where there is nothing to look for.
func (s *Search) Strays() bool {
	st := &s.strays
	if st.readers == nil {
		st.readers = map[catalog.Name][]strayColumn{}
		for _, e := range s.plan.Edges {
			if e.Origin != "references" {
				continue // a foreign key leads to rows that are there
			}
			for _, t := range s.plan.Catalog.Order {
				if t.Kind == catalog.Ordinary && partOf(t, e.From) {
					st.readers[t.Name] = append(st.readers[t.Name], strayColumn{e, s.union.byEdge[e.ID]})
				}
			}
		}
		st.checked = make([]map[int]map[digest]struct{}, len(s.snapshots))
	}
	st.asked, st.met = make([]map[int]map[digest]reached, len(s.snapshots)), make([]map[int]map[digest]reached, len(s.snapshots))
	asking := false
	for n := range s.snapshots {
		st.asked[n], st.met[n] = map[int]map[digest]reached{}, map[int]map[digest]reached{}
		if st.checked[n] == nil {
			st.checked[n] = map[int]map[digest]struct{}{}
		}
		for _, columns := range st.readers {
			for _, c := range columns {
				if st.asked[n][c.target] == nil {
					st.asked[n][c.target] = s.unknown(n, c.target)
					asking = asking || len(st.asked[n][c.target]) > 0
				}
			}
		}
	}
	return asking
}

// unknown lists the keys that a snapshot does not know as a person's and that others do, as far as they have not been
// looked for.
func (s *Search) unknown(snapshot, target int) map[digest]reached {
	keys := map[digest]reached{}
	own, checked := s.snapshots[snapshot].erased.targets[target], s.strays.checked[snapshot]
	if checked[target] == nil {
		checked[target] = map[digest]struct{}{}
	}
	take := func(d digest, key reached) {
		_, known := own.keys[d]
		_, based := own.base[d]
		_, done := checked[target][d]
		honoured := !key.found && int(key.request) < s.from[snapshot] // whatever leads to the person is gone
		if !known && !based && !done && !honoured {
			keys[d] = key
			checked[target][d] = struct{}{}
		}
	}
	for _, key := range s.reach[target] {
		if d, ok := s.digestOf(s.union.targets[target], key); ok {
			take(d, key)
		}
	}
	if s.strays.foreign != nil {
		for d, key := range s.strays.foreign[target] {
			take(d, key)
		}
	}
	return keys
}

// StrayTables lists the tables whose rows may be strays.
func (s *Search) StrayTables() (names []catalog.Name) {
	for _, t := range s.plan.Catalog.Order {
		if s.strays.readers[t.Name] != nil {
			names = append(names, t.Name)
		}
	}
	return names
}

// StrayAsks says whether strays are looked for in a table of a snapshot.
func (s *Search) StrayAsks(snapshot int, table catalog.Name) bool {
	return slices.ContainsFunc(s.strays.readers[table], func(c strayColumn) bool { return len(s.strays.asked[snapshot][c.target]) > 0 })
}

// StrayQuestions returns what is asked about a table's rows, in whatever snapshot.
func (s *Search) StrayQuestions(table catalog.Name) []Question {
	var all questionSet
	for _, c := range s.strays.readers[table] {
		for n := range s.snapshots {
			for _, key := range s.strays.asked[n][c.target] {
				all.add(c.edge, nil, c.edge.Family, []reached{key})
			}
		}
	}
	return all.list
}

// HomeTables lists the tables that may have the rows which strays lead to.
func (s *Search) HomeTables() (names []catalog.Name) {
	for _, t := range s.plan.Catalog.Order {
		if t.Kind == catalog.Ordinary && slices.ContainsFunc(s.strays.met, func(met map[int]map[digest]reached) bool { return s.homes(t, met) != nil }) {
			names = append(names, t.Name)
		}
	}
	return names
}

// HomeAsks says whether a table of a snapshot may have rows which strays lead to.
func (s *Search) HomeAsks(snapshot int, table catalog.Name) bool {
	return s.homes(s.plan.Catalog.Tables[table], s.strays.met[snapshot]) != nil
}

// homes lists the targets among those met whose rows are a table's.
func (s *Search) homes(t *catalog.Table, met map[int]map[digest]reached) (targets []int) {
	for i, keys := range met {
		if len(keys) > 0 && t != nil && partOf(t, s.union.targets[i].to) {
			targets = append(targets, i)
		}
	}
	return targets
}

// Adopt makes the keys of strays the person's whose they were, once their homes have been looked for. It is true where
// there are such, so that new rounds follow.
func (s *Search) Adopt() bool {
	adopted := false
	for n, met := range s.strays.met {
		c := s.snapshots[n]
		for target, keys := range met {
			for d, key := range keys {
				if c.erased.targets[target].add(d, key.request) {
					c.targets[target] = append(c.targets[target], key)
					c.news(target, d, key)
					adopted = true
				}
			}
		}
	}
	return adopted
}

// StrayReader takes the rows of one table, to find strays or their homes. Each worker needs its own.
type StrayReader struct {
	search *Search
	table  catalog.Name
	rel    *relation
	rows   *scanWriter
	in     []int // the snapshots of the rows at hand
	home   bool
	key    []byte
}

// StrayReader returns a reader of rows that may be strays, or with home of rows that strays may lead to. The rows hold
// these columns, in this order.
func (s *Search) StrayReader(table catalog.Name, columns []string, home bool) (*StrayReader, error) {
	r := &StrayReader{search: s, table: table, home: home, rel: &relation{table: s.plan.Catalog.Tables[table]}}
	if home {
		for i, t := range s.union.targets {
			if !partOf(r.rel.table, t.to) {
				continue
			}
			in := keyColumns{target: i}
			for _, name := range t.columns {
				in.at = append(in.at, r.rel.column(name))
			}
			r.rel.in = append(r.rel.in, in)
		}
	} else {
		for _, c := range s.strays.readers[table] {
			m, err := newMatcher(s.plan.Catalog, c.edge, r.rel.column)
			if err != nil {
				return nil, err
			}
			r.rel.out = append(r.rel.out, m)
		}
	}
	var err error
	if r.rows, err = newScanWriter(r.rel, columns, r.row); err != nil {
		return nil, fmt.Errorf("looking for rows without a home in %s: %w", table, err)
	}
	return r, nil
}

// Rows looks at rows, whole ones, that these snapshots have.
func (r *StrayReader) Rows(rows []byte, snapshots []int) error {
	r.search.mu.Lock()
	defer r.search.mu.Unlock()
	r.in = snapshots
	if _, err := r.rows.Write(rows); err != nil {
		return fmt.Errorf("looking for rows without a home in %s: %w", r.table, err)
	}
	return nil
}

func (r *StrayReader) row(row [][]byte, _, _ int) error {
	st := &r.search.strays
	if r.home {
		for _, in := range r.rel.in {
			if d, ok := r.digest(row, in.at, r.search.union.targets[in.target].family); ok {
				for _, n := range r.in {
					delete(st.met[n][in.target], d)
				}
			}
		}
		return nil
	}
	for _, m := range r.rel.out {
		if !m.applies(row) {
			continue
		}
		target := r.search.union.byEdge[m.edge.ID]
		if m.path == nil {
			if d, ok := r.digest(row, m.at, m.edge.Family); ok {
				r.meet(target, d)
			}
			continue
		}
		if row[m.at[0]] == nil {
			continue
		}
		err := m.path.Values(row[m.at[0]], func(value []byte) bool {
			var ok bool
			if r.key, ok = AppendKey(r.key[:0], m.edge.Family[0], value); ok {
				r.meet(target, r.search.union.hash.sum(r.key))
			}
			return true
		})
		if err != nil {
			return fmt.Errorf("reading the JSON path %s: %w", m.edge.Path, err)
		}
	}
	return nil
}

func (r *StrayReader) digest(row [][]byte, at []int, family []Family) (digest, bool) {
	var ok bool
	if r.key, ok = appendRowKey(r.key[:0], row, at, family); !ok {
		return digest{}, false
	}
	return r.search.union.hash.sum(r.key), true
}

// meet notes that a row leads to a key that is looked for.
func (r *StrayReader) meet(target int, d digest) {
	st := &r.search.strays
	for _, n := range r.in {
		if key, asked := st.asked[n][target][d]; asked {
			if st.met[n][target] == nil {
				st.met[n][target] = map[digest]reached{}
			}
			st.met[n][target][d] = key
		}
	}
}
