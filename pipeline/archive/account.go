package archive

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// AccountsPrefix is the folder in which purges give account of what they did.
const AccountsPrefix = "purges/"

// MaxAccountFile is the longest file of an account that a reader takes.
const MaxAccountFile = 256 << 20

// maxAccount is the longest JSON of one.
const maxAccount = MaxManifest

// PurgeAccount is what a purge says of itself, for certificates. One is written before the first snapshot is replaced,
// and says what each will lose; another when everything is deleted that no snapshot names any more. It holds no keys of
// people, and is encrypted like a manifest, since it names tables. Sign it with PurposePurge. Its JSON members stand in
// the order of these fields.
type PurgeAccount struct {
	Format     string      `json:"format"`     // "lethe"; set by WriteAccount
	Version    int         `json:"version"`    // set by WriteAccount
	Repository string      `json:"repository"` // the repository's id
	ID         string      `json:"id"`         // of the form of a snapshot's
	Written    time.Time   `json:"written"`    // UTC
	Tool       string      `json:"tool"`       // Lethe's own version
	Rules      string      `json:"rules"`      // SHA-256 of the rules that decided
	Ledger     *LedgerHead `json:"ledger"`     // the last record that was known; null where there was none

	Snapshots []PurgedSnapshot `json:"snapshots"` // that are to be replaced, and lose rows; none in the account of the end
	Swept     *Swept           `json:"swept"`     // null in the account of the beginning
}

// PurgedSnapshot is what one snapshot loses. It has lost it once it is gone.
type PurgedSnapshot struct {
	SnapshotRef
	Requests     []PurgedRequest `json:"requests"`
	LargeObjects int64           `json:"large_objects"` // for all requests together
}

// PurgedRequest is what it loses for one request. A row that is several people's counts for one of them.
type PurgedRequest struct {
	Sequence int64         `json:"sequence"` // of the request's record
	Tables   []PurgedTable `json:"tables"`
}

// PurgedTable is that in one table, in rows.
type PurgedTable struct {
	Table    string `json:"table"`
	Deleted  int64  `json:"deleted"`
	Redacted int64  `json:"redacted"` // they stay, rewritten
	Cleared  int64  `json:"cleared"`  // they stay, and reference nobody
	Others   int64  `json:"others"`   // of Deleted, rows that also belonged to somebody else
}

// Swept is what was deleted in the end, and what could not be.
type Swept struct {
	Honoured int64      `json:"honoured"` // every snapshot that was left honours the requests up to this record; 0: none
	Objects  int64      `json:"objects"`  // that no snapshot named any more
	Bytes    int64      `json:"bytes"`    // of those
	Versions int64      `json:"versions"` // old versions, in a store that keeps what was deleted
	Kept     []KeptFile `json:"kept"`     // deleted files that the store must keep
	Unknown  string     `json:"unknown"`  // why it is not known whether the store keeps more; "" where it is
}

// All says whether nothing deleted is left.
func (s *Swept) All() bool { return len(s.Kept) == 0 && s.Unknown == "" }

// KeptFile is a deleted file that a store keeps all the same, such as by S3's Object Lock.
type KeptFile struct {
	Name  string    `json:"name"`
	Until time.Time `json:"until"` // zero where nothing says
	Held  bool      `json:"held"`  // by a legal hold, until somebody lifts it
}

// AccountName returns where the account of an id is stored.
func AccountName(id string) string { return AccountsPrefix + id + ".age" }

// AccountOf returns the id of the account that is stored under name, or false where name is not an account's.
func AccountOf(name string) (id string, ok bool) {
	id, ok = strings.CutSuffix(strings.TrimPrefix(name, AccountsPrefix), ".age")
	return id, ok && ValidSnapshotID(id) && AccountName(id) == name
}

