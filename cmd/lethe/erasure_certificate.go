package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lethe/pipeline"
	"lethe/pipeline/archive"
)

type certificateFlags struct {
	access
	signer string
	expect string
	output string
	verify string
}

func (a *app) erasureCertificateCommand() *cobra.Command {
	f := &certificateFlags{}
	c := &cobra.Command{
		Use:   "certificate {REF | --verify FILE}",
		Short: "Say, signed, what became of an erasure request: for the file, and for who asked",
		Long: strings.TrimSpace(`
Writes what became of one request: BASENAME.json, and BASENAME.html, a page to print and
file, each with a signature beside it (.minisig). It says no more than what signed files in
the stores show: the ledger, the manifests, the accounts that purges give, the proofs that
verifying writes. What is not finished stands at the top, and the exit code is 3 then. It
names the request by its reference, tables and snapshots, and no person.

A key holder signs with --signer; without it the operator key does. Make it before the
request is closed: afterwards nobody can tell what it was.

--verify reads FILE (BASENAME.json, BASENAME.html or BASENAME), and says who has signed it.
Exit code 6: it was changed, or the signer is not one of --trust or lethe.yml. It needs no
store. minisign does the same:
  minisign -V -P RW… -m BASENAME.json`),
		Example: `  lethe erasure certificate GDPR-2026-014
  lethe erasure certificate GDPR-2026-014 -i key.txt --signer signer.key --output 2026-014
  lethe erasure certificate --verify 2026-014.json --trust RWQ…`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case f.verify != "" && len(args) == 0 && f.output == "" && f.signer == "":
				return a.verifyCertificate(f)
			case f.verify != "":
				return usage("lethe erasure certificate --verify FILE --trust RW…", "--verify goes with --trust alone")
			case len(args) == 0:
				return usage("lethe erasure list shows the references", "of which request?")
			}
			return a.erasureCertificate(c.Context(), f, args[0])
		},
	}
	f.flags(c, "read manifests and requests with the age identity in `FILE` (default: the operator key)")
	fl := c.Flags()
	fl.StringVar(&f.signer, "signer", "", "sign with the key in `FILE`, made by lethe keygen signer (default: the operator key)")
	fl.StringVar(&f.expect, "expect-head", "", "fail unless the ledger holds this `HEAD`, which an earlier run printed")
	fl.StringVarP(&f.output, "output", "o", "", "write `BASENAME`.json and .html, which must not be there yet; - prints the JSON, unsigned (default: certificate-REF)")
	fl.StringVar(&f.verify, "verify", "", "check the certificate in `FILE`, and say who has signed it")
	return c
}

func (a *app) erasureCertificate(ctx context.Context, f *certificateFlags, ref string) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	key, err := a.certificateKey(cfg, f)
	if err != nil {
		return err
	}
	f.trust = append(f.trust, key.Public().String()) // what this key holder has signed before is believed
	c := pipeline.CertificateConfig{Ref: ref, Issuer: key.Public(), Tool: version}
	done, err := a.erasuresConfig(ctx, cfg, &f.access, f.expect, &c.ErasuresConfig)
	if err != nil {
		return err
	}
	defer done()
	cert, err := pipeline.Certify(ctx, c)
	if err != nil {
		return err
	}
	text, err := cert.Encode()
	if err != nil {
		return err
	}
	switch base := f.output; base {
	case "-":
		if _, err := a.term.out.Write(text); err != nil { // the very bytes
			return err
		}
	default:
		if base == "" {
			base = "certificate-" + strings.NewReplacer("/", "-", ":", "-", "#", "-").Replace(ref)
		}
		if err := a.writeCertificate(base, cert, text, key); err != nil {
			return err
		}
	}
	for _, u := range cert.Unknown {
		a.term.Warn("not known: %s", u)
	}
	for _, u := range cert.Unfinished {
		a.term.Warn("not finished: %s", u)
	}
	if len(cert.Unfinished) > 0 {
		return &degradedError{fmt.Errorf("request %s is not finished, and its certificate says so", ref)}
	}
	return nil
}

// certificateKey is what signs: the key holder's, or this operator's.
func (a *app) certificateKey(cfg *config, f *certificateFlags) (*archive.SigningKey, error) {
	if f.signer != "" {
		key, err := archive.ReadSigner(f.signer)
		return key, asUsage(err)
	}
	if cfg.OperatorKey == "" {
		return nil, usage("--signer FILE with a key that lethe keygen signer made", "nothing here can sign a certificate")
	}
	op, err := cfg.operator()
	if err != nil {
		return nil, err
	}
	return op.Signing, nil
}

