// Package pgtest gives tests a real PostgreSQL server: one throwaway server for each test binary, started when the
// first test asks for it, and a fresh database for each test that wants one.
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }
//
//	func TestX(t *testing.T) {
//		url := pgtest.DB(t)
package pgtest

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"lethe/pipeline/pgtemp"
)

// shared is the server of this test binary. A test binary has one TestMain, so it has one of these.
var shared struct {
	sync.Mutex
	running   bool // between the start and the end of Run
	server    *pgtemp.Server
	databases int
}

// TestingM is what Run needs of *testing.M.
type TestingM interface{ Run() int }

// Run runs the tests and then stops the server if one was started. It returns the exit code for os.Exit, not 0 also
// when the server could not be stopped.
func Run(m TestingM) int {
	shared.Lock()
	shared.running = true
	shared.Unlock()

	code := m.Run()

	shared.Lock()
	defer shared.Unlock()
	shared.running = false
	if shared.server == nil {
		return code
	}
	err := shared.server.Stop()
	shared.server = nil
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

// Server returns the test binary's server, over a unix socket only, with settings as pgtemp makes them. A test that
// changes the server itself starts one of its own with pgtemp.Start.
func Server(t testing.TB) *pgtemp.Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if !shared.running {
		t.Fatal("pgtest.Server needs func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }")
	}
	if shared.server == nil {
		s, err := pgtemp.Start(context.Background(), pgtemp.Options{})
		if err != nil {
			t.Fatal(err)
		}
		shared.server = s
	}
	return shared.server
}

// DB creates an empty database and returns its URL; the database is dropped when the test ends. The options are the
// words of CREATE DATABASE, as in pgtemp.Server.CreateDatabase.
func DB(t testing.TB, options ...string) (url string) {
	t.Helper()
	return Server(t).URL(DBName(t, options...))
}

// DBName is DB for those who need the name rather than the URL.
func DBName(t testing.TB, options ...string) (name string) {
	t.Helper()
	s := Server(t)
	shared.Lock()
	shared.databases++
	name = "test_" + strconv.Itoa(shared.databases)
	shared.Unlock()
	if err := s.CreateDatabase(context.Background(), name, options...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.DropDatabase(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	return name
}

// NoLeaks makes sure, when the test ends, that the goroutines which it started have ended too. They may take a while on a
// loaded machine: the time is there to fail at all.
func NoLeaks(t testing.TB) {
	t.Helper()
	Server(t) // outlives the test
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		var err error
		for range 100 { // each looks again and again, for half a second in all
			if err = goleak.Find(before); err == nil {
				return
			}
		}
		t.Error(err)
	})
}
