// SPDX-License-Identifier: Apache-2.0

package push

import (
	"context"
	"database/sql"
	"net/url"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Pusher is where a user's notifications go (client-server API, "Pushers").
type Pusher struct {
	AppDisplayName    string         `json:"app_display_name"`
	AppID             string         `json:"app_id"`
	Data              jsontext.Value `json:"data"`
	DeviceDisplayName string         `json:"device_display_name"`
	Kind              string         `json:"kind"`
	Lang              string         `json:"lang"`
	ProfileTag        string         `json:"profile_tag,omitzero"`
	Pushkey           string         `json:"pushkey"`
}

// Pushers lists a user's pushers.
func (s *Service) Pushers(ctx context.Context, t tenant.ID, user id.User) ([]Pusher, error) {
	rows, err := s.o.DB.Query(ctx, `SELECT app_display_name, app_id, data, device_display_name, kind, lang, profile_tag, pushkey FROM pusher
		WHERE tenant = $1 AND user_id = $2 ORDER BY created, app_id, pushkey`, int64(t), string(user))
	return database.All(rows, err, func(rows *sql.Rows) (p Pusher, err error) {
		var data string
		err = rows.Scan(&p.AppDisplayName, &p.AppID, &data, &p.DeviceDisplayName, &p.Kind, &p.Lang, &p.ProfileTag, &p.Pushkey)
		p.Data = jsontext.Value(data)
		return p, err
	})
}

type pushersReply struct {
	Pushers []Pusher `json:"pushers"`
}

func (s *Service) getPushers(ctx context.Context, r *httpapi.Request) (any, error) {
	list, err := s.Pushers(ctx, r.Tenant.ID, r.Session.User)
	return pushersReply{list}, err
}

// Bounds of a pusher's fields in bytes; the first two are the specification's.
const (
	maxAppID       = 64
	maxPushkey     = 512
	maxPusherField = 1024
	maxPusherData  = 16 << 10
)

// pusherRequest is the body of POST /pushers/set. Kind is raw: null deletes, absent is an error.
type pusherRequest struct {
	AppID             string         `json:"app_id"`
	Pushkey           string         `json:"pushkey"`
	Kind              jsontext.Value `json:"kind"`
	AppDisplayName    *string        `json:"app_display_name"`
	DeviceDisplayName *string        `json:"device_display_name"`
	ProfileTag        string         `json:"profile_tag"`
	Lang              *string        `json:"lang"`
	Data              jsontext.Value `json:"data"`
	Append            bool           `json:"append"`
}

func (s *Service) setPusher(ctx context.Context, r *httpapi.Request) (any, error) {
	var q pusherRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.AppID == "" || q.Pushkey == "" || q.Kind == nil {
		return nil, mxerror.MissingParam.With("app_id, pushkey and kind are needed")
	}
	if len(q.AppID) > maxAppID || len(q.Pushkey) > maxPushkey {
		return nil, mxerror.InvalidParam.With("app_id has at most %d bytes, pushkey at most %d", maxAppID, maxPushkey)
	}
	t, user := int64(r.Tenant.ID), string(r.Session.User)
	if q.Kind.Kind() == 'n' {
		_, err := s.o.DB.Exec(ctx, "DELETE FROM pusher WHERE tenant = $1 AND user_id = $2 AND app_id = $3 AND pushkey = $4", t, user, q.AppID, q.Pushkey)
		return nil, err
	}
	kind, err := s.check(&q)
	if err != nil {
		return nil, err
	}
	if err := s.hasPushers(ctx, r.Tenant.ID); err != nil {
		return nil, err
	}
	return nil, s.o.DB.Write(ctx, func(tx *database.Tx) error {
		if !q.Append {
			if _, err := tx.Exec(ctx, "DELETE FROM pusher WHERE tenant = $1 AND app_id = $2 AND pushkey = $3 AND user_id <> $4", t, q.AppID, q.Pushkey, user); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `INSERT INTO pusher (tenant, user_id, app_id, pushkey, device, kind, app_display_name, device_display_name, profile_tag, lang, data, created,
			position) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, (SELECT position FROM tenant WHERE tenant = $1))
			ON CONFLICT (tenant, user_id, app_id, pushkey) DO UPDATE SET device = excluded.device, kind = excluded.kind, app_display_name = excluded.app_display_name,
			device_display_name = excluded.device_display_name, profile_tag = excluded.profile_tag, lang = excluded.lang, data = excluded.data,
			attempts = 0, failing = 0, retry_at = 0`,
			t, user, q.AppID, q.Pushkey, string(r.Session.Device), kind, *q.AppDisplayName, *q.DeviceDisplayName, q.ProfileTag, *q.Lang, string(q.Data), s.o.Now().UnixMilli())
		return err
	})
}

// DevicesRemoved adds to the plan that removes devices that their pushers go. Package account calls it.
func (s *Service) DevicesRemoved(user id.User, devices []id.Device, plan *stream.Plan) {
	for _, d := range devices {
		plan.Rows = append(plan.Rows, stream.Statement{SQL: "DELETE FROM pusher WHERE tenant = $1 AND user_id = $2 AND device = $3",
			Args: []any{int64(plan.Tenant), string(user), string(d)}})
	}
}

// check says whether the request describes a pusher, and returns its kind.
func (s *Service) check(q *pusherRequest) (string, error) {
	var kind string
	if json.Unmarshal(q.Kind, &kind) != nil || q.Kind.Kind() != '"' {
		return "", mxerror.BadJSON.With("kind must be a string or null")
	}
	if q.AppDisplayName == nil || q.DeviceDisplayName == nil || q.Lang == nil || q.Data == nil {
		return "", mxerror.MissingParam.With("app_display_name, device_display_name, lang and data are needed")
	}
	if q.Data.Kind() != '{' {
		return "", mxerror.BadJSON.With("data must be an object")
	}
	for _, field := range []string{*q.AppDisplayName, *q.DeviceDisplayName, *q.Lang, q.ProfileTag} {
		if len(field) > maxPusherField {
			return "", mxerror.InvalidParam.With("a field is longer than %d bytes", maxPusherField)
		}
	}
	if len(q.Data) > maxPusherData {
		return "", mxerror.InvalidParam.With("data is larger than %d bytes", maxPusherData)
	}
	switch kind {
	case "http":
		return kind, s.checkGateway(q.Data)
	case "email":
		return "", mxerror.InvalidParam.With("this server sends no mail")
	}
	return "", mxerror.InvalidParam.With("%q is no kind of pusher", kind)
}

// checkGateway checks data.url: an HTTPS address with the path of the push gateway API. Plain HTTP is for networks of one's own.
func (s *Service) checkGateway(data jsontext.Value) error {
	var d struct {
		URL *string `json:"url"`
	}
	if json.Unmarshal(data, &d) != nil {
		return mxerror.BadJSON.With("data.url must be a string")
	}
	if d.URL == nil {
		return mxerror.MissingParam.With("data.url is missing")
	}
	u, err := url.Parse(*d.URL)
	if err != nil || u.Host == "" || u.Path != "/_matrix/push/v1/notify" || u.User != nil ||
		u.Scheme != "https" && !(u.Scheme == "http" && s.o.AllowPrivate) {
		return mxerror.InvalidParam.With("data.url must be an https address ending with /_matrix/push/v1/notify")
	}
	return nil
}
