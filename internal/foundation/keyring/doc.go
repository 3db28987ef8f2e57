// SPDX-License-Identifier: Apache-2.0

// Package keyring owns secrets: the signing keys of all tenants, sealed at rest with a key derived from the cell's master key, and keys
// derived for other purposes (sync tokens, pagination). Federation, room and the composition root call it. It never hands out the master key
// and never writes a secret in the clear.
package keyring
