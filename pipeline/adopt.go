package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
)

// AdoptConfig is what it takes to take over a repository whose operator key is lost.
type AdoptConfig struct {
	Stores      []store.Store
	Unreachable []StoreResult       // stores that could not be opened: they are taken over when this is run again
	Trust       []archive.PublicKey // the lost operator, and whoever else is believed
	Identities  *archive.Identities // a key holder's
	Signer      *archive.SigningKey // a key holder's: signs everything that is written
	Recipients  *archive.Recipients // of the snapshots to come; nil: those of the newest one, where all of them are the identities' own
	Expect      *archive.LedgerHead // a head that somebody noted down; may be nil

	// Operator returns the new operator key: one that uses the repository's keys. It is called once, when everything has
	// been read and before anything is written.
	Operator func(keys *archive.RepositoryKeys) (*archive.OperatorKey, error)
	Now      func() time.Time
	Warn     func(string) // may be nil
}

// AdoptReport says what a takeover did.
type AdoptReport struct {
	Repository string              `json:"repository"`
	Operator   string              `json:"operator"`   // the new operator's public key
	Signer     string              `json:"signer"`     // the key holder's
	Recipients []string            `json:"recipients"` // of the snapshots to come
	Dataset    string              `json:"dataset,omitempty"`
	Rules      string              `json:"-"` // the text of those in the newest snapshot
	Ledger     *archive.LedgerHead `json:"ledger"`
	Erasures   int                 `json:"erasures"` // requests that are open
	Lost       []int64             `json:"lost"`     // records of open requests that are nowhere: whom they are about is not known
	Changed    bool                `json:"changed"`  // false: there was nothing to take over
	Stores     []AdoptedStore      `json:"stores"`
}

// AdoptedStore is what a takeover did in one store.
type AdoptedStore struct {
	Store    string    `json:"store"`
	Error    string    `json:"error,omitempty"` // it is as it was, or not done yet: run it again
	Resealed int       `json:"resealed"`        // snapshots that the new operator can read now
	Left     []Problem `json:"left"`            // snapshots that can't be believed, and stay as they are
	err      error
}

// Failed returns the stores that are not taken over.
func (r *AdoptReport) Failed() (failed []AdoptedStore) {
	for _, s := range r.Stores {
		if s.Error != "" {
			failed = append(failed, s)
		}
	}
	return failed
}

// Integrity returns the error of what can't be believed, or nil.
func (r *AdoptReport) Integrity() error {
	for _, s := range r.Stores {
		if errors.Is(s.err, ErrIntegrity) {
			return s.err
		}
		if len(s.Left) > 0 {
			return fail(s.Left[0].asError(), "", "%d snapshots in %s were left as they are", len(s.Left), s.Store)
		}
	}
	if len(r.Lost) > 0 {
		return lostRequests("the new operator's backups will refuse", r.Lost)
	}
	return nil
}

// Adopt makes a new operator at home in a repository whose operator key is lost. A key holder does it: only an identity
// opens what the lost operator could read, and only the key holder's signature says that the new one is to be believed.
// The keys that name pieces and key strategies go on, so that the next backup sends what has changed. What is written is
// signed by the key holder: afterwards nobody needs to trust the lost operator's line any more.
//
// In each store: requests are sealed for the new operator; a ledger's record vouches for those before it; manifests and
// accounts of purges are sealed anew, under names of their own; and last the next key file is written, without which
// no backup begins. Killed at any point it has lost nothing, and goes on when it is run again.
func Adopt(ctx context.Context, c AdoptConfig) (report *AdoptReport, err error) {
	a := &adoption{c: c}
	defer func() {
		a.release(ctx)
		err = fail(err, "", "take over the repository")
	}()
	if err := a.open(ctx); err != nil {
		return nil, err
	}
	if err := a.look(ctx); err != nil {
		return nil, err
	}
	if err := a.newOperator(); err != nil {
		return nil, err
	}
	if err := a.adoptLedger(ctx); err != nil {
		return nil, err
	}
	for _, s := range a.stores {
		if s.err == nil {
			s.err = a.adoptStore(ctx, s)
		}
		if ctx.Err() != nil {
			return nil, s.err
		}
	}
	return a.finish()
}

// adoption is one run of Adopt.
type adoption struct {
	c          AdoptConfig
	stores     []*adoptedStore
	keys       *archive.RepositoryKeys
	id         string
	newest     *archive.Manifest // of all stores, without its parts
	recipients *archive.Recipients
	operator   *archive.OperatorKey
	ledger     *ledgerRun
	changed    bool
}

