package pipeline_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/store/storetest"
	"lethe/rules"
	"lethe/scrub"
	"lethe/scrub/catalog"
	"lethe/scrub/scrubtest"
)

// purgeCase is a random schema with rules, and the rows that some snapshots of it have.
type purgeCase struct {
	rules     string
	requests  []scrubtest.Request
	snapshots []purgeSnapshot
}

type purgeSnapshot struct {
	sql string
	// What is left of each table, by the model: of this snapshot alone, and where it knows of the others.
	alone, together map[string][]string
}

func (c *purgeCase) String() string {
	text := c.rules + fmt.Sprintf("\nrequests %v", c.requests)
	for _, s := range c.snapshots {
		text += "\n---\n" + s.sql
	}
	return text
}

// drawPurgeCase draws a case whose rules fit, and where no default leads to somebody erased or to nobody, which is refused.
func drawPurgeCase(t *rapid.T) *purgeCase {
	w := scrubtest.Draw(t)
	tables, constraints := w.DDL()
	cat, err := catalog.Parse(tables + constraints)
	if err != nil {
		t.Fatal(err)
	}
	w.Requests = slices.DeleteFunc(w.Requests, func(q scrubtest.Request) bool { return q.Key == "" }) // which a rules file refuses
	c := &purgeCase{requests: w.Requests}
	const attempts = 8
	for n := range attempts + 1 {
		c.rules = w.Decide(t, n == attempts)
		file, err := rules.Parse("rules.yml", []byte(c.rules))
		if err != nil {
			t.Fatalf("%v\n%s", err, c.rules)
		}
		if _, err := scrub.Compile(file, cat); err == nil {
			break
		} else if n == attempts {
			t.Fatalf("%v\n%s", err, c.rules)
		}
	}
	var rows []scrubtest.Rows
	for range rapid.IntRange(1, 3).Draw(t, "snapshots") {
		if len(c.snapshots) > 0 {
			w.GoOn(t)
		}
		want := w.Erase()
		if w.DefaultGoes() || w.DefaultLost() {
			return nil
		}
		c.snapshots = append(c.snapshots, purgeSnapshot{sql: tables + w.Inserts() + constraints, alone: want})
		rows = append(rows, w.Take())
	}
	for i, want := range w.EraseTogether(rows) {
		c.snapshots[i].together = want
	}
	return c
}

// worldsFrom is the seed of the first world that a model test draws, and how many have to do something: the same in every
// run of `make test`. `make soak` draws others, and LETHE_SEED those of a run that was seen.
func worldsFrom(t *testing.T, first, sample int) (seed, n int) {
	t.Helper()
	if os.Getenv("LETHE_KILLS") == "" && os.Getenv("LETHE_SEED") == "" {
		return first, sample
	}
	n, random := storetest.Rounds(t, sample)
	return random.IntN(1 << 30), n
}

