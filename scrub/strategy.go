package scrub

import (
	"bytes"
	"errors"
	"fmt"
	"unicode/utf8"

	"lethe/rules"
	"lethe/scrub/catalog"
	"lethe/scrub/mask"
)

// Keys are the secrets that strategies are deterministic under.
type Keys struct {
	Strategy mask.Key   // of the repository, for always
	Erase    []mask.Key // per request, for what erasing writes; see EraseKey
}

// Keys derives the keys of a run with these requests.
func (p *Plan) Keys(strategy mask.Key, requests []Request) (Keys, error) {
	keys := Keys{Strategy: strategy, Erase: make([]mask.Key, len(requests))}
	for i, r := range requests {
		if r.Salt != (mask.Key{}) {
			keys.Erase[i] = EraseKey(r.Salt)
			continue
		}
		canonical, err := p.canonicalRequest(i, r)
		if err != nil {
			return Keys{}, err
		}
		keys.Erase[i] = strategy.Derive("lethe erase\x00" + r.Subject + "\x00" + canonical + "\x00" + r.Ref)
	}
	return keys, nil
}

// EraseKey is the key under which a request's redact strategies write: HMAC-SHA256 of a fixed word under the salt of the
// request's ledger record. So rows are equal from snapshot to snapshot while the request is open; once its sealed record
// is deleted nobody can compute the key again. A request without a record, as a dry run has, gets one that only serves
// to try the strategies out.
func EraseKey(salt mask.Key) mask.Key { return salt.Derive("lethe erase") }

// strategyFunc makes the function of one rewrite for a column of t. Compile has checked that it works on the type.
func (p *Plan) strategyFunc(t *catalog.Table, r Rewrite, key mask.Key) (mask.Func, error) {
	col := t.Column(r.Column)
	if col == nil {
		return nil, fmt.Errorf("%s has no column %s", t.Name, catalog.QuoteIfNeeded(r.Column))
	}
	cl := (&compiler{cat: p.Catalog}).classOf(col)
	f, err := elementFunc(cl, r, key)
	if err != nil {
		return nil, fmt.Errorf("strategy %s for %s.%s: %w", r.Strategy.Name, t.Name, catalog.QuoteIfNeeded(r.Column), err)
	}
	whole := r.Strategy.Name == "clear" || r.Strategy.Name == "value"
	if cl.kind == "bpchar" && !whole {
		f = unpadded(f)
	}
	if cl.length > 0 && cl.textual() && !whole {
		f = limited(f, cl.length)
	}
	if cl.array && !whole {
		f = mask.MapArray(',', f)
	}
	return f, nil
}

// elementFunc is the function for one value, or for one element of an array.
func elementFunc(cl class, r Rewrite, key mask.Key) (mask.Func, error) {
	s := r.Strategy
	key = key.Derive(r.Domain)
	switch s.Name {
	case "clear":
		return mask.Clear(), nil
	case "value":
		return mask.Value(s.Value), nil
	case "unique_email":
		return mask.UniqueEmail(key, r.MaxLen, cl.kind == "citext")
	case "hmac":
		if cl.kind == "uuid" {
			return mask.HMAC(key, mask.UUID, 0)
		}
		return mask.HMAC(key, mask.HexText, s.Length)
	case "mask":
		with := '*'
		if s.With != "" {
			with, _ = utf8.DecodeRuneInString(s.With)
		}
		return mask.Pattern(s.KeepFirst, s.KeepLast, with)
	case "regex":
		return mask.Regex(s.Match, s.Replace)
	case "json":
		return jsonFunc(s)
	case "ip_prefix":
		form := mask.IPText
		switch cl.kind {
		case "inet":
			form = mask.IPInet
		case "cidr":
			form = mask.IPCIDR
		}
		return mask.IPPrefix(s.V4, s.V6, form)
	case "date_trunc":
		form := mask.Date
		switch cl.kind {
		case "timestamp":
			form = mask.Timestamp
		case "timestamptz":
			form = mask.TimestampTZ
		}
		return mask.DateTrunc(s.Unit, form)
	}
	return nil, errors.New("it has no function")
}

func jsonFunc(s rules.Strategy) (mask.Func, error) {
	var remove []mask.Path
	for _, text := range s.Remove {
		path, err := mask.ParsePath(text)
		if err != nil {
			return nil, err
		}
		remove = append(remove, path)
	}
	var set []mask.JSONSet
	for _, one := range s.Set {
		path, err := mask.ParsePath(one.Path)
		if err != nil {
			return nil, err
		}
		set = append(set, mask.JSONSet{Path: path, Value: one.Value})
	}
	return mask.JSON(remove, set)
}

// unpadded takes the padding of char(n) off first: it is no part of the value.
func unpadded(f mask.Func) mask.Func {
	return func(dst, value []byte) ([]byte, bool, error) { return f(dst, bytes.TrimRight(value, " ")) }
}

// limited refuses a value that the column can't hold, which would show only at restore.
func limited(f mask.Func, characters int) mask.Func {
	return func(dst, value []byte) ([]byte, bool, error) {
		out, null, err := f(dst, value)
		if err == nil && !null && utf8.RuneCount(out[len(dst):]) > characters {
			return dst, false, fmt.Errorf("the new value is longer than the %d characters that the column holds", characters)
		}
		return out, null, err
	}
}
