package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"lethe/pipeline/pgtemp"
)

//go:embed rules.yml
var rulesYAML string

// bench is one run.
type bench struct {
	o      options
	plan   plan
	pg     map[string]string // settings of the server
	server *pgtemp.Server
	dir    string   // where commands run and files lie; inside the server's folder, so that both go together
	env    []string // of the commands
	tools  map[string]string
	words  *vocabulary

	recipient string // the key holder's, who reads
	signer    string // the key holder's, who signs purges
	datasets  map[string]*dataset
	report    report
}

func newBench(o options) *bench {
	return &bench{o: o, plan: usualPlan(), pg: asInstalled(), words: newVocabulary(), datasets: map[string]*dataset{}}
}

// asInstalled are the settings of a PostgreSQL as it is installed, where pgtemp's are for speed. The exception is autovacuum:
// it would begin whenever it likes, and is done by hand instead, between the runs. And a dump locks every table, of which
// limits makes more than there are locks for as installed.
func asInstalled() map[string]string {
	return map[string]string{
		"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "wal_level": "replica", "max_wal_senders": "10",
		"shared_buffers": "128MB", "dynamic_shared_memory_type": "posix", "autovacuum": "off", "max_locks_per_transaction": "256",
	}
}

// run measures. What it found is in b.report, also where it ends with an error: then what a scenario had not yet found
// out is left out, and the report says so.
func (b *bench) run(ctx context.Context) (err error) {
	if b.server, err = pgtemp.Start(ctx, pgtemp.Options{Dir: b.o.dir, Settings: b.pg}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.server.Stop()) }()
	if err := b.setUp(ctx); err != nil {
		return err
	}
	for _, s := range b.o.scenarios {
		begun := time.Now()
		if err := s.run(b, ctx); err != nil {
			b.report.end(s.name)
			return fmt.Errorf("scenario %s: %w", s.name, err)
		}
		b.say("scenario %s took %.0f s", s.name, time.Since(begun).Seconds())
	}
	b.report.end("")
	return nil
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.o.log, format+"\n", args...) }

// setUp finds the tools, makes the key holder's key and notes what is measured on.
func (b *bench) setUp(ctx context.Context) (err error) {
	b.dir = filepath.Join(b.server.Dir(), "bench")
	if err := os.Mkdir(b.dir, 0o700); err != nil {
		return err
	}
	b.tools = map[string]string{"lethe": b.o.lethe}
	for _, name := range []string{"pg_dump", "pg_restore", "psql"} {
		b.tools[name] = b.server.Tool(name)
	}
	for _, name := range []string{"zstd", "age"} {
		if b.tools[name], err = exec.LookPath(name); err != nil {
			return fmt.Errorf("%w\n  try: .ci/deps bench", err)
		}
	}
	b.env = []string{"PGHOST=" + b.server.Dir(), "PGPORT=5432", "PGUSER=postgres", "LC_ALL=C.UTF-8", "PATH=" + filepath.Dir(b.tools["pg_dump"]) + ":" + os.Getenv("PATH")}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		// Somebody's own server and configuration stay out of it.
		if !strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "LETHE_") && !strings.HasPrefix(name, "LC_") && name != "PATH" {
			b.env = append(b.env, kv)
		}
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	b.recipient = identity.Recipient().String()
	if err := os.WriteFile(b.path("key.txt"), []byte(identity.String()+"\n"), 0o600); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, b.tools["lethe"], "keygen", "signer", "--output", b.path("signer.key")).Output(); err != nil {
		return fmt.Errorf("make the signing key: %w", err)
	} else if b.signer = strings.TrimSpace(string(out)); !strings.HasPrefix(b.signer, "RW") {
		return fmt.Errorf("lethe keygen signer printed %q", out)
	}
	b.report.Started, b.report.Size, b.report.Pairs = time.Now().UTC().Truncate(time.Second), b.o.size, b.o.pairs
	b.report.Machine, err = b.machine(ctx)
	return err
}

