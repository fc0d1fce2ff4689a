package s3_test

import (
	"errors"
	"strings"
	"testing"

	"lethe/pipeline/store"
	"lethe/pipeline/store/s3"
)

func TestURLs(t *testing.T) {
	for url, want := range map[string]s3.Parsed{
		"s3://bucket":                          {"bucket", "", "https://s3.amazonaws.com", "us-east-1", "auto", "s3://bucket"},
		"s3://bucket/":                         {"bucket", "", "https://s3.amazonaws.com", "us-east-1", "auto", "s3://bucket"},
		"s3://bucket/a/b.c/?region=eu-north-1": {"bucket", "a/b.c/", "https://s3.amazonaws.com", "eu-north-1", "auto", "s3://bucket/a/b.c?region=eu-north-1"},
		"s3://my.bucket/a":                     {"my.bucket", "a/", "https://s3.amazonaws.com", "us-east-1", "path", "s3://my.bucket/a"},
		"s3://bucket/a?style=path":             {"bucket", "a/", "https://s3.amazonaws.com", "us-east-1", "path", "s3://bucket/a?style=path"},
		"s3://bucket/a?style=host&endpoint=https://S3.example.com/":      {"bucket", "a/", "https://s3.example.com", "us-east-1", "host", "s3://bucket/a?endpoint=https://S3.example.com/&style=host"},
		"s3://bucket?endpoint=https://s3.eu-west-3.amazonaws.com":        {"bucket", "", "https://s3.eu-west-3.amazonaws.com", "eu-west-3", "auto", "s3://bucket?endpoint=https://s3.eu-west-3.amazonaws.com"},
		"s3://bucket?endpoint=http%3A%2F%2F127.0.0.1%3A9000":             {"bucket", "", "http://127.0.0.1:9000", "us-east-1", "auto", "s3://bucket?endpoint=http://127.0.0.1:9000"},
		"s3://bucket?endpoint=http://[::1]:9000":                         {"bucket", "", "http://[::1]:9000", "us-east-1", "auto", "s3://bucket?endpoint=http://[::1]:9000"},
		"s3://bucket?endpoint=http://localhost:9000":                     {"bucket", "", "http://localhost:9000", "us-east-1", "auto", "s3://bucket?endpoint=http://localhost:9000"},
		"s3://bucket?insecure=true&endpoint=http://10.0.0.1":             {"bucket", "", "http://10.0.0.1", "us-east-1", "auto", "s3://bucket?endpoint=http://10.0.0.1&insecure=true"},
		"s3://bucket?sse=AES256&storage_class=STANDARD_IA&checksum=md5":  {"bucket", "", "https://s3.amazonaws.com", "us-east-1", "auto", "s3://bucket?sse=AES256&storage_class=STANDARD_IA&checksum=md5"},
		"s3://bucket?sse=aws:kms&kms_key=arn:aws:kms:eu-north-1:1:key/2": {"bucket", "", "https://s3.amazonaws.com", "us-east-1", "auto", "s3://bucket?sse=aws:kms&kms_key=arn:aws:kms:eu-north-1:1:key/2"},
	} {
		got, err := s3.Parse(url)
		if err != nil || got != want {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", url, got, err, want)
			continue
		}
		if again, err := s3.Parse(got.URL); err != nil || again != got {
			t.Errorf("%s, printed and read: %+v, %v", url, again, err)
		}
	}
	t.Run("region of the environment", func(t *testing.T) {
		t.Setenv("AWS_DEFAULT_REGION", "eu-west-1")
		for url, want := range map[string]string{"s3://bucket": "eu-west-1", "s3://bucket?region=eu-north-1": "eu-north-1", "s3://bucket?endpoint=https://s3.example.com": "us-east-1"} {
			if got, err := s3.Parse(url); err != nil || got.Region != want {
				t.Errorf("%s: %q, %v; want %q", url, got.Region, err, want)
			}
		}
		t.Setenv("AWS_REGION", "eu-west-2")
		if got, err := s3.Parse("s3://bucket"); err != nil || got.Region != "eu-west-2" {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestURLsRefused(t *testing.T) {
	for url, says := range map[string]string{
		"s3:bucket":                                            "s3://bucket/prefix",
		"s3://":                                                "bucket's name",
		"s3://B":                                               "bucket's name",
		"s3://bucket:80/x":                                     "bucket's name",
		"s3://under_score":                                     "bucket's name",
		"s3://bucket--use1-az4--x-s3/a":                        "directory buckets",
		"s3://AKIAX:S3CRET@bucket/x":                           "holds credentials",
		"s3://S3CRET@bucket/x":                                 "holds credentials",
		"s3://bucket/x?access_key=S3CRET":                      "AWS_ACCESS_KEY_ID",
		"s3://bucket/x?secretKey=S3CRET":                       "AWS_SECRET_ACCESS_KEY",
		"s3://bucket/x?profile=S3CRET":                         "AWS_PROFILE",
		"s3://bucket/x?S3CRET":                                 "none of endpoint",
		"s3://bucket/x?regoin=eu":                              "try: region",
		"s3://bucket/x?Endpoint=https://h":                     "try: endpoint",
		"s3://bucket/x?storage-class=STANDARD":                 "try: storage_class",
		"s3://bucket/x?region=a&region=b":                      "twice",
		"s3://bucket/x?region=":                                "no value",
		"s3://bucket/x?region=a;b=c":                           "name=value",
		"s3://bucket/x#S3CRET":                                 "#",
		"s3://bucket/x#":                                       "#",
		"s3://bucket/a//b":                                     "prefix",
		"s3://bucket/../b":                                     "prefix",
		"s3://bucket/a b":                                      "prefix",
		"s3://bucket/.hidden":                                  "prefix",
		"s3://bucket/x?endpoint=s3.example.com":                "https:// and a host",
		"s3://bucket/x?endpoint=ftp://h":                       "https:// and a host",
		"s3://bucket/x?endpoint=https://":                      "https:// and a host",
		"s3://bucket/x?endpoint=https://u:S3CRET@h":            "holds credentials",
		"s3://bucket/x?endpoint=https://h/bucket":              "before the ?",
		"s3://bucket/x?endpoint=http://h":                      "insecure=true",
		"s3://bucket/x?endpoint=http://127.0.0.1.example.com":  "insecure=true",
		"s3://bucket/x?endpoint=https://h&insecure=true":       "certificates are always checked",
		"s3://bucket/x?insecure=yes":                           "true or false",
		"s3://bucket/x?style=virtual":                          "path, host or auto",
		"s3://bucket/x?style=host&endpoint=http://127.0.0.1:1": "style=path",
		"s3://bucket/x?sse=aes":                                "AES256 or aws:kms",
		"s3://bucket/x?sse=C":                                  "SSE-C",
		"s3://bucket/x?sse_c_key=S3CRET":                       "",
		"s3://bucket/x?sse=AES256&kms_key=k":                   "kms_key goes with",
		"s3://bucket/x?sse=aws:kms&kms_key=a%0d%0aS3CRET:1":    "kms_key",
		"s3://bucket/x?storage_class=DEEP_ARCHIVE":             "GLACIER_IR",
		"s3://bucket/x?checksum=crc":                           "sha256, md5 or none",
	} {
		_, err := s3.Parse(url)
		if err == nil || !errors.Is(err, store.ErrURL) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "\n  try: ") {
			t.Errorf("%s: %v; want it to say %q", url, err, says)
			continue
		}
		if strings.Contains(err.Error(), "S3CRET") {
			t.Errorf("%s: repeated in %v", url, err)
		}
	}
}

func FuzzURL(f *testing.F) {
	for _, url := range []string{"s3://bucket/x?endpoint=https://h&region=r", "s3://b.c?sse=aws:kms&kms_key=k", "s3://u:p@bucket?x", "s3://bucket/%2e%2e"} {
		f.Add(url)
	}
	f.Fuzz(func(t *testing.T, url string) {
		got, err := s3.Parse(url)
		if err != nil {
			return
		}
		if again, err := s3.Parse(got.URL); err != nil || again != got {
			t.Errorf("%q printed as %q, which reads as %+v, %v", url, got.URL, again, err)
		}
		if p := strings.TrimSuffix(got.Prefix, "/"); p != "" && store.CheckName(p) != nil {
			t.Errorf("%q has the prefix %q", url, p)
		}
	})
}
