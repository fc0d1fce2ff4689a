package pipeline

import (
	"context"
	"errors"

	"lethe/pipeline/archive"
)

// OverdueErasures says which erasure requests are overdue, as far as the keys that are here can tell.
type OverdueErasures struct {
	KnownBy string    `json:"known_by"` // "listing", "records" or "requests"
	Open    int       `json:"open"`     // requests that no record closes
	Unread  int       `json:"unread"`   // of those, the ones of which nothing here can read when they came in
	Overdue []Erasure `json:"overdue"`
	Error   string    `json:"error,omitempty"` // why less is known than the keys allow

	problems map[string]Problem // by store
}

// By what open requests are known.
const (
	ByRecords  = "records"  // trusted signers say how many there are
	ByRequests = "requests" // and when each came in could be read
)

// Overdue looks for erasure requests whose deadline is over while a stored snapshot still holds the person, or may. When
// a request came in stands in what is sealed, so that only c.Readers can tell; without them the signed records are counted,
// and where nobody is trusted the sealed requests that a store lists. Manifests are read only where a deadline is over.
func Overdue(ctx context.Context, c ErasuresConfig, trusts bool) (*OverdueErasures, error) {
	out := &OverdueErasures{KnownBy: ByListing, Overdue: []Erasure{}, problems: map[string]Problem{}}
	var places []*ledgerPlace
	var errs []error
	for _, r := range c.Repositories {
		if !trusts {
			open, err := r.sealedRequests(ctx)
			if err != nil {
				errs = append(errs, err)
			}
			out.Open = max(out.Open, open)
			out.Unread = out.Open
			continue
		}
		p, err := r.readLedger(ctx, c.Readers, nil)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, ErrIntegrity):
			out.problems[r.Store.String()] = Problem{File: archive.LedgerPrefix, Problem: err.Error()}
		case err != nil:
			errs = append(errs, err)
		default:
			places = append(places, p)
		}
	}
	if err := errors.Join(errs...); err != nil {
		out.Error = err.Error()
	}
	if !trusts {
		return out, nil
	}
	out.KnownBy = ByRecords
	if c.Readers != nil {
		out.KnownBy = ByRequests
	}
	late := false
	for _, e := range longest(places).Records {
		if e.Kind != archive.RequestRecord || e.Closed {
			continue
		}
		out.Open++
		if e.Request == nil {
			out.Unread++
			continue
		}
		late = late || c.late(e.Request)
	}
	if !late {
		return out, nil
	}
	list, err := ListErasures(ctx, c)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		if !errors.Is(err, ErrIntegrity) {
			out.Error = err.Error()
			return out, nil
		}
		for _, r := range c.Repositories {
			out.problems[r.Store.String()] = Problem{File: archive.LedgerPrefix, Problem: err.Error()}
		}
		return out, nil
	}
	for _, s := range list.Stores {
		if errors.Is(s.err, ErrIntegrity) {
			out.problems[s.Store] = Problem{File: archive.LedgerPrefix, Problem: s.Error}
		}
	}
	for _, e := range list.Requests {
		if e.Overdue {
			out.Overdue = append(out.Overdue, e)
		}
	}
	return out, nil
}

// Problem returns what does not hold in a store's ledger, if that was noticed.
func (o *OverdueErasures) Problem(store string) (Problem, bool) {
	p, ok := o.problems[store]
	return p, ok
}

// sealedRequests counts the requests that are sealed in a store, by its listing alone: a closed one's is deleted.
func (r *Repository) sealedRequests(ctx context.Context) (int, error) {
	f, err := r.listLedger(ctx)
	return f.sealed.requests(), err
}
