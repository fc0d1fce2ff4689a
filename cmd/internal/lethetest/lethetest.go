// Package lethetest gives tests the real command, built once for each test binary, with the race detector where the test
// has it, so that nothing is compiled in two ways for one `make test`.
//
//	func TestMain(m *testing.M) { os.Exit(lethetest.Run(m)) }
package lethetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
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
	args := []string{"build", "-o", Binary}
	if built, ok := debug.ReadBuildInfo(); ok && slices.Contains(built.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "lethe/cmd/lethe")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build lethe: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}
