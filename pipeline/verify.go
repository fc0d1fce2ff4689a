package pipeline

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
	"lethe/rules"
	"lethe/scrub"
)

// VerifyConfig is what it takes to show that nobody who was erased is in stored snapshots.
type VerifyConfig struct {
	Repository *Repository
	Others     []*Repository // other stores of it, whose ledgers may know of later requests
	Identities *archive.Identities
	Signer     *archive.SigningKey // signs the proof; nil writes none

	Expect  *archive.LedgerHead // a head of the ledger that somebody noted down; may be nil
	Lookups []string            // values to search for in everything that is stored: addresses, names
	Rules   *rules.File         // as in PurgeConfig

	Workers  int
	Tool     string
	Now      func() time.Time
	Progress func(Progress)
}

// VerifyReport says what was looked at, and what was found.
type VerifyReport struct {
	Store     string              `json:"store"`
	Ledger    *archive.LedgerHead `json:"ledger"` // the last record of the ledger that was looked through; null where there is none
	Snapshots int                 `json:"snapshots"`
	Objects   int64               `json:"objects"`
	Bytes     int64               `json:"bytes"`
	Rows      int64               `json:"rows"`
	Kept      int64               `json:"kept"`     // rows of erased people that stay by a rule, redacted
	Requests  []string            `json:"requests"` // that were looked for in every snapshot
	Remarks   []string            `json:"remarks"`  // which requests could not be looked for, and why: they are not proven
	Lookups   int                 `json:"lookups"`
	Findings  []Finding           `json:"findings"`        // empty: nobody was found
	Unnamed   int                 `json:"unnamed_objects"` // that no snapshot names, so that nothing tells what is in them: nothing is proven while there are any
	Proof     string              `json:"proof"`           // the file that says so, "" where none was written
}

// Finding is a place where somebody is found who should not be. It says where, never whom.
type Finding struct {
	Ref       string   `json:"ref,omitempty"`    // of the request, or
	Lookup    int      `json:"lookup,omitempty"` // the number of the value that was searched for, from 1
	Part      string   `json:"part"`             // the table or part
	Column    string   `json:"column,omitempty"` // where known
	Problem   string   `json:"problem"`
	Count     int64    `json:"count"`     // rows, in each snapshot, or places, in each object that holds them
	Snapshots []string `json:"snapshots"` // that have them
}

// Verify reads everything that a store's snapshots hold, without the help of filters, and looks for the people whom
// requests are about: rows that today's rules would still delete, rewrite or cut for them, and values that stand anywhere
// in rows, DDL, large objects and manifests. Where it finds nothing it writes a signed proof. Objects that no snapshot
// names, as interrupted runs leave them, can't be looked through: nothing is proven while the store has some from before a
// request.
//
// It can't find what the links to are gone: a row that led to somebody through rows that were erased.
func Verify(ctx context.Context, c VerifyConfig) (report *VerifyReport, err error) {
	defer func() { err = fail(err, "", "verify %s", c.Repository.Store) }()
	v := &verification{c: c, values: map[string]*lookups{}, started: c.Now(), found: map[foundKey]*foundIn{},
		report: &VerifyReport{Store: c.Repository.Store.String(), Requests: []string{}, Remarks: []string{}, Lookups: len(c.Lookups), Findings: []Finding{}}}
	defer func() { v.stored.close() }()
	if err := v.open(ctx); err != nil {
		return nil, err
	}
	if err := v.stored.follow(ctx); err != nil { // reading every row that references may lead to
		return nil, err
	}
	if err := v.tables(ctx); err != nil { // and then every row
		return nil, err
	}
	if err := v.texts(ctx); err != nil { // and everything else
		return nil, err
	}
	v.findings()
	if len(v.report.Findings)+v.report.Unnamed > 0 || c.Signer == nil {
		return v.report, nil
	}
	return v.report, v.prove(ctx)
}

// verification is one run of Verify.
type verification struct {
	c       VerifyConfig
	values  map[string]*lookups // by encoding
	started time.Time
	report  *VerifyReport
	ledger  *Ledger
	stored  *stored
	refs    []archive.SnapshotRef

	mu    sync.Mutex
	found map[foundKey]*foundIn
}

// foundKey is a finding without where it was.
type foundKey struct {
	request int // index, or -1
	lookup  int // index, or -1
	part    string
	column  string
	problem string
}

type foundIn struct {
	count     int64
	snapshots map[string]bool
}

