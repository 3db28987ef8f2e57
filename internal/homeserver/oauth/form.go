// SPDX-License-Identifier: Apache-2.0

package oauth

import (
	"mime"
	"net/url"

	"github.com/konsil-health/konsil/internal/foundation/httpapi"
)

// parseForm reads a body of parameters. Each may come once (RFC 6749, section 3.1), and an empty one counts as absent.
func parseForm(r *httpapi.Request) (url.Values, *failure) {
	kind, _, err := mime.ParseMediaType(r.HTTP.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" {
		return nil, fail("invalid_request", "the body must be application/x-www-form-urlencoded")
	}
	form, err := url.ParseQuery(string(r.Body))
	if err != nil {
		return nil, fail("invalid_request", "the body is not well formed")
	}
	return form, once(form)
}

// once refuses parameters that come more than once or are no text.
func once(parameters url.Values) *failure {
	for name, values := range parameters {
		if len(values) > 1 {
			return fail("invalid_request", "the parameter %q comes more than once", name)
		}
		if !httpapi.IsText(name) || !httpapi.IsText(values[0]) {
			return fail("invalid_request", "a parameter is not readable text")
		}
	}
	return nil
}
