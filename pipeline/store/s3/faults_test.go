package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"lethe/pipeline/store"
	"lethe/pipeline/store/s3"
)

func content(n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(data)
	return data
}

// through opens a store behind a new proxy, and one that sees the same place directly.
func through(t *testing.T, p s3.Policy) (*s3.Store, *proxy, *s3.Store) {
	t.Helper()
	px := startProxy(t)
	url := server.URL(bucket(t), "x")
	return open(t, px.url(url), p), px, open(t, url, s3.Policy{})
}

// What passes by itself is tried again, and no more often than it takes.
func TestPutTriesAgain(t *testing.T) {
	data := content(3 << 20)
	for what, c := range map[string]struct {
		happens act
		n       int
	}{
		"500":                          {answer(500, "InternalError", "We encountered an internal error"), 3},
		"503":                          {answer(503, "SlowDown", "Please reduce your request rate"), 2},
		"503 and when to come back":    {answer(503, "SlowDown", "", "Retry-After: 0"), 2},
		"503 before the body was sent": {early(503, "SlowDown"), 2},
		"429":                          {answer(429, "TooManyRequests", ""), 1},
		"408":                          {answer(408, "RequestTimeout", ""), 1},
		"400 for 408":                  {answer(400, "RequestTimeout", "Your socket connection to the server was not read from"), 2},
		"reset before the body":        {resetAfter(0), 2},
		"reset in the body":            {resetAfter(1 << 20), 2},
		"a conflict under way":         {answer(409, "ConditionalRequestConflict", ""), 2},
		"the answer is lost":           {loseAnswer, 1},
	} {
		t.Run(what, func(t *testing.T) {
			s, p, direct := through(t, s3.Policy{})
			put(t, s, "first", nil) // the probe is over
			p.add(times(c.n, http.MethodPut, "a", c.happens))
			put(t, s, "o/a", data)
			mustHold(t, direct, "o/a", string(data))
			// The refusal of the second attempt may come before its body was sent, and be lost with the connection.
			if got := p.count(http.MethodPut, "a"); got != c.n+1 && (what != "the answer is lost" || got < 2) {
				t.Errorf("%d requests, want %d", got, c.n+1)
			}
		})
	}
}

// A lost answer does not make the winner a loser, nor somebody else's file ours.
func TestLostAnswers(t *testing.T) {
	s, p, direct := through(t, s3.Policy{})
	put(t, direct, "o/taken", []byte("theirs"))
	p.add(times(1, http.MethodPut, "taken", loseAnswer))
	for _, data := range []string{"theirs", "ours"} { // also where the bytes are the same
		if err := s.Put(t.Context(), "o/taken", []byte(data)); !errors.Is(err, store.ErrExists) {
			t.Error(err)
		}
	}
	mustHold(t, direct, "o/taken", "theirs")
}

