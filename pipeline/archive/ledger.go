package archive

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// LedgerPrefix is where chain records, their signatures and sealed requests stand.
const LedgerPrefix = "ledger/"

// Bounds of a ledger.
const (
	MaxSequence = 99_999_999 // eight digits
	MaxKey      = 1 << 10    // bytes of a subject's key
	maxRecord   = 4 << 10    // bytes of a chain record
	maxSealed   = 16 << 10   // bytes of a sealed request's JSON
)

// NoDigest stands for the record before the first one.
const NoDigest = "0000000000000000000000000000000000000000000000000000000000000000"

// RecordKind says what a chain record does.
type RecordKind string

// The kinds of chain record.
const (
	RequestRecord RecordKind = "request" // commits to a request, which is sealed beside it
	ClosedRecord  RecordKind = "closed"  // ends an earlier request: its sealed file may be gone
	AdoptedRecord RecordKind = "adopted" // vouches for every record before it, whoever signed those
)

// LedgerRecord is one link of the chain: ledger/00000017.json. It tells nothing of the person: what it commits to is
// sealed, and salted with 32 random bytes.
type LedgerRecord struct {
	Format     string     `json:"format"`
	Version    int        `json:"version"`
	Sequence   int64      `json:"sequence"` // from 1, without gaps
	Kind       RecordKind `json:"kind"`
	Previous   string     `json:"previous"`             // SHA-256 of the file of the record before; NoDigest for the first
	Commitment string     `json:"commitment,omitempty"` // request: SHA-256 of the sealed request's plaintext
	Closes     int64      `json:"closes,omitempty"`     // closed: the sequence of the request that ends
}

// LedgerRequest is an order to erase one subject, as it is sealed in ledger/00000017-READERS.age.
type LedgerRequest struct {
	Repository string    // the repository's id
	Sequence   int64     // of its chain record
	Salt       SecretKey // makes the commitment tell nothing, and keys what erasing writes; gone with the sealed request
	Ref        string    // the request's own reference
	Subject    string    // type, as in user:42
	Key        string
	Received   time.Time // a day, UTC
	Recorded   time.Time // to the second, UTC
	Rules      string    // digest of the rules in force then
	Signer     PublicKey // who recorded it
}

// sealedRequest is the plaintext of a sealed request. It has one text: the commitment is over its bytes.
type sealedRequest struct {
	Format     string `json:"format"`
	Version    int    `json:"version"`
	Repository string `json:"repository"`
	Sequence   int64  `json:"sequence"`
	Salt       string `json:"salt"`
	Ref        string `json:"ref"`
	Subject    string `json:"subject"`
	Key        string `json:"key"`
	Received   string `json:"received"`
	Recorded   string `json:"recorded"`
	Rules      string `json:"rules"`
	Signer     string `json:"signer"`
}

// RecordName returns where the chain record of a sequence is stored.
func RecordName(sequence int64) string { return fmt.Sprintf("%s%08d.json", LedgerPrefix, sequence) }

// SealedName returns where the sealed request of a sequence is stored for certain readers; see SealedReaders.
func SealedName(sequence int64, readers string) string {
	return fmt.Sprintf("%s%08d-%s.age", LedgerPrefix, sequence, readers)
}

