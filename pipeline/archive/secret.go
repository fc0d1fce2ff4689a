package archive

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
)

const redactedText = "**redacted**"

// redacted is embedded by every type that holds a secret, so that no way of printing it shows one. The secrets
// themselves stand behind functions: fmt walks the unexported fields of an enclosing struct without asking their
// methods, and follows pointers there when the verb does not fit them.
type redacted struct{}

func (redacted) String() string               { return redactedText }
func (redacted) GoString() string             { return redactedText }
func (redacted) Format(f fmt.State, _ rune)   { _, _ = io.WriteString(f, redactedText) }
func (redacted) MarshalJSON() ([]byte, error) { return []byte(`"` + redactedText + `"`), nil }
func (redacted) MarshalText() ([]byte, error) { return []byte(redactedText), nil }
func (redacted) LogValue() slog.Value         { return slog.StringValue(redactedText) }

// SecretKey is a symmetric key of 32 bytes that prints as **redacted**.
type SecretKey struct {
	redacted
	get func() [32]byte
}

// NewSecretKey wraps key.
func NewSecretKey(key [32]byte) SecretKey {
	return SecretKey{get: func() [32]byte { return key }}
}

func generateSecretKey() (SecretKey, error) {
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return SecretKey{}, fmt.Errorf("generate a key: %w", err)
	}
	return NewSecretKey(key), nil
}

// Bytes returns the key itself. The zero SecretKey has none and returns zeros.
func (k SecretKey) Bytes() [32]byte {
	if k.get == nil {
		return [32]byte{}
	}
	return k.get()
}

// IsZero reports whether k was never set.
func (k SecretKey) IsZero() bool { return k.get == nil }

// Equal compares in constant time.
func (k SecretKey) Equal(other SecretKey) bool {
	a, b := k.Bytes(), other.Bytes()
	return k.IsZero() == other.IsZero() && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

func (k SecretKey) hex() string {
	b := k.Bytes()
	return hex.EncodeToString(b[:])
}

// parseSecretKey reads 64 lower-case hexadecimal digits.
func parseSecretKey(s string) (SecretKey, bool) {
	if !isHex(s, 64) {
		return SecretKey{}, false
	}
	var key [32]byte
	_, err := hex.Decode(key[:], []byte(s))
	return NewSecretKey(key), err == nil
}

// isHex reports whether s is n lower-case hexadecimal digits.
func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
