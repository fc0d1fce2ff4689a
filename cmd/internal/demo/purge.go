package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// purged is the database into which the purged snapshot is restored.
const purged = "slipmat_purged"

var (
	publicKey = regexp.MustCompile(`RW[A-Za-z0-9+/=]{54}`)
	planned   = regexp.MustCompile(`(?m)^([0-9 ]+) rows?, and`)
)

// purge takes the person out of the snapshot from before she asked, and proves it.
func (d *demo) purge(ctx context.Context) error {
	if d.stays {
		return nil
	}
	d.heading("9. The first snapshot is from before she asked. Is she still in it, and can she be taken out?")
	objects, before, err := d.decrypted()
	if err != nil {
		return err
	}
	d.check(len(before) > 0, fmt.Sprintf("decrypted by age alone, some of the store's %d objects hold her", objects))
	d.say("")
	if err := d.command(ctx, "lethe", "erasure", "list"); err != nil {
		return err
	}
	d.say("Only a key holder changes what is stored, and signs it. The operator is told to trust that:")
	_, output, err := d.attempt(ctx, "lethe", "keygen", "signer", "--output", "keyholder/signer.key")
	if err != nil {
		return err
	}
	signer := publicKey.FindString(output)
	if signer == "" {
		return errors.New("lethe keygen signer printed no public key")
	}
	d.shell("echo 'trusted_signers: [%s]' >> lethe.yml", signer)
	if err := d.append("lethe.yml", "trusted_signers: ["+signer+"]\n"); err != nil {
		return err
	}
	d.say("")
	code, output, err := d.attempt(ctx, "lethe", "erasure", "purge", "-n", "-i", "keyholder/key.txt")
	if err != nil {
		return err
	}
	rows := planned.FindStringSubmatch(output)
	if code != 0 || rows == nil {
		return fmt.Errorf("lethe erasure purge -n ended with exit code %d and says no number of rows", code)
	}
	keys := []string{"-i", "keyholder/key.txt", "--signer", "keyholder/signer.key"}
	if err := d.command(ctx, append([]string{"lethe", "erasure", "purge", "--yes", "--confirm-rows", strings.ReplaceAll(rows[1], " ", "")}, keys...)...); err != nil {
		return err
	}
	if err := d.command(ctx, append([]string{"lethe", "erasure", "verify"}, keys...)...); err != nil {
		return err
	}
	if err := d.command(ctx, "lethe", "erasure", "list"); err != nil {
		return err
	}
	first, err := d.oldest(ctx)
	if err != nil {
		return err
	}
	if err := d.command(ctx, "lethe", "restore", first, "-i", "keyholder/key.txt", "--to", "postgres:///"+purged); err != nil {
		return err
	}

	objects, after, err := d.decrypted()
	if err != nil {
		return err
	}
	d.check(len(after) == 0, fmt.Sprintf("decrypted by age alone, none of the store's %d objects holds anything of her", objects), "found: "+strings.Join(after, ", "))
	want, err := read(ctx, d.server, restored)
	if err != nil {
		return err
	}
	got, err := read(ctx, d.server, purged)
	if err != nil {
		return err
	}
	d.check(len(difference(want, got)) == 0 && len(difference(got, want)) == 0, fmt.Sprintf("the purged snapshot restores, row for row, like the one without her: %d tables and views", len(got.names())),
		difference(want, got)...)
	return nil
}

// decrypted opens every object of the store with the age and zstd libraries, and returns what of the person it found.
func (d *demo) decrypted() (objects int, found []string, err error) {
	ids, err := d.holder()
	if err != nil {
		return 0, nil, err
	}
	files, err := d.files("store/objects/*/*")
	if err != nil {
		return 0, nil, err
	}
	hits := map[string]bool{}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return 0, nil, err
		}
		packed, err := age.Decrypt(bytes.NewReader(data), ids...)
		if err != nil {
			return 0, nil, fmt.Errorf("decrypt %s: %w", filepath.Base(name), err)
		}
		r, err := zstd.NewReader(packed)
		if err != nil {
			return 0, nil, err
		}
		var text bytes.Buffer
		_, err = r.WriteTo(&text)
		r.Close()
		if err != nil {
			return 0, nil, fmt.Errorf("unpack %s: %w", filepath.Base(name), err)
		}
		for _, p := range person {
			if bytes.Contains(text.Bytes(), []byte(p.text)) || bytes.Contains(text.Bytes(), []byte(hex.EncodeToString([]byte(p.text)))) {
				hits[p.what] = true
			}
		}
	}
	for _, p := range person {
		if hits[p.what] {
			found = append(found, "her "+p.what)
		}
	}
	return len(files), found, nil
}

// oldest asks for the id of the oldest snapshot.
func (d *demo) oldest(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, d.lethe, "list", "--json")
	cmd.Dir, cmd.Env = d.dir, d.env
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("list the snapshots: %w", err)
	}
	var list struct {
		Snapshots []struct {
			ID string `json:"id"`
		} `json:"snapshots"`
	}
	if err := json.Unmarshal(out, &list); err != nil || len(list.Snapshots) == 0 {
		return "", fmt.Errorf("list the snapshots: %d of them, %w", len(list.Snapshots), err)
	}
	return list.Snapshots[0].ID, nil
}

// append adds to a file of the playground.
func (d *demo) append(name, text string) (err error) {
	f, err := os.OpenFile(filepath.Join(d.dir, name), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("write a file of the playground: %w", err)
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
