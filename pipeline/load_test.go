package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/store/storetest"
)

// entangled has what a restore must bring back in some order: keys before what references them, in a circle and across
// partitions; indexes before what is said about them; materialized views on each other; triggers of several kinds.
const entangled = severalPieces + `
CREATE EXTENSION btree_gist;
CREATE TABLE users (id int PRIMARY KEY, email text NOT NULL, boss int, best int, CONSTRAINT users_email_key UNIQUE (email));
CREATE TABLE posts (id int PRIMARY KEY, author int NOT NULL REFERENCES users, during int4range, EXCLUDE USING gist (author WITH =, during WITH &&));
INSERT INTO users SELECT i, i || '@example.org', nullif(i / 2, 0), i FROM generate_series(1, 500) i;
INSERT INTO posts SELECT i, 1 + i % 500, int4range(i, i + 1) FROM generate_series(1, 3000) i;
ALTER TABLE users ADD FOREIGN KEY (boss) REFERENCES users, ADD FOREIGN KEY (best) REFERENCES posts DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX posts_author ON posts (author);
ALTER TABLE posts CLUSTER ON posts_author;
ALTER TABLE users REPLICA IDENTITY USING INDEX users_email_key;
CREATE INDEX posts_odd ON posts ((id % 7)) WHERE id > 10;
ALTER INDEX posts_odd ALTER COLUMN 1 SET STATISTICS 500;
CREATE STATISTICS posts_stat ON id, author FROM posts;
CREATE TABLE log (id int, at date, who int REFERENCES users, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE log_old PARTITION OF log FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY LIST (id);
CREATE TABLE log_old_odd PARTITION OF log_old DEFAULT;
CREATE TABLE log_new PARTITION OF log FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE INDEX log_who ON log (who);
CREATE UNIQUE INDEX log_new_only ON log_new (id);
INSERT INTO log SELECT i, date '2025-01-01' + i % 700, 1 + i % 500 FROM generate_series(1, 5000) i;
CREATE TABLE seen (id int, at date, FOREIGN KEY (id, at) REFERENCES log);
INSERT INTO seen SELECT id, at FROM log WHERE id % 3 = 0;
CREATE TABLE only_new (id int REFERENCES log_new (id));
INSERT INTO only_new SELECT id FROM log_new LIMIT 100;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a trigger ran'; END $$;
CREATE FUNCTION nothing_either() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
	IF current_setting('application_name') = 'lethe restore' THEN RAISE EXCEPTION 'an event trigger ran'; END IF; END $$;
CREATE TRIGGER each BEFORE INSERT OR UPDATE ON posts FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE TRIGGER off BEFORE INSERT ON posts EXECUTE FUNCTION nothing();
ALTER TABLE posts DISABLE TRIGGER off;
CREATE TRIGGER whole AFTER TRUNCATE ON big EXECUTE FUNCTION nothing();
CREATE TRIGGER of_log AFTER INSERT ON log FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON users FROM posts DEFERRABLE FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE RULE nowhere AS ON INSERT TO small DO ALSO NOTHING;
ALTER TABLE posts ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON posts USING (author = 1);
COMMENT ON INDEX posts_author IS 'who wrote it';
COMMENT ON CONSTRAINT posts_author_fkey ON posts IS 'somebody did';
COMMENT ON CONSTRAINT log_pkey ON log IS 'a key of partitions';
COMMENT ON TRIGGER each ON posts IS 'raises';
COMMENT ON STATISTICS posts_stat IS 'both';
COMMENT ON POLICY own ON posts IS 'one''s own';
CREATE MATERIALIZED VIEW z_first AS SELECT author, count(*) AS n FROM posts GROUP BY 1;
CREATE UNIQUE INDEX z_first_author ON z_first (author);
CREATE VIEW m_between AS SELECT sum(n) AS n FROM z_first;
CREATE MATERIALIZED VIEW a_second AS SELECT n FROM m_between;
COMMENT ON COLUMN a_second.n IS 'of all';
CREATE VIEW over AS SELECT n FROM a_second;
CREATE EVENT TRIGGER on_ddl ON ddl_command_end EXECUTE FUNCTION nothing_either();
COMMENT ON EVENT TRIGGER on_ddl IS 'raises too'`

