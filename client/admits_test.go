package client_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/testkit"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/keypolicy"
	sealkit "github.com/cape-functions/cape/core/seal/testkit"
)

// admit gives the server a key that was born with a policy for these images and signers.
func admit(t *testing.T, s *testkit.Server, pcr0, pcr8 []nitro.PCR) {
	t.Helper()
	e := sealkit.NewEnclave(time.Now())
	e.Authority, e.PCRs = s.Authority, s.PCRs
	policy, err := keypolicy.Render(keypolicy.Params{Partition: "aws", AccountID: "111122223333", Role: sealkit.Role,
		PCR0: pcr0, PCR8: pcr8, PCR16: s.PCRs[16]})
	if err != nil {
		t.Fatal(err)
	}
	claim, err := keypolicy.Claim(sealkit.KMS, policy)
	if err != nil {
		t.Fatal(err)
	}
	birth := e.Sign(nil, nil, claim)
	s.Lie(func(l *testkit.Lies) { l.Sealed.Policy, l.Sealed.Birth = policy, birth })
}

// TestKeyOfOtherImages: a genuine image, whose key another image may use as well, is refused
// in sessions and for Cape Keys, whoever says which measurements are acceptable.
func TestKeyOfOtherImages(t *testing.T) {
	s := testkit.New(t)
	own0, own8, other := s.PCRs[0], s.PCRs[8], nitro.PCR{0xee}
	accepted := policyOf(s).PCRs
	accepted[8] = []nitro.PCR{own8}
	keeper := &trust.Keeper{Store: trust.NewStore(filepath.Join(t.TempDir(), "trust.json")), Roots: [][]byte{s.Authority.Root}, PCRs: accepted}
	judges := map[string]trust.Judge{
		"policy": trust.Policy{Roots: keeper.Roots, PCRs: accepted, KeyPolicyNotChecked: true, AccountsNotChecked: true},
		"keeper": keeper,
	}
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip"), Handler: func(in []byte) ([]byte, error) { return in, nil }})
	for _, tc := range []struct {
		name       string
		pcr0, pcr8 []nitro.PCR
		what       string
	}{
		{"another signer", nil, []nitro.PCR{own8, other}, "PCR8"},
		{"another image", []nitro.PCR{own0, other}, []nitro.PCR{own8, other}, "PCR0"},
		{"this signer alone", nil, []nitro.PCR{own8}, ""},
		{"this image alone", []nitro.PCR{own0}, []nitro.PCR{own8, other}, ""},
	} {
		admit(t, s, tc.pcr0, tc.pcr8)
		for who, judge := range judges {
			c := connectSealed(t, s, func(o *client.Options) { o.Trust = judge })
			_, key := c.Key(t.Context())
			session, err := c.Connect(t.Context(), client.Function{Name: f.ID})
			if err == nil {
				session.Close()
			}
			for _, err := range []error{key, err} {
				var change *trust.Change
				switch {
				case tc.what == "" && err != nil:
					t.Errorf("%s, %s: %v", who, tc.name, err)
				case tc.what != "" && (!errors.As(err, &change) || len(change.Differences) != 1 || !strings.HasSuffix(change.Differences[0].What, tc.what) ||
					change.Differences[0].New != other.String()):
					t.Errorf("%s, %s: %v, want a refusal for %s", who, tc.name, err, tc.what)
				}
			}
		}
	}
}

// TestKeyPolicyPinnedInTheCall: who pins the policy by its sum need name no images; another
// policy than the pinned one is refused before anything is remembered of it.
func TestKeyPolicyPinnedInTheCall(t *testing.T) {
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip"), Handler: func(in []byte) ([]byte, error) { return in, nil }})
	store := trust.NewStore(filepath.Join(t.TempDir(), "trust.json"))
	keeper := &trust.Keeper{Store: store, Roots: [][]byte{s.Authority.Root}, FirstUse: true}
	c := connectSealed(t, s, func(o *client.Options) { o.Trust = keeper })
	if _, err := c.Connect(t.Context(), client.Function{Name: f.ID, KeyPolicy: make([]byte, 32)}); !errors.Is(err, client.ErrChecksum) {
		t.Errorf("another policy: %v, want ErrChecksum", err)
	}
	if file, err := store.Load(); err != nil || len(file.Origins) > 0 {
		t.Errorf("remembered %v, %v", file, err)
	}
	keeper.FirstUse, keeper.PCRs = false, map[int][]nitro.PCR{0: {s.PCRs[0]}}
	if _, err := c.Connect(t.Context(), client.Function{Name: f.ID}); !errors.Is(err, client.ErrTrust) {
		t.Errorf("an image alone, and a key for all of its signer: %v, want ErrTrust", err)
	}
	session, err := c.Connect(t.Context(), client.Function{Name: f.ID, KeyPolicy: s.KeyPolicy[:]})
	if err != nil {
		t.Fatal(err)
	}
	session.Close()
}
