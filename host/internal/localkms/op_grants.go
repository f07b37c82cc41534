package localkms

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"regexp"
	"slices"
)

// grantPattern matches the operations that a grant can permit.
var grantPattern = regexp.MustCompile(`^(Decrypt|Encrypt|GenerateDataKey|GenerateDataKeyWithoutPlaintext|GenerateDataKeyPair|GenerateDataKeyPairWithoutPlaintext|ReEncryptFrom|ReEncryptTo|CreateGrant|RetireGrant|DescribeKey|GetPublicKey)$`)

type grantConstraints struct {
	EncryptionContextEquals map[string]string `json:",omitempty"`
	EncryptionContextSubset map[string]string `json:",omitempty"`
}

type createGrantInput struct {
	KeyId             string
	GranteePrincipal  string
	RetiringPrincipal string
	Operations        []string
	Constraints       *grantConstraints
	GrantTokens       []string
	Name              string
	DryRun            bool
}

type createGrantOutput struct{ GrantId, GrantToken string }

func createGrant(c *call, in *createGrantInput) (*createGrantOutput, error) {
	if len(in.GrantTokens) > maxGrantTokens {
		return nil, fail(codeValidation, "at most %d grant tokens can be sent", maxGrantTokens)
	}
	g, err := c.newGrant(in)
	if err != nil {
		return nil, err
	}
	k, err := c.manage(in.KeyId, grantFacts(g))
	if err != nil {
		return nil, err
	}
	if err := checkEncryptionContext(k, g.Equals); err != nil {
		return nil, err
	}
	if err := checkEncryptionContext(k, g.Subset); err != nil {
		return nil, err
	}
	if err := dryRun(in.DryRun); err != nil {
		return nil, err
	}
	out := &createGrantOutput{GrantId: g.ID}
	err = c.s.update(k.ID, func(k *key) error {
		if k.State != stateEnabled {
			return c.badState(k)
		}
		for _, have := range k.Grants {
			if g.Name != "" && have.same(g) {
				out.GrantId = have.ID // asked again: the same grant
				return nil
			}
		}
		if len(k.Grants) >= maxGrants {
			return fail(codeLimitExceeded, "the key has %d grants, and no more can be made", maxGrants)
		}
		k.Grants = append(k.Grants, g)
		return nil
	})
	if err != nil {
		return nil, err
	}
	id, err := hex.DecodeString(out.GrantId)
	if err != nil {
		return nil, internal(err)
	}
	out.GrantToken = base64.StdEncoding.EncodeToString(id)
	return out, nil
}

func (c *call) newGrant(in *createGrantInput) (grant, error) {
	g := grant{Name: in.Name, Created: c.now.UTC(), Grantee: in.GranteePrincipal, Retiring: in.RetiringPrincipal, Issuer: c.who.identity()}
	for _, p := range []string{in.GranteePrincipal, in.RetiringPrincipal} {
		if _, ok := newCaller(p); !ok && !sessionPattern.MatchString(p) && (p != "" || p == in.GranteePrincipal) {
			return g, fail(codeInvalidArn, "%q is not the ARN of a principal", p)
		}
	}
	if len(in.Operations) == 0 || len(in.Name) > 256 {
		return g, fail(codeValidation, "a grant needs Operations, and its Name has at most 256 bytes")
	}
	for _, o := range in.Operations {
		if !grantPattern.MatchString(o) {
			return g, fail(codeValidation, "%q is not an operation that can be granted here", o)
		}
	}
	g.Operations = slices.Compact(slices.Sorted(slices.Values(in.Operations)))
	if in.Constraints != nil {
		g.Equals, g.Subset = in.Constraints.EncryptionContextEquals, in.Constraints.EncryptionContextSubset
	}
	if len(g.Equals) > 0 && len(g.Subset) > 0 {
		return g, fail(codeValidation, "a grant has one constraint, not two")
	}
	var id [32]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	g.ID = hex.EncodeToString(id[:])
	return g, nil
}

func (g grant) same(o grant) bool {
	return g.Name == o.Name && g.Grantee == o.Grantee && g.Retiring == o.Retiring && g.Issuer == o.Issuer &&
		slices.Equal(g.Operations, o.Operations) && maps.Equal(g.Equals, o.Equals) && maps.Equal(g.Subset, o.Subset)
}

func grantFacts(g grant) facts {
	f := facts{}
	f.set("kms:grantoperations", g.Operations...)
	f.set("kms:granteeprincipal", g.Grantee)
	f.flag("kms:grantisforawsresource", false)
	if g.Retiring != "" {
		f.set("kms:retiringprincipal", g.Retiring)
	}
	if len(g.Equals) > 0 {
		f.set("kms:grantconstrainttype", "EncryptionContextEquals")
		f.addEncryptionContext(g.Equals)
	}
	if len(g.Subset) > 0 {
		f.set("kms:grantconstrainttype", "EncryptionContextSubset")
		f.addEncryptionContext(g.Subset)
	}
	return f
}

