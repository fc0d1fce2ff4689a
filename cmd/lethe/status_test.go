package main

import (
	"testing"

	"lethe/pipeline/store"
)

// named is a store of which only the URL is looked at.
type named struct {
	store.Store
	url string
}

func (n named) String() string { return n.url }

func TestAllHere(t *testing.T) {
	const here, elsewhere = "s3://backups/x?endpoint=http://localhost:9000&region=eu-north-1", "s3://backups/x?endpoint=https://s3.example.org&region=eu-north-1"
	for _, c := range []struct {
		urls []string
		want bool
	}{
		{[]string{here}, true},
		{[]string{"s3://backups/x?endpoint=http://127.0.0.1:9000"}, true},
		{[]string{"s3://backups/x?endpoint=http://[::1]:9000"}, true},
		{[]string{elsewhere}, false},
		{[]string{"s3://backups/x?region=eu-north-1"}, false},
		{[]string{here, elsewhere}, false},
	} {
		var stores []store.Store
		for _, url := range c.urls {
			stores = append(stores, named{url: url})
		}
		if got := allHere(stores); got != c.want {
			t.Errorf("%v: %v", c.urls, got)
		}
	}
}
