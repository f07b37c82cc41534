package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Names of the keys, as they stand in files; "CAPE_" and upper case make them
// environment variables.
const (
	EnclaveHost   = "enclave_host"
	AuthHost      = "auth_host"
	ClientID      = "client_id"
	Audience      = "audience"
	ConfigDir     = "local_config_dir"
	AuthFile      = "local_auth_file_name"
	KeyFile       = "local_cape_key_file_name"
	PresetsFile   = "local_presets_file"
	DisableTLS    = "dev_disable_ssl"
	RootCert      = "root_cert"
	CACert        = "ca_cert"
	RedirectHosts = "redirect_hosts"
	Protocol      = "protocol"
)

// Key describes one setting.
type Key struct {
	Name string
	// Also are further environment variables, read when CAPE_… is not set.
	Also []string
	// Help says what it is for.
	Help string
}

// Keys returns all settings in the order in which they are listed.
func Keys() []Key {
	return []Key{
		{Name: EnclaveHost, Help: "server, as https://host"},
		{Name: AuthHost, Help: "identity provider; read for compatibility, not used yet"},
		{Name: ClientID, Help: "OAuth client id; read for compatibility, not used yet"},
		{Name: Audience, Help: "OAuth audience; read for compatibility, not used yet"},
		{Name: ConfigDir, Also: []string{"LOCAL_CONFIG_DIR"}, Help: "folder of login, trust file and keys"},
		{Name: AuthFile, Help: "file of the login, in that folder"},
		{Name: KeyFile, Help: "file of your Cape Key for other programs, in that folder"},
		{Name: PresetsFile, Also: []string{"LOCAL_PRESETS_FILE"}, Help: "file of these settings (environment alone)"},
		{Name: RootCert, Help: "attestation root (PEM) of the server that is set in the same place"},
		{Name: CACert, Help: "further TLS roots (PEM)"},
		{Name: RedirectHosts, Help: "hosts that the server may redirect to, separated by commas"},
		{Name: Protocol, Help: "v2 (sealed sessions), or v1 as the original platform spoke"},
		{Name: DisableTLS, Help: "true: leave the server's TLS certificate unchecked"},
	}
}

// Known tells whether a setting exists.
func Known(name string) bool {
	return slices.ContainsFunc(Keys(), func(k Key) bool { return k.Name == name })
}

// environment returns the variables of a key, first the one that counts most.
func (k Key) environment() []string {
	return append([]string{"CAPE_" + strings.ToUpper(k.Name)}, k.Also...)
}

func defaultPresets(home string) string {
	return filepath.Join(home, ".config", "cape", "presets.json")
}

func defaults(home string) map[string]string {
	return map[string]string{
		ConfigDir: filepath.Join(home, ".config", "cape"),
		AuthFile:  "auth",
		KeyFile:   "capekey.pub.der",
		Protocol:  "v2",
	}
}

// devFile is where a development platform on this machine says how to reach it.
func devFile(getenv func(string) (string, bool), home string) string {
	data, ok := getenv("XDG_DATA_HOME")
	if !ok || !filepath.IsAbs(data) {
		data = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(data, "cape", "dev", "client.json")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