func (v *verification) note(key foundKey, count int64, snapshots ...*oneSnapshot) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f := v.found[key]
	if f == nil {
		f = &foundIn{snapshots: map[string]bool{}}
		v.found[key] = f
	}
	f.count += count
	for _, s := range snapshots {
		f.snapshots[s.id] = true
	}
}

// open reads every manifest. One that can't be read or believed ends it: what it names would go unread.
func (v *verification) open(ctx context.Context) error {
	repo := v.c.Repository
	var err error
	var doubts []string
	if v.ledger, doubts, err = openLedgers(ctx, repo, v.c.Others, v.c.Identities, v.c.Expect); err != nil {
		return err
	}
	v.report.Ledger, v.report.Remarks = v.ledger.Head(), append(v.report.Remarks, doubts...)
	objects, err := repo.unnamed(ctx, nil) // all of them, before the snapshots that may name them
	if err != nil {
		return err
	}
	keys, err := repo.keys(ctx, v.c.Identities)
	if err != nil {
		return err
	}
	list, err := repo.Snapshots(ctx)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fail(configuration(errors.New("there is no snapshot")), "lethe list shows what the store holds", "")
	}
	newest, err := repo.Manifest(ctx, list[len(list)-1].ID, v.c.Identities)
	if err != nil {
		return err
	}
	requests := erasures(v.ledger.Open())
	today, err := todaysRules(newest, v.c.Rules, requests)
	if err != nil {
		return err
	}
	v.stored = newStored(v.c.Identities, keys, today, nil, requests, v.c.Workers)
	v.stored.fallback, v.stored.progress, v.stored.everybody, v.stored.unfiltered = v.c.Rules, v.c.Progress, true, true
	if v.stored.now, err = v.stored.schema(ctx, repo, newest.Parts); err != nil {
		return err
	}
	named := map[objectID]struct{}{}
	for _, l := range list {
		m, digest, err := repo.manifest(ctx, l.ID, v.c.Identities)
		if err != nil {
			return err
		}
		if err := noteNamed(named, m); err != nil {
			return err
		}
		if err := v.ledger.Holds(m.Ledger); err != nil {
			return fail(err, "lethe help ledger tells what to do", "compare the ledger with what snapshot %s knows", l.ID)
		}
		if _, err := v.stored.add(ctx, repo, m, digest); err != nil {
			return err
		}
		v.refs = append(v.refs, archive.SnapshotRef{ID: l.ID, Digest: digest})
		for _, encoding := range []string{m.ClientEncoding, "UTF8"} { // the latter is that of manifests
			if v.values[encoding] == nil {
				if v.values[encoding], err = newLookups(v.c.Lookups, encoding); err != nil {
					return err
				}
			}
		}
		if err := v.manifest(v.stored.snapshots[len(v.stored.snapshots)-1], m); err != nil {
			return err
		}
	}
	if err := v.unnamed(ctx, objects, named); err != nil {
		return err
	}
	v.report.Snapshots = len(list)
	v.report.Remarks = append(v.report.Remarks, v.stored.unfit()...)
	for _, r := range v.stored.fit() {
		v.report.Requests = append(v.report.Requests, r.Ref)
	}
	return nil
}

// manifest searches what a manifest says beside its objects: settings and comment of the database, the rules.
func (v *verification) manifest(snap *oneSnapshot, m *archive.Manifest) error {
	s := &searcher{lookups: v.values["UTF8"]}
	if len(s.values) == 0 {
		return nil
	}
	said := *m
	said.Parts = nil
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(&said); err != nil {
		return err
	}
	s.search(text.Bytes(), func(value, _ int) {
		v.note(foundKey{-1, value, "manifest", "", "holds a value that was searched for"}, 1, snap)
	})
	return nil
}

// unnamed counts the objects that no snapshot names and that may hold somebody. Those of a run that is under way can't be
// told from those that one has left.
func (v *verification) unnamed(ctx context.Context, objects map[objectID]store.Info, named map[objectID]struct{}) error {
	var put []time.Time
	for id, i := range objects {
		if _, ok := named[id]; ok {
			continue
		}
		if _, err := v.c.Repository.Store.Stat(ctx, i.Name); isNotFound(err) { // it expired a moment ago
			continue
		} else if err != nil {
			return err
		}
		put = append(put, i.Modified)
	}
	slices.SortFunc(put, time.Time.Compare)
	if len(v.c.Lookups) > 0 {
		v.report.Unnamed = len(put)
	}
	for i := range v.ledger.Records {
		if e := &v.ledger.Records[i]; e.Request != nil {
			v.report.Unnamed = max(v.report.Unnamed, putBefore(put, e))
		}
	}
	if v.report.Unnamed == 0 {
		return nil
	}
	return v.c.Repository.idle(ctx, v.c.Now())
}

