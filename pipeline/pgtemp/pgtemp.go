// Package pgtemp runs a throwaway PostgreSQL server: a fresh cluster in a private temporary folder, reached over a
// unix socket in that folder, gone without a trace when it is stopped.
//
// It promises that the server is nobody else's (folder and socket are mode 0700, TCP only on demand, on loopback and
// with a password), that it does not outlive the process that started it (on Linux even when that process is killed),
// and that whatever a killed process leaves on disk is removed by the next Start.
//
// It does not promise durability: fsync is off. And the cluster is plain text on disk while it runs; whoever restores
// personal data into it chooses Options.Dir accordingly, such as a folder on tmpfs.
//
// As root the server runs as the user "postgres", or "nobody" where there is none, because PostgreSQL refuses to run
// as root.
package pgtemp

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	superuser    = "postgres"
	socketPort   = 5432            // names the socket file; nothing listens on it but the socket
	startTimeout = 2 * time.Minute // for initdb and recovery on a machine under load
	stopPatience = 20 * time.Second
)

// Options says what kind of server to start. The zero value is a UTF-8 server on a unix socket.
type Options struct {
	BinDir   string            // folder of initdb and postgres; "" looks for it, see BinDir
	Dir      string            // parent of the server's folder; "" means the system's temporary folder
	TCP      bool              // listen on a free port of 127.0.0.1 too, with a random password: see TCPURL
	Encoding string            // of the cluster; "" means UTF8
	Locale   string            // of the cluster; "" means C.UTF-8 (C on systems other than Linux)
	Settings map[string]string // more lines for postgresql.conf; they win over those of this package
}

// Server is a running throwaway server. Its methods may be called from many goroutines.
type Server struct {
	binDir   string
	dir      string
	port     int
	tcp      bool
	password string // "" without TCP
	account  *account

	lock *os.File // held, with the server's own processes, for as long as the folder is in use
	log  *os.File

	process *os.Process
	exited  chan struct{} // closed when the server's main process is gone
	exitErr error         // valid once exited is closed

	stop    sync.Once
	stopErr error
}

// Start makes a cluster, starts a server on it and returns when it accepts connections. Cancelling ctx during Start
// takes everything back; afterwards ctx has no influence, and the server runs until Stop or the end of this process.
// Start also removes the folders that killed processes left behind.
func Start(ctx context.Context, opts Options) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()

	binDir, err := BinDir(opts.BinDir)
	if err != nil {
		return nil, err
	}
	acct, err := serverAccount()
	if err != nil {
		return nil, err
	}
	parent, err := chooseParent(opts.Dir, acct)
	if err != nil {
		return nil, err
	}
	s := &Server{binDir: binDir, port: socketPort, tcp: opts.TCP, account: acct, exited: make(chan struct{})}
	if s.dir, s.lock, err = makeFolder(parent, acct); err != nil {
		return nil, err
	}
	removeAbandoned(parent, acct, s.dir)
	if err := s.start(ctx, opts); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, opts Options) error {
	var err error
	if s.log, err = os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_EXCL|os.O_RDWR|os.O_APPEND, 0o600); err != nil {
		return fmt.Errorf("start a throwaway PostgreSQL server: %w", err)
	}
	if err := s.initdb(ctx, opts); err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		if s.tcp {
			if s.port, err = freePort(); err != nil {
				return fmt.Errorf("start a throwaway PostgreSQL server: find a free TCP port: %w", err)
			}
		}
		if err := s.configure(opts.Settings); err != nil {
			return err
		}
		if err := s.launch(); err != nil {
			return err
		}
		err := s.waitReady(ctx)
		if err == nil {
			break
		}
		if !s.tcp || attempt == portAttempts || !errors.Is(err, errPortTaken) {
			return err
		}
		s.exited = make(chan struct{})
	}
	if s.tcp {
		// Until this statement no password fits, so the open port lets nobody in.
		s.password = rand.Text()
		if err := s.Exec(ctx, superuser, "ALTER ROLE "+superuser+" PASSWORD '"+s.password+"'"); err != nil {
			return fmt.Errorf("set the throwaway server's password: %w", err)
		}
	}
	return nil
}

