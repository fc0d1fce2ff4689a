package pipeline

import (
	"context"
	"io"

	"lethe/pipeline/source"
	"lethe/scrub"
	"lethe/scrub/catalog"
)

// view is what a backup reads: one moment of a database, shown by a server or by a dump file.
type view struct {
	Info      source.Info
	PreData   string
	PostData  string
	Catalog   *catalog.Catalog
	Relations []source.Relation
	reader

	server  scrub.Querier                                                              // answers questions about the rows; nil for a dump file
	ask     func(ctx context.Context, sql, param string) ([][]string, error)           // a SELECT with one parameter; nil for a dump file
	probe   func(context.Context, *scrub.Plan) error                                   // what only the source can tell of the rules
	resolve func(context.Context, *scrub.Plan, []scrub.Request) (*scrub.Erased, error) // everything that leads to the people to erase
}

// reader is what source.Snapshot and source.Dump both do; their documentation says how.
type reader interface {
	Copy(ctx context.Context, rel *source.Relation, rng source.Range, w io.Writer) (int64, error)
	Roles(ctx context.Context, names []string) (sql string, roles []source.Role, err error)
	Sequences(ctx context.Context) (string, error)
	LargeObjects(ctx context.Context) ([]source.LargeObject, error)
	LargeObject(ctx context.Context, lo *source.LargeObject, statement func([]byte) error) error
	Alive() error
	Close()
}

// open opens what the configuration names. The caller must Close it.
func (c BackupConfig) open(ctx context.Context) (*view, error) {
	if c.Dump != "" {
		return c.openDump(ctx)
	}
	s, err := source.Open(ctx, c.Source)
	if err != nil {
		return nil, err
	}
	return &view{
		Info: s.Info, PreData: s.PreData, PostData: s.PostData, Catalog: s.Catalog, Relations: s.Relations, reader: s,
		server: querier{s},
		ask:    s.Ask,
		probe:  func(ctx context.Context, p *scrub.Plan) error { return p.Probe(ctx, s.Bool) },
		resolve: func(ctx context.Context, p *scrub.Plan, reqs []scrub.Request) (*scrub.Erased, error) {
			return p.Resolve(ctx, querier{s}, reqs)
		},
	}, nil
}

func (c BackupConfig) openDump(ctx context.Context) (*view, error) {
	d, err := source.OpenDump(ctx, source.DumpConfig{Path: c.Dump, Workers: c.Workers})
	if err != nil {
		return nil, err
	}
	for _, r := range d.Remarks {
		c.warn(r)
	}
	return &view{
		Info: d.Info, PreData: d.PreData, PostData: d.PostData, Catalog: d.Catalog, Relations: d.Relations, reader: d,
		probe: func(_ context.Context, p *scrub.Plan) error { return p.ProbeOffline() },
		resolve: func(ctx context.Context, p *scrub.Plan, reqs []scrub.Request) (*scrub.Erased, error) {
			return p.ResolveScan(ctx, d, reqs)
		},
	}, nil
}
