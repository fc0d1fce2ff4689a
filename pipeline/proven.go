package pipeline

import (
	"context"
	"fmt"
	"slices"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
)

// Proven returns which requests of the ledger are verified in all of these stores, by sequence: where a proof looked for
// the request by today's rules and found nothing, every snapshot that the proof read is the same today or gone, and every
// other one was taken after it and honours the request. A proof that can't be believed is none.
func Proven(ctx context.Context, repos []*Repository, ids *archive.Identities) (func(sequence int64) bool, error) {
	var stores []map[int64]signedProof
	for _, r := range repos {
		proven, err := r.proven(ctx, ids)
		if err != nil {
			return nil, fail(err, "", "look for proofs in %s", r.Store)
		}
		stores = append(stores, proven)
	}
	return func(sequence int64) bool {
		return len(stores) > 0 && !slices.ContainsFunc(stores, func(by map[int64]signedProof) bool { return by[sequence].Proof == nil })
	}, nil
}

// signedProof is a proof with its name, and who gave it.
type signedProof struct {
	*archive.Proof
	name   string
	signer archive.PublicKey
}

// proven returns, by request, the first proof that holds for what the store has today.
func (r *Repository) proven(ctx context.Context, ids *archive.Identities) (map[int64]signedProof, error) {
	by := map[int64]signedProof{}
	proofs, err := r.proofs(ctx)
	if err != nil || len(proofs) == 0 {
		return by, err
	}
	list, err := r.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	newest, _, err := r.newest(ctx, ids)
	if err != nil || newest == nil {
		return by, err
	}
	for _, p := range proofs {
		if p.Rules != newest.Rules.Digest {
			continue // today's may reach further
		}
		later := int64(archive.MaxSequence) // the last record that every snapshot which the proof has not read honours
		for _, l := range list {
			digest, err := r.digest(ctx, archive.ManifestName(l.ID))
			if isNotFound(err) {
				continue // it expired a moment ago
			}
			if err != nil {
				return nil, err
			}
			if slices.Contains(p.Snapshots, archive.SnapshotRef{ID: l.ID, Digest: digest}) {
				continue
			}
			m, err := r.Manifest(ctx, l.ID, ids)
			if err != nil {
				return nil, err
			}
			if slices.ContainsFunc(m.Resealed, func(same archive.SnapshotRef) bool { return slices.Contains(p.Snapshots, same) }) {
				continue // the proof has read the very objects that it names
			}
			honoured := int64(0)
			if m.Ledger != nil && !m.Started.Before(p.Started) && len(m.Supersedes) == 0 {
				honoured = m.Ledger.Sequence
			}
			later = min(later, honoured)
		}
		for _, q := range p.Requests {
			if q.Sequence <= later && (by[q.Sequence].Proof == nil || p.Finished.Before(by[q.Sequence].Finished)) {
				by[q.Sequence] = p
			}
		}
	}
	return by, nil
}

// proofs reads the proofs in a store that trusted signers have signed.
func (r *Repository) proofs(ctx context.Context) (proofs []signedProof, err error) {
	var names []string
	err = r.Store.List(ctx, archive.ProofsPrefix, func(i store.Info) error {
		if _, ok := archive.ProofOf(i.Name); ok {
			names = append(names, i.Name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the proofs: %w", err)
	}
	for _, name := range names {
		data, signer, err := r.readSigned(ctx, archive.PurposeProof, name, archive.MaxProofFile)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			continue
		}
		if p, err := archive.ReadProof(r.ID, name, data); err == nil {
			proofs = append(proofs, signedProof{p, name, signer})
		}
	}
	return proofs, nil
}
