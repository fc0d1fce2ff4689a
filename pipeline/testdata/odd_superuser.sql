-- What only a superuser can make; it comes after odd.sql. The roles odd_owner, odd_reader and "Odd ""Röle""" and the
-- tablespace "odd Space" exist.

CREATE TYPE label; CREATE FUNCTION label_in(cstring) RETURNS label LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION label_out(label) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE label (input = label_in, output = label_out, like = text, category = 'S', collatable, delimiter = ';');
CREATE CAST (label AS text) WITHOUT FUNCTION AS IMPLICIT; CREATE CAST (text AS label) WITHOUT FUNCTION AS ASSIGNMENT; CREATE CAST (xml AS label) WITH INOUT;
CREATE OPERATOR FAMILY pairs USING btree; CREATE FUNCTION pair_cmp(pair, pair) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT btint4cmp(($1).a, ($2).a)';
CREATE OPERATOR CLASS pair_a FOR TYPE pair USING btree FAMILY pairs AS OPERATOR 3 ===, FUNCTION 1 pair_cmp(pair, pair);
CREATE TABLE labelled (l label, ls label[]); INSERT INTO labelled VALUES ('x;y', '{"a;b";c}');

CREATE EXTENSION postgres_fdw SCHEMA other; CREATE EXTENSION file_fdw;
CREATE FOREIGN DATA WRAPPER idle OPTIONS (debug 'true'); CREATE SERVER away TYPE 't' VERSION '1' FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere.invalid', dbname 'it''s');
CREATE USER MAPPING FOR odd_reader SERVER away OPTIONS ("user" 'u'); CREATE FOREIGN TABLE far (id int OPTIONS (column_name 'x y') NOT NULL, v text DEFAULT 'd') SERVER away OPTIONS (schema_name 's');
CREATE TABLE near_and_far (id int) PARTITION BY LIST (id); CREATE TABLE near PARTITION OF near_and_far FOR VALUES IN (1);
CREATE FOREIGN TABLE far_part PARTITION OF near_and_far FOR VALUES IN (2) SERVER away; INSERT INTO near VALUES (1);

CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'an event trigger ran during the restore'; END $$;
CREATE PUBLICATION everything FOR ALL TABLES; CREATE PUBLICATION one_schema FOR TABLES IN SCHEMA other, TABLE known; COMMENT ON PUBLICATION everything IS 'all';
CREATE SUBSCRIPTION later CONNECTION 'host=nowhere.invalid dbname=x' PUBLICATION p WITH (connect = false, slot_name = NONE);
CREATE ACCESS METHOD heap_too TYPE TABLE HANDLER heap_tableam_handler; CREATE TABLE stored_by (id int) USING heap_too; INSERT INTO stored_by VALUES (1);

CREATE TABLE spaced (id int PRIMARY KEY USING INDEX TABLESPACE "odd Space") TABLESPACE "odd Space"; INSERT INTO spaced VALUES (1);
CREATE MATERIALIZED VIEW spaced_view TABLESPACE "odd Space" AS SELECT * FROM spaced;

SELECT lo_create(1001), lo_from_bytea(1002, decode(repeat('00ff0a5c27', 100000), 'hex')), lo_create(4000000001); SELECT lo_put(1001, 1000000, '\x41');
ALTER LARGE OBJECT 1002 OWNER TO odd_owner; GRANT SELECT ON LARGE OBJECT 1002 TO odd_reader WITH GRANT OPTION; REVOKE ALL ON LARGE OBJECT 4000000001 FROM CURRENT_USER;
COMMENT ON LARGE OBJECT 1001 IS E'two\nlines, it''s';
CREATE TABLE pictures (id int, lo oid); INSERT INTO pictures VALUES (1, 1001), (2, 1002);

ALTER SCHEMA other OWNER TO odd_owner; ALTER TABLE known OWNER TO odd_owner; ALTER TABLE log OWNER TO "Odd ""Röle"""; ALTER FUNCTION is_known OWNER TO odd_owner; ALTER TYPE mood OWNER TO odd_owner;
ALTER VIEW v1 OWNER TO odd_reader; ALTER SEQUENCE fresh OWNER TO odd_reader; ALTER DOMAIN positive OWNER TO odd_reader; ALTER SERVER away OWNER TO odd_owner; ALTER TABLE many OWNER TO odd_owner;
ALTER MATERIALIZED VIEW zz_first OWNER TO odd_owner; GRANT SELECT ON log TO odd_owner;
GRANT SELECT (id, v), UPDATE (v) ON many TO odd_reader; GRANT ALL ON many TO "Odd ""Röle""" WITH GRANT OPTION; REVOKE DELETE ON many FROM odd_owner;
GRANT USAGE ON SCHEMA other, "Odd Schéma ""x""" TO PUBLIC; REVOKE ALL ON FUNCTION is_known FROM PUBLIC; GRANT EXECUTE ON FUNCTION is_known TO odd_reader;
REVOKE USAGE ON TYPE mood FROM PUBLIC; GRANT USAGE ON SEQUENCE fresh TO "Odd ""Röle"""; GRANT USAGE ON FOREIGN SERVER away TO odd_reader; REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC; GRANT USAGE ON LANGUAGE plpgsql TO odd_reader;
SET ROLE "Odd ""Röle"""; GRANT SELECT ON many TO PUBLIC; RESET ROLE;
REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT CREATE ON SCHEMA public TO odd_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE odd_owner IN SCHEMA other GRANT SELECT ON TABLES TO odd_reader; ALTER DEFAULT PRIVILEGES FOR ROLE odd_reader REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE POLICY theirs ON tree TO odd_reader, "Odd ""Röle""" USING (true);

COMMENT ON DATABASE :DB IS 'it''s the odd one'; GRANT CONNECT ON DATABASE :DB TO odd_reader;
ALTER DATABASE :DB SET search_path = other, "Odd Schéma ""x""", '$user'; ALTER DATABASE :DB SET DateStyle = 'German'; ALTER DATABASE :DB SET IntervalStyle = 'iso_8601';
ALTER DATABASE :DB SET bytea_output = 'escape'; ALTER DATABASE :DB SET extra_float_digits = -5; ALTER DATABASE :DB SET TimeZone = 'Asia/Tokyo'; ALTER DATABASE :DB SET lc_monetary = 'C.UTF-8';
ALTER DATABASE :DB SET app.name = 'it''s, "so"'; ALTER DATABASE :DB SET standard_conforming_strings = off; ALTER DATABASE :DB SET default_transaction_read_only = on; ALTER DATABASE :DB SET row_security = off;
ALTER ROLE odd_owner IN DATABASE :DB SET work_mem = '1234kB'; ALTER ROLE odd_reader IN DATABASE :DB SET search_path = public, '';
CREATE EVENT TRIGGER no_ddl ON ddl_command_start WHEN TAG IN ('DROP TABLE', 'CREATE TABLE') EXECUTE FUNCTION on_ddl(); CREATE EVENT TRIGGER asleep ON sql_drop EXECUTE FUNCTION on_ddl(); ALTER EVENT TRIGGER asleep DISABLE;
COMMENT ON EVENT TRIGGER no_ddl IS 'none';
