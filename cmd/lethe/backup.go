package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/source"
	"lethe/pipeline/store"
	"lethe/pipeline/store/open"
	"lethe/rules"
)

func (a *app) backupCommand() *cobra.Command {
	var dump string
	var full bool
	c := &cobra.Command{
		Use:   "backup",
		Short: "Take a snapshot: dump, scrub, compress, encrypt, store",
		Long: strings.TrimSpace(`
Takes one consistent snapshot of the database, applies the rules to every row,
takes the people named in requests: out of every table, and stores the result,
encrypted, in every store. The snapshot exists once its manifest is written; a run
that fails leaves none.

What a store holds already is not sent again: of tables that changed little, little
goes over the wire. Each snapshot is whole by itself all the same, and needs no other.
A run that was interrupted is taken up where it stopped. --full sends everything,
for a store that is suspected of damage.

With --dump it reads a plain pg_dump file and asks no server; the snapshot is as old
as the file. It says so where rules need what only a server knows.`),
		Example: `  lethe backup
  pg_dump --file=slipmat.sql slipmat && lethe backup --dump slipmat.sql`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.backup(c.Context(), dump, full) },
	}
	c.Flags().StringVar(&dump, "dump", "", "read the plain pg_dump `FILE` instead of the database")
	c.Flags().BoolVar(&full, "full", false, "send every piece anew, also those that the stores hold already")
	c.Flags().BoolVarP(&a.dryRun, "dry-run", "n", false, "read and scrub everything, store nothing, and say what would be erased")
	return c
}

func (a *app) backup(ctx context.Context, dump string, full bool) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	b := pipeline.BackupConfig{
		Dump: dump, Full: full, Workers: cfg.workers(), Memory: int64(cfg.Memory), State: cfg.state(), Tool: version, DryRun: a.dryRun, Now: time.Now, Progress: a.showProgress,
		Copy: cfg.ledgerCopy(!a.dryRun), Inbox: cfg.Inbox, Warn: func(msg string) { a.term.Warn("%s", msg) }, Processors: func(n int) { runtime.GOMAXPROCS(n) },
	}
	if b.Rules, err = cfg.rules(); err != nil {
		return err
	}
	if b.Recipients, err = cfg.recipients(); err != nil {
		return err
	}
	if b.Operator, err = cfg.operator(); err != nil {
		return err
	}
	if b.Trust, err = cfg.trusted(nil); err != nil {
		return err
	}
	if b.Stores, b.Unreachable, err = cfg.openStores(ctx, nil); err != nil {
		return err
	}
	defer closeStores(b.Stores)
	b.Source = cfg.source()
	b.Source.Log = func(msg string, args ...any) { a.term.Detail("%s %s", msg, fmt.Sprint(args...)) }

	report, err := pipeline.Backup(ctx, b)
	a.term.Progress("")
	if err != nil {
		for _, s := range b.Unreachable {
			a.term.Warn("%s", s.Error)
		}
		return err
	}
	if a.term.json {
		if err := a.term.JSON(report); err != nil {
			return err
		}
	}
	a.sayBackup(report)
	for _, d := range report.Drift {
		a.term.Warn("since the last snapshot, %s", d)
	}
	failed := report.Failed()
	for _, s := range failed {
		a.term.Warn("%s does not hold this snapshot: %s", s.Store, s.Error)
	}
	a.sayInbox(report.Inbox)
	switch integrity := report.Integrity(); {
	case integrity != nil:
		return &leftOut{len(failed), len(report.Stores), integrity}
	case len(failed) > 0:
		return &degradedError{fmt.Errorf("%d of %d stores failed", len(failed), len(report.Stores))}
	case report.Inbox.Degraded():
		return &degradedError{errors.New("requests of the inbox are not honoured yet")}
	case len(report.Unfit) > 0:
		return &degradedError{fmt.Errorf("%s not honoured, since the key can be nobody's: %s", count(int64(len(report.Unfit)), "erasure request"), few(report.Unfit))}
	case len(report.Drift) > 0:
		return &degradedError{errors.New("the schema has drifted from the rules")}
	}
	return nil
}

func (a *app) sayBackup(r *pipeline.BackupReport) {
	for _, e := range r.Effects {
		a.term.Detail("  %-32s %s", e.Table, effectText(e))
	}
	if n := len(r.Recorded); n > 0 {
		what := "new in the ledger: request "
		if r.Snapshot == "" {
			what = "not in the ledger yet: request "
		}
		a.term.Say("%s%s", what, few(r.Recorded))
	}
	for _, ref := range r.Missing {
		note := a.term.Detail // as it should be, once the application has deleted them
		if slices.Contains(r.Recorded, ref) {
			note = a.term.Say
		}
		note("note: the person of request %s has no row of their own in the database (any more)", ref)
	}
	what := "snapshot " + r.Snapshot
	if r.Snapshot == "" {
		what = "dry run of " + r.Dataset
	}
	sent := ""
	if r.Snapshot != "" && r.Reused > 0 {
		sent = fmt.Sprintf(", %s sent", bytesText(r.Uploaded))
	}
	a.term.Say("%s: %s, %s; %s of text in %s%s; took %s", what, count(int64(r.Tables), "table"), count(r.Rows, "row"),
		bytesText(r.Text), bytesText(r.Bytes), sent, durationText(r.Finished.Sub(r.Started)))
	if r.Dropped+r.Redacted+r.Cleared > 0 {
		a.term.Say("left out %s, redacted %s, cleared a reference in %s (%s honoured)", count(r.Dropped, "row"), group(r.Redacted), group(r.Cleared),
			count(int64(r.Erasures), "erasure request"))
	}
	if r.Ledger != nil {
		a.term.Say("ledger head %s; %s honoured", r.Ledger, count(int64(r.Erasures), "request"))
	}
}

