// SPDX-License-Identifier: Apache-2.0

package event

import (
	"crypto/ed25519"
	"testing"

	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

func TestBuildSmoke(t *testing.T) {
	t.Parallel()
	priv := ed25519.NewKeyFromSeed(make([]byte, 32))
	for _, ver := range roomversion.Supported() {
		v, _ := roomversion.Get(ver)
		empty := ""
		d := Draft{Version: v, Type: TypeCreate, StateKey: &empty, Sender: "@a:x", Content: []byte(`{"room_version": "` + ver + `","creator":"@a:x"}`), Timestamp: 5, Depth: 1}
		if !v.RoomIDIsHash {
			d.Room = "!r:x"
		}
		e, err := d.Build("x", "ed25519:1", priv)
		if err != nil {
			t.Fatal(err)
		}
		if !e.CheckHash() {
			t.Error("hash")
		}
		if err := e.Verify("x", "ed25519:1", priv.Public().(ed25519.PublicKey)); err != nil {
			t.Error(err)
		}
		r, err := e.Redact()
		if err != nil || !r.IsRedactedForm() {
			t.Error(err)
		}
		if again, err := Parse(v, r.JSON()); err != nil || again.ID() != e.ID() {
			t.Error(err, again.ID(), e.ID())
		}
		t.Log(string(e.JSON()), e.ID(), e.Room())
	}
}
