package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/rules"
)

// holderFlags are what a key holder's command takes beside a store and an identity.
type holderFlags struct {
	access
	signer string
	rules  string
	expect string
}

func (f *holderFlags) add(c *cobra.Command) {
	f.flags(c, "decrypt with the age identity in `FILE` (needed)")
	fl := c.Flags()
	fl.StringVar(&f.signer, "signer", "", "sign with the key in `FILE`, made by lethe keygen signer (needed)")
	fl.StringVar(&f.rules, "rules", "", "for snapshots that today's rules can't decide about: decide by those in `FILE`")
	fl.StringVar(&f.expect, "expect-head", "", "fail unless the ledger holds this `HEAD`, which an earlier run printed")
}

// holder reads what a key holder's command was given.
type holder struct {
	cfg    *config
	ids    *archive.Identities
	signer *archive.SigningKey
	rules  *rules.File
	expect *archive.LedgerHead
	repos  []*pipeline.Repository
	failed []pipeline.StoreResult
}

// holder opens everything. The caller closes the repositories.
func (a *app) holder(ctx context.Context, f *holderFlags, needSigner bool) (h *holder, err error) {
	h = &holder{}
	if h.cfg, err = a.config(); err != nil {
		return nil, err
	}
	if h.ids, err = a.identities(ctx, &f.access); err != nil {
		return nil, err
	}
	if h.ids == nil {
		return nil, usage("--identity FILE with the private key of one of the recipients; the operator's key can't read table data",
			"this needs a key holder's identity")
	}
	if f.signer != "" {
		if h.signer, err = archive.ReadSigner(f.signer); err != nil {
			return nil, asUsage(err)
		}
		believed, err := h.cfg.trusted(f.trust)
		if err != nil {
			return nil, err
		}
		if key := h.signer.Public(); !slices.Contains(believed, key) {
			return nil, usage("if it is yours: --trust "+key.String()+", and the same line under trusted_signers: in the operator's lethe.yml",
				"the key in %s is none of those that are trusted, so nobody would believe what it signs", f.signer)
		}
	} else if needSigner {
		return nil, usage("--signer FILE with a key that lethe keygen signer made; its public line belongs to trusted_signers: of whoever reads the store",
			"this needs a key holder's signing key")
	}
	if h.rules, err = fallbackRules(f.rules); err != nil {
		return nil, err
	}
	if h.expect, err = ledgerHead(f.expect); err != nil {
		return nil, err
	}
	h.repos, h.failed, err = a.repositories(ctx, h.cfg, &f.access)
	return h, err
}

// fallbackRules reads the file of --rules, or nothing.
func fallbackRules(path string) (*rules.File, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usage("", "read the rules: %w", err)
	}
	return rules.Parse(path, text)
}

// ledgerHead reads --expect-head, or nothing.
func ledgerHead(text string) (*archive.LedgerHead, error) {
	if text == "" {
		return nil, nil
	}
	head, err := archive.ParseLedgerHead(text)
	if err != nil {
		return nil, asUsage(err)
	}
	return head, nil
}

type purgeFlags struct {
	holderFlags
	refs       []string
	recipients []string
	yes        bool
	rows       int64
}

func (a *app) erasurePurgeCommand() *cobra.Command {
	f := &purgeFlags{}
	c := &cobra.Command{
		Use:   "purge",
		Short: "Take erased people out of the snapshots that are stored",
		Long: strings.TrimSpace(`
Rewrites stored snapshots so that they hold nothing of the people whom the ledger's
requests are about. A snapshot is not changed: another one takes its place, of the same
time, with a new id, and the old one goes with every object that only it named. Other
people's rows stay as they are, byte for byte.

A key holder does this, anywhere: all it needs is the store, an identity, a signing key,
and whom to trust. It shows first what it would take, table by table, and asks. Where
that is more than 0.1 % of the people or 1 % of a table, it wants the number of rows.

The signing key has to be one of those that are trusted, by --trust or lethe.yml, so that
a wrong file is noticed before anything is written.

No backup runs meanwhile. A run that is killed has lost nothing: run it again.`),
		Example: `  lethe erasure purge -n --identity key.txt
  lethe erasure purge --identity key.txt --signer signer.key
  lethe erasure purge --ref GDPR-2026-014 --store s3://bucket/slipmat --trust RW…operator --trust RW…signer -i key.txt --signer signer.key`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.erasurePurge(c.Context(), f) },
	}
	f.add(c)
	fl := c.Flags()
	fl.StringArrayVar(&f.refs, "ref", nil, "only the request with this `REFERENCE`; may be repeated (default: all that are open)")
	fl.BoolVar(&f.yes, "yes", false, "do not ask; for scripts")
	fl.Int64Var(&f.rows, "confirm-rows", 0, "where so much goes that it is asked for: that `N` rows are right")
	fl.StringArrayVar(&f.recipients, "recipient", nil, "with --yes: this age `KEY` may rightly read what is written, beside the identity's own")
	fl.BoolVarP(&a.dryRun, "dry-run", "n", false, "say what would go, write nothing")
	return c
}

