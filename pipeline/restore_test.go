package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/store"
	"lethe/pipeline/store/storetest"
)

// openAt opens a store's repository, trusting the operator.
func (s *site) openAt(at store.Store) *pipeline.Repository {
	s.t.Helper()
	r, err := pipeline.OpenRepository(context.Background(), at, archive.NewTrust(s.operator.Public()))
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// toDatabase is a restore of the latest snapshot in a store into a database of the shared server.
func (s *site) toDatabase(from store.Store, db string) pipeline.RestoreConfig {
	return pipeline.RestoreConfig{Repository: s.openAt(from), Snapshot: "latest", Identities: s.holder,
		To: pgtest.Server(s.t).URL(db), Workers: 2, Now: time.Now, Warn: func(msg string) { s.heard.say(msg) }}
}

// ask returns the single value that a query answers.
func ask(t testing.TB, db, query string) string {
	t.Helper()
	rows, err := pgtest.Server(t).Query(context.Background(), db, query)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1 || len(rows[0]) != 1 {
		t.Fatalf("%s: %v", query, rows)
	}
	return rows[0][0]
}

const (
	commentOf = `SELECT coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = '%s'`
	relations = `SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'`
)

// TestRestoreFails: whatever fails at whichever place, what was created is gone, and what was given is as it was.
func TestRestoreFails(t *testing.T) {
	s := newSite(t, severalPieces+`CREATE SCHEMA other; CREATE TABLE other.t (); SELECT lo_create(4711); CREATE INDEX ON big (md5(noise))`)
	m := s.manifestIn(s.store, s.backup())
	var ofBig []string // objects of the one table's COPY, in its order
	for _, p := range m.Parts {
		if p.Name == "big" {
			for _, o := range p.Objects {
				ofBig = append(ofBig, o.Object)
			}
		}
	}
	if len(ofBig) < 5 {
		t.Fatalf("big has %d pieces", len(ofBig))
	}
	get := func(object string, fault storetest.Fault) storetest.Rule {
		return storetest.Rule{On: storetest.Get, Name: archive.ObjectName(object), Fault: fault}
	}
	first, middle, last := ofBig[0], ofBig[len(ofBig)/2], ofBig[len(ofBig)-1]
	var interrupt context.CancelFunc
	for _, c := range []struct {
		name  string
		rule  storetest.Rule
		error error
		names string // what the error must name
	}{
		{"the DDL can't be fetched", storetest.Rule{On: storetest.Get, Name: "objects/", Nth: 1, Fault: storetest.Fail(errBroken)}, errBroken, ""},
		{"a piece can't be fetched", get(first, storetest.Fail(errBroken)), errBroken, first},
		{"the store breaks in a piece", get(middle, storetest.BreakAt(1000, errBroken)), errBroken, middle},
		{"a byte is flipped", get(middle, storetest.FlipByte(5000)), pipeline.ErrIntegrity, middle},
		{"a piece is cut short", get(last, storetest.Truncate(-1)), pipeline.ErrIntegrity, last},
		{"a piece is gone", get(last, storetest.Lose()), pipeline.ErrIntegrity, last},
		{"interrupted", get(middle, storetest.Call(func(string) error { interrupt(); return nil })), context.Canceled, ""},
	} {
		for _, given := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, given=%v", c.name, given), func(t *testing.T) {
				pgtest.NoLeaks(t)
				db := "must_not_come_to_be"
				if given {
					db = pgtest.DBName(t)
					if err := pgtest.Server(t).Exec(context.Background(), db, "COMMENT ON DATABASE "+db+" IS 'as it was'"); err != nil {
						t.Fatal(err)
					}
				}
				before := databases(t)
				var ctx context.Context
				ctx, interrupt = context.WithCancel(context.Background())
				defer interrupt()
				_, err := pipeline.Restore(ctx, s.toDatabase(storetest.NewFaulty(s.store, c.rule), db))
				if !errors.Is(err, c.error) || errors.Is(err, pipeline.ErrLeftBehind) {
					t.Errorf("error %v, not %v", err, c.error)
				}
				if err != nil && (!strings.Contains(err.Error(), c.names) || c.names != "" && !strings.Contains(err.Error(), "table big: ")) {
					t.Errorf("error %v does not name object %s of big", err, c.names)
				}
				if after := databases(t); !slices.Equal(before, after) {
					t.Errorf("databases before %v, after %v", before, after)
				}
				if given {
					if n := ask(t, db, relations); n != "0" {
						t.Errorf("%s relations are left", n)
					}
					if n := ask(t, db, "SELECT count(*) FROM pg_largeobject_metadata"); n != "0" {
						t.Errorf("%s large objects are left", n)
					}
					if c := ask(t, db, fmt.Sprintf(commentOf, db)); c != "as it was" {
						t.Errorf("its comment is %q", c)
					}
				}
			})
		}
	}
}

