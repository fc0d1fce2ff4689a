package pipeline

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
)

// Retention says which snapshots expire keeps. A snapshot that either rule keeps stays, and so does the newest, always.
type Retention struct {
	KeepWithin time.Duration // keeps what began less than this ago; 0: age alone keeps nothing
	KeepMin    int           // keeps this many, the newest ones, however old they are
}

// Empty reports whether nothing was decided; the zero Retention is no order to delete everything.
func (r Retention) Empty() bool { return r.KeepWithin <= 0 && r.KeepMin <= 0 }

// Verdict is what a Retention says of one snapshot.
type Verdict struct {
	Snapshot string    `json:"snapshot"`
	Started  time.Time `json:"started"` // to the second, as the id tells
	Keep     bool      `json:"keep"`
	Reason   string    `json:"reason"`
}

// Decide says of each snapshot whether it stays, and why: oldest first. Of two snapshots the newer one never goes while
// the older stays. It looks at ids alone.
func (r Retention) Decide(ids []string, now time.Time) []Verdict {
	ids = slices.Sorted(slices.Values(ids)) // ids sort by time
	verdicts := make([]Verdict, len(ids))
	for i, id := range ids {
		began := archive.SnapshotTime(id) // what is no id is as old as can be
		newer := len(ids) - 1 - i
		v := Verdict{Snapshot: id, Started: began, Keep: true}
		within := r.KeepWithin > 0 && now.Sub(began) < r.KeepWithin
		switch {
		case newer == 0:
			v.Reason = "the newest"
		case within:
			v.Reason = "younger than " + Period(r.KeepWithin)
		case newer < r.KeepMin:
			v.Reason = fmt.Sprintf("one of the newest %d", r.KeepMin)
		default:
			v.Keep = false
			var why []string
			if r.KeepWithin > 0 {
				why = append(why, "not younger than "+Period(r.KeepWithin))
			}
			if r.KeepMin > 1 {
				why = append(why, fmt.Sprintf("not one of the newest %d", r.KeepMin))
			}
			if why == nil {
				why = []string{"not the newest"}
			}
			v.Reason = strings.Join(why, ", ")
		}
		verdicts[i] = v
	}
	return verdicts
}

