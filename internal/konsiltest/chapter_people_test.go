// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"net/url"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// people: profiles, devices, keys, messages to devices.
func (s *storybook) people() {
	s.try(s.anna, "PUT", "profile/"+url.PathEscape(s.anna.User)+"/displayname", map[string]any{"displayname": "Dr. Anna"})
	s.note("profile: %v", s.try(s.berta, "GET", "profile/"+url.PathEscape(s.anna.User), nil)["displayname"])
	s.try(s.berta, "GET", "profile/"+url.PathEscape("@nobody:praxis.test"), nil)
	s.try(s.anna, "POST", "keys/upload", map[string]any{"device_keys": map[string]any{"user_id": s.anna.User, "device_id": s.anna.Device,
		"algorithms": []string{"m.olm.v1.curve25519-aes-sha2"}, "keys": map[string]any{}, "signatures": map[string]any{}},
		"one_time_keys": map[string]any{"signed_curve25519:AAAA": map[string]any{"key": "abc", "signatures": map[string]any{}}}})
	query := map[string]any{"device_keys": map[string]any{s.anna.User: []string{}, "@nobody:praxis.test": []string{}}}
	s.until(s.berta, "anna's device", func() bool {
		_, keys := s.berta.Try("POST", client+"keys/query", query)
		return konsiltest.At(keys, "device_keys", s.anna.User, s.anna.Device) != nil
	})
	s.note("keys: %s", s.sorted(s.try(s.berta, "POST", "keys/query", query)["device_keys"]))
	claim := map[string]any{"one_time_keys": map[string]any{s.anna.User: map[string]any{s.anna.Device: "signed_curve25519"}}}
	s.note("first claim: %s", s.sorted(s.try(s.berta, "POST", "keys/claim", claim)["one_time_keys"]))
	s.note("second claim: %s", s.sorted(s.try(s.berta, "POST", "keys/claim", claim)["one_time_keys"]))
	s.try(s.berta, "PUT", "sendToDevice/m.test/1", map[string]any{"messages": map[string]any{s.anna.User: map[string]any{"*": map[string]any{"for": "anna"}}}})
	since := ""
	s.until(s.anna, "the message to her device", func() bool {
		answer := s.anna.Sync(since, 0)
		events, _ := konsiltest.At(answer, "to_device", "events").([]any)
		for _, e := range events {
			s.note("to anna's device: %s", s.sorted(e))
		}
		return len(events) > 0
	})
}
