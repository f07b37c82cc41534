package boot

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/boot/event"
	"github.com/cape-functions/cape/enclave/internal/handler"
	"github.com/cape-functions/cape/enclave/internal/intake"
	"github.com/cape-functions/cape/enclave/internal/keyring"
	"github.com/cape-functions/cape/enclave/internal/session"
	"github.com/cape-functions/cape/enclave/internal/token"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

const (
	// signingBits is the size of the checksum key: what clients accept at the least, since
	// every result costs a signature.
	signingBits = 2048
	// grace is how long sessions may take to end.
	grace = 1200 * time.Millisecond
	// inspectWithin bounds the wait for KMS at boot.
	inspectWithin = 20 * time.Second
	firstRetry    = 250 * time.Millisecond
)

// serve inspects the key while it builds everything, and serves until ctx ends.
func (r *runtime) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	keys, err := keyring.New(r.keyConfig())
	if err != nil {
		return at("keyring", err)
	}
	inspected := r.firstInspection(ctx, keys)
	host, err := r.handlers()
	if err != nil {
		return at("sandbox", err)
	}
	defer host.Close()
	r.log.Info(event.JailsReady)
	front, err := newFront(r.parts.Network, r.clock.now)
	if err != nil {
		return at("tls", err)
	}
	signing, err := newSigningKeys()
	if err != nil {
		return at("signing-key", err)
	}
	srv, stored, err := r.server(r.clock, keys, host, signing, front)
	if err != nil {
		return at("server", err)
	}
	defer stored.Close()
	policy, err := r.vouch(ctx, srv, inspected)
	if err != nil {
		return at("inspect", err)
	}
	_ = front.open(ctx) // tried again, and told to the log, while serving
	l, err := r.parts.Network.Listen(wire.PortSession)
	if err != nil {
		return at("listen", err)
	}
	srv.Open(policy)
	r.log.Info(event.Serving)
	go func() { _, _ = signing.checksums() }() // ahead of the first client of v1, who would wait for it
	return at("serve", r.attend(ctx, r.clock, keys, srv, l, front))
}

// attend runs the server and what watches over it until one of them ends.
func (r *runtime) attend(ctx context.Context, c *clock, keys *keyring.Keyring, srv *session.Server, l net.Listener, f *front) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go c.keep(ctx)
	go func() {
		if err := f.serve(ctx, srv, r.log); err != nil {
			cancel(err)
		}
	}()
	go func() {
		inspect := func(ctx context.Context) ([]byte, error) { return r.inspect(ctx, keys) }
		if err := watchKey(ctx, hourly(), inspect, refused, srv, r.log); err != nil {
			cancel(err)
		}
	}()
	err := srv.Serve(ctx, l, grace)
	r.log.Info(event.Stopping)
	if cause := context.Cause(ctx); err == nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

// inspect looks at the KEK and at the document of its birth.
func (r *runtime) inspect(ctx context.Context, keys *keyring.Keyring) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, wire.LinkCall)
	defer cancel()
	policy, err := keys.Inspect(ctx)
	if err != nil {
		return nil, err
	}
	var roots [][]byte
	if r.parts.BirthRoots != nil {
		if roots, err = r.parts.BirthRoots(r.device); err != nil {
			return nil, fmt.Errorf("%w: %w", keyring.ErrAttest, err)
		}
	}
	if err := keyring.CheckBirth(r.boot.Birth, r.cfg.KMS, policy, roots...); err != nil {
		return nil, err
	}
	r.log.Info(event.Inspected)
	return policy, nil
}

// inspection is what came of one.
type inspection struct {
	policy []byte
	err    error
}

// firstInspection waits for a KMS that cannot be reached yet, but not for one that refuses.
func (r *runtime) firstInspection(ctx context.Context, keys *keyring.Keyring) <-chan inspection {
	done := make(chan inspection, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, inspectWithin)
		defer cancel()
		for {
			policy, err := r.inspect(ctx, keys)
			if err == nil || refused(err) {
				done <- inspection{policy, err}
				return
			}
			select {
			case <-ctx.Done():
				done <- inspection{err: err}
				return
			case <-time.After(firstRetry):
			}
		}
	}()
	return done
}

// vouch waits for the first inspection. Meanwhile anybody may see what has booted.
func (r *runtime) vouch(ctx context.Context, srv *session.Server, inspected <-chan inspection) ([]byte, error) {
	l, err := r.parts.Network.Listen(wire.PortEvidence)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	vouched := make(chan struct{})
	go func() {
		defer close(vouched)
		srv.Vouch(ctx, l)
	}()
	i := <-inspected
	cancel()
	<-vouched
	return i.policy, i.err
}