// WriteAccount returns an account's file, for the readers of a manifest. It refuses what ReadAccount would refuse.
func WriteAccount(a *PurgeAccount, readers *Manifest) ([]byte, error) {
	name := AccountName(a.ID)
	a.Format, a.Version, a.Written = formatName, Version, a.Written.UTC().Truncate(time.Microsecond)
	a.normalize()
	if err := a.validate(); err != nil {
		return nil, &Error{Name: name, Msg: "this account would not be readable", Err: err}
	}
	to, err := newRecipients(append([]string{readers.Operator}, readers.Recipients...))
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(a)
	if err != nil {
		return nil, &Error{Name: name, Msg: "encode", Err: err}
	}
	enc, err := newEncoder()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := encrypt(&out, enc.EncodeAll(text, nil), to.list); err != nil {
		return nil, &Error{Name: name, Msg: "encrypt", Err: err}
	}
	return out.Bytes(), nil
}

// ReadAccount decrypts and checks the account that is stored under name in a repository. Verify its signature first.
func ReadAccount(repository, name string, data []byte, identities *Identities) (*PurgeAccount, error) {
	text, err := readManifestText(name, data, identities, maxAccount)
	if err != nil {
		return nil, err
	}
	bad := func(err error) error {
		return &Error{Name: name, Msg: "not a valid account", Err: err, Kind: ErrIntegrity, Try: tryForeign}
	}
	if !utf8.Valid(text) {
		return nil, bad(problem("not valid UTF-8"))
	}
	a := &PurgeAccount{}
	if err := decodeJSON(name, text, a); err != nil {
		return nil, err
	}
	a.normalize()
	if err := a.validate(); err != nil {
		return nil, bad(err)
	}
	if a.Repository != repository || AccountName(a.ID) != name {
		return nil, &Error{Name: name, Msg: "holds another account", Kind: ErrIntegrity, Try: tryForeign}
	}
	return a, nil
}

func (a *PurgeAccount) normalize() {
	always(&a.Snapshots)
	for i := range a.Snapshots {
		always(&a.Snapshots[i].Requests)
		for j := range a.Snapshots[i].Requests {
			always(&a.Snapshots[i].Requests[j].Tables)
		}
	}
	if a.Swept != nil {
		always(&a.Swept.Kept)
	}
}

func (a *PurgeAccount) validate() error {
	switch {
	case a.Format != formatName || a.Version != Version:
		return problem("format or version stands twice")
	case !isHex(a.Repository, 32):
		return problem("repository: not 32 hexadecimal digits")
	case !ValidSnapshotID(a.ID):
		return problem("id: not of the form YYYYMMDDThhmmssZ-xxxxxx")
	case !inCentury(a.Written):
		return problem("written: not a time")
	case !isHex(a.Rules, 64):
		return problem("rules: not 64 hexadecimal digits")
	case a.Ledger != nil && (a.Ledger.Sequence < 1 || !isHex(a.Ledger.Digest, 64)):
		return problem("ledger: not a sequence from 1 and 64 hexadecimal digits")
	case a.Swept != nil && len(a.Snapshots) > 0:
		return problem("an account of the beginning and of the end")
	}
	if s := a.Swept; s != nil && (s.Honoured < 0 || s.Objects < 0 || s.Bytes < 0 || s.Versions < 0) {
		return problem("swept: a negative count")
	}
	refs := make([]SnapshotRef, len(a.Snapshots))
	for i, s := range a.Snapshots {
		refs[i] = s.SnapshotRef
		seen := map[int64]bool{}
		for _, r := range s.Requests {
			if r.Sequence < 1 || seen[r.Sequence] {
				return problem(fmt.Sprintf("snapshot %d: not a sequence of its own from 1", i+1))
			}
			seen[r.Sequence] = true
			tables := map[string]bool{}
			for _, t := range r.Tables {
				if t.Table == "" || tables[t.Table] || t.Deleted < 0 || t.Redacted < 0 || t.Cleared < 0 || t.Others < 0 || t.Others > t.Deleted {
					return problem(fmt.Sprintf("snapshot %d: not a table of its own and its counts", i+1))
				}
				tables[t.Table] = true
			}
		}
		if s.LargeObjects < 0 {
			return problem(fmt.Sprintf("snapshot %d: a negative count", i+1))
		}
	}
	return validRefs("snapshots", "", refs)
}
