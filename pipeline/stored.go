package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"lethe/pipeline/archive"
	"lethe/rules"
	"lethe/scrub"
	"lethe/scrub/catalog"
	"lethe/scrub/copytext"
)

// erasure is one order to erase a person, with its place in the ledger.
type erasure struct {
	sequence int64
	scrub.Request
}

// erasures are requests of the ledger, in its order.
func erasures(requests []*archive.LedgerRequest) []erasure {
	list := make([]erasure, len(requests))
	for i, r := range ToErase(requests) {
		list[i] = erasure{requests[i].Sequence, r}
	}
	return list
}

// stored is the rows of one or many snapshots, as stores hold them: each object once, whatever the number of snapshots
// and stores that have it. It finds what erasing people changes in them.
//
// Today's rules decide: those of the newest snapshot. A snapshot that was made under the same rules, or purged by them
// since, has honoured the requests up to its ledger head, and only later ones count in it; in others all count.
type stored struct {
	identities *archive.Identities
	strategy   archive.SecretKey
	seed       uint64 // of filters
	requests   []erasure
	workers    int
	progress   func(Progress)

	today    *rules.File
	now      *catalog.Catalog // the schema that today's rules were made for
	fallback *rules.File      // rules for snapshots that today's can't be applied to, or nil

	everybody  bool // requests count in every snapshot, also where they were honoured
	unfiltered bool // every piece is read, whatever filters say

	snapshots []*oneSnapshot
	worlds    []*storedWorld
	pieces    []*storedPiece // rows of tables, in the order of the manifests
	byObject  map[objectID]*storedPiece
	filters   map[objectID]*storedFilter
	unread    atomic.Int64 // filters that could not be read

	cache   *objectCache
	long    chan struct{} // held while an object with a huge row is in memory
	fetched atomic.Int64  // bytes of objects that came from stores
	total   atomic.Int64  // bytes of objects that this pass reads
	done    atomic.Int64
}

// oneSnapshot is what is kept of a snapshot's manifest.
type oneSnapshot struct {
	repo     *Repository
	id       string
	digest   string // of the manifest file
	manifest archive.Manifest
	rows     map[catalog.Name]int64 // of each table
	ledger   *Ledger                // of its store; set by whoever needs it
	world    *storedWorld
	number   int // in the world's search
	from     int // the first request that counts
}

// storedWorld is the snapshots that share a schema, rules, an encoding and recipients, so that one plan fits them all, and
// a piece that is rewritten alike for several is sealed once.
type storedWorld struct {
	catalog   *catalog.Catalog
	plan      *scrub.Plan
	search    *scrub.Search
	snapshots []*oneSnapshot // by number
	tables    map[catalog.Name][]*storedUse
	filters   map[catalog.Name][]*storedFilter
	byPiece   map[string][]*storedUse // by piece id
}

// encoding is that of all texts.
func (w *storedWorld) encoding() string { return w.snapshots[0].manifest.ClientEncoding }

// storedPiece is one object that holds rows of a table.
type storedPiece struct {
	object archive.Object
	header string // of its text
	repos  []*Repository
	uses   []*storedUse
}

// storedUse is a piece as the snapshots of one world have it.
type storedUse struct {
	piece   *storedPiece
	world   *storedWorld
	table   catalog.Name
	columns []string
	in      []int         // the snapshots' numbers in the world
	filter  *storedFilter // one that covers the piece, once that is known
}

// newStored prepares for snapshots that today's rules will be applied to. now is the schema of the snapshot that brought
// those.
func newStored(ids *archive.Identities, keys *archive.RepositoryKeys, today *rules.File, now *catalog.Catalog, requests []erasure, workers int) *stored {
	return &stored{identities: ids, strategy: keys.Strategy, seed: archive.FilterSeed(keys.PieceID), requests: requests, workers: workers, today: today, now: now,
		byObject: map[objectID]*storedPiece{}, filters: map[objectID]*storedFilter{}, cache: newObjectCache(), long: make(chan struct{}, 1)}
}

