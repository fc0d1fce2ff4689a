package scrub

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lethe/rules"
	"lethe/scrub/catalog"
	"lethe/scrub/scrubtest"
)

// osm is a part of a real kind of schema (a map's community site): many references to users, several per table, none
// with ON DELETE; among the people are moderators, blockers and granters.
const osm = `
CREATE TABLE public.users (id bigint NOT NULL, email character varying NOT NULL, display_name character varying NOT NULL,
  pass_crypt character varying NOT NULL, description text NOT NULL, home_lat double precision, new_email character varying, auth_uid character varying);
ALTER TABLE ONLY public.users ADD CONSTRAINT users_pkey PRIMARY KEY (id);
CREATE UNIQUE INDEX users_display_name_idx ON public.users USING btree (display_name);
CREATE UNIQUE INDEX users_email_idx ON public.users USING btree (email);
CREATE UNIQUE INDEX users_auth_idx ON public.users USING btree (auth_uid);
CREATE TABLE public.changesets (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES public.users(id));
CREATE TABLE public.changeset_comments (id int PRIMARY KEY, changeset_id bigint NOT NULL REFERENCES public.changesets(id),
  author_id bigint NOT NULL REFERENCES public.users(id), body text NOT NULL);
CREATE TABLE public.changesets_subscribers (subscriber_id bigint NOT NULL REFERENCES public.users(id), changeset_id bigint NOT NULL REFERENCES public.changesets(id));
CREATE UNIQUE INDEX subscribed ON public.changesets_subscribers (subscriber_id, changeset_id);
CREATE TABLE public.redactions (id int PRIMARY KEY, user_id bigint NOT NULL REFERENCES public.users(id), title text);
CREATE TABLE public.nodes (node_id bigint NOT NULL, version bigint NOT NULL, changeset_id bigint NOT NULL REFERENCES public.changesets(id),
  redaction_id integer REFERENCES public.redactions(id), PRIMARY KEY (node_id, version));
CREATE TABLE public.node_tags (node_id bigint NOT NULL, version bigint NOT NULL, k text NOT NULL, v text NOT NULL, PRIMARY KEY (node_id, version, k),
  FOREIGN KEY (node_id, version) REFERENCES public.nodes(node_id, version));
CREATE TABLE public.diary_entries (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES public.users(id), title text NOT NULL);
CREATE TABLE public.diary_comments (id bigint PRIMARY KEY, diary_entry_id bigint NOT NULL REFERENCES public.diary_entries(id),
  user_id bigint NOT NULL REFERENCES public.users(id), body text NOT NULL);
CREATE TABLE public.friends (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES public.users(id), friend_user_id bigint NOT NULL REFERENCES public.users(id));
CREATE TABLE public.gpx_files (id bigint PRIMARY KEY, user_id bigint NOT NULL REFERENCES public.users(id), name text NOT NULL);
CREATE TABLE public.gps_points (gpx_id bigint NOT NULL REFERENCES public.gpx_files(id), latitude integer NOT NULL);
CREATE TABLE public.issues (id int PRIMARY KEY, reported_user_id bigint REFERENCES public.users(id), resolved_by bigint REFERENCES public.users(id),
  updated_by bigint REFERENCES public.users(id));
CREATE TABLE public.issue_comments (id int PRIMARY KEY, issue_id int NOT NULL REFERENCES public.issues(id), user_id bigint NOT NULL REFERENCES public.users(id), body text);
CREATE TABLE public.messages (id bigint PRIMARY KEY, from_user_id bigint NOT NULL REFERENCES public.users(id), to_user_id bigint NOT NULL REFERENCES public.users(id), title text);
CREATE TABLE public.notes (id bigint PRIMARY KEY, user_id bigint REFERENCES public.users(id));
CREATE TABLE public.note_comments (id bigint PRIMARY KEY, note_id bigint NOT NULL REFERENCES public.notes(id), author_id bigint REFERENCES public.users(id));
CREATE TABLE public.user_blocks (id int PRIMARY KEY, user_id bigint NOT NULL REFERENCES public.users(id), creator_id bigint NOT NULL REFERENCES public.users(id),
  revoker_id bigint REFERENCES public.users(id), reason text);
CREATE TABLE public.user_preferences (user_id bigint NOT NULL REFERENCES public.users(id), k text NOT NULL, v text NOT NULL, PRIMARY KEY (user_id, k));
CREATE TABLE public.user_roles (id int PRIMARY KEY, user_id bigint NOT NULL REFERENCES public.users(id), granter_id bigint NOT NULL REFERENCES public.users(id));
`

