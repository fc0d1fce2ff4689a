package archive

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// secretsOf returns every secret string of an operator key file.
func secretsOf(text string) []string {
	var secrets []string
	for _, line := range strings.Split(text, "\n") {
		if _, value, ok := strings.Cut(line, ": "); ok && !strings.HasPrefix(line, "#") && value != "1" {
			secrets = append(secrets, value)
		}
	}
	return secrets
}

func TestOperatorKeyFile(t *testing.T) {
	op, err := GenerateOperator()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "operator.key")
	text := op.Text(testTime)
	if err := WriteSecretFile(path, text); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %04o, want 0600", info.Mode().Perm())
	}
	if !strings.Contains(text, "# created: 2026-11-22T18:00:00Z\n# public key: "+op.Public().String()+"\n") {
		t.Errorf("the comments lack date or public key")
	}
	got, err := ReadOperatorKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.Text(testTime) != text {
		t.Error("the key read back is another one")
	}
	if !got.PieceID.Equal(op.PieceID) || !got.Strategy.Equal(op.Strategy) || got.PieceID.Equal(got.Strategy) {
		t.Error("the symmetric keys differ")
	}
	public, err := ReadPublicKey(path)
	if err != nil || public != op.Public() || !strings.HasPrefix(public.String(), "RW") {
		t.Errorf("public key %v, %v", public, err)
	}
	if err := WriteSecretFile(path, "other"); !errors.Is(err, os.ErrExist) {
		t.Errorf("an existing key was not protected: %v", err)
	}
	if after, _ := os.ReadFile(path); string(after) != text {
		t.Error("the existing key file changed")
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o601} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := ReadOperatorKey(path)
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, ErrKeyFile) || !strings.Contains(e.Hint(), "chmod 600 "+path) {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadOperatorKey(path); err != nil {
		t.Errorf("mode 0400: %v", err)
	}
	if _, err := ReadOperatorKey(filepath.Dir(path)); !errors.Is(err, ErrKeyFile) {
		t.Errorf("a directory: %v", err)
	}
}

func TestSignerKeyFile(t *testing.T) {
	k, err := GenerateSigner()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "signer.key")
	if err := WriteSecretFile(path, k.Text(testTime)); err != nil {
		t.Fatal(err)
	}
	got, err := ReadSigner(path)
	if err != nil || got.Public() != k.Public() {
		t.Fatalf("read back %v, %v", got, err)
	}
	if public, err := ReadPublicKey(path); err != nil || public != k.Public() {
		t.Errorf("public key %v, %v", public, err)
	}
	if _, err := ReadOperatorKey(path); err == nil || !strings.Contains(err.Error(), "another kind of key: signer-key, not operator-key") {
		t.Errorf("a signer key as operator key: %v", err)
	}
}

