package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lethe/pipeline/store"
	"lethe/pipeline/store/storetest"
)

func TestConformance(t *testing.T) {
	notHere := func(*os.File, string, *os.File, string) error { return errNotSupported }
	ways := map[string][]publisher{"the first way": publishers(), "by link, the second way": {notHere, byLink}}
	for name, ways := range ways {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Opener {
				dir := t.TempDir()
				return func() (store.Store, error) {
					s, err := Open(dir)
					if err != nil {
						return nil, err
					}
					s.publish = ways
					return s, nil
				}
			})
		})
	}
}

func openDir(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func listed(t *testing.T, s *Store) []string {
	t.Helper()
	names := []string{}
	if err := s.List(t.Context(), "", func(i store.Info) error { names = append(names, i.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	return names
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// temps are the files in the folder of unfinished ones.
func temps(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, tempDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "not mounted")
	_, err := Open(missing)
	if !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "mount") || !strings.Contains(err.Error(), "not%20mounted") {
		t.Errorf("a missing directory: %v", err)
	}
	if _, err := os.Stat(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open made the directory (%v)", err)
	}
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, open := range []func(string) (*Store, error){Open, Create} {
		if s, err := open(file); err == nil || s != nil {
			t.Errorf("a file was opened as a store")
		}
	}
	if _, err := Create(filepath.Join(file, "below")); err == nil {
		t.Error("a store was made below a file")
	}
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s, err := Create(dir)
	must(t, err, s.Put(t.Context(), "objects/ab/1", []byte("x")), s.Close())
	err = filepath.WalkDir(filepath.Dir(dir), func(path string, d fs.DirEntry, err error) error {
		must(t, err)
		info, err := d.Info()
		must(t, err)
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
		return nil
	})
	must(t, err)
	if left := temps(t, dir); len(left) > 0 {
		t.Errorf("unfinished files after a finished put: %q", left)
	}
}

// A repository may be copied, shared and mounted by others, who may put links into it.
func TestLinksDoNotLeadOut(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	must(t, os.WriteFile(secret, []byte("outside"), 0o600), os.Mkdir(filepath.Join(outside, "folder"), 0o700),
		os.Symlink(secret, filepath.Join(dir, "link")),
		os.Symlink(filepath.Join(outside, "new"), filepath.Join(dir, "dangling")),
		os.Symlink(outside, filepath.Join(dir, "objects")),
		os.Symlink("../"+filepath.Base(outside), filepath.Join(dir, "relative")))
	s, ctx := openDir(t, dir), t.Context()
	for _, name := range []string{"link", "objects/secret", "relative/secret", "dangling"} {
		if r, err := s.Get(ctx, name); err == nil {
			t.Errorf("get %s led out of the store", name)
			r.Close()
		}
		if info, err := s.Stat(ctx, name); err == nil {
			t.Errorf("stat %s led out of the store: %+v", name, info)
		}
		if err := s.Put(ctx, name, []byte("new")); err == nil {
			t.Errorf("put %s was taken", name)
		}
	}
	for _, name := range []string{"objects/new", "objects/folder/new", "relative/new"} {
		if err := s.Put(ctx, name, []byte("new")); err == nil {
			t.Errorf("put %s was taken", name)
		}
		if err := s.Delete(ctx, strings.Replace(name, "new", "secret", 1)); err == nil && !strings.Contains(name, "folder") {
			t.Errorf("delete below %s was taken", name)
		}
	}
	if err := s.List(ctx, "objects/", func(i store.Info) error { t.Errorf("listed %s", i.Name); return nil }); err == nil {
		t.Error("a folder outside was listed")
	}
	if got := listed(t, s); len(got) > 0 {
		t.Errorf("list shows %q", got)
	}
	if err := s.Delete(ctx, "link"); err != nil { // the link goes, not what it leads to
		t.Error(err)
	}
	entries, err := os.ReadDir(outside)
	must(t, err)
	if data, err := os.ReadFile(secret); err != nil || string(data) != "outside" || len(entries) != 2 {
		t.Errorf("something outside changed: %q, %v, %v", data, err, entries)
	}
}

func TestWhatIsNotOurs(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "lost+found", "x"), 0o700), os.Mkdir(filepath.Join(dir, ".snapshot"), 0o700),
		os.WriteFile(filepath.Join(dir, ".snapshot", "a"), nil, 0o600), os.WriteFile(filepath.Join(dir, ".nfs001"), nil, 0o600),
		os.WriteFile(filepath.Join(dir, "lost+found", "a"), nil, 0o600), os.WriteFile(filepath.Join(dir, "Über uns"), nil, 0o600),
		syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	s := openDir(t, dir)
	must(t, s.Put(t.Context(), "lethe.json", []byte("x")))
	if got := listed(t, s); !slices.Equal(got, []string{"lethe.json"}) {
		t.Errorf("list shows %q", got)
	}
	// Not even waited for.
	if _, err := s.Get(t.Context(), "pipe"); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("get of a named pipe: %v", err)
	}
	if err := s.Put(t.Context(), "pipe", nil); err == nil || errors.Is(err, store.ErrExists) {
		t.Errorf("put over a named pipe: %v", err)
	}
	// A name beside a folder of that name, and below a file.
	must(t, s.Put(t.Context(), "a/b", nil))
	if err := s.Put(t.Context(), "a", nil); err == nil || errors.Is(err, store.ErrExists) {
		t.Errorf("put over a folder: %v", err)
	}
	if err := s.Put(t.Context(), "a/b/c", nil); err == nil {
		t.Error("put below a file was taken")
	}
	if err := s.Delete(t.Context(), "a/b/c"); err != nil {
		t.Errorf("delete below a file: %v", err)
	}
	if left := temps(t, dir); len(left) > 0 {
		t.Errorf("unfinished files are left: %q", left)
	}
}

