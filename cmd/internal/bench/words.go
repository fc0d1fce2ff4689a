package main

import (
	"math"
	"math/rand/v2"
	"strings"
)

// vocabulary is a language made up of syllables. Its words are drawn as people draw theirs: few of them often, most of
// them seldom (Zipf's law), and many of them in phrases that come back. So text of it compresses about as well as
// text that somebody wrote.
type vocabulary struct {
	words   []string     // by rank, the commonest first
	phrases []string     // likewise
	names   []string     // capitalised, for people and products
	word    [1 << 16]int // the rank that 16 random bits draw
	phrase  [1 << 12]int
	name    [1 << 12]int
}

func newVocabulary() *vocabulary {
	v := &vocabulary{words: makeWords(8000)}
	zipf(v.word[:], len(v.words), 1, 2.7)
	r := &random{}
	r.seed(0, 1)
	for range 3000 {
		words := make([]string, 2+r.n(4))
		for i := range words {
			words[i] = v.words[v.word[r.n(len(v.word))]]
		}
		v.phrases = append(v.phrases, strings.Join(words, " "))
	}
	zipf(v.phrase[:], len(v.phrases), 1, 10)
	for _, w := range v.words[200:1400] {
		v.names = append(v.names, strings.ToUpper(w[:1])+w[1:])
	}
	zipf(v.name[:], len(v.names), 0.8, 20)
	return v
}

// makeWords returns n different words; the commonest are the shortest.
func makeWords(n int) []string {
	onsets := strings.Fields("b br c ch cl cr d dr f fl fr g gr h j k l m n p pl pr qu r s sc sl sp st str t th tr v w")
	vowels := strings.Fields("a e i o u ai ea ee ie oa oo ou")
	codas := strings.Fields("b d ft l ld ll m mp n nd ng p r rd rn rt s sh sk ss st t th x")
	r := &random{}
	r.seed(0, 0)
	seen := map[string]bool{}
	var words []string
	for len(words) < n {
		syllables := 1
		switch {
		case len(words) > 1500:
			syllables = 2 + r.n(2)
		case len(words) > 150:
			syllables = 1 + r.n(2)
		}
		var b strings.Builder
		for i := range syllables {
			if i > 0 || r.n(4) > 0 {
				b.WriteString(onsets[r.n(len(onsets))])
			}
			b.WriteString(vowels[r.n(len(vowels))])
			if r.n(3) > 0 && (len(words) > 40 || r.n(2) > 0) {
				b.WriteString(codas[r.n(len(codas))])
			}
		}
		if w := b.String(); !seen[w] {
			seen[w] = true
			words = append(words, w)
		}
	}
	return words
}

// zipf fills draw with ranks below n so that rank k stands there in proportion to 1/(k+shift)^s.
func zipf(draw []int, n int, s, shift float64) {
	total := 0.0
	for k := range n {
		total += math.Pow(float64(k)+shift, -s)
	}
	k, sum := 0, math.Pow(shift, -s)
	for i := range draw {
		for k < n-1 && sum < (float64(i)+0.5)/float64(len(draw))*total {
			k++
			sum += math.Pow(float64(k)+shift, -s)
		}
		draw[i] = k
	}
}

// random draws numbers. Seeded alike it draws alike, on every machine.
type random struct{ pcg rand.PCG }

func (r *random) seed(stream, i uint64) { r.pcg.Seed(stream, i*0x9e3779b97f4a7c15+stream) }

func (r *random) bits() uint64 { return r.pcg.Uint64() }

// n draws a number from 0 to k-1.
func (r *random) n(k int) int { return int((r.pcg.Uint64() >> 32) * uint64(k) >> 32) }

func (r *random) oneIn(k int) bool { return r.n(k) == 0 }

// exponential draws a number of the given mean: mostly small, now and then large.
func (r *random) exponential(mean float64) float64 {
	return -math.Log(1-float64(r.pcg.Uint64()>>11)/(1<<53)) * mean
}
