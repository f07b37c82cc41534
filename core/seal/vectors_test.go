package seal_test

import (
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/seal"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

// class names an error as the specifications do.
func class(err error) string {
	var remote *wire.RemoteError
	if errors.As(err, &remote) {
		return "refused"
	}
	for _, c := range []struct {
		name     string
		sentinel error
	}{
		{"frame", seal.ErrFrame}, {"open", seal.ErrOpen}, {"public_key", seal.ErrPublicKey},
		{"signing_key", seal.ErrSigningKey}, {"signature", seal.ErrSignature},
		{"kem", seal.ErrKEM}, {"binding", seal.ErrBinding}, {"trust", seal.ErrTrust}, {"authority", seal.ErrAuthority},
		{"record", seal.ErrRecord}, {"empty", seal.ErrEmpty}, {"receipt", seal.ErrReceipt}, {"malformed", wire.ErrMalformed},
	} {
		if errors.Is(err, c.sentinel) {
			return c.name
		}
	}
	if err == nil {
		return vectors.OK
	}
	return attest.Class(err)
}

// runVectors decodes each input, runs it, and compares class and output.
func runVectors[In, Out any](t *testing.T, kind string, run func(In) (Out, error)) {
	t.Helper()
	all, err := vectors.Read("../../spec/vectors", kind)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		t.Run(s.Name, func(t *testing.T) {
			var in In
			if err := vectors.Decode(s.Input, &in); err != nil {
				t.Fatal(err)
			}
			got, err := run(in)
			if class(err) != s.Want {
				t.Fatalf("%s, want %s", class(err), s.Want)
			}
			if err != nil {
				return
			}
			var want Out
			if err := vectors.Decode(s.Output, &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFrameVectors(t *testing.T) {
	runVectors(t, vectors.KindFrame, func(in vectors.FrameInput) (vectors.FrameOutput, error) {
		key, err := seal.SessionKeyFrom(in.Private)
		if err != nil {
			return vectors.FrameOutput{}, err
		}
		got, err := key.Open(in.Frame)
		return vectors.FrameOutput{Plaintext: append([]byte{}, got...)}, err
	})
}

func TestPublicKeyVectors(t *testing.T) {
	runVectors(t, vectors.KindPublicKey, func(in vectors.PublicKeyInput) (vectors.PublicKeyOutput, error) {
		_, err := seal.SealV1(in.Public, []byte("13"))
		return vectors.PublicKeyOutput{}, err
	})
}

func TestChecksumVectors(t *testing.T) {
	runVectors(t, vectors.KindChecksums, func(in vectors.Checksums) (vectors.ChecksumsOutput, error) {
		text := checksumsOf(in).SigningBytes()
		sum := sha256.Sum256(text)
		return vectors.ChecksumsOutput{Bytes: string(text), SHA256: sum[:]}, nil
	})
}

func TestSignatureVectors(t *testing.T) {
	runVectors(t, vectors.KindSignature, func(in vectors.SignatureInput) (vectors.SignatureOutput, error) {
		return vectors.SignatureOutput{}, seal.VerifyChecksums(in.Public, checksumsOf(in.Checksums), in.Signature)
	})
}

func checksumsOf(c vectors.Checksums) seal.Checksums {
	return seal.Checksums{Input: [32]byte(c.Input), Function: [32]byte(c.Function), Output: [32]byte(c.Output)}
}
