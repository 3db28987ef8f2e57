// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/push"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// entry is a user in a list.
type entry struct {
	Name         id.User `json:"name"`
	Guest        bool    `json:"is_guest"`
	Admin        bool    `json:"admin"`
	UserType     *string `json:"user_type"`
	Deactivated  bool    `json:"deactivated"`
	Erased       bool    `json:"erased"`
	ShadowBanned bool    `json:"shadow_banned"`
	DisplayName  *string `json:"displayname"`
	AvatarURL    *string `json:"avatar_url"`
	Created      int64   `json:"creation_ts"` // ms in lists, seconds for one user
	LastSeen     *int64  `json:"last_seen_ts"`
	Locked       bool    `json:"locked"`
	Suspended    bool    `json:"suspended"`
}

// details is one user.
type details struct {
	entry
	Threepids   []threepid `json:"threepids"`
	ExternalIDs []struct{} `json:"external_ids"`
	AppService  *string    `json:"appservice_id"`
}

type threepid struct {
	Medium    string `json:"medium"`
	Address   string `json:"address"`
	Added     int64  `json:"added_at"`
	Validated int64  `json:"validated_at"`
}

func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func entryOf(a *account.Account, name, avatar string, lastSeen int64) entry {
	e := entry{Name: a.User, Guest: a.Guest, Admin: a.Admin, Deactivated: a.Deactivated, Locked: a.Locked, Suspended: a.Suspended,
		DisplayName: optional(name), AvatarURL: optional(avatar), Created: a.Created}
	if lastSeen > 0 {
		e.LastSeen = &lastSeen
	}
	return e
}

type usersReply struct {
	Users []entry `json:"users"`
	Next  string  `json:"next_token,omitzero"`
	Total int64   `json:"total"`
}

// maxUsers is the most that one page holds.
const maxUsers = 1000

func (s *Service) listUsers(ctx context.Context, r *httpapi.Request) (any, error) {
	q := account.Search{Term: r.Query("name"), UserID: r.Query("user_id"), Order: r.Query("order_by")}
	var err error
	if q.From, err = r.QueryInt("from", 0, 1<<30); err != nil {
		return nil, err
	}
	if q.Limit, err = r.QueryInt("limit", 100, maxUsers); err != nil {
		return nil, err
	}
	for name, flag := range map[string]*bool{"deactivated": &q.Deactivated, "guests": &q.Guests, "locked": &q.Locked} {
		if *flag, err = r.QueryBool(name, name == "guests"); err != nil {
			return nil, err
		}
	}
	if r.Query("admins") != "" {
		admins, err := r.QueryBool("admins", false)
		if err != nil {
			return nil, err
		}
		q.Admins = &admins
	}
	if q.Backwards, err = backwards(r); err != nil {
		return nil, err
	}
	found, total, err := s.o.Accounts.Search(ctx, r.Tenant.ID, q)
	if err != nil {
		return nil, err
	}
	erased, err := s.o.Rooms.Erased(ctx, r.Tenant.ID)
	if err != nil {
		return nil, err
	}
	reply := usersReply{Users: make([]entry, len(found)), Total: total}
	for i := range found {
		f := &found[i]
		reply.Users[i] = entryOf(&f.Account, f.DisplayName, f.AvatarURL, f.LastSeen)
		reply.Users[i].Erased = erased[f.User]
	}
	if next := q.From + len(found); int64(next) < total && len(found) > 0 {
		reply.Next = strconv.Itoa(next)
	}
	return reply, nil
}

// backwards reads dir: f or b.
func backwards(r *httpapi.Request) (bool, error) {
	switch r.Query("dir") {
	case "", "f":
		return false, nil
	case "b":
		return true, nil
	}
	return false, mxerror.InvalidParam.With("dir must be f or b")
}

func (s *Service) available(ctx context.Context, r *httpapi.Request) (any, error) {
	if r.Query("username") == "" {
		return nil, mxerror.MissingParam.With("Missing username")
	}
	return map[string]bool{"available": true}, s.o.Accounts.Available(ctx, r.Tenant, r.Query("username"))
}

func (s *Service) getUser(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	return s.details(ctx, r, a.User)
}

