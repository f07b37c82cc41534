// Package settings are those of `caped serve` and `caped worker`: flags and one
// file fill one struct, which one Validate checks.
package settings

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/cape-functions/cape/host/internal/fleet"
	"github.com/cape-functions/cape/host/internal/oidc"
	"github.com/cape-functions/cape/host/internal/store"
)

// maxFile bounds a file of settings, in bytes.
const maxFile = 256 << 10

// ErrSettings: a setting is missing or cannot be used.
var ErrSettings = errors.New("unusable settings")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrSettings}, args...)...)
}

// Log are the settings of the log, on stderr.
type Log struct {
	Format  string // text or json
	Verbose bool
}

func (l *Log) register(f *pflag.FlagSet) {
	f.StringVar(&l.Format, "log-format", "text", "log on stderr as text or json")
	f.BoolVarP(&l.Verbose, "verbose", "v", false, "log every call")
}

// Clients bound what clients may do.
type Clients struct {
	PerClient int
}

func (c *Clients) register(f *pflag.FlagSet, usual int, note string) {
	f.IntVar(&c.PerClient, "new-per-client", usual, "connections that one address may have in their first 30 seconds, 0 for any number; "+note)
}

func (c *Clients) validate() error {
	if c.PerClient < 0 {
		return bad("--new-per-client %d: needs 0 or more", c.PerClient)
	}
	return nil
}

// TLS are the settings of a listener for clients.
type TLS struct {
	Cert, Key string // paths of PEM files
}

func (t *TLS) register(f *pflag.FlagSet) {
	f.StringVar(&t.Cert, "tls-cert", "", "`file` with the certificate of the listeners and its intermediates (PEM); read again when it changes")
	f.StringVar(&t.Key, "tls-key", "", "`file` with its key")
}

func (t *TLS) validate() error {
	if (t.Cert == "") != (t.Key == "") {
		return bad("--tls-cert and --tls-key go together")
	}
	return nil
}

// Serve are the settings of `caped serve`.
type Serve struct {
	Log
	TLS
	Clients
	Listen, WorkerListen string
	PlainHTTP            bool
	Database, Blobs      string
	Issuer, IssuerKeys   string
	Role                 string
	WorkerToken          string // path
	Notice, Drain        time.Duration
}

// Register adds the flags.
func (s *Serve) Register(f *pflag.FlagSet) {
	s.Log.register(f)
	s.TLS.register(f)
	s.Clients.register(f, 256, "say 0 behind a load balancer that shows its own address")
	f.StringVar(&s.Listen, "listen", "127.0.0.1:7676", "address for clients")
	f.StringVar(&s.WorkerListen, "worker-listen", "127.0.0.1:7680", "address for workers; other machines need --tls-cert")
	f.BoolVar(&s.PlainHTTP, "plain-http", false, "serve clients without TLS: a load balancer before this ends it")
	f.StringVar(&s.Database, "database", "sqlite:///var/lib/cape/cape.db", "`URL` of the database")
	f.StringVar(&s.Blobs, "blobs", "file:///var/lib/cape/blobs", "`URL` of the store of functions")
	f.StringVar(&s.Issuer, "issuer", "", "`URL` of the OpenID Connect issuer whose tokens are accepted, as it stands in them")
	f.StringVar(&s.IssuerKeys, "issuer-keys", "", "`URL` of its key set (default: what its discovery document says)")
	f.StringVar(&s.Role, "role", "", "`ARN` of the IAM role whose credentials enclaves get")
	f.StringVar(&s.WorkerToken, "worker-token", "", "`file` with the token that workers show")
	f.DurationVar(&s.Notice, "drain-notice", 5*time.Second, "how long /readyz fails before connections are refused, when stopping")
	f.DurationVar(&s.Drain, "drain", 2*time.Minute, "how long running sessions may take to end, when stopping")
}

