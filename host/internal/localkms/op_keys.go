package localkms

import (
	"crypto/rand"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/cape-functions/cape/host/internal/localkms/policy"
)

// tag is one tag of a key.
type tag struct{ TagKey, TagValue string }

type createKeyInput struct {
	Policy                         *string
	Description                    string
	KeyUsage, KeySpec              string
	CustomerMasterKeySpec          string
	Origin                         string
	CustomKeyStoreId, XksKeyId     *string
	BypassPolicyLockoutSafetyCheck bool
	MultiRegion                    bool
	Tags                           []tag
}

type multiRegion struct {
	MultiRegionKeyType string
	PrimaryKey         struct{ Arn, Region string }
	ReplicaKeys        []struct{}
}

type keyMetadata struct {
	AWSAccountId             string
	KeyId, Arn               string
	CreationDate             epoch
	Enabled                  bool
	Description              string
	KeyUsage, KeyState       string
	DeletionDate, ValidTo    *epoch `json:",omitempty"`
	Origin                   string
	ExpirationModel          string `json:",omitempty"`
	KeyManager               string
	CustomerMasterKeySpec    string
	KeySpec                  string
	EncryptionAlgorithms     []string
	MultiRegion              bool
	MultiRegionConfiguration *multiRegion `json:",omitempty"`
}

type keyMetadataOutput struct{ KeyMetadata keyMetadata }

func (s *Server) metadata(k *key) keyMetadata {
	m := keyMetadata{
		AWSAccountId: s.account, KeyId: k.ID, Arn: s.keyARN(k.ID),
		CreationDate: epoch(k.Created), Enabled: k.State == stateEnabled,
		Description: k.Description, KeyUsage: usageEncrypt, KeyState: k.State,
		DeletionDate: when(k.Deletion), ValidTo: when(k.ValidTo),
		Origin: k.Origin, ExpirationModel: k.Expiration, KeyManager: "CUSTOMER",
		CustomerMasterKeySpec: k.Spec, KeySpec: k.Spec, MultiRegion: k.MultiRegion,
		EncryptionAlgorithms: algorithmsOf(k.Spec),
	}
	if k.MultiRegion {
		c := &multiRegion{MultiRegionKeyType: "PRIMARY", ReplicaKeys: []struct{}{}}
		c.PrimaryKey.Arn, c.PrimaryKey.Region = s.keyARN(k.ID), s.region
		m.MultiRegionConfiguration = c
	}
	return m
}

func algorithmsOf(spec string) []string {
	if spec == specSymmetric {
		return []string{specSymmetric}
	}
	return []string{algorithmOAEP1, algorithmOAEP256}
}

// rsaBits returns the size that an RSA spec names, 0 for other specs.
func rsaBits(spec string) int {
	switch spec {
	case "RSA_2048", "RSA_3072", "RSA_4096":
		n, _ := strconv.Atoi(spec[len("RSA_"):]) // digits, as listed
		return n
	}
	return 0
}

func createKey(c *call, in *createKeyInput) (*keyMetadataOutput, error) {
	if err := c.authorizeAccount(); err != nil {
		return nil, err
	}
	k, err := c.newKey(in)
	if err != nil {
		return nil, err
	}
	if err := c.setPolicy(k, in.Policy, in.BypassPolicyLockoutSafetyCheck); err != nil {
		return nil, err
	}
	if err := addTags(k, in.Tags); err != nil {
		return nil, err
	}
	if err := c.makeMaterial(k); err != nil {
		return nil, err
	}
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.keys) >= maxKeys {
		return nil, fail(codeLimitExceeded, "there are %d keys, and no more can be made", maxKeys)
	}
	if err := s.save(k); err != nil {
		return nil, err
	}
	c.key = k.ID
	return &keyMetadataOutput{s.metadata(k)}, nil
}

