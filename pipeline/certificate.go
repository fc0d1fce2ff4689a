package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lethe/pipeline/archive"
	"lethe/rules"
)

// CertificateConfig is what a certificate needs: a look at the erasures, and whose.
type CertificateConfig struct {
	ErasuresConfig
	Ref    string // of the request
	Issuer archive.PublicKey
	Tool   string
}

// Certify says what became of one request, as far as signed files in the stores show it: manifests, the ledger, accounts
// of purges, proofs. What is not done is said to be not done. It has to be made before the request is closed: afterwards
// nobody can tell what it was.
func Certify(ctx context.Context, c CertificateConfig) (cert *archive.Certificate, err error) {
	defer func() { err = fail(err, "", "certify %s", c.Ref) }()
	look, err := c.look(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(look.report.Requests, func(e Erasure) bool { return e.Ref == c.Ref && e.Stage != Closed })
	if i < 0 {
		return nil, fail(configuration(errors.New("the ledger holds no such open request")),
			"lethe erasure list shows them; of one that is closed the certificate was to be made before", "")
	}
	e := look.report.Requests[i]
	record := &look.ledger.Records[e.Sequence-1]
	if record.Request == nil {
		return nil, fail(integrity(errors.New("its sealed request can't be read")), "lethe help ledger tells what to do", "")
	}
	r := record.Request
	cert = &archive.Certificate{Issued: c.Now(), Issuer: c.Issuer.String(), Tool: c.Tool, Repository: r.Repository, State: string(e.Stage), Ledger: look.report.Ledger,
		Request: archive.CertifiedRequest{Sequence: e.Sequence, Ref: r.Ref, Subject: r.Subject, Received: e.Received, Deadline: e.Deadline, Overdue: e.Overdue,
			Recorded: r.Recorded, RecordedBy: r.Signer.String(), Rules: r.Rules},
		Beyond: []string{
			"The live database: Lethe only reads it. Deleting there is the application's.",
			"Replicas and WAL archives of the database, dump files and exports.",
			"Copies that somebody has made of a store, databases that were restored from a snapshot, downloads, mail, logs.",
		},
		Limits: []string{
			"Rows from which nothing leads to the person any more can't be attributed to them: links that were gone before the request stay unknown.",
			"Free text of other people, in columns that no rule names, stays. Verifying finds in it only the values that it was given.",
			"What the application compressed or encrypted inside the database is not looked into.",
		}}
	d := &certifying{c: &c, cert: cert, request: record, tables: map[string]*archive.CertifiedTable{}}
	for _, k := range look.keepers {
		if err := d.store(ctx, k); err != nil {
			return nil, err
		}
	}
	for _, u := range c.Unreachable {
		cert.Stores = append(cert.Stores, archive.CertifiedStore{Store: u.Store, Error: u.Error})
	}
	if e.Unfit {
		cert.Unfinished = append(cert.Unfinished, "the newest backup could take nobody out for it: its key is no value of the key column. Record the right one under another reference")
	}
	return cert, d.conclude()
}

// certifying is one run of Certify.
type certifying struct {
	c       *CertificateConfig
	cert    *archive.Certificate
	request *LedgerEntry
	newest  *archive.Manifest // of all stores, without its parts
	tables  map[string]*archive.CertifiedTable

	effective, purged, verified []*time.Time // by store
}

// store says what is known of one store.
func (d *certifying) store(ctx context.Context, k *keeper) error {
	out := archive.CertifiedStore{Store: k.r.Store.String()}
	defer func() { d.cert.Stores = append(d.cert.Stores, out) }()
	if k.err != nil {
		out.Error = k.err.Error()
		return nil
	}
	sequence := d.request.Sequence
	out.Snapshots, out.Hidden, out.Unnamed = len(k.snapshots), k.hiding(d.request), k.stray(d.request)
	if k.unseen != nil && k.concerned(d.request) {
		d.cert.Unknown = append(d.cert.Unknown, fmt.Sprintf("whether %s keeps deleted files: %v", out.Store, k.unseen))
	}
	if n := k.byOtherRules(); n > 0 && d.cert.State == string(Purged) {
		d.cert.Unknown = append(d.cert.Unknown, fmt.Sprintf("whether the %d of %d snapshots in %s that have erased by other rules than today's hold what those reach", n, len(k.snapshots), out.Store))
	}
	known := map[string]bool{}      // ids that stored manifests tell of
	stored := map[string]bool{}     // ids that are stored
	next := map[string]string{}     // by the digest of a manifest that was replaced: the id of the one that is stored
	replaced := map[string]bool{}   // ids that were
	var effective *time.Time        // the first backup that is stored and honours it
	for _, s := range k.snapshots { // newest first
		stored[s.id] = true
		if s.honour < sequence {
			out.Unclean++
		}
		m, err := d.manifest(ctx, k.r, &s)
		if err != nil {
			return err
		}
		for _, ref := range m.Alive {
			known[ref.ID] = true
		}
		for _, ref := range m.Replaces() {
			next[ref.Digest], replaced[ref.ID] = s.id, true
		}
		if s.honour >= sequence && !s.leaving && !s.started.Before(d.request.Request.Recorded) {
			started := s.started
			effective = &started
			if out.Source == nil {
				out.Source = &archive.CertifiedSource{Snapshot: s.id, Started: s.started}
				for _, met := range s.met {
					if met.Sequence == sequence {
						out.Source.Rows = met.Rows
					}
				}
			}
		}
	}
	d.effective = append(d.effective, effective)
	if err := d.purges(ctx, k, &out, next, known, replaced); err != nil {
		return err
	}
	for id := range known {
		if !stored[id] && !replaced[id] && !archive.SnapshotTime(id).After(d.request.Request.Recorded) {
			out.Expired = append(out.Expired, id)
		}
	}
	slices.Sort(out.Expired)
	return d.proof(ctx, k, &out)
}

// manifest reads a manifest for what it knows of others.
func (d *certifying) manifest(ctx context.Context, r *Repository, s *storedSnapshot) (*archive.Manifest, error) {
	file := archive.ManifestName(s.id)
	if s.leaving {
		file = expiredName(s.id)
	}
	m, _, err := r.manifestUnder(ctx, file, s.id, d.c.Readers)
	if isNotFound(err) {
		return nil, fail(err, "snapshots go while this looks at them: run it again", "")
	}
	if errors.Is(err, archive.ErrNoIdentity) {
		return &archive.Manifest{}, nil // it counts as one that honours nothing
	}
	if err != nil {
		return nil, err
	}
	d.tool(m.Tool)
	if !s.leaving && (d.newest == nil || m.ID > d.newest.ID) {
		m.Parts = nil
		d.newest = m
	}
	return m, nil
}

func (d *certifying) tool(version string) {
	if version != "" && !slices.Contains(d.cert.Tools, version) {
		d.cert.Tools = append(d.cert.Tools, version)
	}
}

// purges sums up what the accounts of purges say: each snapshot that was replaced counts once, however often it was told.
func (d *certifying) purges(ctx context.Context, k *keeper, out *archive.CertifiedStore, next map[string]string, known, replaced map[string]bool) error {
	accounts, err := k.r.accounts(ctx, d.c.Readers)
	if err != nil {
		return err
	}
	stored := map[string]bool{}
	for _, s := range k.snapshots {
		stored[s.id] = true
	}
	told := map[string]bool{}
	tables := map[string]int{}
	began := false
	var purged *time.Time
	for _, a := range accounts {
		if a.Swept != nil {
			if began {
				out.Purges = append(out.Purges, archive.CertifiedPurge{Ended: a.Written.Truncate(time.Second), Signer: a.signer.String(), Tool: a.Tool, Rules: a.Rules})
				d.tool(a.Tool)
			}
			began = false
			if a.Swept.Honoured >= d.request.Sequence {
				out.Kept = a.Swept.Kept
				if a.Swept.All() && purged == nil {
					ended := a.Written.Truncate(time.Second)
					purged = &ended
				}
			}
			continue
		}
		for _, s := range a.Snapshots {
			at := slices.IndexFunc(s.Requests, func(r archive.PurgedRequest) bool { return r.Sequence == d.request.Sequence })
			if at < 0 {
				continue
			}
			began = true
			if told[s.Digest] || stored[s.ID] { // told before; or that purge was killed before it came to it
				continue
			}
			told[s.Digest] = true
			replaced[s.ID] = true
			out.Rewritten = append(out.Rewritten, archive.CertifiedSuccessor{Old: s.ID, New: next[s.Digest]})
			for _, t := range s.Requests[at].Tables {
				d.add(t)
				tables[t.Table]++
			}
			d.cert.LargeObjects = max(d.cert.LargeObjects, s.LargeObjects)
		}
	}
	for table, n := range tables {
		d.tables[table].Snapshots = max(d.tables[table].Snapshots, n)
	}
	d.purged = append(d.purged, purged)
	return nil
}

// add takes in what one snapshot lost of one table: the one that lost most is told.
func (d *certifying) add(t archive.PurgedTable) {
	have := d.tables[t.Table]
	if have == nil {
		have = &archive.CertifiedTable{}
		d.tables[t.Table] = have
	}
	if rows := func(t archive.PurgedTable) int64 { return t.Deleted + t.Redacted + t.Cleared }; rows(t) >= rows(have.PurgedTable) {
		have.PurgedTable = t
	}
}

// proof finds the first proof that holds for what the store has today.
func (d *certifying) proof(ctx context.Context, k *keeper, out *archive.CertifiedStore) error {
	proven, err := k.r.proven(ctx, d.c.Readers)
	if err != nil {
		return err
	}
	p := proven[d.request.Sequence]
	if p.Proof == nil {
		d.verified = append(d.verified, nil)
		return nil
	}
	d.tool(p.Tool)
	d.verified = append(d.verified, &p.Finished)
	out.Proof = &archive.CertifiedProof{Name: p.name, Finished: p.Finished, Signer: p.signer.String(), Tool: p.Tool, Rules: p.Rules,
		Objects: p.Objects, Bytes: p.Bytes, Rows: p.Rows, Kept: p.Kept, Lookups: p.Lookups}
	return nil
}

// last is the latest of times, nil where one is not known.
func last(times []*time.Time) (latest *time.Time) {
	for _, t := range times {
		if t == nil {
			return nil
		}
		if latest == nil || t.After(*latest) {
			latest = t
		}
	}
	return latest
}

// conclude says what follows for all stores together, and what is left to do.
func (d *certifying) conclude() error {
	cert := d.cert
	if d.newest == nil {
		return fail(errors.New("no store has a snapshot that can be read"), "lethe list shows what the stores hold", "")
	}
	today, err := parseStoredRules(d.newest)
	if err != nil {
		return err
	}
	cert.Dataset, cert.Rules, cert.Kept = d.newest.Dataset, d.newest.Rules.Digest, keptBy(today)
	slices.Sort(cert.Tools)
	for _, t := range d.tables {
		cert.Tables = append(cert.Tables, *t)
	}
	slices.SortFunc(cert.Tables, func(a, b archive.CertifiedTable) int { return cmp.Compare(a.Table, b.Table) })
	stage := ErasureStage(cert.State)
	unfinished := func(format string, args ...any) {
		cert.Unfinished = append(cert.Unfinished, fmt.Sprintf(format, args...))
	}
	proven := true
	for _, s := range cert.Stores {
		switch {
		case s.Error != "":
			unfinished("nothing is known of %s", s.Store)
		case s.Unclean > 0:
			unfinished("%s has %d of %d snapshots that do not honour the request: they hold what they held when they were taken", s.Store, s.Unclean, s.Snapshots)
		case s.Hidden > 0:
			unfinished("%s keeps %d deleted files that may hold the person", s.Store, s.Hidden)
		}
		if s.Unnamed > 0 {
			unfinished("%s has %d objects that no snapshot names and that may hold the person", s.Store, s.Unnamed)
		}
		proven = proven && s.Proof != nil
	}
	if stage == Recorded && len(cert.Unfinished) == 0 {
		unfinished("not every store has a snapshot that honours the request")
	}
	if stage == Purged && !proven {
		unfinished("nobody has verified it: read everything that is stored, and looked for the person")
	}
	if stage != Recorded {
		cert.Effective = last(d.effective)
	}
	if stage == Purged || stage == Verified {
		cert.Purged = last(d.purged)
	}
	if stage == Verified {
		cert.Verified = last(d.verified)
		if cert.Verified == nil { // a proof went while this looked
			cert.State = string(Purged)
			unfinished("what verified it has changed meanwhile: run it again")
		}
	} else if len(cert.Unfinished) == 0 {
		unfinished("it is not verified")
	}
	return nil
}

// keptBy lists the rules that keep rows of erased people.
func keptBy(f *rules.File) (kept []archive.CertifiedKeep) {
	for _, e := range f.Erase {
		var redacted []string
		for _, r := range e.Redact {
			redacted = append(redacted, r.Column)
		}
		for _, columns := range e.Keep {
			kept = append(kept, archive.CertifiedKeep{Table: e.Table.String(), Reference: columns.String(), Redacted: redacted, Reason: e.Reason})
		}
		if isSubject := slices.ContainsFunc(f.Subjects, func(s rules.Subject) bool { return s.Table == e.Table }); isSubject && !e.Subject && len(e.Redact) > 0 {
			kept = append(kept, archive.CertifiedKeep{Table: e.Table.String(), Redacted: redacted, Reason: cmp.Or(e.Reason, "the person's own row stays, as nobody's")})
		}
	}
	slices.SortFunc(kept, func(a, b archive.CertifiedKeep) int {
		return strings.Compare(a.Table+"\x00"+a.Reference, b.Table+"\x00"+b.Reference)
	})
	return kept
}
