package devserver

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/identity"
)

// The platform's one user.
var devUser = identity.User{Subject: "dev|1", Username: "dev"}

// loginLife is how long the token in config/auth is valid; every start renews it.
const loginLife = 30 * 24 * time.Hour

// errLocked: another caped uses the data directory.
var errLocked = errors.New("another caped uses this data directory")

// lockDir takes the directory for this process; it is released when the file is
// closed or the process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, readErr := os.ReadFile(filepath.Join(dir, "lock"))
		f.Close()
		if readErr != nil || len(holder) == 0 {
			return nil, fmt.Errorf("%w: %s; stop it first, or name another with --data-dir", errLocked, dir)
		}
		return nil, fmt.Errorf("%w: %s (process %s); stop it first, or name another with --data-dir", errLocked, dir, strings.TrimSpace(string(holder)))
	}
	if err := errors.Join(f.Truncate(0), func() error { _, err := fmt.Fprintf(f, "%d\n", os.Getpid()); return err }()); err != nil {
		f.Close()
		return nil, fmt.Errorf("writing the lock file: %w", err)
	}
	return f, nil
}

// writeFile replaces a file atomically.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// clientFiles are what a client on this machine needs to find and to believe
// this platform.
type clientFiles struct {
	dir     string
	url     string
	tls     bool
	rootDER []byte
	rootPEM []byte
	release wire.Release
	trust   wire.Trust
	policy  []byte
	users   *identity.Provider
	now     time.Time
}

func (c *clientFiles) write() error {
	config := filepath.Join(c.dir, "config")
	if err := os.MkdirAll(config, 0o700); err != nil {
		return fmt.Errorf("making %s: %w", config, err)
	}
	root := filepath.Join(c.dir, "root.pem")
	if err := writeFile(root, c.rootPEM, 0o644); err != nil {
		return err
	}
	if err := c.writeLogin(filepath.Join(config, "auth")); err != nil {
		return err
	}
	if err := c.writeTrust(filepath.Join(config, "trust.json")); err != nil {
		return err
	}
	return c.writeSettings(config, root)
}

// writeLogin logs the development user in, in the form of the original's file.
func (c *clientFiles) writeLogin(path string) error {
	access, err := c.users.Access(devUser, loginLife)
	if err != nil {
		return err
	}
	id, err := c.users.ID(devUser, loginLife)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(map[string]any{
		"access_token": access, "token_type": "Bearer", "refresh_token": "", "expiry": c.now.Add(loginLife).UTC().Format(time.RFC3339), "id_token": id,
	}, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(b, '\n'), 0o600)
}

// writeSettings writes env for shells and client.json for a cape that was told
// of no other server.
func (c *clientFiles) writeSettings(config, root string) error {
	values := [][3]string{
		{"CAPE_ENCLAVE_HOST", "enclave_host", c.url}, {"CAPE_AUTH_HOST", "auth_host", c.url},
		{"CAPE_ROOT_CERT", "root_cert", root}, {"CAPE_LOCAL_CONFIG_DIR", "local_config_dir", config},
	}
	if c.tls {
		values = append(values, [3]string{"CAPE_CA_CERT", "ca_cert", filepath.Join(c.dir, "ca.pem")})
	}
	var env strings.Builder
	settings := map[string]string{}
	for _, v := range values {
		fmt.Fprintf(&env, "export %s=%s\n", v[0], shellQuote(v[2]))
		settings[v[1]] = v[2]
	}
	if !c.tls {
		env.WriteString("unset CAPE_CA_CERT\n")
	}
	b, err := json.MarshalIndent(settings, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(c.dir, "client.json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	return writeFile(filepath.Join(c.dir, "env"), []byte(env.String()), 0o644)
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// writeTrust enters this platform's enclave into the trust file. Entries of
// earlier addresses of the same development root go; what was remembered of
// functions stays, since functions do.
func (c *clientFiles) writeTrust(path string) error {
	file := wire.TrustFile{Version: 1, Origins: map[string]*wire.TrustOrigin{}}
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return fmt.Errorf("reading the trust file: %w", err)
	default:
		if err := json.Unmarshal(text, &file); err != nil || file.Version != 1 {
			return fmt.Errorf("reading the trust file %s: not of a version that this program knows; move it away", path)
		}
	}
	if file.Origins == nil {
		file.Origins = map[string]*wire.TrustOrigin{}
	}
	entry, err := c.trustEntry()
	if err != nil {
		return err
	}
	for origin, old := range file.Origins {
		if old != nil && old.Root == entry.Root {
			if old.Functions != nil {
				entry.Functions = old.Functions
			}
			if old.Names != nil {
				entry.Names = old.Names
			}
			delete(file.Origins, origin)
		}
	}
	file.Origins[origin(c.url)] = entry
	b, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(b, '\n'), 0o600)
}

func (c *clientFiles) trustEntry() (*wire.TrustOrigin, error) {
	pcr16, err := wire.ExpectedPCR16(c.trust)
	if err != nil {
		return nil, err
	}
	root, policy := sha256.Sum256(c.rootDER), sha256.Sum256(c.policy)
	entry := &wire.TrustOrigin{
		Root: hex.EncodeToString(root[:]), RootDER: c.rootDER, Development: true, KeyPolicy: hex.EncodeToString(policy[:]),
		Added: c.now.UTC().Format(time.RFC3339), PCRs: map[string][]string{"16": {hex.EncodeToString(pcr16[:])}},
	}
	for _, i := range []string{"0", "1", "2", "8"} {
		if v := c.release.Measurements["PCR"+i]; v != "" {
			entry.PCRs[i] = []string{v}
		}
	}
	return entry, nil
}

// origin is the form in which clients write a server's address: with its port.
func origin(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Port() != "" {
		return address
	}
	if u.Scheme == "https" {
		return address + ":443"
	}
	return address + ":80"
}
