package source

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgservicefile"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"lethe/scrub/catalog"
)

// readBuffer is how much a connection reads at once. Rows come from the server in pieces of 8 KiB, and taking several
// with one system call saves some of what a copy costs us (7 % of the CPU time over a unix socket, as measured).
const readBuffer = 128 << 10

// patient reads rows as they come, and then waits until more of them have come: each waking for 8 KiB would cost us and the
// server more than what there is to do with them. An answer that is short is not waited for: only what goes on after one reading
// of that much is.
type patient struct {
	net.Conn
	goesOn atomic.Bool // so much was read since the last question
}

const (
	serverSends = 8 << 10                // at a time, of rows (PqSendBufferSize in src/backend/libpq/pqcomm.c)
	patience    = 100 * time.Microsecond // in which a server fills a tenth of what a unix socket holds
)

func (p *patient) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if n >= serverSends && n < len(b) && err == nil && p.goesOn.Swap(true) {
		time.Sleep(patience)
	}
	return n, err
}

func (p *patient) Write(b []byte) (int, error) {
	p.goesOn.Store(false)
	return p.Conn.Write(b)
}

// endpoint is the one server that all connections of a snapshot go to.
type endpoint struct {
	config  *pgconn.Config // one host, its address pinned to the one that answered first
	env     []string       // the same connection for a child process
	local   bool
	started string // pg_postmaster_start_time, to notice a proxy that spreads connections over servers
	version int    // server_version_num
	server  string // 15.18
	native  string // server_encoding
}

// libpqOnly are connection parameters that change nothing we promise and that a server would refuse as a setting.
var libpqOnly = []string{"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
	"fallback_application_name", "client_encoding", "sslcompression", "load_balance_hosts", "application_name"}

// childVariables says by which environment variable libpq takes a connection parameter. Host, port, user, database and
// password are not here: those are set from the connection that really stands.
var childVariables = map[string]string{
	"sslmode": "PGSSLMODE", "sslkey": "PGSSLKEY", "sslcert": "PGSSLCERT", "sslcertmode": "PGSSLCERTMODE", "sslrootcert": "PGSSLROOTCERT",
	"sslsni": "PGSSLSNI", "sslnegotiation": "PGSSLNEGOTIATION", "connect_timeout": "PGCONNECT_TIMEOUT", "options": "PGOPTIONS",
	"krbsrvname": "PGKRBSRVNAME", "channel_binding": "PGCHANNELBINDING", "require_auth": "PGREQUIREAUTH",
	"min_protocol_version": "PGMINPROTOCOLVERSION", "max_protocol_version": "PGMAXPROTOCOLVERSION",
}

// reach connects to the first server that the configuration names and that answers, and returns it as the one to stay
// with, together with that first connection.
func reach(ctx context.Context, dsn string) (*endpoint, *pgconn.PgConn, error) {
	const op = "connect to PostgreSQL"
	all, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, nil, &Error{Op: op, Err: withoutAddress(err), Help: "check database.url, or the PG* variables"}
	}
	settings, err := parameters(dsn)
	if err != nil {
		return nil, nil, &Error{Op: op, Err: err}
	}
	if settings["sslpassword"] != "" {
		return nil, nil, &Error{Op: op, Err: errors.New("sslpassword can't be handed to pg_dump without showing it"), Help: "use a key file without a passphrase, readable only by this user"}
	}
	for _, k := range libpqOnly {
		delete(all.RuntimeParams, k)
	}
	dialer := &net.Dialer{Timeout: all.ConnectTimeout, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 6}}
	all.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &patient{Conn: conn}, nil
	}
	all.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(bufio.NewReaderSize(r, readBuffer), w)
	}

	// One server at a time rather than pgconn's own list, since workers and pg_dump must reach the very same one.
	// prefer-standby wants a first round that insists.
	rounds := []pgconn.ValidateConnectFunc{all.ValidateConnect}
	if settings["target_session_attrs"] == "prefer-standby" {
		rounds = []pgconn.ValidateConnectFunc{pgconn.ValidateConnectTargetSessionAttrsStandby, nil}
	}
	var failures []error
	for _, validate := range rounds {
		for _, config := range perServer(all) {
			config.ValidateConnect = validate
			conn, err := pgconn.ConnectConfig(ctx, config)
			if err != nil {
				failures = append(failures, err)
				continue
			}
			e := &endpoint{config: config}
			e.pin(conn, settings)
			if err := e.identify(ctx, conn); err != nil {
				shut(conn)
				return nil, nil, err
			}
			return e, conn, nil
		}
	}
	return nil, nil, &Error{Op: op, Err: errors.Join(failures...), Help: "check that the server runs and that database.url (or PGHOST, PGPORT, PGUSER, PGDATABASE) is right"}
}

