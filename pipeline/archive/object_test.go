package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"
)

// rowsText returns about n bytes that look like COPY rows and compress like them.
func rowsText(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]byte, 0, n+200)
	for i := 0; len(out) < n; i++ {
		out = fmt.Appendf(out, "%d\tperson-%x@example.org\t2026-11-%02d 12:00:00\t%d\t\\N\n", i, r.Uint64(), 1+r.IntN(28), r.IntN(1000))
	}
	return out[:n]
}

func TestSealOpenSizes(t *testing.T) {
	f := newFixture(t)
	sealer := newSealer(t, f.to)
	opener := newOpener(t, f.ids)
	sizes := []int{0, 1, 100, 255, 256, 257, 1023, 1024, 1025, 64<<10 - 1, 64 << 10, 64<<10 + 1, 128<<10 - 1, 128 << 10, 128<<10 + 1,
		2 << 20, 4 << 20, 4<<20 + 1, 40 << 20, 3}
	for _, size := range sizes {
		for _, kind := range []string{"rows", "random", "zeros"} {
			if size > 5<<20 && kind != "rows" {
				continue
			}
			text := make([]byte, size)
			switch kind {
			case "rows":
				copy(text, rowsText(1, size))
			case "random":
				_, _ = rand.NewChaCha8([32]byte{1}).Read(text)
			}
			sealed, err := sealer.Seal(nil, text)
			if err != nil {
				t.Fatal(err)
			}
			if sealed.Object != Digest(sealed.Data) || sealed.Size != int64(len(sealed.Data)) || sealed.Text != int64(size) {
				t.Fatalf("%d %s: Sealed does not describe its data", size, kind)
			}
			got, err := opener.Open(sealed.Data, sealed.Ref(0, PieceID{}, 0))
			if err != nil {
				t.Fatalf("%d bytes of %s: %v", size, kind, err)
			}
			if !bytes.Equal(got, text) {
				t.Fatalf("%d bytes of %s came back as %d others", size, kind, len(got))
			}
		}
	}
}

func TestSealOpenProperty(t *testing.T) {
	f := newFixture(t)
	sealer := newSealer(t, f.to)
	opener := newOpener(t, f.ids)
	rapid.Check(t, func(t *rapid.T) {
		text := bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "text"), rapid.IntRange(1, 400).Draw(t, "times"))
		sealed, err := sealer.Seal(nil, text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := opener.Open(sealed.Data, sealed.Ref(0, PieceID{}, 0))
		if err != nil || !bytes.Equal(got, text) {
			t.Fatalf("%d bytes came back as %d, %v", len(text), len(got), err)
		}
	})
}

