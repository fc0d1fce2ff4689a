package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"lethe/rules"
	"lethe/scrub"
	"lethe/scrub/catalog"
)

type explainFlags struct {
	schema string
	rules  string
}

func (a *app) rulesExplainCommand() *cobra.Command {
	f := &explainFlags{}
	c := &cobra.Command{
		Use:   "explain TABLE",
		Short: "Say what happens to a table's rows, and why",
		Long: strings.TrimSpace(`
Says what becomes of the rows of one table: what is done to every row, what erasing a
person deletes, redacts, unlinks and keeps there, by which reference and along which way
to the person, and what hangs on its rows in turn. Each line names the rule or the
foreign key that decides. A reference that leads to people in several ways is shown with
the shortest. lethe erasure request -n counts rows.

A name is written as in the rules: users, app.users, '"Odd Table"'. The rules must work
on the schema, see lethe rules check.`),
		Example: `  lethe rules explain comments
  lethe rules explain app.comments --rules rules.yml --schema schema.sql`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.rulesExplain(c.Context(), f, args[0]) },
	}
	c.Flags().StringVar(&f.schema, "schema", "", "read the schema from `FILE`, which pg_dump wrote, instead of the database")
	c.Flags().StringVar(&f.rules, "rules", "", "explain the rules in `FILE` (default: rules: of lethe.yml)")
	return c
}

func (a *app) rulesExplain(ctx context.Context, f *explainFlags, table string) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	if f.rules != "" {
		cfg.Rules, cfg.dir = f.rules, "."
	}
	name, err := rules.ParseName(table)
	if err != nil {
		return asUsage(err)
	}
	file, err := cfg.rules()
	if err != nil {
		return err
	}
	plan, err := planFor(ctx, cfg, file, f.schema)
	if err != nil {
		return a.rulesFailed(err)
	}
	x, err := plan.Explain(catalog.Name(name))
	var none *scrub.NoTableError
	if errors.As(err, &none) {
		return asUsage(err)
	}
	if err != nil {
		return err
	}
	if a.term.json {
		return a.term.JSON(x)
	}
	return a.term.Print("%s", explanation(x))
}

// explanation is an Explanation as text.
func explanation(x *scrub.Explanation) string {
	var b strings.Builder
	line := func(indent int, parts ...string) {
		b.WriteString(strings.Repeat("  ", indent) + strings.Join(parts, "") + "\n")
	}
	line(0, x.Table)
	if x.Partition != "" {
		line(1, x.Partition, " is a partition of it: its rules cover the rows of all its partitions")
	}
	switch {
	case x.Foreign:
		line(1, "a foreign table: its rows live on another server, and are in no snapshot")
		return b.String()
	case x.NoRows != "":
		line(1, "no row is in any snapshot, only the table itself (", x.NoRows, ")")
		return b.String()
	}
	line(1, "every row, whoever it belongs to")
	for _, r := range x.Always {
		line(2, r.Column, ": ", r.Strategy, " (", r.Rule, ")")
	}
	for _, l := range x.Everybody {
		line(2, l.Path, ", of which no rows are kept: ", l.Does, " (", l.Rule, ")")
	}
	if len(x.Always)+len(x.Everybody) == 0 {
		line(2, "is stored as it is")
	}
	if len(x.Erasures) == 0 {
		line(1, "erasing a person never comes here")
	}
	for _, e := range x.Erasures {
		line(1, "erasing a subject of type ", e.Subject)
		switch e.Own {
		case "delete":
			line(2, "their own row: the row goes (", e.OwnRule, ")")
		case "keep":
			line(2, "their own row: the row stays, as nobody's (", e.OwnRule, ")")
		}
		for _, l := range e.Links {
			line(2, l.Path, ": ", l.Does, " (", l.Rule, ")")
		}
		for _, r := range e.Redact {
			line(2, "in what stays as theirs, ", r.Column, ": ", r.Strategy, " (", r.Rule, ")")
		}
		if e.Reason != "" {
			line(2, "kept because: ", e.Reason)
		}
	}
	if len(x.References) > 0 {
		line(1, "what hangs on a row that goes, or is an erased person's")
	}
	for _, l := range x.References {
		line(2, l.Path, ": ", l.Does, " (", l.Rule, ")")
	}
	return b.String()
}
