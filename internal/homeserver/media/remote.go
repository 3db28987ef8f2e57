// SPDX-License-Identifier: Apache-2.0

package media

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// fetchTime bounds the fetch of one file.
const fetchTime = 10 * time.Minute

// touchAfter is how old the note of the last access may grow: reads of a file do not write a row each.
const touchAfter = time.Hour

var errBadRemote = mxerror.New(502, "M_UNKNOWN", "The other server's answer has the wrong form")

// remote finds a copy of another server's media, fetching it first. Callers for one file share one fetch, which goes on when one of them leaves.
func (s *Service) remote(ctx context.Context, t *tenant.Tenant, server id.Server, media string, wait time.Duration) (*item, error) {
	m, err := s.find(ctx, t.ID, string(server), media)
	if !errors.Is(err, mxerror.NotFound) || err == errQuarantined { //nolint:errorlint // that very answer, not its kind: it is not fetched again
		if err == nil {
			s.touch(ctx, t.ID, m)
		}
		return m, err
	}
	if s.o.Remote == nil {
		return nil, errNotFound
	}
	if s.o.Policy != nil {
		if err := s.o.Policy.Federate(ctx, t, server); err != nil {
			return nil, err
		}
	}
	done := s.fetches.DoChan(fmt.Sprintf("%d %s %s", t.ID, server, media), func() (any, error) {
		ctx, cancel := context.WithTimeout(tenant.With(s.work.Context(), t), fetchTime)
		defer cancel()
		return s.fetch(ctx, t, server, media, wait)
	})
	select {
	case r := <-done:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*item), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// fetch asks the other server and stores what it sends.
func (s *Service) fetch(ctx context.Context, t *tenant.Tenant, server id.Server, media string, wait time.Duration) (*item, error) {
	query := url.Values{"timeout_ms": {strconv.FormatInt(wait.Milliseconds(), 10)}}
	header, body, err := s.o.Remote.Get(ctx, t, server, "/_matrix/federation/v1/media/download/"+url.PathEscape(media), query, s.c.MaxUpload+1<<16)
	if e := mxerror.From(err); e != nil && e.Code == mxerror.Unrecognized.Code { // a server of before v1.11
		query.Set("allow_remote", "false")
		header, body, err = s.o.Remote.Get(ctx, t, server, "/_matrix/media/v3/download/"+url.PathEscape(string(server))+"/"+url.PathEscape(media), query, s.c.MaxUpload+1)
	}
	if err != nil {
		if errors.Is(err, mxerror.NotFound) {
			err = errNotFound
		}
		return nil, err
	}
	defer body.Close()
	partHeader, content, err := unwrap(header, body)
	if err != nil {
		return nil, err
	}
	m := &item{origin: string(server), id: media, contentType: contentTypeOf(partHeader.Get("Content-Type")), legacy: s.c.Legacy}
	if _, params, err := mime.ParseMediaType(partHeader.Get("Content-Disposition")); err == nil && len(params["filename"]) <= maxFileName {
		m.fileName = params["filename"]
	}
	m.hash, m.size, err = s.blobs.write(ctx, t.ID, classRemote, string(server)+"/"+media, content, s.c.MaxUpload)
	if errors.Is(err, errTooLarge) {
		return nil, mxerror.New(502, mxerror.TooLarge.Code, "The file of the other server is too large for this one")
	}
	if mxerror.From(err) != nil { // malware, or nobody to look for it
		return nil, err
	}
	if err != nil {
		return nil, mxerror.New(502, "M_UNKNOWN", "The other server broke off")
	}
	return m, s.keepCopy(ctx, t.ID, m)
}

// unwrap takes the content out of an answer: the second part of multipart/mixed (server-server API, "Content repository"), or the body as it is.
func unwrap(header http.Header, body io.Reader) (http.Header, io.Reader, error) {
	kind, params, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" {
		return header, body, nil
	}
	parts := multipart.NewReader(body, params["boundary"])
	if _, err := parts.NextRawPart(); err != nil { // metadata, empty so far
		return nil, nil, errBadRemote
	}
	part, err := parts.NextRawPart()
	if err != nil || part.Header.Get("Location") != "" {
		return nil, nil, errBadRemote
	}
	return http.Header(part.Header), part, nil
}

// keepCopy notes a copy and makes room for it: the copies used longest ago go first.
func (s *Service) keepCopy(ctx context.Context, t tenant.ID, m *item) error {
	now := s.now()
	_, err := s.db.Exec(ctx, `INSERT INTO media (tenant, origin, media_id, user_id, hash, size, content_type, file_name, legacy, created, accessed, expires)
		VALUES ($1, $2, $3, '', $4, $5, $6, $7, $8, $9, $9, 0)
		ON CONFLICT (tenant, origin, media_id) DO UPDATE SET hash = excluded.hash, size = excluded.size, accessed = excluded.accessed`,
		int64(t), m.origin, m.id, m.hash, m.size, m.contentType, m.fileName, m.legacy, now)
	if err != nil {
		return err
	}
	var used int64
	if err := s.db.QueryRow(ctx, "SELECT COALESCE(SUM(size), 0) FROM media WHERE tenant = $1 AND origin > ''", int64(t)).Scan(&used); err != nil {
		return err
	}
	if used <= s.c.RemoteCache {
		return nil
	}
	rows, err := s.db.Query(ctx, "SELECT origin, media_id, hash, size FROM media WHERE tenant = $1 AND origin > '' AND hash <> $2 ORDER BY accessed LIMIT 100", int64(t), m.hash)
	oldest, err := database.All(rows, err, func(rows *sql.Rows) (o item, err error) { return o, rows.Scan(&o.origin, &o.id, &o.hash, &o.size) })
	if err != nil {
		return err
	}
	for _, o := range oldest {
		if used <= s.c.RemoteCache {
			break
		}
		if err := s.drop(ctx, t, &o); err != nil {
			return err
		}
		used -= o.size
	}
	return nil
}

// drop forgets a copy with its thumbnails, rows first: a row never points to a file that is gone.
func (s *Service) drop(ctx context.Context, t tenant.ID, m *item) error {
	key := []any{int64(t), m.origin, m.id}
	var files []string
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		rows, err := tx.Query(ctx, "SELECT hash FROM media_thumbnail WHERE tenant = $1 AND origin = $2 AND media_id = $3", key...)
		if files, err = database.All(rows, err, database.Column[string]); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DELETE FROM media_thumbnail WHERE tenant = $1 AND origin = $2 AND media_id = $3", key...); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "DELETE FROM media WHERE tenant = $1 AND origin = $2 AND media_id = $3", key...)
		return err
	})
	for _, name := range append(files, m.hash) {
		if err == nil {
			err = s.blobs.remove(ctx, t, name)
		}
	}
	return err
}

// touch notes an access, at most once an hour.
func (s *Service) touch(ctx context.Context, t tenant.ID, m *item) {
	now := s.now()
	var accessed int64
	key := []any{int64(t), m.origin, m.id}
	err := s.db.QueryRow(ctx, "SELECT accessed FROM media WHERE tenant = $1 AND origin = $2 AND media_id = $3", key...).Scan(&accessed)
	if err != nil || now-accessed < touchAfter.Milliseconds() {
		return
	}
	if _, err := s.db.Exec(ctx, "UPDATE media SET accessed = $4 WHERE tenant = $1 AND origin = $2 AND media_id = $3", append(key, now)...); err != nil {
		s.o.Log.Warn("media access not noted", "error", err) // the content is there all the same
	}
}
