package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxDDL    = 512 << 20 // bytes of one section; real schemas are a few MB
	maxStderr = 64 << 10
)

// pgDump is one pg_dump program.
type pgDump struct {
	path    string
	version string // 15.18
	major   int
}

// findPgDump returns the program that is told, or else the newest one that the machine has. It must not be older than
// the server, since it would then miss what it does not know.
func findPgDump(ctx context.Context, told string, serverMajor int, server string) (pgDump, error) {
	const op = "look for pg_dump"
	install := fmt.Sprintf("install postgresql-client-%d, or set database.pg_dump to a newer one", serverMajor)
	candidates := []string{told}
	if told == "" {
		candidates = nil
		for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
			candidates = append(candidates, filepath.Join(dir, "pg_dump"))
		}
		for _, pattern := range []string{"/usr/lib/postgresql/*/bin/pg_dump", "/usr/lib/postgresql*/bin/pg_dump", "/usr/libexec/postgresql*/pg_dump",
			"/usr/pgsql-*/bin/pg_dump", "/usr/local/pgsql/bin/pg_dump", "/opt/homebrew/opt/libpq/bin/pg_dump", "/opt/homebrew/opt/postgresql@*/bin/pg_dump"} {
			found, _ := filepath.Glob(pattern) // only a malformed pattern is an error
			candidates = append(candidates, found...)
		}
	}
	var best pgDump
	var last error
	for _, path := range candidates {
		if _, err := exec.LookPath(path); err != nil {
			last = err
			continue
		}
		// Debian's /usr/bin/pg_dump is a script that picks a version by its own rules each time it runs.
		if real, err := filepath.EvalSymlinks(path); err == nil && filepath.Base(real) == "pg_wrapper" && told == "" {
			continue
		}
		d, err := askVersion(ctx, path)
		if err != nil {
			last = err
			continue
		}
		if best.path == "" || newer(d.version, best.version) {
			best = d
		}
	}
	switch {
	case best.path == "" && told != "":
		return best, &Error{Op: op, Err: last, Help: "set database.pg_dump to the program, or leave it out"}
	case best.path == "":
		return best, &Error{Op: op, Err: errors.New("it is neither on PATH nor where distributions put it"), Help: install}
	case best.major < serverMajor:
		return best, &Error{Op: op, Err: fmt.Errorf("pg_dump %s is older than the server %s (%s)", best.version, server, best.path), Help: install}
	}
	return best, nil
}

var versionLine = regexp.MustCompile(`^pg_dump \(PostgreSQL\) (([0-9]+)[0-9A-Za-z.]*)`)

func askVersion(ctx context.Context, path string) (pgDump, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Dir = workingDir()
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return pgDump{}, fmt.Errorf("run %s --version: %w", path, err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return pgDump{}, fmt.Errorf("%s does not say its version as pg_dump does", path)
	}
	major, err := strconv.Atoi(string(m[2]))
	if err != nil {
		return pgDump{}, fmt.Errorf("%s: version %s: %w", path, m[1], err)
	}
	return pgDump{path: path, version: string(m[1]), major: major}, nil
}

// newer compares versions such as 15.18 and 17beta1.
func newer(a, b string) bool {
	return slices.Compare(numbers(a), numbers(b)) > 0
}

func numbers(v string) []int {
	var out []int
	for part := range strings.SplitSeq(v, ".") {
		digits := part[:len(part)-len(strings.TrimLeft(part, "0123456789"))]
		n, _ := strconv.Atoi(digits)
		out = append(out, n)
		if digits != part {
			return append(out, -1) // 17beta1 comes before 17.0
		}
	}
	return out
}

