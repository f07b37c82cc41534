package keyring

import (
	"context"
	"crypto/rsa"
	"errors"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/cape-functions/cape/core/secret"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/nsm"
)

// Purposes of wrapped keys, for Context.Purpose.
const (
	PurposeFunction = "function" // the DEK of one function
	PurposeCapeKey  = "cape-key" // the Cape Key pair of one account
)

// Config says which KMS, key and role a Keyring uses.
type Config struct {
	// HTTP carries every request; NewHTTPClient makes a fitting one.
	HTTP *http.Client
	// KMSEndpoint and STSEndpoint are https URLs, for cape-runtime-dev alone; empty:
	// AWS's own for the key's region.
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

// Context is the encryption context of a wrapped key. KMS unwraps a key only under the
// context it was wrapped under; empty fields are left out.
type Context struct {
	Purpose  string // cape:purpose, one of the constants above
	Account  string // cape:account
	Function string // cape:function
	Manifest string // cape:manifest
}

// Keyring wraps and unwraps keys under one KEK. It is safe for concurrent use.
type Keyring struct{}

// New returns a Keyring for cfg. It makes the key pair that KMS will encrypt to, and
// speaks to nobody yet: call Inspect before anything else.
func New(cfg Config) (*Keyring, error) { return nil, errors.ErrUnsupported }

// Inspect looks at the KEK and at the credentials, and returns the exact text of the key
// policy when all of spec/kms.md holds. Errors match one of the sentinels of errors.go.
func (k *Keyring) Inspect(ctx context.Context) (policy []byte, err error) {
	return nil, errors.ErrUnsupported
}

// NewDataKey makes an AES-256 key, and returns it with its CiphertextBlob.
func (k *Keyring) NewDataKey(ctx context.Context, c Context) (secret.Bytes, []byte, error) {
	return secret.Bytes{}, nil, errors.ErrUnsupported
}

// OpenDataKey unwraps a key of NewDataKey; c must be the same.
func (k *Keyring) OpenDataKey(ctx context.Context, blob []byte, c Context) (secret.Bytes, error) {
	return secret.Bytes{}, errors.ErrUnsupported
}

// NewKeyPair makes an RSA-4096 pair, and returns it with the blob of its private half.
func (k *Keyring) NewKeyPair(ctx context.Context, c Context) (*rsa.PrivateKey, []byte, error) {
	return nil, nil, errors.ErrUnsupported
}

// OpenKeyPair unwraps a pair of NewKeyPair; c must be the same. The public half is
// derived from the private one.
func (k *Keyring) OpenKeyPair(ctx context.Context, blob []byte, c Context) (*rsa.PrivateKey, error) {
	return nil, errors.ErrUnsupported
}

// Create makes a KEK with its final policy, inspects it, and returns its birth document.
// cfg.KeyARN is empty, cfg.Region says where. PCR16 must have been extended and locked.
func Create(ctx context.Context, cfg Config, req wire.KEKRequest) (wire.Birth, error) {
	return wire.Birth{}, errors.ErrUnsupported
}

// CheckBirth verifies the birth document of the KEK arn with the exact policy text, at
// the document's own time. Roots are DER; none means AWS's root alone.
func CheckBirth(doc []byte, arn string, policy []byte, roots ...[]byte) error {
	return errors.ErrUnsupported
}
