package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// request is a valid one of this repository.
func (f *fixture) request(t testing.TB, sequence int64) *LedgerRequest {
	t.Helper()
	r, err := NewLedgerRequest()
	if err != nil {
		t.Fatal(err)
	}
	r.Repository, r.Sequence, r.Ref, r.Subject, r.Key = f.repo, sequence, "GDPR-2026-014", "user", "42 «é» <&>"
	r.Received, r.Recorded = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC), testTime.Truncate(time.Second)
	r.Rules, r.Signer = strings.Repeat("a", 64), f.op.Public()
	return r
}

func TestLedgerRoundTrip(t *testing.T) {
	f := newFixture(t)
	var head *LedgerHead
	for n := int64(1); n <= 3; n++ {
		request := f.request(t, n)
		sealed, commitment, err := SealRequest(request, f.to, f.op)
		if err != nil {
			t.Fatal(err)
		}
		record := head.Next(RequestRecord)
		record.Commitment = commitment
		data, err := record.Encode()
		if err != nil {
			t.Fatal(err)
		}
		read, err := ReadRecord(RecordName(n), data)
		if err != nil || !reflect.DeepEqual(read, record) {
			t.Fatalf("%+v, %v, want %+v", read, err, record)
		}
		readers, err := SealedReaders(f.to, f.op)
		if err != nil {
			t.Fatal(err)
		}
		name := SealedName(n, readers)
		for who, ids := range map[string]*Identities{"key holder": f.ids, "operator": f.op.Identities()} {
			got, err := OpenRequest(f.repo, name, sealed, read, ids)
			if err != nil {
				t.Fatalf("%s: %v", who, err)
			}
			if !got.Salt.Equal(request.Salt) {
				t.Errorf("%s reads another salt", who)
			}
			got.Salt = request.Salt // holds a function
			if !same(got, request) {
				t.Errorf("%s reads another request", who)
			}
		}
		if _, err := OpenRequest(f.repo, name, sealed, read, newFixture(t).ids); !errors.Is(err, ErrNoIdentity) {
			t.Errorf("a stranger: %v", err)
		}
		// Other readers, the same commitment.
		other := newFixture(t)
		again, commitment2, err := SealRequest(request, other.to, other.op)
		if err != nil || commitment2 != commitment {
			t.Fatalf("sealed again: commitment %s, %v, want %s", commitment2, err, commitment)
		}
		if _, err := OpenRequest(f.repo, name, again, read, other.ids); err != nil {
			t.Error(err)
		}
		if r2, err := SealedReaders(other.to, other.op); err != nil || r2 == readers {
			t.Errorf("other readers are named %s too, %v", r2, err)
		}
		head = &LedgerHead{Sequence: n, Digest: Digest(data)}
	}
	closed := head.Next(ClosedRecord)
	closed.Closes = 2
	data, err := closed.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if read, err := ReadRecord(RecordName(4), data); err != nil || !reflect.DeepEqual(read, closed) {
		t.Errorf("%+v, %v", read, err)
	}
}

func same(a, b *LedgerRequest) bool {
	return a.Repository == b.Repository && a.Sequence == b.Sequence && a.Ref == b.Ref && a.Subject == b.Subject && a.Key == b.Key &&
		a.Received.Equal(b.Received) && a.Recorded.Equal(b.Recorded) && a.Rules == b.Rules && a.Signer == b.Signer
}

func TestLedgerNames(t *testing.T) {
	if RecordName(17) != "ledger/00000017.json" || SealedName(17, "ab12cd34") != "ledger/00000017-ab12cd34.age" {
		t.Error(RecordName(17), SealedName(17, "ab12cd34"))
	}
	for _, name := range []string{"ledger/00000000.json", "ledger/17.json", "ledger/000000017.json", "ledger/+0000017.json", "00000017.json",
		"ledger/00000017.json.minisig", "ledger/ledger/00000017.json", "ledger/00000017-ab12cd34.age", "ledger/0000001x.json"} {
		if n, ok := RecordOf(name); ok {
			t.Errorf("%s is record %d", name, n)
		}
	}
	for _, name := range []string{"ledger/00000017.age", "ledger/00000017-AB12cd34.age", "ledger/00000017-ab12cd3.age", "ledger/00000000-ab12cd34.age",
		"ledger/00000017_ab12cd34.age", "ledger/00000017-ab12cd34.json", "00000017-ab12cd34.age"} {
		if n, _, ok := SealedOf(name); ok {
			t.Errorf("%s is sealed request %d", name, n)
		}
	}
	if n, readers, ok := SealedOf("ledger/00000017-ab12cd34.age"); n != 17 || readers != "ab12cd34" || !ok {
		t.Error(n, readers, ok)
	}
	if n, ok := RecordOf(RecordName(MaxSequence)); n != MaxSequence || !ok {
		t.Error(n, ok)
	}
}

