package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestManifestRoundTrip(t *testing.T) {
	f := newFixture(t)
	m, _ := f.manifest(t)
	m.Ledger = &LedgerHead{Sequence: 17, Digest: strings.Repeat("c", 64)}
	data, digest, err := WriteManifest(m, f.to, f.op)
	if err != nil {
		t.Fatal(err)
	}
	name := ManifestName(m.ID)
	for who, ids := range map[string]*Identities{"key holder": f.ids, "operator": f.op.Identities()} {
		got, err := ReadManifest(name, data, ids, Limits{})
		if err != nil {
			t.Fatalf("%s: %v", who, err)
		}
		if !reflect.DeepEqual(got, m) {
			t.Errorf("%s reads another manifest:\n%+v\nwant\n%+v", who, got, m)
		}
	}
	if Digest(data) != digest {
		t.Error("the digest is not the file's")
	}
	if _, err := ReadManifest(name, data, newFixture(t).ids, Limits{}); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("a stranger: %v", err)
	}
	if _, err := ReadManifest(ManifestName("20261122T180000Z-ffffff"), data, f.ids, Limits{}); !errors.Is(err, ErrIntegrity) || !strings.Contains(err.Error(), m.ID) {
		t.Errorf("under another name: %v", err)
	}
	if _, err := ReadManifest("snapshots/x.age", data, f.ids, Limits{}); !errors.Is(err, ErrIntegrity) {
		t.Errorf("under no manifest's name: %v", err)
	}
	if _, err := ReadManifest(name, data, f.ids, Limits{Manifest: 500}); !errors.Is(err, ErrIntegrity) {
		t.Errorf("over the limit: %v", err)
	}
	for i := 0; i < len(data); i += 7 {
		flipped := bytes.Clone(data)
		flipped[i] ^= 4
		if _, err := ReadManifest(name, flipped, f.ids, Limits{}); err == nil {
			t.Fatalf("byte %d flipped: accepted", i)
		}
	}

	// A key holder writes a successor for the same readers, without the operator's key.
	next := *m
	next.ID = "20261123T000000Z-00000a"
	next.Supersedes = []SnapshotRef{{ID: m.ID, Digest: digest}}
	data, _, err = RewriteManifest(&next)
	if err != nil {
		t.Fatal(err)
	}
	for who, ids := range map[string]*Identities{"key holder": f.ids, "operator": f.op.Identities()} {
		if got, err := ReadManifest(ManifestName(next.ID), data, ids, Limits{}); err != nil || !reflect.DeepEqual(got, &next) {
			t.Errorf("%s reads the successor: %v", who, err)
		}
	}
}

func TestManifestJSON(t *testing.T) {
	f := newFixture(t)
	m, _ := f.manifest(t)
	text, err := encodeManifestFor(f, m)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(text, []byte(`{"format":"lethe","version":1,"id":"`)) {
		t.Errorf("begins with %.60s", text)
	}
	var v map[string]any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	if v["ledger"] != nil || v["supersedes"] == nil {
		t.Errorf("ledger is %v, supersedes %v", v["ledger"], v["supersedes"])
	}
	for i, p := range v["parts"].([]any) {
		part := p.(map[string]any)
		if _, ok := part["objects"].([]any); !ok {
			t.Errorf("part %d: objects is not an array", i)
		}
		if _, ok := part["filters"]; ok {
			t.Errorf("part %d: filters is there, although empty", i)
		}
	}
}

