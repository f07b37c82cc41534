package localca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"testing"
	"time"
)

func request(t *testing.T) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"bank.example"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr, key
}

// TestSign: a certificate is for the key of the request and for our names alone.
func TestSign(t *testing.T) {
	now := time.Now()
	ca, err := Open(t.TempDir(), now)
	if err != nil {
		t.Fatal(err)
	}
	csr, key := request(t)
	chain, err := ca.Sign(csr, "box.example", now)
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(chain)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if root, _ := pem.Decode(rest); root == nil || string(root.Bytes) != string(ca.cert.Raw) {
		t.Error("the chain does not end with the authority")
	}
	if !key.PublicKey.Equal(leaf.PublicKey) || leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("certificate: CA %v, usage %v", leaf.IsCA, leaf.KeyUsage)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM())
	for name, ok := range map[string]bool{"localhost": true, "127.0.0.1": true, "box.example": true, "bank.example": false} {
		_, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: now})
		if (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !leaf.IPAddresses[0].Equal(net.IPv4(127, 0, 0, 1)) {
		t.Error(leaf.IPAddresses)
	}
}

func TestSignRefuses(t *testing.T) {
	ca, err := Open(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	csr, _ := request(t)
	forged := append([]byte(nil), csr...)
	forged[len(forged)-1] ^= 1
	for name, raw := range map[string][]byte{"nothing": nil, "garbage": []byte("x"), "cut": csr[:len(csr)/2], "another signature": forged} {
		if chain, err := ca.Sign(raw, "h", time.Now()); !errors.Is(err, ErrRequest) || chain != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