func (s *Server) dataDir() string { return filepath.Join(s.dir, "data") }

func (s *Server) initdb(ctx context.Context, opts Options) error {
	encoding, locale := opts.Encoding, opts.Locale
	if encoding == "" {
		encoding = "UTF8"
	}
	if locale == "" {
		locale = "C"
		if runtime.GOOS == "linux" {
			locale = "C.UTF-8"
		}
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, s.Tool("initdb"), "--pgdata="+s.dataDir(), "--username="+superuser,
		"--auth=trust", "--encoding="+encoding, "--locale="+locale, "--no-sync", "--no-instructions")
	s.prepare(cmd)
	cmd.Stdout, cmd.Stderr = &out, &out
	// initdb runs postgres as a child of its own. Killing the whole group, and Wait's waiting for the last holder of
	// the output pipe, leave nobody who still writes into the folder when it is removed.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }

	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the parent-death signal belongs to the thread that forked
		defer runtime.UnlockOSThread()
		done <- cmd.Run()
	}()
	if err := <-done; err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("create a throwaway PostgreSQL cluster: %w", context.Cause(ctx))
		}
		return fmt.Errorf("create a throwaway PostgreSQL cluster with %s: %w\n%s", cmd.Path, err, tail(out.String(), 2000))
	}
	return nil
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

// configure writes pg_hba.conf and appends to postgresql.conf: files rather than arguments, so that ALTER SYSTEM and
// a reload work as on any server.
func (s *Server) configure(extra map[string]string) error {
	listen := ""
	hba := "local all all trust\nlocal replication all trust\n"
	if s.tcp {
		listen = "127.0.0.1"
		hba += "host all all 127.0.0.1/32 scram-sha-256\n"
	}
	settings := map[string]string{
		"listen_addresses":           listen,
		"port":                       strconv.Itoa(s.port),
		"unix_socket_directories":    s.dir,
		"unix_socket_permissions":    "0700",
		"fsync":                      "off",
		"full_page_writes":           "off",
		"synchronous_commit":         "off",
		"wal_level":                  "minimal",
		"max_wal_senders":            "0",
		"shared_buffers":             "32MB",
		"password_encryption":        "scram-sha-256",
		"lc_messages":                "C",
		"timezone":                   "UTC",
		"log_timezone":               "UTC",
		"log_error_verbosity":        "terse", // no DETAIL lines: those quote rows
		"log_min_error_statement":    "panic", // nor statements
		"log_parameter_max_length":   "0",
		"restart_after_crash":        "off",
		"dynamic_shared_memory_type": "mmap", // inside the folder, so that a kill leaves nothing elsewhere
	}
	for name, value := range extra {
		settings[name] = value
	}
	var conf strings.Builder
	for _, name := range sortedKeys(settings) {
		value := settings[name]
		if !settingName.MatchString(name) || strings.ContainsAny(value, "\n\r\x00") {
			return fmt.Errorf("throwaway PostgreSQL server: %q is not a setting that postgresql.conf can hold", name)
		}
		value = strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(value)
		fmt.Fprintf(&conf, "%s = '%s'\n", name, value)
	}
	if err := os.WriteFile(filepath.Join(s.dataDir(), "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		return fmt.Errorf("configure the throwaway PostgreSQL server: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(s.dataDir(), "postgresql.conf"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("configure the throwaway PostgreSQL server: %w", err)
	}
	_, err = f.WriteString(conf.String())
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("configure the throwaway PostgreSQL server: %w", err)
	}
	return nil
}

// launch starts the server's main process as a direct child whose death is bound to this process.
func (s *Server) launch() error {
	cmd := exec.Command(s.Tool("postgres"), "-D", s.dataDir())
	s.prepare(cmd)
	cmd.Stdout, cmd.Stderr = s.log, s.log

	started := make(chan error)
	go func() {
		// The parent-death signal is sent when the forking *thread* ends, so this goroutine keeps its thread for the
		// server's whole life.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			s.process = cmd.Process
		}
		started <- err
		if err == nil {
			s.exitErr = cmd.Wait()
			close(s.exited)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return nil
}

// prepare gives a server program its account, a folder it may stand in, an environment without anybody's PG*
// variables, and the lock on the folder.
func (s *Server) prepare(cmd *exec.Cmd) {
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + s.binDir + ":/usr/local/bin:/usr/bin:/bin", "HOME=" + s.dir, "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = boundToParent()
	cmd.SysProcAttr.Setpgid = true // Ctrl-C in a terminal is for us; we stop the server
	cmd.SysProcAttr.Credential = s.account.credential()
	cmd.ExtraFiles = []*os.File{s.lock}
}

func (s *Server) waitReady(ctx context.Context) error {
	pause := 5 * time.Millisecond
	for {
		err := s.Exec(ctx, superuser, "SELECT 1")
		if err == nil {
			return nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.exited:
			timer.Stop()
			log := s.Log()
			if strings.Contains(log, "Address already in use") {
				return fmt.Errorf("the throwaway PostgreSQL server did not start: %w\n%s", errPortTaken, log)
			}
			return fmt.Errorf("the throwaway PostgreSQL server did not start: %w\n%s", s.exitErr, log)
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("the throwaway PostgreSQL server did not get ready: %w (last: %w)\n%s", context.Cause(ctx), err, s.Log())
		}
		pause = min(2*pause, 200*time.Millisecond)
	}
}

// Stop shuts the server down and removes its folder. Open connections are cut. It may be called again and then
// returns what it returned first.
func (s *Server) Stop() error {
	s.stop.Do(func() { s.stopErr = s.shutdown() })
	return s.stopErr
}

func (s *Server) shutdown() error {
	var errs []error
	if s.process != nil {
		// SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one.
		for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL} {
			if err := s.process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
				errs = append(errs, fmt.Errorf("stop the throwaway PostgreSQL server: %w", err))
			}
			timer := time.NewTimer(stopPatience)
			select {
			case <-s.exited:
			case <-timer.C:
				continue
			}
			timer.Stop()
			break
		}
		<-s.exited
	}
	if s.log != nil {
		s.log.Close()
	}
	// A server process that outlived a killed parent for an instant may still make a file: removing is tried again.
	var err error
	for range 10 {
		if err = os.RemoveAll(s.dir); err == nil {
			break
		}
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("remove the throwaway PostgreSQL server's folder: %w", err))
	}
	s.lock.Close()
	return errors.Join(errs...)
}

