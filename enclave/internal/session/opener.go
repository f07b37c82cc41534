package session

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cape-functions/cape/core/envelope"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/handler"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

// opener opens Cape-encrypted data for one function and one caller.
//
// The key of the function's account opens in sessions of the account's own authority, and for
// others what names the function if the manifest says so. The legacy key of (iss, sub) opens
// for whoever is admitted, as the original did: the host, which runs the issuer, could be
// admitted, and clients say so. Only it opens the old form, which names no recipient.
type opener struct {
	s        *Server
	tenant   *tenant      // whose memory it uses
	holder   vault.Holder // whose the function is
	legacy   wire.Subject
	name     string // of the function; empty: it is not stored
	seq      uint64 // its version
	checksum [32]byte
	byOwner  bool // the caller is the owner
	named    bool // the account's key opens for every caller what names this function
}

var errNotSealed = errors.New("not a Cape envelope: it does not begin with cape:")

func (o *opener) key(ctx context.Context, h vault.Holder) (*vault.CapeKey, error) {
	k, err := o.s.cfg.Vault.Key(ctx, h)
	if errors.Is(err, vault.ErrNotFound) {
		return nil, errNoKey
	}
	return k, err
}

// open returns the plaintext of input, or input itself when it is no envelope, until release.
// An error while reading it means that it is not whole.
func (o *opener) open(ctx context.Context, input io.Reader) (plain io.Reader, release func(), err error) {
	head := make([]byte, envelope.PrefixSize)
	n, err := io.ReadFull(input, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, nil, err
	}
	form := envelope.Detect(head[:n])
	if n == len(head) {
		input = io.MultiReader(bytes.NewReader(head), input)
	} else {
		input = bytes.NewReader(head[:n]) // that was all
	}
	switch form {
	case envelope.NotSealed:
		return input, func() {}, nil
	case envelope.Old:
		return o.openOld(ctx, input)
	}
	var to envelope.To
	allow := func(t envelope.To) error {
		to = t
		return o.allow(t)
	}
	r, _, err := envelope.NewReader(input, func(hash [32]byte) (*rsa.PrivateKey, error) { return o.find(ctx, hash, to) }, allow)
	return r, func() {}, err
}

// openOld opens the old form, which cannot be opened in pieces.
func (o *opener) openOld(ctx context.Context, input io.Reader) (io.Reader, func(), error) {
	k, err := o.key(ctx, vault.LegacyUser(o.legacy))
	if err != nil {
		return nil, nil, err
	}
	b := o.tenant.buffer(envelope.MaxSealedSize(int64(o.s.cfg.Limits.Input)))
	if err := b.fill(input, func() {}); err != nil {
		b.release()
		return nil, nil, err
	}
	plain, err := envelope.OpenOldTextInPlace(k.Private, b.bytes())
	if err == nil && isFunction(plain) {
		err = errDeployInput
	}
	if err != nil {
		b.release()
		return nil, nil, err
	}
	return bytes.NewReader(plain), b.release, nil
}

// find returns the key that an envelope names by its hash. The account's is not even unwrapped
// where it may not be used.
func (o *opener) find(ctx context.Context, hash [32]byte, to envelope.To) (*rsa.PrivateKey, error) {
	var holders []vault.Holder
	if !o.holder.Legacy() && (o.byOwner || o.named && to.Kind != envelope.ToOwner) {
		holders = append(holders, o.holder)
	}
	for _, h := range append(holders, vault.LegacyUser(o.legacy)) {
		k, err := o.key(ctx, h)
		switch {
		case err == nil && k.Hash == hash:
			return k.Private, nil
		case err != nil && !errors.Is(err, errNoKey):
			return nil, err
		}
	}
	return nil, envelope.ErrKey
}

