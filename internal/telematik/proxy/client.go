// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/permission"
)

// look is a route whose requests or answers a rule is about. do returns an answer where the homeserver is not asked at all.
type look struct {
	route string
	do    func(*Proxy, context.Context, *request) (answer any, err error)
}

// looks are tried in order; GET stands for HEAD too. Routes without a method are looked at whatever the method.
var looks = []look{
	{"POST ~/register", (*Proxy).register},
	{"POST ~/createRoom", (*Proxy).createRoom},
	{"POST ~/rooms/*/invite", (*Proxy).invite},
	{"POST ~/rooms/*/upgrade", (*Proxy).upgrade},
	{"PUT ~/rooms/*/send/*/*", (*Proxy).send},
	{"PUT ~/rooms/*/state/...", (*Proxy).setState},
	{"PUT ~/rooms/*/redact/*/*", (*Proxy).redact},
	{"GET ~/profile/...", (*Proxy).profile},
	{"~/user_directory/search", (*Proxy).searchUsers},
	{"PUT ~/presence/*/status", (*Proxy).presence},
	{"GET ~/media/download/*/...", (*Proxy).remoteMedia},
	{"GET ~/media/thumbnail/*/...", (*Proxy).remoteMedia},
	{"GET /_matrix/media/*/download/*/...", (*Proxy).remoteMedia},
	{"GET /_matrix/media/*/thumbnail/*/...", (*Proxy).remoteMedia},
	{"GET /_matrix/client/versions", (*Proxy).versions},
	{"GET ~/capabilities", (*Proxy).capabilities},
	{"PUT ~/user/*/account_data/*", (*Proxy).accountData},
	{"PUT /_matrix/client/unstable/org.matrix.msc3391/user/*/account_data/*", (*Proxy).accountData},
	{"DELETE /_matrix/client/unstable/org.matrix.msc3391/user/*/account_data/*", (*Proxy).accountData},
	{"~/sync", (*Proxy).seen},
	{"/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", (*Proxy).seen},
}

// uploads may be as large as files.
var uploads = []string{"/_matrix/media/*/upload/..."}

// inspectClient asks the rules about a client's request. An answer is the proxy's own; without one the request is handed on.
func (p *Proxy) inspectClient(w http.ResponseWriter, q *request) (answer any, err error) {
	method := q.Method
	switch method {
	case http.MethodOptions: // changes nothing and shows nothing
		return nil, nil
	case http.MethodHead:
		method = http.MethodGet
	}
	named := func(route string) bool { return permission.Names(route, method, q.path) }
	if q.token != "" && named("GET ~/profile/...") {
		if _, err := p.identify(q.Context(), q); err != nil {
			return nil, err
		}
	} else if q.token != "" && len(p.o.Tenants) > 1 {
		_, _ = p.identify(q.Context(), q) // whose token is wrong learns it from the homeserver
	}
	q.tenant = p.tenantOf(q)
	row, err := p.o.Rules.Path(q.tenant, method, q.path, q.session)
	if row != nil {
		q.row = row.Name
	}
	if err != nil {
		return nil, err
	}
	limit := int64(maxOther)
	if slices.ContainsFunc(uploads, named) {
		limit = p.o.MaxUpload
	}
	q.Body = http.MaxBytesReader(w, q.Body, limit)
	for _, l := range looks {
		if named(l.route) {
			return l.do(p, q.Context(), q)
		}
	}
	return nil, nil
}

// register refuses accounts that clients make by themselves; guests too.
func (p *Proxy) register(context.Context, *request) (any, error) { return nil, p.o.Rules.Register() }

// seen copies the permission configuration of who begins to sync.
func (p *Proxy) seen(ctx context.Context, q *request) (any, error) {
	if q.token == "" {
		return nil, nil
	}
	_, err := p.identify(ctx, q)
	return nil, err
}

// profile shows insured people to those who share a room with them only.
func (p *Proxy) profile(ctx context.Context, q *request) (any, error) {
	user, err := id.ParseUser(q.segments[4])
	if err != nil {
		return nil, mxerror.InvalidParam.With("userId is not a user id")
	}
	return nil, p.o.Rules.Profile(ctx, q.tenant, q.session.User, user, func(ctx context.Context) (bool, error) { return p.shareRoom(ctx, q, user) })
}

// maxRooms bounds the rooms that are looked through for a common one.
const maxRooms = 500

