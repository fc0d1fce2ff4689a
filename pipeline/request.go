package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"lethe/pipeline/archive"
	"lethe/rules"
	"lethe/scrub"
)

// NewRequest is an order to erase somebody, before it is in the ledger.
type NewRequest struct {
	Subject  string // type, as in user:42
	Key      string
	Ref      string
	Received time.Time // a day, UTC; zero: today
}

// judged is what is to become of an order.
type judged struct {
	NewRequest
	key   string                 // in the one spelling of equal keys
	known *archive.LedgerRequest // the record that says the same; nil where there is none yet
	same  int                    // index of an earlier order of the same run that says the same, or -1
	err   error                  // why it can't be recorded
	unfit bool                   // err says that the key can be nobody's
}

// judge compares orders with the ledger and with each other. An order that says what a record says is that record; one
// that gives another person a reference that is taken has an error, and so has one that can reach nobody. Errors hold
// nothing of an order: an inbox query may have its columns in the wrong places.
func (l *ledgerRun) judge(ctx context.Context, plan *scrub.Plan, server scrub.Querier, orders []NewRequest) ([]judged, error) {
	if len(orders) == 0 {
		return nil, nil
	}
	reqs := make([]scrub.Request, len(orders))
	for i, o := range orders {
		reqs[i] = scrub.Request{Subject: o.Subject, Key: o.Key}
	}
	keys, unfit, err := l.canonical(ctx, plan, server, reqs)
	if err != nil {
		return nil, err
	}
	type whom struct{ subject, key string }
	type holder struct {
		whom
		known *archive.LedgerRequest
		order int
	}
	byRef := map[string]holder{}
	open := l.ledger.Open()
	recorded, _, err := l.canonical(ctx, plan, nil, ToErase(open)) // some may have been recorded where no schema was at hand
	if err != nil {
		return nil, err
	}
	for i, r := range open {
		byRef[r.Ref] = holder{whom{r.Subject, recorded[i]}, r, -1}
	}
	list := make([]judged, len(orders))
	today := l.c.Now().UTC().Truncate(24 * time.Hour)
	for i, o := range orders {
		j := &list[i]
		*j = judged{NewRequest: o, key: keys[i], same: -1}
		other, taken := byRef[o.Ref]
		switch {
		case !archive.ValidRef(o.Ref):
			j.err = errors.New("the reference is not 1 to 128 letters, digits and . _ : / # + -, a letter or digit first")
		case unfit[i] != nil:
			j.err, j.unfit = unfit[i], true
		case o.Received.After(today.Add(24 * time.Hour)): // somewhere it is tomorrow already
			j.err = errors.New("the day it was received is yet to come")
		case len(j.key) == 0 || len(j.key) > archive.MaxKey:
			j.err = fmt.Errorf("the key is empty, or longer than %d bytes", archive.MaxKey)
		case !taken:
			byRef[o.Ref] = holder{whom{o.Subject, j.key}, nil, i}
		case other.whom != whom{o.Subject, j.key} && other.known != nil:
			j.err = fmt.Errorf("its reference stands for another subject already, in record %d of the ledger: give each a reference of its own", other.known.Sequence)
		case other.whom != whom{o.Subject, j.key}:
			j.err = errors.New("its reference stands for another subject, too: give each a reference of its own")
		default:
			j.known, j.same = other.known, other.order
		}
	}
	return list, nil
}

// canonical is Plan.Canonical, or where no schema is at hand (plan is nil) what can be told without one.
func (l *ledgerRun) canonical(ctx context.Context, plan *scrub.Plan, server scrub.Querier, reqs []scrub.Request) (keys []string, unfit []error, err error) {
	if plan != nil {
		return plan.Canonical(ctx, server, reqs)
	}
	keys, unfit = make([]string, len(reqs)), make([]error, len(reqs))
	for i, r := range reqs {
		keys[i] = r.Key
		if !slices.ContainsFunc(l.c.Rules.Subjects, func(s rules.Subject) bool { return s.Type == r.Subject }) {
			unfit[i] = errors.New("the rules have no such type of subject")
		}
	}
	return keys, unfit, nil
}

