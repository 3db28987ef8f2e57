// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// exchangeThirdPartyInvite makes the invite of a third-party invite that somebody on another server has proven to be meant by.
func (s *Service) exchangeThirdPartyInvite(ctx context.Context, r *httpapi.Request) (any, error) {
	rm, err := s.resident(ctx, r, r.Var("roomId"))
	if err != nil {
		return nil, err
	}
	var e room.PartialInvite
	if err := r.Decode(&e); err != nil {
		return nil, err
	}
	if e.Room != rm.ID {
		return nil, mxerror.InvalidParam.With("room_id is not the room in the path.")
	}
	return nil, s.Rooms.MakeInvite(ctx, r.Tenant, e)
}

// Exchange asks the server of a third-party invite's sender to make the invite; package room asks.
func (s *Service) Exchange(ctx context.Context, t *tenant.Tenant, server id.Server, r id.Room, e room.PartialInvite) error {
	body, err := json.Marshal(e, encodeOptions)
	if err != nil {
		return err
	}
	_, err = s.read(ctx, t, server, call{method: http.MethodPut, path: pathOf(v1+"/exchange_third_party_invite", string(r)), body: body}, always)
	return err
}

// maxBound bounds how many pending invites one notice of an identity server may hold.
const maxBound = 100

// onBind takes an identity server's notice that an address has been bound to a local user, and redeems the invites that waited for it. The
// notice itself proves nothing: the signatures do. One invite that fails does not hold up the others.
func (s *Service) onBind(ctx context.Context, r *httpapi.Request) (any, error) {
	if s.Rooms == nil {
		return nil, mxerror.Unrecognized
	}
	var body struct {
		Medium  string `json:"medium"`
		Address string `json:"address"`
		User    string `json:"mxid"`
		Invites []struct {
			User   string         `json:"mxid"`
			Room   string         `json:"room_id"`
			Sender string         `json:"sender"`
			Signed jsontext.Value `json:"signed"`
		} `json:"invites"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Medium == "" || body.Address == "" || body.User == "" || body.Invites == nil {
		return nil, mxerror.MissingParam.With("medium, address, mxid and invites are needed.")
	}
	user, err := localUser(r, body.User)
	if err != nil {
		return nil, err
	}
	if len(body.Invites) > maxBound {
		return nil, mxerror.InvalidParam.With("A notice holds at most %d invites.", maxBound)
	}
	for _, i := range body.Invites {
		name, err := id.ParseRoom(i.Room)
		sender, err2 := id.ParseUser(i.Sender)
		if err != nil || err2 != nil || i.User != body.User {
			s.Log.InfoContext(ctx, "malformed third-party invite dropped", "tenant", string(r.Tenant.Name))
			continue
		}
		if err := s.Rooms.Redeem(ctx, r.Tenant, user, room.SignedInvite{Room: name, Sender: sender, Signed: i.Signed}); err != nil {
			s.Log.InfoContext(ctx, "third-party invite not redeemed", "tenant", string(r.Tenant.Name), "sender", string(sender), "error", err)
		}
	}
	return nil, nil
}
