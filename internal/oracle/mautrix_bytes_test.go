// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2

package oracle

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"testing"

	mcanonical "maunium.net/go/mautrix/crypto/canonicaljson"
	"maunium.net/go/mautrix/federation/pdu"
	mid "maunium.net/go/mautrix/id"

	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/matrixtest"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

func TestMautrixCanonicalJSON(t *testing.T) {
	t.Parallel()
	forJSON(t, func(raw []byte) {
		ours, err := canonicaljson.Canonical(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		theirs := jsontext.Value(bytes.Clone(raw))
		if err := mcanonical.Canonicalize(&theirs); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		if !bytes.Equal(ours, theirs) {
			t.Errorf("%q\nours   %s\ntheirs %s", raw, ours, theirs)
		}
	})
}

// signed is what mautrix-go has of an event: the form of versions 1 and 2, or the later one.
type signed interface {
	GetEventID(mid.RoomVersion) (mid.EventID, error)
	VerifyContentHash() bool
	VerifySignature(mid.RoomVersion, string, pdu.GetKeyFunc) error
}

// asMautrix reads an event and redacts another copy of it.
func asMautrix(t *testing.T, v mid.RoomVersion, e *event.Event) (p signed, redacted any) {
	t.Helper()
	if e.Version().EventIDs == roomversion.EventIDInEvent {
		one := &pdu.RoomV1PDU{}
		if err := json.Unmarshal(e.JSON(), one); err != nil {
			t.Fatal(err)
		}
		return one, one.Clone().Redact(v)
	}
	later := &pdu.PDU{}
	if err := json.Unmarshal(e.JSON(), later); err != nil {
		t.Fatal(err)
	}
	return later, later.Clone().Redact(v)
}

func TestMautrixEvents(t *testing.T) {
	t.Parallel()
	forEvents(t, func(t *testing.T, room *matrixtest.Room, e *event.Event) {
		if e.Type() == event.TypeRedaction && !room.Version.RedactsInContent {
			return // it keeps the top-level redacts, which stands in no version's list of what redaction keeps
		}
		if hasFloat(e, authrule.Map{}) {
			return // its canonical JSON knows no floats, which versions 1 to 5 must not refuse
		}
		v := mid.RoomVersion(room.Version.ID)
		p, redacted := asMautrix(t, v, e)
		if eid, err := p.GetEventID(v); err != nil || string(eid) != string(e.ID()) {
			t.Errorf("%s: id %s, %v", e.JSON(), eid, err)
		}
		if !p.VerifyContentHash() {
			t.Errorf("%s: content hash", e.JSON())
		}
		theirs, err := mcanonical.Marshal(redacted)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.VerifySignature(v, string(e.Sender().Server()), getKey); err != nil {
			t.Errorf("%s: %v", e.JSON(), err)
		}
		ours, err := e.Redact()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ours.JSON(), theirs) {
			t.Errorf("redacted\nours   %s\ntheirs %s", ours.JSON(), theirs)
		}
	})
}
