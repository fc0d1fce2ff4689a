package pipeline

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"lethe/pipeline/archive"
)

// journal remembers on the operator's machine which pieces a run has put into one store, until a manifest names them: a
// run that follows an interrupted one need not send them again. It is a hint and no more; what it says counts only where
// the store lists the object.
//
// The file is a row of records of journalRecord bytes: piece id, object, its size, bytes of text, and a keyed digest over them that binds
// them to repository and store. A record that is torn, damaged or foreign is passed over. It holds digests and sizes
// alone, no values.
type journal struct {
	path string
	key  []byte

	mu   sync.Mutex
	file *os.File // open for appending once something was added
	err  error    // from the moment it could not be written: it is given up then
	old  []byte   // what an interrupted run left
}

const (
	journalDigest = 8
	journalRecord = 32 + 32 + 8 + 8 + journalDigest
	// longestJournal is what is read of one: 1.6 million pieces, some 3 TB of text.
	longestJournal = 128 << 20
)

// openJournal reads what an interrupted run has left. Where dir is "" nothing is remembered.
func openJournal(dir, repository, storeURL string, key archive.SecretKey) (*journal, error) {
	if dir == "" {
		return nil, nil
	}
	k := key.Bytes()
	mac := hmac.New(sha256.New, k[:])
	mac.Write([]byte("lethe journal\x00" + repository + "\x00" + storeURL))
	name := sha256.Sum256([]byte(storeURL))
	j := &journal{path: filepath.Join(dir, repository, "journal", hex.EncodeToString(name[:8])), key: mac.Sum(nil)}
	info, err := os.Stat(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err == nil && info.Size() > longestJournal {
		err = fmt.Errorf("it is %d bytes long", info.Size())
	}
	if err == nil {
		j.old, err = os.ReadFile(j.path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the journal of an interrupted run: %w", err)
	}
	return j, nil
}

// each calls fn for every piece that an interrupted run has put.
func (j *journal) each(fn func(archive.PieceID, placed)) {
	if j == nil {
		return
	}
	for rest := j.old; len(rest) >= journalRecord; rest = rest[journalRecord:] {
		body, digest := rest[:journalRecord-journalDigest], rest[journalRecord-journalDigest:journalRecord]
		if hmac.Equal(j.digest(body), digest) {
			fn(archive.PieceID(body[:32]), placed{objectID(body[32:64]), int64(binary.BigEndian.Uint64(body[64:])), int64(binary.BigEndian.Uint64(body[72:]))})
		}
	}
	j.old = nil
}

func (j *journal) digest(body []byte) []byte {
	mac := hmac.New(sha256.New, j.key)
	mac.Write(body)
	return mac.Sum(nil)[:journalDigest]
}

// add remembers a piece that was put. Its error comes once; after it nothing is remembered any more.
func (j *journal) add(id archive.PieceID, at placed) error {
	if j == nil {
		return nil
	}
	body := make([]byte, 0, journalRecord)
	body = append(append(body, id[:]...), at.object[:]...)
	body = binary.BigEndian.AppendUint64(body, uint64(at.size))
	body = binary.BigEndian.AppendUint64(body, uint64(at.text))
	body = append(body, j.digest(body)...)
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return nil
	}
	if j.err = j.write(body); j.err != nil {
		return fmt.Errorf("write the journal: %w", j.err)
	}
	return nil
}

func (j *journal) write(record []byte) (err error) {
	if j.file == nil {
		if err := os.MkdirAll(filepath.Dir(j.path), 0o700); err != nil {
			return err
		}
		if j.file, err = os.OpenFile(j.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600); err != nil {
			return err
		}
		// A run that was killed in the middle of a record would shift all that follow.
		info, err := j.file.Stat()
		if err != nil {
			return err
		}
		if err := j.file.Truncate(info.Size() - info.Size()%journalRecord); err != nil {
			return err
		}
	}
	_, err = j.file.Write(record)
	return err
}

// done forgets everything: a manifest names it now.
func (j *journal) done() error {
	if j == nil {
		return nil
	}
	j.close()
	if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the journal: %w", err)
	}
	return nil
}

// close lets go of the file; what it says stays.
func (j *journal) close() {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file != nil {
		_ = j.file.Close() // a hint: each record was written when it was added
		j.file = nil
	}
}
