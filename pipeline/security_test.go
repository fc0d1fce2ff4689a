package pipeline_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/pgtemp"
	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/source"
	"lethe/pipeline/store"
	"lethe/pipeline/store/dir"
	"lethe/rules"
)

// The claims of SECURITY.md, each tried by somebody who means harm.

// site is a database, an operator, a key holder and a store between them.
type site struct {
	t        testing.TB
	url      string
	operator *archive.OperatorKey
	public   string // the key holder's public key
	private  string
	to       *archive.Recipients
	holder   *archive.Identities
	rules    string
	pgDump   string
	ranges   int64  // blocks in which large tables are read; 0 as by default
	state    string // where this machine's copy of the ledger is kept; "" keeps none
	path     string // of the store's directory
	store    store.Store
	heard    heard
}

const plainRules = "version: 1\ndataset: slipmat\ndrift: pass\n"

// newSite makes a database out of sql, keys, and an empty repository.
func newSite(t testing.TB, sql string) *site {
	t.Helper()
	db := pgtest.DBName(t)
	if err := pgtest.Server(t).Exec(context.Background(), db, sql); err != nil {
		t.Fatal(err)
	}
	return siteOf(t, pgtest.Server(t).URL(db))
}

// siteOf makes keys and an empty repository for a database that is there. The piece-id key is the same in every run: it
// decides where pieces end, and so how many there are, what a change makes new, and what filters can rule out.
func siteOf(t testing.TB, url string) *site {
	t.Helper()
	s := &site{t: t, url: url, rules: plainRules, path: filepath.Join(t.TempDir(), "store")}
	var err error
	if s.operator, err = archive.GenerateOperator(); err != nil {
		t.Fatal(err)
	}
	s.operator.PieceID = archive.NewSecretKey([32]byte{1})
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	s.public, s.private = identity.Recipient().String(), identity.String()
	if s.to, err = archive.ParseRecipients([]string{s.public}, ""); err != nil {
		t.Fatal(err)
	}
	if s.holder, err = archive.ParseIdentities("key.txt", []byte(identity.String()+"\n"), nil); err != nil {
		t.Fatal(err)
	}
	s.store = s.newStore(s.path)
	return s
}

// newStore makes one more store of the site's repository.
func (s *site) newStore(path string) store.Store {
	s.t.Helper()
	id := ""
	if s.store != nil {
		id = s.open().ID
	}
	return s.newRepository(path, id)
}

// newRepository makes a repository of this operator; id is "" for one of its own.
func (s *site) newRepository(path, id string) store.Store {
	s.t.Helper()
	d, err := dir.Create(path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { d.Close() })
	if _, _, err := pipeline.InitRepository(context.Background(), d, id, s.operator, s.to); err != nil {
		s.t.Fatal(err)
	}
	return d
}

// copyOf opens this machine's copy of a ledger.
func (s *site) copyOf(repository string) (store.Store, error) {
	return dir.Create(filepath.Join(s.state, repository))
}

// heard is everything that a flow says to people.
type heard struct {
	sync.Mutex
	text strings.Builder
}

func (h *heard) say(args ...any) {
	h.Lock()
	defer h.Unlock()
	fmt.Fprintln(&h.text, args...)
}

func (h *heard) String() string {
	h.Lock()
	defer h.Unlock()
	return h.text.String()
}

// tryBackup takes a snapshot into a store; what is said on the way is heard.
func (s *site) tryBackup(into store.Store) (*pipeline.BackupReport, error) {
	s.t.Helper()
	f, err := rules.Parse("rules.yml", []byte(s.rules))
	if err != nil {
		s.heard.say(err)
		return nil, err
	}
	c := pipeline.BackupConfig{
		Source: source.Config{URL: s.url, Workers: 2, LockTimeout: time.Second, PgDump: s.pgDump, RangeBlocks: s.ranges, Log: func(msg string, args ...any) { s.heard.say(msg, args) }},
		Rules:  f, Recipients: s.to, Operator: s.operator, Stores: []store.Store{into}, Workers: 2, Tool: "test", Now: time.Now,
		Progress: func(p pipeline.Progress) { s.heard.say(p) }, Warn: func(msg string) { s.heard.say(msg) },
	}
	if s.state != "" {
		c.Copy = s.copyOf
	}
	report, err := pipeline.Backup(context.Background(), c)
	s.hearError(err)
	if report != nil {
		text, jsonErr := json.Marshal(report)
		if jsonErr != nil {
			s.t.Fatal(jsonErr)
		}
		s.heard.say(string(text))
	}
	return report, err
}

// hearError hears an error, its hints, and the errors in it.
func (s *site) hearError(err error) {
	if err == nil {
		return
	}
	s.heard.say(err)
	if h, ok := err.(interface{ Hint() string }); ok {
		s.heard.say(h.Hint())
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		s.hearError(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			s.hearError(inner)
		}
	}
}

