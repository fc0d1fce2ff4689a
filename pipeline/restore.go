package pipeline

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"lethe/pipeline/archive"
	"lethe/pipeline/target"
	"lethe/rules"
	"lethe/scrub/catalog"
	"lethe/scrub/copytext"
)

// RestoreConfig is what a restore needs.
type RestoreConfig struct {
	Repository *Repository
	Others     []*Repository // other stores of it, whose ledgers may know of later requests
	Snapshot   string        // latest, an id, or an unambiguous prefix
	Identities *archive.Identities

	To     string    // libpq URL of the database to build; or
	Output io.Writer // where SQL text goes instead

	Expect        *archive.LedgerHead // a head of the ledger that somebody noted down; may be nil
	Until         int64               // the last record to be replayed: later ones are false; 0 means all
	WithoutLedger bool                // replay nothing, whatever the ledger holds or whether there is one
	Rules         *rules.File         // where the newest snapshot's rules can't decide about this one; or nil

	Tables      []catalog.Name // only these tables' rows; nil means all
	CreateRoles bool           // make roles that are missing, without passwords
	NoOwner     bool           // leave out who owns what
	NoACL       bool           // leave out privileges
	Workers     int
	Memory      int64 // what pieces on their way into tables may take of it; 0 means 256 MiB
	DryRun      bool  // check everything that can be checked before the first row, change nothing
	Now         func() time.Time
	Progress    func(Progress)
	Warn        func(string)
}

// RestoreReport says what a restore did.
type RestoreReport struct {
	Snapshot string              `json:"snapshot"`
	Taken    time.Time           `json:"taken"`
	Database string              `json:"database,omitempty"` // "" for SQL text
	Created  bool                `json:"created"`
	Tables   int                 `json:"tables"`
	Rows     int64               `json:"rows"`
	Bytes    int64               `json:"text_bytes"`
	Seconds  float64             `json:"seconds"`
	Ledger   *archive.LedgerHead `json:"ledger"`   // the head of the ledger that was replayed; null where none was
	Replayed []string            `json:"replayed"` // refs of the requests that came after the snapshot, and were replayed
	Omitted  []string            `json:"omitted"`  // in words, what of the ledger was left out, and who may be back for that
	Erased   []TableErasure      `json:"erased"`   // what they take, in the whole snapshot
	LeftOut  []string            `json:"left_out"` // constraints that --table left out, settings that could not be applied
}

// Restore brings one snapshot back: backup's line read backwards. On an error nothing that looks whole is left.
func Restore(ctx context.Context, c RestoreConfig) (report *RestoreReport, err error) {
	what := c.Snapshot
	defer func() { err = fail(err, "", "restore %s", what) }()
	begun := c.Now()
	id, err := c.Repository.Find(ctx, c.Snapshot)
	if err != nil {
		return nil, err
	}
	what = id
	m, digest, err := c.Repository.manifest(ctx, id, c.Identities) // signature, then decryption
	if err != nil {
		return nil, err
	}
	r := newRestore(c, m)
	if err := r.readDDL(ctx); err != nil { // digest, decryption, decompression: also of every object that follows
		return nil, err
	}
	requests, err := r.later(ctx) // whom requests are about that came after the snapshot
	if err != nil {
		return nil, err
	}
	if r.replay, err = newReplay(ctx, c.Repository, m, digest, requests, &c); err != nil {
		return nil, fail(err, "", "replay erasures")
	}
	r.report.Erased = r.replay.effects()
	if r.replay != nil {
		for _, text := range r.replay.stored.unfit() {
			r.omit("%s", text)
		}
	}
	for _, q := range requests {
		r.report.Replayed = append(r.report.Replayed, q.Ref)
	}
	if c.Output != nil {
		err = r.writeSQL(ctx)
	} else {
		err = r.fill(ctx)
	}
	if err != nil {
		return nil, err
	}
	r.report.Rows, r.report.Bytes = r.rows.Load(), r.bytes.Load()
	r.report.Seconds = c.Now().Sub(begun).Seconds()
	return r.report, nil
}

// restore is one run of Restore.
type restore struct {
	c        RestoreConfig
	m        *archive.Manifest
	filter   catalog.Filter
	globals  []catalog.Statement
	pre      []catalog.Statement
	post     []catalog.Statement
	cat      *catalog.Catalog
	selected map[catalog.Name]bool // nil means all
	replay   *replay               // nil where nothing is to be replayed
	report   *RestoreReport
	mu       sync.Mutex // guards report.LeftOut while tasks run

	rows, bytes atomic.Int64
	total       int64                  // bytes of text of the tables that are restored
	sizes       map[catalog.Name]int64 // of each of them
	memory      *semaphore.Weighted    // bytes of pieces on their way into tables
	mostMemory  int64                  // of them, together: a larger one goes alone
	openers     sync.Pool              // of *pieceOpener
}

