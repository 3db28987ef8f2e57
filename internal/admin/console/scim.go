// SPDX-License-Identifier: Apache-2.0

package console

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// The schemas of SCIM 2.0 (RFC 7643, RFC 7644) that are spoken here: users, found by userName, made, changed, made inactive and ended.
const (
	scimUser  = "urn:ietf:params:scim:schemas:core:2.0:User"
	scimList  = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
	scimPatch = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
	scimError = "urn:ietf:params:scim:api:messages:2.0:Error"
	scimSetup = "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"

	scimPage = 200 // the most that one answer holds
	maxSCIM  = 64 << 10
)

// scimPerson is a user resource.
type scimPerson struct {
	Schemas  []string  `json:"schemas"`
	ID       string    `json:"id,omitempty"`
	UserName string    `json:"userName"`
	Display  string    `json:"displayName,omitempty"`
	Name     *scimName `json:"name,omitempty"`
	Active   *bool     `json:"active,omitempty"`
	Meta     *scimMeta `json:"meta,omitempty"`
}

type scimName struct {
	Formatted string `json:"formatted,omitempty"`
	Given     string `json:"givenName,omitempty"`
	Family    string `json:"familyName,omitempty"`
}

type scimMeta struct {
	Type     string `json:"resourceType"`
	Created  string `json:"created"`
	Location string `json:"location"`
}

// name is what the person is called.
func (p *scimPerson) name() string {
	switch {
	case p.Display != "":
		return p.Display
	case p.Name != nil && p.Name.Formatted != "":
		return p.Name.Formatted
	case p.Name != nil:
		return strings.TrimSpace(p.Name.Given + " " + p.Name.Family)
	}
	return ""
}

// scimRefusal is an error in the form of RFC 7644, section 3.12.
type scimRefusal struct {
	status       int
	kind, detail string
}

func (r *scimRefusal) Error() string { return r.detail }

func refuseSCIM(status int, kind, detail string) error { return &scimRefusal{status, kind, detail} }

var errNoPerson = refuseSCIM(http.StatusNotFound, "", "there is no such user")

// scimRequest is a request of an organisation's user administration.
type scimRequest struct {
	w      http.ResponseWriter
	r      *http.Request
	tenant *tenant.Tenant
	by     id.User // the administrator who gave the credential out
}

func (s *Service) scim(mux *http.ServeMux) {
	for path, handle := range map[string]func(*scimRequest) (int, any, error){
		"GET /Users":                 s.scimSearch,
		"POST /Users":                s.scimCreate,
		"GET /Users/{id}":            s.scimRead,
		"PUT /Users/{id}":            s.scimReplace,
		"PATCH /Users/{id}":          s.scimPatch,
		"DELETE /Users/{id}":         s.scimDelete,
		"GET /ServiceProviderConfig": s.scimConfig,
	} {
		method, rest, _ := strings.Cut(path, " ")
		mux.HandleFunc(method+" "+SCIMPrefix+rest, s.scimAnswer(handle))
	}
}

func (s *Service) scimAnswer(handle func(*scimRequest) (int, any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := &scimRequest{w: w, r: r}
		var err error
		status, body := http.StatusUnauthorized, any(nil)
		if q.tenant, q.by, err = s.scimTenant(r); err == nil {
			status, body, err = handle(q)
		}
		if err != nil {
			refused, ok := errors.AsType[*scimRefusal](err)
			if !ok {
				s.o.Log.Error("scim", "error", err)
				refused = &scimRefusal{http.StatusServiceUnavailable, "", "not available now"}
			}
			status = refused.status
			e := map[string]any{"schemas": []string{scimError}, "status": strconv.Itoa(status), "detail": refused.detail}
			if refused.kind != "" {
				e["scimType"] = refused.kind
			}
			body = e
		}
		w.Header().Set("Content-Type", "application/scim+json")
		w.Header().Set("Cache-Control", "no-store")
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		w.WriteHeader(status)
		if body != nil && status != http.StatusNoContent {
			_ = json.MarshalWrite(w, body, json.Deterministic(true)) // the caller is gone if this fails
		}
	}
}

func (s *Service) scimConfig(*scimRequest) (int, any, error) {
	no := map[string]any{"supported": false}
	return http.StatusOK, map[string]any{"schemas": []string{scimSetup}, "patch": map[string]any{"supported": true}, "bulk": map[string]any{"supported": false, "maxOperations": 0, "maxPayloadSize": 0},
		"filter": map[string]any{"supported": true, "maxResults": scimPage}, "changePassword": no, "sort": no, "etag": no,
		"authenticationSchemes": []any{map[string]any{"type": "oauthbearertoken", "name": "Bearer", "description": "A credential that the organisation's administrator issues in the console"}}}, nil
}

