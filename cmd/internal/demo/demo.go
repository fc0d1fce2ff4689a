package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"

	"lethe/pipeline/pgtemp"
)

// The sample database, its rules, and the same work as theirs, with one person erased, done by hand in SQL.
var (
	//go:embed slipmat.sql
	slipmatSQL string
	//go:embed rules.yml
	rulesYAML string
	//go:embed by-hand.sql
	byHandSQL string
)

// errFailed says that the demo ran to its end and a check did not hold.
var errFailed = errors.New("not everything that the demo claims is true")

// demo is one run.
type demo struct {
	out   io.Writer
	lethe string // path of the binary
	keep  bool   // hold everything until the context ends
	rules string
	stays bool // nobody asks to be erased: for a test

	// meddle, where set, is called before each step: tests break what the checks are to notice.
	meddle func(ctx context.Context, d *demo, before string) error

	server *pgtemp.Server
	dir    string   // the playground, where commands run; inside the server's folder, so that both go together
	env    []string // of the commands
	checks int
	failed int

	gap     bool         // the last line printed is empty
	outErr  error        // the first that printing met
	printed bytes.Buffer // all that lethe printed
}

func newDemo(out io.Writer, lethe string, keep bool) *demo {
	return &demo{out: out, lethe: lethe, keep: keep, rules: rulesYAML}
}

// The names of the databases.
const (
	source   = "slipmat"
	byHand   = "slipmat_by_hand"
	restored = "slipmat_restored"
)

// run is the whole demo. It returns errFailed when a check did not hold, and other errors when it could not go on.
func (d *demo) run(ctx context.Context) (err error) {
	started := time.Now()
	if d.server, err = pgtemp.Start(ctx, pgtemp.Options{}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.server.Stop()) }()
	if err := d.makePlayground(); err != nil {
		return err
	}
	d.say("Slipmat, a small music community, backs up its database. One member asks to be forgotten.")

	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"load", d.loadSample}, {"set up", d.setUp}, {"back up", d.backUp}, {"erase", d.erase}, {"restore", d.restore}, {"prove", d.prove}, {"purge", d.purge},
		{"damage", d.damageIsCaught}} {
		if d.meddle != nil {
			if err := d.meddle(ctx, d, step.name); err != nil {
				return err
			}
		}
		if err := step.do(ctx); err != nil {
			return err
		}
	}
	took := time.Since(started).Seconds()
	if d.failed > 0 {
		d.heading("%d of %d checks FAILED, in %.1f s", d.failed, d.checks, took)
		err = errFailed
	} else {
		d.heading("All %d checks hold. It took %.1f s.", d.checks, took)
	}
	return errors.Join(err, d.end(ctx), d.outErr)
}

// makePlayground makes the folder the commands run in, with the files that the demo brings.
func (d *demo) makePlayground() error {
	d.dir = filepath.Join(d.server.Dir(), "demo")
	for _, dir := range []string{d.dir, filepath.Join(d.dir, "keyholder")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("make the playground: %w", err)
		}
	}
	for name, text := range map[string]string{"slipmat.sql": slipmatSQL, "completed.yml": d.rules, "by-hand.sql": byHandSQL} {
		if err := d.write(name, text); err != nil {
			return err
		}
	}
	path := filepath.Dir(d.lethe) + ":" + filepath.Dir(d.server.Tool("psql"))
	d.env = []string{"PGHOST=" + d.server.Dir(), "PGPORT=5432", "PGUSER=postgres", "LC_ALL=C.UTF-8", "PATH=" + path + ":" + os.Getenv("PATH"),
		"XDG_STATE_HOME=" + filepath.Join(d.dir, "state")} // what lethe remembers goes with the rest
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		// Somebody's own server and configuration stay out of it.
		if !strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "LETHE_") && !strings.HasPrefix(name, "LC_") && name != "PATH" {
			d.env = append(d.env, kv)
		}
	}
	return nil
}

func (d *demo) write(name, text string) error {
	if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o600); err != nil {
		return fmt.Errorf("write a file of the playground: %w", err)
	}
	return nil
}

