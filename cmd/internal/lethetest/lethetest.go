// Package lethetest gives tests the real command, as users run it, built once for each test binary: without the race
// detector, with which a backup takes several times as long. The command's own tests run it with that.
//
//	func TestMain(m *testing.M) { os.Exit(lethetest.Run(m)) }
package lethetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Binary is the path of the command while Run runs.
var Binary string

// Run builds the command, runs the tests and removes it. It returns the exit code for os.Exit.
func Run(m interface{ Run() int }) int {
	dir, err := os.MkdirTemp("", "lethe-test-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is a temporary folder's own
	Binary = filepath.Join(dir, "lethe")
	if out, err := exec.Command("go", "build", "-o", Binary, "lethe/cmd/lethe").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build lethe: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}
