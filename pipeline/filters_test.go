package pipeline_test

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/pgtemp/pgtest"
	"lethe/rules"
	"lethe/scrub"
	"lethe/scrub/catalog"
	"lethe/scrub/copytext"
)

// peopleInManyPieces has orders of 1000 people in more than ten pieces, in the order of time: a person's lie together.
const peopleInManyPieces = `
CREATE TABLE users (id uuid PRIMARY KEY, email text);
CREATE TABLE orders (id bigint PRIMARY KEY, user_id uuid NOT NULL REFERENCES users, approved_by uuid REFERENCES users ON DELETE SET NULL, note text);
CREATE TABLE items (order_id bigint NOT NULL REFERENCES orders ON DELETE CASCADE, n int, what text);
INSERT INTO users SELECT md5(i::text)::uuid, 'user' || i || '@example.org' FROM generate_series(1, 1000) i;
INSERT INTO orders SELECT i, md5((i / 10 + 1)::text)::uuid, CASE WHEN i % 7 = 0 THEN md5((i * 13 % 1000 + 1)::text)::uuid END,
       (SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 40) j) FROM generate_series(1, 9990) i;
INSERT INTO items SELECT i / 3 + 1, i % 3, repeat(md5(i::text), 4) FROM generate_series(0, 29969) i;`

const peopleInManyPiecesRules = `
version: 1
dataset: slipmat
drift: pass
subjects: {user: {table: users, key: id}}
erase:
  users: {delete: true}
  orders: {delete: user_id}
`

// filtersOf reads a part's filters.
func (s *site) filtersOf(p *archive.Part) (list []*archive.Filter) {
	s.t.Helper()
	opener, err := archive.NewOpener(s.holder)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, o := range p.Filters {
		text, err := opener.Open(s.read(archive.ObjectName(o.Object)), o)
		if err != nil {
			s.t.Fatal(err)
		}
		f, err := archive.ParseFilter(text)
		if err != nil {
			s.t.Fatal(err)
		}
		list = append(list, f)
	}
	return list
}

