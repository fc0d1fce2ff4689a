// Package target writes a restored snapshot into PostgreSQL.
//
// It promises that nothing half restored looks whole: a database that did not exist is built under a temporary name
// and renamed when it is complete; one that was given is marked as incomplete until the end, and emptied again when
// the restore fails. What a killed restore left behind is dropped by the next one.
package target

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"lethe/pipeline/sqlstate"
	"lethe/scrub/catalog"
)

const (
	tempPrefix = "lethe_restoring_"
	marker     = "lethe: incomplete restore"
)

// ErrNotEmpty reports a target database that already holds something.
var ErrNotEmpty = errors.New("the database is not empty")

// ErrAddress reports a target address that can't be read.
var ErrAddress = errors.New("it is not a PostgreSQL URL or keyword string")

// Properties are what a new database is created with. Empty fields take the server's defaults.
type Properties struct {
	Encoding       string
	LocaleProvider string // c (libc) or i (ICU)
	Collate, CType string
	ICULocale      string
	Comment        string
	ClientEncoding string // of every session that loads; "" means Encoding
}

// Setting is one parameter of the database, or of a role in it.
type Setting struct{ Role, Name, Value string }

// Database is a database under restore. Finish commits it; Abandon takes away what was done. One of them must be
// called; Abandon after Finish does nothing.
type Database struct {
	Name    string // as it will be called
	Created bool   // false: it was given, and is filled in place

	admin *pgconn.PgConn // connected to the database itself (given) or to the maintenance database (created)
	main  *pgconn.PgConn // stays connected to the database under restore, so that no other run takes it for a leftover
	cfg   *pgconn.Config // of the database under restore
	work  string         // its name until it is renamed
	props Properties
	given struct {
		comment                               string
		extensions                            map[string]bool
		publicOwner, publicACL, publicComment string
		hasPublic                             bool
	}
	done bool

	mu   sync.Mutex
	idle []*pgconn.PgConn
}

// Open connects to the database that url names and prepares it to be filled. A database that does not exist is created
// under a temporary name; one that exists must be empty, or the error is ErrNotEmpty. snapshot is named in the marker.
func Open(ctx context.Context, url, snapshot string, props Properties) (*Database, error) {
	cfg, err := parse(url)
	if err != nil {
		return nil, err
	}
	d := &Database{Name: cfg.Database, cfg: cfg, work: cfg.Database, props: props}
	if d.props.ClientEncoding == "" {
		d.props.ClientEncoding = props.Encoding
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	switch {
	case err == nil:
		return d, d.takeGiven(ctx, conn, snapshot)
	case sqlstate.Of(err) == sqlstate.InvalidCatalogName:
		return d, d.create(ctx, snapshot)
	}
	return nil, fmt.Errorf("connect to the target: %w", err)
}

// parse reads a URL or keyword string, and takes out what a restore must not inherit.
func parse(url string) (*pgconn.Config, error) {
	cfg, err := pgconn.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("read the target's address: %w", scrubParseError(err))
	}
	if cfg.Database == "" {
		cfg.Database = cfg.User
	}
	if cfg.RuntimeParams == nil {
		cfg.RuntimeParams = map[string]string{}
	}
	cfg.RuntimeParams["application_name"] = "lethe restore"
	cfg.AfterConnect = patient
	delete(cfg.RuntimeParams, "client_encoding")
	cfg.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {}
	return cfg, nil
}

// patient keeps the server from ending a session that works for long, or stands idle while others do.
func patient(ctx context.Context, conn *pgconn.PgConn) error {
	return exec(ctx, conn, `SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
		WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout')`)
}

// scrubParseError keeps a URL, which may hold a password, out of a message.
func scrubParseError(err error) error {
	var pe *pgconn.ParseConfigError
	if errors.As(err, &pe) {
		if u := errors.Unwrap(pe); u != nil && !strings.Contains(u.Error(), `"`) { // what it quotes may be the password
			return fmt.Errorf("%w (%w)", ErrAddress, u)
		}
		return ErrAddress
	}
	return err
}

