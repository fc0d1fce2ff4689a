package scrub

import (
	"context"
	"fmt"
	"io"
	"slices"

	"lethe/scrub/catalog"
)

// Querier asks a live server. CopyQuery writes the rows of a SELECT to w as COPY text, under one snapshot, in a session
// that prints values as backups do and in the server's own encoding.
type Querier interface {
	CopyQuery(ctx context.Context, sql string, w io.Writer) error
}

// Resolve follows the references of the requested people through the rows that q shows, and returns what is erased. It
// reads original values, so q's snapshot must be the one whose rows are scrubbed. A request whose key can't be a value
// of its subject's key column is an error; one whose person is not there is none, see Erased.Missing. No error holds a
// key or a row's value.
func (p *Plan) Resolve(ctx context.Context, q Querier, reqs []Request) (*Erased, error) {
	c, server, err := p.sqlClosure(ctx, q, reqs)
	if err != nil {
		return nil, err
	}
	return c.run(ctx, server)
}

// sqlClosure begins a closure whose rows a server brings.
func (p *Plan) sqlClosure(ctx context.Context, q Querier, reqs []Request) (*closure, *sqlReader, error) {
	keys, err := canonicalRequests(p, reqs)
	if err != nil {
		return nil, nil, err
	}
	server := &sqlReader{querier: q, catalog: p.Catalog, chunk: keysPerStatement}
	for _, s := range p.Subjects {
		if err := server.canonicalize(ctx, s, reqs, keys); err != nil {
			return nil, nil, err
		}
	}
	c, err := newClosure(p, reqs, keys)
	return c, server, err
}

// canonicalRequests returns each request's key as the server prints it.
func canonicalRequests(p *Plan, reqs []Request) ([]string, error) {
	keys := make([]string, len(reqs))
	for i, r := range reqs {
		key, err := p.canonicalRequest(i, r)
		if err != nil {
			return nil, err
		}
		keys[i] = key
	}
	return keys, nil
}

// canonicalRequest is canonicalRequests for the request with index i.
func (p *Plan) canonicalRequest(i int, r Request) (string, error) {
	s := p.Subjects[r.Subject]
	if s == nil {
		return "", fmt.Errorf("erasure request %s: the rules have no subject %q", r.name(i), r.Subject)
	}
	key, err := p.canonicalKey(s, r.Key)
	if err != nil {
		return "", fmt.Errorf("erasure request %s for a %s: %w", r.name(i), s.Type, err)
	}
	return key, nil
}

func (p *Plan) canonicalKey(s *Subject, key string) (string, error) {
	return CanonicalKey(p.Catalog, s.Table.Column(s.Key), s.Family, key)
}

// name says which request it is, without its key. i is its index.
func (r Request) name(i int) string {
	if r.Ref != "" {
		return fmt.Sprintf("%d (%s)", i+1, r.Ref)
	}
	return fmt.Sprint(i + 1)
}

// closure follows references, round by round, until nothing new is reached. Keys met in one round are the questions of
// the next. A key comes back only when a lower request reaches it, so cycles end.
//
// It knows nothing of where rows come from: a rowReader brings them.
type closure struct {
	plan      *Plan
	erased    *Erased
	relations []*relation

	targets  [][]reached          // by target: keys met since the last round
	subjects map[string][]reached // by subject: the requested people, in the first round
	found    map[subjectKey]bool
	requests []subjectKey

	news func(target int, key digest, next reached) // where not nil, told of every key that a row adds

	key []byte // scratch
}

// reached is a key that leads further. Its texts are as the server prints them.
type reached struct {
	texts   []string
	request uint32
	found   bool // in a row, and not named by a request
}

// subjectKey identifies a person without holding the key.
type subjectKey struct {
	subject string
	digest  digest
}

// relation is a table or leaf partition some of whose rows the closure has to read.
type relation struct {
	table   *catalog.Table
	columns []string // all that is read of a row
	subject *Subject // where the table holds people
	key     []int    // the subject's key column, by index in columns
	out     []*matcher
	in      []keyColumns
}

// keyColumns is where a row holds its key for a target.
type keyColumns struct {
	target int
	at     []int // indexes in the relation's columns
}

// question asks for the rows of a relation that one reference, or the requests, reach.
type question struct {
	edge    *Edge // nil: the subject's own rows
	columns []*catalog.Column
	to      []*catalog.Column // what each column is compared with
	family  []Family
	all     bool      // every row whose columns hold no NULL
	keys    []reached // else: the rows whose columns equal one of these
}

// byServer says whether the reader's answer decides, and not a comparison of texts.
func (q *question) byServer() bool { return slices.Contains(q.family, Server) }