// allow compares an envelope's recipient with this function and its caller.
func (o *opener) allow(to envelope.To) error {
	switch {
	case to.Kind == envelope.ToFunction && to.Digest == o.checksum:
		return nil
	case to.Kind == envelope.ToName && o.name != "" && vault.Account(to.Digest) == o.holder && to.Name == o.name && to.Seq <= o.seq:
		return nil
	case to.Kind == envelope.ToOwner && o.byOwner:
		return nil
	}
	return errRecipient
}

// seal encrypts to the function itself under its holder's key, whoever calls it in whatever
// version: who chooses the session must not choose the key. Earlier versions of it open nothing of
// that, so that one with a fault, or that opens for everybody, is no way to it. Where there is no
// account it writes the old form, the only one that published clients and functions know.
func (o *opener) seal(ctx context.Context, plain []byte) ([]byte, error) {
	k, err := o.key(ctx, o.holder)
	if err != nil {
		return nil, err
	}
	if o.holder.Legacy() {
		return envelope.SealOld(&k.Private.PublicKey, plain, false)
	}
	to := envelope.ForFunction(o.checksum)
	if o.name != "" {
		to = envelope.ForName(o.holder.Acct, o.name).Since(o.seq)
	}
	var out bytes.Buffer
	w, err := envelope.NewWriter(&out, &k.Private.PublicKey, to, true)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(plain)
	err = errors.Join(err, w.Close())
	return out.Bytes(), err
}

// isFunction tells a recorded deploy: whoever carried one could otherwise have any echo of
// the same owner give it out in the clear. It walks the zip's directory where it lies: a caller can
// write one of millions of entries, and whatever is made for each of them is memory that nobody counts.
func isFunction(plain []byte) bool {
	le := binary.LittleEndian
	for dir := directoryOf(plain); len(dir) >= 46 && string(dir[:4]) == "PK\x01\x02"; {
		name := 46 + int(le.Uint16(dir[28:]))
		next := name + int(le.Uint16(dir[30:])) + int(le.Uint16(dir[32:]))
		if next > len(dir) {
			return false
		}
		if rest, found := bytes.CutSuffix(dir[46:name], []byte("app.py")); found && (len(rest) == 0 || rest[len(rest)-1] == '/') {
			return true
		}
		dir = dir[next:]
	}
	return false
}

// directoryOf is where a zip's central directory begins, and all that follows; nil for what is no zip.
func directoryOf(plain []byte) []byte {
	le, end := binary.LittleEndian, bytes.LastIndex(plain[:max(len(plain)-18, 0)], []byte("PK\x05\x06")) // of 22 bytes and a comment
	if end < 0 {
		return nil
	}
	stop, size := uint64(end), uint64(le.Uint32(plain[end+12:]))
	if at := end - 20; at >= 0 && string(plain[at:at+4]) == "PK\x06\x07" { // its 64-bit form, of 56 bytes and more
		stop = le.Uint64(plain[at+8:])
		if stop > uint64(at) || uint64(at)-stop < 56 {
			return nil
		}
		size = le.Uint64(plain[stop+40:])
	}
	if size > stop {
		return nil
	}
	return plain[stop-size:]
}

// rpc answers cape_encrypt within the function. Its errors' texts are shown to the function.
// A tenant's are worked on by half of the processors at most.
func (o *opener) rpc(ctx context.Context, method string, arg []byte) ([]byte, error) {
	leave, err := vault.Take(ctx, o.tenant.requests)
	if err != nil {
		return nil, err
	}
	defer leave()
	if method == handler.MethodEncrypt {
		sealed, err := o.seal(ctx, arg)
		return sealed, public(err)
	}
	if !envelope.IsSealed(arg) {
		return nil, errNotSealed
	}
	r, release, err := o.open(ctx, bytes.NewReader(arg))
	if err != nil {
		return nil, public(err)
	}
	defer release()
	plain, err := io.ReadAll(r) // shorter than arg
	if err != nil {
		return nil, public(err)
	}
	return plain, nil
}

// public keeps what a caller may see of err, which is what the function may.
func public(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s", faultOf(err).line())
}
