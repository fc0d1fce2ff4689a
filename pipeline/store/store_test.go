package store_test

import (
	"errors"
	"strings"
	"testing"
	"unicode"

	"lethe/pipeline/store"
	"lethe/pipeline/store/storetest"
)

func TestCheckName(t *testing.T) {
	for _, name := range []string{"lethe.json", "keys/0001.age.minisig", "snapshots/20261122T180000Z-3f9a1c.age", "objects/ab/ab34",
		"a", "A-Z_0.9", "a..b", "-", strings.Repeat("x", 200)} {
		if err := store.CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if err := store.CheckPrefix(name + "/"); err != nil {
			t.Errorf("prefix %q: %v", name+"/", err)
		}
		if err := store.CheckPrefix(name); !errors.Is(err, store.ErrName) {
			t.Errorf("prefix %q: %v", name, err)
		}
	}
	for _, name := range storetest.BadNames() {
		if err := store.CheckName(name); !errors.Is(err, store.ErrName) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func FuzzCheckName(f *testing.F) {
	for _, name := range append(storetest.BadNames(), "objects/ab/ab34", "a..b") {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		err := store.CheckName(name)
		if err != nil {
			// Whatever was refused is quoted, so that it can't forge lines of a log.
			if strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("control characters in %q", err)
			}
			return
		}
		if len(name) > 512 || strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") || strings.ContainsAny(name, "\\ :\x00%") {
			t.Errorf("%q is taken for a name", name)
		}
		for part := range strings.SplitSeq(name, "/") {
			if part == "" || part == ".." || part == "." || len(part) > 200 {
				t.Errorf("%q is taken for a name", name)
			}
		}
	})
}
