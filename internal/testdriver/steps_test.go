// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/cucumber/godog"
)

// play is one scenario on its way.
type play struct {
	country *country
	number  int
	actors  map[string]*actor
	order   []*actor
	cleaned map[string]bool
	rooms   map[string]string // ids by the scenario's names
	servers map[string]string // homeservers that were asked for, by the scenario's names
	entries map[string]string // ids of HealthcareServices by the scenario's names
	deleted string            // id of the last HealthcareService that was deleted
	status  int               // of the last attempt
	answer  []byte
	media   note // the last attachment that was sent
}

// names is a list of one or more actors in a step.
const names = `((?:"[A-Z]", )*"[A-Z]")`

// steps registers all steps for one scenario.
func (c *country) steps(sc *godog.ScenarioContext) {
	played++
	p := &play{country: c, number: played, actors: map[string]*actor{}, cleaned: map[string]bool{}, rooms: map[string]string{}, servers: map[string]string{}, entries: map[string]string{}}
	for _, group := range []map[string]any{p.reservation(), p.permissions(), p.invitations(), p.writing(), p.roomSettings(), p.looking(), p.administration(), p.interfaces()} {
		for pattern, do := range group {
			sc.Step("^"+pattern+"$", do)
		}
	}
	sc.After(func(ctx context.Context, _ *godog.Scenario, err error) (context.Context, error) {
		return ctx, errors.Join(err, p.end(ctx))
	})
}

// played counts scenarios, for names that nobody else has.
var played int

// retry is how the suite writes that it looks more than once whether something is gone.
const retry = ` \[Retry \d+ - \d+\]`

func (p *play) reservation() map[string]any {
	return map[string]any{
		`Es werden folgende Clients reserviert:`: p.reserve,
		`"([A-Z])" reserviert ein Client und meldet sich mit den Daten von "([A-Z])" an der Schnittstelle (\S+) an`: p.reserveAs,
		`"([A-Z])" loggt sich im TI-Messenger aus`:           p.signOut,
		`"([A-Z])" loggt sich im TI-Messenger ein`:           p.signIn,
		`"([A-Z])" exportiert seinen Session-Key`:            p.exportKey,
		`"([A-Z])" importiert den Session-Key von "([A-Z])"`: p.importKey,
		`ist das Login für "([A-Z])" erfolgreich`:            p.signedIn,
	}
}

func (p *play) api(name string) (*api, error) {
	i := slices.IndexFunc(p.country.apis, func(a *api) bool { return a.name == name })
	if i < 0 {
		return nil, fmt.Errorf("there is no interface %s", name)
	}
	return p.country.apis[i], nil
}

// clean tells a driver that a test begins, once per scenario and before anything is claimed there.
func (p *play) clean(ctx context.Context, a *api) error {
	if p.cleaned[a.name] {
		return nil
	}
	p.cleaned[a.name] = true
	return a.call(ctx, http.MethodPost, "/", nil, nil)
}

func (p *play) reserve(ctx context.Context, table *godog.Table) error {
	for _, r := range table.Rows {
		a, err := p.api(r.Cells[2].Value)
		if err != nil {
			return err
		}
		if err := p.clean(ctx, a); err != nil {
			return err
		}
	}
	for _, r := range table.Rows {
		a, _ := p.api(r.Cells[2].Value)
		who, err := p.add(ctx, r.Cells[0].Value, a)
		if err == nil {
			err = who.login(ctx, nil)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.Cells[0].Value, err)
		}
	}
	return nil
}

func (p *play) add(ctx context.Context, name string, a *api) (*actor, error) {
	who, err := a.claim(ctx, "gematik "+name)
	if who != nil {
		p.actors[name] = who
		p.order = append(p.order, who)
	}
	return who, err
}

func (p *play) reserveAs(ctx context.Context, name, like, on string) error {
	a, err := p.api(on)
	if err != nil {
		return err
	}
	if err := p.clean(ctx, a); err != nil {
		return err
	}
	who, err := p.add(ctx, name, a)
	if err != nil {
		return err
	}
	other := p.actors[like]
	return who.login(ctx, map[string]any{"authStage": "basicAuth", "username": other.account.Username, "password": other.account.Password})
}

