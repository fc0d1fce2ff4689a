package pgtemp

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

// BinDir finds the folder of PostgreSQL's server programs: dir when it is given, else LETHE_PG_BINDIR, else the PATH,
// else the newest of the places where distributions put them. The folder holds initdb, postgres and psql.
func BinDir(dir string) (string, error) {
	if dir != "" {
		return checkBinDir(dir, "the folder given")
	}
	if dir := os.Getenv("LETHE_PG_BINDIR"); dir != "" {
		return checkBinDir(dir, "LETHE_PG_BINDIR")
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil && hasPrograms(filepath.Dir(path)) == nil {
			return filepath.Abs(filepath.Dir(path))
		}
	}
	newest, found := 0.0, ""
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
		"/usr/pgsql-*/bin",          // PGDG for Red Hat, SUSE
		"/usr/lib/postgresql*/bin",  // SUSE, Alpine's older packages
		"/usr/libexec/postgresql*",  // Alpine
		"/usr/local/pgsql/bin",      // built from source
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		for _, dir := range matches {
			if v := pathVersion(dir); hasPrograms(dir) == nil && (found == "" || v > newest) {
				newest, found = v, dir
			}
		}
	}
	if found == "" {
		return "", fmt.Errorf("no PostgreSQL server programs (initdb, postgres, psql) on this machine" +
			"\n  try: install the distribution's postgresql package, or set LETHE_PG_BINDIR to the folder that holds them")
	}
	return found, nil
}

func checkBinDir(dir, what string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := hasPrograms(abs); err != nil {
		return "", fmt.Errorf("%s does not hold PostgreSQL's server programs: %w"+
			"\n  try: the folder that `pg_config --bindir` prints", what, err)
	}
	return abs, nil
}

func hasPrograms(dir string) error {
	for _, name := range []string{"initdb", "postgres", "psql"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

var versionInPath = regexp.MustCompile(`[0-9]+(\.[0-9]+)?`)

// pathVersion reads the version out of a folder's name: 15 from /usr/lib/postgresql/15/bin; 0 where there is none.
func pathVersion(dir string) float64 {
	v, err := strconv.ParseFloat(versionInPath.FindString(dir), 64)
	if err != nil {
		return 0
	}
	return v
}
