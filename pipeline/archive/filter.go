package archive

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/FastFilter/xorfilter"
	"github.com/zeebo/blake3"
)

// A filter says of up to FilterSpan pieces of a table which keys their rows may hold, so that a purge can leave most
// pieces unread. It is never proof of anything but absence, and what it does not cover is read in full.

const (
	// FilterSpan is the most pieces that one filter covers.
	FilterSpan = 64
	// FilterLeast is how many stored bytes of pieces are worth a filter: its age header alone would be more than 5 % of
	// fewer, and who looks for a row in them had better read them.
	FilterLeast = 16 << 10
	// FilterReferences is the most references that one filter knows. Where a table has more, any of them may be left out.
	FilterReferences = 1000

	filterVersion   = 1
	filterMagic     = "lethe filter "
	maxFilterHeader = 16 << 20
)

// FilterBudget is the most bytes that all fuse filters of a piece may take together: 5 % of the bytes of its object.
func FilterBudget(stored int64) int64 { return stored / 20 }

// FilterEnds says whether a filter ends with a piece, the nth that it covers. The piece's own id decides, once in eight
// times, so that a change leaves the filters alone that are not near it.
func FilterEnds(piece PieceID, n int) bool { return n >= FilterSpan || piece[0] < 256/8 }

// FilterSeed returns the seed under which keys in filters are hashed, from the piece-id key.
func FilterSeed(key SecretKey) uint64 {
	k := key.Bytes()
	var seed [8]byte
	blake3.DeriveKey("lethe v1 filter keys", k[:], seed[:])
	return binary.LittleEndian.Uint64(seed[:])
}

// FilterReference is what makes keys comparable: the columns that hold them, in the order of the key's parts, the path
// inside the one column where that holds JSON, and how each part compares.
type FilterReference struct {
	Columns  []string `json:"columns"`
	Path     string   `json:"path,omitempty"`
	Families []string `json:"families"` // integer, numeric, text, padded text, uuid, exact
}

func (r *FilterReference) equal(o *FilterReference) bool {
	return r.Path == o.Path && slices.Equal(r.Columns, o.Columns) && slices.Equal(r.Families, o.Families)
}

// of says whether keys are values of one family by themselves.
func (r *FilterReference) of(family string) bool {
	return len(r.Families) == 1 && r.Families[0] == family
}

// FilterKeys are the keys that the rows of one piece hold for one reference. The zero FilterKeys knows nothing. It has
// the fields of scrub.PieceKeys, which collects them.
type FilterKeys struct {
	Known  bool     // false where some row's keys could not be told: any key may be among them
	Hashes []uint32 // none of them 0, in any order, some of them more than once
	Many   bool     // there were too many to keep: Hashes is empty

	Integers               bool // every key is an integer of 64 bits, and these are the least and the greatest
	MinInteger, MaxInteger int64
	UUIDs                  bool // every key is a UUID
	MinUUID, MaxUUID       [16]byte
}

// dense says that so many values between the least and the greatest are there that a fuse filter would add little. Each
// hash is there once.
func (k *FilterKeys) dense() bool {
	return k.Integers && uint64(k.MaxInteger)-uint64(k.MinInteger) < 4*uint64(len(k.Hashes))
}

// FilterKey is a key to look for. It has the fields of scrub.FilterKey, which makes it.
type FilterKey struct {
	Hash      uint32
	Integer   int64 // valid where IsInteger: the key is one integer of 64 bits
	IsInteger bool
	UUID      [16]byte // valid where IsUUID: the key is one UUID
	IsUUID    bool
}

// FilterID returns the piece id of a filter: that of its first two lines, which name the references and the covered
// pieces. So it is known before anything is built, and equal where the same pieces are covered for the same references.
func FilterID(p *Pieces, refs []FilterReference, pieces []PieceID) (PieceID, error) {
	head, err := filterHead(refs, pieces)
	if err != nil {
		return PieceID{}, err
	}
	return p.ID(head), nil
}

type filterHeader struct {
	References []FilterReference `json:"references"`
	Pieces     []string          `json:"pieces"`
}

