package hostilehost

import (
	"bytes"
	"testing"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

func access(a wire.Access) func(*wire.Manifest) { return func(m *wire.Manifest) { m.Access = a } }

func seq(n uint64) func(*wire.Manifest) { return func(m *wire.Manifest) { m.Seq = n } }

// expecting is o of a caller who knows account and version.
func expecting(o seal.Opening, id account.ID, least uint64) seal.Opening {
	o.Expect = wire.Expect{Acct: id[:], Seq: &least}
	return o
}

// refused is the code of what the host stored and the enclave knows not to be its own.
const refused = wire.CodeInternal

func encoded(t *testing.T, m *wire.Manifest) []byte {
	t.Helper()
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// flip is a change that makes a manifest say public where it says grant.
func flip(id, newID string) string {
	return "UPDATE functions SET id = '" + newID + "', manifest = unhex(replace(hex(manifest), hex('egrant'), hex('fpublic'))) WHERE id = '" + id + "'"
}

// TestRows: whatever the database says, a function is what its owner signed.
func TestRows(t *testing.T) {
	o := newOperator(t)
	alice, bob, mallory := o.person("alice"), o.person("bob"), o.person("mallory")
	honest := o.deploy(alice, "honest", echo, nil)
	swappedA, swappedB := o.deploy(alice, "a", "def cape_handler(d): return b'a'\n", nil), o.deploy(mallory, "b", "def cape_handler(d): return b'b'\n", nil)
	bodyA, bodyB := o.deploy(alice, "body-a", "def cape_handler(d): return b'a'\n", nil), o.deploy(alice, "body-b", "def cape_handler(d): return b'b'\n", nil)
	keyA, keyB := o.deploy(alice, "key-a", "def cape_handler(d): return b'a'\n", nil), o.deploy(alice, "key-b", "def cape_handler(d): return b'b'\n", nil)
	private := o.deploy(bob, "private", echo, access(wire.AccessToken))
	stripped := o.deploy(bob, "stripped", echo, nil)
	resigned := o.deploy(bob, "resigned", echo, nil)
	old := o.deploy(bob, "versioned", "def cape_handler(d): return b'old'\n", seq(1))
	o.deploy(bob, "versioned", "def cape_handler(d): return b'new'\n", seq(2))
	renamed := o.deploy(mallory, "echo", echo, nil)
	medical := o.deploy(mallory, "medical", echo, nil)
	flipped := o.deploy(bob, "flipped", echo, access(wire.AccessGrant))
	var public []byte // the manifest that bob did not sign
	flippedWhole := o.deploy(bob, "flipped-whole", echo, func(m *wire.Manifest) {
		m.Access = wire.AccessPublic
		public = encoded(t, m)
		m.Access = wire.AccessGrant
	})
	publicID := wire.FunctionID(public)
	o.deploy(bob, "other", echo, nil) // so that bob is known by name
	o.p.Stop()                        // nothing stays in the enclave's memory
	row := func(set, id string) string { return "UPDATE functions SET " + set + " WHERE id = '" + id + "'" }
	o.database(
		row("id = 'swapping'", swappedA), row("id = '"+swappedA+"'", swappedB), "UPDATE functions SET id = '"+swappedB+"' WHERE id = 'swapping'",
		row("blob_key = blob_key || '|' || (SELECT blob_key FROM functions WHERE id = '"+bodyB+"')", bodyA),
		row("blob_key = (SELECT substr(blob_key, 1, instr(blob_key, '|') - 1) FROM functions WHERE id = '"+bodyA+"')", bodyB),
		row("blob_key = substr(blob_key, instr(blob_key, '|') + 1)", bodyA),
		row("wrapped = (SELECT wrapped FROM functions WHERE id = '"+keyB+"')", keyA),
		row("public = 1", private),
		row("sig = NULL, sig_key = NULL", stripped),
		row("sig = (SELECT sig FROM functions WHERE id = '"+honest+"'), sig_key = (SELECT sig_key FROM functions WHERE id = '"+honest+"')", resigned),
		row("seq = 9", old),
		row("sub = 'bob', name = 'records'", renamed),
		row("sub = 'bob'", medical),
		flip(flipped, flipped), flip(flippedWhole, publicID),
	)
	o.start()
	run := func(path string, who seal.Opening) ([]byte, error) {
		c, err := connect(t, o.p.URL, "/v1/run/"+path, o.believed, who)
		if err != nil {
			return nil, err
		}
		out, _, err := c.invoke([]byte("input"))
		return out, err
	}
	me := func() seal.Opening { return opening(alice.token, alice.key) }
	if out, err := run(honest, me()); err != nil || !bytes.Equal(out, []byte("input")) {
		t.Fatalf("the honest function: %q, %v", out, err)
	}
	for _, tc := range []struct {
		name, path string
		who        seal.Opening
		want       string // code
	}{
		{"rows of two functions swapped", swappedA, me(), refused},
		{"bodies of two functions swapped", bodyA, me(), refused},
		{"another function's wrapped key", keyA, me(), refused},
		{"somebody's private function called public", private, me(), wire.CodeNotFound},
		{"a signature taken away", stripped, me(), refused},
		{"another function's signature", resigned, me(), refused},
		{"an older version served as the newest, to who knows the newer", "bob/versioned", expecting(me(), bob.key.ID(), 2), wire.CodeInvalidFunction},
		{"a public echo renamed to bob/records", "bob/records", me(), refused},
		{"mallory's medical under bob's name, to who knows bob", "bob/medical", expecting(me(), bob.key.ID(), 1), wire.CodeInvalidFunction},
		{"access flipped in the manifest", flipped, me(), refused},
		{"access flipped in the manifest, with the id that it has then", publicID, me(), refused},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if out, err := run(tc.path, tc.who); code(err) != tc.want {
				t.Errorf("%q, %v, want %s", out, err, tc.want)
			}
		})
	}
}
