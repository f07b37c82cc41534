package devserver

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/devserver/account"
	"github.com/cape-functions/cape/host/internal/identity"
)

// The platform's one user.
var devUser = identity.User{Subject: "dev|1", Username: "dev"}

const (
	// loginLife is how long the token in config/auth is valid.
	loginLife = 30 * 24 * time.Hour
	// loginRenewal is how often it is renewed while the platform runs.
	loginRenewal = 24 * time.Hour
)

// clientFiles are what a client on this machine needs to find and to believe
// this platform.
type clientFiles struct {
	dir     string
	url     string
	tls     bool
	rootDER []byte
	rootPEM []byte
	trust   wire.Trust
	policy  []byte
	kms     string // ARN of the KEK
	users   *identity.Provider
	now     func() time.Time
}

func (c *clientFiles) config(name string) string { return filepath.Join(c.dir, "config", name) }

// write makes or renews all files for an enclave that runs release. The file
// env comes last: who finds it finds the others.
func (c *clientFiles) write(ctx context.Context, release wire.Release) error {
	if err := os.MkdirAll(c.config(""), 0o700); err != nil {
		return fmt.Errorf("making %s: %w", c.config(""), err)
	}
	if err := os.Chmod(c.config(""), 0o700); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(c.dir, "root.pem"), c.rootPEM, 0o644); err != nil {
		return err
	}
	if err := c.writeLogin(); err != nil {
		return err
	}
	if err := account.Ensure(c.config("account-key")); err != nil {
		return err
	}
	if err := c.writeTrust(ctx, release); err != nil {
		return err
	}
	return c.writeSettings()
}

// renewLogin keeps the development user logged in until ctx is done.
func (c *clientFiles) renewLogin(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(loginRenewal)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := c.writeLogin(); err != nil {
				log.Error("renewing the development user's login", "error", err)
			}
		}
	}
}

// writeLogin logs the development user in, in the form of the original's file.
func (c *clientFiles) writeLogin() error {
	access, err := c.users.Access(devUser, loginLife)
	if err != nil {
		return err
	}
	id, err := c.users.ID(devUser, loginLife)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(struct {
		Access  string `json:"access_token"`
		Type    string `json:"token_type"`
		Refresh string `json:"refresh_token"`
		Expiry  string `json:"expiry"`
		ID      string `json:"id_token"`
	}{access, "Bearer", "", c.now().Add(loginLife).UTC().Format(time.RFC3339), id}, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(c.config("auth"), append(b, '\n'), 0o600)
}

// writeSettings writes client.json for a cape that was told of no other
// server, and env for shells.
func (c *clientFiles) writeSettings() error {
	values := [][3]string{
		{"CAPE_ENCLAVE_HOST", "enclave_host", c.url}, {"CAPE_AUTH_HOST", "auth_host", c.url},
		{"CAPE_ROOT_CERT", "root_cert", filepath.Join(c.dir, "root.pem")}, {"CAPE_LOCAL_CONFIG_DIR", "local_config_dir", c.config("")},
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
	if !c.tls { // a shell may have it from an earlier platform
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
