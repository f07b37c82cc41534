package account_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/secret"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

func TestManifestSignatureVectors(t *testing.T) {
	all, err := vectors.Read("../../spec/vectors", vectors.KindManifestSignature)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		t.Run(s.Name, func(t *testing.T) {
			var in vectors.ManifestSignatureInput
			if err := vectors.Decode(s.Input, &in); err != nil {
				t.Fatal(err)
			}
			m, err := account.VerifyManifest(in.Manifest, in.Signature, in.Key)
			if s.Want == "manifest" {
				if !errors.Is(err, account.ErrManifest) || m != nil {
					t.Errorf("%v, %v", m, err)
				}
				return
			}
			if err != nil || s.Want != vectors.OK {
				t.Fatalf("%v, want %s", err, s.Want)
			}
			var want vectors.ManifestSignatureOutput
			if err := vectors.Decode(s.Output, &want); err != nil {
				t.Fatal(err)
			}
			id := account.Public(in.Key).ID()
			if diff := cmp.Diff(want, vectors.ManifestSignatureOutput{Acct: id[:], ID: wire.FunctionID(in.Manifest)}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func newKey(t *testing.T) *account.Key {
	t.Helper()
	k, err := account.New()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func manifest(acct account.ID) *wire.Manifest {
	return &wire.Manifest{V: 2, Owner: wire.Subject{Iss: "iss", Sub: "sub"}, Acct: acct[:], Name: "echo", Access: wire.AccessToken,
		Decrypt: wire.DecryptOwner, Seq: 1, Checksum: make([]byte, 32), Salt: make([]byte, 16)}
}

func TestManifests(t *testing.T) {
	alice, bob := newKey(t), newKey(t)
	raw, sig, err := alice.SignManifest(manifest(alice.ID()))
	if err != nil {
		t.Fatal(err)
	}
	key := alice.Public()
	got, err := account.VerifyManifest(raw, sig, key[:])
	if err != nil || !cmp.Equal(got, manifest(alice.ID())) {
		t.Errorf("%v, %v", got, err)
	}
	if _, _, err := bob.SignManifest(manifest(alice.ID())); !errors.Is(err, account.ErrManifest) {
		t.Errorf("bob signs alice's manifest: %v", err)
	}
	without := manifest(alice.ID())
	without.Acct = nil
	if _, _, err := alice.SignManifest(without); !errors.Is(err, account.ErrManifest) {
		t.Errorf("a manifest without account: %v", err)
	}
	odd := manifest(alice.ID())
	odd.Name = "bob/medical"
	if _, _, err := alice.SignManifest(odd); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("a malformed manifest: %v", err)
	}
}

func TestAuthority(t *testing.T) {
	alice, bob := newKey(t), newKey(t)
	transcript, other := sha256.Sum256([]byte("one")), sha256.Sum256([]byte("two"))
	sig := alice.Authority(transcript)
	key, stranger := alice.Public(), bob.Public()
	if id, err := account.VerifyAuthority(key[:], sig, transcript); err != nil || id != alice.ID() {
		t.Errorf("%v, %v", id, err)
	}
	for name, err := range map[string]error{
		"another session": second(account.VerifyAuthority(key[:], sig, other)),
		"another key":     second(account.VerifyAuthority(stranger[:], sig, transcript)),
		"short key":       second(account.VerifyAuthority(key[:31], sig, transcript)),
		"no key":          second(account.VerifyAuthority(nil, sig, transcript)),
		"short signature": second(account.VerifyAuthority(key[:], sig[:63], transcript)),
		"no signature":    second(account.VerifyAuthority(key[:], nil, transcript)),
	} {
		if !errors.Is(err, account.ErrAuthority) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second(_ account.ID, err error) error { return err }

func TestKeyFile(t *testing.T) {
	k := newKey(t)
	file, err := k.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := account.Parse(file.Reveal())
	if err != nil || again.ID() != k.ID() {
		t.Errorf("%v", err)
	}
	transcript := sha256.Sum256(nil)
	if !bytes.Equal(again.Authority(transcript), k.Authority(transcript)) {
		t.Error("another key came back")
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	text := string(file.Reveal())
	for name, in := range map[string]string{
		"nothing":      "",
		"not PEM":      "key",
		"another type": strings.ReplaceAll(text, "PRIVATE KEY", "PUBLIC KEY"),
		"bytes after":  text + "x",
		"two":          text + text,
		"headers":      strings.Replace(text, "-----\n", "-----\nA: b\n\n", 1),
		"another kind": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		"not DER":      string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})),
	} {
		if _, err := account.Parse([]byte(in)); !errors.Is(err, account.ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := account.FromSeed(secret.New(make([]byte, 31))); !errors.Is(err, account.ErrKey) {
		t.Error("a short seed")
	}
}

func TestID(t *testing.T) {
	k := newKey(t)
	parsed, err := x509.ParsePKIXPublicKey(k.Public().SPKI())
	public := k.Public()
	if key, ok := parsed.(ed25519.PublicKey); err != nil || !ok || !bytes.Equal(key, public[:]) {
		t.Errorf("SPKI: %v", err)
	}
	if id, err := account.ParseID(k.ID().String()); err != nil || id != k.ID() {
		t.Errorf("%v, %v", id, err)
	}
	for _, in := range []string{"", "00", strings.ToUpper(k.ID().String()) + "0", strings.Repeat("A", 64), strings.Repeat("g", 64)} {
		if _, err := account.ParseID(in); !errors.Is(err, account.ErrID) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	seed := []byte("0123456789abcdef0123456789abcdef")
	k, err := account.FromSeed(secret.New(seed))
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if out := fmt.Sprintf(verb, k); strings.Contains(out, "0123456789abcdef") || strings.Contains(out, "30313233") || strings.Contains(out, "48 49 50") {
			t.Errorf("%s shows the key: %s", verb, out)
		}
	}
}

func FuzzParse(f *testing.F) {
	k, err := account.FromSeed(secret.New(make([]byte, 32)))
	if err != nil {
		f.Fatal(err)
	}
	file, err := k.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file.Reveal())
	f.Fuzz(func(t *testing.T, in []byte) {
		if k, err := account.Parse(in); err == nil && k.ID() == (account.ID{}) {
			t.Error("a key without a name")
		} else if err != nil && !errors.Is(err, account.ErrKey) {
			t.Errorf("unnamed error %v", err)
		}
	})
}
