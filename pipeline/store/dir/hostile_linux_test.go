package dir

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"lethe/pipeline/store"
)

// The tests of this file run the test binary again as another process: one that is killed, that has a full or a
// read-only disk of its own, or that is not root.
const childEnv = "LETHE_TEST_CHILD_DIR"

// child runs the calling test again in a process of its own, which finds dir in place of "". It is an error when that
// fails, or did not run the test.
func child(t *testing.T, dir string, attr *syscall.SysProcAttr, binary string) {
	t.Helper()
	cmd := childCommand(t, dir, binary)
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in a process of its own: %v\n%s", err, out)
	}
}

func childCommand(t *testing.T, dir, binary string) *exec.Cmd {
	t.Helper()
	if binary == "" {
		binary = os.Args[0]
	}
	cmd := exec.Command(binary, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=15m")
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	return cmd
}

// private is a mount namespace of the process's own; an ordinary user gets it inside a user namespace.
func private() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if uid := os.Getuid(); uid != 0 {
		attr.Cloneflags = syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return attr
}

// mountable says whether a process may have mounts of its own here: a container may forbid it.
func mountable(t *testing.T) bool {
	t.Helper()
	cmd := exec.Command("mount", "-t", "tmpfs", "tmpfs", t.TempDir())
	cmd.SysProcAttr = private()
	return cmd.Run() == nil
}

// fillUp puts 10 kB files until one does not fit, and holds the store to its contract there.
func fillUp(t *testing.T, s *Store, dir string) error {
	t.Helper()
	ctx := t.Context()
	data := bytes.Repeat([]byte("0123456789"), 1000)
	var want []string
	var full error
	for i := 0; full == nil; i++ {
		name := fmt.Sprintf("objects/%02d", i)
		if full = s.Put(ctx, name, data); full == nil {
			want = append(want, name)
		}
		if i == 30 {
			t.Fatal("it never gets full")
		}
	}
	check := func() {
		t.Helper()
		if got := listed(t, s); !slices.Equal(got, want) {
			t.Errorf("list shows %q, want %q", got, want)
		}
		if left := temps(t, dir); len(left) > 0 {
			t.Errorf("unfinished files are left on a full disk: %q", left)
		}
		for _, name := range want {
			if got, err := store.ReadAll(ctx, s, name, 1<<20); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		}
	}
	check()
	if len(want) == 0 {
		return full
	}
	must(t, s.Delete(ctx, want[0])) // which makes room
	name := want[0]
	want = want[1:]
	check()
	must(t, s.Put(ctx, name, data))
	want = append([]string{name}, want...)
	check()
	return full
}

func TestDiskFull(t *testing.T) {
	if dir := os.Getenv(childEnv); dir != "" {
		must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=128k"))
		full := fillUp(t, openDir(t, dir), dir)
		if !errors.Is(full, store.ErrNoSpace) || !errors.Is(full, syscall.ENOSPC) {
			t.Errorf("a full disk is told as %v", full)
		}
		return
	}
	if mountable(t) {
		child(t, t.TempDir(), private(), "")
		return
	}
	t.Log("no mounts here: the disk that ends too early is the one of TestWriteEndsEarly")
}

// TestWriteEndsEarly needs no privilege: a limit on file sizes breaks a write in its middle, as a full disk does.
func TestWriteEndsEarly(t *testing.T) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		child(t, t.TempDir(), nil, "")
		return
	}
	signal.Ignore(syscall.SIGXFSZ)
	s := openDir(t, dir)
	small := make([]byte, 4000)
	must(t, s.Put(t.Context(), "before", small))
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 5000, Max: unix.RLIM_INFINITY}))
	err := s.Put(t.Context(), "objects/1", make([]byte, 10_000))
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}))
	if !errors.Is(err, syscall.EFBIG) {
		t.Errorf("put: %v", err)
	}
	if got, left := listed(t, s), temps(t, dir); !slices.Equal(got, []string{"before"}) || len(left) > 0 {
		t.Errorf("after a write that ended early: %q, and unfinished %q", got, left)
	}
	must(t, s.Put(t.Context(), "objects/1", make([]byte, 10_000)))
}

