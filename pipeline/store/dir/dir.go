// Package dir is the store that is a directory: on a local disk, or mounted over the network.
//
// A file is written to the folder ".tmp" at the store's root, synced, and moved to its name by an operation that never
// replaces; then the folder that holds the name is synced. So a file is there whole or not at all, whatever is killed
// or loses power. What a killed writer leaves in ".tmp", which may be a whole file, is never listed. AbortUnfinished
// removes it, and so does the first Put of a store when it is older than a day.
//
// Files have mode 0600 and folders 0700 (less the umask): the content is ciphertext, but sizes and times are nobody
// else's business either. Nothing outside the root is reached, also not through symbolic links in it.
//
// A context is looked at before and between system calls; a call that hangs in a dead network mount can't be taken
// back.
package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"lethe/pipeline/store"
)

const (
	tempDir      = ".tmp"
	tempLifetime = 24 * time.Hour
	writeChunk   = 1 << 20 // between two looks at the context
)

// Store is a directory as a store.
type Store struct {
	root    *os.Root
	url     string
	publish []publisher // in the order they are tried
	durable sync.Map    // names of folders whose own entries are synced
	sweep   sync.Once
}

var _ store.Unfinished = (*Store)(nil)

// Open opens the store in an existing directory. One that is missing is an error: it may be a disk that is not
// mounted, and must not come to life as an empty store.
func Open(dir string) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	u := (&url.URL{Scheme: "file", Path: abs}).String()
	root, err := os.OpenRoot(abs)
	if err != nil {
		err = cause(err)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = fmt.Errorf("%w: there is no such directory\n  try: mount the disk if it is not mounted; `lethe init` creates the directory of a new repository",
				store.ErrNotFound)
		case errors.Is(err, syscall.ENOTDIR):
			err = fmt.Errorf("it is not a directory: %w", err)
		}
		return nil, &store.Error{Op: "open", Store: u, Err: err}
	}
	return &Store{root: root, url: u, publish: publishers()}, nil
}

// Create makes the directory, and those above it, where they are missing, and opens it. It changes nothing in a
// directory that is already there.
func Create(dir string) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := mkdirAll(abs); err != nil {
		return nil, &store.Error{Op: "create", Store: (&url.URL{Scheme: "file", Path: abs}).String(), Err: writeError(err)}
	}
	return Open(abs)
}

// mkdirAll is os.MkdirAll that makes each new folder durable.
func mkdirAll(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
		if err := mkdirAll(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil // Open finds out whether it is a directory
	}
	if err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	return errors.Join(syncDir(parent), parent.Close())
}

func (s *Store) String() string { return s.url }

// Close closes the directory.
func (s *Store) Close() error { return s.root.Close() }

func (s *Store) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &store.Error{Op: op, Store: s.url, Name: name, Err: err}
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	if err := store.CheckName(name); err != nil {
		return s.fail("put", name, err)
	}
	return s.fail("put", name, writeError(s.put(ctx, name, data)))
}

func (s *Store) put(ctx context.Context, name string, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	folder, err := s.openFolder(path.Dir(name))
	if err != nil {
		return err
	}
	defer folder.Close()
	// The usual answer to a repeated Put, without writing anything.
	if _, err := s.root.Lstat(name); err == nil {
		return s.taken(name, folder)
	}
	temps, err := s.openFolder(tempDir)
	if err != nil {
		return err
	}
	defer temps.Close()

	temp := rand.Text()
	if err := s.writeTemp(ctx, path.Join(tempDir, temp), data); err != nil {
		return errors.Join(err, s.removeTemp(temp))
	}
	err = s.move(temps, temp, folder, path.Base(name))
	if errors.Is(err, fs.ErrExist) {
		return errors.Join(s.taken(name, folder), s.removeTemp(temp))
	}
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := s.root.Lstat(path.Join(tempDir, temp)); errors.Is(statErr, fs.ErrNotExist) {
			return errTakenAway
		}
	}
	if err != nil {
		return errors.Join(err, s.removeTemp(temp))
	}
	return syncDir(folder)
}

// errTakenAway is for a writer that was slow, or stood still, and for which AbortUnfinished did not wait.
var errTakenAway = errors.New("what was written was taken away before it had its name, as if its writer had been killed\n  try: again")

// taken is the answer to whoever lost the name. The winner may not have made it durable yet, or may have been killed
// before it could; the contract says that it is durable when this is returned.
func (s *Store) taken(name string, folder *os.File) error {
	if info, err := s.root.Lstat(name); err == nil && !info.Mode().IsRegular() {
		return errors.New("something else than a file has that name")
	}
	if err := syncDir(folder); err != nil {
		return err
	}
	return store.ErrExists
}

