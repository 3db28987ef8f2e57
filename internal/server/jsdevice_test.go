// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package server_test

import (
	"reflect"
	"testing"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// TestSecondDevice: what matrix-js-sdk knows of identities, in Node and in Chromium. Two people of two tenants verify each other by emoji; one of them goes
// on on a second device, which reads what was said before from the key backup, is verified by the first, and follows everything by simplified sliding
// sync.
func TestSecondDevice(t *testing.T) { eachHost(t, secondDevice) }

const jsAnna, jsBerta = "@anna:praxis.test", "@berta:klinik.test"

func secondDevice(t *testing.T, program string, open func(story) *script) {
	konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
		s := tell(t)
		cell := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"praxis.test", "klinik.test"}, Database: urls[0], Program: program}).Cell(0)
		anna, berta := open(s), open(s)
		accounts := map[*script]*konsiltest.Session{anna: cell.SignIn(t, jsAnna), berta: cell.SignIn(t, jsBerta)}
		for j, account := range accounts {
			j.do("signIn", map[string]any{"url": cell.URL, "user": account.User, "password": account.Password})
			if answer := j.do("identity", map[string]any{"password": account.Password}); answer["ready"] != true {
				t.Fatalf("no cross-signing identity: %v", answer)
			}
		}
		room := anna.do("createRoom", map[string]any{"invite": []string{jsBerta}, "name": "Konsil"})["room"].(string)
		berta.enter(room, "praxis.test")
		anna.until(map[string]any{"news": "member", "room": room, "user": jsBerta, "membership": "join"})
		question := anna.sends(room, "Haben Sie Zeit?", berta)
		answer := berta.sends(room, "Ja, worum geht es?", anna)
		s.compareEmoji(anna, berta, jsAnna, jsBerta, room)
		kept := berta.do("backUp", nil)
		if kept["ready"] != true {
			t.Errorf("secret storage is not ready: %v", kept)
		}

		second := open(s)
		account := accounts[berta]
		session := second.do("signIn", map[string]any{"url": cell.URL, "user": account.User, "password": account.Password, "sliding": true})
		s.restores(second, kept["recovery"], room, question, answer)
		own := map[string]any{"user": jsBerta, "device": session["device"]}
		if trust := berta.do("trust", own); trust["trust"] != false {
			t.Errorf("the second device is trusted before anybody verified it: %v", trust)
		}
		s.compareEmoji(second, berta, jsBerta, jsBerta, "")
		berta.do("trusted", own)
		second.do("trusted", own)
		s.slides(second, berta, anna, room)
	})
}

// compareEmoji lets a verify b: in a room, or where both are one person's devices, between these.
func (s story) compareEmoji(a, b *script, userA, userB, room string) {
	s.Helper()
	ask := map[string]any{}
	if userA != userB {
		ask = map[string]any{"user": userB, "room": room}
	}
	a.do("verify", ask)
	shown := a.until(map[string]any{"news": "emoji", "user": userB})
	if there := b.until(map[string]any{"news": "emoji", "user": userA}); there["emoji"] != shown["emoji"] || shown["emoji"] == "" {
		s.Fatalf("%s sees %v, %s sees %v", userA, shown["emoji"], userB, there["emoji"])
	}
	a.do("emojiMatch", map[string]any{"user": userB})
	b.do("emojiMatch", map[string]any{"user": userA})
	a.until(map[string]any{"news": "verified", "user": userB})
	b.until(map[string]any{"news": "verified", "user": userA})
	a.do("trusted", map[string]any{"user": userB})
	b.do("trusted", map[string]any{"user": userA})
}

// restores lets a new device read old messages from the key backup, which it cannot read without.
func (s story) restores(j *script, recovery any, room string, messages ...string) {
	s.Helper()
	for _, message := range messages {
		j.until(map[string]any{"news": "unreadable", "room": room, "id": message})
	}
	if restored := j.do("restore", map[string]any{"recovery": recovery}); restored["imported"] != restored["total"] || restored["total"] == 0. {
		s.Errorf("the key backup brought %v", restored)
	}
	for _, message := range messages {
		j.until(map[string]any{"news": "message", "room": room, "id": message, "encrypted": true})
	}
}

// slides lets a device on sliding sync see all that its person's other device and somebody else do.
func (s story) slides(j, other, anna *script, room string) {
	s.Helper()
	want := map[string]any{"name": "Konsil", "encrypted": true, "membership": "join", "members": []any{jsAnna, jsBerta}}
	got := j.do("room", map[string]any{"room": room})
	delete(got, "answer")
	if !reflect.DeepEqual(got, want) {
		s.Errorf("the room is %v, want %v", got, want)
	}

	anna.sends(room, "Geht es auch am neuen Gerät?", j, other)
	reply := j.sends(room, "Ja.", anna, other)
	anna.do("typing", map[string]any{"room": room})
	j.until(map[string]any{"news": "typing", "room": room, "user": jsAnna, "typing": true})
	anna.do("read", map[string]any{"room": room, "id": reply})
	j.until(map[string]any{"news": "receipt", "room": room, "user": jsAnna, "id": reply})
	other.do("note", map[string]any{"type": "test.konsil.note", "note": "überall"})
	j.until(map[string]any{"news": "accountData", "room": nil, "type": "test.konsil.note", "note": "überall"})
	other.do("note", map[string]any{"room": room, "type": "test.konsil.note", "note": "hier"})
	j.until(map[string]any{"news": "accountData", "room": room, "type": "test.konsil.note", "note": "hier"})
	j.do("note", map[string]any{"type": "test.konsil.own", "note": "von hier"}) // the SDK waits for what comes back
	other.until(map[string]any{"news": "accountData", "room": nil, "type": "test.konsil.own", "note": "von hier"})

	next := anna.do("createRoom", map[string]any{"invite": []string{jsBerta}, "name": "Zweite Meinung"})["room"].(string)
	j.enter(next, "praxis.test")
	anna.until(map[string]any{"news": "member", "room": next, "user": jsBerta, "membership": "join"})
	anna.sends(next, "Hier geht es weiter.", j, other)
}

// enter accepts an invitation.
func (j *script) enter(room, via string) {
	j.s.Helper()
	j.until(map[string]any{"news": "membership", "room": room, "membership": "invite"})
	j.do("join", map[string]any{"room": room, "via": []string{via}})
	j.until(map[string]any{"news": "membership", "room": room, "membership": "join"})
}

// sends sends a text, which the listeners read encrypted, and returns its id.
func (j *script) sends(room, text string, listeners ...*script) string {
	j.s.Helper()
	sent := j.do("send", map[string]any{"room": room, "text": text})["id"].(string)
	for _, listener := range listeners {
		got := listener.until(map[string]any{"news": "message", "room": room, "id": sent})
		if got["text"] != text || got["encrypted"] != true {
			j.s.Errorf("heard %v, want %q", got, text)
		}
	}
	return sent
}