// withoutAddress keeps an address that can't be read out of the message: where the password ends is just what may be
// unclear in it.
func withoutAddress(err error) error {
	var parse *pgconn.ParseConfigError
	if !errors.As(err, &parse) {
		return err
	}
	const what = "the address is not a PostgreSQL URL or keyword string"
	if why := parse.Unwrap(); why != nil && !strings.Contains(why.Error(), `"`) { // what it quotes is of the address
		return fmt.Errorf("%s (%w)", what, why)
	}
	return errors.New(what + "; anything special in a user's name or password is percent-encoded in a URL")
}

// perServer splits a configuration with several hosts into one per host; with and without TLS of one host stay together.
func perServer(all *pgconn.Config) []*pgconn.Config {
	entries := append([]*pgconn.FallbackConfig{{Host: all.Host, Port: all.Port, TLSConfig: all.TLSConfig}}, all.Fallbacks...)
	var out []*pgconn.Config
	for i, f := range entries {
		if i > 0 && entries[i-1].Host == f.Host && entries[i-1].Port == f.Port {
			last := out[len(out)-1]
			last.Fallbacks = append(last.Fallbacks, f)
			continue
		}
		c := all.Copy()
		c.Host, c.Port, c.TLSConfig, c.Fallbacks = f.Host, f.Port, f.TLSConfig, nil
		out = append(out, c)
	}
	return out
}

// pin makes every further connection, and a child's, go to the address that conn has.
func (e *endpoint) pin(conn *pgconn.PgConn, settings map[string]string) {
	c := e.config
	for _, kv := range os.Environ() {
		switch name, _, _ := strings.Cut(kv, "="); {
		case strings.HasPrefix(name, "PG"), strings.HasPrefix(name, "LETHE_"), strings.HasPrefix(name, "AWS_"),
			strings.HasPrefix(name, "LC_"), strings.HasPrefix(name, "LANG"):
			// Not the child's business; and its messages are to be in one language.
		default:
			e.env = append(e.env, kv)
		}
	}
	e.env = append(e.env, "LC_ALL=C", "PGAPPNAME=lethe", "PGHOST="+c.Host, "PGPORT="+strconv.Itoa(int(c.Port)), "PGUSER="+c.User, "PGDATABASE="+c.Database)
	if c.Password != "" {
		e.env = append(e.env, "PGPASSWORD="+c.Password)
	}
	for key, variable := range childVariables {
		if v := settings[key]; v != "" {
			e.env = append(e.env, variable+"="+v)
		}
	}
	tcp, ok := conn.Conn().RemoteAddr().(*net.TCPAddr)
	if !ok {
		e.local = true
		return
	}
	e.local = tcp.IP.IsLoopback()
	ip := tcp.IP.String()
	if tcp.Zone != "" {
		ip += "%" + tcp.Zone
	}
	c.LookupFunc = func(context.Context, string) ([]string, error) { return []string{ip}, nil }
	e.env = append(e.env, "PGHOSTADDR="+ip)
}