// Period writes a duration as lethe.yml does: 7d, 6h30m.
func Period(d time.Duration) string {
	const day = 24 * time.Hour
	s := ""
	if d >= day {
		s = fmt.Sprintf("%dd", d/day)
		d %= day
	}
	if d == 0 && s != "" {
		return s
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return s + text
}

// What expire takes for a clock that is wrong, and for a left-over.
const (
	futureLimit   = time.Hour      // how far in the future a snapshot may begin: the database's clock is not ours
	storeLimit    = 24 * time.Hour // how far the store's clock may be from ours: more than a wrong time zone
	leftoverLimit = 24 * time.Hour // how long an interrupted run's objects are surely left alone
	deleteLimit   = leaseTerm / 2  // how long one object's deletion may go on; it begins only while the lease runs on for longer
)

// expiredPrefix is where the manifest of a snapshot that goes stands until its objects are gone: the snapshot is no longer
// listed, and a run that is killed leaves behind what names the objects that the next one has to delete. The signature
// beside it is the manifest's own, so it is verified under the name it was made for.
const expiredPrefix = "expired/"

func expiredName(id string) string { return expiredPrefix + id + ".age" }

// ExpireConfig is what expire needs.
type ExpireConfig struct {
	Repositories []*Repository
	Unreachable  []StoreResult       // stores that could not be opened
	Readers      *archive.Identities // open manifests: the operator's, or a key holder's
	Retention    Retention
	Leftovers    bool // also delete objects older than a day that no manifest names, and what killed runs had not finished
	DryRun       bool // decide and say, delete nothing, take no lease
	Workers      int  // objects deleted at a time
	Now          func() time.Time
	Progress     func(Progress) // may be nil
	Warn         func(string)   // may be nil
}

// ExpireReport says what expire did, or after a dry run would do.
type ExpireReport struct {
	DryRun bool          `json:"dry_run"`
	Stores []StoreExpiry `json:"stores"`
}

// StoreExpiry is what expire did in one store.
type StoreExpiry struct {
	Store     string    `json:"store"`
	Error     string    `json:"error,omitempty"`
	Snapshots []Verdict `json:"snapshots"` // oldest first; what is to go has not gone where there is an error
	Removed   int       `json:"removed"`   // snapshots that are not listed any more
	Resumed   int       `json:"resumed"`   // snapshots that an interrupted run had taken from the list already
	Objects   int       `json:"objects"`   // deleted
	Bytes     int64     `json:"bytes"`     // of those
	Leftovers int       `json:"leftovers"` // of those objects, the ones that no manifest named

	Unfinished int `json:"unfinished"` // files that killed runs had not put yet, and that went; not counted in a dry run
}

// Failed returns how many stores failed.
func (r *ExpireReport) Failed() (n int) {
	for _, s := range r.Stores {
		if s.Error != "" {
			n++
		}
	}
	return n
}

// Expire deletes the snapshots that retention no longer keeps, in one store after the other, and the objects that only
// they name.
//
// It deletes nothing in a store one of whose manifests can't be read or believed, whose clock or newest snapshot does not
// agree with ours, or which hides a snapshot that would be kept. In each store it holds the lease, so that no backup
// runs there meanwhile. Killed anywhere, it leaves every listed snapshot whole, and the next run ends its work.
//
// The error is that of a store whose integrity fails, else of one that another run holds, else, where none could be
// served, of the first; the report says what was done all the same, unless it is nil. Where some stores fail in another
// way the report alone tells.
func Expire(ctx context.Context, c ExpireConfig) (*ExpireReport, error) {
	if c.Retention.Empty() {
		return nil, fail(configuration(errors.New("nothing says what to keep")),
			"add `retention: {keep_within: 7d, keep_min: 1}` to lethe.yml", "expire")
	}
	report := &ExpireReport{DryRun: c.DryRun, Stores: []StoreExpiry{}}
	var errs []error
	for _, r := range c.Repositories {
		out := StoreExpiry{Store: r.Store.String(), Snapshots: []Verdict{}}
		err := fail(c.expire(ctx, r, &out), "", "expire %s", r.Store)
		if ctx.Err() != nil && err != nil {
			if !c.DryRun && out.Removed > 0 {
				err = fail(&kind{err, ErrLeftBehind}, "run lethe expire again: it ends what this run has begun; every listed snapshot is whole", "interrupted")
			}
			return nil, err
		}
		if err != nil {
			out.Error = err.Error()
			errs = append(errs, err)
		}
		report.Stores = append(report.Stores, out)
	}
	for _, u := range c.Unreachable {
		report.Stores = append(report.Stores, StoreExpiry{Store: u.Store, Error: u.Error, Snapshots: []Verdict{}})
	}
	for _, sentinel := range []error{ErrIntegrity, ErrLocked} {
		for _, err := range errs {
			if errors.Is(err, sentinel) {
				return report, err
			}
		}
	}
	if len(errs) > 0 && len(errs) == len(c.Repositories) {
		return report, errs[0]
	}
	return report, nil
}

// expire is the whole way in one store.
func (c *ExpireConfig) expire(ctx context.Context, r *Repository, out *StoreExpiry) error {
	if c.DryRun {
		p, err := c.plan(ctx, r, out)
		if err == nil {
			p.promise(out)
		}
		return err
	}
	lease, err := acquire(ctx, r.Store, "expire", c.Now)
	if err != nil {
		return err
	}
	defer func() {
		if err := lease.Release(ctx); err != nil && c.Warn != nil {
			c.Warn(fmt.Sprintf("the lease in %s stays until it runs out: %v", r.Store, err))
		}
	}()
	if err := c.sameClock(ctx, lease); err != nil {
		return err
	}
	p, err := c.plan(ctx, r, out) // everything is read and believed before anything is deleted
	if err != nil {
		return err
	}
	if err := lease.Renew(ctx); err != nil {
		return err
	}
	for _, id := range p.goes { // the oldest first
		if err := r.retire(ctx, id, lease); err != nil {
			return err
		}
		out.Removed++
	}
	if err := p.nothingNew(ctx); err != nil {
		return err
	}
	if err := c.deleteObjects(ctx, p, lease, out); err != nil {
		return err
	}
	if c.Leftovers {
		if out.Unfinished, err = lease.abortUnfinished(ctx); err != nil {
			return err
		}
	}
	return p.forget(ctx)
}

// sameClock compares our clock with the store's, by the lease that was just written: a clock that jumped ahead would make
// every snapshot old.
func (c *ExpireConfig) sameClock(ctx context.Context, h *held) error {
	h.mu.Lock()
	name := h.names[len(h.names)-1]
	h.mu.Unlock()
	info, err := h.s.Stat(ctx, name)
	if err != nil {
		return fmt.Errorf("look at the lease in %s: %w", h.s, err)
	}
	now := c.Now()
	if d := now.Sub(info.Modified).Abs(); !info.Modified.IsZero() && d > storeLimit {
		return &Error{Op: "compare clocks", Err: fmt.Errorf("it is %s here and %s in the store, so no age can be believed",
			now.UTC().Format(time.RFC3339), info.Modified.UTC().Format(time.RFC3339)), Help: "set the clock that is wrong; nothing was deleted"}
	}
	return nil
}

// objectID is an object's digest: the sets of them are large.
type objectID [32]byte

// String returns the digest as manifests write it: 64 hexadecimal digits.
func (id objectID) String() string { return hex.EncodeToString(id[:]) }

func idOf(object string) (id objectID, err error) {
	if n, err := hex.Decode(id[:], []byte(object)); err != nil || n != len(id) {
		return id, integrity(fmt.Errorf("object %q is not named by a digest", object))
	}
	return id, nil
}

// expiry is what is to be done in one store.
type expiry struct {
	r        *Repository
	kept     map[string]bool       // snapshots that stay
	goes     []string              // snapshots that go, oldest first
	moved    []string              // snapshots whose manifests stand in expired/ when a run begins
	strays   []string              // files in expired/ without use
	named    map[objectID]struct{} // objects that a kept manifest names
	doomed   map[objectID]int64    // objects that only those that go name, with their size
	leftover map[objectID]int64    // objects that nothing names
}

// plan reads every manifest and decides. It writes nothing.
func (c *ExpireConfig) plan(ctx context.Context, r *Repository, out *StoreExpiry) (*expiry, error) {
	list, err := r.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	now := c.Now()
	ids := idsOf(list)
	if err := notInTheFuture(ids, now); err != nil {
		return nil, err
	}
	p := &expiry{r: r, kept: map[string]bool{}, named: map[objectID]struct{}{}, doomed: map[objectID]int64{}, leftover: map[objectID]int64{}}
	if out.Snapshots, err = c.decide(ctx, r, ids, now); err != nil {
		return nil, err
	}
	digests := map[string]string{}
	var newest *archive.Manifest
	for _, v := range out.Snapshots {
		m, digest, err := r.manifestUnder(ctx, archive.ManifestName(v.Snapshot), v.Snapshot, c.Readers)
		if err != nil {
			return nil, err
		}
		newest, digests[v.Snapshot] = m, digest
		if v.Keep {
			p.kept[v.Snapshot] = true
		} else {
			p.goes = append(p.goes, v.Snapshot)
		}
		if err := p.take(m, v.Keep); err != nil {
			return nil, err
		}
	}
	if err := p.earlier(ctx, c.Readers); err != nil {
		return nil, err
	}
	if newest != nil {
		purged, err := r.purged(ctx, newest, ids, c.Readers)
		if err != nil {
			return nil, err
		}
		if problems := c.Retention.betrayals(newest, digests, append(purged, p.moved...), now); len(problems) > 0 {
			return nil, problems[0].asError()
		}
	}
	for id := range p.named {
		delete(p.doomed, id)
	}
	out.Resumed = len(p.moved)
	if c.Leftovers {
		err = p.findLeftovers(ctx, now)
	}
	return p, err
}

// decide is Retention.Decide, where a snapshot whose successor is there goes whatever its age.
func (c *ExpireConfig) decide(ctx context.Context, r *Repository, ids []string, now time.Time) ([]Verdict, error) {
	by, err := r.superseded(ctx, ids, c.Readers)
	if err != nil {
		return nil, err
	}
	verdicts := c.Retention.Decide(slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return by[id] != "" }), now)
	for old, next := range by {
		verdicts = append(verdicts, Verdict{Snapshot: old, Started: archive.SnapshotTime(old), Reason: "purged: " + next + " has taken its place"})
	}
	slices.SortFunc(verdicts, func(a, b Verdict) int { return strings.Compare(a.Snapshot, b.Snapshot) })
	return verdicts, nil
}

