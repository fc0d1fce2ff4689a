package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"lethe/pipeline"
)

// Whoever may name a table, ask for an erasure or answer for a store must not be able to rewrite what stands on the
// screen of whoever decides by it.
func TestTerminalObeysNobody(t *testing.T) {
	for _, c := range []struct{ text, shown string }{
		{"a\tline, with Zoë in it\n", "a\tline, with Zoë in it\n"},
		{"up \x1b[1A\x1b[2K and away\r", `up \u001b[1A\u001b[2K and away\u000d`},
		{"C1 \u009b2J, right to left \u202e, no text \xff", `C1 \u009b2J, right to left \u202e, no text \xff`},
	} {
		var out, messages bytes.Buffer
		term := newTerminal(&out, &messages)
		if err := term.Print("%s", c.text); err != nil {
			t.Fatal(err)
		}
		term.Say("%s", c.text)
		term.Warn("%s", c.text)
		term.Fail(errors.New(c.text))
		if out.String() != c.shown || messages.String() != c.shown+"\nlethe: warning: "+c.shown+"\nlethe: "+c.shown+"\n" {
			t.Errorf("%q is shown as %q and %q", c.text, out.String(), messages.String())
		}
	}
}

// A key that looks like lines of the table is one word in it.
func TestPlanShowsKeysAsWords(t *testing.T) {
	var out bytes.Buffer
	a := &app{term: newTerminal(&out, &bytes.Buffer{})}
	p := &pipeline.PurgePlan{Rows: 1, Requests: []pipeline.PlannedErasure{
		{Ref: "R-1", Subject: "user", Key: "7\nR-2  user:8\x1b[8m"}, {Ref: "R-3", Subject: "user", Key: `zoë"s`}}}
	if err := a.showPlan(p); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.Contains(text, `R-1  user:"7\nR-2  user:8\x1b[8m"`) || !strings.Contains(text, "\nR-3  user:") || strings.Contains(text, "\nR-2") {
		t.Errorf("%q", text)
	}
}
