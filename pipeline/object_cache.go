package pipeline

import (
	"os"
	"sync"
)

// How many bytes of objects are kept for another pass over them: in memory, and beyond that in a temporary file.
const (
	keptInMemory = 64 << 20
	keptInFile   = 512 << 20
)

// objectCache keeps objects that were fetched, encrypted as they came: whoever follows references passes over the same
// ones again and again. What it has room for stays to the end, as every pass goes through the same order and would always
// miss what was put out for being the oldest. The file has no name, so that nothing is left of it however the process
// ends; where none can be written, objects are fetched again.
type objectCache struct {
	inMemory, inFile int64 // limits

	mu     sync.Mutex
	data   map[objectID][]byte
	size   int64
	file   *os.File
	places map[objectID]place
	end    int64 // of what is in the file
	full   bool  // nothing more goes into the file
}

// place is where in the file an object is.
type place struct{ from, size int64 }

func newObjectCache() *objectCache {
	return &objectCache{inMemory: keptInMemory, inFile: keptInFile, data: map[objectID][]byte{}, places: map[objectID]place{}}
}

// get returns an object, or nil.
func (c *objectCache) get(id objectID) []byte {
	c.mu.Lock()
	data, at, file := c.data[id], c.places[id], c.file
	c.mu.Unlock()
	if data != nil || at.size == 0 {
		return data
	}
	data = make([]byte, at.size)
	if _, err := file.ReadAt(data, at.from); err != nil {
		return nil
	}
	return data
}

// put keeps an object if there is room.
func (c *objectCache) put(id objectID, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := int64(len(data))
	switch {
	case c.data[id] != nil || c.places[id].size > 0:
	case c.size+size <= c.inMemory && size <= c.inMemory/4:
		c.data[id] = data
		c.size += size
	case !c.full && c.end+size <= c.inFile:
		if c.full = !c.append(data); !c.full {
			c.places[id] = place{c.end, size}
			c.end += size
		}
	}
}

// append writes an object at the end of the file, and reports whether that went well.
func (c *objectCache) append(data []byte) bool {
	if c.file == nil {
		file, err := os.CreateTemp("", "lethe-objects-*")
		if err != nil {
			return false
		}
		if err := os.Remove(file.Name()); err != nil {
			file.Close() //nolint:errcheck // nothing is in it
			return false
		}
		c.file = file
	}
	_, err := c.file.WriteAt(data, c.end)
	return err == nil
}

func (c *objectCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file != nil {
		c.file.Close() //nolint:errcheck // it has no name
	}
	c.file, c.full, c.inMemory = nil, true, 0
	clear(c.data)
	clear(c.places)
}
