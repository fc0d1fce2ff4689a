package scrub

import (
	"context"
	"fmt"
	"slices"

	"lethe/rules"
	"lethe/scrub/catalog"
)

// Footprint is what erasing one person does to the rows of one table, its partitions' rows counted with it. Each row counts
// once, for the strongest that happens to it; and where several people's requests reach it, for the first of those that
// do this to it.
type Footprint struct {
	Table    catalog.Name
	Deleted  int64  // rows that go
	Others   int64  // of those, the ones that also belong to somebody who stays, as Counts.OthersDropped
	Redacted int64  // rows that stay as theirs and are rewritten
	Kept     int64  // rows that stay as theirs, unchanged
	Cleared  int64  // rows that are not theirs, in which a reference is cut
	Reason   string // why rows stay as theirs, as the rules say
	Ways     []Way  // how they are reached: the person's own row first, then in the order of the plan
}

// Way is one reference by which rows are reached, and how it leads to the person.
type Way struct {
	Path string // comments.post_id → posts.author → users; the table alone for the person's own row
	Verb Verb   // what it does to the row; Delete or Keep for the person's own
	Rows int64  // a row that is reached by several counts for each
}

// Footprint counts, for each request, what erasing these people does in the rows that q shows. It asks for the rows that
// are reached and no others: its cost is that of Resolve, and not of a reading of all tables. Rows that no snapshot holds
// anyway, as no_rows takes them along, do not count. No error holds a key or a row's value.
func (p *Plan) Footprint(ctx context.Context, q Querier, reqs []Request) ([][]Footprint, error) {
	nobody, err := p.Resolve(ctx, q, nil) // what goes without anybody's request
	if err != nil {
		return nil, err
	}
	c, server, err := p.sqlClosure(ctx, q, reqs)
	if err != nil {
		return nil, err
	}
	f := &footprint{plan: p, server: server, nobody: nobody, people: c.subjects, keys: make([][]reached, len(c.targets)), byRequest: make([]takes, len(reqs))}
	for i, first := range c.targets {
		f.keys[i] = slices.Clone(first)
	}
	c.news = func(target int, _ digest, next reached) {
		if next.request != NoRequest {
			f.keys[target] = append(f.keys[target], next)
		}
	}
	if f.erased, err = c.run(ctx, server); err != nil {
		return nil, err
	}
	for i := range f.byRequest {
		f.byRequest[i] = takes{tables: map[*catalog.Table]*Footprint{}, rows: map[*Edge]int64{}, met: map[*Edge]bool{}}
	}
	for _, t := range p.Catalog.Order {
		if tp := p.Tables[t.Name]; t.Kind == catalog.Ordinary && tp != nil && !tp.NoRows {
			if err := f.count(ctx, tp); err != nil {
				return nil, fmt.Errorf("counting rows of %s: %w", t.Name, err)
			}
		}
	}
	list := make([][]Footprint, len(reqs))
	for i, r := range reqs {
		list[i] = f.describe(p.Subjects[r.Subject], &f.byRequest[i])
	}
	return list, nil
}

// footprint is one run of Footprint.
type footprint struct {
	plan      *Plan
	server    *sqlReader
	erased    *Erased
	nobody    *Erased
	people    map[string][]reached // by subject
	keys      [][]reached          // by target: every key that leads to a person
	byRequest []takes
}

// takes is what one request does.
type takes struct {
	tables map[*catalog.Table]*Footprint // by root
	own    int64                         // rows of the person's own
	rows   map[*Edge]int64               // rows that count for this request and are reached through the reference by it
	met    map[*Edge]bool                // the reference leads some row to this person, whichever request that counts for
}

// rowJudge judges the rows of one relation.
type rowJudge struct {
	*footprint
	tp     *TablePlan
	key    []int // of the subject's key column
	links  []*matcher
	nobody []*matcher   // those by which rows go without anybody's request
	owners []*ownerLink // as Scrubber has them
	hits   []uint32     // scratch: by link, the request; NoRequest where it is not hit
	text   []byte       // scratch
}

// count asks for the rows of one relation that any reference reaches, and judges each of them once.
func (f *footprint) count(ctx context.Context, tp *TablePlan) error {
	rel := &relation{table: tp.Table, columns: []string{"ctid"}}
	j := &rowJudge{footprint: f, tp: tp}
	var questions []question
	if s := tp.Subject; s != nil && len(f.people[s.Type]) > 0 {
		j.key = []int{rel.column(s.Key)}
		questions = append(questions, question{columns: []*catalog.Column{tp.Table.Column(s.Key)}, to: []*catalog.Column{s.Table.Column(s.Key)},
			family: []Family{s.Family}, keys: f.people[s.Type]})
	}
	for _, e := range tp.Out {
		m, err := newMatcher(f.plan.Catalog, e, rel.column)
		if err != nil {
			return err
		}
		if e.Verb == Delete && f.nobody.reaches(e) {
			j.nobody = append(j.nobody, m)
		}
		if f.plan.namesOwner(e) {
			j.owners = append(j.owners, &ownerLink{edge: e, at: m.at})
		}
		keys := f.keys[f.erased.byEdge[e.ID]]
		if len(keys) == 0 {
			continue
		}
		j.links = append(j.links, m)
		q := question{edge: e, family: e.Family, keys: keys}
		for i := range e.Columns {
			q.columns = append(q.columns, tp.Table.Column(e.Columns[i]))
			q.to = append(q.to, e.To.Column(e.ToColumns[i]))
		}
		questions = append(questions, q)
	}
	if len(questions) == 0 {
		return nil
	}
	seen := map[string]bool{}
	return f.server.read(ctx, rel, questions, func(row [][]byte, _, _ int) error {
		if seen[string(row[0])] { // several references lead from it
			return nil
		}
		seen[string(row[0])] = true
		return j.row(row)
	})
}

