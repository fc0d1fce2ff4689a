package s3test

import "syscall"

// boundToParent makes the kernel kill the child when this process dies, however it dies.
func boundToParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

func setAttribute(dir, name string) error { return syscall.Setxattr(dir, name, []byte("1"), 0) }
