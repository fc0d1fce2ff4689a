package archive

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"
)

// MaxCertificateFile is the longest certificate that a reader takes.
const MaxCertificateFile = 64 << 20

// certificateKind is what a certificate says it is.
const certificateKind = "erasure certificate"

// Certificate says what became of one erasure request, as far as signed files in the stores show it. It names the request
// by its reference, and nobody. It is no part of a repository. Sign it with PurposeCertificate and the name that
// CertificateName gives, whatever the file is called. Its JSON members stand in the order of these fields. Times are to
// the second, UTC; null where they are not known.
type Certificate struct {
	Format     string    `json:"format"`   // "lethe"; set by Encode
	Version    int       `json:"version"`  // set by Encode
	Document   string    `json:"document"` // "erasure certificate"; set by Encode
	Repository string    `json:"repository"`
	Dataset    string    `json:"dataset"`
	Issued     time.Time `json:"issued"`
	Issuer     string    `json:"issuer"` // the public key that signs it, RW…
	Tool       string    `json:"tool"`

	Request    CertifiedRequest `json:"request"`
	State      string           `json:"state"`      // recorded, effective, purged or verified
	Unfinished []string         `json:"unfinished"` // what is still to be done; none where the state is verified
	Unknown    []string         `json:"unknown"`    // what could not be found out

	Effective *time.Time `json:"effective"` // new snapshots leave the person out since then at the latest
	Purged    *time.Time `json:"purged"`    // when the last purge ended that left every snapshot without them; null where snapshots expired instead
	Verified  *time.Time `json:"verified"`  // when the last store's full reading ended

	Rules  string      `json:"rules"`  // SHA-256 of today's rules file
	Tools  []string    `json:"tools"`  // Lethe's versions that took the snapshots, purged and verified
	Ledger *LedgerHead `json:"ledger"` // the last record that was known

	Tables       []CertifiedTable `json:"tables"`        // what purges have taken from stored snapshots
	LargeObjects int64            `json:"large_objects"` // in the snapshot that lost most, for all requests of that purge together
	Kept         []CertifiedKeep  `json:"kept"`          // rows of erased people that the rules keep, and why
	Stores       []CertifiedStore `json:"stores"`
	Beyond       []string         `json:"beyond"` // copies that Lethe can't reach
	Limits       []string         `json:"limits"` // what can't be found or attributed
}

// CertifiedRequest is the request, without whom it is about.
type CertifiedRequest struct {
	Sequence   int64     `json:"sequence"` // of its record in the ledger
	Ref        string    `json:"ref"`
	Subject    string    `json:"subject_type"`
	Received   string    `json:"received"` // a day
	Deadline   string    `json:"deadline"` // a day
	Overdue    bool      `json:"overdue"`  // the deadline has passed, and it is not purged
	Recorded   time.Time `json:"recorded"`
	RecordedBy string    `json:"recorded_by"` // public key of the ledger record's signer
	Rules      string    `json:"rules"`       // SHA-256 of the rules file then
}

// CertifiedTable is what purges did to one table for the request, in the snapshot that had most such rows.
type CertifiedTable struct {
	PurgedTable
	Snapshots int `json:"snapshots"` // of which it had rows, in the store that has most of them
}

// CertifiedKeep is a rule of today's that keeps rows of erased people.
type CertifiedKeep struct {
	Table     string   `json:"table"`
	Reference string   `json:"reference"` // by which a row is theirs
	Redacted  []string `json:"redacted"`  // columns that are rewritten
	Reason    string   `json:"reason"`
}

// CertifiedStore is what is known of one store.
type CertifiedStore struct {
	Store     string               `json:"store"`
	Error     string               `json:"error"` // why nothing is known of it; "" where something is
	Snapshots int                  `json:"snapshots"`
	Unclean   int                  `json:"unclean_snapshots"` // that do not honour the request
	Rewritten []CertifiedSuccessor `json:"rewritten"`         // snapshots that have lost rows of the person
	Expired   []string             `json:"expired"`           // snapshots from before the request that are gone, of those that stored ones know
	Purges    []CertifiedPurge     `json:"purges"`
	Hidden    int                  `json:"hidden_files"`              // deleted files that it keeps and that may hold the person
	Unnamed   int                  `json:"unnamed_objects,omitempty"` // objects that no snapshot names and that may hold the person
	Kept      []KeptFile           `json:"kept"`                      // of those, the ones that the last purge could not delete
	Source    *CertifiedSource     `json:"source"`                    // null where it has no snapshot that honours the request
	Proof     *CertifiedProof      `json:"proof"`                     // null where nobody has verified what it holds
}

// CertifiedSuccessor is a snapshot that a purge has replaced. It is gone.
type CertifiedSuccessor struct {
	Old string `json:"old"`
	New string `json:"new"` // "" where that is gone, too
}

// CertifiedPurge is one run of a purge.
type CertifiedPurge struct {
	Ended  time.Time `json:"ended"`
	Signer string    `json:"signer"`
	Tool   string    `json:"tool"`
	Rules  string    `json:"rules"` // SHA-256
}

