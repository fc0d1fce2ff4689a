// Package source reads a PostgreSQL database in one consistent view.
//
// It promises that DDL, rows, sequences and large objects belong to one moment; that the application never queues
// behind it (every lock has a short timeout, and on failure everything is let go and tried again); and that rows it
// could not see (row-level security, a pooler in between, a TRUNCATE in the wrong moment) are an error, never a gap.
//
// How the moment is made: the tables are listed, locked in ACCESS SHARE, and only then the view is exported; under it
// they are listed again, and if anything differs it starts over. pg_dump prints the DDL under the exported view while
// workers read rows under it. The exporting connection stays open and watched; another watches for schema changes that
// wait for our locks. When either has bad news everything under way ends with that reason.
package source

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"lethe/scrub/catalog"
)

// Config says what to read and how patiently.
type Config struct {
	URL         string        // libpq URL or keyword string; "" means the PG* variables
	Workers     int           // connections that read rows, at least 1
	PgDump      string        // path of pg_dump; "" means the newest that fits the server
	LockTimeout time.Duration // how long a lock may wait, and so how long the application may queue; 0 means 2 s
	Attempts    int           // how often to let go and start over; 0 means 5
	RangeBlocks int64         // in how many 8 KiB blocks at a time a table is read that one worker alone would be too long at; 0 means 8192
	Log         func(msg string, args ...any)

	between func(ctx context.Context, attempt int, step step) // tests: what happens meanwhile
}

// step is a place in the protocol where the world may change.
type step int

const (
	listedFirst step = iota // the tables are listed, not locked yet
	lockedAll               // they are locked, the view is not exported yet
	exported                // the view stands, pg_dump has not run yet
)

// Info is what the manifest says about where a snapshot came from.
type Info struct {
	Database       string
	ServerVersion  string // 15.18
	PgDumpVersion  string
	SystemID       string // "" where the role may not ask
	Timeline       string // likewise
	LSN            string // of the view, or just after it; likewise
	Encoding       string // server encoding, as PostgreSQL spells it: UTF8, LATIN1, SQL_ASCII
	ClientEncoding string // of DDL and rows: the server's own, or UTF8 where names or comments in another encoding need the server to convert
	LocaleProvider string // c, i, b
	Collate        string
	CType          string
	ICULocale      string    // of provider i, or the locale of provider b
	Settings       []Setting // ALTER DATABASE … SET and ALTER ROLE … IN DATABASE … SET
	Comment        string
	Local          bool      // reached over a unix socket or loopback
	Started        time.Time // of the view
}

// Setting is one parameter that belongs to the database. Value is as pg_db_role_setting stores it: of a list parameter
// such as search_path it is the list, its elements quoted already.
type Setting struct {
	Role  string // "" for ALTER DATABASE
	Name  string
	Value string
}

// Relation is one table with rows of its own: a plain table, a leaf partition, an inheritance child, or an extension's
// configuration table.
type Relation struct {
	Name      catalog.Name
	Columns   []string // what COPY names: no generated columns
	Extension bool     // an extension's configuration table: not in the DDL, and not in the catalog
	Condition string   // extension configuration tables: the WHERE their extension registered, or ""
	Bytes     int64    // size on disk, to start with the biggest
	Ranges    []Range  // in order; one with both bounds open for a table read whole
}

// Range is a range of a table's blocks; -1 is an open bound.
type Range struct{ From, To int64 }

// Snapshot is one consistent view of a database, held open by a connection of its own until Close. All its methods are
// safe for concurrent use.
type Snapshot struct {
	Info      Info
	PreData   string // pg_dump's, without \restrict lines
	PostData  string
	Catalog   *catalog.Catalog
	Relations []Relation // in pg_dump's order (DDL order), extension configuration tables last

	live
}

