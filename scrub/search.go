package scrub

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"

	"lethe/rules"
	"lethe/scrub/catalog"
	"lethe/scrub/mask"
)

// Search follows the references of people through the rows of several stored snapshots at once, which share a schema and
// the rules under which they were stored. Each snapshot gets the answer that ResolveScan would give for its rows alone;
// rows that snapshots have in common are looked at once.
//
// Somebody else brings the rows, round by round:
//
//	for s.Round() {
//		// for each of s.Tables: read what may hold the answer to s.Questions, and give it to a SearchReader
//	}
//
// After that, Strays and what follows it look for rows that another snapshot knows more about, and may lead to new rounds.
// In the end Erased says what is erased in each snapshot, and Union what is in any. A Search holds the keys that it found as
// they are, for the questions; nothing of it outlives the run.
type Search struct {
	plan      *Plan
	made      *Plan // see NewSearch
	reqs      []Request
	keys      []string // as the server prints them and the rows hold them; "" with skip set
	skip      []bool   // requests that can't be about anybody here
	unfit     []int
	scrubKeys Keys

	base      *closure         // without any person
	bases     map[int]*closure // by the first request that counts
	snapshots []*closure
	from      []int          // by snapshot: the first request that counts
	asked     [][][]question // of this round: by snapshot and relation
	first     bool

	mu    sync.RWMutex // guards what follows, and the closures, while rows come in
	union *Erased
	reach [][]reached // by target: every key of the union, once
	found []bool      // by request: the person's own row was met

	people map[subjectKey][]int // requests, by whom they are about
	strays strays
}

// Question asks for the rows of a table that lead to an erased row through a reference, or are an erased person's own.
// Keys are as AppendKey writes them, in the families of the reference or the subject.
type Question struct {
	Edge    *Edge    // or nil, and
	Subject *Subject // the people whose own rows are asked for
	Keys    [][]byte
}

// Reference is how the table's rows hold the keys that are asked for.
func (q *Question) Reference() Reference {
	if q.Edge == nil {
		return q.Subject.Reference()
	}
	return q.Edge.Reference()
}

// NewSearch begins a search in rows that p was compiled for by CompileStored. made is the plan of the rules that the rows
// were stored under, which may have rewritten keys, or nil where those rewrite none; strategy is the key they did it
// under. Where only a server could compare keys, it is an error of type rules.Errors.
//
// A request for a subject that the plan does not have is about nobody in these rows, and so is one whose key can be no
// value of the key column: see Unfit.
func (p *Plan) NewSearch(encoding string, reqs []Request, made *Plan, strategy mask.Key) (*Search, error) {
	s := &Search{plan: p, made: made, reqs: reqs, keys: make([]string, len(reqs)), skip: make([]bool, len(reqs)), found: make([]bool, len(reqs)),
		bases: map[int]*closure{}, people: map[subjectKey][]int{}, scrubKeys: Keys{Strategy: strategy, Erase: make([]mask.Key, len(reqs))}, first: true}
	var known []Request
	var keys []string
	var at []int
	for i, r := range reqs {
		key, err := "", error(nil)
		if s.skip[i] = p.Subjects[r.Subject] == nil; !s.skip[i] {
			if key, err = p.canonicalRequest(i, r); err != nil { // a number where keys were texts by then, say
				s.skip[i] = true
				s.unfit = append(s.unfit, i)
				continue
			}
			known, keys, at = append(known, r), append(keys, key), append(at, i)
		}
	}
	if err := p.comparable(encoding, known, keys, "snapshots made meanwhile from the server have these people left out; let retention delete this one"); err != nil {
		return nil, err
	}
	erase, err := p.Keys(strategy, known)
	if err != nil {
		return nil, err
	}
	for n, i := range at {
		s.scrubKeys.Erase[i] = erase.Erase[n]
		if s.keys[i], s.skip[i], err = made.storedKey(p.Subjects[reqs[i].Subject], keys[n], strategy); err != nil {
			return nil, fmt.Errorf("erasure request %s: %w", reqs[i].name(i), err)
		}
	}
	if s.base, err = newClosure(p, nil, nil); err != nil {
		return nil, err
	}
	s.union = s.base.erased
	s.reach = make([][]reached, len(s.union.targets))
	for i, r := range reqs {
		if s.skip[i] {
			continue
		}
		subject := p.Subjects[r.Subject]
		key, ok := AppendKey(nil, subject.Family, []byte(s.keys[i]))
		if !ok {
			return nil, fmt.Errorf("erasure request %s: the key is no value of %s.%s", r.name(i), subject.Table.Name, catalog.QuoteIfNeeded(subject.Key))
		}
		id := subjectKey{r.Subject, s.union.hash.sum(key)}
		s.people[id] = append(s.people[id], i)
	}
	return s, nil
}

