package keyring

import (
	"fmt"
	"regexp"

	"github.com/cape-functions/cape/core/wire"
)

// Purposes of wrapped keys, for Context.Purpose.
const (
	PurposeFunction = "function" // the DEK of one function
	PurposeCapeKey  = "cape-key" // the Cape Key pair of one account
)

// Context is the encryption context of a wrapped key. KMS unwraps a key only under the
// context it was wrapped under, so a blob cannot be passed off as another's.
type Context struct {
	// Purpose is one of the constants above: cape:purpose.
	Purpose string
	// Account names the owner, 1 to 256 visible ASCII characters: cape:account.
	Account string
	// Function is the function's id, PurposeFunction alone: cape:function.
	Function string
	// Manifest is SHA-256 of the manifest in lower-case hexadecimal, PurposeFunction
	// alone: cape:manifest.
	Manifest string
}

// maxAccount bounds Account, in bytes.
const maxAccount = 256

var (
	accountPattern  = regexp.MustCompile(`^[!-~]+$`)
	manifestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// pairs returns what KMS gets. A field that the purpose does not have is left out.
func (c Context) pairs() (map[string]string, error) {
	if len(c.Account) > maxAccount || !accountPattern.MatchString(c.Account) {
		return nil, fmt.Errorf("%w: account", ErrContext)
	}
	switch c.Purpose {
	case PurposeFunction:
		if !wire.ValidID(c.Function) || !manifestPattern.MatchString(c.Manifest) {
			return nil, fmt.Errorf("%w: function or manifest", ErrContext)
		}
		return map[string]string{"cape:purpose": c.Purpose, "cape:account": c.Account, "cape:function": c.Function, "cape:manifest": c.Manifest}, nil
	case PurposeCapeKey:
		if c.Function != "" || c.Manifest != "" {
			return nil, fmt.Errorf("%w: a Cape Key is of no function", ErrContext)
		}
		return map[string]string{"cape:purpose": c.Purpose, "cape:account": c.Account}, nil
	}
	return nil, fmt.Errorf("%w: purpose", ErrContext)
}
