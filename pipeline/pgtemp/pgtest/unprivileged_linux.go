package pgtest

import (
	"os"
	"runtime"
	"syscall"
	"testing"
)

const nobody = 65534

// Unprivileged runs do with the rights on files that a user has who owns none. For root, who may do everything, that is
// another user of the file system, on a thread that ends with it; so do starts no other goroutine or process, and calls
// neither FailNow nor Skip.
func Unprivileged(t testing.TB, do func()) {
	t.Helper()
	if os.Getuid() != 0 {
		do()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread is not used again
		syscall.RawSyscall(syscall.SYS_SETFSUID, nobody, 0, 0)
		if now, _, _ := syscall.RawSyscall(syscall.SYS_SETFSUID, nobody, 0, 0); now != nobody { // it tells who it was before
			t.Errorf("the rights on files are still those of user %d", now)
			return
		}
		do()
	}()
	<-done
}
