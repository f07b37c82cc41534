package trust_test

import (
	"context"
	"encoding/hex"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/nitro"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/core/wire"
)

// bench is a keeper, an authority, and what it shows.
type bench struct {
	*trust.Keeper
	authority *attestkit.Authority
	doc       nitro.Document
	policy    []byte
	pcr0      []nitro.PCR // what the policy admits; none: a document of v1, which does not show it
	pcr8      []nitro.PCR
	at        time.Time
	notices   []trust.Notice
	asked     []trust.Introduction
}

func newBench(t *testing.T) *bench {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	a := attestkit.NewAuthority("bench", at)
	b := &bench{authority: a, doc: a.Document(at), at: at, policy: make([]byte, 32)}
	b.doc.PCRs[16] = attestkit.PCR(16)
	b.Keeper = &trust.Keeper{Store: trust.NewStore(filepath.Join(t.TempDir(), "trust.json")), Roots: [][]byte{a.Root}, FirstUse: true}
	b.Notify = func(n trust.Notice) { b.notices = append(b.notices, n) }
	return b
}

func (b *bench) contact() trust.Contact {
	return trust.Contact{Origin: origin, Document: b.authority.Sign(b.doc), Nonce: b.doc.Nonce, At: b.at, Verifier: chain.New(),
		Claims: func(*attest.Evidence) (trust.Claims, error) {
			return trust.Claims{KeyPolicy: b.policy, PCR0: b.pcr0, PCR8: b.pcr8}, nil
		}}
}

func (b *bench) meet(t *testing.T) (*attest.Evidence, error) {
	t.Helper()
	return b.Enclave(t.Context(), b.contact())
}

func (b *bench) ask(answer bool) {
	b.FirstUse = false
	b.Ask = func(_ context.Context, in trust.Introduction) (bool, error) {
		b.asked = append(b.asked, in)
		return answer, nil
	}
}

func (b *bench) kinds() []trust.NoticeKind {
	var out []trust.NoticeKind
	for _, n := range b.notices {
		out = append(out, n.Kind)
	}
	return out
}

func (b *bench) entry(t *testing.T) *wire.TrustOrigin {
	t.Helper()
	e, err := b.Store.Origin(origin)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestFirstContact(t *testing.T) {
	b := newBench(t)
	b.ask(false)
	var unknown *trust.Unknown
	if _, err := b.meet(t); !errors.As(err, &unknown) || !unknown.Declined || !errors.Is(err, trust.ErrTrust) {
		t.Fatalf("declined: %v", err)
	}
	if b.entry(t) != nil {
		t.Fatal("a server that was declined is remembered")
	}
	b.Ask = nil
	if _, err := b.meet(t); !errors.As(err, &unknown) || unknown.Declined {
		t.Fatalf("nobody to ask: %v", err)
	}
	b.ask(true)
	ev, err := b.meet(t)
	if err != nil || !ev.DevelopmentRoot {
		t.Fatal(err)
	}
	want := trust.Introduction{Origin: origin, Root: hex.EncodeToString(ev.Root[:]), Development: true, KeyPolicy: hex.EncodeToString(b.policy),
		PCRs: map[int]nitro.PCR{0: b.doc.PCRs[0], 1: b.doc.PCRs[1], 2: b.doc.PCRs[2], 8: b.doc.PCRs[8], 16: b.doc.PCRs[16]}}
	if diff := cmp.Diff([]trust.Introduction{want, want}, b.asked); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]trust.NoticeKind{trust.Added, trust.DevelopmentRoot}, b.kinds()); diff != "" {
		t.Error(diff)
	}
	// Known now: nobody is asked, the named root is not needed, the warning comes again.
	b.Roots, b.Ask = nil, nil
	if _, err := b.meet(t); err != nil {
		t.Fatal(err)
	}
	if len(b.notices) != 3 || b.notices[2].Kind != trust.DevelopmentRoot {
		t.Errorf("notices %v", b.kinds())
	}
}

