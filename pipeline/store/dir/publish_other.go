//go:build !linux

package dir

func publishers() []publisher { return []publisher{byLink} }
