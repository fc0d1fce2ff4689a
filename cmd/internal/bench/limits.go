package main

import (
	"context"
	"fmt"
	"strings"
)

// extreme is a database whose form could take more memory than its size.
type extreme struct {
	title   string
	db      string
	sql     []string // that makes it, in so many transactions
	longest int      // bytes of the longest row, as COPY text
}

// extremes are a database of very many tables, and one of very long rows.
func (p *plan) extremes() []extreme {
	many := extreme{title: fmt.Sprintf("%d tables of one row", p.tables), db: "many_tables", longest: 12}
	const atOnce = 200 // each takes locks until the end of its transaction
	for from := 0; from < p.tables; from += atOnce {
		many.sql = append(many.sql, fmt.Sprintf(`DO $$ BEGIN FOR i IN %d..%d LOOP
			EXECUTE format('CREATE TABLE t%%s (id int PRIMARY KEY, v text); INSERT INTO t%%s VALUES (%%s, ''row'')', i, i, i);
			END LOOP; END $$`, from, min(from+atOnce, p.tables)-1))
	}
	// A hash is 32 digits: hardly anything of it is packed away.
	long := extreme{title: fmt.Sprintf("%d rows of %d MiB", longRows, p.long>>20), db: "long_rows", longest: p.long + 8, sql: []string{
		"CREATE TABLE long (id int PRIMARY KEY, v text)",
		fmt.Sprintf("INSERT INTO long SELECT r, (SELECT string_agg(md5(r || '-' || i), '') FROM generate_series(1, %d) i) FROM generate_series(1, %d) r", p.long/32, longRows)}}
	return []extreme{many, long}
}

const longRows = 6

// limits measures how much memory a run takes whose database is out of the ordinary.
func (b *bench) limits(ctx context.Context) error {
	for _, e := range b.plan.extremes() {
		if err := b.server.CreateDatabase(ctx, e.db); err != nil {
			return err
		}
		for _, sql := range append(e.sql, "VACUUM ANALYZE") {
			if err := b.server.Exec(ctx, e.db, sql); err != nil {
				return fmt.Errorf("make a database of %s: %w", e.title, err)
			}
		}
		s, err := b.setup(ctx, &dataset{db: e.db, server: b.server}, e.db, nil)
		if err != nil {
			return err
		}
		// A made-up database of this form has nobody in it.
		if err := s.write("rules.yml", "version: 1\ndataset: bench\n"); err != nil {
			return err
		}
		r := b.result(strings.ToUpper(e.title[:1])+e.title[1:], "")
		n := min(b.o.pairs, 3)
		if err := b.rounds(ctx, r, n, nil, s.backup(true), b.dumpPiped(s.d)); err != nil {
			return err
		}
		if err := b.rounds(ctx, r, n, nil, b.restoreLethe(s, "restored")); err != nil {
			return err
		}
		r.memory("memory of the backup of "+e.title, 0, e.longest)
		r.memory("memory of the restore of "+e.title, 2, e.longest)
		for _, db := range []string{"restored", e.db} {
			if err := b.server.DropDatabase(ctx, db); err != nil {
				return err
			}
		}
		if err := s.remove(); err != nil {
			return err
		}
	}
	return nil
}