func (d *Database) takeGiven(ctx context.Context, conn *pgconn.PgConn, snapshot string) (err error) {
	defer func() {
		if err != nil {
			closeConn(conn)
		}
	}()
	if free, err := reserve(ctx, conn, d.Name); err != nil {
		return err
	} else if !free {
		return fmt.Errorf("another restore is filling database %q: %w", d.Name, ErrNotEmpty)
	}
	left, err := contents(ctx, conn)
	if err != nil {
		return err
	}
	if left != "" {
		return fmt.Errorf("database %q holds %s: %w", d.Name, left, ErrNotEmpty)
	}
	row, err := queryRow(ctx, conn, `SELECT coalesce(pg_catalog.shobj_description(oid, 'pg_database'), ''),
		pg_catalog.pg_encoding_to_char(encoding) FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()`)
	if err != nil {
		return err
	}
	d.given.comment = row[0]
	if strings.HasPrefix(d.given.comment, marker) {
		d.given.comment = ""
	}
	if enc := d.props.Encoding; enc != "" && row[1] != enc && row[1] != "SQL_ASCII" && enc == "SQL_ASCII" {
		return fmt.Errorf("database %q has the encoding %s, the snapshot has %s, whose bytes need not be valid there", d.Name, row[1], enc)
	}
	d.given.extensions = map[string]bool{}
	rows, err := query(ctx, conn, `SELECT extname FROM pg_catalog.pg_extension`)
	if err != nil {
		return err
	}
	for _, r := range rows {
		d.given.extensions[r[0]] = true
	}
	rows, err = query(ctx, conn, `SELECT pg_catalog.pg_get_userbyid(nspowner), coalesce(nspacl::text, ''),
		coalesce(pg_catalog.obj_description(oid, 'pg_namespace'), '') FROM pg_catalog.pg_namespace WHERE nspname = 'public'`)
	if err != nil {
		return err
	}
	if len(rows) == 1 {
		d.given.hasPublic, d.given.publicOwner, d.given.publicACL, d.given.publicComment = true, rows[0][0], rows[0][1], rows[0][2]
	}
	d.admin, d.main = conn, conn
	if err := d.prepare(ctx, conn); err != nil {
		return err
	}
	return d.comment(ctx, conn, d.work, mark(snapshot, d.Name))
}

// reserve takes the advisory lock of a database under restore, for as long as the session lasts, or says that another
// restore has it. Such locks are known in one database only: a given database's is taken in itself, a created one's in
// the maintenance database.
func reserve(ctx context.Context, conn *pgconn.PgConn, name string) (free bool, err error) {
	row, err := queryRow(ctx, conn, "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended("+catalog.Literal("lethe restore "+name)+", 0))")
	if err != nil {
		return false, fmt.Errorf("reserve the target: %w", err)
	}
	return row[0] == "t", nil
}

func mark(snapshot, name string) string {
	return fmt.Sprintf("%s of %s as %s", marker, snapshot, name)
}

func (d *Database) create(ctx context.Context, snapshot string) (err error) {
	d.Created = true
	d.admin, err = connectMaintenance(ctx, d.cfg)
	if err != nil {
		return err
	}
	if err := dropLeftovers(ctx, d.admin, d.cfg); err != nil {
		closeConn(d.admin)
		return err
	}
	var b [6]byte
	rand.Read(b[:])
	d.work = tempPrefix + hex.EncodeToString(b[:])
	if _, err := reserve(ctx, d.admin, d.work); err != nil { // a random name is always free
		closeConn(d.admin)
		return err
	}
	sql := "CREATE DATABASE " + catalog.Quote(d.work) + " TEMPLATE template0"
	for _, o := range []struct{ word, value string }{
		{"ENCODING", d.props.Encoding}, {"LC_COLLATE", d.props.Collate}, {"LC_CTYPE", d.props.CType}} {
		if o.value != "" {
			sql += " " + o.word + " " + catalog.Literal(o.value)
		}
	}
	if d.props.LocaleProvider == "i" && d.props.ICULocale != "" {
		sql += " LOCALE_PROVIDER icu ICU_LOCALE " + catalog.Literal(d.props.ICULocale)
	}
	if err := exec(ctx, d.admin, sql); err != nil {
		return errors.Join(fmt.Errorf("create the database: %w", err), d.Abandon(ctx)) // it may be there, if ctx ended just then
	}
	d.cfg = d.cfg.Copy()
	d.cfg.Database = d.work
	if d.main, err = d.connect(ctx); err == nil {
		err = d.comment(ctx, d.admin, d.work, mark(snapshot, d.Name))
	}
	if err != nil {
		return errors.Join(err, d.Abandon(ctx))
	}
	return nil
}

