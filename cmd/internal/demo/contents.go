package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"lethe/pipeline/pgtemp"
)

// contents is everything that a database holds, as text: of each table, partition and materialized view the rows,
// and of the large objects and the sequences too. Rows are a multiset: their order means nothing.
type contents map[string][]string

// Two entries of contents that are no tables.
const (
	largeObjects = "large objects"
	sequences    = "sequences"
)

// read reads a database by plain SQL.
func read(ctx context.Context, s *pgtemp.Server, db string) (contents, error) {
	tables, err := s.Query(ctx, db, `SELECT c.oid::regclass, quote_ident(nspname) || '.' || quote_ident(relname)
		FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
		WHERE relkind IN ('r', 'm') AND nspname <> 'information_schema' AND nspname NOT LIKE 'pg\_%'`)
	if err != nil {
		return nil, fmt.Errorf("list the tables of %s: %w", db, err)
	}
	queries := map[string]string{
		// 'escape' leaves ASCII as it is, so that a large object can be searched.
		largeObjects: `SELECT oid || ' ' || encode(lo_get(oid), 'escape') FROM pg_largeobject_metadata`,
		sequences:    `SELECT schemaname || '.' || sequencename || ' ' || coalesce(last_value::text, '-') FROM pg_sequences`,
	}
	for _, t := range tables {
		queries[t[0]] = "SELECT ROW(r.*)::text FROM " + t[1] + " r"
	}
	all := contents{}
	for name, sql := range queries {
		rows, err := s.Query(ctx, db, sql)
		if err != nil {
			return nil, fmt.Errorf("read %s of %s: %w", name, db, err)
		}
		all[name] = make([]string, len(rows))
		for i, r := range rows {
			all[name][i] = r[0]
		}
	}
	return all, nil
}

// names returns the tables in order, without what is none.
func (c contents) names() []string {
	var names []string
	for name := range c {
		if name != largeObjects && name != sequences {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// find counts the rows, and the tables, that hold a text in upper or lower case, or its bytes in a bytea.
func (c contents) find(text string) (rows, tables int) {
	inBytea := hex.EncodeToString([]byte(text))
	text = strings.ToLower(text)
	for _, list := range c {
		before := rows
		for _, r := range list {
			r = strings.ToLower(r)
			if strings.Contains(r, text) || strings.Contains(r, inBytea) {
				rows++
			}
		}
		if rows > before {
			tables++
		}
	}
	return rows, tables
}

// common counts the rows that two multisets share.
func common(a, b []string) int {
	left := map[string]int{}
	for _, r := range a {
		left[r]++
	}
	n := 0
	for _, r := range b {
		if left[r] > 0 {
			left[r]--
			n++
		}
	}
	return n
}
