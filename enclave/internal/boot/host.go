package boot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/vsock"
)

const (
	// maxBoot bounds the boot message: configuration, birth document, routes and roots.
	maxBoot = wire.MaxConfig + wire.MaxDocument + 64<<10
	// maxCredentials bounds the answer on the credentials link.
	maxCredentials = 16 << 10
	// bootWithin is how long the host may take to be there.
	bootWithin = 30 * time.Second
	bootRetry  = 100 * time.Millisecond
	// refreshAhead is how long before their end credentials are fetched anew.
	refreshAhead = 5 * time.Minute
)

// ErrHost: the host's answer is not usable.
var ErrHost = errors.New("the host's answer is not usable")

// statusError is an answer that is no success; it is an ErrHost.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("%v: status %d", ErrHost, int(e)) }
func (e statusError) Unwrap() error { return ErrHost }

// client speaks HTTP to one port of the host.
func client(n vsock.Network, port uint32) *http.Client {
	return &http.Client{
		Timeout: wire.LinkCall,
		Transport: &http.Transport{
			DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return n.Dial(ctx, port) },
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: wire.MaxHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// exchange is one request over a link; the answer is at most limit bytes.
func exchange(ctx context.Context, c *http.Client, method, path string, body []byte, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://host"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, statusError(resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrHost, limit)
	}
	return data, nil
}

// fetch reads the boot message, waiting for a host that is still starting.
func fetch(ctx context.Context, n vsock.Network) (*wire.Boot, *wire.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, bootWithin)
	defer cancel()
	c := client(n, wire.PortBoot)
	data, err := exchange(ctx, c, http.MethodGet, "/v1/boot", nil, maxBoot)
	for err != nil && !errors.Is(err, ErrHost) {
		select {
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("fetching boot message: %w", err)
		case <-time.After(bootRetry):
		}
		data, err = exchange(ctx, c, http.MethodGet, "/v1/boot", nil, maxBoot)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("fetching boot message: %w", err)
	}
	return parse(data)
}

// parse reads a boot message strictly.
func parse(data []byte) (*wire.Boot, *wire.Config, error) {
	var b wire.Boot
	if err := wire.Unmarshal(data, maxBoot, &b); err != nil {
		return nil, nil, fmt.Errorf("reading boot message: %w", err)
	}
	cfg, err := wire.ParseConfig(b.Config)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case b.Mode == wire.ModeServe && cfg.KMS != "" && len(b.Birth) > 0 && b.Init == nil:
	case b.Mode == wire.ModeKMSInit && cfg.KMS == "" && b.Init != nil:
	default:
		return nil, nil, fmt.Errorf("%w: boot message does not fit mode %q", ErrHost, b.Mode)
	}
	return &b, cfg, nil
}

// deliver hands a birth document over.
func deliver(ctx context.Context, n vsock.Network, birth wire.Birth) error {
	data, err := wire.Marshal(birth)
	if err != nil {
		return fmt.Errorf("writing birth message: %w", err)
	}
	if _, err := exchange(ctx, client(n, wire.PortBoot), http.MethodPost, "/v1/birth", data, 1<<10); err != nil {
		return fmt.Errorf("delivering birth document: %w", err)
	}
	return nil
}

// credentials asks the host for those of the role. Whose they are is checked by package
// keyring: the host can hand over anybody's.
func credentials(n vsock.Network) aws.CredentialsProvider {
	c := client(n, wire.PortCredentials)
	return aws.NewCredentialsCache(aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		data, err := exchange(ctx, c, http.MethodGet, "/v1/credentials", nil, maxCredentials)
		if err != nil {
			return aws.Credentials{}, fmt.Errorf("fetching credentials: %w", err)
		}
		return parseCredentials(data)
	}), func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = refreshAhead })
}

func parseCredentials(data []byte) (aws.Credentials, error) {
	var w wire.Credentials
	if err := json.Unmarshal(data, &w); err != nil || w.AccessKeyID == "" || w.SecretAccessKey == "" {
		return aws.Credentials{}, fmt.Errorf("reading credentials: %w", ErrHost)
	}
	out := aws.Credentials{AccessKeyID: w.AccessKeyID, SecretAccessKey: w.SecretAccessKey, SessionToken: w.Token, Source: "host"}
	if w.Expiration != "" {
		end, err := time.Parse(time.RFC3339, w.Expiration)
		if err != nil {
			return aws.Credentials{}, fmt.Errorf("reading credentials: %w", ErrHost)
		}
		out.CanExpire, out.Expires = true, end
	}
	return out, nil
}

// router dials "host:port" by the vsock port that the host's proxy has for it. Where a
// connection really ends is what TLS finds out.
func router(n vsock.Network, routes map[string]uint32) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		port, ok := routes[address]
		if !ok {
			return nil, fmt.Errorf("dialling: %w: the host routes nothing there", ErrHost)
		}
		return n.Dial(ctx, port)
	}
}

// regionOf finds the region of the one KMS endpoint of AWS among the routes.
func regionOf(routes map[string]uint32) string {
	found := ""
	for address := range routes {
		rest, ok := strings.CutPrefix(address, "kms.")
		if !ok {
			continue
		}
		region, domain, ok := strings.Cut(rest, ".")
		if !ok || (domain != "amazonaws.com:443" && domain != "amazonaws.com.cn:443") {
			continue
		}
		if found != "" {
			return ""
		}
		found = region
	}
	return found
}