// close lets go of what was kept for another pass. Nothing is there to close where s is nil.
func (s *stored) close() {
	if s != nil {
		s.cache.close()
	}
}

// add takes a snapshot in.
func (s *stored) add(ctx context.Context, repo *Repository, m *archive.Manifest, digest string) (*oneSnapshot, error) {
	snap := &oneSnapshot{repo: repo, id: m.ID, digest: digest, manifest: *m, rows: map[catalog.Name]int64{}}
	snap.manifest.Parts = slices.DeleteFunc(slices.Clone(m.Parts), func(p archive.Part) bool { return p.Kind == archive.Table })
	if err := s.settle(ctx, snap); err != nil {
		return nil, fail(err, "", "look into snapshot %s", m.ID)
	}
	for i := range m.Parts {
		if m.Parts[i].Kind == archive.Table {
			if err := s.addTable(snap, &m.Parts[i]); err != nil {
				return nil, fail(err, "", "look into snapshot %s", m.ID)
			}
		}
	}
	s.snapshots = append(s.snapshots, snap)
	return snap, nil
}

// settle finds the world of a snapshot, or makes it.
func (s *stored) settle(ctx context.Context, snap *oneSnapshot) (err error) {
	m := &snap.manifest
	for _, w := range s.worlds {
		first := &w.snapshots[0].manifest
		if first.Schema == m.Schema && first.Rules.Digest == m.Rules.Digest && first.ClientEncoding == m.ClientEncoding && slices.Equal(first.Recipients, m.Recipients) {
			snap.world = w
		}
	}
	if snap.world == nil {
		if snap.world, err = s.newWorld(ctx, snap); err != nil {
			return err
		}
		s.worlds = append(s.worlds, snap.world)
	}
	if !s.everybody && m.Rules.ErasedBy() == archive.Digest(s.today.Text) {
		snap.from = s.honoured(m.Ledger)
	}
	w := snap.world
	w.snapshots = append(w.snapshots, snap)
	snap.number, err = w.search.Add(snap.from)
	return err
}

// honoured is how many requests stand in the ledger up to its head.
func (s *stored) honoured(head *archive.LedgerHead) (n int) {
	for head != nil && n < len(s.requests) && s.requests[n].sequence <= head.Sequence {
		n++
	}
	return n
}

func (s *stored) newWorld(ctx context.Context, snap *oneSnapshot) (w *storedWorld, err error) {
	w = &storedWorld{tables: map[catalog.Name][]*storedUse{}, filters: map[catalog.Name][]*storedFilter{}, byPiece: map[string][]*storedUse{}}
	if w.catalog, err = s.schema(ctx, snap.repo, snap.manifest.Parts); err != nil {
		return nil, err
	}
	own, err := parseStoredRules(&snap.manifest)
	if err != nil {
		return nil, err
	}
	if w.plan, err = s.compile(own, w.catalog); err != nil {
		return nil, err
	}
	if err := encodable(w.plan.Rules, snap.manifest.ClientEncoding); err != nil {
		return nil, err
	}
	var made *scrub.Plan
	if scrub.RewritesValues(own) {
		if made, err = scrub.Compile(own, w.catalog); err != nil {
			return nil, fmt.Errorf("how its own rules rewrote keys can't be told any more: %w", err)
		}
	}
	list := make([]scrub.Request, len(s.requests))
	for i, r := range s.requests {
		list[i] = r.Request
	}
	w.search, err = w.plan.NewSearch(snap.manifest.ClientEncoding, list, made, s.strategy.Bytes())
	return w, err
}

// parseStoredRules reads the rules in a manifest, without the requests that may stand among them: the ledger has those.
func parseStoredRules(m *archive.Manifest) (*rules.File, error) {
	f, err := rules.Parse("the rules in "+m.ID, []byte(m.Rules.Text))
	if err != nil {
		return nil, err
	}
	f.Requests = nil
	return f, nil
}

