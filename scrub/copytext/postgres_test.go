package copytext

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"lethe/pipeline/pgtemp/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// connect opens a connection to a database of the test's own.
func connect(t *testing.T, options ...string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), pgtest.DB(t, options...))
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

func copyOut(t *testing.T, conn *pgx.Conn, query string) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := conn.PgConn().CopyTo(t.Context(), &b, "COPY ("+query+") TO STDOUT"); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Every byte that text can hold, alone and among others, as the server itself prints it.
func TestServerPrintsWhatEncodeDoes(t *testing.T) {
	conn := connect(t)
	if _, err := conn.Exec(t.Context(), "CREATE TABLE v (n int, t text, b bytea, empty text, nothing text)"); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	odd := []rune("\b\f\n\r\t\v\\\\\\.Nx0 ")
	var want []string
	for c := rune(1); c < 256; c++ {
		want = append(want, string(c), "x"+string(c)+"y", strings.Repeat(string(c), 9))
	}
	for range 500 {
		var s []rune
		for range rnd.IntN(60) {
			switch rnd.IntN(3) {
			case 0:
				s = append(s, odd[rnd.IntN(len(odd))])
			case 1:
				s = append(s, rune(1+rnd.IntN(126)))
			default:
				s = append(s, rune(0x80+rnd.IntN(0xD000)))
			}
		}
		want = append(want, string(s))
	}
	want = append(want, `\N`, "N", `\.`, `\`, "")
	batch := &pgx.Batch{}
	for i, s := range want {
		batch.Queue("INSERT INTO v VALUES ($1, $2, $3, '', NULL)", i, s, []byte(s+"\x00"))
	}
	if err := conn.SendBatch(t.Context(), batch).Close(); err != nil {
		t.Fatal(err)
	}

	text := copyOut(t, conn, "SELECT * FROM v ORDER BY n")
	for i, s := range want {
		var row []byte
		row, text = NextRow(text)
		if err := ValidRow(row, 5); err != nil {
			t.Fatalf("value %d: %v", i, err)
		}
		f := Split(row, nil)
		got, err := Decode(nil, f[1])
		if err != nil || string(got) != s {
			t.Fatalf("text %q came as %q (error %v)", s, got, err)
		}
		if enc := Encode(nil, []byte(s)); !bytes.Equal(enc, f[1]) {
			t.Fatalf("text %q: the server prints %q, Encode %q", s, f[1], enc)
		}
		bin, err := Decode(nil, f[2])
		if err != nil || string(bin) != `\x`+hex.EncodeToString([]byte(s+"\x00")) {
			t.Fatalf("bytea of %q came as %q (error %v)", s, bin, err)
		}
		if enc := Encode(nil, bin); !bytes.Equal(enc, f[2]) {
			t.Fatalf("bytea of %q: the server prints %q, Encode %q", s, f[2], enc)
		}
		if IsNull(f[3]) || !IsNull(f[4]) || IsNull(f[1]) {
			t.Fatalf("NULL and text are confused in row %d", i)
		}
	}
	if len(text) > 0 {
		t.Fatalf("%d bytes too many", len(text))
	}
}

// SQL_ASCII and LATIN1 databases send bytes that are no UTF-8.
func TestBytesOfOtherEncodings(t *testing.T) {
	for _, encoding := range []string{"SQL_ASCII", "LATIN1"} {
		conn := connect(t, "TEMPLATE template0", "ENCODING '"+encoding+"'", "LOCALE 'C'")
		if _, err := conn.Exec(t.Context(), "SET client_encoding = '"+encoding+"'"); err != nil {
			t.Fatal(err)
		}
		text := copyOut(t, conn, "SELECT n, convert_from(decode(lpad(to_hex(n), 2, '0'), 'hex'), '"+encoding+"') || '\\' FROM generate_series(128, 255) n")
		for n := 128; n < 256; n++ {
			var row []byte
			row, text = NextRow(text)
			want := []byte{byte(n), '\\'}
			f := Split(row, nil)
			got, err := Decode(nil, f[1])
			if err != nil || !bytes.Equal(got, want) || !bytes.Equal(Encode(nil, want), f[1]) {
				t.Fatalf("%s byte %d came as %q, read as %q (error %v)", encoding, n, f[1], got, err)
			}
		}
	}
}

// What is encoded here is what the server reads: into a table and out again.
func TestServerReadsWhatEncodePrints(t *testing.T) {
	conn := connect(t)
	if _, err := conn.Exec(t.Context(), "CREATE TABLE w (a text, b text)"); err != nil {
		t.Fatal(err)
	}
	var rows []byte
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		for i := range 2 {
			if i > 0 {
				rows = append(rows, '\t')
			}
			if rnd.IntN(5) == 0 {
				rows = AppendNull(rows)
				continue
			}
			var value []byte
			for range rnd.IntN(20) {
				value = append(value, byte(1+rnd.IntN(127)))
			}
			rows = Encode(rows, value)
		}
		rows = append(rows, '\n')
	}
	if _, err := conn.PgConn().CopyFrom(t.Context(), bytes.NewReader(rows), "COPY w FROM STDIN"); err != nil {
		t.Fatal(err)
	}
	if got := copyOut(t, conn, "SELECT * FROM w"); !bytes.Equal(got, rows) {
		t.Fatal("the table prints other rows than were loaded")
	}
}

// Every escape that COPY FROM understands means the same here and there.
func TestServerDecodesAlike(t *testing.T) {
	conn := connect(t)
	if _, err := conn.Exec(t.Context(), "CREATE TABLE e (n int, t text)"); err != nil {
		t.Fatal(err)
	}
	var fields []string
	for c := 1; c < 128; c++ {
		if c == '\n' || c == '\r' || c == '.' || c == 'N' { // a line end, the end of the data, NULL
			continue
		}
		fields = append(fields, `\`+string(rune(c))+`1`, `a\`+string(rune(c))+`78z`, `\`+string(rune(c)))
	}
	for n := 1; n < 128; n++ {
		fields = append(fields, fmt.Sprintf(`\%o`, n), fmt.Sprintf(`\%o8`, n), fmt.Sprintf(`\%03o7`, n), fmt.Sprintf(`\x%x`, n), fmt.Sprintf(`\x%02Xf`, n))
	}
	fields = append(fields, `\501`, `\x`, `\xg`, `\Nx`, `x\N`)
	var rows strings.Builder
	var used []string
	for _, f := range fields {
		value, err := Decode(nil, []byte(f))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(value, 0) >= 0 {
			continue // text can't hold it
		}
		fmt.Fprintf(&rows, "%d\t%s\n", len(used), f)
		used = append(used, f)
	}
	if _, err := conn.PgConn().CopyFrom(t.Context(), strings.NewReader(rows.String()), "COPY e FROM STDIN"); err != nil {
		t.Fatal(err)
	}
	got, err := conn.Query(t.Context(), "SELECT t FROM e ORDER BY n")
	if err != nil {
		t.Fatal(err)
	}
	values, err := pgx.CollectRows(got, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range used {
		if want, _ := Decode(nil, []byte(f)); values[i] != string(want) {
			t.Errorf("field %q: the server reads %q, Decode %q", f, values[i], want)
		}
	}
}

// A table of one column whose value is the end mark prints no row that equals the Terminator, and a piece of it is SQL
// that psql runs.
func TestPieceRunsInPsql(t *testing.T) {
	server := pgtest.Server(t)
	conn := connect(t)
	db := conn.Config().Database
	if _, err := conn.Exec(t.Context(), `CREATE TABLE "Odd ""T""" ("a
b" text); INSERT INTO "Odd ""T""" VALUES ('\.'), (E'\\.\n'), ('\N'), (NULL), (''); CREATE TABLE none (); INSERT INTO none DEFAULT VALUES`); err != nil {
		t.Fatal(err)
	}
	var dump strings.Builder
	for _, table := range []struct {
		name    string
		columns []string
		query   string
	}{
		{`"public"."Odd ""T"""`, []string{"a\nb"}, `SELECT * FROM "Odd ""T"""`},
		{`"public"."none"`, nil, `SELECT FROM none`},
	} {
		rows := copyOut(t, conn, table.query)
		for row, rest := NextRow(rows); row != nil; row, rest = NextRow(rest) {
			if string(row) == Terminator {
				t.Fatal("a row equals the terminator")
			}
			if err := ValidRow(row, len(table.columns)); err != nil {
				t.Fatal(err)
			}
		}
		header := Header(table.name, table.columns)
		piece := header + string(rows) + Terminator
		body, err := Body([]byte(piece), header)
		if err != nil || !bytes.Equal(body, rows) {
			t.Fatalf("the piece's body differs (error %v)", err)
		}
		dump.WriteString(piece)
	}
	if _, err := server.Psql(t.Context(), db, strings.NewReader(dump.String())); err != nil {
		t.Fatal(err)
	}
	n, err := server.Value(t.Context(), db, `SELECT concat((SELECT count(*) FROM none), ' ', (SELECT string_agg(n::text, ',') FROM (SELECT count(*) n FROM "Odd ""T""" o GROUP BY o::text) g))`)
	if err != nil || n != "2 2,2,2,2,2" {
		t.Fatalf("loaded twice, the tables hold %q (error %v)", n, err)
	}
}