// TestPurgeEqualsModel: what is purged from stored snapshots, and what is left out when they are restored, is what a backup
// with the requests leaves out and what the model erases, for random schemas, rules and requests, in each of several
// snapshots that share rows.
func TestPurgeEqualsModel(t *testing.T) {
	s := newSite(t, "")
	server, db := pgtest.Server(t), s.database()
	signer := signed(t)
	cases, changed := 0, 0
	first, enough := worldsFrom(t, 0, 9)
	for seed := first; changed < enough && seed < first+4*enough; seed++ {
		c := rapid.Custom(drawPurgeCase).Example(seed)
		if c == nil {
			continue
		}
		cases++
		s.rules = strings.Replace(c.rules, "dataset: d\n", "dataset: d\ndrift: pass\n", 1)
		stored := s.newStore(filepath.Join(t.TempDir(), "without"))
		with := s.newStore(filepath.Join(t.TempDir(), "with"))
		withRequests := s.rules + requestLines(c.requests)
		fatal := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("seed %d: %v\n%s", seed, err, c)
			}
		}
		for _, snap := range c.snapshots {
			fatal(server.Exec(context.Background(), db, "SET client_min_messages = warning; DROP SCHEMA public CASCADE; CREATE SCHEMA public; "+snap.sql))
			_, err := s.tryBackup(stored)
			fatal(err)
			plain := s.rules
			s.rules = withRequests
			report, err := s.tryBackup(with)
			s.rules = plain
			fatal(err)
			if err := compareWithModel(s.rowsIn(with, report.Snapshot), snap.alone); err != nil {
				t.Fatalf("seed %d: a backup with requests: %v\n%s", seed, err, c)
			}
		}
		s.recordAll(withRequests, stored)
		for i, name := range manifests(t, stored) {
			id, _ := archive.SnapshotOf(name)
			replayed, _ := s.replayed(stored, id)
			if err := compareWithModel(replayed, c.snapshots[i].alone); err != nil {
				t.Fatalf("seed %d, snapshot %d: a restore that replays the requests: %v\n%s", seed, i, err, c)
			}
		}
		report, err := pipeline.Purge(context.Background(), s.purging(signer, stored))
		fatal(err)
		if report.Plan.Rewritten > 0 {
			changed++
		}
		list := manifests(t, stored)
		if len(list) != len(c.snapshots) {
			t.Fatalf("seed %d: %v is left", seed, list)
		}
		for i, name := range list {
			id, _ := archive.SnapshotOf(name)
			if err := compareWithModel(s.rowsIn(stored, id, signer.Public()), c.snapshots[i].together); err != nil {
				t.Fatalf("seed %d, snapshot %d: %v\n%s", seed, i, err, c)
			}
		}
		files := names(t, stored, "")
		again, err := pipeline.Purge(context.Background(), s.purging(signer, stored))
		fatal(err)
		if again.Plan.Rows > 0 || !slices.Equal(names(t, stored, ""), files) {
			t.Fatalf("seed %d: purged again: %+v\n%s", seed, again, c)
		}
	}
	if changed < enough {
		t.Errorf("%d cases, of which %d change something", cases, changed)
	}
}

// TestWaysToEraseAgree: a backup once requests are recorded, a restore that replays them over the snapshot from before, and a
// purge of that snapshot come to the same, for random schemas, rules and requests: the same statements in the same order,
// the same rows of each table and partition, and the same large objects, of which tables share some. A backup of the
// database's dump file has the same rows and large objects, and so has one of what was restored from the first.
func TestWaysToEraseAgree(t *testing.T) {
	s := newSite(t, "")
	server, db := pgtest.Server(t), s.database()
	signer := signed(t)
	worlds, changed, lost, kept, dumped := 0, 0, 0, 0, 0
	first, enough := worldsFrom(t, 1012, 8)
	little := func() bool {
		return worlds < enough || changed <= enough/2 || lost == 0 || kept == 0 || dumped <= enough/2
	}
	restored := newName(t, server, db)
	for seed := first; little() && seed < first+10*enough; seed++ {
		c := rapid.Custom(drawPurgeCase).Example(seed)
		if c == nil || len(c.requests) == 0 {
			continue
		}
		worlds++
		fatal := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("seed %d: %v\n%s", seed, err, c)
			}
		}
		fatal(server.Exec(context.Background(), db, "SET client_min_messages = warning; DROP SCHEMA public CASCADE; CREATE SCHEMA public; "+
			"SELECT lo_unlink(oid) FROM pg_largeobject_metadata; "+c.snapshots[0].sql+withLargeObjects))
		s.rules = strings.Replace(c.rules, "dataset: d\n", "dataset: d\ndrift: pass\n", 1)
		in := s.newRepository(filepath.Join(t.TempDir(), "store"), "")
		before, err := s.tryBackup(in)
		fatal(err)
		s.recordAll(s.rules+requestLines(c.requests), in)
		backup, err := s.tryBackup(in)
		fatal(err)
		want := s.rowsIn(in, backup.Snapshot)
		all := s.rowsIn(in, before.Snapshot)
		if !maps.EqualFunc(all, want, slices.Equal) {
			changed++
		}
		was, is := largeObjects(all), largeObjects(want)
		lost, kept = lost+was-is, kept+is

		replayed, _ := s.replayed(in, before.Snapshot)
		sameRows(t, "a restore that replays", want, replayed)

		switch dump, err := s.backupDump(dumpFile(t, s.url), in); {
		case err == nil:
			dumped++
			sameRows(t, "a backup of the dump file", rowsAlone(want), rowsAlone(s.rowsIn(in, dump.Snapshot)))
		case !strings.Contains(err.Error(), "only a server can compare"):
			fatal(err)
		}

		fatal(server.DropDatabase(context.Background(), restored))
		into := s.toDatabase(in, restored)
		into.Snapshot = backup.Snapshot
		restore(t, into)
		second := s.newRepository(filepath.Join(t.TempDir(), "second"), "")
		plain, err := rules.Parse("rules.yml", []byte("version: 1\ndataset: d\ndrift: pass\n"))
		fatal(err)
		again := s.config(second)
		again.Source.URL, again.Rules = into.To, plain
		roundTrip, err := pipeline.Backup(context.Background(), again)
		fatal(err)
		sameRows(t, "a backup of what was restored", rowsAlone(want), rowsAlone(s.rowsIn(second, roundTrip.Snapshot)))

		report, err := pipeline.Purge(context.Background(), s.purging(signer, in))
		fatal(err)
		sameRows(t, "a purge", want, s.rowsIn(in, report.Stores[0].Successors[0].New, signer.Public()))
		if t.Failed() {
			t.Fatalf("seed %d\n%s", seed, c)
		}
	}
	t.Logf("%d worlds, of which erasing changes %d, and %d as dump files; %d large objects go, %d stay", worlds, changed, dumped, lost, kept)
	if little() {
		t.Error("too little happens in these worlds")
	}
}