// Validate checks all settings. Errors wrap ErrSettings.
func (s *Serve) Validate() error {
	return errors.Join(
		s.TLS.validate(), s.Clients.validate(), checkLog(s.Log), checkListen("--listen", s.Listen, s.Cert != "" || s.PlainHTTP, "--tls-cert and --tls-key, or --plain-http behind a load balancer that ends TLS"),
		checkListen("--worker-listen", s.WorkerListen, s.Cert != "", "--tls-cert and --tls-key: the worker token would pass in the clear"),
		wrap(store.CheckURLs(s.Database, s.Blobs)), needed("--issuer", s.Issuer), needed("--role", s.Role), needed("--worker-token", s.WorkerToken),
		s.checkIssuer(), s.checkRole(), checkSpan("--drain-notice", s.Notice, 10*time.Minute), checkSpan("--drain", s.Drain, 24*time.Hour),
	)
}

func (s *Serve) checkIssuer() error {
	if s.Issuer == "" {
		return nil // told already
	}
	err := oidc.CheckURL(s.Issuer)
	if s.IssuerKeys != "" {
		err = errors.Join(err, oidc.CheckURL(s.IssuerKeys))
	}
	return wrap(err)
}

func (s *Serve) checkRole() error {
	if parts := strings.SplitN(s.Role, ":", 6); s.Role != "" && (len(parts) != 6 || parts[0] != "arn" || parts[2] != "iam" || !strings.HasPrefix(parts[5], "role/")) {
		return bad("--role %s needs the form arn:aws:iam::ACCOUNT:role/NAME", s.Role)
	}
	return nil
}

// Worker are the settings of `caped worker`, and of `caped kms init` for a
// platform in production.
type Worker struct {
	Log
	TLS
	Clients
	Control, ControlCA string
	WorkerToken        string // path
	Name               string
	Listen, Address    string
	URL                string
	Passed             Passed
	Metrics            string
	Drain              time.Duration
	Enclave            Enclave
	Region             string
	Private            []string
	Development        Development
}

// Passed is a worker's listener for TLS connections that end in an enclave; it may have none.
type Passed struct {
	Listen, URL string
	Certify     string // path
}

func (p *Passed) register(f *pflag.FlagSet) {
	f.StringVar(&p.Listen, "enclave-listen", "", "address for TLS connections that are passed through and end in an enclave; with --enclave-url and --certify")
	f.StringVar(&p.URL, "enclave-url", "", "https `URL` at which clients reach --enclave-listen: sessions that can be are sent there")
	f.StringVar(&p.Certify, "certify", "", "`program` that has an enclave's TLS key certified: the host's name is its argument, it reads the request (PEM) and prints the chain (PEM) within 28s")
}

func (p *Passed) validate() error {
	if *p == (Passed{}) {
		return nil
	}
	if p.Listen == "" || p.URL == "" || p.Certify == "" {
		return bad("--enclave-listen, --enclave-url and --certify go together")
	}
	err := errors.Join(checkListen("--enclave-listen", p.Listen, true, ""), wrap(fleet.CheckPublicURL(p.URL)))
	if !strings.HasPrefix(p.Certify, "/") {
		err = errors.Join(err, bad("--certify %s: needs an absolute path", p.Certify))
	}
	return err
}

// Enclave says what a worker runs.
type Enclave struct {
	Kind           string // nitro, process, qemu
	Count          int
	Image, Release string // paths
	CPUs, Memory   int    // each; memory in MiB
	NitroCLI       string
	RunDir         string
}

// Development is what a worker without AWS runs with; production has none of it.
type Development struct {
	Dir, CA         string // where AWS is played; roots of issuers
	Python, Runtime string
}