// rowReader brings rows to the closure.
type rowReader interface {
	// read calls fn for each row of the relation that a question asks for, and may call it for other rows too, or
	// twice for one. row holds rel.columns as decoded text, nil for NULL, and is valid until fn returns.
	//
	// Where a question is byServer, exactly the rows it asks for are brought with it: question is then its index and
	// key the index of the key that the row equals. For all other rows question is -1.
	read(ctx context.Context, rel *relation, questions []question, fn func(row [][]byte, question, key int) error) error
}

func newClosure(p *Plan, reqs []Request, keys []string) (*closure, error) {
	c := &closure{
		plan:     p,
		erased:   newErased(p),
		subjects: map[string][]reached{},
		found:    map[subjectKey]bool{},
		requests: make([]subjectKey, len(reqs)),
	}
	c.targets = make([][]reached, len(c.erased.targets))
	for _, t := range p.Catalog.Order {
		if t.Kind != catalog.Ordinary {
			continue // routes rows to its partitions, or holds none of ours
		}
		rel, err := c.relation(t)
		if err != nil {
			return nil, err
		}
		if rel != nil {
			c.relations = append(c.relations, rel)
		}
	}
	for i, r := range reqs {
		if err := c.request(i, p.Subjects[r.Subject], keys[i]); err != nil {
			return nil, fmt.Errorf("erasure request %s: %w", r.name(i), err)
		}
	}
	return c, nil
}

// relation says what has to be read of the rows of t, nil where nothing has.
func (c *closure) relation(t *catalog.Table) (*relation, error) {
	rel := &relation{table: t}
	for _, s := range c.plan.Subjects {
		if partOf(t, s.Table) {
			rel.subject = s
			rel.key = []int{rel.column(s.Key)}
		}
	}
	if plan := c.plan.Tables[t.Name]; plan != nil && plan.NoRows && rel.subject == nil {
		return nil, nil // none of its rows stays, and whatever references them knows that
	}
	var seen []int
	for _, e := range c.plan.Edges {
		target := c.erased.byEdge[e.ID]
		if !partOf(t, e.To) || slices.Contains(seen, target) {
			continue
		}
		seen = append(seen, target)
		in := keyColumns{target: target}
		for _, name := range e.ToColumns {
			in.at = append(in.at, rel.column(name))
		}
		rel.in = append(rel.in, in)
	}
	for _, e := range c.plan.Edges {
		owns := e.Verb == Delete || e.Verb == Keep
		if !partOf(t, e.From) || !(owns && len(rel.in) > 0) && !byServer(e) {
			continue // whether its rows go is seen when they stream by, and nothing follows from them
		}
		m, err := newMatcher(c.plan.Catalog, e, rel.column)
		if err != nil {
			return nil, err
		}
		rel.out = append(rel.out, m)
	}
	if rel.subject == nil && len(rel.out) == 0 {
		return nil, nil
	}
	return rel, nil
}

// partOf says whether the rows of t are rows of whole: they are the same table, or whole is a partitioned one above t.
func partOf(t, whole *catalog.Table) bool {
	for ; t != nil; t = t.Parent {
		if t == whole {
			return true
		}
	}
	return false
}

// column returns the index of a column among those that are read, and adds it where it is new.
func (rel *relation) column(name string) int {
	if i := slices.Index(rel.columns, name); i >= 0 {
		return i
	}
	rel.columns = append(rel.columns, name)
	return len(rel.columns) - 1
}

// request makes a person the start of the closure: by key alone, since the person's own row may be gone while rows that
// lead to it are not.
func (c *closure) request(i int, s *Subject, key string) error {
	canonical, ok := AppendKey(nil, s.Family, []byte(key))
	if !ok {
		return fmt.Errorf("the key is no value of %s.%s", s.Table.Name, catalog.QuoteIfNeeded(s.Key))
	}
	id := subjectKey{s.Type, c.erased.hash.sum(canonical)}
	c.requests[i] = id
	if !c.erased.subjects[s.Type].add(id.digest, uint32(i)) {
		return nil
	}
	from := reached{[]string{key}, uint32(i), false}
	c.subjects[s.Type] = append(c.subjects[s.Type], from)
	for target, t := range c.erased.targets {
		if !partOf(t.to, s.Table) || len(t.columns) != 1 || t.columns[0] != s.Key {
			continue
		}
		if canonical, ok = AppendKey(canonical[:0], t.family[0], []byte(key)); !ok {
			continue // a number that is no integer, say, where integers lead
		}
		if t.keys.add(c.erased.hash.sum(canonical), from.request) {
			c.targets[target] = append(c.targets[target], from)
		}
	}
	return nil
}

