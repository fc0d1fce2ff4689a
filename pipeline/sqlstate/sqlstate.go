// Package sqlstate names the codes of PostgreSQL's errors that mean something here, and says of which errors the words
// may quote a row. Nothing that a server says about rows may get into an error or a log of Lethe's without asking it.
package sqlstate

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// Codes, by their condition names. Source: PostgreSQL documentation, appendix A.
const (
	UntranslatableCharacter = "22P05" // no such character in client_encoding
	InvalidParameterValue   = "22023"
	InvalidCatalogName      = "3D000" // no such database
	InvalidSchemaName       = "3F000"
	SerializationFailure    = "40001" // a standby's conflict with recovery, too
	DeadlockDetected        = "40P01"
	InsufficientPrivilege   = "42501"
	UndefinedObject         = "42704"
	UndefinedTable          = "42P01"
	OutOfMemory             = "53200"
	ObjectInUse             = "55006"
	LockNotAvailable        = "55P03" // lock_timeout and NOWAIT
	QueryCanceled           = "57014"
	AdminShutdown           = "57P01"
	CrashShutdown           = "57P02"
	CannotConnectNow        = "57P03"
	ConnectionFailure       = "08006"
	RaiseException          = "P0001"
)

// Of is the code of a server's error, or "" of any other.
func Of(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// MayQuote reports whether the message of an error with this code may quote a value of a row. Data exceptions and
// constraint violations (classes 22 and 23) do, and so may what functions of the database's own raise: P0001, or codes of
// theirs, for which the standard leaves the classes from I on. XX is the server's own trouble, such as a damaged page.
func MayQuote(code string) bool {
	if len(code) != 5 {
		return true
	}
	class := code[:2]
	return class == "22" || class == "23" || class[0] >= 'I' && class != "XX"
}
