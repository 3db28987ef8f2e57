// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"crypto/ed25519"
	"encoding/json"
	"net/url"
	"slices"

	"github.com/konsil-health/konsil/internal/konsiltest"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// crossKey is a key that somebody signs others with.
type crossKey struct {
	private ed25519.PrivateKey
	public  string
}

func (s *storybook) crossKey(name string) crossKey {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	k := crossKey{private, signing.Encode(public)}
	s.names[k.public] = "<" + name + ">"
	return k
}

// signed is an object with the signature of somebody's key.
func (k crossKey) signed(s *storybook, user string, object map[string]any) json.RawMessage {
	raw, err := json.Marshal(object)
	if err == nil {
		raw, err = signing.SignJSON(raw, user, id.KeyID("ed25519:"+k.public), k.private)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

// devices: cross-signing keys, a second device that comes and goes, and what the other server's people hear of it.
func (s *storybook) devices() {
	room := s.create(s.anna, "encrypted", map[string]any{"preset": "private_chat", "invite": []string{s.berta.User}})
	s.enter(s.berta, room, s.anna)
	since := s.berta.Sync("", 0)["next_batch"].(string)
	changed := func(what string, holds func() bool) {
		s.t.Helper()
		since = s.berta.Until(since, what, func(sync map[string]any) bool {
			list, _ := konsiltest.At(sync, "device_lists", "changed").([]any)
			return slices.Contains(list, any(s.anna.User)) && holds()
		})
		s.note("berta hears of %s", what)
	}
	ask := map[string]any{"device_keys": map[string]any{s.anna.User: []string{}}}
	keys := func() map[string]any { _, k := s.berta.Try("POST", client+"keys/query", ask); return k }

	master, self, others := s.crossKey("master key"), s.crossKey("self-signing key"), s.crossKey("user-signing key")
	key := func(usage string, k crossKey) map[string]any {
		return map[string]any{"user_id": s.anna.User, "usage": []string{usage}, "keys": map[string]string{"ed25519:" + k.public: k.public}}
	}
	s.try(s.anna, "POST", "keys/device_signing/upload", map[string]any{"master_key": key("master", master),
		"self_signing_key": master.signed(s, s.anna.User, key("self_signing", self)), "user_signing_key": master.signed(s, s.anna.User, key("user_signing", others)),
		"auth": map[string]any{"type": "m.login.password", "password": s.anna.Password, "identifier": map[string]any{"type": "m.id.user", "user": s.anna.User}}})
	changed("anna's cross-signing keys", func() bool { return konsiltest.At(keys(), "master_keys", s.anna.User) != nil })

	second := s.praxis.Login(s.t, s.anna.User, s.anna.Password)
	s.names[second.Device] = "<second device>"
	curve := s.crossKey("key of the second device")
	device := map[string]any{"user_id": s.anna.User, "device_id": second.Device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys": map[string]string{"ed25519:" + second.Device: curve.public, "curve25519:" + second.Device: curve.public}}
	s.try(second, "POST", "keys/upload", map[string]any{"device_keys": json.RawMessage(deviceSigned(s, second, curve, device)),
		"fallback_keys": map[string]any{"signed_curve25519:FALL": map[string]any{"key": "fallback", "fallback": true, "signatures": map[string]any{}}}})
	changed("the second device", func() bool { return konsiltest.At(keys(), "device_keys", s.anna.User, second.Device) != nil })
	s.try(s.anna, "POST", "keys/signatures/upload", map[string]any{s.anna.User: map[string]any{second.Device: self.signed(s, s.anna.User, device)}})
	changed("its signature", func() bool {
		return konsiltest.At(keys(), "device_keys", s.anna.User, second.Device, "signatures", s.anna.User, "ed25519:"+self.public) != nil
	})
	s.note("keys: %s", s.sorted(keys()))
	claim := map[string]any{"one_time_keys": map[string]any{s.anna.User: map[string]any{second.Device: "signed_curve25519", "UNKNOWN": "signed_curve25519"}, "@nobody:praxis.test": map[string]any{"X": "signed_curve25519"}}}
	for range 2 {
		s.note("claimed: %s", s.sorted(s.try(s.berta, "POST", "keys/claim", claim)))
	}
	s.try(second, "PUT", "devices/"+url.PathEscape(second.Device), map[string]any{"display_name": "Telefon"})
	s.try(second, "POST", "logout", map[string]any{})
	changed("its end", func() bool { return konsiltest.At(keys(), "device_keys", s.anna.User, second.Device) == nil })
	s.note("keys: %s", s.sorted(keys()))
}

// deviceSigned is a device's keys signed by itself.
func deviceSigned(s *storybook, of *konsiltest.Session, k crossKey, device map[string]any) []byte {
	raw, err := json.Marshal(device)
	if err == nil {
		raw, err = signing.SignJSON(raw, of.User, id.KeyID("ed25519:"+of.Device), k.private)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}
