package client_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/testkit"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/nitro"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/core/wire"
)

// proven runs a function twice in one session and returns both receipts, after a journey
// through their files.
func proven(t *testing.T) (*testkit.Server, []*client.Receipt) {
	t.Helper()
	s := testkit.New(t)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	session, err := connectSealed(t, s).Connect(t.Context(), client.Function{Name: f.ID})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	var out []*client.Receipt
	for _, input := range []string{"first", "second"} {
		r, err := session.Invoke(t.Context(), []byte(input))
		if err != nil {
			t.Fatal(err)
		}
		file, err := r.Receipt.Encode()
		if err != nil {
			t.Fatal(err)
		}
		read, err := client.ParseReceipt(file)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, read)
	}
	return s, out
}

func TestReceipt(t *testing.T) {
	s, receipts := proven(t)
	good := policyOf(s)
	stranger := attestkit.NewAuthority("stranger", time.Now())
	other := policyOf(s)
	other.PCRs = map[int][]nitro.PCR{0: {attestkit.PCR(9)}}
	policies := policyOf(s)
	policies.KeyPolicies = [][32]byte{{1}}
	roots := policyOf(s)
	roots.Roots = [][]byte{stranger.Root}
	for _, tc := range []struct {
		name          string
		judge         trust.Judge
		change        func(*client.Receipt)
		input, output string
		want          error
	}{
		{name: "as it is", judge: good},
		{name: "input", judge: good, input: "first"},
		{name: "output", judge: good, output: "first"},
		{name: "both", judge: good, input: "first", output: "first"},
		{name: "another input", judge: good, input: "second", want: client.ErrReceipt},
		{name: "another output", judge: good, output: "firs", want: client.ErrReceipt},
		{name: "shared", judge: good, change: func(r *client.Receipt) { *r = *r.WithoutOpenings() }},
		{name: "shared, with an input", judge: good, change: func(r *client.Receipt) { *r = *r.WithoutOpenings() }, input: "first", want: client.ErrReceipt},
		{name: "output kept back", judge: good, change: func(r *client.Receipt) { r.Openings.Out = nil }, input: "first"},
		{name: "output kept back, with an output", judge: good, change: func(r *client.Receipt) { r.Openings.Out = nil }, output: "first", want: client.ErrReceipt},
		{name: "openings of another", judge: good, change: func(r *client.Receipt) { r.Openings = receipts[1].Openings }, input: "first", want: client.ErrReceipt},
		{name: "altered", judge: good, change: func(r *client.Receipt) { r.Raw[len(r.Raw)-1] ^= 1 }, want: client.ErrReceipt},
		{name: "payload altered", judge: good, change: func(r *client.Receipt) { r.Raw[40] ^= 1 }, want: client.ErrReceipt},
		{name: "document altered", judge: good, change: func(r *client.Receipt) { r.Document[len(r.Document)-1] ^= 1 }, want: attest.ErrSignature},
		{name: "nobody to believe", want: client.ErrAttestation},
		{name: "other measurements", judge: other, want: attest.ErrPCR},
		{name: "other key policy", judge: policies, want: client.ErrTrust},
		{name: "other root", judge: roots, want: attest.ErrRoot},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &client.Receipt{Origin: receipts[0].Origin, Document: bytes.Clone(receipts[0].Document), Raw: bytes.Clone(receipts[0].Raw),
				Openings: &wire.Openings{In: receipts[0].Openings.In, Out: receipts[0].Openings.Out}}
			if tc.change != nil {
				tc.change(r)
			}
			o := client.ProofOptions{Trust: tc.judge, At: time.Now().Add(1000 * time.Hour)}
			if tc.input != "" {
				o.Input = strings.NewReader(tc.input)
			}
			if tc.output != "" {
				o.Output = strings.NewReader(tc.output)
			}
			p, err := r.Verify(t.Context(), o)
			if !errors.Is(err, tc.want) || (err == nil) == (p == nil) {
				t.Errorf("%v, %v; want %v", p, err, tc.want)
			}
		})
	}
}

// TestReceiptsOfASession: each names the one before it.
func TestReceiptsOfASession(t *testing.T) {
	s, receipts := proven(t)
	var proofs []*client.Proof
	for _, r := range receipts {
		p, err := r.Verify(t.Context(), client.ProofOptions{Trust: policyOf(s), At: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		proofs = append(proofs, p)
	}
	if proofs[0].Content.Prev != nil || !bytes.Equal(proofs[1].Content.Prev, proofs[0].Content.Hash[:]) || proofs[1].Content.ID != 2 {
		t.Errorf("%x names %x", proofs[1].Content.Prev, proofs[0].Content.Hash)
	}
}

// TestReceiptOfAnotherDocument: the receipt of one session with the document of another,
// whose key is the same.
func TestReceiptOfAnotherDocument(t *testing.T) {
	s, receipts := proven(t)
	f := s.Add(testkit.Function{User: "ann", Name: "g", Zip: []byte("zip")})
	r, err := connectSealed(t, s).Run(t.Context(), client.Function{Name: f.ID}, nil)
	if err != nil {
		t.Fatal(err)
	}
	receipts[0].Document = r.Receipt.Document
	if _, err := receipts[0].Verify(t.Context(), client.ProofOptions{Trust: policyOf(s), At: time.Now()}); !errors.Is(err, client.ErrReceipt) {
		t.Errorf("error %v, want ErrReceipt", err)
	}
}

func TestParseReceipt(t *testing.T) {
	_, receipts := proven(t)
	file, err := receipts[0].Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty":         "",
		"another":       `{"version":2,"origin":"https://a:1","document":"","receipt":""}`,
		"unknown field": strings.Replace(string(file), `"version": 1,`, `"version": 1, "more": 1,`, 1),
		"trailing":      string(file) + "{}",
		"no origin":     `{"version":1,"origin":"a","document":"","receipt":""}`,
		"short opening": `{"version":1,"origin":"https://a:1","document":"","receipt":"","openings":{"in":"YQ=="}}`,
		"huge":          string(file) + strings.Repeat(" ", client.MaxReceiptFile),
	} {
		if _, err := client.ParseReceipt([]byte(text)); !errors.Is(err, client.ErrReceipt) {
			t.Errorf("%s: %v, want ErrReceipt", name, err)
		}
	}
}

func FuzzParseReceipt(f *testing.F) {
	f.Add([]byte(`{"version":1,"origin":"https://a:1","document":"","receipt":"","openings":{"in":"","out":""}}`))
	f.Add([]byte(`{"version":1,"origin":"https://a:1","document":"aGk=","receipt":"aGk="}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := client.ParseReceipt(data)
		if err != nil {
			return
		}
		file, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := client.ParseReceipt(file)
		if err != nil || !bytes.Equal(again.Raw, r.Raw) || !bytes.Equal(again.Document, r.Document) || again.Origin != r.Origin {
			t.Errorf("%v: what was written is read as something else", err)
		}
	})
}
