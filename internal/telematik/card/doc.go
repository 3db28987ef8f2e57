// SPDX-License-Identifier: Apache-2.0

// Package card signs in the name of people and institutions. It owns the signer that the rest of the telematics code asks, the software cards
// (eHBA, SMC-B, eGK) with PIN and retry counter, and the test PKI that issues them and the components' signature certificates, all kept as files
// of one folder. The composition root, the demo, `konsil card` and tests call it. Software cards and test roots are for demonstration only: the
// package refuses them where the environment is production, and it never pretends to be a real card.
package card