// run asks round after round. Rows read for one question are looked at for all references.
func (c *closure) run(ctx context.Context, reader rowReader) (*Erased, error) {
	for first := true; ; first = false {
		targets, subjects := c.targets, c.subjects
		c.targets, c.subjects = make([][]reached, len(targets)), nil
		asked := false
		for _, rel := range c.relations {
			questions := c.questions(rel, targets, subjects, first)
			if len(questions) == 0 {
				continue
			}
			asked = true
			err := reader.read(ctx, rel, questions, func(row [][]byte, question, key int) error {
				if question >= 0 {
					c.answer(rel, row, &questions[question], key)
				}
				return c.row(rel, row)
			})
			if err != nil {
				return nil, fmt.Errorf("following references through %s: %w", rel.table.Name, err)
			}
		}
		if !asked {
			break
		}
	}
	for i, id := range c.requests {
		if !c.found[id] {
			c.erased.Missing = append(c.erased.Missing, i)
		}
	}
	return c.erased, nil
}

// questions are what the keys of the last round make it necessary to ask of a relation.
func (c *closure) questions(rel *relation, targets [][]reached, subjects map[string][]reached, first bool) (qs []question) {
	if rel.subject != nil {
		if keys := subjects[rel.subject.Type]; len(keys) > 0 {
			key := rel.subject.Table.Column(rel.subject.Key)
			qs = append(qs, question{
				columns: []*catalog.Column{rel.table.Column(rel.subject.Key)}, to: []*catalog.Column{key},
				family: []Family{rel.subject.Family}, keys: keys,
			})
		}
	}
	for _, m := range rel.out {
		target := c.erased.byEdge[m.edge.ID]
		q := question{edge: m.edge, family: m.edge.Family, keys: targets[target]}
		q.all = first && c.erased.targets[target].all
		if len(q.keys) == 0 && !q.all {
			continue
		}
		for i := range m.edge.Columns {
			q.columns = append(q.columns, rel.table.Column(m.edge.Columns[i]))
			q.to = append(q.to, m.edge.To.Column(m.edge.ToColumns[i]))
		}
		qs = append(qs, q)
	}
	return qs
}

// answer records what the server says: this row's own texts equal a key that reaches.
func (c *closure) answer(rel *relation, row [][]byte, q *question, key int) {
	at, answers := rel.key, c.erased.subjects
	if q.edge == nil {
		id, ok := c.digest(row, at, q.family)
		if !ok {
			return
		}
		asked, _ := AppendKey(nil, q.family[0], []byte(q.keys[key].texts[0]))
		c.found[subjectKey{rel.subject.Type, c.erased.hash.sum(asked)}] = true
		answers[rel.subject.Type].add(id, q.keys[key].request)
		return
	}
	for _, m := range rel.out {
		if m.edge == q.edge {
			if id, ok := c.digest(row, m.at, q.family); ok {
				c.erased.answers[q.edge.ID].add(id, q.keys[key].request)
			}
		}
	}
}

// digest hashes the key that a row holds in the columns at; false where one is NULL or no value of its family.
func (c *closure) digest(row [][]byte, at []int, family []Family) (digest, bool) {
	var ok bool
	if c.key, ok = appendRowKey(c.key[:0], row, at, family); !ok {
		return digest{}, false
	}
	return c.erased.hash.sum(c.key), true
}

// appendRowKey appends the key that a row holds in the columns at. A NULL in any of them makes it no key.
func appendRowKey(dst []byte, row [][]byte, at []int, family []Family) ([]byte, bool) {
	for i, column := range at {
		if row[column] == nil {
			return dst, false
		}
		var ok bool
		if dst, ok = AppendKey(dst, family[i], row[column]); !ok {
			return dst, false
		}
	}
	return dst, true
}

// row decides whether a row is owned, and by which request; if so its keys lead further.
func (c *closure) row(rel *relation, row [][]byte) error {
	request, owned := NoRequest, false
	if rel.subject != nil {
		if id, ok := c.digest(row, rel.key, []Family{rel.subject.Family}); ok {
			if r, hit := c.erased.subjects[rel.subject.Type][id]; hit {
				c.found[subjectKey{rel.subject.Type, id}] = true
				request, owned = r, true
			}
		}
	}
	for _, m := range rel.out {
		if m.edge.Verb != Delete && m.edge.Verb != Keep {
			continue
		}
		r, hit, err := m.hit(c.erased, row)
		if err != nil {
			return err
		}
		if hit {
			request, owned = min(request, r), true
		}
	}
	if !owned {
		return nil
	}
	for _, in := range rel.in {
		t := c.erased.targets[in.target]
		id, ok := c.digest(row, in.at, t.family)
		if !ok || !t.add(id, request) {
			continue
		}
		next := reached{make([]string, len(in.at)), request, true}
		for i, column := range in.at {
			next.texts[i] = string(row[column])
		}
		c.targets[in.target] = append(c.targets[in.target], next)
		if c.news != nil {
			c.news(in.target, id, next)
		}
	}
	return nil
}
