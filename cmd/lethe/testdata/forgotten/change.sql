-- What happens on the site between two snapshots. psql -v people=N -v step=S; S from 1.

\set ON_ERROR_STOP on
BEGIN;
SET LOCAL client_min_messages = warning;
\ir people.sql

-- Every hundredth person, and the three, write something new; others answer.
CREATE TEMP TABLE now AS SELECT n, pg_temp.id(n) AS id FROM generate_series(1, :people) n WHERE n % 100 = :step % 100 OR pg_temp.erased(n) > 0;
CREATE TEMP TABLE written AS SELECT n, nextval('posts_id_seq') AS post, nextval('comments_id_seq') AS comment FROM now ORDER BY n;
INSERT INTO posts (id, author_id, title, body) SELECT post, pg_temp.id(n), pg_temp.says(n, 'posts.title') || :step, pg_temp.says(n, 'posts.body') || pg_temp.words(post, 30) FROM written ORDER BY n;
INSERT INTO comments (id, post_id, author_id, body) SELECT comment, post, pg_temp.id(n + 3), pg_temp.says(n + 3, 'comments.body') || pg_temp.words(post, 8) FROM written ORDER BY n;
INSERT INTO comments (post_id, parent_id, author_id, body) SELECT post, comment, pg_temp.id(n), pg_temp.says(n, 'comments.body') FROM written ORDER BY n;
INSERT INTO reactions (user_id, kind, target_id, emoji) SELECT pg_temp.id(n + 7), 'Post', post, 'up' FROM written ORDER BY n;
INSERT INTO messages (sent, sender_id, recipient_id, body) SELECT date '2026-11-01' + :step / 4, id, pg_temp.id(n + 5), pg_temp.says(n, 'messages.body') || pg_temp.words(n, 8) FROM now ORDER BY n;
INSERT INTO messages (sent, sender_id, recipient_id, body) SELECT date '2026-11-01' + :step / 4, pg_temp.id(n + 7), id, pg_temp.says(n + 7, 'messages.body') FROM now ORDER BY n;
INSERT INTO payments (user_id, amount, card_holder, iban) SELECT id, :step, pg_temp.says(n, 'payments.card_holder'), 'DE12 ' || pg_temp.says(n, 'payments.iban') FROM now WHERE n % 200 < 100 ORDER BY n;
INSERT INTO notifications (user_id, payload) SELECT pg_temp.id(n + 7), jsonb_build_object('text', 'a new post', 'mentions', jsonb_build_array(id, pg_temp.id(n + 9))) FROM now ORDER BY n;
INSERT INTO audit_log (actor, detail) SELECT id::text, jsonb_build_object('what', pg_temp.says(n, 'audit_log.detail'), 'step', :step) FROM now ORDER BY n;
INSERT INTO events SELECT id, pg_temp.says(n, 'events.action') || :step FROM now ORDER BY n;

-- Edits and deletions, in what lies together, as in life.
UPDATE users SET last_ip = last_ip || :step WHERE number::bigint * 100 / :people = :step % 100 OR last_ip LIKE 'zq%';
UPDATE posts SET body = body || ' (edited)' WHERE id * 200 / :people = :step % 200;
UPDATE tasks SET title = title || '!' WHERE id * 150 / :people = :step % 150;
DELETE FROM follows WHERE follower_id * 200 / :people = :step % 200;
DELETE FROM reactions WHERE id * 200 / :people = :step % 200;
DELETE FROM audit_log WHERE id * 300 / :people = :step % 300;

-- Person 1 hands a post over to somebody else: from now on it is not theirs. What they wrote in it goes.
UPDATE posts SET author_id = pg_temp.id(:people / 4 + 5), title = 'taken over', body = 'taken over'
    WHERE :step = 2 AND id = (SELECT max(id) FROM posts WHERE author_id = 7301948265 AND id < 10 * :people);
-- Person 2 deletes a post, and only what has a foreign key goes with it. Reactions to it stay.
DELETE FROM reactions WHERE :step = 2 AND kind = 'Comment' AND target_id IN (SELECT id FROM comments WHERE post_id = :people / 2);
DELETE FROM reports WHERE :step = 2 AND kind = 'Comment' AND target_id IN (SELECT id FROM comments WHERE post_id = :people / 2);
DELETE FROM posts WHERE :step = 2 AND id = :people / 2;
COMMIT;
