-- What happened between the takeover and the last snapshot.
INSERT INTO users VALUES (401, 'person401@example.org', 'Person 401', 7, '198.51.100.4');
DELETE FROM payments WHERE user_id = 6;
DELETE FROM events WHERE user_id = 6;
DELETE FROM messages WHERE sender = md5('account 6')::uuid;
DELETE FROM accounts WHERE user_id = 6;
DELETE FROM users WHERE id = 6;
