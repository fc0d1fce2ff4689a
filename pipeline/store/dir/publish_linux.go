package dir

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func publishers() []publisher { return []publisher{byRename, byLink} }

// byRename is renameat2(2) with RENAME_NOREPLACE, known to the local file systems of Linux; NFS needs byLink.
func byRename(from *os.File, temp string, to *os.File, base string) error {
	err := unix.Renameat2(int(from.Fd()), temp, int(to.Fd()), base, unix.RENAME_NOREPLACE)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.ENOTSUP) {
		return errors.Join(errNotSupported, err)
	}
	return err
}
