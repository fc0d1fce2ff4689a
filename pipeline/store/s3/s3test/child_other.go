//go:build !linux

package s3test

import (
	"errors"
	"syscall"
)

func boundToParent() *syscall.SysProcAttr { return nil }

func setAttribute(string, string) error { return errors.ErrUnsupported }
