package pipeline_test

import (
	"context"
	"testing"
	"time"

	"lethe/pipeline"
	"lethe/pipeline/archive"
	"lethe/pipeline/store"
	"lethe/pipeline/store/s3"
	"lethe/pipeline/store/s3/s3test"
)

// keepsVersions starts an S3 server whose buckets may keep versions, with the environment that opens them.
func keepsVersions(t *testing.T) *s3test.Server {
	t.Helper()
	t.Setenv("VGW_VERSIONING_DIR", t.TempDir())
	server, err := s3test.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop() })
	for name, value := range server.Environment() {
		t.Setenv(name, value)
	}
	return server
}

// versionsOf makes a bucket that keeps versions and opens a store in it.
func versionsOf(t *testing.T, server *s3test.Server) (in *s3.Store, bucket string) {
	t.Helper()
	bucket, err := server.Bucket(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := server.KeepVersions(t.Context(), bucket); err != nil {
		t.Fatal(err)
	}
	if in, err = s3.Open(t.Context(), server.URL(bucket, "x")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	return in, bucket
}

// TestPurgeOfVersions: a bucket that keeps what is deleted keeps nothing of it after a purge, also of what expired before,
// except what Object Lock holds, which is named with its date.
func TestPurgeOfVersions(t *testing.T) {
	ctx := context.Background()
	server := keepsVersions(t)
	bucket, err := server.LockedBucket(ctx)
	if err != nil {
		t.Fatal(err)
	}
	in, err := s3.Open(ctx, server.URL(bucket, "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	s := newSite(t, twoTables)
	if _, _, err := pipeline.InitRepository(ctx, in, "", s.operator, s.to); err != nil {
		t.Fatal(err)
	}
	s.rules = withoutRequests(twoTablesRules)
	var last *pipeline.BackupReport
	for range 3 {
		if last, err = s.tryBackup(in); err != nil {
			t.Fatal(err)
		}
		s.sql("UPDATE users SET name = name || '!' WHERE id = 1")
	}
	readers := s.operator.Identities()
	if _, err := pipeline.Expire(ctx, pipeline.ExpireConfig{Repositories: []*pipeline.Repository{s.openAt(in)}, Readers: readers, Retention: pipeline.Retention{KeepMin: 2}, Workers: 2, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	users := table(t, s.manifestIn(in, last.Snapshot), "users").Objects[0].Object
	until := time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second)
	if err := server.Lock(ctx, bucket, "x/"+archive.ObjectName(users), until); err != nil {
		t.Fatal(err)
	}
	s.recordAll(twoTablesRules, in)
	signer := signed(t)
	list := func() pipeline.Erasure {
		t.Helper()
		report, err := pipeline.ListErasures(ctx, pipeline.ErasuresConfig{Repositories: s.purging(signer, in).Repositories, Readers: readers, Retention: weekly, Now: time.Now})
		if err != nil || len(report.Notes) > 0 {
			t.Fatalf("%+v, %v", report, err)
		}
		return report.Requests[0]
	}
	if _, err := s.tryBackup(in); err != nil {
		t.Fatal(err)
	}
	if _, err := pipeline.Expire(ctx, pipeline.ExpireConfig{Repositories: []*pipeline.Repository{s.openAt(in)}, Readers: readers, Retention: pipeline.Retention{KeepMin: 1}, Workers: 2, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	if e := list(); e.Unclean != 0 || e.Hidden == 0 || e.Stage != pipeline.Effective || e.GoneBy != "" {
		t.Errorf("expired, and kept all the same: %+v", e)
	}
	for range 2 { // the second run finds the same left
		report := purge(t, s.purging(signer, in))
		kept := report.Stores[0].Kept
		if len(kept) != 1 || kept[0].Name != archive.ObjectName(users) || !kept[0].Until.Equal(until) || !report.Stores[0].Left() {
			t.Errorf("kept %+v", kept)
		}
		if e := list(); e.Hidden != 1 || e.Stage != pipeline.Effective {
			t.Errorf("purged, but for what is locked: %+v", e)
		}
	}
	c := pipeline.CertificateConfig{Ref: "R-1", Issuer: signer.Public(), Tool: "test"}
	c.Repositories, c.Readers, c.Now = s.purging(signer, in).Repositories, readers, time.Now
	cert, err := pipeline.Certify(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if kept := cert.Stores[0].Kept; cert.Purged != nil || len(kept) != 1 || !kept[0].Until.Equal(until) || cert.Stores[0].Hidden != 1 || len(cert.Unfinished) != 1 {
		t.Errorf("%+v", cert)
	}
	files := map[string]int{}
	for _, prefix := range []string{archive.ObjectsPrefix, archive.SnapshotsPrefix, "expired/"} {
		files[prefix] = len(names(t, in, prefix))
	}
	files[archive.ObjectsPrefix] += 2 // what is locked, and what hides it
	for prefix, want := range files {
		if n, err := server.Versions(ctx, bucket, "x/"+prefix); err != nil || n != want {
			t.Errorf("%d versions below %s, %v; want %d", n, prefix, err, want)
		}
	}
	var _ store.Versioned = in
}