func connectMaintenance(ctx context.Context, cfg *pgconn.Config) (*pgconn.PgConn, error) {
	var first error
	for _, name := range []string{"postgres", "template1"} {
		c := cfg.Copy()
		c.Database = name
		conn, err := pgconn.ConnectConfig(ctx, c)
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, fmt.Errorf("connect to the server's maintenance database: %w", first)
}

// dropLeftovers drops databases that a killed restore left behind: named like ours, marked like ours, with nobody
// connected, and reserved by nobody. A running restore lets go of its last connection before the rename, but keeps the
// reservation.
func dropLeftovers(ctx context.Context, admin *pgconn.PgConn, cfg *pgconn.Config) error {
	rows, err := query(ctx, admin, `SELECT datname FROM pg_catalog.pg_database d
		WHERE starts_with(datname, `+catalog.Literal(tempPrefix)+`)
		AND starts_with(pg_catalog.shobj_description(d.oid, 'pg_database'), `+catalog.Literal(marker)+`)
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid)
		AND pg_catalog.pg_has_role(d.datdba, 'USAGE')`)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if free, err := reserve(ctx, admin, r[0]); err != nil {
			return err
		} else if !free {
			continue
		}
		if err := dropDatabase(ctx, admin, cfg, r[0], ""); err != nil && sqlstate.Of(err) != sqlstate.ObjectInUse {
			return fmt.Errorf("drop %s, which an interrupted restore left: %w", r[0], err)
		}
	}
	return nil
}

// dropDatabase drops a database that a restore made. A subscription in it stands in the way, even one that never was
// enabled, and can only be dropped from inside.
func dropDatabase(ctx context.Context, admin *pgconn.PgConn, cfg *pgconn.Config, name, how string) error {
	subscriptions, err := queryRow(ctx, admin, `SELECT pg_catalog.count(*) FROM pg_catalog.pg_subscription s
		JOIN pg_catalog.pg_database d ON d.oid = s.subdbid WHERE d.datname = `+catalog.Literal(name))
	if err == nil && subscriptions[0] != "0" { // only superusers may ask, and others have none
		inside := cfg.Copy()
		inside.Database = name
		conn, err := pgconn.ConnectConfig(ctx, inside)
		if err != nil {
			return fmt.Errorf("connect to drop its subscriptions: %w", err)
		}
		err = dropSubscriptions(ctx, conn)
		closeConn(conn)
		if err != nil {
			return err
		}
	}
	return exec(ctx, admin, "DROP DATABASE IF EXISTS "+catalog.Quote(name)+how)
}

// dropSubscriptions drops the subscriptions of a database, and leaves their slots on the publishers alone: they belong
// to the database that was backed up.
func dropSubscriptions(ctx context.Context, conn *pgconn.PgConn) error {
	rows, err := query(ctx, conn, `SELECT pg_catalog.quote_ident(subname) FROM pg_catalog.pg_subscription
		WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())`)
	if sqlstate.Of(err) == sqlstate.InsufficientPrivilege { // who may not look has made none
		return nil
	}
	for _, r := range rows {
		for _, sql := range []string{"ALTER SUBSCRIPTION %s DISABLE", "ALTER SUBSCRIPTION %s SET (slot_name = NONE)", "DROP SUBSCRIPTION %s"} {
			if err := exec(ctx, conn, fmt.Sprintf(sql, r[0])); err != nil {
				return fmt.Errorf("drop subscription %s: %w", r[0], err)
			}
		}
	}
	return err
}

// connect opens one more session on the database under restore.
func (d *Database) connect(ctx context.Context) (*pgconn.PgConn, error) {
	conn, err := pgconn.ConnectConfig(ctx, d.cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the database under restore: %w", err)
	}
	if err := d.prepare(ctx, conn); err != nil {
		closeConn(conn)
		return nil, err
	}
	return conn, nil
}

func (d *Database) prepare(ctx context.Context, conn *pgconn.PgConn) error {
	sql := `SET standard_conforming_strings = on; SET check_function_bodies = false; SET xmloption = content;
SET client_min_messages = warning; SET row_security = off; SET synchronous_commit = off;
SET search_path = ''; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET lc_monetary = 'C';
SET default_tablespace = ''; SET TimeZone = 'UTC'; SET max_parallel_maintenance_workers = 0`
	if d.props.ClientEncoding != "" {
		sql += "; SET client_encoding = " + catalog.Literal(d.props.ClientEncoding)
	}
	if err := exec(ctx, conn, sql); err != nil {
		return fmt.Errorf("set up a session on the target: %w", err)
	}
	return nil
}

// session lends a connection of the loading pool.
func (d *Database) session(ctx context.Context) (*pgconn.PgConn, func(error), error) {
	d.mu.Lock()
	var conn *pgconn.PgConn
	if n := len(d.idle); n > 0 {
		conn, d.idle = d.idle[n-1], d.idle[:n-1]
	}
	d.mu.Unlock()
	if conn == nil {
		var err error
		if conn, err = d.connect(ctx); err != nil {
			return nil, nil, err
		}
	}
	return conn, func(err error) {
		if err != nil || conn.IsClosed() {
			closeConn(conn)
			return
		}
		d.mu.Lock()
		d.idle = append(d.idle, conn)
		d.mu.Unlock()
	}, nil
}

// ServerVersion is the target server's version.
func (d *Database) ServerVersion() string { return d.main.ParameterStatus("server_version") }

