// SPDX-License-Identifier: Apache-2.0

package space_test

import (
	"net/url"
	"slices"
	"testing"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

func esc(s string) string { return url.PathEscape(s) }

// child hangs a room into a space.
func child(s *konsiltest.Session, parent, room string, content map[string]any) {
	s.Do("PUT", "/_matrix/client/v3/rooms/"+esc(parent)+"/state/m.space.child/"+esc(room), content)
}

func newSpace(s *konsiltest.Session, name string) string {
	return s.CreateRoom(map[string]any{"preset": "public_chat", "name": name, "creation_content": map[string]any{"type": "m.space"}})
}

// names lists the rooms of a hierarchy by name, in their order.
func names(answer map[string]any) (out []string) {
	rooms, _ := answer["rooms"].([]any)
	for _, r := range rooms {
		name, _ := konsiltest.At(r, "name").(string)
		out = append(out, name)
	}
	return out
}

func hierarchy(s *konsiltest.Session, room, query string) map[string]any {
	return s.Do("GET", "/_matrix/client/v1/rooms/"+esc(room)+"/hierarchy?"+query, nil)
}

// TestTree walks a tree over two servers: order, depth, suggestions, pages, rooms of the other server and hidden ones.
func TestTree(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 2, func(t *testing.T, databases []string) {
		n := konsiltest.New(t,
			konsiltest.Spec{Tenants: []string{"praxis.test"}, Database: databases[0]},
			konsiltest.Spec{Tenants: []string{"klinik.test"}, Database: databases[1]})
		anna, berta := n.Cell(0).SignIn(t, "@anna:praxis.test"), n.Cell(1).SignIn(t, "@berta:klinik.test")
		via := func(server string) map[string]any { return map[string]any{"via": []string{server}} }

		root := newSpace(anna, "root")
		far := newSpace(berta, "far") // on the other server, with rooms of its own
		open := berta.CreateRoom(map[string]any{"preset": "public_chat", "name": "open"})
		hidden := berta.CreateRoom(map[string]any{"preset": "private_chat", "name": "hidden"})
		deep := newSpace(berta, "deep")
		deepest := berta.CreateRoom(map[string]any{"preset": "public_chat", "name": "deepest"})
		for _, c := range []string{open, hidden, deep} {
			child(berta, far, c, via("klinik.test"))
		}
		child(berta, deep, deepest, via("klinik.test"))
		child(berta, deep, root, via("praxis.test")) // a circle
		last := anna.CreateRoom(map[string]any{"preset": "public_chat", "name": "last"})
		first := anna.CreateRoom(map[string]any{"preset": "public_chat", "name": "first"})
		child(anna, root, far, map[string]any{"via": []string{"klinik.test"}, "suggested": true, "order": "b"})
		child(anna, root, last, via("praxis.test"))
		child(anna, root, first, map[string]any{"via": []string{"praxis.test"}, "order": "a"})
		child(anna, root, "!nowhere:klinik.test", via("klinik.test"))
		child(anna, root, "!novia:praxis.test", map[string]any{"via": []string{}})

		want := []string{"root", "first", "far", "open", "deep", "deepest", "last"}
		all := hierarchy(anna, root, "")
		if got := names(all); !slices.Equal(got, want) {
			t.Fatalf("tree: %v, want %v", got, want)
		}
		if all["next_batch"] != nil {
			t.Error("a complete answer has a next_batch")
		}
		if children, _ := konsiltest.At(all, "rooms", 0, "children_state").([]any); len(children) != 4 || konsiltest.At(children, 0, "state_key") != first {
			t.Errorf("children of the root: %v", children)
		}
		if children, ok := konsiltest.At(all, "rooms", 1, "children_state").([]any); !ok || len(children) != 0 {
			t.Errorf("children of a room that is no space: %v", children)
		}
		if konsiltest.At(all, "rooms", 0, "room_version") == nil || konsiltest.At(all, "rooms", 0, "room_type") != "m.space" {
			t.Errorf("root: %v", konsiltest.At(all, "rooms", 0))
		}
		if got := names(hierarchy(anna, root, "max_depth=1")); !slices.Equal(got, []string{"root", "first", "far", "last"}) {
			t.Errorf("max_depth=1: %v", got)
		}
		if got := names(hierarchy(anna, root, "max_depth=0")); !slices.Equal(got, []string{"root"}) {
			t.Errorf("max_depth=0: %v", got)
		}
		if got := names(hierarchy(anna, root, "suggested_only=true")); !slices.Equal(got, []string{"root", "far"}) {
			t.Errorf("suggested_only: %v", got)
		}

		// Pages; every token may be used again, also when the walk is forgotten.
		var pages, tokens []string
		query := "limit=2"
		for {
			page := hierarchy(anna, root, query)
			pages = append(pages, names(page)...)
			next, ok := page["next_batch"].(string)
			if !ok {
				break
			}
			tokens = append(tokens, next)
			query = "limit=2&from=" + url.QueryEscape(next)
		}
		if !slices.Equal(pages, want) {
			t.Errorf("pages: %v", pages)
		}
		n.Cell(0).Restart()
		if got := names(hierarchy(anna, root, "limit=2&from="+url.QueryEscape(tokens[1]))); !slices.Equal(got, want[4:6]) {
			t.Errorf("a page after a restart: %v", got)
		}
		for _, bad := range []string{"limit=0", "limit=x", "max_depth=-1", "from=x", "suggested_only=1",
			"suggested_only=true&from=" + url.QueryEscape(tokens[0]), "max_depth=1&from=" + url.QueryEscape(tokens[0])} {
			status, answer := anna.Try("GET", "/_matrix/client/v1/rooms/"+esc(root)+"/hierarchy?"+bad, nil)
			if status != 400 || answer["errcode"] != "M_INVALID_PARAM" {
				t.Errorf("%s: %d %v", bad, status, answer)
			}
		}
		for _, room := range []string{hidden, "!nothing:praxis.test"} {
			status, answer := anna.Try("GET", "/_matrix/client/v1/rooms/"+esc(room)+"/hierarchy", nil)
			if status != 403 || answer["errcode"] != "M_FORBIDDEN" {
				t.Errorf("hierarchy of %s: %d %v", room, status, answer)
			}
		}
		// A space that is not known here, through the servers that the client names; the circle leads back here.
		if got := names(hierarchy(anna, far, "via=klinik.test")); !slices.Equal(got, []string{"far", "open", "deep", "deepest", "root", "first", "last"}) {
			t.Errorf("the other server's space: %v", got)
		}
	})
}

