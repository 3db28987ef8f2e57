// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"errors"
	"slices"
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

// The stages beside those that are login types too (client-server API, "Authentication types").
const (
	stageToken = "m.login.registration_token"
	stageEmail = "m.login.email.identity"
)

// authData is what the client sends in a request's auth (client-server API, "User-interactive API").
type authData struct {
	Type       string         `json:"type"`
	Session    string         `json:"session"`
	Identifier *identifier    `json:"identifier"`
	User       string         `json:"user"`
	Password   *string        `json:"password"`
	Medium     string         `json:"medium"`  // before identifiers
	Address    string         `json:"address"` // before identifiers
	Token      string         `json:"token"`
	Creds      *threepidCreds `json:"threepid_creds"`
	OldCreds   *threepidCreds `json:"threepidCreds"` // as older clients write it
}

// threepidCreds names a session in which an address was validated.
type threepidCreds struct {
	SID    string `json:"sid"`
	Secret string `json:"client_secret"`
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

// stageCheck looks at what a client sends for a stage. It returns what the stage has proven (an e-mail address, a token) for the final request.
type stageCheck = func(ctx context.Context, a *authData) (proven string, err error)

// uia is one run through user-interactive authentication.
type uia struct {
	tenant  *tenant.Tenant
	purpose string     // binds a session to its endpoint, target and user
	flows   [][]string // one of them is needed
	checks  map[string]stageCheck
	request []byte // parameters to keep for the final request
}

// uiaSession is what is kept between the requests of a run.
type uiaSession struct {
	request []byte
	// completed are the stages done, with what they have proven.
	completed map[string]string
}

// done says whether a whole flow is completed.
func (run *uia) done(completed map[string]string) bool {
	return slices.ContainsFunc(run.flows, func(flow []string) bool {
		return !slices.ContainsFunc(flow, func(stage string) bool { _, ok := completed[stage]; return !ok })
	})
}

// Confirm lets the user of a request prove their presence, with their password or on the pages of sign-in, before something dangerous is done. It returns a challenge to
// answer the request with, or nil when the proof was given. purpose names the endpoint and what it is used on, so that a proof cannot be carried
// over to something else. Application services need no proof (since v1.17).
func (s *Service) Confirm(ctx context.Context, r *httpapi.Request, purpose string, auth jsontext.Value) (*httpapi.Reply, error) {
	if r.Session.AppService != "" {
		return nil, nil
	}
	if r.Session.OAuthClient != "" {
		return s.confirmOnPage(ctx, r, purpose, auth)
	}
	flows, err := s.confirmFlows(ctx, r)
	if err != nil {
		return nil, err
	}
	run := &uia{tenant: r.Tenant, purpose: string(r.Session.User) + " " + purpose, flows: flows,
		checks: map[string]stageCheck{loginPassword: s.passwordStage(r), loginSSO: ssoStage}}
	challenge, _, err := s.authenticate(ctx, run, auth)
	return challenge, err
}

// passwordStage wants the password of the request's user.
func (s *Service) passwordStage(r *httpapi.Request) stageCheck {
	return func(ctx context.Context, a *authData) (string, error) {
		if a.Password == nil {
			return "", mxerror.MissingParam.With("password is missing")
		}
		name, err := s.namedBy(ctx, r.Tenant, a.Identifier, a.User, a.Medium, a.Address)
		if errors.Is(err, mxerror.MissingParam) {
			name, err = string(r.Session.User), nil
		}
		if err != nil {
			return "", err
		}
		account, err := s.CheckPassword(ctx, r.Tenant, name, *a.Password)
		if err != nil {
			return "", err
		}
		if account.User != r.Session.User {
			return "", mxerror.Forbidden.With("the password of somebody else does not count")
		}
		return string(account.User), nil
	}
}

// authenticate takes one step. It returns a challenge, or nil and the session when all stages of a flow are done; a finished session is used up.
func (s *Service) authenticate(ctx context.Context, run *uia, raw jsontext.Value) (*httpapi.Reply, *uiaSession, error) {
	if len(raw) == 0 || string(raw) == "null" {
		reply, err := s.challenge(ctx, run, nil, nil)
		return reply, nil, err
	}
	var auth authData
	if err := json.Unmarshal(raw, &auth); err != nil {
		return nil, nil, mxerror.BadJSON.With("auth: wrong type")
	}
	kept := &uiaSession{run.request, map[string]string{}}
	if auth.Session != "" {
		var err error
		if kept, err = s.session(ctx, run, auth.Session); err != nil {
			return nil, nil, err
		}
	}
	if reason, err := s.stage(ctx, run, kept, &auth); reason != nil || err != nil {
		if err != nil {
			return nil, nil, err
		}
		reply, err := s.again(ctx, run, kept, auth.Session, reason)
		return reply, nil, err
	}
	if !run.done(kept.completed) {
		reply, err := s.again(ctx, run, kept, auth.Session, nil)
		return reply, nil, err
	}
	if auth.Session == "" {
		return nil, kept, nil
	}
	n, err := s.db.Exec(ctx, "DELETE FROM uia_session WHERE tenant = $1 AND session = $2", int64(run.tenant.ID), auth.Session)
	if err == nil && n == 0 {
		err = mxerror.Forbidden.With("this session of authentication has been used")
	}
	return nil, kept, err
}

// stage runs the check of the stage that the client names and notes its success. A refusal that the client may answer is the reason; without a
// stage the client only asks how far it is, as it does after a fallback page.
func (s *Service) stage(ctx context.Context, run *uia, kept *uiaSession, auth *authData) (reason *mxerror.Error, err error) {
	if auth.Type == "" {
		return nil, nil
	}
	check := run.checks[auth.Type]
	if check == nil || !slices.ContainsFunc(run.flows, func(flow []string) bool { return slices.Contains(flow, auth.Type) }) {
		return mxerror.Forbidden.With("this stage is not part of a flow"), nil
	}
	proven, err := check(ctx, auth)
	if err != nil {
		mx := mxerror.From(err)
		if mx == nil || mx.Status >= 500 || errors.Is(err, mxerror.MissingParam) || errors.Is(err, mxerror.LimitExceeded) {
			return nil, err
		}
		return mx, nil
	}
	kept.completed[auth.Type] = proven
	if auth.Session == "" {
		return nil, nil
	}
	return nil, s.noteStages(ctx, run.tenant.ID, auth.Session, kept.completed)
}

func (s *Service) noteStages(ctx context.Context, t tenant.ID, session string, completed map[string]string) error {
	text, err := json.Marshal(completed, json.Deterministic(true))
	if err != nil {
		return err
	}
	_, err = s.db.Exec(ctx, "UPDATE uia_session SET completed = $3 WHERE tenant = $1 AND session = $2", int64(t), session, string(text))
	return err
}

// session finds a session, which must have been begun for the same purpose.
func (s *Service) session(ctx context.Context, run *uia, session string) (*uiaSession, error) {
	kept, purpose, err := s.openSession(ctx, run.tenant.ID, session)
	if err == nil && purpose != run.purpose {
		err = mxerror.Forbidden.With("the request differs from the one that this authentication was begun for")
	}
	return kept, err
}

func (s *Service) openSession(ctx context.Context, t tenant.ID, session string) (*uiaSession, string, error) {
	var purpose, completed string
	kept := &uiaSession{completed: map[string]string{}}
	err := s.db.QueryRow(ctx, "SELECT purpose, completed, request FROM uia_session WHERE tenant = $1 AND session = $2 AND created > $3",
		int64(t), session, s.now()-uiaLife.Milliseconds()).Scan(&purpose, &completed, &kept.request)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, "", mxerror.New(400, "M_UNKNOWN", "unknown session of authentication")
	}
	if err != nil {
		return nil, "", err
	}
	if completed == stageOAuth {
		kept.completed[stageOAuth] = ""
	} else if completed != "" {
		err = json.Unmarshal([]byte(completed), &kept.completed)
	}
	return kept, purpose, err
}