// MissingRoles returns those of names that the server does not have.
func (d *Database) MissingRoles(ctx context.Context, names []string) ([]string, error) {
	return missing(ctx, d.main, names, roleNames)
}

// MissingExtensions returns those of names that the server can't install.
func (d *Database) MissingExtensions(ctx context.Context, names []string) ([]string, error) {
	return missing(ctx, d.main, names, extensionNames)
}

func missing(ctx context.Context, conn *pgconn.PgConn, names []string, sql string) ([]string, error) {
	rows, err := query(ctx, conn, sql)
	if err != nil {
		return nil, err
	}
	have := map[string]bool{}
	for _, r := range rows {
		have[r[0]] = true
	}
	var lacking []string
	for _, n := range names {
		if !have[n] {
			lacking = append(lacking, n)
		}
	}
	return lacking, nil
}

const (
	roleNames      = `SELECT rolname FROM pg_catalog.pg_roles`
	extensionNames = `SELECT name FROM pg_catalog.pg_available_extensions`
)

// Server is a target that is only looked at.
type Server struct {
	Name   string // of the database that would be filled
	Exists bool   // and is empty
	conn   *pgconn.PgConn
}

// Look finds out what Open would do, without doing it.
func Look(ctx context.Context, url string) (*Server, error) {
	cfg, err := parse(url)
	if err != nil {
		return nil, err
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if sqlstate.Of(err) == sqlstate.InvalidCatalogName {
		conn, err = connectMaintenance(ctx, cfg)
		return &Server{Name: cfg.Database, conn: conn}, err
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the target: %w", err)
	}
	left, err := contents(ctx, conn)
	if err == nil && left != "" {
		err = fmt.Errorf("database %q holds %s: %w", cfg.Database, left, ErrNotEmpty)
	}
	if err != nil {
		closeConn(conn)
		return nil, err
	}
	return &Server{Name: cfg.Database, Exists: true, conn: conn}, nil
}

// MissingRoles returns those of names that the server does not have.
func (s *Server) MissingRoles(ctx context.Context, names []string) ([]string, error) {
	return missing(ctx, s.conn, names, roleNames)
}

// MissingExtensions returns those of names that the server can't install.
func (s *Server) MissingExtensions(ctx context.Context, names []string) ([]string, error) {
	return missing(ctx, s.conn, names, extensionNames)
}

// Close lets the connection go.
func (s *Server) Close() { closeConn(s.conn) }

// Exec runs statements one after another in the main session. what names them in errors, for example "pre-data".
func (d *Database) Exec(ctx context.Context, what string, statements []catalog.Statement) error {
	for _, s := range statements {
		if err := exec(ctx, d.main, s.Text); err != nil {
			return fmt.Errorf("run the %s statement at line %d (%s): %w", what, s.Line, firstLine(s.Text), err)
		}
	}
	return nil
}

// HasTablespace reports whether the server has the tablespace that a SET default_tablespace statement names.
func (d *Database) HasTablespace(ctx context.Context, set string) (bool, error) {
	err := exec(ctx, d.main, set)
	if sqlstate.Of(err) == sqlstate.InvalidParameterValue {
		return false, nil
	}
	if err == nil {
		err = exec(ctx, d.main, "SET default_tablespace = ''")
	}
	if err != nil {
		return false, fmt.Errorf("look for a tablespace on the target: %w", err)
	}
	return true, nil
}

// RowError is a row that the server refused.
type RowError struct {
	Row int64 // of the COPY, from 1
	Err error
}

func (e *RowError) Error() string { return e.Err.Error() }

// Unwrap returns what the server said, without values.
func (e *RowError) Unwrap() error { return e.Err }

// CopyIn loads COPY text rows (no header, no `\.`) with the given COPY … FROM stdin; statement and returns how many the
// server took. It is safe for concurrent use; each call is a transaction of its own. When rows fails nothing is loaded,
// and the text of its error is told to the server. A row that the server refuses is a RowError, where it says which.
//
// frozen is for an ordinary table that is empty, and that nothing else works on. It is truncated first, whereupon
// PostgreSQL can take rows in that count as seen by everybody: neither the first to read them nor the vacuum that comes
// for their age has to write every page once more.
func (d *Database) CopyIn(ctx context.Context, table catalog.Name, copySQL string, rows io.Reader, frozen bool) (n int64, err error) {
	conn, release, err := d.session(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { release(err) }()
	if frozen {
		switch err := exec(ctx, conn, "BEGIN; TRUNCATE ONLY "+table.SQL()); {
		case sqlstate.Of(err) == sqlstate.InsufficientPrivilege: // an owner may have been left with no more than INSERT
			frozen = false
			if err := exec(ctx, conn, "ROLLBACK"); err != nil {
				return 0, err
			}
		case err != nil:
			return 0, err
		default:
			copySQL = strings.TrimSuffix(copySQL, ";") + " WITH (FREEZE)"
		}
	}
	tag, err := conn.CopyFrom(ctx, rows, copySQL)
	if err == nil && frozen {
		err = exec(ctx, conn, "COMMIT")
	}
	if err == nil {
		return tag.RowsAffected(), nil
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		if row := copyRow(pgErr.Where); row > 0 {
			return 0, &RowError{row, withoutValues(err)}
		}
	}
	return 0, withoutValues(err)
}

// ParallelBuild before a statement that builds an index lets the server use as many processes for it as it is set up
// for. Else it uses one, since others are busy beside it.
const ParallelBuild = "SET LOCAL max_parallel_maintenance_workers TO DEFAULT;\n"

// Run runs SQL text, such as large objects or sequences, as one simple query in a session of the pool: all or nothing.
func (d *Database) Run(ctx context.Context, what, sql string) (err error) {
	conn, release, err := d.session(ctx)
	if err != nil {
		return err
	}
	defer func() { release(err) }()
	if err = exec(ctx, conn, sql); err != nil {
		return fmt.Errorf("run the %s: %w", what, err)
	}
	return nil
}

// analyzable lists what ANALYZE is told to look at: tables and materialized views, of a partitioned table the root, which
// stands for its partitions. What has a foreign table below it is passed over, and its own partitions are listed: sampling it
// would connect to the foreign server, which a restored copy has no business with.
const analyzable = `
WITH RECURSIVE far (oid) AS (
  SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE c.relkind = 'f'
  UNION SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN far f ON f.oid = i.inhrelid)
SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
AND c.oid NOT IN (SELECT oid FROM far)
AND (NOT c.relispartition OR EXISTS (SELECT FROM pg_catalog.pg_inherits i JOIN far f ON f.oid = i.inhparent WHERE i.inhrelid = c.oid))
ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"`

// Analyzable lists what there is to gather statistics of, in the order of names.
func (d *Database) Analyzable(ctx context.Context) (names []catalog.Name, err error) {
	rows, err := query(ctx, d.main, analyzable)
	if err != nil {
		return nil, fmt.Errorf("list the tables to analyze: %w", err)
	}
	for _, r := range rows {
		names = append(names, catalog.Name{Schema: r[0], Name: r[1]})
	}
	return names, nil
}

// Analyze gathers the planner's statistics of a table, and of its partitions. It is safe for concurrent use.
func (d *Database) Analyze(ctx context.Context, name catalog.Name) (err error) {
	conn, release, err := d.session(ctx)
	if err != nil {
		return err
	}
	defer func() { release(err) }()
	return exec(ctx, conn, "ANALYZE "+name.SQL())
}

// Finish makes the restore count: it renames a created database, applies its settings and takes the marker off. skipped
// names the settings that could not be applied. Those are warnings; every
// other failure is an error and leaves the database as Abandon finds it.
func (d *Database) Finish(ctx context.Context, settings []Setting) (skipped []string, err error) {
	d.closePool()
	if d.Created {
		closeConn(d.main)
		if err := d.rename(ctx); err != nil {
			return nil, err
		}
	}
	d.done = true
	defer closeConn(d.admin)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute) // it is whole: an interruption comes too late
	defer cancel()
	for _, s := range settings {
		on := "DATABASE " + catalog.Quote(d.Name)
		if s.Role != "" {
			on = "ROLE " + catalog.Quote(s.Role) + " IN DATABASE " + catalog.Quote(d.Name)
		}
		if err := exec(ctx, d.admin, "ALTER "+on+" SET "+settingSQL(s)); err != nil {
			skipped = append(skipped, fmt.Sprintf("ALTER %s SET %s: %v", on, s.Name, err))
		}
	}
	comment := d.props.Comment
	if !d.Created { // in the session that filled it: what it wrote without waiting for the disk is there once this commit is
		comment = d.given.comment
		if err := exec(ctx, d.admin, "RESET synchronous_commit"); err != nil {
			return skipped, fmt.Errorf("finish the restored database: %w", err)
		}
	}
	if err := d.comment(ctx, d.admin, d.Name, comment); err != nil {
		return skipped, fmt.Errorf("take the marker off the finished database: %w", err)
	}
	return skipped, nil
}

// listSettings are the parameters whose value PostgreSQL stores as a list of quoted names; as one literal it would
// become a single name.
var listSettings = []string{"local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries",
	"temp_tablespaces", "unix_socket_directories"}

func settingSQL(s Setting) string {
	values := []string{s.Value}
	if slices.Contains(listSettings, strings.ToLower(s.Name)) {
		values = splitNames(s.Value)
	}
	for i, v := range values {
		values[i] = catalog.Literal(v)
	}
	return settingName(s.Name) + " TO " + strings.Join(values, ", ")
}

// splitNames splits a list as pg_db_role_setting stores it: a, "B c", "d""e". An empty list is one empty name, which is how
// SQL spells it.
func splitNames(list string) (names []string) {
	var name strings.Builder
	quoted := false
	for i := 0; i < len(list); i++ {
		switch c := list[i]; {
		case c == '"' && quoted && strings.HasPrefix(list[i+1:], `"`):
			name.WriteByte(c)
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			names = append(names, name.String())
			name.Reset()
		case c == ' ' && !quoted:
		default:
			name.WriteByte(c)
		}
	}
	return append(names, name.String())
}

func settingName(n string) string {
	parts := strings.SplitN(n, ".", 2)
	for i := range parts {
		parts[i] = catalog.Quote(parts[i])
	}
	return strings.Join(parts, ".")
}

// rename gives the finished database its name. It fails while anybody else (a monitoring agent, an autovacuum worker)
// is connected, so it tries for a bounded while.
func (d *Database) rename(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		// Not to be interrupted, or nobody would know whether it has happened.
		err := exec(context.WithoutCancel(ctx), d.admin, "ALTER DATABASE "+catalog.Quote(d.work)+" RENAME TO "+catalog.Quote(d.Name))
		if err == nil {
			return nil
		}
		if sqlstate.Of(err) != sqlstate.ObjectInUse {
			return fmt.Errorf("rename the restored database: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("rename the restored database, others stay connected to it: %w", err)
		case <-time.After(wait):
		}
	}
}

// Abandon takes away what was done: a created database is dropped; a given one is emptied again. Where that fails the
// marker stays and the error says so. It works after ctx was cancelled.
func (d *Database) Abandon(ctx context.Context) error {
	if d.done {
		return nil
	}
	d.done = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	d.closePool()
	if d.Created {
		closeConn(d.main)
		defer closeConn(d.admin)
		if d.admin.IsClosed() {
			admin, err := connectMaintenance(ctx, d.cfg)
			if err != nil {
				return fmt.Errorf("%s is left on the target server, the next restore drops it: %w", d.work, err)
			}
			d.admin = admin
		}
		if err := dropDatabase(ctx, d.admin, d.cfg, d.work, " WITH (FORCE)"); err != nil {
			return fmt.Errorf("%s is left on the target server, the next restore drops it: %w", d.work, err)
		}
		return nil
	}
	closeConn(d.main) // it may be inside a failed statement
	conn, err := d.connect(ctx)
	if err != nil {
		return fmt.Errorf("database %q is left marked as incomplete: %w", d.Name, err)
	}
	defer closeConn(conn)
	if err := d.empty(ctx, conn); err != nil {
		return fmt.Errorf("database %q is left marked as incomplete (drop it, or empty it): %w", d.Name, err)
	}
	return d.comment(ctx, conn, d.Name, d.given.comment)
}

func (d *Database) closePool() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.idle {
		closeConn(c)
	}
	d.idle = nil
}

