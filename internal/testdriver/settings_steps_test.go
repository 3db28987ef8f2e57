// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
)

// stateTypes are the suite's words for state events, with the key of their value.
var stateTypes = map[string][2]string{
	"ROOM_NAME": {"m.room.name", "name"}, "ROOM_TOPIC": {"m.room.topic", "topic"}, "TIM_ROOM_NAME": {"de.gematik.tim.room.name", "name"}, "TIM_ROOM_TOPIC": {"de.gematik.tim.room.topic", "topic"},
	"TIM_ROOM_TYPE": {"m.room.create", "type"},
}

const roomTypeDefault = "de.gematik.tim.roomtype.default.v1"

// state reads the values of a room's state events by the suite's words; a word that is not there has no value.
func (p *play) state(ctx context.Context, name, kind, where string) (map[string]string, error) {
	r, err := p.place(ctx, name, kind, where)
	if err != nil {
		return nil, err
	}
	var events []struct {
		Type    string `json:"type"`
		Content string `json:"content"`
	}
	if err := p.actors[name].do(ctx, http.MethodGet, "/rooms/"+r.ID+"/state", nil, &events); err != nil {
		return nil, err
	}
	values := map[string]string{}
	for _, e := range events {
		for word, t := range stateTypes {
			var content map[string]any
			if e.Type != t[0] {
				continue
			}
			if err := json.Unmarshal([]byte(e.Content), &content); err != nil {
				return nil, err
			}
			if value, ok := content[t[1]].(string); ok {
				values[word] = value
			}
		}
	}
	return values, nil
}

// property reads a property of a room as the suite calls them.
func (r chatRoom) property(name string) string {
	flag := func(b *bool) string {
		if b == nil {
			return ""
		}
		return fmt.Sprint(*b)
	}
	return map[string]string{"join_rule": r.JoinRule, "history_visibility": r.Visibility, "roomAccess": r.Access, "isEncrypted": flag(r.Encrypted), "m.federate": flag(r.Federated)}[name]
}

func (p *play) setProperty(ctx context.Context, name, key, kind, where, value string) error {
	at, err := p.place(ctx, name, kind, where)
	if err != nil {
		return err
	}
	a := p.actors[name]
	r, err := a.room(ctx, at.ID)
	if err != nil {
		return err
	}
	field, ok := map[string]*string{"join_rule": &r.JoinRule, "history_visibility": &r.Visibility, "roomAccess": &r.Access}[key]
	if !ok {
		return fmt.Errorf("the property %s cannot be set", key)
	}
	*field = value
	return a.do(ctx, http.MethodPut, "/rooms/"+r.ID, r, nil)
}

func (p *play) roomSettings() map[string]any {
	return map[string]any{
		`"([A-Z])" prüft, ob die Eigenschaft "([^"]*)" ` + inPlace + ` mit dem Wert "([^"]*)" befüllt ist`: func(ctx context.Context, name, key, kind, where, want string) error {
			at, err := p.place(ctx, name, kind, where)
			if err != nil {
				return err
			}
			r, err := p.actors[name].room(ctx, at.ID)
			if got := r.property(key); err == nil && got != want {
				err = fmt.Errorf("%s is %q", key, got)
			}
			return err
		},
		`"([A-Z])" setzt die Eigenschaft "([^"]*)" ` + inPlace + ` auf den Wert "([^"]*)"`: p.setProperty,
		`"([A-Z])" versucht die Eigenschaft "([^"]*)" ` + inPlace + ` auf den Wert "([^"]*)" zu setzen`: func(ctx context.Context, name, key, kind, where, value string) error {
			return p.try(p.setProperty(ctx, name, key, kind, where, value))
		},
		`"([A-Z])" prüft die Raumversion ` + inPlace + ` auf Version "([^"]*)"`: func(ctx context.Context, name, kind, where, want string) error {
			at, err := p.place(ctx, name, kind, where)
			if err != nil {
				return err
			}
			r, err := p.actors[name].room(ctx, at.ID)
			if err == nil && r.Version != want {
				err = fmt.Errorf("the version is %q", r.Version)
			}
			return err
		},
		`"([A-Z])" prüft den Room State ` + inPlace + ` auf "TIM_ROOM_TYPE"`: func(ctx context.Context, name, kind, where string) error {
			values, err := p.state(ctx, name, kind, where)
			if got := values["TIM_ROOM_TYPE"]; err == nil && got != roomTypeDefault {
				err = fmt.Errorf("the type is %q", got)
			}
			return err
		},
		`"([A-Z])" fragt die Room States ` + inPlace + ` ab`: func(ctx context.Context, name, kind, where string) error {
			_, err := p.state(ctx, name, kind, where)
			return err
		},
		`"([A-Z])" prüft, dass falls der Parameter "([^"]*)" in den Room States ` + inPlace + ` vorhanden ist, er mit dem Wert von "([^"]*)" befüllt ist`: func(ctx context.Context, name, one, kind, where, other string) error {
			return p.sameState(ctx, name, one, other, kind, where, false)
		},
		`"([A-Z])" prüft, ob der Parameter in den Room States "([^"]*)" ` + inPlace + ` mit dem Wert von "([^"]*)" befüllt ist`: func(ctx context.Context, name, one, kind, where, other string) error {
			return p.sameState(ctx, name, one, other, kind, where, true)
		},
		`"([A-Z])" prüft, ob die (?:Parameter in den )?Room States "([^"]*)" ` + inPlace + ` (?:vorhanden|befüllt) sind`: func(ctx context.Context, name, words, kind, where string) error {
			values, err := p.state(ctx, name, kind, where)
			if err != nil {
				return err
			}
			if i := slices.IndexFunc(strings.Split(words, ","), func(word string) bool { return values[word] == "" }); i >= 0 {
				return fmt.Errorf("%s is missing in %v", strings.Split(words, ",")[i], values)
			}
			return nil
		},
	}
}

func (p *play) sameState(ctx context.Context, name, one, other, kind, where string, must bool) error {
	values, err := p.state(ctx, name, kind, where)
	if err != nil {
		return err
	}
	value, there := values[one]
	if there != must && must || there && value != values[other] {
		return fmt.Errorf("%s is %q, %s is %q", one, value, other, values[other])
	}
	return nil
}
