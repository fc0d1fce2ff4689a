package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"lethe/pipeline/source"
	"lethe/rules"
	"lethe/scrub"
	"lethe/scrub/catalog"
)

func (a *app) rulesCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "rules {check|explain|schema}",
		Short: "Check and explain the rules file",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usage("lethe rules check", "say what to do: check, explain or schema")
		},
	}
	c.AddCommand(a.rulesCheckCommand(), a.rulesExplainCommand(), &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the rules file, for editors",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return a.term.Print("%s\n", strings.TrimSpace(string(rules.JSONSchema())))
		},
	})
	return c
}

func (a *app) rulesCheckCommand() *cobra.Command {
	var schema string
	c := &cobra.Command{
		Use:   "check [RULES]",
		Short: "Check that the rules can work on the schema",
		Long: strings.TrimSpace(`
Checks the rules file, and that each rule can work on the database's schema: tables
and columns exist, nothing that is NOT NULL or unique would break, and every
reference to a person's data is decided. All mistakes are printed at once, with the
lines to paste where a decision is missing.

The schema is read from the database, or with --schema from a file that pg_dump
wrote, with rows or with --schema-only; then no server is needed, and what only a server can
tell is left to the backup.`),
		Example: `  lethe rules check
  pg_dump --schema-only slipmat > schema.sql && lethe rules check rules.yml --schema schema.sql`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.rulesCheck(c.Context(), args, schema) },
	}
	c.Flags().StringVar(&schema, "schema", "", "read the schema from `FILE` instead of the database")
	return c
}

func (a *app) rulesCheck(ctx context.Context, args []string, schema string) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	if len(args) == 1 {
		cfg.Rules, cfg.dir = args[0], "."
	}
	f, err := cfg.rules()
	if err != nil {
		return err
	}
	plan, err := planFor(ctx, cfg, f, schema)
	if err != nil {
		return a.rulesFailed(err)
	}
	for _, w := range plan.Warnings {
		a.term.Warn("%s", w)
	}
	if schema != "" && len(plan.Probes) > 0 {
		a.term.Say("note: %s can only be asked of a server, which every backup does", count(int64(len(plan.Probes)), "question"))
	}
	if a.term.json {
		return a.term.JSON(map[string]any{"rules": f.Path, "ok": true, "warnings": append([]string{}, plan.Warnings...), "errors": []any{}})
	}
	if a.term.verbose {
		plan.Describe(a.term.out)
	}
	a.term.Say("%s: the rules work on this schema (%s)", f.Path, count(tablesWithRows(plan.Catalog), "table"))
	return nil
}

// planFor compiles rules against the schema in a file, or else of the database.
func planFor(ctx context.Context, cfg *config, f *rules.File, schema string) (*scrub.Plan, error) {
	if schema != "" {
		return checkAgainstFile(ctx, f, schema)
	}
	return checkLive(ctx, f, cfg.source())
}

// tablesWithRows counts what backup and list count too: a partitioned table has no rows of its own.
func tablesWithRows(cat *catalog.Catalog) (n int64) {
	for _, t := range cat.Tables {
		if t.Kind == catalog.Ordinary {
			n++
		}
	}
	return n
}

// rulesFailed prints mistakes as JSON where that is wanted; the exit code stays the same.
func (a *app) rulesFailed(err error) error {
	var mistakes rules.Errors
	if !a.term.json || !errors.As(err, &mistakes) {
		return err
	}
	type mistake struct {
		File    string `json:"file"`
		Line    int    `json:"line"`
		Column  int    `json:"column"`
		Message string `json:"message"`
		Hint    string `json:"hint,omitempty"`
		Paste   string `json:"paste,omitempty"`
	}
	var list []mistake
	for _, e := range mistakes {
		list = append(list, mistake{e.File, e.Line, e.Col, e.Msg, e.Hint, e.Paste})
	}
	return errors.Join(a.term.JSON(map[string]any{"ok": false, "errors": list}), err)
}

func checkAgainstFile(ctx context.Context, f *rules.File, path string) (*scrub.Plan, error) {
	// A dump with its rows may be larger than memory; what is no whole dump, such as a schema written by hand, is not.
	if dump, err := source.OpenDump(ctx, source.DumpConfig{Path: path}); err == nil {
		defer dump.Close()
		return scrub.Compile(f, dump.Catalog)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, usage("pg_dump --schema-only writes one", "read the schema: %w", err)
	}
	cat, err := catalog.Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("read the schema %s: %w", path, err)
	}
	return scrub.Compile(f, cat)
}

func checkLive(ctx context.Context, f *rules.File, c source.Config) (*scrub.Plan, error) {
	snap, err := source.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	defer snap.Close()
	plan, err := scrub.Compile(f, snap.Catalog)
	if err != nil {
		return nil, err
	}
	return plan, plan.Probe(ctx, snap.Bool)
}
