// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/matrixtest"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// randomJSON writes a random value in a random, mostly not canonical way.
type randomJSON struct{ *rand.Rand }

func (r randomJSON) space(b *strings.Builder) {
	for r.IntN(4) == 0 {
		b.WriteByte(" \n\t\r"[r.IntN(4)])
	}
}

func (r randomJSON) string(b *strings.Builder) {
	b.WriteByte('"')
	for range r.IntN(6) {
		b.WriteString([]string{
			"a", "b", "é", "日", "😀", "c", "d", "e", "f", "g", `\n`, `\t`, `\"`, `\\`, `\/`, `\u0000`, `\u001f`, `\u007f`, `\u00e9`, `\uD83D\uDE00`, "\u2028", "<", "\x7f", "[", "\uffff",
		}[r.IntN(25)])
	}
	b.WriteByte('"')
}

func (r randomJSON) value(b *strings.Builder, depth int) {
	r.space(b)
	defer r.space(b)
	switch n := r.IntN(9); {
	case n < 2 && depth > 0:
		r.object(b, depth-1)
	case n == 2 && depth > 0:
		b.WriteByte('[')
		for i := range r.IntN(4) {
			if i > 0 {
				b.WriteByte(',')
			}
			r.value(b, depth-1)
		}
		b.WriteByte(']')
	case n == 3:
		b.WriteString([]string{"true", "false", "null"}[r.IntN(3)])
	case n < 7:
		fmt.Fprint(b, []int64{0, 1, -1, 50, 9007199254740991, -9007199254740991, r.Int64N(1 << 50)}[r.IntN(7)])
	default:
		r.string(b)
	}
}

// object has different names, because everybody refuses or mends repeated ones in a way of his own.
func (r randomJSON) object(b *strings.Builder, depth int) {
	names := map[string]bool{}
	b.WriteByte('{')
	for range r.IntN(5) {
		var n strings.Builder
		r.string(&n)
		c, err := canonicaljson.Canonical([]byte(n.String()))
		if err != nil {
			panic(err)
		}
		if names[string(c)] {
			continue
		}
		if len(names) > 0 {
			b.WriteByte(',')
		}
		names[string(c)] = true
		r.space(b)
		b.WriteString(n.String())
		r.space(b)
		b.WriteByte(':')
		r.value(b, depth)
	}
	b.WriteByte('}')
}

func forJSON(t *testing.T, run func(raw []byte)) {
	r := randomJSON{rand.New(rand.NewPCG(1, 2))}
	for range 3000 {
		var b strings.Builder
		r.object(&b, 4)
		run([]byte(b.String()))
	}
}

// escapedName: some member name needs an escape. gomatrixserverlib writes names without, so what it makes then is not
// even JSON; the grammar of the specification ("Canonical JSON") makes no difference between names and other strings.
func escapedName(raw []byte) bool {
	for name, v := range canonicaljson.Members(raw) {
		if bytes.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == '"' || r == '\\' }) || escapedName(v) {
			return true
		}
	}
	for v := range canonicaljson.Elements(raw) {
		if escapedName(v) {
			return true
		}
	}
	return false
}

func TestGMSLCanonicalJSON(t *testing.T) {
	t.Parallel()
	priv := matrixtest.Key("x")
	differ := 0
	forJSON(t, func(raw []byte) {
		ours, err := canonicaljson.Canonical(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		theirs, err := gomatrixserverlib.CanonicalJSON(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if !bytes.Equal(ours, theirs) {
			if differ++; !escapedName(raw) {
				t.Errorf("%q\nours   %s\ntheirs %s", raw, ours, theirs)
			}
			return
		}
		// What one signs, the other verifies.
		signed, err := signing.SignJSON(raw, "x", "ed25519:1", priv)
		if err != nil {
			t.Fatal(err)
		}
		if err := gomatrixserverlib.VerifyJSON("x", "ed25519:1", priv.Public().(ed25519.PublicKey), signed); err != nil {
			t.Errorf("%s: %v", signed, err)
		}
		other, err := gomatrixserverlib.SignJSON("x", "ed25519:1", priv, raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := signing.VerifyJSON(other, "x", "ed25519:1", priv.Public().(ed25519.PublicKey)); err != nil {
			t.Errorf("%s: %v", other, err)
		}
	})
	t.Log(differ, "differ by names that need an escape")
}

// forEvents runs over the events of generated rooms and over messages with random content.
func forEvents(t *testing.T, run func(t *testing.T, room *matrixtest.Room, e *event.Event)) {
	forRooms(t, func(t *testing.T, room *matrixtest.Room) {
		for _, v := range room.Log {
			run(t, room, v.Event)
		}
	})
	for _, ver := range roomversion.Supported() {
		room := matrixtest.New(ver, 9)
		r := randomJSON{rand.New(rand.NewPCG(3, 4))}
		for i := range 200 {
			var b strings.Builder
			r.object(&b, 3)
			key := []string{"m.room.message", "m.room.topic", event.TypeJoinRules, event.TypeMember, event.TypePowerLevels, event.TypeCreate, event.TypeRedaction}[i%7]
			d := event.Draft{
				Version: room.Version, Room: room.ID, Type: key, Sender: room.Users[0], Content: []byte(b.String()), Timestamp: int64(i),
				PrevEvents: []id.Event{room.Create.ID()}, AuthEvents: []id.Event{}, Depth: int64(i),
				Hashes: map[id.Event]string{room.Create.ID(): room.Create.ReferenceHash()},
			}
			if key == event.TypeCreate {
				d.StateKey = new(string)
				if room.Version.RoomIDIsHash {
					d.Room = ""
				}
			}
			e, err := d.Build("s0.example", matrixtest.KeyID, matrixtest.Key("s0.example"))
			if err != nil {
				t.Fatal(err)
			}
			run(t, room, e)
		}
	}
}

func TestGMSLEvents(t *testing.T) {
	t.Parallel()
	forEvents(t, func(t *testing.T, room *matrixtest.Room, e *event.Event) {
		if dropsSigned(e) || escapedName(e.JSON()) {
			return
		}
		v := gomatrixserverlib.MustGetRoomVersion(gomatrixserverlib.RoomVersion(room.Version.ID))
		p, err := v.NewEventFromUntrustedJSON(e.JSON()) // checks the content hash and redacts where it does not fit
		if err != nil {
			t.Fatalf("%s: %v", e.JSON(), err)
		}
		if p.EventID() != string(e.ID()) || p.Redacted() || p.RoomID().String() != string(e.Room()) {
			t.Errorf("%s: id %s, redacted %v, room %s", e.JSON(), p.EventID(), p.Redacted(), p.RoomID())
		}
		redacted, err := v.RedactEventJSON(e.JSON())
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := canonicaljson.CanonicalLax(redacted)
		if err != nil {
			t.Fatal(err)
		}
		ours, err := e.Redact()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ours.JSON(), theirs) {
			t.Errorf("redacted\nours   %s\ntheirs %s", ours.JSON(), theirs)
		}
		s := e.Sender().Server()
		if err := gomatrixserverlib.VerifyJSON(string(s), gomatrixserverlib.KeyID(matrixtest.KeyID), matrixtest.Key(s).Public().(ed25519.PublicKey), redacted); err != nil {
			t.Errorf("%s: %v", redacted, err)
		}
	})
}
