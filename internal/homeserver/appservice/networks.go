// SPDX-License-Identifier: Apache-2.0

package appservice

import (
	"context"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// maxNetwork bounds the name of a network in bytes.
const maxNetwork = 255

// instanceID names a service's instance of a network among all of the tenant's.
func instanceID(service, network string) string { return service + "|" + network }

// putListing puts a room into the directory of a service's network or takes it out (application-service API, "Published room directories").
func (s *Service) putListing(ctx context.Context, r *httpapi.Request) (any, error) {
	svc, err := s.caller(r.Tenant, r.Session.AppService)
	if err != nil {
		return nil, err
	}
	var q struct {
		Visibility *string `json:"visibility"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Visibility == nil {
		return nil, mxerror.MissingParam.With("visibility is missing.")
	}
	network := r.Var("networkId")
	if len(network) > maxNetwork {
		return nil, mxerror.InvalidParam.With("networkId is longer than %d bytes.", maxNetwork)
	}
	name, err := r.Room()
	if err != nil {
		return nil, err
	}
	in, err := s.o.Rooms.Lookup(ctx, r.Tenant.ID, name)
	if err != nil {
		return nil, err
	}
	query := "DELETE FROM appservice_room WHERE tenant = $1 AND service = $2 AND network = $3 AND room = $4"
	switch *q.Visibility {
	case "private":
	case "public":
		query = "INSERT INTO appservice_room (tenant, service, network, room) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"
	default:
		return nil, mxerror.InvalidParam.With("visibility is public or private.")
	}
	_, err = s.o.DB.Exec(ctx, query, int64(r.Tenant.ID), svc.ID, network, in.NID)
	return nil, err
}

// Networks lists the rooms of a network instance, or of all of them (""). Package room asks it for the public directory.
func (s *Service) Networks(ctx context.Context, t tenant.ID, instance string) ([]int64, error) {
	query, args := "SELECT DISTINCT room FROM appservice_room WHERE tenant = $1", []any{int64(t)}
	if service, network, ok := strings.Cut(instance, "|"); ok {
		query, args = query+" AND service = $2 AND network = $3", append(args, service, network)
	} else if instance != "" {
		query, args = query+" AND network = $2", append(args, instance)
	}
	rows, err := s.o.DB.Query(ctx, query+" ORDER BY room", args...)
	return database.All(rows, err, database.Column[int64])
}
