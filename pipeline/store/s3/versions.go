package s3

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"lethe/pipeline/store"
)

var _ store.Versioned = (*Store)(nil)

// deleteVersions is how many files' versions are deleted at once.
const deleteVersions = 8

// DeleteOld implements store.Versioned. In a bucket without versions there is nothing to delete.
func (s *Store) DeleteOld(ctx context.Context, prefix string) (gone int, kept []store.Kept, err error) {
	if err := store.CheckPrefix(prefix); err != nil {
		return 0, nil, s.fail("list", prefix, err)
	}
	old, err := s.oldVersions(ctx, prefix)
	if err != nil {
		return 0, nil, s.fail("list", prefix, err)
	}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(deleteVersions)
	for key, versions := range old {
		group.Go(func() error {
			n, left, err := s.deleteAll(ctx, key, versions)
			mu.Lock()
			defer mu.Unlock()
			gone += n
			if left != nil {
				kept = append(kept, *left)
			}
			return err
		})
	}
	err = group.Wait()
	slices.SortFunc(kept, func(a, b store.Kept) int { return strings.Compare(a.Name, b.Name) })
	return gone, kept, err
}

// Old implements store.Versioned.
func (s *Store) Old(ctx context.Context, prefix string, found func(put time.Time)) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return s.fail("list", prefix, err)
	}
	old, err := s.oldVersions(ctx, prefix)
	if err != nil {
		return s.fail("list", prefix, err)
	}
	for _, versions := range old {
		for _, v := range versions {
			if !v.IsDeleteMarker {
				found(v.LastModified)
			}
		}
	}
	return nil
}

// oldVersions returns every version below a prefix that is not a current one, by key. Services do not agree on the order
// in which they list them, so all are known before the first one goes.
func (s *Store) oldVersions(ctx context.Context, prefix string) (map[string][]minio.ObjectInfo, error) {
	listing, cancel := context.WithCancel(ctx)
	defer cancel()
	asking, e := withExchange(listing, nil)
	options := s.listing(prefix, "", 0)
	options.WithVersions = true
	old := map[string][]minio.ObjectInfo{}
	for o := range s.client.ListObjectsIter(asking, s.at.bucket, options) {
		if o.Err != nil {
			return nil, s.cause(ctx, "list versions", e.attempts, o.Err)
		}
		if !strings.HasPrefix(o.Key, s.at.prefix+prefix) {
			return nil, errors.New("the service lists versions of other names than those asked for")
		}
		if !o.IsLatest || o.IsDeleteMarker {
			old[o.Key] = append(old[o.Key], o)
		}
	}
	return old, ctx.Err()
}

// deleteAll deletes versions of one key, and says what the service keeps. What hides them goes last, and stays where one
// of them does: without it that one would be there again.
func (s *Store) deleteAll(ctx context.Context, key string, versions []minio.ObjectInfo) (gone int, kept *store.Kept, err error) {
	for _, hiding := range []bool{false, true} {
		for _, v := range versions {
			if v.IsDeleteMarker != hiding || hiding && kept != nil {
				continue
			}
			asking, e := withExchange(ctx, nil)
			err := s.cause(ctx, "delete a version", e.attempts, s.client.RemoveObject(asking, s.at.bucket, key, minio.RemoveObjectOptions{VersionID: v.VersionID}))
			switch {
			case err == nil, errors.Is(err, store.ErrNotFound):
				gone++
				continue
			case ctx.Err() != nil:
				return gone, kept, ctx.Err()
			}
			why := s.keeps(ctx, key, v.VersionID)
			if why == nil {
				return gone, kept, s.fail("delete an old version of", strings.TrimPrefix(key, s.at.prefix), err)
			}
			if kept == nil || why.Until.After(kept.Until) {
				why.Held = why.Held || kept != nil && kept.Held
				kept = why
			}
		}
	}
	return gone, kept, nil
}

// keeps says until when Object Lock keeps a version, nil where nothing says that it does.
func (s *Store) keeps(ctx context.Context, key, version string) *store.Kept {
	until := s.lock(ctx, key, version, "retention").RetainUntilDate
	held := s.lock(ctx, key, version, "legal-hold").Status == "ON"
	if until.IsZero() && !held {
		return nil
	}
	return &store.Kept{Name: strings.TrimPrefix(key, s.at.prefix), Until: until.UTC().Truncate(time.Second), Held: held}
}

// objectLock is a retention or a legal hold, as S3 tells of it.
type objectLock struct {
	RetainUntilDate time.Time
	Status          string
}

// lock asks for a lock of a version, by the name of its subresource. It is the zero one where there is none or the service
// does not tell. Services do not agree on the answer's outermost element, and minio-go takes but one.
func (s *Store) lock(ctx context.Context, key, version, which string) (answer objectLock) {
	u, err := s.client.Presign(ctx, http.MethodGet, s.at.bucket, key, time.Minute, url.Values{which: {""}, "versionId": {version}})
	if err != nil {
		return objectLock{}
	}
	asking, _ := withExchange(ctx, nil)
	req, err := http.NewRequestWithContext(asking, http.MethodGet, u.String(), nil)
	if err != nil {
		return objectLock{}
	}
	resp, err := (&http.Client{Transport: s.transport}).Do(req)
	if err != nil {
		return objectLock{}
	}
	defer resp.Body.Close() //nolint:errcheck // read only
	if resp.StatusCode != http.StatusOK || xml.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&answer) != nil {
		return objectLock{}
	}
	return answer
}