// TestRealTools opens objects of all shapes with age and zstd at their default settings.
func TestRealTools(t *testing.T) {
	f := newFixture(t)
	sealer := newSealer(t, f.to)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "key"), []byte(f.holder.String()))
	for _, size := range []int{0, 10, 1000, 2 << 20, 20 << 20} {
		text := rowsText(3, size)
		sealed, err := sealer.Seal(nil, text)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "o"), sealed.Data)
		if got := run(t, dir, "bash", "-c", "set -o pipefail; age -d -i key o | zstd -d"); got != string(text) {
			t.Errorf("%d bytes came back as %d others", size, len(got))
		}
		if got := run(t, dir, "sha256sum", "o"); !strings.HasPrefix(got, sealed.Object) {
			t.Errorf("sha256sum says %s, the object is named %s", got, sealed.Object)
		}
		list := run(t, dir, "bash", "-c", "age -d -i key o > o.zst; zstd -l -v o.zst")
		if size > 0 && !strings.Contains(list, "Check: XXH64") {
			t.Errorf("%d bytes: the frame has no checksum:\n%s", size, list)
		}
		if size > 255 && !strings.Contains(list, fmt.Sprintf("(%d B)", size)) {
			t.Errorf("%d bytes: the frame does not say its size:\n%s", size, list)
		}
	}
	if err := os.Remove(filepath.Join(dir, "key")); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	f, other := newFixture(t), newFixture(t)
	sealer := newSealer(t, f.to)
	text := rowsText(4, 200_000)
	sealed, err := sealer.Seal(nil, text)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Clone(sealed.Data)
	good := sealed.Ref(0, PieceID{}, 0)
	open := func(ids *Identities, data []byte, want Object) error {
		t.Helper()
		o := newOpener(t, ids)
		got, err := o.Open(data, want)
		if err != nil && got != nil {
			t.Error("text came with an error")
		}
		return err
	}
	if err := open(f.ids, data, good); err != nil {
		t.Fatal(err)
	}
	if err := open(other.ids.And(f.ids), data, good); err != nil {
		t.Errorf("the second of two identities: %v", err)
	}
	for i := 0; i < len(data); i += 997 {
		flipped := bytes.Clone(data)
		flipped[i] ^= 0x20
		if err := open(f.ids, flipped, good); !errors.Is(err, ErrIntegrity) || !strings.Contains(err.Error(), "object "+good.Object+": does not match its manifest (SHA-256 differs)") {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		// Also where the manifest names the damaged bytes, decryption stands against them.
		lied := good
		lied.Object = Digest(flipped)
		if err := open(f.ids, flipped, lied); err == nil {
			t.Fatalf("byte %d flipped and named: accepted", i)
		}
	}
	for _, n := range []int{0, 1, 100, len(data) - 1} {
		if err := open(f.ids, data[:n], good); !errors.Is(err, ErrIntegrity) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
		lied := good
		lied.Object, lied.Size = Digest(data[:n]), int64(n)
		if err := open(f.ids, data[:n], lied); !errors.Is(err, ErrIntegrity) {
			t.Errorf("cut to %d bytes and named: %v", n, err)
		}
	}
	for _, d := range []int64{-1, 1, -good.Text, 1 << 40} {
		lied := good
		lied.Text += d
		if err := open(f.ids, data, lied); !errors.Is(err, ErrIntegrity) {
			t.Errorf("text size wrong by %d: %v", d, err)
		}
	}
	for name, ids := range map[string]*Identities{"operator": f.op.Identities(), "stranger": other.ids} {
		if err := open(ids, data, good); !errors.Is(err, ErrNoIdentity) || errors.Is(err, ErrIntegrity) {
			t.Errorf("%s opens an object: %v", name, err)
		}
	}
}

