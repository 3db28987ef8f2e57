// SPDX-License-Identifier: Apache-2.0

// Package tour walks through a whole consultation in a demonstration network of its own, with real clients and real encryption, and prints each
// step: an organisation registers itself with its card, two physicians find, invite, verify and write to each other across two providers, strangers
// are refused, and a provider is restarted in the middle. `konsil demo --tour` and TestConsultation are the same walk. It needs the build tag goolm;
// without it the package is empty. It knows the network only as people and organisations do, but for the restart.
package tour
