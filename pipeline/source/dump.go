package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"lethe/scrub/catalog"
)

// DumpConfig says which dump file to read.
type DumpConfig struct {
	Path    string
	Workers int // how many tables, or parts of large ones, are read at once; at least 1
}

// Dump is a plain pg_dump file, read in place of a server. It has what a Snapshot has, and promises what a Snapshot
// does: DDL, rows, sequences and large objects of one moment, whole or not at all. Its methods are safe for concurrent
// use.
//
// What it takes: the output of pg_dump 13 to 17 in plain format, with or without --create, with rows as COPY or as
// INSERT. A file that is cut off, compressed, in another format, of a whole cluster, made with --clean or
// --load-via-partition-root, or put together from several is refused with what to do instead. The file is read twice
// and more; when it changes meanwhile everything fails.
//
// What the file does not say: the database's name, encoding, locale and settings (they are there after pg_dump
// --create), system identifier and position in the log, roles' attributes. Values stand as pg_dump's session printed
// them, which may differ in TimeZone and bytea_output from what Open's sessions print.
type Dump struct {
	Info      Info // Started is when the file was last written: no row in it is younger
	PreData   string
	PostData  string
	Catalog   *catalog.Catalog
	Relations []Relation // a Range of them is an index into the table's spans in the file
	Remarks   []string   // what is unusual about the file, for people

	file      *os.File
	stat      os.FileInfo // when it was opened
	path      string
	spans     map[catalog.Name][]span
	sequences []byte
	objects   []LargeObject
	contents  map[uint32]span // of large objects
	workers   chan struct{}
	closing   sync.Once
}

// span is a part of the file: lines of COPY without the statement before and the end mark after them, INSERT
// statements, or the statements that fill a large object.
type span struct {
	from, to int64
	rows     int64
	inserts  bool
	line     int // of its first byte, 1-based
}

// OpenDump reads a dump file from end to end, notes where everything stands, and parses its DDL. The caller must Close
// the dump.
func OpenDump(ctx context.Context, conf DumpConfig) (_ *Dump, err error) {
	op := "read the dump file " + conf.Path
	if conf.Path == "-" {
		return nil, &Error{Op: "read the dump file", Err: errors.New("a dump is read more than once, so it can't come through a pipe"), Help: "write it to a file"}
	}
	f, err := os.Open(conf.Path)
	if err != nil {
		return nil, &Error{Op: "read the dump file", Err: err}
	}
	d := &Dump{file: f, path: conf.Path, spans: map[catalog.Name][]span{}, contents: map[uint32]span{}, workers: make(chan struct{}, max(conf.Workers, 1))}
	defer func() {
		if err == nil {
			return
		}
		d.Close()
		var e *Error
		if !errors.As(err, &e) && ctx.Err() == nil {
			err = &Error{Op: op, Err: err}
		}
	}()
	if d.stat, err = f.Stat(); err != nil {
		return nil, err
	}
	if d.stat.IsDir() {
		return nil, &Error{Op: op, Err: errors.New("this is a directory"), Help: "pg_restore -f FILE.sql DIRECTORY makes a plain dump of pg_dump -Fd's"}
	}
	if !d.stat.Mode().IsRegular() {
		return nil, &Error{Op: op, Err: errors.New("a dump is read more than once, and this is not a regular file"), Help: "write the dump to a file"}
	}
	if err := recognise(f, op); err != nil {
		return nil, err
	}
	x := newDumpIndex(d, op)
	if err := x.run(ctx); err != nil {
		return nil, err
	}
	if err := d.finish(x); err != nil {
		return nil, err
	}
	return d, d.Alive()
}

