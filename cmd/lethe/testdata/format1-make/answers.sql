-- What a restored snapshot is asked.
SELECT 'rows', (SELECT count(*) FROM users), (SELECT count(*) FROM posts), (SELECT count(*) FROM payments), (SELECT count(*) FROM events), (SELECT count(*) FROM pictures), (SELECT count(*) FROM pg_largeobject_metadata), (SELECT count(*) FROM loud);
SELECT 'user', id, email NOT LIKE 'person%' AS erased, name, invited_by, last_ip FROM users WHERE id IN (1, 3, 5, 6, 7, 42, 73) ORDER BY id;
SELECT 'posts', user_id, count(*), sum(words) FROM posts WHERE user_id IN (3, 5, 7, 8) GROUP BY 2 ORDER BY 2;
SELECT 'payments', user_id, count(*), count(iban), sum(cents) FROM payments WHERE user_id IN (5, 7, 8, 11) GROUP BY 2 ORDER BY 2;
SELECT 'messages', a.user_id, count(*), min(m.id), max(m.body) FROM messages m JOIN accounts a ON a.id = sender WHERE user_id IN (5, 6, 7, 8) GROUP BY 2 ORDER BY 2;
SELECT 'events', tableoid::regclass, count(*), count(args), md5(string_agg(args::text, ',' ORDER BY day, user_id, args::text)) FROM events GROUP BY 2 ORDER BY 2::text;
SELECT 'picture', user_id, convert_from(lo_get(image), 'UTF8') FROM pictures ORDER BY 2;
SELECT 'odd', "Spalte ä", encode(convert_to(tabs, 'UTF8'), 'hex') FROM "Odd ""Names""" ORDER BY 2, 3;
SELECT 'next', nextval(pg_get_serial_sequence('posts', 'id')), obj_description('users'::regclass), (SELECT count(*) FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND NOT convalidated);
SELECT 'all', md5(string_agg(t, ',' ORDER BY t)) FROM (SELECT posts::text AS t FROM posts UNION ALL SELECT payments::text FROM payments WHERE user_id NOT IN (5, 7)) x;
