package pgtemp

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

const (
	folderPattern = "lethe-pg-*"
	lockName      = "lethe-pgtemp.lock"
	longestSocket = 103 // of a unix socket's path: 107 on Linux, 103 on BSD and macOS
)

// account is the user that the server runs as.
type account struct {
	name     string
	uid, gid uint32
	groups   []uint32
	other    bool // than the user of this process
}

// serverAccount is this process's own user, but for root, whom PostgreSQL does not serve.
func serverAccount() (*account, error) {
	if os.Geteuid() != 0 {
		return &account{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		var unknown user.UnknownUserError
		if errors.As(err, &unknown) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look up the user %s to run PostgreSQL as: %w", name, err)
		}
		a := &account{name: name, other: true}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		ids, err3 := u.GroupIds()
		if err := errors.Join(err1, err2, err3); err != nil {
			return nil, fmt.Errorf("look up the user %s to run PostgreSQL as: %w", name, err)
		}
		a.uid, a.gid = uint32(uid), uint32(gid)
		for _, id := range ids {
			if g, err := strconv.ParseUint(id, 10, 32); err == nil {
				a.groups = append(a.groups, uint32(g))
			}
		}
		return a, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody to run it as" +
		"\n  try: run as an ordinary user, or create the user postgres")
}

// credential is nil where the server runs as this process does.
func (a *account) credential() *syscall.Credential {
	if !a.other {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid, Groups: a.groups}
}

// chooseParent picks where the server's folder goes: a path short enough for a socket, whose folders the server's
// account may pass.
func chooseParent(dir string, a *account) (string, error) {
	candidates := []string{dir}
	if dir == "" {
		candidates = []string{os.TempDir(), "/tmp"}
	}
	var firstErr error
	for _, c := range candidates {
		err := checkParent(c, a)
		if err == nil {
			return filepath.Abs(c)
		}
		if firstErr == nil {
			firstErr = err
		}
	}
	return "", fmt.Errorf("choose a folder for a throwaway PostgreSQL server: %w", firstErr)
}

func checkParent(dir string, a *account) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	// MkdirTemp puts up to ten digits for the star.
	if socket := filepath.Join(abs, "lethe-pg-0123456789", ".s.PGSQL.65535"); len(socket) > longestSocket {
		return fmt.Errorf("%s is too long a path for a unix socket\n  try: a shorter TMPDIR", abs)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", abs)
	}
	if !a.other {
		return nil
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return err
	}
	for d := real; ; d = filepath.Dir(d) {
		info, err := os.Stat(d)
		if err != nil {
			return err
		}
		if !a.passes(info) {
			return fmt.Errorf("the user %s, which the server runs as, may not pass %s\n  try: a TMPDIR that every user may pass, such as /tmp", a.name, d)
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}

// passes says whether the account may enter a folder, by its mode bits.
func (a *account) passes(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	switch mode := info.Mode(); {
	case st.Uid == a.uid:
		return mode&0o100 != 0
	case st.Gid == a.gid || slices.Contains(a.groups, st.Gid):
		return mode&0o010 != 0
	default:
		return mode&0o001 != 0
	}
}

// makeFolder makes the server's folder and takes its lock. The lock is a flock(2) on a file in it, and every process
// of the server inherits it: it is free exactly when nobody uses the folder any more, also after kill -9.
func makeFolder(parent string, a *account) (dir string, lock *os.File, err error) {
	dir, err = os.MkdirTemp(parent, folderPattern) // mode 0700
	if err != nil {
		return "", nil, fmt.Errorf("make a folder for a throwaway PostgreSQL server: %w", err)
	}
	defer func() {
		if err != nil {
			if lock != nil {
				lock.Close()
			}
			err = errors.Join(fmt.Errorf("prepare a folder for a throwaway PostgreSQL server: %w", err), os.RemoveAll(dir))
			dir, lock = "", nil
		}
	}()
	// Locked before it gets its name, so that removeAbandoned never finds it free.
	making := filepath.Join(dir, lockName+".new")
	if lock, err = os.OpenFile(making, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err != nil {
		return dir, nil, err
	}
	if err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return dir, lock, err
	}
	if err = os.Rename(making, filepath.Join(dir, lockName)); err != nil {
		return dir, lock, err
	}
	if a.other {
		err = os.Chown(dir, int(a.uid), int(a.gid))
	}
	return dir, lock, err
}

// removeAbandoned removes the folders whose owner and whose server are both gone. It is a courtesy: a folder that it
// can't judge or can't remove stays, and nobody is stopped by it. mine is the folder just made: the file system's idea
// of now.
func removeAbandoned(parent string, a *account, mine string) {
	now, err := os.Stat(mine)
	if err != nil {
		return
	}
	folders, err := filepath.Glob(filepath.Join(parent, folderPattern))
	if err != nil {
		return
	}
	for _, dir := range folders {
		if dir == mine {
			continue
		}
		// The parent may be anybody's to write to: only a private folder of our own account is believed.
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 {
			continue
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || (st.Uid != a.uid && st.Uid != uint32(os.Geteuid())) {
			continue
		}
		lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if errors.Is(err, fs.ErrNotExist) && now.ModTime().Sub(info.ModTime()) > 24*time.Hour {
			os.RemoveAll(dir) // killed before it had a lock: no server was ever started in it
			continue
		}
		if err != nil {
			continue
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			os.RemoveAll(dir)
		}
		lock.Close()
	}
}
