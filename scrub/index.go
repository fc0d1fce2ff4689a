package scrub

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/zeebo/xxh3"

	"lethe/scrub/catalog"
	"lethe/scrub/copytext"
	"lethe/scrub/mask"
)

// Reference is what makes the keys of rows comparable, whatever they lead to: the columns of a table that hold them, and
// how each compares. All edges that share it, and a subject's own key, share the keys that rows hold for it.
type Reference struct {
	Columns  []string
	Path     string // JSON path in Columns[0], "" where the column itself is the key
	Families []Family
}

// Reference is how rows of e.From hold the keys that lead to e.To. The conditions of a polymorphic reference are no part
// of it.
func (e *Edge) Reference() Reference {
	return Reference{Columns: e.Columns, Path: e.Path, Families: e.Family}
}

// Reference is how the subject's rows hold their own keys.
func (s *Subject) Reference() Reference {
	return Reference{Columns: []string{s.Key}, Families: []Family{s.Family}}
}

func compareReferences(a, b Reference) int {
	return cmp.Or(slices.Compare(a.Columns, b.Columns), cmp.Compare(a.Path, b.Path), slices.Compare(a.Families, b.Families))
}

// References lists how the rows of a relation hold keys that the closure follows, each way once and always in the same
// order. What only a server can compare is left out.
func (p *Plan) References(rel catalog.Name) []Reference {
	tp := p.Tables[rel]
	if tp == nil || tp.NoRows {
		return nil
	}
	var refs []Reference
	if tp.Subject != nil {
		refs = append(refs, tp.Subject.Reference())
	}
	for _, e := range tp.Out {
		refs = append(refs, e.Reference())
	}
	refs = slices.DeleteFunc(refs, func(r Reference) bool { return slices.Contains(r.Families, Server) })
	slices.SortFunc(refs, compareReferences)
	return slices.CompactFunc(refs, func(a, b Reference) bool { return compareReferences(a, b) == 0 })
}

// FilterKey is a key as filters know it.
type FilterKey struct {
	Hash      uint32
	Integer   int64 // valid where IsInteger: the key is one integer of 64 bits
	IsInteger bool
	UUID      [16]byte // valid where IsUUID: the key is one UUID
	IsUUID    bool
}

// Key returns a key as filters know it. key is AppendKey of each of its parts in order, in the reference's families;
// seed is that of the filters.
func (r Reference) Key(seed uint64, key []byte) (k FilterKey) {
	k.Hash = hashOf(seed, key)
	if len(r.Families) == 1 {
		switch r.Families[0] {
		case Integer:
			k.Integer, k.IsInteger = integerOf(key)
		case UUID:
			if k.IsUUID = len(key) == 4+16; k.IsUUID {
				k.UUID = [16]byte(key[4:])
			}
		}
	}
	return k
}

// hashOf is never 0, which stands for an empty place where hashes are looked up.
func hashOf(seed uint64, key []byte) uint32 {
	return max(uint32(xxh3.HashSeed(key, seed)>>32), 1)
}

// integerOf reads an integer that AppendKey wrote; false where it takes more than 64 bits.
func integerOf(key []byte) (int64, bool) {
	key = key[4:]
	negative := len(key) > 0 && key[0] == '-'
	if negative {
		key = key[1:]
	}
	var n uint64
	i := 0
	for ; i < len(key) && isDigit(key[i]); i++ {
		if i >= 19 {
			return 0, false
		}
		n = n*10 + uint64(key[i]-'0')
	}
	exponent := 0 // 0 itself has none
	for j := i + 1; j < len(key); j++ {
		if exponent = exponent*10 + int(key[j]-'0'); exponent > 18 {
			return 0, false
		}
	}
	for ; exponent > 0; exponent-- {
		if n > math.MaxUint64/10 {
			return 0, false
		}
		n *= 10
	}
	switch {
	case negative && n <= 1<<63:
		return -int64(n), true
	case !negative && n < 1<<63:
		return int64(n), true
	}
	return 0, false
}