func newRestore(c RestoreConfig, m *archive.Manifest) *restore {
	most := cmp.Or(c.Memory, DefaultMemory) / 4
	return &restore{c: c, m: m, report: &RestoreReport{Snapshot: m.ID, Taken: m.Started, Replayed: []string{}, Omitted: []string{}, LeftOut: []string{}}, sizes: map[catalog.Name]int64{},
		memory: semaphore.NewWeighted(most), mostMemory: most}
}

// omit says what of the ledger is not replayed.
func (r *restore) omit(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.report.Omitted = append(r.report.Omitted, text)
	if r.c.Warn != nil {
		r.c.Warn(text)
	}
}

// later reads the ledger for the requests that the snapshot does not honour. Whatever keeps one of them from being
// replayed is said, and stays in the report.
func (r *restore) later(ctx context.Context) ([]erasure, error) {
	if r.c.WithoutLedger {
		r.omit("no erasure was replayed: everybody is back who was erased after %s", r.m.Started.UTC().Format(time.RFC3339))
		return nil, nil
	}
	ledger, doubts, err := openLedgers(ctx, r.c.Repository, r.c.Others, r.c.Identities, r.c.Expect)
	if err == nil {
		err = ledger.Holds(r.m.Ledger)
	}
	if err != nil {
		return nil, fail(err, "restore from a store whose ledger is whole. If there is none left, --without-ledger restores what the snapshot holds, with everybody who was erased since: erase them again by hand before anybody uses it",
			"find out who was erased since")
	}
	r.report.Ledger = ledger.Head()
	for _, text := range doubts {
		r.omit("%s", text)
	}
	if r.c.Until > 0 && r.m.Ledger != nil && r.m.Ledger.Sequence > r.c.Until {
		r.omit("the snapshot itself honours the ledger up to record %d: whom the records after %d are about is not in it, and no restore of it brings them back; only an older snapshot can",
			r.m.Ledger.Sequence, r.c.Until)
	}
	var requests []*archive.LedgerRequest
	for _, q := range ledger.After(r.m.Ledger) {
		if r.c.Until > 0 && q.Sequence > r.c.Until {
			r.omit("erasure request %d (%s) was left out, as was asked for", q.Sequence, q.Ref)
			continue
		}
		requests = append(requests, q)
	}
	for _, e := range ledger.Records {
		if e.Closed && (r.m.Ledger == nil || e.Sequence > r.m.Ledger.Sequence) {
			r.omit("erasure request %d is closed, and the snapshot is from before it: whom it was about is not known any more, so they are back", e.Sequence)
		}
	}
	return erasures(requests), nil
}

// readDDL reads the text parts and decides what of them will run.
func (r *restore) readDDL(ctx context.Context) error {
	r.filter = catalog.Filter{NoOwner: r.c.NoOwner, NoACL: r.c.NoACL}
	opener, err := archive.NewOpener(r.c.Identities)
	if err != nil {
		return err
	}
	read := func(k archive.PartKind) (string, []catalog.Statement, error) {
		var text strings.Builder
		for _, p := range r.m.Parts {
			if p.Kind != k {
				continue
			}
			for _, o := range p.Objects {
				piece, err := r.open(ctx, opener, o)
				if err != nil {
					return "", nil, err
				}
				text.Write(piece)
			}
		}
		statements, err := catalog.Split(text.String())
		if err != nil {
			return "", nil, fmt.Errorf("read the %s: %w", k, err)
		}
		return text.String(), statements, nil
	}
	if _, r.globals, err = read(archive.Globals); err != nil {
		return err
	}
	preText, pre, err := read(archive.PreData)
	if err != nil {
		return err
	}
	postText, post, err := read(archive.PostData)
	if err != nil {
		return err
	}
	if r.cat, err = catalog.Parse(preText, postText); err != nil {
		return err
	}
	if r.pre, err = r.keep(pre); err != nil {
		return err
	}
	if r.post, err = r.keep(post); err != nil {
		return err
	}
	if err := r.selectTables(); err != nil {
		return err
	}
	for _, p := range r.m.Parts {
		if p.Kind != archive.Table || !r.wants(p) {
			continue
		}
		r.report.Tables++
		for _, o := range p.Objects {
			r.total += o.Text
			r.sizes[partName(p)] += o.Text
		}
	}
	return nil
}