// writeCertificate writes the four files, each signature before what it signs.
func (a *app) writeCertificate(base string, cert *archive.Certificate, text []byte, key *archive.SigningKey) error {
	page, err := certificatePage(cert, archive.Digest(text))
	if err != nil {
		return err
	}
	type file struct {
		name string
		data []byte
	}
	var files []file
	for _, doc := range []struct {
		suffix string
		data   []byte
	}{{"json", text}, {"html", page}} {
		sig, err := archive.Sign(key, archive.PurposeCertificate, cert.Repository, archive.CertificateName(cert.Request.Sequence, doc.suffix), doc.data)
		if err != nil {
			return err
		}
		name := base + "." + doc.suffix
		files = append(files, file{name + archive.SignatureSuffix, sig}, file{name, doc.data})
	}
	for _, f := range files {
		if !missingFile(f.name) {
			return usage("--output names others", "%s is there already", f.name)
		}
	}
	var errs []error
	for i, f := range files {
		if err := writeNew(f.name, string(f.data), 0o644); err != nil {
			for _, written := range files[:i] {
				errs = append(errs, os.Remove(written.name))
			}
			return errors.Join(append([]error{err}, errs...)...)
		}
	}
	if a.term.json {
		return a.term.JSON(map[string]any{"state": cert.State, "unfinished": cert.Unfinished, "files": []string{base + ".json", base + ".html"}, "signer": cert.Issuer})
	}
	a.term.Say("%s is %s: %s.json and %s.html, signed by %s", cert.Request.Ref, cert.State, base, base, cert.Issuer)
	return nil
}

// verifyCertificate checks a certificate's files, of which the page may be missing.
func (a *app) verifyCertificate(f *certificateFlags) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	keys, err := cfg.trusted(f.trust)
	if err != nil {
		return err
	}
	if cfg.OperatorKey != "" {
		k, err := archive.ReadPublicKey(cfg.resolve(cfg.OperatorKey))
		if err != nil {
			return asUsage(err)
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return usage("--trust RW… with the line that lethe keygen printed for who signs certificates, on a way that you trust", "nobody is trusted, so no signature can be believed")
	}
	base := strings.TrimSuffix(strings.TrimSuffix(f.verify, ".json"), ".html")
	trust := archive.NewTrust(keys...)
	text, sig, err := signedFile(base + ".json")
	if err != nil {
		return err
	}
	var of struct { // what the signature has to be of; it is not believed before
		Repository string `json:"repository"`
		Issuer     string `json:"issuer"`
		Request    struct {
			Sequence int64 `json:"sequence"`
		} `json:"request"`
	}
	if err := json.Unmarshal(text, &of); err != nil {
		return notSame("%s.json is no certificate, or was changed", base)
	}
	check := func(suffix string, data, sig []byte) error {
		signer, err := trust.Verify(archive.PurposeCertificate, of.Repository, archive.CertificateName(of.Request.Sequence, suffix), data, sig)
		if err == nil && signer.String() != of.Issuer {
			err = notSame("it says that %s has signed it, and %s has", of.Issuer, signer)
		}
		if err != nil {
			return fmt.Errorf("verify %s.%s: %w", base, suffix, err)
		}
		return nil
	}
	if err := check("json", text, sig); err != nil {
		return err
	}
	cert, err := archive.ReadCertificate(base+".json", text)
	if err != nil {
		return err
	}
	page, sig, err := signedFile(base + ".html")
	switch {
	case errors.Is(err, fs.ErrNotExist) && !strings.HasSuffix(f.verify, ".html"):
		a.term.Detail("there is no page %s.html beside it", base)
	case err != nil:
		return err
	default:
		if err := check("html", page, sig); err != nil {
			return err
		}
		if !bytes.Contains(page, []byte(archive.Digest(text))) {
			return notSame("%s.html is the page of another certificate than %s.json", base, base)
		}
	}
	if a.term.json {
		return a.term.JSON(map[string]any{"certificate": cert, "signer": cert.Issuer})
	}
	if err := a.term.Print("%s: %s, issued %s, signed by %s\n", cert.Request.Ref, cert.State, cert.Issued.Format(time.RFC3339), cert.Issuer); err != nil {
		return err
	}
	for _, u := range cert.Unfinished {
		a.term.Warn("not finished: %s", u)
	}
	return nil
}

func notSame(format string, args ...any) error {
	return &archive.Error{Name: "certificate", Msg: fmt.Sprintf(format, args...), Kind: archive.ErrIntegrity, Try: "ask who sent it for the files as they were made"}
}

// signedFile reads a file and the signature beside it.
func signedFile(name string) (data, sig []byte, err error) {
	read := func(name string) ([]byte, error) {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		if info.Size() > archive.MaxCertificateFile {
			return nil, notSame("%s is too long to be one", name)
		}
		return os.ReadFile(name)
	}
	if data, err = read(name); err != nil {
		return nil, nil, fmt.Errorf("read the certificate: %w", err)
	}
	sig, err = read(name + archive.SignatureSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, notSame("%s has no signature beside it, %s", name, name+archive.SignatureSuffix)
	}
	return data, sig, err
}
