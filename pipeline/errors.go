package pipeline

import (
	"errors"
	"fmt"

	"lethe/pipeline/archive"
)

// Error is a failure that a person can act on.
type Error struct {
	Op   string // what was being done, to what: "restore 20261122T180000Z-3f9a1c"
	Err  error  // why it failed
	Help string // what to try, or ""
}

func (e *Error) Error() string {
	if e.Op == "" {
		return e.Err.Error()
	}
	return e.Op + ": " + e.Err.Error()
}

// Unwrap gives the reason.
func (e *Error) Unwrap() error { return e.Err }

// Hint says what to try.
func (e *Error) Hint() string { return e.Help }

// Sentinels that decide a command's exit code; see the table in cmd/lethe.
var (
	// ErrConfig: what was asked for can't be done as it is configured.
	ErrConfig = errors.New("configuration")
	// ErrLocked: another run holds the repository.
	ErrLocked = errors.New("locked by another run")
	// ErrLeftBehind: what a failed or interrupted flow had begun could not be taken away again.
	ErrLeftBehind = errors.New("left behind")
	// ErrIntegrity: a signature, a digest or a chain does not hold.
	ErrIntegrity = archive.ErrIntegrity
)

// kind marks err with a sentinel without changing its words.
type kind struct {
	err      error
	sentinel error
}

func (k *kind) Error() string   { return k.err.Error() }
func (k *kind) Unwrap() []error { return []error{k.err, k.sentinel} }

func integrity(err error) error     { return &kind{err, ErrIntegrity} }
func configuration(err error) error { return &kind{err, ErrConfig} }

// fail wraps err with what was being done and what to try; it passes nil through.
func fail(err error, help, op string, args ...any) error {
	if err == nil {
		return nil
	}
	return &Error{Op: fmt.Sprintf(op, args...), Err: err, Help: help}
}
