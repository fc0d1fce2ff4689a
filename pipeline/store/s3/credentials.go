package s3

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"
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
	current credentials.Provider
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
			return credentials.Value{}, err
		}
		if v.AccessKeyID != "" && v.SecretAccessKey != "" {
			c.current = p
			return v, nil
		}
	}
	return credentials.Value{}, errNoCredentials
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
	p := &credentials.IAM{Client: c.policy.roleClient(http.ProxyFromEnvironment), Endpoint: os.Getenv("AWS_ENDPOINT_URL_STS")}
	v, err := p.RetrieveWithCredContext(cc)
	if err != nil {
		err = fmt.Errorf("take the role AWS_ROLE_ARN with the token in AWS_WEB_IDENTITY_TOKEN_FILE: %w", err)
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

// fromRole asks for the container's role, or the instance's. Where neither is announced, nobody may be there to ask: an
// instance's role that has not answered before is asked once, and that it does not answer is no error.
func (c *chain) fromRole(cc *credentials.CredContext) (credentials.Provider, credentials.Value, error) {
	container := os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") != "" || os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI") != ""
	_, answered := c.current.(*credentials.IAM)
	policy, whose, p := c.policy, "container", &credentials.IAM{}
	if !container {
		if os.Getenv("AWS_EC2_METADATA_DISABLED") == "true" {
			return nil, credentials.Value{}, nil
		}
		whose, p.Endpoint = "instance", os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")
		if !answered {
			policy.attempts = 1
		}
	}
	p.Client = policy.roleClient(nil)
	v, err := p.RetrieveWithCredContext(cc)
	switch {
	case err == nil:
		return p, v, nil
	case container || answered:
		return nil, v, fmt.Errorf("ask for the %s's role: %w", whose, err)
	case cc != nil && cc.Context != nil && cc.Context.Err() != nil:
		return nil, v, err
	default:
		return nil, credentials.Value{}, nil // no machine of a cloud that has roles
	}
}

// roleClient asks for roles: services on this machine or beside it, which answer at once or are not there and are
// reached without a proxy, and AWS's own token service. It keeps no connections.
func (p policy) roleClient(proxy func(*http.Request) (*url.URL, error)) *http.Client {
	client := &retryablehttp.Client{
		HTTPClient: &http.Client{
			Timeout:   5 * time.Second,
			Transport: &http.Transport{Proxy: proxy, DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext, DisableKeepAlives: true},
		},
		RetryMax:     p.attempts - 1,
		CheckRetry:   p.again,
		Backoff:      func(_, _ time.Duration, n int, resp *http.Response) time.Duration { return p.wait(n, resp) },
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	return client.StandardClient()
}
