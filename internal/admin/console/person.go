// SPDX-License-Identifier: Apache-2.0

package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/homeserver/room"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// ownRoom is a room of somebody, as it is told apart.
type ownRoom struct {
	ID      id.Room
	Name    string
	Members int
}

type personData struct {
	Person     *account.Account
	Name       string
	Devices    []account.Device
	Rooms      []ownRoom
	Colleagues []account.Found
	Second     bool
	Made       []newPerson
}

// person finds whom a request is about: somebody of this organisation.
func (v *view) person(user string) (*account.Account, error) {
	a, err := v.s.o.Accounts.Account(v.r.Context(), v.session.tenant.ID, id.User(user))
	if err == nil && a.Deactivated {
		err = mxerror.NotFound.With("no such user")
	}
	return a, err
}

func (s *Service) showPerson(v *view) error { return s.personPage(v, v.r.URL.Query().Get("user"), nil) }

func (s *Service) personPage(v *view, user string, made []newPerson) error {
	ctx, t := v.r.Context(), v.session.tenant
	a, err := v.person(user)
	if errors.Is(err, mxerror.NotFound) {
		v.errorPage(http.StatusNotFound, "nobody")
		return nil
	}
	if err != nil {
		return err
	}
	d := personData{Person: a, Made: made}
	p, err := s.o.Accounts.Profile(ctx, t.ID, a.User)
	if err != nil {
		return err
	}
	if d.Name = a.LoginName; p.DisplayName != nil && *p.DisplayName != "" {
		d.Name = *p.DisplayName
	}
	if d.Devices, err = s.o.Accounts.Devices(ctx, t.ID, a.User); err != nil {
		return err
	}
	if d.Second, err = s.o.Accounts.HasSecondFactor(ctx, t.ID, a.User); err != nil {
		return err
	}
	if d.Rooms, err = s.rooms(ctx, t.ID, a.User); err != nil {
		return err
	}
	all, _, err := s.o.Accounts.Search(ctx, t.ID, account.Search{Order: "displayname", Limit: maxPeople})
	if err != nil {
		return err
	}
	d.Colleagues = slices.DeleteFunc(all, func(f account.Found) bool { return f.User == a.User })
	return v.show("person", v.session.cookie, d)
}

// rooms are those that somebody is in and that are more than a conversation of two.
func (s *Service) rooms(ctx context.Context, t tenant.ID, user id.User) ([]ownRoom, error) {
	joined, err := s.o.Rooms.JoinedRooms(ctx, t, user)
	if err != nil {
		return nil, err
	}
	var list []ownRoom
	for _, r := range joined {
		state, err := s.o.Rooms.CurrentState(ctx, t, r)
		if err != nil {
			return nil, err
		}
		members, err := s.o.Rooms.JoinedUsers(ctx, t, r.NID)
		if err != nil {
			return nil, err
		}
		own := ownRoom{ID: r.ID, Members: len(members)}
		e, err := s.o.Rooms.StateEvent(ctx, t, state, event.Key{Type: "m.room.name"})
		if err != nil && !errors.Is(err, mxerror.NotFound) {
			return nil, err
		}
		if e != nil {
			var content struct {
				Name string `json:"name"`
			}
			_ = json.Unmarshal(e.Content(), &content) // whatever it is, it is no name then
			own.Name = content.Name
		}
		list = append(list, own)
	}
	return list, nil
}

// doPerson acts on one person.
func (s *Service) doPerson(v *view) error {
	ctx, t, user := v.r.Context(), v.session.tenant, v.form("user")
	a, err := v.person(user)
	if errors.Is(err, mxerror.NotFound) {
		v.errorPage(http.StatusNotFound, "nobody")
		return nil
	}
	if err != nil {
		return err
	}
	var made []newPerson
	action := v.form("do")
	switch action {
	case "password":
		p := newPerson{Login: a.LoginName, User: a.User, Password: oneTimePassword()}
		if err = s.o.Accounts.SetPassword(ctx, t, a.User, p.Password); err == nil {
			made = []newPerson{p}
		}
	case "second":
		err = s.o.Accounts.RemoveSecondFactor(ctx, t, a.User)
		if err == nil {
			err = s.endSessions(ctx, t.ID, a.User)
		}
	case "lock", "unlock":
		err = s.o.Accounts.SetLocked(ctx, t.ID, a.User, action == "lock")
	case "device":
		err = s.o.Accounts.RemoveDevices(ctx, t, a.User, []id.Device{id.Device(v.form("device"))})
	case "leave":
		return s.leave(v, a)
	default:
		return errStale
	}
	if err != nil {
		return err
	}
	if err := v.noted("person_"+action, user, v.form("device")); err != nil {
		return err
	}
	v.done = "done_" + action
	return s.personPage(v, user, made)
}

