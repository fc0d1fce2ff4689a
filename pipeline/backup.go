// Package pipeline holds the flows: backup, restore and check. Each shows its whole way in one function.
//
// What they promise together: a snapshot that is listed is complete; a run that fails, is interrupted or is killed leaves
// nothing that looks like one; plaintext never touches a disk; every byte read from a store is believed only after its
// signature or digest was checked.
package pipeline

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"lethe/pipeline/archive"
	"lethe/pipeline/source"
	"lethe/pipeline/store"
	"lethe/rules"
	"lethe/scrub"
	"lethe/scrub/catalog"
)

// BackupConfig is what a backup needs.
type BackupConfig struct {
	Source      source.Config
	Dump        string // a plain pg_dump file to read in place of Source's server, or ""
	Rules       *rules.File
	Recipients  *archive.Recipients
	Operator    *archive.OperatorKey
	Trust       []archive.PublicKey                          // signers besides the operator whose snapshots count as alive
	Stores      []store.Store                                // at least one
	Unreachable []StoreResult                                // stores that could not be opened: the run goes on without them, and is degraded
	Workers     int                                          // table readers; sealing takes as many goroutines again
	Memory      int64                                        // bytes that the run keeps to, beside the longest row; 0 means DefaultMemory
	State       string                                       // directory for what the operator remembers from run to run; "" remembers nothing
	Copy        func(repository string) (store.Store, error) // opens this machine's own copy of a repository's ledger, or nothing where there is none; nil keeps none
	Inbox       string                                       // a SELECT of the product's own erasure requests: subject, key, ref, received; "" reads none
	Full        bool                                         // send every piece, whatever the stores hold already
	Tool        string                                       // Lethe's version
	DryRun      bool                                         // read and scrub everything, store nothing
	Now         func() time.Time
	Processors  func(n int)    // how many processors the program had best run on from now on; one run at a time; may be nil
	Progress    func(Progress) // may be nil; called from many goroutines
	Warn        func(string)   // may be nil

	holder *archive.Identities // in a takeover: opens what the operator can't open yet
	signer *archive.SigningKey // in a takeover: signs in the operator's place
}

// readers open manifests and sealed requests.
func (c *BackupConfig) readers() *archive.Identities {
	if c.holder != nil {
		return c.holder
	}
	return c.Operator.Identities()
}

// signing is the key that signs what goes into the ledger.
func (c *BackupConfig) signing() *archive.SigningKey {
	if c.signer != nil {
		return c.signer
	}
	return c.Operator.Signing
}

// Progress is how far a flow is.
type Progress struct {
	Stage    string // what is being done, for people
	Bytes    int64  // bytes of text done
	Total    int64  // bytes expected, an estimate; 0 where unknown
	Rows     int64
	Uploaded int64 // bytes of objects stored, in all stores together
}

// BackupReport says what a backup did.
type BackupReport struct {
	Snapshot string              `json:"snapshot"` // "" after a dry run
	Dataset  string              `json:"dataset"`
	Started  time.Time           `json:"started"`
	Finished time.Time           `json:"finished"`
	Tables   int                 `json:"tables"`
	Rows     int64               `json:"rows"`
	Dropped  int64               `json:"dropped"`
	Redacted int64               `json:"redacted"`
	Cleared  int64               `json:"cleared"`
	Erasures int                 `json:"erasures"`
	Ledger   *archive.LedgerHead `json:"ledger"`   // that the snapshot honours; null where there is no record
	Recorded []string            `json:"recorded"` // refs of requests that are in the ledger since this run
	Inbox    *InboxReport        `json:"inbox,omitempty"`
	Missing  []string            `json:"missing_subjects"` // refs of requests whose person has no row (any more)
	Unfit    []string            `json:"unfit_requests"`   // refs of requests whose key can be nobody's: they are not honoured
	Text     int64               `json:"text_bytes"`
	Bytes    int64               `json:"bytes"`          // of the snapshot's objects, in one store
	Filters  int64               `json:"filter_bytes"`   // of those, the ones of filters
	Uploaded int64               `json:"uploaded_bytes"` // of objects that were sent, to all stores together
	Pieces   int64               `json:"pieces"`         // texts that the snapshot is made of
	Reused   int64               `json:"reused_pieces"`  // of those, the ones that every store held already
	Effects  []TableEffect       `json:"effects"`
	Stores   []StoreResult       `json:"stores"`
	Drift    []string            `json:"drift"`
}

