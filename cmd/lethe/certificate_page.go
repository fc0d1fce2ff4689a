package main

import (
	"bytes"
	"fmt"
	"html/template"
	"strings"
	"time"

	"lethe/pipeline/archive"
)

// certificatePage is a certificate for people: a page that needs nothing else, and prints. digest is of the JSON that says
// the same.
func certificatePage(cert *archive.Certificate, digest string) ([]byte, error) {
	page, err := template.New("certificate").Funcs(template.FuncMap{
		"group": group,
		"bytes": bytesText,
		"count": count,
		"name":  breakable,
		"time": func(t time.Time) string {
			return t.UTC().Format("2006-01-02 15:04 UTC")
		},
		"when": func(t *time.Time) string {
			if t == nil {
				return ""
			}
			return t.UTC().Format("2006-01-02 15:04 UTC")
		},
		"lock": func(k archive.KeptFile) string { return keptText(k.Until, k.Held) },
	}).Parse(certificateTemplate)
	if err != nil {
		return nil, fmt.Errorf("write the certificate's page: %w", err)
	}
	var out bytes.Buffer
	if err := page.Execute(&out, map[string]any{"C": cert, "Digest": digest, "Finished": cert.State == "verified"}); err != nil {
		return nil, fmt.Errorf("write the certificate's page: %w", err)
	}
	return out.Bytes(), nil
}

// breakable lets a long name be broken where a person would.
func breakable(name string) template.HTML {
	return template.HTML(strings.NewReplacer("_", "_<wbr>", ".", ".<wbr>").Replace(template.HTMLEscapeString(name))) //nolint:gosec // escaped
}

