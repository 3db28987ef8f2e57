// SPDX-License-Identifier: Apache-2.0

package encryption_test

import (
	"fmt"
	"testing"

	"github.com/konsil-health/konsil/internal/homeserver/account/accounttest"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

const dehydratedPath = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"

// dehydratedBody is a device that its client pickled, with its keys.
func dehydratedBody(u *accounttest.User, device id.Device) m {
	sleeping := *u
	sleeping.Device = device
	return m{"device_id": device, "device_data": m{"algorithm": "m.dehydration.v2", "account": "pickle"}, "initial_device_display_name": "sleeps",
		"device_keys": identity(&sleeping), "one_time_keys": oneTimeKeys(0, 3)}
}

func TestDehydratedDevice(t *testing.T) {
	each(t, func(t *testing.T, g *rig) {
		alice, bob := g.User(g.A, "alice"), g.User(g.A, "bob")
		bob.Do("GET", dehydratedPath, nil).Fails(404, "M_NOT_FOUND")
		bob.Do("DELETE", dehydratedPath, nil).Fails(404, "M_NOT_FOUND")
		bob.Do("PUT", dehydratedPath, m{"device_id": "SLEEPS", "device_data": m{}}).Fails(400, "M_MISSING_PARAM")
		bob.Do("PUT", dehydratedPath, dehydratedBody(bob, "DEV1")).Fails(400, "M_INVALID_PARAM") // that one is awake
		if got := bob.Do("PUT", dehydratedPath, dehydratedBody(bob, "SLEEPS")).OK(nil).Text("device_id"); got != "SLEEPS" {
			t.Error(got)
		}
		answer := bob.Do("GET", dehydratedPath, nil).OK(nil)
		if answer.Text("device_id") != "SLEEPS" || answer.Text("device_data", "account") != "pickle" {
			t.Errorf("%s", answer.Body)
		}
		// Others see its keys, claim its one-time keys and write to it.
		var keys struct {
			Devices map[id.User]map[id.Device]any `json:"device_keys"`
		}
		alice.Do("POST", v3+"/keys/query", m{"device_keys": m{string(bob.ID): []string{}}}).OK(&keys)
		if keys.Devices[bob.ID]["SLEEPS"] == nil {
			t.Errorf("%v", keys)
		}
		for i := range 150 {
			alice.Do("PUT", fmt.Sprintf("%s/sendToDevice/m.room.encrypted/%d", v3, i), m{"messages": m{string(bob.ID): m{"SLEEPS": m{"n": i}}}}).OK(nil)
		}
		// A new device reads all of it, in order, and may begin anew.
		phone := bob.On("PHONE")
		for range 2 {
			next, n := "", 0
			for {
				var page struct {
					Events []struct {
						Content struct {
							N int `json:"n"`
						} `json:"content"`
						Sender id.User `json:"sender"`
					} `json:"events"`
					Next string `json:"next_batch"`
				}
				body := m{}
				if next != "" {
					body["next_batch"] = next
				}
				phone.Do("POST", dehydratedPath+"/SLEEPS/events", body).OK(&page)
				if len(page.Events) == 0 {
					break
				}
				for _, e := range page.Events {
					if e.Content.N != n || e.Sender != alice.ID {
						t.Errorf("%v, want %d", e, n)
					}
					n++
				}
				next = page.Next
			}
			if n != 150 {
				t.Errorf("%d messages", n)
			}
		}
		phone.Do("POST", dehydratedPath+"/DEV1/events", m{}).Fails(403, "M_FORBIDDEN")
		alice.Do("POST", dehydratedPath+"/SLEEPS/events", m{}).Fails(403, "M_FORBIDDEN")

		// A newer one takes its place; one that is deleted is gone with its keys.
		phone.Do("PUT", dehydratedPath, dehydratedBody(bob, "SLEEPS2")).OK(nil)
		phone.Do("GET", v3+"/devices/SLEEPS", nil).Fails(404, "M_NOT_FOUND")
		phone.Do("DELETE", dehydratedPath, nil).OK(nil)
		phone.Do("GET", dehydratedPath, nil).Fails(404, "M_NOT_FOUND")
		phone.Do("GET", v3+"/devices/SLEEPS2", nil).Fails(404, "M_NOT_FOUND")
	})
}
