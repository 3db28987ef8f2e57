// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/encryption"
	"github.com/konsil-health/konsil/internal/homeserver/ephemeral"
	"github.com/konsil-health/konsil/internal/homeserver/federation"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Joints translate between packages that do not know each other.

// receiptUnits gives federation the receipts of a tenant's users.
type receiptUnits struct{ passing *ephemeral.Service }

var _ federation.Source = receiptUnits{}

// Outgoing implements federation.Source.
func (u receiptUnits) Outgoing(ctx context.Context, t *tenant.Tenant, destination id.Server, after, upTo int64, limit int) ([]federation.EDU, int64, error) {
	units, complete, err := u.passing.Outgoing(ctx, t, destination, after, upTo, limit)
	out := make([]federation.EDU, len(units))
	for i, unit := range units {
		out[i] = federation.EDU{Type: unit.Type, Content: unit.Content, Position: unit.Position}
	}
	return out, complete, err
}

// Delivered implements federation.Source. Receipts stay: the next one takes the place of the last.
func (receiptUnits) Delivered(context.Context, *database.Tx, *tenant.Tenant, id.Server, int64) error {
	return nil
}

// deviceUnits gives federation what the encryption slice has to tell other servers.
type deviceUnits struct{ keys *encryption.Service }

var _ federation.Source = deviceUnits{}

// Outgoing implements federation.Source.
func (d deviceUnits) Outgoing(ctx context.Context, t *tenant.Tenant, destination id.Server, after, upTo int64, limit int) ([]federation.EDU, int64, error) {
	units, complete, err := d.keys.Outgoing(ctx, t, destination, after, upTo, limit)
	if err != nil {
		return nil, 0, err
	}
	out := make([]federation.EDU, len(units))
	for i, u := range units {
		out[i] = federation.EDU{Type: u.Type, Content: u.Content, Position: u.Position}
	}
	return out, complete, nil
}

// Delivered implements federation.Source.
func (d deviceUnits) Delivered(ctx context.Context, tx *database.Tx, t *tenant.Tenant, destination id.Server, upTo int64) error {
	return d.keys.Delivered(ctx, tx, t, destination, upTo)
}

// memberLeft tells the encryption slice, within an event's plan, that somebody is in a room no more.
func memberLeft(ctx context.Context, tenants *tenant.Store, keys *encryption.Service, key tenant.ID, e *room.Event, plan *stream.Plan) error {
	if e.Type() != "m.room.member" || e.StateKey() == nil || e.Membership() != "leave" && e.Membership() != "ban" {
		return nil
	}
	t, err := tenants.ByID(ctx, key)
	if err != nil {
		return err
	}
	return keys.MemberLeft(ctx, t, e.RoomNID, id.User(*e.StateKey()), plan)
}

// text is the value of an optional field.
func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
