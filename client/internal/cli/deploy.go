package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/internal/vendoring"
	"github.com/cape-functions/cape/core/wire"
)

type deployOutput struct {
	ID       string `json:"function_id"`
	Checksum string `json:"function_checksum"`
	Name     string `json:"function_name,omitempty"`
	Account  string `json:"account,omitempty"`
	Version  uint64 `json:"version,omitempty"`
}

// deployFlags are those of deploy.
type deployFlags struct {
	token, name, access, decrypt string

	pcrs   []string
	public bool
}

func (a *app) deployCommand() *cobra.Command {
	var flags deployFlags
	cmd := &cobra.Command{
		Use:   "deploy {FOLDER | ZIP}",
		Short: "Deploy a function",
		Long: `Sign a function with your account key, and send it to an attested enclave, sealed so that
only enclaves can read it.

The function is a folder with an app.py, or a zip of one. Its name is that of the folder,
or of the zip without ".zip", unless --name gives another. The checksum that is printed
is the SHA-256 of what was deployed; give it to callers for --function-checksum, and your
account (cape account show) for --account.`,
		Example: `  cape deploy ./hello
  cape deploy hello.zip --name greeting --public
  cape deploy ./medical --access grant`,
		Args: args(1, 1, "the folder or zip"),
		RunE: func(cmd *cobra.Command, given []string) error { return a.deploy(cmd.Context(), flags, given[0]) },
	}
	fl := cmd.Flags()
	fl.StringVarP(&flags.name, "name", "n", "", "name of the function")
	fl.StringVarP(&flags.token, "token", "t", "", "token instead of the stored login")
	fl.BoolVar(&flags.public, "public", false, "let everybody with a token run it: --access public")
	fl.StringVar(&flags.access, "access", "", "who may run it: public; token, whom the identity provider names as you; grant, who has your account key (default token)")
	fl.StringVar(&flags.decrypt, "decrypt", "", "for whom your Cape Key opens what was encrypted to this function: owner, or any for every caller (default owner)")
	a.complete(cmd, "access", "public", "token", "grant")
	a.complete(cmd, "decrypt", "owner", "any")
	a.pcrFlag(cmd, &flags.pcrs)
	return cmd
}

func (flags deployFlags) options(username string) (client.DeployOptions, error) {
	o := client.DeployOptions{Name: flags.name, Public: flags.public, Username: username,
		Access: wire.Access(flags.access), Decrypt: wire.Decrypt(flags.decrypt)}
	switch o.Access {
	case "", wire.AccessPublic, wire.AccessToken, wire.AccessGrant:
	default:
		return o, fmt.Errorf("%w: --access is public, token or grant, not %.40q", errUsage, flags.access)
	}
	switch o.Decrypt {
	case "", wire.DecryptOwner, wire.DecryptAny:
	default:
		return o, fmt.Errorf("%w: --decrypt is owner or any, not %.40q", errUsage, flags.decrypt)
	}
	if o.Public && o.Access != "" && o.Access != wire.AccessPublic {
		return o, fmt.Errorf("%w: --public and --access %s contradict each other", errUsage, flags.access)
	}
	return o, nil
}

func (a *app) deploy(ctx context.Context, flags deployFlags, path string) error {
	who, err := a.caller(flags.token)
	if err != nil {
		return err
	}
	o, err := flags.options(who.username)
	if err != nil {
		return err
	}
	c, err := a.connect(&who, wishes{pcrs: flags.pcrs, makeKey: true})
	if err != nil {
		return err
	}
	defer c.Close()
	if !c.sealed && flags.decrypt != "" {
		return fmt.Errorf("%w: v1 has no --decrypt: the Cape Key opens for every caller", errUsage)
	}
	p, err := client.Pack(ctx, path, "")
	if err != nil {
		return err
	}
	defer p.Close()
	if o.Name == "" && !client.ValidName(p.Name) {
		return fmt.Errorf("%w: %.100q cannot name a function (letters, digits, '.', '_' and '-'); give a name with --name", errUsage, p.Name)
	}
	if o.Name == "" {
		o.Name = p.Name
	}
	if err := a.sameAccount(c, o); err != nil {
		return err
	}
	if vendoring.Missing(path) {
		a.note("Note: requirements.txt asks for packages, and none are in the folder. Enclaves fetch nothing: cape function vendor %s", path)
	}
	bar := a.progress("Deploying")
	p.Progress = bar.update
	d, err := c.Deploy(ctx, p, o)
	bar.done()
	if d == nil {
		return err
	}
	if d.KeyEvidence != nil {
		a.showChecks("the enclave that made your Cape Key", d.KeyEvidence)
	}
	a.showChecks("the enclave that took the function", d.Evidence)
	out := deployOutput{ID: d.ID, Checksum: hex.EncodeToString(d.Checksum[:]), Name: d.Name}
	if d.Manifest != nil {
		out.Account, out.Version = hex.EncodeToString(d.Manifest.Acct), d.Manifest.Seq
	}
	// It is deployed even if it could not be remembered.
	return errors.Join(a.showDeployed(out), err)
}

// sameAccount refuses to deploy with another account than the one that the trust file knows
// under the name, or of the user: most likely it was not imported on this machine, and
// callers would refuse the function.
func (a *app) sameAccount(c *connection, o client.DeployOptions) error {
	if !c.sealed || o.Username == "" {
		return nil
	}
	entry, err := a.known(c)
	if err != nil || entry == nil {
		return err
	}
	name, own := o.Username+"/"+o.Name, c.key.ID().String()
	known := map[string]string{o.Username: entry.Accounts[o.Username]}
	if n := entry.Names[name]; n != nil {
		known[name] = n.Account
	}
	for _, of := range []string{name, o.Username} {
		if was := known[of]; was != "" && was != wire.UnsignedAccount && was != own {
			return advised{fmt.Errorf("%s is known under the account %s, and the account here is %s", of, was, own),
				"nothing was sent. If the other account is yours, bring it here: cape account export on the other machine, move this account-key away, cape account import. If your account changed, and your callers know: cape trust forget " + c.Origin() + " --function " + of}
		}
	}
	return nil
}

func (a *app) showDeployed(out deployOutput) error {
	if a.json() {
		return a.printJSON(out)
	}
	text := fmt.Sprintf("Function ID       ➜  %s\nFunction Checksum ➜  %s\n", out.ID, out.Checksum)
	if out.Name != "" {
		text += fmt.Sprintf("Function Name     ➜  %s\n", out.Name)
	}
	return a.print([]byte(text))
}
