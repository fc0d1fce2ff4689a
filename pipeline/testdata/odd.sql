-- A schema that holds what pg_dump can carry over, as far as a role without privileges of its own can make it.
-- :DB is the database's name. What only a superuser can make stands in odd_superuser.sql.

CREATE SCHEMA "Odd Schéma ""x""";
COMMENT ON SCHEMA "Odd Schéma ""x""" IS E'tab\t, new\nline, back\\slash, quote '' and $$';
CREATE SCHEMA other;
CREATE EXTENSION citext SCHEMA other;
CREATE EXTENSION hstore;
CREATE EXTENSION btree_gist;

-- Types

CREATE TYPE mood AS ENUM ('so-so', 'Fröhlich', 'it''s', '');
ALTER TYPE mood ADD VALUE 'first' BEFORE 'so-so';
CREATE TYPE pair AS (a int, "B b" text, c mood[]);
CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi, multirange_type_name = spans);
CREATE DOMAIN positive AS int DEFAULT 1 NOT NULL CONSTRAINT above CHECK (VALUE > 0);
CREATE DOMAIN small AS positive CHECK (VALUE < 1000);
CREATE DOMAIN words AS text[] COLLATE "C" CHECK (cardinality(VALUE) < 10);
CREATE DOMAIN whole AS pair CHECK ((VALUE).a > 0);
COMMENT ON DOMAIN small IS 'small';
COMMENT ON CONSTRAINT above ON DOMAIN positive IS 'above';
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE COLLATION "Deutsch" FROM "C";

-- Functions: one reads a table that comes after it, one has a body that the server parses

CREATE FUNCTION other.add(a int, b int DEFAULT 2, VARIADIC c int[] DEFAULT '{}') RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE COST 7
    AS $f$ SELECT a + b + coalesce((SELECT sum(x) FROM unnest(c) x), 0)::int $f$;
CREATE FUNCTION "Odd Schéma ""x"""."now; --"(OUT x int, INOUT y text) LANGUAGE plpgsql AS $$
BEGIN
    -- Name: fake; Type: TABLE; Schema: public; Owner: -
    x := 1; y := 'a;
\restrict not a line of psql
\.
COPY fake (a) FROM stdin;
';
END $$;
CREATE PROCEDURE nothing_much() LANGUAGE sql AS '';

