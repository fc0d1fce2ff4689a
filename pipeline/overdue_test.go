package pipeline_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"lethe/pipeline"
	"lethe/pipeline/archive"
)

// overdue asks for overdue erasures with some keys, by the history's clock.
func (h *history) overdue(keys string) *pipeline.OverdueErasures {
	h.t.Helper()
	c := pipeline.ErasuresConfig{Retention: weekly, Now: h.clock}
	trust := archive.NewTrust()
	if keys != "" {
		trust = archive.NewTrust(h.operator.Public())
	}
	switch keys {
	case "operator":
		c.Readers = h.operator.Identities()
	case "holder":
		c.Readers = h.holder
	}
	r, err := pipeline.OpenRepository(context.Background(), h.faulty, trust)
	if err != nil {
		h.t.Fatal(err)
	}
	c.Repositories = []*pipeline.Repository{r}
	out, err := pipeline.Overdue(context.Background(), c, keys != "")
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// A request is overdue from the 31st day after it came in, for as long as a stored snapshot does not honour it. Without
// the key that opens it that can't be told, and is not claimed.
func TestOverdue(t *testing.T) {
	h := newHistory(t, club)
	h.rules = clubRules
	for _, keys := range []string{"", "trust", "operator", "holder"} {
		if o := h.overdue(keys); o.Open != 0 || o.Unread != 0 || len(o.Overdue) > 0 || o.Error != "" {
			t.Errorf("with %q: %+v", keys, o)
		}
	}
	old := h.backupNow()
	h.now = h.now.Add(time.Hour)
	received := h.now.UTC().Truncate(24 * time.Hour)
	record := pipeline.RequestConfig{BackupConfig: h.site.config(h.store), Requests: []pipeline.NewRequest{{Subject: "user", Key: "4321", Ref: "R-1", Received: received}}}
	record.Now = h.clock
	if _, err := pipeline.Record(context.Background(), record); err != nil {
		t.Fatal(err)
	}
	h.now = h.now.Add(time.Hour)
	h.backupNow()
	for _, c := range []struct {
		after   time.Duration
		overdue int
	}{{0, 0}, {31*day - time.Second, 0}, {31 * day, 1}, {400 * day, 1}} {
		h.now = received.Add(c.after)
		for keys, knownBy := range map[string]string{"": "listing", "trust": "records", "operator": "requests", "holder": "requests"} {
			o := h.overdue(keys)
			want, unread := c.overdue, 0
			if knownBy != "requests" {
				want, unread = 0, 1
			}
			if o.Open != 1 || o.Unread != unread || len(o.Overdue) != want || o.KnownBy != knownBy || o.Error != "" {
				t.Errorf("%s later, with %q: %+v", c.after, keys, o)
			}
			if want > 0 && (o.Overdue[0].Ref != "R-1" || o.Overdue[0].Stage != pipeline.Effective || o.Overdue[0].Unclean != 1) {
				t.Errorf("%+v", o.Overdue[0])
			}
		}
	}

	// With the old snapshot gone it is purged, and overdue no more.
	h.remove(archive.ManifestName(old), archive.ManifestName(old)+archive.SignatureSuffix)
	if o := h.overdue("operator"); len(o.Overdue) > 0 || o.Open != 1 {
		t.Errorf("%+v", o)
	}

	// A ledger that does not hold is the store's problem; without a signer to believe nothing is claimed of it.
	h.remove(archive.RecordName(1) + archive.SignatureSuffix)
	for _, keys := range []string{"", "trust", "operator"} {
		p, ok := h.overdue(keys).Problem(h.faulty.String())
		if ok != (keys != "") || ok && !strings.Contains(p.Problem, "it has no signature") {
			t.Errorf("with %q: %v, %v", keys, p, ok)
		}
	}
}
