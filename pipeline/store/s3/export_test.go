package s3

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Policy is policy for tests.
type Policy struct {
	Attempts int
	Stall    time.Duration
	Roots    *x509.CertPool
	Dial     func(ctx context.Context, network, address string) (net.Conn, error)
}

// OpenWith is Open with hardly a pause between attempts.
func OpenWith(ctx context.Context, url string, q Policy) (*Store, error) {
	p := usual()
	p.shortest, p.longest = time.Millisecond, 4*time.Millisecond
	if q.Attempts > 0 {
		p.attempts = q.Attempts
	}
	if q.Stall > 0 {
		p.stall = q.Stall
	}
	p.roots = q.Roots
	if q.Dial != nil {
		p.dial = q.Dial
	}
	return openWith(ctx, url, p)
}

// Wait is the pause of the policy that Open uses, and whether there is one, after an answer.
func Wait(n int, resp *http.Response) (time.Duration, bool) {
	p := usual()
	again, err := p.again(context.Background(), resp, nil)
	return p.wait(n, resp), again && err == nil
}

// Renewed asks for credentials where a role's, with the key "held", last until then.
func Renewed(until time.Time) (key string, err error) {
	c := &chain{policy: usual(), current: &credentials.IAM{}, last: credentials.Value{AccessKeyID: "held", Expiration: until}}
	v, err := c.Retrieve()
	return v.AccessKeyID, err
}

// Parsed is what a URL says.
type Parsed struct{ Bucket, Prefix, Endpoint, Region, Style, URL string }

func Parse(url string) (Parsed, error) {
	l, err := parse(url)
	if err != nil {
		return Parsed{}, err
	}
	style := [...]string{"auto", "host", "path"}[l.lookup]
	return Parsed{l.bucket, l.prefix, l.endpoint.String(), l.region, style, l.url}, nil
}
