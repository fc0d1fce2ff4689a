package pipeline

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// useProcessors has set told, until it is stopped, how many processors the program had best run on: as many as it keeps busy.
//
// Rows come in pieces of 8 KiB. A processor that has nothing to do wakes up for each, wakes the next one, and both go to
// sleep again, here and in a server on the same machine: of a run that finds nearly every piece stored already that was a third
// of the program's processor time and a tenth of the server's. On few processors rows pile up meanwhile, and each waking is
// for more of them. When stopped it takes all of them again. One at a time: they are the whole program's.
func useProcessors(set func(n int)) (stop func()) {
	if set == nil {
		return func() {}
	}
	all := runtime.GOMAXPROCS(0)
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		defer set(all)
		now := 1
		set(now)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		at, used := time.Now(), processorTime()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			from, before := at, used
			at, used = time.Now(), processorTime()
			if n := processorsFor(float64(used-before)/float64(at.Sub(from)), now, all); n != now {
				now = n
				set(now)
			}
		}
	})
	return func() {
		close(done)
		running.Wait()
	}
}

// processorsFor returns how many of all processors to go on with after so much of them, 1.5 say, was used of now. Between one
// more and one less there is no gap to rest in: whether the work fits one less shows best when it is tried.
func processorsFor(used float64, now, all int) int {
	switch {
	case now < all && used > 0.85*float64(now):
		return now + 1
	case now > 1 && used < 0.85*float64(now-1):
		return now - 1
	}
	return now
}

// processorTime is what the program has used so far.
func processorTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // fails for other arguments only
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
