// SPDX-License-Identifier: Apache-2.0

// Package idp proves who somebody is by a card, in the published form of the central identity provider (gematik IDP-Dienst): a signed challenge
// for a relying party, answered by a JWS of the card around it, encrypted for the provider, and an authorization code that the relying party
// redeems for the card holder's claims. [Issuer] is the provider of a demonstration network, [Party] a relying party of it or of the network's own,
// [Answer] what an authenticator does with a card, [Message] what people are told. The composition root, registration and directory use it. It keeps no
// accounts and no sessions: all state travels in sealed tokens, but for the challenges and codes already used.
package idp