// Dir is the server's folder; it holds the socket, the log and the cluster, and goes with Stop.
func (s *Server) Dir() string { return s.dir }

// Pid is the process id of the server's main process.
func (s *Server) Pid() int { return s.process.Pid }

// Exited is closed when the server's main process has ended, whoever ended it.
func (s *Server) Exited() <-chan struct{} { return s.exited }

// URL is the libpq URL of a database over the unix socket, as the superuser "postgres". psql, pg_dump and pgx
// understand it alike, and nothing in it is secret.
func (s *Server) URL(db string) string { return s.URLAs(superuser, db) }

// URLAs is URL for another role. The socket asks nobody for a password.
func (s *Server) URLAs(role, db string) string {
	// Not url.Values: it writes a space as "+", which libpq takes literally.
	return fmt.Sprintf("postgres:///%s?host=%s&port=%d&user=%s", url.PathEscape(db),
		strings.ReplaceAll(url.PathEscape(s.dir), "%2F", "/"), s.port, url.PathEscape(role))
}

// TCPURL is the libpq URL of a database over 127.0.0.1 as the superuser; it holds the password. It is "" for a server
// started without Options.TCP.
func (s *Server) TCPURL(db string) string {
	if !s.tcp {
		return ""
	}
	return fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d/%s?sslmode=disable", superuser, s.password, s.port, url.PathEscape(db))
}

// Tool is the path of one of PostgreSQL's programs, such as pg_dump, of the server's own version.
func (s *Server) Tool(name string) string { return filepath.Join(s.binDir, name) }

// Log is the end of the server's log, for messages about a server that does not start. It has neither DETAIL lines
// nor statements, but a primary message may quote a value once there is data in the server.
func (s *Server) Log() string {
	const most = 4000
	info, err := s.log.Stat()
	if err != nil {
		return ""
	}
	text, err := io.ReadAll(io.NewSectionReader(s.log, max(0, info.Size()-most), most))
	if err != nil {
		return ""
	}
	return tail(string(text), most)
}

