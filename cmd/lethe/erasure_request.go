package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/rules"
)

type requestFlags struct {
	refs      []string
	received  string
	by        string
	inbox     bool
	confirm   int
	insteadOf int64
}

func (a *app) erasureRequestCommand() *cobra.Command {
	f := &requestFlags{}
	c := &cobra.Command{
		Use:   "request [TYPE:KEY… | - | TYPE --by COLUMN] --ref REF",
		Short: "Record that somebody is to be erased",
		Long: strings.TrimSpace(`
Puts a request into the ledger, in every store and on this machine: from the next
backup on, no snapshot holds the person. The live database is not changed; delete them
in the application, as ever.

TYPE is one of subjects: in the rules, KEY their key, as in user:42. The reference is
your own, and is printed in messages: no names and no addresses. The same request twice
is one. One reference stands for one subject; with several subjects give --ref as often.

With - requests are read from standard input, as lines of CSV: TYPE:KEY, then a
reference and the day it was received, as far as --ref and --received do not say them.
With --by the person is found in the database by a value of one of the subject's lookup:
columns. The value is asked for on the terminal, without echo, or read from standard
input; it is stored nowhere.

With --dry-run nothing is recorded. It prints what erasing them would do in the database
as it is now, table by table: rows deleted, and how many of those also belong to somebody
else; redacted; unlinked, where somebody else's row leads to them; kept unchanged, and
why; and the references by which they are reached. It asks for those rows alone.`),
		Example: `  lethe erasure request user:42 --ref GDPR-2026-014 --received 2026-11-20
  lethe erasure request user:42 --ref GDPR-2026-014 --dry-run
  lethe erasure request user --by email --ref GDPR-2026-015
  lethe erasure request - < requests.csv`,
		RunE: func(c *cobra.Command, args []string) error { return a.erasureRequest(c, f, args) },
	}
	fl := c.Flags()
	fl.StringArrayVar(&f.refs, "ref", nil, "your own `REFERENCE`; once for each subject, in the same order")
	fl.StringVar(&f.received, "received", "", "the `DAY` the request came in, as 2026-11-20 (default: today)")
	fl.StringVar(&f.by, "by", "", "find the person by this `COLUMN`, one of the subject's lookup columns")
	fl.BoolVar(&f.inbox, "inbox", false, "record what the inbox: of lethe.yml holds, as every backup does")
	fl.IntVar(&f.confirm, "confirm", 0, "with --inbox: there are rightly `N` new requests, however many that is")
	fl.Int64Var(&f.insteadOf, "instead-of", 0, "take the place of record `SEQUENCE`, whose sealed request is lost")
	fl.BoolVarP(&a.dryRun, "dry-run", "n", false, "record nothing; say what erasing them would do, table by table")
	return c
}

func (a *app) erasureRequest(c *cobra.Command, f *requestFlags, args []string) error {
	ctx := c.Context()
	cfg, err := a.config()
	if err != nil {
		return err
	}
	r := pipeline.RequestConfig{ReadInbox: f.inbox, Confirm: f.confirm, InsteadOf: f.insteadOf}
	r.Now, r.Tool, r.DryRun = time.Now, version, a.dryRun
	r.Warn = func(msg string) { a.term.Warn("%s", msg) }
	r.Copy, r.Inbox = cfg.ledgerCopy(!a.dryRun), cfg.Inbox
	if r.Rules, err = cfg.rules(); err != nil {
		return err
	}
	if err := a.orders(ctx, f, args, &r); err != nil {
		return err
	}
	r.Source = cfg.source()
	r.Source.Log = func(msg string, args ...any) { a.term.Detail("%s %s", msg, fmt.Sprint(args...)) }
	if r.Recipients, err = cfg.recipients(); err != nil {
		return err
	}
	if r.Operator, err = cfg.operator(); err != nil {
		return err
	}
	if r.Trust, err = cfg.trusted(nil); err != nil {
		return err
	}
	if r.Stores, r.Unreachable, err = cfg.openStores(ctx, nil); err != nil {
		return err
	}
	defer closeStores(r.Stores)
	report, err := pipeline.Record(ctx, r)
	if err != nil {
		return err
	}
	return a.sayRequests(report)
}

