package keypolicy

import "regexp"

// ARNs of IAM, without wildcards and policy variables. The name of a role or user has at
// most 64 characters, its path 512 (IAM and STS quotas).
var (
	rolePattern  = regexp.MustCompile(`^arn:(aws|aws-cn|aws-us-gov):iam::([0-9]{12}):role/(?:[A-Za-z0-9+=,.@_-]+/)*[A-Za-z0-9+=,.@_-]{1,64}$`)
	adminPattern = regexp.MustCompile(`^arn:(?:aws|aws-cn|aws-us-gov):iam::[0-9]{12}:(?:root|(?:role|user)/(?:[A-Za-z0-9+=,.@_-]+/)*[A-Za-z0-9+=,.@_-]{1,64})$`)
)

const maxARN = 640

// ParseRole returns partition and account of the ARN of an IAM role.
func ParseRole(arn string) (partition, account string, ok bool) {
	m := rolePattern.FindStringSubmatch(arn)
	if m == nil || len(arn) > maxARN {
		return "", "", false
	}
	return m[1], m[2], true
}

// keyPattern is the full ARN of a single-Region key: aliases ("alias/…") and multi-Region
// keys ("key/mrk-…") do not match.
var keyPattern = regexp.MustCompile(`^arn:(aws|aws-cn|aws-us-gov):kms:([a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}):([0-9]{12}):key/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// ParseKey returns partition, Region and account of the full ARN of a single-Region key.
func ParseKey(arn string) (partition, region, account string, ok bool) {
	m := keyPattern.FindStringSubmatch(arn)
	if m == nil || len(arn) > maxARN {
		return "", "", "", false
	}
	return m[1], m[2], m[3], true
}
