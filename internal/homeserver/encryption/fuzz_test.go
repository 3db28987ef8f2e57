// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// FuzzKeys feeds the readers of uploaded keys: whatever they accept is canonical, and reading it again gives the same.
func FuzzKeys(f *testing.F) {
	for _, seed := range []string{
		`{"user_id":"@a:a.test","device_id":"D","algorithms":["x"],"keys":{"ed25519:D":"k"},"signatures":{},"unsigned":{"device_display_name":"x"}}`,
		`{"user_id":"@a:a.test","usage":["master"],"keys":{"ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}}`,
		`{"user_id":"@a:a.test","device_id":"D","keys":null}`, `[]`, `null`, `{"a":1e400}`, "",
	} {
		f.Add([]byte(seed))
	}
	const user, device = id.User("@a:a.test"), id.Device("D")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if keys, _, err := readDeviceKeys(jsontext.Value(raw), user, device); err == nil {
			again, _, err := readDeviceKeys(keys, user, device)
			if err != nil || string(again) != string(keys) {
				t.Errorf("%s became %s, %v", keys, again, err)
			}
			withDisplayName(addSignature(keys, user, "ed25519:D", "AAAA"), "name")
		}
		if key, err := readCrossKey(jsontext.Value(raw), user, usageMaster); err == nil {
			if c, err := canonicaljson.CanonicalLax(key.canonical); err != nil || string(c) != string(key.canonical) {
				t.Errorf("%s is not canonical, %v", key.canonical, err)
			}
		}
		if _, _, key, err := oneTimeKey("a:b", jsontext.Value(raw)); err == nil && key == "" {
			t.Errorf("%s became nothing", raw)
		}
	})
}
