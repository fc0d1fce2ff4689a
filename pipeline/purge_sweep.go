package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
)

// sweep deletes the objects that no snapshot names, whatever left them: what a successor has replaced, what an interrupted
// run put, what expired; and what killed runs had written of objects that are not there. All of it may hold people that have
// to go, and the lease keeps out whoever may still need it.
func (p *purge) sweep(ctx context.Context, s *purgeStore, left []string) error {
	unfinished, err := s.lease.abortUnfinished(ctx)
	s.out.Unfinished = unfinished
	if err != nil {
		return err
	}
	named, err := s.named(ctx, left, p.c.Identities)
	if err != nil {
		return err
	}
	unnamed := map[objectID]int64{}
	list, err := s.repo.unnamed(ctx, named)
	if err != nil {
		return err
	}
	for id, i := range list {
		unnamed[id] = i.Size
	}
	notes, err := s.notes(ctx, left)
	if err != nil {
		return err
	}
	if err := s.nothingNew(ctx, left); err != nil { // with the old manifests gone, and before the first object goes
		return err
	}
	err = deleteObjects(ctx, s.repo, s.lease, p.c.Workers, unnamed, func(_ objectID, size int64) {
		s.out.Deleted++
		s.out.Bytes += size
		if p.c.Progress != nil {
			p.c.Progress(Progress{Stage: "deleting objects", Bytes: s.out.Bytes})
		}
	})
	if err != nil {
		return err
	}
	for _, name := range notes {
		if err := s.repo.Store.Delete(ctx, name); err != nil {
			return err
		}
	}
	return s.sweepVersions(ctx)
}

// sweepVersions takes away for good what the store keeps of deleted files, also of those that went long ago.
func (s *purgeStore) sweepVersions(ctx context.Context) error {
	versioned, ok := s.repo.Store.(store.Versioned)
	if !ok {
		return nil
	}
	for _, prefix := range []string{archive.ObjectsPrefix, archive.SnapshotsPrefix, expiredPrefix} {
		if err := s.lease.stands(); err != nil {
			return err
		}
		gone, kept, err := versioned.DeleteOld(ctx, prefix)
		s.out.Versions += gone
		s.out.Kept = append(s.out.Kept, kept...)
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			s.out.Unknown = err.Error()
		}
	}
	return nil
}

// named is the objects that the listed snapshots name.
func (s *purgeStore) named(ctx context.Context, listed []string, ids *archive.Identities) (map[objectID]struct{}, error) {
	all := map[objectID]struct{}{}
	for _, id := range listed {
		m, _, err := s.repo.manifest(ctx, id, ids)
		if err == nil {
			err = noteNamed(all, m)
		}
		if err != nil {
			return nil, fail(err, "", "see which objects are still needed")
		}
	}
	return all, nil
}

// nothingNew makes sure that the store lists just these snapshots.
func (s *purgeStore) nothingNew(ctx context.Context, left []string) error {
	list, err := s.repo.Snapshots(ctx)
	if err != nil {
		return err
	}
	now := idsOf(list)
	slices.Sort(left)
	if !slices.Equal(now, left) {
		return &Error{Op: "delete objects", Err: &kind{fmt.Errorf("the store lists %d snapshots, and there should be %d: something writes here without a lease, or what was deleted is still listed",
			len(now), len(left)), ErrLocked}, Help: "run it again; no object was deleted"}
	}
	return nil
}

// notes lists the files in expired/, and the signatures of the manifests that they are of, in the order in which they go:
// a signature last, since what is there without its manifest is known as a stray.
func (s *purgeStore) notes(ctx context.Context, listed []string) (names []string, err error) {
	files := map[string]bool{}
	err = s.repo.Store.List(ctx, expiredPrefix, func(i store.Info) error { files[strings.TrimPrefix(i.Name, expiredPrefix)] = true; return nil })
	if err != nil {
		return nil, fmt.Errorf("list what earlier runs left: %w", err)
	}
	for file := range files {
		id := strings.TrimSuffix(strings.TrimSuffix(file, archive.SignatureSuffix), ".age")
		if !archive.ValidSnapshotID(id) {
			continue
		}
		if !slices.Contains(listed, id) {
			// A list that leaves out a snapshot which is there must not cost it its objects.
			if err := s.repo.reallyGone(ctx, id); err != nil {
				return nil, err
			}
			names = append(names, archive.ManifestName(id)+archive.SignatureSuffix)
		}
		names = append(names, expiredName(id), expiredName(id)+archive.SignatureSuffix)
	}
	slices.SortFunc(names, func(a, b string) int {
		aSig, bSig := strings.HasSuffix(a, archive.SignatureSuffix), strings.HasSuffix(b, archive.SignatureSuffix)
		if aSig != bSig {
			if aSig {
				return 1
			}
			return -1
		}
		return strings.Compare(a, b)
	})
	return slices.Compact(names), nil
}