// refusesWrites holds a store that can be read but not written to its contract; "there" is in it.
func refusesWrites(t *testing.T, dir string) {
	t.Helper()
	s, ctx := openDir(t, dir), t.Context()
	for what, err := range map[string]error{
		"put":                 s.Put(ctx, "new", []byte("x")),
		"put in a new folder": s.Put(ctx, "new/a", []byte("x")),
		"delete":              s.Delete(ctx, "there"),
	} {
		if !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := s.Put(ctx, "there", nil); !errors.Is(err, store.ErrExists) {
		t.Errorf("put over what is there: %v", err)
	}
	if err := s.Delete(ctx, "none"); err != nil {
		t.Errorf("delete of what is not there: %v", err)
	}
	if got, err := store.ReadAll(ctx, s, "there", 10); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
	if got := listed(t, s); !slices.Equal(got, []string{"there"}) {
		t.Errorf("list shows %q", got)
	}
}

func TestReadOnlyDisk(t *testing.T) {
	if dir := os.Getenv(childEnv); dir != "" {
		must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=128k"))
		s := openDir(t, dir)
		must(t, s.Put(t.Context(), "there", []byte("x")), s.Close())
		must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
		refusesWrites(t, dir)
		return
	}
	if mountable(t) {
		child(t, t.TempDir(), private(), "")
		return
	}
	t.Log("no mounts here: the directory that can't be written to is the one of TestReadOnlyDirectory")
}

// TestReadOnlyDirectory takes the permission away; since that does not bind root, the process is somebody else's.
func TestReadOnlyDirectory(t *testing.T) {
	if dir := os.Getenv(childEnv); dir != "" {
		refusesWrites(t, dir)
		return
	}
	const nobody = 65534
	top, err := os.MkdirTemp("", "lethe-dir-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(top) })
	dir, binary := filepath.Join(top, "store"), filepath.Join(top, "test")
	program, err := os.ReadFile(os.Args[0])
	must(t, err, os.Chmod(top, 0o755), os.WriteFile(binary, program, 0o755), os.Mkdir(dir, 0o700))
	s := openDir(t, dir)
	must(t, s.Put(t.Context(), "there", []byte("x")))
	attr := &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		attr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		must(t, filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
			return errors.Join(err, os.Chown(path, nobody, nobody))
		}))
	}
	must(t, os.Chmod(dir, 0o500), os.Chmod(filepath.Join(dir, tempDir), 0o500))
	child(t, dir, attr, binary)
	must(t, os.Chmod(dir, 0o700), os.Chmod(filepath.Join(dir, tempDir), 0o700))
}

// TestKilled kills a writer again and again, and finds each time that whatever is listed is whole, that all that was
// acknowledged is listed, and that the name of what was not can still be used.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(childEnv); dir != "" {
		s := openDir(t, dir)
		r := rand.New(rand.NewPCG(1, uint64(os.Getpid())))
		for {
			data := make([]byte, 1+r.IntN(300_000))
			for i := range data {
				data[i] = byte(r.Uint32())
			}
			name := digestName(data)
			must(t, s.Put(t.Context(), name, data))
			os.Stdout.WriteString("put " + name + "\n")
		}
	}
	dir := t.TempDir()
	s := openDir(t, dir)
	acknowledged := map[string]bool{}
	unfinished := 0
	for round := range 15 {
		cmd := childCommand(t, dir, "")
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		must(t, err, cmd.Start())
		lines := bufio.NewScanner(out)
		for got := 0; lines.Scan(); {
			if name, ok := strings.CutPrefix(lines.Text(), "put "); ok {
				acknowledged[name] = true
				if got++; got == round+1 {
					must(t, cmd.Process.Kill()) // in the middle of whatever it does next
				}
			}
		}
		must(t, lines.Err())
		cmd.Wait()

		there := map[string]bool{}
		for _, name := range listed(t, s) {
			there[name] = true
			data, err := store.ReadAll(t.Context(), s, name, 1<<20)
			if err != nil || digestName(data) != name {
				t.Errorf("round %d: %s is half there: %d bytes, %v", round, name, len(data), err)
			}
		}
		for name := range acknowledged {
			if !there[name] {
				t.Errorf("round %d: %s was acknowledged and is gone", round, name)
			}
		}
		unfinished = len(temps(t, dir))
	}
	t.Logf("%d files acknowledged, %d unfinished", len(acknowledged), unfinished)
}

func digestName(data []byte) string {
	sum := sha256.Sum256(data)
	name := hex.EncodeToString(sum[:])
	return "objects/" + name[:2] + "/" + name
}
