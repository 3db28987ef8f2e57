// SPDX-License-Identifier: Apache-2.0

package fedlist

import (
	"context"
	"net/http"
	"regexp"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/foundation/limit"
	"github.com/konsil-health/konsil/internal/foundation/tenant"
	"github.com/konsil-health/konsil/internal/matrix/id"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// informationError is the interface's own form of an error.
type informationError struct {
	Code    string `json:"errorCode"`
	Message string `json:"errorMessage"`
}

type informationReply struct {
	Title       string `json:"title"`
	Description string `json:"description"`
	Version     string `json:"version"`
}

func refused(status int, code, message string) *httpapi.Reply {
	return &httpapi.Reply{Status: status, Body: informationError{code, message}}
}

// institutionMark is the form of an insurer's number (IK).
var institutionMark = regexp.MustCompile(`^[0-9]{9}$`)

// InformationRoutes are I_TiMessengerInformation (gematik, TiMessengerInformation.yaml 1.0.0): a client asks which server an insurer has, to make an
// insured person's user id, and whether a server serves insured people. Who asks proves to be a user here by a Matrix OpenID token; prove says so.
func (c *Consumer) InformationRoutes(prove func(ctx context.Context, t *tenant.Tenant, token string) error) []httpapi.Route {
	const base = "/tim-information"
	known := func(handle httpapi.Handler) httpapi.Handler {
		return func(ctx context.Context, r *httpapi.Request) (any, error) {
			err := mxerror.MissingToken
			if token := r.Token(); token != "" {
				if failed := prove(ctx, r.Tenant, token); failed == nil {
					return handle(ctx, r)
				} else if err = mxerror.From(failed); err == nil {
					return nil, failed
				}
			}
			return refused(http.StatusUnauthorized, err.Code, err.Message), nil
		}
	}
	route := func(path string, handle httpapi.Handler) httpapi.Route {
		return httpapi.Route{Method: http.MethodGet, Path: base + path, Access: httpapi.Public, Rate: limit.Public, Handle: handle}
	}
	about := route("/", func(context.Context, *httpapi.Request) (any, error) {
		return informationReply{"Information API des TI-Messengers", "Konsil", "1.0.0"}, nil
	})
	about.Shared = httpapi.ForProvider
	return []httpapi.Route{about, route("/v1/server/findByIk", known(c.findByIK)), route("/v1/server/isInsurance", known(c.isInsurance))}
}

func (c *Consumer) findByIK(_ context.Context, r *httpapi.Request) (any, error) {
	ik := r.Query("ikNumber")
	if !institutionMark.MatchString(ik) {
		return refused(http.StatusBadRequest, "M_INVALID_PARAM", "ikNumber must be nine digits"), nil
	}
	server, ok := c.FindByIK(ik)
	if !ok {
		return refused(http.StatusNotFound, "M_NOT_FOUND", "no insurer of the federation has this number"), nil
	}
	return map[string]id.Server{"serverName": server}, nil
}

// isInsurance answers false for servers that are not on the list, which are no insurer's of this network either.
func (c *Consumer) isInsurance(ctx context.Context, r *httpapi.Request) (any, error) {
	server, err := id.ParseServer(r.Query("serverName"))
	if err != nil {
		return refused(http.StatusBadRequest, "M_INVALID_PARAM", "serverName is no server name"), nil
	}
	d, listed, err := c.Find(ctx, server)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"isInsurance": listed && d.IsInsurance}, nil
}