func TestDevelopmentRootIsNeverTakenUnnamed(t *testing.T) {
	b := newBench(t)
	b.Roots = nil
	for name, set := range map[string]func(){
		"first use": func() { b.FirstUse = true },
		"asked":     func() { b.ask(true) },
		"stated":    func() { b.PCRs = map[int][]nitro.PCR{0: {b.doc.PCRs[0]}} },
	} {
		set()
		var root *trust.UnknownRoot
		if _, err := b.meet(t); !errors.As(err, &root) || !errors.Is(err, attest.ErrRoot) || !errors.Is(err, trust.ErrTrust) {
			t.Errorf("%s: %v, want UnknownRoot", name, err)
		}
	}
	if len(b.asked) > 0 || b.entry(t) != nil {
		t.Error("somebody was asked, or it was remembered")
	}
}

func TestChanges(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*bench)
		want   []string
		class  error
	}{
		{"image", func(b *bench) { b.doc.PCRs[0], b.doc.PCRs[2] = attestkit.PCR(20), attestkit.PCR(22) }, []string{"PCR0", "PCR2"}, attest.ErrPCR},
		{"signer", func(b *bench) { b.doc.PCRs[8] = nitro.PCR{} }, []string{"PCR8"}, attest.ErrPCR},
		{"trust register gone", func(b *bench) { delete(b.doc.PCRs, 16) }, []string{"PCR16"}, attest.ErrPCR},
		{"key policy", func(b *bench) { b.policy = append([]byte{1}, b.policy[1:]...) }, []string{"key policy"}, trust.ErrTrust},
		{"image and key policy", func(b *bench) { b.doc.PCRs[0], b.policy = attestkit.PCR(20), append([]byte{1}, b.policy[1:]...) }, []string{"PCR0", "key policy"}, attest.ErrPCR},
		{"root", func(b *bench) {
			b.authority = attestkit.NewAuthority("another", b.at)
			b.doc.Certificate, b.doc.CABundle = b.authority.Leaf, b.authority.CABundle
			b.Roots = append(b.Roots, b.authority.Root) // named, but this server is known by the other
		}, []string{"root"}, attest.ErrRoot},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t)
			if _, err := b.meet(t); err != nil {
				t.Fatal(err)
			}
			before := b.entry(t)
			tc.change(b)
			var change *trust.Change
			_, err := b.meet(t)
			if !errors.As(err, &change) || !errors.Is(err, trust.ErrTrust) || !errors.Is(err, tc.class) {
				t.Fatalf("error %v, want a Change with %v", err, tc.class)
			}
			var names []string
			for _, d := range change.Differences {
				names = append(names, d.What)
				if d.New == "" || len(d.Old) == 0 || d.Old[0] == d.New || d.Stated {
					t.Errorf("%+v", d)
				}
			}
			if diff := cmp.Diff(tc.want, names); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(before, b.entry(t)); diff != "" {
				t.Error("the entry changed: " + diff)
			}
		})
	}
}