// byUserName is the one filter.
var byUserName = regexp.MustCompile(`(?i)^\s*userName\s+eq\s+("(?:[^"\\]|\\.)*")\s*$`)

func (s *Service) scimSearch(q *scimRequest) (int, any, error) {
	ctx, query := q.r.Context(), q.r.URL.Query()
	list := []*scimPerson{}
	total, start := int64(0), 1
	if filter := query.Get("filter"); filter != "" {
		m := byUserName.FindStringSubmatch(filter)
		var name string
		if m == nil || json.Unmarshal([]byte(m[1]), &name) != nil {
			return 0, nil, refuseSCIM(http.StatusBadRequest, "invalidFilter", "the filter is userName eq \"…\"")
		}
		a, err := s.o.Accounts.ByLogin(ctx, q.tenant, name)
		if err == nil && !a.Deactivated && strings.EqualFold(a.LoginName, name) {
			p, err := s.scimPerson(ctx, q.tenant, a)
			if err != nil {
				return 0, nil, err
			}
			list, total = append(list, p), 1
		} else if err != nil && !errors.Is(err, mxerror.NotFound) {
			return 0, nil, err
		}
	} else {
		var err error
		if start, err = strconv.Atoi(query.Get("startIndex")); err != nil || start < 1 {
			start = 1
		}
		count, err := strconv.Atoi(query.Get("count"))
		if err != nil || count > scimPage {
			count = scimPage
		}
		if count > 0 {
			found, all, err := s.o.Accounts.Search(ctx, q.tenant.ID, account.Search{Locked: true, From: start - 1, Limit: count})
			if err != nil {
				return 0, nil, err
			}
			total = all
			for i := range found {
				list = append(list, s.scimOf(&found[i].Account, found[i].DisplayName))
			}
		}
	}
	return http.StatusOK, map[string]any{"schemas": []string{scimList}, "totalResults": total, "startIndex": start, "itemsPerPage": len(list), "Resources": list}, nil
}

func (s *Service) scimOf(a *account.Account, name string) *scimPerson {
	active := !a.Locked
	return &scimPerson{Schemas: []string{scimUser}, ID: string(a.User), UserName: a.LoginName, Display: name, Active: &active,
		Meta: &scimMeta{"User", time.UnixMilli(a.Created).UTC().Format(time.RFC3339), s.o.URL + SCIMPrefix + "/Users/" + url.PathEscape(string(a.User))}}
}

func (s *Service) scimPerson(ctx context.Context, t *tenant.Tenant, a *account.Account) (*scimPerson, error) {
	p, err := s.o.Accounts.Profile(ctx, t.ID, a.User)
	name := ""
	if p.DisplayName != nil {
		name = *p.DisplayName
	}
	return s.scimOf(a, name), err
}

// known finds whom a path is about.
func (s *Service) known(q *scimRequest) (*account.Account, error) {
	a, err := s.o.Accounts.Account(q.r.Context(), q.tenant.ID, id.User(q.r.PathValue("id")))
	if errors.Is(err, mxerror.NotFound) || err == nil && a.Deactivated {
		return nil, errNoPerson
	}
	return a, err
}

func (s *Service) scimRead(q *scimRequest) (int, any, error) {
	a, err := s.known(q)
	if err != nil {
		return 0, nil, err
	}
	p, err := s.scimPerson(q.r.Context(), q.tenant, a)
	return http.StatusOK, p, err
}

func (q *scimRequest) decode(into any) error {
	if err := json.UnmarshalRead(http.MaxBytesReader(q.w, q.r.Body, maxSCIM), into); err != nil {
		return refuseSCIM(http.StatusBadRequest, "invalidSyntax", "the body cannot be read")
	}
	return nil
}

func (s *Service) scimCreate(q *scimRequest) (int, any, error) {
	var p scimPerson
	if err := q.decode(&p); err != nil {
		return 0, nil, err
	}
	login := strings.ToLower(p.UserName)
	if checkPerson(login, p.name()) != "" {
		return 0, nil, refuseSCIM(http.StatusBadRequest, "invalidValue", "userName has a-z, 0-9 and ._-, and displayName or name is needed")
	}
	ctx := q.r.Context()
	user, err := s.o.Accounts.Create(ctx, q.tenant, account.NewUser{LoginName: login, DisplayName: p.name()})
	if errors.Is(err, mxerror.UserInUse) {
		return 0, nil, refuseSCIM(http.StatusConflict, "uniqueness", "the userName is taken")
	}
	if err != nil {
		return 0, nil, err
	}
	if p.Active != nil && !*p.Active {
		if err := s.o.Accounts.SetLocked(ctx, q.tenant.ID, user, true); err != nil {
			return 0, nil, err
		}
	}
	if err := s.note(ctx, q.tenant.ID, q.by, "scim_added", string(user), login); err != nil {
		return 0, nil, err
	}
	a, err := s.o.Accounts.Account(ctx, q.tenant.ID, user)
	if err != nil {
		return 0, nil, err
	}
	made := s.scimOf(a, p.name())
	q.w.Header().Set("Location", made.Meta.Location)
	return http.StatusCreated, made, nil
}

