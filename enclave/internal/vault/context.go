package vault

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/keyring"
)

// name tells holders apart, without ambiguity and within what KMS accepts in an encryption
// context: "account:" and the hex of the account, or "legacy:" and the hex of
// SHA-256("cape legacy account\0" || u32be(len iss) || iss || sub).
func (h Holder) name() string {
	if !h.Legacy() {
		return "account:" + hex.EncodeToString(h.Acct[:])
	}
	b := append([]byte("cape legacy account\x00"), binary.BigEndian.AppendUint32(nil, uint32(len(h.User.Iss)))...)
	b = append(append(b, h.User.Iss...), h.User.Sub...)
	sum := sha256.Sum256(b)
	return "legacy:" + hex.EncodeToString(sum[:])
}

// context is the encryption context of h's Cape Key pair.
func (h Holder) context() keyring.Context {
	return keyring.Context{Purpose: keyring.PurposeCapeKey, Account: h.name()}
}

// functionContext is the encryption context of a function's DEK.
func functionContext(m *wire.Manifest, id string, hash [32]byte) keyring.Context {
	return keyring.Context{
		Purpose:  keyring.PurposeFunction,
		Account:  HolderOf(m).name(),
		Function: id,
		Manifest: hex.EncodeToString(hash[:]),
	}
}

// HolderOf is whose a function is.
func HolderOf(m *wire.Manifest) Holder {
	if m.Acct == nil {
		return LegacyUser(m.Owner)
	}
	return Account([32]byte(m.Acct))
}
