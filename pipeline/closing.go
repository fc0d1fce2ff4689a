package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
	"lethe/scrub"
)

// What it takes to close a request.
const (
	quietTime = 7 * 24 * time.Hour // for so long no backup has met a row of the person in the source
	quietRuns = 2                  // and at least so many backups have looked, whose snapshots every store still has
)

// waits says why a request can't be closed yet, as far as what is stored tells. Closing forgets whom it was about. So no
// copy may be left, for no restore could leave them out any more; and the source must have been without them for a while,
// for no backup could.
func (c *ErasuresConfig) waits(e *LedgerEntry, out *Erasure, keepers []*keeper, unknown int) (reasons []string) {
	because := func(format string, args ...any) { reasons = append(reasons, fmt.Sprintf(format, args...)) }
	if unknown > 0 {
		because("a store can't be asked")
	}
	if out.Unclean > 0 {
		because("%d stored snapshots do not honour it", out.Unclean)
	}
	if out.Hidden > 0 {
		because("stores keep %d deleted files that may hold the person", out.Hidden)
	}
	if out.Unnamed > 0 {
		because("stores have %d objects that no snapshot names and that may hold the person: a purge takes them away, or lethe expire --leftovers once they are a day old", out.Unnamed)
	}
	if e.Request == nil {
		return append(reasons, "its sealed request can't be read")
	}
	now := c.Now()
	if day := e.Request.Recorded.Add(quietTime); now.Before(day) {
		because("it was recorded less than 7 days ago; not before %s", day.UTC().Format(time.DateOnly))
	}
	for _, k := range keepers {
		if k.err != nil {
			continue
		}
		if k.unseen != nil && k.concerned(e) {
			because("whether %s keeps deleted files is not known", k.r.Store)
		}
		runs, rewritten := 0, 0
		met := storedSnapshot{}
		for _, s := range k.snapshots {
			if s.successor {
				rewritten++
			}
			if s.leaving || s.honour < e.Sequence || s.started.Before(e.Request.Recorded) || s.started.Before(now.Add(-quietTime)) {
				continue
			}
			runs++
			if met.id == "" && slices.ContainsFunc(s.met, func(m archive.Met) bool { return m.Sequence == e.Sequence }) {
				met = s
			}
		}
		switch {
		case met.id != "":
			because("the backup of %s has met the person in the source, and 7 days without that are needed", met.started.UTC().Format("2006-01-02 15:04 MST"))
		case runs < quietRuns:
			because("%s has %d snapshots of the last 7 days that honour it, and needs %d", k.r.Store, runs, quietRuns)
		}
		if rewritten > 0 && out.Stage == Purged {
			because("%s has %d rewritten snapshots, which nobody has verified", k.r.Store, rewritten)
		}
	}
	return reasons
}

// CloseConfig is what closing requests needs: what a backup needs, except that the database is asked only where there is
// an inbox.
type CloseConfig struct {
	BackupConfig
	Refs []string // of the requests to close; nil: all that can be

	// Mistaken says that Refs were never right: forged, or about somebody else. They end although snapshots and the source
	// hold the person, who is in the next snapshot again.
	Mistaken bool

	// Confirm is asked before the first one is closed, and what it returns ends the run unless it is nil. It is not asked
	// in a dry run.
	Confirm func(context.Context, []Erasure) error
}

// CloseReport says which requests were closed, or in a dry run would be.
type CloseReport struct {
	DryRun bool                `json:"dry_run"`
	Closed []Erasure           `json:"closed"` // as they stood before
	Left   []Erasure           `json:"left"`   // the open ones that can't be: open_because says why
	Ledger *archive.LedgerHead `json:"ledger"`
	Stores []StoreResult       `json:"stores"`
	Kept   []string            `json:"kept"` // what stores keep of the sealed requests all the same
}

// Failed returns the stores in which not everything was done.
func (r *CloseReport) Failed() []StoreResult { return failedOf(r.Stores) }