// recognise refuses what is no plain dump, by its first bytes.
func recognise(f *os.File, op string) error {
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return err
	}
	head = head[:n]
	for _, k := range []struct{ magic, what, help string }{
		{"\x1f\x8b", "it is compressed with gzip", "gzip -dc FILE > FILE.sql, and back up that"},
		{"\x28\xb5\x2f\xfd", "it is compressed with zstd", "zstd -d FILE -o FILE.sql, and back up that"},
		{"\xfd7zXZ", "it is compressed with xz", "xz -dc FILE > FILE.sql, and back up that"},
		{"BZh", "it is compressed with bzip2", "bzip2 -dc FILE > FILE.sql, and back up that"},
		{"\x04\x22\x4d\x18", "it is compressed with lz4", "lz4 -dc FILE > FILE.sql, and back up that"},
		{"PK\x03\x04", "it is a ZIP archive", "unpack it, and back up the SQL file inside"},
		{"PGDMP", "it is in pg_dump's custom format", "pg_restore -f FILE.sql FILE makes a plain dump of it"},
		{"toc.dat\x00", "it is in pg_dump's tar format", "pg_restore -f FILE.sql FILE makes a plain dump of it"},
		{"age-encryption.org/", "it is encrypted with age", "decrypt it first: age -d"},
		{"-----BEGIN AGE ENCRYPTED FILE-----", "it is encrypted with age", "decrypt it first: age -d"},
		{"\xff\xfe", "it is UTF-16 text, as PowerShell's > writes", "dump with pg_dump --file=FILE.sql"},
		{"\xfe\xff", "it is UTF-16 text", "dump with pg_dump --file=FILE.sql"},
	} {
		if strings.HasPrefix(string(head), k.magic) {
			return &Error{Op: op, Err: errors.New(k.what), Help: k.help}
		}
	}
	if i := strings.IndexByte(string(head), '\n'); i > 0 && head[i-1] == '\r' {
		return &Error{Op: op, Err: errCRLF, Help: helpCRLF}
	}
	if strings.Contains(string(head), "-- PostgreSQL database cluster dump\n") {
		return &Error{Op: op, Err: errors.New("it is pg_dumpall's dump of a whole server"), Help: "dump each database by itself, with pg_dump"}
	}
	if !strings.Contains(string(head), "-- PostgreSQL database dump\n") {
		return &Error{Op: op, Err: errors.New("it does not begin as pg_dump's plain dumps do"), Help: "dump with pg_dump --file=FILE.sql"}
	}
	return nil
}

var errCRLF = errors.New("its lines end in carriage return and line feed, so something has rewritten it")

const helpCRLF = "copy the file in binary mode, or dump again with pg_dump --file=FILE.sql"

// Alive returns nil while the file is the one that was opened, unchanged.
func (d *Dump) Alive() error {
	now, err := d.file.Stat()
	if err == nil && now.Size() == d.stat.Size() && now.ModTime().Equal(d.stat.ModTime()) {
		if now, err = os.Stat(d.path); err == nil && os.SameFile(now, d.stat) {
			return nil
		}
	}
	if err == nil {
		err = errors.New("it changed while it was read")
	}
	return &Error{Op: "read the dump file " + d.path, Err: err, Help: "back up again when nothing writes to it"}
}

// Close closes the file. It may be called more than once.
func (d *Dump) Close() {
	d.closing.Do(func() { _ = d.file.Close() }) // it was only read
}

