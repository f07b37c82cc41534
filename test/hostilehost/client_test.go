package hostilehost

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/keypolicy"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// sdk is the real client of p against a server that says it is the platform,
// with the trust that the platform's user has, in a trust file of its own.
func (o *operator) sdk(p person, url string) *client.Client {
	o.t.Helper()
	path := filepath.Join(o.t.TempDir(), "trust.json")
	o.trustFile(path, url)
	return o.sdkWith(p, url, path)
}

// trustFile copies the platform's entry under the name of url.
func (o *operator) trustFile(path, url string) {
	o.t.Helper()
	text, err := os.ReadFile(filepath.Join(o.dir, "config", "trust.json"))
	if err != nil {
		o.t.Fatal(err)
	}
	var file wire.TrustFile
	if err := json.Unmarshal(text, &file); err != nil {
		o.t.Fatal(err)
	}
	file.Origins = map[string]*wire.TrustOrigin{url: file.Origins[o.p.URL]}
	if text, err = trust.Encode(&file); err != nil {
		o.t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		o.t.Fatal(err)
	}
}

func (o *operator) sdkWith(p person, url, path string) *client.Client {
	o.t.Helper()
	own := [32]byte(p.key.ID())
	c, err := client.New(client.Options{BaseURL: url, Token: client.StaticToken(p.token), Account: p.key,
		Trust: &trust.Keeper{Store: trust.NewStore(path), FirstUse: true, Own: &own}})
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(c.Close)
	return c
}

const unseen = "an input that nobody sees"

// TestClientInTheMiddle: the real client against a network that changes things.
func TestClientInTheMiddle(t *testing.T) {
	o := newOperator(t)
	alice, mallory := o.person("alice"), o.person("mallory")
	id, other := o.deploy(alice, "echo", echo, nil), o.deploy(mallory, "echo", echo, nil)
	var recorded []byte
	attestOf := func(with func(frame []byte) []byte) func(string, int, []byte) [][]byte {
		return func(direction string, n int, frame []byte) [][]byte {
			if direction == down && n == 0 {
				frame = with(frame)
			}
			return [][]byte{frame}
		}
	}
	for _, tc := range []struct {
		name string
		with func(*relay)
		want error // nil: the run succeeds
	}{
		{"nothing", func(r *relay) {
			r.frame = attestOf(func(frame []byte) []byte { recorded = bytes.Clone(frame); return frame })
		}, nil},
		{"the subprotocol removed", func(r *relay) { r.subprotocol = func(string) string { return "" } }, client.ErrProtocol},
		{"the subprotocol of version 1", func(r *relay) { r.subprotocol = func(string) string { return wire.SubprotocolRuntime } }, client.ErrProtocol},
		{"X-Wing taken from the hello", func(r *relay) {
			r.frame = hello(func(h *wire.Hello) { h.KEMs = []wire.KEM{wire.KEMX25519} })
		}, client.ErrDowngrade},
		{"another nonce in the hello", func(r *relay) {
			r.frame = hello(func(h *wire.Hello) { h.Nonce = make([]byte, wire.NonceSize) })
		}, attest.ErrNonce},
		{"a genuine old document", func(r *relay) { r.frame = attestOf(func([]byte) []byte { return recorded }) }, attest.ErrNonce},
		{"a session key of the operator's", func(r *relay) {
			r.frame = attestOf(func(frame []byte) []byte {
				a, err := wire.ParseAttest(frame)
				if err != nil {
					t.Error(err)
					return frame
				}
				a.PublicKey = bytes.Repeat([]byte{9}, len(a.PublicKey))
				out, err := a.Encode()
				if err != nil {
					t.Error(err)
				}
				return out
			})
		}, seal.ErrBinding},
		{"sent to another function", func(r *relay) { r.path = func(string) string { return "/v1/run/" + other } }, errRemote},
		{"sent to another function, with the hello rewritten", func(r *relay) {
			r.path = func(string) string { return "/v1/run/" + other }
			r.frame = hello(func(h *wire.Hello) { h.Route = "/v1/run/" + other })
		}, client.ErrProtocol},
		{"told to use version 1", func(r *relay) {
			r.frame = attestOf(func([]byte) []byte {
				out, err := wire.EncodeRefusal(wire.CodeUnavailable, "use protocol v1")
				if err != nil {
					t.Error(err)
				}
				return out
			})
		}, errRemote},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRelay(t, o.p.URL)
			tc.with(r)
			result, err := o.sdk(alice, r.URL).Run(t.Context(), client.Function{Name: id}, []byte(unseen))
			if !matches(err, tc.want) || err == nil && string(result.Output) != unseen {
				t.Errorf("%v, want %v", err, tc.want)
			}
			sent := r.sent()
			if bytes.Contains(sent, []byte(alice.token)) || bytes.Contains(sent, []byte(unseen)) {
				t.Error("the network saw the token or the input")
			}
		})
	}
}