// identify asks the server who it is, and refuses a pooler.
func (e *endpoint) identify(ctx context.Context, conn *pgconn.PgConn) error {
	const op = "connect to PostgreSQL"
	r, err := rows(ctx, conn, `SELECT pg_catalog.pg_backend_pid(), extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text,
		pg_catalog.current_setting('server_version_num'), pg_catalog.current_setting('server_version'), pg_catalog.current_setting('server_encoding'),
		pg_catalog.current_setting('standard_conforming_strings'), pg_catalog.current_setting('lc_monetary')`)
	if err != nil {
		return &Error{Op: op, Err: err}
	}
	if err := e.direct(conn, r[0][0]); err != nil {
		return err
	}
	e.started, e.native = r[0][1], r[0][4]
	e.version, _ = strconv.Atoi(r[0][2])
	// pg_dump makes most settings its own, as sessionSettings do, but for these two. It is told only where it must be: poolers
	// refuse startup options.
	if r[0][5] != "on" {
		e.option("standard_conforming_strings=on")
	}
	if r[0][6] != "C" && r[0][6] != "POSIX" {
		e.option("lc_monetary=C")
	}
	e.server, _, _ = strings.Cut(r[0][3], " ")
	if e.version < 130000 {
		return &Error{Op: op, Err: fmt.Errorf("the server is PostgreSQL %s; 13 is the oldest that is supported", e.server)}
	}
	return nil
}

// option gives a child's connection one more setting.
func (e *endpoint) option(setting string) {
	const variable = "PGOPTIONS="
	for i, kv := range e.env {
		if strings.HasPrefix(kv, variable) {
			e.env[i] = kv + " -c " + setting
			return
		}
	}
	e.env = append(e.env, variable+"-c "+setting)
}

// direct makes sure that the backend which answers is the one that the connection was opened to.
func (e *endpoint) direct(conn *pgconn.PgConn, pid string) error {
	if pid == strconv.FormatUint(uint64(conn.PID()), 10) {
		return nil
	}
	return &Error{Op: "connect to PostgreSQL",
		Err:  fmt.Errorf("a connection pooler answers on %s port %d, and a snapshot does not outlive a transaction there", e.config.Host, e.config.Port),
		Help: "connect to PostgreSQL itself: its own host and port in database.url"}
}

// major returns the server's major version.
func (e *endpoint) major() int { return e.version / 10000 }

// sessionSettings make what COPY prints independent of the server's, the database's and the role's own settings, and
// keep the server from giving up on a long read.
const sessionSettings = `
SET search_path = '';
SET application_name = 'lethe';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET TimeZone = 'UTC';
SET extra_float_digits = 3;
SET bytea_output = 'hex';
SET lc_monetary = 'C';
SET lc_numeric = 'C';
SET xmloption = 'content';
SET standard_conforming_strings = on;
SET quote_all_identifiers = off;
SET row_security = off;
SET synchronize_seqscans = off;
SET jit = off;
SET max_parallel_workers_per_gather = 0;
SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_min_messages = warning;
`

// session opens a connection with the settings of every COPY session. They are SET one after the other, since poolers
// and proxies refuse startup options.
func (e *endpoint) session(ctx context.Context, encoding string, lockTimeout time.Duration) (*pgconn.PgConn, error) {
	conn, err := pgconn.ConnectConfig(ctx, e.config)
	if err != nil {
		return nil, &Error{Op: "connect to PostgreSQL", Err: err, Help: "a snapshot needs three connections, two more for pg_dump, and one per worker"}
	}
	if err := e.prepare(ctx, conn, encoding, lockTimeout); err != nil {
		shut(conn)
		return nil, err
	}
	return conn, nil
}

func (e *endpoint) prepare(ctx context.Context, conn *pgconn.PgConn, encoding string, lockTimeout time.Duration) error {
	r, err := rows(ctx, conn, `SELECT pg_catalog.pg_backend_pid(), extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text`)
	if err != nil {
		return &Error{Op: "connect to PostgreSQL", Err: err}
	}
	if err := e.direct(conn, r[0][0]); err != nil {
		return err
	}
	if r[0][1] != e.started {
		return &Error{Op: "connect to PostgreSQL", Err: errors.New("another server answers than the one the snapshot was opened on, or it was restarted"), Help: "connect to one server, not to a proxy before several"}
	}
	set := sessionSettings + "SET client_encoding = " + catalog.Literal(encoding) + ";\nSET lock_timeout = " + strconv.FormatInt(lockTimeout.Milliseconds(), 10) + ";\n"
	if e.version >= 140000 {
		set += "SET idle_session_timeout = 0;\n"
	}
	if e.version >= 170000 {
		set += "SET transaction_timeout = 0;\n"
	}
	if _, err := rows(ctx, conn, set); err != nil {
		return &Error{Op: "prepare a session", Err: err}
	}
	return nil
}

