package cli_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cape-functions/cape/client/internal/cli"
	"github.com/cape-functions/cape/client/internal/login"
	"github.com/cape-functions/cape/client/testkit"
	"github.com/cape-functions/cape/core/attest/nitro"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
	sealkit "github.com/cape-functions/cape/core/seal/testkit"
	"github.com/cape-functions/cape/core/wire"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cape": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		os.Exit(cli.Run(ctx, cli.IO{Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
			Getenv: os.LookupEnv, Home: os.Getenv("HOME"), Now: time.Now,
			Terminal: func(any) bool { return os.Getenv("ON_A_TERMINAL") != "" }}))
	}})
}

// TestScripts runs what people could have typed, each against a platform of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata",
		Setup: setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"lie": lie, "login": logIn, "function": addFunction, "trusted": trusted, "same": same, "upgrade": upgrade,
			"background-interrupt": interrupt, "sealed": sealed, "account": accountOf, "redeploy": redeploy,
		},
		RequireUniqueNames:  true,
		RequireExplicitExec: false,
	})
}

type serverKey struct{}

type scriptT struct{ *testscript.Env }

func (s scriptT) Fatal(v ...any)   { s.T().Fatal(v...) }
func (s scriptT) Cleanup(f func()) { s.Defer(f) }

func setup(env *testscript.Env) error {
	s := testkit.New(scriptT{env})
	env.Values[serverKey{}] = s
	root := filepath.Join(env.WorkDir, "root.pem")
	for name, value := range map[string]string{
		"HOME": filepath.Join(env.WorkDir, "home"), "XDG_DATA_HOME": filepath.Join(env.WorkDir, "data"), "SERVER": s.URL,
		"CAPE_ENCLAVE_HOST": s.URL, "CAPE_ROOT_CERT": root, "CAPE_LOCAL_CONFIG_DIR": filepath.Join(env.WorkDir, "config"),
		"PCR0": s.PCRs[0].String(), "PCR8": s.PCRs[8].String(), "PCR0_UPPER": strings.ToUpper(s.PCRs[0].String()), "OTHER_PCR": attestkit.PCR(9).String(),
		"ZEROS": strings.Repeat("0", 64), "TOKEN": testkit.Token("ann"), "TOKEN_BOB": testkit.Token("bob"), "PAT": testkit.AccessToken("ann"),
		"KEY_POLICY": hex.EncodeToString(s.KeyPolicy[:]), "TZ": "UTC", "CAPE_PROTOCOL": "v1",
	} {
		env.Setenv(name, value)
	}
	if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Authority.Root}), 0o600); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(env.WorkDir, "home"), 0o700); err != nil {
		return err
	}
	return writeAuth(filepath.Join(env.WorkDir, "config"), testkit.Token("ann"), testkit.IDToken("ann"))
}

func writeAuth(dir, token, id string) error {
	data, err := json.Marshal(login.Auth{AccessToken: token, IDToken: id, TokenType: "Bearer"})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "auth"), data, 0o600)
}

func server(ts *testscript.TestScript) *testkit.Server {
	return ts.Value(serverKey{}).(*testkit.Server)
}

// login USER | login USER expired: stores a login.
func logIn(ts *testscript.TestScript, _ bool, args []string) {
	token := testkit.Token(args[0])
	if len(args) > 1 {
		token = testkit.TokenUntil(args[0], time.Unix(1, 0))
	}
	ts.Check(writeAuth(ts.Getenv("CAPE_LOCAL_CONFIG_DIR"), token, testkit.IDToken(args[0])))
}

// function USER/NAME TEXT: a function whose source is the text; its id goes to $ID and
// its checksum to $SUM.
func addFunction(ts *testscript.TestScript, _ bool, args []string) {
	user, name, _ := strings.Cut(args[0], "/")
	handler := testkit.Echo
	switch args[1] {
	case "upper":
		handler = func(in []byte) ([]byte, error) { return []byte(strings.ToUpper(string(in))), nil }
	case "binary":
		handler = func([]byte) ([]byte, error) { return []byte{0xff, 0, 'a'}, nil }
	case "escape":
		handler = func([]byte) ([]byte, error) { return nil, errEscape }
	}
	f := server(ts).Add(testkit.Function{User: user, Name: name, Zip: []byte(args[1]), Handler: handler, Public: len(args) > 2, Seq: 1, Logs: "noise\n"})
	sum := sha256.Sum256(f.Zip)
	ts.Setenv("ID", f.ID)
	ts.Setenv("SUM", hex.EncodeToString(sum[:]))
}

type escapeError struct{}

func (escapeError) Error() string { return "ValueError: \x1b]0;title\x07" }

var errEscape = escapeError{}

// trusted writes the server's entry, as caped dev does.
func trusted(ts *testscript.TestScript, _ bool, _ []string) {
	s := server(ts)
	sum := sha256.Sum256(s.Authority.Root)
	e := &wire.TrustOrigin{Root: hex.EncodeToString(sum[:]), RootDER: s.Authority.Root, Development: true, PCRs: map[string][]string{},
		KeyPolicy: hex.EncodeToString(s.KeyPolicy[:]), Added: "2026-01-02T03:04:05Z"}
	for _, i := range []int{0, 1, 2, 8, 16} {
		e.PCRs[strconv.Itoa(i)] = []string{s.PCRs[i].String()}
	}
	data, err := json.Marshal(wire.TrustFile{Version: 1, Origins: map[string]*wire.TrustOrigin{s.URL: e}})
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(ts.Getenv("CAPE_LOCAL_CONFIG_DIR"), "trust.json"), data, 0o600))
}

