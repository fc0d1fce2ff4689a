package pipeline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lethe/pipeline/archive"
	"lethe/pipeline/store"
)

// Limits on what is read whole from a store that may lie.
const (
	maxSmall    = 64 << 10
	maxManifest = 1 << 30
)

// Repository is one store's copy of a repository, opened by somebody who trusts certain signers.
type Repository struct {
	Store store.Store
	ID    string
	trust *archive.Trust
}

// Listed is a snapshot as the store's listing shows it: committed, not yet verified.
type Listed struct {
	ID       string
	Modified time.Time
	Size     int64 // of the manifest
}

func isNotFound(err error) bool { return errors.Is(err, store.ErrNotFound) }

// OpenRepository reads what the store holds. trust names the signers whose manifests will be believed.
func OpenRepository(ctx context.Context, s store.Store, trust *archive.Trust) (*Repository, error) {
	data, err := store.ReadAll(ctx, s, archive.RepositoryName, maxSmall)
	if isNotFound(err) {
		return nil, fail(configuration(errors.New("there is no repository")), "lethe init makes one; is the address right, is the disk mounted?", "open %s", s)
	}
	if err != nil {
		return nil, fail(err, "", "open %s", s)
	}
	r, err := archive.ParseRepository(data)
	if err != nil {
		return nil, fail(err, "", "open %s", s)
	}
	return &Repository{Store: s, ID: r.Repository, trust: trust}, nil
}

// InitRepository makes the repository in a store, or takes the one that is there. id is "" for a new one. It is safe to
// run again. trusted are signers besides the operator: a repository that was taken over has a key holder's signature.
func InitRepository(ctx context.Context, s store.Store, id string, op *archive.OperatorKey, recipients *archive.Recipients, trusted ...archive.PublicKey) (r *Repository, created bool, err error) {
	trust := archive.NewTrust(trusted...).With(op.Public())
	r, err = OpenRepository(ctx, s, trust)
	switch {
	case err == nil && id != "" && r.ID != id:
		return nil, false, fail(configuration(fmt.Errorf("it holds another repository (%s, not %s)", r.ID, id)),
			"give each repository a directory of its own", "init %s", s)
	case err == nil:
	case errors.Is(err, ErrConfig):
		made, err := archive.NewRepository()
		if err != nil {
			return nil, false, err
		}
		if id != "" {
			made.Repository = id
		}
		data, err := made.Encode()
		if err != nil {
			return nil, false, err
		}
		if err := s.Put(ctx, archive.RepositoryName, data); err != nil {
			return nil, false, fail(err, "", "init %s", s)
		}
		r, created = &Repository{Store: s, ID: made.Repository, trust: trust}, true
	default:
		return nil, false, err
	}
	if _, err := r.keys(ctx, op.Identities()); !isNotFound(err) {
		return r, created, err
	}
	data, err := archive.WriteKeys(r.ID, op, recipients)
	if err != nil {
		return nil, false, err
	}
	if err := r.putSigned(ctx, op.Signing, archive.PurposeKeys, archive.KeysName, data); err != nil {
		return nil, false, fail(err, "", "init %s", s)
	}
	return r, created, nil
}

// putSigned writes the signature first, then the file: a reader that sees the file finds its signature. Nil means that
// both are there; an error, as far as the store can still be asked, that the file is not.
func (r *Repository) putSigned(ctx context.Context, key *archive.SigningKey, purpose archive.Purpose, name string, data []byte) error {
	sig, err := archive.Sign(key, purpose, r.ID, name, data)
	if err != nil {
		return err
	}
	sigName := name + archive.SignatureSuffix
	err = r.Store.Put(ctx, sigName, sig)
	if errors.Is(err, store.ErrExists) { // left by a run that was killed between the two
		if _, statErr := r.Store.Stat(ctx, name); isNotFound(statErr) {
			if err = r.Store.Delete(ctx, sigName); err == nil {
				err = r.Store.Put(ctx, sigName, sig)
			}
		}
	}
	if err != nil {
		return err
	}
	return r.putSure(ctx, name, data)
}

