package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lethe/scrub"
	"lethe/scrub/copytext"
)

// InboxReport says what an inbox query brought. It holds no keys.
type InboxReport struct {
	Rows     int      `json:"rows"`
	New      int      `json:"new"`      // recorded
	Refused  int      `json:"refused"`  // new ones that were not recorded, since they are too many
	Problems []string `json:"problems"` // why the inbox, or a row of it, could not be used
}

// Degraded says whether something of the inbox was left undone.
func (r *InboxReport) Degraded() bool { return r != nil && (r.Refused > 0 || len(r.Problems) > 0) }

const (
	inboxTime     = time.Minute // that the query may take
	inboxRows     = 100_000     // that it may bring
	inboxProblems = 10          // that are told one by one
	inboxBelieved = 10          // new requests that are believed however few people there are
	inboxShare    = 1000        // one new request for so many people is believed
)

// readInbox takes in the requests of the product's own table, at every backup. What is wrong with it must not stop the
// backup, and is told. So is a number of new requests that looks like a wrong query, or a forgery: none of them counts
// until a person has confirmed it.
func (l *ledgerRun) readInbox(ctx context.Context, plan *scrub.Plan, server scrub.Querier) error {
	if l.c.Inbox == "" {
		return nil
	}
	l.inbox = &InboxReport{Problems: []string{}}
	if server == nil {
		l.inbox.Problems = append(l.inbox.Problems, "a dump file has no inbox to be asked; the next backup from the server reads it")
		return nil
	}
	list, fresh, believed, err := l.askInbox(ctx, plan, server)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		problem := err.Error()
		var e *Error
		if errors.As(err, &e) && e.Help != "" {
			problem += " (" + e.Help + ")"
		}
		l.inbox.Problems = append(l.inbox.Problems, problem)
		return nil
	}
	if fresh > believed {
		l.inbox.Refused = fresh
		return nil
	}
	l.inbox.New = fresh
	_, err = l.take(ctx, list)
	return err
}

// confirmInbox is readInbox for a person who looks at it. It returns what is new. In a dry run that is whatever the inbox
// holds, confirmed or not: so it can be looked at.
func (l *ledgerRun) confirmInbox(ctx context.Context, plan *scrub.Plan, server scrub.Querier, confirmed int) ([]judged, error) {
	if l.c.Inbox == "" {
		return nil, fail(configuration(errors.New("there is no inbox")), "inbox: in lethe.yml holds its query", "")
	}
	l.inbox = &InboxReport{Problems: []string{}}
	list, fresh, believed, err := l.askInbox(ctx, plan, server)
	if err != nil {
		return nil, err
	}
	l.inbox.New = fresh
	if fresh > believed && fresh != confirmed {
		if !l.c.DryRun {
			return nil, fail(configuration(fmt.Errorf("the inbox holds %d new requests, and no more than %d are believed without a look", fresh, believed)),
				fmt.Sprintf("look at the query and its rows, and with --inbox -n at what they would do; if they are right, --confirm %d", fresh), "read the inbox")
		}
		l.inbox.New, l.inbox.Refused = 0, fresh
	}
	if _, err := l.take(ctx, list); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(j judged) bool { return j.err != nil || j.known != nil || j.same >= 0 }), nil
}

