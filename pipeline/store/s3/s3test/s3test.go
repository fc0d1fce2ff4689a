// Package s3test runs a real S3 server for tests: versitygw on a port of the loopback interface, with a bucket, keys
// and a folder of its own.
//
// The server's binary is the one that LETHE_VERSITYGW names. Where that is not set it is built from the module
// cmd/internal/tools, which pins its version, and kept in the user's cache directory.
package s3test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	binaryVariable = "LETHE_VERSITYGW"
	command        = "github.com/versity/versitygw/cmd/versitygw"
	startLimit     = 60 * time.Second // of a loaded machine
	startAttempts  = 5                // at ports that others may take in between
)

// Region is the server's.
const Region = "eu-north-1"

// Server is a running S3 server.
type Server struct {
	Endpoint  string // http://127.0.0.1:port
	AccessKey string
	SecretKey string

	dir     string
	cmd     *exec.Cmd
	exited  chan struct{}
	log     *output
	extra   []string
	buckets *minio.Client
}

// Start starts a server; arguments are further global options of versitygw's. Stop ends it; it also ends when this
// process does, however that ends.
func Start(ctx context.Context, arguments ...string) (*Server, error) {
	binary, err := Binary(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "lethe-s3-")
	if err != nil {
		return nil, err
	}
	s := &Server{AccessKey: rand.Text(), SecretKey: rand.Text(), dir: dir, extra: arguments}
	for range startAttempts {
		if err = s.start(ctx, binary); err == nil {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, binary string) error {
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := port.Addr().String()
	if err := port.Close(); err != nil {
		return err
	}
	data, metadata := filepath.Join(s.dir, "data"), filepath.Join(s.dir, "metadata")
	if err := errors.Join(os.MkdirAll(data, 0o700), os.MkdirAll(metadata, 0o700)); err != nil {
		return err
	}
	arguments := append([]string{"--port", address, "--region", Region, "--health", "/healthz", "--quiet", "--keep-alive"}, s.extra...)
	arguments = append(arguments, "posix")
	if !attributes(data) {
		arguments = append(arguments, "--sidecar", metadata)
	}
	s.log, s.exited = &output{}, make(chan struct{})
	s.cmd = exec.Command(binary, append(arguments, data)...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY_ID="+s.AccessKey, "ROOT_SECRET_ACCESS_KEY="+s.SecretKey)
	s.cmd.SysProcAttr = boundToParent()
	if err := s.cmd.Start(); err != nil {
		return err
	}
	go func() {
		_ = s.cmd.Wait() // it is stopped by a signal
		close(s.exited)
	}()
	s.Endpoint = "http://" + address
	if err := s.wait(ctx); err != nil {
		return err
	}
	s.buckets, err = minio.New(address, &minio.Options{Transport: &http.Transport{DisableKeepAlives: true}, Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Region: Region, BucketLookup: minio.BucketLookupPath})
	if err != nil {
		return err
	}
	// Who answers may be another test's server, which was faster to take the port. It does not know our keys.
	if _, err := s.buckets.ListBuckets(ctx); err != nil {
		_ = s.cmd.Process.Kill() // it may have ended
		<-s.exited
		return fmt.Errorf("versitygw does not know its keys: %w: %s", err, s.log)
	}
	return nil
}

// wait asks until the server answers.
func (s *Server) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+"/healthz", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-s.exited:
			return fmt.Errorf("versitygw ended: %s", s.log)
		case <-ctx.Done():
			return fmt.Errorf("versitygw does not answer: %w: %s", ctx.Err(), s.log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop stops the server and removes its files.
func (s *Server) Stop() error {
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill() // it may have ended
		<-s.exited
	}
	return os.RemoveAll(s.dir)
}

// Bucket makes a new bucket and returns its name.
func (s *Server) Bucket(ctx context.Context) (string, error) {
	name := "b" + strings.ToLower(rand.Text())
	return name, s.buckets.MakeBucket(ctx, name, minio.MakeBucketOptions{Region: Region})
}

// KeepVersions has a bucket keep what is deleted and replaced. The server must have been started with
// VGW_VERSIONING_DIR set to an empty folder.
func (s *Server) KeepVersions(ctx context.Context, bucket string) error {
	return s.buckets.EnableVersioning(ctx, bucket)
}

// LockedBucket makes a new bucket that keeps versions and can lock them. The server must have been started as for
// KeepVersions.
func (s *Server) LockedBucket(ctx context.Context) (string, error) {
	name := "b" + strings.ToLower(rand.Text())
	return name, s.buckets.MakeBucket(ctx, name, minio.MakeBucketOptions{Region: Region, ObjectLocking: true})
}

// Lock has a bucket keep the current version of a key until a time, as Object Lock does.
func (s *Server) Lock(ctx context.Context, bucket, key string, until time.Time) error {
	mode := minio.Compliance
	return s.buckets.PutObjectRetention(ctx, bucket, key, minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until})
}

// Hold puts a legal hold on the current version of a key.
func (s *Server) Hold(ctx context.Context, bucket, key string) error {
	on := minio.LegalHoldEnabled
	return s.buckets.PutObjectLegalHold(ctx, bucket, key, minio.PutObjectLegalHoldOptions{Status: &on})
}

// Versions is how many versions of whatever name below prefix a bucket has, delete markers included.
func (s *Server) Versions(ctx context.Context, bucket, prefix string) (int, error) {
	n := 0
	for o := range s.buckets.ListObjectsIter(ctx, bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true, WithVersions: true}) {
		if o.Err != nil {
			return n, o.Err
		}
		n++
	}
	return n, ctx.Err()
}

// Unfinished is how many multipart uploads of names below prefix a bucket has that nobody has ended.
func (s *Server) Unfinished(ctx context.Context, bucket, prefix string) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n := 0
	for o := range s.buckets.ListIncompleteUploads(ctx, bucket, prefix, true) {
		if o.Err != nil {
			return n, o.Err
		}
		n++
	}
	return n, ctx.Err()
}

