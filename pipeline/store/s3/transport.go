package s3

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// policy is how often and how long a request is tried. There is one for everything: minio-go's own retries are off.
type policy struct {
	attempts int            // of one request, and of one file that is read
	shortest time.Duration  // before the second attempt; twice as long before each further one
	longest  time.Duration  // between two attempts
	patience time.Duration  // the longest Retry-After that is waited for
	stall    time.Duration  // a connection on which no byte moves for so long is given up
	roots    *x509.CertPool // nil for the system's
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
}

// usual waits out some two minutes of a service that is down or busy.
func usual() policy {
	return policy{
		attempts: 10,
		shortest: 250 * time.Millisecond,
		longest:  30 * time.Second,
		patience: 2 * time.Minute,
		stall:    2 * time.Minute,
		dial:     (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
	}
}

// wait is the time before the attempt after the one counted n from 0: what the service asked for, or a random half of
// a span that doubles, so that many that were refused together don't come back together.
func (p policy) wait(n int, resp *http.Response) time.Duration {
	if d, ok := retryAfter(resp); ok {
		return d
	}
	span := p.longest
	if n < 30 {
		span = min(span, p.shortest<<n)
	}
	return span/2 + rand.N(span/2+1)
}

// retryAfter is what the service asked for, as seconds or as a time by the clock of its own Date.
func retryAfter(resp *http.Response) (time.Duration, bool) {
	if resp == nil {
		return 0, false
	}
	value := resp.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil && seconds >= 0 && seconds < 1e6 {
		return time.Duration(seconds) * time.Second, true
	}
	until, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	now, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return 0, false
	}
	return max(0, until.Sub(now)), true
}

// again decides whether a request that ended so is tried once more.
func (p policy) again(ctx context.Context, resp *http.Response, err error) (bool, error) {
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil:
		return !final(err), nil
	}
	if d, ok := retryAfter(resp); ok && d > p.patience {
		return false, nil
	}
	switch resp.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true, nil
	case http.StatusBadRequest:
		return timedOut(resp), nil
	case http.StatusConflict:
		// A conditional create met another one, or a delete, that was under way. Who won is known a moment later.
		return resp.Request != nil && resp.Request.Header.Get("If-None-Match") != "", nil
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusInsufficientStorage:
		return false, nil
	}
	return resp.StatusCode >= 500, nil
}

// timedOut reports that a 400 is S3's way to say 408: the body came too slowly. The answer can still be read after.
func timedOut(resp *http.Response) bool {
	head, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return true
	}
	resp.Body = &rejoined{Reader: io.MultiReader(bytes.NewReader(head), resp.Body), Closer: resp.Body}
	return bytes.Contains(head, []byte("<Code>RequestTimeout</Code>"))
}

type rejoined struct {
	io.Reader
	io.Closer
}

// final reports errors that another attempt would meet again.
func final(err error) bool {
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var name *net.DNSError
	return errors.As(err, &cert) || errors.As(err, &record) || errors.As(err, &name) && name.IsNotFound ||
		errors.Is(err, http.ErrSchemeMismatch)
}

// exchange travels in a request's context: what is sent, so that each attempt reads it from its beginning without a
// copy of the whole, and how many attempts it took.
type exchange struct {
	attempts int  // of the last request
	answered bool // the last request had an answer, whatever it said
	size     int

	mu   sync.Mutex
	body []byte // nil once the caller has it back
}

type exchangeKey struct{}

func withExchange(ctx context.Context, body []byte) (context.Context, *exchange) {
	e := &exchange{body: body, size: len(body)}
	return context.WithValue(ctx, exchangeKey{}, e), e
}

// release gives the body back to the caller. An attempt that was answered early or given up may still be sending from
// it, on a goroutine of net/http's own, and must not see what the caller makes of it next.
func (e *exchange) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.body = nil
}

// sending is one attempt's way through the body.
type sending struct {
	e  *exchange
	at int
}

