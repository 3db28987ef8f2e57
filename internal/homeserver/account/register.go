// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

type registerRequest struct {
	Auth          jsontext.Value `json:"auth,omitzero"`
	Type          string         `json:"type,omitempty"`
	Username      string         `json:"username,omitempty"`
	Password      *string        `json:"password,omitempty"`
	Device        id.Device      `json:"device_id,omitempty"`
	InitialDevice string         `json:"initial_device_display_name,omitempty"`
	Inhibit       bool           `json:"inhibit_login,omitzero"`
	Refresh       bool           `json:"refresh_token,omitzero"`
}

func (s *Service) register(ctx context.Context, r *httpapi.Request) (any, error) {
	var q registerRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	switch kind := r.Query("kind"); kind {
	case "", "user":
	case "guest":
		return s.registerGuest(ctx, r, &q)
	default:
		return nil, mxerror.InvalidParam.With("unknown kind of account")
	}
	if q.Type == loginAppService {
		return s.registerByAppService(ctx, r, &q)
	}
	if s.o.Config.Registration == RegistrationClosed {
		return nil, mxerror.Forbidden.With("registration is closed on this server")
	}
	q.Username = wished(r.Tenant, q.Username)
	if q.Username != "" {
		if err := s.available(ctx, r.Tenant, q.Username); err != nil {
			return nil, err
		}
	}
	if q.Password != nil {
		if err := s.hasher.check(*q.Password); err != nil {
			return nil, err
		}
	}
	kept, err := json.Marshal(registerRequest{Username: q.Username, Device: q.Device, InitialDevice: q.InitialDevice, Inhibit: q.Inhibit, Refresh: q.Refresh})
	if err != nil {
		return nil, err
	}
	run := &uia{tenant: r.Tenant, purpose: "register", flows: s.registerFlows(), request: kept, checks: s.registerChecks(r)}
	challenge, first, err := s.authenticate(ctx, run, q.Auth)
	if challenge != nil || err != nil {
		return challenge, err
	}
	if q.Username == "" { // some clients send the parameters only with the first request
		var before registerRequest
		if err := json.Unmarshal(first.request, &before); err == nil {
			before.Password = q.Password
			q = before
		}
	}
	if q.Password == nil {
		return nil, mxerror.MissingParam.With("password is missing")
	}
	n := NewUser{LoginName: q.Username, Password: *q.Password, Email: first.completed[stageEmail]}
	token, byToken := first.completed[stageToken]
	if !byToken || s.configuredToken(token) {
		return s.finishRegistration(ctx, r, &q, n)
	}
	if err := s.useRegistrationToken(ctx, r.Tenant.ID, token, 1); err != nil {
		return nil, err
	}
	reply, err := s.finishRegistration(ctx, r, &q, n)
	if err != nil { // nobody was registered
		return nil, errors.Join(err, s.useRegistrationToken(ctx, r.Tenant.ID, token, -1))
	}
	return reply, nil
}

// Register makes the account of a person who has chosen name and password. Whether registration is open is the caller's to know. Errors: those of
// /register/available, M_WEAK_PASSWORD.
func (s *Service) Register(ctx context.Context, t *tenant.Tenant, name, password string) (id.User, error) {
	name = wished(t, name)
	if err := s.available(ctx, t, name); err != nil {
		return "", err
	}
	if err := s.hasher.check(password); err != nil {
		return "", err
	}
	return s.Create(ctx, t, NewUser{LoginName: name, Password: password})
}

// finishRegistration makes the account and, unless the client wants none, a session.
func (s *Service) finishRegistration(ctx context.Context, r *httpapi.Request, q *registerRequest, n NewUser) (any, error) {
	t := r.Tenant
	if q.Device != "" && len(q.Device) > maxDeviceID {
		return nil, mxerror.InvalidParam.With("the device id is longer than %d bytes", maxDeviceID)
	}
	user, err := s.Create(ctx, t, n)
	if err != nil {
		return nil, err
	}
	if n.Email != "" {
		if err := s.bind(ctx, t.ID, user, n.Email, s.now()); err != nil {
			return nil, err
		}
		if err := s.dropSession(ctx, t.ID, purposeRegister, n.Email); err != nil {
			return nil, err
		}
	}
	if q.Inhibit {
		return loginReply{User: user, HomeServer: t.Name}, nil
	}
	l, err := s.StartSession(ctx, t, SessionSpec{User: user, Device: q.Device, DisplayName: q.InitialDevice, Refresh: q.Refresh, Address: r.Address})
	if err != nil {
		return nil, err
	}
	return s.loginReply(t, l), nil
}

func (s *Service) registerGuest(ctx context.Context, r *httpapi.Request, q *registerRequest) (any, error) {
	if !s.o.Config.Guests {
		return nil, mxerror.Forbidden.With("this server takes no guests")
	}
	return s.finishRegistration(ctx, r, &registerRequest{InitialDevice: q.InitialDevice}, NewUser{Localpart: "guest-" + randomLocalpart(), Guest: true})
}

func (s *Service) registerByAppService(ctx context.Context, r *httpapi.Request, q *registerRequest) (any, error) {
	as, err := s.requireAppService(ctx, r)
	if err != nil {
		return nil, err
	}
	if q.Username == "" {
		return nil, mxerror.MissingParam.With("username is missing")
	}
	user, err := id.NewUser(foldLogin(wished(r.Tenant, q.Username)), r.Tenant.Name)
	if err != nil {
		return nil, mxerror.InvalidUsername.With("the user name is not allowed")
	}
	if !as.Owns(user) || s.o.ReservedUser != nil && s.o.ReservedUser(r.Tenant, user, as.ID) {
		return nil, mxerror.Exclusive.With("the user is not in the namespace of the application service")
	}
	return s.finishRegistration(ctx, r, q, NewUser{Localpart: user.Localpart(), AppService: as.ID,
		DisplayName: user.Localpart()}) // bridges of the field expect one and replace it
}

