// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"sort"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/canonicaljson"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

func (s *Service) handleAliases(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.Room()
	if err != nil {
		return nil, err
	}
	known, err := s.Lookup(ctx, r.Tenant.ID, room)
	if err != nil {
		return nil, mxerror.Forbidden.With("You are not in the room.")
	}
	m, err := s.Membership(ctx, r.Tenant.ID, known.NID, r.Session.User)
	if err != nil {
		return nil, err
	}
	if m.Membership != "join" {
		state, err := s.CurrentState(ctx, r.Tenant.ID, known)
		if err != nil {
			return nil, err
		}
		hv, err := s.StateEvent(ctx, r.Tenant.ID, state, event.Key{Type: "m.room.history_visibility"})
		if err != nil {
			return nil, err
		}
		if hv == nil || stringField(hv.Content(), "history_visibility") != worldReadable {
			return nil, mxerror.Forbidden.With("You are not in the room.")
		}
	}
	aliases, err := s.Aliases(ctx, r.Tenant.ID, room)
	return map[string]any{"aliases": aliases}, err
}

func aliasVar(r *httpapi.Request) (id.Alias, error) {
	alias, err := id.ParseAlias(r.Var("roomAlias"))
	if err != nil {
		return "", mxerror.InvalidParam.With("%q is not a room alias.", r.Var("roomAlias"))
	}
	return alias, nil
}

func (s *Service) handleResolve(ctx context.Context, r *httpapi.Request) (any, error) {
	alias, err := aliasVar(r)
	if err != nil {
		return nil, err
	}
	room, servers, err := s.ResolveAlias(ctx, r.Tenant, alias)
	return map[string]any{"room_id": room, "servers": servers}, err
}

