package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"

	"github.com/cape-functions/cape/client/internal/login"
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
	// Public lets everybody with a token run the function. It is short for
	// wire.AccessPublic.
	Public bool
	// Access says who may run the function; empty: wire.AccessToken, or what Public says.
	// v1 knows wire.AccessPublic and wire.AccessToken.
	Access wire.Access
	// Decrypt says for whom the account's Cape Key opens envelopes; empty:
	// wire.DecryptOwner. v1 ignores it.
	Decrypt wire.Decrypt
	// Username is the caller's, if it is known: the function's full name is then
	// remembered.
	Username string
}

// Deployed is a function that was deployed.
type Deployed struct {
	// ID is the new function's id. In v2 it commits to the manifest.
	ID string
	// Checksum is the SHA-256 of the zip that was sent.
	Checksum [32]byte
	// Name is "user/name", empty if the username is not known.
	Name string
	// Manifest is what the account signed; nil in v1.
	Manifest *wire.Manifest
	// Evidence is the document of the enclave that took the function. In v1, KeyEvidence
	// is that which vouched for the key it was encrypted to.
	Evidence, KeyEvidence *attest.Evidence
}

// ValidName tells whether name may be that of a function: letters, digits, ".", "_" and
// "-", at most 128, the first a letter or digit.
func ValidName(name string) bool { return wire.ValidFunctionName(name) }

func (o *DeployOptions) complete(p *Package) error {
	if o.Name == "" {
		o.Name = p.Name
	}
	if !ValidName(o.Name) {
		return fmt.Errorf("%w: %.100q cannot name a function: use letters, digits, '.', '_' and '-'", ErrPackage, o.Name)
	}
	if o.Access == "" {
		o.Access = wire.AccessToken
		if o.Public {
			o.Access = wire.AccessPublic
		}
	}
	if o.Decrypt == "" {
		o.Decrypt = wire.DecryptOwner
	}
	if o.Public && o.Access != wire.AccessPublic {
		return fmt.Errorf("%w: public, and access %q", ErrOptions, o.Access)
	}
	return nil
}

// fullName is "user/name", empty if the user is not known.
func (o *DeployOptions) fullName() string {
	if wire.ValidUsername(o.Username) {
		return o.Username + "/" + o.Name
	}
	return ""
}

// Deploy signs the function with the caller's account and sends it to an attested enclave,
// inside the sealed session. Deployed comes together with an error if only Trust objected
// to the result, or could not note it.
func (c *Client) Deploy(ctx context.Context, p *Package, o DeployOptions) (*Deployed, error) {
	if err := o.complete(p); err != nil {
		return nil, err
	}
	if c.protocol == ProtocolV1 {
		return c.deployV1(ctx, p, o)
	}
	manifest, sig, err := c.sign(ctx, p, o)
	if err != nil {
		return nil, err
	}
	s, err := c.openSealed(ctx, demand{}, "v1", "deploy")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := unnamed(s.Accepted(ctx)); err != nil {
		return nil, err
	}
	call, err := s.Function(ctx, manifest, sig, p.reader(), p.uploaded)
	if err != nil {
		return nil, err
	}
	done, err := call.Wait(ctx, nil)
	if err != nil {
		return nil, err
	}
	id := wire.FunctionID(manifest)
	if done.Deployed == nil || done.Deployed.ID != id || !bytes.Equal(done.Deployed.Checksum, p.Checksum[:]) {
		return nil, fmt.Errorf("%w: the enclave deployed something else than was signed", ErrChecksum)
	}
	m, err := wire.ParseManifest(manifest)
	if err != nil {
		return nil, err
	}
	d := &Deployed{ID: id, Checksum: p.Checksum, Name: o.fullName(), Manifest: m, Evidence: s.Attested().Evidence}
	return d, c.judge.Function(ctx, trust.Code{Origin: c.origin, ID: id, Name: d.Name, Checksum: p.Checksum, Manifest: m, Deployed: true})
}

// sign makes the manifest of a function and signs it. Its version is later than what is
// remembered, and by the clock, so that two machines of one owner need not agree.
func (c *Client) sign(ctx context.Context, p *Package, o DeployOptions) (manifest, sig []byte, err error) {
	if c.account == nil {
		return nil, nil, fmt.Errorf("%w: deploying takes one: it signs the function", ErrAccount)
	}
	token, err := c.link.CallerToken(ctx)
	if err != nil {
		return nil, nil, err
	}
	who := login.Claims(token)
	if who.Issuer == "" || who.Subject == "" {
		return nil, nil, fmt.Errorf("%w: it does not say whose it is, which the function's manifest needs", ErrToken)
	}
	known, err := c.judge.Expected(ctx, trust.Code{Origin: c.origin, Name: o.fullName()})
	if err != nil {
		return nil, nil, err
	}
	id := c.account.ID()
	m := &wire.Manifest{V: 2, Owner: wire.Subject{Iss: who.Issuer, Sub: who.Subject}, Acct: id[:], Name: o.Name, Access: o.Access,
		Decrypt: o.Decrypt, Seq: max(known.Seq+1, uint64(max(c.now().UnixMilli(), 0))), Checksum: p.Checksum[:], Salt: make([]byte, 16)}
	rand.Read(m.Salt)
	manifest, sig, err = c.account.SignManifest(m)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	return manifest, sig, nil
}

// deployV1 encrypts the function to the caller's Cape Key, which an attested enclave hands
// out on this very call, and uploads it.
func (c *Client) deployV1(ctx context.Context, p *Package, o DeployOptions) (*Deployed, error) {
	if o.Access == wire.AccessGrant {
		return nil, fmt.Errorf("%w: v1 knows no grants", ErrOptions)
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
	id, err := s.Deploy(ctx, o.Name, o.Access == wire.AccessPublic, body, p.Progress)
	if err != nil {
		return nil, err
	}
	d := &Deployed{ID: id, Checksum: p.Checksum, Name: o.fullName(), Evidence: s.Evidence(), KeyEvidence: key.Evidence}
	return d, c.judge.Function(ctx, trust.Code{Origin: c.origin, ID: id, Name: d.Name, Checksum: p.Checksum, Deployed: true})
}