// TestManifestRefuses breaks a good manifest's JSON in one place at a time.
func TestManifestRefuses(t *testing.T) {
	f := newFixture(t)
	m, _ := f.manifest(t)
	text, err := encodeManifestFor(f, m)
	if err != nil {
		t.Fatal(err)
	}
	obj := m.Parts[2].Objects[0]
	objJSON := fmt.Sprintf(`"objects":[{"object":"%s","size":%d,"text":%d,"rows":2,"piece":"%s"}]`, obj.Object, obj.Size, obj.Text, obj.Piece)
	own := fmt.Sprintf(`{"id":"%s","digest":"%s"}`, m.ID, strings.Repeat("a", 64))
	alive := fmt.Sprintf(`{"id":"20261122T120000Z-000001","digest":"%s"}`, strings.Repeat("a", 64))
	for _, tt := range []struct{ name, old, new, want string }{
		{"newer version", `"version":1,`, `"version":7,`, "format version 7: this lethe reads 1"},
		{"version 0", `"version":1,`, `"version":0,`, "format version 0: this lethe reads 1"},
		{"version twice", `"version":1,`, `"version":1,"version":2,`, "stands twice"},
		{"version as text", `"version":1,`, `"version":"1",`, "not a number"},
		{"version broken", `"version":1,`, `"version":1.5,`, "not a whole number"},
		{"other format", `"format":"lethe"`, `"format":"lothe"`, "not a Lethe document"},
		{"unknown member", `"dataset":`, `"datasett":"x","dataset":`, `unknown field "datasett"`},
		{"unknown member of a part", `"kind":"table",`, `"kind":"table","kindd":1,`, `unknown field "kindd"`},
		{"something behind", `[]}]}`, `[]}]} x`, "follows the JSON"},
		{"cut", `"post-data"`, `"post-`, "not valid JSON"},
		{"wrong type", `"rows":2,"dropped"`, `"rows":"2","dropped"`, "wrong type"},
		{"fraction", `"rows":2,"dropped"`, `"rows":2.5,"dropped"`, "wrong type"},
		{"huge number", `"rows":2,"dropped"`, `"rows":99999999999999999999,"dropped"`, "wrong type"},
		{"not UTF-8", `"slipmat"`, "\"slip\xff\"", "not valid UTF-8"},
		{"id", m.ID, "20261322T180000Z-3f9a1c", "id: not of the form"},
		{"no dataset", `"dataset":"slipmat"`, `"dataset":""`, "dataset: empty"},
		{"no start", `"started":"2026-11-22T18:00:00.123456Z",`, ``, "started or finished"},
		{"alive twice", alive, alive + "," + alive, "stands twice"},
		{"alive itself", alive, own, "names itself"},
		{"alive digest", alive, strings.Replace(alive, "aaaa", "AAAA", 1), "not an id and a digest"},
		{"rules changed", `dataset: slipmat`, `dataset: slipmut`, "the digest is not that of the text"},
		{"fingerprint", strings.Repeat("b", 64), "bb", "schema_fingerprint"},
		{"ledger", `"ledger":null`, `"ledger":{"sequence":0,"digest":""}`, "ledger"},
		{"erasures", `"erasures_applied":0`, `"erasures_applied":-1`, "erasures_applied: negative"},
		{"role twice", `{"name":"app","attributes":["LOGIN"]}`, `{"name":"app","attributes":[]},{"name":"app","attributes":[]}`, "roles: a name"},
		{"extension", `{"name":"citext"}`, `{"name":""}`, "extensions: a name is empty"},
		{"client encoding", `"client_encoding":"UTF8"`, `"client_encoding":""`, "client_encoding"},
		{"no recipients", `"recipients":["` + f.to.Strings()[0] + `"]`, `"recipients":[]`, "no recipient"},
		{"recipient twice", f.to.Strings()[0] + `"]`, f.to.Strings()[0] + `","` + f.to.Strings()[0] + `"]`, "stands twice"},
		{"operator reads objects", `"operator":"` + m.Operator, `"operator":"` + f.to.Strings()[0], "operator's key stands among"},
		{"operator missing", `"operator":"` + m.Operator, `"operator":"`, "operator: recipients: not an age public key"},
		{"unknown kind", `"sequences"`, `"sequence\u001b"`, "(sequence?): unknown kind"},
		{"order", `{"kind":"sequences"`, `{"kind":"pre-data"`, "not in restore order"},
		{"kind twice", `{"kind":"large-objects"`, `{"kind":"sequences"`, "stands twice"},
		{"no pre-data", `{"kind":"pre-data"`, `{"kind":"globals"`, "stands twice"},
		{"table without name", `"table":"t"`, `"table":""`, "schema or table is empty"},
		{"table without schema", `"schema":"public","table":"t"`, `"table":"t"`, "schema or table is empty"},
		{"table twice", `"table":"Tab \"x\" \u003c\u0026\u003e"`, `"table":"t"`, "this table stands twice"},
		{"globals with a table", `{"kind":"globals"`, `{"kind":"globals","schema":"s"`, "only a table has"},
		{"column twice", `"columns":["a"]`, `"columns":["a","a"]`, "a column is empty or stands twice"},
		{"rows more", objJSON, strings.Replace(objJSON, `"rows":2`, `"rows":3`, 1), "don't add up"},
		{"rows fewer", objJSON, strings.Replace(objJSON, `"rows":2`, `"rows":1`, 1), "don't add up"},
		{"negative rows", objJSON, strings.Replace(objJSON, `"rows":2`, `"rows":-2`, 1), "row count out of bounds"},
		{"more rows than bytes", objJSON, strings.Replace(objJSON, `"rows":2`, `"rows":2000`, 1), "row count out of bounds"},
		{"negative count", `"dropped":1`, `"dropped":-1`, "negative count"},
		{"object's name", obj.Object, strings.ToUpper(obj.Object), "64 hexadecimal"},
		{"object's path", obj.Object, "../../../etc/passwd" + obj.Object[19:], "64 hexadecimal"},
		{"piece", obj.Piece, obj.Piece[1:], "piece id"},
		{"size", objJSON, strings.Replace(objJSON, fmt.Sprintf(`"size":%d`, obj.Size), `"size":-1`, 1), "size out of bounds"},
		{"text", objJSON, strings.Replace(objJSON, fmt.Sprintf(`"text":%d`, obj.Text), `"text":9999999999`, 1), "text size out of bounds"},
		{"range", objJSON, strings.Replace(objJSON, `}]`, `,"range":-1}]`, 1), "negative range"},
		{"objects null", objJSON, `"objects":null`, "part 3: there must be one objects array"},
		{"objects missing", objJSON, `"name":"x"`, "part 3: there must be one objects array"},
		{"objects twice", objJSON, objJSON + `,"objects":[]`, "there must be one objects array"},
		{"objects in capitals too", objJSON, objJSON + `,"Objects":[]`, "objects stands twice"},
		{"parts in capitals too", `"format":"lethe","version":1,`, `"format":"lethe","version":1,"PARTS":[],`, "parts stands twice"},
		{"part null", `"parts":[`, `"parts":[null,`, "an object is missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			broken := strings.Replace(string(text), tt.old, tt.new, 1)
			if broken == string(text) {
				t.Fatalf("%q does not stand in the manifest", tt.old)
			}
			got, err := decodeManifest("m", []byte(broken))
			if err == nil || got != nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want %q", err, tt.want)
			}
			if errors.Is(err, ErrVersion) == errors.Is(err, ErrIntegrity) {
				t.Errorf("%v is neither or both of a version and an integrity error", err)
			}
		})
	}
}

