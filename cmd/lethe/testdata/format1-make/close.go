// Command close ends a request in a repository that lies in a directory, as lethe erasure close does, but without its
// wait of seven days: the sample is made in a minute.
package main

import (
	"log"
	"os"
	"path/filepath"
	"strconv"

	"lethe/pipeline/archive"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 4 {
		log.Fatal("usage: close REPOSITORY OPERATOR.KEY SEQUENCE")
	}
	dir, sequence := os.Args[1], must(strconv.ParseInt(os.Args[3], 10, 64))
	op := must(archive.ReadOperatorKey(os.Args[2]))
	repository := must(archive.ParseRepository(must(os.ReadFile(filepath.Join(dir, archive.RepositoryName)))))

	records := must(filepath.Glob(filepath.Join(dir, archive.LedgerPrefix+"*.json")))
	last := archive.LedgerPrefix + filepath.Base(records[len(records)-1])
	data := must(os.ReadFile(filepath.Join(dir, last)))
	record := must(archive.ReadRecord(last, data))
	head := &archive.LedgerHead{Sequence: record.Sequence, Digest: archive.Digest(data)}
	next := head.Next(archive.ClosedRecord)
	next.Closes = sequence
	name := archive.RecordName(next.Sequence)
	text := must(next.Encode())
	signature := must(archive.Sign(op.Signing, archive.PurposeLedger, repository.Repository, name, text))
	check(os.WriteFile(filepath.Join(dir, name+archive.SignatureSuffix), signature, 0o644))
	check(os.WriteFile(filepath.Join(dir, name), text, 0o644))
	for _, sealed := range must(filepath.Glob(filepath.Join(dir, archive.LedgerPrefix+"*.age"))) {
		if n, _, ok := archive.SealedOf(archive.LedgerPrefix + filepath.Base(sealed)); ok && n == sequence {
			check(os.Remove(sealed))
		}
	}
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