type listGrantsInput struct {
	KeyId            string
	GrantId          string
	GranteePrincipal string
	Limit            *int
	Marker           string
}

type grantEntry struct {
	KeyId, GrantId    string
	Name              string `json:",omitempty"`
	CreationDate      epoch
	GranteePrincipal  string
	RetiringPrincipal string `json:",omitempty"`
	IssuingAccount    string
	Operations        []string
	Constraints       *grantConstraints `json:",omitempty"`
}

type listGrantsOutput struct {
	Grants []grantEntry
	page
}

func listGrants(c *call, in *listGrantsInput) (*listGrantsOutput, error) {
	k, err := c.manage(in.KeyId, nil)
	if err != nil {
		return nil, err
	}
	byID := map[string]grant{}
	for _, g := range k.Grants {
		if (in.GrantId == "" || in.GrantId == g.ID) && (in.GranteePrincipal == "" || in.GranteePrincipal == g.Grantee) {
			byID[g.ID] = g
		}
	}
	ids, p, err := paginate(slices.Sorted(maps.Keys(byID)), in.Limit, 100, in.Marker)
	if err != nil {
		return nil, err
	}
	out := &listGrantsOutput{Grants: []grantEntry{}, page: p}
	for _, id := range ids {
		g := byID[id]
		e := grantEntry{
			KeyId: c.s.keyARN(k.ID), GrantId: g.ID, Name: g.Name, CreationDate: epoch(g.Created),
			GranteePrincipal: g.Grantee, RetiringPrincipal: g.Retiring,
			IssuingAccount: "arn:" + c.s.partition() + ":iam::" + c.s.account + ":root", Operations: g.Operations,
		}
		if len(g.Equals)+len(g.Subset) > 0 {
			e.Constraints = &grantConstraints{g.Equals, g.Subset}
		}
		out.Grants = append(out.Grants, e)
	}
	return out, nil
}

type grantInput struct {
	KeyId, GrantId, GrantToken string
	DryRun                     bool
}

func revokeGrant(c *call, in *grantInput) (*nothing, error) {
	k, err := c.manage(in.KeyId, nil)
	if err != nil {
		return nil, err
	}
	if err := dryRun(in.DryRun); err != nil {
		return nil, err
	}
	return &nothing{}, c.dropGrant(k, in.GrantId)
}

// retireGrant lets the retiring principal go without a permission in the
// policy, and others by kms:RetireGrant.
func retireGrant(c *call, in *grantInput) (*nothing, error) {
	k, id, err := c.grantToRetire(in)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(k.Grants, func(g grant) bool { return g.ID == id })
	if i < 0 {
		return nil, fail(codeInvalidGrantID, "the key has no such grant")
	}
	g := k.Grants[i]
	retiring := g.Retiring != "" && (g.Retiring == c.who.ARN || g.Retiring == c.who.Session)
	if !retiring && !(grant{Grantee: g.Grantee, Operations: g.Operations}).allows(c.who, c.operation, nil) {
		if err := c.authorize(k, c.operation, nil); err != nil {
			return nil, err
		}
	}
	if err := dryRun(in.DryRun); err != nil {
		return nil, err
	}
	return &nothing{}, c.dropGrant(k, id)
}

// grantToRetire finds a grant by key and id, or by its token alone.
func (c *call) grantToRetire(in *grantInput) (*key, string, error) {
	if in.GrantToken == "" {
		k, _, err := c.s.lookup(in.KeyId, false)
		return k, in.GrantId, err
	}
	raw, err := base64.StdEncoding.DecodeString(in.GrantToken)
	if err != nil || len(raw) != 32 {
		return nil, "", fail("InvalidGrantTokenException", "the grant token is not one that this KMS gave")
	}
	id := hex.EncodeToString(raw)
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	for _, k := range c.s.keys {
		if slices.ContainsFunc(k.Grants, func(g grant) bool { return g.ID == id }) {
			return k, id, nil
		}
	}
	return nil, "", fail("InvalidGrantTokenException", "the grant is no longer there")
}

func (c *call) dropGrant(k *key, id string) error {
	return c.s.update(k.ID, func(k *key) error {
		n := len(k.Grants)
		k.Grants = slices.DeleteFunc(k.Grants, func(g grant) bool { return g.ID == id })
		if len(k.Grants) == n {
			return fail(codeInvalidGrantID, "the key has no such grant")
		}
		return nil
	})
}

// dryRun is what a request with DryRun gets when it would have succeeded.
func dryRun(asked bool) error {
	if asked {
		return fail(codeDryRun, "The request would have succeeded, but the DryRun option is set.")
	}
	return nil
}
