// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// deviceCodeLife is how long a request of the device grant stays open; pollPause is how many seconds a client waits between two questions, and by how
// many more after it did not (RFC 8628, section 3.5).
const (
	deviceCodeLife = 20 * time.Minute
	pollPause      = 5
)

// The states of a request of the device grant.
const (
	pending  = "pending"
	approved = "approved"
	denied   = "denied"
)

// userCodeLetters are consonants that are easily told apart and make no words (RFC 8628, section 6.1). Eight of them hold 34 bits, which is enough
// for something that lives twenty minutes and is guessed at the pace of sign-ins.
const (
	userCodeLetters = "BCDFGHJKLMNPQRSTVWXZ"
	userCodeLength  = 8
)

func newUserCode() string {
	code := make([]byte, 0, userCodeLength)
	var b [1]byte
	for len(code) < userCodeLength {
		rand.Read(b[:])
		if limit := 256 - 256%len(userCodeLetters); int(b[0]) < limit { // without bias
			code = append(code, userCodeLetters[int(b[0])%len(userCodeLetters)])
		}
	}
	return string(code)
}

// normalUserCode brings what somebody typed into the stored form.
func normalUserCode(typed string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' {
			c += 'A' - 'a'
		}
		if strings.ContainsRune(userCodeLetters, c) {
			return c
		}
		return -1
	}, typed)
}

// shownUserCode is a code in two groups, as people read it.
func shownUserCode(code string) string {
	if len(code) != userCodeLength {
		return code
	}
	return code[:userCodeLength/2] + "-" + code[userCodeLength/2:]
}

type deviceReply struct {
	DeviceCode string `json:"device_code"`
	UserCode   string `json:"user_code"`
	Page       string `json:"verification_uri"`
	PageFilled string `json:"verification_uri_complete"`
	ExpiresIn  int64  `json:"expires_in"` // seconds
	Interval   int64  `json:"interval"`   // seconds
}

// deviceAuthorization begins the device grant (RFC 8628, section 3.1).
func (s *Service) deviceAuthorization(ctx context.Context, r *httpapi.Request) (any, error) {
	form, refused := parseForm(r)
	if refused != nil {
		return refused.reply(), nil
	}
	reply, err := s.openDeviceCode(ctx, r, form)
	if errors.As(err, &refused) {
		return refused.reply(), nil
	}
	return reply, err
}

