// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// place finds a room of a step: by its name in the scenario, or the chat with somebody.
func (p *play) place(ctx context.Context, name, kind, where string) (chatRoom, error) {
	if kind == "Raum" {
		roomID, ok := p.rooms[where]
		if !ok {
			return chatRoom{}, fmt.Errorf("nobody has made the room %q", where)
		}
		return chatRoom{ID: roomID}, nil
	}
	all, err := p.actors[name].chats(ctx, p.actors[where].account.User)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("%s has no chat with %s", name, where)
	}
	if err != nil {
		return chatRoom{}, err
	}
	return all[0], nil
}

// inPlace matches both ways to name a room.
const inPlace = `(?:im |den |in |aus dem |für )?(?:Chat-)?(Raum|Chat mit) "([^"]*)"`

// invitation finds an invitation by somebody; an empty room takes any, chats first.
func (p *play) invitation(ctx context.Context, name, from, roomID string) (string, error) {
	a := p.actors[name]
	all, err := a.rooms(ctx)
	slices.SortStableFunc(all, func(x, y chatRoom) int { return min(len(x.Name), 1) - min(len(y.Name), 1) })
	for _, r := range all {
		if r.membership(a.account.User) == "invite" && r.membership(p.actors[from].account.User) != "" && (roomID == "" || r.ID == roomID) {
			return r.ID, nil
		}
	}
	return "", err
}

func (p *play) invited(ctx context.Context, name, from, roomID string) (found string, err error) {
	return found, eventually(ctx, "an invitation", func() (bool, error) {
		found, err = p.invitation(ctx, name, from, roomID)
		return found != "", err
	})
}

func (p *play) notInvited(ctx context.Context, name, from, roomID string) error {
	found, err := p.invitation(ctx, name, from, roomID)
	if found != "" {
		err = fmt.Errorf("invited to %s", found)
	}
	return err
}

func (p *play) accept(ctx context.Context, name, from, roomID string) error {
	found, err := p.invited(ctx, name, from, roomID)
	if err != nil {
		return err
	}
	if err := p.actors[name].do(ctx, http.MethodPost, "/rooms/"+found+"/join", nil, nil); err != nil {
		return err
	}
	return p.seen(ctx, found, p.actors[name].account.User, "join")
}

func (p *play) decline(ctx context.Context, name, from, roomID string) error {
	found, err := p.invited(ctx, name, from, roomID)
	if err != nil {
		return err
	}
	return p.actors[name].do(ctx, http.MethodPost, "/rooms/"+found+"/leave", nil, nil)
}

func (p *play) invite(ctx context.Context, name, user, roomID string) error {
	if err := p.actors[name].do(ctx, http.MethodPost, "/rooms/"+roomID+"/invite", []person{{User: user}}, nil); err != nil {
		return err
	}
	return p.seen(ctx, roomID, user, "invite", "join")
}

// seen waits until the people in a room see somebody's membership: the scenarios are written for people, who look before they write on.
func (p *play) seen(ctx context.Context, roomID, user string, memberships ...string) error {
	for _, a := range p.order {
		r, err := a.room(ctx, roomID)
		if err != nil || r.membership(a.account.User) != "join" {
			continue // signed out, or not in the room
		}
		if err := eventually(ctx, "the membership of "+user+" at "+a.account.User, func() (bool, error) {
			r, err := a.room(ctx, roomID)
			return slices.Contains(memberships, r.membership(user)), err
		}); err != nil {
			return err
		}
	}
	return nil
}

// create makes a room and remembers it under the scenario's name.
func (p *play) create(ctx context.Context, name, room string, wanted map[string]any) error {
	wanted["name"] = fmt.Sprintf("%s/%d", room, p.number)
	var made chatRoom
	err := p.actors[name].do(ctx, http.MethodPost, "/rooms", wanted, &made)
	p.rooms[room] = made.ID
	return err
}

func (p *play) joined(ctx context.Context, name, roomID string) error {
	a := p.actors[name]
	return eventually(ctx, "the membership", func() (bool, error) {
		r, err := a.room(ctx, roomID)
		return r.membership(a.account.User) == "join", err
	})
}

