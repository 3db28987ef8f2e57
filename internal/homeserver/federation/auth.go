// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"crypto/ed25519"
	"net/http"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// maxAuthorizations bounds how many signatures of one request are looked at: a server may sign with several keys.
const maxAuthorizations = 4

// AuthenticateServer finds out which server sent a request to a tenant (server-server API, "Request Authentication"). It implements
// httpapi.ServerAuthenticator. Everything that is wrong with the signature is 401; a server that the policy does not let in gets the policy's
// error, before its keys are asked for.
func (s *Service) AuthenticateServer(ctx context.Context, t *tenant.Tenant, r *http.Request, body []byte) (id.Server, error) {
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return "", mxerror.Unauthorized.With("The request is not signed (no Authorization header).")
	}
	if len(headers) > maxAuthorizations {
		return "", mxerror.Unauthorized.With("The request has more than %d Authorization headers.", maxAuthorizations)
	}
	all := make([]credentials, 0, len(headers))
	for _, h := range headers {
		c, err := parseXMatrix(h)
		if err != nil {
			return "", mxerror.Unauthorized.With("%s", err.Error())
		}
		if c.destination != "" && c.destination != t.Name {
			return "", mxerror.Unauthorized.With("The request is meant for %s, not for this server.", c.destination)
		}
		if len(all) > 0 && c.origin != all[0].origin {
			return "", mxerror.Unauthorized.With("The request claims to come from several servers.")
		}
		all = append(all, c)
	}
	origin := all[0].origin
	if origin == t.Name {
		return "", mxerror.Unauthorized.With("A server does not talk with itself over federation.")
	}
	if err := s.Policy.Federate(ctx, t, origin); err != nil {
		return "", err
	}
	var reason error
	for _, c := range all {
		if reason = s.verifyRequest(ctx, r, body, c); reason == nil {
			s.heard(ctx, t, origin)
			return origin, nil
		}
	}
	if notVerdict(ctx, reason) {
		return "", reason
	}
	s.Log.InfoContext(ctx, "request of a server refused", "tenant", string(t.Name), "origin", string(origin), "error", reason)
	return "", mxerror.Unauthorized.With("The signature of %s could not be verified.", origin)
}

// verifyRequest checks one signature of a request.
func (s *Service) verifyRequest(ctx context.Context, r *http.Request, body []byte, c credentials) error {
	uri := r.RequestURI
	if uri == "" || !strings.HasPrefix(uri, "/") {
		uri = r.URL.RequestURI()
	}
	object, err := signedRequest(r.Method, uri, c.origin, c.destination, body)
	if err != nil {
		return err
	}
	signature, err := signing.Decode(c.signature)
	if err != nil {
		return err
	}
	public, err := s.keys.find(ctx, keyName{c.origin, c.key}, s.now().UnixMilli(), true)
	if err != nil {
		return err
	}
	if !ed25519.Verify(public, object, signature) {
		return errWrongSignature
	}
	return nil
}
