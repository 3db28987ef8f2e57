// SPDX-License-Identifier: Apache-2.0

package spectest

// exceptions are operations whose answers are not checked, each with its reason.
var exceptions = map[string]string{
	"GET /_matrix/federation/v1/make_join/{roomId}/{userId}":  "asks for origin in the template, which events have lost",
	"GET /_matrix/federation/v1/make_knock/{roomId}/{userId}": "the same",
	"GET /_matrix/federation/v1/make_leave/{roomId}/{userId}": "the same",
	"PUT /_matrix/federation/v2/invite/{roomId}/{eventId}":    "asks for origin in the event, which it has lost",
}

// loose are operations whose requests we take in more shapes than the specification shows, each with its reason; their answers are checked.
var loose = map[string]string{
	"PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}":  "asks for origin in the event, which it has lost",
	"PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}": "the same",
	"PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}": "the same",
	"PUT /_matrix/federation/v2/invite/{roomId}/{eventId}":     "the same",
	"PUT /_matrix/federation/v1/send/{txnId}":                  "a unit that is malformed costs itself, not its transaction; peers without a time are heard",
}
