// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"testing"

	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// TestConversation: invite, join, messages both ways, kick, in every room version.
func TestConversation(t *testing.T) {
	everyWay(t, func(t *testing.T, p pair) {
		for _, version := range roomversion.Supported() {
			r := meeting(t, p.a, p.b, version)
			anna, ben := p.a.user("anna"), p.b.user("ben")
			one := p.a.say(r, anna, "one")
			p.b.gets(ben, one)
			two := p.b.say(r, ben, "two")
			p.a.gets(anna, two)
			var many []id.Event
			burst := 3
			if version == "2" || version == "12" {
				burst = 120 // more than a transaction holds
			}
			for range burst {
				many = append(many, p.a.say(r, anna, "again"))
			}
			p.b.gets(ben, many...)
			if err := p.a.rooms.Kick(t.Context(), p.a.me, r, anna, ben, ""); err != nil {
				t.Fatal(err)
			}
			rm, err := p.b.rooms.Lookup(t.Context(), p.b.me.ID, r)
			if err != nil {
				t.Fatal(err)
			}
			p.b.until(ben, func() bool {
				m, err := p.b.rooms.Membership(t.Context(), p.b.me.ID, rm.NID, ben)
				return err == nil && m.Membership == "leave"
			})
			after := p.a.say(r, anna, "between us")
			p.a.idle(p.b.me.Name)
			p.b.idle(p.a.me.Name)
			if _, err := p.b.rooms.Event(t.Context(), p.b.me.ID, after); err == nil {
				t.Errorf("v%s: who was kicked still gets messages", version)
			}
		}
	})
}

// TestJoinPublicRoom: by alias, without an invite, and leave again.
func TestJoinPublicRoom(t *testing.T) {
	everyWay(t, func(t *testing.T, p pair) {
		ctx := t.Context()
		anna, ben := p.a.user("anna"), p.b.user("ben")
		r, err := p.a.rooms.Create(ctx, p.a.me, anna, policy.CreateRoom{Preset: "public_chat", Alias: "visite", RoomVersion: "12"})
		if err != nil {
			t.Fatal(err)
		}
		found, servers, err := p.b.fed.QueryDirectory(ctx, p.b.me, "#visite:a.example")
		if err != nil || found != r {
			t.Fatalf("directory: %s, %v", found, err)
		}
		_, _, err = p.b.fed.QueryDirectory(ctx, p.b.me, "#nothing:a.example")
		hasCode(t, err, mxerror.NotFound)
		if err := p.b.rooms.Join(ctx, p.b.me, ben, r, servers, ""); err != nil {
			t.Fatal(err)
		}
		p.b.gets(ben, p.a.say(r, anna, "welcome"))
		if err := p.b.rooms.Leave(ctx, p.b.me, ben, r, ""); err != nil {
			t.Fatal(err)
		}
		p.b.idle(p.a.me.Name)
		rm, err := p.a.rooms.Lookup(ctx, p.a.me.ID, r)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := p.a.rooms.Membership(ctx, p.a.me.ID, rm.NID, ben); err != nil || m.Membership != "leave" {
			t.Errorf("after leaving: %+v, %v", m, err)
		}
	})
}

// TestRejectInvite: an invite turned down without ever joining.
func TestRejectInvite(t *testing.T) {
	everyWay(t, func(t *testing.T, p pair) {
		ctx := t.Context()
		anna, ben := p.a.user("anna"), p.b.user("ben")
		r, err := p.a.rooms.Create(ctx, p.a.me, anna, policy.CreateRoom{Preset: "private_chat", RoomVersion: "10"})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.a.rooms.Invite(ctx, p.a.me, r, anna, ben, "", false); err != nil {
			t.Fatal(err)
		}
		if err := p.b.rooms.Leave(ctx, p.b.me, ben, r, ""); err != nil {
			t.Fatal(err)
		}
		rm, err := p.a.rooms.Lookup(ctx, p.a.me.ID, r)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := p.a.rooms.Membership(ctx, p.a.me.ID, rm.NID, ben); err != nil || m.Membership != "leave" {
			t.Errorf("after the rejection: %+v, %v", m, err)
		}
		err = p.b.rooms.Join(ctx, p.b.me, ben, r, []id.Server{p.a.me.Name}, "")
		hasCode(t, err, mxerror.Forbidden)
	})
}
