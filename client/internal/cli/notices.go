package cli

import (
	"fmt"
	"strings"
	"sync"

	"github.com/cape-functions/cape/client/trust"
)

// notices shows what people should see, each once a run.
type notices struct {
	app  *app
	mu   sync.Mutex
	seen map[string]bool
}

func (n *notices) show(notice trust.Notice) {
	text := noticeText(notice)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.seen == nil {
		n.seen = map[string]bool{}
	}
	if n.seen[text] {
		return
	}
	n.seen[text] = true
	text = clean(text)
	if n.app.colour() && strings.HasPrefix(text, "WARNING") {
		text = "\x1b[1;33m" + text + "\x1b[0m"
	}
	fmt.Fprintln(n.app.Stderr, text)
}

func noticeText(n trust.Notice) string {
	switch n.Kind {
	case trust.DevelopmentRoot:
		return fmt.Sprintf("WARNING: %s runs under a DEVELOPMENT root (%.16s…), not AWS's: it protects nothing from whoever operates it.", n.Origin, n.Root)
	case trust.Added:
		return fmt.Sprintf("%s is trusted from now on.", n.Origin)
	case trust.KeyPolicyAdded:
		return fmt.Sprintf("The key policy %s of %s is remembered from now on.", n.New, n.Origin)
	case trust.PinAdded:
		return fmt.Sprintf("The %s of %s is remembered from now on: %s", n.Function, n.Origin, n.New)
	case trust.AccountAdded:
		return fmt.Sprintf("%s belongs to the account %s, which is trusted from now on.", n.Function, n.New)
	case trust.Unsigned:
		return fmt.Sprintf("WARNING: %s is signed by no account: the operator could decrypt what you send to it.", n.Function)
	case trust.NameChanged:
		return fmt.Sprintf("WARNING: %s means other code than last time.\n  was: %s\n  is:  %s", n.Function, n.Old, n.New)
	case trust.OpensForOthers:
		return "WARNING: the KMS key of " + n.Origin + " opens for more than the image that it runs:\n" + strings.TrimSuffix(opensFor(*n.Introduction), "\n")
	case trust.NotRemembered:
		return fmt.Sprintf("The trust file cannot be written, so nothing new is remembered: %v", n.Cause)
	}
	return ""
}

// colour tells whether warnings may be coloured (https://no-color.org).
func (a *app) colour() bool {
	if v, ok := a.Getenv("NO_COLOR"); ok && v != "" {
		return false
	}
	v, _ := a.Getenv("TERM")
	return a.Terminal(a.Stderr) && v != "dumb"
}
