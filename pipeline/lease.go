package pipeline

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"lethe/pipeline/store"
)

const (
	locksPrefix = "locks/"
	leaseTerm   = 10 * time.Minute
	leaseLimit  = 4 << 10
)

// lease says in a store that a run is under way. It is a file that is never overwritten: renewing writes the next one
// and takes the last away. A lease whose term is over, or whose process on this machine is gone, counts no more, and who
// takes its place deletes it first: so a run whose lease file is gone has lost it. Machines need not agree on the time: by
// the store's own clock, a lease that was put less than a term before ours counts, whatever our clock says.
type lease struct {
	Owner   string    `json:"owner"` // a digest of the machine's name: stores learn no names
	PID     int       `json:"pid"`
	Purpose string    `json:"purpose"`
	Expires time.Time `json:"expires"`
}

// held is a lease that this process keeps alive in one store.
type held struct {
	s     store.Store
	now   func() time.Time
	stop  context.CancelFunc
	done  chan struct{}
	since time.Time // when it was taken, by the store's clock; zero where the store did not list it

	mu    sync.Mutex // also held while the store is asked
	names []string   // of our files that may be there, the one that counts last
	lease lease
	lost  error // from the moment it is known: a lost lease is never taken up again
}

// acquire takes the lease for purpose, or fails with ErrLocked naming what holds the repository.
func acquire(ctx context.Context, s store.Store, purpose string, now func() time.Time) (*held, error) {
	h := &held{s: s, now: now, lease: lease{Owner: machine(), PID: os.Getpid(), Purpose: purpose}, done: make(chan struct{})}
	err := h.put(ctx)
	if err != nil {
		err = fmt.Errorf("take a lease in %s: %w", s, err)
	} else if other, listErr := h.others(ctx); listErr != nil {
		err = listErr
	} else if other != nil {
		until := other.Expires.UTC().Format(time.RFC3339)
		if now().After(other.Expires) {
			until += ", by a clock that differs from this machine's"
		}
		err = &Error{Op: fmt.Sprintf("take the %s lease in %s", purpose, s),
			Err:  &kind{fmt.Errorf("%s run holds it until %s", withArticle(other.Purpose), until), ErrLocked},
			Help: "wait for that run; a run that was killed on another machine lets go by itself at that time"}
	}
	if err != nil {
		_ = h.deleteAll(ctx) // it expires by itself
		return nil, err
	}
	ctx, h.stop = context.WithCancel(context.WithoutCancel(ctx))
	go h.keep(ctx)
	return h, nil
}

// withArticle writes "a backup", "an expire".
func withArticle(purpose string) string {
	if strings.HasPrefix(purpose, "e") {
		return "an " + purpose
	}
	return "a " + purpose
}

// put writes a lease that runs from now. Its name is remembered first: the file may be there although put fails.
func (h *held) put(ctx context.Context) error {
	var b [8]byte
	rand.Read(b[:])
	name := locksPrefix + h.lease.Purpose + "-" + hex.EncodeToString(b[:]) + ".json"
	l := h.lease
	l.Expires = h.now().Add(leaseTerm).UTC()
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	h.names = append([]string{name}, h.names...)
	if err := h.s.Put(ctx, name, data); err != nil {
		return err
	}
	h.names = append(h.names[1:], name)
	h.lease = l
	return nil
}

// others returns a live lease that is not ours, or nil. Dead ones it finds are cleared away; after that it looks again,
// since a run that is slow rather than dead may have renewed its lease in between.
func (h *held) others(ctx context.Context) (*lease, error) {
	for {
		var found []store.Info
		var ours time.Time // when our own was put, by the store's clock
		err := h.s.List(ctx, locksPrefix, func(i store.Info) error {
			if slices.Contains(h.names, i.Name) {
				ours, h.since = i.Modified, i.Modified
			} else {
				found = append(found, i)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list the leases in %s: %w", h.s, err)
		}
		if len(found) == 0 {
			return nil, nil
		}
		for _, i := range found {
			fresh := !ours.IsZero() && !i.Modified.IsZero() && ours.Sub(i.Modified).Abs() < leaseTerm
			data, err := store.ReadAll(ctx, h.s, i.Name, leaseLimit)
			if isNotFound(err) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read a lease in %s: %w", h.s, err)
			}
			var l lease
			if json.Unmarshal(data, &l) == nil && l.alive(h.now(), fresh) {
				return &l, nil
			}
			if err := h.s.Delete(ctx, i.Name); err != nil {
				return nil, fmt.Errorf("clear a dead lease in %s: %w", h.s, err)
			}
		}
	}
}

// idle fails with ErrLocked where a run is under way in the repository, as far as leases tell.
func (r *Repository) idle(ctx context.Context, now time.Time) error {
	var found []store.Info
	err := r.Store.List(ctx, locksPrefix, func(i store.Info) error { found = append(found, i); return nil })
	if err != nil {
		return fmt.Errorf("list the leases in %s: %w", r.Store, err)
	}
	for _, i := range found {
		data, err := store.ReadAll(ctx, r.Store, i.Name, leaseLimit)
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read a lease in %s: %w", r.Store, err)
		}
		var l lease
		if json.Unmarshal(data, &l) == nil && l.alive(now, false) {
			return &Error{Op: "look at what no snapshot names", Err: &kind{fmt.Errorf("%s run is under way", withArticle(l.Purpose)), ErrLocked}, Help: "run it again when that has ended"}
		}
	}
	return nil
}

