package hostilehost

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
	"github.com/cape-functions/cape/core/envelope"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// sealTo encrypts to a Cape Key in the new form.
func sealTo(t *testing.T, pub *rsa.PublicKey, to envelope.To, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := envelope.NewWriter(&b, pub, to, true)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func rsaKey(t *testing.T, spki []byte) *rsa.PublicKey {
	t.Helper()
	parsed, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.(*rsa.PublicKey)
}

// makeKey has the enclave make a Cape Key for whom the token and key say. Finding the primes
// can take a busy machine longer than the enclave waits; it finishes all the same.
func (o *operator) makeKey(token string, key *account.Key) {
	o.t.Helper()
	var err error
	for range 5 {
		_, err = connect(o.t, o.p.URL, "/v1/key", o.believed, opening(token, key))
		if code(err) != wire.CodeUnavailable {
			break
		}
	}
	if err != nil {
		o.t.Fatal(err)
	}
}

// capeKey asks for a Cape Key as an honest client does.
func (o *operator) capeKey(of wire.KeyOf) (*seal.AttestedKey, error) {
	o.t.Helper()
	ws, err := dial(o.t.Context(), o.p.URL, "/v1/key")
	if err != nil {
		return nil, err
	}
	defer ws.CloseNow()
	c, err := seal.NewKeyCaller("/v1/key", of)
	if err != nil {
		return nil, err
	}
	if err := ws.Write(o.t.Context(), websocket.MessageBinary, c.Hello()); err != nil {
		return nil, err
	}
	_, message, err := ws.Read(o.t.Context())
	if err != nil {
		return nil, err
	}
	a, err := c.Receive(message)
	if err != nil {
		return nil, err
	}
	evidence, err := attest.Verify(nil, a.Document, policy.Policy{Roots: [][]byte{o.root}, PCRs: map[int][]nitro.PCR{0: {o.pcr0}}, Nonce: c.Nonce()}, time.Now())
	if err != nil {
		return nil, err
	}
	return c.Bind(evidence, o.root)
}

// TestMintedTokens: a token of bob's that the operator minted opens nothing
// that is bob's by his account.
func TestMintedTokens(t *testing.T) {
	o := newOperator(t)
	bob, mallory := o.person("bob"), o.person("mallory")
	asBob := func() seal.Opening { return opening(o.mint("bob"), nil) }
	granted := o.deploy(bob, "granted", echo, access(wire.AccessGrant))
	mine := o.deploy(bob, "mine", echo, access(wire.AccessToken))
	failing := o.deploy(bob, "failing", "def cape_handler(d):\n    secret_name = 1\n    raise ValueError('no')\n", access(wire.AccessToken))
	o.makeKey(bob.token, bob.key)
	id := bob.key.ID()
	key, err := o.capeKey(wire.KeyOf{Acct: id[:]})
	if err != nil {
		t.Fatal(err)
	}
	forBob := sealTo(t, rsaKey(t, key.SPKI), envelope.ForOwner(), []byte("for bob alone"))
	forMine := sealTo(t, rsaKey(t, key.SPKI), envelope.ForName(id, "mine"), []byte("for bob's function"))

	if _, err := connect(t, o.p.URL, "/v1/run/"+granted, o.believed, asBob()); code(err) != wire.CodeNotFound {
		t.Errorf("a function for grants: %v", err)
	}
	if c, err := connect(t, o.p.URL, "/v1/run/"+granted, o.believed, opening(bob.token, bob.key)); err != nil {
		t.Errorf("bob's own session: %v", err)
	} else if out, _, err := c.invoke(forBob); err != nil || string(out) != "for bob alone" {
		t.Errorf("bob's own envelope: %q, %v", out, err)
	}
	c, err := connect(t, o.p.URL, "/v1/run/"+mine, o.believed, asBob())
	if err != nil {
		t.Fatalf("access by token: %v", err)
	}
	for name, envelope := range map[string][]byte{"for the owner": forBob, "for the function": forMine} {
		if out, _, err := c.invoke(envelope); code(err) != wire.CodeInvalidRequest || len(out) > 0 {
			t.Errorf("an envelope %s was opened to a token: %q, %v", name, out, err)
		}
	}
	if _, logs, err := c.invoke([]byte("x")); err != nil || len(logs) > 0 {
		t.Errorf("logs for a token: %q, %v", logs, err)
	}
	if c, err := connect(t, o.p.URL, "/v1/run/"+failing, o.believed, asBob()); err != nil {
		t.Error(err)
	} else if _, _, err := c.invoke(nil); code(err) != wire.CodeFunctionError || bytes.Contains([]byte(err.Error()), []byte("secret_name")) {
		t.Errorf("a traceback for a token: %v", err)
	}
	if _, err := connect(t, o.p.URL, "/v1/deploy", o.believed, asBob()); code(err) != wire.CodeUnauthorized {
		t.Errorf("a deploy by token alone: %v", err)
	}
	if _, err := connect(t, o.p.URL, "/v1/test", o.believed, asBob()); code(err) != wire.CodeUnauthorized {
		t.Errorf("a test by token alone: %v", err)
	}
	o.deployAs(bob, mallory)
}

// deployAs tries to put a function under bob's name with mallory's key.
func (o *operator) deployAs(bob, mallory person) {
	o.t.Helper()
	zip := zipped(o.t, echo)
	try := func(token string, key *account.Key, manifest, sig []byte) error {
		c, err := connect(o.t, o.p.URL, "/v1/deploy", o.believed, opening(token, key))
		if err != nil {
			return err
		}
		_, err = c.deploy(manifest, sig, zip)
		return err
	}
	asBob := o.manifest(bob, "medical", zip, nil)
	manifest := encoded(o.t, asBob)
	_, foreign, err := mallory.key.SignManifest(o.manifest(mallory, "medical", zip, nil))
	if err != nil {
		o.t.Fatal(err)
	}
	if err := try(o.mint("bob"), mallory.key, manifest, foreign); code(err) != wire.CodeInvalidFunction {
		o.t.Errorf("bob's manifest with mallory's signature: %v", err)
	}
	malloryManifest, sig, err := mallory.key.SignManifest(o.manifest(mallory, "medical", zip, nil))
	if err != nil {
		o.t.Fatal(err)
	}
	if err := try(o.mint("bob"), mallory.key, malloryManifest, sig); code(err) != wire.CodeUnauthorized {
		o.t.Errorf("a manifest of another owner than the token's: %v", err)
	}
	// What is left: a function of mallory's account under bob's name. Who knows bob's account refuses it.
	other, sig, err := mallory.key.SignManifest(o.manifest(mallory, "medical", zip, func(m *wire.Manifest) { m.Owner.Sub = "bob" }))
	if err != nil {
		o.t.Fatal(err)
	}
	if err := try(o.mint("bob"), mallory.key, other, sig); err != nil {
		o.t.Fatal(err)
	}
	if _, err := connect(o.t, o.p.URL, "/v1/run/bob/medical", o.believed, expecting(opening(mallory.token, nil), bob.key.ID(), 0)); code(err) != wire.CodeInvalidFunction {
		o.t.Errorf("mallory's function under bob's name: %v", err)
	}
}

// TestRecordedDeploy: a deploy that the host recorded from a client of version
// 1 is no input, not even of the same owner's public echo.
func TestRecordedDeploy(t *testing.T) {
	o := newOperator(t)
	bob := o.person("bob")
	echoed := o.deploy(bob, "echo", echo, func(m *wire.Manifest) { m.Decrypt = wire.DecryptAny })
	o.makeKey(bob.token, nil) // the legacy key
	resp, err := http.Get(o.p.URL + "/v1/user/bob/key")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Document []byte `json:"attestation_document"`
	}
	var data wire.UserDataV1
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	signed, err := nitro.Parse(answer.Document)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(signed.Document.UserData, &data); err != nil {
		t.Fatal(err)
	}
	recorded, err := envelope.SealOld(rsaKey(t, data.Key), zipped(t, "SECRET = 1\ndef cape_handler(d): return d\n"), false)
	if err != nil {
		t.Fatal(err)
	}
	honest, err := envelope.SealOld(rsaKey(t, data.Key), []byte("data"), false)
	if err != nil {
		t.Fatal(err)
	}
	c, err := connect(t, o.p.URL, "/v1/run/"+echoed, o.believed, opening(o.mint("mallory"), nil))
	if err != nil {
		t.Fatal(err)
	}
	if out, _, err := c.invoke(honest); err != nil || string(out) != "data" {
		t.Errorf("an honest input of the old form: %q, %v", out, err)
	}
	if out, _, err := c.invoke(recorded); code(err) != wire.CodeInvalidRequest || len(out) > 0 {
		t.Errorf("a recorded deploy as an input: %d bytes, %v", len(out), err)
	}
}

