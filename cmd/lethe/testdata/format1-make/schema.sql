-- The database of the sample repository: small, with one of each kind of thing that a snapshot holds.
CREATE TYPE mood AS ENUM ('calm', 'loud');
CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE NOT NULL, name text, invited_by int REFERENCES users ON DELETE SET NULL, last_ip inet);
CREATE TABLE posts (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id int NOT NULL REFERENCES users ON DELETE CASCADE, body text, mood mood, words int GENERATED ALWAYS AS (length(body)) STORED);
CREATE TABLE payments (id uuid PRIMARY KEY, user_id int NOT NULL REFERENCES users, iban text, cents bigint NOT NULL CHECK (cents > 0));
CREATE TABLE events (day date NOT NULL, user_id int, args jsonb) PARTITION BY RANGE (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE TABLE pictures (user_id int NOT NULL REFERENCES users ON DELETE CASCADE, image oid NOT NULL);
CREATE TABLE accounts (id uuid PRIMARY KEY, user_id int NOT NULL REFERENCES users);
CREATE TABLE messages (id int PRIMARY KEY, sender uuid NOT NULL REFERENCES accounts, body text);
CREATE TABLE "Odd ""Names""" ("Spalte ä" text, tabs text);
CREATE VIEW loud AS SELECT p.id, u.name FROM posts p JOIN users u ON u.id = p.user_id WHERE mood = 'loud';
CREATE FUNCTION shout(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1)';
CREATE INDEX ON users (shout(name));
COMMENT ON TABLE users IS 'people; who are they?';

INSERT INTO users SELECT i, 'person' || i || '@example.org', 'Person ' || i, nullif(i / 10, 0), ('192.0.2.' || i % 250)::inet FROM generate_series(1, 400) i;
INSERT INTO posts (user_id, body, mood) SELECT i % 400 + 1, 'Post ' || i || ' of ' || i % 400 + 1 || E'\twith a tab, a \\ and\na line', (ARRAY['calm', 'loud', NULL]::mood[])[i % 3 + 1] FROM generate_series(1, 2000) i;
INSERT INTO payments SELECT md5('payment ' || i)::uuid, i % 400 + 1, 'DE' || lpad(i::text, 20, '0'), i * 7 FROM generate_series(1, 500) i;
INSERT INTO events SELECT date '2026-01-01' + i % 59, i % 400 + 1, jsonb_build_object('by', i % 37, 'ip', '192.0.2.7') FROM generate_series(1, 600) i;
INSERT INTO pictures SELECT i, lo_from_bytea(0, convert_to('picture of ' || i, 'UTF8')) FROM generate_series(5, 8) i;
INSERT INTO accounts SELECT md5('account ' || i)::uuid, i FROM generate_series(1, 100) i;
INSERT INTO messages SELECT i, md5('account ' || i / 20 + 1)::uuid, 'Message ' || md5(i::text) || md5('b' || i) FROM generate_series(0, 1999) i;
INSERT INTO "Odd ""Names""" VALUES ('ä ö ü €', E'\b\f\r\v'), (NULL, ''), ('\.', '\N');