// keep applies --no-owner and --no-acl.
func (r *restore) keep(all []catalog.Statement) (kept []catalog.Statement, err error) {
	for _, s := range all {
		text, keep, err := r.filter.Apply(s)
		if err != nil {
			return nil, err
		}
		if keep {
			s.Text = text
			kept = append(kept, s)
		}
	}
	return kept, nil
}

func partName(p archive.Part) catalog.Name { return catalog.Name{Schema: p.Schema, Name: p.Table} }

func (r *restore) wants(p archive.Part) bool { return r.selected == nil || r.selected[partName(p)] }

// selectTables narrows a restore to some tables' rows. The schema stays whole; a foreign key of rows that come back to
// rows that don't could not hold, so it is left out, and said so. Naming a partitioned table means its partitions.
func (r *restore) selectTables() error {
	if len(r.c.Tables) == 0 {
		return nil
	}
	r.selected = map[catalog.Name]bool{}
	for _, name := range r.c.Tables {
		found := false
		for _, p := range r.m.Parts {
			if p.Kind == archive.Table && r.under(partName(p), name) {
				r.selected[partName(p)], found = true, true
			}
		}
		if !found {
			return fail(configuration(errors.New("the snapshot has no such table")), "lethe list -v shows its tables", "select table %s", name)
		}
	}
	drop := map[catalog.Header]bool{}
	for _, t := range r.cat.Order {
		for _, fk := range t.References {
			if r.some(t.Name) && !r.whole(fk.To) {
				drop[catalog.Header{Schema: t.Name.Schema, Name: t.Name.Name + " " + fk.Name}] = true
			}
		}
	}
	r.post = slices.DeleteFunc(r.post, func(s catalog.Statement) bool {
		out := s.Header.Type == "FK CONSTRAINT" && drop[catalog.Header{Schema: s.Header.Schema, Name: s.Header.Name}]
		if out {
			r.report.LeftOut = append(r.report.LeftOut, "foreign key "+s.Header.Name)
		}
		return out
	})
	return nil
}

// under reports whether name is ancestor or a partition below it.
func (r *restore) under(name, ancestor catalog.Name) bool {
	if name == ancestor {
		return true
	}
	for t := r.cat.Tables[name]; t != nil; t = t.Parent {
		if t.Name == ancestor {
			return true
		}
	}
	return false
}

// some reports whether any rows of a table, with its partitions, are restored.
func (r *restore) some(name catalog.Name) bool {
	return slices.ContainsFunc(r.m.Parts, func(p archive.Part) bool {
		return p.Kind == archive.Table && r.under(partName(p), name) && r.wants(p)
	})
}

// whole reports whether all rows of a table, with its partitions, are restored.
func (r *restore) whole(name catalog.Name) bool {
	for _, p := range r.m.Parts {
		if p.Kind == archive.Table && r.under(partName(p), name) && !r.wants(p) {
			return false
		}
	}
	return true
}

// open fetches one object and checks it all the way to its text.
func (r *restore) open(ctx context.Context, opener *archive.Opener, o archive.Object) ([]byte, error) {
	data, err := r.c.Repository.Object(ctx, o)
	if err != nil {
		return nil, err
	}
	return opener.Open(data, o)
}

// fill restores into a database.
func (r *restore) fill(ctx context.Context) (err error) {
	d := r.m.Database
	props := target.Properties{Encoding: d.Encoding, LocaleProvider: d.LocaleProvider, Collate: d.Collate, CType: d.CType,
		ICULocale: d.ICULocale, Comment: d.Comment, ClientEncoding: r.m.ClientEncoding}
	if r.c.DryRun {
		return r.check(ctx, props)
	}
	db, err := target.Open(ctx, r.c.To, r.m.ID, props)
	if err != nil {
		return unfit(err)
	}
	defer func() {
		if err == nil {
			return
		}
		if left := db.Abandon(ctx); left != nil {
			err = errors.Join(err, &kind{left, ErrLeftBehind})
		}
	}()
	r.report.Database, r.report.Created = db.Name, db.Created
	if err := r.requirements(ctx, db); err != nil {
		return err
	}
	if r.c.CreateRoles {
		if err := db.Exec(ctx, "globals", r.globals); err != nil {
			return err
		}
	}
	if err := r.tablespaces(ctx, db); err != nil {
		return err
	}
	if err := db.Exec(ctx, "pre-data", r.pre); err != nil {
		return fail(err, "--output FILE writes SQL text, which psql runs past a statement that can't be run", "")
	}
	// From here on one thing need not wait for another that it does not need.
	tasks := append(r.loads(db), r.texts(db, archive.Sequences), r.texts(db, archive.LargeObjects))
	tasks, last, err := r.postData(ctx, db, tasks)
	if err != nil {
		return err
	}
	analyses, err := r.analyses(ctx, db)
	if err != nil {
		return err
	}
	if err := runAll(ctx, append(tasks, analyses...), r.c.Workers); err != nil {
		return err
	}
	if err := db.Exec(ctx, string(archive.PostData), last); err != nil {
		return err
	}
	var settings []target.Setting
	for _, s := range d.Settings {
		settings = append(settings, target.Setting(s))
	}
	skipped, err := db.Finish(ctx, settings) // the commit
	r.report.LeftOut = append(r.report.LeftOut, skipped...)
	return err
}

