package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/core/envelope"
)

// warm: an open connection, 1 KiB through echo.
func (b *bench) warm() error {
	p, err := b.platform()
	if err != nil {
		return err
	}
	defer p.stop()
	peer, err := b.peerServer()
	if err != nil {
		return err
	}
	defer peer.stop()
	d, err := p.deploy(b, "echo", map[string]string{"app.py": echoApp})
	if err != nil {
		return err
	}
	body := make([]byte, 1024)
	rand.Read(body)
	session, err := p.client.Connect(b.ctx, client.Function{Name: d.ID})
	if err != nil {
		return err
	}
	defer session.Close()
	one := &http.Client{}
	ours, theirs, err := paired(1500, func() error { return invoke(b, session, body) }, func() error { return peer.call(one, body) })
	if err != nil {
		return err
	}
	b.add("warm invoke, 1 KiB, one client", "ms", "<= 0.5", "protocol v2, receipts verified; peer: FastAPI on uvicorn", ms(ours), ms(theirs))
	return b.warmMany(p, peer, d.ID, body)
}

func invoke(b *bench, s *client.Session, body []byte) error {
	r, err := s.Invoke(b.ctx, body)
	if err == nil && !bytes.Equal(r.Output, body) {
		err = errors.New("echo answered something else")
	}
	return err
}

// warmMany: 16 connections at once, answers per second.
func (b *bench) warmMany(p *platform, peer *peerServer, id string, body []byte) error {
	const clients, calls = 16, 300
	all := func(open func() (func() error, func(), error)) (float64, error) {
		var wg sync.WaitGroup
		errs := make(chan error, clients)
		ready, goOn := make(chan struct{}, clients), make(chan struct{})
		for range clients {
			wg.Go(func() {
				call, done, err := open()
				ready <- struct{}{}
				if err != nil {
					errs <- err
					return
				}
				defer done()
				<-goOn
				for range calls {
					if err := call(); err != nil {
						errs <- err
						return
					}
				}
			})
		}
		for range clients {
			<-ready
		}
		start := time.Now()
		close(goOn)
		wg.Wait()
		elapsed := time.Since(start).Seconds()
		select {
		case err := <-errs:
			return 0, err
		default:
			return clients * calls / elapsed, nil
		}
	}
	ours, err := all(func() (func() error, func(), error) {
		s, err := p.client.Connect(b.ctx, client.Function{Name: id})
		if err == nil {
			err = invoke(b, s, body)
		}
		return func() error { return invoke(b, s, body) }, func() { s.Close() }, err
	})
	if err != nil {
		return err
	}
	theirs, err := all(func() (func() error, func(), error) {
		t := &http.Transport{}
		c := &http.Client{Transport: t}
		return func() error { return peer.call(c, body) }, t.CloseIdleConnections, peer.call(c, body)
	})
	if err != nil {
		return err
	}
	b.add("warm invokes a second, 16 connections", "1/s", ">= 2", "protocol v2, receipts verified; peer: FastAPI on uvicorn, one worker", ours, theirs)
	return nil
}

// wholeRun: connect, attest, jail, invoke, close, against a bare jail: one run at a time on a
// platform that has come to rest, and then as many as it can.
func (b *bench) wholeRun() error {
	p, err := b.platform()
	if err != nil {
		return err
	}
	defer p.stop()
	d, err := p.deploy(b, "echo", map[string]string{"app.py": echoApp})
	if err != nil {
		return err
	}
	relay, err := newRelay(p.url)
	if err != nil {
		return err
	}
	defer relay.close()
	through, err := connectTo(p.dir, relay.url)
	if err != nil {
		return err
	}
	runOn := func(c *client.Client) error {
		_, err := c.Run(b.ctx, client.Function{Name: d.ID}, []byte("hello"))
		return err
	}
	peer, note, err := b.bareJail()
	if err != nil {
		return err
	}
	const runs = 33
	var server, whole, theirs []time.Duration
	for range runs {
		time.Sleep(rest)
		relay.reset()
		begin := time.Now()
		if err := runOn(through); err != nil {
			return err
		}
		whole, server = append(whole, time.Since(begin)), append(server, relay.waited())
		time.Sleep(rest)
		begin = time.Now()
		if err := peer(); err != nil {
			return err
		}
		theirs = append(theirs, time.Since(begin))
	}
	y := ms(middle(theirs))
	b.add("whole run, echo, server side", "ms", "<= 0.1", "what a client waits for the platform; "+note, ms(middle(server)), y)
	b.add("  the same, with the client's own work", "ms", "", "it verifies the attestation document and the receipt", ms(middle(whole)), y)
	again, err := median(runs, func() error { return runOn(p.client) })
	if err != nil {
		return err
	}
	b.add("  one after the other without a pause", "ms", "", "the next jail is built meanwhile, by the same processors", ms(again), y)
	return nil
}

