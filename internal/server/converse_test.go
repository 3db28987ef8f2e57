// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package server_test

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"github.com/konsil-health/konsil/internal/foundation/config"
	"github.com/konsil-health/konsil/internal/konsiltest"
	"github.com/konsil-health/konsil/internal/tour/messenger"
)

// storyWithin only ends a story that hangs.
const storyWithin = 3 * time.Minute

// story is a test told through real clients.
type story struct {
	*testing.T
	ctx context.Context
}

func tell(t *testing.T) story {
	ctx, cancel := context.WithTimeout(t.Context(), storyWithin)
	t.Cleanup(cancel)
	return story{t, ctx}
}

// person is somebody with one device and what it takes to set up another.
type person struct {
	*messenger.Device
	cell        *konsiltest.Cell
	password    string
	recoveryKey string
}

// person signs somebody in and gives them a cross-signing identity and a key backup.
func (s story) person(cell *konsiltest.Cell, user string) *person {
	s.Helper()
	p := s.newcomer(cell, user)
	recovery, err := p.SetUp(s.ctx, p.password)
	s.ok(err)
	p.recoveryKey = recovery
	return p
}

// newcomer signs somebody in on a device of which only its own keys exist.
func (s story) newcomer(cell *konsiltest.Cell, user string) *person {
	s.Helper()
	session := cell.SignIn(s, user)
	return &person{Device: s.open(cell, session), cell: cell, password: session.Password}
}

func (s story) open(cell *konsiltest.Cell, session *konsiltest.Session) *messenger.Device {
	s.Helper()
	d, err := messenger.Open(s.ctx, messenger.Options{URL: cell.URL, User: session.User, DeviceID: session.Device, Token: session.Token})
	s.ok(err)
	s.Cleanup(d.Close)
	return d
}

// another signs the same person in on one more device.
func (s story) another(p *person) *messenger.Device {
	s.Helper()
	return s.open(p.cell, p.cell.Login(s, p.User().String(), p.password))
}

func (s story) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// room lets a invite b into a new encrypted room, and b join.
func (s story) room(a, b *person) id.RoomID {
	s.Helper()
	room, err := a.CreateRoom(s.ctx, "Konsil", b.User())
	s.ok(err)
	invited, err := b.Invitation(s.ctx, a.User())
	s.ok(err)
	if invited != room {
		s.Fatalf("invited to %s, want %s", invited, room)
	}
	s.ok(b.Join(s.ctx, room, a.User().Homeserver()))
	return room
}

// say lets somebody send a text and a listener read it, encrypted all the way.
func (s story) say(room id.RoomID, from *messenger.Device, text string, to ...*messenger.Device) *messenger.Message {
	s.Helper()
	eventID, err := from.Send(s.ctx, room, text)
	s.ok(err)
	var m *messenger.Message
	for _, listener := range to {
		m = s.hear(listener, room, eventID)
		if m.Text != text || !m.Encrypted || m.Sender != from.User() {
			s.Fatalf("%s got %+v, want %q from %s", listener.User(), m, text, from.User())
		}
	}
	return m
}

// hear waits until a listener can read a message.
func (s story) hear(listener *messenger.Device, room id.RoomID, eventID id.EventID) *messenger.Message {
	s.Helper()
	err := listener.Until(s.ctx, "message "+eventID.String(), func() bool {
		m := listener.Room(room).Message(eventID)
		return m != nil && m.Unreadable == nil
	})
	if m := listener.Room(room).Message(eventID); m != nil && m.Unreadable != nil {
		s.Fatalf("%s cannot read %s: %v (%v)", listener.User(), eventID, m.Unreadable, err)
	}
	s.ok(err)
	return listener.Room(room).Message(eventID)
}

// once fails when the server brought anything twice.
func (s story) once(room id.RoomID, devices ...*messenger.Device) {
	s.Helper()
	for _, d := range devices {
		if doubled := d.Room(room).Doubled; len(doubled) > 0 {
			s.Errorf("%s got twice: %v", d.User(), doubled)
		}
	}
}