// errRemote stands for whatever the other side told.
var errRemote = errors.New("told by the other side")

func matches(err, want error) bool {
	var remote *client.RemoteError
	if want == errRemote {
		return errors.As(err, &remote)
	}
	return errors.Is(err, want) && (want != nil || err == nil)
}

// TestClientMeetsAnotherEnclave: the genuine image, booted by the operator as
// it likes, gets nothing from a client that knows the platform.
func TestClientMeetsAnotherEnclave(t *testing.T) {
	o := newOperator(t)
	alice := o.person("alice")
	id := o.deploy(alice, "echo", echo, nil)
	var genuine *wire.Attest
	r := newRelay(t, o.p.URL)
	r.frame = func(direction string, n int, frame []byte) [][]byte {
		if direction == down && n == 0 {
			genuine, _ = wire.ParseAttest(frame) // nil shows below
		}
		return [][]byte{frame}
	}
	trustPath := filepath.Join(t.TempDir(), "trust.json")
	o.trustFile(trustPath, r.URL)
	if _, err := o.sdkWith(alice, r.URL, trustPath).Run(t.Context(), client.Function{Name: id}, nil); err != nil || genuine == nil {
		t.Fatal(err)
	}
	const ownKMS = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000001"
	born := func(p *played, arn string) {
		claim, err := keypolicy.Claim(arn, p.Policy)
		if err != nil {
			t.Fatal(err)
		}
		p.Birth = p.Sign(nil, nil, claim)
	}
	for _, tc := range []struct {
		name string
		lie  func(*played)
		want error
	}{
		{"nothing: who has the development root can imitate it", func(*played) {}, nil},
		{"configuration with another issuer", func(p *played) {
			p.Config = configured(t, p.Config, func(c *wire.Config) { c.Trust.Issuers[0].Iss = "https://evil.example" })
			p.measured(t)
		}, seal.ErrTrust},
		{"the same, with a key and policy made for it", func(p *played) {
			p.Config = configured(t, p.Config, func(c *wire.Config) { c.Trust.Issuers[0].Iss = "https://evil.example" })
			p.measured(t)
			p.Policy = rendered(t, p.Policy, func(k *keypolicy.Params) { k.PCR16 = p.PCRs[wire.TrustPCR] })
			born(p, configOf(t, p).KMS)
		}, client.ErrTrust},
		{"configuration with another issuer than it measured", func(p *played) {
			p.Config = configured(t, p.Config, func(c *wire.Config) { c.Trust.Issuers[0].Iss = "https://evil.example" })
		}, seal.ErrTrust},
		{"a KMS of its own", func(p *played) {
			p.Config = configured(t, p.Config, func(c *wire.Config) { c.KMS = ownKMS })
			born(p, ownKMS)
		}, client.ErrTrust},
		{"a KMS of its own, without a birth", func(p *played) {
			p.Config = configured(t, p.Config, func(c *wire.Config) { c.KMS = ownKMS })
		}, seal.ErrTrust},
		{"a replica key", func(p *played) {
			arn := strings.Replace(ownKMS, "key/", "key/mrk-", 1)
			p.Config = configured(t, p.Config, func(c *wire.Config) { c.KMS = arn })
			born(p, arn)
		}, seal.ErrTrust},
		{"a policy with one more statement", func(p *played) {
			p.Policy = []byte(moreStatements(t, string(p.Policy)))
			born(p, configOf(t, p).KMS)
		}, seal.ErrTrust},
		{"another policy of the right form", func(p *played) {
			p.Policy = rendered(t, p.Policy, func(k *keypolicy.Params) { k.PCR8 = append(k.PCR8, nitro.PCR{7}) })
			born(p, configOf(t, p).KMS)
		}, client.ErrTrust},
		{"no policy: it has not inspected its key", func(p *played) { p.Policy, p.Birth = []byte{}, nil }, seal.ErrTrust},
		{"another image", func(p *played) {
			p.PCRs = map[int]nitro.PCR{0: {1}, 1: {1}, 2: {1}, 8: p.PCRs[8], 16: p.PCRs[16]}
		}, client.ErrTrust},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := o.play(genuine, tc.lie)
			server := httptest.NewServer(p)
			t.Cleanup(server.Close)
			path := filepath.Join(t.TempDir(), "trust.json")
			text, err := os.ReadFile(trustPath)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, bytes.ReplaceAll(text, []byte(r.URL), []byte(server.URL)), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = o.sdkWith(alice, server.URL, path).Run(t.Context(), client.Function{Name: id}, []byte(unseen))
			if tc.want == nil {
				if !p.opened.Load() {
					t.Errorf("the imitation was not believed, so the lies prove nothing: %v", err)
				}
				return
			}
			if !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
			if p.opened.Load() {
				t.Error("the client opened a session with it")
			}
		})
	}
}

