package keypolicy

import (
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/core/wire"
)

const testKey = "arn:aws:kms:eu-west-1:111122223333:key/12345678-1234-1234-1234-123456789012"

// newborn is a birth before it is signed.
type newborn struct {
	authority *attestkit.Authority
	doc       nitro.Document
	arn       string
	params    Params
	policy    []byte
	roots     [][]byte
}

func newBirth(t *testing.T) *newborn {
	t.Helper()
	// Long ago: every certificate has expired since.
	at := time.Date(2023, 4, 5, 6, 7, 8, 0, time.UTC)
	b := &newborn{authority: attestkit.NewAuthority("birth test", at), arn: testKey, params: full()}
	b.doc = b.authority.Document(at)
	b.doc.Nonce, b.doc.PublicKey = nil, nil
	b.doc.PCRs[0], b.doc.PCRs[8], b.doc.PCRs[16] = b.params.PCR0[1], b.params.PCR8[1], b.params.PCR16
	b.roots = [][]byte{b.authority.Root}
	b.render(t)
	return b
}

func (b *newborn) render(t *testing.T) {
	t.Helper()
	b.policy = render(t, b.params)
	claim, err := Claim(b.arn, b.policy)
	if err != nil {
		t.Fatal(err)
	}
	b.doc.UserData = claim
}

func (b *newborn) claim(t *testing.T, change func(c *wire.BirthClaim)) {
	t.Helper()
	sum := sha256.Sum256(b.policy)
	c := wire.BirthClaim{V: 2, Use: "kek", KMS: b.arn, Policy: sum[:]}
	change(&c)
	data, err := wire.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	b.doc.UserData = data
}

func TestCheckBirth(t *testing.T) {
	for _, tc := range []struct {
		name   string
		want   error
		change func(t *testing.T, b *newborn)
	}{
		{"sound", nil, func(*testing.T, *newborn) {}},
		{"policy without PCR0", nil, func(t *testing.T, b *newborn) { b.params.PCR0 = nil; b.render(t) }},
		{"with a nonce", nil, func(_ *testing.T, b *newborn) { b.doc.Nonce = []byte("nonce") }},
		{"one of several roots", nil, func(_ *testing.T, b *newborn) {
			b.roots = append([][]byte{attestkit.NewAuthority("other", b.doc.Timestamp).Root}, b.roots...)
		}},

		{"AWS's root by default", ErrBirth, func(_ *testing.T, b *newborn) { b.roots = nil }},
		{"another root", ErrBirth, func(_ *testing.T, b *newborn) {
			b.roots = [][]byte{attestkit.NewAuthority("other", b.doc.Timestamp).Root}
		}},
		{"an empty root", ErrBirth, func(_ *testing.T, b *newborn) { b.roots = [][]byte{{}} }},
		{"certificates of another time", ErrBirth, func(_ *testing.T, b *newborn) { b.doc.Timestamp = b.doc.Timestamp.Add(48 * time.Hour) }},
		{"another PCR0", ErrBirth, func(_ *testing.T, b *newborn) { b.doc.PCRs[0] = pcr(99) }},
		{"another PCR8", ErrBirth, func(_ *testing.T, b *newborn) { b.doc.PCRs[8] = pcr(99) }},
		{"another PCR16", ErrBirth, func(_ *testing.T, b *newborn) { b.doc.PCRs[16] = pcr(99) }},
		{"PCR8 absent", ErrBirth, func(_ *testing.T, b *newborn) { delete(b.doc.PCRs, 8) }},
		{"PCR16 not locked", ErrBirth, func(_ *testing.T, b *newborn) { delete(b.doc.PCRs, 16) }},
		{"debug mode", ErrBirth, func(t *testing.T, b *newborn) {
			b.params.PCR0 = nil
			b.render(t)
			b.doc.PCRs[0], b.doc.PCRs[1], b.doc.PCRs[2] = nitro.PCR{}, nitro.PCR{}, nitro.PCR{}
		}},
		{"a public key", ErrBirth, func(_ *testing.T, b *newborn) { b.doc.PublicKey = []byte("key") }},
		{"no claim", ErrBirth, func(_ *testing.T, b *newborn) { b.doc.UserData = nil }},
		{"a claim of JSON", ErrBirth, func(_ *testing.T, b *newborn) { b.doc.UserData = []byte(`{"v":2,"use":"kek"}`) }},
		{"trailing bytes in the claim", ErrBirth, func(_ *testing.T, b *newborn) { b.doc.UserData = append(b.doc.UserData, 0) }},
		{"claim of another version", ErrBirth, func(t *testing.T, b *newborn) { b.claim(t, func(c *wire.BirthClaim) { c.V = 3 }) }},
		{"claim of another use", ErrBirth, func(t *testing.T, b *newborn) { b.claim(t, func(c *wire.BirthClaim) { c.Use = "session" }) }},
		{"claim of another key", ErrBirth, func(t *testing.T, b *newborn) {
			b.claim(t, func(c *wire.BirthClaim) { c.KMS = strings.Replace(testKey, "1234", "4321", 1) })
		}},
		{"claim of another policy", ErrBirth, func(t *testing.T, b *newborn) { b.claim(t, func(c *wire.BirthClaim) { c.Policy[0] ^= 1 }) }},
		{"claim without a policy", ErrBirth, func(t *testing.T, b *newborn) { b.claim(t, func(c *wire.BirthClaim) { c.Policy = nil }) }},
		{"policy of other white space", ErrBirth, func(_ *testing.T, b *newborn) { b.policy = append(b.policy, '\n') }},
		{"policy that is not the template", ErrBirth, func(t *testing.T, b *newborn) {
			b.policy = []byte(strings.Replace(string(b.policy), "Deny", "Allow", 1))
			b.claim(t, func(*wire.BirthClaim) {})
		}},
		{"an alias", ErrBirth, func(t *testing.T, b *newborn) { b.arn = "arn:aws:kms:eu-west-1:111122223333:alias/kek"; b.render(t) }},
		{"a key of another account", ErrBirth, func(t *testing.T, b *newborn) {
			b.arn = strings.Replace(testKey, "111122223333", "444455556666", 1)
			b.render(t)
		}},
		{"a key of another partition", ErrBirth, func(t *testing.T, b *newborn) {
			b.arn = strings.Replace(testKey, "arn:aws:", "arn:aws-cn:", 1)
			b.render(t)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBirth(t)
			var births Births // that has seen what all these differ from
			if p, err := births.Check(b.authority.Sign(b.doc), b.arn, b.policy, b.roots...); err != nil || p.Role != b.params.Role {
				t.Fatal(p, err)
			}
			tc.change(t, b)
			doc := b.authority.Sign(b.doc)
			if err := CheckBirth(doc, b.arn, b.policy, b.roots...); !errors.Is(err, tc.want) {
				t.Errorf("got %v", err)
			}
			for range 2 {
				if _, err := births.Check(doc, b.arn, b.policy, b.roots...); !errors.Is(err, tc.want) {
					t.Errorf("who remembers got %v", err)
				}
			}
		})
	}
}

