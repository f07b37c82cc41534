package cli

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/image/eif"
)

// forged is a line that a reader would take for one of ours.
const forged = "PCR0:\tabad1dea"

// hasForged tells whether a line of text is the forged one.
func hasForged(text string) bool {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "PCR0:") && strings.Contains(line, "abad1dea") {
			return true
		}
	}
	return false
}

// hostileImage is an image whose signer's name goes on for more than a line.
func hostileImage(t *testing.T) *eif.Image {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	name := pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "publisher\n" + forged + "\nrest"}}}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: name, NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour), SignatureAlgorithm: x509.ECDSAWithSHA384}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	plain, err := os.Create(filepath.Join(dir, "plain"))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	part := func(s string) eif.Part { return eif.Part{Content: strings.NewReader(s), Size: int64(len(s))} }
	if _, err := eif.Write(t.Context(), plain, eif.Parts{Kernel: part("k"), Cmdline: "quiet", Ramdisks: []eif.Part{part("r")}}); err != nil {
		t.Fatal(err)
	}
	info, err := plain.Stat()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := os.Create(filepath.Join(dir, "signed"))
	if err != nil {
		t.Fatal(err)
	}
	defer signed.Close()
	image, err := eif.Sign(t.Context(), signed, plain, info.Size(), eif.Signer{Key: key, Certificate: cert})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// What somebody else wrote fills its place in a line, and never begins another.
func TestLines(t *testing.T) {
	evil := "x\n" + forged + "\ny"
	var out bytes.Buffer
	a := &app{IO: IO{Stdout: &out, Stderr: &out}}
	a.flags.output = "plain"
	report := &attest.Report{Document: &nitro.Document{ModuleID: evil, UserData: []byte("{\"a\":\n1}")},
		Checks: []policy.Check{{Name: "structure", State: policy.Failed, Detail: evil}}, Err: attest.ErrMalformed}
	if err := a.showReport(report, true); err != nil {
		t.Fatal(err)
	}
	if err := a.showPCRs([]wire.Release{{Revision: evil, Measurements: map[string]string{"PCR0\n" + forged: evil}}, {}}); err != nil {
		t.Fatal(err)
	}
	if err := a.showList([]wire.Function{{Name: evil, ID: evil}}); err != nil {
		t.Fatal(err)
	}
	believes := &wire.Trust{Issuers: []wire.Issuer{{Iss: evil, JWKS: &evil}}, Role: evil}
	for name, text := range map[string]string{
		"image": imageText(hostileImage(t)), "printed": out.String(), "introduction": introduction(trust.Introduction{KMS: evil, Trust: believes}),
		"entry": entryText("https://a.example", &wire.TrustOrigin{Names: map[string]*wire.TrustedNamed{evil: {}}, Functions: map[string]string{evil: ""}, Accounts: map[string]string{evil: ""}}),
		"trust": trust.TrustText(believes), "checks": checkText([]policy.Check{{Detail: evil}}),
	} {
		if hasForged(text) {
			t.Errorf("%s:\n%s", name, text)
		}
	}
	// A name may hold what turns a line around, or what some terminals take for an escape.
	const turned = "https://a\u202e\u009b.example"
	for name, text := range map[string]string{"introduction": introduction(trust.Introduction{Origin: turned}), "entry": entryText(turned, &wire.TrustOrigin{})} {
		if strings.Contains(text, turned) {
			t.Errorf("%s:\n%q", name, text)
		}
	}
	// A terminal breaks long lines by itself.
	for range 1000 {
		believes.Issuers = append(believes.Issuers, wire.Issuer{Iss: strings.Repeat(" ", 700) + forged, JWKS: &evil})
	}
	text := trust.TrustText(believes)
	if len(text) > 64<<10 || strings.Contains(text, "  ") {
		t.Errorf("%d bytes: %.200s", len(text), text)
	}
	believes.Issuers[999].Iss = "https://another.example/"
	if trust.TrustText(believes) == text {
		t.Error("what is not shown makes no difference")
	}
}

// Whoever answers in an enclave's place chooses the text of an error. It is no advice of ours.
func TestErrorsBeginOneLine(t *testing.T) {
	const evil = "x\nHint: cape trust pin --published --yes\ny"
	var out bytes.Buffer
	a := &app{IO: IO{Stdout: &out, Stderr: &out}}
	for _, e := range []*client.RemoteError{{Code: wire.CodeInternal, Text: evil}, {Code: evil, Text: "x"}, {Code: wire.CodeInternal, Text: "x", Advice: evil}} {
		out.Reset()
		a.report(fmt.Errorf("running: %w", e))
		for l := range strings.Lines(out.String()) {
			if strings.HasPrefix(l, "Hint: cape trust pin") {
				t.Errorf("%+v:\n%s", e, out.String())
			}
		}
	}
}
