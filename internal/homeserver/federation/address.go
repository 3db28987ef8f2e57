// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// refusedPrefixes are the ranges that no public server lives in. An attacker who controls a server name could otherwise point it at a
// machine of the operator's own network and have it asked.
var refusedPrefixes = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("192.88.99.0/24"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/127"),
	netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("fc00::/7"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fec0::/10"),
	netip.MustParsePrefix("ff00::/8"),
}

var (
	nat64 = netip.MustParsePrefix("64:ff9b::/96")
	sixTo = netip.MustParsePrefix("2002::/16")
)

// publicAddress says whether an address may be connected to without being configured. Addresses that embed an IPv4 address are judged by it.
func publicAddress(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	b := a.As16()
	switch {
	case a.Is6() && nat64.Contains(a):
		return publicAddress(netip.AddrFrom4([4]byte(b[12:16])))
	case a.Is6() && sixTo.Contains(a):
		return publicAddress(netip.AddrFrom4([4]byte(b[2:6])))
	}
	for _, p := range refusedPrefixes {
		if p.Contains(a) {
			return false
		}
	}
	return a.IsValid()
}

// Guard is the check of addresses for other slices that connect to what users name; nil when private ones are allowed.
func Guard(allowPrivate bool) func(network, address string, c syscall.RawConn) error {
	if allowPrivate {
		return nil
	}
	return guard(nil)
}

// guard is the connect-time check of a resolved address: it sees what is really connected to, so a name that resolves differently at a second
// look-up gains nothing.
func guard(allowed []netip.Prefix) func(network, address string, _ syscall.RawConn) error {
	return func(_, address string, _ syscall.RawConn) error {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return err
		}
		a, err := netip.ParseAddr(host)
		if err != nil {
			return err
		}
		a = a.Unmap().WithZone("")
		for _, p := range allowed {
			if p.Contains(a) {
				return nil
			}
		}
		if !publicAddress(a) {
			return fmt.Errorf("%w: %s", errPrivateAddress, a)
		}
		return nil
	}
}