// shareRoom says whether the caller is in a room together with somebody, by the homeserver's list of members of each of the caller's rooms.
func (p *Proxy) shareRoom(ctx context.Context, q *request, user id.User) (bool, error) {
	var mine struct {
		Rooms []string `json:"joined_rooms"`
	}
	if err := p.ask(ctx, q, v3+"/joined_rooms", &mine); err != nil {
		return false, err
	}
	for _, room := range mine.Rooms[:min(len(mine.Rooms), maxRooms)] {
		var member struct {
			Membership string `json:"membership"`
		}
		err := p.ask(ctx, q, v3+"/rooms/"+url.PathEscape(room)+"/state/m.room.member/"+url.PathEscape(string(user)), &member)
		if err == nil && member.Membership == "join" {
			return true, nil
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
	return false, nil
}

// searchUsers finds nobody where people are not found.
func (p *Proxy) searchUsers(_ context.Context, q *request) (any, error) {
	if p.o.Rules.UserDirectory(q.tenant) {
		return nil, nil
	}
	if q.token == "" {
		return nil, mxerror.MissingToken
	}
	return map[string]any{"results": []any{}, "limited": false}, nil
}

// presence bounds status messages.
func (p *Proxy) presence(_ context.Context, q *request) (any, error) {
	var status struct {
		Message *string `json:"status_msg"`
	}
	if err := q.decode(maxRead, &status); err != nil || status.Message == nil {
		return nil, err
	}
	return nil, p.o.Rules.Presence(q.tenant, *status.Message)
}

// remoteMedia asks for the server that a file is of (A_26328).
func (p *Proxy) remoteMedia(ctx context.Context, q *request) (any, error) {
	at := 5 // /_matrix/client/v1/media/download/{server}
	if q.segments[1] == "media" {
		at = 4 // /_matrix/media/v3/download/{server}
	}
	server, err := id.ParseServer(q.segments[at])
	if err != nil {
		return nil, mxerror.NotFound
	}
	return nil, p.o.Rules.Federate(ctx, q.tenant, server)
}

// accountData copies a permission configuration as soon as the homeserver has it.
func (p *Proxy) accountData(ctx context.Context, q *request) (any, error) {
	if q.segments[len(q.segments)-1] != permission.ConfigType(q.tenant) {
		return nil, nil
	}
	if _, err := p.identify(ctx, q); err != nil {
		return nil, err
	}
	q.after = func(res *http.Response) error {
		if res.StatusCode != http.StatusOK {
			return nil
		}
		return p.learn(context.WithoutCancel(ctx), q)
	}
	return nil, nil
}

// threadFeatures are how homeservers tell clients that they have threads, which the network has not.
var threadFeatures = []string{"org.matrix.msc3440.stable", "org.matrix.msc4306", "org.matrix.msc4308"}

// versions names no version of the client-server API after the network's, and no threads.
func (p *Proxy) versions(_ context.Context, q *request) (any, error) {
	q.Header.Del("Accept-Encoding")
	q.after = func(res *http.Response) error {
		return rewrite(res, func(object map[string]any) {
			all, _ := object["versions"].([]any)
			if last := slices.Index(all, any(p.o.MatrixVersion)); last >= 0 {
				object["versions"] = all[:last+1]
			}
			features, _ := object["unstable_features"].(map[string]any)
			for _, name := range threadFeatures {
				if _, named := features[name]; named {
					features[name] = false
				}
			}
		})
	}
	return nil, nil
}

// capabilities name what the rules leave.
func (p *Proxy) capabilities(_ context.Context, q *request) (any, error) {
	q.Header.Del("Accept-Encoding")
	q.after = func(res *http.Response) error {
		return rewrite(res, func(object map[string]any) {
			offers, _ := object["capabilities"].(map[string]any)
			if offers == nil {
				return
			}
			offers["m.3pid_changes"] = map[string]any{"enabled": false}
			rooms, _ := offers["m.room_versions"].(map[string]any)
			available, _ := rooms["available"].(map[string]any)
			if available == nil {
				return
			}
			rooms["default"] = p.o.Rules.DefaultRoomVersion()
			for v := range maps.Keys(available) {
				if !slices.Contains(p.o.Rules.RoomVersions(), v) {
					available[v] = "unstable"
				}
			}
		})
	}
	return nil, nil
}
