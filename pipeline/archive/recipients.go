package archive

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
)

// Recipients is a set of age public keys of one kind: all classic (age1…, X25519) or all post-quantum hybrid
// (age1pq1…). It is immutable.
type Recipients struct {
	hybrid bool
	keys   []string // canonical, sorted, each once
	list   []age.Recipient
}

// ParseRecipients reads entries that are keys, or files of keys (one per line, # comments) relative to dir. Duplicates
// collapse. Refused: an empty set, a mix of classic and hybrid keys, SSH keys, plugins.
func ParseRecipients(entries []string, dir string) (*Recipients, error) {
	var keys []string
	for _, entry := range entries {
		entry = strings.TrimSpace(entry)
		if looksLikeKey(entry) {
			keys = append(keys, entry)
			continue
		}
		path := entry
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		more, err := recipientFile(path)
		if err != nil {
			return nil, err
		}
		keys = append(keys, more...)
	}
	return newRecipients(keys)
}

// looksLikeKey tells a key, also one that will be refused, from a file name.
func looksLikeKey(s string) bool {
	for _, prefix := range []string{"age1", "AGE1", "AGE-", "ssh-", "ecdsa-", "sk-"} {
		if strings.HasPrefix(s, prefix) && !strings.ContainsAny(s, "/\\.") {
			return true
		}
	}
	// Base64 in an SSH key may hold a slash.
	return strings.HasPrefix(s, "ssh-") && strings.Contains(s, " ")
}

func recipientFile(path string) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, &Error{Msg: "read recipients", Err: err, Kind: ErrRecipients,
			Try: "recipients are age public keys (age1…) or files of them, relative to the configuration file"}
	}
	defer file.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return nil, &Error{Name: path, Msg: "read recipients", Err: err, Kind: ErrRecipients}
	}
	if len(text) > maxKeyFile {
		return nil, &Error{Name: path, Msg: "too long for a file of recipients", Kind: ErrRecipients}
	}
	var keys []string
	for i, line := range bytes.Split(text, []byte("\n")) {
		key := strings.TrimSpace(string(line))
		if key == "" || strings.HasPrefix(key, "#") {
			continue
		}
		if _, _, err := parseRecipient(key); err != nil {
			err.Name = fmt.Sprintf("%s:%d", path, i+1)
			return nil, err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, &Error{Name: path, Msg: "no recipients in this file", Kind: ErrRecipients}
	}
	return keys, nil
}

// parseRecipient reads one key. It quotes nothing: the text may be a private key in the wrong place.
func parseRecipient(s string) (r age.Recipient, hybrid bool, e *Error) {
	fail := func(msg, try string) *Error {
		return &Error{Name: "recipients", Msg: msg, Try: try, Kind: ErrRecipients}
	}
	lower := strings.ToLower(s)
	switch {
	case strings.HasPrefix(lower, "age-secret-key-"), strings.HasPrefix(lower, "age-plugin-"):
		return nil, false, fail("a private key (identity) stands among the recipients",
			"age-keygen -y FILE prints its public key; keep the private one off this machine, and replace it if this file was shared")
	case strings.HasPrefix(lower, "ssh-"), strings.HasPrefix(lower, "ecdsa-"), strings.HasPrefix(lower, "sk-"):
		return nil, false, fail("SSH keys are not supported as recipients", "make an age key: age-keygen -o key.txt")
	case strings.HasPrefix(lower, "age1pq1"):
		hybrid = true
		key, err := age.ParseHybridRecipient(s)
		if err != nil {
			return nil, false, fail("a malformed age1pq1… key", "copy the whole key, as age-keygen -y prints it")
		}
		r = key
	case strings.HasPrefix(lower, "age1") && strings.Contains(lower[len("age1"):], "1"):
		return nil, false, fail("age plugins and tagged keys are not supported as recipients", "make a native age key: age-keygen -o key.txt")
	case strings.HasPrefix(lower, "age1"):
		key, err := age.ParseX25519Recipient(s)
		if err != nil {
			return nil, false, fail("a malformed age1… key", "copy the whole key, as age-keygen -y prints it")
		}
		r = key
	default:
		return nil, false, fail("not an age public key", "keys start with age1 or age1pq1; age-keygen -y FILE prints yours")
	}
	// A point of low order parses but can't be encrypted to: better known now than in the middle of a backup.
	if _, err := r.Wrap(make([]byte, 16)); err != nil {
		return nil, false, fail("an age key that can't be encrypted to", "make a new one: age-keygen -o key.txt")
	}
	return r, hybrid, nil
}

func newRecipients(keys []string) (*Recipients, error) {
	if len(keys) == 0 {
		return nil, &Error{Name: "recipients", Msg: "no recipient is named; nobody could restore", Kind: ErrRecipients,
			Try: "age-keygen -o key.txt on another machine, and its public key under recipients:"}
	}
	set := &Recipients{}
	byKey := make(map[string]age.Recipient, len(keys))
	var classic bool
	for _, key := range keys {
		r, hybrid, err := parseRecipient(key)
		if err != nil {
			return nil, err
		}
		set.hybrid = set.hybrid || hybrid
		classic = classic || !hybrid
		s, ok := r.(fmt.Stringer)
		if !ok {
			continue // both native kinds print themselves
		}
		byKey[s.String()] = r
	}
	if classic && set.hybrid {
		return nil, &Error{Name: "recipients", Msg: "classic (age1…) and post-quantum (age1pq1…) keys can't be mixed: age refuses such files",
			Kind: ErrRecipients, Try: "use keys of one kind for all recipients"}
	}
	for key := range byKey {
		set.keys = append(set.keys, key)
	}
	slices.Sort(set.keys)
	for _, key := range set.keys {
		set.list = append(set.list, byKey[key])
	}
	return set, nil
}

// Hybrid reports whether the keys are post-quantum hybrid ones; restoring by hand then needs age 1.3.
func (r *Recipients) Hybrid() bool { return r.hybrid }

// Strings returns the public keys, sorted.
func (r *Recipients) Strings() []string { return slices.Clone(r.keys) }

// Digest is the SHA-256 over the sorted keys, each followed by a newline. It is mixed into every piece id, so that a
// change of recipients encrypts everything anew.
func (r *Recipients) Digest() [32]byte {
	h := sha256.New()
	for _, key := range r.keys {
		h.Write([]byte(key))
		h.Write([]byte{'\n'})
	}
	return [32]byte(h.Sum(nil))
}

// WithOperator returns the set plus the operator's own key of the same kind: the readers of manifests, the key file and
// the ledger, never of objects. A set that already holds the operator's key is refused: it would open table data to the
// machine that must not be able to read it.
func (r *Recipients) WithOperator(op *OperatorKey) (*Recipients, error) {
	for _, own := range op.Identities().public {
		if slices.Contains(r.keys, own) {
			return nil, &Error{Name: "recipients", Msg: "the operator's own key stands among the recipients: it would decrypt table data",
				Kind: ErrRecipients, Try: "remove it; manifests are encrypted to the operator without that"}
		}
	}
	return newRecipients(append(r.Strings(), op.recipient(r.hybrid)))
}
