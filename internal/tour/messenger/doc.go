// SPDX-License-Identifier: Apache-2.0

// Package messenger is a person's messenger app without a screen: mautrix-go with real Olm and Megolm (goolm, without cgo). The tour and the
// tests with real clients see the network through it as people do. It needs the build tag goolm; without the tag the package is empty.
//
// A [Device] does nothing by itself: it has no goroutine and syncs only while its owner waits for something, so whoever uses it decides what
// happens when. It never retries a request and never sleeps.
package messenger