// end gives the devices back; what was left is cleaned up at the next test's start.
func (p *play) end(ctx context.Context) error {
	var errs []error
	for _, who := range p.order {
		errs = append(errs, who.do(ctx, http.MethodPost, "/unclaim", nil, nil))
	}
	return errors.Join(errs...)
}

func (p *play) signOut(ctx context.Context, name string) error {
	return p.actors[name].do(ctx, http.MethodPost, "/logout", nil, nil)
}

func (p *play) signIn(ctx context.Context, name string) error {
	return p.actors[name].login(ctx, nil)
}

func (p *play) signedIn(name string) error {
	if a := p.actors[name].account; a.Token == "" || !strings.HasSuffix(a.User, ":"+p.actors[name].homeserver) {
		return fmt.Errorf("signed in as %q", a.User)
	}
	return nil
}

func (p *play) exportKey(ctx context.Context, name string) error {
	var got struct {
		Key string `json:"key"`
	}
	err := p.actors[name].do(ctx, http.MethodGet, "/account/key", nil, &got)
	p.actors[name].key = got.Key
	return err
}

func (p *play) importKey(ctx context.Context, name, from string) error {
	other := p.actors[from]
	return p.actors[name].do(ctx, http.MethodPost, "/account/key", map[string]any{"mxId": person{User: other.account.User}, "key": other.key}, nil)
}

// try does what may be refused; the next step says what must have come of it.
func (p *play) try(err error) error {
	p.status = http.StatusOK
	var r *refused
	if errors.As(err, &r) {
		p.status, p.answer = r.status, []byte(r.text)
		return nil
	}
	return err
}

// noted keeps the status of an answer for a step that asks for it.
func (p *play) noted(name string, err error) error {
	p.status = p.actors[name].status
	return err
}

func (p *play) permissions() map[string]any {
	const listed = `(Block|Allow)liste`
	return map[string]any{
		names + ` (?:setzt|setzen) den eigenen Authorization Mode auf "(\w+)"`: p.setMode,
		`"([A-Z])" prüft, ob der eigene Authorization Mode auf "(\w+)" gesetzt ist`: func(ctx context.Context, name, want string) error {
			var mode string
			if err := p.actors[name].do(ctx, http.MethodGet, "/authorizationMode", nil, &mode); err != nil || mode != want {
				return fmt.Errorf("the mode is %q (%w)", mode, err)
			}
			return nil
		},
		`"([A-Z])" hinterlegt die User ` + names + ` in der ` + listed: func(ctx context.Context, name, users, list string) error {
			return p.list(ctx, http.MethodPost, name, list, p.usersOf(users))
		},
		`"([A-Z])" entfernt die User ` + names + ` in der ` + listed: func(ctx context.Context, name, users, list string) error {
			return p.list(ctx, http.MethodDelete, name, list, p.usersOf(users))
		},
		`"([A-Z])" versucht (?:die )?User ` + names + ` in der ` + listed + ` (?:erneut )?zu (hinterlegen|entfernen)`: func(ctx context.Context, name, users, list, what string) error {
			return p.try(p.list(ctx, writing[what], name, list, p.usersOf(users)))
		},
		`"([A-Z])" hinterlegt den Server-Namen von "([A-Z])" in der ` + listed: func(ctx context.Context, name, of, list string) error {
			return p.list(ctx, http.MethodPost, name, list, p.serverOf(of))
		},
		`"([A-Z])" entfernt den Server-Namen von "([A-Z])" in der ` + listed: func(ctx context.Context, name, of, list string) error {
			return p.list(ctx, http.MethodDelete, name, list, p.serverOf(of))
		},
		`"([A-Z])" versucht den Server-Namen von "([A-Z])" in der ` + listed + ` zu (hinterlegen|entfernen)`: func(ctx context.Context, name, of, list, what string) error {
			return p.try(p.list(ctx, writing[what], name, list, p.serverOf(of)))
		},
		`"([A-Z])" hinterlegt die Gruppe "Versicherte" in der ` + listed: func(ctx context.Context, name, list string) error {
			return p.noted(name, p.list(ctx, http.MethodPost, name, list, insured))
		},
		`"([A-Z])" entfernt die Gruppe "Versicherte" aus der ` + listed: func(ctx context.Context, name, list string) error {
			return p.noted(name, p.list(ctx, http.MethodDelete, name, list, insured))
		},
		`"([A-Z])" prüft, dass die Gruppe "Versicherte" in der ` + listed + `( nicht)? gesetzt ist`: func(ctx context.Context, name, list, not string) error {
			return p.inList(ctx, name, list, not == "", insured)
		},
		`"([A-Z])" prüft, ob User ` + names + ` in der ` + listed + ` gesetzt ist`: func(ctx context.Context, name, users, list string) error {
			return p.inList(ctx, name, list, true, p.usersOf(users))
		},
		`"([A-Z])" prüft, ob der Server-Name von "([A-Z])" in der ` + listed + ` gesetzt ist`: func(ctx context.Context, name, of, list string) error {
			return p.inList(ctx, name, list, true, p.serverOf(of))
		},
		`"([A-Z])" findet "([A-Z])" nicht mehr in seiner ` + listed: func(ctx context.Context, name, of, list string) error {
			return p.inList(ctx, name, list, false, p.usersOf(`"`+of+`"`))
		},
	}
}

