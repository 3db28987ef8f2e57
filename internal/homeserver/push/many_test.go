// SPDX-License-Identifier: Apache-2.0

package push_test

import (
	"fmt"
	"testing"

	. "github.com/konsil-health/konsil/internal/homeserver/clientsync/clientsynctest"
)

// TestCountingStops: engine rule 31. Whoever was away for long has a thousand unread messages and no more, by the default rules and by own ones.
func TestCountingStops(t *testing.T) {
	Each(t, func(t *testing.T, g *Rig) {
		anna, ben, room := chat(g)
		for i := range 990 {
			anna.Say(room, fmt.Sprint(i))
		}
		if got := unread(t, ben, room); got != [2]float64{990, 0} {
			t.Errorf("990 messages: %v", got)
		}
		for i := range 20 {
			anna.Say(room, fmt.Sprint(i))
		}
		if got := unread(t, ben, room); got != [2]float64{1000, 0} {
			t.Errorf("1,010 messages, counted on: %v", got)
		}
		ben.Do("PUT", "/_matrix/client/v3/pushrules/global/content/loud", M{"pattern": "Befund", "actions": []any{"notify"}}).OK(nil)
		if got := unread(t, ben.On("NEW"), room); got != [2]float64{1000, 0} {
			t.Errorf("1,010 messages, by own rules: %v", got)
		}
	})
}
