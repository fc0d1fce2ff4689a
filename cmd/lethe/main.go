// Command lethe backs up PostgreSQL databases, encrypted, and can forget a person.
//
// One file per command; this one holds the way in and out: flags that all commands share, and the one switch that
// decides the exit code.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/store"
	"lethe/pipeline/store/open"
	"lethe/rules"
)

// Exit codes; `lethe help exit-codes` prints them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitDegraded    = 3
	exitStale       = 4
	exitLocked      = 5
	exitIntegrity   = 6
	exitInterrupted = 130
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main without the process: it returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // who presses Ctrl-C twice does not want to wait for the tidying up
	a := &app{term: newTerminal(stdout, stderr), stdin: stdin}
	root := a.root()
	root.SetArgs(joinReadData(args))
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	a.term.Progress("")
	code := exitCode(ctx, err)
	var nagios *nagiosExit
	switch {
	case errors.As(err, &nagios): // it has said its line
	case code == exitInterrupted && !errors.Is(err, pipeline.ErrLeftBehind):
		a.term.Fail(errors.New("interrupted; nothing half done was kept"))
	case err != nil:
		a.term.Fail(err)
	}
	return code
}

// exitCode is the one place that decides it.
func exitCode(ctx context.Context, err error) int {
	var ruleErrors rules.Errors
	var use *usageError
	var degraded *degradedError
	var stale *staleError
	var nagios *nagiosExit
	switch {
	case err == nil:
		return exitDone
	case ctx.Err() != nil:
		return exitInterrupted
	case errors.As(err, &nagios):
		return nagios.code
	case errors.As(err, &use), errors.As(err, &ruleErrors), errors.Is(err, pipeline.ErrConfig), errors.Is(err, archive.ErrKeyFile),
		errors.Is(err, archive.ErrRecipients), errors.Is(err, archive.ErrNoIdentity), errors.Is(err, open.ErrUnsupported), errors.Is(err, store.ErrURL): // a wrong key is a wrong argument
		return exitUsage
	case errors.Is(err, pipeline.ErrIntegrity):
		return exitIntegrity
	case errors.Is(err, pipeline.ErrLocked):
		return exitLocked
	case errors.As(err, &stale):
		return exitStale
	case errors.As(err, &degraded):
		return exitDegraded
	}
	return exitFailed
}

// usageError is a mistake in flags or configuration.
type usageError struct {
	err  error
	hint string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }
func (e *usageError) Hint() string  { return e.hint }

func usage(hint, format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...), hint}
}

// degradedError means: done, but not everywhere or not quite.
type degradedError struct{ err error }

func (e *degradedError) Error() string { return e.err.Error() }
func (e *degradedError) Unwrap() error { return e.err }

// app is what the commands of one run share.
type app struct {
	term       *terminal
	stdin      io.Reader
	configPath string
	memory     string
	dryRun     bool
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "lethe",
		Short: "Encrypted PostgreSQL backups that can forget a person",
		Long: strings.TrimSpace(`
Lethe takes encrypted snapshots of a PostgreSQL database onto other machines. Rules
redact columns for everybody, and take named people out of every table that holds
their data. The server that runs backups can't read them; key holders restore.

Start with: lethe init --help`),
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              knownCommand,
		RunE:              func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	f := root.PersistentFlags()
	f.StringVar(&a.configPath, "config", "", "configuration `FILE` (default ./lethe.yml, then /etc/lethe/lethe.yml; LETHE_CONFIG)")
	f.StringVar(&a.memory, "memory", os.Getenv("LETHE_MEMORY"), "keep to about `SIZE` of memory, beside the longest row (default 256MiB; memory in lethe.yml, LETHE_MEMORY)")
	f.BoolVar(&a.term.json, "json", envBool("LETHE_JSON"), "print one JSON document on stdout (also LETHE_JSON=1)")
	f.BoolVarP(&a.term.quiet, "quiet", "q", envBool("LETHE_QUIET"), "print only what was asked for, warnings and errors (also LETHE_QUIET=1)")
	f.BoolVarP(&a.term.verbose, "verbose", "v", envBool("LETHE_VERBOSE"), "tell more (also LETHE_VERBOSE=1)")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage(c.CommandPath()+" --help", "%w", err)
	})
	root.AddCommand(a.initCommand(), a.backupCommand(), a.listCommand(), a.restoreCommand(), a.checkCommand(),
		a.statusCommand(), a.expireCommand(), a.erasureCommand(), a.rulesCommand(), a.keygenCommand(), a.versionCommand(), a.completionCommand(), a.manCommand())
	root.AddCommand(helpTopics()...)
	for _, c := range root.Commands() {
		checkArgs(c)
	}
	return root
}

// knownCommand refuses what is no command, with the nearest one that is.
func knownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	help := "lethe --help"
	if c.SuggestionsMinimumDistance <= 0 {
		c.SuggestionsMinimumDistance = 2
	}
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		help = "lethe " + strings.Join(near, ", or lethe ")
	}
	return usage(help, "unknown command %q", args[0])
}

