package devserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/devcloud"
	"github.com/cape-functions/cape/host/internal/kek"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/store/link"
	"github.com/cape-functions/cape/host/internal/vsockproxy"
)

// ErrIdentity: the issuer is not the one that the key is bound to.
var ErrIdentity = errors.New("the issuer in DIR/identity is not the one that this platform's key was made for")

// kek returns the key of this data directory. At the first start an enclave
// makes it.
func (p *platform) kek(ctx context.Context) (*kek.Key, error) {
	k, err := kek.Load(ctx, p.store)
	if errors.Is(err, kek.ErrNone) {
		return p.makeKEK(ctx)
	}
	if err != nil {
		return nil, err
	}
	// The key opens only under the trust it was made for, so another issuer's
	// tokens would be refused one by one.
	i := p.users.Issuer()
	if len(k.Trust.Issuers) != 1 || k.Trust.Issuers[0].Iss != i.Iss || !bytes.Equal(k.Trust.Issuers[0].Signer, i.Signer) {
		return nil, fmt.Errorf("%w: restore it from a backup; without it nothing that was stored can be opened", ErrIdentity)
	}
	return k, nil
}

// makeKEK has an enclave make a key under a policy for images that this data
// directory's certificate signed.
func (p *platform) makeKEK(ctx context.Context) (*kek.Key, error) {
	p.log.Log(ctx, LevelNotice, "first start: an enclave makes the platform's key")
	k := &kek.Key{Trust: wire.Trust{Issuers: []wire.Issuer{p.users.Issuer()}, Role: devcloud.RoleARN}}
	pcr8 := p.cloud.Publisher()
	boot, err := kek.Birth(k.Trust, wire.KEKRequest{Admins: []string{devcloud.AdminARN}, PCR0: [][]byte{}, PCR8: [][]byte{pcr8[:]}})
	if err != nil {
		return nil, err
	}
	_, err = kek.Make(ctx, p.launcher, p.routed(boot), p.spec, func(ctx context.Context, b wire.Birth) error {
		k.ARN, k.Policy, k.Birth = b.KMS, b.Policy, b.Document
		return k.Save(ctx, p.store)
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// serveMessage tells an enclave to serve with the platform's key.
func (p *platform) serveMessage(k *kek.Key) func(context.Context) (wire.Boot, error) {
	return func(context.Context) (wire.Boot, error) {
		b, err := k.Boot()
		return p.routed(b), err
	}
}

// routed adds where the enclave finds its KMS.
func (p *platform) routed(b wire.Boot) wire.Boot {
	name, _ := p.cloud.Route()
	b.Routes, b.Dev = map[string]uint32{name: wire.PortProxyBase}, p.cloud.Settings()
	return b
}

// spec is an enclave with the host's ends of its links.
func (p *platform) spec(boot link.Boot) launcher.Spec {
	_, kms := p.cloud.Route()
	services, closing := link.Ends{
		Boot: boot, Credentials: link.Credentials(p.cloud.Credentials),
		Store:   link.Store{Records: p.store, KeySet: p.keySet, Log: p.log}.Handler(),
		Proxied: []vsockproxy.Endpoint{kms}, Proxy: p.proxy, Log: p.log,
	}.Open()
	p.onClose(closing)
	return launcher.Spec{Services: services}
}

func (p *platform) keySet(iss string) (string, error) {
	if iss != p.users.Issuer().Iss {
		return "", link.ErrNoIssuer
	}
	return p.users.SignedKeySet()
}