// TestRestoreOrder: everything comes back, whatever needs what, and triggers come when all else is there.
func TestRestoreOrder(t *testing.T) {
	pgtest.NoLeaks(t)
	server := pgtest.Server(t)
	s := newSite(t, entangled)
	m := s.manifestIn(s.store, s.backup())
	for _, workers := range []int{1, 2, 7} {
		t.Run(fmt.Sprintf("workers=%d", workers), func(t *testing.T) {
			name := newName(t, server, fmt.Sprint("order", workers))
			c := s.restoring()
			c.To, c.Workers = server.URL(name), workers
			report := restore(t, c)
			same(t, "restored", s.url, server.URL(name))
			var rows int64
			for _, p := range m.Parts {
				rows += p.Rows
			}
			if report.Rows != rows || len(report.LeftOut) > 0 {
				t.Errorf("%d rows of %d; left out %q", report.Rows, rows, report.LeftOut)
			}
			// The server numbers what it makes in the order in which it makes it.
			for what, sql := range map[string]string{
				"a trigger before the last index":         `SELECT min(g.oid) < (SELECT max(oid) FROM pg_class WHERE relkind IN ('i', 'I')) FROM pg_trigger g WHERE NOT tgisinternal`,
				"a trigger before the last constraint":    `SELECT min(g.oid) < (SELECT max(oid) FROM pg_constraint WHERE contype IN ('p', 'u', 'f', 'x')) FROM pg_trigger g WHERE NOT tgisinternal`,
				"an event trigger before another trigger": `SELECT max(g.oid) > (SELECT min(oid) FROM pg_event_trigger) FROM pg_trigger g`,
			} {
				if ask(t, name, sql) != "f" {
					t.Error(what)
				}
			}
			if n := ask(t, name, `SELECT n FROM over`); n != "3000" {
				t.Errorf("a view over a materialized view over another says %q", n)
			}
			if n := ask(t, name, `SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'm') AND relnamespace = 'public'::regnamespace AND reltuples < 0`); n != "0" {
				t.Errorf("%s tables were not analyzed", n)
			}
			if n := ask(t, name, `SELECT count(*) FROM pg_stats WHERE tablename = 'posts_odd'`); n != "1" {
				t.Error("an index's expression was not analyzed")
			}
		})
	}
}

// TestRestoreWaitsForKeys: where nothing but keys and references is built, all of it is ready at once but for what needs what.
func TestRestoreWaitsForKeys(t *testing.T) {
	server := pgtest.Server(t)
	s := newSite(t, severalPieces+`ALTER TABLE big ADD best int REFERENCES big; UPDATE big SET best = id;
		CREATE TABLE more (id int PRIMARY KEY REFERENCES big, small int REFERENCES small); INSERT INTO more SELECT id, 1 FROM big;
		ALTER TABLE small ADD more int REFERENCES more; UPDATE small SET more = id`)
	s.backup()
	for _, workers := range []int{1, 2, 7} {
		name := newName(t, server, fmt.Sprint("keys", workers))
		c := s.restoring()
		c.To, c.Workers = server.URL(name), workers
		restore(t, c)
		same(t, "restored", s.url, server.URL(name))
	}
}

