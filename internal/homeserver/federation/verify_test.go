// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// TestVerifiedSignaturesAreRememberedExactly: engine rule 18. A remembered signature proves itself and nothing else: not another signature on the
// event, nor the same one under another key or another server's name. Where a sender chooses the event's id nothing is remembered.
func TestVerifiedSignaturesAreRememberedExactly(t *testing.T) {
	t.Parallel()
	a, evil := hostile(t, Config{})
	message := func(version string, eid id.Event, text string) *event.Event {
		v, _ := roomversion.Get(version)
		return evil.build(event.Draft{Version: v, Room: "!r:evil.example", Type: "m.room.message", Sender: eve, ID: eid,
			Content: jsontext.Value(`{"body":"` + text + `"}`), Depth: 2, Timestamp: time.Now().UnixMilli()})
	}
	parse := func(e *event.Event, raw []byte) *event.Event {
		t.Helper()
		p, err := event.Parse(e.Version(), raw)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	verify := func(what string, e *event.Event, want bool) {
		t.Helper()
		if _, err := a.fed.VerifyEvent(t.Context(), e); (err == nil) != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	e := message("10", "", "true")
	verify("as it was signed", e, true)
	verify("again", e, true)
	signature := strings.Trim(string(canonicaljson.Get(e.JSON(), "signatures", string(nameEvil), string(evil.keyID))), `"`)
	other := []byte(signature)
	other[10] = map[bool]byte{true: 'B', false: 'A'}[other[10] == 'A']
	forged := parse(e, bytes.Replace(e.JSON(), []byte(signature), other, 1))
	if forged.ID() != e.ID() {
		t.Fatalf("the signature counts for the id: %s, %s", forged.ID(), e.ID())
	}
	verify("with another signature", forged, false)
	verify("under another key", parse(e, bytes.Replace(e.JSON(), []byte(`"`+evil.keyID+`"`), []byte(`"ed25519:z"`), 1)), false)
	if _, err := a.fed.VerifyEvent(t.Context(), e); err != nil {
		t.Errorf("the true one afterwards: %v", err)
	}
	if err := a.fed.verifySigner(t.Context(), parse(e, bytes.Replace(e.JSON(), []byte(`"`+nameEvil+`":{`), []byte(`"`+nameA+`":{`), 1)), nameA); err == nil {
		t.Error("it counts as another server's")
	}

	first := message("1", "$one:evil.example", "true")
	verify("an event with an id of its own", first, true)
	second := message("1", "$one:evil.example", "another")
	stolen := strings.Trim(string(canonicaljson.Get(first.JSON(), "signatures", string(nameEvil), string(evil.keyID))), `"`)
	replaced := strings.Trim(string(canonicaljson.Get(second.JSON(), "signatures", string(nameEvil), string(evil.keyID))), `"`)
	verify("another event with its id and signature", parse(second, bytes.Replace(second.JSON(), []byte(replaced), []byte(stolen), 1)), false)
}