// backup takes a snapshot and returns its id.
func (s *site) backup() string {
	s.t.Helper()
	report, err := s.tryBackup(s.store)
	if err != nil {
		s.t.Fatal(err)
	}
	return report.Snapshot
}

// open opens the repository as somebody who trusts these signers; without any, the operator.
func (s *site) open(trust ...archive.PublicKey) *pipeline.Repository {
	s.t.Helper()
	if len(trust) == 0 {
		trust = []archive.PublicKey{s.operator.Public()}
	}
	r, err := pipeline.OpenRepository(context.Background(), s.store, archive.NewTrust(trust...))
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// restore writes a snapshot as SQL text.
func (s *site) restore(r *pipeline.Repository, snapshot string, ids *archive.Identities) (string, error) {
	var out bytes.Buffer
	_, err := pipeline.Restore(context.Background(), pipeline.RestoreConfig{Repository: r, Snapshot: snapshot, Identities: ids, Output: &out,
		CreateRoles: true, Workers: 2, Now: time.Now})
	s.hearError(err)
	return out.String(), err
}

// restoreInto restores into a database of this name on the shared server.
func (s *site) restoreInto(r *pipeline.Repository, snapshot, db string) error {
	_, err := pipeline.Restore(context.Background(), pipeline.RestoreConfig{Repository: r, Snapshot: snapshot, Identities: s.holder,
		To: pgtest.Server(s.t).URL(db), Workers: 2, Now: time.Now, Progress: func(p pipeline.Progress) { s.heard.say(p) }, Warn: func(msg string) { s.heard.say(msg) }})
	s.hearError(err)
	return err
}

// mustNotRestore tries to restore a snapshot into a new database. It must fail with an error of this kind, and leave no database.
func (s *site) mustNotRestore(r *pipeline.Repository, snapshot string, kind error) {
	s.t.Helper()
	before := databases(s.t)
	if err := s.restoreInto(r, snapshot, "must_not_come_to_be"); !errors.Is(err, kind) {
		s.t.Errorf("restore: %v, not %v", err, kind)
	}
	if after := databases(s.t); !slices.Equal(before, after) {
		s.t.Errorf("databases before %v, after %v", before, after)
	}
}

func databases(t testing.TB) (names []string) {
	t.Helper()
	rows, err := pgtest.Server(t).Query(context.Background(), "postgres", "SELECT datname FROM pg_database ORDER BY 1")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		names = append(names, r[0])
	}
	return names
}

// check checks the store with share of the objects read, without a private key.
func (s *site) check(r *pipeline.Repository, share float64) *pipeline.CheckReport {
	s.t.Helper()
	report, err := pipeline.Check(context.Background(), pipeline.CheckConfig{Repository: r, Readers: s.operator.Identities(), ReadData: share, Workers: 2})
	if err != nil {
		s.t.Fatal(err)
	}
	return report
}

