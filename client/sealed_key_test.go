package client_test

import (
	"errors"
	"testing"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/testkit"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/envelope"
	sealkit "github.com/cape-functions/cape/core/seal/testkit"
	"github.com/cape-functions/cape/core/wire"
)

var ownerOnly = envelope.ForOwner()

// TestSealedKeyLies: a Cape Key of somebody else, or of nobody, is not encrypted to.
func TestSealedKeyLies(t *testing.T) {
	for name, lie := range map[string]func(*testkit.Lies){
		"another key":          func(l *testkit.Lies) { l.Sealed.KeyClaim = func(c *wire.KeyClaim) { c.CK = make([]byte, 32) } },
		"another account":      func(l *testkit.Lies) { l.Sealed.KeyClaim = func(c *wire.KeyClaim) { c.Acct = make([]byte, 32) } },
		"no account":           func(l *testkit.Lies) { l.Sealed.KeyClaim = func(c *wire.KeyClaim) { c.Acct = nil } },
		"a session's document": func(l *testkit.Lies) { l.Sealed.KeyClaim = func(c *wire.KeyClaim) { c.Use = wire.UseSession } },
		"another policy":       func(l *testkit.Lies) { l.Sealed.Policy = otherConfig().Policy },
		"another trust":        func(l *testkit.Lies) { l.Sealed.Config = otherConfig().Config },
		"another nonce":        func(l *testkit.Lies) { l.Document = func(_ string, d *nitro.Document) { d.Nonce = make([]byte, 32) } },
		"a public key":         func(l *testkit.Lies) { l.Document = func(_ string, d *nitro.Document) { d.PublicKey = []byte("k") } },
		"TLS elsewhere":        func(l *testkit.Lies) { l.Sealed.TLS = make([]byte, 32) },
	} {
		t.Run(name, func(t *testing.T) {
			s := testkit.New(t)
			c := connectSealed(t, s)
			if _, err := c.Key(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.Lie(lie)
			if key, err := c.Key(t.Context()); err == nil || key != nil {
				t.Errorf("own key: %v", err)
			}
			if key, err := c.UserKey(t.Context(), "ann"); err == nil || key != nil {
				t.Errorf("by name: %v", err)
			}
		})
	}
}

// TestSealedStoredKey: a key that was kept is somebody's, and judged each time.
func TestSealedStoredKey(t *testing.T) {
	s := testkit.New(t)
	c := connectSealed(t, s)
	own, err := c.Key(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ann, err := c.UserKey(t.Context(), "ann")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []*client.CapeKey{own, ann} {
		if again, err := c.StoredKey(t.Context(), key); err != nil || !again.Public.Equal(key.Public) {
			t.Errorf("stored: %v", err)
		}
	}
	other, err := connectSealed(t, s, func(o *client.Options) { o.Account = s.Account("bob") }).Key(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	config := sealkit.DefaultConfig()
	config.Limits.Procs--
	limits, err := wire.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*client.CapeKey){
		"bob's key":       func(k *client.CapeKey) { k.DER = other.DER },
		"other limits":    func(k *client.CapeKey) { k.Config = limits },
		"another account": func(k *client.CapeKey) { k.Account = &[32]byte{1} },
		"no account":      func(k *client.CapeKey) { k.Account = nil },
		"by a name":       func(k *client.CapeKey) { k.User = "ann" },
		"another key":     func(k *client.CapeKey) { k.DER = []byte("key") },
		"configuration":   func(k *client.CapeKey) { k.Config = otherConfig().Config },
		"another nonce":   func(k *client.CapeKey) { k.Nonce = make([]byte, 32) },
		"document":        func(k *client.CapeKey) { k.Document = []byte("document") },
	} {
		kept := *own
		change(&kept)
		if key, err := c.StoredKey(t.Context(), &kept); !errors.Is(err, client.ErrAttestation) || key != nil {
			t.Errorf("%s: %v, want ErrAttestation", name, err)
		}
	}
	bob := *ann
	bob.User = "bob"
	if _, err := c.StoredKey(t.Context(), &bob); !errors.Is(err, client.ErrAttestation) {
		t.Errorf("kept under another's name: %v", err)
	}
	stranger := connectSealed(t, s, func(o *client.Options) { o.Trust = policyOf(s) })
	if _, err := stranger.StoredKey(t.Context(), ann); !errors.Is(err, client.ErrTrust) {
		t.Errorf("of an account that nobody vouches for any more: %v", err)
	}
}
