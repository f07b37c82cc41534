package devserver

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/localkms"
	"github.com/cape-functions/cape/host/internal/store/link"
)

// Names of the rows in which the platform remembers its KEK.
const (
	metaKEK    = "kek"
	metaPolicy = "kek-policy"
	metaBirth  = "kek-birth"
)

// birthWait bounds the making of a KEK.
const birthWait = 60 * time.Second

// kek is the platform's key, as its birth told.
type kek struct {
	arn           string
	policy, birth []byte
}

var errNoKEK = errors.New("the enclave ended without making a key; its log tells why")

// kek returns the key of this data directory. At the first start an enclave
// makes it: nobody else may, since the birth document is the proof.
func (p *platform) kek(ctx context.Context) (*kek, error) {
	meta, err := p.store.Meta(ctx, metaKEK, metaPolicy, metaBirth)
	if err != nil {
		return nil, err
	}
	if len(meta[metaKEK]) > 0 {
		return &kek{string(meta[metaKEK]), meta[metaPolicy], meta[metaBirth]}, nil
	}
	p.log.Info("first start: an enclave makes the platform's key")
	var born *kek
	var mu sync.Mutex
	spec := p.spec(nil)
	spec.Oneshot = true
	boot := link.NewServer(link.Boot{
		Message: p.bootMessage(nil),
		Born: func(ctx context.Context, b wire.Birth) error {
			mu.Lock()
			defer mu.Unlock()
			if err := p.store.SetMeta(ctx, map[string][]byte{metaKEK: []byte(b.KMS), metaPolicy: b.Policy, metaBirth: b.Document}); err != nil {
				return err
			}
			born = &kek{b.KMS, b.Policy, b.Document}
			return nil
		},
	}.Handler(), p.log)
	defer boot.Close()
	spec.Services[wire.PortBoot] = boot.Handle
	ctx, cancel := context.WithTimeout(ctx, birthWait)
	defer cancel()
	e, err := p.launcher.Launch(ctx, spec)
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
	if born == nil {
		return nil, errors.Join(errNoKEK, e.Err())
	}
	return born, nil
}

// bootMessage builds what an enclave boots with; without a key, that it is to make one.
func (p *platform) bootMessage(k *kek) func(context.Context) (wire.Boot, error) {
	return func(context.Context) (wire.Boot, error) {
		config := wire.Config{Trust: p.trust, Limits: wire.DefaultLimits()}
		boot := wire.Boot{
			Mode:   wire.ModeKMSInit,
			Routes: map[string]uint32{net.JoinHostPort(localkms.HostName, "443"): wire.PortProxyBase},
			Dev: &wire.DevSettings{
				KMSEndpoint: "https://" + localkms.HostName, STSEndpoint: "https://" + localkms.HostName, CA: p.kms.CertificatePEM(),
			},
		}
		if k != nil {
			boot.Mode, boot.Birth, config.KMS = wire.ModeServe, k.birth, k.arn
		} else {
			cert := sha512.Sum384(p.authority.SigningCertificate().Raw)
			pcr8 := nitro.Extend(nitro.PCR{}, cert[:])
			boot.Init = &wire.KEKRequest{Admins: []string{adminARN}, PCR0: [][]byte{}, PCR8: [][]byte{pcr8[:]}}
		}
		var err error
		boot.Config, err = wire.Marshal(config)
		return boot, err
	}
}

// spec lists the host's ends of the enclave's links.
func (p *platform) spec(k *kek) launcher.Spec {
	serve := func(s *link.Server) func(net.Conn) {
		p.onClose(s.Close)
		return s.Handle
	}
	services := map[uint32]func(net.Conn){
		wire.PortBoot: serve(link.NewServer(link.Boot{Message: p.bootMessage(k)}.Handler(), p.log)),
		wire.PortCredentials: serve(link.NewServer(link.Credentials(func(context.Context) (wire.Credentials, error) {
			return p.kms.Credentials(roleARN), nil
		}), p.log)),
		wire.PortStore:     serve(link.NewServer(link.Store{Records: p.store, KeySet: p.keySet, Log: p.log}.Handler(), p.log)),
		wire.PortProxyBase: p.proxy.Handle(net.JoinHostPort("127.0.0.1", strconv.Itoa(int(p.kmsPort)))),
	}
	return launcher.Spec{Services: services}
}

func (p *platform) keySet(iss string) (string, error) {
	if iss != p.trust.Issuers[0].Iss {
		return "", link.ErrNoIssuer
	}
	return p.users.SignedKeySet()
}

// Waits between restarts of an enclave that ended.
const (
	firstWait = 200 * time.Millisecond
	longWait  = 10 * time.Second
)

// keeper keeps one enclave running.
type keeper struct {
	launcher launcher.Launcher
	spec     launcher.Spec
	log      *slog.Logger

	mu      sync.Mutex
	current launcher.Enclave
	last    wire.Release
	stop    context.CancelFunc
	done    chan struct{}
}

// start launches the first enclave, and then watches in the background.
func (k *keeper) start(ctx context.Context) error {
	e, err := k.launcher.Launch(ctx, k.spec)
	if err != nil {
		return err
	}
	k.set(e)
	watch, stop := context.WithCancel(context.Background())
	k.stop, k.done = stop, make(chan struct{})
	go k.watch(watch, e)
	return nil
}

func (k *keeper) set(e launcher.Enclave) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current = e
	if e != nil {
		k.last = e.Release()
	}
}

func (k *keeper) watch(ctx context.Context, e launcher.Enclave) {
	defer close(k.done)
	wait := firstWait
	for {
		started := time.Now()
		select {
		case <-ctx.Done():
			if err := e.Close(); err != nil {
				k.log.Error("stopping the enclave", "error", err)
			}
			return
		case <-e.Done():
		}
		k.set(nil)
		k.log.Error("the enclave ended and is started again", "error", e.Err())
		if time.Since(started) > time.Minute {
			wait = firstWait
		}
		if e = k.relaunch(ctx, &wait); e == nil {
			return
		}
		k.set(e)
	}
}

// relaunch tries until an enclave is up, or returns nil when ctx is done.
func (k *keeper) relaunch(ctx context.Context, wait *time.Duration) launcher.Enclave {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(*wait):
		}
		*wait = min(2**wait, longWait)
		e, err := k.launcher.Launch(ctx, k.spec)
		if err == nil {
			k.log.Info("the enclave is up again")
			return e
		}
		k.log.Error("starting the enclave", "error", err, "next try", *wait)
	}
}

func (k *keeper) close() error {
	if k.stop != nil {
		k.stop()
		<-k.done
	}
	return nil
}

var errNoEnclave = errors.New("no enclave is running")

// dial connects to the session port of the running enclave.
func (k *keeper) dial(ctx context.Context) (net.Conn, error) {
	k.mu.Lock()
	e := k.current
	k.mu.Unlock()
	if e == nil {
		return nil, errNoEnclave
	}
	return e.Dial(ctx, wire.PortSession)
}

// releases is what runs now; nothing while no enclave does.
func (k *keeper) releases() []wire.Release {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current == nil {
		return nil
	}
	return []wire.Release{k.last}
}
