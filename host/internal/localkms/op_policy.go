package localkms

const policyName = "default"

type policyInput struct {
	KeyId      string
	PolicyName string
}

type getPolicyOutput struct{ Policy, PolicyName string }

func checkPolicyName(name string) error {
	if name != "" && name != policyName {
		return fail(codeNotFound, "No such policy exists: a key has only %q", policyName)
	}
	return nil
}

func getKeyPolicy(c *call, in *policyInput) (*getPolicyOutput, error) {
	k, err := c.manage(in.KeyId, nil)
	if err != nil {
		return nil, err
	}
	if err := checkPolicyName(in.PolicyName); err != nil {
		return nil, err
	}
	return &getPolicyOutput{k.Policy, policyName}, nil
}

type putPolicyInput struct {
	KeyId                          string
	PolicyName                     string
	Policy                         *string
	BypassPolicyLockoutSafetyCheck bool
}

func putKeyPolicy(c *call, in *putPolicyInput) (*nothing, error) {
	extra := facts{}
	extra.flag("kms:bypasspolicylockoutsafetycheck", in.BypassPolicyLockoutSafetyCheck)
	k, err := c.manage(in.KeyId, extra)
	if err != nil {
		return nil, err
	}
	if err := checkPolicyName(in.PolicyName); err != nil {
		return nil, err
	}
	if in.Policy == nil {
		return nil, fail(codeValidation, "Policy is missing")
	}
	next := k.clone()
	if err := c.setPolicy(next, in.Policy, in.BypassPolicyLockoutSafetyCheck); err != nil {
		return nil, err
	}
	return &nothing{}, c.s.update(k.ID, func(now *key) error {
		if now.Policy != k.Policy {
			// What authorized this call is no longer the policy.
			return fail(codeThrottling, "the key policy was changed at the same time; look at it and try again")
		}
		now.Policy, now.policy = next.Policy, next.policy
		return nil
	})
}

type listPoliciesInput struct {
	KeyId  string
	Limit  *int
	Marker string
}

type listPoliciesOutput struct {
	PolicyNames []string
	page
}

func listKeyPolicies(c *call, in *listPoliciesInput) (*listPoliciesOutput, error) {
	if _, err := c.manage(in.KeyId, nil); err != nil {
		return nil, err
	}
	names, p, err := paginate([]string{policyName}, in.Limit, 1000, in.Marker)
	if err != nil {
		return nil, err
	}
	return &listPoliciesOutput{names, p}, nil
}
