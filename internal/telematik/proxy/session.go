// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/permission"
)

const v3 = "/_matrix/client/v3"

// ask asks the homeserver something with the caller's own token. An answer other than 200 is an error, a *foreign one where it is JSON.
func (p *Proxy) ask(ctx context.Context, q *request, path string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.o.Client.Scheme+"://"+p.o.Client.Host+path, nil)
	if err != nil {
		return err
	}
	req.Host = q.Host
	req.Header.Set("Authorization", "Bearer "+q.token)
	if host, _, err := net.SplitHostPort(q.RemoteAddr); err == nil {
		req.Header.Set("X-Forwarded-For", host)
	}
	res, err := p.asks.Do(req)
	if err != nil {
		return errors.Join(mxerror.ConnectionFailed.With("The homeserver does not answer."), err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxRead))
	if err != nil {
		return errors.Join(mxerror.ConnectionFailed.With("The homeserver does not answer."), err)
	}
	if res.StatusCode != http.StatusOK {
		return &foreign{res.StatusCode, text}
	}
	if err := json.Unmarshal(text, v, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
		return fmt.Errorf("%s: %w", "an answer of the homeserver", err)
	}
	return nil
}

// identify finds out whose a request's token is, by asking the homeserver, and remembers it for a while. The refusal of a token is the homeserver's own.
func (p *Proxy) identify(ctx context.Context, q *request) (*httpapi.Session, error) {
	if q.session != nil {
		return q.session, nil
	}
	if q.token == "" {
		return nil, mxerror.MissingToken
	}
	as := ""
	if acted := q.query.Get("user_id"); acted != "" { // an application service acts for one of its users
		as = "?user_id=" + url.QueryEscape(acted)
	}
	key := sha256.Sum256([]byte(q.token + "\x00" + as))
	s, known := p.sessions.Get(key)
	if !known {
		var who struct {
			User   string    `json:"user_id"`
			Device id.Device `json:"device_id"`
			Guest  bool      `json:"is_guest"`
		}
		if err := p.ask(ctx, q, v3+"/account/whoami"+as, &who); err != nil {
			return nil, err
		}
		user, err := id.ParseUser(who.User)
		if err != nil || p.tenants[user.Server()] == nil {
			return nil, mxerror.Forbidden.With("This proxy does not serve the user's server.")
		}
		s = httpapi.Session{User: user, Device: who.Device, Guest: who.Guest}
	}
	q.session, q.tenant = &s, p.tenants[s.User.Server()]
	if known {
		return q.session, nil
	}
	if err := p.learn(ctx, q); err != nil {
		return nil, err
	}
	p.sessions.Set(key, s)
	return q.session, nil
}

// learn copies the caller's permission configuration from the account data at the homeserver, where it is kept (A_25043).
func (p *Proxy) learn(ctx context.Context, q *request) error {
	user, t := q.session.User, q.tenant
	if q.query.Get("user_id") != "" || q.session.Guest {
		return nil // neither has account data that this token reads
	}
	return p.o.Settings.update(ctx, t.ID, user, func() (string, error) {
		var content jsontext.Value
		err := p.ask(ctx, q, v3+"/user/"+url.PathEscape(string(user))+"/account_data/"+permission.ConfigType(t), &content)
		var theirs *foreign
		if errors.As(err, &theirs) && theirs.status == http.StatusNotFound {
			return "", nil
		}
		return string(content), err
	})
}

// ProveOpenID says whether a Matrix OpenID token is of one of the servers behind, as the directory asks too (server-server API, openid/userinfo).
func (p *Proxy) ProveOpenID(ctx context.Context, token string) error {
	to := p.o.Federation.Scheme + "://" + p.o.Federation.Host + "/_matrix/federation/v1/openid/userinfo?access_token=" + url.QueryEscape(token)
	for _, t := range p.o.Tenants {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, to, nil)
		if err != nil {
			return err
		}
		req.Host = string(t.Name)
		res, err := p.asks.Do(req)
		if err != nil {
			return errors.Join(mxerror.ConnectionFailed.With("The homeserver does not answer."), err)
		}
		res.Body.Close()
		if res.StatusCode == http.StatusOK {
			return nil
		}
	}
	return mxerror.UnknownToken
}

// tenantOf says whose rules hold for a request: those of the caller's server, else of the host that was asked, else the only ones, else the strictest.
func (p *Proxy) tenantOf(q *request) *tenant.Tenant {
	if q.tenant != nil {
		return q.tenant
	}
	if len(p.o.Tenants) == 1 {
		return p.o.Tenants[0]
	}
	host := strings.ToLower(q.Host)
	if name, _, err := net.SplitHostPort(host); err == nil && p.tenants[id.Server(host)] == nil {
		host = name
	}
	if t := p.tenants[id.Server(host)]; t != nil {
		return t
	}
	return p.strict
}