// PieceKeys are the keys that the rows of one piece hold for one reference. The zero PieceKeys knows nothing.
type PieceKeys struct {
	Known  bool     // false where some row's keys could not be told: any key may be among them
	Hashes []uint32 // in any order, some of them more than once
	Many   bool     // there were too many to keep: Hashes is empty

	Integers               bool // every key is an integer of 64 bits, and these are the least and the greatest
	MinInteger, MaxInteger int64
	UUIDs                  bool // every key is a UUID
	MinUUID, MaxUUID       [16]byte
}

const (
	// maxHashes is how many distinct keys of a piece are enough to give up. A piece of average size has a tenth of that, and one
	// with more could not pay for a filter of them. Whether there are so many is looked at each time that twice as many hashes are kept.
	maxHashes = 1 << 18
	// maxKeyField is the longest field that keys are looked for in. A row with a longer one is a piece by itself, and
	// worth no copy in memory.
	maxKeyField = 16 << 20
	// keepScratch is the most scratch memory that is kept from row to row.
	keepScratch = 1 << 20
)

// Indexer collects the keys of one table's rows, as they are stored, piece by piece. It belongs to one worker. It needs
// no row to be well formed: where keys can't be told, the piece's keys are not known, and that is all.
type Indexer struct {
	need   int // fields up to the last that holds keys
	refs   []*indexed
	fields [][]byte
}

// indexed is one reference and the keys met for it.
type indexed struct {
	Reference
	seed uint64
	at   []int
	path *mask.Finder
	add  func(value []byte) bool // for path: adds a key, and goes on

	unknown                bool
	many                   bool
	hashes                 []uint32
	integers, uuids        bool // all keys so far are
	minInteger, maxInteger int64
	minUUID, maxUUID       [2]uint64

	text, key []byte // scratch
}

// Indexer returns the collector of the keys of a relation's rows, which hold these columns in this order. Its keys are
// those of References(rel), in that order. It is nil where there are none.
func (p *Plan) Indexer(rel catalog.Name, columns []string, seed uint64) (*Indexer, error) {
	return NewIndexer(rel, p.References(rel), columns, seed)
}

// NewIndexer is Plan.Indexer for references that somebody else names.
func NewIndexer(rel catalog.Name, refs []Reference, columns []string, seed uint64) (*Indexer, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	x := &Indexer{}
	for _, ref := range refs {
		r := &indexed{Reference: ref, seed: seed}
		for _, name := range ref.Columns {
			i := slices.Index(columns, name)
			if i < 0 {
				return nil, fmt.Errorf("indexing %s: its rows come without the column %s, which a reference needs", rel, catalog.QuoteIfNeeded(name))
			}
			r.at = append(r.at, i)
			x.need = max(x.need, i+1)
		}
		if ref.Path != "" {
			path, err := mask.ParsePath(ref.Path)
			if err != nil {
				return nil, fmt.Errorf("indexing %s: %w", rel, err)
			}
			r.path = path.Finder()
			r.add = func(value []byte) bool {
				var ok bool
				if r.key, ok = AppendKey(r.key[:0], r.Families[0], value); ok {
					r.met()
				}
				return true
			}
		}
		x.refs = append(x.refs, r)
	}
	x.Reset()
	return x, nil
}

// Add adds one row, which ends with its newline. It does not allocate, except to grow.
func (x *Indexer) Add(row []byte) {
	x.fields, _ = copytext.SplitN(row, x.need, x.fields[:0])
	for _, r := range x.refs {
		r.row(x.fields, len(x.fields) == x.need)
	}
}

// Take returns the keys met since the last Take or Reset, by reference, and begins anew.
func (x *Indexer) Take() []PieceKeys {
	keys := make([]PieceKeys, len(x.refs))
	for i, r := range x.refs {
		keys[i] = r.keys()
	}
	x.Reset()
	return keys
}