// TestFiltersRuleOutNoPieceThatHoldsAKey: of every key that is in a row, the row's piece says maybe; and of a person's
// keys most pieces say no, or the filters would be worth nothing.
func TestFiltersRuleOutNoPieceThatHoldsAKey(t *testing.T) {
	s := newSite(t, peopleInManyPieces)
	s.rules = peopleInManyPiecesRules
	report, err := s.tryBackup(s.store)
	if err != nil {
		t.Fatal(err)
	}
	if report.Filters == 0 || report.Filters > report.Bytes/20 {
		t.Errorf("filters take %d of %d bytes", report.Filters, report.Bytes)
	}
	m := s.manifest(s.open(), report.Snapshot, s.holder)
	opener, err := archive.NewOpener(s.holder)
	if err != nil {
		t.Fatal(err)
	}
	text := func(o archive.Object) []byte {
		t.Helper()
		out, err := opener.Open(s.read(archive.ObjectName(o.Object)), o)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	var sections []string
	for _, kind := range []archive.PartKind{archive.PreData, archive.PostData} {
		sections = append(sections, string(text(part(t, m, kind).Objects[0])))
	}
	cat, err := catalog.Parse(sections[0], sections[1])
	if err != nil {
		t.Fatal(err)
	}
	f, err := rules.Parse("rules.yml", []byte(s.rules))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := scrub.Compile(f, cat)
	if err != nil {
		t.Fatal(err)
	}
	seed := archive.FilterSeed(s.operator.PieceID)
	asked, no := 0, 0
	for _, name := range []string{"users", "orders", "items"} {
		p := table(t, m, name)
		filters := s.filtersOf(p)
		refs := plan.References(catalog.Name{Schema: p.Schema, Name: p.Table})
		if len(filters) == 0 || len(refs) == 0 {
			t.Fatalf("%s: %d filters, %d references", name, len(filters), len(refs))
		}
		for _, ref := range refs {
			want := archive.FilterReference{Columns: ref.Columns, Path: ref.Path}
			for _, family := range ref.Families {
				want.Families = append(want.Families, family.String())
			}
			at := slices.Index(p.Columns, ref.Columns[0])
			keysOf := map[string][]archive.FilterKey{}
			for _, o := range p.Objects {
				rows, err := copytext.Body(text(o), copytext.Header(catalog.Name{Schema: p.Schema, Name: p.Table}.SQL(), p.Columns))
				if err != nil {
					t.Fatal(err)
				}
				for row := range bytes.Lines(rows) {
					fields, _ := copytext.SplitN(row, at+1, nil)
					if copytext.IsNull(fields[at]) {
						continue
					}
					key, ok := scrub.AppendKey(nil, ref.Families[0], fields[at])
					if !ok {
						t.Fatalf("%s.%s: no key", name, ref.Columns[0])
					}
					keysOf[o.Piece] = append(keysOf[o.Piece], archive.FilterKey(ref.Key(seed, key)))
				}
			}
			for piece := range keysOf {
				for _, f := range filters {
					i, ok := f.Reference(want)
					if !ok {
						t.Fatalf("%s: a filter without the reference %v", name, want)
					}
					for _, k := range keysOf[piece] {
						if maybe, _ := f.Maybe(piece, i, k); !maybe {
							t.Fatalf("%s.%s: a filter rules out a piece that holds the key", name, ref.Columns[0])
						}
					}
				}
			}
			if name != "orders" || ref.Columns[0] != "user_id" {
				continue
			}
			for n := range 100 { // of a hundred people's orders most pieces hold none
				key, _ := scrub.AppendKey(nil, scrub.UUID, []byte(s.value("SELECT md5('"+strconv.Itoa(n*10+1)+"')::uuid")))
				for _, o := range p.Objects {
					answer := true
					for _, f := range filters {
						i, _ := f.Reference(want)
						maybe, covered := f.Maybe(o.Piece, i, archive.FilterKey(ref.Key(seed, key)))
						answer = answer && (maybe || !covered)
					}
					asked++
					if !answer {
						no++
					}
				}
			}
		}
	}
	if no*10 < asked*8 {
		t.Errorf("of %d questions the filters answered %d with no", asked, no)
	}
}

func (s *site) value(sql string) string {
	s.t.Helper()
	v, err := pgtest.Server(s.t).Value(context.Background(), s.database(), sql)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// TestFiltersAreReused: what did not change is not made or sent again; a change makes the filter around it new; and so
// does a rule that follows another reference.
func TestFiltersAreReused(t *testing.T) {
	s := newSite(t, peopleInManyPieces)
	s.rules = peopleInManyPiecesRules
	filters := func() map[string]bool {
		t.Helper()
		set := map[string]bool{}
		for _, p := range s.manifest(s.open(), s.backup(), s.holder).Parts {
			for _, o := range p.Filters {
				set[o.Object] = true
			}
		}
		return set
	}
	kept := func(old, now map[string]bool) (n int) {
		for o := range now {
			if old[o] {
				n++
			}
		}
		return n
	}
	first := filters()
	if again := filters(); kept(first, again) != len(first) || len(again) != len(first) {
		t.Errorf("nothing changed, and of %d filters %d are the same", len(first), kept(first, again))
	}
	s.sql("INSERT INTO orders SELECT 1000000, id, NULL, 'new' FROM users LIMIT 1")
	changed := filters()
	// Where pieces end depends on the repository's seed, and a row may undo an end or two; what lies far from it stays.
	if kept(first, changed) < len(first)/2 || kept(first, changed) == len(changed) {
		t.Errorf("a row was added, and of %d filters %d are the same of %d", len(first), kept(first, changed), len(changed))
	}
	s.rules = strings.NewReplacer("users: {delete: true}", "users: {redact: {email: clear}}", "orders: {delete: user_id}", "orders: {delete: user_id, leave: approved_by}").Replace(s.rules)
	if now := filters(); kept(changed, now) == len(now) {
		t.Errorf("a reference less is followed, and all %d filters are as they were", len(now))
	}
	if problems := s.check(s.open(), 1).Problems; len(problems) > 0 {
		t.Errorf("check: %+v", problems)
	}
	report, err := pipeline.Check(context.Background(), pipeline.CheckConfig{Repository: s.open(), Readers: s.holder, Identities: s.holder, ReadData: 1, Workers: 2})
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("check with the private key: %+v, %v", report, err)
	}
}
