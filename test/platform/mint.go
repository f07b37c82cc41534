package platform

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
)

// Mint signs a token with the platform's own key: the token of the user dev,
// with its claims changed. That is what the operator of an identity provider can do.
func (p *Platform) Mint(change func(claims map[string]any)) string {
	p.t.Helper()
	parts := strings.Split(p.Token(), ".")
	if len(parts) != 3 {
		p.t.Fatalf("the token has %d parts", len(parts))
	}
	b64 := base64.RawURLEncoding
	payload, err := b64.DecodeString(parts[1])
	if err != nil {
		p.t.Fatal(err)
	}
	claims := map[string]any{}
	if err := json.Unmarshal(payload, &claims); err != nil {
		p.t.Fatal(err)
	}
	change(claims)
	if payload, err = json.Marshal(claims); err != nil {
		p.t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(p.Dir, "identity", "token.key"))
	if err != nil {
		p.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		p.t.Fatal("identity/token.key is not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		p.t.Fatal(err)
	}
	signed := parts[0] + "." + b64.EncodeToString(payload)
	sum := sha256.Sum256([]byte(signed))
	sig, err := rsa.SignPKCS1v15(rand.Reader, parsed.(*rsa.PrivateKey), crypto.SHA256, sum[:])
	if err != nil {
		p.t.Fatal(err)
	}
	return signed + "." + b64.EncodeToString(sig)
}

// Usernames are in this claim.
const UsernameClaim = "https://capeprivacy.com/username"
