package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lethe/pipeline"
	"lethe/rules"
	"lethe/scrub/catalog"
)

type restoreFlags struct {
	access
	to, output                  string
	tables                      []string
	createRoles, noOwner, noACL bool
	workers                     int
	withoutLedger               bool
	until                       int64
	expect, rules               string
}

func (a *app) restoreCommand() *cobra.Command {
	f := &restoreFlags{}
	c := &cobra.Command{
		Use:   "restore {latest|SNAPSHOT}",
		Short: "Restore a snapshot into PostgreSQL, or as SQL text",
		Long: strings.TrimSpace(`
Restores a snapshot into a database that does not exist yet: it is built under a
temporary name and renamed when it is complete. A database that exists must be
empty; it is filled in place and marked as incomplete until the end. Nothing half
restored ever looks whole.

Whom an erasure request is about that came after the snapshot is left out while it is
restored, by the rules of the newest snapshot, whatever the snapshot's age and
whatever part of it is restored. Where the ledger can't be read, or is shorter than a
snapshot knows it, nothing is restored.

Needs a key holder's identity. On a machine without lethe.yml, --store and --trust
say where the snapshots are and whose signature to believe.`),
		Example: `  lethe restore latest --identity key.txt --to postgres:///slipmat_restored
  lethe restore 20261122T18 --identity key.txt --table users --output - | less
  lethe restore latest --store /mnt/usb/slipmat --trust RWQ… -i key.txt --to postgres:///slipmat`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.restore(c.Context(), f, args[0]) },
	}
	f.flags(c, "decrypt with the age identity in `FILE` (needed)")
	fl := c.Flags()
	fl.StringVar(&f.to, "to", "", "libpq `URL` of the database to build, or of an empty one to fill")
	fl.StringVarP(&f.output, "output", "o", "", "write SQL text to `FILE` instead, or to stdout with -")
	fl.StringArrayVarP(&f.tables, "table", "t", nil, "restore only the rows of this `TABLE`; may be repeated. The schema stays whole")
	fl.BoolVar(&f.createRoles, "create-roles", false, "make the roles that are missing, without passwords")
	fl.BoolVar(&f.noOwner, "no-owner", false, "leave out who owns what")
	fl.BoolVar(&f.noACL, "no-acl", false, "leave out privileges (GRANT, REVOKE)")
	fl.IntVar(&f.workers, "workers", 0, "connections that load rows and build indexes (default: workers of lethe.yml, or the number of cores)")
	fl.Int64Var(&f.until, "ledger-until", 0, "replay erasures only up to record `SEQUENCE`: later ones are false. It stays in the report")
	fl.BoolVar(&f.withoutLedger, "without-ledger", false, "replay no erasure: everybody erased since is back. It stays in the report")
	fl.StringVar(&f.expect, "expect-head", "", "fail unless the ledger holds this `HEAD`, which an earlier run printed")
	fl.StringVar(&f.rules, "rules", "", "where the newest snapshot's rules can't decide about this one: erase by those in `FILE`")
	fl.BoolVarP(&a.dryRun, "dry-run", "n", false, "check what can be checked before the first row, change nothing")
	return c
}