// adoptedStore is one store during a takeover.
type adoptedStore struct {
	*openStore
	snapshots []adoptedSnapshot // that can be believed, oldest first
	replaced  []string          // snapshots whose successor is listed too
	heads     []*archive.LedgerHead
	resealed  int
	left      []Problem
}

// adoptedSnapshot is what a takeover remembers of a snapshot.
type adoptedSnapshot struct {
	archive.SnapshotRef
	operator string // the age key that the manifest is sealed for beside the recipients
	signer   archive.PublicKey
}

func (a *adoption) warn(msg string) {
	if a.c.Warn != nil {
		a.c.Warn(msg)
	}
}

func (a *adoption) release(ctx context.Context) {
	a.ledger.Close()
	for _, s := range a.stores {
		if s.lease == nil {
			continue
		}
		if err := s.lease.Release(ctx); err != nil {
			a.warn(fmt.Sprintf("the lease in %s stays until it runs out: %v", s.s, err))
		}
	}
}

// open takes the leases and opens the key files, which have to hold the same keys everywhere.
func (a *adoption) open(ctx context.Context) error {
	trust := archive.NewTrust(a.c.Trust...).With(a.c.Signer.Public())
	for _, in := range a.c.Stores {
		s := &adoptedStore{openStore: &openStore{s: in}, left: []Problem{}}
		a.stores = append(a.stores, s)
		if s.err = a.openOne(ctx, s, trust); errors.Is(s.err, ErrLocked) || ctx.Err() != nil {
			return s.err
		}
	}
	return a.anyLeft()
}

func (a *adoption) openOne(ctx context.Context, s *adoptedStore, trust *archive.Trust) (err error) {
	if s.repo, err = OpenRepository(ctx, s.s, trust); err != nil {
		return err
	}
	if a.id != "" && s.repo.ID != a.id {
		return fail(configuration(fmt.Errorf("it holds repository %s, and the stores before it hold %s", s.repo.ID, a.id)),
			"all stores of one lethe.yml hold one repository", "open %s", s.s)
	}
	if s.lease, err = acquire(ctx, s.s, "init", a.c.Now); err != nil {
		return err
	}
	keys, err := s.repo.keys(ctx, a.c.Identities)
	if errors.Is(err, archive.ErrUntrustedSigner) {
		return fail(err, "--trust RW… with the line of the operator whose key is lost; it stands on the key holder's card as `made by`", "")
	}
	if err != nil {
		return err
	}
	if a.keys == nil {
		a.keys, a.id = keys, s.repo.ID
	} else if !a.keys.PieceID.Equal(keys.PieceID) || !a.keys.Strategy.Equal(keys.Strategy) {
		return integrity(fmt.Errorf("the key file in %s holds other keys than that of the stores before it", s.s))
	}
	return nil
}

// anyLeft is the error when every store failed.
func (a *adoption) anyLeft() error {
	stores := a.openStores()
	if slices.ContainsFunc(stores, func(s *openStore) bool { return s.err == nil }) {
		return nil
	}
	return noStore(stores)
}

func (a *adoption) openStores() (stores []*openStore) {
	for _, s := range a.stores {
		stores = append(stores, s.openStore)
	}
	return stores
}

