// SPDX-License-Identifier: Apache-2.0

package console

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/homeserver/account"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
	"github.com/konsil-health/konsil/internal/telematik/registration"
)

// owner speaks with the directory for an organisation (I_requestToken, AF_10059); nil where there is no directory.
func (s *Service) owner(ctx context.Context, t *tenant.Tenant) (*registration.Owner, error) {
	if s.o.Directory == "" || t.TelematikID == "" {
		return nil, nil
	}
	profession, err := s.o.Registration.Profession(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	vouched, err := s.o.Registration.OwnerToken(t, profession, s.o.Directory)
	if err != nil {
		return nil, err
	}
	return &registration.Owner{Directory: s.o.Directory, Vouched: vouched, Client: s.o.HTTP}, nil
}

type directoryData struct {
	Services  []registration.DirectoryService
	Addresses []registration.Address
	People    []account.Found
	Names     map[string]string // of the services by their id
}

// kinds are those of addresses that institutions enter.
var kinds = []string{"tim", "tim-fa", "tim-bot"}

func (s *Service) showDirectory(v *view) error {
	ctx, t := v.r.Context(), v.session.tenant
	owner, err := s.owner(ctx, t)
	if err != nil {
		return err
	}
	d := directoryData{Names: map[string]string{}}
	if owner != nil {
		if d.Services, err = owner.Services(ctx); err == nil {
			d.Addresses, err = owner.Addresses(ctx)
		}
		if errors.Is(err, registration.ErrDirectory) {
			s.o.Log.Warn("console: directory", "error", err)
			v.again(http.StatusServiceUnavailable, "directory_away")
		} else if err != nil {
			return err
		}
	}
	for _, x := range d.Services {
		d.Names[x.ID] = x.Name
	}
	if d.People, _, err = s.o.Accounts.Search(ctx, t.ID, account.Search{Order: "displayname", Limit: maxPeople}); err != nil {
		return err
	}
	return v.show("directory", v.session.cookie, d)
}

// doDirectory adds or removes an address of the institution (AF_10438).
func (s *Service) doDirectory(v *view) error {
	ctx, t := v.r.Context(), v.session.tenant
	owner, err := s.owner(ctx, t)
	if err != nil {
		return err
	}
	if owner == nil {
		return errStale
	}
	user, name, kind := v.form("user"), v.form("name"), v.form("kind")
	switch v.form("do") {
	case "enter":
		if _, err := v.person(user); errors.Is(err, mxerror.NotFound) || err == nil && (name == "" || len(name) > 200 || !slices.Contains(kinds, kind)) {
			v.again(http.StatusBadRequest, "bad_name")
			return s.showDirectory(v)
		} else if err != nil {
			return err
		}
		err = owner.Enter(ctx, registration.Address{User: id.User(user), Name: name, Kind: kind, Service: v.form("service")})
	case "remove":
		_, err = owner.Remove(ctx, id.User(user))
	default:
		return errStale
	}
	if errors.Is(err, registration.ErrDirectory) {
		s.o.Log.Warn("console: directory", "error", err)
		v.again(http.StatusBadGateway, "directory_refuses")
		return s.showDirectory(v)
	}
	if err != nil {
		return err
	}
	if err := v.noted("directory_"+v.form("do"), user, name); err != nil {
		return err
	}
	return v.redirect(Prefix + "/directory")
}
