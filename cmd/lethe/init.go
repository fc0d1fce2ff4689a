package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/source"
	"lethe/pipeline/store"
	"lethe/pipeline/store/open"
)

type initFlags struct {
	database, dataset string
	recipients        []string
	stores            []string

	// To take over a repository whose operator key is lost.
	identities, trust []string
	signer, expect    string
}

func (a *app) initCommand() *cobra.Command {
	f := &initFlags{}
	c := &cobra.Command{
		Use:   "init",
		Short: "Set up: configuration, rules, operator key, repository",
		Long: strings.TrimSpace(`
Makes what is missing, and touches nothing that is there: lethe.yml, a rules file with
suggestions from the live schema, the operator key, the repository in each store, and
a card for the key holder that says what to keep offline.

The recipient is the key holder's age public key. Make the pair on the key holder's
machine with age-keygen: the private key never belongs on this one.

Where the operator key of a repository is lost, the key holder takes it over, on their
own machine, in an empty directory, with --identity, --signer and, as --trust, the lost
operator's line from the card. This makes a new operator key, with which backups and
erasures go on: the stored snapshots and the ledger are sealed for it, signed by the key
holder. It also writes lethe.yml, without retention:, which only the lost one knew, the
rules as the newest snapshot has them, and a new card. Move operator.key, lethe.yml and
rules.yml to the new machine; --identity and --signer never belong there. Run again, it
ends what was interrupted, and takes over a store that could not be reached. Nobody needs
to trust the lost operator afterwards.`),
		Example: `  lethe init --database postgres:///slipmat --recipient age1… --store /mnt/backup/slipmat
  lethe init --store /mnt/backup/slipmat --trust RWQ… --identity key.txt --signer signer.key`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.takesOver() {
				return a.adopt(c.Context(), f)
			}
			return a.init(c.Context(), f)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.database, "database", "", "libpq `URL` of the database, without a password (default: the PG* variables)")
	fl.StringVar(&f.dataset, "dataset", "", "what to call it (default: the database's name)")
	fl.StringArrayVarP(&f.recipients, "recipient", "r", nil, "age public `KEY`, or a file of them; may be repeated")
	fl.StringArrayVarP(&f.stores, "store", "s", nil, "a store's `URL` or directory; may be repeated")
	fl.StringArrayVarP(&f.identities, "identity", "i", nil, "to take over: open the repository with the age identity in `FILE`, a key holder's")
	fl.StringVar(&f.signer, "signer", "", "to take over: sign with the key in `FILE`, made by lethe keygen signer")
	fl.StringArrayVar(&f.trust, "trust", nil, "to take over: believe what this public `LINE` (RW…) has signed, the lost operator's")
	fl.StringVar(&f.expect, "expect-head", "", "to take over: fail unless the ledger holds this `HEAD`, which an earlier run printed")
	return c
}

// initFiles are what init writes, beside the configuration.
const (
	rulesFile    = "rules.yml"
	operatorFile = "operator.key"
	cardFile     = "key-holder-card.txt"
)

func (a *app) init(ctx context.Context, f *initFlags) error {
	cfg, fresh, err := a.initConfig(f)
	if err != nil {
		return err
	}
	recipients, err := cfg.recipients()
	if err != nil {
		return err
	}
	trusted, err := cfg.trusted(nil)
	if err != nil {
		return err
	}
	id := existingRepository(ctx, cfg)
	if operator := cfg.resolve(cfg.OperatorKey); id != "" && missingFile(operator) {
		return usage("put the operator key that made it back into place; if it is lost, the key holder makes another: lethe init --identity key.txt --signer signer.key --trust RW…",
			"a store holds repository %s already, and %s, whose signature it bears, is not here", id, operator)
	}
	rulesPath := cfg.resolve(cfg.Rules)
	if missingFile(rulesPath) { // first, since it needs the database: nothing is made when that can't be reached
		if err := a.initRules(ctx, cfg, f.dataset, rulesPath); err != nil {
			return err
		}
	}
	op, err := a.initOperator(cfg)
	if err != nil {
		return err
	}
	if fresh {
		if err := writeNew(cfg.path, configText(cfg, f), 0o644); err != nil {
			return err
		}
		a.term.Say("wrote %s", cfg.path)
	}
	for _, s := range cfg.Stores {
		st, err := open.Create(ctx, cfg.resolve(s.URL))
		if err != nil {
			return err
		}
		repo, created, err := pipeline.InitRepository(ctx, st, id, op, recipients, trusted...)
		if err = errors.Join(err, st.Close()); err != nil {
			return err
		}
		id = repo.ID
		if created {
			a.term.Say("made repository %s in %s", id, st)
		} else {
			a.term.Say("repository %s is in %s", id, st)
		}
	}
	card := filepath.Join(cfg.dir, cardFile)
	if missingFile(card) {
		if err := writeNew(card, cardText(cfg, id, op.Public().String(), recipients.Strings()), 0o644); err != nil {
			return err
		}
		a.term.Say("wrote %s: print it, and keep it with the private key, off this machine", card)
	}
	if a.term.json {
		return a.term.JSON(map[string]any{"config": cfg.path, "repository": id, "operator": op.Public().String()})
	}
	a.term.Say("next: read and complete %s, then lethe rules check, then lethe backup", rulesPath)
	return nil
}