func (d *Database) comment(ctx context.Context, conn *pgconn.PgConn, name, text string) error {
	value := "NULL"
	if text != "" {
		value = catalog.Literal(text)
	}
	return exec(ctx, conn, "COMMENT ON DATABASE "+catalog.Quote(name)+" IS "+value)
}

// contents names something that the database holds, or "". Members of extensions, which a provider may have installed,
// do not count.
func contents(ctx context.Context, conn *pgconn.PgConn) (string, error) {
	rows, err := query(ctx, conn, `
WITH member AS (SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e'),
     schema AS (SELECT oid, nspname FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')
SELECT what FROM (
  SELECT 'schema ' || nspname AS what, 'pg_catalog.pg_namespace'::pg_catalog.regclass AS classid, oid AS objid FROM schema WHERE nspname <> 'public'
  UNION ALL SELECT 'relation ' || relname, 'pg_catalog.pg_class'::pg_catalog.regclass, c.oid FROM pg_catalog.pg_class c JOIN schema s ON s.oid = relnamespace
  UNION ALL SELECT 'function ' || proname, 'pg_catalog.pg_proc'::pg_catalog.regclass, p.oid FROM pg_catalog.pg_proc p JOIN schema s ON s.oid = pronamespace
  UNION ALL SELECT 'type ' || typname, 'pg_catalog.pg_type'::pg_catalog.regclass, t.oid FROM pg_catalog.pg_type t JOIN schema s ON s.oid = typnamespace WHERE typelem = 0
  UNION ALL SELECT 'operator ' || oprname, 'pg_catalog.pg_operator'::pg_catalog.regclass, o.oid FROM pg_catalog.pg_operator o JOIN schema s ON s.oid = oprnamespace
  UNION ALL SELECT 'collation ' || collname, 'pg_catalog.pg_collation'::pg_catalog.regclass, o.oid FROM pg_catalog.pg_collation o JOIN schema s ON s.oid = collnamespace
  UNION ALL SELECT 'text search configuration ' || cfgname, 'pg_catalog.pg_ts_config'::pg_catalog.regclass, o.oid FROM pg_catalog.pg_ts_config o JOIN schema s ON s.oid = cfgnamespace
  UNION ALL SELECT 'operator class ' || opcname, 'pg_catalog.pg_opclass'::pg_catalog.regclass, o.oid FROM pg_catalog.pg_opclass o JOIN schema s ON s.oid = opcnamespace
  UNION ALL SELECT 'operator family ' || opfname, 'pg_catalog.pg_opfamily'::pg_catalog.regclass, o.oid FROM pg_catalog.pg_opfamily o JOIN schema s ON s.oid = opfnamespace
  UNION ALL SELECT 'conversion ' || conname, 'pg_catalog.pg_conversion'::pg_catalog.regclass, o.oid FROM pg_catalog.pg_conversion o JOIN schema s ON s.oid = connamespace
  UNION ALL SELECT 'text search dictionary ' || dictname, 'pg_catalog.pg_ts_dict'::pg_catalog.regclass, o.oid FROM pg_catalog.pg_ts_dict o JOIN schema s ON s.oid = dictnamespace
  UNION ALL SELECT 'text search parser ' || prsname, 'pg_catalog.pg_ts_parser'::pg_catalog.regclass, o.oid FROM pg_catalog.pg_ts_parser o JOIN schema s ON s.oid = prsnamespace
  UNION ALL SELECT 'text search template ' || tmplname, 'pg_catalog.pg_ts_template'::pg_catalog.regclass, o.oid FROM pg_catalog.pg_ts_template o JOIN schema s ON s.oid = tmplnamespace
  UNION ALL SELECT 'foreign server ' || srvname, 'pg_catalog.pg_foreign_server'::pg_catalog.regclass, oid FROM pg_catalog.pg_foreign_server
  UNION ALL SELECT 'large object ' || oid, 0, oid FROM pg_catalog.pg_largeobject_metadata
  UNION ALL SELECT 'publication ' || pubname, 0, oid FROM pg_catalog.pg_publication
  UNION ALL SELECT 'event trigger ' || evtname, 'pg_catalog.pg_event_trigger'::pg_catalog.regclass, oid FROM pg_catalog.pg_event_trigger
  UNION ALL SELECT 'foreign-data wrapper ' || fdwname, 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass, oid FROM pg_catalog.pg_foreign_data_wrapper
) o WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = o.classid AND m.objid = o.objid) LIMIT 1`)
	if err != nil {
		return "", fmt.Errorf("look whether the target is empty: %w", err)
	}
	if len(rows) == 0 {
		return "", nil
	}
	return rows[0][0], nil
}

