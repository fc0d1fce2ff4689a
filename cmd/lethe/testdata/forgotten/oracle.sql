-- What rules.yml means for three people, in SQL as an administrator would write it; the independent measure of the
-- test. The ON DELETE of the schema does its part where a row goes, but the row of users stays: what hangs on that
-- is written out. -v known_posts='{…}' are the posts of theirs that some snapshot knows.

\set ON_ERROR_STOP on
BEGIN;
SET LOCAL client_min_messages = warning;

CREATE TEMP TABLE gone AS SELECT unnest(ARRAY[7301948265, 8412059376, 9523160487]) AS id;

-- Their posts with all comments, and their own comments anywhere, with all answers.
CREATE TEMP TABLE gone_posts AS SELECT id FROM posts WHERE author_id IN (SELECT id FROM gone);
CREATE TEMP TABLE gone_comments AS
    WITH RECURSIVE c AS (
        SELECT id FROM comments WHERE post_id IN (SELECT id FROM gone_posts) OR author_id IN (SELECT id FROM gone)
        UNION SELECT a.id FROM comments a JOIN c ON a.parent_id = c.id)
    SELECT id FROM c;
-- Reactions and reports to a post that is no more, when another snapshot shows that it was theirs.
INSERT INTO gone_posts SELECT k FROM unnest(:'known_posts'::bigint[]) k WHERE k NOT IN (SELECT id FROM posts);
DELETE FROM reactions WHERE user_id IN (SELECT id FROM gone)
    OR kind = 'User' AND target_id IN (SELECT id FROM gone)
    OR kind = 'Post' AND target_id IN (SELECT id FROM gone_posts)
    OR kind = 'Comment' AND target_id IN (SELECT id FROM gone_comments);
DELETE FROM reports WHERE kind = 'User' AND target_id IN (SELECT id FROM gone)
    OR kind = 'Post' AND target_id IN (SELECT id FROM gone_posts)
    OR kind = 'Comment' AND target_id IN (SELECT id FROM gone_comments);
UPDATE reports SET reporter_id = NULL WHERE reporter_id IN (SELECT id FROM gone);
DELETE FROM comments WHERE id IN (SELECT id FROM gone_comments);      -- and their revisions
UPDATE revisions SET edited_by = NULL WHERE edited_by IN (SELECT id FROM gone);
UPDATE comments SET hidden_by = NULL WHERE hidden_by IN (SELECT id FROM gone);
DELETE FROM posts WHERE author_id IN (SELECT id FROM gone);
UPDATE posts SET editor_id = NULL WHERE editor_id IN (SELECT id FROM gone);
UPDATE posts SET locked_by = NULL WHERE locked_by IN (SELECT id FROM gone);

DELETE FROM profiles WHERE user_id IN (SELECT id FROM gone);
DELETE FROM devices d USING users u WHERE u.id IN (SELECT id FROM gone) AND d.region = u.region AND d.number = u.number;
UPDATE templates SET owner_id = 1 WHERE owner_id IN (SELECT id FROM gone);
UPDATE orgs SET owner_id = NULL WHERE owner_id IN (SELECT id FROM gone);
UPDATE orgs SET created_by = NULL WHERE created_by IN (SELECT id FROM gone);
DELETE FROM notes WHERE author_id IN (SELECT id FROM gone)
    OR (org_id, user_id) IN (SELECT org_id, user_id FROM memberships WHERE user_id IN (SELECT id FROM gone));
DELETE FROM memberships WHERE user_id IN (SELECT id FROM gone);
UPDATE memberships SET added_by = NULL WHERE added_by IN (SELECT id FROM gone);
DELETE FROM roles WHERE user_id IN (SELECT id FROM gone);             -- those that they granted stay as they are

DELETE FROM attachments WHERE (message_id, message_sent) IN (SELECT id, sent FROM messages WHERE sender_id IN (SELECT id FROM gone));
DELETE FROM messages WHERE sender_id IN (SELECT id FROM gone);
UPDATE messages SET recipient_id = NULL WHERE recipient_id IN (SELECT id FROM gone);

-- The tasks of their projects go with them; tasks of others that waited for those, and projects that pinned them, let go.
DELETE FROM projects WHERE owner_id IN (SELECT id FROM gone);
UPDATE tasks SET assignee_id = NULL WHERE assignee_id IN (SELECT id FROM gone);
UPDATE tasks SET reviewer_id = NULL WHERE reviewer_id IN (SELECT id FROM gone);

UPDATE refunds SET why = NULL WHERE payment_id IN (SELECT id FROM payments WHERE user_id IN (SELECT id FROM gone));
UPDATE refunds SET approved_by = NULL WHERE approved_by IN (SELECT id FROM gone);
UPDATE payments SET card_holder = NULL, iban = NULL WHERE user_id IN (SELECT id FROM gone);

DELETE FROM follows WHERE follower_id IN (SELECT id FROM gone) OR followed_id IN (SELECT id FROM gone);
DELETE FROM blocks WHERE blocker_id IN (SELECT id FROM gone) OR blocked_id IN (SELECT id FROM gone);
DELETE FROM notifications WHERE user_id IN (SELECT id FROM gone);
UPDATE notifications SET payload = jsonb_set(payload, '{mentions}',
        (SELECT jsonb_agg(CASE WHEN e #>> '{}' IN (SELECT id::text FROM gone) THEN 'null'::jsonb ELSE e END ORDER BY n)
            FROM jsonb_array_elements(payload -> 'mentions') WITH ORDINALITY AS x(e, n)))
    WHERE EXISTS (SELECT FROM jsonb_array_elements(payload -> 'mentions') e WHERE e #>> '{}' IN (SELECT id::text FROM gone));
DELETE FROM audit_log WHERE actor IN (SELECT id::text FROM gone);
DELETE FROM events WHERE user_id IN (SELECT id FROM gone);
DELETE FROM jobs WHERE args ->> 'user_id' IN (SELECT id::text FROM gone);

-- The accounts stay, as nobody's. Their new addresses are made with secret keys: the test looks at those apart.
SELECT lo_unlink(avatar) FROM users WHERE id IN (SELECT id FROM gone) AND avatar IS NOT NULL \g /dev/null
UPDATE users SET invited_by = NULL WHERE invited_by IN (SELECT id FROM gone);
UPDATE users SET suspended_by = NULL WHERE suspended_by IN (SELECT id FROM gone);
UPDATE users SET email = 'erased-' || id, username = NULL, full_name = 'Deleted user', phone = NULL, birthday = NULL, last_ip = NULL, avatar = NULL,
        prefs = jsonb_set(prefs - 'email', '{devices}', (SELECT jsonb_agg(d - 'name' ORDER BY n) FROM jsonb_array_elements(prefs -> 'devices') WITH ORDINALITY AS x(d, n)))
    WHERE id IN (SELECT id FROM gone);
COMMIT;