// What does not pass is said at once, or after all attempts.
func TestPutGivesUp(t *testing.T) {
	for what, c := range map[string]struct {
		happens  act
		requests int
		says     []string
		is       error
	}{
		"500 for ever":    {answer(500, "InternalError", "We encountered an internal error"), 4, []string{"after 4 attempts", "InternalError", "request 4711"}, nil},
		"503 for ever":    {answer(503, "SlowDown", "Please reduce your request rate"), 4, []string{"SlowDown", "the service is busy", "try:"}, nil},
		"503 for an hour": {answer(503, "SlowDown", "Please reduce your request rate", "Retry-After: 3600"), 1, []string{"SlowDown"}, nil},
		"reset for ever":  {resetAfter(100), 4, []string{"after 4 attempts"}, nil},
		"closed for ever": {func(http.ResponseWriter, *http.Request, func(http.ResponseWriter, *http.Request)) {
			panic(http.ErrAbortHandler)
		}, 4, []string{"after 4 attempts"}, nil},
		"403":       {answer(403, "AccessDenied", "Access Denied"), 1, []string{"AccessDenied", "try: allow s3:PutObject"}, store.ErrReadOnly},
		"clock":     {answer(403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."), 1, []string{"clock", "try: timedatectl"}, nil},
		"region":    {answer(400, "AuthorizationHeaderMalformed", "the region is wrong; expecting 'eu-west-3'", "x-amz-bucket-region: eu-west-3"), 1, []string{"another region", "try: region=eu-west-3"}, nil},
		"moved":     {answer(301, "PermanentRedirect", "The bucket you are attempting to access must be addressed using the specified endpoint"), 1, []string{"try: region="}, nil},
		"quota":     {answer(403, "QuotaExceeded", "Quota exceeded"), 1, []string{"try: raise the quota"}, store.ErrNoSpace},
		"full":      {answer(507, "XMinioStorageFull", "Storage backend has reached its minimum free drive threshold"), 1, nil, store.ErrNoSpace},
		"full, 507": {answer(507, "Whatever", ""), 1, nil, store.ErrNoSpace},
		"token":     {answer(400, "ExpiredToken", "The provided token has expired."), 1, []string{"try: log in again"}, nil},
		"bucket":    {answer(404, "NoSuchBucket", "The specified bucket does not exist"), 1, []string{"there is no bucket", "lethe makes none"}, nil},
		"class":     {answer(400, "InvalidStorageClass", "The storage class you specified is not valid"), 1, []string{"storage_class="}, nil},
		"no XML": {func(w http.ResponseWriter, _ *http.Request, _ func(http.ResponseWriter, *http.Request)) {
			w.WriteHeader(418)
		}, 1, []string{"418"}, nil},
		"log forging": {answer(400, "Odd", "a&#10;lethe: all is well&#13;"+strings.Repeat("x", 5000)), 1, []string{"a lethe: all is well"}, nil},
	} {
		t.Run(what, func(t *testing.T) {
			s, p, direct := through(t, s3.Policy{Attempts: 4})
			put(t, s, "first", nil)
			p.add(times(100, http.MethodPut, "a", c.happens))
			err := s.Put(t.Context(), "o/a", content(1<<20))
			mustSay(t, err, append(c.says, "put o/a in s3://")...)
			if got := p.count(http.MethodPut, "a"); got != c.requests {
				t.Errorf("%d requests, want %d", got, c.requests)
			}
			for _, sentinel := range []error{store.ErrExists, store.ErrNotFound, store.ErrReadOnly, store.ErrNoSpace} {
				if errors.Is(err, sentinel) != (sentinel == c.is) {
					t.Errorf("%v: is it %q?", err, sentinel)
				}
			}
			if first, _, _ := strings.Cut(err.Error(), "\n  try:"); strings.ContainsAny(first, "\n\r") || len(err.Error()) > 1500 {
				t.Errorf("%q", err)
			}
			if got := names(t, direct, ""); got != "first" {
				t.Errorf("there is %q", got)
			}
		})
	}
}

// The service checks what arrives, by each kind of checksum: also none, since the signature covers the content.
func TestDamagedOnTheWay(t *testing.T) {
	for _, checksum := range []string{"sha256", "md5", "none"} {
		t.Run(checksum, func(t *testing.T) {
			p := startProxy(t)
			url := server.URL(bucket(t), "")
			s, direct := open(t, p.url(url)+"&checksum="+checksum, s3.Policy{}), open(t, url, s3.Policy{})
			put(t, s, "whole", content(1000))
			mustHold(t, direct, "whole", string(content(1000)))
			var sent http.Header
			p.add(times(1, http.MethodPut, "a", func(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request)) {
				data, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				data[len(data)/2] ^= 1
				r.Body = io.NopCloser(bytes.NewReader(data))
				sent = r.Header.Clone()
				next(w, r)
			}))
			err := s.Put(t.Context(), "a", content(100_000))
			mustSay(t, err, "what arrived is not what was sent", "try: the run again")
			if got := names(t, direct, ""); got != "whole" {
				t.Errorf("there is %q", got)
			}
			if (sent.Get("X-Amz-Checksum-Sha256") != "") != (checksum == "sha256") || (sent.Get("Content-Md5") != "") != (checksum == "md5") ||
				len(sent.Get("X-Amz-Content-Sha256")) != 64 {
				t.Errorf("headers %v", sent)
			}
		})
	}
}

// Options of the URL reach the service.
func TestHeaders(t *testing.T) {
	p := startProxy(t)
	headers := make(chan http.Header, 1)
	p.add(times(1, http.MethodPut, "a", func(w http.ResponseWriter, r *http.Request, _ func(http.ResponseWriter, *http.Request)) {
		headers <- r.Header.Clone()
		w.WriteHeader(http.StatusOK)
	}))
	s := open(t, p.url(server.URL(bucket(t), ""))+"&sse=aws:kms&kms_key=arn:aws:kms:eu-north-1:1:key/2&storage_class=STANDARD_IA", s3.Policy{})
	if err := s.Put(t.Context(), "a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	h := <-headers
	for name, want := range map[string]string{"X-Amz-Server-Side-Encryption": "aws:kms", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id": "arn:aws:kms:eu-north-1:1:key/2",
		"X-Amz-Storage-Class": "STANDARD_IA", "If-None-Match": "*"} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// A download that breaks off goes on; what arrives is the file.
func TestGetGoesOn(t *testing.T) {
	data := content(5 << 20)
	s, p, direct := through(t, s3.Policy{})
	put(t, direct, "o/a", data)
	p.add(times(3, http.MethodGet, "a", cutAt(1<<20)))
	mustHold(t, s, "o/a", string(data))
	if got := p.count(http.MethodGet, "a"); got != 4 {
		t.Errorf("%d requests, want 4", got)
	}
}

// A truncated download is an error, never the end.
func TestGetTruncated(t *testing.T) {
	data := content(1 << 20)
	for _, n := range []int{0, 1, 1<<19 + 1} {
		s, p, direct := through(t, s3.Policy{Attempts: 3})
		put(t, direct, "o/a", data)
		p.add(times(100, http.MethodGet, "a", func(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request)) {
			if r.Header.Get("Range") == "" {
				cutAt(n)(w, r, next)
			}
			cutAt(0)(w, r, next)
		}))
		r, err := s.Get(t.Context(), "o/a")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		mustSay(t, err, "get o/a", fmt.Sprintf("broke off at byte %d of %d", n, len(data)), "after 3 attempts")
		if !bytes.Equal(got, data[:n]) {
			t.Errorf("%d bytes came, want the first %d", len(got), n)
		}
		if again, err := r.Read(make([]byte, 1)); again != 0 || err == nil || err == io.EOF {
			t.Errorf("after the error: %d, %v", again, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if got := p.count(http.MethodGet, "a"); got != 3 {
			t.Errorf("%d requests, want 3", got)
		}
	}
}

// The rest of another file is not the rest of this one.
func TestGetOfAReplacedFile(t *testing.T) {
	s, p, direct := through(t, s3.Policy{})
	put(t, direct, "o/a", content(1<<20))
	p.add(times(1, http.MethodGet, "a", func(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request)) {
		defer func() { // after the first part was sent
			if err := direct.Delete(context.Background(), "o/a"); err != nil {
				t.Error(err)
			}
			if err := direct.Put(context.Background(), "o/a", bytes.Repeat([]byte("x"), 1<<20)); err != nil {
				t.Error(err)
			}
			panic(http.ErrAbortHandler)
		}()
		cutAt(1000)(w, r, next)
	}))
	got, err := store.ReadAll(t.Context(), s, "o/a", 1<<30)
	if err == nil {
		t.Errorf("two files were joined to one of %d bytes", len(got))
	}
}

// A service that knows no ranges sends the whole file again, which is not the rest.
func TestGetWithoutRanges(t *testing.T) {
	s, p, direct := through(t, s3.Policy{})
	put(t, direct, "o/a", content(1<<20))
	p.add(times(1, http.MethodGet, "a", cutAt(1000)))
	p.add(times(1, http.MethodGet, "a", func(w http.ResponseWriter, r *http.Request, _ func(http.ResponseWriter, *http.Request)) {
		w.Header().Set("Last-Modified", time.Unix(1, 0).UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Length", strconv.Itoa(1<<20))
		_, _ = w.Write(content(1 << 20))
	}))
	_, err := store.ReadAll(t.Context(), s, "o/a", 1<<30)
	mustSay(t, err, "something else than the rest")
}

// A list that breaks off, in its first page or a later one, goes on behind the last name; no name comes twice.
func TestListGoesOn(t *testing.T) {
	p := startProxy(t)
	b := bucket(t)
	folder := filepath.Join(server.Folder(b), "x", "a")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range 2100 {
		want = append(want, fmt.Sprintf("a/%04d", i))
		if err := os.WriteFile(filepath.Join(folder, want[i][2:]), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, p.url(server.URL(b, "x")), s3.Policy{})
	page := 0
	p.add(func(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request)) bool {
		if r.Method != http.MethodGet || !r.URL.Query().Has("list-type") {
			return false
		}
		if page++; page != 1 && page != 3 && page != 5 {
			return false
		}
		cutAt(2500)(w, r, next)
		return true
	})
	if got := names(t, s, "a/"); got != strings.Join(want, " ") {
		t.Errorf("listed %d names, from %.30s", strings.Count(got, " ")+1, got)
	}
	if page != 6 {
		t.Errorf("%d pages were asked for, want three and three that broke off", page)
	}
}

// patient dials connections whose deadlines are a quarter of an hour later than they are set, until the test says otherwise.
func patient(not *atomic.Bool) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &patientConn{c, not}, nil
	}
}

type patientConn struct {
	net.Conn
	not *atomic.Bool
}

func (c *patientConn) later(t time.Time) time.Time {
	if t.IsZero() || c.not.Load() {
		return t
	}
	return t.Add(15 * time.Minute)
}

func (c *patientConn) SetDeadline(t time.Time) error     { return c.Conn.SetDeadline(c.later(t)) }
func (c *patientConn) SetReadDeadline(t time.Time) error { return c.Conn.SetReadDeadline(c.later(t)) }

// A service that does not answer is given up: when the caller says so, and by itself.
func TestStalled(t *testing.T) {
	calls := map[string]func(context.Context, *s3.Store) error{
		"PUT": func(ctx context.Context, s *s3.Store) error { return s.Put(ctx, "o/a", content(1<<20)) },
		"GET": func(ctx context.Context, s *s3.Store) error {
			_, err := store.ReadAll(ctx, s, "o/a", 1<<30)
			return err
		},
		"HEAD":   func(ctx context.Context, s *s3.Store) error { _, err := s.Stat(ctx, "o/a"); return err },
		"DELETE": func(ctx context.Context, s *s3.Store) error { return s.Delete(ctx, "o/a") },
	}
	for method, call := range calls {
		t.Run(method+" cancelled", func(t *testing.T) {
			s, p, _ := through(t, s3.Policy{})
			put(t, s, "first", nil)
			reached := make(chan struct{})
			p.add(times(100, method, "a", stall(reached)))
			ctx, cancel := context.WithCancel(t.Context())
			finished := make(chan error)
			go func() { finished <- call(ctx, s) }()
			<-reached
			cancel()
			if err := <-finished; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		t.Run(method+" given up", func(t *testing.T) {
			var impatient atomic.Bool
			s, p, _ := through(t, s3.Policy{Attempts: 2, Stall: 300 * time.Millisecond, Dial: patient(&impatient)})
			put(t, s, "first", nil)
			p.add(times(100, method, "a", stall(nil)))
			impatient.Store(true)
			mustSay(t, call(t.Context(), s), "nothing has come or gone on the connection", "after 2 attempts")
			// net/http itself repeats a GET or HEAD once whose kept connection turns out to be dead; and one that was given up
			// at once, on a busy machine, may not have arrived yet.
			if got := p.count(method, "a"); got > 3 || got == 3 && method != "GET" && method != "HEAD" {
				t.Errorf("%d requests, want 2", got)
			}
		})
	}
	t.Run("in the middle of a file", func(t *testing.T) {
		s, p, direct := through(t, s3.Policy{Stall: 300 * time.Millisecond})
		data := content(1 << 20)
		put(t, direct, "o/a", data)
		p.add(times(1, http.MethodGet, "a", func(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request)) {
			defer func() {
				_ = recover()
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
				panic(http.ErrAbortHandler)
			}()
			cutAt(1000)(w, r, next)
		}))
		mustHold(t, s, "o/a", string(data))
	})
}

// While it waits for the next attempt, a call ends when its context does.
// TestBrokenOffPutLeavesNothing: a put is one request however large the file is, so that one which is broken off leaves no
// parts, which no list shows and which would have to be taken away: that is why this store is no store.Unfinished.
func TestBrokenOffPutLeavesNothing(t *testing.T) {
	at := bucket(t)
	p := startProxy(t)
	s := open(t, p.url(server.URL(at, "x")), s3.Policy{})
	put(t, s, "first", nil)
	ctx, cancel := context.WithCancel(t.Context())
	p.add(times(1, http.MethodPut, "large", func(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request)) {
		// The server gets less than a part could have.
		r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, 10<<20), iotest.ErrReader(errors.New("broken off"))))
		defer cancel()
		next(httptest.NewRecorder(), r)
	}))
	if err := s.Put(ctx, "large", content(80<<20)); !errors.Is(err, context.Canceled) {
		t.Errorf("put says %v", err)
	}
	if n, err := server.Unfinished(t.Context(), at, ""); err != nil || n > 0 {
		t.Errorf("%d unfinished uploads, %v", n, err)
	}
	if got := names(t, s, ""); got != "first" {
		t.Errorf("list shows %s", got)
	}
}