// storedKey is how rows that were stored under the plan hold a person's key; none says that they hold it nowhere. A nil
// plan changes nothing.
func (p *Plan) storedKey(s *Subject, key string, strategy mask.Key) (stored string, none bool, err error) {
	if p == nil {
		return key, false, nil
	}
	tp := p.Tables[s.Table.Name]
	if tp == nil {
		return key, false, nil
	}
	i := slices.IndexFunc(tp.Always, func(r Rewrite) bool { return r.Column == s.Key })
	if i < 0 {
		return key, false, nil
	}
	fn, err := p.strategyFunc(tp.Table, tp.Always[i], strategy)
	if err != nil {
		return "", false, err
	}
	out, null, err := fn(nil, []byte(key))
	if err != nil {
		return "", false, errors.New("its key can't be rewritten as the rows' keys were")
	}
	return string(out), null, nil
}

// RewritesValues says whether `always` may have rewritten keys: it is false where it only clears columns and leaves out
// rows.
func RewritesValues(f *rules.File) bool {
	return slices.ContainsFunc(f.Always, func(a rules.Always) bool { return a.Strategy.Name != "clear" && a.Strategy.Name != "no_rows" })
}

// Add adds a snapshot and returns its number. Requests before the index from were honoured when it was stored, and do not
// count in it.
func (s *Search) Add(from int) (int, error) {
	base := s.bases[from]
	if base == nil {
		c := *s.base
		c.erased, c.targets = s.union.fresh(), make([][]reached, len(s.union.targets))
		c.subjects, c.found, c.requests = map[string][]reached{}, map[subjectKey]bool{}, make([]subjectKey, len(s.reqs))
		for i := from; i < len(s.reqs); i++ {
			if s.skip[i] {
				continue
			}
			subject := s.plan.Subjects[s.reqs[i].Subject]
			if err := c.request(i, subject, s.keys[i]); err != nil {
				return 0, fmt.Errorf("erasure request %s: %w", s.reqs[i].name(i), err)
			}
		}
		base = &c
		s.bases[from] = base
		s.unite(base)
	}
	c := *base
	c.erased, c.targets, c.key = base.erased.child(), slices.Clone(base.targets), nil
	c.news = func(target int, key digest, next reached) {
		if s.union.targets[target].keys.add(key, next.request) {
			s.reach[target] = append(s.reach[target], next)
		}
	}
	s.snapshots, s.from = append(s.snapshots, &c), append(s.from, from)
	return len(s.snapshots) - 1, nil
}

// unite adds the keys that a base begins with to the union.
func (s *Search) unite(base *closure) {
	for subject, keys := range base.erased.subjects {
		for d, request := range keys {
			s.union.subjects[subject].add(d, request)
		}
	}
	for i, t := range base.erased.targets {
		for d, request := range t.keys {
			s.union.targets[i].keys.add(d, request)
		}
		s.reach[i] = append(s.reach[i], base.targets[i]...)
	}
}

// Round begins the next round; it is false where nothing is left to ask. The questions of a round are those that the
// keys found in the last one raise.
func (s *Search) Round() bool {
	asking := false
	s.asked = make([][][]question, len(s.snapshots))
	for n, c := range s.snapshots {
		targets, subjects := c.targets, c.subjects
		c.targets, c.subjects = make([][]reached, len(targets)), nil
		s.asked[n] = make([][]question, len(c.relations))
		for i, rel := range c.relations {
			s.asked[n][i] = c.questions(rel, targets, subjects, s.first)
			asking = asking || len(s.asked[n][i]) > 0
		}
	}
	s.first = false
	return asking
}

// Tables lists the tables that some question may be asked about.
func (s *Search) Tables() (names []catalog.Name) {
	for _, rel := range s.base.relations {
		names = append(names, rel.table.Name)
	}
	return names
}

// Asks says whether this round asks anything about a table's rows in a snapshot.
func (s *Search) Asks(snapshot int, table catalog.Name) bool {
	i := s.relation(table)
	return i >= 0 && len(s.asked[snapshot][i]) > 0
}

func (s *Search) relation(table catalog.Name) int {
	return slices.IndexFunc(s.base.relations, func(rel *relation) bool { return rel.table.Name == table })
}

// Questions returns what this round asks about a table's rows, in whatever snapshot.
func (s *Search) Questions(table catalog.Name) []Question {
	i := s.relation(table)
	if i < 0 {
		return nil
	}
	var all questionSet
	for n := range s.snapshots {
		for _, q := range s.asked[n][i] {
			var subject *Subject
			if q.edge == nil {
				subject = s.base.relations[i].subject
			}
			all.add(q.edge, subject, q.family, q.keys)
		}
	}
	return all.list
}

