package storetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"lethe/pipeline/store"
)

// Op is a method of a store, as store.Error names it.
type Op string

const (
	Put    Op = "put"
	Get    Op = "get"
	Stat   Op = "stat"
	List   Op = "list"
	Delete Op = "delete"
)

// Rule says when a fault happens, and which.
type Rule struct {
	On   Op     // of which method; "" means of every method
	Name string // of which files: a pattern of path.Match, or "objects/" for all below; "" means of all
	Nth  int    // at which matching call alone, counted from 1; 0 means at every one

	Fault Fault
}

// Fault is what happens to a call: one of the functions below that return it.
type Fault struct {
	before func(ctx context.Context, op Op, name string) error // instead of the call, when it returns an error
	after  error                                               // what the caller is told of a call that was done
	alter  func([]byte) []byte                                 // of what Get returns
	cut    *cut
	hidden bool
	amid   time.Duration // kill the process so long after the call began
	kills  bool          // and once it is done
}

type cut struct {
	at  int64
	err error
}

// FlipByte changes the byte at an offset of what Get returns; a negative offset counts from the end. A file that is
// shorter stays as it is.
func FlipByte(offset int) Fault {
	return Fault{alter: func(data []byte) []byte {
		at := offset
		if at < 0 {
			at += len(data)
		}
		if 0 <= at && at < len(data) {
			data[at] ^= 0x01
		}
		return data
	}}
}

// Truncate makes Get return only the first size bytes, without an error; a negative size is a number of bytes to lose.
func Truncate(size int) Fault {
	return Fault{alter: func(data []byte) []byte {
		n := size
		if n < 0 {
			n += len(data)
		}
		return data[:max(0, min(n, len(data)))]
	}}
}

// Replace makes Get return other bytes, such as those of another object.
func Replace(with []byte) Fault {
	return Fault{alter: func([]byte) []byte { return append([]byte(nil), with...) }}
}

// Fail makes the call fail before it does anything.
func Fail(err error) Fault {
	return Fault{before: func(context.Context, Op, string) error { return err }}
}

// DiskFull is Fail with what a full disk answers.
func DiskFull() Fault { return Fail(fmt.Errorf("%w: %w", store.ErrNoSpace, syscall.ENOSPC)) }

// FailAfter does the call and then says that it failed: the answer was lost. It is for Put and Delete.
func FailAfter(err error) Fault { return Fault{after: err} }

// BreakAt makes the reader of Get fail after n bytes.
func BreakAt(n int64, err error) Fault { return Fault{cut: &cut{n, err}} }

// Stall holds the call until its context is done. Each stalled call first sends its file's name to reached, unless
// that is nil, and waits until somebody receives it.
func Stall(reached chan<- string) Fault {
	return Fault{before: func(ctx context.Context, _ Op, name string) error {
		if reached != nil {
			select {
			case reached <- name:
			case <-ctx.Done():
			}
		}
		<-ctx.Done()
		return ctx.Err()
	}}
}

// Call calls fn with the file's name before the call is done, for a test that wants something to happen just then; an
// error of fn takes the call's place.
func Call(fn func(name string) error) Fault {
	return Fault{before: func(_ context.Context, _ Op, name string) error { return fn(name) }}
}

// Lose makes a file look as if it were not there: ErrNotFound for Get and Stat, and no List shows it. Such a rule has
// On "", or the one method that shall lose it. Put and Delete do what they do.
func Lose() Fault { return Fault{hidden: true} }

// Hide leaves a file out of List alone: a rule of it has On List.
func Hide() Fault { return Fault{hidden: true} }

// Faulty is a store that fails by rules. What no rule matches goes to the store beneath.
//
// For List, a rule without Hide or Lose matches the prefix as its name. Where several rules match a call, all of them
// happen, in the order they were added; the first one that returns an error ends it.
type Faulty struct {
	beneath store.Store

	mu    sync.Mutex
	rules []*rule
	calls map[Op][]string
}

type rule struct {
	Rule
	seen int
}

var _ store.Store = (*Faulty)(nil)

// NewFaulty puts rules over a store. Closing it closes the store beneath.
func NewFaulty(beneath store.Store, rules ...Rule) *Faulty {
	f := &Faulty{beneath: beneath, calls: map[Op][]string{}}
	f.Add(rules...)
	return f
}

// Add adds rules, whose counts start now.
func (f *Faulty) Add(rules ...Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range rules {
		f.rules = append(f.rules, &rule{Rule: r})
	}
}

// Heal takes all rules away.
func (f *Faulty) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
}