// leave is what happens when somebody leaves the organisation: the chosen rooms go to a colleague, the address goes off the directory, and the account
// ends with all its sessions and devices. What cannot be undone comes last: where an earlier step fails, it can be repeated.
func (s *Service) leave(v *view, a *account.Account) error {
	ctx, t := v.r.Context(), v.session.tenant
	if a.User == v.session.user {
		v.again(http.StatusBadRequest, "not_yourself")
		return s.personPage(v, string(a.User), nil)
	}
	if v.form("confirm") != a.LoginName {
		v.again(http.StatusBadRequest, "confirm_differs")
		return s.personPage(v, string(a.User), nil)
	}
	heir := id.User(v.form("heir"))
	handed := v.r.PostForm["room"]
	if len(handed) > 0 {
		if _, err := v.person(string(heir)); err != nil || heir == a.User {
			v.again(http.StatusBadRequest, "heir_needed")
			return s.personPage(v, string(a.User), nil)
		}
	}
	for _, r := range handed {
		if err := s.hand(ctx, t, id.Room(r), a.User, heir); err != nil {
			s.o.Log.Warn("console: a room could not be handed over", "error", err)
			v.again(http.StatusConflict, "room_not_handed")
			v.detail = r
			return s.personPage(v, string(a.User), nil)
		}
		if err := v.noted("room_handed", r, string(heir)); err != nil {
			return err
		}
	}
	if err := s.end(ctx, t, a.User); err != nil {
		return err
	}
	if err := v.noted("person_left", string(a.User), a.LoginName); err != nil {
		return err
	}
	return v.redirect(Prefix + "/")
}

// end takes somebody off the directory and ends the account.
func (s *Service) end(ctx context.Context, t *tenant.Tenant, user id.User) error {
	if owner, err := s.owner(ctx, t); err != nil {
		return err
	} else if owner != nil {
		if _, err := owner.Remove(ctx, user); err != nil {
			return err
		}
	}
	if err := s.endSessions(ctx, t.ID, user); err != nil {
		return err
	}
	return s.o.Accounts.Deactivate(ctx, t, user)
}

// hand makes a colleague a member of a room, with the power that the leaver has.
func (s *Service) hand(ctx context.Context, t *tenant.Tenant, in id.Room, from, to id.User) error {
	r, err := s.o.Rooms.Lookup(ctx, t.ID, in)
	if err != nil {
		return err
	}
	m, err := s.o.Rooms.Membership(ctx, t.ID, r.NID, to)
	if err != nil && !errors.Is(err, mxerror.NotFound) {
		return err
	}
	if m.Membership != "join" {
		if m.Membership != "invite" {
			if err := s.o.Rooms.Invite(ctx, t, in, from, to, "", false); err != nil {
				return fmt.Errorf("invite: %w", err)
			}
		}
		if err := s.o.Rooms.Join(ctx, t, to, in, nil, ""); err != nil {
			return fmt.Errorf("join: %w", err)
		}
	}
	return s.raise(ctx, t, r, from, to)
}

// raise gives a member the power of another one, as far as that one may.
func (s *Service) raise(ctx context.Context, t *tenant.Tenant, r *room.Room, from, to id.User) error {
	state, err := s.o.Rooms.CurrentState(ctx, t.ID, r)
	if err != nil {
		return err
	}
	levels, err := s.o.Rooms.PowerLevels(ctx, t.ID, state)
	if err != nil || levels.User(to) >= levels.User(from) {
		return err
	}
	e, err := s.o.Rooms.StateEvent(ctx, t.ID, state, event.Key{Type: "m.room.power_levels"})
	if err != nil || e == nil {
		return err
	}
	var content map[string]jsontext.Value
	if err := json.Unmarshal(e.Content(), &content); err != nil {
		return err
	}
	users := map[string]int64{}
	if raw, ok := content["users"]; ok {
		if err := json.Unmarshal(raw, &users); err != nil {
			return err
		}
	}
	users[string(to)] = min(int64(levels.User(from)), 100)
	if content["users"], err = json.Marshal(users); err != nil {
		return err
	}
	raw, err := json.Marshal(content, json.Deterministic(true))
	if err != nil {
		return err
	}
	empty := ""
	_, err = s.o.Rooms.Send(ctx, t, room.Draft{Room: r.ID, Sender: from, Type: "m.room.power_levels", StateKey: &empty, Content: raw})
	return err
}
