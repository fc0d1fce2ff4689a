package scrub

import (
	"encoding/hex"
	"testing"

	"lethe/scrub/catalog"
)

// The first vectors of the reference implementation of SipHash-2-4 with 128 bits.
func TestHashVectors(t *testing.T) {
	key := hashKey{0x0706050403020100, 0x0f0e0d0c0b0a0908}
	want := []string{
		"a3817f04ba25a8e66df67214c7550293",
		"da87c1d86b99af44347659119b22fc45",
		"8177228da4a45dc7fca38bdef60affe4",
		"9c70b60c5267a94e5f33b6b02985ed51",
	}
	for n, w := range want {
		in := make([]byte, n)
		for i := range in {
			in[i] = byte(i)
		}
		got := key.sum(in)
		if hex.EncodeToString(got[:]) != w {
			t.Errorf("hash of %d bytes is %x, want %s", n, got, w)
		}
	}
}

func TestHit(t *testing.T) {
	users := &catalog.Table{Name: catalog.Name{Schema: "public", Name: "users"}}
	posts := &catalog.Table{Name: catalog.Name{Schema: "public", Name: "posts"}}
	p := &Plan{
		Subjects: map[string]*Subject{"user": {Type: "user", Table: users, Key: "id"}},
		Edges: []*Edge{
			{ID: 0, From: posts, Columns: []string{"author"}, To: users, ToColumns: []string{"id"}, Family: []Family{Integer}},
			{ID: 1, From: posts, Columns: []string{"editor"}, To: users, ToColumns: []string{"id"}, Family: []Family{Integer}},
			{ID: 2, From: posts, Columns: []string{"nick"}, To: users, ToColumns: []string{"nick"}, Family: []Family{Server}},
		},
	}
	e := newErased(p)
	if !e.Empty() {
		t.Fatal("a new Erased is not empty")
	}
	key, _ := AppendKey(nil, Integer, []byte("7"))
	if _, ok := e.Hit(0, key); ok {
		t.Fatal("an empty set was hit")
	}
	set := e.targets[e.byEdge[0]].keys
	if !set.add(e.hash.sum(key), 5) || set.add(e.hash.sum(key), 6) || !set.add(e.hash.sum(key), 2) {
		t.Fatal("add does not keep the lowest request")
	}
	for edge := range 2 {
		if r, ok := e.Hit(edge, key); !ok || r != 2 {
			t.Errorf("edge %d: hit %d, %v", edge, r, ok)
		}
	}
	// The keys that lead to users.nick say nothing about a reference that the server compares: its own answer does.
	nick, _ := AppendKey(nil, Server, []byte("Ada"))
	e.targets[e.byEdge[2]].keys.add(e.hash.sum(nick), 0)
	if _, ok := e.Hit(2, nick); ok {
		t.Error("a server edge was hit without the server's answer")
	}
	e.answers[2].add(e.hash.sum(nick), 1)
	if r, ok := e.Hit(2, nick); !ok || r != 1 {
		t.Errorf("server edge: hit %d, %v", r, ok)
	}
	if e.Empty() || e.Keys() != 3 {
		t.Errorf("empty %v, keys %d", e.Empty(), e.Keys())
	}
	if n := testing.AllocsPerRun(100, func() { e.Hit(0, key) }); n != 0 {
		t.Errorf("Hit allocates %v times", n)
	}
}
