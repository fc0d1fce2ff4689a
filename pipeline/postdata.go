package pipeline

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"lethe/pipeline/archive"
	"lethe/pipeline/target"
	"lethe/scrub/catalog"
)

// postData adds what the post-data does to tasks. Statements that build indexes, keys and foreign keys become tasks, and
// start as soon as what they need is there. Triggers and comments, which nothing else needs, are returned as last: they come
// when all tasks are done. Everything else keeps its place, and waits for all tasks before it; those after it are returned.
func (r *restore) postData(ctx context.Context, db *target.Database, tasks []task) (left []task, last []catalog.Statement, err error) {
	session := map[string]string{} // SET statements of the text that sessions of the pool must follow too
	for _, s := range r.post {
		if t, ok := r.build(db, s, prefix(session)); ok {
			tasks = append(tasks, t)
			continue
		}
		if name, ok := setting(s.Text); ok {
			session[name] = s.Text
		}
		switch {
		case ofSession(s.Text): // what comes last needs it again: an old dump sets the search path before each statement, a GRANT by another role the session's user
			last = append(last, s)
		case slices.Contains([]string{"TRIGGER", "EVENT TRIGGER", "COMMENT"}, s.Header.Type):
			last = append(last, s)
			continue
		default:
			if err := runAll(ctx, tasks, r.c.Workers); err != nil {
				return nil, nil, err
			}
			tasks = nil
		}
		if err := db.Exec(ctx, string(archive.PostData), []catalog.Statement{s}); err != nil {
			return nil, nil, err
		}
	}
	return tasks, last, nil
}

// build makes a task of a statement that can run beside others.
func (r *restore) build(db *target.Database, s catalog.Statement, prefix string) (task, bool) {
	b, ok := r.cat.Build(s)
	if !ok {
		return task{}, false
	}
	t := task{tables: b.Tables, alone: b.Exclusive, size: r.size(b.Tables)}
	if b.Calls {
		t.tables = append(t.tables, everyRow)
	}
	if t.size > r.share() {
		prefix += target.ParallelBuild
	}
	t.do = func(ctx context.Context) error {
		return db.Run(ctx, fmt.Sprintf("%s statement at line %d (%s)", archive.PostData, s.Line, s.Header.Name), prefix+s.Text)
	}
	return t, true
}

// size is how much text tables have.
func (r *restore) size(tables []catalog.Name) (n int64) {
	for _, name := range tables {
		n += r.sizes[name]
	}
	return n
}

// share is how much text a worker has to itself when all are busy to the end.
func (r *restore) share() int64 { return max(r.total/int64(max(r.c.Workers, 1)), leastShare) }

// analyses returns the tasks that gather the planner's statistics. They are a convenience: what can't be analyzed is
// reported.
func (r *restore) analyses(ctx context.Context, db *target.Database) (tasks []task, err error) {
	names, err := db.Analyzable(ctx)
	for _, name := range names {
		tables := r.cat.Family(name)
		tasks = append(tasks, task{tables: tables, alone: true, size: r.size(tables), do: func(ctx context.Context) error {
			if err := db.Analyze(ctx, name); err != nil && ctx.Err() == nil { // a server that is gone is an error at the end
				r.leaveOut("the planner's statistics of %s: %v", name, err)
			}
			return ctx.Err()
		}})
	}
	return tasks, err
}

// ofSession recognises statements that concern nothing but the session that runs them.
func ofSession(sql string) bool {
	return strings.HasPrefix(sql, "SET ") || strings.HasPrefix(sql, "RESET ") || strings.HasPrefix(sql, "SELECT pg_catalog.set_config('search_path', ")
}

// setting recognises SET statements that decide where and how what follows is built.
func setting(sql string) (name string, ok bool) {
	fields := strings.Fields(sql)
	if len(fields) < 3 || !strings.EqualFold(fields[0], "SET") {
		return "", false
	}
	return fields[1], fields[1] == "default_tablespace" || fields[1] == "default_table_access_method"
}

func prefix(session map[string]string) string {
	var b strings.Builder
	for _, sql := range session {
		b.WriteString(sql)
		b.WriteByte('\n')
	}
	return b.String()
}