// empty drops everything that a restore put into a given database.
func (d *Database) empty(ctx context.Context, conn *pgconn.PgConn) error {
	drops := []struct{ list, format string }{
		{`SELECT pg_catalog.quote_ident(evtname) FROM pg_catalog.pg_event_trigger`, "DROP EVENT TRIGGER IF EXISTS %s CASCADE"},
		{`SELECT pg_catalog.quote_ident(pubname) FROM pg_catalog.pg_publication`, "DROP PUBLICATION IF EXISTS %s CASCADE"},
		{`SELECT oid::text FROM pg_catalog.pg_largeobject_metadata`, "SELECT pg_catalog.lo_unlink(%s)"},
		{`SELECT pg_catalog.quote_ident(nspname) FROM pg_catalog.pg_namespace n WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public')
		  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend WHERE deptype = 'e' AND classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND objid = n.oid)`, "DROP SCHEMA IF EXISTS %s CASCADE"},
		{`SELECT pg_catalog.quote_ident(fdwname) FROM pg_catalog.pg_foreign_data_wrapper f
		  WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend WHERE deptype = 'e' AND objid = f.oid)`, "DROP FOREIGN DATA WRAPPER IF EXISTS %s CASCADE"},
	}
	for _, drop := range drops {
		rows, err := query(ctx, conn, drop.list)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if err := exec(ctx, conn, fmt.Sprintf(drop.format, r[0])); err != nil {
				return err
			}
		}
	}
	if err := dropSubscriptions(ctx, conn); err != nil {
		return err
	}
	rows, err := query(ctx, conn, `SELECT extname FROM pg_catalog.pg_extension`)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if !d.given.extensions[r[0]] {
			if err := exec(ctx, conn, "DROP EXTENSION IF EXISTS "+catalog.Quote(r[0])+" CASCADE"); err != nil {
				return err
			}
		}
	}
	left, err := contents(ctx, conn)
	if err != nil || left == "" {
		return err
	}
	if len(d.given.extensions) > 1 { // more than plpgsql: they may live in public, and must stay
		return fmt.Errorf("%s is still there", left)
	}
	if err := exec(ctx, conn, "DROP SCHEMA IF EXISTS public CASCADE"); err != nil {
		return err
	}
	if d.given.hasPublic {
		sql := "CREATE SCHEMA public AUTHORIZATION " + catalog.Quote(d.given.publicOwner) + "; GRANT USAGE ON SCHEMA public TO PUBLIC"
		if strings.Contains(d.given.publicACL, "=UC/") && (strings.HasPrefix(d.given.publicACL, "{=UC/") || strings.Contains(d.given.publicACL, ",=UC/")) {
			sql += "; GRANT CREATE ON SCHEMA public TO PUBLIC"
		}
		if d.given.publicComment != "" {
			sql += "; COMMENT ON SCHEMA public IS " + catalog.Literal(d.given.publicComment)
		}
		if err := exec(ctx, conn, sql); err != nil {
			return err
		}
	}
	if left, err = contents(ctx, conn); err == nil && left != "" {
		err = fmt.Errorf("%s is still there", left)
	}
	return err
}