// CertifiedSource is what the newest backup has met in the live database, or in the dump file it read.
type CertifiedSource struct {
	Snapshot string    `json:"snapshot"`
	Started  time.Time `json:"started"`
	Rows     int64     `json:"rows"` // that lead to the person; they are not in the snapshot, or not as they were
}

// CertifiedProof is the proof that nobody is in a store's snapshots.
type CertifiedProof struct {
	Name     string    `json:"name"`
	Finished time.Time `json:"finished"`
	Signer   string    `json:"signer"`
	Tool     string    `json:"tool"`
	Rules    string    `json:"rules"`
	Objects  int64     `json:"objects"`
	Bytes    int64     `json:"bytes"`
	Rows     int64     `json:"rows"`
	Kept     int64     `json:"kept"`    // rows of all erased people that stay by a rule
	Lookups  int64     `json:"lookups"` // values that were searched for everywhere
}

// CertificateName is the name under which the certificate of a request is signed, its JSON or its page: suffix is "json"
// or "html".
func CertificateName(sequence int64, suffix string) string {
	return fmt.Sprintf("certificate/%08d.%s", sequence, suffix)
}

// Encode returns the one text of a certificate.
func (c *Certificate) Encode() ([]byte, error) {
	c.Format, c.Version, c.Document = formatName, Version, certificateKind
	c.normalize()
	if err := c.validate(); err != nil {
		return nil, &Error{Name: "certificate", Msg: "this certificate would not be readable", Err: err}
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text) // people may read it
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(c); err != nil {
		return nil, &Error{Name: "certificate", Msg: "encode", Err: err}
	}
	return text.Bytes(), nil
}

// ReadCertificate reads a certificate. What it says counts once its signature is verified.
func ReadCertificate(name string, data []byte) (*Certificate, error) {
	bad := func(err error) error {
		return &Error{Name: name, Msg: "not a valid certificate", Err: err, Kind: ErrIntegrity, Try: "ask who sent it for the file as it was made"}
	}
	if len(data) > MaxCertificateFile || !utf8.Valid(data) {
		return nil, bad(problem("too long, or not UTF-8"))
	}
	c := &Certificate{}
	if err := decodeJSON(name, data, c); err != nil {
		return nil, err
	}
	if err := c.validate(); err != nil {
		return nil, bad(err)
	}
	if text, err := c.Encode(); err != nil || !bytes.Equal(text, data) {
		return nil, bad(problem("not in the one form that a certificate has"))
	}
	return c, nil
}

func (c *Certificate) normalize() {
	seconds := func(t *time.Time) { *t = t.UTC().Truncate(time.Second) }
	seconds(&c.Issued)
	seconds(&c.Request.Recorded)
	for _, t := range []*time.Time{c.Effective, c.Purged, c.Verified} {
		if t != nil {
			seconds(t)
		}
	}
	always(&c.Unfinished)
	always(&c.Unknown)
	always(&c.Tools)
	always(&c.Tables)
	always(&c.Kept)
	always(&c.Stores)
	always(&c.Beyond)
	always(&c.Limits)
	for i := range c.Kept {
		always(&c.Kept[i].Redacted)
	}
	for i := range c.Stores {
		s := &c.Stores[i]
		always(&s.Rewritten)
		always(&s.Expired)
		always(&s.Purges)
		always(&s.Kept)
		if s.Source != nil {
			seconds(&s.Source.Started)
		}
	}
}

// States of a request that a certificate can tell.
var certifiedStates = []string{"recorded", "effective", "purged", "verified"}

func (c *Certificate) validate() error {
	finished := c.State == "verified"
	switch {
	case c.Format != formatName || c.Version != Version || c.Document != certificateKind:
		return problem("format, version or document stands twice, or is that of something else")
	case !isHex(c.Repository, 32):
		return problem("repository: not 32 hexadecimal digits")
	case !inTime(c.Issued) || !inTime(c.Request.Recorded):
		return problem("issued or recorded: not times in whole seconds")
	case c.Request.Sequence < 1 || !ValidRef(c.Request.Ref):
		return problem("request: not a sequence from 1 and a reference")
	case !slices.Contains(certifiedStates, c.State):
		return problem("state: unknown")
	case finished != (len(c.Unfinished) == 0) || finished && c.Verified == nil:
		return problem("the state and what is unfinished contradict each other")
	case c.Ledger == nil || c.Ledger.Sequence < c.Request.Sequence || !isHex(c.Ledger.Digest, 64):
		return problem("ledger: not a record from the request's on, and 64 hexadecimal digits")
	case !isHex(c.Rules, 64) || !isHex(c.Request.Rules, 64):
		return problem("rules: not 64 hexadecimal digits")
	}
	for _, key := range []string{c.Issuer, c.Request.RecordedBy} {
		if _, err := ParsePublicKey(key); err != nil {
			return problem("issuer or recorded_by: not a minisign public key")
		}
	}
	for _, s := range c.Stores {
		if finished && (s.Error != "" || s.Unclean > 0 || s.Hidden > 0 || s.Unnamed > 0 || s.Proof == nil) {
			return problem("the state and what is said of a store contradict each other")
		}
	}
	return nil
}
