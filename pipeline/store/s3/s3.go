// Package s3 is the store that is a bucket, or a prefix in one, of Amazon S3 or a service that speaks its protocol:
//
//	s3://bucket/prefix?endpoint=https://s3.example.com&region=eu-north-1
//
// docs/stores.md lists the parameters, the permissions that are needed, and what is known of services.
//
// A file is one object, sent in one request: the protocol shows it whole or not at all, answers when it is durable,
// and no unfinished uploads remain behind. Requests are repeated by one policy, with growing pauses, for some two
// minutes; a download that breaks off goes on where it was, on the very same object.
//
// That a file is never overwritten is the service's own word, by the header If-None-Match. The first Put of a store
// finds out whether the service honours it, with an empty object under locks/ that it takes away again. Where it does
// not, Put looks before and after: an object that is there is never replaced knowingly, but of two that race for a
// name in the same moment both may be told that they won, and the later one stays. ExclusiveCreate says which it is.
// Nothing else is asked of a service than what Amazon promises since 2020: that a file which was put is found at once.
//
// In a bucket with versions Delete hides a file, and its content stays until the version expires; see docs/stores.md.
package s3

import (
	"context"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"lethe/pipeline/store"
)

const (
	largest     = 5 << 30 // of one request, by the protocol
	tokenHeader = "X-Amz-Meta-Lethe-Put"
)

// Store is a bucket, or a prefix in it, as a store.
type Store struct {
	at        *location
	policy    policy
	transport *transport
	client    *minio.Core

	// exclusive holds what is known of the service's conditional create; whoever has taken it out may find out.
	exclusive chan support
}

type support int

const (
	unknown   support = iota
	honoured          // If-None-Match decides who wins
	bestGuess         // it is ignored or refused
)

var _ store.Store = (*Store)(nil)

// Open opens the store at a URL. It asks for the first name below the prefix, so that a missing bucket, wrong
// credentials or a wrong region are known at once; it writes nothing, and never makes a bucket. A prefix with nothing
// below it is an empty store.
//
// Credentials come from where the tools of AWS take them, never from the URL.
func Open(ctx context.Context, url string) (*Store, error) {
	return openWith(ctx, url, usual())
}

func openWith(ctx context.Context, url string, p policy) (*Store, error) {
	at, err := parse(url)
	if err != nil {
		return nil, err
	}
	s := &Store{at: at, policy: p, transport: newTransport(p), exclusive: make(chan support, 1)}
	s.exclusive <- unknown
	s.client, err = minio.NewCore(at.endpoint.Host, &minio.Options{
		Creds:        newCredentials(p),
		Secure:       at.endpoint.Scheme == "https",
		Transport:    s.transport,
		Region:       at.region, // set, so that nobody asks the bucket for it
		BucketLookup: at.lookup,
		MaxRetries:   1, // attempts: transport makes them
	})
	if err != nil {
		return nil, s.fail("open", "", err)
	}
	s.client.SetS3EnableDualstack(false) // the host is the one that the URL names
	if err := s.look(ctx); err != nil {
		return nil, errors.Join(s.fail("open", "", err), s.Close())
	}
	return s, nil
}

// look asks for the first name.
func (s *Store) look(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asking, e := withExchange(ctx, nil)
	for o := range s.client.ListObjectsIter(asking, s.at.bucket, s.listing("", "", 1)) {
		return s.cause(ctx, "open", e.attempts, o.Err)
	}
	return ctx.Err()
}

func (s *Store) String() string { return s.at.url }

// Close closes the connections.
func (s *Store) Close() error {
	s.transport.base.CloseIdleConnections()
	return nil
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	if err := store.CheckName(name); err != nil {
		return s.fail("put", name, err)
	}
	if int64(len(data)) > largest {
		return s.fail("put", name, fmt.Errorf("%w: %d bytes, and S3 takes at most %d in one request", store.ErrTooLarge, len(data), int64(largest)))
	}
	return s.fail("put", name, s.put(ctx, name, data))
}

