package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"lethe/pipeline/archive"
)

// fullCertificate has something in every member.
func fullCertificate(t *testing.T) *archive.Certificate {
	t.Helper()
	const key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
	at := func(day, hour int) time.Time { return time.Date(2026, 11, day, hour, 0, 0, 0, time.UTC) }
	when := func(day, hour int) *time.Time { t := at(day, hour); return &t }
	c := &archive.Certificate{Repository: strings.Repeat("0123456789abcdef", 2), Dataset: "slipmat", Issued: at(28, 12), Issuer: key, Tool: "1.0.0",
		Request: archive.CertifiedRequest{Sequence: 17, Ref: "DSGVO-2026/0014", Subject: "user", Received: "2026-11-20", Deadline: "2026-12-20", Recorded: at(20, 9),
			RecordedBy: key, Rules: archive.Digest([]byte("then"))},
		State: "verified", Effective: when(20, 12), Purged: when(21, 10), Verified: when(21, 11), Rules: archive.Digest([]byte("today")), Tools: []string{"0.9.9", "1.0.0"},
		Ledger: &archive.LedgerHead{Sequence: 19, Digest: archive.Digest([]byte("head"))}, LargeObjects: 3,
		Unknown: []string{"whether s3://backup-eu-north-1/slipmat keeps deleted files: Access Denied <s3:ListBucketVersions>"},
		Kept: []archive.CertifiedKeep{
			{Table: "rechnungswesen.zahlungen", Reference: "zahler_id", Redacted: []string{"karteninhaber", "iban"}, Reason: "§ 147 AO: zehn Jahre"},
			{Table: "users", Redacted: []string{"email", "full_name"}, Reason: "the person's own row stays, as nobody's"}},
		Beyond: []string{"The live database."}, Limits: []string{"Free text."}}
	for i := range 40 {
		c.Tables = append(c.Tables, archive.CertifiedTable{Snapshots: 28 - i%5, PurgedTable: archive.PurgedTable{
			Table:   fmt.Sprintf("kundenverwaltung.benachrichtigungseinstellungen_historie_%02d_aufbewahrungspflichtig", i),
			Deleted: int64(i) * 131_071, Others: int64(i), Redacted: int64(i % 7), Cleared: int64(i % 3)}})
	}
	proof := &archive.CertifiedProof{Name: "proofs/20261121T110000Z-aaaaaa.json", Finished: at(21, 11), Signer: key, Tool: "1.0.0", Rules: c.Rules, Objects: 4711, Bytes: 5 << 30,
		Rows: 123_456_789, Kept: 12, Lookups: 3}
	store := archive.CertifiedStore{Store: "s3://backup-eu-north-1/slipmat", Snapshots: 28, Purges: []archive.CertifiedPurge{{Ended: at(21, 10), Signer: key, Tool: "0.9.9", Rules: c.Rules}},
		Kept:   []archive.KeptFile{{Name: "objects/ab/" + archive.Digest([]byte("x")), Until: at(30, 0)}, {Name: "objects/cd/" + archive.Digest([]byte("y")), Held: true}},
		Source: &archive.CertifiedSource{Snapshot: "20261128T060000Z-bbbbbb", Started: at(28, 6), Rows: 1}, Proof: proof, Expired: []string{"20261114T000000Z-cccccc"}}
	for i := range 28 {
		old := at(14+i/4, i%4*6).Format("20060102T150405Z")
		next := archive.CertifiedSuccessor{Old: old + "-0f0f0f", New: old + "-0f0f10"}
		if i == 0 {
			next.New = ""
		}
		store.Rewritten = append(store.Rewritten, next)
	}
	c.Stores = []archive.CertifiedStore{store, {Store: "sftp://backup@keller.example.net/srv/lethe/slipmat", Snapshots: 28, Proof: proof, Source: &archive.CertifiedSource{Snapshot: "x", Started: at(28, 6)}}}
	return c
}

