package scrub

import (
	"context"

	"lethe/rules"
)

// Probe asks a live server what only it can tell about the rules: whether values fit their types, whether the row that
// a default names is there. ask runs a SELECT of one boolean. The error is rules.Errors, with every rule that fails.
func (p *Plan) Probe(ctx context.Context, ask func(ctx context.Context, sql string) (bool, error)) error {
	var errs rules.Errors
	for _, probe := range p.Probes {
		ok, err := ask(ctx, probe.SQL)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil || !ok { // the server refuses a value that does not fit by an error
			errs = append(errs, &rules.Error{File: p.Rules.Path, Pos: probe.Pos, Msg: probe.Msg, Hint: probe.Hint})
		}
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}