// writeTemp writes and syncs the file, and once in the store's life removes what killed writers left. "Now" is the
// new file's own time: the file system's clock, which need not be ours.
func (s *Store) writeTemp(ctx context.Context, temp string, data []byte) (err error) {
	f, err := s.root.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr // some file systems report a failed write only here
		}
	}()
	if info, err := f.Stat(); err == nil {
		s.sweep.Do(func() { s.removeAbandoned(info.ModTime()) })
	}
	for chunk := range slices.Chunk(data, writeChunk) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := f.Write(chunk); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return ctx.Err() // the last moment at which nothing has happened
}

// move gives the file its name by the first way that the file system knows.
func (s *Store) move(from *os.File, temp string, to *os.File, base string) error {
	var err error
	for _, publish := range s.publish {
		if err = publish(from, temp, to, base); !errors.Is(err, errNotSupported) {
			return err
		}
	}
	return fmt.Errorf("this file system has neither hard links nor a rename that does not replace, so files could overwrite each other: %w\n  try: another file system", err)
}

func (s *Store) removeTemp(temp string) error {
	if err := s.root.Remove(path.Join(tempDir, temp)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cause(err)
	}
	return nil
}

// removeAbandoned is housekeeping: what it can't remove now stays for the next time, and nothing depends on it.
func (s *Store) removeAbandoned(now time.Time) {
	entries, err := s.readFolder(tempDir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && now.Sub(info.ModTime()) > tempLifetime {
			s.root.Remove(path.Join(tempDir, e.Name()))
		}
	}
}

// AbortUnfinished implements store.Unfinished.
func (s *Store) AbortUnfinished(ctx context.Context, before time.Time) (gone int, err error) {
	gone, err = s.abortUnfinished(ctx, before)
	return gone, s.fail("remove unfinished files", "", writeError(err))
}

func (s *Store) abortUnfinished(ctx context.Context, before time.Time) (gone int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	folder, err := s.root.OpenFile(tempDir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer folder.Close()
	// A link to another folder of the store would have files that are there taken for unfinished ones.
	if opened, err := folder.Stat(); err != nil {
		return 0, err
	} else if info, err := s.root.Lstat(tempDir); err != nil || !os.SameFile(info, opened) {
		return 0, errors.Join(errors.New(tempDir+" is not a folder of the store's own"), err)
	}
	entries, err := folder.ReadDir(-1)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return gone, err
		}
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() && info.ModTime().Before(before) {
			if err = s.root.Remove(path.Join(tempDir, e.Name())); err == nil {
				gone++
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // one that is not there any more has its name, or was removed
			return gone, err
		}
	}
	return gone, syncDir(folder)
}

// openFolder opens a folder of the store, and makes it where it is missing. The folder's own entry is durable then: also
// one that is there already is synced when this store first meets it, since its maker may have been killed before.
func (s *Store) openFolder(name string) (*os.File, error) {
	f, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	missing := errors.Is(err, fs.ErrNotExist)
	if _, durable := s.durable.Load(name); name == "." || err == nil && durable || err != nil && !missing {
		return f, err
	}
	parent, err := s.openFolder(path.Dir(name))
	if err == nil {
		defer parent.Close()
		if missing {
			if err = s.root.Mkdir(name, 0o700); errors.Is(err, fs.ErrExist) {
				err = nil
			}
		}
	}
	if err == nil {
		err = syncDir(parent)
	}
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, err
	}
	s.durable.Store(name, true)
	if missing {
		return s.root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	}
	return f, nil
}

// syncDir makes a folder's entries durable. Some network file systems have no such operation and say so: they write
// through by themselves.
func syncDir(d *os.File) error {
	err := d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		return nil
	}
	return err
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	info, err := s.lstat(ctx, name)
	if err != nil {
		return nil, s.fail("get", name, err)
	}
	// O_NONBLOCK: what became a named pipe meanwhile is refused below, not waited for.
	f, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, s.fail("get", name, readError(err))
	}
	opened, err := f.Stat()
	if err == nil && !os.SameFile(info, opened) {
		err = errors.New("it was replaced while it was opened")
	}
	if err != nil {
		f.Close()
		return nil, s.fail("get", name, cause(err))
	}
	return &reader{ctx: ctx, s: s, f: f, name: name, left: opened.Size()}, nil
}

