package scrub

import (
	"crypto/rand"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"lethe/scrub/catalog"
)

// NoRequest is what Hit reports for a row that goes because its parent's table is kept without rows, and not because
// of any person.
const NoRequest uint32 = math.MaxUint32

// Erased is what the closure found: for every reference, the keys that reach. It holds keyed hashes of keys, under a
// random key of its own, and no personal value. Once Resolve has returned it, it is immutable and may be shared by
// goroutines.
//
// Where several requests reach one key, the lowest index among them counts, so that the answer does not depend on the
// order in which rows are met.
type Erased struct {
	Missing []int // indexes of requests whose subject's own row is not there (any more); others' rows may still lead to it

	hash     hashKey
	targets  []*target // where references lead
	byEdge   []int     // edge ID to the index in targets
	answers  []keySet  // edge ID to the server's answer, nil unless the edge is of a Server family
	subjects map[string]keySet
}

// keySet holds hashes of keys and, for each, the lowest request that reaches it.
type keySet map[digest]uint32

// target is the columns of a table that references lead to, compared in one way. All references that share them share
// the keys.
type target struct {
	to      *catalog.Table
	columns []string
	family  []Family
	edges   []*Edge
	all     bool // the table is kept without rows: each of its keys counts as deleted
	keys    keySet
	base    keySet // more keys, shared with others and never changed; see Search
}

// newErased returns the empty Erased of a plan. Edge IDs are indexes of p.Edges.
func newErased(p *Plan) *Erased {
	e := &Erased{
		hash:     newHashKey(),
		byEdge:   make([]int, len(p.Edges)),
		answers:  make([]keySet, len(p.Edges)),
		subjects: make(map[string]keySet, len(p.Subjects)),
	}
	byName := map[string]int{}
	for _, edge := range p.Edges {
		id := targetName(edge)
		i, ok := byName[id]
		if !ok {
			i = len(e.targets)
			byName[id] = i
			t := &target{to: edge.To, columns: edge.ToColumns, family: edge.Family, keys: keySet{}}
			if plan := p.Tables[edge.To.Name]; plan != nil {
				t.all = plan.NoRows
			}
			e.targets = append(e.targets, t)
		}
		e.targets[i].edges = append(e.targets[i].edges, edge)
		e.byEdge[edge.ID] = i
		if byServer(edge) {
			e.answers[edge.ID] = keySet{}
		}
	}
	for name := range p.Subjects {
		e.subjects[name] = keySet{}
	}
	return e
}

// targetName identifies an edge's target among all targets.
func targetName(e *Edge) string {
	var b strings.Builder
	b.WriteString(e.To.Name.SQL())
	for i, c := range e.ToColumns {
		b.WriteString(" " + catalog.Quote(c) + strconv.Itoa(int(e.Family[i])))
	}
	return b.String()
}

// byServer says whether only the server can tell which rows of e reach.
func byServer(e *Edge) bool { return slices.Contains(e.Family, Server) }

// Hit reports whether the key of a row's reference leads to something erased, and the lowest request that is the
// reason (or NoRequest). edge is the Edge's ID; key is AppendKey of each of its columns in order, in the Edge's
// families. The conditions of a polymorphic reference are the caller's to check. It does not allocate.
func (e *Erased) Hit(edge int, key []byte) (request uint32, ok bool) {
	t := e.targets[e.byEdge[edge]]
	keys := t.keys
	if e.answers[edge] != nil {
		keys = e.answers[edge]
	}
	if len(keys) > 0 || len(t.base) > 0 {
		d := e.hash.sum(key)
		request, ok = keys[d]
		if first, in := t.base[d]; in && (!ok || first < request) {
			request, ok = first, true
		}
		if ok {
			return request, true
		}
	}
	if t.all {
		return NoRequest, true
	}
	return 0, false
}

// HitSubject reports whether a row of a subject's own table is the row of an erased person, and by which request. key
// is AppendKey of the subject's key column in Subject.Family. It does not allocate.
func (e *Erased) HitSubject(subject string, key []byte) (request uint32, ok bool) {
	keys := e.subjects[subject]
	if len(keys) == 0 {
		return 0, false
	}
	request, ok = keys[e.hash.sum(key)]
	return request, ok
}

