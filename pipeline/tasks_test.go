package pipeline

import (
	"testing"

	"pgregory.net/rapid"

	"lethe/scrub/catalog"
)

// TestDependencies: whatever order statements run in, as long as each waits for those it must, two that need one table,
// one of them alone, run in the order of the text, and all of them run.
func TestDependencies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var batch []task
		for range rapid.IntRange(0, 30).Draw(t, "statements") {
			b := task{alone: rapid.Bool().Draw(t, "alone")}
			for _, n := range rapid.SliceOfN(rapid.IntRange(0, 5), 1, 3).Draw(t, "tables") { // one may stand there twice
				b.tables = append(b.tables, catalog.Name{Schema: "s", Name: string(rune('a' + n))})
			}
			batch = append(batch, b)
		}
		waits, wake := dependencies(batch)
		var ready, order []int
		for j, n := range waits {
			if n == 0 {
				ready = append(ready, j)
			}
		}
		at := make([]int, len(batch))
		for len(ready) > 0 {
			i := rapid.IntRange(0, len(ready)-1).Draw(t, "next")
			j := ready[i]
			ready = append(ready[:i], ready[i+1:]...)
			at[j] = len(order)
			order = append(order, j)
			for _, k := range wake[j] {
				if waits[k]--; waits[k] == 0 {
					ready = append(ready, k)
				}
			}
		}
		if len(order) != len(batch) {
			t.Fatalf("%d of %d statements ran", len(order), len(batch))
		}
		for j := range batch {
			for i := range j {
				if !batch[i].alone && !batch[j].alone {
					continue
				}
				for _, a := range batch[i].tables {
					for _, b := range batch[j].tables {
						if a == b && at[i] > at[j] {
							t.Fatalf("statement %d ran before %d, which needs %s too", j, i, a)
						}
					}
				}
			}
		}
	})
}
