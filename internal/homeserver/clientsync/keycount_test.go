// SPDX-License-Identifier: Apache-2.0

package clientsync_test

import (
	"testing"

	. "github.com/konsil-health/konsil/internal/homeserver/clientsync/clientsynctest"
)

// TestWaitingSyncHearsOfClaimedKeys: a device that waits is told at once that somebody took a key or that it has uploaded some, and an answer
// counts them as they are even where counts are remembered.
func TestWaitingSyncHearsOfClaimedKeys(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben := g.Person("anna"), g.Person("ben")
		key := func(text string) M {
			return M{"key": text, "signatures": M{string(anna.ID): M{"ed25519:DEV1": "c2lnbmF0dXJl"}}}
		}
		upload := func(keys M) { anna.Do("POST", V3+"/keys/upload", M{"one_time_keys": keys}).OK(nil) }
		count := func(a *Answer) any { return a.At("device_one_time_keys_count", "signed_curve25519") }
		upload(M{"signed_curve25519:AAAA": key("a"), "signed_curve25519:AAAB": key("b")})
		for range 2 {
			if n := count(anna.Sync("")); n != 2.0 {
				t.Fatalf("%v keys, want 2", n)
			}
		}
		waiting := func(act func()) any {
			answer := make(chan *Answer, 1)
			go func() { answer <- anna.Sync("timeout=60000") }()
			act()
			return count(<-answer)
		}
		claim := func() {
			ben.Do("POST", V3+"/keys/claim", M{"one_time_keys": M{string(anna.ID): M{"DEV1": "signed_curve25519"}}}).OK(nil)
		}
		if n := waiting(claim); n != 1.0 {
			t.Errorf("after a claim %v keys, want 1", n)
		}
		if n := waiting(func() { upload(M{"signed_curve25519:AAAC": key("c")}) }); n != 2.0 {
			t.Errorf("after an upload %v keys, want 2", n)
		}
	})
}