const certificateTemplate = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Erasure certificate {{.C.Request.Ref}}</title>
<style>
@page { size: A4; margin: 18mm 16mm 20mm 20mm; @bottom-right { content: counter(page) " / " counter(pages); font: 8pt sans-serif; } }
html { font: 10.5pt/1.4 "DejaVu Sans", Verdana, Arial, sans-serif; color: #111; background: #fff; }
body { max-width: 174mm; margin: 0 auto; padding: 8mm 0; }
h1 { font-size: 19pt; margin: 0 0 1mm; line-height: 1.2; }
h2 { font-size: 12.5pt; margin: 7mm 0 2mm; border-bottom: 0.4pt solid #111; padding-bottom: 1mm; break-after: avoid; }
h3 { font-size: 10.5pt; margin: 5mm 0 1.5mm; overflow-wrap: anywhere; break-after: avoid; }
p, ul { margin: 1.5mm 0; }
ul { padding-left: 5mm; }
li { margin: 0.6mm 0; break-inside: avoid; overflow-wrap: anywhere; }
.ref { font-size: 12pt; margin: 0 0 4mm; overflow-wrap: anywhere; }
.state { border: 1pt solid #111; padding: 3mm 4mm; margin: 4mm 0; break-inside: avoid; }
.state strong { font-size: 12.5pt; }
.open { border-width: 2.5pt; }
table { width: 100%; border-collapse: collapse; margin: 2mm 0 3mm; font-size: 9.5pt; }
caption { text-align: left; padding-bottom: 1mm; }
thead { display: table-header-group; }
tr { break-inside: avoid; }
th, td { text-align: left; vertical-align: top; padding: 0.9mm 2mm 0.9mm 0; border-bottom: 0.3pt solid #999; overflow-wrap: anywhere; }
thead th { border-bottom: 0.8pt solid #111; overflow-wrap: normal; }
td.n, th.n { text-align: right; white-space: nowrap; padding-left: 2mm; padding-right: 0; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
table.facts th { width: 46mm; font-weight: normal; color: #444; }
code, .ids { font-family: "DejaVu Sans Mono", "Liberation Mono", monospace; font-size: 8.5pt; overflow-wrap: anywhere; }
.ids { columns: 2; column-gap: 5mm; list-style: none; padding: 0; font-size: 7.2pt; }
.small { font-size: 9pt; color: #333; }
@media print { html { font-size: 9.5pt; } body { padding: 0; max-width: none; } }
</style>
</head>
<body>
<h1>Erasure certificate</h1>
<p class="ref">{{.C.Request.Ref}}</p>

<div class="state{{if not .Finished}} open{{end}}">
{{if .Finished}}<p><strong>Erased from every stored snapshot, and verified.</strong></p>
<p>On {{when .C.Verified}} everything that the stores below held had been read, and nothing of the person was found by the rules.</p>
{{else}}<p><strong>Not finished.</strong> State: {{.C.State}}.</p>
<ul>{{range .C.Unfinished}}<li>Not finished: {{.}}.</li>{{end}}</ul>
{{end}}{{if .C.Unknown}}<p>Not known:</p>
<ul>{{range .C.Unknown}}<li>{{.}}</li>{{end}}</ul>
{{end}}</div>

<h2>The request</h2>
<table class="facts">
<tr><th scope="row">Reference</th><td>{{.C.Request.Ref}} (number {{.C.Request.Sequence}} of the ledger)</td></tr>
<tr><th scope="row">Kind of person</th><td>{{.C.Request.Subject}}, in the dataset {{.C.Dataset}}</td></tr>
<tr><th scope="row">Received</th><td>{{.C.Request.Received}}</td></tr>
<tr><th scope="row">Deadline, after 30 days</th><td>{{.C.Request.Deadline}}{{if .C.Request.Overdue}}, <strong>overdue</strong>{{end}}</td></tr>
<tr><th scope="row">Recorded</th><td>{{time .C.Request.Recorded}}</td></tr>
<tr><th scope="row">Left out of new snapshots</th><td>{{if .C.Effective}}since {{when .C.Effective}} at the latest{{else}}not of every store's{{end}}</td></tr>
<tr><th scope="row">Out of stored snapshots</th><td>{{if .C.Purged}}purged, {{when .C.Purged}}{{else if or .Finished (eq .C.State "purged")}}no snapshot from before is left; a purge has not noted when in every store{{else}}not yet{{end}}</td></tr>
<tr><th scope="row">Verified</th><td>{{if .C.Verified}}{{when .C.Verified}}{{else}}not yet{{end}}</td></tr>
<tr><th scope="row">This certificate</th><td>{{time .C.Issued}}</td></tr>
</table>

<h2>What purges took out of stored snapshots</h2>
{{if .C.Tables}}<table>
<caption class="small">Rows for this request, in the snapshot that had most of them. Redacted rows stay, rewritten; unlinked rows stay, and lead to nobody. Of others: deleted rows that also belonged to somebody else. A row of several erased people counts for one of them.</caption>
<thead><tr><th scope="col">Table</th><th scope="col" class="n">Deleted</th><th scope="col" class="n">Of others</th><th scope="col" class="n">Redacted</th><th scope="col" class="n">Unlinked</th><th scope="col" class="n">Snapshots</th></tr></thead>
<tbody>
{{range .C.Tables}}<tr><td>{{name .Table}}</td><td class="n">{{group .Deleted}}</td><td class="n">{{group .Others}}</td><td class="n">{{group .Redacted}}</td><td class="n">{{group .Cleared}}</td><td class="n">{{.Snapshots}}</td></tr>
{{end}}</tbody>
</table>
{{if .C.LargeObjects}}<p>{{count .C.LargeObjects "large object"}} went with these rows or with those of other requests of the same purge.</p>{{end}}
{{else}}<p>No purge has given account of rows for this request. Snapshots from before it, if there were any, have expired or held none.</p>
{{end}}

<h2>What is kept, and why</h2>
{{if .C.Kept}}<table>
<caption class="small">Today's rules keep such rows of everybody who is erased.</caption>
<thead><tr><th scope="col">Table</th><th scope="col">Theirs by</th><th scope="col">Rewritten columns</th><th scope="col">Reason</th></tr></thead>
<tbody>
{{range .C.Kept}}<tr><td>{{name .Table}}</td><td>{{if .Reference}}{{name .Reference}}{{else}}own row{{end}}</td><td>{{range $i, $c := .Redacted}}{{if $i}}, {{end}}{{name $c}}{{else}}none{{end}}</td><td>{{.Reason}}</td></tr>
{{end}}</tbody>
</table>
{{else}}<p>No rule keeps rows of erased people.</p>
{{end}}

<h2>Where it was stored</h2>
{{range .C.Stores}}<h3>{{.Store}}</h3>
{{if .Error}}<p><strong>Nothing is known of this store:</strong> {{.Error}}</p>
{{else}}<table class="facts">
<tr><th scope="row">Snapshots</th><td>{{.Snapshots}}; {{if .Unclean}}<strong>{{.Unclean}} do not honour the request</strong>{{else}}all honour the request{{end}}</td></tr>
<tr><th scope="row">Rewritten</th><td>{{len .Rewritten}}</td></tr>
<tr><th scope="row">Expired</th><td>{{len .Expired}}, of those from before the request that stored ones know</td></tr>
{{range .Purges}}<tr><th scope="row">Purged</th><td>{{time .Ended}} with Lethe {{.Tool}}, by the holder of key <code>{{.Signer}}</code>; rules <code>{{.Rules}}</code></td></tr>
{{end}}{{if .Hidden}}<tr><th scope="row">Deleted, and still kept</th><td><strong>{{.Hidden}} files that may hold the person</strong></td></tr>
{{end}}{{if .Unnamed}}<tr><th scope="row">Named by no snapshot</th><td><strong>{{.Unnamed}} objects that may hold the person</strong></td></tr>
{{end}}{{with .Proof}}<tr><th scope="row">Verified</th><td>{{time .Finished}} with Lethe {{.Tool}}, by the holder of key <code>{{.Signer}}</code>: {{count .Objects "object"}} read in full, {{bytes .Bytes}}, {{count .Rows "row"}}; {{if .Lookups}}{{count .Lookups "value"}} searched for everywhere{{else}}no values, such as names or addresses, were searched for{{end}}. {{count .Kept "row"}} of all erased people stay by a rule. Proof <code>{{.Name}}</code>; rules <code>{{.Rules}}</code></td></tr>
{{else}}<tr><th scope="row">Verified</th><td>not yet</td></tr>
{{end}}{{with .Source}}<tr><th scope="row">In the database</th><td>Rows that lead to the person, met by the backup of {{time .Started}}: {{if .Rows}}<strong>{{group .Rows}}</strong>. It left them out or rewrote them; in the database that it read they are still there{{else}}none{{end}}.</td></tr>
{{end}}</table>
{{if .Kept}}<p>What the last purge could not delete there:</p>
<ul>{{range .Kept}}<li><code>{{.Name}}</code>: {{lock .}}</li>{{end}}</ul>
{{end}}{{if .Rewritten}}<p class="small">Rewritten snapshots:</p>
<ul class="ids">{{range .Rewritten}}<li>{{.Old}}{{if .New}} → {{.New}}{{else}} (its successor is gone){{end}}</li>{{end}}</ul>
{{end}}{{if .Expired}}<p class="small">Expired snapshots:</p>
<ul class="ids">{{range .Expired}}<li>{{.}}</li>{{end}}</ul>
{{end}}{{end}}{{end}}

<h2>Copies that Lethe can't reach</h2>
<ul>{{range .C.Beyond}}<li>{{.}}</li>{{end}}</ul>

<h2>What can't be found or attributed</h2>
<ul>{{range .C.Limits}}<li>{{.}}</li>{{end}}</ul>

<h2>What this rests on</h2>
<p>On files in the stores that bear signatures: the ledger of requests, the snapshots' manifests, the accounts that purges gave, the proofs. Whoever believes this certificate believes their signers.</p>
<table class="facts">
<tr><th scope="row">Signed by</th><td><code>{{.C.Issuer}}</code></td></tr>
<tr><th scope="row">Request recorded by</th><td><code>{{.C.Request.RecordedBy}}</code></td></tr>
<tr><th scope="row">Head of the ledger</th><td><code>{{.C.Ledger.Sequence}}:{{.C.Ledger.Digest}}</code></td></tr>
<tr><th scope="row">Rules today</th><td><code>{{.C.Rules}}</code></td></tr>
<tr><th scope="row">Rules when recorded</th><td><code>{{.C.Request.Rules}}</code></td></tr>
<tr><th scope="row">Repository</th><td><code>{{.C.Repository}}</code></td></tr>
<tr><th scope="row">Lethe</th><td>{{.C.Tool}}; snapshots, purges and proofs by {{range $i, $t := .C.Tools}}{{if $i}}, {{end}}{{$t}}{{end}}</td></tr>
<tr><th scope="row">SHA-256 of the JSON</th><td><code>{{.Digest}}</code></td></tr>
</table>
<p class="small">This page and the JSON file that says the same are signed; each has a file beside it that ends in .minisig. To check one: <code>minisign -V -P {{.C.Issuer}} -m FILE</code>, once you know from elsewhere that this is the key of who should have signed. On paper this page proves nothing.</p>
</body>
</html>
`
