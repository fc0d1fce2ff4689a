package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"filippo.io/age"
)

// The person who is erased: their account's id, their number as a customer, and everything else that says who they
// are. Marks stand in whatever they wrote, sent or did.
const (
	personID   = "3f2c9a70-6a51-4f0e-9d33-0b1e5c7a8d42"
	customerID = "1137"
)

var person = []struct{ what, text string }{
	{"id", personID},
	{"username", "ottilie_b"},
	{"full name", "Ottilie Brandvold"},
	{"surname", "Brandvold"},
	{"e-mail address", "ottilie.brandvold@mail.example"},
	{"phone number", "+46 70 174 06 99"},
	{"IBAN", "SE3550000000054910000003"},
	{"IP address", "198.18.77.9"},
	{"marks in texts, JSON and files", "zq-canary"},
}

// secretAddress stands in by-hand.sql for the address that the rules make with a secret key.
const secretAddress = "made-with-a-secret-key@example.invalid"

// prove checks, without any of Lethe's code, what the demo claims.
func (d *demo) prove(ctx context.Context) error {
	before, err := read(ctx, d.server, source)
	if err != nil {
		return err
	}
	after, err := read(ctx, d.server, restored)
	if err != nil {
		return err
	}
	if err := d.personIsGone(ctx, before, after); err != nil {
		return err
	}
	if err := d.othersAreUnchanged(ctx, before, after); err != nil {
		return err
	}
	if err := d.operatorCannotRead(ctx); err != nil {
		return err
	}
	return d.storeShowsNothing(ctx)
}

// personIsGone looks for one person in every row of a database, and in its files.
func (d *demo) personIsGone(ctx context.Context, before, after contents) error {
	d.heading("6. Is she gone? Every row of every table, searched as text by plain SQL")
	d.say("  %-32s %12s %8s %14s", "Ottilie's", "rows before", "tables", "rows restored")
	var found, unknown []string
	for _, p := range person {
		rows, tables := before.find(p.text)
		left, leftTables := after.find(p.text)
		d.say("  %-32s %12d %8d %14d", p.what, rows, tables, left)
		if left > 0 {
			found = append(found, fmt.Sprintf("her %s is in %d rows of %d tables", p.what, left, leftTables))
		}
		if rows == 0 {
			unknown = append(unknown, "her "+p.what+" is not in the source: nothing was shown")
		}
	}
	d.say("")
	d.check(len(unknown) == 0, "all of it is in the source, so a search can find it", unknown...)
	d.check(len(found) == 0, fmt.Sprintf("none of it is in the %d tables and views and the large objects restored", len(after.names())), found...)

	if err := d.server.Exec(ctx, restored, "CHECKPOINT"); err != nil {
		return err
	}
	_, inSource, err := d.searchFiles(ctx, source)
	if err != nil {
		return err
	}
	files, inRestored, err := d.searchFiles(ctx, restored)
	if err != nil {
		return err
	}
	d.check(len(inSource) == len(person), "PostgreSQL's files of the source hold it, byte by byte", "only: "+strings.Join(inSource, ", "))
	d.check(len(inRestored) == 0, fmt.Sprintf("those of the restored database do not: %d files of rows, indexes and statistics", files), "found: "+strings.Join(inRestored, ", "))

	kept, err := d.payments(ctx, restored)
	if err != nil {
		return err
	}
	expected, err := d.payments(ctx, source)
	if err != nil {
		return err
	}
	d.check(kept.total == expected.total && expected.named && !kept.named,
		fmt.Sprintf("what the law keeps is kept: customer %s, %s, without name and IBAN", customerID, kept.total),
		"before: "+expected.total, "restored: "+kept.total)
	return nil
}

type payments struct {
	total string // how many payments, and of how much
	named bool   // whether card holder or IBAN is known
}

func (d *demo) payments(ctx context.Context, db string) (payments, error) {
	rows, err := d.server.Query(ctx, db, `SELECT count(*) || ' payments of ' || coalesce(sum(amount), 0), count(card_holder) + count(iban) > 0
		FROM payments WHERE customer_id = `+customerID)
	if err != nil {
		return payments{}, err
	}
	return payments{total: rows[0][0], named: rows[0][1] == "t"}, nil
}

