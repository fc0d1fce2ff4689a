package pipeline_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/store/storetest"
)

// people is three snapshots of a small site, with something happening between them, and three people to erase.
const fewPeople = `
CREATE TABLE users (id int PRIMARY KEY, email text NOT NULL UNIQUE, name text, photo oid);
CREATE TABLE posts (id int PRIMARY KEY, user_id int NOT NULL REFERENCES users ON DELETE CASCADE, body text);
CREATE TABLE comments (id int PRIMARY KEY, post_id int NOT NULL REFERENCES posts ON DELETE CASCADE, user_id int REFERENCES users ON DELETE SET NULL, body text);
CREATE TABLE sessions (token text);
INSERT INTO users SELECT i, 'user' || i || '@example.org', 'User ' || i, 5000 + i FROM generate_series(1, 300) i;
INSERT INTO posts SELECT i, i % 300 + 1, 'post ' || i || repeat(md5(i::text), 200) FROM generate_series(1, 600) i;
INSERT INTO comments SELECT i, i % 600 + 1, i % 300 + 1, 'comment ' || i FROM generate_series(1, 900) i;
SELECT lo_from_bytea(5000 + i, convert_to('photo ' || i, 'UTF8')) FROM generate_series(1, 300) i;`

const fewPeopleRules = `
version: 1
dataset: slipmat
drift: pass
subjects: {user: {table: users, key: id}}
erase:
  users: {redact: {email: unique_email, name: {value: somebody}, photo: clear}}
requests:
  - {subject: "user:7", ref: R-1}
  - {subject: "user:0299", ref: R-2}
  - {subject: "user:777", ref: R-3}
`

// purgeHistory is a store with stored snapshots that a purge is to work on.
func purgeHistory(t *testing.T) *history {
	t.Helper()
	h := newHistory(t, fewPeople)
	h.rules = withoutRequests(fewPeopleRules)
	for i, sql := range []string{"", "UPDATE posts SET user_id = 8 WHERE id = 6; DELETE FROM posts WHERE id = 306; INSERT INTO posts VALUES (1001, 7, 'late')", "UPDATE users SET name = 'x' WHERE id = 12"} {
		if err := pgtest.Server(t).Exec(context.Background(), h.database(), sql); err != nil {
			t.Fatal(err)
		}
		h.now = time.Now().Add(time.Duration(i-3) * time.Hour) // two of one second would be one in times
		h.backupNow()
	}
	h.recordAll(fewPeopleRules, h.store)
	h.now = time.Now().Add(time.Minute)
	return h
}

func (h *history) purging(signer *archive.SigningKey) pipeline.PurgeConfig {
	h.t.Helper()
	c := h.site.purging(signer, h.faulty)
	c.Workers, c.Now = 1, h.clock
	return c
}

