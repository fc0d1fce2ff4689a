package scrub

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"lethe/scrub/catalog"
	"lethe/scrub/copytext"
	"lethe/scrub/mask"
)

// Action is what happened to a row.
type Action int

// Actions, weakest first.
const (
	Passed    Action = iota // byte for byte
	Rewritten               // by always alone
	Cleared                 // a reference was cut
	Redacted                // the row stays and is an erased person's
	Dropped
)

// Counts is what a scrubber has seen and done, in rows. Each row counts once, for the strongest that happened to it.
type Counts struct {
	Rows, Dropped, Redacted, Cleared int64
	// OthersDropped is how many of Dropped also belong to somebody who is not erased: rows with another reference, by a
	// verb that owns, straight to a person that no request names.
	OthersDropped int64
}

// Cause says more of the row that Append was given last.
type Cause struct {
	Request uint32 // one by which it was reached, or NoRequest
	Others  bool   // it was dropped and also belongs to somebody else, as in Counts.OthersDropped
}

// Scrubber rewrites or drops the rows of one table. It belongs to one worker. The zero Scrubber passes everything.
//
// What happens to a row is decided on its values as they come. Then, in this order: redact rewrites the columns of a row
// that stays and is an erased person's; cut references become NULL or their default; `always` rewrites what these two
// left. So a column under both redact and always gets always' result of redact's result, and NULL stays NULL unless
// always says even_null.
type Scrubber struct {
	Counts Counts
	Cause  Cause
	// Verify has rows looked at that should have been erased before: where a redact strategy would go on changing its own
	// result, as a regex may, the value counts as redacted.
	Verify bool
	// Met, unless it is nil, counts by request the rows that lead to somebody to erase: each person's own, those that
	// references lead from, and those that go with them. A row that leads to several people counts for each; one that
	// only follows from another counts for one of those whom the other leads to.
	Met map[uint32]int64

	table   *catalog.Table
	need    int // fields that rules look at: those after it are never split
	dropAll bool
	pass    bool

	plan     *Plan
	keys     Keys
	erased   *Erased
	subject  *Subject
	key      int // of the subject's key column, -1 where no subject's row is to be found here
	links    []link
	owners   []ownerLink
	redact   []Rewrite
	redactAt []int
	redactBy [][]mask.Func // by request, made when first needed
	always   []columnFunc
	decodeAt []int // columns whose values the verdict looks at

	fields  [][]byte // raw
	values  [][]byte // decoded, nil where NULL, for decodeAt
	states  []fieldState
	decoded []byte // scratch: decoded values, redact's and always' results
	first   []byte
	second  []byte
	keyText []byte
}

// link is a reference that leads to something erased.
type link struct {
	edge    *Edge
	matcher *matcher
	cut     []int
	path    *pathCut // nil unless the reference is inside JSON
	hit     bool     // in this row
}

// ownerLink is a reference straight to a person, by a verb that owns.
type ownerLink struct {
	edge *Edge
	at   []int
}

type columnFunc struct {
	at       int
	column   string
	fn       mask.Func
	evenNull bool
}

// fieldState is what a field has become.
type fieldState struct {
	changed bool
	null    bool
	text    []byte // not escaped
}

// Scrubber makes the rewriter of one table's rows, which hold these columns in this order. erased may be nil where nobody
// is erased, unless other tables reference one that is kept without rows: Resolve finds what that takes along.
func (p *Plan) Scrubber(rel catalog.Name, columns []string, keys Keys, erased *Erased) (*Scrubber, error) {
	tp := p.Tables[rel]
	if tp == nil {
		t := p.Catalog.Tables[rel]
		if t == nil {
			return nil, fmt.Errorf("scrubbing %s: the schema does not define it", rel)
		}
		return &Scrubber{table: t, pass: true}, nil
	}
	s := &Scrubber{
		table: tp.Table, dropAll: tp.NoRows, plan: p, keys: keys, erased: erased, key: -1,
		decoded: make([]byte, 0, 1024), first: make([]byte, 0, 1024), second: make([]byte, 0, 1024),
	}
	if s.dropAll {
		return s, nil
	}
	var missing error
	index := func(column string) int {
		i := slices.Index(columns, column)
		if i < 0 {
			missing = fmt.Errorf("scrubbing %s: its rows come without the column %s, which rules need", rel, catalog.QuoteIfNeeded(column))
		}
		s.need = max(s.need, i+1)
		return i
	}
	if err := s.bindAlways(tp, index); err != nil {
		return nil, err
	}
	if erased == nil && !newErased(p).Empty() {
		return nil, fmt.Errorf("scrubbing %s: tables that are kept without rows are referenced, and what that takes along was not resolved", rel)
	}
	if erased != nil && !erased.Empty() {
		if err := s.bindErase(tp, index); err != nil {
			return nil, err
		}
	}
	if missing != nil {
		return nil, missing
	}
	s.pass = s.need == 0
	s.values = make([][]byte, len(columns))
	s.states = make([]fieldState, len(columns))
	return s, nil
}