// orders reads the subjects of the command line and of standard input into r.
func (a *app) orders(ctx context.Context, f *requestFlags, args []string, r *pipeline.RequestConfig) (err error) {
	received, err := parseDay(f.received)
	if err != nil {
		return err
	}
	if f.confirm != 0 && !f.inbox {
		return usage("--inbox --confirm N", "--confirm is for --inbox")
	}
	switch {
	case f.inbox && len(args)+len(f.refs) == 0 && f.by == "" && f.received == "" && f.insteadOf == 0:
		return nil
	case f.inbox:
		return usage("", "--inbox takes its requests from the table alone")
	case len(args) == 0:
		return usage("lethe erasure request user:42 --ref GDPR-2026-014", "whom is it about?")
	case f.by != "":
		return a.lookup(ctx, f, args, received, r)
	case slices.Equal(args, []string{"-"}):
		r.Requests, err = a.readOrders(f, received, r.Rules)
		return err
	case len(f.refs) == 0:
		return usage("--ref GDPR-2026-014, a reference of your own", "every request has a reference")
	case len(f.refs) != len(args):
		return usage("give --ref once for each subject, in the same order", "%d references for %s: one stands for one subject", len(f.refs), count(int64(len(args)), "subject"))
	}
	for i, arg := range args {
		kind, key, err := subject(r.Rules, arg)
		if err != nil {
			return err
		}
		r.Requests = append(r.Requests, pipeline.NewRequest{Subject: kind, Key: key, Ref: f.refs[i], Received: received})
	}
	return nil
}

// subject reads TYPE:KEY. Its errors hold no key.
func subject(f *rules.File, text string) (kind, key string, err error) {
	kind, key, ok := strings.Cut(text, ":")
	if !ok || kind == "" || key == "" {
		return "", "", usage("lethe erasure request user:42 --ref GDPR-2026-014", "a subject is written TYPE:KEY")
	}
	return kind, key, knownSubject(f, kind)
}

func knownSubject(f *rules.File, kind string) error {
	var known []string
	for _, s := range f.Subjects {
		if s.Type == kind {
			return nil
		}
		known = append(known, s.Type)
	}
	if len(known) == 0 {
		return usage("declare it: subjects: {user: {table: users, key: id}}", "%s declares no type of subject", f.Path)
	}
	return usage("declared: "+strings.Join(known, ", "), "%s declares no type of subject like that", f.Path)
}

func parseDay(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	day, err := time.Parse(time.DateOnly, text)
	if err != nil || day.Year() < 1970 {
		return day, usage("--received 2026-11-20", "the day received is not a date")
	}
	return day, nil
}

// readOrders reads lines of CSV from standard input. Its errors hold nothing of a line.
func (a *app) readOrders(f *requestFlags, received time.Time, r *rules.File) (orders []pipeline.NewRequest, err error) {
	if len(f.refs) > 1 {
		return nil, usage("write the references into the lines: user:42,GDPR-2026-014", "with - one --ref at most")
	}
	in := csv.NewReader(a.stdin)
	in.FieldsPerRecord, in.TrimLeadingSpace, in.Comment = -1, true, '#'
	for {
		fields, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			var bad *csv.ParseError
			if errors.As(err, &bad) {
				return nil, usage("a line is TYPE:KEY, or TYPE:KEY,REF,DAY; quote what holds a comma or a quotation mark", "standard input, line %d: not CSV", bad.StartLine)
			}
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		line, _ := in.FieldPos(0)
		bad := func(err error) error {
			return usage(hint(err), "standard input, line %d: %w", line, err)
		}
		if len(fields) > 3 {
			return nil, bad(usage("a line is TYPE:KEY, or TYPE:KEY,REF,DAY", "it has %d fields", len(fields)))
		}
		o := pipeline.NewRequest{Received: received}
		if o.Subject, o.Key, err = subject(r, fields[0]); err != nil {
			return nil, bad(err)
		}
		if len(fields) > 1 {
			o.Ref = fields[1]
		}
		if o.Ref == "" && len(f.refs) == 1 {
			o.Ref = f.refs[0]
		}
		if !archive.ValidRef(o.Ref) {
			return nil, bad(usage("1 to 128 letters, digits and . _ : / # + -, a letter or digit first; no names, no addresses", "the reference is missing, or not of the form of one"))
		}
		if len(fields) > 2 && fields[2] != "" {
			if o.Received, err = parseDay(fields[2]); err != nil {
				return nil, bad(err)
			}
		}
		orders = append(orders, o)
	}
	if len(orders) == 0 {
		return nil, usage("a line is TYPE:KEY, or TYPE:KEY,REF,DAY", "standard input holds no request")
	}
	return orders, nil
}

