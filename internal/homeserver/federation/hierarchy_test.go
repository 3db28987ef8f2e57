// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"net/url"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/homeserver/policy"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/homeserver/space"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// child hangs a room into a space.
func (s *server) child(parent, child id.Room, sender id.User, content string) {
	s.t.Helper()
	key := string(child)
	_, err := s.rooms.Send(s.t.Context(), s.me, room.Draft{Room: parent, Sender: sender, Type: "m.space.child", StateKey: &key, Content: jsontext.Value(content)})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) create(sender id.User, c policy.CreateRoom) id.Room {
	s.t.Helper()
	r, err := s.rooms.Create(s.t.Context(), s.me, sender, c)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// TestHierarchy: what another server is shown of a space, by join rule, invite, allowed rooms, access control list and suggestion.
func TestHierarchy(t *testing.T) {
	everyWay(t, func(t *testing.T, p pair) {
		anna, ben := p.a.user("anna"), p.b.user("ben")
		spaceType := map[string]jsontext.Value{"type": jsontext.Value(`"m.space"`)}
		root := p.a.create(anna, policy.CreateRoom{Preset: "public_chat", Name: "Klinik", CreationContent: spaceType, RoomVersion: "11"})
		open := p.a.create(anna, policy.CreateRoom{Preset: "public_chat", Name: "Offen", RoomVersion: "11"})
		secret := p.a.create(anna, policy.CreateRoom{Preset: "private_chat", Name: "Geheim", RoomVersion: "11"})
		invited := p.a.create(anna, policy.CreateRoom{Preset: "private_chat", Name: "Eingeladen", RoomVersion: "11", Invite: []id.User{ben}})
		closed := p.a.create(anna, policy.CreateRoom{Preset: "public_chat", Name: "Gesperrt", RoomVersion: "11",
			InitialState: []policy.StateEvent{{Type: "m.room.server_acl", Content: jsontext.Value(`{"allow":["a.example"]}`)}}})
		local := p.a.create(anna, policy.CreateRoom{Preset: "public_chat", Name: "Im Haus", RoomVersion: "11",
			CreationContent: map[string]jsontext.Value{"m.federate": jsontext.Value("false")}})
		members := p.a.create(anna, policy.CreateRoom{Preset: "private_chat", Name: "Für Mitglieder", RoomVersion: "11", InitialState: []policy.StateEvent{{
			Type: "m.room.join_rules", Content: jsontext.Value(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"` + string(root) + `"}]}`)}}})
		for _, r := range []id.Room{secret, invited, closed, local, members} {
			p.a.child(root, r, anna, `{"via":["a.example"]}`)
		}
		p.a.child(root, open, anna, `{"via":["a.example"],"suggested":true,"order":"a"}`)
		p.a.child(root, "!elsewhere:c.example", anna, `{"via":["c.example"]}`)
		p.a.child(root, "!removed:a.example", anna, `{}`)

		ask := func(query url.Values) space.Hierarchy {
			t.Helper()
			raw, err := p.b.ask(p.a, "GET", v1+"/hierarchy/"+url.PathEscape(string(root)), query, nil)
			if err != nil {
				t.Fatal(err)
			}
			var h space.Hierarchy
			if err := json.Unmarshal(raw, &h); err != nil {
				t.Fatal(err)
			}
			return h
		}
		names := func(h space.Hierarchy) map[string]bool {
			out := map[string]bool{}
			for _, c := range h.Children {
				out[c.Name] = true
			}
			return out
		}
		h := ask(nil)
		if got := names(h); len(got) != 2 || !got["Offen"] || !got["Eingeladen"] {
			t.Errorf("children: %v", got)
		}
		if len(h.Inaccessible) != 4 {
			t.Errorf("inaccessible: %v", h.Inaccessible)
		}
		if len(h.Room.Children) != 7 || h.Room.Children[0].StateKey != string(open) || h.Room.RoomType != "m.space" || h.Room.RoomVersion != "11" {
			t.Errorf("root: %+v", h.Room)
		}
		if h = ask(url.Values{"suggested_only": {"true"}}); len(h.Children) != 1 || len(h.Room.Children) != 1 || len(h.Inaccessible) != 0 {
			t.Errorf("suggested: %+v", h)
		}
		if err := p.b.rooms.Join(t.Context(), p.b.me, ben, root, []id.Server{nameA}, ""); err != nil {
			t.Fatal(err)
		}
		if h = ask(nil); !names(h)["Für Mitglieder"] {
			t.Errorf("a member's server does not see what members may join: %+v", h.Children)
		}
		for _, hidden := range []id.Room{secret, closed, local, "!nothing:a.example"} {
			_, err := p.b.ask(p.a, "GET", v1+"/hierarchy/"+url.PathEscape(string(hidden)), nil, nil)
			refusedWith(t, err, 404, "M_NOT_FOUND")
		}
		_, err := p.b.ask(p.a, "GET", v1+"/hierarchy/"+url.PathEscape(string(root)), url.Values{"suggested_only": {"perhaps"}}, nil)
		refusedWith(t, err, 400, "M_INVALID_PARAM")
	})
}
