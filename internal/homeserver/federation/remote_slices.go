// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/encryption"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

var _ encryption.Remote = (*Service)(nil)

// value sends a call and returns the answer as JSON.
func (s *Service) value(ctx context.Context, t *tenant.Tenant, server id.Server, c call, p patience) (jsontext.Value, error) {
	var v jsontext.Value
	err := s.fetch(ctx, t, server, c, p, &v)
	return v, err
}

func (s *Service) post(ctx context.Context, t *tenant.Tenant, server id.Server, path string, body any) (jsontext.Value, error) {
	raw, err := json.Marshal(body, encodeOptions)
	if err != nil {
		return nil, err
	}
	return s.value(ctx, t, server, call{method: http.MethodPost, path: path, body: raw}, whenUp)
}

// QueryKeys asks another server for its users' devices and keys.
func (s *Service) QueryKeys(ctx context.Context, t *tenant.Tenant, server id.Server, body any) (jsontext.Value, error) {
	return s.post(ctx, t, server, v1+"/user/keys/query", body)
}

// ClaimKeys claims one-time keys of another server's users.
func (s *Service) ClaimKeys(ctx context.Context, t *tenant.Tenant, server id.Server, body any) (jsontext.Value, error) {
	return s.post(ctx, t, server, v1+"/user/keys/claim", body)
}

// UserDevices asks for the device list of another server's user.
func (s *Service) UserDevices(ctx context.Context, t *tenant.Tenant, user id.User) (jsontext.Value, error) {
	return s.value(ctx, t, user.Server(), call{method: http.MethodGet, path: pathOf(v1+"/user/devices", string(user))}, whenUp)
}

// RemoteProfile asks another server for a user's profile, or one field of it; package account asks.
func (s *Service) RemoteProfile(ctx context.Context, t *tenant.Tenant, user id.User, field string) (map[string]jsontext.Value, error) {
	query := url.Values{"user_id": {string(user)}}
	if field != "" {
		query.Set("field", field)
	}
	var fields map[string]jsontext.Value
	err := s.fetch(ctx, t, user.Server(), call{method: http.MethodGet, path: v1 + "/query/profile", query: query}, always, &fields)
	return fields, err
}

// RemoteDirectory asks for a page of another server's room directory; package room asks (room.Options.RemoteDirectory).
func (s *Service) RemoteDirectory(ctx context.Context, t *tenant.Tenant, server id.Server, q room.PublicQuery) (*room.PublicPage, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	var page room.PublicPage
	if err := s.fetch(ctx, t, server, call{method: http.MethodPost, path: v1 + "/publicRooms", body: body}, always, &page); err != nil {
		return nil, err
	}
	page.Chunk = slices.DeleteFunc(page.Chunk, func(p room.PublicRoom) bool { _, err := id.ParseRoom(string(p.RoomID)); return err != nil })
	if page.Chunk == nil {
		page.Chunk = []room.PublicRoom{}
	}
	return &page, nil
}

// ByTimestamp asks another server for the event of a room closest to a time in ms; package room asks (room.Options.RemoteByTime).
func (s *Service) ByTimestamp(ctx context.Context, t *tenant.Tenant, server id.Server, r id.Room, ts int64, backwards bool) (id.Event, int64, error) {
	var doc struct {
		Event     string `json:"event_id"`
		Timestamp int64  `json:"origin_server_ts"`
	}
	query := url.Values{"ts": {strconv.FormatInt(ts, 10)}, "dir": {"f"}}
	if backwards {
		query.Set("dir", "b")
	}
	c := call{method: http.MethodGet, path: pathOf(v1+"/timestamp_to_event", string(r)), query: query, timeout: timestampTimeout}
	if err := s.fetch(ctx, t, server, c, whenUp, &doc); err != nil {
		return "", 0, err
	}
	eid, err := id.ParseEvent(doc.Event)
	if err != nil {
		return "", 0, malformed(server, err)
	}
	return eid, doc.Timestamp, nil
}

// timestampTimeout bounds one of several servers' answers that a client waits for.
const timestampTimeout = 10 * time.Second

// OpenIDSubject asks another server whose OpenID token this is. The answer must be a user of that server. Central services ask it.
func (s *Service) OpenIDSubject(ctx context.Context, t *tenant.Tenant, server id.Server, token string) (id.User, error) {
	var doc struct {
		Subject string `json:"sub"`
	}
	c := call{method: http.MethodGet, path: v1 + "/openid/userinfo", query: url.Values{"access_token": {token}}, unsigned: true}
	if err := s.fetch(ctx, t, server, c, always, &doc); err != nil {
		return "", err
	}
	user, err := id.ParseUser(doc.Subject)
	if err != nil || user.Server() != server {
		return "", malformed(server, errForeignSubject)
	}
	return user, nil
}

// Get sends a signed GET for a slice that reads the answer itself (media). The caller closes the body, which gives at most max bytes (0: the
// configured bound for media) and fails beyond them.
func (s *Service) Get(ctx context.Context, t *tenant.Tenant, server id.Server, path string, query url.Values, max int64) (http.Header, io.ReadCloser, error) {
	if max <= 0 {
		max = s.config.MaxMedia
	}
	reply, err := s.ask(ctx, t, server, call{method: http.MethodGet, path: path, query: query, limit: max, timeout: s.config.JoinTimeout}, always)
	if err != nil {
		return nil, nil, err
	}
	return reply.header, reply.body, nil
}