func exec(ctx context.Context, conn *pgconn.PgConn, sql string) error {
	return withoutValues(conn.Exec(ctx, sql).Close())
}

func query(ctx context.Context, conn *pgconn.PgConn, sql string) ([][]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, withoutValues(err)
	}
	var out [][]string
	for _, res := range results {
		for _, row := range res.Rows {
			r := make([]string, len(row))
			for i, v := range row {
				r[i] = string(v)
			}
			out = append(out, r)
		}
	}
	return out, nil
}

func queryRow(ctx context.Context, conn *pgconn.PgConn, sql string) ([]string, error) {
	rows, err := query(ctx, conn, sql)
	if err == nil && len(rows) != 1 {
		err = fmt.Errorf("the server answered %d rows to a question of one", len(rows))
	}
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

// withoutValues keeps what a server quotes of rows (its DETAIL and the COPY line in its context) out of an error.
func withoutValues(err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return err
	}
	clean := &pgconn.PgError{Severity: pgErr.Severity, Code: pgErr.Code, Message: pgErr.Message, SchemaName: pgErr.SchemaName,
		TableName: pgErr.TableName, ColumnName: pgErr.ColumnName, ConstraintName: pgErr.ConstraintName}
	if sqlstate.MayQuote(pgErr.Code) {
		where := strings.TrimSpace(strings.Join([]string{pgErr.SchemaName, pgErr.TableName, pgErr.ColumnName, pgErr.ConstraintName}, " "))
		if line := copyLine(pgErr.Where); line != "" {
			where = strings.TrimSpace(where + " " + line)
		}
		clean.Message = conditionName(pgErr.Code)
		if where != "" {
			clean.Message += " (" + where + ")"
		}
	}
	return clean
}

