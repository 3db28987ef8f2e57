// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/matrixtest"
)

// gmsl is a generated room as gomatrixserverlib sees it.
type gmsl struct {
	room    *matrixtest.Room
	version gomatrixserverlib.IRoomVersion
	events  map[id.Event]gomatrixserverlib.PDU
}

func newGMSL(t testing.TB, room *matrixtest.Room) *gmsl {
	t.Helper()
	return &gmsl{
		room: room, version: gomatrixserverlib.MustGetRoomVersion(gomatrixserverlib.RoomVersion(room.Version.ID)),
		events: map[id.Event]gomatrixserverlib.PDU{},
	}
}

// dropsSigned: from version 11 on redaction keeps third_party_invite.signed of member events ("Room Version 11",
// "Redactions"). gomatrixserverlib drops it, so its ids of such events are wrong.
func dropsSigned(e *event.Event) bool {
	return e.Version().Redaction.MemberInviteSigned && e.Type() == event.TypeMember &&
		canonicaljson.Get(e.Content(), "third_party_invite", "signed") != nil
}

// pdu reads an event as if it had come from outside; that must give the same id.
func (g *gmsl) pdu(e *event.Event) (gomatrixserverlib.PDU, error) {
	if p := g.events[e.ID()]; p != nil {
		return p, nil
	}
	p, err := g.version.NewEventFromUntrustedJSON(e.JSON())
	if err != nil {
		return nil, err
	}
	if dropsSigned(e) {
		if p, err = g.version.NewEventFromTrustedJSONWithEventID(string(e.ID()), e.JSON(), false); err != nil {
			return nil, err
		}
	}
	if p.EventID() != string(e.ID()) {
		return nil, fmt.Errorf("gomatrixserverlib gives %s the id %s", e.ID(), p.EventID())
	}
	g.events[e.ID()] = p
	return p, nil
}

func userID(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
	return spec.NewUserID(string(sender), true)
}

// allowed is the verdict about e against a state.
func (g *gmsl) allowed(t testing.TB, e *event.Event, state authrule.State) error {
	t.Helper()
	p, err := g.pdu(e)
	if err != nil {
		t.Fatal(err)
	}
	provider, err := gomatrixserverlib.NewAuthEvents(nil)
	if err != nil {
		t.Fatal(err)
	}
	auth := authrule.Select(authrule.NeededBy(e), state)
	if g.room.Version.RoomIDIsHash && e != g.room.Create {
		auth = append(auth, g.room.Create) // implied; it wants to see it
	}
	for _, a := range auth {
		q, err := g.pdu(a)
		if err != nil {
			t.Fatal(err)
		}
		if err := provider.AddEvent(q); err != nil {
			t.Fatal(err)
		}
	}
	return gomatrixserverlib.Allowed(p, provider, userID)
}

// resolve merges states.
func (g *gmsl) resolve(t testing.TB, sets []map[event.Key]id.Event) map[event.Key]id.Event {
	t.Helper()
	pdus := make([][]gomatrixserverlib.PDU, len(sets))
	for i, s := range sets {
		for _, eid := range s {
			p, err := g.pdu(g.room.Event(eid))
			if err != nil {
				t.Fatal(err)
			}
			pdus[i] = append(pdus[i], p)
		}
	}
	var all []gomatrixserverlib.PDU
	for _, v := range g.room.Log {
		if v.Event.IsState() {
			p, err := g.pdu(v.Event)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, p)
		}
	}
	resolved, err := gomatrixserverlib.ResolveConflictsNew(g.version.Version(), pdus, all, userID,
		func(eid string) bool { return g.room.Rejected(id.Event(eid)) })
	if err != nil {
		t.Fatal(err)
	}
	out := map[event.Key]id.Event{}
	for _, p := range resolved {
		out[event.Key{Type: p.Type(), StateKey: *p.StateKey()}] = id.Event(p.EventID())
	}
	return out
}