var writing = map[string]string{"hinterlegen": http.MethodPost, "entfernen": http.MethodDelete}

// authorization is a list of the permission configuration.
type authorization struct {
	Users   []person            `json:"mxids"`
	Servers []map[string]string `json:"serverNames"`
	Groups  []string            `json:"groupNames"`
}

var insured = authorization{Users: []person{}, Servers: []map[string]string{}, Groups: []string{"isInsuredPerson"}}

func (p *play) usersOf(list string) authorization {
	a := authorization{Users: []person{}, Servers: []map[string]string{}, Groups: []string{}}
	for _, name := range quoted(list) {
		a.Users = append(a.Users, person{User: p.actors[name].account.User})
	}
	return a
}

func (p *play) serverOf(name string) authorization {
	return authorization{Users: []person{}, Servers: []map[string]string{{"serverName": p.actors[name].homeserver}}, Groups: []string{}}
}

func listPath(list string) string {
	return map[string]string{"Block": "/blockedUsers", "Allow": "/allowedUsers"}[list]
}

func (p *play) list(ctx context.Context, method, name, list string, a authorization) error {
	return p.actors[name].do(ctx, method, listPath(list), a, nil)
}

func (p *play) inList(ctx context.Context, name, list string, want bool, a authorization) error {
	var got authorization
	if err := p.actors[name].do(ctx, http.MethodGet, listPath(list), nil, &got); err != nil {
		return err
	}
	has := true
	for _, u := range a.Users {
		n := 0
		for _, g := range got.Users {
			if g.User == u.User {
				n++
			}
		}
		if n > 1 {
			return fmt.Errorf("%s stands there %d times", u.User, n)
		}
		has = has && n == 1
	}
	for _, s := range a.Servers {
		has = has && slices.ContainsFunc(got.Servers, func(g map[string]string) bool { return g["serverName"] == s["serverName"] })
	}
	for _, g := range a.Groups {
		has = has && slices.Contains(got.Groups, g)
	}
	if has != want {
		return fmt.Errorf("the list is %+v", got)
	}
	return nil
}

func (p *play) setMode(ctx context.Context, list, mode string) error {
	for _, name := range quoted(list) {
		if err := p.actors[name].do(ctx, http.MethodPost, "/authorizationMode", mode, nil); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// compile checks at the start that all patterns are regular expressions of the kind that godog takes.
var _ = regexp.MustCompile(names)
