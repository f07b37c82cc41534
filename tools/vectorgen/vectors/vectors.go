package vectors

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// OK is the Want of a scenario that succeeds. Any other is the class of the
// failure, as spec/*.md names them.
const OK = "ok"

// KeysFile holds the RSA keys that scenarios name.
const KeysFile = "keys.json"

// ErrNone is the error of a kind without scenarios: a runner that finds none
// must fail.
var ErrNone = errors.New("no scenarios of that kind")

// Scenario is one file: an input, and what must come of it.
type Scenario struct {
	Kind   string          `json:"kind"`
	Name   string          `json:"name"` // the file's name without ".json"
	About  string          `json:"about"`
	Input  json.RawMessage `json:"input"`
	Want   string          `json:"want"`
	Output json.RawMessage `json:"output,omitempty"` // only if Want is OK
}

// New makes a scenario that succeeds.
func New(kind, name, about string, input, output any) (Scenario, error) {
	s, err := NewFailing(kind, name, about, input, OK)
	if err != nil {
		return s, err
	}
	s.Output, err = json.Marshal(output)
	return s, err
}

// NewFailing makes a scenario that fails with the class want.
func NewFailing(kind, name, about string, input any, want string) (Scenario, error) {
	raw, err := json.Marshal(input)
	return Scenario{Kind: kind, Name: name, About: about, Input: raw, Want: want}, err
}

// Encode gives the scenario the form of its file.
func (s Scenario) Encode() ([]byte, error) { return encode(s) }

func encode(v any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(v)
	return out.Bytes(), err
}

// Read returns all scenarios of a kind below dir, which is spec/vectors.
func Read(dir, kind string) ([]Scenario, error) {
	files, err := filepath.Glob(filepath.Join(dir, kind, "*.json"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%w: %s in %s", ErrNone, kind, dir)
	}
	var all []Scenario
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var s Scenario
		if err := Decode(data, &s); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if s.Kind != kind || s.Name+".json" != filepath.Base(file) || (s.Want == OK) != (s.Output != nil) {
			return nil, fmt.Errorf("%s: kind, name or output do not fit", file)
		}
		all = append(all, s)
	}
	return all, nil
}

// Decode decodes JSON and refuses unknown fields: a field that a runner does
// not know would be a check that it does not make.
func Decode(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}

// Hex is a byte string that JSON shows in lower hex.
type Hex []byte

// MarshalText encodes h.
func (h Hex) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

// UnmarshalText decodes lower or upper hex.
func (h *Hex) UnmarshalText(text []byte) error {
	raw, err := hex.DecodeString(string(text))
	*h = raw
	return err
}

// Key is one RSA key pair of KeysFile.
type Key struct {
	PKCS8 []byte `json:"pkcs8_b64"`
	SPKI  []byte `json:"spki_b64"`
	Hash  Hex    `json:"spki_sha256_hex"`
}

// Keys are the key pairs by name. They protect nothing: they are public.
type Keys map[string]Key

// Encode gives the keys the form of their file.
func (k Keys) Encode() ([]byte, error) { return encode(k) }

// ReadKeys reads KeysFile in dir.
func ReadKeys(dir string) (map[string]*rsa.PrivateKey, error) {
	data, err := os.ReadFile(filepath.Join(dir, KeysFile))
	if err != nil {
		return nil, err
	}
	var stored Keys
	if err := Decode(data, &stored); err != nil {
		return nil, err
	}
	keys := make(map[string]*rsa.PrivateKey)
	for name, key := range stored {
		parsed, err := x509.ParsePKCS8PrivateKey(key.PKCS8)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", name, err)
		}
		private, ok := parsed.(*rsa.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("key %s is not RSA", name)
		}
		keys[name] = private
	}
	return keys, nil
}
