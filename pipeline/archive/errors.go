package archive

import "errors"

// Kinds of error, for errors.Is. Everything that means "these bytes are not what they should be" is an ErrIntegrity too.
var (
	ErrIntegrity          = errors.New("integrity")
	ErrMalformedSignature = integrity("malformed signature")
	ErrUntrustedSigner    = integrity("untrusted signer")
	ErrBadSignature       = integrity("bad signature")
	ErrOtherFile          = integrity("signature of another file")

	ErrVersion    = errors.New("unknown format version")
	ErrNoIdentity = errors.New("no identity can decrypt this")
	ErrPassphrase = errors.New("a passphrase is needed")
	ErrKeyFile    = errors.New("unusable key file")
	ErrRecipients = errors.New("unusable recipients")
)

// integrity returns a new kind that is an ErrIntegrity.
func integrity(text string) error { return &integrityKind{text} }

type integrityKind struct{ text string }

func (k *integrityKind) Error() string { return k.text }
func (k *integrityKind) Unwrap() error { return ErrIntegrity }

// Error is what the functions of this package return when a file or a key is at fault. It never quotes a secret.
type Error struct {
	Name string // the file it is about: a path, a name in the repository, or an object's digest
	Msg  string // what is wrong with it
	Try  string // what to do about it, or ""
	Kind error  // one of the kinds above, or nil
	Err  error  // the cause, or nil
}

// Error returns name and message, without the hint.
func (e *Error) Error() string {
	s := e.Msg
	if e.Name != "" {
		s = e.Name + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Hint returns what to try, or "".
func (e *Error) Hint() string { return e.Try }

// Unwrap returns kind and cause.
func (e *Error) Unwrap() []error {
	var errs []error
	if e.Kind != nil {
		errs = append(errs, e.Kind)
	}
	if e.Err != nil {
		errs = append(errs, e.Err)
	}
	return errs
}