// todaysRules are the rules of the newest snapshot. Where those know nothing of a subject that a request is about, since
// they were written before, fallback decides in their place, if there is one and it does.
func todaysRules(newest *archive.Manifest, fallback *rules.File, requests []erasure) (*rules.File, error) {
	today, err := parseStoredRules(newest)
	if err != nil {
		return nil, err
	}
	unknown := undeclared(today, requests)
	switch {
	case unknown == nil:
		return today, nil
	case fallback != nil && undeclared(fallback, requests) == nil:
		return fallback, nil
	}
	return nil, fail(configuration(fmt.Errorf("the rules of the newest snapshot, %s, have no subject of type %q, whom request %s is about", newest.ID, unknown.Subject, unknown.Ref)),
		"lethe backup, under rules that have it: those of the newest snapshot decide. Where no backup can be made, --rules FILE with such rules", "look for the people to erase")
}

// undeclared is the first request about a subject that rules do not have.
func undeclared(f *rules.File, requests []erasure) *erasure {
	for i := range requests {
		if !slices.ContainsFunc(f.Subjects, func(s rules.Subject) bool { return s.Type == requests[i].Subject }) {
			return &requests[i]
		}
	}
	return nil
}

// compile applies today's rules to the schema of a snapshot that was made under its own ones.
func (s *stored) compile(own *rules.File, cat *catalog.Catalog) (*scrub.Plan, error) {
	f, err := scrub.RulesForStored(s.today, s.now, own, cat)
	var plan *scrub.Plan
	if err == nil {
		plan, err = scrub.CompileStored(f, cat)
	}
	switch {
	case err == nil:
		return plan, nil
	case s.fallback != nil && undeclared(s.fallback, s.requests) == nil:
		return scrub.CompileStored(scrub.OnlySchema(s.fallback, cat), cat)
	}
	return nil, fail(configuration(err), "decide it in a rules file of its own, and pass that with --rules FILE: it counts for snapshots that today's rules can't decide about",
		"apply today's rules to its schema")
}

// schema reads the DDL of a snapshot.
func (s *stored) schema(ctx context.Context, repo *Repository, parts []archive.Part) (*catalog.Catalog, error) {
	opener, err := archive.NewOpener(s.identities)
	if err != nil {
		return nil, err
	}
	read := func(kind archive.PartKind) (string, error) {
		var text strings.Builder
		for _, p := range parts {
			if p.Kind != kind {
				continue
			}
			for _, o := range p.Objects {
				data, err := repo.Object(ctx, o)
				if err != nil {
					return "", err
				}
				s.fetched.Add(int64(len(data)))
				piece, err := opener.Open(data, o)
				if err != nil {
					return "", err
				}
				text.Write(piece)
			}
		}
		return text.String(), nil
	}
	pre, err := read(archive.PreData)
	if err != nil {
		return nil, err
	}
	post, err := read(archive.PostData)
	if err != nil {
		return nil, err
	}
	return catalog.Parse(pre, post)
}

// addTable notes the pieces of a table that some snapshot has.
func (s *stored) addTable(snap *oneSnapshot, p *archive.Part) error {
	name := partName(*p)
	snap.rows[name] = p.Rows
	header := copytext.Header(name.SQL(), p.Columns)
	for _, o := range p.Objects {
		id, err := idOf(o.Object)
		if err != nil {
			return err
		}
		piece := s.byObject[id]
		if piece == nil {
			piece = &storedPiece{object: o, header: header}
			s.byObject[id] = piece
			s.pieces = append(s.pieces, piece)
		}
		if o.Text != piece.object.Text || o.Size != piece.object.Size || o.Rows != piece.object.Rows || header != piece.header {
			return integrity(fmt.Errorf("object %s is not what another snapshot says it is", o.Object))
		}
		if !slices.Contains(piece.repos, snap.repo) {
			piece.repos = append(piece.repos, snap.repo)
		}
		piece.useIn(snap, name, p.Columns)
	}
	for _, o := range p.Filters {
		if err := s.addFilter(snap, name, o); err != nil {
			return err
		}
	}
	return nil
}

