// SPDX-License-Identifier: Apache-2.0

package media

import (
	"context"
	"errors"
	"mime"
	"net/http"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

const (
	octetStream    = "application/octet-stream"
	maxContentType = 255
	maxFileName    = 255
)

type uploadReply struct {
	URI     string `json:"content_uri"`
	Expires int64  `json:"unused_expires_at,omitzero"` // ms since the epoch
}

func uri(t *tenant.Tenant, media string) string { return "mxc://" + string(t.Name) + "/" + media }

// contentTypeOf reads the header; what is no media type becomes octet-stream.
func contentTypeOf(header string) string {
	if _, _, err := mime.ParseMediaType(header); err != nil || len(header) > maxContentType {
		return octetStream
	}
	return header
}

// received is content that lies on disk.
type received struct {
	name, contentType, fileName string
	size                        int64
}

// receive stores the body of an upload. Errors: M_TOO_LARGE, M_FORBIDDEN over the quota.
func (s *Service) receive(ctx context.Context, r *httpapi.Request) (*received, error) {
	if r.HTTP.ContentLength > s.c.MaxUpload {
		return nil, s.tooLarge()
	}
	fileName := r.Query("filename")
	if len(fileName) > maxFileName {
		return nil, mxerror.InvalidParam.With("the file name is longer than %d bytes", maxFileName)
	}
	if err := s.withinQuota(ctx, r.Tenant.ID, r.Session.User, max(r.HTTP.ContentLength, 0)); err != nil {
		return nil, err
	}
	name, size, err := s.blobs.write(ctx, r.Tenant.ID, classOwn, "", r.HTTP.Body, s.c.MaxUpload)
	var over *http.MaxBytesError
	if errors.Is(err, errTooLarge) || errors.As(err, &over) {
		return nil, s.tooLarge()
	}
	if err != nil {
		return nil, err
	}
	return &received{name, contentTypeOf(r.HTTP.Header.Get("Content-Type")), fileName, size}, nil
}

func (s *Service) tooLarge() error {
	return mxerror.TooLarge.With("files may have at most %d bytes", s.c.MaxUpload)
}

// withinQuota refuses more bytes than the tenant or the user has left.
func (s *Service) withinQuota(ctx context.Context, t tenant.ID, user id.User, more int64) error {
	var used int64
	err := s.db.QueryRow(ctx, "SELECT COALESCE(SUM(size), 0) FROM media WHERE tenant = $1 AND origin = ''", int64(t)).Scan(&used)
	if err == nil && used+more > s.c.TenantQuota {
		err = mxerror.Forbidden.With("Der Speicherplatz der Organisation für Dateien ist verbraucht. / The organisation's space for files is used up.")
	}
	if err != nil || s.c.UserQuota == 0 {
		return err
	}
	err = s.db.QueryRow(ctx, "SELECT COALESCE(SUM(size), 0) FROM media WHERE tenant = $1 AND user_id = $2 AND origin = ''", int64(t), string(user)).Scan(&used)
	if err == nil && used+more > s.c.UserQuota {
		err = mxerror.Forbidden.With("Ihr Speicherplatz für Dateien ist verbraucht. / Your space for files is used up.")
	}
	return err
}

func (s *Service) upload(ctx context.Context, r *httpapi.Request) (any, error) {
	got, err := s.receive(ctx, r)
	if err != nil {
		return nil, err
	}
	media, now := newMediaID(), s.now()
	_, err = s.db.Exec(ctx, `INSERT INTO media (tenant, origin, media_id, user_id, hash, size, content_type, file_name, legacy, created, accessed, expires)
		VALUES ($1, '', $2, $3, $4, $5, $6, $7, $8, $9, $9, 0)`,
		int64(r.Tenant.ID), media, string(r.Session.User), got.name, got.size, got.contentType, got.fileName, s.c.Legacy, now)
	return uploadReply{URI: uri(r.Tenant, media)}, err
}

// create announces an upload.
func (s *Service) create(ctx context.Context, r *httpapi.Request) (any, error) {
	media, now := newMediaID(), s.now()
	expires := now + s.c.PendingLife.Milliseconds()
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		args := []any{int64(r.Tenant.ID), string(r.Session.User)}
		if _, err := tx.Exec(ctx, "DELETE FROM media WHERE tenant = $1 AND user_id = $2 AND hash = '' AND expires <= $3", append(args, now)...); err != nil {
			return err
		}
		var pending int
		if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM media WHERE tenant = $1 AND user_id = $2 AND hash = ''", args...).Scan(&pending); err != nil {
			return err
		}
		if pending >= s.c.MaxPending {
			return mxerror.LimitExceeded.With("too many announced uploads are outstanding").WithExtra("retry_after_ms", int64(60_000))
		}
		_, err := tx.Exec(ctx, `INSERT INTO media (tenant, origin, media_id, user_id, hash, size, content_type, file_name, legacy, created, accessed, expires)
			VALUES ($1, '', $3, $2, '', 0, '', '', $4, $5, $5, $6)`, append(args, media, s.c.Legacy, now, expires)...)
		return err
	})
	return uploadReply{uri(r.Tenant, media), expires}, err
}

// fill takes the content of an announced upload.
func (s *Service) fill(ctx context.Context, r *httpapi.Request) (any, error) {
	media := r.Var("mediaId")
	if id.Server(r.Var("serverName")) != r.Tenant.Name {
		return nil, mxerror.NotFound.With("this is not this server's media")
	}
	m, err := s.find(ctx, r.Tenant.ID, "", media)
	switch {
	case err != nil:
		return nil, err
	case m.user != r.Session.User:
		return nil, mxerror.Forbidden.With("somebody else announced this upload")
	case m.hash != "":
		return nil, mxerror.CannotOverwriteMedia
	}
	got, err := s.receive(ctx, r)
	if err != nil {
		return nil, err
	}
	n, err := s.db.Exec(ctx, `UPDATE media SET hash = $3, size = $4, content_type = $5, file_name = $6, expires = 0
		WHERE tenant = $1 AND origin = '' AND media_id = $2 AND hash = ''`,
		int64(r.Tenant.ID), media, got.name, got.size, got.contentType, got.fileName)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, mxerror.CannotOverwriteMedia
	}
	s.arrived(mediaKey{r.Tenant.ID, media})
	return nil, nil
}

type configReply struct {
	UploadSize int64 `json:"m.upload.size"`
}

func (s *Service) config(context.Context, *httpapi.Request) (any, error) {
	return configReply{s.c.MaxUpload}, nil
}
