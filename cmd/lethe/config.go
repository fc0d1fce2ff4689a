package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"gopkg.in/yaml.v3"

	"lethe/pipeline"
	"lethe/pipeline/store"
	"lethe/pipeline/store/dir"
)

// config is lethe.yml. Every field may be missing: each command says what it needs.
type config struct {
	path string // "" where there is no file
	dir  string // relative paths are relative to it

	Database struct {
		URL         string   `yaml:"url"`
		PgDump      string   `yaml:"pg_dump"`
		LockTimeout duration `yaml:"lock_timeout"`
	} `yaml:"database"`
	Rules          string      `yaml:"rules"`
	Recipients     []string    `yaml:"recipients"`
	OperatorKey    string      `yaml:"operator_key"`
	TrustedSigners []string    `yaml:"trusted_signers"`
	Stores         []storeSpec `yaml:"stores"`
	Workers        int         `yaml:"workers"`
	Memory         size        `yaml:"memory"`
	State          string      `yaml:"state"`
	Inbox          string      `yaml:"inbox"`
	Schedule       struct {
		Every  duration `yaml:"every"`
		MaxAge duration `yaml:"max_age"`
	} `yaml:"schedule"`
	Retention struct {
		KeepWithin duration `yaml:"keep_within"`
		KeepMin    int      `yaml:"keep_min"`
	} `yaml:"retention"`
}

type storeSpec struct {
	URL string `yaml:"url"`
}

// duration is a Go duration that also knows days and weeks: 7d, 6h30m.
type duration time.Duration

var days = regexp.MustCompile(`^(\d+)([dw])(.*)$`)

func parseDuration(s string) (time.Duration, error) {
	var total time.Duration
	rest := s
	for {
		m := days.FindStringSubmatch(rest)
		if m == nil {
			break
		}
		n, err := strconv.Atoi(m[1])
		if err != nil || n > 36500 {
			return 0, fmt.Errorf("%q is not a duration", s)
		}
		unit := 24 * time.Hour
		if m[2] == "w" {
			unit *= 7
		}
		total += time.Duration(n) * unit
		rest = m[3]
	}
	if rest == "" && total > 0 {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a duration: write it like 30m, 6h30m or 7d", s)
	}
	return total + d, nil
}

func (d *duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := parseDuration(n.Value)
	if err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	*d = duration(v)
	return nil
}

// size is a number of bytes: 256MiB, 1GiB, 512M.
type size int64

// leastMemory is what the pieces under way of two workers come to at the worst.
const leastMemory = 128 << 20

// uncounted is what a process takes beside the memory that Go looks after.
const uncounted = 32 << 20

func parseSize(s string) (size, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("%q is not a size: write it like 256MiB or 1GiB", s)
	}
	return size(n), nil
}

func (s *size) UnmarshalYAML(n *yaml.Node) error {
	v, err := parseSize(n.Value)
	if err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	*s = v
	return nil
}

// config loads the configuration, and keeps the process to the memory that flag, environment or file allow.
func (a *app) config() (*config, error) {
	c, err := loadConfig(a.configPath)
	if err != nil {
		return nil, err
	}
	if a.memory != "" {
		if c.Memory, err = parseSize(a.memory); err != nil {
			return nil, usage("", "--memory: %w", err)
		}
	}
	switch {
	case c.Memory == 0:
		c.Memory = pipeline.DefaultMemory
	case c.Memory < leastMemory:
		return nil, usage("", "memory: a run needs at least %s", humanize.IBytes(leastMemory))
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		// Garbage is collected sooner beyond this, which is less than what a run holds only where rows are huge. The
		// program itself and the parser, which is C, are not counted in it.
		debug.SetMemoryLimit(int64(c.Memory) - uncounted)
	}
	return c, nil
}

func (s *storeSpec) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode { // `stores: [/srv/backup]` is what people write first
		s.URL = n.Value
		return nil
	}
	type plain storeSpec
	return n.Decode((*plain)(s))
}