// RecordOf returns the sequence whose chain record is stored under name, or false where name is not a record's.
func RecordOf(name string) (sequence int64, ok bool) {
	digits, ok := strings.CutSuffix(strings.TrimPrefix(name, LedgerPrefix), ".json")
	if !ok || len(digits) != 8 {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, err == nil && n > 0 && RecordName(n) == name
}

// SealedOf returns the sequence and readers of the sealed request that is stored under name, or false where name is not
// a sealed request's.
func SealedOf(name string) (sequence int64, readers string, ok bool) {
	rest, ok := strings.CutSuffix(strings.TrimPrefix(name, LedgerPrefix), ".age")
	if !ok || len(rest) != 8+1+readersLength {
		return 0, "", false
	}
	readers = rest[9:]
	n, err := strconv.ParseInt(rest[:8], 10, 64)
	return n, readers, err == nil && n > 0 && isHex(readers, readersLength) && SealedName(n, readers) == name
}

const readersLength = 8

// SealedReaders names the set of those who can open sealed requests: the recipients and the operator. A change of either
// gives other names, under which the requests are sealed anew.
func SealedReaders(recipients *Recipients, op *OperatorKey) (string, error) {
	all, err := recipients.WithOperator(op)
	if err != nil {
		return "", err
	}
	digest := all.Digest()
	return fmt.Sprintf("%x", digest[:readersLength/2]), nil
}

var refForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/#+-]{0,127}$`)

// ValidRef reports whether ref can be a request's reference: 1 to 128 letters, digits and . _ : / # + -, a letter or
// digit first. It is printed, so it has no room for an address.
func ValidRef(ref string) bool { return refForm.MatchString(ref) }

// NewLedgerRequest returns a request with a salt of its own. The other members are the caller's to fill in.
func NewLedgerRequest() (*LedgerRequest, error) {
	var salt [32]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return nil, fmt.Errorf("make a request's salt: %w", err)
	}
	return &LedgerRequest{Salt: NewSecretKey(salt)}, nil
}

// String names the request without its subject, so that printing one shows no key.
func (r LedgerRequest) String() string { return fmt.Sprintf("request %d (%s)", r.Sequence, r.Ref) }

// GoString is String.
func (r LedgerRequest) GoString() string { return r.String() }

// Format prints String whatever the verb.
func (r LedgerRequest) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(r.String())) }

// plaintext returns the request's one text.
func (r *LedgerRequest) plaintext() ([]byte, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(sealedRequest{formatName, Version, r.Repository, r.Sequence, r.Salt.hex(), r.Ref, r.Subject, r.Key,
		r.Received.UTC().Format(time.DateOnly), r.Recorded.UTC().Format(time.RFC3339), r.Rules, r.Signer.String()})
	if err != nil {
		return nil, problem("encode")
	}
	if len(text) >= maxSealed {
		return nil, problem("too long")
	}
	return append(text, '\n'), nil
}

// validate never quotes a value: the key may be personal, and the reference may have been mistaken for one.
func (r *LedgerRequest) validate() error {
	switch {
	case !isHex(r.Repository, 32):
		return problem("repository: not 32 hexadecimal digits")
	case r.Sequence < 1 || r.Sequence > MaxSequence:
		return problem("sequence: out of bounds")
	case r.Salt.IsZero():
		return problem("salt: missing")
	case !ValidRef(r.Ref):
		return problem("ref: not 1 to 128 letters, digits and . _ : / # + -, a letter or digit first")
	case r.Subject == "" || len(r.Subject) > 128 || !utf8.ValidString(r.Subject) || strings.ContainsFunc(r.Subject, unicode.IsControl):
		return problem("subject: not a type of subject")
	case r.Key == "" || len(r.Key) > MaxKey || !utf8.ValidString(r.Key) || strings.ContainsRune(r.Key, 0):
		return problem(fmt.Sprintf("key: not 1 to %d bytes of UTF-8 without NUL", MaxKey))
	case !inCentury(r.Received) || !r.Received.Equal(r.Received.UTC().Truncate(24*time.Hour)):
		return problem("received: not a day")
	case !inCentury(r.Recorded) || !r.Recorded.Equal(r.Recorded.Truncate(time.Second)):
		return problem("recorded: not a time in whole seconds")
	case !isHex(r.Rules, 64):
		return problem("rules: not 64 hexadecimal digits")
	}
	if _, err := ParsePublicKey(r.Signer.String()); err != nil {
		return problem("signer: not a minisign public key")
	}
	return nil
}

// inCentury keeps times to those that have one text and that a clock which was ever set can show.
func inCentury(t time.Time) bool { return t.UTC().Year() >= 1970 && t.UTC().Year() <= 9999 }