// TestRestoreOfOldDump: an old dump says once in which schema the statements after it are, those that a restore runs last too.
func TestRestoreOfOldDump(t *testing.T) {
	server := pgtest.Server(t)
	s := newSite(t, `CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE SCHEMA a; CREATE TABLE a.t (id int PRIMARY KEY); CREATE TRIGGER x AFTER INSERT ON a.t EXECUTE FUNCTION nothing();
		CREATE SCHEMA b; CREATE TABLE b.t (id int PRIMARY KEY); CREATE TRIGGER y AFTER INSERT ON b.t EXECUTE FUNCTION nothing()`)
	path := dumpFile(t, s.url)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	old := regexp.MustCompile(`(?m)^(CREATE TRIGGER . .* ON )([ab])\.`).ReplaceAll(text, []byte("SET search_path = $2, pg_catalog;\n$1"))
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.backupDump(path, s.store); err != nil {
		t.Fatal(err)
	}
	name := newName(t, server, "old")
	c := s.restoring()
	c.To = server.URL(name)
	restore(t, c)
	same(t, "restored", s.url, server.URL(name))
}

// TestRestoreFreezes: what one COPY loads is seen by everybody at once, so that neither readers nor vacuum write it again.
func TestRestoreFreezes(t *testing.T) {
	s := newSite(t, severalPieces)
	s.backup()
	db := pgtest.DBName(t)
	if err := s.restoreInto(s.open(), "latest", db); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, db, `SELECT relallvisible = relpages AND relpages > 0 FROM pg_class WHERE relname = 'big'`); got != "t" {
		t.Error("pages are not known to be visible to all")
	}
}

// TestRestoreWithoutTruncate: whoever restores may have been left with no more than INSERT by the privileges that come with
// the tables.
func TestRestoreWithoutTruncate(t *testing.T) {
	server, ctx := pgtest.Server(t), context.Background()
	if err := server.Exec(ctx, "postgres", `CREATE ROLE odd_inserter CREATEDB LOGIN`); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, severalPieces+`ALTER TABLE big OWNER TO odd_inserter; REVOKE TRUNCATE ON big FROM odd_inserter; ALTER TABLE small OWNER TO odd_inserter`)
	t.Cleanup(func() {
		if err := server.Exec(ctx, s.database(), "DROP OWNED BY odd_inserter"); err != nil {
			t.Error(err)
		}
		if err := server.Exec(ctx, "postgres", "DROP ROLE odd_inserter"); err != nil {
			t.Error(err)
		}
	})
	s.backup()
	name := newName(t, server, "inserter")
	c := s.restoring()
	c.To = server.URLAs("odd_inserter", name)
	c.NoOwner = true
	restore(t, c)
	if n := ask(t, name, `SELECT count(*) FROM big`); n != "350" {
		t.Errorf("%s rows", n)
	}
}

// TestRestoreStatementFails: a statement of the post-data fails while others run. The error says which and why, nothing of a
// row, and what was made is gone.
func TestRestoreStatementFails(t *testing.T) {
	const secret = 4711077
	for _, c := range []struct {
		name, sql string
		says      []string
	}{
		{"an index's function", `CREATE FUNCTION picky(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
			IF current_setting('application_name') = 'lethe restore' AND $1 > 1000 THEN RAISE EXCEPTION 'not %', $1; END IF; RETURN $1; END $$;
			CREATE TABLE refused (id int); INSERT INTO refused VALUES (4711077); CREATE INDEX refused_picky ON refused (picky(id))`,
			[]string{"post-data statement at line ", "refused_picky", "an error that a function of the database raised"}},
		{"a row without a parent", `CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE refused (id int CONSTRAINT refused_fk REFERENCES parent);
			SET session_replication_role = replica; INSERT INTO refused VALUES (4711077); RESET session_replication_role`,
			[]string{"post-data statement at line ", "refused_fk", "a row that references nothing"}},
		{"a view that can't be refreshed", `CREATE TABLE t (id int); CREATE FUNCTION picky() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
			IF current_setting('application_name') = 'lethe restore' THEN RAISE EXCEPTION 'not 4711077'; END IF; RETURN 1; END $$;
			CREATE MATERIALIZED VIEW refused AS SELECT picky() AS n FROM generate_series(1, 1)`,
			[]string{"post-data statement at line ", "REFRESH MATERIALIZED VIEW public.refused", "an error that a function of the database raised"}},
	} {
		s := newSite(t, severalPieces+c.sql)
		s.backup()
		for _, given := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, given=%v", c.name, given), func(t *testing.T) {
				pgtest.NoLeaks(t)
				into := "must_not_come_to_be"
				if given {
					into = pgtest.DBName(t)
				}
				before := databases(t)
				_, err := pipeline.Restore(context.Background(), s.toDatabase(s.store, into))
				if err == nil || errors.Is(err, pipeline.ErrLeftBehind) {
					t.Fatalf("error %v", err)
				}
				for _, part := range append(c.says, "restore 2") {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("error %v does not say %q", err, part)
					}
				}
				if strings.Contains(err.Error(), fmt.Sprint(secret)) {
					t.Errorf("error %v shows a value", err)
				}
				if after := databases(t); !slices.Equal(before, after) {
					t.Errorf("databases before %v, after %v", before, after)
				}
				if given && ask(t, into, relations) != "0" {
					t.Error("something is left")
				}
			})
		}
	}
}