func (p *storedPiece) useIn(snap *oneSnapshot, table catalog.Name, columns []string) {
	i := slices.IndexFunc(p.uses, func(u *storedUse) bool { return u.world == snap.world })
	if i < 0 {
		i = len(p.uses)
		u := &storedUse{piece: p, world: snap.world, table: table, columns: columns}
		p.uses = append(p.uses, u)
		snap.world.tables[table] = append(snap.world.tables[table], u)
		snap.world.byPiece[p.object.Piece] = append(snap.world.byPiece[p.object.Piece], u)
	}
	if u := p.uses[i]; !slices.Contains(u.in, snap.number) { // a piece may stand twice where rows repeat themselves
		u.in = append(u.in, snap.number)
	}
}

// follow finds everything that leads to the people to erase, in each snapshot.
func (s *stored) follow(ctx context.Context) error {
	for {
		if err := s.rounds(ctx); err != nil {
			return err
		}
		if more, err := s.strays(ctx); err != nil || !more {
			return err
		}
	}
}

// rounds follows references until nothing new is found.
func (s *stored) rounds(ctx context.Context) error {
	for {
		wanted, asking := newWanted(), false
		for _, w := range s.worlds {
			if !w.search.Round() {
				continue
			}
			asking = true
			for _, table := range w.search.Tables() {
				wanted.add(w, table, w.search.Questions(table), func(n int) bool { return w.search.Asks(n, table) })
			}
		}
		if !asking {
			return nil
		}
		err := s.readUses(ctx, wanted, "following references", func(u *storedUse) (rowsReader, error) { return u.world.search.Reader(u.table, u.columns) })
		if err != nil {
			return err
		}
	}
}

// strays looks for rows that lead, by a declared reference, to what only another snapshot has and knows whose it was. It
// is true where some were found, so that they are to be followed in turn.
func (s *stored) strays(ctx context.Context) (more bool, err error) {
	for _, w := range s.worlds {
		for _, other := range s.worlds {
			if w != other {
				w.search.Learn(other.search)
			}
		}
	}
	var asking []*storedWorld
	for _, w := range s.worlds {
		if w.search.Strays() {
			asking = append(asking, w)
		}
	}
	for _, home := range []bool{false, true} {
		wanted := newWanted()
		for _, w := range asking {
			if home { // filters say which rows lead where, and not which rows are there
				for _, table := range w.search.HomeTables() {
					wanted.all(w, table, func(n int) bool { return w.search.HomeAsks(n, table) })
				}
				continue
			}
			for _, table := range w.search.StrayTables() {
				wanted.add(w, table, w.search.StrayQuestions(table), func(n int) bool { return w.search.StrayAsks(n, table) })
			}
		}
		err := s.readUses(ctx, wanted, "looking for rows without a home", func(u *storedUse) (rowsReader, error) {
			return u.world.search.StrayReader(u.table, u.columns, home)
		})
		if err != nil {
			return false, err
		}
	}
	for _, w := range asking {
		more = w.search.Adopt() || more
	}
	return more, nil
}

// wantedPieces is the pieces that have to be read, with what of each is wanted.
type wantedPieces struct {
	uses  map[*storedPiece][]*storedUse
	asked map[worldTable][]scrub.Question // what is asked about a table; nothing where every row is wanted
}

// worldTable is a table in a world.
type worldTable struct {
	world *storedWorld
	table catalog.Name
}

func newWanted() wantedPieces {
	return wantedPieces{map[*storedPiece][]*storedUse{}, map[worldTable][]scrub.Question{}}
}

// add wants the pieces of a table that may answer a question, of the snapshots that ask.
func (wanted wantedPieces) add(w *storedWorld, table catalog.Name, questions []scrub.Question, asks func(n int) bool) {
	if len(questions) > 0 {
		wanted.asked[worldTable{w, table}] = questions
		wanted.all(w, table, asks)
	}
}

// all wants every piece of a table, of the snapshots that ask.
func (wanted wantedPieces) all(w *storedWorld, table catalog.Name, asks func(n int) bool) {
	for _, u := range w.tables[table] {
		if slices.ContainsFunc(u.in, asks) {
			wanted.uses[u.piece] = append(wanted.uses[u.piece], u)
		}
	}
}