// alive reports whether a lease counts. fresh is what the store's clock says.
func (l *lease) alive(now time.Time, fresh bool) bool {
	if now.After(l.Expires) && !fresh {
		return false
	}
	if l.Owner != machine() || l.PID == os.Getpid() {
		return true
	}
	return syscall.Kill(l.PID, 0) != syscall.ESRCH
}

func (h *held) keep(ctx context.Context) {
	defer close(h.done)
	tick := time.NewTicker(leaseTerm / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			// A failed renewal is not the end: the lease still runs, and the next tick tries again. The one before the
			// commit decides.
			_ = h.Renew(ctx)
		}
	}
}

// Renew makes the lease run for another term. It fails with ErrLocked where the lease was lost meanwhile: it ran out, or
// another run has taken it away. It is called right before a commit, since a writer that lost its lease must not.
func (h *held) Renew(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lost == nil && !h.now().Before(h.lease.Expires) {
		h.lost = &kind{fmt.Errorf("the lease in %s ran out and could not be renewed", h.s), ErrLocked}
	}
	if h.lost != nil {
		return h.lost
	}
	last := h.names[len(h.names)-1]
	if err := h.there(ctx, last); err != nil {
		return err
	}
	if err := h.put(ctx); err != nil {
		return fmt.Errorf("renew the lease in %s: %w", h.s, err)
	}
	// Who takes the last one for dead either deleted it before now, or will look again and find the new one.
	if err := h.there(ctx, last); err != nil {
		return err
	}
	for len(h.names) > 1 {
		if err := h.s.Delete(ctx, h.names[0]); err != nil {
			break // the next renewal tries again
		}
		h.names = h.names[1:]
	}
	return nil
}

// there makes sure that nobody has taken our lease away.
func (h *held) there(ctx context.Context, name string) error {
	_, err := h.s.Stat(ctx, name)
	if isNotFound(err) {
		h.lost = &kind{fmt.Errorf("another run has taken the lease in %s, as if this one were dead", h.s), ErrLocked}
		return h.lost
	}
	if err != nil {
		return fmt.Errorf("look at the lease in %s: %w", h.s, err)
	}
	return nil
}

// taken returns the error of a lease that another run has taken away, as far as the store can be asked. One that merely
// ran out, and that nobody took, is none.
func (h *held) taken(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.there(ctx, h.names[len(h.names)-1]); errors.Is(err, ErrLocked) {
		return err
	}
	return nil
}

// abortUnfinished takes away what killed writers had not finished when the lease was taken. Of those that need a lease none
// was alive then. Those that need none, a proof's or the lease's of a run that then steps back, take a moment, and can be
// run again.
func (h *held) abortUnfinished(ctx context.Context) (gone int, err error) {
	unfinished, ok := h.s.(store.Unfinished)
	if !ok {
		return 0, nil
	}
	if h.since.IsZero() {
		return 0, fmt.Errorf("%s did not list the lease that was put there, so what is older is not known", h.s)
	}
	if err := h.stands(); err != nil {
		return 0, err
	}
	return unfinished.AbortUnfinished(ctx, h.since)
}

// Release gives the lease back.
func (h *held) Release(ctx context.Context) error {
	h.stop()
	<-h.done
	return h.deleteAll(ctx)
}

// deleteAll takes away every file of ours, also after ctx was cancelled.
func (h *held) deleteAll(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for _, name := range h.names {
		err = errors.Join(err, h.s.Delete(ctx, name))
	}
	return err
}

// machine is a digest of what names this machine, its boot and its process numbers (containers have their own), so that
// a lease of a dead process is known as such, and one of a process that can't be seen from here is not taken for dead.
func machine() string {
	host, _ := os.Hostname()
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	pids, _ := os.Readlink("/proc/self/ns/pid")
	sum := sha256.Sum256([]byte("lethe lease\x00" + host + "\x00" + strings.TrimSpace(string(boot)) + "\x00" + pids))
	return hex.EncodeToString(sum[:8])
}
