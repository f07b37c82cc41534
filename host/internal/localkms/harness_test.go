package localkms

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/core/wire"
	cms "github.com/cape-functions/cape/host/internal/localkms/cms/testkit"
)

const (
	testRegion  = "eu-central-1"
	testAccount = "111122223333"
	testRole    = "arn:aws:iam::111122223333:role/cape-runtime"
	adminRole   = "arn:aws:iam::111122223333:role/admin"
	rootARN     = "arn:aws:iam::111122223333:root"
)

// world is a server that can be reached, with an attestation authority.
type world struct {
	t         testing.TB
	server    *Server
	url       string
	transport *http.Transport
	authority *testkit.Authority
	shift     atomic.Int64 // of the server's clock
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.shift.Load())) }

func newWorld(t testing.TB, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, authority: testkit.NewAuthority("local KMS test", time.Now())}
	c := Config{
		Dir: t.TempDir(), Region: testRegion, AccountID: testAccount, Pairs: -1, Now: w.now,
		AttestationRoots: func() [][]byte { return [][]byte{w.authority.Root} },
	}
	for _, f := range change {
		f(&c)
	}
	var err error
	if w.server, err = Open(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.server.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(l) }()
	t.Cleanup(func() {
		_ = w.server.Close()
		if err := <-served; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	w.url = "https://" + l.Addr().String()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(w.server.CertificatePEM()) {
		t.Fatal("CA is not PEM")
	}
	w.transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(w.transport.CloseIdleConnections)
	return w
}

func (w *world) provider(c wire.Credentials) aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.Token)
}

// kms returns AWS's own client for a principal.
func (w *world) kms(principal string, change ...func(*kms.Options)) *kms.Client {
	o := kms.Options{
		Region: testRegion, BaseEndpoint: &w.url, Retryer: aws.NopRetryer{},
		Credentials: w.provider(w.server.Credentials(principal)),
		HTTPClient:  &http.Client{Transport: w.transport},
	}
	return kms.New(o, change...)
}

func (w *world) sts(principal string) *sts.Client {
	return sts.New(sts.Options{
		Region: testRegion, BaseEndpoint: &w.url, Retryer: aws.NopRetryer{},
		Credentials: w.provider(w.server.Credentials(principal)),
		HTTPClient:  &http.Client{Transport: w.transport},
	})
}

// newKey makes a key; with a policy the lockout check is left out.
func (w *world) newKey(policy string) string {
	w.t.Helper()
	in := &kms.CreateKeyInput{}
	if policy != "" {
		in.Policy, in.BypassPolicyLockoutSafetyCheck = &policy, true
	}
	out, err := w.kms(adminRole).CreateKey(w.t.Context(), in)
	if err != nil {
		w.t.Fatal(err)
	}
	return *out.KeyMetadata.Arn
}

// allowAll is a policy that allows a principal everything.
func allowAll(principal string) string { return policyOf(allow(principal, "kms:*")) }

func policyOf(statements ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}

func allow(principal, action string) string {
	return fmt.Sprintf(`{"Effect":"Allow","Principal":{"AWS":%q},"Action":%q,"Resource":"*"}`, principal, action)
}

// wantCode checks the error code that the SDK saw; empty means success.
func wantCode(t testing.TB, err error, code string) {
	t.Helper()
	var e smithy.APIError
	switch {
	case err == nil && code == "":
	case err == nil:
		t.Errorf("succeeded, want %s", code)
	case !errors.As(err, &e):
		t.Errorf("not an answer of the service: %v", err)
	case e.ErrorCode() != code:
		t.Errorf("got %s (%s), want %q", e.ErrorCode(), e.ErrorMessage(), code)
	}
}

var enclaveKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// document makes a document of the authority for the enclave's key.
func (w *world) document(change ...func(*nitro.Document)) []byte {
	w.t.Helper()
	return w.signed(w.authority, change...)
}

// signed is the same under any authority.
func (w *world) signed(a *testkit.Authority, change ...func(*nitro.Document)) []byte {
	w.t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&enclaveKey().PublicKey)
	if err != nil {
		w.t.Fatal(err)
	}
	d := a.Document(w.now())
	d.PublicKey = der
	d.PCRs[16] = testkit.PCR(16)
	for _, f := range change {
		f(&d)
	}
	return a.Sign(d)
}

func recipientOf(document []byte) *types.RecipientInfo {
	return &types.RecipientInfo{AttestationDocument: document, KeyEncryptionAlgorithm: types.KeyEncryptionMechanismRsaesOaepSha256}
}

func open(t testing.TB, envelope []byte) []byte {
	t.Helper()
	out, err := cms.Open(envelope, enclaveKey())
	if err != nil {
		t.Fatalf("opening CiphertextForRecipient: %v", err)
	}
	return out
}
