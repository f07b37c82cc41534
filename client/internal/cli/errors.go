package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/internal/config"
	"github.com/cape-functions/cape/client/internal/docfile"
	"github.com/cape-functions/cape/client/internal/login"
	"github.com/cape-functions/cape/client/internal/vendoring"
	"github.com/cape-functions/cape/client/trust"
	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/funczip"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/image/eif"
)

// silent is an error that was already shown.
type silent struct{ error }

// advised is an error together with what to do about it.
type advised struct {
	error
	say string // empty: what the error itself says
}

func (a advised) Unwrap() error { return a.error }

// report shows an error, and what to do about it.
func (a *app) report(err error) {
	var quiet silent
	if errors.As(err, &quiet) {
		return
	}
	text := strings.TrimPrefix(err.Error(), errUsage.Error()+": ")
	// Further lines are indented: a server chose some of them, and what follows is ours.
	fmt.Fprintln(a.Stderr, "Error: "+strings.ReplaceAll(strings.TrimSpace(clean(text)), "\n", "\n  "))
	var unknown *trust.Unknown
	if errors.As(err, &unknown) && !unknown.Declined {
		fmt.Fprint(a.Stderr, clean(introduction(unknown.Introduction)))
	}
	if h := hint(err); h != "" {
		fmt.Fprintln(a.Stderr, "Hint: "+clean(h))
	} else if h := advice(err); h != "" {
		fmt.Fprintln(a.Stderr, "Hint from the server: "+line(h))
	}
}

// advice is what the server says should be done: its word, not ours.
func advice(err error) string {
	var remote *client.RemoteError
	if errors.As(err, &remote) {
		return remote.Advice
	}
	return ""
}

// clean keeps control characters of untrusted text from the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || !unicode.IsControl(r) && !unicode.Is(unicode.Bidi_Control, r) {
			return r
		}
		return unicode.ReplacementChar
	}, strings.ToValidUTF8(s, string(unicode.ReplacementChar)))
}

// line is clean for what has its place in one line of ours: it begins no other, nor looks as if
// it did where a terminal breaks it.
func line(s string) string { return strings.Join(strings.Fields(clean(s)), " ") }

// hint says what to do about an error, empty if there is nothing to say.
func hint(err error) string {
	var told advised
	if errors.As(err, &told) && told.say != "" {
		return told.say
	}
	if h := hintTrust(err); h != "" {
		return h
	}
	if h := hintRemote(err); h != "" {
		return h
	}
	for _, h := range hints() {
		if errors.Is(err, h.when) {
			return h.say
		}
	}
	return ""
}

func hintTrust(err error) string {
	var change *trust.Change
	if errors.As(err, &change) {
		return hintChange(change)
	}
	var unknown *trust.Unknown
	if errors.As(err, &unknown) {
		if unknown.Declined {
			return "nothing was sent and nothing was remembered."
		}
		return "run the command on a terminal to look at the server and decide, or give the measurements that you expect with --pcr, or accept it unseen with --trust-first-use."
	}
	var stranger *trust.UnknownAccount
	if errors.As(err, &stranger) {
		if stranger.Declined {
			return "nothing was sent and nothing was remembered."
		}
		if stranger.Account == wire.UnsignedAccount {
			return "nothing was sent. No account signed it, so the operator could run and decrypt it. If that does for you: --account none, or --trust-first-use."
		}
		return "nothing was sent. Ask the owner for the account (cape account show) and give it with --account, or accept it unseen with --trust-first-use."
	}
	var root *trust.UnknownRoot
	if errors.As(err, &root) {
		return "if this is a development platform of yours, name its root: --root-cert FILE, or CAPE_ROOT_CERT together with CAPE_ENCLAVE_HOST. Otherwise do not use this server."
	}
	return ""
}

func hintChange(c *trust.Change) string {
	for _, d := range c.Differences {
		if id, ok := strings.CutPrefix(d.What, "function "); ok {
			return "an id always means the same code, so the server is wrong. If you know why, forget the old one: cape trust forget " + c.Origin + " --function " + id
		}
	}
	for _, d := range c.Differences {
		if pcr, ok := strings.CutPrefix(d.What, "the key opens for PCR"); ok {
			return "nothing was sent. Whoever runs such an image reads everything that is stored on the server. If it is acceptable too, for instance as the next signer, say so: --pcr " + pcr + ":" + d.New + ", beside the values expected now."
		}
		name, isAccount := strings.CutPrefix(d.What, "account of ")
		switch {
		case isAccount && d.Stated:
			return "nothing was sent. Ask the owner what their cape account show says."
		case isAccount && !strings.Contains(name, "/"):
			return "nothing was sent. You know " + name + " under another account. Ask " + name + "; what you accept for this one call is said with --account (none: an unsigned function). If the account changed: cape trust forget " + c.Origin + " --function " + name
		case isAccount && d.New == wire.UnsignedAccount:
			return "nothing was sent. No account signed what is under the name now: its owner deployed it with protocol v1, or the server put it there. Ask the owner to deploy it signed."
		case isAccount:
			return "nothing was sent. Another account took the name. If its owner tells you why: cape trust forget " + c.Origin + " --function " + name
		case strings.HasPrefix(d.What, "version of "):
			return "nothing was sent. The server offers an old version of the function, or two of one number. Ask its owner."
		}
		if d.What == "root" {
			return "nothing was sent. A server that changes between AWS's enclaves and others, or to another development platform, is another server. If that is what you expect: cape trust forget " + c.Origin
		}
		if d.Stated {
			return "compare what you gave with what the publisher of the image says; cape get-pcrs tells what the server says."
		}
	}
	return "nothing was sent. Find out from the operator whether the enclave was upgraded. If so: cape trust forget " + c.Origin + ", and look at it anew; or give the new measurements with --pcr for this one call."
}

