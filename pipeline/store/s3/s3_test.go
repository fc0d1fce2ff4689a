package s3_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"lethe/pipeline/store"
	"lethe/pipeline/store/s3"
	"lethe/pipeline/store/s3/s3test"
	"lethe/pipeline/store/storetest"
)

// server is the one of this test binary; it answers to http://127.0.0.1:port and http://BUCKET.localhost:port.
var server *s3test.Server

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		server, err = s3test.Start(context.Background(), "--virtual-domain", "localhost")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		for name, value := range server.Environment() {
			os.Setenv(name, value)
		}
		code := m.Run()
		if err := server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
		for range 100 { // half a second each: connections may take a while to end on a loaded machine
			if err = goleak.Find(); err == nil {
				break
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
		return code
	}())
}

func bucket(t *testing.T) string {
	t.Helper()
	name, err := server.Bucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func open(t *testing.T, url string, p s3.Policy) *s3.Store {
	t.Helper()
	s, err := s3.OpenWith(t.Context(), url, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t *testing.T, s store.Store, name string, data []byte) {
	t.Helper()
	if err := s.Put(t.Context(), name, data); err != nil {
		t.Fatal(err)
	}
}

func mustHold(t *testing.T, s store.Store, name, want string) {
	t.Helper()
	if got, err := store.ReadAll(t.Context(), s, name, 1<<30); err != nil || string(got) != want {
		t.Errorf("%s: %d bytes, %v; want the %d that were put", name, len(got), err, len(want))
	}
}

func names(t *testing.T, s store.Store, prefix string) string {
	t.Helper()
	var found []string
	if err := s.List(t.Context(), prefix, func(i store.Info) error { found = append(found, i.Name); return nil }); err != nil {
		t.Error(err)
	}
	return strings.Join(found, " ")
}

func mustSay(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error; want one that says %q", parts)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	for _, secret := range []string{server.AccessKey, server.SecretKey} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%q holds a key", err)
		}
	}
}

func TestConformsBelowAPrefix(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Opener {
		url := server.URL(bucket(t), "a.b/c-d")
		return func() (store.Store, error) { return s3.Open(t.Context(), url) }
	})
}

func TestConformsInHostStyle(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Opener {
		url := hostStyle(server.URL(bucket(t), ""))
		return func() (store.Store, error) { return s3.OpenWith(t.Context(), url, s3.Policy{Dial: dialLocal}) }
	})
}

// hostStyle is the URL of the same place with the bucket in the host's name.
func hostStyle(url string) string {
	return strings.Replace(url, "127.0.0.1", "localhost", 1) + "&style=host"
}

// dialLocal knows where *.localhost is, which not every resolver does.
func dialLocal(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host != "localhost" && !strings.HasSuffix(host, ".localhost") {
		return nil, fmt.Errorf("a connection to %s (%w)", address, err)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
}

func TestStylesAreTheSamePlace(t *testing.T) {
	b := bucket(t)
	path := open(t, server.URL(b, "x")+"&style=path", s3.Policy{})
	var asked sync.Map
	host := open(t, hostStyle(server.URL(b, "x")), s3.Policy{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		asked.Store(address[:strings.Index(address, ":")], true)
		return dialLocal(ctx, network, address)
	}})
	put(t, path, "a/b", []byte("1"))
	mustHold(t, host, "a/b", "1")
	if _, ok := asked.Load(b + ".localhost"); !ok {
		t.Error("the bucket was not in the host's name")
	}
	if err := host.Put(t.Context(), "a/b", nil); !errors.Is(err, store.ErrExists) {
		t.Error(err)
	}
}

// What stands in the bucket is what was put and nothing else: no probe, no unfinished upload, and other prefixes are
// left alone.
func TestWhatIsInTheBucket(t *testing.T) {
	b := bucket(t)
	s, other := open(t, server.URL(b, "x"), s3.Policy{}), open(t, server.URL(b, "xy"), s3.Policy{})
	put(t, s, "a/b", []byte("0123456789"))
	put(t, other, "c", []byte("1"))
	if got := names(t, s, ""); got != "a/b" {
		t.Errorf("the store lists %q", got)
	}
	if exclusive, err := s.ExclusiveCreate(t.Context()); !exclusive || err != nil {
		t.Errorf("%v, %v", exclusive, err)
	}
	got := map[string]string{}
	root := server.Folder(b)
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		got[strings.TrimPrefix(path, root+"/")] = string(data)
		return err
	})
	if want := map[string]string{"x/a/b": "0123456789", "xy/c": "1"}; err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the bucket holds %v (%v), want %v", got, err, want)
	}
}

