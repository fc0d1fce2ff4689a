// Package mask holds value functions: what a strategy of the rules does to one value.
//
// Every function is deterministic under its key, so equal values stay equal from snapshot to snapshot; none ever
// returns a part of a value that it was asked to remove.
//
// Functions work on the text that the type's output function prints in a session of Lethe's (DateStyle ISO), without
// COPY's escapes. Text is taken for UTF-8 where characters count; in a database of another encoding bytes that are no
// UTF-8 count one each and pass unharmed where they stay. What a constructor is given (a constant, a mask character,
// names in a JSON path) must already be in the encoding of the values.
package mask

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"log/slog"
)

// Key is the secret that keyed functions are deterministic under. It prints as **redacted**.
type Key [sha256.Size]byte

// Format keeps the key out of logs and errors, whatever the verb.
func (Key) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte("**redacted**")) }

// LogValue keeps the key out of structured logs.
func (Key) LogValue() slog.Value { return slog.StringValue("**redacted**") }

// Derive returns the key of one domain: HMAC-SHA256 of the domain's name under k. Values of columns with different
// domains can't be linked; a key column and the columns that reference it share one domain.
func (k Key) Derive(domain string) (d Key) {
	mac := hmac.New(sha256.New, k[:])
	mac.Write([]byte(domain))
	mac.Sum(d[:0])
	return d
}

// Func rewrites one value that is not NULL, given as the type's text output (not COPY-escaped). It appends the new
// text to dst and returns it; null reports that the new value is NULL (dst is then returned unchanged). A value that
// the function can't read is an error that never quotes the value. A Func keeps no state between calls except
// scratch memory, so each worker needs its own. dst and value must not share memory.
type Func func(dst, value []byte) (out []byte, null bool, err error)