func hintRemote(err error) string {
	var remote *client.RemoteError
	if !errors.As(err, &remote) {
		return ""
	}
	switch {
	case remote.Expired():
		return "your token is too old. Get a new one, or give another with --token; a local caped dev renews its login while it runs."
	case remote.Advice != "", remote.Status == 0 && strings.Contains(remote.Text, "; "):
		return "" // an enclave's text says after a semicolon what to do
	}
	switch remote.Code {
	case wire.CodeUnauthorized:
		return "the server does not accept your token. Is it one of this server? Give another with --token."
	case wire.CodeNotFound:
		return "check the id or name with cape list. What belongs to others, and is not public, looks the same as what does not exist."
	case wire.CodeUnavailable:
		return "try again in a moment."
	case wire.CodeQuota:
		return "you have used up your share; end something of yours, or try again later."
	}
	return ""
}

type hinted struct {
	when error
	say  string
}

// hints are in the order in which they count.
func hints() []hinted {
	return []hinted{
		{config.ErrNoServer, "start one on this machine with caped dev, or name yours: export CAPE_ENCLAVE_HOST=https://…, or cape config enclave_host https://…"},
		{config.ErrFile, "mend or remove the file."},
		{login.ErrNone, "give a token with --token, or use the configuration of a local platform: . DIR/env of caped dev."},
		{login.ErrFile, "it should be {\"access_token\": \"…\"}; a running caped dev writes its own anew. Or give a token with --token."},
		{client.ErrToken, "give one with --token."},
		{client.ErrUnreachable, "is the address right, and does the server run? A local one is started with caped dev. For a server with a certificate of its own, name it in CAPE_CA_CERT."},
		{client.ErrRedirect, "a redirect may lead to the same host, or to one below it. Others are allowed by name: cape config redirect_hosts HOST"},
		{errAccountFile, "mend or move the file; with another key you are another account."},
		{client.ErrAccount, "cape account show makes an account key; others make theirs when they deploy."},
		{client.ErrDowngrade, "nothing was sent. The server is old, or somebody is in the way."},
		{client.ErrReceipt, "do not rely on it."},
		{client.ErrTLS, "nothing was sent. Something between you and the enclave ends TLS."},
		{client.ErrProtocol, "is this the address of a Cape server? One that is too old for sealed sessions is used with --protocol v1, if you do not mind what its operator can read."},
		{client.ErrClosed, "the server may have ended the session; try again."},
		{client.ErrStalled, "try again; if it happens again, the function may be stuck."},
		{client.ErrFunction, "functions are named by their id (22 letters and digits) or as user/name."},
		{funczip.ErrEmpty, "a deploy folder needs an app.py with a cape_handler; cape function create makes one."},
		{funczip.ErrLink, "copy the file into the folder."},
		{funczip.ErrName, "rename it: the enclave could not unpack it."},
		{client.ErrPackage, "a function is a folder, or a zip of one, with an app.py that defines cape_handler; cape function create makes one."},
		{client.ErrTooLarge, "functions may have 1,000,000,000 bytes, inputs and results 1 GiB."},
		{client.ErrPinned, "nothing was sent. The owner may have deployed anew, or the operator may have another key now: ask what the checksum is."},
		{client.ErrChecksum, "do not use the result: the server is wrong or dishonest."},
		{attest.ErrDebug, "the operator can read the memory of a debug enclave."},
		{attest.ErrTime, "is the clock of this machine right? Documents from a file are checked at their own time with --at document."},
		{attest.ErrNonce, "the server answered with the document of another session."},
		{trust.ErrPCRs, "write --pcr index:hex, as in --pcr 0:5f2c…; several of one index mean any of them."},
		{trust.ErrFile, "look at the file; without it, all servers are unknown again."},
		{client.ErrAttestation, "nothing was sent. Do not use this server before you know why."},
		{vendoring.ErrPip, "install it (python3 -m ensurepip, or your system's python3-pip), or name another Python with --python."},
		{vendoring.ErrBytecode, "install that version of Python, or go without --bytecode."},
		{vendoring.ErrInstall, "only ready-made wheels for the enclave's Python can be fetched. Look at what pip says above."},
		{vendoring.ErrConflict, "move your file, or delete what an earlier pip put there."},
		{vendoring.ErrRequirements, "write what the function needs into requirements.txt, one package a line."},
		{errDevelopment, "sign it with a certificate that no key policy of production names, and say so with --development."},
		{errPEM, "openssl writes such files: cape eif sign --help shows how."},
		{eif.ErrSigner, "images are signed with a P-384 key and its certificate: cape eif sign --help shows how to make them."},
		{eif.ErrChecksum, "get the image again."},
		{docfile.ErrNone, "cape run -o json writes the document of a run; servers give it as base64."},
		{context.DeadlineExceeded, "try again."},
		{fs.ErrPermission, "check who owns the file and its folder."},
		{errUsage, "cape help, or the command with --help, tells how it is used."},
	}
}