// searchFiles looks for the person in the files in which PostgreSQL keeps a database, and returns what it found.
func (d *demo) searchFiles(ctx context.Context, db string) (files int, found []string, err error) {
	where, err := d.server.Query(ctx, db, "SELECT current_setting('data_directory'), oid FROM pg_database WHERE datname = current_database()")
	if err != nil {
		return 0, nil, err
	}
	hits := map[string]bool{}
	err = filepath.WalkDir(filepath.Join(where[0][0], "base", where[0][1]), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for _, p := range person {
			if bytes.Contains(data, []byte(p.text)) || bytes.Contains(data, stored(p.what, p.text)) {
				hits[p.what] = true
			}
		}
		return nil
	})
	for _, p := range person {
		if hits[p.what] {
			found = append(found, p.what)
		}
	}
	return files, found, err
}

// stored is a value as PostgreSQL keeps it on a page where that is not its text.
func stored(what, text string) []byte {
	switch what {
	case "id":
		if id, err := hex.DecodeString(strings.ReplaceAll(text, "-", "")); err == nil {
			return id
		}
	case "IP address":
		return []byte{2, 32, 198, 18, 77, 9} // family, bits, address
	}
	return []byte(text)
}

// othersAreUnchanged compares the restored database, row for row, with a copy of the source on which SQL written by
// hand did what the rules say.
func (d *demo) othersAreUnchanged(ctx context.Context, before, after contents) error {
	d.heading("7. Is everybody else as before? The same rules, done by hand in SQL on a plain copy")
	if err := d.command(ctx, "createdb", "--template", source, byHand); err != nil {
		return err
	}
	if err := d.command(ctx, "psql", "-X", "-q", "-f", "by-hand.sql", byHand); err != nil {
		return err
	}
	want, err := read(ctx, d.server, byHand)
	if err != nil {
		return err
	}
	address, err := d.server.Query(ctx, restored, "SELECT billing_email FROM customers WHERE id = "+customerID)
	if err != nil {
		return err
	}
	// What is compared are copies, so that contents stay what was read.
	customers := slices.Clone(after["customers"])
	if len(address) == 1 && strings.HasSuffix(address[0][0], ".invalid") {
		for i, r := range customers {
			customers[i] = strings.ReplaceAll(r, address[0][0], secretAddress)
		}
	}
	compared := contents{}
	for name, rows := range after {
		compared[name] = rows
	}
	compared["customers"] = customers

	d.say("")
	d.say("  %-18s %8s %9s %12s %14s %9s", "table", "before", "restored", "as before", "rules rewrote", "left out")
	var total [5]int
	for _, t := range before.names() {
		same := common(before[t], after[t])
		n := [5]int{len(before[t]), len(after[t]), same, len(after[t]) - same, len(before[t]) - len(after[t])}
		d.say("  %-18s %8d %9d %12d %14d %9d", t, n[0], n[1], n[2], n[3], n[4])
		for i := range total {
			total[i] += n[i]
		}
	}
	d.say("  %-18s %8d %9d %12d %14d %9d", "", total[0], total[1], total[2], total[3], total[4])
	d.say("")
	d.say("Left out: what was hers, what stood under it (comments on her tracks), and everybody's sessions.")
	d.say("Rewritten: references to her, and for everybody birthdays, IP addresses and reset tokens.")
	d.say("")

	d.check(slices.Equal(want.names(), after.names()), fmt.Sprintf("the same %d tables and views", len(want.names())))
	d.check(len(difference(want, compared)) == 0, fmt.Sprintf("every row equals the one that SQL by hand leaves, and no other is there: %d rows", total[1]),
		difference(want, compared)...)
	d.check(common(want[largeObjects], after[largeObjects]) == len(want[largeObjects]) && len(want[largeObjects]) == len(after[largeObjects]),
		fmt.Sprintf("so does every large object: %d avatars of %d", len(after[largeObjects]), len(before[largeObjects])))
	d.check(slices.Equal(sorted(want[sequences]), sorted(after[sequences])), fmt.Sprintf("so does every sequence: %d of them", len(after[sequences])))

	handDDL, err := d.schema(ctx, byHand)
	if err != nil {
		return err
	}
	restoredDDL, err := d.schema(ctx, restored)
	if err != nil {
		return err
	}
	d.check(slices.Equal(handDDL, restoredDDL), fmt.Sprintf("pg_dump prints the same schema, line by line: %d lines", len(restoredDDL)))
	return nil
}

