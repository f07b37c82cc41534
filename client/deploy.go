package client

import (
	"context"
	"fmt"

	v1 "github.com/cape-functions/cape/client/internal/v1"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/envelope"
	"github.com/cape-functions/cape/core/wire"
)

// DeployOptions say how a function is deployed.
type DeployOptions struct {
	// Name is the function's; empty: that of the package.
	Name string
	// Public lets everybody with a token run the function.
	Public bool
	// Username is the caller's, if it is known: the function's full name is then
	// remembered.
	Username string
}

// Deployed is a function that was deployed.
type Deployed struct {
	// ID is the new function's id.
	ID string
	// Checksum is the SHA-256 of the zip that was sent.
	Checksum [32]byte
	// Name is "user/name", empty if the username is not known.
	Name string
	// Evidence is the document of the enclave that took the function, and KeyEvidence
	// that which vouched for the key it was encrypted to.
	Evidence, KeyEvidence *attest.Evidence
}

// ValidName tells whether name may be that of a function: letters, digits, ".", "_" and
// "-", at most 128, the first a letter or digit.
func ValidName(name string) bool { return wire.ValidFunctionName(name) }

// Deploy encrypts the function to the caller's Cape Key, which an attested enclave
// hands out on this very call, and uploads it to an attested enclave. Deployed comes
// together with an error if only Trust objected to the result, or could not note it.
func (c *Client) Deploy(ctx context.Context, p *Package, o DeployOptions) (*Deployed, error) {
	if o.Name == "" {
		o.Name = p.Name
	}
	if !ValidName(o.Name) {
		return nil, fmt.Errorf("%w: %.100q cannot name a function: use letters, digits, '.', '_' and '-'", ErrPackage, o.Name)
	}
	// The session comes first: its document carries the key policy, which a first
	// contact should show. Making a Cape Key can take longer than a session may idle.
	s, err := c.open(ctx, v1.Deploy, "v1", "deploy")
	if err != nil {
		return nil, err
	}
	defer func() { s.Close() }()
	begin := c.now()
	key, err := c.Key(ctx)
	if err != nil {
		return nil, fmt.Errorf("getting the Cape Key: %w", err)
	}
	zip, err := p.read()
	if err != nil {
		return nil, err
	}
	body, err := envelope.SealOld(key.Public, zip, true)
	if err != nil {
		return nil, err
	}
	clear(zip)
	zip = nil // the upload may take long, and functions are large
	if c.now().Sub(begin) >= slow {
		s.Close()
		if s, err = c.open(ctx, v1.Deploy, "v1", "deploy"); err != nil {
			return nil, err
		}
	}
	id, err := s.Deploy(ctx, o.Name, o.Public, body, p.Progress)
	if err != nil {
		return nil, err
	}
	d := &Deployed{ID: id, Checksum: p.Checksum, Evidence: s.Evidence(), KeyEvidence: key.Evidence}
	if wire.ValidUsername(o.Username) {
		d.Name = o.Username + "/" + o.Name
	}
	return d, c.judge.Function(ctx, trust.Code{Origin: c.origin, ID: id, Name: d.Name, Checksum: p.Checksum, Deployed: true})
}
