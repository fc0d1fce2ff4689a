package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"lethe/pipeline/sqlstate"
	"lethe/scrub/catalog"
)

// Copy writes the rows of one range of a table to w as COPY text, and returns how many the server says there were.
// Each Write is handed whole rows, in the order they lie on disk; the bytes are valid only during the call. When w
// returns an error or ctx ends, the query is cancelled on the server.
//
// It waits for one of Config.Workers connections: w must not call methods of the snapshot that do so too.
func (s *Snapshot) Copy(ctx context.Context, rel *Relation, rng Range, w io.Writer) (int64, error) {
	var n int64
	err := s.onWorker(ctx, "copy", rel.Name.String(), func(ctx context.Context, conn *pgconn.PgConn) error {
		if err := s.lockNoWait(ctx, conn, rel.Name); err != nil {
			return err
		}
		var err error
		if s.encoding == "UTF8" {
			w = &validWriter{to: w}
		}
		n, err = copyTo(ctx, conn, rel.copySQL(rng), w)
		if errors.Is(err, errNotUTF8) {
			return &Error{Op: "copy", Table: rel.Name.String(), Err: errNotUTF8,
				Help: "look for the row with convert_from(convert_to(column, 'UTF8'), 'UTF8'), which fails on it, and correct it"}
		}
		return withoutValues(err)
	})
	return n, err
}

// validWriter refuses rows that are no UTF-8. A server does not look at them on the way out, only on the way in:
// without this, a snapshot of a database with such bytes could not be restored.
type validWriter struct{ to io.Writer }

var errNotUTF8 = errors.New("a row holds bytes that are not UTF-8, which PostgreSQL would not take back")

func (v *validWriter) Write(p []byte) (int, error) {
	if !utf8.Valid(p) {
		return 0, errNotUTF8
	}
	return v.to.Write(p)
}

// CopyQuery writes the rows of a SELECT to w as COPY text, as Copy does.
func (s *Snapshot) CopyQuery(ctx context.Context, query string, w io.Writer) (int64, error) {
	var n int64
	err := s.onWorker(ctx, "ask the database", "", func(ctx context.Context, conn *pgconn.PgConn) error {
		var err error
		n, err = copyTo(ctx, conn, "COPY ("+query+"\n) TO STDOUT", w)
		return withoutValues(err)
	})
	return n, err
}

// Bool runs a SELECT that yields one boolean. No row or NULL is an error.
func (s *Snapshot) Bool(ctx context.Context, query string) (bool, error) {
	var answer bool
	err := s.onWorker(ctx, "ask the database", "", func(ctx context.Context, conn *pgconn.PgConn) error {
		r, err := rows(ctx, conn, query)
		if err != nil {
			return withoutValues(err)
		}
		if len(r) != 1 || len(r[0]) != 1 || (r[0][0] != "t" && r[0][0] != "f") {
			return errors.New("the query did not answer with one boolean")
		}
		answer = r[0][0] == "t"
		return nil
	})
	return answer, err
}

// Ask runs a SELECT with one text parameter, $1, and returns its rows as text; NULL is "". The parameter stands in no
// error.
func (s *Snapshot) Ask(ctx context.Context, query, param string) (r [][]string, err error) {
	err = s.onWorker(ctx, "ask the database", "", func(ctx context.Context, conn *pgconn.PgConn) error {
		result := conn.ExecParams(ctx, query, [][]byte{[]byte(param)}, nil, nil, nil).Read()
		for _, row := range result.Rows {
			texts := make([]string, len(row))
			for i, v := range row {
				texts[i] = string(v)
			}
			r = append(r, texts)
		}
		return withoutValues(result.Err)
	})
	return r, err
}

// query runs SQL on a worker and returns its rows as text; NULL is "".
func (s *Snapshot) query(ctx context.Context, op, sql string) (r [][]string, err error) {
	err = s.onWorker(ctx, op, "", func(ctx context.Context, conn *pgconn.PgConn) error {
		r, err = rows(ctx, conn, sql)
		return err
	})
	return r, err
}

// copySQL is the statement for one range. A plain COPY costs the server some 15 % less than one of a query, so whole
// tables are read by that; like ONLY it leaves inheritance children out.
func (rel *Relation) copySQL(rng Range) string {
	columns := catalog.QuoteList(rel.Columns)
	if rng.From < 0 && rng.To < 0 && rel.Condition == "" {
		if columns == "" {
			return "COPY " + rel.Name.SQL() + " TO STDOUT" // `()` is a syntax error
		}
		return "COPY " + rel.Name.SQL() + " (" + columns + ") TO STDOUT"
	}
	if rel.Condition != "" {
		return "COPY (SELECT " + columns + " FROM ONLY " + rel.Name.SQL() + " " + rel.Condition + "\n) TO STDOUT"
	}
	var where []string
	if rng.From >= 0 {
		where = append(where, "ctid >= '("+strconv.FormatInt(rng.From, 10)+",0)'::pg_catalog.tid")
	}
	if rng.To >= 0 {
		where = append(where, "ctid < '("+strconv.FormatInt(rng.To, 10)+",0)'::pg_catalog.tid")
	}
	return "COPY (SELECT " + columns + " FROM ONLY " + rel.Name.SQL() + " WHERE " + strings.Join(where, " AND ") + ") TO STDOUT"
}