// rest is what the platform has between two runs to put up the next jail.
const rest = 60 * time.Millisecond

// bareJail is the peer of a whole run; one that does nothing if it is not installed.
func (b *bench) bareJail() (peer func() error, note string, err error) {
	if !have("bwrap") {
		return func() error { return nil }, "peer missing: install bubblewrap", nil
	}
	script := "import sys\n" + echoApp + "sys.stdout.buffer.write(cape_handler(sys.stdin.buffer.read()))\n"
	python, err := realPython()
	return func() error {
		cmd := exec.CommandContext(b.ctx, "bwrap", "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--tmpfs", "/tmp", python, "-c", script)
		cmd.Stdin = strings.NewReader("hello")
		out, err := cmd.Output()
		if err == nil && string(out) != "hello" {
			err = errors.New("the peer answered something else")
		}
		return err
	}, "peer: bwrap --unshare-all python3", err
}

func middle(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

func realPython() (string, error) {
	out, err := exec.Command("python3", "-I", "-c", "import sys; print(sys.executable)").Output()
	return strings.TrimSpace(string(out)), err
}

// attestation takes its figures from the benchmarks beside the code.
func (b *bench) attestation() error {
	got, err := goBench(b, "./core/attest/...")
	if err != nil {
		return err
	}
	for _, pair := range [][4]string{
		{"attestation verify, chain seen", "VerifySeenChain", "TwoP384Verifies", "<= 1.2"},
		{"attestation verify, new chain", "VerifyNewChain", "PlainVerify", "<= 1.0"},
	} {
		ours, ok := got[pair[1]]
		if !ok {
			return fmt.Errorf("no benchmark %s", pair[1])
		}
		b.add(pair[0], "ms", pair[3], "", ours/1e6, got[pair[2]]/1e6)
	}
	return nil
}

var benchLine = regexp.MustCompile(`(?m)^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+([0-9.]+) ns/op`)

func goBench(b *bench, pkg string) (map[string]float64, error) {
	cmd := exec.CommandContext(b.ctx, "go", "test", "-run", "^$", "-bench", ".", "-benchtime", "300ms", pkg)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	found := map[string]float64{}
	for _, m := range benchLine.FindAllStringSubmatch(string(out), -1) {
		if found[m[1]], err = strconv.ParseFloat(m[2], 64); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// encrypt: the streaming envelope against age, whole processes on one file.
func (b *bench) encrypt() error {
	file := filepath.Join(b.tmp, "plain")
	if err := fill(file, 2*b.size); err != nil {
		return err
	}
	defer os.Remove(file)
	key, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	keyFile := filepath.Join(b.tmp, "key.pem")
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var peak int64
	ours := func() error {
		cmd := exec.CommandContext(b.ctx, self, "encrypt-stream", keyFile, file)
		err := cmd.Run()
		if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			peak = max(peak, u.Maxrss<<10)
		}
		return err
	}
	rate := func(d time.Duration) float64 { return float64(2*b.size) / d.Seconds() / 1e6 }
	note := "the form that cape encrypt writes"
	if !have("age") {
		d, err := median(2, ours)
		b.add("encrypt, throughput", "MB/s", ">= 1.0", note+"; peer missing: install age", rate(d), 0)
		return err
	}
	out, err := exec.Command("age-keygen").Output()
	if err != nil {
		return err
	}
	recipient := regexp.MustCompile(`age1[a-z0-9]+`).FindString(string(out))
	peer := func() error { return exec.CommandContext(b.ctx, "age", "-r", recipient, "-o", os.DevNull, file).Run() }
	x, y, err := paired(3, ours, peer)
	if err != nil {
		return err
	}
	b.add("encrypt, throughput", "MB/s", ">= 1.0", note, rate(x), rate(y))
	b.add("encrypt, memory", "MiB", "<= 64 MiB", "", float64(peak>>20), 0)
	return nil
}

func fill(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.Reader, size)
	return errors.Join(err, f.Close())
}

// encryptStream is what the encrypt row runs as a process of its own.
func encryptStream(keyFile, file string) error {
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return err
	}
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	w, err := envelope.NewWriter(io.Discard, parsed.(*rsa.PublicKey), envelope.To{}, false)
	if err != nil {
		return err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, in, make([]byte, 1<<20)); err != nil {
		return err
	}
	return w.Close()
}