// take records what is new among judged orders; in a dry run it only counts them in. It returns the records of all of
// them, by index, nil in a dry run for those that are new.
func (l *ledgerRun) take(ctx context.Context, list []judged) ([]*archive.LedgerRequest, error) {
	records := make([]*archive.LedgerRequest, len(list))
	before := len(l.ledger.Records)
	for i, j := range list {
		switch {
		case j.err != nil:
		case j.known != nil:
			records[i] = j.known
		case j.same >= 0:
			records[i] = records[j.same]
		case l.c.DryRun:
			l.requests = append(l.requests, scrub.Request{Subject: j.Subject, Key: j.key, Ref: j.Ref})
			l.recorded = append(l.recorded, j.Ref)
		default:
			var err error
			if records[i], err = l.record(ctx, j.Subject, j.key, j.Ref, j.Received, archive.Digest(l.c.Rules.Text)); err != nil {
				return records, fail(err, "", "record request %s", j.Ref)
			}
			l.recorded = append(l.recorded, j.Ref)
		}
	}
	if len(l.ledger.Records) == before {
		return records, nil
	}
	return records, l.spread(ctx)
}

// honour brings the ledger up to date in every store, takes in what the rules file and the inbox order, and says whom
// this run erases.
func (c BackupConfig) honour(ctx context.Context, stores []*openStore, snap *view, plan *scrub.Plan) (l *ledgerRun, err error) {
	if l, err = c.syncLedger(ctx, stores, false); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	var orders []NewRequest
	for _, r := range c.Rules.Requests {
		orders = append(orders, NewRequest{r.Subject, r.Key, r.Ref, r.Received})
	}
	list, err := l.judge(ctx, plan, snap.server, orders)
	if err != nil {
		return nil, err
	}
	for i, j := range list {
		if j.unfit { // by the server's word: what can be told without it, the check of the rules has told
			c.warn(fmt.Sprintf("%s:%d: request %s is not recorded: %v", c.Rules.Path, c.Rules.Requests[i].Pos.Line, j.Ref, j.err))
			l.unfit = append(l.unfit, j.Ref)
			continue
		}
		if j.err != nil {
			return nil, fail(configuration(j.err), "", "%s:%d: request %s", c.Rules.Path, c.Rules.Requests[i].Pos.Line, j.Ref)
		}
		if r := c.Rules.Requests[i]; j.known != nil && !r.Received.IsZero() && !j.known.Received.Equal(r.Received) {
			c.warn(fmt.Sprintf("%s:%d: request %s is in the ledger as received on %s, and stays so", c.Rules.Path, r.Pos.Line, r.Ref, j.known.Received.Format(time.DateOnly)))
		}
	}
	if _, err := l.take(ctx, list); err != nil {
		return nil, err
	}
	if err := l.readInbox(ctx, plan, snap.server); err != nil {
		return nil, err
	}
	return l, l.choose(ctx, plan, snap.server)
}

// choose says whom this run erases: everybody of the ledger who can be in this database. A request whose key can be no
// value of today's schema, such as a number where keys have become UUIDs, reaches nobody, and must not stop the backup.
func (l *ledgerRun) choose(ctx context.Context, plan *scrub.Plan, server scrub.Querier) error {
	open := l.ledger.Open()
	all := append(ToErase(open), l.requests...) // after those of a dry run
	_, unfit, err := plan.Canonical(ctx, server, all)
	if err != nil {
		return err
	}
	l.requests, l.sequences, l.nobodys = nil, nil, nil
	var strange []string
	for i, r := range all {
		switch {
		case plan.Subjects[r.Subject] == nil:
			return fail(configuration(fmt.Errorf("the ledger holds requests to erase a subject of type %q (%s), and the rules have none", r.Subject, r.Ref)),
				"declare it under subjects: again, with the table that holds them now", "read the ledger")
		case unfit[i] != nil:
			strange = append(strange, r.Ref)
			if i < len(open) {
				l.nobodys = append(l.nobodys, open[i].Sequence)
			}
		default:
			l.requests = append(l.requests, r)
			sequence := int64(0)
			if i < len(open) {
				sequence = open[i].Sequence
			}
			l.sequences = append(l.sequences, sequence)
		}
	}
	l.unfit = append(l.unfit, strange...)
	if n := len(strange); n > 0 {
		l.c.warn(fmt.Sprintf("%d erasure requests reach nobody under this schema, since their keys can't be values of the key column: %s. Where a key is wrong, record the right one under another reference", n, few(strange)))
	}
	return nil
}

