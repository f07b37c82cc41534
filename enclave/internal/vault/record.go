package vault

import (
	"context"
	"crypto/sha256"
	"net/url"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/wire"
)

// Record is a stored function before it was opened. Nothing in it is authentic yet: Load
// finds out. It must be loaded or closed.
type Record struct {
	ID       string
	Manifest *wire.Manifest
	// Raw are the manifest's bytes; Sig is the account's signature over them and Key the
	// account's public key, 32 bytes, both nil where there is no account.
	Raw, Sig, Key []byte

	hash    [32]byte // SHA-256 of Raw
	wrapped []byte
	body    *stream
	loaded  bool // body belongs to the loader
}

// Close lets go of the host's answer, unless Load took it over.
func (r *Record) Close() {
	if !r.loaded {
		_ = r.body.Close()
	}
}

// ByID asks the host for the function with this id.
func (v *Vault) ByID(ctx context.Context, id string) (*Record, error) {
	if !wire.ValidID(id) {
		return nil, ErrNotFound
	}
	r, err := v.fetch(ctx, "/v1/functions/"+id)
	if err != nil {
		return nil, err
	}
	if r.ID != id {
		r.Close()
		return nil, ErrWrongID
	}
	return r, nil
}

// ByName asks the host for the newest function that user has under name. Which user that is,
// and that it is the newest, is the host's word.
func (v *Vault) ByName(ctx context.Context, user, name string) (*Record, error) {
	if !wire.ValidUsername(user) || !wire.ValidFunctionName(name) {
		return nil, ErrNotFound
	}
	r, err := v.fetch(ctx, "/v1/names/"+url.PathEscape(user)+"/"+url.PathEscape(name))
	if err != nil {
		return nil, err
	}
	if r.Manifest.Name != name {
		r.Close()
		return nil, ErrWrongName
	}
	return r, nil
}

func (v *Vault) fetch(ctx context.Context, path string) (*Record, error) {
	body, err := v.link.get(ctx, path)
	if err != nil {
		return nil, err
	}
	r, err := v.readRecord(body)
	if err != nil {
		_ = body.Close()
		return nil, err
	}
	return r, nil
}

func (v *Vault) readRecord(body *stream) (*Record, error) {
	var f wire.StoredFunction
	if err := readHead(body, &f); err != nil {
		return nil, err
	}
	m, err := wire.ParseManifest(f.Manifest)
	switch {
	case err != nil:
		return nil, ErrManifest
	case f.ID != wire.FunctionID(f.Manifest):
		return nil, ErrWrongID
	case !authentic(m, &f):
		return nil, ErrSigned
	case f.KEK != v.cfg.KEK:
		return nil, ErrKEK
	case len(f.Wrapped) == 0 || len(f.Wrapped) > wire.MaxWrapped:
		return nil, ErrHead
	}
	return &Record{ID: f.ID, Manifest: m, Raw: f.Manifest, Sig: f.Sig, Key: f.Key,
		hash: sha256.Sum256(f.Manifest), wrapped: f.Wrapped, body: body}, nil
}

// authentic tells whether the manifest's account signed it, or there is none and no signature.
func authentic(m *wire.Manifest, f *wire.StoredFunction) bool {
	if m.Acct == nil {
		return f.Sig == nil && f.Key == nil
	}
	_, err := account.VerifyManifest(f.Manifest, f.Sig, f.Key)
	return err == nil
}
