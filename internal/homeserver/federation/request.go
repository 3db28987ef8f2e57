// SPDX-License-Identifier: Apache-2.0

package federation

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/signing"
)

// Refused is an answer of another server with a status other than 200.
type Refused struct {
	Server id.Server
	Status int
	Code   string // errcode, empty when the answer had none
	// RetryAfter is how long the server asks to be left alone (429), 0 when it says nothing.
	RetryAfter time.Duration
	// Reason is what a client is told.
	Reason *mxerror.Error
}

// Error names the server, the status and the code, never the other server's text in full.
func (r *Refused) Error() string { return fmt.Sprintf("%s answered %d %s", r.Server, r.Status, r.Code) }

// Unwrap gives what a client is told.
func (r *Refused) Unwrap() error { return r.Reason }

// broken says whether the answer shows a server that does not work, rather than one that has a reason to refuse.
func (r *Refused) broken() bool {
	return r.Status >= 500 && (r.Code == "" || r.Code == mxerror.Unknown.Code)
}

// signedRequest is the canonical JSON that a request's signature is over (server-server API, "Request Authentication"). destination is left
// out when the other side named none.
func signedRequest(method, uri string, origin, destination id.Server, body []byte) ([]byte, error) {
	object := struct {
		Method      string         `json:"method"`
		URI         string         `json:"uri"`
		Origin      id.Server      `json:"origin"`
		Destination id.Server      `json:"destination,omitempty"`
		Content     jsontext.Value `json:"content,omitzero"`
	}{method, uri, origin, destination, nil}
	if len(body) > 0 {
		object.Content = jsontext.Value(body)
	}
	raw, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	// Old room versions carry numbers that the strict form refuses, and a transaction of theirs has to be signed all the same.
	return canonicaljson.CanonicalLax(raw)
}

// authorize signs a call of a tenant.
func (s *Service) authorize(ctx context.Context, from *tenant.Tenant, to id.Server, c *call) (string, error) {
	object, err := signedRequest(c.method, c.uri(), from.Name, to, c.body)
	if err != nil {
		return "", err
	}
	key, err := s.Keyring.Signing(ctx, from.ID)
	if err != nil {
		return "", err
	}
	return credentials{from.Name, to, key.ID, signing.Encode(ed25519.Sign(key.Private, object))}.String(), nil
}

// transportTo chooses how a server is reached: neighbours in the same cell by a function call, unless the configuration says otherwise.
func (s *Service) transportTo(ctx context.Context, to id.Server) (transport, error) {
	if s.Router == nil || s.config.ForceHTTP {
		return s.http, nil
	}
	_, err := s.Tenants.ByName(ctx, to)
	if errors.Is(err, tenant.ErrUnknown) {
		return s.http, nil
	}
	return s.neighbours, err
}

// patience says how a call treats a host known to be unreachable.
type patience uint8

const (
	whenUp patience = iota // a host in back-off is not asked
	always                 // somebody waits for the answer: the host is asked in any case
)

// ask sends a call, keeps the book of reachability and turns everything but 200 into an error. The caller closes the body.
func (s *Service) ask(ctx context.Context, from *tenant.Tenant, to id.Server, c call, p patience) (*answer, error) {
	if to == from.Name {
		return nil, &Unreachable{to, errors.New("a server does not talk with itself over federation")}
	}
	if err := s.Policy.Federate(ctx, from, to); err != nil {
		return nil, err
	}
	if c.timeout <= 0 {
		c.timeout = s.config.RequestTimeout
	}
	if c.limit <= 0 {
		c.limit = s.config.MaxResponse
	}
	wait, err := s.reach.begin(ctx, to)
	if err != nil {
		return nil, err
	}
	if wait > 0 && p == whenUp {
		return nil, &Unreachable{to, fmt.Errorf("it did not answer lately; the next attempt is in %s", wait.Round(time.Second))}
	}
	via, err := s.transportTo(ctx, to)
	if err != nil {
		s.reach.abandon(to)
		return nil, err
	}
	reply, err := via.round(ctx, from, to, &c)
	if err == nil && reply.status >= 500 {
		refused := s.refusal(to, reply)
		if refused.broken() {
			s.hostFailed(ctx, to)
		} else {
			s.hostAnswered(ctx, to)
		}
		return nil, refused
	}
	var gone *Unreachable
	switch {
	case errors.As(err, &gone):
		s.hostFailed(ctx, to)
		return nil, err
	case err != nil:
		s.reach.abandon(to)
		return nil, err
	}
	s.hostAnswered(ctx, to)
	if reply.status != http.StatusOK {
		return nil, s.refusal(to, reply)
	}
	return reply, nil
}

// hostFailed and hostAnswered keep the book; a failure to write it is no failure of the request.
func (s *Service) hostFailed(ctx context.Context, server id.Server) {
	if _, err := s.reach.failure(context.WithoutCancel(ctx), server); err != nil {
		s.Log.WarnContext(ctx, "back-off of a server could not be stored", "server", string(server), "error", err)
	}
}