// unfit says what to do about a target that was named wrongly; other errors pass through.
func unfit(err error) error {
	switch {
	case errors.Is(err, target.ErrNotEmpty):
		return fail(configuration(err), "name a database that does not exist (it is created), or empty this one", "prepare the target")
	case errors.Is(err, target.ErrAddress):
		return fail(configuration(err), "write postgres:///NAME or postgres://USER@HOST/NAME, with anything special in it percent-encoded", "prepare the target")
	}
	return err
}

// tablespaces puts what was in tablespaces that the server lacks into the default one, and says so.
func (r *restore) tablespaces(ctx context.Context, db *target.Database) error {
	const set = "SET default_tablespace = "
	has := map[string]bool{set + "'';": true}
	for _, list := range [][]catalog.Statement{r.pre, r.post} {
		for i, s := range list {
			name, ok := strings.CutPrefix(s.Text, set)
			if !ok {
				continue
			}
			there, known := has[s.Text]
			if !known {
				var err error
				if there, err = db.HasTablespace(ctx, s.Text); err != nil {
					return err
				}
				has[s.Text] = there
			}
			if there {
				continue
			}
			list[i].Text = set + "'';"
			if !known {
				r.report.LeftOut = append(r.report.LeftOut, "the tablespace "+strings.TrimSuffix(name, ";")+", which the server does not have: the default one takes its place")
			}
		}
	}
	return nil
}

// check is what a dry run does: nothing is created.
func (r *restore) check(ctx context.Context, props target.Properties) error {
	server, err := target.Look(ctx, r.c.To)
	if err != nil {
		return unfit(err)
	}
	defer server.Close()
	r.report.Database, r.report.Created = server.Name, !server.Exists
	return r.requirements(ctx, server)
}

// serverNeeds is what requirements asks a server.
type serverNeeds interface {
	MissingRoles(ctx context.Context, names []string) ([]string, error)
	MissingExtensions(ctx context.Context, names []string) ([]string, error)
}

// requirements lists everything that the server lacks before anything starts.
func (r *restore) requirements(ctx context.Context, server serverNeeds) error {
	var lacking []string
	var help []string
	extensions := make([]string, 0, len(r.m.Extensions))
	for _, e := range r.m.Extensions {
		extensions = append(extensions, e.Name)
	}
	missing, err := server.MissingExtensions(ctx, extensions)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		lacking = append(lacking, "the extensions "+strings.Join(missing, ", "))
		help = append(help, "install the packages of the extensions on the target")
	}
	if !r.c.CreateRoles {
		names, err := r.roles()
		if err != nil {
			return err
		}
		missing, err := server.MissingRoles(ctx, names)
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			lacking = append(lacking, "the roles "+strings.Join(missing, ", "))
			help = append(help, "--create-roles makes the roles, without passwords; --no-owner --no-acl does without them")
		}
	}
	if len(lacking) > 0 {
		return fail(configuration(fmt.Errorf("the target server lacks %s", strings.Join(lacking, " and "))), strings.Join(help, "; "), "prepare the target")
	}
	return nil
}

// roles returns the roles that what will run names.
func (r *restore) roles() ([]string, error) {
	if r.filter == (catalog.Filter{}) || (r.has(archive.LargeObjects) && !(r.filter.NoOwner && r.filter.NoACL)) {
		var names []string
		for _, role := range r.m.Roles {
			names = append(names, role.Name)
		}
		return names, nil
	}
	return catalog.RolesOf(slices.Concat(r.pre, r.post), r.filter)
}

func (r *restore) has(k archive.PartKind) bool {
	return slices.ContainsFunc(r.m.Parts, func(p archive.Part) bool { return p.Kind == k && len(p.Objects) > 0 })
}

