// SPDX-License-Identifier: Apache-2.0

package directory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/health/fhir"
	"github.com/konsil-health/konsil/internal/matrix/id"
)

// Organization returns the organisation of a Telematik-ID, active or not; nil where there is none.
func (s *Store) Organization(ctx context.Context, telematikID string) (*fhir.Resource, error) {
	all, err := s.Owned(ctx, telematikID, fhir.Organization)
	if err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	for _, r := range all {
		if r.Identifier(fhir.SystemTelematikID) == telematikID {
			return r, nil
		}
	}
	return nil, nil
}

// Active says whether the organisation of a Telematik-ID is active; the federation list asks it (A_23092).
func (s *Store) Active(ctx context.Context, telematikID string) (bool, error) {
	r, err := s.Organization(ctx, telematikID)
	return r != nil && r.Bool("active", false), err
}

// The parts of the directory in which an address can stand (operation whereIs).
const (
	InOrganizations = "org"
	InPractitioners = "pract"
	InBoth          = "orgPract"
	Nowhere         = "none"
)

// WhereIs says in which part of the directory a Matrix user stands with an active endpoint.
func (s *Store) WhereIs(ctx context.Context, user id.User) (string, error) {
	f, err := s.finder(ctx, fhir.Endpoint, false)
	if err != nil {
		return "", err
	}
	found, err := f.read(ctx, []span{{param: short[fhir.Endpoint] + ":" + mxidParameter, from: []byte(user)}})
	if err != nil {
		return "", err
	}
	endpoints := s.entries.visible(fhir.Endpoint, true, false, found, database.MaxMarks)
	if len(endpoints) == 0 {
		return Nowhere, nil
	}
	args := make([]any, len(endpoints))
	for i, doc := range endpoints {
		args[i] = int64(doc)
	}
	rows, err := s.db.Query(ctx, "SELECT DISTINCT r.type FROM directory_entry x JOIN directory_resource e ON e.nid = x.nid JOIN directory_link f ON f.target = 'Endpoint/' || e.id "+
		"JOIN directory_resource r ON r.nid = f.nid WHERE x.doc IN ("+database.Marks(1, len(args))+")", args...)
	kinds, err := database.All(rows, err, database.Column[string])
	if err != nil {
		return "", fmt.Errorf("directory: %w", err)
	}
	pract, org := slices.Contains(kinds, fhir.PractitionerRole), slices.Contains(kinds, fhir.HealthcareService)
	switch {
	case pract && org:
		return InBoth, nil
	case pract:
		return InPractitioners, nil
	case org:
		return InOrganizations, nil
	}
	return Nowhere, nil
}

// Messenger is a Matrix address as it stands in the directory.
type Messenger struct {
	User id.User
	Name string // what people read
	// Kind is tim, tim-fa (function account) or tim-bot; empty is tim.
	Kind string
	// Hidden keeps it from insured people (hide-versicherte).
	Hidden bool
}

func (m Messenger) endpoint(owner, id string) (*fhir.Resource, error) {
	kind := m.Kind
	if kind == "" {
		kind = "tim"
	}
	extensions := owned(owner)
	if m.Hidden {
		extensions = append(extensions, map[string]any{"url": fhir.ExtensionEndpointVisible, "valueCoding": map[string]any{"system": fhir.SystemEndpointVisibility, "code": "hide-versicherte"}})
	}
	return fhir.New(map[string]any{
		"resourceType": fhir.Endpoint, "id": id, "meta": meta("owner"), "extension": extensions, "status": "active", "name": m.Name, "address": fhir.MatrixURI(string(m.User)),
		"connectionType": map[string]any{"system": fhir.SystemConnectionType, "code": kind}, "payloadType": []any{concept(fhir.SystemPayloadType, Concept{"tim-chat", "TI-Messenger chat"})},
	})
}

// entryOf finds the entry that an owner links endpoints to: a person's role, otherwise an organisation's service.
func (s *Store) entryOf(ctx context.Context, owner string) (*fhir.Resource, error) {
	for _, kind := range []string{fhir.PractitionerRole, fhir.HealthcareService} {
		all, err := s.Owned(ctx, owner, kind)
		if err != nil {
			return nil, fmt.Errorf("directory: %w", err)
		}
		if len(all) > 0 {
			return all[0], nil
		}
	}
	return nil, fhir.Refuse(http.StatusNotFound, fhir.CodeNotFound, "%.128s has no entry in the directory", owner)
}

