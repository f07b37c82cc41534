package vsockproxy

import "net/netip"

// special lists what is routed nowhere on the public Internet, or reaches
// private networks by another name, beyond what net/netip tells itself
// (https://www.iana.org/assignments/iana-ipv4-special-registry and -ipv6-).
func special() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),
		netip.MustParsePrefix("100.64.0.0/10"), // carriers' private space
		netip.MustParsePrefix("192.0.0.0/24"),
		netip.MustParsePrefix("192.0.2.0/24"),
		netip.MustParsePrefix("198.18.0.0/15"),
		netip.MustParsePrefix("198.51.100.0/24"),
		netip.MustParsePrefix("203.0.113.0/24"),
		netip.MustParsePrefix("240.0.0.0/4"),
		netip.MustParsePrefix("::/96"), // IPv4-compatible
		netip.MustParsePrefix("64:ff9b::/96"),
		netip.MustParsePrefix("64:ff9b:1::/48"),
		netip.MustParsePrefix("100::/64"),
		netip.MustParsePrefix("2001::/23"), // Teredo and others
		netip.MustParsePrefix("2001:db8::/32"),
		netip.MustParsePrefix("2002::/16"), // 6to4
		netip.MustParsePrefix("3fff::/20"),
		netip.MustParsePrefix("5f00::/16"),
		netip.MustParsePrefix("fec0::/10"),
	}
}

// reachable tells whether the proxy may connect to an address.
func (p *Proxy) reachable(a netip.Addr, private bool) bool {
	if a.Zone() != "" && !private || !a.IsValid() {
		return false
	}
	a = a.Unmap().WithZone("")
	switch {
	case a.IsUnspecified(), a.IsMulticast():
		return false
	case p.family == IPv4Only && !a.Is4(), p.family == IPv6Only && a.Is4():
		return false
	case private:
		return true
	case !a.IsGlobalUnicast(), a.IsPrivate(), a.IsLoopback(), a.IsLinkLocalUnicast():
		return false
	}
	for _, s := range p.special {
		if s.Contains(a) {
			return false
		}
	}
	return true
}
