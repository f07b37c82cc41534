package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/internal/login"
)

func (a *app) encryptCommand() *cobra.Command {
	var file, username string
	var pcrs []string
	cmd := &cobra.Command{
		Use:   "encrypt {INPUT | -f FILE}",
		Short: "Encrypt data that only functions can read",
		Long: `Encrypt data on this machine, to your Cape Key or another user's. The result is text
that begins with "cape:"; given to a function of the key's owner as input, the enclave
decrypts it before the function sees it.`,
		Example: `  cape encrypt 'a secret'
  cape encrypt -f patients.csv > patients.cape
  cape encrypt -f - --username ann < letter`,
		Args: args(0, 1, ""),
		RunE: func(cmd *cobra.Command, given []string) error {
			if file == "" && len(given) == 1 && given[0] == "" {
				return fmt.Errorf("%w: there is nothing to encrypt: the input is empty", errUsage)
			}
			plaintext, err := a.input(file, given)
			if err != nil {
				return err
			}
			key, err := a.keyOf(cmd.Context(), username, pcrs)
			if err != nil {
				return err
			}
			sealed, err := key.Encrypt(plaintext)
			if err != nil {
				return err
			}
			a.showChecks("the enclave that vouches for the key", key.Evidence)
			if a.json() {
				return a.printJSON(map[string]string{"ciphertext": string(sealed)})
			}
			return a.print(sealed, []byte("\n"))
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "encrypt a `file`; - is stdin")
	cmd.Flags().StringVar(&username, "username", "", "encrypt to this user's Cape Key")
	a.pcrFlag(cmd, &pcrs)
	return cmd
}

// keyOf returns the Cape Key of a user, of the caller if the name is empty or theirs:
// that one comes over a session that answers a nonce.
func (a *app) keyOf(ctx context.Context, username string, pcrs []string) (*client.CapeKey, error) {
	who, err := a.caller("")
	if errors.Is(err, login.ErrNone) && username == "" {
		return nil, fmt.Errorf("whose key? %w, and no --username was given", err)
	}
	if err != nil && (username == "" || !errors.Is(err, login.ErrNone)) {
		return nil, err
	}
	if username == "" || err == nil && username == who.username {
		c, err := a.connect(&who, pcrs)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return a.key(ctx, c, own(who), c.Key)
	}
	c, err := a.connect(nil, pcrs)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return a.key(ctx, c, others(username), func(ctx context.Context) (*client.CapeKey, error) { return c.UserKey(ctx, username) })
}