// TestRestoresIntoOneDatabase: two restores find a database empty at the same time. The second is refused; above all it
// does not fail later and empty what the first has filled.
func TestRestoresIntoOneDatabase(t *testing.T) {
	pgtest.NoLeaks(t)
	s := newSite(t, severalPieces)
	s.backup()
	db, ctx := pgtest.DBName(t), context.Background()
	conn, err := pgconn.Connect(ctx, pgtest.Server(t).URL(db))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	run := func(sql string) {
		if _, err := conn.Exec(ctx, sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	run("BEGIN; CREATE TABLE big ()") // not to be seen yet, but whoever creates it waits
	waiting := `SELECT count(*) FROM pg_stat_activity WHERE datname = '` + db + `' AND wait_event_type = 'Lock'`
	var both sync.WaitGroup
	var errs [2]error
	restore := func(i int) { _, errs[i] = pipeline.Restore(ctx, s.toDatabase(s.store, db)) }
	ended := make(chan struct{})
	both.Go(func() { restore(0) })
	for ask(t, db, waiting) != "1" {
		time.Sleep(5 * time.Millisecond)
	}
	both.Go(func() { restore(1); close(ended) })
	for ask(t, db, waiting) == "1" { // until the second is refused, or waits too
		select {
		case <-ended:
		default:
			time.Sleep(5 * time.Millisecond)
			continue
		}
		break
	}
	run("ROLLBACK")
	both.Wait()
	if errs[0] != nil || !errors.Is(errs[1], pipeline.ErrConfig) {
		t.Errorf("the first restore: %v; the second: %v", errs[0], errs[1])
	}
	if n := ask(t, db, relations+" AND relname = 'big'"); n != "1" {
		t.Fatal("the second restore has emptied what the first had filled")
	}
	if n := ask(t, db, "SELECT count(*) FROM big"); n != "350" {
		t.Errorf("%s rows", n)
	}
}

// TestSecondRestoreWhileFirstIsNotConnected: for a moment nobody is connected to a database that is about to be renamed.
// A restore that starts then must not take it for what a killed one left.
func TestSecondRestoreWhileFirstIsNotConnected(t *testing.T) {
	pgtest.NoLeaks(t)
	s := newSite(t, severalPieces)
	s.backup()
	building := func() string {
		return ask(t, "postgres", `SELECT coalesce(string_agg(datname, ' '), '') FROM pg_database WHERE datname LIKE 'lethe_restoring_%'`)
	}
	t.Cleanup(func() {
		for _, db := range []string{"restored_first", "restored_second"} {
			if err := pgtest.Server(t).DropDatabase(context.Background(), db); err != nil {
				t.Error(err)
			}
		}
	})
	var second error
	var first, left string
	faulty := storetest.NewFaulty(s.store, storetest.Rule{On: storetest.Get, Name: "objects/", Nth: 4, Fault: storetest.Call(func(string) error {
		first = building()
		ask(t, "postgres", `SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE datname = '`+first+`'`)
		_, second = pipeline.Restore(context.Background(), s.toDatabase(s.store, "restored_second"))
		left = building()
		return nil
	})})
	if _, err := pipeline.Restore(context.Background(), s.toDatabase(faulty, "restored_first")); err == nil {
		t.Error("a restore whose sessions were ended says that it is done")
	}
	if second != nil {
		t.Error(second)
	}
	if first == "" || left != first {
		t.Errorf("the first restore was building %q; the second left %q", first, left)
	}
	if b := building(); b != "" {
		t.Errorf("%s is left", b)
	}
	if err := s.restoreInto(s.open(), "latest", "restored_first"); err != nil {
		t.Error(err)
	}
}

// TestRestoreDropsOnlyWhatItMade: a killed restore's database goes; others that merely look a little like it stay.
func TestRestoreDropsOnlyWhatItMade(t *testing.T) {
	s := newSite(t, "CREATE TABLE t ()")
	s.backup()
	server, ctx := pgtest.Server(t), context.Background()
	mark := "lethe: incomplete restore of 20261122T180000Z-3f9a1c as slipmat"
	for db, comment := range map[string]string{"lethe_restoring_000000000000": mark, "lethe_restoring_manual": "mine", "slipmat_copy": mark} {
		if err := server.CreateDatabase(ctx, db); err != nil {
			t.Fatal(err)
		}
		if err := server.Exec(ctx, "postgres", "COMMENT ON DATABASE "+db+" IS '"+comment+"'"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { server.Exec(ctx, "postgres", "DROP DATABASE IF EXISTS "+db) })
	}
	if err := s.restoreInto(s.open(), "latest", "restored"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Exec(ctx, "postgres", "DROP DATABASE restored") })
	after := databases(t)
	if slices.Contains(after, "lethe_restoring_000000000000") {
		t.Error("what a killed restore left is still there")
	}
	if !slices.Contains(after, "lethe_restoring_manual") || !slices.Contains(after, "slipmat_copy") {
		t.Errorf("a restore dropped what it did not make: %v are left", after)
	}
}

// TestRestoreRefusesWhatIsNotEmpty: whatever a database holds, even what has no rows, is found before anything is done
// to it, since emptying would take it along.
func TestRestoreRefusesWhatIsNotEmpty(t *testing.T) {
	s := newSite(t, "CREATE TABLE t ()")
	s.backup()
	for _, sql := range []string{
		"CREATE TABLE x ()", "CREATE SEQUENCE x", "CREATE VIEW x AS SELECT 1", "CREATE SCHEMA x", "CREATE TYPE x AS ENUM ()", "CREATE DOMAIN x AS int",
		"CREATE FUNCTION x() RETURNS int LANGUAGE sql AS 'SELECT 1'", "SELECT lo_create(0)", "CREATE PUBLICATION x",
		"CREATE TEXT SEARCH DICTIONARY x (TEMPLATE = simple)", "CREATE TEXT SEARCH CONFIGURATION x (COPY = simple)",
		"CREATE OPERATOR FAMILY x USING btree", "CREATE CONVERSION x FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8", "CREATE COLLATION x (LOCALE = 'C')",
		"CREATE FOREIGN DATA WRAPPER x", "CREATE EXTENSION postgres_fdw; CREATE SERVER x FOREIGN DATA WRAPPER postgres_fdw",
	} {
		db := pgtest.DBName(t)
		if err := pgtest.Server(t).Exec(context.Background(), db, sql); err != nil {
			t.Fatal(err)
		}
		for _, dry := range []bool{true, false} {
			c := s.toDatabase(s.store, db)
			c.DryRun = dry
			if _, err := pipeline.Restore(context.Background(), c); !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "not empty") {
				t.Errorf("%s, dry run %v: %v", sql, dry, err)
			}
		}
		if c := ask(t, db, fmt.Sprintf(commentOf, db)); c != "" {
			t.Errorf("%s: it is marked %q", sql, c)
		}
	}
}