// encodeManifest is the JSON that RewriteManifest packs.
func encodeManifest(m *Manifest) ([]byte, error) {
	if err := m.complete(); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err := m.encode(&out)
	return out.Bytes(), err
}

// TestEncodeIsPlainJSON: what is written piece by piece is what would be written at once, whatever the names are.
func TestEncodeIsPlainJSON(t *testing.T) {
	f := newFixture(t)
	m, _ := f.manifest(t)
	for i := range m.Parts {
		if m.Parts[i].Kind == Table {
			m.Parts[i].Name = `a "objects":[] b`
			m.Dataset = `"parts":[]`
		}
	}
	got, err := encodeManifestFor(f, m)
	if err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(m)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v\n got %s\nwant %s", err, got, want)
	}
}

// encodeManifestFor is WriteManifest's first half.
func encodeManifestFor(f *fixture, m *Manifest) ([]byte, error) {
	m.Recipients, m.Operator = f.to.Strings(), f.op.recipient(false)
	return encodeManifest(m)
}

func TestWriteManifestRefuses(t *testing.T) {
	f := newFixture(t)
	for name, breakIt := range map[string]func(*Manifest){
		"a name that JSON can't carry": func(m *Manifest) { m.Parts[3].Table = "caf\xe9" },
		"a sum":                        func(m *Manifest) { m.Parts[2].Rows++ },
		"an order":                     func(m *Manifest) { m.Parts[0], m.Parts[1] = m.Parts[1], m.Parts[0] },
		"no time":                      func(m *Manifest) { m.Started = time.Time{} },
	} {
		m, _ := f.manifest(t)
		breakIt(m)
		if data, digest, err := WriteManifest(m, f.to, f.op); err == nil || data != nil || digest != "" {
			t.Errorf("%s: written, %v", name, err)
		}
	}
	m, _ := f.manifest(t)
	both, err := f.to.WithOperator(f.op)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := WriteManifest(m, both, f.op); !errors.Is(err, ErrRecipients) {
		t.Errorf("the operator among the recipients: %v", err)
	}
}

