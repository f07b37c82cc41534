package keyring

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/cape-functions/cape/core/secret"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/keyring/cms"
	"github.com/cape-functions/cape/enclave/internal/nsm"
)

// Sizes of what is wrapped.
const (
	dataKeySize = 32
	keyPairBits = 4096
	keyExponent = 65537
)

// doing puts what was being done before an error.
func doing(what string, err *error) {
	if *err != nil {
		*err = fmt.Errorf("%s: %w", what, *err)
	}
}

// NewDataKey makes an AES-256 key, and returns it with its CiphertextBlob.
func (k *Keyring) NewDataKey(ctx context.Context, c Context) (key secret.Bytes, blob []byte, err error) {
	defer doing("making a data key", &err)
	pairs, recipient, err := k.prepare(c)
	if err != nil {
		return key, nil, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	out, err := k.kms.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId: &k.arn, KeySpec: types.DataKeySpecAes256, EncryptionContext: pairs, Recipient: recipient,
	})
	if err != nil {
		return key, nil, classify(err)
	}
	if err := checkBlob(out.CiphertextBlob); err != nil {
		return key, nil, err
	}
	if key, err = k.openDataKey(out.KeyId, out.Plaintext, out.CiphertextForRecipient); err != nil {
		return key, nil, err
	}
	return key, out.CiphertextBlob, nil
}

// OpenDataKey unwraps a key of NewDataKey; c must be the same.
func (k *Keyring) OpenDataKey(ctx context.Context, blob []byte, c Context) (key secret.Bytes, err error) {
	defer doing("opening a data key", &err)
	out, err := k.decrypt(ctx, blob, c)
	if err != nil {
		return key, err
	}
	return k.openDataKey(out.KeyId, out.Plaintext, out.CiphertextForRecipient)
}

// NewKeyPair makes an RSA-4096 pair, and returns it with the blob of its private half.
func (k *Keyring) NewKeyPair(ctx context.Context, c Context) (key *rsa.PrivateKey, blob []byte, err error) {
	defer doing("making a key pair", &err)
	pairs, recipient, err := k.prepare(c)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	out, err := k.kms.GenerateDataKeyPair(ctx, &kms.GenerateDataKeyPairInput{
		KeyId: &k.arn, KeyPairSpec: types.DataKeyPairSpecRsa4096, EncryptionContext: pairs, Recipient: recipient,
	})
	if err != nil {
		return nil, nil, classify(err)
	}
	if err := checkBlob(out.PrivateKeyCiphertextBlob); err != nil {
		return nil, nil, err
	}
	if key, err = k.openKeyPair(out.KeyId, out.PrivateKeyPlaintext, out.CiphertextForRecipient); err != nil {
		return nil, nil, err
	}
	return key, out.PrivateKeyCiphertextBlob, nil
}

// OpenKeyPair unwraps a pair of NewKeyPair; c must be the same. The public half is
// derived from the private one.
func (k *Keyring) OpenKeyPair(ctx context.Context, blob []byte, c Context) (key *rsa.PrivateKey, err error) {
	defer doing("opening a key pair", &err)
	out, err := k.decrypt(ctx, blob, c)
	if err != nil {
		return nil, err
	}
	return k.openKeyPair(out.KeyId, out.Plaintext, out.CiphertextForRecipient)
}

func (k *Keyring) decrypt(ctx context.Context, blob []byte, c Context) (*kms.DecryptOutput, error) {
	if len(blob) == 0 || len(blob) > wire.MaxWrapped {
		return nil, fmt.Errorf("%w: it has %d bytes, 1 to %d are allowed", ErrWrapped, len(blob), wire.MaxWrapped)
	}
	pairs, recipient, err := k.prepare(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	out, err := k.kms.Decrypt(ctx, &kms.DecryptInput{
		KeyId: &k.arn, CiphertextBlob: blob, EncryptionContext: pairs, Recipient: recipient,
		EncryptionAlgorithm: types.EncryptionAlgorithmSpecSymmetricDefault,
	})
	if err != nil {
		return nil, classify(err)
	}
	return out, nil
}

// prepare returns the encryption context and a fresh attestation document, made for this
// call alone: KMS takes documents of the last minutes only.
func (k *Keyring) prepare(c Context) (map[string]string, *types.RecipientInfo, error) {
	pairs, err := c.pairs()
	if err != nil {
		return nil, nil, err
	}
	to, err := k.recipient()
	if err != nil {
		return nil, nil, err
	}
	doc, err := k.nsm.Attest(nsm.Request{PublicKey: to.spki})
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrAttest, err)
	}
	return pairs, &types.RecipientInfo{
		AttestationDocument: doc, KeyEncryptionAlgorithm: types.KeyEncryptionMechanismRsaesOaepSha256,
	}, nil
}

// open returns what KMS encrypted for this enclave. A plaintext beside it would have
// been readable by whoever is at the other end: it shows that Recipient was ignored.
func (k *Keyring) open(keyID *string, plaintext, sealed []byte) (secret.Bytes, error) {
	if keyID == nil || *keyID != k.arn {
		return secret.Bytes{}, ErrOtherKey
	}
	if len(plaintext) != 0 {
		clear(plaintext)
		return secret.Bytes{}, fmt.Errorf("%w: it holds a key in plain", ErrAnswer)
	}
	to, err := k.recipient()
	if err != nil {
		return secret.Bytes{}, err
	}
	out, err := cms.Open(sealed, to.key)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return out, nil
}

func (k *Keyring) openDataKey(keyID *string, plaintext, sealed []byte) (secret.Bytes, error) {
	key, err := k.open(keyID, plaintext, sealed)
	if err == nil && key.Len() != dataKeySize {
		key.Wipe()
		return secret.Bytes{}, fmt.Errorf("%w: a data key of another size", ErrAnswer)
	}
	return key, err
}

// openKeyPair reads PKCS#8, which is what KMS gives out (API_GenerateDataKeyPair).
func (k *Keyring) openKeyPair(keyID *string, plaintext, sealed []byte) (*rsa.PrivateKey, error) {
	der, err := k.open(keyID, plaintext, sealed)
	if err != nil {
		return nil, err
	}
	defer der.Wipe()
	parsed, err := x509.ParsePKCS8PrivateKey(der.Reveal())
	if err != nil {
		return nil, fmt.Errorf("%w: not a private key", ErrAnswer) // the parser's text may quote the key
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok || key.N.BitLen() != keyPairBits || key.E != keyExponent || len(key.Primes) != 2 {
		return nil, fmt.Errorf("%w: not an RSA-4096 key", ErrAnswer)
	}
	return key, nil
}

func checkBlob(blob []byte) error {
	if len(blob) == 0 || len(blob) > wire.MaxWrapped {
		return fmt.Errorf("%w: a blob of %d bytes, 1 to %d are allowed", ErrAnswer, len(blob), wire.MaxWrapped)
	}
	return nil
}