// TableEffect is what rules and erasures did to one table.
type TableEffect struct {
	Table    string `json:"table"`
	Rows     int64  `json:"rows"`
	Dropped  int64  `json:"dropped"`
	Redacted int64  `json:"redacted"`
	Cleared  int64  `json:"cleared"`
}

// StoreResult says how one store fared.
type StoreResult struct {
	Store string `json:"store"`
	Error string `json:"error,omitempty"`
	err   error
}

// Failed returns the stores that do not hold the snapshot.
func (r *BackupReport) Failed() []StoreResult { return failedOf(r.Stores) }

// Backup takes one snapshot of a live database, or of what a dump file holds. When it returns an error no store lists
// the snapshot; a report with failed stores means that the others do. (A store that took the manifest, lost the answer
// and can't be asked any more counts as failed, and may list it: the snapshot is whole there.)
func Backup(ctx context.Context, c BackupConfig) (report *BackupReport, err error) {
	defer func() { err = fail(err, "", "back up %s", c.Rules.Dataset) }()
	stores, release, err := openForWriting(ctx, c, "backup")
	if err != nil {
		return nil, err
	}
	defer release()
	for attempt := 1; ; attempt++ {
		report, err = c.attempt(ctx, stores)
		if attempt == backupAttempts || !source.Retryable(err) && !errors.Is(err, errVanished) {
			return report, err
		}
		// The view was let go so that the application need not wait behind it, or an object that was to be used again is
		// gone and the rows of its piece with it.
		c.warn(fmt.Sprintf("starting over (attempt %d of %d): %v", attempt+1, backupAttempts, err))
	}
}

// backupAttempts is how often a backup starts when a lock that somebody wants ends its view in the middle; opening the
// view has its own attempts.
const backupAttempts = 3

// attempt is the straight line of a backup.
func (c BackupConfig) attempt(ctx context.Context, stores []*openStore) (*BackupReport, error) {
	snap, err := c.open(ctx) // one consistent view, held until Close
	if err != nil {
		return nil, err
	}
	defer snap.Close()
	plan, err := scrub.Compile(c.Rules, snap.Catalog) // rules against this very schema
	if err != nil {
		return nil, err
	}
	if err := snap.probe(ctx, plan); err != nil { // what only the server can tell
		return nil, err
	}
	if err := encodable(c.Rules, snap.Info.ClientEncoding); err != nil {
		return nil, err
	}
	if err := c.survey(ctx, stores); err != nil { // what the stores hold already
		return nil, err
	}
	drift, err := c.drift(plan, stores)
	if err != nil {
		return nil, err
	}
	ledger, err := c.honour(ctx, stores, snap, plan) // every order to erase somebody
	if err != nil {
		return nil, err
	}
	defer ledger.Close()
	erased, err := snap.resolve(ctx, plan, ledger.requests) // everything that leads to the people to erase
	if err != nil {
		return nil, err
	}
	keys, err := plan.Keys(c.Operator.Strategy.Bytes(), ledger.requests)
	if err != nil {
		return nil, err
	}
	ids, err := c.pieces()
	if err != nil {
		return nil, err
	}
	writer, err := newWriter(ctx, c, stores)
	if err != nil {
		return nil, err
	}
	defer writer.Abandon()

	b := &backup{c: c, snap: snap, plan: plan, erased: erased, keys: keys, ledger: ledger, stores: stores, writer: writer, ids: ids,
		manifest: newManifest(c, snap, ledger)}
	for _, part := range []func(context.Context) error{ // in the order of a restore
		b.globals, b.preData, b.tables, b.sequences, b.largeObjects, b.postData,
	} {
		if err := part(ctx); err != nil {
			return nil, err
		}
	}
	if err := writer.Wait(); err != nil { // every object is stored
		return nil, err
	}
	if err := snap.Alive(); err != nil { // and the view was the same to the end
		return nil, err
	}
	if err := b.commit(ctx); err != nil { // the manifest is the commit
		return nil, err
	}
	return b.report(drift), nil
}

