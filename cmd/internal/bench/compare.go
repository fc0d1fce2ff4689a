package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// byHand does in SQL what rules.yml does when the people of a table `erased` are erased, except what compared leaves out.
const byHand = `
SET session_replication_role = origin;
DELETE FROM comments WHERE author_id IN (SELECT id FROM erased);
DELETE FROM documents WHERE author_id IN (SELECT id FROM erased);
DELETE FROM memberships WHERE user_id IN (SELECT id FROM erased);
DELETE FROM messages WHERE sender_id IN (SELECT id FROM erased);
DELETE FROM likes WHERE user_id IN (SELECT id FROM erased);
DELETE FROM follows WHERE follower_id IN (SELECT id FROM erased) OR followed_id IN (SELECT id FROM erased);
DELETE FROM sessions WHERE user_id IN (SELECT id FROM erased);
DELETE FROM notifications WHERE user_id IN (SELECT id FROM erased);
DELETE FROM audit_log WHERE actor IN (SELECT id FROM erased) OR args ->> 'user_id' IN (SELECT id::text FROM erased);
UPDATE organisations SET created_by = NULL WHERE created_by IN (SELECT id FROM erased);
UPDATE memberships SET added_by = NULL WHERE added_by IN (SELECT id FROM erased);
UPDATE projects SET owner_id = NULL WHERE owner_id IN (SELECT id FROM erased);
UPDATE messages SET recipient_id = NULL WHERE recipient_id IN (SELECT id FROM erased);
UPDATE events SET user_id = NULL WHERE user_id IN (SELECT id FROM erased);
UPDATE payments SET card_holder = NULL, iban = NULL WHERE customer_id IN (SELECT id FROM customers WHERE user_id IN (SELECT id FROM erased))
	OR order_id IN (SELECT id FROM orders WHERE customer_id IN (SELECT id FROM customers WHERE user_id IN (SELECT id FROM erased)));
UPDATE orders SET ship_to = NULL, note = NULL WHERE customer_id IN (SELECT id FROM customers WHERE user_id IN (SELECT id FROM erased));
UPDATE customers SET name = 'Deleted customer', address = NULL, vat_number = NULL WHERE user_id IN (SELECT id FROM erased);
UPDATE users SET full_name = 'Deleted user', phone = NULL, birthday = NULL, settings = '{}', last_ip = NULL, bio = NULL WHERE id IN (SELECT id FROM erased);
UPDATE users SET invited_by = NULL WHERE invited_by IN (SELECT id FROM erased);`

// compared is how the columns are written in which a keyed rule leaves what SQL can't compute: only whether there is a
// value. The others that the rules rewrite in every row are rewritten here likewise.
var compared = map[string]string{
	"users.email":             `CASE WHEN id IN (SELECT id FROM erased) THEN '-' ELSE email END`,
	"users.username":          `CASE WHEN id IN (SELECT id FROM erased) THEN '-' ELSE username END`,
	"customers.billing_email": `CASE WHEN user_id IN (SELECT id FROM erased) THEN '-' ELSE billing_email END`,
	"users.phone":             `phone IS NULL`,
	"users.reset_token":       `NULL`,
	"users.password_hash":     `'!'`,
	"users.last_ip":           `network(set_masklen(last_ip, CASE family(last_ip) WHEN 4 THEN 16 ELSE 48 END))`,
	"sessions.ip":             `network(set_masklen(ip, CASE family(ip) WHEN 4 THEN 16 ELSE 48 END))`,
	"sessions.token_hash":     `token_hash IS NULL`,
}

// compare checks that a database which Lethe restored holds the very rows that SQL by hand makes of another tool's
// restore of everything, which it changes. It returns the tables. The rules' own work on all rows is checked by asking
// that nothing of it is left to do.
func (b *bench) compare(ctx context.Context, lethe, other string, people []string) (names []string, err error) {
	for _, db := range []string{lethe, other} {
		if err := b.server.Exec(ctx, db, "CREATE TABLE erased AS SELECT unnest('{"+strings.Join(people, ",")+"}'::uuid[]) AS id"); err != nil {
			return nil, err
		}
	}
	if err := b.server.Exec(ctx, other, byHand); err != nil {
		return nil, fmt.Errorf("erase by hand: %w", err)
	}
	left, err := b.server.Value(ctx, lethe, `SELECT count(*) FILTER (WHERE reset_token IS NOT NULL OR password_hash <> '!' OR phone !~ '^[0-9a-f]{64}$'
		OR host(last_ip)::inet <> host(network(set_masklen(last_ip, CASE family(last_ip) WHEN 4 THEN 16 ELSE 48 END)))::inet) FROM users`)
	if err != nil {
		return nil, err
	}
	if left != "0" {
		return nil, fmt.Errorf("%s rows of users came back as no rule would let them", left)
	}
	columns, err := b.server.Query(ctx, lethe, `SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid
		WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'erased' AND attnum > 0 AND NOT attisdropped ORDER BY 1, attnum`)
	if err != nil {
		return nil, err
	}
	lists := map[string][]string{}
	for _, c := range columns {
		expression := compared[c[0]+"."+c[1]]
		if expression == "" {
			expression = c[1]
		}
		lists[c[0]] = append(lists[c[0]], expression)
	}
	if len(lists) != len(tables) {
		return nil, fmt.Errorf("%d tables came back of %d", len(lists), len(tables))
	}
	for name, list := range lists {
		// Sums of two hashes do not depend on the order of the rows.
		sql := fmt.Sprintf(`SELECT count(*), sum(hashtextextended(r, 1)::numeric), sum(hashtextextended(r, 2)::numeric) FROM (SELECT ROW(%s)::text FROM %s) s(r)`,
			strings.Join(list, ", "), name)
		a, err := b.server.Query(ctx, lethe, sql)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		o, err := b.server.Query(ctx, other, sql)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		if !slices.Equal(a[0], o[0]) {
			return nil, fmt.Errorf("table %s came back with other rows than SQL by hand leaves: %s rows against %s, or different ones", name, a[0][0], o[0][0])
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}
