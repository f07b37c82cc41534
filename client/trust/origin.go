package trust

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// ErrOrigin: the text does not name a server.
var ErrOrigin = errors.New("not the address of a server")

// Origin returns the key of a server in the trust file: scheme, host in lower case and
// port, which is always written: "https://cape.example.com:443". Paths do not count.
// Errors match ErrOrigin.
func Origin(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", fmt.Errorf("%w: it cannot be read as a URL", ErrOrigin)
	}
	port := u.Port()
	switch scheme := strings.ToLower(u.Scheme); {
	case u.Hostname() == "" || u.Opaque != "":
		return "", fmt.Errorf("%w: it needs the form https://host", ErrOrigin)
	case u.User != nil:
		return "", fmt.Errorf("%w: it must not hold a user or password", ErrOrigin)
	case scheme == "https" && port == "":
		port = "443"
	case scheme == "http" && port == "":
		port = "80"
	case scheme != "http" && scheme != "https":
		return "", fmt.Errorf("%w: it begins with neither https:// nor http://", ErrOrigin)
	}
	return strings.ToLower(u.Scheme) + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port), nil
}
