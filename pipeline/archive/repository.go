package archive

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Version is the format version that this package writes, and the only one it reads.
const Version = 1

// formatName is the first member of every JSON document of the format.
const formatName = "lethe"

// Names in a repository.
const (
	RepositoryName  = "lethe.json"
	KeysPrefix      = "keys/"
	KeysName        = "keys/0001.age" // the first key file
	SnapshotsPrefix = "snapshots/"
	ObjectsPrefix   = "objects/"
)

// MaxKeys is the highest number of a key file.
const MaxKeys = 9999

// KeysNameOf returns where the key file of a number is stored, from 1.
func KeysNameOf(number int) string { return fmt.Sprintf("%s%04d.age", KeysPrefix, number) }

// KeysOf returns the number of the key file that is stored under name, or false where name is not a key file's.
func KeysOf(name string) (number int, ok bool) {
	digits, ok := strings.CutSuffix(strings.TrimPrefix(name, KeysPrefix), ".age")
	if !ok || len(digits) != 4 {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil && n > 0 && KeysNameOf(n) == name
}

// ObjectName returns where the object with this SHA-256 is stored: objects/ab/abcd….
func ObjectName(object string) string {
	if len(object) < 2 {
		return ObjectsPrefix + "_/" + object // not a digest; a name that is never written
	}
	return ObjectsPrefix + object[:2] + "/" + object
}

// ObjectOf returns the object that name stores, or false where name is not an object's.
func ObjectOf(name string) (object string, ok bool) {
	rest, ok := strings.CutPrefix(name, ObjectsPrefix)
	if !ok || len(rest) != 3+64 || !isHex(rest[3:], 64) || ObjectName(rest[3:]) != name {
		return "", false
	}
	return rest[3:], true
}

// ManifestName returns where a snapshot's manifest is stored.
func ManifestName(id string) string { return SnapshotsPrefix + id + ".age" }

// SnapshotOf returns the id of the snapshot whose manifest is stored under name, or false where name is not a manifest's.
func SnapshotOf(name string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(name, SnapshotsPrefix)
	if !ok {
		return "", false
	}
	id, ok = strings.CutSuffix(rest, ".age")
	return id, ok && ValidSnapshotID(id)
}

const idTime = "20060102T150405Z"

// NewSnapshotID returns an id for a snapshot begun at t: UTC time and 23 random bits, as in 20261122T180000Z-3f9a1c. Ids
// sort by time. The numbers after it are for the snapshot's successors; see SuccessorID.
func NewSnapshotID(t time.Time, random io.Reader) (string, error) {
	var b [3]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("make a snapshot id: %w", err)
	}
	b[0] &= 0x7f
	id := t.UTC().Format(idTime) + "-" + hex.EncodeToString(b[:])
	if !ValidSnapshotID(id) {
		return "", fmt.Errorf("make a snapshot id: the year %d has not four digits; is the clock right?", t.UTC().Year())
	}
	return id, nil
}

// SuccessorID returns the id of the snapshot that takes the place of id: of the same time, so that it sorts where that
// did, and right after it, so that of the two the newer one is the successor. taken says which ids there are.
func SuccessorID(id string, taken func(id string) bool) (string, error) {
	if !ValidSnapshotID(id) {
		return "", fmt.Errorf("snapshot %q has no id", id)
	}
	stamp, tail, _ := strings.Cut(id, "-")
	n, err := strconv.ParseUint(tail, 16, 32)
	if err != nil {
		return "", fmt.Errorf("snapshot %s: %w", id, err)
	}
	for n++; n < 1<<24; n++ {
		if next := fmt.Sprintf("%s-%06x", stamp, n); !taken(next) {
			return next, nil
		}
	}
	return "", fmt.Errorf("snapshot %s has no successor's id left", id)
}

// ValidSnapshotID reports whether id has the form that NewSnapshotID gives, with a date that exists.
func ValidSnapshotID(id string) bool {
	stamp, tail, ok := strings.Cut(id, "-")
	if !ok || len(stamp) != len(idTime) || !isHex(tail, 6) {
		return false
	}
	t, err := time.Parse(idTime, stamp)
	return err == nil && t.Format(idTime) == stamp
}

// SnapshotTime is the UTC time in a valid snapshot id, to the second; the zero time for any other string.
func SnapshotTime(id string) time.Time {
	if !ValidSnapshotID(id) {
		return time.Time{}
	}
	t, _ := time.Parse(idTime, id[:len(idTime)]) // ValidSnapshotID has parsed it
	return t
}

// Repository is lethe.json: what a store holds. It is not secret and not signed; the repository id is bound by every
// signature's trusted comment.
type Repository struct {
	Format     string `json:"format"`
	Version    int    `json:"version"`
	Repository string `json:"repository"` // id: 32 hexadecimal digits
}

// NewRepository returns a repository with a random id.
func NewRepository() (*Repository, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("make a repository id: %w", err)
	}
	return &Repository{Format: formatName, Version: Version, Repository: hex.EncodeToString(b[:])}, nil
}

// Encode returns the bytes of lethe.json.
func (r *Repository) Encode() ([]byte, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", RepositoryName, err)
	}
	return append(data, '\n'), nil
}