// putSure writes a file that is a commit. Nil means that it is there; an error, as far as the store can still be asked,
// that it is not.
func (r *Repository) putSure(ctx context.Context, name string, data []byte) error {
	err := store.PutSame(ctx, r.Store, name, data)
	if err == nil || errors.Is(err, store.ErrExists) {
		return err
	}
	// It may be there all the same: an answer was lost, or ctx ended just then. What is there is the commit.
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if there, lookErr := store.ReadAll(look, r.Store, name, int64(len(data))); lookErr == nil && bytes.Equal(there, data) {
		return nil
	}
	return err
}

// readSigned returns a file whose signature by a trusted signer holds.
func (r *Repository) readSigned(ctx context.Context, purpose archive.Purpose, name string, limit int64) ([]byte, archive.PublicKey, error) {
	data, err := store.ReadAll(ctx, r.Store, name, limit)
	if err != nil {
		return nil, archive.PublicKey{}, err
	}
	sig, err := store.ReadAll(ctx, r.Store, name+archive.SignatureSuffix, maxSmall)
	if isNotFound(err) {
		return nil, archive.PublicKey{}, &Error{Op: name, Err: integrity(errors.New("it has no signature")),
			Help: "another store may hold a good copy"}
	}
	if err != nil {
		return nil, archive.PublicKey{}, err
	}
	signer, err := r.trust.Verify(purpose, r.ID, name, data, sig)
	return data, signer, err
}

// keys opens the key file that counts.
func (r *Repository) keys(ctx context.Context, ids *archive.Identities) (*archive.RepositoryKeys, error) {
	f, err := r.keyFile(ctx)
	if err != nil {
		return nil, fail(err, "", "read the repository's keys in %s", r.Store)
	}
	keys, err := archive.ReadKeys(r.ID, f.name, f.data, ids)
	return keys, fail(err, "", "read the repository's keys in %s", r.Store)
}

// keyFile is the key file that counts in a store.
type keyFile struct {
	name   string
	data   []byte
	signer archive.PublicKey
	next   int     // the number after the highest that is there
	beyond []error // what is wrong with files of a higher number
}

// keyFile finds the key file that counts: of those that a trusted signer has signed, the one with the highest number. A
// takeover writes the next one, and whoever trusts the lost operator no more has no use for the ones before.
func (r *Repository) keyFile(ctx context.Context) (f keyFile, err error) {
	var numbers []int
	err = r.Store.List(ctx, archive.KeysPrefix, func(i store.Info) error {
		if n, ok := archive.KeysOf(i.Name); ok {
			numbers = append(numbers, n)
		}
		return nil
	})
	if err != nil {
		return f, err
	}
	if len(numbers) == 0 {
		return f, fmt.Errorf("%s: %w", archive.KeysName, store.ErrNotFound)
	}
	slices.Sort(numbers)
	f.next = numbers[len(numbers)-1] + 1
	for _, n := range slices.Backward(numbers) {
		f.name = archive.KeysNameOf(n)
		f.data, f.signer, err = r.readSigned(ctx, archive.PurposeKeys, f.name, maxSmall)
		if !errors.Is(err, ErrIntegrity) {
			return f, err
		}
		f.beyond = append(f.beyond, err)
	}
	return f, f.beyond[0]
}

