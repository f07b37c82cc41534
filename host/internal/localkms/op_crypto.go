package localkms

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"hash"
	"maps"
	"slices"
	"strings"

	"github.com/cape-functions/cape/host/internal/localkms/keystore"
)

const (
	blobMagic   = "capekms1"
	blobPurpose = "ciphertext 1"
)

// blobHeader is the readable beginning of a CiphertextBlob, which names its
// key: magic, length of the id in one byte, id.
func blobHeader(id string) []byte {
	return append([]byte(blobMagic+string(rune(len(id)))), id...)
}

// splitBlob takes a CiphertextBlob apart.
func splitBlob(blob []byte) (id string, sealed []byte, ok bool) {
	rest, ok := bytes.CutPrefix(blob, []byte(blobMagic))
	if !ok || len(rest) < 1 || int(rest[0]) > len(rest)-1 {
		return "", nil, false
	}
	n := int(rest[0])
	return string(rest[1 : 1+n]), rest[1+n:], n > 0 && n < 0x80
}

// blobData is what a ciphertext authenticates besides its content: header and
// encryption context, each part with its length, in the order of names.
func blobData(header []byte, context map[string]string) []byte {
	out := binary.BigEndian.AppendUint32(nil, uint32(len(header)))
	out = append(out, header...)
	for _, name := range slices.Sorted(maps.Keys(context)) {
		for _, part := range []string{name, context[name]} {
			out = binary.BigEndian.AppendUint32(out, uint32(len(part)))
			out = append(out, part...)
		}
	}
	return out
}

// seal encrypts under a symmetric key.
func seal(k *key, context map[string]string, plaintext []byte) ([]byte, error) {
	header := blobHeader(k.ID)
	sealed, err := keystore.Seal(k.Material, blobPurpose, blobData(header, context), plaintext)
	if err != nil {
		return nil, internal(err)
	}
	return append(header, sealed...), nil
}

// unseal decrypts what seal made under the same context.
func unseal(k *key, context map[string]string, blob []byte) ([]byte, error) {
	id, sealed, ok := splitBlob(blob)
	if !ok || id != k.ID {
		return nil, errCiphertext()
	}
	out, err := keystore.Unseal(k.Material, blobPurpose, blobData(blobHeader(id), context), sealed)
	if err != nil {
		return nil, errCiphertext()
	}
	return out, nil
}

func errCiphertext() error {
	return fail(codeInvalidCiphertext, "the ciphertext was changed, is not one of this KMS, or has another encryption context")
}

func oaepHash(algorithm string) hash.Hash {
	if algorithm == algorithmOAEP1 {
		return sha1.New()
	}
	return sha256.New()
}

func (k *key) rsaKey() (*rsa.PrivateKey, error) {
	p, err := x509.ParsePKCS8PrivateKey(k.Material)
	if err != nil {
		return nil, internal(err)
	}
	r, ok := p.(*rsa.PrivateKey)
	if !ok {
		return nil, internal(x509.ErrUnsupportedAlgorithm)
	}
	return r, nil
}

// encryptWith encrypts under any key.
func encryptWith(k *key, algorithm string, context map[string]string, plaintext []byte) ([]byte, error) {
	if k.symmetric() {
		return seal(k, context, plaintext)
	}
	r, err := k.rsaKey()
	if err != nil {
		return nil, err
	}
	out, err := rsa.EncryptOAEP(oaepHash(algorithm), rand.Reader, &r.PublicKey, plaintext, nil)
	if err != nil {
		return nil, fail(codeValidation, "Plaintext is too long for a key of spec %s with %s", k.Spec, algorithm)
	}
	return out, nil
}

// decryptWith decrypts under any key.
func decryptWith(k *key, algorithm string, context map[string]string, blob []byte) ([]byte, error) {
	if k.symmetric() {
		return unseal(k, context, blob)
	}
	r, err := k.rsaKey()
	if err != nil {
		return nil, err
	}
	out, err := rsa.DecryptOAEP(oaepHash(algorithm), nil, r, blob, nil)
	if err != nil {
		return nil, errCiphertext()
	}
	return out, nil
}

