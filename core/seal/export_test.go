package seal

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"

	"github.com/cape-functions/cape/core/wire"
)

// Known answers need what a handshake draws at random.

// CallerWith is a caller that has sent this hello.
func CallerWith(hello []byte) (*Caller, error) {
	h, err := wire.ParseHello(hello)
	if err != nil {
		return nil, err
	}
	return &Caller{request: *h, hello: hello}, nil
}

// OpenWith opens a frame under a KEM's private key and returns what was in it, the secret,
// and the transcript.
func OpenWith(kem wire.KEM, private, hello, attest, frame []byte) (*Opened, []byte, [32]byte, error) {
	k, err := kemOf(kem)
	if err != nil {
		return nil, nil, [32]byte{}, err
	}
	key, err := k.NewPrivateKey(private)
	if err != nil {
		return nil, nil, [32]byte{}, err
	}
	transcript := transcriptOf(hello, attest)
	opened, secret, err := openOpen(key, transcript, frame)
	return opened, secret, transcript, err
}

// ChannelWith is one side's records.
func ChannelWith(transcript [32]byte, secret []byte, caller bool) (*Channel, error) {
	return newChannel(transcript, bytes.Clone(secret), caller)
}

// KeysOf are the key and iv of a direction.
func KeysOf(transcript [32]byte, secret []byte, name string) (key, iv []byte, err error) {
	prk, err := hkdf.Extract(sha256.New, secret, transcript[:])
	if err != nil {
		return nil, nil, err
	}
	return expand(prk, name)
}

// Exhaust leaves n bytes that the directions may still carry.
func (c *Channel) Exhaust(n uint64) { c.Out.d.left, c.In.d.left = n, n }

// VerifyReceiptWith verifies against what a document says.
func VerifyReceiptWith(raw []byte, key ed25519.PublicKey, doc, nonce []byte) (*Receipt, error) {
	return verifyReceipt(raw, key, doc, nonce)
}

// Transcript is the hash of a handshake.
func Transcript(hello, attest []byte) [32]byte { return transcriptOf(hello, attest) }

// OpenPlaintext is OpenWith without reading what was in the frame.
func OpenPlaintext(kem wire.KEM, private, hello, attest, frame []byte) ([]byte, error) {
	k, err := kemOf(kem)
	if err != nil {
		return nil, err
	}
	key, err := k.NewPrivateKey(private)
	if err != nil {
		return nil, err
	}
	return hpke.Open(key, hpke.HKDFSHA256(), hpke.AES256GCM(), openInfo(transcriptOf(hello, attest)), frame)
}

// ParseOpen reads what was in an open frame.
func ParseOpen(plaintext []byte, transcript [32]byte) (*Opened, error) {
	o, _, err := parseOpen(plaintext, transcript)
	return o, err
}
