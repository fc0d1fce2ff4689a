package pipeline_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/store"
	"lethe/pipeline/store/open"
	"lethe/pipeline/store/storetest"
)

// purgeProcess has this test binary be one purge, ordered on stdin, and nothing else.
const purgeProcess = "LETHE_TEST_PURGE"

// purgeOrder is a purge that is to be killed.
type purgeOrder struct {
	Store, Identity, Signer string
	Trust                   []string
	Now                     time.Time

	At     storeCalls
	Nth    int // 0: it is let alone
	Moment storetest.Moment
	Delay  time.Duration
}

// storeCalls are calls of a store.
type storeCalls struct {
	On   storetest.Op
	Name string // a pattern
}

// killPhases are what a purge does, one after the other, and by which calls of the store.
var killPhases = []struct {
	name  string
	calls []storeCalls
}{
	{"successors", []storeCalls{{storetest.Put, "objects/"}}},
	{"manifest", []storeCalls{{storetest.Put, "snapshots/"}}},
	{"old manifest", []storeCalls{{storetest.Put, "expired/"}, {storetest.Delete, "snapshots/*.age"}}},
	{"old objects", []storeCalls{{storetest.AbortUnfinished, ""}, {storetest.Delete, "objects/"}, {storetest.Delete, "expired/"}}},
	{"old versions", []storeCalls{{storetest.DeleteOld, ""}}}, // in a store that has some
}

// purgeAsOrdered is the process that purges. It returns its exit code, unless it is killed.
func purgeAsOrdered(in io.Reader, out io.Writer) int {
	if err := obeyPurgeOrder(in); err != nil {
		_, _ = fmt.Fprintln(out, err)
		return 1
	}
	return 0
}

func obeyPurgeOrder(in io.Reader) error {
	ctx := context.Background()
	o := &purgeOrder{}
	if err := json.NewDecoder(in).Decode(o); err != nil {
		return err
	}
	var trusted []archive.PublicKey
	for _, text := range o.Trust {
		key, err := archive.ParsePublicKey(text)
		if err != nil {
			return err
		}
		trusted = append(trusted, key)
	}
	signer, err := archive.ParseSigner("signer.key", []byte(o.Signer))
	if err != nil {
		return err
	}
	holder, err := archive.ParseIdentities("key.txt", []byte(o.Identity), nil)
	if err != nil {
		return err
	}
	at, err := open.URL(ctx, o.Store)
	if err != nil {
		return err
	}
	defer at.Close()
	faulty := storetest.NewFaulty(at)
	var through store.Store = faulty
	if versioned, ok := at.(store.Versioned); ok {
		over := storetest.NewFaultyVersioned(versioned)
		faulty, through = over.Faulty, over
	}
	if o.Nth > 0 {
		faulty.Add(storetest.Rule{On: o.At.On, Name: o.At.Name, Nth: o.Nth, Fault: storetest.Kill(o.Moment, o.Delay)})
	}
	r, err := pipeline.OpenRepository(ctx, through, archive.NewTrust(trusted...))
	if err != nil {
		return err
	}
	_, err = pipeline.Purge(ctx, pipeline.PurgeConfig{Repositories: []*pipeline.Repository{r}, Identities: holder, Signer: signer, Workers: 2,
		Tool: "test", Now: func() time.Time { return o.Now }, Confirm: func(context.Context, *pipeline.PurgePlan) error { return nil }})
	return err
}

// killedPurges is stores that are alike, in each of which a purge is killed once.
type killedPurges struct {
	t       *testing.T
	signer  *archive.SigningKey
	start   *history
	copy    func() *killedStore // makes one more such store
	private string              // the signing key, as its file has it

	calls  map[storeCalls]int // of a purge that was let alone
	state  string             // that it ended in
	before map[string]map[string][]string
	after  map[string]map[string][]string // rows of each snapshot, by its time
}

// killedStore is one of them.
type killedStore struct {
	*history
	url     string
	through store.Store // a purge of this process goes through it
	calls   *storetest.Faulty
	left    func() // looks at what else is there after a purge
}

func (s *killedStore) purge(signer *archive.SigningKey) *pipeline.PurgeReport {
	s.t.Helper()
	c := s.site.purging(signer, s.through)
	c.Now = s.clock
	report := purge(s.t, c)
	s.left()
	return report
}

