package archive

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// Identities is a set of age private keys. It prints as **redacted**.
type Identities struct {
	redacted
	list   func() []age.Identity
	public []string
}

func newIdentities(list []age.Identity, public []string) *Identities {
	return &Identities{list: func() []age.Identity { return list }, public: public}
}

// Recipients returns the public keys that the identities open, in the file's order.
func (ids *Identities) Recipients() []string { return slices.Clone(ids.public) }

// And returns both sets together.
func (ids *Identities) And(more *Identities) *Identities {
	return newIdentities(slices.Concat(ids.list(), more.list()), slices.Concat(ids.public, more.public))
}

// ReadIdentities reads an identity file as age-keygen writes it; "-" is not special here. For a file that is itself
// encrypted with a passphrase, passphrase is asked for one (name is for its prompt); where passphrase is nil the error
// is an ErrPassphrase.
func ReadIdentities(path string, passphrase func(name string) (string, error)) (*Identities, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, &Error{Msg: "read identity", Err: err, Kind: ErrKeyFile, Try: "--identity names a file made by age-keygen"}
	}
	defer file.Close() //nolint:errcheck // read only
	text, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return nil, &Error{Name: path, Msg: "read identity", Err: err, Kind: ErrKeyFile}
	}
	return ParseIdentities(path, text, passphrase)
}

// ParseIdentities is ReadIdentities on the file's content; name is for errors and the prompt.
func ParseIdentities(name string, text []byte, passphrase func(name string) (string, error)) (*Identities, error) {
	if len(text) > maxKeyFile {
		return nil, &Error{Name: name, Msg: "too long for an identity file", Kind: ErrKeyFile}
	}
	armored := bytes.HasPrefix(bytes.TrimSpace(text), []byte(armor.Header))
	if armored || bytes.HasPrefix(text, []byte("age-encryption.org/")) {
		plain, err := decryptIdentityFile(name, text, armored, passphrase)
		if err != nil {
			return nil, err
		}
		text = plain
	}
	var list []age.Identity
	var public []string
	for i, raw := range strings.Split(string(text), "\n") {
		line := strings.TrimSpace(raw)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		at := fmt.Sprintf("%s:%d", name, i+1)
		// The line is a secret: neither it nor age's error, which may quote from it, is shown.
		switch {
		case strings.HasPrefix(line, "AGE-SECRET-KEY-PQ-1"):
			id, err := age.ParseHybridIdentity(line)
			if err != nil {
				return nil, &Error{Name: at, Msg: "a malformed post-quantum age identity", Kind: ErrKeyFile, Try: "put back the file's copy"}
			}
			list, public = append(list, id), append(public, id.Recipient().String())
		case strings.HasPrefix(line, "AGE-SECRET-KEY-1"):
			id, err := age.ParseX25519Identity(line)
			if err != nil {
				return nil, &Error{Name: at, Msg: "a malformed age identity", Kind: ErrKeyFile, Try: "put back the file's copy"}
			}
			list, public = append(list, id), append(public, id.Recipient().String())
		case strings.HasPrefix(line, "age1"):
			return nil, &Error{Name: at, Msg: "a public key; an identity file holds private ones (AGE-SECRET-KEY-…)", Kind: ErrKeyFile,
				Try: "name the file that age-keygen wrote"}
		case strings.HasPrefix(line, "-----BEGIN"), strings.HasPrefix(line, "AGE-PLUGIN-"):
			return nil, &Error{Name: at, Msg: "SSH keys and age plugins are not supported as identities", Kind: ErrKeyFile,
				Try: "use a native age identity; by hand, age itself can decrypt with yours (docs/format.md)"}
		case strings.HasPrefix(line, "lethe-operator-key:"), strings.HasPrefix(line, "lethe-signer-key:"):
			return nil, &Error{Name: at, Msg: "this is a key of Lethe's own; it can't decrypt table data", Kind: ErrKeyFile,
				Try: "name the file that age-keygen wrote, the key holder's"}
		default:
			return nil, &Error{Name: at, Msg: "not an age identity (AGE-SECRET-KEY-…)", Kind: ErrKeyFile, Try: "name the file that age-keygen wrote"}
		}
	}
	if len(list) == 0 {
		return nil, &Error{Name: name, Msg: "no identity in this file", Kind: ErrKeyFile, Try: "name the file that age-keygen wrote"}
	}
	return newIdentities(list, public), nil
}

func decryptIdentityFile(name string, text []byte, armored bool, passphrase func(string) (string, error)) ([]byte, error) {
	if passphrase == nil {
		return nil, &Error{Name: name, Msg: "this identity file is encrypted with a passphrase", Kind: ErrPassphrase,
			Try: "run where a terminal can ask for it, or decrypt the file first with age -d"}
	}
	phrase, err := passphrase(name)
	if err != nil {
		return nil, &Error{Name: name, Msg: "ask for the passphrase", Err: err, Kind: ErrPassphrase}
	}
	id, err := age.NewScryptIdentity(phrase)
	if err != nil {
		return nil, &Error{Name: name, Msg: "the passphrase is empty", Kind: ErrPassphrase}
	}
	var src io.Reader = bytes.NewReader(text)
	if armored {
		src = armor.NewReader(src)
	}
	plain, err := age.Decrypt(src, id)
	if err != nil {
		return nil, &Error{Name: name, Msg: "the passphrase does not open this identity file", Kind: ErrPassphrase}
	}
	out, err := io.ReadAll(io.LimitReader(plain, maxKeyFile+1))
	if err != nil {
		return nil, &Error{Name: name, Msg: "decrypt identity file", Err: err, Kind: ErrKeyFile}
	}
	return out, nil
}
