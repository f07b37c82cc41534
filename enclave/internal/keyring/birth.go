package keyring

import "github.com/cape-functions/cape/core/keypolicy"

// ErrBirth: the birth document is not one of this key and policy.
var ErrBirth = keypolicy.ErrBirth

// CheckBirth is keypolicy.CheckBirth: it verifies the birth document of the KEK arn with
// the exact policy text. Roots are DER; none means AWS's root alone. Errors match ErrBirth.
func CheckBirth(doc []byte, arn string, policy []byte, roots ...[]byte) error {
	return keypolicy.CheckBirth(doc, arn, policy, roots...)
}
