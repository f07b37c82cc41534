package amazonroots

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPool(t *testing.T) {
	pool, err := Pool()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, f := range fingerprints {
		cert, err := read(f.file, f.sum)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, cert.Subject.CommonName)
		if !cert.IsCA || cert.NotAfter.Before(time.Date(2037, 1, 1, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("%s: CA %v, until %v", f.file, cert.IsCA, cert.NotAfter)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Errorf("%s is not in the pool: %v", f.file, err)
		}
	}
	names := []string{"Amazon Root CA 1", "Amazon Root CA 2", "Amazon Root CA 3", "Amazon Root CA 4", "Starfield Services Root Certificate Authority - G2"}
	if diff := cmp.Diff(names, want); diff != "" {
		t.Error(diff)
	}
	if _, err := (&x509.Certificate{Subject: pkix.Name{CommonName: "Amazon Root CA 1"}, Raw: []byte{1}}).Verify(x509.VerifyOptions{Roots: pool}); err == nil {
		t.Error("a certificate of that name alone is trusted")
	}
}

func TestNoOtherFile(t *testing.T) {
	entries, err := files.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(fingerprints) {
		t.Errorf("%d certificates are embedded, %d are known", len(entries), len(fingerprints))
	}
}

func TestFingerprintIsChecked(t *testing.T) {
	if cert, err := read(fingerprints[0].file, fingerprints[1].sum); err == nil {
		t.Errorf("%v passes for another", cert.Subject)
	}
}
