package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/store"
)

// verifying is a full reading of what a store holds.
func (s *site) verifying(signer *archive.SigningKey, in store.Store) pipeline.VerifyConfig {
	s.t.Helper()
	r, err := pipeline.OpenRepository(context.Background(), in, archive.NewTrust(s.operator.Public(), signer.Public()))
	if err != nil {
		s.t.Fatal(err)
	}
	return pipeline.VerifyConfig{Repository: r, Identities: s.holder, Signer: signer, Workers: 2, Tool: "test", Now: time.Now}
}

func verify(t testing.TB, c pipeline.VerifyConfig) *pipeline.VerifyReport {
	t.Helper()
	report, err := pipeline.Verify(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// said is findings as lines, with the snapshots counted.
func said(findings []pipeline.Finding) (lines []string) {
	for _, f := range findings {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %d %s %s %s: %d in %d", f.Ref, f.Lookup, f.Part, f.Column, f.Problem, f.Count, len(f.Snapshots))))
	}
	return lines
}

// Before a purge the people are found where they are, and no proof is written; after it nothing is found, and a proof
// says so, signed, by the digests of what was read.
func TestVerify(t *testing.T) {
	s := newSite(t, fewPeople+"ALTER TABLE posts ALTER user_id DROP NOT NULL; CREATE TABLE payments (id int PRIMARY KEY, user_id int REFERENCES users, iban text); INSERT INTO payments SELECT i, i, 'IBAN ' || i FROM generate_series(1, 300) i; COMMENT ON TABLE payments IS 'of User 7 and others'")
	text := strings.Replace(fewPeopleRules, "erase:", "erase:\n  payments: {keep: user_id, redact: {iban: {regex: {match: '[0-9]', replace: xx}}}, reason: the law}", 1)
	s.rules = withoutRequests(text)
	s.backup()
	s.sql("DELETE FROM comments WHERE id = 6")
	s.backup()
	s.recordAll(text, s.store)
	signer := signed(t)
	c := s.verifying(signer, s.store)
	c.Lookups = []string{"User 7@example.org", " photo 7\n"}
	report := verify(t, c)
	for _, want := range []string{"2 large-objects  holds a value that was searched for: 1 in 2", "R-1 0 comments  still references a person: 5 in 2",
		"R-1 0 posts  should have been deleted: 4 in 2", "R-2 0 payments  should have been redacted: 2 in 2", "R-2 0 users  should have been redacted: 2 in 2"} {
		if !slices.Contains(said(report.Findings), want) {
			t.Errorf("%q is not among %q", want, said(report.Findings))
		}
	}
	if report.Proof != "" || len(names(t, s.store, archive.ProofsPrefix)) > 0 {
		t.Error("a proof was written although somebody is there")
	}

	head := s.ledger(s.store).Head()
	purge(t, s.purging(signer, s.store))
	c = s.verifying(signer, s.store)
	c.Lookups = []string{"user7@EXAMPLE.org", "photo 7;", "user299@example.org"}
	report = verify(t, c)
	if len(report.Findings) > 0 || report.Proof == "" || report.Kept != 4 {
		t.Fatalf("%q, proof %q, %d rows kept", said(report.Findings), report.Proof, report.Kept)
	}
	data := s.read(report.Proof)
	if _, err := archive.NewTrust(signer.Public()).Verify(archive.PurposeProof, c.Repository.ID, report.Proof, data, s.read(report.Proof+archive.SignatureSuffix)); err != nil {
		t.Error(err)
	}
	proof, err := archive.ReadProof(c.Repository.ID, report.Proof, data)
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range proof.Snapshots {
		if got := archive.Digest(s.read(archive.ManifestName(ref.ID))); got != ref.Digest {
			t.Errorf("%s has the digest %s, the proof says %s", ref.ID, got, ref.Digest)
		}
	}
	objects := map[string]bool{}
	var rows int64
	for _, name := range manifests(t, s.store) {
		id, _ := archive.SnapshotOf(name)
		for _, p := range s.manifest(c.Repository, id, s.holder).Parts {
			for _, o := range p.Objects {
				if !objects[o.Object] {
					rows += o.Rows
				}
				objects[o.Object] = true
			}
		}
	}
	if len(proof.Snapshots) != 2 || len(proof.Requests) != 3 || *proof.Ledger != *head || proof.Objects != int64(len(objects)) || proof.Rows != rows || proof.Lookups != 3 {
		t.Errorf("%+v; %d objects with %d rows are there", proof, len(objects), rows)
	}
	for _, text := range []string{`"7"`, "user7", `\b0?299\b`, "example"} { // digests have digits too, among others
		if regexp.MustCompile(text).Match(data) {
			t.Errorf("the proof holds %s: %s", text, data)
		}
	}

	// What no rule names is found by its value, and named by table and column.
	c.Lookups = []string{"of user 7 and", "post 6"}
	report = verify(t, c)
	lines := said(report.Findings)
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "1 pre-data  holds") || !strings.HasPrefix(lines[1], "2 posts body holds") || report.Proof != "" {
		t.Errorf("%q", lines)
	}
	for _, text := range lines {
		if strings.Contains(text, "user 7") {
			t.Errorf("the finding says what was searched for: %s", text)
		}
	}
}

// A value is found in every form in which a snapshot may hold it.
func TestVerifyFindsEveryForm(t *testing.T) {
	const value = `O'Br\ien "Zoë" <z@example.org>`
	s := newSite(t, `CREATE TABLE a (plain text, upper text, doc jsonb, old json, bin bytea, list text[], id int PRIMARY KEY);`)
	sqlText := "'" + strings.ReplaceAll(value, "'", "''") + "'"
	s.sql("INSERT INTO a (id, plain) VALUES (1, 'x' || " + sqlText + ")")
	s.sql("INSERT INTO a (id, upper) VALUES (2, replace(upper(" + sqlText + "), 'Ë', 'ë'))")
	s.sql("INSERT INTO a (id, doc) VALUES (3, jsonb_build_object('k', " + sqlText + "))")
	s.sql(`INSERT INTO a (id, old) VALUES (4, '{"k": "O''Br\\ien \"Zo\u00EB\" \u003cz@example.org\u003e"}'), (5, '{"k": "O''Br\\ien \"Zo\u00eb\" <z@example.org>"}')`)
	s.sql("INSERT INTO a (id, bin) VALUES (6, convert_to(" + sqlText + ", 'UTF8'))")
	s.sql("INSERT INTO a (id, list) VALUES (7, ARRAY[" + sqlText + "])")
	s.sql("SELECT lo_from_bytea(4711, convert_to(repeat('x', 262140) || " + sqlText + ", 'UTF8'))") // across the end of a chunk
	s.sql("COMMENT ON TABLE a IS " + sqlText)
	s.sql("COMMENT ON LARGE OBJECT 4711 IS " + sqlText)
	s.sql("ALTER TABLE a ALTER plain SET DEFAULT " + sqlText)
	s.backup()
	signer := signed(t)
	c := s.verifying(signer, s.store)
	c.Lookups = []string{value}
	got := map[string]int64{}
	for _, f := range verify(t, c).Findings {
		got[f.Part+" "+f.Column] += f.Count
	}
	for _, want := range []string{"a plain", "a upper", "a doc", "a old", "a bin", "a list", "large-objects ", "pre-data "} {
		if got[want] == 0 {
			t.Errorf("it is not found in %s; found %v", want, got)
		}
	}
	if got["a old"] < 2 || got["pre-data "] < 2 {
		t.Errorf("found %v", got)
	}
}

// A value is searched for as the rows' encoding writes it.
func TestVerifyInAnotherEncoding(t *testing.T) {
	db := pgtest.DBName(t, "TEMPLATE template0", "ENCODING 'LATIN1'", "LOCALE 'C'")
	s := siteOf(t, pgtest.Server(t).URL(db))
	s.sql("CREATE TABLE a (v text, d json); INSERT INTO a VALUES ('by Zo' || chr(235), '{\"k\": \"Zo\\u00eb\"}')")
	s.backup()
	c := s.verifying(signed(t), s.store)
	c.Lookups = []string{"Zoë", "Zoя"}
	if lines := said(verify(t, c).Findings); len(lines) != 2 || !strings.HasPrefix(lines[0], "1 a d holds") || !strings.HasPrefix(lines[1], "1 a v holds") {
		t.Errorf("%q", lines)
	}
}

// Values that are no help are refused, and never shown.
func TestVerifyRefusesValues(t *testing.T) {
	s := newSite(t, twoTables)
	s.backup()
	for _, value := range []string{"", "x7", " \t\n", "\xff\xfe\xfd\xfc", "a\x00bc"} {
		c := s.verifying(signed(t), s.store)
		c.Lookups = []string{"fine", value}
		if _, err := pipeline.Verify(context.Background(), c); !errors.Is(err, pipeline.ErrConfig) || !strings.Contains(err.Error(), "value 2") || strings.Contains(err.Error(), "x7") {
			t.Errorf("%q: error %v", value, err)
		}
	}
}

// What can't be read is no proof that nobody is in it.
func TestVerifyOfDamage(t *testing.T) {
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	id := s.backup()
	m := s.manifest(s.open(), id, s.holder)
	s.recordAll(twoTablesRules, s.store)
	signer := signed(t)
	purge(t, s.purging(signer, s.store))
	for _, kind := range []archive.PartKind{archive.Sequences, archive.Globals, archive.PostData} {
		i := slices.IndexFunc(m.Parts, func(p archive.Part) bool { return p.Kind == kind && len(p.Objects) > 0 })
		name := archive.ObjectName(m.Parts[i].Objects[0].Object)
		data := s.read(name)
		s.write(name, data[:len(data)-1])
		if _, err := pipeline.Verify(context.Background(), s.verifying(signer, s.store)); !errors.Is(err, pipeline.ErrIntegrity) {
			t.Errorf("%s is damaged: %v", kind, err)
		}
		s.write(name, data)
	}
	if left := names(t, s.store, archive.ProofsPrefix); len(left) > 0 {
		t.Errorf("%v", left)
	}
}

// Whoever has another key in an older schema is not found there by today's: no proof says that they are gone.
func TestVerifyProvesNothingOfKeysThatDoNotFit(t *testing.T) {
	s := newSite(t, `CREATE TABLE users (id text PRIMARY KEY, name text); INSERT INTO users SELECT i, 'name ' || i FROM generate_series(1, 20) i; ALTER TABLE users ALTER id TYPE int USING id::int`)
	s.rules = "version: 1\ndataset: slipmat\ndrift: pass\nsubjects: {user: {table: users, key: id}}\nerase: {users: {delete: true}}\n"
	s.backup()
	s.sql("ALTER TABLE users ALTER id TYPE uuid USING md5(id::text)::uuid")
	s.backup()
	if _, err := s.record([]pipeline.NewRequest{{Subject: "user", Key: "8f14e45f-ceea-167a-5a36-dedd4bea2543", Ref: "R-1"}}, s.store); err != nil { // the md5 of 7
		t.Fatal(err)
	}
	signer := signed(t)
	purge(t, s.purging(signer, s.store))
	c := s.verifying(signer, s.store)
	report := verify(t, c)
	if len(report.Findings) > 0 || len(report.Requests) > 0 || len(report.Remarks) != 1 || !strings.Contains(report.Remarks[0], "request R-1 is about nobody in snapshot ") {
		t.Errorf("%+v", report)
	}
	proven, err := pipeline.Proven(context.Background(), []*pipeline.Repository{c.Repository}, s.holder)
	if err != nil || proven(1) {
		t.Errorf("proven: %v, %v; name 7 is in the older snapshot", proven(1), err)
	}
}

// A request counts as verified as long as what was read is what is there, and what came since honours it.
func TestProven(t *testing.T) {
	ctx := context.Background()
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	s.backup()
	s.recordAll(twoTablesRules, s.store)
	signer := signed(t)
	is := func(what string, want bool, trust ...archive.PublicKey) {
		t.Helper()
		r, err := pipeline.OpenRepository(ctx, s.store, archive.NewTrust(append(trust, s.operator.Public())...))
		if err != nil {
			t.Fatal(err)
		}
		proven, err := pipeline.Proven(ctx, []*pipeline.Repository{r}, s.operator.Identities())
		if err != nil {
			t.Fatal(err)
		}
		if proven(1) != want || proven(2) {
			t.Errorf("%s: request 1 is proven: %v, request 2: %v", what, proven(1), proven(2))
		}
	}
	is("nothing was verified", false, signer.Public())
	purge(t, s.purging(signer, s.store))
	is("purged", false, signer.Public())
	verify(t, s.verifying(signer, s.store))
	is("verified", true, signer.Public())
	s.backup()
	is("and backed up", true, signer.Public())
	s.rules = strings.Replace(s.rules, "{value: nobody}", "{value: nobody else}", 1)
	s.backup()
	purge(t, s.purging(signer, s.store)) // by other rules: the snapshot that was read is another one
	is("rewritten since", false, signer.Public())
	verify(t, s.verifying(signer, s.store))
	is("verified again", true, signer.Public())
	stranger := signed(t)
	for _, name := range names(t, s.store, archive.ProofsPrefix) {
		if _, ok := archive.ProofOf(name); !ok {
			continue
		}
		sig, err := archive.Sign(stranger, archive.PurposeProof, s.open().ID, name, s.read(name))
		if err != nil {
			t.Fatal(err)
		}
		s.write(name+archive.SignatureSuffix, sig)
	}
	is("signed by a stranger", false, signer.Public())
}
