package localkms

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"time"

	"github.com/cape-functions/cape/host/internal/localkms/keystore"
)

const (
	importLife    = 24 * time.Hour
	importPurpose = "import token 1"
	maxImport     = 6144
)

type importParametersInput struct {
	KeyId, WrappingAlgorithm, WrappingKeySpec string
}

type importParametersOutput struct {
	KeyId             string
	ImportToken       []byte
	PublicKey         []byte
	ParametersValidTo epoch
}

// importToken is what an import token holds, sealed.
type importToken struct {
	Key       string    `json:"key"`
	Algorithm string    `json:"alg"`
	Private   []byte    `json:"private"`
	Expires   time.Time `json:"expires"`
}

func getParametersForImport(c *call, in *importParametersInput) (*importParametersOutput, error) {
	extra := facts{}
	extra.set("kms:wrappingalgorithm", in.WrappingAlgorithm)
	extra.set("kms:wrappingkeyspec", in.WrappingKeySpec)
	k, err := c.manage(in.KeyId, extra)
	if err != nil {
		return nil, err
	}
	if err := c.importable(k); err != nil {
		return nil, err
	}
	if in.WrappingAlgorithm != algorithmOAEP256 && in.WrappingAlgorithm != algorithmOAEP1 || rsaBits(in.WrappingKeySpec) == 0 {
		return nil, fail(codeUnsupported, "WrappingAlgorithm must be %s or %s, WrappingKeySpec RSA_2048, RSA_3072 or RSA_4096", algorithmOAEP256, algorithmOAEP1)
	}
	p, err := c.s.pair(c.ctx, in.WrappingKeySpec)
	if err != nil {
		return nil, err
	}
	t := importToken{k.ID, in.WrappingAlgorithm, p.private, c.now.Add(importLife).UTC()}
	plain, err := json.Marshal(t)
	if err != nil {
		return nil, internal(err)
	}
	sealed, err := keystore.Seal(c.s.importKey, importPurpose, []byte(k.ID), plain)
	if err != nil {
		return nil, internal(err)
	}
	return &importParametersOutput{c.s.keyARN(k.ID), sealed, p.public, epoch(t.Expires)}, nil
}

// importable refuses keys whose material KMS made.
func (c *call) importable(k *key) error {
	if k.Origin != originExternal {
		return fail(codeUnsupported, "%s origin is %s, and material is imported into keys of origin EXTERNAL only.", c.s.keyARN(k.ID), k.Origin)
	}
	if k.State == stateDeleting {
		return c.badState(k)
	}
	return nil
}

type importInput struct {
	KeyId                string
	ImportToken          []byte
	EncryptedKeyMaterial []byte
	ValidTo              *epoch
	ExpirationModel      string
	ImportType           string
}

type importOutput struct{ KeyId string }

const (
	expires      = "KEY_MATERIAL_EXPIRES"
	neverExpires = "KEY_MATERIAL_DOES_NOT_EXPIRE"
)

func importKeyMaterial(c *call, in *importInput) (*importOutput, error) {
	model := in.ExpirationModel
	if model == "" {
		model = expires
	}
	extra := facts{}
	extra.set("kms:expirationmodel", model)
	k, err := c.manage(in.KeyId, extra)
	if err != nil {
		return nil, err
	}
	if err := c.importable(k); err != nil {
		return nil, err
	}
	validTo, err := c.materialValidTo(in, model)
	if err != nil {
		return nil, err
	}
	material, err := c.openMaterial(k, in)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(material)
	err = c.s.update(k.ID, func(k *key) error {
		if err := c.importable(k); err != nil {
			return err
		}
		if k.Digest != nil && !bytes.Equal(k.Digest, digest[:]) {
			return fail(codeIncorrectMaterial, "only the same key material can be imported again")
		}
		k.Material, k.Digest, k.Expiration, k.ValidTo = material, digest[:], model, validTo
		if k.State == stateImport {
			k.State = stateEnabled
		}
		return nil
	})
	return &importOutput{c.s.keyARN(k.ID)}, err
}

