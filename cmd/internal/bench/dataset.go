package main

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"lethe/pipeline/pgtemp"
)

var (
	//go:embed schema.sql
	schemaSQL string
	//go:embed keys.sql
	keysSQL string
)

// dataset is a generated database that goes on living.
type dataset struct {
	Layout  string  `json:"layout"` // clustered or scattered
	Size    float64 `json:"size_gb"`
	Rows    int     `json:"rows"`
	Text    int64   `json:"text_bytes"`        // as COPY text
	Longest int     `json:"longest_row_bytes"` // likewise
	Seconds float64 `json:"generated_in_seconds"`

	db     string
	server *pgtemp.Server
	maker  *maker
	now    population
	round  int // of changes
}

const (
	clustered = "clustered"
	scattered = "scattered"
)

// generate makes a database. Clustered, its rows lie in the order of time; scattered, the same rows lie in no order.
func generate(ctx context.Context, s *pgtemp.Server, v *vocabulary, db, layout string, size float64) (*dataset, error) {
	begun := time.Now()
	base := populationOf(size)
	d := &dataset{Layout: layout, Size: size, Rows: base.rows(), db: db, server: s, now: base, maker: newMaker(v, base, layout == scattered)}
	if err := s.CreateDatabase(ctx, db); err != nil {
		return nil, err
	}
	if err := s.Exec(ctx, db, schemaSQL); err != nil {
		return nil, fmt.Errorf("make the tables: %w", err)
	}
	// The rows, two tables at a time.
	readers := make([]*copyReader, len(tables))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for t := range tables {
		order := sequence(0, base[t])
		if layout == scattered {
			order = shuffled(base[t])
		}
		m := *d.maker
		readers[t] = &copyReader{m: &m, table: t, next: order}
		g.Go(func() error { return load(gctx, s, db, readers[t]) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for _, r := range readers {
		d.Text += r.bytes
		d.Longest = max(d.Longest, r.longest)
	}
	if err := index(ctx, s, db); err != nil {
		return nil, err
	}
	if err := s.Exec(ctx, db, d.sequences()); err != nil {
		return nil, fmt.Errorf("set the sequences: %w", err)
	}
	if err := s.Exec(ctx, db, "VACUUM ANALYZE"); err != nil {
		return nil, err
	}
	d.Seconds = time.Since(begun).Seconds()
	return d, nil
}

// load fills an empty table. What is loaded in the transaction that truncates needs no cleaning up later.
func load(ctx context.Context, s *pgtemp.Server, db string, rows *copyReader) error {
	name := tables[rows.table].name
	err := onConnection(ctx, s, db, func(c *pgconn.PgConn) error {
		if _, err := c.Exec(ctx, "BEGIN; TRUNCATE "+name).ReadAll(); err != nil {
			return err
		}
		if _, err := c.CopyFrom(ctx, rows, "COPY "+name+" FROM STDIN (FREEZE)"); err != nil {
			return err
		}
		_, err := c.Exec(ctx, "COMMIT").ReadAll()
		return err
	})
	if err != nil {
		return fmt.Errorf("fill table %s: %w", name, err)
	}
	return nil
}

// index makes keys and indexes in two connections, and then the references.
func index(ctx context.Context, s *pgtemp.Server, db string) error {
	parts := strings.Split(keysSQL, "\n-- ")
	batches, references := parts[1:len(parts)-1], parts[len(parts)-1]
	g, gctx := errgroup.WithContext(ctx)
	for _, sql := range batches {
		g.Go(func() error {
			if err := s.Exec(gctx, db, "SET maintenance_work_mem = '128MB';\n-- "+sql); err != nil {
				return fmt.Errorf("make the indexes: %w", err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := s.Exec(ctx, db, "SET work_mem = '128MB';\n-- "+references); err != nil {
		return fmt.Errorf("make the references: %w", err)
	}
	return nil
}

// sequences sets each serial to go on where the rows end.
func (d *dataset) sequences() string {
	var sql strings.Builder
	for t, n := range d.now {
		fmt.Fprintf(&sql, "SELECT setval(s, %d) FROM pg_get_serial_sequence('%s', (SELECT attname FROM pg_attribute WHERE attrelid = '%[2]s'::regclass AND attnum = 1)) s WHERE s IS NOT NULL;\n",
			n, tables[t].name)
	}
	return sql.String()
}

// change lets some time go by, in which a share of all rows changes: six of ten are new, three are updated, one goes.
// Clustered, these are rows of late, written at the table's end; scattered, they lie anywhere. It returns the share that
// did change.
func (d *dataset) change(ctx context.Context, share float64) (float64, error) {
	d.round++
	next := populationOfUsers(d.now.users() + int(0.6*share*float64(d.now.users())))
	changed := 0
	for t := range tables {
		m := *d.maker
		rows := &copyReader{m: &m, table: t, next: sequence(d.now[t], next[t])}
		if err := d.insert(ctx, rows); err != nil {
			return 0, fmt.Errorf("add rows to %s: %w", tables[t].name, err)
		}
		changed += next[t] - d.now[t]
	}
	var updatable, deletable int
	for t, n := range d.now {
		if tables[t].update != "" {
			updatable += n
		}
		if tables[t].delete {
			deletable += n
		}
	}
	total := float64(d.now.rows())
	for t, n := range d.now {
		for _, c := range []struct {
			do   string
			rows float64
			yes  bool
		}{
			{"UPDATE " + tables[t].name + " SET " + tables[t].update + " WHERE id = ANY(", 0.3 * share * total * float64(n) / float64(updatable), tables[t].update != ""},
			{"DELETE FROM " + tables[t].name + " WHERE id = ANY(", 0.1 * share * total * float64(n) / float64(deletable), tables[t].delete},
		} {
			if !c.yes {
				continue
			}
			k, err := d.exec(ctx, c.do+d.keys(t, int(c.rows), c.do[0] == 'D')+")")
			if err != nil {
				return 0, fmt.Errorf("change rows of %s: %w", tables[t].name, err)
			}
			changed += k
		}
	}
	d.now = next
	if err := d.server.Exec(ctx, d.db, d.sequences()); err != nil {
		return 0, fmt.Errorf("set the sequences: %w", err)
	}
	// As autovacuum does, but now.
	if err := d.server.Exec(ctx, d.db, "VACUUM"); err != nil {
		return 0, err
	}
	return float64(changed) / total, nil
}

// keys picks n rows of a table, as an SQL array of their keys: of its last rows every third, or of all rows evenly. Those
// that are deleted and those that are updated are not the same.
func (d *dataset) keys(t, n int, deleted bool) string {
	end := d.now[t]
	step, first := 3, d.round%3
	if d.maker.scattered {
		step = end / max(n, 1)
		first = int(mix(uint64(d.round)) % uint64(max(step, 1)))
	}
	if deleted {
		first++
	}
	var sql strings.Builder
	sql.WriteString("'{")
	for k := range n {
		i := end - 1 - first - k*step
		if i < 0 {
			break
		}
		if k > 0 {
			sql.WriteByte(',')
		}
		sql.Write(d.maker.key(t, i))
	}
	sql.WriteString("}'")
	return sql.String()
}

func (d *dataset) insert(ctx context.Context, rows *copyReader) error {
	return onConnection(ctx, d.server, d.db, func(c *pgconn.PgConn) error {
		_, err := c.CopyFrom(ctx, rows, "COPY "+tables[rows.table].name+" FROM STDIN")
		return err
	})
}

func (d *dataset) exec(ctx context.Context, sql string) (rows int, err error) {
	err = onConnection(ctx, d.server, d.db, func(c *pgconn.PgConn) error {
		results, err := c.Exec(ctx, sql).ReadAll()
		for _, r := range results {
			rows += int(r.CommandTag.RowsAffected())
		}
		return err
	})
	return rows, err
}

func onConnection(ctx context.Context, s *pgtemp.Server, db string, do func(*pgconn.PgConn) error) error {
	c, err := pgconn.Connect(ctx, s.URL(db))
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	return do(c)
}
