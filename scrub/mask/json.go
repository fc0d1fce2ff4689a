package mask

import (
	"bytes"
	"errors"
	"fmt"
)

var jsonNull = []byte("null")

// JSONSet is a path whose values are replaced where they exist.
type JSONSet struct {
	Path  Path
	Value string // JSON text
}

// JSON is the strategy json, for json, jsonb and text columns. First every value at a path of remove is taken out,
// all at once: paths mean places in the text as it came, and a whole value becomes null. Then set overwrites, one
// after the other, what is there at its path (a null too) and adds nothing. Paths act on every one of equal keys. All else
// stays byte for byte: order, equal keys, white space, numbers as written.
//
// A value that is not JSON as the server's type json takes it is an error that does not quote it. Names in paths are
// compared as UTF-8.
func JSON(remove []Path, set []JSONSet) (Func, error) {
	var passes []*jsonWalker
	if len(remove) > 0 {
		passes = append(passes, &jsonWalker{paths: remove, visit: func(int, []byte) (verdict, []byte) { return removeNode, nil }})
	}
	for _, s := range set {
		value := bytes.TrimSpace([]byte(s.Value))
		if err := (&jsonWalker{}).walk(value); err != nil {
			return nil, fmt.Errorf("json: the new value at %s: %w", s.Path, err)
		}
		passes = append(passes, &jsonWalker{paths: []Path{s.Path}, visit: func(int, []byte) (verdict, []byte) { return replaceNode, value }})
	}
	if len(passes) == 0 {
		return nil, errors.New("json needs a path to remove or to set")
	}
	var text, next []byte
	return func(dst, value []byte) ([]byte, bool, error) {
		current := value
		for i, pass := range passes {
			if err := pass.walk(current); err != nil {
				return dst, false, err
			}
			if i == len(passes)-1 {
				return pass.apply(dst, current), false, nil
			}
			next = pass.apply(next[:0], current)
			text, next = next, text
			current = text
		}
		return dst, false, nil // not reached: there is a pass, and the last one returns
	}, nil
}

// verdict is what a visitor wants done with a value.
type verdict int

const (
	keepNode verdict = iota
	removeNode
	replaceNode
	stopWalk
)

// maxJSONDepth is more than any server takes: its own limit, the stack, is some 6 000 levels by default and 25 000 at
// the most that a stack of 8 MB allows.
const maxJSONDepth = 100_000

// jsonWalker reads JSON as the server's type json does, without recursion, tells where paths match, and notes what
// to edit. It keeps its memory from text to text.
type jsonWalker struct {
	paths []Path
	// visit is called at the end of each value that a path leads to, with the path's place in paths (the first one
	// where several lead there). Values inside come first.
	visit func(path int, node []byte) (verdict, []byte)

	states []jsonState
	frames []jsonFrame
	edits  []jsonEdit // in the order of the text, never overlapping
	key    []byte
}

// jsonState says that the first steps of a path lead to the current value.
type jsonState struct {
	path, steps int
	flat        bool // the value is an element of an array that was unwrapped: it is not unwrapped again
}

// jsonFrame is an object or array that is being read.
type jsonFrame struct {
	jsonNode
	object   bool
	children int  // where the states of its items begin
	index    int  // of the current element
	item     int  // where the current item begins: an element, or a member's name
	comma    int  // where the comma before it stands
	kept     bool // an item before it stays
	pending  int  // the edit that takes out the item before and ends where the next begins, or -1
}

// jsonNode is a value: where it begins, in the text and in the walker's lists.
type jsonNode struct {
	start, states, edits int
	matched              int // the path that leads to it, or -1
}

// jsonEdit replaces text[start:end].
type jsonEdit struct {
	start, end int
	with       []byte
}

func errJSON(pos int) error { return fmt.Errorf("the value is not valid JSON at byte %d", pos) }

