// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"

	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Parties says between whom a request is, by its Authorization header (server-server API, "Request Authentication"), for a proxy that leaves the check
// of the signature to the homeserver behind it. destination is empty where the sender named none.
func Parties(header string) (origin, destination id.Server, err error) {
	c, err := parseXMatrix(header)
	return c.origin, c.destination, err
}

// CertificateName is the host that a server's certificate must be for: its own, or that which it delegates to.
func (l *Lookup) CertificateName(ctx context.Context, server id.Server) (string, error) {
	t, err := l.http.resolver.resolve(ctx, server)
	return t.name, err
}

// Delegation is what a host's /.well-known/matrix/server says, empty where it says nothing. It is kept as long as the host lets it be.
func (l *Lookup) Delegation(ctx context.Context, host string) id.Server {
	return l.http.resolver.delegated(ctx, host)
}
