package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"
	"unicode/utf8"

	"filippo.io/age"
)

// MaxManifest is the longest JSON that a manifest may hold, unless Limits says otherwise.
const MaxManifest = 1 << 30

// Manifest is what a snapshot is: where it came from, what was done to it, and the objects that hold it, in the order
// in which they restore. Its JSON members stand in the order of these fields.
type Manifest struct {
	Format   string    `json:"format"`  // "lethe"; set by WriteManifest
	Version  int       `json:"version"` // set by WriteManifest
	ID       string    `json:"id"`
	Dataset  string    `json:"dataset"`
	Started  time.Time `json:"started"` // of the view of the database
	Finished time.Time `json:"finished"`

	Tool          string `json:"tool"` // Lethe's own version
	ServerVersion string `json:"server_version"`
	PgDumpVersion string `json:"pg_dump_version"`

	Source     Source        `json:"source"`
	Alive      []SnapshotRef `json:"alive"`              // the snapshots stored beside this one when it was written, without it
	Supersedes []SnapshotRef `json:"supersedes"`         // the snapshots that this one replaces
	Resealed   []SnapshotRef `json:"resealed,omitempty"` // the files that this one is, sealed anew for another operator, the last first
	Rules      Rules         `json:"rules"`
	Schema     string        `json:"schema_fingerprint"` // SHA-256, 64 hexadecimal digits

	Ledger  *LedgerHead `json:"ledger"`           // the last record honoured; null where there is no ledger
	Erasure int64       `json:"erasures_applied"` // how many erasure requests were applied; no keys
	Met     []Met       `json:"met,omitempty"`    // the requests of which the source still had rows, by sequence
	Unfit   []int64     `json:"unfit,omitempty"`  // the requests that could be about nobody: their keys are no values of the key column; sequences

	Database       Database    `json:"database"`
	Extensions     []Extension `json:"extensions"`
	Roles          []Role      `json:"roles"`           // needed to restore with owners and privileges
	ClientEncoding string      `json:"client_encoding"` // of every text in the objects

	// Who can read this snapshot, so that a purge can write its successor for the same people. Set by WriteManifest.
	Recipients []string `json:"recipients"` // age public keys that the objects are encrypted to, sorted
	Operator   string   `json:"operator"`   // the operator's age public key, which the manifest is encrypted to beside them

	Parts []Part `json:"parts"` // in restore order
}

// Source is the identity of the database that was read.
type Source struct {
	SystemID string `json:"system_identifier"` // "" where the role may not ask, or for a dump file
	Timeline string `json:"timeline"`
	LSN      string `json:"lsn"`
	Name     string `json:"name"`
}

// SnapshotRef names another snapshot's manifest, exactly.
type SnapshotRef struct {
	ID     string `json:"id"`
	Digest string `json:"digest"` // SHA-256 of the manifest file, 64 hexadecimal digits
}

// Rules are the rules that a snapshot was made with.
type Rules struct {
	Text   string `json:"text"`
	Digest string `json:"digest"`           // SHA-256 of Text; set by WriteManifest
	Erased string `json:"erased,omitempty"` // SHA-256 of the rules by which a purge has erased people since, "" where it was these
}

// ErasedBy is the digest of the rules by which the requests up to the ledger's head were honoured last.
func (r Rules) ErasedBy() string {
	if r.Erased != "" {
		return r.Erased
	}
	return r.Digest
}

// Replaces lists the snapshots whose place this one has taken: rewritten, or the same under another file.
func (m *Manifest) Replaces() []SnapshotRef { return slices.Concat(m.Supersedes, m.Resealed) }

// LedgerHead is the last record of a ledger.
type LedgerHead struct {
	Sequence int64  `json:"sequence"`
	Digest   string `json:"digest"` // 64 hexadecimal digits
}

// Met says how many rows a backup has met in the source that lead to the person of an erasure request. They are not in
// the snapshot, or not as they were.
type Met struct {
	Sequence int64 `json:"sequence"` // of the request's record, one that the snapshot honours
	Rows     int64 `json:"rows"`     // at least 1
}

// Database is what CREATE DATABASE and ALTER DATABASE need to say.
type Database struct {
	Encoding       string    `json:"encoding"`
	LocaleProvider string    `json:"locale_provider"`
	Collate        string    `json:"lc_collate"`
	CType          string    `json:"lc_ctype"`
	ICULocale      string    `json:"icu_locale"`
	Settings       []Setting `json:"settings"`
	Comment        string    `json:"comment,omitempty"`
}