func (s *Service) details(ctx context.Context, r *httpapi.Request, user id.User) (*details, error) {
	found, _, err := s.o.Accounts.Search(ctx, r.Tenant.ID, account.Search{UserID: string(user), Guests: true, Deactivated: true, Locked: true, Limit: maxUsers})
	if err != nil {
		return nil, err
	}
	d := &details{Threepids: []threepid{}, ExternalIDs: []struct{}{}}
	for i := range found {
		if f := &found[i]; f.User == user {
			d.entry = entryOf(&f.Account, f.DisplayName, f.AvatarURL, f.LastSeen)
			d.Created /= 1000
			d.AppService = optional(f.AppService)
		}
	}
	erased, err := s.o.Rooms.Erased(ctx, r.Tenant.ID)
	if err != nil {
		return nil, err
	}
	d.Erased = erased[user]
	addresses, err := s.o.Accounts.Threepids(ctx, r.Tenant.ID, user)
	for _, a := range addresses {
		d.Threepids = append(d.Threepids, threepid{a.Medium, a.Address, a.Added, a.Validated})
	}
	return d, err
}

type userRequest struct {
	Password    *string        `json:"password"`
	Logout      *bool          `json:"logout_devices"`
	DisplayName jsontext.Value `json:"displayname"`
	AvatarURL   jsontext.Value `json:"avatar_url"`
	Admin       *bool          `json:"admin"`
	Deactivated *bool          `json:"deactivated"`
	Locked      *bool          `json:"locked"`
	Suspended   *bool          `json:"suspended"`
}

// putUser makes or changes an account.
func (s *Service) putUser(ctx context.Context, r *httpapi.Request) (any, error) {
	user, err := local(r)
	if err != nil {
		return nil, err
	}
	var q userRequest
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Password != nil {
		if err := s.o.Accounts.CheckNewPassword(*q.Password); err != nil {
			return nil, err
		}
	}
	a, err := s.o.Accounts.Account(ctx, r.Tenant.ID, user)
	status := 200
	if errors.Is(err, mxerror.NotFound) {
		n := account.NewUser{Localpart: user.Localpart()}
		if q.Password != nil {
			n.Password = *q.Password
		}
		status = 201
		if _, err = s.o.Accounts.Create(ctx, r.Tenant, n); err == nil {
			a, err = s.o.Accounts.Account(ctx, r.Tenant.ID, user)
		}
	} else if err == nil {
		err = s.changePassword(ctx, r, a, &q)
	}
	if err != nil {
		return nil, err
	}
	if err := s.change(ctx, r, a, &q); err != nil {
		return nil, err
	}
	d, err := s.details(ctx, r, user)
	return &httpapi.Reply{Status: status, Body: d}, err
}

func (s *Service) changePassword(ctx context.Context, r *httpapi.Request, a *account.Account, q *userRequest) error {
	if a.Deactivated && (q.Password != nil || q.Deactivated != nil && !*q.Deactivated) {
		return mxerror.Forbidden.With("A deactivated account stays so on this server")
	}
	if q.Password == nil {
		return nil
	}
	return s.setPassword(ctx, r, a.User, *q.Password, q.Logout)
}

func (s *Service) setPassword(ctx context.Context, r *httpapi.Request, user id.User, password string, logout *bool) error {
	if err := s.o.Accounts.SetPassword(ctx, r.Tenant, user, password); err != nil || logout != nil && !*logout {
		return err
	}
	return s.removeDevices(ctx, r, user)
}

func (s *Service) removeDevices(ctx context.Context, r *httpapi.Request, user id.User) error {
	devices, err := s.o.Accounts.Devices(ctx, r.Tenant.ID, user)
	if err != nil {
		return err
	}
	var gone []id.Device
	for _, d := range devices {
		if user != r.Session.User || d.ID != r.Session.Device { // the administrator goes on
			gone = append(gone, d.ID)
		}
	}
	return s.o.Accounts.RemoveDevices(ctx, r.Tenant, user, gone)
}

// change sets what the request names. An empty or null name takes it away.
func (s *Service) change(ctx context.Context, r *httpapi.Request, a *account.Account, q *userRequest) error {
	for field, value := range map[string]jsontext.Value{"displayname": q.DisplayName, "avatar_url": q.AvatarURL} {
		if value == nil {
			continue
		}
		if value.Kind() == 'n' {
			value = jsontext.Value(`""`)
		}
		if err := s.o.Accounts.ChangeProfileField(ctx, r.Tenant, a.User, field, value); err != nil {
			return err
		}
	}
	myself := a.User == r.Session.User
	if q.Admin != nil && *q.Admin != a.Admin {
		if myself {
			return mxerror.New(400, "M_UNKNOWN", "You may not demote yourself.")
		}
		if err := s.o.Accounts.SetAdmin(ctx, r.Tenant.ID, a.User, *q.Admin); err != nil {
			return err
		}
	}
	if q.Locked != nil && *q.Locked != a.Locked {
		if myself {
			return mxerror.New(400, "M_UNKNOWN", "You may not lock yourself.")
		}
		if err := s.o.Accounts.SetLocked(ctx, r.Tenant.ID, a.User, *q.Locked); err != nil {
			return err
		}
	}
	if q.Suspended != nil && *q.Suspended != a.Suspended {
		if err := s.o.Accounts.SetSuspended(ctx, r.Tenant.ID, a.User, *q.Suspended); err != nil {
			return err
		}
	}
	if q.Deactivated != nil && *q.Deactivated && !a.Deactivated {
		return s.o.Accounts.Deactivate(ctx, r.Tenant, a.User)
	}
	return nil
}