// wished is the name that a client asks for: on a client host shared by all tenants it comes as a full user id, which found the tenant.
func wished(t *tenant.Tenant, name string) string {
	if rest, ok := strings.CutPrefix(name, "@"); ok {
		if local, ok := strings.CutSuffix(rest, ":"+string(t.Name)); ok {
			return local
		}
	}
	return name
}

// available answers nil when somebody may register under the name. Errors: M_INVALID_USERNAME, M_USER_IN_USE, M_EXCLUSIVE.
func (s *Service) available(ctx context.Context, t *tenant.Tenant, name string) error {
	// The name is checked as a localpart even where the policy then chooses another: what a login accepts is a question of grammar too.
	user, err := id.NewUser(foldLogin(name), t.Name)
	if err != nil {
		return mxerror.InvalidUsername.With("the user name may hold a-z, 0-9 and ._=-/+ and at most 255 characters with the server name")
	}
	if s.o.ReservedUser != nil && s.o.ReservedUser(t, user, "") {
		return mxerror.Exclusive.With("this user name is reserved by an application service")
	}
	if _, err := s.byLogin(ctx, t, user.Localpart()); !errors.Is(err, mxerror.NotFound) {
		if err == nil {
			err = mxerror.UserInUse.With("this user name is taken")
		}
		return err
	}
	return nil
}

type availableReply struct {
	Available bool `json:"available"`
}

func (s *Service) registerAvailable(ctx context.Context, r *httpapi.Request) (any, error) {
	name := wished(r.Tenant, r.Query("username"))
	if name == "" {
		return nil, mxerror.MissingParam.With("username is missing")
	}
	if err := s.available(ctx, r.Tenant, name); err != nil {
		return nil, err
	}
	return availableReply{true}, nil
}

// nonceLife is how long a nonce of the shared-secret registration may be used.
const nonceLife = time.Minute

type nonceReply struct {
	Nonce string `json:"nonce"`
}

// secretNonce and secretRegister follow the convention of /_synapse/admin/v1/register, which provisioning tools of the field speak: the caller
// proves knowledge of the configured secret by an HMAC over a nonce and the account's data.
func (s *Service) secretNonce(ctx context.Context, r *httpapi.Request) (any, error) {
	if s.o.Config.SharedSecret == "" {
		return nil, mxerror.New(400, "M_UNKNOWN", "registration by shared secret is not enabled")
	}
	b := make([]byte, 32)
	rand.Read(b)
	nonce := hex.EncodeToString(b)
	if err := s.putShortToken(ctx, r.Tenant.ID, kindNonce, nonce, "", nonceLife); err != nil {
		return nil, err
	}
	return nonceReply{nonce}, nil
}

type secretRequest struct {
	Nonce       string `json:"nonce"`
	Username    string `json:"username"`
	DisplayName string `json:"displayname"`
	Password    string `json:"password"`
	Admin       bool   `json:"admin"`
	UserType    string `json:"user_type"`
	MAC         string `json:"mac"`
	Inhibit     bool   `json:"inhibit_login"`
}

func (s *Service) secretRegister(ctx context.Context, r *httpapi.Request) (any, error) {
	if s.o.Config.SharedSecret == "" {
		return nil, mxerror.New(400, "M_UNKNOWN", "registration by shared secret is not enabled")
	}
	var q secretRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	switch {
	case q.Nonce == "":
		return nil, mxerror.MissingParam.With("nonce is missing")
	case q.Username == "":
		return nil, mxerror.MissingParam.With("username is missing")
	case q.Password == "":
		return nil, mxerror.MissingParam.With("password is missing")
	case q.MAC == "":
		return nil, mxerror.MissingParam.With("mac is missing")
	}
	if err := s.hasher.check(q.Password); err != nil {
		return nil, err
	}
	if _, err := s.takeShortToken(ctx, r.Tenant.ID, kindNonce, q.Nonce); err != nil {
		if errors.Is(err, mxerror.Forbidden) {
			err = mxerror.New(400, "M_UNKNOWN", "unrecognised nonce")
		}
		return nil, err
	}
	got, err := hex.DecodeString(q.MAC)
	if err != nil || !hmac.Equal(got, secretMAC(s.o.Config.SharedSecret, &q)) {
		return nil, mxerror.Forbidden.With("the HMAC is wrong")
	}
	q.Username = wished(r.Tenant, q.Username) // after the HMAC, which is over what was sent
	if err := s.available(ctx, r.Tenant, q.Username); err != nil {
		return nil, err
	}
	n := NewUser{LoginName: q.Username, Password: q.Password, DisplayName: q.DisplayName, Admin: q.Admin}
	return s.finishRegistration(ctx, r, &registerRequest{Inhibit: q.Inhibit}, n)
}

// secretMAC is HMAC-SHA1, as the convention has it; what it protects lives for a minute.
func secretMAC(secret string, q *secretRequest) []byte {
	mac := hmac.New(sha1.New, []byte(secret))
	admin := "notadmin"
	if q.Admin {
		admin = "admin"
	}
	for i, part := range []string{q.Nonce, q.Username, q.Password, admin} {
		if i > 0 {
			mac.Write([]byte{0})
		}
		mac.Write([]byte(part))
	}
	if q.UserType != "" {
		mac.Write([]byte{0})
		mac.Write([]byte(q.UserType))
	}
	return mac.Sum(nil)
}
