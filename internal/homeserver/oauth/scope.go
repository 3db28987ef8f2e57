// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"slices"
	"strings"

	"github.com/konsil-health/konsil/internal/matrix/id"
)

// The scope tokens (client-server API, "Allocated scope tokens"), and those from before they were specified, which clients still ask for.
const (
	scopeAPI       = "urn:matrix:client:api:*"
	scopeDevice    = "urn:matrix:client:device:"
	scopeAPIOld    = "urn:matrix:org.matrix.msc2967.client:api:*"
	scopeDeviceOld = "urn:matrix:org.matrix.msc2967.client:device:"
)

// maxDeviceID bounds a device id as account does; minDeviceID is short enough for what clients call their devices.
const maxDeviceID = 512

// parseScope finds what is granted of a requested scope, and the device it is for. Tokens that mean nothing here (openid) are left out, which the
// answer tells the client (RFC 6749, section 3.3).
func parseScope(requested string) (granted string, device id.Device, refused *failure) {
	var tokens []string
	full := false
	for token := range strings.SplitSeq(requested, " ") {
		name, isDevice := strings.CutPrefix(token, scopeDevice)
		if !isDevice {
			name, isDevice = strings.CutPrefix(token, scopeDeviceOld)
		}
		switch {
		case isDevice && device != "" && id.Device(name) != device:
			return "", "", fail("invalid_scope", "the scope must name exactly one device")
		case isDevice && !deviceName(name):
			return "", "", fail("invalid_scope", "the device id is empty, too long or holds characters that are not allowed")
		case isDevice:
			device = id.Device(name)
		case token == scopeAPI || token == scopeAPIOld:
			full = true
		default:
			continue
		}
		if slices.Contains(tokens, token) {
			if isDevice {
				return "", "", fail("invalid_scope", "the scope must name exactly one device")
			}
			continue
		}
		tokens = append(tokens, token)
	}
	switch {
	case !full:
		return "", "", fail("invalid_scope", "the scope must hold %s", scopeAPI)
	case device == "":
		return "", "", fail("invalid_scope", "the scope must name the device: %s and its id", scopeDevice)
	}
	return strings.Join(tokens, " "), device, nil
}

// deviceName says whether a device id consists of what RFC 6749, section 3.3, allows in a scope token.
func deviceName(name string) bool {
	if name == "" || len(name) > maxDeviceID {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c != 0x21 && !(c >= 0x23 && c <= 0x5b) && !(c >= 0x5d && c <= 0x7e) {
			return false
		}
	}
	return true
}