func (a *app) restore(ctx context.Context, f *restoreFlags, snapshot string) (err error) {
	if (f.to == "") == (f.output == "") {
		return usage("--to postgres:///NEWNAME builds a new database", "say where to: either --to URL or --output FILE")
	}
	if f.withoutLedger && (f.until != 0 || f.expect != "") || f.until < 0 {
		return usage("", "--without-ledger replays nothing, so it goes with neither --ledger-until nor --expect-head")
	}
	if f.workers < 0 || f.workers > 64 {
		return usage("", "--workers %d is not between 1 and 64", f.workers)
	}
	cfg, err := a.config()
	if err != nil {
		return err
	}
	ids, err := a.identities(ctx, &f.access)
	if err != nil {
		return err
	}
	if ids == nil {
		return usage("--identity FILE with the private key of one of the recipients; the operator's key can't read table data",
			"restoring needs a key holder's identity")
	}
	repos, failed, err := a.repositories(ctx, cfg, &f.access)
	if err != nil {
		return err
	}
	defer closeRepositories(repos)
	for _, s := range failed {
		a.term.Warn("%s: %s", s.Store, s.Error)
	}
	c := pipeline.RestoreConfig{Snapshot: snapshot, Identities: ids, To: f.to, CreateRoles: f.createRoles, NoOwner: f.noOwner,
		NoACL: f.noACL, Workers: cfg.workers(), Memory: int64(cfg.Memory), DryRun: a.dryRun, Now: time.Now, Progress: a.showProgress,
		Warn: func(msg string) { a.term.Warn("%s", msg) }}
	if f.workers > 0 {
		c.Workers = f.workers
	}
	c.WithoutLedger, c.Until = f.withoutLedger, f.until
	if c.Expect, err = ledgerHead(f.expect); err != nil {
		return err
	}
	if c.Rules, err = fallbackRules(f.rules); err != nil {
		return err
	}
	for _, t := range f.tables {
		name, err := rules.ParseName(t)
		if err != nil {
			return usage("write TABLE or SCHEMA.TABLE, in double quotes where SQL needs them", "--table: %w", err)
		}
		c.Tables = append(c.Tables, catalog.Name(name))
	}
	if c.Repository, err = choose(ctx, repos, snapshot); err != nil {
		return err
	}
	c.Others = slices.DeleteFunc(slices.Clone(repos), func(r *pipeline.Repository) bool { return r == c.Repository })
	var report *pipeline.RestoreReport
	switch {
	case f.output == "":
		report, err = pipeline.Restore(ctx, c)
	case a.dryRun:
		c.Output = io.Discard
		report, err = pipeline.Restore(ctx, c)
	case f.output == "-":
		if a.term.json {
			return usage("--output FILE", "--json and --output - both want stdout")
		}
		w := bufio.NewWriterSize(a.term.out, 1<<20)
		c.Output = w
		report, err = pipeline.Restore(ctx, c)
		err = errors.Join(err, w.Flush())
	default:
		report, err = a.restoreToFile(ctx, c, f.output)
	}
	a.term.Progress("")
	if err != nil {
		return err
	}
	for _, l := range report.LeftOut {
		a.term.Warn("left out: %s", l)
	}
	if a.term.json {
		return a.term.JSON(report)
	}
	if n := len(report.Replayed); n > 0 {
		gone := int64(0)
		for _, t := range report.Erased {
			gone += t.Deleted
			a.term.Detail("  %s: %s deleted, %s redacted, %s unlinked", t.Table, group(t.Deleted), group(t.Redacted), group(t.Cleared))
		}
		a.term.Say("replayed %s that came after the snapshot: %s left out", count(int64(n), "erasure"), count(gone, "row"))
	}
	if report.Ledger != nil {
		a.term.Say("ledger head %s", report.Ledger)
	}
	switch {
	case a.dryRun:
		a.term.Say("dry run: snapshot %s can be restored: %s here to load", report.Snapshot, count(int64(report.Tables), "table"))
	case f.output != "":
		a.term.Say("snapshot %s written as SQL: %s, %s", report.Snapshot, count(int64(report.Tables), "table"), count(report.Rows, "row"))
	default:
		a.term.Say("snapshot %s restored into database %s: %s, %s; took %s", report.Snapshot, report.Database,
			count(int64(report.Tables), "table"), count(report.Rows, "row"), durationText(time.Duration(report.Seconds*float64(time.Second))))
	}
	return nil
}

// choose picks the store to restore from: the one with the newest snapshot for "latest", else the first that has it.
func choose(ctx context.Context, repos []*pipeline.Repository, snapshot string) (*pipeline.Repository, error) {
	var best *pipeline.Repository
	var bestID string
	var first error
	for _, r := range repos {
		id, err := r.Find(ctx, snapshot)
		if err != nil {
			if first == nil {
				first = err
			}
			continue
		}
		if best == nil || id > bestID {
			best, bestID = r, id
		}
	}
	if best == nil {
		return nil, first
	}
	return best, nil
}

// restoreToFile writes SQL text so that the file exists only when it is whole. It is plaintext: mode 0600.
func (a *app) restoreToFile(ctx context.Context, c pipeline.RestoreConfig, path string) (report *pipeline.RestoreReport, err error) {
	// Taking the name of a device or a pipe would be no way to write into it.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, usage("--output - writes to stdout, for pipes and devices", "write the SQL text: %s is not a regular file", path)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".lethe-restore-*")
	if err != nil {
		return nil, fmt.Errorf("write the SQL text: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temp.Name()))
		}
	}()
	w := bufio.NewWriterSize(temp, 1<<20)
	c.Output = w
	report, err = pipeline.Restore(ctx, c)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return nil, err
	}
	return report, os.Rename(temp.Name(), path)
}
