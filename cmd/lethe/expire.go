package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lethe/pipeline"
)

// expireWorkers is how many objects are deleted at a time: it is waiting, not work.
const expireWorkers = 8

type expireFlags struct {
	access
	keepWithin string
	keepMin    int
	leftovers  bool
}

func (a *app) expireCommand() *cobra.Command {
	f := &expireFlags{}
	c := &cobra.Command{
		Use:   "expire",
		Short: "Delete the snapshots that retention no longer keeps",
		Long: strings.TrimSpace(`
Says of every snapshot in every store whether it stays, and why, by retention: in
lethe.yml; then deletes those that do not, and the objects that only they name. What
either rule keeps stays, and so does the newest snapshot, always.

Nothing is deleted from a store where a manifest can't be read or its signature does
not hold, and no backup runs meanwhile. A run that is interrupted leaves every listed
snapshot whole; the next one ends its work.`),
		Example: `  lethe expire --dry-run
  lethe expire
  lethe expire --keep-within 3d -n`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.expire(c, f) },
	}
	f.flags(c, "read manifests with the age identity in `FILE` (default: the operator key)")
	fl := c.Flags()
	fl.BoolVarP(&a.dryRun, "dry-run", "n", false, "say what would stay and what would go, delete nothing")
	fl.StringVar(&f.keepWithin, "keep-within", "", "keep what is younger than `DURATION`, such as 7d (default: retention.keep_within)")
	fl.IntVar(&f.keepMin, "keep-min", 0, "keep the `N` newest, however old (default: retention.keep_min)")
	fl.BoolVar(&f.leftovers, "leftovers", false, "also delete what interrupted runs left: objects older than a day that no snapshot names, and files not finished; not in a store that is being copied into")
	return c
}

// retention is the policy of the file, which flags beat.
func (f *expireFlags) retention(c *cobra.Command, cfg *config) (r pipeline.Retention, err error) {
	r = cfg.retention()
	if c.Flags().Changed("keep-within") {
		if r.KeepWithin, err = parseDuration(f.keepWithin); err != nil {
			return r, usage("--keep-within 7d", "--keep-within: %w", err)
		}
	}
	if c.Flags().Changed("keep-min") {
		if r.KeepMin = f.keepMin; f.keepMin < 0 {
			return r, usage("", "--keep-min %d is negative", f.keepMin)
		}
	}
	if r.Empty() {
		return r, cfg.missing("retention", "retention: {keep_within: 7d, keep_min: 1}")
	}
	return r, nil
}

func (c *config) retention() pipeline.Retention {
	return pipeline.Retention{KeepWithin: time.Duration(c.Retention.KeepWithin), KeepMin: c.Retention.KeepMin}
}

func (a *app) expire(c *cobra.Command, f *expireFlags) error {
	ctx := c.Context()
	cfg, err := a.config()
	if err != nil {
		return err
	}
	retention, err := f.retention(c, cfg)
	if err != nil {
		return err
	}
	readers, err := a.readers(ctx, cfg, &f.access)
	if err != nil {
		return err
	}
	repos, failed, err := a.repositories(ctx, cfg, &f.access)
	if err != nil {
		return err
	}
	defer closeRepositories(repos)
	report, err := pipeline.Expire(ctx, pipeline.ExpireConfig{Repositories: repos, Unreachable: failed, Readers: readers, Retention: retention,
		Leftovers: f.leftovers, DryRun: a.dryRun, Workers: expireWorkers, Now: time.Now, Warn: func(msg string) { a.term.Warn("%s", msg) },
		Progress: func(p pipeline.Progress) { a.term.Progress("%s: %s", p.Stage, bytesText(p.Bytes)) }})
	a.term.Progress("")
	if report == nil {
		return err
	}
	return a.sayExpire(report, err)
}

// sayExpire prints the report. err is what ends the command, if anything does.
func (a *app) sayExpire(r *pipeline.ExpireReport, err error) error {
	if a.term.json {
		if err := a.term.JSON(r); err != nil {
			return err
		}
	}
	for _, s := range r.Stores {
		if s.Error != "" {
			if err == nil || s.Error != err.Error() {
				a.term.Warn("%s", s.Error)
			}
			continue
		}
		for _, v := range s.Snapshots {
			word := "keep  "
			if !v.Keep {
				word = "remove"
			}
			if !a.term.json && (a.dryRun || !a.term.quiet) {
				if err := a.term.Print("%s  %s  %s%s\n", word, v.Snapshot, v.Reason, storeColumn(len(r.Stores) > 1, "("+s.Store+")")); err != nil {
					return err
				}
			}
		}
		a.term.Say("%s: %s", s.Store, expiryText(r.DryRun, s))
	}
	if err != nil {
		return err
	}
	if n := r.Failed(); n > 0 {
		return &degradedError{fmt.Errorf("%d of %d stores failed", n, len(r.Stores))}
	}
	return nil
}

func expiryText(dryRun bool, s pipeline.StoreExpiry) string {
	verb := "deleted "
	if dryRun {
		verb = "would delete "
	}
	text := fmt.Sprintf("%s%s of %s and %s, %s", verb, group(int64(s.Removed)), count(int64(len(s.Snapshots)), "snapshot"), count(int64(s.Objects), "object"), bytesText(s.Bytes))
	if s.Leftovers > 0 {
		text += fmt.Sprintf("; of those objects %s that no snapshot named", group(int64(s.Leftovers)))
	}
	if s.Unfinished > 0 {
		text += fmt.Sprintf("; and %s that killed runs had not finished writing", count(int64(s.Unfinished), "file"))
	}
	if s.Resumed > 0 {
		text += fmt.Sprintf("; ended what an interrupted run had begun with %s", count(int64(s.Resumed), "snapshot"))
	}
	return text
}
