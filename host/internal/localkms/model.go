package localkms

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cape-functions/cape/host/internal/localkms/policy"
)

// Limits of one server and of its requests. Where AWS KMS publishes a figure,
// it is that one.
const (
	maxBody         = 512 << 10
	maxKeys         = 10_000
	maxAliases      = 1_000
	maxGrants       = 1_000
	maxTags         = 50
	maxPlaintext    = 4096
	maxCiphertext   = 6144
	maxDescription  = 8192
	maxContextBytes = 8192
	maxContextPairs = 64
	maxRandom       = 1024
	maxGrantTokens  = 10
)

// States of a key.
const (
	stateEnabled  = "Enabled"
	stateDisabled = "Disabled"
	stateDeleting = "PendingDeletion"
	stateImport   = "PendingImport"
)

// Values of a key's fields.
const (
	specSymmetric    = "SYMMETRIC_DEFAULT"
	algorithmOAEP1   = "RSAES_OAEP_SHA_1"
	algorithmOAEP256 = "RSAES_OAEP_SHA_256"
	usageEncrypt     = "ENCRYPT_DECRYPT"
	originKMS        = "AWS_KMS"
	originExternal   = "EXTERNAL"
)

// key is one KMS key. Keys in the server's map are never changed: an update
// replaces them.
type key struct {
	ID          string            `json:"id"`
	Created     time.Time         `json:"created"`
	Description string            `json:"description"`
	Policy      string            `json:"policy"`
	Spec        string            `json:"spec"`
	Origin      string            `json:"origin"`
	MultiRegion bool              `json:"multi_region"`
	State       string            `json:"state"`
	Deletion    time.Time         `json:"deletion,omitzero"`
	Expiration  string            `json:"expiration,omitempty"` // ExpirationModel of imported material
	ValidTo     time.Time         `json:"valid_to,omitzero"`
	Digest      []byte            `json:"digest,omitempty"` // SHA-256 of imported material
	Tags        map[string]string `json:"tags,omitempty"`
	Grants      []grant           `json:"grants,omitempty"`
	// Material is the 32-byte key, or a PKCS #8 private key; nil while an import
	// is awaited.
	Material []byte `json:"material"`

	policy *policy.Policy
}

// grant is one grant of a key.
type grant struct {
	ID         string            `json:"id"`
	Name       string            `json:"name,omitempty"`
	Created    time.Time         `json:"created"`
	Grantee    string            `json:"grantee"`
	Retiring   string            `json:"retiring,omitempty"`
	Issuer     string            `json:"issuer"`
	Operations []string          `json:"operations"`
	Equals     map[string]string `json:"equals,omitempty"`
	Subset     map[string]string `json:"subset,omitempty"`
}

// alias is a name of a key.
type alias struct {
	Target  string    `json:"target"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

func (k *key) symmetric() bool { return k.Spec == specSymmetric }

// clone returns a copy that may be changed.
func (k *key) clone() *key {
	c := *k
	c.Tags = maps.Clone(k.Tags)
	c.Grants = slices.Clone(k.Grants)
	return &c
}

// parseKey reads a stored key.
func parseKey(record []byte) (*key, error) {
	k := new(key)
	d := json.NewDecoder(bytes.NewReader(record))
	d.DisallowUnknownFields()
	if err := d.Decode(k); err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	var err error
	if k.policy, err = policy.Parse([]byte(k.Policy)); err != nil {
		return nil, fmt.Errorf("reading policy of key %s: %w", k.ID, err)
	}
	return k, nil
}

// epoch is a time as AWS's JSON protocol writes it: seconds since 1970.
type epoch time.Time

// MarshalJSON implements [json.Marshaler].
func (e epoch) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(time.Time(e).UnixMilli())/1000, 'f', 3, 64), nil
}

// UnmarshalJSON implements [json.Unmarshaler].
func (e *epoch) UnmarshalJSON(b []byte) error {
	f, err := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
	if err != nil || f < 0 || f > 1e11 {
		return fmt.Errorf("not a time in seconds since 1970")
	}
	*e = epoch(time.UnixMilli(int64(f * 1000)).UTC())
	return nil
}

// when returns nil for the zero time, so that it is left out.
func when(t time.Time) *epoch {
	if t.IsZero() {
		return nil
	}
	e := epoch(t)
	return &e
}