// encodable refuses rules that would write what the rows' encoding does not have: constants of the rules file are
// UTF-8.
func encodable(f *rules.File, encoding string) error {
	if encoding == "UTF8" {
		return nil
	}
	var errs rules.Errors
	refuse := func(pos rules.Pos, what string, texts ...string) {
		beyond := func(text string) bool {
			return strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII })
		}
		if slices.ContainsFunc(texts, beyond) {
			errs = append(errs, &rules.Error{File: f.Path, Pos: pos,
				Msg:  fmt.Sprintf("%s: the rows come in %s, and a rule can only give ASCII text then", what, encoding),
				Hint: "write it without other characters"})
		}
	}
	look := func(s rules.Strategy) {
		texts := append([]string{s.Value, s.With, s.Match, s.Replace}, s.Remove...)
		for _, set := range s.Set {
			texts = append(texts, set.Path, set.Value)
		}
		refuse(s.Pos, s.Name, texts...)
	}
	for _, r := range f.References {
		for _, t := range r.Targets {
			refuse(t.Pos, "path", t.Path)
			for _, w := range t.When {
				refuse(t.Pos, "when", w.Value)
			}
		}
	}
	for _, a := range f.Always {
		look(a.Strategy)
	}
	for _, e := range f.Erase {
		for _, r := range e.Redact {
			look(r.Strategy)
		}
	}
	if len(errs) > 0 {
		return errs
	}
	return nil
}

// backup is one run of Backup.
type backup struct {
	c        BackupConfig
	snap     *view
	plan     *scrub.Plan
	erased   *scrub.Erased
	keys     scrub.Keys
	ledger   *ledgerRun
	objects  []source.LargeObject
	stores   []*openStore
	writer   *writer
	ids      *archive.Pieces // of SQL text
	manifest *archive.Manifest
	parts    []*part
	lost     lostObjects
	met      metRows
}

// metRows counts the rows that lead to somebody to erase, by index of the request.
type metRows struct {
	mu   sync.Mutex
	rows map[uint32]int64
}

func (m *metRows) add(rows map[uint32]int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rows == nil {
		m.rows = map[uint32]int64{}
	}
	for request, n := range rows {
		m.rows[request] += n
	}
}

// of returns the counts as a manifest has them. Where several requests are about one person, they are met together.
func (m *metRows) of(l *ledgerRun) (list []archive.Met) {
	type whom struct{ subject, key string }
	by := map[whom]int64{}
	for i, n := range m.rows {
		r := l.requests[i]
		by[whom{r.Subject, r.Key}] += n
	}
	for i, r := range l.requests {
		if n := by[whom{r.Subject, r.Key}]; n > 0 && l.sequences[i] > 0 {
			list = append(list, archive.Met{Sequence: l.sequences[i], Rows: n})
		}
	}
	return list
}

// part is a manifest part whose pieces are still being sealed.
type part struct {
	archive.Part
	pieces  [][]*piece // by range, in order; filled in when sealed
	filters [][]*piece // likewise
}

func newManifest(c BackupConfig, snap *view, ledger *ledgerRun) *archive.Manifest {
	i := snap.Info
	m := &archive.Manifest{
		Dataset: c.Rules.Dataset, Started: i.Started, Tool: c.Tool,
		ServerVersion: i.ServerVersion, PgDumpVersion: i.PgDumpVersion,
		Source:  archive.Source{SystemID: i.SystemID, Timeline: i.Timeline, LSN: i.LSN, Name: i.Database},
		Rules:   archive.Rules{Text: string(c.Rules.Text)},
		Schema:  snap.Catalog.Fingerprint(),
		Ledger:  ledger.ledger.Head(),
		Erasure: int64(len(ledger.requests)),
		Unfit:   ledger.nobodys,
		Database: archive.Database{Encoding: i.Encoding, LocaleProvider: i.LocaleProvider, Collate: i.Collate, CType: i.CType,
			ICULocale: i.ICULocale, Comment: i.Comment},
		ClientEncoding: i.ClientEncoding,
	}
	for _, s := range i.Settings {
		m.Database.Settings = append(m.Database.Settings, archive.Setting{Role: s.Role, Name: s.Name, Value: s.Value})
	}
	for _, e := range snap.Catalog.Extensions {
		m.Extensions = append(m.Extensions, archive.Extension{Name: e})
	}
	return m
}

// querier lets scrub ask its questions of the snapshot.
type querier struct{ snap *source.Snapshot }

func (q querier) CopyQuery(ctx context.Context, sql string, w io.Writer) error {
	_, err := q.snap.CopyQuery(ctx, sql, w)
	return err
}

