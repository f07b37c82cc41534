package session

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/cape-functions/cape/core/envelope"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

// opener opens Cape-encrypted data for one function. It serves functions that have no account:
// the legacy key of (iss, sub) is used for whoever is admitted, as the original did, and the
// host, which runs the issuer, could be admitted: clients say so.
type opener struct {
	vault    *vault.Vault
	owner    wire.Subject
	checksum [32]byte
	byOwner  bool // the caller is the owner
	limit    int64
}

// methods of cape_encrypt.
const (
	rpcEncrypt = "CapeEncryptRPC.Encrypt"
	rpcDecrypt = "CapeEncryptRPC.Decrypt"
)

var (
	errMethod    = errors.New("no such method")
	errNotSealed = errors.New("not a Cape envelope: it does not begin with cape:")
)

func (o *opener) key(ctx context.Context) (*vault.CapeKey, error) {
	k, err := o.vault.LegacyKey(ctx, o.owner)
	if errors.Is(err, vault.ErrNotFound) {
		return nil, errNoKey
	}
	return k, err
}

// open returns the plaintext of input, or input itself when it is no envelope. It overwrites
// input. An error while reading the result means that it is not whole.
func (o *opener) open(ctx context.Context, input []byte) (io.Reader, error) {
	switch envelope.Detect(input[:min(len(input), envelope.PrefixSize)]) {
	case envelope.NotSealed:
		return bytes.NewReader(input), nil
	case envelope.Old:
		k, err := o.key(ctx)
		if err != nil {
			return nil, err
		}
		plain, err := envelope.OpenOldTextInPlace(k.Private, input)
		if err != nil {
			return nil, err
		}
		if isFunction(plain) {
			return nil, errDeployInput
		}
		return bytes.NewReader(plain), nil
	}
	k, err := o.key(ctx)
	if err != nil {
		return nil, err
	}
	find := func(hash [32]byte) (*rsa.PrivateKey, error) {
		if hash != k.Hash {
			return nil, envelope.ErrKey
		}
		return k.Private, nil
	}
	r, _, err := envelope.NewReader(bytes.NewReader(input), find, o.allow)
	return r, err
}

// allow compares an envelope's recipient with this function. One that names an account is
// for somebody else's: this function has none.
func (o *opener) allow(to envelope.To) error {
	switch {
	case to.Kind == envelope.ToFunction && to.Digest == o.checksum:
		return nil
	case to.Kind == envelope.ToOwner && o.byOwner:
		return nil
	}
	return errRecipient
}

// isFunction tells a recorded deploy: whoever carried one could otherwise have any echo of
// the same owner give it out in the clear.
func isFunction(plain []byte) bool {
	r, err := zip.NewReader(bytes.NewReader(plain), int64(len(plain)))
	if r == nil || (err != nil && !errors.Is(err, zip.ErrInsecurePath)) {
		return false
	}
	for _, f := range r.File {
		if path.Base(f.Name) == "app.py" {
			return true
		}
	}
	return false
}

// rpc answers cape_encrypt within the function. Its errors' texts are shown to the function.
func (o *opener) rpc(ctx context.Context, method string, arg []byte) ([]byte, error) {
	switch method {
	case rpcEncrypt:
		k, err := o.key(ctx)
		if err != nil {
			return nil, public(err)
		}
		sealed, err := envelope.SealOld(&k.Private.PublicKey, arg, false)
		return sealed, public(err)
	case rpcDecrypt:
		if !envelope.IsSealed(arg) {
			return nil, errNotSealed
		}
		r, err := o.open(ctx, bytes.Clone(arg))
		if err != nil {
			return nil, public(err)
		}
		plain, err := io.ReadAll(io.LimitReader(r, o.limit+1))
		if err == nil && int64(len(plain)) > o.limit {
			err = errLimit
		}
		if err != nil {
			return nil, public(err)
		}
		return plain, nil
	}
	return nil, errMethod
}

// public keeps what a caller may see of err, which is what the function may.
func public(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s", faultOf(err).line())
}
