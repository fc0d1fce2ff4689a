package scrub

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"lethe/pipeline/pgtemp/pgtest"
	"lethe/rules"
	"lethe/scrub/catalog"
)

// TestJudgeValueAgreesWithServer holds what is judged without a server against one: a literal that passes is stored,
// and where the server was to be asked, its answer decides.
func TestJudgeValueAgreesWithServer(t *testing.T) {
	types := []string{"smallint", "integer", "bigint", "oid", "numeric", "numeric(5,2)", "numeric(3)", "numeric(2,4)", "numeric(4,-1)", "real", "double precision", "boolean", "text",
		"character varying(5)", "character(5)", "name", "uuid", "date", "timestamp without time zone", "timestamp with time zone", "json", "jsonb",
		"inet", "cidr", "bytea", "interval", "point", "macaddr", "bit(4)", "bit varying(3)", "character varying(2)[]", "public.mood", "public.small", "integer[]", "text[]", "int4range", "time without time zone"}
	values := []string{"", "0", "1", "-1", "+1", "12x", " 1", "1.5", "99.994", "999.994", "999.995", "9995", "9994", "0.00994", "0.009995", "32767", "32768", "2147483648", "9223372036854775808",
		"4294967295", "1e3", "1e400", "1e39", "NaN", "Infinity", "0x10", "1_000", ".", ".5", "5.", "t", "true", "y", "maybe", "hello", "hello!", "héllo", strings.Repeat("n", 63), strings.Repeat("n", 64),
		"3f2c9a70-0000-4000-8000-000000000001", "3f2c9a70000040008000000000000001", "2020-02-29", "2021-02-29", "2020-13-01", "0000-01-01", "infinity",
		"2020-01-01 10:11", "2020-01-01 10:11:12.5", "2020-01-01 25:00:00", "2020-01-01T10:11:12Z", "2020-01-01 10:11:12+02", "0000-01-01 00:00:00", "{", "{}", `{"a": 1}`, `"\u0000"`, `"a\u0000"`, `{"a":1}x`, "null",
		"10.0.0.1", "10.0.0.1/8", "10.0.0.0/8", "::1", "fe80::1%eth0", "10.1", "::ffff:1.2.3.4", "::ffff:1.2.3.0/120", "1.2.3.4/33", `\x00ff`, `\x0`, `\xzz`, "plain", "sad", "SAD", "{1,2}", "{a,b}", "{1,", "{abc}", "[1,2)", "(1,2)", "101", "1010", "08:00:2b:01:02:03", "1 day"}
	ddl := "CREATE TYPE public.mood AS ENUM ('sad', 'ok');\nCREATE DOMAIN public.small AS character varying(3);\nCREATE TABLE public.t ("
	for i, typ := range types {
		ddl += fmt.Sprintf("c%d %s, ", i, typ)
	}
	ddl = strings.TrimSuffix(ddl, ", ") + ");"
	s := connect(t, pgtest.DB(t))
	s.exec(t, ddl)
	c := &compiler{cat: parseCatalog(t, ddl)}
	table := c.cat.Tables[catalog.Name{Schema: "public", Name: "t"}]
	judged, asked := 0, 0
	for i, typ := range types {
		col := table.Column(fmt.Sprintf("c%d", i))
		for _, value := range values {
			p, probe := c.strategyProblem(col, rules.Strategy{Name: "value", Value: value})
			_, err := s.conn.Exec(context.Background(), "BEGIN; INSERT INTO public.t ("+col.Name+") VALUES ("+catalog.Literal(value)+"); ROLLBACK").ReadAll()
			stored := err == nil
			if !stored {
				s.exec(t, "ROLLBACK")
			}
			switch {
			case p != nil: // stricter than the server is allowed: a rule should be written plainly
			case probe != "":
				asked++
				r, err := s.conn.Exec(context.Background(), probe).ReadAll()
				if ok := err == nil && string(r[0].Rows[0][0]) == "t"; ok && !stored {
					t.Errorf("%s %q: the probe says it is well, and it can't be stored", typ, value)
				}
			default:
				judged++
				if !stored {
					t.Errorf("%s %q passes the check, and the server refuses it: %v", typ, value, err)
				}
			}
		}
	}
	if judged < 200 || asked < 100 {
		t.Errorf("only %d literals judged and %d asked about: this shows too little", judged, asked)
	}
}

func TestKeyFamilies(t *testing.T) {
	c := &compiler{cat: parseCatalog(t, `
		CREATE EXTENSION citext WITH SCHEMA public;
		CREATE COLLATION public.ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
		CREATE DOMAIN public.ident AS bigint;
		CREATE DOMAIN public.loose AS text COLLATE public.ci;
		CREATE TYPE public.mood AS ENUM ('a'); CREATE TYPE public.other AS ENUM ('a');
		CREATE TABLE public.t (i integer, b bigint, n numeric, x text, v character varying(9), c character(9), u uuid, ci public.citext, nd text COLLATE public.ci,
			f double precision, r real, iv interval, ts timestamp, tz timestamptz, d date, bo boolean, m public.mood, o public.other, a integer[], j jsonb, id public.ident, lo public.loose, ip inet, ne cidr, tt timetz);`)}
	table := c.cat.Tables[public("t")]
	for _, q := range []struct {
		from, to string
		want     Family
		err      bool
	}{
		{"i", "b", Integer, false}, {"id", "i", Integer, false}, {"i", "n", Numeric, false}, {"n", "n", Numeric, false},
		{"x", "v", Text, false}, {"c", "c", PaddedText, false}, {"x", "c", PaddedText, false}, {"c", "x", Server, false},
		{"u", "u", UUID, false}, {"x", "u", UUID, false}, {"x", "i", Integer, false}, {"i", "v", Integer, false}, {"x", "n", Numeric, false},
		{"ci", "ci", Server, false}, {"x", "ci", Server, false}, {"nd", "x", Server, false}, {"lo", "lo", Server, false}, {"ci", "i", Server, true}, {"nd", "u", Server, true},
		{"f", "f", Server, false}, {"f", "r", Server, false}, {"iv", "iv", Server, false}, {"tt", "tt", Server, false}, {"j", "j", Server, false}, {"a", "a", Server, false},
		{"ts", "ts", Exact, false}, {"ts", "tz", Server, false}, {"d", "ts", Server, false}, {"bo", "bo", Exact, false}, {"ip", "ip", Exact, false}, {"ip", "ne", Server, false},
		{"m", "m", Exact, false}, {"m", "o", Server, false}, {"i", "d", Server, true}, {"x", "d", Server, true}, {"f", "i", Server, true}, {"a", "i", Server, true},
	} {
		family, err := c.keyFamily(table.Column(q.from), table.Column(q.to), false)
		if family != q.want || (err != nil) != q.err {
			t.Errorf("%s to %s: family %d, %v", q.from, q.to, family, err)
		}
	}
}
