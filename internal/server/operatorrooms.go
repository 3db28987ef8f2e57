// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"net/http"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// roomOrder is what konsil admin room asks a running server to do with a room.
type roomOrder struct {
	Tenant id.Server `json:"tenant"`
	Room   id.Room   `json:"room"`
	// Force purges a room in which local users still are.
	Force bool `json:"force"`
}

// maxOrder bounds a request of the operator's, in bytes.
const maxOrder = 4 << 10

// roomOrders are the operator's acts on rooms. They go through the server that runs, because it holds rooms in memory
// (docs/decisions/0056-operators-act-through-the-server.md).
func (n *node) roomOrders(mux *http.ServeMux) {
	n.order(mux, "POST /admin/room/purge", func(ctx context.Context, t *tenant.Tenant, r *room.Room, o roomOrder) (any, error) {
		f, err := n.rooms.Figures(ctx, t, r)
		if err == nil && f.JoinedLocal > 0 && !o.Force {
			err = mxerror.New(http.StatusConflict, "M_UNKNOWN", "Users of this server are still in the room. Make them leave, or purge with force.")
		}
		if err != nil {
			return nil, err
		}
		return map[string]bool{"purged": true}, n.rooms.Purge(ctx, t, r)
	})
	n.order(mux, "POST /admin/room/merge-extremities", func(ctx context.Context, t *tenant.Tenant, r *room.Room, _ roomOrder) (any, error) {
		before, after, err := n.rooms.MergeExtremities(ctx, t, r)
		return map[string]int{"before": before, "after": after}, err
	})
}

func (n *node) order(mux *http.ServeMux, pattern string, act func(context.Context, *tenant.Tenant, *room.Room, roomOrder) (any, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		reply, err := func() (any, error) {
			var o roomOrder
			if err := json.UnmarshalRead(http.MaxBytesReader(w, r.Body, maxOrder), &o); err != nil {
				return nil, mxerror.BadJSON.With("%v", err)
			}
			t, err := n.tenants.ByName(r.Context(), o.Tenant)
			if errors.Is(err, tenant.ErrUnknown) {
				return nil, mxerror.NotFound.With("There is no tenant %s here.", o.Tenant)
			}
			if err != nil {
				return nil, err
			}
			in, err := n.rooms.Lookup(r.Context(), t.ID, o.Room)
			if err != nil {
				return nil, err
			}
			return act(r.Context(), t, in, o)
		}()
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			status := http.StatusInternalServerError
			if e, ok := errors.AsType[*mxerror.Error](err); ok {
				status = e.Status
			}
			w.WriteHeader(status)
			reply = map[string]string{"error": err.Error()}
		}
		_ = json.MarshalWrite(w, reply)
	})
}