// copyLine takes "COPY users, line 3" out of "COPY users, line 3, column id: …".
func copyLine(where string) string {
	if !strings.HasPrefix(where, "COPY ") {
		return ""
	}
	where, _, _ = strings.Cut(where, "\n")
	if i := strings.Index(where, ": \""); i >= 0 {
		where = where[:i]
	}
	return where
}

// copyRow takes 3 out of "COPY users, line 3, column id: …", and is 0 where there is none.
func copyRow(where string) int64 {
	_, line, _ := strings.Cut(copyLine(where), ", line ")
	line, _, _ = strings.Cut(line, ",")
	row, _ := strconv.ParseInt(line, 10, 64)
	return row
}

func conditionName(code string) string {
	switch code {
	case "23502":
		return "a NULL in a NOT NULL column"
	case "23503":
		return "a row that references nothing"
	case "23505":
		return "a duplicate key"
	case "23514":
		return "a row that a CHECK constraint refuses"
	case "23P01":
		return "a row that an exclusion constraint refuses"
	case "22021", "22P05":
		return "text that is not valid in the database's encoding"
	case sqlstate.RaiseException:
		return "an error that a function of the database raised"
	case "22P02", "22P03", "22P04":
		return "a value that its column's type can't read"
	}
	return "a value that the server refuses"
}

func closeConn(c *pgconn.PgConn) {
	if c == nil || c.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c.Close(ctx)
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if len(s) > 100 {
		s = s[:100] + "…"
	}
	return s
}
