package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	v2 "github.com/cape-functions/cape/client/internal/v2"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/policy"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
)

// Receipt proves, to whoever is shown it, that an attested enclave computed one output from
// one input by one function. Without Openings it tells nothing of input and output.
type Receipt struct {
	// Origin is the server, as the trust file knows it.
	Origin string
	// Document is the attestation document of the session, and Raw the receipt signed by
	// the key in it.
	Document, Raw []byte
	// Openings are the keys that open its commitments to input and output; nil, or one of
	// them nil: kept back.
	Openings *wire.Openings
}

func (c *Client) receipt(o *v2.Outcome, ev *attest.Evidence) *Receipt {
	return &Receipt{Origin: c.origin, Document: ev.Raw, Raw: o.Result.Receipt, Openings: &o.Result.Openings}
}

// receiptFile is the form of spec/receipt.md, 8.
type receiptFile struct {
	Version  int              `json:"version"`
	Origin   string           `json:"origin"`
	Document []byte           `json:"document"`
	Receipt  []byte           `json:"receipt"`
	Openings *receiptOpenings `json:"openings,omitempty"`
}

type receiptOpenings struct {
	In  []byte `json:"in,omitempty"`
	Out []byte `json:"out,omitempty"`
}

const (
	receiptVersion = 1
	// MaxReceiptFile bounds the file of a receipt in bytes.
	MaxReceiptFile = 64 << 10
)

// Encode returns the receipt's file, with the openings if there are any.
func (r *Receipt) Encode() ([]byte, error) {
	f := receiptFile{Version: receiptVersion, Origin: r.Origin, Document: r.Document, Receipt: r.Raw}
	if r.Openings != nil {
		f.Openings = &receiptOpenings{In: r.Openings.In, Out: r.Openings.Out}
	}
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the receipt: %w", err)
	}
	return append(data, '\n'), nil
}

// WithoutOpenings returns a receipt that may be shown to anybody.
func (r *Receipt) WithoutOpenings() *Receipt {
	shared := *r
	shared.Openings = nil
	return &shared
}

// ParseReceipt reads a receipt's file. Nothing in it is verified. Errors match ErrReceipt.
func ParseReceipt(data []byte) (*Receipt, error) {
	var f receiptFile
	if len(data) > MaxReceiptFile {
		return nil, fmt.Errorf("%w: its file has more than %d bytes", ErrReceipt, MaxReceiptFile)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("%w: its file is not one of a receipt", ErrReceipt)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) || f.Version != receiptVersion {
		return nil, fmt.Errorf("%w: its file is not one of version %d", ErrReceipt, receiptVersion)
	}
	if origin, err := trust.Origin(f.Origin); err != nil || origin != f.Origin {
		return nil, fmt.Errorf("%w: its file names no server", ErrReceipt)
	}
	r := &Receipt{Origin: f.Origin, Document: f.Document, Raw: f.Receipt}
	if f.Openings != nil {
		for _, key := range [][]byte{f.Openings.In, f.Openings.Out} {
			if key != nil && len(key) != 32 {
				return nil, fmt.Errorf("%w: its openings are not keys", ErrReceipt)
			}
		}
		r.Openings = &wire.Openings{In: f.Openings.In, Out: f.Openings.Out}
	}
	return r, nil
}

// ProofOptions say what a receipt is to prove.
type ProofOptions struct {
	// Trust decides whether the enclave was one to believe; nil refuses every one.
	Trust trust.Judge
	// Input and Output are what the receipt is to be of; nil: not compared.
	Input, Output io.Reader
	// At is the time of the check: the document must not be of later.
	At time.Time
}

// Proof is what a receipt proves.
type Proof struct {
	// Content is what the enclave signed. Unless Prev is nil, the result depends on the
	// earlier inputs of its session as well: one process computes them all.
	Content seal.Receipt
	// Time is when, by the enclave's security module.
	Time time.Time
	// Evidence is the verified document.
	Evidence *attest.Evidence
	// Checks tell what held and what was not checked, the document's first.
	Checks []attest.Check
}

// Verify tells, from the receipt alone, whether an enclave that Trust believes signed it,
// and whether it is of the given input and output. Errors match ErrReceipt, or are those of
// a document that is refused.
func (r *Receipt) Verify(ctx context.Context, o ProofOptions) (*Proof, error) {
	if o.Trust == nil {
		o.Trust = trust.Nobody{}
	}
	ev, err := o.Trust.Enclave(ctx, trust.Contact{
		Origin: r.Origin, Document: r.Document, Archived: true, At: o.At,
		Claims: func(ev *attest.Evidence) (trust.Claims, error) {
			claim, err := wire.ParseSessionClaim(ev.Document.UserData)
			if err != nil {
				return trust.Claims{}, fmt.Errorf("%w: %w", seal.ErrBinding, err)
			}
			return trust.Claims{KeyPolicy: claim.Policy}, nil
		},
	})
	if err != nil {
		return nil, attestation(err)
	}
	content, err := seal.VerifyReceipt(r.Raw, ev)
	if err != nil {
		return nil, err
	}
	p := &Proof{Content: *content, Time: time.UnixMilli(int64(content.Time)).UTC(), Evidence: ev, Checks: ev.Checks}
	p.add(policy.Held, "receipt", "signed by the key in the document")
	p.add(policy.Held, "function", hex.EncodeToString(content.Fn))
	var in, out []byte
	if r.Openings != nil {
		in, out = r.Openings.In, r.Openings.Out
	}
	if err := p.compare("input", o.Input, in, content.OpensInput); err != nil {
		return nil, err
	}
	if err := p.compare("output", o.Output, out, content.OpensOutput); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Proof) add(state policy.State, name, detail string) {
	p.Checks = append(p.Checks, attest.Check{Name: name, State: state, Detail: detail})
}

// compare holds data against a commitment.
func (p *Proof) compare(name string, data io.Reader, opening []byte, opens func(key []byte, sum [32]byte) bool) error {
	if data == nil {
		p.add(policy.NotChecked, name, "none was given")
		return nil
	}
	if opening == nil {
		return fmt.Errorf("%w: it is a shared one, without the key that opens it to an %s", ErrReceipt, name)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, data); err != nil {
		return fmt.Errorf("reading the %s: %w", name, err)
	}
	if !opens(opening, [32]byte(sum.Sum(nil))) {
		return fmt.Errorf("%w: it is of another %s", ErrReceipt, name)
	}
	p.add(policy.Held, name, fmt.Sprintf("%x, to which the enclave committed", sum.Sum(nil)))
	return nil
}
