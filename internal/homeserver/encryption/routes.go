// SPDX-License-Identifier: Apache-2.0

package encryption

import (
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
)

// maxBackup bounds one upload of backed-up keys in bytes.
const maxBackup = 32 << 20

// Routes lists every route of the slice. Those of v3 are served under r0 too, where older clients still call them.
func (s *Service) Routes() []httpapi.Route {
	const (
		v3          = "/_matrix/client/v3"
		r0          = "/_matrix/client/r0"
		backup      = v3 + "/room_keys"
		dehydrated  = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
		user        = httpapi.User
		read, write = limit.Read, limit.Write
	)
	routes := []httpapi.Route{
		{Method: "POST", Path: v3 + "/keys/upload", Access: user, Rate: write, Handle: s.upload},
		{Method: "POST", Path: v3 + "/keys/query", Access: user, Rate: read, Handle: s.query},
		{Method: "POST", Path: v3 + "/keys/claim", Access: user, Rate: read, Handle: s.claim},
		{Method: "GET", Path: v3 + "/keys/changes", Access: user, Rate: read, Handle: s.keyChanges},
		{Method: "POST", Path: v3 + "/keys/device_signing/upload", Access: user, Rate: write, Handle: s.uploadCrossSigning},
		{Method: "POST", Path: v3 + "/keys/signatures/upload", Access: user, Rate: write, Handle: s.uploadSignatures},
		{Method: "PUT", Path: v3 + "/sendToDevice/{eventType}/{txnId}", Access: user, Rate: limit.Send, Handle: s.sendToDevice},

		{Method: "PUT", Path: dehydrated, Access: user, Rate: write, Handle: s.putDehydrated},
		{Method: "GET", Path: dehydrated, Access: user, Rate: read, Handle: s.getDehydrated},
		{Method: "DELETE", Path: dehydrated, Access: user, Rate: write, Handle: s.deleteDehydrated},
		{Method: "POST", Path: dehydrated + "/{deviceId}/events", Access: user, Rate: read, Handle: s.dehydratedMessages},

		{Method: "POST", Path: backup + "/version", Access: user, Rate: write, Handle: s.createBackup},
		{Method: "GET", Path: backup + "/version", Access: user, Rate: read, Handle: s.getBackup},
		{Method: "GET", Path: backup + "/version/{version}", Access: user, Rate: read, Handle: s.getBackup},
		{Method: "PUT", Path: backup + "/version/{version}", Access: user, Rate: write, Handle: s.putBackup},
		{Method: "DELETE", Path: backup + "/version/{version}", Access: user, Rate: write, Handle: s.deleteBackup},
	}
	for _, path := range []string{"/keys", "/keys/{roomId}", "/keys/{roomId}/{sessionId}"} {
		routes = append(routes,
			httpapi.Route{Method: "PUT", Path: backup + path, Access: user, Rate: write, MaxBody: maxBackup, Handle: s.putSessions},
			httpapi.Route{Method: "GET", Path: backup + path, Access: user, Rate: read, Handle: s.getSessions},
			httpapi.Route{Method: "DELETE", Path: backup + path, Access: user, Rate: write, Handle: s.deleteSessions})
	}
	for _, r := range routes {
		if rest, ok := strings.CutPrefix(r.Path, v3); ok {
			r.Path = r0 + rest
			routes = append(routes, r)
		}
	}
	return routes
}
