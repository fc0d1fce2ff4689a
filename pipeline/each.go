package pipeline

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// each hands the items of list, in order, to workers goroutines, each of which does with them what start gave it: state of
// a worker's own lives there. The first error ends all of them and is returned; the context of do ends with it.
func each[T any](ctx context.Context, list []T, workers int, start func() (do func(context.Context, T) error, err error)) error {
	next := make(chan T)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(next)
		for _, item := range list {
			select {
			case next <- item:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range max(workers, 1) {
		group.Go(func() error {
			do, err := start()
			if err != nil {
				return err
			}
			for item := range next {
				if err := do(ctx, item); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}
