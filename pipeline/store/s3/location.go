package s3

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/encrypt"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"lethe/pipeline/store"
)

// example is what errors about a URL suggest.
const example = "s3://bucket/prefix?endpoint=https://s3.example.com&region=eu-north-1"

const awsEndpoint = "https://s3.amazonaws.com"

// parameters are those of the URL, in the order in which they are printed.
var parameters = [...]string{"endpoint", "region", "style", "sse", "kms_key", "storage_class", "checksum", "insecure"}

// checksum is what is sent with each file besides the request's signature, which covers the content's SHA-256 anyway.
type checksum int

const (
	checksumSHA256 checksum = iota // x-amz-checksum-sha256, which the service checks and keeps with the file
	checksumMD5                    // Content-MD5, for services that know nothing newer
	checksumNone
)

// location is a store's URL, taken apart and found to be right.
type location struct {
	bucket   string
	prefix   string // of every key: "" or a name and a slash
	endpoint *url.URL
	region   string
	lookup   minio.BucketLookupType
	sse      encrypt.ServerSide // nil to leave it to the bucket
	class    string             // storage class; "" for the bucket's own
	checksum checksum
	url      string // as it is printed
}

// parse reads a store's URL. Its errors repeat no value of it, since somebody may have put a secret there.
func parse(s string) (*location, error) {
	l, err := parseURL(s)
	if err != nil {
		if !strings.Contains(err.Error(), "\n  try: ") {
			err = fmt.Errorf("%w\n  try: %s", err, example)
		}
		return nil, fmt.Errorf("open a store in S3: %w", &wrong{err})
	}
	return l, nil
}

// wrong is a store.ErrURL that says what is wrong alone.
type wrong struct{ error }

func (*wrong) Is(e error) bool { return e == store.ErrURL }

func parseURL(s string) (*location, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "s3" || u.Opaque != "":
		return nil, errors.New("it is not a URL of the form s3://bucket/prefix, with % and ? and # percent-encoded\n  try: " + example)
	case u.User != nil:
		return nil, errors.New("the URL holds credentials, which would end up in logs and lists of processes\n" +
			"  try: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or a profile in ~/.aws/credentials")
	case u.Fragment != "" || strings.HasSuffix(s, "#"):
		return nil, errors.New("the URL holds a #, which begins nothing that S3 knows\n  try: " + example)
	}
	l := &location{bucket: u.Host}
	if err := s3utils.CheckValidBucketNameStrict(u.Host); err != nil {
		return nil, errors.New("the bucket's name is 3 to 63 lower-case letters, digits, dots and hyphens\n  try: " + example)
	}
	if strings.HasSuffix(u.Host, "--x-s3") {
		return nil, errors.New("directory buckets (S3 Express One Zone) keep files in one data centre and don't list them in order\n  try: a general purpose bucket")
	}
	if name := strings.Trim(u.Path, "/"); name != "" {
		if err := store.CheckName(name); err != nil {
			return nil, errors.New("the prefix is parts of letters, digits, dot, underscore and hyphen, joined by single slashes, none beginning with a dot\n  try: " + example)
		}
		l.prefix = name + "/"
	}
	values, err := readParameters(u.RawQuery)
	if err != nil {
		return nil, err
	}
	if err := l.take(values); err != nil {
		return nil, err
	}
	l.url = printed(l.bucket, l.prefix, values)
	return l, nil
}

// readParameters are the parameters by name, each once and none empty.
func readParameters(query string) (map[string]string, error) {
	asked, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("the part after ? is not name=value&name=value, percent-encoded\n  try: " + example)
	}
	values := map[string]string{}
	for name, v := range asked {
		switch {
		case !slices.Contains(parameters[:], name):
			return nil, unknownParameter(name)
		case len(v) > 1:
			return nil, fmt.Errorf("%s is there twice", name)
		case v[0] == "":
			return nil, fmt.Errorf("%s has no value\n  try: leaving it out", name)
		}
		values[name] = v[0]
	}
	return values, nil
}

// unknownParameter names the parameter only where it can't be a secret that lost its name.
func unknownParameter(name string) error {
	lower := strings.ReplaceAll(strings.ToLower(name), "-", "_")
	for _, secret := range []string{"access", "secret", "token", "password", "credential", "profile"} {
		if strings.Contains(lower, secret) {
			return errors.New("credentials and profiles don't belong in a URL, which ends up in logs and lists of processes\n" +
				"  try: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or AWS_PROFILE and ~/.aws/credentials")
		}
	}
	if strings.HasPrefix(lower, "sse_c") || strings.HasPrefix(lower, "sse_customer") {
		return errSSEC
	}
	closest, best := "", 3
	for _, known := range parameters {
		if d := distance(lower, known); d < best {
			closest, best = known, d
		}
	}
	if closest != "" {
		return fmt.Errorf("there is no parameter %q\n  try: %s", name, closest)
	}
	return fmt.Errorf("the URL has a parameter that is none of %s\n  try: %s", strings.Join(parameters[:], ", "), example)
}

// distance is how many letters must be put in, taken out or changed to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner, row[j+1] = row[j+1], min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

