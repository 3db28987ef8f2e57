// SPDX-License-Identifier: Apache-2.0

package account

import (
	"crypto/rand"
	"crypto/sha256"
)

// hashToken is what is stored of a token. A plain hash is enough: the secret is random and long.
func hashToken(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// randomLocalpart is the localpart of a user who did not wish one. It holds no personal data (A_22719).
func randomLocalpart() string { return randomText("abcdefghijklmnopqrstuvwxyz234567", 16) }

// randomDevice is a device id chosen by the server.
func randomDevice() string { return randomText("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 10) }

// randomText needs an alphabet of 32 letters, so that five bits of a byte choose one without bias.
func randomText(alphabet string, n int) string {
	b := make([]byte, n)
	rand.Read(b)
	for i := range b {
		b[i] = alphabet[b[i]&31]
	}
	return string(b)
}
