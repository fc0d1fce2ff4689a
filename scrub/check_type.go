package scrub

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"lethe/rules"
	"lethe/scrub/catalog"
	"lethe/scrub/mask"
)

// class is a column's type as the strategies see it: domains are followed to the type under them.
type class struct {
	kind   string           // a built-in type's name (int4, text, varchar …), citext, or "" for any other
	base   catalog.TypeRef  // the type under the domains
	array  bool             // kind is the elements'
	labels []string         // an enum's
	length int              // varchar(n), char(n), bit(n): characters; 0 is no limit
	checks []*catalog.Check // of the domains on the way
	name   string           // as the column declares it, for people
}

// classOf looks through the domains of a column.
func (c *compiler) classOf(col *catalog.Column) class {
	base, checks, _ := c.cat.Base(col.Type)
	cl := class{base: base, array: base.Array, checks: checks, name: typeName(col.Type)}
	if base.Array { // the elements may be of a domain in turn
		element := base
		element.Array = false
		inner, more, _ := c.cat.Base(element)
		cl.checks = append(slices.Clone(checks), more...)
		base = inner
	}
	switch {
	case base.Name.Schema == "pg_catalog":
		cl.kind = base.Name.Name
	case base.Name.Name == "citext" && c.cat.Types[base.Name] == nil: // of the extension, in whatever schema
		cl.kind = "citext"
	case base.Name.Name == "lo" && c.cat.Types[base.Name] == nil:
		cl.kind = "lo"
	}
	if t := c.cat.Types[base.Name]; t != nil && t.Kind == catalog.Enum {
		cl.kind, cl.labels = "enum", t.Labels
	}
	if len(base.Mods) > 0 {
		switch cl.kind {
		case "varchar", "bpchar", "bit", "varbit":
			cl.length = base.Mods[0]
		}
	}
	if cl.kind == "name" {
		cl.length = 63 // bytes, and what strategies write is ASCII
	}
	return cl
}

func typeName(t catalog.TypeRef) string {
	s := t.Name.String()
	if t.Name.Schema == "pg_catalog" {
		s = t.Name.Name
	}
	switch {
	case t.Words != "":
		s += "(" + t.Words + ")"
	case len(t.Mods) > 0:
		mods := make([]string, len(t.Mods))
		for i, m := range t.Mods {
			mods[i] = strconv.Itoa(m)
		}
		s += "(" + strings.Join(mods, ",") + ")"
	}
	if t.Array {
		s += "[]"
	}
	return s
}

// textual says whether values (or elements) are plain text.
func (cl class) textual() bool {
	switch cl.kind {
	case "text", "varchar", "bpchar", "citext", "name":
		return true
	}
	return false
}

// holdsJSON says whether a value can be read as JSON.
func (cl class) holdsJSON() bool {
	return !cl.array && (cl.kind == "json" || cl.kind == "jsonb" || cl.textual())
}

// holdsLargeObject says whether a column's type is one by which applications name large objects.
func (c *compiler) holdsLargeObject(col *catalog.Column) bool {
	cl := c.classOf(col)
	return cl.kind == "oid" || cl.kind == "lo"
}

// serverCollation says whether equal values of a column may differ in bytes.
func (c *compiler) serverCollation(col *catalog.Column) bool {
	if col.Collation != (catalog.Name{}) {
		return c.cat.Collations[col.Collation]
	}
	for t := col.Type; ; {
		d := c.cat.Types[t.Name]
		if d == nil || d.Kind != catalog.Domain || t.Array {
			return false
		}
		if d.Collation != (catalog.Name{}) {
			return c.cat.Collations[d.Collation]
		}
		t = d.Base
	}
}