// learn sees how a purge goes that is let alone.
func (k *killedPurges) learn() {
	k.t.Helper()
	k.before = k.start.rowsByTime(k.signer)
	full := k.copy()
	if report := full.purge(k.signer); len(report.Stores[0].Successors) != len(k.before) || report.Stores[0].Deleted == 0 || report.Plan.Objects == 0 {
		k.t.Fatalf("%+v", report.Stores[0])
	}
	k.calls = map[storeCalls]int{}
	for _, phase := range killPhases {
		for _, c := range phase.calls {
			if _, ok := full.store.(store.Unfinished); ok || c.On != storetest.AbortUnfinished { // what a store does not do, nothing is killed in
				k.calls[c] = len(full.calls.Calls(c.On, c.Name))
			}
		}
	}
	k.after, k.state = full.rowsByTime(k.signer), full.state(k.signer)+full.verified(k.signer)
}

// kill kills a purge in a phase, and looks at what it has left; then it purges again, and compares.
func (k *killedPurges) kill(phase string, at storeCalls, random *rand.Rand) {
	k.t.Helper()
	h := k.copy()
	order := purgeOrder{Store: h.url, Identity: h.private, Signer: k.private, Trust: []string{h.operator.Public().String(), k.signer.Public().String()}, Now: h.now,
		At: at, Nth: 1 + random.IntN(k.calls[at]), Moment: []storetest.Moment{storetest.Before, storetest.Amid, storetest.After}[random.IntN(3)],
		Delay: time.Duration(1+random.IntN(3000)) * time.Microsecond}
	what := fmt.Sprintf("killed in the phase %q, %s %s %d of %s", phase, order.Moment, order.At.On, order.Nth, cmp.Or(order.At.Name, "any"))
	if out, err := k.process(order); !diedBySIGKILL(err) {
		k.t.Fatalf("%s: %v: %s", what, err, out)
	}

	listed := manifests(k.t, h.store)
	for _, name := range listed {
		id, _ := archive.SnapshotOf(name)
		want := k.after
		if slices.Contains(manifests(k.t, k.start.store), name) {
			want = k.before
		}
		if got := h.rowsIn(h.store, id, k.signer.Public()); !maps.EqualFunc(got, want[archive.SnapshotTime(id).String()], slices.Equal) {
			k.t.Fatalf("%s: snapshot %s restores to other rows", what, id)
		}
	}
	if got := h.times(); !slices.Equal(got, k.start.times()) {
		k.t.Fatalf("%s: of the snapshots %v there are %v", what, k.start.times(), got)
	}
	if check := h.check(h.open(h.operator.Public(), k.signer.Public()), 1); len(check.Problems) > 0 {
		k.t.Fatalf("%s: %v", what, check.Problems)
	}

	h.now = h.now.Add(11 * time.Minute) // the lease of the killed one has run out
	h.purge(k.signer)
	if got := h.state(k.signer) + h.verified(k.signer); got != k.state {
		got, want := apart(strings.SplitAfter(got, "\n"), strings.SplitAfter(k.state, "\n"))
		k.t.Fatalf("%s: the store holds\n%.2000s\nnot\n%.2000s", what, got, want)
	}
	for at, got := range h.rowsByTime(k.signer) {
		if !maps.EqualFunc(got, k.after[at], slices.Equal) {
			k.t.Fatalf("%s: purged again, the snapshot of %s restores to other rows", what, at)
		}
	}
}