// Register adds the flags.
func (w *Worker) Register(f *pflag.FlagSet) {
	w.Log.register(f)
	w.TLS.register(f)
	w.Clients.register(f, 0, "what the control plane pipes comes from its address")
	f.StringVar(&w.Control, "control-plane", "", "`URL` of the control plane's listener for workers")
	f.StringVar(&w.ControlCA, "control-plane-ca", "", "`file` with the authorities of its certificate (default: the system's)")
	f.StringVar(&w.WorkerToken, "worker-token", "", "`file` with the token that the control plane knows")
	f.StringVar(&w.Name, "name", hostname(), "name of this worker, unique among all")
	f.StringVar(&w.Listen, "listen", "127.0.0.1:7690", "address for sessions, always with TLS")
	f.StringVar(&w.Address, "address", "", "HOST:PORT at which the control plane reaches --listen (default: the same)")
	f.StringVar(&w.URL, "public-url", "", "https `URL` of this worker: clients are sent here; without it the control plane pipes")
	w.Passed.register(f)
	f.StringVar(&w.Metrics, "metrics", "", "serve Prometheus metrics over HTTP on this address, such as 127.0.0.1:9470")
	f.DurationVar(&w.Drain, "drain", 2*time.Minute, "how long running sessions may take to end, when stopping")
	w.Enclave.register(f)
	f.StringVar(&w.Region, "region", "", "AWS Region in which caped kms init makes the key (default: the instance's)")
	f.StringArrayVar(&w.Private, "allow-private", nil, "`host` that enclaves may reach though its address is private, such as kms.eu-west-1.amazonaws.com by a VPC endpoint; may be repeated")
	w.Development.register(f)
}

func (e *Enclave) register(f *pflag.FlagSet) {
	f.StringVar(&e.Kind, "enclave", "nitro", "kind of enclaves: nitro; process and qemu for tests, with --development")
	f.IntVar(&e.Count, "enclaves", 1, "how many enclaves")
	f.StringVar(&e.Image, "image", "/usr/share/cape/cape-runtime.eif", "`file` with the enclave image")
	f.StringVar(&e.Release, "release", "", "`file` with what is published of the image (JSON); it must agree with the image")
	f.IntVar(&e.CPUs, "cpus", 2, "CPUs of each enclave")
	f.IntVar(&e.Memory, "memory", 4096, "MiB of memory of each enclave")
	f.StringVar(&e.NitroCLI, "nitro-cli", "nitro-cli", "path of nitro-cli")
	f.StringVar(&e.RunDir, "run-dir", "/run/cape", "directory for sockets of enclaves that are no Nitro enclaves")
}

func (d *Development) register(f *pflag.FlagSet) {
	f.StringVar(&d.Dir, "development", "", "`directory` in which AWS is played, for tests: its operator can read everything")
	f.StringVar(&d.CA, "development-ca", "", "`file` with more authorities for the issuer's key set (PEM)")
	f.StringVar(&d.Python, "python", "python3", "interpreter of process enclaves")
	f.StringVar(&d.Runtime, "runtime", "", "path of cape-runtime-dev (default: beside caped)")
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil || !fleet.ValidName(name) {
		return ""
	}
	return name
}

// Reach is where the control plane connects.
func (w *Worker) Reach() string {
	if w.Address != "" {
		return w.Address
	}
	return w.Listen
}

// ValidateInit checks what `caped kms init` needs. Errors wrap ErrSettings.
func (w *Worker) ValidateInit() error {
	err := errors.Join(checkLog(w.Log), needed("--control-plane", w.Control), needed("--worker-token", w.WorkerToken), w.Enclave.validate(), w.checkDevelopment())
	if w.Control != "" {
		err = errors.Join(err, wrap(fleet.CheckControl(w.Control)))
	}
	return err
}

// Validate checks all settings. Errors wrap ErrSettings.
func (w *Worker) Validate() error {
	err := errors.Join(w.ValidateInit(), w.TLS.validate(), w.Clients.validate(), w.Passed.validate(), checkListen("--listen", w.Listen, true, ""), checkSpan("--drain", w.Drain, 24*time.Hour))
	if !fleet.ValidName(w.Name) {
		err = errors.Join(err, bad("--name %q: needs 1 to 63 letters, digits, dots and hyphens", w.Name))
	}
	host, port, split := net.SplitHostPort(w.Reach())
	if ip := net.ParseIP(host); split != nil || host == "" || ip != nil && ip.IsUnspecified() {
		err = errors.Join(err, bad("--address: with --listen %s, say HOST:PORT at which the control plane reaches it", w.Listen))
	} else if port == "0" && w.Address != "" {
		err = errors.Join(err, bad("--address %s has no port", w.Address))
	}
	if w.Metrics != "" {
		err = errors.Join(err, checkListen("--metrics", w.Metrics, true, ""))
	}
	if w.URL != "" {
		err = errors.Join(err, wrap(fleet.CheckPublicURL(w.URL)))
		if w.Cert == "" {
			err = errors.Join(err, bad("--public-url needs --tls-cert and --tls-key: clients check the certificate"))
		}
	}
	return err
}

