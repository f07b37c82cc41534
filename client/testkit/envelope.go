package testkit

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"io"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/envelope"
	"github.com/cape-functions/cape/core/wire"
)

var errNotFor = errors.New("the envelope is for somebody else")

// decrypt opens an input that is an envelope of the streaming form, as an enclave does:
// with the Cape Key of the function's account, for the owner or the function it names.
func (c *sealedSession) decrypt(f *Function, input []byte) ([]byte, error) {
	if form := envelope.Detect(input); form != envelope.V2Text && form != envelope.V2Binary {
		return input, nil
	}
	if f.Key == nil || !c.owns(f) {
		return nil, errNotFor
	}
	acct := account.Public(f.Key).ID()
	key := c.CapeKey(acct.String())
	allow := func(to envelope.To) error {
		m := must(wire.ParseManifest(f.Manifest))
		if to == envelope.ForOwner() || to.Seq <= m.Seq && to.Since(0) == envelope.ForName(acct, m.Name) || to == envelope.ForFunction([32]byte(m.Checksum)) {
			return nil
		}
		return errNotFor
	}
	find := func(hash [32]byte) (*rsa.PrivateKey, error) {
		if sha256.Sum256(publicDER(key)) != hash {
			return nil, errNotFor
		}
		return key, nil
	}
	plain, _, err := envelope.NewReader(bytes.NewReader(input), find, allow)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(plain)
}
