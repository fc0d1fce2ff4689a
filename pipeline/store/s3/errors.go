package s3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7"

	"lethe/pipeline/store"
)

// fail makes a *store.Error of whatever went wrong.
func (s *Store) fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &store.Error{Op: op, Store: s.at.url, Name: name, Err: err}
}

// cause says what err, of an operation that was tried so often, means.
func (s *Store) cause(ctx context.Context, op string, attempts int, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var answer minio.ErrorResponse
	if errors.As(err, &answer) && answer.StatusCode != 0 {
		err = s.meaning(op, answer)
	} else {
		err = s.unreachable(err)
	}
	if attempts > 1 {
		return fmt.Errorf("after %d attempts: %w", attempts, err)
	}
	return err
}

// meaning is the sentinel and the advice for an error that the service answered with.
func (s *Store) meaning(op string, a minio.ErrorResponse) error {
	said := fmt.Sprintf("%s (%s)", printable(a.Error()), printable(a.Code))
	if a.RequestID != "" {
		said = fmt.Sprintf("%s (%s, request %s)", printable(a.Error()), printable(a.Code), printable(a.RequestID))
	}
	writing := op == "put" || op == "delete"
	switch a.Code {
	case "NoSuchKey":
		return store.ErrNotFound
	case "NoSuchBucket":
		hint := "\n  try: make the bucket with the service's own tools; lethe makes none, since where it lies and who may read it is a decision"
		if op == "open" {
			return fmt.Errorf("%w: there is no bucket %s%s", store.ErrNotFound, s.at.bucket, hint)
		}
		return fmt.Errorf("there is no bucket %s%s", s.at.bucket, hint)
	case "RequestTimeTooSkewed":
		return errors.New(said + ": this machine's clock and the service's are too far apart\n  try: timedatectl status; let NTP set the clock")
	case "SignatureDoesNotMatch", "InvalidSecurity":
		return errors.New(said + "\n  try: compare the secret key with the service's; where the key is right, region= and style= are what the signature covers, too")
	case "InvalidAccessKeyId", "InvalidToken", "InvalidTokenId", "UnrecognizedClientException", "XAdminUserNotFound":
		return errors.New(said + "\n  try: AWS_PROFILE or AWS_ACCESS_KEY_ID of the service that endpoint= names")
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired":
		return errors.New(said + "\n  try: log in again (aws sso login), or use a role or a key that lasts")
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect", "InvalidRegion", "IllegalLocationConstraintException":
		if a.Region != "" && a.Region != s.at.region {
			return errors.New(said + ": the bucket is in another region\n  try: region=" + printable(a.Region))
		}
		return errors.New(said + "\n  try: region= with the region that the bucket is in, and the endpoint that belongs to it")
	case "QuotaExceeded", "StorageFull", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "InsufficientCapacity", "DiskFull", "TotalSizeQuotaExceeded":
		return &kind{said + "\n  try: raise the quota, or let old snapshots expire", store.ErrNoSpace}
	case "EntityTooLarge":
		return &kind{said, store.ErrTooLarge}
	case "BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch":
		return errors.New(said + ": what arrived is not what was sent\n  try: the run again; if it happens again, a proxy on the way changes what passes, or this machine's memory is bad")
	case "InvalidObjectState":
		return errors.New(said + ": the file was moved to an archive that must be asked to give it back\n  try: restore it with the service's own tools, and take the lifecycle rule off this prefix")
	case "InvalidStorageClass":
		return errors.New(said + "\n  try: leaving storage_class= out, or a class that this service has")
	case "ServerSideEncryptionConfigurationNotFoundError", "KMS.NotFoundException", "KMS.DisabledException", "InvalidEncryptionAlgorithmError":
		return errors.New(said + "\n  try: leaving sse= and kms_key= to the bucket's own setting")
	case "AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "MethodNotAllowed", "ReadOnlyGateway":
		if writing {
			return &kind{said + "\n  try: allow s3:PutObject on the prefix, and s3:DeleteObject on what expires and on locks/; docs/stores.md has the policy", store.ErrReadOnly}
		}
		if strings.HasSuffix(op, "version") || strings.HasSuffix(op, "versions") {
			return errors.New(said + "\n  try: allow s3:ListBucketVersions on the bucket and s3:DeleteObjectVersion on the prefix to whoever purges; docs/stores.md has the policy")
		}
		return errors.New(said + "\n  try: allow s3:ListBucket on the bucket and s3:GetObject on the prefix; docs/stores.md has the policy")
	}
	switch a.StatusCode {
	case http.StatusInsufficientStorage:
		return &kind{said, store.ErrNoSpace}
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect, http.StatusFound:
		return errors.New(said + ": the service sends us elsewhere\n  try: region= with the region that the bucket is in, and the endpoint that belongs to it")
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return errors.New(said + ": the service is busy\n  try: again later")
	}
	return errors.New(said)
}

// unreachable is the error of a request that nobody answered.
func (s *Store) unreachable(err error) error {
	var wrapped *url.Error
	for errors.As(err, &wrapped) {
		err = wrapped.Err // it says the whole URL again
	}
	host := s.at.endpoint.Host
	var cert *tls.CertificateVerificationError
	var name *net.DNSError
	switch {
	case errors.As(err, &cert):
		return fmt.Errorf("the certificate of %s does not hold: %w\n  try: SSL_CERT_FILE with the certificates of your own authority; where a bucket's name has dots: style=path", host, err)
	case errors.As(err, &name) && name.IsNotFound:
		return fmt.Errorf("%w\n  try: endpoint= as the service's documentation has it; where it does not give each bucket a name of its own: style=path", err)
	case errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("%s speaks no TLS: %w\n  try: another port, or an http endpoint, if the service is on this machine", host, err)
	}
	return err
}

// kind is a message that is one of package store's errors without repeating its words.
type kind struct {
	text string
	is   error
}

func (k *kind) Error() string   { return k.is.Error() + ": " + k.text }
func (k *kind) Is(e error) bool { return e == k.is }

// printable keeps an answer from forging lines of a log, and short.
func printable(s string) string {
	const most = 300
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strings.TrimSpace(s)
}

func statusOf(err error) int {
	var answer minio.ErrorResponse
	if errors.As(err, &answer) {
		return answer.StatusCode
	}
	return 0
}