// live is what holds a snapshot open.
type live struct {
	conf      Config
	at        *endpoint
	encoding  string          // client_encoding of every session
	ctx       context.Context // ends with its cause when the view is gone
	fail      context.CancelCauseFunc
	exporter  *pgconn.PgConn
	watcher   *pgconn.PgConn // lists tables before the view, looks after the locks then
	id        string         // of the exported snapshot
	tables    map[uint32]*listed
	sequences []string // quoted names
	standby   bool
	workers   chan *pgconn.PgConn // Config.Workers places; nil is one not opened yet
	watching  sync.WaitGroup
	closing   sync.Once
}

func (c *Config) meanwhile(ctx context.Context, attempt int, at step) {
	if c.between != nil {
		c.between(ctx, attempt, at)
	}
}

// Open opens a view of the database. While a lock or a concurrent change stands in the way it lets go of everything,
// waits, and starts over, Config.Attempts times. The caller must Close the snapshot.
func Open(ctx context.Context, conf Config) (*Snapshot, error) {
	conf.Workers = max(1, conf.Workers)
	if conf.LockTimeout <= 0 {
		conf.LockTimeout = 2 * time.Second
	}
	if conf.Attempts <= 0 {
		conf.Attempts = 5
	}
	if conf.RangeBlocks <= 0 {
		conf.RangeBlocks = 8192
	}
	if conf.Log == nil {
		conf.Log = func(string, ...any) {}
	}

	at, first, err := reach(ctx, conf.URL)
	if err != nil {
		return nil, reason(ctx, err)
	}
	shut(first)
	dump, err := findPgDump(ctx, conf.PgDump, at.major(), at.server)
	if err != nil {
		return nil, err
	}
	encoding := at.native
	for attempt := 1; ; {
		s, err := open(ctx, conf, at, dump, encoding, attempt)
		if err == nil {
			return s, nil
		}
		if errors.Is(err, errNeedsUTF8) {
			conf.Log("names or comments are not ASCII: the server converts this snapshot to UTF8", "encoding", at.native)
			encoding = "UTF8"
			continue
		}
		if ctx.Err() != nil || !Retryable(err) {
			return nil, err
		}
		if attempt >= conf.Attempts {
			var e *Error
			errors.As(err, &e)
			return nil, &Error{Op: e.Op, Table: e.Table, Help: e.Help, Retry: true, Err: fmt.Errorf("%w (let go and tried %d times)", e.Err, attempt)}
		}
		wait := min(conf.LockTimeout<<min(attempt-1, 8), 30*time.Second)
		conf.Log("no consistent view yet: let go of every lock, trying again", "attempt", attempt, "wait", wait, "error", err)
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
		attempt++
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// errNeedsUTF8 asks for another attempt in which the server converts.
var errNeedsUTF8 = errors.New("the DDL is not ASCII in an encoding other than UTF8")

// open is one attempt. On failure everything is let go.
func open(ctx context.Context, conf Config, at *endpoint, dump pgDump, encoding string, attempt int) (_ *Snapshot, err error) {
	s := &Snapshot{live: live{conf: conf, at: at, encoding: encoding, workers: make(chan *pgconn.PgConn, conf.Workers)}}
	for range conf.Workers {
		s.workers <- nil
	}
	s.ctx, s.fail = context.WithCancelCause(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	ctx, release := s.under(ctx)
	defer release()
	defer func() { err = reason(ctx, err) }()

	if s.watcher, err = at.session(ctx, encoding, conf.LockTimeout); err != nil {
		return nil, err
	}
	if s.exporter, err = at.session(ctx, encoding, conf.LockTimeout); err != nil {
		return nil, err
	}
	if err := s.view(ctx, attempt); err != nil {
		return nil, err
	}
	s.watching.Go(s.watch)
	conf.meanwhile(ctx, attempt, exported)

	s.Info = Info{ServerVersion: at.server, PgDumpVersion: dump.version, Encoding: at.native, ClientEncoding: encoding, Local: at.local, Started: s.Info.Started}
	if err := s.ddl(ctx, dump, encoding); err != nil {
		return nil, err
	}
	if err := s.describe(ctx); err != nil {
		return nil, err
	}
	if s.Relations, err = relations(s.Catalog, s.tables, conf, at.version, s.standby); err != nil {
		return nil, err
	}
	return s, nil
}

// view locks the tables first and exports the view second, and makes sure that nothing changed in between.
func (s *Snapshot) view(ctx context.Context, attempt int) error {
	before, err := listTables(ctx, s.watcher)
	if err != nil {
		return err
	}
	if err := visible(before, s.at.config.User); err != nil {
		return err
	}
	s.conf.meanwhile(ctx, attempt, listedFirst)
	const op = "open a consistent view"
	s.tables = before
	s.watching.Go(func() { guard(s.ctx, s.watcher, before, s.conf.LockTimeout, s.fail) })
	if _, err := rows(ctx, s.exporter, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		return &Error{Op: op, Err: err}
	}
	if err := lockTables(ctx, s.exporter, before); err != nil {
		return s.blame(err)
	}
	s.conf.meanwhile(ctx, attempt, lockedAll)
	r, err := rows(ctx, s.exporter, "SELECT pg_catalog.pg_export_snapshot(), extract(epoch FROM pg_catalog.clock_timestamp())::pg_catalog.text")
	if err != nil {
		return &Error{Op: op, Err: err}
	}
	s.id = r[0][0]
	seconds, err := strconv.ParseFloat(r[0][1], 64)
	if err != nil {
		return &Error{Op: op, Err: err}
	}
	s.Info.Started = time.UnixMicro(int64(seconds * 1e6)).UTC()
	if s.tables, err = listTables(ctx, s.exporter); err != nil {
		return err
	}
	if name, differs := changed(before, s.tables); differs {
		return &Error{Op: op, Table: name.String(), Retry: true, Err: errors.New("the table changed while it was being locked"),
			Help: "something creates, drops, truncates or rewrites tables all the time; back up when it does not"}
	}
	if err := s.listSequences(ctx, s.exporter); err != nil {
		return err
	}
	return measure(ctx, s.exporter, s.tables)
}

// measure fills in columns, sizes and the references of extensions' tables, under the view and with the tables locked.
func measure(ctx context.Context, conn *pgconn.PgConn, tables map[uint32]*listed) error {
	const op = "read the tables' columns and sizes"
	r, err := rows(ctx, conn, `
SELECT a.attrelid, a.attname FROM pg_catalog.pg_attribute a
WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attrelid IN (SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relkind = 'r')
ORDER BY a.attrelid, a.attnum`)
	if err != nil {
		return &Error{Op: op, Err: err}
	}
	for _, f := range r {
		oid, err := parseOID(f[0])
		if err != nil {
			return &Error{Op: op, Err: err}
		}
		if t := tables[oid]; t != nil {
			t.columns = append(t.columns, f[1])
		}
	}
	r, err = rows(ctx, conn, `
SELECT f.conrelid, f.confrelid FROM pg_catalog.pg_constraint f
JOIN pg_catalog.pg_extension e ON f.conrelid = ANY (e.extconfig) WHERE f.contype = 'f' ORDER BY f.conrelid, f.confrelid`)
	if err != nil {
		return &Error{Op: op, Err: err}
	}
	for _, f := range r {
		from, errFrom := parseOID(f[0])
		to, errTo := parseOID(f[1])
		if err := errors.Join(errFrom, errTo); err != nil {
			return &Error{Op: op, Err: err}
		}
		if t := tables[from]; t != nil {
			t.references = append(t.references, to)
		}
	}
	for batch := range slices.Chunk(slices.Sorted(maps.Keys(tables)), lockBatch) {
		list := make([]byte, 0, 12*len(batch))
		for i, oid := range batch {
			if i > 0 {
				list = append(list, ',')
			}
			list = strconv.AppendUint(list, uint64(oid), 10)
		}
		r, err := rows(ctx, conn, `
SELECT o, coalesce(pg_catalog.pg_table_size(o::pg_catalog.oid), 0),
       coalesce(pg_catalog.pg_relation_size(o::pg_catalog.oid) / pg_catalog.current_setting('block_size')::pg_catalog.int8, 0)
FROM pg_catalog.unnest('{`+string(list)+`}'::pg_catalog.oid[]) AS o`)
		if err != nil {
			return &Error{Op: op, Err: err, Retry: locked(err)}
		}
		for _, f := range r {
			oid, err := parseOID(f[0])
			if err != nil {
				return &Error{Op: op, Err: err}
			}
			t := tables[oid]
			t.bytes, _ = strconv.ParseInt(f[1], 10, 64)
			t.blocks, _ = strconv.ParseInt(f[2], 10, 64)
		}
	}
	return nil
}

// ddl runs pg_dump for both sections at once, and parses what it prints.
func (s *Snapshot) ddl(ctx context.Context, dump pgDump, encoding string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var remarks [2]string
	var running sync.WaitGroup
	for i, part := range []struct {
		section string
		text    *string
	}{{"pre-data", &s.PreData}, {"post-data", &s.PostData}} {
		running.Go(func() {
			var err error
			*part.text, remarks[i], err = dump.section(ctx, s.at, part.section, s.id, encoding, s.conf.LockTimeout)
			if err != nil {
				cancel(err) // the other one need not go on; the first reason is the one that counts
			}
		})
	}
	running.Wait()
	if err := context.Cause(ctx); err != nil {
		return s.blame(err)
	}
	for _, r := range remarks {
		if r != "" {
			s.conf.Log("pg_dump remarks", "text", r)
		}
	}
	if !utf8.ValidString(s.PreData) || !utf8.ValidString(s.PostData) {
		if encoding == "UTF8" || encoding == "SQL_ASCII" || encoding == "MULE_INTERNAL" {
			return &Error{Op: "read the DDL", Err: fmt.Errorf("names or comments in this %s database are not UTF-8, and the server can't convert them", encoding),
				Help: "rename what has such a name, or move to a database whose encoding is UTF8"}
		}
		return errNeedsUTF8
	}
	parsed, err := catalog.Parse(s.PreData, s.PostData)
	if err == nil {
		s.PreData, err = castsInOrder(s.PreData)
	}
	if err != nil {
		return fmt.Errorf("read the DDL that pg_dump %s printed: %w", dump.version, err)
	}
	s.Catalog = parsed
	return nil
}

// blame adds to a lock error which table it is and who stands in the way.
func (s *Snapshot) blame(err error) error {
	var e *Error
	if !errors.As(err, &e) || !e.Retry || e.Table != "" {
		return err
	}
	table, who := s.inTheWay()
	if who == "" {
		return err
	}
	return &Error{Op: e.Op, Table: table, Help: e.Help, Retry: true, Err: fmt.Errorf("%s: %w", who, e.Err)}
}

// inTheWay asks, on a connection of its own, who stands in the way. The watcher is the guard's by then.
func (s *Snapshot) inTheWay() (table, who string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), 5*time.Second) // also when the view is gone already
	defer cancel()
	conn, err := s.at.session(ctx, s.encoding, s.conf.LockTimeout)
	if err != nil {
		return "", "" // it only serves the message
	}
	defer shut(conn)
	return obstacle(ctx, conn, s.tables)
}

// relations matches the server's tables with the catalog's: each must know the other's.
func relations(c *catalog.Catalog, tables map[uint32]*listed, conf Config, version int, standby bool) ([]Relation, error) {
	const op = "match pg_dump's DDL with the server's tables"
	byName := make(map[catalog.Name]*listed, len(tables))
	for _, oid := range slices.Sorted(maps.Keys(tables)) {
		t := tables[oid]
		byName[t.name] = t
		if !t.extension && c.Tables[t.name] == nil {
			return nil, &Error{Op: op, Table: t.name.String(), Err: errors.New("the server has this table, but the DDL does not create it")}
		}
	}
	var total int64
	for _, t := range tables {
		total += t.blocks
	}
	// A table that is no more than this can be left to one worker: the others have enough to do meanwhile.
	share := max(2*conf.RangeBlocks, total/int64(2*conf.Workers))
	var out []Relation
	add := func(t *listed) {
		if t.unlogged && standby {
			conf.Log("rows of an unlogged table can't be read on a standby; they are left out", "table", t.name.String())
			return
		}
		out = append(out, Relation{Name: t.name, Columns: t.columns, Extension: t.extension, Condition: t.condition, Bytes: t.bytes, Ranges: ranges(t, conf.RangeBlocks, share, version)})
	}
	for _, table := range c.Order {
		if table.Kind != catalog.Ordinary {
			continue
		}
		t := byName[table.Name]
		if t == nil || t.kind != "r" {
			return nil, &Error{Op: op, Table: table.Name.String(), Err: errors.New("the DDL creates this table, but the server does not list it")}
		}
		if !t.extension {
			add(t)
		}
	}
	for _, t := range extensionOrder(tables) {
		add(t)
	}
	return out, nil
}

// extensionOrder puts extensions' configuration tables behind those that they reference: their foreign keys exist as
// soon as the extension does, before any row.
func extensionOrder(tables map[uint32]*listed) []*listed {
	var out []*listed
	done := map[uint32]bool{}
	var visit func(t *listed)
	visit = func(t *listed) {
		if t == nil || done[t.oid] || !t.extension || t.kind != "r" {
			return
		}
		done[t.oid] = true // before its references: a cycle can't be ordered, as in pg_dump
		for _, to := range t.references {
			visit(tables[to])
		}
		out = append(out, t)
	}
	for _, oid := range slices.Sorted(maps.Keys(tables)) {
		visit(tables[oid])
	}
	return out
}

// ranges cuts a table's blocks. Only a heap has blocks that ctid names, only from PostgreSQL 14 on is a range of them
// read without scanning all, and only a table beyond its share is worth the dearer query.
func ranges(t *listed, size, share int64, version int) []Range {
	if !t.heap || t.extension || version < 140000 || t.blocks <= share {
		return []Range{{-1, -1}}
	}
	var out []Range
	for from := int64(0); from < t.blocks; from += size {
		out = append(out, Range{from, from + size})
	}
	out[0].From = -1
	out[len(out)-1].To = -1 // what was added since the size was asked is not in the view, but nothing is left to luck
	return out
}

// under returns a context that also ends, with the reason, when the view is gone.
func (s *Snapshot) under(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	return ctx, func() { stop(); cancel(nil) }
}

// watch keeps the exporting connection alive, and lets go of it as soon as the view is to end. It alone uses the
// connection from now on. A server that ends the session says so at once, so it listens between the pings.
func (s *Snapshot) watch() {
	defer shut(s.exporter)
	for s.ctx.Err() == nil {
		listen, stop := context.WithTimeout(s.ctx, 15*time.Second)
		err := s.exporter.WaitForNotification(listen)
		expired := listen.Err() != nil
		stop()
		if err == nil || (expired && !s.exporter.IsClosed()) {
			ping, stop := context.WithTimeout(s.ctx, time.Minute)
			err = s.exporter.Ping(ping)
			stop()
		}
		if err != nil && s.ctx.Err() == nil {
			s.fail(&Error{Op: "hold the view open", Err: fmt.Errorf("the connection that exported it was lost: %w", err),
				Help: "look into the server's log for why it ended the session; then back up again"})
		}
	}
}

// Alive returns nil while the view stands, and the reason from the moment it is gone.
func (s *Snapshot) Alive() error { return context.Cause(s.ctx) }

// Done is closed when the view is gone; Alive says why.
func (s *Snapshot) Done() <-chan struct{} { return s.ctx.Done() }

// Close ends everything under way, waits for it (and so for writers that Copy was given), and closes all connections. It may be called more than once.
func (s *Snapshot) Close() {
	s.closing.Do(func() {
		s.fail(errClosed)
		for range s.conf.Workers {
			if conn := <-s.workers; conn != nil {
				shut(conn)
			}
		}
		s.watching.Wait()
		for _, conn := range []*pgconn.PgConn{s.exporter, s.watcher} {
			if conn != nil {
				shut(conn)
			}
		}
	})
}
