package keyring

// Endpoints returns the URLs at which AWS serves the key with that ARN: KMS's and STS's.
// Errors match ErrConfig.
func Endpoints(keyARN string) (kms, sts string, err error) {
	p, err := parseKey(keyARN)
	if err != nil {
		return "", "", err
	}
	return p.endpoints()
}