func TestKeyFileErrors(t *testing.T) {
	op, err := GenerateOperator()
	if err != nil {
		t.Fatal(err)
	}
	other, err := GenerateOperator()
	if err != nil {
		t.Fatal(err)
	}
	good := op.Text(testTime)
	line := func(n int) string { return strings.Split(good, "\n")[n-1] }
	replace := func(n int, with string) string { return strings.Replace(good, line(n), with, 1) }
	flip := func(n int) string { // changes a character in the middle of the line's value
		l := []byte(line(n))
		at := len(l) - 20
		if l[at] == 'A' || l[at] == 'a' || l[at] == '0' {
			l[at] = 'Q'
		} else {
			l[at] = 'A'
		}
		return replace(n, string(l))
	}
	tests := []struct{ name, text, want string }{
		{"empty", "", "k: no key in this file"},
		{"something else", "-----BEGIN OPENSSH PRIVATE KEY-----\n", "k:1: not a line"},
		{"age key", "AGE-SECRET-KEY-1QQQ\n", "k:1: not a line"},
		{"version", replace(4, "lethe-operator-key: 2"), "k:4: unknown version"},
		{"no version", replace(4, "# gone"), "k:5: the first line"},
		{"unknown name", replace(6, "peace-id-key: "+strings.Repeat("0", 64)), "k:6: unknown name"},
		{"twice", good + line(6) + "\n", "k:10: piece-id-key stands here a second time"},
		{"missing", replace(7, ""), "k: strategy-key is missing"},
		{"cut short", good[:len(good)-30], "k:9: identity-hybrid is not"},
		{"signing key flipped", flip(5), "k:5: signing-key is not"},
		{"piece key flipped", flip(6), "k:6: piece-id-key is not"},
		{"strategy key upper case", replace(7, strings.ToUpper(line(7))), "k:7: unknown name"},
		{"x25519 flipped", flip(8), "k:8: identity-x25519 is not"},
		{"hybrid flipped", flip(9), "k:9: identity-hybrid is not"},
		{"identities swapped", replace(8, "identity-x25519: "+strings.TrimPrefix(line(9), "identity-hybrid: ")), "k:8: identity-x25519 is not"},
		{"foreign comment", strings.Replace(good, op.Public().String(), other.Public().String(), 1), "k:3: the public key in this comment"},
		{"no space", replace(6, strings.Replace(line(6), ": ", ":", 1)), "k:6: not a line"},
		{"endless line", good + strings.Repeat("x", 1<<17), "k:10: the line is too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, err := ParseOperatorKey("k", []byte(tt.text))
			if err == nil || k != nil {
				t.Fatal("accepted")
			}
			if !errors.Is(err, ErrKeyFile) || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("error %q, want %q", err, tt.want)
			}
			for _, secret := range secretsOf(tt.text) {
				secret = strings.TrimPrefix(strings.TrimPrefix(secret, "AGE-SECRET-KEY-PQ-1"), "AGE-SECRET-KEY-1")
				for i := 0; i+8 <= len(secret); i += 4 {
					if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), secret[i:i+8]) {
						t.Fatal("the error quotes the secret")
					}
				}
			}
		})
	}
	if _, err := ParseOperatorKey("k", []byte(strings.ReplaceAll(good, "\n", "\r\n"))); err != nil {
		t.Errorf("with CRLF: %v", err)
	}
}

// signingSeed returns the Ed25519 seed, which stands at byte 62 of minisign's secret key format.
func signingSeed(t *testing.T, k *SigningKey) [32]byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(k.encode())
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(raw[62:94])
}

func TestSecretsPrintRedacted(t *testing.T) {
	f := newFixture(t)
	type holder struct { // fmt walks unexported fields without asking their methods
		op   OperatorKey
		ptr  *OperatorKey
		sign SigningKey
		key  SecretKey
		ids  Identities
		keys RepositoryKeys
	}
	keys := RepositoryKeys{PieceID: f.op.PieceID, Strategy: f.op.Strategy}
	h := holder{*f.op, f.op, *f.op.Signing, f.op.PieceID, *f.ids, keys}
	secrets := append(secretsOf(f.op.Text(testTime)), f.holder.String())
	// Every secret as bytes too, in the ways fmt may print an array of them.
	for _, key := range [][32]byte{f.op.PieceID.Bytes(), f.op.Strategy.Bytes(), signingSeed(t, f.op.Signing)} {
		part := key[4:12]
		secrets = append(secrets, string(part), fmt.Sprintf("%x", part), fmt.Sprintf("%X", part), strings.Trim(fmt.Sprint(part), "[]"),
			strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", part), "[]byte{"), "}"))
	}
	values := []any{h, &h, f.op, *f.op, f.op.Signing, *f.op.Signing, f.op.PieceID, &f.op.PieceID, f.ids, *f.ids, keys, &keys,
		[]any{f.op, f.ids}, map[string]any{"a": f.op.Strategy}}
	for _, v := range values {
		var out []string
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			out = append(out, fmt.Sprintf(verb, v))
		}
		if j, err := json.Marshal(v); err == nil {
			out = append(out, string(j))
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("m", "v", v)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "v", v)
		out = append(out, log.String())
		for _, s := range out {
			for _, secret := range secrets {
				if strings.Contains(s, secret) {
					t.Errorf("%T shows a secret: %.200s", v, s)
				}
			}
		}
	}
	if s := fmt.Sprint(f.op); s != redactedText {
		t.Errorf("an operator key prints as %q", s)
	}
}