// globals stores the roles that DDL and large objects name.
func (b *backup) globals(ctx context.Context) (err error) {
	if b.objects, err = b.snap.LargeObjects(ctx); err != nil {
		return err
	}
	names := slices.Clone(b.snap.Catalog.Roles)
	for _, lo := range b.objects {
		names = append(names, lo.Roles()...)
	}
	for _, s := range b.snap.Info.Settings {
		names = append(names, s.Role) // "" of the database's own is skipped
	}
	text, roles, err := b.snap.Roles(ctx, names)
	if err != nil {
		return err
	}
	for _, r := range roles {
		b.manifest.Roles = append(b.manifest.Roles, archive.Role{Name: r.Name, Attributes: r.Attributes})
	}
	return b.text(archive.Globals, text)
}

// sessionPrefix pins what rows are read back under; pg_dump leaves it to the reader's session.
const sessionPrefix = "SET DateStyle = 'ISO, YMD';\nSET IntervalStyle = 'postgres';\nSET lc_monetary = 'C';\n\n"

func (b *backup) preData(context.Context) error {
	return b.text(archive.PreData, sessionPrefix+b.snap.PreData)
}
func (b *backup) postData(context.Context) error { return b.text(archive.PostData, b.snap.PostData) }

func (b *backup) sequences(ctx context.Context) error {
	text, err := b.snap.Sequences(ctx)
	if err != nil {
		return err
	}
	return b.text(archive.Sequences, text)
}

// text stores a part that is one SQL text.
func (b *backup) text(k archive.PartKind, text string) error {
	p := &part{Part: archive.Part{Kind: k, Name: string(k)}, pieces: make([][]*piece, 1)}
	b.parts = append(b.parts, p)
	for _, piece := range cutText(text) {
		if err := b.seal(append(b.writer.Buffer(), piece...), p); err != nil {
			return err
		}
	}
	return nil
}

// seal stores the next piece of a part that is SQL text.
func (b *backup) seal(text []byte, p *part) error {
	return b.writer.Seal(job{id: b.ids.ID(text), text: text, into: p.slot(0)})
}

// cutText cuts SQL text into pieces that an object of usual size holds, at ends of lines. Concatenated they are the
// text again, which is how they are read.
func cutText(text string) (pieces []string) {
	for len(text) > archive.MaxPiece {
		n := strings.LastIndexByte(text[:archive.MaxPiece], '\n') + 1
		if n == 0 {
			n = archive.MaxPiece
		}
		pieces = append(pieces, text[:n])
		text = text[n:]
	}
	return append(pieces, text)
}

// slot appends a place for one more piece of a range.
func (p *part) slot(r int) *piece {
	o := &piece{}
	p.pieces[r] = append(p.pieces[r], o)
	return o
}

// in returns the part as one store's manifest names it.
func (p *part) in(store int) archive.Part {
	out := p.Part
	out.Objects, out.Filters = named(p.pieces, store), named(p.filters, store)
	return out
}

func named(ranges [][]*piece, store int) []archive.Object {
	objects := []archive.Object{}
	for i, pieces := range ranges {
		for _, o := range pieces {
			at := o.in[store]
			n := archive.Object{Object: at.object.String(), Size: at.size, Text: at.text, Rows: o.rows, Piece: o.id.String()}
			if len(ranges) > 1 {
				n.Range = i + 1 // 0 says that the table was read whole
			}
			objects = append(objects, n)
		}
	}
	return objects
}

// newID makes an id that sorts after those in the stores. Ids are grained by seconds: without this, of two snapshots begun
// within one, "latest" could be the older, with a person in it whom the newer left out. A clock that was set back by more
// than a minute is left to be.
func (b *backup) newID(ctx context.Context) (string, error) {
	newest := ""
	for _, s := range b.stores {
		if s.err != nil {
			continue
		}
		if list, err := s.repo.Snapshots(ctx); err == nil && len(list) > 0 { // an error meets commitTo again, which tells it
			newest = max(newest, list[len(list)-1].ID)
		}
	}
	for later := range 60 {
		id, err := archive.NewSnapshotID(b.manifest.Started.Add(time.Duration(later)*time.Second), rand.Reader)
		if err != nil || id > newest {
			return id, err
		}
	}
	return archive.NewSnapshotID(b.manifest.Started, rand.Reader)
}

// commit writes the manifest to every store that holds all objects. The last check before it is that the lease still
// stands: a writer that lost its lease does not commit.
func (b *backup) commit(ctx context.Context) error {
	b.manifest.Finished, b.manifest.Met = b.c.Now(), b.met.of(b.ledger)
	var err error
	if b.manifest.ID, err = b.newID(ctx); err != nil {
		return err
	}
	if b.c.DryRun {
		return nil
	}
	committed := 0
	for i, s := range b.stores {
		if s.err == nil {
			s.err = b.commitTo(ctx, i)
		}
		if s.err == nil {
			committed++
		}
	}
	if committed == 0 {
		return noStore(b.stores)
	}
	return nil
}

