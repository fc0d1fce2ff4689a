package pipeline

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// What is kept comes back as it was, from memory and from the file, which nobody can open. Beyond both limits, and where
// no file can be written, nothing is kept, and nothing fails.
func TestObjectCache(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	object := func(n byte) (objectID, []byte) { return objectID{n}, bytes.Repeat([]byte{n}, 10) }
	fill := func(c *objectCache, kept int) {
		t.Helper()
		c.inMemory, c.inFile = 40, 30
		for n := byte(1); n <= 10; n++ {
			id, data := object(n)
			c.put(id, data)
			c.put(id, data)
		}
		for n := byte(1); n <= 10; n++ {
			id, data := object(n)
			got := c.get(id)
			if wanted := int(n) <= kept; wanted && !bytes.Equal(got, data) || !wanted && got != nil {
				t.Errorf("object %d of which %d are kept: %v", n, kept, got)
			}
		}
	}
	c := newObjectCache()
	fill(c, 7)
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("the folder for temporary files holds %v, %v", left, err)
	}
	c.close()
	for n := byte(1); n <= 10; n++ {
		id, data := object(n)
		if c.put(id, data); c.get(id) != nil {
			t.Errorf("object %d is kept after all was let go", n)
		}
	}
	t.Setenv("TMPDIR", filepath.Join(dir, "none"))
	fill(newObjectCache(), 4)
}
