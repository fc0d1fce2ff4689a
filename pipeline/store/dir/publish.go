package dir

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A publisher gives the file temp in the folder from the name base in the folder to, at one moment and never in place
// of another file: then it returns an error that is fs.ErrExist. It returns errNotSupported where the file system does
// not know the operation. The names are single parts, so that no symbolic link is followed.
type publisher func(from *os.File, temp string, to *os.File, base string) error

var errNotSupported = errors.New("not supported by the file system")

// byLink is for every POSIX file system but FAT and its kin.
func byLink(from *os.File, temp string, to *os.File, base string) error {
	err := unix.Linkat(int(from.Fd()), temp, int(to.Fd()), base, 0)
	switch {
	case err == nil:
	case errors.Is(err, syscall.EEXIST) && sameFile(from, temp, to, base):
		// NFS: the request was repeated on the wire, and the first one had done it.
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ENOSYS), errors.Is(err, syscall.ENOTSUP), errors.Is(err, syscall.EINVAL):
		return errors.Join(errNotSupported, err)
	default:
		return err
	}
	// The file has its name: that its temporary one stays a while hurts nobody, and is swept up later.
	_ = unix.Unlinkat(int(from.Fd()), temp, 0)
	return nil
}

func sameFile(from *os.File, temp string, to *os.File, base string) bool {
	var a, b unix.Stat_t
	return unix.Fstatat(int(from.Fd()), temp, &a, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		unix.Fstatat(int(to.Fd()), base, &b, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		a.Dev == b.Dev && a.Ino == b.Ino
}
