package pipeline

import (
	"context"
	"slices"

	"lethe/scrub"
)

// TablePreview is what erasing somebody would do to the rows of one table, as scrub.Footprint counts it. It holds no keys.
type TablePreview struct {
	Table string `json:"table"`
	rowCounts
	Kept   int64        `json:"kept"`             // rows that stay as the person's, unchanged
	Reason string       `json:"reason,omitempty"` // why rows stay as the person's, as the rules say
	Ways   []WayPreview `json:"ways"`
}

// WayPreview is one way by which rows of a table are reached.
type WayPreview struct {
	Path string `json:"path"` // comments.post_id → posts.author → users
	Verb string `json:"verb"` // delete, keep, clear or set default
	Rows int64  `json:"rows"` // a row that is reached in several ways counts for each
}

// preview fills in what erasing the people of these orders would do. Whoever is in several orders counts once.
func (r *RequestReport) preview(ctx context.Context, plan *scrub.Plan, server scrub.Querier, list []judged) error {
	type person struct{ subject, key string }
	at := map[person]int{} // in reqs
	var reqs []scrub.Request
	for i, one := range people(list) {
		whom := person{one.Subject, list[i].key}
		if _, known := at[whom]; !known {
			at[whom] = len(reqs)
			reqs = append(reqs, one)
		}
	}
	found, err := plan.Footprint(ctx, server, reqs)
	if err != nil {
		return err
	}
	previews := make([][]TablePreview, len(found))
	for i, tables := range found {
		previews[i] = []TablePreview{}
		for _, f := range tables {
			t := TablePreview{Table: f.Table.String(), rowCounts: rowCounts{Deleted: f.Deleted, Redacted: f.Redacted, Cleared: f.Cleared, Others: f.Others}, Kept: f.Kept, Reason: f.Reason}
			for _, w := range f.Ways {
				t.Ways = append(t.Ways, WayPreview{w.Path, w.Verb.String(), w.Rows})
			}
			previews[i] = append(previews[i], t)
		}
	}
	for i, j := range list {
		r.Requests[i].Tables = previews[at[person{j.Subject, j.key}]]
	}
	if len(reqs) > 1 {
		r.Together = together(previews)
	}
	return nil
}

// together adds previews up, table by table and way by way.
func together(previews [][]TablePreview) []TablePreview {
	sum := []TablePreview{}
	for _, tables := range previews {
		for _, t := range tables {
			i := slices.IndexFunc(sum, func(s TablePreview) bool { return s.Table == t.Table })
			if i < 0 {
				i = len(sum)
				sum = append(sum, TablePreview{Table: t.Table})
			}
			s := &sum[i]
			s.join(t.rowCounts)
			s.Kept += t.Kept
			if s.Reason == "" {
				s.Reason = t.Reason
			}
			for _, w := range t.Ways {
				n := slices.IndexFunc(s.Ways, func(o WayPreview) bool { return o.Path == w.Path && o.Verb == w.Verb })
				if n < 0 {
					s.Ways = append(s.Ways, w)
				} else {
					s.Ways[n].Rows += w.Rows
				}
			}
		}
	}
	return sum
}