// use authorizes a cryptographic operation and checks that key, algorithm and
// context fit together and that the key can be used.
func (c *call) use(k *key, action, algorithm string, context map[string]string, extra facts) error {
	if err := checkEncryptionContext(k, context); err != nil {
		return err
	}
	f := facts{}
	maps.Copy(f, extra)
	f.set("kms:encryptionalgorithm", algorithm)
	f.addEncryptionContext(context)
	if err := c.authorize(k, action, f); err != nil {
		return err
	}
	if k.State != stateEnabled {
		return c.badState(k)
	}
	if !slices.Contains(algorithmsOf(k.Spec), algorithm) {
		return fail(codeInvalidUsage, "%s cannot be used with a key of spec %s", algorithm, k.Spec)
	}
	return nil
}

func algorithmOr(algorithm string) string {
	if algorithm == "" {
		return specSymmetric
	}
	return algorithm
}

type encryptInput struct {
	KeyId               string
	Plaintext           []byte
	EncryptionContext   map[string]string
	EncryptionAlgorithm string
	GrantTokens         []string
	DryRun              bool
}

type encryptOutput struct {
	CiphertextBlob             []byte
	KeyId, EncryptionAlgorithm string
}

func encrypt(c *call, in *encryptInput) (*encryptOutput, error) {
	if n := len(in.Plaintext); n < 1 || n > maxPlaintext {
		return nil, fail(codeValidation, "Plaintext has %d bytes; it must have 1 to %d", n, maxPlaintext)
	}
	k, err := c.find(in.KeyId, in.GrantTokens)
	if err != nil {
		return nil, err
	}
	algorithm := algorithmOr(in.EncryptionAlgorithm)
	if err := c.use(k, c.operation, algorithm, in.EncryptionContext, nil); err != nil {
		return nil, err
	}
	if err := dryRun(in.DryRun); err != nil {
		return nil, err
	}
	blob, err := encryptWith(k, algorithm, in.EncryptionContext, in.Plaintext)
	if err != nil {
		return nil, err
	}
	return &encryptOutput{blob, c.s.keyARN(k.ID), algorithm}, nil
}

type decryptInput struct {
	CiphertextBlob      []byte
	EncryptionContext   map[string]string
	EncryptionAlgorithm string
	KeyId               string
	GrantTokens         []string
	Recipient           *recipientInfo
	DryRun              bool
	DryRunModifiers     []string
}

type decryptOutput struct {
	KeyId                  string
	Plaintext              []byte `json:",omitempty"`
	CiphertextForRecipient []byte `json:",omitempty"`
	EncryptionAlgorithm    string
}

func decrypt(c *call, in *decryptInput) (*decryptOutput, error) {
	algorithm := algorithmOr(in.EncryptionAlgorithm)
	if len(in.DryRunModifiers) > 0 {
		return nil, fail(codeUnsupported, "DryRunModifiers are not supported")
	}
	k, err := c.keyOfCiphertext(in.CiphertextBlob, algorithm, in.KeyId, in.GrantTokens)
	if err != nil {
		return nil, err
	}
	if err := c.openRecipient(in.Recipient); err != nil {
		return nil, err
	}
	if err := c.use(k, c.operation, algorithm, in.EncryptionContext, nil); err != nil {
		return nil, err
	}
	plain, err := decryptWith(k, algorithm, in.EncryptionContext, in.CiphertextBlob)
	if err != nil {
		return nil, err
	}
	if err := dryRun(in.DryRun); err != nil {
		return nil, err
	}
	out := &decryptOutput{KeyId: c.s.keyARN(k.ID), EncryptionAlgorithm: algorithm}
	out.Plaintext, out.CiphertextForRecipient, err = c.deliver(plain)
	return out, err
}

