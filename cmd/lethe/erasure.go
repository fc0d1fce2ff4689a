package main

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"lethe/pipeline"
)

func (a *app) erasureCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "erasure {request|list|purge|verify|certificate|close}",
		Short: "Forget people: record requests, see how they stand, take them out of what is stored",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usage("lethe erasure list", "say what to do: request, list, purge, verify, certificate or close")
		},
	}
	c.AddCommand(a.erasureRequestCommand(), a.erasureListCommand(), a.erasurePurgeCommand(), a.erasureVerifyCommand(),
		a.erasureCertificateCommand(), a.erasureCloseCommand())
	return c
}

type erasureListFlags struct {
	access
	expect string
}

func (a *app) erasureListCommand() *cobra.Command {
	f := &erasureListFlags{}
	c := &cobra.Command{
		Use:   "list",
		Short: "Say how every erasure request stands, and by when it must be done",
		Long: strings.TrimSpace(`
Lists the requests in the ledger. How far each is, is found out by looking at what is
stored, at every snapshot of every store:

  recorded    it is in the ledger
  effective   the newest snapshot of every store honours it
  purged      every stored snapshot does: rewritten, or the old ones have expired
  verified    a key holder's full scan found nothing
  closed      it is over: who it was about is deleted here, too

A store that can't be asked may hold anything, so nothing is claimed beyond it; nor is it
where a bucket keeps deleted files that may hold the person. OVERDUE: 30 days after the
request was received a snapshot still holds the person, or may. HELD IN is how many such
snapshots there are, in all stores together, and GONE BY the day on which the last of them
expires, if nobody purges before; it is left out where that can't be told. -v says what
each request waits for until it can be closed.

No keys of people are printed, and no snapshot is decrypted beyond its manifest.`),
		Example: `  lethe erasure list
  lethe erasure list --expect-head 17:3f9a1c0d
  lethe erasure list --store /mnt/backup/slipmat --trust RW… --identity key.txt`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.erasureList(c.Context(), f) },
	}
	f.flags(c, "read manifests and requests with the age identity in `FILE` (default: the operator key)")
	c.Flags().StringVar(&f.expect, "expect-head", "", "fail unless the ledger holds this `HEAD`, which an earlier run printed")
	return c
}

func (a *app) erasureList(ctx context.Context, f *erasureListFlags) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	l := pipeline.ErasuresConfig{}
	done, err := a.erasuresConfig(ctx, cfg, &f.access, f.expect, &l)
	if err != nil {
		return err
	}
	defer done()
	report, err := pipeline.ListErasures(ctx, l)
	if err != nil {
		return err
	}
	if err := a.printErasures(report); err != nil {
		return err
	}
	for _, n := range report.Notes {
		a.term.Warn("%s", n)
	}
	failed := report.Failed()
	for _, s := range failed {
		a.term.Warn("%s: %s", s.Store, s.Error)
	}
	switch integrity := report.Integrity(); {
	case integrity != nil:
		return &leftOut{len(failed), len(report.Stores), integrity}
	case len(failed) > 0:
		return &degradedError{errors.New("not every store could be asked")}
	}
	return nil
}

// erasuresConfig opens what a look at the erasures needs. The caller calls done.
func (a *app) erasuresConfig(ctx context.Context, cfg *config, x *access, expect string, l *pipeline.ErasuresConfig) (done func(), err error) {
	l.Retention, l.Now = cfg.retention(), time.Now
	if l.Expect, err = ledgerHead(expect); err != nil {
		return nil, err
	}
	if l.Readers, err = a.readers(ctx, cfg, x); err != nil {
		return nil, err
	}
	if l.Repositories, l.Unreachable, err = a.repositories(ctx, cfg, x); err != nil {
		return nil, err
	}
	done = func() {
		closeRepositories(l.Repositories)
		if l.Copy != nil {
			_ = l.Copy.Close() // read only
		}
	}
	if open := cfg.ledgerCopy(false); open != nil && cfg.OperatorKey != "" && len(x.identities) == 0 {
		kept, err := open(l.Repositories[0].ID)
		if err != nil {
			done()
			return nil, err
		}
		if kept != nil {
			l.Copy = kept
		}
	}
	if len(l.Unreachable) == 0 {
		if l.Verified, err = pipeline.Proven(ctx, l.Repositories, l.Readers); ctx.Err() != nil {
			done()
			return nil, err
		} else if err != nil {
			a.term.Warn("what is verified is not known: %s", err)
		}
	}
	return done, nil
}

func (a *app) printErasures(r *pipeline.Erasures) error {
	if a.term.json {
		return a.term.JSON(r)
	}
	dash := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	state := func(e *pipeline.Erasure) string {
		if e.Overdue {
			return string(e.Stage) + ", OVERDUE"
		}
		return string(e.Stage)
	}
	ref, subject, stage := len("REF"), len("SUBJECT"), len("STATE")
	for i := range r.Requests {
		e := &r.Requests[i]
		ref, subject, stage = max(ref, len(e.Ref)), max(subject, utf8.RuneCountInString(e.Subject)), max(stage, len(state(e)))
	}
	line := func(no, refText, subjectText, received, deadline, stageText, heldIn, goneBy string) error {
		return a.term.Print("%4s  %-*s  %-*s  %-10s  %-10s  %-*s  %7s  %s\n", no, ref, refText, subject, subjectText, received, deadline, stage, stageText, heldIn, goneBy)
	}
	if len(r.Requests) > 0 {
		if err := line("NO", "REF", "SUBJECT", "RECEIVED", "DEADLINE", "STATE", "HELD IN", "GONE BY"); err != nil {
			return err
		}
	}
	over := 0
	for i := range r.Requests {
		e := &r.Requests[i]
		err := line(strconv.FormatInt(e.Sequence, 10), dash(e.Ref), dash(e.Subject), dash(e.Received), dash(e.Deadline), state(e), strconv.Itoa(e.Unclean), dash(e.GoneBy))
		if err != nil {
			return err
		}
		switch {
		case e.Stage == pipeline.Closed:
		case len(e.Waits) == 0:
			over++
		default:
			a.term.Detail("      can't be closed yet: %s", strings.Join(e.Waits, "; "))
		}
	}
	if over > 0 {
		a.term.Say("%s can be closed: lethe erasure certificate REF, then lethe erasure close", count(int64(over), "request"))
	}
	a.term.Say("ledger head %s, %s", r.Ledger, count(int64(len(r.Requests)), "request"))
	return nil
}
