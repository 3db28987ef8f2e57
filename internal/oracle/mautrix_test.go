// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2

package oracle

import (
	"crypto/ed25519"
	"encoding/json/v2"
	"errors"
	"testing"
	"time"

	"maunium.net/go/mautrix/federation/eventauth"
	"maunium.net/go/mautrix/federation/pdu"
	mid "maunium.net/go/mautrix/id"

	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/matrixtest"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// mautrix is a generated room as mautrix-go sees it.
type mautrix struct {
	room   *matrixtest.Room
	events map[id.Event]*pdu.PDU
}

func newMautrix(room *matrixtest.Room) *mautrix {
	return &mautrix{room: room, events: map[id.Event]*pdu.PDU{}}
}

func (m *mautrix) version() mid.RoomVersion { return mid.RoomVersion(m.room.Version.ID) }

func (m *mautrix) pdu(t testing.TB, e *event.Event) *pdu.PDU {
	t.Helper()
	if p := m.events[e.ID()]; p != nil {
		return p
	}
	p := &pdu.PDU{}
	if err := json.Unmarshal(e.JSON(), p); err != nil {
		t.Fatal(err)
	}
	p.InternalMeta.EventID = mid.EventID(e.ID())
	m.events[e.ID()] = p
	return p
}

func getKey(server string, key mid.KeyID, _ time.Time) (mid.SigningKey, time.Time, error) {
	if id.KeyID(key) != matrixtest.KeyID {
		return "", time.Time{}, errors.New("unknown key")
	}
	pub := matrixtest.Key(id.Server(server)).Public().(ed25519.PublicKey)
	return mid.SigningKey(signing.Encode(pub)), time.UnixMilli(1 << 50), nil
}

// allowed is the verdict about e against a state.
func (m *mautrix) allowed(t testing.TB, e *event.Event, state authrule.State) error {
	t.Helper()
	auth := []*pdu.PDU{}
	for _, a := range authrule.Select(authrule.NeededBy(e), state) {
		auth = append(auth, m.pdu(t, a))
	}
	return m.authorize(t, e, auth)
}

func (m *mautrix) authorize(t testing.TB, e *event.Event, auth []*pdu.PDU) (err error) {
	defer func() {
		if recover() != nil {
			err = errPanic
		}
	}()
	return eventauth.Authorize(m.version(), m.pdu(t, e), auth, m.get(t), getKey)
}

// allowedByList is the verdict by the event's own auth_events, with the rules about the list.
func (m *mautrix) allowedByList(t testing.TB, e *event.Event) error {
	t.Helper()
	return m.authorize(t, e, nil)
}

func (m *mautrix) get(t testing.TB) eventauth.GetEventsFunc {
	return func(ids []mid.EventID) ([]*pdu.PDU, error) {
		out := make([]*pdu.PDU, len(ids))
		for i, eid := range ids {
			e := m.room.Event(id.Event(eid))
			if e == nil {
				return nil, errors.New("unknown event")
			}
			out[i] = m.pdu(t, e)
			out[i].InternalMeta.Rejected = m.room.Rejected(e.ID())
			if e == m.room.Create && m.room.Version.RoomIDIsHash {
				continue
			}
		}
		return out, nil
	}
}

// TestMautrixVerdicts leaves versions 1 and 2 out: mautrix does not judge their events.
func TestMautrixVerdicts(t *testing.T) {
	t.Parallel()
	compareVerdicts(t, func(t *testing.T, room *matrixtest.Room) judge {
		if room.Version.EventIDs == roomversion.EventIDInEvent {
			return nil
		}
		m := newMautrix(room)
		return func(e *event.Event, s authrule.State) error { return m.allowed(t, e, s) }
	}, mautrixDiffers)
	forRooms(t, func(t *testing.T, room *matrixtest.Room) {
		if room.Version.EventIDs == roomversion.EventIDInEvent {
			return
		}
		m := newMautrix(room)
		for _, v := range room.Log {
			ours := v.AuthList
			if ours == nil {
				ours = v.ByAuth
			}
			theirs := m.allowedByList(t, v.Event)
			if (ours == nil) != (theirs == nil) && mautrixDiffers(v.Event, authState(v), ours, theirs) == "" {
				t.Errorf("by its own auth events:\n%s\nours %v\nmautrix %v", v.Event.JSON(), ours, theirs)
			}
		}
	})
}