func TestKnownServerIsFullyVerified(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*bench, *trust.Contact)
		want   error
	}{
		"nonce":      {func(_ *bench, c *trust.Contact) { c.Nonce = []byte("another nonce, long enough") }, attest.ErrNonce},
		"no nonce":   {func(_ *bench, c *trust.Contact) { c.Nonce = nil }, attest.ErrPolicy},
		"too old":    {func(_ *bench, c *trust.Contact) { c.At = c.At.Add(61 * time.Minute) }, attest.ErrTime},
		"debug":      {func(b *bench, c *trust.Contact) { b.doc.PCRs[1] = nitro.PCR{}; c.Document = b.authority.Sign(b.doc) }, attest.ErrDebug},
		"signature":  {func(_ *bench, c *trust.Contact) { c.Document[len(c.Document)-1] ^= 1 }, attest.ErrSignature},
		"user data":  {func(b *bench, c *trust.Contact) { b.doc.UserData = nil; c.Document = b.authority.Sign(b.doc) }, attest.ErrField},
		"policy sum": {func(_ *bench, c *trust.Contact) { c.Claims = shortPolicy }, attest.ErrField},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			for _, known := range []bool{false, true} {
				c := b.contact()
				tc.change(b, &c)
				if _, err := b.Enclave(t.Context(), c); !errors.Is(err, tc.want) {
					t.Errorf("known %t: %v, want %v", known, err, tc.want)
				}
				fresh := newBench(t)
				fresh.Store = b.Store
				if _, err := fresh.meet(t); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func shortPolicy(*attest.Evidence) (trust.Claims, error) {
	return trust.Claims{KeyPolicy: []byte("short")}, nil
}

func TestArchived(t *testing.T) {
	b := newBench(t)
	c := b.contact()
	c.Archived, c.At = true, b.at.AddDate(1, 0, 0)
	if _, err := b.Enclave(t.Context(), c); err != nil {
		t.Errorf("with its nonce: %v", err)
	}
	c.Nonce = nil
	if _, err := b.Enclave(t.Context(), c); err != nil {
		t.Errorf("without a nonce: %v", err)
	}
	c.Nonce = []byte("another nonce, long enough")
	if _, err := b.Enclave(t.Context(), c); !errors.Is(err, attest.ErrNonce) {
		t.Errorf("with another nonce: %v", err)
	}
	p := trust.Policy{Roots: b.Roots, PCRs: map[int][]nitro.PCR{0: {b.doc.PCRs[0]}}, KeyPolicies: [][32]byte{{}}, MaxAge: time.Minute}
	c.Nonce = nil
	if _, err := p.Enclave(t.Context(), c); err != nil {
		t.Errorf("under a Policy with an age: %v", err)
	}
}

func TestStatedMeasurements(t *testing.T) {
	b := newBench(t)
	b.FirstUse = false
	b.PCRs = map[int][]nitro.PCR{0: {attestkit.PCR(30), b.doc.PCRs[0]}}
	if _, err := b.meet(t); err != nil {
		t.Fatalf("any of several: %v", err)
	}
	if b.entry(t) != nil {
		t.Error("a stated introduction was remembered")
	}
	b.PCRs[2] = []nitro.PCR{attestkit.PCR(30)}
	var change *trust.Change
	if _, err := b.meet(t); !errors.As(err, &change) || len(change.Differences) != 1 || !change.Differences[0].Stated {
		t.Fatalf("all indexes count: %v", err)
	}
	// Without the image or its signer, any code would pass.
	b.PCRs = map[int][]nitro.PCR{3: {b.doc.PCRs[3]}}
	if _, err := b.meet(t); !errors.Is(err, attest.ErrPolicy) {
		t.Errorf("PCR3 alone: %v, want ErrPolicy", err)
	}
	// With a wrong measurement even the first use is refused.
	b.FirstUse, b.PCRs = true, map[int][]nitro.PCR{0: {attestkit.PCR(30)}}
	if _, err := b.meet(t); !errors.Is(err, attest.ErrPCR) {
		t.Errorf("first use with a wrong measurement: %v", err)
	}
	// For a known server, stated ones stand in for those of the same index alone.
	b.PCRs = nil
	if _, err := b.meet(t); err != nil {
		t.Fatal(err)
	}
	b.doc.PCRs[0] = attestkit.PCR(40)
	b.PCRs = map[int][]nitro.PCR{0: {attestkit.PCR(40)}}
	if _, err := b.meet(t); err != nil {
		t.Errorf("stated PCR0: %v", err)
	}
	b.doc.PCRs[16] = attestkit.PCR(40)
	if _, err := b.meet(t); !errors.As(err, &change) || change.Differences[0].What != "PCR16" {
		t.Errorf("PCR16 changed as well: %v", err)
	}
}

func TestKeyPolicyIsAddedOnce(t *testing.T) {
	b := newBench(t)
	policy := b.policy
	b.policy = nil
	ev, err := b.meet(t)
	if err != nil || b.entry(t).KeyPolicy != "" {
		t.Fatal(err)
	}
	if last := ev.Checks[len(ev.Checks)-1]; last.Name != "key_policy" || last.State.String() != "not checked" {
		t.Errorf("%+v", last)
	}
	b.policy, b.pcr8 = policy, []nitro.PCR{b.doc.PCRs[8]}
	if _, err := b.meet(t); err != nil || b.entry(t).KeyPolicy != hex.EncodeToString(policy) {
		t.Fatal(err)
	}
	b.policy = append([]byte{1}, policy[1:]...)
	var change *trust.Change
	if _, err := b.meet(t); !errors.As(err, &change) {
		t.Errorf("another policy: %v", err)
	}
	b.policy = nil
	if _, err := b.meet(t); err != nil {
		t.Errorf("a document without one: %v", err)
	}
}

func TestTwoFirstContactsAtOnce(t *testing.T) {
	b := newBench(t)
	b.Notify = nil
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := b.Enclave(t.Context(), b.contact()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	// A different enclave that came in between wins, and this one is refused.
	late := newBench(t)
	late.ask(true)
	late.Ask = func(ctx context.Context, _ trust.Introduction) (bool, error) {
		other := newBench(t)
		other.Store = late.Store
		other.doc.PCRs[0] = attestkit.PCR(50)
		_, err := other.Enclave(ctx, other.contact())
		return true, err
	}
	var change *trust.Change
	if _, err := late.meet(t); !errors.As(err, &change) {
		t.Errorf("error %v, want a Change", err)
	}
}

func TestFunctions(t *testing.T) {
	b := newBench(t)
	code := trust.Code{Origin: origin, ID: "id", Checksum: [32]byte{1}}
	if err := b.Function(t.Context(), code); err != nil {
		t.Fatalf("unknown server: %v", err)
	}
	if _, err := b.meet(t); err != nil {
		t.Fatal(err)
	}
	b.notices = nil
	other := code
	other.Checksum = [32]byte{2}
	for range 2 {
		if err := b.Function(t.Context(), code); err != nil {
			t.Fatal(err)
		}
	}
	var change *trust.Change
	if err := b.Function(t.Context(), other); !errors.As(err, &change) || change.Differences[0].What != "function id" {
		t.Errorf("an id with other code: %v", err)
	}
	name := trust.Code{Origin: origin, Name: "ann/f", Checksum: [32]byte{1}}
	if err := b.Function(t.Context(), name); err != nil || len(b.notices) != 0 {
		t.Fatalf("a new name: %v, %v", err, b.notices)
	}
	name.Checksum = [32]byte{2}
	for range 2 {
		if err := b.Function(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	want := []trust.Notice{{Kind: trust.NameChanged, Origin: origin, Function: "ann/f", Old: "01" + sumZeros, New: "02" + sumZeros}}
	if diff := cmp.Diff(want, b.notices); diff != "" {
		t.Error(diff)
	}
	b.notices = nil
	deployed := trust.Code{Origin: origin, ID: "id3", Name: "ann/f", Checksum: [32]byte{3}, Deployed: true}
	if err := b.Function(t.Context(), deployed); err != nil || len(b.notices) != 0 {
		t.Errorf("deployed by oneself: %v, %v", err, b.notices)
	}
	e := b.entry(t)
	if e.Functions["id3"] != "03"+sumZeros || e.Names["ann/f"].ID != "id3" || e.Functions["id"] != "01"+sumZeros {
		t.Errorf("entry %+v", e)
	}
}

const sumZeros = "00000000000000000000000000000000000000000000000000000000000000"

func TestParsePCRs(t *testing.T) {
	a, b := attestkit.PCR(1), attestkit.PCR(2)
	got, err := trust.ParsePCRs([]string{"0:" + a.String(), "0:" + b.String(), " 0:" + a.String(), "8:" + b.String()})
	if diff := cmp.Diff(map[int][]nitro.PCR{0: {a, b}, 8: {b}}, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for _, bad := range []string{"", ":", a.String(), "0", "0:", "x:" + a.String(), "-1:" + a.String(), "32:" + a.String(), "0:" + a.String() + "00", "0:" + a.String()[:95] + "g"} {
		if _, err := trust.ParsePCRs([]string{bad}); !errors.Is(err, trust.ErrPCRs) {
			t.Errorf("%q: %v, want ErrPCRs", bad, err)
		}
	}
}
