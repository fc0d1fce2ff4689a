package s3_test

import (
	"testing"
	"time"

	"lethe/pipeline/store/s3"
	"lethe/pipeline/store/s3/s3test"
)

// TestDeleteOld: in a bucket with versions, what was deleted goes for good, and what is there stays. What Object Lock
// keeps is named with its date, and stays hidden.
func TestDeleteOld(t *testing.T) {
	t.Setenv("VGW_VERSIONING_DIR", t.TempDir())
	versioned, err := s3test.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer versioned.Stop()
	for name, value := range versioned.Environment() {
		t.Setenv(name, value)
	}
	b, err := versioned.LockedBucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, other := open(t, versioned.URL(b, "x"), s3.Policy{}), open(t, versioned.URL(b, "y"), s3.Policy{})
	for _, name := range []string{"o/gone", "o/there", "o/locked", "o/held", "p/gone"} {
		put(t, s, name, []byte(name))
	}
	put(t, other, "o/gone", []byte("another store's"))
	until := time.Now().Add(48 * time.Hour).UTC().Truncate(time.Second)
	if err := versioned.Lock(t.Context(), b, "x/o/locked", until); err != nil {
		t.Fatal(err)
	}
	if err := versioned.Hold(t.Context(), b, "x/o/held"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"o/gone", "o/locked", "o/held", "p/gone"} {
		if err := s.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.Delete(t.Context(), "o/gone"); err != nil {
		t.Fatal(err)
	}
	if n := old(t, s, "o/"); n != 3 {
		t.Errorf("%d deleted files are kept before, not 3", n)
	}
	for range 2 { // again is the same
		_, kept, err := s.DeleteOld(t.Context(), "o/")
		if err != nil {
			t.Fatal(err)
		}
		if len(kept) != 2 || kept[0].Name != "o/held" || !kept[0].Held || kept[1].Name != "o/locked" || !kept[1].Until.Equal(until) || kept[1].Held {
			t.Errorf("kept %+v", kept)
		}
	}
	if n := old(t, s, "o/"); n != 2 {
		t.Errorf("%d deleted files are kept, not 2", n)
	}
	mustHold(t, s, "o/there", "o/there")
	if got := names(t, s, ""); got != "o/there" {
		t.Errorf("listed: %q", got)
	}
	for prefix, want := range map[string]int{"x/o/": 1 + 2*2, "x/p/": 2, "y/": 2} { // with the probes of y
		if n, err := versioned.Versions(t.Context(), b, prefix+"o"[:0]); err != nil || prefix != "y/" && n != want || prefix == "y/" && n < want {
			t.Errorf("%d versions below %s, %v; want %d", n, prefix, err, want)
		}
	}
}

// old counts deleted files that a store keeps, put by now.
func old(t *testing.T, s *s3.Store, prefix string) (n int) {
	t.Helper()
	err := s.Old(t.Context(), prefix, func(put time.Time) {
		if put.After(time.Now().Add(time.Minute)) || put.Before(time.Now().Add(-time.Hour)) {
			t.Errorf("put at %s", put)
		}
		n++
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A bucket without versions has nothing old.
func TestDeleteOldWithoutVersions(t *testing.T) {
	s := open(t, server.URL(bucket(t), "x"), s3.Policy{})
	put(t, s, "o/a", []byte("a"))
	put(t, s, "o/b", []byte("b"))
	if err := s.Delete(t.Context(), "o/a"); err != nil {
		t.Fatal(err)
	}
	if gone, kept, err := s.DeleteOld(t.Context(), "o/"); gone != 0 || len(kept) != 0 || err != nil {
		t.Errorf("%d gone, kept %v, %v", gone, kept, err)
	}
	if n := old(t, s, "o/"); n != 0 {
		t.Errorf("%d deleted files are kept", n)
	}
	mustHold(t, s, "o/b", "b")
}
