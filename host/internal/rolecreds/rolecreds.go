// Package rolecreds hands out the credentials of an EC2 instance's role, from the
// instance metadata service (IMDSv2), renewed before they end. They go to the
// enclave as they are: whose they are, it finds out itself.
package rolecreds

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"

	"github.com/cape-functions/cape/core/wire"
)

const (
	// ahead is how long before the end that is told credentials are fetched anew:
	// earlier than enclaves ask again. (The SDK tells at most an hour.)
	ahead    = 10 * time.Minute
	callWait = 5 * time.Second
)

// ErrNone: the metadata service has no credentials to give, or there is none.
var ErrNone = errors.New("no credentials of an instance role: attach a role to the instance, and let its metadata options answer (IMDSv2, hop limit 1)")

// Source fetches and keeps credentials. It is safe for concurrent use.
type Source struct {
	imds  *imds.Client
	cache *aws.CredentialsCache
}

// New returns a Source. An empty endpoint means http://169.254.169.254.
func New(endpoint string) *Source {
	client := imds.New(imds.Options{
		Endpoint: endpoint, ClientEnableState: imds.ClientEnabled, EnableFallback: aws.FalseTernary,
		HTTPClient: &http.Client{Timeout: callWait, Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}},
	})
	provider := ec2rolecreds.New(func(o *ec2rolecreds.Options) { o.Client = client })
	return &Source{client, aws.NewCredentialsCache(provider, func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = ahead })}
}

// Get returns credentials that are valid for a while. Errors wrap ErrNone.
func (s *Source) Get(ctx context.Context) (wire.Credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*callWait)
	defer cancel()
	c, err := s.cache.Retrieve(ctx)
	if err != nil {
		return wire.Credentials{}, fmt.Errorf("%w: %w", ErrNone, err)
	}
	out := wire.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, Token: c.SessionToken}
	if c.CanExpire {
		out.Expiration = c.Expires.UTC().Format(time.RFC3339)
	}
	return out, nil
}

// Region is the Region that the instance runs in.
func (s *Source) Region(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	r, err := s.imds.GetRegion(ctx, &imds.GetRegionInput{})
	if err != nil {
		return "", fmt.Errorf("asking the metadata service for the Region: %w; name it with --region", err)
	}
	return r.Region, nil
}