// belongsTo makes sure that a snapshot by this operator would be at home here: the repository's id is the one that its
// key file was signed for, and the keys in it are the operator's, so that pieces and pseudonyms stay the same.
func (r *Repository) belongsTo(ctx context.Context, op *archive.OperatorKey) error {
	keys, err := r.keys(ctx, op.Identities())
	if isNotFound(err) {
		return fail(configuration(errors.New("the repository has no key file")), "lethe init completes it", "open %s", r.Store)
	}
	if errors.Is(err, archive.ErrUntrustedSigner) || errors.Is(err, archive.ErrNoIdentity) {
		return fail(err, "is it another operator's? If that operator key is lost, the key holder takes this store over with lethe init --identity", "open %s", r.Store)
	}
	if err != nil {
		return err
	}
	if !keys.PieceID.Equal(op.PieceID) || !keys.Strategy.Equal(op.Strategy) {
		return fail(configuration(errors.New("the repository was made with another operator key")),
			"set operator_key to that key, or give this one a repository of its own; if that key is lost: lethe init --identity, on the key holder's machine", "open %s", r.Store)
	}
	return nil
}

// Snapshots lists the committed snapshots, oldest first, from the store's listing alone.
func (r *Repository) Snapshots(ctx context.Context) ([]Listed, error) {
	var list []Listed
	err := r.Store.List(ctx, archive.SnapshotsPrefix, func(i store.Info) error {
		if id, ok := archive.SnapshotOf(i.Name); ok {
			list = append(list, Listed{ID: id, Modified: i.Modified, Size: i.Size})
		}
		return nil
	})
	if err != nil {
		return nil, fail(err, "", "list the snapshots in %s", r.Store)
	}
	return list, nil // ids sort by time, and listings come in name order
}

