package vault_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/wire"
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
	for _, owner := range []wire.Subject{alice(), bob(), bob(), alice()} {
		ids = append(ids, f.store(content(t, 100), owner, "echo"))
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
	for i := range 3 {
		fn, err := f.load(f.store(content(t, 100), wire.Subject{Iss: "cape-dev-1", Sub: strconv.Itoa(i)}, "echo"))
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
	fn, err := f.vault.Temporary(t.Context(), alice(), f.turn(alice()), bytes.NewReader(zip), 200)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.vault.Temporary(t.Context(), alice(), f.turn(alice()), bytes.NewReader(zip), 200); !errors.Is(err, vault.ErrNoRoom) {
		t.Errorf("beyond the cache: %v", err)
	}
	fn.Release()
	if files := f.leftovers(); len(files) > 0 {
		t.Errorf("left: %v", files)
	}
	again, err := f.vault.Temporary(t.Context(), alice(), f.turn(alice()), bytes.NewReader(zip), 200)
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
		c.Unpack = func(ctx context.Context, zip io.ReaderAt, size int64, dir string, admit func(int64) error) (*intake.Layout, error) {
			mu.Lock()
			wait := block
			mu.Unlock()
			if wait {
				started <- struct{}{}
				<-ctx.Done()
				ended <- struct{}{}
				return nil, ctx.Err()
			}
			return unpackWhole(ctx, zip, size, dir, admit)
		}
	})
	id := f.store(content(t, 10), alice(), "echo")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		r, err := f.vault.ByID(ctx, id)
		if err == nil {
			_, err = f.vault.Load(ctx, r, make(vault.Turn, 1))
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
	if _, err := f.vault.Load(ctx, r, make(vault.Turn, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestOwnersLeaveRoom: what one owner's sessions keep in use is no more than what is left for others.
func TestOwnersLeaveRoom(t *testing.T) {
	f := setup(t, func(c *vault.Config) { c.Limits.Cache = 450 })
	load := func(owner wire.Subject) (*vault.Function, error) {
		return f.load(f.store(content(t, 100), owner, "echo"))
	}
	var ids []string
	for range 3 {
		id := f.store(content(t, 100), alice(), "echo")
		ids = append(ids, id)
		fn, err := f.load(id)
		if err != nil {
			t.Fatal(err)
		}
		fn.Release()
	}
	var used []*vault.Function
	for _, id := range ids {
		fn, err := f.load(id)
		if err == nil {
			used = append(used, fn)
		} else if !errors.Is(err, vault.ErrNoRoom) {
			t.Fatal(err)
		}
	}
	if len(used) != 2 {
		t.Fatalf("alice uses %d functions at once, want 2 of 4", len(used))
	}
	if _, err := load(alice()); !errors.Is(err, vault.ErrNoRoom) {
		t.Errorf("a new one of alice's: %v", err)
	}
	if _, err := f.vault.Temporary(t.Context(), alice(), f.turn(alice()), bytes.NewReader(content(t, 100)), 100); !errors.Is(err, vault.ErrNoRoom) {
		t.Errorf("one that alice tests: %v", err)
	}
	bobs, err := load(bob())
	if err != nil {
		t.Fatalf("bob: %v", err)
	}
	bobs.Release()
	used[0].Release()
	again, err := f.load(ids[2])
	if err != nil {
		t.Fatalf("alice, with one less: %v", err)
	}
	again.Release()
	used[1].Release()
}

// TestRoomIsThereFirst: nothing of what has no room is written.
func TestRoomIsThereFirst(t *testing.T) {
	f := setup(t, func(c *vault.Config) { c.Limits.Cache = 150 })
	held, err := f.load(f.store(content(t, 100), alice(), "echo"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	before := len(f.leftovers())
	if _, err := f.load(f.store(content(t, 100), bob(), "echo")); !errors.Is(err, vault.ErrNoRoom) {
		t.Errorf("got %v", err)
	}
	if n := len(f.leftovers()); n != before {
		t.Errorf("%d folders, at the beginning %d", n, before)
	}
}

// TestCallersTakeTurns: the functions that are unpacked for one caller leave a place for another's.
func TestCallersTakeTurns(t *testing.T) {
	stuck, free := make(chan struct{}, 10), make(chan struct{})
	f := setup(t, func(c *vault.Config) {
		c.Unpack = func(ctx context.Context, zip io.ReaderAt, size int64, dir string, admit func(int64) error) (*intake.Layout, error) {
			if size == 11 { // alice's
				stuck <- struct{}{}
				<-free
			}
			return unpackWhole(ctx, zip, size, dir, admit)
		}
	})
	done := make(chan error, 4)
	for range 4 {
		id := f.store(content(t, 11), alice(), "echo")
		go func() {
			_, err := f.load(id)
			done <- err
		}()
	}
	<-stuck
	if _, err := f.load(f.store(content(t, 10), bob(), "echo")); err != nil {
		t.Fatal(err)
	}
	if n := len(stuck); n != 0 {
		t.Errorf("%d more of alice's are unpacked at once", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := f.vault.Temporary(ctx, alice(), f.turn(alice()), bytes.NewReader(content(t, 11)), 11); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one that alice tests: %v", err)
	}
	close(free)
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestWhatFailsTakesNoRoom though it was admitted.
func TestWhatFailsTakesNoRoom(t *testing.T) {
	broken := true
	f := setup(t, func(c *vault.Config) {
		c.Limits.Cache = 250
		c.Unpack = func(ctx context.Context, zip io.ReaderAt, size int64, dir string, admit func(int64) error) (*intake.Layout, error) {
			layout, err := unpackWhole(ctx, zip, size, dir, admit)
			if broken && err == nil {
				err = intake.ErrInvalid
			}
			return layout, err
		}
	})
	id := f.store(content(t, 100), alice(), "echo")
	for range 3 {
		if _, err := f.load(id); !errors.Is(err, intake.ErrInvalid) {
			t.Fatalf("got %v", err)
		}
		if _, err := f.vault.Temporary(t.Context(), alice(), f.turn(alice()), bytes.NewReader(content(t, 100)), 100); !errors.Is(err, intake.ErrInvalid) {
			t.Fatalf("got %v", err)
		}
	}
	broken = false
	if fn, err := f.load(id); err != nil {
		t.Error(err)
	} else {
		fn.Release()
	}
}