// TestRestoreRefusedRow: of all the rows of a COPY the error names the object that holds the one that the server refused.
func TestRestoreRefusedRow(t *testing.T) {
	pgtest.NoLeaks(t)
	s := newSite(t, severalPieces+`CREATE FUNCTION fine(int) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
		RETURN $1 <> 200 OR current_setting('application_name') <> 'lethe restore'; END $$; ALTER TABLE big ADD CHECK (fine(id))`)
	m := s.manifestIn(s.store, s.backup())
	_, err := pipeline.Restore(context.Background(), s.toDatabase(s.store, "must_not_come_to_be"))
	if err == nil {
		t.Fatal("restored")
	}
	var row int64
	for _, p := range m.Parts {
		if p.Name != "big" {
			continue
		}
		for _, o := range p.Objects {
			holds := row < 200 && 200 <= row+o.Rows
			if row += o.Rows; holds != strings.Contains(err.Error(), o.Object) {
				t.Errorf("error %v; that object %s holds the row is %v", err, o.Object, holds)
			}
		}
	}
	for _, part := range []string{"table big: ", "COPY big, line 200", "a row that a CHECK constraint refuses"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %v does not say %q", err, part)
		}
	}
}

// TestRestoreLosesAConnection: the server ends a session in the middle of its COPY.
func TestRestoreLosesAConnection(t *testing.T) {
	s := newSite(t, severalPieces)
	m := s.manifestIn(s.store, s.backup())
	i := slices.IndexFunc(m.Parts, func(p archive.Part) bool { return p.Name == "big" })
	late := m.Parts[i].Objects[len(m.Parts[i].Objects)-1].Object
	for _, given := range []bool{false, true} {
		t.Run(fmt.Sprintf("given=%v", given), func(t *testing.T) {
			pgtest.NoLeaks(t)
			into := "must_not_come_to_be"
			if given {
				into = pgtest.DBName(t)
			}
			before := databases(t)
			var once sync.Once
			faulty := storetest.NewFaulty(s.store, storetest.Rule{On: storetest.Get, Name: archive.ObjectName(late), Fault: storetest.Call(func(string) error {
				once.Do(func() {
					for ask(t, "postgres", `SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
						WHERE application_name = 'lethe restore' AND state = 'active' AND query LIKE 'COPY "public"."big"%'`) == "0" {
						time.Sleep(5 * time.Millisecond)
					}
				})
				return nil
			})})
			_, err := pipeline.Restore(context.Background(), s.toDatabase(faulty, into))
			if err == nil || errors.Is(err, pipeline.ErrLeftBehind) || !strings.Contains(err.Error(), "table big: ") {
				t.Errorf("error %v", err)
			}
			if after := databases(t); !slices.Equal(before, after) {
				t.Errorf("databases before %v, after %v", before, after)
			}
			if given && ask(t, into, relations) != "0" {
				t.Error("something is left")
			}
		})
	}
}
