// SPDX-License-Identifier: Apache-2.0

package id

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// MaxLength is the greatest length of a user id, room id, alias, event id, event type and state key, in bytes.
const MaxLength = 255

// MaxServerLength is the greatest length of a server name in bytes (the specification recommends 230 for new ones).
const MaxServerLength = MaxLength

// Server is a server name: host with optional port. Names are case-sensitive.
type Server string

// ParseServer checks a server name: a DNS name (with or without dot), an IPv4 literal or an IPv6 literal in
// brackets, each with an optional port of one to five digits.
func ParseServer(s string) (Server, error) {
	if s == "" || len(s) > MaxServerLength {
		return "", fmt.Errorf("server name of %d bytes", len(s))
	}
	host, port, hasPort := splitHostPort(s)
	if hasPort {
		if len(port) == 0 || len(port) > 5 {
			return "", fmt.Errorf("server name %q: bad port", s)
		}
		for i := range len(port) {
			if port[i] < '0' || port[i] > '9' {
				return "", fmt.Errorf("server name %q: bad port", s)
			}
		}
		if n, _ := strconv.Atoi(port); n > 65535 {
			return "", fmt.Errorf("server name %q: port out of range", s)
		}
	}
	if strings.HasPrefix(host, "[") {
		inner, ok := strings.CutSuffix(host[1:], "]")
		a, err := netip.ParseAddr(inner)
		if !ok || err != nil || !a.Is6() || a.Zone() != "" {
			return "", fmt.Errorf("server name %q: bad IPv6 literal", s)
		}
		return Server(s), nil
	}
	if host == "" {
		return "", fmt.Errorf("server name %q: no host", s)
	}
	for i := range len(host) {
		c := host[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.') {
			return "", fmt.Errorf("server name %q: character %q not allowed", s, c)
		}
	}
	return Server(s), nil
}

// splitHostPort cuts at the colon behind the host; brackets of an IPv6 literal stay with the host.
func splitHostPort(s string) (host, port string, hasPort bool) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return s, "", false
		}
		rest := s[end+1:]
		if rest == "" {
			return s, "", false
		}
		if rest[0] != ':' {
			return s, "", false // the stray text makes the host invalid
		}
		return s[:end+1], rest[1:], true
	}
	return strings.Cut(s, ":")
}

// Host is the name without the port; an IPv6 literal keeps its brackets.
func (s Server) Host() string {
	h, _, _ := splitHostPort(string(s))
	return h
}

// Port is the explicit port, 0 when the name has none.
func (s Server) Port() int {
	_, p, ok := splitHostPort(string(s))
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(p)
	if err != nil || n < 0 || n > 65535 {
		return 0
	}
	return n
}

// IsLiteral reports whether the host is an IP address, which is resolved without well-known and SRV.
func (s Server) IsLiteral() bool {
	h := s.Host()
	if strings.HasPrefix(h, "[") {
		return true
	}
	_, err := netip.ParseAddr(h)
	return err == nil
}

// String implements fmt.Stringer.
func (s Server) String() string { return string(s) }