func idsOf(list []Listed) []string {
	ids := make([]string, len(list))
	for i, l := range list {
		ids[i] = l.ID
	}
	return ids
}

// notInTheFuture refuses to judge ages where the newest snapshot, the last of ids, is yet to come.
func notInTheFuture(ids []string, now time.Time) error {
	if len(ids) == 0 {
		return nil
	}
	newest := ids[len(ids)-1]
	if t := archive.SnapshotTime(newest); t.Sub(now) > futureLimit {
		return &Error{Op: "compare clocks", Err: fmt.Errorf("snapshot %s lies in the future: it is %s here", newest, now.UTC().Format(time.RFC3339)),
			Help: "set the clock that is wrong, this machine's or the database server's, or wait; nothing was deleted"}
	}
	return nil
}

// manifestUnder reads a snapshot's manifest from the file of this name: signature first, then decryption. It also returns
// the file's digest.
func (r *Repository) manifestUnder(ctx context.Context, file, id string, ids *archive.Identities) (*archive.Manifest, string, error) {
	name := archive.ManifestName(id)
	data, _, err := r.signedManifest(ctx, file, id)
	if err != nil {
		return nil, "", fail(err, "", "read the manifest of %s", id)
	}
	m, err := archive.ReadManifest(name, data, ids, archive.Limits{})
	return m, archive.Digest(data), fail(err, "", "read the manifest of %s", id)
}

