package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/store"
)

type statusFlags struct {
	access
	maxAge string
	nagios bool
}

func (a *app) statusCommand() *cobra.Command {
	f := &statusFlags{}
	c := &cobra.Command{
		Use:   "status",
		Short: "Say how old the newest snapshot in every store is; exit 4 when too old, or an erasure is overdue",
		Long: strings.TrimSpace(`
Looks at every store for its newest snapshot, and ends with exit code 4 where one has
none or only one older than schedule.max_age. Without that it may be half an hour older
than schedule.every, and without both, 24 hours old.

With the operator key or --identity the newest manifest is verified, and what it knows
of the snapshots beside it is compared with what the store lists: exit 6 when that does
not hold. With --trust alone the signature is verified. Without any key the store's
listing is believed, so that any machine that reaches the store can ask.

An erasure request is overdue when 30 days have gone by since it was received, and a
stored snapshot still holds the person, or may: exit 4, too, with the request's
reference. When a request came in is sealed, so this takes the operator key or
--identity; with --trust alone the open requests are counted, and without any key those
that the store lists.

The time is that in the snapshot's name: when it began, by the database server's clock.`),
		Example: `  lethe status
  lethe status --store /mnt/backup/slipmat --max-age 6h30m
  lethe status --nagios`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.status(c, f) },
	}
	f.flags(c, "read the newest manifest with the age identity in `FILE` (default: the operator key, where it is there)")
	c.Flags().StringVar(&f.maxAge, "max-age", "", "how old the newest snapshot may be, such as 6h30m (default: schedule.max_age)")
	c.Flags().BoolVar(&f.nagios, "nagios", false, "print one line, and end as a Nagios plugin: 0 OK, 1 warning, 2 critical, 3 unknown")
	return c
}

const defaultMaxAge = 24 * time.Hour

// maxAge is how old the newest snapshot may be.
func (f *statusFlags) age(cfg *config) (time.Duration, error) {
	if f.maxAge != "" {
		d, err := parseDuration(f.maxAge)
		if err == nil && d == 0 {
			err = errors.New("it is zero")
		}
		if err != nil {
			return 0, usage("--max-age 6h30m", "--max-age: %w", err)
		}
		return d, nil
	}
	switch s := cfg.Schedule; {
	case s.MaxAge > 0:
		return time.Duration(s.MaxAge), nil
	case s.Every > 0:
		return time.Duration(s.Every) + 30*time.Minute, nil
	}
	return defaultMaxAge, nil
}

func (a *app) status(c *cobra.Command, f *statusFlags) error {
	ctx := c.Context()
	r, err := a.look(ctx, f)
	if f.nagios {
		return a.nagios(ctx, r, err)
	}
	if err != nil {
		return err
	}
	if err := a.printStatus(r); err != nil {
		return err
	}
	return r.verdict()
}

// statusReport is what --json prints.
type statusReport struct {
	Stores     []pipeline.StoreStatus `json:"stores"`
	OwnMachine bool                   `json:"own_machine"` // every store seems to be on the database's machine

	Erasures *pipeline.OverdueErasures `json:"erasures"`
}

