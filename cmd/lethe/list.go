package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/store"
)

// access is how a command reaches repositories: from lethe.yml, or on a key holder's machine from flags alone.
type access struct {
	stores     []string
	trust      []string
	identities []string
}

func (x *access) flags(c *cobra.Command, identity string) {
	f := c.Flags()
	f.StringArrayVar(&x.stores, "store", nil, "a store's `URL` or directory (default: those of lethe.yml)")
	f.StringArrayVar(&x.trust, "trust", nil, "believe snapshots signed by this public `LINE` (RW…), as keygen prints it")
	f.StringArrayVarP(&x.identities, "identity", "i", nil, identity)
}

// repositories opens every store that can be opened and holds a repository; the others are named in failed.
func (a *app) repositories(ctx context.Context, cfg *config, x *access) (repos []*pipeline.Repository, failed []pipeline.StoreResult, err error) {
	trust, err := cfg.trusted(x.trust)
	if err != nil {
		return nil, nil, err
	}
	if cfg.OperatorKey != "" {
		// The operator's own snapshots are believed. A key holder's lethe.yml names no operator key.
		k, err := archive.ReadPublicKey(cfg.resolve(cfg.OperatorKey))
		if err != nil {
			return nil, nil, asUsage(err)
		}
		trust = append(trust, k)
	}
	if len(trust) == 0 {
		return nil, nil, usage("--trust RW… with the line that `lethe keygen operator` printed, or trusted_signers: in lethe.yml",
			"no signer is trusted, so no snapshot can be believed")
	}
	stores, failed, err := cfg.openStores(ctx, x.stores)
	if err != nil {
		return nil, nil, err
	}
	var errs []error
	for _, s := range stores {
		r, err := pipeline.OpenRepository(ctx, s, archive.NewTrust(trust...))
		if err == nil {
			repos = append(repos, r)
			continue
		}
		closeStores([]store.Store{s})
		failed = append(failed, pipeline.StoreResult{Store: s.String(), Error: err.Error()})
		errs = append(errs, err)
	}
	if len(repos) == 0 {
		return nil, nil, errors.Join(errs...)
	}
	return repos, failed, nil
}

func closeRepositories(repos []*pipeline.Repository) {
	for _, r := range repos {
		closeStores([]store.Store{r.Store})
	}
}

// readers returns what opens manifests: the identities given, else the operator's.
func (a *app) readers(ctx context.Context, cfg *config, x *access) (*archive.Identities, error) {
	ids, err := a.identities(ctx, x)
	if err != nil || ids != nil {
		return ids, err
	}
	if len(x.stores) == 0 && len(cfg.Stores) == 0 {
		return nil, cfg.noStores()
	}
	if cfg.OperatorKey == "" {
		return nil, usage("--identity FILE with a key holder's private key, or operator_key: in lethe.yml", "nothing here can read manifests")
	}
	op, err := cfg.operator()
	if err != nil {
		return nil, err
	}
	return op.Identities(), nil
}

// identities reads the files of --identity; nil where there are none.
func (a *app) identities(ctx context.Context, x *access) (*archive.Identities, error) {
	ask := func(name string) (string, error) { return a.passphrase(ctx, name) }
	var all *archive.Identities
	for _, path := range x.identities {
		ids, err := archive.ReadIdentities(path, ask)
		if err != nil {
			return nil, asUsage(err)
		}
		if all == nil {
			all = ids
		} else {
			all = all.And(ids)
		}
	}
	return all, nil
}

func (a *app) listCommand() *cobra.Command {
	x := &access{}
	c := &cobra.Command{
		Use:   "list",
		Short: "List the snapshots in every store, newest last",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return a.list(c.Context(), x) },
	}
	x.flags(c, "read manifests with the age identity in `FILE` (default: the operator key)")
	return c
}