// signedManifest returns a manifest as it is stored under file, and its signature, which holds.
func (r *Repository) signedManifest(ctx context.Context, file, id string) (data, sig []byte, err error) {
	if data, err = store.ReadAll(ctx, r.Store, file, maxManifest); err != nil {
		return nil, nil, err
	}
	sig, err = store.ReadAll(ctx, r.Store, file+archive.SignatureSuffix, maxSmall)
	if isNotFound(err) {
		return nil, nil, &Error{Op: file, Err: integrity(errors.New("it has no signature")), Help: "another store may hold a good copy"}
	}
	if err != nil {
		return nil, nil, err
	}
	_, err = r.trust.Verify(archive.PurposeManifest, r.ID, archive.ManifestName(id), data, sig)
	return data, sig, err
}

// take notes the objects that a manifest names, filters included.
func (p *expiry) take(m *archive.Manifest, keep bool) error {
	if keep {
		return noteNamed(p.named, m)
	}
	for i := range m.Parts {
		for _, objects := range [][]archive.Object{m.Parts[i].Objects, m.Parts[i].Filters} {
			for _, o := range objects {
				id, err := idOf(o.Object)
				if err != nil {
					return err
				}
				p.doomed[id] = o.Size
			}
		}
	}
	return nil
}

// earlier takes up what an interrupted run has left in expired/.
func (p *expiry) earlier(ctx context.Context, ids *archive.Identities) error {
	files := map[string]bool{}
	err := p.r.Store.List(ctx, expiredPrefix, func(i store.Info) error { files[strings.TrimPrefix(i.Name, expiredPrefix)] = true; return nil })
	if err != nil {
		return fmt.Errorf("list what an earlier run left: %w", err)
	}
	for file := range files {
		id, isManifest := strings.CutSuffix(file, ".age")
		signed, isSignature := strings.CutSuffix(file, ".age"+archive.SignatureSuffix)
		switch {
		case isManifest && archive.ValidSnapshotID(id) && (p.kept[id] || slices.Contains(p.goes, id)):
			// The run was killed before it took the snapshot from the list. If it goes now it is written again.
			if p.kept[id] {
				p.strays = append(p.strays, expiredPrefix+file, expiredPrefix+file+archive.SignatureSuffix)
			}
		case isManifest && archive.ValidSnapshotID(id):
			if err := p.r.reallyGone(ctx, id); err != nil {
				return err
			}
			m, _, err := p.r.manifestUnder(ctx, expiredName(id), id, ids)
			if err != nil {
				return fail(err, "if it is damaged, delete the file: the objects that it alone names then stay until lethe expire --leftovers",
					"take up %s, which an interrupted run has left", expiredName(id))
			}
			p.moved = append(p.moved, id)
			if err := p.take(m, false); err != nil {
				return err
			}
		case isSignature && archive.ValidSnapshotID(signed) && !files[signed+".age"]:
			p.strays = append(p.strays, expiredPrefix+file)
		}
	}
	return nil
}

