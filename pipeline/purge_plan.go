package pipeline

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"lethe/pipeline/archive"
	"lethe/scrub/catalog"
)

// What a purge may take without a second look: more than these shares of a subject's people, or of a table's rows, in any
// snapshot is beyond what erasing people does.
const (
	subjectShare = 0.001
	tableShare   = 0.01
)

// plan fills in the report's plan.
func (p *purge) plan() {
	plan := p.report.Plan
	plan.Snapshots = len(p.stored.snapshots)
	for _, snap := range p.stored.snapshots {
		if p.changed(snap) {
			plan.Rewritten++
		}
		plan.Objects = max(plan.Objects, int64(len(p.changes.lost[snap])))
	}
	plan.Tables = p.changes.tables(func(effectKey) bool { return true })
	for _, t := range plan.Tables {
		plan.Rows += t.rows()
	}
	for i, r := range p.stored.requests {
		e := PlannedErasure{Ref: r.Ref, Subject: r.Subject, Key: r.Key}
		e.Tables = p.changes.tables(func(key effectKey) bool { return key.request == uint32(i) })
		for _, w := range p.stored.worlds {
			e.Found = e.Found || w.search.Found()[i]
		}
		plan.Requests = append(plan.Requests, e)
	}
	plan.Beyond = p.beyond()
	p.remark()
}

// tables sums up the effects that keep picks, table by table: those in the snapshot that has most of them.
func (c *changes) tables(keep func(effectKey) bool) []TableErasure {
	type place struct {
		table    catalog.Name
		snapshot *oneSnapshot
	}
	sums := map[place]*rowCounts{}
	for key, counts := range c.effects {
		if keep(key) {
			at := place{key.table, key.snapshot}
			if sums[at] == nil {
				sums[at] = &rowCounts{}
			}
			sums[at].join(*counts)
		}
	}
	byTable := map[catalog.Name]*TableErasure{}
	for at, counts := range sums {
		t := byTable[at.table]
		if t == nil {
			t = &TableErasure{Table: at.table.String()}
			byTable[at.table] = t
		}
		t.Snapshots++
		if rows := at.snapshot.rows[at.table]; counts.rows() > t.rows() || counts.rows() == t.rows() && rows > t.Rows {
			t.rowCounts, t.Rows = *counts, rows
		}
	}
	list := []TableErasure{}
	for _, t := range byTable {
		list = append(list, *t)
	}
	slices.SortFunc(list, func(a, b TableErasure) int { return strings.Compare(a.Table, b.Table) })
	return list
}

// beyond says where more goes than erasing a few people takes.
func (p *purge) beyond() []string {
	type place struct {
		snapshot *oneSnapshot
		what     string // a root table, or a subject's type
	}
	rows, people, persons := map[place]int64{}, map[place]int64{}, map[effectKey]bool{}
	for key, counts := range p.changes.effects {
		rows[place{key.snapshot, key.snapshot.world.rootOf(key.table).String()}] += counts.rows()
		person := effectKey{snapshot: key.snapshot, request: key.request}
		if int(key.request) < len(p.stored.requests) && !persons[person] {
			persons[person] = true
			people[place{key.snapshot, p.stored.requests[key.request].Subject}]++
		}
	}
	worst := map[string]float64{}
	note := func(what string, part, whole int64, limit float64) {
		if share := float64(part) / float64(max(whole, 1)); share > limit {
			worst[what] = max(worst[what], share)
		}
	}
	for at, n := range rows {
		note("the rows of "+at.what, n, at.snapshot.rowsUnder(at.what), tableShare)
	}
	for at, n := range people {
		if subject := at.snapshot.world.plan.Subjects[at.what]; subject != nil {
			note(fmt.Sprintf("the people in %s", subject.Table.Name), n, at.snapshot.rowsUnder(subject.Table.Name.String()), subjectShare)
		}
	}
	list := []string{}
	for what, share := range worst {
		list = append(list, fmt.Sprintf("%.2g %% of %s", 100*min(share, 1), what))
	}
	slices.SortFunc(list, func(a, b string) int { return cmp.Compare(a, b) })
	return list
}

// rootOf is the partitioned table at the top of a table, or the table itself.
func (w *storedWorld) rootOf(table catalog.Name) catalog.Name {
	if t := w.catalog.Tables[table]; t != nil {
		return t.Root().Name
	}
	return table
}