func (s *Store) put(ctx context.Context, name string, data []byte) error {
	exclusive, err := s.exclusiveCreate(ctx)
	if err != nil {
		return err
	}
	if !exclusive {
		switch _, err := s.stat(ctx, name); {
		case err == nil:
			return store.ErrExists
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
	}
	for again := false; ; again = true {
		token := rand.Text()
		attempts, err := s.send(ctx, name, data, token, exclusive)
		switch status := statusOf(err); {
		case err == nil && exclusive:
			return nil
		case err == nil:
			return s.settle(ctx, name, token, errors.New("the file was taken away while it was being put"))
		case ctx.Err() == nil && status == http.StatusPreconditionFailed:
			// An attempt whose answer was lost may be the one that stands there.
			err := s.settle(ctx, name, token, errNothingThere)
			if !errors.Is(err, errNothingThere) || !exclusive {
				return err
			}
			// It was deleted just now; or in a bucket with versions some services, not Amazon, hold the name of what was
			// deleted to be taken. A run that was killed between a signature and its file has to put another one there.
			exclusive = !again
			continue
		case ctx.Err() == nil && status == http.StatusConflict:
			return s.settle(ctx, name, token, s.cause(ctx, "put", attempts, err))
		}
		return s.cause(ctx, "put", attempts, err)
	}
}

var errNothingThere = errors.New("the service refuses the name as taken, and says that nothing is there")

// settle says whether the file that is there is the one that was put with token, and otherwise if there is none.
func (s *Store) settle(ctx context.Context, name, token string, otherwise error) error {
	info, err := s.stat(ctx, name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return otherwise
	case err != nil:
		return err
	case info.Metadata.Get(tokenHeader) != token:
		return store.ErrExists
	}
	return nil
}

// send puts the object in one request, which covers its SHA-256 with the signature, and says how many attempts it
// took; with exclusive the service is asked to refuse a name that is taken. Its error is as minio-go gives it.
func (s *Store) send(ctx context.Context, name string, data []byte, token string, exclusive bool) (int, error) {
	o := minio.PutObjectOptions{
		ContentType:          "application/octet-stream",
		StorageClass:         s.at.class,
		ServerSideEncryption: s.at.sse,
		DisableMultipart:     true,
		DisableContentSha256: true, // of a streamed body: its digest is known beforehand
		UserMetadata:         map[string]string{tokenHeader: token},
	}
	if exclusive {
		o.SetMatchETagExcept("*")
	}
	digest, md5sum := sha256.Sum256(data), ""
	switch s.at.checksum {
	case checksumSHA256:
		o.UserMetadata["X-Amz-Checksum-Sha256"] = base64.StdEncoding.EncodeToString(digest[:])
	case checksumMD5:
		sum := md5.Sum(data)
		md5sum = base64.StdEncoding.EncodeToString(sum[:])
	}
	ctx, e := withExchange(ctx, data)
	defer e.release()
	body := io.LimitReader(nothing{}, int64(len(data))) // transport sends data
	_, err := s.client.PutObject(ctx, s.at.bucket, s.at.prefix+name, body, int64(len(data)), md5sum, hex.EncodeToString(digest[:]), o)
	return e.attempts, err
}

// nothing stands for a body that is known by other means.
type nothing struct{}

func (nothing) Read([]byte) (int, error) { return 0, errReleased }

// ExclusiveCreate reports whether the service itself sees to it that of many that race for a name one wins. Where it
// is not known yet, it finds out by writing and deleting an empty object.
func (s *Store) ExclusiveCreate(ctx context.Context) (bool, error) {
	ok, err := s.exclusiveCreate(ctx)
	return ok, s.fail("put", "", err)
}

func (s *Store) exclusiveCreate(ctx context.Context) (bool, error) {
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case known := <-s.exclusive:
		var err error
		if known == unknown {
			known, err = s.probe(ctx)
		}
		s.exclusive <- known
		return known == honoured, err
	}
}

// probe creates an object twice. The name begins with a dot, so that it is never taken for a file of the store's, and
// lies under locks/, where whoever writes may delete, too.
func (s *Store) probe(ctx context.Context) (found support, err error) {
	name := "locks/.probe-" + rand.Text()
	for range 2 {
		attempts, err := s.send(ctx, name, nil, "probe", true)
		switch status := statusOf(err); {
		case err == nil:
			found = bestGuess // unless the second is refused
		case ctx.Err() != nil:
			return unknown, ctx.Err()
		case status == http.StatusPreconditionFailed:
			found = honoured // also where it is a first attempt, of which only the answer was lost
		case status == http.StatusNotImplemented, status == http.StatusBadRequest && refusesHeader(err):
			return bestGuess, nil // nothing was created
		default:
			return unknown, s.cause(ctx, "put", attempts, err)
		}
		if found == honoured {
			break
		}
	}
	if err := s.remove(ctx, name); err != nil {
		return unknown, err
	}
	return found, nil
}