// walk reads all of text and fills edits.
func (w *jsonWalker) walk(text []byte) (err error) {
	w.states, w.frames, w.edits = w.states[:0], w.frames[:0], w.edits[:0]
	for i := range w.paths {
		w.states = append(w.states, jsonState{path: i})
	}
	pos := skipSpace(text, 0)
	node := jsonNode{start: pos}
	for {
		// A value begins at pos. Its states are on top, from node.states on.
		if pos == len(text) {
			return errJSON(pos)
		}
		c := text[pos]
		node.matched = w.settle(node.states, c == '[')
		if c == '{' || c == '[' {
			if len(w.frames) == maxJSONDepth {
				return fmt.Errorf("the JSON value is nested more than %d levels deep", maxJSONDepth)
			}
			w.frames = append(w.frames, jsonFrame{jsonNode: node, object: c == '{', children: len(w.states), index: -1, comma: -1, pending: -1})
			pos = skipSpace(text, pos+1)
			if pos == len(text) || text[pos] != c+2 { // } and ] stand two after { and [
				if node, pos, err = w.beginItem(text, pos); err != nil {
					return err
				}
				continue
			}
			pos++
			w.frames = w.frames[:len(w.frames)-1]
		} else if pos, err = scanScalar(text, pos); err != nil {
			return err
		}

		// The value ends at pos, and with it any containers of which it is the last.
		for {
			if !w.endNode(text, node, pos) {
				return nil
			}
			pos = skipSpace(text, pos)
			if len(w.frames) == 0 {
				if pos != len(text) {
					return errJSON(pos)
				}
				return nil
			}
			f := &w.frames[len(w.frames)-1]
			w.states = w.states[:f.children]
			if pos == len(text) {
				return errJSON(pos)
			}
			if text[pos] == ',' {
				f.comma = pos
				if node, pos, err = w.beginItem(text, skipSpace(text, pos+1)); err != nil {
					return err
				}
				break
			}
			if closing := text[pos]; f.object && closing != '}' || !f.object && closing != ']' {
				return errJSON(pos)
			}
			pos++
			node = f.jsonNode
			w.frames = w.frames[:len(w.frames)-1]
		}
	}
}

// settle completes the states of the value on top (an array step on what is no array takes it for an array of one)
// and returns the path that leads to it, or -1.
func (w *jsonWalker) settle(from int, array bool) (matched int) {
	matched = -1
	for i := from; i < len(w.states); i++ {
		st := w.states[i]
		steps := w.paths[st.path].steps
		if st.steps == len(steps) {
			if matched < 0 {
				matched = st.path
			}
			continue
		}
		next := steps[st.steps]
		if !array && (next.kind == anyElementStep || next.kind == elementStep && next.index == 0) {
			w.states = append(w.states, jsonState{path: st.path, steps: st.steps + 1})
		}
	}
	return matched
}

// beginItem reads up to the value of the next item of the innermost container, which begins at pos, and puts the
// value's states on top.
func (w *jsonWalker) beginItem(text []byte, pos int) (jsonNode, int, error) {
	f := &w.frames[len(w.frames)-1]
	f.item = pos
	f.index++
	if f.pending >= 0 {
		w.edits[f.pending].end = pos
		f.pending = -1
	}
	node := jsonNode{states: f.children, edits: len(w.edits)}
	var name []byte
	if f.object {
		if pos == len(text) || text[pos] != '"' {
			return node, pos, errJSON(pos)
		}
		end, escaped, err := scanString(text, pos)
		if err != nil {
			return node, pos, err
		}
		name = text[pos+1 : end-1]
		if escaped && f.states < f.children {
			w.key = appendUnescaped(w.key[:0], name)
			name = w.key
		}
		pos = skipSpace(text, end)
		if pos == len(text) || text[pos] != ':' {
			return node, pos, errJSON(pos)
		}
		pos = skipSpace(text, pos+1)
	}
	node.start = pos
	for i := f.states; i < f.children; i++ {
		st := w.states[i]
		steps := w.paths[st.path].steps
		if st.steps == len(steps) {
			continue
		}
		next := steps[st.steps]
		member := next.kind == memberStep || next.kind == anyMemberStep
		switch {
		case f.object && (next.kind == anyMemberStep || next.kind == memberStep && next.name == string(name)),
			!f.object && (next.kind == anyElementStep || next.kind == elementStep && next.index == f.index):
			w.states = append(w.states, jsonState{path: st.path, steps: st.steps + 1})
		case !f.object && member && !st.flat:
			w.states = append(w.states, jsonState{path: st.path, steps: st.steps, flat: true})
		}
	}
	return node, pos, nil
}

