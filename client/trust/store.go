package trust

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/cape-functions/cape/client/internal/lockfile"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/keypolicy"
	"github.com/cape-functions/cape/core/wire"
)

// ErrFile: the trust file cannot be used.
var ErrFile = errors.New("trust file cannot be used")

const (
	// Version is the only version of the trust file there is.
	Version = 1
	// MaxFile bounds the trust file: about 200,000 remembered functions.
	MaxFile = 32 << 20
)

// Store is the trust file (spec/trust-file.md). It holds no state of its own: several
// Stores, in several processes, may use one file.
type Store struct{ path string }

// NewStore returns the store kept in the file at path, which need not exist yet.
func NewStore(path string) *Store { return &Store{path: path} }

// Path returns where the file is.
func (s *Store) Path() string { return s.path }

// Load reads the file; an absent one is an empty one. Errors match ErrFile.
func (s *Store) Load() (*wire.TrustFile, error) {
	data, err := lockfile.Read(s.path, MaxFile)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	if data == nil {
		return &wire.TrustFile{Version: Version, Origins: map[string]*wire.TrustOrigin{}}, nil
	}
	f, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	return f, nil
}

// Origin returns the entry of an origin, nil if there is none. Errors match ErrFile.
func (s *Store) Origin(origin string) (*wire.TrustOrigin, error) {
	f, err := s.Load()
	if err != nil {
		return nil, err
	}
	return f.Origins[origin], nil
}

// Update changes the file under its lock: no change of another process is lost. If
// change returns an error, nothing is written and the error is returned.
func (s *Store) Update(ctx context.Context, change func(*wire.TrustFile) error) error {
	release, err := lockfile.Lock(ctx, s.path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	defer release()
	f, err := s.Load()
	if err != nil {
		return err
	}
	if err := change(f); err != nil {
		return err
	}
	data, err := Encode(f)
	if err != nil {
		return err
	}
	if err := lockfile.Write(s.path, data); err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	return nil
}

// Encode checks f and returns the file's bytes. Errors match ErrFile.
func Encode(f *wire.TrustFile) ([]byte, error) {
	if err := validate(f); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	if len(data) >= MaxFile {
		return nil, fmt.Errorf("%w: it would grow over %d bytes; forget functions that are gone", ErrFile, MaxFile)
	}
	return append(data, '\n'), nil
}

// Parse reads a trust file strictly: a field it does not know would be lost when the
// file is written again, and with it a pin. Errors match ErrFile.
func Parse(data []byte) (*wire.TrustFile, error) {
	if len(data) > MaxFile {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrFile, MaxFile)
	}
	if err := noDuplicates(data); err != nil {
		return nil, err
	}
	var f wire.TrustFile
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: there is something behind the JSON", ErrFile)
	}
	if f.Version == Version && f.Origins == nil {
		f.Origins = map[string]*wire.TrustOrigin{}
	}
	return &f, validate(&f)
}

// noDuplicates refuses JSON with a key twice in one object, which two readers could
// understand in two ways.
func noDuplicates(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	type level struct {
		keys map[string]bool // nil in an array
		key  bool            // the next string is a key
	}
	var stack []level
	for {
		token, err := d.Token()
		if err != nil && (!errors.Is(err, io.EOF) || len(stack) > 0) {
			return fmt.Errorf("%w: it is not JSON: %w", ErrFile, err)
		}
		if err != nil {
			return nil
		}
		top := len(stack) - 1
		switch t := token.(type) {
		case json.Delim:
			switch t {
			case '{':
				stack = append(stack, level{keys: map[string]bool{}, key: true})
				continue
			case '[':
				stack = append(stack, level{})
				continue
			}
			stack = stack[:top]
			top--
		case string:
			if top >= 0 && stack[top].key {
				if stack[top].keys[t] {
					return fmt.Errorf("%w: %.100q stands there twice", ErrFile, t)
				}
				stack[top].keys[t], stack[top].key = true, false
				continue
			}
		}
		if top >= 0 && stack[top].keys != nil {
			stack[top].key = true
		}
		if len(stack) > 16 {
			return fmt.Errorf("%w: it is nested too deeply", ErrFile)
		}
	}
}