func (s *Service) hostAnswered(ctx context.Context, server id.Server) {
	recovered, err := s.reach.success(context.WithoutCancel(ctx), server)
	if err != nil {
		s.Log.WarnContext(ctx, "the end of a server's back-off could not be stored", "server", string(server), "error", err)
	}
	if recovered {
		s.wakeAll(server)
	}
}

// maxErrorBody bounds how much of an error answer is read.
const maxErrorBody = 64 << 10

// refusal reads an error answer. What concerns the servers' trust in each other (401, a broken server, no Matrix error) reaches a client as
// 502, so that nobody is signed out because another server mistook our signature.
func (s *Service) refusal(server id.Server, reply *answer) *Refused {
	defer reply.body.Close()
	r := &Refused{Server: server, Status: reply.status}
	body, err := io.ReadAll(io.LimitReader(reply.body, maxErrorBody))
	var doc struct {
		Code    string         `json:"errcode"`
		Message string         `json:"error"`
		Version jsontext.Value `json:"room_version"`
		Retry   jsontext.Value `json:"retry_after_ms"`
	}
	if err == nil && json.Unmarshal(body, &doc) == nil {
		r.Code = doc.Code
		if ms, ok := canonicaljson.Int(doc.Retry); ok && ms > 0 {
			r.RetryAfter = min(time.Duration(ms)*time.Millisecond, s.config.RetryMax)
		}
	}
	if r.Code == "" || reply.status < 400 || r.broken() || reply.status == http.StatusUnauthorized {
		r.Reason = mxerror.ConnectionFailed.With("%s answered with status %d", server, reply.status)
		return r
	}
	r.Reason = mxerror.New(reply.status, doc.Code, doc.Message)
	var version string
	if json.Unmarshal(doc.Version, &version) == nil && version != "" {
		r.Reason = r.Reason.WithExtra("room_version", version)
	}
	return r
}

// read sends a call and returns the whole answer.
func (s *Service) read(ctx context.Context, from *tenant.Tenant, to id.Server, c call, p patience) ([]byte, error) {
	reply, err := s.ask(ctx, from, to, c, p)
	if err != nil {
		return nil, err
	}
	defer reply.body.Close()
	if err := jsonAnswer(reply); err != nil {
		return nil, malformed(to, err)
	}
	body, err := io.ReadAll(reply.body)
	if err != nil {
		return nil, s.brokenOff(ctx, to, err)
	}
	return body, nil
}

// brokenOff is the error for an answer that began well and did not end, in time or within its bound. Such a host is as good as away.
func (s *Service) brokenOff(ctx context.Context, to id.Server, err error) error {
	err = unreachable(ctx, to, fmt.Errorf("its answer broke off: %w", err))
	var gone *Unreachable
	if errors.As(err, &gone) {
		s.hostFailed(ctx, to)
	}
	return err
}

// jsonAnswer refuses an answer that says itself that it is no JSON: the page of a proxy or of a parked domain. One that says nothing is read, and so
// are the kinds that servers guess for what they know nothing about.
func jsonAnswer(reply *answer) error {
	if coding := reply.header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return fmt.Errorf("it is compressed (%.40q), which was not asked for", coding)
	}
	declared := reply.header.Get("Content-Type")
	if declared == "" {
		return nil
	}
	kind, _, err := mime.ParseMediaType(declared)
	if err == nil && (kind == "application/json" || kind == "text/plain" || kind == "application/octet-stream" || strings.HasSuffix(kind, "+json")) {
		return nil
	}
	return fmt.Errorf("it is %.80q, not application/json", declared)
}

// decodeOptions reads others' JSON. Room data of old versions may hold what strict JSON refuses; events are checked by their own parser.
var decodeOptions = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

// fetch sends a call and decodes the answer into v.
func (s *Service) fetch(ctx context.Context, from *tenant.Tenant, to id.Server, c call, p patience, v any) error {
	body, err := s.read(ctx, from, to, c, p)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v, decodeOptions); err != nil {
		return malformed(to, err)
	}
	return nil
}

// Malformed is an answer that is not what the specification says. Clients see 502.
type Malformed struct {
	Server id.Server
	Err    error
}

// Error names the server and the cause.
func (m *Malformed) Error() string {
	return fmt.Sprintf("%s gave a malformed answer: %v", m.Server, m.Err)
}

// Unwrap gives the cause, and what a client is told.
func (m *Malformed) Unwrap() []error {
	return []error{mxerror.ConnectionFailed.With("%s gave a malformed answer", m.Server), m.Err}
}

// malformed is the error for an answer that is not what the specification says.
func malformed(server id.Server, err error) error { return &Malformed{server, err} }