// SealRequest encrypts a request to the recipients and the operator, and returns the file and what its chain record
// commits to. Sealed again for other readers, it has the same commitment.
func SealRequest(r *LedgerRequest, recipients *Recipients, op *OperatorKey) (data []byte, commitment string, err error) {
	name := fmt.Sprintf("%s%08d.age", LedgerPrefix, r.Sequence)
	plain, err := r.plaintext()
	if err != nil {
		return nil, "", &Error{Name: name, Msg: "this request would not be readable", Err: err}
	}
	to, err := recipients.WithOperator(op)
	if err != nil {
		return nil, "", err
	}
	var out bytes.Buffer
	if err := encrypt(&out, plain, to.list); err != nil {
		return nil, "", &Error{Name: name, Msg: "encrypt", Err: err}
	}
	return out.Bytes(), Digest(plain), nil
}

// OpenRequest decrypts the sealed request stored under name and checks it against its chain record, which was verified
// before. It needs no signature of its own: what differs from what the record commits to is an ErrIntegrity.
func OpenRequest(repository, name string, data []byte, record *LedgerRecord, identities *Identities) (*LedgerRequest, error) {
	bad := func(msg string) error { return &Error{Name: name, Msg: msg, Kind: ErrIntegrity, Try: tryForeign} }
	if len(data) > MaxSealedFile {
		return nil, bad("too long")
	}
	var plain bytes.Buffer
	if err := decrypt(&plain, data, name, identities); err != nil {
		return nil, err
	}
	if record.Kind != RequestRecord || Digest(plain.Bytes()) != record.Commitment {
		return nil, bad("not the request that its chain record commits to")
	}
	r, err := parseRequest(name, plain.Bytes())
	if err != nil {
		return nil, err
	}
	if r.Repository != repository || r.Sequence != record.Sequence {
		return nil, bad("the request of another record")
	}
	return r, nil
}

// parseRequest reads the plaintext of a sealed request.
func parseRequest(name string, plain []byte) (*LedgerRequest, error) {
	bad := func(err error) error {
		return &Error{Name: name, Msg: "not a valid request", Kind: ErrIntegrity, Err: err, Try: tryForeign}
	}
	var s sealedRequest
	if err := decodeJSON(name, plain, &s); err != nil {
		return nil, err
	}
	r := &LedgerRequest{Repository: s.Repository, Sequence: s.Sequence, Ref: s.Ref, Subject: s.Subject, Key: s.Key, Rules: s.Rules}
	var ok bool
	if r.Salt, ok = parseSecretKey(s.Salt); !ok {
		return nil, bad(problem("salt: not 64 hexadecimal digits"))
	}
	var err error
	if r.Received, err = time.Parse(time.DateOnly, s.Received); err != nil {
		return nil, bad(problem("received: not a day"))
	}
	if r.Recorded, err = time.Parse(time.RFC3339, s.Recorded); err != nil {
		return nil, bad(problem("recorded: not a time"))
	}
	r.Recorded = r.Recorded.UTC()
	if r.Signer, err = ParsePublicKey(s.Signer); err != nil {
		return nil, bad(problem("signer: not a minisign public key"))
	}
	text, err := r.plaintext()
	if err == nil && !bytes.Equal(text, plain) {
		err = problem("not in the one form that a request has")
	}
	if err != nil {
		return nil, bad(err)
	}
	return r, nil
}

// MaxSealedFile and MaxRecordFile are the longest files of a ledger that a reader takes.
const (
	MaxSealedFile = maxSealed + 16<<10 // recipients may be many
	MaxRecordFile = maxRecord
)

// Next returns the record that follows the head; nil is the head of a ledger without records.
func (head *LedgerHead) Next(kind RecordKind) *LedgerRecord {
	r := &LedgerRecord{Format: formatName, Version: Version, Sequence: 1, Kind: kind, Previous: NoDigest}
	if head != nil {
		r.Sequence, r.Previous = head.Sequence+1, head.Digest
	}
	return r
}