// SetMessenger makes an owner reachable: an Endpoint with the address, linked to the owner's entry. Doing it twice changes nothing more.
func (s *Store) SetMessenger(ctx context.Context, owner string, m Messenger) error {
	endpoint, err := m.endpoint(owner, resourceID(fhir.Endpoint, owner+"\x00"+string(m.User)))
	if err != nil {
		return err
	}
	return s.insist(func() error {
		entry, err := s.entryOf(ctx, owner)
		if err != nil {
			return err
		}
		entries := []Entry{{Resource: endpoint, Owner: owner, By: owner}}
		linked := entry.References("endpoint")
		if !slices.Contains(linked, endpoint.Reference()) {
			if entry, err = relink(entry, append(linked, endpoint.Reference())); err != nil {
				return err
			}
			entries = append(entries, Entry{Resource: entry, Owner: owner, By: owner})
		}
		return s.Put(ctx, entries...)
	})
}

// insist repeats a change that lost against another one.
func (s *Store) insist(change func() error) error {
	for attempt := 1; ; attempt++ {
		err := change()
		if refused, ok := errors.AsType[*fhir.Error](err); !ok || refused.Status != http.StatusConflict || attempt == 10 {
			return err
		}
	}
}

// RemoveMessenger takes an owner's address out of the directory.
func (s *Store) RemoveMessenger(ctx context.Context, owner string, user id.User) error {
	entry, err := s.entryOf(ctx, owner)
	if err != nil {
		return err
	}
	endpoints, err := s.Owned(ctx, owner, fhir.Endpoint)
	if err != nil {
		return err
	}
	for _, e := range endpoints {
		if got, ok := fhir.MatrixUser(strings.Join(e.Strings("address"), "")); !ok || got != string(user) {
			continue
		}
		if linked := entry.References("endpoint"); slices.Contains(linked, e.Reference()) {
			if entry, err = relink(entry, slices.DeleteFunc(linked, func(ref string) bool { return ref == e.Reference() })); err != nil {
				return err
			}
			if err := s.Put(ctx, Entry{Resource: entry, Owner: owner, By: owner}); err != nil {
				return err
			}
		}
		if err := s.Delete(ctx, e.Reference(), owner); err != nil {
			return err
		}
	}
	return nil
}

// relink replaces the endpoints of an entry.
func relink(entry *fhir.Resource, references []string) (*fhir.Resource, error) {
	if len(references) == 0 {
		return entry.With(map[string]any{"endpoint": nil})
	}
	list := make([]any, len(references))
	for i, ref := range references {
		list[i] = map[string]any{"reference": ref}
	}
	return entry.With(map[string]any{"endpoint": list})
}

// Delete removes a resource. One that others refer to is refused. by is the owner who removes it, empty for the directory itself.
func (s *Store) Delete(ctx context.Context, reference, by string) error {
	return s.db.Write(ctx, func(tx *database.Tx) error {
		w := s.writer(tx)
		sources, err := w.sources(ctx, []string{reference})
		if err != nil {
			return err
		}
		if len(sources) > 0 {
			return fhir.Refuse(http.StatusUnprocessableEntity, fhir.CodeBusinessRule, "%s is still linked by %s", reference, sources[0])
		}
		return w.change(ctx, nil, []removal{{reference, by}})
	})
}

// Size says how many entries there are of people and of organisations.
func (s *Store) Size(ctx context.Context) (people, organisations int, err error) {
	rows, err := s.db.Query(ctx, "SELECT type, count(*) FROM directory_resource WHERE type IN ('PractitionerRole', 'HealthcareService') GROUP BY type")
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var kind string
		var n int
		err := rows.Scan(&kind, &n)
		if kind == fhir.PractitionerRole {
			people = n
		} else {
			organisations = n
		}
		return struct{}{}, err
	})
	return people, organisations, err
}