func TestNoWayToPublish(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	s.publish = []publisher{func(*os.File, string, *os.File, string) error { return errors.Join(errNotSupported, syscall.EPERM) }}
	if err := s.Put(t.Context(), "a", []byte("x")); err == nil || !strings.Contains(err.Error(), "try:") {
		t.Errorf("put where files could overwrite each other: %v", err)
	}
	if got, left := listed(t, s), temps(t, dir); len(got)+len(left) > 0 {
		t.Errorf("it left %q and %q", got, left)
	}
}

func TestCutShortWhileRead(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	must(t, s.Put(t.Context(), "a", make([]byte, 100_000)))
	r, err := s.Get(t.Context(), "a")
	must(t, err)
	defer r.Close()
	_, err = io.ReadFull(r, make([]byte, 10))
	must(t, err, os.Truncate(filepath.Join(dir, "a"), 50_000))
	if n, err := io.Copy(io.Discard, r); err == nil {
		t.Errorf("a file that was cut short looked whole after %d bytes", n)
	}
}

func TestDeletedWhileRead(t *testing.T) {
	s := openDir(t, t.TempDir())
	data := bytes.Repeat([]byte("lethe"), 100_000)
	must(t, s.Put(t.Context(), "a", data))
	r, err := s.Get(t.Context(), "a")
	must(t, err, s.Delete(t.Context(), "a"))
	defer r.Close()
	if got, err := io.ReadAll(r); err == nil && !bytes.Equal(got, data) {
		t.Errorf("%d bytes of %d without an error", len(got), len(data))
	}
}

func TestLeftoversAreSweptUp(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, tempDir), 0o700))
	now := time.Now()
	for name, age := range map[string]time.Duration{"old": 25 * time.Hour, "young": 23 * time.Hour, "future": -48 * time.Hour} {
		path := filepath.Join(dir, tempDir, name)
		must(t, os.WriteFile(path, []byte("half"), 0o600), os.Chtimes(path, now.Add(-age), now.Add(-age)))
	}
	s := openDir(t, dir)
	if got := listed(t, s); len(got) > 0 {
		t.Errorf("unfinished files are listed: %q", got)
	}
	must(t, s.Put(t.Context(), "a", nil))
	if got := temps(t, dir); !slices.Equal(got, []string{"future", "young"}) {
		t.Errorf("in %s there are %q; want only what is younger than a day", tempDir, got)
	}
}

