package rules

import "strings"

// nearest returns the candidate that word is probably a slip for, or "".
func nearest(word string, candidates []string) string {
	if len(word) > 40 {
		return ""
	}
	folded := strings.ReplaceAll(strings.ToLower(word), "-", "_")
	best, least := "", 3 // two slips at most, one in a short word
	for _, c := range candidates {
		d := distance(folded, c)
		if d < least && d <= (len(c)+1)/3 {
			best, least = c, d
		}
	}
	return best
}

// distance is the number of insertions, deletions, substitutions and swaps of neighbours (optimal string alignment)
// that make b of a, counted in bytes.
func distance(a, b string) int {
	before, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev, row = prev, row, before
	}
	return prev[len(b)]
}
