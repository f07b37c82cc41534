package vault_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/intake"
	"github.com/cape-functions/cape/enclave/internal/vault"
	"github.com/cape-functions/cape/enclave/internal/vault/testkit"
)

func TestFunctionsComeBackAsTheyWereStored(t *testing.T) {
	for _, size := range []int{0, 1, wire.StoredChunk - 1, wire.StoredChunk, wire.StoredChunk + 1, 3 * wire.StoredChunk, 4 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			f := setup(t)
			zip := content(t, size)
			id := f.store(zip, alice(), "echo")
			fn, err := f.load(id)
			if err != nil {
				t.Fatal(err)
			}
			defer fn.Release()
			got, err := os.ReadFile(filepath.Join(fn.Dir, fn.Work, "app.py"))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, zip) || fn.ID != id || fn.Manifest.Owner != alice() {
				t.Error("another function came back")
			}
			if bytes.Contains(f.host.Functions[id].Body, zip[:min(size, 16)]) && size >= 16 {
				t.Error("the host has plaintext")
			}
			if n := len(f.leftovers()); n != 1 {
				t.Errorf("%d files in memory, want the function's one", n)
			}
		})
	}
}

func TestFunctionsAreFoundByName(t *testing.T) {
	f := setup(t)
	f.store(content(t, 10), alice(), "echo")
	second := f.store(content(t, 10), alice(), "echo")
	r, err := f.vault.ByName(t.Context(), "alice", "echo")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.ID != second {
		t.Error("not the newest")
	}
}

// TestLiesOfTheHost serves what a malicious store could, each refused as what it is.
func TestLiesOfTheHost(t *testing.T) {
	const big = 3*wire.StoredChunk + 5
	const sealed = wire.StoredChunk + 16
	tests := []struct {
		name string
		lie  func(t *testing.T, f *fixture, mine, other *testkit.Stored)
		want error
	}{
		{"other function under this id", func(t *testing.T, f *fixture, m, o *testkit.Stored) { *m = *o }, vault.ErrWrongID},
		{"other manifest", func(t *testing.T, f *fixture, m, o *testkit.Stored) { m.Head.Manifest = o.Head.Manifest }, vault.ErrWrongID},
		{"access flipped", func(t *testing.T, f *fixture, m, o *testkit.Stored) {
			p, err := wire.ParseManifest(m.Head.Manifest)
			if err != nil {
				t.Fatal(err)
			}
			p.Access = wire.AccessPublic
			if m.Head.Manifest, err = p.Encode(); err != nil {
				t.Fatal(err)
			}
		}, vault.ErrWrongID},
		{"garbage for a manifest", func(t *testing.T, f *fixture, m, o *testkit.Stored) { m.Head.Manifest = []byte("x") }, vault.ErrManifest},
		{"signature out of nowhere", func(t *testing.T, f *fixture, m, o *testkit.Stored) { m.Head.Sig = make([]byte, 64) }, vault.ErrSigned},
		{"account key out of nowhere", func(t *testing.T, f *fixture, m, o *testkit.Stored) { m.Head.Key = make([]byte, 44) }, vault.ErrSigned},
		{"other KEK", func(t *testing.T, f *fixture, m, o *testkit.Stored) { m.Head.KEK = kek + "0" }, vault.ErrKEK},
		{"no wrapped key", func(t *testing.T, f *fixture, m, o *testkit.Stored) { m.Head.Wrapped = nil }, vault.ErrHead},
		{"wrapped key too long", func(t *testing.T, f *fixture, m, o *testkit.Stored) { m.Head.Wrapped = make([]byte, wire.MaxWrapped+1) }, vault.ErrHead},
		{"other function's key", func(t *testing.T, f *fixture, m, o *testkit.Stored) { m.Head.Wrapped = o.Head.Wrapped }, vault.ErrWrapped},
		{"other function's body", func(t *testing.T, f *fixture, m, o *testkit.Stored) { m.Body = o.Body }, vault.ErrDamaged},
		{"bit flipped", func(t *testing.T, f *fixture, m, o *testkit.Stored) { m.Body[sealed+3] ^= 1 }, vault.ErrDamaged},
		{"chunks reordered", func(t *testing.T, f *fixture, m, o *testkit.Stored) {
			m.Body = slices.Concat(m.Body[sealed:2*sealed], m.Body[:sealed], m.Body[2*sealed:])
		}, vault.ErrDamaged},
		{"chunk left out", func(t *testing.T, f *fixture, m, o *testkit.Stored) { m.Body = slices.Delete(m.Body, 0, sealed) }, vault.ErrDamaged},
		{"chunk doubled", func(t *testing.T, f *fixture, m, o *testkit.Stored) { m.Body = slices.Concat(m.Body[:sealed], m.Body) }, vault.ErrDamaged},
		{"cut between chunks", func(t *testing.T, f *fixture, m, o *testkit.Stored) { m.Body = m.Body[:2*sealed] }, vault.ErrTruncated},
		{"cut within a chunk", func(t *testing.T, f *fixture, m, o *testkit.Stored) { m.Body = m.Body[:2*sealed+100] }, vault.ErrDamaged},
		{"no body", func(t *testing.T, f *fixture, m, o *testkit.Stored) { m.Body = nil }, vault.ErrTruncated},
		{"bytes after the end", func(t *testing.T, f *fixture, m, o *testkit.Stored) { m.Body = append(m.Body, 0) }, vault.ErrDamaged},
		{"deleted", func(t *testing.T, f *fixture, m, o *testkit.Stored) { delete(f.host.Functions, m.Head.ID) }, vault.ErrNotFound},
		{"head cut short", func(t *testing.T, f *fixture, m, o *testkit.Stored) { answer(f, []byte{0, 0, 1, 0, 1}) }, vault.ErrHead},
		{"head too long", func(t *testing.T, f *fixture, m, o *testkit.Stored) { answer(f, []byte{0xff, 0, 0, 0}) }, vault.ErrHead},
		{"head of another kind", func(t *testing.T, f *fixture, m, o *testkit.Stored) { answer(f, []byte{0, 0, 0, 1, 0xf6}) }, vault.ErrHead},
		{"redirect", func(t *testing.T, f *fixture, m, o *testkit.Stored) {
			f.host.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/v1/functions/"+m.Head.ID {
					return false
				}
				http.Redirect(w, r, "/v1/functions/"+o.Head.ID, http.StatusFound)
				return true
			}
		}, vault.ErrUnavailable},
		{"host gone", func(t *testing.T, f *fixture, m, o *testkit.Stored) { f.host.Close() }, vault.ErrUnavailable},
		{"KMS gone", func(t *testing.T, f *fixture, m, o *testkit.Stored) { f.keys.Down = true }, vault.ErrUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := setup(t)
			id := f.store(content(t, big), alice(), "echo")
			other := f.store(content(t, big), bob(), "medical")
			tt.lie(t, f, f.host.Functions[id], f.host.Functions[other])
			fn, err := f.load(id)
			if err == nil {
				fn.Release()
			}
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if files := f.leftovers(); len(files) > 0 {
				t.Errorf("left in memory: %v", files)
			}
			if f.host.Functions[other] == nil || errors.Is(err, vault.ErrUnavailable) {
				return
			}
			f.host.Intercept = nil
			next, err := f.load(other)
			if err != nil {
				t.Fatalf("the next function: %v", err)
			}
			next.Release()
		})
	}
}

