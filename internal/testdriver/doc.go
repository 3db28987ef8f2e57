// SPDX-License-Identifier: Apache-2.0

// Package testdriver is the REST interface that gematik's test suite drives a vendor's client by (TiMessengerTestTreiber.yaml, version 2.3.0), in
// front of a headless client with real encryption ([messenger.Device]). It translates: an operation becomes what a person would do in a messenger,
// and the answer of the homeserver or the directory becomes the answer of the interface. It decides nothing and knows none of the server's packages
// (ML-124877), is a program of its own, and no part of konsil (ML-124878): a test of the architecture holds both.
//
// One [Driver] stands for one kind of client at one homeserver (the suite calls it an API): an organisation's administrator, a professional, a
// professional with a card, or an insured person. It has a few devices, each with an account; a test claims a device, signs in and acts.
// It needs the build tag goolm; without the tag the package is empty.
package testdriver
