// Package open opens a store by its URL. It is the one place that knows every kind of store.
package open

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"lethe/pipeline/store"
	"lethe/pipeline/store/dir"
	"lethe/pipeline/store/s3"
)

// ErrUnsupported is in the error for a URL of a kind that this version does not know.
var ErrUnsupported = errors.New("not a kind of store that this version of lethe knows")

// URL opens the existing store at a URL: a directory, as a path or as file:///path, or a bucket, as s3://bucket/prefix.
// Relative paths start at the working directory. A URL that is wrong as it is written is store.ErrURL or
// ErrUnsupported. Errors don't repeat such a URL, which may hold a password.
func URL(ctx context.Context, location string) (store.Store, error) {
	if isS3(location) {
		return opened(s3.Open(ctx, location))
	}
	path, err := directory(location)
	if err != nil {
		return nil, err
	}
	return opened(dir.Open(path))
}

// Create makes the place for a new repository where it is missing, and opens it. It makes no buckets: where one lies
// and who may read it are decisions, for the service's own tools.
func Create(ctx context.Context, location string) (store.Store, error) {
	if isS3(location) {
		return opened(s3.Open(ctx, location))
	}
	path, err := directory(location)
	if err != nil {
		return nil, err
	}
	return opened(dir.Create(path))
}

func isS3(location string) bool {
	scheme, _, isURL := strings.Cut(location, "://")
	return isURL && strings.EqualFold(scheme, "s3")
}

// opened keeps a nil pointer to a store from becoming a store.Store that is not nil.
func opened[S store.Store](s S, err error) (store.Store, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

// directory is the path of a store that is a directory.
func directory(location string) (string, error) {
	scheme, _, isURL := strings.Cut(location, "://")
	switch {
	case location == "":
		return "", fmt.Errorf("open a store: it is %w: it is empty\n  try: a directory such as /srv/backup/lethe, or s3://bucket/prefix", store.ErrURL)
	case !isURL && strings.HasPrefix(location, "file:"):
		return "", fmt.Errorf("open a store: it is %w: a file URL has three slashes\n  try: file:///srv/backup/lethe, or the path alone", store.ErrURL)
	case !isURL:
		return location, nil
	case scheme != "file":
		return "", fmt.Errorf("open a store of the kind %q: %w\n  try: a directory, as a path or as file:///path, which may be a mounted network disk; or s3://bucket/prefix", scheme, ErrUnsupported)
	}
	u, err := url.Parse(location)
	if err != nil || u.Host != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path == "" {
		return "", fmt.Errorf("open a store: it is %w: a file URL is file:// and an absolute path, with %% and ? and # percent-encoded\n  try: file:///srv/backup/lethe, or the path alone", store.ErrURL)
	}
	return u.Path, nil
}
