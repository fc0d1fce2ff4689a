package pgtemp

import "syscall"

// boundToParent makes the kernel shut the child down (SIGQUIT is PostgreSQL's immediate shutdown) when this process
// dies, however it dies.
func boundToParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT} }
