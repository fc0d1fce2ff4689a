package pipeline

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
)

// account writes what a purge is about to do in a store, or has done there. It stays when the snapshots are gone.
func (p *purge) account(ctx context.Context, s *purgeStore, a *archive.PurgeAccount) error {
	var err error
	a.Written, a.Tool = p.c.Now(), p.c.Tool
	a.Repository, a.Rules, a.Ledger = s.repo.ID, archive.Digest(p.stored.today.Text), s.ledger.Head()
	if a.ID, err = archive.NewSnapshotID(a.Written, rand.Reader); err != nil {
		return err
	}
	data, err := archive.WriteAccount(a, p.newest)
	if err != nil {
		return err
	}
	if err := s.lease.Renew(ctx); err != nil {
		return err
	}
	return s.repo.putSigned(ctx, p.c.Signer, archive.PurposePurge, archive.AccountName(a.ID), data)
}

// begin gives account of what each snapshot will lose, and for whom. A run that goes on after another one was killed
// tells again of those that the other one had not come to; who reads both takes each snapshot once.
func (p *purge) begin(ctx context.Context, s *purgeStore) error {
	a := &archive.PurgeAccount{}
	for _, snap := range s.snapshots {
		if !p.changed(snap) {
			continue
		}
		was := archive.PurgedSnapshot{SnapshotRef: archive.SnapshotRef{ID: snap.id, Digest: snap.digest}, LargeObjects: int64(len(p.changes.lost[snap]))}
		by := map[int64][]archive.PurgedTable{}
		for key, n := range p.changes.effects {
			if key.snapshot != snap || int(key.request) >= len(p.stored.requests) {
				continue
			}
			sequence := p.stored.requests[key.request].sequence
			by[sequence] = append(by[sequence], archive.PurgedTable{Table: key.table.String(), Deleted: n.Deleted, Redacted: n.Redacted, Cleared: n.Cleared, Others: n.Others})
		}
		for sequence, tables := range by {
			slices.SortFunc(tables, func(a, b archive.PurgedTable) int { return cmp.Compare(a.Table, b.Table) })
			was.Requests = append(was.Requests, archive.PurgedRequest{Sequence: sequence, Tables: tables})
		}
		slices.SortFunc(was.Requests, func(a, b archive.PurgedRequest) int { return cmp.Compare(a.Sequence, b.Sequence) })
		a.Snapshots = append(a.Snapshots, was)
	}
	if len(a.Snapshots) == 0 {
		return nil
	}
	return fail(p.account(ctx, s, a), "", "give account of what will go")
}

// end gives account of what was deleted and what could not be, unless nothing was and the last account says so already. Of
// a store that may keep deleted files it also tells that none is left from before requests which are honoured by now.
func (p *purge) end(ctx context.Context, s *purgeStore) error {
	out, honoured := &s.out, p.honoured(s)
	nothing := len(out.Successors)+out.Deleted+out.Versions+len(out.Kept)+len(s.superseded) == 0 && out.Unknown == ""
	if nothing {
		accounts, err := s.repo.accounts(ctx, p.c.Identities)
		if err != nil {
			return err
		}
		told := int64(0) // up to where the last account says that no deleted file is left
		if n := len(accounts); n > 0 {
			last := accounts[n-1].Swept
			if last == nil || !last.All() {
				told = -1
			} else {
				told = last.Honoured
			}
		}
		if _, keeps := s.repo.Store.(store.Versioned); told >= 0 && (!keeps || told >= honoured) {
			return nil
		}
	}
	swept := &archive.Swept{Honoured: honoured, Objects: int64(out.Deleted), Bytes: out.Bytes, Versions: int64(out.Versions), Unknown: out.Unknown}
	for _, k := range out.Kept {
		swept.Kept = append(swept.Kept, archive.KeptFile(k))
	}
	return fail(p.account(ctx, s, &archive.PurgeAccount{Swept: swept}), "", "give account of what has gone")
}

// honoured is the last record up to which every snapshot in a store honours the requests once it is purged.
func (p *purge) honoured(s *purgeStore) int64 {
	least := sequenceOf(s.ledger.Head())
	for _, snap := range s.snapshots {
		least = min(least, sequenceOf(p.head(snap)))
	}
	return least
}

func sequenceOf(head *archive.LedgerHead) int64 {
	if head == nil {
		return 0
	}
	return head.Sequence
}

// signedAccount is an account with who gave it.
type signedAccount struct {
	*archive.PurgeAccount
	signer archive.PublicKey
}

// accounts reads the accounts of purges in a store that trusted signers have given, the oldest first. One that can't be
// believed or read is left out: it would only add to what is known.
func (r *Repository) accounts(ctx context.Context, ids *archive.Identities) (list []signedAccount, err error) {
	var files []string
	err = r.Store.List(ctx, archive.AccountsPrefix, func(i store.Info) error {
		if _, ok := archive.AccountOf(i.Name); ok {
			files = append(files, i.Name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the accounts of purges: %w", err)
	}
	for _, name := range files {
		data, signer, err := r.readSigned(ctx, archive.PurposePurge, name, archive.MaxAccountFile)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			continue
		}
		if a, err := archive.ReadAccount(r.ID, name, data, ids); err == nil {
			list = append(list, signedAccount{a, signer})
		}
	}
	slices.SortStableFunc(list, func(a, b signedAccount) int {
		return cmp.Or(a.Written.Compare(b.Written), cmp.Compare(len(b.Snapshots), len(a.Snapshots))) // a purge ends after it began
	})
	return list, nil
}
