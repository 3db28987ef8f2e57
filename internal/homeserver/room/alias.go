// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/matrix/roomversion"
)

// freeAlias makes an alias of a wished localpart and checks that it is free.
func (s *Service) freeAlias(ctx context.Context, t *tenant.Tenant, localpart string) (id.Alias, error) {
	alias, err := id.ParseAlias("#" + localpart + ":" + string(t.Name))
	if err != nil {
		return "", mxerror.InvalidParam.With("%q cannot be part of a room alias.", localpart)
	}
	room, err := s.LocalAlias(ctx, t.ID, alias)
	if err != nil {
		return "", err
	}
	if room != "" {
		return "", mxerror.RoomInUse.With("The alias %s is taken.", alias)
	}
	return alias, nil
}

// LocalAlias returns the room of one of the tenant's own aliases, or "".
func (s *Service) LocalAlias(ctx context.Context, t tenant.ID, alias id.Alias) (id.Room, error) {
	var room id.Room
	err := s.DB.QueryRow(ctx, "SELECT room_id FROM room_alias WHERE tenant = $1 AND alias = $2", int64(t), string(alias)).Scan(&room)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return room, err
}

func (s *Service) addAlias(ctx context.Context, t tenant.ID, alias id.Alias, room id.Room, creator id.User) error {
	n, err := s.DB.Exec(ctx, "INSERT INTO room_alias (tenant, alias, room_id, creator, created) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, alias) DO NOTHING",
		int64(t), string(alias), string(room), string(creator), s.now().UnixMilli())
	if err == nil && n == 0 {
		return mxerror.New(409, "M_UNKNOWN", "The alias is taken.")
	}
	return err
}

// Aliases lists the tenant's own aliases of a room, sorted.
func (s *Service) Aliases(ctx context.Context, t tenant.ID, room id.Room) ([]id.Alias, error) {
	rows, err := s.DB.Query(ctx, "SELECT alias FROM room_alias WHERE tenant = $1 AND room_id = $2 ORDER BY alias", int64(t), string(room))
	return database.All(rows, err, database.Column[id.Alias])
}

// ResolveAlias finds the room of an alias, here or at its server, and servers through which it may be joined.
func (s *Service) ResolveAlias(ctx context.Context, t *tenant.Tenant, alias id.Alias) (id.Room, []id.Server, error) {
	if alias.Server() != t.Name {
		if s.Remote == nil {
			return "", nil, mxerror.NotFound.With("The alias %s is not known.", alias)
		}
		return s.Remote.QueryDirectory(ctx, t, alias)
	}
	room, err := s.LocalAlias(ctx, t.ID, alias)
	if err == nil && room == "" && s.FindAlias != nil {
		var made bool
		if made, err = s.FindAlias(ctx, t, alias); made && err == nil {
			room, err = s.LocalAlias(ctx, t.ID, alias)
		}
	}
	if err != nil {
		return "", nil, err
	}
	if room == "" {
		return "", nil, mxerror.NotFound.With("The alias %s is not known.", alias)
	}
	servers := []id.Server{t.Name}
	if r, err := s.Lookup(ctx, t.ID, room); err == nil {
		in, err := s.JoinedServers(ctx, t.ID, r.NID)
		if err != nil {
			return "", nil, err
		}
		for _, server := range in {
			if server != t.Name {
				servers = append(servers, server)
			}
		}
	}
	return room, servers, nil
}

// removeAlias takes an alias away; its creator may, and who may change the room's aliases.
func (s *Service) removeAlias(ctx context.Context, t *tenant.Tenant, user id.User, admin bool, alias id.Alias) error {
	var room id.Room
	var creator id.User
	err := s.DB.QueryRow(ctx, "SELECT room_id, creator FROM room_alias WHERE tenant = $1 AND alias = $2", int64(t.ID), string(alias)).Scan(&room, &creator)
	if errors.Is(err, sql.ErrNoRows) {
		return mxerror.NotFound.With("The alias %s is not known.", alias)
	}
	if err != nil {
		return err
	}
	if creator != user && !admin {
		ok, err := s.mayChangeAliases(ctx, t, room, user)
		if err != nil {
			return err
		}
		if !ok {
			return mxerror.Forbidden.With("Only the alias's creator and the room's moderators may remove it.")
		}
	}
	if _, err := s.DB.Exec(ctx, "DELETE FROM room_alias WHERE tenant = $1 AND alias = $2", int64(t.ID), string(alias)); err != nil {
		return err
	}
	return s.dropCanonical(ctx, t, room, user, alias)
}

func (s *Service) mayChangeAliases(ctx context.Context, t *tenant.Tenant, room id.Room, user id.User) (bool, error) {
	r, err := s.Lookup(ctx, t.ID, room)
	if err != nil {
		return false, nil //nolint:nilerr // a room that is not here has no moderators here
	}
	state, err := s.CurrentState(ctx, t.ID, r)
	if err != nil {
		return false, err
	}
	levels, err := s.PowerLevels(ctx, t.ID, state)
	if err != nil {
		return false, err
	}
	return levels.User(user) >= levels.Event("m.room.canonical_alias", true), nil
}

