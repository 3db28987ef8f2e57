// SPDX-License-Identifier: Apache-2.0

package media

import (
	"context"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// How long a download waits for content that is announced or comes from another server.
const (
	defaultWait = 20 * time.Second
	maxWait     = 60 * time.Second
)

// inline are the content types that browsers may show in place (client-server API, "Serving inline content"); everything else is an attachment.
var inline = map[string]bool{
	"text/css": true, "text/plain": true, "text/csv": true, "application/json": true, "application/ld+json": true,
	"image/jpeg": true, "image/gif": true, "image/png": true, "image/apng": true, "image/webp": true, "image/avif": true,
	"video/mp4": true, "video/webm": true, "video/ogg": true, "video/quicktime": true,
	"audio/mp4": true, "audio/webm": true, "audio/aac": true, "audio/mpeg": true, "audio/ogg": true, "audio/wave": true, "audio/wav": true,
	"audio/x-wav": true, "audio/x-pn-wav": true, "audio/flac": true, "audio/x-flac": true,
}

// contentPolicy keeps content from acting in the name of the server's address, as the specification recommends.
const contentPolicy = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';"

// disposition says whether content may be shown in place, and its file name.
func disposition(contentType, fileName string) string {
	kind := "attachment"
	if t, _, err := mime.ParseMediaType(contentType); err == nil && inline[t] {
		kind = "inline"
	}
	if fileName == "" {
		return kind
	}
	if v := mime.FormatMediaType(kind, map[string]string{"filename": fileName}); v != "" {
		return v
	}
	return kind + "; filename*=utf-8''" + url.PathEscape(fileName)
}

// access is what a download route may serve.
type access struct {
	legacy bool // without a token: only what is marked for it
}

// lookup finds the media in the path, wherever it is.
func (s *Service) lookup(ctx context.Context, r *httpapi.Request, a access) (*item, error) {
	ms, err := r.QueryInt("timeout_ms", int(defaultWait.Milliseconds()), int(maxWait.Milliseconds()))
	if err != nil {
		return nil, err
	}
	wait := time.Duration(ms) * time.Millisecond
	allowRemote := true
	if a.legacy {
		if allowRemote, err = r.QueryBool("allow_remote", true); err != nil {
			return nil, err
		}
	}
	media := r.Var("mediaId")
	if !mediaID.MatchString(media) {
		return nil, errNotFound
	}
	server, err := id.ParseServer(r.Var("serverName"))
	if err != nil {
		return nil, mxerror.InvalidParam.With("serverName is no server name")
	}
	var m *item
	switch {
	case server == r.Tenant.Name:
		m, err = s.own(ctx, r.Tenant.ID, media, wait)
	case !allowRemote:
		err = errNotFound
	case a.legacy && !s.c.Legacy: // nothing is fetched for somebody without a token
		m, err = s.find(ctx, r.Tenant.ID, string(server), media)
	default:
		m, err = s.remote(ctx, r.Tenant, server, media, wait)
	}
	if err != nil {
		return nil, err
	}
	if a.legacy && !m.legacy {
		return nil, errNotFound
	}
	return m, nil
}

func (s *Service) download(a access) httpapi.Handler {
	return func(ctx context.Context, r *httpapi.Request) (any, error) {
		m, err := s.lookup(ctx, r, a)
		if err != nil {
			return nil, err
		}
		fileName := m.fileName
		if name := r.Var("fileName"); name != "" {
			fileName = name
		}
		f, err := s.open(ctx, r.Tenant, m)
		if err != nil {
			return nil, err
		}
		return s.serve(r, f, m.contentType, fileName, m.hash), nil
	}
}

// open opens the content. A copy whose file is gone is dropped and fetched once more.
func (s *Service) open(ctx context.Context, t *tenant.Tenant, m *item) (blob, error) {
	f, err := s.blobs.open(ctx, t.ID, m.hash)
	if m.origin == "" || !errors.Is(err, mxerror.NotFound) {
		return f, err
	}
	if err := s.drop(ctx, t.ID, m); err != nil {
		return nil, err
	}
	again, err := s.remote(ctx, t, id.Server(m.origin), m.id, defaultWait)
	if err != nil {
		return nil, err
	}
	return s.blobs.open(ctx, t.ID, again.hash)
}

// serve answers with a file.
func (s *Service) serve(r *httpapi.Request, f blob, contentType, fileName, tag string) *httpapi.Reply {
	return &httpapi.Reply{Serve: func(w http.ResponseWriter) {
		defer f.Close()
		h := w.Header()
		h.Set("Content-Type", contentType)
		h.Set("Content-Disposition", disposition(contentType, fileName))
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("Cross-Origin-Resource-Policy", "cross-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Robots-Tag", "noindex, nofollow, noarchive, noimageindex")
		h.Set("Cache-Control", "private, max-age=31536000, immutable") // content under an id never changes
		h.Set("ETag", strconv.Quote(tag))
		http.ServeContent(w, r.HTTP, "", time.Time{}, f)
	}}
}

// serveFederation answers another server: empty metadata and the content, as multipart/mixed (server-server API, "Content repository").
func serveFederation(f blob, contentType, fileName string) *httpapi.Reply {
	return &httpapi.Reply{Serve: func(w http.ResponseWriter) {
		defer f.Close()
		parts := multipart.NewWriter(w)
		w.Header().Set("Content-Type", "multipart/mixed; boundary="+parts.Boundary())
		metadata, err := parts.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/json"}})
		if err == nil {
			_, err = io.WriteString(metadata, "{}")
		}
		if err != nil {
			return // the other server went away
		}
		header := textproto.MIMEHeader{"Content-Type": {contentType}, "Content-Disposition": {disposition(contentType, fileName)}}
		content, err := parts.CreatePart(header)
		if err == nil {
			_, err = io.Copy(content, f)
		}
		if err == nil {
			_ = parts.Close() // nobody left to tell
		}
	}}
}

// federationItem finds one of the tenant's own media for another server.
func (s *Service) federationItem(ctx context.Context, r *httpapi.Request) (*item, error) {
	ms, err := r.QueryInt("timeout_ms", int(defaultWait.Milliseconds()), int(maxWait.Milliseconds()))
	if err != nil {
		return nil, err
	}
	media := r.Var("mediaId")
	if !mediaID.MatchString(media) {
		return nil, errNotFound
	}
	return s.own(ctx, r.Tenant.ID, media, time.Duration(ms)*time.Millisecond)
}

func (s *Service) federationDownload(ctx context.Context, r *httpapi.Request) (any, error) {
	m, err := s.federationItem(ctx, r)
	if err != nil {
		return nil, err
	}
	f, err := s.blobs.open(ctx, r.Tenant.ID, m.hash)
	if err != nil {
		return nil, err
	}
	return serveFederation(f, m.contentType, m.fileName), nil
}

// isImage says whether thumbnails can be made of a type at all.
func isImage(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && strings.HasPrefix(t, "image/")
}
