// SPDX-License-Identifier: Apache-2.0

package room_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/database/databasetest"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// TestSharesRoomWithServer: a server may see the keys of those whom it shares a room with, and of those whom its people have invited to a room of
// which nothing else is known here: they may write before the invitation is accepted. An invitation that was declined counts no more.
func TestSharesRoomWithServer(t *testing.T) {
	t.Parallel()
	databasetest.Each(t, func(t *testing.T, db *database.DB) {
		h := open(t, db)
		p := meet(t, h, "10")
		shares := func(user id.User, server id.Server, want bool) {
			t.Helper()
			if got, err := h.SharesRoomWithServer(context.Background(), h.t.ID, user, server); err != nil || got != want {
				t.Errorf("%s with %s: %v, %v", user, server, got, err)
			}
		}
		shares(anna, "b.example", true)
		shares(ben, "b.example", false)
		invite := invitation(t, "!aside:b.example", ben2, ben)
		if _, err := h.AcceptInvite(context.Background(), h.t, "b.example", invite, nil); err != nil {
			t.Fatal(err)
		}
		shares(ben, "b.example", true)
		shares(ben, "c.example", false)
		if err := h.Leave(context.Background(), h.t, ben, invite.Room(), ""); err != nil {
			t.Fatal(err)
		}
		shares(ben, "b.example", false)
		p.accept(p.make(p.heads(), ben2, event.TypeMember, string(ben), `{"membership":"invite"}`))
		shares(ben, "b.example", true)
	})
}

// invitation is one to a room that the house's server is not in.
func invitation(t *testing.T, room id.Room, from, to id.User) *event.Event {
	t.Helper()
	v, _ := roomversion.Get("10")
	key := string(to)
	d := event.Draft{Version: v, Room: room, Type: event.TypeMember, StateKey: &key, Sender: from, Content: jsontext.Value(`{"membership":"invite"}`),
		Timestamp: 1_800_000_000_000, Depth: 5, PrevEvents: []id.Event{"$before"}, AuthEvents: []id.Event{"$create"}}
	e, err := d.Build(from.Server(), "ed25519:1", peerKey)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// inviting is the scripted server when it has invited somebody and lets that user in.
type inviting struct {
	*peer
	invite *event.Event
	joins  int
}

func (p *inviting) MakeJoin(_ context.Context, _ *tenant.Tenant, _ id.Server, rid id.Room, user id.User, _ []string) (room.Template, error) {
	key := string(user)
	d := event.Draft{Version: p.r.Version, Room: rid, Type: event.TypeMember, StateKey: &key, Sender: user, Content: jsontext.Value(`{"membership":"join"}`),
		Timestamp: 1_800_000_000_000, Depth: p.invite.Depth() + 1, PrevEvents: []id.Event{p.invite.ID()}, AuthEvents: []id.Event{p.invite.ID()}}
	for _, a := range authrule.Select(authrule.Needed(d.Version, d.Type, d.StateKey, d.Sender, d.Content), p.state()) {
		d.AuthEvents = append(d.AuthEvents, a.ID())
	}
	proto, err := d.Proto()
	return room.Template{Version: d.Version, Event: proto}, err
}

func (p *inviting) SendJoin(_ context.Context, _ *tenant.Tenant, _ id.Server, e *event.Event) (room.Joined, error) {
	p.joins++
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events[e.ID()] = e
	p.states[e.ID()] = append(slices.Clone(p.states[p.invite.ID()]), p.invite.ID())
	return room.Joined{}, nil
}

// TestInviteAheadOfRoom: an invitation that the invitee has before the room's event has come lets the invitee in all the same, through the inviter's
// server: one's own does not know of it yet, although it is in the room.
func TestInviteAheadOfRoom(t *testing.T) {
	withPeer(t, "10", func(t *testing.T, p *peer) {
		ctx := context.Background()
		p.accept(p.make(p.heads(), anna, event.TypeJoinRules, "", `{"join_rule":"invite"}`))
		invite := p.make(p.heads(), ben2, event.TypeMember, string(ben), `{"membership":"invite"}`)
		remote := &inviting{peer: p, invite: invite}
		p.h.Remote = remote
		if err := p.h.Join(ctx, p.h.t, ben, p.r.ID, nil, ""); !errors.Is(err, mxerror.Forbidden) || remote.joins != 0 {
			t.Fatalf("without an invitation: %v, %d joins", err, remote.joins)
		}
		if _, err := p.h.AcceptInvite(ctx, p.h.t, "b.example", invite, nil); err != nil {
			t.Fatal(err)
		}
		if err := p.h.Join(ctx, p.h.t, ben, p.r.ID, nil, ""); err != nil || remote.joins != 1 {
			t.Fatalf("%v, %d joins", err, remote.joins)
		}
		if m, err := p.h.Membership(ctx, p.h.t.ID, p.r.NID, ben); err != nil || m.Membership != "join" {
			t.Errorf("%+v, %v", m, err)
		}
		if e := p.stored(invite.ID()); e.Rejected || e.Position == 0 {
			t.Errorf("%+v", e)
		}
	})
}
