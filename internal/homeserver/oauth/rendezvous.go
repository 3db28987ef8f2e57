// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"errors"
	"mime"
	"net/http"
	"regexp"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// Sign-in by QR code (MSC4108): two devices exchange encrypted messages through a mailbox of one message, whose address is in the code. A mailbox
// lives rendezvousLife after the last message. A tenant has at most maxRendezvous, since anybody may open one.
const (
	pathRendezvous = client + "/unstable/org.matrix.msc4108/rendezvous"

	rendezvousLife = time.Minute
	maxPayload     = 4 << 10 // bytes
	maxRendezvous  = 2000
)

// mailbox is a row of rendezvous.
type mailbox struct {
	payload          []byte
	etag             string
	changed, expires int64
}

func (m *mailbox) header() http.Header {
	h := http.Header{"Cache-Control": {"no-store"}, "Pragma": {"no-cache"}}
	h.Set("ETag", m.etag)
	h.Set("Expires", time.UnixMilli(m.expires).UTC().Format(http.TimeFormat))
	h.Set("Last-Modified", time.UnixMilli(m.changed).UTC().Format(http.TimeFormat))
	return h
}

// newMessage is a payload that has just come. Its tag is drawn, so that two equal payloads differ.
func (s *Service) newMessage(payload []byte) *mailbox {
	now := s.now()
	return &mailbox{payload, `"` + randomName() + `"`, now, now + rendezvousLife.Milliseconds()}
}

func randomName() string {
	var b [18]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// checkMessage checks the header of a message.
func checkMessage(r *httpapi.Request) error {
	kind := r.HTTP.Header.Get("Content-Type")
	if kind == "" {
		return mxerror.MissingParam.With("Content-Type is missing")
	}
	if r.HTTP.ContentLength < 0 {
		return mxerror.MissingParam.With("Content-Length is missing")
	}
	if media, _, err := mime.ParseMediaType(kind); err != nil || media != "text/plain" {
		return mxerror.InvalidParam.With("Content-Type must be text/plain")
	}
	return nil
}

type rendezvousReply struct {
	URL string `json:"url"`
}

// openRendezvous makes a mailbox with its first message.
func (s *Service) openRendezvous(ctx context.Context, r *httpapi.Request) (any, error) {
	if err := checkMessage(r); err != nil {
		return nil, err
	}
	t, name, m := owner(r.Tenant), randomName(), s.newMessage(r.Body)
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM rendezvous WHERE tenant = $1 AND expires <= $2", int64(t), s.now()); err != nil {
			return err
		}
		var open int
		if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM rendezvous WHERE tenant = $1", int64(t)).Scan(&open); err != nil {
			return err
		}
		if open >= maxRendezvous {
			return httpapi.LimitError(false, rendezvousLife)
		}
		_, err := tx.Exec(ctx, "INSERT INTO rendezvous (tenant, name, payload, etag, changed, expires) VALUES ($1, $2, $3, $4, $5, $6)",
			int64(t), name, m.payload, m.etag, m.changed, m.expires)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &httpapi.Reply{Status: http.StatusCreated, Header: m.header(), Body: rendezvousReply{s.base(r) + pathRendezvous + "/" + name}}, nil
}

// mailbox finds the mailbox of a request, M_NOT_FOUND when it is gone.
func (s *Service) mailbox(ctx context.Context, t tenant.ID, name string) (*mailbox, error) {
	var m mailbox
	err := s.db.QueryRow(ctx, "SELECT payload, etag, changed, expires FROM rendezvous WHERE tenant = $1 AND name = $2 AND expires > $3", int64(t), name, s.now()).
		Scan(&m.payload, &m.etag, &m.changed, &m.expires)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, mxerror.NotFound.With("this meeting point does not exist, or no longer")
	}
	return &m, err
}

func (s *Service) readRendezvous(ctx context.Context, r *httpapi.Request) (any, error) {
	m, err := s.mailbox(ctx, owner(r.Tenant), r.Var("name"))
	if err != nil {
		return nil, err
	}
	if r.HTTP.Header.Get("If-None-Match") == m.etag {
		return &httpapi.Reply{Status: http.StatusNotModified, Header: m.header()}, nil
	}
	h := m.header()
	h.Set("Content-Type", "text/plain")
	return &httpapi.Reply{Header: h, Body: m.payload}, nil
}

// strongTag is a single strong entity tag (RFC 9110, section 8.8.3).
var strongTag = regexp.MustCompile(`^"[\x21\x23-\x7e]+"$`)

// writeRendezvous replaces the message, if the writer has seen the one that is there.
func (s *Service) writeRendezvous(ctx context.Context, r *httpapi.Request) (any, error) {
	seen := r.HTTP.Header.Values("If-Match")
	if len(seen) == 0 {
		return nil, mxerror.MissingParam.With("If-Match is missing")
	}
	if err := checkMessage(r); err != nil {
		return nil, err
	}
	if len(seen) > 1 || !strongTag.MatchString(seen[0]) {
		return nil, mxerror.InvalidParam.With("If-Match must be one strong ETag")
	}
	t, name, m := owner(r.Tenant), r.Var("name"), s.newMessage(r.Body)
	n, err := s.db.Exec(ctx, "UPDATE rendezvous SET payload = $4, etag = $5, changed = $6, expires = $7 WHERE tenant = $1 AND name = $2 AND etag = $3 AND expires > $6",
		int64(t), name, seen[0], m.payload, m.etag, m.changed, m.expires)
	if err != nil {
		return nil, err
	}
	if n > 0 {
		return &httpapi.Reply{Status: http.StatusAccepted, Header: m.header()}, nil
	}
	if m, err = s.mailbox(ctx, t, name); err != nil {
		return nil, err
	}
	return &httpapi.Reply{Status: http.StatusPreconditionFailed, Header: m.header(), Body: map[string]string{
		"errcode": "M_UNKNOWN", "org.matrix.msc4108.errcode": "M_CONCURRENT_WRITE", "error": "the other device has written in between: read first"}}, nil
}

func (s *Service) closeRendezvous(ctx context.Context, r *httpapi.Request) (any, error) {
	n, err := s.db.Exec(ctx, "DELETE FROM rendezvous WHERE tenant = $1 AND name = $2 AND expires > $3", int64(owner(r.Tenant)), r.Var("name"), s.now())
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, mxerror.NotFound.With("this meeting point does not exist, or no longer")
	}
	return &httpapi.Reply{Status: http.StatusNoContent}, nil
}