// Calls returns the names that a method was called with so far, in that order: those that match a pattern as in Rule.
func (f *Faulty) Calls(op Op, pattern string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for _, name := range f.calls[op] {
		if matches(pattern, name) {
			names = append(names, name)
		}
	}
	return names
}

func matches(pattern, name string) bool {
	if pattern == "" || strings.HasSuffix(pattern, "/") && strings.HasPrefix(name, pattern) {
		return true
	}
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// hit counts a call and returns the faults that befall it.
func (f *Faulty) hit(op Op, name string, hiding bool) []Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	var faults []Fault
	for _, r := range f.rules {
		if r.On != "" && r.On != op || r.Fault.hidden != hiding || !matches(r.Name, name) {
			continue
		}
		if r.seen++; r.Nth == 0 || r.Nth == r.seen {
			faults = append(faults, r.Fault)
		}
	}
	return faults
}

// begin is what happens before a call: it is counted, may be held, and may fail.
func (f *Faulty) begin(ctx context.Context, op Op, name string) ([]Fault, error) {
	f.mu.Lock()
	f.calls[op] = append(f.calls[op], name)
	f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, f.fail(op, name, err)
	}
	faults := f.hit(op, name, false)
	for _, fault := range faults {
		if fault.before == nil {
			continue
		}
		if err := fault.before(ctx, op, name); err != nil {
			return nil, f.fail(op, name, err)
		}
	}
	if (op == Get || op == Stat) && len(f.hit(op, name, true)) > 0 {
		return nil, f.fail(op, name, store.ErrNotFound)
	}
	return faults, nil
}

func (f *Faulty) fail(op Op, name string, err error) error {
	return &store.Error{Op: string(op), Store: f.String(), Name: name, Err: err}
}

// end is what happens after a call that was done.
func (f *Faulty) end(op Op, name string, faults []Fault, err error) error {
	for _, fault := range faults {
		if err == nil && fault.after != nil {
			err = f.fail(op, name, fault.after)
		}
	}
	return err
}

func (f *Faulty) Put(ctx context.Context, name string, data []byte) error {
	faults, err := f.begin(ctx, Put, name)
	if err != nil {
		return err
	}
	return f.end(Put, name, faults, do(faults, func() error { return f.beneath.Put(ctx, name, data) }))
}

func (f *Faulty) Delete(ctx context.Context, name string) error {
	faults, err := f.begin(ctx, Delete, name)
	if err != nil {
		return err
	}
	return f.end(Delete, name, faults, do(faults, func() error { return f.beneath.Delete(ctx, name) }))
}

func (f *Faulty) Stat(ctx context.Context, name string) (store.Info, error) {
	faults, err := f.begin(ctx, Stat, name)
	if err != nil {
		return store.Info{}, err
	}
	info, err := f.beneath.Stat(ctx, name)
	return info, f.end(Stat, name, faults, err)
}

func (f *Faulty) List(ctx context.Context, prefix string, fn func(store.Info) error) error {
	faults, err := f.begin(ctx, List, prefix)
	if err != nil {
		return err
	}
	err = f.beneath.List(ctx, prefix, func(info store.Info) error {
		if len(f.hit(List, info.Name, true)) > 0 {
			return nil
		}
		return fn(info)
	})
	return f.end(List, prefix, faults, err)
}

func (f *Faulty) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	faults, err := f.begin(ctx, Get, name)
	if err != nil {
		return nil, err
	}
	r, err := f.beneath.Get(ctx, name)
	if err = f.end(Get, name, faults, err); err != nil {
		if r != nil {
			err = errors.Join(err, r.Close())
		}
		return nil, err
	}
	for _, fault := range faults {
		switch {
		case fault.alter != nil:
			r = &altered{ReadCloser: r, alter: fault.alter}
		case fault.cut != nil:
			r = &broken{ReadCloser: r, left: fault.cut.at, err: f.fail(Get, name, fault.cut.err)}
		}
	}
	return r, nil
}

func (f *Faulty) String() string { return f.beneath.String() }

func (f *Faulty) Close() error { return f.beneath.Close() }

// altered reads the whole file at the first Read, and hands out what became of it.
type altered struct {
	io.ReadCloser
	alter func([]byte) []byte
	rest  *strings.Reader
}

func (a *altered) Read(p []byte) (int, error) {
	if a.rest == nil {
		data, err := io.ReadAll(a.ReadCloser)
		if err != nil {
			return 0, err
		}
		a.rest = strings.NewReader(string(a.alter(data)))
	}
	return a.rest.Read(p)
}

// broken fails after so many bytes, also where the file ends just there.
type broken struct {
	io.ReadCloser
	left int64
	err  error
}

func (b *broken) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, b.err
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
