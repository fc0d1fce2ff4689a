package scrub

import (
	"strings"
	"testing"

	"lethe/rules"
)

func TestMatcherConditions(t *testing.T) {
	c := handCatalog()
	users := handTable(c, "users", "id int4")
	links := handTable(c, "links", "target text", "kind text", "code bpchar", "person bool", "number int4", "price numeric", "tag uuid")
	e := newErased(handPlan(c, nil, edge(links, "target", users, "id", Delete, Integer)))
	key, _ := AppendKey(nil, Integer, []byte("7"))
	e.targets[0].keys.add(e.hash.sum(key), 3)
	row := func(fields ...string) [][]byte {
		var r [][]byte
		for _, f := range fields {
			if f == "NULL" {
				r = append(r, nil)
			} else {
				r = append(r, []byte(f))
			}
		}
		return append(r, []byte("7"), []byte("2.50"), []byte("aaaaaaaa-0000-0000-0000-000000000001"))
	}
	for _, test := range []struct {
		when []string // column=value
		row  [][]byte
		want bool
	}{
		{nil, row("7", "NULL", "NULL", "NULL"), true},
		{nil, row("007", "NULL", "NULL", "NULL"), true},
		{nil, row("8", "NULL", "NULL", "NULL"), false},
		{nil, row("seven", "NULL", "NULL", "NULL"), false},
		{nil, row("", "NULL", "NULL", "NULL"), false},
		{nil, row("NULL", "NULL", "NULL", "NULL"), false},
		{[]string{"kind=User"}, row("7", "User", "NULL", "NULL"), true},
		{[]string{"kind=User"}, row("7", "user", "NULL", "NULL"), false},
		{[]string{"kind=User"}, row("7", "User ", "NULL", "NULL"), false},
		{[]string{"kind=User"}, row("7", "NULL", "NULL", "NULL"), false},
		{[]string{"kind="}, row("7", "", "NULL", "NULL"), true},
		{[]string{"kind="}, row("7", "NULL", "NULL", "NULL"), false},
		{[]string{"code=U"}, row("7", "NULL", "U   ", "NULL"), true},
		{[]string{"code=U "}, row("7", "NULL", "U   ", "NULL"), true},
		{[]string{"code=U"}, row("7", "NULL", " U  ", "NULL"), false},
		{[]string{"person=true"}, row("7", "NULL", "NULL", "t"), true},
		{[]string{"person=true"}, row("7", "NULL", "NULL", "f"), false},
		{[]string{"person=f"}, row("7", "NULL", "NULL", "f"), true},
		{[]string{"kind=User", "person=true"}, row("7", "User", "NULL", "t"), true},
		{[]string{"number=7"}, row("7", "NULL", "NULL", "NULL"), true},
		{[]string{"number=+07"}, row("7", "NULL", "NULL", "NULL"), true},
		{[]string{"number=70"}, row("7", "NULL", "NULL", "NULL"), false},
		{[]string{"price=2.5"}, row("7", "NULL", "NULL", "NULL"), true},
		{[]string{"tag=AAAAAAAA-0000-0000-0000-000000000001"}, row("7", "NULL", "NULL", "NULL"), true},
		{[]string{"kind=User", "person=true"}, row("7", "User", "NULL", "NULL"), false},
	} {
		ed := edge(links, "target", users, "id", Delete, Integer)
		for _, w := range test.when {
			column, value, _ := strings.Cut(w, "=")
			ed.When = append(ed.When, rules.Equal{Column: column, Value: value})
		}
		m, err := newMatcher(c, ed, func(column string) int {
			return map[string]int{"target": 0, "kind": 1, "code": 2, "person": 3, "number": 4, "price": 5, "tag": 6}[column]
		})
		if err != nil {
			t.Fatal(err)
		}
		r, hit, err := m.hit(e, test.row)
		if err != nil || hit != test.want || hit && r != 3 {
			t.Errorf("when %q, row %q: %v by %d, %v", test.when, test.row, hit, r, err)
		}
		if n := testing.AllocsPerRun(50, func() { m.hit(e, test.row) }); n != 0 {
			t.Errorf("when %q: %v allocations per row", test.when, n)
		}
	}
}

// A text that is not JSON may name anybody: it stops the run, and is not shown.
func TestMatcherRefusesBrokenJSON(t *testing.T) {
	c := handCatalog()
	users := handTable(c, "users", "id int4")
	jobs := handTable(c, "jobs", "args text")
	ed := edge(jobs, "args", users, "id", Delete, Integer)
	ed.Path = "$.user"
	e := newErased(handPlan(c, nil, ed))
	m, err := newMatcher(c, ed, func(string) int { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = m.hit(e, [][]byte{[]byte(`{"user": 7, "secret`)})
	if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "jobs.args") {
		t.Errorf("got %v", err)
	}
	if _, hit, err := m.hit(e, [][]byte{nil}); hit || err != nil {
		t.Errorf("NULL: %v, %v", hit, err)
	}
}

func BenchmarkMatcherHit(b *testing.B) {
	c := handCatalog()
	users := handTable(c, "users", "id int4")
	links := handTable(c, "links", "target int4")
	ed := edge(links, "target", users, "id", Delete, Integer)
	e := newErased(handPlan(c, nil, ed))
	key, _ := AppendKey(nil, Integer, []byte("7"))
	e.targets[0].keys.add(e.hash.sum(key), 3)
	m, err := newMatcher(c, ed, func(string) int { return 0 })
	if err != nil {
		b.Fatal(err)
	}
	row := [][]byte{[]byte("1234567")}
	for b.Loop() {
		m.hit(e, row)
	}
}