// TestSettingIsNoStatement: any user of a database may store what he likes as his own search_path in it. It comes back
// as names, and does not run as whoever restores.
func TestSettingIsNoStatement(t *testing.T) {
	s := newSite(t, `CREATE TABLE t ()`)
	server, ctx := pgtest.Server(t), context.Background()
	source := s.database()
	if err := server.Exec(ctx, "postgres", "CREATE ROLE mallory"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Exec(ctx, "postgres", "DROP OWNED BY mallory; DROP ROLE mallory") })
	evil := `public;ALTER/**/ROLE/**/mallory/**/SUPERUSER;--`
	if err := server.Exec(ctx, source, `SET SESSION AUTHORIZATION mallory; SELECT set_config('search_path', '`+evil+`', false);
		ALTER ROLE mallory IN DATABASE `+source+` SET search_path FROM CURRENT`); err != nil {
		t.Fatal(err)
	}
	s.backup()
	into := pgtest.DBName(t)
	if err := s.restoreInto(s.open(), "latest", into); err != nil {
		t.Fatal(err)
	}
	if super := ask(t, "postgres", `SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'`); super != "f" {
		t.Error("the restore ran what a user had stored as his search_path")
	}
	if got := ask(t, into, `SELECT setconfig[1] FROM pg_db_role_setting s JOIN pg_database d ON d.oid = setdatabase WHERE datname = current_database()`); got != `search_path="`+evil+`"` {
		t.Errorf("his search_path came back as %s", got)
	}
}

// TestRestoreOutlastsIdleTimeout: sessions that wait for the rows to be loaded are not ended by the server's timeout.
func TestRestoreOutlastsIdleTimeout(t *testing.T) {
	pgtest.NoLeaks(t)
	s := newSite(t, severalPieces)
	s.backup()
	const idle = `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lethe restore'`
	var once sync.Once
	faulty := storetest.NewFaulty(s.store, storetest.Rule{On: storetest.Get, Name: "objects/", Nth: 5, Fault: storetest.Call(func(string) error {
		once.Do(func() { // until the two that wait have been idle for longer than allowed, or are gone
			for ask(t, "postgres", idle) >= "2" && ask(t, "postgres", idle+` AND state = 'idle' AND state_change < clock_timestamp() - interval '4 s'`) < "2" {
				time.Sleep(10 * time.Millisecond)
			}
		})
		return nil
	})})
	c := s.toDatabase(faulty, "outlasted")
	c.To += "&idle_session_timeout=3000&statement_timeout=60000" // which count from the connection on, until lethe's first statement
	if _, err := pipeline.Restore(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	if err := pgtest.Server(t).DropDatabase(context.Background(), "outlasted"); err != nil {
		t.Error(err)
	}
}

// TestRaisedValuesAreNotSaid: what a function of the database raises about a row is not repeated.
func TestRaisedValuesAreNotSaid(t *testing.T) {
	for _, how := range []string{"'no %', v", "'no %', v USING ERRCODE = 'U0001'"} {
		s := newSite(t, `CREATE FUNCTION fine(v text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
			IF current_setting('application_name') = 'lethe restore' THEN RAISE EXCEPTION `+how+`; END IF; RETURN true; END $$;
			CREATE TABLE t (v text CHECK (fine(v))); INSERT INTO t VALUES ('ada@example.org')`)
		s.backup()
		err := s.restoreInto(s.open(), "latest", pgtest.DBName(t))
		if err == nil || strings.Contains(s.heard.String(), "ada@") || !strings.Contains(err.Error(), "table t") {
			t.Errorf("%s: %v", how, err)
		}
	}
}
