package devserver

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/localkms"
	"github.com/cape-functions/cape/host/internal/store/link"
)

// Names of the rows in which the platform remembers its KEK and the trust that
// the KEK's policy names.
const (
	metaKEK    = "kek"
	metaPolicy = "kek-policy"
	metaBirth  = "kek-birth"
	metaTrust  = "trust"
)

// birthWait bounds the making of a KEK.
const birthWait = 60 * time.Second

// kek is the platform's key as its birth told, with the trust it is bound to.
type kek struct {
	arn           string
	policy, birth []byte
	trust         wire.Trust
}

var (
	// ErrNoKEK: the enclave that was to make the key ended without one.
	ErrNoKEK = errors.New("the enclave ended without making a key; its log tells why")
	// ErrIdentity: the issuer is not the one that the key is bound to.
	ErrIdentity = errors.New("the issuer in DIR/identity is not the one that this platform's key was made for")
)

// kek returns the key of this data directory. At the first start an enclave
// makes it: nobody else may, since the birth document is the proof.
func (p *platform) kek(ctx context.Context) (*kek, error) {
	meta, err := p.store.Meta(ctx, metaKEK, metaPolicy, metaBirth, metaTrust)
	if err != nil {
		return nil, err
	}
	if len(meta[metaKEK]) == 0 {
		return p.makeKEK(ctx)
	}
	k := &kek{arn: string(meta[metaKEK]), policy: meta[metaPolicy], birth: meta[metaBirth]}
	if err := wire.Unmarshal(meta[metaTrust], wire.MaxConfig, &k.trust); err != nil {
		return nil, fmt.Errorf("reading the platform's trust: %w", err)
	}
	// The key opens only under the trust it was made for, so another issuer's
	// tokens would be refused one by one.
	i := p.users.Issuer()
	if len(k.trust.Issuers) != 1 || k.trust.Issuers[0].Iss != i.Iss || !bytes.Equal(k.trust.Issuers[0].Signer, i.Signer) {
		return nil, fmt.Errorf("%w: restore it from a backup; without it nothing that was stored can be opened", ErrIdentity)
	}
	return k, nil
}

func (p *platform) makeKEK(ctx context.Context) (*kek, error) {
	p.log.Log(ctx, LevelNotice, "first start: an enclave makes the platform's key")
	ctx, cancel := context.WithTimeout(ctx, birthWait)
	defer cancel()
	k := &kek{trust: wire.Trust{Issuers: []wire.Issuer{p.users.Issuer()}, Role: roleARN}}
	trust, err := wire.Marshal(k.trust)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	boot := link.Boot{
		Message: p.initMessage(k.trust),
		Born: func(ctx context.Context, b wire.Birth) error {
			mu.Lock()
			defer mu.Unlock()
			err := p.store.SetMeta(ctx, map[string][]byte{metaKEK: []byte(b.KMS), metaPolicy: b.Policy, metaBirth: b.Document, metaTrust: trust})
			if err == nil {
				k.arn, k.policy, k.birth = b.KMS, b.Policy, b.Document
			}
			return err
		},
	}
	e, err := p.launcher.Launch(ctx, launcher.Spec{Oneshot: true, Services: p.services(boot)})
	if err != nil {
		return nil, err
	}
	select {
	case <-e.Done():
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("making the platform's key: %w", ctx.Err()), e.Close())
	}
	mu.Lock()
	defer mu.Unlock()
	if k.arn == "" {
		return nil, errors.Join(ErrNoKEK, e.Err())
	}
	return k, nil
}

// initMessage tells an enclave to make a key under a policy for images that
// this data directory's certificate signed.
func (p *platform) initMessage(trust wire.Trust) func(context.Context) (wire.Boot, error) {
	return func(context.Context) (wire.Boot, error) {
		cert := sha512.Sum384(p.authority.SigningCertificate().Raw)
		pcr8 := nitro.Extend(nitro.PCR{}, cert[:])
		return p.message(wire.ModeKMSInit, wire.Config{Trust: trust, Limits: wire.DefaultLimits()}, wire.Boot{
			Init: &wire.KEKRequest{Admins: []string{adminARN}, PCR0: [][]byte{}, PCR8: [][]byte{pcr8[:]}},
		})
	}
}

// serveMessage tells an enclave to serve with the platform's key.
func (p *platform) serveMessage(k *kek) func(context.Context) (wire.Boot, error) {
	return func(context.Context) (wire.Boot, error) {
		return p.message(wire.ModeServe, wire.Config{Trust: k.trust, KMS: k.arn, Limits: wire.DefaultLimits()}, wire.Boot{Birth: k.birth})
	}
}

func (p *platform) message(mode string, config wire.Config, b wire.Boot) (wire.Boot, error) {
	endpoint := "https://" + localkms.HostName
	b.Mode = mode
	b.Routes = map[string]uint32{net.JoinHostPort(localkms.HostName, "443"): wire.PortProxyBase}
	b.Dev = &wire.DevSettings{KMSEndpoint: endpoint, STSEndpoint: endpoint, CA: p.kms.CertificatePEM()}
	var err error
	b.Config, err = wire.Marshal(config)
	return b, err
}

// services are the host's ends of an enclave's links.
func (p *platform) services(boot link.Boot) map[uint32]func(net.Conn) {
	serve := func(h http.Handler) func(net.Conn) {
		s := link.NewServer(h, p.log)
		p.onClose(s.Close)
		return s.Handle
	}
	return map[uint32]func(net.Conn){
		wire.PortBoot: serve(boot.Handler()),
		wire.PortCredentials: serve(link.Credentials(func(context.Context) (wire.Credentials, error) {
			return p.kms.Credentials(roleARN), nil
		})),
		wire.PortStore:     serve(link.Store{Records: p.store, KeySet: p.keySet, Log: p.log}.Handler()),
		wire.PortProxyBase: p.proxy.Handle(net.JoinHostPort("127.0.0.1", strconv.Itoa(int(p.kmsPort)))),
	}
}

func (p *platform) keySet(iss string) (string, error) {
	if iss != p.users.Issuer().Iss {
		return "", link.ErrNoIssuer
	}
	return p.users.SignedKeySet()
}