var errSSEC = errors.New("encryption with a key that the caller sends (SSE-C) is not supported: everything is encrypted before it leaves, with keys that the service never sees\n" +
	"  try: sse=AES256 or sse=aws:kms, or leaving it to the bucket's own setting")

// plainWord is a value that goes into a header or a host name.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9:/_-]{0,511}$`)

// take checks the parameters' values.
func (l *location) take(values map[string]string) error {
	var err error
	if l.endpoint, err = endpoint(values["endpoint"], values["insecure"]); err != nil {
		return err
	}
	for _, name := range []string{"region", "kms_key", "storage_class"} {
		if v := values[name]; v != "" && !plainWord.MatchString(v) {
			return fmt.Errorf("%s holds something that can't be in one", name)
		}
	}
	l.region = values["region"]
	if l.region == "" {
		l.region = s3utils.GetRegionFromURL(*l.endpoint)
	}
	// A name that AWS knows nothing of is of no use to another service, so the environment counts for AWS alone.
	if s3utils.IsAmazonEndpoint(*l.endpoint) {
		for _, variable := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
			if v := os.Getenv(variable); l.region == "" && plainWord.MatchString(v) {
				l.region = v
			}
		}
	}
	if l.region == "" {
		l.region = "us-east-1" // what most services other than AWS call theirs, too
	}

	switch values["style"] {
	case "", "auto":
		l.lookup = minio.BucketLookupAuto
		if l.endpoint.Scheme == "https" && strings.Contains(l.bucket, ".") {
			l.lookup = minio.BucketLookupPath // no certificate covers bucket.with.dots.host
		}
	case "path":
		l.lookup = minio.BucketLookupPath
	case "host":
		l.lookup = minio.BucketLookupDNS
		if net.ParseIP(l.endpoint.Hostname()) != nil {
			return errors.New("style=host puts the bucket before the endpoint's name, and the endpoint is an address without a name\n  try: style=path")
		}
	default:
		return errors.New("style is path, host or auto")
	}

	switch values["sse"] {
	case "":
	case "AES256":
		l.sse = encrypt.NewSSE()
	case "aws:kms":
		if l.sse, err = encrypt.NewSSEKMS(values["kms_key"], nil); err != nil {
			return err
		}
	case "C", "SSE-C", "customer":
		return errSSEC
	default:
		return errors.New("sse is AES256 or aws:kms")
	}
	if values["kms_key"] != "" && values["sse"] != "aws:kms" {
		return errors.New("kms_key goes with sse=aws:kms only")
	}

	l.class = values["storage_class"]
	switch strings.ToUpper(l.class) {
	case "GLACIER", "DEEP_ARCHIVE":
		return errors.New("files of this storage class can't be read for hours, and a backup reads its repository at every run\n  try: STANDARD_IA, or GLACIER_IR, which answers at once")
	}

	switch values["checksum"] {
	case "", "sha256":
		l.checksum = checksumSHA256
	case "md5":
		l.checksum = checksumMD5
	case "none":
		l.checksum = checksumNone
	default:
		return errors.New("checksum is sha256, md5 or none")
	}
	return nil
}

// endpoint is the service's address. Without TLS the content is still encrypted and the requests signed, but names,
// sizes and answers are open to be read and changed, so that takes a word.
func endpoint(value, insecure string) (*url.URL, error) {
	if insecure != "" && insecure != "true" && insecure != "false" {
		return nil, errors.New("insecure is true or false")
	}
	if value == "" {
		value = awsEndpoint
	}
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("the endpoint is https:// and a host, with a port where it is not 443\n  try: endpoint=https://s3.example.com")
	case u.User != nil:
		return nil, errors.New("the endpoint holds credentials\n  try: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or a profile in ~/.aws/credentials")
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("the endpoint holds more than a host and a port; the bucket stands before the ?\n  try: " + example)
	case u.Scheme == "http" && insecure != "true" && !loopback(u.Hostname()):
		return nil, errors.New("the endpoint is http, not https: whoever is on the way sees names, sizes and times, and can change answers\n" +
			"  try: endpoint=https://…; where there is no TLS and the network is your own: insecure=true")
	case u.Scheme == "https" && insecure == "true":
		return nil, errors.New("insecure=true allows an endpoint without TLS, and this one has TLS; certificates are always checked\n" +
			"  try: leaving it out; SSL_CERT_FILE names the certificates of an authority of your own")
	}
	return &url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host)}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback() || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// printed is the URL as it is printed, and can be typed.
func printed(bucket, prefix string, values map[string]string) string {
	var b strings.Builder
	b.WriteString("s3://" + bucket)
	if prefix != "" {
		b.WriteString("/" + strings.TrimSuffix(prefix, "/"))
	}
	sep := "?"
	for _, name := range parameters {
		if v, ok := values[name]; ok {
			b.WriteString(sep + name + "=" + strings.NewReplacer("%2F", "/", "%3A", ":", "%5B", "[", "%5D", "]").Replace(url.QueryEscape(v)))
			sep = "&"
		}
	}
	return b.String()
}