func TestCheckBirthOfGarbage(t *testing.T) {
	b := newBirth(t)
	good := b.authority.Sign(b.doc)
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)-1] ^= 1
	var births Births
	if _, err := births.Check(good, b.arn, b.policy, b.roots...); err != nil {
		t.Fatal(err)
	}
	for name, doc := range map[string][]byte{"nothing": nil, "garbage": []byte("garbage"), "cut": good[:len(good)-1], "signature changed": flipped} {
		if _, err := births.Check(doc, b.arn, b.policy, b.roots...); !errors.Is(err, ErrBirth) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBirthsAreBounded: whoever shows ever new births does not fill the memory.
func TestBirthsAreBounded(t *testing.T) {
	var births Births
	for i := range 2*maxBirths + 1 {
		births.remember([32]byte{byte(i), byte(i >> 8)}, Params{})
		if len(births.good) > maxBirths {
			t.Fatalf("%d are remembered", len(births.good))
		}
	}
	if _, ok := births.recall([32]byte{2 * maxBirths}); !ok {
		t.Error("the last is forgotten")
	}
}

func TestParseKey(t *testing.T) {
	if p, r, a, ok := ParseKey(testKey); !ok || p != "aws" || r != "eu-west-1" || a != "111122223333" {
		t.Errorf("%s %s %s %v", p, r, a, ok)
	}
	for _, arn := range []string{
		"", "12345678-1234-1234-1234-123456789012", testKey + " ", testKey + "/x", " " + testKey, strings.ToUpper(testKey),
		"arn:aws:kms:eu-west-1:111122223333:alias/kek", "arn:aws:kms:eu-west-1:111122223333:key/mrk-12345678123412341234123456789012",
		strings.Replace(testKey, "eu-west-1", "evil.example/-1", 1), strings.Replace(testKey, ":kms:", ":s3:", 1), strings.Replace(testKey, "arn:aws:", "arn:aws-x:", 1),
	} {
		if _, _, _, ok := ParseKey(arn); ok {
			t.Errorf("%q passes", arn)
		}
	}
}
