package archive

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"aead.dev/minisign"
	"filippo.io/age"
)

// PublicKey is a minisign public key in its one canonical text form, RW…. It is comparable; the zero value is no key.
type PublicKey struct{ text string }

// ParsePublicKey reads the line that keygen prints and minisign's -P takes: 56 characters that start with RW.
func ParsePublicKey(s string) (PublicKey, error) {
	var key minisign.PublicKey
	raw, err := base64.StdEncoding.DecodeString(s)
	if err != nil || key.UnmarshalText([]byte(s)) != nil || base64.StdEncoding.EncodeToString(raw) != s {
		// s may be a secret that was pasted into the wrong place: it is not quoted.
		return PublicKey{}, &Error{Name: "public key", Msg: "not a minisign public key (RW… with 56 characters)", Kind: ErrKeyFile,
			Try: "lethe keygen operator --show FILE (or signer) prints the line to use"}
	}
	return PublicKey{text: s}, nil
}

// String returns the canonical text, RW….
func (k PublicKey) String() string { return k.text }

// ID returns the key id as minisign prints it: 16 upper-case hexadecimal digits. It is a name, not a proof.
func (k PublicKey) ID() string { return keyID(k.minisign().ID()) }

// MarshalText returns the canonical text.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.text), nil }

func (k PublicKey) minisign() minisign.PublicKey {
	var key minisign.PublicKey
	if key.UnmarshalText([]byte(k.text)) != nil {
		return minisign.PublicKey{} // the zero PublicKey: verifies nothing
	}
	return key
}

func keyID(id uint64) string { return fmt.Sprintf("%016X", id) }

// SigningKey is an Ed25519 key that makes minisign signatures: an operator's, or a key holder's own. It prints as
// **redacted**.
type SigningKey struct {
	redacted
	get func() minisign.PrivateKey
}

func newSigningKey(key minisign.PrivateKey) *SigningKey {
	return &SigningKey{get: func() minisign.PrivateKey { return key }}
}

// GenerateSigner makes a key holder's signing key.
func GenerateSigner() (*SigningKey, error) {
	_, priv, err := minisign.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("generate a signing key: %w", err)
	}
	return newSigningKey(priv), nil
}

// Public returns the public half.
func (k *SigningKey) Public() PublicKey {
	pub, _ := k.get().Public().(minisign.PublicKey)
	return PublicKey{text: pub.String()}
}

// Text returns the key as the text of a secret file, for WriteSecretFile.
func (k *SigningKey) Text(created time.Time) string {
	return header("signer key", "signs purges and other decisions of a key holder", created, k.Public()) +
		"lethe-signer-key: 1\n" +
		"signing-key: " + k.encode() + "\n"
}

// encode returns the second line of minisign's own unencrypted secret key file.
func (k *SigningKey) encode() string {
	text, err := k.get().MarshalText()
	if err != nil {
		return "" // MarshalText of this library can't fail; a key file without the value is refused by every reader
	}
	_, line, _ := strings.Cut(string(text), "\n")
	return line
}

func parseSigningKey(s string) (*SigningKey, bool) {
	var key minisign.PrivateKey
	if key.UnmarshalText([]byte(s)) != nil {
		return nil, false
	}
	// The public half is stored beside the seed: a damaged file must not make signatures that nobody can verify.
	pub, ok := key.Public().(minisign.PublicKey)
	if !ok || !minisign.Verify(pub, []byte("probe"), minisign.Sign(key, []byte("probe"))) {
		return nil, false
	}
	// One text per key: what the library ignores must be as it writes it.
	k := newSigningKey(key)
	return k, k.encode() == s
}

// OperatorKey is everything the machine that runs backups holds. It signs, names pieces, keys strategies, and reads
// manifests and the ledger; it never decrypts table data. It prints as **redacted**.
type OperatorKey struct {
	redacted
	Signing  *SigningKey
	PieceID  SecretKey // names pieces and decides where they are cut
	Strategy SecretKey // keys the strategies of the rules
	x25519   func() *age.X25519Identity
	hybrid   func() *age.HybridIdentity
}

// GenerateOperator makes a new operator key from the system's randomness.
func GenerateOperator() (*OperatorKey, error) {
	signing, err := GenerateSigner()
	if err != nil {
		return nil, err
	}
	k := &OperatorKey{Signing: signing}
	if k.PieceID, err = generateSecretKey(); err != nil {
		return nil, err
	}
	if k.Strategy, err = generateSecretKey(); err != nil {
		return nil, err
	}
	x25519, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("generate the operator's age identity: %w", err)
	}
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		return nil, fmt.Errorf("generate the operator's post-quantum age identity: %w", err)
	}
	k.setIdentities(x25519, hybrid)
	return k, nil
}

func (k *OperatorKey) setIdentities(x25519 *age.X25519Identity, hybrid *age.HybridIdentity) {
	k.x25519 = func() *age.X25519Identity { return x25519 }
	k.hybrid = func() *age.HybridIdentity { return hybrid }
}

// Public returns the key that the operator's signatures are verified with.
func (k *OperatorKey) Public() PublicKey { return k.Signing.Public() }

