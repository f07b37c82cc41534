package vault_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"testing"

	"github.com/cape-functions/cape/enclave/internal/intake"
	"github.com/cape-functions/cape/enclave/internal/vault"
)

func TestOneUnpackingServesAll(t *testing.T) {
	f := setup(t)
	id := f.store(content(t, 1<<20), alice(), "echo")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			fn, err := f.load(id)
			if err != nil {
				t.Error(err)
				return
			}
			fn.Release()
		})
	}
	wg.Wait()
	if n := len(f.unpacks); n != 1 {
		t.Errorf("unpacked %d times", n)
	}
	if n := f.keys.Opens(); n != 1 {
		t.Errorf("unwrapped %d times", n)
	}
}

func TestDeletedFunctionsAreGoneThoughTheyAreKept(t *testing.T) {
	f := setup(t)
	id := f.store(content(t, 100), alice(), "echo")
	fn, err := f.load(id)
	if err != nil {
		t.Fatal(err)
	}
	fn.Release()
	delete(f.host.Functions, id)
	if _, err := f.load(id); !errors.Is(err, vault.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestUnusedMakesRoomAndUsedStays(t *testing.T) {
	f := setup(t, func(c *vault.Config) { c.Limits.Cache = 250 })
	get := func(id string) *vault.Function {
		t.Helper()
		fn, err := f.load(id)
		if err != nil {
			t.Fatal(err)
		}
		return fn
	}
	ids := []string{}
	for range 4 {
		ids = append(ids, f.store(content(t, 100), alice(), "echo"))
	}
	used := get(ids[0])
	get(ids[1]).Release()
	get(ids[2]).Release() // 1 has to go
	if n := len(f.leftovers()); n != 2 {
		t.Fatalf("%d trees, want 2", n)
	}
	if _, err := os.Stat(used.Dir); err != nil {
		t.Fatal("a tree in use was removed")
	}
	get(ids[2]).Release()
	if n := len(f.unpacks); n != 3 {
		t.Errorf("unpacked %d times, want 3", n)
	}
	second := get(ids[2])
	if _, err := f.load(ids[3]); !errors.Is(err, vault.ErrNoRoom) {
		t.Errorf("with all in use: %v", err)
	}
	used.Release()
	get(ids[3]).Release()
	second.Release()
}

// TestHeldGivesWay: what is held for later is let go of one by one when there is no room, and no more of it than is needed.
func TestHeldGivesWay(t *testing.T) {
	var held []func()
	f := setup(t, func(c *vault.Config) {
		c.Limits.Cache = 350
		c.Yield = func() bool {
			if len(held) == 0 {
				return false
			}
			held[0]()
			held = held[1:]
			return true
		}
	})
	for range 3 {
		fn, err := f.load(f.store(content(t, 100), alice(), "echo"))
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, fn.Hold())
		fn.Release()
	}
	fn, err := f.load(f.store(content(t, 100), alice(), "echo"))
	if err != nil || len(held) != 2 {
		t.Fatalf("%v, and %d are still held", err, len(held))
	}
	fn.Release()
}

func TestTemporaryFunctionsGoWithTheirUser(t *testing.T) {
	f := setup(t, func(c *vault.Config) { c.Limits.Cache = 250 })
	zip := content(t, 200)
	fn, err := f.vault.Temporary(t.Context(), bytes.NewReader(zip), 200)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.vault.Temporary(t.Context(), bytes.NewReader(zip), 200); !errors.Is(err, vault.ErrNoRoom) {
		t.Errorf("beyond the cache: %v", err)
	}
	fn.Release()
	if files := f.leftovers(); len(files) > 0 {
		t.Errorf("left: %v", files)
	}
	again, err := f.vault.Temporary(t.Context(), bytes.NewReader(zip), 200)
	if err != nil {
		t.Fatal(err)
	}
	again.Release()
}

// TestLeavingEndsTheLoad: the last who waits takes the load with them, and whoever comes
// then begins anew.
func TestLeavingEndsTheLoad(t *testing.T) {
	started, ended := make(chan struct{}, 10), make(chan struct{}, 10)
	block := true
	var mu sync.Mutex
	f := setup(t, func(c *vault.Config) {
		c.Unpack = func(ctx context.Context, zip io.ReaderAt, size int64, dir string) (*intake.Layout, error) {
			mu.Lock()
			wait := block
			mu.Unlock()
			if wait {
				started <- struct{}{}
				<-ctx.Done()
				ended <- struct{}{}
				return nil, ctx.Err()
			}
			return unpackWhole(ctx, zip, size, dir)
		}
	})
	id := f.store(content(t, 10), alice(), "echo")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		r, err := f.vault.ByID(ctx, id)
		if err == nil {
			_, err = f.vault.Load(ctx, r)
		}
		done <- err
	}()
	<-started
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-ended
	mu.Lock()
	block = false
	mu.Unlock()
	fn, err := f.load(id)
	if err != nil {
		t.Fatal(err)
	}
	fn.Release()
}

// TestLeavingEndsTheDownload: a host that serves half and then nothing holds nobody.
func TestLeavingEndsTheDownload(t *testing.T) {
	f := setup(t)
	id := f.store(content(t, 1<<20), alice(), "echo")
	whole := f.host.Functions[id].Body
	f.host.Functions[id].Body = nil
	f.host.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		f.host.Intercept = nil
		f.host.ServeHTTP(w, r)
		_, _ = w.Write(whole[:1000])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, err := f.vault.ByID(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := f.vault.Load(ctx, r); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