// keyFamily says how the values of a reference's column compare with those of the key it leads to. path is set where
// the value is a JSON string or number inside the column. What no family covers is Server's; what nothing can
// compare, which only a declared reference can ask for, is an error.
//
// An integer, a numeric or a uuid on one side and text on the other compare as the integer, numeric or uuid: text that
// is no such value equals nothing.
func (c *compiler) keyFamily(from, to *catalog.Column, path bool) (Family, error) {
	a, b := c.classOf(from), c.classOf(to)
	if path {
		a = class{kind: "text", name: "JSON text"}
	}
	if a.array || b.array {
		if path || a.base.Name != b.base.Name || a.array != b.array {
			return Server, fmt.Errorf("%s and %s do not compare", a.name, b.name)
		}
		return Server, nil
	}
	groupA, groupB := keyGroup(a.kind), keyGroup(b.kind)
	server := c.serverCollation(to) || !path && c.serverCollation(from)
	switch {
	case server && groupA == groupB:
		return Server, nil
	case groupA == "text" && groupB == "text":
		switch {
		case a.kind == "citext" || b.kind == "citext":
			return Server, nil
		case b.kind == "bpchar":
			return PaddedText, nil
		case a.kind == "bpchar":
			return Server, nil // char(n) loses its padding on the way to text, text does not
		}
		return Text, nil
	case groupA == "integer" && groupB == "integer":
		return Integer, nil
	case groupA == "numeric" && groupB == "numeric", groupA == "integer" && groupB == "numeric", groupA == "numeric" && groupB == "integer":
		return Numeric, nil
	case groupA == "uuid" && groupB == "uuid":
		return UUID, nil
	case groupA == "exact" && a.kind == b.kind && (a.kind != "enum" || a.base.Name == b.base.Name):
		return Exact, nil
	case server, a.kind == "citext", b.kind == "citext":
		return Server, fmt.Errorf("%s and %s do not compare", a.name, b.name)
	case groupA == "text" && groupB == "integer", groupA == "integer" && groupB == "text":
		return Integer, nil
	case groupA == "text" && groupB == "numeric", groupA == "numeric" && groupB == "text":
		return Numeric, nil
	case groupA == "text" && groupB == "uuid", groupA == "uuid" && groupB == "text":
		return UUID, nil
	case path && groupB == "exact":
		return Exact, nil // the JSON string has to be what the server prints
	case path:
		return Server, fmt.Errorf("a value of type %s has no one spelling in JSON", b.name)
	case groupA == "server" && groupB == "server" && (a.kind == b.kind && a.base.Name == b.base.Name || a.kind[:min(5, len(a.kind))] == "float" && b.kind[:min(5, len(b.kind))] == "float"):
		return Server, nil
	case groupA != "server" && groupA != "exact" || groupB != "server" && groupB != "exact":
		return Server, fmt.Errorf("%s and %s do not compare", a.name, b.name)
	}
	return Server, nil // inet with cidr, date with timestamp …
}

// keyGroup puts types whose values compare with each other together.
func keyGroup(kind string) string {
	switch kind {
	case "int2", "int4", "int8", "oid":
		return "integer"
	case "numeric":
		return "numeric"
	case "text", "varchar", "bpchar", "citext", "name":
		return "text"
	case "uuid":
		return "uuid"
	case "bool", "date", "timestamp", "timestamptz", "time", "bytea", "enum", "inet", "cidr", "macaddr", "macaddr8",
		"bit", "varbit", "money", "char", "pg_lsn", "xid8", "tid":
		return "exact"
	}
	return "server"
}

// notNull says whether a column or a domain under it is NOT NULL.
func (c *compiler) notNull(col *catalog.Column) bool {
	_, _, domain := c.cat.Base(col.Type)
	return col.NotNull || domain
}

// problem is why a rule can't work, with what to do about it.
type problem struct{ msg, hint string }