// texts returns the task that runs a part that is SQL text, one object after another, when all rows are there.
func (r *restore) texts(db *target.Database, k archive.PartKind) task {
	return task{tables: []catalog.Name{everyRow}, alone: true, do: func(ctx context.Context) error { return r.runTexts(ctx, db, k) }}
}

func (r *restore) leaveOut(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.LeftOut = append(r.report.LeftOut, fmt.Sprintf(format, args...))
}

func (r *restore) progress(p *openedPiece) {
	rows, bytes := r.rows.Add(p.n), r.bytes.Add(p.object.Text)
	if r.c.Progress != nil {
		r.c.Progress(Progress{Stage: "loading rows", Bytes: bytes, Total: r.total, Rows: rows})
	}
}

// runTexts runs the objects of a part that is SQL text, one after another.
func (r *restore) runTexts(ctx context.Context, db *target.Database, k archive.PartKind) error {
	opener, err := archive.NewOpener(r.c.Identities)
	if err != nil {
		return err
	}
	erase := r.replay.largeObjects()
	for _, p := range r.m.Parts {
		if p.Kind != k {
			continue
		}
		for _, o := range p.Objects {
			text, err := r.open(ctx, opener, o)
			if err != nil {
				return err
			}
			if k == archive.LargeObjects && erase != nil {
				if text, err = erase.apply(text); err != nil {
					return err
				}
			}
			if k == archive.LargeObjects && r.filter != (catalog.Filter{}) {
				if text, err = r.filtered(text); err != nil {
					return err
				}
			}
			if err := db.Run(ctx, string(k), string(text)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *restore) filtered(text []byte) ([]byte, error) {
	statements, err := catalog.Split(string(text))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	kept, err := r.keep(statements)
	if err != nil {
		return nil, err
	}
	for _, s := range kept {
		out.WriteString(s.Text)
		out.WriteByte('\n')
	}
	return out.Bytes(), nil
}

// writeSQL writes the snapshot as a script for psql. When it fails midway the script ends in a statement that fails too,
// so that nobody who feeds it to psql takes it for whole.
func (r *restore) writeSQL(ctx context.Context) (err error) {
	w := r.c.Output
	defer func() {
		if err != nil {
			_, writeErr := io.WriteString(w, "\nDO $$ BEGIN RAISE EXCEPTION 'lethe: this script is incomplete, its restore failed'; END $$;\n")
			err = errors.Join(err, writeErr)
		}
	}()
	opener, err := archive.NewOpener(r.c.Identities)
	if err != nil {
		return err
	}
	statements := func(list []catalog.Statement) error {
		for _, s := range list {
			if _, err := io.WriteString(w, s.Text+"\n\n"); err != nil {
				return fmt.Errorf("write the SQL text: %w", err)
			}
		}
		return nil
	}
	for _, p := range r.m.Parts {
		switch p.Kind {
		case archive.Globals:
			if r.c.CreateRoles {
				err = statements(r.globals)
			}
		case archive.PreData:
			err = statements(r.pre)
		case archive.PostData:
			err = statements(r.post)
		default:
			if p.Kind == archive.Table && !r.wants(p) {
				continue
			}
			err = r.writeObjects(ctx, opener, p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *restore) writeObjects(ctx context.Context, opener *archive.Opener, p archive.Part) error {
	erase, rewriter := r.replay.largeObjects(), newRewriter()
	for _, o := range p.Objects {
		var gone int64
		text, err := r.open(ctx, opener, o)
		if err == nil && p.Kind == archive.Table {
			header := copytext.Header(partName(p).SQL(), p.Columns)
			if _, err = rowsOf(text, header, o); err == nil {
				text, gone, err = r.replay.text(rewriter, o, text, header)
			}
		}
		if err != nil && p.Kind == archive.Table {
			return fmt.Errorf("table %s: %w", p.Name, err)
		}
		if err != nil {
			return err
		}
		if p.Kind == archive.LargeObjects && erase != nil {
			if text, err = erase.apply(text); err != nil {
				return err
			}
		}
		if p.Kind == archive.LargeObjects && r.filter != (catalog.Filter{}) {
			if text, err = r.filtered(text); err != nil {
				return err
			}
		}
		if _, err := r.c.Output.Write(text); err != nil {
			return fmt.Errorf("write the SQL text: %w", err)
		}
		r.rows.Add(o.Rows - gone)
		r.bytes.Add(o.Text)
	}
	return nil
}
