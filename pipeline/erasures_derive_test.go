package pipeline

import (
	"errors"
	"strings"
	"testing"
	"time"

	"lethe/pipeline/archive"
)

// How a request stands follows from the snapshots of all stores, whatever state each is in.
func TestDerive(t *testing.T) {
	const request = 5
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	ago := func(days float64) time.Time { return now.Add(-time.Duration(days * 24 * float64(time.Hour))) }
	open := &archive.LedgerRequest{Sequence: request, Ref: "R-5", Subject: "user", Received: ago(10).Truncate(24 * time.Hour), Recorded: ago(10)}
	snap := func(days float64, honour int64) storedSnapshot {
		return storedSnapshot{id: ago(days).Format("20060102T150405Z") + "-aaaaaa", honour: honour, started: ago(days)}
	}
	clean := func(days float64) storedSnapshot { return snap(days, request) }
	unclean := func(days float64) storedSnapshot { return snap(days, request-1) }
	leaving := func(s storedSnapshot) storedSnapshot { s.leaving = true; return s }
	rewritten := func(s storedSnapshot) storedSnapshot { s.successor = true; return s }
	met := func(s storedSnapshot, sequence int64) storedSnapshot {
		s.met = []archive.Met{{Sequence: sequence, Rows: 1}}
		return s
	}
	holds := func(snapshots ...storedSnapshot) *keeper { // newest first
		listed := 0
		for i := range snapshots {
			if snapshots[i].newer = listed; !snapshots[i].leaving {
				listed++
			}
		}
		return &keeper{r: &Repository{}, snapshots: snapshots}
	}
	hides := func(k *keeper, swept int64, put ...time.Time) *keeper {
		k.hidden, k.swept = put, swept
		return k
	}
	for name, c := range map[string]struct {
		keepers   []*keeper
		unknown   int
		verified  bool
		closed    bool
		received  time.Time // where it is not ten days ago
		retention Retention // where it is not a week

		stage   ErasureStage
		overdue bool
		unclean int
		hidden  int
		goneBy  string
		waits   string // every reason has one of these words, separated by |; "" means it can be closed
	}{
		"the newest does not honour it": {keepers: []*keeper{holds(unclean(1), unclean(2))}, stage: Recorded, unclean: 2, waits: "honour"},
		"the newest does":               {keepers: []*keeper{holds(clean(0.5), unclean(1), unclean(2))}, stage: Effective, unclean: 2, goneBy: "2026-11-26", waits: "honour"},
		"of one store alone":            {keepers: []*keeper{holds(clean(0.5), unclean(2)), holds(unclean(1))}, stage: Recorded, unclean: 2, waits: "honour"},
		"a store can't be asked":        {keepers: []*keeper{holds(clean(1), clean(2))}, unknown: 1, verified: true, stage: Recorded, waits: "asked"},
		"and late":                      {keepers: []*keeper{holds(clean(1), clean(2))}, unknown: 1, received: ago(40), stage: Recorded, overdue: true, waits: "asked"},
		"a store that failed":           {keepers: []*keeper{holds(clean(1), clean(2)), {r: &Repository{}, err: errors.New("x")}}, unknown: 1, stage: Recorded, waits: "asked"},
		"all honour it":                 {keepers: []*keeper{holds(clean(1), clean(2))}, stage: Purged},
		"and somebody has looked":       {keepers: []*keeper{holds(clean(1), clean(2))}, verified: true, stage: Verified},
		"looked, and one came back":     {keepers: []*keeper{holds(clean(1), clean(2), unclean(3))}, verified: true, stage: Effective, unclean: 1, goneBy: "2026-11-24", waits: "honour"},
		"late":                          {keepers: []*keeper{holds(clean(0.5), unclean(1))}, received: ago(40), stage: Effective, overdue: true, unclean: 1, goneBy: "2026-11-26", waits: "honour"},
		"late, and done":                {keepers: []*keeper{holds(clean(1), clean(2))}, received: ago(40), stage: Purged},

		// Retention alone.
		"one on its way out":                {keepers: []*keeper{holds(clean(1), clean(2), leaving(unclean(9)))}, stage: Effective, unclean: 1, goneBy: "2026-11-20", waits: "honour"},
		"one that should have gone":         {keepers: []*keeper{holds(clean(1), clean(2), unclean(9))}, stage: Effective, unclean: 1, goneBy: "2026-11-20", waits: "honour"},
		"one that its number keeps":         {keepers: []*keeper{holds(clean(1), clean(2), unclean(3))}, retention: Retention{KeepWithin: 24 * time.Hour, KeepMin: 3}, stage: Effective, unclean: 1, waits: "honour"},
		"leaving, and its number keeps not": {keepers: []*keeper{holds(clean(1), clean(2), leaving(unclean(3)))}, retention: Retention{KeepWithin: 24 * time.Hour, KeepMin: 3}, stage: Effective, unclean: 1, goneBy: "2026-11-20", waits: "honour"},
		"nothing expires":                   {keepers: []*keeper{holds(clean(1), unclean(2))}, retention: Retention{KeepMin: 1}, stage: Effective, unclean: 1, waits: "honour|needs"},

		// Stores that keep what was deleted.
		"a deleted file from before":                   {keepers: []*keeper{hides(holds(clean(1), clean(2)), 0, ago(12), ago(2))}, verified: true, stage: Effective, hidden: 1, waits: "deleted"},
		"deleted files from after":                     {keepers: []*keeper{hides(holds(clean(1), clean(2)), 0, ago(2))}, verified: true, stage: Verified},
		"from before, and a purge has swept since":     {keepers: []*keeper{hides(holds(clean(1), clean(2)), request, ago(12))}, stage: Purged},
		"from before, and a purge of others has swept": {keepers: []*keeper{hides(holds(clean(1), clean(2)), request-1, ago(12))}, stage: Effective, hidden: 1, waits: "deleted"},
		"and one that is still there":                  {keepers: []*keeper{hides(holds(clean(1), clean(2), unclean(3)), 0, ago(2))}, stage: Effective, unclean: 1, waits: "honour"},
		"whether it keeps them is not known":           {keepers: []*keeper{{r: &Repository{}, snapshots: holds(clean(1), clean(2)).snapshots, unseen: errors.New("denied")}}, stage: Purged, waits: "known"},

		"not known, but a purge has seen it": {keepers: []*keeper{{r: &Repository{}, swept: request, snapshots: holds(clean(1), clean(2)).snapshots, unseen: errors.New("denied")}}, stage: Purged},

		// Closing.
		"met in the last days":                {keepers: []*keeper{holds(clean(1), met(clean(6.9), request))}, stage: Purged, waits: "met"},
		"met before":                          {keepers: []*keeper{holds(clean(1), clean(2), met(clean(7.1), request))}, stage: Purged},
		"another was met":                     {keepers: []*keeper{holds(clean(1), met(clean(2), 4))}, stage: Purged},
		"too few have looked":                 {keepers: []*keeper{holds(clean(1))}, stage: Purged, waits: "needs"},
		"too few in one store":                {keepers: []*keeper{holds(clean(1), clean(2)), holds(clean(1))}, verified: true, stage: Verified, waits: "needs"},
		"rewritten ones have not looked":      {keepers: []*keeper{holds(clean(1), rewritten(clean(11)))}, verified: true, stage: Verified, waits: "needs"},
		"rewritten, and nobody has verified":  {keepers: []*keeper{holds(clean(1), clean(2), rewritten(clean(11)))}, stage: Purged, waits: "verified"},
		"rewritten, and somebody has":         {keepers: []*keeper{holds(clean(1), clean(2), rewritten(clean(11)))}, verified: true, stage: Verified},
		"closed":                              {keepers: []*keeper{holds(clean(1))}, closed: true, stage: Closed},
		"closed, and a snapshot is back":      {keepers: []*keeper{holds(clean(1), unclean(12))}, closed: true, stage: Closed, unclean: 1},
		"nothing is stored, and so no backup": {keepers: []*keeper{holds()}, stage: Purged, waits: "needs"},
	} {
		t.Run(name, func(t *testing.T) {
			retention := c.retention
			if retention.Empty() {
				retention = Retention{KeepWithin: 7 * 24 * time.Hour, KeepMin: 1}
			}
			config := ErasuresConfig{Retention: retention, Now: func() time.Time { return now }, Verified: func(n int64) bool { return c.verified && n == request }}
			r := *open
			if !c.received.IsZero() {
				r.Received = c.received.Truncate(24 * time.Hour)
			}
			e := &LedgerEntry{LedgerRecord: archive.LedgerRecord{Sequence: request, Kind: archive.RequestRecord}, Request: &r, Closed: c.closed}
			if c.closed {
				e.Request = nil
			}
			got := config.derive(e, c.keepers, c.unknown)
			if got.Stage != c.stage || got.Overdue != c.overdue || got.Unclean != c.unclean || got.Hidden != c.hidden || got.GoneBy != c.goneBy {
				t.Errorf("%+v", got)
			}
			words := strings.Split(c.waits, "|")
			for _, reason := range got.Waits {
				found := false
				for _, w := range words {
					found = found || w != "" && strings.Contains(reason, w)
				}
				if !found {
					t.Errorf("waits since %s", reason)
				}
			}
			if c.waits == "" != (len(got.Waits) == 0) {
				t.Errorf("waits since %q", got.Waits)
			}
		})
	}

	early := *open
	early.Recorded = ago(6)
	config := ErasuresConfig{Now: func() time.Time { return now }}
	got := config.derive(&LedgerEntry{LedgerRecord: archive.LedgerRecord{Sequence: request, Kind: archive.RequestRecord}, Request: &early}, []*keeper{holds(clean(1), clean(2))}, 0)
	if len(got.Waits) != 1 || got.Waits[0] != "it was recorded less than 7 days ago; not before 2026-11-21" {
		t.Errorf("%q", got.Waits)
	}
}