// TestKeyRows: keys that the host swapped are nobody's.
func TestKeyRows(t *testing.T) {
	o := newOperator(t)
	alice, bob := o.person("alice"), o.person("bob")
	for _, p := range []person{alice, bob} {
		o.makeKey(p.token, p.key)
	}
	a, b := alice.key.ID(), bob.key.ID()
	before, err := o.capeKey(wire.KeyOf{Acct: a[:]})
	if err != nil {
		t.Fatal(err)
	}
	o.p.Stop()
	o.database("UPDATE keys SET wrapped = (SELECT k.wrapped FROM keys k WHERE hex(k.acct) = upper('" + b.String() + "')) WHERE hex(acct) = upper('" + a.String() + "')")
	o.start()
	if _, err := o.capeKey(wire.KeyOf{Acct: a[:]}); code(err) != refused {
		t.Errorf("bob's key as alice's: %v", err)
	}
	if got, err := o.capeKey(wire.KeyOf{Acct: b[:]}); err != nil || sha256.Sum256(got.SPKI) == sha256.Sum256(before.SPKI) {
		t.Errorf("bob's own: %v", err)
	}
	// By name the host may send whom it likes; the document says whose key it is.
	o.database("UPDATE users SET username = 'nobody' WHERE sub = 'alice'", "UPDATE users SET username = 'alice' WHERE sub = 'bob'")
	got, err := o.capeKey(wire.KeyOf{User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Acct, b[:]) {
		t.Errorf("bob under alice's name: the document says %x", got.Acct)
	}
}
