// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"errors"
	"net/http"
	"net/mail"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// What a proof that somebody reads an address is good for. One for registering cannot reset a password.
const (
	purposeRegister = "register"
	purposePassword = "password"
	purposeAdd      = "add"
)

const (
	mediumEmail = "email"
	// mailLife is how long the link of a mail can be followed, and how long the proof may then be used.
	mailLife = 24 * time.Hour
	// maxAddress is the longest e-mail address (RFC 5321, 4.5.3.1.3).
	maxAddress = 254
)

// clientSecret is the grammar of client secrets and session ids.
var clientSecret = regexp.MustCompile(`^[0-9a-zA-Z.=_-]{1,255}$`)

var noMail = mxerror.ThreepidMediumNotSupported.With("this server sends no e-mail")

type requestTokenBody struct {
	Secret   *string `json:"client_secret"`
	Email    *string `json:"email"`
	Attempt  *int64  `json:"send_attempt"`
	NextLink string  `json:"next_link"`
	Country  *string `json:"country"`
	Phone    *string `json:"phone_number"`
}

type requestTokenReply struct {
	SID string `json:"sid"`
}

// foldAddress brings an address into the form in which it is stored and compared.
func foldAddress(address string) (string, error) {
	address = strings.TrimSpace(address)
	parsed, err := mail.ParseAddress(address)
	if err != nil || parsed.Name != "" || parsed.Address != address || len(address) > maxAddress {
		return "", mxerror.InvalidParam.With("this is no e-mail address")
	}
	return strings.ToLower(address), nil
}

// requestEmailToken begins to validate an e-mail address for a purpose: it sends a link (client-server API, "Adding Account Administrative Contact
// Information").
func (s *Service) requestEmailToken(purpose string) httpapi.Handler {
	return func(ctx context.Context, r *httpapi.Request) (any, error) {
		var q requestTokenBody
		if err := r.Decode(&q); err != nil {
			return nil, err
		}
		if q.Secret == nil || q.Email == nil || q.Attempt == nil {
			return nil, mxerror.MissingParam.With("client_secret, email and send_attempt are needed")
		}
		if !clientSecret.MatchString(*q.Secret) {
			return nil, mxerror.InvalidParam.With("client_secret holds 1 to 255 of 0-9, a-z, A-Z and .=_-")
		}
		if q.NextLink != "" && !isWebAddress(q.NextLink) {
			return nil, mxerror.InvalidParam.With("next_link must be an http or https address")
		}
		if s.o.SendMail == nil {
			return nil, noMail
		}
		if purpose == purposeRegister && s.o.Config.Registration == RegistrationClosed {
			return nil, mxerror.Forbidden.With("registration is closed on this server")
		}
		address, err := foldAddress(*q.Email)
		if err != nil {
			return nil, err
		}
		_, err = s.ownerOf(ctx, r.Tenant.ID, address)
		switch known := err == nil; {
		case err != nil && !errors.Is(err, mxerror.NotFound):
			return nil, err
		case known && purpose != purposePassword:
			return nil, mxerror.ThreepidInUse.With("this e-mail address belongs to an account already")
		case !known && purpose == purposePassword:
			return nil, mxerror.ThreepidNotFound.With("no account has this e-mail address")
		}
		sid, err := s.sendToken(ctx, r, purpose, address, &q)
		return requestTokenReply{sid}, err
	}
}

// requestPhoneToken answers that telephone numbers are not kept here.
func (s *Service) requestPhoneToken(_ context.Context, r *httpapi.Request) (any, error) {
	var q requestTokenBody
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Secret == nil || q.Country == nil || q.Phone == nil || q.Attempt == nil {
		return nil, mxerror.MissingParam.With("client_secret, country, phone_number and send_attempt are needed")
	}
	return nil, mxerror.ThreepidMediumNotSupported.With("telephone numbers are not kept on this server")
}