// askInbox asks, and judges. fresh is the number of requests that are not in the ledger, believed how many may be.
func (l *ledgerRun) askInbox(ctx context.Context, plan *scrub.Plan, server scrub.Querier) (list []judged, fresh, believed int, err error) {
	problem := func(row int, err error) {
		switch n := len(l.inbox.Problems); {
		case n < inboxProblems:
			l.inbox.Problems = append(l.inbox.Problems, fmt.Sprintf("row %d: %v", row, err))
		case n == inboxProblems:
			l.inbox.Problems = append(l.inbox.Problems, "and more rows like that")
		}
	}
	r := &inboxReader{problem: problem}
	asking, cancel := context.WithTimeout(ctx, inboxTime)
	defer cancel()
	query := strings.TrimRight(strings.TrimSpace(l.c.Inbox), "; \t\r\n")
	err = server.CopyQuery(asking, fmt.Sprintf("SELECT * FROM (%s\n) AS inbox LIMIT %d", query, inboxRows+1), r)
	switch {
	case asking.Err() != nil && ctx.Err() == nil:
		err = fail(fmt.Errorf("it took longer than %s", inboxTime), "make the query of inbox: faster", "read the inbox")
	case r.rows > inboxRows:
		err = fail(fmt.Errorf("it has more than %d rows", inboxRows), "let the query of inbox: leave out what is done", "read the inbox")
	case err != nil:
		err = fail(err, "try the query of inbox: with psql, after SET search_path = '': names want their schema, as in public.accounts_deleted", "read the inbox")
	}
	if err != nil {
		return nil, 0, 0, err
	}
	l.inbox.Rows = r.rows
	if list, err = l.judge(ctx, plan, server, r.orders); err != nil {
		return nil, 0, 0, err
	}
	kinds := map[string]bool{}
	for i := range list {
		switch j := &list[i]; {
		case j.err != nil:
			problem(r.at[i], j.err)
		case j.known == nil && j.same < 0:
			fresh++
			kinds[j.Subject] = true
		}
	}
	believed = inboxBelieved
	if fresh > believed {
		people, err := countPeople(ctx, plan, server, kinds)
		if err != nil {
			return nil, 0, 0, err
		}
		believed = max(believed, people/inboxShare)
	}
	return list, fresh, believed, nil
}

// countPeople counts the rows of subjects' tables.
func countPeople(ctx context.Context, plan *scrub.Plan, server scrub.Querier, kinds map[string]bool) (people int, err error) {
	for kind := range kinds {
		var out bytes.Buffer
		if err := server.CopyQuery(ctx, "SELECT pg_catalog.count(*) FROM "+plan.Subjects[kind].Table.Name.SQL(), &out); err != nil {
			return 0, fmt.Errorf("count the rows of %s: %w", plan.Subjects[kind].Table.Name, err)
		}
		n := 0
		if _, err := fmt.Sscan(out.String(), &n); err != nil {
			return 0, fmt.Errorf("count the rows of %s: the server's answer is no number", plan.Subjects[kind].Table.Name)
		}
		people += n
	}
	return people, nil
}

// inboxReader reads rows of COPY text: subject type, key, reference, day received.
type inboxReader struct {
	problem func(row int, err error)

	rows   int
	orders []NewRequest
	at     []int // the row of each order
	fields [][]byte
}

const inboxColumns = 4

func (r *inboxReader) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) { // whole rows
		if r.rows++; r.rows > inboxRows {
			return len(p), nil
		}
		if r.fields = copytext.Split(line, r.fields[:0]); len(r.fields) != inboxColumns {
			return 0, configuration(fmt.Errorf("the query brings %d columns, not subject type, key, reference and day received", len(r.fields)))
		}
		order, err := r.order()
		if err != nil {
			r.problem(r.rows, err)
			continue
		}
		r.orders, r.at = append(r.orders, order), append(r.at, r.rows)
	}
	return len(p), nil
}

// order reads one row. No error holds a value.
func (r *inboxReader) order() (o NewRequest, err error) {
	var text [inboxColumns]string
	for i, f := range r.fields {
		if copytext.IsNull(f) {
			if i == inboxColumns-1 {
				continue
			}
			return o, fmt.Errorf("%s is NULL", [...]string{"the subject type", "the key", "the reference"}[i])
		}
		value, err := copytext.Decode(nil, f)
		if err != nil {
			return o, err
		}
		text[i] = string(value)
	}
	o = NewRequest{Subject: text[0], Key: text[1], Ref: text[2]}
	if day := text[3]; day != "" {
		if len(day) > len(time.DateOnly) && slices.Contains([]byte(" T"), day[len(time.DateOnly)]) { // a timestamp
			day = day[:len(time.DateOnly)]
		}
		if o.Received, err = time.Parse(time.DateOnly, day); err != nil {
			return o, errors.New("the day received is no date")
		}
	}
	return o, nil
}
