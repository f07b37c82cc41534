package cli

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/internal/config"
	"github.com/cape-functions/cape/client/internal/login"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/wire"
)

// caller is who calls, and with what token.
type caller struct {
	token string
	// stored tells that the token is that of the stored login.
	stored   bool
	username string
	// account tells accounts apart: it names files, and is never sent.
	account string
}

// caller returns who calls: the token of a flag, or the stored login.
func (a *app) caller(flag string) (caller, error) {
	if flag != "" {
		return callerOf(strings.TrimSpace(flag), false, login.Claims(flag).Username), nil
	}
	s, err := a.settings()
	if err != nil {
		return caller{}, err
	}
	if _, err := s.Server(); err != nil {
		return caller{}, err // the login comes with the server: without one, that is what is missing
	}
	auth, err := login.Read(s.Path(config.AuthFile))
	if err != nil {
		return caller{}, err
	}
	return callerOf(auth.AccessToken, true, auth.Username()), nil
}

func callerOf(token string, stored bool, username string) caller {
	c := login.Claims(token)
	account := c.Issuer + "\x00" + c.Subject
	if c.Subject == "" {
		account = "\x00" + token // not a JWT: an account of its own
	}
	return caller{token: token, stored: stored, username: username, account: account}
}

// connection is what commands that talk to a server share.
type connection struct {
	*client.Client
	server string
	caller caller
	sealed bool         // speaks v2
	key    *account.Key // the caller's account; nil: none is there
}

// wishes are what commands want of a connection.
type wishes struct {
	pcrs    []string                         // of --pcr
	account string                           // of --account
	origin  string                           // of the receipt, where it is not about the server that is set
	makeKey bool                             // an account key is needed, and made if there is none
	log     func(stream string, data []byte) // what handlers print
}

// connect returns a client of the configured server. who may be nil for routes without a
// token.
func (a *app) connect(who *caller, w wishes) (*connection, error) {
	s, err := a.settings()
	if err != nil {
		return nil, err
	}
	server, err := s.Server()
	if err != nil {
		return nil, err
	}
	conn := &connection{server: server}
	if conn.sealed, err = s.Sealed(); err != nil {
		return nil, err
	}
	if !conn.sealed && w.account != "" {
		return nil, fmt.Errorf("%w: v1 tells nobody's account: --account cannot be held", errUsage)
	}
	if conn.key, err = a.accountKey(s, conn.sealed && w.makeKey); err != nil {
		return nil, err
	}
	keeper, err := a.keeper(s, w, conn.key)
	if err != nil {
		return nil, err
	}
	o := client.Options{BaseURL: server, Trust: keeper, RedirectHosts: s.Hosts(), UserAgent: "cape/" + a.versionOf().Version, Now: a.Now,
		Account: conn.key, Log: w.log}
	if !conn.sealed {
		o.Protocol = client.ProtocolV1
		a.note("WARNING: protocol v1: the server's operator can read results and your token.")
	}
	if who != nil {
		o.Token, conn.caller = client.StaticToken(who.token), *who
	}
	if file := s.Get(config.CACert).Text; file != "" {
		if o.TLSRoots, err = tlsRoots(file); err != nil {
			return nil, err
		}
	}
	if o.InsecureTLS, err = s.Insecure(); err != nil {
		return nil, err
	}
	if o.InsecureTLS {
		a.note("WARNING: the server's TLS certificate is not checked: others may read your token and results.")
	}
	conn.Client, err = client.New(o)
	return conn, err
}

func (a *app) keeper(s *config.Settings, w wishes, key *account.Key) (*trust.Keeper, error) {
	k := &trust.Keeper{Store: trust.NewStore(s.InDir("trust.json")), FirstUse: a.flags.firstUse, Notify: a.notices.show}
	var err error
	if k.PCRs, err = trust.ParsePCRs(w.pcrs); err != nil {
		return nil, err
	}
	if key != nil {
		id := [32]byte(key.ID())
		k.Own = &id
	}
	if w.account != "" && w.account != wire.UnsignedAccount {
		if _, err := account.ParseID(w.account); err != nil {
			return nil, fmt.Errorf("%w: --account: %w, or none", errUsage, err)
		}
	}
	k.Account = w.account
	file := s.RootCert()
	if w.origin != "" {
		file = s.RootCertFor(w.origin)
	}
	if file != "" {
		root, err := readRoot(file)
		if err != nil {
			return nil, err
		}
		k.Roots = [][]byte{root}
	}
	if a.canAsk() {
		k.Ask, k.AskAccount = a.ask, a.askAccount
	}
	return k, nil
}

// errCert marks certificate files that cannot be used.
var errCert = errors.New("certificate file cannot be used")

// maxCert bounds files of certificates in bytes.
const maxCert = 4 << 20