func (s *Scrubber) bindAlways(tp *TablePlan, index func(string) int) error {
	for _, r := range tp.Always {
		fn, err := s.plan.strategyFunc(tp.Table, r, s.keys.Strategy)
		if err != nil {
			return err
		}
		s.always = append(s.always, columnFunc{at: index(r.Column), column: r.Column, fn: fn, evenNull: evenNull(r)})
	}
	return nil
}

func evenNull(r Rewrite) bool { return r.Strategy.Name == "value" && r.Strategy.EvenNull }

func (s *Scrubber) bindErase(tp *TablePlan, index func(string) int) error {
	look := func(i int) {
		if !slices.Contains(s.decodeAt, i) {
			s.decodeAt = append(s.decodeAt, i)
		}
	}
	owned := false
	if tp.Subject != nil && len(s.erased.subjects[tp.Subject.Type]) > 0 {
		s.subject, s.key = tp.Subject, index(tp.Subject.Key)
		look(s.key)
		owned = true
	}
	for _, edge := range tp.Out {
		if s.plan.namesOwner(edge) {
			o := ownerLink{edge: edge}
			for _, name := range edge.Columns {
				o.at = append(o.at, index(name))
			}
			s.owners = append(s.owners, o)
		}
		if !s.erased.reaches(edge) {
			continue
		}
		m, err := newMatcher(s.plan.Catalog, edge, index)
		if err != nil {
			return err
		}
		l := link{edge: edge, matcher: m}
		for _, name := range edge.Cut {
			l.cut = append(l.cut, index(name))
		}
		if edge.Path != "" && edge.Verb == Clear {
			path, err := mask.ParsePath(edge.Path)
			if err != nil {
				return err
			}
			l.path = newPathCut(path, s.erased, edge)
		}
		if err := s.plan.defaultStays(edge, s.erased); err != nil {
			return err
		}
		s.links = append(s.links, l)
		for _, i := range m.at {
			look(i)
		}
		for _, w := range m.when {
			look(w.at)
		}
		owned = owned || edge.Verb == Keep
	}
	if len(s.links) == 0 && s.subject == nil {
		s.owners = nil
	}
	for _, o := range s.owners {
		for _, i := range o.at {
			look(i)
		}
	}
	if owned {
		s.redact = tp.Redact
		for _, r := range tp.Redact {
			s.redactAt = append(s.redactAt, index(r.Column))
		}
		s.redactBy = make([][]mask.Func, len(s.keys.Erase))
	}
	return nil
}

// namesOwner says whether a reference tells whose a row is: it leads straight to people, in every row, by a verb that
// owns.
func (p *Plan) namesOwner(e *Edge) bool {
	return (e.Verb == Delete || e.Verb == Keep) && len(e.When) == 0 && e.Path == "" && p.Tables[e.To.Root().Name].Subject != nil
}

// reaches says whether any row can be reached through an edge.
func (e *Erased) reaches(edge *Edge) bool {
	t := e.targets[e.byEdge[edge.ID]]
	return t.all || len(t.keys) > 0 || len(t.base) > 0 || len(e.answers[edge.ID]) > 0
}

// defaultStays refuses ON DELETE SET DEFAULT where the row that the default names is itself erased.
func (p *Plan) defaultStays(edge *Edge, erased *Erased) error {
	key := edge.defaultKey()
	if key == nil || !p.loses(edge.To.Root()) {
		return nil
	}
	if _, hit := erased.Hit(edge.ID, key); hit {
		return fmt.Errorf("scrubbing %s: ON DELETE SET DEFAULT would lead to a row of %s that is itself erased; give the reference a verb in the rules",
			edge.From.Name, edge.To.Name)
	}
	return nil
}

