package gateway

import (
	"net/netip"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

// young is how long a connection may be no session yet: by then the enclave has admitted or ended it. The gateway
// does not look into connections, so it knows nothing else of them.
const young = 2 * wire.Handshake

// clientOf is what connections are counted by: an IPv4 address, or the network that one client has of IPv6. Zero:
// not counted, since a program on this machine speaks for many.
func clientOf(remote string) netip.Prefix {
	at, err := netip.ParseAddrPort(remote)
	if err != nil || at.Addr().IsLoopback() {
		return netip.Prefix{}
	}
	addr, bits := at.Addr().Unmap().WithZone(""), 64
	if addr.Is4() {
		bits = 32
	}
	p, _ := addr.Prefix(bits) // both fit
	return p
}

// count counts a new connection of a client, if there is room for it; g.mu is held.
func (g *Gateway) count(p *pair, client netip.Prefix) bool {
	if g.cfg.PerClient == 0 || !client.IsValid() {
		return true
	}
	if g.young[client] >= g.cfg.PerClient {
		return false
	}
	g.young[client]++
	p.from = client
	p.grows = time.AfterFunc(g.age, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.grown(p)
	})
	return true
}

// grown ends the counting of a connection; g.mu is held.
func (g *Gateway) grown(p *pair) {
	if !p.from.IsValid() {
		return
	}
	p.grows.Stop()
	if g.young[p.from]--; g.young[p.from] == 0 {
		delete(g.young, p.from)
	}
	p.from = netip.Prefix{}
}
