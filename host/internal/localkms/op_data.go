package localkms

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
)

type dataKeyInput struct {
	KeyId             string
	EncryptionContext map[string]string
	NumberOfBytes     *int
	KeySpec           string
	GrantTokens       []string
	Recipient         *recipientInfo
	DryRun            bool
}

// size returns how many bytes the data key has.
func (in *dataKeyInput) size() (int, error) {
	switch {
	case in.KeySpec == "AES_256" && in.NumberOfBytes == nil:
		return 32, nil
	case in.KeySpec == "AES_128" && in.NumberOfBytes == nil:
		return 16, nil
	case in.KeySpec == "" && in.NumberOfBytes != nil && *in.NumberOfBytes >= 1 && *in.NumberOfBytes <= maxRandom:
		return *in.NumberOfBytes, nil
	}
	return 0, fail(codeValidation, "either KeySpec (AES_256, AES_128) or NumberOfBytes (1 to %d) is needed", maxRandom)
}

type dataKeyOutput struct {
	CiphertextBlob         []byte
	Plaintext              []byte `json:",omitempty"`
	KeyId                  string
	CiphertextForRecipient []byte `json:",omitempty"`
}

// generateDataKey serves GenerateDataKey and GenerateDataKeyWithoutPlaintext,
// which cannot be attested.
func generateDataKey(show bool) func(*call, *dataKeyInput) (*dataKeyOutput, error) {
	return func(c *call, in *dataKeyInput) (*dataKeyOutput, error) {
		size, err := in.size()
		if err != nil {
			return nil, err
		}
		k, err := c.wrapping(in.KeyId, in.GrantTokens, in.Recipient, show)
		if err != nil {
			return nil, err
		}
		if err := c.use(k, c.operation, specSymmetric, in.EncryptionContext, nil); err != nil {
			return nil, err
		}
		if err := dryRun(in.DryRun); err != nil {
			return nil, err
		}
		secret := make([]byte, size)
		_, _ = rand.Read(secret) // never fails (crypto/rand)
		out := &dataKeyOutput{KeyId: c.s.keyARN(k.ID)}
		if out.CiphertextBlob, err = seal(k, in.EncryptionContext, secret); err != nil {
			return nil, err
		}
		if show {
			out.Plaintext, out.CiphertextForRecipient, err = c.deliver(secret)
		}
		return out, err
	}
}

// wrapping finds the key of a GenerateDataKey operation and verifies the
// Recipient where the operation has one.
func (c *call) wrapping(ref string, grantTokens []string, in *recipientInfo, attested bool) (*key, error) {
	k, err := c.find(ref, grantTokens)
	if err != nil {
		return nil, err
	}
	if !attested && in != nil {
		return nil, fail(codeValidation, "%s has no parameter Recipient", c.operation)
	}
	return k, c.openRecipient(in)
}

type dataKeyPairInput struct {
	KeyId             string
	EncryptionContext map[string]string
	KeyPairSpec       string
	GrantTokens       []string
	Recipient         *recipientInfo
	DryRun            bool
}

type dataKeyPairOutput struct {
	PrivateKeyCiphertextBlob []byte
	PrivateKeyPlaintext      []byte `json:",omitempty"`
	PublicKey                []byte
	KeyId, KeyPairSpec       string
	CiphertextForRecipient   []byte `json:",omitempty"`
}

// generateDataKeyPair serves GenerateDataKeyPair and its WithoutPlaintext form.
func generateDataKeyPair(show bool) func(*call, *dataKeyPairInput) (*dataKeyPairOutput, error) {
	return func(c *call, in *dataKeyPairInput) (*dataKeyPairOutput, error) {
		if rsaBits(in.KeyPairSpec) == 0 && curve(in.KeyPairSpec) == nil {
			return nil, fail(codeUnsupported, "KeyPairSpec must be RSA_2048, RSA_3072, RSA_4096, ECC_NIST_P256, ECC_NIST_P384 or ECC_NIST_P521")
		}
		k, err := c.wrapping(in.KeyId, in.GrantTokens, in.Recipient, show)
		if err != nil {
			return nil, err
		}
		extra := facts{}
		extra.set("kms:datakeypairspec", in.KeyPairSpec)
		if err := c.use(k, c.operation, specSymmetric, in.EncryptionContext, extra); err != nil {
			return nil, err
		}
		if err := dryRun(in.DryRun); err != nil {
			return nil, err
		}
		p, err := c.s.pair(c.ctx, in.KeyPairSpec)
		if err != nil {
			return nil, err
		}
		out := &dataKeyPairOutput{PublicKey: p.public, KeyId: c.s.keyARN(k.ID), KeyPairSpec: in.KeyPairSpec}
		if out.PrivateKeyCiphertextBlob, err = seal(k, in.EncryptionContext, p.private); err != nil {
			return nil, err
		}
		if show {
			out.PrivateKeyPlaintext, out.CiphertextForRecipient, err = c.deliver(p.private)
		}
		return out, err
	}
}

func curve(spec string) elliptic.Curve {
	switch spec {
	case "ECC_NIST_P256":
		return elliptic.P256()
	case "ECC_NIST_P384":
		return elliptic.P384()
	case "ECC_NIST_P521":
		return elliptic.P521()
	}
	return nil
}

// pair makes a key pair of a spec that was checked.
func (s *Server) pair(ctx context.Context, spec string) (pair, error) {
	var p pair
	var err error
	switch bits := rsaBits(spec); {
	case bits == pooledBits:
		p, err = s.pool.get(ctx)
	case bits > 0:
		p, err = s.pool.make(ctx, bits, nil)
	default:
		var k *ecdsa.PrivateKey
		if k, err = ecdsa.GenerateKey(curve(spec), rand.Reader); err == nil {
			p, err = encodePair(k, &k.PublicKey)
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return p, fail(codeThrottling, "making a key pair took too long; try again")
	}
	if err != nil {
		return p, internal(err)
	}
	return p, nil
}

type randomInput struct {
	NumberOfBytes    *int
	CustomKeyStoreId *string
	Recipient        *recipientInfo
}

type randomOutput struct {
	Plaintext              []byte `json:",omitempty"`
	CiphertextForRecipient []byte `json:",omitempty"`
}

func generateRandom(c *call, in *randomInput) (*randomOutput, error) {
	switch {
	case in.CustomKeyStoreId != nil:
		return nil, fail(codeUnsupported, "this KMS has no custom key stores")
	case in.NumberOfBytes == nil || *in.NumberOfBytes < 1 || *in.NumberOfBytes > maxRandom:
		return nil, fail(codeValidation, "NumberOfBytes must be 1 to %d", maxRandom)
	}
	if err := c.openRecipient(in.Recipient); err != nil {
		return nil, err
	}
	if err := c.authorizeAccount(); err != nil {
		return nil, err
	}
	b := make([]byte, *in.NumberOfBytes)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	out := &randomOutput{}
	var err error
	out.Plaintext, out.CiphertextForRecipient, err = c.deliver(b)
	return out, err
}
