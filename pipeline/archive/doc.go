// Package archive holds the formats of a repository: keys, signatures, objects, piece ids, manifests, the ledger. It
// takes bytes and returns bytes: no network, no store, no clock.
//
// It promises that what it reads was checked before it is believed: signature first, then digest, then decryption, then
// decompression under a limit, then every form, bound and sum; that on an error nothing is returned which could look
// whole; and that no secret is printed, logged or quoted.
//
// # The format in short
//
// This is version 1, which is frozen. docs/format.md tells all of it, with the way to restore by hand.
//
//	lethe.json                 {"format":"lethe","version":1,"repository":ID}; not secret, not signed
//	keys/0001.age              age(JSON): piece-id key and strategy key              + .minisig; the highest number counts
//	snapshots/ID.age           age(zstd(JSON)): the manifest                         + .minisig
//	objects/ab/ab34…           age(zstd(SQL text)), named by the SHA-256 of the file
//	ledger/00000017.json       chain record: digest of the one before, commitment    + .minisig
//	ledger/00000017-ab12….age  age(JSON): the request that the record commits to
//
// Every JSON document begins with "format": "lethe" and "version"; a reader refuses a version that it does not know, by
// name, before it looks at anything else.
//
// Objects are encrypted to the recipients alone; manifests, the key file and sealed requests also to the operator, who
// can therefore read what exists but no table data. Signatures are minisign's prehashed form over the stored bytes, in a
// file beside them that is written first. Their trusted comment is exactly
//
//	lethe v1 purpose=PURPOSE repository=ID name=NAME
//
// so that a signature is worth nothing for another file, another name or another repository. The manifest names every
// object by SHA-256, so its signature covers them; a chain record commits to its request, so that needs none either.
//
// A piece id is BLAKE3 keyed with the piece-id key over (SHA-256 of the sorted recipients, each with a newline) and the
// text. Equal ids mean equal text for the same readers: the object can be used again.
package archive
