package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
	"lethe/scrub/copytext"
)

// CheckConfig is what a check needs.
type CheckConfig struct {
	Repository *Repository
	Snapshot   string              // "" means all
	Readers    *archive.Identities // open manifests: the operator's, or a key holder's
	Identities *archive.Identities // open objects: a key holder's, or nil
	ReadData   float64             // share of the objects whose bytes are read: 0 none, 1 all
	Workers    int
	Progress   func(Progress)
}

// CheckReport says what a check found.
type CheckReport struct {
	Store     string    `json:"store"`
	Snapshots int       `json:"snapshots"`
	Objects   int       `json:"objects"`  // that the manifests name
	Bytes     int64     `json:"bytes"`    // of those
	Read      int       `json:"read"`     // objects whose digest was checked
	Opened    int       `json:"opened"`   // objects whose content was checked
	Unnamed   int       `json:"unnamed"`  // objects that no manifest names: left by interrupted runs, harmless
	Problems  []Problem `json:"problems"` // empty: all is well

	Ledger *CheckedLedger `json:"ledger,omitempty"` // and what else is stored of erasures; left out where one snapshot was asked for
}

// Problem is one thing that is not as a manifest or the ledger says.
type Problem struct {
	File     string `json:"file,omitempty"` // of the ledger, or another one that belongs to no snapshot
	Snapshot string `json:"snapshot,omitempty"`
	Object   string `json:"object,omitempty"`
	Part     string `json:"part,omitempty"` // the table or part the object belongs to
	Problem  string `json:"problem"`
}

// Check compares a store with what its manifests and its ledger say, and goes on after each problem so that the report
// names all.
func Check(ctx context.Context, c CheckConfig) (*CheckReport, error) {
	r := &CheckReport{Store: c.Repository.Store.String(), Problems: []Problem{}}
	stored := map[string]int64{}
	err := c.Repository.Store.List(ctx, archive.ObjectsPrefix, func(i store.Info) error {
		if o, ok := archive.ObjectOf(i.Name); ok {
			stored[o] = i.Size
		}
		return nil
	})
	if err != nil {
		return nil, fail(err, "", "check %s", r.Store)
	}
	if err := c.keys(ctx, r); err != nil {
		return nil, fail(err, "", "check %s", r.Store)
	}
	wanted, heads, err := c.manifests(ctx, r)
	if err != nil {
		return nil, fail(err, "", "check %s", r.Store)
	}
	if c.Snapshot == "" {
		if err := c.ledger(ctx, r, heads); err != nil {
			return nil, fail(err, "", "check %s", r.Store)
		}
	}
	var present []checkedObject
	for _, o := range wanted {
		r.Bytes += o.Size
		size, ok := stored[o.Object.Object]
		switch {
		case !ok:
			r.add(o, "missing")
		case size != o.Size:
			r.add(o, fmt.Sprintf("does not match its manifest (%d bytes, not %d)", size, o.Size))
		default:
			present = append(present, o)
		}
		delete(stored, o.Object.Object)
	}
	r.Objects = len(wanted)
	if c.Snapshot == "" {
		r.Unnamed = len(stored)
	}
	if err := c.read(ctx, r, present); err != nil {
		return nil, fail(err, "", "check %s", r.Store)
	}
	return r, nil
}

// checkedObject is an object with one place that names it.
type checkedObject struct {
	archive.Object
	snapshot string
	part     *archive.Part
	filter   bool
}

func (r *CheckReport) add(o checkedObject, problem string) {
	r.Problems = append(r.Problems, Problem{Snapshot: o.snapshot, Object: o.Object.Object, Part: o.part.Name, Problem: problem})
}

// keys looks for the key file that counts. One of a higher number that nobody trusted has signed is told, too: it may be
// damaged, or a lost operator's.
func (c *CheckConfig) keys(ctx context.Context, r *CheckReport) error {
	f, err := c.Repository.keyFile(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		f.beyond = []error{err}
	}
	for _, err := range f.beyond {
		r.Problems = append(r.Problems, Problem{Problem: err.Error()})
	}
	return nil
}