// finish makes the snapshot out of what the index found.
func (d *Dump) finish(x *dumpIndex) error {
	var err error
	if d.Catalog, err = catalog.Parse(d.PreData, d.PostData); err != nil {
		return fmt.Errorf("read the DDL: %w", err)
	}
	if d.PreData, err = castsInOrder(d.PreData); err != nil {
		return fmt.Errorf("read the DDL: %w", err)
	}
	d.Info.Started = d.stat.ModTime().UTC()
	if now := time.Now().UTC(); d.Info.Started.After(now) {
		d.Info.Started = now
	}
	var bare []string // tables of which the file holds no rows at all
	known := map[catalog.Name]bool{}
	for _, t := range d.Catalog.Order {
		known[t.Name] = true
		found := x.tables[t.Name]
		if t.Kind != catalog.Ordinary {
			if found != nil && t.Kind == catalog.Partitioned {
				return x.refuse(found.line, fmt.Errorf("rows of partitions stand under their partitioned table %s", t.Name), "dump without --load-via-partition-root")
			}
			if found != nil {
				return x.refuse(found.line, fmt.Errorf("rows of %s, which is no ordinary table", t.Name), "dump without --include-foreign-data")
			}
			continue
		}
		rel := Relation{Name: t.Name}
		if found == nil {
			bare = append(bare, t.Name.String())
			for _, c := range t.Columns {
				if c.Generated == "" {
					rel.Columns = append(rel.Columns, c.Name)
				}
			}
			d.Relations = append(d.Relations, rel)
			continue
		}
		if rel.Columns, err = found.columnsOf(t); err != nil {
			return x.refuse(found.line, fmt.Errorf("rows of %s: %w", t.Name, err), "dump again with pg_dump")
		}
		d.add(rel, found)
	}
	for _, name := range x.order { // in the order of the file
		if known[name] {
			continue
		}
		found := x.tables[name]
		if found.inserts || len(d.Catalog.Extensions) == 0 {
			return x.refuse(found.line, fmt.Errorf("rows of %s, which the DDL does not create", name), "dump schema and rows in one run of pg_dump")
		}
		d.Remarks = append(d.Remarks, fmt.Sprintf("the DDL does not create %s: its rows are taken for an extension's configuration and stored as they are", name))
		d.add(Relation{Name: name, Columns: found.columns, Extension: true}, found)
	}
	inserts := slices.ContainsFunc(x.order, func(n catalog.Name) bool { return x.tables[n].inserts })
	if len(bare) > 0 && !inserts { // an empty table has a COPY, and no INSERT
		d.Remarks = append(d.Remarks, fmt.Sprintf("the dump has no rows, and no place for them, of %s", few(bare)))
	}
	slices.SortFunc(d.objects, func(a, b LargeObject) int { return int(min(max(int64(a.OID)-int64(b.OID), -1), 1)) })
	for oid := range d.contents {
		if _, ok := x.created[oid]; !ok {
			return x.refuse(d.contents[oid].line, fmt.Errorf("the content of large object %d, which is not created", oid), "dump schema and large objects in one run of pg_dump")
		}
	}
	return nil
}

func (d *Dump) add(rel Relation, found *dumpTable) {
	for i, s := range found.spans {
		rel.Bytes += s.to - s.from
		rel.Ranges = append(rel.Ranges, Range{int64(i), int64(i) + 1})
	}
	d.spans[rel.Name] = found.spans
	d.Relations = append(d.Relations, rel)
}

// Roles returns what makes the named roles, as Snapshot.Roles does. A dump file knows only names: the roles can't log
// in, and are members of nothing.
func (d *Dump) Roles(_ context.Context, names []string) (sql string, roles []Role, err error) {
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "" || n == "public" || strings.HasPrefix(n, "pg_") })
	slices.Sort(names)
	var text strings.Builder
	for _, n := range slices.Compact(names) {
		roles = append(roles, Role{Name: n})
		text.WriteString(unless("SELECT FROM pg_catalog.pg_roles WHERE rolname = "+catalog.Literal(n), "CREATE ROLE "+catalog.Quote(n)))
	}
	return text.String(), roles, nil
}

// Sequences returns the SQL text that sets every sequence, a statement on each line.
func (d *Dump) Sequences(context.Context) (string, error) { return string(d.sequences), nil }

// LargeObjects lists all large objects by oid.
func (d *Dump) LargeObjects(context.Context) ([]LargeObject, error) {
	return slices.Clone(d.objects), nil
}

// reader waits for one of DumpConfig.Workers places and reads a span. The caller must call done.
func (d *Dump) reader(ctx context.Context, s span) (r io.Reader, done func(), err error) {
	select {
	case d.workers <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	return io.NewSectionReader(d.file, s.from, s.to-s.from), func() { <-d.workers }, nil
}
