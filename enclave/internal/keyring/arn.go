package keyring

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/cape-functions/cape/core/keypolicy"
)

var regionPattern = regexp.MustCompile(`^[a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}$`)

// place is where a key is.
type place struct{ partition, region, account string }

// parseKey reads the ARN of a key. Errors match ErrConfig.
func parseKey(arn string) (place, error) {
	partition, region, account, ok := keypolicy.ParseKey(arn)
	if !ok {
		return place{}, fmt.Errorf("%w: %q is not the full ARN of a single-Region key (aliases are refused)", ErrConfig, arn)
	}
	return place{partition, region, account}, nil
}

// endpoints returns the URLs of KMS and STS of a Region, which must be of the partition:
// otherwise an ARN of one partition could lead to the endpoint of another. Partitions
// that are not listed here have other suffixes and are refused.
func (p place) endpoints() (kms, sts string, err error) {
	of, suffix := "aws", "amazonaws.com"
	switch {
	case strings.HasPrefix(p.region, "cn-"):
		of, suffix = "aws-cn", "amazonaws.com.cn"
	case strings.HasPrefix(p.region, "us-gov-"):
		of = "aws-us-gov"
	case strings.HasPrefix(p.region, "us-iso"), strings.HasPrefix(p.region, "eu-iso"), strings.HasPrefix(p.region, "eusc-"):
		of = ""
	}
	if of != p.partition || !regionPattern.MatchString(p.region) {
		return "", "", fmt.Errorf("%w: Region %q is not one of partition %q", ErrConfig, p.region, p.partition)
	}
	return "https://kms." + p.region + "." + suffix, "https://sts." + p.region + "." + suffix, nil
}

// sameRole tells whether the identity that STS told is the role or a session of it:
// arn:P:sts::ACCOUNT:assumed-role/NAME/SESSION. A session's ARN lacks the role's path;
// within an account, names of roles are unique whatever the path.
func sameRole(identity, role string) bool {
	partition, account, ok := keypolicy.ParseRole(role)
	if !ok {
		return false
	}
	if identity == role {
		return true
	}
	name := role[strings.LastIndexByte(role, '/')+1:]
	session, ok := strings.CutPrefix(identity, "arn:"+partition+":sts::"+account+":assumed-role/"+name+"/")
	return ok && session != "" && !strings.Contains(session, "/")
}
