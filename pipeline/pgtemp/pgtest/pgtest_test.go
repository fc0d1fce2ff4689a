package pgtest_test

import (
	"context"
	"os"
	"testing"

	"lethe/pipeline/pgtemp/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

func TestEachTestHasADatabaseOfItsOwn(t *testing.T) {
	var first string
	t.Run("one", func(t *testing.T) {
		first = pgtest.DBName(t)
		if err := pgtest.Server(t).Exec(context.Background(), first, "CREATE TABLE a ()"); err != nil {
			t.Fatal(err)
		}
	})
	second := pgtest.DBName(t, "TEMPLATE template0", "ENCODING 'LATIN1'", "LOCALE 'C'")
	s := pgtest.Server(t)
	tables, err := s.Value(context.Background(), second, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
	if err != nil || tables != "0" {
		t.Fatalf("tables = %q, %v; want an empty database", tables, err)
	}
	if enc, err := s.Value(context.Background(), second, "SHOW server_encoding"); err != nil || enc != "LATIN1" {
		t.Fatalf("encoding = %q, %v", enc, err)
	}
	left, err := s.Value(context.Background(), "postgres", "SELECT count(*) FROM pg_database WHERE datname = '"+first+"'")
	if err != nil || left != "0" {
		t.Fatalf("database %s of the finished test is still there (%q, %v)", first, left, err)
	}
}
