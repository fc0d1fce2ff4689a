package pgtemp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// As a child of a test, the test binary starts a server in the folder that this variable names, says where it is,
// and holds it until its standard input ends.
const childEnv = "PGTEMP_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(dir string) error {
	s, err := Start(context.Background(), Options{Dir: dir})
	if err != nil {
		return err
	}
	who, err := s.Value(context.Background(), "postgres", "SELECT current_user || ' ' || 6*7")
	if err != nil {
		return err
	}
	out, err := s.Psql(context.Background(), "postgres", strings.NewReader("SELECT 'psql';"), "-At")
	if err != nil {
		return err
	}
	fmt.Println(s.Dir(), s.Pid(), who, strings.TrimSpace(out))
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return s.Stop()
}

// parent is a folder with a short path that the server's account may pass.
func parent(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pgt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func start(t *testing.T, opts Options) *Server {
	t.Helper()
	s, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func mustBeEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("left behind: %s", e.Name())
	}
}

func TestStartAndStop(t *testing.T) {
	ctx, dir := t.Context(), parent(t)
	s := start(t, Options{Dir: dir})

	info, err := os.Stat(s.Dir())
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("the server's folder: mode %v, %v; want 0700", info.Mode(), err)
	}
	if info.Sys().(*syscall.Stat_t).Uid == 0 {
		t.Error("the server's folder belongs to root")
	}
	if err := s.Exec(ctx, "postgres", "CREATE TABLE a (b text); INSERT INTO a VALUES ('x'), (NULL)"); err != nil {
		t.Fatal(err)
	}
	rows, err := s.Query(ctx, "postgres", "SELECT b, 1 FROM a ORDER BY b")
	if err != nil || fmt.Sprint(rows) != "[[x 1] [ 1]]" {
		t.Fatalf("rows = %v, %v", rows, err)
	}
	for _, q := range [][2]string{{"SHOW server_encoding", "UTF8"}, {"SHOW fsync", "off"}, {"SHOW listen_addresses", ""},
		{"SELECT current_user", "postgres"}} {
		if got, err := s.Value(ctx, "postgres", q[0]); err != nil || got != q[1] {
			t.Errorf("%s = %q, %v; want %q", q[0], got, err, q[1])
		}
	}
	if s.TCPURL("postgres") != "" {
		t.Error("a server that was not asked to listen on TCP has a TCP URL")
	}
	dump, err := exec.Command(s.Tool("pg_dump"), "--schema-only", s.URL("postgres")).CombinedOutput()
	if err != nil || !strings.Contains(string(dump), "CREATE TABLE public.a") {
		t.Errorf("pg_dump: %v\n%s", err, dump)
	}

	// An open connection does not hold up the end.
	conn, err := pgconn.Connect(ctx, s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Exited():
	default:
		t.Error("Stop returned before the server was gone")
	}
	if err := s.Stop(); err != nil {
		t.Errorf("a second Stop: %v", err)
	}
	mustBeEmpty(t, dir)
}

