package seal_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

// verifyAttest does what a client does with an attest.
func verifyAttest(in vectors.AttestV2Input) (*seal.Attested, error) {
	at, err := time.Parse(time.RFC3339, in.At)
	if err != nil {
		return nil, err
	}
	c, err := seal.CallerWith(in.Hello)
	if err != nil {
		return nil, err
	}
	a, err := c.Receive(in.Attest)
	if err != nil {
		return nil, err
	}
	evidence, err := attest.Verify(nil, a.Document, policy.Policy{Roots: in.Roots, PCRs: map[int][]nitro.PCR{0: {nitro.PCR(in.PCR0)}}, Nonce: c.Nonce()}, at)
	if err != nil {
		return nil, err
	}
	got, err := c.Bind(evidence, in.Roots...)
	if err != nil {
		if _, _, again := c.Open(seal.Opening{}); !errors.Is(again, seal.ErrOrder) {
			return nil, errors.New("an attest that was refused could be opened to")
		}
	}
	return got, err
}

func TestAttestV2Vectors(t *testing.T) {
	runVectors(t, vectors.KindAttestV2, func(in vectors.AttestV2Input) (vectors.AttestV2Output, error) {
		got, err := verifyAttest(in)
		if err != nil {
			return vectors.AttestV2Output{}, err
		}
		pcr := got.Evidence.Document.PCRs[wire.TrustPCR]
		sum := sha256.Sum256(got.Policy)
		return vectors.AttestV2Output{KMS: got.KMS, PCR16: pcr[:], Policy: sum[:], TLS: append([]byte{}, got.TLS...), ReceiptKey: vectors.Hex(got.ReceiptKey)}, nil
	})
}

func TestOpenVectors(t *testing.T) {
	runVectors(t, vectors.KindOpen, func(in vectors.OpenInput) (vectors.OpenOutput, error) {
		o, secret, transcript, err := seal.OpenWith(wire.KEM(in.KEM), in.Private, in.Hello, in.Attest, in.Frame)
		if err != nil {
			return vectors.OpenOutput{}, err
		}
		out := vectors.OpenOutput{Transcript: transcript[:], Secret: secret, Token: string(o.Token.Reveal()), Acct: []byte{},
			Grant: append([]byte{}, o.Grant...), ExpectFn: append([]byte{}, o.Expect.Fn...), ExpectAcct: append([]byte{}, o.Expect.Acct...)}
		if o.Acct != nil {
			out.Acct = o.Acct[:]
		}
		if o.Expect.Seq != nil {
			seq := int(*o.Expect.Seq)
			out.ExpectSeq = &seq
		}
		return out, nil
	})
}

func TestKeyScheduleVectors(t *testing.T) {
	runVectors(t, vectors.KindKeySchedule, func(in vectors.KeyScheduleInput) (out vectors.KeyScheduleOutput, err error) {
		if out.C2EKey, out.C2EIV, err = keysOf(in, "c2e"); err != nil {
			return out, err
		}
		out.E2CKey, out.E2CIV, err = keysOf(in, "e2c")
		return out, err
	})
}

func keysOf(in vectors.KeyScheduleInput, name string) (vectors.Hex, vectors.Hex, error) {
	key, iv, err := seal.KeysOf([32]byte(in.Transcript), in.Secret, name)
	return key, iv, err
}

func TestRecordVectors(t *testing.T) {
	runVectors(t, vectors.KindRecords, func(in vectors.RecordsInput) (vectors.RecordsOutput, error) {
		var out vectors.RecordsOutput
		receiver, err := seal.ChannelWith([32]byte(in.Transcript), in.Secret, in.Direction == "e2c")
		if err != nil {
			return out, err
		}
		sender, err := seal.ChannelWith([32]byte(in.Transcript), in.Secret, in.Direction == "c2e")
		if err != nil {
			return out, err
		}
		for _, frame := range in.Frames {
			sent := bytes.Clone(frame)
			record, err := receiver.In.Open(frame)
			if err != nil {
				return out, err
			}
			out.Records = append(out.Records, bytes.Clone(record))
			if again, err := sender.Out.Seal(slices.Clone(record)); err != nil || !bytes.Equal(again, sent) {
				t.Errorf("sealed again: %x, %v", again, err)
			}
		}
		return out, nil
	})
}

func TestReceiptVectors(t *testing.T) {
	runVectors(t, vectors.KindReceipt, func(in vectors.ReceiptInput) (vectors.ReceiptOutput, error) {
		r, err := seal.VerifyReceiptWith(in.Receipt, []byte(in.Key), in.Doc, in.Nonce)
		if err != nil {
			return vectors.ReceiptOutput{}, err
		}
		return vectors.ReceiptOutput{Value: vectors.View(r.Receipt), Hash: r.Hash[:],
			InputOpens: r.OpensInput(in.InKey, sha256.Sum256(in.Input)), OutputOpens: r.OpensOutput(in.OutKey, sha256.Sum256(in.Output))}, nil
	})
}