func (b *backup) commitTo(ctx context.Context, store int) error {
	s, m := b.stores[store], *b.manifest
	var err error
	if m.Alive, err = s.repo.alive(ctx, b.c.warn); err != nil {
		return err
	}
	for _, p := range b.parts {
		m.Parts = append(m.Parts, p.in(store))
	}
	data, _, err := archive.WriteManifest(&m, b.c.Recipients, b.c.Operator)
	if err != nil {
		return err
	}
	if err := s.has.lookAgain(ctx, s.s); err != nil {
		return err
	}
	if err := s.repo.commit(ctx, s.lease, b.c.Operator.Signing, m.ID, data); err != nil {
		return err
	}
	if err := s.journal.done(); err != nil {
		b.c.warn(err.Error())
	}
	return nil
}

// commit writes a manifest, under a lease that stands before and after.
func (r *Repository) commit(ctx context.Context, lease *held, key *archive.SigningKey, id string, data []byte) error {
	if err := lease.Renew(ctx); err != nil {
		return err
	}
	name := archive.ManifestName(id)
	if err := r.putSigned(ctx, key, archive.PurposeManifest, name, data); err != nil {
		return err
	}
	// Between the renewal and the commit this machine may have slept. Who took the lease before the manifest was there
	// may be deleting objects that it names; who takes it from now on sees the manifest first.
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	lost := lease.taken(look)
	if lost == nil {
		return nil
	}
	for _, n := range []string{name, name + archive.SignatureSuffix} {
		if err := r.Store.Delete(look, n); err != nil {
			return fail(errors.Join(lost, err), "lethe check "+id+" tells whether it is whole; if it is not, delete "+name,
				"take back snapshot %s, written in the moment in which the lease was lost", id)
		}
	}
	return lost
}

// alive names the snapshots that a store lists, each with the digest of its manifest, so that a store which hides or
// swaps one later is noticed. One that can't be read any more is left out: it must not stop new ones from being taken.
func (r *Repository) alive(ctx context.Context, warn func(string)) ([]archive.SnapshotRef, error) {
	list, err := r.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	var refs []archive.SnapshotRef
	for _, l := range list {
		digest, err := r.digest(ctx, archive.ManifestName(l.ID))
		switch {
		case err == nil:
			refs = append(refs, archive.SnapshotRef{ID: l.ID, Digest: digest})
		case ctx.Err() != nil:
			return nil, err
		case !isNotFound(err): // deleted meanwhile
			warn(fmt.Sprintf("the manifest of %s in %s can't be read, so the new one does not vouch for it: %v", l.ID, r.Store, err))
		}
	}
	return refs, nil
}

