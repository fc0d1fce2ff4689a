package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
)

// MaxText is the most text one object may hold: PostgreSQL's longest possible COPY line is just under 1 GiB, and
// redaction may lengthen it.
const MaxText = 2 << 30

// maxRatio is the most that zstd can expand: a run-length block makes 128 KiB of 4 bytes.
const maxRatio = 32 << 10

// keepBuffer is the largest buffer that a Sealer or Opener keeps for the next object; a huge row's is let go.
const keepBuffer = 32 << 20

// Sealed is one object, ready to be stored.
type Sealed struct {
	Object string // SHA-256 of Data, 64 hexadecimal digits
	Data   []byte // the age file
	Text   int64  // bytes of the text inside
	Size   int64  // len(Data)
}

// Sealer turns text into objects. It reuses its memory, so each worker needs its own.
type Sealer struct {
	recipients []age.Recipient
	enc        *zstd.Encoder
	packed     []byte
}

// NewSealer returns a Sealer for objects, which are encrypted to the recipients alone: never pass a set that holds the
// operator's key.
func NewSealer(recipients *Recipients) (*Sealer, error) {
	enc, err := newEncoder()
	if err != nil {
		return nil, err
	}
	return &Sealer{recipients: recipients.list, enc: enc}, nil
}

// newEncoder returns the encoder of every zstd frame of the format: content checksum, a window of at most 4 MiB that
// `zstd -d` takes without options, and a level that packs as `zstd -3` does. The level below is half as fast again, and
// prose is a tenth longer for it: that would be paid in every store for as long as it keeps the object, whereas of most
// runs only a few pieces are packed at all.
func newEncoder() (*zstd.Encoder, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(4<<20),
		zstd.WithEncoderConcurrency(1), zstd.WithZeroFrames(true),
		// Tokens in hex or base64 repeat nothing; they still shrink by half.
		zstd.WithAllLitEntropyCompression(true))
	if err != nil {
		return nil, fmt.Errorf("make a zstd encoder: %w", err)
	}
	return enc, nil
}

// Seal compresses and encrypts text. The object is made in dst's memory where that suffices, and is the caller's. On an
// error nothing is returned, so that nothing half sealed can be stored.
func (s *Sealer) Seal(dst, text []byte) (Sealed, error) {
	if len(text) > MaxText {
		return Sealed{}, &Error{Name: "object", Msg: fmt.Sprintf("a text of %d bytes is longer than an object may hold (%d)", len(text), int64(MaxText))}
	}
	out := bytes.NewBuffer(dst[:0])
	if len(text) > keepBuffer {
		if err := s.sealLong(out, text); err != nil {
			return Sealed{}, &Error{Name: "object", Msg: "encrypt", Err: err}
		}
	} else {
		s.packed = s.enc.EncodeAll(text, s.packed[:0])
		if err := encrypt(out, s.packed, s.recipients); err != nil {
			return Sealed{}, &Error{Name: "object", Msg: "encrypt", Err: err}
		}
	}
	data := out.Bytes()
	sum := sha256.Sum256(data)
	sealed := Sealed{Object: hex.EncodeToString(sum[:]), Data: data, Text: int64(len(text)), Size: int64(len(data))}
	if cap(s.packed) > keepBuffer {
		s.packed = nil
	}
	return sealed, nil
}

// sealLong is for the text of one huge row: it is compressed straight into the encryptor, so that it is in memory once,
// and the object once. The result is of the same form.
func (s *Sealer) sealLong(out *bytes.Buffer, text []byte) error {
	out.Grow(len(text) + len(text)>>8 + 1<<16) // no more than the text, but for frames; pages never written cost nothing
	sealed, err := age.Encrypt(out, s.recipients...)
	if err != nil {
		return err
	}
	defer s.enc.Reset(nil) // it would hold on to the object until the next long row
	s.enc.ResetContentSize(sealed, int64(len(text)))
	if _, err := s.enc.Write(text); err != nil {
		return err
	}
	if err := s.enc.Close(); err != nil {
		return err
	}
	return sealed.Close()
}

