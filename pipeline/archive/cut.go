package archive

import (
	"encoding/binary"

	"github.com/zeebo/blake3"
	"github.com/zeebo/xxh3"
)

// Sizes of pieces, in bytes of rows.
const (
	MinPiece = 1 << 20  // no cut before this, except ahead of a row that would exceed MaxPiece
	AvgPiece = 2 << 20  // what rows much shorter than a piece come to on average
	MaxPiece = 16 << 20 // no piece is longer, except a single row that is

	// Tail is how much at the end of a table is cut anew, by Finer: all that follows the last end that so many bytes
	// follow. Most rows come and go there, so what is new in every run must be little; everywhere else long pieces pack
	// better, and are fewer to store.
	Tail  = 2 << 20
	finer = 8 // how much shorter pieces are there
)

// Cutter decides where pieces of a table end, from each row's own content, so that a change moves only the ends near
// it. It is deterministic under its key, keeps no state and allocates nothing; goroutines may share it.
type Cutter struct {
	seed    uint64
	least   int
	sure    int    // bytes of a row that ends the piece whatever it is
	perByte uint64 // the chance, in units of 2⁻⁶⁴, that one byte of row past least ends the piece: a geometric tail
}

// NewCutter returns the Cutter of a piece-id key. Where pieces end says something about the rows to who sees the objects'
// sizes, hence the key.
func NewCutter(key SecretKey) *Cutter {
	k := key.Bytes()
	var seed [8]byte
	blake3.DeriveKey("lethe v1 piece boundaries", k[:], seed[:])
	return newCutter(binary.LittleEndian.Uint64(seed[:]), MinPiece, AvgPiece)
}

// Finer returns the Cutter of the rows at the end of a table.
func (c *Cutter) Finer() *Cutter { return newCutter(c.seed, MinPiece/finer, AvgPiece/finer) }

func newCutter(seed uint64, least, average int) *Cutter {
	return &Cutter{seed: seed, least: least, sure: average - least, perByte: (1<<64 - 1) / uint64(average-least)}
}

// Cut is asked before row is added to a piece that holds the given number of bytes of rows so far. before says that the
// piece must end first and row begins a new one; after says that the piece which row is now part of ends with it.
func (c *Cutter) Cut(row []byte, piece int) (before, after bool) {
	size := piece + len(row)
	if size > MaxPiece && piece > 0 {
		before, size = true, len(row)
	}
	switch {
	case size < c.least:
		return before, false
	case size >= MaxPiece || len(row) >= c.sure:
		return before, true
	}
	return before, xxh3.HashSeed(row, c.seed) < uint64(len(row))*c.perByte
}
