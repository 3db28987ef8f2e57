// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// TestPlainMatrix is the first thing that must work: one tenant, register, sign in, create a room, send, sync.
func TestPlainMatrix(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, databases []string) {
		n := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"hs1"}, Database: databases[0]})
		cell := n.Cell(0)
		alice, bob := cell.SignIn(t, "@alice:hs1"), cell.SignIn(t, "@bob:hs1")
		if alice.User != "@alice:hs1" {
			t.Fatalf("signed in as %s", alice.User)
		}
		room := alice.CreateRoom(map[string]any{"preset": "private_chat", "name": "Konsil", "invite": []string{bob.User}})
		bobsToken := bob.Until("", "the invitation", func(s map[string]any) bool { return konsiltest.Invited(s, room) })
		bob.Join(room)
		first := alice.Send(room, "first")
		bobsToken = bob.Until(bobsToken, "the first message", func(s map[string]any) bool { return konsiltest.HasEvent(s, room, first) })

		// A waiting sync is woken by the commit; what was acknowledged is there after a restart.
		woken := make(chan string)
		go func() {
			woken <- bob.Until(bobsToken, "the second message", func(s map[string]any) bool { return len(konsiltest.Events(s, room)) > 0 })
		}()
		second := alice.Send(room, "second")
		bobsToken = <-woken
		cell.Restart()
		messages := bob.Do("GET", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/messages?dir=b&limit=10", nil)
		if got := konsiltest.At(messages, "chunk", 0, "event_id"); got != second {
			t.Errorf("newest message after the restart is %v, want %s", got, second)
		}
		third := alice.Send(room, "third")
		bob.Until(bobsToken, "the third message", func(s map[string]any) bool { return konsiltest.HasEvent(s, room, third) })

		// A stranger sees nothing of it.
		carol := cell.SignIn(t, "@carol:hs1")
		if status, answer := carol.Try("GET", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/messages?dir=b", nil); status != 403 {
			t.Errorf("a stranger read the room: %d %v", status, answer)
		}
		if sync := carol.Sync("", 0); strings.Contains(sync["next_batch"].(string), " ") || konsiltest.At(sync, "rooms", "join", room) != nil {
			t.Errorf("a stranger's sync: %v", sync)
		}
	})
}

// TestTwoServers lets two cells federate over TLS: invite, join, messages both ways, a restart in the middle.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 2, func(t *testing.T, databases []string) {
		n := konsiltest.New(t,
			konsiltest.Spec{Tenants: []string{"praxis.test"}, Database: databases[0]},
			konsiltest.Spec{Tenants: []string{"klinik.test"}, Database: databases[1]})
		twoServers(t, n.Cell(0), n.Cell(1))
	})
}

// TestNeighbours is the same between two tenants of one cell, by the in-process transport.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	konsiltest.Each(t, 1, func(t *testing.T, databases []string) {
		n := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"praxis.test", "klinik.test"}, Database: databases[0]})
		twoServers(t, n.Cell(0), n.Cell(0))
	})
}

func twoServers(t *testing.T, a, b *konsiltest.Cell) {
	t.Helper()
	anna, berta := a.SignIn(t, "@anna:praxis.test"), b.SignIn(t, "@berta:klinik.test")
	room := anna.CreateRoom(map[string]any{"preset": "private_chat", "invite": []string{berta.User}})
	bertas := berta.Until("", "the invitation", func(s map[string]any) bool { return konsiltest.Invited(s, room) })
	berta.Join(room, "praxis.test")

	question := anna.Send(room, "Haben Sie Zeit?")
	bertas = berta.Until(bertas, "the question", func(s map[string]any) bool { return konsiltest.HasEvent(s, room, question) })
	answer := berta.Send(room, "Ja.")
	annas := anna.Until("", "the answer", func(s map[string]any) bool { return konsiltest.HasEvent(s, room, answer) })

	// What is sent while the other side is away arrives afterwards, once and in order.
	b.Stop()
	var sent []string
	if a != b {
		for _, text := range []string{"eins", "zwei", "drei"} {
			sent = append(sent, anna.Send(room, text))
		}
	}
	b.Start()
	if a == b {
		sent = append(sent, anna.Send(room, "eins"))
	}
	var got []string
	berta.Until(bertas, "what was sent meanwhile", func(s map[string]any) bool {
		for _, e := range konsiltest.Events(s, room) {
			if e["sender"] == anna.User && e["type"] == "m.room.message" {
				got = append(got, e["event_id"].(string))
			}
		}
		return len(got) >= len(sent)
	})
	if strings.Join(got, " ") != strings.Join(sent, " ") {
		t.Errorf("got %v, want %v", got, sent)
	}

	berta.Do("POST", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/leave", map[string]any{})
	anna.Until(annas, "the leave", func(s map[string]any) bool {
		for _, e := range konsiltest.Events(s, room) {
			if e["type"] == "m.room.member" && e["state_key"] == berta.User && konsiltest.At(e, "content", "membership") == "leave" {
				return true
			}
		}
		return false
	})
}