// TestRestricted: a room that lets members of a space in is shown to them, and to nobody else.
func TestRestricted(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 2, func(t *testing.T, databases []string) {
		n := konsiltest.New(t,
			konsiltest.Spec{Tenants: []string{"praxis.test"}, Database: databases[0]},
			konsiltest.Spec{Tenants: []string{"klinik.test"}, Database: databases[1]})
		anna, arzt, berta := n.Cell(0).SignIn(t, "@anna:praxis.test"), n.Cell(0).SignIn(t, "@arzt:praxis.test"), n.Cell(1).SignIn(t, "@berta:klinik.test")
		root := newSpace(berta, "root")
		members := berta.CreateRoom(map[string]any{"name": "members", "preset": "private_chat", "initial_state": []any{
			map[string]any{"type": "m.room.join_rules", "state_key": "", "content": map[string]any{
				"join_rule": "restricted", "allow": []any{map[string]any{"type": "m.room_membership", "room_id": root}}}},
			map[string]any{"type": "m.room.encryption", "state_key": "", "content": map[string]any{"algorithm": "m.megolm.v1.aes-sha2"}}}})
		child(berta, root, members, map[string]any{"via": []string{"klinik.test"}})
		anna.Join(root, "klinik.test")
		if got := names(hierarchy(anna, root, "")); !slices.Equal(got, []string{"root", "members"}) {
			t.Errorf("for a member: %v", got)
		}
		// The server is in the space, the user is not: the space is public, the room inside stays hidden.
		if got := names(hierarchy(arzt, root, "")); !slices.Equal(got, []string{"root"}) {
			t.Errorf("for somebody else: %v", got)
		}
		path := "/_matrix/client/v1/room_summary/" + esc(members) + "?via=klinik.test"
		got := anna.Do("GET", path, nil)
		if got["name"] != "members" || got["membership"] != "leave" || got["join_rule"] != "restricted" || got["encryption"] != "m.megolm.v1.aes-sha2" ||
			konsiltest.At(got, "allowed_room_ids", 0) != root || got["children_state"] != nil {
			t.Errorf("summary: %v", got)
		}
		if status, answer := arzt.Try("GET", path, nil); status != 404 || answer["errcode"] != "M_NOT_FOUND" {
			t.Errorf("summary for somebody else: %d %v", status, answer)
		}
	})
}

