package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/internal/login"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/envelope"
	"github.com/cape-functions/cape/core/wire"
)

// encryptFlags are those of encrypt.
type encryptFlags struct {
	file, user, to, account string

	pcrs   []string
	binary bool
}

func (a *app) encryptCommand() *cobra.Command {
	var flags encryptFlags
	cmd := &cobra.Command{
		Use:   "encrypt {INPUT | -f FILE}",
		Short: "Encrypt data that only functions can read",
		Long: `Encrypt up to 1 GiB on this machine, to your Cape Key or another user's. The result
begins with "cape:"; given to a function of the key's owner as input, the enclave decrypts
it before the function sees it.

Without --to it opens when the key's owner runs a function on it. With --to it opens for
one function alone: a checksum names exact code, an id the code that it was when you used or
deployed it, USER/NAME the latest version that was seen from here and all that the user's
account will deploy under the name, each by its own --decrypt; every version, if none was.`,
		Example: `  cape encrypt 'a secret'
  cape encrypt -f patients.csv > patients.cape
  cape encrypt -f - --for ann --to ann/stats < letter`,
		Args: args(0, 1, ""),
		RunE: func(cmd *cobra.Command, given []string) error { return a.encrypt(cmd.Context(), flags, given) },
	}
	fl := cmd.Flags()
	fl.StringVarP(&flags.file, "file", "f", "", "encrypt a `file`; - is stdin")
	fl.StringVar(&flags.user, "for", "", "encrypt to this `user`'s Cape Key")
	fl.StringVar(&flags.user, "username", "", "the same, as older clients call it")
	_ = fl.MarkHidden("username") // the flag is in the line above
	fl.StringVar(&flags.to, "to", "", "the one `function` that may see it: checksum, user/name, or id")
	fl.BoolVar(&flags.binary, "binary", false, "write bytes, a quarter fewer, in place of text")
	a.accountFlag(cmd, &flags.account)
	a.pcrFlag(cmd, &flags.pcrs)
	return cmd
}

func (a *app) encrypt(ctx context.Context, flags encryptFlags, given []string) error {
	if flags.file == "" && len(given) == 1 && given[0] == "" {
		return fmt.Errorf("%w: there is nothing to encrypt: the input is empty", errUsage)
	}
	if flags.binary && a.json() {
		return fmt.Errorf("%w: --binary and JSON contradict each other", errUsage)
	}
	if user, _, named := strings.Cut(flags.to, "/"); named {
		if flags.user != "" && flags.user != user {
			return fmt.Errorf("%w: functions of %.60s cannot open what is encrypted for %.60s", errUsage, user, flags.user)
		}
		flags.user = user
	}
	plaintext, err := a.input(flags.file, given)
	if err != nil {
		return err
	}
	defer plaintext.Close()
	c, of, err := a.connectKey(flags)
	if err != nil {
		return err
	}
	defer c.Close()
	if !c.sealed {
		return a.encryptOld(ctx, c, of, flags, plaintext)
	}
	key, err := a.key(ctx, c, of)
	if err != nil {
		return err
	}
	to, err := a.recipient(c, key, flags.to)
	if err != nil {
		return err
	}
	a.showChecks("the enclave that vouches for the key", key.Evidence)
	if a.json() {
		var b bytes.Buffer
		if err := seal(&b, key, to, true, plaintext); err != nil {
			return err
		}
		return a.printJSON(map[string]string{"ciphertext": b.String()})
	}
	if err := seal(a.Stdout, key, to, !flags.binary, plaintext); err != nil || flags.binary {
		return err
	}
	return a.print([]byte("\n"))
}

// seal writes the streaming form. Its end is written only if all was read.
func seal(w io.Writer, key *client.CapeKey, to envelope.To, text bool, plaintext io.Reader) error {
	sealed, err := key.Seal(w, to, text)
	if err != nil {
		return err
	}
	_, err = io.Copy(sealed, plaintext)
	if end := sealed.Close(); err == nil {
		err = end
	}
	if err != nil {
		return fmt.Errorf("encrypting: %w", err)
	}
	return nil
}

