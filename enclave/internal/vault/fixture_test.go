package vault_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/intake"
	"github.com/cape-functions/cape/enclave/internal/vault"
	"github.com/cape-functions/cape/enclave/internal/vault/testkit"
)

const kek = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000000"

func alice() wire.Subject { return wire.Subject{Iss: "cape-dev-1", Sub: "alice|1"} }
func bob() wire.Subject   { return wire.Subject{Iss: "cape-dev-1", Sub: "bob|2"} }

type fixture struct {
	t       *testing.T
	host    *testkit.Host
	keys    *testkit.Keys
	vault   *vault.Vault
	scratch string
	unpacks chan struct{} // one for each unpacking
	limits  wire.LimitsConfig
	turns   map[wire.Subject]vault.Turn
}

// turn is that of a user who is known, or a new one.
func (f *fixture) turn(owner wire.Subject) vault.Turn {
	if t, ok := f.turns[owner]; ok {
		return t
	}
	return make(vault.Turn, 1)
}

// unpackWhole stands for intake.Unpack: the "zip" becomes one file, and counts as its size.
func unpackWhole(_ context.Context, zip io.ReaderAt, size int64, dir string, admit func(int64) error) (*intake.Layout, error) {
	if err := admit(size); err != nil {
		return nil, err
	}
	data := make([]byte, size)
	if _, err := zip.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := os.Mkdir(filepath.Join(dir, "fn"), 0o755); err != nil {
		return nil, err
	}
	return &intake.Layout{Work: "fn", Files: 1, Bytes: size, Room: size}, os.WriteFile(filepath.Join(dir, "fn", "app.py"), data, 0o444)
}

func setup(t *testing.T, change ...func(*vault.Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, host: testkit.NewHost(), keys: testkit.NewKeys(), scratch: t.TempDir(), unpacks: make(chan struct{}, 1000)}
	f.turns = map[wire.Subject]vault.Turn{alice(): make(vault.Turn, 1), bob(): make(vault.Turn, 1)}
	t.Cleanup(f.host.Close)
	f.limits = wire.DefaultLimits()
	f.limits.Zip, f.limits.Cache = 4<<20, 16<<20
	cfg := vault.Config{Dial: f.host.Dial, Keys: f.keys, KEK: kek, Scratch: f.scratch, Limits: f.limits,
		Unpack: func(ctx context.Context, zip io.ReaderAt, size int64, dir string, admit func(int64) error) (*intake.Layout, error) {
			f.unpacks <- struct{}{}
			return unpackWhole(ctx, zip, size, dir, admit)
		}}
	for _, c := range change {
		c(&cfg)
	}
	v, err := vault.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	f.vault = v
	return f
}

func content(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func manifest(zip []byte, owner wire.Subject, name string) *wire.Manifest {
	sum := sha256.Sum256(zip)
	salt := make([]byte, 16)
	rand.Read(salt)
	return &wire.Manifest{V: 2, Owner: owner, Name: name, Access: wire.AccessToken, Decrypt: wire.DecryptAny, Seq: 1, Checksum: sum[:], Salt: salt}
}

func (f *fixture) store(zip []byte, owner wire.Subject, name string) string {
	f.t.Helper()
	return f.storeAs(vault.Deploy{Manifest: encode(f.t, manifest(zip, owner, name)), Username: "alice"}, zip)
}

func (f *fixture) storeAs(d vault.Deploy, zip []byte) string {
	f.t.Helper()
	id, err := f.vault.Store(f.t.Context(), d, bytes.NewReader(zip), int64(len(zip)))
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

func encode(t *testing.T, m *wire.Manifest) []byte {
	t.Helper()
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// signed is a deploy of an account.
func signed(t *testing.T, key *account.Key, m *wire.Manifest) vault.Deploy {
	t.Helper()
	id, public := key.ID(), key.Public()
	m.Acct = id[:]
	raw, sig, err := key.SignManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	return vault.Deploy{Manifest: raw, Sig: sig, Key: public[:], Username: "alice"}
}

func newAccount(t *testing.T) *account.Key {
	t.Helper()
	k, err := account.New()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (f *fixture) load(id string) (*vault.Function, error) {
	f.t.Helper()
	r, err := f.vault.ByID(f.t.Context(), id)
	if err != nil {
		return nil, err
	}
	return f.vault.Load(f.t.Context(), r, f.turn(r.Manifest.Owner))
}

// leftovers are files below the scratch directory.
func (f *fixture) leftovers() (files []string) {
	f.t.Helper()
	err := filepath.Walk(f.scratch, func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return files
}
