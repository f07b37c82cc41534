package vault

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/keyring"
)

// legacyAccount names a user who has no account key, without ambiguity and within what KMS
// accepts in an encryption context: "legacy:" and the hex of SHA-256("cape legacy account\0"
// || u32be(len iss) || iss || sub).
func legacyAccount(s wire.Subject) string {
	b := append([]byte("cape legacy account\x00"), binary.BigEndian.AppendUint32(nil, uint32(len(s.Iss)))...)
	b = append(append(b, s.Iss...), s.Sub...)
	sum := sha256.Sum256(b)
	return "legacy:" + hex.EncodeToString(sum[:])
}

// functionContext is the encryption context of a function's DEK.
func functionContext(m *wire.Manifest, id string, hash [32]byte) keyring.Context {
	return keyring.Context{
		Purpose:  keyring.PurposeFunction,
		Account:  legacyAccount(m.Owner),
		Function: id,
		Manifest: hex.EncodeToString(hash[:]),
	}
}

// legacyContext is the encryption context of a user's legacy Cape Key pair.
func legacyContext(s wire.Subject) keyring.Context {
	return keyring.Context{Purpose: keyring.PurposeCapeKey, Account: legacyAccount(s)}
}