func readCert(file string) ([]byte, error) {
	data, err := readLimited(file, maxCert)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCert, err)
	}
	return data, nil
}

// readRoot returns the DER of the one certificate in a PEM or DER file.
func readRoot(file string) ([]byte, error) {
	data, err := readCert(file)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(data)
	if block == nil {
		block, rest = &pem.Block{Type: "CERTIFICATE", Bytes: data}, nil
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, fmt.Errorf("%w: %s holds more than one", errCert, file)
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%w: %s holds no certificate", errCert, file)
	}
	return block.Bytes, nil
}

// tlsRoots returns the system's roots and those of a PEM file.
func tlsRoots(file string) (*x509.CertPool, error) {
	data, err := readCert(file)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // systems without a store have no roots to add to
	}
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%w: %s holds no certificate in PEM form", errCert, file)
	}
	return pool, nil
}

// ask shows a server at the first contact and waits for an answer.
func (a *app) ask(_ context.Context, in trust.Introduction) (bool, error) {
	fmt.Fprint(a.Stderr, introduction(in))
	return a.yes("Trust this server from now on? Type yes to trust it: ")
}

// askAccount shows an account at the first contact and waits for an answer.
func (a *app) askAccount(_ context.Context, found trust.UnknownAccount) (bool, error) {
	fmt.Fprint(a.Stderr, clean(accountText(found)))
	return a.yes("Trust this account from now on? Type yes to trust it: ")
}

func accountText(found trust.UnknownAccount) string {
	if found.Account == wire.UnsignedAccount {
		return fmt.Sprintf("%s of %s is signed by no account: the operator could run and decrypt it.\n", found.Name, found.Origin)
	}
	return fmt.Sprintf("%s of %s belongs to the account\n  %s\nUsernames prove nothing. Compare it with what its owner's cape account show says.\n",
		found.Name, found.Origin, found.Account)
}

func (a *app) yes(question string) (bool, error) {
	fmt.Fprint(a.Stderr, question)
	if a.answers == nil {
		a.answers = bufio.NewReader(a.Stdin) // one for all questions: it reads ahead
	}
	line, err := a.answers.ReadString('\n')
	if err != nil && line == "" {
		return false, nil // the end of input is no yes
	}
	return strings.TrimSpace(line) == "yes", nil
}

func introduction(in trust.Introduction) string {
	var b strings.Builder
	fmt.Fprintf(&b, "This is the first contact with %s.\n", line(in.Origin))
	root := "AWS Nitro Enclaves"
	if in.Development {
		root = "DEVELOPMENT: not AWS's"
	}
	fmt.Fprintf(&b, "  root        %s (%s)\n", in.Root, root)
	for _, i := range slices.Sorted(maps.Keys(in.PCRs)) {
		fmt.Fprintf(&b, "  PCR%-8d %s %s\n", i, in.PCRs[i], pcrMeaning(i, in.PCRs[i]))
	}
	if in.KeyPolicy != "" {
		fmt.Fprintf(&b, "  key policy  %s\n", in.KeyPolicy)
		b.WriteString(opensFor(in))
	}
	if in.KMS != "" {
		fmt.Fprintf(&b, "  KMS key     %s\n", line(in.KMS))
	}
	if in.Trust != nil {
		fmt.Fprintf(&b, "  believes    %s\n", line(trust.TrustText(in.Trust)))
	}
	b.WriteString("Compare the values with those that the publisher of the image states.\n")
	return b.String()
}

// opensFor says which images the KMS key opens for, beside the one that runs.
func opensFor(in trust.Introduction) string {
	if in.KeyPCR8 == nil {
		return "  opens for   images that documents of this kind do not tell\n"
	}
	var b strings.Builder
	images, signers := in.Others()
	for _, v := range images {
		fmt.Fprintf(&b, "  opens for   %s too (PCR0: ANOTHER IMAGE)\n", v)
	}
	for _, v := range signers {
		fmt.Fprintf(&b, "  opens for   %s too (PCR8: ANOTHER SIGNER)\n", v)
	}
	if len(in.KeyPCR0) == 0 {
		b.WriteString("  opens for   ANY IMAGE of these signers (PCR8): whoever holds the key of such a certificate can read stored functions\n")
	} else if b.Len() == 0 {
		b.WriteString("  opens for   this image alone\n")
	}
	return b.String()
}

func pcrMeaning(i int, v nitro.PCR) string {
	text := map[int]string{0: "image", 1: "kernel and boot", 2: "application", 8: "signer of the image", 16: "whom the runtime trusts"}[i]
	if v.IsZero() {
		text += ": none"
	}
	return "(" + text + ")"
}

// readLimited reads a file of at most limit bytes.
func readLimited(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, file, limit)
}