// Identities returns the identities that read manifests, the key file and the ledger.
func (k *OperatorKey) Identities() *Identities {
	return newIdentities([]age.Identity{k.x25519(), k.hybrid()}, []string{k.recipient(false), k.recipient(true)})
}

// recipient returns the operator's own age public key of one kind.
func (k *OperatorKey) recipient(hybrid bool) string {
	if hybrid {
		return k.hybrid().Recipient().String()
	}
	return k.x25519().Recipient().String()
}

// Adopt returns a copy that uses a repository's keys (from its key file) instead of its own: what a new operator does
// against an existing repository, so that pieces and pseudonyms stay the same.
func (k *OperatorKey) Adopt(keys *RepositoryKeys) *OperatorKey {
	c := *k
	c.PieceID, c.Strategy = keys.PieceID, keys.Strategy
	return &c
}

// Text returns the key as the text of a secret file, for WriteSecretFile.
func (k *OperatorKey) Text(created time.Time) string {
	return header("operator key", "signs snapshots and reads manifests; it can't decrypt table data", created, k.Public()) +
		"lethe-operator-key: 1\n" +
		"signing-key: " + k.Signing.encode() + "\n" +
		"piece-id-key: " + k.PieceID.hex() + "\n" +
		"strategy-key: " + k.Strategy.hex() + "\n" +
		"identity-x25519: " + k.x25519().String() + "\n" +
		"identity-hybrid: " + k.hybrid().String() + "\n"
}

const publicComment = "# public key: "

func header(what, purpose string, created time.Time, public PublicKey) string {
	return "# Lethe " + what + ": " + purpose + ". Keep this file secret.\n" +
		"# created: " + created.UTC().Format(time.RFC3339) + "\n" +
		publicComment + public.String() + "\n"
}

// ReadOperatorKey reads an operator key file. A file that others than its owner may read is refused.
func ReadOperatorKey(path string) (*OperatorKey, error) {
	text, err := readSecretFile(path)
	if err != nil {
		return nil, err
	}
	return ParseOperatorKey(path, text)
}

// ReadSigner reads a key holder's signing key file. A file that others than its owner may read is refused.
func ReadSigner(path string) (*SigningKey, error) {
	text, err := readSecretFile(path)
	if err != nil {
		return nil, err
	}
	return ParseSigner(path, text)
}

// ReadPublicKey returns the public key of a secret file of either kind: what `keygen --show` prints.
func ReadPublicKey(path string) (PublicKey, error) {
	text, err := readSecretFile(path)
	if err != nil {
		return PublicKey{}, err
	}
	if bytes.Contains(text, []byte("\nlethe-signer-key:")) {
		k, err := ParseSigner(path, text)
		if err != nil {
			return PublicKey{}, err
		}
		return k.Public(), nil
	}
	k, err := ParseOperatorKey(path, text)
	if err != nil {
		return PublicKey{}, err
	}
	return k.Public(), nil
}

// ParseOperatorKey reads the text of an operator key file; name is for errors.
func ParseOperatorKey(name string, text []byte) (*OperatorKey, error) {
	f, err := parseKeyFile(name, text, "lethe-operator-key",
		"signing-key", "piece-id-key", "strategy-key", "identity-x25519", "identity-hybrid")
	if err != nil {
		return nil, err
	}
	k := &OperatorKey{}
	if k.Signing, err = f.signing(); err != nil {
		return nil, err
	}
	var ok bool
	if k.PieceID, ok = parseSecretKey(f.value("piece-id-key")); !ok {
		return nil, f.bad("piece-id-key", "64 lower-case hexadecimal digits")
	}
	if k.Strategy, ok = parseSecretKey(f.value("strategy-key")); !ok {
		return nil, f.bad("strategy-key", "64 lower-case hexadecimal digits")
	}
	// age's own errors are left out: they may quote characters of the secret.
	x25519, err := age.ParseX25519Identity(f.value("identity-x25519"))
	if err != nil {
		return nil, f.bad("identity-x25519", "an age identity AGE-SECRET-KEY-1…")
	}
	hybrid, err := age.ParseHybridIdentity(f.value("identity-hybrid"))
	if err != nil {
		return nil, f.bad("identity-hybrid", "an age identity AGE-SECRET-KEY-PQ-1…")
	}
	k.setIdentities(x25519, hybrid)
	return k, nil
}

// ParseSigner reads the text of a signer key file; name is for errors.
func ParseSigner(name string, text []byte) (*SigningKey, error) {
	f, err := parseKeyFile(name, text, "lethe-signer-key", "signing-key")
	if err != nil {
		return nil, err
	}
	return f.signing()
}

// keyFile is a parsed secret file: `name: value` lines, each name once.
type keyFile struct {
	name    string
	fields  map[string]keyField
	comment keyField // the public key that the comment names
}

type keyField struct {
	value string
	line  int
}

func (f *keyFile) value(key string) string { return f.fields[key].value }

func (f *keyFile) bad(key, want string) error {
	return &Error{Name: fmt.Sprintf("%s:%d", f.name, f.fields[key].line), Msg: key + " is not " + want, Kind: ErrKeyFile,
		Try: "the file is damaged: put back its copy"}
}

