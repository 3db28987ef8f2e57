// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
)

// ask sends a request to a homeserver itself, beside the driver, as the suite does.
func (p *play) ask(ctx context.Context, name, method, path, token string) error {
	homeserver := p.servers[name]
	if a := p.actors[name]; homeserver == "" && a != nil {
		homeserver = a.homeserver
	}
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("{}")
	}
	req, err := http.NewRequestWithContext(ctx, method, p.country.URL+path, body)
	if err != nil {
		return err
	}
	req.Host = homeserver
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	p.status = res.StatusCode
	p.answer, err = io.ReadAll(res.Body)
	return err
}

// askWith is ask with the access token where the step says so.
func (p *play) askWith(ctx context.Context, name, with, path, method string) error {
	token := ""
	if with != "" {
		token = p.actors[name].account.Token
	}
	return p.ask(ctx, name, method, path, token)
}

func (p *play) interfaces() map[string]any {
	return map[string]any{
		`erhält "([A-Z])" einen Responsecode (\d+)`: func(_ string, want int) error {
			return must(p.status == want, nil, fmt.Sprintf("%d %.300s", p.status, p.answer))
		},
		`erhält "([A-Z])" einen der Responsecodes "(\d+)", "(\d+)"`: func(_ string, one, other int) error {
			return must(p.status == one || p.status == other, nil, fmt.Sprintf("%d %.300s", p.status, p.answer))
		},
		`"([A-Z])" überprüft, dass die Response befüllt ist`: func(string) error {
			var content map[string]any
			return errors.Join(json.Unmarshal(p.answer, &content), must(len(content) > 0, nil, "it is empty"))
		},
		`"([A-Z])" Informationen über den Testtreiber anfragt`: func(ctx context.Context, name string) error {
			return p.actors[name].call(ctx, http.MethodGet, "/", nil, &p.answer)
		},
		`werden Informationen über den Testtreiber an "([A-Z])" zurückgegeben`: func(name string) error {
			var info struct {
				Homeserver string `json:"homeserver"`
			}
			return errors.Join(json.Unmarshal(p.answer, &info), must(info.Homeserver == p.actors[name].homeserver, nil, string(p.answer)))
		},
		`die Liste der Geräte abgerufen wird`: func(ctx context.Context) error {
			return p.order[0].call(ctx, http.MethodGet, "/devices", nil, &p.answer)
		},
		`prüfe ob "([A-Z])" ein Gerät reserviert hat`: func(name string) error {
			var list struct {
				Devices []struct {
					ID     int    `json:"deviceId"`
					Status string `json:"deviceStatus"`
				} `json:"devices"`
			}
			err := json.Unmarshal(p.answer, &list)
			for _, d := range list.Devices {
				if d.ID == p.actors[name].device && d.Status == "claimed" {
					return err
				}
			}
			return errors.Join(err, fmt.Errorf("%s", p.answer))
		},
		`([A-Z]) fragt an Schnittstelle (\S+) die Home-Server-Adresse ab`: func(ctx context.Context, name, on string) error {
			a, err := p.api(on)
			if err != nil {
				return err
			}
			var info struct {
				Homeserver string `json:"homeserver"`
			}
			err = a.call(ctx, http.MethodGet, "/", nil, &info)
			p.servers[name] = info.Homeserver
			return err
		},
		`([A-Z]) die supporteten Matrix-Versions vom Home-Server abfragt`: func(ctx context.Context, name string) error {
			return p.ask(ctx, name, http.MethodGet, "/_matrix/client/versions", "")
		},
		`ist die unterstützte Matrix-Version "([^"]*)"`: func(want string) error {
			var versions struct {
				All []string `json:"versions"`
			}
			return errors.Join(json.Unmarshal(p.answer, &versions), must(slices.Contains(versions.All, "v"+want), nil, string(p.answer)))
		},
		`([A-Z]) die Synapse-Server-Version vom Home-Server abfragt`: func(ctx context.Context, name string) error {
			return p.ask(ctx, name, http.MethodGet, "/_matrix/federation/v1/version", "")
		},
		`wird Synapse-Server-Version an ([A-Z]) zurückgegeben`: func(string) error {
			var version struct {
				Server struct {
					Name    string `json:"name"`
					Version string `json:"version"`
				} `json:"server"`
			}
			return errors.Join(json.Unmarshal(p.answer, &version), must(version.Server.Name != "" && version.Server.Version != "", nil, fmt.Sprintf("%d %s", p.status, p.answer)))
		},
		`([A-Z]) fragt inklusive access_token an seinem HomeServer die preview API "([^"]*)" inkl Parameter url als "([^"]*)" ab`: func(ctx context.Context, name, path, address string) error {
			return p.askWith(ctx, name, "with", path+"?url="+url.QueryEscape(address), http.MethodGet)
		},
		`([A-Z]) fragt (inklusive access_token )?an seinem HomeServer die API "([^"]*)" über ein "?([A-Z]+)"? ab`: p.askWith,
		`([A-Z]) fragt an seinem HomeServer die (?:media|media thumbnail) API "([^"]*)" inkl Parameterbefüllung über ein "([A-Z]+)" ab`: func(ctx context.Context, name, path, method string) error {
			server, media, ok := strings.Cut(strings.TrimPrefix(p.media.File.URL, "mxc://"), "/")
			if !ok {
				return fmt.Errorf("no address in %+v", p.media)
			}
			thumbnail := strings.Contains(path, "/thumbnail/")
			path = strings.NewReplacer("{serverName}", server, "{mediaId}", media, "{fileName}", p.media.Body).Replace(path)
			if thumbnail {
				path += "?width=32&height=32"
			}
			return p.ask(ctx, name, method, path, "")
		},
		`([A-Z]) fragt an seinem HomeServer die profile API "([^"]*)" inkl Parameterbefüllung von "([A-Z])" über ein "([A-Z]+)" ab`: func(ctx context.Context, name, path, of, method string) error {
			return p.ask(ctx, name, method, strings.ReplaceAll(path, "{userId}", url.PathEscape(p.actors[of].account.User)), "")
		},
	}
}