var defaultConfigs = []string{"lethe.yml", "/etc/lethe/lethe.yml"}

// loadConfig reads the file named by --config or LETHE_CONFIG, else the first default that exists, else nothing. A default in
// a folder that this user may not look into is not there for them: `sudo -u lethe` often begins in one.
func loadConfig(path string) (*config, error) {
	named := path != ""
	if !named {
		path = os.Getenv("LETHE_CONFIG")
		named = path != ""
	}
	candidates := defaultConfigs
	if named {
		candidates = []string{path}
	}
	for _, p := range candidates {
		text, err := os.ReadFile(p)
		if !named && (errors.Is(err, fs.ErrNotExist) || outOfSight(p)) {
			continue
		}
		if err != nil {
			return nil, usage("lethe init writes one; --config FILE names another", "read the configuration: %w", err)
		}
		return parseConfig(p, text)
	}
	return &config{dir: "."}, nil
}

// outOfSight reports whether a path is relative, in a working directory that this user may not look into. A file that is
// seen there and can't be read is none of that, and no reason to take another.
func outOfSight(path string) bool {
	_, err := os.Lstat(path)
	return !filepath.IsAbs(path) && errors.Is(err, fs.ErrPermission)
}

// What yaml says of Go's types, to be said of the file.
var (
	unknownField = regexp.MustCompile(`line (\d+): field (\S+) not found in type .*`)
	wrongKind    = regexp.MustCompile(`line (\d+): cannot unmarshal .*`) // its text holds a part of the value
)

func parseConfig(path string, text []byte) (*config, error) {
	c := &config{path: path, dir: filepath.Dir(path)}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		msg := strings.TrimPrefix(err.Error(), "yaml: ")
		msg = strings.TrimPrefix(msg, "unmarshal errors:\n  ")
		msg = unknownField.ReplaceAllString(msg, "line $1: unknown key `$2`")
		msg = wrongKind.ReplaceAllString(msg, "line $1: a value of the wrong kind")
		return nil, usage("lethe help config lists the keys", "%s: %s", path, msg)
	}
	if c.Workers < 0 || c.Workers > 64 {
		return nil, usage("", "%s: workers: %d is not between 1 and 64", path, c.Workers)
	}
	for i, s := range c.Stores {
		if s.URL == "" {
			return nil, usage("write `- url: /srv/backup`", "%s: stores: entry %d has no url", path, i+1)
		}
	}
	if c.Retention.KeepMin < 0 {
		return nil, usage("", "%s: retention: keep_min: %d is negative", path, c.Retention.KeepMin)
	}
	return c, nil
}

// state is the directory in which the operator's machine remembers things from run to run: what state: says, else what
// systemd's StateDirectory= gives, else what other programs of this user use. "" where there is no place.
func (c *config) state() string {
	if c.State != "" {
		return c.resolve(c.State)
	}
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "lethe")
	}
	if home, err := os.UserHomeDir(); err == nil && filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "lethe")
	}
	return ""
}

// ledgerCopy returns what opens this machine's own copy of a repository's ledger; nil where there is no place for one. Where
// none may be made it opens none that is not there.
func (c *config) ledgerCopy(create bool) func(repository string) (store.Store, error) {
	state := c.state()
	if state == "" {
		return nil
	}
	return func(repository string) (store.Store, error) {
		path := filepath.Join(state, repository)
		if !create && missingFile(filepath.Join(path, "ledger")) {
			return nil, nil
		}
		s, err := dir.Create(path)
		if err != nil {
			return nil, err
		}
		return s, nil
	}
}

// resolve makes a path of the file absolute or relative to the file's folder.
func (c *config) resolve(p string) string {
	if p == "" || filepath.IsAbs(p) || strings.Contains(p, "://") {
		return p
	}
	return filepath.Join(c.dir, p)
}