func (b *bench) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

// dataset returns the dataset of a layout, and makes it when it is asked for first.
func (b *bench) dataset(ctx context.Context, layout string) (*dataset, error) {
	if d := b.datasets[layout]; d != nil {
		return d, nil
	}
	d, err := b.generate(ctx, layout, layout, b.o.size)
	b.datasets[layout] = d
	return d, err
}

func (b *bench) generate(ctx context.Context, db, layout string, size float64) (*dataset, error) {
	d, err := generate(ctx, b.server, b.words, db, layout, size)
	if err != nil {
		return nil, fmt.Errorf("generate the %s database: %w", layout, err)
	}
	b.say("generated %s: %d rows, %s of text, in %.0f s", d.db, d.Rows, megabytes(d.Text), d.Seconds)
	b.report.Datasets = append(b.report.Datasets, d)
	// Every table is read once, so that nobody is the first to read it.
	_, err = b.execute(ctx, command{pipe: [][]string{{b.tools["pg_dump"], "-d", d.db}}})
	return d, err
}

// Lethe -------------------------------------------------------------------------------------------------------------

// setup is a folder with a configuration of Lethe, a store, and what Lethe remembers beside it.
type setup struct {
	b      *bench
	d      *dataset
	dir    string
	config string // the file
}

// setup makes a configuration and a repository without snapshots, in whose ledger people are to be erased.
func (b *bench) setup(ctx context.Context, d *dataset, name string, people []string) (*setup, error) {
	s := &setup{b: b, d: d, dir: b.path(name), config: "lethe.yml"}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, err
	}
	if err := s.lethe(ctx, nil, "init", "--database", "postgres:///"+d.db, "--dataset", "bench", "--recipient", b.recipient, "--store", s.store()); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(s.dir, s.config))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.write(s.config, string(text)+"\nstate: state\ntrusted_signers: ["+b.signer+"]\n"), s.write("rules.yml", rulesYAML)); err != nil {
		return nil, err
	}
	if err := s.request(ctx, "E", people); err != nil {
		return nil, err
	}
	return s, s.keep("empty")
}

// with is the same repository, used with another number of workers.
func (s *setup) with(workers int) (*setup, error) {
	text, err := os.ReadFile(filepath.Join(s.dir, s.config))
	if err != nil {
		return nil, err
	}
	other := *s
	other.config = fmt.Sprintf("workers%d.yml", workers)
	return &other, s.write(other.config, string(text)+fmt.Sprintf("\nworkers: %d\n", workers))
}

// request records that people are to be erased.
func (s *setup) request(ctx context.Context, ref string, people []string) error {
	if len(people) == 0 {
		return nil
	}
	c := s.command("erasure", "request", "--quiet", "-")
	c.stdin = requestLines(ref, people)
	_, err := s.b.execute(ctx, c)
	return err
}

// requestLines are requests for people as lethe erasure request reads them.
func requestLines(ref string, people []string) io.Reader {
	var lines strings.Builder
	for k, id := range people {
		fmt.Fprintf(&lines, "user:%s,%s-%d\n", id, ref, k)
	}
	return strings.NewReader(lines.String())
}

func (s *setup) write(name, text string) error {
	return os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600)
}

func (s *setup) store() string { return filepath.Join(s.dir, "store") }