// look reads every manifest. One that can't be believed stays as it is, and is named.
func (a *adoption) look(ctx context.Context) error {
	for _, s := range a.stores {
		if s.err == nil {
			s.err = a.lookInto(ctx, s)
		}
		if ctx.Err() != nil {
			return s.err
		}
	}
	if err := a.anyLeft(); err != nil {
		return err
	}
	if a.recipients = a.c.Recipients; a.recipients == nil {
		if a.newest == nil {
			return fail(configuration(errors.New("there is no snapshot that says who may read the next ones")), "--recipient age1… with the key holder's public key", "")
		}
		own := a.c.Identities.Recipients()
		if stranger := slices.ContainsFunc(a.newest.Recipients, func(r string) bool { return !slices.Contains(own, r) }); stranger {
			return fail(configuration(fmt.Errorf("not all recipients of the newest snapshot, %s, belong to the identity", a.newest.ID)),
				fmt.Sprintf("say who may read the next ones: --recipient KEY for each that is right of %q", a.newest.Recipients), "")
		}
		var err error
		if a.recipients, err = archive.ParseRecipients(a.newest.Recipients, ""); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(a.recipients.Strings(), func(r string) bool { return slices.Contains(a.c.Identities.Recipients(), r) }) {
		return fail(configuration(errors.New("none of the recipients is the identity's own, so it could not read the snapshots to come")), "name its public key, too", "")
	}
	return nil
}

func (a *adoption) lookInto(ctx context.Context, s *adoptedStore) error {
	list, err := s.repo.Snapshots(ctx)
	if err != nil {
		return err
	}
	var newest *archive.Manifest
	var first error
	digests := map[string]string{}
	for _, l := range list {
		m, digest, signer, err := s.repo.manifestBy(ctx, l.ID, a.c.Identities)
		switch {
		case errors.Is(err, ErrIntegrity), errors.Is(err, archive.ErrNoIdentity):
			s.left = append(s.left, Problem{Snapshot: l.ID, Problem: err.Error()})
			if first == nil {
				first = err
			}
			continue
		case isNotFound(err): // somebody deletes without a lease
			continue
		case err != nil:
			return err
		}
		newest, digests[l.ID] = m, digest
		s.snapshots = append(s.snapshots, adoptedSnapshot{archive.SnapshotRef{ID: l.ID, Digest: digest}, m.Operator, signer})
		if m.Ledger != nil {
			s.heads = append(s.heads, m.Ledger)
			if s.head == nil || m.Ledger.Sequence > s.head.Sequence {
				s.head = m.Ledger
			}
		}
	}
	if newest == nil {
		return fail(first, "", "none of %d snapshots in %s can be believed", len(list), s.s)
	}
	for _, p := range (Retention{}).betrayals(newest, digests, nil, time.Time{}) { // the key holder's signature must not make a swapped one good
		s.left = append(s.left, p)
		s.snapshots = slices.DeleteFunc(s.snapshots, func(snap adoptedSnapshot) bool { return snap.ID == p.Snapshot })
	}
	ids := make([]string, len(s.snapshots))
	for i, snap := range s.snapshots {
		ids[i] = snap.ID
	}
	by, err := s.repo.superseded(ctx, ids, a.c.Identities)
	if err != nil {
		return err
	}
	s.snapshots = slices.DeleteFunc(s.snapshots, func(snap adoptedSnapshot) bool {
		if by[snap.ID] != "" {
			s.replaced = append(s.replaced, snap.ID)
		}
		return by[snap.ID] != ""
	})
	if newest.Parts = nil; a.newest == nil || newest.ID > a.newest.ID {
		a.newest = newest
	}
	return nil
}

// newOperator gets the new operator key, and believes what it has signed: this may be another run.
func (a *adoption) newOperator() (err error) {
	if a.operator, err = a.c.Operator(a.keys); err != nil {
		return err
	}
	if !a.operator.PieceID.Equal(a.keys.PieceID) || !a.operator.Strategy.Equal(a.keys.Strategy) {
		return fail(configuration(errors.New("the operator key that is here is that of another repository, or was made by itself")),
			"move it away: a new one is made, with this repository's keys", "")
	}
	if _, err := a.recipients.WithOperator(a.operator); err != nil {
		return err
	}
	for _, s := range a.stores {
		if s.repo != nil {
			s.repo.trust = s.repo.trust.With(a.operator.Public())
		}
	}
	return nil
}

// ours says whether somebody has signed who is trusted when the lost operator no more is.
func (a *adoption) ours(signer archive.PublicKey) bool {
	return signer == a.c.Signer.Public() || signer == a.operator.Public()
}

// adoptLedger brings all ledgers to one head, with every open request sealed for the new operator, and vouches for the
// records of the lost one.
func (a *adoption) adoptLedger(ctx context.Context) (err error) {
	c := BackupConfig{Recipients: a.recipients, Operator: a.operator, Now: a.c.Now, Warn: a.c.Warn, holder: a.c.Identities, signer: a.c.Signer}
	before := map[string]bool{}
	for _, s := range a.stores {
		if s.err == nil {
			if err := a.sealedHere(ctx, s, before); err != nil {
				s.err = err
			}
		}
	}
	if a.ledger, err = c.syncLedger(ctx, a.openStores(), true); err != nil {
		return err
	}
	after := map[string]bool{}
	for _, s := range a.stores {
		if s.err != nil {
			continue
		}
		for _, head := range s.heads {
			if err := a.ledger.ledger.Holds(head); err != nil {
				return fail(err, "lethe help ledger tells what to do", "compare the ledger with what the snapshots in %s know", s.s)
			}
		}
		if err := a.sealedHere(ctx, s, after); err != nil {
			return err
		}
	}
	for name := range after {
		a.changed = a.changed || !before[name]
	}
	if err := a.ledger.ledger.Holds(a.c.Expect); err != nil {
		return fail(err, "lethe help ledger tells what to do", "compare the ledger with the head that was expected, %s", a.c.Expect)
	}
	if a.vouched() {
		return nil
	}
	a.changed = true
	return a.ledger.append(ctx, a.ledger.ledger.Head().Next(archive.AdoptedRecord), nil)
}

// sealedHere notes the files of a store's ledger.
func (a *adoption) sealedHere(ctx context.Context, s *adoptedStore, names map[string]bool) error {
	return s.s.List(ctx, archive.LedgerPrefix, func(i store.Info) error {
		names[s.s.String()+" "+i.Name] = true
		return nil
	})
}

// vouched reports whether the ledger is believed without the lost operator.
func (a *adoption) vouched() bool {
	for _, e := range slices.Backward(a.ledger.ledger.Records) {
		switch {
		case !a.ours(e.Signer):
			return false
		case e.Kind == archive.AdoptedRecord:
			return true
		}
	}
	return true
}

// adoptStore makes everything else in a store the new operator's. The key file is the commit.
func (a *adoption) adoptStore(ctx context.Context, s *adoptedStore) (err error) {
	defer func() {
		err = fail(err, "run it again: it goes on where this run stopped, and nothing is lost", "take over %s", s.s)
	}()
	for _, id := range s.replaced {
		a.changed = true
		if err := s.drop(ctx, archive.ManifestName(id)); err != nil {
			return err
		}
	}
	if err := a.resealSnapshots(ctx, s); err != nil {
		return err
	}
	if err := a.resealExpiring(ctx, s); err != nil {
		return err
	}
	if err := a.resealAccounts(ctx, s); err != nil {
		return err
	}
	return a.writeKeys(ctx, s)
}

// drop deletes a file that another one stands for, and its signature, which counts for nothing alone.
func (s *adoptedStore) drop(ctx context.Context, name string) error {
	for _, file := range []string{name, name + archive.SignatureSuffix} {
		if err := s.lease.stands(); err != nil {
			return err
		}
		if err := s.s.Delete(ctx, file); err != nil && !isNotFound(err) {
			return err
		}
	}
	return nil
}

// resealSnapshots writes each manifest anew for the new operator, as a successor that names the same objects.
func (a *adoption) resealSnapshots(ctx context.Context, s *adoptedStore) error {
	list, err := s.repo.Snapshots(ctx)
	if err != nil {
		return err
	}
	taken := idsOf(list)
	gone := slices.Clone(s.replaced)
	for _, snap := range s.snapshots { // the oldest first, so that the newest knows all the others
		if a.ours(snap.signer) && slices.Contains(a.operator.Identities().Recipients(), snap.operator) {
			continue
		}
		m, digest, err := s.repo.manifest(ctx, snap.ID, a.c.Identities)
		if err != nil {
			return err
		}
		if digest != snap.Digest {
			return integrity(fmt.Errorf("the manifest of %s is not the one that was read before", snap.ID))
		}
		id, err := archive.SuccessorID(snap.ID, func(id string) bool { return slices.Contains(taken, id) })
		if err != nil {
			return err
		}
		gone, taken = append(gone, snap.ID), append(taken, id)
		alive, err := s.repo.alive(ctx, a.warn)
		if err != nil {
			return err
		}
		for _, ref := range m.Alive { // of those that have expired since, it goes on telling
			if !slices.Contains(taken, ref.ID) && !slices.Contains(gone, ref.ID) {
				alive = append(alive, ref)
			}
		}
		m.Alive = slices.DeleteFunc(alive, func(ref archive.SnapshotRef) bool { return slices.Contains(gone, ref.ID) || ref.ID == id })
		m.Resealed = append([]archive.SnapshotRef{snap.SnapshotRef}, m.Resealed...)
		m.ID = id
		data, _, err := archive.ResealManifest(m, a.operator)
		if err != nil {
			return err
		}
		a.changed = true
		if err := s.repo.commit(ctx, s.lease, a.c.Signer, id, data); err != nil {
			return err
		}
		if err := s.drop(ctx, archive.ManifestName(snap.ID)); err != nil {
			return err
		}
		s.resealed++
	}
	return nil
}

// resealExpiring does the same for snapshots that an interrupted expire or purge has taken from the list, so that the new
// operator's can end it.
func (a *adoption) resealExpiring(ctx context.Context, s *adoptedStore) error {
	moved, err := s.repo.expiring(ctx)
	if err != nil {
		return err
	}
	for _, id := range moved {
		file := expiredName(id)
		m, digest, err := s.repo.manifestUnder(ctx, file, id, a.c.Identities)
		if err == nil && slices.Contains(a.operator.Identities().Recipients(), m.Operator) {
			continue
		}
		if err != nil {
			return fail(err, "if it is damaged, delete the file: the objects that it alone names then stay until lethe expire --leftovers", "take up %s", file)
		}
		next, err := archive.SuccessorID(id, func(id string) bool { return slices.Contains(moved, id) })
		if err != nil {
			return err
		}
		m.ID, m.Resealed = next, append([]archive.SnapshotRef{{ID: id, Digest: digest}}, m.Resealed...)
		m.Alive = slices.DeleteFunc(m.Alive, func(ref archive.SnapshotRef) bool { return ref.ID == next })
		data, _, err := archive.ResealManifest(m, a.operator)
		if err != nil {
			return err
		}
		sig, err := archive.Sign(a.c.Signer, archive.PurposeManifest, s.repo.ID, archive.ManifestName(next), data)
		if err != nil {
			return err
		}
		a.changed = true
		if err := s.repo.putExpiring(ctx, next, data, sig, s.lease); err != nil {
			return err
		}
		if err := s.drop(ctx, file); err != nil {
			return err
		}
	}
	return nil
}

// resealAccounts does the same for the accounts of purges, for the new operator's certificates.
func (a *adoption) resealAccounts(ctx context.Context, s *adoptedStore) error {
	all, err := s.repo.accounts(ctx, a.c.Identities)
	if err != nil || len(all) == 0 {
		return err
	}
	readable, err := s.repo.accounts(ctx, a.operator.Identities())
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, account := range readable {
		known[account.ID] = true
	}
	readers := archive.Manifest{Recipients: a.recipients.Strings()}
	for _, own := range a.operator.Identities().Recipients() { // the one of the recipients' kind
		if _, err := archive.ParseRecipients(append([]string{own}, readers.Recipients...), ""); err == nil {
			readers.Operator = own
		}
	}
	for _, account := range all {
		if known[account.ID] {
			continue
		}
		old := archive.AccountName(account.ID)
		next, err := archive.SuccessorID(account.ID, func(string) bool { return false })
		if err != nil {
			return err
		}
		a.changed = true
		if !known[next] {
			account.ID = next
			data, err := archive.WriteAccount(account.PurgeAccount, &readers)
			if err != nil {
				return err
			}
			if err := s.lease.Renew(ctx); err != nil {
				return err
			}
			if err := s.repo.putSigned(ctx, a.c.Signer, archive.PurposePurge, archive.AccountName(next), data); err != nil {
				return err
			}
		}
		if err := s.drop(ctx, old); err != nil {
			return err
		}
	}
	return nil
}

// writeKeys writes the next key file, which the new operator can open, signed by the key holder.
func (a *adoption) writeKeys(ctx context.Context, s *adoptedStore) error {
	f, err := s.repo.keyFile(ctx)
	if err != nil {
		return err
	}
	if _, err := archive.ReadKeys(a.id, f.name, f.data, a.operator.Identities()); err == nil && a.ours(f.signer) {
		return nil
	}
	if f.next > archive.MaxKeys {
		return errors.New("there is no number left for another key file")
	}
	data, err := archive.WriteKeys(a.id, a.operator, a.recipients)
	if err != nil {
		return err
	}
	a.changed = true
	if err := s.lease.Renew(ctx); err != nil {
		return err
	}
	return s.repo.putSigned(ctx, a.c.Signer, archive.PurposeKeys, archive.KeysNameOf(f.next), data)
}

func (a *adoption) finish() (*AdoptReport, error) {
	if err := a.anyLeft(); err != nil {
		return nil, err
	}
	r := &AdoptReport{Repository: a.id, Operator: a.operator.Public().String(), Signer: a.c.Signer.Public().String(), Recipients: a.recipients.Strings(),
		Ledger: a.ledger.ledger.Head(), Erasures: len(a.ledger.ledger.Open()), Lost: append([]int64{}, a.ledger.lost...), Changed: a.changed, Stores: []AdoptedStore{}}
	if a.newest != nil {
		r.Dataset, r.Rules = a.newest.Dataset, a.newest.Rules.Text
	}
	for _, s := range a.stores {
		out := AdoptedStore{Store: s.s.String(), Resealed: s.resealed, Left: s.left, err: s.err}
		if s.err != nil {
			out.Error = s.err.Error()
		}
		r.Stores = append(r.Stores, out)
	}
	for _, u := range a.c.Unreachable {
		r.Stores = append(r.Stores, AdoptedStore{Store: u.Store, Error: u.Error, Left: []Problem{}})
	}
	return r, nil
}