func isWebAddress(link string) bool {
	u, err := url.Parse(link)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != ""
}

// sendToken makes or finds the session of an address and sends its mail, unless that attempt was sent before.
func (s *Service) sendToken(ctx context.Context, r *httpapi.Request, purpose, address string, q *requestTokenBody) (string, error) {
	t, now := r.Tenant.ID, s.now()
	// One address gets only so many mails, whoever asks for them.
	if err := httpapi.LimitError(s.o.Limiter.Allow(limit.Register, string(r.Tenant.Name), "mail:"+address)); err != nil {
		return "", err
	}
	token := randomSecret()
	sid, send := "", true
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM threepid_session WHERE tenant = $1 AND created < $2", int64(t), now-mailLife.Milliseconds()); err != nil {
			return err
		}
		var attempt int64
		err := tx.QueryRow(ctx, "SELECT sid, attempt FROM threepid_session WHERE tenant = $1 AND client_secret = $2 AND purpose = $3 AND address = $4",
			int64(t), *q.Secret, purpose, address).Scan(&sid, &attempt)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			sid = randomSecret()
			_, err = tx.Exec(ctx, `INSERT INTO threepid_session (tenant, sid, client_secret, purpose, address, token, attempt, next_link, validated, created)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9)`, int64(t), sid, *q.Secret, purpose, address, hashToken(token), *q.Attempt, q.NextLink, now)
			return err
		case err != nil:
			return err
		case *q.Attempt <= attempt:
			send = false
			return nil
		}
		_, err = tx.Exec(ctx, "UPDATE threepid_session SET token = $3, attempt = $4, next_link = $5 WHERE tenant = $1 AND sid = $2",
			int64(t), sid, hashToken(token), *q.Attempt, q.NextLink)
		return err
	})
	if err != nil || !send {
		return sid, err
	}
	subject, text := mailText(purpose, r.Tenant, s.submitLink(r, sid, token))
	return sid, s.o.SendMail(ctx, address, subject, text)
}

// submitLink is the address in the mail. On a client host shared by all tenants user_id tells whose it is.
func (s *Service) submitLink(r *httpapi.Request, sid, token string) string {
	base := ""
	if s.o.Config.BaseURL != nil {
		base = s.o.Config.BaseURL(r.Tenant)
	}
	if base == "" {
		scheme := "http"
		if r.HTTP.TLS != nil || r.HTTP.Header.Get("X-Forwarded-Proto") == "https" {
			scheme = "https"
		}
		base = scheme + "://" + r.HTTP.Host
	}
	q := url.Values{"sid": {sid}, "token": {token}, "user_id": {"@mail:" + string(r.Tenant.Name)}}
	return strings.TrimSuffix(base, "/") + submitPath + "?" + q.Encode()
}

// mailText is what a mail says, in German and English.
func mailText(purpose string, t *tenant.Tenant, link string) (subject, text string) {
	switch purpose {
	case purposePassword:
		subject = "Passwort zurücksetzen / Reset your password"
		text = "Jemand möchte das Passwort Ihres Kontos bei " + string(t.Name) + " zurücksetzen. Wenn Sie das waren, öffnen Sie bitte diesen Link:\n" +
			"Somebody wants to reset the password of your account at " + string(t.Name) + ". If it was you, please open this link:\n\n"
	case purposeRegister:
		subject = "Konto bestätigen / Confirm your account"
		text = "Mit dieser Adresse soll ein Konto bei " + string(t.Name) + " eingerichtet werden. Wenn Sie das sind, öffnen Sie bitte diesen Link:\n" +
			"An account at " + string(t.Name) + " is about to be made with this address. If it is yours, please open this link:\n\n"
	default:
		subject = "E-Mail-Adresse bestätigen / Confirm your e-mail address"
		text = "Diese Adresse soll zu einem Konto bei " + string(t.Name) + " gehören. Wenn Sie das möchten, öffnen Sie bitte diesen Link:\n" +
			"This address is about to be added to an account at " + string(t.Name) + ". If you want that, please open this link:\n\n"
	}
	return subject, text + link + "\n\nSonst brauchen Sie nichts zu tun. / Otherwise there is nothing to do.\n"
}

