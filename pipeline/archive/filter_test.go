package archive

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// filterReferences are one of each way in which keys are held.
var filterReferences = []FilterReference{
	{Columns: []string{"user_id"}, Families: []string{"integer"}},
	{Columns: []string{"owner"}, Families: []string{"uuid"}},
	{Columns: []string{"org", "user"}, Families: []string{"integer", "text"}},
	{Columns: []string{"args"}, Path: "$.user", Families: []string{"text"}},
}

// filterKeys are n keys of one reference, out of a random range.
func filterKeys(r *rand.Rand, family string, n int, spread int64) (FilterKeys, []FilterKey) {
	k := FilterKeys{Known: true, Integers: family == "integer", UUIDs: family == "uuid", MinInteger: 1<<63 - 1, MaxInteger: -1 << 63,
		MinUUID: [16]byte(bytes.Repeat([]byte{0xff}, 16))}
	var keys []FilterKey
	for range n {
		key := FilterKey{Hash: max(r.Uint32(), 1), IsInteger: k.Integers, IsUUID: k.UUIDs, Integer: r.Int64N(spread) - spread/2}
		for i := range key.UUID {
			key.UUID[i] = byte(r.Uint32())
		}
		keys = append(keys, key)
		for range 1 + r.IntN(2) { // some keys stand in several rows
			k.Hashes = append(k.Hashes, key.Hash)
		}
		k.MinInteger, k.MaxInteger = min(k.MinInteger, key.Integer), max(k.MaxInteger, key.Integer)
		if bytes.Compare(key.UUID[:], k.MinUUID[:]) < 0 {
			k.MinUUID = key.UUID
		}
		if bytes.Compare(key.UUID[:], k.MaxUUID[:]) > 0 {
			k.MaxUUID = key.UUID
		}
	}
	return k, keys
}

// someFilter is a filter of five pieces, one of which knows nothing and one of which holds no key, with the keys in it by
// piece and reference.
func someFilter(t testing.TB, budget int64) (text []byte, ids []PieceID, keys map[string][][]FilterKey) {
	t.Helper()
	r := rand.New(rand.NewPCG(5, 6))
	keys = map[string][][]FilterKey{}
	var pieces []FilterPiece
	for i := range 5 {
		p := FilterPiece{Piece: PieceID{byte(i), 1}, Budget: budget, Keys: make([]FilterKeys, len(filterReferences))}
		ids = append(ids, p.Piece)
		for j, ref := range filterReferences {
			var in []FilterKey
			switch i {
			case 3: // nothing is known
			case 4:
				p.Keys[j].Known = true
			default:
				family := ""
				if len(ref.Families) == 1 {
					family = ref.Families[0]
				}
				p.Keys[j], in = filterKeys(r, family, 300*(j+1), 1<<40)
			}
			keys[p.Piece.String()] = append(keys[p.Piece.String()], in)
		}
		pieces = append(pieces, p)
	}
	text, err := new(FilterBuilder).Build(filterReferences, pieces)
	if err != nil {
		t.Fatal(err)
	}
	return text, ids, keys
}