func (s *Service) deactivate(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Erase bool `json:"erase"`
	}
	if err := r.DecodeOptional(&q); err != nil {
		return nil, err
	}
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := s.o.Accounts.Deactivate(ctx, r.Tenant, a.User); err != nil {
		return nil, err
	}
	if q.Erase {
		if err := s.o.Accounts.Erase(ctx, r.Tenant, a.User); err != nil {
			return nil, err
		}
	}
	return map[string]string{"id_server_unbind_result": "success"}, nil
}

func (s *Service) resetPassword(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Password *string `json:"new_password"`
		Logout   *bool   `json:"logout_devices"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	if q.Password == nil {
		return nil, mxerror.MissingParam.With("Missing new_password")
	}
	if a.Deactivated {
		return nil, mxerror.Forbidden.With("A deactivated account stays so on this server")
	}
	if err := s.o.Accounts.CheckNewPassword(*q.Password); err != nil {
		return nil, err
	}
	return nil, s.setPassword(ctx, r, a.User, *q.Password, q.Logout)
}

func (s *Service) getAdmin(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"admin": a.Admin}, nil
}

func (s *Service) putAdmin(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Admin *bool `json:"admin"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Admin == nil {
		return nil, mxerror.MissingParam.With("Missing admin")
	}
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	return nil, s.change(ctx, r, a, &userRequest{Admin: q.Admin})
}

func (s *Service) suspend(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Suspend *bool `json:"suspend"`
	}
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	if q.Suspend == nil {
		return nil, mxerror.MissingParam.With("Missing suspend")
	}
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"user_" + string(a.User) + "_suspended": *q.Suspend}, s.o.Accounts.SetSuspended(ctx, r.Tenant.ID, a.User, *q.Suspend)
}

func (s *Service) loginAs(ctx context.Context, r *httpapi.Request) (any, error) {
	var q struct {
		Until *int64 `json:"valid_until_ms"`
	}
	if err := r.DecodeOptional(&q); err != nil {
		return nil, err
	}
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	if a.User == r.Session.User {
		return nil, mxerror.New(400, "M_UNKNOWN", "Cannot use admin API to login as self")
	}
	if a.Deactivated {
		return nil, mxerror.Forbidden.With("The account is deactivated")
	}
	var until time.Time
	if q.Until != nil {
		until = time.UnixMilli(*q.Until)
	}
	token, err := s.o.Accounts.LoginAs(ctx, r.Tenant, a.User, until)
	return map[string]string{"access_token": token}, err
}

func (s *Service) joinedRooms(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	joined, err := s.o.Rooms.JoinedRooms(ctx, r.Tenant.ID, a.User)
	rooms := make([]id.Room, len(joined))
	for i, in := range joined {
		rooms[i] = in.ID
	}
	return map[string]any{"joined_rooms": rooms, "total": len(rooms)}, err
}

func (s *Service) pushers(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	list, err := s.o.Push.Pushers(ctx, r.Tenant.ID, a.User)
	if list == nil {
		list = []push.Pusher{}
	}
	return map[string]any{"pushers": list, "total": len(list)}, err
}

// whois says where a user is signed in.
func (s *Service) whois(ctx context.Context, r *httpapi.Request) (any, error) {
	a, err := s.known(ctx, r)
	if err != nil {
		return nil, err
	}
	list, err := s.o.Accounts.Devices(ctx, r.Tenant.ID, a.User)
	devices := map[id.Device]any{}
	for _, d := range list {
		devices[d.ID] = map[string]any{"sessions": []any{map[string]any{"connections": []any{map[string]any{"ip": d.LastSeenIP, "last_seen": d.LastSeen}}}}}
	}
	return map[string]any{"user_id": a.User, "devices": devices}, err
}

// text reads a JSON text.
func text(raw jsontext.Value) string {
	var v string
	if json.Unmarshal(raw, &v) != nil {
		return ""
	}
	return v
}
