// SPDX-License-Identifier: Apache-2.0

// Package jose reads and writes the signed and encrypted tokens of the telematics infrastructure in compact form: JWS with BP256R1 (ECDSA on
// brainpoolP256r1) or ES256, JWE with ECDH-ES or dir and A256GCM, and the nesting of one in the other that the identity provider uses. Nothing
// else is accepted: no "none", no symmetric signatures, no "crit", no compression. Packages card, idp, fedlist and directory call it. It
// has no I/O and no clock; whether a key may be trusted is decided by package certificate.
package jose