// TestSummary: by alias and id, here and elsewhere, signed in or not, for invited and banned people.
func TestSummary(t *testing.T) {
	t.Parallel()
	n := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"praxis.test"}}, konsiltest.Spec{Tenants: []string{"klinik.test"}})
	anna, berta := n.Cell(0).SignIn(t, "@anna:praxis.test"), n.Cell(1).SignIn(t, "@berta:klinik.test")
	open := berta.CreateRoom(map[string]any{"preset": "public_chat", "name": "Visite", "topic": "Täglich", "room_alias_name": "visite"})
	private := berta.CreateRoom(map[string]any{"preset": "private_chat", "name": "Fall"})
	for _, path := range []string{
		"/_matrix/client/v1/room_summary/" + esc("#visite:klinik.test"),
		"/_matrix/client/v1/room_summary/" + esc(open) + "?via=klinik.test",
		"/_matrix/client/unstable/im.nheko.summary/summary/" + esc(open) + "?via=klinik.test",
		"/_matrix/client/unstable/im.nheko.summary/rooms/" + esc("#visite:klinik.test") + "/summary",
	} {
		got := anna.Do("GET", path, nil)
		if got["room_id"] != open || got["name"] != "Visite" || got["topic"] != "Täglich" || got["num_joined_members"] != 1.0 || got["membership"] != "leave" ||
			got["world_readable"] != false || got["guest_can_join"] != false || got["join_rule"] != "public" || got["room_version"] == nil {
			t.Errorf("%s: %v", path, got)
		}
	}
	path := "/_matrix/client/v1/room_summary/" + esc("#visite:klinik.test")
	if status, got := n.Cell(1).Anonymous(t, "klinik.test").Try("GET", path, nil); status != 200 || got["room_id"] != open || got["membership"] != nil {
		t.Errorf("for nobody: %d %v", status, got)
	}
	summary := func(s *konsiltest.Session, room string) (int, map[string]any) {
		return s.Try("GET", "/_matrix/client/v1/room_summary/"+esc(room)+"?via=klinik.test", nil)
	}
	if status, got := summary(anna, private); status != 404 || got["errcode"] != "M_NOT_FOUND" {
		t.Errorf("a hidden room: %d %v", status, got)
	}
	if status, got := summary(n.Cell(1).Anonymous(t, "klinik.test"), private); status != 404 {
		t.Errorf("a hidden room for nobody: %d %v", status, got)
	}
	if status, got := anna.Try("GET", "/_matrix/client/v1/room_summary/nonsense", nil); status != 400 {
		t.Errorf("nonsense: %d %v", status, got)
	}
	berta.Do("POST", "/_matrix/client/v3/rooms/"+esc(private)+"/invite", map[string]any{"user_id": anna.User})
	if status, got := summary(anna, private); status != 200 || got["membership"] != "invite" || got["name"] != "Fall" {
		t.Errorf("for the invited: %d %v", status, got)
	}
	n.Cell(1).Stop() // what came with the invite is left
	if status, got := summary(anna, private); status != 200 || got["membership"] != "invite" || got["name"] != "Fall" || got["join_rule"] != "invite" {
		t.Errorf("for the invited, with the other server down: %d %v", status, got)
	}
}
