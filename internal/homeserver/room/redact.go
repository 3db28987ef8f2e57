// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"database/sql"
	"errors"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/stream"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/authrule"
	"github.com/konsil-health/konsil/internal/matrix/event"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// redactions adds what an event redacts, or applies the redactions that came before it (room versions 3 and later: a redaction takes effect
// when both events are known and the redactor may).
// An own event cannot have been redacted before it was made; for one that is taken to be unexpected the guard looks.
func (s *Service) redactions(ctx context.Context, t *tenant.Tenant, e *Event, live, unexpected bool, p *stream.Plan) error {
	if e.Type() == "m.room.redaction" && e.Redacts() != "" {
		target, err := id.ParseEvent(string(e.Redacts()))
		if err != nil {
			return nil //nolint:nilerr // nothing has such an id, so nothing is redacted
		}
		p.Rows = append(p.Rows, stream.Statement{SQL: "INSERT INTO redaction (tenant, redacts, event_id) VALUES ($1, $2, $3) ON CONFLICT (tenant, redacts, event_id) DO NOTHING",
			Args: []any{int64(t.ID), string(target), string(e.ID())}})
		if !live {
			return nil
		}
		found, err := s.Events(ctx, t.ID, []id.Event{target})
		if err != nil || found[target] == nil {
			p.Unique = append(p.Unique, "event:"+string(target)) // not in one batch with it, whose guard would not see this redaction
			return err
		}
		return s.applyRedaction(ctx, t, e, found[target], p)
	}
	if unexpected {
		return nil
	}
	by, err := s.redactedBy(ctx, t.ID, e)
	if err != nil || by == nil {
		return err
	}
	redacted, err := e.Redact()
	if err != nil {
		return err
	}
	e.Event, e.RedactedBy = redacted, by.ID()
	return nil
}

// redactedBy finds an accepted redaction of an event that arrives after it.
func (s *Service) redactedBy(ctx context.Context, t tenant.ID, e *Event) (*Event, error) {
	rows, err := s.DB.Query(ctx, "SELECT event_id FROM redaction WHERE tenant = $1 AND redacts = $2", int64(t), string(e.ID()))
	ids, err := database.All(rows, err, database.Column[id.Event])
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	found, err := s.Events(ctx, t, ids)
	if err != nil {
		return nil, err
	}
	for _, r := range found {
		if r.RoomNID != e.RoomNID || r.Rejected || r.SoftFailed || r.Outlier {
			continue
		}
		ok, err := s.mayRedact(ctx, t, r, e)
		if err != nil {
			return nil, err
		}
		if ok {
			return r, nil
		}
	}
	return nil, nil
}

// applyRedaction replaces the target's JSON by its redacted form, if the redactor may redact it.
func (s *Service) applyRedaction(ctx context.Context, t *tenant.Tenant, redaction, target *Event, p *stream.Plan) error {
	if target.RoomNID != redaction.RoomNID || target.RedactedBy != "" {
		return nil
	}
	ok, err := s.mayRedact(ctx, t.ID, redaction, target)
	if err != nil || !ok {
		return err
	}
	redacted, err := target.Redact()
	if err != nil {
		return err
	}
	p.Rows = append(p.Rows,
		stream.Statement{SQL: "UPDATE event SET redacted_by = $3, json = $4 WHERE tenant = $1 AND event = $2",
			Args: []any{int64(t.ID), target.NID, string(redaction.ID()), redacted.JSON()}},
		stream.Statement{SQL: "DELETE FROM event_relation WHERE tenant = $1 AND event = $2", Args: []any{int64(t.ID), target.NID}})
	changed := *target
	changed.Event, changed.RedactedBy = redacted, redaction.ID()
	s.events.Set(eventKey{t.ID, target.ID()}, &changed)
	return nil
}

// mayRedact: the redactor has the level to redact, or the redacted event is of the same server. In room versions 1 and 2 the authorisation
// rules have decided already.
func (s *Service) mayRedact(ctx context.Context, t tenant.ID, redaction, target *Event) (bool, error) {
	if target.Type() == "m.room.create" {
		return false, nil
	}
	if redaction.Version().RedactionRule || redaction.Sender().Server() == target.Sender().Server() {
		return true, nil
	}
	state, err := s.StateBefore(ctx, t, redaction)
	if err != nil {
		return false, err
	}
	levels, err := s.PowerLevels(ctx, t, state)
	if err != nil {
		return false, err
	}
	return levels.User(redaction.Sender()) >= levels.Redact(), nil
}

// PowerLevels reads the levels of a state.
func (s *Service) PowerLevels(ctx context.Context, t tenant.ID, state State) (authrule.PowerLevels, error) {
	found, err := s.pick(ctx, t, state, []event.Key{{Type: "m.room.power_levels"}, {Type: "m.room.create"}})
	if err != nil {
		return authrule.PowerLevels{}, err
	}
	create := found[event.Key{Type: "m.room.create"}]
	if create == nil {
		return authrule.PowerLevels{}, errors.New("the room has no create event")
	}
	var levels *event.Event
	if pl := found[event.Key{Type: "m.room.power_levels"}]; pl != nil {
		levels = pl.Event
	}
	return authrule.ReadPowerLevels(create.Version(), levels, create.Event)
}

// Redaction returns the event that redacted e, for unsigned.redacted_because; nil when e is not redacted.
func (s *Service) Redaction(ctx context.Context, t tenant.ID, e *Event) (*Event, error) {
	if e.RedactedBy == "" {
		return nil, nil
	}
	r, err := s.Event(ctx, t, e.RedactedBy)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return r, err
}
