// SPDX-License-Identifier: Apache-2.0

// Package brainpool is the elliptic curve brainpoolP256r1 (RFC 5639, 3.4), which the telematics infrastructure uses for cards, tokens and the
// federation list and which the standard library does not know. Operations on public data (verification, checking a point) use the ProtonMail
// curve through crypto/ecdsa; everything that touches a private key runs in constant time on bigmod with complete addition formulas. Packages
// jose, certificate and card call it. It has no I/O, takes its randomness from the caller and knows nothing of certificates or tokens.
package brainpool