// rendered is a policy of the template with other parameters.
func rendered(t *testing.T, text []byte, change func(*keypolicy.Params)) []byte {
	t.Helper()
	params, err := keypolicy.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	change(&params)
	out, err := keypolicy.Render(params)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func configOf(t *testing.T, p *played) *wire.Config {
	t.Helper()
	c, err := wire.ParseConfig(p.Config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestClientRemembers: the real client knows what a name meant, whatever the
// database says now.
func TestClientRemembers(t *testing.T) {
	o := newOperator(t)
	alice, bob, mallory := o.person("alice"), o.person("bob"), o.person("mallory")
	old := o.deploy(bob, "medical", "def cape_handler(d): return b'old'\n", seq(1))
	newest := o.deploy(bob, "medical", "def cape_handler(d): return b'new'\n", seq(2))
	path := filepath.Join(t.TempDir(), "trust.json")
	r := newRelay(t, o.p.URL)
	o.trustFile(path, r.URL)
	run := func() (string, error) {
		result, err := o.sdkWith(alice, r.URL, path).Run(t.Context(), client.Function{Name: "bob/medical"}, []byte(unseen))
		if err != nil {
			return "", err
		}
		return string(result.Output), nil
	}
	if out, err := run(); err != nil || out != "new" {
		t.Fatalf("bob's newest: %q, %v", out, err)
	}
	o.database("UPDATE functions SET seq = 9 WHERE id = '" + old + "'")
	if out, err := run(); !errors.Is(err, client.ErrTrust) {
		t.Errorf("an older version: %q, %v", out, err)
	}
	o.database("UPDATE functions SET seq = 1 WHERE id = '" + old + "'")
	same := o.deploy(bob, "medical", "def cape_handler(d): return b'other'\n", seq(2))
	o.database("UPDATE functions SET seq = 3 WHERE id = '" + same + "'")
	if out, err := run(); !errors.Is(err, client.ErrTrust) {
		t.Errorf("other code under the same version: %q, %v", out, err)
	}
	o.database("UPDATE functions SET seq = 0 WHERE id = '" + same + "'")
	evil := o.deploy(mallory, "medical", "def cape_handler(d): return b'evil'\n", seq(99))
	o.database("UPDATE functions SET sub = 'bob' WHERE id = '" + evil + "'")
	if out, err := run(); !errors.Is(err, client.ErrTrust) {
		t.Errorf("another account's function: %q, %v", out, err)
	}
	o.database("DELETE FROM functions WHERE id = '" + evil + "'")
	if out, err := run(); err != nil || out != "new" {
		t.Errorf("bob's newest, %s, again: %q, %v", newest, out, err)
	}
}