// Setting is one parameter that belongs to the database.
type Setting struct {
	Role  string `json:"role,omitempty"` // ALTER ROLE … IN DATABASE; "" for ALTER DATABASE
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Extension is one that must be available where the snapshot is restored.
type Extension struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
}

// Role is one that owners, privileges or policies name.
type Role struct {
	Name       string   `json:"name"`
	Attributes []string `json:"attributes"` // as CREATE ROLE spells them: LOGIN, NOSUPERUSER …
}

// PartKind says what a part holds.
type PartKind string

// The kinds of part, in the order in which they restore. Every kind but Table stands at most once.
const (
	Globals      PartKind = "globals"
	PreData      PartKind = "pre-data"
	Table        PartKind = "table"
	Sequences    PartKind = "sequences"
	LargeObjects PartKind = "large-objects"
	PostData     PartKind = "post-data"
)

// rank is the kind's place in restore order, or 0 for an unknown kind.
func (k PartKind) rank() int {
	switch k {
	case Globals:
		return 1
	case PreData:
		return 2
	case Table:
		return 3
	case Sequences:
		return 4
	case LargeObjects:
		return 5
	case PostData:
		return 6
	}
	return 0
}

// Part is one step of a restore: its objects' texts, one after another, are SQL.
type Part struct {
	Kind     PartKind `json:"kind"`
	Name     string   `json:"name,omitempty"`    // for people
	Schema   string   `json:"schema,omitempty"`  // tables only
	Table    string   `json:"table,omitempty"`   // tables only
	Columns  []string `json:"columns,omitempty"` // tables only: what COPY names
	Rows     int64    `json:"rows"`              // stored
	Dropped  int64    `json:"dropped"`           // left out by rules or erasure
	Redacted int64    `json:"redacted"`          // rows rewritten because they belong to an erased person
	Cleared  int64    `json:"cleared"`           // rows that lost a reference to an erased person
	Objects  []Object `json:"objects"`
	Filters  []Object `json:"filters,omitempty"` // which keys its rows may hold; tables only, and no part of the SQL
}

// Object is one object as the manifest names it.
type Object struct {
	Object string `json:"object"` // SHA-256 of the file
	Size   int64  `json:"size"`   // bytes of the file
	Text   int64  `json:"text"`   // bytes of the text inside
	Rows   int64  `json:"rows"`   // rows of a table in that text
	Piece  string `json:"piece"`  // piece id of the text
	Range  int    `json:"range,omitempty"`
}

// Ref returns the object a Sealer made as a manifest names it.
func (s Sealed) Ref(rows int64, piece PieceID, rangeNo int) Object {
	return Object{Object: s.Object, Size: s.Size, Text: s.Text, Rows: rows, Piece: piece.String(), Range: rangeNo}
}

// Limits bounds what a reader takes; zero means the format's own limit.
type Limits struct {
	Manifest int64 // bytes of a manifest's JSON
}

// WriteManifest returns the manifest file and its SHA-256, and sets m's format, version, readers and rules digest. It is
// encrypted to the recipients (those of the objects) and the operator. It refuses what ReadManifest would refuse.
func WriteManifest(m *Manifest, recipients *Recipients, op *OperatorKey) (data []byte, digest string, err error) {
	if _, err := recipients.WithOperator(op); err != nil {
		return nil, "", err
	}
	m.Recipients, m.Operator = recipients.Strings(), op.recipient(recipients.hybrid)
	return RewriteManifest(m)
}

// RewriteManifest is WriteManifest for a manifest that was read before, by a key holder who has no operator key: it
// keeps the readers that m names.
func RewriteManifest(m *Manifest) (data []byte, digest string, err error) {
	if err := m.complete(); err != nil {
		return nil, "", err
	}
	to, err := newRecipients(append([]string{m.Operator}, m.Recipients...))
	if err != nil {
		return nil, "", err
	}
	enc, err := newEncoder()
	if err != nil {
		return nil, "", err
	}
	// The JSON is never in memory whole: it is several times as long as the file. So it is made twice, since the frame
	// begins with its length.
	var size counter
	if err := m.encode(&size); err != nil {
		return nil, "", &Error{Name: ManifestName(m.ID), Msg: "encode", Err: err}
	}
	var out bytes.Buffer
	sealed, err := age.Encrypt(&out, to.list...)
	if err == nil {
		enc.ResetContentSize(sealed, int64(size))
		err = m.encode(enc)
	}
	if err == nil {
		err = enc.Close()
	}
	if err == nil {
		err = sealed.Close()
	}
	if err != nil {
		return nil, "", &Error{Name: ManifestName(m.ID), Msg: "encrypt", Err: err}
	}
	return out.Bytes(), Digest(out.Bytes()), nil
}

