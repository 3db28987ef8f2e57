// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"crypto/ed25519"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// signatures is the signatures member of a signed object: signer → key id → signature.
type signatures map[id.User]map[id.KeyID]string

// deviceKeys are the members of a device's identity keys that the server reads (client-server API, "Device keys"); the object itself is kept
// as its bytes.
type deviceKeys struct {
	User       id.User             `json:"user_id"`
	Device     id.Device           `json:"device_id"`
	Algorithms []string            `json:"algorithms"`
	Keys       map[id.KeyID]string `json:"keys"`
	Signatures signatures          `json:"signatures"`
}

// readDeviceKeys checks that raw are the keys of the device and returns them in canonical form without unsigned.
func readDeviceKeys(raw jsontext.Value, user id.User, device id.Device) (canonical []byte, k deviceKeys, err error) {
	if err := json.Unmarshal(raw, &k); err != nil {
		return nil, k, mxerror.BadJSON.With("device_keys: wrong type")
	}
	if k.User != user || k.Device != device {
		return nil, k, mxerror.InvalidParam.With("device_keys name another user or device")
	}
	canonical, err = canonicaljson.CanonicalLax(raw)
	if err != nil {
		return nil, k, mxerror.BadJSON.With("device_keys: %v", err)
	}
	return signing.Replace(canonical, "unsigned", nil), k, nil
}

// The usages of cross-signing keys.
const (
	usageMaster      = "master"
	usageSelfSigning = "self_signing"
	usageUserSigning = "user_signing"
)

// crossKey is a cross-signing key (client-server API, "Cross-signing").
type crossKey struct {
	User       id.User             `json:"user_id"`
	Usage      []string            `json:"usage"`
	Keys       map[id.KeyID]string `json:"keys"`
	Signatures signatures          `json:"signatures"`

	public    string // unpadded base64
	canonical []byte
}

// readCrossKey checks that raw is a cross-signing key of the user with the usage.
func readCrossKey(raw jsontext.Value, user id.User, usage string) (*crossKey, error) {
	var k crossKey
	if err := json.Unmarshal(raw, &k); err != nil {
		return nil, mxerror.BadJSON.With("%s key: wrong type", usage)
	}
	switch {
	case k.User != user:
		return nil, mxerror.InvalidParam.With("%s key: it names another user", usage)
	case len(k.Usage) == 0 || !contains(k.Usage, usage):
		return nil, mxerror.InvalidParam.With("%s key: its usage is another one", usage)
	case len(k.Keys) != 1:
		return nil, mxerror.InvalidParam.With("%s key: it must hold exactly one key", usage)
	}
	for name, public := range k.Keys {
		if _, err := signing.DecodePublicKey(public); err != nil || name != id.KeyID("ed25519:"+public) {
			return nil, mxerror.InvalidParam.With("%s key: it must be an ed25519 key named by itself", usage)
		}
		k.public = public
	}
	canonical, err := canonicaljson.CanonicalLax(raw)
	if err != nil {
		return nil, mxerror.BadJSON.With("%s key: %v", usage, err)
	}
	k.canonical = signing.Replace(canonical, "unsigned", nil)
	return &k, nil
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// signedBy checks a signature made with a public key in base64.
func signedBy(object []byte, user id.User, key id.KeyID, public string) bool {
	pub, err := signing.DecodePublicKey(public)
	return err == nil && signing.VerifyJSON(object, string(user), key, ed25519.PublicKey(pub)) == nil
}

// addSignature merges one signature into a canonical object.
func addSignature(object []byte, signer id.User, key id.KeyID, signature string) []byte {
	sig, err := signing.Decode(signature)
	if err != nil {
		return object
	}
	merged, err := signing.Insert(canonicaljson.Get(object, "signatures"), string(signer), key, sig)
	if err != nil {
		return object
	}
	return signing.Replace(object, "signatures", merged)
}

// withDisplayName adds unsigned.device_display_name.
func withDisplayName(object []byte, name string) []byte {
	unsigned := []byte("{}")
	if name != "" {
		unsigned = signing.Replace(nil, "device_display_name", canonicaljson.AppendString(nil, name))
	}
	return signing.Replace(object, "unsigned", unsigned)
}

// oneTimeKey reads the name "algorithm:id" and checks the value of an uploaded one-time or fallback key.
func oneTimeKey(name string, value jsontext.Value) (algorithm, keyID, canonical string, err error) {
	algorithm, keyID, ok := strings.Cut(name, ":")
	if !ok || algorithm == "" || keyID == "" {
		return "", "", "", mxerror.BadJSON.With("%q is no name of a key: expected algorithm:id", name)
	}
	switch value.Kind() {
	case '"', '{':
	default:
		return "", "", "", mxerror.BadJSON.With("the key %s must be a string or an object", name)
	}
	c, err := canonicaljson.CanonicalLax(value)
	if err != nil {
		return "", "", "", mxerror.BadJSON.With("the key %s: %v", name, err)
	}
	return algorithm, keyID, string(c), nil
}
