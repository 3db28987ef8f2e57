// SPDX-License-Identifier: Apache-2.0

// Package certificate reads, checks and issues the X.509 certificates of the telematics infrastructure: cards of people and institutions and
// the components' signature certificates, with brainpoolP256r1 keys, the admission extension (profession OIDs and Telematik-ID) and the policy
// that tells what a certificate is for. A check gets the trusted roots, what is expected and the time, and names the check that failed. Packages
// card, idp, fedlist, directory and registration call it. It is pure: no network (revocation is asked through a function handed in), no
// clock, no files.
package certificate