// few lists some of many.
func few(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %s others", strings.Join(names[:most], ", "), group(int64(len(names)-most)))
}

// sayInbox tells what of the inbox was left undone.
func (a *app) sayInbox(r *pipeline.InboxReport) {
	if r == nil {
		return
	}
	for _, p := range r.Problems {
		a.term.Warn("inbox: %s", p)
	}
	if r.Refused > 0 {
		a.term.Warn("inbox: %s new at once look like a wrong query or a forgery: none was recorded, and this snapshot still holds these people. "+
			"Look at the query and its rows; if they are right: lethe erasure request --inbox --confirm %d", count(int64(r.Refused), "request"), r.Refused)
	}
}

// leftOut is exit 6: the work is done, but not in a store whose ledger or signatures do not hold.
type leftOut struct {
	failed, of int
	err        error
}

func (e *leftOut) Error() string {
	return fmt.Sprintf("%d of %d stores failed, and one does not hold what it should: %v", e.failed, e.of, e.err)
}
func (e *leftOut) Unwrap() error { return e.err }

func effectText(e pipeline.TableEffect) string {
	text := group(e.Rows) + " kept"
	for _, part := range []struct {
		n    int64
		what string
	}{{e.Dropped, "deleted"}, {e.Redacted, "redacted"}, {e.Cleared, "cleared"}} {
		if part.n > 0 {
			text += ", " + group(part.n) + " " + part.what
		}
	}
	return text
}

func (a *app) showProgress(p pipeline.Progress) {
	if p.Total > 0 {
		a.term.Progress("%s: %s of about %s", p.Stage, bytesText(p.Bytes), bytesText(p.Total))
		return
	}
	a.term.Progress("%s: %s", p.Stage, bytesText(p.Bytes))
}

// What the commands take out of the configuration, with what to do where it is missing.

func (c *config) rules() (*rules.File, error) {
	if c.Rules == "" {
		return nil, c.missing("rules", "rules: rules.yml")
	}
	path := c.resolve(c.Rules)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usage("lethe init writes a skeleton", "read the rules: %w", err)
	}
	return rules.Parse(path, text)
}

func (c *config) recipients() (*archive.Recipients, error) {
	if len(c.Recipients) == 0 {
		return nil, c.missing("recipients", "recipients: [age1…]   # made by age-keygen on the key holder's machine")
	}
	r, err := archive.ParseRecipients(c.Recipients, c.dir)
	return r, asUsage(err)
}

func (c *config) operator() (*archive.OperatorKey, error) {
	if c.OperatorKey == "" {
		return nil, c.missing("operator_key", "operator_key: operator.key   # made by lethe init or lethe keygen operator")
	}
	op, err := archive.ReadOperatorKey(c.resolve(c.OperatorKey))
	return op, asUsage(err)
}

// trusted returns the signers of the file and of --trust.
func (c *config) trusted(more []string) ([]archive.PublicKey, error) {
	var keys []archive.PublicKey
	for _, line := range append(append([]string(nil), c.TrustedSigners...), more...) {
		k, err := archive.ParsePublicKey(line)
		if err != nil {
			return nil, asUsage(err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func (c *config) missing(key, line string) error {
	where := c.path
	if where == "" {
		return usage("lethe init writes lethe.yml; --config FILE names another", "there is no lethe.yml here, so nothing says what `%s` is", key)
	}
	return usage("add `"+line+"`", "%s: `%s` is missing", where, key)
}

func (c *config) noStores() error { return c.missing("stores", "stores: [{url: /srv/backup}]") }

// asUsage makes a mistake in keys or addresses a configuration error.
func asUsage(err error) error {
	if err == nil {
		return nil
	}
	return &usageError{err, hint(err)}
}

// openStores opens the configured stores, or those of --store. It fails when none can be opened; the others are
// unreachable.
func (c *config) openStores(ctx context.Context, urls []string) (stores []store.Store, unreachable []pipeline.StoreResult, err error) {
	if len(urls) == 0 {
		for _, s := range c.Stores {
			urls = append(urls, c.resolve(s.URL))
		}
	}
	if len(urls) == 0 {
		return nil, nil, c.noStores()
	}
	var errs []error
	for _, u := range urls {
		s, err := open.URL(ctx, u)
		if err == nil {
			stores = append(stores, s)
			continue
		}
		unreachable = append(unreachable, pipeline.StoreResult{Store: storeName(u), Error: err.Error()})
		errs = append(errs, err)
	}
	if len(stores) == 0 {
		return nil, nil, errors.Join(errs...)
	}
	return stores, unreachable, nil
}

// storeName is a store's address for messages: without what may be a secret in it.
func storeName(address string) string {
	if !strings.Contains(address, "://") {
		return address
	}
	u, err := url.Parse(address)
	if err != nil {
		return "a store with an unreadable URL"
	}
	return u.Scheme + "://" + u.Host + u.Path
}

func closeStores(stores []store.Store) {
	for _, s := range stores {
		_ = s.Close() // everything that counts was flushed by Put
	}
}

func (c *config) workers() int {
	if c.Workers > 0 {
		return c.Workers
	}
	return min(max(runtime.GOMAXPROCS(0), 2), 8)
}

func (c *config) source() source.Config {
	dump := c.resolve(c.Database.PgDump)
	if dump != "" && !filepath.IsAbs(dump) {
		dump = "." + string(filepath.Separator) + dump // a path as all others of the file, not a name to look for on PATH
	}
	return source.Config{URL: c.Database.URL, Workers: c.workers(), PgDump: dump,
		LockTimeout: time.Duration(c.Database.LockTimeout)}
}
