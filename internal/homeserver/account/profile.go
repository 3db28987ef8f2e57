// SPDX-License-Identifier: Apache-2.0

package account

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"regexp"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/database"
	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// The fields that rooms' member events repeat.
const (
	fieldDisplayName = "displayname"
	fieldAvatar      = "avatar_url"
	fieldTimeZone    = "m.tz"
)

// Bounds of a profile (client-server API, "Profiles").
const (
	maxProfile     = 64 << 10 // bytes
	maxFieldName   = 255      // bytes
	maxDisplayName = 256      // characters
)

// fieldName is the grammar of custom profile fields (appendices, "Common Namespaced Identifier Grammar").
var fieldName = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$`)

// Profile is what a user tells about themselves.
type Profile struct {
	DisplayName *string
	AvatarURL   *string
	// Fields holds every field as JSON, the two above included.
	Fields map[string]jsontext.Value
}

// Profile returns a local user's profile, or M_NOT_FOUND when there is no such user or the account has been deactivated.
func (s *Service) Profile(ctx context.Context, t tenant.ID, user id.User) (Profile, error) {
	a, err := s.Account(ctx, t, user)
	if err != nil {
		return Profile{}, err
	}
	if a.Deactivated {
		return Profile{}, mxerror.NotFound.With("no such user")
	}
	p := Profile{Fields: map[string]jsontext.Value{}}
	rows, err := s.db.Query(ctx, "SELECT field, value FROM profile WHERE tenant = $1 AND user_id = $2", int64(t), string(user))
	_, err = database.All(rows, err, func(rows *sql.Rows) (struct{}, error) {
		var field, value string
		err := rows.Scan(&field, &value)
		p.Fields[field] = jsontext.Value(value)
		return struct{}{}, err
	})
	if err != nil {
		return Profile{}, err
	}
	p.DisplayName = textField(p.Fields[fieldDisplayName])
	p.AvatarURL = textField(p.Fields[fieldAvatar])
	return p, nil
}

func textField(value jsontext.Value) *string {
	if value.Kind() != '"' {
		return nil
	}
	var text string
	if err := json.Unmarshal(value, &text); err != nil {
		return nil
	}
	return &text
}

// profileOf answers for local users from the database and for others by asking their server; field is empty for the whole.
func (s *Service) profileOf(ctx context.Context, r *httpapi.Request, field string) (map[string]jsontext.Value, error) {
	user, err := id.ParseUser(r.Var("userId"))
	if err != nil {
		return nil, mxerror.InvalidParam.With("userId is not a user id")
	}
	if r.Session != nil {
		share := func(ctx context.Context) (bool, error) { return s.o.SharesRoom(ctx, r.Tenant.ID, r.Session.User, user) }
		if err := s.o.Policy.Profile(ctx, r.Tenant, r.Session.User, user, share); err != nil {
			return nil, err
		}
	}
	if user.Server() != r.Tenant.Name {
		if s.o.RemoteProfile == nil {
			return nil, mxerror.NotFound.With("no such user")
		}
		if err := s.o.Policy.Federate(ctx, r.Tenant, user.Server()); err != nil {
			return nil, err
		}
		return s.o.RemoteProfile(ctx, r.Tenant, user, field)
	}
	p, err := s.Profile(ctx, r.Tenant.ID, user)
	if errors.Is(err, mxerror.NotFound) && s.o.FindUser != nil {
		made, askErr := s.o.FindUser(ctx, r.Tenant, user)
		if askErr != nil {
			return nil, askErr
		}
		if made {
			p, err = s.Profile(ctx, r.Tenant.ID, user)
		}
	}
	return p.Fields, err
}

func (s *Service) getProfile(ctx context.Context, r *httpapi.Request) (any, error) {
	fields, err := s.profileOf(ctx, r, "")
	if fields == nil {
		fields = map[string]jsontext.Value{}
	}
	return fields, err
}

func (s *Service) getProfileField(ctx context.Context, r *httpapi.Request) (any, error) {
	field := r.Var("keyName")
	if err := checkFieldName(field); err != nil {
		return nil, err
	}
	fields, err := s.profileOf(ctx, r, field)
	if err != nil {
		return nil, err
	}
	value, ok := fields[field]
	if !ok {
		return nil, mxerror.NotFound.With("the profile has no such field")
	}
	return map[string]jsontext.Value{field: value}, nil
}

func checkFieldName(field string) error {
	switch {
	case field == fieldDisplayName, field == fieldAvatar, field == fieldTimeZone:
		return nil
	case len(field) > maxFieldName:
		return mxerror.New(400, "M_KEY_TOO_LARGE", "the field's name is longer than 255 bytes")
	case !fieldName.MatchString(field):
		return mxerror.InvalidParam.With("the field's name is not allowed")
	}
	return nil
}

// mayChange says whether the caller may change the profile in the path. Server administrators may not: they use their own tools.
func (s *Service) mayChange(r *httpapi.Request) (id.User, error) {
	user, err := ownUser(r)
	if err != nil {
		return "", err
	}
	return user, checkFieldName(r.Var("keyName"))
}

func (s *Service) putProfileField(ctx context.Context, r *httpapi.Request) (any, error) {
	user, err := s.mayChange(r)
	if err != nil {
		return nil, err
	}
	field := r.Var("keyName")
	var q map[string]jsontext.Value
	if err := r.Decode(&q); err != nil {
		return nil, err
	}
	value, ok := q[field]
	if !ok {
		return nil, mxerror.MissingParam.With("%s is missing", field)
	}
	return nil, s.ChangeProfileField(ctx, r.Tenant, user, field, value)
}

// ChangeProfileField is [Service.SetProfileField] for what a person has typed: it is checked (M_BAD_JSON, M_INVALID_PARAM), and an empty name or avatar
// is removed.
func (s *Service) ChangeProfileField(ctx context.Context, t *tenant.Tenant, user id.User, field string, value jsontext.Value) error {
	text, err := checkField(field, value)
	if err != nil {
		return err
	}
	if (field == fieldDisplayName || field == fieldAvatar) && text == "" {
		return s.removeField(ctx, t, user, field)
	}
	return s.SetProfileField(ctx, t, user, field, value)
}

// checkField checks the fields whose type the specification fixes and returns their text.
func checkField(field string, value jsontext.Value) (string, error) {
	switch field {
	case fieldDisplayName, fieldAvatar, fieldTimeZone:
	default:
		return "", nil
	}
	if value.Kind() == 'n' && field != fieldTimeZone {
		return "", nil // older clients remove a name so
	}
	text := textField(value)
	switch {
	case text == nil:
		return "", mxerror.BadJSON.With("%s must be a string", field)
	case !httpapi.IsText(*text):
		return "", mxerror.InvalidParam.With("%s holds a null character", field)
	case field == fieldDisplayName && len([]rune(*text)) > maxDisplayName:
		return "", mxerror.InvalidParam.With("the display name is longer than %d characters", maxDisplayName)
	case field == fieldAvatar && *text != "" && !strings.HasPrefix(*text, "mxc://"):
		return "", mxerror.InvalidParam.With("the avatar must be an mxc:// address")
	}
	return *text, nil
}

func (s *Service) deleteProfileField(ctx context.Context, r *httpapi.Request) (any, error) {
	user, err := s.mayChange(r)
	if err != nil {
		return nil, err
	}
	return nil, s.removeField(ctx, r.Tenant, user, r.Var("keyName"))
}

// SetProfileField sets one field to a JSON value and carries it into the rooms. M_PROFILE_TOO_LARGE when the whole would exceed 64 KiB.
func (s *Service) SetProfileField(ctx context.Context, t *tenant.Tenant, user id.User, field string, value jsontext.Value) error {
	value = bytes.Clone(value)
	if err := value.Compact(); err != nil {
		return mxerror.BadJSON.With("%s is not JSON", field)
	}
	err := s.db.Write(ctx, func(tx *database.Tx) error {
		if err := upsertField(ctx, tx, t.ID, user, field, value); err != nil {
			return err
		}
		var size int64
		err := tx.QueryRow(ctx, "SELECT SUM(OCTET_LENGTH(field) + OCTET_LENGTH(value) + 4) FROM profile WHERE tenant = $1 AND user_id = $2",
			int64(t.ID), string(user)).Scan(&size)
		if err == nil && size >= maxProfile {
			err = mxerror.New(400, "M_PROFILE_TOO_LARGE", "the profile would exceed 64 KiB")
		}
		return err
	})
	if err != nil {
		return err
	}
	return s.profileChanged(ctx, t, user, field)
}

// setField sets a text inside a transaction that is not the profile's own.
func setField(ctx context.Context, tx *database.Tx, t tenant.ID, user id.User, field, text string) error {
	value, err := json.Marshal(text)
	if err != nil {
		return mxerror.BadJSON.With("%s is not valid text", field)
	}
	return upsertField(ctx, tx, t, user, field, value)
}

func upsertField(ctx context.Context, tx *database.Tx, t tenant.ID, user id.User, field string, value jsontext.Value) error {
	folded := ""
	if field == fieldDisplayName {
		if text := textField(value); text != nil {
			folded = strings.ToLower(*text)
		}
	}
	_, err := tx.Exec(ctx, `INSERT INTO profile (tenant, user_id, field, value, folded) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (tenant, user_id, field) DO UPDATE SET value = excluded.value, folded = excluded.folded`,
		int64(t), string(user), field, string(value), folded)
	return err
}

func (s *Service) removeField(ctx context.Context, t *tenant.Tenant, user id.User, field string) error {
	n, err := s.db.Exec(ctx, "DELETE FROM profile WHERE tenant = $1 AND user_id = $2 AND field = $3", int64(t.ID), string(user), field)
	if err != nil || n == 0 {
		return err
	}
	return s.profileChanged(ctx, t, user, field)
}

func (s *Service) profileChanged(ctx context.Context, t *tenant.Tenant, user id.User, field string) error {
	if s.o.ProfileChanged == nil || field != fieldDisplayName && field != fieldAvatar {
		return nil
	}
	return s.o.ProfileChanged(ctx, t, user)
}

// ownUser checks that the user in the path is the caller.
func ownUser(r *httpapi.Request) (id.User, error) {
	user := id.User(r.Var("userId"))
	if user != r.Session.User {
		return "", mxerror.Forbidden.With("this belongs to somebody else")
	}
	return user, nil
}