// Names that somebody else put below the prefix, and that no store keeps, are not listed.
func TestForeignNames(t *testing.T) {
	b := bucket(t)
	s := open(t, server.URL(b, "x"), s3.Policy{})
	put(t, s, "a", nil)
	for _, name := range []string{"x/ä ö?", "x/.hidden", "x/b/"} {
		if err := server.PutRaw(t.Context(), b, name); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(t, s, ""); got != "a" {
		t.Errorf("listed: %q", got)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	b := bucket(t)
	_, err := s3.OpenWith(t.Context(), server.URL("no-such-bucket", "x"), s3.Policy{})
	mustSay(t, err, "s3://no-such-bucket/x", "there is no bucket no-such-bucket", "try:")
	if !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}

	t.Run("wrong secret", func(t *testing.T) {
		t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong"+server.SecretKey)
		_, err := s3.OpenWith(t.Context(), server.URL(b, ""), s3.Policy{})
		mustSay(t, err, "SignatureDoesNotMatch", "try: compare the secret key")
	})
	t.Run("wrong key", func(t *testing.T) {
		t.Setenv("AWS_ACCESS_KEY_ID", "nobody")
		_, err := s3.OpenWith(t.Context(), server.URL(b, ""), s3.Policy{})
		mustSay(t, err, "access key", "try: AWS_PROFILE")
	})
	t.Run("wrong region", func(t *testing.T) {
		_, err := s3.OpenWith(t.Context(), strings.Replace(server.URL(b, ""), s3test.Region, "us-west-2", 1), s3.Policy{})
		mustSay(t, err, "try: region=")
	})
	t.Run("nobody there", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		_, err = s3.OpenWith(t.Context(), "s3://bucket?endpoint=http://"+l.Addr().String(), s3.Policy{Attempts: 3})
		mustSay(t, err, "after 3 attempts", "connection refused")
	})
	t.Run("no TLS there", func(t *testing.T) {
		_, err := s3.OpenWith(t.Context(), strings.Replace(server.URL(b, ""), "http:", "https:", 1), s3.Policy{})
		mustSay(t, err, "speaks no TLS", "try:")
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s3.OpenWith(ctx, server.URL(b, ""), s3.Policy{}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// Over TLS nothing but the connection is different, and a certificate that nobody vouches for ends it at once.
func TestTLS(t *testing.T) {
	p := startProxyAs(t, func(h http.Handler) *httptest.Server {
		s := httptest.NewUnstartedServer(h)
		s.Config.ErrorLog = log.New(io.Discard, "", 0) // of the client that hangs up
		s.StartTLS()
		return s
	})
	url := server.URL(bucket(t), "x")
	roots := x509.NewCertPool()
	roots.AddCert(p.server.Certificate())
	s := open(t, p.url(url), s3.Policy{Roots: roots})
	put(t, s, "o/a", content(3<<20))
	if err := s.Put(t.Context(), "o/a", nil); !errors.Is(err, store.ErrExists) {
		t.Error(err)
	}
	mustHold(t, open(t, url, s3.Policy{}), "o/a", string(content(3<<20)))
	mustHold(t, s, "o/a", string(content(3<<20)))

	_, err := s3.OpenWith(t.Context(), p.url(url), s3.Policy{})
	mustSay(t, err, "certificate of", "try: SSL_CERT_FILE")
	if err != nil && strings.Contains(err.Error(), "attempts") {
		t.Errorf("tried again: %v", err)
	}
}

// In a bucket with versions a deleted file is gone for the store; but its content is still there, as
// docs/stores.md says.
func TestVersions(t *testing.T) {
	t.Setenv("VGW_VERSIONING_DIR", t.TempDir())
	versioned, err := s3test.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer versioned.Stop()
	for name, value := range versioned.Environment() {
		t.Setenv(name, value)
	}
	b, err := versioned.Bucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := versioned.KeepVersions(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	s := open(t, versioned.URL(b, "x"), s3.Policy{})
	if exclusive, err := s.ExclusiveCreate(t.Context()); err != nil || !exclusive {
		t.Errorf("%v, %v", exclusive, err)
	}
	put(t, s, "o/a", []byte("first"))
	for range 2 {
		if err := s.Delete(t.Context(), "o/a"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Stat(t.Context(), "o/a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("stat: %v", err)
	}
	if _, err := s.Get(t.Context(), "o/a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	if got := names(t, s, ""); got != "" {
		t.Errorf("listed: %q", got)
	}
	// Amazon gives the name again; this server refuses it while there is a version. A run that was killed between a
	// signature and its file has to put another one there.
	put(t, s, "o/a", []byte("second"))
	mustHold(t, s, "o/a", "second")
	if err := s.Put(t.Context(), "o/a", []byte("third")); !errors.Is(err, store.ErrExists) {
		t.Error(err)
	}
	mustHold(t, s, "o/a", "second")
	if n, err := versioned.Versions(t.Context(), b, "x/o/"); err != nil || n < 2 {
		t.Errorf("%d versions, %v; want the file and what hides it", n, err)
	}
}

func TestReadOnly(t *testing.T) {
	// The server's own word for it is AccessDenied, as with a policy that allows reading alone.
	readOnly, err := s3test.Start(t.Context(), "--readonly")
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Stop()
	for name, value := range readOnly.Environment() {
		t.Setenv(name, value)
	}
	if err := os.Mkdir(readOnly.Folder("bucket"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, readOnly.URL("bucket", ""), s3.Policy{})
	for what, err := range map[string]error{"put": s.Put(t.Context(), "a", nil), "delete": s.Delete(t.Context(), "a")} {
		if !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("%s: %v", what, err)
		}
		mustSay(t, err, "try: allow s3:PutObject")
	}
}