func filterHead(refs []FilterReference, pieces []PieceID) ([]byte, error) {
	h := filterHeader{References: refs, Pieces: make([]string, len(pieces))}
	for i, id := range pieces {
		h.Pieces[i] = id.String()
	}
	if err := h.validate(); err != nil {
		return nil, &Error{Name: "filter", Msg: "this filter would not be readable", Err: err}
	}
	text, err := json.Marshal(h)
	if err != nil {
		return nil, &Error{Name: "filter", Msg: "encode", Err: err}
	}
	if len(text) > maxFilterHeader {
		return nil, &Error{Name: "filter", Msg: fmt.Sprintf("the references take %d bytes, more than a reader takes (%d)", len(text), maxFilterHeader)}
	}
	head := append([]byte(filterMagic+strconv.Itoa(filterVersion)+"\n"), text...)
	return append(head, '\n'), nil
}

func (h *filterHeader) validate() error {
	if len(h.References) == 0 || len(h.References) > FilterReferences {
		return problem(fmt.Sprintf("references: not one to %d", FilterReferences))
	}
	for i := range h.References {
		r := &h.References[i]
		switch {
		case len(r.Columns) == 0 || len(r.Columns) != len(r.Families):
			return problem(fmt.Sprintf("reference %d: not one family for each column", i+1))
		case r.Path != "" && len(r.Columns) != 1:
			return problem(fmt.Sprintf("reference %d: a path in several columns", i+1))
		case !utf8.ValidString(r.Path) || slices.ContainsFunc(r.Columns, func(c string) bool { return c == "" || !utf8.ValidString(c) }):
			return problem(fmt.Sprintf("reference %d: a column is empty, or a name is not valid UTF-8", i+1))
		case slices.ContainsFunc(r.Families, func(f string) bool { return !knownFamily(f) }):
			return problem(fmt.Sprintf("reference %d: an unknown family", i+1))
		case slices.ContainsFunc(h.References[:i], func(o FilterReference) bool { return o.equal(r) }):
			return problem(fmt.Sprintf("reference %d stands twice", i+1))
		}
	}
	if len(h.Pieces) == 0 || len(h.Pieces) > FilterSpan {
		return problem(fmt.Sprintf("pieces: not one to %d", FilterSpan))
	}
	for i, id := range h.Pieces {
		if !isHex(id, 64) {
			return problem(fmt.Sprintf("piece %d: not 64 hexadecimal digits", i+1))
		}
	}
	return nil
}

func knownFamily(word string) bool {
	switch word {
	case "integer", "numeric", "text", "padded text", "uuid", "exact":
		return true
	}
	return false
}

// What an entry says, as its first byte: nothing, that there is no key at all, or any of a range and a fuse filter.
const (
	entryUnknown  = 0
	entryIntegers = 1
	entryUUIDs    = 2
	entryFuse     = 4
	entryNone     = 8
)

// FilterPiece is a piece that a filter under construction covers. It holds its keys, at 4 bytes for each, until Condense
// or Build makes entries of them, at little more than one.
type FilterPiece struct {
	Piece   PieceID
	Keys    []FilterKeys // one for each reference
	Budget  int64        // see FilterBudget
	entries []byte
}

// Held is how many bytes of keys or entries the piece holds.
func (p *FilterPiece) Held() (n int) {
	for i := range p.Keys {
		n += 4 * len(p.Keys[i].Hashes)
	}
	return n + len(p.entries)
}

// FilterBuilder builds filters. It reuses its memory, so each worker needs its own.
type FilterBuilder struct {
	fuse xorfilter.BinaryFuseBuilder
	met  []uint32 // scratch of distinct
}

