// SPDX-License-Identifier: Apache-2.0

package push

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

const (
	gatewayWithin = 30 * time.Second
	// maxGatewayAnswer bounds what is read of a gateway's answer.
	maxGatewayAnswer = 64 << 10
)

// newClient makes the client for gateways, whose addresses come from users: guard sees what is really connected to, and nothing is followed.
func (s *Service) newClient() *http.Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: s.o.Guard}
	return &http.Client{
		Timeout:       gatewayWithin,
		Transport:     &http.Transport{DialContext: dialer.DialContext, TLSHandshakeTimeout: 10 * time.Second, MaxIdleConnsPerHost: 8, IdleConnTimeout: 90 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// gatewayBody is the body of POST /_matrix/push/v1/notify (push gateway API).
type gatewayBody struct {
	Notification gatewayNotification `json:"notification"`
}

type gatewayNotification struct {
	EventID           id.Event         `json:"event_id,omitzero"`
	RoomID            id.Room          `json:"room_id,omitzero"`
	Type              string           `json:"type,omitzero"`
	Sender            id.User          `json:"sender,omitzero"`
	SenderDisplayName string           `json:"sender_display_name,omitzero"`
	RoomName          string           `json:"room_name,omitzero"`
	RoomAlias         id.Alias         `json:"room_alias,omitzero"`
	UserIsTarget      *bool            `json:"user_is_target,omitzero"`
	Membership        string           `json:"membership,omitzero"`
	Prio              string           `json:"prio,omitzero"`
	Content           jsontext.Value   `json:"content,omitzero"`
	Counts            map[string]int64 `json:"counts,omitzero"`
	Devices           []gatewayDevice  `json:"devices"`
}

type gatewayDevice struct {
	AppID   string                    `json:"app_id"`
	Pushkey string                    `json:"pushkey"`
	Since   int64                     `json:"pushkey_ts"` // seconds
	Data    map[string]jsontext.Value `json:"data"`
	Tweaks  map[string]jsontext.Value `json:"tweaks,omitzero"`
}

func (p *target) device() gatewayDevice {
	return gatewayDevice{AppID: p.appID, Pushkey: p.pushkey, Since: p.created / 1000, Data: p.data}
}

// counts leaves out a count of zero beside an event, as the specification wishes.
func (p *target) counts(badge int64) map[string]int64 {
	if p.badgeless() {
		return nil
	}
	counts := map[string]int64{}
	if badge > 0 {
		counts["unread"] = badge
	}
	return counts
}

// onlyCount is the body of a change of the count. Zero is told here: otherwise gateways would leave the old number standing.
func (s *Service) onlyCount(p *target, badge int64) []byte {
	return encode(gatewayNotification{Counts: map[string]int64{"unread": badge}, Devices: []gatewayDevice{p.device()}})
}

// about is the body of an event's notification.
func (s *Service) about(ctx context.Context, k userKey, p *target, w worth, badge int64) ([]byte, error) {
	device := p.device()
	device.Tweaks = map[string]jsontext.Value{}
	prio := "low"
	if w.verdict.Highlight || w.verdict.Sound != "" || w.event.Type() == "m.room.encrypted" {
		prio = "high"
	}
	for _, a := range w.verdict.Actions {
		var tweak struct {
			Name  string         `json:"set_tweak"`
			Value jsontext.Value `json:"value"`
		}
		if a.Kind() != '{' || json.Unmarshal(a, &tweak, jsontext.AllowDuplicateNames(true)) != nil || tweak.Name == "" {
			continue
		}
		if tweak.Value == nil {
			tweak.Value = jsontext.Value("true")
			if tweak.Name != "highlight" {
				continue
			}
		}
		device.Tweaks[tweak.Name] = tweak.Value
	}
	n := gatewayNotification{EventID: w.event.ID(), RoomID: w.room.ID, Prio: prio, Counts: p.counts(badge), Devices: []gatewayDevice{device}}
	if p.idOnly() {
		return encode(n), nil
	}
	n.Type, n.Sender, n.Content = w.event.Type(), w.event.Sender(), w.event.Content()
	if w.event.Type() == event.TypeMember && w.event.StateKey() != nil {
		is := *w.event.StateKey() == string(k.user)
		n.UserIsTarget, n.Membership = &is, w.event.Membership()
	}
	if err := s.names(ctx, k, w, &n); err != nil {
		return nil, err
	}
	return encode(n), nil
}

// names fills in what people call the room and the sender.
func (s *Service) names(ctx context.Context, k userKey, w worth, n *gatewayNotification) error {
	if w.event.Outlier { // an invitation from outside: what came with it
		state, err := s.o.Rooms.InviteState(ctx, k.tenant, k.user, w.room.NID)
		for _, raw := range state {
			var e struct {
				Type    string         `json:"type"`
				Content jsontext.Value `json:"content"`
			}
			if json.Unmarshal(raw, &e, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) == nil && e.Type == "m.room.name" {
				n.RoomName = text(e.Content, "name")
			}
		}
		return err
	}
	state, err := s.o.Rooms.CurrentState(ctx, k.tenant, w.room)
	if err != nil {
		return err
	}
	for _, field := range []struct {
		key  event.Key
		name string
		set  func(string)
	}{
		{event.Key{Type: "m.room.name"}, "name", func(v string) { n.RoomName = v }},
		{event.Key{Type: "m.room.canonical_alias"}, "alias", func(v string) { n.RoomAlias = id.Alias(v) }},
		{event.Key{Type: event.TypeMember, StateKey: string(w.event.Sender())}, "displayname", func(v string) { n.SenderDisplayName = v }},
	} {
		e, err := s.o.Rooms.StateEvent(ctx, k.tenant, state, field.key)
		if err != nil {
			return err
		}
		if e != nil {
			field.set(text(e.Content(), field.name))
		}
	}
	return nil
}

// text reads a text of an event's content.
func text(content jsontext.Value, name string) string {
	var c map[string]jsontext.Value
	var value string
	if json.Unmarshal(content, &c, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) != nil || c[name].Kind() != '"' {
		return ""
	}
	if json.Unmarshal(c[name], &value, jsontext.AllowInvalidUTF8(true)) != nil {
		return ""
	}
	return value
}

func encode(n gatewayNotification) []byte {
	raw, err := json.Marshal(gatewayBody{n}, json.Deterministic(true), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		panic(err) // texts, numbers and parsed JSON always encode
	}
	return raw
}

// gateway posts a notification and returns the pushkeys that the gateway rejects for good.
func (s *Service) gateway(ctx context.Context, address string, body []byte) (rejected []string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := s.client.Do(r)
	if err != nil {
		if u, ok := err.(*url.Error); ok { //nolint:errorlint // http.Client wraps nothing around it
			err = u.Err // an address may hold a secret, and errors are logged
		}
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxGatewayAnswer))
	if err != nil {
		return nil, err
	}
	if res.StatusCode/100 != 2 {
		return nil, fmt.Errorf("status %d", res.StatusCode)
	}
	var reply struct {
		Rejected []string `json:"rejected"`
	}
	if json.Unmarshal(answer, &reply, jsontext.AllowDuplicateNames(true)) != nil {
		return nil, nil //nolint:nilerr // it has taken the notification, whatever it says
	}
	return reply.Rejected, nil
}
