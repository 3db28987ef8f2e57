// SPDX-License-Identifier: Apache-2.0

package konsiltest_test

import (
	"encoding/json"

	"github.com/konsil-health/konsil/internal/konsiltest"
)

// stranger: a server that shares no room asks what anybody may ask, and some of what only members may.
func (s *storybook) stranger() {
	ask := func(method, uri string, body any) any {
		status, text := s.identity.Ask(s.network, s.praxis, "praxis.test", method, uri, body)
		var answer map[string]any
		if err := json.Unmarshal(text, &answer); err != nil {
			s.t.Fatal(err)
		}
		s.note("a stranger's %s %s: %d %v", method, uri, status, answer["errcode"])
		return answer
	}
	s.note("it is %v", konsiltest.At(ask("GET", "/_matrix/federation/v1/version", nil), "server", "name"))
	s.note("first public room: %v", konsiltest.At(ask("GET", "/_matrix/federation/v1/publicRooms?limit=1", nil), "chunk", 0, "join_rule"))
	s.note("keys of: %v", konsiltest.At(ask("GET", "/_matrix/key/v2/query/klinik.test", nil), "server_keys", 0, "server_name"))
	many := map[string]any{"server_keys": map[string]any{"klinik.test": map[string]any{}, "praxis.test": map[string]any{}}}
	servers, _ := konsiltest.At(ask("POST", "/_matrix/key/v2/query", many), "server_keys").([]any)
	s.note("keys of %d servers", len(servers))
	for _, what := range []string{"/state/", "/state_ids/", "/backfill/", "/hierarchy/"} {
		ask("GET", "/_matrix/federation/v1"+what+s.rooms[0], nil)
	}
	ask("GET", "/_matrix/federation/v1/query/nothing", nil)
}