// rows runs SQL and returns the rows of its last statement as text; NULL is "".
func rows(ctx context.Context, conn *pgconn.PgConn, sql string) ([][]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) == 0 {
		return nil, nil
	}
	last := results[len(results)-1]
	out := make([][]string, len(last.Rows))
	for i, row := range last.Rows {
		out[i] = make([]string, len(row))
		for j, v := range row {
			out[i][j] = string(v)
		}
	}
	return out, nil
}

// shut closes a connection politely, and waits until nothing of it is left running.
func shut(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = conn.Close(ctx) // there is nothing to lose: all of ours only read
	<-conn.CleanupDone()
}

// parameters returns the connection's parameters as libpq merges them: the environment, then the service file, then the
// connection string. pgconn has parsed (and so validated) the string already but keeps only what it needs itself.
func parameters(dsn string) (map[string]string, error) {
	settings := map[string]string{}
	for key, variable := range childVariables {
		settings[key] = os.Getenv(variable)
	}
	settings["target_session_attrs"] = os.Getenv("PGTARGETSESSIONATTRS")
	settings["sslpassword"] = os.Getenv("PGSSLPASSWORD")
	settings["service"], settings["servicefile"] = os.Getenv("PGSERVICE"), os.Getenv("PGSERVICEFILE")

	given := map[string]string{}
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		if _, query, ok := strings.Cut(dsn, "?"); ok {
			for pair := range strings.SplitSeq(query, "&") {
				k, v, _ := strings.Cut(pair, "=")
				k, errK := url.PathUnescape(k)
				v, errV := url.PathUnescape(v)
				if errK != nil || errV != nil {
					return nil, errors.New("the query of database.url has a broken percent-encoding")
				}
				if k == "ssl" && v == "true" {
					k, v = "sslmode", "require"
				}
				given[k] = v
			}
		}
	} else {
		keywords(dsn, given)
	}
	for _, k := range []string{"service", "servicefile"} {
		if v, ok := given[k]; ok {
			settings[k] = v
		}
	}
	if name := settings["service"]; name != "" {
		file := settings["servicefile"]
		if file == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return nil, fmt.Errorf("look for the service file: %w", err)
			}
			file = home + "/.pg_service.conf"
		}
		services, err := pgservicefile.ReadServicefile(file)
		if err != nil {
			return nil, fmt.Errorf("read the service file: %w", err)
		}
		service, err := services.GetService(name)
		if err != nil {
			return nil, fmt.Errorf("find service %s in %s: %w", name, file, err)
		}
		for k, v := range service.Settings {
			settings[k] = v
		}
	}
	for k, v := range given {
		settings[k] = v
	}
	return settings, nil
}

// keywords reads libpq's keyword = 'value' form, which pgconn has found to be well formed.
func keywords(s string, into map[string]string) {
	for {
		s = strings.TrimLeft(s, " \t\r\n\v\f")
		key, rest, ok := strings.Cut(s, "=")
		if !ok {
			return
		}
		rest = strings.TrimLeft(rest, " \t\r\n\v\f")
		quoted := strings.HasPrefix(rest, "'")
		if quoted {
			rest = rest[1:]
		}
		var value strings.Builder
		i := 0
	scan:
		for ; i < len(rest); i++ {
			switch c := rest[i]; {
			case c == '\\' && i+1 < len(rest):
				i++
				value.WriteByte(rest[i])
			case quoted && c == '\'', !quoted && strings.IndexByte(" \t\r\n\v\f", c) >= 0:
				break scan
			default:
				value.WriteByte(c)
			}
		}
		into[strings.TrimSpace(key)] = value.String()
		if i >= len(rest) {
			return
		}
		s = rest[i+1:]
	}
}