// CloseErasures ends requests: whom each was about is deleted in every store and on this machine, and a signed record of
// the ledger stays that says so. It does nothing where a store can't be reached or its ledger does not hold, and closes no
// request of which a copy may be left, whose person a backup has met in the last days, or that the rules file or the inbox
// still names; of one that was a mistake only the last counts. A person has to say so: what is closed can't be opened again, no restore or backup leaves the person out
// any more, and no certificate can be made.
func CloseErasures(ctx context.Context, c CloseConfig) (report *CloseReport, err error) {
	defer func() { err = fail(err, "", "close erasure requests") }()
	l, release, err := c.openLedgers(ctx, false)
	if err != nil {
		return nil, err
	}
	defer release()
	if failed := failedOf(resultsOf(l.stores, c.Unreachable)); len(failed) > 0 {
		first := failed[0].err
		if first == nil {
			first = errors.New(failed[0].Error)
		}
		return nil, fail(first, "close them when every store can be reached and its ledger holds", "ask every store")
	}
	standing, err := c.standing(ctx, l)
	if err != nil {
		return nil, err
	}
	if c.Mistaken {
		if len(c.Refs) == 0 {
			return nil, fail(configuration(errors.New("which requests were a mistake has to be said")), "name each by its reference", "")
		}
		for i := range standing {
			if slices.Contains(c.Refs, standing[i].Ref) {
				standing[i].Waits = []string{}
			}
		}
	}
	if err := c.stillNamed(ctx, l, standing); err != nil {
		return nil, err
	}
	report = &CloseReport{DryRun: c.DryRun, Closed: []Erasure{}, Left: []Erasure{}, Kept: []string{}}
	for _, ref := range c.Refs {
		if !slices.ContainsFunc(standing, func(e Erasure) bool { return e.Ref == ref && e.Stage != Closed }) {
			return nil, fail(configuration(errors.New("the ledger holds no such open request")), "lethe erasure list shows them", "close %s", ref)
		}
	}
	for _, e := range standing {
		switch wanted := c.Refs == nil || slices.Contains(c.Refs, e.Ref); {
		case e.Stage == Closed:
		case wanted && len(e.Waits) == 0:
			report.Closed = append(report.Closed, e)
		case wanted:
			report.Left = append(report.Left, e)
		}
	}
	if len(report.Closed) > 0 && !c.DryRun {
		if err := c.Confirm(ctx, report.Closed); err != nil {
			return nil, err
		}
		var sequences []int64
		for _, e := range report.Closed {
			sequences = append(sequences, e.Sequence)
		}
		if err := l.close(ctx, sequences...); err != nil {
			return nil, err
		}
	}
	if !c.DryRun && slices.ContainsFunc(l.ledger.Records, func(e LedgerEntry) bool { return e.Closed }) {
		report.Kept = l.forgetOld(ctx) // also where a store failed when they were closed, and was brought up to date since
	}
	report.Ledger, report.Stores = l.ledger.Head(), resultsOf(l.stores, nil)
	return report, nil
}

// standing says how the requests stand, in the stores of a run that holds their leases.
func (c CloseConfig) standing(ctx context.Context, l *ledgerRun) ([]Erasure, error) {
	look := ErasuresConfig{Readers: c.Operator.Identities(), Now: c.Now}
	for _, s := range l.stores {
		look.Repositories = append(look.Repositories, s.repo)
	}
	var err error
	if look.Verified, err = Proven(ctx, look.Repositories, look.Readers); err != nil {
		return nil, err
	}
	list, err := ListErasures(ctx, look)
	if err != nil {
		return nil, err
	}
	if failed := list.Failed(); len(failed) > 0 {
		return nil, failed[0].err
	}
	return list.Requests, nil
}

// stillNamed notes which requests somebody still asks for, in the rules file or in the inbox: the next backup would record
// them anew.
func (c CloseConfig) stillNamed(ctx context.Context, l *ledgerRun, standing []Erasure) error {
	type whom struct{ subject, key string }
	byRef, byWhom := map[string][]int64{}, map[whom][]int64{}
	for _, r := range l.ledger.Open() {
		byRef[r.Ref] = append(byRef[r.Ref], r.Sequence)
		byWhom[whom{r.Subject, r.Key}] = append(byWhom[whom{r.Subject, r.Key}], r.Sequence)
	}
	named := map[int64]string{}
	note := func(where, ref, subject string, keys ...string) {
		list := byRef[ref]
		for _, key := range keys {
			list = append(list[:len(list):len(list)], byWhom[whom{subject, key}]...)
		}
		for _, sequence := range list {
			named[sequence] = where
		}
	}
	if c.Inbox != "" {
		snap, err := c.open(ctx)
		if err != nil {
			return fail(err, "what the inbox holds must be known, so the database has to answer", "read the inbox")
		}
		defer snap.Close()
		plan, err := scrub.Compile(c.Rules, snap.Catalog)
		if err != nil {
			return err
		}
		l.inbox = &InboxReport{Problems: []string{}}
		list, _, _, err := l.askInbox(ctx, plan, snap.server)
		if err != nil {
			return err
		}
		if len(l.inbox.Problems) > 0 {
			return fail(errors.New(l.inbox.Problems[0]), "mend that row, or let the query of inbox: leave it out", "read the inbox")
		}
		for _, j := range list {
			note("the inbox still names it", j.Ref, j.Subject, j.Key, j.key)
		}
	}
	for _, r := range c.Rules.Requests {
		note("requests: of the rules file still names it", r.Ref, r.Subject, r.Key)
	}
	for i := range standing {
		if e := &standing[i]; named[e.Sequence] != "" {
			e.Waits = append(e.Waits, named[e.Sequence])
		}
	}
	return nil
}

// forgetOld takes away for good what stores keep of sealed requests that were deleted, also what a killed run had not
// finished writing, and says what it could not.
func (l *ledgerRun) forgetOld(ctx context.Context) (kept []string) {
	kept = []string{}
	for _, s := range l.stores {
		if s.err != nil {
			continue
		}
		if _, err := s.lease.abortUnfinished(ctx); err != nil {
			kept = append(kept, fmt.Sprintf("whether %s keeps requests, encrypted, that killed runs had not finished writing is not known: %v", s.s, err))
		}
		versioned, ok := s.s.(store.Versioned)
		if !ok {
			continue
		}
		_, left, err := versioned.DeleteOld(ctx, archive.LedgerPrefix)
		if err != nil {
			kept = append(kept, fmt.Sprintf("whether %s keeps the deleted requests, encrypted, is not known: %v", s.s, err))
		}
		for _, k := range left {
			kept = append(kept, fmt.Sprintf("%s keeps a deleted request, encrypted: %s", s.s, k.Name))
		}
	}
	return kept
}
