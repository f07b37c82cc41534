package cli

import (
	"encoding/base64"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client/internal/config"
	"github.com/cape-functions/cape/client/internal/lockfile"
)

func (a *app) keyCommand() *cobra.Command {
	var token string
	var pcrs []string
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Print your Cape Key",
		Long: `Print the public key of your account as PEM, fresh from an attested enclave. What others
encrypt to it can be read by your functions alone. With --protocol v1 it is the key that
older clients use, which belongs to your login and not to your account key; it is written,
as DER, to the file capekey.pub.der in the configuration directory, where they look for it.`,
		Args: args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			who, err := a.caller(token)
			if err != nil {
				return err
			}
			c, err := a.connect(&who, wishes{pcrs: pcrs, makeKey: true})
			if err != nil {
				return err
			}
			defer c.Close()
			key, err := c.Key(cmd.Context())
			if err != nil {
				return err
			}
			a.showChecks("the enclave", key.Evidence)
			s, err := a.settings()
			if err != nil {
				return err
			}
			a.keepKey(s, c, c.own(), key)
			if who.stored && !c.sealed {
				if err := lockfile.Write(s.Path(config.KeyFile), key.DER); err != nil {
					a.note("The key was not written for older clients: %v", err)
				}
			}
			if a.json() {
				return a.printJSON(map[string]string{"key": string(key.PEM()), "der": base64.StdEncoding.EncodeToString(key.DER)})
			}
			return a.print(key.PEM())
		},
	}
	cmd.Flags().StringVarP(&token, "token", "t", "", "token instead of the stored login")
	a.pcrFlag(cmd, &pcrs)
	return cmd
}
