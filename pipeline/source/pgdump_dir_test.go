package source

import (
	"os"
	"testing"

	"lethe/pipeline/pgtemp/pgtest"
)

// pg_dump remarks on a working directory that its user may not look into, as with sudo -u: it is run elsewhere then.
func TestWorkingDirOutOfSight(t *testing.T) {
	here := t.TempDir()
	t.Chdir(here)
	if dir := workingDir(); dir != "" {
		t.Errorf("in a folder of one's own pg_dump is run in %q", dir)
	}
	if err := os.Chmod(here, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(here, 0o700) }) //nolint:gosec // a folder
	pgtest.Unprivileged(t, func() {
		if dir := workingDir(); dir != "/" {
			t.Errorf("in one that is out of sight it is run in %q", dir)
		}
	})
}
