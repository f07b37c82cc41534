package vault

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cape-functions/cape/core/secret"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/intake"
	"github.com/cape-functions/cape/enclave/internal/keyring"
)

// Keys wraps and unwraps keys; keyring.Keyring does.
type Keys interface {
	NewDataKey(ctx context.Context, c keyring.Context) (secret.Bytes, []byte, error)
	OpenDataKey(ctx context.Context, blob []byte, c keyring.Context) (secret.Bytes, error)
	NewKeyPair(ctx context.Context, c keyring.Context) (*rsa.PrivateKey, []byte, error)
	OpenKeyPair(ctx context.Context, blob []byte, c keyring.Context) (*rsa.PrivateKey, error)
}

// Unpack unpacks a zip into an empty directory, once admit has allowed it the room that it takes; intake.Unpack does.
type Unpack func(ctx context.Context, zip io.ReaderAt, size int64, dir string, admit func(room int64) error) (*intake.Layout, error)

// Config says where things are.
type Config struct {
	// Dial connects to wire.PortStore.
	Dial Dial
	Keys Keys
	// KEK is the ARN of the key that Keys uses.
	KEK string
	// Scratch is a directory in memory that belongs to the vault alone.
	Scratch string
	Limits  wire.LimitsConfig
	Unpack  Unpack
	// Yield, if set, is called when there is no room: it has somebody release what Hold holds and nobody runs; false: nothing is left.
	Yield func() bool
}

// Vault is safe for concurrent use.
type Vault struct {
	cfg     Config
	link    *link
	cache   *cache
	keys    *keyCache
	loading Turn // of unpacking functions
}

// loads is how many functions are decrypted and unpacked at the same time: each needs memory
// beyond the cache's while it happens.
const loads = 2

// New returns a Vault over an empty directory.
func New(cfg Config) (*Vault, error) {
	for _, d := range []string{"zips", "trees"} {
		if err := os.MkdirAll(filepath.Join(cfg.Scratch, d), 0o711); err != nil {
			return nil, fmt.Errorf("preparing scratch directory: %w", err)
		}
	}
	v := &Vault{cfg: cfg, link: newLink(cfg.Dial), cache: newCache(int64(cfg.Limits.Cache)), keys: newKeyCache(), loading: make(Turn, loads)}
	if cfg.Yield != nil {
		v.cache.yield = cfg.Yield
	}
	return v, nil
}

// Close ends idle connections to the host. Trees stay until their directory is removed.
func (v *Vault) Close() { v.link.close() }

// Function is an authentic function, unpacked. Whoever has one must release it.
type Function struct {
	ID       string
	Manifest *wire.Manifest // nil for a temporary one
	Dir      string         // absolute, shared: never to be written
	Work     string         // folder below Dir that holds app.py

	cache *cache
	entry *entry
}

// Release says that the function is not used any more.
func (f *Function) Release() { f.cache.release(f.entry) }

// Hold keeps the function's folder in its place until release, which may be called once, also after Release.
func (f *Function) Hold() (release func()) {
	f.cache.mu.Lock()
	f.cache.hold(f.entry)
	f.cache.mu.Unlock()
	return func() { f.cache.release(f.entry) }
}

// Load opens r, which it takes over: it unwraps the key under the manifest's hash, decrypts,
// compares with the manifest's checksum, and unpacks once for all who ask, in a turn of the first. Errors match those
// of errors.go, intake.ErrInvalid, or ctx's.
func (v *Vault) Load(ctx context.Context, r *Record, turn Turn) (*Function, error) {
	r.loaded = true
	e, claimed, err := v.cache.get(ctx, r.hash, r.Manifest.Owner, func(ctx context.Context, admit admit) (tree, error) {
		defer r.body.Close()
		return v.load(ctx, r, turn, admit)
	})
	if !claimed {
		_ = r.body.Close()
	}
	if err != nil {
		return nil, err
	}
	return &Function{ID: r.ID, Manifest: r.Manifest, Dir: e.tree.dir, Work: e.tree.work, cache: v.cache, entry: e}, nil
}

func (v *Vault) load(ctx context.Context, r *Record, turn Turn, admit admit) (tree, error) {
	stop := context.AfterFunc(ctx, r.body.cancel)
	defer stop()
	leave, err := Take(ctx, turn, v.loading)
	if err != nil {
		return tree{}, err
	}
	defer leave()
	dek, err := v.cfg.Keys.OpenDataKey(ctx, r.wrapped, functionContext(r.Manifest, r.ID, r.hash))
	if err != nil {
		return tree{}, keyError(err)
	}
	defer dek.Wipe()
	zip, err := os.CreateTemp(filepath.Join(v.cfg.Scratch, "zips"), "")
	if err != nil {
		return tree{}, fmt.Errorf("%w: %w", ErrNoRoom, err)
	}
	defer func() {
		zip.Close()
		os.Remove(zip.Name())
	}()
	size, err := v.decrypt(zip, r, dek)
	if err != nil {
		return tree{}, err
	}
	return v.unpack(ctx, zip, size, admit)
}

