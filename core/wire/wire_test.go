package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func manifest() *Manifest {
	return &Manifest{V: 2, Owner: Subject{"iss", "sub"}, Name: "echo", Access: AccessToken, Decrypt: DecryptAny, Seq: 7,
		Checksum: bytes.Repeat([]byte{1}, 32), Salt: bytes.Repeat([]byte{2}, 16)}
}

func TestManifestRoundTrip(t *testing.T) {
	m := manifest()
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseManifest(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(m, got); d != "" {
		t.Error(d)
	}
	id := FunctionID(b)
	if !ValidID(id) {
		t.Errorf("id %q is not of the form of an id", id)
	}
	m.Access = AccessPublic
	other, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if FunctionID(other) == id {
		t.Error("an id does not commit to access")
	}
}

func TestManifestRefusals(t *testing.T) {
	for name, change := range map[string]func(*Manifest){
		"version":        func(m *Manifest) { m.V = 1 },
		"no issuer":      func(m *Manifest) { m.Owner.Iss = "" },
		"no subject":     func(m *Manifest) { m.Owner.Sub = "" },
		"short account":  func(m *Manifest) { m.Acct = []byte{1} },
		"no name":        func(m *Manifest) { m.Name = "" },
		"slash in name":  func(m *Manifest) { m.Name = "a/b" },
		"dots":           func(m *Manifest) { m.Name = ".." },
		"long name":      func(m *Manifest) { m.Name = strings.Repeat("a", MaxFunctionName+1) },
		"access":         func(m *Manifest) { m.Access = "everybody" },
		"decrypt":        func(m *Manifest) { m.Decrypt = "" },
		"short checksum": func(m *Manifest) { m.Checksum = m.Checksum[1:] },
		"long salt":      func(m *Manifest) { m.Salt = append(m.Salt, 0) },
	} {
		m := manifest()
		change(m)
		if _, err := m.Encode(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: encoded, %v", name, err)
		}
		raw, err := Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseManifest(raw); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: parsed, %v", name, err)
		}
	}
}

func TestUnmarshalIsStrict(t *testing.T) {
	type message struct {
		A uint64 `cbor:"a"`
		B []byte `cbor:"b"`
	}
	for name, in := range map[string]string{
		"trailing byte":     "a26161016162410200",
		"unknown key":       "a3616101616241026163f6",
		"duplicate key":     "a3616101616101616241 02",
		"indefinite map":    "bf61610161624102ff",
		"indefinite string": "a261610161625f4102ff",
		"long integer":      "a2616118016162 4102",
		"keys out of order": "a26162410261 6101",
		"tag":               "c1a26161016162 4102",
		"float":             "a26161f93c006162 4102",
		"cut short":         "a261610161",
		"missing key":       "a1616101",
		"empty":             "",
	} {
		raw, err := hex.DecodeString(strings.ReplaceAll(in, " ", ""))
		if err != nil {
			t.Fatal(name, err)
		}
		var m message
		if err := Unmarshal(raw, 100, &m); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: accepted as %+v, %v", name, m, err)
		}
	}
	good, err := hex.DecodeString("a261610161624102")
	if err != nil {
		t.Fatal(err)
	}
	var m message
	if err := Unmarshal(good, 100, &m); err != nil || m.A != 1 {
		t.Errorf("good message: %+v, %v", m, err)
	}
	if err := Unmarshal(good, len(good)-1, &m); !errors.Is(err, ErrMalformed) {
		t.Error("a message over its limit was accepted")
	}
}

func config() Config {
	return Config{Trust: Trust{Issuers: []Issuer{{Iss: "dev", Signer: make([]byte, 32)}}, Role: "arn:aws:iam::000000000000:role/cape"},
		KMS: "arn:aws:kms:x:000000000000:key/k", Limits: DefaultLimits()}
}

