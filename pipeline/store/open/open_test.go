package open_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lethe/pipeline/store"
	"lethe/pipeline/store/open"
	"lethe/pipeline/store/s3/s3test"
)

func TestDirectories(t *testing.T) {
	place := filepath.Join(t.TempDir(), "a b%c", "deep")
	for _, location := range []string{place, "file://" + strings.ReplaceAll(strings.ReplaceAll(place, "%", "%25"), " ", "%20")} {
		if _, err := open.URL(t.Context(), location); !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "try:") {
			t.Errorf("open of a missing directory: %v", err)
		}
		if _, err := os.Stat(place); !os.IsNotExist(err) {
			t.Fatal("open made the directory")
		}
		s, err := open.Create(t.Context(), location)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Put(t.Context(), "lethe.json", []byte("x")); err != nil {
			t.Fatal(err)
		}
		again, err := open.URL(t.Context(), s.String()) // what is printed can be typed
		if err != nil {
			t.Fatal(err)
		}
		if data, err := store.ReadAll(t.Context(), again, "lethe.json", 10); err != nil || string(data) != "x" {
			t.Errorf("%q, %v", data, err)
		}
		third, err := open.Create(t.Context(), location)
		if err != nil {
			t.Fatalf("create of what is there: %v", err)
		}
		for _, s := range []store.Store{s, again, third} {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		if info, err := os.Stat(place); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the directory's mode is %v, %v", info.Mode(), err)
		}
		if err := os.RemoveAll(filepath.Dir(place)); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(t.TempDir())
	s, err := open.Create(t.Context(), "here")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := os.Stat("here"); err != nil {
		t.Error(err)
	}
}

func TestBuckets(t *testing.T) {
	server, err := s3test.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	for name, value := range server.Environment() {
		t.Setenv(name, value)
	}
	bucket, err := server.Bucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []func(context.Context, string) (store.Store, error){open.Create, open.URL} {
		s, err := f(t.Context(), server.URL(bucket, "a/b"))
		if err != nil {
			t.Fatal(err)
		}
		if err := store.PutSame(t.Context(), s, "lethe.json", []byte("x")); err != nil {
			t.Error(err)
		}
		if s.String() != server.URL(bucket, "a/b") {
			t.Error(s)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		s, err = f(t.Context(), server.URL("no-such-bucket", "a"))
		if !errors.Is(err, store.ErrNotFound) || s != nil || !strings.Contains(err.Error(), "lethe makes none") {
			t.Errorf("a bucket that is not there: %v, %v", s, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, location := range []string{"s3://key:S3CRET@bucket/x?secret=S3CRET", "s3://bucket/x?secret=S3CRET", "s3://bucket?S3CRET",
		"S3://S3CRET", "s3://bucket/x?endpoint=https://u:S3CRET@host", "s3://bucket/x?region=S3CRET%00", "s3://bucket/%zzS3CRET", "sftp://u:S3CRET@host/p", "webdavs://u:S3CRET@host/p",
		"file://u:S3CRET@host/p", "file://host/S3CRET", "file:///p?S3CRET=1", "file:///p#S3CRET", "file://", "file:/S3CRET", "file:S3CRET",
		"file:///%zzS3CRET", "", "://S3CRET"} {
		for _, f := range []func() (store.Store, error){
			func() (store.Store, error) { return open.URL(t.Context(), location) },
			func() (store.Store, error) { return open.Create(t.Context(), location) },
		} {
			s, err := f()
			if err == nil || s != nil {
				t.Fatalf("%q: opened", location)
			}
			if !strings.Contains(err.Error(), "try:") || strings.Contains(err.Error(), "S3CRET") {
				t.Errorf("%q: %v; want what to try, and no secret", location, err)
			}
			scheme, _, _ := strings.Cut(location, "://")
			switch scheme {
			case "s3", "S3", "file":
				if !errors.Is(err, store.ErrURL) {
					t.Errorf("%q: %v; want a wrong URL", location, err)
				}
			case "sftp", "webdavs":
				if !errors.Is(err, open.ErrUnsupported) || !strings.Contains(err.Error(), scheme) {
					t.Errorf("%q: %v; want the kind named as unsupported", location, err)
				}
			}
		}
	}
}