// rowsReader takes rows that some snapshots have.
type rowsReader interface {
	Rows(rows []byte, snapshots []int) error
}

// readUses gives the rows of pieces to readers of their tables, which are made when first needed, for each worker.
func (s *stored) readUses(ctx context.Context, wanted wantedPieces, stage string, reader func(*storedUse) (rowsReader, error)) error {
	if err := s.sift(ctx, wanted); err != nil {
		return err
	}
	return s.read(ctx, s.only(wanted), stage, func() (func(*storedPiece, []byte) error, error) {
		readers := map[storedTable]rowsReader{}
		return func(p *storedPiece, rows []byte) (err error) {
			for _, u := range wanted.uses[p] {
				at := storedTable{u.world, p.header}
				if readers[at] == nil {
					if readers[at], err = reader(u); err != nil {
						return err
					}
				}
				if err := readers[at].Rows(rows, u.in); err != nil {
					return err
				}
			}
			return nil
		}, nil
	})
}

// only returns some pieces in their order.
func (s *stored) only(wanted wantedPieces) (list []*storedPiece) {
	for _, p := range s.pieces {
		if len(wanted.uses[p]) > 0 {
			list = append(list, p)
		}
	}
	return list
}

// storedTable is a table in a world, with its columns in one order.
type storedTable struct {
	world  *storedWorld
	header string
}

// read opens pieces, several at a time, and gives the rows of each to a worker's do: fetch, verify, decrypt, decompress,
// compare with what the manifest says. rows are valid until do returns.
func (s *stored) read(ctx context.Context, pieces []*storedPiece, stage string, start func() (do func(p *storedPiece, rows []byte) error, err error)) error {
	var total int64
	for _, p := range pieces {
		total += p.object.Size
	}
	s.total.Store(total)
	s.done.Store(0)
	return each(ctx, pieces, s.workers, func() (func(context.Context, *storedPiece) error, error) {
		opener, err := archive.NewOpener(s.identities)
		if err != nil {
			return nil, err
		}
		do, err := start()
		return func(ctx context.Context, p *storedPiece) error {
			if p.object.Text > 2*archive.MaxPiece { // one huge row: only one of them is in memory, whatever the number of workers
				select {
				case s.long <- struct{}{}:
					defer func() { <-s.long }()
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			rows, err := s.rows(ctx, opener, p)
			if err != nil {
				return err
			}
			if err := do(p, rows); err != nil {
				return fmt.Errorf("table %s: object %s: %w", p.uses[0].table, p.object.Object, err)
			}
			if done := s.done.Add(p.object.Size); s.progress != nil {
				s.progress(Progress{Stage: stage, Bytes: done, Total: s.total.Load()})
			}
			return nil
		}, err
	})
}

// rows returns the rows that a piece holds.
func (s *stored) rows(ctx context.Context, opener *archive.Opener, p *storedPiece) ([]byte, error) {
	data, err := s.fetch(ctx, p.object, p.repos)
	if err != nil {
		return nil, err
	}
	text, err := opener.Open(data, p.object)
	if err != nil {
		return nil, err
	}
	rows, err := copytext.Body(text, p.header)
	if err != nil {
		return nil, integrity(fmt.Errorf("table %s: object %s: %w", p.uses[0].table, p.object.Object, err))
	}
	return rows, nil
}

// fetch returns an object, from the first store that has a good one.
func (s *stored) fetch(ctx context.Context, o archive.Object, repos []*Repository) ([]byte, error) {
	id, err := idOf(o.Object)
	if err != nil {
		return nil, err
	}
	if data := s.cache.get(id); data != nil {
		return data, nil
	}
	var errs []error
	for _, repo := range repos {
		data, err := repo.Object(ctx, o)
		if err == nil {
			err = archive.CheckObject(data, o)
		}
		if err == nil {
			s.fetched.Add(int64(len(data)))
			s.cache.put(id, data)
			return data, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
