// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net/http"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// roomOrders are the operator's acts on rooms.
func (n *node) roomOrders(mux *http.ServeMux) {
	n.roomOrder(mux, "POST /admin/room/purge", func(ctx context.Context, t *tenant.Tenant, r *room.Room, o order) (any, error) {
		f, err := n.rooms.Figures(ctx, t, r)
		if err == nil && f.JoinedLocal > 0 && !o.Force {
			err = mxerror.New(http.StatusConflict, "M_UNKNOWN", "Users of this server are still in the room. Make them leave, or purge with force.")
		}
		if err != nil {
			return nil, err
		}
		return map[string]bool{"purged": true}, n.rooms.Purge(ctx, t, r)
	})
	n.roomOrder(mux, "POST /admin/room/merge-extremities", func(ctx context.Context, t *tenant.Tenant, r *room.Room, _ order) (any, error) {
		before, after, err := n.rooms.MergeExtremities(ctx, t, r)
		return map[string]int{"before": before, "after": after}, err
	})
}

func (n *node) roomOrder(mux *http.ServeMux, pattern string, act func(context.Context, *tenant.Tenant, *room.Room, order) (any, error)) {
	n.order(mux, pattern, func(ctx context.Context, t *tenant.Tenant, o order) (any, error) {
		in, err := n.rooms.Lookup(ctx, t.ID, o.Room)
		if err != nil {
			return nil, err
		}
		return act(ctx, t, in, o)
	})
}