// Affecting returns what has to be asked to find every row of a table that erasing changes in any snapshot, once the last
// round is over.
func (s *Search) Affecting(table catalog.Name) []Question {
	tp := s.plan.Tables[table]
	if tp == nil {
		return nil
	}
	var all questionSet
	if tp.Subject != nil {
		var people []reached
		for _, base := range s.bases {
			people = append(people, base.subjects[tp.Subject.Type]...)
		}
		all.add(nil, tp.Subject, []Family{tp.Subject.Family}, people)
	}
	for _, e := range tp.Out {
		all.add(e, nil, e.Family, s.reach[s.union.byEdge[e.ID]])
	}
	return all.list
}

// questionSet joins questions about one reference.
type questionSet struct {
	list []Question
	seen []map[string]bool // the keys of each
}

func (q *questionSet) add(e *Edge, subject *Subject, family []Family, keys []reached) {
	if len(keys) == 0 {
		return
	}
	i := slices.IndexFunc(q.list, func(o Question) bool { return o.Edge == e && o.Subject == subject })
	if i < 0 {
		i = len(q.list)
		q.list, q.seen = append(q.list, Question{Edge: e, Subject: subject}), append(q.seen, map[string]bool{})
	}
	for _, from := range keys {
		var key []byte
		ok := true
		for n, text := range from.texts {
			if key, ok = AppendKey(key, family[n], []byte(text)); !ok {
				break
			}
		}
		if ok && !q.seen[i][string(key)] {
			q.seen[i][string(key)] = true
			q.list[i].Keys = append(q.list[i].Keys, key)
		}
	}
}

// Erased is what is erased in one snapshot, once the last round is over.
func (s *Search) Erased(snapshot int) *Erased { return s.snapshots[snapshot].erased }

// Union is what is erased in any of the snapshots. It says which rows are worth a closer look, and no more: a row that
// one snapshot's rows make a person's may be somebody else's in the next.
func (s *Search) Union() *Erased { return s.union }

// Keys are the keys under which the requests' redact strategies write.
func (s *Search) Keys() Keys { return s.scrubKeys }

// Unfit lists the requests whose key can be no value of the key column, by index.
func (s *Search) Unfit() []int { return s.unfit }

// Found says of each request whether the person's own row was met.
func (s *Search) Found() []bool { return s.found }

// SearchReader takes the rows of one table. Each worker needs its own.
type SearchReader struct {
	search *Search
	rel    *relation
	rows   *scanWriter
	hits   [][][]byte
	key    []byte
}

// Reader returns a reader of the rows of a table that hold these columns, in this order.
func (s *Search) Reader(table catalog.Name, columns []string) (*SearchReader, error) {
	i := s.relation(table)
	if i < 0 {
		return nil, fmt.Errorf("following references through %s: none is followed there", table)
	}
	rel, err := s.base.relation(s.base.relations[i].table) // with matchers of its own
	if err != nil {
		return nil, err
	}
	r := &SearchReader{search: s, rel: rel}
	if r.rows, err = newScanWriter(rel, columns, r.row); err != nil {
		return nil, fmt.Errorf("following references through %s: %w", table, err)
	}
	return r, nil
}

// Rows looks at rows, whole ones, that these snapshots have. Rows may come more than once, and in any order.
func (r *SearchReader) Rows(rows []byte, snapshots []int) error {
	r.hits = r.hits[:0]
	r.search.mu.RLock()
	_, err := r.rows.Write(rows)
	r.search.mu.RUnlock()
	if err == nil && len(r.hits) > 0 {
		err = r.follow(snapshots)
	}
	if err != nil {
		return fmt.Errorf("following references through %s: %w", r.rel.table.Name, err)
	}
	return nil
}

// row keeps a row that may lead further.
func (r *SearchReader) row(row [][]byte, _, _ int) error {
	hit, err := r.leads(row)
	if err != nil || !hit {
		return err
	}
	kept := make([][]byte, len(row))
	for i, v := range row {
		kept[i] = bytes.Clone(v) // nil stays nil
	}
	r.hits = append(r.hits, kept)
	return nil
}

func (r *SearchReader) leads(row [][]byte) (bool, error) {
	union := r.search.union
	if subject := r.rel.subject; subject != nil {
		var ok bool
		if r.key, ok = appendRowKey(r.key[:0], row, r.rel.key, []Family{subject.Family}); ok {
			if _, hit := union.HitSubject(subject.Type, r.key); hit {
				return true, nil
			}
		}
	}
	for _, m := range r.rel.out {
		if _, hit, err := m.hit(union, row); hit || err != nil {
			return hit, err
		}
	}
	return false, nil
}

// follow gives the rows kept to the snapshots that have them.
func (r *SearchReader) follow(snapshots []int) error {
	s := r.search
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, row := range r.hits {
		for _, n := range snapshots {
			if err := s.snapshots[n].row(r.rel, row); err != nil {
				return err
			}
		}
		if subject := r.rel.subject; subject != nil {
			if d, ok := s.base.digest(row, r.rel.key, []Family{subject.Family}); ok {
				for _, i := range s.people[subjectKey{subject.Type, d}] {
					s.found[i] = true
				}
			}
		}
	}
	return nil
}
