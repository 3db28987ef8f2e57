// SPDX-License-Identifier: Apache-2.0

package contact

import (
	"context"
	"errors"
	"net/http"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// bases are where clients in the field look for the interface: the published file's server, the specification of 1.x, and gematik's reference.
var bases = []string{"/tim-contact-mgmt/v1.0.2", "/tim-contact-mgmt/v1.0", "/tim-contact-mgmt"}

// failure is the interface's own form of an error.
type failure struct {
	Code    string `json:"errorCode"`
	Message string `json:"errorMessage"`
}

type about struct {
	Title       string `json:"title"`
	Description string `json:"description"`
	Version     string `json:"version"`
}

type contacts struct {
	Contacts []Contact `json:"contacts"`
}

// handler answers a user about the own list.
type handler func(ctx context.Context, r *httpapi.Request, user id.User) (any, error)

// Routes are I_TiMessengerContactManagement (gematik, TiMessengerContactManagement.yaml 1.0.3). Who asks proves to be a user here by a Matrix OpenID
// token, and says in the header Mxid whose list is meant: the own one.
func (l *Lists) Routes() []httpapi.Route {
	var all []httpapi.Route
	for _, base := range bases {
		add := func(method, path string, handle httpapi.Handler) {
			all = append(all, httpapi.Route{Method: method, Path: base + path, Access: httpapi.Public, Rate: limit.Public, Handle: handle})
		}
		add(http.MethodGet, "/", l.known(l.about))
		add(http.MethodGet, "/contacts", l.known(owned(l.list)))
		add(http.MethodPost, "/contacts", l.known(owned(l.create)))
		add(http.MethodPut, "/contacts", l.known(owned(l.update)))
		add(http.MethodGet, "/contacts/{mxid}", l.known(owned(l.get)))
		add(http.MethodDelete, "/contacts/{mxid}", l.known(owned(l.remove)))
	}
	return all
}

func refused(status int, code, message string) *httpapi.Reply {
	return &httpapi.Reply{Status: status, Body: failure{code, message}}
}

// known finds out who asks, and answers errors in the interface's form.
func (l *Lists) known(handle handler) httpapi.Handler {
	return func(ctx context.Context, r *httpapi.Request) (any, error) {
		token := r.Token()
		if token == "" {
			return refused(http.StatusUnauthorized, mxerror.MissingToken.Code, mxerror.MissingToken.Message), nil
		}
		user, err := l.o.Prove(ctx, r.Tenant, token)
		if err == nil {
			var answer any
			if answer, err = handle(ctx, r, user); err == nil {
				return answer, nil
			}
		}
		switch known := mxerror.From(err); {
		case known != nil:
			return refused(known.Status, known.Code, known.Message), nil
		case errors.Is(err, ErrUnknown):
			return refused(http.StatusNotFound, mxerror.NotFound.Code, err.Error()), nil
		case errors.Is(err, ErrExists):
			return refused(http.StatusConflict, "M_CONFLICT", err.Error()), nil
		case errors.Is(err, ErrInvalid), errors.Is(err, ErrMany):
			return refused(http.StatusBadRequest, mxerror.InvalidParam.Code, err.Error()), nil
		}
		return nil, err
	}
}

// owned holds the header to the token.
func owned(handle handler) handler {
	return func(ctx context.Context, r *httpapi.Request, user id.User) (any, error) {
		switch named := r.HTTP.Header.Get("Mxid"); named {
		case string(user):
			return handle(ctx, r, user)
		case "":
			return nil, mxerror.MissingParam.With("the header Mxid is missing")
		}
		return nil, mxerror.Forbidden.With("the header Mxid names somebody else than the token")
	}
}

func (l *Lists) about(context.Context, *httpapi.Request, id.User) (any, error) {
	return about{"Contact Management des TI-Messengers", "Konsil", "1.0.3"}, nil
}

func (l *Lists) list(ctx context.Context, r *httpapi.Request, user id.User) (any, error) {
	all, err := l.Of(ctx, r.Tenant.ID, user)
	if all == nil {
		all = []Contact{}
	}
	return contacts{all}, err
}

func (l *Lists) create(ctx context.Context, r *httpapi.Request, user id.User) (any, error) {
	var c Contact
	if err := r.Decode(&c); err != nil {
		return nil, err
	}
	return c, l.Create(ctx, r.Tenant.ID, user, c)
}

func (l *Lists) update(ctx context.Context, r *httpapi.Request, user id.User) (any, error) {
	var c Contact
	if err := r.Decode(&c); err != nil {
		return nil, err
	}
	return c, l.Update(ctx, r.Tenant.ID, user, c)
}

func (l *Lists) get(ctx context.Context, r *httpapi.Request, user id.User) (any, error) {
	return l.Get(ctx, r.Tenant.ID, user, id.User(r.Var("mxid")))
}

func (l *Lists) remove(ctx context.Context, r *httpapi.Request, user id.User) (any, error) {
	if err := l.Delete(ctx, r.Tenant.ID, user, id.User(r.Var("mxid"))); err != nil {
		return nil, err
	}
	return &httpapi.Reply{Status: http.StatusNoContent}, nil
}
