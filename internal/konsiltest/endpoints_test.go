// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"testing"

	"github.com/konsil-health/konsil/internal/foundation/httpapi/spectest"
	"github.com/konsil-health/konsil/internal/konsiltest"
)

const (
	byOthers = "is asked by identity servers and those whom a user shows a token, not by homeservers"
	missing  = "needs history with holes, which this story has not: package room's tests of missing events ask for it, federation's TestReads answers it over TLS"
)

// neverAsked are the operations that our nodes do not ask each other in the story, each with its reason.
var neverAsked = map[string]string{
	"GET /.well-known/matrix/server":                           "discovery asks on port 443, which a test cannot have: federation's TestDiscovery",
	"GET /_matrix/federation/v1/event/{eventId}":               missing,
	"GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}": missing,
	"GET /_matrix/federation/v1/state/{roomId}":                missing,
	"GET /_matrix/federation/v1/state_ids/{roomId}":            missing,
	"GET /_matrix/federation/v1/media/thumbnail/{mediaId}":     "we fetch the picture and scale it ourselves",
	"GET /_matrix/federation/v1/openid/userinfo":               byOthers,
	"PUT /_matrix/federation/v1/3pid/onbind":                   byOthers,
	"GET /_matrix/federation/v1/publicRooms":                   "we ask with POST",
	"GET /_matrix/federation/v1/query/{queryType}":             "the kinds of query that there are have operations of their own",
	"GET /_matrix/federation/v1/version":                       "is for people who look after servers",
	"GET /_matrix/key/v2/query/{serverName}":                   "is asked when a server does not answer for its own keys: federation's TestNotary",
	"POST /_matrix/key/v2/query":                               "we ask a notary for one server at a time",
	"PUT /_matrix/federation/v1/invite/{roomId}/{eventId}":     "is for servers that lack version 2 of it",
}

// neverAnswered are those that nobody gets a success for in the story.
var neverAnswered = map[string]string{
	"GET /.well-known/matrix/server":                           "these servers delegate to nobody",
	"GET /_matrix/federation/v1/event/{eventId}":               missing,
	"GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}": missing,
	"GET /_matrix/federation/v1/state/{roomId}":                missing,
	"GET /_matrix/federation/v1/state_ids/{roomId}":            missing,
	"GET /_matrix/federation/v1/media/thumbnail/{mediaId}":     "nobody asks: package media's tests do",
	"GET /_matrix/federation/v1/query/{queryType}":             "the kinds of query that there are have operations of their own",
	"PUT /_matrix/federation/v1/invite/{roomId}/{eventId}":     "nobody asks: no test on a whole node does yet",
}

// everyEndpoint checks that each operation of the server-server API has passed between two nodes over TLS with success: one of them asked because a
// user's action needed it, the other one answered. What is only answered may have been asked by the scripted peer. Exceptions are listed above, and an
// exception that is none any more fails too.
func everyEndpoint(t *testing.T, passages []konsiltest.Passage) {
	t.Helper()
	operations, err := spectest.Operations("server-server")
	if err != nil {
		t.Log("not compared: ", err)
		return
	}
	if len(operations) < 36 {
		t.Errorf("only %d operations found in the reference data", len(operations))
	}
	asked, answered := map[string]bool{}, map[string]bool{}
	for _, p := range passages {
		if name := spectest.Name(p.Method, p.Path); p.Status/100 == 2 {
			answered[name] = true
			asked[name] = asked[name] || p.ByKonsil
		}
	}
	compare := func(what string, seen map[string]bool, exceptions map[string]string) {
		for _, o := range operations {
			switch reason := exceptions[o]; {
			case !seen[o] && reason == "":
				t.Errorf("never %s with success: %s", what, o)
			case seen[o] && reason != "":
				t.Errorf("%s is %s after all: strike it from the exceptions", o, what)
			}
		}
	}
	compare("asked", asked, neverAsked)
	compare("answered", answered, neverAnswered)
}
