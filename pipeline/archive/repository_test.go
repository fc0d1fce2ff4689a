package archive

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestNames(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	if got := ObjectName(digest); got != "objects/ab/"+digest {
		t.Error(got)
	}
	for name, want := range map[string]bool{
		"objects/ab/" + digest: true, "objects/aa/" + digest: false, "objects/" + digest: false, "objects/ab/" + digest + ".tmp": false,
		"objects/ab/" + strings.ToUpper(digest): false, "objects/ab/../" + digest: false, "": false,
	} {
		if got, ok := ObjectOf(name); ok != want || (ok && got != digest) {
			t.Errorf("ObjectOf(%q) = %q, %v", name, got, ok)
		}
	}
	id, err := NewSnapshotID(testTime.In(time.FixedZone("", 3600)), bytes.NewReader([]byte{0x3f, 0x9a, 0x1c}))
	if err != nil || id != "20261122T180000Z-3f9a1c" {
		t.Errorf("%s, %v", id, err)
	}
	if got, ok := SnapshotOf(ManifestName(id)); !ok || got != id {
		t.Errorf("SnapshotOf: %q, %v", got, ok)
	}
	for _, name := range []string{"snapshots/" + id, "snapshots/" + id + ".age.minisig", "snapshots/x.age", id + ".age", "snapshots/20260230T000000Z-000000.age",
		"snapshots/20261122T180000Z-3F9A1C.age", "snapshots/20261122T180000Z-3f9a1.age", "snapshots/2026112T180000Z-3f9a1c.age"} {
		if got, ok := SnapshotOf(name); ok {
			t.Errorf("SnapshotOf(%q) = %q", name, got)
		}
	}
	if _, err := NewSnapshotID(testTime, iotest.ErrReader(errors.New("no randomness"))); err == nil {
		t.Error("an id without randomness")
	}
	if _, err := NewSnapshotID(testTime.AddDate(9000, 0, 0), rand.Reader); err == nil {
		t.Error("an id of a year with five digits")
	}
}

func TestRepositoryFile(t *testing.T) {
	r, err := NewRepository()
	if err != nil {
		t.Fatal(err)
	}
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRepository(data)
	if err != nil || *got != *r {
		t.Fatalf("%v, %v", got, err)
	}
	for _, tt := range []struct {
		text string
		kind error
		want string
	}{
		{``, ErrIntegrity, "not a Lethe document"},
		{`[]`, ErrIntegrity, "not a Lethe document"},
		{`{"version":1,"format":"lethe"}`, ErrIntegrity, "not a Lethe document"},
		{`{"format":"lethe","version":7,"new":{"x":[]}}`, ErrVersion, "lethe.json: format version 7: this lethe reads 1"},
		{`{"format":"lethe","version":1}`, ErrIntegrity, "repository id"},
		{`{"format":"lethe","version":1,"repository":"X"}`, ErrIntegrity, "repository id"},
		{`{"format":"lethe","version":1,"repository":"` + r.Repository + `","more":1}`, ErrIntegrity, "unknown field"},
		{`{"format":"lethe","version":1,"repository":"` + r.Repository + `","Version":7}`, ErrIntegrity, "twice"},
		{strings.Repeat(" ", 2<<20), ErrIntegrity, "too long"},
	} {
		if _, err := ParseRepository([]byte(tt.text)); !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.60s: %v, want %q", tt.text, err, tt.want)
		}
	}
}

func TestKeysFile(t *testing.T) {
	f := newFixture(t)
	data, err := WriteKeys(f.repo, f.op, f.to)
	if err != nil {
		t.Fatal(err)
	}
	for who, ids := range map[string]*Identities{"key holder": f.ids, "operator": f.op.Identities()} {
		keys, err := ReadKeys(f.repo, KeysName, data, ids)
		if err != nil || !keys.PieceID.Equal(f.op.PieceID) || !keys.Strategy.Equal(f.op.Strategy) {
			t.Errorf("%s: %v", who, err)
		}
	}
	other := newFixture(t)
	if _, err := ReadKeys(f.repo, KeysName, data, other.ids); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("a stranger: %v", err)
	}
	if _, err := ReadKeys(other.repo, KeysName, data, f.ids); !errors.Is(err, ErrIntegrity) {
		t.Errorf("in another repository: %v", err)
	}
	if _, err := ReadKeys(f.repo, KeysName, data[:len(data)-1], f.ids); !errors.Is(err, ErrIntegrity) {
		t.Errorf("cut: %v", err)
	}
	for _, plain := range []string{"", "{}", `{"format":"lethe","version":2}`, `{"format":"lethe","version":1,"repository":"` + f.repo + `","piece_id_key":"12"}`} {
		var out bytes.Buffer
		if err := encrypt(&out, []byte(plain), f.to.list); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKeys(f.repo, KeysName, out.Bytes(), f.ids); err == nil {
			t.Errorf("accepted %q", plain)
		}
	}

	// A new operator against an old repository takes over its keys, and keeps its own signature.
	keys, err := ReadKeys(f.repo, KeysName, data, f.ids)
	if err != nil {
		t.Fatal(err)
	}
	next := other.op.Adopt(keys)
	if !next.PieceID.Equal(f.op.PieceID) || !next.Strategy.Equal(f.op.Strategy) || next.Public() != other.op.Public() || other.op.PieceID.Equal(f.op.PieceID) {
		t.Error("the keys were not taken over, or too many were")
	}
	if back, err := ParseOperatorKey("k", []byte(next.Text(testTime))); err != nil || !back.PieceID.Equal(f.op.PieceID) {
		t.Errorf("the adopted key does not survive its file: %v", err)
	}
}

func TestSuccessorID(t *testing.T) {
	taken := map[string]bool{"20261122T180000Z-3f9a1d": true}
	is := func(id string) bool { return taken[id] }
	for id, want := range map[string]string{
		"20261122T180000Z-3f9a1c": "20261122T180000Z-3f9a1e", // the next one is taken
		"20261122T180000Z-00000f": "20261122T180000Z-000010",
		"20261122T180000Z-7fffff": "20261122T180000Z-800000",
		"20261122T180000Z-ffffff": "", // beyond the last there is none
		"20261122T180000Z-xyz":    "",
		"":                        "",
	} {
		got, err := SuccessorID(id, is)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", id, got, err, want)
		}
		if want != "" && (got <= id || !SnapshotTime(got).Equal(SnapshotTime(id))) {
			t.Errorf("%s does not sort right after %s", got, id)
		}
	}
	// A backup's own ids leave room.
	id, err := NewSnapshotID(time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC), bytes.NewReader([]byte{0xff, 0xff, 0xff}))
	if err != nil || id != "20261122T180000Z-7fffff" {
		t.Errorf("%s, %v", id, err)
	}
}
