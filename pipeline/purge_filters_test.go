package pipeline_test

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"lethe/pipeline/archive"
	"lethe/scrub"
	"lethe/scrub/copytext"
)

// manyPosts is some ten pieces of posts, in which each person's stand together, and as many of comments, in which they are
// spread.
const manyPosts = `CREATE TABLE users (id int PRIMARY KEY, name text);
CREATE TABLE posts (id int PRIMARY KEY, user_id int NOT NULL REFERENCES users ON DELETE CASCADE, body text);
CREATE TABLE comments (id int PRIMARY KEY, post_id int REFERENCES posts ON DELETE CASCADE, user_id int REFERENCES users ON DELETE SET NULL, body text);
INSERT INTO users SELECT i, 'name ' || i FROM generate_series(1, 600) i;
INSERT INTO posts SELECT i, 1 + (i - 1) / 10, (SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 40) j) FROM generate_series(1, 6000) i;
INSERT INTO comments SELECT i, 1 + i * 7919 % 6000, 1 + i * 7907 % 600, (SELECT string_agg(md5(i::text || 'c' || j), '') FROM generate_series(1, 30) j) FROM generate_series(1, 6000) i;`

const manyPostsRules = `
version: 1
dataset: slipmat
drift: pass
subjects: {user: {table: users, key: id}}
erase:
  users: {redact: {name: {value: nobody}}}
requests:
  - {subject: "user:500", ref: R-1}
  - {subject: "user:77", ref: R-2}
`

// A purge reads the filters, and of the pieces those that may hold something; the filters of what it writes are as true
// as those of a backup, and the next purge goes by them.
func TestPurgeReadsWhatFiltersLeave(t *testing.T) {
	s := newSite(t, manyPosts)
	s.rules = withoutRequests(manyPostsRules)
	id := s.backup()
	before := s.manifest(s.open(), id, s.holder)
	var all, pieces int64
	for _, p := range before.Parts {
		for _, o := range slices.Concat(p.Objects, p.Filters) {
			all += o.Size
			pieces++
		}
	}
	s.recordAll(manyPostsRules, s.store)
	want := s.backup()
	signer := signed(t)
	c := s.purging(signer, s.store)
	c.Only = []string{"R-1"}
	c.DryRun = true
	dry := purge(t, c)
	c.DryRun = false
	report := purge(t, c)
	// One piece of each of users and posts, for ten posts some ten comments on them and ten of the person's own, and the filters.
	if len(before.Parts) == 0 || pieces < 20 || report.Fetched > all*7/10 || dry.Fetched > all*7/10 {
		t.Errorf("fetched %d bytes, of %d in %d objects; %d in a dry run", report.Fetched, all, pieces, dry.Fetched)
	}
	t.Logf("%d bytes in %d objects are stored; %d were fetched to see, %d to purge, and %d stored", all, pieces, dry.Fetched, report.Fetched, report.Stored)
	next := report.Stores[0].Successors[0].New
	trueFilters(t, s, next, signer, before)

	// The other one, by the filters that were made anew.
	second := purge(t, s.purging(signer, s.store))
	if second.Fetched > all*7/10 {
		t.Errorf("the second time: fetched %d bytes of %d", second.Fetched, all)
	}
	last := second.Stores[0].Successors[0].New
	trueFilters(t, s, last, signer, before)
	sameRows(t, "purged twice", s.rowsIn(s.store, want), s.rowsIn(s.store, last, signer.Public()))
}

