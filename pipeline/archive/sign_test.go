package archive

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aead.dev/minisign"
)

func TestSignVerify(t *testing.T) {
	key, err := GenerateSigner()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := GenerateSigner()
	if err != nil {
		t.Fatal(err)
	}
	const repo, name = "00112233445566778899aabbccddeeff", "snapshots/20261122T180000Z-3f9a1c.age"
	data := []byte("ciphertext")
	sign := func(k *SigningKey, p Purpose, r, n string, d []byte) []byte {
		t.Helper()
		sig, err := Sign(k, p, r, n, d)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	good := sign(key, PurposeManifest, repo, name, data)
	if signer, err := NewTrust(stranger.Public(), key.Public()).Verify(PurposeManifest, repo, name, data, good); err != nil || signer != key.Public() {
		t.Fatalf("a good signature: %v, %v", signer, err)
	}

	legacy := minisign.SignWithComments(key.get(), data, "lethe v1 purpose=manifest repository="+repo+" name="+name, "x")
	lines := strings.SplitAfter(string(good), "\n")
	edit := func(n int, line string) []byte {
		l := append([]string(nil), lines...)
		l[n] = line
		return []byte(strings.Join(l, ""))
	}
	trust := NewTrust(key.Public())
	for _, tt := range []struct {
		name  string
		trust *Trust
		data  []byte
		sig   []byte
		kind  error
		want  string
	}{
		{"nobody trusted", &Trust{}, data, good, ErrUntrustedSigner, key.Public().ID()},
		{"stranger", trust, data, sign(stranger, PurposeManifest, repo, name, data), ErrUntrustedSigner, stranger.Public().ID()},
		{"data changed", trust, []byte("ciphertexT"), good, ErrBadSignature, key.Public().ID()},
		{"data cut", trust, data[:5], good, ErrBadSignature, ""},
		{"comment changed", trust, data, edit(2, strings.Replace(lines[2], "3f9a1c", "3f9a1d", 1)), ErrBadSignature, ""},
		{"other file", trust, data, sign(key, PurposeManifest, repo, "snapshots/20261122T180000Z-ffffff.age", data), ErrOtherFile, "name=snapshots/20261122T180000Z-ffffff.age"},
		{"other repository", trust, data, sign(key, PurposeManifest, "ff"+repo[2:], name, data), ErrOtherFile, "repository=ff11"},
		{"other purpose", trust, data, sign(key, PurposeKeys, repo, name, data), ErrOtherFile, "purpose=keys"},
		{"by minisign without our comment", trust, data, prehash(data).SignWithComments(key.get(), "timestamp:1\x1b[2J", "x"), ErrOtherFile, "timestamp:1?[2J"},
		{"empty", trust, data, nil, ErrMalformedSignature, ".minisig"},
		{"text", trust, data, []byte("hello\n"), ErrMalformedSignature, ""},
		{"cut short", trust, data, good[:len(good)-20], ErrMalformedSignature, ""},
		{"one line end more", trust, data, append(bytes.Clone(good), '\n'), ErrMalformedSignature, ""},
		{"CRLF", trust, data, bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")), ErrMalformedSignature, ""},
		{"long", trust, data, append(bytes.Repeat([]byte("x"), 5000), good...), ErrMalformedSignature, ""},
		{"not prehashed", trust, data, legacy, ErrMalformedSignature, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			signer, err := tt.trust.Verify(PurposeManifest, repo, name, tt.data, tt.sig)
			if signer != (PublicKey{}) || !errors.Is(err, tt.kind) || !errors.Is(err, ErrIntegrity) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("signer %q, error %v; want %v with %q", signer, err, tt.kind, tt.want)
			}
			var e *Error
			if !errors.As(err, &e) || e.Hint() == "" {
				t.Error("no hint")
			}
		})
	}
	// Every single changed byte of the signature file is noticed, but for the untrusted comment.
	for i := len(lines[0]); i < len(good)-1; i++ {
		sig := bytes.Clone(good)
		sig[i] ^= 1
		if _, err := trust.Verify(PurposeManifest, repo, name, data, sig); err == nil {
			t.Errorf("byte %d changed unnoticed", i)
		}
	}
	for _, bad := range [][2]string{{"", name}, {repo, ""}, {repo, "a b"}, {repo, "a\nb"}, {repo, "ü"}, {repo + " name=x", name}} {
		if _, err := Sign(key, PurposeManifest, bad[0], bad[1], data); err == nil {
			t.Errorf("signed repository %q, name %q", bad[0], bad[1])
		}
		if _, err := trust.Verify(PurposeManifest, bad[0], bad[1], data, good); err == nil {
			t.Errorf("verified repository %q, name %q", bad[0], bad[1])
		}
	}
}

// TestMinisign holds our signatures against the original tool, both ways.
func TestMinisign(t *testing.T) {
	dir := t.TempDir()
	key, err := GenerateSigner()
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 127, 128, 129, 1 << 20} {
		data := bytes.Repeat([]byte{7}, size)
		sig, err := Sign(key, PurposeKeys, strings.Repeat("0", 32), KeysName, data)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "f"), data)
		write(t, filepath.Join(dir, "f.minisig"), sig)
		run(t, dir, "minisign", "-V", "-H", "-P", key.Public().String(), "-m", "f")
	}

	run(t, dir, "minisign", "-G", "-W", "-p", "pub", "-s", "sec")
	name := "snapshots/20261122T180000Z-3f9a1c.age"
	comment, _ := trustedComment(PurposeManifest, strings.Repeat("0", 32), name)
	write(t, filepath.Join(dir, "m"), []byte("data"))
	run(t, dir, "minisign", "-S", "-s", "sec", "-m", "m", "-t", comment)
	sig, err := os.ReadFile(filepath.Join(dir, "m.minisig"))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := os.ReadFile(filepath.Join(dir, "pub"))
	if err != nil {
		t.Fatal(err)
	}
	trust, err := ParseTrust([]string{strings.Split(string(pub), "\n")[1]})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.Verify(PurposeManifest, strings.Repeat("0", 32), name, []byte("data"), sig); err != nil {
		t.Errorf("minisign's signature: %v", err)
	}
}

func TestTrust(t *testing.T) {
	a, err := GenerateSigner()
	if err != nil {
		t.Fatal(err)
	}
	b, err := GenerateSigner()
	if err != nil {
		t.Fatal(err)
	}
	trust, err := ParseTrust([]string{a.Public().String(), " " + a.Public().String() + "\n"})
	if err != nil || len(trust.Keys()) != 1 {
		t.Fatalf("%v, %v", trust, err)
	}
	if more := trust.With(b.Public(), PublicKey{}); len(more.Keys()) != 2 || len(trust.Keys()) != 1 {
		t.Error("With changed the set or took an empty key")
	}
	if _, err := ParseTrust([]string{"AGE-SECRET-KEY-1QQQQ"}); err == nil || strings.Contains(err.Error(), "QQQQ") {
		t.Errorf("a secret as trusted signer: %v", err)
	}
}