// manifests reads all manifests and returns every object they name, once, in the order met, and which records of the
// ledger they know.
func (c *CheckConfig) manifests(ctx context.Context, r *CheckReport) (wanted []checkedObject, heads []knownHead, err error) {
	list, err := c.Repository.Snapshots(ctx)
	if err != nil {
		return nil, nil, err
	}
	if c.Snapshot != "" {
		id, err := c.Repository.Find(ctx, c.Snapshot)
		if err != nil {
			return nil, nil, err
		}
		list = slices.DeleteFunc(list, func(l Listed) bool { return l.ID != id })
	}
	seen := map[string]bool{}
	digests := map[string]string{}
	var newest *archive.Manifest
	for _, l := range list {
		m, digest, err := c.Repository.manifest(ctx, l.ID, c.Readers)
		if err != nil {
			if ctx.Err() != nil {
				return nil, nil, ctx.Err()
			}
			if errors.Is(err, archive.ErrNoIdentity) {
				return nil, nil, err
			}
			r.Problems = append(r.Problems, Problem{Snapshot: l.ID, Problem: err.Error()})
			continue
		}
		newest = m
		r.Snapshots++
		digests[l.ID] = digest
		if m.Ledger != nil {
			heads = append(heads, knownHead{Problem{Snapshot: l.ID}, *m.Ledger})
		}
		for i := range m.Parts {
			p := &m.Parts[i]
			for j, o := range slices.Concat(p.Objects, p.Filters) {
				if !seen[o.Object] {
					seen[o.Object] = true
					wanted = append(wanted, checkedObject{o, l.ID, p, j >= len(p.Objects)})
				}
			}
		}
	}
	if newest != nil {
		for _, ref := range newest.Alive {
			if d, ok := digests[ref.ID]; ok && d != ref.Digest {
				r.Problems = append(r.Problems, Problem{Snapshot: ref.ID, Problem: "its manifest is not the one that " + newest.ID + " knows: the store has swapped it"})
			}
		}
	}
	return wanted, heads, nil
}

// read checks bytes, and with identities also what is inside them.
func (c *CheckConfig) read(ctx context.Context, r *CheckReport, objects []checkedObject) error {
	share := c.ReadData
	if share <= 0 {
		return nil
	}
	if share < 1 {
		rand.Shuffle(len(objects), func(i, j int) { objects[i], objects[j] = objects[j], objects[i] })
		objects = objects[:min(len(objects), max(1, int(share*float64(len(objects)))))]
	}
	type result struct {
		object  checkedObject
		problem string
	}
	results := make(chan result)
	done := make(chan error, 1)
	go func() {
		done <- each(ctx, objects, c.Workers, func() (func(context.Context, checkedObject) error, error) {
			var opener *archive.Opener
			if c.Identities != nil {
				var err error
				if opener, err = archive.NewOpener(c.Identities); err != nil {
					return nil, err
				}
			}
			return func(ctx context.Context, o checkedObject) error {
				problem, err := c.readOne(ctx, opener, o)
				if err != nil {
					return err
				}
				select {
				case results <- result{o, problem}:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}, nil
		})
		close(results)
	}()
	var bytes int64
	for res := range results {
		r.Read++
		if c.Identities != nil {
			r.Opened++
		}
		if res.problem != "" {
			r.add(res.object, res.problem)
		}
		bytes += res.object.Size
		if c.Progress != nil {
			c.Progress(Progress{Stage: "reading objects", Bytes: bytes, Total: r.Bytes})
		}
	}
	return <-done
}

// readOne returns what is wrong with one object. The error is for what ends the whole check.
func (c *CheckConfig) readOne(ctx context.Context, opener *archive.Opener, o checkedObject) (problem string, err error) {
	data, err := c.Repository.Object(ctx, o.Object)
	if err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return reason(err), nil
	}
	if opener == nil {
		return reason(archive.CheckObject(data, o.Object)), nil
	}
	text, err := opener.Open(data, o.Object)
	if errors.Is(err, archive.ErrNoIdentity) {
		return "", err
	}
	if err != nil {
		return reason(err), nil
	}
	if o.filter {
		_, err := archive.ParseFilter(text)
		return reason(err), nil
	}
	if o.part.Kind != archive.Table {
		return "", nil
	}
	rows, err := copytext.Body(text, copytext.Header(partName(*o.part).SQL(), o.part.Columns))
	if err != nil {
		return err.Error(), nil
	}
	if n := int64(bytes.Count(rows, []byte{'\n'})); n != o.Rows {
		return fmt.Sprintf("holds %d rows, its manifest says %d", n, o.Rows), nil
	}
	return "", nil
}

// reason is an error's words without the object's name, which the report carries beside it.
func reason(err error) string {
	if err == nil {
		return ""
	}
	var a *archive.Error
	if errors.As(err, &a) {
		if a.Err != nil {
			return a.Msg + ": " + a.Err.Error()
		}
		return a.Msg
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Err.Error()
	}
	return err.Error()
}
