package source_test

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"lethe/pipeline/pgtemp/pgtest"
	"lethe/pipeline/source"
	"lethe/scrub/catalog"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// sql runs statements on a database of the shared server.
func sql(t testing.TB, db, text string) {
	t.Helper()
	if err := pgtest.Server(t).Exec(context.Background(), db, text); err != nil {
		t.Fatal(err)
	}
}

// open opens a snapshot and closes it when the test ends.
func open(t testing.TB, conf source.Config) *source.Snapshot {
	t.Helper()
	s, err := source.Open(context.Background(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// relation finds a relation by its name.
func relation(t testing.TB, s *source.Snapshot, schema, name string) *source.Relation {
	t.Helper()
	for i := range s.Relations {
		if s.Relations[i].Name == (catalog.Name{Schema: schema, Name: name}) {
			return &s.Relations[i]
		}
	}
	t.Fatalf("no relation %s.%s in %v", schema, name, s.Relations)
	return nil
}

// text copies all ranges of a relation.
func text(t testing.TB, s *source.Snapshot, rel *source.Relation) string {
	t.Helper()
	var out bytes.Buffer
	var sum int64
	for _, r := range rel.Ranges {
		n, err := s.Copy(context.Background(), rel, r, &out)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	if lines := int64(strings.Count(out.String(), "\n")); lines != sum {
		t.Fatalf("%s: %d lines, and Copy says %d rows", rel.Name, lines, sum)
	}
	return out.String()
}

// short is a lock timeout that tests can wait for.
const short = 500 * time.Millisecond