// The JSON of a certificate is what others read: its shape stays.
func TestCertificateGolden(t *testing.T) {
	c := fullCertificate(t)
	c.Tables = c.Tables[:2]
	text, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "certificate.json")
	if os.Getenv("LETHE_GOLDEN") != "" {
		if err := os.WriteFile(golden, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(text, want) {
		t.Errorf("the certificate is\n%s", text)
	}
	if _, err := archive.ReadCertificate("certificate.json", want); err != nil {
		t.Error(err)
	}
	for _, wrong := range [][2]string{{`"verified",`, `"purged",`}, {`"unfinished": []`, `"unfinished": ["x"]`}, {`"unclean_snapshots": 0`, `"unclean_snapshots": 1`},
		{`"state"`, `"State"`}, {"erasure certificate", "certificate"}, {`"sequence": 17`, `"sequence": 20`}, {"\n}\n", "\n}"}, {`"version": 1`, `"version": 2`}} {
		changed := bytes.Replace(want, []byte(wrong[0]), []byte(wrong[1]), 1)
		if _, err := archive.ReadCertificate("certificate.json", changed); bytes.Equal(changed, want) || !errors.Is(err, archive.ErrIntegrity) && wrong[1] != `"version": 2` || err == nil {
			t.Errorf("with %s in place of %s: %v", wrong[1], wrong[0], err)
		}
	}
}

// The page needs nothing from elsewhere, is well formed, says everything that the JSON says, and escapes what it is given.
func TestCertificatePage(t *testing.T) {
	c := fullCertificate(t)
	c.Kept[0].Reason = `<script>alert("x")</script>`
	page, err := certificatePage(c, "DIGEST-OF-THE-JSON")
	if err != nil {
		t.Fatal(err)
	}
	if to := os.Getenv("LETHE_PAGE"); to != "" { // to look at
		if err := os.WriteFile(to, page, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text := string(page)
	for _, no := range []string{"<script", "http", "src=", "url(", "@import", "<link", "<img", "ZgotmplZ"} {
		if strings.Contains(text, no) {
			t.Errorf("the page has %s", no)
		}
	}
	wanted := []string{"DSGVO-2026/0014", "Erased from every stored snapshot, and verified", "2026-11-21 11:00 UTC", "since 2026-11-20 12:00 UTC at the latest", "DIGEST-OF-THE-JSON",
		"§ 147 AO", "&lt;script&gt;", c.Issuer, "19:" + c.Ledger.Digest, "locked until 2026-11-30", "legal hold", "3 large objects", "20261114T000000Z-cccccc", "3 values searched for", "Access Denied &lt;", "5.00 GiB"}
	for _, table := range c.Tables {
		wanted = append(wanted, "<td>"+strings.NewReplacer("_", "_<wbr>", ".", ".<wbr>").Replace(table.Table)+"</td>")
	}
	c.Kept[0].Reason = "§ 147 AO"
	page, err = certificatePage(c, "DIGEST-OF-THE-JSON")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range wanted {
		if !strings.Contains(text+string(page), want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	// Void elements and the doctype aside it is XML, so every element is closed where it should be.
	dec := xml.NewDecoder(strings.NewReader(regexp.MustCompile(`<(!DOCTYPE|meta|wbr)[^>]*>`).ReplaceAllString(text, "")))
	for {
		if _, err := dec.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}

	c.State, c.Unfinished, c.Verified, c.Purged, c.Effective = "recorded", []string{"s3 has 2 of 3 snapshots that do not honour the request"}, nil, nil, nil
	c.Tables, c.Kept, c.Stores = nil, nil, []archive.CertifiedStore{{Store: "s3://x", Error: "it does not answer"}}
	page, err = certificatePage(c, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<strong>Not finished.</strong> State: recorded", "Not finished: s3 has 2 of 3", "it does not answer", "not of every store", "not yet", "No rule keeps rows", "No purge has given account"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	if strings.Contains(string(page), "Erased from every") {
		t.Error("an unfinished one looks finished")
	}
}