// Condense turns the keys of a piece into entries, and lets go of the keys. A caller who may not need the filter (one
// whose id is known is stored already) puts that off as long as it has the memory.
func (b *FilterBuilder) Condense(p *FilterPiece) {
	if p.entries != nil {
		return
	}
	b.Distinct(p)
	fuse := b.affordable(p)
	for i := range p.Keys {
		k := &p.Keys[i]
		switch {
		case !k.Known:
			p.entries = append(p.entries, entryUnknown)
			continue
		case len(k.Hashes) == 0 && !k.Many:
			p.entries = append(p.entries, entryNone)
			continue
		}
		at := len(p.entries)
		p.entries = append(p.entries, entryUnknown)
		if k.Integers {
			p.entries[at] |= entryIntegers
			p.entries = binary.LittleEndian.AppendUint64(p.entries, uint64(k.MinInteger))
			p.entries = binary.LittleEndian.AppendUint64(p.entries, uint64(k.MaxInteger))
		}
		if k.UUIDs {
			p.entries[at] |= entryUUIDs
			p.entries = append(append(p.entries, k.MinUUID[:]...), k.MaxUUID[:]...)
		}
		if fuse[i] != nil {
			p.entries[at] |= entryFuse
			p.entries = append(p.entries, fuse[i]...)
		}
	}
	p.Keys = nil
}

// Distinct keeps each hash of a piece once, and lets go of the memory of the others.
func (b *FilterBuilder) Distinct(p *FilterPiece) {
	for i := range p.Keys {
		if all := p.Keys[i].Hashes; len(all) > 0 {
			if kept := b.distinct(all); len(kept) < len(all) {
				p.Keys[i].Hashes = slices.Clone(kept)
			}
		}
	}
}

// distinct keeps each hash once, in place.
func (b *FilterBuilder) distinct(hashes []uint32) []uint32 {
	size := 1 << bits.Len(uint(2*len(hashes))) // so that half of the places stay empty
	if cap(b.met) < size {
		b.met = make([]uint32, size)
	}
	met := b.met[:size]
	clear(met)
	last := uint32(size - 1)
	kept := hashes[:0]
	for _, h := range hashes {
		i := h & last
		for met[i] != 0 && met[i] != h {
			i = (i + 1) & last
		}
		if met[i] == 0 {
			met[i] = h
			kept = append(kept, h)
		}
	}
	return kept
}

// affordable builds the fuse filters that the piece's budget allows, the smallest first, by the index of their reference.
func (b *FilterBuilder) affordable(p *FilterPiece) [][]byte {
	fuse := make([][]byte, len(p.Keys))
	var order []int
	for i := range p.Keys {
		if k := &p.Keys[i]; k.Known && len(k.Hashes) > 0 && !k.dense() {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(len(p.Keys[i].Hashes), len(p.Keys[j].Hashes)) })
	left := p.Budget
	for _, i := range order {
		if int64(len(p.Keys[i].Hashes)) > left { // it takes more than a byte for each
			break
		}
		if f := b.build(p.Keys[i].Hashes); f != nil && int64(len(f)) <= left {
			fuse[i] = f
			left -= int64(len(f))
		}
	}
	return fuse
}

// build returns the fuse filter of some distinct hashes as an entry holds it. That it depends on the set alone, and not
// on the order, is the construction's own property: it peels off by position. nil stands for a set that it fails on.
func (b *FilterBuilder) build(hashes []uint32) []byte {
	keys := make([]uint64, len(hashes))
	for i, h := range hashes {
		keys[i] = uint64(h)
	}
	f, err := xorfilter.BuildBinaryFuse[uint8](&b.fuse, keys)
	if err != nil {
		return nil
	}
	out := make([]byte, 0, 13+len(f.Fingerprints))
	out = binary.LittleEndian.AppendUint64(out, f.Seed)
	out = append(out, byte(bits.TrailingZeros32(f.SegmentLength)))
	out = binary.LittleEndian.AppendUint32(out, f.SegmentCount)
	return append(out, f.Fingerprints...)
}

