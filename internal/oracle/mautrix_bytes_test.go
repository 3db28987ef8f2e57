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

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/matrixtest"
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

func TestMautrixEvents(t *testing.T) {
	t.Parallel()
	forEvents(t, func(t *testing.T, room *matrixtest.Room, e *event.Event) {
		if e.Type() == event.TypeRedaction && !room.Version.RedactsInContent {
			return // it keeps the top-level redacts, which stands in no version's list of what redaction keeps
		}
		v := mid.RoomVersion(room.Version.ID)
		p := &pdu.PDU{}
		if err := json.Unmarshal(e.JSON(), p); err != nil {
			t.Fatal(err)
		}
		if eid, err := p.GetEventID(v); err != nil || string(eid) != string(e.ID()) {
			t.Errorf("%s: id %s, %v", e.JSON(), eid, err)
		}
		if !p.VerifyContentHash() {
			t.Errorf("%s: content hash", e.JSON())
		}
		if err := p.VerifySignature(v, string(e.Sender().Server()), getKey); err != nil {
			t.Errorf("%s: %v", e.JSON(), err)
		}
		theirs, err := mcanonical.Marshal(p.Clone().Redact(v))
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
	})
}