func (f *keyFile) signing() (*SigningKey, error) {
	k, ok := parseSigningKey(f.value("signing-key"))
	if !ok {
		return nil, f.bad("signing-key", "a minisign secret key without password")
	}
	if c := f.comment; c.value != k.Public().String() && c.line > 0 {
		return nil, &Error{Name: fmt.Sprintf("%s:%d", f.name, c.line), Msg: "the public key in this comment does not belong to signing-key",
			Kind: ErrKeyFile, Try: "put back a copy of the file as keygen wrote it"}
	}
	return k, nil
}

// parseKeyFile reads lines strictly: comments, then kind, then exactly the named keys, each once. Errors name the line
// and never show what stands in it.
func parseKeyFile(name string, text []byte, kind string, keys ...string) (*keyFile, error) {
	fail := func(line int, msg, try string) error {
		at := name
		if line > 0 {
			at = fmt.Sprintf("%s:%d", name, line)
		}
		return &Error{Name: at, Msg: msg, Kind: ErrKeyFile, Try: try}
	}
	known := make(map[string]bool, len(keys))
	for _, k := range keys {
		known[k] = true
	}
	f := &keyFile{name: name, fields: make(map[string]keyField, len(keys))}
	seenKind := false
	sc := bufio.NewScanner(bytes.NewReader(text))
	n := 0
	for sc.Scan() {
		n++
		line := strings.TrimSuffix(sc.Text(), "\r")
		if pub, ok := strings.CutPrefix(line, publicComment); ok {
			f.comment = keyField{pub, n}
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, ": ")
		switch {
		case !ok:
			return nil, fail(n, "not a line of the form `name: value`", "is this the file that keygen wrote?")
		case !seenKind && key == kind:
			if value != "1" {
				return nil, fail(n, "unknown version of this key file: this lethe reads 1", "use a newer lethe")
			}
			seenKind = true
		case !seenKind && (key == "lethe-operator-key" || key == "lethe-signer-key"):
			return nil, fail(n, "this is another kind of key: "+strings.TrimPrefix(key, "lethe-")+", not "+strings.TrimPrefix(kind, "lethe-"),
				"name the other file")
		case !seenKind:
			return nil, fail(n, "the first line after the comments must be `"+kind+": 1`", "is this the file that keygen wrote?")
		case !known[key]:
			return nil, fail(n, "unknown name in a "+strings.TrimPrefix(kind, "lethe-")+" file", "known names: "+strings.Join(keys, ", "))
		case f.fields[key].line > 0:
			return nil, fail(n, key+" stands here a second time", "keep the file as keygen wrote it")
		default:
			f.fields[key] = keyField{value, n}
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fail(n+1, "the line is too long", "is this the file that keygen wrote?")
	}
	if !seenKind {
		return nil, fail(0, "no key in this file (no `"+kind+": 1` line)", "lethe keygen makes one")
	}
	for _, k := range keys {
		if f.fields[k].line == 0 {
			return nil, fail(0, k+" is missing", "the file is cut short: put back its copy")
		}
	}
	return f, nil
}

const maxKeyFile = 1 << 20

// readSecretFile reads a regular file that nobody but its owner may touch.
func readSecretFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, &Error{Msg: "read key file", Err: err, Kind: ErrKeyFile}
	}
	defer file.Close() //nolint:errcheck // read only
	info, err := file.Stat()
	if err != nil {
		return nil, &Error{Name: path, Msg: "read key file", Err: err, Kind: ErrKeyFile}
	}
	if !info.Mode().IsRegular() {
		return nil, &Error{Name: path, Msg: "a key file must be a regular file", Kind: ErrKeyFile}
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, &Error{Name: path, Msg: fmt.Sprintf("other users may read this secret file (mode %04o)", info.Mode().Perm()), Kind: ErrKeyFile,
			Try: "chmod 600 " + path + "; if somebody may have read it, make a new key"}
	}
	text, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return nil, &Error{Name: path, Msg: "read key file", Err: err, Kind: ErrKeyFile}
	}
	if len(text) > maxKeyFile {
		return nil, &Error{Name: path, Msg: "too long for a key file", Kind: ErrKeyFile}
	}
	return text, nil
}

// WriteSecretFile writes text to a new file of mode 0600 and flushes it to disk. It never overwrites; when it fails,
// the file it began is removed.
func WriteSecretFile(path, text string) (err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return &Error{Name: path, Msg: "exists already; a key is never overwritten", Kind: ErrKeyFile, Try: "name another file", Err: err}
	}
	if err != nil {
		return &Error{Msg: "write key file", Err: err, Kind: ErrKeyFile}
	}
	defer func() {
		if err != nil {
			err = &Error{Name: path, Msg: "write key file", Err: err, Kind: ErrKeyFile}
			_ = os.Remove(path)
		}
	}()
	if _, err := file.WriteString(text); err != nil {
		_ = file.Close()
		return err
	}
	if err := file.Sync(); err != nil {
		_ = file.Close()
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // read only
	return dir.Sync()
}
