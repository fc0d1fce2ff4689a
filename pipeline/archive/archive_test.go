package archive

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

// fixture is a repository's worth of keys.
type fixture struct {
	op     *OperatorKey
	holder *age.X25519Identity
	to     *Recipients
	ids    *Identities
	repo   string
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	op, err := GenerateOperator()
	if err != nil {
		t.Fatal(err)
	}
	holder, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	to, err := ParseRecipients([]string{holder.Recipient().String()}, "")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := ParseIdentities("key.txt", []byte("# comment\n"+holder.String()+"\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := NewRepository()
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{op: op, holder: holder, to: to, ids: ids, repo: repo.Repository}
}

func newSealer(t testing.TB, to *Recipients) *Sealer {
	t.Helper()
	s, err := NewSealer(to)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newOpener(t testing.TB, ids *Identities) *Opener {
	t.Helper()
	o, err := NewOpener(ids)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

var testTime = time.Date(2026, 11, 22, 18, 0, 0, 123456000, time.UTC)

// seal makes an object of text and its manifest entry.
func (f *fixture) seal(t testing.TB, text string, rows int64) ([]byte, Object) {
	t.Helper()
	s := newSealer(t, f.to)
	p, err := NewPieces(f.op.PieceID, f.to)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := s.Seal(nil, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return sealed.Data, sealed.Ref(rows, p.ID([]byte(text)), 0)
}

// manifest returns a small valid manifest over real objects, and these by name.
func (f *fixture) manifest(t testing.TB) (*Manifest, map[string][]byte) {
	t.Helper()
	id, err := NewSnapshotID(testTime, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pre, preObj := f.seal(t, "SET client_encoding = 'UTF8';\nCREATE TABLE public.t (a int);\n", 0)
	tab, tabObj := f.seal(t, "COPY \"public\".\"t\" (\"a\") FROM stdin;\n1\n2\n\\.\n", 2)
	m := &Manifest{
		ID: id, Dataset: "slipmat", Started: testTime, Finished: testTime.Add(time.Minute),
		Tool: "lethe test", ServerVersion: "15.18", PgDumpVersion: "15.18",
		Source: Source{SystemID: "7300000000000000001", Timeline: "1", LSN: "0/1A2B3C4", Name: "slipmat"},
		Alive:  []SnapshotRef{{ID: "20261122T120000Z-000001", Digest: strings.Repeat("a", 64)}},
		Rules:  Rules{Text: "version: 1\ndataset: slipmat\n"}, Schema: strings.Repeat("b", 64),
		Database:       Database{Encoding: "UTF8", LocaleProvider: "c", Collate: "C.UTF-8", CType: "C.UTF-8", Settings: []Setting{{Name: "work_mem", Value: "8MB"}}},
		Extensions:     []Extension{{Name: "citext"}},
		Roles:          []Role{{Name: "app", Attributes: []string{"LOGIN"}}},
		ClientEncoding: "UTF8",
		Parts: []Part{
			{Kind: Globals},
			{Kind: PreData, Objects: []Object{preObj}},
			{Kind: Table, Schema: "public", Table: "t", Columns: []string{"a"}, Rows: 2, Dropped: 1, Objects: []Object{tabObj}},
			{Kind: Table, Schema: "public", Table: "Tab \"x\" <&>", Objects: []Object{}},
			{Kind: Sequences}, {Kind: LargeObjects}, {Kind: PostData},
		},
	}
	return m, map[string][]byte{ObjectName(preObj.Object): pre, ObjectName(tabObj.Object): tab}
}

// run runs a real tool and returns its standard output.
func run(t testing.TB, dir string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestByHand restores a repository's text with the tools that the format promises, none of them ours.
func TestByHand(t *testing.T) {
	f := newFixture(t)
	m, objects := f.manifest(t)
	dir := t.TempDir()
	for name, data := range objects {
		write(t, filepath.Join(dir, name), data)
	}
	data, digest, err := WriteManifest(m, f.to, f.op)
	if err != nil {
		t.Fatal(err)
	}
	if digest != Digest(data) {
		t.Errorf("digest %s is not the file's", digest)
	}
	name := ManifestName(m.ID)
	sig, err := Sign(f.op.Signing, PurposeManifest, f.repo, name, data)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, name), data)
	write(t, filepath.Join(dir, name+SignatureSuffix), sig)
	write(t, filepath.Join(dir, "key"), []byte(f.holder.String()+"\n"))

	comment := strings.TrimSpace(run(t, dir, "minisign", "-V", "-Q", "-P", f.op.Public().String(), "-m", name))
	if want := "lethe v1 purpose=manifest repository=" + f.repo + " name=" + name; comment != want {
		t.Errorf("minisign shows the trusted comment %q, want %q", comment, want)
	}
	recipe := `set -euo pipefail
age -d -i key "$1" | zstd -d > m.json
jq -r '.parts[].objects[] | "\(.object)  objects/\(.object[0:2])/\(.object)"' m.json > sums && sha256sum -c --quiet sums
cut -c67- sums | while read -r o; do age -d -i key "$o" | zstd -d || { echo '\quit 3'; exit 1; }; done`
	got := run(t, dir, "bash", "-c", recipe, "recipe", name)
	want := "SET client_encoding = 'UTF8';\nCREATE TABLE public.t (a int);\nCOPY \"public\".\"t\" (\"a\") FROM stdin;\n1\n2\n\\.\n"
	if got != want {
		t.Errorf("by hand:\n%s\nwant:\n%s", got, want)
	}

	victim := filepath.Join(dir, ObjectName(m.Parts[2].Objects[0].Object))
	intact, err := os.ReadFile(victim)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(intact)
	damaged[len(damaged)/2] ^= 1
	write(t, victim, damaged)
	if err := exec.Command("bash", "-c", "cd "+dir+" && "+recipe, "recipe", name).Run(); err == nil {
		t.Error("by hand, a damaged object was not noticed")
	}
	if err := os.Remove(victim); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("bash", "-c", "cd "+dir+" && "+recipe, "recipe", name).Run(); err == nil {
		t.Error("by hand, a missing object was not noticed")
	}
	write(t, victim, intact)
	if got := run(t, dir, "bash", "-c", recipe, "recipe", name); got != want {
		t.Error("by hand, the repaired repository does not restore")
	}
	write(t, filepath.Join(dir, name), append(data, 0))
	if err := exec.Command("minisign", "-V", "-Q", "-P", f.op.Public().String(), "-m", filepath.Join(dir, name)).Run(); err == nil {
		t.Error("minisign did not notice a changed manifest")
	}
}

// TestHybrid goes once through everything with post-quantum keys.
func TestHybrid(t *testing.T) {
	f := newFixture(t)
	holder, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if f.to, err = ParseRecipients([]string{holder.Recipient().String()}, ""); err != nil {
		t.Fatal(err)
	}
	if f.ids, err = ParseIdentities("k", []byte(holder.String()), nil); err != nil {
		t.Fatal(err)
	}
	m, objects := f.manifest(t)
	data, _, err := WriteManifest(m, f.to, f.op)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := WriteKeys(f.repo, f.op, f.to)
	if err != nil {
		t.Fatal(err)
	}
	for who, ids := range map[string]*Identities{"key holder": f.ids, "operator": f.op.Identities()} {
		if _, err := ReadManifest(ManifestName(m.ID), data, ids, Limits{}); err != nil {
			t.Errorf("%s: %v", who, err)
		}
		if _, err := ReadKeys(f.repo, KeysName, keys, ids); err != nil {
			t.Errorf("%s: %v", who, err)
		}
		o := newOpener(t, ids)
		want := m.Parts[2].Objects[0]
		_, err = o.Open(objects[ObjectName(want.Object)], want)
		if who == "key holder" && err != nil || who == "operator" && !errors.Is(err, ErrNoIdentity) {
			t.Errorf("%s opens an object: %v", who, err)
		}
	}
}