// loses says whether erasing can delete rows of a root table.
func (p *Plan) loses(t *catalog.Table) bool {
	if tp := p.Tables[t.Name]; tp != nil && (tp.NoRows || tp.Subject != nil && tp.Subject.Delete) {
		return true
	}
	return slices.ContainsFunc(p.Edges, func(e *Edge) bool { return e.Verb == Delete && e.From.Root() == t })
}

// PassThrough says that every row comes out as it went in, so that rows need not be given to Append at all.
func (s *Scrubber) PassThrough() bool { return s.pass }

// Append appends what becomes of one row, which ends with its newline, or nothing where it is dropped. An error names
// table, column and the number of the row among those that this scrubber was given, never a value; dst is returned as it
// was.
func (s *Scrubber) Append(dst, row []byte) (out []byte, action Action, err error) {
	s.Counts.Rows++
	s.Cause = Cause{Request: NoRequest}
	switch {
	case s.dropAll:
		s.Counts.Dropped++
		return dst, Dropped, nil
	case s.need == 0:
		return append(dst, row...), Passed, nil
	}
	rest, action, request, err := s.judge(row)
	if err != nil {
		return dst, Passed, s.rowError(err)
	}
	if action != Passed && s.Met != nil {
		if err := s.meet(); err != nil {
			return dst, Passed, s.rowError(err)
		}
	}
	if action == Dropped {
		s.Counts.Dropped++
		if s.Cause.Others = s.belongsToOthers(); s.Cause.Others {
			s.Counts.OthersDropped++
		}
		return dst, Dropped, nil
	}
	changed, err := s.change(action, request)
	if err != nil {
		return dst, Passed, s.rowError(err)
	}
	if out = dst; changed {
		out = s.join(dst, rest)
	} else {
		out = append(dst, row...)
	}
	switch {
	case s.plan.Stored && bytes.Equal(out[len(dst):], row):
		action = Passed // it was done before the row was stored
	case action == Redacted:
		s.Counts.Redacted++
	case action == Cleared:
		s.Counts.Cleared++
	case changed:
		action = Rewritten
	}
	return out, action, nil
}

// judge splits a row and decides about it. rest is what of it is not in s.fields.
func (s *Scrubber) judge(row []byte) (rest []byte, action Action, request uint32, err error) {
	s.fields, rest = copytext.SplitN(row, s.need, s.fields[:0])
	if len(s.fields) != s.need {
		return rest, Passed, 0, fmt.Errorf("it has fewer than %d columns", s.need)
	}
	action, request, err = s.verdict()
	return rest, action, request, err
}

// Reached says whether erasing reaches a row, without doing anything to it.
func (s *Scrubber) Reached(row []byte) (bool, error) {
	if s.need == 0 {
		return false, nil
	}
	_, action, _, err := s.judge(row)
	if err != nil {
		return false, &RowError{Table: s.table.Name, Row: s.Counts.Rows + 1, Err: err}
	}
	return action != Passed, nil
}

func (s *Scrubber) rowError(err error) error {
	return &RowError{Table: s.table.Name, Row: s.Counts.Rows, Err: err}
}

// RowError is a row that the rules can't work on. It tells which, and nothing of what the row holds. Who streams the rows
// says which table they are of, so the text leaves that out.
type RowError struct {
	Table catalog.Name
	Row   int64 // counted from 1, in the order in which the rows came
	Err   error
}

func (e *RowError) Error() string {
	return fmt.Sprintf("scrubbing row %d: %v", e.Row, e.Err)
}

// Unwrap gives the reason.
func (e *RowError) Unwrap() error { return e.Err }

// Hint says what to try.
func (e *RowError) Hint() string {
	return "correct the value in the database, or change the rule that reads it: a row that can't be judged gets into no snapshot"
}

func (s *Scrubber) columnError(column string, err error) error {
	return fmt.Errorf("column %s: %w", catalog.QuoteIfNeeded(column), err)
}

