package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"lethe/pipeline"
	"lethe/pipeline/archive"
)

// takesOver reports whether init is asked to take over a repository whose operator key is lost.
func (f *initFlags) takesOver() bool {
	return len(f.identities) > 0 || f.signer != "" || len(f.trust) > 0 || f.expect != ""
}

// adopt takes over a repository whose operator key is lost, on the key holder's machine, and writes what the new
// operator's machine needs.
func (a *app) adopt(ctx context.Context, f *initFlags) error {
	cfg, fresh, err := a.initConfig(f)
	if err != nil {
		return err
	}
	c, err := a.adoptConfig(ctx, cfg, f, fresh)
	if err != nil {
		return err
	}
	if c.Stores, c.Unreachable, err = cfg.openStores(ctx, nil); err != nil {
		return err
	}
	defer closeStores(c.Stores)
	report, err := pipeline.Adopt(ctx, *c)
	if err != nil {
		return err
	}
	signer := c.Signer.Public().String()
	if fresh {
		f.recipients = report.Recipients
		cfg.Recipients, cfg.TrustedSigners = report.Recipients, []string{signer}
	}
	if err := a.writeAdopted(cfg, f, fresh, report); err != nil {
		return err
	}
	if a.term.json {
		if err := a.term.JSON(report); err != nil {
			return err
		}
	}
	return a.sayAdopted(cfg, report)
}

// adoptConfig reads what the flags name. Nothing is written here.
func (a *app) adoptConfig(ctx context.Context, cfg *config, f *initFlags, fresh bool) (*pipeline.AdoptConfig, error) {
	c := &pipeline.AdoptConfig{Now: time.Now, Warn: func(msg string) { a.term.Warn("%s", msg) }}
	var err error
	if c.Identities, err = a.identities(ctx, &access{identities: f.identities}); err != nil {
		return nil, err
	}
	if c.Identities == nil {
		return nil, usage("--identity FILE with the private key of one of the recipients", "taking over a repository needs a key holder's identity")
	}
	if f.signer == "" {
		return nil, usage("--signer FILE with a key that lethe keygen signer made", "taking over a repository needs a key holder's signing key: it says that the new operator is to be believed")
	}
	if c.Signer, err = archive.ReadSigner(f.signer); err != nil {
		return nil, asUsage(err)
	}
	signer := c.Signer.Public()
	believed, err := cfg.trusted(nil)
	if err != nil {
		return nil, err
	}
	if !fresh && !slices.Contains(believed, signer) {
		return nil, usage("add "+signer.String()+" to trusted_signers:, where it is the key holder's", "%s does not trust the key in %s, so the new operator would not believe what it signs", cfg.path, f.signer)
	}
	if c.Trust, err = cfg.trusted(f.trust); err != nil {
		return nil, err
	}
	if len(cfg.Recipients) > 0 {
		if c.Recipients, err = cfg.recipients(); err != nil {
			return nil, err
		}
	}
	if c.Expect, err = ledgerHead(f.expect); err != nil {
		return nil, err
	}
	path := cfg.resolve(cfg.OperatorKey)
	if !missingFile(path) { // of an earlier run
		op, err := cfg.operator()
		if err != nil {
			return nil, err
		}
		c.Trust = append(c.Trust, op.Public())
		c.Operator = func(*archive.RepositoryKeys) (*archive.OperatorKey, error) { return op, nil }
		return c, nil
	}
	c.Operator = func(keys *archive.RepositoryKeys) (*archive.OperatorKey, error) {
		made, err := archive.GenerateOperator()
		if err != nil {
			return nil, err
		}
		op := made.Adopt(keys)
		if err := archive.WriteSecretFile(path, op.Text(time.Now())); err != nil {
			return nil, err
		}
		a.term.Say("wrote %s: the new operator's secret, mode 0600", path)
		return op, nil
	}
	return c, nil
}

// writeAdopted writes the files for the new operator's machine that are not there.
func (a *app) writeAdopted(cfg *config, f *initFlags, fresh bool, r *pipeline.AdoptReport) error {
	if path := cfg.resolve(cfg.Rules); missingFile(path) {
		switch r.Rules {
		case "":
			a.term.Say("no snapshot holds rules, so %s is not written", path)
		default:
			if err := writeNew(path, r.Rules, 0o644); err != nil {
				return err
			}
			a.term.Say("wrote %s, as the newest snapshot has it", path)
		}
	}
	if fresh {
		if err := writeNew(cfg.path, configText(cfg, f), 0o644); err != nil {
			return err
		}
		a.term.Say("wrote %s", cfg.path)
	}
	card := filepath.Join(cfg.dir, cardFile)
	text, err := os.ReadFile(card)
	switch {
	case err == nil && !strings.Contains(string(text), r.Operator):
		a.term.Warn("%s is the lost operator's: move it away, and run this again for a new one", card)
		return nil
	case err == nil:
		return nil
	case !missingFile(card):
		return err
	}
	if err := writeNew(card, cardText(cfg, r.Repository, r.Operator, r.Recipients), 0o644); err != nil {
		return err
	}
	a.term.Say("wrote %s: print it, and keep it with the private key, in the old one's place", card)
	return nil
}

// sayAdopted says what was done and what is left to do.
func (a *app) sayAdopted(cfg *config, r *pipeline.AdoptReport) error {
	resealed := 0
	for _, s := range r.Stores {
		for _, p := range s.Left {
			a.term.Warn("%s: left as it is: %s", s.Store, problemText(p))
		}
		if s.Error != "" {
			a.term.Warn("%s: %s", s.Store, s.Error)
		}
		resealed += s.Resealed
	}
	for _, n := range r.Lost {
		a.term.Warn("the sealed request of record %d of the ledger is in no store that was reached: backups wait for it, or for another in its place (lethe help ledger)", n)
	}
	operator := cfg.resolve(cfg.OperatorKey)
	if !r.Changed && len(r.Failed()) == 0 {
		a.term.Say("nothing to take over: %s is the operator key of repository %s already", operator, r.Repository)
	} else {
		a.term.Say("took over repository %s: %s sealed for the new operator, ledger %s, %s", r.Repository, count(int64(resealed), "snapshot"), r.Ledger, openErasures(r.Erasures))
		a.term.Say("next: move %s, %s and %s to the new operator's machine, and keep none of them here", operator, cfg.path, cfg.resolve(cfg.Rules))
		a.term.Say("      there, complete %s (database:, stores:, schedule:, retention:, state:, inbox:), run lethe init, then lethe backup", filepath.Base(cfg.path))
		a.term.Say("      strike the lost operator's line wherever it is trusted; %s and %s are the ones to trust", r.Operator, r.Signer)
	}
	if err := r.Integrity(); err != nil {
		return err
	}
	if failed := len(r.Failed()); failed > 0 {
		return &degradedError{fmt.Errorf("%d of %d stores are not taken over: run it again, with the same files, when they can be reached", failed, len(r.Stores))}
	}
	return nil
}

// openErasures counts erasure requests.
func openErasures(n int) string { return count(int64(n), "open erasure request") }