func TestParsePublicKey(t *testing.T) {
	k, err := GenerateSigner()
	if err != nil {
		t.Fatal(err)
	}
	good := k.Public().String()
	if got, err := ParsePublicKey(good); err != nil || got != k.Public() {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []string{"", "RW", good[:55], good + "A", good + "\n", good[:20] + "\n" + good[20:], "RX" + good[2:], "untrusted comment: x\n" + good, strings.ToLower(good)} {
		if _, err := ParsePublicKey(s); err == nil {
			t.Errorf("accepted %q", s)
		}
	}
}

func TestRecipients(t *testing.T) {
	var classic, hybrid []string
	for range 3 {
		x, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		q, err := age.GenerateHybridIdentity()
		if err != nil {
			t.Fatal(err)
		}
		classic, hybrid = append(classic, x.Recipient().String()), append(hybrid, q.Recipient().String())
	}
	secret, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "two.txt"), []byte("# keys\n"+classic[1]+"\r\n\n"+classic[2]+"\n"))
	write(t, filepath.Join(dir, "empty.txt"), []byte("# nobody\n"))
	write(t, filepath.Join(dir, "bad.txt"), []byte(classic[0]+"\nage1nonsense\n"))
	write(t, filepath.Join(dir, "secret.txt"), []byte("# oops\n"+secret.String()+"\n"))

	all, err := ParseRecipients([]string{classic[0], "two.txt", classic[0], filepath.Join(dir, "two.txt")}, dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Strings()) != 3 || all.Hybrid() {
		t.Errorf("recipients %v", all.Strings())
	}
	other, err := ParseRecipients([]string{classic[2], classic[0], classic[1]}, "")
	if err != nil {
		t.Fatal(err)
	}
	if all.Digest() != other.Digest() {
		t.Error("the digest depends on the order")
	}
	if fewer, err := ParseRecipients(classic[:2], ""); err != nil || fewer.Digest() == all.Digest() {
		t.Errorf("the digest does not depend on the set (%v)", err)
	}
	if pq, err := ParseRecipients(hybrid, ""); err != nil || !pq.Hybrid() || len(pq.Strings()) != 3 {
		t.Errorf("hybrid recipients: %v", err)
	}

	for _, tt := range []struct {
		name    string
		entries []string
		want    string
	}{
		{"none", nil, "no recipient is named"},
		{"mixed", []string{classic[0], hybrid[0]}, "can't be mixed"},
		{"missing file", []string{"nobody.txt"}, "nobody.txt"},
		{"empty file", []string{"empty.txt"}, "no recipients in this file"},
		{"line named", []string{"bad.txt"}, "bad.txt:2: a malformed age1… key"},
		{"ssh", []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN a@b"}, "SSH keys are not supported"},
		{"plugin", []string{"age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t"}, "plugins and tagged keys"},
		{"private key", []string{secret.String()}, "a private key"},
		{"private key in a file", []string{"secret.txt"}, "secret.txt:2: a private key"},
		{"typo", []string{strings.Replace(classic[0], "age1", "age1q", 1)}, "a malformed age1… key"},
		{"low order point", []string{"age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z"}, "can't be encrypted to"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseRecipients(tt.entries, dir)
			if err == nil || got != nil || !errors.Is(err, ErrRecipients) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want %q", err, tt.want)
			}
			if strings.Contains(err.Error(), secret.String()[10:30]) {
				t.Error("the error quotes the private key")
			}
		})
	}

	op, err := GenerateOperator()
	if err != nil {
		t.Fatal(err)
	}
	for _, keys := range [][]string{classic, hybrid} {
		set, err := ParseRecipients(keys, "")
		if err != nil {
			t.Fatal(err)
		}
		with, err := set.WithOperator(op)
		if err != nil || len(with.Strings()) != 4 || with.Hybrid() != set.Hybrid() || len(set.Strings()) != 3 {
			t.Fatalf("with operator: %v", err)
		}
		if _, err := with.WithOperator(op); err == nil || !strings.Contains(err.Error(), "operator's own key") {
			t.Errorf("the operator as recipient: %v", err)
		}
	}
}