// existingRepository is the id of the repository that some store holds already: the others get the same. A store that
// can't be opened holds none yet; if there is more to it, making the repository tells.
func existingRepository(ctx context.Context, cfg *config) (id string) {
	for _, s := range cfg.Stores {
		st, err := open.URL(ctx, cfg.resolve(s.URL))
		if err != nil {
			continue
		}
		if repo, err := pipeline.OpenRepository(ctx, st, archive.NewTrust()); err == nil && id == "" {
			id = repo.ID
		}
		closeStores([]store.Store{st})
	}
	return id
}

// initConfig reads lethe.yml, or makes one out of the flags.
func (a *app) initConfig(f *initFlags) (cfg *config, fresh bool, err error) {
	path := a.configPath
	if path == "" {
		path = os.Getenv("LETHE_CONFIG")
	}
	if path == "" {
		path = defaultConfigs[0]
	}
	if missingFile(path) {
		fresh = true
		cfg = &config{path: path, dir: filepath.Dir(path), Rules: rulesFile, OperatorKey: operatorFile, Recipients: f.recipients}
		cfg.Database.URL = f.database
		for _, s := range f.stores {
			if !strings.Contains(s, "://") {
				if s, err = filepath.Abs(s); err != nil {
					return nil, false, err
				}
			}
			cfg.Stores = append(cfg.Stores, storeSpec{URL: s})
		}
	} else {
		if cfg, err = loadConfig(path); err != nil {
			return nil, false, err
		}
		if f.database != "" || len(f.recipients) > 0 || len(f.stores) > 0 {
			return nil, false, usage("change that file, then run lethe init without flags", "%s is there already and says which database, recipients and stores", path)
		}
	}
	switch {
	case len(cfg.Recipients) == 0 && !f.takesOver():
		return nil, false, usage("on the key holder's machine: age-keygen -o key.txt; then --recipient age1… with the public key it prints",
			"no recipient: somebody must be able to read the backups")
	case len(cfg.Stores) == 0:
		return nil, false, usage("--store /mnt/backup/NAME, on a disk of another machine", "no store: the backups must go somewhere")
	case hasPassword(cfg.Database.URL):
		return nil, false, usage("put the password into ~/.pgpass or PGPASSWORD", "the database URL holds a password, and %s is no place for one", path)
	case cfg.Rules == "":
		return nil, false, cfg.missing("rules", "rules: "+rulesFile)
	case cfg.OperatorKey == "":
		return nil, false, cfg.missing("operator_key", "operator_key: "+operatorFile)
	}
	return cfg, fresh, nil
}

var passwordKey = regexp.MustCompile(`(?i)(^|[\s?&])(ssl)?password\s*=`)

// hasPassword tells whether a libpq URL or keyword string holds a password.
func hasPassword(database string) bool {
	_, rest, isURL := strings.Cut(database, "://")
	rest, _, _ = strings.Cut(rest, "?")
	if at := strings.LastIndex(rest, "@"); isURL && at >= 0 && strings.Contains(rest[:at], ":") {
		return true
	}
	return passwordKey.MatchString(database)
}

func (a *app) initOperator(cfg *config) (*archive.OperatorKey, error) {
	path := cfg.resolve(cfg.OperatorKey)
	if !missingFile(path) {
		return cfg.operator()
	}
	op, err := archive.GenerateOperator()
	if err != nil {
		return nil, err
	}
	if err := archive.WriteSecretFile(path, op.Text(time.Now())); err != nil {
		return nil, err
	}
	a.term.Say("wrote %s: this machine's secret, mode 0600", path)
	return op, nil
}