func TestCancelledBetweenAttempts(t *testing.T) {
	px := startProxy(t)
	url := px.url(server.URL(bucket(t), ""))
	s, err := s3.Open(t.Context(), url) // with its real pauses
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	px.add(times(100, http.MethodHead, "a", func(w http.ResponseWriter, _ *http.Request, _ func(http.ResponseWriter, *http.Request)) {
		w.Header().Set("Retry-After", "100")
		w.WriteHeader(503)
		cancel()
	}))
	if _, err := s.Stat(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Put gives the bytes back when it returns, however it ends: what is still on its way does not look at them again. The
// race detector sees it if it does.
func TestPutKeepsNothing(t *testing.T) {
	s, p, _ := through(t, s3.Policy{Attempts: 1})
	put(t, s, "first", nil)
	for i := range 10 {
		name := fmt.Sprintf("o/%d", i)
		data := content(16 << 20) // more than the sockets hold
		ctx, cancel := context.WithCancel(t.Context())
		over, readOn := make(chan struct{}), make(chan struct{})
		p.add(times(1, http.MethodPut, name[2:], func(w http.ResponseWriter, r *http.Request, _ func(http.ResponseWriter, *http.Request)) {
			defer close(readOn)
			if i%2 == 0 { // it is refused before it was sent, and read on after
				const refused = "<Error><Code>AccessDenied</Code></Error>"
				c := http.NewResponseController(w)
				if err := c.EnableFullDuplex(); err != nil {
					t.Error(err)
				}
				w.Header().Set("Content-Length", strconv.Itoa(len(refused)))
				w.WriteHeader(http.StatusForbidden)
				_, _ = io.WriteString(w, refused)
				_ = c.Flush()
			} else {
				_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
				cancel()
			}
			<-over
			_, _ = io.Copy(io.Discard, r.Body)
		}))
		if err := s.Put(ctx, name, data); err == nil {
			t.Error("it was put")
		}
		close(over)
		clear(data)
		<-readOn
		cancel()
	}
}

// A service without conditional create, whether it says so or not, is used as well as can be, and is known for it.
func TestWithoutConditionalCreate(t *testing.T) {
	for what, f := range map[string]fault{"refused": refuseConditions, "ignored": ignoreConditions} {
		t.Run(what, func(t *testing.T) {
			s, p, direct := through(t, s3.Policy{})
			p.add(f)
			if exclusive, err := s.ExclusiveCreate(t.Context()); exclusive || err != nil {
				t.Fatalf("exclusive: %v, %v", exclusive, err)
			}
			put(t, s, "o/a", []byte("first"))
			for _, data := range []string{"first", "second", ""} {
				if err := s.Put(t.Context(), "o/a", []byte(data)); !errors.Is(err, store.ErrExists) {
					t.Errorf("put again: %v", err)
				}
			}
			mustHold(t, direct, "o/a", "first")
			if err := store.PutSame(t.Context(), s, "o/a", []byte("first")); err != nil {
				t.Error(err)
			}
			if got := names(t, direct, ""); got != "o/a" {
				t.Errorf("there is %q", got)
			}
			// Whoever was overtaken between its look and its write, and after it, is told so.
			p.add(times(1, http.MethodPut, "b", func(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request)) {
				next(w, r)
				if err := direct.Delete(context.Background(), "o/b"); err != nil {
					t.Error(err)
				}
				if err := direct.Put(context.Background(), "o/b", []byte("theirs")); err != nil {
					t.Error(err)
				}
			}))
			if err := s.Put(t.Context(), "o/b", []byte("ours")); !errors.Is(err, store.ErrExists) {
				t.Errorf("overtaken: %v", err)
			}
		})
	}
}

// The service is asked once, however many begin at the same time.
func TestProbesOnce(t *testing.T) {
	s, p, _ := through(t, s3.Policy{})
	var probes sync.Map
	p.add(func(_ http.ResponseWriter, r *http.Request, _ func(http.ResponseWriter, *http.Request)) bool {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/locks/.probe-") {
			probes.Store(r.URL.Path, true)
		}
		return false
	})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if err := s.Put(t.Context(), fmt.Sprintf("o/%d", i), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	probes.Range(func(any, any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d probes", n)
	}
}

func TestPauses(t *testing.T) {
	after := func(status int, headers ...string) *http.Response {
		h := http.Header{}
		for i := 0; i < len(headers); i += 2 {
			h.Set(headers[i], headers[i+1])
		}
		return &http.Response{StatusCode: status, Header: h, Body: http.NoBody}
	}
	for n := range 12 {
		d, again := s3.Wait(n, after(500))
		if longest := min(30*time.Second, 250*time.Millisecond<<n); !again || d < longest/2 || d > longest {
			t.Errorf("before attempt %d: %v, %v; want it between %v and %v", n+2, d, again, longest/2, longest)
		}
	}
	for what, c := range map[string]struct {
		resp  *http.Response
		d     time.Duration
		again bool
	}{
		"seconds":   {after(503, "Retry-After", "7"), 7 * time.Second, true},
		"zero":      {after(429, "Retry-After", "0"), 0, true},
		"a time":    {after(503, "Retry-After", "Mon, 23 Nov 2026 06:00:30 GMT", "Date", "Mon, 23 Nov 2026 06:00:00 GMT"), 30 * time.Second, true},
		"past":      {after(503, "Retry-After", "Mon, 23 Nov 2026 05:00:30 GMT", "Date", "Mon, 23 Nov 2026 06:00:00 GMT"), 0, true},
		"too long":  {after(503, "Retry-After", "121"), 121 * time.Second, false},
		"not found": {after(404, "Retry-After", "1"), time.Second, false},
	} {
		if d, again := s3.Wait(3, c.resp); d != c.d || again != c.again {
			t.Errorf("%s: %v, %v; want %v, %v", what, d, again, c.d, c.again)
		}
	}
}
