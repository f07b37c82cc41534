// Package policy reads and evaluates key policies in the policy language of
// AWS IAM, as far as key policies use it: Deny before Allow, principals,
// actions with wildcards, string, ARN, Bool and Null conditions.
//
// What it does not understand never opens anything: in an Allow such a
// condition never matches, and a Deny with one is refused by Parse, because a
// Deny that silently never matches protects nothing.
//
// Sources: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements.html
// and https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html.
package policy

import "errors"

// MaxSize bounds a policy in bytes, as AWS KMS does.
const MaxSize = 32 << 10

// ErrMalformed is wrapped by every error of Parse.
var ErrMalformed = errors.New("malformed policy document")

// Decision is the outcome of an evaluation.
type Decision int

// Outcomes. The zero value lets nobody in.
const (
	// NotAllowed: no statement applies.
	NotAllowed Decision = iota
	// Denied: a Deny applies; nothing overrides it.
	Denied
	// Allowed: an Allow applies and no Deny does.
	Allowed
)

// Principal is who asks.
type Principal struct {
	// ARN is the user's, role's or account root's ARN.
	ARN string
	// Session is the ARN of a role's session, empty for others.
	Session string
	// Account is the 12-digit account.
	Account string
}

// Request is one question to a policy.
type Request struct {
	// Action is "kms:Decrypt" and so on.
	Action string
	// Resource is the ARN of the key.
	Resource string
	// Principal is who asks.
	Principal Principal
	// Context holds the values of condition keys. Names are in lower case; a key
	// that the request does not have is absent.
	Context map[string][]string
}
