package archive

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// ProofsPrefix is the folder of proofs in a repository.
const ProofsPrefix = "proofs/"

// Proof says that a key holder has read everything that some snapshots hold, and found nothing of the people whom some
// requests are about. It names no one. Sign it with PurposeProof. Its JSON members stand in the order of these fields.
type Proof struct {
	Format     string    `json:"format"`     // "lethe"; set by Encode
	Version    int       `json:"version"`    // set by Encode
	Repository string    `json:"repository"` // the repository's id
	Started    time.Time `json:"started"`    // to the second, UTC
	Finished   time.Time `json:"finished"`
	Tool       string    `json:"tool"` // Lethe's own version

	Snapshots []SnapshotRef  `json:"snapshots"` // everything that was stored then, oldest first
	Requests  []ProofRequest `json:"requests"`  // that were looked for
	Ledger    *LedgerHead    `json:"ledger"`    // the last record that was known; null where there was none
	Rules     string         `json:"rules"`     // SHA-256 of the rules that said where to look

	Objects int64 `json:"objects"` // read in full, each once
	Bytes   int64 `json:"bytes"`   // of those, in the store
	Rows    int64 `json:"rows"`    // in them
	Kept    int64 `json:"kept"`    // rows that stay by a rule, redacted
	Lookups int64 `json:"lookups"` // values that were searched for everywhere, such as addresses
}

// ProofRequest is one request that was looked for.
type ProofRequest struct {
	Sequence int64  `json:"sequence"` // of its record in the ledger
	Ref      string `json:"ref"`
}

// ProofName returns where a proof is stored: by the time that it was finished, and random digits.
func ProofName(id string) string { return ProofsPrefix + id + ".json" }

// ProofOf returns the id of the proof that is stored under name, or false where name is not a proof's.
func ProofOf(name string) (id string, ok bool) {
	id, ok = strings.CutSuffix(strings.TrimPrefix(name, ProofsPrefix), ".json")
	return id, ok && ValidSnapshotID(id) && ProofName(id) == name
}

// Encode returns the one text of a proof.
func (p *Proof) Encode() ([]byte, error) {
	p.Format, p.Version = formatName, Version
	p.Started, p.Finished = p.Started.UTC().Truncate(time.Second), p.Finished.UTC().Truncate(time.Second)
	always(&p.Snapshots)
	always(&p.Requests)
	if err := p.validate(); err != nil {
		return nil, &Error{Name: "proof", Msg: "this proof would not be readable", Err: err}
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil, &Error{Name: "proof", Msg: "encode", Err: err}
	}
	return append(text, '\n'), nil
}

// maxProof is the longest proof that a reader takes.
const maxProof = 64 << 20

// MaxProofFile is the longest file of a proof that a reader takes.
const MaxProofFile = maxProof

// ReadProof reads the proof stored under name in a repository. Verify its signature first.
func ReadProof(repository, name string, data []byte) (*Proof, error) {
	if len(data) > maxProof {
		return nil, &Error{Name: name, Msg: "too long", Kind: ErrIntegrity, Try: tryForeign}
	}
	p := &Proof{}
	if err := decodeJSON(name, data, p); err != nil {
		return nil, err
	}
	if err := p.validate(); err != nil {
		return nil, &Error{Name: name, Msg: "not a valid proof", Err: err, Kind: ErrIntegrity, Try: tryForeign}
	}
	if p.Repository != repository {
		return nil, &Error{Name: name, Msg: "of another repository", Kind: ErrIntegrity, Try: tryForeign}
	}
	return p, nil
}

func (p *Proof) validate() error {
	switch {
	case p.Format != formatName || p.Version != Version:
		return problem("format or version stands twice")
	case !isHex(p.Repository, 32):
		return problem("repository: not 32 hexadecimal digits")
	case !inTime(p.Started) || !inTime(p.Finished) || p.Finished.Before(p.Started):
		return problem("started or finished: not times in whole seconds, one after the other")
	case !utf8.ValidString(p.Tool):
		return problem("tool: not valid UTF-8")
	case p.Ledger != nil && (p.Ledger.Sequence < 1 || !isHex(p.Ledger.Digest, 64)):
		return problem("ledger: not a sequence from 1 and 64 hexadecimal digits")
	case !isHex(p.Rules, 64):
		return problem("rules: not 64 hexadecimal digits")
	case p.Objects < 0 || p.Bytes < 0 || p.Rows < 0 || p.Kept < 0 || p.Lookups < 0:
		return problem("a negative count")
	}
	if err := validRefs("snapshots", "", p.Snapshots); err != nil {
		return problem(err.Error())
	}
	seen := map[int64]bool{}
	for i, r := range p.Requests {
		if r.Sequence < 1 || seen[r.Sequence] || r.Ref == "" || !utf8.ValidString(r.Ref) {
			return problem(fmt.Sprintf("request %d: not a sequence of its own from 1 and a reference", i+1))
		}
		seen[r.Sequence] = true
	}
	return nil
}

func inTime(t time.Time) bool {
	return t.UTC().Year() >= 1970 && t.UTC().Year() <= 9999 && t.Equal(t.Truncate(time.Second))
}
