package policy

import (
	"strconv"
	"strings"
)

type keyKind int

const (
	unknownKey keyKind = iota
	oneValue
	manyValues
)

// kindOf says whether a condition key (in lower case) is one that this service
// fills in when a request has it, and whether it can have several values. Keys
// of AWS that no request here ever has (organisations, networks, other AWS
// services) are known, and always absent.
func kindOf(key string) keyKind {
	switch key {
	case "kms:encryptioncontextkeys", "kms:grantoperations", "kms:resourcealiases", "aws:tagkeys":
		return manyValues
	case "kms:bypasspolicylockoutsafetycheck", "kms:calleraccount", "kms:customermasterkeyspec",
		"kms:customermasterkeyusage", "kms:datakeypairspec", "kms:encryptionalgorithm",
		"kms:grantconstrainttype", "kms:grantisforawsresource", "kms:granteeprincipal",
		"kms:keyorigin", "kms:keyspec", "kms:keyusage", "kms:multiregion", "kms:multiregionkeytype",
		"kms:primaryregion", "kms:reencryptonsamekey", "kms:replicaregion", "kms:requestalias",
		"kms:retiringprincipal", "kms:schedulekeydeletionpendingwindowindays", "kms:viaservice",
		"kms:wrappingalgorithm", "kms:wrappingkeyspec", "kms:expirationmodel",
		"kms:recipientattestation:imagesha384",
		"aws:principalaccount", "aws:principalarn", "aws:principaltype", "aws:userid", "aws:username",
		"aws:requestedregion", "aws:resourceaccount", "aws:securetransport",
		"aws:principalisawsservice", "aws:viaawsservice", "aws:principalorgid", "aws:principalservicename",
		"aws:sourcearn", "aws:sourceaccount", "aws:sourcevpc", "aws:sourcevpce",
		"aws:multifactorauthpresent":
		return oneValue
	}
	for _, prefix := range []string{"kms:encryptioncontext:", "aws:requesttag/", "aws:resourcetag/", "aws:principaltag/"} {
		if rest, ok := strings.CutPrefix(key, prefix); ok && rest != "" {
			return oneValue
		}
	}
	for _, prefix := range []string{"kms:recipientattestation:pcr", "kms:recipientattestation:nitrotpmpcr"} {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			n, err := strconv.Atoi(rest)
			if err == nil && n >= 0 && n < 32 && strconv.Itoa(n) == rest {
				return oneValue
			}
		}
	}
	return unknownKey
}