// newKey checks the parameters of CreateKey one by one.
func (c *call) newKey(in *createKeyInput) (*key, error) {
	or := func(v, otherwise string) string {
		if v == "" {
			return otherwise
		}
		return v
	}
	spec := or(in.KeySpec, or(in.CustomerMasterKeySpec, specSymmetric))
	origin := or(in.Origin, originKMS)
	switch {
	case in.KeySpec != "" && in.CustomerMasterKeySpec != "" && in.KeySpec != in.CustomerMasterKeySpec:
		return nil, fail(codeValidation, "KeySpec and CustomerMasterKeySpec contradict each other")
	case in.CustomKeyStoreId != nil || in.XksKeyId != nil:
		return nil, fail(codeUnsupported, "this KMS has no custom key stores")
	case or(in.KeyUsage, usageEncrypt) != usageEncrypt:
		return nil, fail(codeUnsupported, "KeyUsage must be %s", usageEncrypt)
	case spec != specSymmetric && rsaBits(spec) == 0:
		return nil, fail(codeUnsupported, "KeySpec must be SYMMETRIC_DEFAULT, RSA_2048, RSA_3072 or RSA_4096")
	case origin != originKMS && origin != originExternal:
		return nil, fail(codeUnsupported, "Origin must be AWS_KMS or EXTERNAL")
	case origin == originExternal && spec != specSymmetric:
		return nil, fail(codeUnsupported, "key material can be imported into SYMMETRIC_DEFAULT keys only")
	case len(in.Description) > maxDescription || !utf8.ValidString(in.Description):
		return nil, fail(codeValidation, "Description must be text of at most %d bytes", maxDescription)
	}
	return &key{
		ID: newKeyID(in.MultiRegion), Created: c.now.UTC(), Description: in.Description,
		Spec: spec, Origin: origin, MultiRegion: in.MultiRegion, State: stateEnabled,
	}, nil
}

func (c *call) makeMaterial(k *key) error {
	switch {
	case k.Origin == originExternal:
		k.State = stateImport
	case k.symmetric():
		k.Material = make([]byte, 32)
		_, _ = rand.Read(k.Material) // never fails (crypto/rand)
	default:
		p, err := c.s.pair(c.ctx, k.Spec)
		if err != nil {
			return err
		}
		k.Material = p.private
	}
	return nil
}

// setPolicy parses and checks a new policy; nil is AWS's default one.
func (c *call) setPolicy(k *key, text *string, bypass bool) error {
	if text == nil {
		d := `{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow",` +
			`"Principal":{"AWS":"arn:` + c.s.partition() + `:iam::` + c.s.account + `:root"},"Action":"kms:*","Resource":"*"}]}`
		text = &d
	}
	p, err := policy.Parse([]byte(*text))
	if err != nil {
		return err
	}
	k.Policy, k.policy = *text, p
	if bypass {
		return nil
	}
	// The new policy must let the caller change it again.
	extra := facts{}
	extra.flag("kms:bypasspolicylockoutsafetycheck", false)
	if p.Evaluate(c.request(k, "PutKeyPolicy", extra)) != policy.Allowed {
		return fail(codeMalformedPolicy, "The new key policy will not allow you to update the key policy in the future.")
	}
	return nil
}

type keyInput struct{ KeyId string }

type describeKeyInput struct {
	KeyId       string
	GrantTokens []string
}

func describeKey(c *call, in *describeKeyInput) (*keyMetadataOutput, error) {
	k, err := c.find(in.KeyId, in.GrantTokens)
	if err != nil {
		return nil, err
	}
	if err := c.authorize(k, c.operation, nil); err != nil {
		return nil, err
	}
	return &keyMetadataOutput{c.s.metadata(k)}, nil
}

// find looks a key up for an operation that takes aliases and grant tokens.
// Grants hold at once here, so a token adds nothing.
func (c *call) find(ref string, grantTokens []string) (*key, error) {
	if len(grantTokens) > maxGrantTokens {
		return nil, fail(codeValidation, "at most %d grant tokens can be sent", maxGrantTokens)
	}
	k, name, err := c.s.lookup(ref, true)
	c.alias = name
	return k, err
}

// manage looks a key up by id or ARN and authorizes the call's own operation.
func (c *call) manage(ref string, extra facts) (*key, error) {
	k, _, err := c.s.lookup(ref, false)
	if err != nil {
		return nil, err
	}
	return k, c.authorize(k, c.operation, extra)
}

