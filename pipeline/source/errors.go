package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
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

// SQLSTATEs that mean something to us. Source: PostgreSQL documentation, appendix A.
const (
	stateLockNotAvailable = "55P03" // lock_timeout and NOWAIT
	stateSerialization    = "40001" // a standby's conflict with recovery
	stateDeadlock         = "40P01"
	stateUndefinedTable   = "42P01"
	stateUndefinedSchema  = "3F000"
	stateOutOfMemory      = "53200"
	stateUntranslatable   = "22P05" // no such character in client_encoding
	stateNoPrivilege      = "42501"
	stateUndefinedObject  = "42704" // SET TRANSACTION SNAPSHOT of a snapshot that is gone (22023 before PostgreSQL 17)
	stateInvalidParameter = "22023"
)

// state returns the SQLSTATE of err, or "".
func state(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// locked reports whether err says that a lock was not to be had in time, or that a standby took it away.
func locked(err error) bool {
	switch state(err) {
	case stateLockNotAvailable, stateSerialization, stateDeadlock:
		return true
	}
	return false
}

// lost reports whether err says that the server, or the way to it, is gone.
func lost(err error) bool {
	switch state(err) {
	case "57P01", "57P02", "57P03", "08006": // shut down by an administrator, crashed, starting up; connection failure
		return true
	}
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// withoutValues returns err such that no row's value is in its text: the server quotes the offending value in data
// exceptions and constraint violations (SQLSTATE classes 22 and 23), and functions of the database's own may do so in
// what they raise: P0001, or codes of their own, for which the standard leaves the classes from I on. XX is the server's own
// trouble, such as a damaged page.
func withoutValues(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	if pg.Code == stateUntranslatable {
		return err // it quotes one character, which one has to know
	}
	if len(pg.Code) != 5 || strings.HasPrefix(pg.Code, "22") || strings.HasPrefix(pg.Code, "23") || pg.Code[0] >= 'I' && pg.Code[:2] != "XX" {
		return &valueError{pg.Code}
	}
	return err
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
	if c := state(err); c == "" || c == "57014" || locked(err) {
		return cause
	}
	return err
}
