package seal

import (
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/wire"
)

// Sentinels of the v2 handshake.
var (
	// ErrRoute: the hello is for another route than the one that is served.
	ErrRoute = errors.New("hello names another route: somebody sent the caller here")
	// ErrUse: the hello is for another use.
	ErrUse = errors.New("hello is for another use")
	// ErrKEM: the enclave can use none of the offered key exchanges, or did not choose the
	// strongest.
	ErrKEM = errors.New("key exchange is not the strongest one that was offered")
	// ErrBinding: the document does not vouch for what came with it.
	ErrBinding = errors.New("attestation document does not vouch for this session")
	// ErrTrust: the enclave runs under another trust, key policy or key than it says.
	ErrTrust = errors.New("enclave's trust, key and key policy do not belong together")
	// ErrOrder: a step of the handshake was left out or done twice.
	ErrOrder = errors.New("handshake steps are out of order")
	// ErrAuthority: an account's signature for the session does not hold.
	ErrAuthority = account.ErrAuthority
)

const (
	labelTranscript = "cape v2 transcript\x00"
	labelOpen       = "cape v2 open"
)

// transcriptOf is SHA-256(label ‖ u32be(len hello) ‖ hello ‖ u32be(len attest) ‖ attest).
func transcriptOf(hello, attest []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte(labelTranscript))
	for _, m := range [][]byte{hello, attest} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(m))))
		h.Write(m)
	}
	return [32]byte(h.Sum(nil))
}

func openInfo(transcript [32]byte) []byte { return append([]byte(labelOpen), transcript[:]...) }

// kemOf returns HPKE's implementation. Error: ErrKEM.
func kemOf(k wire.KEM) (hpke.KEM, error) {
	switch k {
	case wire.KEMXWing, wire.KEMX25519:
		kem, err := hpke.NewKEM(uint16(k))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrKEM, err)
		}
		return kem, nil
	}
	return nil, ErrKEM
}

// choose returns the strongest key exchange of an offer, 0 if there is none.
func choose(offered []wire.KEM) wire.KEM {
	var best wire.KEM
	for _, k := range offered {
		if k == wire.KEMXWing || (k == wire.KEMX25519 && best == 0) {
			best = k
		}
	}
	return best
}
