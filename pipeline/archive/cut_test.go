package archive

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func testCutter(n byte) *Cutter { return NewCutter(NewSecretKey([32]byte{n})) }

// cut splits rows into pieces as a backup does and returns the index of each piece's first row, and the piece lengths.
func cut(c *Cutter, rows [][]byte) (starts, sizes []int) {
	size := 0
	begin := func(i int) { starts, sizes, size = append(starts, i), append(sizes, 0), 0 }
	open := false
	for i, row := range rows {
		before, after := c.Cut(row, size)
		if before || !open {
			begin(i)
		}
		size += len(row)
		sizes[len(sizes)-1] = size
		open = !after
		if after {
			size = 0
		}
	}
	return starts, sizes
}

// piece stands for a piece's content: on random rows, first row and length are enough to tell pieces apart.
type piece struct {
	first string
	size  int
}

func pieceSet(c *Cutter, rows [][]byte) map[piece]bool {
	starts, sizes := cut(c, rows)
	set := make(map[piece]bool, len(starts))
	for i, s := range starts {
		set[piece{string(rows[s]), sizes[i]}] = true
	}
	return set
}

func randomRows(r *rand.Rand, total, minRow, maxRow int) [][]byte {
	var rows [][]byte
	for n := 0; n < total; {
		row := make([]byte, minRow+r.IntN(maxRow-minRow+1))
		for i := 0; i < len(row); i += 8 { // letters; one random number for eight of them is enough, and fast
			x := r.Uint64()
			for j := i; j < min(i+8, len(row)); j, x = j+1, x>>8 {
				row[j] = 'a' + byte(x)&15
			}
		}
		row[len(row)-1] = '\n'
		rows, n = append(rows, row), n+len(row)
	}
	return rows
}

func TestCutAverage(t *testing.T) {
	for _, tt := range []struct{ minRow, maxRow int }{{20, 60}, {40, 400}, {1000, 20_000}, {50_000, 150_000}} {
		t.Run(fmt.Sprintf("rows of %d to %d", tt.minRow, tt.maxRow), func(t *testing.T) {
			const total = 128 << 20
			rows := randomRows(rand.New(rand.NewPCG(1, 2)), total/2, tt.minRow, tt.maxRow)
			pieces, sum := 0, 0
			for key := range byte(4) { // the same rows under four keys are as good as four tables
				_, sizes := cut(testCutter(key), rows)
				for _, s := range sizes[:len(sizes)-1] {
					if s < MinPiece || s > MaxPiece {
						t.Fatalf("a piece of %d bytes", s)
					}
					pieces, sum = pieces+1, sum+s
				}
			}
			avg := float64(sum) / float64(pieces) / (1 << 20)
			t.Logf("%d pieces of %.2f MiB on average", pieces, avg)
			if avg < 1.6 || avg > 2.4 {
				t.Errorf("pieces of %.2f MiB on average, want 1.6 to 2.4", avg)
			}
		})
	}
}

// TestCutFiner: at the end of a table pieces are an eighth as long, and no shorter than an eighth of the least.
func TestCutFiner(t *testing.T) {
	rows := randomRows(rand.New(rand.NewPCG(1, 2)), 64<<20, 40, 400)
	_, sizes := cut(testCutter(1).Finer(), rows)
	sum := 0
	for _, s := range sizes[:len(sizes)-1] {
		if s < MinPiece/8 {
			t.Fatalf("a piece of %d bytes", s)
		}
		sum += s
	}
	if avg := float64(sum) / float64(len(sizes)-1) / (1 << 20); avg < 0.2 || avg > 0.3 {
		t.Errorf("pieces of %.2f MiB on average, want 0.2 to 0.3", avg)
	}
}

func TestCutDeterministic(t *testing.T) {
	rows := randomRows(rand.New(rand.NewPCG(3, 4)), 16<<20, 100, 1000)
	a, _ := cut(testCutter(1), rows)
	b, _ := cut(testCutter(1), rows)
	c, _ := cut(testCutter(2), rows)
	if fmt.Sprint(a) != fmt.Sprint(b) {
		t.Error("two cutters of one key differ")
	}
	if fmt.Sprint(a) == fmt.Sprint(c) {
		t.Error("the key does not matter")
	}
}

