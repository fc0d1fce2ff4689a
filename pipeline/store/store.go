// Package store is the contract of a place that keeps a repository: a directory or a bucket. The
// stores stand in packages below this one; package open picks one by URL, and package storetest holds the conformance
// suite that every store passes, and a store that fails on purpose.
//
// A store is trusted with nothing. It sees names, sizes and times of files that are encrypted or signed, and whoever
// reads checks what comes back. What a store does owe is written at the methods of Store: a file is visible whole or
// not at all, is durable once Put has returned, and is never overwritten.
package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Store is a place that keeps one repository.
//
// Names are paths relative to the store, slash-separated, of letters, digits, ".", "_" and "-": see CheckName. Every
// method refuses another name with ErrName before it does anything. No file's name is also a folder in other names: a
// store may refuse to put "a/b" beside "a".
//
// All methods may be called from many goroutines at once, and by many processes, on this and on other machines, on the
// same place. A cancelled context ends a call with an error that is the context's; what the call did until then is
// said at the method. Errors are *Error and hold the sentinels of this package where they apply. They hold no secrets.
type Store interface {
	// Put creates the file name with data.
	//
	// It never overwrites: where name is taken, by whatever content, it changes nothing and returns ErrExists. Of many
	// that race for a name exactly one wins.
	//
	// The file becomes visible to Get, Stat and List at one moment, whole. When Put returns nil, and also when it
	// returns ErrExists, the file at that name is durable: it outlasts a crash of the store.
	//
	// After any other error, a cancelled context or a killed process, the file is there whole or not at all, and it is
	// not known which. Put may simply be called again; ErrExists may then mean the first attempt: see PutSame.
	//
	// Put does not keep or change data.
	Put(ctx context.Context, name string, data []byte) error

	// Get opens the file name from its beginning, or returns ErrNotFound. A file that was put is found at once, by
	// everybody.
	//
	// The reader returns io.EOF only at the file's true end, and otherwise may fail at any byte, also because ctx was
	// cancelled: ctx covers the reading too. A file that is deleted while it is read is read to its end or fails.
	// The caller closes the reader; its Close reports nothing about the content.
	Get(ctx context.Context, name string) (io.ReadCloser, error)

	// Stat says what is known of the file name without reading it, or returns ErrNotFound.
	Stat(ctx context.Context, name string) (Info, error)

	// List calls fn for every file whose name begins with prefix, in ascending byte order of names. The prefix is ""
	// or a folder's name with its slash, as in "snapshots/"; a folder that is not there holds no files, which is no
	// error.
	//
	// A file that is there for the whole time of the call is listed exactly once; one that comes or goes meanwhile
	// may be listed or not. What a store keeps for itself, such as files still being written, is never listed.
	//
	// List stops at fn's first error and returns that error as it is. An error of List's own may come after some calls
	// of fn: the list is complete only when List returned nil. fn may call the store.
	List(ctx context.Context, prefix string, fn func(Info) error) error

	// Delete removes the file name. That nothing is there is no error, so it may be called again. When it returns nil
	// the file is gone for everybody, also after a crash of the store. After an error it is there whole or gone.
	Delete(ctx context.Context, name string) error

	// String is the store's URL without secrets, for messages.
	String() string

	// Close lets go of what the store holds. No method is called after it; readers of Get are closed before.
	Close() error
}

// Versioned is a store that may go on keeping what was deleted, hidden: a bucket with versions.
type Versioned interface {
	Store

	// DeleteOld takes away for good what the store keeps, below a prefix, of files that are not there any more. Files that
	// are there stay. It returns how many versions have gone, and what it must keep; an error means that not all was
	// looked at. It may be called again.
	DeleteOld(ctx context.Context, prefix string) (gone int, kept []Kept, err error)

	// Old tells found of each file that is not there any more and that the store still keeps, below a prefix: when it was
	// put, by the store's clock.
	Old(ctx context.Context, prefix string, found func(put time.Time)) error
}

// Unfinished is a store in which writers that were killed leave what they had written of files that never got their names:
// where nobody lists it, and yet for whoever looks beneath the store to read.
type Unfinished interface {
	Store

	// AbortUnfinished takes that away for good, as far as nothing was written to it since before, by the store's clock. Files
	// that are there stay. A Put that has been under way for that long may be taken for a dead one: it fails then, has put
	// nothing, and may be called again. It returns how many have gone; an error means that there may be more. It may be called
	// again.
	AbortUnfinished(ctx context.Context, before time.Time) (gone int, err error)
}

