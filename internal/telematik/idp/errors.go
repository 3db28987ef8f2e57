// SPDX-License-Identifier: Apache-2.0

package idp

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"time"
)

// Error is a refusal with the code of the identity provider's published list.
type Error struct {
	Status int
	OAuth  string // the error of RFC 6749
	Code   int    // gematik_code
	Text   string // gematik_error_text
	Err    error
}

// Error names code and text.
func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("identity provider: %d %s: %v", e.Code, e.Text, e.Err)
	}
	return fmt.Sprintf("identity provider: %d %s", e.Code, e.Text)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is compares by code, for errors.Is.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Code == e.Code
}

// Published is the error object as the provider's interface has it (dossier §5.7). It carries no cause: that stays in the process.
type Published struct {
	OAuth string `json:"error"`
	Code  int    `json:"gematik_code"`
	Time  int64  `json:"gematik_timestamp"` // seconds since the epoch
	UUID  string `json:"gematik_uuid"`      // of this answer, for logs
	Text  string `json:"gematik_error_text"`
}

// Published returns the error object of one answer.
func (e *Error) Published(now time.Time) Published {
	var id [16]byte
	rand.Read(id[:])
	return Published{OAuth: e.OAuth, Code: e.Code, Time: now.Unix(), UUID: hex.EncodeToString(id[:]), Text: e.Text}
}

func (e *Error) because(err error) *Error {
	c := *e
	c.Err = err
	return &c
}

func refusal(oauth string, code int, text string) *Error {
	return &Error{Status: http.StatusBadRequest, OAuth: oauth, Code: code, Text: text}
}

// The refusals, by their published codes (reference identity provider).
var (
	ErrNoClient     = refusal("invalid_request", 1002, "client_id wurde nicht übermittelt")
	ErrNoRedirect   = refusal("invalid_request", 1004, "redirect_uri wurde nicht übermittelt")
	ErrNoScope      = refusal("invalid_request", 1005, "scope wurde nicht übermittelt")
	ErrRedirect     = refusal("invalid_request", 1020, "redirect_uri ist ungültig")
	ErrScope        = refusal("invalid_scope", 1022, "scope ist ungültig")
	ErrNoState      = refusal("invalid_request", 2002, "state wurde nicht übermittelt")
	ErrNoType       = refusal("invalid_request", 2004, "response_type wurde nicht übermittelt")
	ErrResponseType = refusal("unsupported_response_type", 2005, "response_type wird nicht unterstützt")
	ErrState        = refusal("invalid_request", 2006, "state ist ungültig")
	ErrNonce        = refusal("invalid_request", 2007, "nonce ist ungültig")
	ErrMethod       = refusal("invalid_request", 2008, "code_challenge_method ist ungültig")
	ErrNoPKCE       = refusal("invalid_request", 2009, "code_challenge wurde nicht übermittelt")
	ErrPKCE         = refusal("invalid_request", 2010, "code_challenge ist ungültig")
	ErrClient       = refusal("invalid_client", 2012, "client_id ist ungültig")
	ErrSignature    = refusal("access_denied", 2013, "Der Request besitzt keine gültige Signatur")
	ErrCertificate  = refusal("access_denied", 2020, "Das AUT-Zertifikat ist ungültig")
	ErrChallenge    = refusal("invalid_request", 2030, "Challenge ist ungültig")
	ErrExpired      = refusal("invalid_request", 2032, "Challenge ist abgelaufen")
	ErrSSO          = refusal("access_denied", 2040, "SSO_TOKEN nicht valide, bitte um neuerliche Authentisierung")
	ErrVerifier     = refusal("invalid_request", 3000, "code_verifier stimmt nicht mit code_challenge überein")
	ErrNoKey        = refusal("invalid_request", 3004, "key_verifier wurde nicht übermittelt oder ist ungültig")
	ErrCode         = refusal("invalid_grant", 3005, "Authorization Code wurde nicht übermittelt, ist ungültig oder abgelaufen")
	ErrNoGrant      = refusal("invalid_request", 3006, "grant_type wurde nicht übermittelt")
	ErrTokenClient  = refusal("invalid_client", 3007, "client_id ist ungültig")
	ErrGrant        = refusal("unsupported_grant_type", 3014, "grant_type wird nicht unterstützt")
)

// errInternal is what is told when an answer could not be checked.
var errInternal = &Error{Status: http.StatusInternalServerError, OAuth: "server_error", Code: 1500, Text: "Interner Serverfehler"}