// verdict decides about the row in s.fields, on its values as they came. request is the lowest that owns the row, for
// Redacted.
func (s *Scrubber) verdict() (action Action, request uint32, err error) {
	if len(s.links) == 0 && s.key < 0 {
		return Passed, 0, nil
	}
	s.decoded = s.decoded[:0]
	for _, i := range s.decodeAt {
		if s.values[i], err = s.decode(s.fields[i]); err != nil {
			return Passed, 0, err
		}
	}
	request = NoRequest
	if s.key >= 0 && s.values[s.key] != nil {
		var ok bool
		if s.keyText, ok = AppendKey(s.keyText[:0], s.subject.Family, s.values[s.key]); ok {
			if r, hit := s.erased.HitSubject(s.subject.Type, s.keyText); hit {
				s.Cause.Request = r
				if s.subject.Delete {
					return Dropped, r, nil
				}
				action, request = Redacted, r
			}
		}
	}
	for i := range s.links {
		l := &s.links[i]
		r, hit, err := s.follow(l.matcher)
		if err != nil {
			return Passed, 0, err
		}
		if l.hit = hit; !hit {
			continue
		}
		s.Cause.Request = min(s.Cause.Request, r)
		switch l.edge.Verb {
		case Delete:
			return Dropped, r, nil
		case Keep:
			action, request = Redacted, min(request, r)
		default:
			action = max(action, Cleared)
		}
	}
	return action, request, nil
}

// meet counts the row in s.values, which is reached, for everybody it leads to.
func (s *Scrubber) meet() error {
	var met []uint32
	add := func(request uint32) {
		if request != NoRequest && !slices.Contains(met, request) {
			met = append(met, request)
			s.Met[request]++
		}
	}
	if s.key >= 0 && s.values[s.key] != nil {
		var ok bool
		if s.keyText, ok = AppendKey(s.keyText[:0], s.subject.Family, s.values[s.key]); ok {
			if r, hit := s.erased.HitSubject(s.subject.Type, s.keyText); hit {
				add(r)
			}
		}
	}
	for i := range s.links {
		if err := s.links[i].matcher.hits(s.erased, s.values, add); err != nil {
			return err
		}
	}
	return nil
}

// follow is matcher.hit, without its allocations where the reference is a column.
func (s *Scrubber) follow(m *matcher) (request uint32, hit bool, err error) {
	if m.path != nil {
		return m.hit(s.erased, s.values)
	}
	if !m.applies(s.values) {
		return 0, false, nil
	}
	var ok bool
	if s.keyText, ok = appendRowKey(s.keyText[:0], s.values, m.at, m.edge.Family); !ok {
		return 0, false, nil
	}
	request, hit = s.erased.Hit(m.edge.ID, s.keyText)
	return request, hit, nil
}

// decode returns a field's value, nil where it is NULL. It is valid until the next row.
func (s *Scrubber) decode(field []byte) ([]byte, error) {
	if copytext.IsNull(field) {
		return nil, nil
	}
	if bytes.IndexByte(field, '\\') < 0 {
		return field, nil
	}
	start := len(s.decoded)
	var err error
	if s.decoded, err = copytext.Decode(s.decoded, field); err != nil {
		return nil, err
	}
	return s.decoded[start:], nil
}

// belongsToOthers says whether the row in s.fields has an owner who is not erased.
func (s *Scrubber) belongsToOthers() bool {
	for _, o := range s.owners {
		var ok bool
		s.keyText, ok = appendRowKey(s.keyText[:0], s.values, o.at, o.edge.Family)
		if !ok {
			continue // NULL leads nowhere
		}
		if _, hit := s.erased.Hit(o.edge.ID, s.keyText); !hit {
			return true
		}
	}
	return false
}

// change fills s.states with what redact, cuts and always make of the row.
func (s *Scrubber) change(action Action, request uint32) (changed bool, err error) {
	states := s.states[:s.need]
	clear(states)
	s.first, s.second = s.first[:0], s.second[:0]
	if action < Cleared {
		s.decoded = s.decoded[:0]
	}
	if action == Redacted && len(s.redact) > 0 {
		if changed, err = s.applyRedact(states, request); err != nil {
			return false, err
		}
	}
	if action >= Cleared {
		for i := range s.links {
			l := &s.links[i]
			if l.hit && (l.edge.Verb == Clear || l.edge.Verb == SetDefault) {
				if err := s.applyCut(states, l); err != nil {
					return false, err
				}
				changed = true
			}
		}
	}
	for i := range s.always {
		f := &s.always[i]
		value, err := s.current(states, f.at)
		if err != nil {
			return false, s.columnError(f.column, err)
		}
		if value == nil && !f.evenNull {
			continue
		}
		start := len(s.second)
		out, null, err := f.fn(s.second, value)
		if err != nil {
			return false, s.columnError(f.column, err)
		}
		s.second = out
		states[f.at] = fieldState{changed: true, null: null, text: out[start:]}
		changed = true
	}
	return changed, nil
}