// Kept is a deleted file that the store keeps all the same, such as by S3's Object Lock.
type Kept struct {
	Name  string    `json:"name"`
	Until time.Time `json:"until"` // when it may be deleted; zero where nothing says
	Held  bool      `json:"held"`  // until somebody lifts a legal hold
}

// Info is what a store says about a file.
type Info struct {
	Name     string
	Size     int64     // in bytes
	Modified time.Time // when it was put, by the store's own clock
}

// What went wrong, for errors.Is. An error that is none of these is a fault of the store or of the way there.
var (
	ErrExists   = errors.New("it is already there")
	ErrNotFound = errors.New("it is not there")
	ErrName     = errors.New("not a name that a store keeps")
	ErrReadOnly = errors.New("the store can't be written to")
	ErrNoSpace  = errors.New("the store is full")
	ErrTooLarge = errors.New("larger than it may be")
	ErrURL      = errors.New("not a URL of a store") // wrong as it is written, wherever it leads
)

// Error is what every method of a store returns.
type Error struct {
	Op    string // open, put, get, stat, list, delete
	Store string // the store's URL without secrets
	Name  string // of the file, or the prefix of a list; "" where the store as a whole is meant
	Err   error
}

func (e *Error) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("%s %s: %v", e.Op, e.Store, e.Err)
	}
	return fmt.Sprintf("%s %s in %s: %v", e.Op, e.Name, e.Store, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

const (
	longestName = 512
	longestPart = 200 // file systems allow 255 bytes; encrypting ones fewer
)

// CheckName returns ErrName unless name is a relative path that every kind of store can keep and none can mistake for
// something else: parts of A–Z, a–z, 0–9, ".", "_", "-", joined by single slashes; no part begins with a dot.
// A part is at most 200 bytes long, a name at most 512.
func CheckName(name string) error {
	if name == "" || len(name) > longestName {
		return fmt.Errorf("%w: its length is %d, and must be 1 to %d", ErrName, len(name), longestName)
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "":
			return fmt.Errorf("%w: %q has an empty part", ErrName, name)
		case part[0] == '.':
			return fmt.Errorf("%w: %q has a part that begins with a dot", ErrName, name)
		case len(part) > longestPart:
			return fmt.Errorf("%w: %q has a part longer than %d bytes", ErrName, name, longestPart)
		}
		for i := range len(part) {
			if c := part[i]; !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-') {
				return fmt.Errorf("%w: %q holds more than letters, digits, dot, underscore and hyphen", ErrName, name)
			}
		}
	}
	return nil
}

// CheckPrefix returns ErrName unless prefix is one that List takes: "" or a name and a slash.
func CheckPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	name, ok := strings.CutSuffix(prefix, "/")
	if !ok {
		return fmt.Errorf("%w: the prefix %q does not end with a slash", ErrName, prefix)
	}
	return CheckName(name)
}

// ReadAll reads a whole file that may have at most limit bytes; a longer one is ErrTooLarge, and no more than limit
// bytes of it are held.
func ReadAll(ctx context.Context, s Store, name string, limit int64) ([]byte, error) {
	return ReadInto(ctx, s, name, limit, nil)
}

// ReadInto is ReadAll into buf's memory, as far as that suffices.
func ReadInto(ctx context.Context, s Store, name string, limit int64, buf []byte) ([]byte, error) {
	r, err := s.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data := buf[:0]
	for int64(len(data)) <= limit { // one byte more: only a reader at its true end says EOF
		if len(data) == cap(data) {
			data = append(data, 0)[:len(data)]
		}
		n, err := r.Read(data[len(data):min(int64(cap(data)), limit+1)])
		data = data[:len(data)+n]
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if err != nil && int64(len(data)) <= limit {
			return data, nil
		}
	}
	return nil, &Error{Op: "get", Store: s.String(), Name: name, Err: fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)}
}

// PutSame is Put for a caller that repeats itself: where name is taken by the very same bytes, such as those of an
// attempt whose answer was lost, it returns nil. Where other bytes stand there it returns ErrExists.
func PutSame(ctx context.Context, s Store, name string, data []byte) error {
	putErr := s.Put(ctx, name, data)
	if !errors.Is(putErr, ErrExists) {
		return putErr
	}
	there, err := ReadAll(ctx, s, name, int64(len(data)))
	switch {
	case errors.Is(err, ErrTooLarge):
		return putErr
	case err != nil:
		return err
	case !bytes.Equal(there, data):
		return putErr
	}
	return nil
}
