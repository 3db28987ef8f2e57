// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"net/http"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// order is what konsil admin asks a running server to do for a tenant. Orders go through the server that runs, because it holds rooms and senders in
// memory (docs/decisions/0056-operators-act-through-the-server.md).
type order struct {
	Tenant id.Server `json:"tenant"`
	// Room is the subject of orders about rooms; Force purges one in which local users still are.
	Room  id.Room `json:"room"`
	Force bool    `json:"force"`
	// Destination is the subject of orders about federation.
	Destination id.Server `json:"destination"`
}

// maxOrder bounds a request of the operator's, in bytes.
const maxOrder = 4 << 10

// order serves an order: the reply in JSON, or {"error": …}.
func (n *node) order(mux *http.ServeMux, pattern string, act func(context.Context, *tenant.Tenant, order) (any, error)) {
	n.cellOrder(mux, pattern, func(ctx context.Context, o order) (any, error) {
		t, err := n.tenants.ByName(ctx, o.Tenant)
		if errors.Is(err, tenant.ErrUnknown) {
			return nil, mxerror.NotFound.With("There is no tenant %s here.", o.Tenant)
		}
		if err != nil {
			return nil, err
		}
		return act(ctx, t, o)
	})
}

// cellOrder is order where the tenant may be left out.
func (n *node) cellOrder(mux *http.ServeMux, pattern string, act func(context.Context, order) (any, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		reply, err := func() (any, error) {
			var o order
			if err := json.UnmarshalRead(http.MaxBytesReader(w, r.Body, maxOrder), &o); err != nil {
				return nil, mxerror.BadJSON.With("%v", err)
			}
			return act(r.Context(), o)
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

// federationOrders are the operator's acts on destinations.
func (n *node) federationOrders(mux *http.ServeMux) {
	n.order(mux, "POST /admin/federation/retry", func(ctx context.Context, t *tenant.Tenant, o order) (any, error) {
		return map[string]id.Server{"retried": o.Destination}, n.federation.Retry(ctx, t, o.Destination)
	})
	n.order(mux, "POST /admin/federation/reset", func(ctx context.Context, t *tenant.Tenant, o order) (any, error) {
		return map[string]id.Server{"reset": o.Destination}, n.federation.Reset(ctx, t, o.Destination)
	})
}

// epochOrder is the operator's word that commits may have been lost.
func (n *node) epochOrder(mux *http.ServeMux) {
	n.cellOrder(mux, "POST /admin/epoch/raise", func(ctx context.Context, o order) (any, error) {
		raised, err := n.raiseEpoch(ctx, o.Tenant)
		return map[string]int{"raised": raised}, err
	})
}
