package catalog

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Fingerprint is the SHA-256, in hex, of what the schema says about rows: tables, their columns in order, keys,
// references, checks, and types. Names of constraints and the order of statements don't count, nor do defaults,
// owners, privileges, plain indexes, views and functions.
func (c *Catalog) Fingerprint() string {
	h := sha256.New()
	w := bufio.NewWriter(h)
	for _, name := range sortedNames(c.Types) {
		c.Types[name].describe(w)
	}
	for _, name := range sortedNames(c.Tables) {
		c.Tables[name].describe(w)
	}
	var collations []string
	for name, nondeterministic := range c.Collations {
		if nondeterministic {
			collations = append(collations, name.SQL())
		}
	}
	writeSorted(w, "collation", collations)
	_ = w.Flush() // a hash takes everything
	return hex.EncodeToString(h.Sum(nil))
}

func sortedNames[T any](m map[Name]T) []Name {
	names := make([]Name, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.SortFunc(names, func(a, b Name) int {
		if d := strings.Compare(a.Schema, b.Schema); d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
	return names
}

// writeSorted writes lines of one kind, sorted: their order in the DDL means nothing.
func writeSorted(w io.Writer, kind string, lines []string) {
	slices.Sort(lines)
	for _, l := range lines {
		_, _ = fmt.Fprintf(w, " %s %s\n", kind, l)
	}
}

func (t *Type) describe(w io.Writer) {
	_, _ = fmt.Fprintf(w, "type %s %d %q %s %t %s\n", t.Name.SQL(), t.Kind, t.Labels, t.Base.describe(), t.NotNull, t.Collation.SQL())
	for _, f := range t.Fields {
		f.describe(w)
	}
	describeChecks(w, t.Checks)
}

func (r TypeRef) describe() string {
	return fmt.Sprintf("%s(%v%s)%t", r.Name.SQL(), r.Mods, r.Words, r.Array)
}

func (c *Column) describe(w io.Writer) {
	_, _ = fmt.Fprintf(w, " column %s %s %t %q %t %s\n", Quote(c.Name), c.Type.describe(), c.NotNull, c.Generated, c.Identity, c.Collation.SQL())
}

func describeChecks(w io.Writer, checks []*Check) {
	var lines []string
	for _, k := range checks {
		lines = append(lines, fmt.Sprintf("%q", k.Text))
	}
	writeSorted(w, "check", lines)
}

func (t *Table) describe(w io.Writer) {
	_, _ = fmt.Fprintf(w, "table %s %d %q\n", t.Name.SQL(), t.Kind, t.PartitionKey)
	if t.Parent != nil {
		_, _ = fmt.Fprintf(w, " partition of %s\n", t.Parent.Name.SQL())
	}
	var parents []string
	for _, p := range t.Inherits {
		parents = append(parents, p.Name.SQL())
	}
	writeSorted(w, "inherits", parents)
	for _, c := range t.Columns {
		c.describe(w)
	}
	var keys, refs []string
	for _, k := range t.Keys {
		keys = append(keys, fmt.Sprintf("%q %q %t %t %t %q", k.Columns, k.exprs, k.Primary, k.Exclusion, k.NullsNotDistinct, exprText(k.Predicate)))
	}
	writeSorted(w, "key", keys)
	for _, f := range t.References {
		refs = append(refs, fmt.Sprintf("%q %s %q %c %q %c %c", f.Columns, f.To.SQL(), f.ToColumns, f.OnDelete, f.OnDeleteColumns, f.OnUpdate, f.Match))
	}
	writeSorted(w, "reference", refs)
	describeChecks(w, t.Checks)
}