// TestBomb opens objects that decompress to far more than their manifest says: no memory is spent on the surplus.
func TestBomb(t *testing.T) {
	f := newFixture(t)
	zeros := make([]byte, 64<<20)
	enc, err := newEncoder()
	if err != nil {
		t.Fatal(err)
	}
	sized := enc.EncodeAll(zeros, nil)
	var unsized bytes.Buffer
	w, err := zstd.NewWriter(&unsized, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(zeros); i += 1 << 20 { // piecewise: the encoder can't know the size
		if _, err := w.Write(zeros[i : i+1<<20]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	small := enc.EncodeAll(zeros[:1000], nil)
	// A frame with one empty block that claims to hold 1 GiB, as its manifest does.
	liar := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0x50}, binary.LittleEndian.AppendUint64(nil, 1<<30)...)
	liar = append(liar, 1, 0, 0)
	for name, packed := range map[string][]byte{
		"both claim too much":     liar,
		"the frame says its size": sized,
		"the frame says nothing":  unsized.Bytes(),
		"more in a second frame":  append(bytes.Clone(small), sized...),
		"more without its size":   append(bytes.Clone(small), unsized.Bytes()...),
		"skippable":               append([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, small...),
	} {
		var out bytes.Buffer
		if err := encrypt(&out, packed, f.to.list); err != nil {
			t.Fatal(err)
		}
		o := newOpener(t, f.ids)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		want := Object{Object: Digest(out.Bytes()), Size: int64(out.Len()), Text: 1000}
		if bytes.Equal(packed, liar) {
			want.Text = 1 << 30
		}
		_, err = o.Open(out.Bytes(), want)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrIntegrity) {
			t.Errorf("%s: %v", name, err)
		}
		if spent := after.TotalAlloc - before.TotalAlloc; spent > 16<<20 {
			t.Errorf("%s: %d bytes were allocated", name, spent)
		}
	}
}

// TestOpenerReusesItsMemory opens texts of many sizes in turn while somebody keeps a row of each of them, as whoever
// splits rows does: that must not keep many texts.
func TestOpenerReusesItsMemory(t *testing.T) {
	f := newFixture(t)
	sealer := newSealer(t, f.to)
	o := newOpener(t, f.ids)
	var sealed []Sealed
	for k := range 40 {
		s, err := sealer.Seal(nil, make([]byte, 3<<20+k<<14-k%2<<20)) // every second one is longer than all before
		if err != nil {
			t.Fatal(err)
		}
		sealed = append(sealed, s)
	}
	var kept [][]byte
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for _, s := range sealed {
		text, err := o.Open(s.Data, s.Ref(0, PieceID{}, 0))
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(text)) != s.Text {
			t.Fatalf("%d bytes came of %d", len(text), s.Text)
		}
		kept = append(kept, text[:1])
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(kept)
	if held := int64(after.HeapAlloc) - int64(before.HeapAlloc); held > 8<<20 {
		t.Errorf("%d bytes are held by a byte of each text", held)
	}
}

// TestSealerKeepsNoLongRow seals the text of a huge row, as one row in a million may be: what that took is free again.
func TestSealerKeepsNoLongRow(t *testing.T) {
	f := newFixture(t)
	sealer := newSealer(t, f.to)
	text := make([]byte, 2*keepBuffer)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(text)
	seal := func(text []byte) {
		if _, err := sealer.Seal(nil, text); err != nil {
			t.Fatal(err)
		}
	}
	seal(text[:keepBuffer+1]) // what a sealer makes for itself, once
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	seal(text)
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(text)
	runtime.KeepAlive(sealer)
	if held := int64(after.HeapAlloc) - int64(before.HeapAlloc); held > 1<<20 {
		t.Errorf("%d bytes are held after a text of %d", held, len(text))
	}
}

func TestPieceID(t *testing.T) {
	f, other := newFixture(t), newFixture(t)
	id := func(key SecretKey, to *Recipients, text string) string {
		t.Helper()
		p, err := NewPieces(key, to)
		if err != nil {
			t.Fatal(err)
		}
		p.ID([]byte("something before"))
		whole := p.ID([]byte(text))
		p.Begin()
		for _, b := range []byte(text) {
			p.Add([]byte{b})
		}
		if inBits := p.End(); inBits != whole {
			t.Errorf("bit by bit the id is %s", inBits)
		}
		return whole.String()
	}
	base := id(f.op.PieceID, f.to, "text")
	if !isHex(base, 64) || base != id(f.op.PieceID, f.to, "text") {
		t.Errorf("not a repeatable id: %s", base)
	}
	for name, got := range map[string]string{
		"text": id(f.op.PieceID, f.to, "texT"), "key": id(other.op.PieceID, f.to, "text"), "recipients": id(f.op.PieceID, other.to, "text"),
	} {
		if got == base {
			t.Errorf("another %s has the same id", name)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	f := newFixture(b)
	s := newSealer(b, f.to)
	text := rowsText(5, AvgPiece)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	var dst []byte
	for b.Loop() {
		sealed, err := s.Seal(dst, text)
		if err != nil {
			b.Fatal(err)
		}
		dst = sealed.Data
	}
}

func BenchmarkOpen(b *testing.B) {
	f := newFixture(b)
	s := newSealer(b, f.to)
	sealed, err := s.Seal(nil, rowsText(5, AvgPiece))
	if err != nil {
		b.Fatal(err)
	}
	o := newOpener(b, f.ids)
	b.SetBytes(sealed.Text)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := o.Open(sealed.Data, sealed.Ref(0, PieceID{}, 0)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPieceID(b *testing.B) {
	f := newFixture(b)
	p, err := NewPieces(f.op.PieceID, f.to)
	if err != nil {
		b.Fatal(err)
	}
	text := rowsText(5, AvgPiece)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		p.ID(text)
	}
}