func (a *app) initRules(ctx context.Context, cfg *config, dataset, path string) error {
	src := cfg.source()
	src.Workers = 1
	snap, err := source.Open(ctx, src)
	if err != nil {
		return err
	}
	defer snap.Close()
	if dataset == "" {
		dataset = datasetName(snap.Info.Database)
	}
	if err := writeNew(path, rulesSkeleton(dataset, snap.Catalog), 0o644); err != nil {
		return err
	}
	a.term.Say("wrote %s, with suggestions from %s", path, count(tablesWithRows(snap.Catalog), "table"))
	if snap.Info.Local && len(cfg.Stores) > 0 && !slices.ContainsFunc(cfg.Stores, func(s storeSpec) bool { return strings.Contains(s.URL, "://") }) {
		a.term.Say("note: the database and every store seem to be on this machine; a directory should be a mount of another one's disk")
	}
	return nil
}

var notDataset = regexp.MustCompile(`[^a-z0-9_-]+`)

func datasetName(database string) string {
	name := strings.Trim(notDataset.ReplaceAllString(strings.ToLower(database), "-"), "-_")
	if name == "" {
		return "database"
	}
	return name[:min(len(name), 63)]
}

func configText(c *config, f *initFlags) string {
	var b strings.Builder
	if c.Database.URL != "" {
		// Not {url: …}: the ? of a URL with parameters ends a plain value there.
		fmt.Fprintf(&b, "database:\n  url: %s\n", yamlText(c.Database.URL))
	} else {
		b.WriteString("# database: {url: postgres:///NAME}   left out: the PG* variables\n")
	}
	fmt.Fprintf(&b, "rules: %s\n", rulesFile)
	b.WriteString("recipients:\n")
	for _, r := range f.recipients {
		fmt.Fprintf(&b, "  - %s\n", yamlText(r))
	}
	fmt.Fprintf(&b, "operator_key: %s\n", operatorFile)
	if len(c.TrustedSigners) > 0 {
		fmt.Fprintf(&b, "trusted_signers: [%s]\n", strings.Join(c.TrustedSigners, ", "))
	}
	b.WriteString("stores:\n")
	for _, s := range c.Stores {
		fmt.Fprintf(&b, "  - url: %s\n", yamlText(s.URL))
	}
	b.WriteString("# max_age: every, what the longest run takes, and some\nschedule: {every: 6h, max_age: 6h30m}\n")
	if f.takesOver() {
		b.WriteString("# The lost machine's own file may have kept snapshots for longer: lethe expire deletes nothing before this says for how long.\n" +
			"# retention: {keep_within: 7d, keep_min: 1}\n# state: /var/lib/lethe   left out: lethe help config\n# inbox:\n")
		return b.String()
	}
	b.WriteString("retention: {keep_within: 7d, keep_min: 1}\n" + stateLine())
	return b.String()
}

// systemState is what StateDirectory=lethe of the unit gives to the service.
const systemState = "/var/lib/lethe"

// stateLine names the service's own directory where its user runs init, who is at home there: what is done by hand then
// uses the same copy of the ledger, and the same journal.
func stateLine() string {
	if home, err := os.UserHomeDir(); err != nil || filepath.Clean(home) != systemState {
		return ""
	}
	return "state: " + systemState + "\n"
}

func yamlText(s string) string {
	out, err := yaml.Marshal(s)
	if err != nil {
		return fmt.Sprintf("%q", s)
	}
	return strings.TrimSpace(string(out))
}

func cardText(c *config, id, operator string, recipients []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `LETHE: CARD FOR THE KEY HOLDER

Print this. Keep it with the private age key, away from the server and its provider.
Nothing on this card is secret. Without a private key no backup can be read by anybody.

repository      %s
made by         %s
`, id, operator)
	trust := "--trust " + operator
	for _, signer := range c.TrustedSigners {
		fmt.Fprintf(&b, "signed by       %s, too\n", signer)
		trust += " --trust " + signer
	}
	for _, s := range c.Stores {
		fmt.Fprintf(&b, "store           %s\n", s.URL)
	}
	for _, r := range recipients {
		fmt.Fprintf(&b, "readable with   the private key of %s\n", r)
	}
	fmt.Fprintf(&b, `
To restore, on any machine with lethe and PostgreSQL:

  lethe list    --store STORE %[1]s --identity key.txt
  lethe restore latest --store STORE %[1]s --identity key.txt --to postgres:///NEWNAME

To keep offline: the private key (age-keygen's file), twice, in two places; and this card.
Once a quarter: restore somewhere, and look at the data.
`, trust)
	return b.String()
}

func missingFile(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// writeNew writes a file that must not exist yet, whole or not at all.
func writeNew(path, text string, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(path))
	}
	return nil
}