// TestPaste is the promise that one round of pasting is enough: what check proposes makes the next check pass.
func TestPaste(t *testing.T) {
	for _, c := range []struct{ name, ddl, erase string }{
		{"from nothing", osm, ""},
		{"people stay", osm, "  users: {redact: {email: unique_email}}\n"},
		{"people go", osm, "  users: {delete: true}\n"},
		{"some decided", osm, "  users: {redact: {email: unique_email}}\n  changesets: {delete: user_id}\n  notes: {delete: user_id}\n"},
		{"against a keep that can't stand", osm, "  users: {redact: {email: unique_email}}\n  diary_entries: {delete: user_id}\n"},
		{"odd names", users + `CREATE TABLE public."Tab ""x'" ("User Id" bigint REFERENCES public.users(id), "a, b" bigint NOT NULL REFERENCES public.users(id));
			CREATE TABLE public."null" ("true" bigint REFERENCES public.users(id), "it's" bigint NOT NULL REFERENCES public.users(id));`, ""},
		{"composite", users + `CREATE TABLE public.m (org int, uid bigint REFERENCES public.users(id), PRIMARY KEY (org, uid));
			CREATE TABLE public.n (org int NOT NULL, uid bigint, FOREIGN KEY (org, uid) REFERENCES public.m(org, uid));
			CREATE TABLE public.o (org int NOT NULL, uid bigint REFERENCES public.users(id), FOREIGN KEY (org, uid) REFERENCES public.m(org, uid));`, ""},
		{"people who are nothing but related", `CREATE TABLE public.users (id bigint PRIMARY KEY, maker int NOT NULL REFERENCES public.users(id));`, ""},
		{"self references", users + `ALTER TABLE public.users ADD COLUMN boss bigint REFERENCES public.users(id);
			ALTER TABLE public.users ADD COLUMN maker bigint NOT NULL REFERENCES public.users(id);`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			yaml := subject + "erase:\n" + c.erase
			_, err := compile(t, c.ddl, yaml)
			var errs rules.Errors
			if !errors.As(err, &errs) {
				t.Fatalf("nothing to paste: %v", err)
			}
			for _, e := range errs {
				if e.Paste == "" || e.Line == 0 {
					t.Errorf("nothing to paste or no place: %v", e)
				}
				yaml += e.Paste + "\n"
			}
			p, err := compile(t, c.ddl, yaml)
			if err != nil {
				t.Fatalf("with what was pasted:\n%s\n%v", yaml, err)
			}
			t.Logf("%s%d edges", yaml, len(p.Edges))
		})
	}
}

// TestPasteIntoEntry puts the lines for an entry that is there already where the message says.
func TestPasteIntoEntry(t *testing.T) {
	ddl := users + `CREATE TABLE public.posts (id bigint PRIMARY KEY, a bigint REFERENCES public.users(id), b bigint REFERENCES public.users(id), c bigint NOT NULL REFERENCES public.users(id));`
	const before = subject + "erase:\n  users:\n    redact: {email: unique_email}\n  posts:\n    %s\n"
	_, err := compile(t, ddl, fmt.Sprintf(before, "clear: a"))
	var errs rules.Errors
	if !errors.As(err, &errs) || len(errs) != 1 {
		t.Fatalf("got %v", err)
	}
	if _, err := compile(t, ddl, fmt.Sprintf(before, strings.TrimSpace(errs[0].Paste))); err != nil {
		t.Fatalf("%s\n%v", errs[0].Paste, err)
	}
}

// TestPasteOneRound is the same promise for random schemas: whatever they are, one round of pasting into rules
// without any verb is enough.
func TestPasteOneRound(t *testing.T) {
	var pasted, left int
	rapid.Check(t, func(rt *rapid.T) {
		w := scrubtest.Draw(rt)
		text := head + "subjects:\n"
		for _, tab := range w.Tables {
			tab.NoRows = false
			if tab.Subject != "" {
				text += fmt.Sprintf("  %s: {table: %s, key: id}\n", tab.Subject, tab.Name)
			}
		}
		text += w.References() + "erase:\n"
		tables, constraints := w.DDL()
		cat, err := catalog.Parse(tables + constraints)
		if err != nil {
			rt.Fatal(err)
		}
		try := func() error {
			f, err := rules.Parse("rules.yml", []byte(text))
			if err == nil {
				_, err = Compile(f, cat)
			}
			return err
		}
		var errs rules.Errors
		errors.As(try(), &errs)
		for _, e := range errs {
			if e.Paste == "" {
				return // what the schema itself says can't work: that is not for pasting
			}
			text += e.Paste + "\n"
			left += strings.Count(e.Paste, "leave")
		}
		if err := try(); err != nil {
			rt.Fatalf("with what was pasted:\n%s\n%v\n%s%s", text, err, tables, constraints)
		}
		pasted++
	})
	t.Logf("%d sets of rules pasted, %d with something left", pasted, left)
	if pasted == 0 || left == 0 {
		t.Error("nothing was tried")
	}
}
