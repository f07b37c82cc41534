// Package production tests a platform as it runs in production, out of `caped
// serve`, `caped worker` and `caped kms init`, but for what plays AWS.
package production

import (
	"bufio"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/test/platform"
)

func TestMain(m *testing.M) { platform.Main(m, "../..") }

// kind is of which kind a worker's enclaves are.
func kind(t *testing.T) []string {
	if platform.InMachines() {
		return platform.InMachine(t, "../..")
	}
	return []string{"--enclave", "process"}
}

const roleARN = "arn:aws:iam::000000000000:role/cape-enclave" // whose credentials the played AWS gives

// world is an issuer, and directories and files of a platform.
type world struct {
	t      *testing.T
	dir    string
	run    string // for sockets
	issuer *httptest.Server
	key    *rsa.PrivateKey
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	var err error
	if w.run, err = os.MkdirTemp("", "cape-run-"); err != nil { // names of sockets are short
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(w.run) })
	if w.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(rw http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(rw).Encode(map[string]string{"issuer": w.issuer.URL, "jwks_uri": w.issuer.URL + "/keys"})
	})
	mux.HandleFunc("GET /keys", func(rw http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(rw).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: w.key.Public(), KeyID: "k", Algorithm: "RS256", Use: "sig"}}})
	})
	w.issuer = httptest.NewTLSServer(mux)
	t.Cleanup(w.issuer.Close)
	w.write("issuer.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.issuer.Certificate().Raw})))
	w.write("worker-token", strings.Repeat("0123456789abcdef", 4)+"\n")
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) token(user string) string {
	w.t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: w.key}, (&jose.SignerOptions{}).WithHeader("kid", "k"))
	if err != nil {
		w.t.Fatal(err)
	}
	raw, err := jwt.Signed(s).Claims(map[string]any{"iss": w.issuer.URL, "sub": "id|" + user, "aud": wire.Audience, "jti": "j", "iat": time.Now().Unix(),
		"exp": time.Now().Add(time.Hour).Unix(), wire.ClaimUsername: user}).Serialize()
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

// process is a running caped.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  *platform.Buffer
	done chan error
	said chan string // lines of standard output
}

func (w *world) start(args ...string) *process {
	w.t.Helper()
	p := &process{t: w.t, log: &platform.Buffer{}, done: make(chan error, 1), said: make(chan string, 16)}
	p.cmd = exec.Command(platform.Binary("caped"), args...)
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "SSL_CERT_FILE=" + w.path("issuer.pem")}
	p.cmd.Stderr = p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			p.said <- lines.Text()
		}
		p.done <- p.cmd.Wait()
	}()
	w.t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-p.done:
			p.done <- err
		case <-time.After(20 * time.Second):
			_ = p.cmd.Process.Kill()
			w.t.Errorf("caped %s did not end:\n%s", args[0], p.log)
		}
	})
	return p
}

// line is what the process prints next.
func (p *process) line() string {
	p.t.Helper()
	select {
	case s := <-p.said:
		return s
	case err := <-p.done:
		p.done <- err
		p.t.Fatalf("it ended: %v\n%s", err, p.log)
	case <-time.After(5 * time.Minute): // virtual machines without KVM take their time
		p.t.Fatalf("it said nothing:\n%s", p.log)
	}
	return ""
}

// end waits for the process.
func (p *process) end() error {
	p.t.Helper()
	select {
	case err := <-p.done:
		p.done <- err
		return err
	case <-time.After(60 * time.Second):
		p.t.Fatalf("it did not end:\n%s", p.log)
		return nil
	}
}

// serve starts a control plane and returns the URLs for clients and workers.
func (w *world) serve(more ...string) (p *process, clients, workers string) {
	w.t.Helper()
	p = w.start(append([]string{"serve", "--listen", "127.0.0.1:0", "--worker-listen", "127.0.0.1:0", "--database", "sqlite://" + w.path("cape.db"),
		"--blobs", "file://" + w.path("blobs"), "--issuer", w.issuer.URL, "--role", roleARN, "--worker-token", w.path("worker-token"),
		"--drain-notice", "0s", "--drain", "20s", "-v"}, more...)...)
	fields := strings.Fields(p.line()) // control plane serves clients at A, workers at B
	return p, "http://" + strings.TrimSuffix(fields[5], ","), "http://" + fields[8]
}

// workerArgs are those of a worker, and of kms init, in the played AWS of dir.
func (w *world) workerArgs(workers string) []string {
	return append([]string{"--control-plane", workers, "--worker-token", w.path("worker-token"), "--development", w.path("aws"),
		"--development-ca", w.path("issuer.pem"), "--allow-private", "127.0.0.1", "--run-dir", w.run, "-v"}, kind(w.t)...)
}

func (w *world) worker(workers string, more ...string) *process {
	w.t.Helper()
	args := append([]string{"worker", "--listen", "127.0.0.1:0", "--name", "w1", "--drain", "20s"}, w.workerArgs(workers)...)
	return w.start(append(args, more...)...)
}

// cape runs the command line as a user.
func (w *world) cape(url, user string, args ...string) platform.Result {
	w.t.Helper()
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.path("home-"+user), "CAPE_ENCLAVE_HOST=" + url, "CAPE_AUTH_HOST=" + url,
		"CAPE_ROOT_CERT=" + w.path("aws/authority/root.pem"), "CAPE_LOCAL_CONFIG_DIR=" + w.path("home-"+user)}
	if _, err := os.Stat(w.path("ca.pem")); err == nil {
		env = append(env, "CAPE_CA_CERT="+w.path("ca.pem"))
	}
	cmd := exec.Command(platform.Binary("cape"), args...)
	cmd.Env = env
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // the code tells
	return platform.Result{Out: out.String(), Err: errs.String(), Code: cmd.ProcessState.ExitCode()}
}

func (w *world) must(url, user string, args ...string) string {
	w.t.Helper()
	r := w.cape(url, user, args...)
	if r.Code != 0 {
		w.t.Fatalf("cape %s: exit %d\n%s", strings.Join(args, " "), r.Code, r.Err)
	}
	return r.Out
}

func status(t *testing.T, url string) int {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}
