package chain_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/testkit"
)

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func parse(t testing.TB, raw []byte) *nitro.Signed {
	t.Helper()
	s, err := nitro.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestAWSRoot: the embedded root is the published one, by hash, and the fixture's.
func TestAWSRoot(t *testing.T) {
	sum := sha256.Sum256(chain.AWSRoot())
	const published = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
	if got := hex.EncodeToString(sum[:]); got != published {
		t.Errorf("SHA-256 %s", got)
	}
	if chain.AWSRootSHA256 != published {
		t.Errorf("AWSRootSHA256 is %s", chain.AWSRootSHA256)
	}
	text, err := os.ReadFile("../testdata/aws-nitro-root-g1.pem")
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(text); block == nil || !bytes.Equal(block.Bytes, chain.AWSRoot()) {
		t.Error("the PEM in testdata is another certificate")
	}
	clear(chain.AWSRoot())
	if sha256.Sum256(chain.AWSRoot()) != sum {
		t.Error("a caller can change the embedded root")
	}
}

func TestChain(t *testing.T) {
	a := testkit.NewAuthority("chain", at)
	c, err := chain.New().Verify(parse(t, a.Sign(a.Document(at))), [][]byte{a.Root}, at)
	if err != nil {
		t.Fatal(err)
	}
	want := chain.Chain{Root: sha256.Sum256(a.Root), Leaf: sha256.Sum256(a.Leaf),
		NotBefore: at.Add(-time.Hour), NotAfter: at.Add(2 * time.Hour)}
	if c != want {
		t.Errorf("got %+v, want %+v", c, want)
	}
}

// TestValidityEnds: the first and the last second are valid.
func TestValidityEnds(t *testing.T) {
	a := testkit.NewAuthority("chain", at)
	s := parse(t, a.Sign(a.Document(at)))
	for _, tt := range []struct {
		name string
		at   time.Time
		want error
	}{
		{"first second", at.Add(-time.Hour), nil},
		{"before", at.Add(-time.Hour - time.Second), chain.ErrTime},
		{"last second", at.Add(2 * time.Hour), nil},
		{"after", at.Add(2*time.Hour + time.Second), chain.ErrTime},
	} {
		if _, err := chain.New().Verify(s, [][]byte{a.Root}, tt.at); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestSeenIsStillChecked: remembering a chain leaves out its signatures and nothing else.
func TestSeenIsStillChecked(t *testing.T) {
	a := testkit.NewAuthority("chain", at)
	roots := [][]byte{a.Root}
	s := parse(t, a.Sign(a.Document(at)))
	v := chain.New()
	for range 2 {
		if _, err := v.Verify(s, roots, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.Verify(s, [][]byte{chain.AWSRoot()}, at); !errors.Is(err, chain.ErrRoot) {
		t.Errorf("root no longer accepted: %v", err)
	}
	if _, err := v.Verify(s, nil, at); !errors.Is(err, chain.ErrRoot) {
		t.Errorf("no root: %v", err)
	}
	if _, err := v.Verify(s, roots, at.Add(3*time.Hour)); !errors.Is(err, chain.ErrTime) {
		t.Errorf("expired since: %v", err)
	}
	forged := *s
	forged.Signature = bytes.Clone(s.Signature)
	forged.Signature[0] ^= 1
	if _, err := v.Verify(&forged, roots, at); !errors.Is(err, chain.ErrSignature) {
		t.Errorf("forged: %v", err)
	}
	short := *s
	short.Signature = s.Signature[:95]
	if _, err := v.Verify(&short, roots, at); !errors.Is(err, chain.ErrSignature) {
		t.Errorf("short signature: %v", err)
	}
	// The same bundle under another leaf, and one certificate split in two, are other chains.
	other := *s
	other.Document.Certificate = testkit.NewAuthority("other", at).Leaf
	if _, err := v.Verify(&other, roots, at); !errors.Is(err, chain.ErrChain) {
		t.Errorf("other leaf: %v", err)
	}
	b, leaf := s.Document.CABundle, s.Document.Certificate
	other.Document.CABundle = [][]byte{b[0], b[1], b[2], append(bytes.Clone(b[3]), leaf[:10]...)}
	other.Document.Certificate = leaf[10:]
	if _, err := v.Verify(&other, roots, at); !errors.Is(err, chain.ErrChain) {
		t.Errorf("moved boundary: %v", err)
	}
}

// TestHandMade: what Parse would refuse is refused here too, without a panic.
func TestHandMade(t *testing.T) {
	a := testkit.NewAuthority("chain", at)
	good := parse(t, a.Sign(a.Document(at)))
	nine := nineAuthorities()
	for _, tt := range []struct {
		name   string
		change func(d *nitro.Document)
		want   error
	}{
		{"no bundle", func(d *nitro.Document) { d.CABundle = nil }, chain.ErrRoot},
		{"empty root", func(d *nitro.Document) { d.CABundle = [][]byte{{}} }, chain.ErrRoot},
		{"nine", func(d *nitro.Document) { d.CABundle, d.Certificate = nine.CABundle, nine.Leaf }, chain.ErrChain},
		{"no leaf", func(d *nitro.Document) { d.Certificate = nil }, chain.ErrChain},
	} {
		s := *good
		tt.change(&s.Document)
		if _, err := chain.New().Verify(&s, [][]byte{a.Root, nine.Root, {}}, at); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// nineAuthorities makes a chain that is sound but for its length.
func nineAuthorities() *testkit.Authority {
	p := testkit.NewPlan("nine", at)
	leaf := p.Leaf()
	p.Chain = p.Chain[:1]
	for i := range 8 {
		c := testkit.NewPlan("nine "+string(rune('a'+i)), at).Chain[0]
		p.Chain = append(p.Chain, c)
	}
	p.Chain = append(p.Chain, leaf)
	return p.Make()
}

// TestSignatureLength: numbers that are right in a string of another length do not pass.
func TestSignatureLength(t *testing.T) {
	a := testkit.NewAuthority("chain", at)
	good := parse(t, a.Sign(a.Document(at)))
	r, s := good.Signature[:48], good.Signature[48:]
	for name, sig := range map[string][]byte{
		"none":  nil,
		"short": good.Signature[:40],
		"long":  slices.Concat(r, []byte{0}, s),
	} {
		other := *good
		other.Signature = sig
		if _, err := chain.New().Verify(&other, [][]byte{a.Root}, at); !errors.Is(err, chain.ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConcurrent(t *testing.T) {
	v := chain.New()
	var group sync.WaitGroup
	for i := range 4 {
		a := testkit.NewAuthority("concurrent "+string(rune('a'+i/2)), at)
		s := parse(t, a.Sign(a.Document(at)))
		group.Go(func() {
			for range 10 {
				if _, err := v.Verify(s, [][]byte{a.Root}, at); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}

// FuzzCertificates: certificates of any content below a pinned root neither panic nor
// pass, unless they are some that the authority made.
func FuzzCertificates(f *testing.F) {
	genuine := make(map[string]bool)
	for _, c := range testkit.Cases() {
		if c.Want != "chain" && c.Want != "accept" {
			continue
		}
		if s, err := nitro.Parse(c.Document); err == nil && len(s.Document.CABundle) > 3 {
			f.Add(s.Document.CABundle[3], s.Document.Certificate)
			if c.Want == "accept" {
				genuine[string(s.Document.CABundle[3])+string(s.Document.Certificate)] = true
			}
		}
	}
	a := testkit.NewAuthority("cape tests", at)
	s := parse(f, a.Sign(a.Document(at)))
	f.Fuzz(func(t *testing.T, authority, leaf []byte) {
		forged := *s
		forged.Document.CABundle = [][]byte{a.CABundle[0], a.CABundle[1], a.CABundle[2], authority}
		forged.Document.Certificate = leaf
		_, err := chain.New().Verify(&forged, [][]byte{a.Root}, at)
		if made := genuine[string(authority)+string(leaf)]; err == nil && !made {
			t.Error("passed")
		}
	})
}
