// SPDX-License-Identifier: Apache-2.0

// Package fedlist is the federation list (Föderationsliste): the signed list of the servers that take part in the TI-Messenger. [Publisher] is the
// central side, which providers ask to add and remove their domains; [Consumer] is the provider's side, which fetches the list, verifies it and
// answers who is a member, failing closed when the list is too old. The homeserver asks it through telematik/permission. It decides nothing
// about users.
package fedlist
