package envelope_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/envelope"
	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

const vectorDir = "../../spec/vectors"

var errRefused = errors.New("refused")

// class names an error as spec/envelope.md does.
func class(err error) string {
	for name, sentinel := range map[string]error{
		"format": envelope.ErrFormat, "truncated": envelope.ErrTruncated, "damaged": envelope.ErrDamaged,
		"key": envelope.ErrKey, "refused": errRefused,
	} {
		if errors.Is(err, sentinel) {
			return name
		}
	}
	if err == nil {
		return vectors.OK
	}
	return "another: " + err.Error()
}

func plaintextOf(b []byte) vectors.Plaintext {
	sum := sha256.Sum256(b)
	return vectors.Plaintext{Size: len(b), SHA256: sum[:]}
}

func readVectors(t *testing.T, kind string) ([]vectors.Scenario, map[string]*rsa.PrivateKey) {
	t.Helper()
	keys, err := vectors.ReadKeys(vectorDir)
	if err != nil {
		t.Fatal(err)
	}
	all, err := vectors.Read(vectorDir, kind)
	if err != nil {
		t.Fatal(err)
	}
	return all, keys
}

// compare checks that the output is what the scenario wants, all of it.
func compare[T any](t *testing.T, s vectors.Scenario, got T) {
	t.Helper()
	var want T
	if err := vectors.Decode(s.Output, &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestOldVectors(t *testing.T) {
	all, keys := readVectors(t, vectors.KindOld)
	for _, s := range all {
		t.Run(s.Name, func(t *testing.T) {
			var in vectors.OldInput
			if err := vectors.Decode(s.Input, &in); err != nil {
				t.Fatal(err)
			}
			got, err := envelope.OpenOld(keys[in.Key], in.Data, in.Form == "raw")
			if class(err) != s.Want {
				t.Fatalf("%s, want %s: %v", class(err), s.Want, err)
			}
			if err == nil {
				compare(t, s, plaintextOf(got))
			}
		})
	}
}

func TestV2Vectors(t *testing.T) {
	all, keys := readVectors(t, vectors.KindV2)
	for _, s := range all {
		t.Run(s.Name, func(t *testing.T) {
			var in vectors.V2Input
			if err := vectors.Decode(s.Input, &in); err != nil {
				t.Fatal(err)
			}
			got, to, err := openVector(in, keys)
			if class(err) != s.Want {
				t.Fatalf("%s, want %s: %v", class(err), s.Want, err)
			}
			if err == nil {
				compare(t, s, vectors.V2Output{To: shown(to), Plaintext: plaintextOf(got)})
			}
		})
	}
}

func openVector(in vectors.V2Input, keys map[string]*rsa.PrivateKey) ([]byte, envelope.To, error) {
	find := func(hash [32]byte) (*rsa.PrivateKey, error) {
		for _, name := range in.Keys {
			if h, err := envelope.KeyHash(&keys[name].PublicKey); err == nil && h == hash {
				return keys[name], nil
			}
		}
		return nil, envelope.ErrKey
	}
	allow := func(to envelope.To) error {
		same := func(other vectors.To) bool { return cmp.Equal(other, shown(to)) }
		if in.Accept == nil || slices.ContainsFunc(*in.Accept, same) {
			return nil
		}
		return errRefused
	}
	r, to, err := envelope.NewReader(bytes.NewReader(in.Data), find, allow)
	if err != nil {
		return nil, to, err
	}
	got, err := io.ReadAll(r)
	return got, to, err
}

func shown(to envelope.To) vectors.To {
	switch to.Kind {
	case envelope.ToFunction:
		return vectors.To{Function: to.Digest[:]}
	case envelope.ToName:
		return vectors.To{Account: to.Digest[:], Name: to.Name, Seq: to.Seq}
	}
	return vectors.To{}
}
