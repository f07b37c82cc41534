package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/client/internal/config"
)

// place is a home directory with files, and an environment.
type place struct {
	home string
	env  map[string]string
}

func newPlace(t *testing.T) *place { return &place{t.TempDir(), map[string]string{}} }

func (p *place) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(p.home, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (p *place) load(flags map[string]string) (*config.Settings, error) {
	return config.Load(config.Input{Flags: flags, Home: p.home, Getenv: func(name string) (string, bool) {
		v, ok := p.env[name]
		return v, ok
	}})
}

const (
	presets = ".config/cape/presets.json"
	dev     = ".local/share/cape/dev/client.json"
)

func TestPrecedence(t *testing.T) {
	p := newPlace(t)
	get := func(flags map[string]string) config.Value {
		t.Helper()
		s, err := p.load(flags)
		if err != nil {
			t.Fatal(err)
		}
		return s.Get(config.EnclaveHost)
	}
	if v := get(nil); v != (config.Value{}) {
		t.Errorf("without anything: %v", v)
	}
	p.write(t, dev, `{"enclave_host":"http://dev:1"}`)
	if v := get(nil); v != (config.Value{Text: "http://dev:1", Source: config.Development}) {
		t.Errorf("local platform: %v", v)
	}
	p.write(t, presets, `{"enclave_host":"http://presets:1/"}`)
	if v := get(nil); v != (config.Value{Text: "http://presets:1", Source: config.Presets}) {
		t.Errorf("presets: %v", v)
	}
	p.env["CAPE_ENCLAVE_HOST"] = "http://env:1"
	if v := get(nil); v != (config.Value{Text: "http://env:1", Source: config.Environment}) {
		t.Errorf("environment: %v", v)
	}
	if v := get(map[string]string{config.EnclaveHost: "http://flag:1"}); v != (config.Value{Text: "http://flag:1", Source: config.Flag}) {
		t.Errorf("flag: %v", v)
	}
	p.env["CAPE_ENCLAVE_HOST"] = ""
	if v := get(nil); v.Source != config.Presets {
		t.Errorf("an empty variable: %v", v)
	}
}

// TestDevelopmentPlatformAlone: what a local platform says counts only where it is the
// server; its folder must not take the login of another one.
func TestDevelopmentPlatformAlone(t *testing.T) {
	p := newPlace(t)
	p.write(t, dev, `{"enclave_host":"http://dev:1","local_config_dir":"/dev/config","root_cert":"/dev/root.pem"}`)
	s, err := p.load(nil)
	if err != nil || s.Get(config.ConfigDir).Text != "/dev/config" || s.RootCert() != "/dev/root.pem" {
		t.Errorf("%v, %v", s.Get(config.ConfigDir), err)
	}
	if s.Get(config.AuthHost).Text != "http://dev:1" {
		t.Errorf("auth host %v", s.Get(config.AuthHost))
	}
	p.env["CAPE_ENCLAVE_HOST"] = "https://other"
	s, err = p.load(nil)
	if err != nil || s.Get(config.ConfigDir).Text != filepath.Join(p.home, ".config", "cape") || s.RootCert() != "" {
		t.Errorf("%v, %v", s.Get(config.ConfigDir), err)
	}
	data := filepath.Join(p.home, "xdg")
	p.write(t, "xdg/cape/dev/client.json", `{"enclave_host":"http://xdg:1"}`)
	p.env = map[string]string{"XDG_DATA_HOME": data}
	if s, err = p.load(nil); err != nil || s.Get(config.EnclaveHost).Text != "http://xdg:1" {
		t.Errorf("%v, %v", s.Get(config.EnclaveHost), err)
	}
}

func TestRootHoldsForItsServerAlone(t *testing.T) {
	flag := map[string]string{config.EnclaveHost: "https://flag"}
	for name, tc := range map[string]struct {
		env     map[string]string
		presets string
		flags   map[string]string
		want    string
	}{
		"environment":                    {env: map[string]string{"CAPE_ENCLAVE_HOST": "https://a", "CAPE_ROOT_CERT": "r"}, want: "r"},
		"environment, server by flag":    {env: map[string]string{"CAPE_ENCLAVE_HOST": "https://a", "CAPE_ROOT_CERT": "r"}, flags: flag},
		"the same server by flag":        {env: map[string]string{"CAPE_ENCLAVE_HOST": "https://FLAG:443/", "CAPE_ROOT_CERT": "r"}, flags: flag, want: "r"},
		"environment without a server":   {env: map[string]string{"CAPE_ROOT_CERT": "r"}, presets: `{"enclave_host":"https://p"}`},
		"presets":                        {presets: `{"enclave_host":"https://p","root_cert":"r"}`, want: "r"},
		"presets, server by environment": {env: map[string]string{"CAPE_ENCLAVE_HOST": "https://a"}, presets: `{"enclave_host":"https://p","root_cert":"r"}`},
		"flag": {env: map[string]string{"CAPE_ENCLAVE_HOST": "https://a", "CAPE_ROOT_CERT": "r"},
			flags: map[string]string{config.RootCert: "f"}, want: "f"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			p.env = tc.env
			if tc.presets != "" {
				p.write(t, presets, tc.presets)
			}
			s, err := p.load(tc.flags)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.RootCert(); got != tc.want {
				t.Errorf("root %q, want %q", got, tc.want)
			}
		})
	}
}