// strategyProblem says why a strategy does not work on a column's type, or nil. A literal that only a server can
// judge is left to a Probe, returned as SQL.
func (c *compiler) strategyProblem(col *catalog.Column, s rules.Strategy) (p *problem, probe string) {
	cl := c.classOf(col)
	wrong := func(works string) *problem {
		return &problem{fmt.Sprintf("%s does not work on type %s", s.Name, cl.name), s.Name + " works on " + works}
	}
	switch s.Name {
	case "clear":
		if c.notNull(col) {
			return &problem{"clear writes NULL, and the column is NOT NULL", "use value, or another strategy of its type"}, ""
		}
	case "value":
		if cl.array {
			if s.Value == "{}" {
				return nil, ""
			}
			return nil, castProbe(col.Type, s.Value)
		}
		known, err := judgeValue(cl, s.Value)
		if err != nil {
			return &problem{"the value " + err.Error(), "write a value that a column of type " + cl.name + " can hold"}, ""
		}
		if !known {
			return nil, castProbe(col.Type, s.Value)
		}
	case "unique_email":
		if !cl.textual() || cl.array {
			return wrong("text, varchar, char(n), citext and name, and not on arrays"), ""
		}
		if _, err := mask.UniqueEmailLen(cl.length); err != nil {
			return &problem{err.Error(), "use clear or value"}, ""
		}
	case "hmac":
		if cl.kind == "uuid" {
			return nil, ""
		}
		if !cl.textual() {
			return wrong("text, varchar, char(n), citext, name and uuid, and on arrays of them"), ""
		}
		if cl.length > 0 && s.Length > cl.length {
			return &problem{fmt.Sprintf("hmac writes %d characters, and the column holds %d", s.Length, cl.length),
				fmt.Sprintf("write {hmac: {length: %d}} or less", cl.length)}, ""
		}
	case "mask", "regex":
		if !cl.textual() {
			return wrong("text, varchar, char(n), citext and name, and on arrays of them"), ""
		}
	case "json":
		if cl.array || !cl.holdsJSON() {
			return wrong("json, jsonb, text and varchar, and not on arrays"), ""
		}
	case "ip_prefix":
		if !cl.textual() && cl.kind != "inet" && cl.kind != "cidr" {
			return wrong("inet, cidr, text and varchar, and on arrays of them"), ""
		}
	case "date_trunc":
		switch cl.kind {
		case "date", "timestamp", "timestamptz":
		default:
			return wrong("date, timestamp and timestamptz"), ""
		}
		if cl.array {
			return wrong("date, timestamp and timestamptz, and not on arrays"), ""
		}
		if cl.kind == "date" && (s.Unit == "hour" || s.Unit == "minute") {
			return &problem{"a date has no " + s.Unit, "use day, or a longer unit"}, ""
		}
	case "no_rows":
		return &problem{"no_rows is for whole tables", "write TABLE: no_rows"}, ""
	default:
		return &problem{"there is no strategy " + s.Name, ""}, ""
	}
	return nil, ""
}

// castProbe asks a server whether a literal is a value of a type: the cast fails where it is not.
func castProbe(t catalog.TypeRef, value string) string {
	sql := t.Name.SQL()
	if t.Words != "" {
		sql += "(" + t.Words + ")"
	} else if len(t.Mods) > 0 {
		mods := make([]string, len(t.Mods))
		for i, m := range t.Mods {
			mods[i] = strconv.Itoa(m)
		}
		sql += "(" + strings.Join(mods, ",") + ")"
	}
	if t.Array {
		sql += "[]"
	}
	cast := "CAST(" + catalog.Literal(value) + " AS " + sql + ")"
	if t.Array && len(t.Mods) > 0 { // a cast cuts text off where storing it is an error
		return "SELECT CAST(" + cast + " AS pg_catalog.text) = CAST(CAST(" + catalog.Literal(value) + " AS " + t.Name.SQL() + "[]) AS pg_catalog.text)"
	}
	return "SELECT " + cast + " IS NOT NULL"
}

var (
	decimalText = regexp.MustCompile(`^[+-]?([0-9]*)(?:\.([0-9]*))?$`)
	uuidText    = regexp.MustCompile(`^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`)
)