CREATE TABLE known (k int PRIMARY KEY, name text NOT NULL);
INSERT INTO known SELECT i, 'name ' || i FROM generate_series(1, 5) i;
CREATE FUNCTION is_known(int) RETURNS bool LANGUAGE sql STABLE BEGIN ATOMIC SELECT EXISTS (SELECT FROM known WHERE k = $1); END;
CREATE FUNCTION name_of(int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN (SELECT name FROM public.known WHERE k = $1); END $$;
CREATE TABLE "zz checked" (k int CHECK (is_known(k)), named text GENERATED ALWAYS AS (name_of(k)) STORED, note text);
INSERT INTO "zz checked" (k, note) SELECT 1 + i % 5, 'n' || i FROM generate_series(1, 20) i;

CREATE FUNCTION plus(pair, pair) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT ($1).a + ($2).a';
CREATE FUNCTION same_a(pair, pair) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT ($1).a = ($2).a';
CREATE OPERATOR other.+ (FUNCTION = plus, LEFTARG = pair, RIGHTARG = pair, COMMUTATOR = OPERATOR(other.+));
CREATE OPERATOR === (FUNCTION = same_a, LEFTARG = pair, RIGHTARG = pair, NEGATOR = !==);
CREATE AGGREGATE product(int8) (SFUNC = int8mul, STYPE = int8, INITCOND = '1');
CREATE FUNCTION a_of(pair) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT ($1).a';
CREATE CAST (pair AS int) WITH FUNCTION a_of(pair) AS ASSIGNMENT;
COMMENT ON CAST (pair AS int) IS 'its a';
COMMENT ON OPERATOR other.+ (pair, pair) IS 'plus';
COMMENT ON AGGREGATE product(int8) IS 'product';

CREATE TEXT SEARCH DICTIONARY plain_words (TEMPLATE = pg_catalog.simple, STOPWORDS = english);
CREATE TEXT SEARCH CONFIGURATION searching (COPY = pg_catalog.english);
ALTER TEXT SEARCH CONFIGURATION searching ALTER MAPPING FOR asciiword, word WITH plain_words, english_stem;

-- Values

CREATE TABLE escapes (id int PRIMARY KEY, t text, c char(5), v varchar(9));
INSERT INTO escapes SELECT i, chr(i) || 'x' || chr(i), CASE WHEN i > 32 THEN chr(i) END FROM generate_series(1, 255) i;
INSERT INTO escapes (id, t, c, v) VALUES (300, '\N', '\N', '\\N'), (301, NULL, NULL, NULL), (302, '', '', ''), (303, '\.', '\.', '\.'), (304, 'N', 'N', 'N'),
    (305, E'a\\tb\tc\r\n\\', '   ', ' '), (306, E'\\x41\\101', 'NULL', '"'), (307, repeat(E'\n\t\\', 5000), NULL, NULL), (308, '\restrict x', '--', ';');

CREATE TABLE "Every Type" (
    "User Id" int GENERATED ALWAYS AS IDENTITY (START 5 INCREMENT 5), "löd, ""q""" text DEFAULT E'it''s \\ "so"',
    i2 smallint, i8 bigint, n numeric, n2 numeric(12, 4), r real, d double precision, m money, b bool, bt bit(3), bv bit varying,
    at timestamp, atz timestamptz(3), da date, ti time, tz timetz, iv interval, u uuid, by bytea, j json, jb jsonb, x xml,
    ip inet, ci cidr, ma macaddr, po point, pa path, pg polygon, ts tsvector, tq tsquery, o oid, rc regclass, ls pg_lsn, nm name, "c" "char",
    ai int[], at2 text[][], p pair, ps pair[], w whole, mo mood, ms mood[], s span, ss spans, rr int4range, rm int8multirange, po1 positive, sm small, wo words,
    ct other.citext, h hstore, cn text COLLATE nocase, "select" int, gone text, PRIMARY KEY ("User Id"));
ALTER TABLE "Every Type" DROP COLUMN gone;
INSERT INTO "Every Type" DEFAULT VALUES;
INSERT INTO "Every Type" ("löd, ""q""", i2, i8, n, n2, r, d, m, b, bt, bv, at, atz, da, ti, tz, iv, u, by, j, jb, x, ip, ci, ma, po, pa, pg, ts, tq, o, rc, ls, nm, "c",
    ai, at2, p, ps, w, mo, ms, s, ss, rr, rm, po1, sm, wo, ct, h, cn, "select") VALUES
    (E'\\N', -32768, 9223372036854775807, 'NaN', 12345678.9, 1e-38, 0.1::float8 + 0.2, -12.34, true, B'101', B'', 'infinity', '2026-11-22 18:00:00.123+05:30', '0044-03-15 BC', '24:00:00', '01:02:03.5-12',
     '-1 year 2 mons -3 days 04:05:06.789', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '\x00ff0a5c27', E'{"a" : "\\u00e9\\n",  "a": 1}', E'{"a": "\\\\ \\" \\t", "b": [1.10, null]}', '<a b="c">&lt;</a>',
     '2001:db8::1/64', '10.1.0.0/16', '08:00:2b:01:02:03', '(1.5,-0)', '[(0,0),(1,1)]', '((0,0),(1,1),(1,0))', E'''a b'':1A,2 ''it''''s'':3', '''a'' & !b:*', 4294967295, 'pg_class', 'FF/1', 'näme', '\x80',
     '[-1:1]={1,NULL,3}', '{{"a,b","NULL"},{NULL,"\\"}}', ROW(1, E'x"\\,\n', '{so-so,""}'), ARRAY[ROW(1, NULL, NULL)::pair, NULL], ROW(7, '(', NULL), '', '{first,""}', '[1.5,2.5)', '{[1,2),[3,4)}', '(,5]', '{(,1),[5,)}',
     7, 8, '{"",NULL,"b c"}', 'CaSe', '"a\"b"=>"c\\d", n=>NULL', 'ÀÉ', 0),
    (NULL, NULL, NULL, '-Infinity', -0.0001, 'NaN', '-Infinity', 92233720368547758.07, false, NULL, NULL, '-infinity', 'infinity', 'infinity', NULL, NULL, NULL, NULL, '', 'null', '0', '', NULL, NULL, NULL, NULL, NULL, NULL, '', '', 0, NULL, NULL, NULL, '',
     '{}', '{}', ROW(NULL, NULL, NULL), '{}', NULL, NULL, NULL, 'empty', '{}', 'empty', '{}', 1, 1, '{}', '', '', '', NULL);
COMMENT ON TABLE "Every Type" IS 'it''s all';
COMMENT ON COLUMN "Every Type"."löd, ""q""" IS E'columns\ntoo';

CREATE TABLE nothing (); INSERT INTO nothing SELECT FROM generate_series(1, 3);
CREATE TABLE emptied (a int, b text); ALTER TABLE emptied DROP COLUMN a, DROP COLUMN b; INSERT INTO emptied DEFAULT VALUES;
CREATE TABLE computed (a int GENERATED ALWAYS AS (6 * 7) STORED); INSERT INTO computed SELECT FROM generate_series(1, 4);
CREATE UNLOGGED TABLE unlogged (id bigserial PRIMARY KEY, v text); INSERT INTO unlogged (v) VALUES ('kept'), (NULL);
CREATE TABLE of_type OF pair (a WITH OPTIONS PRIMARY KEY); INSERT INTO of_type VALUES (1, 'x', NULL);
CREATE TABLE by_default (id int GENERATED BY DEFAULT AS IDENTITY, twice int GENERATED ALWAYS AS (id * 2) STORED, "last" text);
INSERT INTO by_default (id, "last") VALUES (-1, 'given'), (DEFAULT, 'made');

CREATE TABLE many (id int PRIMARY KEY, v text, at timestamptz);
INSERT INTO many SELECT i, md5(i::text) || repeat('x', i % 97), timestamptz '2026-01-01 00:00Z' + i * interval '1 second' FROM generate_series(1, 4000) i;
DELETE FROM many WHERE id % 7 = 0; UPDATE many SET v = 'moved' WHERE id % 11 = 0;

-- Sequences: never called, called, running down, cycling, owned by a column that is not its own

CREATE SEQUENCE fresh START 7;
CREATE SEQUENCE down AS smallint INCREMENT -3 MINVALUE -100 MAXVALUE -1 START -10 CACHE 5; SELECT nextval('down'), nextval('down');
CREATE SEQUENCE round AS int MINVALUE 1 MAXVALUE 3 CYCLE; SELECT nextval('round'), nextval('round'), nextval('round'), nextval('round');
CREATE TABLE "Odd Schéma ""x"""."Täb" ("Ïd" int);
CREATE SEQUENCE "Odd Schéma ""x"""."seq 'q""" OWNED BY "Odd Schéma ""x"""."Täb"."Ïd"; SELECT setval('"Odd Schéma ""x"""."seq ''q"""', 41, false);

-- Partitions: several levels, default, hash, another order of columns; inheritance from several parents

CREATE TABLE log (id bigint NOT NULL, at date NOT NULL, kind text, CONSTRAINT log_key PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE log_old PARTITION OF log FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE log_2020 PARTITION OF log FOR VALUES FROM ('2020-01-01') TO ('2021-01-01') PARTITION BY RANGE (id);
CREATE TABLE log_2020_a PARTITION OF log_2020 FOR VALUES FROM (MINVALUE) TO (50) PARTITION BY HASH (id);
CREATE TABLE log_2020_a0 PARTITION OF log_2020_a FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE log_2020_a1 PARTITION OF log_2020_a FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE log_2020_rest PARTITION OF log_2020 DEFAULT;
CREATE TABLE log_rest (junk int, kind text DEFAULT 'own', at date NOT NULL, id bigint NOT NULL); ALTER TABLE log_rest DROP COLUMN junk;
ALTER TABLE log ATTACH PARTITION log_rest DEFAULT;
CREATE INDEX log_kind ON log (kind); CREATE INDEX log_only ON ONLY log (at);
INSERT INTO log SELECT i, date '2019-06-01' + i * 10, (ARRAY['a', 'b', NULL])[1 + i % 3] FROM generate_series(0, 99) i;
CREATE TABLE cities (name text, people real, CONSTRAINT counted CHECK (people >= 0)); CREATE TABLE ruled (ruler text DEFAULT 'none');
CREATE TABLE capitals (state char(2), people real DEFAULT 1) INHERITS (cities, ruled);
CREATE TABLE villages () INHERITS (cities); ALTER TABLE villages ALTER people SET DEFAULT 9;
INSERT INTO cities VALUES ('Graz', 3e5); INSERT INTO capitals VALUES ('Wien', 2e6, 'Ludwig', 'W '); INSERT INTO villages VALUES ('Gößl');

-- Constraints and indexes

CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE a ADD CONSTRAINT to_b FOREIGN KEY (b) REFERENCES b ON DELETE SET NULL ON UPDATE CASCADE;
INSERT INTO a VALUES (1, NULL), (2, NULL); INSERT INTO b VALUES (1, 1), (2, 2); UPDATE a SET b = id;
CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree ON DELETE CASCADE, x int, y int, UNIQUE (x, y)); INSERT INTO tree VALUES (2, 3, 1, 1), (3, 3, 1, 2), (1, 2, NULL, 1);
CREATE TABLE leaf (x int, y int, z int, FOREIGN KEY (x, y) REFERENCES tree (x, y) MATCH FULL, FOREIGN KEY (x, y) REFERENCES tree (x, y) ON DELETE SET NULL (y));
INSERT INTO leaf VALUES (1, 2, 3), (NULL, NULL, 4);
ALTER TABLE leaf ADD CONSTRAINT not_valid CHECK (z > 3) NOT VALID;
CREATE TABLE log_notes (id bigint, at date, note text); INSERT INTO log_notes VALUES (1, '1999-01-01', 'orphan');
ALTER TABLE log_notes ADD CONSTRAINT fk_not_valid FOREIGN KEY (id, at) REFERENCES log NOT VALID;
CREATE TABLE booked (room int, during tstzrange, gone bool, EXCLUDE USING gist (room WITH =, during WITH &&) WHERE (NOT gone));
INSERT INTO booked VALUES (1, '[2026-01-01,2026-01-02)', false), (1, '[2026-01-01,2026-01-02)', true);
CREATE TABLE indexed (id int, "T x" text, v int, CONSTRAINT one UNIQUE NULLS NOT DISTINCT (v) INCLUDE (id) DEFERRABLE) WITH (fillfactor = 70, autovacuum_enabled = false, toast.autovacuum_enabled = false);
CREATE UNIQUE INDEX "lower ""T""" ON indexed (lower("T x") COLLATE "C" text_pattern_ops DESC NULLS LAST) WHERE id > 0 AND "T x" <> '';
CREATE INDEX searched ON indexed USING gin (to_tsvector('public.searching', "T x")) WITH (fastupdate = off);
CREATE INDEX ranges ON indexed USING brin (id) WITH (pages_per_range = 4); CREATE INDEX hashed ON indexed USING hash (v);
ALTER INDEX "lower ""T""" ALTER COLUMN 1 SET STATISTICS 77; CREATE INDEX clustering ON indexed (id); CLUSTER indexed USING clustering;
ALTER TABLE indexed ALTER "T x" SET STORAGE EXTERNAL, ALTER "T x" SET COMPRESSION pglz, ALTER v SET STATISTICS 55, ALTER v SET (n_distinct = -0.5);
ALTER TABLE many REPLICA IDENTITY FULL; ALTER TABLE indexed ALTER v SET NOT NULL;
INSERT INTO indexed VALUES (1, 'One two', 1), (2, 'three', 2);
CREATE STATISTICS other.dependent (dependencies, mcv, ndistinct) ON id, v FROM indexed; CREATE STATISTICS of_expression ON (id % 2), (lower("T x")) FROM indexed;
ALTER STATISTICS other.dependent SET STATISTICS 33; COMMENT ON STATISTICS other.dependent IS 'stats'; COMMENT ON INDEX hashed IS 'hash'; COMMENT ON CONSTRAINT one ON indexed IS 'one';

-- Views, materialized views, rules, triggers, policies

CREATE VIEW v1 WITH (security_barrier, check_option = local) AS SELECT id, v FROM many WHERE id < 50;
CREATE VIEW other.v2 (x, "Ünï") AS SELECT v1.id, a.b FROM v1 LEFT JOIN a USING (id); ALTER VIEW other.v2 ALTER x SET DEFAULT 3;
CREATE RECURSIVE VIEW counting (n) AS VALUES (1) UNION ALL SELECT n + 1 FROM counting WHERE n < 5;
CREATE VIEW grouped AS SELECT id, "löd" FROM (SELECT "User Id" AS id, "löd, ""q""" AS "löd" FROM "Every Type" GROUP BY "User Id") g;
CREATE VIEW by_key AS SELECT k, name, count(*) FROM known GROUP BY k;
CREATE VIEW circle_a AS SELECT 1 AS x; CREATE VIEW circle_b AS SELECT x FROM circle_a;
CREATE MATERIALIZED VIEW zz_first AS SELECT kind, count(*) AS n FROM log GROUP BY kind; CREATE UNIQUE INDEX ON zz_first (kind);
CREATE MATERIALIZED VIEW aa_second AS SELECT sum(n) AS total, is_known(1) AS k FROM zz_first;
CREATE MATERIALIZED VIEW unfilled AS SELECT 1 AS x WITH NO DATA;
CREATE FUNCTION reads_view() RETURNS SETOF v1 LANGUAGE sql AS 'SELECT * FROM public.v1';
CREATE TABLE rows_of (r known, rs v1[]); INSERT INTO rows_of VALUES (ROW(1, 'x'), ARRAY[ROW(1, E'"\\')::v1]);
CREATE RULE elsewhere AS ON INSERT TO v1 WHERE new.id > 10 DO INSTEAD (INSERT INTO many (id, v) VALUES (new.id, new.v); DELETE FROM a WHERE false);
CREATE RULE quiet AS ON DELETE TO known DO ALSO NOTHING; ALTER TABLE known DISABLE RULE quiet;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a trigger ran during the restore'; END $$;
CREATE TRIGGER "Tr 1" BEFORE INSERT OR UPDATE OF v ON many FOR EACH ROW WHEN (new.id > 0) EXECUTE FUNCTION touch('arg', E'it''s\\');
CREATE TRIGGER off AFTER INSERT ON known REFERENCING NEW TABLE AS fresh_rows FOR EACH STATEMENT EXECUTE FUNCTION touch(); ALTER TABLE known DISABLE TRIGGER off;
CREATE TRIGGER replica_only BEFORE INSERT ON log FOR EACH ROW EXECUTE FUNCTION touch(); ALTER TABLE log ENABLE REPLICA TRIGGER replica_only;
CREATE CONSTRAINT TRIGGER late AFTER DELETE ON a DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION touch(); ALTER TABLE a ENABLE ALWAYS TRIGGER late;
COMMENT ON TRIGGER late ON a IS 'late'; COMMENT ON RULE quiet ON known IS 'quiet'; COMMENT ON VIEW v1 IS 'v1'; COMMENT ON MATERIALIZED VIEW zz_first IS 'mv';
ALTER TABLE tree ENABLE ROW LEVEL SECURITY; CREATE POLICY "see, some" ON tree FOR SELECT USING (x IS NOT NULL AND EXISTS (SELECT FROM known WHERE k = tree.x));
ALTER TABLE b FORCE ROW LEVEL SECURITY; CREATE POLICY strict ON b AS RESTRICTIVE FOR UPDATE USING (true) WITH CHECK (id > 0);

-- Publications

CREATE PUBLICATION some_tables FOR TABLE known, many (id, v) WHERE (id > 10), ONLY cities WITH (publish = 'insert', publish_via_partition_root);
