package s3_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/minio/minio-go/v7/pkg/signer"

	"lethe/pipeline/store/s3/s3test"
)

// A fault answers a request instead of the server, or passes it on with next, or drops the connection. It returns
// false where the request is none of its business.
type fault func(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request)) bool

// proxy stands between a store and the server, counts requests and does harm.
type proxy struct {
	server  *httptest.Server
	forward http.Handler

	mu     sync.Mutex
	faults []fault
	counts map[string]int // by method and the key's last part
}

func startProxy(t *testing.T) *proxy { return startProxyAs(t, httptest.NewServer) }

func startProxyAs(t *testing.T, start func(http.Handler) *httptest.Server) *proxy {
	t.Helper()
	target, err := url.Parse(server.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{counts: map[string]int{}}
	transport := &http.Transport{DisableCompression: true}
	p.forward = &httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host }, // the signature covers the name
		Transport:    transport,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { panic(http.ErrAbortHandler) },
	}
	p.server = start(http.HandlerFunc(p.serve))
	t.Cleanup(func() { p.server.Close(); transport.CloseIdleConnections() })
	return p
}

// url is the store's URL through the proxy.
func (p *proxy) url(direct string) string {
	return strings.Replace(direct, server.Endpoint, p.server.URL, 1)
}

func (p *proxy) add(f fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, f)
}

func (p *proxy) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.counts[r.Method+" "+r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]]++
	faults := p.faults
	p.mu.Unlock()
	for _, f := range faults {
		if f(w, r, p.forward.ServeHTTP) {
			return
		}
	}
	p.forward.ServeHTTP(w, r)
}

// count is how many requests of that method there were for a name's last part.
func (p *proxy) count(method, last string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts[method+" "+last]
}

// times lets a fault happen to the first n requests of a method for a name's last part.
func times(n int, method, last string, f func(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request))) fault {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request)) bool {
		if r.Method != method || !strings.HasSuffix(r.URL.Path, "/"+last) {
			return false
		}
		mu.Lock()
		n--
		left := n
		mu.Unlock()
		if left < 0 {
			return false
		}
		f(w, r, next)
		return true
	}
}

type act = func(http.ResponseWriter, *http.Request, func(http.ResponseWriter, *http.Request))

// answer is an error of the service's, with headers as name: value.
func answer(status int, code, message string, headers ...string) act {
	return func(w http.ResponseWriter, r *http.Request, _ func(http.ResponseWriter, *http.Request)) {
		_, _ = io.Copy(io.Discard, r.Body)
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			w.Header().Set(name, value)
		}
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "<Error><Code>"+code+"</Code><Message>"+message+"</Message><RequestId>4711</RequestId></Error>")
	}
}

// early answers without reading the body.
func early(status int, code string) act {
	return func(w http.ResponseWriter, r *http.Request, _ func(http.ResponseWriter, *http.Request)) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "<Error><Code>"+code+"</Code></Error>")
	}
}

// resetAfter reads so many bytes of the request's body and resets the connection.
func resetAfter(n int64) act {
	return func(w http.ResponseWriter, r *http.Request, _ func(http.ResponseWriter, *http.Request)) {
		_, _ = io.CopyN(io.Discard, r.Body, n)
		reset(w)
	}
}

func reset(w http.ResponseWriter) {
	c, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

// loseAnswer lets the server do it, and then resets the connection.
func loseAnswer(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request)) {
	next(httptest.NewRecorder(), r)
	reset(w)
}

// cutAt gives so many bytes of the true answer's body, and closes the connection.
func cutAt(n int) act {
	return func(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request)) {
		rec := httptest.NewRecorder()
		next(rec, r)
		for name, values := range rec.Header() {
			w.Header()[name] = values
		}
		w.Header().Set("Content-Length", strconv.Itoa(rec.Body.Len()))
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes()[:min(n, rec.Body.Len())])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// stall answers nothing until the client goes away, and says when it was reached.
func stall(reached chan<- struct{}) act {
	return func(w http.ResponseWriter, r *http.Request, _ func(http.ResponseWriter, *http.Request)) {
		_, _ = io.Copy(io.Discard, r.Body)
		if reached != nil {
			reached <- struct{}{}
		}
		<-r.Context().Done()
	}
}

// refuseConditions is a service that does not know the header, and says so.
func refuseConditions(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request)) bool {
	if r.Header.Get("If-None-Match") == "" {
		return false
	}
	answer(http.StatusNotImplemented, "NotImplemented", "A header you provided implies functionality that is not implemented")(w, r, next)
	return true
}

// ignoreConditions is a service that does not know the header, and says nothing. Without it the request is another
// one, so it is signed again.
func ignoreConditions(w http.ResponseWriter, r *http.Request, next func(http.ResponseWriter, *http.Request)) bool {
	if r.Header.Get("If-None-Match") == "" {
		return false
	}
	r.Header.Del("If-None-Match")
	r.URL.Host = r.Host
	signed := signer.SignV4(*r, server.AccessKey, server.SecretKey, "", s3test.Region)
	next(w, signed)
	return true
}
