package mask

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"lethe/pipeline/pgtemp/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// connect opens a connection to a database of the test's own, with the settings of Lethe's sessions, which get and
// give every value as text.
func connect(t *testing.T) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(pgtest.DB(t))
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	config.RuntimeParams["datestyle"] = "ISO"
	config.RuntimeParams["timezone"] = "UTC"
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// rows runs a query whose columns are all text.
func rows(t *testing.T, conn *pgx.Conn, query string, args ...any) [][]string {
	t.Helper()
	r, err := conn.Query(t.Context(), query, args...)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(r, func(row pgx.CollectableRow) ([]string, error) {
		var line []string
		for _, v := range row.RawValues() {
			line = append(line, string(v))
		}
		return line, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Random dates from the first to the last that the server holds, and those around each turn of a year, against the
// server's own date_trunc.
func TestDateTruncIsTheServers(t *testing.T) {
	conn := connect(t)
	const dates = `WITH d AS MATERIALIZED (SELECT ts FROM (
			SELECT timestamp '4713-01-01 BC' + random() * 298980 * interval '365 days 6 hours' FROM generate_series(1, 3000)
			UNION ALL SELECT timestamp '1900-01-01' + random() * 73000 * interval '1 day' FROM generate_series(1, 2000)
			UNION ALL SELECT timestamp '0800-01-01 BC' + random() * 584000 * interval '1 day' FROM generate_series(1, 2000)
			UNION ALL SELECT make_date(y, 1, 1) + (n || ' days 23:59:59.999999')::interval FROM unnest(ARRAY[-4712, -401, -400, -101, -100, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 100, 400, 1900, 2000, 2020, 2021, 2024, 2026, 9999, 10000, 99999, 294275]) y, generate_series(-9, 9) n
			UNION ALL SELECT unnest(ARRAY['infinity', '-infinity', '294276-12-31 23:59:59.999999', '2024-02-29 12:34:56']::timestamp[])
		) AS x(ts)) `
	for _, unit := range []string{"year", "quarter", "month", "week", "day", "hour", "minute"} {
		for form, query := range map[DateForm]string{
			Timestamp:   `SELECT ts, date_trunc($1, ts) FROM d`,
			TimestampTZ: `SELECT ts AT TIME ZONE 'UTC', date_trunc($1, ts AT TIME ZONE 'UTC') FROM d`,
			Date:        `SELECT ts::date, date_trunc($1, ts::date::timestamp)::date FROM d`,
		} {
			f := must(DateTrunc(unit, form))
			all := rows(t, conn, dates+query, unit)
			if len(all) < 5000 {
				t.Fatalf("only %d dates", len(all))
			}
			for _, r := range all {
				if got := apply(t, f, r[0]); got != r[1] {
					t.Errorf("%s of %s: %s, the server says %s", unit, r[0], got, r[1])
				}
			}
		}
	}
	// The server fails, and Lethe does not, where a unit begins before its first date.
	if got := apply(t, must(DateTrunc("year", Timestamp)), "4714-12-01 00:00:00 BC"); got != "4714-11-24 00:00:00 BC" {
		t.Errorf("before the first date: %s", got)
	}
	if got := apply(t, must(DateTrunc("year", Date)), "5874897-12-31"); got != "5874897-01-01" {
		t.Errorf("the last date: %s", got)
	}
}

// A dump file may come from a server in any time zone.
func TestDateTruncOfOtherOffsets(t *testing.T) {
	conn := connect(t)
	for _, zone := range []string{"Asia/Kathmandu", "America/St_Johns", "Europe/Amsterdam", "Pacific/Kiritimati"} {
		if _, err := conn.Exec(t.Context(), "SET timezone = '"+zone+"'"); err != nil {
			t.Fatal(err)
		}
		for _, unit := range []string{"year", "week", "day", "hour", "minute"} {
			f := must(DateTrunc(unit, TimestampTZ))
			for _, r := range rows(t, conn, `SELECT ts, (date_trunc($1, ts, 'UTC') AT TIME ZONE 'UTC')::text || '+00'
				FROM generate_series(timestamptz '1700-01-01 00:00:01.5Z', '2040-01-01', '1234567 minutes 17 seconds') ts`, unit) {
				if got := apply(t, f, r[0]); got != r[1] {
					t.Errorf("%s of %s: %s, the server says %s", unit, r[0], got, r[1])
				}
			}
		}
	}
}

func randomText(rnd *rand.Rand) string {
	const odd = `"\{},; ` + "\t\n\r\v\fåN'" + `[]:=()ab`
	words := []string{"NULL", "null", "", " ", "nUlL", "a b", `\N`, `"`, `{}`, "anna@example.org"}
	if rnd.IntN(4) == 0 {
		return words[rnd.IntN(len(words))]
	}
	var s []rune
	for range rnd.IntN(12) {
		s = append(s, []rune(odd)[rnd.IntN(len([]rune(odd)))])
	}
	return string(s)
}

// Elements that stay the same give the same text; elements that change give the text that the server prints for them.
func TestMapArrayIsArrayOut(t *testing.T) {
	conn := connect(t)
	rnd := rand.New(rand.NewPCG(5, 6))
	same := MapArray(',', func(dst, value []byte) ([]byte, bool, error) { return append(dst, value...), false, nil })
	change := MapArray(',', func(dst, value []byte) ([]byte, bool, error) {
		if len(value) == 3 {
			return dst, true, nil
		}
		return append(append(dst, value...), value...), false, nil
	})
	const changed = `CASE WHEN octet_length(e) = 3 THEN NULL ELSE e || e END`
	for range 300 {
		n := 1 + rnd.IntN(3)
		var elements []any
		for range n * n {
			if rnd.IntN(6) == 0 {
				elements = append(elements, nil)
			} else {
				elements = append(elements, randomText(rnd))
			}
		}
		// The array is built by subscripts, with bounds of its own, in one dimension and in two.
		var one, two, oneChanged, twoChanged []string
		for i := range elements {
			p := fmt.Sprintf("$%d::text", i+1)
			one = append(one, p)
			oneChanged = append(oneChanged, strings.ReplaceAll("(SELECT "+changed+" FROM (VALUES ("+p+")) v(e))", "\n", " "))
		}
		for i := range n {
			two = append(two, "ARRAY["+strings.Join(one[i*n:i*n+n], ",")+"]")
			twoChanged = append(twoChanged, "ARRAY["+strings.Join(oneChanged[i*n:i*n+n], ",")+"]")
		}
		r := rows(t, conn, "SELECT ARRAY["+strings.Join(one, ",")+"], ARRAY["+strings.Join(oneChanged, ",")+"], ARRAY["+
			strings.Join(two, ",")+"], ARRAY["+strings.Join(twoChanged, ",")+"]", elements...)[0]
		for i := 0; i < 4; i += 2 {
			for _, bounds := range []string{"", []string{"[0:%d]=", "[-2:%d][7:%d]="}[i/2]} {
				if bounds != "" && i == 0 {
					bounds = fmt.Sprintf(bounds, n*n-1)
				} else if bounds != "" {
					bounds = fmt.Sprintf(bounds, n-3, n+6)
				}
				in, want := bounds+r[i], bounds+r[i+1]
				if bounds != "" {
					if again := rows(t, conn, "SELECT ($1::text[])::text", in)[0][0]; again != in {
						t.Fatalf("the server prints %s for %s", again, in)
					}
				}
				if got := apply(t, same, in); got != in {
					t.Fatalf("%s became %s", in, got)
				}
				if got := apply(t, change, in); got != want {
					t.Fatalf("%s became %s, the server says %s", in, got, want)
				}
			}
		}
	}
}

// What ip_prefix prints is what inet and cidr print for it.
func TestIPPrefixIsInet(t *testing.T) {
	conn := connect(t)
	rnd := rand.New(rand.NewPCG(7, 8))
	for range 3000 {
		var in string
		length, keep := 0, rnd.IntN(129)
		if rnd.IntN(2) == 0 {
			in = fmt.Sprintf("%d.%d.%d.%d", rnd.IntN(256), rnd.IntN(256), rnd.IntN(256), rnd.IntN(256))
			length, keep = rnd.IntN(33), keep%33
		} else {
			groups := make([]string, 8)
			for i := range groups {
				groups[i] = fmt.Sprintf("%x", rnd.IntN(1<<16)*rnd.IntN(2)*rnd.IntN(2))
			}
			if rnd.IntN(3) == 0 { // IPv4-compatible ones print in another way
				groups = []string{"0", "0", "0", "0", "0", "0", fmt.Sprintf("%x", rnd.IntN(2)*rnd.IntN(300)), groups[7]}
			}
			in = strings.Join(groups, ":")
			length = rnd.IntN(129)
		}
		v4 := min(keep, 32)
		net := fmt.Sprintf("%s/%d", in, length)
		r := rows(t, conn, `SELECT $1::inet, host(network(set_masklen($1::inet, $3))), $2::inet, $2::inet::cidr, set_masklen(host(network(set_masklen(host($2::inet::cidr)::inet, $3)))::inet, $4)::inet::cidr`, in, net, keep, length)[0]
		if got := apply(t, must(IPPrefix(v4, keep, IPInet)), r[0]); got != r[1] {
			t.Fatalf("%s to %d bits: %s, the server says %s", r[0], keep, got, r[1])
		}
		if got := apply(t, must(IPPrefix(v4, keep, IPInet)), r[2]); got != r[1] {
			t.Fatalf("%s to %d bits: %s, the server says %s", r[2], keep, got, r[1])
		}
		if got := apply(t, must(IPPrefix(v4, keep, IPCIDR)), r[3]); got != r[4] {
			t.Fatalf("%s to %d bits: %s, the server says %s", r[3], keep, got, r[4])
		}
	}
}

// The same texts are JSON here and in the server, and what is removed or set leaves JSON.
func TestJSONIsTheServers(t *testing.T) {
	conn := connect(t)
	f := must(JSON(paths("$.a", "$[1].b"), []JSONSet{{mustPath("$.c"), `"x"`}}))
	good := []string{`{}`, `[]`, `""`, `0`, `-0.10e-7`, ` [ 1 , {"a" : null } ] `, `{"a":1,"a":2,"c":"\u0000\ud800"}`, `[1e400, 0.10, {"b":true}]`, "\t\"\x7f\"\r\n",
		strings.Repeat(`[`, 3000) + strings.Repeat(`]`, 3000)}
	for _, text := range append(slices.Clone(badJSON), good...) {
		_, err := conn.Exec(t.Context(), "SELECT $1::json", text)
		out, _, ours := f(nil, []byte(text))
		if (err == nil) != (ours == nil) {
			t.Errorf("%q: the server says %v, mask says %v", text, err, ours)
		}
		if ours == nil {
			if _, err := conn.Exec(t.Context(), "SELECT $1::json", string(out)); err != nil {
				t.Errorf("%q became %q: %v", text, out, err)
			}
		}
	}
}

// Paths find what the server's jsonb_path_query finds, as the same text.
func TestPathIsTheServers(t *testing.T) {
	conn := connect(t)
	rnd := rand.New(rand.NewPCG(9, 10))
	var build func(depth int) string
	build = func(depth int) string {
		switch kind := rnd.IntN(7); {
		case kind < 2 || depth == 0:
			return []string{"42", "42.0", "4.2e1", "-1.50", `"x\"\u00e5\\"`, "true", "null", "0.05", `""`, "1e20", "-0.0"}[rnd.IntN(11)]
		case kind < 4:
			var items []string
			for range rnd.IntN(4) {
				items = append(items, build(depth-1))
			}
			return "[" + strings.Join(items, ", ") + "]"
		default:
			var items []string
			for _, k := range []string{"a", "b", `odd \"k\"`} {
				if rnd.IntN(3) > 0 {
					items = append(items, `"`+k+`": `+build(depth-1))
				}
			}
			return "{" + strings.Join(items, ", ") + "}"
		}
	}
	matches := 0
	for range 4000 {
		text, path := build(5), "$"
		for range rnd.IntN(4) {
			path += []string{".a", ".b", ".*", "[*]", "[0]", "[1]", `['odd "k"']`}[rnd.IntN(7)]
		}
		p := mustPath(path)
		var got []string
		if err := p.Values([]byte(text), func(v []byte) bool { got = append(got, string(v)); return true }); err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, r := range rows(t, conn, `SELECT CASE jsonb_typeof(v) WHEN 'number' THEN trim_scale((v #>> '{}')::numeric)::text ELSE v #>> '{}' END
			FROM jsonb_path_query($1::jsonb, $2::jsonpath) v WHERE jsonb_typeof(v) IN ('string', 'number', 'boolean')`, text, p.SQL()) {
			want = append(want, r[0])
		}
		slices.Sort(got) // jsonb has an order of keys of its own
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("%s of %s: %q, the server says %q", path, text, got, want)
		}
		matches += len(got)
	}
	if matches < 500 {
		t.Fatalf("only %d values were found", matches)
	}
}

// A UUID out of HMAC is one for the server.
func TestUUIDIsTheServers(t *testing.T) {
	conn := connect(t)
	uuid := apply(t, must(HMAC(testKey, UUID, 0)), "anna")
	if got := rows(t, conn, "SELECT $1::uuid", uuid)[0][0]; got != uuid {
		t.Fatalf("%s prints as %s", uuid, got)
	}
}