func (a *app) erasurePurge(ctx context.Context, f *purgeFlags) error {
	if a.term.json && !a.dryRun && !f.yes {
		return usage("--yes with it, after lethe erasure purge -n has been looked at; or leave --json out, to be shown what goes and asked", "--json asks nobody")
	}
	h, err := a.holder(ctx, &f.holderFlags, !a.dryRun)
	if err != nil {
		return err
	}
	defer closeRepositories(h.repos)
	c := pipeline.PurgeConfig{Repositories: h.repos, Unreachable: h.failed, Identities: h.ids, Signer: h.signer, Only: f.refs, Expect: h.expect, Rules: h.rules,
		DryRun: a.dryRun, Workers: h.cfg.workers(), Tool: version, Now: time.Now, Progress: a.showProgress, Warn: func(msg string) { a.term.Warn("%s", msg) },
		Confirm: func(ctx context.Context, p *pipeline.PurgePlan) error { return a.confirmPurge(ctx, f, p) }}
	report, err := pipeline.Purge(ctx, c)
	a.term.Progress("")
	if report == nil {
		return err
	}
	if a.term.json {
		if err := a.term.JSON(report); err != nil {
			return err
		}
	}
	if a.dryRun {
		if err := a.showPlan(report.Plan); err != nil {
			return err
		}
		for _, r := range report.Plan.Remarks {
			a.term.Warn("%s", r)
		}
		if len(report.Plan.Beyond) > 0 {
			a.term.Say("so much at once has to be confirmed: --confirm-rows %d", report.Plan.Rows)
		}
		return nil
	}
	return a.sayPurge(report, err)
}

// showPlan prints what a purge takes. On a terminal or with -n it is what was asked for; keys are for the key holder's
// eyes, and not in --json.
func (a *app) showPlan(p *pipeline.PurgePlan) error {
	if a.term.json {
		return nil
	}
	if p.Rows+p.Objects == 0 {
		return a.term.Print("nothing of the people asked for is in any of %s\n", count(int64(p.Snapshots), "snapshot"))
	}
	row := func(indent string, t pipeline.TableErasure) error {
		return a.term.Print("%-40s  %9s  %9s  %9s  %9s  %9d\n", indent+t.Table, group(t.Deleted), group(t.Redacted), group(t.Cleared), group(t.Others), t.Snapshots)
	}
	if err := a.term.Print("%-40s  %9s  %9s  %9s  %9s  %9s\n", "", "DELETED", "REDACTED", "UNLINKED", "OF OTHERS", "SNAPSHOTS"); err != nil {
		return err
	}
	for _, r := range p.Requests {
		note := ""
		if !r.Found {
			note = "  (no row of their own is stored)"
		}
		if err := a.term.Print("%s  %s:%s%s\n", r.Ref, r.Subject, visibleWord(r.Key), note); err != nil {
			return err
		}
		for _, t := range r.Tables {
			if err := row("  ", t); err != nil {
				return err
			}
		}
	}
	if len(p.Requests) > 1 {
		if err := a.term.Print("all together\n"); err != nil {
			return err
		}
		for _, t := range p.Tables {
			if err := row("  ", t); err != nil {
				return err
			}
		}
	}
	return a.term.Print("%s, and %s, in the snapshot that has most of them; %d of %s change. OF OTHERS: deleted rows that also belong to somebody else\n",
		count(p.Rows, "row"), count(p.Objects, "large object"), p.Rewritten, count(int64(p.Snapshots), "snapshot"))
}

