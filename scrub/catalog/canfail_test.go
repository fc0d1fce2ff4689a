package catalog

import "testing"

func TestCanFail(t *testing.T) {
	const schema = `CREATE TYPE public.mood AS ENUM ('sad', 'ok');
		CREATE DOMAIN public.small AS character varying(20);
		CREATE EXTENSION citext;
		CREATE TABLE public.t (x text, y text, n integer, b boolean, m public.mood, c character(5), d date, ci public.citext, sm public.small);`
	cat, err := Parse(schema)
	if err != nil {
		t.Fatal(err)
	}
	tab := cat.Tables[Name{"public", "t"}]
	is := func(col, text string) map[string]Abstract {
		return map[string]Abstract{col: cat.Constant(text, tab.Column(col).Type)}
	}
	null := func(col string) map[string]Abstract { return map[string]Abstract{col: Null()} }
	tests := []struct {
		check string
		known map[string]Abstract
		want  bool
	}{
		// NULL
		{"x IS NOT NULL", null("x"), true},
		{"x IS NULL", null("x"), false},
		{"x <> ''", null("x"), false},
		{"x IS NOT NULL OR y IS NOT NULL", null("x"), true},
		{"x IS NULL OR y IS NOT NULL", null("x"), false},
		{"x ~ '@' OR y IS NOT NULL", null("x"), false},
		{"x ~ '@' AND y IS NOT NULL", null("x"), true},
		{"(x IS NULL) = (y IS NULL)", null("x"), true},
		{"(x IS NULL) <> (x IS NOT NULL)", null("x"), false},
		{"num_nonnulls(x, y) = 1", null("x"), true},
		{"num_nulls(x) = 1", null("x"), false},
		{"num_nonnulls(x, n) < 2", map[string]Abstract{"x": Null(), "n": NotNull()}, false},
		{"length(lower(btrim(x))) > 3", null("x"), false},
		{"COALESCE(x, 'a') = 'a'", null("x"), false},
		{"COALESCE(x, 'a') = 'b'", null("x"), true},
		{"COALESCE(x, y) IS NOT NULL", null("x"), true},
		{"x IS DISTINCT FROM y", null("x"), true},
		{"x IS NOT DISTINCT FROM NULL", null("x"), false},
		{"n BETWEEN 1 AND 5", null("n"), false},
		{"b", null("b"), false},
		{"b IS TRUE", null("b"), true},
		{"b IS NOT FALSE", null("b"), false},
		{"NOT b", null("b"), false},
		{"d <= CURRENT_DATE", null("d"), false},
		{"CASE WHEN x IS NULL THEN true ELSE length(x) > 5 END", null("x"), false},
		{"CASE WHEN x IS NULL THEN y IS NULL END", null("x"), true},
		{"CASE x WHEN 'a' THEN false END", null("x"), false},
		{"ROW(x, y) IS NOT NULL", null("x"), true},
		{"NOT ROW(x, y) IS NOT NULL", null("x"), false},
		{"(x, y) = ('a', 'b')", null("x"), true},
		{"x || 'a' = 'b'", null("x"), true},
		{"x = ANY (ARRAY['a'::text, 'b'::text])", null("x"), false},
		{"x = ANY (string_to_array(y, ','))", null("x"), true},
		{"public.ok(x)", null("x"), true},
		{"x IS NULL OR public.ok(x)", null("x"), false},
		{"x OPERATOR(public.=) 'a'", null("x"), true},
		{"x OPERATOR(pg_catalog.=) 'a'", null("x"), false},
		{"(x)::integer > 3", null("x"), false},
		// text
		{"x <> ''", is("x", "Deleted"), false},
		{"x = 'Deleted'", is("x", "Deleted"), false},
		{"x = 'other'", is("x", "Deleted"), true},
		{"length(x) <= 7", is("x", "Deleted"), false},
		{"char_length((x)::text) > 7", is("x", "Deleted"), true},
		{"octet_length(x) = 2", is("x", "é"), true},
		{"(x)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[])", is("x", "b"), false},
		{"(x)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[])", is("x", "c"), true},
		{"x IN ('a', 'b')", is("x", "b"), false},
		{"x NOT IN ('a', 'b')", is("x", "b"), true},
		{"x NOT IN ('a', 'b')", is("x", "c"), false},
		{"x IN ('a', y)", is("x", "b"), true},
		{"x ~~ 'D%_d'", is("x", "Deleted"), false},
		{"x !~~ 'D%'", is("x", "Deleted"), true},
		{"x LIKE '50\\%'", is("x", "50%"), false},
		{"x LIKE '50\\%'", is("x", "500"), true},
		{"x ILIKE 'd%'", is("x", "Deleted"), true}, // depends on a locale
		{"x ~ '^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+[.][A-Za-z]{2,}$'", is("x", "gone-1@example.invalid"), false},
		{"x ~* '^[A-Z0-9._%+-]+@[A-Za-z0-9.-]+\\.[A-Za-z]+$'", is("x", "GONE@example.invalid"), false},
		{"x ~ '^[^@]+@[^@]+$'", is("x", "nobody"), true},
		{"x ~ '(?i)^d'", is("x", "deleted"), true}, // not read here
		{"x !~* '[^d]'", is("x", "d"), true},
		{"lower(x) = x", is("x", "deleted"), false},
		{"lower(x) = x", is("x", "Deleted"), true},
		{"lower(x) = 'id'", is("x", "ID"), true}, // not so in Turkish
		{"x = btrim(x)", is("x", " a"), true},
		{"x < 'b'", is("x", "a"), true}, // depends on the collation
		{"x <= 'a'", is("x", "a"), false},
		{"(x COLLATE public.ci) <> 'A'", is("x", "a"), true},
		{"(x)::integer > 3", is("x", "Deleted"), true},
		{"(x)::integer > 3", is("x", "4"), false},
		{"x IS NULL OR (x)::date > '2000-01-01'::date OR true", is("x", "Deleted"), true}, // an error
		{"y IS NOT NULL OR y IS NULL", is("x", "a"), true},                                // what is unknown twice is not known to be the same
		{"x IS NOT NULL OR y IS NULL", is("x", "a"), false},
		{"(x)::character varying(3) = 'Del'", is("x", "Deleted"), false},
		// other types
		{"n > 0 AND n < 10", is("n", "5"), false},
		{"n > 0 AND n < 10", is("n", "10"), true},
		{"n BETWEEN -1 AND 1.5", is("n", "0"), false},
		{"n NOT BETWEEN 1 AND 3", is("n", "2"), true},
		{"n = ANY (ARRAY[1, 2])", is("n", "2"), false},
		{"(n)::numeric >= 0.5", is("n", "1"), false},
		{"n + 1 > 0", is("n", "1"), true}, // not computed
		{"b", is("b", "f"), true},
		{"b OR n > 0", is("b", "t"), false},
		{"b = true", is("b", "t"), false},
		{"m = 'ok'::public.mood", is("m", "ok"), false},
		{"m <> 'ok'", is("m", "ok"), true},
		{"(m)::text = 'ok'", is("m", "ok"), false},
		{"c = 'ab'::bpchar", is("c", "ab   "), false},
		{"length(c) = 2", is("c", "ab   "), false},
		{"c ~~ 'ab'", is("c", "ab   "), true}, // the blanks count
		{"ci <> 'A'", is("ci", "a"), true},
		{"ci IS NOT NULL", is("ci", "a"), false},
		{"(sm)::text <> ''::text", is("sm", "x"), false},
		{"d IS NOT NULL", is("d", "2000-01-01"), false},
		{"t.x = 'a'", is("x", "a"), false},
		{"t IS NOT NULL", null("x"), true},
	}
	for _, tt := range tests {
		withCheck, err := Parse(schema + "ALTER TABLE public.t ADD CONSTRAINT k CHECK (" + tt.check + ");")
		if err != nil {
			t.Errorf("%s: %v", tt.check, err)
			continue
		}
		k := withCheck.Tables[Name{"public", "t"}].Checks[0]
		if got := cat.CanFail(k, tt.known); got != tt.want {
			t.Errorf("CHECK (%s) with %+v: can fail is %v, want %v", tt.check, tt.known, got, tt.want)
		}
	}
}

func TestCanFailDomain(t *testing.T) {
	cat, err := Parse(`CREATE DOMAIN public.email AS text CONSTRAINT at CHECK ((VALUE ~ '@'::text));`)
	if err != nil {
		t.Fatal(err)
	}
	at := cat.Types[Name{"public", "email"}].Checks[0]
	if !cat.CanFail(at, map[string]Abstract{"value": cat.Constant("nobody", TypeRef{Name: Name{"pg_catalog", "text"}})}) {
		t.Error("a value without @ passes")
	}
	if cat.CanFail(at, map[string]Abstract{"value": cat.Constant("a@b", TypeRef{Name: Name{"public", "email"}})}) {
		t.Error("a value with @ fails")
	}
	if cat.CanFail(at, map[string]Abstract{"value": Null()}) {
		t.Error("NULL fails")
	}
}
