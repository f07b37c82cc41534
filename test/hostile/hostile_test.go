package hostile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/test/platform"
)

func TestMain(m *testing.M) { platform.Main(m, "../..") }

// TestBattery runs all attacks against one platform, one kind after the other.
func TestBattery(t *testing.T) { battery(t, enter(t)) }

// TestBatteryInMachine is the same where the runtime is the first process of a virtual machine. An emulated one takes
// a quarter of an hour.
func TestBatteryInMachine(t *testing.T) {
	if !platform.InMachines() {
		t.Skip("takes long: make test-machine runs it")
	}
	battery(t, enter(t, platform.InMachine(t, "../..")...))
}

func battery(t *testing.T, a *arena) {
	for _, kind := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"system calls", a.systemCalls},
		{"sockets", a.sockets},
		{"files", a.files},
		{"neighbours", a.neighbours},
		{"processes", a.processes},
		{"fake answers", a.fakeAnswers},
		{"hangs", a.hangs},
		{"resources", a.resources},
		{"time of one call", a.timeOfOneCall},
		{"handshakes", a.handshakes},
		{"sessions", a.sessions},
		{"requests of functions", a.requests},
		{"carrying over", a.nothingCarriesOver},
		{"waiting", a.waiting},
		{"at once", a.atOnce},
	} {
		t.Run(kind.name, func(t *testing.T) {
			kind.run(t)
			a.checkHonest(t)
			a.checkRemains(t, 8)
		})
	}
}

// arena is a platform with the attacker, a neighbour of the same kind, and an honest
// function on it.
type arena struct {
	*platform.Platform
	client    *client.Client
	attacker  client.Function
	neighbour client.Function
	eve       *client.Client  // another user's
	anybody   client.Function // an attacker whom everybody may call
	honest    client.Function
	mark      string // the name that hostile processes have
	baseline  remains
	missing   map[string]bool // layers that the machine does not have
	machine   bool            // the runtime is in a virtual machine, where nobody can look for remains
}

// patience is how long something may take that takes d at most outside a machine: an emulated one is slower by an order of
// magnitude.
func (a *arena) patience(d time.Duration) time.Duration {
	if a.machine {
		return 10 * d
	}
	return d
}

func enter(t *testing.T, flags ...string) *arena {
	t.Helper()
	p := platform.Start(t, t.TempDir(), flags...)
	a := &arena{Platform: p, machine: len(flags) > 0, client: sdk(t, p), mark: fmt.Sprintf("hst%d", os.Getpid())}
	a.attacker = client.Function{Name: p.Deploy("functions/attacks")}
	a.honest = client.Function{Name: p.Deploy("functions/honest")}
	a.neighbour = client.Function{Name: p.Deploy(copied(t, "functions/attacks", "neighbour"), "--name", "neighbour")}
	a.anybody = client.Function{Name: p.Deploy(copied(t, "functions/attacks", "anybody"), "--name", "anybody", "--public")}
	a.eve = user(t, p, p.Mint(func(claims map[string]any) {
		claims["sub"], claims[platform.UsernameClaim] = "eve", "eve"
	}), nil)
	a.missing = missing(p.Log.String())
	a.checkHonest(t)
	a.baseline = a.settled(t, func(remains) bool { return true })
	return a
}

// copied is a function with other content, so that it is another function.
func copied(t *testing.T, from, secret string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "neighbour")
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret.txt"), []byte(secret+canary), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// canary is the neighbour's secret, which no other function may find.
const canary = "f1b6c7e3-neighbours-secret"

// sdk is the user dev's client, as trusting as the command line is.
func sdk(t *testing.T, p *platform.Platform) *client.Client {
	t.Helper()
	pem, err := os.ReadFile(filepath.Join(p.Dir, "config", "account-key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := account.Parse(pem)
	if err != nil {
		t.Fatal(err)
	}
	return user(t, p, p.Token(), key)
}

func user(t *testing.T, p *platform.Platform, token string, key *account.Key) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{BaseURL: p.URL, Token: client.StaticToken(token), Account: key,
		Trust: &trust.Keeper{Store: trust.NewStore(filepath.Join(p.Dir, "config", "trust.json"))}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// missing are the layers that the runtime said it goes without.
func missing(log string) map[string]bool {
	found := map[string]bool{}
	for line := range strings.Lines(log) {
		if _, layer, ok := strings.Cut(line, "layer="); ok {
			found[strings.TrimSpace(layer)] = true
		}
	}
	return found
}

func (a *arena) checkHonest(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	input := []byte(time.Now().String())
	r, err := a.client.Run(ctx, a.honest, input)
	if err != nil {
		t.Fatalf("an honest run after it failed: %v", err)
	}
	if want := sha256.Sum256(input); string(r.Output) != hex.EncodeToString(want[:]) {
		t.Fatalf("an honest run after it gave %q", r.Output)
	}
}

// order is an attack as the function reads it.
func (a *arena) order(name string, args map[string]string) []byte {
	b, err := json.Marshal(map[string]any{"attack": name, "mark": a.mark, "args": args})
	if err != nil { // maps of strings always encode
		panic(err)
	}
	return b
}

// Ends of an attack, beside what it says.
const (
	failed   = "failed"  // the process was ended, or the handler raised an exception
	timedOut = "timeout" // the time of one call was over
	noMemory = "memory"
	tooLarge = "too large"
)

// outcome is what came of an attack, in one word.
func outcome(r *client.Result, err error) string {
	var remote *client.RemoteError
	switch {
	case err == nil:
		return string(r.Output)
	case errors.As(err, &remote):
		switch remote.Code {
		case wire.CodeFunctionError:
			return failed
		case wire.CodeTimeout:
			return timedOut
		case wire.CodeOutOfMemory:
			return noMemory
		case wire.CodeTooLarge:
			return tooLarge
		}
	}
	return err.Error()
}

// attack is one case: what is tried, why it must fail, and what may come of it.
type attack struct {
	name  string
	args  map[string]string
	why   string
	want  []string
	layer string // a layer without which the attack is not stopped; "" if nothing can be missing
}

// try runs an attack in a connection of its own, then an honest function, then looks for
// what is left.
func (a *arena) try(t *testing.T, at attack) {
	t.Helper()
	if at.layer != "" && a.missing[at.layer] {
		t.Logf("left out: this machine has no %s", at.layer)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	got := outcome(a.client.Run(ctx, a.attacker, a.order(at.name, at.args)))
	if !slices.Contains(at.want, got) {
		t.Errorf("got %q, want one of %q: %s", got, at.want, at.why)
	}
	if !a.machine { // there it is slow: the honest run comes after each kind of attack
		a.checkHonest(t)
		a.checkMark(t)
	}
}