func TestIdentities(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key.txt")
	run(t, dir, "age-keygen", "-o", path)
	ids, err := ReadIdentities(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimSpace(run(t, dir, "age-keygen", "-y", path)); ids.Recipients()[0] != want {
		t.Errorf("public key %s, age-keygen says %s", ids.Recipients()[0], want)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}

	for _, armored := range []bool{false, true} {
		var locked bytes.Buffer
		r, err := age.NewScryptRecipient("correct horse")
		if err != nil {
			t.Fatal(err)
		}
		r.SetWorkFactor(10)
		dst := armor.NewWriter(&locked)
		if !armored {
			_ = dst.Close()
			locked.Reset()
			var plain bytes.Buffer
			if err := encrypt(&plain, text, []age.Recipient{r}); err != nil {
				t.Fatal(err)
			}
			locked = plain
		} else {
			var plain bytes.Buffer
			if err := encrypt(&plain, text, []age.Recipient{r}); err != nil {
				t.Fatal(err)
			}
			if _, err := dst.Write(plain.Bytes()); err != nil {
				t.Fatal(err)
			}
			if err := dst.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := ParseIdentities("k", locked.Bytes(), nil); !errors.Is(err, ErrPassphrase) {
			t.Errorf("armored %v: without a passphrase: %v", armored, err)
		}
		if _, err := ParseIdentities("k", locked.Bytes(), func(string) (string, error) { return "wrong", nil }); !errors.Is(err, ErrPassphrase) {
			t.Errorf("armored %v: wrong passphrase: %v", armored, err)
		}
		got, err := ParseIdentities("k", locked.Bytes(), func(name string) (string, error) {
			if name != "k" {
				t.Errorf("asked for %q", name)
			}
			return "correct horse", nil
		})
		if err != nil || got.Recipients()[0] != ids.Recipients()[0] {
			t.Errorf("armored %v: %v", armored, err)
		}
	}

	secret := strings.TrimSpace(strings.Split(string(text), "\n")[2])
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", "k: no identity"},
		{"comments", "# x\n", "k: no identity"},
		{"public key", "\n" + ids.Recipients()[0], "k:2: a public key"},
		{"ssh", "-----BEGIN OPENSSH PRIVATE KEY-----\nx", "k:1: SSH keys"},
		{"plugin", "AGE-PLUGIN-YUBIKEY-1QQQ", "k:1: SSH keys and age plugins"},
		{"damaged", "# c\n" + damaged(secret, 40), "k:2: a malformed age identity"},
		{"damaged twice", "# c\n" + damaged(damaged(secret, 30), 31), "k:2: a malformed age identity"},
		{"nonsense", "hello", "k:1: not an age identity"},
	} {
		_, err := ParseIdentities("k", []byte(tt.text), nil)
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		} else if strings.Contains(err.Error(), secret[17:30]) {
			t.Errorf("%s: the error quotes the secret", tt.name)
		}
	}
}

// damaged returns secret with another character of its alphabet at i: whatever stood there, it is not there any more.
func damaged(secret string, i int) string {
	other := "Q"
	if secret[i] == 'Q' {
		other = "P"
	}
	return secret[:i] + other + secret[i+1:]
}