// look asks every store.
func (a *app) look(ctx context.Context, f *statusFlags) (*statusReport, error) {
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	maxAge, err := f.age(cfg)
	if err != nil {
		return nil, err
	}
	trust, readers, err := a.statusKeys(ctx, cfg, f)
	if err != nil {
		return nil, err
	}
	stores, failed, err := cfg.openStores(ctx, f.stores)
	if err != nil {
		return nil, err
	}
	defer closeStores(stores)
	r := &statusReport{Stores: []pipeline.StoreStatus{}}
	var errs []error
	late := pipeline.ErasuresConfig{Readers: readers, Retention: cfg.retention(), Now: time.Now}
	for _, s := range stores {
		var st *pipeline.StoreStatus
		repo, err := pipeline.OpenRepository(ctx, s, archive.NewTrust(trust...))
		if err == nil {
			st, err = pipeline.Status(ctx, pipeline.StatusConfig{Repository: repo, Trusts: len(trust) > 0, Readers: readers, MaxAge: maxAge,
				Retention: cfg.retention(), Now: time.Now})
		}
		if ctx.Err() != nil {
			return nil, err
		}
		if err != nil {
			errs = append(errs, err)
			failed = append(failed, pipeline.StoreResult{Store: s.String(), Error: err.Error()})
			continue
		}
		r.Stores = append(r.Stores, *st)
		late.Repositories = append(late.Repositories, repo)
	}
	if len(r.Stores) == 0 {
		return nil, errors.Join(errs...)
	}
	late.Unreachable = failed
	if r.Erasures, err = pipeline.Overdue(ctx, late, len(trust) > 0); err != nil {
		return nil, err
	}
	for i := range r.Stores {
		if p, ok := r.Erasures.Problem(r.Stores[i].Store); ok {
			r.Stores[i].Problems = append(r.Stores[i].Problems, p)
		}
	}
	for _, s := range failed {
		r.Stores = append(r.Stores, pipeline.StoreStatus{Store: s.Store, Error: s.Error, MaxAge: int64(maxAge / time.Second), Problems: []pipeline.Problem{}})
	}
	r.OwnMachine = len(failed) == 0 && cfg.path != "" && databaseIsHere(cfg.Database.URL) && allHere(stores)
	return r, nil
}

// statusKeys returns the signers to believe and what opens manifests, as far as they are there: a machine that only
// watches has no operator key, or may not read it.
func (a *app) statusKeys(ctx context.Context, cfg *config, f *statusFlags) ([]archive.PublicKey, *archive.Identities, error) {
	trust, err := cfg.trusted(f.trust)
	if err != nil {
		return nil, nil, err
	}
	readers, err := a.identities(ctx, &f.access)
	if err != nil {
		return nil, nil, err
	}
	if cfg.OperatorKey == "" {
		return trust, readers, nil
	}
	op, err := archive.ReadOperatorKey(cfg.resolve(cfg.OperatorKey))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		a.term.Detail("the operator key can't be read here, so signatures are verified only as far as trusted_signers: goes")
		return trust, readers, nil
	}
	if err != nil {
		return nil, nil, asUsage(err)
	}
	if readers == nil {
		readers = op.Identities()
	}
	return append(trust, op.Public()), readers, nil
}

func (a *app) printStatus(r *statusReport) error {
	if a.term.json {
		if err := a.term.JSON(r); err != nil {
			return err
		}
	}
	heading := true
	for _, s := range r.Stores {
		for _, p := range s.Problems {
			a.term.Warn("%s: %s", s.Store, problemText(p))
		}
		if s.Error != "" {
			a.term.Warn("%s: %s", s.Store, s.Error)
		}
		if a.term.json || s.Error != "" || a.term.quiet && !s.Stale {
			continue
		}
		if heading {
			heading = false
			if err := a.term.Print("%-24s  %9s  %9s  %10s  %-10s  %s\n", "NEWEST", "AGE", "SNAPSHOTS", "SIZE", "STATE", "STORE"); err != nil {
				return err
			}
		}
		newest, age, size, state := "-", "-", "-", "ok"
		if s.Newest != "" {
			newest, age = s.Newest, ageText(s.Age)
		}
		if s.Bytes > 0 {
			size = bytesText(s.Bytes)
		}
		if s.Stale {
			state = "STALE"
		}
		if len(s.Problems) > 0 {
			state = "INTEGRITY"
		}
		if err := a.term.Print("%-24s  %9s  %9d  %10s  %-10s  %s\n", newest, age, s.Snapshots, size, state, s.Store); err != nil {
			return err
		}
		if s.Verified == pipeline.ByListing {
			a.term.Detail("%s: known by the store's listing alone: nothing here says whose signature to trust", s.Store)
		}
	}
	a.sayOverdue(r.Erasures)
	if r.OwnMachine {
		a.term.Warn("every store seems to be on the database's own machine: one accident takes both. Mount another machine's disk, or let one fetch copies")
	}
	return nil
}

