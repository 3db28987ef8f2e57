// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"fmt"
	"net/http"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
)

// failure is an error of OAuth 2.0 (RFC 6749, section 5.2): a code of the standard and what it means for whoever wrote the client.
type failure struct {
	Code        string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

func fail(code, format string, args ...any) *failure {
	return &failure{code, fmt.Sprintf(format, args...)}
}

// Error implements error.
func (f *failure) Error() string { return f.Code + ": " + f.Description }

// unstored keeps answers with secrets out of caches (RFC 6749, section 5.1).
var unstored = http.Header{"Cache-Control": {"no-store"}, "Pragma": {"no-cache"}}

// reply answers a client with 400 and the error.
func (f *failure) reply() *httpapi.Reply {
	return &httpapi.Reply{Status: http.StatusBadRequest, Header: unstored, Body: f}
}