// encrypt writes plain to dst as one age file. On an error the encryptor is abandoned, never closed: an age file that
// was closed early decrypts without complaint.
func encrypt(dst *bytes.Buffer, plain []byte, recipients []age.Recipient) error {
	const header, chunk = 4 << 10, 64 << 10
	dst.Grow(len(plain) + (len(plain)/chunk+1)*16 + header)
	w, err := age.Encrypt(dst, recipients...)
	if err != nil {
		return err
	}
	if _, err := w.Write(plain); err != nil {
		return err
	}
	return w.Close()
}

// Opener turns objects back into text. It reuses its memory, so each worker needs its own.
type Opener struct {
	identities *Identities
	dec        *zstd.Decoder
	packed     bytes.Buffer
	text       []byte // empty, and no longer than keepBuffer
}

// NewOpener returns an Opener that decrypts with the identities.
func NewOpener(identities *Identities) (*Opener, error) {
	dec, err := newDecoder()
	if err != nil {
		return nil, err
	}
	return &Opener{identities: identities, dec: dec}, nil
}

// newDecoder returns a decoder that writes only into the memory it is given.
func newDecoder() (*zstd.Decoder, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20),
		zstd.WithDecoderMaxMemory(MaxText), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("make a zstd decoder: %w", err)
	}
	return dec, nil
}

// Open checks data against its manifest entry and returns the text, valid until the next Open. In this order: size and
// SHA-256, then decryption, then decompression into exactly the text size that the manifest names. What does not match is an
// ErrIntegrity that names the object; identities that don't fit are an ErrNoIdentity.
func (o *Opener) Open(data []byte, want Object) ([]byte, error) {
	if err := CheckObject(data, want); err != nil {
		return nil, err
	}
	if int64(cap(o.text)) < want.Text && want.Text <= keepBuffer { // a longer one gets memory that is let go with it
		// Whoever looked at the last text may hold on to a row of it, and so to all of it: few sizes are few of those.
		o.text = make([]byte, 0, 1<<bits.Len64(uint64(want.Text-1)))
	}
	if o.packed.Cap() > keepBuffer {
		o.packed = bytes.Buffer{}
	}
	o.packed.Reset()
	name := "object " + want.Object
	if err := decrypt(&o.packed, data, name, o.identities); err != nil {
		return nil, err
	}
	text, err := unpack(o.dec, o.text, o.packed.Bytes(), want.Text, want.Text)
	if err != nil {
		return nil, &Error{Name: name, Msg: "decompress", Err: err, Kind: ErrIntegrity, Try: tryOtherStore}
	}
	return text, nil
}

const tryOtherStore = "lethe check --read-data all to list every damaged object; another store may hold a good copy"

// CheckObject compares size and SHA-256 of data with its manifest entry. It needs no key.
func CheckObject(data []byte, want Object) error {
	if int64(len(data)) != want.Size {
		return &Error{Name: "object " + want.Object, Msg: fmt.Sprintf("does not match its manifest (%d bytes, not %d)", len(data), want.Size),
			Kind: ErrIntegrity, Try: tryOtherStore}
	}
	sum := sha256.Sum256(data)
	if hex.EncodeToString(sum[:]) != want.Object {
		return &Error{Name: "object " + want.Object, Msg: "does not match its manifest (SHA-256 differs)", Kind: ErrIntegrity, Try: tryOtherStore}
	}
	return nil
}

// decrypt appends the plaintext of the age file data to dst; name is for errors.
func decrypt(dst *bytes.Buffer, data []byte, name string, identities *Identities) error {
	r, err := age.Decrypt(bytes.NewReader(data), identities.list()...)
	var noMatch *age.NoIdentityMatchError
	if errors.As(err, &noMatch) {
		return &Error{Name: name, Msg: "none of the identities given can decrypt it", Kind: ErrNoIdentity,
			Try: "pass --identity with the private key of one of the recipients"}
	}
	if err != nil {
		return &Error{Name: name, Msg: "decrypt", Err: err, Kind: ErrIntegrity, Try: tryOtherStore}
	}
	dst.Grow(len(data))
	if _, err := io.Copy(dst, r); err != nil {
		return &Error{Name: name, Msg: "decrypt", Err: err, Kind: ErrIntegrity, Try: tryOtherStore}
	}
	return nil
}

