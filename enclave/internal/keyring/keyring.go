package keyring

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/cape-functions/cape/core/keypolicy"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/nsm"
)

// Bounds of a call.
const (
	callTimeout = wire.LinkCall
	attempts    = 3
	maxBackoff  = time.Second / 2
)

// recipientBits is the size of the key pair that KMS encrypts to; the attestation
// document has room for it.
const recipientBits = 2048

// Config says which KMS, key and role a Keyring uses.
type Config struct {
	// HTTP carries every request; NewHTTPClient makes a fitting one.
	HTTP *http.Client
	// KMSEndpoint and STSEndpoint are https URLs, for cape-runtime-dev alone; empty:
	// AWS's own for the key's Region.
	KMSEndpoint, STSEndpoint string
	// Credentials are those of Role, as the host hands them over.
	Credentials aws.CredentialsProvider
	// KeyARN is the full ARN of the KEK; aliases are refused. Empty for Create.
	KeyARN string
	// Region is where Create makes the KEK. Otherwise it is taken from KeyARN.
	Region string
	// Role is the ARN of the IAM role that the credentials must belong to.
	Role string
	// NSM attests the enclave to KMS.
	NSM *nsm.Device
}

// Keyring wraps and unwraps keys under one KEK. It is safe for concurrent use.
type Keyring struct {
	kms   *kms.Client
	sts   *sts.Client
	nsm   *nsm.Device
	arn   string
	where place
	role  string

	recipient func() (recipient, error) // made meanwhile; lives as long as the Keyring
}

// recipient is what KMS encrypts to.
type recipient struct {
	key  *rsa.PrivateKey
	spki []byte // its public half, for the attestation document
}

func makeRecipient() (r recipient, err error) {
	if r.key, err = rsa.GenerateKey(rand.Reader, recipientBits); err == nil {
		r.spki, err = x509.MarshalPKIXPublicKey(&r.key.PublicKey)
	}
	if err != nil {
		return r, fmt.Errorf("%w: making a key pair for KMS: %w", ErrConfig, err)
	}
	return r, nil
}

// New returns a Keyring for cfg. It begins to make the key pair that KMS will encrypt to, and
// speaks to nobody yet: call Inspect before anything else. Errors match ErrConfig.
func New(cfg Config) (*Keyring, error) {
	where, err := parseKey(cfg.KeyARN)
	if err != nil {
		return nil, err
	}
	k, err := newKeyring(cfg, where)
	if err == nil {
		go func() { _, _ = k.recipient() }() // whoever needs it first waits for it, and hears its error
	}
	return k, err
}

func newKeyring(cfg Config, where place) (*Keyring, error) {
	if cfg.HTTP == nil || cfg.Credentials == nil || cfg.NSM == nil {
		return nil, fmt.Errorf("%w: HTTP client, credentials and security module are needed", ErrConfig)
	}
	if partition, account, ok := keypolicy.ParseRole(cfg.Role); !ok || partition != where.partition || account != where.account {
		return nil, fmt.Errorf("%w: %q is not a role of account %s in %s", ErrConfig, cfg.Role, where.account, where.partition)
	}
	k := &Keyring{nsm: cfg.NSM, arn: cfg.KeyARN, where: where, role: cfg.Role}
	if err := k.connect(cfg); err != nil {
		return nil, err
	}
	k.recipient = sync.OnceValues(makeRecipient)
	return k, nil
}

// connect makes the clients. Both are made from options alone: the SDK's way through
// environment, shared files and instance metadata is not linked.
func (k *Keyring) connect(cfg Config) error {
	kmsURL, stsURL := cfg.KMSEndpoint, cfg.STSEndpoint
	if kmsURL == "" || stsURL == "" {
		ofKMS, ofSTS, err := k.where.endpoints()
		if err != nil {
			return err
		}
		if kmsURL == "" {
			kmsURL = ofKMS
		}
		if stsURL == "" {
			stsURL = ofSTS
		}
	}
	kmsHTTP, err := newGuard(cfg.HTTP, kmsURL)
	if err != nil {
		return err
	}
	stsHTTP, err := newGuard(cfg.HTTP, stsURL)
	if err != nil {
		return err
	}
	retryer := retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = attempts, maxBackoff })
	k.kms = kms.New(kms.Options{
		Region: k.where.region, BaseEndpoint: &kmsURL, HTTPClient: kmsHTTP, Credentials: cfg.Credentials, Retryer: retryer,
	})
	k.sts = sts.New(sts.Options{
		Region: k.where.region, BaseEndpoint: &stsURL, HTTPClient: stsHTTP, Credentials: cfg.Credentials, Retryer: retryer,
	})
	return nil
}