func (d *demo) loadSample(ctx context.Context) error {
	d.heading("1. A database with people in it")
	d.say("A throwaway PostgreSQL; nothing of yours is touched. Commands run in a folder beside it:")
	d.shell("export PATH=%s:%s:$PATH", filepath.Dir(d.lethe), filepath.Dir(d.server.Tool("psql")))
	d.shell("export PGHOST=%s PGUSER=postgres XDG_STATE_HOME=%s", d.server.Dir(), filepath.Join(d.dir, "state"))
	d.shell("cd %s", d.dir)
	if err := d.command(ctx, "createdb", source); err != nil {
		return err
	}
	if err := d.command(ctx, "psql", "-X", "-q", "-f", "slipmat.sql", source); err != nil {
		return err
	}
	return d.command(ctx, "psql", "-X", source, "-c", "SELECT full_name, email FROM users ORDER BY full_name LIMIT 4 OFFSET 162")
}

func (d *demo) setUp(ctx context.Context) error {
	d.heading("2. Keys, configuration, rules")
	d.say("The key holder makes a pair of keys on a machine of their own; age-keygen does it:")
	d.shell("age-keygen -o keyholder/key.txt && age-keygen -y keyholder/key.txt > recipient.txt")
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return fmt.Errorf("make the key holder's identity: %w", err)
	}
	if err := d.write("keyholder/key.txt", identity.String()+"\n"); err != nil {
		return err
	}
	if err := d.write("recipient.txt", identity.Recipient().String()+"\n"); err != nil {
		return err
	}
	d.say("(done here without it, so that the demo needs no age on this machine)")
	d.say("")
	d.say("Only the public key goes to the server that makes backups:")
	if err := d.command(ctx, "lethe", "init", "--database", "postgres:///"+source, "--recipient", "recipient.txt", "--store", "store"); err != nil {
		return err
	}
	d.say("The rules, completed by somebody who knows the schema:")
	if err := d.command(ctx, "cp", "completed.yml", "rules.yml"); err != nil {
		return err
	}
	if err := d.command(ctx, "cat", "rules.yml"); err != nil {
		return err
	}
	return d.command(ctx, "lethe", "rules", "check")
}

func (d *demo) backUp(ctx context.Context) error {
	d.heading("3. Back up; what the rules take out never reaches the store")
	for _, args := range [][]string{{"backup", "-v"}, {"check", "--read-data", "all"}} {
		if err := d.command(ctx, append([]string{"lethe"}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) erase(ctx context.Context) error {
	d.heading("4. Ottilie Brandvold asks to be forgotten. From now on no snapshot holds her")
	for _, request := range []struct{ subject, ref string }{{"user:" + personID, "GDPR-2026-014"}, {"customer:" + customerID, "GDPR-2026-015"}} {
		if d.stays {
			break
		}
		if err := d.command(ctx, "lethe", "erasure", "request", request.subject, "--ref", request.ref); err != nil {
			return err
		}
	}
	if err := d.command(ctx, "lethe", "backup", "-v"); err != nil {
		return err
	}
	return d.command(ctx, "lethe", "list")
}

func (d *demo) restore(ctx context.Context) error {
	d.heading("5. Restore, with the key holder's private key")
	if err := d.command(ctx, "lethe", "restore", "latest", "--identity", "keyholder/key.txt", "--to", "postgres:///"+restored); err != nil {
		return err
	}
	return d.command(ctx, "lethe", "check", "--identity", "keyholder/key.txt")
}

// end says how to have the playground, or holds it until the context ends.
func (d *demo) end(ctx context.Context) error {
	if !d.keep {
		d.say("Server and files are removed now; make demo KEEP=1 keeps them to play with.")
		return nil
	}
	d.say("The playground stays until you press Ctrl-C here. In another terminal:")
	d.shell("export PATH=%s:%s:$PATH", filepath.Dir(d.lethe), filepath.Dir(d.server.Tool("psql")))
	d.shell("export PGHOST=%s PGUSER=postgres XDG_STATE_HOME=%s", d.server.Dir(), filepath.Join(d.dir, "state"))
	d.shell("cd %s", d.dir)
	d.shell("psql %s        # or %s, or %s, which SQL made by hand", restored, source, byHand)
	select {
	case <-ctx.Done():
		d.say("")
		d.say("Stopped and removed.")
		return nil
	case <-d.server.Exited():
		return errors.New("the server ended")
	}
}
