package s3

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/minio/minio-go/v7"
)

// reader reads an object. When the answer breaks off it asks for the rest of the very same object, as often as the
// policy tries anything.
type reader struct {
	s    *Store
	ctx  context.Context
	name string

	body   io.ReadCloser
	etag   string
	size   int64 // -1 before the first answer
	at     int64
	breaks int
	err    error // for good
}

// open asks for what is still to be read.
func (r *reader) open() error {
	o := minio.GetObjectOptions{}
	if r.size >= 0 {
		if err := o.SetRange(r.at, r.size-1); err != nil {
			return err
		}
		if err := o.SetMatchETag(r.etag); err != nil {
			return err
		}
	}
	asking, e := withExchange(r.ctx, nil)
	body, info, _, err := r.s.client.GetObject(asking, r.s.at.bucket, r.s.at.prefix+r.name, o)
	if err != nil {
		return r.s.cause(r.ctx, "get", e.attempts, err)
	}
	switch rest := info.Size; {
	case r.size >= 0 && (rest != r.size-r.at || info.ETag != r.etag):
		err = errors.New("the service gave something else than the rest of the file")
	case rest < 0:
		err = errors.New("the service does not say how long the file is")
	}
	if err != nil {
		return errors.Join(err, body.Close())
	}
	if r.size < 0 {
		r.size, r.etag = info.Size, info.ETag
	}
	r.body = body
	return nil
}

func (r *reader) Read(p []byte) (int, error) {
	for {
		if r.err != nil {
			return 0, r.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		n, err := r.body.Read(p)
		r.at += int64(n)
		switch {
		case r.at > r.size:
			r.err = r.fail(errors.New("the service gave more bytes than the file has"))
		case r.ctx.Err() != nil:
			r.err = r.fail(r.ctx.Err())
		case r.at == r.size && err != nil:
			r.err = io.EOF
		case err != nil:
			r.err = r.resume(err)
		}
		if n > 0 {
			return n, nil
		}
		// Nothing was read: the loop says why, or tries the new answer.
	}
}

// resume goes on behind what was read, or says why it can't.
func (r *reader) resume(why error) error {
	if errors.Is(why, io.EOF) || errors.Is(why, io.ErrUnexpectedEOF) {
		why = errors.New("the connection was closed")
	}
	broken := fmt.Errorf("the answer broke off at byte %d of %d: %w", r.at, r.size, r.s.unreachable(why))
	if err := r.body.Close(); err != nil && r.ctx.Err() == nil {
		broken = errors.Join(broken, err)
	}
	if r.breaks++; r.breaks >= r.s.policy.attempts || r.etag == "" {
		return r.fail(fmt.Errorf("after %d attempts: %w", r.breaks, broken))
	}
	if err := r.s.pause(r.ctx, r.breaks-1); err != nil {
		return r.fail(err)
	}
	if err := r.open(); err != nil {
		return r.fail(fmt.Errorf("%w; going on from there: %w", broken, err))
	}
	return nil
}

func (r *reader) fail(err error) error { return r.s.fail("get", r.name, err) }

func (r *reader) Close() error { return r.body.Close() }