// reallyGone makes sure that a snapshot which the store does not list is not there: a list that leaves out one which is
// must not cost it its objects.
func (r *Repository) reallyGone(ctx context.Context, id string) error {
	if _, err := r.Store.Stat(ctx, archive.ManifestName(id)); err == nil {
		return &Error{Op: "list the snapshots", Err: integrity(fmt.Errorf("snapshot %s is there, and the store does not list it", id)),
			Help: "run it again; nothing was deleted"}
	} else if !isNotFound(err) {
		return fmt.Errorf("look whether %s is gone: %w", id, err)
	}
	return nil
}

// expiring lists the snapshots that are on their way out.
func (r *Repository) expiring(ctx context.Context) (ids []string, err error) {
	err = r.Store.List(ctx, expiredPrefix, func(i store.Info) error {
		id, ok := strings.CutSuffix(strings.TrimPrefix(i.Name, expiredPrefix), ".age")
		if ok && archive.ValidSnapshotID(id) {
			ids = append(ids, id)
		}
		return nil
	})
	return ids, err
}

// betrayals is what the newest manifest knows better than the store: a snapshot beside it whose manifest is now another
// one, or which is gone although retention keeps it. Snapshots that expired are gone for a good reason. moved are those
// that are expiring just now, or that a purge has given a successor.
func (r Retention) betrayals(newest *archive.Manifest, digests map[string]string, moved []string, now time.Time) (problems []Problem) {
	ids, gone := []string{}, map[string]bool{}
	for id := range digests {
		ids = append(ids, id)
	}
	for _, ref := range newest.Alive {
		digest, listed := digests[ref.ID]
		switch {
		case listed && digest != ref.Digest:
			problems = append(problems, Problem{Snapshot: ref.ID, Problem: "its manifest is not the one that " + newest.ID + " knows: the store has swapped it"})
		case !listed && !slices.Contains(moved, ref.ID):
			gone[ref.ID] = true
			ids = append(ids, ref.ID)
		}
	}
	if r.Empty() {
		return problems
	}
	for _, v := range r.Decide(ids, now) {
		if v.Keep && gone[v.Snapshot] {
			problems = append(problems, Problem{Snapshot: v.Snapshot, Problem: newest.ID + " knows it, and retention keeps it (" + v.Reason +
				"), but the store does not list it: somebody deleted it, or the store hides it"})
		}
	}
	return problems
}

// asError is a problem that stops a flow.
func (p Problem) asError() error {
	return &Error{Op: "snapshot " + p.Snapshot, Err: integrity(errors.New(p.Problem)),
		Help: "another store may hold a good copy. If you deleted it yourself, or have just changed retention, take a new snapshot: it knows what is there now"}
}

// findLeftovers lists the objects that nothing names and that have been there for longer than a run may take.
func (p *expiry) findLeftovers(ctx context.Context, now time.Time) error {
	list, err := p.r.unnamed(ctx, p.named)
	for id, i := range list {
		if _, doomed := p.doomed[id]; !doomed && !i.Modified.IsZero() && now.Sub(i.Modified) > leftoverLimit {
			p.leftover[id] = i.Size
		}
	}
	return err
}

// promise counts what would be deleted.
func (p *expiry) promise(out *StoreExpiry) {
	out.Removed = len(p.goes)
	out.Leftovers = len(p.leftover)
	out.Objects = len(p.doomed) + len(p.leftover)
	for _, objects := range []map[objectID]int64{p.doomed, p.leftover} {
		for _, size := range objects {
			out.Bytes += size
		}
	}
}

// retire takes a snapshot from the list: its manifest moves to expired/. What names the objects is there at every moment.
func (r *Repository) retire(ctx context.Context, id string, lease *held) error {
	name := archive.ManifestName(id)
	data, sig, err := r.signedManifest(ctx, name, id)
	if err != nil {
		return fail(err, "", "read the manifest of %s", id)
	}
	if err := r.putExpiring(ctx, id, data, sig, lease); err != nil {
		return err
	}
	if err := lease.stands(); err != nil {
		return err
	}
	if err := r.Store.Delete(ctx, name); err != nil {
		return err
	}
	return r.Store.Delete(ctx, name+archive.SignatureSuffix)
}

