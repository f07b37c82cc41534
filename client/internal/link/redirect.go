package link

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// follow returns where a 307 or 308 leads. It is followed once, because a server may
// name the machine that should serve a session; and since a token goes along:
//   - never from https to http;
//   - only to the same host, on any port, to a host below it ("w1.cape.example.com"
//     for "cape.example.com"), or to one of the allowed hosts;
//   - without user, password or fragment.
func follow(from *url.URL, resp *http.Response, allowed []string) (*url.URL, error) {
	location := resp.Header.Get("Location")
	if location == "" {
		return nil, fmt.Errorf("%w: it leads nowhere", ErrRedirect)
	}
	to, err := from.Parse(location)
	if err != nil {
		return nil, fmt.Errorf("%w: its target cannot be read as a URL", ErrRedirect)
	}
	switch strings.ToLower(to.Scheme) {
	case "wss", "https":
		to.Scheme = "https"
	case "ws", "http":
		to.Scheme = "http"
	default:
		return nil, fmt.Errorf("%w: it leads to the scheme %.20q", ErrRedirect, to.Scheme)
	}
	switch {
	case to.Hostname() == "" || to.User != nil || to.Fragment != "":
		return nil, fmt.Errorf("%w: its target is not of the form https://host/path", ErrRedirect)
	case from.Scheme == "https" && to.Scheme != "https":
		return nil, fmt.Errorf("%w: it leads from https to http on %.100q", ErrRedirect, to.Host)
	case !mayGo(from.Hostname(), to.Hostname(), allowed):
		return nil, fmt.Errorf("%w: it leads from %s to another host, %.100q, which would get your token", ErrRedirect, from.Hostname(), to.Hostname())
	}
	return to, nil
}

func mayGo(from, to string, allowed []string) bool {
	from, to = strings.ToLower(from), strings.ToLower(to)
	if from == to {
		return true
	}
	if net.ParseIP(from) == nil && net.ParseIP(to) == nil && strings.HasSuffix(to, "."+from) {
		return true
	}
	return slices.ContainsFunc(allowed, func(host string) bool { return strings.ToLower(host) == to })
}

func isRedirect(status int) bool {
	return status == http.StatusTemporaryRedirect || status == http.StatusPermanentRedirect
}
