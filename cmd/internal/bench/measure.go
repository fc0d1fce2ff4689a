package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// taken is what one timed command took.
type taken struct {
	Wall      float64 `json:"wall_seconds"`
	CPU       float64 `json:"cpu_seconds"`        // of the command's processes
	ServerCPU float64 `json:"server_cpu_seconds"` // of PostgreSQL, meanwhile
	Memory    int64   `json:"peak_bytes"`         // resident; of a pipe, its processes' peaks together
	Bytes     int64   `json:"bytes"`              // new in the store, or in the files written
}

// command is one program, or a pipe of several.
type command struct {
	pipe   [][]string
	stdin  io.Reader // of the first; nil for nothing
	stdout io.Writer // of the last; nil for nowhere
	file   string    // or the file to write it to
}

func (c command) String() string {
	var parts []string
	for _, argv := range c.pipe {
		parts = append(parts, filepath.Base(argv[0])+" "+strings.Join(argv[1:], " "))
	}
	return strings.Join(parts, " | ")
}

// time runs a command and says what it took.
func (b *bench) time(ctx context.Context, c command) (taken, error) {
	// Both sides begin alike: what was written before is on the disk, the server has nothing left to do.
	if err := b.server.Exec(ctx, "postgres", "CHECKPOINT"); err != nil {
		return taken{}, err
	}
	if b.pg["fsync"] == "on" {
		syscall.Sync()
	}
	if err := forgetPeak(); err != nil {
		return taken{}, err
	}
	before, err := serverCPU(b.server.Pid())
	if err != nil {
		return taken{}, err
	}
	begun := time.Now()
	t, err := b.execute(ctx, c)
	t.Wall = time.Since(begun).Seconds()
	if err != nil {
		return taken{}, err
	}
	after, err := serverCPU(b.server.Pid())
	t.ServerCPU = after - before
	return t, err
}

// execute runs a command to its end. Every program of a pipe must end well.
func (b *bench) execute(ctx context.Context, c command) (t taken, err error) {
	var cmds []*exec.Cmd
	if c.file != "" {
		f, err := os.Create(c.file)
		if err != nil {
			return taken{}, err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		c.stdout = f
	}
	said := &messages{}
	ctx, cancel := context.WithCancel(ctx) // ends the others when one does not start
	defer cancel()
	var previous *os.File
	for i, argv := range c.pipe {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Dir, cmd.Env, cmd.Stderr, cmd.Stdout = b.dir, b.env, said, c.stdout
		switch {
		case previous != nil:
			cmd.Stdin = previous
		case i == 0 && c.stdin != nil:
			cmd.Stdin = c.stdin
		}
		var reader, writer *os.File
		if i < len(c.pipe)-1 {
			if reader, writer, err = os.Pipe(); err != nil {
				break
			}
			cmd.Stdout = writer
		}
		// A process group of its own keeps a terminal's Ctrl-C from it: it gets one interrupt, from us.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = 20 * time.Second
		err = cmd.Start()
		for _, f := range []*os.File{previous, writer} {
			if f != nil {
				f.Close()
			}
		}
		previous = reader
		if err != nil {
			break
		}
		cmds = append(cmds, cmd)
	}
	if err != nil {
		cancel()
		if previous != nil {
			previous.Close()
		}
	}
	for _, cmd := range cmds {
		if waitErr := cmd.Wait(); waitErr != nil && err == nil {
			err = fmt.Errorf("%s: %w", filepath.Base(cmd.Path), waitErr)
		}
		if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			t.CPU += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
			t.Memory += usage.Maxrss << 10
		}
	}
	if err != nil {
		return taken{}, fmt.Errorf("run %s: %w\n%s", c, err, said.text())
	}
	return t, nil
}

// messages collects what the programs of a pipe print to stderr.
type messages struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (m *messages) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.buf.Write(p)
}

func (m *messages) text() string { return strings.TrimSpace(m.buf.String()) }

// forgetPeak makes this process's peak memory what it uses now. A child counts as its own what its parent's peak was
// when it was started.
func forgetPeak() error {
	debug.FreeOSMemory()
	return os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}

// serverCPU is the seconds of processor time that PostgreSQL has used so far: its main process, those of its children that
// ended, and those that run. One that ends while this looks is in neither of the two, or in both: then it looks again.
func serverCPU(pid int) (float64, error) {
	main := fmt.Sprintf("/proc/%d/stat", pid)
	for {
		before, err := processTimes(main)
		if err != nil {
			return 0, err
		}
		stats, err := filepath.Glob("/proc/[0-9]*/stat")
		if err != nil {
			return 0, err
		}
		ticks := before.own + before.ended
		for _, path := range stats {
			p, err := processTimes(path)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				continue // it ended meanwhile
			}
			if err != nil {
				return 0, err
			}
			if p.parent == strconv.Itoa(pid) {
				ticks += p.own + p.ended
			}
		}
		after, err := processTimes(main)
		if err != nil {
			return 0, err
		}
		if after.ended == before.ended {
			const ticksPerSecond = 100 // USER_HZ, on every machine that Go runs on
			return float64(ticks) / ticksPerSecond, nil
		}
	}
}

// processTime is what a process has used, in ticks, and who started it.
type processTime struct {
	parent     string
	own, ended int // ended: of its children that have ended
}

func processTimes(path string) (p processTime, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return p, err
	}
	// Fields are counted behind the name, which may hold anything: 0 state, 1 parent, 11 to 14 times of it and its children.
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(f) < 15 {
		return p, fmt.Errorf("read %s: %d fields", path, len(f))
	}
	p.parent = f[1]
	for i, n := range f[11:15] {
		k, err := strconv.Atoi(n)
		if err != nil {
			return p, fmt.Errorf("read %s: %w", path, err)
		}
		if i < 2 {
			p.own += k
		} else {
			p.ended += k
		}
	}
	return p, nil
}

// sizeOf adds up the files under a folder, or is a file's own size.
func sizeOf(path string) (n int64, err error) {
	err = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}

// lock holds the files of -lock until unlock. Others hold them while they build or test.
func (b *bench) lock(ctx context.Context) (unlock func(), err error) {
	var held []*os.File
	unlock = func() {
		for _, f := range held {
			f.Close()
		}
	}
	for _, path := range b.o.locks {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			unlock()
			return nil, err
		}
		got := make(chan error, 1)
		go func() { got <- syscall.Flock(int(f.Fd()), syscall.LOCK_EX) }() // may wait for long, and hears no Ctrl-C
		select {
		case err = <-got:
			held = append(held, f)
		case <-ctx.Done():
			err = context.Cause(ctx)
			go func() { <-got; f.Close() }()
		}
		if err != nil {
			unlock()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
	return unlock, nil
}