// trueFilters makes sure that every piece which had a filter has one, of pieces that are there, and that no filter rules
// out a key which is there.
func trueFilters(t *testing.T, s *site, id string, signer *archive.SigningKey, before *archive.Manifest) {
	t.Helper()
	r := s.open(s.operator.Public(), signer.Public())
	opener, err := archive.NewOpener(s.holder)
	if err != nil {
		t.Fatal(err)
	}
	read := func(o archive.Object) []byte {
		data, err := r.Object(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		text, err := opener.Open(data, o)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Clone(text)
	}
	seed := archive.FilterSeed(s.operator.PieceID)
	answers, no := 0, 0
	for _, p := range s.manifest(r, id, s.holder).Parts {
		if p.Kind != archive.Table {
			continue
		}
		if was := table(t, before, p.Table).Filters; len(was) > 0 != (len(p.Filters) > 0) {
			t.Errorf("%s: %d filters, and %d before", p.Name, len(p.Filters), len(was))
		}
		byPiece := map[string]*archive.Filter{}
		for _, f := range s.filtersOf(&p) {
			for _, piece := range f.Pieces() {
				byPiece[piece] = f
				if !slices.ContainsFunc(p.Objects, func(o archive.Object) bool { return o.Piece == piece }) {
					t.Errorf("%s: a filter covers a piece that is not there", p.Name)
				}
			}
		}
		if len(p.Filters) == 0 {
			continue
		}
		var uncovered int64
		for _, o := range p.Objects {
			f := byPiece[o.Piece]
			if f == nil {
				uncovered += o.Size
				continue
			}
			rows := read(o)
			rows = rows[bytes.IndexByte(rows, '\n')+1:]
			for i, ref := range f.References() {
				if len(ref.Columns) != 1 || ref.Families[0] != "integer" {
					t.Fatalf("%v", ref)
				}
				at := slices.Index(p.Columns, ref.Columns[0])
				in := map[string]bool{}
				for line := range strings.Lines(string(rows)) {
					if fields := copytext.Split([]byte(line), nil); len(fields) > at {
						in[string(fields[at])] = true
					}
				}
				for _, key := range append(slices.Collect(maps.Keys(in)), "500", "77", "999999") {
					text, ok := scrub.AppendKey(nil, scrub.Integer, []byte(key))
					if !ok {
						continue // NULL
					}
					k := scrub.Reference{Columns: ref.Columns, Families: []scrub.Family{scrub.Integer}}.Key(seed, text)
					maybe, _ := f.Maybe(o.Piece, i, archive.FilterKey(k))
					if in[key] && !maybe {
						t.Errorf("%s.%s: %s is there, and the filter says no", p.Name, ref.Columns[0], key)
					}
					answers++
					if !maybe {
						no++
					}
				}
			}
		}
		if uncovered >= archive.FilterLeast { // the last pieces of a range may be too few to be worth a filter
			t.Errorf("%s: pieces of %d bytes have no filter", p.Name, uncovered)
		}
	}
	if answers == 0 || no == 0 {
		t.Errorf("the filters were asked %d times and said no %d times", answers, no)
	}
}

// manyPictures is manyPosts with some ten pieces of pictures, which a user may have made, and which lead to a post by a
// reference that no foreign key holds.
const manyPictures = manyPosts + `
CREATE TABLE pictures (id int PRIMARY KEY, user_id int REFERENCES users ON DELETE CASCADE, post int, data text);
INSERT INTO pictures SELECT i, 1 + i % 50, i, 'picture of post ' || i || '.' || (SELECT string_agg(md5(i::text || 'p' || j), '') FROM generate_series(1, 30) j) FROM generate_series(1, 6000) i;`

// A filter knows the references of the rules that it was made under. What leads to somebody by one that came later is
// read, whatever the filter says about the others.
func TestPurgeByAReferenceThatFiltersDoNotKnow(t *testing.T) {
	s := newSite(t, manyPictures)
	s.rules = withoutRequests(manyPostsRules)
	old := s.backup()
	filters := s.filtersOf(table(t, s.manifest(s.open(), old, s.holder), "pictures"))
	if len(filters) == 0 {
		t.Fatal("pictures have no filter")
	}
	for _, f := range filters {
		if refs := f.References(); slices.ContainsFunc(refs, func(r archive.FilterReference) bool { return slices.Contains(r.Columns, "post") }) {
			t.Fatalf("a filter knows of posts already: %v", refs)
		}
	}

	today := strings.Replace(manyPostsRules, "erase:", "references:\n  pictures.post: posts.id\nerase:\n  pictures: {delete: post}", 1)
	s.rules = withoutRequests(today)
	s.recordAll(today, s.store)
	want := s.rowsIn(s.store, s.backup())
	signer := signed(t)
	report := purge(t, s.purging(signer, s.store))
	if len(report.Stores[0].Successors) != 1 || report.Stores[0].Successors[0].Old != old {
		t.Fatalf("%+v", report.Stores[0])
	}
	rows := s.rowsIn(s.store, report.Stores[0].Successors[0].New, signer.Public())
	for _, text := range []string{"picture of post 4991.", "picture of post 5000.", "picture of post 761.", "picture of post 770."} { // of 500 and of 77
		if found := grepped(rows, text); len(found) > 0 {
			t.Errorf("%q is in %v", text, found)
		}
	}
	sameRows(t, "purged", want, rows)
}
