package identity

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/wire"
)

func provider(t *testing.T, dir string, now func() time.Time) *Provider {
	t.Helper()
	p, err := Open(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestProviderIsKept(t *testing.T) {
	dir := t.TempDir()
	a, b := provider(t, dir, time.Now), provider(t, dir, time.Now)
	if d := cmp.Diff(a.Issuer(), b.Issuer()); d != "" {
		t.Error(d)
	}
	token, err := a.Access(User{"dev|1", "dev"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.Verify(token)
	if err != nil || c.Owner != (wire.Subject{Iss: a.Issuer().Iss, Sub: "dev|1"}) || c.Username != "dev" || c.ID == "" {
		t.Errorf("%+v, %v", c, err)
	}
	for _, name := range []string{"token.key", "keyset.key"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	now := time.Now()
	p := provider(t, t.TempDir(), func() time.Time { return now })
	good, err := p.Access(User{"dev|1", "dev"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	id, err := p.ID(User{"dev|1", "dev"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := provider(t, t.TempDir(), time.Now).Access(User{"dev|1", "dev"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	for name, token := range map[string]string{
		"empty": "", "garbage": "a.b.c", "long": strings.Repeat("a", wire.MaxToken+1), "id token": id, "another issuer's key": forged,
		"no signature": parts[0] + "." + parts[1] + ".", "algorithm none": "eyJhbGciOiJub25lIn0." + parts[1] + ".",
	} {
		if _, err := p.Verify(token); !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	now = now.Add(2 * time.Hour)
	if _, err := p.Verify(good); !errors.Is(err, ErrExpired) {
		t.Errorf("expired: %v", err)
	}
}

func TestSignedKeySet(t *testing.T) {
	p := provider(t, t.TempDir(), time.Now)
	text, err := p.SignedKeySet()
	if err != nil {
		t.Fatal(err)
	}
	s, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := s.Verify(ed25519.PublicKey(p.Issuer().Signer))
	if err != nil {
		t.Fatal(err)
	}
	var set struct {
		Iss  string
		Exp  int64
		Keys []json.RawMessage
	}
	if err := json.Unmarshal(payload, &set); err != nil || set.Iss != p.Issuer().Iss || set.Exp < time.Now().Unix() || len(set.Keys) != 1 {
		t.Errorf("%s, %v", payload, err)
	}
	if strings.Contains(string(payload), `"d"`) {
		t.Error("the key set holds a private key")
	}
}

func FuzzVerify(f *testing.F) {
	now := time.Now()
	p, err := Open(f.TempDir(), func() time.Time { return now })
	if err != nil {
		f.Fatal(err)
	}
	good, err := p.Access(User{"dev|1", "dev"}, time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	id, err := p.ID(User{"dev|1", "dev"}, time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	parts := strings.Split(good, ".")
	for _, seed := range []string{good, id, "", ".", "..", parts[0] + "." + parts[1] + ".", parts[0] + ".e30." + parts[2], strings.Repeat("A", 9000), "{}", good + "."} {
		f.Add(seed)
	}
	want := wire.Subject{Iss: p.Issuer().Iss, Sub: "dev|1"}
	f.Fuzz(func(t *testing.T, token string) {
		c, err := p.Verify(token)
		if err != nil {
			if !errors.Is(err, ErrToken) && !errors.Is(err, ErrExpired) {
				t.Error(err)
			}
			return
		}
		// Base64 has more than one spelling of a signature's last bits; the claims have one.
		if c.Owner != want || !strings.HasPrefix(token, parts[0]+"."+parts[1]+".") {
			t.Errorf("accepted %q", token)
		}
	})
}