func (p *play) invitations() map[string]any {
	return map[string]any{
		`"([A-Z])" erhält eine Einladung von "([A-Z])"`: func(ctx context.Context, name, from string) error {
			_, err := p.invited(ctx, name, from, "")
			return err
		},
		`"([A-Z])" erhält eine Einladung in Raum "([^"]*)" von "([A-Z])"`: func(ctx context.Context, name, room, from string) error {
			_, err := p.invited(ctx, name, from, p.rooms[room])
			return err
		},
		`"([A-Z])" bestätigt eine Einladung von "([A-Z])"`: func(ctx context.Context, name, from string) error {
			return p.accept(ctx, name, from, "")
		},
		`"([A-Z])" bestätigt eine Einladung in Raum "([^"]*)" von "([A-Z])"`: func(ctx context.Context, name, room, from string) error {
			return p.accept(ctx, name, from, p.rooms[room])
		},
		`"([A-Z])" erhält KEINE Einladung von "([A-Z])"` + retry: func(ctx context.Context, name, from string) error {
			return p.notInvited(ctx, name, from, "")
		},
		`"([A-Z])" erhält KEINE Einladung von "([A-Z])" für den Raum "([^"]*)"` + retry: func(ctx context.Context, name, from, room string) error {
			return p.notInvited(ctx, name, from, p.rooms[room])
		},
		`"([A-Z])" lehnt eine Einladung zum Chat mit "([A-Z])" ab`: func(ctx context.Context, name, from string) error {
			return p.decline(ctx, name, from, "")
		},
		`"([A-Z])" lehnt eine Einladung von "([A-Z])" für Raum "([^"]*)" ab`: func(ctx context.Context, name, from, room string) error {
			return p.decline(ctx, name, from, p.rooms[room])
		},
		`"([A-Z])" lädt "([A-Z])" ` + inPlace + ` ein`: func(ctx context.Context, name, whom, kind, where string) error {
			r, err := p.place(ctx, name, kind, where)
			if err != nil {
				return err
			}
			return p.invite(ctx, name, p.actors[whom].account.User, r.ID)
		},
		`"([A-Z])" versucht "([A-Z])" ` + inPlace + ` einzuladen`: func(ctx context.Context, name, whom, kind, where string) error {
			r, err := p.place(ctx, name, kind, where)
			if err != nil {
				return err
			}
			return p.try(p.invite(ctx, name, p.actors[whom].account.User, r.ID))
		},
		`"([A-Z])" versucht die MXID "([^"]*)" in den Chat-Raum "([^"]*)" einzuladen`: func(ctx context.Context, name, user, room string) error {
			return p.try(p.invite(ctx, name, user, p.rooms[room]))
		},
		`"([A-Z])" erstellt einen Chat-Raum "([^"]*)"( inkl\. Topic)?`: func(ctx context.Context, name, room, topic string) error {
			wanted := map[string]any{}
			if topic != "" {
				wanted["theme"] = "Thema von " + room
			}
			return p.create(ctx, name, room, wanted)
		},
		`"([A-Z])" erstellt einen öffentlichen Chat-Raum "([^"]*)"`: func(ctx context.Context, name, room string) error {
			return p.create(ctx, name, room, map[string]any{"roomAccess": "public"})
		},
		`"([A-Z])" versucht einen öffentlichen Chat-Raum "([^"]*)" zu erstellen`: func(ctx context.Context, name, room string) error {
			return p.try(p.create(ctx, name, room, map[string]any{"roomAccess": "public"}))
		},
		`"([A-Z])" versucht einen Chat-Raum "([^"]*)" mit den Eigenschaften privat und unverschlüsselt zu erstellen`: func(ctx context.Context, name, room string) error {
			return p.try(p.create(ctx, name, room, map[string]any{"roomAccess": "private", "isEncrypted": false}))
		},
		`"([A-Z])" betritt den Raum "([^"]*)"`: func(ctx context.Context, name, room string) error {
			return p.actors[name].do(ctx, http.MethodPost, "/rooms/"+p.rooms[room]+"/join", nil, nil)
		},
		`"([A-Z])" ist dem Raum "([^"]*)" beigetreten`: func(ctx context.Context, name, room string) error {
			return p.joined(ctx, name, p.rooms[room])
		},
		`"([A-Z])" ist dem Raum "([^"]*)" nicht beigetreten` + retry: func(ctx context.Context, name, room string) error {
			all, err := p.actors[name].rooms(ctx)
			return p.without(err, all, name, func(r chatRoom) bool { return r.ID == p.rooms[room] })
		},
		`"([A-Z])" ist dem Chat mit ` + names + ` beigetreten`: func(ctx context.Context, name, with string) error {
			return eventually(ctx, "the chat", func() (bool, error) {
				all, err := p.actors[name].chats(ctx, p.usersNamed(with)...)
				return slices.ContainsFunc(all, func(r chatRoom) bool { return r.membership(p.actors[name].account.User) == "join" }), err
			})
		},
		`"([A-Z])" ist dem Chat mit "([A-Z])" nicht beigetreten` + retry: func(ctx context.Context, name, with string) error {
			all, err := p.actors[name].chats(ctx, p.actors[with].account.User)
			return p.without(err, all, name, func(chatRoom) bool { return true })
		},
		`"([A-Z])" (verlässt|vergisst|verlässt und vergisst) ` + inPlace: p.depart,
		`"([A-Z])" bestätigt, dass "([A-Z])" den (?:Chat-Raum|Raum "([^"]*)") verlassen hat`: func(ctx context.Context, name, who, room string) error {
			left := p.actors[who].account.User
			return eventually(ctx, "the other's leaving", func() (bool, error) {
				if room != "" {
					r, err := p.actors[name].room(ctx, p.rooms[room])
					return r.membership(left) == "leave", err
				}
				all, err := p.actors[name].chats(ctx, left)
				return slices.ContainsFunc(all, func(r chatRoom) bool { return r.membership(left) == "leave" }), err
			})
		},
		`"([A-Z])" findet den (?:öffentlichen )?Raum "([^"]*)"`: func(ctx context.Context, name, room string) error {
			return eventually(ctx, "the room", func() (bool, error) { return p.sees(ctx, name, room) })
		},
		`"([A-Z])" findet den Raum "([^"]*)" nicht` + retry:           p.seesNot,
		`"([A-Z])" kann den öffentlichen Raum "([^"]*)" nicht finden`: p.seesNot,
		`"([A-Z])" findet Chat mit "([A-Z])"`: func(ctx context.Context, name, with string) error {
			_, err := p.place(ctx, name, "Chat mit", with)
			return err
		},
		`"([A-Z])" findet Chat mit "([A-Z])" nicht` + retry: func(ctx context.Context, name, with string) error {
			all, err := p.actors[name].chats(ctx, p.actors[with].account.User)
			if err == nil && len(all) > 0 {
				err = errors.New("there it is")
			}
			return err
		},
	}
}