func TestFiles(t *testing.T) {
	p := newPlace(t)
	for name, text := range map[string]string{
		"broken": `{`, "array": `[]`, "two values": `{}{}`, "a known setting is no text": `{"enclave_host":{}}`, "too large": `{"x":"` + strings.Repeat("a", 2<<20) + `"}`,
	} {
		p.write(t, presets, text)
		if _, err := p.load(nil); !errors.Is(err, config.ErrFile) {
			t.Errorf("%s: %v, want ErrFile", name, err)
		}
	}
	path := p.write(t, presets, `{"cape_verbose":true,"something":{"a":1},"dev_disable_ssl":true,"enclave_host":null}`)
	s, err := p.load(nil)
	if err != nil {
		t.Fatal(err)
	}
	if on, err := s.Insecure(); err != nil || !on {
		t.Errorf("insecure %t, %v", on, err)
	}
	if err := config.Set(t.Context(), path, config.EnclaveHost, "https://a"); err != nil {
		t.Fatal(err)
	}
	if err := config.Set(t.Context(), path, config.DisableTLS, ""); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := "{\n  \"cape_verbose\": true,\n  \"enclave_host\": \"https://a\",\n  \"something\": {\n    \"a\": 1\n  }\n}\n"
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"nonsense", config.PresetsFile} {
		if err := config.Set(t.Context(), path, name, "x"); !errors.Is(err, config.ErrKey) {
			t.Errorf("%s: %v, want ErrKey", name, err)
		}
	}
}

func TestValues(t *testing.T) {
	p := newPlace(t)
	p.env = map[string]string{"LOCAL_CONFIG_DIR": "/plain", "CAPE_REDIRECT_HOSTS": "a, b,c", "CAPE_DEV_DISABLE_SSL": "perhaps", "CAPE_ENCLAVE_HOST": "nonsense"}
	s, err := p.load(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Path(config.AuthFile); got != filepath.Join("/plain", "auth") {
		t.Errorf("login at %s", got)
	}
	if got := s.InDir(filepath.Join(p.home, "absolute")); got != filepath.Join(p.home, "absolute") {
		t.Errorf("absolute path became %s", got)
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, s.Hosts()); diff != "" {
		t.Error(diff)
	}
	if _, err := s.Insecure(); !errors.Is(err, config.ErrValue) {
		t.Errorf("insecure: %v, want ErrValue", err)
	}
	if _, err := s.Server(); !errors.Is(err, config.ErrValue) {
		t.Errorf("server: %v, want ErrValue", err)
	}
	p.env = map[string]string{"LOCAL_CONFIG_DIR": "/plain", "CAPE_LOCAL_CONFIG_DIR": "/prefixed"}
	if s, err = p.load(nil); err != nil || s.Get(config.ConfigDir).Text != "/prefixed" {
		t.Errorf("%v, %v", s.Get(config.ConfigDir), err)
	}
	if _, err := s.Server(); !errors.Is(err, config.ErrNoServer) {
		t.Errorf("no server: %v, want ErrNoServer", err)
	}
}
