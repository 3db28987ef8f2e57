// SPDX-License-Identifier: Apache-2.0

package console

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"net/http"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// note writes down what an administrator did.
func (s *Service) note(ctx context.Context, t tenant.ID, actor id.User, action, target, detail string) error {
	_, err := s.db.Exec(ctx, "INSERT INTO console_audit (tenant, id, at, actor, action, target, detail) VALUES ($1, $2, $3, $4, $5, $6, $7)",
		int64(t), rand.Text(), s.now(), string(actor), action, target, detail)
	return err
}

// noted is note for the administrator at the browser.
func (v *view) noted(action, target, detail string) error {
	return v.s.note(v.r.Context(), v.session.tenant.ID, v.session.user, action, target, detail)
}

// entry is a line of the log.
type entry struct {
	At                            int64
	Actor, Action, Target, Detail string
}

// maxLog is how many lines a page shows, the newest first.
const maxLog = 200

func (s *Service) log(ctx context.Context, t tenant.ID, limit int) ([]entry, error) {
	rows, err := s.db.Query(ctx, "SELECT at, actor, action, target, detail FROM console_audit WHERE tenant = $1 ORDER BY at DESC, id LIMIT $2", int64(t), limit)
	return database.All(rows, err, func(rows *sql.Rows) (e entry, err error) {
		err = rows.Scan(&e.At, &e.Actor, &e.Action, &e.Target, &e.Detail)
		e.Action = "did_" + e.Action
		return e, err
	})
}

// open is a browser in which an administrator is signed in.
type open struct {
	ID               string // of the session, not its secret
	User             id.User
	Created, Expires int64
	Here             bool
}

type logData struct {
	Names    map[string]string
	Entries  []entry
	Sessions []open
}

func (s *Service) showLog(v *view) error {
	ctx, t := v.r.Context(), v.session.tenant.ID
	entries, err := s.log(ctx, t, maxLog)
	if err != nil {
		return err
	}
	rows, err := s.db.Query(ctx, "SELECT hash, user_id, created, expires FROM console_session WHERE tenant = $1 AND second > 0 AND expires > $2 ORDER BY created DESC", int64(t), s.now())
	mine := hex.EncodeToString(hash(v.session.cookie))
	sessions, err := database.All(rows, err, func(rows *sql.Rows) (o open, err error) {
		var h []byte
		err = rows.Scan(&h, &o.User, &o.Created, &o.Expires)
		o.ID = hex.EncodeToString(h)
		o.Here = o.ID == mine
		return o, err
	})
	if err != nil {
		return err
	}
	names, err := s.names(ctx, t)
	if err != nil {
		return err
	}
	return v.show("log", v.session.cookie, logData{names, entries, sessions})
}

// doLog signs a browser out.
func (s *Service) doLog(v *view) error {
	h, err := hex.DecodeString(v.form("session"))
	if err != nil {
		v.again(http.StatusBadRequest, "stale_form")
		return s.showLog(v)
	}
	if _, err := s.db.Exec(v.r.Context(), "DELETE FROM console_session WHERE tenant = $1 AND hash = $2", int64(v.session.tenant.ID), h); err != nil {
		return err
	}
	if err := v.noted("session_ended", "", ""); err != nil {
		return err
	}
	return v.redirect(Prefix + "/log")
}