// TestLedgerRecordHasOneText: whatever is changed in a record, it is another record or none.
func TestLedgerRecordHasOneText(t *testing.T) {
	record := (&LedgerHead{Sequence: 16, Digest: strings.Repeat("b", 64)}).Next(RequestRecord)
	record.Commitment = strings.Repeat("c", 64)
	data, err := record.Encode()
	if err != nil {
		t.Fatal(err)
	}
	name := RecordName(17)
	for i := range data {
		for bit := range 8 {
			flipped := bytes.Clone(data)
			flipped[i] ^= 1 << bit
			if got, err := ReadRecord(name, flipped); err == nil && reflect.DeepEqual(got, record) {
				t.Fatalf("byte %d, bit %d flipped: the same record", i, bit)
			}
		}
		if _, err := ReadRecord(name, data[:i]); err == nil {
			t.Fatalf("cut to %d bytes: accepted", i)
		}
	}
	valid := string(data)
	digit := strings.Repeat("c", 64)
	for what, text := range map[string]string{
		"white space":        strings.Replace(valid, ",", ", ", 1),
		"no line end":        strings.TrimSuffix(valid, "\n"),
		"two line ends":      valid + "\n",
		"a second member":    strings.Replace(valid, `"kind"`, `"closes":0,"kind"`, 1),
		"an unknown member":  strings.Replace(valid, `"kind"`, `"note":"x","kind"`, 1),
		"another order":      strings.Replace(valid, `"sequence":17,"kind":"request"`, `"kind":"request","sequence":17`, 1),
		"a name's case":      strings.Replace(valid, `"previous"`, `"Previous"`, 1),
		"an escape":          strings.Replace(valid, `"request"`, `"\u0072equest"`, 1),
		"upper case":         strings.ReplaceAll(valid, digit, strings.Repeat("C", 64)),
		"another kind":       strings.Replace(valid, `"request"`, `"opened"`, 1),
		"no commitment":      strings.Replace(valid, `,"commitment":"`+digit+`"`, "", 1),
		"it closes, too":     strings.Replace(valid, "}", `,"closes":3}`, 1),
		"first but not 1":    strings.ReplaceAll(valid, strings.Repeat("b", 64), NoDigest),
		"another sequence":   strings.Replace(valid, `:17`, `:18`, 1),
		"a fraction":         strings.Replace(valid, `:17`, `:17.0`, 1),
		"not UTF-8":          strings.Replace(valid, `"request"`, "\"request\xff\"", 1),
		"something after it": valid + "{}",
	} {
		if text == valid {
			t.Fatalf("%s: the test changes nothing", what)
		}
		if _, err := ReadRecord(name, []byte(text)); !errors.Is(err, ErrIntegrity) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := ReadRecord(name, []byte(strings.Replace(valid, `"version":1`, `"version":2`, 1))); !errors.Is(err, ErrVersion) {
		t.Error(err)
	}
	if _, err := ReadRecord(name, append(bytes.Repeat([]byte(" "), maxRecord), data...)); !errors.Is(err, ErrIntegrity) {
		t.Error(err)
	}
	for _, closes := range []int64{0, -1, 17, 18} {
		r := (&LedgerHead{Sequence: 16, Digest: strings.Repeat("b", 64)}).Next(ClosedRecord)
		r.Closes = closes
		if _, err := r.Encode(); err == nil {
			t.Errorf("record 17 closes %d", closes)
		}
	}
}

func TestSealedRequestRefuses(t *testing.T) {
	f := newFixture(t)
	request := f.request(t, 17)
	sealed, commitment, err := SealRequest(request, f.to, f.op)
	if err != nil {
		t.Fatal(err)
	}
	record := (&LedgerHead{Sequence: 16, Digest: strings.Repeat("b", 64)}).Next(RequestRecord)
	record.Commitment = commitment
	name := SealedName(17, "ab12cd34")
	open := func(data []byte, r *LedgerRecord) error {
		_, err := OpenRequest(f.repo, name, data, r, f.ids)
		return err
	}
	if err := open(sealed, record); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(sealed); i += 3 {
		flipped := bytes.Clone(sealed)
		flipped[i] ^= 4
		if err := open(flipped, record); err == nil {
			t.Fatalf("byte %d flipped: accepted", i)
		}
	}
	// Another request, rightly sealed by somebody who knows the recipients: the record does not commit to it.
	forged := *request
	forged.Key = "6180339887498948"
	data, _, err := SealRequest(&forged, f.to, f.op)
	if err != nil {
		t.Fatal(err)
	}
	if err := open(data, record); !errors.Is(err, ErrIntegrity) || strings.Contains(err.Error(), "6180339887") {
		t.Error(err)
	}
	closed := *record
	closed.Kind = ClosedRecord
	if err := open(sealed, &closed); !errors.Is(err, ErrIntegrity) {
		t.Error(err)
	}
	// What a trusted signer's record commits to is checked all the same.
	for what, change := range map[string]func(*LedgerRequest){
		"another repository": func(r *LedgerRequest) { r.Repository = strings.Repeat("0", 32) },
		"another sequence":   func(r *LedgerRequest) { r.Sequence = 18 },
	} {
		wrong := *request
		change(&wrong)
		data, commitment, err := SealRequest(&wrong, f.to, f.op)
		if err != nil {
			t.Fatal(err)
		}
		r := *record
		r.Commitment = commitment
		if err := open(data, &r); !errors.Is(err, ErrIntegrity) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, change := range map[string]func(*LedgerRequest){
		"no repository":     func(r *LedgerRequest) { r.Repository = "" },
		"sequence 0":        func(r *LedgerRequest) { r.Sequence = 0 },
		"no salt":           func(r *LedgerRequest) { r.Salt = SecretKey{} },
		"an address as ref": func(r *LedgerRequest) { r.Ref = "ann@example.com" },
		"a space in ref":    func(r *LedgerRequest) { r.Ref = "Ann Smith" },
		"a long ref":        func(r *LedgerRequest) { r.Ref = strings.Repeat("x", 129) },
		"no type":           func(r *LedgerRequest) { r.Subject = "" },
		"no key":            func(r *LedgerRequest) { r.Key = "" },
		"a long key":        func(r *LedgerRequest) { r.Key = strings.Repeat("x", MaxKey+1) },
		"a NUL in the key":  func(r *LedgerRequest) { r.Key = "4\x002" },
		"a key not UTF-8":   func(r *LedgerRequest) { r.Key = "\xff" },
		"an hour received":  func(r *LedgerRequest) { r.Received = r.Received.Add(time.Hour) },
		"never received":    func(r *LedgerRequest) { r.Received = time.Time{} },
		"never recorded":    func(r *LedgerRequest) { r.Recorded = time.Time{} },
		"nanoseconds":       func(r *LedgerRequest) { r.Recorded = r.Recorded.Add(1) },
		"no rules":          func(r *LedgerRequest) { r.Rules = "" },
		"no signer":         func(r *LedgerRequest) { r.Signer = PublicKey{} },
	} {
		r := *request
		change(&r)
		if _, _, err := SealRequest(&r, f.to, f.op); err == nil {
			t.Errorf("%s: sealed", what)
		} else if strings.Contains(err.Error(), "ann@") || strings.Contains(err.Error(), "Smith") || strings.Contains(err.Error(), "xxx") {
			t.Errorf("%s: the error quotes: %v", what, err)
		}
	}
	keys := *request
	keys.Key = strings.Repeat("ß", MaxKey/2)
	if _, _, err := SealRequest(&keys, f.to, f.op); err != nil {
		t.Errorf("a key of %d bytes: %v", MaxKey, err)
	}
	// The operator's own key among the recipients would open table data.
	wrong, err := ParseRecipients([]string{f.op.recipient(false)}, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := SealRequest(request, wrong, f.op); !errors.Is(err, ErrRecipients) {
		t.Error(err)
	}
}

// TestRequestPrintsNoKey: keys of people stand in no message by accident.
func TestRequestPrintsNoKey(t *testing.T) {
	r := newFixture(t).request(t, 3)
	r.Key = "SUBJECTKEY"
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%q", "%x"} {
		for _, v := range []any{r, *r, struct{ R LedgerRequest }{*r}, []LedgerRequest{*r}} {
			if text := fmt.Sprintf(verb, v); strings.Contains(text, "SUBJECTKEY") || strings.Contains(text, "5355424a") {
				t.Errorf("%s of %T prints %s", verb, v, text)
			}
		}
	}
}

func FuzzLedgerRecord(f *testing.F) {
	record := (*LedgerHead)(nil).Next(RequestRecord)
	record.Commitment = strings.Repeat("c", 64)
	first, err := record.Encode()
	if err != nil {
		f.Fatal(err)
	}
	closed := (&LedgerHead{Sequence: 4, Digest: strings.Repeat("b", 64)}).Next(ClosedRecord)
	closed.Closes = 1
	second, err := closed.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(int64(1), first)
	f.Add(int64(5), second)
	f.Fuzz(func(t *testing.T, sequence int64, data []byte) {
		r, err := ReadRecord(RecordName(sequence), data)
		if err != nil {
			if r != nil {
				t.Fatal("a record came with an error")
			}
			return
		}
		again, err := r.Encode()
		if err != nil || !bytes.Equal(again, data) || r.Sequence != sequence {
			t.Fatalf("%q reads as record %d and is written %q, %v", data, r.Sequence, again, err)
		}
	})
}

func FuzzSealedRequest(f *testing.F) {
	plain, err := newFixture(f).request(f, 17).plaintext()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add(bytes.Replace(plain, []byte("2026-11-20"), []byte("2026-02-30"), 1))
	f.Fuzz(func(t *testing.T, plain []byte) {
		r, err := parseRequest("ledger/00000017-ab12cd34.age", plain)
		if err != nil {
			if r != nil {
				t.Fatal("a request came with an error")
			}
			return
		}
		again, err := r.plaintext()
		if err != nil || !bytes.Equal(again, plain) || !json.Valid(again) {
			t.Fatalf("%q is written %q, %v", plain, again, err)
		}
	})
}
