package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lethe/pipeline/archive"
)

// StatusConfig is what a look at a store needs.
type StatusConfig struct {
	Repository *Repository
	Trusts     bool                // the repository trusts somebody, so signatures can be verified
	Readers    *archive.Identities // open manifests; nil without keys
	MaxAge     time.Duration       // of the newest snapshot
	Retention  Retention           // tells expired snapshots from hidden ones; may be empty
	Now        func() time.Time
}

// StoreStatus is how a store stands.
type StoreStatus struct {
	Store     string     `json:"store"`
	Error     string     `json:"error,omitempty"` // it could not be asked
	Snapshots int        `json:"snapshots"`       // that it lists
	Newest    string     `json:"newest,omitempty"`
	Started   *time.Time `json:"started,omitempty"` // of the newest, as its id tells
	Age       int64      `json:"age_seconds"`       // of the newest
	MaxAge    int64      `json:"max_age_seconds"`
	Stale     bool       `json:"stale"`           // there is no snapshot, or none that is young enough
	Reason    string     `json:"reason"`          // in words: "ok", or why it is stale
	Bytes     int64      `json:"bytes,omitempty"` // of the newest snapshot's objects, where its manifest could be read
	Verified  string     `json:"verified"`        // by what the newest is known: "listing", "signature" or "manifest"
	Problems  []Problem  `json:"problems"`        // integrity: a signature, or a snapshot that was swapped or is hidden
}

// By what a snapshot is known.
const (
	ByListing   = "listing"   // the store says so
	BySignature = "signature" // a trusted signer says so
	ByManifest  = "manifest"  // and the manifest could be read
)

// Status looks at the newest snapshot of a store. Without keys it believes the store's listing, whose names carry the
// time. Where signers are trusted only a snapshot that one of them signed counts, and with identities its manifest is
// compared with what the store lists. No object is read.
func Status(ctx context.Context, c StatusConfig) (*StoreStatus, error) {
	s := &StoreStatus{Store: c.Repository.Store.String(), MaxAge: int64(c.MaxAge / time.Second), Verified: ByListing, Problems: []Problem{}}
	list, err := c.Repository.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	s.Snapshots = len(list)
	var newest string
	for i := len(list) - 1; i >= 0 && newest == ""; i-- {
		believed, err := c.believe(ctx, list, i, s)
		if err != nil {
			return nil, fail(err, "", "look at %s", s.Store)
		}
		if believed {
			newest = list[i].ID
		}
	}
	s.judge(newest, c.MaxAge, c.Now())
	return s, nil
}

// believe looks at one snapshot as closely as the keys allow. False means that it is not what it seems.
func (c *StatusConfig) believe(ctx context.Context, list []Listed, i int, s *StoreStatus) (bool, error) {
	id := list[i].ID
	if !c.Trusts {
		return true, nil
	}
	name := archive.ManifestName(id)
	data, _, err := c.Repository.readSigned(ctx, archive.PurposeManifest, name, maxManifest)
	var m *archive.Manifest
	if err == nil && c.Readers != nil {
		m, err = archive.ReadManifest(name, data, c.Readers, archive.Limits{})
	}
	if errors.Is(err, ErrIntegrity) {
		s.Problems = append(s.Problems, Problem{Snapshot: id, Problem: err.Error()})
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s.Verified = BySignature
	if m == nil {
		return true, nil
	}
	s.Verified = ByManifest
	seen := map[string]bool{}
	for _, p := range m.Parts {
		for _, o := range append(p.Objects[:len(p.Objects):len(p.Objects)], p.Filters...) {
			if !seen[o.Object] {
				seen[o.Object] = true
				s.Bytes += o.Size
			}
		}
	}
	digests := map[string]string{}
	for _, l := range list {
		digest, err := c.Repository.digest(ctx, archive.ManifestName(l.ID))
		if isNotFound(err) {
			continue // it expired a moment ago
		}
		if err != nil {
			return false, err
		}
		digests[l.ID] = digest
	}
	moved, err := c.Repository.expiring(ctx)
	if err != nil {
		return false, err
	}
	purged, err := c.Repository.purged(ctx, m, idsOf(list), c.Readers)
	if err != nil {
		return false, err
	}
	s.Problems = append(s.Problems, c.Retention.betrayals(m, digests, append(purged, moved...), c.Now())...)
	return true, nil
}

// judge says how old the newest snapshot is, and whether that is too old.
func (s *StoreStatus) judge(newest string, maxAge time.Duration, now time.Time) {
	s.Reason = "ok"
	if newest == "" {
		s.Stale, s.Reason = true, "no snapshot"
		if s.Snapshots > 0 {
			s.Reason = "no snapshot that can be believed"
		}
		return
	}
	began := archive.SnapshotTime(newest)
	age := now.Sub(began)
	s.Newest, s.Started, s.Age = newest, &began, max(0, int64(age/time.Second))
	switch {
	case age < -futureLimit:
		// Such a name would look young for as long as it lies ahead.
		s.Stale, s.Reason = true, fmt.Sprintf("its time is %s ahead of this machine's clock: one of the clocks is wrong, or it is not what it seems", Period((-age).Round(time.Minute)))
	case age > maxAge:
		s.Stale, s.Reason = true, fmt.Sprintf("older than %s", Period(maxAge))
	}
}
