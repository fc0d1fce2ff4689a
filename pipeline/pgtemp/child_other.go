//go:build !linux

package pgtemp

import "syscall"

// boundToParent: only Linux tells a child that its parent died. Elsewhere a killed process leaves its server running.
func boundToParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