// copyTo runs a COPY … TO STDOUT statement.
func copyTo(ctx context.Context, conn *pgconn.PgConn, sql string, w io.Writer) (int64, error) {
	whole := rowWriter{to: w}
	tag, err := conn.CopyTo(ctx, &whole, sql)
	if err != nil {
		return 0, err
	}
	if len(whole.rest) > 0 {
		return 0, errors.New("the server's data ended in the middle of a row")
	}
	return tag.RowsAffected(), nil
}

// rowWriter passes whole rows on. PostgreSQL sends a row per message, and then nothing is copied; that is its habit
// and not the protocol's promise, so rows in pieces are put together. A newline byte is always a row's end: inside a
// value COPY text escapes it, and no server encoding has it as part of another character.
type rowWriter struct {
	to   io.Writer
	rest []byte
}

func (r *rowWriter) Write(p []byte) (int, error) {
	if len(r.rest) == 0 && len(p) > 0 && p[len(p)-1] == '\n' {
		return r.to.Write(p)
	}
	end := bytes.LastIndexByte(p, '\n') + 1
	if end > 0 {
		whole := p[:end]
		if len(r.rest) > 0 {
			whole = append(r.rest, whole...)
		}
		if _, err := r.to.Write(whole); err != nil {
			return 0, err
		}
		r.rest = r.rest[:0]
	}
	r.rest = append(r.rest, p[end:]...)
	return len(p), nil
}

// onWorker runs f on a worker connection, inside a savepoint, so that locks which f takes are let go afterwards and a
// failed statement does not cost the connection its view.
func (s *Snapshot) onWorker(ctx context.Context, op, table string, f func(context.Context, *pgconn.PgConn) error) (err error) {
	ctx, release := s.under(ctx)
	defer release()
	defer func() {
		if err = reason(ctx, err); err == nil {
			return
		}
		if lock := locked(err); lock && !Retryable(err) {
			err = &Error{Op: op, Table: table, Err: err, Retry: true, Help: "a schema change is under way; try again when it is done"}
		}
		if Retryable(err) {
			s.fail(err) // let go of everything now, not when the caller gets round to it
		}
		var e *Error
		if !errors.As(err, &e) {
			e = &Error{Op: op, Table: table, Err: err}
			if lost(err) {
				e.Err = fmt.Errorf("the connection to the server was lost: %w", err)
				e.Help = "the server's log says why; back up again when the server runs"
			}
			err = e
		}
	}()

	var conn *pgconn.PgConn
	select {
	case conn = <-s.workers:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() {
		if conn != nil && conn.IsClosed() {
			<-conn.CleanupDone() // the server has been told to cancel
			conn = nil
		}
		s.workers <- conn
	}()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if conn == nil {
		if conn, err = s.newWorker(ctx); err != nil {
			return err
		}
	}
	if _, err := rows(ctx, conn, "SAVEPOINT lethe"); err != nil {
		return err
	}
	if err = f(ctx, conn); err != nil && conn.IsClosed() {
		return err
	}
	if _, undo := rows(ctx, conn, "ROLLBACK TO SAVEPOINT lethe; RELEASE SAVEPOINT lethe"); undo != nil {
		shut(conn)
		conn = nil
		if err == nil {
			err = undo
		}
	}
	return err
}

// newWorker opens a connection that reads under the exported view.
func (s *Snapshot) newWorker(ctx context.Context) (*pgconn.PgConn, error) {
	conn, err := s.at.session(ctx, s.encoding, s.conf.LockTimeout)
	if err != nil {
		return nil, err
	}
	if _, err := rows(ctx, conn, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT "+catalog.Literal(s.id)); err != nil {
		shut(conn)
		e := &Error{Op: "join the exported view", Err: err}
		if c := sqlstate.Of(err); c == sqlstate.UndefinedObject || c == sqlstate.InvalidParameterValue {
			e.Help = "the exporting connection is gone, or another server answers: connect to one PostgreSQL server, not to a proxy before several"
		}
		return nil, e
	}
	return conn, nil
}

// lockNoWait locks a table without ever queueing, so that nothing can queue behind us. For as long as a lock may wait
// it asks again: a schema change that gives up by itself is no reason to start over.
func (s *Snapshot) lockNoWait(ctx context.Context, conn *pgconn.PgConn, name catalog.Name) error {
	deadline := time.Now().Add(s.conf.LockTimeout)
	for pause := 10 * time.Millisecond; ; pause *= 2 {
		_, err := rows(ctx, conn, "LOCK TABLE ONLY "+name.SQL()+" IN ACCESS SHARE MODE NOWAIT")
		if err == nil || sqlstate.Of(err) != sqlstate.LockNotAvailable {
			return err
		}
		if time.Now().Add(pause).After(deadline) {
			if table, who := s.inTheWay(); table == name.String() {
				err = fmt.Errorf("%s: %w", who, err)
			}
			return err
		}
		if _, err := rows(ctx, conn, "ROLLBACK TO SAVEPOINT lethe"); err != nil {
			return err
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}