func TestNamesThatNeedQuoting(t *testing.T) {
	ctx, s := t.Context(), start(t, Options{})
	for _, name := range []string{`we ird"na'me`, `100%+1&x=y?z#q`, "a/b", "Größe"} {
		if err := s.CreateDatabase(ctx, name); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Value(ctx, name, "SELECT current_database()"); err != nil || got != name {
			t.Errorf("over pgx: database %q, %v; want %q", got, err, name)
		}
		if got, err := s.Psql(ctx, name, nil, "-Atc", "SELECT current_database()"); err != nil || got != name+"\n" {
			t.Errorf("over psql: database %q, %v; want %q", got, err, name)
		}
		conn, err := pgconn.Connect(ctx, s.URL(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.DropDatabase(ctx, name); err != nil {
			t.Errorf("drop with a connection open: %v", err)
		}
		conn.Close(ctx)
		if err := s.DropDatabase(ctx, name); err != nil {
			t.Errorf("drop again: %v", err)
		}
		if err := s.Exec(ctx, name, "SELECT 1"); err == nil {
			t.Errorf("database %q is still there", name)
		}
	}
	if err := s.Exec(ctx, "postgres", `CREATE ROLE "r o+le" LOGIN`); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Psql(ctx, "postgres", nil, "-Atc", "SELECT current_user", "-d", s.URLAs("r o+le", "postgres")); err != nil || got != "r o+le\n" {
		t.Errorf("as another role: %q, %v", got, err)
	}
}

func TestTCPWantsThePassword(t *testing.T) {
	ctx, s := t.Context(), start(t, Options{TCP: true})
	conn, err := pgconn.Connect(ctx, s.TCPURL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close(ctx)
	if out, err := s.Psql(ctx, "postgres", nil, "-Atc", "SELECT inet_server_addr()", "-d", s.TCPURL("postgres")); err != nil || out != "127.0.0.1\n" {
		t.Errorf("psql over TCP: %q, %v", out, err)
	}
	for name, url := range map[string]string{
		"wrong password": strings.Replace(s.TCPURL("postgres"), s.password, "wrong", 1),
		"no password":    strings.Replace(s.TCPURL("postgres"), ":"+s.password+"@", "@", 1),
	} {
		_, err := pgconn.Connect(ctx, url)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "28P01" {
			t.Errorf("%s: %v; want it refused by the server", name, err)
		}
	}
	if strings.Contains(s.URL("postgres")+s.Log(), s.password) {
		t.Error("the password is in the socket's URL or in the log")
	}
	if s.port == socketPort {
		t.Error("a TCP server took the default port instead of a free one")
	}
	if l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(s.port)); err == nil {
		l.Close()
		t.Errorf("nobody listens on port %d", s.port)
	}
}

// Somebody else may take a port between the kernel's naming it and the server's binding it.
func TestPortThatIsTaken(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	free, asked := freePort, 0
	defer func() { freePort = free }()
	freePort = func() (int, error) {
		if asked++; asked == 1 {
			return l.Addr().(*net.TCPAddr).Port, nil
		}
		return free()
	}
	s := start(t, Options{TCP: true})
	if out, err := s.Psql(t.Context(), "postgres", nil, "-Atc", "SELECT 1", "-d", s.TCPURL("postgres")); err != nil || out != "1\n" || asked < 2 {
		t.Errorf("after %d ports: %q, %v", asked, out, err)
	}
}

func TestSettings(t *testing.T) {
	ctx := t.Context()
	s := start(t, Options{Encoding: "SQL_ASCII", Locale: "C", Settings: map[string]string{
		"work_mem": "7MB", "cluster_name": `it's a \ name`, "lethe.test": "on", "fsync": "on"}})
	for _, q := range [][2]string{{"SHOW server_encoding", "SQL_ASCII"}, {"SHOW work_mem", "7MB"}, {"SHOW cluster_name", `it's a \ name`},
		{"SHOW lethe.test", "on"}, {"SHOW fsync", "on"}} {
		if got, err := s.Value(ctx, "postgres", q[0]); err != nil || got != q[1] {
			t.Errorf("%s = %q, %v; want %q", q[0], got, err, q[1])
		}
	}
	for name, bad := range map[string]map[string]string{
		"a name that is a line": {"x\nfsync": "on"},
		"a value with a line":   {"cluster_name": "x\nfsync = on"},
		"a value that is wrong": {"shared_buffers": "many"},
		"an unknown setting":    {"no_such_setting": "1"},
	} {
		dir := parent(t)
		_, err := Start(ctx, Options{Dir: dir, Settings: bad})
		if err == nil {
			t.Fatalf("%s: started", name)
		}
		for setting := range bad {
			if !strings.Contains(err.Error(), strings.SplitN(setting, "\n", 2)[0]) {
				t.Errorf("%s: the error does not name the setting: %v", name, err)
			}
		}
		mustBeEmpty(t, dir)
	}
}

func TestErrorsOfPsqlHoldNoRows(t *testing.T) {
	ctx, s := t.Context(), start(t, Options{})
	_, err := s.Psql(ctx, "postgres", strings.NewReader(
		"CREATE TABLE p (mail text PRIMARY KEY);\nINSERT INTO p VALUES ('jane@x.org');\nINSERT INTO p VALUES ('jane@x.org');\nCREATE TABLE q ();"))
	if err == nil || !strings.Contains(err.Error(), "duplicate key") {
		t.Fatalf("err = %v; want the server's message", err)
	}
	if strings.Contains(err.Error()+s.Log(), "jane@") {
		t.Errorf("a value is in the error or the log: %v\n%s", err, s.Log())
	}
	if got, err := s.Value(ctx, "postgres", "SELECT count(*) FROM pg_tables WHERE tablename = 'q'"); err != nil || got != "0" {
		t.Errorf("psql went on after the error (%s, %v)", got, err)
	}
}

func TestCancelInMidInitdbLeavesNothing(t *testing.T) {
	dir := parent(t)
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan bool)
	go func() {
		// The folder "base" is there early in initdb, well before it is done.
		for ctx.Err() == nil {
			if found, _ := filepath.Glob(filepath.Join(dir, "lethe-pg-*", "data", "base")); len(found) > 0 {
				cancel()
				started <- true
				return
			}
		}
		started <- false
	}()
	_, err := Start(ctx, Options{Dir: dir})
	cancel()
	if !<-started || !errors.Is(err, context.Canceled) {
		t.Fatalf("err = %v; want a cancelled initdb", err)
	}
	mustBeEmpty(t, dir)
}

// startChild runs this test binary as a process of its own that holds a server.
func startChild(t *testing.T, binary, dir string, cred *syscall.Credential) (cmd *exec.Cmd, stdin io.Closer, folder string, pid int, said string) {
	t.Helper()
	cmd = exec.Command(binary)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the child said nothing: %v, %v", err, cmd.Wait())
	}
	if _, err := fmt.Sscan(line, &folder, &pid); err != nil {
		t.Fatalf("the child said %q: %v", line, err)
	}
	return cmd, in, folder, pid, strings.Join(strings.Fields(line)[2:], " ")
}