func (s *site) manifest(r *pipeline.Repository, id string, ids *archive.Identities) *archive.Manifest {
	s.t.Helper()
	m, err := r.Manifest(context.Background(), id, ids)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// What somebody who owns the store's disk can do: read, write and delete files as they are.

func (s *site) file(name string) string { return filepath.Join(s.path, filepath.FromSlash(name)) }

func (s *site) read(name string) []byte {
	s.t.Helper()
	data, err := os.ReadFile(s.file(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return data
}

func (s *site) write(name string, data []byte) {
	s.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(s.file(name)), 0o700), os.WriteFile(s.file(name), data, 0o600)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) remove(names ...string) {
	s.t.Helper()
	for _, name := range names {
		if err := os.Remove(s.file(name)); err != nil {
			s.t.Fatal(err)
		}
	}
}

// sign signs a manifest file and puts both into the store, over what is there.
func (s *site) sign(key *archive.SigningKey, repository, id string, data []byte) {
	s.t.Helper()
	name := archive.ManifestName(id)
	sig, err := archive.Sign(key, archive.PurposeManifest, repository, name, data)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(name, data)
	s.write(name+archive.SignatureSuffix, sig)
}

// seal encrypts to the public keys of others, which anybody can.
func seal(t testing.TB, plain []byte, to ...string) []byte {
	t.Helper()
	var recipients []age.Recipient
	for _, line := range to {
		r, err := age.ParseX25519Recipient(line)
		if err != nil {
			t.Fatal(err)
		}
		recipients = append(recipients, r)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, recipients...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func compress(t testing.TB, text []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	return enc.EncodeAll(text, nil)
}

// forge puts an object with this text into the store, and returns what a manifest would say of it.
func (s *site) forge(text string, rows int64, piece string) archive.Object {
	s.t.Helper()
	data := seal(s.t, compress(s.t, []byte(text)), s.public)
	o := archive.Object{Object: archive.Digest(data), Size: int64(len(data)), Text: int64(len(text)), Rows: rows, Piece: piece}
	s.write(archive.ObjectName(o.Object), data)
	return o
}

// table returns the part of a table.
func table(t testing.TB, m *archive.Manifest, name string) *archive.Part {
	t.Helper()
	for i := range m.Parts {
		if m.Parts[i].Kind == archive.Table && m.Parts[i].Table == name {
			return &m.Parts[i]
		}
	}
	t.Fatalf("no table %s in the manifest", name)
	return nil
}

func part(t testing.TB, m *archive.Manifest, kind archive.PartKind) *archive.Part {
	t.Helper()
	for i := range m.Parts {
		if m.Parts[i].Kind == kind {
			return &m.Parts[i]
		}
	}
	t.Fatalf("no %s in the manifest", kind)
	return nil
}

const peopleSQL = `CREATE TABLE people (id int PRIMARY KEY, email text);
INSERT INTO people SELECT i, 'person' || i || '@example.com' FROM generate_series(1, 500) i;
CREATE TABLE notes (id int PRIMARY KEY, body text); INSERT INTO notes SELECT i, repeat('n', i) FROM generate_series(1, 300) i`

// recorder is a store that remembers everything that was ever put into it, and calls look at each of those moments.
type recorder struct {
	store.Store
	mu   sync.Mutex
	puts map[string][]byte
	look func()
}

func (r *recorder) Put(ctx context.Context, name string, data []byte) error {
	r.mu.Lock()
	if r.puts == nil {
		r.puts = map[string][]byte{}
	}
	r.puts[name] = bytes.Clone(data)
	if r.look != nil {
		r.look()
	}
	r.mu.Unlock()
	return r.Store.Put(ctx, name, data)
}

// TestStoreLearnsNoNamesAndNoContents takes a snapshot whose every name and value carries a mark, and looks for marks in
// everything that the store gets to see, leases included.
func TestStoreLearnsNoNamesAndNoContents(t *testing.T) {
	const mark = "canarybird" // too long to stand in ciphertext or base64 by chance
	s := newSite(t, `CREATE SCHEMA canarybird_schema; CREATE TYPE canarybird_schema.canarybird_enum AS ENUM ('canarybird_label');
		CREATE TABLE canarybird_schema.canarybird_table (canarybird_id int PRIMARY KEY, canarybird_column text, e canarybird_schema.canarybird_enum);
		INSERT INTO canarybird_schema.canarybird_table SELECT i, 'canarybird_value_' || i, 'canarybird_label' FROM generate_series(1, 2000) i;
		CREATE TABLE hidden (canarybird_short text); INSERT INTO hidden VALUES ('canarybird_one');
		COMMENT ON TABLE hidden IS 'canarybird_comment'; CREATE SEQUENCE canarybird_sequence;
		CREATE FUNCTION canarybird_function() RETURNS text LANGUAGE sql AS 'SELECT ''canarybird_body'''; CREATE VIEW canarybird_view AS SELECT 'canarybird_literal';
		SELECT lo_from_bytea(0, 'canarybird_object')`)
	s.rules = "version: 1\ndataset: canarybird_dataset\ndrift: pass\nalways: {canarybird_schema.canarybird_table.canarybird_column: {value: canarybird_replaced}}\n"
	seen := &recorder{Store: s.store}
	report, err := s.tryBackup(seen)
	if err != nil {
		t.Fatal(err)
	}

	database := regexp.MustCompile(`/(test_\d+)`).FindStringSubmatch(s.url)[1]
	marks := []string{mark, hex.EncodeToString([]byte(mark)), database, s.public}
	lease := regexp.MustCompile(`^\{"owner":"[0-9a-f]{16}","pid":\d+,"purpose":"backup","expires":"[-0-9T:.]+Z"\}$`) // the owner is a digest
	leases, files := 0, map[string][]byte{}
	for name, data := range seen.puts {
		files[name] = data
		if strings.HasPrefix(name, "locks/") {
			leases++
			if !lease.Match(data) {
				t.Errorf("a lease says more than it should: %s", data)
			}
		}
	}
	err = filepath.WalkDir(s.path, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(s.path, path)
		files[name] = s.read(name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if leases == 0 || len(files) < 10 {
		t.Fatalf("%d files, %d leases were looked at", len(files), leases)
	}
	name := regexp.MustCompile(`^(lethe\.json|keys/0001\.age(\.minisig)?|snapshots/\d{8}T\d{6}Z-[0-9a-f]{6}\.age(\.minisig)?|objects/[0-9a-f]{2}/[0-9a-f]{64}|locks/backup-[0-9a-f]{16}\.json)$`)
	for n, data := range files {
		if !name.MatchString(n) {
			t.Errorf("a file of another name: %s", n)
		}
		for _, m := range marks {
			if bytes.Contains(bytes.ToLower(data), []byte(strings.ToLower(m))) {
				t.Errorf("%s holds %q", n, m)
			}
		}
	}

	// What was looked for is really there, for who may read it.
	text, err := s.restore(s.open(), report.Snapshot, s.holder)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"canarybird_table", "canarybird_column", "canarybird_replaced", "canarybird_one", "canarybird_comment", "canarybird_body", hex.EncodeToString([]byte("canarybird_object"))} {
		if !strings.Contains(text, m) {
			t.Errorf("the restored text has no %q: the test looked for what was never there", m)
		}
	}
	// And what the rules took out is nowhere, not even for them.
	if strings.Contains(text, "canarybird_value_") {
		t.Error("a value that the rules replace came back")
	}
}

// TestOperatorCannotOpenObjects tries the operator's secret on each object, of DDL and rows alike.
func TestOperatorCannotOpenObjects(t *testing.T) {
	s := newSite(t, peopleSQL)
	id := s.backup()
	r := s.open()
	m := s.manifest(r, id, s.operator.Identities()) // manifests it reads: table names, counts, the rules
	opener, err := archive.NewOpener(s.operator.Identities())
	if err != nil {
		t.Fatal(err)
	}
	objects := 0
	for _, p := range m.Parts {
		for _, o := range p.Objects {
			objects++
			if _, err := opener.Open(s.read(archive.ObjectName(o.Object)), o); !errors.Is(err, archive.ErrNoIdentity) {
				t.Errorf("%s: %v", p.Name, err)
			}
			// One stanza in the age header is one reader: nobody else was added.
			header, _, _ := bytes.Cut(s.read(archive.ObjectName(o.Object)), []byte("\n---"))
			if n := bytes.Count(header, []byte("\n-> ")); n != 1 {
				t.Errorf("%s: an object has %d readers", p.Name, n)
			}
		}
	}
	if objects < 4 {
		t.Fatalf("%d objects", objects)
	}
	if text, err := s.restore(r, id, s.operator.Identities()); !errors.Is(err, archive.ErrNoIdentity) || strings.Contains(text, "example.com") {
		t.Errorf("restore with the operator's key: %v", err)
	}
	if text, err := s.restore(r, id, s.holder); err != nil || !strings.Contains(text, "person500@example.com") {
		t.Errorf("restore with the key holder's: %v", err)
	}
}

// TestForgedManifestsAreRefused is what a store, or whoever can write to it, does to a manifest.
func TestForgedManifestsAreRefused(t *testing.T) {
	s := newSite(t, peopleSQL)
	first, second := s.backup(), s.backup()
	if first > second { // both of one second: ids then sort by chance
		first, second = second, first
	}
	name, other := archive.ManifestName(second), archive.ManifestName(first)
	good := s.read(name)
	sig := s.read(name + archive.SignatureSuffix)
	stranger, err := archive.GenerateSigner()
	if err != nil {
		t.Fatal(err)
	}
	repository := s.open().ID
	m := s.manifest(s.open(), second, s.holder)

	// The same manifest without one table, encrypted by somebody who knows the public keys only.
	fewer := *m
	fewer.Parts = slices.DeleteFunc(slices.Clone(m.Parts), func(p archive.Part) bool { return p.Table == "people" })
	forged, _, err := archive.RewriteManifest(&fewer)
	if err != nil {
		t.Fatal(err)
	}

	// The same operator's snapshot of the same database, in another repository.
	elsewhere := s.newRepository(filepath.Join(t.TempDir(), "elsewhere"), "")
	theirs, err := s.tryBackup(elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	foreign, foreignSig := get(t, elsewhere, archive.ManifestName(theirs.Snapshot)), get(t, elsewhere, archive.ManifestName(theirs.Snapshot)+archive.SignatureSuffix)

	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	keys, keysSig := s.read(archive.KeysName), s.read(archive.KeysName+archive.SignatureSuffix)
	strangerSig, err := archive.Sign(stranger, archive.PurposeManifest, repository, name, good)
	if err != nil {
		t.Fatal(err)
	}
	strangerForged, err := archive.Sign(stranger, archive.PurposeManifest, repository, name, forged)
	if err != nil {
		t.Fatal(err)
	}

	for _, c := range []struct {
		name      string
		data, sig []byte
		kind      error
	}{
		{"one bit flipped", flipped, sig, archive.ErrBadSignature},
		{"cut short", good[:len(good)-1], sig, archive.ErrBadSignature},
		{"written by a stranger, with the old signature", forged, sig, archive.ErrBadSignature},
		{"written and signed by a stranger", forged, strangerForged, archive.ErrUntrustedSigner},
		{"signed again by a stranger", good, strangerSig, archive.ErrUntrustedSigner},
		{"an older snapshot under the newer name", s.read(other), s.read(other + archive.SignatureSuffix), archive.ErrOtherFile},
		{"a snapshot of another repository", foreign, foreignSig, archive.ErrOtherFile},
		{"the key file in its place", keys, keysSig, archive.ErrOtherFile},
		{"no signature", good, nil, archive.ErrIntegrity},
		{"an empty signature", good, []byte{}, archive.ErrMalformedSignature},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			s.write(name, c.data)
			if c.sig == nil {
				s.remove(name + archive.SignatureSuffix)
			} else {
				s.write(name+archive.SignatureSuffix, c.sig)
			}
			r := s.open()
			if _, err := r.Manifest(context.Background(), second, s.holder); !errors.Is(err, c.kind) || !errors.Is(err, pipeline.ErrIntegrity) {
				t.Errorf("read: %v, not %v", err, c.kind)
			}
			if text, err := s.restore(r, "latest", s.holder); !errors.Is(err, c.kind) || text != "" {
				t.Errorf("restore wrote %d bytes: %v", len(text), err)
			}
			s.mustNotRestore(r, second, c.kind)
			report := s.check(r, 0)
			if len(report.Problems) == 0 || report.Problems[0].Snapshot != second {
				t.Errorf("check: %+v", report.Problems)
			}
		})
	}
	s.t = t
	s.write(name, good)
	s.write(name+archive.SignatureSuffix, sig)
	if _, err := s.restore(s.open(), second, s.holder); err != nil {
		t.Errorf("put back as it was: %v", err)
	}
}

func get(t testing.TB, from store.Store, name string) []byte {
	t.Helper()
	data, err := store.ReadAll(context.Background(), from, name, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestSwappedObjectsAreRefused is what a store, or whoever can write to it, does to objects. Each is refused by restore
// and found by a check that reads, which needs no private key.
func TestSwappedObjectsAreRefused(t *testing.T) {
	s := newSite(t, peopleSQL)
	id := s.backup()
	m := s.manifest(s.open(), id, s.holder)
	people, notes := table(t, m, "people").Objects[0], table(t, m, "notes").Objects[0]
	name := archive.ObjectName(people.Object)
	good := s.read(name)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1

	// The attacker knows the public key, the table, and how an object is made.
	forged := seal(t, compress(t, []byte("COPY \"public\".\"people\" (\"id\", \"email\") FROM stdin;\n1\tmallory@example.com\n\\.\n")), s.public)

	for _, c := range []struct {
		name    string
		data    []byte // nil: deleted
		listing bool   // a check that reads nothing sees it
	}{
		{"deleted", nil, true},
		{"cut short", good[:len(good)-1], true},
		{"emptied", []byte{}, true},
		{"another object of the snapshot", s.read(archive.ObjectName(notes.Object)), true},
		{"a new one, encrypted to the same people", forged, true},
		{"one bit flipped", flipped, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			if c.data == nil {
				s.remove(name)
			} else {
				s.write(name, c.data)
			}
			defer s.write(name, good)
			r := s.open()
			text, err := s.restore(r, id, s.holder)
			if !errors.Is(err, pipeline.ErrIntegrity) || !strings.Contains(err.Error(), people.Object) {
				t.Errorf("restore: %v", err)
			}
			if text != "" && !strings.Contains(text, "this script is incomplete") {
				t.Error("the text that was begun does not say that it is incomplete")
			}
			s.mustNotRestore(r, id, pipeline.ErrIntegrity)
			for _, share := range []float64{0, 1} {
				found := slices.ContainsFunc(s.check(r, share).Problems, func(p pipeline.Problem) bool { return p.Object == people.Object && p.Snapshot == id })
				if found != (c.listing || share == 1) {
					t.Errorf("check that reads %.0f %%: found = %v", share*100, found)
				}
			}
		})
	}
}

// TestStolenOperatorKey shows what the operator's secret allows together with write access to the store, and what it
// does not: it can't read what is stored, it can write snapshots that are believed, until nobody trusts it any more.
func TestStolenOperatorKey(t *testing.T) {
	s := newSite(t, peopleSQL)
	id := s.backup()
	r := s.open()

	// All that the thief has, read from the key file's own text.
	stolen, err := archive.ParseOperatorKey("operator.key", []byte(s.operator.Text(time.Now())))
	if err != nil {
		t.Fatal(err)
	}
	m := s.manifest(r, id, stolen.Identities())
	people := table(t, m, "people")

	t.Run("reads manifests, no rows", func(t *testing.T) {
		opener, err := archive.NewOpener(stolen.Identities())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := opener.Open(s.read(archive.ObjectName(people.Objects[0].Object)), people.Objects[0]); !errors.Is(err, archive.ErrNoIdentity) {
			t.Errorf("an object: %v", err)
		}
		if people.Rows != 500 || !slices.Equal(people.Columns, []string{"id", "email"}) || m.Rules.Text != plainRules {
			t.Errorf("the manifest says %+v", people)
		}
	})

	t.Run("confirms a guess at the exact text of a piece", func(t *testing.T) {
		pieces, err := archive.NewPieces(stolen.PieceID, s.to)
		if err != nil {
			t.Fatal(err)
		}
		guess := "COPY \"public\".\"people\" (\"id\", \"email\") FROM stdin;\n"
		for i := 1; i <= 500; i++ {
			guess += fmt.Sprintf("%d\tperson%d@example.com\n", i, i)
		}
		if got := pieces.ID([]byte(guess + "\\.\n")).String(); got != people.Objects[0].Piece {
			t.Errorf("the whole, right guess is not confirmed: %s", got)
		}
		if got := pieces.ID([]byte(strings.Replace(guess, "person7@", "person_7@", 1) + "\\.\n")).String(); got == people.Objects[0].Piece {
			t.Error("a guess with one row wrong is confirmed")
		}
	})

	t.Run("writes a false snapshot", func(t *testing.T) {
		false1 := *m
		false1.ID = "20991231T235959Z-00000f"
		false1.Parts = slices.Clone(m.Parts)
		p := table(t, &false1, "people")
		p.Objects = []archive.Object{s.forge("COPY \"public\".\"people\" (\"id\", \"email\") FROM stdin;\n1\tmallory@example.com\n\\.\n", 1, people.Objects[0].Piece)}
		p.Rows = 1
		data, _, err := archive.RewriteManifest(&false1)
		if err != nil {
			t.Fatal(err)
		}
		s.sign(stolen.Signing, r.ID, false1.ID, data)

		text, err := s.restore(r, "latest", s.holder)
		if err != nil || !strings.Contains(text, "mallory@example.com") {
			t.Fatalf("who trusts the key believes it: %v", err)
		}
		// The key is known to be stolen: the key holder trusts another one, and nothing of this one's any more.
		fresh, err := archive.GenerateOperator()
		if err != nil {
			t.Fatal(err)
		}
		for _, snapshot := range []string{id, false1.ID} {
			if _, err := s.restore(s.open(fresh.Public()), snapshot, s.holder); !errors.Is(err, archive.ErrUntrustedSigner) {
				t.Errorf("%s, when the key is trusted no more: %v", snapshot, err)
			}
		}
	})

	t.Run("runs no command on the key holder's machine by restore", func(t *testing.T) {
		made := filepath.Join(t.TempDir(), "made")
		evil := *m
		evil.ID = "20991231T235959Z-0000ff"
		evil.Parts = slices.Clone(m.Parts)
		part(t, &evil, archive.PreData).Objects = []archive.Object{s.forge("\\! touch "+made+"\n", 0, people.Objects[0].Piece)}
		data, _, err := archive.RewriteManifest(&evil)
		if err != nil {
			t.Fatal(err)
		}
		s.sign(stolen.Signing, r.ID, evil.ID, data)
		if err := s.restoreInto(r, evil.ID, "must_not_come_to_be"); err == nil {
			t.Error("psql's commands are no SQL")
		}
		if _, err := os.Stat(made); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a shell command ran: %v", err)
		}
	})
}

// TestSwappedManifestIsNoticed: whoever holds the operator's key changes an older snapshot in its place. Its signature is
// good; the newest manifest knows another digest.
func TestSwappedManifestIsNoticed(t *testing.T) {
	s := newSite(t, peopleSQL)
	old := s.backup()
	for s.backup() < old { // ids of one second sort by chance; the newest must not be the old one
	}
	r := s.open()
	if p := s.check(r, 1).Problems; len(p) != 0 {
		t.Fatalf("before: %+v", p)
	}
	m := s.manifest(r, old, s.operator.Identities())
	m.Parts = slices.DeleteFunc(m.Parts, func(p archive.Part) bool { return p.Table == "people" })
	data, _, err := archive.RewriteManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	s.sign(s.operator.Signing, r.ID, old, data)
	problems := s.check(r, 0).Problems
	if len(problems) != 1 || problems[0].Snapshot != old || !strings.Contains(problems[0].Problem, "swapped") {
		t.Errorf("check: %+v", problems)
	}
}

// TestHiddenSnapshotsAreNoticedOnlyByAge writes down a limit: a store that stops showing snapshots shows nothing wrong.
// What is left is the age of the newest one it shows, which a monitor must watch.
func TestHiddenSnapshotsAreNoticedOnlyByAge(t *testing.T) {
	s := newSite(t, peopleSQL)
	ids := []string{s.backup(), s.backup(), s.backup()}
	slices.Sort(ids)
	r := s.open()
	for hidden := 2; hidden >= 1; hidden-- {
		s.remove(archive.ManifestName(ids[hidden]))
		s.remove(archive.ManifestName(ids[hidden]) + archive.SignatureSuffix)
		report := s.check(r, 1)
		if len(report.Problems) != 0 || report.Snapshots != hidden {
			t.Errorf("check: %+v", report)
		}
		if latest, err := r.Find(context.Background(), "latest"); err != nil || latest != ids[hidden-1] {
			t.Errorf("the newest is %s, %v", latest, err)
		}
	}
}

// TestBombIsRefused: objects that would unpack to far more than their manifest says, with a manifest that is signed by a
// trusted key. Memory is bounded by what the manifest says.
func TestBombIsRefused(t *testing.T) {
	s := newSite(t, peopleSQL)
	id := s.backup()
	r := s.open()
	m := s.manifest(r, id, s.holder)
	const unpacked = 512 << 20
	var bomb bytes.Buffer
	enc, err := zstd.NewWriter(&bomb, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range unpacked >> 20 {
		if _, err := enc.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	data := seal(t, bomb.Bytes(), s.public)
	o := &table(t, m, "people").Objects[0]
	o.Object, o.Size = archive.Digest(data), int64(len(data)) // and Text as it was
	s.write(archive.ObjectName(o.Object), data)
	signed, _, err := archive.RewriteManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	s.sign(s.operator.Signing, r.ID, id, signed)

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = s.restore(r, id, s.holder)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, pipeline.ErrIntegrity) || !strings.Contains(err.Error(), o.Object) {
		t.Errorf("restore: %v", err)
	}
	if spent := after.TotalAlloc - before.TotalAlloc; spent > unpacked/4 {
		t.Errorf("%d MiB were allocated on the way to refusing %d MiB", spent>>20, unpacked>>20)
	}
	s.mustNotRestore(r, id, pipeline.ErrIntegrity)
}

// TestNothingPersonalIsSaid makes runs fail right where personal values are at hand, and looks for them in every error,
// hint, log line, warning and report.
func TestNothingPersonalIsSaid(t *testing.T) {
	const schema = `CREATE TABLE people (id int PRIMARY KEY, email varchar(40));
		INSERT INTO people VALUES (1, 'canary@example.com'), (2, 'canary2@example.com');
		CREATE TABLE posts (id int PRIMARY KEY, author int REFERENCES people ON DELETE CASCADE, body text); INSERT INTO posts VALUES (1, 1, '{"broken": canary')`
	const subjects = "subjects:\n  user: {table: people, key: id, lookup: [email]}\nerase:\n  people: {delete: true}\n"
	cases := []struct {
		name  string
		sql   string // after the schema
		rules string
		fails string // what the error says; "" for a run that succeeds
	}{
		{"a person without a row", "", subjects + "requests:\n  - {subject: \"user:776655443\", ref: R-1, received: 2026-11-20}\n", ""},
		{"a person's row", "ALTER TABLE people ADD UNIQUE (email)", strings.Replace(subjects, "key: id", "key: email", 1) + "requests:\n  - {subject: \"user:canary@example.com\", ref: R-1, received: 2026-11-20}\n", ""},
		{"a key of another type", "", subjects + "requests:\n  - {subject: \"user:canary\", ref: R-1, received: 2026-11-20}\n", "R-1"},
		{"a result that does not fit", "", "always:\n  people.email: {regex: {match: '@', replace: '-canary-0123456789012345678901234567890123456789-'}}\n", "people"},
		{"a reference in broken JSON", "", "references:\n  posts.body: {to: people.id, path: $.user}\n" + subjects + "  posts: {delete: [author, body]}\nrequests:\n  - {subject: \"user:2\", ref: R-1, received: 2026-11-20}\n", "posts"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, schema+";"+c.sql)
			s.rules = plainRules + c.rules
			_, err := s.tryBackup(s.store)
			if (err == nil) != (c.fails == "") {
				t.Fatalf("the run: %v", err)
			}
			if err != nil && !regexp.MustCompile(c.fails).MatchString(err.Error()) {
				t.Errorf("the error does not name %s: %v", c.fails, err)
			}
			silent(t, &s.heard)
		})
	}

	// A row that the target refuses: PostgreSQL's own message quotes the whole of it.
	t.Run("a row that can't be restored", func(t *testing.T) {
		s := newSite(t, `CREATE TABLE allowed (email text); INSERT INTO allowed VALUES ('canary@example.com');
			CREATE FUNCTION is_allowed(text) RETURNS bool LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM public.allowed WHERE email = $1)';
			CREATE TABLE people (email text CHECK (is_allowed(email))); INSERT INTO people VALUES ('canary@example.com'); DELETE FROM allowed`)
		s.backup()
		err := s.restoreInto(s.open(), "latest", "must_not_come_to_be")
		if err == nil || !strings.Contains(err.Error(), "people") {
			t.Fatalf("restore: %v", err)
		}
		silent(t, &s.heard)
	})
	t.Run("a row that breaks a unique index at the end", func(t *testing.T) {
		s := newSite(t, `CREATE TABLE people (id int, email text); INSERT INTO people VALUES (1, 'canary@example.com'), (2, 'canary@example.com');
			CREATE FUNCTION tag(int, text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1 || $2';
			CREATE UNIQUE INDEX people_tag ON people (tag(id, email));
			CREATE OR REPLACE FUNCTION tag(int, text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $2'`)
		s.backup()
		err := s.restoreInto(s.open(), "latest", "must_not_come_to_be")
		if err == nil || !strings.Contains(err.Error(), "people_tag") {
			t.Fatalf("restore: %v", err)
		}
		silent(t, &s.heard)
	})
}

// silent makes sure that no marked value was said, and that something was.
func silent(t testing.TB, h *heard) {
	t.Helper()
	said := h.String()
	if said == "" {
		t.Error("nothing was said: nothing was tried")
	}
	for _, value := range []string{"canary", "776655443"} {
		if i := strings.Index(said, value); i >= 0 {
			t.Errorf("%q was said: …%s", value, said[max(0, i-200):min(len(said), i+100)])
		}
	}
}

// TestNothingOnCommandLines takes a backup with a password, a request and rules, and looks at the command lines of all
// processes of this machine while pg_dump runs. (On the server's side PostgreSQL shows no statement in them either.)
func TestNothingOnCommandLines(t *testing.T) {
	server, err := pgtemp.Start(context.Background(), pgtemp.Options{TCP: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	if err := server.Exec(context.Background(), "postgres", `CREATE TABLE people (id text PRIMARY KEY); INSERT INTO people VALUES ('person-5e0c77a1'), ('another')`); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, "")
	s.url = server.TCPURL("postgres")
	s.rules = plainRules + "subjects: {user: {table: people, key: id}}\nerase: {people: {delete: true}}\nrequests:\n  - {subject: \"user:person-5e0c77a1\", ref: R-1, received: 2026-11-20}\n"
	lines := t.TempDir()
	s.pgDump = filepath.Join(t.TempDir(), "pg_dump")
	script := fmt.Sprintf("#!/bin/sh\ncat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' > %s/$$\necho \"$@\" >> %s/$$\nexec %s \"$@\"\n", lines, lines, server.Tool("pg_dump"))
	if err := os.WriteFile(s.pgDump, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	report, err := s.tryBackup(s.store)
	if err != nil || report.Dropped != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
	password := regexp.MustCompile(`//postgres:([^@]+)@`).FindStringSubmatch(s.url)[1]
	secrets := map[string]string{"the password": password, "the key of a person": "person-5e0c77a1"}
	for line := range strings.Lines(s.operator.Text(time.Now())) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && !strings.HasPrefix(line, "#") && len(value) > 20 {
			secrets["the operator's "+name] = value
		}
	}
	if len(secrets) != 7 {
		t.Fatalf("%d secrets", len(secrets))
	}
	files, err := os.ReadDir(lines)
	if err != nil || len(files) < 2 {
		t.Fatalf("pg_dump ran %d times, %v", len(files), err)
	}
	dumped := false
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(lines, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		dumped = dumped || bytes.Contains(text, []byte("--section=pre-data"))
		for what, secret := range secrets {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("%s stands on a command line", what)
			}
		}
	}
	if !dumped {
		t.Error("pg_dump's own command line was not seen")
	}
	for what, secret := range secrets {
		if strings.Contains(s.heard.String(), secret) {
			t.Errorf("%s was said", what)
		}
	}
}

// TestPlaintextTouchesNoDisk backs up and restores with every place where a program might leave a file empty and
// watched: the temporary folder, the home, the working directory, and this process's own open files.
func TestPlaintextTouchesNoDisk(t *testing.T) {
	s := newSite(t, `CREATE TABLE people (id int, email text); INSERT INTO people SELECT i, 'canary' || i || repeat('x', 500) FROM generate_series(1, 20000) i`)
	places := map[string]string{"TMPDIR": t.TempDir(), "HOME": t.TempDir(), "PWD": t.TempDir()}
	t.Setenv("TMPDIR", places["TMPDIR"])
	t.Setenv("HOME", places["HOME"])
	t.Chdir(places["PWD"])
	before := writable(t, s.path)
	looked := 0
	look := func() {
		looked++
		for what, place := range places {
			if entries, err := os.ReadDir(place); err != nil || len(entries) > 0 {
				t.Errorf("%s holds %v, %v", what, entries, err)
			}
		}
		for _, path := range writable(t, s.path) {
			if !slices.Contains(before, path) {
				t.Errorf("%s is open for writing", path)
			}
		}
	}
	seen := &recorder{Store: s.store, look: look}
	if _, err := s.tryBackup(seen); err != nil {
		t.Fatal(err)
	}
	if looked < 6 {
		t.Errorf("looked %d times during the backup", looked)
	}

	during := looked
	_, err := pipeline.Restore(context.Background(), pipeline.RestoreConfig{Repository: s.open(), Snapshot: "latest", Identities: s.holder,
		To: pgtest.DB(t), Workers: 1, Now: time.Now, Progress: func(pipeline.Progress) { look() }})
	if err != nil {
		t.Fatal(err)
	}
	if looked == during {
		t.Error("never looked during the restore")
	}
	look()
}

// writable lists the regular files outside the store that this process has open for writing.
func writable(t testing.TB, except string) (paths []string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		path, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, except) {
			continue // closed meanwhile, or no file
		}
		info, err := os.Stat("/proc/self/fd/" + fd.Name())
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		text, err := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
		if err != nil {
			continue
		}
		match := regexp.MustCompile(`flags:\s+([0-7]+)`).FindSubmatch(text)
		if match == nil {
			t.Fatalf("fdinfo: %s", text)
		}
		flags, err := strconv.ParseInt(string(match[1]), 8, 64)
		if err != nil {
			t.Fatal(err)
		}
		if flags&(syscall.O_WRONLY|syscall.O_RDWR) != 0 {
			paths = append(paths, path)
		}
	}
	return paths
}