// handlers builds what starts functions, and tells which layers the machine cannot have.
func (r *runtime) handlers() (*handler.Host, error) {
	if err := emptied(r.parts.Scratch); err != nil {
		return nil, err
	}
	dirs := map[string]string{}
	for _, name := range []string{"handler", "vault"} {
		dirs[name] = filepath.Join(r.parts.Scratch, name)
		if err := os.Mkdir(dirs[name], 0o711); err != nil {
			return nil, fmt.Errorf("preparing scratch directory: %w", err)
		}
	}
	host, err := handler.New(handler.Config{Python: r.parts.Python, Worker: r.parts.Worker, Scratch: dirs["handler"], Trees: dirs["vault"],
		AllowDegraded: r.parts.Degraded})
	if err != nil {
		return nil, err
	}
	for _, l := range host.Layers() {
		if !l.On {
			r.log.Warn(event.LayerMissing, event.Layer, strings.ReplaceAll(strings.ToLower(l.Name), " ", "-"))
		}
	}
	return host, nil
}

// emptied removes what an earlier run may have left below dir.
func emptied(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("preparing scratch directory: %w", err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("preparing scratch directory: %w", err)
		}
	}
	return nil
}

func (r *runtime) server(c *clock, keys *keyring.Keyring, host *handler.Host, signing signingKeys, f *front) (*session.Server, *vault.Vault, error) {
	rules := intake.Rules{Limits: r.cfg.Limits, Python: host.Python(), Platform: host.Platform()}
	stored, err := vault.New(vault.Config{
		Dial:    func(ctx context.Context) (net.Conn, error) { return r.parts.Network.Dial(ctx, wire.PortStore) },
		Keys:    keys,
		KEK:     r.cfg.KMS,
		Scratch: filepath.Join(r.parts.Scratch, "vault"),
		Limits:  r.cfg.Limits,
		Yield:   host.Yield,
		Unpack: func(ctx context.Context, zip io.ReaderAt, size int64, dir string, admit func(int64) error) (*intake.Layout, error) {
			return intake.Unpack(ctx, zip, size, rules, dir, admit)
		},
	})
	if err != nil {
		return nil, nil, err
	}
	tokens, err := token.New(token.Config{
		Issuers: r.cfg.Trust.Issuers,
		HTTP:    keyring.NewHTTPClient(router(r.parts.Network, r.boot.Routes), r.ends.Issuers),
		Signed:  stored,
		Now:     c.now,
	})
	if err != nil {
		return nil, nil, err
	}
	srv, err := session.New(session.Config{
		NSM: attestor{r.device, c}, Tokens: tokens, Vault: stored, Functions: &functions{host, rules}, TLS: f.hash,
		SigningKey: signing.checksums, ReceiptKey: signing.receipts, Now: c.now, Config: r.boot.Config, Birth: r.boot.Birth,
		Python: host.Python(), Platform: host.Platform(), Limits: r.cfg.Limits, Log: r.log,
		Memory: messageMemory(),
	})
	return srv, stored, err
}

// messageMemory is what the messages of all sessions may take, in bytes: half of a small machine.
func messageMemory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0 // session's own
	}
	return min(session.AllMessages, int64(info.Totalram)*int64(info.Unit)/2)
}

// functions joins what packages handler and intake do for a session.
type functions struct {
	host  *handler.Host
	rules intake.Rules
}

func (f *functions) Start(ctx context.Context, o handler.Options) (session.Process, error) {
	p, err := f.host.Start(ctx, o)
	if err != nil {
		return nil, err // not a nil *handler.Process in a non-nil interface
	}
	return p, nil
}

func (f *functions) Check(ctx context.Context, zip io.ReaderAt, size int64) error {
	_, err := intake.Check(ctx, zip, size, f.rules, f.host.Check)
	return err
}

// signingKeys live as long as the enclave; documents hold their public halves.
type signingKeys struct {
	checksums func() (*rsa.PrivateKey, error) // v1; made when first asked for
	receipts  ed25519.PrivateKey              // v2
}

func newSigningKeys() (k signingKeys, err error) {
	k.checksums = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, signingBits) })
	_, k.receipts, err = ed25519.GenerateKey(rand.Reader)
	return k, err
}

// refused tells what will not pass by itself, as a service that cannot be reached or
// credentials that the host has not renewed do.
func refused(err error) bool {
	return err != nil && !errors.Is(err, keyring.ErrUnavailable) && !errors.Is(err, keyring.ErrDenied) &&
		!errors.Is(err, keyring.ErrAttest) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}
