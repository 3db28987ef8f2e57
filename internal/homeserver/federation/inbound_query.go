// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"net/http"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

func (s *Service) version(context.Context, *httpapi.Request) (any, error) {
	type server struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	}
	return struct {
		Server server `json:"server"`
	}{server{"Konsil", s.config.Version}}, nil
}

// localUser reads a user id that must be one of the tenant's.
func localUser(r *httpapi.Request, name string) (id.User, error) {
	user, err := id.ParseUser(name)
	if err != nil {
		return "", mxerror.InvalidParam.With("That is not a user id.")
	}
	if user.Server() != r.Tenant.Name {
		return "", mxerror.InvalidParam.With("The user is not on this server.")
	}
	return user, nil
}

func (s *Service) queryProfile(ctx context.Context, r *httpapi.Request) (any, error) {
	if s.Profile == nil {
		return nil, mxerror.Unrecognized
	}
	user, err := localUser(r, r.Query("user_id"))
	if err != nil {
		return nil, err
	}
	fields, err := s.Profile(ctx, r.Tenant, user)
	if err != nil {
		return nil, err
	}
	field := r.Query("field")
	if field == "" {
		return fields, nil
	}
	if value, ok := fields[field]; ok {
		clear(fields)
		fields[field] = value
		return fields, nil
	}
	return struct{}{}, nil
}

func (s *Service) queryDirectory(ctx context.Context, r *httpapi.Request) (any, error) {
	if s.Rooms == nil {
		return nil, mxerror.Unrecognized
	}
	alias, err := id.ParseAlias(r.Query("room_alias"))
	if err != nil {
		return nil, mxerror.InvalidParam.With("room_alias is not a room alias.")
	}
	if alias.Server() != r.Tenant.Name {
		return nil, mxerror.NotFound.With("The alias is not on this server.")
	}
	room, servers, err := s.Rooms.ResolveAlias(ctx, r.Tenant, alias)
	if err != nil {
		return nil, err
	}
	return struct {
		Room    id.Room     `json:"room_id"`
		Servers []id.Server `json:"servers"`
	}{room, servers}, nil
}

// publicRooms answers with the tenant's own room directory.
func (s *Service) publicRooms(ctx context.Context, r *httpapi.Request) (any, error) {
	if s.Rooms == nil {
		return nil, mxerror.Unrecognized
	}
	var q room.PublicQuery
	if r.HTTP.Method == http.MethodPost {
		if err := r.DecodeOptional(&q); err != nil {
			return nil, err
		}
	} else {
		n, err := r.QueryInt("limit", 0, 1000)
		if err != nil {
			return nil, err
		}
		q.Limit, q.Since, q.Instance = n, r.Query("since"), r.Query("third_party_instance_id")
		if q.All, err = r.QueryBool("include_all_networks", false); err != nil {
			return nil, err
		}
	}
	return s.Rooms.Directory(ctx, r.Tenant.ID, q)
}

func (s *Service) userDevices(ctx context.Context, r *httpapi.Request) (any, error) {
	if s.Devices == nil {
		return nil, mxerror.Unrecognized
	}
	user, err := localUser(r, r.Var("userId"))
	if err != nil {
		return nil, err
	}
	return s.Devices.FederationDevices(ctx, r.Tenant, r.Origin, user)
}

func (s *Service) userKeysQuery(ctx context.Context, r *httpapi.Request) (any, error) {
	if s.Devices == nil {
		return nil, mxerror.Unrecognized
	}
	return s.Devices.FederationQuery(ctx, r.Tenant, r.Origin, r.Body)
}

func (s *Service) userKeysClaim(ctx context.Context, r *httpapi.Request) (any, error) {
	if s.Devices == nil {
		return nil, mxerror.Unrecognized
	}
	return s.Devices.FederationClaim(ctx, r.Tenant, r.Origin, r.Body)
}

func (s *Service) openIDUser(ctx context.Context, r *httpapi.Request) (any, error) {
	if s.OpenID == nil {
		return nil, mxerror.Unrecognized
	}
	token := r.Query("access_token")
	if token == "" {
		return nil, mxerror.MissingToken
	}
	user, err := s.OpenID(ctx, r.Tenant, token)
	if err != nil {
		return nil, err
	}
	return struct {
		Subject id.User `json:"sub"`
	}{user}, nil
}