// decrypt writes the zip of r to dst, and returns its size if it is the manifest's.
func (v *Vault) decrypt(dst io.Writer, r *Record, dek secret.Bytes) (int64, error) {
	aead, err := newAEAD(dek)
	if err != nil {
		return 0, err
	}
	sum := sha256.New()
	size, err := open(io.MultiWriter(dst, sum), r.body, int64(v.cfg.Limits.Zip), aead, r.hash)
	if err != nil {
		return 0, err
	}
	if [32]byte(sum.Sum(nil)) != [32]byte(r.Manifest.Checksum) {
		return 0, ErrChecksum
	}
	return size, nil
}

func (v *Vault) unpack(ctx context.Context, zip io.ReaderAt, size int64, admit admit) (tree, error) {
	dir, err := os.MkdirTemp(filepath.Join(v.cfg.Scratch, "trees"), "")
	if err != nil {
		return tree{}, fmt.Errorf("%w: %w", ErrNoRoom, err)
	}
	layout, err := v.cfg.Unpack(ctx, zip, size, dir, admit)
	if err != nil {
		remove([]string{dir})
		if errors.Is(err, syscall.ENOSPC) {
			err = ErrNoRoom
		}
		return tree{}, fmt.Errorf("unpacking function: %w", err)
	}
	return tree{dir: dir, work: layout.Work}, nil
}

// Temporary unpacks a function of owner's that is stored nowhere; it is gone when it is released.
// It is unpacked in a turn of theirs.
func (v *Vault) Temporary(ctx context.Context, owner wire.Subject, turn Turn, zip io.ReaderAt, size int64) (*Function, error) {
	leave, err := Take(ctx, turn, v.loading)
	if err != nil {
		return nil, err
	}
	defer leave()
	e, err := v.cache.adopt(owner, func(admit admit) (tree, error) { return v.unpack(ctx, zip, size, admit) })
	if err != nil {
		return nil, err
	}
	return &Function{Dir: e.tree.dir, Work: e.tree.work, cache: v.cache, entry: e}, nil
}

// Turn is held by as many at once as the channel holds.
type Turn chan struct{}

// Take waits for turns one after the other, until ctx ends.
func Take(ctx context.Context, turns ...Turn) (leave func(), err error) {
	held := 0
	leave = func() {
		for _, t := range turns[:held] {
			<-t
		}
	}
	for _, t := range turns {
		select {
		case t <- struct{}{}:
			held++
		case <-ctx.Done():
			leave()
			return nil, ctx.Err()
		}
	}
	return leave, nil
}

// Deploy is a function to be stored.
type Deploy struct {
	// Manifest is deterministic CBOR; Sig and Key as in Record.
	Manifest, Sig, Key []byte
	// Username is for the host's routing alone.
	Username string
}

// Store encrypts zip, which the manifest describes, under a key of its own and hands it to
// the host. It returns the function's id once the host said that it is stored.
func (v *Vault) Store(ctx context.Context, d Deploy, zip io.Reader, size int64) (string, error) {
	m, err := wire.ParseManifest(d.Manifest)
	if err != nil {
		return "", err
	}
	id, hash := wire.FunctionID(d.Manifest), sha256.Sum256(d.Manifest)
	dek, wrapped, err := v.cfg.Keys.NewDataKey(ctx, functionContext(m, id, hash))
	if err != nil {
		return "", keyError(err)
	}
	defer dek.Wipe()
	aead, err := newAEAD(dek)
	if err != nil {
		return "", err
	}
	head, err := headOf(wire.StoredFunction{ID: id, Manifest: d.Manifest, Sig: d.Sig, Key: d.Key, Wrapped: wrapped, KEK: v.cfg.KEK,
		Username: d.Username, Size: uint64(size)})
	if err != nil {
		return "", err
	}
	s := newSealer(zip, size, aead, hash)
	defer s.wipe()
	body := io.MultiReader(head, s)
	if err := v.link.put(ctx, "/v1/functions/"+id, body, head.Size()+sealedSize(size)); err != nil {
		return "", fmt.Errorf("storing function: %w", err)
	}
	return id, nil
}

// keyError tells a key that does not open from a key service that does not answer.
func keyError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.Is(err, keyring.ErrWrapped) {
		return fmt.Errorf("%w: %w", ErrWrapped, err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
