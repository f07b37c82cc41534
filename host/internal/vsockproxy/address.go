package vsockproxy

import "net/netip"

// unicast is all of IPv6 that has been given out
// (https://www.iana.org/assignments/ipv6-address-space): outside of it are other names for IPv4,
// such as a translator's, and what networks keep to themselves.
func unicast() netip.Prefix { return netip.MustParsePrefix("2000::/3") }

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
		netip.MustParsePrefix("2001::/23"), // Teredo and others
		netip.MustParsePrefix("2001:db8::/32"),
		netip.MustParsePrefix("2002::/16"), // 6to4
		netip.MustParsePrefix("3fff::/20"),
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
	case !a.IsGlobalUnicast(), a.IsPrivate(), a.IsLoopback(), a.IsLinkLocalUnicast(), a.Is6() && !unicast().Contains(a):
		return false
	}
	for _, s := range p.special {
		if s.Contains(a) {
			return false
		}
	}
	return true
}

// metadata tells whether an address may be that of an instance's metadata service: no name leads
// there, whatever its entry allows, since whoever answers for the name chooses the address.
func metadata(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsLinkLocalUnicast() || netip.MustParsePrefix("fd00:ec2::/32").Contains(a.WithZone(""))
}
