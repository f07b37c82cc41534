package wire_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

const vectorDir = "../../spec/vectors"

// class names an error as spec/session-v2.md does.
func class(err error) string {
	var remote *wire.RemoteError
	switch {
	case err == nil:
		return vectors.OK
	case errors.As(err, &remote):
		return "refused"
	case errors.Is(err, wire.ErrMalformed):
		return "malformed"
	}
	return "another: " + err.Error()
}

// readers are the decoders by the rules of session-v2.cddl. Those of records get them with
// their type in front.
var readers = map[string]func([]byte) (any, error){
	"hello":         func(b []byte) (any, error) { return wire.ParseHello(b) },
	"attest":        func(b []byte) (any, error) { return wire.ParseAttest(b) },
	"key-attest":    func(b []byte) (any, error) { return wire.ParseKeyAttest(b) },
	"session-claim": func(b []byte) (any, error) { return wire.ParseSessionClaim(b) },
	"key-claim":     func(b []byte) (any, error) { return wire.ParseKeyClaim(b) },
	"receipt":       func(b []byte) (any, error) { return wire.ParseReceipt(b) },
	"begin":         fromClient(wire.RecordBegin),
	"client-end":    fromClient(wire.RecordEnd),
	"cancel":        fromClient(wire.RecordCancel),
	"window":        fromClient(wire.RecordWindow),
	"enclave-end":   fromEnclave(wire.RecordEnd),
	"error":         fromEnclave(wire.RecordError),
	"log":           fromEnclave(wire.RecordLog),
	"accepted":      fromEnclave(wire.RecordAccepted),
	"deployed":      fromEnclave(wire.RecordDeployed),
}

func fromClient(t wire.RecordType) func([]byte) (any, error) {
	return func(b []byte) (any, error) { return wire.ParseFromClient(append([]byte{byte(t)}, b...)) }
}

func fromEnclave(t wire.RecordType) func([]byte) (any, error) {
	return func(b []byte) (any, error) { return wire.ParseFromEnclave(append([]byte{byte(t)}, b...)) }
}

func read(t *testing.T, kind string) []vectors.Scenario {
	t.Helper()
	all, err := vectors.Read(vectorDir, kind)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func decode(t *testing.T, raw []byte, v any) {
	t.Helper()
	if err := vectors.Decode(raw, v); err != nil {
		t.Fatal(err)
	}
}

func TestMessageVectors(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range read(t, vectors.KindMessage) {
		t.Run(s.Name, func(t *testing.T) {
			var in vectors.MessageInput
			decode(t, s.Input, &in)
			parse := readers[in.Type]
			if parse == nil {
				t.Fatalf("no reader for %q", in.Type)
			}
			seen[in.Type] = true
			got, err := parse(in.Bytes)
			if class(err) != s.Want {
				t.Fatalf("%s, want %s", class(err), s.Want)
			}
			if err != nil {
				return
			}
			var want vectors.MessageOutput
			decode(t, s.Output, &want)
			if diff := cmp.Diff(want.Value, vectors.View(got)); diff != "" {
				t.Error(diff)
			}
			if again, err := wire.Marshal(got); err != nil || !bytes.Equal(again, in.Bytes) {
				t.Errorf("came back as %x, %v", again, err)
			}
		})
	}
	for name := range readers {
		if !seen[name] {
			t.Errorf("no scenario for %q", name)
		}
	}
}

func TestManifestVectors(t *testing.T) {
	for _, s := range read(t, vectors.KindManifest) {
		t.Run(s.Name, func(t *testing.T) {
			var in vectors.ManifestInput
			decode(t, s.Input, &in)
			got, err := wire.ParseManifest(in.Manifest)
			if class(err) != s.Want {
				t.Fatalf("%s, want %s", class(err), s.Want)
			}
			if err != nil {
				return
			}
			var want vectors.ManifestOutput
			decode(t, s.Output, &want)
			if diff := cmp.Diff(want, vectors.ManifestOutput{ID: wire.FunctionID(in.Manifest), Value: vectors.View(got)}); diff != "" {
				t.Error(diff)
			}
			if again, err := got.Encode(); err != nil || !bytes.Equal(again, in.Manifest) {
				t.Errorf("came back as %x, %v", again, err)
			}
		})
	}
}

func TestConfigVectors(t *testing.T) {
	for _, s := range read(t, vectors.KindConfig) {
		t.Run(s.Name, func(t *testing.T) {
			var in vectors.ConfigInput
			decode(t, s.Input, &in)
			got, err := wire.ParseConfig(in.Config)
			if class(err) != s.Want {
				t.Fatalf("%s, want %s", class(err), s.Want)
			}
			if err != nil {
				return
			}
			var want vectors.ConfigOutput
			decode(t, s.Output, &want)
			m, err := wire.TrustMeasurement(got.Trust)
			if err != nil {
				t.Fatal(err)
			}
			pcr, err := wire.ExpectedPCR16(got.Trust)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, vectors.ConfigOutput{Value: vectors.View(got), Measurement: m[:], PCR16: pcr[:]}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// seeds are the bytes of every message scenario of these types.
func seeds(f *testing.F, types ...string) [][]byte {
	all, err := vectors.Read(vectorDir, vectors.KindMessage)
	if err != nil {
		f.Fatal(err)
	}
	var out [][]byte
	for _, s := range all {
		var in vectors.MessageInput
		if err := vectors.Decode(s.Input, &in); err != nil {
			f.Fatal(err)
		}
		if slices.Contains(types, in.Type) {
			out = append(out, in.Bytes)
		}
	}
	return out
}

func fuzzMessage(f *testing.F, names ...string) {
	for _, seed := range seeds(f, names...) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, name := range names {
			got, err := readers[name](in)
			if err == nil {
				if out, err := wire.Marshal(got); err != nil || !bytes.Equal(in, out) {
					t.Errorf("%s %x came back as %x, %v", name, in, out, err)
				}
			} else if c := class(err); c != "malformed" && c != "refused" {
				t.Errorf("%s: unnamed error %v", name, err)
			}
		}
	})
}

func FuzzHello(f *testing.F)        { fuzzMessage(f, "hello") }
func FuzzAttest(f *testing.F)       { fuzzMessage(f, "attest", "key-attest") }
func FuzzClaim(f *testing.F)        { fuzzMessage(f, "session-claim", "key-claim") }
func FuzzClientRecord(f *testing.F) { fuzzMessage(f, "begin", "client-end", "cancel", "window") }
func FuzzReceipt(f *testing.F)      { fuzzMessage(f, "receipt") }
func FuzzEnclaveRecord(f *testing.F) {
	fuzzMessage(f, "enclave-end", "error", "log", "accepted", "deployed")
}

func FuzzData(f *testing.F) {
	for _, id := range []uint64{1, 24, 256, 1 << 16, 1 << 32} {
		f.Add(append(wire.AppendDataHead(nil, id), "payload"...))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		id, payload, err := wire.ParseData(in)
		if err != nil {
			return
		}
		if out := append(wire.AppendDataHead(nil, id), payload...); !bytes.Equal(in, out) {
			t.Errorf("%x came back as %x", in, out)
		}
	})
}