// Build returns the text of the filter that covers these pieces, in this order. Equal pieces, budgets and references
// give equal texts.
func (b *FilterBuilder) Build(refs []FilterReference, pieces []FilterPiece) ([]byte, error) {
	ids, size := make([]PieceID, len(pieces)), 0
	for i := range pieces {
		p := &pieces[i]
		if p.entries == nil && len(p.Keys) != len(refs) {
			return nil, &Error{Name: "filter", Msg: fmt.Sprintf("piece %d has keys for %d references of %d", i+1, len(p.Keys), len(refs))}
		}
		b.Condense(p)
		ids[i] = p.Piece
		size += len(p.entries)
	}
	head, err := filterHead(refs, ids)
	if err != nil {
		return nil, err
	}
	text := append(make([]byte, 0, len(head)+size), head...)
	for i := range pieces {
		text = append(text, pieces[i].entries...)
	}
	return text, nil
}

// Filter is a filter that was read.
type Filter struct {
	references []FilterReference
	order      []string // piece ids
	pieces     map[string]filterPiece
}

// filterPiece is what a filter says about one piece.
type filterPiece struct {
	entries []filterEntry // by reference
	raw     []byte        // the same as it is written
}

// filterEntry is what a filter says about one piece and reference.
type filterEntry struct {
	says     byte
	min, max [16]byte // of integers the first eight bytes, so that their order is that of the bytes
	fuse     *xorfilter.BinaryFuse[uint8]
}

// ParseFilter reads the text of a filter. What does not keep the format is an ErrIntegrity, another version an
// ErrVersion. The result does not hold on to text.
func ParseFilter(text []byte) (*Filter, error) {
	broken := func(format string, args ...any) error {
		return &Error{Name: "filter", Msg: fmt.Sprintf(format, args...), Kind: ErrIntegrity, Try: tryForeign}
	}
	first, rest, ok := bytes.Cut(text, []byte("\n"))
	version, magic := bytes.CutPrefix(first, []byte(filterMagic))
	number, err := strconv.ParseUint(string(version[:min(len(version), 20)]), 10, 31)
	switch {
	case !ok || !magic || err != nil || strconv.FormatUint(number, 10) != string(version):
		return nil, broken("the first line is not that of a filter")
	case number != filterVersion:
		return nil, &Error{Name: "filter", Msg: fmt.Sprintf("format version %d: this lethe reads %d", number, filterVersion), Kind: ErrVersion, Try: "upgrade lethe"}
	}
	head, body, ok := bytes.Cut(rest, []byte("\n"))
	var h filterHeader
	switch {
	case !ok || len(head) > maxFilterHeader:
		return nil, broken("the second line has no end, or is longer than %d bytes", maxFilterHeader)
	case !utf8.Valid(head): // Go would replace it in silence
		return nil, broken("the second line is not valid UTF-8")
	}
	if err := strict(head, &h); err != nil {
		return nil, broken("the second line: %s", jsonProblem(err))
	}
	if err := h.validate(); err != nil {
		return nil, broken("%v", err)
	}
	if len(body) < len(h.Pieces)*len(h.References) { // a byte for each entry at least
		return nil, broken("it is cut short")
	}
	body = bytes.Clone(body)
	f := &Filter{references: h.References, order: h.Pieces, pieces: make(map[string]filterPiece, len(h.Pieces))}
	for i, piece := range h.Pieces {
		from := body
		entries := make([]filterEntry, len(h.References))
		for j := range entries {
			if body, err = entries[j].parse(&h.References[j], body); err != nil {
				return nil, broken("piece %d, reference %d: %v", i+1, j+1, err)
			}
		}
		f.pieces[piece] = filterPiece{entries, from[: len(from)-len(body) : len(from)-len(body)]}
	}
	if len(body) > 0 {
		return nil, broken("%d bytes follow the last entry", len(body))
	}
	return f, nil
}

