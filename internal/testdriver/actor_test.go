// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// refused is an answer that is not a success.
type refused struct {
	status int
	text   string
}

func (r *refused) Error() string { return fmt.Sprintf("%d %s", r.status, r.text) }

// call sends a request to a driver.
func (a *api) call(ctx context.Context, method, path string, in, into any) error {
	var reader io.Reader
	kind := "application/json"
	switch in := in.(type) {
	case nil:
	case file:
		reader, kind = bytes.NewReader(in.data), in.kind
	default:
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, reader)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	a.status = res.StatusCode
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return &refused{res.StatusCode, string(text)}
	}
	switch into := into.(type) {
	case nil:
		return nil
	case *[]byte:
		*into = text
		return nil
	}
	return json.Unmarshal(text, into)
}

// file is a body that is not JSON.
type file struct {
	kind string
	data []byte
}

// actor is a claimed device with its account: "A" of a scenario.
type actor struct {
	*api
	device  int
	account struct {
		User        string `json:"mxid"`
		Username    string `json:"username"`
		Password    string `json:"password"`
		DisplayName string `json:"displayName"`
		Token       string `json:"accessToken"`
	}
	key string // exported
}

func (a *actor) do(ctx context.Context, method, path string, in, into any) error {
	return a.call(ctx, method, fmt.Sprintf("/devices/%d%s", a.device, path), in, into)
}

// claimFor is longer than any scenario, in seconds.
const claimFor = 600

// claim takes the first free device of an interface.
func (a *api) claim(ctx context.Context, who string) (*actor, error) {
	var list struct {
		Devices []struct {
			ID     int    `json:"deviceId"`
			Status string `json:"deviceStatus"`
		} `json:"devices"`
	}
	if err := a.call(ctx, http.MethodGet, "/devices", nil, &list); err != nil {
		return nil, err
	}
	for _, d := range list.Devices {
		if d.Status == "free" {
			c := &actor{api: a, device: d.ID}
			return c, c.do(ctx, http.MethodPost, "/claim", map[string]any{"claimerName": who, "claimFor": claimFor}, nil)
		}
	}
	return nil, fmt.Errorf("%s has no free device", a.name)
}

func (a *actor) login(ctx context.Context, credentials any) error {
	if err := a.do(ctx, http.MethodPost, "/login", credentials, nil); err != nil {
		return err
	}
	return a.do(ctx, http.MethodGet, "/account", nil, &a.account)
}

// chatRoom is a room as the driver shows it.
type chatRoom struct {
	ID         string   `json:"roomId"`
	Name       string   `json:"name"`
	Topic      string   `json:"theme,omitempty"`
	Access     string   `json:"roomAccess,omitempty"`
	JoinRule   string   `json:"joinRule,omitempty"`
	Visibility string   `json:"historyVisibility,omitempty"`
	Version    string   `json:"roomVersion,omitempty"`
	Federated  *bool    `json:"isFederated,omitempty"`
	Encrypted  *bool    `json:"isEncrypted,omitempty"`
	Members    []person `json:"members"`
}

type person struct {
	User  string `json:"mxid"`
	State string `json:"membershipState,omitempty"`
}

// membership is somebody's in a room; empty for a stranger.
func (r chatRoom) membership(user string) string {
	for _, m := range r.Members {
		if m.User == user {
			return m.State
		}
	}
	return ""
}

func (a *actor) rooms(ctx context.Context) ([]chatRoom, error) {
	var all []chatRoom
	return all, a.do(ctx, http.MethodGet, "/rooms", nil, &all)
}

// chats are the rooms without a name that somebody shares with others: one's direct chats, those that one is in first.
func (a *actor) chats(ctx context.Context, with ...string) ([]chatRoom, error) {
	all, err := a.rooms(ctx)
	all = slices.DeleteFunc(all, func(r chatRoom) bool {
		return r.Name != "" || slices.ContainsFunc(with, func(user string) bool { return r.membership(user) == "" })
	})
	slices.SortStableFunc(all, func(x, y chatRoom) int { return rank(x, a, with) - rank(y, a, with) })
	return all, err
}

// rank puts chats that live before those that somebody has left.
func rank(r chatRoom, a *actor, with []string) int {
	n := 0
	for _, user := range append([]string{a.account.User}, with...) {
		if s := r.membership(user); s != "join" && s != "invite" {
			n++
		}
	}
	return n
}

func (a *actor) room(ctx context.Context, roomID string) (chatRoom, error) {
	var r chatRoom
	return r, a.do(ctx, http.MethodGet, "/rooms/"+roomID, nil, &r)
}

// note is a message as the driver shows it.
type note struct {
	ID      string         `json:"messageId"`
	Author  string         `json:"author"`
	Body    string         `json:"body"`
	MsgType string         `json:"msgtype"`
	FileID  string         `json:"fileId"`
	GeoURI  string         `json:"geo_uri"`
	Info    map[string]any `json:"info"`
	File    *struct {
		URL    string         `json:"url"`
		Key    jsontext.Value `json:"key"`
		Hashes struct {
			SHA256 string `json:"sha256"`
		} `json:"hashes"`
	} `json:"file"`
}

func (a *actor) notes(ctx context.Context, roomID string) ([]note, error) {
	var all []note
	return all, a.do(ctx, http.MethodGet, "/rooms/"+roomID+"/messages", nil, &all)
}

// notesIn reads several rooms.
func (a *actor) notesIn(ctx context.Context, rooms []chatRoom) ([]note, error) {
	var all []note
	for _, r := range rooms {
		if r.membership(a.account.User) == "invite" {
			continue
		}
		more, err := a.notes(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

const (
	// within bounds how long a step waits for what must come: what other servers have accepted arrives in milliseconds.
	within = 10 * time.Second
	// again is how often it looks.
	again = 25 * time.Millisecond
)

// eventually asks until something holds.
func eventually(ctx context.Context, what string, holds func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		ok, err := holds()
		if err != nil || ok {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("never came: %s", what)
		}
	}
}

// quoted reads the names of a list such as `"A", "B"`.
func quoted(list string) []string {
	var all []string
	for _, name := range strings.Split(list, ", ") {
		all = append(all, strings.Trim(name, `"`))
	}
	return all
}
