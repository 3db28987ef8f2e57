// SPDX-License-Identifier: Apache-2.0

package clientsync

import (
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/matrix/id"
)

// reply is the answer of /sync. Sections without content are left out.
type reply struct {
	NextBatch   string       `json:"next_batch"`
	AccountData *list        `json:"account_data,omitzero"`
	Presence    *list        `json:"presence,omitzero"`
	Rooms       *rooms       `json:"rooms,omitzero"`
	ToDevice    *list        `json:"to_device,omitzero"`
	DeviceLists *deviceLists `json:"device_lists,omitzero"`
	// OneTimeKeys and Fallback are always there for a device: clients read an absent algorithm as a count of zero.
	OneTimeKeys map[string]int64 `json:"device_one_time_keys_count,omitzero"`
	Fallback    []string         `json:"device_unused_fallback_key_types,omitzero"`
}

// list is a batch of events; they are client events, raw JSON or both.
type list struct {
	Events []any `json:"events"`
}

type deviceLists struct {
	Changed []id.User `json:"changed"`
	Left    []id.User `json:"left"`
}

type rooms struct {
	Join   map[id.Room]*joinedRoom  `json:"join,omitempty"`
	Invite map[id.Room]*invitedRoom `json:"invite,omitempty"`
	Knock  map[id.Room]*knockedRoom `json:"knock,omitempty"`
	Leave  map[id.Room]*leftRoom    `json:"leave,omitempty"`
}

// roomState is the state of a room's section in the one form that the client asked for.
type roomState struct {
	State         *list `json:"state,omitzero"`
	StateAfter    *list `json:"state_after,omitzero"`
	UnstableAfter *list `json:"org.matrix.msc4222.state_after,omitzero"`
}

type joinedRoom struct {
	roomState
	Summary       *summary            `json:"summary,omitzero"`
	Timeline      batch               `json:"timeline"`
	Ephemeral     *list               `json:"ephemeral,omitzero"`
	AccountData   *list               `json:"account_data,omitzero"`
	Unread        *counts             `json:"unread_notifications,omitzero"`
	UnreadThreads map[id.Event]counts `json:"unread_thread_notifications,omitempty"`
	// fresh: the client had nothing of the room before.
	fresh bool
}

type leftRoom struct {
	roomState
	Timeline    batch `json:"timeline"`
	AccountData *list `json:"account_data,omitzero"`
}

type batch struct {
	Events   []any  `json:"events"`
	Limited  bool   `json:"limited"`
	Previous string `json:"prev_batch,omitzero"`
}

type stripped struct {
	Events []jsontext.Value `json:"events"`
}

type invitedRoom struct {
	State stripped `json:"invite_state"`
}

type knockedRoom struct {
	State stripped `json:"knock_state"`
}

type summary struct {
	Heroes  []id.User `json:"m.heroes,omitzero"`
	Joined  int64     `json:"m.joined_member_count"`
	Invited int64     `json:"m.invited_member_count"`
}

type counts struct {
	Highlights    int64 `json:"highlight_count"`
	Notifications int64 `json:"notification_count"`
}

// typed is an event that is only a type and a content: account data, typing, receipts.
type typed struct {
	Type    string         `json:"type"`
	Content jsontext.Value `json:"content"`
}

func (l *list) add(v any) *list {
	if l == nil {
		l = &list{}
	}
	l.Events = append(l.Events, v)
	return l
}

// empty says that there is nothing to wake a client for.
func (r *reply) empty() bool {
	return r.AccountData == nil && r.Presence == nil && r.Rooms == nil && r.ToDevice == nil && r.DeviceLists == nil
}

func (r *reply) room() *rooms {
	if r.Rooms == nil {
		r.Rooms = &rooms{Join: map[id.Room]*joinedRoom{}, Invite: map[id.Room]*invitedRoom{}, Knock: map[id.Room]*knockedRoom{}, Leave: map[id.Room]*leftRoom{}}
	}
	return r.Rooms
}
