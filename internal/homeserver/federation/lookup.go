// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Lookup asks homeservers without being one: a central service that has no server name and signs nothing. It is safe for concurrent use.
type Lookup struct {
	config Config
	http   *overHTTP
}

// NewLookup finds servers as a homeserver with this configuration does.
func NewLookup(c Config) *Lookup {
	l := &Lookup{config: c.withDefaults()}
	l.http = newHTTP(&l.config, newResolver(&l.config, time.Now), nil)
	return l
}

// Close drops idle connections.
func (l *Lookup) Close() { l.http.close() }

var errNoUse = errors.New("it answers with an error of its own")

// maxSubject bounds the answer with a user's id in bytes.
const maxSubject = 64 << 10

// OpenIDUser asks a server whose OpenID token it is (server-server API, openid/userinfo). Its refusal is M_UNKNOWN_TOKEN, whatever it says in
// detail; any other error means that it gave no answer of use.
func (l *Lookup) OpenIDUser(ctx context.Context, server id.Server, token string) (id.User, error) {
	c := &call{method: http.MethodGet, path: v1 + "/openid/userinfo", query: url.Values{"access_token": {token}}, unsigned: true, timeout: l.config.RequestTimeout, limit: maxSubject}
	reply, err := l.http.round(ctx, nil, server, c)
	if err != nil {
		return "", err
	}
	defer reply.body.Close()
	body, err := io.ReadAll(reply.body)
	switch {
	case err != nil:
		return "", &Unreachable{server, err}
	case reply.status >= 500:
		return "", &Unreachable{server, errNoUse}
	case reply.status != http.StatusOK:
		return "", mxerror.UnknownToken.With("The OpenID token is unknown to %s.", server)
	}
	var doc struct {
		Subject string `json:"sub"`
	}
	if err := httpapi.DecodeJSON(body, &doc); err != nil {
		return "", malformed(server, err)
	}
	user, err := id.ParseUser(doc.Subject)
	if err != nil || user.Server() != server {
		return "", malformed(server, errForeignSubject)
	}
	return user, nil
}
