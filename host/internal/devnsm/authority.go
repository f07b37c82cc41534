// Package devnsm plays the Nitro hypervisor's security module where there is
// none: for enclaves that are processes or QEMU guests. It answers the requests
// of the NSM driver's CBOR interface with documents of exactly the Nitro format,
// signed under a development root that it made itself.
//
// It is one of the two host packages that hold a key which attests anything.
// A document of its proves nothing against the operator of this machine, and
// clients refuse it unless they were told to accept this very root.
package devnsm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Lifetimes of what an authority issues. AWS's leaves live three hours.
const (
	rootLife         = 30 * 365 * 24 * time.Hour
	intermediateLife = 20 * 24 * time.Hour
	leafLife         = 3 * time.Hour
	leafRenewal      = time.Hour // before its end
	backdate         = time.Minute
)

// Authority is a development attestation root and the certificate of the key
// that "signs" development images. It is safe for concurrent use.
type Authority struct {
	root    *x509.Certificate
	key     *ecdsa.PrivateKey
	signing *x509.Certificate
	now     func() time.Time

	mu  sync.Mutex
	mid *certified
}

// certified is a certificate with its key.
type certified struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// OpenAuthority reads the authority kept in dir, or makes one there: root.pem
// and signing.pem with their keys beside them, mode 0600.
func OpenAuthority(dir string, now func() time.Time) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening development authority: %w", err)
	}
	root, err := openPair(dir, "root", now, rootTemplate)
	if err != nil {
		return nil, err
	}
	signing, err := openPair(dir, "signing", now, signingTemplate)
	if err != nil {
		return nil, err
	}
	return &Authority{root: root.cert, key: root.key, signing: signing.cert, now: now}, nil
}

// RootDER returns the development root's certificate.
func (a *Authority) RootDER() []byte { return a.root.Raw }

// RootPEM returns the development root's certificate as PEM.
func (a *Authority) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw})
}

// SigningCertificate returns the certificate that PCR8 of development images
// commits to: it stays when the runtime changes, so data outlive an upgrade.
func (a *Authority) SigningCertificate() *x509.Certificate { return a.signing }

func rootTemplate(now time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: "cape development attestation root", Organization: []string{"Not Amazon"}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func signingTemplate(now time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: "cape development image signer"},
		NotBefore: now.Add(-backdate),
		NotAfter:  now.Add(rootLife),
		KeyUsage:  x509.KeyUsageDigitalSignature,
	}
}

// openPair reads NAME.pem and NAME.key of dir, or makes them, self-signed.
func openPair(dir, name string, now func() time.Time, template func(time.Time) *x509.Certificate) (*certified, error) {
	certPath, keyPath := filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	pair, err := readPair(certPath, keyPath)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return pair, err
	}
	pair, err = issue(template(now()), nil)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(pair.key)
	if err != nil {
		return nil, fmt.Errorf("encoding key of %s: %w", name, err)
	}
	// The certificate is written last: without it the pair is made again.
	for _, f := range []struct {
		path, kind string
		der        []byte
	}{{keyPath, "EC PRIVATE KEY", der}, {certPath, "CERTIFICATE", pair.cert.Raw}} {
		if err := writeFile(f.path, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der})); err != nil {
			return nil, err
		}
	}
	return pair, nil
}

func readPair(certPath, keyPath string) (*certified, error) {
	certDER, err := readPEM(certPath)
	if err != nil {
		return nil, err
	}
	keyDER, err := readPEM(keyPath)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", certPath, err)
	}
	key, err := x509.ParseECPrivateKey(keyDER)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", keyPath, err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s and %s do not belong together; restore both from a backup, or remove the data directory to start anew", certPath, keyPath)
	}
	return &certified{cert, key}, nil
}

func readPEM(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("reading %s: not PEM", path)
	}
	return block.Bytes, nil
}

// writeFile replaces path atomically, mode 0600.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// issue makes a P-384 key and a certificate for it, signed by parent or, when
// that is nil, by itself.
func issue(template *x509.Certificate, parent *certified) (*certified, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.SignatureAlgorithm = x509.ECDSAWithSHA384
	signer := &certified{template, key}
	if parent != nil {
		signer = parent
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, &key.PublicKey, signer.key)
	if err != nil {
		return nil, fmt.Errorf("signing certificate %q: %w", template.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &certified{cert, key}, nil
}

// newKey draws P-384 keys until neither coordinate starts with a zero byte: a
// published client drops such bytes and would refuse about one key in 128.
func newKey() (*ecdsa.PrivateKey, error) {
	for {
		key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			return nil, err
		}
		point, err := key.PublicKey.Bytes() // 4 || x || y
		if err != nil {
			return nil, err
		}
		if point[1] != 0 && point[49] != 0 {
			return key, nil
		}
	}
}

// intermediate returns the certificate between root and leaves, renewed in time.
func (a *Authority) intermediate() (*certified, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if a.mid != nil && now.Add(leafLife).Before(a.mid.cert.NotAfter) {
		return a.mid, nil
	}
	mid, err := issue(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "cape development attestation intermediate"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(intermediateLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, &certified{a.root, a.key})
	if err != nil {
		return nil, err
	}
	a.mid = mid
	return mid, nil
}

// leaf issues the certificate of one module.
func (a *Authority) leaf(module string) (leaf, mid *certified, err error) {
	mid, err = a.intermediate()
	if err != nil {
		return nil, nil, err
	}
	now := a.now()
	leaf, err = issue(&x509.Certificate{
		Subject:   pkix.Name{CommonName: module},
		NotBefore: now.Add(-backdate),
		NotAfter:  now.Add(leafLife),
		KeyUsage:  x509.KeyUsageDigitalSignature,

		BasicConstraintsValid: true,
	}, mid)
	return leaf, mid, err
}