// deploy: a large function that does not compress, against hashing and sealing
// the same bytes once.
func (b *bench) deploy() error {
	p, err := b.platform()
	if err != nil {
		return err
	}
	defer p.stop()
	if _, err := p.deploy(b, "echo", map[string]string{"app.py": echoApp}); err != nil {
		return err
	}
	dir := filepath.Join(b.tmp, "large")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "app.py"), []byte(echoApp), 0o644), fill(filepath.Join(dir, "model.bin"), b.size-1000)); err != nil {
		return err
	}
	before, _, err := processMemory(p.cmd.Process.Pid)
	if err != nil {
		return err
	}
	packed, err := client.Pack(b.ctx, dir, b.tmp)
	if err != nil {
		return err
	}
	defer packed.Close()
	enclave, err := childOf(p.cmd.Process.Pid)
	if err != nil {
		return err
	}
	enclaveBefore, _, err := processMemory(enclave)
	if err != nil {
		return err
	}
	start := time.Now()
	if _, err := p.client.Deploy(b.ctx, packed, client.DeployOptions{}); err != nil {
		return err
	}
	ours := time.Since(start)
	_, peak, err := processMemory(p.cmd.Process.Pid)
	if err != nil {
		return err
	}
	_, enclavePeak, err := processMemory(enclave)
	if err != nil {
		return err
	}
	theirs, err := hashAndSeal(filepath.Join(dir, "model.bin"))
	if err != nil {
		return err
	}
	b.add(fmt.Sprintf("deploy of %d MB", b.size/1e6), "s", "<= 2.5", "from the packed zip on, client included; peer: SHA-256 and AES-GCM once", ours.Seconds(), theirs.Seconds())
	b.add("  host memory above idle", "MiB", "<= 100 MiB", "", float64((peak-before)>>20), 0)
	b.add("  enclave memory / function", "x", "<= 1.3", "", float64(enclavePeak-enclaveBefore)/float64(b.size), 0)
	return nil
}

// childOf finds the enclave process of a caped.
func childOf(pid int) (int, error) {
	out, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	var all []string
	if err == nil {
		all = strings.Fields(string(out))
	}
	tasks, globErr := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, t := range tasks {
		if b, err := os.ReadFile(t); err == nil {
			all = append(all, strings.Fields(string(b))...)
		}
	}
	if len(all) == 0 {
		return 0, errors.Join(errors.New("no enclave process found"), err, globErr)
	}
	return strconv.Atoi(all[0])
}

func hashAndSeal(path string) (time.Duration, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		return 0, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	sha256.Sum256(data)
	const chunk = 256 << 10
	out, nonce := make([]byte, 0, chunk+16), make([]byte, 12)
	for at := 0; at < len(data); at += chunk {
		out = gcm.Seal(out[:0], nonce, data[at:min(at+chunk, len(data))], nil)
	}
	return time.Since(start), nil
}

// idle takes its figure from the gateway's own test, which measures both ends.
func (b *bench) idle() error {
	cmd := exec.CommandContext(b.ctx, "go", "test", "-count=1", "-run", "Idle", "-v", "./host/internal/gateway")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	m := regexp.MustCompile(`(\d+) connections, (\d+) bytes each`).FindSubmatch(out)
	if m == nil {
		return errors.New("the gateway's test printed no figure")
	}
	n, err := strconv.Atoi(string(m[2]))
	b.add("idle connection, host memory", "KiB", "<= 40 KiB", string(m[1])+" connections (10,000 where descriptors allow), the test's own ends included", float64(n)/1024, 0)
	return err
}