// putExpiring writes the manifest of a snapshot that goes into expired/, its signature first. What an earlier try has left
// there gives way: the objects are still named from elsewhere.
func (r *Repository) putExpiring(ctx context.Context, id string, data, sig []byte, lease *held) error {
	for _, f := range []struct {
		suffix string
		data   []byte
	}{{archive.SignatureSuffix, sig}, {"", data}} {
		if err := lease.stands(); err != nil {
			return err
		}
		if err := r.putAnew(ctx, expiredName(id)+f.suffix, f.data); err != nil {
			return err
		}
	}
	return nil
}

// nothingNew looks, with the snapshots that go already gone, whether the list is what the plan knows: whoever writes
// snapshots without a lease, such as a copy that is under way, may need the very objects that are to go.
func (p *expiry) nothingNew(ctx context.Context) error {
	list, err := p.r.Snapshots(ctx)
	if err != nil {
		return err
	}
	for _, l := range list {
		if slices.Contains(p.goes, l.ID) {
			return &Error{Op: "delete objects", Err: fmt.Errorf("snapshot %s is still listed after it was deleted", l.ID), Help: "run it again; no object was deleted"}
		}
		if !p.kept[l.ID] {
			return &Error{Op: "delete objects", Err: &kind{fmt.Errorf("snapshot %s has come to be meanwhile, so something writes here without a lease", l.ID), ErrLocked},
				Help: "run it again when the copy that is under way has ended; no object was deleted"}
		}
	}
	return nil
}

func (c *ExpireConfig) deleteObjects(ctx context.Context, p *expiry, lease *held, out *StoreExpiry) error {
	for _, objects := range []map[objectID]int64{p.doomed, p.leftover} {
		err := deleteObjects(ctx, p.r, lease, c.Workers, objects, func(id objectID, size int64) {
			out.Objects++
			out.Bytes += size
			if _, leftover := p.leftover[id]; leftover {
				out.Leftovers++
			}
			if c.Progress != nil {
				c.Progress(Progress{Stage: "deleting objects", Bytes: out.Bytes})
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// deleteObjects deletes objects, several at a time, as long as the lease stands. It tells of each that is gone, of one at
// a time.
func deleteObjects(ctx context.Context, r *Repository, lease *held, workers int, objects map[objectID]int64, gone func(id objectID, size int64)) error {
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(workers, 1))
	for id, size := range objects {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			if err := lease.standsFor(deleteLimit); err != nil {
				return err
			}
			// One that is tried again and again must not hit when another run may count on the object.
			ctx, cancel := context.WithTimeout(ctx, deleteLimit)
			defer cancel()
			if err := r.Store.Delete(ctx, archive.ObjectName(id.String())); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			gone(id, size)
			return nil
		})
	}
	return group.Wait()
}

// forget ends it: with their objects gone, what stands in expired/ has served.
func (p *expiry) forget(ctx context.Context) error {
	for _, id := range append(slices.Clone(p.goes), p.moved...) {
		// The signature last: without its manifest it is known as a stray.
		for _, name := range []string{archive.ManifestName(id) + archive.SignatureSuffix, expiredName(id), expiredName(id) + archive.SignatureSuffix} {
			if err := p.r.Store.Delete(ctx, name); err != nil {
				return err
			}
		}
	}
	for _, name := range p.strays {
		if err := p.r.Store.Delete(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// standsFor makes sure, without asking the store, that the lease has not been lost and runs on for this long.
func (h *held) standsFor(d time.Duration) error {
	if err := h.stands(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.now().Add(d).After(h.lease.Expires) {
		return &kind{fmt.Errorf("the lease in %s could not be renewed, and runs out soon", h.s), ErrLocked}
	}
	return nil
}

// stands makes sure, without asking the store, that the lease has not been lost and has not run out.
func (h *held) stands() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lost == nil && !h.now().Before(h.lease.Expires) {
		h.lost = &kind{fmt.Errorf("the lease in %s ran out and could not be renewed", h.s), ErrLocked}
	}
	return h.lost
}