// ParseRepository reads lethe.json. A version other than ours is an ErrVersion that names it.
func ParseRepository(data []byte) (*Repository, error) {
	if len(data) > maxKeyFile {
		return nil, &Error{Name: RepositoryName, Msg: "too long", Kind: ErrIntegrity}
	}
	r := &Repository{}
	if err := decodeJSON(RepositoryName, data, r); err != nil {
		return nil, err
	}
	if r.Format != formatName || r.Version != Version {
		return nil, &Error{Name: RepositoryName, Msg: "format or version stands twice", Kind: ErrIntegrity, Try: tryForeign}
	}
	if !isHex(r.Repository, 32) {
		return nil, &Error{Name: RepositoryName, Msg: "the repository id is not 32 hexadecimal digits", Kind: ErrIntegrity, Try: tryForeign}
	}
	return r, nil
}

const tryForeign = "the file is damaged or not of Lethe's making; another store may hold a good copy"

// RepositoryKeys are the secrets that purge, replay, diff and drill need beside an identity.
type RepositoryKeys struct {
	PieceID  SecretKey
	Strategy SecretKey
}

// keysFile is the plaintext of a key file. It is the only place where these keys become text.
type keysFile struct {
	Format      string `json:"format"`
	Version     int    `json:"version"`
	Repository  string `json:"repository"`
	PieceIDKey  string `json:"piece_id_key"`
	StrategyKey string `json:"strategy_key"`
}

// WriteKeys returns the bytes of a key file: the operator's piece-id and strategy keys, encrypted to the recipients
// and the operator. Sign it with PurposeKeys.
func WriteKeys(repository string, op *OperatorKey, recipients *Recipients) ([]byte, error) {
	to, err := recipients.WithOperator(op)
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(keysFile{formatName, Version, repository, op.PieceID.hex(), op.Strategy.hex()})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", KeysName, err)
	}
	var out bytes.Buffer
	if err := encrypt(&out, append(plain, '\n'), to.list); err != nil {
		return nil, &Error{Name: KeysName, Msg: "encrypt", Err: err}
	}
	return out.Bytes(), nil
}

// ReadKeys decrypts the key file that is stored under name in a repository. Verify its signature first.
func ReadKeys(repository, name string, data []byte, identities *Identities) (*RepositoryKeys, error) {
	if len(data) > maxKeyFile {
		return nil, &Error{Name: name, Msg: "too long", Kind: ErrIntegrity}
	}
	var plain bytes.Buffer
	if err := decrypt(&plain, data, name, identities); err != nil {
		return nil, err
	}
	var f keysFile
	if err := decodeJSON(name, plain.Bytes(), &f); err != nil {
		return nil, err
	}
	if f.Repository != repository {
		return nil, &Error{Name: name, Msg: "belongs to another repository", Kind: ErrIntegrity, Try: tryForeign}
	}
	piece, ok1 := parseSecretKey(f.PieceIDKey)
	strategy, ok2 := parseSecretKey(f.StrategyKey)
	if !ok1 || !ok2 {
		return nil, &Error{Name: name, Msg: "a key in it is not 64 hexadecimal digits", Kind: ErrIntegrity, Try: tryForeign}
	}
	return &RepositoryKeys{PieceID: piece, Strategy: strategy}, nil
}

// decodeJSON reads one JSON document of the format into v: format and version first, then, for our version, every
// member strictly. Errors never quote the document, which may hold secrets.
func decodeJSON(name string, data []byte, v any) error {
	if err := checkVersion(name, data); err != nil {
		return err
	}
	if err := strict(data, v); err != nil {
		return &Error{Name: name, Msg: jsonProblem(err), Kind: ErrIntegrity, Try: tryForeign}
	}
	return nil
}

// strict decodes exactly one JSON value that has no members unknown to v.
func strict(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	return atEnd(dec, data)
}

func atEnd(dec *json.Decoder, data []byte) error {
	if len(bytes.TrimSpace(data[dec.InputOffset():])) > 0 {
		return problem("something follows the JSON document")
	}
	return nil
}

// problem is an error of ours about a document, safe to show.
type problem string

func (p problem) Error() string { return string(p) }

// checkVersion refuses, by its number, every version but ours.
func checkVersion(name string, data []byte) error {
	version, err := formatVersion(data)
	if err != nil {
		return &Error{Name: name, Msg: err.Error(), Kind: ErrIntegrity, Try: tryForeign}
	}
	if version != Version {
		return &Error{Name: name, Msg: fmt.Sprintf("format version %d: this lethe reads %d", version, Version), Kind: ErrVersion,
			Try: "upgrade lethe"}
	}
	return nil
}

// jsonProblem says what is wrong without the values.
func jsonProblem(err error) string {
	var wrongType *json.UnmarshalTypeError
	var ours problem
	switch {
	case errors.As(err, &ours):
		return err.Error()
	case errors.As(err, &wrongType):
		return wrongType.Field + ": a value of the wrong type"
	case strings.HasPrefix(err.Error(), "json: unknown field"):
		return strings.TrimPrefix(err.Error(), "json: ")
	}
	return "not valid JSON"
}

// formatVersion reads the first two members of a document, which are "format": "lethe" and "version" in every version.
func formatVersion(data []byte) (int, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	want := []json.Token{json.Delim('{'), "format", formatName, "version"}
	for _, w := range want {
		tok, err := dec.Token()
		if err != nil || tok != w {
			return 0, errors.New(`not a Lethe document: it does not begin with "format": "lethe" and "version"`)
		}
	}
	tok, err := dec.Token()
	n, ok := tok.(json.Number)
	if err != nil || !ok {
		return 0, errors.New("the format version is not a number")
	}
	version, err := n.Int64()
	if err != nil || version < 0 || version > 1<<31-1 {
		return 0, errors.New("the format version is not a whole number")
	}
	return int(version), nil
}
