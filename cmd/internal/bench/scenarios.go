package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// scenario is one thing that is measured.
type scenario struct {
	name  string
	usual bool // measured unless others are asked for
	run   func(*bench, context.Context) error
}

// scenarios, in the order in which they are reported.
var scenarios = []scenario{
	{"first", true, (*bench).firstBackup},
	{"next", true, (*bench).nextBackup},
	{"restore", true, (*bench).restore},
	{"purge", true, (*bench).purge},
	{"snapshots", false, (*bench).snapshots},
	{"purges", false, (*bench).purges},
	{"growth", false, (*bench).growth},
	{"limits", false, (*bench).limits},
}

// erasedUsually is how many people the rules erase where nothing else is said.
const erasedUsually = 10

// promised is a bound of the clustered layout; the scattered one, the worst case, is shown and promises nothing.
func promised(layout string, atMost float64) float64 {
	if layout == scattered {
		return 0
	}
	return atMost
}

// firstBackup takes the first snapshot of an empty repository, with rules and erasures at work, against dumps of everything.
func (b *bench) firstBackup(ctx context.Context) error {
	for _, layout := range []string{clustered, scattered} {
		d, err := b.dataset(ctx, layout)
		if err != nil {
			return err
		}
		s, err := b.setup(ctx, d, "first", d.people(erasedUsually))
		if err != nil {
			return err
		}
		r := b.result("First backup", layout)
		sides := []side{s.backup(true), b.dumpPiped(d)}
		if layout == clustered {
			sides = append(sides, b.dumpCustom(d), b.dumpFolder(d))
		}
		if err := b.rounds(ctx, r, b.o.pairs, nil, sides...); err != nil {
			return err
		}
		r.ratio("first backup, wall", wall, 0, 1, promised(layout, 0.8))
		r.ratio("stored size", stored, 0, 1, promised(layout, 1.05))
		r.memory("memory of the first backup", 0, d.Longest)
		if err := s.remove(); err != nil {
			return err
		}
	}
	return nil
}

// nextBackup takes a snapshot after one percent of the rows changed.
func (b *bench) nextBackup(ctx context.Context) error {
	for _, layout := range []string{clustered, scattered} {
		d, err := b.dataset(ctx, layout)
		if err != nil {
			return err
		}
		s, err := b.setup(ctx, d, "next", d.people(erasedUsually))
		if err != nil {
			return err
		}
		empty, err := sizeOf(s.store())
		if err != nil {
			return err
		}
		if err := s.lethe(ctx, nil, "backup", "--quiet"); err != nil {
			return err
		}
		full, err := sizeOf(s.store())
		if err != nil {
			return err
		}
		r := b.result("Next backup, after 1 % of the rows changed", layout)
		change := func(ctx context.Context) error {
			share, err := d.change(ctx, 0.01)
			r.Changed = append(r.Changed, share)
			return err
		}
		if err := b.rounds(ctx, r, b.o.pairs, change, s.backup(false), b.dumpPiped(d)); err != nil {
			return err
		}
		r.ratio("next backup, wall", wall, 0, 1, promised(layout, 0.6))
		r.against("next backup, uploaded against the first", stored, 0, float64(full-empty), promised(layout, 0.04))
		if err := s.remove(); err != nil {
			return err
		}
	}
	return nil
}

// restore brings a snapshot back into a new database, and compares what came back.
func (b *bench) restore(ctx context.Context) error {
	for _, layout := range []string{clustered, scattered} {
		if err := b.restoreOf(ctx, layout); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) restoreOf(ctx context.Context, layout string) error {
	d, err := b.dataset(ctx, layout)
	if err != nil {
		return err
	}
	people := d.people(erasedUsually)
	s, err := b.setup(ctx, d, "restore", people[1:])
	if err != nil {
		return err
	}
	if err := s.lethe(ctx, nil, "backup", "--quiet"); err != nil {
		return err
	}
	if err := s.request(ctx, "LATE", people[:1]); err != nil { // the restore replays it
		return err
	}
	dumped := func(name string, format ...string) (path string, err error) {
		path = b.path("restore", name)
		_, err = b.execute(ctx, command{pipe: [][]string{append([]string{b.tools["pg_dump"], "-d", d.db, "-f", path}, format...)}})
		return path, err
	}
	custom, err := dumped("custom", "-Fc")
	if err != nil {
		return err
	}
	r := b.result("Restore, with an erasure to replay", layout)
	sides := []side{b.restoreLethe(s, "restored_by_lethe"),
		b.restoreInto("pg_restore -j2 of a -Fc dump", "restored_by_pg", b.tools["pg_restore"], "-j2", "-d", "restored_by_pg", custom)}
	if layout == clustered {
		plain, err := dumped("plain.sql")
		if err != nil {
			return err
		}
		sides = append(sides, b.restoreInto("psql of a plain dump", "restored_by_psql", b.tools["psql"], "-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", os.DevNull, "-d", "restored_by_psql", "-f", plain))
	}
	if err := b.rounds(ctx, r, b.o.pairs, nil, sides...); err != nil {
		return err
	}
	r.ratio("restore, wall", wall, 0, 1, promised(layout, 1))
	r.memory("memory of the restore", 0, d.Longest)
	if r.Compared, err = b.compare(ctx, "restored_by_lethe", "restored_by_pg", people); err != nil {
		return err
	}
	for _, db := range []string{"restored_by_lethe", "restored_by_pg", "restored_by_psql"} {
		if err := b.server.DropDatabase(ctx, db); err != nil {
			return err
		}
	}
	return s.remove()
}

// restoreLethe restores the newest snapshot.
func (b *bench) restoreLethe(s *setup, db string) side {
	return side{name: "lethe restore",
		before: func(ctx context.Context) error { return b.server.DropDatabase(ctx, db) },
		command: func() command {
			return s.command("restore", "latest", "--identity", b.path("key.txt"), "--to", "postgres:///"+db, "--quiet")
		}}
}

// restoreInto restores by another tool, into an empty database that is there.
func (b *bench) restoreInto(name, db string, argv ...string) side {
	return side{name: name,
		before: func(ctx context.Context) error {
			return errors.Join(b.server.DropDatabase(ctx, db), b.server.CreateDatabase(ctx, db))
		},
		command: func() command { return command{pipe: [][]string{argv}} }}
}

// What people use today ---------------------------------------------------------------------------------------------

func (b *bench) dumpPiped(d *dataset) side {
	return b.dump("pg_dump | zstd -3 -T1 | age", func(to string) command {
		return command{file: to, pipe: [][]string{{b.tools["pg_dump"], "-d", d.db}, {b.tools["zstd"], "-q", "-3", "-T1"}, {b.tools["age"], "-r", b.recipient}}}
	})
}

func (b *bench) dumpCustom(d *dataset) side {
	return b.dump("pg_dump -Fc", func(to string) command {
		return command{pipe: [][]string{{b.tools["pg_dump"], "-Fc", "-d", d.db, "-f", to}}}
	})
}

func (b *bench) dumpFolder(d *dataset) side {
	return b.dump("pg_dump -Fd -j2", func(to string) command {
		return command{pipe: [][]string{{b.tools["pg_dump"], "-Fd", "-j2", "-d", d.db, "-f", to}}}
	})
}

func (b *bench) dump(name string, to func(path string) command) side {
	path := filepath.Join(b.dir, "dump")
	return side{name: name, command: func() command { return to(path) },
		after: func(_ context.Context, t *taken) (err error) {
			t.Bytes, err = sizeOf(path)
			return errors.Join(err, os.RemoveAll(path))
		}}
}