// confirmPurge shows what will go and asks.
func (a *app) confirmPurge(ctx context.Context, f *purgeFlags, p *pipeline.PurgePlan) error {
	a.term.Progress("")
	if !f.yes || a.term.verbose { // whoever says --yes has looked at -n
		if err := a.showPlan(p); err != nil {
			return err
		}
	}
	for _, r := range p.Remarks {
		a.term.Warn("%s", r)
	}
	strangers := slices.DeleteFunc(slices.Clone(p.Recipients), func(r string) bool { return slices.Contains(f.recipients, r) })
	for _, r := range strangers {
		a.term.Warn("what is written anew can be read by %s, as the snapshots say", r)
	}
	if n := len(p.Beyond); n > 0 && n <= 4 || a.term.verbose && n > 0 {
		a.term.Warn("this takes %s", strings.Join(p.Beyond, ", "))
	} else if n > 0 {
		a.term.Warn("this takes %s, and as much of %s", strings.Join(p.Beyond[:3], ", "), count(int64(n-3), "other table"))
	}
	switch {
	case p.Rows+p.Objects == 0:
		return nil // snapshots learn up to where they are clean
	case len(p.Beyond) > 0 && f.rows == 0 && f.yes, len(p.Beyond) > 0 && f.rows != 0 && f.rows != p.Rows:
		return usage(fmt.Sprintf("look at lethe erasure purge -n; if that is right: --confirm-rows %d", p.Rows), "so much at once has to be confirmed by the number of rows")
	case f.yes && len(strangers) > 0:
		return usage("if they may: --recipient "+strangers[0]+", once for each", "nobody has said that %s may read what is written anew", count(int64(len(strangers)), "recipient"))
	case f.yes:
		return nil
	case len(p.Beyond) > 0 && f.rows == 0:
		return a.answer(ctx, fmt.Sprintf("Type the number of rows, %d, to take them out of every stored snapshot, for good", p.Rows), strconv.FormatInt(p.Rows, 10))
	}
	return a.answer(ctx, "Take this out of every stored snapshot, for good? Type yes", "yes")
}

// answer asks on the terminal, and wants this answer.
func (a *app) answer(ctx context.Context, prompt, want string) error {
	given, err := a.term.Question(ctx, prompt)
	switch {
	case ctx.Err() != nil:
		return err
	case err != nil:
		return usage("--yes in a script, after lethe erasure purge -n has been looked at", "%w", err)
	case strings.TrimSpace(given) != want:
		return errors.New("not confirmed; nothing was written")
	}
	return nil
}

// sayPurge prints what was done. err is what ends the command, if anything does.
func (a *app) sayPurge(r *pipeline.PurgeReport, err error) error {
	left := 0
	for _, s := range r.Stores {
		if s.Left() {
			left++
		}
		if s.Error != "" {
			if err == nil || !strings.Contains(err.Error(), s.Error) {
				a.term.Warn("%s", s.Error)
			}
			continue
		}
		a.term.Say("%s: %s rewritten, %d needed nothing; deleted %s, %s", s.Store, count(int64(len(s.Successors)), "snapshot"), s.Clean,
			count(int64(s.Deleted), "object"), bytesText(s.Bytes))
		for _, next := range s.Successors {
			a.term.Detail("  %s is %s now", next.Old, next.New)
		}
		if s.Unfinished > 0 {
			a.term.Say("%s: deleted %s that killed runs had not finished writing", s.Store, count(int64(s.Unfinished), "file"))
		}
		if s.Versions > 0 {
			a.term.Say("%s: %s of deleted files are gone for good", s.Store, count(int64(s.Versions), "old version"))
		}
		for _, k := range s.Kept {
			a.term.Warn("%s keeps a deleted file, %s: %s", s.Store, k.Name, keptText(k.Until, k.Held))
		}
		if s.Unknown != "" {
			a.term.Warn("%s: whether the store keeps deleted files is not known: %s", s.Store, s.Unknown)
		}
	}
	if err != nil {
		return err
	}
	a.term.Say("ledger head %s", r.Ledger)
	a.term.Say("fetched %s, wrote %s; next: lethe erasure verify", bytesText(r.Fetched), bytesText(r.Stored))
	if left > 0 {
		return &degradedError{fmt.Errorf("%d of %d stores may still hold what was erased", left, len(r.Stores))}
	}
	return nil
}

func keptText(until time.Time, held bool) string {
	switch {
	case held:
		return "a legal hold is on it"
	case until.IsZero():
		return "for how long it does not say"
	}
	return "locked until " + until.UTC().Format("2006-01-02 15:04 MST")
}

type verifyFlags struct{ holderFlags }

func (a *app) erasureVerifyCommand() *cobra.Command {
	f := &verifyFlags{}
	c := &cobra.Command{
		Use:   "verify [-]",
		Short: "Read everything that is stored, and prove that nobody erased is in it",
		Long: strings.TrimSpace(`
Decrypts and reads everything in every snapshot: rows, DDL, large objects, manifests. It
looks for rows on which erasing by today's rules would still do something for a request in the
ledger. Where it finds none it writes a signed proof into the store, by which a request
counts as verified. The proof names snapshots by their digests, and no person.

With - it also looks for values, wherever they stand: one on each line of standard
input, such as the person's address and name, in either case. They are stored nowhere
and never printed; a place is named by table and column. What is compressed or encrypted
inside the database can't be looked into.`),
		Example: `  lethe erasure verify --identity key.txt --signer signer.key
  pass show erased/014 | lethe erasure verify - -i key.txt --signer signer.key`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 && args[0] != "-" {
				return usage("lethe erasure verify - reads them from standard input, one on each line", "values to look for do not belong on a command line")
			}
			return a.erasureVerify(c.Context(), f, len(args) == 1)
		},
	}
	f.add(c)
	return c
}