// submitPath is where the links of mails lead.
const submitPath = "/_konsil/client/v1/email/confirm"

// submitToken is what the link of a mail opens. For a password it asks once more: programs that look through mail follow links too.
func (s *Service) submitToken(ctx context.Context, r *httpapi.Request) (any, error) {
	form := r.Values()
	sid, token := form.Get("sid"), form.Get("token")
	if sid == "" || token == "" {
		return nil, mxerror.MissingParam.With("sid or token is missing")
	}
	var purpose, next string
	err := s.db.QueryRow(ctx, "SELECT purpose, next_link FROM threepid_session WHERE tenant = $1 AND sid = $2 AND token = $3 AND created >= $4",
		int64(r.Tenant.ID), sid, hashToken(token), s.now()-mailLife.Milliseconds()).Scan(&purpose, &next)
	if errors.Is(err, sql.ErrNoRows) {
		return page(400, fallbackView{Title: "This link is not valid", Text: "It is too old, or a newer mail has been sent since.", Done: true})
	}
	if err != nil {
		return nil, err
	}
	if purpose == purposePassword && r.HTTP.Method != http.MethodPost {
		return page(200, fallbackView{Title: "Reset your password", Text: "Continue to confirm that you want to set a new password. Go on only if you have asked for it yourself."})
	}
	_, err = s.db.Exec(ctx, "UPDATE threepid_session SET validated = $3 WHERE tenant = $1 AND sid = $2 AND validated = 0", int64(r.Tenant.ID), sid, s.now())
	if err != nil {
		return nil, err
	}
	if next != "" {
		return &httpapi.Reply{Status: http.StatusFound, Header: http.Header{"Location": {next}}}, nil
	}
	return page(200, fallbackView{Title: "Thank you", Text: "Your e-mail address is confirmed. You may close this window and return to the application.", Done: true})
}

// validated returns the address that a session has proven for a purpose. M_THREEPID_AUTH_FAILED where there is no such proof.
func (s *Service) validated(ctx context.Context, t tenant.ID, purpose string, creds *threepidCreds) (address string, when int64, err error) {
	if creds == nil || creds.SID == "" || creds.Secret == "" {
		return "", 0, mxerror.MissingParam.With("sid or client_secret is missing")
	}
	err = s.db.QueryRow(ctx, "SELECT address, validated FROM threepid_session WHERE tenant = $1 AND sid = $2 AND client_secret = $3 AND purpose = $4 AND created >= $5",
		int64(t), creds.SID, creds.Secret, purpose, s.now()-mailLife.Milliseconds()).Scan(&address, &when)
	if errors.Is(err, sql.ErrNoRows) || err == nil && when == 0 {
		return "", 0, mxerror.ThreepidAuthFailed.With("the e-mail address has not been validated: open the link in the mail first")
	}
	return address, when, err
}

// emailStage wants a validated address.
func (s *Service) emailStage(t *tenant.Tenant, purpose string) stageCheck {
	return func(ctx context.Context, a *authData) (string, error) {
		creds := a.Creds
		if creds == nil {
			creds = a.OldCreds
		}
		address, _, err := s.validated(ctx, t.ID, purpose, creds)
		return address, err
	}
}

// dropSession ends a validation session that has been used.
func (s *Service) dropSession(ctx context.Context, t tenant.ID, purpose, address string) error {
	_, err := s.db.Exec(ctx, "DELETE FROM threepid_session WHERE tenant = $1 AND purpose = $2 AND address = $3", int64(t), purpose, address)
	return err
}

func randomSecret() string {
	b := make([]byte, 24)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}