// sayOverdue says which erasures are overdue, and what can't be told here.
func (a *app) sayOverdue(o *pipeline.OverdueErasures) {
	for _, e := range o.Overdue {
		where := "a store that can't be asked"
		switch {
		case e.Unclean > 0:
			where = count(int64(e.Unclean), "stored snapshot")
		case e.Hidden > 0:
			where = count(int64(e.Hidden), "deleted file") + " that a bucket keeps"
		case e.Unnamed > 0:
			where = count(int64(e.Unnamed), "object") + " that no snapshot names"
		case e.Unfit:
			where = "every snapshot, as its key is no value of the key column,"
		}
		a.term.Warn("erasure %s is OVERDUE: received on %s, due on %s, and %s may still hold the person (%s)", e.Ref, e.Received, e.Deadline, where, e.Stage)
	}
	if o.Error != "" {
		a.term.Warn("whether an erasure is overdue is not known for every store: %s", o.Error)
	}
	switch {
	case o.Unread > 0 && o.KnownBy == pipeline.ByRequests:
		a.term.Warn("%s can't be read with the keys that are here, so whether it is overdue is not known", count(int64(o.Unread), "open erasure request"))
	case o.Unread > 0:
		a.term.Say("%s; whether one is overdue can be told with the operator key, or --identity", openErasures(o.Open))
	case o.Open > 0:
		a.term.Detail("%s, %d overdue", openErasures(o.Open), len(o.Overdue))
	}
}

// staleError is exit 4.
type staleError struct {
	err     error
	overdue bool // and nothing else
}

func (e *staleError) Error() string { return e.err.Error() }
func (e *staleError) Hint() string {
	if e.overdue {
		return "lethe backup, where the newest snapshot does not honour it; then lethe expire, or a key holder's lethe erasure purge, takes the others away"
	}
	return "lethe backup takes one now; systemctl list-timers and journalctl -u lethe-backup tell why none came"
}

// verdict is the error that decides the exit code: integrity before age and overdue erasures before a store that can't be
// asked.
func (r *statusReport) verdict() error {
	var stale, overdue []string
	for _, e := range r.Erasures.Overdue {
		overdue = append(overdue, fmt.Sprintf("erasure %s, due on %s", e.Ref, e.Deadline))
	}
	failed, problems := 0, 0
	for _, s := range r.Stores {
		problems += len(s.Problems)
		if s.Error != "" {
			failed++
		}
		if s.Stale {
			stale = append(stale, s.Store+": "+staleText(s))
		}
	}
	switch {
	case problems > 0:
		return &statusFailed{problems}
	case len(stale) > 0:
		text := "status: stale: " + strings.Join(stale, "; ")
		if len(overdue) > 0 {
			text += "; overdue: " + strings.Join(overdue, "; ")
		}
		return &staleError{err: errors.New(text)}
	case len(overdue) > 0:
		return &staleError{err: fmt.Errorf("status: overdue: %s", strings.Join(overdue, "; ")), overdue: true}
	case failed > 0:
		return &degradedError{fmt.Errorf("%d of %d stores could not be read", failed, len(r.Stores))}
	case r.Erasures.Error != "":
		return &degradedError{errors.New("not every ledger could be read: " + r.Erasures.Error)}
	}
	return nil
}

// staleText says what the newest snapshot is, and what is wrong with that.
func staleText(s pipeline.StoreStatus) string {
	if s.Newest == "" {
		return s.Reason
	}
	return fmt.Sprintf("the newest snapshot, %s, is %s old: %s", s.Newest, ageText(s.Age), s.Reason)
}

// statusFailed is an integrity error: exit 6.
type statusFailed struct{ problems int }

func (e *statusFailed) Error() string {
	return "status: " + count(int64(e.problems), "problem") + " with what the stores show"
}
func (e *statusFailed) Unwrap() error { return pipeline.ErrIntegrity }
func (e *statusFailed) Hint() string {
	return "lethe check lists everything that is damaged; another store may hold good copies"
}

// The exit codes of a Nagios plugin, and their words.
const (
	nagiosOK = iota
	nagiosWarning
	nagiosCritical
	nagiosUnknown
)

