package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"lethe/pipeline/pgtemp/pgtest"
)

// Who works as another user often begins in a folder that this user may not look into: /etc/lethe/lethe.yml is found all
// the same. A file that is seen and can't be read is an error, not a reason to take another.
func TestConfigOutOfSight(t *testing.T) {
	other := filepath.Join(t.TempDir(), "lethe.yml")
	if err := errors.Join(os.WriteFile(other, []byte("rules: other.yml\n"), 0o644), os.Chmod(filepath.Dir(other), 0o755), os.Chmod(filepath.Dir(filepath.Dir(other)), 0o755)); err != nil { //nolint:gosec // others are to see it
		t.Fatal(err)
	}
	defaults := defaultConfigs
	t.Cleanup(func() { defaultConfigs = defaults })
	defaultConfigs = []string{"lethe.yml", other}
	t.Setenv("LETHE_CONFIG", "")

	here := t.TempDir()
	t.Chdir(here)
	if err := errors.Join(os.WriteFile("lethe.yml", []byte("rules: here.yml\n"), 0), os.Chmod(here, 0o755)); err != nil { //nolint:gosec // likewise
		t.Fatal(err)
	}
	pgtest.Unprivileged(t, func() {
		if c, err := loadConfig(""); err == nil {
			t.Errorf("lethe.yml can't be read, and %s was taken", c.path)
		}
	})
	if err := os.Chmod(here, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(here, 0o700) }) //nolint:gosec // a folder
	pgtest.Unprivileged(t, func() {
		if c, err := loadConfig(""); err != nil || c.Rules != "other.yml" {
			t.Errorf("in a folder that is out of sight: %+v, %v", c, err)
		}
		if c, err := loadConfig("lethe.yml"); err == nil {
			t.Errorf("the file that was named can't be seen, and %s was taken", c.path)
		}
	})
}

// What init writes for the README's system user makes commands by hand and the service, whose StateDirectory= it is, share
// one copy of the ledger.
func TestInitState(t *testing.T) {
	for home, want := range map[string]string{"/var/lib/lethe": "state: /var/lib/lethe\n", "/var/lib/lethe/": "state: /var/lib/lethe\n", "/home/ann": "", "": ""} {
		t.Setenv("HOME", home)
		if got := stateLine(); got != want {
			t.Errorf("at home in %q: %q", home, got)
		}
	}
}