func (p *play) usersNamed(list string) []string {
	var all []string
	for _, name := range quoted(list) {
		all = append(all, p.actors[name].account.User)
	}
	return all
}

// without holds when somebody is in none of some rooms.
func (p *play) without(err error, all []chatRoom, name string, which func(chatRoom) bool) error {
	for _, r := range all {
		if s := r.membership(p.actors[name].account.User); which(r) && (s == "join" || s == "invite") {
			return fmt.Errorf("%s in %s", s, r.ID)
		}
	}
	return err
}

func (p *play) sees(ctx context.Context, name, room string) (bool, error) {
	all, err := p.actors[name].rooms(ctx)
	return slices.ContainsFunc(all, func(r chatRoom) bool { return r.ID == p.rooms[room] }), err
}

func (p *play) seesNot(ctx context.Context, name, room string) error {
	found, err := p.sees(ctx, name, room)
	if found {
		err = errors.New("there it is")
	}
	return err
}

// depart leaves or forgets a room, or both.
func (p *play) depart(ctx context.Context, name, how, kind, where string) error {
	r, err := p.place(ctx, name, kind, where)
	if err == nil && how != "vergisst" {
		err = p.actors[name].do(ctx, http.MethodPost, "/rooms/"+r.ID+"/leave", nil, nil)
	}
	if err == nil && how != "verlässt" {
		err = p.actors[name].do(ctx, http.MethodDelete, "/rooms/"+r.ID, nil, nil)
	}
	return err
}
