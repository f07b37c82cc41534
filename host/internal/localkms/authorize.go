package localkms

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cape-functions/cape/host/internal/localkms/policy"
)

// facts are the condition keys of one request, in lower case.
type facts map[string][]string

func (f facts) set(key string, values ...string) { f[key] = values }

func (f facts) flag(key string, v bool) { f[key] = []string{strconv.FormatBool(v)} }

// addEncryptionContext notes an encryption context. Key names in conditions
// are not case-sensitive, so names that differ by case alone are refused where
// a context is checked.
func (f facts) addEncryptionContext(context map[string]string) {
	if len(context) == 0 {
		return
	}
	for k, v := range context {
		f.set("kms:encryptioncontext:"+strings.ToLower(k), v)
	}
	f.set("kms:encryptioncontextkeys", slices.Sorted(maps.Keys(context))...)
}

// callerFacts are the condition keys that tell of the caller and connection.
func (c *call) callerFacts() facts {
	f := facts{}
	f.set("kms:calleraccount", c.who.Account)
	f.set("aws:principalarn", c.who.ARN)
	f.set("aws:principalaccount", c.who.Account)
	f.set("aws:principaltype", c.who.kind)
	f.set("aws:userid", c.who.userID)
	if c.who.userName != "" {
		f.set("aws:username", c.who.userName)
	}
	f.set("aws:requestedregion", c.s.region)
	f.flag("aws:securetransport", c.secure)
	f.flag("aws:viaawsservice", false)
	f.flag("aws:principalisawsservice", false)
	return f
}

// keyFacts are the condition keys that tell of the key.
func (c *call) keyFacts(k *key, names []string) facts {
	f := facts{}
	f.set("kms:keyspec", k.Spec)
	f.set("kms:customermasterkeyspec", k.Spec)
	f.set("kms:keyusage", usageEncrypt)
	f.set("kms:customermasterkeyusage", usageEncrypt)
	f.set("kms:keyorigin", k.Origin)
	f.flag("kms:multiregion", k.MultiRegion)
	if k.MultiRegion {
		f.set("kms:multiregionkeytype", "PRIMARY")
		f.set("kms:primaryregion", c.s.region)
	}
	f.set("aws:resourceaccount", c.s.account)
	for tag, v := range k.Tags {
		f.set("aws:resourcetag/"+strings.ToLower(tag), v)
	}
	if len(names) > 0 {
		f.set("kms:resourcealiases", names...)
	}
	return f
}

// request puts together what the policy is asked.
func (c *call) request(k *key, action string, extra facts) policy.Request {
	context := c.callerFacts()
	maps.Copy(context, c.keyFacts(k, c.s.aliasesOf(k.ID)))
	maps.Copy(context, extra)
	if c.alias != "" {
		context.set("kms:requestalias", c.alias)
	}
	// Only operations that take a Recipient have one.
	maps.Copy(context, c.recipient.facts())
	return policy.Request{
		Action:    "kms:" + action,
		Resource:  c.s.keyARN(k.ID),
		Principal: c.who.Principal,
		Context:   context,
	}
}

// authorize asks the key's policy, then its grants.
func (c *call) authorize(k *key, action string, extra facts) error {
	c.key = k.ID
	r := c.request(k, action, extra)
	switch k.policy.Evaluate(r) {
	case policy.Allowed:
		return nil
	case policy.Denied:
		return fail(codeAccessDenied, "User: %s is not authorized to perform: %s on resource: %s with an explicit deny in a resource-based policy",
			c.who.identity(), r.Action, r.Resource)
	}
	for _, g := range k.Grants {
		if g.allows(c.who, action, extra) {
			return nil
		}
	}
	return fail(codeAccessDenied, "User: %s is not authorized to perform: %s on resource: %s because no resource-based policy allows the %s action",
		c.who.identity(), r.Action, r.Resource, r.Action)
}

// authorizeAccount guards operations that belong to no key. AWS asks identity
// policies; here every principal of the account may.
func (c *call) authorizeAccount() error {
	if c.who.Account == c.s.account {
		return nil
	}
	return fail(codeAccessDenied, "User: %s is not authorized to perform: kms:%s in account %s", c.who.identity(), c.operation, c.s.account)
}

// allows tells whether the grant permits an operation.
func (g grant) allows(who caller, action string, extra facts) bool {
	if g.Grantee != who.ARN && (who.Session == "" || g.Grantee != who.Session) || !slices.Contains(g.Operations, action) {
		return false
	}
	keys := extra["kms:encryptioncontextkeys"]
	within := func(want map[string]string) bool {
		for k, v := range want {
			have := extra["kms:encryptioncontext:"+strings.ToLower(k)]
			if !slices.Contains(keys, k) || !slices.Equal(have, []string{v}) {
				return false
			}
		}
		return true
	}
	if len(g.Equals) > 0 && (len(keys) != len(g.Equals) || !within(g.Equals)) {
		return false
	}
	return within(g.Subset)
}

// checkEncryptionContext refuses contexts that are too large, have empty names,
// or names that a condition could not tell apart.
func checkEncryptionContext(k *key, context map[string]string) error {
	if len(context) == 0 {
		return nil
	}
	if k != nil && !k.symmetric() {
		return fail(codeValidation, "an encryption context cannot be used with a key of spec %s", k.Spec)
	}
	if len(context) > maxContextPairs {
		return fail(codeValidation, "the encryption context has %d pairs, at most %d are allowed", len(context), maxContextPairs)
	}
	size, seen := 0, map[string]bool{}
	for name, v := range context {
		lower := strings.ToLower(name)
		if name == "" || seen[lower] {
			return fail(codeValidation, "names in the encryption context must not be empty, and must differ by more than case")
		}
		seen[lower] = true
		size += len(name) + len(v)
	}
	if size > maxContextBytes {
		return fail(codeValidation, "the encryption context has %d bytes, at most %d are allowed", size, maxContextBytes)
	}
	return nil
}