func (a *app) erasureVerify(ctx context.Context, f *verifyFlags, read bool) error {
	var values []string
	if read {
		lines := bufio.NewScanner(a.stdin)
		for lines.Scan() {
			if line := strings.TrimRight(lines.Text(), "\r"); line != "" {
				values = append(values, line)
			}
		}
		if err := lines.Err(); err != nil {
			return fmt.Errorf("read the values to look for: %w", err)
		}
		if len(values) == 0 {
			return usage("write one on each line", "there is no value to look for on standard input")
		}
	}
	h, err := a.holder(ctx, &f.holderFlags, true)
	if err != nil {
		return err
	}
	defer closeRepositories(h.repos)
	reports := []*pipeline.VerifyReport{}
	found, unnamed := 0, 0
	for _, r := range h.repos {
		others := slices.DeleteFunc(slices.Clone(h.repos), func(o *pipeline.Repository) bool { return o == r })
		report, err := pipeline.Verify(ctx, pipeline.VerifyConfig{Repository: r, Others: others, Identities: h.ids, Signer: h.signer, Expect: h.expect, Lookups: values, Rules: h.rules,
			Workers: h.cfg.workers(), Tool: version, Now: time.Now, Progress: a.showProgress})
		a.term.Progress("")
		if err != nil {
			return err
		}
		reports = append(reports, report)
		found += len(report.Findings)
		unnamed += report.Unnamed
	}
	if a.term.json {
		if err := a.term.JSON(map[string]any{"stores": reports}); err != nil {
			return err
		}
	}
	for _, r := range reports {
		for _, text := range r.Remarks {
			a.term.Warn("%s: %s; it is not proven", r.Store, text)
		}
		for _, f := range r.Findings {
			a.term.Warn("%s: %s", r.Store, findingText(f))
		}
		if r.Unnamed > 0 {
			a.term.Warn("%s: %s that no snapshot names may hold anybody: interrupted runs leave such, and nothing tells what is in them", r.Store, count(int64(r.Unnamed), "object"))
		}
		a.term.Say("%s: ledger head %s", r.Store, r.Ledger)
		a.term.Say("%s: read %s of %s, %s: %s; looked for %s and %s", r.Store, count(r.Objects, "object"), count(int64(r.Snapshots), "snapshot"), bytesText(r.Bytes),
			count(r.Rows, "row"), count(int64(len(r.Requests)), "request"), count(int64(r.Lookups), "value"))
		if r.Proof != "" {
			a.term.Say("%s: nobody was found; %s says so", r.Store, r.Proof)
		}
		if r.Kept > 0 {
			a.term.Say("%s: %s of erased people stay by a rule, redacted", r.Store, count(r.Kept, "row"))
		}
	}
	for _, s := range h.failed {
		a.term.Warn("%s: %s", s.Store, s.Error)
	}
	switch {
	case found > 0:
		return &foundError{found}
	case unnamed > 0:
		return &unprovenError{unnamed}
	case len(h.failed) > 0:
		return &degradedError{fmt.Errorf("%d of %d stores could not be read", len(h.failed), len(h.failed)+len(h.repos))}
	}
	return nil
}

func findingText(f pipeline.Finding) string {
	what := "request " + f.Ref
	if f.Lookup > 0 {
		what = fmt.Sprintf("value %d", f.Lookup)
	}
	where := f.Part
	if f.Column != "" {
		where += "." + f.Column
	}
	return fmt.Sprintf("%s: %s %s, %s, in %s (%s …)", what, where, f.Problem, count(f.Count, "time"), count(int64(len(f.Snapshots)), "snapshot"), f.Snapshots[0])
}

// foundError: somebody who was erased is still there. It is no damage, and no success.
type foundError struct{ places int }

func (e *foundError) Error() string { return "verify: found in " + count(int64(e.places), "place") }

// unprovenError: what no snapshot names can't be looked through.
type unprovenError struct{ objects int }

func (e *unprovenError) Error() string {
	return "verify: nothing is proven while there are " + count(int64(e.objects), "object") + " that no snapshot names"
}
func (e *unprovenError) Hint() string {
	return "lethe erasure purge takes them away; or lethe expire --leftovers, on the operator's machine, once they are a day old"
}

func (e *foundError) Hint() string {
	return "lethe erasure purge takes out what rules reach; for the rest write a rule, or let retention delete the snapshots"
}
