// SPDX-License-Identifier: Apache-2.0

//go:build goolm

package testdriver

import (
	"cmp"
	"context"
	"net/http"
	"slices"

	"github.com/go-json-experiment/json"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// What the TI-Messenger adds to Matrix rooms (A_25814-01, A_26338-02).
const (
	roomTypeDefault = "de.gematik.tim.roomtype.default.v1"
	roomNameType    = "de.gematik.tim.room.name"
	roomTopicType   = "de.gematik.tim.room.topic"
)

var roomOperations = map[string]operation{
	"GET /rooms":                {status: http.StatusOK, signedIn: true, do: listRooms},
	"POST /rooms":               {status: http.StatusCreated, signedIn: true, do: createRoom},
	"GET /rooms/{room}":         {status: http.StatusOK, signedIn: true, do: readRoom},
	"PUT /rooms/{room}":         {status: http.StatusOK, signedIn: true, do: updateRoom},
	"DELETE /rooms/{room}":      {status: http.StatusNoContent, signedIn: true, do: forgetRoom},
	"POST /rooms/{room}/invite": {status: http.StatusOK, signedIn: true, do: invite},
	"POST /rooms/{room}/join":   {status: http.StatusOK, signedIn: true, do: join},
	"POST /rooms/{room}/leave":  {status: http.StatusOK, signedIn: true, do: leave},
	"GET /rooms/{room}/state":   {status: http.StatusOK, signedIn: true, do: readState},
}

// room is a room as the interface shows it.
type room struct {
	ID         string   `json:"roomId,omitempty"`
	Name       string   `json:"name"`
	Topic      string   `json:"theme,omitempty"`
	Access     string   `json:"roomAccess,omitempty"`
	JoinRule   string   `json:"joinRule,omitempty"`
	Federated  *bool    `json:"isFederated,omitempty"`
	Visibility string   `json:"historyVisibility,omitempty"`
	Encrypted  *bool    `json:"isEncrypted,omitempty"`
	Version    string   `json:"roomVersion,omitempty"`
	Members    []member `json:"members"`
}

type member struct {
	User  string `json:"mxid"`
	State string `json:"membershipState"`
}

const public, private = "public", "private"

func inRoom(r *http.Request) id.RoomID { return id.RoomID(r.PathValue("room")) }

func listRooms(ctx context.Context, v *device, _ *http.Request) (any, error) {
	all := []*room{}
	for invited := range v.client.Invitations() {
		all = append(all, v.invitation(invited))
	}
	for _, known := range v.client.Rooms() {
		r, err := v.describeRoom(ctx, known.ID)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	if !v.driver.o.Insurance {
		listed, err := v.client.Client.PublicRooms(ctx, nil)
		if err != nil {
			return nil, err
		}
		for _, p := range listed.Chunk {
			if !slices.ContainsFunc(all, func(r *room) bool { return r.ID == p.RoomID.String() }) {
				all = append(all, &room{ID: p.RoomID.String(), Name: p.Name, Topic: p.Topic, Access: public, JoinRule: string(p.JoinRule), Members: []member{}})
			}
		}
	}
	slices.SortFunc(all, func(a, b *room) int { return cmp.Compare(a.ID, b.ID) })
	return all, nil
}

// invitation shows a room by the stripped state of an invitation.
func (v *device) invitation(roomID id.RoomID) *room {
	r := &room{ID: roomID.String(), Members: []member{}}
	for _, e := range v.client.InviteState(roomID) {
		r.take(e)
	}
	inviter := v.client.Invitations()[roomID].String()
	if !slices.ContainsFunc(r.Members, func(m member) bool { return m.User == inviter }) {
		r.Members = append(r.Members, member{inviter, string(event.MembershipJoin)})
	}
	return r
}

// describeRoom reads a room's state, also that of a room that the user has left.
func (v *device) describeRoom(ctx context.Context, roomID id.RoomID) (*room, error) {
	state, err := v.client.Client.StateAsArray(ctx, roomID)
	if err != nil {
		return nil, err
	}
	yes, no := true, false
	r := &room{ID: roomID.String(), Federated: &yes, Encrypted: &no, Access: private, Visibility: string(event.HistoryVisibilityShared), Members: []member{}}
	for _, e := range state {
		r.take(e)
	}
	var listed struct {
		Visibility string `json:"visibility"`
	}
	if _, err := v.client.Client.MakeRequest(ctx, http.MethodGet, v.client.Client.BuildClientURL("v3", "directory", "list", "room", roomID), nil, &listed); err == nil && listed.Visibility == public {
		r.Access = public // other servers do not tell: their rooms are not listed here
	}
	return r, nil
}

// take notes a state event.
func (r *room) take(e *event.Event) {
	text := func(key string) string {
		s, _ := e.Content.Raw[key].(string)
		return s
	}
	switch e.Type.Type {
	case event.StateRoomName.Type:
		r.Name = text("name")
	case event.StateTopic.Type:
		r.Topic = text("topic")
	case event.StateJoinRules.Type:
		r.JoinRule = text("join_rule")
	case event.StateHistoryVisibility.Type:
		r.Visibility = text("history_visibility")
	case event.StateEncryption.Type:
		encrypted := text("algorithm") != ""
		r.Encrypted = &encrypted
	case event.StateCreate.Type:
		r.Version = cmp.Or(text("room_version"), "1")
		if federated, ok := e.Content.Raw["m.federate"].(bool); ok {
			r.Federated = &federated
		}
	case event.StateMember.Type:
		if s := text("membership"); s != "" {
			r.Members = append(r.Members, member{e.GetStateKey(), s})
		}
	}
}

func createRoom(ctx context.Context, v *device, r *http.Request) (any, error) {
	var q struct {
		room    `json:",inline"`
		Invited []user `json:"invitedMembers"`
	}
	if err := body(r, &q); err != nil {
		return nil, err
	}
	request := newRoom(q.Name, q.Topic)
	isPublic := q.Access == public || q.JoinRule == public
	switch {
	case isPublic:
		request.Preset, request.Visibility, request.InitialState = "public_chat", public, slices.DeleteFunc(request.InitialState, func(e *event.Event) bool { return e.Type == event.StateEncryption })
		request.CreationContent["m.federate"] = false
	case q.Encrypted != nil && !*q.Encrypted:
		// The client has no such function (A_25324-01, A_26015-02).
		return nil, fail(http.StatusForbidden, "M_FORBIDDEN", "private rooms are always encrypted")
	}
	for _, u := range q.Invited {
		request.Invite = append(request.Invite, id.UserID(u.ID))
	}
	made, err := v.open(ctx, request)
	if err != nil {
		return nil, err
	}
	return v.describeRoom(ctx, made)
}

// newRoom is how a TI-Messenger client makes private rooms.
func newRoom(name, topic string) *mautrix.ReqCreateRoom {
	request := &mautrix.ReqCreateRoom{Preset: "private_chat", Name: name, Topic: topic, CreationContent: map[string]any{"type": roomTypeDefault},
		InitialState: []*event.Event{{Type: event.StateEncryption, Content: event.Content{Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1}}}}}
	if name != "" {
		request.InitialState = append(request.InitialState, custom(roomNameType, "name", name))
	}
	if topic != "" {
		request.InitialState = append(request.InitialState, custom(roomTopicType, "topic", topic))
	}
	return request
}

func custom(kind, key, value string) *event.Event {
	return &event.Event{Type: event.Type{Type: kind, Class: event.StateEventType}, Content: event.Content{Raw: map[string]any{key: value}}}
}

// open makes a room and waits until its state is there.
func (v *device) open(ctx context.Context, request *mautrix.ReqCreateRoom) (id.RoomID, error) {
	made, err := v.client.Client.CreateRoom(ctx, request)
	if err != nil {
		return "", err
	}
	return made.RoomID, v.client.Enter(ctx, made.RoomID)
}

func readRoom(ctx context.Context, v *device, r *http.Request) (any, error) {
	if _, invited := v.client.Invitations()[inRoom(r)]; invited {
		return v.invitation(inRoom(r)), nil
	}
	return v.describeRoom(ctx, inRoom(r))
}

// updateRoom sets what differs from what is.
func updateRoom(ctx context.Context, v *device, r *http.Request) (any, error) {
	var wanted room
	if err := body(r, &wanted); err != nil {
		return nil, err
	}
	if v.driver.o.Insurance && (wanted.Access == public || wanted.JoinRule == public || wanted.JoinRule == string(event.JoinRuleKnock)) {
		// The client has no such function (A_26015-02).
		return nil, fail(http.StatusForbidden, "M_FORBIDDEN", "rooms of insured people stay closed")
	}
	roomID := inRoom(r)
	is, err := v.describeRoom(ctx, roomID)
	if err != nil {
		return nil, err
	}
	for _, change := range []struct {
		is, wanted string
		kinds      []string
		key        string
	}{
		{is.JoinRule, wanted.JoinRule, []string{event.StateJoinRules.Type}, "join_rule"},
		{is.Visibility, wanted.Visibility, []string{event.StateHistoryVisibility.Type}, "history_visibility"},
		{is.Name, wanted.Name, []string{event.StateRoomName.Type, roomNameType}, "name"},
		{is.Topic, wanted.Topic, []string{event.StateTopic.Type, roomTopicType}, "topic"},
	} {
		if change.wanted == "" || change.wanted == change.is {
			continue
		}
		for _, kind := range change.kinds {
			if _, err := v.client.Client.SendStateEvent(ctx, roomID, event.Type{Type: kind, Class: event.StateEventType}, "", map[string]any{change.key: change.wanted}); err != nil {
				return nil, err
			}
		}
	}
	if wanted.Access != "" && wanted.Access != is.Access {
		if _, err := v.client.Client.MakeRequest(ctx, http.MethodPut, v.client.Client.BuildClientURL("v3", "directory", "list", "room", roomID), map[string]string{"visibility": wanted.Access}, nil); err != nil {
			return nil, err
		}
	}
	if err := v.client.Sync(ctx, 0); err != nil {
		return nil, err
	}
	return v.describeRoom(ctx, roomID)
}

func forgetRoom(ctx context.Context, v *device, r *http.Request) (any, error) {
	_, err := v.client.Client.ForgetRoom(ctx, inRoom(r))
	if err == nil {
		v.client.Forget(inRoom(r))
	}
	return nil, err
}

func invite(ctx context.Context, v *device, r *http.Request) (any, error) {
	var users []user
	if err := body(r, &users); err != nil {
		return nil, err
	}
	for _, u := range users {
		if err := v.client.Invite(ctx, inRoom(r), id.UserID(u.ID)); err != nil {
			return nil, err
		}
	}
	if err := v.client.Sync(ctx, 0); err != nil {
		return nil, err
	}
	return v.describeRoom(ctx, inRoom(r))
}

func join(ctx context.Context, v *device, r *http.Request) (any, error) {
	var via []string
	if inviter, ok := v.client.Invitations()[inRoom(r)]; ok {
		via = append(via, inviter.Homeserver())
	}
	if err := v.client.Join(ctx, inRoom(r), via...); err != nil {
		return nil, err
	}
	return v.describeRoom(ctx, inRoom(r))
}

// leave leaves a room or declines an invitation.
func leave(ctx context.Context, v *device, r *http.Request) (any, error) {
	declined, open := v.invitation(inRoom(r)), v.client.Invitations()[inRoom(r)] != ""
	if _, err := v.client.Client.LeaveRoom(ctx, inRoom(r)); err != nil {
		return nil, err
	}
	if open {
		if _, err := v.client.Client.ForgetRoom(ctx, inRoom(r)); err != nil {
			return nil, err
		}
		if err := v.client.Sync(ctx, 0); err != nil {
			return nil, err
		}
		v.client.Forget(inRoom(r))
		return declined, nil
	}
	if err := v.client.Sync(ctx, 0); err != nil {
		return nil, err
	}
	return v.describeRoom(ctx, inRoom(r))
}

func readState(ctx context.Context, v *device, r *http.Request) (any, error) {
	state, err := v.client.Client.StateAsArray(ctx, inRoom(r))
	if err != nil {
		return nil, err
	}
	all := []any{}
	for _, e := range state {
		content, err := json.Marshal(e.Content.Raw, json.Deterministic(true))
		if err != nil {
			return nil, err
		}
		all = append(all, map[string]any{"type": e.Type.Type, "stateKey": e.GetStateKey(), "roomId": inRoom(r).String(), "eventId": e.ID.String(), "sender": e.Sender.String(), "content": string(content)})
	}
	return all, nil
}