// judgeValue says whether a literal is a value of a type. known is false where only a server can tell.
func judgeValue(cl class, value string) (known bool, err error) {
	if strings.ContainsRune(value, 0) {
		return true, errors.New("holds a NUL character, which no PostgreSQL value can")
	}
	not := func(what string) (bool, error) { return true, fmt.Errorf("is not %s", what) }
	switch cl.kind {
	case "text", "citext":
		return true, nil
	case "varchar", "bpchar":
		if n := utf8.RuneCountInString(value); cl.length > 0 && n > cl.length {
			return true, fmt.Errorf("is %d characters long, and the column holds %d", n, cl.length)
		}
		return true, nil
	case "name":
		if len(value) > 63 {
			return true, fmt.Errorf("is %d bytes long, and the column holds 63", len(value))
		}
		return true, nil
	case "int2", "int4", "int8":
		bits := map[string]int{"int2": 16, "int4": 32, "int8": 64}[cl.kind]
		if _, err := strconv.ParseInt(value, 10, bits); err != nil {
			return not(fmt.Sprintf("an integer of %d bits", bits))
		}
		return true, nil
	case "oid":
		if _, err := strconv.ParseUint(value, 10, 32); err != nil {
			return not("an oid")
		}
		return true, nil
	case "numeric":
		return judgeNumeric(cl, value)
	case "float4", "float8":
		bits := map[string]int{"float4": 32, "float8": 64}[cl.kind]
		if _, err := strconv.ParseFloat(value, bits); err != nil || strings.ContainsAny(value, "xX_pP") {
			return not("a number of that size")
		}
		return true, nil
	case "bool":
		switch value {
		case "t", "f", "true", "false", "yes", "no", "on", "off", "1", "0":
			return true, nil
		}
		return not("true or false")
	case "uuid":
		if !uuidText.MatchString(value) {
			return not("a UUID as PostgreSQL prints it")
		}
		return true, nil
	case "date":
		if at, err := time.Parse("2006-01-02", value); (err != nil || at.Year() == 0) && value != "infinity" && value != "-infinity" {
			return not("a date (YYYY-MM-DD)")
		}
		return true, nil
	case "timestamp", "timestamptz":
		for _, layout := range []string{"2006-01-02", "2006-01-02 15:04", "2006-01-02 15:04:05", "2006-01-02 15:04:05Z07",
			"2006-01-02T15:04:05", time.RFC3339, "2006-01-02 15:04:05Z07:00"} {
			if at, err := time.Parse(layout, value); err == nil && at.Year() > 0 {
				return true, nil
			}
		}
		if value == "infinity" || value == "-infinity" {
			return true, nil
		}
		return not("a time (YYYY-MM-DD HH:MM:SS)")
	case "json", "jsonb":
		if !json.Valid([]byte(value)) || cl.kind == "jsonb" && strings.Contains(value, `\u0000`) {
			return not("valid JSON")
		}
		return true, nil
	case "enum":
		if !slices.Contains(cl.labels, value) {
			return true, fmt.Errorf("is none of the labels %s", strings.Join(cl.labels, ", "))
		}
		return true, nil
	case "inet", "cidr":
		prefix, err := netip.ParsePrefix(value)
		if err != nil {
			addr, err := netip.ParseAddr(value)
			if err != nil || addr.Zone() != "" {
				return not("an IP address")
			}
			return true, nil
		}
		if cl.kind == "cidr" && prefix != prefix.Masked() {
			return not("a network: it has bits to the right of its mask")
		}
		return true, nil
	case "bit", "varbit":
		length := cl.length
		if cl.kind == "bit" {
			length = max(1, length)
		}
		if strings.Trim(value, "01") != "" || cl.kind == "bit" && len(value) != length || length > 0 && len(value) > length {
			return not("a string of 0 and 1 of its length")
		}
		return true, nil
	case "bytea":
		if rest, ok := strings.CutPrefix(value, `\x`); ok {
			if _, err := hex.DecodeString(rest); err != nil {
				return not("bytes in hexadecimal")
			}
			return true, nil
		}
	}
	return false, nil
}

// judgeNumeric checks precision and scale; digits beyond the scale round, as the server does it.
func judgeNumeric(cl class, value string) (known bool, err error) {
	m := decimalText.FindStringSubmatch(value)
	if m == nil || m[1] == "" && m[2] == "" {
		return true, errors.New("is not a plain decimal number")
	}
	if len(cl.base.Mods) == 0 {
		return true, nil
	}
	precision, scale := cl.base.Mods[0], 0
	if len(cl.base.Mods) > 1 {
		scale = cl.base.Mods[1]
	}
	if scale < 0 || len(m[1]) > 1000 || len(m[2]) > 1000 {
		return false, nil
	}
	number, ok := new(big.Rat).SetString(value)
	if !ok {
		return false, nil
	}
	rounded, _ := new(big.Rat).SetString(number.Abs(number).FloatString(scale))
	limit := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(precision-scale)), nil))
	if precision >= scale && rounded.Cmp(limit) >= 0 {
		return true, fmt.Errorf("does not fit numeric(%d,%d)", precision, scale)
	}
	return precision >= scale, nil
}