// difference names the tables whose rows differ, and by how many.
func difference(want, got contents) []string {
	var lines []string
	for _, t := range want.names() {
		same := common(want[t], got[t])
		if missing, extra := len(want[t])-same, len(got[t])-same; missing+extra > 0 {
			lines = append(lines, fmt.Sprintf("%s: %d rows are missing, %d should not be there", t, missing, extra))
		}
	}
	return lines
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

// schema returns what pg_dump says of a database's schema, without comments and the random \restrict lines.
func (d *demo) schema(ctx context.Context, db string) ([]string, error) {
	cmd := exec.CommandContext(ctx, d.server.Tool("pg_dump"), "--schema-only", "--dbname", db)
	cmd.Env = d.env
	var errText strings.Builder
	cmd.Stderr = &errText
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("dump the schema of %s: %w\n%s", db, err, errText.String())
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimRight(line, "\n")
		if line != "" && !strings.HasPrefix(line, "--") && !strings.HasPrefix(line, `\`) {
			lines = append(lines, line)
		}
	}
	return lines, nil
}

var namedSnapshot = regexp.MustCompile(`[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}`)

var ageSecret = regexp.MustCompile(`AGE-SECRET-KEY-\S+`)

// operatorCannotRead tries the secret of the machine that makes backups on the backups.
func (d *demo) operatorCannotRead(ctx context.Context) error {
	d.heading("8. Somebody steals the server's own key: can they read the backups?")
	key, err := os.ReadFile(filepath.Join(d.dir, "operator.key"))
	if err != nil {
		return err
	}
	d.shell("grep -o 'AGE-SECRET-KEY-.*' operator.key > stolen.txt")
	secrets := strings.Join(ageSecret.FindAllString(string(key), -1), "\n") + "\n"
	if err := d.write("stolen.txt", secrets); err != nil {
		return err
	}
	databases, err := d.databases(ctx)
	if err != nil {
		return err
	}
	code, output, err := d.attempt(ctx, "lethe", "restore", "latest", "--identity", "stolen.txt", "--to", "postgres:///stolen")
	if err != nil {
		return err
	}
	still, err := d.databases(ctx)
	if err != nil {
		return err
	}
	d.check(code == 2 && strings.Contains(output, "none of the identities given can decrypt it"),
		"lethe restore refuses that key: exit code 2", fmt.Sprintf("exit code %d", code))
	d.check(slices.Equal(databases, still), "and no database came of it")

	stolen, err := age.ParseIdentities(strings.NewReader(secrets))
	if err != nil {
		return fmt.Errorf("read the operator's age identities: %w", err)
	}
	holder, err := d.holder()
	if err != nil {
		return err
	}
	objects, err := d.files("store/objects/*/*")
	if err != nil {
		return err
	}
	manifests, err := d.files("store/snapshots/*.age")
	if err != nil {
		return err
	}
	n := map[string]int{}
	for what, try := range map[string]struct {
		files []string
		ids   []age.Identity
	}{"objects, stolen": {objects, stolen}, "objects, holder": {objects, holder}, "manifests, stolen": {manifests, stolen}} {
		for _, f := range try.files {
			opened, err := opens(f, try.ids)
			if err != nil {
				return err
			}
			if opened {
				n[what]++
			}
		}
	}
	d.check(n["objects, stolen"] == 0 && len(objects) > 0, fmt.Sprintf("age opens none of the %d objects with any of its %d identities", len(objects), len(stolen)),
		fmt.Sprintf("it opens %d", n["objects, stolen"]))
	d.check(n["objects, holder"] == len(objects), "and all of them with the key holder's", fmt.Sprintf("only %d of %d", n["objects, holder"], len(objects)))
	d.check(n["manifests, stolen"] == len(manifests), fmt.Sprintf("it does open the %d manifests: names and sizes of tables, no rows", len(manifests)))
	return nil
}

// holder reads the key holder's identity.
func (d *demo) holder() ([]age.Identity, error) {
	text, err := os.ReadFile(filepath.Join(d.dir, "keyholder", "key.txt"))
	if err != nil {
		return nil, err
	}
	ids, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("read the key holder's age identity: %w", err)
	}
	return ids, nil
}

// opens says whether the age library decrypts a file with one of the identities.
func opens(path string, ids []age.Identity) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	r, err := age.Decrypt(f, ids...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return false, nil
	}
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	if err != nil {
		return false, fmt.Errorf("decrypt %s: %w", filepath.Base(path), err)
	}
	return true, nil
}

func (d *demo) files(pattern string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(d.dir, pattern))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("there is no %s in the playground", pattern)
	}
	return files, err
}

func (d *demo) databases(ctx context.Context) ([]string, error) {
	rows, err := d.server.Query(ctx, "postgres", "SELECT datname FROM pg_database ORDER BY 1")
	if err != nil {
		return nil, fmt.Errorf("list the databases: %w", err)
	}
	names := make([]string, len(rows))
	for i, r := range rows {
		names[i] = r[0]
	}
	return names, nil
}

// storeShowsNothing searches the repository's files for plain text of anybody, and lethe's messages for the person.
func (d *demo) storeShowsNothing(ctx context.Context) error {
	people, err := d.server.Query(ctx, source, `SELECT unnest(ARRAY[id::text, email, username, full_name]) FROM users`)
	if err != nil {
		return err
	}
	texts := []string{"zq-canary", "CREATE TABLE", "playlist_items"}
	for _, p := range people {
		texts = append(texts, p[0])
	}
	files, found := 0, []string{}
	err = filepath.WalkDir(filepath.Join(d.dir, "store"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for _, t := range texts {
			if bytes.Contains(data, []byte(t)) || strings.Contains(path, t) {
				found = append(found, fmt.Sprintf("%s holds %q", entry.Name(), t))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.check(len(found) == 0, fmt.Sprintf("none of the %d files in the store holds a name, an address, an id or a word of SQL", files), found...)

	var named []string
	for _, p := range person {
		if strings.Contains(d.printed.String(), p.text) {
			named = append(named, "her "+p.what)
		}
	}
	d.check(len(named) == 0, "and nothing of hers is in what lethe has printed above", named...)
	return nil
}

// damageIsCaught flips one bit of a copy of the repository.
func (d *demo) damageIsCaught(ctx context.Context) error {
	d.heading("10. One byte of a stored object is flipped: is it noticed?")
	if err := d.command(ctx, "cp", "-r", "store", "damaged"); err != nil {
		return err
	}
	objects, err := d.files("damaged/objects/*/*")
	if err != nil {
		return err
	}
	// The largest is a piece of a table: filters, which restore does not read, are small.
	var data []byte
	var victim string
	for _, name := range objects {
		object, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if len(object) > len(data) {
			victim, data = name, object
		}
	}
	at := len(data) / 2
	data[at] ^= 1
	if err := os.Chmod(victim, 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(victim, data, 0o600); err != nil {
		return fmt.Errorf("damage an object: %w", err)
	}
	d.say("  (and the last bit of byte %d of the largest object in it is flipped)", at)
	d.say("")
	name := filepath.Base(victim)

	code, output, err := d.attempt(ctx, "lethe", "check", "--store", "damaged", "--read-data", "all")
	if err != nil {
		return err
	}
	checked := code == 6 && strings.Contains(output, name)
	snapshot := "latest"
	if m := namedSnapshot.FindString(output); m != "" {
		snapshot = m
	}
	databases, err := d.databases(ctx)
	if err != nil {
		return err
	}
	code, output, err = d.attempt(ctx, "lethe", "restore", snapshot, "--store", "damaged", "-i", "keyholder/key.txt", "--to", "postgres:///half")
	if err != nil {
		return err
	}
	still, err := d.databases(ctx)
	if err != nil {
		return err
	}
	d.check(checked, "lethe check names the object: exit code 6")
	d.check(code == 6 && strings.Contains(output, name), "so does lethe restore: exit code 6")
	d.check(slices.Equal(databases, still), "and no half restored database is left behind", "there now: "+strings.Join(still, ", "))
	return nil
}
