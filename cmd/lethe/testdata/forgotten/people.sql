-- Who is who, for schema.sql and change.sql, with :people of them. Three are to be erased: their ids are such that no
-- other number looks like them, and whatever is theirs bears a mark.

SELECT format($$
CREATE FUNCTION pg_temp.nth(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT (n - 1) %% %1$s + 1';
CREATE FUNCTION pg_temp.erased(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT CASE (n - 1) %% %1$s + 1 WHEN %1$s / 4 THEN 1 WHEN %1$s / 2 THEN 2 WHEN %1$s / 4 * 3 THEN 3 ELSE 0 END';
CREATE FUNCTION pg_temp.id(n int) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT CASE pg_temp.erased(n) WHEN 0 THEN pg_temp.nth(n) ELSE (ARRAY[7301948265, 8412059376, 9523160487])[pg_temp.erased(n)] END';
CREATE FUNCTION pg_temp.mark(n int) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT CASE pg_temp.erased(n) WHEN 0 THEN ''p'' || pg_temp.nth(n) ELSE ''zqcanary'' || pg_temp.erased(n) END';
CREATE FUNCTION pg_temp.says(n int, place text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT pg_temp.mark(n) || ''.'' || place || ''.''';
CREATE FUNCTION pg_temp.words(n bigint, many int) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT string_agg(substr(md5((n * 31 + i)::text), 1, 3 + (n + i)::int %% 6), '' '') FROM generate_series(1, many) i';
$$, :people) \gexec
