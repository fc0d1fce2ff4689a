package main

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lethe/pipeline/pgtemp/pgtest"
)

// The three people of testdata/forgotten who are erased.
var forgottenIDs = []string{"7301948265", "8412059376", "9523160487"}

// canaryPlaces are the columns that hold what is theirs; each has a canary of each of the three.
var canaryPlaces = strings.Fields(`attachments.data attachments.file_name audit_log.detail blocks.reason comments.body devices.name events.action jobs.args
	memberships.title messages.body notes.body notifications.payload payments.card_holder payments.iban posts.body posts.title profiles.about profiles.photo
	projects.name reactions.emoji refunds.why reports.body revisions.body roles.reason tasks.title thumbnails.data users.avatar users.email users.full_name
	users.last_ip users.phone users.prefs users.prefs.devices users.username`)

// TestForgotten is the whole of it, with the command and nothing else: a site is backed up while it changes, three of its
// people are erased, and a key holder takes them out of all snapshots on a machine that has nothing of the operator's.
// age and zstd then find nothing of them in any file of the store, and every snapshot restores to what SQL by hand
// makes of the snapshot as it was. LETHE_PEOPLE and LETHE_SNAPSHOTS say how much; `make forgotten` is the full size.
func TestForgotten(t *testing.T) {
	people, snapshots := fromEnvironment(t, "LETHE_PEOPLE", 400), fromEnvironment(t, "LETHE_SNAPSHOTS", 3)
	if people%400 != 0 || snapshots < 3 {
		t.Fatal("LETHE_PEOPLE is a multiple of 400, and LETHE_SNAPSHOTS at least 3")
	}
	server := pgtest.Server(t)
	began := time.Now()
	step := func(format string, args ...any) {
		t.Logf("%5.0f s  %s", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	live := pgtest.DBName(t)
	runPsql(t, live, "schema.sql", fmt.Sprintf("people=%d", people))
	step("%d people", people)

	// The operator's machine, and the key holder's, which shares nothing with it but the store.
	store, away := filepath.Join(t.TempDir(), "store"), filepath.Join(t.TempDir(), "unpurged")
	operator := &workplace{t: t, dir: t.TempDir(), env: bare(t, serverAddress(server)...)}
	holder := &workplace{t: t, dir: t.TempDir(), env: bare(t, serverAddress(server)...)}
	recipient, err := filtered(nil, "age-keygen", "-o", filepath.Join(holder.dir, "key.txt"))
	if err == nil {
		recipient, err = filtered(nil, "age-keygen", "-y", filepath.Join(holder.dir, "key.txt"))
	}
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(holder.dir, "key.txt")
	rules, err := os.ReadFile(filepath.Join("testdata", "forgotten", "rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	operator.write("rules.yml", string(rules))
	operator.write("lethe.yml", fmt.Sprintf("database: {url: %q}\nrules: rules.yml\nrecipients: [%s]\noperator_key: operator.key\nstores: [{url: %q}]\n",
		server.URL(live), strings.TrimSpace(string(recipient)), store))
	operator.run("init", "-q")
	operatorLine := strings.TrimSpace(operator.run("keygen", "operator", "--show", "operator.key"))
	signerLine := strings.TrimSpace(holder.run("keygen", "signer", "--output", "signer.key", "-q"))

	// Snapshots, and what of theirs each knew: SQL by hand is told of posts that are gone from one and known from another.
	var ids, known []string
	var sent []int64
	for n := range snapshots {
		if n > 0 {
			runPsql(t, live, "change.sql", fmt.Sprintf("people=%d", people), fmt.Sprintf("step=%d", n))
		}
		posts, err := server.Query(context.Background(), live, "SELECT id FROM posts WHERE author_id IN ("+strings.Join(forgottenIDs, ", ")+")")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range posts {
			known = append(known, p[0])
		}
		b := decode[struct {
			Snapshot string `json:"snapshot"`
			Uploaded int64  `json:"uploaded_bytes"`
		}](t, operator.run("backup", "-q", "--json"))
		ids, sent = append(ids, b.Snapshot), append(sent, b.Uploaded)
	}
	known = slices.Compact(slices.Sorted(slices.Values(known)))
	step("%d snapshots: the first has %d bytes, the %d others add %d", snapshots, sent[0], snapshots-1, sum(sent[1:]))
	if err := os.CopyFS(away, os.DirFS(store)); err != nil {
		t.Fatal(err)
	}

	// They ask to be erased: one is looked up by a mail address that stands nowhere then, two are known by key.
	email, err := server.Value(context.Background(), live, "SELECT email FROM users WHERE id = "+forgottenIDs[0])
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder // whatever must not name them
	hear := func(stdout, stderr string) string {
		said.WriteString(stdout + stderr)
		return stdout
	}
	hear(operator.attempt(0, email+"\n", "erasure", "request", "user", "--by", "email", "--ref", "GDPR-1"))
	hear(operator.attempt(0, "user:"+forgottenIDs[1]+",GDPR-2\n", "erasure", "request", "-"))
	hear(operator.attempt(0, "", "erasure", "request", "user:"+forgottenIDs[2], "--ref", "GDPR-3"))
	runPsql(t, live, "change.sql", fmt.Sprintf("people=%d", people), fmt.Sprintf("step=%d", snapshots))
	honouring := decode[struct {
		Snapshot string `json:"snapshot"`
	}](t, operator.run("backup", "-q", "--json")).Snapshot
	mustBe(t, "effective", hear(operator.attempt(0, "", "erasure", "list", "--json")))

	// The search finds all of them while they are there, everywhere.
	before := search(t, store, key)
	for n := range forgottenIDs {
		for _, place := range canaryPlaces {
			if before.found[fmt.Sprintf("%d.%s.", n+1, place)] == 0 {
				t.Errorf("before the purge nothing of person %d's %s is found", n+1, place)
			}
		}
	}
	if len(before.found) < 3*len(canaryPlaces) {
		t.Errorf("%d canaries are found, of %d", len(before.found), 3*len(canaryPlaces))
	}
	step("in %d files, %d of them objects, are %d canaries, in %d places", before.files, before.objects, len(before.found), sum(slices.Collect(maps.Values(before.found))))

	// The operator's machine is gone, and no database answers until something is restored.
	if err := os.Rename(operator.dir, operator.dir+".away"); err != nil {
		t.Fatal(err)
	}
	holder.write("lethe.yml", fmt.Sprintf("stores: [{url: %q}]\ntrusted_signers: [%s, %s]\n", store, operatorLine, signerLine))
	alone := &workplace{t: t, dir: holder.dir, env: bare(t, "PGHOST=/nonexistent")}
	alone.attempt(1, "", "erasure", "verify", "-q", "-i", "key.txt", "--signer", "signer.key") // they are still there

	// A restore leaves them out, whatever the snapshot's age.
	replayed := unusedDatabase(t)
	r := decode[struct {
		Replayed []string `json:"replayed"`
	}](t, holder.run("restore", ids[0], "-q", "--json", "-i", "key.txt", "--to", server.URL(replayed)))
	if !slices.Equal(r.Replayed, []string{"GDPR-1", "GDPR-2", "GDPR-3"}) {
		t.Errorf("replayed %v", r.Replayed)
	}
	step("a restore of the first snapshot has replayed %d erasures", len(r.Replayed))

	files := storedFiles(t, store)
	plan := decode[struct {
		Plan struct {
			Rows      int64    `json:"rows"`
			Rewritten int      `json:"rewritten"`
			Remarks   []string `json:"remarks"`
		} `json:"plan"`
	}](t, alone.run("erasure", "purge", "-n", "-q", "--json", "-i", "key.txt")).Plan
	if !slices.Equal(files, storedFiles(t, store)) {
		t.Error("a dry run has changed the store")
	}
	// Person 2 deleted a post, and the application has left a report about it. No backup can know whose that is.
	if !slices.ContainsFunc(plan.Remarks, func(r string) bool { return strings.Contains(r, "rows of theirs in reactions, reports, ") }) {
		t.Errorf("what the database has left is not told: %q", plan.Remarks)
	}
	purging := time.Now()
	purge := decode[struct {
		Stores []struct {
			Successors []struct{ Old, New string }
			Deleted    int
			Bytes      int64 `json:"deleted_bytes"`
		}
		Fetched int64 `json:"fetched_bytes"`
		Stored  int64 `json:"stored_bytes"`
	}](t, alone.run("erasure", "purge", "-q", "--json", "--yes", "--confirm-rows", strconv.FormatInt(plan.Rows, 10), "-i", "key.txt", "--signer", "signer.key"))
	purged := time.Since(purging)
	successor := map[string]string{}
	for _, s := range purge.Stores[0].Successors {
		successor[s.Old] = s.New
	}
	step("%d snapshots purged of up to %d rows in %.1f s: %d bytes read, %d written, %d objects of %d bytes deleted", len(successor), plan.Rows, purged.Seconds(),
		purge.Fetched, purge.Stored, purge.Stores[0].Deleted, purge.Stores[0].Bytes)

	// Nothing of them is in any file any more, for whoever holds the key.
	after := search(t, store, key)
	for c, n := range after.found {
		t.Errorf("%d files still hold %q", n, c)
	}
	if after.objects < before.objects/2 {
		t.Errorf("%d objects are left of %d", after.objects, before.objects)
	}
	step("in %d files, %d of them objects, are %d canaries", after.files, after.objects, len(after.found))
	values := "zqcanary\n" + strings.Join(strings.Fields(email), "\n") + "\n"
	alone.attempt(0, values, "erasure", "verify", "-", "-q", "-i", "key.txt", "--signer", "signer.key")
	alone.attempt(1, "p"+strconv.Itoa(people/4+1)+".users.email.\n", "erasure", "verify", "-", "-q", "-i", "key.txt", "--signer", "signer.key")
	step("verified")

	// Every snapshot is what SQL by hand makes of it, as it was.
	var compared, different int64
	constraints, neighbours := 0, 0
	newEmails, schema := "", schemaOf(t, live)
	oracle := "known_posts={" + strings.Join(known, ",") + "}"
	compare := func(what, restored string, want *database) {
		got := openDatabase(t, restored)
		defer got.close()
		emails := ""
		for _, r := range got.exec("SELECT email FROM users WHERE id IN (" + strings.Join(forgottenIDs, ", ") + ") ORDER BY id") {
			if !strings.HasSuffix(r[0], ".invalid") {
				t.Errorf("%s: an erased person's mail address is no made-up one", what)
			}
			emails += r[0] + " "
		}
		if newEmails == "" {
			newEmails = emails
		}
		if emails != newEmails || len(slices.Compact(strings.Fields(emails))) != 3 {
			t.Errorf("%s: the addresses made up are other ones than in the first snapshot, or the same for two people", what)
		}
		constraints = got.mustBeValid()
		if schemaOf(t, restored) != schema {
			t.Errorf("%s: pg_dump prints another schema", what)
		}
		got.exec("UPDATE users SET email = 'erased-' || id WHERE email LIKE '%.invalid'")
		all, other := got.mustEqual(want, what)
		compared, different = compared+all, different+other
	}
	for n, id := range append(slices.Clone(ids), honouring) {
		now := id
		if successor[id] != "" {
			now = successor[id]
		} else if n < snapshots {
			t.Errorf("snapshot %d was not rewritten", n+1)
		}
		restored := unusedDatabase(t)
		holder.run("restore", now, "-q", "-i", "key.txt", "--to", server.URL(restored))
		var as string
		if n < snapshots {
			as = pgtest.DBName(t)
			restoreByHand(t, away, id, key, as)
		} else { // it never held them: the database as it is, without what no snapshot has
			as = pgtest.DBName(t, "TEMPLATE", live)
			if err := server.Exec(context.Background(), as, "UPDATE users SET reset_token = NULL; DELETE FROM sessions"); err != nil {
				t.Fatal(err)
			}
		}
		want := openDatabase(t, as)
		if n < snapshots {
			got := openDatabase(t, restored)
			for i := range 3 {
				them := people/4*(i+1) + 1
				was, is := want.rowsOf(them), got.rowsOf(them)
				for table := range was {
					if !slices.Equal(was[table], is[table]) {
						t.Errorf("snapshot %d: the neighbour's rows of %s were\n%q, and are\n%q", n+1, table, was[table], is[table])
					}
					neighbours += len(was[table])
				}
				if len(was) < 15 || len(is) != len(was) {
					t.Errorf("snapshot %d: the neighbour has rows in %d tables, %d of them before", n+1, len(is), len(was))
				}
			}
			got.close()
		}
		runPsql(t, as, "oracle.sql", oracle)
		if n == 0 {
			compare("the replay", replayed, want)
			dropDatabases(t, replayed)
		}
		compare(fmt.Sprintf("snapshot %d", n+1), restored, want)
		want.close()
		dropDatabases(t, as, restored)
		step("%d of %d snapshots restored: of %d lines compared %d differ", n+1, snapshots+1, compared, different)
	}

	// It can be shown. Nothing that shows it names them.
	mustBe(t, "verified", hear(alone.attempt(0, "", "erasure", "list", "--json", "-i", "key.txt")))
	hear(alone.attempt(0, "", "erasure", "list", "-v", "-i", "key.txt"))
	desk := &workplace{t: t, dir: t.TempDir(), env: bare(t, "PGHOST=/nonexistent")}
	for n := range forgottenIDs {
		ref, name := fmt.Sprintf("GDPR-%d", n+1), fmt.Sprintf("certificate-%d", n+1)
		hear(alone.attempt(0, "", "erasure", "certificate", ref, "-o", filepath.Join(desk.dir, name), "-i", "key.txt", "--signer", "signer.key"))
		checked := hear(desk.attempt(0, "", "erasure", "certificate", "--verify", name+".json", "--trust", signerLine))
		if !strings.HasPrefix(checked, ref+": verified, ") {
			t.Errorf("the certificate says %q", checked)
		}
		for _, ending := range []string{".json", ".html"} {
			text, err := os.ReadFile(filepath.Join(desk.dir, name+ending))
			if err != nil {
				t.Fatal(err)
			}
			said.Write(text)
		}
	}
	for _, id := range forgottenIDs {
		if strings.Contains(said.String(), id) {
			t.Errorf("%s is named", id)
		}
	}
	if strings.Contains(said.String(), "zqcanary") {
		t.Error("something of theirs is printed")
	}

	// The operator goes on, once it believes who purged.
	if err := os.Rename(operator.dir+".away", operator.dir); err != nil {
		t.Fatal(err)
	}
	configured, err := os.ReadFile(filepath.Join(operator.dir, "lethe.yml"))
	if err != nil {
		t.Fatal(err)
	}
	operator.write("lethe.yml", string(configured)+"trusted_signers: ["+signerLine+"]\n")
	// What the application has left is deleted, as purge has said: nothing knows any more whose it is.
	for _, table := range []string{"reports", "reactions"} {
		if err := server.Exec(context.Background(), live, "DELETE FROM "+table+" t WHERE kind = 'Post' AND NOT EXISTS (SELECT FROM posts WHERE id = t.target_id)"); err != nil {
			t.Fatal(err)
		}
	}
	runPsql(t, live, "change.sql", fmt.Sprintf("people=%d", people), fmt.Sprintf("step=%d", snapshots+1))
	files = storedFiles(t, store)
	operator.run("backup", "-q")
	mustBe(t, "verified", operator.run("erasure", "list", "--json"))
	if left := search(t, store, key, files...); len(left.found) > 0 || left.objects == 0 {
		t.Errorf("in %d new objects, the next backup brings back %v", left.objects, left.found)
	}

	t.Logf(`
people %d, erased 3; snapshots %d before the requests, 1 after
canaries found before the purge: %d, in %d places, of %d files (%d objects, %d bytes of text)
canaries found after the purge:  %d, of %d files (%d objects, %d bytes of text)
purge: %.1f s, %d snapshots rewritten, %d bytes of objects read, %d written, %d objects (%d bytes) deleted
restored and compared with SQL by hand: %d lines, of which %d differ; %d constraints valid in each; rows of neighbours: %d, unchanged
all of it took %.0f s`,
		people, snapshots, len(before.found), sum(slices.Collect(maps.Values(before.found))), before.files, before.objects, before.bytes,
		len(after.found), after.files, after.objects, after.bytes,
		purged.Seconds(), len(successor), purge.Fetched, purge.Stored, purge.Stores[0].Deleted, purge.Stores[0].Bytes,
		compared, different, constraints, neighbours, time.Since(began).Seconds())
}

func sum[N int | int64](list []N) (total N) {
	for _, n := range list {
		total += n
	}
	return total
}

// mustBe sees that lethe erasure list --json has all three in one state, and prints no key.
func mustBe(t *testing.T, state, printed string) {
	t.Helper()
	list := decode[struct {
		Requests []struct{ Ref, State string }
	}](t, printed)
	for _, r := range list.Requests {
		if r.State != state {
			t.Errorf("%s is %s, want %s", r.Ref, r.State, state)
		}
	}
	if len(list.Requests) != 3 {
		t.Errorf("%d requests", len(list.Requests))
	}
}

// unusedDatabase is the name of a database that is not there, and is dropped in the end.
func unusedDatabase(t *testing.T) string {
	t.Helper()
	name := pgtest.DBName(t)
	dropDatabases(t, name)
	return name
}

func dropDatabases(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := pgtest.Server(t).DropDatabase(context.Background(), name); err != nil {
			t.Fatal(err)
		}
	}
}

// storedFiles are the files below a folder, in order.
func storedFiles(t *testing.T, folder string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