// badState is the error for a key that is not in a state for the operation.
func (c *call) badState(k *key) error {
	if k.State == stateDisabled {
		return fail(codeDisabled, "%s is disabled.", c.s.keyARN(k.ID))
	}
	return fail(codeInvalidState, "%s is in state %s.", c.s.keyARN(k.ID), k.State)
}

type listKeysInput struct {
	Limit  *int
	Marker string
}

type keyEntry struct{ KeyId, KeyArn string }

type listKeysOutput struct {
	Keys []keyEntry
	page
}

func listKeys(c *call, in *listKeysInput) (*listKeysOutput, error) {
	if err := c.authorizeAccount(); err != nil {
		return nil, err
	}
	if err := c.s.purge(); err != nil {
		return nil, err
	}
	c.s.mu.RLock()
	ids := slices.Sorted(maps.Keys(c.s.keys))
	c.s.mu.RUnlock()
	ids, p, err := paginate(ids, in.Limit, 1000, in.Marker)
	if err != nil {
		return nil, err
	}
	out := &listKeysOutput{Keys: []keyEntry{}, page: p}
	for _, id := range ids {
		out.Keys = append(out.Keys, keyEntry{id, c.s.keyARN(id)})
	}
	return out, nil
}

type scheduleInput struct {
	KeyId               string
	PendingWindowInDays *int
}

type scheduleOutput struct {
	KeyId               string
	DeletionDate        epoch
	KeyState            string
	PendingWindowInDays int
}

func scheduleKeyDeletion(c *call, in *scheduleInput) (*scheduleOutput, error) {
	days := 30
	if in.PendingWindowInDays != nil {
		days = *in.PendingWindowInDays
	}
	if days < 7 || days > 30 {
		return nil, fail(codeValidation, "PendingWindowInDays must be 7 to 30")
	}
	extra := facts{}
	extra.set("kms:schedulekeydeletionpendingwindowindays", strconv.Itoa(days))
	k, err := c.manage(in.KeyId, extra)
	if err != nil {
		return nil, err
	}
	date := c.now.UTC().Add(time.Duration(days) * 24 * time.Hour)
	err = c.s.update(k.ID, func(k *key) error {
		if k.State == stateDeleting {
			return c.badState(k)
		}
		k.State, k.Deletion = stateDeleting, date
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &scheduleOutput{c.s.keyARN(k.ID), epoch(date), stateDeleting, days}, nil
}

func cancelKeyDeletion(c *call, in *keyInput) (*keyInput, error) {
	k, err := c.manage(in.KeyId, nil)
	if err != nil {
		return nil, err
	}
	err = c.s.update(k.ID, func(k *key) error {
		if k.State != stateDeleting {
			return c.badState(k)
		}
		k.State, k.Deletion = stateDisabled, time.Time{}
		if k.Material == nil {
			k.State = stateImport
		}
		return nil
	})
	return &keyInput{c.s.keyARN(k.ID)}, err
}

// enable serves EnableKey and DisableKey.
func enable(state string) func(*call, *keyInput) (*nothing, error) {
	return func(c *call, in *keyInput) (*nothing, error) {
		k, err := c.manage(in.KeyId, nil)
		if err != nil {
			return nil, err
		}
		return &nothing{}, c.s.update(k.ID, func(k *key) error {
			if k.State != stateEnabled && k.State != stateDisabled {
				return c.badState(k)
			}
			k.State = state
			return nil
		})
	}
}

type descriptionInput struct{ KeyId, Description string }

func updateKeyDescription(c *call, in *descriptionInput) (*nothing, error) {
	if len(in.Description) > maxDescription || !utf8.ValidString(in.Description) {
		return nil, fail(codeValidation, "Description must be text of at most %d bytes", maxDescription)
	}
	k, err := c.manage(in.KeyId, nil)
	if err != nil {
		return nil, err
	}
	return &nothing{}, c.s.update(k.ID, func(k *key) error {
		if k.State == stateDeleting {
			return c.badState(k)
		}
		k.Description = in.Description
		return nil
	})
}
