package scrub

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"lethe/rules"
	"lethe/scrub/catalog"
)

const head = "version: 1\ndataset: d\n"

func parseCatalog(t testing.TB, ddl string) *catalog.Catalog {
	t.Helper()
	cat, err := catalog.Parse(ddl)
	if err != nil {
		t.Fatal(err)
	}
	return cat
}

func compile(t testing.TB, ddl, yaml string) (*Plan, error) {
	t.Helper()
	f, err := rules.Parse("rules.yml", []byte(head+yaml))
	if err != nil {
		t.Fatalf("the rules do not even parse: %v\n%s", err, yaml)
	}
	return Compile(f, parseCatalog(t, ddl))
}

func mustCompile(t testing.TB, ddl, yaml string) *Plan {
	t.Helper()
	p, err := compile(t, ddl, yaml)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const users = `
CREATE TABLE public.users (id bigint NOT NULL, email text, name character varying(20) NOT NULL, age integer, deleted_at timestamp);
ALTER TABLE ONLY public.users ADD CONSTRAINT users_pkey PRIMARY KEY (id);
CREATE UNIQUE INDEX users_email ON public.users USING btree (email);
`

const subject = `subjects:
  user: {table: users, key: id}
`

var update = flag.Bool("update", false, "write what Compile says into testdata/check.txt, for a person to review")

// TestCompileErrors holds what Compile says, word for word, about each rule that can't work. A case of
// testdata/check.txt is a name, a schema beside the table users, rules beside head, and what is said ("ok" for nothing).
func TestCompileErrors(t *testing.T) {
	const file = "testdata/check.txt"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, c := range strings.Split(string(text), "\n== ")[1:] {
		name, body, _ := strings.Cut(c, "\n")
		schema, rest, ok1 := strings.Cut(body, "-- rules\n")
		yaml, want, ok2 := strings.Cut(rest, "-- want\n")
		if !ok1 || !ok2 {
			t.Fatalf("%s: the case %q lacks a part", file, name)
		}
		got := "ok"
		t.Run(name, func(t *testing.T) {
			p, err := compile(t, users+schema, yaml)
			if err != nil {
				got = err.Error()
			} else {
				for _, probe := range p.Probes {
					got += fmt.Sprintf("\nprobe %s\n  else %s", probe.SQL, probe.Msg)
				}
				for _, w := range p.Warnings {
					got += "\nwarning " + w
				}
			}
			if got != strings.TrimSpace(want) && !*update {
				t.Errorf("schema:\n%s\nrules:\n%s\ngot:\n%s\nwant:\n%s", schema, head+yaml, got, want)
			}
		})
		fmt.Fprintf(&out, "\n== %s\n%s-- rules\n%s-- want\n%s\n", name, schema, yaml, got)
	}
	if *update {
		head, _, _ := strings.Cut(string(text), "\n== ")
		if err := os.WriteFile(file, append([]byte(head), out.Bytes()...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