// newest is the manifest of the newest snapshot that can be read and believed, nil where there is no snapshot; passed is why
// newer ones were passed over. Who damages a manifest could as well delete it.
func (r *Repository) newest(ctx context.Context, ids *archive.Identities) (m *archive.Manifest, passed []error, err error) {
	list, err := r.Snapshots(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, l := range slices.Backward(list) {
		m, err := r.Manifest(ctx, l.ID, ids)
		if err == nil {
			return m, passed, nil
		}
		if !errors.Is(err, ErrIntegrity) && !isNotFound(err) {
			return nil, nil, err
		}
		passed = append(passed, err)
	}
	if len(passed) > 0 {
		return nil, nil, passed[0]
	}
	return nil, nil, nil
}

// Find resolves "latest", an id or an unambiguous prefix of one.
func (r *Repository) Find(ctx context.Context, ref string) (string, error) {
	list, err := r.Snapshots(ctx)
	if err != nil {
		return "", err
	}
	if ref == "latest" {
		if len(list) == 0 {
			return "", fail(configuration(errors.New("there is no snapshot")), "lethe backup makes one", "find the latest snapshot in %s", r.Store)
		}
		return list[len(list)-1].ID, nil
	}
	var found []string
	for _, l := range list {
		if l.ID == ref {
			return ref, nil
		}
		if ref != "" && strings.HasPrefix(l.ID, ref) {
			found = append(found, l.ID)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		hint := "lethe list shows what there is"
		for _, l := range list {
			if t := archive.SnapshotTime(ref); !t.IsZero() && t.Equal(archive.SnapshotTime(l.ID)) {
				hint = "it may have been purged, and have another id since: " + l.ID
				break
			}
		}
		return "", fail(configuration(errors.New("there is no such snapshot")), hint, "find snapshot %q in %s", ref, r.Store)
	}
	return "", fail(configuration(fmt.Errorf("%d snapshots begin like that: %s", len(found), strings.Join(found, ", "))),
		"write more of the id", "find snapshot %q in %s", ref, r.Store)
}

// superseded returns, of these snapshots, those whose successor is among them too, with the successor: a purge or a
// takeover was killed between writing it and taking the old one away. Both have the same time. ids are sorted.
func (r *Repository) superseded(ctx context.Context, ids []string, readers *archive.Identities) (map[string]string, error) {
	by := map[string]string{}
	for i, id := range ids {
		if i == 0 || !archive.SnapshotTime(id).Equal(archive.SnapshotTime(ids[i-1])) {
			continue
		}
		m, _, err := r.manifest(ctx, id, readers)
		if err != nil {
			return nil, err
		}
		for _, old := range m.Replaces() {
			if slices.Contains(ids, old.ID) {
				by[old.ID] = id
			}
		}
	}
	return by, nil
}

// purged returns which of the snapshots that a manifest knows, and that are not listed any more, have a listed successor.
func (r *Repository) purged(ctx context.Context, m *archive.Manifest, listed []string, readers *archive.Identities) (ids []string, err error) {
	for _, ref := range m.Alive {
		if slices.Contains(listed, ref.ID) {
			continue
		}
		for _, id := range listed {
			if !archive.SnapshotTime(id).Equal(archive.SnapshotTime(ref.ID)) {
				continue
			}
			next, _, err := r.manifest(ctx, id, readers)
			if errors.Is(err, ErrIntegrity) {
				continue // it vouches for nothing
			}
			if err != nil {
				return nil, err
			}
			if slices.Contains(next.Replaces(), ref) {
				ids = append(ids, ref.ID)
			}
		}
	}
	return ids, nil
}

// Manifest reads a snapshot's manifest: signature first, then decryption.
func (r *Repository) Manifest(ctx context.Context, id string, ids *archive.Identities) (*archive.Manifest, error) {
	m, _, err := r.manifest(ctx, id, ids)
	return m, err
}

// manifest is Manifest, with the digest of the very file that was believed.
func (r *Repository) manifest(ctx context.Context, id string, ids *archive.Identities) (m *archive.Manifest, digest string, err error) {
	m, digest, _, err = r.manifestBy(ctx, id, ids)
	return m, digest, err
}

// manifestBy is manifest, with who signed it.
func (r *Repository) manifestBy(ctx context.Context, id string, ids *archive.Identities) (m *archive.Manifest, digest string, signer archive.PublicKey, err error) {
	defer func() { err = fail(err, "", "read the manifest of %s in %s", id, r.Store) }()
	name := archive.ManifestName(id)
	data, signer, err := r.readSigned(ctx, archive.PurposeManifest, name, maxManifest)
	if err != nil {
		return nil, "", signer, err
	}
	m, err = archive.ReadManifest(name, data, ids, archive.Limits{})
	return m, archive.Digest(data), signer, err
}

// Object fetches one object's bytes, whatever they are; archive.Opener checks them.
func (r *Repository) Object(ctx context.Context, o archive.Object) ([]byte, error) {
	return r.objectInto(ctx, o, nil)
}

// objectInto is Object into buf's memory, where that suffices.
func (r *Repository) objectInto(ctx context.Context, o archive.Object, buf []byte) ([]byte, error) {
	if size := o.Size + 1; int64(cap(buf)) < size && size <= archive.MaxPiece { // growing by and by would copy it several times
		buf = make([]byte, 0, size)
	}
	data, err := store.ReadInto(ctx, r.Store, archive.ObjectName(o.Object), o.Size, buf)
	if isNotFound(err) {
		return nil, &Error{Op: "object " + o.Object, Err: integrity(fmt.Errorf("it is missing in %s", r.Store)),
			Help: "lethe check to list every missing object; another store may hold a good copy"}
	}
	if errors.Is(err, store.ErrTooLarge) {
		return nil, &Error{Op: "object " + o.Object, Err: integrity(fmt.Errorf("does not match its manifest (more than %d bytes)", o.Size)),
			Help: "lethe check to list every damaged object; another store may hold a good copy"}
	}
	if err != nil {
		return nil, fail(err, "", "fetch object %s from %s", o.Object, r.Store)
	}
	return data, nil
}

// putAnew writes a file of which there may be another one that nothing counts on, left by a run that was killed or gone
// wrong.
func (r *Repository) putAnew(ctx context.Context, name string, data []byte) error {
	err := store.PutSame(ctx, r.Store, name, data)
	if !errors.Is(err, store.ErrExists) {
		return err
	}
	if err := r.Store.Delete(ctx, name); err != nil {
		return err
	}
	return r.Store.Put(ctx, name, data)
}
