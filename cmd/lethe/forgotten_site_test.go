package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"lethe/pipeline/pgtemp"
	"lethe/pipeline/pgtemp/pgtest"
)

// fromEnvironment is a number that a variable of the environment may set.
func fromEnvironment(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// bare is an environment without anything of the caller's but where programs are, and a new home.
func bare(t *testing.T, more ...string) []string {
	t.Helper()
	home := t.TempDir()
	return append(more, "PATH="+filepath.Dir(pgtest.Server(t).Tool("psql"))+":"+os.Getenv("PATH"), "TMPDIR="+os.TempDir(), "HOME="+home, "XDG_STATE_HOME="+filepath.Join(home, "state"))
}

// serverAddress lets the programs of a workplace reach the server.
func serverAddress(s *pgtemp.Server) []string {
	env := []string{"PGUSER=postgres"}
	for name, value := range address(s) {
		env = append(env, name+"="+value)
	}
	return env
}

// attempt runs lethe, which must end with an exit code, and returns what it printed to stdout and to stderr.
func (w *workplace) attempt(code int, stdin string, args ...string) (stdout, stderr string) {
	w.t.Helper()
	cmd := w.command(args...)
	var out, errs strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		w.t.Fatalf("lethe %s: %v", strings.Join(args, " "), err)
	case cmd.ProcessState.ExitCode() != code:
		w.t.Fatalf("lethe %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), code, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

// decode reads the JSON that lethe printed.
func decode[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %.300s", err, text)
	}
	return v
}

// runPsql runs a file of testdata/forgotten with psql.
func runPsql(t *testing.T, db, file string, variables ...string) {
	t.Helper()
	args := []string{"-q", "-f", filepath.Join("testdata", "forgotten", file)}
	for _, v := range variables {
		args = append(args, "-v", v)
	}
	if _, err := pgtest.Server(t).Psql(context.Background(), db, nil, args...); err != nil {
		t.Fatal(err)
	}
}

var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// decrypted is what age makes of a file.
func decrypted(key, file string) ([]byte, error) {
	text, err := filtered(nil, "age", "-d", "-i", key, file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	return text, nil
}

// plain decrypts a file with age and unpacks it with zstd, where it is packed.
func plain(key, file string) ([]byte, error) {
	text, err := decrypted(key, file)
	if err == nil && bytes.HasPrefix(text, zstdMagic) {
		if text, err = filtered(bytes.NewReader(text), "zstd", "-dc"); err != nil {
			err = fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
	}
	return text, err
}

func filtered(in io.Reader, program string, args ...string) ([]byte, error) {
	cmd := exec.Command(program, args...)
	var errs bytes.Buffer
	cmd.Stdin, cmd.Stderr = in, &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", program, err, errs.String())
	}
	return out, nil
}

// searched is what a search of a store has found.
type searched struct {
	files, objects int
	bytes          int64          // of them, decrypted and unpacked
	found          map[string]int // files that hold it, by canary
}

var (
	canary      = regexp.MustCompile(`zqcanary((?:[123](?:\.[a-z_]+)+\.)?)`)
	canaryAsHex = regexp.MustCompile(hex.EncodeToString([]byte("zqcanary")) + `(?:[0-9a-f]{2})*`)
)

// canaries are those that a text holds, as they are or in hex digits, in letters of either case.
func canaries(text []byte) map[string]bool {
	found := map[string]bool{}
	text = bytes.ToLower(text)
	for _, m := range canary.FindAllSubmatch(text, -1) {
		found[string(m[1])] = true
	}
	for _, digits := range canaryAsHex.FindAll(text, -1) {
		decoded, _ := hex.DecodeString(string(digits)) // an even number of digits
		for _, m := range canary.FindAllSubmatch(bytes.ToLower(decoded), -1) {
			found[string(m[1])] = true
		}
	}
	return found
}

// search decrypts every file of a store with the plain tools and looks for canaries: in what stands in it, and in the
// file and its name as they are. Files named before need no second look.
func search(t *testing.T, store, key string, before ...string) searched {
	t.Helper()
	s := searched{found: map[string]int{}}
	var lock sync.Mutex
	var group errgroup.Group
	group.SetLimit(2)
	err := filepath.WalkDir(store, func(path string, entry fs.DirEntry, err error) error {
		if _, known := slices.BinarySearch(before, path); err != nil || entry.IsDir() || known {
			return err
		}
		group.Go(func() error {
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			var text []byte
			sealed := bytes.HasPrefix(raw, []byte("age-encryption.org/"))
			if sealed {
				if text, err = plain(key, path); err != nil { // everything here is for the key holder, too
					return err
				}
			}
			name, _ := filepath.Rel(store, path)
			found := canaries(raw)
			maps.Copy(found, canaries([]byte(name)))
			maps.Copy(found, canaries(text))
			lock.Lock()
			defer lock.Unlock()
			s.files++
			if strings.HasPrefix(name, "objects/") {
				s.objects++
				if !sealed {
					return fmt.Errorf("%s is no age file", name)
				}
			}
			s.bytes += int64(len(text))
			for c := range found {
				s.found[c]++
			}
			return nil
		})
		return nil
	})
	if err := errors.Join(err, group.Wait()); err != nil {
		t.Fatal(err)
	}
	return s
}

// restoreByHand fills an empty database from a snapshot with age, zstd and psql, as the README says: what every
// restore of Lethe's is measured by.
func restoreByHand(t *testing.T, store, snapshot, key, db string) {
	t.Helper()
	text, err := plain(key, filepath.Join(store, "snapshots", snapshot+".age"))
	if err != nil {
		t.Fatal(err)
	}
	manifest := decode[struct {
		Parts []struct {
			Objects []struct {
				Object string `json:"object"`
			} `json:"objects"`
		} `json:"parts"`
	}](t, string(text))
	packed, into := io.Pipe()
	go func() {
		var err error
		for _, part := range manifest.Parts {
			for _, o := range part.Objects {
				var frame []byte
				if err == nil {
					frame, err = decrypted(key, filepath.Join(store, "objects", o.Object[:2], o.Object))
				}
				if err == nil {
					_, err = into.Write(frame)
				}
			}
		}
		_ = into.CloseWithError(err) // nil is the end
	}()
	unpack := exec.Command("zstd", "-dc")
	unpack.Stdin = packed
	sql, err := unpack.StdoutPipe()
	if err == nil {
		err = unpack.Start()
	}
	if err == nil {
		_, err = pgtest.Server(t).Psql(context.Background(), db, sql, "-o", "/dev/null")
	}
	if err == nil {
		err = unpack.Wait()
	}
	if err != nil {
		t.Fatalf("restore %s by hand: %v", snapshot, err)
	}
}

// lines is a multiset of lines, whatever their order: how many, and the sum of their digests.
type lines struct {
	n   int64
	sum [4]uint64
}

func (l *lines) add(line []byte) {
	digest := sha256.Sum256(line)
	l.n++
	for i := range l.sum {
		l.sum[i] += binary.BigEndian.Uint64(digest[8*i:])
	}
}

// lineWriter calls each for every line that is written to it.
type lineWriter struct {
	each func(line []byte)
	rest []byte
}

func (w *lineWriter) Write(data []byte) (int, error) {
	w.rest = append(w.rest, data...)
	for {
		end := bytes.IndexByte(w.rest, '\n')
		if end < 0 {
			return len(data), nil
		}
		w.each(w.rest[:end])
		w.rest = w.rest[end+1:]
	}
}

// database reads databases as a client would.
type database struct {
	t    *testing.T
	name string
	conn *pgconn.PgConn
}

func openDatabase(t *testing.T, name string) *database {
	t.Helper()
	conn, err := pgconn.Connect(context.Background(), pgtest.Server(t).URL(name))
	if err != nil {
		t.Fatal(err)
	}
	return &database{t, name, conn}
}

func (d *database) close() {
	if err := d.conn.Close(context.Background()); err != nil {
		d.t.Error(err)
	}
}

// exec runs SQL and returns the rows of its last statement.
func (d *database) exec(sql string) [][]string {
	d.t.Helper()
	results, err := d.conn.Exec(context.Background(), sql).ReadAll()
	if err != nil {
		d.t.Fatalf("%s: %v", d.name, err)
	}
	var rows [][]string
	for _, r := range results[len(results)-1].Rows {
		row := make([]string, len(r))
		for i, v := range r {
			row[i] = string(v)
		}
		rows = append(rows, row)
	}
	return rows
}

// queries are what there is to read in a database: a COPY for every table, the large objects and the sequences.
func (d *database) queries() map[string]string {
	q := map[string]string{
		"large objects": "COPY (SELECT oid, lo_get(oid) FROM pg_largeobject_metadata) TO STDOUT",
		"sequences":     "COPY (SELECT schemaname, sequencename, last_value FROM pg_sequences) TO STDOUT",
	}
	for _, r := range d.exec("SELECT oid::regclass FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace") {
		q[r[0]] = "COPY " + r[0] + " TO STDOUT"
	}
	return q
}

func (d *database) copy(sql string, each func(line []byte)) {
	d.t.Helper()
	if _, err := d.conn.CopyTo(context.Background(), &lineWriter{each: each}, sql); err != nil {
		d.t.Fatalf("%s: %v", d.name, err)
	}
}

// contents are the multisets of COPY lines of everything in a database.
func (d *database) contents() map[string]lines {
	all := map[string]lines{}
	for name, sql := range d.queries() {
		var l lines
		d.copy(sql, l.add)
		all[name] = l
	}
	return all
}

// mustEqual compares two databases, line for line and in whatever order. It returns how many lines there are, and how many
// differ.
func (d *database) mustEqual(want *database, what string) (compared, different int64) {
	d.t.Helper()
	got, wanted := d.contents(), want.contents()
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		compared += wanted[name].n
		if got[name] == wanted[name] {
			continue
		}
		count := map[string]int64{}
		want.copy(want.queries()[name], func(line []byte) { count[string(line)]-- })
		if sql := d.queries()[name]; sql != "" {
			d.copy(sql, func(line []byte) { count[string(line)]++ })
		}
		maps.DeleteFunc(count, func(_ string, n int64) bool { return n == 0 })
		for n, line := range slices.Sorted(maps.Keys(count)) {
			different += max(count[line], -count[line])
			if n < 6 {
				d.t.Errorf("%s: %s: %+d × %.300q", what, name, count[line], line)
			}
		}
		d.t.Errorf("%s: %s has %d lines, SQL by hand leaves %d; %d are other ones", what, name, got[name].n, wanted[name].n, len(count))
	}
	if len(got) != len(wanted) {
		d.t.Errorf("%s: %d tables, and SQL by hand leaves %d", what, len(got), len(wanted))
	}
	return compared, different
}

// schemaOf is what pg_dump says of a database, without comments and the random \restrict lines.
func schemaOf(t *testing.T, db string) string {
	t.Helper()
	out, err := filtered(nil, pgtest.Server(t).Tool("pg_dump"), "--schema-only", "--dbname", pgtest.Server(t).URL(db))
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "--") && !strings.HasPrefix(line, `\`) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// foreignKeys joins the rows that refer to something with what they refer to, by hand, for every foreign key.
const foreignKeys = `SELECT conrelid::regclass || '.' || conname, format('SELECT count(*) FROM %s c LEFT JOIN %s p ON %s WHERE %s AND p.%I IS NULL', conrelid::regclass, confrelid::regclass,
	string_agg(format('p.%I = c.%I', b.attname, a.attname), ' AND '), string_agg(format('c.%I IS NOT NULL', a.attname), ' AND '), min(b.attname::text))
	FROM pg_constraint, unnest(conkey, confkey) AS k(a, b), pg_attribute a, pg_attribute b
	WHERE contype = 'f' AND conparentid = 0 AND a.attrelid = conrelid AND a.attnum = k.a AND b.attrelid = confrelid AND b.attnum = k.b
	GROUP BY pg_constraint.oid, conname, conrelid, confrelid`

// mustBeValid sees that every constraint and index is there as a valid one, and that every foreign key holds.
func (d *database) mustBeValid() (constraints int) {
	d.t.Helper()
	for _, r := range d.exec(`SELECT 'constraint ' || conname FROM pg_constraint WHERE NOT convalidated
		UNION ALL SELECT 'index ' || indexrelid::regclass FROM pg_index WHERE NOT (indisvalid AND indisready)
		UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgenabled <> 'O'`) {
		d.t.Errorf("%s of %s is not valid", r[0], d.name)
	}
	keys := d.exec(foreignKeys)
	for _, r := range keys {
		if n := d.exec(r[1])[0][0]; n != "0" {
			d.t.Errorf("%s of %s does not hold for %s rows", r[0], d.name, n)
		}
	}
	if len(keys) < 40 {
		d.t.Errorf("%s has %d foreign keys", d.name, len(keys))
	}
	constraints, err := strconv.Atoi(d.exec("SELECT count(*) FROM pg_constraint WHERE connamespace = 'public'::regnamespace")[0][0])
	if err != nil {
		d.t.Fatal(err)
	}
	return constraints
}

// rowsOf are all rows that name a person: in foreign keys to users, and in what is not declared.
func (d *database) rowsOf(id int) map[string][]string {
	d.t.Helper()
	rows := map[string][]string{}
	conditions := map[string]string{
		"users":         fmt.Sprintf("id = %d", id),
		"devices":       fmt.Sprintf("number = %d", id),
		"audit_log":     fmt.Sprintf("actor = '%d'", id),
		"events":        fmt.Sprintf("user_id = %d", id),
		"jobs":          fmt.Sprintf("args ->> 'user_id' = '%d'", id),
		"notifications": fmt.Sprintf("payload -> 'mentions' @> '%d' OR payload -> 'mentions' @> '\"%[1]d\"'", id),
	}
	for _, kind := range []string{"reactions", "reports"} {
		conditions[kind] = fmt.Sprintf("kind = 'User' AND target_id = %d", id)
	}
	for _, r := range d.exec(`SELECT conrelid::regclass, attname FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
		WHERE contype = 'f' AND confrelid = 'users'::regclass AND conparentid = 0 AND cardinality(conkey) = 1`) {
		if conditions[r[0]] != "" {
			conditions[r[0]] += " OR "
		}
		conditions[r[0]] += fmt.Sprintf("%s = %d", r[1], id)
	}
	for table, condition := range conditions {
		d.copy(fmt.Sprintf("COPY (SELECT * FROM %s WHERE %s ORDER BY 1, 2) TO STDOUT", table, condition), func(line []byte) {
			rows[table] = append(rows[table], string(line))
		})
	}
	return rows
}