func (s *Service) openDeviceCode(ctx context.Context, r *httpapi.Request, form formValues) (any, error) {
	t, clientID := owner(r.Tenant), form.Get("client_id")
	registered, err := s.client(ctx, t, clientID)
	if err != nil {
		return nil, err
	}
	if !registered.may(grantDevice) {
		return nil, fail("unauthorized_client", "the client did not register for the device grant")
	}
	scope, device, refused := parseScope(form.Get("scope"))
	if refused != nil {
		return nil, refused
	}
	code, userCode, now := httpapi.NewToken(deviceToken, t), newUserCode(), s.now()
	err = s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM oauth_device_code WHERE tenant = $1 AND expires < $2", int64(t), now-codeMemory.Milliseconds()); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO oauth_device_code (tenant, hash, user_code, client_id, device, scope, state, user_id, polled, pause, expires)
			VALUES ($1, $2, $3, $4, $5, $6, $7, '', 0, $8, $9)`,
			int64(t), hash(code), userCode, clientID, string(device), scope, pending, int64(pollPause), now+deviceCodeLife.Milliseconds())
		return err
	})
	if err != nil {
		return nil, err
	}
	page, shown := s.base(r)+pathLink, shownUserCode(userCode)
	return &httpapi.Reply{Header: unstored, Body: deviceReply{code, shown, page, page + "?" + url.Values{"user_code": {shown}}.Encode(),
		int64(deviceCodeLife.Seconds()), pollPause}}, nil
}

// deviceRequest is a row of oauth_device_code.
type deviceRequest struct {
	client, scope, state   string
	user                   id.User
	device                 id.Device
	polled, pause, expires int64
}

const selectDeviceRequest = "SELECT client_id, scope, state, user_id, device, polled, pause, expires FROM oauth_device_code "

func scanDeviceRequest(row *sql.Row) (*deviceRequest, error) {
	var d deviceRequest
	err := row.Scan(&d.client, &d.scope, &d.state, &d.user, &d.device, &d.polled, &d.pause, &d.expires)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return &d, err
}

// exchangeDeviceCode answers a client that asks whether its user has decided (RFC 8628, section 3.5).
func (s *Service) exchangeDeviceCode(ctx context.Context, r *httpapi.Request, clientID, code string) (*account.Login, error) {
	t := owner(r.Tenant)
	if key, ok := httpapi.TokenTenant(code); ok && r.Tenant == nil { // begun at a tenant's own host
		t = key
	}
	d, err := scanDeviceRequest(s.db.QueryRow(ctx, selectDeviceRequest+"WHERE tenant = $1 AND hash = $2", int64(t), hash(code)))
	switch now := s.now(); {
	case err != nil:
		return nil, err
	case d == nil:
		return nil, fail("invalid_grant", "the device_code is not known or has been used")
	case d.client != clientID:
		return nil, fail("invalid_grant", "the device_code was given to another client")
	case d.state == denied:
		return nil, fail("access_denied", "the user refused")
	case d.expires <= now:
		return nil, fail("expired_token", "nobody answered in time: begin again")
	case d.state == pending:
		return nil, s.waiting(ctx, t, code, d, now)
	}
	// Whoever removes the row has the grant.
	n, err := s.db.Exec(ctx, "DELETE FROM oauth_device_code WHERE tenant = $1 AND hash = $2", int64(t), hash(code))
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, fail("invalid_grant", "the device_code has been used")
	}
	of, err := s.o.Tenants.ByName(ctx, d.user.Server())
	if of, err = s.admitted(ctx, r, of, err); err != nil || of == nil {
		return nil, errors.Join(err, fail("invalid_grant", "this account may not sign in"))
	}
	if err := s.keepClient(ctx, t, of.ID, clientID); err != nil {
		return nil, err
	}
	return s.startSession(ctx, r, of, d.user, d.device, clientID, d.scope)
}

// waiting notes a question that came before the user's decision and tells the client to go on, or to slow down.
func (s *Service) waiting(ctx context.Context, t tenant.ID, code string, d *deviceRequest, now int64) error {
	answer := fail("authorization_pending", "the user has not decided yet")
	if now-d.polled < d.pause*1000 {
		d.pause += pollPause
		answer = fail("slow_down", "ask once in %d seconds", d.pause)
	}
	_, err := s.db.Exec(ctx, "UPDATE oauth_device_code SET polled = $3, pause = $4 WHERE tenant = $1 AND hash = $2", int64(t), hash(code), now, d.pause)
	if err != nil {
		return err
	}
	return answer
}

// deviceRequest finds the open request with a user code.
func (s *Service) deviceRequest(ctx context.Context, t tenant.ID, userCode string) (*deviceRequest, error) {
	return scanDeviceRequest(s.db.QueryRow(ctx, selectDeviceRequest+"WHERE tenant = $1 AND user_code = $2 AND state = $3 AND expires > $4",
		int64(t), userCode, pending, s.now()))
}

// decideDevice writes a user's decision; false when the request is not open any more.
func (s *Service) decideDevice(ctx context.Context, t tenant.ID, userCode string, user id.User, state string) (bool, error) {
	n, err := s.db.Exec(ctx, "UPDATE oauth_device_code SET state = $4, user_id = $5 WHERE tenant = $1 AND user_code = $2 AND state = $3 AND expires > $6",
		int64(t), userCode, pending, state, string(user), s.now())
	return n > 0, err
}