// CreateDatabase creates a database; options are the words that follow CREATE DATABASE name, such as
// "TEMPLATE template0", "ENCODING 'LATIN1'", "LOCALE 'C'".
func (s *Server) CreateDatabase(ctx context.Context, name string, options ...string) error {
	sql := "CREATE DATABASE " + quoteIdent(name) + " " + strings.Join(options, " ")
	if err := s.Exec(ctx, superuser, sql); err != nil {
		return fmt.Errorf("create database %s: %w", quoteIdent(name), err)
	}
	return nil
}

// DropDatabase drops a database and cuts its connections; one that is not there is not an error.
func (s *Server) DropDatabase(ctx context.Context, name string) error {
	conn, err := pgconn.Connect(ctx, s.URL(superuser))
	if err != nil {
		return fmt.Errorf("drop database %s: %w", quoteIdent(name), err)
	}
	defer conn.Close(ctx)
	// Not DROP … WITH (FORCE), which PostgreSQL 12 does not know; and two statements, since DROP wants no transaction.
	for _, sql := range []string{
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = " + quoteLiteral(name),
		"DROP DATABASE IF EXISTS " + quoteIdent(name),
	} {
		if _, err := conn.Exec(ctx, sql).ReadAll(); err != nil {
			return fmt.Errorf("drop database %s: %w", quoteIdent(name), err)
		}
	}
	return nil
}

// Exec runs SQL, one or many statements, on a connection of its own as the superuser. Many statements are one
// transaction unless they say otherwise.
func (s *Server) Exec(ctx context.Context, db, sql string) error {
	_, err := s.run(ctx, db, sql)
	return err
}

// Query runs one statement and returns its rows, each value in PostgreSQL's text form. NULL is returned as "": a
// caller to whom the difference matters asks for it in SQL.
func (s *Server) Query(ctx context.Context, db, sql string) ([][]string, error) {
	results, err := s.run(ctx, db, sql)
	if err != nil {
		return nil, err
	}
	var rows [][]string
	for _, result := range results {
		for _, values := range result.Rows {
			row := make([]string, len(values))
			for i, v := range values {
				row[i] = string(v)
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// Value runs a query of one row and one column and returns that value.
func (s *Server) Value(ctx context.Context, db, sql string) (string, error) {
	rows, err := s.Query(ctx, db, sql)
	if err != nil {
		return "", err
	}
	if len(rows) != 1 || len(rows[0]) != 1 {
		return "", fmt.Errorf("query for one value: %d rows came back", len(rows))
	}
	return rows[0][0], nil
}

func (s *Server) run(ctx context.Context, db, sql string) (results []*pgconn.Result, err error) {
	conn, err := pgconn.Connect(ctx, s.URL(db))
	if err != nil {
		return nil, err
	}
	defer func() {
		closeErr := conn.Close(context.WithoutCancel(ctx))
		if err == nil {
			err = closeErr
		}
	}()
	return conn.Exec(ctx, sql).ReadAll()
}

// Psql runs psql on a database as the superuser, stopping at the first error, and returns what it printed. stdin may
// be nil when args say what to run. An error holds psql's own messages, without DETAIL and context.
func (s *Server) Psql(ctx context.Context, db string, stdin io.Reader, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	all := append([]string{"-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse", "-v", "SHOW_CONTEXT=never",
		"-d", s.URL(db)}, args...)
	cmd := exec.CommandContext(ctx, s.Tool("psql"), all...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "PG") })
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("psql on database %s: %w\n%s", quoteIdent(db), err, tail(stderr.String(), 2000))
	}
	return stdout.String(), nil
}

// portAttempts is how many ports are tried.
const portAttempts = 5

var errPortTaken = errors.New("somebody else has taken its port")

// freePort asks the kernel for a port. Between here and the server's own bind somebody else may take it; then another one
// is tried.
var freePort = func() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func quoteIdent(s string) string   { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func tail(s string, most int) string {
	s = strings.TrimSpace(s)
	if len(s) > most {
		s = "…" + strings.ToValidUTF8(s[len(s)-most:], "")
	}
	return s
}
