package s3

import (
	"errors"
	"io"
	"testing"
)

// net/http may still be sending when an answer is there; then it must not read what is the caller's again.
func TestReleasedBody(t *testing.T) {
	_, e := withExchange(t.Context(), []byte("0123456789"))
	s := &sending{e: e}
	if n, err := io.ReadFull(s, make([]byte, 4)); n != 4 || err != nil {
		t.Fatal(n, err)
	}
	e.release()
	if n, err := s.Read(make([]byte, 4)); n != 0 || !errors.Is(err, errReleased) {
		t.Errorf("after the release: %d bytes, %v", n, err)
	}
}