// ResealManifest is RewriteManifest for another operator than the one that m names.
func ResealManifest(m *Manifest, op *OperatorKey) (data []byte, digest string, err error) {
	recipients, err := newRecipients(m.Recipients)
	if err != nil {
		return nil, "", err
	}
	return WriteManifest(m, recipients, op)
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// Digest returns the SHA-256 of data as 64 hexadecimal digits: how manifests are named in SnapshotRef.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// complete fills in what WriteManifest sets, and makes sure that ReadManifest would take the result.
func (m *Manifest) complete() error {
	m.Format, m.Version = formatName, Version
	m.Rules.Digest = Digest([]byte(m.Rules.Text))
	m.normalize()
	if err := m.validate(); err != nil {
		return &Error{Name: ManifestName(m.ID), Msg: "this manifest would not be readable", Err: err}
	}
	return nil
}

// encode writes what json.Marshal would, one object at a time.
func (m *Manifest) encode(w io.Writer) error {
	head := *m
	head.Parts = []Part{}
	return splice(w, head, "parts", len(m.Parts), func(i int) error {
		p := m.Parts[i]
		p.Objects = []Object{}
		return splice(w, p, "objects", len(m.Parts[i].Objects), func(j int) error {
			text, err := json.Marshal(&m.Parts[i].Objects[j])
			if err != nil {
				return err
			}
			_, err = w.Write(text)
			return err
		})
	})
}

// splice writes v, whose member called name must be an empty array, with n elements in that array.
func splice(w io.Writer, v any, name string, n int, element func(i int) error) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	// Inside a string the quotes would be escaped.
	before, after, ok := bytes.Cut(text, []byte(`"`+name+`":[]`))
	if !ok {
		return fmt.Errorf("%s: not an empty array", name)
	}
	if _, err := fmt.Fprintf(w, `%s"%s":[`, before, name); err != nil {
		return err
	}
	for i := range n {
		if i > 0 {
			if _, err := io.WriteString(w, ","); err != nil {
				return err
			}
		}
		if err := element(i); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(w, `]%s`, after)
	return err
}

// ReadManifest decrypts and checks the manifest file stored under name. Verify its signature first. Everything in the
// result keeps what the format promises: forms, order, bounds, sums.
func ReadManifest(name string, data []byte, identities *Identities, limits Limits) (*Manifest, error) {
	limit := limits.Manifest
	if limit <= 0 {
		limit = MaxManifest
	}
	id, ok := SnapshotOf(name)
	if !ok {
		return nil, &Error{Name: name, Msg: "not the name of a manifest (" + ManifestName("YYYYMMDDThhmmssZ-xxxxxx") + ")", Kind: ErrIntegrity}
	}
	text, err := readManifestText(name, data, identities, limit)
	if err != nil {
		return nil, err
	}
	m, err := decodeManifest(name, text)
	if err != nil {
		return nil, err
	}
	if m.ID != id {
		return nil, &Error{Name: name, Msg: "holds the manifest of another snapshot, " + m.ID, Kind: ErrIntegrity, Try: tryForeign}
	}
	return m, nil
}

func readManifestText(name string, data []byte, identities *Identities, limit int64) ([]byte, error) {
	var packed bytes.Buffer
	if err := decrypt(&packed, data, name, identities); err != nil {
		return nil, err
	}
	dec, err := newDecoder()
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	text, err := unpack(dec, nil, packed.Bytes(), 0, limit)
	if err != nil {
		return nil, &Error{Name: name, Msg: "decompress", Err: err, Kind: ErrIntegrity, Try: tryForeign}
	}
	return text, nil
}

func decodeManifest(name string, text []byte) (*Manifest, error) {
	// Go would replace what is not UTF-8 in silence.
	if !utf8.Valid(text) {
		return nil, &Error{Name: name, Msg: "not valid UTF-8", Kind: ErrIntegrity, Try: tryForeign}
	}
	if err := checkVersion(name, text); err != nil {
		return nil, err
	}
	m, err := parseManifest(text)
	if err != nil {
		return nil, &Error{Name: name, Msg: jsonProblem(err), Kind: ErrIntegrity, Try: tryForeign}
	}
	m.normalize()
	if err := m.validate(); err != nil {
		return nil, &Error{Name: name, Msg: "not a valid manifest", Err: err, Kind: ErrIntegrity, Try: tryForeign}
	}
	return m, nil
}

// parseManifest decodes the JSON object by object: a decoder given the whole of it would copy the whole of it, and a
// manifest of a large database is nearly all objects.
func parseManifest(text []byte) (*Manifest, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	var parts []Part
	rest, err := members(dec, "parts", func() error {
		var objects []Object
		rest, err := members(dec, "objects", func() error {
			objects = append(objects, Object{})
			return dec.Decode(&objects[len(objects)-1])
		})
		if err != nil {
			return fmt.Errorf("part %d: %w", len(parts)+1, err)
		}
		var p Part
		if err := strict(rest, &p); err != nil {
			return err
		}
		if p.Objects != nil { // under a name that differs in case
			return problem("objects stands twice")
		}
		p.Objects = objects
		parts = append(parts, p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := atEnd(dec, text); err != nil {
		return nil, err
	}
	m := &Manifest{}
	if err := strict(rest, m); err != nil {
		return nil, err
	}
	if m.Parts != nil {
		return nil, problem("parts stands twice")
	}
	m.Parts = parts
	return m, nil
}

// members reads one JSON object from dec. It calls element at each element of the array that the member called name must
// be, and returns all other members as a JSON object.
func members(dec *json.Decoder, name string, element func() error) (rest []byte, err error) {
	if tok, err := dec.Token(); err != nil {
		return nil, err
	} else if tok != json.Delim('{') {
		return nil, problem("an object is missing")
	}
	rest = []byte{'{'}
	found := false
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		if key == name {
			if tok, err := dec.Token(); err != nil {
				return nil, err
			} else if tok != json.Delim('[') || found {
				return nil, problem("there must be one " + name + " array")
			}
			found = true
			for dec.More() {
				if err := element(); err != nil {
					return nil, err
				}
			}
			if _, err := dec.Token(); err != nil { // ]
				return nil, err
			}
			continue
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		quoted, err := json.Marshal(key)
		if err != nil {
			return nil, err
		}
		if len(rest) > 1 {
			rest = append(rest, ',')
		}
		rest = append(append(append(rest, quoted...), ':'), value...)
	}
	if _, err := dec.Token(); err != nil { // }
		return nil, err
	}
	if !found {
		return nil, problem("there must be one " + name + " array")
	}
	return append(rest, '}'), nil
}

// normalize makes equal manifests deeply equal: UTC, no nil where the format has an array, nil where it has nothing.
func (m *Manifest) normalize() {
	m.Started, m.Finished = m.Started.UTC().Round(0), m.Finished.UTC().Round(0)
	always(&m.Alive)
	always(&m.Supersedes)
	always(&m.Database.Settings)
	always(&m.Extensions)
	always(&m.Roles)
	always(&m.Recipients)
	always(&m.Parts)
	if len(m.Resealed) == 0 {
		m.Resealed = nil
	}
	if len(m.Unfit) == 0 {
		m.Unfit = nil
	}
	for i := range m.Roles {
		always(&m.Roles[i].Attributes)
	}
	for i := range m.Parts {
		p := &m.Parts[i]
		always(&p.Objects)
		if len(p.Columns) == 0 {
			p.Columns = nil
		}
		if len(p.Filters) == 0 {
			p.Filters = nil
		}
	}
}

func always[T any](s *[]T) {
	if *s == nil {
		*s = []T{}
	}
}

// validate checks everything that a reader relies on.
func (m *Manifest) validate() error {
	if m.Format != formatName || m.Version != Version {
		return fmt.Errorf("format or version stands twice")
	}
	if !ValidSnapshotID(m.ID) {
		return fmt.Errorf("id: not of the form YYYYMMDDThhmmssZ-xxxxxx")
	}
	if m.Dataset == "" {
		return fmt.Errorf("dataset: empty")
	}
	if m.Started.IsZero() || m.Finished.IsZero() {
		return fmt.Errorf("started or finished: missing")
	}
	if m.ClientEncoding == "" {
		return fmt.Errorf("client_encoding: empty")
	}
	if m.Rules.Digest != Digest([]byte(m.Rules.Text)) {
		return fmt.Errorf("rules: the digest is not that of the text")
	}
	if m.Rules.Erased != "" && !isHex(m.Rules.Erased, 64) {
		return fmt.Errorf("rules: erased is not 64 hexadecimal digits")
	}
	if !isHex(m.Schema, 64) {
		return fmt.Errorf("schema_fingerprint: not 64 hexadecimal digits")
	}
	if m.Erasure < 0 {
		return fmt.Errorf("erasures_applied: negative")
	}
	if m.Ledger != nil && (m.Ledger.Sequence < 1 || !isHex(m.Ledger.Digest, 64)) {
		return fmt.Errorf("ledger: not a sequence from 1 and 64 hexadecimal digits")
	}
	for i, met := range m.Met {
		switch {
		case met.Rows < 1 || met.Sequence < 1 || i > 0 && met.Sequence <= m.Met[i-1].Sequence:
			return fmt.Errorf("met %d: not a sequence after the one before, and rows", i+1)
		case m.Ledger == nil || met.Sequence > m.Ledger.Sequence:
			return fmt.Errorf("met %d: a request that the snapshot does not honour", i+1)
		}
	}
	for i, sequence := range m.Unfit {
		if sequence < 1 || i > 0 && sequence <= m.Unfit[i-1] || m.Ledger == nil || sequence > m.Ledger.Sequence {
			return fmt.Errorf("unfit %d: not a sequence after the one before, up to that of the ledger", i+1)
		}
	}
	if err := validRefs("alive", m.ID, m.Alive); err != nil {
		return err
	}
	if err := validRefs("supersedes", m.ID, m.Supersedes); err != nil {
		return err
	}
	if err := validRefs("resealed", m.ID, m.Resealed); err != nil {
		return err
	}
	if err := m.validStrings(); err != nil {
		return err
	}
	if err := m.validReaders(); err != nil {
		return err
	}
	return validParts(m.Parts)
}

func validRefs(what, own string, refs []SnapshotRef) error {
	seen := make(map[string]bool, len(refs))
	for i, r := range refs {
		switch {
		case !ValidSnapshotID(r.ID) || !isHex(r.Digest, 64):
			return fmt.Errorf("%s %d: not an id and a digest", what, i+1)
		case r.ID == own:
			return fmt.Errorf("%s %d: the snapshot names itself", what, i+1)
		case seen[r.ID]:
			return fmt.Errorf("%s %d: %s stands twice", what, i+1, r.ID)
		}
		seen[r.ID] = true
	}
	return nil
}

// validReaders checks that the keys are usable together, and that the operator's is not among the objects' recipients.
func (m *Manifest) validReaders() error {
	recipients, err := newRecipients(m.Recipients)
	if err != nil {
		return err
	}
	if !slices.Equal(recipients.keys, m.Recipients) {
		return fmt.Errorf("recipients: not sorted, or one stands twice")
	}
	if slices.Contains(m.Recipients, m.Operator) {
		return fmt.Errorf("recipients: the operator's key stands among them")
	}
	if _, err := newRecipients(append([]string{m.Operator}, m.Recipients...)); err != nil {
		return fmt.Errorf("operator: %w", err)
	}
	return nil
}

// validStrings refuses what JSON can't carry: in a SQL_ASCII database a name may be bytes that are no UTF-8, and
// encoding would replace them in silence.
func (m *Manifest) validStrings() error {
	check := func(what string, values ...string) error {
		for _, v := range values {
			if !utf8.ValidString(v) {
				return fmt.Errorf("%s: not valid UTF-8", what)
			}
		}
		return nil
	}
	d := &m.Database
	if err := check("text", m.Dataset, m.Tool, m.ServerVersion, m.PgDumpVersion, m.Source.SystemID, m.Source.Timeline, m.Source.LSN,
		m.Source.Name, m.Rules.Text, m.ClientEncoding, d.Encoding, d.LocaleProvider, d.Collate, d.CType, d.ICULocale, d.Comment); err != nil {
		return err
	}
	for _, s := range d.Settings {
		if err := check("database settings", s.Role, s.Name, s.Value); err != nil {
			return err
		}
		if s.Name == "" {
			return fmt.Errorf("database settings: a name is empty")
		}
	}
	for _, e := range m.Extensions {
		if err := check("extensions", e.Name, e.Version); err != nil {
			return err
		}
		if e.Name == "" {
			return fmt.Errorf("extensions: a name is empty")
		}
	}
	roles := make(map[string]bool, len(m.Roles))
	for _, r := range m.Roles {
		if err := check("roles", append([]string{r.Name}, r.Attributes...)...); err != nil {
			return err
		}
		if r.Name == "" || roles[r.Name] {
			return fmt.Errorf("roles: a name is empty or stands twice")
		}
		roles[r.Name] = true
	}
	for i := range m.Parts {
		p := &m.Parts[i]
		if err := check(fmt.Sprintf("part %d", i+1), append([]string{p.Name, p.Schema, p.Table}, p.Columns...)...); err != nil {
			return err
		}
	}
	return nil
}

func validParts(parts []Part) error {
	type name struct{ schema, table string }
	tables := make(map[name]bool, len(parts))
	last, preData := 0, false
	for i := range parts {
		p := &parts[i]
		what := fmt.Sprintf("part %d (%s)", i+1, printable(string(p.Kind)))
		rank := p.Kind.rank()
		switch {
		case rank == 0:
			return fmt.Errorf("%s: unknown kind", what)
		case rank < last:
			return fmt.Errorf("%s: not in restore order", what)
		case rank == last && p.Kind != Table:
			return fmt.Errorf("%s: stands twice", what)
		case p.Kind == Table && (p.Schema == "" || p.Table == ""):
			return fmt.Errorf("%s: schema or table is empty", what)
		case p.Kind == Table && tables[name{p.Schema, p.Table}]:
			return fmt.Errorf("%s: this table stands twice", what)
		case p.Kind != Table && (p.Schema != "" || p.Table != "" || p.Columns != nil || p.Filters != nil):
			return fmt.Errorf("%s: only a table has schema, table, columns and filters", what)
		}
		last, preData = rank, preData || p.Kind == PreData
		if p.Kind == Table {
			tables[name{p.Schema, p.Table}] = true
		}
		if err := validPart(p); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if !preData {
		return fmt.Errorf("parts: no pre-data")
	}
	return nil
}

func validPart(p *Part) error {
	if p.Rows < 0 || p.Dropped < 0 || p.Redacted < 0 || p.Cleared < 0 {
		return fmt.Errorf("a negative count")
	}
	columns := make(map[string]bool, len(p.Columns))
	for _, c := range p.Columns {
		if c == "" || columns[c] {
			return fmt.Errorf("a column is empty or stands twice")
		}
		columns[c] = true
	}
	left, ranges := p.Rows, 0
	for i := range p.Objects {
		o := &p.Objects[i]
		if err := validObject(o); err != nil {
			return fmt.Errorf("object %d: %w", i+1, err)
		}
		if o.Range < ranges {
			return fmt.Errorf("object %d: ranges are not in order", i+1)
		}
		ranges = o.Range
		if left -= o.Rows; left < 0 {
			break
		}
	}
	if left != 0 {
		return fmt.Errorf("the objects' rows don't add up to the part's %d", p.Rows)
	}
	for i := range p.Filters {
		if err := validObject(&p.Filters[i]); err != nil {
			return fmt.Errorf("filter %d: %w", i+1, err)
		}
	}
	return nil
}

// maxObject is the longest file that a text of MaxText can become: age adds 16 bytes to each 64 KiB, zstd 3 to each
// 128 KiB, and the header has some bytes per recipient.
const maxObject = MaxText + MaxText/1024 + 16<<20

func validObject(o *Object) error {
	switch {
	case !isHex(o.Object, 64):
		return fmt.Errorf("not named by 64 hexadecimal digits")
	case !isHex(o.Piece, 64):
		return fmt.Errorf("the piece id is not 64 hexadecimal digits")
	case o.Size <= 0 || o.Size > maxObject:
		return fmt.Errorf("size out of bounds")
	case o.Text < 0 || o.Text > MaxText:
		return fmt.Errorf("text size out of bounds")
	case o.Rows < 0 || o.Rows > o.Text:
		return fmt.Errorf("row count out of bounds")
	case o.Range < 0:
		return fmt.Errorf("negative range")
	}
	return nil
}
