package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"lethe/pipeline/sqlstate"
)

// Error says what was being done to which database or table, why it failed and what to try. No row's values are in it.
type Error struct {
	Op    string // what was being done: "lock the tables"
	Table string // as people write it, "" where no one table is meant
	Help  string // what to try, or ""
	Retry bool   // a lock or a concurrent change stood in the way: everything was let go, and Open may be called again
	Err   error
}

func (e *Error) Error() string {
	s := e.Op
	if e.Table != "" {
		s += " " + e.Table
	}
	return s + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Hint says what to try.
func (e *Error) Hint() string { return e.Help }

// Retryable reports whether err comes from a lock or a change that stood in the way of a consistent view. The snapshot
// is gone then; opening another one later may succeed.
func Retryable(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Retry
}

// errClosed is the reason of everything that is still under way when Close is called.
var errClosed = errors.New("the snapshot was closed")

// locked reports whether err says that a lock was not to be had in time, or that a standby took it away.
func locked(err error) bool {
	switch sqlstate.Of(err) {
	case sqlstate.LockNotAvailable, sqlstate.SerializationFailure, sqlstate.DeadlockDetected:
		return true
	}
	return false
}

// lost reports whether err says that the server, or the way to it, is gone.
func lost(err error) bool {
	switch sqlstate.Of(err) {
	case sqlstate.AdminShutdown, sqlstate.CrashShutdown, sqlstate.CannotConnectNow, sqlstate.ConnectionFailure:
		return true
	}
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// withoutValues returns err such that no row's value is in its text.
func withoutValues(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || !sqlstate.MayQuote(pg.Code) {
		return err
	}
	if pg.Code == sqlstate.UntranslatableCharacter {
		return err // it quotes one character, which one has to know
	}
	return &valueError{pg.Code}
}

// valueError is a server's refusal of a value, without the words that may quote it.
type valueError struct{ state string }

func (e *valueError) Error() string {
	return fmt.Sprintf("the server could not compute a value (SQLSTATE %s; its message may quote a row and is left out)", e.state)
}

// SQLState is what the server called it.
func (e *valueError) SQLState() string { return e.state }

// reason replaces the error of an interrupted operation by the reason of the interruption.
func reason(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	cause := context.Cause(ctx)
	if cause == nil {
		return err
	}
	// The server says 57014 for a cancelled query; and a lock that timed out just when the guard let go is the same story,
	// which the guard tells better.
	if c := sqlstate.Of(err); c == "" || c == sqlstate.QueryCanceled || locked(err) {
		return cause
	}
	return err
}