// TestLargeManifest is a database of 500 GB.
func TestLargeManifest(t *testing.T) {
	f := newFixture(t)
	m, _ := f.manifest(t)
	const n = 250_000
	table := Part{Kind: Table, Schema: "public", Table: "big", Columns: []string{"id"}, Rows: n}
	table.Objects = make([]Object, n)
	for i := range table.Objects {
		sum := Digest(fmt.Append(nil, i))
		table.Objects[i] = Object{Object: sum, Size: 600_000, Text: AvgPiece, Rows: 1, Piece: sum[32:] + sum[:32], Range: 1 + i/100}
	}
	m.Parts = append(m.Parts[:4:4], append([]Part{table}, m.Parts[4:]...)...)
	data, _, err := WriteManifest(m, f.to, f.op)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadManifest(ManifestName(m.ID), data, f.ids, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, m) {
		t.Error("another manifest came back")
	}
	t.Logf("%d objects: %d bytes", n, len(data))
}

// FuzzManifest holds the reader to never panic, and what it accepts to be a manifest that can be written and read back
// as an equal one.
func FuzzManifest(f *testing.F) {
	fix := newFixture(f)
	m, _ := fix.manifest(f)
	text, err := encodeManifestFor(fix, m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	m.Ledger = &LedgerHead{Sequence: 1, Digest: strings.Repeat("0", 64)}
	m.Parts[2].Objects[0].Range = 3
	m.Parts[2].Filters = []Object{m.Parts[2].Objects[0]}
	m.Database.Comment = "c"
	if text, err = encodeManifest(m); err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"format":"lethe","version":1}`))
	f.Add([]byte(`{"format":"lethe","version":2}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := decodeManifest("m", text)
		if err != nil {
			if m != nil {
				t.Fatal("a manifest came with an error")
			}
			return
		}
		again, err := encodeManifest(m)
		if err != nil {
			t.Fatalf("accepted, but can't be written: %v", err)
		}
		m2, err := decodeManifest("m", again)
		if err != nil {
			t.Fatalf("written, but can't be read: %v", err)
		}
		if !reflect.DeepEqual(m, m2) {
			t.Fatalf("read back as another:\n%+v\n%+v", m, m2)
		}
	})
}

// BenchmarkManifest writes and reads the manifest of half a terabyte: 250 000 objects.
func BenchmarkManifest(b *testing.B) {
	f := newFixture(b)
	m, _ := f.manifest(b)
	objects := make([]Object, 250_000)
	for i := range objects {
		name := Digest(fmt.Append(nil, i))
		objects[i] = Object{Object: name, Size: 700_000, Text: AvgPiece, Rows: 10_000, Piece: Digest([]byte(name)), Range: i/32 + 1}
	}
	for i := range m.Parts {
		if m.Parts[i].Kind == Table {
			m.Parts[i].Objects, m.Parts[i].Rows = objects, int64(len(objects))*10_000
			break
		}
	}
	var data []byte
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var err error
			if data, _, err = WriteManifest(m, f.to, f.op); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(data)), "file-bytes")
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ReadManifest(ManifestName(m.ID), data, f.ids, Limits{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