// checkArgs makes wrong arguments and unknown subcommands usage errors.
func checkArgs(c *cobra.Command) {
	if inner := c.Args; inner != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := inner(c, args); err != nil {
				return usage(c.CommandPath()+" --help", "%w", err)
			}
			return nil
		}
	}
	for _, s := range c.Commands() {
		checkArgs(s)
	}
}

func envBool(name string) bool {
	switch strings.ToLower(os.Getenv(name)) {
	case "1", "true", "yes", "on":
		return true
	}
	return false
}

func helpTopics() []*cobra.Command {
	return []*cobra.Command{
		{Use: "exit-codes", Short: "What the exit codes mean", Long: strings.TrimSpace(`
0    done
1    failed
2    usage or configuration is wrong; also a rules file that can't work, an identity
     that opens nothing here, a snapshot or table that is not there, a target that
     is not empty or lacks roles or extensions
3    done, but degraded: a store failed; a table or column is new since the last
     snapshot and named by no rule (told once); a request whose key is nobody's, or rows
     of the inbox that are not honoured; a purge that leaves versions which are locked or
     not known; an unfinished certificate; a close that leaves old versions
4    stale (status): a store's newest snapshot is too old, or there is none; or an
     erasure request is overdue
5    locked by another run
6    integrity: a signature that is bad or not trusted, a digest that differs, an
     object that is missing, a broken ledger
130  interrupted

lethe status --nagios ends as a Nagios plugin instead: 0 OK, 1 warning, 2 critical,
3 unknown.`)},
		{Use: "ledger", Short: "What to do when a ledger does not hold", Long: strings.TrimSpace(ledgerHelp)},
		{Use: "config", Short: "The keys of lethe.yml", Long: strings.TrimSpace(configHelp)},
	}
}

const ledgerHelp = `
The ledger is the list of erasure requests: ledger/ in every store, and a copy on the
operator's machine, in state: of lethe.yml, below the repository's id. Each record names
the digest of the one before it and is signed, so who reads all of them notices what was
changed, put in another order or left out: restore, erasure list, purge, verify and check
do. Of more than 2000 records a backup compares the newest 1000 with its own copy, and
1000 of the older ones, other ones each time. A store whose ledger does not hold is left
out of the run, the others are served, and the exit code is 6.

First find out why: a disk that fails, somebody's hand, a backup of the store that was
put back, two machines that wrote at once. Then:

a record is missing, was changed, or is signed by somebody who is not trusted
    Take the damaged files of ledger/ away from that store, and copy those that it lacks
    from the operator's copy, or from another store, as they are: the files are the same
    everywhere. lethe backup goes on by itself then.
the ledger is shorter than its newest snapshot knows
    An old ledger was put back. Copy the missing files, as above.
the ledger has forked
    Two machines have recorded requests that did not know of each other. Decide which
    store is right. A key holder notes what the other holds: the script under "ledger/" in
    docs/format.md, run in a copy of that store, prints its open requests with the keys of
    the people. Move ledger/ of that store away, and record again what only it had. Its
    snapshots since the fork name a head that is gone: let them go with it.
a sealed request is nowhere, and no record closes it
    Put ledger/ back from any copy of a store. Or say again whom it was about:
    lethe erasure request SUBJECT --ref REF --instead-of SEQUENCE
    Backups wait until then. Taking over for a lost operator does not: lethe init goes on,
    names the records, and ends with 6.
this machine's copy does not hold
    Move STATE/REPOSITORY/ledger away. It is made anew from the stores.`

const configHelp = `
database:
  url: postgres:///slipmat     libpq URL or keyword string; left out: the PG* variables
  pg_dump: /usr/bin/pg_dump    left out: the newest that fits the server
  lock_timeout: 2s             how long the application may ever wait behind a backup
rules: rules.yml
recipients: [age1…, keys.txt]  age public keys, or files of them
operator_key: operator.key     made by lethe keygen operator, mode 0600
trusted_signers: [RWQ…]        whose snapshots this machine believes, beside its own
stores:
  - url: /srv/backup/slipmat   a directory, or s3://bucket/prefix?region=eu-north-1 (docs/stores.md)
workers: 2                     connections that read or load rows
memory: 256MiB                 what a run keeps to, beside the longest row; --memory beats it
state: /var/lib/lethe          what this machine remembers from run to run, its copy of the ledger
                             above all; left out: what systemd's StateDirectory= gives, else
                             ~/.local/state/lethe. By hand and by the service it must be one
                             and the same
inbox: "SELECT 'user', id, 'DEL-' || request_no, deleted_at FROM public.accounts_deleted"
                             erasure requests in a table of the application, read by every
                             backup: subject type, key, reference, day received. Names
                             want their schema
schedule: {every: 6h, max_age: 6h30m}      lethe status: older than max_age is stale (left out:
                             every and 30m). Age counts from a run's beginning, so max_age is
                             every, what the longest run takes, and some. The timer itself is
                             systemd's or cron's
retention: {keep_within: 7d, keep_min: 1}  lethe expire keeps what is younger, and at least
                             so many; the newest always

Relative paths are relative to the file. No key of lethe.yml holds a secret: put
passwords into ~/.pgpass or PGPASSWORD.`