// lookup asks for the value by which a person is to be found.
func (a *app) lookup(ctx context.Context, f *requestFlags, args []string, received time.Time, r *pipeline.RequestConfig) error {
	const example = "lethe erasure request user --by email --ref GDPR-2026-014"
	if len(args) != 1 || strings.Contains(args[0], ":") {
		return usage(example, "--by finds one person: say the type of subject alone, no key and no value")
	}
	if err := knownSubject(r.Rules, args[0]); err != nil {
		return err
	}
	if len(f.refs) != 1 {
		return usage(example, "every request has a reference, and this one has %d", len(f.refs))
	}
	value, err := a.value(ctx, f.by)
	if err != nil {
		return err
	}
	r.Lookup = &pipeline.Lookup{Subject: args[0], Column: f.by, Value: value, Ref: f.refs[0], Received: received}
	return nil
}

// value asks for a personal value on the terminal, without echo, or reads a line of standard input where that is none.
func (a *app) value(ctx context.Context, what string) (string, error) {
	var value string
	var err error
	if in, ok := a.stdin.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		value, err = a.term.Ask(ctx, what)
	} else {
		value, err = bufio.NewReader(io.LimitReader(a.stdin, 64<<10)).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("read the value to look for: %w", err)
	}
	if value = strings.TrimRight(value, "\r\n"); value == "" || strings.ContainsRune(value, 0) {
		return "", usage("run it on a terminal, or send the value to its standard input", "there is no value to look for")
	}
	return value, nil
}

func (a *app) sayRequests(r *pipeline.RequestReport) error {
	if a.term.json {
		if err := a.term.JSON(r); err != nil {
			return err
		}
	}
	if r.DryRun {
		if err := a.showPreview(r); err != nil {
			return err
		}
	} else {
		a.sayRecorded(r)
	}
	failed := r.Failed()
	for _, s := range failed {
		a.term.Warn("%s does not hold this yet: %s", s.Store, s.Error)
	}
	switch integrity := r.Integrity(); {
	case integrity != nil:
		return &leftOut{len(failed), len(r.Stores), integrity}
	case len(failed) > 0:
		return &degradedError{fmt.Errorf("%d of %d stores failed; the next backup brings them up to date", len(failed), len(r.Stores))}
	case r.Inbox.Degraded() && (!r.DryRun || len(r.Inbox.Problems) > 0): // a dry run is the look that too many of them want
		return &degradedError{errors.New("not every row of the inbox could be used")}
	}
	return nil
}

// sayRecorded tells what is in the ledger now.
func (a *app) sayRecorded(r *pipeline.RequestReport) {
	fresh := 0
	for _, q := range r.Requests {
		if q.New {
			fresh++
			a.term.Say("request %s is recorded, as number %d (%s, received %s)", q.Ref, q.Sequence, q.Subject, q.Received)
		} else {
			a.term.Say("request %s was recorded before, as number %d", q.Ref, q.Sequence)
		}
		a.sayPerson(&q)
	}
	a.sayInbox(r.Inbox)
	if r.Inbox != nil {
		fresh += r.Inbox.New
		a.term.Say("%s in the inbox, %s of them new", count(int64(r.Inbox.Rows), "row"), group(int64(r.Inbox.New)))
	}
	a.term.Say("ledger head %s", r.Ledger)
	if fresh > 0 {
		a.term.Say("next: lethe backup takes a snapshot without them; lethe erasure list says what older ones still hold")
	}
}

