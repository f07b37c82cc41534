package seal

import (
	"crypto/hpke"
	"fmt"
	"unicode/utf8"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/secret"
	"github.com/cape-functions/cape/core/wire"
)

// Opening is what a caller tells the enclave about itself and what it expects.
type Opening struct {
	Token  secret.Bytes // a JWT; empty: none
	Key    *account.Key // the account's authority; nil: none
	Grant  []byte       // nil: none
	Expect wire.Expect
}

// Opened is an Opening as the enclave got it: its account is proven, its token is not yet.
type Opened struct {
	Token  secret.Bytes
	Acct   *account.ID     // whose key signed this session; nil: nobody's
	Key    *account.Public // the key of Acct
	Grant  []byte
	Expect wire.Expect
}

const secretSize = 32

// openMessage is the plaintext of the open frame.
type openMessage struct {
	Secret []byte      `cbor:"secret"`
	Token  *string     `cbor:"token"`
	Auth   *auth       `cbor:"auth"`
	Grant  []byte      `cbor:"grant"`
	Expect wire.Expect `cbor:"expect"`
}

type auth struct {
	Key []byte `cbor:"key"`
	Sig []byte `cbor:"sig"`
}

// sealOpen returns enc ‖ ciphertext and the fresh secret of the session.
func sealOpen(pub hpke.PublicKey, transcript [32]byte, o Opening, sessionSecret []byte) ([]byte, error) {
	m := openMessage{Secret: sessionSecret, Grant: o.Grant, Expect: o.Expect}
	if o.Token.Len() > 0 {
		text := string(o.Token.Reveal())
		m.Token = &text
	}
	if o.Key != nil {
		key := o.Key.Public()
		m.Auth = &auth{Key: key[:], Sig: o.Key.Authority(transcript)}
	}
	if err := m.validate(); err != nil {
		return nil, err
	}
	plaintext, err := wire.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding open: %w", err)
	}
	defer clear(plaintext)
	frame, err := hpke.Seal(pub, hpke.HKDFSHA256(), hpke.AES256GCM(), openInfo(transcript), plaintext)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPublicKey, err)
	}
	return frame, nil
}

// openOpen opens what sealOpen made. Errors: ErrFrame, ErrOpen, ErrAuthority, and
// wire.ErrMalformed.
func openOpen(key hpke.PrivateKey, transcript [32]byte, frame []byte) (*Opened, []byte, error) {
	if len(frame) > wire.MaxOpen {
		return nil, nil, fmt.Errorf("%w: open of %d bytes", wire.ErrMalformed, len(frame))
	}
	plaintext, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.AES256GCM(), openInfo(transcript), frame)
	if err != nil {
		return nil, nil, ErrOpen
	}
	defer clear(plaintext)
	return parseOpen(plaintext, transcript)
}

// parseOpen decodes the open message, verifies its authority, and returns the secret beside
// the rest. Errors: ErrAuthority, and wire.ErrMalformed.
func parseOpen(plaintext []byte, transcript [32]byte) (*Opened, []byte, error) {
	var m openMessage
	if err := wire.Unmarshal(plaintext, wire.MaxOpen, &m); err != nil {
		return nil, nil, fmt.Errorf("reading open: %w", err)
	}
	if err := m.validate(); err != nil {
		return nil, nil, err
	}
	o := &Opened{Grant: m.Grant, Expect: m.Expect}
	if m.Token != nil {
		o.Token = secret.New([]byte(*m.Token))
	}
	if m.Auth != nil {
		id, err := account.VerifyAuthority(m.Auth.Key, m.Auth.Sig, transcript)
		if err != nil {
			return nil, nil, err
		}
		key := account.Public(m.Auth.Key)
		o.Acct, o.Key = &id, &key
	}
	return o, m.Secret, nil
}

func (m *openMessage) validate() error {
	e := m.Expect
	switch {
	case len(m.Secret) != secretSize:
		return fmt.Errorf("%w: open's secret has %d bytes", wire.ErrMalformed, len(m.Secret))
	case m.Token != nil && (*m.Token == "" || len(*m.Token) > wire.MaxToken || !utf8.ValidString(*m.Token)):
		return fmt.Errorf("%w: open's token is empty or has more than %d bytes", wire.ErrMalformed, wire.MaxToken)
	case m.Auth != nil && (len(m.Auth.Key) != wire.AccountKeySize || len(m.Auth.Sig) != wire.SignatureSize):
		return fmt.Errorf("%w: open's authority is not a key and a signature", wire.ErrMalformed)
	case m.Grant != nil && len(m.Grant) == 0 || len(m.Grant) > wire.MaxGrant:
		return fmt.Errorf("%w: open's grant has %d bytes", wire.ErrMalformed, len(m.Grant))
	case e.Fn != nil && len(e.Fn) != 32 || e.Acct != nil && len(e.Acct) != 32:
		return fmt.Errorf("%w: open expects what is not a SHA-256", wire.ErrMalformed)
	}
	return nil
}
