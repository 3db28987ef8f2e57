// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"errors"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// uiaLife is how long a session of user-interactive authentication may be continued.
const uiaLife = time.Hour

// authData is what the client sends in a request's auth (client-server API, "User-interactive API").
type authData struct {
	Type       string      `json:"type"`
	Session    string      `json:"session"`
	Identifier *identifier `json:"identifier"`
	User       string      `json:"user"`
	Password   *string     `json:"password"`
}

// challengeBody is the body of a 401 that asks for authentication.
type challengeBody struct {
	Code      string         `json:"errcode,omitempty"`
	Message   string         `json:"error,omitempty"`
	Flows     []stages       `json:"flows"`
	Params    map[string]any `json:"params"`
	Session   string         `json:"session"`
	Completed []string       `json:"completed,omitempty"`
}

type stages struct {
	Stages []string `json:"stages"`
}

// uia is one run through user-interactive authentication.
type uia struct {
	tenant  *tenant.Tenant
	purpose string   // binds a session to its endpoint, target and user
	stages  []string // all are needed
	request []byte   // parameters to keep for the final request
	check   func(ctx context.Context, a *authData) error
}

// Confirm lets the user of a request prove their presence with their password before something dangerous is done. It returns a challenge to
// answer the request with, or nil when the proof was given. purpose names the endpoint and what it is used on, so that a proof cannot be carried
// over to something else. Application services need no proof (since v1.17).
func (s *Service) Confirm(ctx context.Context, r *httpapi.Request, purpose string, auth jsontext.Value) (*httpapi.Reply, error) {
	if r.Session.AppService != "" {
		return nil, nil
	}
	if r.Session.OAuthClient != "" {
		return s.confirmOnPage(ctx, r, purpose, auth)
	}
	run := &uia{tenant: r.Tenant, purpose: string(r.Session.User) + " " + purpose, stages: []string{loginPassword}}
	run.check = func(ctx context.Context, a *authData) error {
		name := a.User
		if a.Identifier != nil {
			name = a.Identifier.User
		}
		if name == "" {
			name = string(r.Session.User)
		}
		if a.Password == nil {
			return mxerror.MissingParam.With("password is missing")
		}
		account, err := s.CheckPassword(ctx, r.Tenant, name, *a.Password)
		if err != nil {
			return err
		}
		if account.User != r.Session.User {
			return mxerror.Forbidden.With("the password of somebody else does not count")
		}
		return nil
	}
	challenge, _, err := s.authenticate(ctx, run, auth)
	return challenge, err
}

// authenticate takes one step. It returns a challenge, or nil and the parameters kept with the session when all stages are done; a finished
// session is used up.
func (s *Service) authenticate(ctx context.Context, run *uia, raw jsontext.Value) (*httpapi.Reply, []byte, error) {
	if len(raw) == 0 || string(raw) == "null" {
		reply, err := s.challenge(ctx, run, nil)
		return reply, nil, err
	}
	var auth authData
	if err := json.Unmarshal(raw, &auth); err != nil {
		return nil, nil, mxerror.BadJSON.With("auth: wrong type")
	}
	kept := run.request
	if auth.Session != "" {
		var err error
		if kept, err = s.session(ctx, run, auth.Session); err != nil {
			return nil, nil, err
		}
	}
	if auth.Type == "" || auth.Type != run.stages[0] {
		if auth.Type != "" {
			reply, err := s.challenge(ctx, run, mxerror.Forbidden.With("this stage is not part of a flow").WithExtra("session", auth.Session))
			return reply, nil, err
		}
		reply, err := s.challengeAgain(run, auth.Session, nil)
		return reply, nil, err
	}
	if err := run.check(ctx, &auth); err != nil {
		mx := mxerror.From(err)
		if mx == nil || mx.Status >= 500 || errors.Is(err, mxerror.MissingParam) {
			return nil, nil, err
		}
		if auth.Session == "" {
			reply, err := s.challenge(ctx, run, mx)
			return reply, nil, err
		}
		reply, err := s.challengeAgain(run, auth.Session, mx)
		return reply, nil, err
	}
	if auth.Session == "" {
		return nil, kept, nil
	}
	n, err := s.db.Exec(ctx, "DELETE FROM uia_session WHERE tenant = $1 AND session = $2", int64(run.tenant.ID), auth.Session)
	if err != nil {
		return nil, nil, err
	}
	if n == 0 {
		return nil, nil, mxerror.Forbidden.With("this session of authentication has been used")
	}
	return nil, kept, nil
}

// session finds a session and the parameters kept with it.
func (s *Service) session(ctx context.Context, run *uia, session string) ([]byte, error) {
	var purpose string
	var request []byte
	err := s.db.QueryRow(ctx, "SELECT purpose, request FROM uia_session WHERE tenant = $1 AND session = $2 AND created > $3",
		int64(run.tenant.ID), session, s.now()-uiaLife.Milliseconds()).Scan(&purpose, &request)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, mxerror.New(400, "M_UNKNOWN", "unknown session of authentication")
	}
	if err != nil {
		return nil, err
	}
	if purpose != run.purpose {
		return nil, mxerror.Forbidden.With("the request differs from the one that this authentication was begun for")
	}
	return request, nil
}

// challenge opens a session and answers 401.
func (s *Service) challenge(ctx context.Context, run *uia, reason *mxerror.Error) (*httpapi.Reply, error) {
	secret := make([]byte, 18)
	rand.Read(secret)
	session := base64.RawURLEncoding.EncodeToString(secret)
	now := s.now()
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM uia_session WHERE tenant = $1 AND created <= $2", int64(run.tenant.ID), now-uiaLife.Milliseconds()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO uia_session (tenant, session, purpose, completed, request, created) VALUES ($1, $2, $3, '', $4, $5)",
			int64(run.tenant.ID), session, run.purpose, string(run.request), now)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.challengeAgain(run, session, reason)
}

// challengeAgain answers 401 within a session that is open.
func (s *Service) challengeAgain(run *uia, session string, reason *mxerror.Error) (*httpapi.Reply, error) {
	body := challengeBody{Flows: []stages{{run.stages}}, Params: map[string]any{}, Session: session}
	if reason != nil {
		body.Code, body.Message = reason.Code, reason.Message
	}
	return &httpapi.Reply{Status: 401, Body: body}, nil
}