// process runs a purge as a process of its own.
func (k *killedPurges) process(order purgeOrder) (out []byte, err error) {
	k.t.Helper()
	text, err := json.Marshal(order)
	if err != nil {
		k.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		k.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Stdin, cmd.Env = bytes.NewReader(text), append(os.Environ(), purgeProcess+"=1")
	return cmd.CombinedOutput()
}

func diedBySIGKILL(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// rounds kills a purge in each of these phases in turn, and counts.
func (k *killedPurges) rounds(n int, random *rand.Rand, phases int) {
	k.t.Helper()
	k.learn()
	hit := map[string]int{}
	for round := range n {
		phase := killPhases[round%phases]
		calls := slices.DeleteFunc(slices.Clone(phase.calls), func(c storeCalls) bool { return k.calls[c] == 0 })
		if len(calls) == 0 {
			k.t.Fatalf("a purge does nothing in the phase %q", phase.name)
		}
		k.kill(phase.name, calls[random.IntN(len(calls))], random)
		hit[phase.name]++
	}
	for _, phase := range killPhases[:phases] {
		k.t.Logf("%-12s  %d killed", phase.name, hit[phase.name])
		if hit[phase.name] < max(1, n/phases) {
			k.t.Errorf("too few purges were killed in the phase %q", phase.name)
		}
	}
}

// rowsByTime is what each listed snapshot restores to.
func (h *history) rowsByTime(signer *archive.SigningKey) map[string]map[string][]string {
	h.t.Helper()
	all := map[string]map[string][]string{}
	for _, name := range manifests(h.t, h.store) {
		id, _ := archive.SnapshotOf(name)
		all[archive.SnapshotTime(id).String()] = h.rowsIn(h.store, id, signer.Public())
	}
	return all
}

// verified is what a full reading says: the proof, apart from what differs from one reading to the next.
func (h *history) verified(signer *archive.SigningKey) string {
	h.t.Helper()
	c := h.verifying(signer, h.store)
	c.Now = h.clock
	report := verify(h.t, c)
	if len(report.Findings) > 0 || report.Proof == "" {
		h.t.Fatalf("%+v", report)
	}
	report.Proof, report.Store, report.Bytes = "", "", 0
	text, err := json.Marshal(report)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text) + "\n" + h.certified(signer)
}

func newKilledPurges(t *testing.T, start *history) *killedPurges {
	k := &killedPurges{t: t, signer: signed(t), start: start}
	k.private = k.signer.Text(time.Now())
	return k
}

// TestPurgeProcessKilled kills the process of a purge (kill -9) at a call of the store that the seed picks, in each of its
// phases. Whatever is listed restores then, none is lost, and the purge that follows ends where one does that was let
// alone, with the same proof.
func TestPurgeProcessKilled(t *testing.T) {
	const phases = 4
	n, random := storetest.Rounds(t, phases)
	k := newKilledPurges(t, purgeHistory(t))
	k.copy = func() *killedStore {
		h := k.start.copyOf(t)
		return &killedStore{history: h, url: h.path, through: h.faulty, calls: h.faulty, left: func() {
			if left := h.unfinished(); len(left) > 0 {
				t.Fatalf("of what was not finished there is %q", left)
			}
		}}
	}
	k.rounds(n, random, phases)
}

// TestPurgeOfVersionsKilled is TestPurgeProcessKilled in a bucket that keeps versions, also of what expired before. None of
// them is left.
func TestPurgeOfVersionsKilled(t *testing.T) {
	phases := len(killPhases)
	n, random := storetest.Rounds(t, phases)
	ctx := context.Background()
	server := keepsVersions(t)
	start := purgeHistory(t)
	gone := map[string][]byte{}
	for _, name := range names(t, start.store, "") {
		gone[name] = start.read(name)
	}
	start.expire(pipeline.Retention{KeepMin: 2})
	k := newKilledPurges(t, start)
	k.copy = func() *killedStore {
		in, bucket := versionsOf(t, server)
		there := names(t, start.store, "")
		for _, name := range there {
			if err := in.Put(ctx, name, start.read(name)); err != nil {
				t.Fatal(err)
			}
		}
		for name, data := range gone {
			if slices.Contains(there, name) {
				continue
			}
			if err := errors.Join(in.Put(ctx, name, data), in.Delete(ctx, name)); err != nil {
				t.Fatal(err)
			}
		}
		h := *start
		h.site = start.elsewhere(t, in, "")
		through := storetest.NewFaultyVersioned(clockedVersions{&clocked{Store: in, now: h.clock, put: map[string]time.Time{}}, in})
		return &killedStore{history: &h, url: server.URL(bucket, "x"), through: through, calls: through.Faulty, left: func() {
			for _, prefix := range []string{archive.ObjectsPrefix, archive.SnapshotsPrefix, "expired/"} {
				if n, err := server.Versions(ctx, bucket, "x/"+prefix); err != nil || n != len(names(t, in, prefix)) {
					t.Fatalf("%d versions below %s, %v; %d files are there", n, prefix, err, len(names(t, in, prefix)))
				}
			}
		}}
	}
	k.rounds(n, random, phases)
}

// clockedVersions is clocked over a store that keeps versions.
type clockedVersions struct {
	*clocked
	versions store.Versioned
}

func (c clockedVersions) DeleteOld(ctx context.Context, prefix string) (int, []store.Kept, error) {
	return c.versions.DeleteOld(ctx, prefix)
}

func (c clockedVersions) Old(ctx context.Context, prefix string, found func(put time.Time)) error {
	return c.versions.Old(ctx, prefix, found)
}
