package pipeline

import "sync"

// processors shares the machine's processors with a server on it while rows are read.
//
// Rows come in pieces of 8 KiB. A processor that has nothing to do wakes up for each, wakes the next one, and both go to
// sleep again, in us and in the server: of a run that finds nearly every piece stored already that was a third of our
// processor time and a tenth of the server's. With as few as the reading takes, rows pile up meanwhile, and each waking is for
// more of them. Sealers get theirs as long as they have work.
type processors struct {
	mu      sync.Mutex
	set     func(n int) // nil while nothing is shared
	all     int         // that there are
	reading int         // for those who read rows
	sealing int         // sealers at work
	now     int
}

// begin leaves to workers that read rows what a server on this machine does not need to make them: three eighths of all, as
// measured. end is to follow. Without set nothing happens.
func (p *processors) begin(all, workers int, set func(n int)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = all
	p.reading = max(min((3*p.all+7)/8, workers), 1)
	p.set, p.now = set, p.all
	p.adjust()
}

// end takes all of them.
func (p *processors) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reading = p.all
	p.adjust()
	p.set = nil
}

// seal says that a sealer begins, 1, or ends, -1, to work.
func (p *processors) seal(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sealing += n
	p.adjust()
}

func (p *processors) adjust() {
	if n := min(p.reading+p.sealing, p.all); p.set != nil && n != p.now {
		p.set(n)
		p.now = n
	}
}