// Empty says that nothing is erased: no reference and no subject's row can be hit.
func (e *Erased) Empty() bool {
	for _, t := range e.targets {
		if t.all {
			return false
		}
	}
	return e.Keys() == 0
}

// Keys is the number of keys held, one per subject's row and one per target that an owned row has.
func (e *Erased) Keys() int {
	n := 0
	for _, t := range e.targets {
		n += len(t.keys) + len(t.base)
	}
	for _, keys := range e.answers {
		n += len(keys)
	}
	for _, keys := range e.subjects {
		n += len(keys)
	}
	return n
}

// add records that key reaches by request. It reports whether that is news: the key was not known, or only by a
// later request.
func (s keySet) add(d digest, request uint32) bool {
	if known, ok := s[d]; ok && known <= request {
		return false
	}
	s[d] = request
	return true
}

// add is keySet.add for the keys that a target holds and those that it shares.
func (t *target) add(d digest, request uint32) bool {
	if known, ok := t.base[d]; ok && known <= request {
		return false
	}
	return t.keys.add(d, request)
}

// fresh returns an Erased of the same plan and hash key that holds nothing. It is for rows that no server compares,
// which have no answers.
func (e *Erased) fresh() *Erased {
	c := *e
	c.targets, c.subjects = make([]*target, len(e.targets)), make(map[string]keySet, len(e.subjects))
	for i, t := range e.targets {
		own := *t
		own.base, own.keys = nil, keySet{}
		c.targets[i] = &own
	}
	for name := range e.subjects {
		c.subjects[name] = keySet{}
	}
	return &c
}

// child returns an Erased that holds what e does, in common with it, and may come to hold more. Neither e nor the
// people in the child change from then on.
func (e *Erased) child() *Erased {
	c := e.fresh()
	c.subjects = e.subjects
	for i, t := range e.targets {
		c.targets[i].base = t.keys
	}
	return c
}

// digest is a keyed hash of a key. At 128 bits two different keys of one database share one by chance less than once
// in 10^20 databases, and without the random hash key nobody can make two that do.
type digest [16]byte

// hashKey is the key of SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012), a keyed function made for
// short inputs.
type hashKey struct{ k0, k1 uint64 }

func newHashKey() hashKey {
	var b [16]byte
	rand.Read(b[:]) // never fails, by its contract
	return hashKey{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}
}

// sum hashes p. It does not allocate.
func (h hashKey) sum(p []byte) (d digest) {
	v0 := h.k0 ^ 0x736f6d6570736575
	v1 := h.k1 ^ 0x646f72616e646f6d ^ 0xee
	v2 := h.k0 ^ 0x6c7967656e657261
	v3 := h.k1 ^ 0x7465646279746573
	length := uint64(len(p))
	for ; len(p) >= 8; p = p[8:] {
		m := binary.LittleEndian.Uint64(p)
		v3 ^= m
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0 ^= m
	}
	last := length << 56
	for i, c := range p {
		last |= uint64(c) << (8 * i)
	}
	v3 ^= last
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0 ^= last
	v2 ^= 0xee
	for range 4 {
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	}
	binary.LittleEndian.PutUint64(d[:8], v0^v1^v2^v3)
	v1 ^= 0xdd
	for range 4 {
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	}
	binary.LittleEndian.PutUint64(d[8:], v0^v1^v2^v3)
	return d
}

func sipRound(v0, v1, v2, v3 uint64) (uint64, uint64, uint64, uint64) {
	v0 += v1
	v1 = bits.RotateLeft64(v1, 13) ^ v0
	v0 = bits.RotateLeft64(v0, 32)
	v2 += v3
	v3 = bits.RotateLeft64(v3, 16) ^ v2
	v0 += v3
	v3 = bits.RotateLeft64(v3, 21) ^ v0
	v2 += v1
	v1 = bits.RotateLeft64(v1, 17) ^ v2
	v2 = bits.RotateLeft64(v2, 32)
	return v0, v1, v2, v3
}
