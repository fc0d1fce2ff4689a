-- What rules.yml says, done by hand in SQL on a plain copy of the database: the independent measure of `make demo`.
-- PostgreSQL's own ON DELETE does its part.

\set ON_ERROR_STOP on
\set user '\'3f2c9a70-6a51-4f0e-9d33-0b1e5c7a8d42\''
\set customer 1137
BEGIN;

-- For everybody.
UPDATE users SET reset_token = NULL, birthday = date_trunc('month', birthday),
    last_ip = host(network(set_masklen(last_ip, CASE family(last_ip) WHEN 4 THEN 16 ELSE 48 END)))::inet;
DELETE FROM sessions;

-- What others keep, without her in it.
UPDATE users SET invited_by = NULL WHERE invited_by = :user;
UPDATE orgs SET created_by = NULL WHERE created_by = :user;
UPDATE memberships SET added_by = NULL WHERE added_by = :user;
UPDATE playlist_items SET added_by = NULL WHERE added_by = :user;
UPDATE messages SET recipient_id = NULL WHERE recipient_id = :user;

-- What the law keeps. The new address is made with a secret key, so no script can know it: the demo looks at it apart.
UPDATE customers SET name = 'Deleted customer', billing_email = 'made-with-a-secret-key@example.invalid', address = NULL
    WHERE id = :customer;
UPDATE payments SET card_holder = NULL, iban = NULL WHERE customer_id = :customer;

-- What goes.
DELETE FROM likes WHERE target_kind = 'track' AND target_id IN (SELECT id FROM tracks WHERE artist_id = :user)
    OR target_kind = 'comment' AND target_id IN (SELECT c.id FROM comments c JOIN tracks t ON t.id = c.track_id
                                                 WHERE c.author_id = :user OR t.artist_id = :user);
DELETE FROM comments WHERE author_id = :user;
DELETE FROM tracks WHERE artist_id = :user;
DELETE FROM messages WHERE sender_id = :user;
DELETE FROM member_notes WHERE author_id = :user;
DELETE FROM memberships WHERE user_id = :user;
DELETE FROM audit_log WHERE actor = :user OR args ->> 'user_id' = :user;
SELECT lo_unlink(avatar) FROM users WHERE id = :user \g /dev/null
DELETE FROM users WHERE id = :user;

REFRESH MATERIALIZED VIEW top_tracks;
COMMIT;
