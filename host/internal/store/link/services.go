package link

import (
	"errors"
	"log/slog"
	"net"
	"net/http"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/vsockproxy"
)

// Ends are the host's ends of an enclave's links.
type Ends struct {
	Boot        Boot
	Credentials http.Handler
	Store       http.Handler
	// Proxied are the TCP endpoints that enclaves reach, in the order of their
	// ports from wire.PortProxyBase on; Proxy must allow each.
	Proxied []vsockproxy.Endpoint
	Proxy   *vsockproxy.Proxy
	Log     *slog.Logger
}

// Open starts a server for each link. The handlers are those of launcher.Spec;
// closing ends them, the proxy aside.
func (e Ends) Open() (services map[uint32]func(net.Conn), closing func() error) {
	services = map[uint32]func(net.Conn){}
	var servers []*Server
	for port, h := range map[uint32]http.Handler{wire.PortBoot: e.Boot.Handler(), wire.PortCredentials: e.Credentials, wire.PortStore: e.Store} {
		s := NewServer(h, e.Log)
		servers = append(servers, s)
		services[port] = s.Handle
	}
	for i, to := range e.Proxied {
		services[wire.PortProxyBase+uint32(i)] = e.Proxy.Handle(to.String())
	}
	return services, func() error {
		var errs []error
		for _, s := range servers {
			errs = append(errs, s.Close())
		}
		return errors.Join(errs...)
	}
}
