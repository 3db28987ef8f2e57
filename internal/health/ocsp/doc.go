// SPDX-License-Identifier: Apache-2.0

// Package ocsp asks and answers whether a certificate was revoked (RFC 6960), in the telematics infrastructure's profile: ECDSA with SHA-256 on
// brainpoolP256r1 or P-256, which the usual library does not know, and the CertHash extension, by which a responder shows that it knows the
// certificate. [Build] writes an authority's answer, [Check] reads one and says what it proves. Package trust carries them over HTTP, package card
// answers for the test PKI. It is pure: no network, no clock.
package ocsp
