package archive

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// The repository under testdata/v1 was written once; that it stays readable, and that what is keyed stays what it was,
// is how an accidental change of the format is noticed. -write-vectors makes it anew, for a change that is meant.
var writeVectors = flag.Bool("write-vectors", false, "write testdata/v1 anew")

const vectorID = "20261122T180000Z-3f9a1c"

// vectorRows are rows that anybody can make again.
func vectorRows() [][]byte {
	var rows [][]byte
	x := uint32(1)
	for i, n := 0, 0; n < 12<<20; i++ {
		x = x*1664525 + 1013904223
		row := fmt.Appendf(nil, "%d\t%s\n", i, strings.Repeat(fmt.Sprint(x), 1+int(x>>28)))
		rows, n = append(rows, row), n+len(row)
	}
	return rows
}

func makeVectors(t *testing.T, dir string) {
	t.Helper()
	f := newFixture(t)
	put := func(name string, data []byte) { write(t, filepath.Join(dir, name), data) }
	put("identity.txt", []byte("# An age identity of the tests: it protects nothing.\n"+f.holder.String()+"\n"))
	put("operator.key", []byte(f.op.Text(testTime)))
	lethe, err := (&Repository{Format: formatName, Version: Version, Repository: f.repo}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	put(RepositoryName, lethe)
	signed := func(purpose Purpose, name string, data []byte) {
		sig, err := Sign(f.op.Signing, purpose, f.repo, name, data)
		if err != nil {
			t.Fatal(err)
		}
		put(name+SignatureSuffix, sig)
		put(name, data)
	}
	keys, err := WriteKeys(f.repo, f.op, f.to)
	if err != nil {
		t.Fatal(err)
	}
	signed(PurposeKeys, KeysName, keys)
	m, objects := f.manifest(t)
	m.ID = vectorID
	for name, data := range objects {
		put(name, data)
	}
	data, _, err := WriteManifest(m, f.to, f.op)
	if err != nil {
		t.Fatal(err)
	}
	signed(PurposeManifest, ManifestName(m.ID), data)
	text, err := encodeManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	put("manifest.json", text)
	put("boundaries.txt", boundaries(f.op.PieceID))
}

func TestVectors(t *testing.T) {
	dir := filepath.Join("testdata", "v1")
	if *writeVectors {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		makeVectors(t, dir)
	}
	get := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	op, err := ParseOperatorKey("operator.key", get("operator.key"))
	if err != nil {
		t.Fatal(err)
	}
	if op.Text(testTime) != string(get("operator.key")) {
		t.Error("the operator key file is written differently now")
	}
	ids, err := ParseIdentities("identity.txt", get("identity.txt"), nil)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := ParseRepository(get(RepositoryName))
	if err != nil {
		t.Fatal(err)
	}
	trust := NewTrust(op.Public())
	if _, err := trust.Verify(PurposeKeys, repo.Repository, KeysName, get(KeysName), get(KeysName+SignatureSuffix)); err != nil {
		t.Fatal(err)
	}
	keys, err := ReadKeys(repo.Repository, KeysName, get(KeysName), ids)
	if err != nil {
		t.Fatal(err)
	}
	if !keys.PieceID.Equal(op.PieceID) || !keys.Strategy.Equal(op.Strategy) {
		t.Error("the key file holds other keys than the operator's")
	}
	name := ManifestName(vectorID)
	data := get(name)
	if _, err := trust.Verify(PurposeManifest, repo.Repository, name, data, get(name+SignatureSuffix)); err != nil {
		t.Fatal(err)
	}
	if sig, err := Sign(op.Signing, PurposeManifest, repo.Repository, name, data); err != nil || !bytes.Equal(sig, get(name+SignatureSuffix)) {
		t.Errorf("the signature is another one now (%v)", err)
	}
	m, err := ReadManifest(name, data, ids, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	want, err := decodeManifest("manifest.json", get("manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("the manifest says\n%+v\nwant\n%+v", m, want)
	}
	if text, err := encodeManifest(m); err != nil || !bytes.Equal(text, get("manifest.json")) {
		t.Errorf("the manifest is encoded differently now (%v):\n%s", err, text)
	}
	to, err := ParseRecipients(m.Recipients, "")
	if err != nil {
		t.Fatal(err)
	}
	pieces, err := NewPieces(keys.PieceID, to)
	if err != nil {
		t.Fatal(err)
	}
	opener := newOpener(t, ids)
	var texts []string
	for _, p := range m.Parts {
		for _, o := range p.Objects {
			text, err := opener.Open(get(ObjectName(o.Object)), o)
			if err != nil {
				t.Fatal(err)
			}
			if id := pieces.ID(text).String(); id != o.Piece {
				t.Errorf("object %s: piece id %s, the manifest says %s", o.Object, id, o.Piece)
			}
			texts = append(texts, string(text))
		}
	}
	if want := []string{"SET client_encoding = 'UTF8';\nCREATE TABLE public.t (a int);\n", "COPY \"public\".\"t\" (\"a\") FROM stdin;\n1\n2\n\\.\n"}; !reflect.DeepEqual(texts, want) {
		t.Errorf("texts %q", texts)
	}
	if got := boundaries(keys.PieceID); !bytes.Equal(got, get("boundaries.txt")) {
		t.Errorf("pieces begin at other rows now:\n%s", got)
	}
}

// boundaries says at which rows pieces begin, and then the same for the end of a table.
func boundaries(key SecretKey) []byte {
	starts, _ := cut(NewCutter(key), vectorRows())
	finer, _ := cut(NewCutter(key).Finer(), vectorRows())
	return fmt.Appendf(nil, "%v\n%v\n", starts, finer)
}