func (c *call) materialValidTo(in *importInput, model string) (time.Time, error) {
	switch {
	case in.ImportType != "" && in.ImportType != "EXISTING_KEY_MATERIAL" && in.ImportType != "NEW_KEY_MATERIAL":
		return time.Time{}, fail(codeValidation, "ImportType %q is unknown", in.ImportType)
	case model == neverExpires && in.ValidTo == nil:
		return time.Time{}, nil
	case model != expires || in.ValidTo == nil || !time.Time(*in.ValidTo).After(c.now):
		return time.Time{}, fail(codeValidation, "ExpirationModel must be %s with a ValidTo that is still to come, or %s without one", expires, neverExpires)
	}
	return time.Time(*in.ValidTo), nil
}

// openMaterial unwraps the imported key with the pair in the token.
func (c *call) openMaterial(k *key, in *importInput) ([]byte, error) {
	if len(in.ImportToken) > maxImport || len(in.EncryptedKeyMaterial) > maxImport {
		return nil, fail(codeValidation, "ImportToken and EncryptedKeyMaterial have at most %d bytes", maxImport)
	}
	plain, err := keystore.Unseal(c.s.importKey, importPurpose, []byte(k.ID), in.ImportToken)
	if err != nil {
		return nil, fail(codeInvalidImportToken, "the import token was not made here for this key")
	}
	var t importToken
	if err := json.Unmarshal(plain, &t); err != nil || t.Key != k.ID {
		return nil, fail(codeInvalidImportToken, "the import token was not made here for this key")
	}
	if !t.Expires.After(c.now) {
		return nil, fail(codeExpiredImportToken, "the import token is expired; get new parameters and encrypt the material again")
	}
	p, err := x509.ParsePKCS8PrivateKey(t.Private)
	if err != nil {
		return nil, internal(err)
	}
	private, ok := p.(*rsa.PrivateKey)
	if !ok {
		return nil, internal(x509.ErrUnsupportedAlgorithm)
	}
	material, err := rsa.DecryptOAEP(oaepHash(t.Algorithm), nil, private, in.EncryptedKeyMaterial, nil)
	if err != nil {
		return nil, errCiphertext()
	}
	if len(material) != 32 {
		return nil, fail(codeIncorrectMaterial, "the key material has %d bytes, and a SYMMETRIC_DEFAULT key has 32", len(material))
	}
	return material, nil
}

func deleteImportedKeyMaterial(c *call, in *keyInput) (*nothing, error) {
	k, err := c.manage(in.KeyId, nil)
	if err != nil {
		return nil, err
	}
	if err := c.importable(k); err != nil {
		return nil, err
	}
	return &nothing{}, c.s.update(k.ID, func(k *key) error {
		if err := c.importable(k); err != nil {
			return err
		}
		k.Material, k.Expiration, k.ValidTo, k.State = nil, "", time.Time{}, stateImport
		return nil
	})
}

type replicateInput struct {
	KeyId, ReplicaRegion           string
	Policy                         *string
	BypassPolicyLockoutSafetyCheck bool
	Description                    string
	Tags                           []tag
}

// replicateKey asks the policy, as AWS does, and then says that there is no
// other region to replicate to.
func replicateKey(c *call, in *replicateInput) (*nothing, error) {
	extra := facts{}
	extra.set("kms:replicaregion", in.ReplicaRegion)
	extra.flag("kms:bypasspolicylockoutsafetycheck", in.BypassPolicyLockoutSafetyCheck)
	k, err := c.manage(in.KeyId, extra)
	if err != nil {
		return nil, err
	}
	if !k.MultiRegion {
		return nil, fail(codeUnsupported, "%s is not a multi-Region key.", c.s.keyARN(k.ID))
	}
	return nil, fail(codeUnsupported, "this KMS has one region, %s, and nowhere to replicate to", c.s.region)
}
