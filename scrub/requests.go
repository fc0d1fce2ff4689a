package scrub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"lethe/scrub/catalog"
)

// Canonical returns each request's key in the one spelling that equal keys share, as UTF-8: so that a request made twice
// is known as one. unfit says of each request why it can reach nobody under this schema, where it can't: the rules have
// no such subject, or its key can be no value of the subject's key column. The reasons hold no part of a request. q may be nil where there is no server: the
// types that only a server can read are then left as they are.
func (p *Plan) Canonical(ctx context.Context, q Querier, reqs []Request) (keys []string, unfit []error, err error) {
	keys, unfit = make([]string, len(reqs)), make([]error, len(reqs))
	for i, r := range reqs {
		keys[i] = r.Key
		s := p.Subjects[r.Subject]
		if s == nil {
			unfit[i] = errors.New("the rules have no such type of subject")
			continue
		}
		canonical, err := p.canonicalKey(s, r.Key)
		if err != nil {
			unfit[i] = err
			continue
		}
		keys[i] = canonical
		if q == nil {
			continue
		}
		server := &sqlReader{querier: q, catalog: p.Catalog, chunk: keysPerStatement}
		column := s.Table.Name.String() + "." + catalog.QuoteIfNeeded(s.Key)
		canonical, err = server.canonical(ctx, s, canonical)
		var refused *serverError
		switch {
		case errors.As(err, &refused) && refused.refusesValue():
			unfit[i] = fmt.Errorf("the key is no value of %s, says the server (SQLSTATE %s)", column, refused.state)
		case err != nil:
			return nil, nil, fmt.Errorf("reading the key of a request as a value of %s: %w", column, err)
		case utf8.ValidString(canonical): // else it came in the server's own encoding, where the request's spelling is as good
			keys[i] = canonical
		}
	}
	return keys, unfit, nil
}

// Present reports of each request whether the person's own row is there.
func (p *Plan) Present(ctx context.Context, q Querier, reqs []Request) ([]bool, error) {
	c, server, err := p.sqlClosure(ctx, q, reqs)
	if err != nil {
		return nil, err
	}
	for _, rel := range c.relations {
		questions := c.questions(rel, make([][]reached, len(c.targets)), c.subjects, false) // the people's own rows alone
		if len(questions) == 0 {
			continue
		}
		err := server.read(ctx, rel, questions, func(row [][]byte, question, key int) error {
			if question >= 0 {
				c.answer(rel, row, &questions[question], key)
			} else if id, ok := c.digest(row, rel.key, []Family{rel.subject.Family}); ok {
				c.found[subjectKey{rel.subject.Type, id}] = true
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("looking for people in %s: %w", rel.table.Name, err)
		}
	}
	present := make([]bool, len(reqs))
	for i, id := range c.requests {
		present[i] = c.found[id]
	}
	return present, nil
}

// Lookup finds the keys of the people whose column holds a value, at most three. The column must be one of the subject's
// lookup columns. ask runs a SELECT with one parameter, $1, and returns its rows as text; the value travels in the
// parameter, as hexadecimal digits, and stands in no statement and in no error.
func (p *Plan) Lookup(ctx context.Context, ask func(ctx context.Context, sql, param string) ([][]string, error), subject, column, value string) ([]string, error) {
	s := p.Subjects[subject]
	if s == nil {
		return nil, fmt.Errorf("the rules have no subject %q", subject)
	}
	if !slices.Contains(s.Lookup, column) {
		return nil, fmt.Errorf("%s is not among the lookup columns of subject %s", catalog.QuoteIfNeeded(column), subject)
	}
	r := &sqlReader{catalog: p.Catalog}
	base, _, _ := p.Catalog.Base(s.Table.Column(column).Type)
	c, _ := r.ownType(base)
	if isText(base) {
		c = comparison{cast: "pg_catalog.text", operator: "pg_catalog"}
	}
	at := "t." + catalog.Quote(column)
	if isText(base) {
		at += "::pg_catalog.text" // of a domain over text, too
	}
	rows, err := ask(ctx, "SELECT t."+catalog.Quote(s.Key)+"::pg_catalog.text FROM "+s.Table.Name.SQL()+" AS t WHERE "+
		c.sql(at, fromUTF8("pg_catalog.decode($1, 'hex')"))+" LIMIT 3", fmt.Sprintf("%x", value))
	if err != nil {
		return nil, withoutValues(err)
	}
	var keys []string
	for _, row := range rows {
		keys = append(keys, row[0])
	}
	return keys, nil
}
