package envelope

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"

	"github.com/cape-functions/cape/core/wire"
)

const (
	saltSize = 16
	// maxHeader is above the largest header there can be, with a 4096-bit key
	// and the longest name.
	maxHeader = 1024

	labelWrap    = "cape:v2\x00"
	labelPayload = "cape:v2 payload\x00"
)

// header is the CBOR header of cape:v2. The part without Wrapped is bound to
// the wrapped file key by the OAEP label, the whole to the payload key.
type header struct {
	Key     []byte   `cbor:"key"`
	To      *toField `cbor:"to"`
	Salt    []byte   `cbor:"salt"`
	Wrapped []byte   `cbor:"wrapped"`
}

// headerLabel is header without Wrapped.
type headerLabel struct {
	Key  []byte   `cbor:"key"`
	To   *toField `cbor:"to"`
	Salt []byte   `cbor:"salt"`
}

// label is the OAEP label under which the file key is wrapped.
func (h *header) label() ([]byte, error) {
	encoded, err := wire.Marshal(headerLabel{Key: h.Key, To: h.To, Salt: h.Salt})
	if err != nil {
		return nil, fmt.Errorf("encoding envelope header: %w", err)
	}
	sum := sha256.Sum256(encoded)
	return append([]byte(labelWrap), sum[:]...), nil
}

// KeyHash is the SHA-256 of a public key's SPKI (PKIX DER), by which headers
// name keys. Error: ErrKey.
func KeyHash(pub *rsa.PublicKey) ([32]byte, error) {
	if err := checkKey(pub); err != nil {
		return [32]byte{}, err
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return [32]byte{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return sha256.Sum256(der), nil
}

// sealHeader makes a fresh file key and returns u16be(len) ‖ header and the
// payload cipher.
func sealHeader(pub *rsa.PublicKey, to To) ([]byte, cipher.AEAD, error) {
	hash, err := KeyHash(pub)
	if err != nil {
		return nil, nil, err
	}
	field, err := to.field()
	if err != nil {
		return nil, nil, err
	}
	h := header{Key: hash[:], To: field, Salt: make([]byte, saltSize)}
	rand.Read(h.Salt)
	fileKey := make([]byte, keySize)
	rand.Read(fileKey)
	defer clear(fileKey)
	label, err := h.label()
	if err != nil {
		return nil, nil, err
	}
	if h.Wrapped, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, fileKey, label); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	encoded, err := wire.Marshal(h)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding envelope header: %w", err)
	}
	gcm, err := payloadCipher(fileKey, h.Salt, encoded)
	if err != nil {
		return nil, nil, err
	}
	framed := binary.BigEndian.AppendUint16(nil, uint16(len(encoded)))
	return append(framed, encoded...), gcm, nil
}

// parseHeader decodes a header strictly. Error: ErrFormat.
func parseHeader(encoded []byte) (*header, To, error) {
	var h header
	if err := wire.Unmarshal(encoded, maxHeader, &h); err != nil {
		return nil, To{}, fmt.Errorf("%w: header: %w", ErrFormat, err)
	}
	if len(h.Key) != sha256.Size || len(h.Salt) != saltSize ||
		len(h.Wrapped) < minKeyBits/8 || len(h.Wrapped) > maxKeyBits/8 {
		return nil, To{}, fmt.Errorf("%w: header: a field has a wrong size", ErrFormat)
	}
	to, err := h.To.to()
	if err != nil {
		return nil, To{}, err
	}
	return &h, to, nil
}

// open unwraps the file key and returns the payload cipher. encoded are the
// header's exact bytes.
func (h *header) open(priv *rsa.PrivateKey, encoded []byte) (cipher.AEAD, error) {
	if priv == nil {
		return nil, fmt.Errorf("%w: none found", ErrKey)
	}
	hash, err := KeyHash(&priv.PublicKey)
	if err != nil {
		return nil, err
	}
	if hash != [32]byte(h.Key) {
		return nil, fmt.Errorf("%w: it names another", ErrKey)
	}
	if len(h.Wrapped) != priv.Size() {
		return nil, fmt.Errorf("%w: header: wrapped key of %d bytes", ErrFormat, len(h.Wrapped))
	}
	label, err := h.label()
	if err != nil {
		return nil, err
	}
	fileKey, err := rsa.DecryptOAEP(sha256.New(), nil, priv, h.Wrapped, label)
	if err != nil {
		return nil, ErrDamaged
	}
	defer clear(fileKey)
	if len(fileKey) != keySize {
		return nil, fmt.Errorf("%w: its file key is not of %d bytes", ErrFormat, keySize)
	}
	return payloadCipher(fileKey, h.Salt, encoded)
}

func payloadCipher(fileKey, salt, encodedHeader []byte) (cipher.AEAD, error) {
	sum := sha256.Sum256(encodedHeader)
	key, err := hkdf.Key(sha256.New, fileKey, salt, labelPayload+string(sum[:]), keySize)
	if err != nil {
		return nil, fmt.Errorf("deriving payload key: %w", err)
	}
	defer clear(key)
	return newGCM(key)
}