func validate(f *wire.TrustFile) error {
	if f.Version != Version {
		return fmt.Errorf("%w: it has version %d, this program knows %d", ErrFile, f.Version, Version)
	}
	for origin, entry := range f.Origins {
		if o, err := Origin(origin); err != nil || o != origin {
			return fmt.Errorf("%w: %.100q is not an origin", ErrFile, origin)
		}
		if entry == nil {
			return fmt.Errorf("%w: %s has no entry", ErrFile, origin)
		}
		if err := validateEntry(entry); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrFile, origin, err)
		}
	}
	return nil
}

func validateEntry(e *wire.TrustOrigin) error {
	if !isSum(e.Root) {
		return errors.New("root is not a SHA-256")
	}
	if e.RootDER != nil && sha256Hex(e.RootDER) != e.Root {
		return errors.New("root_der is not the certificate that root names")
	}
	if e.Development != (e.Root != awsRoot()) || e.Development != (e.RootDER != nil) {
		return errors.New("root, root_der and development contradict each other")
	}
	for _, i := range []string{"0", "1", "2"} {
		if len(e.PCRs[i]) == 0 {
			return fmt.Errorf("no value for PCR%s", i)
		}
	}
	if _, err := entryPCRs(e); err != nil {
		return err
	}
	if e.KeyPolicy != "" && !isSum(e.KeyPolicy) {
		return errors.New("key_policy is not a SHA-256")
	}
	if err := validatePins(e); err != nil {
		return err
	}
	if _, err := time.Parse(time.RFC3339, e.Added); err != nil {
		return errors.New("added is not a time of RFC 3339")
	}
	for id, sum := range e.Functions {
		if id == "" || !isSum(sum) {
			return fmt.Errorf("function %.40q has no SHA-256", id)
		}
	}
	for name, n := range e.Names {
		if name == "" || n == nil || !isSum(n.Checksum) {
			return fmt.Errorf("name %.100q has no SHA-256", name)
		}
		if n.Account != "" && n.Account != wire.UnsignedAccount && !isSum(n.Account) {
			return fmt.Errorf("account of %.100q is none", name)
		}
	}
	return nil
}

func validatePins(e *wire.TrustOrigin) error {
	if e.KMS != "" {
		if _, _, _, ok := keypolicy.ParseKey(e.KMS); !ok {
			return errors.New("kms is not the ARN of a key")
		}
	}
	if e.Trust != nil {
		if _, err := readTrust(e.Trust); err != nil {
			return errors.New("trust is not the encoding of one")
		}
	}
	for user, account := range e.Accounts {
		if user == "" || !isSum(account) {
			return fmt.Errorf("account of %.100q is none", user)
		}
	}
	return nil
}

// entryPCRs returns the measurements of an entry.
func entryPCRs(e *wire.TrustOrigin) (map[int][]nitro.PCR, error) {
	pcrs := make(map[int][]nitro.PCR, len(e.PCRs))
	for index, values := range e.PCRs {
		i, err := strconv.Atoi(index)
		if err != nil || i < 0 || i >= nitro.MaxPCRs || strconv.Itoa(i) != index {
			return nil, fmt.Errorf("%.10q is not the index of a PCR", index)
		}
		if len(values) == 0 {
			return nil, fmt.Errorf("no value for PCR%d", i)
		}
		for _, v := range values {
			pcr, err := nitro.ParsePCR(v)
			if err != nil {
				return nil, fmt.Errorf("PCR%d: %w", i, err)
			}
			pcrs[i] = append(pcrs[i], pcr)
		}
	}
	return pcrs, nil
}

func isSum(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size && hex.EncodeToString(b) == s
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
