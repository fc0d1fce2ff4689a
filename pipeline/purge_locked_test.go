package pipeline_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"lethe/pipeline"
	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/store/storetest"
)

// A backup counts on objects that a purge would delete: while one runs, a purge writes and deletes nothing. Looking it may.
func TestPurgeWhileABackupRuns(t *testing.T) {
	pgtest.NoLeaks(t)
	s := newSite(t, twoTables)
	s.rules = withoutRequests(twoTablesRules)
	old := s.backup()
	s.recordAll(twoTablesRules, s.store)
	signer := signed(t)
	s.sql("UPDATE users SET name = name || '!' WHERE id = 1") // so that the backup has an object to store

	watched := storetest.NewFaulty(s.store)
	asked, ran := false, false
	var locked, looked error
	busy := storetest.NewFaulty(s.store, storetest.Rule{On: storetest.Put, Name: "objects/", Nth: 1, Fault: storetest.Call(func(string) error {
		ran = true
		c := s.purging(signer, watched)
		c.Confirm = func(context.Context, *pipeline.PurgePlan) error { asked = true; return nil }
		_, locked = pipeline.Purge(context.Background(), c)
		c.DryRun = true
		_, looked = pipeline.Purge(context.Background(), c)
		return nil
	})})
	if _, err := pipeline.Backup(context.Background(), s.config(busy)); err != nil || !ran {
		t.Fatalf("the backup: %v; a purge was tried in it: %v", err, ran)
	}
	if !errors.Is(locked, pipeline.ErrLocked) || !strings.Contains(locked.Error(), "a backup run holds it until ") {
		t.Errorf("the purge: %v", locked)
	}
	if looked != nil {
		t.Errorf("a dry run: %v", looked)
	}
	if asked {
		t.Error("it asked")
	}
	for _, op := range []storetest.Op{storetest.Put, storetest.Delete} {
		for _, name := range watched.Calls(op, "") {
			if !strings.HasPrefix(name, "locks/") {
				t.Errorf("%s of %s", op, name)
			}
		}
	}

	// Afterwards nothing is in its way.
	if report := purge(t, s.purging(signer, s.store)); len(report.Stores[0].Successors) != 1 || report.Stores[0].Successors[0].Old != old || report.Stores[0].Clean != 1 {
		t.Errorf("%+v", report.Stores[0])
	}
}
