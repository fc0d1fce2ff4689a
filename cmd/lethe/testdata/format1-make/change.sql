-- What happened between the two first snapshots.
INSERT INTO posts (user_id, body, mood) SELECT i + 1, 'Late post ' || i, 'loud' FROM generate_series(1, 20) i;
UPDATE users SET name = 'Renamed ' || id WHERE id IN (3, 42);
DELETE FROM payments WHERE user_id = 11;
