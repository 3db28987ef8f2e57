// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"maunium.net/go/mautrix"
)

// The account data of the permission configuration and its settings (A_25043), as clients write them.
const (
	configPro = "de.gematik.tim.account.permissionconfig.pro.v1"
	configEPA = "de.gematik.tim.account.permissionconfig.epa.v1"
)

// settings are the two modes by their names in the interface.
var settings = map[string]string{"AllowAll": "allow all", "BlockAll": "block all"}

// permissions is the permission configuration.
type permissions struct {
	Default string                    `json:"defaultSetting"`
	Users   map[string]jsontext.Value `json:"userExceptions,omitempty"`
	Servers map[string]jsontext.Value `json:"serverExceptions,omitempty"`
	Groups  []struct {
		Name string `json:"groupName"`
	} `json:"groupExceptions,omitempty"`
}

// authorizationList is a list of the interface.
type authorizationList struct {
	Users   []user   `json:"mxids"`
	Servers []server `json:"serverNames"`
	Groups  []string `json:"groupNames"`
}

type user struct {
	ID string `json:"mxid"`
}

type server struct {
	Name string `json:"serverName"`
}

var authorizationOperations = map[string]operation{
	"GET /authorizationMode":  {status: http.StatusOK, signedIn: true, do: readMode},
	"POST /authorizationMode": {status: http.StatusOK, signedIn: true, do: writeMode},
	"GET /allowedUsers":       {status: http.StatusOK, signedIn: true, do: readList("BlockAll")},
	"POST /allowedUsers":      {status: http.StatusOK, signedIn: true, do: writeList("BlockAll", true)},
	"DELETE /allowedUsers":    {status: http.StatusNoContent, signedIn: true, do: writeList("BlockAll", false)},
	"GET /blockedUsers":       {status: http.StatusOK, signedIn: true, do: readList("AllowAll")},
	"POST /blockedUsers":      {status: http.StatusOK, signedIn: true, do: writeList("AllowAll", true)},
	"DELETE /blockedUsers":    {status: http.StatusNoContent, signedIn: true, do: writeList("AllowAll", false)},
}

func (v *device) configType() string {
	if v.driver.o.Insurance {
		return configEPA
	}
	return configPro
}

// permissions reads the configuration; an account that has none yet has that of a new client, which lets nobody in.
func (v *device) permissions(ctx context.Context) (permissions, error) {
	p := permissions{Default: settings["BlockAll"]}
	var raw jsontext.Value
	err := v.client.Client.GetAccountData(ctx, v.configType(), &raw)
	if errors.Is(err, mautrix.MNotFound) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &p)
	}
	return p, err
}

func (v *device) setPermissions(ctx context.Context, p permissions) error {
	raw, err := json.Marshal(p, json.Deterministic(true))
	if err != nil {
		return err
	}
	return v.client.Client.SetAccountData(ctx, v.configType(), jsontext.Value(raw))
}

func (v *device) resetPermissions(ctx context.Context) error {
	return v.setPermissions(ctx, permissions{Default: settings["BlockAll"]})
}

func (p permissions) mode() string {
	for name, setting := range settings {
		if setting == p.Default {
			return name
		}
	}
	return ""
}

func readMode(ctx context.Context, v *device, _ *http.Request) (any, error) {
	p, err := v.permissions(ctx)
	return p.mode(), err
}

// writeMode changes the default; the exceptions belong to the old one and go.
func writeMode(ctx context.Context, v *device, r *http.Request) (any, error) {
	var mode string
	if err := body(r, &mode); err != nil {
		return nil, err
	}
	if settings[mode] == "" {
		return nil, fail(http.StatusBadRequest, "MODE", "the mode is AllowAll or BlockAll")
	}
	p, err := v.permissions(ctx)
	if err != nil {
		return nil, err
	}
	if p.Default != settings[mode] {
		p = permissions{Default: settings[mode]}
	}
	return mode, v.setPermissions(ctx, p)
}

func (p permissions) list() authorizationList {
	l := authorizationList{Users: []user{}, Servers: []server{}, Groups: []string{}}
	for name := range p.Users {
		l.Users = append(l.Users, user{name})
	}
	for name := range p.Servers {
		l.Servers = append(l.Servers, server{name})
	}
	for _, g := range p.Groups {
		l.Groups = append(l.Groups, g.Name)
	}
	return l
}

// mine reads the configuration when its mode has the list that is asked for.
func (v *device) mine(ctx context.Context, mode string) (permissions, error) {
	p, err := v.permissions(ctx)
	if err == nil && p.mode() != mode {
		err = fail(http.StatusForbidden, "MODE", "the mode is %s", p.mode())
	}
	return p, err
}

func readList(mode string) func(context.Context, *device, *http.Request) (any, error) {
	return func(ctx context.Context, v *device, _ *http.Request) (any, error) {
		p, err := v.mine(ctx, mode)
		return p.list(), err
	}
}

// writeList adds to a list or takes away from it. Twice is once; what is not there cannot be taken away twice either.
func writeList(mode string, add bool) func(context.Context, *device, *http.Request) (any, error) {
	return func(ctx context.Context, v *device, r *http.Request) (any, error) {
		var l authorizationList
		if err := body(r, &l); err != nil {
			return nil, err
		}
		p, err := v.mine(ctx, mode)
		if err != nil {
			return nil, err
		}
		for _, u := range l.Users {
			p.Users = except(p.Users, u.ID, add)
		}
		for _, s := range l.Servers {
			p.Servers = except(p.Servers, s.Name, add)
		}
		for _, g := range l.Groups {
			p.group(g, add)
		}
		if err := v.setPermissions(ctx, p); err != nil || !add {
			return nil, err
		}
		return p.list(), nil
	}
}

func except(all map[string]jsontext.Value, name string, add bool) map[string]jsontext.Value {
	if all == nil {
		all = map[string]jsontext.Value{}
	}
	if add {
		all[name] = jsontext.Value("{}")
	} else {
		delete(all, name)
	}
	return all
}

func (p *permissions) group(name string, add bool) {
	p.Groups = slices.DeleteFunc(p.Groups, func(g struct {
		Name string `json:"groupName"`
	}) bool {
		return g.Name == name
	})
	if add {
		p.Groups = append(p.Groups, struct {
			Name string `json:"groupName"`
		}{name})
	}
}
