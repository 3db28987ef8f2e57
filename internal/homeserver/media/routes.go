// SPDX-License-Identifier: Apache-2.0

package media

import (
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
)

// Routes lists every route of the slice. The deprecated ones of v3 are served under r0 and v1 too, where older clients and servers still call
// them. There is no URL preview: asking for one is unrecognised.
func (s *Service) Routes() []httpapi.Route {
	const (
		v3         = "/_matrix/media/v3"
		client     = "/_matrix/client/v1/media"
		federation = "/_matrix/federation/v1/media"
		user       = httpapi.User
		any        = httpapi.AnyUser
	)
	withToken, without := access{}, access{legacy: true}
	old := []httpapi.Route{
		{Method: "POST", Path: v3 + "/upload", Access: user, Rate: limit.Upload, MaxBody: s.c.MaxUpload, Raw: true, Handle: s.upload},
		{Method: "GET", Path: v3 + "/config", Access: any, Rate: limit.Read, Handle: s.config},
		{Method: "GET", Path: v3 + "/preview_url", Access: user, Rate: limit.Search, Handle: s.previewURL},
		{Method: "GET", Path: v3 + "/download/{serverName}/{mediaId}", Access: httpapi.Public, Shared: httpapi.Hidden, Rate: limit.Download, Handle: s.download(without)},
		{Method: "GET", Path: v3 + "/download/{serverName}/{mediaId}/{fileName}", Access: httpapi.Public, Shared: httpapi.Hidden, Rate: limit.Download, Handle: s.download(without)},
		{Method: "GET", Path: v3 + "/thumbnail/{serverName}/{mediaId}", Access: httpapi.Public, Shared: httpapi.Hidden, Rate: limit.Download, Handle: s.thumbnail(without)},
	}
	routes := []httpapi.Route{
		{Method: "PUT", Path: v3 + "/upload/{serverName}/{mediaId}", Access: user, Rate: limit.Upload, MaxBody: s.c.MaxUpload, Raw: true, Handle: s.fill},
		{Method: "POST", Path: "/_matrix/media/v1/create", Access: user, Rate: limit.Upload, Handle: s.create},
		{Method: "GET", Path: client + "/preview_url", Access: user, Rate: limit.Search, Handle: s.previewURL},
		{Method: "GET", Path: client + "/config", Access: any, Rate: limit.Read, Handle: s.config},
		{Method: "GET", Path: client + "/download/{serverName}/{mediaId}", Access: any, Rate: limit.Download, Handle: s.download(withToken)},
		{Method: "GET", Path: client + "/download/{serverName}/{mediaId}/{fileName}", Access: any, Rate: limit.Download, Handle: s.download(withToken)},
		{Method: "GET", Path: client + "/thumbnail/{serverName}/{mediaId}", Access: any, Rate: limit.Download, Handle: s.thumbnail(withToken)},
		{Method: "GET", Path: federation + "/download/{mediaId}", Access: httpapi.Server, Rate: limit.Federation, Handle: s.federationDownload},
		{Method: "GET", Path: federation + "/thumbnail/{mediaId}", Access: httpapi.Server, Rate: limit.Federation, Handle: s.federationThumbnail},
	}
	for _, r := range old {
		routes = append(routes, r)
		rest := strings.TrimPrefix(r.Path, v3)
		for _, version := range []string{"/_matrix/media/r0", "/_matrix/media/v1"} {
			r.Path = version + rest
			routes = append(routes, r)
		}
	}
	return routes
}