// withLargeObjects gives every other table of a world a column of large objects, which rows share, also of several tables,
// and one that no row knows.
const withLargeObjects = `
SELECT lo_from_bytea(7000 + i, convert_to('object ' || i, 'UTF8')) FROM generate_series(0, 40) i;
DO $$ DECLARE t regclass; BEGIN
	FOR t IN SELECT c.oid FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY relname LOOP
		CONTINUE WHEN hashtext(t::text) % 2 = 0;
		EXECUTE format('ALTER TABLE %s ADD object oid', t);
		EXECUTE format('UPDATE %s AS t SET object = 7000 + abs(hashtext(t::text) %% 40) WHERE hashtext(t::text) %% 5 <> 0', t);
	END LOOP;
END $$;`

// rowsAlone is what a restore brings back without the statements around it.
func rowsAlone(all map[string][]string) map[string][]string {
	rows := maps.Clone(all)
	rows[""] = slices.DeleteFunc(slices.Clone(all[""]), func(line string) bool { return !strings.Contains(line, "pg_catalog.lo") })
	return rows
}

// largeObjects counts those that a restore makes.
func largeObjects(rows map[string][]string) (n int) {
	for _, line := range rows[""] {
		if strings.Contains(line, "lo_create(") {
			n++
		}
	}
	return n
}

// requestLines are requests as a rules file holds them.
func requestLines(requests []scrubtest.Request) string {
	if len(requests) == 0 {
		return ""
	}
	text := "requests:\n"
	for i, q := range requests {
		text += fmt.Sprintf("  - {subject: %q, ref: R-%d}\n", q.Subject+":"+q.Key, i)
	}
	return text
}

// compareWithModel compares what a snapshot restores to with what is left of each table.
func compareWithModel(got, want map[string][]string) error {
	tables := map[string][]string{}
	for header, rows := range got {
		if header == "" {
			continue
		}
		name := strings.TrimPrefix(header, `COPY "public"."`)
		root, _, _ := strings.Cut(name[:strings.IndexByte(name, '"')], "_")
		for _, row := range rows {
			tables[root] = append(tables[root], strings.TrimSuffix(row, "\n"))
		}
	}
	for name, rows := range want {
		slices.Sort(tables[name])
		if !slices.Equal(tables[name], rows) {
			return fmt.Errorf("table %s\n got %q\nwant %q", name, tables[name], rows)
		}
	}
	return nil
}