// parse reads one entry off body and returns the rest of it.
func (e *filterEntry) parse(ref *FilterReference, body []byte) ([]byte, error) {
	short := problem("it is cut short")
	take := func(n int) (b []byte) {
		if len(body) < n {
			return nil
		}
		b, body = body[:n:n], body[n:]
		return b
	}
	says := take(1)
	if says == nil {
		return nil, short
	}
	e.says = says[0]
	switch e.says {
	case entryUnknown, entryNone:
		return body, nil
	case entryFuse:
	case entryIntegers, entryIntegers | entryFuse:
		b := take(16)
		if b == nil {
			return nil, short
		}
		if !ref.of("integer") {
			return nil, problem("integers where keys are none")
		}
		e.min, e.max = integerBytes(int64(binary.LittleEndian.Uint64(b))), integerBytes(int64(binary.LittleEndian.Uint64(b[8:])))
	case entryUUIDs, entryUUIDs | entryFuse:
		b := take(32)
		if b == nil {
			return nil, short
		}
		if !ref.of("uuid") {
			return nil, problem("UUIDs where keys are none")
		}
		e.min, e.max = [16]byte(b), [16]byte(b[16:])
	default:
		return nil, problem("an unknown kind of entry")
	}
	if bytes.Compare(e.min[:], e.max[:]) > 0 {
		return nil, problem("the least key is greater than the greatest")
	}
	if e.says&entryFuse == 0 {
		return body, nil
	}
	b := take(13)
	if b == nil {
		return nil, short
	}
	seed, log, count := binary.LittleEndian.Uint64(b), b[8], binary.LittleEndian.Uint32(b[9:])
	if log > 18 || count == 0 || count > 1<<(30-log) {
		return nil, problem("a fuse filter of an impossible form")
	}
	length := uint32(1) << log
	fingerprints := take(int(count+2) << log)
	if fingerprints == nil {
		return nil, short
	}
	e.fuse = &xorfilter.BinaryFuse[uint8]{Seed: seed, SegmentLength: length, SegmentLengthMask: length - 1, SegmentCount: count,
		SegmentCountLength: count * length, Fingerprints: fingerprints}
	return body, nil
}

// integerBytes writes an integer so that the order of the bytes is the order of the numbers.
func integerBytes(n int64) (b [16]byte) {
	binary.BigEndian.PutUint64(b[:], uint64(n)^1<<63)
	return b
}

// References returns the references that the filter knows. They are not to be changed.
func (f *Filter) References() []FilterReference { return f.references }

// Pieces returns the ids of the pieces that the filter covers, in their order. They are not to be changed.
func (f *Filter) Pieces() []string { return f.order }

// Piece returns what the filter says about a piece, for a filter under construction of the same references; false where it
// does not cover it.
func (f *Filter) Piece(id string) (FilterPiece, bool) {
	p, ok := f.pieces[id]
	if !ok {
		return FilterPiece{}, false
	}
	piece, err := ParsePieceID(id)
	return FilterPiece{Piece: piece, entries: p.raw}, err == nil
}

// SameReferences says whether filters of these references are alike in what they know.
func SameReferences(a, b []FilterReference) bool {
	return slices.EqualFunc(a, b, func(a, b FilterReference) bool { return a.equal(&b) })
}

// Reference finds a reference among those that the filter knows, for Maybe. It must be the same in everything.
func (f *Filter) Reference(ref FilterReference) (index int, ok bool) {
	index = slices.IndexFunc(f.references, func(o FilterReference) bool { return o.equal(&ref) })
	return index, index >= 0
}

// Maybe says whether rows of a piece may hold a key for a reference. covered is false, and maybe true, where the filter
// says nothing about the piece or the reference: the piece has to be read. An answer of false is certain: it holds for
// all rows of the piece. One of true is wrong once in 256 times, or more often where there is only a range.
func (f *Filter) Maybe(piece string, ref int, key FilterKey) (maybe, covered bool) {
	entries := f.pieces[piece].entries
	if ref < 0 || ref >= len(entries) {
		return true, false
	}
	e := &entries[ref]
	switch {
	case e.says == entryUnknown:
		return true, false
	case e.says == entryNone,
		e.says&entryIntegers != 0 && key.IsInteger && !e.inRange(integerBytes(key.Integer)),
		e.says&entryUUIDs != 0 && key.IsUUID && !e.inRange(key.UUID),
		e.fuse != nil && !e.fuse.Contains(uint64(key.Hash)):
		return false, true
	}
	return true, true
}

func (e *filterEntry) inRange(key [16]byte) bool {
	return bytes.Compare(key[:], e.min[:]) >= 0 && bytes.Compare(key[:], e.max[:]) <= 0
}