// rowsUnder is how many rows a snapshot has in a table with its partitions.
func (snap *oneSnapshot) rowsUnder(root string) (n int64) {
	for table, rows := range snap.rows {
		if snap.world.rootOf(table).String() == root {
			n += rows
		}
	}
	return n
}

// remark says what else a key holder should know.
func (p *purge) remark() {
	plan := p.report.Plan
	own := p.c.Identities.Recipients()
	if other := p.otherRules(); len(other) > 0 {
		plan.Remarks = append(plan.Remarks, fmt.Sprintf("the rules have changed since %s recorded (%s): %s decide", wereRequests(len(other)), few(other), p.stored.today.Path))
	}
	plan.Remarks = append(plan.Remarks, p.stored.unfit()...)
	if n := p.stored.unread.Load(); n > 0 {
		plan.Remarks = append(plan.Remarks, fmt.Sprintf("%d filters could not be read, and what they cover was read in full: lethe check names them", n))
	}
	for _, snap := range p.stored.snapshots {
		for _, r := range snap.manifest.Recipients {
			if !slices.Contains(own, r) && !slices.Contains(plan.Recipients, r) && p.changed(snap) {
				plan.Recipients = append(plan.Recipients, r)
			}
		}
		if head, last := p.head(snap), snap.ledger.Head(); last != nil && p.c.Only == nil && (head == nil || head.Sequence < last.Sequence) {
			plan.Remarks = append(plan.Remarks, fmt.Sprintf("snapshot %s is older than a request that is closed: whom it was about is not known any more, so they stay in it; unless it was a mistake, delete it", snap.id))
		}
	}
	slices.Sort(plan.Recipients)
	for _, snap := range p.stored.snapshots {
		if tables := p.leftovers(snap); len(tables) > 0 {
			plan.Remarks = append(plan.Remarks, fmt.Sprintf("snapshot %s was taken without the people asked for, and yet has rows of theirs in %s, as only other snapshots can tell: "+
				"the database may have them still, and then the next backup has them again; delete them there", snap.id, strings.Join(tables, ", ")))
		}
	}
}

// otherRules names the requests that were recorded under other rules than those that decide.
func (p *purge) otherRules() (refs []string) {
	today := archive.Digest(p.stored.today.Text)
	for _, r := range p.ledger.Open() {
		if r.Rules != today && slices.ContainsFunc(p.stored.requests, func(q erasure) bool { return q.sequence == r.Sequence }) {
			refs = append(refs, r.Ref)
		}
	}
	return refs
}

func wereRequests(n int) string {
	if n == 1 {
		return "a request was"
	}
	return fmt.Sprintf("%d requests were", n)
}

// leftovers are the tables in which the newest snapshot has rows of people although it honours their requests: rows that lead
// to what is gone from it. Nothing in the database tells whose they are, so a backup can't leave them out.
func (p *purge) leftovers(snap *oneSnapshot) (tables []string) {
	if snap.id != p.newest.ID || p.stored.honoured(snap.manifest.Ledger) < len(p.stored.requests) {
		return nil
	}
	for key := range p.changes.effects {
		if root := snap.world.rootOf(key.table).String(); key.snapshot == snap && !slices.Contains(tables, root) {
			tables = append(tables, root)
		}
	}
	slices.Sort(tables)
	return tables
}

// unfit says which requests can't be about anybody in some snapshots, as those have other keys.
func (s *stored) unfit() (remarks []string) {
	for _, w := range s.worlds {
		for _, i := range w.search.Unfit() {
			remarks = append(remarks, fmt.Sprintf("request %s is about nobody in snapshot %s and those like it: its key can't be a value of the key column there. Whoever has another key there is still in them",
				s.requests[i].Ref, w.snapshots[0].id))
		}
	}
	return remarks
}

// fit lists the other requests: those that were followed in every snapshot.
func (s *stored) fit() (requests []erasure) {
	for i, r := range s.requests {
		if !slices.ContainsFunc(s.worlds, func(w *storedWorld) bool { return slices.Contains(w.search.Unfit(), i) }) {
			requests = append(requests, r)
		}
	}
	return requests
}