// TestAbortUnfinished takes away what a writer that is killed leaves, and nothing that is newer or not a file.
func TestAbortUnfinished(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir)
	must(t, s.Put(t.Context(), "objects/ab/1", []byte("there")))
	for _, name := range []string{"older", "just then", "newer"} { // all that Put does but for the last step
		must(t, s.writeTemp(t.Context(), filepath.Join(tempDir, name), []byte("whole")))
	}
	began := time.Now().Add(-time.Hour).Truncate(time.Second)
	for name, age := range map[string]time.Duration{"older": time.Millisecond, "just then": 0, "newer": -time.Millisecond} {
		must(t, os.Chtimes(filepath.Join(dir, tempDir, name), began.Add(-age), began.Add(-age)))
	}
	must(t, os.Mkdir(filepath.Join(dir, tempDir, "folder"), 0o700), os.Symlink("../objects/ab/1", filepath.Join(dir, tempDir, "link")))
	if gone, err := s.AbortUnfinished(t.Context(), began); err != nil || gone != 1 {
		t.Errorf("%d have gone, %v", gone, err)
	}
	if got := temps(t, dir); !slices.Equal(got, []string{"folder", "just then", "link", "newer"}) {
		t.Errorf("in %s there are %q", tempDir, got)
	}
	if gone, err := s.AbortUnfinished(t.Context(), time.Now().Add(time.Hour)); err != nil || gone != 2 {
		t.Errorf("%d have gone, %v", gone, err)
	}
	if got := listed(t, s); !slices.Equal(got, []string{"objects/ab/1"}) {
		t.Errorf("list shows %q", got)
	}
}

// TestAbortUnfinishedOfALink: what is there is no leftover, whatever somebody has put in the folder's place.
func TestAbortUnfinishedOfALink(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600))
	s := openDir(t, dir)
	must(t, s.Put(t.Context(), "objects/1", nil), os.Remove(filepath.Join(dir, tempDir)))
	for _, to := range []string{"objects", outside} {
		must(t, os.Symlink(to, filepath.Join(dir, tempDir)))
		if gone, err := s.AbortUnfinished(t.Context(), time.Now().Add(time.Hour)); err == nil || gone != 0 {
			t.Errorf("%d have gone from %s, %v", gone, to, err)
		}
		must(t, os.Remove(filepath.Join(dir, tempDir)))
	}
	if _, err := os.Stat(filepath.Join(outside, "secret")); err != nil || len(listed(t, s)) != 1 {
		t.Errorf("%v, and list shows %q", err, listed(t, s))
	}
}

// TestPutWhoseFileWasTakenAway: a writer that stood still for so long that it was taken for dead has put nothing, says so,
// and can do it again.
func TestPutWhoseFileWasTakenAway(t *testing.T) {
	for name, way := range map[string]publisher{"the first way": publishers()[0], "by link": byLink} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, other := openDir(t, dir), openDir(t, dir)
			s.publish = []publisher{func(from *os.File, temp string, to *os.File, base string) error {
				if gone, err := other.AbortUnfinished(t.Context(), time.Now().Add(time.Hour)); err != nil || gone != 1 {
					t.Errorf("%d have gone, %v", gone, err)
				}
				return way(from, temp, to, base)
			}}
			err := s.Put(t.Context(), "a", []byte("x"))
			if !errors.Is(err, errTakenAway) || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrExists) || strings.Contains(err.Error(), tempDir) {
				t.Errorf("put says %v", err)
			}
			if got := listed(t, s); len(got) > 0 {
				t.Errorf("list shows %q", got)
			}
			s.publish = publishers()
			must(t, s.Put(t.Context(), "a", []byte("x")))
		})
	}
}

func TestErrorsAreTold(t *testing.T) {
	for errno, want := range map[syscall.Errno]error{
		syscall.ENOSPC: store.ErrNoSpace, syscall.EDQUOT: store.ErrNoSpace,
		syscall.EROFS: store.ErrReadOnly, syscall.EACCES: store.ErrReadOnly, syscall.EPERM: store.ErrReadOnly,
	} {
		err := writeError(fmt.Errorf("wrapped: %w", &fs.PathError{Op: "write", Path: ".tmp/x", Err: errno}))
		if !errors.Is(err, want) || !errors.Is(err, errno) || strings.Contains(err.Error(), ".tmp") {
			t.Errorf("%v is told as %v", errno, err)
		}
	}
	if err := writeError(&fs.PathError{Err: syscall.EIO}); err != syscall.EIO {
		t.Errorf("an input/output error is told as %v", err)
	}
	if errors.Is(writeError(context.Canceled), store.ErrReadOnly) || writeError(nil) != nil {
		t.Error("errors are made up")
	}
}