// keep remembers the repository as it is now, under a name.
func (s *setup) keep(name string) error {
	for _, part := range []string{"store", "state"} {
		if err := os.CopyFS(filepath.Join(s.dir, name, part), os.DirFS(filepath.Join(s.dir, part))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// bring makes the repository as it was when it was kept under a name.
func (s *setup) bring(name string) error {
	for _, part := range []string{"store", "state"} {
		if err := os.RemoveAll(filepath.Join(s.dir, part)); err != nil {
			return err
		}
		if err := os.CopyFS(filepath.Join(s.dir, part), os.DirFS(filepath.Join(s.dir, name, part))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// forget drops what was kept under a name.
func (s *setup) forget(name string) error { return os.RemoveAll(filepath.Join(s.dir, name)) }

func (s *setup) remove() error { return os.RemoveAll(s.dir) }

func (s *setup) command(args ...string) command {
	return command{pipe: [][]string{append([]string{s.b.tools["lethe"], "--config", filepath.Join(s.dir, s.config)}, args...)}}
}

// lethe runs the binary, untimed. What it prints as JSON goes to into, where that is not nil.
func (s *setup) lethe(ctx context.Context, into any, args ...string) error {
	c := s.command(args...)
	var out bytes.Buffer
	if into != nil {
		c.pipe[0] = append(c.pipe[0], "--json")
		c.stdout = &out
	}
	if _, err := s.b.execute(ctx, c); err != nil {
		return err
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(out.Bytes(), into)
}

// backup is Lethe's side of a round that takes a snapshot; with reset it is the first in an empty repository. Bytes are
// those of the files that are new in the store.
func (s *setup) backup(reset bool) side {
	var before int64
	return side{name: "lethe backup",
		before: func(ctx context.Context) (err error) {
			if reset {
				if err := s.bring("empty"); err != nil {
					return err
				}
			}
			before, err = sizeOf(s.store())
			return err
		},
		command: func() command { return s.command("backup", "--quiet") },
		after: func(_ context.Context, t *taken) error {
			after, err := sizeOf(s.store())
			t.Bytes = after - before
			return err
		}}
}

// people are n users to erase, spread over the product's life. Where that would be more than one in a hundred, the
// others are people whom the database does not have any more, as it is with people erased long ago.
func (d *dataset) people(n int) []string {
	alive := min(n, d.maker.base.users()/100)
	list := make([]string, 0, n)
	for k := range n {
		if k < alive {
			list = append(list, user(d.maker.base.users()*(2*k+1)/(2*alive)).String())
		} else {
			list = append(list, uuid{9, k}.String())
		}
	}
	slices.Sort(list)
	return list
}

// Rounds ------------------------------------------------------------------------------------------------------------

// side is one way to do what a scenario measures.
type side struct {
	name    string
	before  func(context.Context) error // untimed; may be nil
	command func() command
	after   func(context.Context, *taken) error // untimed; may be nil
}

// rounds runs the sides one after another, n times over: A B A B.
func (b *bench) rounds(ctx context.Context, r *result, n int, beforeEach func(context.Context) error, sides ...side) error {
	for _, s := range sides {
		r.Sides = append(r.Sides, sideResult{Name: s.name})
	}
	first := len(r.Sides) - len(sides)
	for k := range n {
		if err := b.round(ctx, r, first, beforeEach, sides); err != nil {
			return err
		}
		b.say("%s, round %d of %d:%s", r.Title, k+1, n, r.lastRound(first))
	}
	return nil
}

func (b *bench) round(ctx context.Context, r *result, first int, beforeEach func(context.Context) error, sides []side) error {
	if beforeEach != nil {
		if err := beforeEach(ctx); err != nil {
			return err
		}
	}
	for i, s := range sides {
		t, err := b.turn(ctx, s)
		if err != nil {
			return err
		}
		to := &r.Sides[first+i]
		to.Command = s.command().String()
		to.Runs = append(to.Runs, t)
	}
	return nil
}

// turn runs one side once.
func (b *bench) turn(ctx context.Context, s side) (t taken, err error) {
	if s.before != nil {
		if err := s.before(ctx); err != nil {
			return t, err
		}
	}
	unlock, err := b.lock(ctx)
	if err != nil {
		return t, err
	}
	t, err = b.time(ctx, s.command())
	unlock()
	if err == nil && s.after != nil {
		err = s.after(ctx, &t)
	}
	return t, err
}