func (e *Enclave) validate() error {
	switch {
	case e.Kind != "nitro" && e.Kind != "process" && e.Kind != "qemu":
		return bad("--enclave %s: there is no such kind; use nitro", e.Kind)
	case e.Count < 1 || e.Count > 64:
		return bad("--enclaves %d: needs 1 to 64", e.Count)
	case e.Kind == "nitro" && !strings.HasPrefix(e.Image, "/"):
		return bad("--image %s: needs an absolute path", e.Image)
	case e.CPUs < 1 || e.Memory < 64:
		return bad("--cpus needs at least 1, --memory at least 64")
	}
	return nil
}

func (w *Worker) checkDevelopment() error {
	switch dev := w.Development.Dir != ""; {
	case dev && w.Enclave.Kind == "nitro":
		return bad("--development and --enclave nitro: a production enclave takes no KMS but AWS's")
	case !dev && w.Enclave.Kind != "nitro":
		return bad("--enclave %s needs --development DIR: only Nitro enclaves get keys of AWS", w.Enclave.Kind)
	case !dev && w.Development.CA != "":
		return bad("--development-ca needs --development")
	}
	return nil
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrSettings, err)
}

func needed(flag, value string) error {
	if value == "" {
		return bad("%s is missing", flag)
	}
	return nil
}

func checkSpan(flag string, d, most time.Duration) error {
	if d < 0 || d > most {
		return bad("%s %s: needs 0s to %s", flag, d, most)
	}
	return nil
}

func checkLog(l Log) error {
	if l.Format != "text" && l.Format != "json" {
		return bad("--log-format %s: use text or json", l.Format)
	}
	return nil
}

// checkListen checks an address; unless protected it must be this machine's alone.
func checkListen(flag, address string, protected bool, how string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return bad("%s %s: needs the form HOST:PORT", flag, address)
	}
	if ip := net.ParseIP(host); protected || host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return bad("%s %s reaches other machines: give %s", flag, address, how)
}

// ReadFile sets every flag that a file names and the command line did not. A line
// is "name = value", the name that of a flag without hyphens before it; empty lines
// and lines that begin with # are skipped; a flag that may be repeated may stand on
// several lines. Errors wrap ErrSettings.
func ReadFile(flags *pflag.FlagSet, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return wrap(err)
	}
	defer f.Close()
	given := map[string]bool{}
	flags.Visit(func(f *pflag.Flag) { given[f.Name] = true })
	seen := map[string]bool{}
	lines := bufio.NewScanner(io.LimitReader(f, maxFile+1))
	lines.Buffer(nil, maxFile)
	read := 0
	for n := 1; lines.Scan(); n++ {
		if read += len(lines.Bytes()) + 1; read > maxFile {
			return bad("%s has more than %d bytes", path, maxFile)
		}
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := setLine(flags, line, given, seen); err != nil {
			return bad("%s, line %d: %v", path, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return bad("%s: %v", path, err)
	}
	return nil
}

func setLine(flags *pflag.FlagSet, line string, given, seen map[string]bool) error {
	name, value, ok := strings.Cut(line, "=")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	flag := flags.Lookup(name)
	switch {
	case !ok || value == "":
		return errors.New("needs the form name = value")
	case flag == nil || name == "config" || name == "help":
		return fmt.Errorf("there is no setting %q", name)
	case seen[name] && flag.Value.Type() != "stringArray":
		return fmt.Errorf("%s stands twice", name)
	}
	seen[name] = true
	if given[name] {
		return nil
	}
	if err := flags.Set(name, value); err != nil {
		return fmt.Errorf("%s cannot be %q%s", name, value, form(flag.Value.Type()))
	}
	return nil
}

// form says how a value of a flag's type is written, where that is not plain.
func form(kind string) string {
	switch kind {
	case "duration":
		return ": a time has a unit, like 5s or 2m"
	case "bool":
		return ": it is true or false"
	}
	return ""
}