// recipient reads --to.
func (a *app) recipient(c *connection, key *client.CapeKey, to string) (envelope.To, error) {
	_, name, named := strings.Cut(to, "/")
	switch {
	case to == "":
		return envelope.ForOwner(), nil
	case named && wire.ValidFunctionName(name):
		entry, err := a.known(c)
		if err != nil || entry == nil || entry.Names[to] == nil || entry.Names[to].Account != hex.EncodeToString(key.Account[:]) {
			return envelope.ForName(*key.Account, name), err
		}
		return envelope.ForName(*key.Account, name).Since(entry.Names[to].Seq), nil
	case len(to) == 64:
		sum, err := parseSum("to", to)
		if err != nil {
			return envelope.To{}, err
		}
		return envelope.ForFunction([32]byte(sum)), nil
	case wire.ValidID(to):
		entry, err := a.known(c)
		if err != nil {
			return envelope.To{}, err
		}
		if entry != nil && entry.Functions[to] != "" {
			sum, err := hex.DecodeString(entry.Functions[to])
			return envelope.ForFunction([32]byte(sum)), err
		}
		return envelope.To{}, fmt.Errorf("%w: what code the id %s is was never seen from here: name its checksum, or user/name", errUsage, to)
	}
	return envelope.To{}, fmt.Errorf("%w: --to takes a checksum (64 hexadecimal digits), user/name, or an id, not %.80q", errUsage, to)
}

// known is what is remembered of the server; nil: nothing.
func (a *app) known(c *connection) (*wire.TrustOrigin, error) {
	s, err := a.settings()
	if err != nil {
		return nil, err
	}
	return trust.NewStore(s.InDir("trust.json")).Origin(c.Origin())
}

// encryptOld writes the form of the original platform, which takes memory for all of it.
func (a *app) encryptOld(ctx context.Context, c *connection, of owner, flags encryptFlags, plaintext io.Reader) error {
	if flags.to != "" || flags.binary {
		return fmt.Errorf("%w: v1 has neither --to nor --binary", errUsage)
	}
	data, err := readAll(plaintext, "the input", client.MaxInput)
	if err != nil {
		return err
	}
	key, err := a.key(ctx, c, of)
	if err != nil {
		return err
	}
	sealed, err := key.Encrypt(data)
	if err != nil {
		return err
	}
	a.showChecks("the enclave that vouches for the key", key.Evidence)
	if a.json() {
		return a.printJSON(map[string]string{"ciphertext": string(sealed)})
	}
	return a.print(sealed, []byte("\n"))
}

// connectKey connects to where the key comes from. One's own takes a login; a user's name
// that is one's own means one's own key.
func (a *app) connectKey(flags encryptFlags) (*connection, owner, error) {
	who, err := a.caller("")
	switch {
	case errors.Is(err, login.ErrNone) && flags.user == "":
		return nil, owner{}, fmt.Errorf("whose key? %w, and no --for was given", err)
	case err != nil && !errors.Is(err, login.ErrNone):
		return nil, owner{}, err
	}
	w := wishes{pcrs: flags.pcrs, account: flags.account}
	if flags.user != "" && (err != nil || flags.user != who.username) {
		c, err := a.connect(nil, w)
		if err != nil {
			return nil, owner{}, err
		}
		return c, c.others(flags.user), nil
	}
	w.makeKey = true
	c, err := a.connect(&who, w)
	if err != nil {
		return nil, owner{}, err
	}
	if err := c.stated(flags.account); err != nil {
		c.Close()
		return nil, owner{}, err
	}
	return c, c.own(), nil
}

// stated compares the caller's own account with what --account says it is: the name under
// which the caller is logged in proves nothing.
func (c *connection) stated(account string) error {
	if account == "" {
		return nil
	}
	own := c.key.ID().String()
	if account == own {
		return nil
	}
	return &trust.Change{Origin: c.Origin(), Differences: []trust.Difference{
		{What: "account of " + cmp.Or(c.caller.username, "you"), Old: []string{account}, New: own, Stated: true}}}
}