// tables reads every row.
func (v *verification) tables(ctx context.Context) error {
	return v.stored.read(ctx, v.stored.pieces, "reading everything", func() (func(*storedPiece, []byte) error, error) {
		r := newRewriter()
		r.verify = true
		search := &searcher{}
		return func(p *storedPiece, rows []byte) error {
			for _, u := range p.uses {
				if err := v.rows(r, u, rows); err != nil {
					return err
				}
			}
			v.search(search, p, rows)
			v.mu.Lock()
			defer v.mu.Unlock()
			v.report.Objects++
			v.report.Bytes += p.object.Size
			v.report.Rows += p.object.Rows
			return nil
		}, nil
	})
}

// rows looks for rows on which erasing would still do something.
func (v *verification) rows(r *rewriter, u *storedUse, rows []byte) error {
	if u.world.plan.Tables[u.table] == nil {
		return nil
	}
	touched := map[int]int64{}
	list, err := r.variants(u, rows, func(w rewritten) {
		touched[w.snapshot]++
		problem := map[scrub.Action]string{scrub.Dropped: "should have been deleted", scrub.Redacted: "should have been redacted", scrub.Cleared: "still references a person"}[w.action]
		v.note(foundKey{int(w.cause.Request), -1, u.table.String(), "", problem}, 1, u.world.snapshots[w.snapshot])
	})
	if err != nil {
		return err
	}
	kept := int64(0)
	for _, n := range u.in {
		if u.world.search.Erased(n).Empty() {
			continue
		}
		kept = max(kept, int64(len(list[0].hits))-touched[n])
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Kept += kept
	return nil
}

// search looks for values in a piece's rows.
func (v *verification) search(s *searcher, p *storedPiece, rows []byte) {
	u := p.uses[0]
	s.lookups = v.values[u.world.encoding()]
	s.search(rows, func(value, at int) {
		column := ""
		begin := bytes.LastIndexByte(rows[:at], '\n') + 1
		if n := bytes.Count(rows[begin:at], []byte{'\t'}); n < len(u.columns) {
			column = u.columns[n]
		}
		for _, u := range p.uses {
			v.note(foundKey{-1, value, u.table.String(), column, "holds a value that was searched for"}, 1, u.snapshots()...)
		}
	})
}

// snapshots are the snapshots that have the piece.
func (u *storedUse) snapshots() (list []*oneSnapshot) {
	for _, n := range u.in {
		list = append(list, u.world.snapshots[n])
	}
	return list
}

// storedText is one object of a part that is no table.
type storedText struct {
	object archive.Object
	kind   archive.PartKind
	repo   *Repository
	in     []*oneSnapshot
	ends   []chunk // of a large-objects part: its first and last chunk of bytes, cut to what a value may need
}

// texts reads everything that is no table's rows.
func (v *verification) texts(ctx context.Context) error {
	var list []*storedText
	byObject := map[string]*storedText{}
	for _, snap := range v.stored.snapshots {
		for _, part := range snap.manifest.Parts {
			for _, o := range part.Objects {
				t := byObject[o.Object]
				if t == nil {
					t = &storedText{object: o, kind: part.Kind, repo: snap.repo}
					byObject[o.Object] = t
					list = append(list, t)
				}
				t.in = append(t.in, snap)
			}
		}
	}
	err := each(ctx, list, v.c.Workers, func() (func(context.Context, *storedText) error, error) {
		opener, err := archive.NewOpener(v.c.Identities)
		search := &searcher{}
		return func(ctx context.Context, t *storedText) error {
			data, err := t.repo.Object(ctx, t.object)
			if err != nil {
				return err
			}
			text, err := opener.Open(data, t.object)
			if err != nil {
				return err
			}
			v.mu.Lock()
			v.report.Objects++
			v.report.Bytes += t.object.Size
			v.mu.Unlock()
			if search.lookups = v.values[t.in[0].manifest.ClientEncoding]; len(search.values) == 0 {
				return nil
			}
			if t.kind == archive.LargeObjects {
				return v.largeObjects(search, t, text)
			}
			search.search(text, func(value, _ int) { v.noteText(t.kind, value, t.in) })
			return nil
		}, err
	})
	if err != nil {
		return err
	}
	v.joints(byObject)
	return nil
}

func (v *verification) noteText(kind archive.PartKind, value int, in []*oneSnapshot) {
	v.note(foundKey{-1, value, string(kind), "", "holds a value that was searched for"}, 1, in...)
}

// largeObjects searches the bytes of large objects, and what is said about them.
func (v *verification) largeObjects(s *searcher, t *storedText, text []byte) error {
	found := map[int]bool{}
	s.search(text, func(value, _ int) { found[value] = true })
	var last chunk
	err := chunks(text, func(c chunk) error {
		joined := join(last, c, s.most)
		s.searchBytes(joined, func(value int) { found[value] = true })
		s.searchBytes(c.data, func(value int) { found[value] = true })
		if len(t.ends) == 0 {
			t.ends = append(t.ends, chunk{c.oid, c.from, bytes.Clone(c.data[:min(len(c.data), s.most)])})
		}
		last = c
		return nil
	})
	if err != nil {
		return integrity(fmt.Errorf("object %s: %w", t.object.Object, err))
	}
	if len(t.ends) > 0 {
		n := max(0, len(last.data)-s.most)
		t.ends = append(t.ends, chunk{last.oid, last.from + int64(n), bytes.Clone(last.data[n:])})
	}
	for value := range found {
		v.noteText(t.kind, value, t.in)
	}
	return nil
}

// join is the end of one chunk and the beginning of the next, as far as a value may reach, where they are of one large
// object and follow each other.
func join(a, b chunk, most int) []byte {
	if a.oid != b.oid || a.from+int64(len(a.data)) != b.from {
		return nil
	}
	return slices.Concat(a.data[max(0, len(a.data)-most):], b.data[:min(len(b.data), most)])
}

// joints searches where a large object goes on from one object to the next.
func (v *verification) joints(byObject map[string]*storedText) {
	for _, snap := range v.stored.snapshots {
		s := &searcher{lookups: v.values[snap.manifest.ClientEncoding]}
		for _, part := range snap.manifest.Parts {
			var last *storedText
			for _, o := range part.Objects {
				t := byObject[o.Object]
				if last != nil && len(last.ends) > 0 && len(t.ends) > 0 {
					s.searchBytes(join(last.ends[len(last.ends)-1], t.ends[0], s.most), func(value int) { v.noteText(t.kind, value, []*oneSnapshot{snap}) })
				}
				last = t
			}
		}
	}
}

// findings puts what was found into the report.
func (v *verification) findings() {
	for key, in := range v.found {
		f := Finding{Lookup: key.lookup + 1, Part: key.part, Column: key.column, Problem: key.problem, Count: in.count}
		if key.request >= 0 && key.request < len(v.stored.requests) {
			f.Ref = v.stored.requests[key.request].Ref
		}
		for id := range in.snapshots {
			f.Snapshots = append(f.Snapshots, id)
		}
		slices.Sort(f.Snapshots)
		v.report.Findings = append(v.report.Findings, f)
	}
	slices.SortFunc(v.report.Findings, func(a, b Finding) int {
		return strings.Compare(fmt.Sprintf("%s %d %s %s %s", a.Ref, a.Lookup, a.Part, a.Column, a.Problem), fmt.Sprintf("%s %d %s %s %s", b.Ref, b.Lookup, b.Part, b.Column, b.Problem))
	})
}

// prove writes the proof.
func (v *verification) prove(ctx context.Context) error {
	p := &archive.Proof{Repository: v.c.Repository.ID, Started: v.started, Finished: v.c.Now(), Tool: v.c.Tool, Snapshots: v.refs,
		Rules: archive.Digest(v.stored.today.Text), Objects: v.report.Objects, Bytes: v.report.Bytes, Rows: v.report.Rows, Kept: v.report.Kept, Lookups: int64(v.report.Lookups)}
	p.Ledger = v.ledger.Head()
	for _, r := range v.stored.fit() {
		p.Requests = append(p.Requests, archive.ProofRequest{Sequence: r.sequence, Ref: r.Ref})
	}
	data, err := p.Encode()
	if err != nil {
		return err
	}
	id, err := archive.NewSnapshotID(p.Finished, rand.Reader)
	if err != nil {
		return err
	}
	v.report.Proof = archive.ProofName(id)
	return v.c.Repository.putSigned(ctx, v.c.Signer, archive.PurposeProof, v.report.Proof, data)
}