type listedSnapshot struct {
	ID       string    `json:"id"`
	Store    string    `json:"store"`
	Dataset  string    `json:"dataset"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Tables   int       `json:"tables"`
	Rows     int64     `json:"rows"`
	Bytes    int64     `json:"bytes"`
	Erasures int64     `json:"erasures"`
	parts    []archive.Part
}

func (a *app) list(ctx context.Context, x *access) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	readers, err := a.readers(ctx, cfg, x)
	if err != nil {
		return err
	}
	repos, failed, err := a.repositories(ctx, cfg, x)
	if err != nil {
		return err
	}
	defer closeRepositories(repos)
	list := []listedSnapshot{}
	var bad []error
	for _, r := range repos {
		snapshots, err := r.Snapshots(ctx)
		if err != nil {
			return err
		}
		var here []listedSnapshot
		superseded := map[string]bool{} // beside their successors, where a purge or a takeover was interrupted
		for _, l := range snapshots {
			m, err := r.Manifest(ctx, l.ID, readers)
			if err != nil {
				bad = append(bad, err)
				continue
			}
			here = append(here, listed(m, r.Store.String()))
			for _, old := range m.Replaces() {
				superseded[old.ID] = true
			}
		}
		list = append(list, slices.DeleteFunc(here, func(l listedSnapshot) bool { return superseded[l.ID] })...)
	}
	slices.SortStableFunc(list, func(a, b listedSnapshot) int { return strings.Compare(a.ID, b.ID) })
	if err := a.printList(list, len(repos)+len(failed) > 1); err != nil {
		return err
	}
	for _, f := range failed {
		a.term.Warn("%s: %s", f.Store, f.Error)
	}
	switch {
	case len(bad) == 1:
		return bad[0]
	case len(bad) > 0:
		for _, err := range bad[1:] {
			a.term.Warn("%s", err)
		}
		return bad[0]
	case len(failed) > 0:
		return &degradedError{fmt.Errorf("%d of %d stores could not be read", len(failed), len(failed)+len(repos))}
	}
	return nil
}

func listed(m *archive.Manifest, store string) listedSnapshot {
	l := listedSnapshot{ID: m.ID, Store: store, Dataset: m.Dataset, Started: m.Started, Finished: m.Finished, Erasures: m.Erasure}
	for _, p := range m.Parts {
		if p.Kind == archive.Table {
			l.Tables++
			l.Rows += p.Rows
			l.parts = append(l.parts, p)
		}
		for _, o := range p.Objects {
			l.Bytes += o.Size
		}
	}
	return l
}

func (a *app) printList(list []listedSnapshot, severalStores bool) error {
	if a.term.json {
		return a.term.JSON(map[string]any{"snapshots": list})
	}
	if len(list) == 0 {
		a.term.Say("no snapshot yet")
		return nil
	}
	if err := a.term.Print("%-24s  %-16s  %6s  %13s  %10s%s\n", "SNAPSHOT", "STARTED (UTC)", "TABLES", "ROWS", "SIZE", storeColumn(severalStores, "STORE")); err != nil {
		return err
	}
	for _, l := range list {
		if err := a.term.Print("%-24s  %-16s  %6d  %13s  %10s%s\n", l.ID, l.Started.UTC().Format("2006-01-02 15:04"), l.Tables, group(l.Rows),
			bytesText(l.Bytes), storeColumn(severalStores, l.Store)); err != nil {
			return err
		}
		if !a.term.verbose {
			continue
		}
		for _, p := range l.parts {
			if err := a.term.Print("  %-40s  %13s rows\n", p.Name, group(p.Rows)); err != nil {
				return err
			}
		}
	}
	return nil
}

func storeColumn(show bool, s string) string {
	if !show {
		return ""
	}
	return "  " + s
}

// passphrase asks for the passphrase of an encrypted identity file, on the terminal.
func (a *app) passphrase(ctx context.Context, name string) (string, error) {
	a.term.Progress("")
	phrase, err := a.term.Ask(ctx, "Passphrase of "+name)
	if err != nil && ctx.Err() == nil {
		return "", usage("run it where a terminal can ask, or decrypt the file first: age -d "+name+" > /dev/shm/key.txt, and remove that afterwards", "%w", err)
	}
	return phrase, err
}