func answer(f *fixture, data []byte) {
	f.host.Intercept = func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = w.Write(data)
		return true
	}
}

func TestNameOfAnotherFunctionIsRefused(t *testing.T) {
	f := setup(t)
	public := f.store(content(t, 10), alice(), "echo")
	f.host.Newest["bob/medical"] = public
	if _, err := f.vault.ByName(t.Context(), "bob", "medical"); !errors.Is(err, vault.ErrWrongName) {
		t.Errorf("got %v", err)
	}
}

func TestChecksumIsTheManifests(t *testing.T) {
	f := setup(t)
	zip := content(t, 100)
	m := manifest(content(t, 100), alice(), "echo") // of other bytes: as if an enclave had lied
	id := f.storeAs(vault.Deploy{Manifest: encode(t, m), Username: "alice"}, zip)
	if _, err := f.load(id); !errors.Is(err, vault.ErrChecksum) {
		t.Errorf("got %v", err)
	}
}

func TestFunctionsBeyondTheLimitAreRefused(t *testing.T) {
	f := setup(t)
	id := f.store(content(t, int(f.limits.Zip)+1), alice(), "echo")
	if _, err := f.load(id); !errors.Is(err, vault.ErrOversized) {
		t.Errorf("got %v", err)
	}
}

func TestStoreTellsWhatTheHostRefuses(t *testing.T) {
	for _, code := range []string{wire.CodeQuota, wire.CodeTooLarge, wire.CodeUnavailable, "something new"} {
		t.Run(code, func(t *testing.T) {
			f := setup(t)
			f.host.Intercept = func(w http.ResponseWriter, _ *http.Request) bool { testkit.Refuse(w, code); return true }
			zip := content(t, 3<<20) // asks before it sends
			_, err := f.vault.Store(t.Context(), vault.Deploy{Manifest: encode(t, manifest(zip, alice(), "echo"))}, bytes.NewReader(zip), int64(len(zip)))
			var host *vault.HostError
			if !errors.As(err, &host) || !errors.Is(err, vault.ErrUnavailable) {
				t.Fatalf("got %v", err)
			}
			if want := code; want != "something new" && host.Code != want {
				t.Errorf("code %q, want %q", host.Code, want)
			}
		})
	}
}

func TestStoreReadsNothingAfterItReturned(t *testing.T) {
	f := setup(t)
	f.host.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		_, _ = io.CopyN(io.Discard, r.Body, 1000) // takes some of it and refuses
		testkit.Refuse(w, wire.CodeQuota)
		return true
	}
	zip := content(t, 4<<20)
	src := &watched{Reader: bytes.NewReader(zip)}
	_, err := f.vault.Store(t.Context(), vault.Deploy{Manifest: encode(t, manifest(zip, alice(), "echo"))}, src, int64(len(zip)))
	src.mu.Lock()
	src.over = true
	src.mu.Unlock()
	if err == nil {
		t.Fatal("stored")
	}
	time.Sleep(20 * time.Millisecond)
	src.mu.Lock()
	defer src.mu.Unlock()
	if src.late {
		t.Error("read after Store returned: the memory may be gone by then")
	}
}

type watched struct {
	io.Reader
	mu         sync.Mutex
	over, late bool
}

func (w *watched) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late = w.late || w.over
	return w.Reader.Read(p)
}

func TestUnpackErrorsReachTheCaller(t *testing.T) {
	f := setup(t, func(c *vault.Config) {
		c.Unpack = func(context.Context, io.ReaderAt, int64, string, func(int64) error) (*intake.Layout, error) {
			return nil, intake.ErrInvalid
		}
	})
	id := f.store(content(t, 10), alice(), "echo")
	if _, err := f.load(id); !errors.Is(err, intake.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}