// challenge opens a session and answers 401.
func (s *Service) challenge(ctx context.Context, run *uia, completed map[string]string, reason *mxerror.Error) (*httpapi.Reply, error) {
	secret := make([]byte, 18)
	rand.Read(secret)
	session := base64.RawURLEncoding.EncodeToString(secret)
	done, err := []byte{}, error(nil)
	if len(completed) > 0 {
		if done, err = json.Marshal(completed, json.Deterministic(true)); err != nil {
			return nil, err
		}
	}
	now := s.now()
	err = s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM uia_session WHERE tenant = $1 AND created <= $2", int64(run.tenant.ID), now-uiaLife.Milliseconds()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO uia_session (tenant, session, purpose, completed, request, created) VALUES ($1, $2, $3, $4, $5, $6)",
			int64(run.tenant.ID), session, run.purpose, string(done), string(run.request), now)
		return err
	})
	if err != nil {
		return nil, err
	}
	return run.reply(session, completed, reason), nil
}

// again answers 401 within the session that is open, or opens one.
func (s *Service) again(ctx context.Context, run *uia, kept *uiaSession, session string, reason *mxerror.Error) (*httpapi.Reply, error) {
	if session == "" {
		return s.challenge(ctx, run, kept.completed, reason)
	}
	return run.reply(session, kept.completed, reason), nil
}

func (run *uia) reply(session string, completed map[string]string, reason *mxerror.Error) *httpapi.Reply {
	body := challengeBody{Params: map[string]any{}, Session: session}
	for _, flow := range run.flows {
		body.Flows = append(body.Flows, stages{flow})
	}
	for stage := range completed {
		body.Completed = append(body.Completed, stage)
	}
	slices.Sort(body.Completed)
	if reason != nil {
		body.Code, body.Message = reason.Code, reason.Message
	}
	return &httpapi.Reply{Status: 401, Body: body}
}
