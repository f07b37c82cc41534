package cms

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/cape-functions/cape/core/secret"
)

// MaxSize bounds an answer in bytes: KMS's own limit of CiphertextForRecipient.
const MaxSize = 6144

// maxKeyID bounds the recipient's key identifier; KMS writes 32 bytes.
const maxKeyID = 64

var (
	// ErrMalformed: the bytes are not of the shape that KMS writes.
	ErrMalformed = errors.New("answer of KMS is malformed")
	// ErrOpen: the bytes are of that shape but were not encrypted to this key.
	ErrOpen = errors.New("answer of KMS cannot be decrypted")
)

// Contents of the OBJECT IDENTIFIERs.
var (
	oidEnveloped = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x03} // 1.2.840.113549.1.7.3
	oidData      = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01} // 1.2.840.113549.1.7.1
	oidOAEP      = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x07} // 1.2.840.113549.1.1.7
	oidMGF1      = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08} // 1.2.840.113549.1.1.8
	oidSHA256    = []byte{0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01} // 2.16.840.1.101.3.4.2.1
	oidAES256CBC = []byte{0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a} // 2.16.840.1.101.3.4.1.42
	errAlgorithm = errors.New("an algorithm or type is not the one that KMS uses")
	errVersion   = errors.New("a version is not 2")
)

// Enveloped is what a parsed answer holds. Ciphertext is a copy, the others are not.
type Enveloped struct {
	EncryptedKey []byte // the AES-256 key under RSAES-OAEP
	IV           []byte // 16 bytes
	Ciphertext   []byte // AES-256-CBC with PKCS#7 padding, whole blocks
}

// Parse reads an answer. Errors match ErrMalformed.
func Parse(blob []byte) (*Enveloped, error) {
	if len(blob) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrMalformed, len(blob), MaxSize)
	}
	e := &Enveloped{}
	top := &reader{rest: blob}
	info := top.into(tagSequence) // ContentInfo
	info.oid(oidEnveloped)
	explicit := info.into(tagContext0Con)
	data := explicit.into(tagSequence) // EnvelopedData; originatorInfo would be a [0] here
	data.version()
	set := data.into(tagSet)
	e.readRecipient(set)
	data.end(set)
	e.readContent(data)
	explicit.end(data)
	info.end(explicit)
	top.end(info)
	if top.err == nil && len(top.rest) != 0 {
		top.err = errTrailing
	}
	if top.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, top.err)
	}
	return e, nil
}

// readRecipient reads a KeyTransRecipientInfo; that it is the only one, end checks.
func (e *Enveloped) readRecipient(set *reader) {
	r := set.into(tagSequence)
	r.version()
	if id := r.next(tagContext0); r.err == nil && (len(id) == 0 || len(id) > maxKeyID) {
		r.err = errLength
	}
	algorithm := r.into(tagSequence)
	algorithm.oid(oidOAEP)
	params := algorithm.into(tagSequence)
	hash := params.into(tagContext0Con)
	hash.sha256()
	params.end(hash)
	mask := params.into(tagContext1Con)
	mgf := mask.into(tagSequence)
	mgf.oid(oidMGF1)
	mgf.sha256()
	mask.end(mgf)
	params.end(mask)
	algorithm.end(params)
	r.end(algorithm)
	e.EncryptedKey = r.next(tagOctets)
	set.end(r)
}

// readContent reads an EncryptedContentInfo.
func (e *Enveloped) readContent(data *reader) {
	r := data.into(tagSequence)
	r.oid(oidData)
	algorithm := r.into(tagSequence)
	algorithm.oid(oidAES256CBC)
	e.IV = algorithm.next(tagOctets)
	r.end(algorithm)
	if r.peek() == tagContext0Con {
		parts := r.into(tagContext0Con)
		for parts.peek() != 0 {
			e.Ciphertext = append(e.Ciphertext, parts.next(tagOctets)...)
		}
		r.end(parts)
	} else {
		e.Ciphertext = bytes.Clone(r.next(tagContext0))
	}
	n := len(e.Ciphertext)
	if r.err == nil && (len(e.IV) != aes.BlockSize || n == 0 || n%aes.BlockSize != 0) {
		r.err = errLength
	}
	data.end(r)
}

func (r *reader) oid(want []byte) {
	if got := r.next(tagOID); r.err == nil && !bytes.Equal(got, want) {
		r.err = errAlgorithm
	}
}

func (r *reader) version() {
	if got := r.next(tagInteger); r.err == nil && !bytes.Equal(got, []byte{2}) {
		r.err = errVersion
	}
}

// sha256 reads an AlgorithmIdentifier of SHA-256, whose parameters are NULL or absent
// (RFC 4055, 2.1).
func (r *reader) sha256() {
	algorithm := r.into(tagSequence)
	algorithm.oid(oidSHA256)
	if algorithm.peek() == tagNull && len(algorithm.next(tagNull)) != 0 {
		algorithm.err = errLength
	}
	r.end(algorithm)
}

// Open parses an answer and decrypts it. Errors match ErrMalformed or ErrOpen; why
// decryption failed is not told.
func Open(blob []byte, key *rsa.PrivateKey) (secret.Bytes, error) {
	e, err := Parse(blob)
	if err != nil {
		return secret.Bytes{}, err
	}
	aesKey, err := rsa.DecryptOAEP(sha256.New(), nil, key, e.EncryptedKey, nil)
	if err != nil || len(aesKey) != 32 {
		return secret.Bytes{}, ErrOpen
	}
	defer clear(aesKey)
	block, err := aes.NewCipher(aesKey)
	if err != nil {
		return secret.Bytes{}, ErrOpen
	}
	plain := e.Ciphertext
	cipher.NewCBCDecrypter(block, e.IV).CryptBlocks(plain, plain)
	n, ok := unpad(plain)
	if !ok {
		clear(plain)
		return secret.Bytes{}, ErrOpen
	}
	return secret.New(plain[:n]), nil
}

// unpad tells how many bytes precede the PKCS#7 padding of b, whole blocks, at least one.
func unpad(b []byte) (int, bool) {
	n := int(b[len(b)-1])
	if n == 0 || n > aes.BlockSize {
		return 0, false
	}
	want := bytes.Repeat([]byte{byte(n)}, n)
	return len(b) - n, subtle.ConstantTimeCompare(b[len(b)-n:], want) == 1
}
