package storetest

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"lethe/pipeline/store"
)

// Moment is when, of a call, a process is killed.
type Moment string

const (
	Before Moment = "before"
	Amid   Moment = "amid"
	After  Moment = "after"
)

// Kill kills the process that makes the call, as kill -9 does: nothing of it runs any more. Amid a call means delay after
// its beginning, or once it is done if that comes first. It is for Put, Delete, DeleteOld and AbortUnfinished.
func Kill(m Moment, delay time.Duration) Fault {
	switch m {
	case Before:
		return Call(func(string) error { die(); return nil })
	case Amid:
		return Fault{amid: delay, kills: true}
	}
	return Fault{kills: true}
}

func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // until it has arrived
}

// do does a call of the store beneath, and dies in it or after it where a fault says so.
func do(faults []Fault, call func() error) error {
	kills := false
	for _, f := range faults {
		if f.amid > 0 {
			time.AfterFunc(f.amid, die)
		}
		kills = kills || f.kills
	}
	err := call()
	if kills {
		die()
	}
	return err
}

// DeleteOld is a method of store.Versioned; a rule matches the prefix as its name.
const DeleteOld Op = "delete old versions"

// FaultyVersioned is Faulty over a store that may keep what was deleted.
type FaultyVersioned struct {
	*Faulty
	beneath store.Versioned
}

var _ store.Versioned = FaultyVersioned{}

// NewFaultyVersioned is NewFaulty for such a store.
func NewFaultyVersioned(beneath store.Versioned, rules ...Rule) FaultyVersioned {
	return FaultyVersioned{NewFaulty(beneath, rules...), beneath}
}

func (f FaultyVersioned) DeleteOld(ctx context.Context, prefix string) (gone int, kept []store.Kept, err error) {
	faults, err := f.begin(ctx, DeleteOld, prefix)
	if err != nil {
		return 0, nil, err
	}
	err = do(faults, func() (err error) { gone, kept, err = f.beneath.DeleteOld(ctx, prefix); return err })
	return gone, kept, f.end(DeleteOld, prefix, faults, err)
}

// Old has no faults.
func (f FaultyVersioned) Old(ctx context.Context, prefix string, found func(put time.Time)) error {
	return f.beneath.Old(ctx, prefix, found)
}

// AbortUnfinished is a method of store.Unfinished; it has no name.
const AbortUnfinished Op = "remove unfinished files"

var _ store.Unfinished = (*Faulty)(nil)

// AbortUnfinished leaves nothing behind over a store that leaves nothing.
func (f *Faulty) AbortUnfinished(ctx context.Context, before time.Time) (gone int, err error) {
	faults, err := f.begin(ctx, AbortUnfinished, "")
	if err != nil {
		return 0, err
	}
	if beneath, ok := f.beneath.(store.Unfinished); ok {
		err = do(faults, func() (err error) { gone, err = beneath.AbortUnfinished(ctx, before); return err })
	}
	return gone, f.end(AbortUnfinished, "", faults, err)
}

// Rounds is how often a test of killed runs kills one: a sample in `make test`, as many as `make soak` says otherwise.
// The seed is printed, and LETHE_SEED repeats a run.
func Rounds(t *testing.T, sample int) (int, *rand.Rand) {
	t.Helper()
	if s := os.Getenv("LETHE_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		sample = n
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("LETHE_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("LETHE_SEED=%d", seed)
	return sample, rand.New(rand.NewPCG(seed, 0))
}