// Reset forgets the keys met.
func (x *Indexer) Reset() {
	for _, r := range x.refs {
		r.unknown = false
		r.many, r.hashes = false, r.hashes[:0]
		single := len(r.Families) == 1
		r.integers = single && r.Families[0] == Integer
		r.uuids = single && r.Families[0] == UUID
		r.minInteger, r.maxInteger = math.MaxInt64, math.MinInt64
		r.minUUID, r.maxUUID = [2]uint64{math.MaxUint64, math.MaxUint64}, [2]uint64{}
	}
}

// row looks for the keys of one row. whole says that the row has all fields that hold keys.
func (r *indexed) row(fields [][]byte, whole bool) {
	if !whole {
		r.unknown = true
		return
	}
	r.key = r.key[:0]
	for i, at := range r.at {
		field := fields[at]
		if copytext.IsNull(field) {
			return // a key with NULL in it leads nowhere
		}
		if len(field) > maxKeyField {
			r.unknown = true
			return
		}
		if bytes.IndexByte(field, '\\') >= 0 {
			var err error
			if r.text, err = copytext.Decode(r.text[:0], field); err != nil {
				r.unknown = true
				return
			}
			field = r.text
		}
		if r.path != nil {
			if err := r.path.Values(field, r.add); err != nil {
				r.unknown = true
			}
			break
		}
		var ok bool
		if r.key, ok = AppendKey(r.key, r.Families[i], field); !ok {
			return // no value of the family equals it
		}
	}
	if r.path == nil {
		r.met()
	}
	if cap(r.text) > keepScratch {
		r.text = nil
	}
	if cap(r.key) > keepScratch {
		r.key = nil
	}
}

// met adds the key in r.key.
func (r *indexed) met() {
	r.remember(hashOf(r.seed, r.key))
	if r.integers {
		var n int64
		if n, r.integers = integerOf(r.key); r.integers {
			r.minInteger, r.maxInteger = min(r.minInteger, n), max(r.maxInteger, n)
		}
	}
	if r.uuids {
		u := [2]uint64{binary.BigEndian.Uint64(r.key[4:]), binary.BigEndian.Uint64(r.key[12:])}
		if less(u, r.minUUID) {
			r.minUUID = u
		}
		if less(r.maxUUID, u) {
			r.maxUUID = u
		}
	}
}

// remember notes a hash. Which are the same is left to who needs to know: most pieces were in the snapshot before, and so
// was their filter.
func (r *indexed) remember(hash uint32) {
	if n := len(r.hashes); r.many || n > 0 && r.hashes[n-1] == hash {
		return
	}
	if r.hashes = append(r.hashes, hash); len(r.hashes) < 2*maxHashes {
		return
	}
	slices.Sort(r.hashes)
	if r.hashes = slices.Compact(r.hashes); len(r.hashes) > maxHashes {
		r.many, r.hashes = true, r.hashes[:0]
	}
}

func less(a, b [2]uint64) bool { return a[0] < b[0] || a[0] == b[0] && a[1] < b[1] }

// keys are the keys met.
func (r *indexed) keys() PieceKeys {
	if r.unknown {
		return PieceKeys{}
	}
	k := PieceKeys{Known: true, Hashes: slices.Clone(r.hashes), Many: r.many}
	if len(k.Hashes) == 0 && !k.Many {
		return k
	}
	if k.Integers = r.integers; k.Integers {
		k.MinInteger, k.MaxInteger = r.minInteger, r.maxInteger
	}
	if k.UUIDs = r.uuids; k.UUIDs {
		for i := range 2 {
			binary.BigEndian.PutUint64(k.MinUUID[8*i:], r.minUUID[i])
			binary.BigEndian.PutUint64(k.MaxUUID[8*i:], r.maxUUID[i])
		}
	}
	return k
}
