package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/wire"
)

// platform is a `caped dev` of the benchmark's own.
type platform struct {
	cmd    *exec.Cmd
	dir    string
	url    string
	client *client.Client
}

func (b *bench) platform() (*platform, error) {
	dir, err := os.MkdirTemp(b.tmp, "p")
	if err != nil {
		return nil, err
	}
	p := &platform{dir: dir}
	p.cmd = exec.Command(filepath.Join(b.bin, "caped"), "dev", "--data-dir", dir, "--listen", "127.0.0.1:0")
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, errors.Join(errors.New("caped dev did not come up"), err, p.stop())
	}
	p.url = strings.TrimSpace(strings.TrimPrefix(line, "cape is ready at "))
	if p.client, err = p.connect(); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p, nil
}

func (p *platform) stop() error {
	err := p.cmd.Process.Signal(syscall.SIGTERM)
	return errors.Join(err, p.cmd.Wait())
}

// connect makes a client with the trust that caped wrote for its own user.
func (p *platform) connect() (*client.Client, error) { return connectTo(p.dir, p.url) }

// connectTo is connect for the platform in dir, perhaps of another process.
func connectTo(dir, url string) (*client.Client, error) {
	var file wire.TrustFile
	if err := readJSON(filepath.Join(dir, "config", "trust.json"), &file); err != nil {
		return nil, err
	}
	var login struct {
		Token string `json:"access_token"`
	}
	if err := readJSON(filepath.Join(dir, "config", "auth"), &login); err != nil {
		return nil, err
	}
	policy := trust.Policy{PCRs: map[int][]nitro.PCR{}}
	for _, entry := range file.Origins {
		policy.Roots = append(policy.Roots, entry.RootDER)
		sum, err := hex.DecodeString(entry.KeyPolicy)
		if err != nil || len(sum) != 32 {
			return nil, errors.New("the trust file names no key policy")
		}
		policy.KeyPolicies = append(policy.KeyPolicies, [32]byte(sum))
		for index, values := range entry.PCRs {
			i, err := strconv.Atoi(index)
			if err != nil {
				return nil, err
			}
			for _, v := range values {
				pcr, err := nitro.ParsePCR(v)
				if err != nil {
					return nil, err
				}
				policy.PCRs[i] = append(policy.PCRs[i], pcr)
			}
		}
	}
	keyFile, err := os.ReadFile(filepath.Join(dir, "config", "account-key"))
	if err != nil {
		return nil, err
	}
	key, err := account.Parse(keyFile)
	if err != nil {
		return nil, err
	}
	return client.New(client.Options{BaseURL: url, Trust: policy, Token: client.StaticToken(login.Token), Account: key})
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// deploy deploys a folder made of files.
func (p *platform) deploy(b *bench, name string, files map[string]string) (*client.Deployed, error) {
	dir := filepath.Join(p.dir, "functions", name)
	for path, text := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return p.deployDir(b, dir)
}

func (p *platform) deployDir(b *bench, dir string) (*client.Deployed, error) {
	packed, err := client.Pack(b.ctx, dir, b.tmp)
	if err != nil {
		return nil, err
	}
	defer packed.Close()
	d, err := p.client.Deploy(b.ctx, packed, client.DeployOptions{})
	if err != nil {
		return nil, err
	}
	return d, p.settle(b)
}

// settle waits until caped has nothing left to do. A first deploy uses up key pairs that its KMS
// keeps ready, and the making of the next, seconds of a whole core, is nobody's work that is
// measured here.
func (p *platform) settle(b *bench) error {
	const step = 250 * time.Millisecond
	before, err := processTime(p.cmd.Process.Pid)
	if err != nil {
		return err
	}
	for range 240 {
		select {
		case <-b.ctx.Done():
			return b.ctx.Err()
		case <-time.After(step):
		}
		now, err := processTime(p.cmd.Process.Pid)
		if err != nil {
			return err
		}
		if now-before < step/20 {
			return nil
		}
		before = now
	}
	return errors.New("caped does not come to rest")
}

// processTime is how much processor time a process has used.
func processTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 13 {
		return 0, errors.New("/proc/PID/stat is too short")
	}
	var sum time.Duration
	for _, text := range f[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * 10 * time.Millisecond
	}
	return sum, nil
}

const echoApp = "def cape_handler(data):\n    return data\n"

// peerServer is FastAPI on uvicorn with the same handler.
type peerServer struct {
	cmd *exec.Cmd
	url string
}

func (b *bench) peerServer() (*peerServer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	cmd := exec.Command(filepath.Join(b.venv, "bin", "uvicorn"), "peer:app", "--port", strconv.Itoa(port), "--log-level", "warning", "--app-dir", "test/bench")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &peerServer{cmd, fmt.Sprintf("http://127.0.0.1:%d/", port)}
	for range 200 {
		if conn, err := net.Dial("tcp", l.Addr().String()); err == nil {
			return s, conn.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil, errors.Join(fmt.Errorf("uvicorn did not come up: %s", stderr.String()), s.stop())
}

func (s *peerServer) stop() error {
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.cmd.Wait() // uvicorn ends by the signal
	return nil
}

// call posts once over a kept connection.
func (s *peerServer) call(c *http.Client, body []byte) error {
	resp, err := c.Post(s.url, "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var got bytes.Buffer
	if _, err := got.ReadFrom(resp.Body); err != nil {
		return err
	}
	if !bytes.Equal(got.Bytes(), body) {
		return errors.New("the peer answered something else")
	}
	return nil
}

// processMemory returns VmRSS and VmHWM of a process in bytes.
func processMemory(pid int) (now, peak int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			continue
		}
		switch f[0] {
		case "VmRSS:":
			now = kib << 10
		case "VmHWM:":
			peak = kib << 10
		}
	}
	return now, peak, nil
}
