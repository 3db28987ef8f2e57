// SPDX-License-Identifier: Apache-2.0

// Package trust keeps up with whom the telematics infrastructure vouches for: [OCSP] asks whether a certificate was revoked and remembers the
// answer for as long as it says, [Follow] learns new roots from the published roots.json once a week. The composition root builds one of each for
// a node; packages idp, fedlist, directory and registration get them as functions. It keeps nothing on disk: after a restart everything is asked anew.
package trust