// dropCanonical takes a removed alias out of m.room.canonical_alias, if the user may; otherwise it stays, as the specification allows.
func (s *Service) dropCanonical(ctx context.Context, t *tenant.Tenant, room id.Room, user id.User, alias id.Alias) error {
	r, err := s.Lookup(ctx, t.ID, room)
	if err != nil {
		return nil //nolint:nilerr // nothing to change in a room that is not here
	}
	state, err := s.CurrentState(ctx, t.ID, r)
	if err != nil {
		return err
	}
	e, err := s.StateEvent(ctx, t.ID, state, event.Key{Type: "m.room.canonical_alias"})
	if err != nil || e == nil {
		return err
	}
	var c canonicalAlias
	if json.Unmarshal(e.Content(), &c) != nil || (c.Alias != alias && !slices.Contains(c.AltAliases, alias)) {
		return nil
	}
	content := map[string]any{}
	if c.Alias != "" && c.Alias != alias {
		content["alias"] = c.Alias
	}
	if rest := slices.DeleteFunc(c.AltAliases, func(a id.Alias) bool { return a == alias }); len(rest) > 0 {
		content["alt_aliases"] = rest
	}
	d := stateDraft("m.room.canonical_alias", "", object(content))
	d.Room, d.Sender = room, user
	if _, err := s.append(ctx, t, r, d, nil); err != nil && !errors.Is(err, mxerror.Forbidden) {
		return err
	}
	return nil
}

// canonicalAlias is the content of m.room.canonical_alias.
type canonicalAlias struct {
	Alias      id.Alias   `json:"alias"`
	AltAliases []id.Alias `json:"alt_aliases"`
}

// checkCanonical: every alias of m.room.canonical_alias must be well formed, and a new one must lead to the room (client-server API).
func (s *Service) checkCanonical(ctx context.Context, t *tenant.Tenant, d Draft) error {
	var c canonicalAlias
	if json.Unmarshal(d.Content, &c) != nil {
		return mxerror.BadJSON.With("alias is a room alias, alt_aliases a list of them.")
	}
	var old canonicalAlias
	if r, err := s.Lookup(ctx, t.ID, d.Room); err == nil {
		state, err := s.CurrentState(ctx, t.ID, r)
		if err != nil {
			return err
		}
		if e, err := s.StateEvent(ctx, t.ID, state, event.Key{Type: d.Type}); err == nil && e != nil {
			_ = json.Unmarshal(e.Content(), &old)
		}
	}
	all := slices.Clone(c.AltAliases)
	if c.Alias != "" {
		all = append(all, c.Alias)
	}
	for _, a := range all {
		if a == old.Alias || slices.Contains(old.AltAliases, a) {
			continue
		}
		if _, err := id.ParseAlias(string(a)); err != nil {
			return mxerror.InvalidParam.With("%q is not a room alias.", a)
		}
		room, _, err := s.ResolveAlias(ctx, t, a)
		if err != nil || room != d.Room {
			return mxerror.New(400, "M_BAD_ALIAS", "The alias "+string(a)+" does not lead to this room.")
		}
	}
	return nil
}

// SetPublic puts a room into the tenant's public directory or takes it out.
func (s *Service) SetPublic(ctx context.Context, t tenant.ID, roomNID int64, public bool) error {
	query := "DELETE FROM public_room WHERE tenant = $1 AND room = $2"
	if public {
		query = "INSERT INTO public_room (tenant, room) VALUES ($1, $2) ON CONFLICT (tenant, room) DO NOTHING"
	}
	_, err := s.DB.Exec(ctx, query, int64(t), roomNID)
	return err
}

// IsPublic says whether a room is in the tenant's public directory.
func (s *Service) IsPublic(ctx context.Context, t tenant.ID, roomNID int64) (bool, error) {
	var n int64
	err := s.DB.QueryRow(ctx, "SELECT COUNT(*) FROM public_room WHERE tenant = $1 AND room = $2", int64(t), roomNID).Scan(&n)
	return n > 0, err
}

// PublicRooms lists the rooms of the tenant's public directory; a third-party network has one of its own (instance), which all adds.
func (s *Service) PublicRooms(ctx context.Context, t tenant.ID, instance string, all bool) ([]*Room, error) {
	var nids []int64
	if instance == "" {
		rows, err := s.DB.Query(ctx, "SELECT room FROM public_room WHERE tenant = $1 ORDER BY room", int64(t))
		if nids, err = database.All(rows, err, database.Column[int64]); err != nil {
			return nil, err
		}
	}
	if (instance != "" || all) && s.Networks != nil {
		more, err := s.Networks(ctx, t, instance)
		if err != nil {
			return nil, err
		}
		nids = append(nids, more...)
		slices.Sort(nids)
		nids = slices.Compact(nids)
	}
	var out []*Room
	for _, n := range nids {
		r, err := s.ByNID(ctx, t, n)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// knockVersions are the room versions in which one can knock.
func knockVersions() []string {
	var out []string
	for _, name := range roomversion.Supported() {
		if v, ok := roomversion.Get(name); ok && v.Knock {
			out = append(out, name)
		}
	}
	return out
}