// verify lets two people compare fingerprints and sign each other.
func (s story) verify(a, b *person) {
	s.Helper()
	for _, pair := range [][2]*person{{a, b}, {b, a}} {
		told, err := pair[1].Fingerprint(s.ctx)
		s.ok(err)
		s.ok(pair[0].Verify(s.ctx, pair[1].User(), told))
		if trusted, err := pair[0].Trusts(s.ctx, pair[1].User()); err != nil || !trusted {
			s.Errorf("%s does not trust %s: %v", pair[0].User(), pair[1].User(), err)
		}
	}
}

// places are the ways in which two people can be at home. Each returns the cells of both and their user names.
func places(t *testing.T, f func(s story, a, b *konsiltest.Cell, anna, berta string)) {
	t.Helper()
	const anna, berta = "@anna:praxis.test", "@berta:klinik.test"
	t.Run("one tenant", func(t *testing.T) {
		t.Parallel()
		konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
			n := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"praxis.test"}, Database: urls[0]})
			f(tell(t), n.Cell(0), n.Cell(0), anna, "@berta:praxis.test")
		})
	})
	for name, inProcess := range map[string]bool{"neighbours": true, "neighbours over TLS": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			konsiltest.Each(t, 1, func(t *testing.T, urls []string) {
				n := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"praxis.test", "klinik.test"}, Database: urls[0],
					Configure: func(c *config.Config) { c.Federation.InProcess = inProcess }})
				f(tell(t), n.Cell(0), n.Cell(0), anna, berta)
			})
		})
	}
	t.Run("two servers", func(t *testing.T) {
		t.Parallel()
		konsiltest.Each(t, 2, func(t *testing.T, urls []string) {
			n := konsiltest.New(t, konsiltest.Spec{Tenants: []string{"praxis.test"}, Database: urls[0]},
				konsiltest.Spec{Tenants: []string{"klinik.test"}, Database: urls[1]})
			f(tell(t), n.Cell(0), n.Cell(1), anna, berta)
		})
	})
}

// TestConversation is what two people do with each other in an encrypted room, wherever they are at home: talk both ways, verify each other,
// exchange a file, and go on on a new device that reads what was said before from the key backup.
//
// Requirements: AF_10062, AF_10063, A_22721, A_22793, A_22816, A_25514, A_26077, A_26574.
func TestConversation(t *testing.T) {
	t.Parallel()
	places(t, func(s story, cellA, cellB *konsiltest.Cell, nameA, nameB string) {
		a, b := s.person(cellA, nameA), s.person(cellB, nameB)
		room := s.room(a, b)
		s.say(room, a.Device, "Haben Sie Zeit für ein Konsil?", b.Device)
		s.say(room, b.Device, "Ja, worum geht es?", a.Device)
		s.verify(a, b)
		if m := s.say(room, a.Device, "Jetzt weiß ich, dass Sie es sind.", b.Device); m.Trust != id.TrustStateCrossSignedVerified {
			s.Errorf("a verified person's message has trust %v", m.Trust)
		}

		image := bytes.Repeat([]byte("Röntgenbild "), 20_000)
		sent, err := a.SendFile(s.ctx, room, "thorax.dcm", "application/dicom", image)
		s.ok(err)
		got, err := b.Download(s.ctx, s.hear(b.Device, room, sent))
		s.ok(err)
		if !bytes.Equal(got, image) {
			s.Errorf("the file came with %d other bytes", len(got))
		}

		before := b.Room(room).Texts("")
		_, err = b.BackUp(s.ctx)
		s.ok(err)
		second := s.another(b)
		s.ok(second.Recover(s.ctx, b.recoveryKey))
		s.ok(second.History(s.ctx, room))
		if got := second.Room(room).Texts(""); !slices.Equal(got, before) {
			s.Errorf("the new device reads %q, want %q", got, before)
		}

		// The other side learns of the new device by itself and gives it the next keys; it is trusted, for its owner signed it.
		s.ok(a.Until(s.ctx, "the new device", func() bool {
			device, err := a.Machine.CryptoStore.GetDevice(s.ctx, b.User(), second.Client.DeviceID)
			return err == nil && device != nil
		}))
		s.say(room, a.Device, "Willkommen am neuen Gerät.", b.Device, second)
		s.say(room, second, "Danke.", a.Device, b.Device)
		if trusted, err := a.Trusts(s.ctx, b.User()); err != nil || !trusted {
			s.Errorf("a does not trust b's devices any more: %v", err)
		}
		s.once(room, a.Device, b.Device, second)
	})
}