func TestConfig(t *testing.T) {
	c := config()
	raw, err := Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(&c, got); d != "" {
		t.Error(d)
	}
	url := "https://issuer.example/jwks"
	for name, change := range map[string]func(*Config){
		"no issuer":            func(c *Config) { c.Trust.Issuers = nil },
		"no role":              func(c *Config) { c.Trust.Role = "" },
		"unnamed issuer":       func(c *Config) { c.Trust.Issuers[0].Iss = "" },
		"issuer without keys":  func(c *Config) { c.Trust.Issuers[0].Signer = nil },
		"issuer with both":     func(c *Config) { c.Trust.Issuers[0].JWKS = &url },
		"short signer":         func(c *Config) { c.Trust.Issuers[0].Signer = []byte{1} },
		"no memory":            func(c *Config) { c.Limits.Memory = 0 },
		"output above ceiling": func(c *Config) { c.Limits.Output = MaxOutput + 1 },
	} {
		c := config()
		change(&c)
		raw, err := Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseConfig(raw); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: accepted, %v", name, err)
		}
	}
}

func TestPCR16FollowsTrust(t *testing.T) {
	a, err := ExpectedPCR16(config().Trust)
	if err != nil {
		t.Fatal(err)
	}
	c := config()
	c.Trust.Issuers[0].Iss = "other"
	b, err := ExpectedPCR16(c.Trust)
	if err != nil {
		t.Fatal(err)
	}
	if a == b {
		t.Error("PCR16 does not commit to the issuers")
	}
}

func TestFramesV1(t *testing.T) {
	frame, err := EncodeV1(DeployedV1{ID: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if string(frame) != `{"message":{"id":"x"}}` {
		t.Errorf("success frame %s", frame)
	}
	var start StartV1
	if err := DecodeV1([]byte(`{"message":{"nonce":"AAEC","metadata":{"function_authentication_type":""}}}`), &start); err != nil || len(start.Nonce) != 3 {
		t.Errorf("the original client's first message: %v, %v", start, err)
	}
	var remote *RemoteError
	err = DecodeV1(EncodeErrorV1(CodeTimeout, "too slow"), &start)
	if !errors.As(err, &remote) || remote.Code != CodeTimeout || remote.Text != "too slow" {
		t.Errorf("error frame decoded to %v", err)
	}
	long := EncodeErrorV1(CodeInternal, strings.Repeat("ü", MaxErrorText))
	if len(long) > MaxErrorText+100 || !json.Valid(long) {
		t.Errorf("long error encodes to %d bytes", len(long))
	}
	for name, in := range map[string]string{
		"no message": `{}`, "null message": `{"message":null}`, "trailing": `{"message":{}}{}`, "array": `[]`,
		"text": `hello`, "wrong type": `{"message":{"nonce":7}}`, "bad base64": `{"message":{"nonce":"*"}}`, "empty": ``,
	} {
		if err := DecodeV1([]byte(in), &start); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNames(t *testing.T) {
	for _, s := range []string{"", ".", "..", "-x", "a/b", "a b", "ä", "a\x00"} {
		if ValidFunctionName(s) || ValidUsername(s) {
			t.Errorf("%q was accepted as a name", s)
		}
	}
	if ValidID("0000000000000000000000") || ValidID("short") || !ValidID("2222222222222222222222") {
		t.Error("ValidID")
	}
}

func FuzzManifest(f *testing.F) {
	b, err := manifest().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := ParseManifest(in)
		if err != nil {
			return
		}
		out, err := m.Encode()
		if err != nil || !bytes.Equal(in, out) {
			t.Errorf("%x came back as %x, %v", in, out, err)
		}
	})
}

func FuzzConfig(f *testing.F) {
	b, err := Marshal(config())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		if c, err := ParseConfig(in); err == nil {
			if out, err := Marshal(c); err != nil || !bytes.Equal(in, out) {
				t.Errorf("%x came back as %x, %v", in, out, err)
			}
		}
	})
}

func FuzzDecodeV1(f *testing.F) {
	f.Add([]byte(`{"message":{"nonce":"AAEC"}}`))
	f.Add([]byte(`{"error":"timeout: x"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		var s StartV1
		err := DecodeV1(in, &s)
		var remote *RemoteError
		if err != nil && !errors.Is(err, ErrMalformed) && !errors.As(err, &remote) {
			t.Errorf("unnamed error %v", err)
		}
	})
}

func FuzzStoredFunction(f *testing.F) {
	b, err := Marshal(StoredFunction{ID: "x", Manifest: []byte{1}, Wrapped: []byte{2}, KEK: "arn"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		var s StoredFunction
		if Unmarshal(in, MaxRecord, &s) == nil {
			if out, err := Marshal(s); err != nil || !bytes.Equal(in, out) {
				t.Errorf("%x came back as %x, %v", in, out, err)
			}
		}
	})
}