// PutRaw puts an empty object of any name into a bucket.
func (s *Server) PutRaw(ctx context.Context, bucket, key string) error {
	_, err := s.buckets.PutObject(ctx, bucket, key, bytes.NewReader(nil), 0, minio.PutObjectOptions{})
	return err
}

// URL is the store's URL of a bucket and a prefix, which may be "".
func (s *Server) URL(bucket, prefix string) string {
	path := bucket
	if prefix != "" {
		path += "/" + prefix
	}
	return "s3://" + path + "?endpoint=" + s.Endpoint + "&region=" + Region
}

// Environment is what a program needs to reach the server, and nothing that would lead it elsewhere.
func (s *Server) Environment() map[string]string {
	return map[string]string{
		"AWS_ACCESS_KEY_ID": s.AccessKey, "AWS_SECRET_ACCESS_KEY": s.SecretKey, "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
		"AWS_SHARED_CREDENTIALS_FILE": "", "AWS_CONFIG_FILE": "", "AWS_REGION": "", "AWS_DEFAULT_REGION": "",
		"AWS_WEB_IDENTITY_TOKEN_FILE": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "",
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "", "AWS_ENDPOINT_URL_STS": "",
	}
}

// Log is what the server has written.
func (s *Server) Log() string { return s.log.String() }

// Folder is where a bucket's objects lie as files.
func (s *Server) Folder(bucket string) string { return filepath.Join(s.dir, "data", bucket) }

// attributes reports whether files in dir can have extended attributes, in which the server keeps its metadata.
func attributes(dir string) bool {
	const name = "user.lethe"
	return setAttribute(dir, name) == nil
}

// Binary is the path of versitygw, built if need be.
func Binary(ctx context.Context) (string, error) {
	if path := os.Getenv(binaryVariable); path != "" {
		return path, nil
	}
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "lethe").Output()
	if err != nil {
		return "", fmt.Errorf("find the module's folder: %w", err)
	}
	tools := filepath.Join(strings.TrimSpace(string(out)), "cmd", "internal", "tools")
	pinned, err := os.ReadFile(filepath.Join(tools, "go.sum"))
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(pinned)
	dir := filepath.Join(cache, "lethe-test")
	path := filepath.Join(dir, "versitygw-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	temp := path + "." + rand.Text() // several packages' tests may be at it
	build := exec.CommandContext(ctx, "go", "build", "-C", tools, "-o", temp, command)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build versitygw: %w: %s", err, out)
	}
	return path, os.Rename(temp, path)
}

// output is the server's, written and read at the same time.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