// Encode returns the one text of a chain record. Sign it with PurposeLedger.
func (r *LedgerRecord) Encode() ([]byte, error) {
	if err := r.validate(); err != nil {
		return nil, &Error{Name: RecordName(r.Sequence), Msg: "this record would not be readable", Err: err}
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, &Error{Name: RecordName(r.Sequence), Msg: "encode", Err: err}
	}
	return append(text, '\n'), nil
}

func (r *LedgerRecord) validate() error {
	switch {
	case r.Format != formatName || r.Version != Version:
		return problem("format or version stands twice")
	case r.Sequence < 1 || r.Sequence > MaxSequence:
		return problem("sequence: out of bounds")
	case !isHex(r.Previous, 64) || (r.Previous == NoDigest) != (r.Sequence == 1):
		return problem("previous: not the digest of a record before")
	}
	switch r.Kind {
	case RequestRecord:
		if !isHex(r.Commitment, 64) || r.Closes != 0 {
			return problem("a request has a commitment, 64 hexadecimal digits, and closes nothing")
		}
	case ClosedRecord:
		if r.Commitment != "" || r.Closes < 1 || r.Closes >= r.Sequence {
			return problem("a closed record closes one that stands before it, and has no commitment")
		}
	case AdoptedRecord:
		if r.Commitment != "" || r.Closes != 0 || r.Sequence == 1 {
			return problem("an adopted record stands after others, closes nothing, and has no commitment")
		}
	default:
		return problem("unknown kind")
	}
	return nil
}

// ReadRecord reads the chain record stored under name. Verify its signature first; whether it follows the one before is
// the caller's to check.
func ReadRecord(name string, data []byte) (*LedgerRecord, error) {
	sequence, ok := RecordOf(name)
	if !ok {
		return nil, &Error{Name: name, Msg: "not the name of a ledger's record (" + RecordName(17) + ")", Kind: ErrIntegrity}
	}
	if len(data) > maxRecord {
		return nil, &Error{Name: name, Msg: "too long", Kind: ErrIntegrity, Try: tryForeign}
	}
	r := &LedgerRecord{}
	if err := decodeJSON(name, data, r); err != nil {
		return nil, err
	}
	if err := r.validate(); err != nil {
		return nil, &Error{Name: name, Msg: "not a valid record", Err: err, Kind: ErrIntegrity, Try: tryForeign}
	}
	if r.Sequence != sequence {
		return nil, &Error{Name: name, Msg: fmt.Sprintf("holds another record, %d", r.Sequence), Kind: ErrIntegrity, Try: tryForeign}
	}
	if text, err := r.Encode(); err != nil || !bytes.Equal(text, data) {
		return nil, &Error{Name: name, Msg: "not in the one form that a record has", Kind: ErrIntegrity, Try: tryForeign}
	}
	return r, nil
}

// String writes the head for people to note down: sequence and the first half of the digest, as in 17:3f9a1c….
func (head *LedgerHead) String() string {
	if head == nil {
		return "none"
	}
	return fmt.Sprintf("%d:%.32s", head.Sequence, head.Digest)
}

// ParseLedgerHead reads what String has written: a sequence, or a sequence and at least 8 digits of the digest. The Digest
// of the result may be a part of one.
func ParseLedgerHead(s string) (*LedgerHead, error) {
	number, digest, found := strings.Cut(s, ":")
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 1 || n > MaxSequence || found && (len(digest) < 8 || len(digest) > 64 || !isHex(digest, len(digest))) {
		return nil, &Error{Name: "ledger head", Msg: "not of the form 17:3f9a1c… (a sequence, and at least 8 digits of the digest)",
			Try: "take it from what lethe backup or lethe erasure list printed"}
	}
	return &LedgerHead{Sequence: n, Digest: digest}, nil
}