// few lists some of many.
func few(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d others", strings.Join(names[:most], ", "), len(names)-most)
}

// RequestConfig is what recording erasure requests needs: what a backup needs, and the requests.
type RequestConfig struct {
	BackupConfig
	Requests  []NewRequest
	Lookup    *Lookup // in place of Requests: one person, found by a value
	ReadInbox bool    // also those of the inbox
	Confirm   int     // that so many new ones are rightly in the inbox, where that is more than a backup would believe
	InsteadOf int64   // the record that Requests, a single one, takes the place of: its sealed request is lost
}

// Lookup finds a person by the value of one of the subject's lookup columns.
type Lookup struct {
	Subject, Column, Value string
	Ref                    string
	Received               time.Time
}

// RequestReport says what became of erasure requests.
type RequestReport struct {
	DryRun   bool                `json:"dry_run,omitempty"` // nothing was recorded
	Requests []RequestResult     `json:"requests"`
	Together []TablePreview      `json:"together,omitzero"` // in a dry run, of all requests
	Ledger   *archive.LedgerHead `json:"ledger"`
	Inbox    *InboxReport        `json:"inbox,omitempty"`
	Stores   []StoreResult       `json:"stores"`
}

// RequestResult is one request. It holds no key.
type RequestResult struct {
	Sequence int64  `json:"sequence"` // of its record; 0 in a dry run, where it is new
	Ref      string `json:"ref"`
	Subject  string `json:"subject_type"`
	Received string `json:"received"`
	New      bool   `json:"new"`               // false: it was recorded before; in a dry run true says that it would be
	Present  *bool  `json:"present,omitempty"` // the person's own row is in the database; left out where no database could be asked
	Also     string `json:"also,omitempty"`    // another reference under which the same person's erasure is recorded

	Tables []TablePreview `json:"tables,omitzero"` // in a dry run: what erasing the person would do
}

// Failed returns the stores that do not hold every record.
func (r *RequestReport) Failed() []StoreResult { return failedOf(r.Stores) }

// Integrity returns the error of a store whose ledger or manifests do not hold, or nil.
func (r *RequestReport) Integrity() error { return integrityOf(r.Stores) }

// Record puts erasure requests into the ledger of every store, under its lease. Where one of them can't be recorded,
// none is. Keys are checked, and people found, in the database; where it can't be reached, a request is recorded as it
// is, and Warn says so. In a dry run nothing is written anywhere; the report says what erasing these people would do.
func Record(ctx context.Context, c RequestConfig) (report *RequestReport, err error) {
	defer func() { err = fail(err, "", "record erasure requests for %s", c.Rules.Dataset) }()
	snap, plan, err := c.database(ctx)
	if err != nil {
		return nil, err
	}
	var server scrub.Querier
	if snap != nil {
		defer snap.Close()
		server = snap.server
	}
	orders := c.Requests
	if c.Lookup != nil {
		found, err := c.Lookup.find(ctx, plan, snap)
		if err != nil {
			return nil, err
		}
		orders = append(orders, found)
	}
	l, release, err := c.openLedgers(ctx, c.InsteadOf > 0)
	if err != nil {
		return nil, err
	}
	defer release()
	list, err := l.judge(ctx, plan, server, orders)
	if err != nil {
		return nil, err
	}
	for _, j := range list {
		if j.err != nil {
			ref := j.Ref
			if !archive.ValidRef(ref) {
				ref = "(with a reference that is none)"
			}
			return nil, fail(configuration(j.err), "", "request %s", ref)
		}
	}
	if err := l.replaces(c.InsteadOf, list); err != nil {
		return nil, err
	}
	records, err := l.take(ctx, list)
	if err != nil {
		return nil, err
	}
	if c.InsteadOf > 0 && !c.DryRun {
		if err := l.close(ctx, c.InsteadOf); err != nil {
			return nil, err
		}
	}
	if c.ReadInbox {
		fresh, err := l.confirmInbox(ctx, plan, server, c.Confirm)
		if err != nil {
			return nil, err
		}
		if c.DryRun {
			list, records = append(list, fresh...), append(records, make([]*archive.LedgerRequest, len(fresh))...)
		}
	}
	others, before := l.recordedFor(), map[subjectKey]string{}
	report = &RequestReport{DryRun: c.DryRun, Requests: []RequestResult{}, Ledger: l.ledger.Head(), Inbox: l.inbox, Stores: resultsOf(l.stores, c.Unreachable)}
	for i, j := range list {
		report.Requests = append(report.Requests, l.resultOf(j, records[i], before[subjectKey{j.Subject, j.key}], others))
		before[subjectKey{j.Subject, j.key}] = j.Ref
	}
	if snap == nil || len(list) == 0 {
		return report, nil
	}
	present, err := plan.Present(ctx, server, people(list))
	if err != nil {
		return nil, err
	}
	for i := range present {
		report.Requests[i].Present = &present[i]
	}
	if c.DryRun {
		return report, report.preview(ctx, plan, server, list)
	}
	return report, nil
}