// TestFilterOfTheSameKeys: their order, and how often they come, change nothing; and where there were too many to keep, none is
// ruled out.
func TestFilterOfTheSameKeys(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	refs := filterReferences[1:2]
	keys, in := filterKeys(r, "uuid", 500, 1)
	build := func(k FilterKeys) []byte {
		t.Helper()
		text, err := new(FilterBuilder).Build(refs, []FilterPiece{{Piece: PieceID{1}, Budget: 1 << 20, Keys: []FilterKeys{k}}})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	other := keys
	other.Hashes = append(slices.Clone(keys.Hashes), keys.Hashes[:100]...)
	r.Shuffle(len(other.Hashes), func(i, j int) { other.Hashes[i], other.Hashes[j] = other.Hashes[j], other.Hashes[i] })
	held := FilterPiece{Keys: []FilterKeys{other}}
	other.Hashes = slices.Clone(other.Hashes)
	if !bytes.Equal(build(keys), build(other)) {
		t.Error("the same keys in another order gave another text")
	}
	new(FilterBuilder).Distinct(&held)
	if n := held.Held(); n != 4*500 {
		t.Errorf("500 keys take %d bytes", n)
	}
	f, err := ParseFilter(build(FilterKeys{Known: true, Many: true}))
	if err != nil {
		t.Fatal(err)
	}
	if maybe, covered := f.Maybe(PieceID{1}.String(), 0, in[0]); covered && !maybe {
		t.Error("of too many keys one is ruled out")
	}
}

// TestFilter: what is in a piece is never ruled out, whatever the budget; what is not, nearly always, where that was paid
// for; and what is not known is not ruled out either.
func TestFilter(t *testing.T) {
	for _, tt := range []struct {
		name   string
		budget int64
		wrong  int // of 10 000 keys that are not there, those that a fuse filter may leave
	}{{"paid for", 1 << 20, 100}, {"a part", 1000, 10_000}, {"nothing", 0, 10_000}} {
		t.Run(tt.name, func(t *testing.T) {
			text, ids, keys := someFilter(t, tt.budget)
			again, _, _ := someFilter(t, tt.budget)
			if !bytes.Equal(text, again) {
				t.Error("equal keys gave two texts")
			}
			f, err := ParseFilter(text)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(f.Pieces(), []string{ids[0].String(), ids[1].String(), ids[2].String(), ids[3].String(), ids[4].String()}) {
				t.Errorf("pieces %v", f.Pieces())
			}
			r := rand.New(rand.NewPCG(7, 8))
			wrong := 0
			for j, ref := range filterReferences {
				at, ok := f.Reference(ref)
				if !ok || at != j {
					t.Fatalf("reference %d is %d, %v", j, at, ok)
				}
				for piece, in := range keys {
					for _, k := range in[j] {
						if maybe, _ := f.Maybe(piece, at, k); !maybe {
							t.Fatalf("reference %d: a key that is there is ruled out", j)
						}
					}
				}
				for range 2500 {
					k := FilterKey{Hash: r.Uint32() | 1}
					if maybe, covered := f.Maybe(ids[j%3].String(), at, k); maybe && covered {
						wrong++
					}
					if maybe, covered := f.Maybe(ids[3].String(), at, k); !maybe || covered {
						t.Fatal("a piece of which nothing is known was ruled out")
					}
					if maybe, covered := f.Maybe(ids[4].String(), at, k); maybe || !covered {
						t.Fatal("a piece without keys may hold one")
					}
				}
			}
			if wrong > tt.wrong {
				t.Errorf("of 10 000 keys that are not there %d may be", wrong)
			}
			if maybe, covered := f.Maybe(PieceID{99}.String(), 0, FilterKey{}); !maybe || covered {
				t.Error("a piece that the filter does not cover was ruled out")
			}
			if _, ok := f.Reference(FilterReference{Columns: []string{"user_id"}, Families: []string{"numeric"}}); ok {
				t.Error("a reference of another family was taken for one that is there")
			}
		})
	}
}

// TestFilterRefuses: a filter that was cut short, or goes on, is no filter; and another version is named.
func TestFilterRefuses(t *testing.T) {
	text, _, _ := someFilter(t, 1<<20)
	for n := range text {
		if _, err := ParseFilter(text[:n]); !errors.Is(err, ErrIntegrity) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if _, err := ParseFilter(append(slices.Clone(text), 0)); !errors.Is(err, ErrIntegrity) {
		t.Errorf("a byte more: %v", err)
	}
	if _, err := ParseFilter(bytes.Replace(text, []byte("filter 1"), []byte("filter 2"), 1)); !errors.Is(err, ErrVersion) {
		t.Errorf("another version: %v", err)
	}
}

func TestFilterID(t *testing.T) {
	f := newFixture(t)
	p, err := NewPieces(f.op.PieceID, f.to)
	if err != nil {
		t.Fatal(err)
	}
	id := func(refs []FilterReference, pieces ...PieceID) PieceID {
		t.Helper()
		id, err := FilterID(p, refs, pieces)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	a := id(filterReferences, PieceID{1}, PieceID{2})
	if a != id(filterReferences, PieceID{1}, PieceID{2}) {
		t.Error("the same pieces and references have two ids")
	}
	for name, other := range map[string]PieceID{"order": id(filterReferences, PieceID{2}, PieceID{1}), "piece": id(filterReferences, PieceID{1}), "reference": id(filterReferences[1:], PieceID{1}, PieceID{2})} {
		if other == a {
			t.Errorf("another %s has the same id", name)
		}
	}
}

// FuzzFilter: no text makes the reader panic or answer for a piece that it does not cover.
func FuzzFilter(f *testing.F) {
	for _, budget := range []int64{0, 1000, 1 << 20} {
		text, _, _ := someFilter(f, budget)
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		filter, err := ParseFilter(text)
		if err != nil {
			if !errors.Is(err, ErrIntegrity) && !errors.Is(err, ErrVersion) {
				t.Errorf("error %v", err)
			}
			return
		}
		for ref := range filter.References() {
			for _, piece := range filter.Pieces() {
				filter.Maybe(piece, ref, FilterKey{Hash: 7, IsInteger: true, Integer: -3, IsUUID: true})
			}
		}
		if maybe, covered := filter.Maybe("none", 0, FilterKey{}); !maybe || covered {
			t.Error("a piece that is not covered was ruled out")
		}
	})
}

// BenchmarkFilter makes a filter of as many pieces as one has at most, each with the keys of a usual piece.
func BenchmarkFilter(b *testing.B) {
	r := rand.New(rand.NewPCG(7, 8))
	refs := filterReferences[:2]
	var pieces []FilterPiece
	for i := range FilterSpan {
		p := FilterPiece{Piece: PieceID{byte(i), 1}, Budget: FilterBudget(600_000)}
		for _, ref := range refs {
			k, _ := filterKeys(r, ref.Families[0], 5000, 1<<40)
			p.Keys = append(p.Keys, k)
		}
		pieces = append(pieces, p)
	}
	b.ReportAllocs()
	for b.Loop() {
		var builder FilterBuilder
		text, err := builder.Build(refs, slices.Clone(pieces))
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(text)))
	}
}
