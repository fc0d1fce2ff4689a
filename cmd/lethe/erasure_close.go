package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lethe/pipeline"
)

type closeFlags struct {
	refs     []string
	mistaken bool
	yes      bool
}

func (a *app) erasureCloseCommand() *cobra.Command {
	f := &closeFlags{}
	c := &cobra.Command{
		Use:   "close",
		Short: "End requests that are done: forget whom they were about",
		Long: strings.TrimSpace(`
Deletes whom a request was about, in every store and on this machine. A signed record
stays in the ledger, which says that the request is closed and names nobody.

It closes what is over, and nothing else. Every store has to answer. Every stored snapshot
honours the request; the ones that a purge has rewritten are verified, or have expired; no
store is known to keep deleted files that may hold the person. The request was recorded 7
days ago or more; no backup of the last 7 days whose snapshot is stored has met a row of
the person in the database, and every store has at least 2 of those. Neither requests: of
the rules file nor the inbox names it any more. lethe erasure list -v says what a request
waits for.

Closing can't be undone, and so it is never done by itself. Afterwards no backup leaves
the person out, if they come back from an import; no restore does, of an older copy that
turns up; and no certificate can be made. File lethe erasure certificate first.

A request that was never right, forged or about somebody else, would be honoured for
ever: its person is in the database. --mistaken ends it at once, whatever is stored, and
the next snapshot has the person again. Snapshots taken meanwhile do not, and nothing
brings back what a purge took. What recorded it, rules file or inbox, has to be put right
before.`),
		Example: `  lethe erasure close -n
  lethe erasure close --ref GDPR-2026-014
  lethe erasure close --ref DEL-4711 --mistaken`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.erasureClose(c.Context(), f) },
	}
	fl := c.Flags()
	fl.StringArrayVar(&f.refs, "ref", nil, "only the request with this `REFERENCE`; may be repeated (default: all that are over)")
	fl.BoolVar(&f.mistaken, "mistaken", false, "with --ref: it was never right; end it, and have the person in snapshots again")
	fl.BoolVar(&f.yes, "yes", false, "do not ask; for scripts")
	fl.BoolVarP(&a.dryRun, "dry-run", "n", false, "say what would be closed, change nothing")
	return c
}

func (a *app) erasureClose(ctx context.Context, f *closeFlags) error {
	if f.mistaken && len(f.refs) == 0 {
		return usage("lethe erasure close --mistaken --ref REF", "which requests were a mistake has to be said")
	}
	cfg, err := a.config()
	if err != nil {
		return err
	}
	c := pipeline.CloseConfig{Refs: f.refs, Mistaken: f.mistaken}
	c.Now, c.Tool, c.DryRun = time.Now, version, a.dryRun
	c.Warn = func(msg string) { a.term.Warn("%s", msg) }
	c.Copy, c.Inbox = cfg.ledgerCopy(!a.dryRun), cfg.Inbox
	if c.Rules, err = cfg.rules(); err != nil {
		return err
	}
	c.Source = cfg.source()
	c.Source.Log = func(msg string, args ...any) { a.term.Detail("%s %s", msg, fmt.Sprint(args...)) }
	if c.Recipients, err = cfg.recipients(); err != nil {
		return err
	}
	if c.Operator, err = cfg.operator(); err != nil {
		return err
	}
	if c.Trust, err = cfg.trusted(nil); err != nil {
		return err
	}
	if c.Stores, c.Unreachable, err = cfg.openStores(ctx, nil); err != nil {
		return err
	}
	defer closeStores(c.Stores)
	c.Confirm = func(ctx context.Context, list []pipeline.Erasure) error {
		for _, e := range list {
			a.term.Say("%4d  %s  (%s, %s, received %s)", e.Sequence, e.Ref, e.Subject, e.Stage, e.Received)
		}
		if f.yes {
			return nil
		}
		if f.mistaken {
			return a.answer(ctx, "Have these people in snapshots again from the next backup on? Type yes", "yes")
		}
		return a.answer(ctx, fmt.Sprintf("Forget whom %s about, for good? No certificate can be made afterwards. Type yes", wereAbout(len(list))), "yes")
	}
	report, err := pipeline.CloseErasures(ctx, c)
	if err != nil {
		return err
	}
	return a.sayClosed(f, report)
}

func wereAbout(n int) string {
	if n == 1 {
		return "this request was"
	}
	return fmt.Sprintf("these %d requests were", n)
}

func (a *app) sayClosed(f *closeFlags, r *pipeline.CloseReport) error {
	if a.term.json {
		if err := a.term.JSON(r); err != nil {
			return err
		}
	}
	for _, e := range r.Closed {
		if r.DryRun {
			a.term.Say("%s can be closed", e.Ref)
		} else {
			a.term.Say("%s is closed", e.Ref)
		}
	}
	say := a.term.Detail
	if len(f.refs) > 0 || r.DryRun {
		say = a.term.Say
	}
	for _, e := range r.Left {
		say("%s can't be closed yet: %s", e.Ref, strings.Join(e.Waits, "; "))
	}
	a.term.Say("ledger head %s", r.Ledger)
	for _, k := range r.Kept {
		a.term.Warn("%s", k)
	}
	failed := r.Failed()
	for _, s := range failed {
		a.term.Warn("%s: %s", s.Store, s.Error)
	}
	switch {
	case len(failed) > 0:
		return &degradedError{fmt.Errorf("%d of %d stores failed; the next backup deletes the request there, too; run this again when they answer, for what buckets keep of it", len(failed), len(r.Stores))}
	case len(r.Kept) > 0:
		return &degradedError{errors.New("not every store has forgotten the request")}
	case len(f.refs) > 0 && len(r.Left) > 0:
		return fmt.Errorf("%d of %s can't be closed yet", len(r.Left), count(int64(len(f.refs)), "request"))
	}
	return nil
}