// row counts a row, if erasing does anything to it.
func (j *rowJudge) row(row [][]byte) error {
	for _, m := range j.nobody {
		if _, goes, err := m.hit(j.footprint.nobody, row); goes || err != nil {
			return err
		}
	}
	verb, request := Leave, NoRequest
	does := func(v Verb, r uint32) {
		if v == SetDefault {
			v = Clear
		}
		if v > verb {
			verb, request = v, r
		} else if v == verb {
			request = min(request, r)
		}
	}
	own := NoRequest
	if s := j.tp.Subject; j.key != nil {
		var ok bool
		if j.text, ok = appendRowKey(j.text[:0], row, j.key, []Family{s.Family}); ok {
			if r, hit := j.erased.HitSubject(s.Type, j.text); hit {
				own = r
				does(s.verb(), r)
			}
		}
	}
	j.hits = j.hits[:0]
	cut := false
	for _, m := range j.links {
		r, hit, err := m.hit(j.erased, row)
		if err != nil {
			return err
		}
		if hit = hit && r != NoRequest; !hit {
			r = NoRequest
		}
		j.hits = append(j.hits, r)
		if hit {
			j.byRequest[r].met[m.edge] = true
			cut = cut || len(m.edge.Cut) > 0
			does(m.edge.Verb, r)
		}
	}
	if verb == Leave {
		return nil // the question brought more than it asked for
	}
	in := &j.byRequest[request]
	if own == request {
		in.own++
	}
	for i, m := range j.links {
		if j.hits[i] == request {
			in.rows[m.edge]++
		}
	}
	t := in.tables[j.tp.Table.Root()]
	if t == nil {
		t = &Footprint{Table: j.tp.Table.Root().Name}
		in.tables[j.tp.Table.Root()] = t
	}
	switch {
	case verb == Delete:
		t.Deleted++
		if j.belongsToOthers(row) {
			t.Others++
		}
	case verb == Clear:
		t.Cleared++
	case len(j.tp.Redact) > 0 || cut:
		t.Redacted++
	default:
		t.Kept++
	}
	if verb == Keep {
		t.Reason = j.tp.Reason
	}
	return nil
}

// belongsToOthers is Scrubber.belongsToOthers for a decoded row.
func (j *rowJudge) belongsToOthers(row [][]byte) bool {
	for _, o := range j.owners {
		var ok bool
		if j.text, ok = appendRowKey(j.text[:0], row, o.at, o.edge.Family); !ok {
			continue
		}
		if _, hit := j.erased.Hit(o.edge.ID, j.text); !hit {
			return true
		}
	}
	return false
}

// describe lists what one request does, with the ways from each table's rows to the person.
func (f *footprint) describe(s *Subject, in *takes) []Footprint {
	if in.own > 0 {
		t := in.tables[s.Table]
		t.Ways = append(t.Ways, Way{Path: s.Table.Name.String(), Verb: s.verb(), Rows: in.own})
	}
	way := f.plan.ways(s, func(e *Edge) bool { return in.met[e] })
	for _, e := range f.plan.Edges {
		if n := in.rows[e]; n > 0 {
			path, _ := way(e)
			t := in.tables[e.From.Root()]
			t.Ways = append(t.Ways, Way{Path: path, Verb: e.Verb, Rows: n})
		}
	}
	list := []Footprint{}
	for _, t := range f.plan.Catalog.Order {
		if found := in.tables[t]; found != nil {
			list = append(list, *found)
		}
	}
	return list
}

// verb is what erasing does to the person's own row.
func (s *Subject) verb() Verb {
	if s.Delete {
		return Delete
	}
	return Keep
}

// ways returns what writes the shortest way from a reference to a subject's table, through references that own and for
// which use says yes. ok is false where there is none.
func (p *Plan) ways(s *Subject, use func(*Edge) bool) func(*Edge) (path string, ok bool) {
	next := map[*catalog.Table]*Edge{s.Table: nil} // by root: the reference by which its rows are reached
	for queue := []*catalog.Table{s.Table}; len(queue) > 0; queue = queue[1:] {
		for _, e := range p.Edges {
			from := e.From.Root()
			if _, known := next[from]; known || e.To.Root() != queue[0] || e.Verb != Delete && e.Verb != Keep || p.keepsNone(from) || !use(e) {
				continue
			}
			next[from] = e
			queue = append(queue, from)
		}
	}
	return func(e *Edge) (path string, ok bool) {
		path = e.start()
		for {
			to := e.To.Root()
			following, ok := next[to]
			if !ok || following == nil {
				return path + " → " + to.Name.String(), ok
			}
			path += " → " + following.start()
			e = following
		}
	}
}

// keepsNone says whether no row of a root table is in any snapshot.
func (p *Plan) keepsNone(t *catalog.Table) bool {
	tp := p.Tables[t.Name]
	return tp != nil && tp.NoRows
}

// start writes where a reference begins.
func (e *Edge) start() string {
	columns := rules.Columns{Names: e.Columns}.String()
	if e.Path != "" {
		columns += " at " + e.Path
	}
	return e.From.Name.String() + "." + columns + conditionsOf(e.When)
}