// reader reads a file to the size that it had when it was opened: files don't change, and one that somebody cut short
// must not look whole.
type reader struct {
	ctx  context.Context
	s    *Store
	f    *os.File
	name string
	left int64
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, r.s.fail("get", r.name, err)
	}
	n, err := r.f.Read(p)
	r.left -= int64(n)
	switch {
	case err == nil:
		return n, nil
	case err != io.EOF:
		return n, r.s.fail("get", r.name, cause(err))
	case r.left != 0:
		return n, r.s.fail("get", r.name, errors.New("its size changed while it was read"))
	}
	return n, io.EOF
}

func (r *reader) Close() error { return r.f.Close() }

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, name string) (store.Info, error) {
	info, err := s.lstat(ctx, name)
	if err != nil {
		return store.Info{}, s.fail("stat", name, err)
	}
	return fileInfo(name, info), nil
}

func (s *Store) lstat(ctx context.Context, name string) (fs.FileInfo, error) {
	if err := store.CheckName(name); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	info, err := s.root.Lstat(name)
	switch {
	case err != nil:
		return nil, readError(err)
	case info.IsDir():
		return nil, store.ErrNotFound
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a regular file, so no store put it there")
	}
	return info, nil
}

func fileInfo(name string, info fs.FileInfo) store.Info {
	return store.Info{Name: name, Size: info.Size(), Modified: info.ModTime()}
}

// List implements store.Store. What can't be a file of a store (lost+found, symbolic links, other people's dot files)
// is passed over.
func (s *Store) List(ctx context.Context, prefix string, fn func(store.Info) error) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return s.fail("list", prefix, err)
	}
	var fromFn error
	err := s.walk(ctx, strings.TrimSuffix(prefix, "/"), func(info store.Info) error {
		fromFn = fn(info)
		return fromFn
	})
	if fromFn != nil {
		return fromFn
	}
	return s.fail("list", prefix, err)
}

func (s *Store) walk(ctx context.Context, folder string, fn func(store.Info) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries, err := s.readFolder(path.Join(".", folder))
	if err != nil {
		if err = readError(err); errors.Is(err, store.ErrNotFound) && folder != "" {
			return nil
		}
		return err
	}
	// In the order of whole names: "a-b" and "a.b" come before "a/b", since "-" and "." come before "/".
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(sortKey(a), sortKey(b)) })
	for _, e := range entries {
		name := path.Join(folder, e.Name())
		if store.CheckName(name) != nil {
			continue
		}
		switch {
		case e.IsDir():
			err = s.walk(ctx, name, fn)
		case e.Type().IsRegular():
			var info fs.FileInfo
			if info, err = e.Info(); errors.Is(err, fs.ErrNotExist) {
				err = nil // deleted meanwhile
			} else if err == nil {
				err = fn(fileInfo(name, info))
			} else {
				err = cause(err)
			}
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func sortKey(e fs.DirEntry) string {
	if e.IsDir() {
		return e.Name() + "/"
	}
	return e.Name()
}

// readFolder returns a folder's entries, in no order. Something else than a folder counts as missing.
func (s *Store) readFolder(name string) ([]fs.DirEntry, error) {
	f, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ENOTDIR) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir(-1)
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := store.CheckName(name); err != nil {
		return s.fail("delete", name, err)
	}
	return s.fail("delete", name, writeError(s.delete(ctx, name)))
}

func (s *Store) delete(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	folder, err := s.root.OpenFile(path.Dir(name), os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer folder.Close()
	info, err := s.root.Lstat(name)
	if err == nil && info.IsDir() {
		return nil // no file of that name; Remove would take an empty folder
	}
	if err == nil {
		err = s.root.Remove(name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Also when it was gone already: an earlier Delete may have failed at this very point.
	return syncDir(folder)
}

// cause takes off os's wrapping, which names temporary files and system calls; the errno stays.
func cause(err error) error {
	var pathErr *fs.PathError
	var linkErr *os.LinkError
	var sysErr *os.SyscallError
	switch {
	case errors.As(err, &pathErr):
		return pathErr.Err
	case errors.As(err, &linkErr):
		return linkErr.Err
	case errors.As(err, &sysErr):
		return sysErr.Err
	}
	return err
}

func readError(err error) error {
	err = cause(err)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return store.ErrNotFound
	}
	return err
}

func writeError(err error) error {
	if err == nil {
		return nil
	}
	err = cause(err)
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", store.ErrNoSpace, err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", store.ErrReadOnly, err)
	}
	return err
}
