// SPDX-License-Identifier: Apache-2.0

package appservice

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
	"github.com/konsil-health/konsil/internal/matrix/mxerror"
)

// maxShown bounds the bytes of a service's answer that a failed ping shows.
const maxShown = 4 << 10

type pingReply struct {
	Duration int64 `json:"duration_ms"`
}

// ping calls a service back at its own wish, so that it sees whether address and token are right (application-service API, "Pinging").
func (s *Service) ping(ctx context.Context, r *httpapi.Request) (any, error) {
	svc, err := s.caller(r.Tenant, r.Session.AppService)
	if err != nil {
		return nil, err
	}
	if svc.ID != r.Var("appserviceId") {
		return nil, mxerror.Forbidden.With("The token belongs to another application service.")
	}
	var q struct {
		Transaction *string `json:"transaction_id"`
	}
	if err := r.DecodeOptional(&q); err != nil {
		return nil, err
	}
	if svc.url == nil {
		return nil, mxerror.New(400, "M_URL_NOT_SET", "The registration of the application service has no address.")
	}
	body := []byte("{}")
	if q.Transaction != nil {
		if body, err = json.Marshal(map[string]string{"transaction_id": *q.Transaction}); err != nil {
			return nil, err
		}
	}
	asked, cancel := context.WithTimeout(ctx, s.o.Patience)
	defer cancel()
	start := time.Now()
	status, answer, err := s.call(asked, svc, request{method: http.MethodPost, path: prefix + "/ping", body: body})
	took := time.Since(start)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil && timedOut(err):
		return nil, mxerror.ConnectionTimeout.With("The application service did not answer in time.")
	case err != nil:
		return nil, mxerror.ConnectionFailed.With("The application service could not be reached.")
	case status != http.StatusOK:
		shown := strings.ToValidUTF8(string(bytes.TrimSpace(answer[:min(len(answer), maxShown)])), "\uFFFD")
		return nil, mxerror.New(http.StatusBadGateway, "M_BAD_STATUS", "The ping was answered with status "+strconv.Itoa(status)+".").
			WithExtra("status", status).WithExtra("body", shown)
	}
	return pingReply{took.Milliseconds()}, nil
}