// keyOfCiphertext finds the key that a ciphertext names and compares it with
// the one that the request names, if it does.
func (c *call) keyOfCiphertext(blob []byte, algorithm, ref string, grantTokens []string) (*key, error) {
	if n := len(blob); n < 1 || n > maxCiphertext {
		return nil, fail(codeValidation, "the ciphertext has %d bytes; it must have 1 to %d", n, maxCiphertext)
	}
	var k *key
	var err error
	if ref != "" {
		if k, err = c.find(ref, grantTokens); err != nil {
			return nil, err
		}
	}
	if algorithm != specSymmetric {
		if k == nil {
			return nil, fail(codeValidation, "KeyId is needed: an RSA ciphertext does not name its key")
		}
		return k, nil
	}
	id, _, ok := splitBlob(blob)
	if !ok {
		return nil, errCiphertext()
	}
	if k != nil && k.ID != id {
		return nil, fail(codeIncorrectKey, "The key ID in the request does not identify a CMK that can perform this operation.")
	}
	if k, _, err = c.s.lookup(id, false); err != nil || strings.Contains(id, ":") {
		return nil, fail(codeAccessDenied, "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.")
	}
	return k, nil
}

type reEncryptInput struct {
	CiphertextBlob                 []byte
	SourceEncryptionContext        map[string]string
	SourceKeyId                    string
	DestinationKeyId               string
	DestinationEncryptionContext   map[string]string
	SourceEncryptionAlgorithm      string
	DestinationEncryptionAlgorithm string
	GrantTokens                    []string
	DryRun                         bool
	DryRunModifiers                []string
}

type reEncryptOutput struct {
	CiphertextBlob                 []byte
	SourceKeyId, KeyId             string
	SourceEncryptionAlgorithm      string
	DestinationEncryptionAlgorithm string
}

func reEncrypt(c *call, in *reEncryptInput) (*reEncryptOutput, error) {
	from, to := algorithmOr(in.SourceEncryptionAlgorithm), algorithmOr(in.DestinationEncryptionAlgorithm)
	if len(in.DryRunModifiers) > 0 {
		return nil, fail(codeUnsupported, "DryRunModifiers are not supported")
	}
	source, err := c.keyOfCiphertext(in.CiphertextBlob, from, in.SourceKeyId, in.GrantTokens)
	if err != nil {
		return nil, err
	}
	sourceAlias := c.alias
	target, err := c.find(in.DestinationKeyId, in.GrantTokens)
	if err != nil {
		return nil, err
	}
	targetAlias := c.alias
	same := facts{}
	same.flag("kms:reencryptonsamekey", source.ID == target.ID)
	c.alias = sourceAlias
	if err := c.use(source, "ReEncryptFrom", from, in.SourceEncryptionContext, same); err != nil {
		return nil, err
	}
	c.alias = targetAlias
	if err := c.use(target, "ReEncryptTo", to, in.DestinationEncryptionContext, same); err != nil {
		return nil, err
	}
	plain, err := decryptWith(source, from, in.SourceEncryptionContext, in.CiphertextBlob)
	if err != nil {
		return nil, err
	}
	if err := dryRun(in.DryRun); err != nil {
		return nil, err
	}
	blob, err := encryptWith(target, to, in.DestinationEncryptionContext, plain)
	if err != nil {
		return nil, err
	}
	return &reEncryptOutput{blob, c.s.keyARN(source.ID), c.s.keyARN(target.ID), from, to}, nil
}

type publicKeyInput struct {
	KeyId       string
	GrantTokens []string
}

type publicKeyOutput struct {
	KeyId                          string
	PublicKey                      []byte
	CustomerMasterKeySpec, KeySpec string
	KeyUsage                       string
	EncryptionAlgorithms           []string
}

func getPublicKey(c *call, in *publicKeyInput) (*publicKeyOutput, error) {
	k, err := c.find(in.KeyId, in.GrantTokens)
	if err != nil {
		return nil, err
	}
	if err := c.authorize(k, c.operation, nil); err != nil {
		return nil, err
	}
	if k.symmetric() {
		return nil, fail(codeUnsupported, "a key of spec %s has no public key", k.Spec)
	}
	if k.State != stateEnabled {
		return nil, c.badState(k)
	}
	r, err := k.rsaKey()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(&r.PublicKey)
	if err != nil {
		return nil, internal(err)
	}
	return &publicKeyOutput{c.s.keyARN(k.ID), der, k.Spec, k.Spec, usageEncrypt, algorithmsOf(k.Spec)}, nil
}