// endNode asks the visitor about a value that ends at pos, if a path leads to it, and notes the edit. It returns false
// where the walk is to stop.
func (w *jsonWalker) endNode(text []byte, node jsonNode, pos int) bool {
	v, with := keepNode, []byte(nil)
	if node.matched >= 0 {
		v, with = w.visit(node.matched, text[node.start:pos])
	}
	var f *jsonFrame
	if len(w.frames) > 0 {
		f = &w.frames[len(w.frames)-1]
	} else if v == removeNode {
		v, with = replaceNode, jsonNull
	}
	switch v {
	case stopWalk:
		return false
	case replaceNode:
		w.edits = append(w.edits[:node.edits], jsonEdit{node.start, pos, with})
	case removeNode:
		w.edits = w.edits[:node.edits]
		if f.kept { // with the comma before it
			w.edits = append(w.edits, jsonEdit{f.comma, pos, nil})
		} else { // with all up to the next item
			f.pending = len(w.edits)
			w.edits = append(w.edits, jsonEdit{f.item, pos, nil})
		}
		return true
	}
	if f != nil {
		f.kept = true
	}
	return true
}

// apply appends text with its edits.
func (w *jsonWalker) apply(dst, text []byte) []byte {
	pos := 0
	for _, e := range w.edits {
		dst = append(dst, text[pos:e.start]...)
		dst = append(dst, e.with...)
		pos = e.end
	}
	return append(dst, text[pos:]...)
}

func skipSpace(s []byte, pos int) int {
	for pos < len(s) && (s[pos] == ' ' || s[pos] == '\n' || s[pos] == '\t' || s[pos] == '\r') {
		pos++
	}
	return pos
}

// scanScalar returns where the string, number or word that begins at pos ends.
func scanScalar(s []byte, pos int) (end int, err error) {
	switch s[pos] {
	case '"':
		end, _, err = scanString(s, pos)
		return end, err
	case 't':
		return scanWord(s, pos, "true")
	case 'f':
		return scanWord(s, pos, "false")
	case 'n':
		return scanWord(s, pos, "null")
	}
	return scanNumber(s, pos)
}

func scanWord(s []byte, pos int, word string) (end int, err error) {
	end = pos + len(word)
	if end > len(s) || string(s[pos:end]) != word {
		return pos, errJSON(pos)
	}
	return end, nil
}

func scanString(s []byte, pos int) (end int, escaped bool, err error) {
	for pos++; pos < len(s); pos++ {
		switch c := s[pos]; {
		case c == '"':
			return pos + 1, escaped, nil
		case c < 0x20:
			return pos, escaped, errJSON(pos)
		case c == '\\':
			escaped = true
			pos++
			if pos == len(s) {
				return pos, escaped, errJSON(pos)
			}
			if s[pos] == 'u' {
				for range 4 {
					pos++
					if pos == len(s) || hexValue(s[pos]) < 0 {
						return pos, escaped, errJSON(pos)
					}
				}
			} else if bytes.IndexByte([]byte(`"\/bfnrt`), s[pos]) < 0 {
				return pos, escaped, errJSON(pos)
			}
		}
	}
	return pos, escaped, errJSON(pos)
}

func scanNumber(s []byte, pos int) (end int, err error) {
	if pos < len(s) && s[pos] == '-' {
		pos++
	}
	if pos < len(s) && s[pos] == '0' {
		pos++
	} else if pos, err = scanDigits(s, pos); err != nil {
		return pos, err
	}
	if pos < len(s) && s[pos] == '.' {
		if pos, err = scanDigits(s, pos+1); err != nil {
			return pos, err
		}
	}
	if pos < len(s) && (s[pos] == 'e' || s[pos] == 'E') {
		pos++
		if pos < len(s) && (s[pos] == '+' || s[pos] == '-') {
			pos++
		}
		return scanDigits(s, pos)
	}
	return pos, nil
}

func scanDigits(s []byte, pos int) (end int, err error) {
	for end = pos; end < len(s) && s[end] >= '0' && s[end] <= '9'; end++ {
	}
	if end == pos {
		return pos, errJSON(pos)
	}
	return end, nil
}