// scimReplace takes displayName and active; userName is for ever.
func (s *Service) scimReplace(q *scimRequest) (int, any, error) {
	a, err := s.known(q)
	if err != nil {
		return 0, nil, err
	}
	var p scimPerson
	if err := q.decode(&p); err != nil {
		return 0, nil, err
	}
	if !strings.EqualFold(p.UserName, a.LoginName) {
		return 0, nil, refuseSCIM(http.StatusBadRequest, "mutability", "userName does not change")
	}
	active := p.Active == nil || *p.Active
	if err := s.scimChange(q, a, p.name(), &active); err != nil {
		return 0, nil, err
	}
	return s.scimRead(q)
}

// patchRequest is the body of PATCH (RFC 7644, section 3.5.2).
type patchRequest struct {
	Schemas    []string `json:"schemas"`
	Operations []struct {
		Op    string         `json:"op"`
		Path  string         `json:"path"`
		Value jsontext.Value `json:"value"`
	} `json:"Operations"`
}

// scimPatch changes active and displayName. Some user administrations send booleans as text, and values without a path.
func (s *Service) scimPatch(q *scimRequest) (int, any, error) {
	a, err := s.known(q)
	if err != nil {
		return 0, nil, err
	}
	var p patchRequest
	if err := q.decode(&p); err != nil {
		return 0, nil, err
	}
	name, active := "", (*bool)(nil)
	for _, op := range p.Operations {
		if !strings.EqualFold(op.Op, "replace") && !strings.EqualFold(op.Op, "add") {
			return 0, nil, refuseSCIM(http.StatusBadRequest, "mutability", "only add and replace")
		}
		values := map[string]jsontext.Value{op.Path: op.Value}
		if op.Path == "" {
			values = nil
			if err := json.Unmarshal(op.Value, &values); err != nil {
				return 0, nil, refuseSCIM(http.StatusBadRequest, "invalidValue", "without a path the value is an object")
			}
		}
		for path, value := range values {
			switch strings.ToLower(path) {
			case "active":
				b, err := strconv.ParseBool(strings.ToLower(strings.Trim(string(value), `" `)))
				if err != nil {
					return 0, nil, refuseSCIM(http.StatusBadRequest, "invalidValue", "active is true or false")
				}
				active = &b
			case "displayname":
				if json.Unmarshal(value, &name) != nil || checkPerson("x", name) != "" {
					return 0, nil, refuseSCIM(http.StatusBadRequest, "invalidValue", "displayName is a text")
				}
			default:
				return 0, nil, refuseSCIM(http.StatusBadRequest, "invalidPath", "only active and displayName")
			}
		}
	}
	if err := s.scimChange(q, a, name, active); err != nil {
		return 0, nil, err
	}
	return s.scimRead(q)
}

// scimChange gives somebody a name, or makes them active or not: who is inactive is signed out everywhere.
func (s *Service) scimChange(q *scimRequest, a *account.Account, name string, active *bool) error {
	ctx, t := q.r.Context(), q.tenant
	if name != "" {
		value, err := json.Marshal(name)
		if err != nil {
			return err
		}
		if err := s.o.Accounts.SetProfileField(ctx, t, a.User, "displayname", value); err != nil {
			return err
		}
	}
	if active == nil || *active != a.Locked {
		return nil
	}
	if err := s.o.Accounts.SetLocked(ctx, t.ID, a.User, !*active); err != nil {
		return err
	}
	action := "scim_activated"
	if !*active {
		action = "scim_deactivated"
		devices, err := s.o.Accounts.Devices(ctx, t.ID, a.User)
		if err != nil {
			return err
		}
		all := make([]id.Device, len(devices))
		for i, d := range devices {
			all[i] = d.ID
		}
		if err := errors.Join(s.o.Accounts.RemoveDevices(ctx, t, a.User, all), s.endSessions(ctx, t.ID, a.User)); err != nil {
			return err
		}
	}
	return s.note(ctx, t.ID, q.by, action, string(a.User), a.LoginName)
}

// scimDelete ends an account: it goes off the directory too. Administrators are left to the console.
func (s *Service) scimDelete(q *scimRequest) (int, any, error) {
	a, err := s.known(q)
	if err != nil {
		return 0, nil, err
	}
	if a.Admin {
		return 0, nil, refuseSCIM(http.StatusForbidden, "", "an administrator is ended in the console")
	}
	if err := s.end(q.r.Context(), q.tenant, a.User); err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, s.note(q.r.Context(), q.tenant.ID, q.by, "scim_removed", string(a.User), a.LoginName)
}