func (s *Service) handlePutAlias(ctx context.Context, r *httpapi.Request) (any, error) {
	alias, err := aliasVar(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		RoomID string `json:"room_id"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	room, err := id.ParseRoom(body.RoomID)
	if err != nil {
		return nil, mxerror.InvalidParam.With("room_id is missing or not a room id.")
	}
	if alias.Server() != r.Tenant.Name {
		return nil, mxerror.InvalidParam.With("Aliases of this server end in :%s.", r.Tenant.Name)
	}
	if s.MayAlias != nil {
		if err := s.MayAlias(r.Tenant, r.Session.AppService, alias); err != nil {
			return nil, err
		}
	}
	if _, err := s.joinedRoom(ctx, r.Tenant, room, r.Session.User); err != nil {
		return nil, err
	}
	return nil, s.addAlias(ctx, r.Tenant.ID, alias, room, r.Session.User)
}

func (s *Service) handleDeleteAlias(ctx context.Context, r *httpapi.Request) (any, error) {
	alias, err := aliasVar(r)
	if err != nil {
		return nil, err
	}
	admin := r.Session.Admin
	if s.MayAlias != nil && !admin {
		if err := s.MayAlias(r.Tenant, r.Session.AppService, alias); err != nil {
			return nil, err
		}
		admin = r.Session.AppService != "" // a service has full control of its namespace
	}
	return nil, s.removeAlias(ctx, r.Tenant, r.Session.User, admin, alias)
}

func (s *Service) handleGetVisibility(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.Room()
	if err != nil {
		return nil, err
	}
	known, err := s.Lookup(ctx, r.Tenant.ID, room)
	if err != nil {
		return nil, err
	}
	public, err := s.IsPublic(ctx, r.Tenant.ID, known.NID)
	if public {
		return map[string]any{"visibility": "public"}, err
	}
	return map[string]any{"visibility": "private"}, err
}

func (s *Service) handlePutVisibility(ctx context.Context, r *httpapi.Request) (any, error) {
	room, err := r.Room()
	if err != nil {
		return nil, err
	}
	var body struct {
		Visibility string `json:"visibility"`
	}
	if err := r.DecodeOptional(&body); err != nil {
		return nil, err
	}
	if body.Visibility != "" && body.Visibility != "public" && body.Visibility != "private" {
		return nil, mxerror.InvalidParam.With("visibility is public or private.")
	}
	known, err := s.joinedRoom(ctx, r.Tenant, room, r.Session.User)
	if err != nil {
		return nil, err
	}
	ok, err := s.mayChangeAliases(ctx, r.Tenant, room, r.Session.User)
	if err != nil {
		return nil, err
	}
	if !ok && !r.Session.Admin {
		return nil, mxerror.Forbidden.With("Only the room's moderators may list it.")
	}
	return nil, s.SetPublic(ctx, r.Tenant.ID, known.NID, body.Visibility != "private")
}

// PublicRoom is an entry of the public room directory.
type PublicRoom struct {
	RoomID         id.Room  `json:"room_id"`
	Name           string   `json:"name,omitzero"`
	Topic          string   `json:"topic,omitzero"`
	CanonicalAlias id.Alias `json:"canonical_alias,omitzero"`
	AvatarURL      string   `json:"avatar_url,omitzero"`
	JoinedMembers  int      `json:"num_joined_members"`
	WorldReadable  bool     `json:"world_readable"`
	GuestsCanJoin  bool     `json:"guest_can_join"`
	JoinRule       string   `json:"join_rule,omitzero"`
	RoomType       string   `json:"room_type,omitzero"`
	RoomVersion    string   `json:"room_version,omitzero"`
	Encryption     string   `json:"encryption,omitzero"`
	AllowedRooms   []string `json:"allowed_room_ids,omitempty"`
}

// readJoinRules reads m.room.join_rules: the rule, which is invite where none is given, and the rooms whose members a restricted room lets in.
func readJoinRules(content jsontext.Value) (rule string, allowed []string) {
	rule = "invite"
	var c struct {
		Rule  string         `json:"join_rule"`
		Allow jsontext.Value `json:"allow"`
	}
	if json.Unmarshal(content, &c) != nil || c.Rule == "" {
		return rule, nil
	}
	if rule = c.Rule; rule != "restricted" && rule != "knock_restricted" {
		return rule, nil
	}
	var conditions []struct {
		Type string `json:"type"`
		Room string `json:"room_id"`
	}
	if json.Unmarshal(c.Allow, &conditions) != nil {
		return rule, nil
	}
	for _, a := range conditions {
		if _, err := id.ParseRoom(a.Room); err == nil && a.Type == "m.room_membership" {
			allowed = append(allowed, a.Room)
		}
	}
	return rule, allowed
}

// plainTopic reads m.room.topic: the plain text among its representations, else the topic itself.
func plainTopic(content jsontext.Value) string {
	var c struct {
		Rich struct {
			Text []struct {
				Body string `json:"body"`
				Type string `json:"mimetype"`
			} `json:"m.text"`
		} `json:"m.topic"`
	}
	if json.Unmarshal(content, &c) == nil {
		for _, t := range c.Rich.Text {
			if t.Type == "" || t.Type == "text/plain" {
				return t.Body
			}
		}
	}
	return stringField(content, "topic")
}

// Describe summarises a room for directories.
func (s *Service) Describe(ctx context.Context, t tenant.ID, r *Room) (PublicRoom, error) {
	p := PublicRoom{RoomID: r.ID, RoomVersion: r.Version.ID, JoinRule: "invite"}
	state, err := s.CurrentState(ctx, t, r)
	if err != nil {
		return p, err
	}
	fields := map[string]func(*Event){
		"m.room.name":            func(e *Event) { p.Name = stringField(e.Content(), "name") },
		"m.room.topic":           func(e *Event) { p.Topic = plainTopic(e.Content()) },
		"m.room.canonical_alias": func(e *Event) { p.CanonicalAlias = id.Alias(stringField(e.Content(), "alias")) },
		"m.room.avatar":          func(e *Event) { p.AvatarURL = stringField(e.Content(), "url") },
		"m.room.encryption":      func(e *Event) { p.Encryption = stringField(e.Content(), "algorithm") },
		"m.room.create":          func(e *Event) { p.RoomType = stringField(e.Content(), "type") },
		"m.room.guest_access":    func(e *Event) { p.GuestsCanJoin = stringField(e.Content(), "guest_access") == "can_join" },
		"m.room.history_visibility": func(e *Event) {
			p.WorldReadable = stringField(e.Content(), "history_visibility") == worldReadable
		},
		"m.room.join_rules": func(e *Event) {
			p.JoinRule, p.AllowedRooms = readJoinRules(e.Content())
		},
	}
	for typ, read := range fields {
		e, err := s.StateEvent(ctx, t, state, event.Key{Type: typ})
		if err != nil {
			return p, err
		}
		if e != nil {
			read(e)
		}
	}
	err = s.DB.QueryRow(ctx, "SELECT COUNT(*) FROM membership WHERE tenant = $1 AND room = $2 AND membership = 'join'", int64(t), r.NID).Scan(&p.JoinedMembers)
	return p, err
}

// DescribeStripped summarises a room of which only the stripped state of an invite or a knock is known here.
func DescribeStripped(room id.Room, version string, entries []jsontext.Value) PublicRoom {
	p := PublicRoom{RoomID: room, RoomVersion: version, JoinRule: "invite"}
	for _, raw := range entries {
		content := canonicaljson.Get(raw, "content")
		switch canonicaljson.GetString(raw, "type") {
		case "m.room.name":
			p.Name = stringField(content, "name")
		case "m.room.topic":
			p.Topic = plainTopic(content)
		case "m.room.avatar":
			p.AvatarURL = stringField(content, "url")
		case "m.room.canonical_alias":
			p.CanonicalAlias = id.Alias(stringField(content, "alias"))
		case "m.room.encryption":
			p.Encryption = stringField(content, "algorithm")
		case "m.room.create":
			p.RoomType = stringField(content, "type")
		case "m.room.join_rules":
			p.JoinRule, p.AllowedRooms = readJoinRules(content)
		case "m.room.member":
			if stringField(content, "membership") == "join" {
				p.JoinedMembers++
			}
		}
	}
	return p
}

// Federates says whether users of other servers may be in a room that the tenant is in (m.federate).
func (s *Service) Federates(ctx context.Context, t tenant.ID, r *Room) (bool, error) {
	state, err := s.CurrentState(ctx, t, r)
	if err != nil {
		return false, err
	}
	create, err := s.StateEvent(ctx, t, state, event.Key{Type: "m.room.create"})
	return err == nil && create != nil && !notFederated(create.Content()), err
}

// PublicQuery is what the directory is asked for.
type PublicQuery struct {
	Limit int    `json:"limit"`
	Since string `json:"since"`
	// All adds the directories of all third-party networks, Instance asks for the one of a network instance.
	All      bool   `json:"include_all_networks,omitzero"`
	Instance string `json:"third_party_instance_id,omitzero"`
	Filter   struct {
		Term  string    `json:"generic_search_term"`
		Types []*string `json:"room_types"`
	} `json:"filter"`
}

// PublicPage is a page of the directory.
type PublicPage struct {
	Chunk     []PublicRoom `json:"chunk"`
	NextBatch string       `json:"next_batch,omitzero"`
	PrevBatch string       `json:"prev_batch,omitzero"`
	Total     int          `json:"total_room_count_estimate"`
}

// maxPublicPage is how many rooms a page of the directory holds at most.
const maxPublicPage = 500

// Directory answers a query of the tenant's public room directory, biggest rooms first.
func (s *Service) Directory(ctx context.Context, t tenant.ID, q PublicQuery) (*PublicPage, error) {
	if q.All && q.Instance != "" {
		return nil, mxerror.InvalidParam.With("third_party_instance_id and include_all_networks exclude each other.")
	}
	rooms, err := s.PublicRooms(ctx, t, q.Instance, q.All)
	if err != nil {
		return nil, err
	}
	page := &PublicPage{Chunk: []PublicRoom{}}
	var all []PublicRoom
	for _, r := range rooms {
		p, err := s.Describe(ctx, t, r)
		if err != nil {
			return nil, err
		}
		if q.matches(p) {
			all = append(all, p)
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].JoinedMembers > all[j].JoinedMembers })
	from := 0
	if q.Since != "" {
		if from, err = strconv.Atoi(q.Since); err != nil || from < 0 {
			return nil, mxerror.InvalidParam.With("since is not a token of this directory.")
		}
	}
	limit := q.Limit
	if limit <= 0 || limit > maxPublicPage {
		limit = maxPublicPage
	}
	page.Total = len(all)
	from = min(from, len(all))
	to := min(from+limit, len(all))
	page.Chunk = append(page.Chunk, all[from:to]...)
	if to < len(all) {
		page.NextBatch = strconv.Itoa(to)
	}
	if from > 0 {
		page.PrevBatch = strconv.Itoa(max(from-limit, 0))
	}
	return page, nil
}

func (q PublicQuery) matches(p PublicRoom) bool {
	if len(q.Filter.Types) > 0 {
		ok := false
		for _, typ := range q.Filter.Types {
			ok = ok || (typ == nil && p.RoomType == "") || (typ != nil && *typ == p.RoomType)
		}
		if !ok {
			return false
		}
	}
	term := strings.ToLower(q.Filter.Term)
	return term == "" || strings.Contains(strings.ToLower(p.Name), term) || strings.Contains(strings.ToLower(p.Topic), term) ||
		strings.Contains(strings.ToLower(string(p.CanonicalAlias)), term)
}

func (s *Service) handlePublicRooms(ctx context.Context, r *httpapi.Request) (any, error) {
	var q PublicQuery
	if r.HTTP.Method == "POST" {
		// Not the edge but the handler asks for the token, after the policy: a tenant without a list says so to everybody (A_28587).
		if r.Session == nil {
			return nil, mxerror.MissingToken
		}
		if err := r.DecodeOptional(&q); err != nil {
			return nil, err
		}
	} else {
		n, err := r.QueryInt("limit", 0, maxPublicPage)
		if err != nil {
			return nil, err
		}
		q.Limit, q.Since = n, r.Query("since")
	}
	if name := r.Query("server"); name == "" || name == string(r.Tenant.Name) {
		return s.Directory(ctx, r.Tenant.ID, q)
	}
	server, err := id.ParseServer(r.Query("server"))
	if err != nil {
		return nil, mxerror.InvalidParam.With("server is not a server name.")
	}
	if s.RemoteDirectory == nil {
		return nil, mxerror.NotFound.With("The room directory of %s cannot be had.", server)
	}
	return s.RemoteDirectory(ctx, r.Tenant, server, q)
}
