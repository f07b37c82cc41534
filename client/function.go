package client

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/cape-functions/cape/core/wire"
)

// Function says which function is meant, and may pin what it is.
type Function struct {
	// Name is the function's id, or "user/name", which is the newest of that name.
	Name string
	// Checksum pins the SHA-256 of the function's zip, 32 bytes; nil pins nothing.
	Checksum []byte
	// KeyPolicy pins the SHA-256 of the KMS key policy, 32 bytes; nil pins nothing more
	// than the Trust of the client does.
	KeyPolicy []byte
	// Account pins the account that signed the function, 32 bytes; nil pins nothing more
	// than the Trust of the client does. An id pins its account by itself.
	Account []byte
}

// uuidForm is that of the oldest functions' ids.
var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// split returns the segments of the function's route.
func (f Function) split() ([]string, error) {
	user, name, named := strings.Cut(f.Name, "/")
	switch {
	case named && wire.ValidUsername(user) && wire.ValidFunctionName(name):
		return []string{user, name}, nil
	case !named && (wire.ValidID(f.Name) || uuidForm.MatchString(f.Name)):
		return []string{f.Name}, nil
	}
	return nil, fmt.Errorf("%w: %.100q", ErrFunction, f.Name)
}

func (f Function) validate() ([]string, error) {
	for _, pin := range [][]byte{f.Checksum, f.KeyPolicy, f.Account} {
		if pin != nil && len(pin) != 32 {
			return nil, fmt.Errorf("%w: a pinned checksum or account has %d bytes, SHA-256 has 32", ErrOptions, len(pin))
		}
	}
	return f.split()
}
