package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"lethe/pipeline"
	"lethe/pipeline/archive"
)

func (a *app) checkCommand() *cobra.Command {
	x := &access{}
	var readData string
	c := &cobra.Command{
		Use:   "check [SNAPSHOT]",
		Short: "Check that stored snapshots are whole",
		Long: strings.TrimSpace(`
Checks every manifest's signature and that every object it names is there with its
size; and the ledger of erasure requests: that no record is missing, was changed or is
signed by a stranger, that open requests can be read, that no snapshot knows a later
record, that the stores and this machine's copy agree, and what purges and verifications
have signed. With SNAPSHOT only that snapshot is checked. --read-data also reads the
objects and compares their SHA-256. With a key holder's --identity their contents are
decrypted and counted too; nothing is written anywhere.`),
		Example: `  lethe check
  lethe check --read-data all
  lethe check --read-data 10% latest
  lethe check --read-data all --identity key.txt`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			snapshot := ""
			if len(args) == 1 {
				snapshot = args[0]
			}
			share, err := parseShare(readData)
			if err != nil {
				return err
			}
			return a.check(c.Context(), x, snapshot, share)
		},
	}
	x.flags(c, "also decrypt what is read, with the age identity in `FILE`")
	c.Flags().StringVar(&readData, "read-data", "", "read the objects too: `all`, or a random share such as 10%")
	c.Flags().Lookup("read-data").NoOptDefVal = "all"
	return c
}

// joinReadData lets people write `--read-data all` as well as `--read-data=all` and a bare `--read-data`.
func joinReadData(args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		if args[i] == "--read-data" && i+1 < len(args) && (args[i+1] == "all" || strings.HasSuffix(args[i+1], "%")) {
			out = append(out, "--read-data="+args[i+1])
			i++
			continue
		}
		out = append(out, args[i])
	}
	return out
}

func parseShare(s string) (float64, error) {
	switch s {
	case "":
		return 0, nil
	case "all":
		return 1, nil
	}
	n, ok := strings.CutSuffix(s, "%")
	share, err := strconv.ParseFloat(n, 64)
	if !ok || err != nil || !(share > 0 && share <= 100) {
		return 0, usage("--read-data all, or --read-data 10%", "--read-data %q is neither all nor a share", s)
	}
	return share / 100, nil
}

func (a *app) check(ctx context.Context, x *access, snapshot string, share float64) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	ids, err := a.identities(ctx, x)
	if err != nil {
		return err
	}
	readers, err := a.readers(ctx, cfg, x)
	if err != nil {
		return err
	}
	if ids != nil && share == 0 {
		share = 1 // an identity is given to look inside
	}
	repos, failed, err := a.repositories(ctx, cfg, x)
	if err != nil {
		return err
	}
	defer closeRepositories(repos)
	reports := []*pipeline.CheckReport{}
	for _, r := range repos {
		report, err := pipeline.Check(ctx, pipeline.CheckConfig{Repository: r, Snapshot: snapshot, Readers: readers, Identities: ids,
			ReadData: share, Workers: cfg.workers(), Progress: a.showProgress})
		a.term.Progress("")
		if err != nil {
			return err
		}
		reports = append(reports, report)
	}
	var kept *pipeline.CheckReport
	if snapshot == "" {
		if kept, err = a.checkCopy(ctx, cfg, x, repos, readers); err != nil {
			return err
		}
		all := reports
		if kept != nil {
			all = append(slices.Clone(reports), kept)
		}
		pipeline.CompareLedgers(all)
	}
	if kept != nil {
		for _, p := range kept.Problems {
			a.term.Warn("this machine's copy of the ledger, %s: %s", kept.Store, problemText(p))
		}
	}
	if a.term.json {
		out := map[string]any{"stores": reports}
		if kept != nil {
			out["copy"] = kept
		}
		if err := a.term.JSON(out); err != nil {
			return err
		}
	}
	problems := 0
	if kept != nil {
		problems = len(kept.Problems)
	}
	for _, r := range reports {
		problems += len(r.Problems)
		for _, p := range r.Problems {
			a.term.Warn("%s: %s", r.Store, problemText(p))
		}
		a.term.Say("%s: %s, %s of %s; %s read, %s opened; %s%s", r.Store, count(int64(r.Snapshots), "snapshot"), count(int64(r.Objects), "object"),
			bytesText(r.Bytes), group(int64(r.Read)), group(int64(r.Opened)), ledgerText(r.Ledger), verdict(r))
		if r.Ledger != nil && r.Ledger.Lacks > 0 {
			a.term.Say("%s: its ledger lacks %s at its end that another place has; the next backup brings them", r.Store, count(int64(r.Ledger.Lacks), "record"))
		}
		if r.Unnamed > 0 {
			a.term.Detail("%s: %s that no manifest names, left by interrupted runs: they may hold people who were erased since; lethe expire --leftovers, or a purge, takes them away", r.Store, count(int64(r.Unnamed), "object"))
		}
	}
	for _, f := range failed {
		a.term.Warn("%s: %s", f.Store, f.Error)
	}
	switch {
	case problems > 0:
		return &checkFailed{problems}
	case len(failed) > 0:
		return &degradedError{fmt.Errorf("%d of %d stores could not be read", len(failed), len(failed)+len(repos))}
	}
	return nil
}

// checkCopy checks this machine's own copy of the ledger, where an operator's machine has one.
func (a *app) checkCopy(ctx context.Context, cfg *config, x *access, repos []*pipeline.Repository, readers *archive.Identities) (*pipeline.CheckReport, error) {
	open := cfg.ledgerCopy(false)
	if open == nil || cfg.OperatorKey == "" || len(x.identities) > 0 {
		return nil, nil
	}
	kept, err := open(repos[0].ID)
	if err != nil || kept == nil {
		return nil, err
	}
	defer kept.Close() //nolint:errcheck // read only
	return pipeline.CheckCopy(ctx, repos[0], kept, readers)
}

// ledgerText says how much there is of erasures; nothing where there is nothing.
func ledgerText(l *pipeline.CheckedLedger) string {
	if l == nil || l.Records+l.Accounts+l.Proofs == 0 {
		return ""
	}
	return fmt.Sprintf("ledger %s, %s, %s of purges, %s; ", l.Head, openErasures(l.Requests), count(int64(l.Accounts), "account"), count(int64(l.Proofs), "proof"))
}

func problemText(p pipeline.Problem) string {
	var parts []string
	if p.File != "" {
		parts = append(parts, p.File)
	}
	if p.Snapshot != "" {
		parts = append(parts, "snapshot "+p.Snapshot)
	}
	if p.Part != "" {
		parts = append(parts, p.Part)
	}
	if p.Object != "" {
		return strings.Join(parts, ", ") + ": object " + p.Object + " " + p.Problem
	}
	return strings.Join(append(parts, p.Problem), ": ")
}

// verdict says what was found, and no more than was looked at.
func verdict(r *pipeline.CheckReport) string {
	switch {
	case len(r.Problems) > 0:
		return count(int64(len(r.Problems)), "problem")
	case r.Read < r.Objects:
		return "every object is there; what is in those not read is not known (--read-data all)"
	}
	return "all is well"
}

// checkFailed is an integrity error: exit 6.
type checkFailed struct{ problems int }

func (e *checkFailed) Error() string {
	return "check: " + count(int64(e.problems), "problem") + " found"
}
func (e *checkFailed) Unwrap() error { return pipeline.ErrIntegrity }
func (e *checkFailed) Hint() string {
	return "another store may hold good copies; take a new snapshot now"
}