// TestCutResynchronises edits, inserts and deletes rows anywhere: all but a few pieces stay what they were.
func TestCutResynchronises(t *testing.T) {
	base := randomRows(rand.New(rand.NewPCG(5, 6)), 48<<20, 200, 3000)
	c := testCutter(7)
	before := pieceSet(c, base)
	// A change can move one end. The pieces from there on meet the old ones again after so many, wherever it is.
	sums, ends, starts := []int{0}, []int{}, map[int]bool{len(base): true}
	for i, row := range base {
		sums = append(sums, sums[i]+len(row))
		if _, after := c.Cut(row, MinPiece); after { // it ends every piece that is long enough
			ends = append(ends, i+1)
		}
	}
	old, _ := cut(c, base)
	for _, start := range old {
		starts[start] = true
	}
	worst := 0
	for start := range base {
		n := 0
		for at := start; !starts[at]; n++ {
			i := slices.IndexFunc(ends, func(end int) bool { return end > at && sums[end]-sums[at] >= MinPiece })
			if i < 0 {
				at = len(base)
			} else {
				at = ends[i]
			}
		}
		worst = max(worst, n)
	}
	t.Logf("of %d pieces, at most %d are other ones when one begins elsewhere", len(before), worst)
	if worst > len(before)/3 {
		t.Errorf("of %d pieces %d are other ones when one begins elsewhere", len(before), worst)
	}
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.IntRange(0, len(base)-1).Draw(t, "at")
		change := rapid.SampledFrom([]string{"edit", "insert", "delete"}).Draw(t, "change")
		row := append(rapid.SliceOfN(rapid.ByteRange('a', 'z'), 1, 5000).Draw(t, "row"), '\n')
		rows := append([][]byte(nil), base[:at]...)
		switch change {
		case "edit":
			rows = append(append(rows, row), base[at+1:]...)
		case "insert":
			rows = append(append(rows, row), base[at:]...)
		case "delete":
			rows = append(rows, base[at+1:]...)
		}
		fresh := 0
		for p := range pieceSet(c, rows) {
			if !before[p] {
				fresh++
			}
		}
		if fresh > 1+worst { // the piece of the change, and those until the ends meet again
			t.Fatalf("%d of %d pieces are new after one %s", fresh, len(before), change)
		}
	})
}

func TestCutSizes(t *testing.T) {
	c := testCutter(9)
	big := make([]byte, 20<<20)
	if before, after := c.Cut(big, 0); before || !after {
		t.Error("a row longer than any piece is not a piece of its own at the start")
	}
	if before, after := c.Cut(big, 1); !before || !after {
		t.Error("a row longer than any piece is not a piece of its own after others")
	}
	if _, after := c.Cut(make([]byte, MaxPiece), 0); !after {
		t.Error("a row as long as the longest piece does not end it")
	}
	if before, _ := c.Cut(big[:10], MaxPiece-10); before {
		t.Error("a row that just fits begins a new piece")
	}
	if before, _ := c.Cut(big[:11], MaxPiece-10); !before {
		t.Error("a row that exceeds the longest piece does not begin a new one")
	}
	rapid.Check(t, func(t *rapid.T) {
		lens := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(1, 2000), rapid.IntRange(1, 1<<20), rapid.IntRange(1, 18<<20)), 1, 60).Draw(t, "rows")
		rows := make([][]byte, len(lens))
		for i, n := range lens {
			rows[i] = big[:n]
		}
		starts, sizes := cut(c, rows)
		total, first := 0, 0
		for i, s := range sizes {
			end := len(rows)
			if i+1 < len(starts) {
				end = starts[i+1]
			}
			if s > MaxPiece && end-first > 1 {
				t.Fatalf("a piece of %d bytes and %d rows", s, end-first)
			}
			// Shorter than the minimum only where the next row would have exceeded the maximum, and at the end.
			if s < MinPiece && end < len(rows) && s+len(rows[end]) <= MaxPiece {
				t.Fatalf("a piece of %d bytes", s)
			}
			total, first = total+s, end
		}
		want := 0
		for _, n := range lens {
			want += n
		}
		if total != want {
			t.Fatalf("the pieces hold %d bytes of %d", total, want)
		}
	})
}

func TestCutAllocatesNothing(t *testing.T) {
	c, row := testCutter(1), []byte("1\tsome row\n")
	if n := testing.AllocsPerRun(100, func() { c.Cut(row, 1<<20) }); n != 0 {
		t.Errorf("%v allocations per row", n)
	}
}

func BenchmarkCut(b *testing.B) {
	for _, size := range []int{30, 120, 1000} {
		b.Run(fmt.Sprintf("row=%d", size), func(b *testing.B) {
			c, row := testCutter(1), bytes.Repeat([]byte("x"), size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				c.Cut(row, 1<<20)
			}
		})
	}
}