// openLedgers takes the leases of all stores for a run that writes the ledger alone, and brings it up to date in them.
// tolerant is that of syncLedger.
func (c BackupConfig) openLedgers(ctx context.Context, tolerant bool) (l *ledgerRun, release func(), err error) {
	stores, letGo, err := openForWriting(ctx, c, "erasure")
	if err != nil {
		return nil, nil, err
	}
	for _, s := range stores {
		if s.err == nil {
			s.head, s.err = c.newestHead(ctx, s)
		}
	}
	if l, err = c.syncLedger(ctx, stores, tolerant); err != nil {
		letGo()
		return nil, nil, err
	}
	return l, func() { l.Close(); letGo() }, nil
}

// resultOf says what became of an order; record is nil in a dry run where it is new. before is the reference of an order of
// the same run that is about the same person, or "".
func (l *ledgerRun) resultOf(j judged, record *archive.LedgerRequest, before string, others map[subjectKey][]*archive.LedgerRequest) RequestResult {
	result := RequestResult{Ref: j.Ref, Subject: j.Subject, New: j.known == nil}
	received := j.Received
	if received.IsZero() {
		received = l.c.Now()
	}
	if record != nil {
		result.Sequence, received = record.Sequence, record.Received
	} else if before != j.Ref {
		result.Also = before
	}
	result.Received = received.UTC().Format(time.DateOnly)
	for _, other := range others[subjectKey{j.Subject, j.key}] {
		if record == nil || other.Sequence < record.Sequence {
			result.Also = other.Ref
		}
	}
	return result
}

// subjectKey is one person.
type subjectKey struct{ subject, key string }

// recordedFor are the open requests, person by person.
func (l *ledgerRun) recordedFor() map[subjectKey][]*archive.LedgerRequest {
	all := map[subjectKey][]*archive.LedgerRequest{}
	for _, r := range l.ledger.Open() {
		all[subjectKey{r.Subject, r.Key}] = append(all[subjectKey{r.Subject, r.Key}], r)
	}
	return all
}

// people are the orders' people as scrub takes them.
func people(list []judged) []scrub.Request {
	reqs := make([]scrub.Request, len(list))
	for i, j := range list {
		reqs[i] = scrub.Request{Subject: j.Subject, Key: j.key, Ref: j.Ref}
	}
	return reqs
}