// current is a column's value so far, nil where it is NULL.
func (s *Scrubber) current(states []fieldState, i int) ([]byte, error) {
	switch {
	case !states[i].changed:
		return s.decode(s.fields[i])
	case states[i].null:
		return nil, nil
	}
	return states[i].text, nil
}

func (s *Scrubber) applyRedact(states []fieldState, request uint32) (changed bool, err error) {
	if uint64(request) >= uint64(len(s.keys.Erase)) {
		return false, errors.New("an erased row belongs to a request that has no key")
	}
	funcs := s.redactBy[request]
	if funcs == nil {
		for _, r := range s.redact {
			fn, err := s.plan.strategyFunc(s.table, r, s.keys.Erase[request])
			if err != nil {
				return false, err
			}
			funcs = append(funcs, fn)
		}
		s.redactBy[request] = funcs
	}
	for i, fn := range funcs {
		r := &s.redact[i]
		at := s.redactAt[i]
		value, err := s.decode(s.fields[at])
		if err != nil {
			return false, s.columnError(r.Column, err)
		}
		if value == nil && !evenNull(*r) || s.plan.Stored && r.Strategy.Name == "unique_email" && mask.IsUniqueEmail(value) {
			continue
		}
		start := len(s.first)
		out, null, err := fn(s.first, value)
		if err != nil {
			return false, s.columnError(r.Column, err)
		}
		s.first = out
		if s.Verify && !null {
			text := s.first[start:]
			if out, _, err = fn(s.first, text); err != nil {
				return false, s.columnError(r.Column, err)
			}
			settles := bytes.Equal(out[len(s.first):], text)
			if s.first = out[:len(s.first)]; !settles {
				continue
			}
		}
		states[at] = fieldState{changed: true, null: null, text: out[start:len(s.first)]}
		changed = true
	}
	return changed, nil
}

func (s *Scrubber) applyCut(states []fieldState, l *link) error {
	if l.path != nil {
		at := l.cut[0]
		value, err := s.current(states, at)
		if err != nil || value == nil {
			return err
		}
		start := len(s.first)
		out, err := l.path.cut(s.first, value)
		if err != nil {
			return s.columnError(l.edge.Cut[0], err)
		}
		s.first = out
		states[at] = fieldState{changed: true, text: out[start:]}
		return nil
	}
	for i, at := range l.cut {
		if l.edge.Verb == SetDefault && l.edge.CutTo[i] != nil {
			if states[at].changed && states[at].null {
				continue // another reference has cut it
			}
			start := len(s.first)
			s.first = append(s.first, *l.edge.CutTo[i]...)
			states[at] = fieldState{changed: true, text: s.first[start:]}
			continue
		}
		states[at] = fieldState{changed: true, null: true}
	}
	return nil
}

// pathCut writes null over the keys of erased rows at a path inside JSON, and leaves other keys there.
type pathCut struct {
	finder *mask.Finder
	match  func([]byte) bool
}

func newPathCut(path mask.Path, erased *Erased, edge *Edge) *pathCut {
	var key []byte
	return &pathCut{finder: path.Finder(), match: func(text []byte) bool {
		var ok bool
		if key, ok = AppendKey(key[:0], edge.Family[0], text); !ok {
			return false
		}
		_, hit := erased.Hit(edge.ID, key)
		return hit
	}}
}

func (c *pathCut) cut(dst, json []byte) ([]byte, error) {
	return c.finder.ClearWhere(dst, json, c.match)
}

// join appends the row anew: fields that nothing changed byte for byte, then the rest that was never split.
func (s *Scrubber) join(dst, rest []byte) []byte {
	for i, field := range s.fields {
		if i > 0 {
			dst = append(dst, '\t')
		}
		switch state := &s.states[i]; {
		case !state.changed:
			dst = append(dst, field...)
		case state.null:
			dst = copytext.AppendNull(dst)
		default:
			dst = copytext.Encode(dst, state.text)
		}
	}
	return append(dst, rest...)
}
