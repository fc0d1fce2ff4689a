package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"gopkg.in/ini.v1"
)

// errNoCredentials says where they were looked for.
var errNoCredentials = errors.New("no credentials were found: not in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, not in the profile of ~/.aws/credentials and ~/.aws/config, and no container or instance role answered\n" +
	"  try: setting the first two, or AWS_PROFILE; a service runs under an account and an environment of its own")

// chain finds credentials where every tool of AWS does, in that order: the environment, a web identity token, the
// shared files, the container's or the instance's role. It is asked again when what it found expires.
//
// minio-go's own chain goes on in silence after a provider that failed, and signs nothing when all did.
type chain struct {
	policy  policy
	current credentials.Provider // that found last
	last    credentials.Value
}

func newCredentials(p policy) *credentials.Credentials { return credentials.New(&chain{policy: p}) }

// Retrieve implements credentials.Provider.
func (c *chain) Retrieve() (credentials.Value, error) { return c.RetrieveWithCredContext(nil) }

// IsExpired implements credentials.Provider.
func (c *chain) IsExpired() bool { return c.current == nil || c.current.IsExpired() }

// RetrieveWithCredContext implements credentials.Provider.
func (c *chain) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	for _, find := range []func(*credentials.CredContext) (credentials.Provider, credentials.Value, error){
		fromEnvironment, c.fromWebIdentity, fromFiles, c.fromRole,
	} {
		p, v, err := find(cc)
		if err != nil {
			return c.still(err)
		}
		if v.AccessKeyID != "" && v.SecretAccessKey != "" {
			c.current, c.last = p, v
			return v, nil
		}
	}
	return c.still(errNoCredentials)
}

// still returns what was found before as long as it holds: it is asked for anew long before its end.
func (c *chain) still(err error) (credentials.Value, error) {
	if c.current != nil && time.Now().Before(c.last.Expiration) {
		return c.last, nil
	}
	return credentials.Value{}, err
}

// The finders return an empty value where there is nothing of their kind, and an error where what is there is no good.

func fromEnvironment(*credentials.CredContext) (credentials.Provider, credentials.Value, error) {
	p := &credentials.EnvAWS{}
	v, err := p.Retrieve()
	if (v.AccessKeyID == "") != (v.SecretAccessKey == "") {
		return nil, v, errors.New("of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set\n  try: setting both, or neither")
	}
	return p, v, err
}

func (c *chain) fromWebIdentity(cc *credentials.CredContext) (credentials.Provider, credentials.Value, error) {
	if os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") == "" {
		return nil, credentials.Value{}, nil
	}
	p := &credentials.IAM{Endpoint: os.Getenv("AWS_ENDPOINT_URL_STS")}
	if at, err := url.Parse(p.Endpoint); err != nil || at.Scheme == "http" && !loopback(at.Hostname()) {
		return nil, credentials.Value{}, errors.New("AWS_ENDPOINT_URL_STS is no URL with TLS, and the token must not travel in clear")
	}
	v, _, err := c.role(cc, p, http.ProxyFromEnvironment, true)
	if err != nil {
		err = fmt.Errorf("take the role AWS_ROLE_ARN with the token in AWS_WEB_IDENTITY_TOKEN_FILE: %s", withoutURL(err))
	}
	return p, v, err
}

func fromFiles(cc *credentials.CredContext) (credentials.Provider, credentials.Value, error) {
	p := &credentials.FileAWSCredentials{}
	v, err := p.RetrieveWithCredContext(cc)
	asked := os.Getenv("AWS_PROFILE") != ""
	switch {
	case err == nil && asked && (v.AccessKeyID == "" || v.SecretAccessKey == ""):
		return nil, v, errors.New("the profile that AWS_PROFILE names holds no keys; profiles that take a role by role_arn are not supported\n" +
			"  try: a credential_process line in the profile: `aws configure export-credentials` serves as one")
	case err == nil:
		return p, v, nil
	case ini.IsErrDelimiterNotFound(err): // its text repeats the line
		return nil, v, errors.New("read the shared AWS files: a line is not of the form name = value\n  try: aws configure list")
	case errors.Is(err, fs.ErrNotExist) && !asked:
		return nil, credentials.Value{}, nil
	case noSection(err) && !asked:
		return nil, credentials.Value{}, nil
	default:
		return nil, v, fmt.Errorf("read the AWS profile: %w\n  try: aws configure list-profiles; AWS_PROFILE picks one, AWS_SHARED_CREDENTIALS_FILE the file", err)
	}
}

// noSection reports that the files have no such profile; the library has no type for it.
func noSection(err error) bool {
	return strings.HasPrefix(err.Error(), "section ") && strings.HasSuffix(err.Error(), " does not exist")
}

// fromRole asks for the container's role, or the instance's. Where neither is announced, and no role has answered yet, there
// may be nobody to ask, and that nobody answers is no error.
func (c *chain) fromRole(cc *credentials.CredContext) (credentials.Provider, credentials.Value, error) {
	p, whose := &credentials.IAM{}, "container"
	announced := os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") != "" || os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI") != ""
	if !announced {
		if os.Getenv("AWS_EC2_METADATA_DISABLED") == "true" {
			return nil, credentials.Value{}, nil
		}
		whose, p.Endpoint = "instance", os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")
		_, answered := c.current.(*credentials.IAM)
		announced = answered || p.Endpoint != ""
	}
	v, busy, err := c.role(cc, p, nil, announced)
	switch {
	case err == nil:
		return p, v, nil
	case announced || busy || cc != nil && cc.Context != nil && cc.Context.Err() != nil:
		return nil, v, fmt.Errorf("ask for the %s's role: %s", whose, withoutURL(err))
	default:
		return nil, credentials.Value{}, nil // no machine of a cloud that has roles
	}
}

// role asks for a role, and asks again while whoever gives it is busy, or, where one is announced, not there. These are
// services on this machine or beside it, which answer at once and are reached without a proxy, and AWS's own token service.
// A few seconds are enough for them, and more would be too much: nobody can interrupt this wait.
func (c *chain) role(cc *credentials.CredContext, p *credentials.IAM, proxy func(*http.Request) (*url.URL, error), announced bool) (v credentials.Value, busy bool, err error) {
	patient := c.policy
	patient.attempts, patient.shortest, patient.patience = min(patient.attempts, 4), min(patient.shortest, 100*time.Millisecond), 2*time.Second
	again := func(ctx context.Context, resp *http.Response, err error) (bool, error) {
		if resp == nil && !announced {
			return false, nil
		}
		once, err := patient.again(ctx, resp, err)
		busy = busy || once && resp != nil
		return once, err
	}
	p.Client = patient.client(&http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{Proxy: proxy, DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext, DisableKeepAlives: true},
	}, again).StandardClient()
	v, err = p.RetrieveWithCredContext(cc)
	return v, busy, err
}

// withoutURL is an error's text without the request's URL, which names nothing that the reader has configured.
func withoutURL(err error) string {
	var at *url.Error
	for errors.As(err, &at) {
		err = at.Err
	}
	return err.Error()
}
