package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client/internal/config"
	"github.com/cape-functions/cape/client/internal/lockfile"
	"github.com/cape-functions/cape/core/account"
)

// accountFile is the account key's in the configuration directory (spec/account.md).
const (
	accountFile    = "account-key"
	maxAccountFile = 4 << 10
)

// errAccountFile: the account key cannot be used.
var errAccountFile = errors.New("account key cannot be used")

// accountKey returns the account key of this machine's user; nil if there is none, unless
// it is to be made then.
func (a *app) accountKey(s *config.Settings, create bool) (*account.Key, error) {
	path := s.InDir(accountFile)
	key, err := readAccountKey(path)
	if err != nil || key != nil || !create {
		return key, err
	}
	if key, err = account.New(); err != nil {
		return nil, err
	}
	switch err := writeAccountKey(path, key); {
	case errors.Is(err, errAccountThere): // another cape was faster
		return readAccountKey(path)
	case err != nil:
		return nil, err
	}
	a.note("Made your account key, %s. Your functions belong to it: keep a copy (cape account export).", path)
	return key, nil
}

// readAccountKey returns nil if there is no file.
func readAccountKey(path string) (*account.Key, error) {
	data, err := lockfile.Read(path, maxAccountFile)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAccountFile, err)
	}
	if data == nil {
		return nil, nil
	}
	defer clear(data)
	if info, err := os.Stat(path); err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s can be read by others (mode %#o): chmod 600 it", errAccountFile, path, info.Mode().Perm())
	}
	key, err := account.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errAccountFile, path, err)
	}
	return key, nil
}

// errAccountThere: a key is there, and is not replaced: whoever lost it could never deploy
// under the same names again.
var errAccountThere = fmt.Errorf("%w: there is one already", errAccountFile)

func writeAccountKey(path string, key *account.Key) error {
	release, err := lockfile.Lock(context.Background(), path) // it has a patience of its own
	if err != nil {
		return fmt.Errorf("%w: %w", errAccountFile, err)
	}
	defer release()
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%w: %s", errAccountThere, path)
	}
	file, err := key.Encode()
	if err != nil {
		return err
	}
	defer file.Wipe()
	if err := lockfile.Write(path, file.Reveal()); err != nil {
		return fmt.Errorf("%w: %w", errAccountFile, err)
	}
	return nil
}

func (a *app) accountCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "account",
		Short: "Show, copy or bring your account key",
		Long: `Your account is a key on this machine (account-key in the configuration directory), made
when it is first needed. It signs what you deploy, and proves to enclaves that it is you:
nobody else can, the server's operator included. Without it, nobody can deploy under your
names again: keep a copy.`,
		Args: args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.accountShow(), a.accountExport(), a.accountImport())
	return cmd
}

func (a *app) accountShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show",
		Short:   "Print your account, which callers compare",
		Example: "  cape account show",
		Args:    args(0, 0, ""),
		RunE: func(_ *cobra.Command, _ []string) error {
			s, err := a.settings()
			if err != nil {
				return err
			}
			key, err := a.accountKey(s, true)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(map[string]string{"account": key.ID().String()})
			}
			return a.print([]byte(key.ID().String() + "\n"))
		},
	}
}

func (a *app) accountExport() *cobra.Command {
	return &cobra.Command{
		Use:   "export",
		Short: "Print your account key: whoever has it is you",
		Long: `Print your account key as PEM, for a copy in a safe place or another machine of yours.
Whoever has it can deploy and read in your name.`,
		Example: "  (umask 077; cape account export > account-key.pem)",
		Args:    args(0, 0, ""),
		RunE: func(_ *cobra.Command, _ []string) error {
			s, err := a.settings()
			if err != nil {
				return err
			}
			key, err := a.accountKey(s, false)
			if err != nil {
				return err
			}
			if key == nil {
				return fmt.Errorf("%w: there is none yet; deploying makes one, and cape account import brings one", errAccountFile)
			}
			file, err := key.Encode()
			if err != nil {
				return err
			}
			defer file.Wipe()
			if a.json() {
				return a.printJSON(map[string]string{"account": key.ID().String(), "key": string(file.Reveal())})
			}
			return a.print(file.Reveal())
		},
	}
}

func (a *app) accountImport() *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE",
		Short: "Bring your account key from another machine",
		Long: `Take what cape account export printed; - is stdin. A key that is here already is not
replaced: move it away first, if you mean to.`,
		Example: "  cape account import account-key.pem",
		Args:    args(1, 1, "the file"),
		RunE: func(_ *cobra.Command, given []string) error {
			s, err := a.settings()
			if err != nil {
				return err
			}
			var data []byte
			if given[0] == "-" {
				data, err = readAll(a.Stdin, "stdin", maxAccountFile)
			} else {
				data, err = readLimited(given[0], maxAccountFile)
			}
			if err != nil {
				return err
			}
			defer clear(data)
			key, err := account.Parse(bytes.TrimSpace(data))
			if err != nil {
				return fmt.Errorf("%w: %w", errAccountFile, err)
			}
			if have, err := readAccountKey(s.InDir(accountFile)); err != nil || have == nil || have.ID() != key.ID() {
				if err := writeAccountKey(s.InDir(accountFile), key); err != nil {
					return err
				}
			}
			if a.json() {
				return a.printJSON(map[string]string{"account": key.ID().String()})
			}
			a.note("You are the account %s.", key.ID())
			return nil
		},
	}
}