// upgrade changes the enclave's image.
func upgrade(ts *testscript.TestScript, _ bool, _ []string) {
	s := server(ts)
	s.PCRs[0], s.PCRs[2] = attestkit.PCR(20), attestkit.PCR(22)
	ts.Setenv("NEW_PCR0", s.PCRs[0].String())
	ts.Setenv("NEW_PCR2", s.PCRs[2].String())
}

// lie WHAT: the server is not honest any more.
func lie(ts *testscript.TestScript, _ bool, args []string) {
	lies := map[string]func(*testkit.Lies){
		"nonce": func(l *testkit.Lies) { l.Document = func(_ string, d *nitro.Document) { d.Nonce = make([]byte, 24) } },
		"root":  func(l *testkit.Lies) { l.Authority = attestkit.NewAuthority("stranger", time.Now()) },
		"debug": func(l *testkit.Lies) { l.Document = func(_ string, d *nitro.Document) { d.PCRs[0] = nitro.PCR{} } },
		"policy": func(l *testkit.Lies) {
			l.UserData = func(_ string, u *wire.UserDataV1) { u.KeyChecksum = make([]byte, 32) }
		},
		"code": func(l *testkit.Lies) {
			l.UserData = func(_ string, u *wire.UserDataV1) { u.FuncChecksum = make([]byte, 32) }
		},
		"output":    func(l *testkit.Lies) { l.Result = func(r *wire.ResultV1) { r.Message = []byte("other") } },
		"signature": func(l *testkit.Lies) { l.Result = func(r *wire.ResultV1) { r.SignedChecksums = nil } },
		"no-key":    func(l *testkit.Lies) { l.UserData = func(_ string, u *wire.UserDataV1) { u.SignatureKey = nil } },
		"hang":      func(l *testkit.Lies) { l.Hang = true },
		"nothing":   func(l *testkit.Lies) { *l = testkit.Lies{} },

		"no-subprotocol": func(l *testkit.Lies) { l.NoSubprotocol = true },
		"weaker": func(l *testkit.Lies) {
			l.Sealed.Hello = func(b []byte) []byte {
				h, err := wire.ParseHello(b)
				ts.Check(err)
				h.KEMs = []wire.KEM{wire.KEMX25519}
				b, err = h.Encode()
				ts.Check(err)
				return b
			}
		},
		"issuer": func(l *testkit.Lies) {
			config := sealkit.DefaultConfig()
			config.Trust.Issuers[0].Iss = "https://evil.example"
			l.Sealed.Config = sealkit.NewEnclaveFor(time.Now(), config).Config
		},
		"output-record": func(l *testkit.Lies) {
			l.Sealed.Result = func(r *wire.Result) { r.Checksums.Output = make([]byte, 32) }
		},
	}
	if lies[args[0]] == nil {
		ts.Fatalf("unknown lie %q", args[0])
	}
	server(ts).Lie(lies["nothing"])
	server(ts).Lie(lies[args[0]])
}

// sealed: from here on cape speaks what it speaks by default, and ann has her account key.
func sealed(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Setenv("CAPE_PROTOCOL", "")
	s := server(ts)
	ts.Setenv("ACCOUNT", s.Account("ann").ID().String())
	ts.Setenv("ACCOUNT_BOB", s.Account("bob").ID().String())
	accountOf(ts, false, []string{"ann"})
}

// account USER: puts the user's account key into the configuration.
func accountOf(ts *testscript.TestScript, _ bool, args []string) {
	file, err := server(ts).Account(args[0]).Encode()
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(ts.Getenv("CAPE_LOCAL_CONFIG_DIR"), "account-key"), file.Reveal(), 0o600))
}

// redeploy USER/NAME TEXT SEQ [by OTHER]: the name means that version from here on, signed by
// another account if one is named.
func redeploy(ts *testscript.TestScript, _ bool, args []string) {
	user, name, _ := strings.Cut(args[0], "/")
	seq, err := strconv.ParseUint(args[2], 10, 64)
	ts.Check(err)
	f := testkit.Function{User: user, Name: name, Zip: []byte(args[1]), Seq: seq, Public: true, Unsigned: len(args) == 4}
	if len(args) > 4 {
		signer := server(ts).Account(args[4])
		id, public := signer.ID(), signer.Public()
		m := server(ts).ManifestOf(f)
		m.Acct, f.Key = id[:], public[:]
		f.Manifest, f.Sig, err = signer.SignManifest(&m)
		ts.Check(err)
	}
	server(ts).Add(f)
}

// same FILE1 FILE2: whether both hold the same, byte for byte.
func same(ts *testscript.TestScript, neg bool, args []string) {
	if (ts.ReadFile(args[0]) == ts.ReadFile(args[1])) == neg {
		ts.Fatalf("%s and %s: same is %t", args[0], args[1], neg)
	}
}

// background-interrupt COMMAND…: starts it, interrupts it after a moment, and fails
// unless it ends within a second with status 130.
func interrupt(ts *testscript.TestScript, _ bool, args []string) {
	cmd := execCommand(ts, args)
	ts.Check(cmd.Start())
	time.Sleep(700 * time.Millisecond)
	begin := time.Now()
	ts.Check(cmd.Process.Signal(os.Interrupt))
	err := cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		ts.Fatalf("exit status %d (%v), want 130", code, err)
	}
	if took := time.Since(begin); took > 1500*time.Millisecond {
		ts.Fatalf("it took %v to end", took)
	}
}