// state is what a store holds, apart from what differs from one sealing to the next.
func (h *history) state(signer *archive.SigningKey) string {
	h.t.Helper()
	var b strings.Builder
	r := h.open(h.operator.Public(), signer.Public())
	digests := map[string]string{}
	for _, name := range manifests(h.t, h.store) {
		id, _ := archive.SnapshotOf(name)
		m := h.manifest(r, id, h.holder)
		digests[id] = "the manifest of " + id
		for _, refs := range [][]archive.SnapshotRef{m.Alive, m.Supersedes} {
			for i := range refs {
				refs[i].Digest = ""
			}
		}
		for i := range m.Parts {
			for _, objects := range [][]archive.Object{m.Parts[i].Objects, m.Parts[i].Filters} {
				for j := range objects {
					objects[j].Object, objects[j].Size = "", 0
				}
			}
			for j := range m.Parts[i].Filters {
				m.Parts[i].Filters[j].Text = 0 // what a filter may know of a piece goes by the piece's sealed size
			}
		}
		text, err := json.Marshal(m)
		if err != nil {
			h.t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n", text)
	}
	check := h.check(r, 1)
	fmt.Fprintf(&b, "%d objects, %d unnamed, problems %v\n", check.Objects, check.Unnamed, check.Problems)
	for _, name := range append(names(h.t, h.store, "expired/"), names(h.t, h.store, "locks/")...) {
		fmt.Fprintf(&b, "%s\n", name)
	}
	for _, name := range names(h.t, h.store, archive.SnapshotsPrefix) {
		fmt.Fprintf(&b, "%s\n", name)
	}
	fmt.Fprintf(&b, "%s\n", h.certified(signer))
	return b.String()
}

// certified is what certificates tell of the requests: each snapshot that was replaced once, whatever killed the purges
// that gave account of it.
func (h *history) certified(signer *archive.SigningKey) string {
	h.t.Helper()
	var b strings.Builder
	for _, ref := range []string{"R-1", "R-2", "R-3"} {
		c := pipeline.CertificateConfig{Ref: ref, Issuer: signer.Public(), Tool: "test"}
		c.Repositories, c.Readers, c.Now = []*pipeline.Repository{h.open(h.operator.Public(), signer.Public())}, h.holder, h.clock
		cert, err := pipeline.Certify(context.Background(), c)
		if err != nil {
			h.t.Fatal(err)
		}
		s := cert.Stores[0]
		if s.Proof != nil {
			s.Proof.Name, s.Proof.Finished, s.Proof.Bytes = "", time.Time{}, 0
		}
		text, err := json.Marshal([]any{ref, cert.State, cert.Unfinished, cert.Tables, cert.LargeObjects, s.Rewritten, s.Expired, s.Kept, s.Source, s.Proof, cert.Purged != nil})
		if err != nil {
			h.t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n", text)
	}
	return b.String()
}

// times is when the listed snapshots began, each once.
func (h *history) times() (list []string) {
	h.t.Helper()
	for _, name := range manifests(h.t, h.store) {
		id, _ := archive.SnapshotOf(name)
		list = append(list, archive.SnapshotTime(id).String())
	}
	return slices.Compact(list)
}

// TestPurgeKilled kills a purge before each of its calls of the store in turn (make soak; otherwise before every sixth: no
// phase takes fewer). Every listed snapshot is whole all the time, none is lost, and the run that follows ends where an
// uninterrupted one does.
func TestPurgeKilled(t *testing.T) {
	start := purgeHistory(t)
	signer := signed(t)
	full := start.copyOf(t)
	calls := 0
	var mu sync.Mutex
	full.faulty.Add(storetest.Rule{Fault: storetest.Call(func(string) error { mu.Lock(); calls++; mu.Unlock(); return nil })})
	report := purge(t, full.purging(signer))
	if len(report.Stores[0].Successors) != 3 || report.Stores[0].Deleted == 0 || report.Plan.Objects == 0 {
		t.Fatalf("%+v", report.Stores[0])
	}
	want := full.state(signer)
	reached := map[string]int{}
	step, first := 6, 1+rand.IntN(6)
	if os.Getenv("LETHE_KILLS") != "" {
		step, first = 1, 1
	}
	t.Logf("killed before call %d and every %dth after it", first, step)
	for n := first; n <= calls; n += step {
		h := start.copyOf(t)
		c := h.purging(signer)
		h.killAt(n)
		// The last two calls take the lease away, which is not worth an error.
		if _, err := pipeline.Purge(context.Background(), c); !errors.Is(err, errKilled) && !(err == nil && n >= calls-1) {
			t.Fatalf("killed at call %d of %d: %v", n, calls, err)
		}
		h.faulty.Heal()
		if check := h.check(h.open(h.operator.Public(), signer.Public()), 1); len(check.Problems) > 0 {
			t.Fatalf("killed at call %d of %d: %v", n, calls, check.Problems)
		}
		if got := h.times(); !slices.Equal(got, start.times()) {
			t.Fatalf("killed at call %d of %d: of the snapshots %v there are %v", n, calls, start.times(), got)
		}
		reached[h.phase(start, signer)]++
		h.now = h.now.Add(11 * time.Minute) // the lease of the killed one runs out
		purge(t, h.purging(signer))
		if got := h.state(signer); got != want {
			t.Fatalf("killed at call %d of %d: the store holds\n%s\nnot\n%s", n, calls, got, want)
		}
	}
	for _, phase := range []string{"nothing", "successors' objects", "a manifest beside the old one", "old manifests gone", "objects gone"} {
		if reached[phase] == 0 {
			t.Errorf("no run was killed with %s", phase)
		}
	}
	t.Logf("%d calls; %v", calls, reached)
}

// phase says how far a killed purge of start has come, by what it has left.
func (h *history) phase(start *history, signer *archive.SigningKey) string {
	h.t.Helper()
	listed, before := manifests(h.t, h.store), manifests(h.t, start.store)
	successors := len(slices.DeleteFunc(slices.Clone(listed), func(name string) bool { return slices.Contains(before, name) }))
	unnamed := h.check(h.open(h.operator.Public(), signer.Public()), 0).Unnamed
	switch {
	case len(listed) > len(before):
		return "a manifest beside the old one"
	case successors == len(before) && unnamed == 0:
		return "objects gone"
	case successors > 0:
		return "old manifests gone"
	case unnamed > 0:
		return "successors' objects"
	}
	return "nothing"
}

// TestPurgeAnswersLost: each call does its work, and its answer is lost.
func TestPurgeAnswersLost(t *testing.T) {
	start := purgeHistory(t)
	signer := signed(t)
	full := start.copyOf(t)
	purge(t, full.purging(signer))
	want := full.state(signer)
	for _, rule := range []storetest.Rule{
		{On: storetest.Put, Name: "objects/", Nth: 1}, {On: storetest.Put, Name: "objects/", Nth: 3},
		{On: storetest.Put, Name: "snapshots/*.minisig", Nth: 1}, {On: storetest.Put, Name: "snapshots/*.age", Nth: 2},
		{On: storetest.Put, Name: "expired/*.age", Nth: 1}, {On: storetest.Delete, Name: "snapshots/*.age", Nth: 1},
		{On: storetest.Delete, Name: "snapshots/*.minisig", Nth: 3}, {On: storetest.Delete, Name: "objects/", Nth: 2}, {On: storetest.Delete, Name: "expired/*.minisig", Nth: 2},
		{On: storetest.Put, Name: "purges/*.minisig", Nth: 1}, {On: storetest.Put, Name: "purges/*.minisig", Nth: 2},
	} {
		t.Run(fmt.Sprintf("%s %s %d", rule.On, strings.ReplaceAll(rule.Name, "/", " "), rule.Nth), func(t *testing.T) {
			h := start.copyOf(t)
			rule.Fault = storetest.FailAfter(errBroken)
			h.faulty.Add(rule)
			// The manifest is the commit, and whether it is there is looked up; other answers that are lost end the run.
			if _, err := pipeline.Purge(context.Background(), h.purging(signer)); !errors.Is(err, errBroken) && rule.Name != "snapshots/*.age" {
				t.Errorf("error %v", err)
			}
			h.faulty.Heal()
			h.now = h.now.Add(11 * time.Minute)
			purge(t, h.purging(signer))
			if got := h.state(signer); got != want {
				t.Errorf("the store holds\n%s\nnot\n%s", got, want)
			}
		})
	}
}