// digest reads a file for its digest alone, and holds none of it: the store may lie about how long it is.
func (r *Repository) digest(ctx context.Context, name string) (string, error) {
	f, err := r.Store.Get(ctx, name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if n, err := io.Copy(hash, io.LimitReader(f, maxManifest+1)); err != nil {
		return "", err
	} else if n > maxManifest {
		return "", fmt.Errorf("it is longer than %d bytes", int64(maxManifest))
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// openStore is one store during a backup. err is why it is left out from then on.
type openStore struct {
	s       store.Store
	repo    *Repository
	lease   *held
	newest  map[catalog.Name][]string // the tables of its newest snapshot, with their columns; nil where there is none
	head    *archive.LedgerHead       // that its newest snapshot honours
	ledger  *ledgerPlace              // what it holds of the ledger
	has     *inventory
	journal *journal
	err     error
}

// openForWriting opens every store and takes its lease. A store that can't be opened is left out, unless none can.
func openForWriting(ctx context.Context, c BackupConfig, purpose string) (stores []*openStore, release func(), err error) {
	trust := archive.NewTrust(append([]archive.PublicKey{c.Operator.Public()}, c.Trust...)...)
	release = func() {
		for _, s := range stores {
			s.journal.close()
			if s.lease != nil {
				if err := s.lease.Release(ctx); err != nil {
					c.warn(fmt.Sprintf("the lease in %s stays until it runs out: %v", s.s, err))
				}
			}
		}
	}
	open := 0
	for _, s := range c.Stores {
		o := &openStore{s: s}
		stores = append(stores, o)
		if o.repo, o.err = OpenRepository(ctx, s, trust); o.err != nil {
			continue
		}
		if o.err = o.repo.belongsTo(ctx, c.Operator); o.err != nil {
			continue
		}
		if !c.DryRun {
			o.lease, o.err = acquire(ctx, s, purpose, c.Now)
		}
		if errors.Is(o.err, ErrLocked) { // another run is at work; it is not for this one to go around it
			release()
			return nil, nil, o.err
		}
		if o.err == nil {
			open++
		}
	}
	if open == 0 {
		release()
		return nil, nil, noStore(stores)
	}
	return stores, release, nil
}

// noStore is the error when every store failed.
func noStore(stores []*openStore) error {
	if len(stores) == 1 {
		return stores[0].err
	}
	e := &noStoreError{}
	for _, s := range stores {
		e.errs = append(e.errs, s.err)
	}
	return e
}

// noStoreError lists why each store failed.
type noStoreError struct{ errs []error }

func (e *noStoreError) Error() string {
	s := "no store could take the snapshot:"
	for _, err := range e.errs {
		s += "\n  " + err.Error()
	}
	return s
}

func (e *noStoreError) Unwrap() []error { return e.errs }

func (c *BackupConfig) warn(msg string) {
	if c.Warn != nil {
		c.Warn(msg)
	}
}

// tablesOf returns a snapshot's tables, with their columns.
func tablesOf(m *archive.Manifest) map[catalog.Name][]string {
	known := map[catalog.Name][]string{}
	for _, p := range m.Parts {
		if p.Kind == archive.Table {
			known[partName(p)] = p.Columns
		}
	}
	return known
}

// drift compares the schema with the newest snapshot's. Tables and columns that are new since, and that no rule names,
// are passed, warned of, or refused, as the rules say.
func (c BackupConfig) drift(plan *scrub.Plan, stores []*openStore) (drift []string, err error) {
	if c.Rules.Drift == "pass" {
		return nil, nil
	}
	for _, s := range stores {
		if s.err != nil || s.newest == nil {
			continue
		}
		drift = plan.Drift(s.newest)
		if len(drift) > 0 && c.Rules.Drift == "fail" {
			return nil, fail(configuration(errors.New(strings.Join(drift, "; "))),
				"give each a rule, or set drift: warn", "compare the schema with that of the newest snapshot in %s", s.s)
		}
		break
	}
	return drift, nil
}

func (b *backup) report(drift []string) *BackupReport {
	m := b.manifest
	r := &BackupReport{Snapshot: m.ID, Dataset: m.Dataset, Started: m.Started, Finished: m.Finished,
		Erasures: len(b.ledger.requests), Ledger: b.ledger.ledger.Head(), Recorded: append([]string{}, b.ledger.recorded...), Inbox: b.ledger.inbox, Missing: []string{}, Unfit: append([]string{}, b.ledger.unfit...), Effects: []TableEffect{}, Drift: drift}
	if drift == nil {
		r.Drift = []string{} // JSON has lists, not null
	}
	if b.c.DryRun {
		r.Snapshot = ""
	}
	for _, i := range b.erased.Missing {
		r.Missing = append(r.Missing, b.ledger.requests[i].Ref)
	}
	good := slices.IndexFunc(b.stores, func(s *openStore) bool { return s.err == nil })
	for _, p := range b.parts {
		for _, pieces := range p.pieces {
			for _, o := range pieces {
				r.Pieces++
				r.Text += o.in[good].text
				r.Bytes += o.in[good].size
			}
		}
		for _, filters := range p.filters {
			for _, o := range filters {
				r.Bytes += o.in[good].size
				r.Filters += o.in[good].size
			}
		}
		if p.Kind != archive.Table {
			continue
		}
		r.Tables++
		r.Rows += p.Rows
		r.Dropped += p.Dropped
		r.Redacted += p.Redacted
		r.Cleared += p.Cleared
		if p.Dropped+p.Redacted+p.Cleared > 0 {
			r.Effects = append(r.Effects, TableEffect{p.Name, p.Rows, p.Dropped, p.Redacted, p.Cleared})
		}
	}
	r.Uploaded, r.Reused = b.writer.uploaded.Load(), b.writer.reused.Load()
	slices.SortFunc(r.Effects, func(a, b TableEffect) int { return strings.Compare(a.Table, b.Table) })
	r.Stores = resultsOf(b.stores, b.c.Unreachable)
	return r
}
