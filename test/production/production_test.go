package production

import (
	"encoding/json"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/test/platform"
)

// born starts a control plane and has the platform's key made.
func (w *world) born() (serve *process, clients, workers string) {
	w.t.Helper()
	serve, clients, workers = w.serve()
	if arn := w.init(workers); !strings.HasPrefix(arn, "arn:aws:kms:") {
		w.t.Fatalf("kms init printed %q", arn)
	}
	return serve, clients, workers
}

func (w *world) init(workers string) string {
	w.t.Helper()
	p := w.start(append([]string{"kms", "init"}, w.workerArgs(workers)...)...)
	return p.line()
}

func (w *world) deploy(url, name, source string) string {
	w.t.Helper()
	var d struct {
		ID string `json:"function_id"`
	}
	out := w.must(url, "bob", "deploy", platform.Function(w.t, name, platform.App(source)), "--token", w.token("bob"), "--trust-first-use", "-o", "json")
	if err := json.Unmarshal([]byte(out), &d); err != nil || d.ID == "" {
		w.t.Fatalf("deploy printed %q: %v", out, err)
	}
	return d.ID
}

// TestAPlatformInProduction is one platform's life: its key is made, functions are
// deployed and run, the worker drains under a session, all is stopped and started.
func TestAPlatformInProduction(t *testing.T) {
	w := newWorld(t)
	serve, clients, workers := w.born()
	if got := status(t, clients+"/readyz"); got != http.StatusServiceUnavailable {
		t.Errorf("/readyz without a worker: %d", got)
	}
	if p := w.start(append([]string{"kms", "init"}, w.workerArgs(workers)...)...); p.end() == nil || !strings.Contains(p.log.String(), "already") {
		t.Errorf("a second key was made:\n%s", p.log)
	}
	worker := w.worker(workers, "--enclaves", "2")
	worker.line()
	eventually(t, "the control plane does not see the worker", func() bool { return status(t, clients+"/readyz") == http.StatusOK })
	w.releases(clients)
	id := w.deploy(clients, "echo", "def cape_handler(d): return d\n")
	slow := w.deploy(clients, "slow", "import time\ndef cape_handler(d):\n    time.sleep(4)\n    return d\n")
	if got := w.must(clients, "bob", "run", id, "hello", "--token", w.token("bob")); got != "hello\n" {
		t.Errorf("%q", got)
	}
	if list := w.must(clients, "bob", "list", "--token", w.token("bob")); !strings.Contains(list, "echo") {
		t.Errorf("list: %s", list)
	}
	for name, token := range map[string]string{"another user": w.token("eve"), "a forged token": w.token("bob") + "x"} {
		if r := w.cape(clients, "eve", "run", id, "x", "--token", token, "--trust-first-use"); r.Code != 1 || r.Out != "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	w.drain(clients, worker, slow)
	if err := stop(serve); err != nil {
		t.Fatalf("%v\n%s", err, serve.log)
	}
	w.anotherRole()

	_, clients, workers = w.serve()
	w.worker(workers).line()
	eventually(t, "it does not serve again", func() bool { return status(t, clients+"/readyz") == http.StatusOK })
	if r := w.cape(clients, "bob", "run", id, "again", "--token", w.token("bob"), "--trust-first-use"); r.Code != 0 || r.Out != "again\n" {
		t.Errorf("%+v", r)
	}
	for _, p := range []*process{serve, worker} {
		if strings.Contains(p.log.String(), "0123456789abcdef0123456789abcdef") || strings.Contains(p.log.String(), "eyJ") {
			t.Error("a token was logged")
		}
	}
}

func stop(p *process) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return p.end()
}

func (w *world) releases(clients string) {
	w.t.Helper()
	resp, err := http.Get(clients + "/v1/releases")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var all []wire.Release
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil || len(all) != 1 || len(all[0].Measurements["PCR0"]) != 96 {
		w.t.Errorf("two enclaves of one image: %+v, %v", all, err)
	}
}

// drain stops a worker that carries a session.
func (w *world) drain(clients string, worker *process, slow string) {
	w.t.Helper()
	ended := make(chan platform.Result, 1)
	token := w.token("bob")
	go func() { ended <- w.cape(clients, "bob", "run", slow, "slowly", "--token", token) }()
	time.Sleep(2 * time.Second)
	if err := worker.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, "the control plane still gives out the worker", func() bool { return status(w.t, clients+"/readyz") == http.StatusServiceUnavailable })
	if r := w.cape(clients, "bob", "run", slow, "late", "--token", token); r.Code != 1 {
		w.t.Errorf("a session began on a worker that is being stopped: %+v", r)
	}
	if r := <-ended; r.Code != 0 || r.Out != "slowly\n" {
		w.t.Errorf("the running session: %+v\n%s", r, worker.log)
	}
	if err := worker.end(); err != nil {
		w.t.Errorf("%v\n%s", err, worker.log)
	}
}

// anotherRole starts a control plane whose trust is not that of the key.
func (w *world) anotherRole() {
	w.t.Helper()
	p := w.start("serve", "--listen", "127.0.0.1:0", "--worker-listen", "127.0.0.1:0", "--database", "sqlite://"+w.path("cape.db"), "--blobs", "file://"+w.path("blobs"),
		"--issuer", w.issuer.URL, "--role", "arn:aws:iam::000000000000:role/another", "--worker-token", w.path("worker-token"))
	if p.end() == nil || !strings.Contains(p.log.String(), "another issuer or role") {
		w.t.Errorf("it serves with a trust that the key was not made for:\n%s", p.log)
	}
}