// unpack decompresses one zstd frame that must hold at least lo and at most hi bytes, into buf's memory where that
// suffices. Nothing beyond hi bytes is allocated or written, whatever the frame says, and nothing at all where its
// header already disagrees or claims more than its length could yield.
func unpack(dec *zstd.Decoder, buf, packed []byte, lo, hi int64) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(packed); err != nil {
		return nil, fmt.Errorf("read the zstd header: %w", err)
	}
	if h.Skippable {
		return nil, errors.New("a skippable zstd frame stands where the data should")
	}
	size := hi
	if h.HasFCS {
		if h.FrameContentSize > uint64(hi) || h.FrameContentSize < uint64(lo) {
			return nil, fmt.Errorf("holds %d bytes, not %s", h.FrameContentSize, between(lo, hi))
		}
		size = int64(h.FrameContentSize)
	}
	if size/maxRatio > int64(len(packed)) {
		return nil, fmt.Errorf("claims %d bytes of text in %d compressed ones", size, len(packed))
	}
	if int64(cap(buf)) < size || buf == nil {
		buf = make([]byte, 0, size)
	}
	text, err := dec.DecodeAll(packed, buf[:0:size])
	if err != nil {
		if errors.Is(err, zstd.ErrDecoderSizeExceeded) {
			return nil, fmt.Errorf("holds more than %d bytes", size)
		}
		return nil, err
	}
	if int64(len(text)) < lo || (h.HasFCS && int64(len(text)) != size) {
		return nil, fmt.Errorf("holds %d bytes, not %s", len(text), between(lo, hi))
	}
	return text, nil
}

func between(lo, hi int64) string {
	if lo == hi {
		return fmt.Sprint(lo)
	}
	return fmt.Sprintf("%d to %d", lo, hi)
}

// Pieces names pieces. It reuses its state, so each worker needs its own.
type Pieces struct {
	h      *blake3.Hasher
	prefix [32]byte
	sum    PieceID
}

// NewPieces returns the namer for one piece-id key and one set of recipients (those of objects, without the operator).
func NewPieces(key SecretKey, recipients *Recipients) (*Pieces, error) {
	k := key.Bytes()
	h, err := blake3.NewKeyed(k[:])
	if err != nil {
		return nil, fmt.Errorf("key the piece ids: %w", err)
	}
	return &Pieces{h: h, prefix: recipients.Digest()}, nil
}

// ID returns the piece id of text: BLAKE3, keyed with the piece-id key, over the recipients' digest and the text. Equal
// texts have equal ids; without the key an id says nothing about the text. It does not allocate.
func (p *Pieces) ID(text []byte) PieceID {
	p.Begin()
	p.Add(text)
	return p.End()
}

// Begin, Add and End are ID of a text that comes bit by bit.
func (p *Pieces) Begin() {
	p.h.Reset()
	p.Add(p.prefix[:])
}

// Add takes the next bytes of the text that Begin began.
func (p *Pieces) Add(text []byte) { _, _ = p.h.Write(text) } // a hash does not fail

// End returns the id of all that was added.
func (p *Pieces) End() PieceID {
	p.h.Sum(p.sum[:0])
	return p.sum
}

// PieceID names a text under a piece-id key and for a set of recipients.
type PieceID [32]byte

// String returns the id as manifests write it: 64 hexadecimal digits.
func (id PieceID) String() string { return hex.EncodeToString(id[:]) }

// ParsePieceID reads what String gives.
func ParsePieceID(s string) (id PieceID, err error) {
	if !isHex(s, 2*len(id)) {
		return id, &Error{Name: "piece id", Msg: "not 64 hexadecimal digits", Kind: ErrIntegrity}
	}
	_, err = hex.Decode(id[:], []byte(s))
	return id, err
}
