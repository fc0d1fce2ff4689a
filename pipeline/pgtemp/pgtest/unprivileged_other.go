//go:build !linux

package pgtest

import (
	"os"
	"testing"
)

// Unprivileged runs do with the rights on files that a user has who owns none.
func Unprivileged(t testing.TB, do func()) {
	t.Helper()
	if os.Getuid() == 0 {
		t.Fatal("run the tests as another user than root here")
	}
	do()
}
