// Package testkit opens CMS EnvelopedData in tests, so that what the local KMS
// writes is read by other code than its own.
package testkit

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
)

// Parts are the fields of an EnvelopedData with one recipient.
type Parts struct {
	KeyID, EncryptedKey, IV, Ciphertext []byte
}

var errBER = errors.New("not the expected BER")

// node is one value; children is nil for primitives.
type node struct {
	tag      byte
	content  []byte
	children []node
}

// Split reads the fields of an EnvelopedData.
func Split(ber []byte) (Parts, error) {
	n, rest, err := read(ber, 0)
	if err != nil {
		return Parts{}, err
	}
	if len(rest) > 0 {
		return Parts{}, fmt.Errorf("%w: bytes after the end", errBER)
	}
	var p Parts
	for _, want := range []struct {
		path []int
		tag  byte
		to   *[]byte
	}{
		{[]int{1, 0, 1, 0, 1}, 0x80, &p.KeyID},
		{[]int{1, 0, 1, 0, 3}, 0x04, &p.EncryptedKey},
		{[]int{1, 0, 2, 1, 1}, 0x04, &p.IV},
	} {
		v, err := n.at(want.path...)
		if err != nil || v.tag != want.tag {
			return Parts{}, fmt.Errorf("%w: nothing of tag %#x at %v", errBER, want.tag, want.path)
		}
		*want.to = v.content
	}
	content, err := n.at(1, 0, 2, 2)
	if err != nil {
		return Parts{}, err
	}
	p.Ciphertext = content.content
	for _, c := range content.children {
		p.Ciphertext = append(p.Ciphertext, c.content...)
	}
	return p, nil
}

// Open decrypts an EnvelopedData.
func Open(ber []byte, key *rsa.PrivateKey) ([]byte, error) {
	p, err := Split(ber)
	if err != nil {
		return nil, err
	}
	contentKey, err := rsa.DecryptOAEP(sha256.New(), nil, key, p.EncryptedKey, nil)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(contentKey)
	if err != nil {
		return nil, err
	}
	if len(p.IV) != aes.BlockSize || len(p.Ciphertext) == 0 || len(p.Ciphertext)%aes.BlockSize != 0 {
		return nil, fmt.Errorf("%w: length of content", errBER)
	}
	out := bytes.Clone(p.Ciphertext)
	cipher.NewCBCDecrypter(block, p.IV).CryptBlocks(out, out)
	pad := int(out[len(out)-1])
	if pad < 1 || pad > aes.BlockSize || !bytes.Equal(out[len(out)-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, fmt.Errorf("%w: padding", errBER)
	}
	return out[:len(out)-pad], nil
}

func (n node) at(path ...int) (node, error) {
	for _, i := range path {
		if i >= len(n.children) {
			return node{}, fmt.Errorf("%w: nothing at %v", errBER, path)
		}
		n = n.children[i]
	}
	return n, nil
}

func read(b []byte, depth int) (node, []byte, error) {
	if len(b) < 2 || depth > 16 {
		return node{}, nil, errBER
	}
	n, size, b := node{tag: b[0]}, int(b[1]), b[2:]
	if size == 0x80 {
		for {
			if len(b) >= 2 && b[0] == 0 && b[1] == 0 {
				return n, b[2:], nil
			}
			child, rest, err := read(b, depth+1)
			if err != nil {
				return node{}, nil, err
			}
			n.children, b = append(n.children, child), rest
		}
	}
	if size > 0x80 {
		count := size & 0x7f
		if count > 3 || len(b) < count {
			return node{}, nil, errBER
		}
		size = 0
		for _, c := range b[:count] {
			size = size<<8 | int(c)
		}
		b = b[count:]
	}
	if size > len(b) {
		return node{}, nil, errBER
	}
	n.content, b = b[:size], b[size:]
	if n.tag&0x20 != 0 {
		for rest := n.content; len(rest) > 0; {
			child, after, err := read(rest, depth+1)
			if err != nil {
				return node{}, nil, err
			}
			n.children, rest = append(n.children, child), after
		}
		n.content = nil
	}
	return n, b, nil
}