// sayPerson notes what is odd about whom a request is about.
func (a *app) sayPerson(q *pipeline.RequestResult) {
	if q.Present != nil && !*q.Present {
		a.term.Say("note: nobody with this key is in the database (any more); rows that still lead to the key go all the same")
	}
	if q.Also != "" {
		a.term.Say("note: the same person's erasure is also recorded as %s; each has its own clock", q.Also)
	}
}

// showPreview prints what erasing the people of a dry run would do. No key of theirs is in it.
func (a *app) showPreview(r *pipeline.RequestReport) error {
	if !a.term.json {
		if err := a.printPreview(r); err != nil {
			return err
		}
	}
	fresh := 0
	for _, q := range r.Requests {
		if q.New {
			fresh++
		}
	}
	if r.Inbox != nil {
		for _, p := range r.Inbox.Problems {
			a.term.Warn("inbox: %s", p)
		}
		a.term.Say("%s in the inbox, %s of them new", count(int64(r.Inbox.Rows), "row"), group(int64(r.Inbox.New+r.Inbox.Refused)))
		if r.Inbox.Refused > 0 {
			a.term.Warn("inbox: %s new at once look like a wrong query or a forgery. Look at the query and its rows; if they are right: lethe erasure request --inbox --confirm %d",
				count(int64(r.Inbox.Refused), "request"), r.Inbox.Refused)
		}
	}
	a.term.Say("dry run: %s would be new in the ledger; nothing was recorded, in no store and not here, and no snapshot was taken or changed", count(int64(fresh), "request"))
	a.term.Say("counted in the database as it is now; what stored snapshots hold of them, lethe erasure purge -n counts once the request is recorded")
	return nil
}

func (a *app) printPreview(r *pipeline.RequestReport) error {
	if err := a.term.Print("%-40s  %9s  %9s  %9s  %9s  %9s\n", "", "DELETED", "OF OTHERS", "REDACTED", "UNLINKED", "KEPT"); err != nil {
		return err
	}
	for _, q := range r.Requests {
		note := ""
		switch {
		case q.Present != nil && !*q.Present:
			note = "; nobody with this key is in the database (any more)"
		case !q.New:
			note = fmt.Sprintf("; recorded already, as number %d", q.Sequence)
		}
		if q.Also != "" {
			note += "; the same person as " + q.Also
		}
		if err := a.term.Print("%s  (%s, received %s%s)\n", q.Ref, q.Subject, q.Received, note); err != nil {
			return err
		}
		if err := a.printTables(q.Tables); err != nil {
			return err
		}
	}
	if r.Together == nil {
		return nil
	}
	if err := a.term.Print("all together\n"); err != nil {
		return err
	}
	return a.printTables(r.Together)
}

// printTables prints one line for each table and, below it, how its rows are reached.
func (a *app) printTables(tables []pipeline.TablePreview) error {
	if len(tables) == 0 {
		return a.term.Print("  no row of any table is reached\n")
	}
	for _, t := range tables {
		if err := a.term.Print("  %-38s  %9s  %9s  %9s  %9s  %9s\n", t.Table, group(t.Deleted), group(t.Others), group(t.Redacted), group(t.Cleared), group(t.Kept)); err != nil {
			return err
		}
		for _, w := range t.Ways {
			if err := a.term.Print("    %s: %s, %s\n", w.Path, w.Verb, count(w.Rows, "row")); err != nil {
				return err
			}
		}
		if t.Reason != "" {
			if err := a.term.Print("    kept because: %s\n", t.Reason); err != nil {
				return err
			}
		}
	}
	return nil
}
