package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const unitsDir = "../../docs/deploy"

// unit is a systemd unit file: its values by section and key, in order.
type unit map[string]map[string][]string

// readUnit reads a unit file strictly.
func readUnit(t *testing.T, path string) unit {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	u, section := unit{}, ""
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		key, value, isSetting := strings.Cut(line, "=")
		switch {
		case line == "" || line[0] == '#':
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			section = line[1 : len(line)-1]
			u[section] = map[string][]string{}
		case section == "" || !isSetting || strings.ContainsAny(key, " \t") || strings.HasSuffix(line, `\`):
			t.Errorf("%s:%d: %q", path, n, line)
		default:
			u[section][key] = append(u[section][key], value)
		}
	}
	return u
}

func units(t *testing.T) map[string]unit {
	t.Helper()
	paths, err := filepath.Glob(unitsDir + "/lethe-*")
	if err != nil || len(paths) < 5 {
		t.Fatalf("%v, %v", paths, err)
	}
	all := map[string]unit{}
	for _, p := range paths {
		all[filepath.Base(p)] = readUnit(t, p)
	}
	return all
}

// TestUnits: what the units start is there, fits together, and are command lines that lethe understands.
func TestUnits(t *testing.T) {
	all := units(t)
	commands := map[string]bool{}
	for name, u := range all {
		if strings.HasSuffix(name, ".timer") {
			if _, ok := all[strings.TrimSuffix(name, ".timer")+".service"]; !ok || len(u["Timer"]["OnCalendar"]) != 1 || len(u["Install"]["WantedBy"]) != 1 {
				t.Errorf("%s: no service, no time, or not to be enabled: %v", name, u)
			}
			continue
		}
		service := u["Service"]
		if len(service["ExecStart"]) == 0 || strings.Join(service["Type"], "") != "oneshot" || len(service["User"]) != 1 {
			t.Errorf("%s: %v", name, service)
		}
		if !strings.Contains(name, "@") && strings.Join(u["Unit"]["OnFailure"], "") != "lethe-alert@%n.service" {
			t.Errorf("%s tells nobody that it failed: %v", name, u["Unit"])
		}
		for _, line := range service["ExecStart"] {
			if args := strings.Fields(line); args[0] == "/usr/local/bin/lethe" {
				c, _, err := (&app{term: newTerminal(&bytes.Buffer{}, &bytes.Buffer{})}).root().Find(args[1:])
				if err == nil {
					err = c.ParseFlags(args[2:])
				}
				if err != nil || c.Name() != args[1] || c.Flags().NArg() > 0 {
					t.Errorf("%s: %s: %v", name, line, err)
				}
				commands[args[1]] = true
			}
		}
	}
	for _, c := range []string{"backup", "expire", "status"} {
		if !commands[c] {
			t.Errorf("no unit runs lethe %s", c)
		}
	}
}

// TestUnitsVerify lets systemd say what it thinks.
func TestUnitsVerify(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Fatalf("%v\n  try: .ci/deps test", err)
	}
	// The units name where lethe is installed; verify wants a program there.
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for name := range units(t) {
		text, err := os.ReadFile(filepath.Join(unitsDir, name))
		if err != nil {
			t.Fatal(err)
		}
		text = bytes.ReplaceAll(text, []byte("/usr/local/bin/lethe"), []byte(program))
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(name, "@.") {
			path = filepath.Join(dir, strings.Replace(name, "@.", "@test.", 1))
			if err := os.Symlink(filepath.Join(dir, name), path); err != nil {
				t.Fatal(err)
			}
		}
		args = append(args, path)
	}
	// Everything it says of a good unit is nothing; unknown keys and values are said and are no failure.
	out, err := exec.Command(analyze, args...).CombinedOutput()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
