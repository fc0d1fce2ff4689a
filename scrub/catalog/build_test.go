package catalog

import (
	"fmt"
	"testing"
)

func TestBuild(t *testing.T) {
	cat, err := Parse(`CREATE TABLE public.p (a int NOT NULL) PARTITION BY RANGE (a);
		CREATE TABLE public.p1 (a int NOT NULL) PARTITION BY RANGE (a); CREATE TABLE public.p11 (a int NOT NULL); CREATE TABLE public.p2 (a int NOT NULL);
		ALTER TABLE ONLY public.p ATTACH PARTITION public.p1 FOR VALUES FROM (0) TO (9);
		ALTER TABLE ONLY public.p1 ATTACH PARTITION public.p11 FOR VALUES FROM (0) TO (9);
		ALTER TABLE ONLY public.p ATTACH PARTITION public.p2 FOR VALUES FROM (9) TO (99);`, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ sql, want string }{
		{`CREATE INDEX i ON public.t USING btree (a);`, "[t] shared"},
		{`CREATE UNIQUE INDEX i ON ONLY s."T" USING btree (lower(a)) WHERE (b IS NULL);`, `[s."T"] shared`},
		{`ALTER TABLE ONLY public.t ADD CONSTRAINT t_pkey PRIMARY KEY (id);`, "[t] exclusive"},
		{`ALTER TABLE ONLY public.t ADD CONSTRAINT t_a_key UNIQUE (a);`, "[t] exclusive"},
		{`ALTER TABLE ONLY public.t ADD CONSTRAINT t_excl EXCLUDE USING gist (r WITH &&);`, "[t] exclusive"},
		{`ALTER TABLE ONLY public.t ADD CONSTRAINT t_fk FOREIGN KEY (a) REFERENCES s.u(id) ON DELETE CASCADE;`, "[t s.u] exclusive"},
		{`ALTER TABLE public.t ADD CONSTRAINT t_fk FOREIGN KEY (a) REFERENCES public.t(id);`, "[t] exclusive"},
		// What is done to a partitioned table is done to its partitions, unless it says ONLY.
		{`CREATE INDEX i ON ONLY public.p USING btree (a);`, "[p] shared"},
		{`CREATE INDEX i ON public.p1 USING btree (a);`, "[p1 p11] shared"},
		{`ALTER TABLE ONLY public.p ADD CONSTRAINT k PRIMARY KEY (a);`, "[p] exclusive"},
		{`ALTER TABLE ONLY public.p11 ADD CONSTRAINT k PRIMARY KEY (a);`, "[p11] exclusive"},
		{`ALTER TABLE public.p ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.t(id);`, "[p p1 p11 p2 t] exclusive"},
		{`ALTER TABLE ONLY public.t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.p(a);`, "[t p p1 p11 p2] exclusive"},
		{`ALTER TABLE ONLY public.p11 ADD CONSTRAINT f FOREIGN KEY (b) REFERENCES public.p(a);`, "[p11 p p1 p11 p2] exclusive"},
		// What may read other tables.
		{`CREATE INDEX i ON public.t USING btree (public.f(a));`, "[t] shared calls"},
		{`CREATE INDEX i ON public.t USING btree (a) WHERE public.f(a);`, "[t] shared calls"},
		{`CREATE INDEX i ON public.t USING btree (lower((a)::public.domain));`, "[t] shared calls"},
		{`CREATE INDEX i ON public.t USING btree ((a OPERATOR(public.+) 1));`, "[t] shared calls"},
		{`CREATE INDEX i ON public.t USING gin (a public.gin_trgm_ops, lower(b)) WHERE ((NOT c) AND (d = 'x'::text));`, "[t] shared"},
		{`ALTER TABLE ONLY public.t ADD CONSTRAINT e EXCLUDE USING gist (public.f(a) WITH =);`, "[t] exclusive calls"},
		{`ALTER TABLE ONLY public.t ADD CONSTRAINT e EXCLUDE USING gist (a WITH =) WHERE (public.f(a));`, "[t] exclusive calls"},
		// Everything else keeps its place.
		{`CREATE INDEX i ON t USING btree (a);`, "no"},
		{`ALTER TABLE ONLY public.t ADD CONSTRAINT c CHECK ((a > 0)) NOT VALID;`, "no"},
		{`ALTER TABLE public.t CLUSTER ON i;`, "no"},
		{`ALTER TABLE ONLY public.t REPLICA IDENTITY USING INDEX i;`, "no"},
		{`ALTER INDEX public.i ATTACH PARTITION public.j;`, "no"},
		{`CREATE TRIGGER x BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f();`, "no"},
		{`REFRESH MATERIALIZED VIEW public.m;`, "no"},
		{`CREATE INDEX this is not SQL;`, "no"},
	} {
		b, ok := cat.Build(Statement{Text: c.sql})
		got := "no"
		if ok {
			got = fmt.Sprint(b.Tables) + map[bool]string{true: " exclusive", false: " shared"}[b.Exclusive] + map[bool]string{true: " calls"}[b.Calls]
		}
		if got != c.want {
			t.Errorf("%s\n got %s, want %s", c.sql, got, c.want)
		}
	}
}

// A cast that the DDL defines may be at work in any expression, and is not written there.
func TestBuildWithCasts(t *testing.T) {
	cat, err := Parse(`CREATE TYPE public.odd AS (a int); CREATE FUNCTION public.f(public.odd) RETURNS text LANGUAGE sql AS 'SELECT NULL';
		CREATE CAST (public.odd AS text) WITH FUNCTION public.f(public.odd) AS IMPLICIT; CREATE TABLE public.t (a public.odd);`, "")
	if err != nil {
		t.Fatal(err)
	}
	for sql, calls := range map[string]bool{
		`CREATE INDEX i ON public.t USING btree (lower(a));`:               true,
		`CREATE INDEX i ON public.t USING btree (a) WHERE (a = 'x');`:      true,
		`CREATE INDEX i ON public.t USING btree (a) WHERE (a IS NULL);`:    false,
		`ALTER TABLE ONLY public.t ADD CONSTRAINT t_pkey PRIMARY KEY (a);`: false,
	} {
		if b, ok := cat.Build(Statement{Text: sql}); !ok || b.Calls != calls {
			t.Errorf("%s: %+v, %v", sql, b, ok)
		}
	}
}
