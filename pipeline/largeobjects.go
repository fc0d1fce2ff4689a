package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strconv"
	"sync"

	"lethe/pipeline/archive"
	"lethe/pipeline/source"
	"lethe/scrub/catalog"
	"lethe/scrub/copytext"
)

// lostObjects finds the large objects that rules take along, for an erased person or for everybody: those whose number stood
// in a row that goes, or in a column that is cut or rewritten, and stands in no row that stays. It holds numbers of large
// objects, no other value.
type lostObjects struct {
	mu         sync.Mutex
	gone, kept map[uint32]struct{}
}

func (l *lostObjects) add(gone, kept map[uint32]struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone == nil {
		l.gone, l.kept = map[uint32]struct{}{}, map[uint32]struct{}{}
	}
	for n := range gone {
		l.gone[n] = struct{}{}
	}
	for n := range kept {
		l.kept[n] = struct{}{}
	}
}

func (l *lostObjects) lost(n uint32) bool {
	_, gone := l.gone[n]
	_, kept := l.kept[n]
	return gone && !kept
}

// objectColumns returns which columns of a relation hold numbers of large objects: those of type oid, or lo.
func objectColumns(rel *source.Relation, cat *catalog.Catalog) (at []int) {
	t := cat.Tables[rel.Name]
	if t == nil {
		return nil
	}
	for i, name := range rel.Columns {
		c := t.Column(name)
		if c == nil {
			continue
		}
		base, _, _ := cat.Base(c.Type)
		if !base.Array && (base.Name == catalog.Name{Schema: "pg_catalog", Name: "oid"} || base.Name.Name == "lo" || c.Type.Name.Name == "lo") {
			at = append(at, i)
		}
	}
	return at
}

// objectWatch looks at the rows of one table as they come and as they go.
type objectWatch struct {
	at         []int
	fields     [][]byte
	before     []uint32
	gone, kept map[uint32]struct{}
}

func newObjectWatch(at []int) *objectWatch {
	if len(at) == 0 {
		return nil
	}
	return &objectWatch{at: at, gone: map[uint32]struct{}{}, kept: map[uint32]struct{}{}}
}

// row takes a row as it came, and what became of it (empty where it was dropped).
func (w *objectWatch) row(row, out []byte) {
	w.before = w.numbers(row, w.before[:0])
	if len(out) > 0 {
		for _, n := range w.numbers(out, nil) {
			w.kept[n] = struct{}{}
		}
	}
	for _, n := range w.before {
		if _, stays := w.kept[n]; !stays || len(out) == 0 {
			w.gone[n] = struct{}{}
		}
	}
}

func (w *objectWatch) numbers(row []byte, to []uint32) []uint32 {
	w.fields, _ = copytext.SplitN(row, w.at[len(w.at)-1]+1, w.fields[:0])
	for _, i := range w.at {
		if i < len(w.fields) && !copytext.IsNull(w.fields[i]) {
			if n, err := strconv.ParseUint(string(w.fields[i]), 10, 32); err == nil && n != 0 {
				to = append(to, uint32(n))
			}
		}
	}
	return to
}

// largeObjects stores every large object that no rule takes along, as SQL text, in pieces cut between statements.
func (b *backup) largeObjects(ctx context.Context) error {
	p := &part{Part: archive.Part{Kind: archive.LargeObjects, Name: string(archive.LargeObjects)}, pieces: make([][]*piece, 1)}
	b.parts = append(b.parts, p)
	piece := b.writer.Buffer()
	for i := range b.objects {
		lo := &b.objects[i]
		if b.lost.lost(lo.OID) {
			p.Dropped++
			continue
		}
		err := b.snap.LargeObject(ctx, lo, func(statement []byte) error {
			if len(piece) > 0 && len(piece)+len(statement) > archive.AvgPiece {
				if err := b.seal(piece, p); err != nil {
					return err
				}
				piece = b.writer.Buffer()
			}
			piece = append(piece, statement...)
			return nil
		})
		if err != nil {
			return fmt.Errorf("large object %d: %w", lo.OID, err)
		}
	}
	if len(piece) == 0 {
		b.writer.recycle(piece)
		return nil
	}
	return b.seal(piece, p)
}

// objectFilter takes large objects out of the statements that make them. Texts are given to it in their order: one large
// object may go on from text to text.
type objectFilter struct {
	lost map[uint32]struct{}
	gone int64 // large objects taken out

	taking bool // the object whose statements stand here goes
}

// begins matches the statements that say which large object those after it are about.
var begins = regexp.MustCompile(`^SELECT (?:pg_catalog\.)?(lo_create|lo_put)\('([0-9]+)'`)

// apply returns a text without the statements of the objects that go; the others' stay byte for byte.
func (f *objectFilter) apply(text []byte) (left []byte, err error) {
	statements, err := catalog.Split(string(text))
	if err != nil {
		return nil, err
	}
	at := 0
	for _, s := range statements {
		i := bytes.Index(text[at:], []byte(s.Text))
		if i < 0 {
			return nil, fmt.Errorf("a statement of line %d is not in its text", s.Line)
		}
		end := at + i + len(s.Text)
		for end < len(text) && text[end] == '\n' {
			end++
		}
		if m := begins.FindStringSubmatch(s.Text); m != nil {
			oid, err := strconv.ParseUint(m[2], 10, 32)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", s.Line, err)
			}
			_, f.taking = f.lost[uint32(oid)]
			if f.taking && m[1] == "lo_create" {
				f.gone++
			}
		}
		if !f.taking {
			left = append(left, text[at:end]...)
		}
		at = end
	}
	if left = append(left, text[at:]...); len(bytes.TrimSpace(left)) == 0 {
		return nil, nil
	}
	return left, nil
}