func TestKilledParentLeavesNoServerAndTheNextStartCleansUp(t *testing.T) {
	dir := parent(t)
	alive := start(t, Options{Dir: dir})

	cmd, _, folder, _, _ := startChild(t, os.Args[0], dir, nil)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	// The lock is free when the last of the server's processes is gone: nobody told them but the kernel.
	lock, err := os.Open(filepath.Join(folder, lockName))
	if err != nil {
		t.Fatalf("the killed process's folder: %v", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(folder, "data")); err != nil {
		t.Fatalf("the killed process's folder: %v", err)
	}
	lock.Close()

	second := start(t, Options{Dir: dir})
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the abandoned folder is still there (%v)", err)
	}
	for _, s := range []*Server{alive, second} {
		if err := s.Exec(t.Context(), "postgres", "CREATE TABLE still_works ()"); err != nil {
			t.Errorf("a living server was harmed: %v", err)
		}
	}
}

func TestOnlyOwnAbandonedFoldersAreRemoved(t *testing.T) {
	acct, err := serverAccount()
	if err != nil {
		t.Fatal(err)
	}
	dir := parent(t)
	free := func(name string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		for _, err := range []error{os.Mkdir(path, mode), os.Chmod(path, mode), os.Mkdir(filepath.Join(path, "data"), 0o700),
			os.WriteFile(filepath.Join(path, lockName), nil, 0o600)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	abandoned := free("lethe-pg-1", 0o700)
	keep := []string{
		free("lethe-pg-2", 0o755), // not private: not of our making
		free("other", 0o700),
		filepath.Join(dir, "lethe-pg-3"), // a symlink
		filepath.Join(dir, "lethe-pg-4"), // just being made
		filepath.Join(dir, "lethe-pg-5"), // a lock that is a symlink
		free("lethe-pg-6", 0o700),        // in use
	}
	for _, err := range []error{os.Symlink(filepath.Join(dir, "other"), keep[2]), os.Mkdir(keep[3], 0o700), os.Mkdir(keep[4], 0o700),
		os.Symlink(filepath.Join(dir, "other", lockName), filepath.Join(keep[4], lockName))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	old := filepath.Join(dir, "lethe-pg-7") // killed yesterday before it had a lock
	yesterday := time.Now().Add(-25 * time.Hour)
	for _, err := range []error{os.Mkdir(old, 0o700), os.Chtimes(old, yesterday, yesterday)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	held, err := os.Open(filepath.Join(keep[5], lockName))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Fatal(err)
	}

	mine, lock, err := makeFolder(dir, acct)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	removeAbandoned(dir, acct, mine)

	for _, path := range []string{abandoned, old} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
	for _, path := range append(keep, mine, filepath.Join(dir, "other", "data")) {
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s should have been left alone: %v", path, err)
		}
	}
}

// TestAsAnOrdinaryUser runs the test binary as nobody when root runs the tests; else all tests here are that test, and
// the child runs as we do.
func TestAsAnOrdinaryUser(t *testing.T) {
	dir := parent(t)
	binary, uid := os.Args[0], os.Geteuid()
	var cred *syscall.Credential
	if uid == 0 {
		u, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ = strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		// The go command's own folder is closed to others.
		binary = filepath.Join(dir, "test")
		data, err := os.ReadFile(os.Args[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(binary, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	work := filepath.Join(dir, "w")
	if err := os.Mkdir(work, 0o700); err != nil {
		t.Fatal(err)
	}
	if cred != nil {
		if err := os.Chown(work, uid, -1); err != nil {
			t.Fatal(err)
		}
	}
	cmd, stdin, folder, pid, said := startChild(t, binary, work, cred)
	if said != "postgres 42 psql" {
		t.Errorf("the child's server answered %q", said)
	}
	for _, path := range []string{folder, "/proc/" + strconv.Itoa(pid)} {
		if info, err := os.Stat(path); err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != uid {
			t.Errorf("%s does not belong to user %d (%v)", path, uid, err)
		}
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the child: %v", err)
	}
	mustBeEmpty(t, work)
}

func TestBinDir(t *testing.T) {
	real, err := BinDir("")
	if err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	if _, err := BinDir(empty); err == nil || !strings.Contains(err.Error(), "try:") {
		t.Errorf("an empty folder: %v; want an error that says what to try", err)
	}
	linked := t.TempDir()
	if err := os.Symlink(filepath.Join(real, "postgres"), filepath.Join(linked, "postgres")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", linked)
	if got, err := BinDir(""); err != nil || got != real {
		t.Errorf("a link on the PATH: %q, %v; want %q", got, err, real)
	}
	t.Setenv("LETHE_PG_BINDIR", empty)
	if _, err := BinDir(""); err == nil || !strings.Contains(err.Error(), "LETHE_PG_BINDIR") {
		t.Errorf("a wrong LETHE_PG_BINDIR: %v; want it named", err)
	}
	if got, err := BinDir(real); err != nil || got != real {
		t.Errorf("the folder given wins: %q, %v", got, err)
	}
	for path, want := range map[string]float64{"/usr/lib/postgresql/15/bin": 15, "/usr/pgsql-9.6/bin": 9.6,
		"/opt/homebrew/opt/postgresql@17/bin": 17, "/usr/local/pgsql/bin": 0} {
		if got := pathVersion(path); got != want {
			t.Errorf("pathVersion(%q) = %v, want %v", path, got, want)
		}
	}
}

func TestParentsThatDoNotServe(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 100))
	if err := os.Mkdir(long, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"too long for a socket": long, "missing": "/tmp/lethe-no-such-folder", "a file": "/etc/passwd"} {
		if _, err := Start(t.Context(), Options{Dir: dir}); err == nil {
			t.Errorf("%s: started", name)
		}
	}
	t.Setenv("TMPDIR", long) // not a wish for this package: it goes elsewhere
	s := start(t, Options{})
	if filepath.Dir(s.Dir()) != "/tmp" {
		t.Errorf("the server's folder is %s", s.Dir())
	}

	a := &account{name: "x", uid: 4711, gid: 4711, other: true}
	closed := filepath.Join(parent(t), "closed")
	for _, err := range []error{os.MkdirAll(filepath.Join(closed, "in"), 0o755), os.Chmod(closed, 0o700)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := checkParent(filepath.Join(closed, "in"), a); err == nil || !strings.Contains(err.Error(), closed) {
		t.Errorf("a folder that the server's account can't reach: %v; want the closed folder named", err)
	}
}
