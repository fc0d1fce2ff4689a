package pipeline_test

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestLayers holds the packages to the direction in which they may import one another: each row names a package and
// the packages of ours that it may import.
func TestLayers(t *testing.T) {
	allowed := map[string][]string{
		"rules":                    {},
		"scrub/catalog":            {},
		"scrub/copytext":           {},
		"scrub/mask":               {},
		"scrub/scrubtest":          {"scrub/catalog"},
		"scrub":                    {"rules", "scrub/catalog", "scrub/copytext", "scrub/mask"},
		"pipeline/archive":         {},
		"pipeline/pgtemp":          {},
		"pipeline/pgtemp/pgtest":   {"pipeline/pgtemp"},
		"pipeline/sqlstate":        {},
		"pipeline/store":           {},
		"pipeline/store/dir":       {"pipeline/store"},
		"pipeline/store/open":      {"pipeline/store", "pipeline/store/dir", "pipeline/store/s3"},
		"pipeline/store/s3":        {"pipeline/store"},
		"pipeline/store/s3/s3test": {},
		"pipeline/store/storetest": {"pipeline/store"},
		"pipeline/source":          {"pipeline/sqlstate", "scrub/catalog", "scrub/copytext"},
		"pipeline/target":          {"pipeline/sqlstate", "scrub/catalog"},
		"pipeline":                 {"rules", "scrub", "scrub/catalog", "scrub/copytext", "pipeline/archive", "pipeline/source", "pipeline/store", "pipeline/target"},
	}
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "lethe/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	seen := 0
	for dec.More() {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, "lethe/")
		if strings.HasPrefix(name, "cmd/") {
			continue // the commands may import everything
		}
		may, ok := allowed[name]
		if !ok {
			t.Errorf("package %s has no row in this table: decide what it may import", name)
			continue
		}
		seen++
		for _, imp := range p.Imports {
			inner, ours := strings.CutPrefix(imp, "lethe/")
			if ours && !slices.Contains(may, inner) {
				t.Errorf("%s imports %s, which is not below it", name, inner)
			}
			if imp == "lethe/cmd" || strings.HasPrefix(imp, "lethe/cmd/") {
				t.Errorf("%s imports a command, %s", name, imp)
			}
		}
	}
	if seen != len(allowed) {
		t.Errorf("%d packages found, the table has %d", seen, len(allowed))
	}
}
