package source

import (
	"slices"
	"strings"

	"lethe/scrub/catalog"
)

// castsInOrder puts casts without a function before those with one. A cast with a function may need one without, when
// what its function returns becomes the target type only by that other cast. PostgreSQL records no such dependency, so
// pg_dump prints casts by name, and a restore can stop at the first of them. A cast without a function needs nothing
// but its types: it moves up past functions and other casts, and past nothing else.
func castsInOrder(ddl string) (string, error) {
	if !strings.Contains(ddl, ") WITHOUT FUNCTION") {
		return ddl, nil
	}
	statements, err := catalog.Split(ddl)
	if err != nil {
		return "", err
	}
	lines := strings.SplitAfter(ddl, "\n")
	var out []string
	done := 0   // lines that are in out
	first := -1 // where in out the first cast with a function stands, of those that may be passed; or -1
	moves := false
	for _, s := range statements {
		start, end := entry(lines, s)
		cast := s.Header.Type == "CAST" && start >= done
		switch {
		case cast && strings.Contains(s.Text, ") WITHOUT FUNCTION"):
			out = append(out, lines[done:start]...)
			if moves = first >= 0; moves {
				out = slices.Insert(out, first, lines[start:end]...)
				first += end - start
			} else {
				out = append(out, lines[start:end]...)
			}
			done = end
		case cast:
			out = append(out, lines[done:start]...)
			done, moves = start, false
			if first < 0 {
				first = len(out)
			}
		case s.Header.Type == "COMMENT" && strings.HasPrefix(s.Header.Name, "CAST (") && start == done && moves:
			out = slices.Insert(out, first, lines[start:end]...)
			first += end - start
			done = end
		case s.Header.Type == "FUNCTION", s.Header.Type == "COMMENT", s.Header.Type == "ACL":
		default:
			first, moves = -1, false
		}
	}
	return strings.Join(append(out, lines[done:]...), ""), nil
}

// entry returns the lines of a statement with pg_dump's comment above it and the two empty lines below, or -1 where it
// does not stand like that.
func entry(lines []string, s catalog.Statement) (start, end int) {
	start = s.Line - 5 // "--", "-- Name: …", "--", "", and s.Line counts from 1
	end = s.Line + strings.Count(s.Text, "\n") + 2
	if start < 0 || end > len(lines) || lines[start] != "--\n" || !strings.HasPrefix(lines[start+1], "-- Name: ") ||
		lines[end-1] != "\n" || lines[end-2] != "\n" {
		return -1, -1
	}
	return start, end
}
