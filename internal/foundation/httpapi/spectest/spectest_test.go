// SPDX-License-Identifier: Apache-2.0

package spectest

import (
	"net/url"
	"strings"
	"testing"
)

// files reads the specification or skips.
func files(t *testing.T) *spec {
	t.Helper()
	if _, err := Folder(); err != nil {
		t.Skip("skipped: ", err)
	}
	s, err := read()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestAllSchemas compiles every schema that the operations name.
func TestAllSchemas(t *testing.T) {
	t.Parallel()
	s := files(t)
	operations, schemas := 0, 0
	for _, list := range s.operations {
		for _, o := range list {
			operations++
			responses, _ := o.node["responses"].(map[string]any)
			for status := range responses {
				response, pointer := o.resolve(responses[status], append(append([]string{}, o.pointer...), "responses", status))
				if at(response, "content", "application/json", "schema") == nil {
					continue
				}
				if _, err := s.schema(o, append(pointer, "content", "application/json", "schema")); err != nil {
					t.Errorf("%s %s: %v", o.name(), status, err)
				}
				schemas++
			}
		}
	}
	if operations < 200 || schemas < 400 {
		t.Errorf("only %d operations with %d schemas", operations, schemas)
	}
}

// TestCheck: what fits, and what must be found.
func TestCheck(t *testing.T) {
	t.Parallel()
	s := files(t)
	const kind = "application/json"
	for name, c := range map[string]struct {
		x    exchange
		want string // part of the message, empty for none
	}{
		"fits":               {exchange{method: "GET", path: "/_matrix/client/v3/joined_rooms", status: 200, contentType: kind, answer: []byte(`{"joined_rooms":["!a:b"]}`)}, ""},
		"old prefix":         {exchange{method: "GET", path: "/_matrix/client/r0/joined_rooms", status: 200, contentType: kind, answer: []byte(`{}`)}, "joined_rooms"},
		"missing field":      {exchange{method: "GET", path: "/_matrix/client/v3/joined_rooms", status: 200, contentType: kind, answer: []byte(`{}`)}, "joined_rooms"},
		"wrong type":         {exchange{method: "GET", path: "/_matrix/client/v3/joined_rooms", status: 200, contentType: kind, answer: []byte(`{"joined_rooms":[1]}`)}, "string"},
		"content type":       {exchange{method: "GET", path: "/_matrix/client/v3/joined_rooms", status: 200, contentType: "text/plain", answer: []byte(`{"joined_rooms":[]}`)}, "text/plain"},
		"unknown status":     {exchange{method: "GET", path: "/_matrix/client/v3/joined_rooms", status: 201, contentType: kind, answer: []byte(`{"joined_rooms":[]}`)}, "status"},
		"error":              {exchange{method: "GET", path: "/_matrix/client/v3/joined_rooms", status: 403, contentType: kind, answer: []byte(`{"errcode":"M_X","error":"no"}`)}, ""},
		"error without code": {exchange{method: "GET", path: "/_matrix/client/v3/joined_rooms", status: 403, contentType: kind, answer: []byte(`{"error":"no"}`)}, "standard error"},
		"referenced file":    {exchange{method: "GET", path: "/_matrix/client/v3/account/whoami", status: 200, contentType: kind, answer: []byte(`{"user_id":"anna"}`)}, "mx-user-id"},
		"accepted query":     {exchange{method: "GET", path: "/_matrix/client/v3/sync", query: url.Values{"timeout": {"x"}}, status: 200, contentType: kind, answer: []byte(`{"next_batch":"x"}`)}, "timeout"},
		"accepted body": {exchange{method: "POST", path: "/_matrix/client/v3/rooms/!a:b/kick", request: []byte(`{"reason":"x"}`), wholeRequest: true,
			status: 200, contentType: kind, answer: []byte(`{}`)}, "user_id"},
		"another server": {exchange{method: "GET", path: "/_matrix/federation/v1/version", status: 200, contentType: kind, answer: []byte(`{"server":[]}`)}, "server"},
		"not ours":       {exchange{method: "GET", path: "/_synapse/admin/v1/rooms", status: 200, answer: []byte(`x`)}, ""},
	} {
		err := s.check(c.x)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