// database opens the view that keys are checked against. Both results are nil where the server can't be reached and need
// not be.
func (c RequestConfig) database(ctx context.Context) (*view, *scrub.Plan, error) {
	snap, err := c.open(ctx)
	var unreachable *pgconn.ConnectError
	if errors.As(err, &unreachable) && c.Lookup == nil && !c.ReadInbox && !c.DryRun && ctx.Err() == nil {
		c.warn(fmt.Sprintf("the database can't be asked, so keys are recorded unchecked, and looked at by the next backup: %v", err))
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	plan, err := scrub.Compile(c.Rules, snap.Catalog)
	if err != nil {
		snap.Close()
		return nil, nil, err
	}
	return snap, plan, nil
}

// find asks the database whose value it is. No error holds it.
func (f *Lookup) find(ctx context.Context, plan *scrub.Plan, snap *view) (NewRequest, error) {
	s := plan.Subjects[f.Subject]
	switch {
	case s == nil:
		return NewRequest{}, configuration(fmt.Errorf("the rules have no subject %q", f.Subject))
	case !slices.Contains(s.Lookup, f.Column):
		return NewRequest{}, fail(configuration(fmt.Errorf("subject %s is not looked up by a column of that name", f.Subject)),
			fmt.Sprintf("name the columns in the rules: subjects: {%s: {table: %s, key: %s, lookup: [email]}}", f.Subject, s.Table.Name, s.Key), "")
	}
	keys, err := plan.Lookup(ctx, snap.ask, f.Subject, f.Column, f.Value)
	var refused interface{ SQLState() string }
	if errors.As(err, &refused) && strings.HasPrefix(refused.SQLState(), "22") { // data exception
		return NewRequest{}, fail(configuration(fmt.Errorf("what was given can be no value of that column (SQLSTATE %s)", refused.SQLState())),
			"write it as the database prints it", "look for the %s by %s", f.Subject, f.Column)
	}
	if err != nil {
		return NewRequest{}, fail(err, "", "look for the %s by %s", f.Subject, f.Column)
	}
	switch len(keys) {
	case 0:
		return NewRequest{}, fail(configuration(fmt.Errorf("no %s has this %s", f.Subject, f.Column)),
			"whose row is gone already is known by key alone: lethe erasure request "+f.Subject+":KEY", "")
	case 1:
		return NewRequest{f.Subject, keys[0], f.Ref, f.Received}, nil
	}
	return NewRequest{}, fail(configuration(fmt.Errorf("several rows have this %s", f.Column)),
		"find out which is meant, and request it by key: lethe erasure request "+f.Subject+":KEY", "")
}

// replaces makes sure that the only new request may take the place of a lost one.
func (l *ledgerRun) replaces(sequence int64, list []judged) error {
	if sequence == 0 {
		return nil
	}
	refuse := func(format string, args ...any) error {
		return fail(configuration(fmt.Errorf(format, args...)), "lethe erasure list shows what there is", "take the place of record %d", sequence)
	}
	if sequence < 1 || sequence > int64(len(l.ledger.Records)) {
		return refuse("there is no such record")
	}
	switch e := l.ledger.Records[sequence-1]; {
	case e.Kind != archive.RequestRecord || e.Closed:
		return refuse("it is no open request")
	case e.Request != nil:
		return refuse("its sealed request is not lost")
	case len(list) != 1:
		return refuse("one request can, not %d", len(list))
	}
	return nil
}

// newestHead is the head of the ledger that the newest snapshot of a store honours. A manifest that can't be read tells
// nothing, as in a backup.
func (c BackupConfig) newestHead(ctx context.Context, s *openStore) (*archive.LedgerHead, error) {
	list, err := s.repo.Snapshots(ctx)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	m, err := s.repo.Manifest(ctx, list[len(list)-1].ID, c.Operator.Identities())
	if err != nil {
		if ctx.Err() == nil {
			c.warn(fmt.Sprintf("can't compare the ledger with what the newest snapshot knows of it: %v", err))
			err = nil
		}
		return nil, err
	}
	return m.Ledger, nil
}

// Integrity returns the error of a store whose ledger, manifests or keys do not hold, or nil.
func (r *BackupReport) Integrity() error { return integrityOf(r.Stores) }

func integrityOf(stores []StoreResult) error {
	for _, s := range stores {
		if errors.Is(s.err, ErrIntegrity) {
			return s.err
		}
	}
	return nil
}

func failedOf(stores []StoreResult) (failed []StoreResult) {
	for _, s := range stores {
		if s.Error != "" {
			failed = append(failed, s)
		}
	}
	return failed
}

func resultsOf(stores []*openStore, unreachable []StoreResult) []StoreResult {
	results := []StoreResult{}
	for _, s := range stores {
		r := StoreResult{Store: s.s.String(), err: s.err}
		if s.err != nil {
			r.Error = s.err.Error()
		}
		results = append(results, r)
	}
	return append(results, unreachable...)
}