// refusesHeader reports that a 400 is about the condition.
func refusesHeader(err error) bool {
	var answer minio.ErrorResponse
	if !errors.As(err, &answer) {
		return false
	}
	return answer.Code == "NotImplemented" || strings.Contains(strings.ToLower(answer.Message), "if-none-match")
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := store.CheckName(name); err != nil {
		return nil, s.fail("get", name, err)
	}
	r := &reader{s: s, ctx: ctx, name: name, size: -1}
	if err := r.open(); err != nil {
		return nil, s.fail("get", name, err)
	}
	return r, nil
}

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, name string) (store.Info, error) {
	if err := store.CheckName(name); err != nil {
		return store.Info{}, s.fail("stat", name, err)
	}
	o, err := s.stat(ctx, name)
	if err != nil {
		return store.Info{}, s.fail("stat", name, err)
	}
	return store.Info{Name: name, Size: o.Size, Modified: modified(o.LastModified)}, nil
}

func (s *Store) stat(ctx context.Context, name string) (minio.ObjectInfo, error) {
	asking, e := withExchange(ctx, nil)
	o, err := s.client.StatObject(asking, s.at.bucket, s.at.prefix+name, minio.StatObjectOptions{})
	if err == nil && o.Size < 0 {
		err = errors.New("the service does not say how long the file is")
	}
	return o, s.cause(ctx, "stat", e.attempts, err)
}

// modified is a time in the seconds that every answer has; lists have milliseconds at some services.
func modified(t time.Time) time.Time { return t.Truncate(time.Second) }

// List implements store.Store. A list that breaks off goes on behind the last name that it gave.
func (s *Store) List(ctx context.Context, prefix string, fn func(store.Info) error) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return s.fail("list", prefix, err)
	}
	last := ""
	for n := 0; ; n++ {
		fnErr, err := s.list(ctx, prefix, &last, fn)
		switch {
		case fnErr != nil:
			return fnErr
		case err == nil:
			return nil
		case errors.Is(err, errCutOff) && n+1 < s.policy.attempts:
			if err := s.pause(ctx, n); err != nil {
				return s.fail("list", prefix, err)
			}
		default:
			return s.fail("list", prefix, err)
		}
	}
}

// errCutOff marks an answer that began well and did not arrive whole.
var errCutOff = errors.New("the answer broke off")

// list gives fn the files behind last, and moves last on. It returns fn's error and its own.
func (s *Store) list(ctx context.Context, prefix string, last *string, fn func(store.Info) error) (fnErr, err error) {
	listing, cancel := context.WithCancel(ctx)
	defer cancel()
	asking, e := withExchange(listing, nil)
	for o := range s.client.ListObjectsIter(asking, s.at.bucket, s.listing(prefix, *last, 0)) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if o.Err != nil {
			// Not the service's refusal, and not what transport gave up on: it is the body that did not arrive.
			if statusOf(o.Err) == 0 && e.answered {
				return nil, fmt.Errorf("%w: %v", errCutOff, s.unreachable(o.Err))
			}
			return nil, s.cause(ctx, "list", e.attempts, o.Err)
		}
		name, ours := strings.CutPrefix(o.Key, s.at.prefix)
		if !ours || !strings.HasPrefix(name, prefix) || o.Key <= *last {
			return nil, errors.New("the service does not list names below a prefix in their order, as S3 does\n  try: another service, or a bucket that is not a directory bucket")
		}
		*last = o.Key
		if store.CheckName(name) != nil {
			continue // a probe's, or somebody else's
		}
		if err := fn(store.Info{Name: name, Size: o.Size, Modified: modified(o.LastModified)}); err != nil {
			return err, nil
		}
	}
	return nil, ctx.Err()
}

func (s *Store) listing(prefix, after string, most int) minio.ListObjectsOptions {
	owner := false
	return minio.ListObjectsOptions{Prefix: s.at.prefix + prefix, StartAfter: after, MaxKeys: most, Recursive: true, FetchOwner: &owner}
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := store.CheckName(name); err != nil {
		return s.fail("delete", name, err)
	}
	return s.fail("delete", name, s.remove(ctx, name))
}

func (s *Store) remove(ctx context.Context, name string) error {
	asking, e := withExchange(ctx, nil)
	err := s.cause(ctx, "delete", e.attempts, s.client.RemoveObject(asking, s.at.bucket, s.at.prefix+name, minio.RemoveObjectOptions{}))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// pause waits before going on with something that broke off for the nth time, counted from 0.
func (s *Store) pause(ctx context.Context, n int) error {
	timer := time.NewTimer(s.policy.wait(n, nil))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
