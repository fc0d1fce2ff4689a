package pipeline

import (
	"cmp"
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"lethe/scrub/catalog"
)

// task is a step of a restore that others can run beside.
type task struct {
	tables []catalog.Name // that it works on, partitions by their own names
	alone  bool           // it must have them to itself
	size   int64          // bytes of text of the tables
	do     func(context.Context) error
}

// runAll runs tasks, as many at once as there are workers. Of two that need one table, and one of them alone, the earlier in
// the list goes first. Of those that may go, the one goes that most work is waiting behind. The first error ends all of
// them and is returned.
func runAll(ctx context.Context, tasks []task, workers int) error {
	if len(tasks) == 0 {
		return nil
	}
	waits, wake := dependencies(tasks)
	behind := chains(tasks, wake)
	var ready []int // the longest chain first
	add := func(j int) {
		at, _ := slices.BinarySearchFunc(ready, j, func(a, b int) int {
			return cmp.Or(cmp.Compare(behind[b], behind[a]), cmp.Compare(a, b))
		})
		ready = slices.Insert(ready, at, j)
	}
	for j, n := range waits {
		if n == 0 {
			add(j)
		}
	}
	start := make(chan int)
	done := make(chan int)
	group, ctx := errgroup.WithContext(ctx)
	for range min(max(workers, 1), len(tasks)) {
		group.Go(func() error {
			for j := range start {
				if err := tasks[j].do(ctx); err != nil {
					return err
				}
				select {
				case done <- j:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(start)
		for left := len(tasks); left > 0; {
			var next chan int // nil, and never ready, while nothing may start
			var first int
			if len(ready) > 0 {
				next, first = start, ready[0]
			}
			select {
			case next <- first:
				ready = ready[1:]
			case j := <-done:
				left--
				for _, k := range wake[j] {
					if waits[k]--; waits[k] == 0 {
						add(k)
					}
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return group.Wait()
}

// chains says for each task how much work the longest chain holds that begins with it.
func chains(tasks []task, wake [][]int) []int64 {
	behind := make([]int64, len(tasks))
	for j := len(tasks) - 1; j >= 0; j-- { // a task only ever waits for earlier ones
		for _, k := range wake[j] {
			behind[j] = max(behind[j], behind[k])
		}
		behind[j] += tasks[j].size
	}
	return behind
}

// dependencies says for each task how many earlier ones it waits for, and which later ones wait for it: those that need a
// table of its own, one of the two alone.
func dependencies(tasks []task) (waits []int, wake [][]int) {
	waits, wake = make([]int, len(tasks)), make([][]int, len(tasks))
	alone := map[catalog.Name]int{}      // the last task that needs the table alone
	together := map[catalog.Name][]int{} // those since then that do not
	for j, t := range tasks {
		after := func(i int) {
			waits[j]++
			wake[i] = append(wake[i], j)
		}
		for _, name := range t.tables {
			last, ok := alone[name]
			switch {
			case !t.alone:
				together[name] = append(together[name], j)
				if ok {
					after(last)
				}
				continue
			case len(together[name]) > 0: // they wait for last themselves
				for _, i := range together[name] {
					after(i)
				}
				together[name] = nil
			case ok && last != j: // a table may stand there twice
				after(last)
			}
			alone[name] = j
		}
	}
	return waits, wake
}
