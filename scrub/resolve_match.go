package scrub

import (
	"bytes"
	"fmt"

	"lethe/scrub/catalog"
	"lethe/scrub/mask"
)

// matcher finds the keys that a row holds for one reference.
type matcher struct {
	edge *Edge
	at   []int // the reference's columns, by index in the row
	when []condition
	path *mask.Finder // nil where the column itself is the key
	key  []byte       // scratch
}

// condition is one part of a polymorphic reference's `when`.
type condition struct {
	at     int
	family Family
	key    []byte // the value as AppendKey writes it
}

// newMatcher binds an edge to rows whose columns have the indexes that index says.
func newMatcher(cat *catalog.Catalog, e *Edge, index func(column string) int) (*matcher, error) {
	m := &matcher{edge: e, key: make([]byte, 0, 64)}
	for _, name := range e.Columns {
		m.at = append(m.at, index(name))
	}
	for _, w := range e.When {
		column := e.From.Column(w.Column)
		if column == nil {
			return nil, fmt.Errorf("%s has no column %s for the condition of a reference", e.From.Name, catalog.QuoteIfNeeded(w.Column))
		}
		base, _, _ := cat.Base(column.Type)
		c := condition{at: index(w.Column), family: conditionFamily(base)}
		value := []byte(w.Value)
		if isType(base, "bool") {
			value = boolText(value)
		}
		var ok bool
		if c.key, ok = AppendKey(nil, c.family, value); !ok {
			return nil, fmt.Errorf("the condition on %s.%s can never hold", e.From.Name, catalog.QuoteIfNeeded(w.Column))
		}
		m.when = append(m.when, c)
	}
	if e.Path != "" {
		path, err := mask.ParsePath(e.Path)
		if err != nil {
			return nil, fmt.Errorf("the JSON path of a reference from %s: %w", e.From.Name, err)
		}
		m.path = path.Finder()
	}
	return m, nil
}

// conditionFamily says how a column of a type compares with the value of a condition: 07 is 7 for an integer.
func conditionFamily(base catalog.TypeRef) Family {
	switch {
	case isType(base, "int2"), isType(base, "int4"), isType(base, "int8"), isType(base, "oid"):
		return Integer
	case isType(base, "numeric"):
		return Numeric
	case isType(base, "uuid"):
		return UUID
	case isType(base, "bpchar"):
		return PaddedText
	}
	return Exact
}

// boolText is a boolean as COPY prints it, from how rules may spell it.
func boolText(value []byte) []byte {
	switch string(bytes.ToLower(value)) {
	case "true", "yes", "on", "t", "1":
		return []byte("t")
	case "false", "no", "off", "f", "0":
		return []byte("f")
	}
	return value
}

func isType(t catalog.TypeRef, name string) bool {
	return !t.Array && t.Name == catalog.Name{Schema: "pg_catalog", Name: name}
}

// applies says whether the conditions of the reference hold in a row. NULL equals nothing.
func (m *matcher) applies(row [][]byte) bool {
	for _, c := range m.when {
		if row[c.at] == nil {
			return false
		}
		var ok bool
		if m.key, ok = AppendKey(m.key[:0], c.family, row[c.at]); !ok || !bytes.Equal(m.key, c.key) {
			return false
		}
	}
	return true
}

// hit says whether the reference leads from a row to something erased, and by which request, the lowest one. row holds
// decoded text, nil for NULL. It does not allocate where the reference is not inside JSON.
func (m *matcher) hit(e *Erased, row [][]byte) (request uint32, ok bool, err error) {
	switch {
	case !m.applies(row):
		return 0, false, nil
	case m.path != nil:
		return m.hitInside(e, row[m.at[0]])
	}
	if m.key, ok = appendRowKey(m.key[:0], row, m.at, m.edge.Family); !ok {
		return 0, false, nil
	}
	request, ok = e.Hit(m.edge.ID, m.key)
	return request, ok, nil
}

// hits tells found of each hit of a row: there may be several where the keys stand inside a JSON text.
func (m *matcher) hits(e *Erased, row [][]byte, found func(request uint32)) error {
	if m.path != nil && m.applies(row) {
		return m.hitsInside(e, row[m.at[0]], found)
	}
	request, ok, err := m.hit(e, row)
	if ok {
		found(request)
	}
	return err
}

// hitInside is hit for the keys at a path in a JSON text.
func (m *matcher) hitInside(e *Erased, document []byte) (request uint32, ok bool, err error) {
	request = NoRequest
	err = m.hitsInside(e, document, func(r uint32) { request, ok = min(request, r), true })
	return request, ok, err
}

func (m *matcher) hitsInside(e *Erased, document []byte, found func(request uint32)) error {
	if document == nil {
		return nil
	}
	err := m.path.Values(document, func(value []byte) bool {
		var valid bool
		if m.key, valid = AppendKey(m.key[:0], m.edge.Family[0], value); valid {
			if r, hit := e.Hit(m.edge.ID, m.key); hit {
				found(r)
			}
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("reading the JSON path %s in %s.%s: %w",
			m.edge.Path, m.edge.From.Name, catalog.QuoteIfNeeded(m.edge.Columns[0]), err)
	}
	return nil
}