var nagiosWords = [...]string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}

// nagiosExit ends the program with a Nagios code; the line was printed.
type nagiosExit struct{ code int }

func (e *nagiosExit) Error() string { return "nagios: " + nagiosWords[e.code] }

// nagios prints the one line. A store that can't be asked is a warning while another one is well, and critical when it is
// the only one; what Lethe can't even begin with is unknown.
func (a *app) nagios(ctx context.Context, r *statusReport, err error) error {
	if ctx.Err() != nil {
		return err
	}
	code, text := nagiosOK, ""
	switch {
	case err != nil && exitCode(ctx, err) == exitUsage:
		code, text = nagiosUnknown, err.Error()
	case err != nil:
		code, text = nagiosCritical, err.Error()
	default:
		code, text = r.nagios()
	}
	// A line is one line, and what follows a bar is read as numbers.
	text = strings.NewReplacer("\n  try: ", " - try: ", "\n", "; ", "|", "/").Replace(text)
	perf := ""
	if r != nil {
		perf = r.perf()
	}
	if err := a.term.Print("LETHE %s: %s%s\n", nagiosWords[code], text, perf); err != nil {
		return err
	}
	if code == nagiosOK {
		return nil
	}
	return &nagiosExit{code}
}

func (r *statusReport) nagios() (code int, text string) {
	err := r.verdict()
	var degraded *degradedError
	switch {
	case err == nil:
		var oldest int64
		for _, s := range r.Stores {
			oldest = max(oldest, s.Age)
		}
		text = fmt.Sprintf("newest snapshot %s old in %s", ageText(oldest), count(int64(len(r.Stores)), "store"))
		if r.OwnMachine {
			text += ", all on the database's own machine"
		}
		return nagiosOK, text
	case errors.As(err, &degraded):
		return nagiosWarning, err.Error()
	}
	text = err.Error()
	for _, s := range r.Stores {
		for _, p := range s.Problems {
			text += "; " + problemText(p)
		}
	}
	return nagiosCritical, text
}

// perf is the performance data: the age of the oldest newest snapshot, warning and critical thresholds the same.
func (r *statusReport) perf() string {
	var oldest *pipeline.StoreStatus
	for i := range r.Stores {
		if s := &r.Stores[i]; s.Newest != "" && (oldest == nil || s.Age > oldest.Age) {
			oldest = s
		}
	}
	if oldest == nil {
		return ""
	}
	return fmt.Sprintf(" | age=%ds;%d;%d;0", oldest.Age, oldest.MaxAge, oldest.MaxAge)
}

func ageText(seconds int64) string {
	d := (time.Duration(seconds) * time.Second).Round(time.Minute)
	if d < time.Hour {
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return pipeline.Period(d)
}

// databaseIsHere reports whether a connection would stay on this machine.
func databaseIsHere(dsn string) bool {
	c, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return false
	}
	return c.Host == "" || strings.HasPrefix(c.Host, "/") || strings.HasPrefix(c.Host, "@") || hostIsHere(c.Host)
}

// hostIsHere reports whether a name or address is this machine's, without asking anybody.
func hostIsHere(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	if name, err := os.Hostname(); err == nil && strings.EqualFold(host, name) {
		return true
	}
	ip := net.ParseIP(host)
	if ip == nil || ip.IsLoopback() {
		return ip != nil
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
			return true
		}
	}
	return false
}

// allHere reports whether every store is a directory on a disk of this machine, as far as its file system tells, or a
// bucket of a service that answers here, where it may be a tunnel that does.
func allHere(stores []store.Store) bool {
	return !slices.ContainsFunc(stores, func(s store.Store) bool { return !isHere(s) })
}

func isHere(s store.Store) bool {
	u, err := url.Parse(s.String())
	if err != nil {
		return false
	}
	if u.Scheme == "file" {
		return onOwnDisk(u.Path)
	}
	endpoint, err := url.Parse(u.Query().Get("endpoint"))
	return err == nil && endpoint.Hostname() != "" && hostIsHere(endpoint.Hostname())
}