var errReleased = errors.New("the request is over")

func (s *sending) Len() int { return s.e.size - s.at }

func (s *sending) Read(p []byte) (int, error) {
	if s.at == s.e.size {
		return 0, io.EOF
	}
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	if s.e.body == nil {
		return 0, errReleased
	}
	n := copy(p, s.e.body[s.at:])
	s.at += n
	return n, nil
}

// transport is the one place where requests are repeated.
type transport struct {
	base   *http.Transport
	client *retryablehttp.Client
}

func newTransport(p policy) *transport {
	base := &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := p.dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &watched{Conn: c, stall: p.stall}, nil
		},
		TLSHandshakeTimeout: 30 * time.Second,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: p.roots}, // with HTTP/1.1: a connection for each transfer
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     time.Minute,
		ReadBufferSize:      64 << 10,
		WriteBufferSize:     64 << 10,
		DisableCompression:  true, // what is stored is what is read
	}
	client := p.client(&http.Client{
		Transport:     base,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, p.again)
	client.RequestLogHook = func(_ retryablehttp.Logger, req *http.Request, _ int) {
		if e, ok := req.Context().Value(exchangeKey{}).(*exchange); ok {
			e.attempts++
		}
	}
	return &transport{base: base, client: client}
}

// client repeats requests as the policy says, where again says that it is worth it.
func (p policy) client(c *http.Client, again retryablehttp.CheckRetry) *retryablehttp.Client {
	return &retryablehttp.Client{
		HTTPClient: c,
		RetryMax:   p.attempts - 1,
		CheckRetry: again,
		Backoff:    func(_, _ time.Duration, n int, resp *http.Response) time.Duration { return p.wait(n, resp) },
		// The last answer is the caller's, who reads from it what went wrong.
		ErrorHandler: func(resp *http.Response, err error, _ int) (*http.Response, error) {
			if err != nil && resp != nil {
				_ = resp.Body.Close() // the error is what counts
				resp = nil
			}
			return resp, err
		},
	}
}

// RoundTrip implements http.RoundTripper. It is retryablehttp.RoundTripper's, but for the body, of which that one
// would make a copy.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	bare := *req
	e, _ := req.Context().Value(exchangeKey{}).(*exchange)
	if e != nil {
		bare.Body = nil
	}
	r, err := retryablehttp.FromRequest(&bare)
	if err != nil {
		return nil, err
	}
	if e != nil && e.size > 0 {
		if err := r.SetBody(func() (io.Reader, error) { return &sending{e: e}, nil }); err != nil {
			return nil, err
		}
	}
	if e != nil {
		e.attempts, e.answered = 0, false
	}
	resp, err := t.client.Do(r)
	if err == nil {
		if e != nil {
			e.answered = true
		}
		return resp, nil
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	// minio-go replaces any error that mentions EOF by a sentence without the cause.
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		err = errHungUp
	}
	return nil, err
}

var errHungUp = errors.New("the service closed the connection without an answer")

// watched is a connection that fails when no byte has moved on it, in either direction, for a while.
type watched struct {
	net.Conn
	stall time.Duration
}

var errStalled = errors.New("nothing has come or gone on the connection")

func (w *watched) Read(p []byte) (int, error) {
	_ = w.SetReadDeadline(time.Now().Add(w.stall)) // on a closed connection; Read says that better
	n, err := w.Conn.Read(p)
	return n, w.explain(err)
}

func (w *watched) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) || len(p) == 0 {
		// In portions, so that a slow line is not taken for a dead one; and whoever waits for the answer meanwhile waits on.
		_ = w.SetDeadline(time.Now().Add(w.stall))
		n, err := w.Conn.Write(p[written:min(len(p), written+64<<10)])
		written += n
		if err != nil || len(p) == 0 {
			return written, w.explain(err)
		}
	}
	return written, nil
}

func (w *watched) explain(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("%w for %v", errStalled, w.stall)
	}
	return err
}
