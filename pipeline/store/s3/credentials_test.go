package s3_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lethe/pipeline/store/s3"
)

// Each way that credentials come is tried against the server, which knows only its own.
func TestCredentials(t *testing.T) {
	url := server.URL(bucket(t), "x")
	file := func(t *testing.T, text string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keys := fmt.Sprintf("aws_access_key_id = %s\naws_secret_access_key = %s\n", server.AccessKey, server.SecretKey)
	none := func(t *testing.T) {
		t.Helper()
		for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
			t.Setenv(name, "")
		}
		t.Setenv("HOME", t.TempDir())
	}
	works := func(t *testing.T) {
		t.Helper()
		s := open(t, url, s3.Policy{})
		if err := s.Put(t.Context(), "a", nil); err != nil {
			t.Error(err)
		}
		if err := s.Delete(t.Context(), "a"); err != nil {
			t.Error(err)
		}
	}
	fails := func(t *testing.T, says ...string) {
		t.Helper()
		_, err := s3.OpenWith(t.Context(), url, s3.Policy{})
		mustSay(t, err, append(says, "open s3://")...)
	}

	t.Run("none", func(t *testing.T) {
		none(t)
		fails(t, "no credentials were found", "try:")
	})
	t.Run("environment", func(t *testing.T) {
		works(t)
	})
	t.Run("half an environment", func(t *testing.T) {
		t.Setenv("AWS_SECRET_ACCESS_KEY", "")
		fails(t, "only one is set")
	})
	t.Run("default profile", func(t *testing.T) {
		none(t)
		t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file(t, "[default]\n"+keys))
		works(t)
	})
	t.Run("profile in the home folder", func(t *testing.T) {
		none(t)
		dir := filepath.Join(os.Getenv("HOME"), ".aws")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "config"), []byte("[profile backup]\n"+keys), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("AWS_PROFILE", "backup")
		works(t)
	})
	t.Run("environment before profile", func(t *testing.T) {
		t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file(t, "[default]\naws_access_key_id = x\naws_secret_access_key = y\n"))
		works(t)
	})
	t.Run("process", func(t *testing.T) {
		none(t)
		out := file(t, fmt.Sprintf(`{"Version": 1, "AccessKeyId": %q, "SecretAccessKey": %q, "Expiration": %q}`, server.AccessKey, server.SecretKey,
			time.Now().Add(time.Hour).UTC().Format(time.RFC3339)))
		t.Setenv("AWS_CONFIG_FILE", file(t, "[default]\ncredential_process = cat "+out+"\n"))
		works(t)
	})
	t.Run("no such profile", func(t *testing.T) {
		none(t)
		t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file(t, "[default]\n"+keys))
		t.Setenv("AWS_PROFILE", "backup")
		fails(t, `section "backup" does not exist`, "try: aws configure list-profiles")
	})
	t.Run("profile without keys", func(t *testing.T) {
		none(t)
		t.Setenv("AWS_CONFIG_FILE", file(t, "[profile backup]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = default\n"))
		t.Setenv("AWS_PROFILE", "backup")
		fails(t, "role_arn", "credential_process")
	})
	t.Run("broken file", func(t *testing.T) {
		none(t)
		t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file(t, "[default]\n"+server.SecretKey+"\n")) // mustSay looks for it
		fails(t, "not of the form name = value")
	})

	role := func(t *testing.T, lifetime time.Duration) (*httptest.Server, *int) {
		asked := 0
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "let me in" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			if asked++; asked == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"AccessKeyId": server.AccessKey, "SecretAccessKey": server.SecretKey, "Token": "", "Expiration": time.Now().Add(lifetime).UTC()})
		}))
		t.Cleanup(s.Close)
		t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", s.URL+"/role")
		t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "let me in")
		return s, &asked
	}
	t.Run("container role", func(t *testing.T) {
		none(t)
		_, asked := role(t, time.Hour)
		works(t)
		if *asked != 2 {
			t.Errorf("the role was asked for %d times, the first of which it was busy", *asked)
		}
	})
	t.Run("container role that ends", func(t *testing.T) {
		none(t)
		_, asked := role(t, -time.Second)
		works(t)
		if *asked < 3 {
			t.Errorf("the role was asked for %d times, though what it gave had ended", *asked)
		}
	})
	t.Run("container role refused", func(t *testing.T) {
		none(t)
		role(t, time.Hour)
		t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
		fails(t, "ask for the container's role", "401")
	})

	// instance is the service of a cloud's machine: a token for this session, the role's name, what the role may use.
	type instance struct{ asked, busy int }
	metadata := func(t *testing.T, lifetime time.Duration) *instance {
		i := &instance{}
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			const roles = "/latest/meta-data/iam/security-credentials/"
			switch {
			case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token":
				_, _ = io.WriteString(w, "session")
			case r.Header.Get("X-aws-ec2-metadata-token") != "session":
				w.WriteHeader(http.StatusUnauthorized)
			case r.URL.Path == roles:
				_, _ = io.WriteString(w, "backup")
			case r.URL.Path == roles+"backup":
				if i.asked++; i.busy > 0 {
					i.busy--
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				_ = json.NewEncoder(w).Encode(map[string]any{"Code": "Success", "AccessKeyId": server.AccessKey, "SecretAccessKey": server.SecretKey, "Token": "", "Expiration": time.Now().Add(lifetime).UTC()})
			default:
				w.WriteHeader(http.StatusNotFound)
			}
		}))
		t.Cleanup(s.Close)
		t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
		t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", s.URL)
		return i
	}
	t.Run("instance role", func(t *testing.T) {
		none(t)
		i := metadata(t, time.Hour)
		works(t)
		if i.asked != 1 {
			t.Errorf("the role was asked for %d times", i.asked)
		}
	})
	t.Run("instance role that is busy later", func(t *testing.T) {
		none(t)
		i := metadata(t, -time.Second) // so it is asked again and again
		s := open(t, url, s3.Policy{})
		i.busy = 2
		put(t, s, "b", nil)
		i.busy = 1000
		mustSay(t, s.Put(t.Context(), "b", []byte("more")), "ask for the instance's role", "503")
	})
	t.Run("instance role that is busy at first", func(t *testing.T) {
		none(t)
		i := metadata(t, time.Hour)
		i.busy = 2
		works(t)
		if i.asked != 3 {
			t.Errorf("the role was asked for %d times", i.asked)
		}
	})
	t.Run("a role of nobody", func(t *testing.T) {
		none(t)
		gone := httptest.NewServer(nil)
		gone.Close()
		t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", gone.URL)
		fails(t, "ask for the container's role: dial tcp 127.0.0.1")
		t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
		t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
		t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", gone.URL)
		fails(t, "ask for the instance's role: dial tcp 127.0.0.1")
		// What was found before counts as long as it holds.
		if key, err := s3.Renewed(time.Now().Add(time.Minute)); key != "held" || err != nil {
			t.Errorf("%q, %v", key, err)
		}
		if _, err := s3.Renewed(time.Now()); err == nil || !strings.Contains(err.Error(), "ask for the instance's role") {
			t.Errorf("%v", err)
		}
	})
	t.Run("web identity in clear", func(t *testing.T) {
		none(t)
		t.Setenv("AWS_ENDPOINT_URL_STS", "http://sts.example.org")
		t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", file(t, "who I am"))
		fails(t, "AWS_ENDPOINT_URL_STS is no URL with TLS")
	})
	t.Run("web identity", func(t *testing.T) {
		none(t)
		busy := true
		sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if busy {
				busy = false
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			if r.FormValue("WebIdentityToken") != "who I am" || r.FormValue("RoleArn") != "arn:aws:iam::1:role/backup" {
				w.WriteHeader(http.StatusForbidden)
				_, _ = io.WriteString(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Code>AccessDenied</Code><Message>not this one</Message></Error></ErrorResponse>`)
				return
			}
			_, _ = fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken></SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
				server.AccessKey, server.SecretKey, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		}))
		t.Cleanup(sts.Close)
		t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
		t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/backup")
		t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", file(t, "who I am"))
		works(t)
		t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/other")
		fails(t, "take the role AWS_ROLE_ARN", "not this one")
	})
}

// No secret is in what a store prints, nor in a request's address.
func TestSecretsStaySecret(t *testing.T) {
	p := startProxy(t)
	p.add(func(_ http.ResponseWriter, r *http.Request, _ func(http.ResponseWriter, *http.Request)) bool {
		if strings.Contains(r.URL.String(), server.SecretKey) || strings.Contains(r.URL.String(), server.AccessKey) || strings.Contains(fmt.Sprint(r.Header), server.SecretKey) {
			t.Error("a key travels")
		}
		return false
	})
	s := open(t, p.url(server.URL(bucket(t), "x")), s3.Policy{})
	put(t, s, "a", nil)
	if got := names(t, s, ""); got != "a" {
		t.Error(got)
	}
	if said := s.String() + fmt.Sprint(s); strings.Contains(said, server.AccessKey) || strings.Contains(said, server.SecretKey) {
		t.Error(said)
	}
}
