package archive

import (
	"bytes"
	"io"
	"strings"

	"aead.dev/minisign"
)

// Purpose says what a signed file is, inside its trusted comment, so that a signature of one kind of file is worth
// nothing for another.
type Purpose string

// Purposes of this version.
const (
	PurposeManifest Purpose = "manifest"
	PurposeKeys     Purpose = "keys"
	PurposeProof    Purpose = "proof"
	PurposeLedger   Purpose = "ledger"
	PurposePurge    Purpose = "purge"

	PurposeCertificate Purpose = "certificate"
)

// SignatureSuffix is what a signature's file name adds to the name of the file it signs.
const SignatureSuffix = ".minisig"

// maxSignature bounds what is parsed; a signature has some 350 bytes.
const maxSignature = 4096

// trustedComment is the one canonical form. ok is false where a part would make it ambiguous.
func trustedComment(purpose Purpose, repository, name string) (comment string, ok bool) {
	for _, part := range []string{string(purpose), repository, name} {
		if part == "" || strings.ContainsFunc(part, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return "", false
		}
	}
	return "lethe v1 purpose=" + string(purpose) + " repository=" + repository + " name=" + name, true
}

// Sign returns the .minisig of data, the exact bytes that are stored under name in the repository. The signature is
// minisign's prehashed form; its trusted comment binds purpose, repository and name.
func Sign(key *SigningKey, purpose Purpose, repository, name string, data []byte) ([]byte, error) {
	comment, ok := trustedComment(purpose, repository, name)
	if !ok {
		return nil, &Error{Name: name, Msg: "sign: purpose, repository and name must be printable ASCII without spaces"}
	}
	return prehash(data).SignWithComments(key.get(), comment, "signature from lethe key "+key.Public().ID()), nil
}

// prehash reads data into minisign's BLAKE2b-512.
func prehash(data []byte) *minisign.Reader {
	r := minisign.NewReader(bytes.NewReader(data))
	_, _ = io.Copy(io.Discard, r) // a bytes.Reader does not fail
	return r
}

// Trust is the set of public keys whose signatures a reader believes. The zero Trust believes nobody.
type Trust struct{ keys []PublicKey }

// NewTrust returns the set of keys.
func NewTrust(keys ...PublicKey) *Trust {
	t := &Trust{}
	for _, k := range keys {
		t.add(k)
	}
	return t
}

// ParseTrust reads lines as keygen prints them: `trusted_signers:` or --trust.
func ParseTrust(lines []string) (*Trust, error) {
	t := &Trust{}
	for _, line := range lines {
		k, err := ParsePublicKey(strings.TrimSpace(line))
		if err != nil {
			return nil, err
		}
		t.add(k)
	}
	return t, nil
}

func (t *Trust) add(k PublicKey) {
	for _, have := range t.keys {
		if have == k {
			return
		}
	}
	if k != (PublicKey{}) {
		t.keys = append(t.keys, k)
	}
}

// With returns the set plus more keys.
func (t *Trust) With(more ...PublicKey) *Trust {
	return NewTrust(append(append([]PublicKey(nil), t.keys...), more...)...)
}

// Keys returns the trusted keys.
func (t *Trust) Keys() []PublicKey { return append([]PublicKey(nil), t.keys...) }

// Verify checks that sig is a trusted signer's signature of exactly data, stored for this purpose under this name in
// this repository, and returns the signer. Errors are, in the order they are looked for: ErrMalformedSignature,
// ErrUntrustedSigner, ErrBadSignature, ErrOtherFile; each is an ErrIntegrity.
func (t *Trust) Verify(purpose Purpose, repository, name string, data, sig []byte) (PublicKey, error) {
	want, ok := trustedComment(purpose, repository, name)
	if !ok {
		return PublicKey{}, &Error{Name: name, Msg: "verify: purpose, repository and name must be printable ASCII without spaces", Kind: ErrIntegrity}
	}
	var s minisign.Signature
	// Base64 has spare bits and ignores line ends: only the one canonical text of a signature is one.
	if len(sig) > maxSignature || s.UnmarshalText(sig) != nil || s.Algorithm != minisign.HashEdDSA || s.String() != string(sig) {
		return PublicKey{}, &Error{Name: name + SignatureSuffix, Msg: "not a prehashed minisign signature", Kind: ErrMalformedSignature,
			Try: "the file is damaged or not of Lethe's making; another store may hold a good copy"}
	}
	digest := prehash(data)
	trusted := false
	for _, key := range t.keys {
		pub := key.minisign()
		if pub.ID() != s.KeyID {
			continue
		}
		trusted = true
		if !digest.Verify(pub, sig) {
			continue
		}
		if s.TrustedComment != want {
			// The comment is signed by a trusted key, so what it says may be shown.
			return PublicKey{}, &Error{Name: name, Kind: ErrOtherFile,
				Msg: "its signature belongs to another file: it says \"" + printable(s.TrustedComment) + "\", not \"" + want + "\"",
				Try: "somebody or something moved files about in this store; another store may hold a good copy"}
		}
		return key, nil
	}
	if trusted {
		return PublicKey{}, &Error{Name: name, Msg: "the signature by key " + keyID(s.KeyID) + " does not match the file", Kind: ErrBadSignature,
			Try: "the file was changed or damaged after it was signed; another store may hold a good copy"}
	}
	return PublicKey{}, &Error{Name: name, Msg: "signed by key " + keyID(s.KeyID) + ", which is not trusted", Kind: ErrUntrustedSigner,
		Try: "if you know the signer, add the RW… line that its keygen printed to trusted_signers, or pass it with --trust"}
}

// printable keeps a comment from playing tricks on a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f {
			return '?'
		}
		return r
	}, s)
}