// section runs pg_dump for one section of the DDL under the exported snapshot. The connection goes by environment, so
// that no password stands on a command line. What the program has to remark is returned beside its text.
func (d pgDump) section(ctx context.Context, e *endpoint, section, snapshot, encoding string, lockTimeout time.Duration) (text, remarks string, err error) {
	op := "pg_dump " + section
	cmd := exec.CommandContext(ctx, d.path,
		"--snapshot="+snapshot,
		"--section="+section,
		"--no-blobs",
		"--encoding="+encoding,
		"--lock-wait-timeout="+strconv.FormatInt(lockTimeout.Milliseconds(), 10),
		"--no-password")
	cmd.Env, cmd.Dir = e.env, workingDir()
	cmd.WaitDelay = 5 * time.Second
	stdout, stderr := &limited{max: maxDDL}, &limited{max: maxStderr, drop: true}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err = cmd.Run()
	remarks = shorten(stderr.String())
	if err == nil {
		return withLocale(withoutSessionLines(stdout.String())), remarks, nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return "", "", cause
	}
	if stdout.full {
		return "", "", &Error{Op: op, Err: fmt.Errorf("the DDL is longer than %d MiB", maxDDL>>20)}
	}
	fail := &Error{Op: op, Err: fmt.Errorf("%w: %s", err, remarks), Help: "run pg_dump --schema-only on this database by hand, as the same role: it fails alike"}
	// The server's message may be in any language, so the statement that failed tells: pg_dump's locks are the only
	// statements that it gives a timeout.
	if strings.Contains(stderr.String(), "LOCK TABLE") {
		fail.Retry = true
		fail.Help = "a schema change holds a lock; try again when it is done"
	}
	return "", "", fail
}

// withLocale makes a session that runs the DDL, and then the rows, read money as our sessions print it: $12.34 means
// something else where the decimal point is a comma.
func withLocale(s string) string {
	const after = "\nSET standard_conforming_strings = on;\n"
	return strings.Replace(s, after, after+"SET lc_monetary = 'C';\n", 1)
}

// limited keeps at most max bytes. Beyond that it fails, or with drop forgets the rest.
type limited struct {
	bytes.Buffer
	max  int
	drop bool
	full bool
}

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > l.max {
		if !l.drop {
			l.full = true
			return 0, errors.New("too much output")
		}
		l.Buffer.Write(p[:max(0, l.max-l.Len())])
		return len(p), nil
	}
	return l.Buffer.Write(p)
}

// shorten makes one line of the first few lines of a program's messages.
func shorten(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > 6 {
		lines = append(lines[:6], "…")
	}
	s = strings.Join(lines, "; ")
	if len(s) > 1000 {
		s = strings.ToValidUTF8(s[:1000], "") + "…"
	}
	return s
}

// withoutSessionLines takes out what belongs to psql and to one server version only: the \restrict and \unrestrict
// lines with their random token, and transaction_timeout, which servers before 17 do not know. Only pg_dump's own
// lines: the same words inside a function's body stay.
func withoutSessionLines(s string) string {
	const path = "SELECT pg_catalog.set_config('search_path', '', false);\n"
	head, body := "", s
	if i := strings.Index(s, path); i >= 0 {
		head, body = s[:i], s[i:]
	}
	head = strings.Replace(head, "\nSET transaction_timeout = 0;\n", "\n", 1)
	const restrict = "\n\\restrict "
	i := strings.Index(head, restrict)
	if i < 0 {
		return head + body
	}
	end := strings.IndexByte(head[i+1:], '\n')
	if end < 0 {
		return head + body
	}
	token := head[i+len(restrict) : i+1+end]
	head = head[:i+1] + strings.TrimPrefix(head[i+1+end+1:], "\n")
	if j := strings.LastIndex(body, "\n\\unrestrict "+token+"\n"); j >= 0 {
		body = body[:j+1] + strings.TrimPrefix(body[j+len("\n\\unrestrict ")+len(token)+1:], "\n")
	}
	return head + body
}

// workingDir is where pg_dump is run: here, but where this user may not look into the working directory, which it would
// remark at every run.
func workingDir() string {
	if _, err := os.Stat("."); errors.Is(err, fs.ErrPermission) {
		return "/"
	}
	return ""
}
