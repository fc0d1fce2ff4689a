package pipeline_test

import (
	"slices"
	"testing"

	"lethe/pipeline"
	"lethe/pipeline/archive"
)

// A filter is believed by a purge, and by no verification: who has the operator's key can write one that denies everybody,
// without being able to read a single row. What a purge then leaves is found, with what only that leads to, and no proof
// says otherwise.
func TestVerifyBelievesNoFilter(t *testing.T) {
	s := newSite(t, manyPosts)
	s.rules = withoutRequests(manyPostsRules)
	id := s.backup()
	r := s.open()

	stolen := s.operator
	m := s.manifest(r, id, stolen.Identities())
	posts := table(t, m, "posts")
	if len(posts.Filters) == 0 {
		t.Fatal("posts have no filter")
	}
	var nobody []archive.FilterPiece
	for _, o := range posts.Objects {
		piece, err := archive.ParsePieceID(o.Piece)
		if err != nil {
			t.Fatal(err)
		}
		nobody = append(nobody, archive.FilterPiece{Piece: piece, Keys: []archive.FilterKeys{{Known: true}, {Known: true}}})
	}
	references := []archive.FilterReference{{Columns: []string{"id"}, Families: []string{"integer"}}, {Columns: []string{"user_id"}, Families: []string{"integer"}}}
	text, err := new(archive.FilterBuilder).Build(references, nobody)
	if err != nil {
		t.Fatal(err)
	}
	posts.Filters = []archive.Object{s.forge(string(text), 0, posts.Filters[0].Piece)}
	data, _, err := archive.RewriteManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	s.sign(stolen.Signing, r.ID, id, data)

	s.recordAll(manyPostsRules, s.store)
	signer := signed(t)
	plan := purge(t, s.purging(signer, s.store)).Plan
	if plan.Rewritten != 1 || slices.ContainsFunc(plan.Tables, func(e pipeline.TableErasure) bool { return e.Table == "posts" }) {
		t.Fatalf("the purge has seen through it: %+v", plan)
	}
	found := verify(t, s.verifying(signer, s.store))
	for _, want := range []string{"R-1 0 posts  should have been deleted: 10 in 1", "R-1 0 comments  should have been deleted: 10 in 1"} {
		if !slices.Contains(said(found.Findings), want) {
			t.Errorf("%q is not among %q", want, said(found.Findings))
		}
	}
	if left := names(t, s.store, archive.ProofsPrefix); found.Proof != "" || len(left) > 0 {
		t.Errorf("a proof says that nobody is there: %v", left)
	}
}
