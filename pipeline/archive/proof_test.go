package archive

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestProof(t *testing.T) {
	const repository = "00112233445566778899aabbccddeeff"
	at := time.Date(2026, 11, 22, 18, 0, 0, 123, time.FixedZone("", 3600))
	p := &Proof{Repository: repository, Started: at, Finished: at.Add(time.Minute), Tool: "1.0", Rules: Digest(nil),
		Snapshots: []SnapshotRef{{"20261122T180000Z-3f9a1c", Digest([]byte("m"))}}, Requests: []ProofRequest{{3, "GDPR-1"}, {5, "GDPR-2"}},
		Ledger: &LedgerHead{5, Digest([]byte("l"))}, Objects: 7, Bytes: 1000, Rows: 99, Kept: 1, Lookups: 2}
	data, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	name := ProofName("20261122T180000Z-3f9a1c")
	if id, ok := ProofOf(name); !ok || id != "20261122T180000Z-3f9a1c" {
		t.Errorf("%s is the proof %q, %v", name, id, ok)
	}
	for _, other := range []string{"proofs/x.json", "snapshots/20261122T180000Z-3f9a1c.age", "20261122T180000Z-3f9a1c.json", name + SignatureSuffix} {
		if id, ok := ProofOf(other); ok {
			t.Errorf("%s is the proof %s", other, id)
		}
	}
	got, err := ReadProof(repository, name, data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := got.Encode()
	if err != nil || !bytes.Equal(again, data) || got.Requests[1].Ref != "GDPR-2" || !got.Finished.Equal(at.Add(time.Minute).Truncate(time.Second)) {
		t.Errorf("%v: %s\nwas\n%s", err, again, data)
	}
	for what, edit := range map[string]func(string) string{
		"cut short":          func(s string) string { return s[:len(s)-5] },
		"another repository": func(s string) string { return strings.Replace(s, repository, strings.Repeat("0", 32), 1) },
		"unknown member":     func(s string) string { return strings.Replace(s, `"objects"`, `"key":"user:7","objects"`, 1) },
		"twice one request":  func(s string) string { return strings.Replace(s, `"sequence":5,"ref"`, `"sequence":3,"ref"`, 1) },
		"a bad snapshot":     func(s string) string { return strings.Replace(s, "3f9a1c", "xyz", 1) },
		"ends before it begins": func(s string) string {
			return strings.Replace(s, `"finished":"2026`, `"finished":"2025`, 1)
		},
		"no rules":   func(s string) string { return strings.Replace(s, Digest(nil), "", 1) },
		"a negative": func(s string) string { return strings.Replace(s, `"rows":99`, `"rows":-1`, 1) },
	} {
		if _, err := ReadProof(repository, name, []byte(edit(string(data)))); !errors.Is(err, ErrIntegrity) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := ReadProof(repository, name, []byte(strings.Replace(string(data), `"version":1`, `"version":2`, 1))); !errors.Is(err, ErrVersion) {
		t.Errorf("another version: %v", err)
	}
	p.Rows = -1
	if _, err := p.Encode(); err == nil {
		t.Error("a proof that no reader would take was written")
	}
}
